// Ending a heap and keeping its blocks: delete (into the main heap) and merge (into a heap of choice).
//
// Other threads may free the heap's blocks at the same moment and later, so nothing of the heap is moved while they
// might look: the heap is *closed*. Its handle stays, forwards to the target, and stands on the target's stack of
// forwarders until its last block is gone. Nobody allocates in it any more; theaps of running threads abandon their
// pages on the closed heap's own lists (MI_WANT_ABANDON, at the next slow path), from where the target's threads take
// them when they look for pages; regions stay where they are, are freed when their objects are, and are looked through
// a few per slow path.
//
// Invariants:
//  * a forwarder is on its target's stacks, or held by the one thread that popped it; only its holder frees it;
//  * it is freed when no theap is attached (refs is 1), no page is out (pages_out is 0) and every region is empty: no
//    block is left, so nobody can lead a free to it. Each of the three can only fall;
//  * `into` leads to an open heap in the end: a heap that is closed moves its own forwarders to its target first.
// A merge into a heap other than main, and the end of a heap that was merged into, are serialised by one flag: they are
// no paths that allocate or free.
#include <errno.h>

#include "mi/heap/parts.h"
#include "mi/heap/table.h"
#include "mi/internal/os.h"
#include "mi/internal/stack.h"
#include "mi/internal/stats.h"

// --- the flag ------------------------------------------------------------------------------------------------

static _Atomic(uint32_t) merge_flag;

static void merge_enter(void) {
  uint32_t expected = 0;
  while (!mi_cas_weak_acq_rel(&merge_flag, &expected, 1u)) {
    expected = 0;
    mi_count(&_mi_stats.heap_waits, 1);
    _mi_os_yield();
  }
}
static void merge_leave(void) { mi_store_release(&merge_flag, 0u); }
void _mi_merge_settle(void) { mi_store_relaxed(&merge_flag, 0u); }

// --- stacks of forwarders --------------------------------------------------------------------------------------
// Two per heap: looked-at forwarders go to the second, which becomes the first when that is empty, so that all are met
// in turn.

#define FORWARDER_LINK offsetof(mi_heap_t, forwarder_next)

static void forwarder_push(_Atomic(uint64_t)* stack, mi_heap_t* heap) { mi_stack_push(stack, heap, FORWARDER_LINK); }
static mi_heap_t* forwarder_pop(_Atomic(uint64_t)* stack) { return mi_stack_pop(stack, FORWARDER_LINK); }

mi_heap_t* _mi_forwarder_pop(mi_heap_t* heap) {
  mi_heap_t* const forwarder = forwarder_pop(&heap->forwarders[0]);
  return (forwarder != NULL ? forwarder : forwarder_pop(&heap->forwarders[1]));
}

// --- what remains of a closed heap --------------------------------------------------------------------------------

// Frees regions that became empty, and the heap if nothing is left. The caller holds the heap. True: it is gone.
bool _mi_heap_free_remains(mi_heap_t* heap) {
  bool empty = true;
  MI_FOR_EACH_PART(heap, part) {
    part->current = &part->region;  // nobody bumps any more: every other region may go
    _mi_part_release_empty(part);
    if (part->regions != NULL || !_mi_region_is_empty(&part->region)) empty = false;
  }
  if (!empty || mi_load_acquire(&heap->refs) != 1 || mi_load_acquire(&heap->pages_out) != 0) return false;
  if (_mi_heap_is_held(heap)) return false;  // objects lay in the handle and in lanes
  _mi_heap_totals_move(heap);
  _mi_heap_end(heap);
  return true;
}

