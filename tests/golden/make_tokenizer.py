#!/usr/bin/env python3
"""Goldens of runtime/text/tokenizer: ids and decoded texts from the tokenizers package. Needs tokenizers and gguf; from the repository's root:

    python tests/golden/make_tokenizer.py --gsm8k test.jsonl --smollm2 SmolLM2-135M-Instruct.Q4_1.gguf

reads  tests/golden/data/tokenizers/NAME/*.xz
writes tests/golden/data/tokenizers/smollm2.gguf.xz   the tokenizer's metadata of the GGUF, without tensors
       tests/golden/data/tokenizer/NAME.json          the four real tokenizers
       tests/golden/data/tokenizer/family.json        small tokenizers with steps drawn at random, each with its tokenizer.json
       tests/golden/data/tokenizer/gguf.json, *.gguf  small GGUFs, one for each pre-tokenizer name

A case is {"text" or "repeat": [unit, count], "ids", "bare": ids without the post-processor where they differ, "decoded", "skipped"};
decoding cases have "ids" alone. Made with tokenizers 0.23.3 and gguf 0.19.
"""
import argparse
import json
import lzma
import pathlib
import random
import tempfile

import gguf
import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

import tokenizer_cases

HERE = pathlib.Path(__file__).parent / "data"
OUT = HERE / "tokenizer"
FIXED = tokenizer_cases.PIECES + [
    "", " ", "Hello world", " Hello world", "Hello  world\n\n\n  indented\r\n\r\nend ", "caf\xe9 cafe\u0301", "x" * 300 + " " + "\u4e2d" * 300,
    "1234567890123456789012345678901234567890", "It's 'twas WE'LL they'Re I\u2019m 'S's", "\t\t\tdeep\n\t\tless\n\tone\nnone", "a\u200bb\u200cc\u200dd\ufeffe",
    "\u0301\u0301\u0301", "e\u0327\u0301\u0301 \u1100\u1161\u11a8\u11a8", "mixed\u4e2d\u6587English\u0420\u0443\u0441123\u0663 \U0001f600!", "  \u00a0\u2003\u3000  x",
    "<|endoftext|>", "<|im_start|>user\nHi<|im_end|>\n", " <|im_end|> ", "<|im_end", "<|im_end|><|im_end|>", "<s>a</s><pad><bos><eos><unk><mask>",
    "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>", "<start_of_turn>user\nHi<end_of_turn>\n", "<tool_call>{\"a\": 1}</tool_call>",
    "<think>\n\n</think>\n\n", "<0x0A><0xFF>", "\u0120\u010a literal", "\u2581a\u2581\u2581b", "[INST] x [/INST]", "<unused0><unused99>", "\n\n\n\n\n\t\t\t\t",
    "#include <stdio.h>\nint main(void)\n{\n    return printf(\"%d\\n\", 1 << 4);\n}\n", "https://example.org/a/b?c=d&e=f#g_h-i", "\x00\x01\x02\x7f\x80\x9f",
]
LONG = [["a", 10000], ["ab ", 1000], ["\u4e2d", 1000], [" ", 3000], ["\n", 1000], ["7", 1000], ["\u0301", 300], ["-", 3000]]


def case(t, text):
    given = {"repeat": text} if isinstance(text, list) else {"text": text}
    text = text[0] * text[1] if isinstance(text, list) else text
    ids, bare = t.encode(text).ids, t.encode(text, add_special_tokens=False).ids
    c = {**given, "ids": ids}
    if bare != ids:
        c["bare"] = bare
    if "text" in given:
        c.update(decoding(t, ids))
        if c["decoded"] == text:
            del c["decoded"]  # the text itself
    return c


def decoding(t, ids):
    c = {"ids": ids, "decoded": t.decode(ids, skip_special_tokens=False)}
    skipped = t.decode(ids, skip_special_tokens=True)
    if skipped != c["decoded"]:
        c["skipped"] = skipped
    return c


def cases(t, rnd, samples, fixed, drawn, decoded):
    tokens = [a.content for a in t.get_added_tokens_decoder().values()] + [""]
    texts = fixed + samples[:6] + [tokenizer_cases.random_text(rnd, samples, tokens) for _ in range(drawn)]
    out = []
    for text in texts:
        try:
            out.append(case(t, text))
        except BaseException as e:  # the reference panics on some
            if isinstance(e, KeyboardInterrupt):
                raise
    for _ in range(decoded):
        out.append(decoding(t, [rnd.randrange(t.get_vocab_size()) for _ in range(rnd.choice([1, 2, 5, 20]))]))
    return out


def write(name, data):
    text = json.dumps({"tokenizers": tokenizers.__version__, **data}, ensure_ascii=True, separators=(",", ":"))
    (OUT / name).write_text(text.replace("},{", "},\n{") + "\n")


def gguf_file(path, pre, tokens, merges, types, extra):
    w = gguf.GGUFWriter(path, "llama")
    w.add_tokenizer_model("gpt2")
    if pre:
        w.add_tokenizer_pre(pre)
    w.add_token_list(tokens)
    w.add_token_types(types)
    w.add_token_merges(merges)
    for key, value in extra.items():
        (w.add_bool if isinstance(value, bool) else w.add_string if isinstance(value, str) else w.add_uint32)(key, value)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.close()


