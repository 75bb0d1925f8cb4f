#!/usr/bin/env bash
# The public headers compile by themselves and together, without a warning, in each language that they promise, with gcc
# and, where it is installed, clang; with and without exceptions and run-time types; in both generations.
set -euo pipefail

flags=(-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wsign-conversion -Werror -fsyntax-only -I mi -I .)
failed=0

# compiles LANGUAGE COMPILER... : the program on standard input.
compiles() {
  local language=$1 output
  shift
  if ! output=$("$@" "${flags[@]}" -x "$language" - 2>&1); then
    echo "FAILED: $*"
    echo "$output" | head -20
    failed=1
  fi
}

compilers=(gcc)
! command -v clang > /dev/null || compilers+=(clang)

all=
for header in mi/mimalloc.h mi/mimalloc-*.h; do
  header=${header#mi/}
  # What rewrites all that follows comes last, what needs C++17 only there.
  [[ $header == mimalloc-override.h || $header == mimalloc-pmr.h ]] || all+="#include <$header>"$'\n'
done
all+='#include <mi/heap/heap.h>
#ifndef MI_FIRST_CLASS_HEAPS
#error "another header of this name was found"
#endif
'
override='#include <mimalloc-override.h>
void release(void* p);
void release(void* p) { free(p); }
'

for compiler in "${compilers[@]}"; do
  for generation in -UMI_API_V2 -DMI_API_V2; do
    compiles c "$compiler" -std=c11 "$generation" <<< "$all$override"
    for standard in 11 14 17 20; do
      pmr=
      ((standard < 17)) || pmr=$'#include <mimalloc-pmr.h>\n'
      compiles c++ "$compiler" -std=c++$standard "$generation" <<< "$all$pmr$override"
      [[ $standard == 1[47] ]] ||
        compiles c++ "$compiler" -std=c++$standard "$generation" -fno-exceptions -fno-rtti <<< "$all$pmr"
    done
  done
  # Each alone, and twice.
  for header in mi/mimalloc.h mi/mimalloc-*.h mi/heap/heap.h; do
    compiles c++ "$compiler" -std=c++17 <<< "#include <$header>"$'\n'"#include <$header>"
  done
done

# What the two generations call differently.
for compiler in "${compilers[@]}"; do
  compiles c "$compiler" -std=c11 -DMI_API_V2 << 'END'
#include <mimalloc.h>
mi_arena_id_t arena = 1 + 0;
mi_subproc_id_t subproc = NULL;
static bool visit(const mi_heap_t* heap, const mi_heap_area_t* area, void* block, size_t size, void* arg) {
  return mi_heap_visit_blocks(heap, false, visit, arg) && area->heap_tag == 0 && block != NULL && size > 0;
}
int* use(mi_heap_t* heap) {
  (void)visit;
  return mi_heap_recalloc_tp(heap, mi_heap_malloc_tp(heap, int), int, 5);
}
END
  compiles c "$compiler" -std=c11 << 'END'
#include <mimalloc.h>
mi_arena_id_t arena = NULL;
mi_subproc_id_t subproc = {NULL};
static bool visit(const mi_heap_t* heap, const mi_heap_area_t* area, void* block, size_t size, void* arg) {
  return heap == arg && area->reserved1 == NULL && block != NULL && size > 0;
}
int* use(mi_heap_t* heap) {
  mi_heap_visit_blocks(heap, false, visit, NULL);
  return mi_heap_recalloc_tp(int, heap, mi_heap_malloc_tp(int, heap), 5);
}
END
done

exit $failed
