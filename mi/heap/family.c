// Families: parents and children among heaps, and the order of events when a heap with one ends.
//
// A child is in its parent's list and names its parent; a heap without extras is in no family. One lock guards every
// list, and the lists of callbacks (cleanup.c): it is entered when a child is made, moved or ends, never to allocate or
// free blocks, and a fork waits for it, so that the child process finds all lists whole.
//
// A heap ends like this: its deferred_free is called a last time; its children end, the youngest first, each with its
// own; then the functions that are to run before its memory goes, the last registered first; then the memory goes. What
// these functions add to the heap, children or functions, ends before the next one runs. While this lasts the heap is
// *ending*: it names the thread that ends it, and cannot be ended, reset, rewound or moved again by what runs. A child
// that is ending already, further out on the same thread's stack, is let go instead: its own end goes on. One that is
// only reset or rewound there would outlive the parent, which may not end then.
//
// Invariants:
//  * no heap is its own ancestor: an existing heap gets a parent under the lock, after a look at all its ancestors;
//  * a parent lives: before it goes, its list is empty (destroyed), or its children moved (closed);
//  * both are of one sub-process, and neither is the main heap.
#include <errno.h>

#include "mi/heap/checked.h"
#include "mi/internal/os.h"
#include "mi/internal/stats.h"

// --- the lock -----------------------------------------------------------------------------------------------------

static _Atomic(uintptr_t) lock_owner;  // the address of its thread's state; 0: nobody
static unsigned lock_nested;           // by who has it
static uint64_t serial;                // by who has it

// Entered again by its owner: in a handler of fork, or by a fork in a signal handler.
void _mi_family_enter(void) {
  const uintptr_t self = (uintptr_t)&_mi_tls;
  if (mi_load_relaxed(&lock_owner) == self) {
    lock_nested++;
    return;
  }
  uintptr_t expected = 0;
  while (!mi_cas_weak_acq_rel(&lock_owner, &expected, self)) {
    expected = 0;
    mi_count(&_mi_stats.heap_waits, 1);
    _mi_os_yield();
  }
}

void _mi_family_leave(void) {
  if (lock_nested > 0) {
    lock_nested--;
  } else {
    mi_store_release(&lock_owner, (uintptr_t)0);
  }
}

uint64_t _mi_family_serial(void) { return ++serial; }

// --- lists --------------------------------------------------------------------------------------------------------

static mi_family_t* family_of(mi_heap_t* heap) { return mi_heap_family(heap); }

mi_family_t* _mi_family_make(mi_heap_t* heap) {
  mi_heap_extra_t* const extra = _mi_heap_extra_make(heap);
  return (extra == NULL ? NULL : &extra->family);
}

static uint64_t heap_id(const mi_heap_t* heap) { return mi_load_relaxed((_Atomic(uint64_t)*)&heap->home.id); }

// The two ends of the one place where a heap's family changes. With the lock; the heap is in no list before `link`.
static void family_unlink(mi_heap_t* heap) {
  mi_family_t* const family = family_of(heap);
  mi_heap_t* const parent = mi_load_relaxed(&family->parent);
  if (parent == NULL) return;
  if (family->next != NULL) family_of(family->next)->prev = family->prev;
  if (family->prev != NULL) {
    family_of(family->prev)->next = family->next;
  } else {
    family_of(parent)->children = family->next;
  }
  family->next = family->prev = NULL;
  mi_store_release(&family->parent, (mi_heap_t*)NULL);
}

static void family_link(mi_heap_t* heap, mi_heap_t* parent) {
  mi_family_t* const family = family_of(heap);
  mi_family_t* const above = family_of(parent);
  mi_heap_t* const head = above->children;
  family->prev = NULL;
  family->next = head;
  family->joined = _mi_family_serial();
  mi_store_release(&family->parent, parent);
  if (head != NULL) {
    family_of(head)->prev = heap;
    if (heap_id(head) > heap_id(heap)) above->unsorted = true;
  }
  above->children = heap;
}

// Can no other thread be on its way through the heap's account? The calling thread is the only one that ever used it.
static bool is_alone(mi_heap_t* heap) {
  return mi_region_is_mine(&heap->home.region) && mi_load_acquire(&heap->parts) == NULL &&
         mi_load_acquire(&heap->pages_out) == 0 && mi_load_relaxed(&heap->is_target) == 0 &&
         family_of(heap)->children == NULL;
}

void _mi_heap_account_move(mi_heap_t* heap, mi_account_t* above) {
  mi_account_t* const account = mi_account_of(heap);
  if (above != NULL) {
    mi_store_relaxed(&heap->home.young_max, 0);
    _mi_account_settle(account, 0);
    if (above != &_mi_account_main) _mi_part_ask(above->heap);
  }
  _mi_account_move(account, above, is_alone(heap));
}

