#!/usr/bin/env python3
"""Judges as rewards: what the judge of a run says is what `tandem generate` says of the same question, wherever it is asked; a reply without a score costs what
the recipe says; a judge on the policy's own base takes no byte of weights, and a model of its own runs in a budget that could not hold both.

With --device cuda the same on a device; there the check of the budget is left out, whose figures are a CPU's.
"""
import glob
import json
import os
import random
import re
import shutil
import struct

from harness import MODELS, Report, adapter_section, arguments, expect, metrics_of, newest_checkpoint, read_json, read_jsonl, run_ok, scratch, start, write_jsonl, write_recipe, write_safetensors

DEVICE = "cpu"
QUESTION, SYSTEM, PARSE, NEW = "{prompt} {completion} {answer}. Digits?", "Judge {answer}.", "[0-9]", 48


def recipe(tmp, name, judges, policy="mistral", steps=2, **more):
    rows = [{"question": f"What is {a}+{b}?", "answer": str(a + b)} for a in range(4) for b in range(4)]
    write_jsonl(os.path.join(tmp, "data.jsonl"), rows)
    sections = {
        "model": {"path": os.path.join(MODELS, policy), "weights": "fp8_block"}, "adapter": adapter_section(os.path.join(MODELS, policy)),
        "data": {"train": os.path.join(tmp, "data.jsonl"), "prompt": "{question}", "max_prompt_tokens": 48},
        "rollout": {"prompts_per_step": 3, "generations": 4, "max_new_tokens": 16},
        "reward": [{"type": "length", "buffer": 10, "max": 16}] + judges,
        "train": {"steps": steps, "lr": 1e-3, "micro_tokens": 256}, "log": {"rollouts": 1, "tensorboard": False, "report": False},
        "numerics": "exact", "device": DEVICE, "output": os.path.join(tmp, name), **more}
    return write_recipe(os.path.join(tmp, name + ".yaml"), sections)


def judge(**more):
    return {"type": "judge", "system": SYSTEM, "prompt": QUESTION, "parse": PARSE, "range": [0, 9], "max_new_tokens": NEW, "on_error": "zero", **more}


def rollouts(run):
    return [row for path in sorted(glob.glob(os.path.join(run, "rollouts", "*.jsonl"))) for row in read_jsonl(path)]


def fill(template, row):
    answer = str(sum(map(int, re.findall("[0-9]+", question_of(row)))))
    return template.format(prompt=question_of(row), completion=row["completion"], answer=answer)


def question_of(row):
    return re.search(r"What is \d\+\d\?", row["prompt"])[0]


def expect_scores(rows, name):
    """The rewards are what stands in the replies. What stands at a reply's very end may have been cut: those are left out."""
    seen = []
    for row in rows:
        reply = row["judges"][name]
        found = re.search(PARSE, reply)
        if found and found.end() == len(reply):
            continue
        seen.append(int(found[0]) / 9 if found else 0.0)
        expect(abs(row["rewards"][name] - seen[-1]) < 1e-8, f"{row['rewards'][name]} for {reply!r}")
    return seen


def replies_of(args, tmp, model, scheme, rows):
    questions = os.path.join(tmp, "questions.jsonl")
    write_jsonl(questions, [{"messages": [{"role": "system", "content": fill(SYSTEM, row)}, {"role": "user", "content": fill(QUESTION, row)}]} for row in rows])
    out = run_ok([args.tandem, "generate", "--model", model, "--weights", scheme, "--input", questions, "--max-new", str(NEW), "--temperature", "0", "--json", "--exact", "--device", DEVICE]).out
    return [json.loads(line) for line in out.splitlines()]


def expect_verdicts(args, tmp, run, name, model, scheme, least=6):
    """The adapter of the run is not zero and moves, so a judge that used it would say something else."""
    rows = [row for row in rollouts(run) if "\0" not in row["completion"]]  # a question in JSON has no zero byte
    expect(12 < len(rows) <= 24, f"{len(rows)} completions")
    replies = replies_of(args, tmp, model, scheme, rows)
    for row, reply in zip(rows, replies):
        expect(row["judges"][name] == reply["text"], f"the judge said {row['judges'][name]!r}, generate says {reply['text']!r}")
    distinct = len({reply["text"] for reply in replies})
    expect(distinct >= least, f"{distinct} replies differ: a judge that reads nothing would pass")
    expect_scores(rows, name)
    return f"{len(rows)} replies, {distinct} different"


