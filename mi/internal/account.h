// What heaps hold, as far as limits and mi_heap_used go: see account.c.
#pragma once
#ifndef MI_INTERNAL_ACCOUNT_H
#define MI_INTERNAL_ACCOUNT_H

#include "mi/internal/core.h"
#include "mi/internal/stats.h"

#define MI_AMOUNT_MAX ((size_t)1 << 47)  // more than there is address space: no block is that large

mi_hidden extern mi_account_t _mi_account_main;  // a name for the main heap's, which is kept in the threads' records

// The heap's account; NULL: it has none (yet), or it is the main or the internal heap.
static inline mi_account_t* mi_account_of(mi_heap_t* heap) {
  return mi_load_acquire((_Atomic(mi_account_t*)*)&heap->home.config);
}

// `n` bytes more, if no limit on the way up is passed. False: the calling thread's `refusal` says whose limit it was.
mi_hidden bool _mi_account_charge(mi_account_t* account, size_t n);
// Would they be? The same without a charge.
mi_hidden bool _mi_account_fits(mi_account_t* account, size_t n);
// `n` bytes more or less, whatever the limits.
mi_hidden void _mi_account_add(mi_account_t* account, int64_t n);
// The heap's first part charged (or added) `prepaid` bytes, and has just changed by them: whatever else it changed by
// follows.
mi_hidden void _mi_account_settle(mi_account_t* account, int64_t prepaid);
// The account counts in `above` (NULL: in none) from now on. With the families' lock. `alone`: no other thread is on
// its way through it; else it waits for those that may be.
mi_hidden void _mi_account_move(mi_account_t* account, mi_account_t* above, bool alone);
mi_hidden int64_t _mi_account_total(mi_account_t* account);
mi_hidden size_t _mi_account_held(mi_heap_t* heap);        // by the heap's first part
mi_hidden size_t _mi_account_held_alone(mi_heap_t* heap);  // the same, to be shown, of a heap that has no account
mi_hidden void _mi_accounts_after_fork(void);
// For the first part of a heap that counts in no other: has it room for `n` bytes / is it about to hold `n` less?
mi_hidden bool _mi_account_fits_alone(mi_account_t* account, size_t n);
mi_hidden void _mi_account_fell_alone(mi_account_t* account, size_t n);
mi_hidden void _mi_account_note_peak(mi_account_t* account);
mi_hidden int64_t _mi_account_main_total(void);
static inline mi_account_t* mi_account_above(mi_account_t* account) {
  return mi_load_acquire(&account->above[mi_load_acquire(&account->word) & 1]);
}
// The headroom serves until there is as much room below the limit, or nothing at all is held.
static inline bool mi_account_recovered(mi_account_t* account, int64_t total) {
  const size_t limit = mi_load_relaxed(&account->limit), room = account->headroom;
  return total <= 0 || (limit > room && (size_t)total <= limit - room);
}
// An allocation failed at the limit of `heap`, an account on the way up from this one: the headroom serves.
mi_hidden void _mi_account_trip(mi_account_t* account, mi_heap_t* heap);
// A soft limit on the way up that was passed: true once for each time, with what is to be called.
mi_hidden bool _mi_account_alarm(mi_account_t* account, mi_refusal_t* alarm);

// The main heap's, by threads without a record too.
mi_hidden void _mi_account_main_add(int64_t n);

// The account of the theap's heap; NULL: it is the internal heap.
static inline mi_account_t* mi_theap_account(const mi_theap_t* theap) {
  return (theap->heap == &_mi_heap_main ? &_mi_account_main : mi_account_of(theap->heap));
}

// For blocks of a page of the theap. The main heap, which has no limit, counts in the thread's record.
static inline bool mi_theap_charge(mi_theap_t* theap, size_t n) {
  mi_account_t* const account = mi_theap_account(theap);
  if (account == &_mi_account_main) {
    mi_count_own(&theap->thread->counts.main_held, (int64_t)n);
    return true;
  }
  return account == NULL || _mi_account_charge(account, n);
}

// `n` bytes more or less, which no limit refuses.
static inline void mi_theap_add(mi_theap_t* theap, int64_t n) {
  mi_account_t* const account = mi_theap_account(theap);
  if (account == &_mi_account_main) {
    mi_count_own(&theap->thread->counts.main_held, n);
  } else if (account != NULL) {
    _mi_account_add(account, n);
  }
}
static inline bool mi_theap_has_room(const mi_theap_t* theap, size_t n) {
  mi_account_t* const account = mi_theap_account(theap);
  return account == NULL || account == &_mi_account_main || _mi_account_fits(account, n);
}

// Bytes of blocks that a page has supplied: what it is charged with.
static inline int64_t mi_page_charged(const mi_page_t* page) { return (int64_t)(page->capacity * page->block_size); }
// The account of a heap that is being destroyed counts nowhere any more.
static inline void mi_page_uncharge(mi_page_t* page) {
  mi_heap_t* const heap = mi_load_relaxed(&page->heap);
  if (heap == &_mi_heap_internal || page->capacity == 0 || mi_load_relaxed(&heap->state) == MI_HEAP_DYING) return;
  if (heap == &_mi_heap_main) {
    _mi_account_main_add(-mi_page_charged(page));
  } else {
    _mi_account_add(mi_account_of(heap), -mi_page_charged(page));
  }
}

#endif
