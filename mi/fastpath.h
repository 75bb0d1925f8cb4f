// The fast paths of malloc and free, as inline functions that every entry point makes its own copy of (mi_malloc in
// malloc.c, malloc and operator new in override.c), so that none pays for a call of another. What is not the common
// case is a tail call of the function that the caller names. (Talk: the malloc() fast path, the free() implementation.)
#pragma once
#ifndef MI_FASTPATH_H
#define MI_FASTPATH_H

#include <string.h>

#include "mi/heap/parts.h"

#define mi_always_inline static inline __attribute__((always_inline))

typedef void* mi_malloc_slow_fun(mi_theap_t* theap, size_t size, bool zero);
typedef void mi_free_slow_fun(void* p);

mi_always_inline void* mi_fast_malloc(size_t size, mi_malloc_slow_fun* slow) {
  mi_theap_t* const theap = _mi_tls.theap;
  if (mi_unlikely(size > MI_DIRECT_SIZE_MAX)) return slow(theap, size, false);
  mi_page_t* const page = theap->direct[(size + 7) / 8];
  mi_block_t* const block = page->free;
  if (mi_unlikely(block == NULL)) return slow(theap, size, false);
  return mi_page_pop(page, block);
}

mi_always_inline void* mi_fast_zalloc(size_t size, mi_malloc_slow_fun* slow) {
  mi_theap_t* const theap = _mi_tls.theap;
  if (mi_unlikely(size > MI_DIRECT_SIZE_MAX)) return slow(theap, size, true);
  mi_page_t* const page = theap->direct[(size + 7) / 8];
  mi_block_t* const block = page->free;
  if (mi_unlikely(block == NULL)) return slow(theap, size, true);
  mi_page_pop(page, block);
  if (page->free_zero) {
    block->next = NULL;
    return block;
  }
  return memset(block, 0, page->block_size);
}

mi_always_inline void mi_fast_free(void* p, mi_free_slow_fun* slow) {
  // One test for NULL, memory that is not ours and ours: then the page, its owner, and the push.
  if (mi_unlikely(!mi_span_contains(p))) {
    slow(p);
    return;
  }
  mi_page_t* const page = mi_slot_of(p);
  const mi_tid_t other = mi_load_relaxed(&page->owner) ^ _mi_tls.tid;
  if (mi_unlikely(other != 0)) {
    if (other == MI_OWNER_SPECIAL) {
      _mi_region_free(page, p);
    } else {
      slow(p);
    }
    return;
  }
  mi_block_t* const block = p;
  block->next = page->local_free;
  page->local_free = block;
  if (mi_unlikely(--page->used == 0)) _mi_page_retire(page);
}

#endif
