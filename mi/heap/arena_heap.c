// Heaps that live in one arena: handle, extras, lanes, theaps and every block lie in the arena's own memory, and
// nowhere else (functions that the program registers with the heap apart). What the library needs for such a heap takes
// a page (one slice) each, of which only the first bytes are touched; there are no regions, so that every size class
// begins with a page. NUMA affinity is here too: it prefers arenas of a node.
//
// Invariants:
//  * MI_HEAP_IN_ARENA is set iff the handle lies in a page of its own, with its extras behind it; it never changes
//    while the heap lives, and such a handle is never recycled;
//  * a heap that is deleted or merged leaves its blocks where they are; pages that its target adopts stay in the arena
//    until they are empty.
#include <errno.h>

#include "mi/heap/parts.h"
#include "mi/internal/stats.h"

#define ARENA_HANDLE_COLOR 0xA7EA  // in the slot of a handle's page: no other single-block page has a colour

// Asked of any page, at any time.
MI_RACY bool _mi_page_is_arena_handle(const mi_page_t* page) {
  return mi_racy(page->kind) == MI_PAGE_SOLO && mi_racy(page->color) == ARENA_HANDLE_COLOR;
}

// Does a handle lie there, of a heap or of none any more? Pages of ordinary handles stay what they are; that of an
// arena's heap goes with it.
static MI_RACY bool is_handle(const mi_heap_t* heap) {
  size_t index;
  mi_arena_t* const arena = _mi_arena_of((const uint8_t*)heap + 1, &index);
  if (arena == NULL) return heap == &_mi_heap_main;
  if (mi_load_acquire(&arena->kind[index]) != MI_SEGMENT_NORMAL) return false;
  const mi_page_t* const page = mi_slot_of(heap);
  if (_mi_page_is_arena_handle(page)) return (uintptr_t)heap % MI_SLICE_SIZE == 0;
  return mi_racy(page->kind) == MI_PAGE_CLASS && mi_racy(page->bin) == MI_BIN_HANDLE &&
         mi_load_relaxed(&page->heap) == &_mi_heap_internal &&
         (uintptr_t)heap % ((size_t)1 << MI_REGION_SHIFT_MIN) == 0;
}

MI_RACY bool _mi_heap_went_to(mi_heap_t* heap, mi_heap_t** into) {
  if (!is_handle(heap)) return false;
  *into = mi_load_acquire(&heap->into);
  return is_handle(heap);
}

mi_heap_t* _mi_arena_handle_make(mi_thread_t* thread, mi_arena_t* arena, size_t size) {
  const size_t handle_size = (size_t)1 << MI_REGION_SHIFT_MIN, least = handle_size + sizeof(mi_heap_extra_t);
  mi_heap_t* const heap = _mi_internal_alloc_in(thread, arena, size < least ? least : size);
  if (heap == NULL) return NULL;
  mi_slot_of(heap)->color = ARENA_HANDLE_COLOR;
  _mi_part_init(&heap->home, heap, mi_load_relaxed(&thread->id), MI_REGION_SHIFT_MIN);
  _mi_part_close_young(&heap->home);
  mi_store_relaxed(&heap->refs, 1u);
  mi_heap_set_flags(heap, _mi_heap_flags_of_new() | MI_HEAP_IN_ARENA);
  heap->home.config = (uint8_t*)heap + handle_size;
  ((mi_heap_extra_t*)heap->home.config)->account.heap = heap;
  return heap;
}

mi_heap_t* mi_heap_new_in_arena(mi_arena_id_t arena) {
  if (arena == NULL) return mi_heap_new();
  if (!_mi_arena_exists(arena)) {
    _mi_error(EINVAL, "mi_heap_new_in_arena: %p is no arena\n", arena);
    return NULL;
  }
  mi_thread_t* const thread = mi_thread();
  mi_heap_t* const heap = (thread == NULL ? NULL : _mi_arena_handle_make(thread, arena, 0));
  if (heap == NULL) {
    _mi_error(ENOMEM, "mi_heap_new_in_arena: no memory for a heap in arena %p\n", arena);
    return NULL;
  }
  ((mi_heap_extra_t*)heap->home.config)->subproc = mi_load_relaxed(&thread->subproc);
  // Release: who enumerates the handles and finds an id finds a heap that is set up.
  mi_store_release(&heap->home.id, _mi_heap_next_id(thread));
  return heap;
}

void mi_heap_set_numa_affinity(mi_heap_t* heap, int numa_node) {
  if (heap == NULL) return;
  if (numa_node < -1 || numa_node > MI_NUMA_NODE_MAX) {
    _mi_error(EINVAL, "mi_heap_set_numa_affinity: node %d is none\n", numa_node);
    return;
  }
  mi_thread_t* const thread = mi_thread();
  if (thread == NULL || !_mi_heap_check_usable(heap, "mi_heap_set_numa_affinity")) return;
  if (heap != &_mi_heap_main) {
    mi_heap_extra_t* const extra = _mi_heap_extra_make(heap);
    if (extra == NULL) {
      _mi_error(ENOMEM, "mi_heap_set_numa_affinity: no memory\n");
      return;
    }
    extra->numa = (uint16_t)(numa_node + 1);
  }
  mi_theap_t* const theap = mi_heap_theap(heap);
  if (theap != NULL) theap->numa = (uint16_t)(numa_node + 1);
}
