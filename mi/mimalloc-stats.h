// Statistics: the struct that holds them, and the functions that fill, print and reset it. C11 and C++11.
//
// What is counted how. Nothing is counted when a block is allocated or freed on the fast paths: blocks are worked out
// when somebody asks, from the pages and regions that hold them. So a query costs time in proportion to the memory in
// use (about a millisecond per GiB), and nothing else costs any.
//  * Counts of blocks, bytes, pages and heaps are exact as long as no other thread allocates, frees, or makes or ends
//    heaps during the query; what the calling thread did is always in them. While others are at work a query is safe,
//    and each figure is between what it was before and after, or off by what those threads did meanwhile.
//  * `total` of blocks counts those allocated since the start (or the last reset), `current` those that are live. A
//    block that realloc moves is a new one. Sizes are the full sizes of blocks (mi_usable_size), not what was asked
//    for.
//  * A heap that is destroyed or reset takes its totals with it: the process's totals are then what they would be
//    without it. In a process that was started with MIMALLOC_SHOW_STATS=1 (or that set mi_option_show_stats before it
//    made the heap) they stay, at the cost of looking at each object of a young heap when it ends. `current` is exact
//    in either case. A heap that is deleted or merged takes its figures to the heap that gets its blocks.
//  * `peak` is exact for pages, reserved, committed, segments, threads and theaps. For everything that is worked out on
//    demand it is the largest `current` that a query, or mi_stats_merge, met.
#pragma once
#ifndef MIMALLOC_STATS_H
#define MIMALLOC_STATS_H

#include <stdint.h>

#include "mimalloc.h"

#define MI_STAT_VERSION 5  // changes whenever the struct does

/// Something that comes and goes.
typedef struct mi_stat_count_s {
  int64_t total;    ///< all that ever came
  int64_t peak;     ///< the most at one time
  int64_t current;  ///< now
} mi_stat_count_t;

/// Something that happens.
typedef struct mi_stat_counter_s {
  int64_t total;
} mi_stat_counter_t;

/// Size classes in mi_stats_t. The library has 81: bins 1 to 63 are one class each (8 bytes; 16, 32, ..., 128; eight
/// per doubling up to 14 KiB), bins 64 to 72 hold two each (up to 16, 20, 24, 28, 32, 40, 48, 56 and 64 KiB). Bin 73 is
/// for blocks with a page of their own, bin 0 for nothing.
#define MI_STAT_BIN_HUGE 73
#define MI_STAT_BIN_COUNT 74

/// What a segment of 4 MiB is used for: pages of 64 KiB only, of several sizes, of 512 KiB only, of 1 MiB and up only,
/// one block larger than a segment, or nothing.
typedef enum mi_chunkbin_e {
  MI_CBIN_SMALL,
  MI_CBIN_OTHER,
  MI_CBIN_MEDIUM,
  MI_CBIN_LARGE,
  MI_CBIN_HUGE,
  MI_CBIN_NONE,
  MI_CBIN_COUNT
} mi_chunkbin_t;

