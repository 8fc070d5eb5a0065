#!/usr/bin/env python3
"""Goldens of each family of models, as transformers and PEFT compute them: tests/golden/data/architectures/NAME/

    python tests/golden/make_architectures.py [NAME...]

As make_goldens_models.py, whose parts it uses, with weights drawn from seeds (seeded.py): tensors.json lists them, and no weights are kept.
The hidden sizes are above 256, so that scales of blocks mean something.
"""
import json
import math
import os
import random
import re
import shutil
import sys
import tempfile

import gguf
import torch
import transformers
from safetensors import safe_open
from transformers import Gemma3Config, Gemma3TextConfig, LlamaConfig, Mistral3Config, MistralConfig, Phi3Config, Qwen2Config, Qwen3Config, Qwen3MoeConfig, Qwen3VLConfig

import experts
import fp8_sim
import make_goldens_models as base
import seeded

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "data", "architectures")
SIZES = dict(hidden_size=256, intermediate_size=320, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=256, vocab_size=304, bos_token_id=0, eos_token_id=2, pad_token_id=0)
PLAIN = {"rope_type": "default", "rope_theta": 1000000.0}
LORA = dict(r=4, lora_alpha=8)
FUSED = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
# 288 = 2.25 blocks, and its root is not a BF16 number; three layers of which the middle one has no window; queries scaled by another width
GEMMA = dict(SIZES, hidden_size=288, num_hidden_layers=3, head_dim=64, query_pre_attn_scalar=48, sliding_window=12,
             layer_types=["sliding_attention", "full_attention", "sliding_attention"], tie_word_embeddings=True)
LONG = {"rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.75,
        "short_factor": [1.0 + 0.01 * i for i in range(24)], "long_factor": [1.0 + 0.25 * i for i in range(24)]}
SIGLIP = dict(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8)

# Some layers dense; experts and their widths of no round number (7 of 208: 1.625 blocks), weights that do not add up to 1.
MOE = dict(SIZES, head_dim=64, num_experts=8, num_experts_per_tok=2, moe_intermediate_size=192, rope_parameters=dict(PLAIN))
ODD = dict(MOE, hidden_size=272, num_hidden_layers=3, num_experts=7, num_experts_per_tok=3, moe_intermediate_size=208, mlp_only_layers=[1])
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]


plain_load = base.load


def load(*args, **kw):
    """Gemma's factor of the embedding is rounded to the weights' dtype. That is a constant of the model and no error of BF16 arithmetic, so the
    FP32 run has it too."""
    model = plain_load(*args, **kw)
    for m in model.modules():
        if hasattr(m, "scalar_embed_scale"):
            m.embed_scale.fill_(float(torch.tensor(m.scalar_embed_scale).bfloat16()))
    return model


base.load = load


def text_of(cls, args):
    config = cls(**args).to_dict()
    return {k: v for k, v in config.items() if k not in ("transformers_version", "architectures")}


MODELS = {
    "llama31": dict(gguf=True, config=lambda: LlamaConfig(**SIZES, tie_word_embeddings=False, rope_parameters=dict(base.ROPE3)), fp8=True, old_config=True),
    "qwen25": dict(gguf=True, config=lambda: Qwen2Config(**SIZES, tie_word_embeddings=True, rope_parameters=dict(PLAIN))),
    "qwen3": dict(gguf=True, config=lambda: Qwen3Config(**dict(SIZES, head_dim=96), tie_word_embeddings=True, rope_parameters=dict(PLAIN))),
    "qwen3_moe": dict(gguf=True, config=lambda: Qwen3MoeConfig(**MOE, norm_topk_prob=True, tie_word_embeddings=False)),
    "qwen3_moe_odd": dict(config=lambda: Qwen3MoeConfig(**ODD, norm_topk_prob=False, tie_word_embeddings=True), lora=dict(LORA, target_modules=ATTENTION)),
    "mistral_small": dict(gguf=True, config=lambda: MistralConfig(**dict(SIZES, head_dim=48), tie_word_embeddings=False, sliding_window=None,
                          rope_parameters=dict(PLAIN))),
    "phi4_mini": dict(gguf=True, config=lambda: Phi3Config(**SIZES, tie_word_embeddings=True, original_max_position_embeddings=128, rope_parameters=dict(LONG)),
                      lora=dict(LORA, target_modules=FUSED), fp8=True),
    "phi4_long": dict(config=lambda: Phi3Config(**SIZES, tie_word_embeddings=True, original_max_position_embeddings=8, rope_parameters=dict(LONG)),
                      lora=dict(LORA, target_modules=FUSED), lengths=[9, 12, 10, 33, 64, 90, 17, 40], sft=False),
    "gemma3": dict(gguf=True, config=lambda: Gemma3TextConfig(**GEMMA), fp8=True),
    "gemma3_vision": dict(config=lambda: Gemma3Config(text_config=text_of(Gemma3TextConfig, GEMMA), vision_config=SIGLIP, mm_tokens_per_image=4,
                          boi_token_index=300, eoi_token_index=301, image_token_index=302, eos_token_id=2, bos_token_id=0), towers=True, sft=False),
    "qwen3_vl": dict(config=lambda: Qwen3VLConfig(
        text_config=dict(text_of(Qwen3Config, dict(SIZES, head_dim=64)), model_type="qwen3_vl_text",
                         rope_parameters=dict(PLAIN, mrope_section=[12, 10, 10], mrope_interleaved=True)),
        vision_config=dict(depth=1, hidden_size=32, intermediate_size=32, num_heads=2, patch_size=8, out_hidden_size=256, deepstack_visual_indexes=[0],
                           num_position_embeddings=4), image_token_id=300, video_token_id=301, vision_start_token_id=302, vision_end_token_id=303,
        tie_word_embeddings=False), towers=True, sft=False),
    "mistral3": dict(config=lambda: Mistral3Config(
        text_config=dict(text_of(MistralConfig, dict(SIZES, head_dim=48, sliding_window=None, rope_parameters=dict(PLAIN))), model_type="mistral"),
        vision_config=dict(model_type="pixtral", hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8),
        image_token_index=300, tie_word_embeddings=False), towers=True, sft=False),
}


