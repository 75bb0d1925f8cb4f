// Sub-processes: groups of threads whose heaps have nothing to do with those of other groups. A sub-process is a main
// heap of its own. A thread that joins one has that heap as its default and as the target of mi_heap_delete, and the
// heaps that it makes are marked; blocks, pages and abandoned memory are then never shared with another group, since
// nothing is ever shared between heaps. Which group a block belongs to is its heap's mark: any thread may free it.
//
// Invariant: a sub-process's main heap ends only with the sub-process, which ends only when no thread is in it.
#include <errno.h>

#include "mi/heap/checked.h"
#include "mi/internal/stats.h"
#include "mi/mimalloc.h"

static mi_subproc_t main_subproc;  // stands for the main heap; its `heap` stays NULL

static mi_subproc_id_t id_of(mi_subproc_t* subproc) {
  return (mi_subproc_id_t){subproc == NULL ? &main_subproc : subproc};
}
static mi_subproc_t* subproc_of_id(mi_subproc_id_t id) {  // NULL: the main one, which 2.x's programs name so too
  mi_subproc_t* const subproc = id._mi_subproc;
  return (subproc == &main_subproc ? NULL : subproc);
}

mi_heap_t* _mi_subproc_heap(const mi_subproc_t* subproc) {
  return (subproc == NULL || subproc == &main_subproc ? &_mi_heap_main : subproc->heap);
}

// Also of a heap that ends at this moment: its extras stay readable, and what is read is compared only.
MI_RACY mi_subproc_t* _mi_subproc_of(const mi_heap_t* heap) {
  const mi_heap_extra_t* const extra = mi_racy(heap->home.config);
  return (extra == NULL ? NULL : mi_racy(extra->subproc));
}

mi_heap_t* _mi_thread_main_heap(void) {
  const mi_thread_t* const thread = _mi_tls.thread;
  return (thread == NULL ? &_mi_heap_main : _mi_subproc_heap(mi_load_relaxed(&thread->subproc)));
}

void _mi_subproc_leave(mi_thread_t* thread) {
  mi_subproc_t* const subproc = mi_load_relaxed(&thread->subproc);
  if (subproc == NULL) return;
  // Release: what the thread did in the group comes before its end. The last touch of the group.
  mi_fetch_sub_acq_rel(&subproc->threads, 1u);
  mi_store_relaxed(&thread->subproc, NULL);
}

static void look_for_member(mi_thread_t* thread, void* seen) {
  mi_subproc_t** const subproc = seen;
  if (mi_load_acquire(&thread->id) == MI_TID_NONE || mi_thread_is_gone(thread)) return;
  if (mi_load_acquire(&thread->subproc) == *subproc) *subproc = NULL;
}

// Are threads in the group? In the child of a fork those that are gone are still counted: there the records tell.
static bool has_threads(mi_subproc_t* subproc) {
  // Acquire: all that its threads did.
  if (mi_load_acquire(&subproc->threads) == 0) return false;
  if (mi_likely(_mi_fork_stamp == 1)) return true;
  mi_subproc_t* seen = subproc;
  _mi_threads_each(look_for_member, &seen);
  return seen == NULL;
}

bool _mi_subproc_is_main(mi_subproc_id_t id) { return subproc_of_id(id) == NULL; }

static bool is_of_another(mi_heap_t* heap, void* subproc) { return _mi_subproc_of(heap) != subproc; }

// Without a look at what may be no sub-process: one that lives has a heap that names it.
bool _mi_subproc_exists(mi_subproc_id_t id) {
  return _mi_subproc_is_main(id) || !mi_heap_visit_all(is_of_another, id._mi_subproc);
}

mi_subproc_id_t mi_subproc_main(void) { return id_of(NULL); }

mi_subproc_id_t mi_subproc_current(void) {
  const mi_thread_t* const thread = _mi_tls.thread;
  return id_of(thread == NULL ? NULL : mi_load_relaxed(&thread->subproc));
}

mi_subproc_id_t mi_subproc_new(void) {
  mi_thread_t* const thread = mi_thread();
  mi_subproc_t* const subproc = (thread == NULL ? NULL : _mi_internal_zalloc(thread, sizeof(mi_subproc_t)));
  const mi_heap_config_t config = {.size = sizeof(config), .name = "main of a sub-process"};
  mi_heap_t* const heap = (subproc == NULL ? NULL : mi_heap_new_with(&config));
  if (heap == NULL) {
    if (subproc != NULL) _mi_internal_free(subproc);
    _mi_error(ENOMEM, "mi_subproc_new: no memory\n");
    return (mi_subproc_id_t){NULL};
  }
  ((mi_heap_extra_t*)heap->home.config)->subproc = subproc;
  subproc->heap = heap;
  return id_of(subproc);
}

