#!/usr/bin/env bash
# Ruby with the library preloaded: strings, hashes, collection under stress, compaction, threads, forks.
source tests/programs/preloaded.sh "$@"
requires ruby

same churn ruby "$here/churn.rb"
seen ruby "$runs"
