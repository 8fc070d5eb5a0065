#!/usr/bin/env python3
"""SmolLM2-135M-Instruct itself beside transformers, on text and not on random ids. Needs torch, transformers, peft, safetensors:

    scripts/get_model.sh
    python tests/conformance/smollm2.py --tandem build/cpu-release/tandem --grpo-train build/cpu-release/grpo_train

The weights are those of the GGUF, dequantized and written by `tandem quantize --scheme bf16`; check_gguf_export.py and check_quantized.py
compare that folder with the gguf package. transformers reads the same folder, so both sides have the same bf16 weights and ids.

bf16     mean |difference| to transformers in FP32 is no greater than that of transformers in BF16
fp8      the shift away from BF16 goes with that of the simulation (tests/golden/fp8_sim.py), about as well as two simulations that differ
         only in the precision around the linears go with each other: over 30 layers, and on a cut of one layer, where rounding does not
         have the room to become chaotic
bits     both engines, any order, any company: the same bits
adapter  --adapter NAME=DIR...: transformers with peft and Tandem agree as they do without one; peft loads DIR without a warning. An adapter
         that peft makes here is always among them.
sft      three SGD steps from that adapter, tensor by tensor (train.py's rule)
"""
import json
import os
import random
import shutil
import sys
import warnings

import torch
import torch.nn.functional as F
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from harness import (PROJECTIONS, ROOT, Report, arguments, correlation, deviation, expect, flat, mean, mean_abs_difference, newest_checkpoint,
                     metrics_of, read_json, read_jsonl, run_ok, scratch, write_jsonl, write_recipe, write_text)

sys.path.insert(0, os.path.join(ROOT, "tests", "golden"))
import fp8_sim  # noqa: E402

GGUF = os.path.join(ROOT, "models", "SmolLM2-135M-Instruct.Q4_1.gguf")
SFT = dict(steps=3, batch_size=16, lr=0.05)


class Model:
    """A folder that both sides read, and what each says about `sequences`."""

    def __init__(self, args, path, sequences, tmp):
        self.tandem, self.path, self.sequences, self.tmp, self.cache, self.theirs = args.tandem, path, sequences, tmp, {}, {}

    def score(self, scheme, engine="infer", adapter=None, order=None):
        rows = list(range(len(self.sequences))) if order is None else order
        key = (scheme, engine, adapter, tuple(rows))
        if key not in self.cache:
            source, target = os.path.join(self.tmp, "in.jsonl"), os.path.join(self.tmp, "out.jsonl")
            write_jsonl(source, [{"ids": self.sequences[i]} for i in rows])
            argv = [self.tandem, "score", "--model", self.path, "--weights", scheme, "--engine", engine, "--input", source, "--output", target]
            run_ok(argv + (["--adapter", adapter] if adapter else []), timeout=900)
            self.cache[key] = [row["logprobs"] for row in read_jsonl(target)]
        return self.cache[key]

    def load(self, dtype, scheme=None, adapter=None):
        model = transformers.AutoModelForCausalLM.from_pretrained(self.path, dtype=dtype)
        if scheme:
            fp8_sim.swap(model, scheme)
        if adapter:
            model = PeftModel.from_pretrained(model, adapter, autocast_adapter_dtype=False).to(dtype)
        return model.eval()

    @torch.no_grad()
    def reference(self, dtype, scheme=None, adapter=None):
        key = (dtype, scheme, adapter)
        if key not in self.theirs:
            model = self.load(dtype, scheme, adapter)
            self.theirs[key] = [[None] + logprobs_of(model, ids).tolist() for ids in self.sequences]
        return self.theirs[key]


def logprobs_of(model, ids):
    logits = model(input_ids=torch.tensor([ids])).logits[0, :-1].float()
    return torch.log_softmax(logits, -1).gather(-1, torch.tensor(ids[1:]).unsqueeze(-1)).squeeze(-1)


