// Functions that a program wants called before a heap's memory goes: registering them, taking them back, and running
// one. When they run is family.c's business.
//
// They are kept in blocks of the internal heap, also those of a heap in an arena: an address of a function means
// nothing to who finds the arena's memory later. The list changes under the families' lock, which is free while one
// runs: a function that runs is on no list any more.
#include <errno.h>

#include "mi/heap/parts.h"

static bool check(mi_heap_t* heap, mi_heap_destroy_fun* fun, const char* function) {
  if (heap == NULL || fun == NULL) {
    _mi_error(EINVAL, "%s: no %s\n", function, heap == NULL ? "heap" : "function");
    return false;
  }
  if (heap == &_mi_heap_main) {
    _mi_error(EINVAL, "%s: the main heap does not end\n", function);
    return false;
  }
  return _mi_heap_check_usable(heap, function);
}

bool mi_heap_on_destroy(mi_heap_t* heap, mi_heap_destroy_fun* fun, void* arg) {
  if (!check(heap, fun, "mi_heap_on_destroy")) return false;
  mi_thread_t* const thread = mi_thread();
  mi_cleanup_t* const cleanup = (thread == NULL ? NULL : _mi_internal_alloc(thread, sizeof(mi_cleanup_t)));
  mi_family_t* const family = (cleanup == NULL ? NULL : _mi_family_make(heap));
  if (family == NULL) {
    if (cleanup != NULL) _mi_internal_free(cleanup);
    _mi_error(ENOMEM, "mi_heap_on_destroy: no memory\n");
    return false;
  }
  cleanup->fun = fun;
  cleanup->arg = arg;
  _mi_family_enter();
  cleanup->serial = _mi_family_serial();
  cleanup->next = family->cleanups;
  mi_stores_in_order();
  family->cleanups = cleanup;
  _mi_family_leave();
  return true;
}

bool mi_heap_cancel_on_destroy(mi_heap_t* heap, mi_heap_destroy_fun* fun, void* arg) {
  if (!check(heap, fun, "mi_heap_cancel_on_destroy")) return false;
  mi_family_t* const family = mi_heap_family(heap);
  if (family == NULL) return false;
  _mi_family_enter();
  mi_cleanup_t** link = &family->cleanups;
  while (*link != NULL && ((*link)->fun != fun || (*link)->arg != arg)) link = &(*link)->next;
  mi_cleanup_t* const found = *link;
  if (found != NULL) *link = found->next;
  _mi_family_leave();
  if (found != NULL) _mi_internal_free(found);
  return found != NULL;
}

mi_cleanup_t* _mi_cleanup_pop(mi_family_t* family, uint64_t since) {
  mi_cleanup_t* const cleanup = family->cleanups;
  if (cleanup == NULL || cleanup->serial <= since) return NULL;
  family->cleanups = cleanup->next;
  return cleanup;
}

// No other callback of the library's starts meanwhile, but those of heaps that this one ends.
void _mi_cleanup_run(mi_cleanup_t* cleanup) {
  mi_heap_destroy_fun* const fun = cleanup->fun;
  void* const arg = cleanup->arg;
  _mi_internal_free(cleanup);
  mi_thread_t* const thread = _mi_tls.thread;
  if (thread != NULL) thread->callback_depth++;
  MI_CALL_USER(fun(arg));
  if (thread != NULL) thread->callback_depth--;
}

// They keep their order, and come to the new heap now: before those that it has.
void _mi_cleanup_move(mi_family_t* from, mi_family_t* into) {
  mi_cleanup_t* last = NULL;
  const uint64_t serial = _mi_family_serial();
  for (mi_cleanup_t* c = from->cleanups; c != NULL; c = c->next) {
    c->serial = serial;
    last = c;
  }
  if (last == NULL) return;
  mi_cleanup_t* const first = from->cleanups;
  from->cleanups = NULL;
  mi_stores_in_order();
  last->next = into->cleanups;
  mi_stores_in_order();
  into->cleanups = first;
}
