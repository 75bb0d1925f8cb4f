// The table of options, the environment that sets them, and messages. Messages are formatted in a buffer on the
// stack and written with write(2): nothing here allocates, so that it may be called from inside malloc.
#include "mi/internal/options.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mi/internal/core.h"
#include "mi/internal/os.h"
#include "mi/internal/track.h"

#if MI_DEBUG > 0 || MI_TAIL
#define MI_SHOW_ERRORS_DEFAULT 1
#else
#define MI_SHOW_ERRORS_DEFAULT 0
#endif

// In builds without MI_GUARDED, the options of guarded blocks are for heaps that were made guarded.
#define GUARDED_SAMPLE_RATE (MI_GUARDED ? 4000 : 0)

// Each is described in mi/mimalloc.h.
#define OPTION(name, value, flags, older_name) [mi_option_##name] = {#name, value, 0, flags, older_name}
mi_option_entry_t _mi_options[_mi_option_last] = {
    OPTION(show_errors, MI_SHOW_ERRORS_DEFAULT, 0, NULL),
    OPTION(show_stats, 0, 0, NULL),
    OPTION(verbose, 0, 0, NULL),
    OPTION(arena_eager_commit, 2, MI_OPTION_NO_EFFECT, "eager_region_commit"),
    OPTION(purge_decommits, 1, 0, "reset_decommits"),
    OPTION(allow_large_os_pages, 0, 0, "large_os_pages"),
    OPTION(reserve_huge_os_pages, 0, 0, NULL),
    OPTION(reserve_huge_os_pages_at, -1, 0, NULL),
    OPTION(reserve_os_memory, 0, MI_OPTION_SIZE, NULL),
    OPTION(purge_delay, 10, 0, "reset_delay"),
    OPTION(use_numa_nodes, 0, 0, NULL),
    OPTION(disallow_os_alloc, 0, 0, "limit_os_alloc"),
    OPTION(os_tag, 100, MI_OPTION_NO_EFFECT, NULL),
    OPTION(max_errors, 32, 0, NULL),
    OPTION(max_warnings, 32, 0, NULL),
    OPTION(destroy_on_exit, 0, 0, NULL),
    OPTION(arena_reserve, 0, MI_OPTION_SIZE, NULL),
    OPTION(arena_purge_mult, 1, 0, NULL),
    OPTION(disallow_arena_alloc, 0, MI_OPTION_NO_EFFECT, NULL),
    OPTION(retry_on_oom, 400, MI_OPTION_NO_EFFECT, NULL),
    OPTION(visit_abandoned, 0, MI_OPTION_NO_EFFECT, NULL),
    OPTION(guarded_min, 0, 0, NULL),
    OPTION(guarded_max, 1024 * 1024 * 1024, 0, NULL),
    OPTION(guarded_precise, 0, 0, NULL),
    OPTION(guarded_sample_rate, GUARDED_SAMPLE_RATE, 0, NULL),
    OPTION(guarded_sample_seed, 0, 0, NULL),
    OPTION(generic_collect, 10000, MI_OPTION_NO_EFFECT, NULL),
    OPTION(page_reclaim_on_free, 0, MI_OPTION_NO_EFFECT, NULL),
    OPTION(page_full_retain, 2, MI_OPTION_NO_EFFECT, NULL),
    OPTION(page_max_candidates, 4, MI_OPTION_NO_EFFECT, NULL),
    OPTION(max_vabits, 0, MI_OPTION_NO_EFFECT, NULL),
    OPTION(pagemap_commit, 0, MI_OPTION_NO_EFFECT, NULL),
    OPTION(page_commit_on_demand, 0, MI_OPTION_NO_EFFECT, NULL),
    OPTION(page_max_reclaim, -1, MI_OPTION_NO_EFFECT, NULL),
    OPTION(page_cross_thread_max_reclaim, 32, MI_OPTION_NO_EFFECT, NULL),
    OPTION(allow_thp, 1, 0, NULL),
    OPTION(minimal_purge_size, 0, MI_OPTION_SIZE, NULL),
    OPTION(arena_max_object_size, 2 * 1024 * 1024, MI_OPTION_SIZE | MI_OPTION_NO_EFFECT, NULL),
    OPTION(arena_is_numa_local, 0, MI_OPTION_NO_EFFECT, NULL),
    OPTION(eager_commit, 1, MI_OPTION_NO_EFFECT, NULL),
    OPTION(eager_commit_delay, 1, MI_OPTION_NO_EFFECT, NULL),
    OPTION(abandoned_page_purge, 0, MI_OPTION_NO_EFFECT, NULL),
    OPTION(max_segment_reclaim, 10, MI_OPTION_NO_EFFECT, NULL),
    OPTION(purge_extend_delay, 1, MI_OPTION_NO_EFFECT, NULL),
    OPTION(abandoned_reclaim_on_free, 0, MI_OPTION_NO_EFFECT, NULL),
    OPTION(target_segments_per_thread, 0, MI_OPTION_NO_EFFECT, NULL),
    OPTION(report_survivors, 0, 0, NULL),
    OPTION(table_on_signal, 0, 0, NULL),
    OPTION(guarded_before, 0, 0, NULL),
    OPTION(guarded_quarantine, 256, 0, NULL),
    OPTION(guarded_report, 1, 0, NULL),
};

