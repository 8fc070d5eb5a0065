#!/usr/bin/env python3
"""`tandem score`, `tokenize`, `quantize` and `generate` against what transformers said about the tiny models.

    score.py --tandem build/cpu-release/tandem --grpo-train build/cpu-release/grpo_train

bf16   mean |difference| to transformers in FP32 is no greater than that of transformers in BF16, with and without an adapter
fp8    the shift away from BF16 goes with the shift of a PyTorch simulation, about as well as two simulations go with each other
bits   both engines give the same bits, whatever the order and the company of a sequence (dynamic fp8_tensor, whose scale is of the
       whole call, is measured only)
"""
import json
import os
import random

from harness import (MODELS, Report, arguments, correlation, deviation, expect, flat, mean, mean_abs_difference, read_json, read_jsonl,
                     read_safetensors, run_ok, scratch, write_jsonl)
import hashlib

LAYER_SCHEMES = ("fp8_tensor", "fp8_channel", "fp8_block")


class Model:
    def __init__(self, args, name, tmp):
        self.args, self.tandem, self.path, self.tmp = args, args.tandem, os.path.join(MODELS, name), tmp
        self.expected = read_json(os.path.join(self.path, "expect.json"))
        self.sequences = self.expected["sequences"]
        self.cache = {}

    def score(self, engine, scheme, adapter, order=None):
        """Log-probabilities in the order of `sequences`, as the text of the file has them."""
        key = (engine, scheme, adapter)
        if order is None and key in self.cache:
            return self.cache[key]
        rows = list(range(len(self.sequences))) if order is None else order
        source, target = os.path.join(self.tmp, "in.jsonl"), os.path.join(self.tmp, "out.jsonl")
        write_jsonl(source, [{"ids": self.sequences[i]} for i in rows])
        argv = [self.tandem, "score", "--model", self.path, "--weights", scheme, "--engine", engine, "--input", source, "--output", target]
        run_ok(argv + (["--adapter", os.path.join(self.path, "adapter")] if adapter else []))
        got = read_jsonl(target)
        expect(len(got) == len(rows), f"{len(got)} lines for {len(rows)} sequences")
        for i, row in zip(rows, got):
            expect(row["ids"] == self.sequences[i], f"line for sequence {i} has other ids")
            expect(len(row["logprobs"]) == len(row["ids"]), f"sequence {i}: {len(row['logprobs'])} log-probabilities, {len(row['ids'])} ids")
        out = [None] * len(self.sequences)
        for i, row in zip(rows, got):
            out[i] = row["logprobs"]
        if order is None:
            self.cache[key] = out
        return out


def bf16_no_worse_than_transformers(m, adapter):
    want = m.expected["score"]["adapter" if adapter else "base"]
    ours = mean_abs_difference(flat(m.score("infer", "bf16", adapter)), flat(want["fp32"]))
    theirs = mean_abs_difference(flat(want["bf16"]), flat(want["fp32"]))
    expect(ours <= theirs, f"mean |difference to FP32| {ours:.6f}, transformers in BF16 {theirs:.6f}")
    return f"mean |d| {ours:.6f} of {theirs:.6f} ({ours / theirs:.0%})"


def fp8_shifts_as_simulated(m, adapter, scheme):
    want = m.expected["score"]["adapter" if adapter else "base"]
    sim = want[scheme]
    theirs = [a - b for a, b in zip(flat(sim["bf16"]), flat(want["bf16"]))]
    ours = [a - b for a, b in zip(flat(m.score("infer", scheme, adapter)), flat(m.score("infer", "bf16", adapter)))]
    c, bias, std = correlation(ours, theirs), mean(ours), deviation(ours)
    # Two simulations that differ only in the precision around the linears reach `correlation`; 246 values leave it a standard error
    # of about 0.03. A wrong scale or a transposed block gives values near 0.
    expect(c >= sim["correlation"] - 0.12, f"correlation {c:.3f}, two simulations reach {sim['correlation']:.3f}")
    expect(0.8 <= std / sim["std"] <= 1.25, f"spread of the shift {std:.4f}, simulated {sim['std']:.4f}")
    error = 4 * sim["std"] / len(ours) ** 0.5 * (2 - 2 * sim["correlation"]) ** 0.5
    expect(abs(bias - sim["bias"]) <= error, f"bias {bias:+.5f}, simulated {sim['bias']:+.5f}, 4 standard errors {error:.5f}")
    return f"correlation {c:.3f} (simulations {sim['correlation']:.3f}), bias {bias:+.5f} ({sim['bias']:+.5f}), std {std:.4f} ({sim['std']:.4f})"


def engines_agree_bitwise(m, scheme, adapter):
    a, b = m.score("infer", scheme, adapter), m.score("train", scheme, adapter)
    for i, (x, y) in enumerate(zip(a, b)):
        for t, (p, q) in enumerate(zip(x, y)):
            expect(p == q, f"sequence {i} of {len(x)} tokens, token {t}: infer {p!r}, train {q!r}")


