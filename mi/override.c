// malloc itself, for libmimalloc.so and for programs that link :override: the C and POSIX names, glibc's own names for
// them, and C++ new and delete. Not in the plain library, which overrides nothing.
//
// Argument checks, results and errno are glibc's, with one exception: realloc(p, 0) returns a block of the smallest
// size (as mi_realloc does) and not NULL, so that NULL always means that `p` is still there. A pointer that is not ours
// (from the dynamic loader's first allocations, from another allocator in the process) is never touched: free ignores
// it, realloc fails with EINVAL, malloc_usable_size is 0; MIMALLOC_SHOW_ERRORS=1 shows them.
//
// The C++ names are written as the compiler mangles them, so that the library needs no C++ runtime; what it needs of
// one when memory runs out is looked for then. This file is compiled with -fexceptions.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <wchar.h>

#include "mi/fastpath.h"
#include "mi/internal/free.h"
#include "mi/internal/trace.h"
#include "mi/mimalloc.h"
#include "mi/new.h"

#define EXPORT __attribute__((visibility("default"))) extern
#define EXPORT_WEAK __attribute__((visibility("default"), weak)) extern
#define ALIAS(name) __attribute__((alias(#name), visibility("default")))

// The aliases of free take arguments that free does not read, which is how the machine's calling convention goes.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wattribute-alias"
#pragma GCC diagnostic ignored "-Wmissing-attributes"
#endif

// --- C ----------------------------------------------------------------------------------------------------------

static mi_noinline void free_other(void* p) {
  MI_KEEP_FRAME();
  const int saved = errno;
  _mi_free_other(p);
  errno = saved;
}

static mi_noinline void free_slow(void* p) {
  if (mi_unlikely(!mi_free_short(p))) free_other(p);
}

// The product overflows: mi_calloc says EOVERFLOW, C programs expect ENOMEM.
static mi_cold void* too_many(size_t count, size_t size) {
  size_t total;
  (void)_mi_count_size(count, size, &total);
  errno = ENOMEM;
  return NULL;
}

EXPORT void* malloc(size_t size) { return mi_fast_malloc(size, _mi_malloc_generic); }
EXPORT void free(void* p) { mi_fast_free(p, free_slow); }

EXPORT void* calloc(size_t count, size_t size) {
  size_t total;
  if (mi_unlikely(mi_mul_overflow(count, size, &total))) return too_many(count, size);
  return mi_fast_zalloc(total, _mi_malloc_generic);
}

EXPORT void* realloc(void* p, size_t newsize) {
  if (p == NULL) return mi_fast_malloc(newsize, _mi_malloc_generic);
  bool done;
  void* const q = mi_fast_realloc(p, newsize, &done);
  if (mi_likely(done)) return q;
  return _mi_heap_realloc_any(NULL, p, newsize, 1, 0, false);
}

EXPORT void* reallocarray(void* p, size_t count, size_t size) {
  size_t total;
  if (mi_unlikely(mi_mul_overflow(count, size, &total))) return too_many(count, size);
  return realloc(p, total);
}

void cfree(void* p) ALIAS(free);

EXPORT size_t malloc_usable_size(void* p);
size_t malloc_usable_size(void* p) { return mi_fast_usable_size(p); }

// --- aligned -------------------------------------------------------------------------------------------------------

// Rounds an alignment that is no power of two up to one, as glibc does.
EXPORT void* memalign(size_t alignment, size_t size);
void* memalign(size_t alignment, size_t size) {
  if (!mi_is_power_of_two(alignment) && alignment <= SIZE_MAX / 2) {
    alignment = (alignment < 16 ? 16 : (size_t)1 << (mi_msb(alignment) + 1));
  }
  return mi_malloc_aligned(size, alignment);
}

EXPORT void* aligned_alloc(size_t alignment, size_t size) { return mi_malloc_aligned(size, alignment); }
EXPORT int posix_memalign(void** p, size_t alignment, size_t size) { return mi_posix_memalign(p, alignment, size); }
EXPORT void* valloc(size_t size) { return mi_valloc(size); }
EXPORT void* pvalloc(size_t size);
void* pvalloc(size_t size) { return mi_pvalloc(size); }

// --- strings -------------------------------------------------------------------------------------------------------
// glibc's own call malloc by name and would reach us too; with these, a copy does not depend on that.

EXPORT char* strdup(const char* s) {
  MI_KEEP_FRAME();
  const size_t size = strlen(s) + 1;
  char* const copy = malloc(size);
  return (copy == NULL ? NULL : memcpy(copy, s, size));
}

