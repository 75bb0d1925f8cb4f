// Counting: what the core adds up on its slow paths, and how a page's blocks are counted without adding anything up on
// the fast ones. Putting the figures together is mi/heap/stats.c, showing them mi/stats.c.
//
// Blocks of a page. Every block that a page ever had to hand out came from room that was never used (`capacity` counts
// those) or from the other two lists (`recycled`: at the collect that refills the empty list, all blocks that are not
// in use are there, capacity - used of them). So
//     blocks handed out so far = capacity + recycled - length(free)
//     live blocks              = used - pinned - length(thread_free) - blocks on the theap's delayed list
// and who wants to know walks the lists then; to malloc and free this costs nothing, to a collect one addition. When a
// page goes, or loses its lists, its blocks go to the totals of its heap; to the main heap's in the thread's record.
//
// Everything here is relaxed: a figure is what its counters were at some time during the query, exact when nobody
// counts at the moment and the query comes after what the others did.
#pragma once
#ifndef MI_INTERNAL_STATS_H
#define MI_INTERNAL_STATS_H

#include "mi/internal/core.h"

// What comes and goes. `peak` may lag behind for a moment, but misses no sum that `current` ever had.
typedef struct mi_gauge_s {
  _Atomic(int64_t) total;
  _Atomic(int64_t) current;
  _Atomic(int64_t) peak;
} mi_gauge_t;

// The process's figures. Written where something rare happens; pages, which come and go most often, have a cache line
// of their own.
typedef struct mi_stats_process_s {
  mi_gauge_t pages __attribute__((aligned(MI_CACHE_LINE)));  // with slices, of every heap
  mi_gauge_t committed __attribute__((aligned(MI_CACHE_LINE)));
  mi_gauge_t reserved;
  mi_gauge_t segments __attribute__((aligned(MI_CACHE_LINE)));
  mi_gauge_t threads;
  mi_gauge_t theaps;
  _Atomic(int64_t) mmap_calls, commit_calls, reset_calls, purge_calls;
  _Atomic(int64_t) reset_bytes, purged_bytes;
  _Atomic(int64_t) arenas, arena_rollbacks, arena_purges;
  _Atomic(int64_t) guarded;             // blocks that got guards (guard.c),
  _Atomic(int64_t) guards_refused;      // and that were to get some and did not
  _Atomic(int64_t) pages_abandoned;     // how often a page was
  _Atomic(int64_t) reclaimed_on_alloc;  // taken out of a heap's stack by who looked for a page
  _Atomic(int64_t) reclaimed_on_free;   // taken by who freed a block in it
  _Atomic(int64_t) abandoned_again;     // taken by who freed a block in it, and given up at once
  _Atomic(int64_t) abandon_waits;       // for a remote free that was half done
  _Atomic(int64_t) heap_waits;          // in merge and reset
  mi_totals_t main;                     // of the main heap, by threads without a record
  mi_totals_t ended;                    // of heaps that ended and were counted
} mi_stats_process_t;
mi_hidden extern mi_stats_process_t _mi_stats;

static inline void mi_count(_Atomic(int64_t)* counter, int64_t n) { mi_fetch_add_relaxed(counter, n); }
// By the owner of the record that the counter is in.
static inline void mi_count_own(_Atomic(int64_t)* counter, int64_t n) {
  mi_store_relaxed(counter, mi_load_relaxed(counter) + n);
}
static inline void mi_peak(_Atomic(int64_t)* peak, int64_t now) {
  int64_t seen = mi_load_relaxed(peak);
  while (seen < now &&
         !atomic_compare_exchange_weak_explicit(peak, &seen, now, memory_order_relaxed, memory_order_relaxed)) {
  }
}
static inline void mi_gauge_add(mi_gauge_t* gauge, int64_t n) {
  mi_fetch_add_relaxed(&gauge->total, n);
  mi_peak(&gauge->peak, mi_fetch_add_relaxed(&gauge->current, n) + n);
}
static inline void mi_gauge_sub(mi_gauge_t* gauge, int64_t n) {
  atomic_fetch_sub_explicit(&gauge->current, n, memory_order_relaxed);
}

// --- totals -----------------------------------------------------------------------------------------------------
mi_hidden void _mi_totals_add(mi_totals_t* to, mi_totals_t* from);
// What the page handed out, for whom its heap lives on: `released` if the page goes, else it loses its lists.
mi_hidden void _mi_stats_page_emptied(mi_page_t* page, bool released);
// The same for a page that ends with its heap, or at a reset of it.
mi_hidden void _mi_stats_page_dropped(mi_page_t* page, bool released);
// Blocks of the page that others freed come back to its lists; by who has the page.
mi_hidden void _mi_stats_remote_frees(mi_page_t* page, uint32_t count);
mi_hidden void _mi_stats_theap_ends(mi_theap_t* theap);  // its pages are abandoned

// --- looking ------------------------------------------------------------------------------------------------------

// What a query adds up.
typedef struct mi_tally_s {
  uint64_t made[MI_BIN_SOLO + 1], live[MI_BIN_SOLO + 1];         // blocks, by class
  uint64_t pages_made[MI_BIN_SOLO + 1], pages[MI_BIN_SOLO + 1];  // by class
  uint64_t bytes_made, bytes;                                    // of blocks of the classes
  uint64_t single_bytes_made, single_bytes;                      // of blocks in pages of their own
  uint64_t reserved;                                             // bytes of pages and regions
  uint64_t used;                                                 // those of them that were used so far
  uint64_t abandoned;                                            // pages that no theap holds
  uint64_t remote_frees;                                         // by threads that did not own the block's memory
} mi_tally_t;

// A word that its owner writes with plain stores, read by another thread. As an atomic access it would be defined, but
// the owner's stores would have to be atomic too, in every list operation of the fast paths; as a volatile one it is a
// single load of an aligned word on every machine that the library runs on, and what is read is taken for what it is:
// a value that may be old, checked before it is used as an address. Functions that do this are MI_RACY, so that
// ThreadSanitizer does not look at them (nor AddressSanitizer, where free blocks are poisoned).
#define MI_RACY __attribute__((noinline, no_sanitize("thread"), no_sanitize("address")))
#define mi_racy(x) (*(const volatile __typeof__(x)*)&(x))

// Adds a page that somebody else may own; without `blocks` its memory only. Any time: slots stay readable, and lists
// are followed inside the page only.
mi_hidden void _mi_tally_page(mi_tally_t* tally, mi_page_t* page, bool blocks);
mi_hidden void _mi_tally_totals(mi_tally_t* tally, mi_totals_t* totals, bool minus);

#endif
