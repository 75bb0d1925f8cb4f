#!/usr/bin/env bash
# first_call_test.sh [--preload LIBRARY] PROGRAM: runs the program once for each call that may be the first, at each time
# that it may come. Out of Bazel's runfiles.
set -euo pipefail

preload=
if [[ "$1" == --preload ]]; then
  preload=$PWD/$2
  [[ -f "$preload" ]] || { echo "no $preload" >&2; exit 1; }
  shift 2
fi
program=$1

calls=$("$program" count)
((calls > 10)) || { echo "FAILED: only $calls calls" >&2; exit 1; }
failed=0
for when in preinit constructor main thread exit destructor; do
  for ((number = 0; number < calls; number++)); do
    code=0
    LD_PRELOAD=$preload timeout 60 "$program" "$when" "$number" || code=$?
    if ((code != 0)); then
      echo "FAILED: $program $when $number ends with $code" >&2
      failed=1
    fi
  done
done
exit $failed
