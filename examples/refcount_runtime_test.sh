#!/usr/bin/env bash
# The runtime with reference counts: what it prints, in both shapes, and the picture. $1: the program. How long pauses
# are is the machine's business; that dropping at once is one pause, and putting off several, is not.
set -euo pipefail
program=$1
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

fail() {
  echo "FAILED: $*" >&2
  exit 1
}

# pauses NAME: how many there were, by the output.
pauses() { sed -n "s/^$1  *\([0-9][0-9]*\) .*/\1/p" "$scratch/output"; }

for shape in tree list; do
  "$program" --nodes 200000 --shape $shape --cadence 65536 --svg "$scratch/$shape.svg" > "$scratch/output" 2>&1 ||
    fail "$shape: exit code $?: $(< "$scratch/output")"
  [[ "$(pauses 'at once')" == 1 ]] || fail "$shape: $(pauses 'at once') pauses at once"
  # 200,000 nodes of 24 to 32 bytes: 73 times 64 KiB or more; slow paths are 4 KiB apart.
  (($(pauses deferred) > 60)) || fail "$shape: only $(pauses deferred) pauses where it is put off"
  grep -Eq '^longest pause: 1/[0-9]+; total time: [0-9.]+$' "$scratch/output" || fail "$shape: $(< "$scratch/output")"
  [[ "$(grep -c 'pauses by length' "$scratch/output")" == 2 ]] || fail "$shape: two histograms"
  for text in '</svg>' 'at once' deferred 'Dropping 200000 objects'; do
    grep -qF "$text" "$scratch/$shape.svg" || fail "$shape: no '$text' in the picture"
  done
done

# Small ones: nothing to put off, and one object.
for nodes in 1 2 17 100; do
  "$program" -n $nodes > "$scratch/output" 2>&1 || fail "$nodes: exit code $?: $(< "$scratch/output")"
  "$program" -n $nodes -s list --wall > "$scratch/output" 2>&1 || fail "$nodes: exit code $?: $(< "$scratch/output")"
done

# Without gnuplot the figures are printed, and the picture is an error.
code=0
PATH=/nowhere "$program" -n 100 --svg "$scratch/none.svg" > "$scratch/output" 2>&1 || code=$?
[[ $code -eq 1 ]] || fail "exit code $code without gnuplot"
grep -q "^deferred " "$scratch/output" || fail "no figures without gnuplot"
grep -q "gnuplot could not draw '$scratch/none.svg'" "$scratch/output" || fail "the message without gnuplot"

for bad in "--nodes 0" "--nodes x" "--shape ring" "--cadence -1" "--svg it's" "more" "--what"; do
  code=0
  # shellcheck disable=SC2086  # words
  "$program" $bad > "$scratch/output" 2>&1 || code=$?
  [[ $code -eq 64 ]] || fail "exit code $code, not 64, with $bad: $(< "$scratch/output")"
done
