#!/usr/bin/env bash
# Python with the library preloaded, every object from malloc (PYTHONMALLOC=malloc), running suites of its own tests:
# LIBRARY WITNESS RUNS SUITE... Each case of a suite must have run, and none may fail.
source tests/programs/preloaded.sh "$@"
requires /usr/bin/python3
readonly suites=("${@:4}")
# The suites ask for absurd sizes, and want to be refused.
allowed_messages='no memory for [0-9]{15,} bytes|larger than PTRDIFF_MAX'

export PYTHONDONTWRITEBYTECODE=1 PYTHONMALLOC=malloc

# Cases that become another user, which not even root may in a sandbox, and which say nothing about memory.
ignored=(-i '*.POSIXProcessTestCase.test_user' -i '*.POSIXProcessTestCase.test_group')

# run SUITE RESULTS [COMMAND...]: runs it in an empty directory, through COMMAND; in $code how it ended.
run() {
  local suite=$1 results=$2
  shift 2
  mkdir "$scratch/work"
  code=0
  (cd "$scratch/work" && "$@" /usr/bin/python3 -m test "${ignored[@]}" --junit-xml="$results" "$suite") \
    > "$scratch/output" < /dev/null || code=$?
  rm -r "$scratch/work"
}

for suite in "${suites[@]}"; do
  sources=/usr/lib/python3.11/test/$suite
  [[ -e $sources || -e $sources.py ]] || fail "$suite is not installed (libpython3.11-testsuite): bazel/setup.sh check"
  if grep -qs '^def test_main' "$sources.py"; then
    # The suite makes its cases as it runs: what they are is learnt without the library.
    run "$suite" "$scratch/cases" 2> "$scratch/plain_errors"
  else
    /usr/bin/python3 -m test "${ignored[@]}" --list-cases "$suite" > "$scratch/cases"
  fi
  for ((number = 1; number <= runs; number++)); do
    run "$suite" "$scratch/results" preloaded
    if ((code != 0)); then
      tail -n 60 "$scratch/output" >&2
      fail "$suite ends with $code (run $number of $runs)"
    fi
    /usr/bin/python3 "$here/python_results.py" "$suite" "$scratch/cases" "$scratch/results" || fail "$suite: results"
  done
done
seen python3 $((runs * ${#suites[@]}))
