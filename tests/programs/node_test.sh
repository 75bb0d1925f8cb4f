#!/usr/bin/env bash
# Node with the library preloaded: workers that exchange buffers and objects, compression and hashing on its thread
# pool, an HTTP server that talks to itself, streams, child processes.
source tests/programs/preloaded.sh "$@"
requires nodejs

same workers nodejs "$here/workers.js"
same server nodejs "$here/server.js"
seen nodejs $((2 * runs))
