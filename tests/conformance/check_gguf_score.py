#!/usr/bin/env python3
"""`tandem score` of a GGUF with real weights beside transformers' reading of the same file. Needs torch, transformers, gguf and tokenizers:

    python tests/conformance/check_gguf_score.py --tandem BUILD/tandem --gguf gemma-3-270m-q4_k_m.gguf --gsm8k test.jsonl

Texts are tokenized by Tandem. The rule is that of score.py: mean |difference| to FP32 (over weights rounded to BF16, as both engines and
transformers in BF16 have them) is no greater than that of transformers in BF16; and the two engines give the same bits. One text is longer
than Gemma's window.
"""
import argparse
import json
import os
import pathlib
import subprocess
import tempfile

import torch
from transformers import AutoModelForCausalLM, GgufConfig


def lines(argv, text):
    return [json.loads(line) for line in subprocess.run(argv, input=text, check=True, capture_output=True, text=True).stdout.splitlines()]


def tandem_scores(tandem, model, sequences, engine):
    with tempfile.TemporaryDirectory() as tmp:
        source, target = os.path.join(tmp, "in.jsonl"), os.path.join(tmp, "out.jsonl")
        pathlib.Path(source).write_text("".join(json.dumps({"ids": s}) + "\n" for s in sequences))
        subprocess.run([tandem, "score", "--model", model, "--weights", "bf16", "--engine", engine, "--input", source, "--output", target], check=True)
        return [x for line in open(target) for x in json.loads(line)["logprobs"][1:]]


@torch.no_grad()
def scores(model, sequences):
    out = []
    for ids in sequences:
        logits = model(input_ids=torch.tensor([ids])).logits[0]
        for i in range(0, len(ids) - 1, 64):
            want = torch.tensor(ids[1 + i:65 + i])
            out += torch.log_softmax(logits[i:i + len(want)].float(), -1).gather(-1, want[:, None])[:, 0].tolist()
    return torch.tensor(out)


def reference(path, dtype):
    folder, name = os.path.split(os.path.abspath(path))
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=dtype, quantization_config=GgufConfig(dequantize=True))
    if dtype == torch.float32:
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(p.bfloat16().float())
            for m in model.modules():
                if hasattr(m, "scalar_embed_scale"):  # Gemma's factor is rounded to the weights' dtype
                    m.embed_scale.fill_(float(torch.tensor(m.scalar_embed_scale).bfloat16()))
    return model


def main():
    parser = argparse.ArgumentParser()
    for name in ("tandem", "gguf", "gsm8k"):
        parser.add_argument("--" + name, required=True)
    a = parser.parse_args()
    rows = [d["question"] + "\n" + d["answer"] for d in map(json.loads, open(a.gsm8k, encoding="utf-8"))][:8]
    texts = rows[:4] + ["\n\n".join(rows)]
    sequences = [r["ids"][:800] for r in lines([a.tandem, "tokenize", "--model", a.gguf], "".join(json.dumps(t) + "\n" for t in texts))]
    ours = tandem_scores(a.tandem, a.gguf, sequences, "infer")
    assert ours == tandem_scores(a.tandem, a.gguf, sequences, "train"), "the engines differ"
    full, half = scores(reference(a.gguf, torch.float32), sequences), scores(reference(a.gguf, torch.bfloat16), sequences)
    mine, theirs = (torch.tensor(ours) - full).abs().mean().item(), (half - full).abs().mean().item()
    print(f"{len(ours)} tokens, mean -ln p {-full.mean():.5f}: mean |d| {mine:.6f}, transformers in BF16 {theirs:.6f} ({mine / theirs:.0%})")
    assert mine <= theirs


if __name__ == "__main__":
    main()
