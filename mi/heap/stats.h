// Statistics as mi/stats.c shows them, put together by stats.c.
#pragma once
#ifndef MI_HEAP_STATS_H
#define MI_HEAP_STATS_H

#include "mi/heap/parts.h"
#include "mi/internal/stats.h"
#include "mi/mimalloc-stats.h"

// The process's statistics, without what a reset took away and without a header; `with_heaps` false: without what lies
// in heaps.
mi_hidden void _mi_stats_gather(mi_stats_t* stats, bool with_heaps);
// One heap's, with the heaps that were merged into it.
mi_hidden void _mi_heap_stats_gather(mi_heap_t* heap, mi_stats_t* stats);
// What a heap holds and ever held, before it is put on the interface's bins and less what was taken over.
mi_hidden void _mi_heap_tally(mi_heap_t* heap, mi_tally_t* tally);
mi_hidden void _mi_heap_counts_gather(mi_heap_t* heap, mi_heap_counts_t* counts);
// What one heap holds in one place: a page, or its regions.
typedef struct mi_heap_share_s {
  uint64_t blocks, bytes;  // that are live
  uint64_t reserved;       // bytes of pages or regions
  bool is_heap;            // it is shown for the first time
} mi_heap_share_t;
// Calls `fn` for the shares of all heaps, closed ones included. Stops nobody: see stats.c.
mi_hidden void _mi_heaps_share(void (*fn)(mi_heap_t* heap, const mi_heap_share_t* share, void* arg), void* arg);
// The heap's totals so far are not shown any more. False: no memory.
mi_hidden bool _mi_heap_stats_take_over(mi_heap_t* heap);
mi_hidden void _mi_stats_reset_peaks(void);
mi_hidden size_t _mi_stat_bin_size(size_t bin);

#endif