def self_is_the_base_without_the_adapter(args):
    with scratch() as tmp:
        path, run = recipe(tmp, "self", [judge(name="j")]), os.path.join(tmp, "self")
        run_ok([args.grpo_train, path, "--quiet"])
        note = expect_verdicts(args, tmp, run, "j", os.path.join(MODELS, "mistral"), "fp8_block")
        adapter = run_ok([args.tandem, "generate", "--model", os.path.join(MODELS, "mistral"), "--adapter", os.path.join(newest_checkpoint(run), "adapter"), "--weights", "fp8_block",
                          "--input", os.path.join(tmp, "questions.jsonl"), "--max-new", str(NEW), "--temperature", "0", "--json", "--exact", "--device", DEVICE]).out
        said = {row["judges"]["j"] for row in rollouts(run)}
        expect(any(json.loads(line)["text"] not in said for line in adapter.splitlines()), "the adapter changes no reply")
        return note


def draws_are_keyed(args):
    """A judge with a temperature says the same at the same place whatever runs beside it, and two judges do not draw the same."""
    with scratch() as tmp:
        seen = []
        for name, more in (("a", {}), ("b", {"rollout": {"prompts_per_step": 3, "generations": 4, "max_new_tokens": 16, "max_sequences": 2}})):
            path = recipe(tmp, name, [judge(name="x", temperature=1.0), judge(name="y", temperature=1.0)], **more)
            run_ok([args.grpo_train, path, "--quiet"])
            seen.append(rollouts(os.path.join(tmp, name)))
        expect(seen[0] == seen[1], "the replies depend on how many run at once")
        x, y = ([row["judges"][name] for row in seen[0]] for name in "xy")
        expect(sum(a == b for a, b in zip(x, y)) < len(x) // 2, "two judges draw the same")
        expect(len(set(x)) > len(x) // 2, "the replies hardly differ")
        scores = expect_scores(seen[0], "x")
        expect(len(set(scores)) > 2, f"the scores hardly differ: {scores}")
        counted = sum(m["judge/parse_failed"] for m in metrics_of(os.path.join(tmp, "a")))
        expect(0 < counted <= sum(row["rewards"][name] == 0 for row in seen[0] for name in "xy"), f"{counted} replies without a score")
        return f"{counted} of 48 replies without a score"


def failures_follow_on_error(args):
    with scratch() as tmp:
        never = {"parse": "^$^never", "name": "j"}
        run_ok([args.grpo_train, recipe(tmp, "zero", [judge(**never)]), "--quiet"])
        rows = rollouts(os.path.join(tmp, "zero"))
        expect(all(row["rewards"]["j"] == 0 for row in rows), "zero gives no zeros")
        run_ok([args.grpo_train, recipe(tmp, "skip", [judge(on_error="skip", **never)]), "--quiet"])
        expect(all(row["rewards"]["j"] is None for row in rollouts(os.path.join(tmp, "skip"))), "skip has an opinion")
        expect(all(m["judge/parse_failed"] == 12 and "reward/j" not in m for m in metrics_of(os.path.join(tmp, "skip"))), "the failures are not counted")
        run_ok([args.grpo_train, recipe(tmp, "long", [judge(name="j", max_prompt_tokens=8)]), "--quiet"])
        expect(all(m["judge/parse_failed"] == 12 and m["judge_tokens"] == 0 for m in metrics_of(os.path.join(tmp, "long"))), "long questions are not counted")
        r = start([args.grpo_train, recipe(tmp, "stop", [judge(on_error="stop", **never)]), "--quiet"])
        expect(r.code == 3 and 'judge "j", sample 0' in r.err and "the reply" in r.err and r.err.count("\n") == 1, r.describe())
        expect(newest_checkpoint(os.path.join(tmp, "stop")), "nothing was saved")


def evaluations_are_judged(args):
    with scratch() as tmp:
        path = recipe(tmp, "eval", [judge(name="j", temperature=1.0)], eval={"every": 1, "limit": 5, "generations": 2, "temperature": 1.0})
        argv = [args.grpo_train, path, "--quiet", f"data.eval={os.path.join(tmp, 'data.jsonl')}", "train.lr=0"]
        run_ok(argv)
        m = metrics_of(os.path.join(tmp, "eval"))
        expect(all("eval/j" in row for row in m) and m[0]["eval/j"] == m[1]["eval/j"] > 0, f"{m}")
        expect(all(row["judge/parse_failed"] <= 12 for row in m), "the evaluation's replies are counted into the step")


def table(args, path, *more, code=0):
    """region -> bytes, and the predicted peak"""
    r = start([args.grpo_train, path, "--plan", *more])
    expect(r.code == code, r.describe())
    out = r.out
    rows = {(m[1], m[2].strip()): int(m[3]) for m in re.finditer(r"(?m)^(\w+) +(.{28}) +(?:\d+|-) +(\d+)  ", out)}
    return rows, int(re.search(r"predicted peak .*\((\d+) bytes\)", out)[1])


def self_adds_no_weights(args):
    with scratch() as tmp:
        without, _ = table(args, recipe(tmp, "without", []))
        with_judge, _ = table(args, recipe(tmp, "with", [judge()]))
        expect(without.keys() == with_judge.keys(), f"regions: {without.keys() ^ with_judge.keys()}")
        expect(with_judge["always", "weights"] == without["always", "weights"] > 0, "the weights' bytes differ")
        grown = [name for phase, name in without if with_judge[phase, name] > without[phase, name] and phase != "host"]
        expect(set(grown) <= {"kv pages", "decode buffers", "workspace", "RoPE tables"}, f"what grew: {grown}")
        return f"{with_judge['always', 'weights']} bytes of weights in both"


# ---- A model of its own ----------------------------------------------------------------------------------------------------------------

def a_model_says_what_it_says_alone(args, scheme):
    """Its own tokenizer, architecture and scheme; two judges of one model, one on the base between them, and reward models, which take the train layout, in the same step."""
    with scratch() as tmp:
        other = os.path.join(MODELS, "mistral")
        judges = [{"type": "model", "path": os.path.join(MODELS, "qwen3", "critic")}, judge(name="a", model=other, weights=scheme), judge(name="s"),
                  {"type": "model", "path": os.path.join(MODELS, "qwen3", "critic")}, judge(name="b", model=other, weights=scheme, system="Other {answer}.")]
        path, run = recipe(tmp, "run", judges, policy="qwen3", eval={"every": 1, "limit": 5}), os.path.join(tmp, "run")
        run_ok([args.grpo_train, path, "--quiet", f"data.eval={os.path.join(tmp, 'data.jsonl')}"] + (["numerics=fast"] if scheme == "fp8_tensor" else []))
        expect(not [name for name in os.listdir(tmp) if "standby" in name], "a file was left behind")
        expect_verdicts(args, tmp, run, "s", os.path.join(MODELS, "qwen3"), "fp8_block", least=3)
        if scheme == "fp8_tensor":
            return "its scales depend on the batch: it ran"
        return expect_verdicts(args, tmp, run, "a", other, scheme, least=3)


def large_model(tmp, name, layers):
    """A folder with a model of `layers` layers of 3.3 million numbers, drawn from a few; the tokenizer of the golden ones."""
    folder, golden = os.path.join(tmp, name), os.path.join(MODELS, "mistral")
    os.mkdir(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(os.path.join(golden, file), folder)
    width, ffn = 512, 1536
    config = {**read_json(os.path.join(golden, "config.json")), "hidden_size": width, "intermediate_size": ffn, "num_hidden_layers": layers, "num_attention_heads": 8,
              "num_key_value_heads": 8, "head_dim": 64}
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as f:
        json.dump(config, f)
    rng = random.Random(name)
    noise = b"".join(struct.pack("<f", rng.gauss(0, 0.04))[2:] for _ in range(65521))
    ones = struct.pack("<f", 1.0)[2:]

    def matrix(rows, cols):
        return "BF16", [rows, cols], (noise * (rows * cols // 65521 + 1))[:2 * rows * cols]
    tensors = {"model.embed_tokens.weight": matrix(config["vocab_size"], width), "model.norm.weight": ("BF16", [width], ones * width)}
    if not config.get("tie_word_embeddings"):
        tensors["lm_head.weight"] = matrix(config["vocab_size"], width)
    for i in range(layers):
        at = f"model.layers.{i}."
        for p in "qkvo":
            tensors[f"{at}self_attn.{p}_proj.weight"] = matrix(width, width)
        tensors.update({f"{at}mlp.gate_proj.weight": matrix(ffn, width), f"{at}mlp.up_proj.weight": matrix(ffn, width), f"{at}mlp.down_proj.weight": matrix(width, ffn)})
        tensors.update({f"{at}{norm}_layernorm.weight": ("BF16", [width], ones * width) for norm in ("input", "post_attention")})
    write_safetensors(os.path.join(folder, "model.safetensors"), tensors)
    return folder


def a_budget_that_cannot_hold_both(args):
    if DEVICE != "cpu":
        return "skipped: its figures are a CPU's"
    with open(args.grpo_train, "rb") as f:
        if b"__asan_init" in f.read():
            return "skipped: a sanitizer's own memory is part of what the process has"
    with scratch() as tmp:
        policy, other = large_model(tmp, "policy", 6), large_model(tmp, "judge", 5)
        sections = {"model": {"path": policy, "weights": "fp8_block"}, "adapter": {"rank": 4, "alpha": 8}, "train": {"steps": 2, "lr": 1e-3, "micro_tokens": 2048}}
        with_judge = recipe(tmp, "with", [judge(name="j", model=other, weights="fp8_block")], **sections)
        _, alone = table(args, recipe(tmp, "without", [], **sections), "memory.budget=2MiB", code=4)  # the least the run can do with
        rows, _ = table(args, with_judge)
        weights = rows["judge", "j: weights"]
        budget = alone + weights * 3 // 4  # less than both
        expect(weights > 2**24, f"the judge's weights are {weights} bytes")
        rows, total = table(args, with_judge, f"memory.budget={budget}")
        expect(total <= budget, f"with the judge {total} of {budget}")
        run_ok([args.grpo_train, with_judge, f"memory.budget={budget}", "--quiet"], timeout=300)
        peak = metrics_of(os.path.join(tmp, "with"))[-1]["memory_peak_bytes"]
        expect(peak <= 1.05 * budget and peak < alone + weights, f"peak {peak} of {budget}")
        expect_verdicts(args, tmp, os.path.join(tmp, "with"), "j", other, "fp8_block", least=3)
        r = start([args.grpo_train, with_judge, "memory.budget=50MiB", "train.micro_tokens=256", "--check"])
        expect(r.code == 4 and '"j: weights" takes' in r.err and r.err.count("\n") == 1, r.describe())
        mib = 2**20
        return f"alone at least {alone / mib:.1f} MiB, judge {weights / mib:.1f} MiB, budget {budget / mib:.1f} MiB, peak {peak / mib:.1f} MiB"


def what_cannot_judge_is_refused(args):
    with scratch() as tmp:
        for more, code, word in (({"model": os.path.join(tmp, "none")}, 3, "none"), ({"model": os.path.join(MODELS, "qwen3"), "max_new_tokens": 10**6}, 2, "max_new_tokens"),
                                 ({"model": os.path.join(MODELS, "qwen3"), "weights": "fp8_tensor"}, 2, "fp8_tensor")):
            r = start([args.grpo_train, recipe(tmp, "r", [judge(**more)]), "--check"])
            expect(r.code == code and word in r.err and r.err.count("\n") == 1, r.describe())


def main():
    global DEVICE
    args = arguments(__doc__, device=DEVICE)
    DEVICE = args.device
    report = Report()
    checks = [("self is the base", self_is_the_base_without_the_adapter), ("draws", draws_are_keyed), ("on_error", failures_follow_on_error),
              ("evaluation", evaluations_are_judged), ("plan of self", self_adds_no_weights)]
    checks += [(f"a model of {scheme}", a_model_says_what_it_says_alone, scheme) for scheme in ("fp8_block", "fp8_channel", "bf16", "fp8_tensor")]
    checks += [("budget", a_budget_that_cannot_hold_both), ("refused", what_cannot_judge_is_refused)]
    for name, function, *more in checks:
        if args.only in name:
            report.run(name, function, args, *more)
    report.end()


if __name__ == "__main__":
    main()
