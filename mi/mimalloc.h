// The library's umbrella header: the malloc family with the prefix mi_, C++ new, arenas, sub-processes, options,
// callbacks, STL allocators, and (through mi/heap/heap.h) first-class heaps. Source-compatible with mimalloc's header
// of the same name, 2.x (define MI_API_V2 before the include) and 3.4 (the default); mi/heap/heap.h says how they
// differ. What has to do with mi_stats_t is in mimalloc-stats.h.
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
/// Resizes in place or not at all: NULL, and the block unchanged, if it cannot. A large block is resized on
/// a slow path, as an allocation may be made on one: deferred_free, and on_limit of its heap, may be called.
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
/// Resizes the block that the pointer at `ptrp` names to count times size bytes and stores where it is now. Returns 0,
/// or an errno code (EINVAL for a NULL `ptrp` or a pointer that is not a live block, EOVERFLOW, ENOMEM) with block and
/// pointer unchanged. Keeps errno.
mi_decl_nodiscard mi_decl_export int mi_reallocarr(void* ptrp, size_t count, size_t size) mi_attr_noexcept;

mi_decl_nodiscard mi_decl_export mi_decl_restrict char* mi_strdup(const char* s) mi_attr_noexcept mi_attr_malloc;
mi_decl_nodiscard mi_decl_export mi_decl_restrict char* mi_strndup(const char* s, size_t n)
    mi_attr_noexcept mi_attr_malloc;
mi_decl_nodiscard mi_decl_export char* mi_realpath(const char* fname, char* resolved_name) mi_attr_noexcept;

/// The number of bytes that may be used at `p` (at least the requested size); 0 for NULL and foreign pointers.
mi_decl_nodiscard mi_decl_export size_t mi_usable_size(const void* p) mi_attr_noexcept;
/// The usable size that a request for `size` bytes gets in a page.
mi_decl_nodiscard mi_decl_export size_t mi_good_size(size_t size) mi_attr_noexcept;

// ---- with block sizes -----------------------------------------------------------------------------------
// As the functions without u; each also stores the number of bytes that may be used at the block, 0 for none, in
// `*block_size` if that is not NULL.
mi_decl_nodiscard mi_decl_export mi_decl_restrict void* mi_umalloc(size_t size, size_t* block_size)
    mi_attr_noexcept mi_attr_malloc mi_attr_alloc_size(1);
mi_decl_nodiscard mi_decl_export mi_decl_restrict void* mi_ucalloc(size_t count, size_t size, size_t* block_size)
    mi_attr_noexcept mi_attr_malloc mi_attr_alloc_size2(1, 2);
mi_decl_nodiscard mi_decl_export mi_decl_restrict void* mi_umalloc_small(size_t size, size_t* block_size)
    mi_attr_noexcept mi_attr_malloc mi_attr_alloc_size(1);
mi_decl_nodiscard mi_decl_export mi_decl_restrict void* mi_uzalloc_small(size_t size, size_t* block_size)
    mi_attr_noexcept mi_attr_malloc mi_attr_alloc_size(1);
mi_decl_nodiscard mi_decl_export mi_decl_restrict void* mi_umalloc_aligned(size_t size, size_t alignment,
                                                                           size_t* block_size)
    mi_attr_noexcept mi_attr_malloc mi_attr_alloc_size(1) mi_attr_alloc_align(2);
mi_decl_nodiscard mi_decl_export mi_decl_restrict void* mi_uzalloc_aligned(size_t size, size_t alignment,
                                                                           size_t* block_size)
    mi_attr_noexcept mi_attr_malloc mi_attr_alloc_size(1) mi_attr_alloc_align(2);
/// `pre`: before, 0 for NULL; `post`: after, 0 on failure (the old block is unchanged then).
mi_decl_nodiscard mi_decl_export void* mi_urealloc(void* p, size_t newsize, size_t* block_size_pre,
                                                   size_t* block_size_post) mi_attr_noexcept mi_attr_alloc_size(2);
