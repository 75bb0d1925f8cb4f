// Heaps made to order again and again: a thread that ends a heap which it made with a configuration keeps the handle
// with all that the configuration asked for, and makes the next heap of the same configuration of it. What is compared
// is the configuration, byte by byte: it was checked when the first of them was made.
//
// Only heaps that never grew beyond their first part are kept like this (as in the short way of mi_heap_destroy), of
// configurations without what ties a heap to others or to a place: no name, parent or arena; nor with protections,
// whose presence was not a matter of the configuration alone. They stand in a list of their own, so that mi_heap_new
// never meets them, and within the same bounds as other recycled handles.
//
// Invariant: the account of a handle in the list is empty, its deferred_free carries no id, and its limits are those
// of its configuration.
#include <string.h>

#include "mi/heap/checked.h"
#include "mi/heap/deferred.h"

// Two words at a time, wherever they lie.
typedef uint64_t two_words_t __attribute__((vector_size(16), aligned(8), may_alias));
#define PAIRS (sizeof(mi_heap_config_t) / sizeof(two_words_t))
_Static_assert(sizeof(mi_heap_config_t) % sizeof(two_words_t) == sizeof(uint32_t) * 2, "flags and required are left");

static inline bool is_same(const mi_heap_config_t* a, const mi_heap_config_t* b) {
  const two_words_t* const x = (const two_words_t*)(const void*)a;
  const two_words_t* const y = (const two_words_t*)(const void*)b;
  two_words_t difference = {0, 0};
#pragma GCC unroll 16
  for (size_t i = 0; i < PAIRS; i++) difference |= x[i] ^ y[i];
  return (difference[0] | difference[1] | (a->flags ^ b->flags) | (a->required ^ b->required)) == 0;
}

// KiB that a first part may open without a question, where nothing else counts against the limits.
static uint16_t unasked(const mi_heap_config_t* config) {
  const size_t least =
      (config->limit != 0 && (config->soft_limit == 0 || config->limit < config->soft_limit) ? config->limit
                                                                                             : config->soft_limit);
  if (least == 0) return MI_YOUNG_UNASKED;
  return (uint16_t)(least / MI_KiB < MI_YOUNG_UNASKED ? least / MI_KiB : MI_YOUNG_UNASKED - 1);
}

void _mi_prepared_begin(mi_heap_t* heap, const mi_heap_config_t* config) {
  mi_heap_extra_t* const extra = heap->home.config;
  extra->unasked = unasked(config);
  mi_store_relaxed(&heap->home.young_max, extra->unasked);
  if (config->size != sizeof(*config) || config->name != NULL || config->parent != NULL || config->arena != NULL ||
      config->retain != 0 || config->flags != 0 || config->required != 0)
    return;
  extra->config = *config;
  extra->is_prepared = true;
}

// --- its deferred_free ------------------------------------------------------------------------------------------
// No other thread has a part of the heap, so that nobody counts with this one.

static inline void last_call(mi_thread_t* thread, mi_heap_t* heap, mi_deferred_t* deferred) {
  const mi_deferred_pair_t* const pair = mi_load_relaxed(&deferred->pair);
  if (pair == NULL) return;
  const unsigned long long heartbeat = mi_load_relaxed(&deferred->heartbeat) + 1;
  mi_store_relaxed(&deferred->heartbeat, heartbeat);
  mi_callback_t frame = {NULL, heap, SIZE_MAX};
  mi_callback_enter(thread, &frame);
  MI_CALL_USER(pair->fun(heap, true, heartbeat, pair->arg));
  mi_callback_leave(thread, &frame);
}

// Back to what the configuration said. False: another pair of function and argument was registered.
static inline bool deferred_rest(mi_deferred_t* deferred) {
  if (mi_load_relaxed(&deferred->pairs) != NULL) return false;
  mi_store_relaxed(&deferred->pair, deferred->first.fun != NULL ? &deferred->first : NULL);
  mi_store_relaxed(&deferred->id, 0);
  return true;
}

