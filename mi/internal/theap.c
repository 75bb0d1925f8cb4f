// The life of a theap: the slot protocol, by which a thread that exits or collects, a thread that destroys or closes
// the heap, and a thread that visits it agree on who has the theap. Pages are page.c's business.
//
// A theap's state word lies in a slot, type-stable memory of its thread's record; it may be read when the theap is
// gone.
//   FREE -> LIVE     by its thread, when it makes a theap
//   LIVE -> BUSY     by its thread (exit, collect) or a visitor: who made it BUSY has the theap
//   LIVE -> TAKEN    by a destroyer: it has the theap, frees the pages and the theap, and makes the slot FREE
//   TAKEN -> DEAD    if the theap is its thread's default (DEFAULT bit): the thread's fast path may still look at the
//                    table, which is empty; the thread frees the theap when it takes another default
//   BUSY -> LIVE     by who made it BUSY, after doing what was WANTED meanwhile; a collect is left to the thread itself
// Who finds a theap not LIVE leaves a WANTED bit and goes on; nobody waits. The word carries a generation, so that a
// bit is never left for the wrong theap: a poster reads the part's slot, then the word, then the part's slot again,
// and changes the word it read by CAS. The models in tests/models check this.
//
// In the child of a fork the slots of threads that are gone stand in whatever state they were in. Their theaps are
// never read: who ends or resets the heap makes the part forget its slot, and finds the pages otherwise (page.c). So it
// is with a theap whose thread had ended, but left it to a visitor that had it and is gone: nobody would ever make it
// LIVE. Whose theap it is, is told by the slot's `owner`: its record may be another thread's by then, or the
// survivor's.
#include <string.h>

#include "mi/internal/core.h"
#include "mi/internal/os.h"
#include "mi/internal/random.h"
#include "mi/internal/stats.h"

const mi_theap_t _mi_theap_empty = {
    .direct = {[0 ... MI_DIRECT_SIZE_MAX / 8 + 1] = MI_PAGE_EMPTY},
};

void _mi_theap_init(mi_theap_t* theap, mi_heap_t* heap, mi_thread_t* thread) {
  for (size_t w = 0; w <= MI_DIRECT_SIZE_MAX / 8 + 1; w++) theap->direct[w] = MI_PAGE_EMPTY;
  memset(theap->queue, 0, sizeof(theap->queue));
  theap->heap = heap;
  theap->thread = thread;
  theap->part = NULL;
  theap->slot = NULL;
  theap->arena = _mi_heap_arena(heap);
  theap->even = false;
  theap->page_count = 0;
  theap->tidy_count = 0;
  theap->collect_bin = 0;
  theap->dry_pages = 0;
  theap->numa = 0;
  theap->policy = (MI_SECURE && heap != &_mi_heap_internal ? MI_POLICY_SECURE : 0);
  theap->random = (theap->policy != 0 ? mi_random_next(thread) : 0);
  theap->frees = 0;
  theap->depth = heap->home.depth;
  theap->supplied_blocks = theap->supplied_bytes = 0;
  theap->retire_low = MI_BIN_COUNT - 1;
  theap->retire_high = 0;
  mi_store_relaxed(&theap->remote_frees, 0);
  mi_store_relaxed(&theap->dead, false);
  theap->is_internal = (heap == &_mi_heap_internal);
  mi_store_relaxed(&theap->delayed_free, (mi_block_t*)NULL);
}

// --- slots --------------------------------------------------------------------------------------------------

// Pushed by anybody, popped by the record's thread alone: a popped slot cannot come back between its load and its CAS.
static mi_slot_t* slot_pop(mi_thread_t* thread) {
  mi_slot_t* slot = mi_load_acquire(&thread->free_slots);
  while (slot != NULL && !mi_cas_weak_acq_rel(&thread->free_slots, &slot, mi_load_relaxed(&slot->next_free))) {
  }
  return slot;
}

static void slot_push(mi_slot_t* slot) {
  mi_slot_t* head = mi_load_relaxed(&slot->thread->free_slots);
  do {
    mi_store_relaxed(&slot->next_free, head);
  } while (!mi_cas_weak_acq_rel(&slot->thread->free_slots, &head, slot));
}

