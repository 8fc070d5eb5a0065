#!/usr/bin/env python3
"""Writes train.jsonl and test.jsonl: questions of reasoning-gym's chain_sum, and what the environment makes the same task of again."""
import json
import os

import reasoning_gym

SHAPE = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2}


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    for name, size, seed in (("train", 400, 1), ("test", 64, 2)):
        config = {"size": size, "seed": seed, **SHAPE}
        data = reasoning_gym.create_dataset("chain_sum", **config)
        with open(os.path.join(here, name + ".jsonl"), "w", encoding="utf-8") as f:
            for i, entry in enumerate(data):
                f.write(json.dumps({"question": entry["question"], "task": "chain_sum", "config": config, "index": i}) + "\n")


if __name__ == "__main__":
    main()
