#!/usr/bin/env bash
# Runs a program that runs over guarded blocks, or uses them after they were freed (fault.c), and asserts what the report
# says, how the program ends, and that what is not a guarded block's business is left alone.
#
#   fault_test.sh FAULT HEAP      HEAP: the name that the report gives the heap, as a regular expression
set -uo pipefail

readonly fault=$1 heap=$2
failures=0
cases=0
export MIMALLOC_GUARDED_SAMPLE_RATE=1

fail() {
  echo "FAILED: $1" >&2
  sed 's/^/    /' "$TEST_TMPDIR/out" >&2
  failures=$((failures + 1))
}

# ends CODE LINES -- ARGUMENT...: `fault ARGUMENT...` ends with this code, and says these lines and nothing else: a
# pattern (extended regular expression) for each, the frames of traces left out.
ends() {
  local code=$1 lines=() got=0 at=0 line
  shift
  while [[ $1 != -- ]]; do
    lines+=("$1")
    shift
  done
  shift
  cases=$((cases + 1))
  "$fault" "$@" > "$TEST_TMPDIR/out" 2>&1 || got=$?
  if [[ $got -ne $code ]]; then
    fail "fault $*: exit code $got, not $code"
    return
  fi
  while IFS= read -r line; do
    if ((at >= ${#lines[@]})) || [[ ! $line =~ ^${lines[at]}$ ]]; then
      fail "fault $*: \"$line\" is not like \"${lines[at]:-}\""
      return
    fi
    at=$((at + 1))
  done < <(grep -v '^mimalloc:     #' "$TEST_TMPDIR/out")
  ((at == ${#lines[@]})) || fail "fault $*: no line like \"${lines[at]}\""
}

# trace TITLE FUNCTION: the trace under this title begins in the function.
trace() {
  local frame
  frame=$(grep -A1 -E "^mimalloc:   $1" "$TEST_TMPDIR/out" | sed -n 's/^mimalloc:     #0 0x[0-9a-f]* .*+\(0x[0-9a-f]*\)$/\1/p')
  [[ "$(addr2line -f -e "$fault" "${frame:-0}" | head -n 1)" == "$2" ]] ||
    fail "the trace \"$1\" begins in $(addr2line -f -e "$fault" "${frame:-0}" | head -n 1), not in $2"
}

readonly by='mimalloc:   by thread [1-9][0-9]*:'
readonly allocated='mimalloc:   allocated by thread [1-9][0-9]*:'
readonly freed='mimalloc:   freed by thread [1-9][0-9]*:'
report() { echo "mimalloc: error: $1: $2 at 0x[0-9a-f]+, $3 the block at 0x[0-9a-f]+ of $4 bytes \\(heap $heap\\)"; }

# --- each bug in each place ---------------------------------------------------------------------------------------

for place in here thread thread_start signal; do
  for size in 16 112 4096 300000 5000000; do
    ends 139 "$(report overflow write "0 bytes after" $size)" "$by" "$allocated" -- overflow $place $size
    trace "by" write_at
    trace "allocated" allocate
    ends 139 "$(report "use after free" write "4 bytes inside" $size)" "$by" "$allocated" "$freed" -- use_after_free $place $size
    trace "by" write_at
    trace "allocated" allocate
    trace "freed" release
    MIMALLOC_GUARDED_BEFORE=1 ends 139 "$(report underflow read "1 bytes before" $size)" "$by" "$allocated" -- underflow $place $size
    trace "by" read_at
  done
done
MIMALLOC_GUARDED_PRECISE=1 ends 139 "$(report overflow write "0 bytes after" 101)" "$by" "$allocated" -- overflow here 101
ends 139 "$(report "use after free" write "4 bytes inside" 112)" "$by" "$allocated" "$freed" -- use_after_free freed_elsewhere
[[ "$(grep -cE 'allocated by|freed by' "$TEST_TMPDIR/out")" == "$(grep -oE '(allocated|freed) by thread [0-9]+' "$TEST_TMPDIR/out" | sort -u | wc -l)" ]] ||
  fail "freed by the thread that allocated"
ends 139 "$(report "use after free" read "0 bytes inside" 112 | sed -E 's/heap [^)]*/heap ("precious"|0x[0-9a-f]+)/')" "$by" "$allocated" \
  'mimalloc:   freed with its heap by thread [1-9][0-9]*:' -- use_after_destroy here
for place in overflow:"0 bytes after": use_after_free:"4 bytes inside":"$freed"; do
  IFS=: read -r bug where more <<< "$place"
  ends 0 "$(report "${bug//_/ }" write "$where" 112)" "$by" "$allocated" ${more:+"$more.*"} "the child ended by signal 11" -- "$bug" child
done

# --- what is none of its business -----------------------------------------------------------------------------------

ends 139 -- null here
ends 139 -- sent here
MIMALLOC_GUARDED_REPORT=0 ends 139 -- overflow here

# --- the program's handlers --------------------------------------------------------------------------------------------

overflow=("$(report overflow write "0 bytes after" 112)" "$by" "$allocated")
readonly overflow
for kind in info plain altstack normal_stack; do
  ends 7 "${overflow[@]}" "the program's handler" -- handler $kind
done
ends 7 "the program's handler" -- handler later
ends 139 "${overflow[@]}" "the program's handler" -- handler reset
ends 139 ignored "${overflow[@]}" -- handler ignored
ends 0 "${overflow[@]}" "${overflow[@]}" survived -- handler jumps

# --- guards of other kinds -----------------------------------------------------------------------------------------

ends 139 "mimalloc: warning: no more guarded blocks: 8192 have guards .*" "7[0-9]{3} of 20000" \
  "$(report "use after free" write "4 bytes inside" 100)" "$by" "$allocated" "$freed" -- old_kernel
cases=$((cases + 1))
"$fault" locked > "$TEST_TMPDIR/out" 2>&1
grep -qE '^mimalloc: error: use after free|^not allowed$' "$TEST_TMPDIR/out" || fail "fault locked"
ends 0 255 -- quarantine
MIMALLOC_GUARDED_QUARANTINE=1000 ends 0 999 -- quarantine
MIMALLOC_GUARDED_QUARANTINE=10 ends 0 9 -- quarantine
MIMALLOC_GUARDED_QUARANTINE=0 ends 0 0 -- quarantine

if ((failures > 0)); then
  echo "$failures of $cases cases failed" >&2
  exit 1
fi
echo "$cases cases"
