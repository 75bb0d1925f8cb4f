// C++ new without C++: mi_new and its family. The loop over the program's new_handler, and std::bad_alloc.
//
// The C++ runtime is reached through weak references to names that the Itanium C++ ABI fixes, so that a C program needs
// none of it, and that libstdc++ and libc++ serve alike. Exceptions, also those of a new_handler, pass through the
// frames of this file: it is compiled with -fexceptions, and holds nothing while it calls out.
#include "mi/new.h"

#include <errno.h>
#include <stdlib.h>

#include "mi/heap/parts.h"
#include "mi/mimalloc.h"

typedef void new_handler_fun(void);

extern new_handler_fun* _ZSt15get_new_handlerv(void) __attribute__((weak));  // std::get_new_handler()
extern void* __cxa_allocate_exception(size_t size) __attribute__((weak));
extern _Noreturn void __cxa_throw(void* exception, const void* type, void (*destructor)(void*)) __attribute__((weak));
extern const char _ZTISt9bad_alloc[] __attribute__((weak));           // typeid(std::bad_alloc)
extern const void* const _ZTVSt9bad_alloc[] __attribute__((weak));    // its virtual table
extern void _ZNSt9bad_allocD1Ev(void* object) __attribute__((weak));  // its destructor

static _Noreturn mi_cold void throw_bad_alloc(void) {
  if (__cxa_throw != NULL && __cxa_allocate_exception != NULL && _ZTISt9bad_alloc != NULL && _ZTVSt9bad_alloc != NULL &&
      _ZNSt9bad_allocD1Ev != NULL) {
    // An object of std::bad_alloc is a pointer to the functions of its virtual table, behind offset and type.
    const void** const object = __cxa_allocate_exception(sizeof(void*));
    *object = &_ZTVSt9bad_alloc[2];
    __cxa_throw(object, _ZTISt9bad_alloc, _ZNSt9bad_allocD1Ev);
  }
  _mi_print("mimalloc: error: no memory for operator new, and no C++ runtime that could be told\n");
  abort();
}

typedef struct request_s {
  mi_heap_t* heap;  // NULL: the default heap, or for a resize that of the block
  void* p;          // to be resized; NULL: a new block
  size_t size;
  size_t alignment;
  bool nothrow;
} request_t;

static void* request_try(const request_t* r) {
  if (r->p != NULL) return _mi_heap_realloc_any(r->heap, r->p, r->size, 1, 0, false);
  return _mi_heap_alloc_aligned(r->heap != NULL ? r->heap : _mi_default_heap(), r->size, r->alignment, 0, false);
}

static bool heap_has_ended(mi_heap_t* heap) {
  return heap != NULL && heap != &_mi_heap_main &&
         (mi_load_acquire(&heap->home.id) == 0 || mi_load_relaxed(&heap->state) != MI_HEAP_OPEN);
}

// The first try failed, with errno set.
static mi_cold void* new_failed(const request_t* r) {
  // What is not for want of memory (an argument that is refused, a heap that ended) no handler can help.
  while (errno == ENOMEM && !heap_has_ended(r->heap)) {
    new_handler_fun* const handler = (_ZSt15get_new_handlerv == NULL ? NULL : _ZSt15get_new_handlerv());
    if (handler == NULL) break;
    MI_CALL_USER(handler());  // may throw, or not return
    void* const p = request_try(r);
    if (p != NULL) return p;
  }
  if (r->nothrow) return NULL;
  throw_bad_alloc();
}

static mi_cold void* count_overflows(void) { throw_bad_alloc(); }

void* _mi_new_failed(size_t size, size_t alignment, bool nothrow) {
  const request_t r = {NULL, NULL, size, alignment, nothrow};
  return new_failed(&r);
}

// --- in the default heap ------------------------------------------------------------------------------------------

void* mi_new(size_t size) {
  void* const p = mi_malloc(size);
  return (mi_likely(p != NULL) ? p : _mi_new_failed(size, 1, false));
}
void* mi_new_nothrow(size_t size) {
  void* const p = mi_malloc(size);
  return (mi_likely(p != NULL) ? p : _mi_new_failed(size, 1, true));
}
void* mi_new_aligned(size_t size, size_t alignment) {
  void* const p = mi_malloc_aligned(size, alignment);
  return (mi_likely(p != NULL) ? p : _mi_new_failed(size, alignment, false));
}
void* mi_new_aligned_nothrow(size_t size, size_t alignment) {
  void* const p = mi_malloc_aligned(size, alignment);
  return (mi_likely(p != NULL) ? p : _mi_new_failed(size, alignment, true));
}
void* mi_new_n(size_t count, size_t size) {
  size_t total;
  return (mi_likely(_mi_count_size(count, size, &total)) ? mi_new(total) : count_overflows());
}
void* mi_new_realloc(void* p, size_t newsize) {
  void* const q = mi_realloc(p, newsize);
  if (mi_likely(q != NULL)) return q;
  const request_t r = {NULL, p, newsize, 1, false};
  return new_failed(&r);
}
void* mi_new_reallocn(void* p, size_t newcount, size_t size) {
  size_t total;
  return (mi_likely(_mi_count_size(newcount, size, &total)) ? mi_new_realloc(p, total) : count_overflows());
}

// --- in a heap ------------------------------------------------------------------------------------------------------

void* mi_heap_alloc_new(mi_heap_t* heap, size_t size) {
  if (mi_unlikely(heap == NULL)) throw_bad_alloc();
  void* const p = mi_heap_malloc(heap, size);
  if (mi_likely(p != NULL)) return p;
  const request_t r = {heap, NULL, size, 1, false};
  return new_failed(&r);
}
void* mi_heap_alloc_new_n(mi_heap_t* heap, size_t count, size_t size) {
  size_t total;
  return (mi_likely(_mi_count_size(count, size, &total)) ? mi_heap_alloc_new(heap, total) : count_overflows());
}
