#!/bin/sh
# Runs every fuzz target for SECONDS (default 600), JOBS of them (default 2) at a time, and ends with a line for each:
#   sh tests/fuzz/run.sh [SECONDS] [TARGET...]
# Builds what is missing with the preset `fuzz`. Logs, findings and grown corpora lie in OUT (default build/fuzz/run). Exit code 1: a finding.
set -eu
cd "$(dirname "$0")/../.."
seconds=${1:-600}
[ $# = 0 ] || shift
[ -f build/fuzz/build.ninja ] || [ -f build/fuzz/Makefile ] || cmake --preset fuzz >/dev/null
cmake --build --preset fuzz -j "${JOBS:-2}" >/dev/null
out=${OUT:-$PWD/build/fuzz/run}
mkdir -p "$out"
[ $# -gt 0 ] || set -- $(ls build/fuzz/tests/fuzz | sed -n 's/^fuzz_\([a-z0-9_]*\)$/\1/p')

# The name of one target; its log ends with "rc CODE".
one='
name=$1 seconds=$2 out=$3
mkdir -p "$out/$name"
rc=0
# A leak check after each input that allocates; a finding is written to the folder and named in the log.
nice -n 19 build/fuzz/tests/fuzz/fuzz_$name -max_total_time=$seconds -rss_limit_mb=2048 -timeout=20 -print_final_stats=1 \
    -artifact_prefix="$out/$name-" "$out/$name" tests/fuzz/corpus/$name >"$out/$name.log" 2>&1 || rc=$?
echo "rc $rc" >>"$out/$name.log"
'
printf '%s\n' "$@" | OMP_NUM_THREADS=1 xargs -P "${JOBS:-2}" -I NAME sh -c "$one" sh NAME "$seconds" "$out"

bad=0
for name in "$@"; do
    rc=$(sed -n 's/^rc //p' "$out/$name.log")
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$out/$name.log")
    cover=$(sed -n 's/.*cov: \([0-9]*\).*/\1/p' "$out/$name.log" | tail -1)
    if [ "$rc" = 0 ]; then found="no finding"; else found="FINDING, see $out/$name.log" bad=1; fi
    printf '%-18s %s s, %s inputs, %s edges: %s\n' "$name" "$seconds" "${runs:-?}" "${cover:-?}" "$found"
done
exit $bad
