// A shared library that brings the allocator with it, for a program that loads and unloads it (plugin_host.c). With
// MALLOC its blocks come from malloc, else from mi_malloc.
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "mi/mimalloc.h"

#ifdef MALLOC
#define allocate malloc
#define deallocate free
#else
#define allocate mi_malloc
#define deallocate mi_free
#endif

#define EXPORT __attribute__((visibility("default")))

EXPORT void* plugin_allocate(size_t size) { return allocate(size); }
EXPORT void plugin_free(void* p) { deallocate(p); }
EXPORT void* plugin_resize(void* p, size_t size) { return mi_realloc(p, size); }
EXPORT size_t plugin_usable(void* p) { return mi_usable_size(p); }

// Blocks that come and go, on heaps too. Returns one that stays.
EXPORT void* plugin_work(void) {
  char* blocks[300];
  mi_heap_t* const heap = mi_heap_new();
  if (heap == NULL) return NULL;
  for (size_t i = 0; i < 300; i++) {
    blocks[i] = (i % 3 == 0 ? mi_heap_malloc(heap, 10 * i + 1) : allocate(10 * i + 1));
    if (blocks[i] == NULL) return NULL;
    memset(blocks[i], (int)i, 10 * i + 1);
  }
  for (size_t i = 0; i < 300; i++) {
    if (blocks[i][0] != (char)i || blocks[i][10 * i] != (char)i) return NULL;
    if (i % 2 == 0) deallocate(blocks[i]);
    if (i % 2 == 1 && i % 3 != 0 && i != 299) deallocate(blocks[i]);
  }
  mi_heap_destroy(heap);
  return blocks[299];
}
