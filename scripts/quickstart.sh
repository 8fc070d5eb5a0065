#!/bin/sh
# From a fresh machine to a trained adapter: installs what is missing, builds, fetches the model, trains on one-digit additions.
# About ten minutes on two cores. Run it again to continue an interrupted run.
set -eu
cd "$(dirname "$0")/.."
sh scripts/install.sh
cmake --preset cpu-release -DTANDEM_TESTS=OFF >/dev/null
cmake --build --preset cpu-release -j "$(nproc)"
sh scripts/get_model.sh
build/cpu-release/grpo_train configs/smollm2_addition.yaml --resume
python3 - <<'PY'
import json
r = [json.loads(line)["reward_mean"] for line in open("runs/smollm2_addition/metrics.jsonl")]
first, last = sum(r[:5]) / 5, sum(r[-5:]) / 5
print(f"mean reward: first five steps {first:.3f}, last five {last:.3f}")
PY
cat <<'EOF'
next: look at runs/smollm2_addition/report.html in a browser, or ask the model:
  build/cpu-release/tandem generate --model models/SmolLM2-135M-Instruct.Q4_1.gguf --adapter runs/smollm2_addition/checkpoints/*/adapter --chat --prompt "What is 7+5? Answer with just the number."
EOF
