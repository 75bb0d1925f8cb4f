// Tells valgrind or AddressSanitizer of blocks, see track.h. Empty in other builds.
#include "mi/internal/track.h"

#if MI_TRACK_VALGRIND

#include <valgrind/memcheck.h>

// Announced with each block. Nobody reads it: what lies behind a block is forbidden in any case, so that memcheck names
// the block also for an access far behind its end.
#define MI_REDZONE 16

#define UNWATCHED __attribute__((no_instrument_function))

// How many functions of the library the thread is in.
static _Thread_local unsigned depth;

// Called by the compiler's code at the start and the end of every function of the library (-finstrument-functions).
UNWATCHED mi_hidden void __cyg_profile_func_enter(void* function, void* caller);
UNWATCHED mi_hidden void __cyg_profile_func_exit(void* function, void* caller);

void __cyg_profile_func_enter(void* function, void* caller) {
  (void)function, (void)caller;
  if (depth++ == 0) VALGRIND_DISABLE_ERROR_REPORTING;
}

void __cyg_profile_func_exit(void* function, void* caller) {
  (void)function, (void)caller;
  if (depth == 0) return;  // a callback of the program jumped out of the library
  if (--depth == 0) VALGRIND_ENABLE_ERROR_REPORTING;
}

UNWATCHED unsigned _mi_track_leave(void) {
  const unsigned former = depth;
  depth = 0;
  if (former > 0) VALGRIND_ENABLE_ERROR_REPORTING;
  return former;
}

UNWATCHED void _mi_track_return(unsigned former) {
  if (former > 0) VALGRIND_DISABLE_ERROR_REPORTING;
  depth = former;
}

UNWATCHED void _mi_track_alloc(void* p, size_t size, bool zero) {
  VALGRIND_MALLOCLIKE_BLOCK(p, size, MI_REDZONE, zero);
}

UNWATCHED void _mi_track_free(void* p, size_t size) {
  (void)size;
  VALGRIND_FREELIKE_BLOCK(p, MI_REDZONE);
}

UNWATCHED void _mi_track_free_invalid(void* p) {
  const unsigned former = _mi_track_leave();
  VALGRIND_FREELIKE_BLOCK(p, MI_REDZONE);
  _mi_track_return(former);
}

UNWATCHED void _mi_track_resize(void* p, size_t size, size_t newsize) {
  VALGRIND_RESIZEINPLACE_BLOCK(p, size, newsize, MI_REDZONE);
}

UNWATCHED void _mi_track_hide(void* start, size_t size) { VALGRIND_MAKE_MEM_NOACCESS(start, size); }

UNWATCHED void _mi_track_show(void* start, size_t size) { VALGRIND_MAKE_MEM_DEFINED(start, size); }

UNWATCHED void _mi_track_root(void* start, size_t size) { (void)start, (void)size; }  // memcheck looks there anyway

UNWATCHED bool _mi_track_is_active(void) { return RUNNING_ON_VALGRIND != 0; }

#elif MI_TRACK_ASAN

#include <sanitizer/asan_interface.h>
#include <sanitizer/lsan_interface.h>

#include "mi/internal/arena.h"

unsigned _mi_track_leave(void) { return 0; }
void _mi_track_return(unsigned former) { (void)former; }

void _mi_track_alloc(void* p, size_t size, bool zero) {
  (void)zero;
  __asan_unpoison_memory_region(p, size);
}

void _mi_track_free(void* p, size_t size) { __asan_poison_memory_region(p, size); }

// The sanitizer has no report of its own for this; what it says and where is right. It knows nothing of addresses that
// nobody can have.
void _mi_track_free_invalid(void* p) {
  size_t index;
  if (_mi_arena_of(p, &index) != NULL && __asan_address_is_poisoned(p)) {
    __asan_report_error(__builtin_return_address(0), __builtin_frame_address(0), &p, p, 1, 1);
  }
}

void _mi_track_resize(void* p, size_t size, size_t newsize) {
  if (size > newsize) __asan_poison_memory_region(p, size);
  __asan_unpoison_memory_region(p, newsize);
}

void _mi_track_hide(void* start, size_t size) { __asan_poison_memory_region(start, size); }

void _mi_track_show(void* start, size_t size) { __asan_unpoison_memory_region(start, size); }

void _mi_track_root(void* start, size_t size) { __lsan_register_root_region(start, size); }

bool _mi_track_is_active(void) { return true; }

// What the library's calls of memset and memcpy lead to (config.h): the sanitizer's own would look at the addresses.
// The compiler must not take the loops for what they are.
mi_hidden void* _mi_plain_memset(void* to, int value, size_t size);
mi_hidden void* _mi_plain_memcpy(void* to, const void* from, size_t size);

void* _mi_plain_memset(void* to, int value, size_t size) {
  uint8_t* at = to;
  uint8_t* const end = at + size;
  for (; at < end && (uintptr_t)at % 8 != 0; at++) *(volatile uint8_t*)at = (uint8_t)value;
  const uint64_t word = (uint8_t)value * 0x0101010101010101u;
  for (; end - at >= 8; at += 8) *(volatile uint64_t*)at = word;
  for (; at < end; at++) *(volatile uint8_t*)at = (uint8_t)value;
  return to;
}

void* _mi_plain_memcpy(void* to, const void* from, size_t size) {
  for (size_t i = 0; i < size; i++) ((volatile uint8_t*)to)[i] = ((const uint8_t*)from)[i];
  return to;
}

#endif

#if !MI_TRACKED
typedef int mi_track_is_not_empty_t;  // C wants a declaration in every file
#endif
