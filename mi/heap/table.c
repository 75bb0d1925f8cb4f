// Heaps by name: how many were made, live, and lived at one time, and what those that live hold. Unnamed heaps are not
// counted one by one, so that they cost nothing: how many were made is known from their ids, how many live from a walk.
//
// The names are in a table that is never emptied: an array of entries, made at the first name, and an index that is
// hashed by name and changed by CAS alone. An entry is written before its index is, and constant from then on but for
// its counts.
//
// What heaps hold is put together by the walk of stats.c, which stops nobody: heaps may come and go meanwhile, so an
// entry that is read from a handle is believed only if it is one.
#define _GNU_SOURCE
#include "mi/heap/table.h"

#include <errno.h>
#include <signal.h>
#include <string.h>

#include "mi/heap/stats.h"
#include "mi/internal/os.h"
#include "mi/text.h"

#define SLOTS 2048  // a power of two, at least twice MI_NAMES_MAX

static _Atomic(mi_name_t*) names;  // MI_NAMES_MAX entries, and one for all others
static _Atomic(uint32_t) name_count;
static _Atomic(uint16_t) name_slots[SLOTS];  // the entry's number + 1; 0: free

// --- names --------------------------------------------------------------------------------------------------------

static mi_name_t* names_array(void) {
  mi_name_t* array = mi_load_acquire(&names);
  if (array != NULL) return array;
  mi_name_t* const made = _mi_os_alloc((MI_NAMES_MAX + 1) * sizeof(mi_name_t));
  if (made == NULL) return NULL;
  strcpy(made[MI_NAMES_MAX].name, "(others)");
  if (mi_cas_strong_acq_rel(&names, &array, made)) return made;
  _mi_os_free(made, (MI_NAMES_MAX + 1) * sizeof(mi_name_t));
  return array;
}

mi_name_t* _mi_name_of(const char* given) {
  mi_name_t* const array = names_array();
  if (array == NULL) return NULL;
  char name[sizeof(array->name)];
  size_t length = 0;
  for (; length + 1 < sizeof(name) && given[length] != 0; length++) name[length] = given[length];
  name[length] = 0;
  uint64_t hash = 0xcbf29ce484222325;  // FNV-1a
  for (const char* s = name; *s != 0; s++) hash = (hash ^ (uint8_t)*s) * 0x100000001b3;
  uint32_t made = 0;  // the number of an entry that is ours to give, plus 1
  for (size_t at = (hash >> 32) % SLOTS;; at = (at + 1) % SLOTS) {
    // Acquire: the entry's name.
    uint16_t number = mi_load_acquire(&name_slots[at]);
    if (number == 0) {
      if (made == 0) {
        if (mi_load_relaxed(&name_count) >= MI_NAMES_MAX) return &array[MI_NAMES_MAX];
        made = mi_fetch_add_relaxed(&name_count, 1u) + 1;
        if (made > MI_NAMES_MAX) return &array[MI_NAMES_MAX];
        strcpy(array[made - 1].name, name);
      }
      if (mi_cas_strong_acq_rel(&name_slots[at], &number, (uint16_t)made)) return &array[made - 1];
    }
    // An entry that was made in vain, because another thread made the same, stays unused.
    if (strcmp(array[number - 1].name, name) == 0) return &array[number - 1];
  }
}

void _mi_heap_name_begin(mi_heap_t* heap, mi_name_t* entry) {
  mi_heap_extra_t* const extra = heap->home.config;
  mi_store_relaxed(&extra->named, entry);
  mi_gauge_add(&entry->heaps, 1);
}

void _mi_heap_name_end(mi_heap_t* heap) {
  mi_heap_extra_t* const extra = heap->home.config;
  mi_name_t* const entry = (extra == NULL ? NULL : mi_load_relaxed(&extra->named));
  if (entry == NULL) return;
  mi_store_relaxed(&extra->named, (mi_name_t*)NULL);
  mi_gauge_sub(&entry->heaps, 1);
  // The handle, if it is kept, is for the next heap of the name (_mi_handle_prefer).
  mi_store_relaxed(&heap->forwarder_next, (void*)entry);
}

// --- rows ---------------------------------------------------------------------------------------------------------

#define ROW_UNNAMED (MI_NAMES_MAX + 1)
#define ROW_MAIN (MI_NAMES_MAX + 2)
#define ROWS (MI_NAMES_MAX + 3)