/// Stores the size of the block that it freed.
mi_decl_export void mi_ufree(void* p, size_t* block_size) mi_attr_noexcept;

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
/// The same as mi_recalloc_aligned and mi_recalloc_aligned_at, by their Windows names.
mi_decl_nodiscard mi_decl_export void* mi_aligned_recalloc(void* p, size_t newcount, size_t size, size_t alignment)
    mi_attr_noexcept mi_attr_alloc_size2(2, 3);
mi_decl_nodiscard mi_decl_export void* mi_aligned_offset_recalloc(void* p, size_t newcount, size_t size,
                                                                  size_t alignment, size_t offset)
    mi_attr_noexcept mi_attr_alloc_size2(2, 3);
/// mi_free, which needs neither. In the secure build and hardened heaps, a size that is not what was asked for ends the
/// program.
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

// ---- Windows ----------------------------------------------------------------------------------------------
/// The same as mi_expand.
mi_decl_export void* mi__expand(void* p, size_t newsize) mi_attr_noexcept mi_attr_alloc_size(2);
mi_decl_nodiscard mi_decl_export mi_decl_restrict wchar_t* mi_wcsdup(const wchar_t* s) mi_attr_noexcept mi_attr_malloc;
mi_decl_nodiscard mi_decl_export mi_decl_restrict unsigned char* mi_mbsdup(const unsigned char* s)
    mi_attr_noexcept mi_attr_malloc;
/// A copy of the environment variable in `*buf`, to be freed with mi_free, and its length with the terminating zero in
/// `*size` (which may be NULL). Returns 0, also if there is no such variable: `*buf` is NULL and the size 0 then.
/// EINVAL for a NULL `buf` or `name`, ENOMEM. The wide form converts by the current locale: EILSEQ for what it cannot.
mi_decl_export int mi_dupenv_s(char** buf, size_t* size, const char* name) mi_attr_noexcept;
mi_decl_export int mi_wdupenv_s(wchar_t** buf, size_t* size, const wchar_t* name) mi_attr_noexcept;

// ---- C++ new ------------------------------------------------------------------------------------------------
// As operator new: on failure they call the program's std::new_handler until there is memory, and without one throw
// std::bad_alloc. They never return NULL, but for the _nothrow ones, which return NULL where the others throw; a
// handler that throws ends the program in those. What no handler can help (an overflow, an alignment that is not a
// power of two, a heap that ended) throws at once. A C program, which has neither handlers nor exceptions, is aborted
// with a message in place of a throw. Free with mi_free.
mi_decl_nodiscard mi_decl_export mi_decl_restrict void* mi_new(size_t size) mi_attr_malloc mi_attr_alloc_size(1);
mi_decl_nodiscard mi_decl_export mi_decl_restrict void* mi_new_aligned(size_t size, size_t alignment)
    mi_attr_malloc mi_attr_alloc_size(1) mi_attr_alloc_align(2);
mi_decl_nodiscard mi_decl_export mi_decl_restrict void* mi_new_nothrow(size_t size)
    mi_attr_noexcept mi_attr_malloc mi_attr_alloc_size(1);
mi_decl_nodiscard mi_decl_export mi_decl_restrict void* mi_new_aligned_nothrow(size_t size, size_t alignment)
    mi_attr_noexcept mi_attr_malloc mi_attr_alloc_size(1) mi_attr_alloc_align(2);
mi_decl_nodiscard mi_decl_export mi_decl_restrict void* mi_new_n(size_t count, size_t size)
    mi_attr_malloc mi_attr_alloc_size2(1, 2);
/// On failure the old block is unchanged.
mi_decl_nodiscard mi_decl_export void* mi_new_realloc(void* p, size_t newsize) mi_attr_alloc_size(2);
mi_decl_nodiscard mi_decl_export void* mi_new_reallocn(void* p, size_t newcount, size_t size) mi_attr_alloc_size2(2, 3);

