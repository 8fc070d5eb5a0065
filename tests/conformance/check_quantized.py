#!/usr/bin/env python3
"""Checkpoints of `tandem quantize` as transformers and compressed-tensors load them. Needs torch, transformers, compressed-tensors,
accelerate and safetensors; run from the repository's root:

    python tests/conformance/check_quantized.py --tandem BUILD/tandem [--model FOLDER ...] [--gguf FILE]

Each model is quantized in each scheme, and loaded by transformers with from_pretrained, without a warning about a missing or unexpected
tensor. Its weights, dequantized by the library, must be code * scale of the written tensors, and the codes and scales must be those of
the definition (amax / 448, round to nearest even), computed here with torch. With a GGUF, the tokenizer written must give the ids of the
one transformers reads from the GGUF itself.
"""
import argparse
import json
import logging
import pathlib
import subprocess
import sys
import tempfile

import safetensors.torch
import torch
import transformers

transformers.utils.logging.disable_progress_bar()

TINY = [f"tests/golden/data/models/{m}" for m in ("llama3", "llama_linear", "mistral", "qwen2", "qwen3", "qwen3_wide")]
CASES = [("fp8_channel", []), ("fp8_channel", ["--activations", "none"]), ("fp8_channel", ["--keep-bf16", "mlp", "--first-layers-bf16", "1"]),
         ("fp8_block", []), ("fp8_block", ["--format", "compressed-tensors"]), ("fp8_tensor", []), ("bf16", [])]
TEXTS = ["Hello, world!", "  two  spaces\n\n\tand\ttabs ", "123 4567 3.14159 2024-11-24", "naïve café — ÄÖÜ ß 東京 😀👩‍👩‍👧", "don't I'LL we've",
         "<|im_start|>user\nHi<|im_end|>\n", "def f(x):\n    return x**2  # done\n", "", " ", "a" * 300, "ﬁ Å e\u0301"]
# transformers reads a GGUF's tokenizer without looking at tokenizer.ggml.pre, so it does not set a numeral like this one apart.
OUR_TEXTS = ["ﬁ ① Å ½ x² 三 ٣"]


def tensors(folder):
    out = {}
    for path in sorted(folder.glob("*.safetensors")):
        out.update(safetensors.torch.load_file(path))
    return out


def expand(scale, shape):
    if scale.numel() == 1:
        return scale.reshape(1, 1)
    if scale.shape[-1] == 1 and scale.shape[0] == shape[0]:
        return scale
    return scale.repeat_interleave(128, 0).repeat_interleave(128, 1)[: shape[0], : shape[1]]


