#!/bin/sh
# Tables in a sealed heap: the output compared line by line. $1: the program.
set -eu

expected="the attacker's function runs
circle: 0.00
a write to the table: nothing stops it
circle: 3.00
box: 6.00
a write to the table: Segmentation fault
circle: 3.14
a write to the table: Segmentation fault"
actual=$("$1" 2>&1) || { echo "FAILED: exit code $?: $actual" >&2; exit 1; }
[ "$actual" = "$expected" ] || {
  echo "FAILED: expected:
$expected

printed:
$actual" >&2
  exit 1
}
