#!/usr/bin/env bash
# python3, sqlite3, git and redis-server with the guarded build preloaded and every block guarded: LIBRARY WITNESS RUNS
# COMMANDS. They give what they give without it, and nothing is reported; and that blocks are guarded is seen too.
source tests/programs/preloaded.sh "$@"
requires /usr/bin/python3 sqlite3 git redis-server redis-benchmark redis-cli

/usr/bin/python3 "$here/history.py" > "$scratch/history"
/usr/bin/python3 "$here/commands.py" > "$scratch/commands"
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1 PYTHONHASHSEED=0
export MIMALLOC_GUARDED_SAMPLE_RATE=1 MIMALLOC_GUARDED_SAMPLE_SEED=1

same four bash "$here/guarded.sh" "$scratch/history" "$scratch/commands"
PYTHONMALLOC=malloc same python_malloc /usr/bin/python3 -c \
  'import json; x = {str(i): [str(i)] * 3 for i in range(5000)}; print(len(json.dumps(x)), json.loads(json.dumps(x)) == x)'
seen python3 $((2 * runs))
seen sqlite3 "$runs"
seen git $((6 * runs))
seen redis-server "$runs"

guarded=$(MIMALLOC_SHOW_STATS=1 LD_PRELOAD=$library sqlite3 :memory: 'select 1' 2>&1 | sed -n 's/.*malloc_guarded_count *//p')
((guarded > 100)) || fail "only ${guarded:-no} blocks were guarded"
