#!/usr/bin/env python3
"""Writes runtime/text/unicode_tables.c: where the Unicode data of the `tokenizers` package and of our libraries part.

`tokenizers` matches with Oniguruma (Unicode 16), asks Rust's `char` (newer still) for digits, and normalizes with tables of
Unicode 11; Debian's PCRE2 10.42 knows Unicode 14 and utf8proc 2.8 knows 15. The tables hold the differences, so that a
text with characters of the last years is split and normalized as the reference does.

    python3 scripts/make_unicode_tables.py > runtime/text/unicode_tables.c     (needs tokenizers, libpcre2-8, libutf8proc)
"""
import ctypes
import functools

import tokenizers
from tokenizers import Regex, normalizers, pre_tokenizers

CODES = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
EVERY = "".join(map(chr, CODES))
PROPERTIES = """L Lu Ll Lt Lm Lo M Mn Mc Me N Nd Nl No P Pc Pd Ps Pe Pi Pf Po S Sm Sc Sk So
Han Hiragana Katakana Hangul Arabic Cyrillic Latin Greek Hebrew Thai Devanagari""".split()

pcre = ctypes.CDLL("libpcre2-8.so.0")
pcre.pcre2_compile_8.restype = ctypes.c_void_p
pcre.pcre2_match_data_create_8.restype = ctypes.c_void_p


utf8proc = ctypes.CDLL("libutf8proc.so.2")
utf8proc.utf8proc_map.restype = ctypes.c_ssize_t
utf8proc.utf8proc_get_property.restype = ctypes.POINTER(ctypes.c_int16)  # category, combining class, ...
utf8proc.utf8proc_version.restype = ctypes.c_char_p
libc = ctypes.CDLL(None)
FORMS = {"NFC": 2 | 8, "NFD": 2 | 16, "NFKC": 2 | 4 | 8, "NFKD": 2 | 4 | 16}  # STABLE, COMPAT, COMPOSE, DECOMPOSE


def ours(form, text):
    data, out = text.encode(), ctypes.c_void_p()
    n = utf8proc.utf8proc_map(data, ctypes.c_ssize_t(len(data)), ctypes.byref(out), FORMS[form])
    result = ctypes.string_at(out.value, n).decode()
    libc.free(out)
    return result


def pcre_set(pattern):
    error, offset = ctypes.c_int(), ctypes.c_size_t()
    code = pcre.pcre2_compile_8(pattern.encode(), ctypes.c_size_t(len(pattern)), ctypes.c_uint32(0x80000 | 0x20000),
                                ctypes.byref(error), ctypes.byref(offset), None)
    assert code, (pattern, error.value)
    data = pcre.pcre2_match_data_create_8(1, None)
    found = set()
    for c in CODES:
        text = chr(c).encode()
        if pcre.pcre2_match_8(ctypes.c_void_p(code), text, ctypes.c_size_t(len(text)), ctypes.c_size_t(0), 0,
                              ctypes.c_void_p(data), None) > 0:
            found.add(c)
    return found


def onig_set(pattern):
    kept = "".join(piece for piece, _ in pre_tokenizers.Split(Regex(pattern), "removed").pre_tokenize_str(EVERY))
    return set(CODES) - set(map(ord, kept))


def rust_numeric():
    pieces = pre_tokenizers.Digits(individual_digits=True).pre_tokenize_str("".join("a" + chr(c) + "a" for c in CODES))
    return {ord(piece) for piece, _ in pieces if len(piece) == 1 and piece != "a"}


def rust_punctuation():
    pieces = pre_tokenizers.Punctuation("isolated").pre_tokenize_str("".join("a" + chr(c) + "a" for c in CODES))
    return {ord(piece) for piece, _ in pieces if len(piece) == 1 and piece != "a"}


def rust_word():
    """Rust's \\w, through Whitespace: a character that is not cut from the letter before it."""
    pieces = pre_tokenizers.Whitespace().pre_tokenize_str(" ".join("a" + chr(c) for c in CODES))
    return {ord(piece[1]) for piece, _ in pieces if len(piece) == 2 and piece[0] == "a"} | {ord("a")}