def company_changes_no_bit(m, scheme, adapter):
    rng = random.Random(5)
    whole = m.score("infer", scheme, adapter)
    count = len(m.sequences)
    for engine in ("infer", "train"):
        for order in (list(reversed(range(count))), rng.sample(range(count), count), [4], [6, 1], [5, 0, 5, 3]):
            got = m.score(engine, scheme, adapter, order)
            for i in set(order):
                expect(got[i] == whole[i], f"{engine}, order {order}: sequence {i} differs: {got[i][:4]} and {whole[i][:4]}")


def tokenizer_agrees(m):
    lines = "".join(json.dumps(t["text"]) + "\n" for t in m.expected["tokenize"])
    r = run_ok([m.tandem, "tokenize", "--model", m.path], stdin=lines.encode())
    got = [json.loads(line) for line in r.out.splitlines()]
    for want, have in zip(m.expected["tokenize"], got):
        expect(have["ids"] == want["ids"], f"{want['text']!r}: {have['ids']}, want {want['ids']}")
    r = run_ok([m.tandem, "tokenize", "--model", m.path, "--decode"], stdin=(json.dumps({"ids": m.expected["tokenize"][0]["ids"]}) + "\n").encode())
    expect(json.loads(r.out)["text"] == m.expected["tokenize"][0]["text"], f"decoded {r.out!r}")


def greedy_agrees(m):
    source = os.path.join(m.tmp, "prompts.jsonl")
    write_jsonl(source, [{"ids": g["prompt_ids"]} for g in m.expected["greedy"]])
    r = run_ok([m.tandem, "generate", "--model", m.path, "--weights", "bf16", "--input", source, "--max-new", "12", "--temperature", "0", "--json"])
    got = [json.loads(line) for line in r.out.splitlines()]
    expect(len(got) == len(m.expected["greedy"]), f"{len(got)} lines")
    compared = 0
    for want, have in zip(m.expected["greedy"], got):
        ids = have.get("completion_ids", have.get("ids"))
        for t, (token, margin) in enumerate(zip(want["ids"], want["margins"])):
            if margin < 0.05 or t >= len(ids):
                break
            expect(ids[t] == token, f"token {t}: {ids[t]}, transformers {token} with margin {margin}")
            compared += 1
            if token == 2:  # the model's eos
                break
    return f"{compared} tokens"


def sampled_logprobs_are_scored(m, scheme="fp8_channel"):
    """What `generate` records at temperature 1 are the bits `score` gives for the same ids."""
    source = os.path.join(m.tmp, "prompts.jsonl")
    write_jsonl(source, [{"ids": s[:9]} for s in m.sequences if len(s) >= 9])
    r = run_ok([m.tandem, "generate", "--model", m.path, "--weights", scheme, "--input", source, "--max-new", "20", "--temperature", "1", "--exact",
                "--n", "3", "--seed", "11", "--json"])
    rows = [json.loads(line) for line in r.out.splitlines()]
    again = run_ok(r.argv)
    expect(again.out == r.out, "the same seed gave other completions")
    ids = [row["prompt_ids"] + row["completion_ids"] for row in rows]
    scored, out = os.path.join(m.tmp, "sampled.jsonl"), os.path.join(m.tmp, "scored.jsonl")
    write_jsonl(scored, [{"ids": x} for x in ids])
    run_ok([m.tandem, "score", "--model", m.path, "--weights", scheme, "--exact", "--engine", "train", "--input", scored, "--output", out])
    for row, got in zip(rows, read_jsonl(out)):
        tail = got["logprobs"][len(row["prompt_ids"]):]
        expect(tail == row["logprobs"], f"sampled {row['logprobs'][:4]}, scored {tail[:4]}")
    return f"{sum(len(row['completion_ids']) for row in rows)} tokens"


def quantized_bits_agree(m, scheme):
    """Codes and scales of `tandem quantize` are the simulation's, bit by bit, whatever names and shapes the layout gives the scales."""
    out = os.path.join(m.tmp, "quantized-" + scheme)
    run_ok([m.tandem, "quantize", "--model", m.path, "--scheme", scheme, "--output", out])
    tensors = {}
    for f in sorted(os.listdir(out)):
        if f.endswith(".safetensors"):
            tensors.update(read_safetensors(os.path.join(out, f)))
    digest = lambda t: hashlib.sha256(t[2]).hexdigest()[:16]
    for name, want in m.expected["quantized"][scheme].items():
        codes = tensors.get(name + ".weight")
        expect(codes and codes[0] == "F8_E4M3", f"{name}.weight: {codes and codes[0]}")
        expect(digest(codes) == want["codes"], f"{name}: other codes")
        scale = tensors.get(name + ".weight_scale") or tensors.get(name + ".weight_scale_inv")
        expect(scale, f"{name}: no scale among {sorted(t for t in tensors if t.startswith(name))}")
        if scale[0] == "F32":
            expect(digest(scale) == want["scale"], f"{name}: other scales")
    again = os.path.join(m.tmp, "again.jsonl")
    write_jsonl(os.path.join(m.tmp, "in.jsonl"), [{"ids": s} for s in m.sequences])
    run_ok([m.tandem, "score", "--model", out, "--engine", "infer", "--input", os.path.join(m.tmp, "in.jsonl"), "--output", again])
    if scheme != "fp8_tensor":
        expect([r["logprobs"] for r in read_jsonl(again)] == m.score("infer", scheme, False), "the checkpoint scores other bits than --weights")


