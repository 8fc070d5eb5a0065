"""Goldens of what single families of models need of an operation: tests/golden/data/kernels/families.bin, made as make_kernels_ops.py makes
ops.bin, in float64: the tanh form of GELU as a gate, norms that multiply with 1 + w in f32, norms of a block's output on its way into the
residual stream, the rotation of a head's first dimensions.

    python tests/golden/make_kernels_families.py
"""
import pathlib

import torch

import make_kernels_ops as ops
from make_kernels_ops import put, rounded, up


def gelu(g):
    gate, u = torch.randn(6, 83, generator=g) * 4, torch.randn(6, 83, generator=g) * 2
    gate[0, :8] = torch.tensor([0.0, -0.0, 100, -100, 30, -30, 1e-20, -1e-3])
    gate, u = rounded(gate).requires_grad_(), rounded(u).requires_grad_()
    dy = torch.randn(6, 83, generator=g).float().double()
    y = torch.nn.functional.gelu(gate, approximate="tanh") * u
    y.backward(dy)
    for key, v in dict(gate=gate.bfloat16(), up=u.bfloat16(), dy=dy, y=y, dgate=gate.grad, dup=u.grad).items():
        put(f"gelu/{key}", v)


def one_plus(g, d):
    return (1.0 + torch.randn(1, d, generator=g).mul(0.3).bfloat16().float()).double()  # as transformers adds it, in f32


def norms(g):
    """rms: of f32 onto bf16; add: of bf16 onto f32. `f32`: the weight's dtype."""
    for d, f32 in ((7, 1), (301, 1), (301, 0), (1030, 1)):
        w = one_plus(g, d) if f32 else rounded(torch.randn(1, d, generator=g))
        stored = w.float() if f32 else w.bfloat16()
        scales = torch.tensor([1, 100, 0, 1e-3, 3.0])[:, None]
        for kind in ("rms", "add"):
            x = torch.randn(5, d, generator=g) * scales
            x = rounded(x) if kind == "add" else x.float().double()
            r, dy = torch.randn(5, d, generator=g).float().double(), torch.randn(5, d, generator=g).float().double()
            leaf = x.clone().requires_grad_()
            rstd = (leaf.pow(2).mean(1, keepdim=True) + 1e-6).rsqrt()
            y = leaf * rstd * w + (r if kind == "add" else 0)
            y.backward(dy)
            mag = (dy * w).abs() * rstd + (x * rstd).abs() * rstd * ((dy * w).abs() * (x * rstd).abs()).mean(1, keepdim=True)
            for key, v in {"x": x.bfloat16() if kind == "add" else x, "r": r, "w": stored, "y": y, "rstd": rstd, "dy": dy, "dx": leaf.grad, "mag": up(mag)}.items():
                put(f"{kind}/{d}/{f32}/{key}", v)


def rope(g):
    position = torch.tensor([0, 3, 39, 4, 17], dtype=torch.int32)
    for heads, dh, turned, norm in ((2, 64, 48, 1), (3, 32, 16, 0), (1, 128, 128, 1)):
        angle = torch.arange(40).double()[:, None] * 10000.0 ** (-torch.arange(0, turned, 2).double() / turned)[None]
        cos, sin = angle.cos().float(), angle.sin().float()
        x, dy = rounded(torch.randn(5, heads * dh, generator=g) * 2), rounded(torch.randn(5, heads * dh, generator=g))
        w = one_plus(g, dh)
        leaf = x.clone().requires_grad_()
        h = leaf.view(5, heads, dh)
        if norm:
            h = h * (h.pow(2).mean(2, keepdim=True) + 1e-5).rsqrt() * w
        c, s = (torch.cat([v[position.long()]] * 2, 1).double()[:, None] for v in (cos, sin))
        first, rest = h[..., :turned], h[..., turned:]
        half = torch.cat([-first[..., turned // 2 :], first[..., : turned // 2]], 2)
        y = torch.cat([first * c + half * s, rest], 2).reshape(5, -1)
        y.backward(dy)
        for key, v in dict(x=x.bfloat16(), w=w.float(), cos=cos, sin=sin, position=position, y=y, dy=dy.bfloat16(), dx=leaf.grad).items():
            put(f"rope/{dh}/{turned}/{key}", v)


if __name__ == "__main__":
    ops.out.clear()
    generator = torch.Generator().manual_seed(11)
    gelu(generator)
    norms(generator)
    rope(generator)
    (pathlib.Path(__file__).parent / "data" / "kernels" / "families.bin").write_bytes(ops.out)
