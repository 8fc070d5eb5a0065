#!/usr/bin/env python3
"""Adapters as PEFT itself saves them, for tests/train/test_peft.c: ones to read, and ones to refuse by the name of what they use.

Run from the repository's root: python tests/golden/make_goldens_peft.py
Writes tests/golden/data/peft/NAME/ and expect.json with the values of those to be read, as safetensors' own reader gives them.
Made with peft 0.21.2, transformers 5.23.0, torch 2.15.0, safetensors 0.8.0.
"""
import json
import pathlib
import shutil

import peft
import torch
import transformers
from safetensors import safe_open

OUT = pathlib.Path("tests/golden/data/peft")
CONFIG = dict(hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=4,
              vocab_size=16, max_position_embeddings=32, tie_word_embeddings=False)
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

READ = {
    "plain": dict(r=2, lora_alpha=4, target_modules=ALL),
    "rslora": dict(r=4, lora_alpha=16, use_rslora=True, lora_dropout=0.1, target_modules=["q_proj", "self_attn.v_proj"]),
    "pattern": dict(r=2, lora_alpha=4, target_modules=r".*\.1\.mlp\.(up|down)_proj"),
    "all_linear": dict(r=1, target_modules="all-linear"),
    "one_layer": dict(r=2, lora_alpha=3, target_modules=["o_proj"], layers_to_transform=0),
    "half": dict(r=2, lora_alpha=4, target_modules=["k_proj"]),
    "bfloat": dict(r=2, lora_alpha=4, target_modules=["k_proj"]),
}
REFUSED = {
    "dora": dict(use_dora=True, target_modules=["q_proj"]),
    "rank_pattern": dict(rank_pattern={"q_proj": 4}, target_modules=["q_proj", "k_proj"]),
    "alpha_pattern": dict(alpha_pattern={"q_proj": 4}, target_modules=["q_proj", "k_proj"]),
    "modules_to_save": dict(modules_to_save=["lm_head"], target_modules=["q_proj"]),
    "bias": dict(bias="lora_only", target_modules=["q_proj"]),
    "lora_bias": dict(lora_bias=True, target_modules=["q_proj"]),
    "lm_head": dict(target_modules=["q_proj", "lm_head"]),
    "embed": dict(target_modules=["embed_tokens"]),
    "tokens": dict(trainable_token_indices=[1, 2], target_modules=["q_proj"]),
    "pissa": dict(init_lora_weights="pissa", target_modules=["q_proj"]),
    "alora": dict(alora_invocation_tokens=[1, 2], target_modules=["q_proj"]),
    "parameters": dict(target_parameters=["mlp.down_proj.weight"], target_modules=["q_proj"]),
}


def make(name, args):
    torch.manual_seed(1)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**CONFIG))
    model = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **{"r": 2, **args}))
    for key, p in model.named_parameters():
        if "lora_" in key:
            torch.nn.init.normal_(p, std=0.1)
    model.to({"half": torch.float16, "bfloat": torch.bfloat16}.get(name, torch.float32))
    folder = OUT / name
    model.save_pretrained(folder)
    (folder / "README.md").unlink()
    return folder


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    expect = {"versions": {m.__name__: m.__version__ for m in (peft, transformers, torch)}, "read": {}, "refused": sorted(REFUSED)}
    for name, args in READ.items():
        folder = make(name, args)
        with safe_open(folder / "adapter_model.safetensors", "pt") as f:
            tensors = {k: f.get_tensor(k).float().flatten().tolist() for k in f.keys()}
        scale = peft.LoraConfig(**args)
        scaling = scale.lora_alpha / (scale.r ** 0.5 if scale.use_rslora else scale.r)
        expect["read"][name] = {"r": scale.r, "scaling": scaling, "dropout": scale.lora_dropout, "tensors": tensors}
    for name, args in REFUSED.items():
        make(name, args)
    (OUT / "expect.json").write_text(json.dumps(expect) + "\n")


if __name__ == "__main__":
    main()
