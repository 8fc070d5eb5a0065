#!/usr/bin/env python3
"""A run that is killed again and again, and resumed, ends with the bytes of the run that nothing disturbed.

Compared: the final adapter and optimizer, metrics.jsonl without its timing keys, and the rollout files. SIGKILL comes at random
moments of the run's own length; SIGTERM has to save a checkpoint and leave with exit code 5.

    resume.py --tandem T --grpo-train G                                              tiny models, a few kills each
    resume.py --tandem T --grpo-train G --kills 20 --recipe configs/smollm2_addition.yaml   ONE run of the recipe, killed 20 times

With --recipe the model is the recipe's own, in both numerics, with small steps and a checkpoint after each, so that twenty kills fall
into start-up, rollout, update and saving alike. All twenty have to hit a living process, or the check fails.
"""
import json
import os
import random
import signal
import subprocess
import time

from harness import (MODELS, Report, arguments, expect, metrics_of, newest_checkpoint, read_json, run_ok, scratch, without_timing, write_jsonl,
                     write_recipe, write_text)

STEPS = 6


# Draws by its seed, and remembers what it was told.
ENVIRONMENT = """import random
class Game:
    def reset(self, answer, seed):
        self.random, self.told = random.Random(seed), len(answer)
    def step(self, completion):
        self.told += len(completion)
        return "%d %d" % (self.told, self.random.randrange(100)), self.random.random() + self.told % 3, self.random.random() < 0.2
"""


def recipe(tmp, name, model, algorithm, numerics, optimizer):
    turns, judged, algorithm = algorithm == "turns", algorithm == "judge", "grpo" if algorithm in ("turns", "judge") else algorithm
    sections = {
        "model": {"path": os.path.join(MODELS, model), "weights": "fp8_block"}, "adapter": {"rank": 4 if optimizer == "adamw" else 43, "alpha": 8},
        "data": {"train": os.path.join(tmp, algorithm + ".jsonl"), "shuffle": True},
        "train": {"algorithm": algorithm, "steps": STEPS, "lr": 1e-3, "optimizer": optimizer, "schedule": "cosine", "warmup_steps": 2},
        "checkpoint": {"every": 2, "keep": 2}, "log": {"every": 1, "rollouts": 1, "tensorboard": True, "report": False},
        "numerics": numerics, "seed": 7, "output": os.path.join(tmp, name)}
    if algorithm in ("grpo", "ppo"):
        sections["data"]["prompt"] = "{question}"
        sections["rollout"] = {"prompts_per_step": 3, "generations": 4, "max_new_tokens": 24}
        sections["reward"] = [{"type": "regex", "pattern": "[aeiou]", "weight": 1.0}, {"type": "length", "max": 24, "buffer": 20}]
        sections["train"].update(loss="dapo", kl=0.01, epochs_per_rollout=2, minibatches=2)
        if turns:
            sections["environment"] = {"python": os.path.join(tmp, "game.py:Game"), "max_turns": 3, "max_observation_tokens": 8, "workers": 2}
            sections["rollout"].update(max_new_tokens=60, stop=["a", "e", "i"])
            sections["reward"].append({"type": "environment"})
        if judged:
            sections["reward"] += [{"type": "judge", "name": name, "prompt": "{prompt} {completion}?", "parse": "[0-9]", "range": [0, 9], "max_new_tokens": 32,
                                    "temperature": 1.0, "on_error": on_error, **other}
                                   for name, on_error, other in (("strict", "zero", {}), ("kind", "skip", {"model": os.path.join(MODELS, "qwen3"), "weights": "fp8_block"}))]
        if numerics == "exact":
            sections["train"].update(use_adaptive_entropy=True, entropy_target=5.4)
            sections["data"]["eval"] = sections["data"]["train"]
            sections["eval"] = {"every": 1, "limit": 5, "generations": 3, "temperature": 1.0, "pass_at": [1, 3], "pass_metric": "regex", "best": "reward_mean",
                                "patience": 50}
        if algorithm == "ppo":
            sections["train"]["critic"] = {"rank": 3, "lr": 1e-3, "warmup": 1}
        elif numerics == "fast":
            sections["rollout"]["filter_groups"] = {"enable": True, "metric": "regex", "max_num_gen_batches": 3}
            sections["train"]["advantage"] = "gdpo"
            path = sections["data"]["train"]
            sections["data"]["train"] = [{"path": path, "weight": 2, "rewards": ["regex"]}, {"path": path, "prompt": "{answer}?"}]
    elif algorithm == "distill":
        sections["data"]["prompt"] = "{question}"
        sections["rollout"] = {"prompts_per_step": 6, "generations": 1, "max_new_tokens": 24}
        sections["train"].update(minibatches=2, distill={"loss": "full" if numerics == "exact" else "sampled", "teacher": os.path.join(MODELS, model, "adapter")})
    else:
        sections["train"].update(batch_size=4, minibatches=1 if algorithm == "sft" else 2)
        sections["data"]["train"] = [sections["data"]["train"], {"path": sections["data"]["train"], "weight": 0.3}]
    return write_recipe(os.path.join(tmp, name + ".yaml"), sections)


