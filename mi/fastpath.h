// The fast paths of malloc and free, as inline functions that every entry point makes its own copy of (mi_malloc in
// malloc.c, malloc and operator new in override.c), so that none pays for a call of another. What is not the common
// case is a tail call of the function that the caller names. (Talk: the malloc() fast path, the free() implementation.)
#pragma once
#ifndef MI_FASTPATH_H
#define MI_FASTPATH_H

#include <string.h>

#include "mi/heap/parts.h"
#include "mi/internal/bit_page.h"

#define mi_always_inline static inline __attribute__((always_inline))

typedef void* mi_malloc_slow_fun(size_t size, mi_theap_t* theap, bool zero);  // size first: it is there already
typedef void mi_free_slow_fun(void* p);

// Pops a block, and has the next one brought near: it may have been freed long ago, and the next pop reads it. That the
// block is where the result is to be from here on spares the instruction that this takes.
mi_always_inline void* mi_page_pop_ahead(mi_page_t* page, mi_block_t* block) {
#if defined(__x86_64__)
  __asm__("" : "+a"(block));
#endif
  mi_block_t* const next = block->next;
  page->used++;
  page->free = next;
  __builtin_prefetch(next);
  return block;
}

mi_always_inline void* mi_fast_malloc(size_t size, mi_malloc_slow_fun* slow) {
  mi_theap_t* const theap = _mi_tls.theap;
#if MI_SECURE
  if (mi_guarded_tick()) return slow(size, theap, false);
  mi_page_t* const page = mi_bits_direct_page(theap, size);
  return (mi_likely(page != NULL) ? mi_bits_pop_direct(page, size) : slow(size, theap, false));
#else
  if (mi_guarded_tick() || mi_unlikely(size > MI_DIRECT_SIZE_MAX)) return slow(size, theap, false);
  mi_page_t* const page = theap->direct[(size + 7) / 8];
  mi_block_t* const block = page->free;
  if (mi_unlikely(block == NULL)) return slow(size, theap, false);
  return mi_page_pop_ahead(page, block);
#endif
}

mi_always_inline void* mi_fast_zalloc(size_t size, mi_malloc_slow_fun* slow) {
  mi_theap_t* const theap = _mi_tls.theap;
#if MI_SECURE
  if (mi_guarded_tick()) return slow(size, theap, true);
  mi_page_t* const page = mi_bits_direct_page(theap, size);
  return (mi_likely(page != NULL) ? memset(mi_bits_pop_direct(page, size), 0, size) : slow(size, theap, true));
#else
  if (mi_guarded_tick() || mi_unlikely(size > MI_DIRECT_SIZE_MAX)) return slow(size, theap, true);
  mi_page_t* const page = theap->direct[(size + 7) / 8];
  mi_block_t* const block = page->free;
  if (mi_unlikely(block == NULL)) return slow(size, theap, true);
  mi_page_pop(page, block);
  if (page->free_zero) {
    block->next = NULL;
    return block;
  }
  return memset(block, 0, page->block_size);
#endif
}

#if MI_SECURE
// The page in which a live block of up to 1 KiB begins at p whose slack its state holds, the block's number, and the
// slack. NULL: another case, or none of ours. Nothing is looked at but bits until it is known that a page is there.
mi_always_inline mi_page_t* mi_secure_find(const void* p, size_t* index, size_t* slack) {
  mi_bits_t* bits;
  if (mi_unlikely(!mi_bits_around(p, &bits, index))) return NULL;
  *slack = (size_t)mi_load_acquire(&bits->states[*index]) - 1;
  return (mi_likely(*slack <= MI_SLACK_MAX) ? bits->page : NULL);
}

// The same of a page of the calling thread, for a block whose padding is as it was written.
mi_always_inline mi_page_t* mi_secure_find_own(const void* p, size_t* index, size_t* slack) {
  mi_page_t* const page = mi_secure_find(p, index, slack);
  if (mi_unlikely(page == NULL)) return NULL;
  const mi_tid_t other = mi_load_relaxed(&page->owner) ^ _mi_tls.tid;
  if (mi_unlikely((other & ~MI_OWNER_FULL) != 0)) return NULL;
  if (MI_SECURE < 4) return page;
  return (mi_likely(mi_padding_edge_is_whole((const uint8_t*)p + page->block_size, *slack)) ? page : NULL);
}

// Frees what is a live block of up to 1 KiB of a page of the calling thread that is not full; `size`: if it was asked
// for as so many bytes, unless NULL. False: another case, or something is wrong with it; nothing happened. An owner
// word that is the thread's, with no flags, is that of a page of a theap without a policy of its own.
mi_always_inline bool mi_secure_free(void* p, const size_t* size) {
  mi_bits_t* bits;
  size_t index;
  if (mi_unlikely(!mi_bits_around(p, &bits, &index))) return false;
  mi_page_t* const page = bits->page;
  if (mi_unlikely(mi_load_relaxed(&page->owner) != _mi_tls.tid)) return false;
  mi_state_t* const state = &bits->states[index];
  const size_t slack = (size_t)mi_load_relaxed(state) - 1;
  if (mi_unlikely(slack > MI_SLACK_MAX)) return false;
  if (size != NULL && mi_unlikely(page->block_size - slack != *size + (*size == 0))) return false;
  if (MI_SECURE >= 4 && mi_unlikely(!mi_padding_edge_is_whole((uint8_t*)p + page->block_size, slack))) return false;
  mi_store_relaxed(state, MI_STATE_FREE);
  if (mi_unlikely(--page->used == 0)) _mi_page_retire(page);
  return true;
}
#endif