def class_of(config, spec):
    if spec.get("towers"):
        return transformers.AutoModelForImageTextToText
    if config.model_type == "qwen3_moe":
        return experts.Modules
    return transformers.AutoModelForCausalLM


def make_model(spec, folder):
    """The names and shapes are those that transformers saves."""
    config = spec["config"]()
    base.AutoModelForCausalLM = class_of(config, spec)
    model = base.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    model.save_pretrained(folder)
    path = os.path.join(folder, "config.json")
    with open(path) as f:
        saved = json.load(f)
    base.write_json(path, base.old_style(saved) if spec.get("old_config") else saved)
    weights, tensors = os.path.join(folder, "model.safetensors"), {}
    with safe_open(weights, "pt") as f:
        for name in f.keys():
            seed = name.replace("model.language_model.", "model.").replace("language_model.model.", "model.").replace("language_model.lm_head", "lm_head")
            tensors[name] = [seed, seeded.kind_of(seed, config.model_type.startswith("gemma3")), list(f.get_slice(name).get_shape())]
    seeded.write(weights, tensors)
    with open(os.path.join(folder, "tensors.json"), "w") as f:
        f.write("{" + ",\n ".join(f"{json.dumps(k)}:{json.dumps(v)}" for k, v in tensors.items()) + "}\n")
    if "gguf" in spec:
        make_gguf(os.path.basename(folder), config, tensors, folder)
    gen = torch.Generator().manual_seed(sum(os.path.basename(folder).encode()))
    return base.make_tokenizer(folder), gen


# ---- GGUF ----------------------------------------------------------------------------------------------------------------------------

# What llama.cpp's metadata cannot say of Gemma's config: it has every sixth layer without a window, and scales queries by their own width.
GGUF_CONFIG = {"gemma3": {"layer_types": ["sliding_attention"] * 3, "query_pre_attn_scalar": 64}}


def gguf_meta(arch, config):
    """As convert_hf_to_gguf.py writes it."""
    c, head = config, getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rope = c.rope_parameters.get("full_attention", c.rope_parameters)
    meta = [["general.architecture", "str", arch], ["vocab_size", "u32", c.vocab_size], ["context_length", "u32", c.max_position_embeddings],
            ["embedding_length", "u32", c.hidden_size], ["block_count", "u32", c.num_hidden_layers], ["feed_forward_length", "u32", c.intermediate_size],
            ["attention.head_count", "u32", c.num_attention_heads], ["attention.head_count_kv", "u32", c.num_key_value_heads],
            ["attention.key_length", "u32", head], ["attention.value_length", "u32", head],
            ["rope.dimension_count", "u32", int(head * rope.get("partial_rotary_factor", 1))],
            ["attention.layer_norm_rms_epsilon", "f32", c.rms_norm_eps], ["rope.freq_base", "f32", rope["rope_theta"]]]
    if arch == "qwen3moe":
        meta += [["expert_count", "u32", c.num_experts], ["expert_used_count", "u32", c.num_experts_per_tok],
                 ["expert_feed_forward_length", "u32", c.moe_intermediate_size]]
    if arch == "gemma3":
        meta.append(["attention.sliding_window", "u32", c.sliding_window])
    if arch == "phi3":
        factor = c.max_position_embeddings / c.original_max_position_embeddings
        meta += [["rope.scaling.original_context_length", "u32", c.original_max_position_embeddings],
                 ["rope.scaling.attn_factor", "f32", math.sqrt(1 + math.log(factor) / math.log(c.original_max_position_embeddings))]]
    own = ("general.", "tokenizer.")
    return [[k if k.startswith(own) else f"{arch}.{k}", t, v] for k, t, v in meta]


