#!/usr/bin/env python3
"""Writes train.jsonl, random one-digit additions; pairs.jsonl, such questions with a right answer and a wrong one; labels.jsonl, with one of them and a
label; answers.jsonl, with the right one. The same seed gives the same files."""
import json
import os
import random

FOLDER = os.path.dirname(os.path.abspath(__file__))

rng = random.Random(1)
with open(os.path.join(FOLDER, "train.jsonl"), "w") as f:
    for _ in range(1000):
        a, b = rng.randint(0, 9), rng.randint(0, 9)
        f.write(json.dumps({"question": f"What is {a}+{b}? Answer with just the number.", "answer": str(a + b)}) + "\n")

rng = random.Random(2)
message = lambda role, text: [{"role": role, "content": text}]
with open(os.path.join(FOLDER, "pairs.jsonl"), "w") as f:
    for _ in range(384):
        a, b = rng.randint(0, 9), rng.randint(0, 9)
        wrong = rng.choice([n for n in range(19) if n != a + b])
        f.write(json.dumps({"prompt": message("user", f"What is {a}+{b}? Answer with just the number."),
                            "chosen": message("assistant", str(a + b)), "rejected": message("assistant", str(wrong))}) + "\n")

rng = random.Random(3)
with open(os.path.join(FOLDER, "labels.jsonl"), "w") as labels, open(os.path.join(FOLDER, "answers.jsonl"), "w") as answers:
    for _ in range(384):
        a, b = rng.randint(0, 9), rng.randint(0, 9)
        right = rng.random() < 0.5
        answer = a + b if right else rng.choice([n for n in range(19) if n != a + b])
        prompt = message("user", f"What is {a}+{b}? Answer with just the number.")
        labels.write(json.dumps({"prompt": prompt, "completion": message("assistant", str(answer)), "label": right}) + "\n")
        answers.write(json.dumps({"prompt": prompt, "completion": message("assistant", str(a + b))}) + "\n")
