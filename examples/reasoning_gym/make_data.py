#!/usr/bin/env python3
"""Writes train.jsonl and test.jsonl: questions of reasoning-gym's basic_arithmetic after one that is answered, and what the environment makes the same task of again."""
import json
import os

import reasoning_gym

TASK = "basic_arithmetic"
SHAPE = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1, "operators": ["+"], "allow_parentheses": False, "allow_negation": False}


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    for name, size, seed in (("train", 400, 1), ("test", 64, 2)):
        config = {"size": size, "seed": seed, **SHAPE}
        data = reasoning_gym.create_dataset(TASK, **config)
        with open(os.path.join(here, name + ".jsonl"), "w", encoding="utf-8") as f:
            shown = [{"role": "user", "content": data[0]["question"]}, {"role": "assistant", "content": data[0]["answer"]}]
            for i, entry in enumerate(data):
                f.write(json.dumps({"messages": shown + [{"role": "user", "content": entry["question"]}], "task": TASK, "config": config, "index": i}) + "\n")


if __name__ == "__main__":
    main()