// ---- the library's life ---------------------------------------------------------------------------------
/// Frees what can be freed: the calling thread's pages without live blocks, memory of threads that ended and,
/// with `force`, everything that can go back to the system, at once, also what isolated heaps of any thread have in
/// quarantine. Other running threads do their share at their next slow path.
mi_decl_export void mi_collect(bool force) mi_attr_noexcept;
/// If the calling thread owns more than `target_thread_owned` bytes of pages, empty ones go back; if it still does, all
/// of them are handed over, so that any thread may use their free blocks. They come back as the thread allocates.
mi_decl_export void mi_collect_reduce(size_t target_thread_owned) mi_attr_noexcept;
mi_decl_export int mi_version(void) mi_attr_noexcept;
/// All are optional: any entry point initialises, thread exit is noticed. mi_process_done gives back what holds no live
/// block; the library may be used afterwards.
mi_decl_export void mi_process_init(void) mi_attr_noexcept;
mi_decl_export void mi_process_done(void) mi_attr_noexcept;
mi_decl_export void mi_thread_init(void) mi_attr_noexcept;
mi_decl_export void mi_thread_done(void) mi_attr_noexcept;
/// The calling thread is one of a pool. No effect: what it abandons and reclaims is decided page by page.
mi_decl_export void mi_thread_set_in_threadpool(void) mi_attr_noexcept;
/// Is malloc itself served by this library?
mi_decl_nodiscard mi_decl_export bool mi_is_redirected(void) mi_attr_noexcept;
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
/// EAGAIN (double free), EFAULT (corruption, use of a destroyed heap). Any thread; must not allocate. When a double
/// free is found later, the call that is told of it is for a heap which may not end in the callback (EINVAL).
typedef void mi_error_fun(int err, void* arg);
mi_decl_export void mi_register_error(mi_error_fun* fun, void* arg) mi_attr_noexcept;

// ---- statistics -----------------------------------------------------------------------------------------
// The figures themselves, and what they mean: mimalloc-stats.h. Text goes to `out`, line by line; NULL: to the
// registered output, or standard error. `out` may allocate and free, but end no heap.
/// Totals start again at 0, and peaks at what is in use now.
mi_decl_export void mi_stats_reset(void) mi_attr_noexcept;
/// Every thread's counts are in every query, so that there is nothing to merge; peaks of what is worked out on demand
/// learn of this moment.
mi_decl_export void mi_stats_merge(void) mi_attr_noexcept;
/// `out` is ignored: it is there for programs written for 1.x.
mi_decl_export void mi_stats_print(void* out) mi_attr_noexcept;
mi_decl_export void mi_stats_print_out(mi_output_fun* out, void* arg) mi_attr_noexcept;
/// What the calling thread counts for itself.
mi_decl_export void mi_thread_stats_print_out(mi_output_fun* out, void* arg) mi_attr_noexcept;
mi_decl_export void mi_heap_stats_print_out(mi_heap_t* heap, mi_output_fun* out, void* arg) mi_attr_noexcept;
/// The heap's totals start again at 0; the process's, of which they are a part, stay. What is live stays live, so
/// `current` may then be larger than `total`. ENOMEM reported, and nothing changed, without memory to note it.
mi_decl_export void mi_heap_stats_merge_to_subproc(mi_heap_t* heap) mi_attr_noexcept;

/// What the process used so far: times in milliseconds (elapsed: since its start), sizes in bytes. Commit is memory
/// that the library may have written to and did not give back. Each pointer may be NULL; what the system does not tell
/// is 0.
mi_decl_export void mi_process_info(size_t* elapsed_msecs, size_t* user_msecs, size_t* system_msecs,
                                    size_t* current_rss, size_t* peak_rss, size_t* current_commit, size_t* peak_commit,
                                    size_t* page_faults) mi_attr_noexcept;
mi_decl_export void mi_process_info_print(void) mi_attr_noexcept;
mi_decl_export void mi_process_info_print_out(mi_output_fun* out, void* arg) mi_attr_noexcept;

// ---- arenas ------------------------------------------------------------------------------------------------
// An arena is a range of address space from which segments of 4 MiB are taken. Functions that make one return 0 or an
// errno code, those of type bool false on failure; each stores what it made in `*arena` if that is not NULL. An
// exclusive arena serves only heaps that were made in it. Sizes are in bytes.

/// Reserves address space, and with `commit` the memory for it; `allow_large`: of large pages where there are some.
mi_decl_export int mi_reserve_os_memory(size_t size, bool commit, bool allow_large) mi_attr_noexcept;
mi_decl_export int mi_reserve_os_memory_ex(size_t size, bool commit, bool allow_large, bool exclusive,
                                           mi_arena_ref_t* arena) mi_attr_noexcept;