mi_slot_t* _mi_slot_open(mi_thread_t* thread, mi_theap_t* theap) {
  mi_slot_t* slot = slot_pop(thread);
  if (slot == NULL) {
    mi_slot_chunk_t* const chunk = _mi_internal_zalloc(thread, sizeof(mi_slot_chunk_t));
    if (chunk == NULL) return NULL;
    for (size_t i = 0; i < MI_SLOTS_PER_CHUNK; i++) {
      chunk->slot[i].thread = thread;
      if (i > 0) slot_push(&chunk->slot[i]);
    }
    chunk->next = thread->slot_chunks;
    thread->slot_chunks = chunk;
    slot = &chunk->slot[0];
  }
  mi_store_relaxed(&slot->theap, theap);
  mi_store_relaxed(&slot->owner, mi_load_relaxed(&thread->id));
  theap->slot = slot;
  const uint64_t word = mi_load_relaxed(&slot->word);
  mi_assert((word & MI_SLOT_STATE) == MI_SLOT_FREE);
  mi_store_release(&slot->word, (word & ~(uint64_t)(MI_SLOT_GENERATION - 1)) | MI_SLOT_LIVE);
  return slot;
}

void _mi_slot_free(mi_slot_t* slot) {
  const uint64_t word = mi_load_relaxed(&slot->word);
  mi_store_relaxed(&slot->theap, (mi_theap_t*)NULL);
  // Release: the part forgot the slot before; who sees the new generation sees that.
  mi_store_release(&slot->word, (word & ~(uint64_t)(MI_SLOT_GENERATION - 1)) + MI_SLOT_GENERATION + MI_SLOT_FREE);
  slot_push(slot);
}

static bool slot_is_frozen(const mi_slot_t* slot) {
  return mi_tid_is_of_parent(mi_load_relaxed((_Atomic(mi_tid_t)*)&slot->owner));
}

bool _mi_slot_enter(mi_slot_t* slot) {
  uint64_t word = mi_load_relaxed(&slot->word);
  while ((word & MI_SLOT_STATE) == MI_SLOT_LIVE) {
    if (mi_cas_weak_acq_rel(&slot->word, &word, (word & ~(uint64_t)MI_SLOT_STATE) | MI_SLOT_BUSY)) return true;
  }
  return false;
}

// For a visitor: makes the part's theap BUSY and returns its slot. NULL with `*taken` false: the part has no theap (or
// one that stood still in a fork); with `*taken` true: somebody else has it at the moment.
mi_slot_t* _mi_slot_enter_part(mi_part_t* part, bool* taken) {
  for (;;) {
    mi_slot_t* const slot = mi_load_acquire(&part->slot);
    *taken = false;
    if (slot == NULL) return NULL;
    uint64_t word = mi_load_acquire(&slot->word);
    if (mi_load_acquire(&part->slot) != slot) continue;
    if (slot_is_frozen(slot)) return NULL;
    *taken = true;
    if ((word & MI_SLOT_STATE) != MI_SLOT_LIVE) return NULL;
    if (mi_cas_strong_acq_rel(&slot->word, &word, (word & ~(uint64_t)MI_SLOT_STATE) | MI_SLOT_BUSY)) return slot;
  }
}

// For a destroyer: true if the theap is now its own (TAKEN). Otherwise who has it will see `MI_WANT_DESTROY`.
// False also if the part lost the theap meanwhile.
bool _mi_slot_take(mi_part_t* part, mi_slot_t** taken) {
  for (;;) {
    mi_slot_t* const slot = mi_load_acquire(&part->slot);
    if (slot == NULL) return false;
    uint64_t word = mi_load_acquire(&slot->word);
    if (mi_load_acquire(&part->slot) != slot) continue;
    const bool live = ((word & MI_SLOT_STATE) == MI_SLOT_LIVE);
    mi_assert(!slot_is_frozen(slot));  // forgotten before
    const uint64_t next =
        (live ? (word & ~(uint64_t)(MI_SLOT_STATE | MI_WANT_ANY)) | MI_SLOT_TAKEN : word | MI_WANT_DESTROY);
    if (!mi_cas_strong_acq_rel(&slot->word, &word, next)) continue;
    *taken = slot;
    return live;
  }
}