EXPORT char* strndup(const char* s, size_t n) {
  MI_KEEP_FRAME();
  const size_t length = strnlen(s, n);
  char* const copy = malloc(length + 1);
  if (copy == NULL) return NULL;
  copy[length] = 0;
  return memcpy(copy, s, length);
}

EXPORT wchar_t* wcsdup(const wchar_t* s) {
  MI_KEEP_FRAME();
  const size_t size = (wcslen(s) + 1) * sizeof(wchar_t);
  wchar_t* const copy = malloc(size);
  return (copy == NULL ? NULL : memcpy(copy, s, size));
}

// --- glibc's names -------------------------------------------------------------------------------------------------

void* __libc_malloc(size_t size) ALIAS(malloc);
void* __libc_calloc(size_t count, size_t size) ALIAS(calloc);
void* __libc_realloc(void* p, size_t newsize) ALIAS(realloc);
void __libc_free(void* p) ALIAS(free);
void __libc_cfree(void* p) ALIAS(free);
void* __libc_memalign(size_t alignment, size_t size) ALIAS(memalign);
void* __libc_valloc(size_t size) ALIAS(valloc);
void* __libc_pvalloc(size_t size) ALIAS(pvalloc);
void* __libc_reallocarray(void* p, size_t count, size_t size) ALIAS(reallocarray);
int __posix_memalign(void** p, size_t alignment, size_t size) ALIAS(posix_memalign);
char* __strdup(const char* s) ALIAS(strdup);
char* __strndup(const char* s, size_t n) ALIAS(strndup);

// --- C++ -----------------------------------------------------------------------------------------------------------
// std::size_t is mangled as what it is: unsigned long (m), or unsigned int (j) where that has 64 bits.

#if defined(__SIZE_TYPE__) && __SIZEOF_SIZE_T__ == __SIZEOF_LONG__
#define NAME(before, after) before##m##after
#else
#define NAME(before, after) before##j##after
#endif

// What happens when there is no memory (call the new_handler, try again, throw, catch for nothrow) is the C++ runtime's
// business: its own operator of the same name is called, which asks malloc again. Where there is none, in a program
// without shared libraries, mi_new's way is taken; that does not catch what a new_handler throws in a nothrow new. The
// references are weak, so that neither a C++ runtime nor a dynamic loader is needed.
extern void* dlsym(void* handle, const char* name) __attribute__((weak));

typedef void* new_fun(size_t size);
typedef void* new_nothrow_fun(size_t size, const void* tag);
typedef void* new_aligned_fun(size_t size, size_t alignment);
typedef void* new_aligned_nothrow_fun(size_t size, size_t alignment, const void* tag);

// The operator of this name behind ours; NULL: there is none.
static mi_cold void* runtime_operator(const char* name) {
  if (dlsym == NULL) return NULL;
  const int saved = errno;
  void* own = dlsym(RTLD_NEXT, name);
#if defined(MI_SHARED_LIB)
  // A runtime that came with a library of the program is not behind us, but may be there.
  static const char* const runtimes[] = {"libstdc++.so.6", "libc++abi.so.1", "libc++.so.1"};
  for (size_t i = 0; own == NULL && i < sizeof(runtimes) / sizeof(runtimes[0]); i++) {
    void* const runtime = dlopen(runtimes[i], RTLD_LAZY | RTLD_NOLOAD);
    if (runtime != NULL) own = dlsym(runtime, name);
  }
#endif
  errno = saved;
  return own;
}

#define STRING(x) #x
#define NAME_STRING(x) STRING(x)

