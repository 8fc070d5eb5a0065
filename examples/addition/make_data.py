#!/usr/bin/env python3
"""Writes train.jsonl: random one-digit additions. The same seed gives the same file."""
import json
import os
import random

rng = random.Random(1)
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "train.jsonl"), "w") as f:
    for _ in range(1000):
        a, b = rng.randint(0, 9), rng.randint(0, 9)
        f.write(json.dumps({"question": f"What is {a}+{b}? Answer with just the number.", "answer": str(a + b)}) + "\n")
