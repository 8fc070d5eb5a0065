#!/usr/bin/env python3
"""Tiny random models and what PyTorch, transformers, PEFT and TRL make of them.

    VERL=CHECKOUT VERL_VETO=CHECKOUT python tests/golden/make_goldens_models.py [tests/golden/data/models]

Needs torch, transformers, peft, trl, tokenizers, safetensors (the versions used stand in every expect.json), and verl as in verl_code.py. For each model:

    config.json, model*.safetensors (BF16), tokenizer.json, tokenizer_config.json   what `--model` takes
    adapter/               a PEFT adapter with random A and B, all values representable in BF16
    expect.json            log-probabilities: FP32, BF16, and a simulation of each FP8 scheme; greedy continuations; SFT and GRPO cases
    sft.jsonl, sft.safetensors              rows and how 3 SGD steps in FP32 move the adapter
    replay.jsonl, grpo.safetensors          recorded rollouts and how 1 SGD step of each case in FP32 moves it, "CASE/TENSOR"
    distill.safetensors                     the same of the cases of distillation
    pairs.jsonl, labels.jsonl, preference.safetensors    rows for DPO and ORPO, rows for KTO, and the same of their cases

A move is `after - before` stored in F16: its rounding, 2^-11 of the move, is far below what BF16 arithmetic does to it.
Of the BF16 runs only the loss and, per tensor, the distance to FP32 are kept: that is what the acceptance rule compares with.
Everything is seeded; nothing here comes from Tandem.
"""
import contextlib
import dataclasses
import hashlib
import inspect
import json
import math
import os
import random
import shutil
import string
import sys
import textwrap
from collections import defaultdict
from types import MethodType, SimpleNamespace

import torch
import torch.nn.functional as F
import peft
import tokenizers
import transformers
import trl
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models as tok_models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config
from trl import GRPOConfig
from trl.experimental.gkd import GKDTrainer
from trl.experimental.gmpo import GMPOTrainer
from trl.experimental.orpo import orpo_trainer
from trl.trainer import dpo_trainer, grpo_trainer, kto_trainer, rloo_trainer
from trl.trainer.grpo_trainer import GRPOTrainer

import fp8_sim
import verl_code

VERSIONS = {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__,
            "trl": trl.__version__, "tokenizers": tokenizers.__version__}
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CHATML = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
          "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
CORPUS = ["What is the sum of the numbers? Answer with just the number.", "The answer is the number of the apples and the pears.",
          "There are some apples in the basket and there are some pears in the other basket.", "question answer question answer the the"]

# name: config class, its arguments, adapter arguments, and which parts are made. The two that train by replay are twice as wide: the
# distance of a BF16 run is a draw, and with few elements and tokens the draws of two equally good implementations differ by factors.
SMALL = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=256, rms_norm_eps=1e-5, vocab_size=304, bos_token_id=0, eos_token_id=2, pad_token_id=0)
ROPE3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
         "original_max_position_embeddings": 32, "rope_theta": 10000.0}
