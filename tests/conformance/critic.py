#!/usr/bin/env python3
"""PPO's critic and reward models against verl, TRL, PEFT and transformers (tests/golden/make_goldens_ppo.py): replayed steps with SGD move policy and
critic as there, one step over pairs moves a reward model. The rule per tensor is that of train.py.

And what no peer says: a critic adds to the plan its adapter, head and optimizer alone; micro-batches change no bit; a reward model of the
checkpoint scores completions in a run, and starts a critic.
"""
import json
import os

from harness import (MODELS, Report, adapter_section, arguments, expect, metrics_of, newest_checkpoint, read_json, run_ok, scratch, write_jsonl,
                     write_recipe)
from train import compare_adapter, moves_of, recipe


def ppo_sections(model, case, run):
    return {"rollout": {"replay": os.path.join(model, "replay.jsonl"), "prompts_per_step": 8, "generations": 4,
                        "max_new_tokens": read_json(os.path.join(model, "ppo.json"))["max_new_tokens"]},
            "output": run,
            "train": {"algorithm": "ppo", "steps": 1, "lr": case["lr"]["adapter"], "epochs_per_rollout": case["epochs"], "kl": case["kl"], "kl_type": case["kl_type"],
                      "importance": {"correction": "none"}, **{k: case[k] for k in ("gamma", "lam", "whiten_rewards", "aggregation")},
                      "critic": {"init": os.path.join(model, "critic"), "lr": case["lr"]["critic"], "cliprange_value": case["cliprange_value"],
                                 "vf_coef": case["vf_coef"]}}}


def reward_sections(model, case, run):
    rows = "margins.jsonl" if case["margin"] else "scored.jsonl"
    return {"adapter": {"init": os.path.join(model, "critic")},
            "data": {"train": os.path.join(model, rows), "shuffle": False, "max_prompt_tokens": 96}, "rollout": {"max_new_tokens": 32}, "output": run,
            "train": {"algorithm": "reward", "steps": 1, "batch_size": read_json(os.path.join(model, "ppo.json"))["reward"]["batch_size"], "lr": case["lr"],
                      "preference": {"center_rewards_coefficient": case["center_rewards_coefficient"]}}}


def run_of(args, model, sections, name, tmp, **train):
    run = os.path.join(tmp, "run-" + name)
    made = sections(run)
    made["train"].update(train)
    run_ok([args.grpo_train, write_recipe(os.path.join(tmp, name + ".yaml"), recipe(model, made)), "--quiet"])
    return run, metrics_of(run)[-1]


def ppo(args, model, case, name, tmp):
    """Figures are means over some three hundred tokens, whose values in BF16 are 0.01 from FP32's: a fraction changes by 0.003 where one crosses a bound."""
    run, row = run_of(args, model, lambda run: ppo_sections(model, case, run), name, tmp)
    full, half = case["fp32"], case["bf16"]
    for key in full:
        bound = max(0.003 * (1 + abs(full[key])), 1.5 * abs(half[key] - full[key]))
        expect(abs(row[key] - full[key]) <= bound, f"{key} {row[key]:.6f}, FP32 {full[key]:.6f}, PyTorch BF16 {half[key]:.6f}")
    worst = [compare_adapter(run, model, moves_of(model, "critic.safetensors", f"{name}/{part}"), case["bf16_distance"][part], part, part)
             for part in ("adapter", "critic")]
    return f"worst tensor {worst[0]:.0%} and the critic's {worst[1]:.0%} of the bound"


def reward(args, model, case, name, tmp):
    run, row = run_of(args, model, lambda run: reward_sections(model, case, run), name, tmp)
    # a score in BF16 is 0.01 from FP32's, and the loss moves by half the mean of the pairs' differences
    expect(abs(row["loss"] - case["fp32_loss"]) <= 0.005, f"loss {row['loss']:.6f}, FP32 {case['fp32_loss']:.6f}, PyTorch BF16 {case['bf16_loss']:.6f}")
    for key, want in case["fp32_metrics"].items():
        expect(abs(row[key] - want) <= (1e-6 if key == "rewards/accuracies" else 0.02), f"{key} {row[key]}, TRL {want}")
    worst = compare_adapter(run, model, moves_of(model, "critic.safetensors", name), case["bf16_distance"], "adapter", "critic")
    return f"worst tensor {worst:.0%} of the bound, loss {row['loss'] - case['fp32_loss']:+.6f}"


