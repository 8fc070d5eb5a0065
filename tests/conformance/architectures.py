#!/usr/bin/env python3
"""Each family of models against transformers and PEFT, by the checks of score.py and train.py: one golden model each, whose weights are drawn
from seeds (tests/golden/make_architectures.py).

    architectures.py --tandem build/cpu-release/tandem --grpo-train build/cpu-release/grpo_train [--only gemma3]
"""
import json
import math
import os
import re
import sys

from harness import (MODELS, ROOT, Report, arguments, expect, flat, mean_abs_difference, metrics_of, newest_checkpoint, read_json, read_jsonl,
                     read_safetensors, run_ok, scratch, start, without_timing, write_jsonl, write_recipe, write_safetensors, write_text)
import score
import train

sys.path.insert(0, os.path.join(ROOT, "tests", "golden"))
import seeded

GOLDENS = os.path.join(ROOT, "tests", "golden", "data", "architectures")
# The longest sequence of a run decides between Phi's two lists of factors: in these rows it is below the original length.
LIMITS = {"data": {"max_prompt_tokens": 96}, "rollout": {"max_new_tokens": 32}}
# Of a loss over some 230 tokens whose BF16 log-probabilities are 0.01 apart from FP32: 4 standard errors.
LOSS_FLOOR, LOSS_TOKENS = 0.003, 230


def quantized_tower_scores_the_same(m):
    """What `tandem quantize` writes of one tower of several is a model of its own, with the same log-probabilities."""
    out = os.path.join(m.tmp, "text")
    run_ok([m.tandem, "quantize", "--model", m.path, "--scheme", "fp8_channel", "--output", out])
    config = read_json(os.path.join(out, "config.json"))
    expect("text_config" not in config and not config["model_type"].endswith("_vl_text"), f"model_type {config['model_type']}")
    names = read_safetensors(os.path.join(out, "model.safetensors"))
    expect(all(n.startswith(("model.layers.", "model.norm.", "model.embed_tokens.", "lm_head.")) for n in names), f"names {sorted(names)[:3]}")
    whole = m.score("infer", "fp8_channel", False)
    m.path, m.cache = out, {}
    expect(m.score("infer", "fp8_channel", False) == whole, "the text tower alone scores otherwise")


def quantized_towers_load(m):
    """An FP8 checkpoint of all towers, as others quantize it: its config names modules as the file does."""
    text, whole = os.path.join(m.tmp, "kept"), os.path.join(m.tmp, "whole")
    run_ok([m.tandem, "quantize", "--model", m.path, "--scheme", "fp8_channel", "--keep-bf16", "layers.0.mlp.down_proj", "--output", text])
    want = run_score(m, text)
    os.mkdir(whole)
    config, quantization = read_json(os.path.join(m.path, "config.json")), read_json(os.path.join(text, "config.json"))["quantization_config"]
    outer = lambda name: name.replace("model.", "model.language_model.", 1)
    quantization["ignore"] = ["re:.*vision.*"] + [outer(n) for n in quantization["ignore"]]
    write_text(os.path.join(whole, "config.json"), json.dumps({**config, "quantization_config": quantization}))
    tensors = {outer(k): v for k, v in read_safetensors(os.path.join(text, "model.safetensors")).items()}
    tensors["model.vision_tower.left_alone.weight"] = ("F32", [1], bytes(4))
    write_safetensors(os.path.join(whole, "model.safetensors"), tensors)
    expect(run_score(m, whole) == want, "the quantized checkpoint of all towers scores otherwise")


def loss_floor(m):
    """Rounding sends a token now and then to another expert, and then its log-probability, and what the steps before made of such tokens, is far from
    FP32's: 8 standard errors of what BF16 is apart by."""
    if not is_mixture(m):
        return LOSS_FLOOR
    rows = m.expected["score"]["adapter"]
    apart = [a - b for a, b in zip(flat(rows["bf16"]), flat(rows["fp32"]))]
    return max(LOSS_FLOOR, 8 * math.sqrt(sum(d * d for d in apart) / len(apart) / LOSS_TOKENS))


def group_of(m):
    """Of a mixture, lora_A and lora_B of a layer together: which of its tensors such a token moves is a draw."""
    return (lambda name: re.search(r"layers\.[0-9]+\.|lora_[AB]", name).group() + name[-8:]) if is_mixture(m) else (lambda name: name)


def is_mixture(m):
    return "moe_intermediate_size" in read_json(os.path.join(m.path, "config.json"))


def schemes_of(m):
    return ("bf16", "fp8_block") if is_mixture(m) else ("bf16", "fp8_channel", "fp8_block")


