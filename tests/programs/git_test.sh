#!/usr/bin/env bash
# Git with the library preloaded: a repository made from a stream, cloned, packed anew with threads, checked; the
# objects, the history and the checked-out files are those that git makes without the library.
source tests/programs/preloaded.sh "$@"
requires git python3

/usr/bin/python3 "$here/history.py" > "$scratch/history"
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1

same repository bash "$here/repository.sh" "$scratch/history"
seen git $((10 * runs))
