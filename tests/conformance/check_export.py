#!/usr/bin/env python3
"""`tandem export --what merged` beside peft's merge_and_unload. Needs torch, transformers and peft; run from the repository's root:

    python tests/conformance/check_export.py --tandem BUILD/tandem

For each tiny model and its adapter: the merged folder loads into transformers without a missing or unexpected tensor; its weights are the
bf16 rounding of what peft merges in float32 (at most a few elements round the other way, because sums are made in another order), with the
adapter in bf16 as the engines use it; everything else is the base. Then an FP8 base: the merged weights are those of the dequantized one.
"""
import argparse
import pathlib
import subprocess
import sys
import tempfile

import peft
import safetensors.torch
import torch
import transformers

sys.path.insert(0, "tests/golden")
import seeded

transformers.utils.logging.disable_progress_bar()
MODELS = [pathlib.Path("tests/golden/data/models") / m for m in ("llama3", "llama_linear", "mistral", "qwen2", "qwen3", "qwen3_wide")]
FAMILIES = [pathlib.Path("tests/golden/data/architectures") / m for m in ("phi4_mini", "gemma3")]  # their weights are drawn


def load(path):
    model, info = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, output_loading_info=True)
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model.eval()


def merged_by_peft(base, adapter):
    model = peft.PeftModel.from_pretrained(base, adapter)
    for name, p in model.named_parameters():
        if "lora_" in name:
            p.data = p.data.bfloat16().float()
    return model.merge_and_unload().state_dict()


def dequantized(folder):
    """The float weights of a compressed-tensors folder, from its bytes."""
    t = safetensors.torch.load_file(folder / "model.safetensors")
    return {k: (v.float() * t[k + "_scale"] if v.dtype == torch.float8_e4m3fn else v.float()) for k, v in t.items() if not k.endswith("_scale")}


def compare(folder, want):
    have = load(folder).state_dict()
    assert have.keys() == want.keys(), have.keys() ^ want.keys()
    differs = total = 0
    for name, w in want.items():
        rounded, h = w.bfloat16(), have[name].bfloat16()
        assert torch.equal(h.float(), have[name].float()), f"{name} is not bf16"
        ulps = (h.view(torch.int16).int() - rounded.view(torch.int16).int()).abs()
        near_zero = (h.float() - rounded.float()).abs() < 1e-7
        assert (ulps[~near_zero] <= 1).all(), f"{name}: {ulps.max()} steps of bf16 apart"
        differs, total = differs + int((ulps > 0).sum()), total + ulps.numel()
    assert differs <= total / 1000, f"{differs} of {total} elements round the other way"
    return f"{differs} of {total} elements one rounding apart"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tandem", required=True)
    tandem = pathlib.Path(parser.parse_args().tandem).resolve()
    for golden in MODELS + FAMILIES:
        for scheme in ("bf16", "fp8_channel"):
            with tempfile.TemporaryDirectory() as folder:
                folder = pathlib.Path(folder)
                model = golden
                if golden in FAMILIES:
                    model = folder / golden.name
                    model.mkdir()
                    seeded.materialize(golden, model)
                out, adapter = folder / "merged", model / "adapter"
                said = subprocess.run([tandem, "export", "--what", "merged", "--model", model, "--adapter", adapter, "--weights", scheme, "--output", out],
                                      check=True, capture_output=True, text=True).stdout.strip()
                base = load(model)
                if scheme == "bf16":
                    state = {k: v.bfloat16().float() for k, v in base.state_dict().items()}
                else:
                    subprocess.run([tandem, "quantize", "--model", model, "--scheme", scheme, "--output", folder / "q"], check=True, capture_output=True)
                    state = dequantized(folder / "q")
                    if "lm_head.weight" not in state:
                        state["lm_head.weight"] = state["model.embed_tokens.weight"]
                base.load_state_dict(state)
                print(model.name, scheme, compare(out, merged_by_peft(base, adapter)), said, flush=True)
    print(f"peft {peft.__version__}, transformers {transformers.__version__}: all agree")


if __name__ == "__main__":
    main()
