// A tour of first-class heaps, one idea per paragraph. What each line of output shows is what the test compares.
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "mi/mimalloc.h"

static void* work_elsewhere(void* heap) {  // any thread may allocate and free in any heap
  mi_free(mi_heap_malloc(heap, 5000));
  return mi_heap_strdup(heap, "made by another thread");
}

static bool count_block(const mi_heap_t* heap, const mi_heap_area_t* area, void* block, size_t size, void* count) {
  (void)heap, (void)area, (void)size;
  if (block != NULL) ++*(int*)count;  // NULL announces an area
  return true;                        // go on
}

static void free_waiting(bool force, unsigned long long heartbeat, void* waiting) {  // a runtime's list of dead objects
  (void)force, (void)heartbeat;
  mi_free(*(void**)waiting);
  *(void**)waiting = NULL;
}

int main(void) {
  mi_heap_t* heap = mi_heap_new();  // 512 bytes, a few nanoseconds
  if (heap == NULL) return 1;
  char* greeting = mi_heap_strdup(heap, "hello");
  void* single = mi_heap_malloc(heap, 100);
  mi_free(single);                                 // one block, whichever heap it is of
  greeting = mi_heap_realloc(heap, greeting, 64);  // grows, stays in its heap
  printf("allocated: %s, world\n", greeting);

  pthread_t thread;
  void* text = NULL;
  if (pthread_create(&thread, NULL, work_elsewhere, heap) != 0) return 1;
  pthread_join(thread, &text);  // the thread is gone, its block stays
  printf("shared: %s\n", (char*)text);
  printf("heap_of: %s\n", mi_heap_of(text) == heap ? "the same heap" : "another heap");

  int blocks = 0;
  mi_heap_visit_blocks(heap, true, count_block, &blocks);
  printf("visit: %d blocks\n", blocks);

  mi_heap_reset(heap);  // all blocks go, the heap stays
  blocks = 0;
  mi_heap_visit_blocks(heap, true, count_block, &blocks);
  printf("reset: %d blocks\n", blocks);

  for (int i = 0; i < 1000; i++) memset(mi_heap_malloc(heap, 200), i, 200);
  mi_heap_destroy(heap);  // all thousand go at once, with the heap
  printf("destroy: done\n");

  heap = mi_heap_new_with(&(mi_heap_config_t){.size = sizeof(mi_heap_config_t), .name = "short-lived"});
  if (heap == NULL) return 1;
  printf("named: %s\n", mi_heap_name(heap));
  char* survivor = mi_heap_strdup(heap, "still here");
  mi_heap_delete(heap);  // the heap goes, its blocks move to the main heap
  printf("delete: %s, in the %s heap\n", survivor, mi_heap_name(mi_heap_of(survivor)));

  void* waiting = survivor;
  mi_register_deferred_free(free_waiting, &waiting);  // called now and then by allocations, and by collect
  mi_collect(true);
  mi_register_deferred_free(NULL, NULL);
  printf("deferred_free: %s\n", waiting == NULL ? "freed" : "not called");
  return 0;
}
