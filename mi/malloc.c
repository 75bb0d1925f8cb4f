// The default-heap API, thin: everything that is a line over the fast paths (fastpath.h) or over a function of mi/heap.
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "mi/fastpath.h"
#include "mi/heap/checked.h"
#include "mi/mimalloc.h"

// --- the fast paths (talk: the malloc() fast path, the free() implementation) ------------------------------

void* mi_malloc_small(size_t size) {
#if MI_SECURE
  return mi_malloc(size);
#else
  mi_theap_t* const theap = _mi_tls.theap;
  // A conditional move: a size that is not small finds the entry that is always empty.
  const size_t index = (size > MI_DIRECT_SIZE_MAX ? MI_DIRECT_SIZE_MAX / 8 + 1 : (size + 7) / 8);
  if (mi_guarded_tick()) return _mi_malloc_generic(size, theap, false);
  mi_page_t* const page = theap->direct[index];
  mi_block_t* const block = page->free;
  if (mi_unlikely(block == NULL)) return _mi_malloc_generic(size, theap, false);
  return mi_page_pop(page, block);
#endif
}

void* mi_malloc(size_t size) { return mi_fast_malloc(size, _mi_malloc_generic); }
void* mi_zalloc(size_t size) { return mi_fast_zalloc(size, _mi_malloc_generic); }
void* mi_zalloc_small(size_t size) { return mi_zalloc(size); }

void mi_free(void* p) { mi_fast_free(p, _mi_free_slow); }
void mi_free_small(void* p) { mi_free(p); }

// --- the family -----------------------------------------------------------------------------------------------

void mi_cfree(void* p) {
  if (mi_any_heap_contains(p)) mi_free(p);
}
void mi_free_size(void* p, size_t size) { mi_fast_free_sized(p, size, _mi_free_sized_slow); }
void mi_free_size_aligned(void* p, size_t size, size_t alignment) {
  (void)alignment;
  mi_free_size(p, size);
}
void mi_free_aligned(void* p, size_t alignment) {
  (void)alignment;
  mi_free(p);
}

void* mi_calloc(size_t count, size_t size) {
  size_t total;
  return (_mi_count_size(count, size, &total) ? mi_zalloc(total) : NULL);
}
void* mi_mallocn(size_t count, size_t size) {
  size_t total;
  return (_mi_count_size(count, size, &total) ? mi_malloc(total) : NULL);
}

void* mi_realloc(void* p, size_t newsize) {
  bool done;
  void* const q = mi_fast_realloc(p, newsize, &done);
  return (mi_likely(done) ? q : _mi_heap_realloc_any(NULL, p, newsize, 1, 0, false));
}
void* mi_reallocn(void* p, size_t count, size_t size) {
  size_t total;
  return (_mi_count_size(count, size, &total) ? mi_realloc(p, total) : NULL);
}
void* mi_reallocarray(void* p, size_t count, size_t size) { return mi_reallocn(p, count, size); }
void* mi_reallocf(void* p, size_t newsize) {
  void* const q = mi_realloc(p, newsize);
  if (q == NULL) mi_free(p);
  return q;
}
void* mi_rezalloc(void* p, size_t newsize) { return _mi_heap_realloc_any(NULL, p, newsize, 1, 0, true); }
void* mi_recalloc(void* p, size_t newcount, size_t size) {
  size_t total;
  return (_mi_count_size(newcount, size, &total) ? mi_rezalloc(p, total) : NULL);
}
void* mi_expand(void* p, size_t newsize) {
#if MI_TAIL
  return _mi_checked_expand(p, newsize);
#else
  if (p == NULL) return NULL;
  mi_page_t* const page = _mi_page_of_any(p);
  if (mi_unlikely(page != NULL && page->policy != 0)) return _mi_policy_expand(page, p, newsize);
  const size_t usable = _mi_block_size_in(page, p);
  if (usable == 0) {
    _mi_policy_check_gone("mi_expand", p);
    return NULL;
  }
  if (newsize <= usable) return p;
  if ((mi_load_relaxed(&page->owner) & MI_OWNER_SPECIAL) != 0) return (_mi_region_resize(page, p, newsize) ? p : NULL);
  return (_mi_single_resize(NULL, page, p, newsize, usable, false) ? p : NULL);
#endif
}

char* mi_strdup(const char* s) { return mi_heap_strdup(_mi_default_heap(), s); }
char* mi_strndup(const char* s, size_t n) { return mi_heap_strndup(_mi_default_heap(), s, n); }
char* mi_realpath(const char* fname, char* resolved_name) {
  return mi_heap_realpath(_mi_default_heap(), fname, resolved_name);
}

