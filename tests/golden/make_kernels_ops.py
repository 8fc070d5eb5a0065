"""Goldens of the operations beside linear: tests/golden/data/kernels/ops.bin, in the record format of make_kernels_linear.py.

Operands are rounded to the dtype the operation reads; results are computed in float64 (the optimizers: float32, as they are
promised) and stored as float32. Where a result cancels, `mag` beside it is the same sum of absolute values, which scales the bound.
Truncation of distributions comes from transformers' logits processors, gradients from torch.autograd, the dropout mask from a
Philox written here and checked against Random123's known answers.

    python tests/golden/make_kernels_ops.py
"""
import math
import pathlib
import struct

import torch
import transformers
from transformers.generation import logits_process as lp

F32, BF16, E4M3, I32, U8 = range(5)
KINDS = {torch.float32: F32, torch.bfloat16: BF16, torch.float8_e4m3fn: E4M3, torch.int32: I32, torch.uint8: U8}
out = bytearray()


def put(name, t):
    t = t.detach()
    if t.dtype == torch.float64:
        t = t.float()
    t = t if t.dim() == 2 else t.reshape(1, -1)
    assert len(name) < 48
    raw = t.contiguous().view(torch.uint8).numpy().tobytes()
    out.extend(struct.pack("<48sIII", name.encode(), KINDS[t.dtype], *t.shape) + raw)


def rounded(t):
    return t.bfloat16().double()


def up(m):
    return (m.detach() * 1.01 + 1e-30).bfloat16()  # a bound: two digits will do


# ---- Elementwise and row-wise ------------------------------------------------------------------------------------------------------


def rms_norm(g):
    for d in (1, 7, 64, 301, 531):
        x = (torch.randn(5, d, generator=g) * torch.tensor([1, 100, 0, 1e-3, 3.0])[:, None]).double().float().double()
        w, dy = rounded(torch.randn(1, d, generator=g)), torch.randn(5, d, generator=g).float().double()
        leaf = x.clone().requires_grad_()
        rstd = (leaf.pow(2).mean(1, keepdim=True) + 1e-6).rsqrt()
        y = leaf * w * rstd
        y.backward(dy)
        mag = (dy * w).abs() * rstd + (x * rstd).abs() * rstd * ((dy * w).abs() * (x * rstd).abs()).mean(1, keepdim=True)
        for key, v in dict(x=x, w=w.bfloat16(), y=y, rstd=rstd, dy=dy, dx=leaf.grad).items():
            put(f"rms/{d}/{key}", v)
        put(f"rms/{d}/dx/mag", up(mag))


