#!/bin/sh
# The tour prints what it says: its output, compared line by line. $1: the program.
set -eu
expected='allocated: hello, world
shared: made by another thread
heap_of: the same heap
visit: 2 blocks
reset: 0 blocks
destroy: done
named: short-lived
delete: still here, in the main heap
deferred_free: freed'
actual=$("$1")
if [ "$actual" != "$expected" ]; then
  printf 'expected:\n%s\n\nprinted:\n%s\n' "$expected" "$actual" >&2
  exit 1
fi
