#!/usr/bin/env python3
"""`tandem tokenize` against the tokenizers package, on texts made to be hard. Needs tokenizers; from the repository's root:

    python tests/conformance/check_tokenizer.py --tandem BUILD/tandem [--texts N] [--family N] [--seed S] [MODEL ...]

MODEL is a folder with a tokenizer.json. --family N: also N small tokenizers with steps, flags and added tokens drawn at random.
Ids, and text of random ids with and without special tokens, must be equal in every case.
"""
import argparse
import json
import pathlib
import random
import subprocess
import sys
import tempfile

from tokenizers import Tokenizer

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "golden"))
import tokenizer_cases  # noqa: E402


def run(tandem, model, lines, *options):
    p = subprocess.run([tandem, "tokenize", "--model", model, *options], input="".join(json.dumps(line) + "\n" for line in lines), capture_output=True, text=True)
    return [json.loads(line) for line in p.stdout.split("\n")[:-1]] if p.returncode == 0 else p.stderr


def report(name, what, given, want, got):
    print(f"{name}: {what} {ascii(given)[:300]}\n  tokenizers {ascii(want)[:300]}\n  tandem     {ascii(got)[:300]}")


def compare(tandem, name, path, t, rnd, samples, count):
    tokens = [a.content for a in t.get_added_tokens_decoder().values()] + [t.id_to_token(i) or "" for i in rnd.choices(range(t.get_vocab_size()), k=50)] + [""]
    texts = [tokenizer_cases.random_text(rnd, samples, tokens) for _ in range(count)]
    ids = [[rnd.randrange(t.get_vocab_size()) for _ in range(rnd.choice([0, 1, 2, 3, 10, 50]))] for _ in range(count // 2)]
    bad = 0
    cases = [("encode", texts, [], lambda x: t.encode(x).ids, lambda r: r["ids"])]
    for skip in (False, True):
        cases.append((f"decode, skip {skip},", [{"ids": i} for i in ids], ["--decode"] + ["--skip-special"] * skip,
                      lambda x, skip=skip: t.decode(x["ids"], skip_special_tokens=skip), lambda r: r["text"]))
    for what, lines, options, reference, value in cases:
        want = []
        for line in lines:
            try:
                want.append(reference(line))
            except BaseException as e:  # the reference panics on some: nothing to be equal to
                if isinstance(e, KeyboardInterrupt):
                    raise
                want.append(None)
        got = run(tandem, path, lines, *options)
        if isinstance(got, str) and "leaves nothing of the added token" in got:
            return 0, 0  # refused on purpose: the reference would find it between any two characters
        if isinstance(got, str) or len(got) != len(lines):
            print(f"{name}: {what} {got if isinstance(got, str) else 'lines are missing'}")
            bad += 1
            continue
        for line, w, g in zip(lines, want, got):
            if w is not None and w != value(g):
                bad += 1
                if bad < 3:
                    report(name, what, line, w, value(g))
    return bad, count * 2


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tandem", required=True)
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--family", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--samples", default="examples", help="a file of natural text, one JSON object with \"question\" a line")
    parser.add_argument("models", nargs="*")
    a = parser.parse_args()
    rnd = random.Random(a.seed)
    samples = [" ".join(tokenizer_cases.PIECES)]
    if pathlib.Path(a.samples).is_file():
        samples += [json.loads(line)["question"] for line in open(a.samples, encoding="utf-8")]
    samples += ["The quick brown fox jumps over the lazy dog. It costs $12.50, they said; don't pay!"] * 20
    bad = total = 0
    for model in a.models:
        b, n = compare(a.tandem, model, model, Tokenizer.from_file(f"{model}/tokenizer.json"), rnd, samples, a.texts)
        bad, total = bad + b, total + n
    for i in range(a.family):
        seed = a.seed * 1000003 + i
        t = tokenizer_cases.random_tokenizer(random.Random(seed), samples)
        with tempfile.TemporaryDirectory() as folder:
            t.save(f"{folder}/tokenizer.json")
            try:
                t = Tokenizer.from_file(f"{folder}/tokenizer.json")
            except Exception as e:  # some draws save a file that the package itself refuses to read back: there is nothing to compare with
                print(f"family {seed}: left out, tokenizers cannot read its own file: {e}")
                continue
            b, n = compare(a.tandem, f"family {seed}", folder, t, rnd, samples, 60)
        if b:
            d = json.loads(t.to_str())
            print("  ", json.dumps({k: d[k] for k in ("normalizer", "pre_tokenizer", "decoder", "added_tokens")})[:1500])
            print("  ", {k: v for k, v in d["model"].items() if k not in ("vocab", "merges")})
        bad, total = bad + b, total + n
    print(f"{total} comparisons, {bad} differences")
    sys.exit(1 if bad else 0)


main()