def adapters_of(run):
    files = {}
    for part in ("adapter", "critic"):
        path = os.path.join(newest_checkpoint(run), part, "adapter_model.safetensors")
        if os.path.exists(path):
            with open(path, "rb") as f:
                files[part] = f.read()
    return files


def micro_batches_change_nothing(args, model, sections, tmp):
    runs = [run_of(args, model, sections, f"micro-{tokens}", tmp, micro_tokens=tokens)[0] for tokens in (4096, 40)]
    expect(adapters_of(runs[0]) == adapters_of(runs[1]), "micro_tokens 40 and 4096 give different adapters")


def plan_rows(args, model, sections, tmp, name):
    made = recipe(model, sections)
    made.setdefault("memory", {})["budget"] = "8GiB"
    text = run_ok([args.grpo_train, write_recipe(os.path.join(tmp, name + ".yaml"), made), "--plan", "--quiet"]).out
    rows = {}
    for line in text.splitlines():
        parts = line.split()
        if parts and parts[0] in ("always", "rollout", "train"):
            rows[" ".join(parts[1:-4])] = int(parts[-3])
    return rows


def a_critic_adds_adapter_head_and_optimizer(args, model, tmp):
    """Two bytes a parameter, four each for gradient, master and AdamW's two moments; parts are rounded up to 64 bytes, the sum of squares has one."""
    config = read_json(os.path.join(model, "config.json"))
    d, f, heads, kv = (config[k] for k in ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"))
    dh, rank = config.get("head_dim") or d // heads, 3
    shapes = [(heads * dh, d), (kv * dh, d), (kv * dh, d), (d, heads * dh), (f, d), (f, d), (d, f)]
    count = config["num_hidden_layers"] * sum(rank * (n + k) for n, k in shapes) + d
    up = lambda n: (n + 63) // 64 * 64
    sections = lambda algorithm: {
        "adapter": {"rank": 4}, "data": {"train": os.path.join(tmp, "rows.jsonl")}, "reward": [{"type": "number"}],
        "rollout": {"prompts_per_step": 2, "generations": 2, "max_new_tokens": 8}, "output": os.path.join(tmp, "planned"),
        "train": {"algorithm": algorithm, "steps": 1, "optimizer": "adamw", **({"critic": {"rank": rank}} if algorithm == "ppo" else {})}}
    write_jsonl(os.path.join(tmp, "rows.jsonl"), [{"question": "1+1?", "answer": "2"}])
    without, there = (plan_rows(args, model, sections(a), tmp, a) for a in ("grpo", "ppo"))
    got = there.pop("critic: adapter, head, optimizer", None)
    want = 64 + up(2 * count) + 4 * up(4 * count)
    expect(got == want, f"the critic's row has {got} bytes, not {want}")
    expect(there == without, f"other rows changed: {[(k, without.get(k), v) for k, v in there.items() if without.get(k) != v]}")
    return f"{got} bytes for {count} parameters"


def rollouts_of(run):
    with open(os.path.join(run, "rollouts", "step-000001.jsonl")) as f:
        return [json.loads(line) for line in f]


def a_reward_model_scores_what_it_is_trained_on(args, model, tmp):
    """One step of ppo whose reward, and whose critic's start, is the golden reward model; its scores are those the model's own training finds for the
    same chats, to the bit of a metric: a step over pairs with lr 0 reports the means."""
    critic, run = os.path.join(model, "critic"), os.path.join(tmp, "scored")
    questions = [{"question": f"{a} and {b}?"} for a in range(3) for b in range(2)]
    write_jsonl(os.path.join(tmp, "questions.jsonl"), questions)
    made = {"model": {"path": model, "weights": "fp8_block"}, "adapter": {"rank": 4}, "numerics": "exact", "output": run, "seed": 3,
            "data": {"train": os.path.join(tmp, "questions.jsonl"), "prompt": "{question}", "eval": os.path.join(tmp, "questions.jsonl"), "max_prompt_tokens": 64},
            "rollout": {"prompts_per_step": 6, "generations": 2, "max_new_tokens": 20},
            "reward": [{"type": "model", "path": critic, "name": "rm", "weight": 2.0}, {"type": "length", "max": 20, "buffer": 10}],
            "eval": {"every": 1}, "train": {"algorithm": "ppo", "steps": 2, "lr": 1e-4, "critic": {"init": critic}},
            "log": {"rollouts": 1, "tensorboard": False, "report": False}, "checkpoint": {"every": 0}}
    run_ok([args.grpo_train, write_recipe(os.path.join(tmp, "scored.yaml"), made), "--quiet"])
    rows = rollouts_of(run)
    scores = [r["rewards"]["rm"] for r in rows]
    expect(len(scores) == 12 and len(set(scores)) > 6, f"scores {scores}")
    first = metrics_of(run)[0]
    expect(abs(first["reward/rm"] - sum(scores) / 12) < 1e-6 and "eval/rm" in first, f"reward/rm {first['reward/rm']}, {sum(scores) / 12}")
    pairs = [{"prompt": [{"role": "user", "content": question_of(r)}], "chosen": [{"role": "assistant", "content": r["completion"]}],
              "rejected": [{"role": "assistant", "content": rows[i + 1]["completion"]}]} for i, r in enumerate(rows) if i % 2 == 0]
    write_jsonl(os.path.join(tmp, "pairs.jsonl"), pairs)
    made = {"model": {"path": model, "weights": "fp8_block"}, "adapter": {"init": critic}, "numerics": "exact", "output": os.path.join(tmp, "again"),
            "data": {"train": os.path.join(tmp, "pairs.jsonl"), "shuffle": False, "max_prompt_tokens": 64}, "rollout": {"max_new_tokens": 60},
            "train": {"algorithm": "reward", "steps": 1, "batch_size": 6, "lr": 0.0}, "log": {"tensorboard": False, "report": False}}
    run_ok([args.grpo_train, write_recipe(os.path.join(tmp, "again.yaml"), made), "--quiet"])
    row, = metrics_of(os.path.join(tmp, "again"))
    for key, mine in (("rewards/chosen", scores[0::2]), ("rewards/rejected", scores[1::2])):
        expect(abs(row[key] - sum(mine) / 6) < 1e-6, f"{key} {row[key]}, as a reward {sum(mine) / 6}")
    return f"twelve scores from {min(scores):.3f} to {max(scores):.3f}"


def question_of(row):
    """The user's message in a ChatML prompt."""
    return row["prompt"].split("<|im_start|>user\n")[1].split("<|im_end|>")[0]


def main():
    args = arguments(__doc__)
    report = Report()
    for name in sorted(os.listdir(MODELS)):
        model = os.path.join(MODELS, name)
        if not os.path.exists(os.path.join(model, "ppo.json")):
            continue
        expected = read_json(os.path.join(model, "ppo.json"))
        with scratch() as tmp:
            checks = [(f"ppo/{c}", ppo, args, model, case, c, tmp) for c, case in expected["ppo"].items()]
            checks += [(f"reward/{c}", reward, args, model, case, c, tmp) for c, case in expected["reward"]["cases"].items()]
            gae, pairs = expected["ppo"]["gae"], expected["reward"]["cases"]["bradley_terry"]
            checks += [("micro/ppo", micro_batches_change_nothing, args, model, lambda run: ppo_sections(model, gae, run), os.path.join(tmp, "ppo")),
                       ("micro/reward", micro_batches_change_nothing, args, model, lambda run: reward_sections(model, pairs, run), os.path.join(tmp, "reward")),
                       ("scores", a_reward_model_scores_what_it_is_trained_on, args, model, os.path.join(tmp, "scores")),
                       ("plan", a_critic_adds_adapter_head_and_optimizer, args, model, tmp)]
            for folder in ("ppo", "reward", "scores"):
                os.mkdir(os.path.join(tmp, folder))
            for label, *check in checks:
                if args.only in f"{name}/{label}":
                    report.run(f"{name}/{label}", *check)
    report.end()


if __name__ == "__main__":
    main()
