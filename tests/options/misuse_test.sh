#!/usr/bin/env bash
# Runs misuse.c, case by case, and asserts that the library stops it with exactly the message that is due, in every run.
#
#   misuse_test.sh PROGRAM RUNS KIND     KIND: hardened (a heap of the normal build), secure (the secure build), or
#                                        secure1, secure2, secure3 (its lower levels: a few cells)
set -uo pipefail

readonly program=$1 runs=$2 kind=$3
failures=0
cells=0

fail() {
  echo "FAILED: $1" >&2
  sed 's/^/    /' "$TEST_TMPDIR/said" >&2
  failures=$((failures + 1))
}

# stops NAME SIZE WHO: aborts, and the last line that it says is what the program printed.
stops() {
  local expected got run
  cells=$((cells + 1))
  for ((run = 0; run < runs; run++)); do
    got=0
    # In a shell of its own, which says nothing of how the program ended.
    bash -c '"$@" > "$0.due" 2> "$0.said"' "$TEST_TMPDIR/run" "$program" "$@" 2> /dev/null || got=$?
    mv "$TEST_TMPDIR/run.said" "$TEST_TMPDIR/said"
    expected=$(tail -n 1 "$TEST_TMPDIR/run.due")
    if [[ $got -ne 134 ]]; then
      fail "$*: ended with $got instead of an abort; due was: $expected"
      return
    fi
    if ! grep -qE "^mimalloc: corruption: $expected" <(tail -n 1 "$TEST_TMPDIR/said"); then
      fail "$*: due was: $expected"
      return
    fi
  done
}

# faults NAME SIZE: ends by a segmentation fault.
faults() {
  local got run
  cells=$((cells + 1))
  for ((run = 0; run < runs; run++)); do
    got=0
    bash -c '"$@" > "$0.due" 2> "$0.said"' "$TEST_TMPDIR/run" "$program" "$@" same 2> /dev/null || got=$?
    mv "$TEST_TMPDIR/run.said" "$TEST_TMPDIR/said"
    [[ $got -eq 77 ]] && return
    if [[ $got -ne 139 ]]; then
      fail "$*: ended with $got instead of a fault"
      return
    fi
  done
}

# misses NAME SIZE: is not noticed.
misses() {
  local got=0
  cells=$((cells + 1))
  bash -c '"$@" > "$0.due" 2> "$0.said"' "$TEST_TMPDIR/run" "$program" "$@" same 2> /dev/null || got=$?
  mv "$TEST_TMPDIR/run.said" "$TEST_TMPDIR/said"
  [[ $got -eq 77 || $got -eq 3 ]] || fail "$*: ended with $got, and should not be noticed at this level"
}

finish() {
  echo "$cells cells of $runs runs, $failures failures"
  ((failures == 0))
  exit
}

if [[ $kind == secure[123] ]]; then
  level=${kind#secure}
  for name in double_free free_of_given_back interior_free unaligned_free sized_free realloc_of_freed usable_of_interior; do
    for size in 100 65536 300000; do
      for who in same other; do stops "$name" "$size" "$who"; done
    done
  done
  stops foreign_free 100 same
  # Guards behind blocks alone in their pages from level 2 on, behind all pages from level 3 on; padding at level 4.
  for size in 300000 5000000; do
    if ((level >= 2)); then faults overflow_64k "$size"; else misses overflow_64k "$size"; fi
  done
  for size in 100 8192 20000; do
    if ((level >= 3)); then faults overflow_64k "$size"; else misses overflow_64k "$size"; fi
  done
  misses overflow_1 100
  misses overflow_1 300000
  finish
fi

readonly sizes="16 48 100 1000 8192 65536 300000 4194304 67108864"
names="double_free free_of_given_back interior_free unaligned_free sized_free realloc_of_freed realloc_of_interior
  usable_of_freed usable_of_interior"
for name in $names; do
  for size in $sizes; do
    for who in same other dead; do stops "$name" "$size" "$who"; done
  done
done
# The secure build has padding where a class has room for it, and only there.
roomy=$sizes
[[ $kind == secure ]] && roomy="100 1000 300000"
for name in overflow_1 overflow_8; do
  for size in $roomy; do
    for who in same other dead; do stops "$name" "$size" "$who"; done
  done
done
# A guard is less than 64 KiB behind every block of every class.
for size in $sizes 10000 14000 20000 30000 40000 50000 60000 63000; do
  faults overflow_64k "$size"
  faults overflow_1m "$size"
done
faults aligned_overflow_64k 100000
faults aligned_overflow_64k 300000
if [[ $kind == secure ]]; then
  for name in stack_free global_free foreign_free noncanonical_free realloc_of_stack; do
    for who in same other dead; do stops "$name" 100 "$who"; done
  done
fi
finish
