#!/usr/bin/env bash
# Perl with the library preloaded: hashes, sorting, regular expressions, closures, forks, and interpreter threads.
source tests/programs/preloaded.sh "$@"
requires perl

same churn perl "$here/churn.pl"
same threads perl "$here/threads.pl"
seen perl $((2 * runs))
