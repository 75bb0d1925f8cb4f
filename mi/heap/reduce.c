// For programs that care for the shape of their memory: handing over what one thread owns, and finding pages that are
// hardly used.
#include "mi/heap/parts.h"
#include "mi/mimalloc.h"

static size_t theap_bytes(const mi_theap_t* theap) {
  size_t sum = 0;
  for (size_t bin = 1; bin < MI_BIN_COUNT; bin++) {
    const mi_page_t* const first = theap->queue[bin];
    const mi_page_t* page = first;
    if (first == NULL) continue;
    do {
      sum += (page->kind == MI_PAGE_HUGE ? page->block_size : page->slices * MI_SLICE_SIZE);
      page = page->next;
    } while (page != first);
  }
  return sum;
}

// The bytes of the pages that the thread owns; with `abandon`, it owns none of them afterwards.
static size_t thread_bytes(mi_thread_t* thread, bool abandon) {
  size_t sum = theap_bytes(&thread->main_theap);
  if (abandon) _mi_theap_abandon(&thread->main_theap, true);
  for (mi_slot_chunk_t* chunk = thread->slot_chunks; chunk != NULL; chunk = chunk->next) {
    for (size_t i = 0; i < MI_SLOTS_PER_CHUNK; i++) {
      mi_slot_t* const slot = &chunk->slot[i];
      // While the theap is BUSY, nobody destroys it: who wants to leaves that to us.
      if (!_mi_slot_enter(slot)) continue;
      mi_theap_t* const theap = mi_load_relaxed(&slot->theap);
      sum += theap_bytes(theap);
      if (abandon) _mi_theap_abandon(theap, true);
      _mi_slot_leave(slot, false, true);
    }
  }
  return sum;
}

void mi_collect_reduce(size_t target_thread_owned) {
  mi_thread_t* const thread = _mi_tls.thread;
  if (thread == NULL || thread_bytes(thread, false) <= target_thread_owned) return;
  _mi_thread_collect(thread, true);
  if (thread_bytes(thread, false) > target_thread_owned) thread_bytes(thread, true);
}

bool mi_unsafe_heap_page_is_under_utilized(mi_heap_t* heap, void* p, size_t perc_threshold) {
  const mi_page_t* const page = (p == NULL ? NULL : _mi_page_of_any(p));
  if (page == NULL || page->kind != MI_PAGE_CLASS) return false;
  const mi_tid_t owner = mi_load_relaxed((_Atomic(mi_tid_t)*)&page->owner);
  if ((owner & ~MI_OWNER_FLAGS) != _mi_tls.tid || (owner & MI_OWNER_SPECIAL) != 0) return false;
  const mi_theap_t* const theap = mi_load_relaxed((_Atomic(mi_theap_t*)*)&page->theap);
  if (theap == NULL || theap->heap != heap || theap->queue[page->bin] == page) return false;
  const uint64_t percent = (perc_threshold > 100 ? 101 : perc_threshold);
  return (uint64_t)page->used * 100 < percent * page->reserved;
}

// Of the objects that were ever in the region, are most gone? Not of the one that the next objects come from.
static bool region_is_under_utilized(const mi_region_t* region) {
  if (region == region->part->current) return false;
  const size_t end = _mi_region_end(region);
  size_t all = 0, live = 0;
  for (size_t granule = 0; granule < end; granule += 64) {
    const _Atomic(uint64_t)* const word = mi_region_words(region, granule);
    const uint64_t starts = mi_load_acquire((_Atomic(uint64_t)*)&word[0]);
    const uint64_t freed = mi_load_acquire((_Atomic(uint64_t)*)&word[1]);
    all += mi_popcount(starts);
    live += mi_popcount(starts & ~(freed | mi_load_acquire((_Atomic(uint64_t)*)&word[2])));
  }
  return 2 * live < all;
}

bool mi_heap_is_under_utilized(mi_heap_t* heap, const void* p) {
  if (heap == NULL || p == NULL || mi_heap_of(p) != heap) return false;
  const mi_page_t* const page = _mi_page_of_any(p);
  if ((mi_load_relaxed((_Atomic(mi_tid_t)*)&page->owner) & MI_OWNER_SPECIAL) != 0) {
    return region_is_under_utilized(_mi_region_of(page, p));
  }
  if (page->kind != MI_PAGE_CLASS) return false;
  const mi_theap_t* const theap = mi_load_relaxed((_Atomic(mi_theap_t*)*)&page->theap);
  return (theap == NULL || theap->queue[page->bin] != page) && 2 * (uint64_t)page->used < page->reserved;
}
