#!/usr/bin/env python3
"""From a GGUF to a folder: config.json, tokenizer.json and weights made by `tandem quantize`. Needs torch, transformers, tokenizers, gguf:

    python tests/conformance/check_gguf_export.py --tandem BUILD/tandem

For each architecture and pre-tokenizer a small random model and a BPE trained here are written as a GGUF in the way llama.cpp's converter
does it. The folder tandem makes of it must load into transformers, give the logits of the model the GGUF was made from, and tokenize like
the tokenizer it was made from.
"""
import argparse
import json
import pathlib
import subprocess
import tempfile

import gguf
import numpy
import tokenizers
import torch
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

transformers.utils.logging.disable_progress_bar()
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace("{1,3}", "")
SPECIAL = ["<|bos|>", "<|eos|>", "<|im_start|>", "<|im_end|>"]
TEXTS = ["Hello, world! It's the THE'S don't", "  two  spaces\n\n\tand\ttabs \r\n", "123 4567 3.14159 2024-11-24 1234567", "naïve café — ÄÖÜ ß 東京 😀",
         "<|im_start|>user\nHi<|im_end|>\n", "def f(x):\n    return x**2  # done\n", "", " ", "ﬁ ① Å e\u0301 ½ ٣", "a" * 50, "$+<=>^~|"]
ROPE3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192)
SHAPE = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False,
             max_position_embeddings=32768, bos_token_id=0, eos_token_id=1, initializer_range=0.1)
LLAMA, QWEN2M, QWEN3M = transformers.LlamaConfig, transformers.Qwen2Config, transformers.Qwen3Config
CASES = [("llama-bpe", "llama", LLAMA, dict(rope_theta=500000.0, rope_scaling=ROPE3)), ("smollm", "llama", LLAMA, dict(tie_word_embeddings=True)),
         ("gpt-2", "llama", LLAMA, dict(rope_theta=20000.0, rope_scaling=dict(rope_type="linear", factor=4.0))), ("qwen2", "qwen2", QWEN2M, {}),
         ("qwen2", "qwen3", QWEN3M, dict(head_dim=32))]


