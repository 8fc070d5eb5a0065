"""W8A8 FP8 linears simulated in PyTorch, by the definitions of the design: e4m3 codes, FP32 scales amax / 448 (1 where amax is 0),
activations quantized dynamically, exact products summed in FP32, everything around the linears left as the model has it."""
import hashlib

import torch
from torch import nn

SCHEMES = ("fp8_tensor", "fp8_channel", "fp8_block")
BLOCK = 128


def scale_of(amax):
    return torch.where(amax == 0, torch.ones_like(amax), amax / 448.0)


def encode(x):
    """Saturating, nearest even; kept as float32 values of the codes."""
    return x.clamp(-448, 448).to(torch.float8_e4m3fn)


def quantize_weight(w, scheme):
    """w [N, K] -> codes [N, K] float8, scale f32: [1, 1], [N, 1] or [ceil(N/128), ceil(K/128)]."""
    w = w.float()
    if scheme == "fp8_tensor":
        scale = scale_of(w.abs().amax()).view(1, 1)
        return encode(w / scale), scale
    if scheme == "fp8_channel":
        scale = scale_of(w.abs().amax(1, keepdim=True))
        return encode(w / scale), scale
    n, k = w.shape
    rows, cols = -(-n // BLOCK), -(-k // BLOCK)
    full = torch.zeros(rows * BLOCK, cols * BLOCK)
    full[:n, :k] = w
    scale = scale_of(full.view(rows, BLOCK, cols, BLOCK).abs().amax((1, 3)))
    spread = scale.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)[:n, :k]
    return encode(w / spread), scale


class W8A8(nn.Linear):  # a Linear, so that PEFT wraps it
    def __init__(self, linear, scheme):
        nn.Module.__init__(self)
        codes, self.scale = quantize_weight(linear.weight.detach(), scheme)
        self.codes, self.scheme, self.bias, self.weight = codes.float(), scheme, linear.bias, linear.weight
        self.in_features, self.out_features = linear.in_features, linear.out_features

    def forward(self, x):
        shape, f = x.shape, x.reshape(-1, x.shape[-1]).float()
        if self.scheme == "fp8_block":
            y = self.block(f)
        else:
            amax = f.abs().amax() if self.scheme == "fp8_tensor" else f.abs().amax(1, keepdim=True)
            s = scale_of(amax)
            y = (encode(f / s).float() @ self.codes.T) * s * self.scale.view(1, -1)
        if self.bias is not None:
            y = y + self.bias.float()
        return y.to(x.dtype).reshape(*shape[:-1], -1)

    def block(self, f):
        y = torch.zeros(f.shape[0], self.out_features)
        for j, k in enumerate(range(0, f.shape[1], BLOCK)):
            part = f[:, k:k + BLOCK]
            s = scale_of(part.abs().amax(1, keepdim=True))
            w = self.scale[:, j].repeat_interleave(BLOCK)[:self.out_features]
            y = y + (encode(part / s).float() @ self.codes[:, k:k + BLOCK].T) * s * w
        return y


def projections(model):
    return [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Linear) and ".layers." in "." + name]


def swap(model, scheme):
    """Every linear of every layer; lm_head, embeddings and norms stay."""
    for name, module in projections(model):
        parent = model.get_submodule(name.rsplit(".", 1)[0])
        setattr(parent, name.rsplit(".", 1)[1], W8A8(module, scheme))


def fingerprints(model, scheme):
    """SHA-256 of codes and of scales (little-endian FP32) of each projection."""
    out = {}
    for name, module in projections(model):
        codes, scale = quantize_weight(module.weight.detach(), scheme)
        digest = lambda t: hashlib.sha256(t.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()[:16]
        out[name] = {"codes": digest(codes), "scale": digest(scale)}
    return out
