#!/usr/bin/env python3
"""PPO with a critic and reward models on the tiny models of make_goldens_models.py: what verl, TRL, PEFT and transformers make of them.

    python tests/golden/make_goldens_ppo.py [tests/golden/data/models]

Needs what that script needs, and verl 0.9 without its dependencies (pip install --no-deps verl tensordict omegaconf
antlr4-python3-runtime==4.9.3 pyvers cloudpickle orjson importlib_metadata zipp): of its dependencies the formulas use none but these, and
what else it imports (ray, codetiming) is replaced by nothing. Per model:

    critic/                a PEFT adapter of task_type SEQ_CLS: A, B and the head random, of another rank than the policy's
    scored.jsonl, margins.jsonl    pairs of answers, and the same with margins
    critic.safetensors     how SGD steps in FP32 move policy and critic, "CASE/adapter/TENSOR" and "CASE/critic/TENSOR", and the reward model, "CASE/TENSOR"
    ppo.json               cases, losses, metrics, and per tensor the distance of PyTorch in BF16, by the same rule as the other goldens

and in tests/golden/data/gae.json rewards, values and masks with verl's advantages, returns and value losses.
Everything is seeded; nothing here comes from Tandem.
"""
import importlib.machinery
import json
import math
import os
import random
import sys
from types import SimpleNamespace
from unittest.mock import MagicMock

for absent in ("ray", "codetiming"):
    sys.modules[absent] = MagicMock(__spec__=importlib.machinery.ModuleSpec(absent, None), __path__=[])

import peft
import torch
import torch.nn.functional as F
import transformers
import verl
import verl.utils.torch_functional as verl_F
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoModelForSequenceClassification
from trl.trainer import reward_trainer
from verl.trainer.ppo import core_algos

from make_goldens_models import (MAX_NEW, VERSIONS, Accelerator, adapter_state, distances, load, padded_logprobs, parameters, pick_lr, preference_rows, short,
                                 write_json, write_jsonl)

FOLDERS = {"adapter": 0, "critic": 1}


# ---- The critic: a model for sequence classification with one label --------------------------------------------------------------------

def make_critic(folder, rank):
    gen = torch.Generator().manual_seed(7)
    base = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=torch.float32)
    with open(os.path.join(folder, "adapter", "adapter_config.json")) as f:
        targets = json.load(f)["target_modules"]
    model = get_peft_model(base, LoraConfig(task_type="SEQ_CLS", r=rank, lora_alpha=2 * rank, target_modules=targets))
    draw = lambda p, size: p.copy_((size * torch.randn(p.shape, generator=gen)).bfloat16().float())
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_A" in name:
                draw(p, 1 / math.sqrt(p.shape[1]))
            elif "lora_B" in name:
                draw(p, 0.2 / math.sqrt(rank))
            elif "score.modules_to_save" in name:
                draw(p, 1 / math.sqrt(p.shape[1]))
    path = os.path.join(folder, "critic")
    model.save_pretrained(path)
    os.remove(os.path.join(path, "README.md"))
    file = os.path.join(path, "adapter_config.json")
    with open(file) as f:
        config = json.load(f)
    config.update(base_model_name_or_path=None, target_modules=sorted(config["target_modules"]))
    write_json(file, config)


def load_critic(folder, dtype):
    base = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=dtype)
    model = PeftModel.from_pretrained(base, os.path.join(folder, "critic"), is_trainable=True, autocast_adapter_dtype=False)
    return model.to(dtype)


def moves_of(folder, part, reference):
    before = load_file(os.path.join(folder, part, "adapter_model.safetensors"))
    return {k: (v.float() - before[k].float()).half() for k, v in reference.items()}


# ---- PPO by replay -----------------------------------------------------------------------------------------------------------------------

def padded_values(critic, rows, width):
    """Of each completion token, at the state that predicts it: TRL's full_value[:, context_length - 1 : -1]."""
    out = []
    for r in rows:
        n = len(r["completion_ids"])
        hidden = critic.base_model.model.model(input_ids=torch.tensor([r["prompt_ids"] + r["completion_ids"]])).last_hidden_state
        out.append(F.pad(critic.base_model.model.score(hidden)[0, -n - 1:-1, 0].float(), (0, width - n)))
    return torch.stack(out)