def train(pre):
    t = tokenizers.Tokenizer(models.BPE(ignore_merges=pre == "llama-bpe"))
    byte_level = lambda regex: pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=regex)
    split = lambda regex: pre_tokenizers.Split(tokenizers.Regex(regex), "isolated")
    t.pre_tokenizer = {"llama-bpe": lambda: pre_tokenizers.Sequence([split(LLAMA3), byte_level(False)]),
                       "qwen2": lambda: pre_tokenizers.Sequence([split(QWEN2), byte_level(False)]),
                       "smollm": lambda: pre_tokenizers.Sequence([pre_tokenizers.Digits(True), byte_level(True)]),
                       "gpt-2": lambda: byte_level(True)}[pre]()
    if pre == "qwen2":
        t.normalizer = normalizers.NFC()
    t.decoder = decoders.ByteLevel()
    files = [str(p) for p in sorted(pathlib.Path("runtime").rglob("*.c"))][:20]
    t.train(files, trainers.BpeTrainer(vocab_size=1000, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    if pre == "llama-bpe":
        t.post_processor = processors.TemplateProcessing(single="<|bos|> $A", pair="<|bos|> $A <|bos|> $B", special_tokens=[("<|bos|>", 0)])
    return t


def permute(w, heads):
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def rope_factors(config):
    """llama.cpp, convert_hf_to_gguf.py, LlamaModel.generate_extra_tensors."""
    dim, p = config.hidden_size // config.num_attention_heads, ROPE3
    freqs = 1.0 / (500000.0 ** (numpy.arange(0, dim, 2, dtype=numpy.float32) / dim))
    low, high = p["original_max_position_embeddings"] / p["low_freq_factor"], p["original_max_position_embeddings"] / p["high_freq_factor"]
    out = []
    for f in freqs:
        wave = 2 * numpy.pi / f
        if wave < high:
            out.append(1)
        elif wave > low:
            out.append(p["factor"])
        else:
            smooth = (p["original_max_position_embeddings"] / wave - p["low_freq_factor"]) / (p["high_freq_factor"] - p["low_freq_factor"])
            out.append(1 / ((1 - smooth) / p["factor"] + smooth))
    return numpy.array(out, dtype=numpy.float32)


def write_gguf(path, arch, pre, model, tokenizer, extra):
    c = model.config
    w = gguf.GGUFWriter(path, arch)
    w.add_block_count(c.num_hidden_layers)
    w.add_context_length(c.max_position_embeddings)
    w.add_embedding_length(c.hidden_size)
    w.add_feed_forward_length(c.intermediate_size)
    w.add_head_count(c.num_attention_heads)
    w.add_head_count_kv(c.num_key_value_heads)
    w.add_layer_norm_rms_eps(c.rms_norm_eps)
    w.add_rope_freq_base(extra.get("rope_theta", 10000.0))
    if "head_dim" in extra:
        w.add_key_length(extra["head_dim"])
        w.add_value_length(extra["head_dim"])
    scaling = extra.get("rope_scaling", {})
    if scaling.get("rope_type") == "linear":
        w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        w.add_rope_scaling_factor(scaling["factor"])
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre(pre)
    vocab = sorted(tokenizer.get_vocab().items(), key=lambda kv: kv[1])
    w.add_token_list([k for k, _ in vocab])
    w.add_token_types([gguf.TokenType.CONTROL if k in SPECIAL else gguf.TokenType.NORMAL for k, _ in vocab])
    w.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in json.loads(tokenizer.to_str())["model"]["merges"]])
    w.add_bos_token_id(0)
    w.add_eos_token_id(1)
    if scaling.get("rope_type") == "llama3":
        w.add_tensor("rope_freqs.weight", rope_factors(c))
    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, arch.upper()), c.num_hidden_layers)
    for name, t in model.state_dict().items():
        if name == "lm_head.weight" and c.tie_word_embeddings:
            continue
        data = t.float().numpy()
        if arch == "llama" and name.endswith("q_proj.weight"):
            data = permute(data, c.num_attention_heads)
        if arch == "llama" and name.endswith("k_proj.weight"):
            data = permute(data, c.num_key_value_heads)
        w.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), numpy.ascontiguousarray(data))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def check(tandem, pre, arch, config_class, extra, folder):
    tokenizer = train(pre)
    torch.manual_seed(3)
    config = config_class(**{**SHAPE, "vocab_size": tokenizer.get_vocab_size(), **extra})
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    for p in model.parameters():
        p.data = p.data.bfloat16().float()
        if p.ndim == 1:  # norms and biases are ones and zeros at first
            p.data = (p.data + 0.1 * torch.randn_like(p)).bfloat16().float()
    source, out = folder / "model.gguf", folder / "out"
    write_gguf(source, arch, pre, model, tokenizer, extra)
    subprocess.run([tandem, "quantize", "--model", source, "--scheme", "bf16", "--output", out], check=True, capture_output=True)
    made, info = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32, output_loading_info=True)
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    assert type(made) is type(model)
    ids = torch.arange(60).reshape(1, 60) * 13 % config.vocab_size
    with torch.no_grad():
        want, got = model(ids).logits, made.eval()(ids).logits
    error = ((got - want).abs().max() / want.abs().max()).item()
    assert error < 1e-5, f"logits differ by {error}"
    ours, automatic = tokenizers.Tokenizer.from_file(str(out / "tokenizer.json")), transformers.AutoTokenizer.from_pretrained(out)
    for text in TEXTS:
        ids = tokenizer.encode(text).ids
        assert ours.encode(text).ids == ids, (text, ids, ours.encode(text).ids)
        assert automatic(text)["input_ids"] == ids, (text, ids, automatic(text)["input_ids"])
        assert ours.decode(ids) == tokenizer.decode(ids) and ours.decode(ids, skip_special_tokens=False) == tokenizer.decode(ids, skip_special_tokens=False)
    lines = "".join(json.dumps(t) + "\n" for t in TEXTS)
    for path in (source, out):
        said = subprocess.run([tandem, "tokenize", "--model", path], input=lines, check=True, capture_output=True, text=True).stdout.splitlines()
        assert [json.loads(s)["ids"] for s in said] == [tokenizer.encode(t).ids for t in TEXTS], path
    print(f"{arch} {pre}: logits within {error:.1e}, the same ids", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tandem", required=True)
    tandem = pathlib.Path(parser.parse_args().tandem).resolve()
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            check(tandem, *case, pathlib.Path(folder))
    print(f"transformers {transformers.__version__}, tokenizers {tokenizers.__version__}: all agree")


if __name__ == "__main__":
    main()
