#!/usr/bin/env python3
"""Two builds of tandem beside each other: the same benchmark, one after the other and again, so that what the machine does meanwhile hits both.

    python3 tests/bench/compare.py build/before build/cpu-release -- rollout --model models/SmolLM2-135M-Instruct.Q4_1.gguf --prompts 8 --samples 8
    python3 tests/bench/compare.py build/a/tandem build/b/tandem --rounds 7 --figure ms_per_step -- train --device cuda --model-config config.json --random-weights

Prints, for each figure, the median of either build, the ratio of the medians (second to first), and its spread: the least and the greatest ratio of a
round's two runs. A ratio whose spread holds 1 says nothing. The figures are the numbers of the benchmark's first line of JSON; without --figure all that
are measured (not counted) are shown. Exit status 1 where a run fails.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys

MEASURED = ("tokens_per_s", "seconds", "ms_per_step", "fraction", "memory_peak_bytes", "us", "gbps", "gflops")


def binary(path):
    return os.path.join(path, "tandem") if os.path.isdir(path) else path


def figures_of(tandem, arguments):
    try:
        r = subprocess.run([tandem, "bench", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    except OSError as e:
        sys.exit(f"{tandem}: {e.strerror}: give the folder of a build")
    if r.returncode != 0:
        sys.exit(f"{tandem} bench {' '.join(arguments)}: exit status {r.returncode}: {r.stderr.strip()}")
    line = next((l for l in r.stdout.splitlines() if l.startswith("{")), None)
    if line is None:
        sys.exit(f"{tandem} bench {' '.join(arguments)}: no figures in {r.stdout[:100]!r}")
    return {k: v for k, v in json.loads(line).items() if isinstance(v, (int, float)) and not isinstance(v, bool)}


def main():
    if "--" not in sys.argv:
        sys.exit(__doc__.strip())
    cut = sys.argv.index("--")
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("first", help="a build's folder, or its tandem")
    p.add_argument("second")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--figure", action="append", default=[], help="show this one; may be repeated")
    args, bench = p.parse_args(sys.argv[1:cut]), sys.argv[cut + 1:]
    builds = [binary(args.first), binary(args.second)]
    runs = []
    for i in range(args.rounds):
        pair = [None, None]
        for side in ((0, 1) if i % 2 == 0 else (1, 0)):  # nobody is always second
            pair[side] = figures_of(builds[side], bench)
        runs.append(pair)
    names = args.figure or [n for n in MEASURED if all(n in figures for pair in runs for figures in pair)]
    if not names:
        sys.exit("the benchmark has none of the figures " + ", ".join(MEASURED) + ": name one by --figure")
    print(f"| figure | {args.first} | {args.second} | ratio | spread over {args.rounds} rounds |\n| --- | --- | --- | --- | --- |")
    for name in names:
        if any(name not in figures for pair in runs for figures in pair):
            sys.exit(f"the benchmark has no figure {name}; it has {', '.join(runs[0][0])}")
        columns = [[pair[side][name] for pair in runs] for side in (0, 1)]
        medians = [statistics.median(c) for c in columns]
        ratios = [b / a for a, b in zip(*columns) if a]
        if not medians[0] or not ratios:
            continue
        print(f"| {name} | {medians[0]:.6g} | {medians[1]:.6g} | {medians[1] / medians[0]:.3f} | {min(ratios):.3f} to {max(ratios):.3f} |")


if __name__ == "__main__":
    main()
