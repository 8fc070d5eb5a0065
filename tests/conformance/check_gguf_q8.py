#!/usr/bin/env python3
"""`tandem export --what merged --scheme q8_0` as gguf-py and transformers read it. Needs torch, transformers, gguf and safetensors; run from the
repository's root:

    python tests/conformance/check_gguf_q8.py --tandem BUILD/tandem

For each tiny model and its adapter: the file holds the tensors of llama.cpp's converter, in its names and order of rows; each matrix is, to the byte, gguf-py's Q8_0 of
the merged BF16 weight, each vector its F32; the metadata says the config; transformers loads the file to the dequantized weights, and its tokenizer
gives the ids of the folder's.
"""
import argparse
import pathlib
import subprocess
import sys
import tempfile

import gguf
import numpy
import safetensors.torch
import torch
import transformers

transformers.utils.logging.disable_progress_bar()
MODELS = {"llama3": "llama", "llama_linear": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "qwen3_wide": "qwen3"}
TEXTS = ["Hello, world!", "  two  spaces\n\n\tand\ttabs ", "123 4567 3.14159", "naïve café 東京 😀", "<|im_start|>user\nHi<|im_end|>\n", ""]


def permuted(w, dim):
    """llama.cpp, convert_hf_to_gguf.py, LlamaModel.permute."""
    return w.reshape(w.shape[0] // dim, 2, dim // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def check(tandem, name, arch, tmp):
    source = pathlib.Path("tests/golden/data/models") / name
    argv = [tandem, "export", "--what", "merged", "--model", source, "--adapter", source / "adapter", "--output"]
    subprocess.run(argv + [tmp / "merged"], check=True, capture_output=True)
    said = subprocess.run(argv + [tmp / "model.gguf", "--scheme", "q8_0"], check=True, capture_output=True, text=True).stdout.strip()
    config = transformers.AutoConfig.from_pretrained(source)
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    merged = {k: v.float().numpy() for k, v in safetensors.torch.load_file(tmp / "merged" / "model.safetensors").items()}
    reader = gguf.GGUFReader(tmp / "model.gguf")
    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, arch.upper()), config.num_hidden_layers)
    found = {t.name: t for t in reader.tensors}
    factors = found.pop("rope_freqs.weight", None)
    assert (factors is not None) == (name == "llama3")
    assert set(found) == {names.get_name(k, try_suffixes=(".weight", ".bias")) for k in merged}, set(found)
    for key, w in merged.items():
        t = found[names.get_name(key, try_suffixes=(".weight", ".bias"))]
        if arch == "llama" and (".q_proj." in key or ".k_proj." in key):
            w = permuted(w, dim)
        kind = gguf.GGMLQuantizationType.F32 if w.ndim == 1 else gguf.GGMLQuantizationType.Q8_0 if w.shape[1] % 32 == 0 else gguf.GGMLQuantizationType.F16
        assert t.tensor_type == kind, (key, t.tensor_type)
        want = gguf.quants.quantize(w, kind)
        assert numpy.array_equal(t.data.reshape(-1).view(numpy.uint8), numpy.ascontiguousarray(want).reshape(-1).view(numpy.uint8)), key
    field = lambda key: reader.get_field(key).contents()
    assert field("general.architecture") == arch and field("general.file_type") == gguf.LlamaFileType.MOSTLY_Q8_0
    for key, want in (("block_count", config.num_hidden_layers), ("embedding_length", config.hidden_size), ("feed_forward_length", config.intermediate_size),
                      ("attention.head_count", config.num_attention_heads), ("attention.head_count_kv", config.num_key_value_heads),
                      ("attention.key_length", dim), ("vocab_size", config.vocab_size), ("context_length", config.max_position_embeddings)):
        assert field(f"{arch}.{key}") == want, key
    assert len(field("tokenizer.ggml.tokens")) == config.vocab_size
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp, gguf_file="model.gguf", config=config, dtype=torch.float32)
    loaded = model.state_dict()
    for key, w in merged.items():
        rounded = w if w.ndim == 1 else gguf.quants.dequantize(gguf.quants.quantize(w, gguf.GGMLQuantizationType.Q8_0), gguf.GGMLQuantizationType.Q8_0) \
            if w.shape[1] % 32 == 0 else w.astype(numpy.float16).astype(numpy.float32)
        assert torch.equal(loaded[key], torch.from_numpy(rounded)), key
    ours, theirs = transformers.AutoTokenizer.from_pretrained(tmp, gguf_file="model.gguf"), transformers.AutoTokenizer.from_pretrained(source)
    for text in TEXTS:
        assert ours(text)["input_ids"] == theirs(text)["input_ids"], (text, ours(text)["input_ids"], theirs(text)["input_ids"])
    return said


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tandem", required=True)
    tandem = pathlib.Path(parser.parse_args().tandem).resolve()
    for name, arch in MODELS.items():
        with tempfile.TemporaryDirectory() as tmp:
            print(name, check(tandem, name, arch, pathlib.Path(tmp)), flush=True)
    print(f"gguf-py and transformers {transformers.__version__}: all agree")


if __name__ == "__main__":
    sys.exit(main())
