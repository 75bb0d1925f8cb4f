#!/bin/sh
# Heaps in a static buffer, a file and shared memory: the output compared line by line, and the file that stays behind.
# $1: the program.
set -eu
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

fail() {
  echo "FAILED: $*" >&2
  exit 1
}

expected='static buffer: full: yes, ENOMEM
static buffer: after mi_heap_reset as much again: yes
file: another process reads: written second
file: another process reads: written first
shared memory: another process reads: a note in shared memory
shared memory: another process reads: another, after mi_heap_reset'
# The buffer is filled until there is no memory: debug builds print that, unless they are told not to.
actual=$(MIMALLOC_SHOW_ERRORS=0 "$1" "$scratch/file" 2>&1) || fail "exit code $?: $actual"
[ "$actual" = "$expected" ] || fail "expected:
$expected

printed:
$actual"

# The notes are in the file, whose header says where the first is.
[ "$(stat -c %s "$scratch/file")" -eq $((16 << 20)) ] || fail "the size of the file"
first=$(od -A n -t u8 -N 8 "$scratch/file" | tr -d ' ')
[ "$(tail -c "+$((first + 9))" "$scratch/file" | head -c 14)" = "written second" ] || fail "the first note is not at $first"

# A file that exists is not overwritten.
if "$1" "$scratch/file" >"$scratch/again" 2>&1; then fail "the file was overwritten"; fi
grep -q "File exists" "$scratch/again" || fail "the message: $(cat "$scratch/again")"
