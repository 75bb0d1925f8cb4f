#!/usr/bin/env bash
# A workspace of someone else that depends on @mimalloc//:mimalloc, and on @mimalloc//:override for malloc itself: as
# README.md shows it, with a Bazel of its own beside the one that runs the test.
source tests/package/support.sh
tree=$(dirname "$(realpath WORKSPACE)")

workspace=$TEST_TMPDIR/user
mkdir -p "$workspace"
snippet 5 | sed "s|path = \"[^\"]*\"|path = \"$tree\"|" > "$workspace/WORKSPACE"
grep -q "path = \"$tree\"" "$workspace/WORKSPACE" || fail "the snippet changed: $(< "$workspace/WORKSPACE")"
snippet 6 > "$workspace/BUILD"
cat > "$workspace/main.c" << 'END'
#include <mimalloc.h>
#include <stdio.h>
#include <stdlib.h>
int main(void) {
  mi_heap_t* heap = mi_heap_new();
  void* block = malloc(10);
  if (heap == NULL || mi_heap_of(mi_heap_malloc(heap, 10)) != heap) return 1;
  mi_heap_destroy(heap);
  puts(mi_is_in_heap_region(block) ? "malloc is mimalloc's" : "malloc is the system's");
  free(block);
  return 0;
}
END

export HOME=$TEST_TMPDIR/home USER=${USER:-user}
mkdir -p "$HOME"
cd "$workspace"
code=0
bazel --batch --output_user_root="$TEST_TMPDIR/bazel" build --spawn_strategy=local --repo_env=CC=gcc \
  --symlink_prefix="$TEST_TMPDIR/links-" //:all > "$scratch/bazel.log" 2>&1 || code=$?
[[ $code -eq 0 ]] || fail "bazel build: $(< "$scratch/bazel.log")"
prints "malloc is the system's" "$TEST_TMPDIR/links-bin/plain"
prints "malloc is mimalloc's" "$TEST_TMPDIR/links-bin/overridden"
if grep -E ': warning:|WARNING' "$scratch/bazel.log"; then fail "a user sees the warnings above"; fi