// For a reset: true if the theap is taken, to be given back with no pages. False with a slot: somebody else has it at
// the moment; false without: the part has no theap.
bool _mi_slot_take_for_reset(mi_part_t* part, mi_slot_t** taken) {
  for (;;) {
    mi_slot_t* const slot = mi_load_acquire(&part->slot);
    *taken = slot;
    if (slot == NULL) return false;
    uint64_t word = mi_load_acquire(&slot->word);
    if (mi_load_acquire(&part->slot) != slot) continue;
    mi_assert(!slot_is_frozen(slot));
    if ((word & MI_SLOT_STATE) != MI_SLOT_LIVE) return false;
    if (mi_cas_strong_acq_rel(&slot->word, &word, (word & ~(uint64_t)MI_SLOT_STATE) | MI_SLOT_TAKEN)) return true;
  }
}

void _mi_slot_give_back(mi_slot_t* slot) {
  uint64_t word = mi_load_relaxed(&slot->word);
  while (!mi_cas_weak_acq_rel(&slot->word, &word, (word & ~(uint64_t)MI_SLOT_STATE) | MI_SLOT_BUSY)) {
  }
  _mi_slot_leave(slot, false, true);
}

// Leaves `want` for who has the theap, and tells its thread to look. Nothing if the part has no theap.
void _mi_slot_post(mi_part_t* part, uint64_t want) {
  for (;;) {
    mi_slot_t* const slot = mi_load_acquire(&part->slot);
    if (slot == NULL) return;
    uint64_t word = mi_load_acquire(&slot->word);
    if (mi_load_acquire(&part->slot) != slot) continue;
    if (slot_is_frozen(slot)) return;  // nobody would do it
    if (!mi_cas_strong_acq_rel(&slot->word, &word, word | want)) continue;
    mi_store_release(&slot->thread->mail, 1u);
    return;
  }
}

// The part forgets the theap, the theap's memory and its slot go, and the heap loses a reference. The pages are gone.
void _mi_theap_end(mi_theap_t* theap) {
  mi_heap_t* const heap = theap->heap;
  mi_part_t* const part = theap->part;
  mi_slot_t* const slot = theap->slot;
  mi_store_relaxed(&part->theap, MI_THEAP_EMPTY);
  mi_store_release(&part->slot, (mi_slot_t*)NULL);
  if (!slot_is_frozen(slot)) mi_gauge_sub(&_mi_stats.theaps, 1);  // else not counted any more
  _mi_slot_free(slot);
  _mi_internal_free(theap);
  _mi_upcalls.theap_gone(heap);
}

// A destroyer is through with the pages of a theap that it took. If the theap is its thread's default, only the thread
// may free it: the DEFAULT bit decides, in one step with the state.
void _mi_slot_end_taken(mi_slot_t* slot) {
  mi_theap_t* const theap = mi_load_relaxed(&slot->theap);
  mi_heap_t* const heap = theap->heap;
  mi_part_t* const part = theap->part;
  mi_store_release(&theap->dead, true);
  uint64_t word = mi_load_relaxed(&slot->word);
  while ((word & MI_SLOT_DEFAULT) != 0) {
    mi_store_relaxed(&part->theap, MI_THEAP_EMPTY);
    mi_store_release(&part->slot, (mi_slot_t*)NULL);
    if (mi_cas_weak_acq_rel(&slot->word, &word, (word & ~(uint64_t)MI_SLOT_STATE) | MI_SLOT_DEAD)) {
      if (!slot_is_frozen(slot)) mi_gauge_sub(&_mi_stats.theaps, 1);
      _mi_upcalls.theap_gone(heap);
      return;
    }
  }
  _mi_theap_end(theap);
}

// The calling thread's default theap changes from `theap` to another: clears the bit, whatever the state, and frees a
// theap that died meanwhile.
void _mi_slot_clear_default(mi_theap_t* theap) {
  mi_slot_t* const slot = theap->slot;
  if (slot == NULL) return;
  uint64_t word = mi_load_relaxed(&slot->word);
  while (!mi_cas_weak_acq_rel(&slot->word, &word, word & ~(uint64_t)MI_SLOT_DEFAULT)) {
  }
  if ((word & MI_SLOT_STATE) == MI_SLOT_DEAD) {
    _mi_slot_free(slot);
    _mi_internal_free(theap);
  }
}

