#!/usr/bin/env python3
"""Writes train.jsonl and test.jsonl: products of two-digit numbers, after one exchange that shows the calculator."""
import json
import os
import random

SHOWN = [{"role": "system", "content": "You have a calculator. Write <calc>12*3</calc> and its result follows."},
         {"role": "user", "content": "What is 15 * 32?"},
         {"role": "assistant", "content": "<calc>15*32</calc> 480\nThe answer is 480."}]


def main():
    rng, here = random.Random(1), os.path.dirname(os.path.abspath(__file__))
    for name, rows in (("train", 400), ("test", 64)):
        with open(os.path.join(here, name + ".jsonl"), "w", encoding="utf-8") as f:
            for _ in range(rows):
                a, b = rng.randrange(11, 100), rng.randrange(11, 100)
                f.write(json.dumps({"messages": SHOWN + [{"role": "user", "content": f"What is {a} * {b}?"}], "answer": str(a * b)}) + "\n")


if __name__ == "__main__":
    main()
