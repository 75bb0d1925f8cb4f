// Options and messages, as the core needs them. The public functions in mi/options.c are thin over these.
#pragma once
#ifndef MI_INTERNAL_OPTIONS_H
#define MI_INTERNAL_OPTIONS_H

#include "mi/internal/types.h"
#include "mi/mimalloc.h"

typedef struct mi_option_entry_s {
  const char* name;
  _Atomic(long) value;
  _Atomic(uint8_t) is_set;  // by the environment or the program
  uint8_t flags;            // MI_OPTION_SIZE, MI_OPTION_NO_EFFECT
  const char* older_name;   // NULL: none
} mi_option_entry_t;
#define MI_OPTION_SIZE ((uint8_t)1)       // kept in KiB
#define MI_OPTION_NO_EFFECT ((uint8_t)2)  // accepted for programs that set it

mi_hidden extern mi_option_entry_t _mi_options[_mi_option_last];

static inline long _mi_option(mi_option_t option) { return mi_load_relaxed(&_mi_options[option].value); }

// Reads the environment, the first time; called before the first allocation is served and before an option is asked
// for.
mi_hidden void _mi_options_init(void);

// A callback and its argument, registered as one pair: pairs are interned, so that one pointer names both and
// one atomic store changes both. A pair is never freed.
typedef void mi_any_fun(void);
typedef struct mi_pair_s {
  _Atomic(mi_any_fun*) fun;
  void* arg;
} mi_pair_t;
// The interned pair, NULL for a NULL `fun` or (ENOMEM) when there is no memory for a new one.
mi_hidden const mi_pair_t* _mi_pair_intern(mi_any_fun* fun, void* arg);

mi_hidden extern _Atomic(const mi_pair_t*) _mi_output_pair;
mi_hidden extern _Atomic(const mi_pair_t*) _mi_error_pair;

// Prints to the registered output or standard error. Never allocates. At most 511 bytes.
mi_hidden void _mi_print(const char* format, ...) __attribute__((format(printf, 1, 2)));
// The same to `out`; NULL: as _mi_print.
mi_hidden void _mi_print_to(mi_output_fun* out, void* arg, const char* format, ...)
    __attribute__((format(printf, 3, 4)));
mi_hidden void _mi_options_print(mi_output_fun* out, void* arg);
// Something that the user should know and that fails nothing, such as an option that is not understood: printed, as
// long as max_warnings is not exceeded.
mi_hidden void _mi_warning(const char* format, ...) __attribute__((format(printf, 1, 2), cold));
// An error that is worth a message: printed when show_errors (or verbose) is on and max_errors is not exceeded,
// then handed to the registered error callback. Sets errno for ENOMEM, EINVAL and EOVERFLOW.
mi_hidden void _mi_error(int err, const char* format, ...) __attribute__((format(printf, 2, 3), cold));
// A double free that is found only later, in the midst of a change to a page or a theap: printed at once as an error,
// but the callback, which may allocate and free, is called when the thread is through with that: by what looks at the
// thread's `alarm`, by a free in a heap with a policy, by a collect, at the thread's end. It is a callback as the
// others: none begins inside another, and `heap`, which the call that is interrupted is for, may not end in it (the
// main one: there is none).
mi_hidden void _mi_freed_twice(const char* format, ...) __attribute__((format(printf, 1, 2), cold));
mi_hidden void _mi_freed_twice_tell(mi_thread_t* thread, mi_heap_t* heap) __attribute__((cold));
// For where there is hardly ever anything to be told.
static inline void mi_freed_twice_tell(mi_thread_t* thread, mi_heap_t* heap) {
  if (mi_unlikely(thread->untold != 0)) _mi_freed_twice_tell(thread, heap);
}
// A pointer that is none of ours: an error, but in the secure build a corruption. The format takes the pointer.
mi_hidden void _mi_misuse(int err, const char* format, const void* p) __attribute__((cold));
// What must not go on: printed whatever the options say, handed to the registered error callback, and then the process
// aborts, whatever the callback does (if it leaves by a jump, when its thread comes here next; if it ends the process,
// in the library's destructor).
mi_hidden _Noreturn void _mi_corruption(int err, const char* format, ...) __attribute__((format(printf, 2, 3), cold));
mi_hidden extern _Atomic(bool) _mi_is_corrupt;
mi_hidden void _mi_corruption_stop(void);  // to be called where _mi_is_corrupt is found
// What the program asked to be told, such as what a check found: printed whatever the options say, then handed to the
// registered error callback.
mi_hidden void _mi_report(int err, const char* format, ...) __attribute__((format(printf, 2, 3), cold));

#endif
