#!/usr/bin/env bash
# The sqlite3 shell with the library preloaded: a script that makes and queries a million rows.
source tests/programs/preloaded.sh "$@"
requires sqlite3

same rows sqlite3 -batch -bail table.db ".read $here/rows.sql"
seen sqlite3 "$runs"
