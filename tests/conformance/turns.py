#!/usr/bin/env python3
"""Rollouts of several turns: log-probabilities stay the same bits, no result depends on workers, batches, pages or the time an answer
takes, masks say what was observed, and an environment that raises, dies, hangs or babbles costs one sample, which is named.
"""
import json
import os
import time

from harness import (MODELS, Report, arguments, expect, metrics_of, newest_checkpoint, read_jsonl, read_safetensors, run_ok, scratch, start, values,
                     without_timing, write_jsonl, write_recipe, write_text)

# Remembers what it was told, and answers with a function of all of it and of its seed. trouble(...) is put in by the checks on faults.
GAME = '''import os, sys, time, random
def trouble(answer, turn): pass
class Game:
    def reset(self, question, answer, seed, messages):
        assert messages[-1]["content"] == question
        self.answer, self.random, self.told = answer, random.Random(seed), []
    def step(self, completion, messages, turn, last, truncated):
        assert messages[-1] == {"role": "assistant", "content": completion} and len(self.told) + 1 == turn
        trouble(self.answer, turn)
        SLEEP
        self.told.append(len(completion))
        if self.random.random() < 0.15: return None, 1.0
        return "%d %d" % (sum(self.told), self.random.randrange(100)), {"environment": 0.25 * turn, "tidy": len(completion) % 3}
'''
# The same as a program that speaks the protocol.
PROGRAM = '''import json, sys
sys.argv = ["x"]
exec(open(%r).read())
games = {}
for line in sys.stdin:
    q = json.loads(line)
    observations, rewards, done = [], [], []
    for i, key in enumerate(map(tuple, q["keys"])):
        if q["turns"][i] == 1:
            games[key] = Game()
            games[key].reset(q["columns"]["question"][i], q["columns"]["answer"][i], q["seeds"][i], q["messages"][i][:-1])
        o, r = games[key].step(q["completions"][i], q["messages"][i], q["turns"][i], q["last"][i], q["truncated"][i])
        observations.append(o), rewards.append(r), done.append(o is None)
    print(json.dumps({"id": q["id"], "observations": observations, "rewards": rewards, "done": done}), flush=True)
'''
TURNS, ROOM = 4, 110


def files(tmp, trouble="", sleep="pass"):
    write_jsonl(os.path.join(tmp, "data.jsonl"), [{"question": f"What is {a}+{b}?", "answer": str(10 * a + b)} for a in range(4) for b in range(4)])
    text = GAME.replace("SLEEP", sleep)
    if trouble:
        text = text.replace("def trouble(answer, turn): pass", "def trouble(answer, turn):\n" + trouble)
    write_text(os.path.join(tmp, "game.py"), text)
    write_text(os.path.join(tmp, "program.py"), PROGRAM % os.path.join(tmp, "game.py"))
    write_text(os.path.join(tmp, "judge.py"), "def judge(completions, completion_ids):\n    return [len(c) + len(i) / 1000 for c, i in zip(completions, completion_ids)]\n")


def recipe(tmp, name, model="llama3", numerics="exact", steps=3, environment=None, rollout=None, train=None, **more):
    sections = {
        "model": {"path": os.path.join(MODELS, model), "weights": "fp8_block"}, "adapter": {"rank": 4, "alpha": 8},
        "data": {"train": os.path.join(tmp, "data.jsonl"), "prompt": "{question}", "max_prompt_tokens": 48},
        "rollout": {"prompts_per_step": 3, "generations": 4, "max_new_tokens": ROOM, "stop": ["a", "e", "i"], **(rollout or {})},
        "environment": {"python": os.path.join(tmp, "game.py:Game"), "max_turns": TURNS, "max_observation_tokens": 20, **(environment or {})},
        "reward": [{"type": "environment"}, {"type": "environment", "name": "tidy", "weight": 0.5}, {"type": "length", "max": 60, "buffer": 50},
                   {"python": os.path.join(tmp, "judge.py:judge"), "weight": 0.0}],
        "train": {"steps": steps, "lr": 1e-3, "kl": 0.01, "epochs_per_rollout": 2, "minibatches": 2, **(train or {})},
        "checkpoint": {"every": 1, "keep": 2}, "log": {"rollouts": 1, "tensorboard": False, "report": False}, "numerics": numerics, "seed": 5,
        "output": os.path.join(tmp, name), **more}
    return write_recipe(os.path.join(tmp, name + ".yaml"), {k: v for k, v in sections.items() if v is not None})


