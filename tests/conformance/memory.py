#!/usr/bin/env python3
"""Runs with random weights, and what the recipes configs/qwen3_*_memory.yaml promise. Standard library only.

    python3 tests/conformance/memory.py --tandem build/cpu-release/tandem --grpo-train build/cpu-release/grpo_train [--recipes qwen3_8b]

With --recipes also runs those recipes whose name contains the word ("qwen3" for all; a device is needed): the peak that the driver counts has to
be within 3 % of `--plan`, and within the limit; and one of them in 60 % of the memory it likes, for the same samples.
"""
import glob
import json
import os
import re
import shutil

from harness import MODELS, ROOT, Report, arguments, expect, metrics_of, read_json, read_jsonl, run_ok, scratch, start, without_timing, write_recipe

LIMITS = {"qwen3_1p7b": 3.5, "qwen3_8b": 12, "qwen3_14b": 20, "qwen3_32b": 48, "qwen3_30b_a3b": 40}  # GiB
NEW_TOKENS = 24


def tiny(tmp, vocab=304, layers=2):
    """A folder with config and tokenizer alone; the tokenizer has 304 ids."""
    model = os.path.join(tmp, "model")
    os.mkdir(model)
    config = read_json(os.path.join(MODELS, "qwen3", "config.json"))
    config.update(vocab_size=vocab, num_hidden_layers=layers, layer_types=["full_attention"] * layers)
    with open(os.path.join(model, "config.json"), "w", encoding="utf-8") as f:
        json.dump(config, f)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(os.path.join(MODELS, "qwen3", name), model)
    return model


def recipe(tmp, folder, **sections):
    return write_recipe(os.path.join(tmp, "r.yaml"), {
        "model": {"path": folder, "random_weights": True}, "data": {"train": os.path.join(ROOT, "examples/addition/train.jsonl"), "prompt": "{question}"},
        "rollout": {"prompts_per_step": 2, "generations": 3, "max_new_tokens": NEW_TOKENS, "ignore_eos": True}, "reward": [{"type": "regex", "pattern": "[a-m]"}],
        "train": {"steps": 2, "lr": 1e-3}, "log": {"rollouts": 1, "tensorboard": False, "report": False}, "device": "cpu", **sections})


def a_folder_without_weights_runs(args, scheme):
    with scratch() as tmp:
        path = recipe(tmp, tiny(tmp, 5000))
        runs = [os.path.join(tmp, name) for name in ("a", "b")]
        for run, threads in zip(runs, (1, 2)):
            run_ok([args.grpo_train, path, f"output={run}", f"model.weights={scheme}", f"threads={threads}", "--quiet"], env={"OMP_NUM_THREADS": str(threads)})
        first, second = (without_timing(metrics_of(run)) for run in runs)
        expect(first == second, "two runs differ")
        expect(all(m["entropy"] > 1 and m["completion_tokens_mean"] == NEW_TOKENS for m in first), f"not whole completions: {first}")
        rows = [row for name in glob.glob(os.path.join(runs[0], "rollouts", "*.jsonl")) for row in read_jsonl(name)]
        expect(max(max(row["completion_ids"]) for row in rows) > 304, "no id was drawn beyond the tokenizer's")
        return f"entropy {first[0]['entropy']:.2f}"


def where_bytes_lie_changes_nothing(args, key):
    """On a device: the same run with inputs of layers, or the embedding, in host memory."""
    with scratch() as tmp:
        path = recipe(tmp, tiny(tmp, layers=6), numerics="exact", device="cuda")
        runs = [os.path.join(tmp, name) for name in ("stays", "goes")]
        for run, more in zip(runs, ([], [key])):
            r = start([args.grpo_train, path, f"output={run}", "--quiet"] + more)
            if "no CUDA" in r.err:
                return "skipped: no device"
            expect(r.code == 0, r.describe())
        a, b = (without_timing(metrics_of(run)) for run in runs)
        expect(a == b, f"metrics differ: {a[0]} {b[0]}")
        for name in ("optimizer.safetensors", "adapter/adapter_model.safetensors"):
            x, y = (read_bytes(os.path.join(run, "checkpoints", "step-000002", name)) for run in runs)
            expect(x == y, f"{name} differs")


def read_bytes(path):
    with open(path, "rb") as f:
        return f.read()


def refused(args, word, sections, model="m.gguf"):
    with scratch() as tmp:
        r = start([args.grpo_train, recipe(tmp, model, **sections)])
        expect(r.code == 2 and word in r.err and r.err.count("\n") == 1, r.describe())


