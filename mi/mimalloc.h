// The library's umbrella header: the malloc family with the prefix mi_, options, callbacks, and (through
// mi/heap/heap.h) first-class heaps. Source-compatible with mimalloc's header of the same name for what it
// declares; README.md says what is not there yet.
//
// Rules that hold for every function here: any thread may call it at any time, also before main and in
// destructors. Sizes are in bytes; what cannot be served returns NULL with errno = ENOMEM, a count times
// size that overflows EOVERFLOW, an alignment that is not a power of two EINVAL. Blocks are aligned to 16
// bytes (8 for sizes up to 8).
#pragma once
#ifndef MIMALLOC_H
#define MIMALLOC_H

#define MI_MALLOC_VERSION 30400  // major * 10000 + minor * 100 + patch of the interface
#define MI_FIRST_CLASS_HEAPS 1   // this library, and not another with a header of the same name

#include "mi/heap/heap.h"

#define MI_SMALL_WSIZE_MAX (128)
#define MI_SMALL_SIZE_MAX (MI_SMALL_WSIZE_MAX * sizeof(void*))

#ifdef __cplusplus
extern "C" {
#endif

// ---- malloc and friends -----------------------------------------------------------------------------
mi_decl_nodiscard mi_decl_export mi_decl_restrict void* mi_malloc(size_t size)
    mi_attr_noexcept mi_attr_malloc mi_attr_alloc_size(1);
mi_decl_nodiscard mi_decl_export mi_decl_restrict void* mi_calloc(size_t count, size_t size)
    mi_attr_noexcept mi_attr_malloc mi_attr_alloc_size2(1, 2);
mi_decl_nodiscard mi_decl_export void* mi_realloc(void* p, size_t newsize) mi_attr_noexcept mi_attr_alloc_size(2);
/// Resizes in place or not at all: NULL, and the block unchanged, if it cannot.
mi_decl_export void* mi_expand(void* p, size_t newsize) mi_attr_noexcept mi_attr_alloc_size(2);
/// Frees a block of any heap. NULL is ignored. A pointer that is not a live block of this library is reported
/// (EINVAL, and EAGAIN for a block freed before, as far as it is noticed) and left alone.
mi_decl_export void mi_free(void* p) mi_attr_noexcept;
/// mi_free, but pointers that are not ours are ignored without a message.
mi_decl_export void mi_cfree(void* p) mi_attr_noexcept;

/// `size` at most MI_SMALL_SIZE_MAX: saves one branch. A larger size is served all the same, more slowly.
mi_decl_nodiscard mi_decl_export mi_decl_restrict void* mi_malloc_small(size_t size)
    mi_attr_noexcept mi_attr_malloc mi_attr_alloc_size(1);
mi_decl_nodiscard mi_decl_export mi_decl_restrict void* mi_zalloc_small(size_t size)
    mi_attr_noexcept mi_attr_malloc mi_attr_alloc_size(1);
mi_decl_export void mi_free_small(void* p) mi_attr_noexcept;
mi_decl_nodiscard mi_decl_export mi_decl_restrict void* mi_zalloc(size_t size)
    mi_attr_noexcept mi_attr_malloc mi_attr_alloc_size(1);
mi_decl_nodiscard mi_decl_export mi_decl_restrict void* mi_mallocn(size_t count, size_t size)
    mi_attr_noexcept mi_attr_malloc mi_attr_alloc_size2(1, 2);
mi_decl_nodiscard mi_decl_export void* mi_reallocn(void* p, size_t count, size_t size)
    mi_attr_noexcept mi_attr_alloc_size2(2, 3);
/// As mi_realloc, but frees `p` on failure.
mi_decl_nodiscard mi_decl_export void* mi_reallocf(void* p, size_t newsize) mi_attr_noexcept mi_attr_alloc_size(2);
mi_decl_nodiscard mi_decl_export void* mi_rezalloc(void* p, size_t newsize) mi_attr_noexcept mi_attr_alloc_size(2);
mi_decl_nodiscard mi_decl_export void* mi_recalloc(void* p, size_t newcount, size_t size)
    mi_attr_noexcept mi_attr_alloc_size2(2, 3);
mi_decl_nodiscard mi_decl_export void* mi_reallocarray(void* p, size_t count, size_t size)
    mi_attr_noexcept mi_attr_alloc_size2(2, 3);

mi_decl_nodiscard mi_decl_export mi_decl_restrict char* mi_strdup(const char* s) mi_attr_noexcept mi_attr_malloc;
mi_decl_nodiscard mi_decl_export mi_decl_restrict char* mi_strndup(const char* s, size_t n)
    mi_attr_noexcept mi_attr_malloc;
mi_decl_nodiscard mi_decl_export char* mi_realpath(const char* fname, char* resolved_name) mi_attr_noexcept;

/// The number of bytes that may be used at `p` (at least the requested size); 0 for NULL and foreign pointers.
mi_decl_nodiscard mi_decl_export size_t mi_usable_size(const void* p) mi_attr_noexcept;
/// The usable size that a request for `size` bytes gets in a page.
mi_decl_nodiscard mi_decl_export size_t mi_good_size(size_t size) mi_attr_noexcept;

// ---- aligned ------------------------------------------------------------------------------------------
mi_decl_nodiscard mi_decl_export mi_decl_restrict void* mi_malloc_aligned(size_t size, size_t alignment)
    mi_attr_noexcept mi_attr_malloc mi_attr_alloc_size(1) mi_attr_alloc_align(2);
mi_decl_nodiscard mi_decl_export mi_decl_restrict void* mi_malloc_aligned_at(size_t size, size_t alignment,
                                                                             size_t offset)
    mi_attr_noexcept mi_attr_malloc mi_attr_alloc_size(1);
mi_decl_nodiscard mi_decl_export mi_decl_restrict void* mi_zalloc_aligned(size_t size, size_t alignment)
    mi_attr_noexcept mi_attr_malloc mi_attr_alloc_size(1) mi_attr_alloc_align(2);
mi_decl_nodiscard mi_decl_export mi_decl_restrict void* mi_zalloc_aligned_at(size_t size, size_t alignment,
                                                                             size_t offset)
    mi_attr_noexcept mi_attr_malloc mi_attr_alloc_size(1);
mi_decl_nodiscard mi_decl_export mi_decl_restrict void* mi_calloc_aligned(size_t count, size_t size, size_t alignment)
    mi_attr_noexcept mi_attr_malloc mi_attr_alloc_size2(1, 2) mi_attr_alloc_align(3);
mi_decl_nodiscard mi_decl_export mi_decl_restrict void* mi_calloc_aligned_at(size_t count, size_t size,
                                                                             size_t alignment, size_t offset)
    mi_attr_noexcept mi_attr_malloc mi_attr_alloc_size2(1, 2);
mi_decl_nodiscard mi_decl_export void* mi_realloc_aligned(void* p, size_t newsize, size_t alignment)
    mi_attr_noexcept mi_attr_alloc_size(2);
mi_decl_nodiscard mi_decl_export void* mi_realloc_aligned_at(void* p, size_t newsize, size_t alignment, size_t offset)
    mi_attr_noexcept mi_attr_alloc_size(2);
mi_decl_nodiscard mi_decl_export void* mi_rezalloc_aligned(void* p, size_t newsize, size_t alignment)
    mi_attr_noexcept mi_attr_alloc_size(2);
mi_decl_nodiscard mi_decl_export void* mi_rezalloc_aligned_at(void* p, size_t newsize, size_t alignment, size_t offset)
    mi_attr_noexcept mi_attr_alloc_size(2);
mi_decl_nodiscard mi_decl_export void* mi_recalloc_aligned(void* p, size_t newcount, size_t size, size_t alignment)
    mi_attr_noexcept mi_attr_alloc_size2(2, 3);
mi_decl_nodiscard mi_decl_export void* mi_recalloc_aligned_at(void* p, size_t newcount, size_t size, size_t alignment,
                                                              size_t offset) mi_attr_noexcept mi_attr_alloc_size2(2, 3);
mi_decl_export void mi_free_size(void* p, size_t size) mi_attr_noexcept;
mi_decl_export void mi_free_size_aligned(void* p, size_t size, size_t alignment) mi_attr_noexcept;
mi_decl_export void mi_free_aligned(void* p, size_t alignment) mi_attr_noexcept;

// ---- POSIX ----------------------------------------------------------------------------------------------
mi_decl_export int mi_posix_memalign(void** p, size_t alignment, size_t size) mi_attr_noexcept;
mi_decl_nodiscard mi_decl_export mi_decl_restrict void* mi_memalign(size_t alignment, size_t size)
    mi_attr_noexcept mi_attr_malloc mi_attr_alloc_size(2) mi_attr_alloc_align(1);
mi_decl_nodiscard mi_decl_export mi_decl_restrict void* mi_aligned_alloc(size_t alignment, size_t size)
    mi_attr_noexcept mi_attr_malloc mi_attr_alloc_size(2) mi_attr_alloc_align(1);
mi_decl_nodiscard mi_decl_export mi_decl_restrict void* mi_valloc(size_t size)
    mi_attr_noexcept mi_attr_malloc mi_attr_alloc_size(1);
mi_decl_nodiscard mi_decl_export mi_decl_restrict void* mi_pvalloc(size_t size)
    mi_attr_noexcept mi_attr_malloc mi_attr_alloc_size(1);
mi_decl_nodiscard mi_decl_export size_t mi_malloc_size(const void* p) mi_attr_noexcept;
mi_decl_nodiscard mi_decl_export size_t mi_malloc_good_size(size_t size) mi_attr_noexcept;
mi_decl_nodiscard mi_decl_export size_t mi_malloc_usable_size(const void* p) mi_attr_noexcept;

// ---- the library's life ---------------------------------------------------------------------------------
/// Frees what can be freed: the calling thread's pages without live blocks, memory of threads that ended and,
/// with `force`, everything that can go back to the system, at once. Other running threads do their share at
/// their next slow path.
mi_decl_export void mi_collect(bool force) mi_attr_noexcept;
mi_decl_export int mi_version(void) mi_attr_noexcept;
/// All four are optional: any entry point initialises, thread exit is noticed.
mi_decl_export void mi_process_init(void) mi_attr_noexcept;
mi_decl_export void mi_thread_init(void) mi_attr_noexcept;
mi_decl_export void mi_thread_done(void) mi_attr_noexcept;
/// Is `p` a block of any heap of this library?
mi_decl_nodiscard mi_decl_export bool mi_is_in_heap_region(const void* p) mi_attr_noexcept;
mi_decl_nodiscard mi_decl_export bool mi_check_owned(const void* p) mi_attr_noexcept;

/// Called on the slow path of allocation (at least once per page of allocations), on collect (`force` = true),
/// before an allocation fails, and at thread exit (`force` = true) before the thread's memory is handed over.
/// `heartbeat` counts the calling thread's slow paths; it never runs backwards. The callback may allocate and
/// free; it is not called from within itself. It runs on whatever thread allocates.
typedef void mi_deferred_free_fun(bool force, unsigned long long heartbeat, void* arg);
/// Registers the process's callback and its argument, as one pair; NULL takes it away. A call that is under
/// way on another thread may still end with the former pair.
mi_decl_export void mi_register_deferred_free(mi_deferred_free_fun* deferred_free, void* arg) mi_attr_noexcept;

/// Receives every message instead of standard error. Must not allocate. NULL: standard error again.
typedef void mi_output_fun(const char* msg, void* arg);
mi_decl_export void mi_register_output(mi_output_fun* out, void* arg) mi_attr_noexcept;

/// Called for every error that the library notices: ENOMEM, EOVERFLOW, EINVAL (invalid argument or pointer),
/// EAGAIN (double free), EFAULT (corruption, use of a destroyed heap). Any thread; must not allocate.
typedef void mi_error_fun(int err, void* arg);
mi_decl_export void mi_register_error(mi_error_fun* fun, void* arg) mi_attr_noexcept;

// ---- options --------------------------------------------------------------------------------------------
// Each is also read from the environment, once, as MIMALLOC_ and its name in capitals (not in programs that
// run with raised privileges). Sizes take the suffixes K, M and G and are kept in KiB.
typedef enum mi_option_e {
  mi_option_show_errors,        // 0: print errors
  mi_option_show_stats,         // 0: print statistics at exit
  mi_option_verbose,            // 0: print what is done
  mi_option_max_errors,         // 32: print at most so many errors (-1: all)
  mi_option_max_warnings,       // 32: print at most so many warnings (-1: all)
  mi_option_purge_delay,        // 10: milliseconds until free memory goes back; 0 at once, -1 never
  mi_option_purge_decommits,    // 1: purge with MADV_DONTNEED; 0: with MADV_FREE
  mi_option_arena_reserve,      // 0: KiB of address space of the first arena; 0 by the machine's memory
  mi_option_disallow_os_alloc,  // 0: 1 takes no more memory from the system
  mi_option_destroy_on_exit,    // 0: accepted
  mi_option_generic_collect,    // 10000: accepted, no effect: collects are spread over the slow paths
  _mi_option_last
} mi_option_t;

mi_decl_nodiscard mi_decl_export bool mi_option_is_enabled(mi_option_t option);
mi_decl_export void mi_option_enable(mi_option_t option);
mi_decl_export void mi_option_disable(mi_option_t option);
mi_decl_export void mi_option_set_enabled(mi_option_t option, bool enable);
mi_decl_export void mi_option_set_enabled_default(mi_option_t option, bool enable);
/// 0 and a message for an option that does not exist.
mi_decl_nodiscard mi_decl_export long mi_option_get(mi_option_t option);
mi_decl_nodiscard mi_decl_export long mi_option_get_clamp(mi_option_t option, long min, long max);
/// In bytes, for options that hold KiB.
mi_decl_nodiscard mi_decl_export size_t mi_option_get_size(mi_option_t option);
mi_decl_export void mi_option_set(mi_option_t option, long value);
/// Sets the value unless the environment or the program did.
mi_decl_export void mi_option_set_default(mi_option_t option, long value);
mi_decl_export void mi_options_print(void) mi_attr_noexcept;

// ---- typed --------------------------------------------------------------------------------------------
#define mi_malloc_tp(tp) ((tp*)mi_malloc(sizeof(tp)))
#define mi_zalloc_tp(tp) ((tp*)mi_zalloc(sizeof(tp)))
#define mi_calloc_tp(tp, n) ((tp*)mi_calloc(n, sizeof(tp)))
#define mi_mallocn_tp(tp, n) ((tp*)mi_mallocn(n, sizeof(tp)))
#define mi_reallocn_tp(p, tp, n) ((tp*)mi_reallocn(p, n, sizeof(tp)))
#define mi_recalloc_tp(p, tp, n) ((tp*)mi_recalloc(p, n, sizeof(tp)))
#define mi_heap_malloc_tp(tp, hp) ((tp*)mi_heap_malloc(hp, sizeof(tp)))
#define mi_heap_zalloc_tp(tp, hp) ((tp*)mi_heap_zalloc(hp, sizeof(tp)))
#define mi_heap_calloc_tp(tp, hp, n) ((tp*)mi_heap_calloc(hp, n, sizeof(tp)))
#define mi_heap_mallocn_tp(tp, hp, n) ((tp*)mi_heap_mallocn(hp, n, sizeof(tp)))
#define mi_heap_reallocn_tp(tp, hp, p, n) ((tp*)mi_heap_reallocn(hp, p, n, sizeof(tp)))
#define mi_heap_recalloc_tp(tp, hp, p, n) ((tp*)mi_heap_recalloc(hp, p, n, sizeof(tp)))

#ifdef __cplusplus
}
#endif
#endif