_Atomic(const mi_pair_t*) _mi_output_pair;
_Atomic(const mi_pair_t*) _mi_error_pair;

// --- pairs ------------------------------------------------------------------------------------------

#define PAIRS_PER_CHUNK 254
typedef struct pair_chunk_s {
  mi_pair_t pair[PAIRS_PER_CHUNK];
  _Atomic(uint8_t) claimed[PAIRS_PER_CHUNK];
  _Atomic(struct pair_chunk_s*) next;
} pair_chunk_t;
static pair_chunk_t pairs;

const mi_pair_t* _mi_pair_intern(mi_any_fun* fun, void* arg) {
  if (fun == NULL) return NULL;
  for (pair_chunk_t* chunk = &pairs;;) {
    for (size_t i = 0; i < PAIRS_PER_CHUNK; i++) {
      mi_pair_t* const pair = &chunk->pair[i];
      // `fun` is stored last (release), so that who sees it sees `arg`. Two threads may intern the same pair
      // twice: harmless.
      mi_any_fun* const seen = mi_load_acquire(&pair->fun);
      if (seen == fun && pair->arg == arg) return pair;
      uint8_t expected = 0;
      if (seen == NULL && mi_cas_strong_acq_rel(&chunk->claimed[i], &expected, (uint8_t)1)) {
        pair->arg = arg;
        mi_store_release(&pair->fun, fun);
        return pair;
      }
    }
    pair_chunk_t* next = mi_load_acquire(&chunk->next);
    if (next == NULL) {
      pair_chunk_t* const made = _mi_os_alloc(sizeof(pair_chunk_t));
      if (made == NULL) {
        errno = ENOMEM;
        return NULL;
      }
      if (mi_cas_strong_acq_rel(&chunk->next, &next, made)) {
        next = made;
      } else {
        _mi_os_free(made, sizeof(pair_chunk_t));
      }
    }
    chunk = next;
  }
}

// --- messages -----------------------------------------------------------------------------------------

static void print_text(mi_output_fun* to, void* arg, const char* text) {
  if (to != NULL) {
    MI_CALL_USER(to(text, arg));
    return;
  }
  const mi_pair_t* const pair = mi_load_acquire(&_mi_output_pair);
  if (pair != NULL) {
    mi_output_fun* const out = (mi_output_fun*)mi_load_relaxed(&pair->fun);
    MI_CALL_USER(out(text, pair->arg));
  } else {
    _mi_os_write(text, strlen(text));
  }
}

static void print_list(mi_output_fun* out, void* arg, const char* prefix, const char* format, va_list args) {
  char text[512];
  const size_t n = strlen(prefix);
  memcpy(text, prefix, n);
  vsnprintf(text + n, sizeof(text) - n, format, args);
  print_text(out, arg, text);
}

void _mi_print(const char* format, ...) {
  va_list args;
  va_start(args, format);
  print_list(NULL, NULL, "", format, args);
  va_end(args);
}

void _mi_print_to(mi_output_fun* out, void* arg, const char* format, ...) {
  va_list args;
  va_start(args, format);
  print_list(out, arg, "", format, args);
  va_end(args);
}

static bool within(_Atomic(long)* count, long max) {
  return max < 0 || atomic_fetch_add_explicit(count, 1, memory_order_relaxed) < max;
}

static bool shows_errors(void) { return _mi_option(mi_option_show_errors) != 0 || _mi_option(mi_option_verbose) != 0; }

