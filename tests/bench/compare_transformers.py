#!/usr/bin/env python3
"""Rollout and LoRA training beside transformers and PEFT, on this machine, in one run. Prints one JSON object a line.

    pip install torch transformers peft
    python tests/bench/compare_transformers.py --tandem build/cpu-release/tandem --model models/SmolLM2-135M-Instruct.Q4_1.gguf

Both sides do the same work: 64 sequences of 64 prompt tokens and 64 new ones, sampled at temperature 1, end-of-sequence ignored; one
training step with LoRA of rank 16 on all seven projections, loss on the last half of each sequence. transformers runs a model of the same
shapes with random weights (speed does not depend on them) in BF16 and in FP32; the faster counts. Runs alternate; the median counts.
"""
import argparse
import json
import os
import statistics
import subprocess
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

SMOLLM2 = dict(vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
               max_position_embeddings=8192, rope_theta=100000.0, tie_word_embeddings=True, rms_norm_eps=1e-5)
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def tandem(args, what, weights, extra):
    argv = [args.tandem, "bench", what, "--model", args.model, "--weights", weights, "--threads", str(args.threads), "--repeat", "1"] + extra
    return json.loads(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)["tokens_per_s"]


def generate(model, args):
    ids = torch.randint(10, 49000, (8, args.prompt)).repeat_interleave(8, 0)
    begin = time.perf_counter()
    with torch.no_grad():
        out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=args.new,
                             min_new_tokens=args.new, pad_token_id=0, eos_token_id=None)
    assert out.shape[1] == args.prompt + args.new
    return 64 * args.new / (time.perf_counter() - begin)


def train(model, args, sequences):
    length = args.prompt + args.new
    ids = torch.randint(10, 49000, (sequences, length))
    begin = time.perf_counter()
    for first in range(0, sequences, args.micro):
        part = ids[first:first + args.micro]
        # logits of the learned half only: the cheaper way for transformers, too
        out = model(input_ids=part, logits_to_keep=args.new + 1)
        logits = out.logits[:, :-1].float()
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), part[:, -args.new:].reshape(-1))
        loss.backward()
    return sequences * length / (time.perf_counter() - begin)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--tandem", required=True)
    p.add_argument("--model", required=True)
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--repeat", type=int, default=3)
    p.add_argument("--prompt", type=int, default=64)
    p.add_argument("--new", type=int, default=64)
    p.add_argument("--sequences", type=int, default=16, help="of the training step")
    p.add_argument("--micro", type=int, default=16, help="sequences of a micro-batch of transformers")
    p.add_argument("--weights", default="fp8_channel,bf16")
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    shape = ["--prompt-tokens", str(args.prompt), "--new-tokens", str(args.new)]
    rollout = ["--prompts", "8", "--samples", "8"] + shape
    step = ["--prompts", str(args.sequences), "--samples", "1", "--micro-tokens", "2048"] + shape
    models = {}
    for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        torch.manual_seed(0)
        base = LlamaForCausalLM(LlamaConfig(**SMOLLM2)).to(dtype).eval()
        models[name] = base
    peft = {name: get_peft_model(LlamaForCausalLM(LlamaConfig(**SMOLLM2)).to(m.dtype), LoraConfig(r=16, lora_alpha=32, target_modules=TARGETS, task_type="CAUSAL_LM"))
            for name, m in models.items()}
    ours = {(what, w): [] for what in ("rollout", "train") for w in args.weights.split(",")}
    theirs = {(what, d): [] for what in ("rollout", "train") for d in models}
    for _ in range(args.repeat):
        for what, w in ours:
            ours[what, w].append(tandem(args, what, w, rollout if what == "rollout" else step))
        for what, d in theirs:
            theirs[what, d].append(generate(models[d], args) if what == "rollout" else train(peft[d], args, args.sequences))
    for what in ("rollout", "train"):
        best = max((d for w, d in theirs if w == what), key=lambda d: statistics.median(theirs[what, d]))
        base = statistics.median(theirs[what, best])
        for w in args.weights.split(","):
            mine = statistics.median(ours[what, w])
            print(json.dumps({"what": what, "tandem_weights": w, "tandem_tokens_per_s": round(mine, 1), "tandem_all": [round(x, 1) for x in ours[what, w]],
                              "transformers_dtype": best, "transformers_tokens_per_s": round(base, 1),
                              "transformers_all": {d: [round(x, 1) for x in theirs[what, d]] for d in models}, "ratio": round(mine / base, 2),
                              "threads": args.threads}), flush=True)


if __name__ == "__main__":
    main()
