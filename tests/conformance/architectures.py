#!/usr/bin/env python3
"""Each family of models against transformers and PEFT, by the checks of score.py and train.py: one golden model each, whose weights are drawn
from seeds (tests/golden/make_architectures.py).

    architectures.py --tandem build/cpu-release/tandem --grpo-train build/cpu-release/grpo_train [--only gemma3]
"""
import json
import os
import sys

from harness import (ROOT, Report, arguments, expect, flat, mean_abs_difference, read_json, read_jsonl, read_safetensors, run_ok, scratch, start, write_jsonl,
                     write_recipe, write_safetensors, write_text)
import score
import train

sys.path.insert(0, os.path.join(ROOT, "tests", "golden"))
import seeded

GOLDENS = os.path.join(ROOT, "tests", "golden", "data", "architectures")
# The longest sequence of a run decides between Phi's two lists of factors: in these rows it is below the original length.
LIMITS = {"data": {"max_prompt_tokens": 96}, "rollout": {"max_new_tokens": 32}}
# Of a loss over some 230 tokens whose BF16 log-probabilities are 0.01 apart from FP32: 4 standard errors.
LOSS_FLOOR = 0.003


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


def kept_modules_stay(m):
    out = os.path.join(m.tmp, "mlp-kept")
    run_ok([m.tandem, "quantize", "--model", m.path, "--scheme", "fp8_channel", "--keep-bf16", "mlp", "--output", out])
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
    checks.append(("sampled", score.sampled_logprobs_are_scored, m))
    for kind in sorted(m.expected["score"]):
        adapter = kind == "adapter"
        checks.append((f"{kind}/bf16", score.bf16_no_worse_than_transformers, m, adapter))
        checks += [(f"{kind}/{s}/engines", score.engines_agree_bitwise, m, s, adapter) for s in ("bf16", "fp8_channel", "fp8_block")]
        checks.append((f"{kind}/company", score.company_changes_no_bit, m, "bf16" if adapter else "fp8_block", adapter))
        if "fp8_block" in m.expected["score"][kind]:
            checks += [(f"{kind}/{s}", score.fp8_shifts_as_simulated, m, adapter, s) for s in score.LAYER_SCHEMES]
    checks += [(f"quantize/{s}", score.quantized_bits_agree, m, s) for s in m.expected.get("quantized", ())]
    if "sft" in m.expected:
        checks.append(("sft", train.sft, args, m.path, m.expected, tmp, LIMITS, LOSS_FLOOR))
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
