"""Goldens of adamw_8bit: tests/golden/data/kernels/adamw_8bit.bin, in the record format of make_kernels_linear.py.

bitsandbytes has this optimizer as a CUDA kernel only (csrc/kernels.cu, kOptimizerStatic8bit2StateBlockwise with quantize_2D), so its formulas
are written here in numpy, float32 and one rounding an operation; the table of values is made as create_dynamic_map makes it. The
kernel's __fdividef and __powf, which round as they like, are plain divisions and powers. Everything is compared to the bit.

    python tests/golden/make_adamw_8bit.py
"""
import pathlib
import struct
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "scripts"))
from make_dynamic_map import dynamic_map  # noqa: E402

F = np.float32
KINDS = {np.dtype(np.float32): 0, np.dtype(np.uint8): 4}
BLOCK, N, STEPS = 256, 1037, 6
LR, BETA1, BETA2, EPS, DECAY, GRAD_SCALE = F(3e-3), F(0.9), F(0.95), F(1e-8), F(0.1), F(0.5)
out = bytearray()


def put(name, a):
    a = np.ascontiguousarray(a).reshape(1, -1)
    out.extend(struct.pack("<48sIII", name.encode(), KINDS[a.dtype], *a.shape) + a.tobytes())


def quantize_2d(code, x, signed):
    """bitsandbytes' search, step for step, over an array."""
    pivot, upper_pivot, lower_pivot = np.full(x.shape, 127), np.full(x.shape, 255), np.zeros(x.shape, int)
    lower, upper = np.full(x.shape, F(-1 if signed else 0)), np.full(x.shape, F(1))
    for step in (64, 32, 16, 8, 4, 2, 1):
        value = code[pivot]
        up = x > value
        lower_pivot, lower = np.where(up, pivot, lower_pivot), np.where(up, value, lower)
        upper_pivot, upper = np.where(up, upper_pivot, pivot), np.where(up, upper, value)
        pivot = np.where(up, pivot + step, pivot - step)
    value = code[pivot]
    above = np.where(x > (upper + value) * F(0.5), upper_pivot, pivot)
    below = np.where(x < (lower + value) * F(0.5), lower_pivot, pivot)
    return np.where(x > value, above, below)


def quantize(code, x, signed):
    """Codes and the largest magnitude of one block; a block of zeros is divided by nothing."""
    most = np.abs(x).max()
    c = quantize_2d(code, x / most if most > 0 else x, signed)
    if signed:  # the sign of the state is kept
        wrong = np.signbit(code[c]) != np.signbit(x)
        c = np.where(wrong, np.where(x > 0, c + 1, c - 1), c)
    return c.astype(np.uint8), most


def step_of(state, grad, step, maps):
    p, m, v, m_most, v_most = state
    c1, c2 = 1.0 - float(BETA1) ** step, np.sqrt(1.0 - float(BETA2) ** step)
    step_size, eps, decay = F(-float(LR) * c2 / c1), F(c2 * float(EPS)), F(1.0 - float(LR) * float(DECAY))
    for b in range(0, N, BLOCK):
        s, k = slice(b, min(N, b + BLOCK)), b // BLOCK
        g = grad[s] * GRAD_SCALE
        s2 = maps[0][v[s]] * v_most[k] * BETA2 + (F(1) - BETA2) * g * g
        s1 = maps[1][m[s]] * m_most[k] * BETA1 + (F(1) - BETA1) * g
        p[s] = (p[s] + step_size * (s1 / (np.sqrt(s2) + eps))) * decay
        m[s], m_most[k] = quantize(maps[1], s1, True)
        v[s], v_most[k] = quantize(maps[0], s2, False)


def main():
    maps = [dynamic_map(signed).numpy() for signed in (False, True)]
    g = np.random.default_rng(5)
    start = g.standard_normal(N, F)
    grads = (g.standard_normal((STEPS, N), F) * np.exp(g.standard_normal(N, F))).astype(F)
    grads[:2, 256:512] = 0  # a block that starts later
    grads[2:, 512:768] = 0  # one that fades
    grads[3, 100:120] = 0
    put("start", start)
    put("grad", grads)
    state = start.copy(), np.zeros(N, np.uint8), np.zeros(N, np.uint8), np.zeros(5, F), np.zeros(5, F)
    for step in range(1, STEPS + 1):
        step_of(state, grads[step - 1], step, maps)
        if step in (1, STEPS):
            for name, a in zip(("master", "m", "v", "m_most", "v_most"), state):
                put(f"{name}/{step}", a)
    assert np.isfinite(state[0]).all() and len(set(state[1])) > 150 and len(set(state[2])) > 130
    for signed, code in enumerate(maps):  # values, what is halfway between them, and what is next to that
        put(f"map/{signed}", code)
        half = (code[:-1] + code[1:]) * F(0.5)
        x = np.concatenate([code, half, np.nextafter(half, F(-2)), np.nextafter(half, F(2)), g.uniform(-1 if signed else 0, 1, 500).astype(F)])
        put(f"x/{signed}", x)
        put(f"code/{signed}", quantize_2d(code, x, bool(signed)).astype(np.uint8))
    path = pathlib.Path(__file__).parent / "data" / "kernels" / "adamw_8bit.bin"
    path.write_bytes(out)
    print(path, len(out))


if __name__ == "__main__":
    main()
