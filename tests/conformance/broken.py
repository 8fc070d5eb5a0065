#!/usr/bin/env python3
"""Whatever is wrong with a recipe, a model, a tokenizer, data or a checkpoint: one line "error: ..." on stderr, the contract's exit
code, no crash, no hang.

    broken.py --tandem T --grpo-train G [--flips N]     N random bit flips for each kind of file

A flipped bit may also leave a file valid; then the command has to succeed, or to refuse it cleanly.
"""
import json
import os
import random
import shutil
import struct

from harness import (MODELS, Report, adapter_section, arguments, expect, newest_checkpoint, read_json, read_safetensors, run_ok, scratch,
                     start, write_jsonl, write_recipe, write_safetensors, write_text)

MODEL = os.path.join(MODELS, "llama3")
LIMIT_S = 60
# Sanitizers report through these, and a report is a failure whatever the exit code.
ENV = {"ASAN_OPTIONS": "exitcode=99:detect_leaks=0:allocator_may_return_null=1", "UBSAN_OPTIONS": "print_stacktrace=1"}


def check(result, codes, mentions=()):
    """codes: the exit codes allowed. The line has to name what is wrong: one of the words in `mentions`."""
    expect(result.code != "timeout", f"still running after {LIMIT_S} s: {' '.join(result.argv)}")
    expect(result.code in codes, f"exit {result.code}, want {codes}: {result.err.strip()[-500:] or '(no message)'}")
    expect("Sanitizer" not in result.err and "runtime error:" not in result.err, result.err[-1500:])
    lines = [x for x in result.err.split("\n") if x.strip()]
    errors = [x for x in lines if x.startswith("error: ")]
    if result.code == 0:
        expect(not errors, f"success, but {errors[0] if errors else ''}")
        return "accepted"
    expect(len(errors) == 1 and lines[-1] == errors[0], f"stderr is not one last line 'error: ...': {result.err[-500:]!r}")
    expect(len(errors[0]) > 15, f"says nothing: {errors[0]!r}")
    expect(not mentions or any(m in errors[0] for m in mentions), f"does not mention {' or '.join(mentions)}: {errors[0]}")
    return errors[0][:150]


# ---- Recipes -------------------------------------------------------------------------------------------------------------------------

def good_recipe(tmp):
    return {"model": {"path": MODEL, "weights": "bf16"}, "adapter": {"rank": 2, "alpha": 4},
            "data": {"train": os.path.join(tmp, "train.jsonl"), "prompt": "{question}", "max_prompt_tokens": 64},
            "rollout": {"prompts_per_step": 2, "generations": 2, "max_new_tokens": 4},
            "reward": [{"type": "number", "answer": "{answer}"}],
            "train": {"algorithm": "grpo", "loss": "dapo", "steps": 1, "lr": 1e-4},
            "checkpoint": {"every": 1, "keep": 2}, "log": {"tensorboard": False, "report": False}, "output": os.path.join(tmp, "run")}


def changed(section, key, value):
    def apply(recipe):
        recipe[section] = {**recipe.get(section, {}), key: value}
    return apply


def dropped(section, key):
    def apply(recipe):
        recipe[section] = {k: v for k, v in recipe[section].items() if k != key}
    return apply


def replaced(section, value):
    def apply(recipe):
        recipe[section] = value
    return apply