/// Makes the given memory an arena: the caller's, for as long as the process lives. `is_committed`: it may be written
/// to; `is_pinned`: it never goes back to the system; `is_zero`: it holds zeros. It must hold at least one stretch of 4
/// MiB aligned to 4 MiB (EINVAL else). Memory that is not committed is made writable when it is needed, in address
/// order, by `commit_fun` with `commit` = true, or by mprotect if that is NULL; false from it means that there is no
/// memory now.
/// `*is_zero` is not relied on, and memory is given back with madvise only, so that `commit_fun` is never called with
/// false.
typedef bool mi_commit_fun_t(bool commit, void* start, size_t size, bool* is_zero, void* user_arg);
mi_decl_export bool mi_manage_memory(void* start, size_t size, bool is_committed, bool is_pinned, bool is_zero,
                                     int numa_node, bool exclusive, mi_commit_fun_t* commit_fun, void* commit_fun_arg,
                                     mi_arena_ref_t* arena) mi_attr_noexcept;
mi_decl_export bool mi_manage_os_memory(void* start, size_t size, bool is_committed, bool is_pinned, bool is_zero,
                                        int numa_node) mi_attr_noexcept;
mi_decl_export bool mi_manage_os_memory_ex(void* start, size_t size, bool is_committed, bool is_pinned, bool is_zero,
                                           int numa_node, bool exclusive, mi_arena_ref_t* arena) mi_attr_noexcept;

/// Reserves `pages` huge pages of 1 GiB, evenly over the first `numa_nodes` nodes (0: all), or at one node (-1: any).
/// Gives up after the timeout (0: none). 0 if all were obtained, else an errno code (ENOMEM, ETIMEDOUT), with those
/// that were in use.
mi_decl_export int mi_reserve_huge_os_pages_interleave(size_t pages, size_t numa_nodes, size_t timeout_msecs)
    mi_attr_noexcept;
mi_decl_export int mi_reserve_huge_os_pages_at(size_t pages, int numa_node, size_t timeout_msecs) mi_attr_noexcept;
mi_decl_export int mi_reserve_huge_os_pages_at_ex(size_t pages, int numa_node, size_t timeout_msecs, bool exclusive,
                                                  mi_arena_ref_t* arena) mi_attr_noexcept;
/// The oldest form of it: `*pages_reserved`, which may be NULL, is set to what was obtained.
mi_decl_export int mi_reserve_huge_os_pages(size_t pages, double max_secs, size_t* pages_reserved) mi_attr_noexcept;

/// Where the arena starts, NULL for what is no arena; its size in `*size` if that is not NULL.
mi_decl_nodiscard mi_decl_export void* mi_arena_area(mi_arena_ref_t arena, size_t* size) mi_attr_noexcept;
mi_decl_nodiscard mi_decl_export bool mi_arena_contains(mi_arena_ref_t arena, const void* p) mi_attr_noexcept;
/// What memory for an arena must be: so many bytes at least, and so much of it is lost unless it starts at a multiple.
mi_decl_nodiscard mi_decl_export size_t mi_arena_min_size(void) mi_attr_noexcept;
mi_decl_nodiscard mi_decl_export size_t mi_arena_min_alignment(void) mi_attr_noexcept;
/// Prints a line per arena to the registered output. Two names of the same.
mi_decl_export void mi_arenas_print(void) mi_attr_noexcept;
mi_decl_export void mi_debug_show_arenas(void) mi_attr_noexcept;