void mi_subproc_add_current_thread(mi_subproc_id_t id) {
  mi_thread_t* const thread = mi_thread();
  if (thread == NULL) {
    _mi_error(ENOMEM, "mi_subproc_add_current_thread: the thread could not be set up\n");
    return;
  }
  mi_subproc_t* const subproc = subproc_of_id(id);
  mi_subproc_t* const former = mi_load_relaxed(&thread->subproc);
  if (former == subproc) return;
  if (former != NULL) {
    _mi_error(EINVAL, "mi_subproc_add_current_thread: the thread is in another sub-process already\n");
    return;
  }
  mi_theap_t* const theap = mi_heap_theap(subproc->heap);
  if (theap == NULL) return;  // reported
  mi_fetch_add_acq_rel(&subproc->threads, 1u);
  mi_store_release(&thread->subproc, subproc);
  mi_theap_set_default(theap);
}

typedef struct visit_s {
  const mi_subproc_t* subproc;
  mi_heap_visit_fun* visitor;
  void* arg;
} visit_t;

static bool visit_member(mi_heap_t* heap, void* arg) {
  const visit_t* const visit = arg;
  if (_mi_subproc_of(heap) != visit->subproc) return true;
  bool more;
  MI_CALL_USER(more = visit->visitor(heap, visit->arg));
  return more;
}

bool mi_subproc_visit_heaps(mi_subproc_id_t id, mi_heap_visit_fun* visitor, void* arg) {
  if (visitor == NULL) {
    _mi_error(EINVAL, "mi_subproc_visit_heaps: no visitor\n");
    return false;
  }
  visit_t visit = {subproc_of_id(id), visitor, arg};
  return mi_heap_visit_all(visit_member, &visit);
}

// --- the end --------------------------------------------------------------------------------------------------

static bool end_member(mi_heap_t* heap, void* arg) {
  const mi_subproc_t* const subproc = arg;
  if (heap == subproc->heap) return true;
  if (mi_heap_extra(heap) != NULL) _mi_deferred_end(heap);
  _mi_heap_leave_default(heap);
  _mi_heap_before_end(heap, false);
  _mi_heap_finish(heap);
  return true;
}

static bool delete_member(mi_heap_t* heap, void* arg) {
  const mi_subproc_t* const subproc = arg;
  if (heap != subproc->heap) mi_heap_merge(heap, &_mi_heap_main);
  return true;
}

static bool is_not_ending(mi_heap_t* heap, void* unused) {
  (void)unused;
  return !_mi_heap_is_ending(heap);
}

// Does a callback or a visit of one of its heaps run, on the calling thread?
static bool is_called_back(const mi_thread_t* thread, mi_subproc_t* subproc) {
  for (const mi_callback_t* c = (thread == NULL ? NULL : thread->callbacks); c != NULL; c = c->outer) {
    if (_mi_subproc_of(c->heap) == subproc) return true;
  }
  for (const mi_visit_t* v = (thread == NULL ? NULL : thread->visits); v != NULL; v = v->outer) {
    if (_mi_subproc_of(v->heap) == subproc) return true;
  }
  return !mi_subproc_visit_heaps(id_of(subproc), is_not_ending, NULL);
}

static void subproc_end(mi_subproc_id_t id, bool keep_blocks, const char* function) {
  mi_subproc_t* const subproc = subproc_of_id(id);
  if (subproc == NULL) {
    if (id._mi_subproc != NULL) _mi_error(EINVAL, "%s: the main sub-process does not end\n", function);
    return;
  }
  if (has_threads(subproc)) {
    _mi_error(EINVAL, "%s: threads of the sub-process are running\n", function);
    return;
  }
  if (is_called_back(_mi_tls.thread, subproc)) {
    _mi_error(EINVAL, "%s: the sub-process may not end in a callback or a visit of one of its heaps\n", function);
    return;
  }
  mi_subproc_visit_heaps(id, (keep_blocks ? delete_member : end_member), subproc);
  mi_heap_t* const heap = subproc->heap;
  subproc->heap = NULL;  // it is an ordinary heap from here on
  if (keep_blocks) {
    mi_heap_merge(heap, &_mi_heap_main);
  } else {
    mi_heap_destroy(heap);
  }
  _mi_internal_free(subproc);
}

void mi_subproc_destroy(mi_subproc_id_t id) { subproc_end(id, false, "mi_subproc_destroy"); }
void mi_subproc_delete(mi_subproc_id_t id) { subproc_end(id, true, "mi_subproc_delete"); }

// --- 2.x's view of abandoned blocks ------------------------------------------------------------------------------

typedef struct abandoned_visit_s {
  int heap_tag;
  bool blocks;
  mi_block_visit_fun* visitor;
  void* arg;
} abandoned_visit_t;

static bool visit_abandoned(mi_heap_t* heap, void* arg) {
  const abandoned_visit_t* const visit = arg;
  const mi_heap_extra_t* const extra = mi_heap_extra(heap);
  if (visit->heap_tag >= 0 && visit->heap_tag != (extra == NULL ? 0 : extra->tag)) return true;
  return mi_heap_visit_abandoned_blocks(heap, visit->blocks, visit->visitor, visit->arg);
}

bool mi_abandoned_visit_blocks(mi_subproc_id_t id, int heap_tag, bool visit_blocks, mi_block_visit_fun* visitor,
                               void* arg) {
  abandoned_visit_t visit = {heap_tag, visit_blocks, visitor, arg};
  return mi_subproc_visit_heaps(id, visit_abandoned, &visit);
}