RECIPES = {  # name: change, exit codes, words of which the message has one
    "unknown key": (changed("rollout", "temprature", 1.0), (2,), ["temprature"]),
    "unknown section": (replaced("rolout", {}), (2,), ["rolout"]),
    "text where a number belongs": (changed("train", "lr", "fast"), (2,), ["lr"]),
    "list where a map belongs": (replaced("train", [1, 2]), (2,), ["train"]),
    "map where a number belongs": (changed("train", "steps", {"a": 1}), (2,), ["steps"]),
    "fraction where a count belongs": (changed("train", "steps", 1.5), (2,), ["steps"]),
    "negative count": (changed("train", "steps", -1), (2,), ["steps"]),
    "zero generations": (changed("rollout", "generations", 0), (2,), ["generations"]),
    "negative learning rate": (changed("train", "lr", -1e-4), (2,), ["lr"]),
    "not a number": (changed("train", "lr", ".nan"), (2,), ["lr"]),
    "count beyond 64 bits": (changed("rollout", "max_new_tokens", 10 ** 30), (2,), ["max_new_tokens"]),
    "unknown algorithm": (changed("train", "algorithm", "gppo"), (2,), ["gppo", "algorithm"]),
    "unknown loss": (changed("train", "loss", "dapoo"), (2,), ["dapoo", "loss"]),
    "unknown scheme": (changed("model", "weights", "fp4"), (2,), ["fp4", "weights"]),
    "more BF16 layers than the model has": (changed("model", "first_layers_bf16", 1000), (2,), ["1000 layers"]),
    "a kept module that no model has": (changed("model", "keep_bf16", ["z_proj"]), (2,), ["z_proj"]),
    "unknown target": (changed("adapter", "targets", ["q_proj", "z_proj"]), (2,), ["z_proj"]),
    "no model path": (dropped("model", "path"), (2,), ["path"]),
    "no model section": (replaced("model", None), (2,), ["model"]),
    "unknown reward": (replaced("reward", [{"type": "numbr"}]), (2,), ["numbr"]),
    "reward pattern that is no regex": (replaced("reward", [{"type": "format", "pattern": "(["}]), (2,), ["pattern", "regex"]),
    "dropout in exact GRPO": (lambda r: (changed("adapter", "dropout", 0.1)(r), replaced("numerics", "exact")(r)), (2,), ["dropout"]),
    "per-tensor activations in exact": (lambda r: (changed("model", "weights", "fp8_tensor")(r), replaced("numerics", "exact")(r)), (2,),
                                        ["fp8_tensor", "activation", "exact"]),
    "top_p above 1": (changed("rollout", "top_p", 1.5), (2,), ["top_p"]),
    "rank 0": (changed("adapter", "rank", 0), (2,), ["rank"]),
    "prompt with a column the data lacks": (changed("data", "prompt", "{nope}"), (2, 3), ["nope"]),
    "data that is not there": (changed("data", "train", "/nonexistent/train.jsonl"), (3,), ["/nonexistent"]),
    "model that is not there": (changed("model", "path", "/nonexistent/model"), (3,), ["/nonexistent"]),
    "adapter that is not there": (changed("adapter", "init", "/nonexistent/adapter"), (3,), ["/nonexistent"]),
    "adapter of another rank": (lambda r: replaced("adapter", {**adapter_section(MODEL), "rank": 8})(r), (2, 3), ["rank"]),
    "budget too small": (changed("memory", "budget", "1MiB"), (4,), ["budget"]),
    "budget that is no size": (changed("memory", "budget", "eight"), (2,), ["budget"]),
    "output that cannot be made": (replaced("output", "/proc/nonexistent/run"), (1,), ["/proc"]),
    "prompts longer than allowed": (changed("data", "max_prompt_tokens", 1), (2, 3), []),
    "context exceeded": (changed("rollout", "max_new_tokens", 100000), (2, 3, 4), []),
}
TEXTS = {
    "empty file": ("", (2,)),
    "not YAML": ("model: [unclosed\n", (2,)),
    "a tab as indentation": ("model:\n\tpath: x\n", (2,)),
    "the same key twice": ("model: {path: a}\nmodel: {path: b}\n", (2,)),
    "bytes that are not UTF-8": ("model: {path: \udcff\udcfe}\n", (2,)),
    "NUL bytes": ("model:\0\0\n", (2,)),
    "a list as the recipe": ("- model\n", (2,)),
    "two documents": ("model: {path: a}\n---\nmodel: {path: b}\n", (2,)),
    "aliases that explode": ("a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(8)), (2,)),
    "deep nesting": ("model: " + "[" * 5000 + "]" * 5000 + "\n", (2,)),
}
COMMAND_LINES = {
    "no recipe": [], "recipe that is not there": ["/nonexistent.yaml"], "unknown option": ["{recipe}", "--frobnicate"],
    "override without a value": ["{recipe}", "train.lr"], "override of an unknown key": ["{recipe}", "train.speed=9"],
    "override of the wrong type": ["{recipe}", "train.steps=many"], "two recipes": ["{recipe}", "{recipe}"],
}


def write_train(tmp):
    write_jsonl(os.path.join(tmp, "train.jsonl"), [{"question": f"{a}+{b}?", "answer": str(a + b)} for a in range(3) for b in range(3)])


def recipes(args, report, tmp):
    write_train(tmp)
    path = os.path.join(tmp, "recipe.yaml")
    run_recipe = lambda *extra: start([args.grpo_train, path, *extra], timeout=LIMIT_S, env=ENV)
    good = good_recipe(tmp)
    write_recipe(path, good)
    report.run("recipe/the good one works", lambda: check(run_recipe("--quiet"), (0,)))
    report.run("recipe/the good one checks", lambda: check(run_recipe("--check"), (0,)))
    report.run("recipe/the good one plans", lambda: check(run_recipe("--plan"), (0,)))
    for name, (change, codes, mentions) in RECIPES.items():
        recipe = dict(good_recipe(tmp), output=os.path.join(tmp, "run-" + name.replace(" ", "-")))
        change(recipe)
        write_recipe(path, recipe)
        report.run("recipe/" + name, lambda: check(run_recipe(), codes, mentions))
    for name, (text, codes) in TEXTS.items():
        with open(path, "wb") as f:
            f.write(text.encode("utf-8", "surrogateescape"))
        report.run("recipe/" + name, lambda: check(run_recipe(), codes))
    write_recipe(path, good)
    for name, argv in COMMAND_LINES.items():
        argv = [a.format(recipe=path) for a in argv]
        report.run("command line/" + name, lambda: check(start([args.grpo_train, *argv], timeout=LIMIT_S, env=ENV), (2,)))
    for name, argv in {"unknown command": ["frobnicate"], "no command": [], "score without a model": ["score"],
                       "score with an unknown engine": ["score", "--model", MODEL, "--engine", "warp", "--input", path, "--output", "/dev/null"],
                       "generate with a bad number": ["generate", "--model", MODEL, "--prompt", "x", "--max-new", "many"],
                       "report without a run": ["report"], "report into a folder": ["report", good["output"], "--output", tmp],
                       "report of too many runs": ["report"] + 13 * [good["output"]],
                       "report of one run twice": ["report", good["output"], good["output"]]}.items():
        report.run("command line/" + name, lambda: check(start([args.tandem, *argv], timeout=LIMIT_S, env=ENV), (2,)))
    for name, other in {"nowhere": "nowhere", "a file": path, "no run": tmp}.items():
        report.run("report beside/" + name, lambda: check(start([args.tandem, "report", good["output"], other], timeout=LIMIT_S, env=ENV), (3,), [other]))


# ---- Models and tokenizers -----------------------------------------------------------------------------------------------------------

def score(args, model, ids, tmp, adapter=None):
    source = os.path.join(tmp, "ids.jsonl")
    write_text(source, ids if isinstance(ids, str) else json.dumps({"ids": ids}) + "\n")
    argv = [args.tandem, "score", "--model", model, "--weights", "bf16", "--engine", "infer", "--input", source,
            "--output", os.path.join(tmp, "scored.jsonl")]
    return start(argv + (["--adapter", adapter] if adapter else []), timeout=LIMIT_S, env=ENV)


def tokenize(args, model):
    return start([args.tandem, "tokenize", "--model", model], stdin=b'"What is 1+2?"\n', timeout=LIMIT_S, env=ENV)


def copy_model(tmp, name="model"):
    target = os.path.join(tmp, name)
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(MODEL, target)
    return target


def edit_json(path, change):
    data = read_json(path)
    change(data)
    write_text(path, json.dumps(data))


def edit_bytes(path, change):
    with open(path, "rb") as f:
        data = bytearray(f.read())
    data = change(data) or data
    with open(path, "wb") as f:
        f.write(data)


def edit_tensors(path, change):
    tensors = read_safetensors(path)
    change(tensors)
    write_safetensors(path, tensors)


def set_header_length(n):
    def change(data):
        data[:8] = struct.pack("<Q", n)
    return change


def first_offsets(data):
    """Lets two tensors of the header claim bytes beyond the file."""
    length, = struct.unpack_from("<Q", data)
    header = json.loads(data[8:8 + length])
    name = sorted(k for k in header if k != "__metadata__")[0]
    a, b = header[name]["data_offsets"]
    header[name]["data_offsets"] = [a + (1 << 40), b + (1 << 40)]
    text = json.dumps(header).encode()
    return bytearray(struct.pack("<Q", len(text)) + text + data[8 + length:])


def poison(tensors):
    name = "model.layers.0.mlp.up_proj.weight"
    dtype, shape, data = tensors[name]
    tensors[name] = (dtype, shape, data[:100] + b"\xc0\x7f" + data[102:])


def reshape(tensors):
    name = "model.layers.0.self_attn.k_proj.weight"
    dtype, (n, k), data = tensors[name]
    tensors[name] = (dtype, [k, n], data)


CONFIG_CHANGES = {
    "unknown architecture": lambda c: c.update(model_type="mamba", architectures=["MambaForCausalLM"]),
    "heads that do not divide": lambda c: c.update(num_attention_heads=3, num_key_value_heads=2),
    "negative layers": lambda c: c.update(num_hidden_layers=-1),
    "zero width": lambda c: c.update(hidden_size=0),
    "width of another model": lambda c: c.update(hidden_size=2 * c["hidden_size"]),
    "more layers than the file": lambda c: c.update(num_hidden_layers=3),
    "fewer layers than the file": lambda c: c.update(num_hidden_layers=1),
    "billions of rows": lambda c: c.update(vocab_size=2 ** 40),
    "a string for a number": lambda c: c.update(hidden_size=str(c["hidden_size"])),
    "unknown rope": lambda c: c.update(rope_scaling={"rope_type": "yarn", "factor": 4.0}),
    "unknown activation": lambda c: c.update(hidden_act="gelu"),
    "no rms_norm_eps": lambda c: c.update(rms_norm_eps=-1),
}
WEIGHT_CHANGES = {  # name: change, the tensor that the message has to name
    "NaN in a matrix": (poison, "model.layers.0.mlp.up_proj.weight"), "a transposed matrix": (reshape, "model.layers.0.self_attn.k_proj.weight"),
    "a tensor too few": (lambda t: t.pop("model.layers.1.self_attn.v_proj.weight"), "model.layers.1.self_attn.v_proj.weight"),
    "a tensor too many": (lambda t: t.update({"model.layers.0.extra.weight": ("BF16", [1], b"\0\0")}), "model.layers.0.extra.weight"),
    "no tensors": (lambda t: t.clear(), "model.embed_tokens.weight"),
    "integers for weights": (lambda t: t.update({"model.norm.weight": ("I32", [64], b"\0" * 256)}), "model.norm.weight"),
}
FILE_CHANGES = {
    "header longer than the file": set_header_length(1 << 30), "header of 2^63 bytes": set_header_length((1 << 63) + 5),
    "header of no bytes": set_header_length(0), "offsets beyond the file": first_offsets,
    "cut in the header": lambda d: d[:100], "cut in the data": lambda d: d[:-1000], "one byte short": lambda d: d[:-1],
    "one byte long": lambda d: d + b"\0", "empty": lambda d: bytearray(b"") or bytes(),
}


def models(args, report, tmp):
    ids = list(range(3, 40))

    def refuse(name, break_it, mentions=(), command="score"):
        model = copy_model(tmp)
        break_it(model)
        call = (lambda: score(args, model, ids, tmp)) if command == "score" else (lambda: tokenize(args, model))
        report.run("model/" + name, lambda: check(call(), (3,), mentions))

    report.run("model/the good one works", lambda: check(score(args, MODEL, ids, tmp), (0,)))
    for name, change in CONFIG_CHANGES.items():
        refuse("config.json: " + name, lambda m: edit_json(os.path.join(m, "config.json"), change))
    for name, (change, tensor) in WEIGHT_CHANGES.items():
        refuse("weights: " + name, lambda m: edit_tensors(os.path.join(m, "model.safetensors"), change), [tensor])
    for name, change in FILE_CHANGES.items():
        def rewrite(m):
            path = os.path.join(m, "model.safetensors")
            with open(path, "rb") as f:
                data = bytearray(f.read())
            new = change(data)
            with open(path, "wb") as f:
                f.write(data if new is None else new)
        refuse("file: " + name, rewrite, ["safetensors"])
    for file in ("config.json", "model.safetensors"):
        refuse(f"no {file}", lambda m: os.remove(os.path.join(m, file)), [file.split(".")[-1]])
    refuse("config.json cut", lambda m: edit_bytes(os.path.join(m, "config.json"), lambda d: d[:200]), ["config.json"])
    refuse("no tokenizer.json", lambda m: os.remove(os.path.join(m, "tokenizer.json")), ["tokenizer.json"], "tokenize")
    refuse("tokenizer.json cut", lambda m: edit_bytes(os.path.join(m, "tokenizer.json"), lambda d: d[:2000]), ["tokenizer.json"], "tokenize")
    refuse("tokenizer.json without a model", lambda m: edit_json(os.path.join(m, "tokenizer.json"), lambda d: d.pop("model")), ["tokenizer.json"], "tokenize")
    refuse("tokenizer.json of an unknown kind", lambda m: edit_json(os.path.join(m, "tokenizer.json"), lambda d: d["model"].update(type="Unigram")), ["tokenizer.json"], "tokenize")
    for name, data in {"garbage": b"GGUF" + b"\xff" * 200, "empty": b"", "old version": b"GGUF" + struct.pack("<IQQ", 1, 0, 0)}.items():
        path = os.path.join(tmp, "broken.gguf")
        with open(path, "wb") as f:
            f.write(data)
        report.run("model/gguf: " + name, lambda: check(score(args, path, ids, tmp), (3,), ["gguf"]))


def data(args, report, tmp):
    for name, text in {"id beyond the vocabulary": '{"ids":[3,4,99999]}\n', "negative id": '{"ids":[3,-1]}\n', "no ids": '{"tokens":[1]}\n',
                       "not JSON": '{"ids":[3,4\n', "fractions": '{"ids":[1.5,2]}\n', "longer than the context": json.dumps({"ids": [3] * 5000}) + "\n",
                       "a list": "[1,2,3]\n", "second line bad": '{"ids":[3,4]}\n{"ids":"x"}\n'}.items():
        report.run("score input/" + name, lambda: check(score(args, MODEL, text, tmp), (3,)))
    rows = {"not JSON": '{"question":"1+1?","answer":"2"}\n{"question"\n', "a column missing": '{"question":"1+1?"}\n', "empty": "",
            "not objects": "1\n2\n", "a broken byte": b'{"question":"\xff\xfe","answer":"2"}\n'}
    for name, text in rows.items():
        with open(os.path.join(tmp, "train.jsonl"), "wb") as f:
            f.write(text if isinstance(text, bytes) else text.encode())
        path = write_recipe(os.path.join(tmp, "data.yaml"), dict(good_recipe(tmp), output=os.path.join(tmp, "run-data-" + name.replace(" ", "-"))))
        report.run("train data/" + name, lambda: check(start([args.grpo_train, path], timeout=LIMIT_S, env=ENV), (3,), ["train.jsonl", "answer"]))
    good = {"group": 0, "prompt_ids": [5, 6], "completion_ids": [7, 8], "logprobs": [-1.0, -2.0], "reward": 1.0}
    replays = {"log-probabilities too few": {"logprobs": [-1.0]}, "id beyond the vocabulary": {"completion_ids": [7, 40000]},
               "no reward": {"reward": ...}, "text for a reward": {"reward": "much"}, "empty prompt": {"prompt_ids": []}, "positive log-probability": {"logprobs": [1.0, 5.0]},
               "text for ids": {"completion_ids": "ab"}}
    for name, change in replays.items():
        write_jsonl(os.path.join(tmp, "replay.jsonl"), [good, {k: v for k, v in {**good, **change}.items() if v is not ...}])
        recipe = dict(good_recipe(tmp), output=os.path.join(tmp, "run-replay-" + name.replace(" ", "-")))
        recipe["rollout"] = {"replay": os.path.join(tmp, "replay.jsonl"), "prompts_per_step": 1, "generations": 2, "max_new_tokens": 8}
        path = write_recipe(os.path.join(tmp, "replay.yaml"), recipe)
        report.run("replay/" + name, lambda: check(start([args.grpo_train, path], timeout=LIMIT_S, env=ENV), (3,), ["replay.jsonl"]))


def adapters(args, report, tmp):
    changes = {"no tensors file": lambda d: os.remove(os.path.join(d, "adapter_model.safetensors")),
               "no config": lambda d: os.remove(os.path.join(d, "adapter_config.json")),
               "cut": lambda d: edit_bytes(os.path.join(d, "adapter_model.safetensors"), lambda b: b[:-100]),
               "a tensor missing": lambda d: edit_tensors(os.path.join(d, "adapter_model.safetensors"), lambda t: t.pop(sorted(t)[0])),
               "another rank": lambda d: edit_json(os.path.join(d, "adapter_config.json"), lambda c: c.update(r=7)),
               "DoRA": lambda d: edit_json(os.path.join(d, "adapter_config.json"), lambda c: c.update(use_dora=True)),
               "not LoRA": lambda d: edit_json(os.path.join(d, "adapter_config.json"), lambda c: c.update(peft_type="IA3"))}
    for name, change in changes.items():
        adapter = os.path.join(copy_model(tmp), "adapter")
        change(adapter)
        report.run("adapter/" + name, lambda: check(score(args, MODEL, [3, 4, 5], tmp, adapter), (3,), ["adapter"]))


# ---- Random flips --------------------------------------------------------------------------------------------------------------------

def flips(args, report, tmp, count):
    """One bit of one file flipped, many times. Headers and JSON only: a flipped bit of a weight is just another weight."""
    def header_bits(path):
        with open(path, "rb") as f:
            return 8 * (8 + struct.unpack("<Q", f.read(8))[0])
    targets = {"config.json": "score", "model.safetensors": "score", "tokenizer.json": "tokenize", "tokenizer_config.json": "tokenize",
               "adapter/adapter_config.json": "adapter", "adapter/adapter_model.safetensors": "adapter"}
    for file, command in targets.items():
        def attempt():
            rng, accepted = random.Random(file), 0
            source = os.path.join(MODEL, file)
            bits = header_bits(source) if file.endswith("safetensors") else 8 * os.path.getsize(source)
            for _ in range(count):
                model, bit = copy_model(tmp), rng.randrange(bits)
                def flip(d):
                    d[bit // 8] ^= 1 << bit % 8
                edit_bytes(os.path.join(model, file), flip)
                r = tokenize(args, model) if command == "tokenize" else \
                    score(args, model, [3, 4, 5], tmp, os.path.join(model, "adapter") if command == "adapter" else None)
                try:
                    # A flip can turn a dimension into one that fits no budget.
                    accepted += check(r, (0, 3, 4)) == "accepted"
                except Exception as e:
                    raise type(e)(f"bit {bit} of {file}: {e}") from None
            return f"{accepted} of {count} still valid"
        report.run("flip/" + file, attempt)


# ---- Checkpoints ---------------------------------------------------------------------------------------------------------------------

def checkpoints(args, report, tmp, count):
    write_train(tmp)
    run = os.path.join(tmp, "run-saved")
    path = write_recipe(os.path.join(tmp, "saved.yaml"), dict(good_recipe(tmp), output=run))
    run_ok([args.grpo_train, path, "--quiet", "train.steps=2"], timeout=LIMIT_S)
    resume = lambda *extra: start([args.grpo_train, path, "--quiet", "train.steps=3", "--resume", *extra], timeout=LIMIT_S, env=ENV)
    kept = os.path.join(tmp, "kept")
    shutil.copytree(run, kept)

    def restore():
        shutil.rmtree(run)
        shutil.copytree(kept, run)

    def files():
        top = newest_checkpoint(run)
        return sorted(os.path.relpath(os.path.join(d, f), top) for d, _, fs in os.walk(top) for f in fs)

    for file in files():
        for kind, change in {"cut": lambda b: b[:len(b) // 2], "empty": lambda b: bytes(), "flipped": lambda b: b[:-1] + bytes([b[-1] ^ 1])}.items():
            restore()
            edit = os.path.join(newest_checkpoint(run), file)
            def rewrite():
                with open(edit, "rb") as f:
                    data = f.read()
                with open(edit, "wb") as f:
                    f.write(change(data))
                return check(resume(), (3,), ["step-"])
            report.run(f"checkpoint/{file} {kind}", rewrite)
        restore()
        os.remove(os.path.join(newest_checkpoint(run), file))
        # Without its manifest a folder is no checkpoint: an older one, or a fresh start, may take its place.
        report.run(f"checkpoint/{file} missing", lambda: check(resume(), (0, 3) if file == "SHA256SUMS" else (3,)))
    for name, override in {"another rate": "train.lr=0.5", "another rank": "adapter.rank=4", "another seed": "seed=9",
                           "another loss": "train.loss=grpo"}.items():
        restore()
        report.run(f"checkpoint/{name}", lambda: check(resume(override), (2,), [override.split("=")[0]]))
    restore()
    report.run("checkpoint/a folder that is not there", lambda: check(
        start([args.grpo_train, path, "--resume=/nonexistent/step-000001"], timeout=LIMIT_S, env=ENV), (2, 3), ["/nonexistent"]))
    restore()
    report.run("checkpoint/the good one resumes", lambda: check(resume(), (0,)))


def main():
    args = arguments(__doc__, flips=25)
    report = Report()
    for part in (recipes, models, data, adapters):
        if args.only in part.__name__:
            with scratch() as tmp:
                part(args, report, tmp)
    for part in (flips, checkpoints):
        if args.only in part.__name__:
            with scratch() as tmp:
                part(args, report, tmp, args.flips)
    report.end()


if __name__ == "__main__":
    main()
