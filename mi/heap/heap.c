// The life of a heap: making one, resetting it, destroying it. Deleting and merging are in merge.c.
//
// A heap is one block of 512 bytes, the handle, with its first part and region inside. Handles lie in pages that never
// hold anything else, and a dead handle's id is 0: use of a destroyed heap is noticed until the handle is used again.
//
// The handle is counted: one reference for the heap itself, one for every theap attached. Destroy drops the heap's own;
// a theap whose thread is in exit or collect at the moment is left to that thread (MI_WANT_DESTROY), and whoever drops
// the last reference frees what remains: abandoned pages, merged heaps, regions, lanes, the handle.
#include <errno.h>
#include <string.h>

#include "mi/heap/checked.h"
#include "mi/heap/table.h"
#include "mi/internal/os.h"
#include "mi/internal/space.h"
#include "mi/internal/stats.h"

#define MI_HEAP_IDS_PER_RUN 1024

static _Atomic(uint64_t) id_runs;

static mi_cold uint64_t heap_id_refill(mi_thread_t* thread) {
  const uint64_t run = atomic_fetch_add_explicit(&id_runs, 1, memory_order_relaxed) + 1;
  thread->heap_id_next = run * MI_HEAP_IDS_PER_RUN;
  thread->heap_id_end = thread->heap_id_next + MI_HEAP_IDS_PER_RUN;
  return thread->heap_id_next++;
}

uint64_t _mi_heap_next_id(mi_thread_t* thread) {
  return (mi_likely(thread->heap_id_next < thread->heap_id_end) ? thread->heap_id_next++ : heap_id_refill(thread));
}

// Ids that threads gave up: for _mi_heaps_made.
static _Atomic(uint64_t) ids_skipped;

// An id from a run of its own is higher than all that other threads gave out of theirs.
void _mi_heap_ids_renew(mi_thread_t* thread) {
  mi_fetch_add_relaxed(&ids_skipped, thread->heap_id_end - thread->heap_id_next);
  thread->heap_id_next = thread->heap_id_end = 0;
}

static MI_RACY void ids_left(mi_thread_t* thread, void* sum) {
  *(uint64_t*)sum += mi_racy(thread->heap_id_end) - mi_racy(thread->heap_id_next);
}

// How many heaps were ever made: the ids that were given to threads, less those that the threads still have.
uint64_t _mi_heaps_made(void) {
  const uint64_t given = mi_load_relaxed(&id_runs) * MI_HEAP_IDS_PER_RUN;
  uint64_t left = mi_load_relaxed(&ids_skipped);
  _mi_threads_each(ids_left, &left);
  return (left < given ? given - left : 0);
}

_Static_assert(sizeof(mi_heap_extra_t) > 448 && sizeof(mi_heap_extra_t) <= 480, "extras are of MI_BIN_EXTRA");

mi_heap_extra_t* _mi_heap_extra_make(mi_heap_t* heap) {
  mi_heap_extra_t* seen = mi_load_acquire(mi_heap_extra_word(heap));
  if (seen != NULL) return seen;
  mi_thread_t* const thread = mi_thread();
  mi_heap_extra_t* const made = (thread == NULL ? NULL : _mi_internal_zalloc(thread, sizeof(mi_heap_extra_t)));
  if (made == NULL) return NULL;
  made->account.heap = heap;
  if (mi_cas_strong_acq_rel(mi_heap_extra_word(heap), &seen, made)) {
    _mi_part_account(&heap->home);
    return made;
  }
  _mi_internal_free(made);
  return seen;
}

// Of a thread that is not of the main sub-process.
static mi_cold mi_heap_t* heap_tag_subproc(mi_heap_t* heap, mi_subproc_t* subproc) {
  mi_heap_extra_t* const extra = _mi_heap_extra_make(heap);
  if (extra == NULL) {
    mi_heap_destroy(heap);
    _mi_error(ENOMEM, "mi_heap_new: no memory for a heap\n");
    return NULL;
  }
  extra->subproc = subproc;
  return heap;
}

mi_heap_t* mi_heap_new(void) {
  mi_thread_t* const thread = mi_thread();
  mi_heap_t* const heap = (mi_likely(thread != NULL) ? _mi_handle_alloc(thread) : NULL);
  if (mi_unlikely(heap == NULL)) {
    _mi_error(ENOMEM, "mi_heap_new: no memory for a heap\n");
    return NULL;
  }
  const uint64_t id = _mi_heap_next_id(thread);
  // Release: who enumerates the handles and finds an id finds a heap that is set up.
  mi_store_release(&heap->home.id, id);
  mi_subproc_t* const subproc = mi_load_relaxed(&thread->subproc);
  if (mi_unlikely(subproc != NULL)) return heap_tag_subproc(heap, subproc);
  return heap;
}