static mi_noinline void* new_slow(size_t size, mi_theap_t* theap, bool zero) {
  void* const p = _mi_malloc_generic(size, theap, zero);
  if (mi_likely(p != NULL)) return p;
  new_fun* const next = (new_fun*)runtime_operator(NAME_STRING(NAME(_Znw, )));
  return (next != NULL ? next(size) : _mi_new_failed(size, 1, false));
}
static mi_noinline void* new_slow_nothrow(size_t size, mi_theap_t* theap, bool zero) {
  void* const p = _mi_malloc_generic(size, theap, zero);
  if (mi_likely(p != NULL)) return p;
  new_nothrow_fun* const next = (new_nothrow_fun*)runtime_operator(NAME_STRING(NAME(_Znw, RKSt9nothrow_t)));
  return (next != NULL ? next(size, &next) : _mi_new_failed(size, 1, true));
}
static void* new_aligned(size_t size, size_t alignment) {
  void* const p = mi_malloc_aligned(size, alignment);
  if (mi_likely(p != NULL)) return p;
  new_aligned_fun* const next = (new_aligned_fun*)runtime_operator(NAME_STRING(NAME(_Znw, St11align_val_t)));
  return (next != NULL ? next(size, alignment) : _mi_new_failed(size, alignment, false));
}
static void* new_aligned_nothrow(size_t size, size_t alignment) {
  void* const p = mi_malloc_aligned(size, alignment);
  if (mi_likely(p != NULL)) return p;
  new_aligned_nothrow_fun* const next =
      (new_aligned_nothrow_fun*)runtime_operator(NAME_STRING(NAME(_Znw, St11align_val_tRKSt9nothrow_t)));
  return (next != NULL ? next(size, alignment, &next) : _mi_new_failed(size, alignment, true));
}

// What a program may replace, and what follows, is the standard's: an operator that is not replaced acts as if it
// called the one that is (array: single; nothrow: throwing; sized: unsized). So a program that replaces the plain
// operators only, and puts a header before each block for example, is served by them alone. Four operators do the work,
// and all others reach them by name: the program's come first where there are such, in a shared library as these are
// weak in an archive or object. (A shared library must not bind the names to itself: --dynamic-list-cpp-new.)
static void* own_new(size_t size) { return mi_fast_malloc(size, new_slow); }

EXPORT_WEAK void* NAME(_Znw, )(size_t size) ALIAS(own_new);
EXPORT_WEAK void* NAME(_Znw, St11align_val_t)(size_t size, size_t alignment) ALIAS(new_aligned);
EXPORT_WEAK void _ZdlPv(void* p) ALIAS(free);
EXPORT_WEAK void _ZdlPvSt11align_val_t(void* p, size_t alignment) ALIAS(free);

// arrays
static void* own_new_array(size_t size) { return NAME(_Znw, )(size); }
static void* own_new_array_aligned(size_t size, size_t alignment) {
  return NAME(_Znw, St11align_val_t)(size, alignment);
}

EXPORT_WEAK void* NAME(_Zna, )(size_t size) ALIAS(own_new_array);
EXPORT_WEAK void* NAME(_Zna, St11align_val_t)(size_t size, size_t alignment) ALIAS(own_new_array_aligned);
EXPORT_WEAK void _ZdaPv(void* p);
void _ZdaPv(void* p) { _ZdlPv(p); }
EXPORT_WEAK void _ZdaPvSt11align_val_t(void* p, size_t alignment);
void _ZdaPvSt11align_val_t(void* p, size_t alignment) { _ZdlPvSt11align_val_t(p, alignment); }

// nothrow: ours while the throwing ones are, else the runtime's, which calls the program's and catches. (Without shared
// libraries there is none: what the program's throws is not caught.)
static mi_cold mi_noinline void* replaced_nothrow(size_t size, const void* tag, const char* name, new_fun* throwing) {
  new_nothrow_fun* const next = (new_nothrow_fun*)runtime_operator(name);
  return (next != NULL ? next(size, tag) : throwing(size));
}
static mi_cold mi_noinline void* replaced_aligned_nothrow(size_t size, size_t alignment, const void* tag,
                                                          const char* name, new_aligned_fun* throwing) {
  new_aligned_nothrow_fun* const next = (new_aligned_nothrow_fun*)runtime_operator(name);
  return (next != NULL ? next(size, alignment, tag) : throwing(size, alignment));
}

