# Sourced by the tests of this directory: runs programs with the library preloaded and without, and compares. Every
# preloaded process testifies through witness.c; when the test ends, a process in which malloc was not the library's, a
# message of the library on standard error, or a program that was said to be seen and was not, is a failure.
#
#   source tests/programs/preloaded.sh "$@"     the script's arguments: LIBRARY WITNESS [RUNS]
#
#   requires PROGRAM...           ends the test as failed if a program is not installed (bazel/setup.sh installs them)
#   preloaded COMMAND...          runs it preloaded; its standard error goes to a log that is shown if the test fails
#   same NAME COMMAND...          runs it preloaded and without, each in an empty directory of its own, and compares exit
#                                 codes (0 is wanted) and standard outputs; what the directories hold stays there, as
#                                 $scratch/NAME.plain and $scratch/NAME.preloaded. Runs it preloaded $runs times
#   same_files NAME FILE...       after `same`: these files of the two directories are equal
#   seen PROGRAM [COUNT]          at least COUNT (1) processes of this name were preloaded
#   fail TEXT                     ends the test
#   allowed_messages=REGEX        what the library may say on standard error (nothing)
set -euo pipefail

if (($# < 2)); then
  echo "usage: $0 LIBRARY WITNESS [RUNS]" >&2
  exit 2
fi
library=$(realpath "$1")
witness=$(realpath "$2")
readonly library witness
allowed_messages='^$'
readonly runs=${3:-1}
scratch=$(mktemp -d "${TEST_TMPDIR:-${TMPDIR:-/tmp}}/programs.XXXXXX")
readonly scratch
readonly here=$PWD/tests/programs
export PATH=/usr/bin:/bin:/usr/sbin:/sbin
export HOME=$scratch LC_ALL=C.UTF-8 TZ=UTC
: > "$scratch/witnesses"
: > "$scratch/errors"

fail() {
  echo "FAILED: $1" >&2
  exit 1
}

show_errors() {
  if [[ -s "$scratch/errors" ]]; then
    echo "--- the end of standard error of what was preloaded:" >&2
    tail -n 60 "$scratch/errors" >&2
  fi
}

finish() {
  local code=$?
  trap - EXIT
  if ((code == 0)) && ! grep -q . "$scratch/witnesses"; then
    echo "FAILED: nothing was preloaded" >&2
    code=1
  fi
  if grep -qv ' ours$' "$scratch/witnesses"; then
    grep -v ' ours$' "$scratch/witnesses" | sort | uniq -c >&2
    echo "FAILED: these programs were preloaded, and their malloc is not the library's" >&2
    code=1
  fi
  grep -a 'mimalloc: ' "$scratch/errors" | grep -avE "$allowed_messages" > "$scratch/messages" || true
  if [[ -s "$scratch/messages" ]]; then
    sort "$scratch/messages" | uniq -c | sort -rn | sed -n 1,20p >&2
    echo "FAILED: the library reported errors" >&2
    code=1
  fi
  if ((code == 0)); then
    echo "preloaded: $(sort "$scratch/witnesses" | uniq -c | awk '{ printf "%s%s x %s", (NR > 1 ? ", " : ""), $2, $1 }')"
  else
    show_errors
  fi
  rm -rf "$scratch"
  exit "$code"
}
trap finish EXIT

requires() {
  local program
  for program in "$@"; do
    command -v "$program" > /dev/null || fail "$program is not installed: bazel/setup.sh check"
  done
}

preloaded() {
  env LD_PRELOAD="$library:$witness" PRELOAD_WITNESS="$scratch/witnesses" MIMALLOC_SHOW_ERRORS=1 "$@" \
    2>> "$scratch/errors"
}

same() {
  local name=$1 code run
  shift
  mkdir "$scratch/$name.plain"
  code=0
  (cd "$scratch/$name.plain" && "$@") > "$scratch/$name.expected" 2> "$scratch/$name.plain_errors" < /dev/null || code=$?
  if ((code != 0)); then
    tail -n 20 "$scratch/$name.plain_errors" "$scratch/$name.expected" >&2
    fail "$name: ends with $code even without the library: the test is wrong"
  fi
  [[ -s "$scratch/$name.expected" ]] || fail "$name: prints nothing, so that there is nothing to compare"
  for ((run = 1; run <= runs; run++)); do
    rm -rf "$scratch/$name.preloaded"
    mkdir "$scratch/$name.preloaded"
    code=0
    (cd "$scratch/$name.preloaded" && preloaded "$@") > "$scratch/$name.actual" < /dev/null || code=$?
    ((code == 0)) || fail "$name: ends with $code (run $run of $runs)"
    if ! cmp -s "$scratch/$name.expected" "$scratch/$name.actual"; then
      diff "$scratch/$name.expected" "$scratch/$name.actual" | head -n 20 >&2 || true
      fail "$name: prints something else (run $run of $runs)"
    fi
  done
  echo "$name: the same ($(wc -l < "$scratch/$name.expected") lines, $runs run(s))"
}

same_files() {
  local name=$1 file
  shift
  for file in "$@"; do
    cmp "$scratch/$name.plain/$file" "$scratch/$name.preloaded/$file" || fail "$name: $file differs"
  done
}

seen() {
  local count
  count=$(grep -c "^$1 ours\$" "$scratch/witnesses" || true)
  ((count >= ${2:-1})) || fail "$1 was preloaded in $count processes, not in ${2:-1}: $(sort "$scratch/witnesses" | uniq -c)"
}