def rollouts(run, step):
    return read_jsonl(os.path.join(run, "rollouts", f"step-{step:06d}.jsonl"))


def result(run):
    with open(os.path.join(newest_checkpoint(run), "adapter", "adapter_model.safetensors"), "rb") as f:
        adapter = f.read()
    return adapter, without_timing(metrics_of(run)), [rollouts(run, r["step"]) for r in metrics_of(run)]


def same_bits_in_both_engines(args, model, numerics, sampling):
    with scratch() as tmp:
        files(tmp)
        run_ok([args.grpo_train, recipe(tmp, "run", model, numerics, rollout=sampling), "--quiet"], timeout=300)
        rows = metrics_of(os.path.join(tmp, "run"))
        for row in rows:
            expect(row["mismatch_max"] == 0, f"step {row['step']}: mismatch_max {row['mismatch_max']}")
            expect(row["turns_mean"] > 1.5 and row["turns_max"] <= TURNS and row["observation_tokens"] > 0, f"no turns: {row}")
        return f"turns {rows[0]['turns_mean']:.2f} a completion"


def one_record(tmp, rec, room):
    """What a line of the rollout file says of a completion."""
    turns, mask = rec["turns"], rec["mask"]
    expect(len(mask) == len(rec["completion_ids"]) == len(rec["logprobs"]) <= room, "lengths differ")
    flat = [m for t in turns for m in [1 if t["role"] == "assistant" else 0] * t["tokens"]]
    expect(flat == mask, f"mask {mask}, turns {turns}")
    expect(all(lp == 0 for lp, m in zip(rec["logprobs"], mask) if not m) and all(lp < 0 for lp, m in zip(rec["logprobs"], mask) if m), "log-probabilities")
    expect([t["role"] for t in turns] == (["assistant", "tool"] * TURNS)[:len(turns)] and turns[-1]["role"] == "assistant", f"{turns}")
    for name in ("environment", "tidy"):
        given = [t["rewards"][name] for t in turns if name in t.get("rewards", {})]
        expect(rec["rewards"][name] == (sum(given) if given else None), f"{name}: {rec['rewards'][name]}, turns {given}")
    own = sum(mask)
    expect(abs(rec["rewards"]["length"] + min(1.0, max(0.0, (own - 10) / 50))) < 1e-6, f"length {rec['rewards']['length']} of {own} own tokens")
    expect(abs(rec["rewards"]["judge"] - (len(turns) + len(mask) / 1000)) < 1e-6, f"a function sees {rec['rewards']['judge']}, there are {len(turns)} messages")


