#!/usr/bin/env bash
# Installs the Debian packages that a purpose needs and that are missing, and says nothing if none is.
#
#   bazel/setup.sh demo|check|ci|bench
#
# demo: the library and the request server; check: the other examples, tests and benchmarks as well; ci: clang as well;
# bench: what some benchmarks use besides.
# Works as root, or through sudo. Installs nothing else and changes nothing else.
set -euo pipefail

demo=(bazel-bootstrap g++ pkg-config libmicrohttpd-dev libcjson-dev)
# What the tests preload the library into.
programs=(git libpython3.11-testsuite lua5.4 nodejs openjdk-17-jdk-headless perl php-cli python3 redis-server redis-tools
  ruby sqlite3 xz-utils zstd)
check=("${demo[@]}" "${programs[@]}" clang-format cmake fakeroot gdb gnuplot-nox googletest libabsl-dev libapr1-dev
  libbenchmark-dev libexpat1-dev libjemalloc2 liblua5.4-dev libmimalloc2.0 libsodium-dev libsqlite3-dev libssl-dev
  libtalloc-dev libtcmalloc-minimal4 make man-db mandoc spin valgrind)
ci=("${check[@]}" clang)
bench=("${check[@]}" strace wrk)

case "${1:-}" in
  demo) packages=("${demo[@]}") ;;
  check) packages=("${check[@]}") ;;
  ci) packages=("${ci[@]}") ;;
  bench) packages=("${bench[@]}") ;;
  *)
    echo "usage: bazel/setup.sh demo|check|ci|bench" >&2
    exit 2
    ;;
esac

if ! command -v dpkg-query > /dev/null || ! command -v apt-get > /dev/null; then
  echo "setup: this is not a Debian system; the build needs Debian 12 with: ${packages[*]}" >&2
  exit 1
fi

# A package of several architectures has a line for each.
is_installed() {
  dpkg-query --show --showformat='${db:Status-Status}\n' "$1" 2> /dev/null | grep -qx installed
}

missing=()
for package in "${packages[@]}"; do
  is_installed "$package" || missing+=("$package")
done
if ((${#missing[@]} == 0)); then
  exit 0
fi

as_root=()
if ((EUID != 0)); then
  if ! command -v sudo > /dev/null; then
    echo "setup: packages are missing and there is no sudo. As root: apt-get install ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT

apt() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive LC_ALL=C \
    apt-get --quiet --yes --option=Dpkg::Use-Pty=0 --option=DPkg::Lock::Timeout=300 "$@" < /dev/null >> "$log" 2>&1
}

# The package lists may be absent or older than the archive: they are fetched when a first try fails.
echo "setup: installing ${missing[*]}" >&2
if ! apt install --no-install-recommends "${missing[@]}"; then
  if ! { apt update && apt install --no-install-recommends "${missing[@]}"; }; then
    cat "$log" >&2
    echo "setup: apt-get could not install: ${missing[*]}" >&2
    exit 1
  fi
fi