typedef struct rows_s {
  mi_heap_row_t row[ROWS];  // by the entry's number
} rows_t;

static _Atomic(int64_t) unnamed_peak;  // that a query met

// Which row a heap is in. It may be ending: what is read of it is checked.
static MI_RACY size_t row_of(mi_heap_t* heap) {
  for (int steps = 0; steps < 1000; steps++) {
    mi_heap_t* into;
    if (!_mi_heap_went_to(heap, &into)) return ROW_UNNAMED;
    if (into == NULL) break;
    heap = into;
  }
  if (heap == &_mi_heap_main) return ROW_MAIN;
  const mi_heap_extra_t* const extra = mi_racy(heap->home.config);
  size_t index;
  if (extra == NULL || (uintptr_t)extra % 8 != 0 || _mi_arena_of((const uint8_t*)extra + 1, &index) == NULL)
    return ROW_UNNAMED;
  const uintptr_t entry = (uintptr_t)mi_racy(extra->named), array = (uintptr_t)mi_load_acquire(&names);
  const uintptr_t offset = entry - array;
  if (entry == 0 || offset >= (MI_NAMES_MAX + 1) * sizeof(mi_name_t) || offset % sizeof(mi_name_t) != 0)
    return ROW_UNNAMED;
  return offset / sizeof(mi_name_t);
}

static void add_share(mi_heap_t* heap, const mi_heap_share_t* share, void* arg) {
  rows_t* const rows = arg;
  mi_heap_row_t* const row = &rows->row[row_of(heap)];
  row->blocks += (size_t)share->blocks;
  row->bytes += (size_t)share->bytes;
  row->reserved += (size_t)share->reserved;
  if (share->is_heap) row->live++;
}

static size_t fill_row(mi_heap_row_t* row, mi_name_t* entry) {
  row->name = entry->name;
  row->made = (size_t)mi_load_relaxed(&entry->heaps.total);
  row->live = (size_t)mi_load_relaxed(&entry->heaps.current);
  row->peak = (size_t)mi_load_relaxed(&entry->heaps.peak);
  return row->made;
}

static void fill_counts(rows_t* rows) {
  size_t named = 0;
  for (size_t at = 0; at < SLOTS; at++) {
    // Acquire: the array, and the entry's name, which may be written until its number is here.
    const uint16_t number = mi_load_acquire(&name_slots[at]);
    if (number != 0) named += fill_row(&rows->row[number - 1], &mi_load_relaxed(&names)[number - 1]);
  }
  mi_name_t* const array = mi_load_acquire(&names);
  if (array != NULL) named += fill_row(&rows->row[MI_NAMES_MAX], &array[MI_NAMES_MAX]);
  mi_heap_row_t* const unnamed = &rows->row[ROW_UNNAMED];
  const size_t made = (size_t)_mi_heaps_made();
  unnamed->name = "";
  unnamed->made = (made > named ? made - named : 0);
  mi_peak(&unnamed_peak, (int64_t)unnamed->live);
  unnamed->peak = (size_t)mi_load_relaxed(&unnamed_peak);
  mi_heap_row_t* const main = &rows->row[ROW_MAIN];
  main->name = "main";
  main->made = main->live = main->peak = 1;
}

// Drops rows without heaps, and puts those first that hold most.
static size_t rows_sort(mi_heap_row_t* row) {
  size_t count = 0;
  for (size_t i = 0; i < ROWS; i++) {
    if (row[i].made == 0) continue;
    const mi_heap_row_t moved = row[i];
    size_t to = count++;
    for (; to > 0 && row[to - 1].reserved < moved.reserved; to--) row[to] = row[to - 1];
    row[to] = moved;
  }
  return count;
}

bool mi_heap_table_visit(mi_heap_row_fun* fun, void* arg) {
  if (fun == NULL) {
    _mi_error(EINVAL, "mi_heap_table_visit: no function\n");
    return false;
  }
  rows_t* const rows = _mi_os_alloc(sizeof(rows_t));
  if (rows == NULL) {
    _mi_error(ENOMEM, "no memory for the table of heaps\n");
    return false;
  }
  _mi_heaps_share(add_share, rows);
  fill_counts(rows);
  const size_t count = rows_sort(rows->row);
  bool more = true;
  for (size_t i = 0; i < count && more; i++) MI_CALL_USER(more = fun(&rows->row[i], arg));
  _mi_os_free(rows, sizeof(rows_t));
  return more;
}

