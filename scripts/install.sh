#!/bin/sh
# Installs what building and testing need, where it is missing (Debian 12, Ubuntu 24.04). Run by quickstart.sh and test.sh.
set -eu
packages="gcc g++ cmake ninja-build pkg-config git libyaml-dev libjansson-dev libpcre2-dev libutf8proc-dev libjemalloc-dev libcmocka-dev python3 python3-pip python3-venv xz-utils ca-certificates"
[ "${1:-}" != fuzz ] || packages="$packages clang libclang-rt-dev libomp-dev"
missing=
for p in $packages; do
    dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing="$missing $p"
done
[ -n "$missing" ] || exit 0
as_root=
[ "$(id -u)" = 0 ] || as_root=sudo
echo "installing:$missing"
$as_root env DEBIAN_FRONTEND=noninteractive sh -c "apt-get update -qq && apt-get install -y -qq --no-install-recommends $missing" >/dev/null || {
    echo "error: cannot install packages (apt-get): install by hand:$missing" >&2
    exit 1
}
