"""What the conformance scripts share: starting the commands, reading safetensors, comparing, reporting. Standard library only."""
import argparse
import contextlib
import json
import math
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MODELS = os.path.join(ROOT, "tests", "golden", "data", "models")
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TIMING = ("rollout_s", "environment_s", "reward_s", "judge_s", "train_s", "flip_s", "step_s", "rollout_tokens_per_s", "train_tokens_per_s", "memory_peak_bytes")


# On a machine that others use too, a thread that spins at a barrier takes the time of the thread it waits for.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")


class Failed(Exception):
    pass


class Report:
    """Runs checks by name and remembers whether one failed."""

    def __init__(self):
        self.failed, self.done = [], 0

    def run(self, name, function, *args):
        begin = time.monotonic()
        try:
            note = function(*args) or ""
            print(f"ok    {name}  {note}  [{time.monotonic() - begin:.1f} s]", flush=True)
        except Failed as e:
            self.failed.append(name)
            print(f"FAIL  {name}  {e}", flush=True)
        self.done += 1

    def end(self):
        print(f"{self.done - len(self.failed)} of {self.done} passed" + (": failed " + ", ".join(self.failed) if self.failed else ""))
        sys.exit(1 if self.failed or not self.done else 0)


def expect(condition, message):
    if not condition:
        raise Failed(message)


def arguments(description, **extra):
    p = argparse.ArgumentParser(description=description)
    p.add_argument("--tandem", required=True)
    p.add_argument("--grpo-train", required=True)
    p.add_argument("--only", default="", help="run the checks whose name contains this")
    for name, default in extra.items():
        p.add_argument("--" + name.replace("_", "-"), default=default, type=type(default))
    args = p.parse_args()
    args.tandem, args.grpo_train = os.path.abspath(args.tandem), os.path.abspath(args.grpo_train)
    return args


@contextlib.contextmanager
def scratch():
    path = tempfile.mkdtemp(prefix="tandem-conformance-")
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


class Result:
    def __init__(self, argv, code, out, err, seconds):
        self.argv, self.code, self.out, self.err, self.seconds = argv, code, out, err, seconds

    def describe(self):
        return f"exit {self.code}: {' '.join(self.argv[:6])} ...: {self.err.strip()[-400:]}"


def start(argv, timeout=120, stdin=None, env=None, cwd=None):
    """Never raises: a command that hangs is killed and has code 'timeout'."""
    begin = time.monotonic()
    full = dict(os.environ, **(env or {}))
    try:
        p = subprocess.run(argv, input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout, env=full, cwd=cwd)
        code, out, err = p.returncode, p.stdout, p.stderr
    except subprocess.TimeoutExpired as e:
        code, out, err = "timeout", e.stdout or b"", e.stderr or b""
    return Result(argv, code, out.decode("utf-8", "replace"), err.decode("utf-8", "replace"), time.monotonic() - begin)


def run_ok(argv, **kw):
    r = start(argv, **kw)
    expect(r.code == 0, r.describe())
    return r


# ---- Files ---------------------------------------------------------------------------------------------------------------------------

def read_json(path):
    with open(path, encoding="utf-8") as f:
        return json.load(f)


def read_jsonl(path):
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def write_jsonl(path, rows):
    with open(path, "w", encoding="utf-8") as f:
        for row in rows:
            f.write(json.dumps(row) + "\n")


def write_text(path, text):
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)


def read_safetensors(path):
    """name -> (dtype, shape, bytes)"""
    with open(path, "rb") as f:
        data = f.read()
    length, = struct.unpack_from("<Q", data)
    header = json.loads(data[8:8 + length])
    header.pop("__metadata__", None)
    body = memoryview(data)[8 + length:]
    return {k: (v["dtype"], v["shape"], bytes(body[v["data_offsets"][0]:v["data_offsets"][1]])) for k, v in header.items()}


def write_safetensors(path, tensors):
    header, offset = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header).encode()
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + b"".join(t[2] for t in tensors.values()))


def values(tensor):
    """The numbers of a tensor as a list of floats."""
    dtype, _, data = tensor
    if dtype == "BF16":
        words = struct.unpack(f"<{len(data) // 2}H", data)
        return list(struct.unpack(f"<{len(words)}f", struct.pack(f"<{len(words)}I", *(w << 16 for w in words))))
    code, size = {"F32": ("f", 4), "F16": ("e", 2)}[dtype]
    return list(struct.unpack(f"<{len(data) // size}{code}", data))


# ---- Figures -------------------------------------------------------------------------------------------------------------------------

def flat(rows):
    """All log-probabilities of a score file; each row begins with a null."""
    for row in rows:
        expect(row[0] is None and all(isinstance(x, (int, float)) and math.isfinite(x) for x in row[1:]), f"not log-probabilities: {row[:5]}")
    return [x for row in rows for x in row[1:]]


def mean(xs):
    return math.fsum(xs) / len(xs)


def mean_abs_difference(a, b):
    return mean([abs(x - y) for x, y in zip(a, b)])


def correlation(a, b):
    ma, mb = mean(a), mean(b)
    num = math.fsum((x - ma) * (y - mb) for x, y in zip(a, b))
    return num / math.sqrt(math.fsum((x - ma) ** 2 for x in a) * math.fsum((y - mb) ** 2 for y in b))


def deviation(a):
    m = mean(a)
    return math.sqrt(math.fsum((x - m) ** 2 for x in a) / (len(a) - 1))


def norm(xs):
    return math.sqrt(math.fsum(x * x for x in xs))


# ---- Recipes -------------------------------------------------------------------------------------------------------------------------

def adapter_section(model):
    """The recipe's adapter section that starts from the golden adapter of a model."""
    config = read_json(os.path.join(model, "adapter", "adapter_config.json"))
    return {"rank": config["r"], "alpha": float(config["lora_alpha"]), "dropout": 0.0, "init": os.path.join(model, "adapter"),
            "targets": config["target_modules"], "rslora": config["use_rslora"]}


def write_recipe(path, sections):
    """JSON is YAML's flow style."""
    write_text(path, "\n".join(f"{k}: {json.dumps(v)}" for k, v in sections.items()) + "\n")
    return path


def newest_checkpoint(run):
    folder = os.path.join(run, "checkpoints")
    steps = sorted(d for d in os.listdir(folder) if d.startswith("step-")) if os.path.isdir(folder) else []
    return os.path.join(folder, steps[-1]) if steps else None


def metrics_of(run):
    return read_jsonl(os.path.join(run, "metrics.jsonl"))


def without_timing(rows):
    return [{k: v for k, v in row.items() if k not in TIMING} for row in rows]
