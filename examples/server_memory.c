// The memory of one request, see server_memory.h. Holds the cJSON hooks too: they carry no context, so a
// thread-local pointer says whose memory it is. The counting is the same in both modes and local to the request,
// so that it tilts no comparison.

#include "examples/server_memory.h"

#include <cjson/cJSON.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

static enum allocator chosen;
static size_t request_limit;
static _Thread_local struct memory* current;

// In heap mode the heap's own limit decides, by what it holds.
static inline bool memory_admits(struct memory* memory, size_t size) {
  memory->allocations++;
  memory->requested += size;
  return memory->heap != NULL || memory->requested <= request_limit;
}

static void* hook_heap_malloc(size_t size) {
  struct memory* memory = current;
  void* block = memory_admits(memory, size) ? mi_heap_malloc(memory->heap, size) : NULL;
  if (block == NULL) memory->exhausted = true;
  return block;
}

static void* hook_malloc(size_t size) {
  struct memory* memory = current;
  void* block = memory_admits(memory, size) ? malloc(size) : NULL;
  if (block == NULL) memory->exhausted = true;
  return block;
}

void memory_setup(enum allocator allocator, size_t limit) {
  chosen = allocator;
  request_limit = limit;
  cJSON_Hooks hooks = {hook_heap_malloc, mi_free};
  if (allocator == ALLOCATOR_MALLOC) hooks = (cJSON_Hooks){hook_malloc, free};
  cJSON_InitHooks(&hooks);
}

void memory_teardown(void) { cJSON_InitHooks(NULL); }

void* memory_open(size_t size) {
  mi_heap_t* heap = NULL;
  struct memory* memory;
  if (chosen == ALLOCATOR_HEAP) {
    heap = mi_heap_new_with(&(mi_heap_config_t){.size = sizeof(mi_heap_config_t), .limit = request_limit});
    if (heap == NULL) return NULL;
    memory = mi_heap_malloc(heap, size);
    if (memory == NULL) mi_heap_destroy(heap);
  } else {
    memory = malloc(size);
  }
  if (memory == NULL) return NULL;
  memset(memory, 0, size);
  memory->heap = heap;
  memory->allocations = 1;
  memory->requested = size;
  return memory;
}

void memory_close(struct memory* memory) {
  if (chosen == ALLOCATOR_HEAP) {
    mi_heap_destroy(memory->heap);
  } else {
    free(memory);
  }
}

void memory_enter(struct memory* memory) { current = memory; }

void memory_leave(void) { current = NULL; }

void* memory_resize(struct memory* memory, void* block, size_t size) {
  void* resized = NULL;
  if (memory_admits(memory, size)) {
    resized = memory->heap != NULL ? mi_heap_realloc(memory->heap, block, size) : realloc(block, size);
  }
  if (resized == NULL) memory->exhausted = true;
  return resized;
}

void memory_free(struct memory* memory, void* block) {
  if (memory->heap != NULL) {
    mi_free(block);
  } else {
    free(block);
  }
}

size_t memory_heap_bytes(const struct memory* memory) { return memory->heap != NULL ? mi_heap_peak(memory->heap) : 0; }

static bool count_heap(mi_heap_t* heap, void* count) {
  if (heap != mi_heap_main()) ++*(size_t*)count;
  return true;
}

size_t memory_heaps_alive(void) {
  size_t count = 0;
  mi_heap_visit_all(count_heap, &count);
  return count;
}

void memory_trim(void) {
  mi_collect(true);
  malloc_trim(0);
}
