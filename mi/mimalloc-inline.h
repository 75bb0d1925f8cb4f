// The fast paths of allocation and free, for programs that compile them in: language runtimes, code generators.
//
// A call of mi_heap_malloc or mi_free costs the call itself, registers that it may change, and a look at the thread's
// state. A runtime that keeps a few words per thread saves that: a block of a constant small size is a load from the
// heap's table, a test and a pop. What is not the common case (a class without a free block, another thread's block, a
// full page, a region of a young heap) is a call of the ordinary function, so that everything may be mixed freely:
// blocks that inline code allocated go to mi_free, and the other way round.
//
//     mi_inline_thread_t thread;                           // per thread, as long as it runs
//     mi_inline_theap_t theap;                             // per thread and heap, as long as both are there
//     mi_inline_thread_attach(&thread);
//     mi_inline_theap_attach(&theap, heap);
//     node_t* node = mi_inline_theap_malloc_small(&theap, sizeof(node_t));
//     mi_inline_free_small(&thread, node);
//
// Inline code relies on where the library keeps its words. The attach functions compare that with the library that the
// program runs with. Where it is another layout, another version, a build that checks every block (secure,
// padding, guard pages, tools), another allocator that was preloaded, or where ThreadSanitizer sees only one of the
// two, they return false and leave words that lead every operation to the ordinary functions. Nothing else changes: the
// result need not be looked at.
//
// C11, C++11 and later, with gcc or clang. A code generator finds the offsets in enum mi_inline_offset_e; it emits what
// the functions below do, and only after an attach that returned true.
#pragma once
#ifndef MI_MIMALLOC_INLINE_H
#define MI_MIMALLOC_INLINE_H

#include "mimalloc.h"

#ifdef __cplusplus
extern "C" {
#endif

/// Where things are, in bytes from the start of what holds them.
enum mi_inline_offset_e {
  MI_INLINE_PAGE_FREE = 0,        ///< page: first block to hand out, a pointer; NULL: take the call
  MI_INLINE_PAGE_LOCAL_FREE = 8,  ///< page: first block that its thread freed, a pointer
  MI_INLINE_PAGE_USED = 16,       ///< page: blocks handed out, 32 bits
  MI_INLINE_PAGE_OWNER = 64,      ///< page: the word that equals mi_inline_thread_t.id, 64 bits
  MI_INLINE_BLOCK_NEXT = 0,       ///< free block: the next one, a pointer
  MI_INLINE_HEAP_OWNER = 8,       ///< heap: equals the thread's id where that is at home, and a class has pages
  MI_INLINE_HEAP_THEAP = 56,      ///< heap: the home thread's table: direct[(size + 7) / 8] is a page
  MI_INLINE_DIRECT_SIZE = 1024,   ///< largest size in the table; MI_SMALL_SIZE_MAX
  MI_INLINE_SEGMENT_SHIFT = 22,   ///< segment of p: (p - 1) with as many low bits cleared
  MI_INLINE_SLICE_SHIFT = 16,     ///< page of p: segment + (p >> slice) % slices << page
  MI_INLINE_SLICES = 64,
  MI_INLINE_PAGE_SHIFT = 7
};

/// The revision of all that; part of what is compared. A program does not set it.
#ifndef MI_INLINE_REVISION
#define MI_INLINE_REVISION 1
#endif

#if defined(__SANITIZE_THREAD__)
#define MI_INLINE_WITH_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define MI_INLINE_WITH_TSAN 1
#endif
#endif
#ifndef MI_INLINE_WITH_TSAN
#define MI_INLINE_WITH_TSAN 0
#endif

// One number that differs if any of it does.
static inline unsigned long long mi_inline_layout(void) {
  const unsigned words[] = {MI_INLINE_REVISION,    MI_INLINE_PAGE_FREE,     MI_INLINE_PAGE_LOCAL_FREE,
                            MI_INLINE_PAGE_USED,   MI_INLINE_PAGE_OWNER,    MI_INLINE_BLOCK_NEXT,
                            MI_INLINE_HEAP_OWNER,  MI_INLINE_HEAP_THEAP,    MI_INLINE_DIRECT_SIZE,
                            MI_INLINE_SLICE_SHIFT, MI_INLINE_SEGMENT_SHIFT, MI_INLINE_SLICES,
                            MI_INLINE_PAGE_SHIFT,  MI_INLINE_WITH_TSAN};
  unsigned long long sum = 0;
  for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) sum = sum * 257 + words[i];
  return sum;
}

