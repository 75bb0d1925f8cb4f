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
// The heap's totals so far are not shown any more. False: no memory.
mi_hidden bool _mi_heap_stats_take_over(mi_heap_t* heap);
mi_hidden void _mi_stats_reset_peaks(void);
mi_hidden size_t _mi_stat_bin_size(size_t bin);

#endif