def rust_marks():
    """What StripAccents takes away."""
    strip = normalizers.StripAccents()
    return {c for c in CODES if strip.normalize_str(chr(c)) == ""}


def rust_lower():
    """Lower case where it is one character and not what utf8proc says."""
    lower, utf8proc.utf8proc_tolower.restype = normalizers.Lowercase(), ctypes.c_int32
    found = {c: lower.normalize_str(chr(c)) for c in CODES}
    return {c: ord(x) for c, x in found.items() if len(x) == 1 and ord(x) != utf8proc.utf8proc_tolower(c)}


def opaque(form, compatible):
    """Characters that are inert for the reference and not for newer tables: no class, no decomposition."""
    found = set()
    for c in CODES:
        ch = chr(c)
        if ours(form, ch) != form_of(form, ch):
            found.add(c)
        elif utf8proc.utf8proc_get_property(c)[1] and form_of("NFD", "a\u0345" + ch) == "a\u0345" + ch and c != 0x345:
            found.add(c)
    if not compatible:
        found |= {0x11930, 0x11938}  # 11935 + 11930 became 11938 in Unicode 13
    return found


@functools.cache
def normalizer(form):
    return getattr(normalizers, form)()


def form_of(form, text):
    return normalizer(form).normalize_str(text)


def ranges(codes):
    result = []
    for c in sorted(codes):
        if result and result[-1][1] == c - 1:
            result[-1][1] = c
        else:
            result.append([c, c])
    return result


def rows(name, items, storage="static const"):
    body = [f"{{0x{a:X}, 0x{b:X}}}" for a, b in items]
    print(f"{storage} uint32_t {name}[][2] = {{")
    line = "   "
    for item in body:
        if len(line) + len(item) > 116:
            print(line)
            line = "   "
        line += " " + item + ","
    print(line + "\n};")


def table(name, codes):
    rows(name, ranges(codes))


def pairs(lower):
    rows("tdm_unicode_lower_pairs", sorted(lower.items()), "const")
    print(f"const size_t tdm_unicode_lower_pairs_count = {len(lower)};")


def main():
    print("/* Generated by scripts/make_unicode_tables.py: the reference's Unicode data where it differs from PCRE2's and")
    print(f" * utf8proc's: tokenizers {tokenizers.__version__}, PCRE2 Unicode 14, utf8proc {utf8proc.utf8proc_version().decode()}. Do not edit. */")
    print('#include "runtime/text/unicode.h"\n')
    names = []
    for prop in PROPERTIES:
        script = len(prop) > 2
        added = onig_set(r"\p{%s}" % prop) - pcre_set(r"\p{sc:%s}" % prop if script else r"\p{%s}" % prop)
        if added:
            table(f"added_{prop}", added)
        names.append((prop, script, bool(added)))
    for name, codes in (("set_onig_word", onig_set(r"\w")), ("set_word", rust_word()), ("set_numeric", rust_numeric()),
                        ("set_punctuation", rust_punctuation()), ("set_mark", rust_marks()), ("set_opaque", opaque("NFC", False) | opaque("NFD", False)),
                        ("set_opaque_compatible", opaque("NFC", False) | opaque("NFD", False) | opaque("NFKC", True) | opaque("NFKD", True))):
        table(name, codes)
    print("\n#define SET(table) {(table), sizeof(table) / sizeof((table)[0])}")
    pairs(rust_lower())
    for name in ("onig_word", "word", "numeric", "punctuation", "mark", "opaque", "opaque_compatible"):
        print(f"const tdm_code_set tdm_codes_{name} = SET(set_{name});")
    print("\nconst tdm_property tdm_unicode_properties[] = {")
    for prop, script, added in names:
        print(f'    {{"{prop}", {"true" if script else "false"}, {f"SET(added_{prop})" if added else "{NULL, 0}"}}},')
    print("};\nconst size_t tdm_unicode_properties_count = sizeof(tdm_unicode_properties) / sizeof(tdm_unicode_properties[0]);")


main()
