#!/usr/bin/env python3
"""The adapter files of Tandem as peft sees them. Needs torch, transformers and peft; run from the repository's root:

    python tests/conformance/check_peft.py --adapter-tool BUILD/tests/adapter_tool

adapter_tool (tests/conformance/adapter_tool.c) opens an adapter with tdm_peft_open (tdm_peft_open_head) and saves it with tdm_peft_save. For adapters
that peft made, the copy must load into peft without a warning and compute the same logits to the bit, and hold the same tensors.
"""
import argparse
import json
import pathlib
import subprocess
import tempfile
import warnings

import peft
import torch
import transformers

MODELS = {
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM, {}),
    "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM, {}),
    "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM, dict(head_dim=8)),
}
SHAPE = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, vocab_size=32,
             max_position_embeddings=64, tie_word_embeddings=False)
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ADAPTERS = {
    "all": dict(r=4, lora_alpha=8, target_modules=ALL),
    "rslora": dict(r=2, lora_alpha=16, use_rslora=True, target_modules=["q_proj", "v_proj"]),
    "all-linear": dict(r=1, lora_alpha=3, target_modules="all-linear"),
    "bf16": dict(r=2, lora_alpha=4, target_modules=["o_proj", "down_proj"]),
}


# A critic, a reward model: task_type SEQ_CLS, whose score is one number.
HEADED = {"llama": transformers.LlamaForSequenceClassification, "qwen3": transformers.Qwen3ForSequenceClassification}


def logits(model, tokens):
    with torch.no_grad():
        return model.eval()(tokens).logits


def check(kind, name, tool, folder, headed=False):
    config_class, model_class, extra = MODELS[kind]
    if headed:
        model_class, extra = HEADED[kind], {**extra, "num_labels": 1, "pad_token_id": 0}
    config = config_class(**SHAPE, **extra)
    torch.manual_seed(1)
    base = model_class(config)
    state = {k: v.clone() for k, v in base.state_dict().items()}
    made, copied = folder / "made", folder / "copied"
    config.save_pretrained(folder)

    model = peft.get_peft_model(base, peft.LoraConfig(task_type="SEQ_CLS" if headed else "CAUSAL_LM", **ADAPTERS[name]))
    for key, p in model.named_parameters():
        if "lora_" in key or "score.modules_to_save" in key:
            torch.nn.init.normal_(p, std=0.2)
            if name == "bf16":
                p.data = p.data.bfloat16()
    tokens = torch.arange(12).reshape(1, 12) % 32
    model.save_pretrained(made)

    subprocess.run([tool, folder, made, copied] + (["head"] if headed else []), check=True)

    def loaded(path):
        fresh = model_class(config)
        fresh.load_state_dict(state)
        return peft.PeftModel.from_pretrained(fresh, path)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", FutureWarning)  # transformers to peft, about a name of their own
        ours = loaded(copied)
    theirs = loaded(made)
    assert torch.equal(logits(ours, tokens), logits(theirs, tokens)), "logits differ"
    assert not torch.equal(logits(ours, tokens), logits(model_class(config), tokens)), "the adapter does nothing"
    a, b = peft.get_peft_model_state_dict(ours), peft.get_peft_model_state_dict(theirs)
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a), "tensors differ"
    written = json.loads((copied / "adapter_config.json").read_text())
    known = set(peft.LoraConfig.__dataclass_fields__)
    assert set(written) <= known, f"keys peft does not know: {set(written) - known}"
    ours.merge_and_unload()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--adapter-tool", required=True)
    tool = pathlib.Path(parser.parse_args().adapter_tool).resolve()
    for kind in MODELS:
        for name in ADAPTERS:
            with tempfile.TemporaryDirectory() as folder:
                check(kind, name, tool, pathlib.Path(folder))
            print(f"{kind} {name}: the same bits")
            if kind in HEADED and name != "all-linear":  # which takes the score for a projection
                with tempfile.TemporaryDirectory() as folder:
                    check(kind, name, tool, pathlib.Path(folder), headed=True)
                print(f"{kind} {name} with a head: the same bits")
    print(f"peft {peft.__version__}, transformers {transformers.__version__}: all agree")


if __name__ == "__main__":
    main()
