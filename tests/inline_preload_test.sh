#!/usr/bin/env bash
# A program with inline paths, and the shared library that it finds when it starts: ours, then ours behind another
# allocator that was preloaded, then one that knows nothing of inline paths. With ours alone the paths are inline; with
# the others every operation is a call of the function that the program would have called.
set -euo pipefail
scratch=$TEST_TMPDIR
library=$PWD/mi/libmimalloc.so

fail() {
  echo "FAILED: $*" >&2
  exit 1
}

cat > "$scratch/program.c" << 'END'
#include <mimalloc-inline.h>
#include <stdio.h>
int main(void) {
  mi_inline_thread_t thread;
  mi_inline_theap_t theap;
  mi_heap_t* heap = mi_heap_new();
  bool fits = mi_inline_thread_attach(&thread);
  bool serves = mi_inline_theap_attach(&theap, heap);
  for (int round = 0; round < 1000; round++) {
    char* block = mi_inline_theap_malloc_small(&theap, 64);
    char* other = mi_inline_heap_malloc_small(&thread, heap, 64);
    if (block == NULL || other == NULL || block == other) return 1;
    block[63] = other[63] = 1;
    mi_inline_free_small(&thread, block);
    mi_inline_free_small(&thread, other);
  }
  puts(fits && serves ? "inline" : fits || serves ? "half" : "calls");
  return 0;
}
END
# Another allocator: memory of its own, and a handle in which ones look like anything.
cat > "$scratch/other.c" << 'END'
#include <stddef.h>
static char memory[64 << 20] __attribute__((aligned(64)));
static size_t used;
static char handle[4096];
void* mi_heap_malloc(void* heap, size_t size) {
  void* block = memory + used;
  if (heap != handle) return NULL;
  used += (size + 63) / 64 * 64 + 64;
  return used > sizeof(memory) ? NULL : block;
}
void* mi_heap_malloc_small(void* heap, size_t size) { return mi_heap_malloc(heap, size); }
void* mi_malloc_small(size_t size) { return mi_heap_malloc(handle, size); }
void mi_free(void* p) { (void)p; }
void* mi_heap_new(void) {
  for (size_t i = 0; i < sizeof(handle); i++) handle[i] = (char)0xff;
  return handle;
}
END
gcc -std=c11 -O2 -Wall -Wextra -Werror -I mi -I . "$scratch/program.c" "$library" -o "$scratch/program" ||
  fail "the program does not build"
gcc -std=c11 -O2 -shared -fPIC "$scratch/other.c" -o "$scratch/other.so" || fail "the other library does not build"
mkdir -p "$scratch/without" "$scratch/with"
gcc -std=c11 -O2 -shared -fPIC "$scratch/other.c" -Wl,-soname,libmimalloc.so.3 -o "$scratch/without/libmimalloc.so.3" ||
  fail "the library without inline paths does not build"
cp "$library" "$scratch/with/libmimalloc.so.3"

# prints TEXT COMMAND...
prints() {
  local text=$1 output
  shift
  output=$("$@" 2>&1) || fail "exit code $?: $* printed: $output"
  [[ "$output" == "$text" ]] || fail "$* printed, not '$text': $output"
}
prints inline env "LD_LIBRARY_PATH=$scratch/with" "$scratch/program"
prints calls env "LD_LIBRARY_PATH=$scratch/with" "LD_PRELOAD=$scratch/other.so" "$scratch/program"
prints calls env "LD_LIBRARY_PATH=$scratch/without" "$scratch/program"
