#!/usr/bin/env python3
"""Does every algorithm learn? Runs the recipes of configs/learn over several seeds and writes docs/learning.md with their curves.

    python3 scripts/learn.py --grpo-train build/cpu-release/grpo_train --jobs 2
    python3 scripts/learn.py --grpo-train build/cuda-release/grpo_train --device cuda --jobs 8 --only grpo,dpo
    python3 scripts/learn.py --page-only

A recipe says in its first lines what it shows and what has to come of it:

    # learn: reward_mean rises by 0.2     of metrics.jsonl, the mean of the last five steps against that of the first five, in each seed
    # after: sft is train.distill.teacher the key gets the adapter that this recipe has trained with the same seed

Runs that are done are not run again. The standard library alone, and no network: the folder wants the command, the model, the recipes and examples/addition.
"""
import argparse
import concurrent.futures
import json
import os
import re
import shutil
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
WINDOW = 5  # steps of a mean
ORDER = ["grpo", "bnpo", "dr_grpo", "dapo", "gspo", "cispo", "sapo", "luspo", "vespo", "gmpo", "rloo", "reinforce_pp", "ppo", "dpo", "orpo", "kto", "reward", "sft", "distill"]
COLORS = ["#2563eb", "#d97706", "#059669", "#9333ea", "#dc2626"]


class Recipe:
    def __init__(self, path):
        self.name, self.path = os.path.basename(path)[:-len(".yaml")], path
        with open(path, encoding="utf-8") as f:
            text = f.read()
        comments = [line[1:].strip() for line in text.splitlines() if line.startswith("#")]
        goal = re.fullmatch(r"learn: (\S+) (rises|falls) by ([0-9.]+)", next(c for c in comments if c.startswith("learn:")))
        self.metric, self.sign, self.margin = goal[1], 1 if goal[2] == "rises" else -1, float(goal[3])
        after = next((re.fullmatch(r"after: (\S+) is (\S+)", c) for c in comments if c.startswith("after:")), None)
        self.after, self.key = (after[1], after[2]) if after else (None, None)
        self.what = " ".join(c for c in comments if not re.match(r"(learn|after):", c))
        self.steps = int(re.search(r"\bsteps: (\d+)", text)[1])


def recipes(folder, only):
    found = {name[:-len(".yaml")]: Recipe(os.path.join(folder, name)) for name in sorted(os.listdir(folder)) if name.endswith(".yaml")}
    unknown = sorted(set(only) - set(found))
    if unknown:
        sys.exit(f"no recipe is called {', '.join(unknown)}: there are {', '.join(found)}")
    wanted = set(only or found)
    for name in list(wanted):  # and what they start from
        if found[name].after:
            wanted.add(found[name].after)
    return sorted((found[n] for n in wanted), key=lambda r: (ORDER.index(r.name) if r.name in ORDER else len(ORDER), r.name))


def run_of(args, recipe, seed):
    return os.path.join(args.runs, f"{recipe.name}-{seed}")


def rows_of(args, recipe, seed):
    path = os.path.join(run_of(args, recipe, seed), "metrics.jsonl")
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def done(args, recipe, seed):
    return len(rows_of(args, recipe, seed)) >= recipe.steps and os.path.isdir(adapter_of(args, recipe, seed))


def adapter_of(args, recipe, seed):
    return os.path.join(run_of(args, recipe, seed), "checkpoints", f"step-{recipe.steps:06d}", "adapter")


def run(args, recipe, seed, threads):
    """One run; a message, empty when it went well."""
    folder = run_of(args, recipe, seed)
    command = [args.grpo_train, recipe.path, "--quiet", f"seed={seed}", f"output={folder}", f"threads={threads}", f"device={args.device}"]
    if os.path.isdir(folder):  # it was cut off: such a short run begins anew
        shutil.rmtree(folder)
    if args.budget:
        command.append(f"memory.budget={args.budget}")
    if args.model:
        command.append(f"model.path={args.model}")
    if recipe.after:
        first = next(r for r in args.recipes if r.name == recipe.after)
        if not done(args, first, seed):
            return f"{recipe.name}, seed {seed}: {first.name} of this seed is not there to start from"
        command.append(f"{recipe.key}={adapter_of(args, first, seed)}")
    begin = time.monotonic()
    os.makedirs(args.runs, exist_ok=True)
    with open(folder + ".log", "w", encoding="utf-8") as log:
        code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL).returncode
    print(f"{'ok  ' if code == 0 else 'FAIL'} {recipe.name}, seed {seed}: {time.monotonic() - begin:.0f} s", flush=True)
    return "" if code == 0 else f"{recipe.name}, seed {seed}: exit status {code}, see {folder}.log"


