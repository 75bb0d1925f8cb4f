// The parts of a heap: finding the calling thread's, adopting one whose owner is gone, making a lane, and giving a part
// its theap when a size class has earned pages.
//
// The first part lies in the handle and belongs to the thread that made the heap. Another thread first adopts a part
// whose owner ended (one CAS on the part's owner id), else makes a lane: a region of 1 KiB with a part at its head. The
// list of lanes is push-only while the heap lives, and no longer than the most threads that used the heap at one time.
// A thread remembers its parts in a small cache; it compares the heap's id, which is never used again.
#include <errno.h>

#include "mi/heap/parts.h"
#include "mi/internal/stats.h"

#define MI_LANE_SHIFT 10

// Makes the calling thread the owner of a part whose owner is gone; false if somebody was faster. Acquire, in the test
// for life: all that the former owner wrote.
static bool part_adopt(mi_thread_t* thread, mi_part_t* part) {
  mi_tid_t owner = mi_load_acquire(&part->region.owner);
  const mi_tid_t id = owner & ~MI_OWNER_FLAGS;
  if (id == MI_TID_NONE || mi_tid_is_alive(id)) return false;
  if (_mi_part_has_frozen_theap(part)) return false;  // it could not have another
  const mi_tid_t self = mi_load_relaxed(&thread->id);
  const mi_tid_t policy = (mi_heap_is_generic(part->heap) ? MI_OWNER_INTERIOR : 0);
  if (!mi_cas_strong_acq_rel(&part->region.owner, &owner, self | policy)) return false;
  for (mi_region_t* region = part->regions; region != NULL; region = region->next) {
    mi_store_relaxed(&region->owner, self);
  }
  return true;
}

void _mi_part_ask(mi_heap_t* heap) {
  const mi_account_t* const account = mi_account_of(heap);
  if (account->limit != 0 || account->soft_limit != 0) mi_store_relaxed(&heap->home.young_max, 0);
}

static mi_part_t* part_find(mi_thread_t* thread, mi_heap_t* heap) {
  const mi_tid_t self = mi_load_relaxed(&thread->id);
  MI_FOR_EACH_PART(heap, part) {
    if (mi_part_owner(part) == self) return part;
  }
  MI_FOR_EACH_PART(heap, part) {
    if (!part_adopt(thread, part)) continue;
    if (mi_unlikely(mi_load_relaxed(&_mi_deferred_armed) != 0)) _mi_deferred_join(thread, part);
    return part;
  }
  mi_arena_t* const arena = _mi_heap_arena(heap);
  const size_t lane_size = (size_t)1 << MI_LANE_SHIFT;
  if (_mi_heap_extra_make(heap) == NULL) return NULL;  // it has an account before a second thread charges
  mi_part_t* const part =
      (arena == NULL ? _mi_internal_alloc(thread, lane_size) : _mi_internal_alloc_in(thread, arena, lane_size));
  if (part == NULL) return NULL;
  _mi_part_init(part, heap, self, MI_LANE_SHIFT);
  mi_store_relaxed(&part->young_max, 0);
  _mi_part_ask(heap);
  _mi_part_shut(part);
  if (!mi_heap_has_regions(heap)) _mi_part_close_young(part);
  mi_part_t* head = mi_load_relaxed(&heap->parts);
  do {
    mi_store_relaxed(&part->next, head);
    // Release: the part is set up before it is found.
  } while (!mi_cas_weak_acq_rel(&heap->parts, &head, part));
  if (mi_unlikely(mi_load_relaxed(&_mi_deferred_armed) != 0)) _mi_deferred_join(thread, part);
  return part;
}

mi_noinline mi_part_t* _mi_part_of(mi_thread_t* thread, mi_heap_t* heap) {
  const uint64_t id = mi_load_relaxed(&heap->home.id);
  mi_part_cache_t* const entry = &thread->part_cache[((uintptr_t)heap >> MI_REGION_SHIFT_MIN) % MI_PART_CACHE];
  if (mi_likely(entry->heap == heap && entry->id == id && id != 0)) {
    if (mi_likely(mi_load_relaxed(&heap->state) == MI_HEAP_OPEN)) return entry->part;
  }
  if (!_mi_heap_check_usable(heap, "allocation")) return NULL;
  mi_part_t* const part = part_find(thread, heap);
  if (part == NULL) {
    _mi_error(ENOMEM, "no memory for a thread's part of heap %p (%s)\n", (void*)heap, mi_heap_name(heap));
  } else {
    entry->heap = heap;
    entry->id = id;
    entry->part = part;
  }
  return part;
}

mi_theap_t* _mi_part_theap(mi_thread_t* thread, mi_part_t* part) {
  mi_theap_t* theap = mi_load_relaxed(&part->theap);
  if (mi_likely(theap != MI_THEAP_EMPTY)) return theap;
  mi_arena_t* const arena = _mi_heap_arena(part->heap);
  if (mi_unlikely(part->heap->home.depth != 0) && !_mi_abandoned_ready(part->heap)) return NULL;
  const mi_heap_extra_t* const extra = _mi_heap_extra_make(part->heap);  // with the account of its pages
  if (extra == NULL) return NULL;
  _mi_part_ask(part->heap);
  theap = (arena == NULL ? _mi_internal_alloc(thread, sizeof(mi_theap_t))
                         : _mi_internal_alloc_in(thread, arena, sizeof(mi_theap_t)));
  if (theap == NULL) return NULL;
  _mi_theap_init(theap, part->heap, thread);
  theap->part = part;
  theap->numa = extra->numa;
  theap->policy |= extra->policy;
  theap->even = extra->even;
  mi_fetch_add_acq_rel(&part->heap->refs, 1u);
  mi_slot_t* const slot = _mi_slot_open(thread, theap);
  if (slot == NULL) {
    atomic_fetch_sub_explicit(&part->heap->refs, 1u, memory_order_acq_rel);
    _mi_internal_free(theap);
    return NULL;
  }
  mi_gauge_add(&_mi_stats.theaps, 1);
  mi_store_relaxed(&part->theap, theap);
  mi_store_release(&part->slot, slot);
  return theap;
}
