// Holding a heap's memory for readers that use no reference counts and no locks (epochs, QSBR): while a heap is held,
// what its blocks lay in stays what it is. An empty page is neither given back nor given to another size or heap, an
// empty region is not cut anew, a block with a page of its own keeps its page; and all go when the hold ends. Blocks of
// a page are used again for blocks of the same class.
//
// Who is about to release an empty page or region asks _mi_heap_is_held, and leaves it where it is if so: a page in its
// queue or, without a theap, listed among the heap's abandoned ones; a block's own page in the queue LATE; a region in
// its part's list. All of these are places where it is found again, by allocation or by a collect.
//
// Invariants:
//  * a reader that counts itself (count, then its reads) and a thread that unlinks, frees and then asks agree: either
//    the reader does not find what was unlinked, or who asks finds the reader. Both sides are sequentially consistent:
//    read-modify-writes in hold, a fence before the question (page.c);
//  * who leaves something sets `kept` before it looks at `count` once more, and who ends the last hold takes `count` to
//    0 before it looks at `kept`: either the former sees that the hold ended, or the latter sees that there is
//    something to give back. (It may look before the page is where it will be found; then a later collect finds it.)
//  * records of holds are type-stable, so that a question about a heap that another thread merges and ends at the same
//    moment reads a record, if an old one. They are found by the heap's id, which is never used again. The model
//    tests/models/hold.pml has both agreements.
#include <errno.h>

#include "mi/heap/parts.h"
#include "mi/internal/os.h"

struct mi_hold_s {
  mi_hold_t* next;          // constant once pushed
  _Atomic(uint64_t) id;     // of the heap; 0: nobody's
  _Atomic(uint32_t) count;  // holds of it
  _Atomic(uint32_t) kept;   // something was left that would have gone
};

#define MAIN_ID UINT64_MAX
static mi_hold_t main_hold = {.id = MAIN_ID};
static _Atomic(mi_hold_t*) hold_list = &main_hold;

// The id that the heap is held by, which is that of the heap where its blocks went; 0: that one is ending.
static uint64_t hold_id(mi_heap_t* heap) {
  for (;;) {
    // As mi_heap_of reads it.
    mi_heap_t* const into = mi_load_acquire(&heap->into);
    mi_heap_t* const end = (into == NULL ? heap : mi_heap_live_end(into));
    if (mi_load_acquire(&heap->into) != into) continue;
    if (end == &_mi_heap_main) return MAIN_ID;
    const uint64_t id = mi_load_acquire(&end->home.id);
    if (id != 0 || mi_load_acquire(&end->into) == NULL) return id;
  }
}

bool _mi_heap_has_hold(mi_heap_t* heap) {
  if (heap == &_mi_heap_internal) return false;
  const uint64_t id = hold_id(heap);
  mi_hold_t* hold = mi_load_acquire(&hold_list);
  while (hold != NULL && mi_load_relaxed(&hold->id) != id) hold = hold->next;
  if (id == 0 || hold == NULL || mi_load_seq_cst(&hold->count) == 0) return false;
  atomic_store_explicit(&hold->kept, 1u, memory_order_seq_cst);
  return mi_load_seq_cst(&hold->count) != 0;
}

// The record of a heap that has none: one that nobody uses any more, or a new one.
static mi_hold_t* hold_make(mi_thread_t* thread, uint64_t id) {
  for (mi_hold_t* hold = mi_load_acquire(&hold_list); hold != NULL; hold = hold->next) {
    uint64_t free_id = 0;
    if (mi_load_relaxed(&hold->id) == 0 && mi_cas_strong_acq_rel(&hold->id, &free_id, id)) return hold;
  }
  mi_hold_t* const hold = _mi_internal_zalloc(thread, sizeof(mi_hold_t));
  if (hold == NULL) return NULL;
  mi_store_relaxed(&hold->id, id);
  mi_hold_t* head = mi_load_relaxed(&hold_list);
  do {
    hold->next = head;
  } while (!mi_cas_weak_acq_rel(&hold_list, &head, hold));
  return hold;
}

// NULL: the heap was never held.
static mi_hold_t* heap_hold(mi_heap_t* heap) {
  if (heap == &_mi_heap_main) return &main_hold;
  mi_heap_extra_t* const extra = mi_load_acquire(mi_heap_extra_word(heap));
  return (extra == NULL ? NULL : mi_load_acquire(&extra->hold));
}

// NULL: no memory.
static mi_hold_t* heap_hold_make(mi_heap_t* heap) {
  mi_hold_t* seen = heap_hold(heap);
  if (seen != NULL) return seen;
  mi_heap_extra_t* const extra = _mi_heap_extra_make(heap);
  if (extra == NULL) return NULL;
  mi_hold_t* const made = hold_make(_mi_tls.thread, mi_load_relaxed(&heap->home.id));
  if (made == NULL || mi_cas_strong_acq_rel(&extra->hold, &seen, made)) return made;
  mi_store_release(&made->id, (uint64_t)0);
  return seen;
}

static bool usable(mi_heap_t* heap, const char* function) {
  if (heap == NULL) {
    _mi_error(EINVAL, "%s: no heap\n", function);
    return false;
  }
  if (!_mi_heap_check_usable(heap, function)) return false;
  if (mi_thread() != NULL) return true;
  _mi_error(ENOMEM, "%s: the thread could not be set up\n", function);
  return false;
}

bool mi_heap_hold_pages(mi_heap_t* heap) {
  if (!usable(heap, "mi_heap_hold_pages")) return false;
  mi_hold_t* const hold = heap_hold_make(heap);
  if (hold == NULL) {
    _mi_error(ENOMEM, "mi_heap_hold_pages: no memory to hold heap %p (%s)\n", (void*)heap, mi_heap_name(heap));
    return false;
  }
  // The count of all first: who finds it 0 asks no further.
  atomic_fetch_add_explicit(&_mi_holds, 1u, memory_order_seq_cst);
  atomic_fetch_add_explicit(&hold->count, 1u, memory_order_seq_cst);
  return true;
}

bool mi_heap_release_pages(mi_heap_t* heap) {
  if (!usable(heap, "mi_heap_release_pages")) return false;
  mi_hold_t* const hold = heap_hold(heap);
  uint32_t count = (hold == NULL ? 0 : mi_load_relaxed(&hold->count));
  do {
    if (count == 0) {
      _mi_error(EINVAL, "mi_heap_release_pages: heap %p (%s) is not held\n", (void*)heap, mi_heap_name(heap));
      return false;
    }
  } while (!atomic_compare_exchange_weak_explicit(&hold->count, &count, count - 1, memory_order_seq_cst,
                                                  memory_order_relaxed));
  atomic_fetch_sub_explicit(&_mi_holds, 1u, memory_order_seq_cst);
  if (count == 1 && mi_exchange_seq_cst(&hold->kept, 0u) != 0) _mi_heap_collect_parts(heap, false);
  return true;
}

// The heap ends, or is closed: nothing of it is held any more.
void _mi_hold_end(mi_heap_t* heap) {
  mi_heap_extra_t* const extra = (heap == &_mi_heap_main ? NULL : mi_load_acquire(mi_heap_extra_word(heap)));
  mi_hold_t* const hold = (extra == NULL ? NULL : mi_exchange_acq_rel(&extra->hold, (mi_hold_t*)NULL));
  if (hold == NULL) return;
  const uint32_t count = atomic_exchange_explicit(&hold->count, 0u, memory_order_acq_rel);
  atomic_fetch_sub_explicit(&_mi_holds, count, memory_order_seq_cst);
  mi_store_release(&hold->id, (uint64_t)0);
}