static void error_print(const char* format, va_list args) {
  static _Atomic(long) errors;
  if (shows_errors() && within(&errors, _mi_option(mi_option_max_errors)))
    print_list(NULL, NULL, "mimalloc: error: ", format, args);
}

static void error_call(int err) {
  const mi_pair_t* const pair = mi_load_acquire(&_mi_error_pair);
  if (pair == NULL) return;
  mi_error_fun* const fun = (mi_error_fun*)mi_load_relaxed(&pair->fun);
  MI_CALL_USER(fun(err, pair->arg));
}

void _mi_error(int err, const char* format, ...) {
  va_list args;
  va_start(args, format);
  error_print(format, args);
  va_end(args);
  error_call(err);
#if MI_XMALLOC
  if (err == ENOMEM || err == EOVERFLOW) {
    if (!shows_errors()) {
      va_start(args, format);
      print_list(NULL, NULL, "mimalloc: error: ", format, args);
      va_end(args);
    }
    _mi_print("mimalloc: the program ends, because the library was built with MI_XMALLOC\n");
    abort();
  }
#endif
  if (err == ENOMEM || err == EINVAL || err == EOVERFLOW) errno = err;
}

void _mi_freed_twice(const char* format, ...) {
  va_list args;
  va_start(args, format);
  error_print(format, args);
  va_end(args);
  mi_thread_t* const thread = _mi_tls.thread;
  if (thread == NULL) {  // it has nothing that could be in the midst of anything
    error_call(EAGAIN);
    return;
  }
  thread->untold++;
  thread->alarm = true;
}

// What is found while the callback runs is left for the next time: the alarm is on for it.
void _mi_freed_twice_tell(mi_thread_t* thread, mi_heap_t* heap) {
  if (thread->callback_depth > 0) return;
  mi_callback_t frame = {NULL, heap, 0};
  mi_callback_enter(thread, &frame);
  for (uint32_t left = thread->untold; left > 0; left--) {
    thread->untold--;
    error_call(EAGAIN);
  }
  mi_callback_leave(thread, &frame);
}

void _mi_report(int err, const char* format, ...) {
  va_list args;
  va_start(args, format);
  print_list(NULL, NULL, "mimalloc: error: ", format, args);
  va_end(args);
  error_call(err);
}

// Where the report of a corruption stands, while its callback runs: who comes back to the library from further out on
// the stack has left the callback by a jump.
static _Atomic(mi_tid_t) corrupt_thread;
static _Atomic(uintptr_t) corrupt_frame;

void _mi_corruption(int err, const char* format, ...) {
  va_list args;
  va_start(args, format);
  print_list(NULL, NULL, "mimalloc: corruption: ", format, args);
  va_end(args);
  const mi_pair_t* const pair = mi_load_acquire(&_mi_error_pair);
  mi_tid_t nobody = MI_TID_NONE;
  if (pair != NULL && mi_cas_strong_acq_rel(&corrupt_thread, &nobody, _mi_tls.tid)) {
    mi_store_relaxed(&corrupt_frame, (uintptr_t)__builtin_frame_address(0));
    mi_store_release(&_mi_is_corrupt, true);
    mi_error_fun* const fun = (mi_error_fun*)mi_load_relaxed(&pair->fun);
    MI_CALL_USER(fun(err, pair->arg));
  }
  abort();
}

_Atomic(bool) _mi_is_corrupt;

void _mi_corruption_stop(void) {
  if (mi_load_relaxed(&corrupt_thread) == _mi_tls.tid &&
      (uintptr_t)__builtin_frame_address(0) < mi_load_relaxed(&corrupt_frame))
    return;  // the callback itself
  if (mi_load_relaxed(&corrupt_thread) == _mi_tls.tid) abort();
}

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
void _mi_misuse(int err, const char* format, const void* p) {
  char text[256];
  snprintf(text, sizeof(text), format, p);
  if (MI_SECURE) _mi_corruption(err, "%s (thread %u)\n", text, _mi_os_thread_id());
  _mi_error(err, "%s\n", text);
}
#pragma GCC diagnostic pop

void _mi_warning(const char* format, ...) {
  static _Atomic(long) warnings;
  if (!within(&warnings, _mi_option(mi_option_max_warnings))) return;
  va_list args;
  va_start(args, format);
  print_list(NULL, NULL, "mimalloc: warning: ", format, args);
  va_end(args);
}

