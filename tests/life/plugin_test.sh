#!/usr/bin/env bash
# Runs plugin_host with libraries that bring the allocator with them: in a program without it, with it preloaded, and with
# it linked in. Out of Bazel's runfiles.
set -euo pipefail
cd tests/life

failed=0

# run NAME=VALUE... PROGRAM ARGUMENT...
run() {
  local code=0
  timeout 120 env "$@" || code=$?
  if ((code != 0)); then
    echo "FAILED with $code: $*" >&2
    failed=1
  fi
}

preload=LD_PRELOAD=$PWD/../../mi/libmimalloc.so
[[ -f "${preload#*=}" ]] || { echo "no ${preload#*=}" >&2; exit 1; }

# Open names: a preloaded library's mi_malloc takes the place of the plugin's. Own names: there are two allocators. With
# malloc: two that both mean to be malloc.
for plugin in plugin_open.so plugin_own.so plugin_malloc.so; do
  run ./plugin_host threads "$PWD/$plugin"
  run "$preload" ./plugin_host threads "$PWD/$plugin"
  run ./plugin_host_linked threads "$PWD/$plugin"
done

copies=()
for ((i = 0; i < 8; i++)); do
  cp plugin_own.so "$TEST_TMPDIR/copy$i.so"
  copies+=("$TEST_TMPDIR/copy$i.so")
done
run ./plugin_host together "${copies[@]}"
run "$preload" ./plugin_host together "${copies[@]}"

for plugin in plugin_own.so plugin_malloc.so; do
  run "$preload" ./plugin_host exchange "$PWD/$plugin"
  run ./plugin_host_linked exchange "$PWD/$plugin"
done

run MIMALLOC_DESTROY_ON_EXIT=1 ./plugin_host space "$PWD/plugin_own.so"

exit $failed
