// The survivors report: which blocks were still alive when a heap was destroyed, or when the process ends. Heaps ask
// for it with MI_HEAP_REPORT_SURVIVORS, or all of them with mi_option_report_survivors; others pay nothing, since the
// flag takes a heap off the short way to its end.
//
// At a destroy nobody else uses the heap: its blocks are visited, and the sizes are exact. At the end of the process
// threads may still be at work: what is reported then comes from the statistics, and sizes are those of classes.
#include <errno.h>
#include <stdio.h>

#include "mi/heap/stats.h"
#include "mi/internal/os.h"
#include "mi/internal/stats.h"
#include "mi/mimalloc.h"

#define TABLE_SIZE 4096  // entries of the table of sizes
#define EXACT_MAX 2048   // sizes that it holds as they are; others are rounded up, so that there are few
#define SHOWN_SIZES 32   // lines of a printed report
#define SHOWN_HEAPS 64   // heaps in the reports at the end of the process

static _Atomic(const mi_pair_t*) survivors_pair;

void mi_register_survivors(mi_survivors_fun* fun, void* arg) {
  const mi_pair_t* const pair = _mi_pair_intern((mi_any_fun*)fun, arg);
  if (pair == NULL && fun != NULL) return;  // no memory: errno is ENOMEM, the former pair stays
  mi_store_release(&survivors_pair, pair);
}

// --- showing ------------------------------------------------------------------------------------------------------

static void print_report(const mi_survivors_t* survivors) {
  _mi_print("mimalloc: heap %p (%.63s): %zu block%s, %zu bytes, alive when %s\n", (void*)survivors->heap,
            survivors->name, survivors->blocks, survivors->blocks == 1 ? "" : "s", survivors->bytes,
            survivors->at_exit ? "the process ends" : "it is destroyed");
  size_t rest = 0;
  for (size_t i = 0; i < survivors->size_count; i++) {
    const mi_survivor_size_t* const size = &survivors->sizes[i];
    if (i >= SHOWN_SIZES) {
      rest += size->blocks;
    } else {
      _mi_print("mimalloc:   %10zu of %zu bytes\n", size->blocks, size->size);
    }
  }
  if (rest > 0) _mi_print("mimalloc:   %10zu larger ones\n", rest);
}

// The callback runs as all others do: none of ours starts inside it, and it may not end the heap.
static void show(mi_heap_t* heap, const mi_survivors_t* survivors) {
  const mi_pair_t* const pair = mi_load_acquire(&survivors_pair);
  if (pair == NULL) {
    print_report(survivors);
    return;
  }
  mi_thread_t* const thread = _mi_tls.thread;
  mi_callback_t frame = {NULL, heap, 0};
  mi_callback_enter(thread, &frame);
  mi_survivors_fun* const fun = (mi_survivors_fun*)mi_load_relaxed(&pair->fun);
  MI_CALL_USER(fun(survivors, pair->arg));
  mi_callback_leave(thread, &frame);
}

// --- at a destroy -------------------------------------------------------------------------------------------------

typedef struct survey_s {
  mi_survivor_size_t* table;  // open addressing, by size; 0 blocks: free
  size_t sizes, blocks, bytes;
} survey_t;

static size_t rounded(size_t size) {
  if (size <= MI_CLASS_SIZE_MAX) return mi_bin_size(mi_bin_of(size));
  return (size > MI_ALLOC_MAX / 2 ? MI_ALLOC_MAX : (size_t)1 << (mi_msb(size - 1) + 1));
}

static mi_survivor_size_t* entry_of(const survey_t* survey, size_t size) {
  size_t at = (size * (size_t)0x9e3779b97f4a7c15) >> (64 - 12);
  while (survey->table[at].blocks != 0 && survey->table[at].size != size) at = (at + 1) % TABLE_SIZE;
  return &survey->table[at];
}
_Static_assert(TABLE_SIZE == 1 << 12, "the hash has as many bits as the table");

static bool add_block(const mi_heap_t* heap, const mi_heap_area_t* area, void* block, size_t size, void* arg) {
  (void)heap, (void)area;
  survey_t* const survey = arg;
  if (block == NULL) return true;
  survey->blocks++;
  survey->bytes += size;
  mi_survivor_size_t* entry = entry_of(survey, size);
  if (entry->blocks == 0 && survey->sizes >= EXACT_MAX) entry = entry_of(survey, size = rounded(size));
  if (entry->blocks == 0) survey->sizes++;
  entry->size = size;
  entry->blocks++;
  return true;
}

