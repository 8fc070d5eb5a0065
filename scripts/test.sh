#!/bin/sh
# Installs what is missing, builds and tests: all tests in release, the quick ones under ASan and UBSan, the threaded ones under TSan;
# where nvcc and CUDA sources are there, they are compiled too. Under twenty minutes on two cores.
set -eu
cd "$(dirname "$0")/.."
sh scripts/install.sh
sh scripts/get_model.sh || echo "the model is not there: tests that need it say skipped"

step() {
    printf '\n== %s\n' "$*"
    "$@"
}
step cmake --preset cpu-release
step cmake --build --preset cpu-release -j "$(nproc)"
step ctest --preset cpu-release -j "$(nproc)"

# Sanitizers make everything several times slower; what needs the real model or minutes has run above.
step cmake --preset asan-ubsan
step cmake --build --preset asan-ubsan -j "$(nproc)"
step ctest --preset asan-ubsan -j "$(nproc)" -LE 'model|slow'

step cmake --preset tsan
step cmake --build --preset tsan -j "$(nproc)" --target test_engine test_engine_turns test_trainer test_linear
step ctest --preset tsan -R 'test_engine|test_trainer|test_linear$'

if [ -d kernels/cuda ] && command -v nvcc >/dev/null; then
    step cmake --preset cuda-release
    step cmake --build --preset cuda-release -j "$(nproc)"
fi
echo "all tests passed"