// Pops a forwarder; when the first stack ran empty, the second becomes the first.
static mi_heap_t* forwarder_next(mi_heap_t* heap) {
  mi_heap_t* forwarder = forwarder_pop(&heap->forwarders[0]);
  if (forwarder != NULL) return forwarder;
  forwarder = mi_stack_take(&heap->forwarders[1]);
  if (forwarder == NULL) return NULL;
  mi_heap_t* rest = mi_load_relaxed(&forwarder->forwarder_next);
  uint64_t first = mi_load_relaxed(&heap->forwarders[0]);
  if (rest != NULL && (mi_stack_node(first) != NULL ||
                       !mi_cas_strong_acq_rel(&heap->forwarders[0], &first, mi_stack_next_head(first, rest)))) {
    while (rest != NULL) {  // somebody pushed meanwhile: one by one
      mi_heap_t* const after = mi_load_relaxed(&rest->forwarder_next);
      forwarder_push(&heap->forwarders[0], rest);
      rest = after;
    }
  }
  return forwarder;
}

#define MI_SWEEP_PAGES 64

// Threads of the target take no pages of a heap that had another policy.
static bool is_of_other_policy(const mi_heap_t* heap, const mi_heap_t* forwarder) {
  const mi_heap_extra_t *const a = mi_heap_extra(heap), *const b = mi_heap_extra(forwarder);
  return (a == NULL ? 0 : a->policy) != (b == NULL ? 0 : b->policy);
}

// What a look at a forwarder does beside taking pages. Its empty pages wait in its lists for who pops them.
static void forwarder_look(mi_heap_t* heap, mi_heap_t* forwarder) {
  const int64_t pages = mi_load_relaxed(&forwarder->pages_out);
  if (pages > 0 && pages <= MI_SWEEP_PAGES) {
    _mi_abandoned_sweep(forwarder, false);
  } else if (pages > 0 && is_of_other_policy(heap, forwarder)) {
    _mi_abandoned_sweep_step(forwarder, MI_SWEEP_PAGES);
  } else if (pages > 0) {
    _mi_abandoned_unsweep_step(forwarder, MI_SWEEP_PAGES);  // a former target may have had another policy
  }
  if (!_mi_heap_free_remains(forwarder)) forwarder_push(&heap->forwarders[1], forwarder);
}

// Are there any to look at? Not while a visitor walks along them.
static bool heap_has_forwarders(mi_heap_t* heap) {
  if (mi_heap_is_visited(heap)) return false;
  return !mi_stack_is_empty(&heap->forwarders[0]) || !mi_stack_is_empty(&heap->forwarders[1]);
}

// For a thread of the target that looks for a page of a class. Looks at a few forwarders in turn.
mi_page_t* _mi_reclaim_merged(mi_theap_t* theap, size_t bin) {
  mi_heap_t* const heap = theap->heap;
  mi_page_t* page = NULL;
  for (int tries = 0; tries < 4 && page == NULL && heap_has_forwarders(heap); tries++) {
    mi_heap_t* const forwarder = forwarder_next(heap);
    if (forwarder == NULL) return NULL;
    // Blocks keep the policy that they were made with, and so do pages.
    if (_mi_policy_may_reclaim(theap, forwarder)) page = _mi_theap_reclaim(theap, forwarder, bin);
    forwarder_look(heap, forwarder);
  }
  return page;
}

void _mi_forwarders_step(mi_heap_t* heap) {
  if (!heap_has_forwarders(heap)) return;
  mi_heap_t* const forwarder = forwarder_next(heap);
  if (forwarder != NULL) forwarder_look(heap, forwarder);
}

// Looks through all forwarders of a heap.
void _mi_forwarders_collect(mi_heap_t* heap) {
  if (!heap_has_forwarders(heap)) return;
  for (int i = 0; i < 2; i++) {
    for (mi_heap_t* forwarder = mi_stack_take(&heap->forwarders[i]); forwarder != NULL;) {
      mi_heap_t* const next = mi_load_relaxed(&forwarder->forwarder_next);
      _mi_abandoned_sweep(forwarder, false);
      if (!_mi_heap_free_remains(forwarder)) forwarder_push(&heap->forwarders[i], forwarder);
      forwarder = next;
    }
  }
}