static inline void deferred_revive(mi_thread_t* thread, mi_deferred_t* deferred, uint64_t id) {
  mi_store_relaxed(&deferred->heartbeat, 0);
  deferred->home.region = NULL;
  deferred->home.bytes = deferred->home.blocks = 0;
  mi_store_release(&deferred->id, id);
  mi_deferred_entry_t* const entry = (mi_deferred_entry_t*)thread->deferred_heaps + deferred->entry;
  if (mi_likely(deferred->entry < thread->deferred_count && entry->deferred == deferred)) {
    entry->id = id;
    deferred->home.joined = mi_load_relaxed(&thread->id);
  } else {
    _mi_deferred_join_again(thread, deferred);
  }
}

// --- beginning and end ----------------------------------------------------------------------------------------------

mi_heap_t* _mi_prepared_take(mi_thread_t* thread, const mi_heap_config_t* config) {
  static const mi_heap_config_t plain = {.size = sizeof(plain)};
  mi_heap_t* const heap = thread->prepared;
  if (heap == NULL) return (config->size == sizeof(*config) && is_same(config, &plain) ? mi_heap_new() : NULL);
  mi_heap_extra_t* const extra = heap->home.config;
  if (mi_unlikely(config->size != sizeof(*config)) || !is_same(config, &extra->config) ||
      extra->subproc != mi_load_relaxed(&thread->subproc))
    return NULL;
  _mi_handle_take_prepared(thread, heap);
  const uint64_t id = _mi_heap_next_id(thread);
  mi_deferred_t* const deferred = mi_load_relaxed(&extra->deferred);
  if (deferred != NULL) deferred_revive(thread, deferred, id);
  // Release: as in mi_heap_new.
  mi_store_release(&heap->home.id, id);
  return heap;
}

// Is there nothing of the heap but its first part and what the configuration asked for?
static inline bool is_simple(mi_heap_t* heap, const mi_heap_extra_t* extra) {
  const mi_family_t* const family = &extra->family;
  return ((uintptr_t)mi_load_relaxed(&heap->home.slot) | (uintptr_t)mi_load_acquire(&heap->parts) |
          (uintptr_t)mi_load_relaxed(&heap->abandoned) | mi_load_relaxed(&heap->is_target) | mi_heap_flags(heap) |
          (uintptr_t)family->children | (uintptr_t)family->cleanups | (uintptr_t)family->marks |
          (uintptr_t)mi_load_relaxed(&family->parent) | mi_load_relaxed(&family->ender) | (unsigned)extra->tag |
          (uintptr_t)mi_load_relaxed(&extra->hold) | mi_load_relaxed(&extra->guard.is_set)) == 0;
}

mi_prepared_end_t _mi_prepared_end(mi_thread_t* thread, mi_heap_t* heap) {
  mi_heap_extra_t* const extra = heap->home.config;
  if (!extra->is_prepared || thread->callback_heap != NULL || !is_simple(heap, extra)) return MI_PREPARED_NOT;
  mi_deferred_t* const deferred = mi_load_relaxed(&extra->deferred);
  if (deferred != NULL) {
    last_call(thread, heap, deferred);
    // What it did to the heap is seen to as usual.
    if (mi_unlikely(!is_simple(heap, extra) || !deferred_rest(deferred))) return MI_PREPARED_CALLED;
  }
#if MI_CHECKED
  _mi_checked_heap_end(heap);
#endif
  mi_account_t* const account = &extra->account;
  mi_store_relaxed(&account->word, 0);
  mi_store_relaxed(&account->peak, 0);
  mi_store_relaxed(&account->counted, 0u);
  mi_store_relaxed(&account->alarm, (uint8_t)MI_ALARM_NONE);
  mi_store_relaxed(&account->tripped, (uint8_t)0);
  mi_store_relaxed(&account->limit, extra->config.limit);
  mi_store_relaxed(&account->soft_limit, extra->config.soft_limit);
  mi_store_relaxed(&heap->home.young_max, extra->unasked);
  if (mi_likely(_mi_handle_keep_prepared(thread, heap))) return MI_PREPARED_KEPT;
  _mi_prepared_strip(heap);
  _mi_handle_free(thread, heap);
  return MI_PREPARED_KEPT;
}

void _mi_prepared_strip(mi_heap_t* heap) {
  mi_heap_extra_t* const extra = heap->home.config;
  _mi_deferred_drop(extra);
  _mi_internal_free(extra);
  mi_store_relaxed(mi_heap_extra_word(heap), NULL);
  mi_store_relaxed(&heap->home.young_max, MI_YOUNG_UNASKED);
  heap->home.is_shut = 0;
}
