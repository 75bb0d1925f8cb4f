#!/usr/bin/env bash
# A library built with MI_XMALLOC: who asks for more than there is ends with a message and an abort, whatever
# show_errors says.
#
#   xmalloc_test.sh PROGRAM
set -uo pipefail

readonly program=$1 out=$TEST_TMPDIR/out

fail() {
  echo "FAILED: $1" >&2
  cat "$out" >&2
  exit 1
}

# ends NAME PATTERN: the program prints "asking", a message like the pattern, and is ended by signal 6.
ends() {
  local code=0
  MIMALLOC_SHOW_ERRORS=$3 "$program" "$1" > "$out" 2>&1 || code=$?
  [[ $code -eq 134 ]] || fail "$1: exit code $code, not 134"
  grep -q '^asking$' "$out" || fail "$1: did not begin"
  grep -qE "mimalloc: error: $2" "$out" || fail "$1: no message like \"$2\""
  grep -q "built with MI_XMALLOC" "$out" || fail "$1: the message does not say why"
}

for show in 0 1; do
  ends huge "(no memory for|allocation of) [0-9]+ bytes" "$show"
  ends product "allocation of .* the product overflows" "$show"
done
"$program" fits > "$out" 2>&1 || fail "fits: exit code $?"
[[ "$(cat "$out")" == $'asking\nserved' ]] || fail "fits: was not served"
