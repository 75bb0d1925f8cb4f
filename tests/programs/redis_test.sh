#!/usr/bin/env bash
# redis-server with the library preloaded, with threads for input and output, under redis-benchmark with threads of its
# own; then a known set of data, whose digest must be what it is without the library: after snapshots and rewrites of
# the log made by forked children while clients write, after frees in the background, after a restart from each file.
source tests/programs/preloaded.sh "$@"
requires redis-server redis-benchmark redis-cli python3

/usr/bin/python3 "$here/commands.py" > "$scratch/commands"
same server bash "$here/redis.sh" "$scratch/commands"
seen redis-server $((3 * runs))
seen redis-benchmark $((2 * runs))
