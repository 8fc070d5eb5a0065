"""Texts that are hard to tokenize, and tokenizers of every shape that runtime/text knows; for goldens and for differential tests."""
import json

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

PIECES = [
    "\r\n", "\n", "\n\n", "\r", "\t", " ", "  ", " " * 15, "\v", "\f", "\x85", "\xa0", "\u2003", "\u2028", "\u3000", "\u180e",
    "\u200b", "\ufeff", "\x00", "\x01", "\x1b", "\x7f", "\u00ad", "\u200e", "\u202e",
    "\xe9", "e\u0301", "\u0301", "A\u030a", "\u212b", "\u2126", "\u212a", "\u0344", "\u0958", "\u1e9b\u0323", "\U0001d15e", "\u0f71\u0f72",
    "\u0345", "\u3099", "\u304b\u3099", "a\u0327\u0301", "a\u0301\u0327", "\uac00", "\uac01", "\u1100\u1161\u11a8", "\uac00\u11a7", "\u11a8",
    "\u200d", "\U0001f469\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466", "\U0001f3f3\ufe0f\u200d\U0001f308", "\U0001f600", "\U0001f1e9\U0001f1ea",
    "\u4e2d\u6587\u5b57", "\u65e5\u672c\u8a9e\u30c6\u30b9\u30c8", "\ud55c\uad6d\uc5b4", "\u0627\u0644\u0639\u0631\u0628\u064a\u0629", "\u05e9\u05dc\u05d5\u05dd",
    "\u0e44\u0e17\u0e22", "\u0939\u093f\u0928\u094d\u0926\u0940", "\u0420\u0443\u0441\u0441\u043a\u0438\u0439", "\u0395\u03bb\u03bb\u03b7\u03bd\u03b9\u03ba\u03ac",
    "\u2167", "\u2460", "\xbd", "\u0663\u0664", "\u0967\u0968", "\ufb01", "\ufdfa", "\u03c2", "\u03a3", "\u0130", "\u0131", "\xdf", "\u1e9e", "\u01c5",
    "'s", "'S", "'ll", "'LL", "\u2019s", "'\u017f", "don't", "I'VE", "they'd've", "o'clock",
    "7", "123", "1234", "1234567890" * 3, "3.14", "1,000,000", "0x1F", "http://x.y/z?a=b&c=%20#d", "a@b.example", "C:\\dir\\file.txt",
    "def f(x):\n    return x + 1\n", "for (int i = 0; i < n; i++) {\n\ta[i] = i;\n}\n", "{}[]()", "<|", "|>", "<", ">", "</s>", "<bos>", "<0x41>",
    "\u2581", "\u2581\u2581", "_", "__", "--", "...", "!!", "$", "\u20ac", "a", "A", "the", "Hello", " world", "\u0120Hello", "\u010a", "\u017f", "\xff",
    "#### 42", "\\boxed{\\frac{1}{2}}", "<<3*4=12>>", "\ud7ff", "\ue000", "\uffff", "\U0001d4b3", "\U00020000", "\U0010ffff", "\U0001e030", "\U00031350",
]


def random_char(rnd):
    k = rnd.random()
    for share, low, high in ((0.4, 0x20, 0x7F), (0.6, 0x80, 0x3000), (0.7, 0x300, 0x370), (0.8, 0x3000, 0xD800), (0.9, 0xE000, 0x20000)):
        if k < share:
            return chr(rnd.randrange(low, high))
    return chr(rnd.randrange(0x20000, 0x110000))


def random_text(rnd, samples, tokens):
    """samples: natural texts; tokens: texts of tokens, added ones first among them."""
    if rnd.random() < 0.15:
        sample = rnd.choice(samples)
        start = rnd.randrange(len(sample))
        return sample[start:start + rnd.randrange(1, 400)]
    out = []
    for _ in range(rnd.choice([1, 2, 3, 5, 8, 20, 60])):
        k = rnd.random()
        if k < 0.5:
            out.append(rnd.choice(PIECES) * rnd.choice([1, 1, 1, 2, 3, 7]))
        elif k < 0.7:
            out.append("".join(random_char(rnd) for _ in range(rnd.choice([1, 2, 4]))))
        elif k < 0.85:
            out.append(rnd.choice(tokens)[:rnd.choice([99, 99, 99, 3])])
        else:
            out.append(rnd.choice(["", " "]) + rnd.choice(rnd.choice(samples).split(" ")))
    return "".join(out)


def smollm2(tokens, merges, types):
    """The tokenizer that SmolLM2's GGUF describes."""
    t = Tokenizer(models.BPE(vocab={text: i for i, text in enumerate(tokens)}, merges=[tuple(m.split(" ")) for m in merges]))
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                               pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    t.decoder = decoders.ByteLevel()
    t.add_special_tokens([AddedToken(text, special=True, normalized=False) for text, kind in zip(tokens, types) if kind == 3])
    return t


QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PATTERNS = [QWEN, r"\s+", r"\p{N}{1,3}", r"[\r\n]", r"\w+|[^\w\s]+", r"[\p{Han}\p{Hiragana}]+", r"[^\S\r\n]+", r"\d", r"(?=\d)", r"x*", r"[A-Z][a-z]+",
            r"\p{P}", r"[!-/:-~]", r"\p{M}+", r"(?:[a-z]{2,3})+", r"^\s|\s$", r"."]
BEHAVIORS = ["removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"]


def pattern(rnd):
    return rnd.choice([" ", "a", "\u2581", "ll", "\n"]) if rnd.random() < 0.4 else Regex(rnd.choice(PATTERNS))