// Changes a heap's parent; NULL: none. What the heap holds counts against its ancestors, so that the accounts of
// limits follow here (and, for a heap that is closed or whose target ends, in merge.c).
static void family_set(mi_heap_t* heap, mi_heap_t* parent) {
  family_unlink(heap);
  if (parent != NULL) family_link(heap, parent);
  _mi_heap_account_move(heap, parent == NULL ? NULL : mi_account_of(parent));
}

// Sorts a list by ids, the highest first: runs of 1, 2, 4, ... heaps are merged.
static mi_heap_t* list_sort(mi_heap_t* list) {
  for (size_t run = 1;; run *= 2) {
    mi_heap_t* rest = list;
    mi_heap_t* last = NULL;
    size_t merges = 0;
    list = NULL;
    while (rest != NULL) {
      mi_heap_t* a = rest;
      mi_heap_t* b = rest;
      size_t left_a = 0, left_b = run;
      for (; left_a < run && b != NULL; left_a++) b = family_of(b)->next;
      merges++;
      while (left_a > 0 || (left_b > 0 && b != NULL)) {
        mi_heap_t** const from = (left_a == 0 || (left_b > 0 && b != NULL && heap_id(b) > heap_id(a)) ? &b : &a);
        mi_heap_t* const heap = *from;
        *from = family_of(heap)->next;
        *(from == &a ? &left_a : &left_b) -= 1;
        family_of(heap)->prev = last;
        if (last == NULL) {
          list = heap;
        } else {
          family_of(last)->next = heap;
        }
        last = heap;
      }
      rest = b;
    }
    if (last != NULL) family_of(last)->next = NULL;
    if (merges <= 1) return list;
  }
}

// The youngest child that came after `since`; NULL: none. With the lock.
static mi_heap_t* youngest_child(mi_family_t* family, uint64_t since) {
  if (family->unsorted) {
    if (family->children != NULL) family->children = list_sort(family->children);
    family->unsorted = false;
  }
  mi_heap_t* child = family->children;
  while (child != NULL && family_of(child)->joined <= since) child = family_of(child)->next;
  return child;
}

// --- asking -------------------------------------------------------------------------------------------------------

static bool is_ending(mi_family_t* family) {
  // Acquire: who ended the heap in this thread's absence is through.
  const mi_tid_t ender = (family == NULL ? MI_TID_NONE : mi_load_acquire(&family->ender));
  if (ender == MI_TID_NONE) return false;
  // A thread without a record has no life to ask for. One that is gone, or ended in the middle, does not go on.
  return ender == MI_TID_UNINIT || (mi_tid_is_alive(ender) && !mi_tid_is_gone(ender));
}

bool _mi_heap_is_ending(mi_heap_t* heap) { return is_ending(mi_heap_family(heap)); }

// With the lock.
static bool is_above(mi_heap_t* heap, mi_heap_t* below) {
  while (below != NULL && below != heap) {
    mi_family_t* const family = mi_heap_family(below);
    below = (family == NULL ? NULL : mi_load_relaxed(&family->parent));
  }
  return below == heap;
}

bool _mi_family_is_above(mi_heap_t* heap, mi_heap_t* below) {
  if (heap == below) return true;
  _mi_family_enter();
  const bool above = is_above(heap, below);
  _mi_family_leave();
  return above;
}

mi_heap_t* mi_heap_parent(mi_heap_t* heap) {
  if (heap == NULL || !_mi_heap_check_usable(heap, "mi_heap_parent")) return NULL;
  mi_family_t* const family = mi_heap_family(heap);
  return (family == NULL ? NULL : mi_load_acquire(&family->parent));
}

// Would a heap whose callback or visitor runs on this thread end with `parent`, if `heap` came below it? Who began to
// end or reset that has looked for such heaps, and will not look again. With the lock.
static bool would_end_early(mi_heap_t* heap, mi_heap_t* parent) {
  const mi_thread_t* const thread = _mi_tls.thread;
  if (thread == NULL || (thread->callbacks == NULL && thread->visits == NULL)) return false;
  bool runs = false;
  for (const mi_callback_t* c = thread->callbacks; c != NULL && !runs; c = c->outer) runs = is_above(heap, c->heap);
  for (const mi_visit_t* v = thread->visits; v != NULL && !runs; v = v->outer) runs = is_above(heap, v->heap);
  for (mi_heap_t* at = parent; runs && at != NULL;) {
    mi_family_t* const family = mi_heap_family(at);
    if (is_ending(family)) return true;
    for (const mi_callback_t* c = thread->callbacks; c != NULL; c = c->outer) {
      if (c->heap == at) return true;
    }
    at = (family == NULL ? NULL : mi_load_relaxed(&family->parent));
  }
  return false;
}

