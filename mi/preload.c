// What only the shared library needs, to replace malloc in a program that knows nothing of it: libraries that are
// opened with RTLD_DEEPBIND. Such a library (PHP opens all its extensions so) prefers the C library's malloc and free
// to everybody else's, though it shares blocks with the program, and would hand ours to the C library's free. So dlopen
// drops the flag: the library then finds the same malloc as everybody.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>

#include "mi/internal/atomic.h"

typedef void* dlopen_fun(const char* file, int mode);

static _Atomic(dlopen_fun*) next_dlopen;

static __attribute__((noinline)) dlopen_fun* find_next_dlopen(void) {
  dlopen_fun* next;
  *(void**)&next = dlsym(RTLD_NEXT, "dlopen");
  mi_store_relaxed(&next_dlopen, next);  // a function's address: nothing else is published with it
  return next;
}

// The loader searches the RUNPATH of the object that its return address lies in: this must be a tail call, which leaves
// there the program's. Hence the attribute, for builds that are not optimised.
#if defined(__GNUC__) && !defined(__clang__)
__attribute__((optimize("omit-frame-pointer", "optimize-sibling-calls")))
#endif
__attribute__((visibility("default"))) extern void*
dlopen(const char* file, int mode) {
  dlopen_fun* next = mi_load_relaxed(&next_dlopen);
  if (next == NULL) next = find_next_dlopen();
  return (next == NULL ? NULL : next(file, mode & ~RTLD_DEEPBIND));
}
