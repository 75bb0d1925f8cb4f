#!/bin/bash
# Runs server_bench.sh on the built request server and the shipped documents, from the directory that `bazel run`
# starts programs in. Passes its own arguments on: [PAIRS [SECONDS [CONNECTIONS]]].
exec tests/bench/server_bench.sh examples/request_server examples/data "$@"
