#!/usr/bin/env bash
# Compares the names that libmimalloc.so shows with symbols.txt, the reviewed list: a name that is missing breaks
# programs, one too many may take the place of a program's own. After a change that is meant:
#
#   nm -D --defined-only out/bin/mi/libmimalloc.so | awk '{print $3}' | LC_ALL=C sort > tests/override/symbols.txt
set -euo pipefail

shown=$TEST_TMPDIR/shown
nm --dynamic --defined-only mi/libmimalloc.so | awk '{print $3}' | LC_ALL=C sort > "$shown"
[[ -s "$shown" ]] || { echo "FAILED: nm shows no names" >&2; exit 1; }
LC_ALL=C sort --check --unique tests/override/symbols.txt || { echo "FAILED: symbols.txt is not sorted" >&2; exit 1; }

missing=$(LC_ALL=C comm -13 "$shown" tests/override/symbols.txt)
added=$(LC_ALL=C comm -23 "$shown" tests/override/symbols.txt)
[[ -z "$missing" ]] || echo "in symbols.txt, but not shown by libmimalloc.so:" $missing >&2
[[ -z "$added" ]] || echo "shown by libmimalloc.so, but not in symbols.txt:" $added >&2
[[ -z "$missing$added" ]]
