#!/usr/bin/env python3
"""Goldens of SentencePiece's BPE in a GGUF: tests/golden/data/tokenizer/spm*.gguf and spm.json, as make_tokenizer.py makes those of byte-level
BPE. Merges of the reference are transformers' (generate_merges). From the repository's root:

    python tests/golden/make_tokenizer_spm.py --gsm8k test.jsonl
"""
import argparse
import json
import random

import gguf
import tokenizers
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
from transformers.convert_slow_tokenizer import generate_merges

import make_tokenizer as base

MARK = "\u2581"


def vocabulary(samples):
    t = Tokenizer(models.BPE())
    t.normalizer = normalizers.Replace(" ", MARK)
    t.train_from_iterator([s[:200] for s in samples[:60]], tokenizers.trainers.BpeTrainer(vocab_size=420, show_progress=False))
    pieces = [p for p, _ in sorted(t.get_vocab().items(), key=lambda x: x[1])]
    long, single = [p for p in pieces if len(p) > 1], [p for p in pieces if len(p) == 1]
    return ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)] + long + single + ["<tool>"], len(long)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--gsm8k", required=True)
    samples = [d["question"] + "\n" + d["answer"] for d in map(json.loads, open(parser.parse_args().gsm8k, encoding="utf-8"))][:200]
    tokens, long = vocabulary(samples)
    types = [2, 3, 3] + [6] * 256 + [1] * (len(tokens) - 260) + [4]
    scores = [-1000.0] * 3 + [0.0] * 256 + [-float(i) for i in range(len(tokens) - 260)] + [-1000.0]
    vocab = {p: i for i, p in enumerate(tokens)}
    normal = {p: scores[i] for p, i in vocab.items() if types[i] == 1}
    merges = generate_merges({p: vocab[p] for p in normal}, normal)
    rnd, data = random.Random(3), {}
    for name, prefix in (("spm", True), ("spm_bare", False)):
        t = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
        steps = [normalizers.Prepend(MARK)] * prefix + [normalizers.Replace(" ", MARK)]
        t.normalizer = normalizers.Sequence(steps)
        t.decoder = decoders.Sequence([decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse()] + [decoders.Strip(" ", 1, 0)] * prefix)
        t.add_special_tokens([AddedToken(s, normalized=False) for s in ("<s>", "</s>")])
        t.add_tokens([AddedToken("<tool>", normalized=False)])
        t.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
        w = gguf.GGUFWriter(base.OUT / f"{name}.gguf", "llama")
        w.add_tokenizer_model("llama")
        w.add_token_list(tokens)
        w.add_token_scores(scores)
        w.add_token_types(types)
        for key, value in (("bos", 1), ("eos", 2), ("unknown", 0)):
            w.add_uint32(f"tokenizer.ggml.{key}_token_id", value)
        if not prefix:
            w.add_bool("tokenizer.ggml.add_space_prefix", False)
        w.write_header_to_file()
        w.write_kv_data_to_file()
        w.close()
        data[name] = base.cases(t, rnd, samples, ["12345 67", "na\u00efve \U0001f389", "a<tool>b </s> c", "  two\n\n lines\t", ""], 8, 6)
    base.write("spm.json", {"files": data})


if __name__ == "__main__":
    main()
