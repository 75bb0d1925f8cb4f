#!/usr/bin/env bash
# Builds a fuzz target and the library with clang's libFuzzer, AddressSanitizer and the library's own checks, and runs it
# on a copy of the corpus; inputs that fail, and the grown corpus, are left in a directory.
#
#   run_fuzzer.sh SECONDS DIRECTORY     in the root of the tree: bazel test runs it with fewer seconds
set -euo pipefail

readonly seconds=${1:-20} directory=${2:-$(mktemp -d "${TEST_TMPDIR:-${TMPDIR:-/tmp}}/fuzz.XXXXXX")}
readonly flags=(-g -O1 -fsanitize=fuzzer-no-link,address -fno-omit-frame-pointer -DMI_DEBUG=2 -I. -Imi -pthread)
clang=$(command -v clang-14 || command -v clang) || { echo "clang is not installed: bazel/setup.sh ci" >&2; exit 1; }

mkdir -p "$directory/objects" "$directory/corpus" "$directory/failed"
find tests/fuzz/corpus -type f -exec cp -t "$directory/corpus" {} +
objects=()
for source in mi/*.c mi/heap/*.c mi/internal/*.c; do
  [[ $source != mi/override.c && $source != mi/preload.c ]] || continue
  object=$directory/objects/${source//\//_}.o
  objects+=("$object")
  [[ $object -nt $source ]] || "$clang" -std=c11 "${flags[@]}" -fexceptions -c "$source" -o "$object"
done
"${clang/clang/clang++}" -std=c++17 "${flags[@]}" -fsanitize=fuzzer tests/fuzz/heaps_fuzz.cc "${objects[@]}" -o "$directory/heaps_fuzz"
cd "$directory"
./heaps_fuzz -max_total_time="$seconds" -max_len=3000 -len_control=0 -timeout=60 -rss_limit_mb=4096 -print_final_stats=1 \
  -artifact_prefix=failed/ corpus