def other_schemes_are_refused(m):
    source = os.path.join(m.tmp, "one.jsonl")
    write_jsonl(source, [{"ids": m.sequences[2]}])
    for scheme in ("fp8_tensor", "fp8_channel"):
        r = start([m.tandem, "score", "--model", m.path, "--weights", scheme, "--input", source, "--output", os.path.join(m.tmp, "none.jsonl")])
        expect(r.code == 2 and f"{scheme} weights of a mixture of experts are not supported" in r.err, r.describe())
    file = os.path.join(m.tmp, "scales.json")
    write_text(file, json.dumps({"modules": {f"model.layers.0.self_attn.{p}_proj": 1.0 for p in "qkvo"}}))
    scales = ["--data", source, "--output", os.path.join(m.tmp, "none.json")]
    score = ["--weights", "fp8_block", "--activations", "static", "--activation-scales", file, "--input", source, "--output", os.path.join(m.tmp, "none.jsonl")]
    for command in (["calibrate", "--model", m.path, *scales], ["score", "--model", m.path, *score]):
        r = start([m.tandem, *command])
        expect(r.code == 2 and "static activation scales of a mixture of experts are not supported" in r.err, r.describe())


def experts_in_one_tensor_score_the_same(m):
    """A checkpoint that has a layer's experts in one tensor each, as the modules of transformers 5 do."""
    want, folder = run_score(m, m.path), os.path.join(m.tmp, "fused")
    os.mkdir(folder)
    write_text(os.path.join(folder, "config.json"), json.dumps(read_json(os.path.join(m.path, "config.json"))))
    tensors, experts = read_safetensors(os.path.join(m.path, "model.safetensors")), {}
    for name in [n for n in tensors if ".experts." in n]:
        head, number, leaf, _ = name.rsplit(".", 3)
        experts.setdefault(head, {}).setdefault(int(number), {})[leaf] = tensors.pop(name)
    for head, of in experts.items():
        shape = of[0]["up_proj"][1]
        both = b"".join(of[e]["gate_proj"][2] + of[e]["up_proj"][2] for e in sorted(of))
        tensors[f"{head}.gate_up_proj"] = ("BF16", [len(of), 2 * shape[0], shape[1]], both)
        tensors[f"{head}.down_proj"] = ("BF16", [len(of), shape[1], shape[0]], b"".join(of[e]["down_proj"][2] for e in sorted(of)))
    write_safetensors(os.path.join(folder, "model.safetensors"), tensors)
    expect(run_score(m, folder) == want, "experts in one tensor score otherwise")


def quantized_experts_load(m):
    """The layout of Qwen3-30B-A3B-FP8: codes and weight_scale_inv of each expert, routers named among modules that are not converted."""
    out = os.path.join(m.tmp, "fp8")
    run_ok([m.tandem, "quantize", "--model", m.path, "--scheme", "fp8_block", "--format", "fp8", "--output", out])
    tensors, config = read_safetensors(os.path.join(out, "model.safetensors")), read_json(os.path.join(out, "config.json"))["quantization_config"]
    layer = next(n for n in tensors if ".experts.0.up_proj.weight" in n).split(".mlp.")[0]
    expect(tensors[f"{layer}.mlp.experts.0.up_proj.weight"][0] == "F8_E4M3" and f"{layer}.mlp.experts.0.up_proj.weight_scale_inv" in tensors, "no codes and scales")
    expect(tensors[f"{layer}.mlp.gate.weight"][0] == "BF16" and f"{layer}.mlp.gate" in config["modules_to_not_convert"], "the router does not stay BF16")
    expect(run_score(m, out) == m.score("infer", "fp8_block", False), "the quantized checkpoint scores otherwise")


def routed_run(args, m, name, adapter, **keys):
    run = os.path.join(m.tmp, name)
    path = write_recipe(run + ".yaml", {
        "model": {"path": m.path, "weights": "fp8_block"}, "adapter": {"rank": 4, "alpha": 8, **adapter}, "numerics": "exact", "output": run,
        "data": {"train": os.path.join(ROOT, "examples/addition/train.jsonl"), "prompt": "{question}", "max_prompt_tokens": 72},
        "rollout": {"prompts_per_step": 2, "generations": 3, "max_new_tokens": 24}, "reward": [{"type": "regex", "pattern": "[e-g][a-z]"}],
        "train": {"steps": 2, "lr": 0.05, "kl": 0.1, **keys}, "checkpoint": {"every": 0, "keep": 1}, "log": {"rollouts": 0, "tensorboard": False, "report": False}})
    run_ok([args.grpo_train, path, "--quiet"])
    with open(os.path.join(newest_checkpoint(run), "adapter", "adapter_model.safetensors"), "rb") as f:
        return without_timing(metrics_of(run)), f.read()


