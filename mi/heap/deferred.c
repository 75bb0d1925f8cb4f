// The process-wide deferred_free callback: registration as one pair, and the one place that calls it. A callback runs
// with nothing held and may allocate and free; one flag per thread keeps callbacks from nesting.
#include "mi/heap/parts.h"
#include "mi/internal/track.h"
#include "mi/mimalloc.h"

_Atomic(const mi_pair_t*) _mi_deferred_pair;

void mi_register_deferred_free(mi_deferred_free_fun* deferred_free, void* arg) {
  const mi_pair_t* const pair = _mi_pair_intern((mi_any_fun*)deferred_free, arg);
  if (pair == NULL && deferred_free != NULL) return;  // no memory: errno is ENOMEM, the former pair stays
  mi_store_release(&_mi_deferred_pair, pair);
}

void _mi_deferred_call(mi_thread_t* thread, mi_heap_t* heap, bool force) {
  const mi_pair_t* const pair = mi_load_acquire(&_mi_deferred_pair);
  if (mi_likely(pair == NULL) || thread->callback_depth > 0) return;
  thread->callback_depth++;
  thread->callback_heap = heap;
  mi_deferred_free_fun* const deferred_free = (mi_deferred_free_fun*)mi_load_relaxed(&pair->fun);
  MI_CALL_USER(deferred_free(force, thread->heartbeat, pair->arg));
  thread->callback_heap = NULL;
  thread->callback_depth--;
}