EXPORT_WEAK void* NAME(_Znw, RKSt9nothrow_t)(size_t size, const void* tag);
void* NAME(_Znw, RKSt9nothrow_t)(size_t size, const void* tag) {
  new_fun* const throwing = NAME(_Znw, );
  if (mi_likely(throwing == own_new)) return mi_fast_malloc(size, new_slow_nothrow);
  return replaced_nothrow(size, tag, NAME_STRING(NAME(_Znw, RKSt9nothrow_t)), throwing);
}
EXPORT_WEAK void* NAME(_Zna, RKSt9nothrow_t)(size_t size, const void* tag);
void* NAME(_Zna, RKSt9nothrow_t)(size_t size, const void* tag) {
  new_fun* const throwing = NAME(_Zna, );
  if (mi_likely(throwing == own_new_array)) return NAME(_Znw, RKSt9nothrow_t)(size, tag);
  return replaced_nothrow(size, tag, NAME_STRING(NAME(_Zna, RKSt9nothrow_t)), throwing);
}
EXPORT_WEAK void* NAME(_Znw, St11align_val_tRKSt9nothrow_t)(size_t size, size_t alignment, const void* tag);
void* NAME(_Znw, St11align_val_tRKSt9nothrow_t)(size_t size, size_t alignment, const void* tag) {
  new_aligned_fun* const throwing = NAME(_Znw, St11align_val_t);
  if (mi_likely(throwing == new_aligned)) return new_aligned_nothrow(size, alignment);
  const char* const name = NAME_STRING(NAME(_Znw, St11align_val_tRKSt9nothrow_t));
  return replaced_aligned_nothrow(size, alignment, tag, name, throwing);
}
EXPORT_WEAK void* NAME(_Zna, St11align_val_tRKSt9nothrow_t)(size_t size, size_t alignment, const void* tag);
void* NAME(_Zna, St11align_val_tRKSt9nothrow_t)(size_t size, size_t alignment, const void* tag) {
  new_aligned_fun* const throwing = NAME(_Zna, St11align_val_t);
  if (mi_likely(throwing == own_new_array_aligned)) {
    return NAME(_Znw, St11align_val_tRKSt9nothrow_t)(size, alignment, tag);
  }
  const char* const name = NAME_STRING(NAME(_Zna, St11align_val_tRKSt9nothrow_t));
  return replaced_aligned_nothrow(size, alignment, tag, name, throwing);
}

// delete with a size or nothrow: without. A block's page knows its size. The secure build compares the two, where the
// plain operators are not the program's: its new may ask for more than it was asked for.
#define DELETE(name, target, type)      \
  EXPORT_WEAK void name(void* p, type); \
  void name(void* p, type unused) {     \
    (void)unused;                       \
    target(p);                          \
  }
#if MI_SECURE
EXPORT_WEAK void NAME(_ZdlPv, )(void* p, size_t size);
void NAME(_ZdlPv, )(void* p, size_t size) {
  if (mi_likely(_ZdlPv == free && NAME(_Znw, ) == own_new)) {
    mi_fast_free_sized(p, size, _mi_free_sized_slow);
  } else {
    _ZdlPv(p);
  }
}
#else
DELETE(NAME(_ZdlPv, ), _ZdlPv, size_t)
#endif
DELETE(NAME(_ZdaPv, ), _ZdaPv, size_t)
DELETE(_ZdlPvRKSt9nothrow_t, _ZdlPv, const void*)
DELETE(_ZdaPvRKSt9nothrow_t, _ZdaPv, const void*)

EXPORT_WEAK void NAME(_ZdlPv, St11align_val_t)(void* p, size_t size, size_t alignment);
void NAME(_ZdlPv, St11align_val_t)(void* p, size_t size, size_t alignment) {
  typedef void delete_aligned_fun(void* p, size_t alignment);
  if (MI_SECURE && mi_likely(_ZdlPvSt11align_val_t == (delete_aligned_fun*)(void (*)(void))free) &&
      NAME(_Znw, St11align_val_t) == new_aligned) {
    // Runtimes' operators, which have the last word when memory is short, ask for a multiple of the alignment.
    const size_t rounded = mi_round_up(size, alignment);
    if (mi_unlikely(rounded != size) && mi_usable_size(p) == rounded) size = rounded;
    mi_fast_free_sized(p, size, _mi_free_sized_slow);
  } else {
    _ZdlPvSt11align_val_t(p, alignment);
  }
}
EXPORT_WEAK void NAME(_ZdaPv, St11align_val_t)(void* p, size_t size, size_t alignment);
void NAME(_ZdaPv, St11align_val_t)(void* p, size_t size, size_t alignment) {
  (void)size;
  _ZdaPvSt11align_val_t(p, alignment);
}
EXPORT_WEAK void _ZdlPvSt11align_val_tRKSt9nothrow_t(void* p, size_t alignment, const void* tag);
void _ZdlPvSt11align_val_tRKSt9nothrow_t(void* p, size_t alignment, const void* tag) {
  (void)tag;
  _ZdlPvSt11align_val_t(p, alignment);
}
EXPORT_WEAK void _ZdaPvSt11align_val_tRKSt9nothrow_t(void* p, size_t alignment, const void* tag);
void _ZdaPvSt11align_val_tRKSt9nothrow_t(void* p, size_t alignment, const void* tag) {
  (void)tag;
  _ZdaPvSt11align_val_t(p, alignment);
}