// For rewind: ends the heaps that were merged since the mark of this depth. For unmark: what is deeper gets the depth.
void _mi_forwarders_rewind(mi_heap_t* heap, uint16_t depth, bool keep) {
  for (int i = 0; i < 2; i++) {
    for (mi_heap_t* forwarder = mi_stack_take(&heap->forwarders[i]); forwarder != NULL;) {
      mi_heap_t* const next = mi_load_relaxed(&forwarder->forwarder_next);
      if (!keep && forwarder->home.depth >= depth) {
        _mi_heap_end(forwarder);
      } else {
        if (forwarder->home.depth > depth) forwarder->home.depth = depth;
        forwarder_push(&heap->forwarders[i], forwarder);
      }
      forwarder = next;
    }
  }
}

// --- accounts -----------------------------------------------------------------------------------------------------

static mi_account_t* account_to_count_in(mi_heap_t* heap) {
  return (heap == &_mi_heap_main ? &_mi_account_main : mi_account_of(heap));
}

// A closed heap counts in its target. One without an account, which goes into the main heap, is counted there.
static void account_close(mi_heap_t* heap, mi_heap_t* target) {
  if (mi_account_of(heap) == NULL) {
    mi_store_relaxed(&heap->home.young_max, 0);  // a region that it opened for nothing counts, since it will go
    _mi_account_main_add((int64_t)_mi_account_held(heap));
    return;
  }
  _mi_family_enter();
  _mi_heap_account_move(heap, account_to_count_in(target));
  _mi_family_leave();
}

static void account_leave(mi_heap_t* heap) {
  mi_account_t* const account = mi_account_of(heap);
  const bool closed = (mi_load_relaxed(&heap->state) == MI_HEAP_CLOSED);
  if (account == NULL) {
    if (closed) _mi_account_main_add(-(int64_t)_mi_account_held(heap));
  } else if (mi_account_above(account) == NULL) {
    return;
  } else if (closed && mi_load_acquire(&heap->refs) == 1 && mi_load_acquire(&heap->pages_out) == 0) {
    // Nobody else is left; no lock, since this is on the way of allocations too.
    _mi_account_settle(account, 0);
    _mi_account_add(account, -(mi_load_relaxed(&account->word) >> 1));
  } else {
    _mi_family_enter();
    _mi_account_move(account, NULL, false);
    _mi_family_leave();
  }
}

// The heap ends, and with it those that were merged into it; a thread that has a theap of one may finish that later.
void _mi_heap_account_leave(mi_heap_t* heap) {
  account_leave(heap);
  for (int i = 0; i < 2; i++) {
    mi_heap_t* forwarder = mi_stack_node(mi_load_acquire(&heap->forwarders[i]));
    for (; forwarder != NULL; forwarder = mi_load_relaxed(&forwarder->forwarder_next)) account_leave(forwarder);
  }
}

// --- closing -------------------------------------------------------------------------------------------------------

static void heap_close(mi_heap_t* heap, mi_heap_t* target) {
  mi_thread_t* const thread = _mi_tls.thread;
  _mi_heap_settle_to_close(heap);
  _mi_heap_totals_settle(heap);
  if (heap->home.config != NULL) _mi_heap_name_end(heap);
  _mi_hold_end(heap);
  heap->home.depth = target->home.depth;  // its blocks are as young as the marks that the target has now
  // From here on mi_heap_of follows, and allocation in the heap is refused.
  mi_store_release(&heap->into, target);
  mi_store_release(&heap->state, (uint8_t)MI_HEAP_CLOSED);
  mi_store_release(&heap->home.id, 0);  // what threads remember of the heap does not serve any more
  MI_FOR_EACH_PART(heap, part) {
    // No owner: every later free marks with fetch_or. A former owner that is in the middle of a free may still store
    // to a `freed` word, which only it writes.
    mi_store_relaxed(&part->region.owner, MI_TID_NONE);
    for (mi_region_t* region = part->regions; region != NULL; region = region->next) {
      mi_store_relaxed(&region->owner, MI_TID_NONE);
    }
    mi_region_t* const current = part->current;
    mi_store_release(&current->end, (uint16_t)((mi_load_relaxed(&part->bump) - (uint8_t*)current) / 16));
    mi_slot_t* const slot = mi_load_acquire(&part->slot);
    if (slot != NULL && slot->thread == thread && _mi_slot_enter(slot)) {
      atomic_fetch_or_explicit(&slot->word, (uint64_t)MI_WANT_ABANDON, memory_order_acq_rel);
      _mi_slot_leave(slot, false, false);
    } else {
      _mi_slot_post(part, MI_WANT_ABANDON);
    }
  }
  for (mi_heap_t* forwarder; (forwarder = _mi_forwarder_pop(heap)) != NULL;) {
    mi_store_release(&forwarder->into, target);
    forwarder->home.depth = target->home.depth;
    if (mi_account_of(forwarder) != NULL) account_close(forwarder, target);
    forwarder_push(&target->forwarders[0], forwarder);
  }
  account_close(heap, target);
  // Two looks for each heap that is closed: they do not pile up.
  _mi_forwarders_step(target);
  _mi_forwarders_step(target);
  if (!_mi_heap_free_remains(heap)) forwarder_push(&target->forwarders[0], heap);
}