def texts():
    """GSM8K rows as chats, sums as chats, and plain lines of other kinds."""
    rows = read_jsonl(os.path.join(ROOT, "examples", "gsm8k", "test.jsonl"))[:6]
    chats = [[{"role": "user", "content": r["question"]}, {"role": "assistant", "content": r["answer"]}] for r in rows]
    chats += [[{"role": "user", "content": f"What is {a}+{b}? Answer with just the number."}, {"role": "assistant", "content": str(a + b)}]
              for a, b in ((7, 5), (2, 9))]
    plain = ["def factorial(n):\n    return 1 if n < 2 else n * factorial(n - 1)\n\nprint(factorial(10))  # 3628800\n",
             "Die Katze saß auf der Matte; le chat était là. 猫は座った。", "SELECT name, COUNT(*) FROM users GROUP BY name HAVING COUNT(*) > 1;",
             "The mitochondrion is the powerhouse of the cell. It makes most of the ATP that the cell uses."]
    return [{"messages": c, "add_generation_prompt": False} for c in chats] + plain


def make_folder(args, tmp):
    folder = os.path.join(tmp, "bf16")
    run_ok([args.tandem, "quantize", "--model", GGUF, "--scheme", "bf16", "--output", folder], timeout=300)
    lines = "".join(json.dumps(t) + "\n" for t in texts())
    ids = [json.loads(x)["ids"] for x in run_ok([args.tandem, "tokenize", "--model", GGUF], stdin=lines.encode()).out.splitlines()]
    return folder, ids


def cut_to_one_layer(folder, tmp):
    """Embedding, the first layer, the final norm and the head: a model that both sides read like any other."""
    out = os.path.join(tmp, "one-layer")
    os.makedirs(out)
    for f in os.listdir(folder):
        if f.endswith(".json") and "index" not in f:
            shutil.copy(os.path.join(folder, f), out)
    config = read_json(os.path.join(folder, "config.json"))
    write_text(os.path.join(out, "config.json"), json.dumps(dict(config, num_hidden_layers=1)))
    tensors = {}
    for f in sorted(os.listdir(folder)):
        if f.endswith(".safetensors"):
            tensors.update(load_file(os.path.join(folder, f)))
    save_file({k: v for k, v in tensors.items() if ".layers." not in k or ".layers.0." in k}, os.path.join(out, "model.safetensors"),
              metadata={"format": "pt"})
    return out


# ---- Scores --------------------------------------------------------------------------------------------------------------------------

def bf16_no_worse_than_transformers(m, adapter=None):
    full = flat(m.reference(torch.float32, None, adapter))
    ours = mean_abs_difference(flat(m.score("bf16", adapter=adapter)), full)
    theirs = mean_abs_difference(flat(m.reference(torch.bfloat16, None, adapter)), full)
    expect(ours <= theirs, f"mean |difference to FP32| {ours:.6f}, transformers in BF16 {theirs:.6f}")
    return f"mean |d| {ours:.6f}, transformers in BF16 {theirs:.6f} ({ours / theirs:.0%}), {len(full)} tokens"


def fp8_shifts_as_simulated(m, scheme):
    shift = lambda a, b: [x - y for x, y in zip(flat(a), flat(b))]
    half = shift(m.reference(torch.bfloat16, scheme), m.reference(torch.bfloat16))
    full = shift(m.reference(torch.float32, scheme), m.reference(torch.float32))
    # dynamic fp8_tensor has one scale for a whole call: sequences go one by one, as they do in the simulation
    alone = scheme == "fp8_tensor"
    got = [m.score(scheme, order=[i])[0] for i in range(len(m.sequences))] if alone else m.score(scheme)
    ours = shift(got, m.score("bf16"))
    c, between = max(correlation(ours, half), correlation(ours, full)), correlation(half, full)
    n, spread, simulated = len(ours), deviation(ours), deviation(full)
    # The standard error of a correlation over n tokens is about (1 - c^2) / sqrt(n).
    expect(c >= between - 4 * (1 - between ** 2) / n ** 0.5 - 0.02, f"correlation {c:.3f}, two simulations reach {between:.3f}")
    expect(0.8 <= spread / simulated <= 1.25, f"spread {spread:.4f}, simulated {simulated:.4f}")
    bias, bound = mean(ours) - mean(full), 4 * simulated * (2 - 2 * between) ** 0.5 / n ** 0.5
    expect(abs(bias) <= bound, f"bias {mean(ours):+.5f}, simulated {mean(full):+.5f}, 4 standard errors {bound:.5f}")
    return (f"correlation {correlation(ours, half):.3f} to BF16 simulation, {correlation(ours, full):.3f} to FP32 (between them {between:.3f}), "
            f"bias {mean(ours):+.5f} ({mean(half):+.5f}, {mean(full):+.5f}), std {spread:.4f} ({deviation(half):.4f}, {simulated:.4f})")