class Run:
    """One step: what is frozen before the first update, then losses of policy and critic as verl computes them."""

    def __init__(self, folder, dtype, rows, case):
        self.rows, self.case, self.width = rows, case, max(len(r["completion_ids"]) for r in rows)
        self.models = {"adapter": load(folder, dtype, adapter=True, trainable=True), "critic": load_critic(folder, dtype)}
        pad = lambda xs: torch.tensor([list(x) + [0.0] * (self.width - len(x)) for x in xs])
        self.mask = pad([[1.0] * len(r["completion_ids"]) for r in rows])
        with torch.no_grad():
            self.old = padded_logprobs(self.models["adapter"], rows, self.width) if case["epochs"] > 1 else pad([r["logprobs"] for r in rows])
            self.values = padded_values(self.models["critic"], rows, self.width)
            scores = torch.zeros_like(self.mask)
            for i, r in enumerate(rows):
                scores[i, len(r["completion_ids"]) - 1] = r["reward"]
            self.rewards = scores
            if case["kl"]:  # verl's apply_kl_penalty
                with self.models["adapter"].disable_adapter():
                    ref = padded_logprobs(self.models["adapter"], rows, self.width)
                self.rewards = scores - case["kl"] * core_algos.kl_penalty_forward(self.old, ref, case["kl_type"]) * self.mask
            if case["whiten_rewards"]:
                self.rewards = verl_F.masked_whiten(self.rewards, self.mask, shift_mean=False) * self.mask
            self.advantages, self.returns = core_algos.compute_gae_advantage_return(self.rewards, self.values * self.mask, self.mask, case["gamma"], case["lam"])
        self.figures = {}

    def loss(self, which):
        mode = {"token_mean": "token-mean", "sequence_mean": "seq-mean-token-mean"}[self.case["aggregation"]]
        if which == "adapter":
            lp = padded_logprobs(self.models["adapter"], self.rows, self.width)
            loss, clipped, _, _ = core_algos.compute_policy_loss(self.old, lp, self.advantages, self.mask, cliprange=0.2, clip_ratio_c=1e6, loss_agg_mode=mode)
        else:
            values = padded_values(self.models["critic"], self.rows, self.width)
            loss, clipped = core_algos.compute_value_loss(values, self.returns, self.values, self.mask, self.case["cliprange_value"], loss_agg_mode=mode)
            loss = self.case["vf_coef"] * loss
        self.figures.setdefault(which, []).append((float(loss.detach()), float(clipped)))
        return loss

    def step(self, lr):
        for _ in range(self.case["epochs"]):
            for which, model in self.models.items():
                model.zero_grad()
                self.loss(which).backward()
                torch.optim.SGD(parameters(model), lr=lr[which]).step()
        return self

    def metrics(self):
        """verl's compute_data_metrics; losses are means over the updates, as Tandem's are."""
        valid = self.mask.bool()
        values, returns = self.values[valid], self.returns[valid]
        mean = lambda which, k: short(sum(f[k] for f in self.figures[which]) / len(self.figures[which]))
        return {"loss": mean("adapter", 0), "clip_fraction": mean("adapter", 1), "critic/vf_loss": mean("critic", 0), "critic/vf_clipfrac": mean("critic", 1),
                "critic/values/mean": short(float(values.mean())), "critic/returns/mean": short(float(returns.mean())),
                "critic/vf_explained_var": short(float(1.0 - torch.var(returns - values) / (torch.var(returns) + 1e-5)))}