// --- joining ------------------------------------------------------------------------------------------------------

const char* _mi_family_refusal(mi_heap_t* parent, const void* subproc) {
  if (parent == &_mi_heap_main) return "the main heap never ends, and is no parent";
  if (mi_load_acquire(&parent->home.id) == 0 || mi_load_relaxed(&parent->state) != MI_HEAP_OPEN)
    return "that heap was destroyed or deleted";
  if (_mi_subproc_of(parent) != subproc) return "a heap of another sub-process";
  return NULL;
}

bool _mi_family_join(mi_heap_t* heap, mi_heap_t* parent) {
  if (_mi_family_make(heap) == NULL || _mi_family_make(parent) == NULL) return false;
  _mi_family_enter();
  family_set(heap, parent);
  _mi_family_leave();
  return true;
}

bool mi_heap_set_parent(mi_heap_t* heap, mi_heap_t* parent) {
  if (heap == NULL || heap == &_mi_heap_main) {
    _mi_error(EINVAL, "mi_heap_set_parent: %s\n", heap == NULL ? "no heap" : "the main heap has no parent");
    return false;
  }
  if (!_mi_heap_check_usable(heap, "mi_heap_set_parent")) return false;
  const mi_subproc_t* const subproc = _mi_subproc_of(heap);
  const char* refusal = NULL;
  if (subproc != NULL && subproc->heap == heap) {
    refusal = "the main heap of a sub-process has no parent";
  } else if (parent != NULL) {
    refusal = _mi_family_refusal(parent, subproc);
  }
  if (refusal == NULL && parent == NULL && mi_heap_family(heap) == NULL) return true;
  if (refusal == NULL && (_mi_family_make(heap) == NULL || (parent != NULL && _mi_family_make(parent) == NULL))) {
    _mi_error(ENOMEM, "mi_heap_set_parent: no memory\n");
    return false;
  }
  if (refusal == NULL) {
    _mi_family_enter();
    if (_mi_heap_is_ending(heap)) {
      refusal = "the heap is ending";
    } else if (parent != NULL && is_above(heap, parent)) {
      refusal = "the new parent is the heap itself or one of its descendants";
    } else if (parent != NULL && would_end_early(heap, parent)) {
      refusal = "a callback of the heap or a descendant runs, and the new parent may be ending";
    } else if (mi_load_relaxed(&family_of(heap)->parent) != parent) {
      family_set(heap, parent);
    }
    _mi_family_leave();
  }
  if (refusal == NULL) return true;
  _mi_error(EINVAL, "mi_heap_set_parent: heap %p, parent %p: %s\n", (void*)heap, (void*)parent, refusal);
  return false;
}

// --- ends ---------------------------------------------------------------------------------------------------------

// The heap begins to end: from here on nothing ends it twice.
static void end_begin(mi_heap_t* heap) { mi_store_relaxed(&family_of(heap)->ender, _mi_tls.tid); }

// All that ran before the heap's memory goes is through.
static void end_leave(mi_heap_t* heap, bool reset) {
  mi_family_t* const family = family_of(heap);
  if (family->marks != NULL) _mi_marks_drop(heap);
  if (!reset && mi_load_relaxed(&family->parent) != NULL) {
    _mi_family_enter();
    family_set(heap, NULL);
    _mi_family_leave();
  }
  mi_store_release(&family->ender, MI_TID_NONE);
}

// A descendant of a heap that ends goes, after its own descendants and callbacks.
static void end_descendant(mi_heap_t* heap) {
  _mi_heap_leave_default(heap);
  end_leave(heap, false);
  if ((mi_heap_flags(heap) & MI_HEAP_NO_DESTROY) != 0) {
    _mi_heap_close(heap, _mi_subproc_heap(_mi_subproc_of(heap)));
  } else {
    _mi_heap_finish(heap);
  }
}

// Without recursion: a family may be deep.
static void run_down(mi_heap_t* heap, uint64_t since) {
  mi_heap_t* at = heap;
  for (;;) {
    mi_family_t* const family = family_of(at);
    const uint64_t after = (at == heap ? since : 0);
    mi_cleanup_t* cleanup = NULL;
    _mi_family_enter();
    mi_heap_t* const child = youngest_child(family, after);
    const bool child_ends = (child != NULL && is_ending(family_of(child)));
    if (child == NULL) {
      cleanup = _mi_cleanup_pop(family, after);
    } else if (child_ends) {
      family_set(child, NULL);
    } else {
      end_begin(child);
    }
    _mi_family_leave();
    if (child != NULL) {
      if (child_ends) continue;
      at = child;
      _mi_deferred_end(child);
    } else if (cleanup != NULL) {
      _mi_cleanup_run(cleanup);
    } else if (at == heap) {
      return;
    } else {
      mi_heap_t* const parent = mi_load_relaxed(&family->parent);  // it is ending: nobody moves it
      end_descendant(at);
      at = parent;
    }
  }
}

