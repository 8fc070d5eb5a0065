#!/usr/bin/env python3
"""Judges as rewards: what the judge of a run says is what `tandem generate` says of the same question, wherever it is asked; a reply without a score costs what
the recipe says; a judge on the policy's own base takes no byte of weights.
"""
import glob
import json
import os
import re

from harness import MODELS, Report, adapter_section, arguments, expect, metrics_of, newest_checkpoint, read_jsonl, run_ok, scratch, start, without_timing, write_jsonl, write_recipe

QUESTION, SYSTEM, PARSE, NEW = "{prompt} {completion} {answer}. Digits?", "Judge {answer}.", "[0-9]", 48


def recipe(tmp, name, judges, model="mistral", steps=2, **more):
    rows = [{"question": f"What is {a}+{b}?", "answer": str(a + b)} for a in range(4) for b in range(4)]
    write_jsonl(os.path.join(tmp, "data.jsonl"), rows)
    sections = {
        "model": {"path": os.path.join(MODELS, model), "weights": "fp8_block"}, "adapter": adapter_section(os.path.join(MODELS, model)),
        "data": {"train": os.path.join(tmp, "data.jsonl"), "prompt": "{question}", "max_prompt_tokens": 48},
        "rollout": {"prompts_per_step": 3, "generations": 4, "max_new_tokens": 16},
        "reward": [{"type": "length", "buffer": 10, "max": 16}] + judges,
        "train": {"steps": steps, "lr": 1e-3, "micro_tokens": 256}, "log": {"rollouts": 1, "tensorboard": False, "report": False},
        "numerics": "exact", "device": "cpu", "output": os.path.join(tmp, name), **more}
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
    out = run_ok([args.tandem, "generate", "--model", model, "--weights", scheme, "--input", questions, "--max-new", str(NEW), "--temperature", "0", "--json", "--device", "cpu"]).out
    return [json.loads(line) for line in out.splitlines()]


def expect_verdicts(args, tmp, run, name, model, scheme):
    """The adapter of the run is not zero and moves, so a judge that used it would say something else."""
    rows = [row for row in rollouts(run) if "\0" not in row["completion"]]  # a question in JSON has no zero byte
    expect(12 < len(rows) <= 24, f"{len(rows)} completions")
    replies = replies_of(args, tmp, model, scheme, rows)
    for row, reply in zip(rows, replies):
        expect(row["judges"][name] == reply["text"], f"the judge said {row['judges'][name]!r}, generate says {reply['text']!r}")
    distinct = len({reply["text"] for reply in replies})
    expect(distinct > 5, f"{distinct} replies differ: a judge that reads nothing would pass")
    expect_scores(rows, name)
    return f"{len(rows)} replies, {distinct} different"


def self_is_the_base_without_the_adapter(args):
    with scratch() as tmp:
        path, run = recipe(tmp, "self", [judge(name="j")]), os.path.join(tmp, "self")
        run_ok([args.grpo_train, path, "--quiet"])
        note = expect_verdicts(args, tmp, run, "j", os.path.join(MODELS, "mistral"), "fp8_block")
        adapter = run_ok([args.tandem, "generate", "--model", os.path.join(MODELS, "mistral"), "--adapter", os.path.join(newest_checkpoint(run), "adapter"), "--weights", "fp8_block",
                          "--input", os.path.join(tmp, "questions.jsonl"), "--max-new", str(NEW), "--temperature", "0", "--json", "--device", "cpu"]).out
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


def table(args, path, *more):
    """region -> bytes, and the predicted peak"""
    out = run_ok([args.grpo_train, path, "--plan", *more]).out
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


def main():
    args = arguments(__doc__)
    report = Report()
    for name, function in (("self is the base", self_is_the_base_without_the_adapter), ("draws", draws_are_keyed), ("on_error", failures_follow_on_error),
                           ("evaluation", evaluations_are_judged), ("plan of self", self_adds_no_weights)):
        if args.only in name:
            report.run(name, function, args)
    report.end()


if __name__ == "__main__":
    main()