/// In a heap's statistics only what is marked (h) is filled in; the rest belongs to the process and is 0.
typedef struct mi_stats_s {
  size_t size;     ///< sizeof(mi_stats_t) at the caller; set it before a query, or use mi_stats_t_decl
  size_t version;  ///< MI_STAT_VERSION at the caller

  mi_stat_count_t pages;               ///< (h) runs of memory that hold blocks of one size; the library's own included,
                                       ///<     but not in a heap's
  mi_stat_count_t reserved;            ///< (h) bytes of address space; of a heap: of its pages and regions
  mi_stat_count_t committed;           ///< (h) bytes that may have memory behind them; of a heap as `reserved`
  mi_stat_count_t page_committed;      ///< (h) bytes of pages (and regions) that were handed out at some time
  mi_stat_count_t pages_abandoned;     ///< (h) pages of threads that ended, which no thread has taken over
  mi_stat_count_t threads;             ///< threads that use the library
  mi_stat_count_t malloc_normal;       ///< (h) bytes in blocks of up to 64 KiB
  mi_stat_count_t malloc_huge;         ///< (h) bytes in blocks that have pages of their own
  mi_stat_count_t malloc_requested;    ///< 0: requested sizes are not kept
  mi_stat_count_t segments;            ///< 4 MiB pieces of arenas that hold pages
  mi_stat_count_t segments_abandoned;  ///< 0: no thread owns a segment
  mi_stat_count_t segments_cache;      ///< segments without pages that may have memory behind them
  mi_stat_count_t heaps;   ///< (h) heaps; of a heap: itself, and those merged into it that still hold blocks
  mi_stat_count_t theaps;  ///< (h) threads' parts of heaps that have pages, the main heap's included

  mi_stat_counter_t reset;                      ///< bytes given back with MADV_FREE
  mi_stat_counter_t purged;                     ///< bytes given back at once
  mi_stat_counter_t mmap_calls;                 ///< of mmap
  mi_stat_counter_t commit_calls;               ///< of mprotect, which makes reserved memory usable
  mi_stat_counter_t reset_calls;                ///< of madvise with MADV_FREE
  mi_stat_counter_t purge_calls;                ///< of madvise with MADV_DONTNEED
  mi_stat_counter_t arena_count;                ///< arenas made
  mi_stat_counter_t malloc_normal_count;        ///< (h) blocks of up to 64 KiB allocated
  mi_stat_counter_t malloc_huge_count;          ///< (h) blocks with pages of their own allocated
  mi_stat_counter_t malloc_guarded_count;       ///< blocks that got guards, of every heap
  mi_stat_counter_t arena_rollback_count;       ///< segments given back because the system gave no memory for them
  mi_stat_counter_t arena_purges;               ///< searches for memory to give back
  mi_stat_counter_t pages_extended;             ///< how often a page put blocks that were never used on its free list
  mi_stat_counter_t pages_retire;               ///< pages that became empty and were kept for a while
  mi_stat_counter_t page_searches;              ///< pages looked at in all searches
  mi_stat_counter_t page_searches_count;        ///< searches for a page with a free block
  mi_stat_counter_t pages_reclaim_on_alloc;     ///< abandoned pages taken over by a thread that looked for one
  mi_stat_counter_t pages_reclaim_on_free;      ///< abandoned pages taken over by a thread that freed a block in one
  mi_stat_counter_t pages_reabandon_full;       ///< abandoned pages taken for a free and abandoned again
  mi_stat_counter_t pages_unabandon_busy_wait;  ///< yields of threads that end while another frees a block of theirs
  mi_stat_counter_t heaps_delete_wait;          ///< yields in merges and resets

  mi_stat_count_t malloc_bins[MI_STAT_BIN_COUNT];  ///< (h) blocks, by size
  mi_stat_count_t page_bins[MI_STAT_BIN_COUNT];    ///< (h) pages of heaps, by the size of their blocks
  mi_stat_count_t chunk_bins[MI_CBIN_COUNT];       ///< segments, by use; only `current` is known
} mi_stats_t;

#ifdef __cplusplus
static inline mi_stats_t mi_stats_t_make() {
  mi_stats_t stats = mi_stats_t();
  stats.size = sizeof(mi_stats_t);
  stats.version = MI_STAT_VERSION;
  return stats;
}
#define MI_STATS_T_INIT mi_stats_t_make()
#else
#define MI_STATS_T_INIT \
  { .size = sizeof(mi_stats_t), .version = MI_STAT_VERSION }
#endif
/// Declares a variable, zero but for its size and version.
#define mi_stats_t_decl(name) mi_stats_t name = MI_STATS_T_INIT