// The entries in use, to the front of the table and in order of their sizes.
static void table_sort(survey_t* survey) {
  mi_survivor_size_t* const table = survey->table;
  size_t count = 0;
  for (size_t i = 0; i < TABLE_SIZE; i++) {
    if (table[i].blocks != 0) table[count++] = table[i];
  }
  for (size_t gap = count / 2; gap > 0; gap /= 2) {
    for (size_t i = gap; i < count; i++) {
      const mi_survivor_size_t moved = table[i];
      size_t to = i;
      for (; to >= gap && table[to - gap].size > moved.size; to -= gap) table[to] = table[to - gap];
      table[to] = moved;
    }
  }
}

// Nothing is alive as a rule: that is found without the table.
static bool is_empty(const mi_heap_t* heap, const mi_heap_area_t* area, void* block, size_t size, void* arg) {
  (void)heap, (void)block, (void)size, (void)arg;
  return area->used == 0;
}

void _mi_heap_report_survivors(mi_heap_t* heap) {
  mi_thread_t* const thread = mi_thread();
  if (thread != NULL && mi_heap_visit_blocks(heap, false, is_empty, NULL)) return;
  survey_t survey = {.table = (thread == NULL ? NULL : _mi_os_alloc(TABLE_SIZE * sizeof(mi_survivor_size_t)))};
  if (survey.table == NULL) {
    _mi_error(ENOMEM, "no memory for the report of what is alive in heap %p (%s)\n", (void*)heap, mi_heap_name(heap));
    return;
  }
  if (mi_heap_visit_blocks(heap, true, add_block, &survey) && survey.blocks > 0) {
    table_sort(&survey);
    const mi_survivors_t survivors = {
        .heap = heap,
        .name = mi_heap_name(heap),
        .blocks = survey.blocks,
        .bytes = survey.bytes,
        .sizes = survey.table,
        .size_count = survey.sizes,
    };
    show(heap, &survivors);
  }
  _mi_os_free(survey.table, TABLE_SIZE * sizeof(mi_survivor_size_t));
}

// --- at the end of the process ------------------------------------------------------------------------------------

typedef struct leaks_s {
  size_t heaps;
} leaks_t;

static void report_leaks(mi_heap_t* heap) {
  mi_tally_t tally;
  _mi_heap_tally(heap, &tally);
  mi_survivor_size_t sizes[MI_BIN_SOLO];
  char name[64];  // a copy: the heap may be on its way out
  const char* const its = mi_heap_name(heap);
  size_t length = 0;
  for (; length + 1 < sizeof(name) && its[length] != 0; length++) name[length] = its[length];
  name[length] = 0;
  mi_survivors_t survivors = {
      .heap = heap,
      .name = name,
      .bytes = tally.bytes + tally.single_bytes,
      .sizes = sizes,
      .at_exit = true,
  };
  for (size_t bin = 1; bin <= MI_BIN_SOLO; bin++) {
    const uint64_t blocks = tally.live[bin];
    if (blocks == 0) continue;
    // Of blocks with pages of their own only the sum is known.
    sizes[survivors.size_count].size = (bin < MI_BIN_SOLO ? mi_bin_size(bin) : tally.single_bytes / blocks);
    sizes[survivors.size_count++].blocks = blocks;
    survivors.blocks += blocks;
  }
  if (survivors.blocks > 0) show(heap, &survivors);
}

static bool report_heap(mi_heap_t* heap, void* arg) {
  leaks_t* const leaks = arg;
  const bool all = _mi_option(mi_option_report_survivors) != 0;
  if (!all && (heap == &_mi_heap_main || (mi_heap_flags(heap) & MI_HEAP_REPORTS) == 0)) return true;
  if (leaks->heaps++ < SHOWN_HEAPS) report_leaks(heap);
  return true;
}

void _mi_survivors_at_exit(void) {
  leaks_t leaks = {0};
  if (_mi_tls.thread == NULL && mi_load_relaxed(&_mi_stats.threads.total) == 0) return;  // nothing was ever allocated
  mi_heap_visit_all(report_heap, &leaks);
  if (leaks.heaps > SHOWN_HEAPS) {
    _mi_print("mimalloc: %zu more heaps were alive when the process ends\n", leaks.heaps - SHOWN_HEAPS);
  }
}
