#!/usr/bin/env bash
# Bash with the library preloaded: loops of forks and of programs started, pipes, jobs in the background, arrays and
# strings that grow.
source tests/programs/preloaded.sh "$@"
requires bash sort

same forks bash "$here/forks.sh"
seen bash
seen sort 100
