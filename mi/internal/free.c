// Freeing: from a pointer to its page and block, frees by other threads, and the delayed list. The fast path (a block
// of a page that the calling thread owns) is in mi/malloc.c, a short way for blocks of other threads' pages in free.h.
//
// Remote free. One CAS pushes the block on the page's thread_free list, counts it, and tells the page's state in the
// same step:
//  * NORMAL, DELAYING: that is all; the owner collects the list when it needs blocks.
//  * DELAYED: the page is on its theap's full list, where no search looks: the theap must learn of it. The first freer
//    makes the page DELAYING, pushes the block on the theap's delayed list instead, then makes the page NORMAL. A page
//    in DELAYING is never released, abandoned or made full again, so the theap stays valid in between.
//  * ABANDONED: nobody has the page. The push makes it NORMAL and the freer its owner.
#include "mi/internal/free.h"

#include <errno.h>

#include "mi/internal/bit_page.h"
#include "mi/internal/guard.h"
#include "mi/internal/options.h"
#include "mi/internal/space.h"
#include "mi/internal/stats.h"

static void page_free_remote(mi_page_t* page, mi_block_t* block) {
  mi_thread_free_t tf = mi_load_relaxed(&page->thread_free);
  for (;;) {
    // Whoever handed the block to us as a live one saw it collected before: what is on the list was freed already.
    if (mi_unlikely(MI_LIST(tf) == block)) {
      _mi_misuse(EAGAIN, "mi_free: double free of %p by other threads than its page's", block);
      return;
    }
    switch (MI_STATE(tf)) {
      case MI_DELAYED: {
        // Acquire: page->theap as it was when the page became full.
        if (!mi_cas_weak_acq_rel(&page->thread_free, &tf, MI_WITH_STATE(tf, MI_DELAYING))) continue;
        mi_theap_t* const theap = mi_load_relaxed(&page->theap);
        mi_block_t* head = mi_load_relaxed(&theap->delayed_free);
        do {
          block->next = head;
          // Release: the freer's last writes to the block; the theap drains with acquire.
        } while (!mi_cas_weak_acq_rel(&theap->delayed_free, &head, block));
        // Release: the push comes before the state that lets the owner go on without us.
        tf = mi_load_relaxed(&page->thread_free);
        while (!mi_cas_weak_acq_rel(&page->thread_free, &tf, MI_WITH_STATE(tf, MI_NORMAL))) {
        }
        return;
      }
      case MI_ABANDONED: {
        block->next = MI_LIST(tf);
        const mi_thread_free_t next = MI_WITH_STATE(mi_word_with_block(tf, block), MI_NORMAL);
        // Acquire: what the former owner left; release: our writes to the block.
        if (!mi_cas_weak_acq_rel(&page->thread_free, &tf, next)) continue;
        _mi_page_claimed(page);
        return;
      }
      default:  // NORMAL, DELAYING
        if (mi_page_push_remote(page, block, &tf)) return;
    }
  }
}

void _mi_block_free(mi_page_t* page, mi_block_t* block) {
  const mi_tid_t owner = mi_load_relaxed(&page->owner);
  if ((owner & ~MI_OWNER_FLAGS) == _mi_tls.tid) {
    _mi_page_free_local(page, block);
  } else {
    page_free_remote(page, block);
  }
}

// The page of an address in a block; NULL if there is none.
static inline mi_page_t* page_around(const void* p) {
  if (MI_SECURE || mi_unlikely(!mi_span_contains(p))) return (p == NULL ? NULL : _mi_page_of_any(p));
  mi_page_t* page = mi_slot_of(p);
  if (page->kind == MI_PAGE_TAIL) page -= page->distance;
  // What lies here is no slot if p points into a later segment of a huge block: a slot's page is in its segment.
  if (page->kind == MI_PAGE_NONE || mi_segment_of(page->start) != mi_segment_of(p)) page = _mi_page_of_any(p);
  return page;
}

// Blocks of full pages that other threads freed. The calling thread has the theap.
void _mi_theap_drain_delayed(mi_theap_t* theap) {
  mi_block_t* block = mi_exchange_acq_rel(&theap->delayed_free, (mi_block_t*)NULL);
  while (block != NULL) {
    mi_block_t* const next = block->next;
    mi_page_t* const guarded = mi_guard_link_page(block);
    if (mi_unlikely(theap->policy != 0 && guarded == NULL)) {
      _mi_bits_drained(theap, block);
    } else {
      mi_page_t* const page = (mi_likely(guarded == NULL) ? page_around(block) : guarded);
      page->delayed--;
      _mi_stats_remote_frees(page, 1);
      _mi_page_free_local(page, block);
    }
    block = next;
  }
}

mi_noinline void _mi_free_other(void* p) {
#if MI_CHECKED
  if (!_mi_upcalls.check_free(p)) return;
#endif
  mi_page_t* const page = page_around(p);
  if (mi_unlikely(page == NULL)) {
    if (p == NULL) return;
    _mi_vault_accuse(p, "mi_free");
    if (_mi_bits_last_policy(p) != 0) {
      _mi_upcalls.policy_free(p);
      return;
    }
    _mi_misuse(EINVAL, "mi_free: invalid pointer %p: not a block of this library", p);
    return;
  }
  if (mi_unlikely(page->guard != 0)) {
    _mi_guard_free(page, p);
    return;
  }
  if (mi_unlikely(page->policy != 0)) {
    _mi_upcalls.policy_free(p);
    return;
  }
  const mi_tid_t owner = mi_load_relaxed(&page->owner);
  if ((owner & MI_OWNER_SPECIAL) != 0) {
    if ((owner & MI_OWNER_INTERIOR) != 0) goto invalid;
    _mi_upcalls.region_free(page, p);
    return;
  }
  mi_block_t* block = (mi_block_t*)p;
  if (mi_page_is_single(page)) {
    block = (mi_block_t*)page->start;
    if (mi_unlikely((size_t)((uint8_t*)p - page->start) >= sizeof(mi_block_t))) {
      goto invalid;
    }
  } else if ((owner & MI_OWNER_INTERIOR) != 0) {
    block = mi_page_block_of(page, p);
  } else if (mi_unlikely((size_t)((uint8_t*)p - page->start) % page->block_size != 0)) {
    goto invalid;
  }
  _mi_block_free(page, block);
  return;
invalid:
  _mi_misuse(EINVAL, "mi_free: invalid pointer %p: no block starts there", p);
}

// Every free that is not a plain block of the calling thread's page: other threads' blocks, full pages, large and huge
// blocks, regions, NULL, and pointers that are not ours.
mi_noinline void _mi_free_slow(void* p) {
  if (mi_unlikely(!mi_free_short(p))) _mi_free_other(p);
}