// --- as text ------------------------------------------------------------------------------------------------------

typedef struct output_s {
  mi_output_fun* out;
  void* arg;
} output_t;

static bool print_row(const mi_heap_row_t* row, void* arg) {
  const output_t* const output = arg;
  const char* const name = (row->name[0] == 0 ? "(unnamed)" : row->name);
  _mi_print_to(output->out, output->arg, "%-24.63s %10zu %10zu %10zu %12zu %14zu %14zu\n", name, row->live, row->peak,
               row->made, row->blocks, row->bytes, row->reserved);
  return true;
}

void mi_heap_table_print(mi_output_fun* out, void* arg) {
  output_t output = {out, arg};
  _mi_print_to(out, arg, "%-24s %10s %10s %10s %12s %14s %14s\n", "heaps by name", "live", "peak", "made", "blocks",
               "bytes", "memory");
  mi_heap_table_visit(print_row, &output);
}

// --- as JSON ------------------------------------------------------------------------------------------------------

typedef struct json_s {
  mi_text_t text;
  size_t rows;
} json_t;

static bool append_row(const mi_heap_row_t* row, void* arg) {
  json_t* const json = arg;
  mi_text_append(&json->text, json->rows++ == 0 ? "\n    { \"name\": " : ",\n    { \"name\": ");
  mi_text_append_json(&json->text, row->name);
  mi_text_append(&json->text,
                 ", \"live\": %zu, \"peak\": %zu, \"made\": %zu, \"blocks\": %zu, \"bytes\": %zu, \"memory\": %zu }",
                 row->live, row->peak, row->made, row->blocks, row->bytes, row->reserved);
  return true;
}

static bool table_write(size_t size, char* buf, size_t* length) {
  json_t json = {{buf, size, 0}, 0};
  mi_text_append(&json.text, "{\n  \"heaps\": [");
  const bool ok = mi_heap_table_visit(append_row, &json);
  mi_text_append(&json.text, "\n  ]\n}\n");
  *length = json.text.length + 1;
  return ok;
}

char* mi_heap_table_get_json(size_t buf_size, char* buf) {
  size_t length;
  if (buf != NULL) {
    if (!table_write(buf_size, buf, &length)) return NULL;
    if (length <= buf_size) return buf;
    if (buf_size > 0) buf[0] = 0;
    errno = ERANGE;
    return NULL;
  }
  for (size_t room = 4 * MI_KiB;;) {  // the table may grow meanwhile
    char* const text = mi_malloc(room);
    if (text == NULL || (table_write(room, text, &length) && length <= room)) return text;
    const bool failed = (length <= room);
    mi_free(text);
    if (failed) return NULL;
    room = length + length / 4;
  }
}

// --- on request ---------------------------------------------------------------------------------------------------

static _Atomic(uint32_t) requested;

static void post(mi_thread_t* thread, void* unused) {
  (void)unused;
  mi_store_release(&thread->mail, 1u);
}

// Async-signal-safe: stores only. Every thread gets mail, so that a slow path without a request costs what it did.
void mi_heap_table_request(void) {
  mi_store_release(&requested, 1u);
  _mi_threads_each(post, NULL);
}

void _mi_table_answer(mi_thread_t* thread) {
  if (mi_likely(mi_load_relaxed(&requested) == 0)) return;
  if (thread->callback_depth > 0) {
    mi_store_release(&thread->mail, 1u);  // the next time
    return;
  }
  if (atomic_exchange_explicit(&requested, 0u, memory_order_acq_rel) == 0) return;
  thread->callback_depth++;
  mi_heap_table_print(NULL, NULL);
  thread->callback_depth--;
}

static void on_signal(int number) {
  (void)number;
  mi_heap_table_request();
}

// A handler that the program has already stays.
void _mi_table_at_start(void) {
  const long option = _mi_option(mi_option_table_on_signal);
  if (option <= 0) return;
  const int number = (option == 1 ? SIGUSR2 : (int)option);
  struct sigaction action, present;
  if (option > 64 || sigaction(number, NULL, &present) != 0 || (present.sa_flags & SA_SIGINFO) != 0 ||
      present.sa_handler != SIG_DFL)
    return;
  memset(&action, 0, sizeof(action));
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART | SA_ONSTACK;
  sigaction(number, &action, NULL);
}