def plan_of(args, name):
    r = start([args.grpo_train, f"configs/{name}_memory.yaml", "--plan"], cwd=ROOT)
    if "no CUDA backend" in r.err:
        return None
    expect(r.code == 0, r.describe())
    return int(re.search(r"predicted peak .*\((\d+) bytes\)", r.out)[1])


def plan_is_within_the_limit(args, name):
    planned = plan_of(args, name)
    if planned is None:
        return "skipped: a build without CUDA"
    expect(planned <= LIMITS[name] * 2**30, f"{planned / 2**30:.2f} GiB of {LIMITS[name]}")
    return f"{planned / 2**30:.2f} GiB of {LIMITS[name]}"


def run_is_as_planned(args, name):
    planned = plan_of(args, name)
    expect(planned is not None, "this build has no CUDA backend")
    with scratch() as tmp:
        run = os.path.join(tmp, "run")
        run_ok([args.grpo_train, f"configs/{name}_memory.yaml", f"output={run}", "log.rollouts=1", "--quiet"], cwd=ROOT, timeout=1800)
        last = metrics_of(run)[-1]
        peak, steps = last["memory_peak_bytes"], ", ".join(f"{m['rollout_s']:.1f} + {m['train_s']:.1f} s" for m in metrics_of(run))
        note = f"planned {planned / 2**30:.3f} GiB, peak {peak / 2**30:.3f}: {planned / peak - 1:+.1%}; rollout + train {steps}"
        expect(last["completion_tokens"] == 64 * 512 and last["grad_norm"] > 0, f"not a whole step: {last}")
        expect(abs(planned / peak - 1) <= 0.03 and peak <= LIMITS[name] * 2**30, note)
        return note


def less_memory_is_slower_and_the_same(args, name):
    """`exact` in 60 % of what holds every sequence at once: fewer run at a time, and the samples and the adapter are the same bytes."""
    with scratch() as tmp:
        seen, budget, note = [], "auto", ""
        for run in (os.path.join(tmp, "wide"), os.path.join(tmp, "tight")):
            run_ok([args.grpo_train, f"configs/{name}_memory.yaml", f"output={run}", "numerics=exact", "memory.kv=bf16", f"memory.budget={budget}", "train.steps=1",
                    "rollout.max_new_tokens=256", "log.rollouts=1", "--quiet"], cwd=ROOT, timeout=1800)
            m, = metrics_of(run)
            rollouts, = glob.glob(os.path.join(run, "rollouts", "*.jsonl"))
            seen.append((read_bytes(rollouts), read_bytes(os.path.join(run, "checkpoints", "step-000001", "adapter", "adapter_model.safetensors"))))
            note += f"{m['memory_peak_bytes'] / 2**30:.2f} GiB: rollout {m['rollout_s']:.1f} s, "
            expect(budget == "auto" or m["memory_peak_bytes"] <= limit, f"{m['memory_peak_bytes']} of {budget}")
            limit = int(0.6 * m["memory_peak_bytes"])
            budget = f"{limit / 2**30:.4f}GiB"
        expect(seen[0][0] == seen[1][0], "the samples differ")
        expect(seen[0][1] == seen[1][1], "the adapters differ")
        return note


def main():
    args = arguments(__doc__, recipes="")
    report = Report()
    checks = [(f"random weights, {s}", a_folder_without_weights_runs, s) for s in ("bf16", "fp8_tensor", "fp8_channel", "fp8_block")]
    checks += [(f"{key} on a device", where_bytes_lie_changes_nothing, key) for key in ("memory.offload=activations", "memory.embedding=host")]
    checks += [("random weights of a GGUF", refused, "model.path is a GGUF file", {}),
               ("mask_truncated where nothing stops", refused, "leaves nothing to learn from", {"train": {"mask_truncated": True}}, "m")]
    checks += [(f"plan of {name}", plan_is_within_the_limit, name) for name in LIMITS]
    checks += [(f"run of {name}", run_is_as_planned, name) for name in LIMITS if args.recipes and args.recipes in name]
    checks += [("60 % of the memory", less_memory_is_slower_and_the_same, "qwen3_1p7b")] if args.recipes else []
    for name, function, *more in checks:
        if args.only in name:
            report.run(name, function, args, *more)
    report.end()


if __name__ == "__main__":
    main()