def micro_batches_leave_the_same_bits(args, m):
    adapter = adapter_of(m)
    expect(routed_run(args, m, "large", adapter) == routed_run(args, m, "small", adapter, micro_tokens=100), "smaller micro-batches give another run")


def adapter_of(m):
    some = read_json(os.path.join(m.path, "config.json"))["mlp_only_layers"]
    return {"targets": ["q_proj", "k_proj", "v_proj", "o_proj"]} if some else {}


def routing_is_replayed(args, m):
    """In exact numerics both engines choose the same experts, so that the first update does not depend on who says which; in a second pass over the
    same samples the router would choose otherwise, and replay does not."""
    adapter = adapter_of(m)
    once, again = (routed_run(args, m, f"once-{k}", adapter, routing=k) for k in ("recompute", "replay"))
    expect(once == again, "replayed experts give another run")
    expect(all(row["mismatch_max"] == 0 for row in again[0]), f"mismatch {[row['mismatch_max'] for row in again[0]]}")
    first, second = (routed_run(args, m, f"twice-{k}", adapter, routing=k, epochs_per_rollout=3) for k in ("recompute", "replay"))
    expect(any(row["reward_std"] > 0 for row in first[0]), "all samples are worth the same")
    expect(first[1] != second[1], "no token would have gone to other experts, so nothing was checked")


def routing_is_refused(args, m):
    def refused(text, sections, model=m.path):
        path = write_recipe(os.path.join(m.tmp, "refused.yaml"), {"model": {"path": model, "weights": "bf16"}, "output": os.path.join(m.tmp, "none"), **sections})
        r = start([args.grpo_train, path, "--quiet"])
        expect(r.code == 2 and text in r.err, r.describe())
    data = {"train": os.path.join(m.path, "sft.jsonl"), **LIMITS["data"]}
    generated = {"data": data, "rollout": {"generations": 2, **LIMITS["rollout"]}, "reward": [{"type": "regex", "pattern": "a"}]}
    refused("train.routing: replay is of grpo and ppo", {"data": data, "train": {"algorithm": "sft", "routing": "replay"}})
    refused("rows of rollout.replay do not name experts", {"rollout": {"replay": "x.jsonl"}, "train": {"routing": "replay"}})
    refused("this model is none", {**generated, "train": {"routing": "replay"}}, os.path.join(MODELS, "qwen3"))
    if read_json(os.path.join(m.path, "config.json"))["mlp_only_layers"]:
        refused("gate_proj, up_proj and down_proj are experts in some layers", {**generated, "adapter": {"targets": ["q_proj", "up_proj"]}})
    else:
        refused("dropout on adapters of experts is not supported", {**generated, "adapter": {"dropout": 0.1}})


def kept_modules_stay(m):
    scheme = schemes_of(m)[1]
    out = os.path.join(m.tmp, "mlp-kept")
    run_ok([m.tandem, "quantize", "--model", m.path, "--scheme", scheme, "--format", "compressed-tensors", "--keep-bf16", "mlp", "--output", out])
    tensors, ignored = read_safetensors(os.path.join(out, "model.safetensors")), read_json(os.path.join(out, "config.json"))["quantization_config"]["ignore"]
    linear = [n for n in tensors if ".layers." in n and n.endswith("_proj.weight")]
    for name in linear:
        kept = ".mlp." in name
        expect((tensors[name][0] == "BF16") == kept and (name[:-len(".weight")] in ignored) == kept, f"{name}: {tensors[name][0]}, ignored: {ignored}")
    run_score(m, out)
    return f"{len(linear)} matrices"


def run_score(m, path):
    source, target = os.path.join(m.tmp, "in.jsonl"), os.path.join(m.tmp, "out.jsonl")
    write_jsonl(source, [{"ids": s} for s in m.sequences])
    run_ok([m.tandem, "score", "--model", path, "--engine", "infer", "--input", source, "--output", target])
    return [row["logprobs"] for row in read_jsonl(target)]