def final_bytes(run, steps):
    out = {}
    top = newest_checkpoint(run)
    expect(top and top.endswith(f"step-{steps:06d}"), f"last checkpoint is {top}")
    critic = ["critic/adapter_model.safetensors", "critic/adapter_config.json"] if os.path.isdir(os.path.join(top, "critic")) else []
    for file in ["adapter/adapter_model.safetensors", "adapter/adapter_config.json", "optimizer.safetensors"] + critic:
        with open(os.path.join(top, file), "rb") as f:
            out[file] = f.read()
    out["counters"] = json.dumps(read_json(os.path.join(top, "state.json"))["counters"])
    best = os.path.join(run, "checkpoints", "best")
    out["best"] = os.readlink(best) if os.path.islink(best) else ""
    folder = os.path.join(run, "rollouts")
    for file in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        with open(os.path.join(folder, file), "rb") as f:
            out["rollouts/" + file] = f.read()
    return out


def expect_same_run(clean, other, steps=STEPS):
    a, b = without_timing(metrics_of(clean)), without_timing(metrics_of(other))
    expect([r["step"] for r in b] == list(range(1, steps + 1)), f"steps in metrics.jsonl: {[r['step'] for r in b]}")
    for x, y in zip(a, b):
        expect(x == y, f"step {x['step']}: " + ", ".join(f"{k} {x.get(k)} and {y.get(k)}" for k in x if x.get(k) != y.get(k)))
    a, b = final_bytes(clean, steps), final_bytes(other, steps)
    expect(a.keys() == b.keys(), f"files: {sorted(a.keys() ^ b.keys())}")
    for file in a:
        expect(a[file] == b[file], f"{file} differs")


def killed_run(args, path, run, seconds, seed, kills):
    """Resumes until done; each of the first `kills` starts is killed at a random moment."""
    rng, killed = random.Random(seed), 0
    for attempt in range(kills + 3):
        argv = [args.grpo_train, path, "--quiet"] + (["--resume"] if attempt else [])
        p = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        if killed < kills:
            time.sleep(rng.uniform(0.02, 1.0) * seconds)
            if p.poll() is None:
                p.send_signal(signal.SIGKILL)
                killed += 1
        try:
            err = p.communicate(timeout=20 * seconds + 60)[1].decode("utf-8", "replace")
        except subprocess.TimeoutExpired:
            p.kill()
            expect(False, f"start {attempt + 1} hangs")
        if p.returncode == 0:
            return killed
        expect(p.returncode == -signal.SIGKILL, f"start {attempt + 1}: exit {p.returncode}: {err.strip()[-300:]}")
    expect(False, "not done after the last start")


def survives_kills(args, model, algorithm, numerics, optimizer, kills):
    with scratch() as tmp:
        questions = [{"question": f"What is {a}+{b}?", "answer": str(a + b)} for a in range(4) for b in range(4)]
        for name in ("grpo", "ppo", "distill"):
            write_jsonl(os.path.join(tmp, name + ".jsonl"), questions)
        write_jsonl(os.path.join(tmp, "sft.jsonl"), [{"prompt": q["question"], "completion": " " + q["answer"]} for q in questions])
        for name in ("dpo", "reward"):
            write_jsonl(os.path.join(tmp, name + ".jsonl"), [{"prompt": q["question"], "chosen": " " + q["answer"], "rejected": " none"} for q in questions])
        write_jsonl(os.path.join(tmp, "kto.jsonl"), [{"prompt": q["question"], "completion": " " + q["answer"], "label": len(q["answer"]) > 1} for q in questions])
        write_text(os.path.join(tmp, "game.py"), ENVIRONMENT)
        clean = recipe(tmp, "clean", model, algorithm, numerics, optimizer)
        seconds = run_ok([args.grpo_train, clean, "--quiet"], timeout=300).seconds
        again = recipe(tmp, "again", model, algorithm, numerics, optimizer)
        run_ok([args.grpo_train, again, "--quiet"], timeout=300)
        expect_same_run(os.path.join(tmp, "clean"), os.path.join(tmp, "again"))
        total = 0
        for round_ in range(2):
            name = f"killed-{round_}"
            total += killed_run(args, recipe(tmp, name, model, algorithm, numerics, optimizer), os.path.join(tmp, name), seconds, round_, kills)
            expect_same_run(os.path.join(tmp, "clean"), os.path.join(tmp, name))
        stopped_by_signal(args, recipe(tmp, "term", model, algorithm, numerics, optimizer), seconds)
        expect_same_run(os.path.join(tmp, "clean"), os.path.join(tmp, "term"))
        return f"{total} kills, {seconds:.2f} s undisturbed"


