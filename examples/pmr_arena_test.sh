#!/bin/sh
# The words of a text, counted on two threads in one heap, three times: the output compared line by line. $1: the program.
set -eu
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
i=0
while [ $i -lt 1000 ]; do
  echo "line $i: a word, another word, and number $((i % 10))"
  i=$((i + 1))
done > "$scratch/text"
echo "the last one, xylophone" >> "$scratch/text"
actual=$("$1" "$scratch/text")
# line a word another and number the last one xylophone
expected='round 1: 10 words, "a" on 1000 lines
round 2: 10 words, "a" on 1000 lines
round 3: 10 words, "a" on 1000 lines'
if [ "$actual" != "$expected" ]; then
  printf 'expected:\n%s\n\nprinted:\n%s\n' "$expected" "$actual" >&2
  exit 1
fi
: > "$scratch/empty"
[ "$("$1" "$scratch/empty" | head -1)" = "round 1: 0 words" ]