void _mi_slot_set_default(mi_theap_t* theap) {
  if (theap->slot != NULL) mi_fetch_or_acq_rel(&theap->slot->word, (uint64_t)MI_SLOT_DEFAULT);
}

// Ends BUSY. `wait`: for half done remote frees, if the theap is to be abandoned; without it that is put off.
// `exiting`: the thread ends, and so does its theap.
void _mi_slot_leave(mi_slot_t* slot, bool exiting, bool wait) {
  mi_theap_t* const theap = mi_load_relaxed(&slot->theap);
  uint64_t word = mi_load_acquire(&slot->word);
  for (;;) {
    if ((word & MI_WANT_DESTROY) != 0) {
      // The heap goes away, and so does every block: contents and remote frees do not matter any more.
      _mi_theap_free_pages(theap);
      _mi_slot_end_taken(slot);
      return;
    }
    if (exiting || (word & MI_WANT_ABANDON) != 0) {
      if (_mi_theap_abandon(theap, wait)) {
        // Pages that went to the heap's lists are found there by a destroyer that came meanwhile: it holds or gets a
        // reference of the heap, and the last reference sweeps the lists.
        _mi_slot_end_taken(slot);
        return;
      }
      if (mi_cas_weak_acq_rel(&slot->word, &word, (word & ~(uint64_t)MI_SLOT_STATE) | MI_SLOT_LIVE)) {
        mi_store_release(&slot->thread->mail, 1u);
        return;
      }
      continue;
    }
    const bool is_owner = (slot->thread == _mi_tls.thread);
    if ((word & MI_WANT_COLLECT) != 0 && is_owner) {
      _mi_theap_collect(theap, true);
      mi_cas_weak_acq_rel(&slot->word, &word, word & ~(uint64_t)MI_WANT_COLLECT);
      word = mi_load_acquire(&slot->word);
      continue;
    }
    if (mi_cas_weak_acq_rel(&slot->word, &word, (word & ~(uint64_t)MI_SLOT_STATE) | MI_SLOT_LIVE)) {
      // A visitor changes no queue of a thread that runs: if it is lost in a fork, the thread can go on with the theap.
      if ((word & MI_WANT_COLLECT) != 0) mi_store_release(&slot->thread->mail, 1u);
      return;
    }
  }
}

// Calls `fn` for every slot of the thread.
void _mi_thread_for_each_slot(mi_thread_t* thread, void (*fn)(mi_slot_t*, bool), bool arg) {
  for (mi_slot_chunk_t* chunk = thread->slot_chunks; chunk != NULL; chunk = chunk->next) {
    for (size_t i = 0; i < MI_SLOTS_PER_CHUNK; i++) fn(&chunk->slot[i], arg);
  }
}

// --- in the child of a fork ----------------------------------------------------------------------------------

// Has the part a theap that nobody can use? A part learns of a theap by two stores, the slot's last, and forgets it by
// two, the slot's last again: one with a theap and without a slot is one whose thread stopped when it made it.
bool _mi_part_has_frozen_theap(const mi_part_t* part) {
  if (_mi_fork_stamp == 1) return false;
  const mi_slot_t* const slot = mi_load_acquire((_Atomic(mi_slot_t*)*)&part->slot);
  if (slot != NULL) return slot_is_frozen(slot);
  const mi_theap_t* const theap = mi_load_relaxed((_Atomic(mi_theap_t*)*)&part->theap);
  return theap != MI_THEAP_EMPTY && mi_tid_is_gone(mi_part_owner(part));
}

// The part of a heap that ends or is reset forgets such a theap. True: there was one, and the heap is to lose the
// reference that a theap is counted by as long as its part knows it.
bool _mi_slot_forget_frozen(mi_part_t* part) {
  if (!_mi_part_has_frozen_theap(part)) return false;
  mi_store_relaxed(&part->theap, MI_THEAP_EMPTY);
  mi_store_release(&part->slot, (mi_slot_t*)NULL);
  return true;
}