def gguf_scores_the_same(m, listed):
    """The same weights as llama.cpp stores them: the same bits; frequencies that were divided by stored factors differ in their last bits."""
    same = score.Model(m.args, os.path.join(m.tmp, "as-safetensors"), m.tmp)
    path = os.path.join(m.tmp, "model.gguf")
    seeded.write_gguf(path, listed)
    want = same.score("infer", "bf16", False)
    m = score.Model(m.args, m.path, m.tmp)
    m.path = path
    got = m.score("infer", "bf16", False)
    if "rope_freqs.weight" not in listed.get("factors", {}):
        expect(got == want, "a GGUF of the same weights scores other bits")
        return "same bits"
    base = m.expected["score"]["base"]
    d, bound = mean_abs_difference(flat(got), flat(want)), mean_abs_difference(flat(base["bf16"]), flat(base["fp32"]))
    expect(d <= 0.3 * bound, f"mean |difference| to the same weights in safetensors {d:.6f}, of BF16 to FP32 {bound:.6f}")
    return f"mean |d| {d:.6f}, BF16's own {bound:.6f}"


def as_safetensors(golden, listed, folder):
    """The golden with what the GGUF's metadata says instead of its config."""
    os.mkdir(folder)
    seeded.materialize(golden, folder)
    config = {**read_json(os.path.join(golden, "config.json")), **listed["config"]}
    os.remove(os.path.join(folder, "config.json"))
    write_text(os.path.join(folder, "config.json"), json.dumps(config))


def parts_of_a_module_are_refused(args, m):
    path = write_recipe(os.path.join(m.tmp, "parts.yaml"), train.recipe(m.path, {
        "adapter": {"targets": ["q_proj", "o_proj"]}, "data": {"train": os.path.join(m.path, "sft.jsonl"), **LIMITS["data"]},
        "output": os.path.join(m.tmp, "parts"), **{k: v for k, v in LIMITS.items() if k != "data"}, "train": {"algorithm": "sft", "steps": 1}}))
    r = start([args.grpo_train, path, "--quiet"])
    expect(r.code == 2 and "a part of qkv_proj is a target, which is one matrix in this model" in r.err, r.describe())


def checks_of(args, golden, m, tmp):
    checks = [("greedy", score.greedy_agrees, m)] if "greedy" in m.expected else []
    checks.append(("kept", kept_modules_stay, m))
    checks.append(("sampled", score.sampled_logprobs_are_scored, m, schemes_of(m)[1]))
    if is_mixture(m):
        checks += [("micro-batches", micro_batches_leave_the_same_bits, args, m), ("routing", routing_is_replayed, args, m), ("routing refused", routing_is_refused, args, m), ("refused", other_schemes_are_refused, m), ("fused", experts_in_one_tensor_score_the_same, m), ("quantized", quantized_experts_load, m)]
    for kind in sorted(m.expected["score"]):
        adapter = kind == "adapter"
        checks.append((f"{kind}/bf16", score.bf16_no_worse_than_transformers, m, adapter))
        checks += [(f"{kind}/{s}/engines", score.engines_agree_bitwise, m, s, adapter) for s in schemes_of(m)]
        checks.append((f"{kind}/company", score.company_changes_no_bit, m, "bf16" if adapter else "fp8_block", adapter))
        if "fp8_block" in m.expected["score"][kind]:
            checks += [(f"{kind}/{s}", score.fp8_shifts_as_simulated, m, adapter, s) for s in score.LAYER_SCHEMES]
    checks += [(f"quantize/{s}", score.quantized_bits_agree, m, s) for s in m.expected.get("quantized", ())]
    if "sft" in m.expected:
        checks.append(("sft", train.sft, args, m.path, m.expected, tmp, LIMITS, loss_floor(m), group_of(m)))
    if "sft" in m.expected and read_json(os.path.join(m.path, "config.json"))["model_type"] == "phi3":
        checks.append(("targets", parts_of_a_module_are_refused, args, m))
    if "text_config" in read_json(os.path.join(m.path, "config.json")):
        checks += [("quantized towers", quantized_towers_load, m), ("text tower", quantized_tower_scores_the_same, m)]
    if os.path.exists(os.path.join(golden, "gguf.json")):
        listed = read_json(os.path.join(golden, "gguf.json"))
        as_safetensors(golden, listed, os.path.join(tmp, "as-safetensors"))
        checks.append(("gguf", gguf_scores_the_same, m, listed))
    return checks


def main():
    args = arguments(__doc__)
    report = Report()
    for name in sorted(os.listdir(GOLDENS)):
        with scratch() as tmp, scratch() as folder:
            seeded.materialize(os.path.join(GOLDENS, name), folder)
            for label, *check in checks_of(args, os.path.join(GOLDENS, name), score.Model(args, folder, tmp), tmp):
                if args.only in f"{name}/{label}":
                    report.run(f"{name}/{label}", *check)
    report.end()


if __name__ == "__main__":
    main()