typedef struct mi_inline_block_s {
  struct mi_inline_block_s* next;
} __attribute__((may_alias)) mi_inline_block_t;

// The words of a page that inline code reads and writes; only its own thread does.
typedef struct mi_inline_page_s {
  mi_inline_block_t* free;
  mi_inline_block_t* local_free;
  uint32_t used;
} __attribute__((may_alias)) mi_inline_page_t;
typedef mi_inline_page_t* __attribute__((may_alias)) mi_inline_entry_t;

/// What inline code keeps per thread. Filled by mi_inline_thread_attach; valid in that thread, until the thread's local
/// storage is destroyed (where free functions of it run, call mi_free).
typedef struct mi_inline_thread_s {
  uint64_t id;       ///< of the thread; what no page names where inline code must not be used
  uintptr_t low;     ///< blocks that may be freed inline are at low <= p < low + size
  size_t size;       ///< 0 where inline code must not be used
  uintptr_t active;  ///< may inline code be used?
} mi_inline_thread_t;

/// What inline code keeps per thread and heap. Filled by mi_inline_theap_attach; valid in that thread, until the heap
/// or the thread ends.
typedef struct mi_inline_theap_s {
  mi_inline_entry_t const* direct;  ///< the page for a size: direct[(size + 7) / 8]
  mi_heap_t* heap;                  ///< who serves what the page cannot
} mi_inline_theap_t;

// The library's side. Weak: a library that has them not is one of those that inline code must not be used with.
/// Fills `thread` if the library has this layout and `probe` is a live block of it; else false. For the functions
/// below.
mi_decl_export bool _mi_inline_thread_fill(unsigned long long layout, const void* probe, mi_inline_thread_t* thread)
    mi_attr_noexcept __attribute__((weak));
/// The calling thread's table of `heap` if the library has this layout and `probe` is a live block of that heap. NULL:
/// it is not so, or there was no memory. For the functions below.
mi_decl_export const void* _mi_inline_theap_table(unsigned long long layout, const void* probe, mi_heap_t* heap)
    mi_attr_noexcept __attribute__((weak));

/// Prepares `thread` for the calling thread. True: inline code is used; false: every operation will be a call.
static inline bool mi_inline_thread_attach(mi_inline_thread_t* thread) {
  thread->id = ~(uint64_t)0;
  thread->low = 1;
  thread->size = 0;
  thread->active = 0;
  if (_mi_inline_thread_fill == NULL) return false;
  void* const probe = mi_malloc_small(1);
  const bool fits = (probe != NULL && _mi_inline_thread_fill(mi_inline_layout(), probe, thread));
  mi_free(probe);
  return fits;
}

// A table without blocks: what a handle leads to where inline code must not be used.
#define MI_INLINE_NONE_8 &none, &none, &none, &none, &none, &none, &none, &none
#define MI_INLINE_NONE_64                                                                                     \
  MI_INLINE_NONE_8, MI_INLINE_NONE_8, MI_INLINE_NONE_8, MI_INLINE_NONE_8, MI_INLINE_NONE_8, MI_INLINE_NONE_8, \
      MI_INLINE_NONE_8, MI_INLINE_NONE_8
static inline mi_inline_entry_t const* mi_inline_no_table(void) {
  static mi_inline_page_t none;
  static mi_inline_entry_t const table[MI_INLINE_DIRECT_SIZE / 8 + 1] = {MI_INLINE_NONE_64, MI_INLINE_NONE_64, &none};
  return table;
}
#undef MI_INLINE_NONE_8
#undef MI_INLINE_NONE_64

