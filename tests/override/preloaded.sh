#!/usr/bin/env bash
# preloaded.sh PROGRAM ARGUMENT...: runs the program with the shared library preloaded. Out of Bazel's runfiles.
set -euo pipefail
library=$PWD/mi/libmimalloc.so
[[ -f "$library" ]] || { echo "preloaded: no $library" >&2; exit 1; }
LD_PRELOAD=$library exec "$@"
