#!/usr/bin/env bash
# The same seed guards the same allocations of each of four threads in 20 runs; another seed, and no seed, others.
set -euo pipefail

readonly sampled=$1
export MIMALLOC_GUARDED_SAMPLE_RATE=100

fail() {
  echo "FAILED: $1" >&2
  exit 1
}

for seed in 1 7 123456789; do
  MIMALLOC_GUARDED_SAMPLE_SEED=$seed "$sampled" > "$TEST_TMPDIR/$seed"
  for run in {2..20}; do
    MIMALLOC_GUARDED_SAMPLE_SEED=$seed "$sampled" | cmp - "$TEST_TMPDIR/$seed" || fail "seed $seed: run $run differs"
  done
done
! cmp -s "$TEST_TMPDIR/1" "$TEST_TMPDIR/7" || fail "two seeds, the same blocks"
"$sampled" > "$TEST_TMPDIR/first"
! "$sampled" | cmp -s - "$TEST_TMPDIR/first" || fail "the same blocks without a seed"

# 20,000 allocations each: 200 guarded ones, and a deviation of 14.1.
for seed in 1 7 123456789; do
  [[ "$(sort -u -t: -k2 "$TEST_TMPDIR/$seed" | wc -l)" == 4 ]] || fail "seed $seed: threads with the same blocks"
  while IFS=: read -r thread numbers; do
    count=$(wc -w <<< "$numbers")
    ((count > 157 && count < 243)) || fail "seed $seed, thread $thread: $count guarded blocks"
  done < "$TEST_TMPDIR/$seed"
done
MIMALLOC_GUARDED_SAMPLE_RATE=1 "$sampled" > "$TEST_TMPDIR/all"
grep -q '^0: 0 1 2 3 4 5' "$TEST_TMPDIR/all" || fail "at rate 1 the first allocation is not guarded"
