#!/usr/bin/env bash
# The same program, 20 runs: every heap's deferred_free is called at the same allocations with the same budgets, however
# long the program slept and wherever the system put it.
set -euo pipefail

program=$1
first=$("$program")
calls=$(sed -n 's/heap 0: \([0-9]*\) calls.*/\1/p' <<< "$first")
((calls > 100)) || { echo "FAILED: heap 0 was called $calls times" >&2; exit 1; }
for run in {2..20}; do
  result=$("$program" sleep)
  [[ "$result" == "$first" ]] || { echo "FAILED: run $run differs:"; diff <(echo "$first") <(echo "$result"); exit 1; } >&2
done
echo "$first"