def calibrated(m):
    """A calibration of the model, made once."""
    path = os.path.join(m.tmp, "scales.json")
    if not os.path.exists(path):
        write_jsonl(os.path.join(m.tmp, "text.jsonl"), [{"text": t["text"]} for t in m.expected["tokenize"]])
        run_ok([m.tandem, "calibrate", "--model", m.path, "--data", os.path.join(m.tmp, "text.jsonl"), "--output", path])
    return path


def options_agree_bitwise(m, *options):
    """Both engines, with options that no golden is for: the same bits, and others than without them."""
    source, out = os.path.join(m.tmp, "in.jsonl"), os.path.join(m.tmp, "out.jsonl")
    write_jsonl(source, [{"ids": s} for s in m.sequences])
    got = {}
    for engine in ("infer", "train"):
        run_ok([m.tandem, "score", "--model", m.path, "--engine", engine, "--input", source, "--output", out, *options])
        got[engine] = [row["logprobs"] for row in read_jsonl(out)]
    expect(got["infer"] == got["train"], "the engines differ")
    plain = m.score("infer", "bf16", False)
    shift = mean_abs_difference(flat(got["infer"]), flat(plain))
    expect(0 < shift < 0.2, f"mean |difference to BF16| {shift}")
    return f"mean |difference to BF16| {shift:.4f}"


def scales_reach_the_cache(m):
    """An FP8 cache with calibrated scales is another one than that with scales of 1."""
    source, out = os.path.join(m.tmp, "in.jsonl"), os.path.join(m.tmp, "out.jsonl")
    write_jsonl(source, [{"ids": s} for s in m.sequences])
    rows = []
    for options in ([], ["--activation-scales", calibrated(m)]):
        run_ok([m.tandem, "score", "--model", m.path, "--kv", "fp8", "--input", source, "--output", out] + options)
        rows.append(flat([row["logprobs"] for row in read_jsonl(out)]))
    difference = mean_abs_difference(*rows)
    expect(difference > 0, "the scales change nothing")
    return f"mean |difference| {difference:.4f}"


def main():
    args = arguments(__doc__)
    report = Report()
    for name in sorted(os.listdir(MODELS)):
        with scratch() as tmp:
            m = Model(args, name, tmp)
            tied = read_json(os.path.join(m.path, "config.json"))["tie_word_embeddings"]
            checks = [("tokenize", tokenizer_agrees, m), ("greedy", greedy_agrees, m), ("sampled", sampled_logprobs_are_scored, m)]
            for adapter in (False, True):
                kind = "adapter" if adapter else "base"
                checks.append((f"{kind}/bf16", bf16_no_worse_than_transformers, m, adapter))
                for scheme in ("bf16",) + LAYER_SCHEMES:
                    checks.append((f"{kind}/{scheme}/engines", engines_agree_bitwise, m, scheme, adapter))
                checks.append((f"{kind}/company", company_changes_no_bit, m, "fp8_block" if adapter else "fp8_channel", adapter))
                if "quantized" in m.expected:
                    checks += [(f"{kind}/{s}", fp8_shifts_as_simulated, m, adapter, s) for s in LAYER_SCHEMES]
            checks.append(("head", options_agree_bitwise, m, "--fp8-head", *(["--fp8-embedding"] if tied else [])))
            checks.append(("kv", scales_reach_the_cache, m))
            if not tied:
                checks.append(("embedding", options_agree_bitwise, m, "--fp8-embedding"))
            if tied or name == "qwen3":
                checks.append(("static", options_agree_bitwise, m, "--weights", "fp8_tensor", "--activations", "static", "--kv", "fp8", "--activation-scales",
                               calibrated(m)))
            if "quantized" in m.expected:
                checks += [(f"quantize/{s}", quantized_bits_agree, m, s) for s in LAYER_SCHEMES]
            for label, *check in checks:
                if args.only in f"{name}/{label}":
                    report.run(f"{name}/{label}", *check)
    report.end()


if __name__ == "__main__":
    main()
