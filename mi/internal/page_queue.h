// The queues of a theap: circular, doubly linked lists of pages, one per size class, one of full pages and one of
// empty pages that a remote freer has not let go of. A queue is a pointer to its first page; the first page's `prev`
// is the last. Whenever the first page of a small class changes, the direct table follows.
#pragma once
#ifndef MI_INTERNAL_PAGE_QUEUE_H
#define MI_INTERNAL_PAGE_QUEUE_H

#include "mi/internal/core.h"

#define MI_BIN_DIRECT_LAST (MI_BIN_EVEN + 24)  // mi_bin_of(MI_DIRECT_SIZE_MAX)

// The first entry of the direct table that leads to the class: it serves for those below it that have no pages, too.
// The secure build's first entry stays empty: blocks of no bytes have one, of which its fast paths know nothing.
static inline size_t mi_direct_low(const mi_theap_t* theap, size_t bin) {
  size_t below = bin - 1;
  if (below > 0 && mi_theap_bin(theap, below) != below) below--;
  if (below == 0) return (MI_SECURE ? 1 : 0);
  return mi_bin_size(below) / 8 + 1;
}

// direct[w] serves sizes of 8 * w bytes (and up to 7 fewer): it is the first page of the size's queue.
static inline void mi_direct_update(mi_theap_t* theap, size_t bin) {
  // Where every allocation is checked, or the heap has a policy, none is short.
  if (MI_CHECKED || bin > MI_BIN_DIRECT_LAST || mi_policy_is_generic(theap->policy)) return;
  mi_page_t* const page = (theap->queue[bin] != NULL ? theap->queue[bin] : MI_PAGE_EMPTY);
  const size_t high = mi_bin_size(bin) / 8;
  for (size_t w = mi_direct_low(theap, bin); w <= high; w++) theap->direct[w] = page;
}

// A page takes the place of another one of its class, which the table leads to.
static inline void mi_direct_replace(mi_theap_t* theap, const mi_page_t* before, mi_page_t* page) {
  for (size_t w = page->block_size / 8 + 1; w > 0 && theap->direct[w - 1] == before; w--) theap->direct[w - 1] = page;
}

static inline void mi_queue_link(mi_theap_t* theap, size_t bin, mi_page_t* page, bool front) {
  mi_page_t* const first = theap->queue[bin];
  if (first == NULL) {
    page->next = page->prev = page;
  } else {
    page->next = first;
    page->prev = first->prev;
    first->prev->next = page;
    first->prev = page;
  }
  if (first == NULL || front) {
    theap->queue[bin] = page;
    mi_direct_update(theap, bin);
  }
}

// Links a page behind the first of a queue that has one: the direct table stays.
static inline void mi_queue_link_second(mi_theap_t* theap, size_t bin, mi_page_t* page) {
  mi_page_t* const first = theap->queue[bin];
  page->prev = first;
  page->next = first->next;
  first->next->prev = page;
  first->next = page;
}

static inline void mi_queue_unlink(mi_theap_t* theap, size_t bin, mi_page_t* page) {
  if (page->next == page) {
    theap->queue[bin] = NULL;
    mi_direct_update(theap, bin);
  } else {
    page->prev->next = page->next;
    page->next->prev = page->prev;
    if (theap->queue[bin] == page) {
      theap->queue[bin] = page->next;
      mi_direct_update(theap, bin);
    }
  }
  page->next = page->prev = NULL;
  mi_page_is_dry_no_more(theap, page);
}

#endif
