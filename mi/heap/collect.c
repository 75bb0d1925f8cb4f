// Collecting: giving back what holds no live block, for a thread, a heap, or everything. And the table of what the core
// calls of this layer.
#include <stdlib.h>

#include "mi/heap/checked.h"
#include "mi/heap/table.h"
#include "mi/internal/space.h"
#include "mi/mimalloc.h"

static void collect_slot(mi_slot_t* slot, bool force) {
  if (!_mi_slot_enter(slot)) return;
  _mi_theap_collect(mi_load_relaxed(&slot->theap), force);
  _mi_slot_leave(slot, false, false);
}

// The calling thread's theaps of all heaps, and with `force` what it keeps for later.
void _mi_thread_collect(mi_thread_t* thread, bool force) {
  _mi_theap_collect(&thread->main_theap, force);
  _mi_thread_for_each_slot(thread, collect_slot, force);
  if (force) _mi_handle_cache_flush(thread);
  _mi_theap_collect(&thread->internal_theap, force);
}

void mi_collect(bool force) {
  mi_thread_t* const thread = mi_thread();
  if (thread == NULL) return;
  thread->heartbeat++;
  _mi_deferred_call(thread, _mi_tls.theap->heap, force);
  _mi_thread_read_mail(thread);
  _mi_table_answer(thread);
  mi_heap_t* const main = _mi_thread_main_heap();  // of the thread's sub-process
  _mi_forwarders_collect(&_mi_heap_main);
  if (main != &_mi_heap_main) _mi_forwarders_collect(main);
  if (force) {
    _mi_threads_reap();
    _mi_abandoned_sweep(&_mi_heap_main, false);
    if (main != &_mi_heap_main) _mi_abandoned_sweep(main, false);
    _mi_threads_each_free(_mi_returned_flush);
    _mi_thread_collect(thread, true);
    _mi_abandoned_sweep(&_mi_heap_internal, false);
    _mi_theap_collect(&thread->internal_theap, true);
    _mi_threads_want_collect(thread);
    _mi_vault_collect(false);
    _mi_kept_pages_purge();
  } else {
    _mi_thread_collect(thread, false);
  }
  _mi_purge(force);
  mi_freed_twice_tell(thread, &_mi_heap_main);
}

void _mi_heap_collect_parts(mi_heap_t* heap, bool force) {
  mi_thread_t* const thread = _mi_tls.thread;
  if (heap == &_mi_heap_main) {
    _mi_theap_collect(&thread->main_theap, force);
    _mi_threads_want_collect(thread);
    _mi_forwarders_collect(heap);
    _mi_abandoned_sweep(heap, false);
    return;
  }
  MI_FOR_EACH_PART(heap, part) {
    mi_slot_t* const slot = mi_load_acquire(&part->slot);
    if (slot != NULL && slot->thread == thread) {
      collect_slot(slot, force);
    } else if (slot != NULL) {
      _mi_slot_post(part, MI_WANT_COLLECT);
    }
    if (mi_part_owner(part) == mi_load_relaxed(&thread->id)) _mi_part_release_empty(part);
  }
  _mi_forwarders_collect(heap);
  _mi_abandoned_sweep(heap, false);
  if (mi_heap_space(heap) != NULL) _mi_space_collect(mi_heap_space(heap), force);
}

void mi_heap_collect(mi_heap_t* heap, bool force) {
  if (heap == NULL) return;
  if (heap == &_mi_heap_main) {
    mi_collect(force);
    return;
  }
  mi_thread_t* const thread = mi_thread();
  if (thread == NULL || !_mi_heap_check_usable(heap, "mi_heap_collect")) return;
  thread->heartbeat++;
  _mi_deferred_call(thread, heap, force);
  if (!_mi_heap_check_usable(heap, "mi_heap_collect")) return;  // ended by the callback
  _mi_heap_collect_parts(heap, force);
  if (force) {
    _mi_handle_cache_flush(thread);
    _mi_theap_collect(&thread->internal_theap, true);
  }
  _mi_purge(force);
  mi_freed_twice_tell(thread, heap);
}

void mi_theap_collect(mi_theap_t* theap, bool force) {
  if (theap == NULL || theap->thread != mi_thread()) return;
  if (theap->slot != NULL) {
    collect_slot(theap->slot, force);
  } else {
    _mi_theap_collect(theap, force);
  }
  mi_freed_twice_tell(_mi_tls.thread, &_mi_heap_main);
}

static void thread_exit(mi_thread_t* thread) {
  thread->heartbeat++;
  _mi_deferred_thread_exit(thread);
  _mi_subproc_leave(thread);
}

static void thread_collect(mi_thread_t* thread) { _mi_thread_collect(thread, true); }

static void process_start(void) {
  _mi_reserve_at_start();
  _mi_table_at_start();
}

static void process_end(void) {
  if (mi_load_acquire(&_mi_is_corrupt)) abort();
  _mi_survivors_at_exit();
  _mi_stats_at_exit();
}

const mi_upcalls_t _mi_upcalls = {
    .region_free = _mi_region_free,
    .policy_free = _mi_policy_free,
    .thread_unwound = _mi_visits_end,
    .policy_freed_twice = _mi_policy_freed_twice,
    .thread_exit = thread_exit,
    .thread_flush = _mi_handle_cache_flush,
    .thread_collect = thread_collect,
    .theap_gone = _mi_heap_theap_gone,
    .reclaim = _mi_reclaim_merged,
    .around_fork = _mi_heaps_around_fork,
    .after_fork = _mi_heaps_after_fork,
#if MI_CHECKED
    .check_free = _mi_checked_free,
#endif
    .has_hold = _mi_heap_has_hold,
    .totals = _mi_heap_totals,
    .process_start = process_start,
    .process_end = process_end,
};
