#!/usr/bin/env python3
"""`grpo_train --plan` against the peak resident set of the run it describes: within 10 %. Standard library only.

    scripts/get_model.sh
    python3 tests/conformance/plan.py --tandem build/cpu-release/tandem --grpo-train build/cpu-release/grpo_train [--steps 2]

The peak is the kernel's (ru_maxrss of the child, as /usr/bin/time -v prints it), and the last metrics.jsonl line has to say the same.
"""
import json
import os
import re
import subprocess
import sys

from harness import ROOT, Report, arguments, expect, metrics_of, run_ok, scratch, write_jsonl

MODEL = os.path.join(ROOT, "models", "SmolLM2-135M-Instruct.Q4_1.gguf")
CASES = {  # name: recipe, overrides
    "addition": ("configs/smollm2_addition.yaml", []),
    "addition bf16": ("configs/smollm2_addition.yaml", ["model.weights=bf16"]),
    "addition, 4 prompts": ("configs/smollm2_addition.yaml", ["rollout.prompts_per_step=4", "train.micro_tokens=512"]),
    "judged": ("configs/smollm2_judge.yaml", []),
    "gsm8k": ("configs/smollm2_gsm8k.yaml", []),
    "gsm8k bf16": ("configs/smollm2_gsm8k.yaml", ["model.weights=bf16"]),
    "ppo": ("configs/smollm2_addition.yaml", ["train.algorithm=ppo"]),
    "sft": ("configs/smollm2_addition.yaml", ["train.algorithm=sft", "train.batch_size=16", "rollout.max_new_tokens=192"]),
}


def rss_of(argv):
    """Exit code, messages and peak resident bytes of one child."""
    p = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    err = p.stderr.read().decode("utf-8", "replace")
    _, status, usage = os.wait4(p.pid, 0)
    p.returncode = os.waitstatus_to_exitcode(status)
    return p.returncode, err, usage.ru_maxrss * 1024


def plan_holds(args, recipe, overrides):
    with scratch() as tmp:
        run = os.path.join(tmp, "run")
        if "train.algorithm=sft" in overrides:
            rows = [json.loads(line) for line in open(os.path.join(ROOT, "examples", "gsm8k", "train.jsonl"), encoding="utf-8")]
            write_jsonl(os.path.join(tmp, "sft.jsonl"), [{"prompt": r["question"], "completion": " " + r["answer"]} for r in rows[:256]])
            overrides = overrides + [f"data.train={tmp}/sft.jsonl"]
        argv = [args.grpo_train, recipe, f"output={run}", f"train.steps={args.steps}"] + overrides
        planned = re.search(r"predicted peak .*\((\d+) bytes\)", run_ok(argv + ["--plan"], cwd=ROOT).out)
        expect(planned, "--plan prints no predicted peak")
        code, err, peak = rss_of(argv + ["--quiet"])
        expect(code == 0, f"exit {code}: {err.strip()[-300:]}")
        predicted, said = int(planned[1]), metrics_of(run)[-1]["memory_peak_bytes"]
        off = predicted / peak - 1
        note = f"predicted {predicted / 2**20:.1f} MiB, measured {peak / 2**20:.1f} MiB: {off:+.1%}"
        expect(abs(off) <= 0.10, note)
        expect(abs(said / peak - 1) <= 0.02, f"metrics.jsonl says {said / 2**20:.1f} MiB; {note}")
        return note


def main():
    args = arguments(__doc__, steps=2)
    if not os.path.exists(MODEL):
        print("skipped: the model is not there, run scripts/get_model.sh")
        sys.exit(77)
    os.chdir(ROOT)  # recipes name data and model from the root
    report = Report()
    for name, (recipe, overrides) in CASES.items():
        if args.only in name:
            report.run(name, plan_holds, args, recipe, overrides)
    report.end()


if __name__ == "__main__":
    main()