// The heap goes on: what runs may not end it, as in a callback of it, nor end or reset what is above it.
void _mi_family_run_down(mi_heap_t* heap, uint64_t since) {
  mi_thread_t* const thread = _mi_tls.thread;
  mi_callback_t frame = {NULL, heap, 0};
  end_begin(heap);
  mi_callback_enter(thread, &frame);
  run_down(heap, since);
  mi_callback_leave(thread, &frame);
  mi_store_release(&family_of(heap)->ender, MI_TID_NONE);
}

void _mi_heap_before_end(mi_heap_t* heap, bool reset) {
  mi_family_t* const family = mi_heap_family(heap);
  if (family == NULL) return;
  if (family->children != NULL || family->cleanups != NULL) {
    if (reset) {
      _mi_family_run_down(heap, 0);
    } else {
      end_begin(heap);
      run_down(heap, 0);
    }
  }
  end_leave(heap, reset);
}

// Do children and callbacks go to the heap that the blocks go to?
static bool takes_family(const mi_heap_t* target) {
  const mi_subproc_t* const subproc = _mi_subproc_of(target);
  return target != &_mi_heap_main && (subproc == NULL || target != subproc->heap);
}

// A descendant that is ending cannot take its ancestor's place: what ends it has gone that way. And what the target
// needs to take the family is there before the heap's last deferred_free, which may add to that.
bool _mi_heap_may_close(mi_heap_t* heap, mi_heap_t* target, const char* function) {
  const mi_heap_extra_t* const extra = mi_heap_extra(heap);
  if (extra == NULL || !takes_family(target)) return true;
  _mi_family_enter();
  const char* refusal = NULL;
  if (_mi_heap_is_ending(target) && is_above(heap, target)) {
    refusal = "cannot go into a descendant that is ending";
  } else if (would_end_early(heap, target)) {
    refusal = "has a descendant whose callback runs, and the other heap may be ending";
  }
  _mi_family_leave();
  if (refusal != NULL) {
    _mi_error(EINVAL, "%s: heap %p (%s) %s\n", function, (void*)heap, mi_heap_name(heap), refusal);
    return false;
  }
  const mi_family_t* const family = &extra->family;
  if (family->children == NULL && family->cleanups == NULL && mi_load_relaxed(&extra->deferred) == NULL) return true;
  if (_mi_family_make(target) != NULL) return true;
  _mi_error(ENOMEM, "%s: no memory; heap %p (%s) stays\n", function, (void*)heap, mi_heap_name(heap));
  return false;
}

// Children and callbacks of a heap whose blocks live on. Into the main heap, which never ends: callbacks run now, and
// children go up. Else all of it goes with the blocks.
void _mi_heap_before_close(mi_heap_t* heap, mi_heap_t* target) {
  mi_family_t* const family = mi_heap_family(heap);
  if (family == NULL) return;
  const bool moves = takes_family(target);
  mi_family_t* const into =
      (moves && (family->children != NULL || family->cleanups != NULL) ? mi_heap_family(target) : NULL);
  if (!moves && family->cleanups != NULL) {
    end_begin(heap);
    for (mi_cleanup_t* cleanup;;) {
      _mi_family_enter();
      cleanup = _mi_cleanup_pop(family, 0);
      _mi_family_leave();
      if (cleanup == NULL) break;
      _mi_cleanup_run(cleanup);
    }
    mi_store_release(&family->ender, MI_TID_NONE);
  }
  if (family->marks != NULL) _mi_marks_drop(heap);
  _mi_family_enter();
  mi_heap_t* above = mi_load_relaxed(&family->parent);
  if (into != NULL) {
    _mi_cleanup_move(family, into);
    if (_mi_subproc_of(target) == _mi_subproc_of(heap)) {
      if (is_above(heap, target))
        family_set(target, above);  // the parent goes into a descendant, which takes its place
      above = target;
    }
  }
  // The youngest last, so that it comes first in the new list.
  mi_heap_t* child = family->children;
  while (child != NULL && family_of(child)->next != NULL) child = family_of(child)->next;
  while (child != NULL) {
    mi_heap_t* const before = family_of(child)->prev;
    family_set(child, above);
    child = before;
  }
  family_set(heap, NULL);
  _mi_family_leave();
}
