#!/usr/bin/env python3
"""Supervised loss in BF16 and in FP8 beside each other: the same data, order and adapter, only model.weights differs.

    python3 tests/bench/fp8_curves.py --grpo-train build/cpu-release/grpo_train --model models/SmolLM2-135M-Instruct.Q4_1.gguf

Prints a row for each window of steps (20): the mean loss of BF16, and of each scheme its mean and its ratio to BF16's; then the largest deviation of a
ratio from 1. With --limit R it exits with 1 if a ratio is further from 1. Rows of --data are questions and answers (GSM8K). Standard library only.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

SCHEMES = {"bf16": {"weights": "bf16"}, "fp8_channel": {"weights": "fp8_channel"}, "fp8_block": {"weights": "fp8_block"}, "fp8_tensor": {"weights": "fp8_tensor"}}


def rows_for_sft(source, target, count):
    with open(source, encoding="utf-8") as f, open(target, "w", encoding="utf-8") as out:
        for i, line in enumerate(f):
            if i == count:
                return
            row = json.loads(line)
            out.write(json.dumps({"messages": [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}]}) + "\n")


def losses(args, scheme, tmp):
    run = os.path.join(tmp, scheme)
    sections = {"model": {"path": os.path.abspath(args.model), **SCHEMES[scheme]}, "adapter": {"rank": 16, "alpha": 32},
                "data": {"train": os.path.join(tmp, "rows.jsonl"), "max_prompt_tokens": args.tokens // 2}, "rollout": {"max_new_tokens": args.tokens // 2},
                "train": {"algorithm": "sft", "steps": args.steps, "batch_size": args.batch, "lr": args.lr}, "checkpoint": {"every": 0},
                "log": {"tensorboard": False, "report": False, "rollouts": 0}, "output": run, "threads": args.threads, "device": args.device, "seed": 1}
    recipe = run + ".yaml"
    with open(recipe, "w", encoding="utf-8") as f:
        f.writelines(f"{k}: {json.dumps(v)}\n" for k, v in sections.items())
    subprocess.run([args.grpo_train, recipe, "--quiet"], check=True)
    with open(os.path.join(run, "metrics.jsonl"), encoding="utf-8") as f:
        return [json.loads(line)["loss"] for line in f]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grpo-train", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", default="examples/gsm8k/train.jsonl")
    parser.add_argument("--schemes", default="fp8_channel,fp8_block")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--window", type=int, default=20)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=512, help="of an example, at most")
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--limit", type=float, help="largest deviation of a window's ratio from 1")
    args = parser.parse_args()
    schemes = ["bf16"] + args.schemes.split(",")
    with tempfile.TemporaryDirectory() as tmp:
        rows_for_sft(args.data, os.path.join(tmp, "rows.jsonl"), args.steps * args.batch)
        curves = {s: losses(args, s, tmp) for s in schemes}
    print("steps      " + "  ".join(f"{s:>20}" for s in schemes))
    worst = 0.0
    for first in range(0, args.steps, args.window):
        last = min(first + args.window, args.steps)
        mean = {s: sum(curves[s][first:last]) / (last - first) for s in schemes}
        ratio = {s: mean[s] / mean["bf16"] for s in schemes}
        worst = max([worst] + [abs(r - 1) for r in ratio.values()])
        print(f"{first + 1:4}-{last:<5} {mean['bf16']:>20.5f}  " + "  ".join(f"{mean[s]:>11.5f} {ratio[s]:>8.5f}" for s in schemes[1:]), flush=True)
    print(f"largest deviation of a ratio from 1: {worst:.4f}")
    return 1 if args.limit is not None and worst > args.limit else 0


if __name__ == "__main__":
    sys.exit(main())