mi_heap_t* mi_heap_new_ex(int heap_tag, bool allow_destroy, mi_arena_id_t arena) {
  mi_heap_t* const heap = (arena == NULL ? mi_heap_new() : mi_heap_new_in_arena(arena));
  if (heap == NULL) return NULL;
  if (heap_tag != 0) {
    mi_heap_extra_t* const extra = _mi_heap_extra_make(heap);
    if (extra == NULL) {
      mi_heap_destroy(heap);
      _mi_error(ENOMEM, "mi_heap_new_ex: no memory for the tag\n");
      return NULL;
    }
    extra->tag = heap_tag;
  }
  if (!allow_destroy) mi_heap_set_flags(heap, mi_heap_flags(heap) | MI_HEAP_NO_DESTROY);
  return heap;
}

const char* mi_heap_name(const mi_heap_t* heap) {
  if (heap == &_mi_heap_main) return "main";
  const mi_heap_extra_t* const extra = mi_heap_extra(heap);
  return (extra == NULL ? "" : extra->name);
}

// --- checks -----------------------------------------------------------------------------------------------------

// Is the handle one of an open heap? Reports use of a heap that ended.
bool _mi_heap_check_usable(mi_heap_t* heap, const char* function) {
  if (heap == &_mi_heap_main) return true;
  if (mi_load_acquire(&heap->home.id) != 0 && mi_load_relaxed(&heap->state) == MI_HEAP_OPEN) return true;
  _mi_vault_accuse_heap(heap, function);
  _mi_error(EFAULT, "%s: the heap at %p was destroyed or deleted\n", function, (void*)heap);
  return false;
}

bool _mi_heap_check_end(mi_heap_t* heap, bool drops, const char* function) {
  if (heap == &_mi_heap_main) {
    _mi_error(EINVAL, "%s: the main heap does not end\n", function);
    return false;
  }
  if (!_mi_heap_check_usable(heap, function)) return false;
  const mi_subproc_t* const subproc = _mi_subproc_of(heap);
  if (subproc != NULL && subproc->heap == heap) {
    _mi_error(EINVAL, "%s: the main heap of a sub-process ends with the sub-process\n", function);
    return false;
  }
  const mi_thread_t* const thread = _mi_tls.thread;  // NULL: there was no memory for a record; closing needs none
  const mi_callback_t* frame = (thread == NULL ? NULL : thread->callbacks);
  while (frame != NULL && frame->heap != heap && !(drops && _mi_family_is_above(heap, frame->heap)))
    frame = frame->outer;
  if (frame != NULL || _mi_heap_is_ending(heap)) {
    _mi_error(EINVAL, "%s: heap %p (%s) may not end in its own callback\n", function, (void*)heap, mi_heap_name(heap));
    return false;
  }
  const mi_visit_t* visit = (thread == NULL ? NULL : thread->visits);
  while (visit != NULL && !(drops && _mi_family_is_above(heap, visit->heap))) visit = visit->outer;
  if (visit != NULL || mi_heap_is_visited(heap)) {
    _mi_error(EINVAL, "%s: heap %p (%s) may not end inside a visit of it\n", function, (void*)heap, mi_heap_name(heap));
    return false;
  }
  return true;
}

void _mi_heap_leave_default(mi_heap_t* heap) {
  mi_thread_t* const thread = _mi_tls.thread;
  if (thread == NULL || _mi_tls.theap->heap != heap || _mi_tls.theap == MI_THEAP_EMPTY) return;
  mi_theap_t* const former = _mi_tls.theap;
  _mi_tls.theap = &thread->main_theap;
  _mi_slot_clear_default(former);
}

// --- destroy ------------------------------------------------------------------------------------------------------