def random_normalizer(rnd):
    return rnd.choice([
        normalizers.NFC, normalizers.NFD, normalizers.NFKC, normalizers.NFKD, normalizers.Lowercase, normalizers.StripAccents,
        lambda: normalizers.Strip(left=rnd.random() < 0.5, right=rnd.random() < 0.5), lambda: normalizers.Replace(pattern(rnd), rnd.choice(["", " ", "\u2581", "xy"])),
        lambda: normalizers.Prepend(rnd.choice(["\u2581", " ", "a"])),
    ])()


def random_pre(rnd):
    return rnd.choice([
        lambda: pre_tokenizers.Split(pattern(rnd), rnd.choice(BEHAVIORS), invert=rnd.random() < 0.3),
        lambda: pre_tokenizers.Split(pattern(rnd), rnd.choice(BEHAVIORS), invert=rnd.random() < 0.3),
        lambda: pre_tokenizers.Digits(individual_digits=rnd.random() < 0.5),
        lambda: pre_tokenizers.Punctuation(rnd.choice(BEHAVIORS)),
        pre_tokenizers.Whitespace, pre_tokenizers.WhitespaceSplit, lambda: pre_tokenizers.CharDelimiterSplit(rnd.choice(["a", " ", "\u2581"])),
        lambda: pre_tokenizers.Metaspace(replacement=rnd.choice(["\u2581", "_"]), prepend_scheme=rnd.choice(["always", "never"]), split=rnd.random() < 0.5),
        lambda: pre_tokenizers.ByteLevel(add_prefix_space=rnd.random() < 0.3, use_regex=rnd.random() < 0.5),
    ])()


def random_decoder(rnd):
    return rnd.choice([
        decoders.ByteLevel, decoders.ByteFallback, decoders.Fuse, lambda: decoders.Replace(pattern(rnd), rnd.choice(["", " ", "z"])),
        lambda: decoders.Strip(rnd.choice([" ", "a", "\u2581"]), rnd.randrange(3), 0),
        lambda: decoders.Metaspace(replacement=rnd.choice(["\u2581", "_"]), prepend_scheme=rnd.choice(["always", "never", "first"])),
    ])()


def sequence(rnd, kind, make, most):
    parts = [make(rnd) for _ in range(rnd.randrange(most + 1))]
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else kind(parts)


def train(t, rnd, samples, small, byte_level):
    t.train_from_iterator([sample + " " + "".join(PIECES).replace("\0", "") for sample in rnd.sample(samples, 20)],
                          trainers.BpeTrainer(vocab_size=rnd.choice([270] if small else [260, 500]), limit_alphabet=rnd.choice([40] if small else [40, 200]), show_progress=False,
                                              initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if byte_level else []))


def random_tokenizer(rnd, samples, small=False):
    """tokenizer.json of a small tokenizer: steps, flags and added tokens drawn at random, the vocabulary trained on the samples."""
    t = Tokenizer(models.BPE())
    t.normalizer = sequence(rnd, normalizers.Sequence, random_normalizer, 2)
    t.pre_tokenizer = sequence(rnd, pre_tokenizers.Sequence, random_pre, 3)
    if rnd.random() < 0.15:  # "first" asks where a piece starts in the text; other steps before it make that a matter of alignments
        t.pre_tokenizer = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="first", split=rnd.random() < 0.5)
    byte_level = rnd.random() < 0.5
    if byte_level:
        last = pre_tokenizers.ByteLevel(add_prefix_space=rnd.random() < 0.3, use_regex=rnd.random() < 0.5)
        t.pre_tokenizer = pre_tokenizers.Sequence([t.pre_tokenizer, last]) if t.pre_tokenizer else last
    try:
        train(t, rnd, samples, small, byte_level)
    except BaseException as e:  # the trainer panics on some alphabets
        if isinstance(e, KeyboardInterrupt):
            raise
        return random_tokenizer(rnd, samples, small)
    d = json.loads(t.to_str())
    model = d["model"]
    vocab = model["vocab"]
    if rnd.random() < 0.5:
        model["byte_fallback"] = True
        for i in range(256 if rnd.random() < 0.8 else 128):
            vocab[f"<0x{i:02X}>"] = len(vocab)
    if rnd.random() < 0.5:
        vocab["<unk>"] = len(vocab)
        model["unk_token"] = "<unk>"
        model["fuse_unk"] = rnd.random() < 0.5
    model["ignore_merges"] = rnd.random() < 0.3
    t = Tokenizer.from_str(json.dumps(d))
    for _ in range(rnd.randrange(6)):
        text = rnd.choice(["<s>", "</s>", "<|x|>", "ab", "the", "\xe9", " a ", "  ", "\n\n", "\u2581", "Ab", "<", "3", "\u0130x", "the cat", "\u4e2d", "ing"])
        token = AddedToken(text, lstrip=rnd.random() < 0.3, rstrip=rnd.random() < 0.3, single_word=rnd.random() < 0.3, normalized=rnd.random() < 0.5)
        (t.add_special_tokens if rnd.random() < 0.5 else t.add_tokens)([token])
    t.decoder = sequence(rnd, decoders.Sequence, random_decoder, 3)
    if rnd.random() < 0.3:
        first = next(iter(vocab))
        t.post_processor = processors.TemplateProcessing(single=f"{first} $A {first}", pair=None, special_tokens=[(first, vocab[first])]) \
            if first.strip() == first and ":" not in first and "$" not in first else processors.ByteLevel()
    return t