def make_gguf(name, config, tensors, folder):
    """Names by the gguf package's own table. transformers reads the file back where it knows the family: the same model in FP32."""
    arch = {"gemma3_text": "gemma3", "mistral": "llama", "qwen3_moe": "qwen3moe"}.get(config.model_type, config.model_type)
    kind = next(k for k, v in gguf.MODEL_ARCH_NAMES.items() if v == arch)
    names = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
    listed = {"meta": gguf_meta(arch, config), "tensors": {}, "config": GGUF_CONFIG.get(name, {})}
    for hf, (seed, draw, shape) in tensors.items():
        heads = 0
        if ".experts." in hf:  # all of a layer's in one tensor, in the order of their numbers
            name = names.get_name(re.sub(r"experts\.[0-9]+\.", "experts.", hf), (".weight", ".bias"))
            parts = [hf.replace(re.search(r"experts\.[0-9]+\.", hf).group(), f"experts.{i}.") for i in range(config.num_experts)]
            listed["tensors"][name] = [parts, draw, [len(parts)] + shape, 0.0, 0]
            continue
        if arch == "llama":
            heads = config.num_attention_heads if ".q_proj." in hf else config.num_key_value_heads if ".k_proj." in hf else 0
        listed["tensors"][names.get_name(hf, (".weight", ".bias"))] = [seed, draw, shape, 1.0 if draw == "norm0" else 0.0, heads]
    if arch == "phi3":
        listed["factors"] = {f"rope_factors_{k}.weight": config.rope_parameters[f"{k}_factor"] for k in ("long", "short")}
    if config.rope_parameters.get("rope_type") == "llama3":
        plain = 1.0 / (config.rope_parameters["rope_theta"] ** (torch.arange(0, 64, 2, dtype=torch.float) / 64))
        model = base.AutoModelForCausalLM.from_config(config)
        listed["factors"] = {"rope_freqs.weight": (plain / model.model.rotary_emb.inv_freq).tolist()}
    with open(os.path.join(folder, "gguf.json"), "w") as f:
        f.write("{" + ",\n ".join(f"{json.dumps(k)}:{json.dumps(v)}" for k, v in listed.items()) + "}\n")
    check_gguf(name, listed, folder)


def check_gguf(name, listed, folder):
    path = os.path.join(folder, "model.gguf")
    seeded.write_gguf(path, listed)
    reader = gguf.GGUFReader(path)
    assert {t.name for t in reader.tensors} == set(listed["tensors"]) | set(listed.get("factors", {}))
    os.remove(path)


def make_expect(name, spec, folder, tok, gen):
    rng = random.Random(name)
    sequences = [[rng.randrange(300) for _ in range(n)] for n in spec.get("lengths", base.LENGTHS)]
    expect = {"versions": base.VERSIONS, "sequences": sequences, "score": {}}
    kinds = [False] if spec.get("sft") is False else [False, True]
    if True in kinds:
        base.make_adapter({"lora": spec.get("lora", LORA)}, folder, gen)
        if base.AutoModelForCausalLM is experts.Modules:
            experts.check_adapter(folder)
    for adapter in kinds:
        key = "adapter" if adapter else "base"
        full, half = base.load(folder, torch.float32, adapter), base.load(folder, torch.bfloat16, adapter)
        expect["score"][key] = {"fp32": base.score_all(full, sequences), "bf16": base.score_all(half, sequences)}
        if not adapter:
            if "lengths" not in spec:
                expect["greedy"] = [base.greedy(full, s[:n], 12) for s, n in ((sequences[2], 7), (sequences[3], 20))]
            for scheme in fp8_sim.SCHEMES if spec.get("fp8") else ():
                expect["score"][key][scheme] = base.fp8_score(folder, adapter, scheme, sequences, expect["score"][key])
    if spec.get("fp8"):
        expect["quantized"] = {s: fp8_sim.fingerprints(base.load(folder, torch.bfloat16), s) for s in fp8_sim.SCHEMES}
    if True in kinds:
        expect["sft"] = base.make_sft(folder, tok, rng)
    base.write_json(os.path.join(folder, "expect.json"), expect)


def main():
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    for name, spec in MODELS.items():
        if len(sys.argv) > 1 and name not in sys.argv[1:]:
            continue
        with tempfile.TemporaryDirectory() as tmp:
            folder, target = os.path.join(tmp, name), os.path.join(ROOT, name)
            make_expect(name, spec, folder, *make_model(spec, folder))
            os.remove(os.path.join(folder, "model.safetensors"))
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(folder, target)
        print(name, sum(os.path.getsize(os.path.join(d, f)) for d, _, fs in os.walk(target) for f in fs), "bytes", flush=True)


if __name__ == "__main__":
    main()
