// Statistics, shown: the public functions over what mi/heap/stats.c puts together, as a struct, as a table and as JSON.
// Also what a reset takes away, and the peaks that only a query sees. Texts are written line by line from a buffer on
// the stack: nothing here allocates but the JSON text that a caller wants allocated.
#include "mi/heap/stats.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "mi/text.h"

// --- the fields ---------------------------------------------------------------------------------------------------

typedef enum unit_e { UNIT_NUMBER, UNIT_BYTES } unit_t;
typedef struct field_s {
  const char* name;
  uint16_t offset;
  bool is_counter;  // a total only
  uint8_t unit;
  uint8_t group;
} field_t;

enum { GROUP_MEMORY, GROUP_BLOCKS, GROUP_PAGES, GROUP_HEAPS, GROUP_SYSTEM, GROUP_SLOW, GROUP_COUNT };
static const char* const group_names[GROUP_COUNT] = {
    "memory", "blocks", "pages", "heaps and threads", "system calls", "slow paths",
};

#define COUNT(name, unit, group) \
  { #name, offsetof(mi_stats_t, name), false, unit, group }
#define COUNTER(name, unit, group) \
  { #name, offsetof(mi_stats_t, name), true, unit, group }
static const field_t fields[] = {
    COUNT(pages, UNIT_NUMBER, GROUP_PAGES),
    COUNT(reserved, UNIT_BYTES, GROUP_MEMORY),
    COUNT(committed, UNIT_BYTES, GROUP_MEMORY),
    COUNT(page_committed, UNIT_BYTES, GROUP_MEMORY),
    COUNT(pages_abandoned, UNIT_NUMBER, GROUP_PAGES),
    COUNT(threads, UNIT_NUMBER, GROUP_HEAPS),
    COUNT(malloc_normal, UNIT_BYTES, GROUP_BLOCKS),
    COUNT(malloc_huge, UNIT_BYTES, GROUP_BLOCKS),
    COUNT(malloc_requested, UNIT_BYTES, GROUP_BLOCKS),
    COUNT(segments, UNIT_NUMBER, GROUP_MEMORY),
    COUNT(segments_abandoned, UNIT_NUMBER, GROUP_MEMORY),
    COUNT(segments_cache, UNIT_NUMBER, GROUP_MEMORY),
    COUNT(heaps, UNIT_NUMBER, GROUP_HEAPS),
    COUNT(theaps, UNIT_NUMBER, GROUP_HEAPS),
    COUNTER(reset, UNIT_BYTES, GROUP_MEMORY),
    COUNTER(purged, UNIT_BYTES, GROUP_MEMORY),
    COUNTER(mmap_calls, UNIT_NUMBER, GROUP_SYSTEM),
    COUNTER(commit_calls, UNIT_NUMBER, GROUP_SYSTEM),
    COUNTER(reset_calls, UNIT_NUMBER, GROUP_SYSTEM),
    COUNTER(purge_calls, UNIT_NUMBER, GROUP_SYSTEM),
    COUNTER(arena_count, UNIT_NUMBER, GROUP_MEMORY),
    COUNTER(malloc_normal_count, UNIT_NUMBER, GROUP_BLOCKS),
    COUNTER(malloc_huge_count, UNIT_NUMBER, GROUP_BLOCKS),
    COUNTER(malloc_guarded_count, UNIT_NUMBER, GROUP_BLOCKS),
    COUNTER(arena_rollback_count, UNIT_NUMBER, GROUP_MEMORY),
    COUNTER(arena_purges, UNIT_NUMBER, GROUP_MEMORY),
    COUNTER(pages_extended, UNIT_NUMBER, GROUP_SLOW),
    COUNTER(pages_retire, UNIT_NUMBER, GROUP_SLOW),
    COUNTER(page_searches, UNIT_NUMBER, GROUP_SLOW),
    COUNTER(page_searches_count, UNIT_NUMBER, GROUP_SLOW),
    COUNTER(pages_reclaim_on_alloc, UNIT_NUMBER, GROUP_PAGES),
    COUNTER(pages_reclaim_on_free, UNIT_NUMBER, GROUP_PAGES),
    COUNTER(pages_reabandon_full, UNIT_NUMBER, GROUP_PAGES),
    COUNTER(pages_unabandon_busy_wait, UNIT_NUMBER, GROUP_SLOW),
    COUNTER(heaps_delete_wait, UNIT_NUMBER, GROUP_SLOW),
};
#define FIELDS (sizeof(fields) / sizeof(fields[0]))

static const char* const chunk_names[MI_CBIN_COUNT] = {
    "64 KiB pages", "mixed pages", "512 KiB pages", "large pages", "huge blocks", "no pages",
};

static const mi_stat_count_t* field_count(const mi_stats_t* stats, const field_t* field) {
  return (const mi_stat_count_t*)((const uint8_t*)stats + field->offset);
}
static int64_t field_total(const mi_stats_t* stats, const field_t* field) {
  return ((const mi_stat_counter_t*)((const uint8_t*)stats + field->offset))->total;
}

// --- what a reset takes away, and peaks ----------------------------------------------------------------------------

#define HEAD offsetof(mi_stats_t, pages)
#define WORDS ((sizeof(mi_stats_t) - HEAD) / sizeof(int64_t))
_Static_assert(HEAD == 2 * sizeof(size_t) && sizeof(mi_stats_t) == HEAD + WORDS * sizeof(int64_t), "words, no padding");

static _Atomic(int64_t) taken[WORDS];  // of totals, by the last reset
static _Atomic(int64_t) peaks[WORDS];  // seen by queries since

static void count_adjust(mi_stats_t* stats, size_t offset, bool reset) {
  const size_t word = (offset - HEAD) / sizeof(int64_t);
  mi_stat_count_t* const count = (mi_stat_count_t*)((uint8_t*)stats + offset);
  if (reset) {
    mi_store_relaxed(&taken[word], count->total);
    mi_store_relaxed(&peaks[word], count->current);
  }
  int64_t peak = mi_load_relaxed(&peaks[word]);
  while (peak < count->peak && !mi_cas_weak_acq_rel(&peaks[word], &peak, count->peak)) {
  }
  if (peak > count->peak) count->peak = peak;
  count->total -= mi_load_relaxed(&taken[word]);
}

static void counter_adjust(mi_stats_t* stats, size_t offset, bool reset) {
  const size_t word = (offset - HEAD) / sizeof(int64_t);
  mi_stat_counter_t* const counter = (mi_stat_counter_t*)((uint8_t*)stats + offset);
  if (reset) mi_store_relaxed(&taken[word], counter->total);
  counter->total -= mi_load_relaxed(&taken[word]);
}

static void stats_adjust(mi_stats_t* stats, bool reset) {
  for (size_t i = 0; i < FIELDS; i++) {
    if (fields[i].is_counter) {
      counter_adjust(stats, fields[i].offset, reset);
    } else {
      count_adjust(stats, fields[i].offset, reset);
    }
  }
  const size_t bins = (sizeof(mi_stats_t) - offsetof(mi_stats_t, malloc_bins)) / sizeof(mi_stat_count_t);
  for (size_t i = 0; i < bins; i++) {
    count_adjust(stats, offsetof(mi_stats_t, malloc_bins) + i * sizeof(mi_stat_count_t), reset);
  }
}

static void process_stats(mi_stats_t* stats) {
  _mi_stats_gather(stats, true);
  stats_adjust(stats, false);
  stats->size = sizeof(*stats);
  stats->version = MI_STAT_VERSION;
}

void mi_stats_reset(void) {
  mi_stats_t stats;
  _mi_stats_reset_peaks();
  _mi_stats_gather(&stats, true);
  stats_adjust(&stats, true);
}

void mi_stats_merge(void) {
  mi_stats_t stats;  // every thread's counts are in every query; what may be missed otherwise are peaks
  process_stats(&stats);
}

// --- as a struct --------------------------------------------------------------------------------------------------

static bool stats_check(const mi_stats_t* stats, const char* function) {
  if (stats != NULL && stats->size == sizeof(mi_stats_t) && stats->version == MI_STAT_VERSION) return true;
  if (stats == NULL) {
    _mi_error(EINVAL, "%s: no struct for the statistics\n", function);
  } else {
    _mi_error(EINVAL, "%s: size %zu, version %zu of the struct; this library has %zu, %d\n", function, stats->size,
              stats->version, sizeof(mi_stats_t), MI_STAT_VERSION);
  }
  return false;
}

static bool heap_check(mi_heap_t* heap, const char* function) {
  if (heap != NULL) return _mi_heap_check_usable(heap, function);
  _mi_error(EINVAL, "%s: no heap\n", function);
  return false;
}

static void heap_stats(mi_heap_t* heap, mi_stats_t* stats) {
  _mi_heap_stats_gather(heap, stats);
  stats->size = sizeof(*stats);
  stats->version = MI_STAT_VERSION;
}

bool mi_stats_get(mi_stats_t* stats) {
  if (!stats_check(stats, "mi_stats_get")) return false;
  process_stats(stats);
  return true;
}

bool mi_heap_stats_get(mi_heap_t* heap, mi_stats_t* stats) {
  if (!stats_check(stats, "mi_heap_stats_get") || !heap_check(heap, "mi_heap_stats_get")) return false;
  heap_stats(heap, stats);
  return true;
}

void mi_heap_stats_merge_to_subproc(mi_heap_t* heap) {
  if (!heap_check(heap, "mi_heap_stats_merge_to_subproc")) return;
  if (!_mi_heap_stats_take_over(heap)) _mi_error(ENOMEM, "mi_heap_stats_merge_to_subproc: no memory\n");
}

size_t mi_stats_get_bin_size(size_t bin) { return _mi_stat_bin_size(bin); }

// --- as a table ---------------------------------------------------------------------------------------------------

typedef struct output_s {
  mi_output_fun* out;  // NULL: the registered output, or standard error
  void* arg;
} output_t;

static __attribute__((format(printf, 2, 3))) void print(const output_t* output, const char* format, ...) {
  char line[256];
  va_list args;
  va_start(args, format);
  vsnprintf(line, sizeof(line), format, args);
  va_end(args);
  if (output->out != NULL) {
    output->out(line, output->arg);
  } else {
    _mi_print("%s", line);
  }
}

typedef struct amount_s {
  char text[24];
} amount_t;

static amount_t amount(int64_t n, unit_t unit) {
  static const char* const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  amount_t result;
  if (unit == UNIT_NUMBER) {
    snprintf(result.text, sizeof(result.text), "%lld", (long long)n);
    return result;
  }
  const uint64_t size = (n < 0 ? 0 - (uint64_t)n : (uint64_t)n);
  size_t u = 0;
  while (u + 1 < sizeof(units) / sizeof(units[0]) && size >> (10 * (u + 1)) != 0) u++;
  const uint64_t whole = size >> (10 * u);
  const char* const sign = (n < 0 ? "-" : "");
  if (u == 0) {
    snprintf(result.text, sizeof(result.text), "%s%llu B", sign, (unsigned long long)whole);
  } else {
    const unsigned tenths = (unsigned)((size >> (10 * (u - 1)) & 1023) * 10 / 1024);
    snprintf(result.text, sizeof(result.text), "%s%llu.%u %s", sign, (unsigned long long)whole, tenths, units[u]);
  }
  return result;
}

static void print_count(const output_t* output, const char* name, const mi_stat_count_t* count, unit_t unit) {
  const amount_t current = amount(count->current, unit), peak = amount(count->peak, unit),
                 total = amount(count->total, unit);
  print(output, "  %-26s %12s %12s %12s\n", name, current.text, peak.text, total.text);
}

static void print_stats(const output_t* output, const mi_stats_t* stats) {
  for (int group = 0; group < GROUP_COUNT; group++) {
    print(output, "%-28s %12s %12s %12s\n", group_names[group], "current", "peak", "total");
    for (size_t i = 0; i < FIELDS; i++) {
      if (fields[i].group != group) continue;
      if (fields[i].is_counter) {
        const amount_t total = amount(field_total(stats, &fields[i]), fields[i].unit);
        print(output, "  %-26s %12s %12s %12s\n", fields[i].name, "", "", total.text);
      } else {
        print_count(output, fields[i].name, field_count(stats, &fields[i]), fields[i].unit);
      }
    }
  }
  print(output, "%-28s %12s %12s %12s %12s\n", "blocks by size", "current", "peak", "total", "pages");
  for (size_t bin = 1; bin < MI_STAT_BIN_COUNT; bin++) {
    const mi_stat_count_t* const blocks = &stats->malloc_bins[bin];
    if (blocks->total == 0 && blocks->current == 0) continue;
    char size[32];
    snprintf(size, sizeof(size), bin == MI_STAT_BIN_HUGE ? "larger" : "%zu B", mi_stats_get_bin_size(bin));
    print(output, "  %-26s %12lld %12lld %12lld %12lld\n", size, (long long)blocks->current, (long long)blocks->peak,
          (long long)blocks->total, (long long)stats->page_bins[bin].current);
  }
  bool head = false;
  for (size_t i = 0; i < MI_CBIN_COUNT; i++) {
    if (stats->chunk_bins[i].current == 0) continue;
    if (!head) print(output, "%-28s %12s\n", "segments by use", "current");
    head = true;
    print(output, "  %-26s %12lld\n", chunk_names[i], (long long)stats->chunk_bins[i].current);
  }
}

void mi_stats_print_out(mi_output_fun* out, void* arg) {
  const output_t output = {out, arg};
  mi_stats_t stats;
  process_stats(&stats);
  print(&output, "statistics of the process\n");
  print_stats(&output, &stats);
}

void mi_stats_print(void* out) {
  (void)out;
  mi_stats_print_out(NULL, NULL);
}

// A copy: the heap may be on its way out, and another's name come to the place.
static MI_RACY void copy_name(char* to, size_t size, const mi_heap_t* heap) {
  const char* const name = mi_heap_name(heap);
  size_t i = 0;
  for (char c; i + 1 < size && (c = mi_racy(name[i])) != 0; i++) to[i] = c;
  to[i] = 0;
}

static void print_heap(const output_t* output, mi_heap_t* heap) {
  mi_stats_t stats;
  heap_stats(heap, &stats);
  char name[64];
  copy_name(name, sizeof(name), heap);
  print(output, "statistics of heap %p%s%s\n", (void*)heap, name[0] != 0 ? " " : "", name);
  print_stats(output, &stats);
}

void mi_heap_stats_print_out(mi_heap_t* heap, mi_output_fun* out, void* arg) {
  if (!heap_check(heap, "mi_heap_stats_print_out")) return;
  const output_t output = {out, arg};
  print_heap(&output, heap);
}

void mi_thread_stats_print_out(mi_output_fun* out, void* arg) {
  const output_t output = {out, arg};
  mi_thread_t* const thread = mi_thread();
  if (thread == NULL) {
    _mi_error(ENOMEM, "mi_thread_stats_print_out: the thread could not be set up\n");
    return;
  }
  print(&output, "statistics of the calling thread\n");
  const struct {
    const char* name;
    uint64_t value;
  } rows[] = {
      {"slow paths", thread->heartbeat},
      {"pages of the main heap", thread->main_theap.page_count},
      {"pages of the library's own", thread->internal_theap.page_count},
      {"searches for a page", (uint64_t)mi_load_relaxed(&thread->counts.searches)},
      {"pages looked at", (uint64_t)mi_load_relaxed(&thread->counts.pages_searched)},
      {"pages extended", (uint64_t)mi_load_relaxed(&thread->counts.pages_extended)},
      {"pages retired", (uint64_t)mi_load_relaxed(&thread->counts.pages_retired)},
      {"heaps kept for the next", thread->handle_cache_count},
      {"bytes of their regions", thread->handle_cache_bytes},
  };
  for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
    print(&output, "  %-26s %12llu\n", rows[i].name, (unsigned long long)rows[i].value);
  }
}

// In the library's destructor.
void _mi_stats_at_exit(void) {
  if (_mi_option(mi_option_show_stats) != 0) mi_stats_print_out(NULL, NULL);
}

// --- as JSON ------------------------------------------------------------------------------------------------------

static void append_count(mi_text_t* text, const mi_stat_count_t* count, bool is_bin, size_t block_size) {
  mi_text_append(text, "{ \"total\": %lld, \"peak\": %lld, \"current\": %lld", (long long)count->total,
                 (long long)count->peak, (long long)count->current);
  if (is_bin) mi_text_append(text, ", \"block_size\": %zu", block_size);
  mi_text_append(text, " }");
}

static void append_bins(mi_text_t* text, const char* name, const mi_stat_count_t* bins, size_t count, bool sized) {
  mi_text_append(text, ",\n  \"%s\": [", name);
  for (size_t bin = 0; bin < count; bin++) {
    mi_text_append(text, bin == 0 ? "\n    " : ",\n    ");
    append_count(text, &bins[bin], sized, mi_stats_get_bin_size(bin));
  }
  mi_text_append(text, "\n  ]");
}

static size_t stats_write(const mi_stats_t* stats, size_t size, char* buf) {
  mi_text_t text = {buf, size, 0};
  mi_text_append(&text, "{\n  \"size\": %zu,\n  \"version\": %zu", stats->size, stats->version);
  for (size_t i = 0; i < FIELDS; i++) {
    mi_text_append(&text, ",\n  \"%s\": ", fields[i].name);
    if (fields[i].is_counter) {
      mi_text_append(&text, "%lld", (long long)field_total(stats, &fields[i]));
    } else {
      append_count(&text, field_count(stats, &fields[i]), false, 0);
    }
  }
  append_bins(&text, "malloc_bins", stats->malloc_bins, MI_STAT_BIN_COUNT, true);
  append_bins(&text, "page_bins", stats->page_bins, MI_STAT_BIN_COUNT, true);
  append_bins(&text, "chunk_bins", stats->chunk_bins, MI_CBIN_COUNT, false);
  mi_text_append(&text, "\n}\n");
  return text.length + 1;
}

char* mi_stats_as_json(mi_stats_t* stats, size_t buf_size, char* buf) {
  if (!stats_check(stats, "mi_stats_as_json")) return NULL;
  if (buf == NULL) {
    buf_size = stats_write(stats, 0, NULL);
    buf = mi_malloc(buf_size);
    if (buf == NULL) return NULL;
  }
  if (stats_write(stats, buf_size, buf) > buf_size) {
    if (buf_size > 0) buf[0] = 0;
    errno = ERANGE;
    return NULL;
  }
  return buf;
}

char* mi_stats_get_json(size_t buf_size, char* buf) {
  mi_stats_t stats;
  process_stats(&stats);
  return mi_stats_as_json(&stats, buf_size, buf);
}

char* mi_heap_stats_get_json(mi_heap_t* heap, size_t buf_size, char* buf) {
  mi_stats_t_decl(stats);
  return (mi_heap_stats_get(heap, &stats) ? mi_stats_as_json(&stats, buf_size, buf) : NULL);
}

// --- sub-processes ------------------------------------------------------------------------------------------------

typedef struct sum_s {
  mi_stats_t* stats;
  bool ok;
} sum_t;

static bool add_heap(mi_heap_t* heap, void* arg) {
  sum_t* const sum = arg;
  mi_stats_t_decl(of_heap);
  sum->ok = sum->ok && mi_heap_stats_get(heap, &of_heap);
  // Behind the header there are 64-bit counts and nothing else.
  int64_t* const to = (int64_t*)&sum->stats->pages;
  const int64_t* const from = (const int64_t*)&of_heap.pages;
  for (size_t i = 0; i < (sizeof(mi_stats_t) - offsetof(mi_stats_t, pages)) / sizeof(int64_t); i++) to[i] += from[i];
  return true;
}

static bool subproc_stats(mi_subproc_id_t id, mi_stats_t* stats, const char* function) {
  if (!_mi_subproc_exists(id)) {
    _mi_error(EINVAL, "%s: no such sub-process\n", function);
    return false;
  }
  if (!stats_check(stats, function)) return false;
  if (_mi_subproc_is_main(id)) return mi_stats_get(stats);
  memset(&stats->pages, 0, sizeof(*stats) - offsetof(mi_stats_t, pages));
  sum_t sum = {stats, true};
  mi_subproc_visit_heaps(id, add_heap, &sum);
  return sum.ok;
}

bool mi_subproc_stats_get(mi_subproc_id_t subproc_id, mi_stats_t* stats) {
  return subproc_stats(subproc_id, stats, "mi_subproc_stats_get");
}

bool mi_subproc_stats_get_exclusive(mi_subproc_id_t subproc_id, mi_stats_t* stats) {
  if (!subproc_stats(subproc_id, stats, "mi_subproc_stats_get_exclusive")) return false;
  if (_mi_subproc_is_main(subproc_id)) {
    _mi_stats_gather(stats, false);
    stats->size = sizeof(*stats);
    stats->version = MI_STAT_VERSION;
  } else {  // there is nothing but its heaps
    memset(&stats->pages, 0, sizeof(*stats) - offsetof(mi_stats_t, pages));
  }
  return true;
}

char* mi_subproc_stats_get_json(mi_subproc_id_t subproc_id, size_t buf_size, char* buf) {
  mi_stats_t_decl(stats);
  return (subproc_stats(subproc_id, &stats, "mi_subproc_stats_get_json") ? mi_stats_as_json(&stats, buf_size, buf)
                                                                         : NULL);
}

static bool print_each(mi_heap_t* heap, void* output) {
  print_heap(output, heap);
  return true;
}

void mi_subproc_stats_print_out(mi_subproc_id_t subproc_id, mi_output_fun* out, void* arg) {
  if (_mi_subproc_exists(subproc_id) && _mi_subproc_is_main(subproc_id)) {
    mi_stats_print_out(out, arg);
  } else {
    mi_subproc_heap_stats_print_out(subproc_id, out, arg);
  }
}

void mi_subproc_heap_stats_print_out(mi_subproc_id_t subproc_id, mi_output_fun* out, void* arg) {
  if (!_mi_subproc_exists(subproc_id)) {
    _mi_error(EINVAL, "mi_subproc_heap_stats_print_out: no such sub-process\n");
    return;
  }
  output_t output = {out, arg};
  mi_subproc_visit_heaps(subproc_id, print_each, &output);
}