// ---- sub-processes -----------------------------------------------------------------------------------------
/// Threads and heaps that share what threads leave behind, and nothing with others. Every thread is in the main one
/// until it is added to another, which it must be before it allocates.
#ifdef MI_API_V2
typedef void* mi_subproc_id_t;
#else
typedef struct mi_subproc_id_s {
  void* _mi_subproc;
} mi_subproc_id_t;
#endif
mi_decl_nodiscard mi_decl_export mi_subproc_id_t mi_subproc_main(void) mi_attr_noexcept;
mi_decl_nodiscard mi_decl_export mi_subproc_id_t mi_subproc_current(void) mi_attr_noexcept;
mi_decl_nodiscard mi_decl_export mi_subproc_id_t mi_subproc_new(void) mi_attr_noexcept;
/// Ends a sub-process that has no thread any more (EINVAL reported else, and for the main one): mi_subproc_destroy with
/// all its heaps and blocks, mi_subproc_delete (2.x) keeps the blocks, which are the main heap's from then on. Refused
/// (EINVAL reported) in a callback or a visit of one of its heaps. NULL is ignored.
mi_decl_export void mi_subproc_destroy(mi_subproc_id_t subproc) mi_attr_noexcept;
mi_decl_export void mi_subproc_delete(mi_subproc_id_t subproc) mi_attr_noexcept;
mi_decl_export void mi_subproc_add_current_thread(mi_subproc_id_t subproc) mi_attr_noexcept;
mi_decl_export bool mi_subproc_visit_heaps(mi_subproc_id_t subproc, mi_heap_visit_fun* visitor, void* arg);
mi_decl_export void mi_subproc_stats_print_out(mi_subproc_id_t subproc, mi_output_fun* out, void* arg) mi_attr_noexcept;
mi_decl_export void mi_subproc_heap_stats_print_out(mi_subproc_id_t subproc, mi_output_fun* out, void* arg)
    mi_attr_noexcept;
/// Visits what threads of the sub-process that ended left behind; of heaps with the given tag only, unless that is -1.
mi_decl_export bool mi_abandoned_visit_blocks(mi_subproc_id_t subproc, int heap_tag, bool visit_blocks,
                                              mi_block_visit_fun* visitor, void* arg);

