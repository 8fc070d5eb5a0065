#!/usr/bin/env python3
"""`grpo_train` with SGD against PEFT and TRL: SFT for three steps, one replayed step of every GRPO-family loss, and one
of every loss over preferences.

Rule, per adapter tensor: ||ours - FP32|| <= 1.02 ||PyTorch in BF16 - FP32||, plus 0.05 % of the step itself for the F16 the golden is
stored in. The loss lies within 0.0015 of FP32, or as near as PyTorch in BF16.
"""
import math
import os

from harness import (MODELS, Failed, Report, adapter_section, arguments, expect, metrics_of, newest_checkpoint, norm, read_json,
                     read_safetensors, run_ok, scratch, values, write_recipe)


def recipe(model, sections):
    base = {"model": {"path": model, "weights": "bf16"}, "adapter": adapter_section(model),
            "checkpoint": {"every": 0, "keep": 1}, "log": {"every": 1, "rollouts": 0, "tensorboard": False, "report": False}, "seed": 1}
    train = {"optimizer": "sgd", "schedule": "constant", "warmup_steps": 0, "weight_decay": 0.0, "max_grad_norm": 0.0}
    out = {**base, **sections}
    out["train"] = {**train, **sections["train"]}
    return out


def compare_adapter(run, model, moves, distances, part="adapter", start="adapter", group=lambda name: name):
    """Per tensor (or per group of them), and all of them in the message when one is too far. part of the checkpoint, which began as the model's `start`."""
    after = read_safetensors(os.path.join(newest_checkpoint(run), part, "adapter_model.safetensors"))
    before = read_safetensors(os.path.join(model, start, "adapter_model.safetensors"))
    expect(set(after) == set(before), f"tensors: {sorted(set(after) ^ set(before))[:4]}")
    worst, bad, groups = 0.0, [], {}
    for name, start in before.items():
        move = values(moves[name])
        error = norm([a - (s + m) for a, s, m in zip(values(after[name]), values(start), move)])
        groups.setdefault(group(name), []).append((error, distances[name], norm(move)))
    for name, parts in groups.items():
        error, distance, move = (norm(column) for column in zip(*parts))
        bound = 1.02 * distance + 5e-4 * move + 1e-7
        worst = max(worst, error / bound)
        if not error <= bound:
            bad.append(f"{name}: {error:.3g} > {bound:.3g} (step {move:.3g})")
    expect(not bad, f"{len(bad)} of {len(groups)} tensors are farther from FP32 than PyTorch in BF16: " + "; ".join(bad[:3]))
    return worst


def compare_loss(got, fp32, bf16, what, floor=0.0015):
    bound = max(floor, 1.02 * abs(bf16 - fp32))
    expect(abs(got - fp32) <= bound, f"{what} {got:.6f}, FP32 {fp32:.6f}, PyTorch BF16 {bf16:.6f}")


def sft(args, model, expected, tmp, limits={}, floor=0.0015, group=lambda name: name):
    want = expected["sft"]
    run = os.path.join(tmp, "run")
    path = write_recipe(os.path.join(tmp, "sft.yaml"), recipe(model, {
        **limits, "data": {"train": os.path.join(model, "sft.jsonl"), "shuffle": False, **limits.get("data", {})}, "output": run,
        "train": {"algorithm": "sft", "steps": want["steps"], "batch_size": want["batch_size"], "lr": want["lr"]}}))
    run_ok([args.grpo_train, path, "--quiet"])
    rows = metrics_of(run)
    expect([r["step"] for r in rows] == [1, 2, 3], f"steps {[r['step'] for r in rows]}")
    for i, row in enumerate(rows):
        compare_loss(row["loss"], want["fp32_loss"][i], want["bf16_loss"][i], f"step {i + 1}: loss", floor)
    worst = compare_adapter(run, model, read_safetensors(os.path.join(model, "sft.safetensors")), want["bf16_distance"], group=group)
    return f"worst tensor {worst:.0%} of the bound, losses " + " ".join(f"{r['loss'] - f:+.5f}" for r, f in zip(rows, want["fp32_loss"]))


IMPORTANCE = ("level", "ratio", "correction", "floor", "cap", "reject", "reject_threshold", "veto", "batch_normalize")
# Keys of train that a case has or leaves at their defaults.
NUMBERS = ("aggregation", "clip_low", "clip_high", "delta", "off_policy_threshold", "entropy_coef", "top_entropy_quantile", "kl_in", "kl_bias_correction", "kl_input_clamp",
           "kl_output_clamp", "sapo", "vespo")