// The last reference is gone, or was never shared: nobody has a theap of the heap.
static void heap_free(mi_heap_t* heap) {
  mi_thread_t* const thread = _mi_tls.thread;
  for (mi_heap_t* forwarder; (forwarder = _mi_forwarder_pop(heap)) != NULL;) _mi_heap_end(forwarder);
  if (mi_load_acquire(&heap->abandoned) != NULL || mi_load_acquire(&heap->pages_out) != 0) {
    _mi_abandoned_sweep(heap, true);
    mi_abandoned_t* const abandoned = mi_load_acquire(&heap->abandoned);
    if (abandoned != NULL) _mi_internal_free(abandoned);
  }
  for (mi_part_t* lane = mi_load_acquire(&heap->parts); lane != NULL;) {
    mi_part_t* const next = mi_load_relaxed(&lane->next);
    _mi_lane_free(lane);
    lane = next;
  }
  const bool in_arena = (mi_heap_flags(heap) & MI_HEAP_IN_ARENA) != 0;
  const mi_heap_extra_t* const extra = heap->home.config;
  if (extra != NULL) {
    if (extra->retain != 0 && thread != NULL) _mi_handle_retain(thread, extra->retain);
    _mi_deferred_drop(heap->home.config);
    _mi_track_hide(heap->home.config, sizeof(mi_heap_extra_t));
    if (!in_arena) _mi_internal_free(heap->home.config);
  }
  _mi_heap_totals_end(heap);
  // A handle is as new when it is recycled, but for its regions.
  mi_part_t* const home = &heap->home;
  mi_store_relaxed(&home->theap, MI_THEAP_EMPTY);
  mi_store_relaxed(&home->slot, (mi_slot_t*)NULL);
  mi_store_relaxed(mi_heap_extra_word(heap), NULL);
  mi_store_relaxed(&heap->parts, (mi_part_t*)NULL);
  mi_store_relaxed(&heap->abandoned, (mi_abandoned_t*)NULL);
  mi_store_relaxed(&heap->refs, 1u);
  mi_store_relaxed(&heap->pages_out, (int64_t)0);
  mi_store_relaxed(&heap->is_target, (uint8_t)0);
  mi_space_t* const space = mi_heap_space(heap);
  mi_heap_set_flags(heap, (space == NULL ? _mi_heap_flags_of_new() : MI_HEAP_IN_SPACE));
  mi_store_relaxed(&heap->visiting, (uint8_t)0);
  home->depth = 0;
  mi_store_relaxed(&home->young_max, MI_YOUNG_UNASKED);
  home->is_shut = 0;
  mi_store_relaxed(&heap->state, (uint8_t)MI_HEAP_OPEN);
  mi_store_release(&heap->into, (mi_heap_t*)NULL);  // see mi_heap_of
  if (in_arena) {
    mi_store_relaxed(&home->region.owner, MI_TID_NONE);
    mi_store_relaxed(&home->id, 0);
    if (space == NULL) {
      _mi_internal_free(heap);
    } else {
      _mi_vault_bury(space);
    }
  } else {
    _mi_handle_free(thread, heap);
  }
}

void _mi_heap_theap_gone(mi_heap_t* heap) {
  // The heap's own reference is dropped by _mi_heap_end alone, so that 0 means that the heap is being destroyed: the
  // last one out frees it. A closed heap keeps its own until who scans it ends it (merge.c).
  if (mi_fetch_sub_acq_rel(&heap->refs, 1u) == 1) heap_free(heap);
}

// Drops the heap with everything in it. The heap may be closed (a merged heap whose target ends).
void _mi_heap_end(mi_heap_t* heap) {
  _mi_heap_account_leave(heap);
  mi_store_release(&heap->state, (uint8_t)MI_HEAP_DYING);
  if (heap->home.config != NULL) _mi_heap_name_end(heap);
  _mi_hold_end(heap);
  _mi_heap_settle(heap);
  if ((mi_heap_flags(heap) & MI_HEAP_COUNTED) != 0) _mi_heap_count_regions(heap);
  MI_FOR_EACH_PART(heap, part) {
    mi_slot_t* slot;
    if (!_mi_slot_take(part, &slot)) continue;  // none, or its thread finishes it
    _mi_theap_free_pages(mi_load_relaxed(&slot->theap));
    _mi_slot_end_taken(slot);
  }
  mi_space_t* const space = mi_heap_space(heap);
  if (space != NULL) {
    _mi_space_clear(space, true);
    _mi_vault_shut(space);
  }
  _mi_heap_theap_gone(heap);  // the heap's own reference
}

// Nothing but a young part: no theap, no lanes, no pages of ended threads, no merged heaps, no extras.
static inline bool heap_is_simple(mi_heap_t* heap) {
  return ((uintptr_t)mi_load_relaxed(&heap->home.slot) | (uintptr_t)mi_load_acquire(&heap->parts) |
          (uintptr_t)mi_load_relaxed(&heap->abandoned) | (uintptr_t)heap->home.config |
          mi_load_relaxed(&heap->is_target) | mi_heap_flags(heap)) == 0;
}