#ifdef __cplusplus
extern "C" {
#endif

// ---- the process ------------------------------------------------------------------------------------------

/// Fills in the statistics of the process. False (EINVAL reported), and nothing filled in, if `stats` is NULL or its
/// size or version is not that of this library.
mi_decl_export bool mi_stats_get(mi_stats_t* stats) mi_attr_noexcept;
/// The same as JSON text: an object with `size`, `version` and every field by its name; counts are objects of `total`,
/// `peak` and `current`, counters are numbers, bins are arrays of such objects (with `block_size`, but for chunk_bins).
/// With a `buf` of `buf_size` bytes returns `buf`, or NULL with errno = ERANGE if the text and its 0 do not fit; 24 KiB
/// are always enough. With `buf` NULL returns a block of mi_malloc, to be freed with mi_free, or NULL (ENOMEM).
mi_decl_export char* mi_stats_get_json(size_t buf_size, char* buf) mi_attr_noexcept;
/// Any statistics as JSON. NULL with errno = EINVAL if their size or version is not that of this library.
mi_decl_export char* mi_stats_as_json(mi_stats_t* stats, size_t buf_size, char* buf) mi_attr_noexcept;
/// The largest block that is counted in a bin: a block of n bytes is counted in the first bin with a size of at least
/// n, or in bin 73 if it got a page of its own for the sake of its alignment. PTRDIFF_MAX for bin 73; 0 for bin 0 and
/// for bins that do not exist.
mi_decl_nodiscard mi_decl_export size_t mi_stats_get_bin_size(size_t bin) mi_attr_noexcept;

// ---- one heap ---------------------------------------------------------------------------------------------

/// As the functions above, for one heap, with the blocks of heaps that were merged into it. Any thread may ask about
/// any heap that does not end meanwhile. Totals count from the heap's making or its last reset. A heap that ended is
/// refused (EFAULT reported), so is NULL (EINVAL).
mi_decl_export bool mi_heap_stats_get(mi_heap_t* heap, mi_stats_t* stats) mi_attr_noexcept;
mi_decl_export char* mi_heap_stats_get_json(mi_heap_t* heap, size_t buf_size, char* buf) mi_attr_noexcept;

/// One heap in a few figures, as exact as all statistics are (see above), and without what
/// mi_heap_stats_merge_to_subproc takes over: since the heap was made or last reset.
typedef struct mi_heap_counts_s {
  size_t size;            ///< sizeof(mi_heap_counts_t) at the caller; fields are only ever added at the end
  uint64_t blocks;        ///< that are live
  uint64_t bytes;         ///< in them: their full sizes
  uint64_t allocations;   ///< blocks ever handed out; one that realloc moves is a new one
  uint64_t frees;         ///< blocks that came back
  uint64_t remote_frees;  ///< those of them that were freed by a thread which did not own their memory at the time
  uint64_t pages;         ///< with blocks of the heap; regions of young heaps are none
  uint64_t committed;     ///< bytes of its pages and regions
  uint64_t peak;          ///< the largest `committed` that a query met
  uint64_t used;          ///< bytes that count against limits, with those of its children: mi_heap_used
  uint64_t used_peak;     ///< mi_heap_peak
  uint64_t limit;         ///< of the heap; 0: none
} mi_heap_counts_t;
/// Fills them in; `size` must be set. False, and nothing filled in, as mi_heap_stats_get. Blocks of heaps that were
/// merged into this one are its own, with all that was counted of them.
mi_decl_export bool mi_heap_counts_get(mi_heap_t* heap, mi_heap_counts_t* counts) mi_attr_noexcept;
/// As JSON text, an object with the heap's name and these figures; `buf` and the result as in mi_stats_get_json; 1 KiB
/// is enough.
mi_decl_export char* mi_heap_counts_get_json(mi_heap_t* heap, size_t buf_size, char* buf) mi_attr_noexcept;

// ---- heaps by name ----------------------------------------------------------------------------------------

/// The heaps of one name. Counts are exact; what they hold is as exact as all statistics are.
typedef struct mi_heap_row_s {
  const char* name;  ///< "": heaps without a name; "main": the main heap; "(others)": names beyond the first thousand
  size_t live;       ///< heaps of this name that live now
  size_t peak;       ///< the most that lived at one time; of heaps without a name, the most that a query met
  size_t made;       ///< heaps of this name that were ever made
  size_t blocks;     ///< live blocks in them, those of heaps that were merged into them included
  size_t bytes;      ///< in these blocks
  size_t reserved;   ///< bytes of the pages and regions that hold them
} mi_heap_row_t;
typedef bool mi_heap_row_fun(const mi_heap_row_t* row, void* arg);

/// Calls `fun` for every name that heaps were ever given, and for the main heap; those first that have most memory.
/// False from it ends the visit, whose result is then false too, as it is without memory for the table (ENOMEM) or
/// without `fun` (EINVAL reported). The row is valid during the call. Any thread; takes nothing from other threads.
mi_decl_export bool mi_heap_table_visit(mi_heap_row_fun* fun, void* arg);
/// Prints it to `out` (NULL: the registered output, or standard error), a line for each name.
mi_decl_export void mi_heap_table_print(mi_output_fun* out, void* arg) mi_attr_noexcept;
/// As JSON text: an object with an array `heaps`, of objects with the fields of a row (`memory` for `reserved`). `buf`
/// and the result as in mi_stats_get_json; a thousand names need 300 KiB.
mi_decl_export char* mi_heap_table_get_json(size_t buf_size, char* buf) mi_attr_noexcept;
/// Asks for the table to be printed to the registered output at the next slow path of any thread. May be called in a
/// signal handler. With mi_option_table_on_signal set in the environment, such a handler is installed at the start,
/// unless the program was started with the signal ignored.
mi_decl_export void mi_heap_table_request(void) mi_attr_noexcept;

// ---- sub-processes ----------------------------------------------------------------------------------------

/// The statistics of a sub-process: of the main one (or NULL) the whole process's, of another the sums over its heaps,
/// where `peak` is the sum of their peaks. An id that names none is refused (EINVAL reported).
mi_decl_export bool mi_subproc_stats_get(mi_subproc_id_t subproc_id, mi_stats_t* stats) mi_attr_noexcept;
/// The same without what lies in heaps that are alive, the main heap included: those report themselves.
mi_decl_export bool mi_subproc_stats_get_exclusive(mi_subproc_id_t subproc_id, mi_stats_t* stats) mi_attr_noexcept;
mi_decl_export char* mi_subproc_stats_get_json(mi_subproc_id_t subproc_id, size_t buf_size, char* buf) mi_attr_noexcept;
mi_decl_export void mi_subproc_stats_print_out(mi_subproc_id_t subproc_id, mi_output_fun* out, void* arg)
    mi_attr_noexcept;
/// One after the other, the statistics of each heap of the sub-process.
mi_decl_export void mi_subproc_heap_stats_print_out(mi_subproc_id_t subproc_id, mi_output_fun* out, void* arg)
    mi_attr_noexcept;

#ifdef __cplusplus
}
#endif
#endif