def run_all(args):
    threads = args.threads or max(1, (os.cpu_count() or 1) // args.jobs)
    failed = []
    for late in (False, True):  # those that start from another come after all others
        todo = [(r, s) for s in args.seeds for r in args.recipes if bool(r.after) == late and not done(args, r, s)]
        with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
            failed += filter(None, pool.map(lambda one: run(args, *one, threads), todo))
    return failed


# ---- What came of it --------------------------------------------------------------------------------------------------------------

def mean(xs):
    return sum(xs) / len(xs)


def curve_of(args, recipe, seed):
    return [row.get(recipe.metric) for row in rows_of(args, recipe, seed)[:recipe.steps]]


class Outcome:
    def __init__(self, args, recipe, seed):
        known = [y for y in curve_of(args, recipe, seed) if y is not None]
        self.curve = curve_of(args, recipe, seed)
        self.first, self.last = (mean(known[:WINDOW]), mean(known[-WINDOW:])) if len(known) > WINDOW else (None, None)
        self.whole = len(self.curve) == recipe.steps and self.first is not None
        self.held = self.whole and recipe.sign * (self.last - self.first) >= recipe.margin


def plot(recipe, outcomes):
    """The seeds' curves in one small picture."""
    width, height, left, bottom, top = 320, 150, 44, 20, 8
    points = [y for o in outcomes for y in o.curve if y is not None]
    if not points:
        return None
    low, high = min(points), max(points)
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    x = lambda i: left + (width - left - 6) * i / max(1, recipe.steps - 1)
    y = lambda v: top + (height - top - bottom) * (high - v) / (high - low)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" font-family="sans-serif" font-size="10">',
           f'<title>{recipe.name}: {recipe.metric} by step</title>', '<rect width="100%" height="100%" fill="#ffffff"/>']
    for v in (low, (low + high) / 2, high):
        out.append(f'<line x1="{left}" y1="{y(v):.1f}" x2="{width - 6}" y2="{y(v):.1f}" stroke="#e5e7eb"/><text x="{left - 4}" y="{y(v) + 3:.1f}" text-anchor="end" fill="#374151">{v:.3g}</text>')
    out.append(f'<text x="{left}" y="{height - 6}" fill="#374151">1</text><text x="{width - 6}" y="{height - 6}" text-anchor="end" fill="#374151">step {recipe.steps}</text>')
    for o, color in zip(outcomes, COLORS):
        line = " ".join(f"{x(i):.1f},{y(v):.1f}" for i, v in enumerate(o.curve) if v is not None)
        out.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="1.5"/>')
    return "\n".join(out + ["</svg>"]) + "\n"


def page(args):
    folder = os.path.splitext(args.page)[0]
    os.makedirs(folder, exist_ok=True)
    rows, pictures, missing = [], [], []
    for r in args.recipes:
        outcomes = [Outcome(args, r, s) for s in args.seeds]
        if not all(o.whole for o in outcomes):
            missing.append(r.name)
            continue
        with open(os.path.join(folder, r.name + ".svg"), "w", encoding="utf-8") as f:
            f.write(plot(r, outcomes))
        moves = ", ".join(f"{o.first:.3g} → {o.last:.3g}" for o in outcomes)
        verdict = "yes" if all(o.held for o in outcomes) else f"no: {sum(o.held for o in outcomes)} of {len(outcomes)} seeds"
        rows.append(f"| [{r.name}](../configs/learn/{r.name}.yaml) | `{r.metric}` | {moves} | {'+' if r.sign > 0 else '-'}{r.margin:g} | {verdict} |")
        pictures.append(f"**{r.name}**: {r.what}\n\n![{r.metric} of {r.name}, step by step]({os.path.basename(folder)}/{r.name}.svg)\n")
    text = ["# Every algorithm learns", "",
            f"SmolLM2-135M learns one-digit additions, once with each algorithm: the recipes of `configs/learn`, seeds {', '.join(map(str, args.seeds))}. Untrained it answers about one in five.",
            f"Of each run stands the mean of the first {WINDOW} steps and of the last {WINDOW}; the margin is what a recipe states in its first lines, and holds where every seed moved by as much.",
            f"{args.where}This page is made by `scripts/learn.py`.", "",
            "| recipe | figure | first → last, by seed | margin | held |", "| --- | --- | --- | --- | --- |", *rows, "", "## The curves", "", *pictures]
    with open(args.page, "w", encoding="utf-8") as f:
        f.write("\n".join(text).rstrip() + "\n")
    print(f"{args.page}: {len(rows)} of {len(args.recipes)} recipes" + (f"; without all of their runs: {', '.join(missing)}" if missing else ""))


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--grpo-train", default=os.path.join("build", "cpu-release", "grpo_train"))
    p.add_argument("--only", default="", help="recipes by name, with commas; empty: all")
    p.add_argument("--seeds", default="1,2,3")
    p.add_argument("--jobs", type=int, default=1, help="runs at once")
    p.add_argument("--threads", type=int, default=0, help="CPU threads of a run; 0: the machine's, divided among the jobs")
    p.add_argument("--device", default="cpu", choices=["cpu", "cuda", "auto"])
    p.add_argument("--budget", default="", help="memory.budget of each run; runs that share a device need one, 4GiB is enough")
    p.add_argument("--model", default="", help="model.path, where it is not the recipes'")
    p.add_argument("--recipes", default=os.path.join("configs", "learn"))
    p.add_argument("--runs", default=os.path.join("runs", "learn"))
    p.add_argument("--page", default=os.path.join("docs", "learning.md"))
    p.add_argument("--where", default="", help="a sentence for the page: the machine the runs were made on")
    p.add_argument("--page-only", action="store_true")
    args = p.parse_args()
    if os.path.exists(args.grpo_train):
        args.grpo_train = os.path.abspath(args.grpo_train)
    os.chdir(ROOT)  # where the other paths are relative to
    args.seeds = [int(s) for s in args.seeds.split(",")]
    args.where = args.where.strip() + " " if args.where.strip() else ""
    args.recipes = recipes(args.recipes, [n for n in args.only.split(",") if n])
    if args.device == "cuda" and args.jobs > 1 and not args.budget:
        args.budget = "4GiB"
    failed = [] if args.page_only else run_all(args)
    page(args)
    if failed:
        sys.exit("\n".join(failed))


if __name__ == "__main__":
    main()
