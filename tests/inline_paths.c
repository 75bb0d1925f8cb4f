// See inline_paths.h. Compiled once as programs do, and once with another MI_INLINE_REVISION.
#include "tests/inline_paths.h"

#include <stdlib.h>

#include "mi/mimalloc-inline.h"

struct inline_handle_s {
  mi_inline_thread_t thread;
  mi_inline_theap_t theap;
  mi_heap_t* heap;
};

static inline_handle_t* attach(mi_heap_t* heap, bool* fits) {
  inline_handle_t* handle = malloc(sizeof(inline_handle_t));
  if (handle == NULL) abort();
  handle->heap = heap;
  fits[0] = mi_inline_thread_attach(&handle->thread);
  fits[1] = mi_inline_theap_attach(&handle->theap, heap);
  return handle;
}

static void detach(inline_handle_t* handle) { free(handle); }

static void* theap_malloc(const inline_handle_t* handle, size_t size) {
  return mi_inline_theap_malloc_small(&handle->theap, size);
}
static void* theap_malloc_48(const inline_handle_t* handle) { return mi_inline_theap_malloc_small(&handle->theap, 48); }
static void* heap_malloc(const inline_handle_t* handle, size_t size) {
  return mi_inline_heap_malloc_small(&handle->thread, handle->heap, size);
}
static void free_small(const inline_handle_t* handle, void* p) { mi_inline_free_small(&handle->thread, p); }

static bool leads_to_calls(const inline_handle_t* handle) {
  for (size_t size = 0; size <= MI_SMALL_SIZE_MAX; size++) {
    if (handle->theap.direct[(size + 7) / 8]->free != NULL) return false;
  }
  return handle->thread.size == 0 && handle->thread.active == 0;
}

#ifndef INLINE_PATHS
#define INLINE_PATHS inline_paths_c11
#endif
const inline_paths_t INLINE_PATHS = {attach,      detach,     theap_malloc,  theap_malloc_48,
                                     heap_malloc, free_small, leads_to_calls};