WIDER = dict(SMALL, hidden_size=128, intermediate_size=192)
MODELS = {
    "llama3": dict(config=LlamaConfig, args=dict(WIDER, tie_word_embeddings=True, rope_parameters=ROPE3),
                   lora=dict(r=4, lora_alpha=8), fp8=True, grpo="all", old_config=True),
    "llama_linear": dict(config=LlamaConfig, args=dict(SMALL, tie_word_embeddings=False, attention_bias=True, mlp_bias=True,
                         rope_parameters={"rope_type": "linear", "factor": 2.5, "rope_theta": 10000.0}),
                         lora=dict(r=2, lora_alpha=4), shards=True),
    "qwen2": dict(config=Qwen2Config, args=dict(SMALL, tie_word_embeddings=True, vocab_size=320,
                  rope_parameters={"rope_type": "default", "rope_theta": 1000000.0}),
                  lora=dict(r=2, lora_alpha=4), fp8=True, old_config=True),
    "qwen3": dict(config=Qwen3Config, args=dict(WIDER, tie_word_embeddings=False, head_dim=32,
                  rope_parameters={"rope_type": "default", "rope_theta": 1000000.0}),
                  lora=dict(r=4, lora_alpha=8, use_rslora=True), grpo="some"),
    "mistral": dict(config=MistralConfig, args=dict(SMALL, tie_word_embeddings=False, sliding_window=12,
                    rope_parameters={"rope_type": "default", "rope_theta": 10000.0}),
                    lora=dict(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"])),
    # One layer whose matrices are wider than a block of 128 and end inside one.
    "qwen3_wide": dict(config=Qwen3Config, args=dict(SMALL, tie_word_embeddings=True, hidden_size=144, intermediate_size=160,
                       num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=1, head_dim=32,
                       rope_parameters={"rope_type": "default", "rope_theta": 10000.0}),
                       lora=dict(r=2, lora_alpha=4), fp8=True),
}
LENGTHS = [1, 2, 7, 33, 64, 90, 17, 40]


def make_tokenizer(folder):
    """Byte-level BPE with single digits, ChatML specials first: ids 0, 1, 2."""
    tok = Tokenizer(tok_models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                 pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=304, special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tok.train_from_iterator(CORPUS, trainer)
    assert tok.get_vocab_size() == 304
    data = json.loads(tok.to_str())
    write_json(os.path.join(folder, "tokenizer.json"), data)
    write_json(os.path.join(folder, "tokenizer_config.json"),
               {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": "<|endoftext|>",
                "add_bos_token": False, "model_max_length": 256, "tokenizer_class": "PreTrainedTokenizerFast", "chat_template": CHATML})
    return tok


def write_json(path, value):
    with open(path, "w") as f:
        json.dump(value, f, separators=(",", ":"), ensure_ascii=True)
        f.write("\n")


def write_jsonl(path, rows):
    with open(path, "w") as f:
        for row in rows:
            f.write(json.dumps(row, separators=(",", ":")) + "\n")


def make_weights(model, gen):
    """Weights of a size that makes the logits matter (initializer_range 0.02 would leave every model nearly uniform)."""
    for name, p in model.named_parameters():
        if "norm" in name:
            value = 1 + 0.2 * torch.randn(p.shape, generator=gen)
        elif name.endswith("bias"):
            value = 0.2 * torch.randn(p.shape, generator=gen)
        elif "embed" in name:
            value = 0.8 * torch.randn(p.shape, generator=gen) / math.sqrt(p.shape[1])
        else:
            value = 0.7 * torch.randn(p.shape, generator=gen) / math.sqrt(p.shape[1])
            if "layers" in name:  # a wide row and a wide column, as trained models have
                value[:, 3] *= 2
                value[5, :] *= 2
        with torch.no_grad():
            p.copy_(value.bfloat16().float())


def old_style(config):
    """The same facts under the keys transformers 4 wrote."""
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    config["torch_dtype"] = config.pop("dtype")
    return config


def make_model(name, spec, folder):
    gen = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big"))
    config = spec["config"](**spec["args"])
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    make_weights(model, gen)
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    model.to(torch.bfloat16).save_pretrained(folder, max_shard_size="100KB" if spec.get("shards") else "1GB")
    model.float()
    path = os.path.join(folder, "config.json")
    with open(path) as f:
        saved = json.load(f)
    write_json(path, old_style(saved) if spec.get("old_config") else saved)
    tok = make_tokenizer(folder)
    adapter = make_adapter(spec, folder, gen)
    return tok, adapter


def make_adapter(spec, folder, gen):
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    args = dict(target_modules=PROJECTIONS, lora_dropout=0.0, bias="none", task_type="CAUSAL_LM")
    args.update(spec["lora"])
    model = get_peft_model(base, LoraConfig(**args))
    with torch.no_grad():
        for pname, p in model.named_parameters():
            if "lora_A" in pname:
                p.copy_((torch.randn(p.shape, generator=gen) / math.sqrt(p.shape[1])).bfloat16().float())
            elif "lora_B" in pname:
                p.copy_((0.2 * torch.randn(p.shape, generator=gen) / math.sqrt(args["r"])).bfloat16().float())
    path = os.path.join(folder, "adapter")
    model.save_pretrained(path)
    os.remove(os.path.join(path, "README.md"))
    file = os.path.join(path, "adapter_config.json")
    with open(file) as f:
        config = json.load(f)
    config.update(base_model_name_or_path=None, target_modules=sorted(config["target_modules"]))
    write_json(file, config)
    return path


def load(folder, dtype, adapter=False, trainable=False, scheme=None):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    if scheme:
        fp8_sim.swap(model, scheme)
    if adapter:
        model = PeftModel.from_pretrained(model, os.path.join(folder, "adapter"), is_trainable=trainable, autocast_adapter_dtype=False)
        model = model.to(dtype)
    return model


def logprobs_of(model, ids):
    """[len - 1] ln p(ids[1:] | before), the softmax in FP32 whatever the model's dtype."""
    logits = model(input_ids=torch.tensor([ids])).logits[0, :-1].float()
    return torch.log_softmax(logits, -1).gather(-1, torch.tensor(ids[1:]).unsqueeze(-1)).squeeze(-1)


def short(x):
    return float("%.7g" % x)


@torch.no_grad()
def score_all(model, sequences):
    return [[None] + [short(x) for x in logprobs_of(model, ids).tolist()] for ids in sequences]


def fp8_score(folder, adapter, scheme, sequences, plain):
    """The simulation with BF16 around the linears, and how the shift it causes compares with that of a second simulation with FP32
    around them: FP8 codes flip with the last bits of an activation, so two faithful implementations agree only this well."""
    half = score_all(load(folder, torch.bfloat16, adapter, scheme=scheme), sequences)
    full = score_all(load(folder, torch.float32, adapter, scheme=scheme), sequences)
    flat = lambda rows: torch.tensor([x for row in rows for x in row[1:]], dtype=torch.float64)
    shift, other = flat(half) - flat(plain["bf16"]), flat(full) - flat(plain["fp32"])
    return {"bf16": half, "bias": short(shift.mean()), "std": short(shift.std()), "other_bias": short(other.mean()),
            "other_std": short(other.std()), "correlation": short(torch.corrcoef(torch.stack([shift, other]))[0, 1])}


@torch.no_grad()
def greedy(model, ids, count):
    """Greedy continuation and the margin of each choice over the second, so a check can stop where rounding may decide."""
    out, margins = list(ids), []
    for _ in range(count):
        top = torch.topk(model(input_ids=torch.tensor([out])).logits[0, -1].float(), 2)
        out.append(int(top.indices[0]))
        margins.append(short(float(top.values[0] - top.values[1])))
    return {"prompt_ids": ids, "ids": out[len(ids):], "margins": margins}


def distances(model, reference):
    state = {k: v for k, v in peft.get_peft_model_state_dict(model).items()}
    return {k: short(float((state[k].double() - reference[k].double()).norm())) for k in reference}


def adapter_state(model):
    return {k: v.detach().clone().contiguous() for k, v in peft.get_peft_model_state_dict(model).items()}


def move(folder, reference):
    before = load_file(os.path.join(folder, "adapter", "adapter_model.safetensors"))
    return {k: (v - before[k].float()).half() for k, v in reference.items()}


def parameters(model):
    return [p for p in model.parameters() if p.requires_grad]


def pick_lr(model, loss, fraction):
    """A rate that moves the adapter by about `fraction` of its norm, so that its change is far above BF16 rounding."""
    loss.backward()
    norm = lambda xs: math.sqrt(sum(float(x.detach().double().square().sum()) for x in xs))
    rate = fraction * norm(parameters(model)) / norm([p.grad for p in parameters(model)])
    for p in parameters(model):
        p.grad = None
    return float("%.2g" % rate)


# ---- SFT: prompt and completion, loss on the completion's tokens, mean over the batch's tokens -------------------------------------

SFT_BATCH = 16


def sft_rows(tok, rng):
    rows = []
    for _ in range(3 * SFT_BATCH):
        a, b = rng.randrange(100), rng.randrange(100)
        words = " ".join(rng.choice(["the", "apples", "number", "sum", "pears"]) for _ in range(rng.randrange(1, 8)))
        letters = "".join(rng.choice(string.ascii_letters) for _ in range(rng.randrange(4, 20)))  # tokens that don't repeat from row to row
        prompt, completion = f"What is {a}+{b} of {words}?", f" The answer is {a + b} {letters}."
        p, c = tok.encode(prompt).ids, tok.encode(completion).ids
        assert tok.encode(prompt + completion).ids == p + c
        rows.append({"prompt": prompt, "completion": completion, "prompt_ids": p, "completion_ids": c + [2]})
    return rows


def sft_loss(model, rows):
    total, count = 0.0, 0
    for row in rows:
        lp = logprobs_of(model, row["prompt_ids"] + row["completion_ids"])[-len(row["completion_ids"]):]
        total, count = total - lp.sum(), count + len(lp)
    return total / count


def sft_run(folder, dtype, rows, lr):
    model = load(folder, dtype, adapter=True, trainable=True)
    optimizer = torch.optim.SGD(parameters(model), lr=lr)
    losses = []
    for step in range(3):
        optimizer.zero_grad()
        loss = sft_loss(model, rows[SFT_BATCH * step:SFT_BATCH * (step + 1)])
        loss.backward()
        optimizer.step()
        losses.append(short(float(loss)))
    return model, losses


def make_sft(folder, tok, rng):
    rows = sft_rows(tok, rng)
    model = load(folder, torch.float32, adapter=True, trainable=True)
    lr = pick_lr(model, sft_loss(model, rows[:SFT_BATCH]), 0.02)
    full, losses = sft_run(folder, torch.float32, rows, lr)
    reference = adapter_state(full)
    half, half_losses = sft_run(folder, torch.bfloat16, rows, lr)
    write_jsonl(os.path.join(folder, "sft.jsonl"), [{k: r[k] for k in ("prompt", "completion")} for r in rows])
    save_file(move(folder, reference), os.path.join(folder, "sft.safetensors"))
    return {"lr": lr, "batch_size": SFT_BATCH, "steps": 3, "fp32_loss": losses, "bf16_loss": half_losses, "bf16_distance": distances(half, reference),
            "completion_tokens": [len(r["completion_ids"]) for r in rows]}


# ---- GRPO family by replay -----------------------------------------------------------------------------------------------------------

MAX_NEW = 24


def clear_noise(rng, count):
    """Differences that stay clear of every bound a case clips at, so that BF16 and FP32 take the same branch everywhere:
    tokens of ln(0.8 .. 1.28), sequence means of ln(0.97) and ln(1.04), sequence sums of ln(1.15)."""
    while True:
        noise = [rng.choice([-1, 1]) * (rng.uniform(0, 0.07) if rng.random() < 0.8 else rng.uniform(0.3, 0.4)) for _ in range(count)]
        mean, total = sum(noise) / count, sum(noise)
        if all(abs(mean + b) > 0.008 for b in (math.log(0.97), math.log(1.04))) and abs(total + math.log(1.15)) > 0.1:
            return noise


def make_replay(folder, rng):
    """8 groups of 4; the sampler's log-probabilities are the FP32 model's with noise, so that clipping and correction have work."""
    model = load(folder, torch.float32, adapter=True)
    rows = []
    with torch.no_grad():
        for group in range(8):
            prompt = [rng.randrange(3, 300) for _ in range(rng.randrange(2, 9))]
            for _ in range(4):
                completion = [rng.randrange(3, 300) for _ in range(rng.randrange(1, 20))]
                lp = logprobs_of(model, prompt + completion)[-len(completion):]
                noisy = [short(min(-1e-3, float(x) + d)) for x, d in zip(lp, clear_noise(rng, len(lp)))]
                reward = 1.0 if group == 2 else rng.choice([0.0, 0.25, 1.0, 2.0])  # group 2: equal rewards, no advantage
                rows.append({"group": group, "prompt_ids": prompt, "completion_ids": completion, "logprobs": noisy, "reward": reward})
    write_jsonl(os.path.join(folder, "replay.jsonl"), rows)
    return rows


def trl_rloo_advantages(rewards):
    """TRL's own lines of RLOOTrainer._generate_and_score_completions, from rewards to advantages."""
    source = inspect.getsource(rloo_trainer.RLOOTrainer._generate_and_score_completions)
    first, end = "        grouped_rewards = rewards.view", "        is_std_zero = "
    assert source.count(first) == 1 and source.count(end) == 1
    scope = dict(vars(rloo_trainer), rewards=rewards, num_generations=4, self=SimpleNamespace(normalize_advantages=False))
    exec(textwrap.dedent(source[source.index(first):source.index(end)]), scope)
    return scope["advantages"]


def reinforce_pp(rewards, mask, baseline):
    """NeMo-RL's ReinforcePlusPlusAdvantageEstimator (nemo_rl/algorithms/advantage_estimator.py), the KL in the rewards left to the caller."""
    if baseline:
        rewards = (rewards.view(-1, 4) - rewards.view(-1, 4).mean(1, keepdim=True)).flatten()
    a = rewards.unsqueeze(1).expand(mask.shape)
    mean = (a * mask).sum() / mask.sum()
    variance = ((a - mean) ** 2 * mask).sum() / mask.sum()
    return ((a - mean) * variance.clamp(min=1e-8).rsqrt())[:, 0]


def advantages_of(rewards, mask, case):
    """TRL's GRPOTrainer (1.16): std with Bessel's correction, 1e-4 added; leave-one-out as in RLOO."""
    kind = case["advantage"]
    if kind.startswith("reinforce_pp"):
        return reinforce_pp(rewards, mask, kind.endswith("_baseline"))
    if case["loss"] == "rloo":
        return trl_rloo_advantages(rewards)
    r = rewards.view(-1, 4)
    mean = r.mean(1, keepdim=True)
    if kind == "group_std":
        return ((r - mean) / (r.std(1, keepdim=True) + 1e-4)).flatten()
    if kind == "batch_std":
        return ((r - mean) / (r.std() + 1e-4)).flatten()
    if kind == "leave_one_out":
        return (r - (r.sum(1, keepdim=True) - r) / 3).flatten()
    assert kind == "none"
    return (r - mean).flatten()


def trl_ratio(source_tensors, case):
    """TRL's own lines of GRPOTrainer._generate_and_score_completions, from the difference of log-probabilities to the bounded ratio."""
    source = inspect.getsource(GRPOTrainer._generate_and_score_completions)
    first, end = "                per_token_logps_diff = (old_per", "            # Compute the per-token log probabilities for the reference"
    assert source.count(first) == 1 and source.count(end) == 1
    settings = SimpleNamespace(vllm_importance_sampling_mode=f"{case['level']}_{case['correction']}",
                               vllm_importance_sampling_clip_max=case["cap"], vllm_importance_sampling_clip_min=case.get("floor"))
    scope = dict(vars(grpo_trainer), self=settings, **source_tensors)
    exec(textwrap.dedent(source[source.index(first):source.index(end)]), scope)
    return torch.exp(scope["logps_diff"]), scope["vllm_importance_sampling_ratio"]


def geometric_ratio(old_per_token_logps, sampling_per_token_logps, mask, case):
    """verl's rollout_is_level: geometric (verl/trainer/ppo/mismatch_helper.py of October 2025, compute_rollout_importance_weights):
    exp of the masked mean of the log-ratios, truncated at the bounds, or rejected outside them. verl rejects through the mask that the loss
    is counted with; here the weight is 0 and the counts stay, as in TRL's modes."""
    raw = torch.exp(((old_per_token_logps - sampling_per_token_logps) * mask).sum(-1, keepdim=True) / mask.sum(-1, keepdim=True))
    if case["correction"] == "truncate":
        return raw, raw.clamp(min=case.get("floor"), max=case["cap"])
    return raw, torch.where((raw >= case.get("floor", 0.0)) & (raw <= case["cap"]), raw, torch.zeros_like(raw))


def correction_ratio(old, sampler, mask, case):
    """The weights of a case, and what is reported of them: TRL's sampling/importance_sampling_ratio, verl's fractions out of bounds."""
    source = {"old_per_token_logps": old, "sampling_per_token_logps": sampler, "mask": mask}
    raw, ratio = geometric_ratio(**source, case=case) if case["level"] == "geometric" else trl_ratio(source, case)
    each, used = (x.flatten() if x.shape[1] == 1 else x[mask.bool()] for x in (raw, ratio))
    floor = case.get("floor", 0.0)
    for bound in filter(None, (floor, case["cap"])):  # a ratio near a bound could fall on either side of it in BF16
        assert (each.log() - math.log(bound)).abs().min() > (0.005 if case["level"] == "geometric" else 0.05), (case, bound)
    return ratio, {"mean": short(float(used.mean())), "min": short(float(used.min())), "max": short(float(used.max())),
                   "fraction_high": short(float((each > case["cap"]).double().mean())),
                   "fraction_low": short(float((each < floor).double().mean()))}


ALGOS, HELPER, VETO_HELPER = verl_code.load() if "VERL" in os.environ else (None, None, None)
REJECTED = ("rollout_rs_masked_fraction", "rollout_rs_seq_masked_fraction", "rollout_is_veto_fraction", "rollout_is_batch_norm_factor")


def verl_correction(old, sampler, mask, case):
    """verl's own weights and the mask of what it does not reject, and its figures that are ours too."""
    spec = dict(rollout_is=case["level"] if case["correction"] != "none" else None, rollout_is_threshold=case["cap"])
    if case.get("veto"):
        proto, kept, metrics = VETO_HELPER.compute_rollout_correction_and_rejection_mask(old, sampler, mask, rollout_token_veto_threshold=case["veto"], **spec)
        metrics["rollout_corr/rollout_rs_masked_fraction"] = float(1 - kept.sum() / mask.sum())
        metrics["rollout_corr/rollout_rs_seq_masked_fraction"] = float((kept.sum(1) < mask.sum(1)).float().mean())
    else:
        rules = dict(rollout_rs=",".join(case["reject"]), rollout_rs_threshold=",".join(case["reject_threshold"])) if case.get("reject") else {}
        proto, kept, metrics = HELPER.compute_rollout_correction_and_rejection_mask(
            old, sampler, mask, rollout_is_batch_normalize=case.get("batch_normalize", False), **rules, **spec)
    figures = {k: short(metrics["rollout_corr/" + k]) for k in REJECTED if "rollout_corr/" + k in metrics and (k != "rollout_is_veto_fraction" or case.get("veto"))}
    return proto.batch["rollout_is_weights"] if proto else None, kept, figures


def token_advantages(rewards, old, ref, mask, factor):
    """REINFORCE++ with each token's KL in its reward: verl's returns, OpenRLHF's normalization (not Bessel's)."""
    at_end = torch.zeros_like(old)
    at_end[torch.arange(len(rewards)), mask.sum(1) - 1] = rewards
    _, returns = ALGOS.compute_reinforce_plus_plus_outcome_advantage(ALGOS.compute_rewards(at_end, old, ref, factor) * mask, mask, config=SimpleNamespace(gamma=1.0))
    mean = (returns * mask).sum() / mask.sum()
    variance = ((returns - mean) ** 2 * mask).sum() / mask.sum()
    return (returns - mean) * variance.clamp(min=1e-8).rsqrt() * mask


def padded_entropies(model, rows, width):
    """Of the distributions that the completions' tokens are from."""
    values = []
    for r in rows:
        logits = model(input_ids=torch.tensor([r["prompt_ids"] + r["completion_ids"]])).logits[0, :-1].float()[-len(r["completion_ids"]):]
        p = torch.log_softmax(logits, -1)
        values.append(F.pad(-(p.exp() * p).sum(-1), (0, width - len(r["completion_ids"]))))
    return torch.stack(values)


def nemo_kl(case, lp, ref):
    """NeMo-RL's calculate_kl (nemo_rl/algorithms/utils.py), where clamp values of None clamp nothing."""
    bounded = lambda x, bound: x if bound is None else x.clamp(min=-bound, max=bound)
    logr = bounded(ref - lp, case.get("kl_input_clamp"))
    kl = {"k1": lambda: -logr, "k2": lambda: logr ** 2 / 2, "k3": lambda: torch.exp(logr) - 1 - logr}[case["kl_type"]]()
    return bounded(kl, case.get("kl_output_clamp"))


def trl_compute_loss(case):
    """TRL's own GRPOTrainer._compute_loss. It has k3 alone, unclamped; for what else NeMo-RL has that one expression is replaced in its source."""
    if case["kl_type"] == "k3" and "kl_input_clamp" not in case:
        return GRPOTrainer._compute_loss
    source = inspect.cleandoc("\n" + inspect.getsource(GRPOTrainer._compute_loss))
    k3 = "torch.exp(ref_per_token_logps - per_token_logps) - (ref_per_token_logps - per_token_logps) - 1"
    assert source.count(k3) == 1
    scope = dict(vars(grpo_trainer), nemo_kl=nemo_kl, case=case)
    exec(source.replace(k3, "nemo_kl(case, per_token_logps, ref_per_token_logps)"), scope)
    return scope["_compute_loss"]


class Accelerator:
    num_processes = 1
    device = torch.device("cpu")
    gather = staticmethod(lambda x: x)
    gather_for_metrics = staticmethod(lambda x: x)
    reduce = staticmethod(lambda x, reduction="sum": x)
    pad_across_processes = staticmethod(lambda x, **_: x)
    sync_gradients = True


def padded_logprobs(model, rows, width):
    values = [F.pad(logprobs_of(model, r["prompt_ids"] + r["completion_ids"])[-len(r["completion_ids"]):],
                    (0, width - len(r["completion_ids"]))) for r in rows]
    return torch.stack(values)


def grpo_loss(model, rows, case):
    width = max(len(r["completion_ids"]) for r in rows)
    pad = lambda xs, value: torch.tensor([list(x) + [value] * (width - len(x)) for x in xs])
    mask = pad([[1] * len(r["completion_ids"]) for r in rows], 0)
    sampler = pad([r["logprobs"] for r in rows], 0.0)
    inputs = {"prompt_ids": torch.zeros(len(rows), 1, dtype=torch.long), "prompt_mask": torch.ones(len(rows), 1, dtype=torch.long),
              "completion_ids": pad([r["completion_ids"] for r in rows], 0), "completion_mask": mask,
              "num_items_in_batch": mask.sum()}
    if case.get("off_policy_threshold"):
        inputs["sampling_per_token_logps"] = sampler
    corrected, weights, figures = case["correction"] != "none", None, {}
    with torch.no_grad():
        if any(case.get(k) for k in ("reject", "veto", "batch_normalize")):
            old = padded_logprobs(model, rows, width)
            ratio, kept, figures = verl_correction(old, sampler, mask, case)
            inputs |= {"old_per_token_logps": old if corrected else sampler, "importance_sampling_ratio": ratio, "completion_mask": kept, "num_items_in_batch": kept.sum()}
        elif corrected:
            old = padded_logprobs(model, rows, width)
            inputs["old_per_token_logps"] = old
            inputs["importance_sampling_ratio"], weights = correction_ratio(old, sampler, mask, case)
        else:
            inputs["old_per_token_logps"] = sampler
        if case["kl"]:
            with model.disable_adapter():
                inputs["ref_per_token_logps"] = padded_logprobs(model, rows, width)
    rewards, old = torch.tensor([r["reward"] for r in rows]), inputs["old_per_token_logps"]
    in_reward, in_token = case["kl"] and case.get("kl_in") == "reward", case["kl"] and case.get("kl_in") == "token"
    kl = nemo_kl(case, old, inputs["ref_per_token_logps"]) if in_reward else None
    if in_reward:
        rewards = rewards - case["kl"] * (kl * mask).sum(-1)
    advantages = case["advantages"] if "advantages" in case else token_advantages(rewards, old, inputs["ref_per_token_logps"], mask, case["kl"]) if in_token else advantages_of(rewards, mask, case)
    in_reward = in_reward or in_token
    inputs |= {"advantages": advantages, "old_logps": (old * mask).sum(1)}
    settings = {f.name: f.default for f in dataclasses.fields(GRPOConfig)} | {"steps_per_generation": 1, "use_bias_correction_kl": case.get("kl_bias_correction", False)}
    settings["delta"] = case.get("delta")
    settings |= {f"{case['loss']}_{k}": v for k, v in case.get(case["loss"], {}).items()}
    quantile = case.get("top_entropy_quantile", 1.0)
    entropies = padded_entropies(model, rows, width) if "entropy_coef" in case or quantile < 1.0 else torch.zeros(len(rows), width)
    logps = lambda *a, **k: (padded_logprobs(model, rows, width), entropies, None)
    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=logps, top_entropy_quantile=quantile, off_policy_mask_threshold=case.get("off_policy_threshold"),
        importance_sampling_level=case.get("ratio", case["level"]), beta=0.0 if in_reward else case["kl"], loss_type=case["loss"], epsilon_low=case["clip_low"],
        epsilon_high=1 + case["clip_high"] if case["loss"] == "cispo" else case["clip_high"], get_gamma_weights=GRPOTrainer.get_gamma_weights,
        get_off_policy_mask=GRPOTrainer.get_off_policy_mask, use_vllm=corrected, vllm_importance_sampling_correction=corrected,
        args=SimpleNamespace(**settings), model=SimpleNamespace(training=True),
        current_gradient_accumulation_steps=1, accelerator=Accelerator, max_completion_length=MAX_NEW, aux_loss_enabled=False,
        _entropy_bonus_enabled="entropy_coef" in case, entropy_coef=case.get("entropy_coef"), use_adaptive_entropy=False, _metrics={"train": defaultdict(list)})
    if quantile < 1.0 and model.dtype == torch.float32:  # so far from the threshold that BF16 leaves the same tokens out
        flat = entropies[mask.bool()].detach()
        assert (flat - torch.quantile(flat, 1 - quantile)).abs().min() > 0.003, "a token near the threshold"
    trainer.get_high_entropy_mask = MethodType(GRPOTrainer.get_high_entropy_mask, trainer)
    own = {"gmpo": GMPOTrainer._compute_loss, "rloo": rloo_trainer.RLOOTrainer._compute_loss}
    loss = (own[case["loss"]] if case["loss"] in own else trl_compute_loss(case))(trainer, model, inputs)
    if in_reward:
        with torch.no_grad():
            kl = nemo_kl(case, padded_logprobs(model, rows, width), inputs["ref_per_token_logps"])
        trainer._metrics["train"]["kl"] = [float((kl * mask).sum() / mask.sum())]
    return loss, {k: v[0] for k, v in trainer._metrics["train"].items() if v} | {"importance": weights, "figures": figures}


def grpo_cases(which):
    base = dict(loss="dapo", level="token", advantage="group_std", clip_low=0.2, clip_high=0.2, kl=0.0, kl_type="k3", correction="none", cap=1.15)
    upper, unclipped = dict(clip_low=None, clip_high=0.25), dict(clip_low=None, clip_high=None)  # bounds that TRL's loss has not: None
    cases = {"dapo": {}, "grpo": dict(loss="grpo"), "gspo_kl": dict(loss="grpo", level="sequence", clip_low=0.03, clip_high=0.04, kl=0.1)}
    if which == "all":
        cases.update({
            "bnpo": dict(loss="bnpo"), "dr_grpo": dict(loss="dr_grpo", advantage="none"),
            "gspo": dict(loss="grpo", level="sequence", clip_low=0.03, clip_high=0.04),
            "batch_std": dict(loss="grpo", advantage="batch_std"), "leave_one_out": dict(advantage="leave_one_out"),
            "clip_higher": dict(clip_low=0.1, clip_high=0.28),
            "kl_k1": dict(kl=0.2, kl_type="k1"), "kl_k2": dict(kl=0.2, kl_type="k2", loss="grpo"), "kl_k3": dict(kl=0.2, loss="bnpo"),
            "token_truncate": dict(correction="truncate"), "token_mask": dict(correction="mask", loss="grpo"),
            "sequence_truncate": dict(correction="truncate", level="sequence"),
            "sequence_mask": dict(correction="mask", level="sequence", loss="dr_grpo"),
            "mask_kl": dict(correction="mask", kl=0.1),
            "floor_truncate": dict(correction="truncate", floor=0.85), "icepop": dict(correction="mask", floor=0.85),
            "sequences_of_tokens": dict(correction="mask", level="sequence", ratio="token", floor=0.45),  # TRL's own default but for the bounds
            "gspo_of_tokens": dict(correction="truncate", level="token", ratio="sequence", floor=0.85, loss="grpo"),
            "geometric_mask": dict(correction="mask", level="geometric", ratio="token", floor=0.97, cap=1.04),
            "geometric_gspo": dict(correction="truncate", level="geometric", ratio="sequence", floor=0.97, cap=1.04, loss="grpo", kl=0.1),
            "cispo": dict(loss="cispo", **upper), "cispo_mask": dict(loss="cispo", correction="mask", kl=0.1, **upper),
            "cispo_sequence": dict(loss="cispo", level="sequence", clip_low=None, clip_high=0.04),
            "sapo": dict(loss="sapo", **unclipped), "sapo_kl": dict(loss="sapo", kl=0.1, sapo={"temperature_pos": 1.5, "temperature_neg": 3.0}, **unclipped),
            "sapo_sequence": dict(loss="sapo", ratio="sequence", **unclipped),
            "luspo": dict(loss="luspo", level="sequence", clip_low=0.03, clip_high=0.04),
            "luspo_mask": dict(loss="luspo", level="sequence", clip_low=0.03, clip_high=0.04, correction="mask", kl=0.1),
            "vespo": dict(loss="vespo", **unclipped), "vespo_truncate": dict(loss="vespo", correction="truncate", **unclipped),
            "vespo_mask": dict(loss="vespo", level="sequence", ratio="token", correction="mask", kl=0.1,
                               vespo={"k_pos": 1.5, "lambda_pos": 2.0, "k_neg": 1.0, "lambda_neg": 1.5}, **unclipped),
            "delta": dict(delta=1.25), "delta_luspo": dict(loss="luspo", level="sequence", clip_low=0.03, clip_high=0.04, delta=1.06),
            "off_policy": dict(correction="truncate", off_policy_threshold=0.0327, kl=0.1),
            "kl_clamped": dict(kl=0.2, kl_input_clamp=1.8587, kl_output_clamp=1.664),
            "kl_in_reward": dict(kl=0.05, kl_in="reward"),
            "reinforce_pp": dict(advantage="reinforce_pp"),
            "reinforce_pp_kl": dict(advantage="reinforce_pp_baseline", correction="truncate", kl=0.05, kl_type="k1", kl_in="reward"),
            "rloo": dict(loss="rloo", advantage="leave_one_out", clip_low=0.13, clip_high=0.4),
            "rloo_kl": dict(loss="rloo", advantage="leave_one_out", clip_low=0.13, clip_high=0.4, kl=0.1, kl_type="k1", kl_in="reward"),
            "entropy": dict(loss="grpo", entropy_coef=0.2),
            "top_entropy": dict(top_entropy_quantile=0.895, kl=0.1, entropy_coef=0.1), "top_entropy_gspo": dict(loss="grpo", level="sequence", clip_low=0.03, clip_high=0.04, top_entropy_quantile=0.895),
            "kl_bias": dict(kl=0.2, kl_bias_correction=True), "kl_bias_gspo": dict(loss="grpo", level="sequence", clip_low=0.03, clip_high=0.04, kl=0.2, kl_bias_correction=True),
            "kl_in_token": dict(advantage="reinforce_pp", kl=0.05, kl_type="k1", kl_in="token"),
            "reject": dict(correction="truncate", cap=1.15, reject=["seq_mean_k1"], reject_threshold=["0.9615_1.0309"]),
            "reject_tokens": dict(loss="grpo", reject=["token_k3"], reject_threshold=["0.02"], kl=0.1), "veto": dict(correction="truncate", cap=1.15, veto=0.82),
            "batch_normalize": dict(correction="truncate", cap=1.15, batch_normalize=True),
            "gmpo": dict(loss="gmpo"), "gmpo_kl": dict(loss="gmpo", clip_low=0.1, clip_high=0.28, kl=0.1)})
    return {name: {**base, **case} for name, case in cases.items()}


def grpo_step(folder, dtype, rows, case, lr):
    model = load(folder, dtype, adapter=True, trainable=True)
    loss, metrics = grpo_loss(model, rows, case)
    loss.backward()
    torch.optim.SGD(parameters(model), lr=lr).step()
    return model, short(float(loss)), metrics


def make_grpo(folder, which, rng):
    rows = make_replay(folder, rng)
    out, tensors = {}, {}
    for name, case in grpo_cases(which).items():
        model = load(folder, torch.float32, adapter=True, trainable=True)
        lr = pick_lr(model, grpo_loss(model, rows, case)[0], 0.2)
        full, loss, metrics = grpo_step(folder, torch.float32, rows, case, lr)
        reference = adapter_state(full)
        half, half_loss, _ = grpo_step(folder, torch.bfloat16, rows, case, lr)
        tensors.update({f"{name}/{k}": v for k, v in move(folder, reference).items()})
        out[name] = {**case, "lr": lr, "fp32_loss": loss, "bf16_loss": half_loss, "bf16_distance": distances(half, reference),
                     "kl_metric": short(metrics["kl"]) if "kl" in metrics else None,
                     "clip_fraction": short(metrics.get("clip_ratio/region_mean", metrics.get("cispo_clip_ratio", 0.0)))}
        if "entropy_coef" in case:
            out[name]["entropy_metric"] = short(metrics["entropy"])
        if metrics["figures"]:
            out[name]["figures"] = metrics["figures"]
        if metrics["importance"]:
            out[name]["importance"] = metrics["importance"]
    save_file(tensors, os.path.join(folder, "grpo.safetensors"))
    return {"max_new_tokens": MAX_NEW, "prompts_per_step": 8, "generations": 4, "cases": out}


# ---- Distillation by replay: the teacher is the model with the adapter off ----------------------------------------------------------

def distill_loss(model, rows, case):
    """Over whole distributions TRL's generalized_jsd_loss, a mean over the tokens; of sampled tokens the clipped objective of advantages ln p(teacher) - ln p(sampler)."""
    if case["loss"] == "sampled":
        width = max(len(r["completion_ids"]) for r in rows)
        with torch.no_grad(), model.disable_adapter():
            teacher = padded_logprobs(model, rows, width)
        sampler = torch.stack([F.pad(torch.tensor(r["logprobs"]), (0, width - len(r["logprobs"]))) for r in rows])
        return grpo_loss(model, rows, dict(grpo_cases("some")["dapo"], advantages=teacher - sampler))[0]
    total, count = 0.0, 0
    for r in rows:
        ids, n = torch.tensor([r["prompt_ids"] + r["completion_ids"]]), len(r["completion_ids"])
        with torch.no_grad(), model.disable_adapter():
            teacher = model(input_ids=ids).logits[:, -n - 1:-1].float()
        student = model(input_ids=ids).logits[:, -n - 1:-1].float()
        total, count = total + GKDTrainer.generalized_jsd_loss(student, teacher, torch.zeros(1, n, dtype=torch.long), case["beta"], num_items_in_batch=1), count + n
    return total / count


def distill_step(folder, dtype, rows, case, lr):
    model = load(folder, dtype, adapter=True, trainable=True)
    loss = distill_loss(model, rows, case)
    loss.backward()
    torch.optim.SGD(parameters(model), lr=lr).step()
    return model, short(float(loss))


def make_distill(folder, rows):
    out, tensors = {}, {}
    for name, case in {"reverse_kl": dict(loss="full", beta=1.0), "forward_kl": dict(loss="full", beta=0.0), "jsd": dict(loss="full", beta=0.5), "sampled": dict(loss="sampled", beta=1.0)}.items():
        model = load(folder, torch.float32, adapter=True, trainable=True)
        lr = pick_lr(model, distill_loss(model, rows, case), 0.2)
        full, loss = distill_step(folder, torch.float32, rows, case, lr)
        reference = adapter_state(full)
        half, half_loss = distill_step(folder, torch.bfloat16, rows, case, lr)
        tensors.update({f"{name}/{k}": v for k, v in move(folder, reference).items()})
        out[name] = {**case, "lr": lr, "fp32_loss": loss, "bf16_loss": half_loss, "bf16_distance": distances(half, reference)}
    save_file(tensors, os.path.join(folder, "distill.safetensors"))
    return out


# ---- DPO, ORPO, KTO: TRL's own losses over the log-probabilities of these models ---------------------------------------------------

PAIRS = 8


def preference_rows(tok, rng):
    """Texts whose prompt ends on a token boundary. An answer of a pair has tokens enough that each sum is far from the other's."""
    def answer():
        letters = "".join(rng.choice(string.ascii_letters) for _ in range(rng.randrange(4, 16)))
        return f" The answer is {rng.randrange(200)} {letters}."
    pairs, labels = [], []
    for i in range(PAIRS):
        words = " ".join(rng.choice(["the", "apples", "number", "sum", "pears"]) for _ in range(rng.randrange(1, 8)))
        prompt = f"What is {rng.randrange(100)}+{rng.randrange(100)} of {words}?"
        pairs.append({"prompt": prompt, "chosen": answer(), "rejected": answer()})
        labels.append({"prompt": prompt, "completion": answer(), "label": i % 3 != 1})
    for row in pairs + labels:
        for key in ("chosen", "rejected", "completion"):
            if key in row:
                ids = tok.encode(row["prompt"] + row[key]).ids
                row["prompt_ids"] = tok.encode(row["prompt"]).ids
                row[key + "_ids"] = ids[len(row["prompt_ids"]):] + [2]
                assert ids[:len(row["prompt_ids"])] == row["prompt_ids"]
    return pairs, labels


class Policy:
    """What TRL's trainers ask of a model, sequence by sequence; with `reference` the adapter is off."""
    training, is_gradient_checkpointing, _modules = True, False, {}

    def __init__(self, model, reference=False):
        self.model, self.reference = model, reference

    def __call__(self, input_ids, attention_mask, labels=None, **_):
        scope = self.model.disable_adapter() if self.reference else contextlib.nullcontext()
        with scope:
            if labels is None:
                return SimpleNamespace(logits=self.model(input_ids=input_ids, attention_mask=attention_mask).logits.float())
            width = input_ids.shape[1] - 1
            rows = [ids[:int(n)].tolist() for ids, n in zip(input_ids, attention_mask.sum(1))]
            lp = torch.stack([F.pad(logprobs_of(self.model, ids), (0, width + 1 - len(ids))) for ids in rows])
        nothing = torch.zeros_like(lp)
        return SimpleNamespace(log_probs=lp * (labels[:, 1:] != -100), entropy=nothing, mean_logits=nothing, is_top1=nothing.bool())


def trainer_of(model, case, **more):
    return SimpleNamespace(
        model=Policy(model), ref_model=Policy(model, reference=True), accelerator=Accelerator, beta=case["beta"], ld_alpha=None,
        precompute_ref_logps=False, aux_loss_enabled=False, f_divergence_type="reverse_kl", label_smoothing=case.get("label_smoothing", 0.0),
        use_weighting=False, args=SimpleNamespace(gradient_checkpointing_kwargs=None), _metrics={"train": defaultdict(list)},
        _total_train_tokens=0, _tp_size=1, is_encoder_decoder=False, padding_value=0, **more)


def dpo_loss(model, pairs, case):
    """Label smoothing with the sigmoid is what TRL's sigmoid had before 1.0, and what its `aot` is of one pair at a time."""
    if case["loss"] == "sigmoid" and case.get("label_smoothing"):
        each = [dpo_loss(model, [pair], dict(case, loss="aot")) for pair in pairs]
        return sum(loss for loss, _ in each) / len(each), {k: sum(m[k] for _, m in each) / len(each) for k in each[0][1]}
    kinds, weights = ([case["loss"], "sft"], [1.0, case["sft"]]) if case.get("sft") else ([case["loss"]], [1.0])
    trainer = trainer_of(model, case, loss_types=kinds, loss_weights=weights)
    inputs = dpo_trainer.DataCollatorForPreference(pad_token_id=0)(pairs)
    return dpo_trainer.DPOTrainer._compute_loss(trainer, trainer.model, inputs, False), {k: v[0] for k, v in trainer._metrics["train"].items()}


def orpo_loss(model, pairs, case):
    pad = lambda rows, value: torch.nn.utils.rnn.pad_sequence([torch.tensor(r) for r in rows], batch_first=True, padding_value=value)
    batch = {}
    for key in ("chosen", "rejected"):
        batch[f"{key}_input_ids"] = pad([r["prompt_ids"] + r[key + "_ids"] for r in pairs], 0)
        batch[f"{key}_attention_mask"] = pad([[1] * len(r["prompt_ids"] + r[key + "_ids"]) for r in pairs], 0)
        batch[f"{key}_labels"] = pad([[-100] * len(r["prompt_ids"]) + r[key + "_ids"] for r in pairs], -100)
    cls = orpo_trainer.ORPOTrainer
    trainer = trainer_of(model, case, concatenated_inputs=cls.concatenated_inputs, get_batch_logps=cls.get_batch_logps)
    trainer.concatenated_forward = MethodType(cls.concatenated_forward, trainer)
    trainer.odds_ratio_loss = MethodType(cls.odds_ratio_loss, trainer)
    return cls.get_batch_loss_metrics(trainer, trainer.model, batch)


def kto_loss(model, rows, case):
    """KL_completion_ids as KTOTrainer._prepare_dataset makes them: each answer goes to the next prompt of its batch."""
    rows = [dict(r, KL_completion_ids=rows[i - 1]["completion_ids"]) for i, r in enumerate(rows)]
    cls = kto_trainer.KTOTrainer
    trainer = trainer_of(model, case, loss_type="kto", calculate_KL=True, desirable_weight=case.get("desirable_weight", 1.0),
                         undesirable_weight=case.get("undesirable_weight", 1.0))
    trainer._compute_kl_logps = MethodType(cls._compute_kl_logps, trainer)
    inputs = kto_trainer.DataCollatorForUnpairedPreference(pad_token_id=0)(rows)
    return cls._compute_loss(trainer, trainer.model, inputs, False), {k: v[0] for k, v in trainer._metrics["train"].items()}


PREFERENCE_METRICS = ("rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "logps/chosen", "logps/rejected",
                      "nll_loss", "log_odds_ratio", "log_odds_chosen", "kl")


def preference_loss(model, rows, case):
    loss, metrics = {"dpo": dpo_loss, "orpo": orpo_loss, "kto": kto_loss}[case["algorithm"]](model, rows[case["algorithm"] == "kto"], case)
    return loss, {k: short(float(v)) for k, v in metrics.items() if k in PREFERENCE_METRICS}


def preference_cases(which):
    cases = {"sigmoid": dict(algorithm="dpo", loss="sigmoid"), "orpo": dict(algorithm="orpo", beta=0.25), "kto": dict(algorithm="kto")}
    if which == "all":
        cases.update({
            "ipo": dict(algorithm="dpo", loss="ipo"), "hinge": dict(algorithm="dpo", loss="hinge", beta=0.5),
            "robust": dict(algorithm="dpo", loss="robust", label_smoothing=0.2), "sft": dict(algorithm="dpo", loss="sigmoid", sft=0.5),
            "smoothed": dict(algorithm="dpo", loss="sigmoid", beta=0.3, label_smoothing=0.2),
            "kto_weights": dict(algorithm="kto", beta=0.3, desirable_weight=1.25, undesirable_weight=0.75)})
    return {name: {"beta": 0.1, **case} for name, case in cases.items()}


def preference_step(folder, dtype, rows, case, lr):
    model = load(folder, dtype, adapter=True, trainable=True)
    loss, metrics = preference_loss(model, rows, case)
    loss.backward()
    torch.optim.SGD(parameters(model), lr=lr).step()
    return model, short(float(loss)), metrics


def make_preference(folder, which, tok, rng):
    rows = preference_rows(tok, rng)
    out, tensors = {}, {}
    for file, part, keys in (("pairs", rows[0], ("prompt", "chosen", "rejected")), ("labels", rows[1], ("prompt", "completion", "label"))):
        write_jsonl(os.path.join(folder, file + ".jsonl"), [{k: r[k] for k in keys} for r in part])
    for name, case in preference_cases(which).items():
        model = load(folder, torch.float32, adapter=True, trainable=True)
        lr = pick_lr(model, preference_loss(model, rows, case)[0], 0.2)
        full, loss, metrics = preference_step(folder, torch.float32, rows, case, lr)
        reference = adapter_state(full)
        half, half_loss, half_metrics = preference_step(folder, torch.bfloat16, rows, case, lr)
        tensors.update({f"{name}/{k}": v for k, v in move(folder, reference).items()})
        out[name] = {**case, "lr": lr, "fp32_loss": loss, "bf16_loss": half_loss, "bf16_distance": distances(half, reference),
                     "fp32_metrics": metrics, "bf16_metrics": half_metrics}
    save_file(tensors, os.path.join(folder, "preference.safetensors"))
    return {"batch_size": PAIRS, "cases": out}


def make_expect(name, spec, folder, tok):
    rng = random.Random(name)
    vocab = 304
    sequences = [[rng.randrange(vocab) for _ in range(n)] for n in LENGTHS]
    expect = {"versions": VERSIONS, "sequences": sequences, "score": {}}
    for adapter in (False, True):
        key = "adapter" if adapter else "base"
        full, half = load(folder, torch.float32, adapter), load(folder, torch.bfloat16, adapter)
        expect["score"][key] = {"fp32": score_all(full, sequences), "bf16": score_all(half, sequences)}
        if not adapter:
            expect["greedy"] = [greedy(full, s[:n], 12) for s, n in ((sequences[2], 7), (sequences[3], 20))]
        for scheme in fp8_sim.SCHEMES if spec.get("fp8") else ():
            expect["score"][key][scheme] = fp8_score(folder, adapter, scheme, sequences, expect["score"][key])
    if spec.get("fp8"):
        expect["quantized"] = {s: fp8_sim.fingerprints(load(folder, torch.bfloat16), s) for s in fp8_sim.SCHEMES}
    texts = ["What is 12+7?", "The answer\n is  19 <|im_end|>", "naïve \U0001f600 Ünïcode", ""]
    expect["tokenize"] = [{"text": t, "ids": tok.encode(t).ids} for t in texts]
    expect["sft"] = make_sft(folder, tok, rng)
    if spec.get("grpo"):
        expect["grpo"] = make_grpo(folder, spec["grpo"], rng)
        if spec["grpo"] == "all":
            with open(os.path.join(folder, "replay.jsonl")) as f:
                expect["distill"] = make_distill(folder, [json.loads(line) for line in f])
        expect["preference"] = make_preference(folder, spec["grpo"], tok, random.Random(name + "/preference"))
    write_json(os.path.join(folder, "expect.json"), expect)


def main():
    root = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(__file__), "data", "models")
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    for name, spec in MODELS.items():
        folder = os.path.join(root, name)
        tok, _ = make_model(name, spec, folder)
        make_expect(name, spec, folder, tok)
        print(name, sum(os.path.getsize(os.path.join(d, f)) for d, _, fs in os.walk(folder) for f in fs), "bytes", flush=True)


if __name__ == "__main__":
    main()
