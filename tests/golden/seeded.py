"""Weights drawn from a seed, so that a golden model of some width needs no bytes in the repository: the script that makes the goldens and the
tests that use them draw the same. Standard library only.

A tensor's values are +-m 2^e in BF16, m of 7 random bits, e one of four neighbours; sizes are such that logits matter, and a matrix of a layer
has a wide row and a wide column, as trained ones do.
"""
import array
import json
import math
import os
import random
import struct
import sys


def kind_of(name, zero_norms):
    if "norm" in name and not name.endswith("bias"):
        return "norm0" if zero_norms else "norm"
    if name.endswith("bias"):
        return "bias"
    return "embed" if "embed" in name else "matrix"


def draw(name, shape, kind):
    """BF16 bits, little-endian."""
    count = math.prod(shape)
    words = array.array("H", random.Random("tandem/" + name).randbytes(2 * count))
    if sys.byteorder == "big":
        words.byteswap()
    if kind == "norm":  # 0.75 .. 1.5: the lower and the upper half around 1
        words = array.array("H", ((0x3f40 | (w & 0x3f)) if w & 0x80 else (0x3f80 | (w & 0x3f)) for w in words))
    else:
        columns = math.prod(shape[1:]) if len(shape) > 1 else 1
        size = {"matrix": 0.7 / math.sqrt(columns), "embed": 0.8 / math.sqrt(columns), "bias": 0.2, "norm0": 0.2}[kind]
        top = (127 + round(math.log2(size / 0.88))) << 7  # 0.88 2^e is the root mean square of such values
        words = array.array("H", ((w & 0x807f) | (top - (w & 0x180)) for w in words))
        if kind == "matrix" and "layers" in name:
            for i in range(3, count, columns):
                words[i] += 0x80
            for i in range(5 * columns, 6 * columns):
                words[i] += 0x80
    if sys.byteorder == "big":
        words.byteswap()
    return words.tobytes()


def write(path, tensors):
    """tensors: {name in the file: [name it is drawn by, kind, shape]}"""
    header, offset, data = {"__metadata__": {"format": "pt"}}, 0, []
    for name, (seed, kind, shape) in tensors.items():
        data.append(draw(seed, shape, kind))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + len(data[-1])]}
        offset += len(data[-1])
    text = json.dumps(header).encode()
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + b"".join(data))


# ---- The same as llama.cpp stores it -------------------------------------------------------------------------------------------------

GGUF_TYPES = {"u32": (4, "<I"), "f32": (6, "<f"), "str": (8, None)}
GGML_F32, GGML_BF16 = 0, 30


def gguf_text(text):
    return struct.pack("<Q", len(text.encode())) + text.encode()


def floats(bits, add):
    words = struct.unpack(f"<{len(bits) // 2}H", bits)
    values = struct.unpack(f"<{len(words)}f", struct.pack(f"<{len(words)}I", *(w << 16 for w in words)))
    return struct.pack(f"<{len(values)}f", *(add + v for v in values))


def interleaved(bits, rows, heads):
    """llama.cpp's converter stores the halves of each head's rows by turns (LlamaModel.permute)."""
    size, head = len(bits) // rows, rows // heads
    order = [h * head + j * head // 2 + i for h in range(heads) for i in range(head // 2) for j in range(2)]
    return b"".join(bits[r * size:(r + 1) * size] for r in order)


def write_gguf(path, listed):
    """listed: {"meta": [[key, type, value]], "tensors": {name: [name it is drawn by (or those of its parts), kind, shape, add, heads]}, "factors": {name: [numbers]}}
    Vectors are F32 with `add` added, matrices BF16, with rows of `heads` heads interleaved (0: as they are)."""
    tensors = []
    for name, (seed, kind, shape, add, heads) in listed["tensors"].items():
        bits = draw(seed, shape, kind) if isinstance(seed, str) else b"".join(draw(s, shape[1:], kind) for s in seed)
        if len(shape) == 1:
            tensors.append((name, shape, GGML_F32, floats(bits, add)))
        else:
            tensors.append((name, shape, GGML_BF16, interleaved(bits, shape[0], heads) if heads else bits))
    tensors += [(name, [len(v)], GGML_F32, struct.pack(f"<{len(v)}f", *v)) for name, v in listed.get("factors", {}).items()]
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(listed["meta"]))
    for key, kind, value in listed["meta"]:
        code, form = GGUF_TYPES[kind]
        head += gguf_text(key) + struct.pack("<I", code) + (gguf_text(value) if form is None else struct.pack(form, value))
    offset, body = 0, []
    for name, shape, ggml, data in tensors:
        head += gguf_text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), ggml, offset)
        body.append(data + bytes(-len(data) % 32))
        offset += len(body[-1])
    with open(path, "wb") as f:
        f.write(head + bytes(-len(head) % 32) + b"".join(body))


def materialize(golden, folder):
    """Makes `folder` a model: the golden's files, and the weights its tensors.json lists. Names are written there once: {layer} counts."""
    with open(os.path.join(golden, "tensors.json"), encoding="utf-8") as f:
        listed = json.load(f)
    for name in os.listdir(golden):
        if name not in ("tensors.json", "gguf.json"):
            os.symlink(os.path.join(os.path.abspath(golden), name), os.path.join(folder, name))
    write(os.path.join(folder, "model.safetensors"), listed)
