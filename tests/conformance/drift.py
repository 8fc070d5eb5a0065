#!/usr/bin/env python3
"""`grpo_train` at `lr: 0` for 200 steps of generating and training: nothing may move.

The adapter's bytes after each 50 steps are those after the first, and those of the adapter it started from. The sampler and the trainer give the same
log-probabilities in `numerics: exact`, so the mismatch is 0 at every step; in `fast` it is bounded, and does not grow: a run in which it does derails
though nothing is learned (open-instruct#1473).
"""
import os

from harness import MODELS, Report, adapter_section, arguments, expect, mean, metrics_of, read_safetensors, run_ok, scratch, values, write_jsonl, write_recipe

MODEL = os.path.join(MODELS, "qwen3")
STEPS = 200
# Of a log-probability of this random model, at most and in the mean, where the bits depend on the batch: by the rounding of 8-bit activations.
BOUND, MEAN = 1.0, 0.1


def recipe(tmp, run, more):
    data = os.path.join(tmp, "train.jsonl")
    write_jsonl(data, [{"q": f"What is {i}+{i + 1}?", "answer": str(2 * i + 1)} for i in range(16)])
    return {"model": {"path": MODEL, **more["model"]}, "adapter": adapter_section(MODEL), "data": {"train": data, "prompt": "{q}", "max_prompt_tokens": 48},
            "rollout": {"prompts_per_step": 2, "generations": 2, "max_new_tokens": 6}, "reward": [{"type": "regex", "pattern": "[a-m]"}],
            "train": {"steps": STEPS, "lr": 0.0, "weight_decay": 0.1, **more.get("train", {})}, "numerics": more["numerics"], "checkpoint": {"every": 50, "keep": 0},
            "log": {"rollouts": 0, "tensorboard": False, "report": False}, "output": run, "threads": 1, "seed": 3}


def still(args, tmp, name, bound, more):
    run = os.path.join(tmp, "run-" + name)
    run_ok([args.grpo_train, write_recipe(os.path.join(tmp, name + ".yaml"), recipe(tmp, run, more)), "--quiet"], timeout=600)
    files = []
    for step in range(50, STEPS + 1, 50):
        with open(os.path.join(run, "checkpoints", f"step-{step:06d}", "adapter", "adapter_model.safetensors"), "rb") as f:
            files.append(f.read())
    expect(len(set(files)) == 1, "the adapter's bytes moved at lr 0")
    before = read_safetensors(os.path.join(MODEL, "adapter", "adapter_model.safetensors"))
    after = read_safetensors(os.path.join(run, "checkpoints", f"step-{STEPS:06d}", "adapter", "adapter_model.safetensors"))
    expect(all(values(after[k]) == values(v) for k, v in before.items()), "the adapter is not the one it started from")
    rows = metrics_of(run)
    expect(len(rows) == STEPS and any(r["grad_norm"] > 0.0 for r in rows), "nothing was learned from: no gradient in any step")
    worst = max(r["mismatch_max"] for r in rows)
    expect(worst <= bound and mean([r["mismatch_mean"] for r in rows]) <= MEAN, f"mismatch {worst}, at most {bound}")
    first, last = mean([r["mismatch_mean"] for r in rows[:50]]), mean([r["mismatch_mean"] for r in rows[-50:]])
    expect(last <= 1.5 * first + 1e-6, f"mismatch grew from {first} in the first 50 steps to {last} in the last")
    if bound == 0.0:
        expect(all(r["importance_mean"] == 1.0 == r["importance_min"] == r["importance_max"] for r in rows), "weights of a correction that has nothing to correct")
        gone = ("rollout_rs_masked_fraction", "rollout_rs_seq_masked_fraction", "rollout_is_veto_fraction", "off_policy", "mismatch_kl", "mismatch_k3_kl")
        expect(all(r.get(key, 0.0) == 0.0 for r in rows for key in gone), "something was rejected where nothing differs")
    return f"mismatch at most {worst:.3g}, mean {first:.3g} then {last:.3g}"


CASES = {
    "exact": (0.0, dict(model={"weights": "fp8_channel"}, numerics="exact")),
    "exact_epochs": (0.0, dict(model={"weights": "fp8_block"}, numerics="exact", train={"minibatches": 2, "epochs_per_rollout": 2, "micro_tokens": 64})),
    "exact_rejects": (0.0, dict(model={"weights": "fp8_channel"}, numerics="exact", train={"off_policy_threshold": 1e-9, "importance": {
        "reject": ["seq_max_k3", "token_k1"], "reject_threshold": ["1e-9", "1"], "veto": 0.999, "batch_normalize": True}})),
    "fast": (BOUND, dict(model={"weights": "fp8_channel"}, numerics="fast")),
    "fast_batch_dependent": (BOUND, dict(model={"weights": "fp8_tensor"}, numerics="fast")),
}


def main():
    args = arguments(__doc__)
    report = Report()
    with scratch() as tmp:
        for name, (bound, more) in CASES.items():
            if args.only in name:
                report.run(name, still, args, tmp, name, bound, more)
    report.end()


if __name__ == "__main__":
    main()
