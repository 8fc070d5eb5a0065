#!/bin/sh
# Packs the built commands for a machine that has a driver (or none) and nothing else of ours: build/bundle/ and build/bundle.tar.gz.
# Every shared library they need comes along in lib/, but for glibc's and the driver's; executables are linked to look there first ($ORIGIN/../lib),
# wherever the folder stands.
#
#     scripts/bundle.sh [--build DIR] [--out DIR] [--tests] [--strip] [--no-cublas]
#
#   --tests      also the executables of tests/kernels, tests/infer and tests/train with their goldens, and run_tests.sh, which runs them
#   --strip      leave out debug information
#   --no-cublas  leave out libcublas and libcublasLt (some 500 MB): the target has the CUDA toolkit's
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
build=$root/build
out=
tests=0 strip=0 cublas=1
while [ $# -gt 0 ]; do
    case $1 in
    --build) build=$2; shift ;;
    --out) out=$2; shift ;;
    --tests) tests=1 ;;
    --strip) strip=1 ;;
    --no-cublas) cublas=0 ;;
    *) echo "bundle.sh: unknown option $1" >&2; sed -n '6,10s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
    shift
done
build=$(cd "$build" && pwd)
out=${out:-$build/bundle}

rm -rf "$out"
mkdir -p "$out/bin" "$out/lib"

# take FILE...: executables into bin/
take() {
    for file; do
        [ -x "$file" ] || { echo "bundle.sh: $file is not built" >&2; exit 1; }
        cp "$file" "$out/bin/"
    done
}
take "$build/grpo_train" "$build/tandem"
if [ $tests = 1 ]; then
    for folder in kernels infer train; do
        for source in "$root/tests/$folder"/test_*.c; do
            take "$build/tests/$(basename "$source" .c)"
        done
    done
    mkdir -p "$out/tests/golden"
    cp -R "$root/tests/golden/data" "$out/tests/golden/"
fi

# Libraries that the system or the driver brings.
system='^(linux-vdso|ld-linux.*|libc|libm|libdl|librt|libpthread|libresolv|libutil|libcuda|libnvidia-.*)\.so'
needed() {
    for file in "$out"/bin/*; do ldd "$file"; done | awk '$2 == "=>" && $3 == "not" { print "missing " $1; next } $2 == "=>" { print $1, $3 }' | sort -u
}
needed | while read -r name path; do
    if [ "$name" = missing ]; then
        case $path in
        libcuda.so*) continue ;;
        esac
        echo "bundle.sh: $path is needed and not found" >&2
        exit 1
    fi
    echo "$name" | grep -Eq "$system" && continue
    case $name in
    libcublas*) [ $cublas = 1 ] || continue ;;
    esac
    cp -L "$path" "$out/lib/$name"
done

if [ $strip = 1 ]; then
    for file in "$out"/bin/* "$out"/lib/*; do
        case $file in
        */libcublas*) ;; # no debug information, and it is huge
        *) strip --strip-unneeded "$file" ;;
        esac
    done
fi

if [ $tests = 1 ]; then
    cat >"$out/run_tests.sh" <<'EOF'
#!/bin/sh
# Runs every test, or those named (test_linear ...); TANDEM_TEST_BACKENDS=cuda narrows the kernels' tests to the device.
cd "$(dirname "$0")" || exit 1
failed=0
if [ $# -eq 0 ]; then
    for file in bin/test_*; do set -- "$@" "$(basename "$file")"; done
fi
for name; do
    "bin/$name"
    code=$?
    case $code in
    0) echo "ok $name" ;;
    77) echo "skipped $name" ;;
    *) echo "FAILED $name ($code)"; failed=1 ;;
    esac
done
exit $failed
EOF
    chmod +x "$out/run_tests.sh"
fi

tar -C "$(dirname "$out")" -czf "$out.tar.gz" "$(basename "$out")"
du -sh "$out" "$out.tar.gz"