// The heap's blocks go to `into`, or where that went; the checks are done, and nothing but blocks is left of the heap.
static void heap_close_into(mi_heap_t* heap, mi_heap_t* into, const char* function) {
  _mi_heap_leave_default(heap);
  const bool serial = (into != &_mi_heap_main || mi_load_acquire(&heap->is_target) != 0);
  if (serial) merge_enter();
  mi_heap_t* const target = mi_heap_live_end(into);
  if (target == &_mi_heap_main || _mi_heap_check_usable(target, function)) {
    if (target != &_mi_heap_main) mi_store_release(&target->is_target, (uint8_t)1);
    heap_close(heap, target);
  }
  if (serial) merge_leave();
}

void _mi_heap_close(mi_heap_t* heap, mi_heap_t* target) { heap_close_into(heap, target, "mi_heap_delete"); }

static void heap_merge(mi_heap_t* heap, mi_heap_t* into, const char* function) {
  if (!_mi_heap_check_end(heap, false, function) || _mi_isolated_stays(heap, into, function)) return;
  mi_heap_t* const target = mi_heap_live_end(into);
  if (target == heap) {
    _mi_error(EINVAL, "%s: heap %p (%s) cannot be merged into itself\n", function, (void*)heap, mi_heap_name(heap));
  } else if ((target == &_mi_heap_main || _mi_heap_check_usable(target, function)) &&
             _mi_heap_may_close(heap, target, function)) {
    if (target != &_mi_heap_main && (_mi_heap_extra_make(heap) == NULL || _mi_heap_extra_make(target) == NULL)) {
      _mi_error(ENOMEM, "%s: no memory; heap %p (%s) stays\n", function, (void*)heap, mi_heap_name(heap));
      return;
    }
    // What is called meanwhile may not end the target either.
    mi_thread_t* const thread = _mi_tls.thread;
    mi_callback_t frame = {NULL, target, 0};
    mi_callback_enter(thread, &frame);
    if (mi_heap_extra(heap) != NULL) _mi_deferred_end(heap);
    _mi_heap_leave_default(heap);
    _mi_heap_before_close(heap, target);
    mi_callback_leave(thread, &frame);
    heap_close_into(heap, target, function);
  }
}

void mi_heap_delete(mi_heap_t* heap) {
  if (heap == NULL) return;
  mi_heap_t* const into = (mi_load_acquire(&heap->home.id) == 0 ? NULL : _mi_subproc_heap(_mi_subproc_of(heap)));
  heap_merge(heap, (into == NULL ? &_mi_heap_main : into), "mi_heap_delete");
}

void mi_heap_merge(mi_heap_t* heap, mi_heap_t* into) {
  if (heap != NULL) heap_merge(heap, (into == NULL ? &_mi_heap_main : into), "mi_heap_merge");
}
