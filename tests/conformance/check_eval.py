#!/usr/bin/env python3
"""`tandem eval` of multiple-choice tasks beside lm-evaluation-harness on the same model and rows. Needs torch, transformers and lm_eval; run from the
repository's root:

    python tests/conformance/check_eval.py --tandem BUILD/tandem [--model FOLDER ...]

Rows are made up, in the columns of each data set; the harness reads them with its own task files, of which only the source of the rows is changed, and
its own scoring. Each sum of log-probabilities is no further from the harness' in FP32 than the harness' own in BF16, in the mean; acc, acc_norm and the
choices taken are the same in every row where FP32 tells two choices apart by more than that.
"""
import argparse
import json
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

import lm_eval
import lm_eval.tasks
import torch
import transformers
from lm_eval.models.huggingface import HFLM

MODELS = [f"tests/golden/data/models/{m}" for m in ("llama3", "qwen3")]
WORDS = "the ice melts when a river warms café naïve 東京 seven 3.14 magnets attract iron, and then? Why! dogs bark (loudly) over_it".split()
TASKS = {"arc_easy": "arc", "hellaswag": "hellaswag", "piqa": "piqa", "openbookqa": "openbookqa"}
BUILTIN = pathlib.Path(lm_eval.tasks.__file__).parent


def words(rng, low, high):
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(low, high)))


def rows(task, rng, count):
    out = []
    for i in range(count):
        n = rng.choice((3, 4, 5))
        labelled = {"text": [words(rng, 1, 6) for _ in range(n)], "label": list("12345" if i % 3 else "ABCDE")[:n]}
        gold = rng.randrange(n)
        if task == "arc_easy":
            out.append({"question": words(rng, 4, 12) + rng.choice(("?", " ", "?\n")), "choices": labelled, "answerKey": labelled["label"][gold]})
        elif task == "openbookqa":
            out.append({"question_stem": words(rng, 4, 12) + rng.choice(("", "  ")), "choices": labelled, "answerKey": labelled["label"][gold]})
        elif task == "piqa":
            out.append({"goal": words(rng, 4, 12), "sol1": words(rng, 1, 9), "sol2": words(rng, 1, 9), "label": gold % 2})
        else:
            mark = rng.choice(("", " [title] ", " [header] x  y [step] ", "[broken "))
            out.append({"activity_label": words(rng, 1, 2), "ctx_a": words(rng, 3, 8) + mark, "ctx_b": rng.choice(("", "étude IN c", "THEN HE", "ﬁ x")),
                        "endings": [f" {words(rng, 1, 7)}{rng.choice(('', ' [substeps] go.  on'))} " for _ in range(4)], "label": str(gold % 4)})
    return out


def harness(model, tokenizer, task, data, tmp):
    """The harness' results and, row by row, its sums."""
    folder = tmp / f"task-{task}"
    shutil.copytree(BUILTIN / TASKS[task], folder, dirs_exist_ok=True)
    text = (folder / f"{task}.yaml").read_text()
    for other in folder.glob("*.yaml"):
        other.unlink()
    text = re.sub(r"^(dataset_path|dataset_name|training_split|validation_split|test_split|fewshot_split|tag):.*\n(  - .*\n)*", "", text, flags=re.M)
    text = text.replace(f"task: {task}\n", f"task: local_{task}\n")
    text += f"\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    validation: {data}\nvalidation_split: validation\n"
    (folder / f"{task}.yaml").write_text(text)
    manager = lm_eval.tasks.TaskManager(include_path=str(folder), include_defaults=False)
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4, max_length=model.config.max_position_embeddings)
    out = lm_eval.simple_evaluate(model=lm, tasks=[f"local_{task}"], task_manager=manager, log_samples=True, bootstrap_iters=1)
    samples = sorted(out["samples"][f"local_{task}"], key=lambda s: s["doc_id"])
    return out["results"][f"local_{task}"], [[float(r[0][0]) for r in s["resps"]] for s in samples], samples


def check(tandem, path, task, tmp):
    data = tmp / f"{task}.jsonl"
    with open(data, "w", encoding="utf-8") as f:
        for row in rows(task, random.Random(len(task)), 40):
            f.write(json.dumps(row, ensure_ascii=False) + "\n")
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    said, exact, samples = harness(model, tokenizer, task, data, tmp)
    _, rounded, _ = harness(model.bfloat16(), tokenizer, task, data, tmp)
    done = subprocess.run([tandem, "eval", "--model", path, "--task", task, "--data", data, "--samples", tmp / "samples.jsonl"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ours = json.loads(done.stdout)
    lines = [json.loads(line) for line in open(tmp / "samples.jsonl")]
    error = lambda a: sum(abs(x - y) for p, q in zip(a, exact) for x, y in zip(p, q)) / ours["choices"]
    mine, theirs = error([line["logprobs"] for line in lines]), error(rounded)
    assert mine <= theirs, f"mean |difference to FP32| {mine:.5f}, the harness in BF16 {theirs:.5f}"
    unsure = {"acc": 0, "acc_norm": 0}
    for line, sums, sample in zip(lines, exact, samples):
        texts = [args[1][1:] for args in sample["arguments"].values()] if isinstance(sample["arguments"], dict) else [a[1][1:] for a in sample["arguments"]]
        texts = [sample["arguments"][f"gen_args_{i}"]["arg_1"][1:] for i in range(len(sums))] if isinstance(sample["arguments"], dict) else texts
        for metric, values in (("acc", sums), ("acc_norm", [s / len(t) for s, t in zip(sums, texts)])):
            first, second = sorted(values, reverse=True)[:2]
            if first - second < 2 * theirs / (1 if metric == "acc" else min(map(len, texts))):
                unsure[metric] += 1
                continue
            assert line[metric] == bool(sample[metric]), f"row {line['row']}, {metric}: {line}, {sums}"
    for metric in unsure:
        assert abs(ours[metric] - said[metric + ",none"]) <= unsure[metric] / len(lines) + 1e-9
        p, n = ours[metric], len(lines)
        assert abs(ours[metric + "_stderr"] - (p * (1 - p) / (n - 1)) ** 0.5) < 1e-7
        if ours[metric] == said[metric + ",none"]:
            assert abs(ours[metric + "_stderr"] - said[metric + "_stderr,none"]) < 1e-6
    return (f"acc {ours['acc']:.3f} ({said['acc,none']:.3f}), acc_norm {ours['acc_norm']:.3f} ({said['acc_norm,none']:.3f}), too near to tell {unsure}; "
            f"mean |d log-probability| of a choice {mine:.5f}, the harness in BF16 {theirs:.5f}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tandem", required=True)
    parser.add_argument("--model", action="append")
    args = parser.parse_args()
    for model in args.model or MODELS:
        for task in TASKS:
            with tempfile.TemporaryDirectory() as tmp:
                print(model, task, check(pathlib.Path(args.tandem).resolve(), model, task, pathlib.Path(tmp)), flush=True)
    print(f"lm_eval {lm_eval.__version__}: all agree")


if __name__ == "__main__":
    sys.exit(main())
