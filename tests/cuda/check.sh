#!/bin/sh
# What a GPU machine can show: the kernels' tests on the device, the same under compute-sanitizer, bits of both engines, a killed and resumed
# run, the two recipes learning, exact beside fast. Takes a bundle made with --tests (scripts/bundle.sh), from the repository's root:
#
#     sh tests/cuda/check.sh build/bundle [OUT]      OUT: a folder for logs (default: a temporary one)
set -eu
bundle=$(cd "$1" && pwd)
out=${2:-$(mktemp -d)}
mkdir -p "$out"
failed=0
report() { # NAME COMMAND...: one line, the log in $out
    name=$1
    shift
    if "$@" >"$out/$name.log" 2>&1; then echo "ok      $name"; else echo "FAILED  $name ($out/$name.log)"; failed=1; fi
}
export TANDEM_TEST_BACKENDS=cuda TANDEM_DEVICE=cuda
tests="fused rows side rms_norm swiglu dropout optimizer quantize rope linear linear_backward linear_fast attention attention_backward sample logprob value families divergence experts"
for t in $tests; do report "$t" "$bundle/bin/test_$t"; done

if command -v compute-sanitizer >/dev/null; then
    for t in $tests; do
        report "memcheck-$t" compute-sanitizer --tool memcheck --error-exitcode 66 "$bundle/bin/test_$t"
        case $t in linear*|dropout) continue ;; esac # thousands of launches: minutes under the slower tools
        report "racecheck-$t" compute-sanitizer --tool racecheck --error-exitcode 66 "$bundle/bin/test_$t"
        report "initcheck-$t" compute-sanitizer --tool initcheck --error-exitcode 66 "$bundle/bin/test_$t"
    done
fi

report resume python3 tests/conformance/resume.py --tandem "$bundle/bin/tandem" --grpo-train "$bundle/bin/grpo_train"
report memory python3 tests/conformance/memory.py --tandem "$bundle/bin/tandem" --grpo-train "$bundle/bin/grpo_train" --recipes qwen3 # the largest takes 48 GiB
if [ -f models/SmolLM2-135M-Instruct.Q4_1.gguf ]; then
    for numerics in exact fast; do
        report "addition-$numerics" "$bundle/bin/grpo_train" configs/smollm2_addition.yaml numerics=$numerics output="$out/addition-$numerics" --quiet
    done
    python3 - "$out" <<'PY' || failed=1
import json, sys
out, ok = sys.argv[1], True
for numerics in ("exact", "fast"):
    r = [json.loads(line) for line in open(f"{out}/addition-{numerics}/metrics.jsonl")]
    reward, worst = [x["reward_mean"] for x in r], max(x["mismatch_max"] for x in r)
    gain = sum(reward[-5:]) / 5 - sum(reward[:5]) / 5
    step = sorted(x["step_s"] for x in r)[len(r) // 2]
    good = gain >= 0.3 and (numerics == "fast" or worst == 0)
    print(f"{'ok     ' if good else 'FAILED '} {numerics}: reward +{gain:.2f}, mismatch_max {worst:.3g}, {step:.3f} s a step")
    ok = ok and good
sys.exit(not ok)
PY
else
    echo "skipped the recipes: scripts/get_model.sh fetches their model"
fi
exit $failed