def replay_sections(model, expected, case, run):
    g = expected["grpo"]
    return {"rollout": {"replay": os.path.join(model, "replay.jsonl"), "prompts_per_step": g["prompts_per_step"],
                        "generations": g["generations"], "max_new_tokens": g["max_new_tokens"]},
            "output": run,
            "train": {"algorithm": "grpo", "steps": 1, "epochs_per_rollout": 1, "minibatches": 1, "lr": case["lr"], "loss": case["loss"], "kl": case["kl"], "kl_type": case["kl_type"],
                      "advantage": case["advantage"], **{k: case[k] for k in NUMBERS if case.get(k) is not None},
                      "importance": {k: case[k] for k in IMPORTANCE if k in case}}}


def compare_importance(row, want, floor):
    """A case's bounds lie clear of every ratio, so the same of them pass; the weights themselves are those of BF16 log-probabilities."""
    expect(want is not None or not any(k.startswith("importance") for k in row), "weights of a correction that is off")
    for key, value in (want or {}).items():
        if key == "fraction_low" and not floor:
            expect("importance_fraction_low" not in row, "a part below a floor that is not there")
            continue
        got, bound = row["importance_" + key], 1e-6 if key.startswith("fraction") else 0.03
        expect(abs(got - value) <= bound, f"importance_{key} {got}, TRL and verl {value}")


def one_step(args, model, case, name, tmp, sections):
    """Runs the one step of a case, `sections` of its run folder; the folder and its row of metrics, whose loss is compared."""
    run = os.path.join(tmp, "run-" + name)
    run_ok([args.grpo_train, write_recipe(os.path.join(tmp, name + ".yaml"), recipe(model, sections(run))), "--quiet"])
    row, = metrics_of(run)
    compare_loss(row["loss"], case["fp32_loss"], case["bf16_loss"], "loss")
    return run, row


def moves_of(model, file, name):
    """Of the moves a golden file holds as "CASE/TENSOR", those of one case."""
    return {k[len(name) + 1:]: v for k, v in read_safetensors(os.path.join(model, file)).items() if k.startswith(name + "/")}


def grpo(args, model, expected, name, tmp):
    case = expected["grpo"]["cases"][name]
    run, row = one_step(args, model, case, name, tmp, lambda run: replay_sections(model, expected, case, run))
    expect(abs(row["clip_fraction"] - case["clip_fraction"]) < 1e-6, f"clip_fraction {row['clip_fraction']}, TRL {case['clip_fraction']}")
    if "figures" in case:
        for key, want in case["figures"].items():
            expect(abs(row[key] - want) <= (0.01 if key.endswith("factor") else 1e-6), f"{key} {row[key]}, verl {want}")
    else:
        compare_importance(row, case.get("importance"), case.get("floor"))
    if case["kl_metric"] is not None:
        expect(math.isclose(row["kl"], case["kl_metric"], rel_tol=0.02, abs_tol=0.002), f"kl {row['kl']}, TRL {case['kl_metric']}")
    if "entropy_metric" in case:
        expect(math.isclose(row["entropy"], case["entropy_metric"], rel_tol=0.002), f"entropy {row['entropy']}, TRL {case['entropy_metric']}")
    worst = compare_adapter(run, model, moves_of(model, "grpo.safetensors", name), case["bf16_distance"])
    return f"worst tensor {worst:.0%} of the bound, loss {row['loss'] - case['fp32_loss']:+.6f}"


def aggregations_are_the_losses_own(args, model, expected, tmp):
    """TRL's losses that differ in how they are summed, each as the other with that aggregation."""
    for name, loss, aggregation in (("dapo", "grpo", "token_mean"), ("grpo", "bnpo", "sequence_mean"), ("dr_grpo", "dapo", "constant")):
        if name in expected["grpo"]["cases"]:
            case = expected["grpo"]["cases"][name]
            cases = {**expected["grpo"], "cases": {name: {**case, "loss": loss, "aggregation": aggregation}}}
            os.mkdir(os.path.join(tmp, aggregation))
            grpo(args, model, {**expected, "grpo": cases}, name, os.path.join(tmp, aggregation))


def distill_sections(model, expected, case, run):
    sections = replay_sections(model, expected, dict(expected["grpo"]["cases"]["dapo"], lr=case["lr"]), run)
    keep = {"steps": 1, "lr": case["lr"], "algorithm": "distill", "distill": {"loss": case["loss"], "beta": case["beta"]}}
    sections["train"] = dict(keep, importance={"correction": "none"}) if case["loss"] == "sampled" else keep
    return sections