static bool slot_is_visited(const mi_thread_t* self, const mi_slot_t* slot) {
  for (const mi_visit_t* visit = self->visits; visit != NULL; visit = visit->outer) {
    for (size_t i = 0; i < visit->slot_count; i++) {
      if (visit->slots[i] == slot) return true;
    }
  }
  return false;
}

// A theap of the surviving thread: it was not inside the library, but in a callback of ours at most. Is there one
// afterwards?
static bool settle_slot(mi_slot_t* slot) {
  mi_theap_t* const theap = mi_load_relaxed(&slot->theap);
  uint64_t word = mi_load_relaxed(&slot->word);
  if (theap == NULL || slot_is_frozen(slot)) return false;
  switch (word & MI_SLOT_STATE) {
    case MI_SLOT_LIVE:
      _mi_theap_settle(theap, false);
      return true;
    case MI_SLOT_BUSY:
      if (slot_is_visited(slot->thread, slot)) return true;
      // A visitor that is gone had it.
      _mi_theap_settle(theap, true);
      mi_store_relaxed(&slot->word, (word & ~(uint64_t)MI_SLOT_STATE) | MI_SLOT_LIVE);
      mi_store_relaxed(&slot->thread->mail, 1u);
      return true;
    case MI_SLOT_TAKEN:
      // A destroyer that is gone was freeing its pages: what is left of it is not used any more.
      if (_mi_tls.theap == theap) {
        _mi_tls.theap = &slot->thread->main_theap;
        mi_store_relaxed(&slot->word, word & ~(uint64_t)MI_SLOT_DEFAULT);
      }
      mi_store_relaxed(&theap->part->theap, MI_THEAP_EMPTY);
      mi_store_relaxed(&theap->part->slot, (mi_slot_t*)NULL);
      return false;
    default:
      return false;
  }
}

// Of the surviving thread: the theaps that it owns, and those that it has as a visitor. Returns how many it owns.
int64_t _mi_slots_settle(mi_thread_t* self) {
  int64_t theaps = 0;
  for (mi_slot_chunk_t* chunk = self->slot_chunks; chunk != NULL; chunk = chunk->next) {
    for (size_t i = 0; i < MI_SLOTS_PER_CHUNK; i++) theaps += settle_slot(&chunk->slot[i]);
  }
  for (const mi_visit_t* visit = self->visits; visit != NULL; visit = visit->outer) {
    for (size_t i = 0; i < visit->slot_count; i++) {
      _mi_theap_settle(mi_load_relaxed(&visit->slots[i]->theap), false);
    }
  }
  return theaps;
}

// --- mail and exit ---------------------------------------------------------------------------------------------

static void answer_slot(mi_slot_t* slot, bool unused) {
  (void)unused;
  if ((mi_load_relaxed(&slot->word) & MI_WANT_ANY) == 0 || !_mi_slot_enter(slot)) return;
  _mi_slot_leave(slot, false, false);
}

// Does what others left for the calling thread. Acquire: the bits were set before the mail.
void _mi_thread_read_mail(mi_thread_t* thread) {
  if (atomic_exchange_explicit(&thread->mail, 0u, memory_order_acq_rel) == 0) return;
  if (mi_load_relaxed(&thread->collect_wanted) != 0) {
    mi_store_relaxed(&thread->collect_wanted, 0u);
    _mi_upcalls.thread_collect(thread);
  }
  _mi_thread_for_each_slot(thread, answer_slot, false);
}

static void exit_slot(mi_slot_t* slot, bool unused) {
  (void)unused;
  uint64_t word = mi_load_acquire(&slot->word);
  for (;;) {
    switch (word & MI_SLOT_STATE) {
      case MI_SLOT_LIVE:
        if (!_mi_slot_enter(slot)) break;
        _mi_slot_leave(slot, true, true);
        return;
      case MI_SLOT_BUSY:
        // A visitor has it; it will do what exit would have done.
      case MI_SLOT_TAKEN:
        // A destroyer, which ends it anyway, or a reset, which gives it back.
        if (mi_cas_weak_acq_rel(&slot->word, &word, word | MI_WANT_ABANDON)) return;
        continue;
      default:  // FREE
        return;
    }
    word = mi_load_acquire(&slot->word);
  }
}

void _mi_thread_exit_slots(mi_thread_t* thread) { _mi_thread_for_each_slot(thread, exit_slot, false); }
