#!/usr/bin/env bash
# A program of the user under ThreadSanitizer: correct hand-over of blocks between threads gives no report, real races
# on blocks do. The order of the two accesses is any; the report is the same.
#
#   tsan_test.sh RACE
set -uo pipefail

readonly race=$1 out=$TEST_TMPDIR/out
export TSAN_OPTIONS=exitcode=66

fail() {
  echo "FAILED: $1" >&2
  cat "$out" >&2
  exit 1
}

"$race" handover > "$out" 2>&1 || fail "handover: exit code $?"
[[ "$(cat "$out")" == done ]] || fail "handover: a report"

for kind in blocks freed; do
  code=0
  "$race" "$kind" > "$out" 2>&1 || code=$?
  [[ $code -eq 66 ]] || fail "$kind: exit code $code, not 66"
  grep -q "WARNING: ThreadSanitizer: data race" "$out" || fail "$kind: no report"
  grep -q "write_raced" "$out" || fail "$kind: the report does not name the writer"
done
grep -q "mi_free" "$out" || fail "freed: the report does not name the free"