size_t mi_usable_size(const void* p) { return mi_fast_usable_size(p); }
size_t mi_malloc_size(const void* p) { return mi_fast_usable_size(p); }
size_t mi_malloc_usable_size(const void* p) { return mi_fast_usable_size(p); }
static size_t good_size(size_t size) {
  if (size <= MI_CLASS_SIZE_MAX) return mi_bin_size(mi_bin_of(size));
  return (size > MI_ALLOC_MAX ? size : mi_round_up(size, MI_OS_PAGE));
}
size_t mi_good_size(size_t size) {
  if (!MI_TAIL || size > MI_ALLOC_MAX - MI_TAIL_SIZE) return good_size(size);
  return good_size(size + MI_TAIL_SIZE) - MI_TAIL_SIZE;
}
size_t mi_malloc_good_size(size_t size) { return mi_good_size(size); }

// --- aligned, in the default heap --------------------------------------------------------------------------------

void* mi_malloc_aligned_at(size_t size, size_t alignment, size_t offset) {
  return _mi_heap_alloc_aligned(_mi_default_heap(), size, alignment, offset, false);
}
void* mi_malloc_aligned(size_t size, size_t alignment) { return mi_malloc_aligned_at(size, alignment, 0); }
void* mi_zalloc_aligned_at(size_t size, size_t alignment, size_t offset) {
  return _mi_heap_alloc_aligned(_mi_default_heap(), size, alignment, offset, true);
}
void* mi_zalloc_aligned(size_t size, size_t alignment) { return mi_zalloc_aligned_at(size, alignment, 0); }
void* mi_calloc_aligned_at(size_t count, size_t size, size_t alignment, size_t offset) {
  return mi_heap_calloc_aligned_at(_mi_default_heap(), count, size, alignment, offset);
}
void* mi_calloc_aligned(size_t count, size_t size, size_t alignment) {
  return mi_calloc_aligned_at(count, size, alignment, 0);
}
void* mi_realloc_aligned_at(void* p, size_t newsize, size_t alignment, size_t offset) {
  return _mi_heap_realloc_any(NULL, p, newsize, alignment, offset, false);
}
void* mi_realloc_aligned(void* p, size_t newsize, size_t alignment) {
  return mi_realloc_aligned_at(p, newsize, alignment, 0);
}
void* mi_rezalloc_aligned_at(void* p, size_t newsize, size_t alignment, size_t offset) {
  return _mi_heap_realloc_any(NULL, p, newsize, alignment, offset, true);
}
void* mi_rezalloc_aligned(void* p, size_t newsize, size_t alignment) {
  return mi_rezalloc_aligned_at(p, newsize, alignment, 0);
}
void* mi_recalloc_aligned_at(void* p, size_t newcount, size_t size, size_t alignment, size_t offset) {
  size_t total;
  return (_mi_count_size(newcount, size, &total) ? mi_rezalloc_aligned_at(p, total, alignment, offset) : NULL);
}
void* mi_recalloc_aligned(void* p, size_t newcount, size_t size, size_t alignment) {
  return mi_recalloc_aligned_at(p, newcount, size, alignment, 0);
}

// --- POSIX ---------------------------------------------------------------------------------------------------------

int mi_posix_memalign(void** p, size_t alignment, size_t size) {
  if (p == NULL || alignment % sizeof(void*) != 0 || !mi_is_power_of_two(alignment)) return EINVAL;
  const int saved = errno;
  void* const q = mi_malloc_aligned(size, alignment);
  errno = saved;
  if (q == NULL) return ENOMEM;
  *p = q;
  return 0;
}
void* mi_memalign(size_t alignment, size_t size) { return mi_malloc_aligned(size, alignment); }
void* mi_aligned_alloc(size_t alignment, size_t size) { return mi_malloc_aligned(size, alignment); }
void* mi_valloc(size_t size) { return mi_malloc_aligned(size, (size_t)sysconf(_SC_PAGESIZE)); }
void* mi_pvalloc(size_t size) {
  const size_t page = (size_t)sysconf(_SC_PAGESIZE);
  if (size > MI_ALLOC_MAX) {
    _mi_error(ENOMEM, "mi_pvalloc of %zu bytes refused: larger than PTRDIFF_MAX\n", size);
    return NULL;
  }
  return mi_malloc_aligned(mi_round_up(size == 0 ? 1 : size, page), page);
}

// --- the library's life --------------------------------------------------------------------------------------------

int mi_version(void) { return MI_MALLOC_VERSION; }
void mi_process_init(void) { (void)mi_thread(); }
void mi_thread_init(void) { (void)mi_thread(); }
void mi_thread_done(void) {
  if (_mi_tls.thread != NULL) _mi_thread_exit(_mi_tls.thread);
}

// Programs with inline paths refer to the library's side of them weakly, which takes nothing out of an archive: with
// this file comes that one.
static const char* const inline_side __attribute__((used)) = &_mi_inline_side;