def rope(g):
    position = torch.tensor([0, 3, 39, 4, 17], dtype=torch.int32)
    for heads, dh, norm in ((3, 8, 0), (2, 64, 1), (1, 128, 0), (2, 36, 1)):
        name = f"rope/{heads}/{dh}"
        angle = torch.arange(40).double()[:, None] * 10000.0 ** (-torch.arange(0, dh, 2).double() / dh)[None]
        cos, sin = angle.cos().float(), angle.sin().float()
        x = rounded(torch.randn(5, heads * dh, generator=g) * 2)
        w = rounded(torch.randn(1, dh, generator=g))
        dy = rounded(torch.randn(5, heads * dh, generator=g))
        leaf = x.clone().requires_grad_()
        h = leaf.view(5, heads, dh)
        if norm:
            h = h * (h.pow(2).mean(2, keepdim=True) + 1e-5).rsqrt() * w
        c, s = (torch.cat([v[position.long()]] * 2, 1).double()[:, None] for v in (cos, sin))
        half = torch.cat([-h[..., dh // 2 :], h[..., : dh // 2]], 2)  # transformers' rotate_half
        y = (h * c + half * s).reshape(5, -1)
        y.backward(dy)
        for key, v in dict(x=x.bfloat16(), w=w.bfloat16(), cos=cos, sin=sin, position=position, y=y, dy=dy.bfloat16(), dx=leaf.grad).items():
            put(f"{name}/{key}", v)


def swiglu(g):
    gate, u = torch.randn(6, 83, generator=g) * 4, torch.randn(6, 83, generator=g) * 2
    gate[0, :8] = torch.tensor([0.0, -0.0, 100, -100, 30, -30, 1e-20, -1e-3])
    gate, u = rounded(gate).requires_grad_(), rounded(u).requires_grad_()
    dy = torch.randn(6, 83, generator=g).double()
    y = torch.nn.functional.silu(gate) * u
    y.backward(dy)
    for key, v in dict(gate=gate.bfloat16(), up=u.bfloat16(), dy=dy, y=y, dgate=gate.grad, dup=u.grad).items():
        put(f"swiglu/{key}", v)


def rows(g):
    x = torch.randn(5, 77, generator=g) * torch.exp2(torch.randint(-130, 127, (5, 77), generator=g).float())
    ties = (torch.randint(0, 2**15, (3, 77), generator=g, dtype=torch.int32) << 16 | 0x8000).view(torch.float32)
    x = torch.cat([x, ties])
    x[0, :6] = torch.tensor([float("inf"), -float("inf"), float("nan"), 3.4e38, -0.0, 1e-45])
    put("convert/x", x)
    put("convert/y", x.bfloat16())
    from make_kernels_linear import quantize

    table = torch.randn(140, 150, generator=g)
    put("embed/bf16/codes", table.bfloat16())
    put("embed/bf16/values", table[::7].bfloat16().float())
    for scheme in ("tensor", "channel", "block"):
        codes, s, full = quantize(table, scheme, False, 128)
        put(f"embed/{scheme}/codes", codes)
        put(f"embed/{scheme}/scale", s)
        put(f"embed/{scheme}/values", (codes.float() * full)[::7])


# ---- Attention -----------------------------------------------------------------------------------------------------------------------


def attention_case(g, name, heads, kv_heads, dh, window, seqs, scales=None, backward=False):
    """seqs: (rows in this call, cached positions) of each sequence; K and V of all positions stand one sequence after the other"""
    total = sum(n for _, n in seqs)
    q = [rounded(torch.randn(r, heads * dh, generator=g)).requires_grad_() for r, _ in seqs]
    k = [rounded(torch.randn(n, kv_heads * dh, generator=g)).requires_grad_() for _, n in seqs]
    v = [rounded(torch.randn(n, kv_heads * dh, generator=g)).requires_grad_() for _, n in seqs]
    scale = 1 / math.sqrt(dh)
    o_all, lse_all, mag_all, grads = [], [], [], {key: [] for key in ("dq", "dk", "dv", "dq/mag", "dk/mag", "dv/mag")}
    do_all = []
    for qi, ki, vi, (r, n) in zip(q, k, v, seqs):
        kk, vv = ki, vi
        if scales:  # straight through
            code = lambda t, s: ((t.detach().float() / torch.tensor(s)).clamp(-448, 448).to(torch.float8_e4m3fn).double() * s) + (t - t.detach())
            kk, vv = code(ki, scales[0]), code(vi, scales[1])
        qh = qi.view(r, heads, dh).transpose(0, 1)
        kh = kk.view(n, kv_heads, dh).transpose(0, 1).repeat_interleave(heads // kv_heads, 0)
        vh = vv.view(n, kv_heads, dh).transpose(0, 1).repeat_interleave(heads // kv_heads, 0)
        p = torch.arange(n - r, n)[:, None]
        j = torch.arange(n)[None]
        keep = (j <= p) & ((p - j < window) if window else torch.ones_like(j <= p))
        s = (scale * qh @ kh.transpose(1, 2)).masked_fill(~keep, -math.inf)
        pr = s.softmax(2)
        o = pr @ vh
        o_all.append(o.transpose(0, 1).reshape(r, -1))
        lse_all.append(s.logsumexp(2).T)
        mag_all.append((pr @ vh.abs()).transpose(0, 1).reshape(r, -1))
        if backward:
            do = torch.randn(r, heads * dh, generator=g).double()
            do_all.append(do)
            o_all[-1].backward(do, retain_graph=True)
            doh = do.view(r, heads, dh).transpose(0, 1)
            dp = doh.abs() @ vh.abs().transpose(1, 2)
            ds = pr * (dp + (pr * dp).sum(2, keepdim=True))
            fold = lambda t: t.view(kv_heads, heads // kv_heads, n, dh).sum(1).transpose(0, 1).reshape(n, -1)
            for key, value in {
                "dq": qi.grad, "dk": ki.grad, "dv": vi.grad,
                "dq/mag": up((scale * ds @ kh.abs()).transpose(0, 1).reshape(r, -1)),
                "dk/mag": up(fold(scale * ds.transpose(1, 2) @ qh.abs())), "dv/mag": up(fold(pr.transpose(1, 2) @ doh.abs())),
            }.items():
                grads[key].append(value)
    shape = [heads, kv_heads, dh, window, len(seqs), total] + [x for pair in seqs for x in pair]
    put(f"{name}/shape", torch.tensor(shape, dtype=torch.int32))
    put(f"{name}/scales", torch.tensor(scales or (0.0, 0.0)))
    for key, value in dict(q=q, k=k, v=v).items():
        put(f"{name}/{key}", torch.cat(value).bfloat16())
    put(f"{name}/o", torch.cat(o_all))
    put(f"{name}/o/mag", up(torch.cat(mag_all)))
    put(f"{name}/lse", torch.cat(lse_all))
    if backward:
        put(f"{name}/do", torch.cat(do_all))
        for key, value in grads.items():
            put(f"{name}/{key}", torch.cat(value))


def attention(g):
    attention_case(g, "attn/tiny", 1, 1, 8, 0, [(1, 1), (2, 3)])
    attention_case(g, "attn/mixed", 4, 2, 64, 0, [(1, 70), (5, 5), (19, 83), (1, 1)])
    attention_case(g, "attn/window", 3, 1, 32, 9, [(40, 40), (1, 67), (3, 20)])
    attention_case(g, "attn/wide", 2, 1, 128, 0, [(7, 131), (1, 16)])
    attention_case(g, "attn/odd", 6, 2, 20, 0, [(17, 33)])
    attention_case(g, "attn/fp8", 4, 2, 64, 0, [(1, 66), (12, 12)], scales=(0.02, 0.015))
    attention_case(g, "attnb/tiny", 1, 1, 8, 0, [(1, 1), (3, 3)], backward=True)
    attention_case(g, "attnb/mixed", 4, 2, 32, 0, [(1, 1), (33, 33), (40, 40)], backward=True)
    attention_case(g, "attnb/window", 3, 1, 32, 9, [(23, 23), (5, 5)], backward=True)
    attention_case(g, "attnb/wide", 2, 1, 128, 0, [(19, 19)], backward=True)
    attention_case(g, "attnb/fp8", 4, 2, 32, 0, [(21, 21), (3, 3)], scales=(0.02, 0.015), backward=True)


# ---- Dropout -------------------------------------------------------------------------------------------------------------------------


def philox(key, counter):
    """Philox4x32-10 of Salmon et al., SC 2011"""
    k, c, m = [key & 0xFFFFFFFF, key >> 32], list(counter), 0xFFFFFFFF
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k[0], b & m, (a >> 32) ^ c[3] ^ k[1], a & m]
        k = [(k[0] + 0x9E3779B9) & m, (k[1] + 0xBB67AE85) & m]
    return c


def uniform(word):
    return ((word >> 8) + 0.5) * 2.0**-24


def dropout():
    assert philox(0, (0, 0, 0, 0)) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]  # Random123's kat_vectors
    assert philox(2**64 - 1, (2**32 - 1,) * 4) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    assert philox(0x299F31D0A4093822, (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)) == [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]
    seed, site, p, cols = 0x1234567890ABCDEF, 77, 0.3, 131
    token = [0, 5, 4000000000, 1, 17]
    keep = [[philox(seed, (site, t, c // 4, 0))[c % 4] for c in range(cols)] for t in token]
    limit = torch.tensor(p).item()
    put("dropout/keep", torch.tensor([[int(uniform(w) >= limit) for w in row] for row in keep], dtype=torch.uint8))
    put("dropout/token", torch.tensor([t - 2**32 if t >= 2**31 else t for t in token], dtype=torch.int32))


# ---- Distributions -------------------------------------------------------------------------------------------------------------------

# temperature, top_p, min_p, repetition_penalty, top_k
SAMPLING = {
    "plain": (1.0, 1.0, 0.0, 1.0, 0), "cool": (0.7, 1.0, 0.0, 1.0, 0), "penalty": (1.3, 1.0, 0.0, 1.4, 0),
    "top_k": (1.0, 1.0, 0.0, 1.0, 7), "top_p": (0.9, 0.8, 0.0, 1.0, 0), "min_p": (1.1, 1.0, 0.1, 1.0, 0),
    "all": (0.8, 0.9, 0.02, 1.2, 20), "greedy": (0.0, 1.0, 0.0, 1.0, 0), "greedy_penalty": (0.0, 1.0, 0.0, 3.0, 0),
}


def processed(z, history, sampling):
    temperature, top_p, min_p, penalty, top_k = sampling
    chain = lp.LogitsProcessorList()
    if penalty != 1:
        chain.append(lp.RepetitionPenaltyLogitsProcessor(penalty))
    if temperature not in (0, 1):
        chain.append(lp.TemperatureLogitsWarper(temperature))
    if top_k:
        chain.append(lp.TopKLogitsWarper(top_k))
    if top_p < 1:
        chain.append(lp.TopPLogitsWarper(top_p))
    if min_p:
        chain.append(lp.MinPLogitsWarper(min_p))
    return chain(history[None].long(), z[None])[0]


def bits(kept):
    n = -(-kept.numel() // 32) * 32
    full = torch.zeros(n, dtype=torch.int64)
    full[: kept.numel()] = kept.long()
    word = (full.view(-1, 32) << torch.arange(32)).sum(1)
    return torch.where(word >= 2**31, word - 2**32, word).to(torch.int32)


def distributions(g):
    put("dist/names", torch.tensor(list(" ".join(SAMPLING).encode()), dtype=torch.uint8))
    put("dist/sampling", torch.tensor([[float(x) for x in s] for s in SAMPLING.values()]))
    for vocab, t in ((13, 2), (97, 3), (1000, 1), (2051, 1)):
        z = torch.randn(t, vocab, generator=g) * 3
        history = torch.randint(0, vocab, (t, 6), generator=g, dtype=torch.int32)
        history[:, 5] = history[:, 0]  # an id that comes twice is penalised once
        target = torch.randint(0, vocab, (t, 1), generator=g, dtype=torch.int32)
        coef, ecoef = torch.randn(t, 1, generator=g), torch.randn(t, 1, generator=g) * 0.1
        for key, v in dict(logits=z, history=history, target=target, coef=coef, ecoef=ecoef).items():
            put(f"dist/{vocab}/{key}", v)
        for name, sampling in SAMPLING.items():
            if vocab > 2000 and name not in ("plain", "all", "top_p"):
                continue
            keep, logp, entropy, dz, dzmag, token = [], [], [], [], [], []
            for i in range(t):
                kept = processed(z[i], history[i], sampling).isfinite()
                leaf = z[i].double().requires_grad_()
                seen = torch.zeros(vocab, dtype=torch.bool)
                seen[history[i].long()] = sampling[3] != 1
                w = torch.where(seen, torch.where(leaf < 0, leaf * sampling[3], leaf / sampling[3]), leaf)
                w = (w / (sampling[0] or 1.0)).masked_fill(~kept, -math.inf)
                l = w.log_softmax(0)
                h = -(l.exp() * l.masked_fill(~kept, 0)).sum()
                goal = int(target[i]) if kept[target[i]] else int(l.argmax())
                loss = coef[i].double() * l[goal] + ecoef[i].double() * h
                loss.sum().backward()
                keep.append(bits(kept))
                logp.append(l.detach())
                entropy.append(h.detach())
                token.append(goal)
                dz.append(leaf.grad)
                dzmag.append(float((coef[i].abs() + ecoef[i].abs() * 10) * max(sampling[3], 1) / (sampling[0] or 1.0)))
            name = f"dist/{vocab}/{name}"
            if sampling[4] or sampling[1] < 1 or sampling[2]:
                put(f"{name}/support", torch.stack(keep))
            put(f"{name}/target", torch.tensor(token, dtype=torch.int32)[:, None])
            put(f"{name}/logp", torch.stack(logp))
            put(f"{name}/entropy", torch.stack(entropy)[:, None])
            put(f"{name}/dlogits", torch.stack(dz))
            put(f"{name}/dlogits/mag", torch.tensor(dzmag)[:, None])


# ---- Optimizers ----------------------------------------------------------------------------------------------------------------------


def optimizers(g):
    n, steps = 1037, 5
    start, grads = torch.randn(n, generator=g), torch.randn(steps, n, generator=g) * torch.exp(torch.randn(n, generator=g))
    grads[2, :20] = 0
    put("optim/start", start)
    put("optim/grad", grads)
    for name, make in dict(
        adamw=lambda p: torch.optim.AdamW([p], lr=3e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, foreach=False, fused=False),
        sgd=lambda p: torch.optim.SGD([p], lr=0.05, weight_decay=0.01, foreach=False, fused=False),
    ).items():
        p = torch.nn.Parameter(start.clone())
        optimizer = make(p)
        for step in range(steps):
            p.grad = grads[step] * torch.tensor(0.5)
            optimizer.step()
            if step in (0, steps - 1):
                put(f"optim/{name}/{step + 1}", p)
        if name == "adamw":
            put("optim/adamw/m", optimizer.state[p]["exp_avg"])
            put("optim/adamw/v", optimizer.state[p]["exp_avg_sq"])
    squares = [(grads.view(-1)[:k].double() ** 2).sum() for k in (0, 1, 7, 1037, 5 * 1037)]
    put("optim/squares", torch.tensor(squares, dtype=torch.float64).view(torch.uint8))


def main():
    g = torch.Generator().manual_seed(21)
    put("versions", torch.tensor(list(f"torch {torch.__version__} transformers {transformers.__version__}".encode()), dtype=torch.uint8))
    for part in (rms_norm, rope, swiglu, rows, attention):
        part(g)
    dropout()
    distributions(g)
    optimizers(g)
    path = pathlib.Path(__file__).parent / "data" / "kernels" / "ops.bin"
    path.write_bytes(out)
    print(path, len(out))


if __name__ == "__main__":
    main()
