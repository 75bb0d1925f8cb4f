#!/usr/bin/env bash
# The Lua interpreter with the library preloaded: tables, strings, closures, coroutines, the collector in both modes.
source tests/programs/preloaded.sh "$@"
requires lua5.4

same churn lua5.4 "$here/churn.lua"
seen lua5.4 "$runs"
