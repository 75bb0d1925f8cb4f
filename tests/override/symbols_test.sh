#!/usr/bin/env bash
# Compares the names that libmimalloc.so shows with symbols.txt, the reviewed list: a name that is missing breaks
# programs, one too many may take the place of a program's own. After a change that is meant:
#
#   tests/override/symbols_test.sh --list out/bin/mi/libmimalloc.so > tests/override/symbols.txt
set -euo pipefail

# Global names of the library, less those that linkers add.
list() {
  nm --dynamic --defined-only "$1" |
    awk '$2 ~ /[A-Z]/ && $3 !~ /^(_edata|_end|__bss_start|_init|_fini)$/ { print $3 }' | LC_ALL=C sort
}

if [[ "${1:-}" == --list ]]; then
  list "$2"
  exit
fi

list mi/libmimalloc.so > "$TEST_TMPDIR/shown"
[[ -s "$TEST_TMPDIR/shown" ]] || { echo "FAILED: nm shows no names" >&2; exit 1; }
LC_ALL=C sort --check --unique tests/override/symbols.txt || { echo "FAILED: symbols.txt is not sorted" >&2; exit 1; }
if ! diff tests/override/symbols.txt "$TEST_TMPDIR/shown" >&2; then
  echo "FAILED: libmimalloc.so shows other names than symbols.txt (< only in the list, > only in the library)" >&2
  exit 1
fi