def ppo_cases(which):
    base = dict(gamma=1.0, lam=0.95, whiten_rewards=False, kl=0.0, kl_type="k1", aggregation="token_mean", cliprange_value=0.2, vf_coef=1.0, epochs=1)
    cases = {"gae": {}}
    if which == "all":
        cases.update({"kl_k1": dict(kl=0.05, gamma=0.99), "kl_k3_whiten": dict(kl=0.2, kl_type="k3", whiten_rewards=True, lam=0.8),
                      "two_epochs": dict(epochs=2, cliprange_value=0.05, vf_coef=0.5), "sequence_mean": dict(aggregation="sequence_mean", kl=0.1, kl_type="k2", lam=1.0)})
    return {name: {**base, **case} for name, case in cases.items()}


def make_ppo(folder, which, tensors):
    with open(os.path.join(folder, "replay.jsonl")) as f:
        rows = [json.loads(line) for line in f]
    out = {}
    for name, case in ppo_cases(which).items():
        first = Run(folder, torch.float32, rows, case)
        lr = {w: pick_lr(m, first.loss(w), 0.2 / case["epochs"]) for w, m in first.models.items()}
        full, half = (Run(folder, dtype, rows, case).step(lr) for dtype in (torch.float32, torch.bfloat16))
        out[name] = {**case, "lr": lr, "fp32": full.metrics(), "bf16": half.metrics(), "bf16_distance": {}}
        for part in FOLDERS:
            reference = adapter_state(full.models[part])
            tensors.update({f"{name}/{part}/{k}": v for k, v in moves_of(folder, part, reference).items()})
            out[name]["bf16_distance"][part] = distances(half.models[part], reference)
        print(name, out[name]["fp32"], flush=True)
    return out


# ---- Reward models: TRL's RewardTrainer ----------------------------------------------------------------------------------------------------

def scored_rows(folder):
    """A gradient comes from one state a sequence, so there are many. Scores of a pair lie apart, so that BF16 ranks them as FP32 does."""
    tok = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    rng, model, rows, ids = random.Random(os.path.basename(folder) + "/scored"), load_critic(folder, torch.float32), [], []
    while len(rows) < 32:
        for r in preference_rows(tok, rng)[0]:
            pair = {key + "_ids": tok.encode(r["prompt"] + r[key]).ids + [2] for key in ("chosen", "rejected")} | {"margin": rng.choice([0.0, 0.25, 1.0])}
            with torch.no_grad():
                scores = [float(model(input_ids=torch.tensor([pair[key]])).logits) for key in ("chosen_ids", "rejected_ids")]
            if abs(scores[0] - scores[1]) > 0.05 and len(rows) < 32:
                rows.append({k: r[k] for k in ("prompt", "chosen", "rejected")})
                ids.append(pair)
    write_jsonl(os.path.join(folder, "scored.jsonl"), rows)
    write_jsonl(os.path.join(folder, "margins.jsonl"), [{**r, "margin": p["margin"]} for r, p in zip(rows, ids)])
    return ids


class Scorer:
    """What RewardTrainer asks of a model, sequence by sequence."""
    training = True

    def __init__(self, model):
        self.model = model

    def __call__(self, input_ids, attention_mask, **_):
        logits = [self.model(input_ids=ids[:int(n)].unsqueeze(0)).logits[0] for ids, n in zip(input_ids, attention_mask.sum(1))]
        return SimpleNamespace(logits=torch.stack(logits).float())


def reward_loss(model, rows, case):
    inputs = reward_trainer.DataCollatorForPreference(pad_token_id=0)([r if case["margin"] else {k: v for k, v in r.items() if k != "margin"} for r in rows])
    margin = inputs.pop("margin", None)
    metrics = {"train": {k: [] for k in ("min_reward", "mean_reward", "max_reward", "accuracy", "margin")}}
    trainer = SimpleNamespace(model=SimpleNamespace(training=True), args=SimpleNamespace(center_rewards_coefficient=case["center_rewards_coefficient"] or None),
                              accelerator=Accelerator, _metrics=metrics, _total_train_tokens=0, _tp_size=1)
    loss = reward_trainer.RewardTrainer.compute_loss(trainer, lambda **a: Scorer(model)(**{k: v for k, v in a.items() if k != "margin"}),
                                                     inputs | ({} if margin is None else {"margin": margin}))
    mean, difference = metrics["train"]["mean_reward"][0], metrics["train"]["margin"][0]
    return loss, {"rewards/accuracies": metrics["train"]["accuracy"][0], "rewards/margins": short(difference), "rewards/chosen": short(mean + difference / 2),
                  "rewards/rejected": short(mean - difference / 2)}