def distill(args, model, expected, name, tmp):
    """On recorded completions; the teacher is the model with the adapter off."""
    case = expected["distill"][name]
    run, row = one_step(args, model, case, name, tmp, lambda run: distill_sections(model, expected, case, run))
    if case["loss"] == "full":
        expect(abs(row["kl"] - row["loss"]) <= 1e-5 * row["loss"], f"kl {row['kl']}, loss {row['loss']}")
    worst = compare_adapter(run, model, moves_of(model, "distill.safetensors", name), case["bf16_distance"])
    return f"worst tensor {worst:.0%} of the bound, loss {row['loss'] - case['fp32_loss']:+.6f}"


def preference_sections(model, expected, case, run):
    keys = ("loss", "beta", "label_smoothing", "sft", "desirable_weight", "undesirable_weight")
    rows = "labels.jsonl" if case["algorithm"] == "kto" else "pairs.jsonl"
    return {"data": {"train": os.path.join(model, rows), "shuffle": False, "max_prompt_tokens": 96}, "rollout": {"max_new_tokens": 32}, "output": run,
            "train": {"algorithm": case["algorithm"], "steps": 1, "batch_size": expected["preference"]["batch_size"], "lr": case["lr"],
                      "preference": {k: case[k] for k in keys if k in case}}}


def preference(args, model, expected, name, tmp):
    """Metrics are sums over some twenty tokens of an answer, so they lie within 0.01 of FP32 for a mean over tokens, 0.2 for a sum."""
    case = expected["preference"]["cases"][name]
    run, row = one_step(args, model, case, name, tmp, lambda run: preference_sections(model, expected, case, run))
    sums = case["algorithm"] != "orpo"
    for key, want in case["fp32_metrics"].items():
        expect(key in row, f"{key} is missing")
        bound = 1e-6 if key == "rewards/accuracies" else (0.2 if sums else 0.01) * (case["beta"] if key.startswith("rewards/") else 1.0)
        expect(abs(row[key] - want) <= bound, f"{key} {row[key]}, TRL {want}")
    worst = compare_adapter(run, model, moves_of(model, "preference.safetensors", name), case["bf16_distance"])
    return f"worst tensor {worst:.0%} of the bound, loss {row['loss'] - case['fp32_loss']:+.6f}"


def micro_batches_change_nothing(args, model, expected, sections_of, case, tmp):
    """Accumulation over micro-batches gives the same adapter, bit by bit, also where the two of a pair lie in different ones."""
    files = []
    for tokens in (4096, 24):
        run = os.path.join(tmp, f"micro-{len(os.listdir(tmp))}")
        sections = sections_of(model, expected, case, run)
        sections["train"]["micro_tokens"] = tokens
        sections["numerics"] = "exact"  # a device's fast products may sum in an order of their batch
        run_ok([args.grpo_train, write_recipe(os.path.join(tmp, "micro.yaml"), recipe(model, sections)), "--quiet"])
        with open(os.path.join(newest_checkpoint(run), "adapter", "adapter_model.safetensors"), "rb") as f:
            files.append(f.read())
    expect(files[0] == files[1], "micro_tokens 24 and 4096 give different adapters")


def main():
    args = arguments(__doc__)
    report = Report()
    for name in sorted(os.listdir(MODELS)):
        model = os.path.join(MODELS, name)
        expected = read_json(os.path.join(model, "expect.json"))
        with scratch() as tmp:
            checks = [("sft", sft, args, model, expected, tmp)]
            if "grpo" in expected:
                checks += [("grpo/" + c, grpo, args, model, expected, c, tmp) for c in expected["grpo"]["cases"]]
                checks.append(("aggregation", aggregations_are_the_losses_own, args, model, expected, tmp))
                checks.append(("micro", micro_batches_change_nothing, args, model, expected, replay_sections, expected["grpo"]["cases"]["dapo"], tmp))
            for case, of in expected.get("distill", {}).items():
                checks += [(f"distill/{case}", distill, args, model, expected, case, tmp), (f"micro/{case}", micro_batches_change_nothing, args, model, expected, distill_sections, of, tmp)]
            for case, of in expected.get("preference", {}).get("cases", {}).items():
                checks += [(f"preference/{case}", preference, args, model, expected, case, tmp),
                           (f"micro/{case}", micro_batches_change_nothing, args, model, expected, preference_sections, of, tmp)]
            for label, *check in checks:
                if args.only in f"{name}/{label}":
                    report.run(f"{name}/{label}", *check)
    report.end()


if __name__ == "__main__":
    main()
