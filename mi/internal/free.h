// The short way of the most common remote free, inlined where malloc's free leaves its fast path (mi/override.c) and in
// _mi_free_slow. The protocol, and all other cases, are in free.c.
#pragma once
#ifndef MI_INTERNAL_FREE_H
#define MI_INTERNAL_FREE_H

#include "mi/internal/bit_page.h"

// Pushes a block on the list of a page in NORMAL or DELAYING; `tf` is the page's word as it was loaded. False: it is in
// another state by now, or the block is the list's first one already, and nothing happened.
static inline bool mi_page_push_remote(mi_page_t* page, mi_block_t* block, mi_thread_free_t* tf) {
  while (MI_STATE(*tf) == MI_NORMAL || MI_STATE(*tf) == MI_DELAYING) {
    mi_block_t* const first = MI_LIST(*tf);
    if (mi_unlikely(first == block)) return false;
    block->next = first;
    // Release: our last writes to the block come before the owner's collect.
    if (mi_cas_weak_acq_rel(&page->thread_free, tf, mi_word_with_block(*tf, block))) return true;
  }
  return false;
}

// Frees a block in the first slice of a plain page of another thread, if the page's theap need not be told. Touches the
// block, the second line of the page's slot, and nothing else; errno neither. False: another case, and nothing
// happened.
static inline bool mi_free_remote(void* p) {
  if (mi_unlikely(!mi_span_contains(p))) return false;
  mi_page_t* const page = mi_slot_of(p);
  if (mi_unlikely(page->kind != MI_PAGE_CLASS || page->policy != 0)) return false;
  const mi_tid_t owner = mi_load_relaxed(&page->owner);
  if ((owner & (MI_OWNER_INTERIOR | MI_OWNER_SPECIAL)) != 0 || (owner & ~MI_OWNER_FLAGS) == _mi_tls.tid) return false;
  // What looks like a slot is none inside a huge block; but it hardly says that its page begins in this slice.
  const size_t offset = (size_t)((uint8_t*)p - page->start);
  if (mi_unlikely(offset >= MI_SLICE_SIZE || (uint32_t)offset % (uint32_t)page->block_size != 0)) return false;
  mi_thread_free_t tf = mi_load_relaxed(&page->thread_free);
  return mi_page_push_remote(page, (mi_block_t*)p, &tf);
}

// What leaves a fast path and needs no more than a few instructions: in the secure build, where every page has a
// policy, the thread's own blocks.
#if MI_SECURE
static inline bool mi_free_short(void* p) { return _mi_bits_free_plain(p, NULL); }
#else
static inline bool mi_free_short(void* p) { return mi_free_remote(p); }
#endif

#endif