// The block `p` with what the caller says of it; what the fast path does not do it leaves to `slow`.
typedef void mi_free_sized_slow_fun(void* p, size_t size);
mi_always_inline void mi_fast_free_sized(void* p, size_t size, mi_free_sized_slow_fun* slow) {
#if MI_SECURE
  if (mi_unlikely(!mi_secure_free(p, &size))) slow(p, size);
#else
  size_t offset;
  if (mi_unlikely(!mi_span_offset(p, &offset))) {
    slow(p, size);
    return;
  }
  mi_page_t* const page = mi_slot_of_offset(p, offset);
  if (mi_unlikely(mi_load_relaxed(&page->owner) != _mi_tls.tid)) {
    slow(p, size);
    return;
  }
  mi_block_t* const block = p;
  block->next = page->local_free;
  page->local_free = block;
  if (mi_unlikely(--page->used == 0)) _mi_page_retire(page);
#endif
}

mi_always_inline void mi_fast_free(void* p, mi_free_slow_fun* slow) {
#if MI_SECURE
  if (mi_unlikely(!mi_secure_free(p, NULL))) slow(p);
#else
  // One test for NULL, memory that is not ours and ours: then the page, its owner, and the push.
  size_t offset;
  if (mi_unlikely(!mi_span_offset(p, &offset))) {
    slow(p);
    return;
  }
  mi_page_t* const page = mi_slot_of_offset(p, offset);
  const mi_tid_t owner = mi_load_relaxed(&page->owner);
  if (mi_unlikely(owner != _mi_tls.tid)) {
    // Read again, so that the compare above needs no register for it.
    if (owner == (*(volatile mi_tid_t*)&_mi_tls.tid | MI_OWNER_SPECIAL)) {
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
#endif
}

// The page of size classes that the calling thread owns and in which a block begins at p: most blocks of most programs.
// NULL: another case.
mi_always_inline mi_page_t* mi_fast_page(const void* p) {
  if (MI_CHECKED || MI_SECURE != 0 || mi_unlikely(!mi_span_contains(p))) return NULL;
  mi_page_t* const page = mi_slot_of(p);
  // The owner's flags: in a full page a block begins at p, in one with interior pointers or regions perhaps not.
  const mi_tid_t other = mi_load_relaxed(&page->owner) ^ _mi_tls.tid;
  return (mi_likely((other & ~MI_OWNER_FULL) == 0 && page->kind == MI_PAGE_CLASS) ? page : NULL);
}

mi_always_inline size_t mi_fast_usable_size(const void* p) {
#if MI_SECURE
  size_t index, slack;
  mi_page_t* const its = mi_secure_find(p, &index, &slack);
  return (mi_likely(its != NULL) ? its->block_size - slack : _mi_usable_size(p));
#else
  const mi_page_t* const page = mi_fast_page(p);
  return (mi_likely(page != NULL) ? page->block_size : _mi_usable_size(p));
#endif
}

// Resizes what the calling thread has in pages of its default heap: the page is looked up once, for the size, the copy
// and the free. NULL and nothing done, with `*done` false: a case for _mi_heap_realloc_any.
mi_always_inline void* mi_fast_realloc(void* p, size_t newsize, bool* done) {
  *done = false;
#if MI_SECURE
  size_t index, slack;
  mi_page_t* const page = mi_secure_find_own(p, &index, &slack);
  if (mi_unlikely(page == NULL)) return NULL;
  const size_t size = page->block_size - slack;
  const bool fits = (newsize >= page->block_size / 2 && mi_bits_fits(page, page->bits, newsize));
#else
  mi_page_t* const page = mi_fast_page(p);
  if (mi_unlikely(page == NULL)) return NULL;
  const size_t size = page->block_size;
  const bool fits = (newsize <= size && newsize >= size / 2 && newsize > 0);
#endif
  mi_theap_t* const theap = _mi_tls.theap;
  if (!fits && (mi_load_relaxed(&page->theap) != theap || theap->heap != &_mi_heap_main)) return NULL;
  *done = true;
#if MI_SECURE
  if (fits && newsize != size) {
    mi_bits_set_size(page, page->bits, index, newsize);
    mi_page_pad_live(page, (uint8_t*)p + page->block_size, page->block_size - newsize);
  }
#endif
  if (fits) return p;
  void* const q = mi_fast_malloc(newsize, _mi_malloc_generic);
  if (mi_unlikely(q == NULL)) return NULL;
  memcpy(q, p, newsize < size ? newsize : size);
  mi_fast_free(p, _mi_free_slow);
  return q;
}

#endif
