#!/usr/bin/env bash
# life_test.sh [--preload LIBRARY] [--static] PROGRAM: runs the scenarios of life.cc, each in the surroundings that it is
# about. --static: the program needs no shared libraries, so that it starts where no file can be opened. Out of Bazel's
# runfiles.
set -euo pipefail

preload=
if [[ "$1" == --preload ]]; then
  preload=$PWD/$2
  [[ -f "$preload" ]] || { echo "no $preload" >&2; exit 1; }
  shift 2
fi
is_static=
if [[ "$1" == --static ]]; then
  is_static=yes
  shift
fi
program=$PWD/$1
failed=0

# result NAME CODE
result() {
  if (($2 != 0)); then
    echo "FAILED: $1 ends with $2" >&2
    failed=1
  fi
}

# run NAME: in ordinary surroundings.
run() {
  local code=0
  LD_PRELOAD=$preload timeout 120 "$program" "$1" || code=$?
  result "$1" $code
}

# limited OPTION NAME: with ulimit OPTION of 64 MiB.
limited() {
  local code=0
  (
    ulimit "$1" 65536
    LD_PRELOAD=$preload exec "$program" "$2"
  ) || code=$?
  result "$2 under ulimit $1" $code
}

for scenario in exit quick_exit main_thread_ends thread_destructors other_processes signals late_limit late_space_limit \
  overcommit ordinary denied maps_exhausted; do
  run "$scenario"
done
for ((i = 0; i < 20; i++)); do
  run detached_threads
done
limited -v limit
limited -d limit

# No standard streams; what is opened next gets their numbers and must not receive messages.
code=0
LD_PRELOAD=$preload MIMALLOC_SHOW_ERRORS=0 "$program" no_standard_streams 0<&- 1>&- 2>&- || code=$?
result no_standard_streams $code

# No environment.
code=0
env -i ${preload:+"LD_PRELOAD=$preload"} "$program" ordinary || code=$?
result "ordinary without environment" $code

# No files: neither /proc, nor /sys, nor anything else.
[[ -z "$is_static" ]] || run denied_from_the_start

exit $failed