def by_definition(w, scheme):
    w = w.float()
    if scheme == "fp8_tensor":
        amax = w.abs().max().reshape(1)
    elif scheme == "fp8_channel":
        amax = w.abs().amax(1, keepdim=True)
    else:
        n, k = w.shape
        padded = torch.nn.functional.pad(w, (0, -k % 128, 0, -n % 128))
        amax = padded.reshape(padded.shape[0] // 128, 128, padded.shape[1] // 128, 128).abs().amax((1, 3))
    scale = torch.where(amax > 0, amax / 448, torch.ones_like(amax))
    return (w / expand(scale, w.shape)).clamp(-448, 448).to(torch.float8_e4m3fn), scale


def check_codes(stored, reference, scheme):
    """Codes and scales are those of the definition; returns module -> dequantized weight."""
    out = {}
    for name, codes in stored.items():
        if codes.dtype != torch.float8_e4m3fn:
            continue
        module = name.removesuffix(".weight")
        scale = stored.get(module + ".weight_scale", stored.get(module + ".weight_scale_inv"))
        assert scale is not None and scale.dtype == torch.float32, module
        want_codes, want_scale = by_definition(reference[name], scheme)
        assert torch.equal(scale, want_scale), f"{module}: scales"
        assert torch.equal(codes.view(torch.uint8), want_codes.view(torch.uint8)), f"{module}: codes"
        out[module] = codes.float() * expand(scale, codes.shape)
    return out


class Strict(logging.Handler):
    """What transformers says while it loads; a lost tensor is only ever a log line."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


def load(folder):
    watch = Strict()
    logger = logging.getLogger("transformers")
    logger.addHandler(watch)
    try:
        model, info = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    finally:
        logger.removeHandler(watch)
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[key], f"{key}: {info[key]}"
    bad = [l for l in watch.lines if "MISSING" in l or "UNEXPECTED" in l or "newly initialized" in l]
    assert not bad, bad
    return model.eval()


def library_weight(model, module):
    """The weight a library's forward would use, where it is at hand."""
    m = model.get_submodule(module)
    w = m.weight.detach()
    if w.dtype != torch.float8_e4m3fn:
        return w.float()
    scale = getattr(m, "weight_scale", getattr(m, "weight_scale_inv", None))
    return w.float() * expand(scale.float(), w.shape)


def check(tandem, source, scheme, options, folder):
    out = folder / "out"
    done = subprocess.run([tandem, "quantize", "--model", source, "--scheme", scheme, "--output", out, *options], check=True, capture_output=True, text=True)
    said = json.loads(done.stdout)
    stored = tensors(out)
    if pathlib.Path(source).is_dir():
        reference = tensors(pathlib.Path(source))
    else:
        reference = {k: v.float() for k, v in transformers.AutoModelForCausalLM.from_pretrained(
            pathlib.Path(source).parent, gguf_file=pathlib.Path(source).name, dtype=torch.float32).state_dict().items()}
    modules = check_codes(stored, reference, scheme)
    assert len(modules) == said["modules_quantized"]
    for name, t in stored.items():
        if t.dtype == torch.bfloat16:
            assert torch.equal(t, reference[name].bfloat16()), name
    divisible = all(stored[m + ".weight"].shape[0] % 128 == 0 and stored[m + ".weight"].shape[1] % 128 == 0 for m in modules)
    if said["format"] == "fp8" and not divisible:
        return "codes and scales right (transformers cannot dequantize partial blocks)"
    model = load(out)
    if said["format"] == "fp8":  # was dequantized to bfloat16 while loading
        model = model.float()
    for module, want in modules.items():
        got = library_weight(model, module)
        exact = torch.equal(got, want)
        assert exact or torch.equal(got, want.bfloat16().float()), f"{module}: {(got - want).abs().max()}"
    if scheme == "fp8_block" and not divisible:
        return "weights right (compressed-tensors cannot compute with partial groups)"
    ids = torch.arange(24).reshape(2, 12) * 7 % model.config.vocab_size
    with torch.no_grad():
        got = model(ids).logits.float()
        plain = transformers.AutoModelForCausalLM.from_config(model_config(out), dtype=torch.float32).eval()
        state = {k: v.float() for k, v in stored.items() if not k.endswith(("_scale", "_scale_inv"))}
        state.update({m + ".weight": w for m, w in modules.items()})
        if plain.config.tie_word_embeddings:
            state["lm_head.weight"] = state["model.embed_tokens.weight"]
        plain.load_state_dict(state)
        want = plain(ids).logits
    error = (got - want).abs().max().item() / want.abs().max().item()
    exact = not modules or "none" in options or said["format"] == "fp8"  # fp8 was dequantized: its activations are not quantized here
    assert error < (0.001 if exact else 0.3), f"logits differ by {error:.4f} of the largest"
    return f"logits within {error:.4f} of the largest{'' if exact else ' (the library quantizes activations, the reference does not)'}"


def model_config(folder):
    config = transformers.AutoConfig.from_pretrained(folder)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    return config


def check_tokenizer(tandem, gguf, folder):
    out = folder / "tokenizer"
    subprocess.run([tandem, "quantize", "--model", gguf, "--scheme", "fp8_channel", "--output", out], check=True, capture_output=True)
    ours = transformers.AutoTokenizer.from_pretrained(out)
    theirs = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    for text in TEXTS + OUR_TEXTS:
        a, b = ours(text)["input_ids"], theirs(text)["input_ids"]
        assert a == b or text in OUR_TEXTS, (text, a, b)
        line = json.dumps(text)
        for model in (gguf, out):
            said = subprocess.run([tandem, "tokenize", "--model", model], input=line + "\n", check=True, capture_output=True, text=True)
            assert json.loads(said.stdout)["ids"] == a, (text, model, said.stdout, a)
        assert ours.decode(a) == theirs.decode(a), text
    messages = [{"role": "user", "content": "What is 2+2?"}]
    assert ours.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == theirs.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True)
    assert (ours.bos_token, ours.eos_token) == (theirs.bos_token, theirs.eos_token)


def whole_blocks(folder):
    """A model whose every dimension is a multiple of 128: the others cannot be loaded with block scales."""
    torch.manual_seed(5)
    config = transformers.LlamaConfig(hidden_size=256, intermediate_size=384, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                                      head_dim=64, vocab_size=128, tie_word_embeddings=True)
    transformers.LlamaForCausalLM(config).bfloat16().save_pretrained(folder)
    return str(folder)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tandem", required=True)
    parser.add_argument("--model", action="append")
    parser.add_argument("--gguf", type=pathlib.Path)
    args = parser.parse_args()
    tandem = pathlib.Path(args.tandem).resolve()
    made = tempfile.TemporaryDirectory()
    for source in (args.model or TINY) + [whole_blocks(pathlib.Path(made.name) / "whole_blocks")]:
        for scheme, options in CASES:
            with tempfile.TemporaryDirectory() as folder:
                said = check(tandem, source, scheme, options, pathlib.Path(folder))
            print(source, scheme, *options, "->", said, flush=True)
    if args.gguf:
        with tempfile.TemporaryDirectory() as folder:
            check_tokenizer(tandem, args.gguf, pathlib.Path(folder))
        print(args.gguf, "tokenizer: the same ids")
        for scheme, options in CASES[:2] + CASES[5:6]:
            with tempfile.TemporaryDirectory() as folder:
                said = check(tandem, str(args.gguf), scheme, options, pathlib.Path(folder))
            print(args.gguf, scheme, *options, "->", said, flush=True)
    import compressed_tensors
    print(f"transformers {transformers.__version__}, compressed-tensors {compressed_tensors.__version__}: all agree")


if __name__ == "__main__":
    sys.exit(main())