/// Prepares `theap` for the calling thread and `heap`, which must not be NULL. True: inline code is used; false: every
/// allocation will be a call. Gives a young heap its tables (2 KiB): for heaps that live long, not for one per request.
static inline bool mi_inline_theap_attach(mi_inline_theap_t* theap, mi_heap_t* heap) {
  const void* table = NULL;
  if (_mi_inline_theap_table != NULL) {
    void* const probe = mi_heap_malloc_small(heap, 1);
    if (probe != NULL) table = _mi_inline_theap_table(mi_inline_layout(), probe, heap);
    mi_free(probe);
  }
  theap->heap = heap;
  theap->direct = (table != NULL ? (mi_inline_entry_t const*)table : mi_inline_no_table());
  return table != NULL;
}

/// As mi_heap_malloc_small in the heap that `theap` is prepared for. Of a constant size it is 8 instructions.
static inline __attribute__((always_inline)) void* mi_inline_theap_malloc_small(const mi_inline_theap_t* theap,
                                                                                size_t size) {
  if (__builtin_expect(size > MI_INLINE_DIRECT_SIZE, 0)) return mi_heap_malloc(theap->heap, size);
  mi_inline_page_t* const page = theap->direct[(size + 7) / 8];
  mi_inline_block_t* const block = page->free;
  if (__builtin_expect(block == NULL, 0)) return mi_heap_malloc_small(theap->heap, size);
  page->free = block->next;
  page->used++;
  return block;
}

/// As mi_heap_malloc_small in any heap: inline where the calling thread is at home in it (it made the heap, or adopted
/// it). For who has no place for a mi_inline_theap_t; a little longer.
static inline __attribute__((always_inline)) void* mi_inline_heap_malloc_small(const mi_inline_thread_t* thread,
                                                                               mi_heap_t* heap, size_t size) {
  if (__builtin_expect(thread->active == 0 || size > MI_INLINE_DIRECT_SIZE, 0)) return mi_heap_malloc(heap, size);
  const char* const handle = (const char*)heap;
  typedef uint64_t __attribute__((may_alias)) word_t;
  typedef mi_inline_entry_t const* __attribute__((may_alias)) table_t;
  const uint64_t owner = __atomic_load_n((const word_t*)(handle + MI_INLINE_HEAP_OWNER), __ATOMIC_RELAXED);
  if (__builtin_expect(owner != thread->id, 0)) return mi_heap_malloc_small(heap, size);
  mi_inline_theap_t theap;
  theap.direct = __atomic_load_n((const table_t*)(handle + MI_INLINE_HEAP_THEAP), __ATOMIC_RELAXED);
  theap.heap = heap;
  return mi_inline_theap_malloc_small(&theap, size);
}

// The page became empty, which is more than a push: the block is taken back and freed by a call.
static __attribute__((noinline, cold, unused)) void mi_inline_free_last(mi_inline_page_t* page, void* p) {
  page->local_free = ((mi_inline_block_t*)p)->next;
  page->used = 1;
  mi_free(p);
}

/// As mi_free, of any pointer that mi_free takes: blocks that the calling thread allocated in pages go inline, whatever
/// their heap. 17 instructions.
static inline __attribute__((always_inline)) void mi_inline_free_small(const mi_inline_thread_t* thread, void* p) {
  const uintptr_t at = (uintptr_t)p, offset = at - thread->low;
  if (__builtin_expect(offset >= thread->size, 0)) {
    mi_free(p);
    return;
  }
  const uintptr_t segment = (at - 1) & ~(((uintptr_t)1 << MI_INLINE_SEGMENT_SHIFT) - 1);
  const uintptr_t slot = (offset >> MI_INLINE_SLICE_SHIFT) & (MI_INLINE_SLICES - 1);
  char* const place = (char*)(segment + (slot << MI_INLINE_PAGE_SHIFT));
  typedef uint64_t __attribute__((may_alias)) word_t;
  if (__builtin_expect(__atomic_load_n((const word_t*)(place + MI_INLINE_PAGE_OWNER), __ATOMIC_RELAXED) != thread->id,
                       0)) {
    mi_free(p);
    return;
  }
  mi_inline_page_t* const page = (mi_inline_page_t*)place;
  mi_inline_block_t* const block = (mi_inline_block_t*)p;
  block->next = page->local_free;
  page->local_free = block;
  if (__builtin_expect(--page->used == 0, 0)) mi_inline_free_last(page, p);
}

#ifdef __cplusplus
}
#endif
#endif
