"""Goldens of quantize_act, quantize_weight, linear and linear_backward: tests/golden/data/kernels/linear.bin.

Codes and scales come from torch.float8_e4m3fn and FP32 arithmetic; products are summed in float64, so what a test allows is the
rounding of the operation alone. Beside each result stands `mag`, the same sum of absolute values, which scales that bound.

File: records of name[48] (NUL-padded), dtype u32 (kernels/ops.h tdm_dtype), rows u32, cols u32, then rows * cols elements,
little-endian, row-major. The first record, "versions", is U8 text.

    python tests/golden/make_kernels_linear.py
"""
import pathlib
import struct

import torch

F32, BF16, E4M3, I32, U8 = range(5)
BLOCK = 128
SCHEMES = {"bf16": 0, "tensor": 1, "channel": 2, "block": 3}
out = bytearray()


def put(name, t):
    t = t if t.dim() == 2 else t.reshape(1, -1)
    kind = {torch.float32: F32, torch.bfloat16: BF16, torch.float8_e4m3fn: E4M3, torch.uint8: U8}[t.dtype]
    raw = t.contiguous().view(torch.uint8).numpy().tobytes()
    out.extend(struct.pack("<48sIII", name.encode(), kind, *t.shape) + raw)


def scale_of(amax, pow2):
    s = torch.where(amax == 0, torch.ones_like(amax), amax / 448.0)
    if pow2:
        m, e = torch.frexp(s)
        s = torch.ldexp(torch.ones_like(s), torch.where(m == 0.5, e - 1, e))
    return s


def encode(x):
    return x.clamp(-448, 448).to(torch.float8_e4m3fn)  # clamp keeps NaN; the cast alone would turn overflow into NaN


