// Heaps in the child of a fork, where threads are gone that had parts of them. The core's side is in thread.c, page.c
// and segment.c; which word may be found in which state is told in ARCHITECTURE.md.
//
// As long as such a heap lives, the part of a thread that is gone is frozen: its id counts as alive, so that nobody
// adopts the part; its blocks are freed as blocks of a running thread are (a push, a bit) and never served again. Who
// ends or resets the heap gets it to itself, and settles it first: what the thread left in the middle of a change is
// put right as far as it can be told, and left alone for ever where it cannot.
#include "mi/heap/parts.h"

// Nobody changes a family while the process forks.
void _mi_heaps_around_fork(bool before) {
  if (before) {
    _mi_family_enter();
  } else {
    _mi_family_leave();
  }
}

void _mi_heaps_after_fork(mi_thread_t* self) {
  _mi_family_leave();  // entered before the fork, by this thread
  _mi_merge_settle();
  _mi_accounts_after_fork();
  if (self == NULL) return;
  // The thread's own visits go on: it forked in a visitor.
  for (mi_visit_t* visit = self->visits; visit != NULL; visit = visit->outer)
    mi_store_relaxed(&visit->heap->visiting, _mi_fork_stamp);
  _mi_returned_settle(self);
}

static bool part_is_frozen(const mi_part_t* part) { return mi_tid_is_gone(mi_part_owner(part)); }

// For destroy and reset: afterwards no thread that is gone has anything of the heap. The caller has the heap to itself.
void _mi_heap_settle(mi_heap_t* heap) {
  if (mi_likely(_mi_fork_stamp == 1)) return;
  bool had_theap = false;
  MI_FOR_EACH_PART(heap, part) {
    if (part_is_frozen(part)) _mi_part_settle(part);
    if (_mi_slot_forget_frozen(part)) {
      had_theap = true;
      _mi_heap_theap_gone(heap);  // not the last reference: the heap has its own
    }
  }
  if (had_theap) _mi_frozen_pages_free(heap);
}

// For delete and merge: nobody allocates in the heap any more, but its blocks live on. Threads that are gone may have
// stopped with one of its regions on no list, so that it can never be told that the last block was freed: a page is
// counted that will not come back, and the handle stays.
void _mi_heap_settle_to_close(mi_heap_t* heap) {
  if (mi_likely(_mi_fork_stamp == 1)) return;
  MI_FOR_EACH_PART(heap, part) {
    if (!part_is_frozen(part)) continue;
    _mi_part_settle(part);
    mi_fetch_add_acq_rel(&heap->pages_out, 1);
  }
}