#if MI_DEBUG > 0
_Noreturn void _mi_assert_fail(const char* expression, const char* file, int line) {
  _mi_print("mimalloc: internal assertion failed: %s at %s:%d\n", expression, file, line);
  abort();
}
#endif

// --- the environment ------------------------------------------------------------------------------------

static bool text_is(const char* text, const char* word) {  // regardless of case
  while (*text != 0 && *word != 0) {
    const char c = (*text >= 'A' && *text <= 'Z' ? (char)(*text + 32) : *text);
    if (c != *word) return false;
    text++;
    word++;
  }
  return *text == *word;
}

// A number, yes/no, or (for sizes) a number with K, M or G; the value in `*value` is in KiB for sizes.
static bool option_parse(const char* text, bool is_size, long* value) {
  if (*text == 0 || text_is(text, "1") || text_is(text, "true") || text_is(text, "yes") || text_is(text, "on")) {
    if (!is_size || *text == 0) {
      *value = 1;
      return true;
    }
  }
  if (text_is(text, "false") || text_is(text, "no") || text_is(text, "off")) {
    *value = 0;
    return true;
  }
  char* end;
  const int saved = errno;
  errno = 0;
  long v = strtol(text, &end, 10);
  const bool ok = (errno == 0 && end != text);
  errno = saved;
  if (!ok) return false;
  if (is_size) {
    if (v < 0) return false;
    long unit = 0;  // shift from the given unit to KiB
    if (*end == 'K' || *end == 'k') {
      end++;
    } else if (*end == 'M' || *end == 'm') {
      unit = 10;
      end++;
    } else if (*end == 'G' || *end == 'g') {
      unit = 20;
      end++;
    } else if (*end == 'T' || *end == 't') {
      unit = 30;
      end++;
    } else {
      v = (long)(((unsigned long)v + 1023) / 1024);
    }
    if (*end == 'i') end++;
    if (*end == 'B' || *end == 'b') end++;
    if (v > (LONG_MAX / 1024 >> unit)) return false;
    v <<= unit;
  }
  if (*end != 0) return false;
  *value = v;
  return true;
}

static const char* option_text(char variable[64], const char* name) {
  size_t n = 0;
  for (const char* s = "MIMALLOC_"; *s != 0; s++) variable[n++] = *s;
  for (const char* s = name; *s != 0 && n < 63; s++) variable[n++] = (*s >= 'a' && *s <= 'z' ? (char)(*s - 32) : *s);
  variable[n] = 0;
  return getenv(variable);
}

static void option_read(mi_option_entry_t* option) {
  char variable[64];
  const char* text = option_text(variable, option->name);
  if (text == NULL && option->older_name != NULL) text = option_text(variable, option->older_name);
  if (text == NULL) return;
  long value;
  if (option_parse(text, (option->flags & MI_OPTION_SIZE) != 0, &value)) {
    uint8_t expected = 0;  // what the program set stays
    if (mi_cas_strong_acq_rel(&option->is_set, &expected, (uint8_t)1)) mi_store_relaxed(&option->value, value);
  } else {
    _mi_warning("the environment variable %s has no value that is understood: \"%s\"\n", variable, text);
  }
}

void _mi_options_print(mi_output_fun* out, void* arg) {
  _mi_print_to(out, arg, "mimalloc %d.%d.%d\n", MI_MALLOC_VERSION / 10000, MI_MALLOC_VERSION / 100 % 100,
               MI_MALLOC_VERSION % 100);
  for (int i = 0; i < _mi_option_last; i++) {
    const mi_option_entry_t* const option = &_mi_options[i];
    _mi_print_to(out, arg, "option '%s': %ld%s%s\n", option->name, _mi_option((mi_option_t)i),
                 (option->flags & MI_OPTION_SIZE) != 0 ? " KiB" : "",
                 (option->flags & MI_OPTION_NO_EFFECT) != 0 ? " (no effect)" : "");
  }
}

static void options_read(void) {
  if (_mi_os_is_secure()) return;
  // First, because the others' messages follow them.
  option_read(&_mi_options[mi_option_max_warnings]);
  for (int i = 0; i < _mi_option_last; i++) {
    if (i != mi_option_max_warnings) option_read(&_mi_options[i]);
  }
  if (_mi_option(mi_option_verbose) != 0) _mi_options_print(NULL, NULL);
}

void _mi_options_init(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, options_read);
}