def reward_step(folder, dtype, rows, case, lr):
    model = load_critic(folder, dtype)
    loss, metrics = reward_loss(model, rows, case)
    loss.backward()
    torch.optim.SGD(parameters(model), lr=lr).step()
    return model, short(float(loss.detach())), metrics


def make_reward(folder, which, tensors):
    rows, out = scored_rows(folder), {}
    cases = {"bradley_terry": dict(margin=False, center_rewards_coefficient=0.0)}
    if which == "all":
        cases["margin_center"] = dict(margin=True, center_rewards_coefficient=0.05)
    for name, case in cases.items():
        model = load_critic(folder, torch.float32)
        lr = pick_lr(model, reward_loss(model, rows, case)[0], 0.2)
        full, loss, metrics = reward_step(folder, torch.float32, rows, case, lr)
        half, half_loss, _ = reward_step(folder, torch.bfloat16, rows, case, lr)
        reference = adapter_state(full)
        tensors.update({f"{name}/{k}": v for k, v in moves_of(folder, "critic", reference).items()})
        out[name] = {**case, "lr": lr, "fp32_loss": loss, "bf16_loss": half_loss, "bf16_distance": distances(half, reference), "fp32_metrics": metrics}
        print(name, loss, metrics, flush=True)
    return {"batch_size": len(rows), "cases": out}


# ---- Arithmetic alone --------------------------------------------------------------------------------------------------------------------

def make_gae(path):
    """In float64, so that what is compared is the definition."""
    gen = torch.Generator().manual_seed(3)
    draw = lambda: torch.randn(5, 12, generator=gen, dtype=torch.float64).float().double()
    lengths, out = [12, 7, 1, 9, 4], []
    for gamma, lam, clip, holes in ((1.0, 0.95, 0.2, False), (0.97, 0.8, 0.5, True), (1.0, 1.0, 0.1, False), (0.9, 0.0, 0.3, True)):
        rewards, values, new = draw(), draw(), draw()
        mask = torch.tensor([[float(t < n and not (holes and t % 3 == 1 and t < n - 1)) for t in range(12)] for n in lengths], dtype=torch.float64)
        rewards, values = rewards * mask, values * mask
        advantages, returns = core_algos.compute_gae_advantage_return(rewards, values, mask, gamma, lam)
        new = (values + 0.3 * new).requires_grad_(True)
        loss, clipped = core_algos.compute_value_loss(new, returns, values, mask, clip)
        loss.backward()
        whitened = verl_F.masked_whiten(rewards, mask, shift_mean=False)
        out.append({"gamma": gamma, "lambda": lam, "clip": clip, "lengths": lengths, "loss": float(loss.detach()), "clipfrac": float(clipped)} |
                   {k: [[float("%.12g" % x) for x in row] for row in t.detach().tolist()] for k, t in
                    dict(rewards=rewards, values=values, mask=mask, advantages=advantages * mask, returns=returns * mask, new=new, grad=new.grad, whitened=whitened * mask).items()})
    write_json(path, out)


def main():
    root = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(__file__), "data", "models")
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    for name, rank, which in (("llama3", 6, "all"), ("qwen3", 2, "some")):
        folder, tensors = os.path.join(root, name), {}
        make_critic(folder, rank)
        expect = {"versions": VERSIONS | {"verl": verl.__version__}, "max_new_tokens": MAX_NEW, "ppo": make_ppo(folder, which, tensors),
                  "reward": make_reward(folder, which, tensors)}
        save_file(tensors, os.path.join(folder, "critic.safetensors"))
        write_json(os.path.join(folder, "ppo.json"), expect)
    make_gae(os.path.join(root, os.pardir, "gae.json"))


if __name__ == "__main__":
    main()