// ---- options --------------------------------------------------------------------------------------------
// Each is also read from the environment, once, as MIMALLOC_ and its name in capitals (not in programs that run with
// raised privileges); the older names are read where the present one is not set. Sizes take the suffixes K, M and G,
// and are kept in KiB. Below: the default and what it does; a dash: accepted, and no effect here, for the reason given
// (mi_options_print says so too).
typedef enum mi_option_e {
  mi_option_show_errors,               // 0 (1 in debug builds): print errors
  mi_option_show_stats,                // 0: print statistics when the process ends
  mi_option_verbose,                   // 0: print the options at the start, and errors whatever show_errors says
  mi_option_arena_eager_commit,        // 2: - memory becomes writable in address order, as it is needed
  mi_option_purge_decommits,           // 1: purge with MADV_DONTNEED; 0: with MADV_FREE
  mi_option_allow_large_os_pages,      // 0: 1 lets the system back arenas made from now on with 2 MiB pages
  mi_option_reserve_huge_os_pages,     // 0: reserve so many pages of 1 GiB at the start, half a second each
  mi_option_reserve_huge_os_pages_at,  // -1: at this NUMA node; -1: evenly over all
  mi_option_reserve_os_memory,         // 0 (KiB): reserve so much memory at the start
  mi_option_purge_delay,               // 10: ms until free memory goes back (at rest up to 40); 0 at once, -1 never
  mi_option_use_numa_nodes,            // 0: so many nodes when pages are spread over all; 0: as the machine has
  mi_option_disallow_os_alloc,         // 0: 1 takes no more memory from the system
  mi_option_os_tag,                    // 100: - there are no tags on Linux
  mi_option_max_errors,                // 32: print at most so many errors (-1: all)
  mi_option_max_warnings,              // 32: print at most so many warnings (-1: all)
  mi_option_destroy_on_exit,           // 0: 1 gives all memory back when a library that holds this one is unloaded
  mi_option_arena_reserve,             // 0 (KiB): address space of the first arena; 0 by the machine's memory
  mi_option_arena_purge_mult,          // 1: times purge_delay
  mi_option_disallow_arena_alloc,      // 0: - all memory is in arenas
  mi_option_retry_on_oom,              // 400: - out of memory is tried again once, after a collect, and not waited for
  mi_option_visit_abandoned,           // 0: - visitors are always shown what ended threads left
  mi_option_guarded_min,               // 0: smallest block that is guarded, in bytes (README: Guarded mode)
  mi_option_guarded_max,               // 1 GiB: largest such block, in bytes
  mi_option_guarded_precise,           // 0: 1 puts blocks directly before the guard page, whatever their alignment
  mi_option_guarded_sample_rate,       // 0 (4000 in guarded builds): guard one block in so many, at random; 0 none
  mi_option_guarded_sample_seed,       // 0: which blocks, the same in every run; 0 others in every run
  mi_option_generic_collect,           // 10000: - collects are spread over the slow paths
  mi_option_page_reclaim_on_free,      // 0: - a page goes to who frees into it if that thread uses its heap
  mi_option_page_full_retain,          // 2: - full pages are never searched
  mi_option_page_max_candidates,       // 4: - the first page with room serves
  mi_option_max_vabits,                // 0: - there is no map of pages
  mi_option_pagemap_commit,            // 0: - there is no map of pages
  mi_option_page_commit_on_demand,     // 0: - pages are always filled one system page at a time
  mi_option_page_max_reclaim,          // -1: - pages are reclaimed one at a time, by need
  mi_option_page_cross_thread_max_reclaim,  // 32: - pages are reclaimed one at a time, by need
  mi_option_allow_thp,                      // 1: 0 turns transparent huge pages off for the whole process
  mi_option_minimal_purge_size,             // 0 (KiB): free runs that are shorter stay, until memory is short
  mi_option_arena_max_object_size,          // 2 GiB (KiB): - every size is served from arenas
  mi_option_arena_is_numa_local,            // 0: - see mi_heap_set_numa_affinity
  // of 2.x
  mi_option_eager_commit,                // 1: -
  mi_option_eager_commit_delay,          // 1: -
  mi_option_abandoned_page_purge,        // 0: -
  mi_option_max_segment_reclaim,         // 10: -
  mi_option_purge_extend_delay,          // 1: -
  mi_option_abandoned_reclaim_on_free,   // 0: -
  mi_option_target_segments_per_thread,  // 0: -
  // of this library
  mi_option_report_survivors,  // 0: 1 reports what is alive in a heap that is destroyed, and at the end of the process
  mi_option_table_on_signal,   // 0: 1 prints the table of heaps by name on SIGUSR2, another number n on signal n
  mi_option_guarded_before,    // 0: 1 puts guarded blocks behind a guard page instead of before one, 2 at random
  mi_option_guarded_quarantine,  // 256: so many guarded blocks that were freed stay inaccessible (2048 at most)
  mi_option_guarded_report,      // 1: 0 leaves faults alone, without a report of the guarded block
  _mi_option_last,
  // older names
  mi_option_large_os_pages = mi_option_allow_large_os_pages,
  mi_option_eager_region_commit = mi_option_arena_eager_commit,
  mi_option_reset_decommits = mi_option_purge_decommits,
  mi_option_reset_delay = mi_option_purge_delay,
  mi_option_limit_os_alloc = mi_option_disallow_os_alloc
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
mi_decl_export void mi_options_print_out(mi_output_fun* out, void* arg) mi_attr_noexcept;

// ---- typed --------------------------------------------------------------------------------------------
#define mi_malloc_tp(tp) ((tp*)mi_malloc(sizeof(tp)))
#define mi_zalloc_tp(tp) ((tp*)mi_zalloc(sizeof(tp)))
#define mi_calloc_tp(tp, n) ((tp*)mi_calloc(n, sizeof(tp)))
#define mi_mallocn_tp(tp, n) ((tp*)mi_mallocn(n, sizeof(tp)))
#define mi_reallocn_tp(p, tp, n) ((tp*)mi_reallocn(p, n, sizeof(tp)))
#define mi_recalloc_tp(p, tp, n) ((tp*)mi_recalloc(p, n, sizeof(tp)))
#ifdef MI_API_V2
#define mi_heap_malloc_tp(hp, tp) ((tp*)mi_heap_malloc(hp, sizeof(tp)))
#define mi_heap_zalloc_tp(hp, tp) ((tp*)mi_heap_zalloc(hp, sizeof(tp)))
#define mi_heap_calloc_tp(hp, tp, n) ((tp*)mi_heap_calloc(hp, n, sizeof(tp)))
#define mi_heap_mallocn_tp(hp, tp, n) ((tp*)mi_heap_mallocn(hp, n, sizeof(tp)))
#define mi_heap_reallocn_tp(hp, p, tp, n) ((tp*)mi_heap_reallocn(hp, p, n, sizeof(tp)))
#define mi_heap_recalloc_tp(hp, p, tp, n) ((tp*)mi_heap_recalloc(hp, p, n, sizeof(tp)))
#else
#define mi_heap_malloc_tp(tp, hp) ((tp*)mi_heap_malloc(hp, sizeof(tp)))
#define mi_heap_zalloc_tp(tp, hp) ((tp*)mi_heap_zalloc(hp, sizeof(tp)))
#define mi_heap_calloc_tp(tp, hp, n) ((tp*)mi_heap_calloc(hp, n, sizeof(tp)))
#define mi_heap_mallocn_tp(tp, hp, n) ((tp*)mi_heap_mallocn(hp, n, sizeof(tp)))
#define mi_heap_reallocn_tp(tp, hp, p, n) ((tp*)mi_heap_reallocn(hp, p, n, sizeof(tp)))
#define mi_heap_recalloc_tp(tp, hp, p, n) ((tp*)mi_heap_recalloc(hp, p, n, sizeof(tp)))
#endif

// ---- 2.x: what takes an arena by its number -----------------------------------------------------------------
#ifdef MI_API_V2
static inline int mi_v2_reserve_os_memory_ex(size_t size, bool commit, bool allow_large, bool exclusive,
                                             mi_arena_id_t* arena) mi_attr_noexcept {
  mi_arena_ref_t made = NULL;
  const int code = mi_reserve_os_memory_ex(size, commit, allow_large, exclusive, &made);
  if (arena != NULL) *arena = _mi_arena_index_of_id(made);
  return code;
}
static inline int mi_v2_reserve_huge_os_pages_at_ex(size_t pages, int numa_node, size_t timeout_msecs, bool exclusive,
                                                    mi_arena_id_t* arena) mi_attr_noexcept {
  mi_arena_ref_t made = NULL;
  const int code = mi_reserve_huge_os_pages_at_ex(pages, numa_node, timeout_msecs, exclusive, &made);
  if (arena != NULL) *arena = _mi_arena_index_of_id(made);
  return code;
}
static inline bool mi_v2_manage_os_memory_ex(void* start, size_t size, bool is_committed, bool is_large, bool is_zero,
                                             int numa_node, bool exclusive, mi_arena_id_t* arena) mi_attr_noexcept {
  mi_arena_ref_t made = NULL;
  const bool ok = mi_manage_os_memory_ex(start, size, is_committed, is_large, is_zero, numa_node, exclusive, &made);
  if (arena != NULL) *arena = _mi_arena_index_of_id(made);
  return ok;
}
static inline bool mi_v2_manage_memory(void* start, size_t size, bool is_committed, bool is_pinned, bool is_zero,
                                       int numa_node, bool exclusive, mi_commit_fun_t* commit_fun, void* commit_fun_arg,
                                       mi_arena_id_t* arena) mi_attr_noexcept {
  mi_arena_ref_t made = NULL;
  const bool ok = mi_manage_memory(start, size, is_committed, is_pinned, is_zero, numa_node, exclusive, commit_fun,
                                   commit_fun_arg, &made);
  if (arena != NULL) *arena = _mi_arena_index_of_id(made);
  return ok;
}
static inline void* mi_v2_arena_area(mi_arena_id_t arena, size_t* size) mi_attr_noexcept {
  return mi_arena_area(_mi_arena_id_of_index(arena), size);
}
static inline bool mi_v2_arena_contains(mi_arena_id_t arena, const void* p) mi_attr_noexcept {
  return mi_arena_contains(_mi_arena_id_of_index(arena), p);
}
#define mi_reserve_os_memory_ex mi_v2_reserve_os_memory_ex
#define mi_reserve_huge_os_pages_at_ex mi_v2_reserve_huge_os_pages_at_ex
#define mi_manage_os_memory_ex mi_v2_manage_os_memory_ex
#define mi_manage_memory mi_v2_manage_memory
#define mi_arena_area mi_v2_arena_area
#define mi_arena_contains mi_v2_arena_contains
#endif

#ifdef __cplusplus
}
#include "mimalloc-stl.h"
#endif
#endif