def files_say_what_was_observed(args):
    with scratch() as tmp:
        files(tmp)
        run = os.path.join(tmp, "run")
        run_ok([args.grpo_train, recipe(tmp, "run"), "--quiet"], timeout=300)
        records = [r for step in (1, 2, 3) for r in rollouts(run, step)]
        for rec in records:
            one_record(tmp, rec, ROOM)
        row = metrics_of(run)[0]
        first = rollouts(run, 1)
        expect(row["observation_tokens"] == sum(m == 0 for r in first for m in r["mask"]) and row["completion_tokens"] == sum(m for r in first for m in r["mask"]),
               f"{row}")
        expect(abs(row["turns_mean"] - sum((len(r["turns"]) + 1) // 2 for r in first) / len(first)) < 1e-6, f"turns_mean {row['turns_mean']}")
        expect(any(len(r["turns"]) == 2 * TURNS - 1 for r in records) and any(len(r["turns"]) < 2 * TURNS - 1 for r in records), "all have the same turns")
        return written_as_the_template_writes(args, records)


def written_as_the_template_writes(args, records):
    """Prompt and completion, decoded, are the conversation by the chat template, but for the end of a turn that a stop string ended."""
    lines = "\n".join(json.dumps({"ids": r["prompt_ids"] + r["completion_ids"]}) for r in records)
    out = run_ok([args.tandem, "tokenize", "--model", os.path.join(MODELS, "llama3"), "--decode"], stdin=lines.encode()).out
    for rec, line in zip(records, out.splitlines()):
        text, at = json.loads(line)["text"], 0
        for turn in rec["turns"]:
            if turn["role"] != "tool":
                continue
            wanted = f"<|im_end|>\n<|im_start|>tool\n{turn['content']}<|im_end|>\n<|im_start|>assistant\n"
            at = text.find(wanted, at)
            expect(at >= 0, f"{wanted!r} is not in {text!r}")
            expect(not text[:at].endswith("<|im_end|>"), f"the end of a turn is written twice: {text!r}")
            at += len(wanted)
    return f"{len(records)} completions"


def nothing_depends_on_scheduling(args):
    with scratch() as tmp:
        files(tmp)
        run_ok([args.grpo_train, recipe(tmp, "base"), "--quiet"], timeout=300)
        want = result(os.path.join(tmp, "base"))
        files_slow = "time.sleep(random.random() * 0.004)"
        others = {"workers": dict(environment={"workers": 3}), "few": dict(rollout={"max_sequences": 2}), "pages": dict(memory={"kv": "96KiB"}),
                  "program": dict(environment={"python": None, "command": ["python3", os.path.join(tmp, "program.py")]}),
                  "slow": {}, "slow_few": dict(rollout={"max_sequences": 3}, environment={"workers": 2})}
        for name, change in others.items():
            files(tmp, sleep=files_slow if name.startswith("slow") else "pass")
            run_ok([args.grpo_train, recipe(tmp, name, **change), "--quiet"], timeout=300)
            got = result(os.path.join(tmp, name))
            expect(got[1] == want[1], f"{name}: metrics differ")
            expect(got[2] == want[2], f"{name}: rollouts differ")
            expect(got[0] == want[0], f"{name}: adapter differs")
        return ", ".join(others)


def a_replay_learns_the_same(args):
    """The rollouts of a step, replayed, move the adapter as the step did; without their mask they do not."""
    with scratch() as tmp:
        files(tmp)
        one = {"optimizer": "sgd", "lr": 10.0, "epochs_per_rollout": 1, "minibatches": 1, "max_grad_norm": 0.0, "importance": {"correction": "none"}}
        run_ok([args.grpo_train, recipe(tmp, "base", steps=1, train=one), "--quiet"], timeout=300)
        records = rollouts(os.path.join(tmp, "base"), 1)
        write_jsonl(os.path.join(tmp, "masked.jsonl"), records)
        write_jsonl(os.path.join(tmp, "bare.jsonl"), [{k: v for k, v in r.items() if k != "mask"} for r in records])
        moved = {}
        for name in ("masked", "bare"):
            path = recipe(tmp, name, steps=1, train=one, environment=None, reward=None, rollout={"replay": os.path.join(tmp, name + ".jsonl")})
            text = open(path, encoding="utf-8").read()
            write_text(path, "\n".join(line for line in text.splitlines() if not line.startswith("environment:")) + "\n")
            run_ok([args.grpo_train, path, "--quiet"], timeout=300)
        for name in ("base", "masked", "bare"):
            tensors = read_safetensors(os.path.join(newest_checkpoint(os.path.join(tmp, name)), "adapter", "adapter_model.safetensors"))
            moved[name] = [x for key in sorted(tensors) for x in values(tensors[key])]
        loss = {name: metrics_of(os.path.join(tmp, name))[0]["loss"] for name in moved}
        far = {name: max(abs(a - b) for a, b in zip(moved["base"], moved[name])) for name in moved}
        size = max(abs(x) for x in moved["base"])
        expect(abs(loss["base"] - loss["masked"]) < 1e-6 and far["masked"] < 1e-3 * size, f"masked: loss {loss}, distance {far}, {size}")
        expect(abs(loss["base"] - loss["bare"]) > 1e-4 and far["bare"] > 1e-2 * size, f"bare: loss {loss}, distance {far}, {size}")
        return f"loss {loss['masked']:.6f}, without the mask {loss['bare']:.6f}"


# What goes wrong in one sample's second turn of the second step.
TROUBLES = {"raises": "        raise ValueError('no such card')", "dies": "        os._exit(7)", "hangs": "        time.sleep(100)",
            "exits": "        sys.exit('gone')"}
SAYS = {"raises": ["the environment failed: ValueError: no such card, line"], "dies": ["the worker ended before it answered: exit status 7"],
        "hangs": ["the worker did not answer within 1 s"], "exits": ["the environment failed: SystemExit: gone"]}


def culprit(tmp):
    """A sample of the clean run's second step that has a third turn, and what its episode is told: its answer and the lengths before."""
    for n, rec in enumerate(rollouts(os.path.join(tmp, "clean"), 2)):
        if len(rec["turns"]) >= 5:
            return n, rec
    expect(False, "no completion of three turns")


def trouble_for(rec, kind, answers):
    """Once in the run: where the conversation is the culprit's. The environment's own memory tells it apart."""
    texts = [t["content"] for t in rec["turns"] if t["role"] == "assistant"][:2]
    return (f"    import inspect\n    frame = inspect.currentframe().f_back.f_locals\n"
            f"    said = [m['content'] for m in frame['messages'] if m['role'] == 'assistant']\n"
            f"    if turn == 2 and said == {texts!r}:\n{TROUBLES[kind]}\n")


def one_sample_fails(args, kind, on_error, workers):
    with scratch() as tmp:
        files(tmp)
        environment = {"timeout_s": 1 if kind == "hangs" else 20, "on_error": on_error, "workers": workers}
        run_ok([args.grpo_train, recipe(tmp, "clean", environment=environment), "--quiet"], timeout=300)
        n, rec = culprit(tmp)
        files(tmp, trouble=trouble_for(rec, kind, None))
        path, run = recipe(tmp, "run", environment=environment), os.path.join(tmp, "run")
        begin = time.monotonic()
        r = start([args.grpo_train, path, "--quiet"], timeout=120)
        wanted = SAYS[kind] + [f"environment python {tmp}/game.py:Game, step 2, prompt {n // 4}, sample {n % 4}, turn 2"]
        expect(all(w in r.err for w in wanted), f"want {wanted}: {r.describe()}")
        expect(r.err.count("step 2, prompt") == 1, f"more than one sample is named: {r.err}")
        if on_error == "stop":
            expect(r.code == 3 and newest_checkpoint(run).endswith("step-000001"), r.describe())
            files(tmp)
            run_ok([args.grpo_train, path, "--quiet", "--resume"], timeout=300)
            expect(result(run) == result(os.path.join(tmp, "clean")), "the resumed run is another")
            return f"{time.monotonic() - begin:.1f} s"
        expect(r.code == 0 and metrics_of(run)[1]["environment_errors"] == 1 and metrics_of(run)[0]["environment_errors"] == 0, r.describe())
        for k, (a, b) in enumerate(zip(rollouts(os.path.join(tmp, "clean"), 2), rollouts(run, 2))):
            if k == n:
                want = {"zero": (0, 0), "skip": (None, None)}[on_error]
                expect((b["rewards"]["environment"], b["rewards"]["tidy"]) == want and (b["reward"] is None) == (on_error == "skip"), f"{b['rewards']}")
                expect(on_error == "zero" or b["advantage"] == 0, f"advantage {b['advantage']}")
                expect([t["content"] for t in b["turns"]] == [t["content"] for t in a["turns"]][:3], "the turns before it are kept")
            else:
                expect({x: v for x, v in a.items() if x != "advantage"} == {x: v for x, v in b.items() if x != "advantage"}, f"sample {k} is another")
        return f"{time.monotonic() - begin:.1f} s"


def what_is_wrong_from_the_start(args):
    """Found by --check, before anything is loaded: exit code 3 and the reason."""
    cases = {"no such class": ("class Other: pass\n", "has no attribute 'Game'"), "no step": ("class Game:\n    def reset(self): pass\n", "Game has no method step"),
             "syntax": ("class Game\n", "SyntaxError")}
    with scratch() as tmp:
        files(tmp)
        for name, (text, says) in cases.items():
            write_text(os.path.join(tmp, "game.py"), text)
            r = start([args.grpo_train, recipe(tmp, "run"), "--check"], timeout=60)
            expect(r.code == 3 and says in r.err, f"{name}: {r.describe()}")
        files(tmp)
        r = start([args.grpo_train, recipe(tmp, "run", environment={"python": None, "command": ["/no/such/program"]}), "--check"], timeout=60)
        expect(r.code == 3 and "cannot run /no/such/program" in r.err, r.describe())
        return f"{len(cases) + 1} cases"


def a_program_that_babbles_is_named(args):
    """A line that is not the protocol's, for every sample: with zero the run goes on, and says so for each."""
    with scratch() as tmp:
        files(tmp)
        path = recipe(tmp, "run", steps=1, environment={"python": None, "command": ["/bin/sh", "-c", "while read -r line; do echo hello; done"], "on_error": "zero"})
        r = start([args.grpo_train, path, "--quiet"], timeout=60)
        expect(r.code == 0 and metrics_of(os.path.join(tmp, "run"))[0]["environment_errors"] == 12, r.describe())
        named = [f"the reply is not JSON: '[' or '{{' expected near 'hello' (environment command /bin/sh, step 1, prompt {p}, sample {s}, turn 1)" for p in range(3) for s in range(4)]
        expect(all(r.err.count(line) == 1 for line in named), r.err)


def an_unknown_reward_is_named(args):
    with scratch() as tmp:
        files(tmp)
        r = start([args.grpo_train, recipe(tmp, "run", reward=[{"type": "environment"}]), "--quiet"], timeout=60)
        expect(r.code == 3 and 'no reward of type environment called "tidy"' in r.err, r.describe())


def evaluations_have_turns(args):
    with scratch() as tmp:
        files(tmp)
        path = recipe(tmp, "run", eval={"every": 1, "limit": 5, "generations": 2, "temperature": 1.0},
                      data={"train": os.path.join(tmp, "data.jsonl"), "eval": os.path.join(tmp, "data.jsonl"), "prompt": "{question}", "max_prompt_tokens": 48},
                      train={"lr": 0.0})
        run_ok([args.grpo_train, path, "--quiet"], timeout=300)
        rows = metrics_of(os.path.join(tmp, "run"))
        expect(all(r["eval/environment"] > 0.25 for r in rows), f"{rows}")
        expect(len({(r["eval/environment"], r["eval/tidy"], r["eval/judge"]) for r in rows}) == 1, f"at lr 0 all evaluations are one: {rows}")


def main():
    args = arguments(__doc__)
    report = Report()
    truncated = {"temperature": 0.8, "top_p": 0.9, "top_k": 40, "repetition_penalty": 1.1}
    checks = [(f"exact/{m}/{n}" + ("/truncated" if s else ""), same_bits_in_both_engines, m, n, s)
              for m, n, s in (("llama3", "exact", {}), ("qwen3", "exact", truncated), ("qwen2", "fast", {}), ("mistral", "fast", truncated))]
    checks += [("files", files_say_what_was_observed), ("scheduling", nothing_depends_on_scheduling), ("replay", a_replay_learns_the_same)]
    checks += [(f"fault/{kind}/{on_error}", one_sample_fails, kind, on_error, workers)
               for kind, on_error, workers in (("raises", "stop", 1), ("raises", "skip", 2), ("dies", "stop", 2), ("dies", "zero", 1), ("hangs", "stop", 1),
                                               ("hangs", "skip", 1), ("exits", "zero", 1))]
    checks += [("fault/start", what_is_wrong_from_the_start), ("fault/babbles", a_program_that_babbles_is_named), ("fault/reward", an_unknown_reward_is_named), ("eval", evaluations_have_turns)]
    for name, function, *more in checks:
        if args.only in name:
            report.run(name, function, args, *more)
    report.end()


if __name__ == "__main__":
    main()