def smollm2(path, rnd, samples):
    fields = gguf.GGUFReader(path).fields
    get = {key: field.contents() for key, field in fields.items() if key.startswith("tokenizer.")}
    tokens, merges, types = (get["tokenizer.ggml." + k] for k in ("tokens", "merges", "token_type"))
    extra = {k: v for k, v in get.items() if isinstance(v, (bool, int, str)) and k not in ("tokenizer.ggml.model", "tokenizer.ggml.pre")}
    with tempfile.TemporaryDirectory() as folder:
        gguf_file(f"{folder}/x.gguf", get["tokenizer.ggml.pre"], tokens, merges, [int(k) for k in types], extra)
        data = pathlib.Path(f"{folder}/x.gguf").read_bytes()
    (HERE / "tokenizers" / "smollm2.gguf.xz").write_bytes(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))
    t = tokenizer_cases.smollm2(tokens, merges, types)
    write("smollm2.json", {"cases": cases(t, rnd, samples, FIXED + LONG, 32, 16)})


def small_ggufs(rnd, samples):
    """One vocabulary under every name that stands for a pre-tokenizer of its own."""
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)

    def split(regex):
        return pre_tokenizers.Split(Regex(regex), "isolated")

    steps = {
        "gpt-2": [gpt2],
        "smollm": [pre_tokenizers.Digits(individual_digits=True), gpt2],
        "llama-bpe": [split(tokenizer_cases.QWEN.replace(r"\p{N}|", r"\p{N}{1,3}|")), bytes_only],
        "qwen2": [split(tokenizer_cases.QWEN), bytes_only],
        "default": [split(r"[\p{P}\$\+<=>\^~\|]+"), split(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"), split(r"\p{N}+"),
                    split("[0-9][0-9][0-9]"), bytes_only],
    }
    base = Tokenizer(models.BPE())
    base.pre_tokenizer = bytes_only
    base.train_from_iterator([s[:80] for s in samples[:40]], tokenizers.trainers.BpeTrainer(
        vocab_size=420, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    model = json.loads(base.to_str())["model"]
    tokens = list(model["vocab"]) + ["<|end|>", "<tool>"]
    types = [1] * len(model["vocab"]) + [3, 4]
    data = {}
    for name, pre in steps.items():
        model["ignore_merges"] = name == "llama-bpe"
        t = Tokenizer.from_str(json.dumps({"version": "1.0", "added_tokens": [], "normalizer": None, "pre_tokenizer": None, "post_processor": None,
                                           "decoder": None, "model": model}))
        t.pre_tokenizer = pre_tokenizers.Sequence(pre)
        t.normalizer = normalizers.NFC() if name == "qwen2" else None
        t.decoder = decoders.ByteLevel()
        t.add_special_tokens([AddedToken("<|end|>", normalized=False)])
        t.add_tokens([AddedToken("<tool>", normalized=False)])
        end = t.token_to_id("<|end|>")
        before, after = name in ("llama-bpe", "gpt-2"), name == "gpt-2"
        t.post_processor = processors.TemplateProcessing(single="<|end|> " * before + "$A" + " <|end|>" * after, special_tokens=[("<|end|>", end)])
        extra = {"tokenizer.ggml.bos_token_id": end, "tokenizer.ggml.eos_token_id": end}
        if name == "gpt-2":
            extra |= {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.add_eos_token": True}
        gguf_file(OUT / f"{name}.gguf", None if name == "default" else name, tokens, [" ".join(m) for m in model["merges"]], types, extra)
        data[name] = cases(t, rnd, samples, ["12345 67", "I'll pay $1,234.56 (now)!", "a<|end|> b<tool>c", "e\u0301 x\n\n y"], 5, 4)
    write("gguf.json", {"files": data})


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--gsm8k", required=True)
    parser.add_argument("--smollm2", required=True)
    a = parser.parse_args()
    OUT.mkdir(exist_ok=True)
    samples = [d["question"] + "\n" + d["answer"] for d in map(json.loads, open(a.gsm8k, encoding="utf-8"))][:200]
    rnd = random.Random(1)
    smollm2(a.smollm2, rnd, samples)
    for name in ("qwen3", "llama3_1", "gemma3"):
        t = Tokenizer.from_str(lzma.decompress((HERE / "tokenizers" / name / "tokenizer.json.xz").read_bytes()).decode())
        write(f"{name}.json", {"cases": cases(t, rnd, samples, FIXED + LONG, 32, 16)})
    small_ggufs(rnd, samples)
    family = []
    for seed in range(20):
        t = tokenizer_cases.random_tokenizer(random.Random(seed), samples, small=True)
        family.append({"tokenizer": json.loads(t.to_str()), "cases": cases(t, rnd, [s[:60] for s in samples], tokenizer_cases.PIECES[seed % 8::8], 6, 6)})
    write("family.json", {"family": family})


if __name__ == "__main__":
    main()
