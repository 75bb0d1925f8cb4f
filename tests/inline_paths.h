// The inline paths as a C11 program compiles them, and as one that was compiled for a library of another layout does:
// what inline_test.cc runs beside its own C++.
#ifndef MI_TESTS_INLINE_PATHS_H_
#define MI_TESTS_INLINE_PATHS_H_

#include "mi/mimalloc.h"

#ifdef __cplusplus
extern "C" {
#endif

// What a thread that compiled the header in keeps, however that looks.
typedef struct inline_handle_s inline_handle_t;
typedef struct inline_paths_s {
  inline_handle_t* (*attach)(mi_heap_t* heap, bool* fits);
  void (*detach)(inline_handle_t* handle);
  void* (*theap_malloc)(const inline_handle_t* handle, size_t size);
  void* (*theap_malloc_48)(const inline_handle_t* handle);
  void* (*heap_malloc)(const inline_handle_t* handle, size_t size);
  void (*free)(const inline_handle_t* handle, void* p);
  bool (*leads_to_calls)(const inline_handle_t* handle);
} inline_paths_t;

extern const inline_paths_t inline_paths_c11;    // inline_paths.c
extern const inline_paths_t inline_paths_stale;  // the same, for a library of another revision

#ifdef __cplusplus
}
#endif
#endif
