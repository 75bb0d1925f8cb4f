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

#include "mi/internal/os.h"

#if defined(MI_DEBUG) && MI_DEBUG > 0
#define MI_SHOW_ERRORS_DEFAULT 1
#else
#define MI_SHOW_ERRORS_DEFAULT 0
#endif

mi_option_entry_t _mi_options[_mi_option_last] = {
    [mi_option_show_errors] = {"show_errors", MI_SHOW_ERRORS_DEFAULT, 0, false},
    [mi_option_show_stats] = {"show_stats", 0, 0, false},
    [mi_option_verbose] = {"verbose", 0, 0, false},
    [mi_option_max_errors] = {"max_errors", 32, 0, false},
    [mi_option_max_warnings] = {"max_warnings", 32, 0, false},
    [mi_option_purge_delay] = {"purge_delay", 10, 0, false},
    [mi_option_purge_decommits] = {"purge_decommits", 1, 0, false},
    [mi_option_arena_reserve] = {"arena_reserve", 0, 0, true},
    [mi_option_disallow_os_alloc] = {"disallow_os_alloc", 0, 0, false},
    [mi_option_destroy_on_exit] = {"destroy_on_exit", 0, 0, false},
    [mi_option_generic_collect] = {"generic_collect", 10000, 0, false},
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

static void print_text(const char* text) {
  const mi_pair_t* const pair = mi_load_acquire(&_mi_output_pair);
  if (pair != NULL) {
    mi_output_fun* const out = (mi_output_fun*)mi_load_relaxed(&pair->fun);
    out(text, pair->arg);
  } else {
    _mi_os_write(text, strlen(text));
  }
}

static void print_list(const char* prefix, const char* format, va_list args) {
  char text[512];
  const size_t n = strlen(prefix);
  memcpy(text, prefix, n);
  vsnprintf(text + n, sizeof(text) - n, format, args);
  print_text(text);
}

void _mi_print(const char* format, ...) {
  va_list args;
  va_start(args, format);
  print_list("", format, args);
  va_end(args);
}

static bool within(_Atomic(long)* count, long max) {
  return max < 0 || atomic_fetch_add_explicit(count, 1, memory_order_relaxed) < max;
}

void _mi_error(int err, const char* format, ...) {
  static _Atomic(long) errors;
  const bool show = _mi_option(mi_option_show_errors) != 0 || _mi_option(mi_option_verbose) != 0;
  if (show && within(&errors, _mi_option(mi_option_max_errors))) {
    va_list args;
    va_start(args, format);
    print_list("mimalloc: error: ", format, args);
    va_end(args);
  }
  const mi_pair_t* const pair = mi_load_acquire(&_mi_error_pair);
  if (pair != NULL) ((mi_error_fun*)mi_load_relaxed(&pair->fun))(err, pair->arg);
  if (err == ENOMEM || err == EINVAL || err == EOVERFLOW) errno = err;
}

#if defined(MI_DEBUG) && MI_DEBUG > 0
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

static void options_read(void) {
  if (_mi_os_is_secure()) return;
  for (int i = 0; i < _mi_option_last; i++) {
    mi_option_entry_t* const option = &_mi_options[i];
    char name[64] = "MIMALLOC_";
    size_t n = 9;
    for (const char* s = option->name; *s != 0 && n < sizeof(name) - 1; s++, n++) {
      name[n] = (*s >= 'a' && *s <= 'z' ? (char)(*s - 32) : *s);
    }
    name[n] = 0;
    const char* const text = getenv(name);
    if (text == NULL) continue;
    long value;
    if (option_parse(text, option->is_size, &value)) {
      uint8_t expected = 0;  // what the program set stays
      if (mi_cas_strong_acq_rel(&option->is_set, &expected, (uint8_t)1)) mi_store_relaxed(&option->value, value);
    } else {
      _mi_print("mimalloc: warning: the environment variable %s has no value that is understood: \"%s\"\n", name, text);
    }
  }
}

void _mi_options_init(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, options_read);
}