def blocks(t, rows):
    """amax over rows x 128 tiles"""
    n, k = t.shape
    nb, kb = -(-n // rows), -(-k // BLOCK)
    full = torch.zeros(nb * rows, kb * BLOCK)
    full[:n, :k] = t
    return full.view(nb, rows, kb, BLOCK).abs().amax((1, 3))


def spread(s, rows, shape):
    return s.repeat_interleave(rows, 0).repeat_interleave(BLOCK, 1)[: shape[0], : shape[1]]


def quantize(t, scheme, pow2, rows):
    """codes and scale; rows: those a block spans, 128 for weights and 1 for activations"""
    if scheme == "tensor":
        s = scale_of(t.abs().amax().view(1, 1), pow2)
        return encode(t / s), s, s.expand(t.shape)
    if scheme == "channel":
        s = scale_of(t.abs().amax(1, keepdim=True), pow2)
        return encode(t / s), s, s.expand(t.shape)
    s = scale_of(blocks(t, rows), pow2)
    return encode(t / spread(s, rows, t.shape)), s, spread(s, rows, t.shape)


def formats(g):
    codes = torch.arange(256, dtype=torch.int32).to(torch.uint8).view(torch.float8_e4m3fn)
    put("e4m3/values", codes.float())
    finite = codes.float()[codes.float().isfinite()].sort().values
    ties = (finite[1:] + finite[:-1]) / 2
    near = torch.cat([torch.nextafter(ties, ties + 1), torch.nextafter(ties, ties - 1)])
    wide = torch.randn(4096, generator=g) * torch.exp2(torch.randint(-14, 11, (4096,), generator=g).float())
    odd = torch.tensor([0.0, -0.0, 448.0, 463.9, 464.0, 465.0, 1e30, float("inf"), -float("inf"), float("nan"), 2**-10, -(2**-10),
                        1.1 * 2**-10, 3 * 2**-10, 2**-149, -448.0, -1e9, 2**-6, 1.9375 * 2**-7])
    x = torch.cat([finite, ties, near, wide, odd])
    put("e4m3/in", x)
    put("e4m3/out", encode(x))
    halves = torch.cat([torch.arange(0, 65536, 13), torch.tensor([0x7C00, 0xFC00, 1, 0x3FF, 0x400, 0x8001])]).to(torch.int32)
    halves = halves.to(torch.uint16).view(torch.float16)
    put("f16/bits", halves.view(torch.uint8).view(-1, 2))
    put("f16/values", halves.float())


def activations(g):
    x = torch.randn(6, 300, generator=g) * torch.exp2(torch.randint(-3, 4, (6, 1), generator=g).float())
    x[2] = 0
    x[4, 128:256] = 0
    x[5] = 2.0**-120
    x = x.bfloat16()
    put("act/x", x)
    for scheme in ("tensor", "channel", "block"):
        for pow2 in (0, 1):
            codes, s, _ = quantize(x.float(), scheme, pow2, 1)
            put(f"act/{scheme}/{pow2}/codes", codes)
            put(f"act/{scheme}/{pow2}/scale", s)
    put("act/static/codes", encode(x.float() / torch.tensor(0.0061)))


def weights(g):
    w = torch.randn(140, 150, generator=g)
    w[3] = 0
    w[128:, 128:] = 0
    put("weight/x", w)
    for scheme in ("tensor", "channel", "block"):
        for pow2 in (0, 1):
            codes, s, _ = quantize(w, scheme, pow2, BLOCK)
            put(f"weight/{scheme}/{pow2}/codes", codes)
            put(f"weight/{scheme}/{pow2}/scale", s)


def product(scheme, act, t, n, k, r):
    g = torch.Generator().manual_seed(t * n * k)  # one set of operands for all
    name = f"linear/{scheme}/{act}"
    w = torch.randn(n, k, generator=g) * 0.05
    x = torch.randn(t, k, generator=g).bfloat16()
    x[t // 2] = 0
    a, b = (torch.randn(r, k, generator=g) * 0.1).bfloat16(), (torch.randn(n, r, generator=g) * 0.1).bfloat16()
    bias, dy = torch.randn(1, n, generator=g).bfloat16(), torch.randn(t, n, generator=g).bfloat16()
    alpha, static = 0.7, 0.0087
    if scheme == "bf16":
        codes = w.bfloat16()
        wd, back = codes.double(), codes.double()
    else:
        codes, s, full = quantize(w, scheme, False, BLOCK)
        if act == "none":
            put(f"linear/{scheme}/scale", s)
        wd = codes.double() * full.double()
        back = (codes.float() * full).bfloat16().double()  # backward reads bf16(code * scale)
    xd = x.double()
    if act == "dynamic":
        q, _, full = quantize(x.float(), scheme, False, 1)
        xd = q.double() * full.double()
    if act == "static":
        xd = encode(x.float() / torch.tensor(static)).double() * torch.tensor(static).double()
    h = (x.double() @ a.double().T).bfloat16()
    lora = alpha * h.double() @ b.double().T
    dh = (alpha * dy.double() @ b.double()).bfloat16()
    if act == "none":
        put(f"linear/{scheme}/codes", codes)
    if scheme == "bf16":
        for key, value in dict(x=x, a=a, b=b, bias=bias, dy=dy, h=h, dh=dh).items():
            put(f"linear/{key}", value)
    absolute = lambda u, v: u.double().abs() @ v.double().abs()
    results = {
        "plain": (xd @ wd.T, absolute(xd, wd.T)),
        "y": (xd @ wd.T + bias.double() + lora, absolute(xd, wd.T) + bias.double().abs()),
        "y_lora": (lora, alpha * absolute(h, b.T)),  # what one rounding of h can move
        "dx": (dy.double() @ back + dh.double() @ a.double(), absolute(dy, back)),
        "dx_lora": (dh.double() @ a.double(), absolute(dh, a)),
        "grad_a": (dh.double().T @ x.double(), absolute(dh.T, x)),
        "grad_b": (alpha * dy.double().T @ h.double(), alpha * absolute(dy.T, h)),
    }
    for key, (value, mag) in results.items():
        if key not in ("plain", "y") and act != "none":
            continue  # does not depend on how activations are quantized
        put(f"{name}/{key}", value.float())
        put(f"{name}/{key}/mag", (mag * 1.01).bfloat16())  # a bound: two digits will do


def main():
    g = torch.Generator().manual_seed(20)
    put("versions", torch.tensor(list(f"torch {torch.__version__}".encode()), dtype=torch.uint8))
    formats(g)
    activations(g)
    weights(g)
    for scheme in SCHEMES:
        for act in ("none",) if scheme == "bf16" else ("none", "dynamic", "static"):
            product(scheme, act, 5, 133, 171, 3)
    path = pathlib.Path(__file__).parent / "data" / "kernels" / "linear.bin"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(out)
    print(path, len(out))


if __name__ == "__main__":
    main()
