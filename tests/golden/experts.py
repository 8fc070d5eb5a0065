"""Experts as modules. transformers 5 keeps a layer's experts in one tensor, which PEFT would adapt as one; its checkpoints, and the adapters that
most people have, name each expert. This puts back a module for each, with the computation of Qwen3MoeExperts.forward."""
import os

import torch
import transformers
from peft import PeftModel
from torch import nn
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts


class Expert(nn.Module):
    def __init__(self, gate_up, down, act_fn):
        super().__init__()
        wide, hidden = gate_up.shape[0] // 2, gate_up.shape[1]
        self.gate_proj, self.up_proj = (nn.Linear(hidden, wide, bias=False, dtype=gate_up.dtype) for _ in range(2))
        self.down_proj = nn.Linear(wide, hidden, bias=False, dtype=down.dtype)
        self.act_fn = act_fn
        for to, value in ((self.gate_proj, gate_up[:wide]), (self.up_proj, gate_up[wide:]), (self.down_proj, down)):
            to.weight = nn.Parameter(value.detach().clone())

    def forward(self, x):
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


class Experts(nn.ModuleList):
    def forward(self, hidden, chosen, weights):
        out = torch.zeros_like(hidden)
        for i, expert in enumerate(self):
            token, place = torch.where(chosen == i)
            if len(token):
                out.index_add_(0, token, (expert(hidden[token]) * weights[token, place, None]).to(out.dtype))
        return out


def separate(model):
    """Checked in FP32: the same logits. model_type is what PEFT goes by when it turns names of experts into those of the one tensor."""
    ids = torch.arange(40).unsqueeze(0) * 7 % model.config.vocab_size
    with torch.no_grad():
        before = model(input_ids=ids).logits
        for layer in model.model.layers:
            whole = getattr(layer.mlp, "experts", None)
            if isinstance(whole, Qwen3MoeExperts):
                layer.mlp.experts = Experts(Expert(g, d, whole.act_fn) for g, d in zip(whole.gate_up_proj, whole.down_proj))
        error = (model(input_ids=ids).logits - before).abs().max()
        assert before.dtype == torch.bfloat16 or error < 1e-5 * before.abs().max()
    model.config.model_type = "qwen3_moe_modules"
    return model


@torch.no_grad()
def check_adapter(folder):
    """PEFT makes the same adapter of the file for the model that has its experts in one tensor."""
    ids, out = torch.arange(40).unsqueeze(0) * 7 % 300, []
    for loader in (Modules, transformers.AutoModelForCausalLM):
        model = loader.from_pretrained(folder, dtype=torch.float32)
        out.append(PeftModel.from_pretrained(model, os.path.join(folder, "adapter"), autocast_adapter_dtype=False)(input_ids=ids).logits)
    assert (out[0] - out[1]).abs().max() < 1e-5 * out[0].abs().max()


class Modules:
    """In the place of AutoModelForCausalLM."""

    @staticmethod
    def from_config(config, **kw):
        return transformers.AutoModelForCausalLM.from_config(config, **kw)

    @staticmethod
    def from_pretrained(folder, **kw):
        return separate(transformers.AutoModelForCausalLM.from_pretrained(folder, **kw))