def same_bits(m, scheme, adapter=None):
    whole, count, rng = m.score(scheme, "infer", adapter), len(m.sequences), random.Random(3)
    for engine in ("infer", "train"):
        for order in (None, list(reversed(range(count))), rng.sample(range(count), count), [1], [3, 0, 3, 5]):
            got = m.score(scheme, engine, adapter, order)
            for i, row in zip(range(count) if order is None else order, got):
                expect(row == whole[i], f"{engine}, order {order}: sequence {i} has other bits")
    return f"{sum(map(len, whole))} tokens, 2 engines, 5 orders"


# ---- Adapters ------------------------------------------------------------------------------------------------------------------------

def make_adapter(m, tmp):
    """Random A and B of the size a trained adapter has, in PEFT's own files."""
    torch.manual_seed(7)
    model = get_peft_model(m.load(torch.float32), LoraConfig(r=8, lora_alpha=16, target_modules=PROJECTIONS, lora_dropout=0.0, task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_" in name:
                p.copy_((torch.randn(p.shape) * (p.shape[1] ** -0.5 if "lora_A" in name else 0.01)).bfloat16().float())
    path = os.path.join(tmp, "peft-adapter")
    model.save_pretrained(path)
    return path


def loads_without_a_warning(m, adapter):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = m.load(torch.float32, adapter=adapter)
    said = [str(w.message) for w in caught if "gradient_checkpointing" not in str(w.message)]
    expect(not said, f"peft warns: {said[:2]}")
    file = load_file(os.path.join(adapter, "adapter_model.safetensors"))
    held = {k: v for k, v in model.state_dict().items() if "lora_" in k}
    expect(len(held) == len(file), f"{len(file)} tensors in the file, {len(held)} in the model")
    for k, v in file.items():
        expect(torch.equal(held[k.replace(".weight", ".default.weight")], v.float()), f"{k} is another in peft")
    moved = mean_abs_difference(flat(m.reference(torch.float32, None, adapter)), flat(m.reference(torch.float32)))
    expect(moved > 1e-3, f"the adapter changes log-probabilities by {moved:.2g} only")
    return f"{len(file)} tensors, no warning; it moves a log-probability by {moved:.3f} on average"


# ---- SFT -----------------------------------------------------------------------------------------------------------------------------

def sft_rows():
    """GSM8K, some 1,600 learned tokens a step: the rounding of a log-probability, about 0.02 in BF16 on either side, is then small in the mean."""
    rows = read_jsonl(os.path.join(ROOT, "examples", "gsm8k", "train.jsonl"))[:SFT["steps"] * SFT["batch_size"]]
    return [{"prompt": r["question"], "completion": "\n" + r["answer"]} for r in rows]


def sft_run(m, rows, adapter, dtype):
    model = transformers.AutoModelForCausalLM.from_pretrained(m.path, dtype=dtype)
    model = PeftModel.from_pretrained(model, adapter, is_trainable=True, autocast_adapter_dtype=False).to(dtype)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=SFT["lr"])
    losses, count = [], 0
    for step in range(SFT["steps"]):
        batch = rows[step * SFT["batch_size"]:(step + 1) * SFT["batch_size"]]
        learned = torch.cat([logprobs_of(model, ids)[start - 1:] for ids, start in batch])
        total = -learned.mean()
        count = len(learned)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        losses.append(float(total))
    return {k.replace(".default", ""): p.detach().float() for k, p in model.named_parameters() if p.requires_grad}, losses, count


def sft(args, m, adapter, tmp):
    rows = sft_rows()
    write_jsonl(os.path.join(tmp, "sft.jsonl"), rows)
    ask = "".join(json.dumps(t) + "\n" for r in rows for t in (r["prompt"], r["prompt"] + r["completion"]))
    out = [json.loads(x)["ids"] for x in run_ok([args.tandem, "tokenize", "--model", m.path], stdin=ask.encode()).out.splitlines()]
    eos = read_json(os.path.join(m.path, "config.json"))["eos_token_id"]
    pairs = [(whole + [eos], len(prompt)) for prompt, whole in zip(out[::2], out[1::2])]
    full, full_losses, tokens = sft_run(m, pairs, adapter, torch.float32)
    half, half_losses, _ = sft_run(m, pairs, adapter, torch.bfloat16)
    run = os.path.join(tmp, "sft-run")
    recipe = {"model": {"path": m.path, "weights": "bf16"}, "adapter": {"init": adapter, "rank": 8, "alpha": 16},
              "data": {"train": os.path.join(tmp, "sft.jsonl"), "shuffle": False, "max_prompt_tokens": 384}, "rollout": {"max_new_tokens": 384},
              "train": {"algorithm": "sft", "steps": SFT["steps"], "batch_size": SFT["batch_size"], "lr": SFT["lr"], "optimizer": "sgd",
                        "max_grad_norm": 0.0, "schedule": "constant"},
              "checkpoint": {"every": 0}, "log": {"tensorboard": False, "report": False}, "output": run}
    run_ok([args.grpo_train, write_recipe(os.path.join(tmp, "sft.yaml"), recipe), "--quiet"], timeout=600)
    ours = load_file(os.path.join(newest_checkpoint(run), "adapter", "adapter_model.safetensors"))
    expect(set(ours) == set(full), f"tensors {sorted(set(ours) ^ set(full))[:3]}")
    before = load_file(os.path.join(adapter, "adapter_model.safetensors"))
    ratios = {k: float((ours[k] - full[k]).norm() / (1.02 * (half[k] - full[k]).norm() + 1e-7)) for k in full}
    bad = [k for k in ratios if ratios[k] > 1]
    moved = sum(float((full[k] - before[k].float()).norm() ** 2) for k in full) ** 0.5
    total = sum(float((ours[k] - full[k]).norm() ** 2) for k in full) ** 0.5
    worst = max(ratios, key=ratios.get)
    off = " ".join("%+.5f" % (row["loss"] - a) for row, a in zip(metrics_of(run), full_losses))
    note = (f"losses {off} to FP32; worst tensor {ratios[worst]:.0%} of the bound, median {sorted(ratios.values())[len(ratios) // 2]:.0%}, "
            f"whole adapter off by {total / moved:.2%} of the move")
    for step, (row, a) in enumerate(zip(metrics_of(run), full_losses)):
        expect(abs(row["loss"] - a) <= 0.0015, f"step {step + 1}: loss {row['loss']:.5f}, FP32 {a:.5f}, BF16 {half_losses[step]:.5f}; {note}")
    note += ", PyTorch in BF16 " + " ".join("%+.5f" % (b - a) for a, b in zip(full_losses, half_losses)) + f", {tokens} tokens in the last step"
    expect(not bad, f"{len(bad)} of {len(full)} tensors are farther from FP32 than PyTorch in BF16, worst {worst}: {note}")
    return note


def main():
    args = arguments(__doc__, adapter="")
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    if not os.path.exists(GGUF):
        print("skipped: the model is not there, run scripts/get_model.sh")
        sys.exit(77)
    report = Report()
    with scratch() as tmp:
        folder, ids = make_folder(args, tmp)
        whole, cut = Model(args, folder, ids, tmp), Model(args, cut_to_one_layer(folder, tmp), ids, tmp)
        made = make_adapter(whole, tmp)
        checks = []
        for name, m in (("whole", whole), ("one layer", cut)):
            checks.append((f"{name}/bf16", bf16_no_worse_than_transformers, m))
            checks += [(f"{name}/{s}", fp8_shifts_as_simulated, m, s) for s in fp8_sim.SCHEMES]
        checks += [(f"whole/{s}/bits", same_bits, whole, s) for s in ("bf16", "fp8_channel", "fp8_block")]
        for name, path in [("made by peft", made)] + [a.split("=", 1) for a in args.adapter.split(",") if a]:
            checks += [(f"adapter {name}/peft", loads_without_a_warning, whole, os.path.abspath(path)),
                       (f"adapter {name}/bf16", bf16_no_worse_than_transformers, whole, os.path.abspath(path)),
                       (f"adapter {name}/bits", same_bits, whole, "fp8_channel", os.path.abspath(path))]
        checks.append(("sft", sft, args, whole, made, tmp))
        for label, *check in checks:
            if args.only in label:
                report.run(label, *check)
    report.end()


if __name__ == "__main__":
    main()