static mi_noinline void heap_destroy(mi_heap_t* heap) {
  bool called = false;
  if ((mi_load_relaxed(&heap->home.region.owner) ^ _mi_tls.tid) <= MI_OWNER_FLAGS && heap->home.config != NULL) {
    const mi_prepared_end_t end = _mi_prepared_end(_mi_tls.thread, heap);
    if (mi_likely(end == MI_PREPARED_KEPT)) return;
    called = (end == MI_PREPARED_CALLED);
  }
  if (!_mi_heap_check_end(heap, (mi_heap_flags(heap) & MI_HEAP_NO_DESTROY) == 0, "mi_heap_destroy")) return;
  if ((mi_heap_flags(heap) & MI_HEAP_NO_DESTROY) != 0) {
    mi_heap_delete(heap);
    return;
  }
  if (called) {
    _mi_deferred_drop(heap->home.config);
  } else if (heap->home.config != NULL) {
    _mi_deferred_end(heap);
  }
  _mi_heap_leave_default(heap);
  _mi_heap_before_end(heap, false);
  _mi_heap_finish(heap);
}

void mi_heap_destroy(mi_heap_t* heap) {
  if (mi_unlikely(heap == NULL)) return;
  mi_thread_t* const thread = _mi_tls.thread;
  // A young heap that only its home thread used: the regions and the handle are all there is. (The home of a dead
  // handle and of the main heap is nobody; a thread without a record has an id that no heap has.)
  if (mi_likely((mi_load_relaxed(&heap->home.region.owner) ^ _mi_tls.tid) <= MI_OWNER_FLAGS) && heap_is_simple(heap) &&
      mi_likely(thread->callback_heap == NULL)) {
#if MI_CHECKED
    _mi_checked_heap_end(heap);
#endif
    _mi_handle_free(thread, heap);
    return;
  }
  heap_destroy(heap);
}

void _mi_heap_finish(mi_heap_t* heap) {
  if ((mi_heap_flags(heap) & MI_HEAP_REPORTS) != 0) _mi_heap_report_survivors(heap);
#if MI_CHECKED
  _mi_checked_heap_end(heap);
#endif
  _mi_heap_end(heap);
}

// --- reset ----------------------------------------------------------------------------------------------------------

static mi_noinline void heap_reset(mi_heap_t* heap) {
  if (!_mi_heap_check_end(heap, true, "mi_heap_reset") || !_mi_isolated_may_reset(heap, "mi_heap_reset")) return;
  _mi_deferred_reset_begin(heap);
  _mi_heap_before_end(heap, true);
#if MI_CHECKED
  _mi_checked_heap_end(heap);
#endif
  _mi_heap_settle(heap);
  if ((mi_heap_flags(heap) & MI_HEAP_COUNTED) != 0) _mi_heap_count_regions(heap);
  const mi_heap_extra_t* const extra = mi_heap_extra(heap);
  const size_t retain = (extra == NULL ? 0 : extra->retain);
  MI_FOR_EACH_PART(heap, part) {
    for (;;) {
      mi_slot_t* slot = NULL;
      if (_mi_slot_take_for_reset(part, &slot)) {
        _mi_part_reset(part, retain);
        _mi_theap_reset(mi_load_relaxed(&slot->theap), retain > part->bytes ? retain - part->bytes : 0,
                        _mi_part_earned);
        _mi_slot_give_back(slot);
        break;
      }
      if (slot == NULL) {
        _mi_part_reset(part, retain);
        break;
      }
      mi_count(&_mi_stats.heap_waits, 1);
      _mi_os_yield();  // its thread is in collect or exit: the heap stays, so its thread must be through first
    }
    if (!mi_heap_has_regions(heap)) _mi_part_close_young(part);
  }
  for (mi_heap_t* forwarder; (forwarder = _mi_forwarder_pop(heap)) != NULL;) _mi_heap_end(forwarder);
  _mi_abandoned_sweep(heap, true);
  if (mi_heap_space(heap) != NULL) _mi_space_clear(mi_heap_space(heap), false);
  _mi_heap_totals_end(heap);
  _mi_limit_reset(heap);
  _mi_deferred_reset_end(heap);
}

void mi_heap_reset(mi_heap_t* heap) {
  if (mi_unlikely(heap == NULL)) return;
  // The short way, as in mi_heap_destroy. What regions left in the heap's totals goes with a reset.
  if (mi_likely((mi_load_relaxed(&heap->home.region.owner) ^ _mi_tls.tid) <= MI_OWNER_FLAGS) && heap_is_simple(heap) &&
      mi_likely(_mi_tls.thread->callback_heap == NULL) && mi_likely(mi_load_relaxed(&heap->home.totals) == NULL)) {
#if MI_CHECKED
    _mi_checked_heap_end(heap);
#endif
    _mi_part_reset_home(&heap->home);
    return;
  }
  heap_reset(heap);
}