def stopped_by_signal(args, path, seconds):
    """SIGTERM in the middle, once the first step is done: exit 5 with a checkpoint, and the resumed run goes on from it."""
    run = path[:-len(".yaml")]
    p = subprocess.Popen([args.grpo_train, path, "--quiet"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    metrics = os.path.join(run, "metrics.jsonl")
    until = time.monotonic() + 20 * seconds + 60
    while p.poll() is None and not (os.path.exists(metrics) and os.path.getsize(metrics)) and time.monotonic() < until:
        time.sleep(0.002)
    if p.poll() is None:
        p.send_signal(signal.SIGTERM)
    try:
        err = p.communicate(timeout=20 * seconds + 60)[1].decode("utf-8", "replace")
    except subprocess.TimeoutExpired:
        p.kill()
        expect(False, "does not stop on SIGTERM")
    expect(p.returncode in (0, 5), f"SIGTERM: exit {p.returncode}: {err.strip()[-300:]}")
    if p.returncode == 5:
        expect(newest_checkpoint(run), "stopped by SIGTERM without a checkpoint")
        run_ok([args.grpo_train, path, "--quiet", "--resume"], timeout=300)


def steps_done(run):
    """Whole lines of metrics.jsonl; the last may be half written, and a resume cuts the file back to its checkpoint."""
    try:
        with open(os.path.join(run, "metrics.jsonl"), "rb") as f:
            return f.read().count(b"\n")
    except FileNotFoundError:
        return 0


def kill_in_progress(p, run, rng, step_s, begun):
    """Waits for 0 to 2 more steps, then for a random part of one; SIGKILL. False: the process ended before."""
    goal = begun + rng.choice([0, 0, 1, 1, 2])
    while p.poll() is None and steps_done(run) < goal:
        time.sleep(0.005)
    time.sleep(rng.uniform(0.0, 1.5) * step_s)
    if p.poll() is not None:
        return False
    p.send_signal(signal.SIGKILL)
    return True


def recipe_survives_kills(args, numerics, kills):
    steps = 2 * kills
    with scratch() as tmp:
        def argv(name):
            return [args.grpo_train, args.recipe, f"output={os.path.join(tmp, name)}", f"train.steps={steps}", f"numerics={numerics}", "--quiet",
                    "rollout.prompts_per_step=2", "rollout.generations=4", "rollout.max_new_tokens=8", "checkpoint.every=1", "checkpoint.keep=2",
                    "log.rollouts=1"]
        clean = os.path.join(tmp, "clean")
        seconds = run_ok(argv("clean"), timeout=3600).seconds
        step_s = sum(row["step_s"] for row in metrics_of(clean)) / steps
        rng, killed, starts, where = random.Random(numerics), 0, 0, []
        run = os.path.join(tmp, "killed")
        while True:
            expect(starts < 3 * kills, f"not done after {starts} starts")
            p = subprocess.Popen(argv("killed") + (["--resume"] if starts else []), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            begun, starts = steps_done(run), starts + 1
            if killed < kills and kill_in_progress(p, run, rng, step_s, begun):
                killed += 1
                where.append(steps_done(run))
            err = p.communicate(timeout=3600)[1].decode("utf-8", "replace")
            if p.returncode == 0:
                break
            expect(p.returncode == -signal.SIGKILL, f"start {starts}: exit {p.returncode}: {err.strip()[-300:]}")
        expect(killed == kills, f"{killed} kills only, the run was done before")
        expect_same_run(clean, run, steps)
        return f"{killed} kills after steps {where}, {starts} starts, {steps} steps, {seconds:.1f} s undisturbed"


def main():
    args = arguments(__doc__, kills=6, recipe="")
    report = Report()
    if args.recipe:
        for numerics in ("exact", "fast"):
            report.run(f"{args.recipe}/{numerics}", recipe_survives_kills, args, numerics, args.kills)
        report.end()
    # of rank 43 some tensors have moments of 8 bits, some are too small
    for model, algorithm, numerics, optimizer in (("llama3", "grpo", "exact", "adamw"), ("qwen2", "grpo", "fast", "adamw"), ("qwen3", "sft", "exact", "adamw"),
                                                  ("llama3", "dpo", "exact", "adamw"), ("qwen2", "kto", "fast", "adamw"),
                                                  ("qwen3", "grpo", "exact", "adamw_8bit"), ("llama3", "ppo", "exact", "adamw"),
                                                  ("qwen3", "ppo", "fast", "adamw_8bit"), ("qwen2", "reward", "fast", "adamw"), ("qwen3", "distill", "exact", "adamw"), ("llama3", "distill", "fast", "adamw"),
                                                  ("llama3", "turns", "exact", "adamw"), ("qwen2", "turns", "fast", "adamw"), ("mistral", "judge", "exact", "adamw")):
        name = f"{model}/{algorithm}/{numerics}/{optimizer}"
        if args.only in name:
            report.run(name, survives_kills, args, model, algorithm, numerics, optimizer, args.kills)
    report.end()


if __name__ == "__main__":
    main()
