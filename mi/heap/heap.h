// First-class heaps: the public interface.
//
// A heap is a set of blocks that lives and dies together. Any thread may allocate in any heap, several
// at once; any thread may free any block; the whole heap goes with one call. A heap costs 512 bytes and a
// few nanoseconds, so that one per request, task, parser or interpreter is a sensible design.
//
// Rules that hold for every function here:
//  * Sizes are in bytes. A size above PTRDIFF_MAX is refused: NULL, errno = ENOMEM (EOVERFLOW where the
//    product of a count and a size overflows). Size 0 returns a block of the smallest size.
//  * Blocks are aligned to 16 bytes (8 bytes for sizes up to 8). Alignments are powers of two; any other
//    value is refused: NULL, errno = EINVAL.
//  * Blocks of every heap are freed with mi_free and resized with mi_realloc.
//  * Functions named _destroy and _reset require that no other thread uses the heap or its blocks at the
//    time. Everything else may be called from any thread at any time, unless its comment says otherwise.
//  * Use of a heap after its destroy is detected as long as its handle was not used again: the call reports
//    through mi_register_error (EFAULT), and returns NULL (or does nothing).
#pragma once
#ifndef MI_HEAP_HEAP_H
#define MI_HEAP_HEAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#define mi_attr_noexcept noexcept
extern "C" {
#else
#define mi_attr_noexcept
#endif

#define mi_decl_export __attribute__((visibility("default")))
#define mi_decl_nodiscard __attribute__((warn_unused_result))
#define mi_decl_restrict
#define mi_attr_malloc __attribute__((malloc))
#define mi_attr_alloc_size(s) __attribute__((alloc_size(s)))
#define mi_attr_alloc_size2(s1, s2) __attribute__((alloc_size(s1, s2)))
#define mi_attr_alloc_align(p) __attribute__((alloc_align(p)))

/// A heap. Opaque; made by mi_heap_new and friends.
typedef struct mi_heap_s mi_heap_t;

/// The part of a heap that one thread allocates from. Opaque; only its own thread may use it.
typedef struct mi_theap_s mi_theap_t;

/// An arena: a range of address space that heaps may be confined to. NULL means any.
typedef void* mi_arena_ref_t;

/// What a program calls an arena. The interface has two generations, which differ in a few types and argument orders:
/// the default is that of 3.4; MI_API_V2, defined before the first include, gives that of 2.x, where an arena is a
/// number (0 for none). Both call the same library.
#ifdef MI_API_V2
typedef int mi_arena_id_t;
#else
typedef mi_arena_ref_t mi_arena_id_t;
#endif

/// The number by which a 2.x program knows an arena, 1 and up, and back. None is 0 and NULL. A number that names no
/// arena gives a reference that every function refuses. Any thread.
mi_decl_nodiscard mi_decl_export mi_arena_ref_t _mi_arena_id_of_index(int number) mi_attr_noexcept;
mi_decl_nodiscard mi_decl_export int _mi_arena_index_of_id(mi_arena_ref_t arena) mi_attr_noexcept;

// ---------------------------------------------------------------------------------------------------
// Making and ending heaps
// ---------------------------------------------------------------------------------------------------

/// At a limit: `need` more bytes are asked for than `heap` may hold. Free something or raise the limit and return true
/// to have it tried again; false declines. Runs on the thread that allocates, with nothing held; it may allocate in
/// other heaps and free anywhere, but must not end `heap`.
typedef bool mi_heap_limit_fun(mi_heap_t* heap, size_t need, void* arg);

/// Called now and then while the program allocates in `heap`, to do work that was put off, as freeing what lost its
/// last reference: about mi_heap_deferred_budget(heap) blocks of it, or with `force` all of it. `heartbeat` numbers the
/// heap's calls on all threads, strictly increasing. Runs on the thread that allocates, with nothing held; it may
/// allocate and free, but must not end or reset `heap` (refused, EINVAL reported). See mi_heap_register_deferred_free.
typedef void mi_heap_deferred_free_fun(mi_heap_t* heap, bool force, unsigned long long heartbeat, void* arg);

/// Flags of a configuration. A heap with one from MI_HEAP_HARDENED on has a policy: each of its allocations and frees
/// takes the generic path (some 20 to 50 ns), mi_usable_size of its blocks is exactly what was asked for, nothing is
/// kept in free blocks, and bytes behind a block up to the end of its class are checked when it is freed or resized. In
/// a hardened heap a double free, a free of what is no block of it, a wrong size in mi_free_size, a resize or
/// mi_usable_size of what is not alive, and a byte written behind a block are corruptions: a message on standard error,
/// the error callback (EAGAIN, EINVAL or EFAULT), and abort(), whatever the callback does. With other flags the same is
/// reported as an error, and nothing else happens. README.md (Safe heaps) says what each does not stop.
typedef enum mi_heap_flag_e {
  MI_HEAP_REPORT_SURVIVORS = 1,  ///< destroy reports what was still alive, by size: see mi_register_survivors
  MI_HEAP_HARDENED = 2,          ///< every free and resize is checked; what is wrong ends the process (see below)
  MI_HEAP_GUARDED = 4,           ///< not available yet: refused
  MI_HEAP_QUARANTINE = 8,        ///< a freed block is not handed out again before 1,024 others were freed by its thread
  MI_HEAP_WIPE = 16,      ///< a block is zeroed, to its last byte, before a free, destroy, reset or rewind returns
  MI_HEAP_ZERO = 32,      ///< every block is zero when it is allocated, and where it grows, to its last byte
  MI_HEAP_ISOLATED = 64,  ///< not available yet: refused
  MI_HEAP_SECRET = 128,   ///< not available yet: refused
} mi_heap_flag_t;

/// A heap made to order. Set `size` to sizeof(mi_heap_config_t) and every other field that you do not use
/// to zero: all zero is a plain heap. Fields are only ever added at the end, so that a program compiled
/// against an older header keeps working; bytes beyond what this library knows must be zero.
typedef struct mi_heap_config_s {
  size_t size;                  ///< sizeof(mi_heap_config_t) at the caller; 0 is refused
  const char* name;             ///< for messages and statistics; copied (at most 63 bytes kept); NULL: unnamed
  mi_heap_t* parent;            ///< the heap ends with this one at the latest, and counts against its limit
  size_t limit;                 ///< bytes that it may hold; 0: no limit
  size_t soft_limit;            ///< bytes from which on_limit is called, once until it falls below; 0: none
  size_t headroom;              ///< bytes above `limit` that are served after a failure at it
  mi_heap_limit_fun* on_limit;  ///< called at both limits; NULL: none
  void* limit_arg;              ///< its last argument
  mi_heap_deferred_free_fun* deferred_free;  ///< called at every cadence; NULL: none
  void* deferred_arg;                        ///< its last argument
  size_t deferred_cadence;                   ///< allocations between calls; 0: by deferred_bytes
  size_t deferred_bytes;                     ///< bytes allocated between calls; 0: by deferred_cadence, or 64 KiB
  size_t retain;                             ///< bytes that stay warm over reset and (regions of young heaps, 4 MiB at
                                             ///<   most per thread) for the next heap, until a collect; 0: learnt
  mi_arena_ref_t arena;                      ///< where everything of it lies; NULL: anywhere
  int numa_node;                             ///< 0: any; n + 1: memory of node n is preferred
  size_t min_align;                          ///< 8 or 16: of every block, whatever its size; 0: 16 (8 up to 8 bytes)
  uint32_t flags;                            ///< mi_heap_flag_t, or-ed; unknown ones are refused
  uint32_t required;                         ///< protections without which it is not made; none is known yet: 0
} mi_heap_config_t;

/// Returns a new, empty heap, or NULL (errno = ENOMEM). Any thread. The calling thread becomes the
/// heap's home thread: its allocations in the heap take the shortest path.
mi_decl_nodiscard mi_decl_export mi_heap_t* mi_heap_new(void) mi_attr_noexcept;

/// Returns a new heap with the given configuration; NULL `config` is mi_heap_new(). NULL with errno =
/// EINVAL and a message that names the field if the configuration is refused; ENOMEM without memory.
mi_decl_nodiscard mi_decl_export mi_heap_t* mi_heap_new_with(const mi_heap_config_t* config) mi_attr_noexcept;

/// The 2.x constructor. `heap_tag` is shown to visitors and selects heaps in mi_abandoned_visit_blocks; `allow_destroy`
/// = false makes mi_heap_destroy act as mi_heap_delete; `arena` as in mi_heap_new_in_arena.
mi_decl_nodiscard mi_decl_export mi_heap_t* mi_heap_new_ex(int heap_tag, bool allow_destroy, mi_arena_ref_t arena)
    mi_attr_noexcept;

/// A heap that lies in the given arena with its blocks and everything that the library keeps for it (NULL:
/// mi_heap_new). NULL with errno = ENOMEM without memory in the arena, EINVAL for what is no arena.
mi_decl_nodiscard mi_decl_export mi_heap_t* mi_heap_new_in_arena(mi_arena_ref_t arena) mi_attr_noexcept;

/// From now on the heap takes its memory, as far as there is a choice, from arenas of the given NUMA node (those made
/// by mi_reserve_huge_os_pages_at or mi_manage_memory for it); -1: any. Holds for the calling thread's part and for
/// threads that use the heap later; no effect on memory that it has. EINVAL reported for what is no node.
mi_decl_export void mi_heap_set_numa_affinity(mi_heap_t* heap, int numa_node) mi_attr_noexcept;

/// Ends the heap and keeps its blocks: they now belong to the main heap and are freed one by one as before.
/// Other threads may free blocks of the heap at the same moment, and later; no thread may allocate in it
/// any more, nor resize its blocks during the call. NULL is ignored; the main heap is refused (EINVAL reported). If the
/// heap is the calling thread's default heap, the main heap becomes the default.
mi_decl_export void mi_heap_delete(mi_heap_t* heap) mi_attr_noexcept;

/// Ends the heap and frees all its blocks at once. No other thread may use the heap or its blocks at the
/// time. NULL is ignored; the main heap is refused (EINVAL reported). A thread whose default heap this was
/// falls back to the main heap at its next allocation.
mi_decl_export void mi_heap_destroy(mi_heap_t* heap) mi_attr_noexcept;

/// Frees all blocks of the heap and keeps the heap, with some warm memory, for more. No other thread may
/// use the heap or its blocks at the time. NULL is ignored; the main heap is refused (EINVAL reported).
mi_decl_export void mi_heap_reset(mi_heap_t* heap) mi_attr_noexcept;

/// Like mi_heap_delete, but the blocks go to `into` (NULL: the main heap). Merging a heap into itself is
/// refused (EINVAL reported). `into` may be in use by other threads; it may not end (by destroy, delete or merge)
/// during the call.
mi_decl_export void mi_heap_merge(mi_heap_t* heap, mi_heap_t* into) mi_attr_noexcept;

/// A function to be called before a heap's memory goes.
typedef void mi_heap_destroy_fun(void* arg);

/// Has `fun(arg)` called, once, before the heap's memory goes: in mi_heap_destroy and mi_heap_reset, after the heap's
/// children ended, and in mi_heap_delete; the last registered first, on the thread that ends the heap, with nothing
/// held. mi_heap_merge takes it along to the other heap (where it counts as registered then), but a merge into the main
/// heap, which never ends, calls it. It may free blocks of the heap and allocate anywhere (what it allocates in the
/// heap goes with it), end other heaps, and register more, which is called after it; it must not end, reset or move
/// `heap` (EINVAL reported), nor leave by longjmp or an exception. Returns false with errno = ENOMEM without memory,
/// and reports EINVAL for a `fun` or `heap` that is NULL and for the main heap, EFAULT for a heap that ended. Any
/// thread.
mi_decl_export bool mi_heap_on_destroy(mi_heap_t* heap, mi_heap_destroy_fun* fun, void* arg) mi_attr_noexcept;
/// Takes back the last registration of the same function and argument that was not called yet. False if there is none;
/// bad input as above. Any thread.
mi_decl_export bool mi_heap_cancel_on_destroy(mi_heap_t* heap, mi_heap_destroy_fun* fun, void* arg) mi_attr_noexcept;

// Families. A heap may have a parent, which it does not outlive: when the parent is destroyed or reset, its children
// are destroyed first, the youngest first, each with its own children (those made with allow_destroy = false are
// deleted). When the parent is deleted, its children go to its own parent if it has one; when it is merged, to the heap
// that its blocks go to, if that is no main heap. A child may be used, ended or moved at any time by any thread, also
// while other threads do so with its siblings; but who ends a parent ends its descendants too: no other thread may use
// those at the time. Of heaps that different threads made without a parent, and that got one later, it is not known
// which is the youngest.

/// The heap's parent; NULL if it has none. Any thread.
mi_decl_nodiscard mi_decl_export mi_heap_t* mi_heap_parent(mi_heap_t* heap) mi_attr_noexcept;
/// Makes `heap` a child of `parent` (NULL: of none); it is no child of its former parent any more. False, with EINVAL
/// reported and nothing changed: `heap` is NULL or a main heap, `parent` is the main heap of the process, ended, of
/// another sub-process, `heap` itself or one of its descendants, or `heap` is ending and a callback asks for this.
/// False with errno = ENOMEM without memory, EFAULT reported for a `heap` that ended. Any thread.
mi_decl_export bool mi_heap_set_parent(mi_heap_t* heap, mi_heap_t* parent) mi_attr_noexcept;

/// A point in the life of a heap. Opaque; a value that may be copied. `serial` is 0 if there is none.
typedef struct mi_heap_mark_s {
  uint64_t heap;
  uint64_t serial;
} mi_heap_mark_t;

// Marks. mi_heap_mark remembers what is in the heap; mi_heap_rewind frees all that came to it since, as mi_heap_reset
// frees all: blocks (of every thread, and those of heaps that were merged into it since), children that joined it
// since, and callbacks that were registered since, which are called, both as at an end of the heap. Older blocks stay,
// or stay free if they were freed meanwhile. Marks nest: a rewind keeps its mark, for the next one, and ends later
// ones. While a heap has marks, memory of blocks that are older than the last one is not used again. A reset or the end
// of the heap ends its marks, and they do not go with a merge.
//
// As for reset, no other thread may use the heap or its blocks during these functions. EINVAL is reported for a `heap`
// that is NULL or a main heap, inside a visit or a callback of the heap, and EFAULT for one that ended.

/// Returns a new mark; `serial` is 0 on bad input, and with errno = ENOMEM without memory or with 65,535 marks.
mi_decl_nodiscard mi_decl_export mi_heap_mark_t mi_heap_mark(mi_heap_t* heap) mi_attr_noexcept;
/// Frees what came to the heap since the mark. False, with EINVAL reported and nothing changed, if that is no mark of
/// the heap (any more).
mi_decl_export bool mi_heap_rewind(mi_heap_t* heap, mi_heap_mark_t mark) mi_attr_noexcept;
/// Forgets the mark and later ones; everything stays. False as above.
mi_decl_export bool mi_heap_unmark(mi_heap_t* heap, mi_heap_mark_t mark) mi_attr_noexcept;

/// Frees what can be freed without touching live blocks: pages and regions without live blocks, memory of
/// threads that ended. With `force`, also warm memory. The calling thread's part is done at once, other
/// running threads' parts at their next slow path. Any thread. NULL is ignored.
mi_decl_export void mi_heap_collect(mi_heap_t* heap, bool force) mi_attr_noexcept;

/// Registers `deferred_free` with `arg` as the heap's callback (NULL: none), in place of the one before; also of the
/// main heap. It is called
///  * with force false on a slow path of allocation in the heap, when the calling thread has allocated there as much as
///    the configuration says since its last call: deferred_cadence blocks or deferred_bytes bytes, 64 KiB where neither
///    is set. Slow paths come at least once per page of allocations, so that a small cadence may be exceeded by as
///    much. What is counted is allocations, never time: the same program on one thread gets the same calls every time;
///  * with force true before mi_heap_destroy, _delete, _merge and _reset do their work; at the end of each thread that
///    allocated in the heap; before an allocation in it fails; and by mi_heap_collect(heap, true).
/// Calls do not nest on a thread, but a heap that a callback of another one ends gets its last call. Threads that
/// allocate in the heap at the same time may be in the callback at the same time. A callback that was taken away may
/// still be running on another thread, or be just about to; function and argument always belong together. A heap does
/// not end while the callback runs at the end of a thread: ending it waits.
/// True, or false with errno = ENOMEM (the former callback stays), EINVAL reported for NULL, EFAULT for a heap that
/// ended. Any thread at any time.
mi_decl_export bool mi_heap_register_deferred_free(mi_heap_t* heap, mi_heap_deferred_free_fun* deferred_free, void* arg)
    mi_attr_noexcept;

/// Inside a callback of `heap`: about how many blocks the calling thread has allocated in it since its last call, so
/// that freeing as many keeps what waits from growing; SIZE_MAX with force. 0 elsewhere. Any thread.
mi_decl_nodiscard mi_decl_export size_t mi_heap_deferred_budget(mi_heap_t* heap) mi_attr_noexcept;

// ---------------------------------------------------------------------------------------------------
// The default heap of a thread
// ---------------------------------------------------------------------------------------------------

/// The heap that mi_malloc uses in a thread that chose no other. Never NULL, never ends.
mi_decl_nodiscard mi_decl_export mi_heap_t* mi_heap_main(void) mi_attr_noexcept;
/// The same as mi_heap_main (2.x name).
mi_decl_nodiscard mi_decl_export mi_heap_t* mi_heap_get_backing(void) mi_attr_noexcept;
/// The heap that mi_malloc uses in the calling thread. Never NULL.
mi_decl_nodiscard mi_decl_export mi_heap_t* mi_heap_get_default(void) mi_attr_noexcept;
/// Makes `heap` (NULL: the main heap) the calling thread's default; returns the former one, or NULL with
/// errno = ENOMEM if the heap's part for this thread could not be made (the default is then unchanged).
mi_decl_export mi_heap_t* mi_heap_set_default(mi_heap_t* heap) mi_attr_noexcept;

/// The calling thread's part of `heap` (NULL: of its default heap). NULL with errno = ENOMEM, or for a
/// destroyed heap. Valid in this thread until the heap or the thread ends.
mi_decl_nodiscard mi_decl_export mi_theap_t* mi_heap_theap(mi_heap_t* heap) mi_attr_noexcept;
/// The calling thread's part of its default heap.
mi_decl_nodiscard mi_decl_export mi_theap_t* mi_theap_get_default(void) mi_attr_noexcept;
/// Makes the theap's heap the default of the calling thread, which must own the theap; returns the former one.
mi_decl_export mi_theap_t* mi_theap_set_default(mi_theap_t* theap) mi_attr_noexcept;

// ---------------------------------------------------------------------------------------------------
// Allocating in a heap. `heap` must not be NULL. Each returns NULL with errno = ENOMEM without memory.
// ---------------------------------------------------------------------------------------------------

mi_decl_nodiscard mi_decl_export mi_decl_restrict void* mi_heap_malloc(mi_heap_t* heap, size_t size)
    mi_attr_noexcept mi_attr_malloc mi_attr_alloc_size(2);
/// `size` must be at most MI_SMALL_SIZE_MAX; a larger one is served all the same, more slowly.
mi_decl_nodiscard mi_decl_export mi_decl_restrict void* mi_heap_malloc_small(mi_heap_t* heap, size_t size)
    mi_attr_noexcept mi_attr_malloc mi_attr_alloc_size(2);
mi_decl_nodiscard mi_decl_export mi_decl_restrict void* mi_heap_zalloc(mi_heap_t* heap, size_t size)
    mi_attr_noexcept mi_attr_malloc mi_attr_alloc_size(2);
mi_decl_nodiscard mi_decl_export mi_decl_restrict void* mi_heap_zalloc_small(mi_heap_t* heap, size_t size)
    mi_attr_noexcept mi_attr_malloc mi_attr_alloc_size(2);
mi_decl_nodiscard mi_decl_export mi_decl_restrict void* mi_heap_calloc(mi_heap_t* heap, size_t count, size_t size)
    mi_attr_noexcept mi_attr_malloc mi_attr_alloc_size2(2, 3);
mi_decl_nodiscard mi_decl_export mi_decl_restrict void* mi_heap_mallocn(mi_heap_t* heap, size_t count, size_t size)
    mi_attr_noexcept mi_attr_malloc mi_attr_alloc_size2(2, 3);

mi_decl_nodiscard mi_decl_export mi_decl_restrict void* mi_heap_malloc_aligned(mi_heap_t* heap, size_t size,
                                                                               size_t alignment)
    mi_attr_noexcept mi_attr_malloc mi_attr_alloc_size(2) mi_attr_alloc_align(3);
/// The address plus `offset` is a multiple of `alignment`; `offset` is taken modulo `alignment`. An alignment of 4 MiB
/// or more with an offset that would put the block 1 to 255 bytes behind a multiple of 4 MiB cannot be served (ENOMEM).
mi_decl_nodiscard mi_decl_export mi_decl_restrict void* mi_heap_malloc_aligned_at(mi_heap_t* heap, size_t size,
                                                                                  size_t alignment, size_t offset)
    mi_attr_noexcept mi_attr_malloc mi_attr_alloc_size(2);
mi_decl_nodiscard mi_decl_export mi_decl_restrict void* mi_heap_zalloc_aligned(mi_heap_t* heap, size_t size,
                                                                               size_t alignment)
    mi_attr_noexcept mi_attr_malloc mi_attr_alloc_size(2) mi_attr_alloc_align(3);
mi_decl_nodiscard mi_decl_export mi_decl_restrict void* mi_heap_zalloc_aligned_at(mi_heap_t* heap, size_t size,
                                                                                  size_t alignment, size_t offset)
    mi_attr_noexcept mi_attr_malloc mi_attr_alloc_size(2);
mi_decl_nodiscard mi_decl_export mi_decl_restrict void* mi_heap_calloc_aligned(mi_heap_t* heap, size_t count,
                                                                               size_t size, size_t alignment)
    mi_attr_noexcept mi_attr_malloc mi_attr_alloc_size2(2, 3) mi_attr_alloc_align(4);
mi_decl_nodiscard mi_decl_export mi_decl_restrict void* mi_heap_calloc_aligned_at(mi_heap_t* heap, size_t count,
                                                                                  size_t size, size_t alignment,
                                                                                  size_t offset)
    mi_attr_noexcept mi_attr_malloc mi_attr_alloc_size2(2, 3);

/// Resizing. A block that stays in place stays in its heap; one that moves, moves to `heap`. On failure NULL
/// is returned and the old block is unchanged (except reallocf, which frees it). `p` may be NULL.
mi_decl_nodiscard mi_decl_export void* mi_heap_realloc(mi_heap_t* heap, void* p, size_t newsize)
    mi_attr_noexcept mi_attr_alloc_size(3);
mi_decl_nodiscard mi_decl_export void* mi_heap_reallocn(mi_heap_t* heap, void* p, size_t count, size_t size)
    mi_attr_noexcept mi_attr_alloc_size2(3, 4);
mi_decl_nodiscard mi_decl_export void* mi_heap_reallocf(mi_heap_t* heap, void* p, size_t newsize)
    mi_attr_noexcept mi_attr_alloc_size(3);
/// rezalloc and recalloc clear what is new: the block must have been made by a zeroing function, and resized
/// only by these.
mi_decl_nodiscard mi_decl_export void* mi_heap_rezalloc(mi_heap_t* heap, void* p, size_t newsize)
    mi_attr_noexcept mi_attr_alloc_size(3);
mi_decl_nodiscard mi_decl_export void* mi_heap_recalloc(mi_heap_t* heap, void* p, size_t count, size_t size)
    mi_attr_noexcept mi_attr_alloc_size2(3, 4);
mi_decl_nodiscard mi_decl_export void* mi_heap_realloc_aligned(mi_heap_t* heap, void* p, size_t newsize,
                                                               size_t alignment) mi_attr_noexcept mi_attr_alloc_size(3);
mi_decl_nodiscard mi_decl_export void* mi_heap_realloc_aligned_at(mi_heap_t* heap, void* p, size_t newsize,
                                                                  size_t alignment, size_t offset)
    mi_attr_noexcept mi_attr_alloc_size(3);
mi_decl_nodiscard mi_decl_export void* mi_heap_rezalloc_aligned(mi_heap_t* heap, void* p, size_t newsize,
                                                                size_t alignment)
    mi_attr_noexcept mi_attr_alloc_size(3);
mi_decl_nodiscard mi_decl_export void* mi_heap_rezalloc_aligned_at(mi_heap_t* heap, void* p, size_t newsize,
                                                                   size_t alignment, size_t offset)
    mi_attr_noexcept mi_attr_alloc_size(3);
mi_decl_nodiscard mi_decl_export void* mi_heap_recalloc_aligned(mi_heap_t* heap, void* p, size_t newcount, size_t size,
                                                                size_t alignment)
    mi_attr_noexcept mi_attr_alloc_size2(3, 4);
mi_decl_nodiscard mi_decl_export void* mi_heap_recalloc_aligned_at(mi_heap_t* heap, void* p, size_t newcount,
                                                                   size_t size, size_t alignment, size_t offset)
    mi_attr_noexcept mi_attr_alloc_size2(3, 4);

mi_decl_nodiscard mi_decl_export mi_decl_restrict char* mi_heap_strdup(mi_heap_t* heap, const char* s)
    mi_attr_noexcept mi_attr_malloc;
mi_decl_nodiscard mi_decl_export mi_decl_restrict char* mi_heap_strndup(mi_heap_t* heap, const char* s, size_t n)
    mi_attr_noexcept mi_attr_malloc;
/// As mi_new and mi_new_n (mimalloc.h), in a heap: never NULL. A heap that is NULL or ended is treated as one without
/// memory.
mi_decl_nodiscard mi_decl_export mi_decl_restrict void* mi_heap_alloc_new(mi_heap_t* heap, size_t size)
    mi_attr_malloc mi_attr_alloc_size(2);
mi_decl_nodiscard mi_decl_export mi_decl_restrict void* mi_heap_alloc_new_n(mi_heap_t* heap, size_t count, size_t size)
    mi_attr_malloc mi_attr_alloc_size2(2, 3);

/// As realpath(3) with a NULL buffer: a block of `heap` if `resolved_name` is NULL.
mi_decl_nodiscard mi_decl_export char* mi_heap_realpath(mi_heap_t* heap, const char* fname, char* resolved_name)
    mi_attr_noexcept;

// The same through a theap: the calling thread must own it.
mi_decl_nodiscard mi_decl_export mi_decl_restrict void* mi_theap_malloc(mi_theap_t* theap, size_t size)
    mi_attr_noexcept mi_attr_malloc mi_attr_alloc_size(2);
mi_decl_nodiscard mi_decl_export mi_decl_restrict void* mi_theap_malloc_small(mi_theap_t* theap, size_t size)
    mi_attr_noexcept mi_attr_malloc mi_attr_alloc_size(2);
mi_decl_nodiscard mi_decl_export mi_decl_restrict void* mi_theap_zalloc(mi_theap_t* theap, size_t size)
    mi_attr_noexcept mi_attr_malloc mi_attr_alloc_size(2);
mi_decl_nodiscard mi_decl_export mi_decl_restrict void* mi_theap_zalloc_small(mi_theap_t* theap, size_t size)
    mi_attr_noexcept mi_attr_malloc mi_attr_alloc_size(2);
mi_decl_nodiscard mi_decl_export mi_decl_restrict void* mi_theap_calloc(mi_theap_t* theap, size_t count, size_t size)
    mi_attr_noexcept mi_attr_malloc mi_attr_alloc_size2(2, 3);
mi_decl_nodiscard mi_decl_export mi_decl_restrict void* mi_theap_malloc_aligned(mi_theap_t* theap, size_t size,
                                                                                size_t alignment)
    mi_attr_noexcept mi_attr_malloc mi_attr_alloc_size(2) mi_attr_alloc_align(3);
mi_decl_nodiscard mi_decl_export void* mi_theap_realloc(mi_theap_t* theap, void* p, size_t newsize)
    mi_attr_noexcept mi_attr_alloc_size(3);
mi_decl_export void mi_theap_collect(mi_theap_t* theap, bool force) mi_attr_noexcept;

// ---------------------------------------------------------------------------------------------------
// Asking
// ---------------------------------------------------------------------------------------------------

/// The heap that the block at `p` belongs to; NULL if `p` is not in a page of this library. Blocks of a
/// deleted or merged heap belong to the heap that they went to. Any thread; `p` must be live.
mi_decl_nodiscard mi_decl_export mi_heap_t* mi_heap_of(const void* p) mi_attr_noexcept;
/// Does the block at `p` belong to `heap`? False for NULL and for memory that is not ours.
mi_decl_nodiscard mi_decl_export bool mi_heap_contains(const mi_heap_t* heap, const void* p) mi_attr_noexcept;
/// 2.x names of the same question; mi_check_owned and mi_any_heap_contains ask it of all heaps.
mi_decl_nodiscard mi_decl_export bool mi_heap_contains_block(mi_heap_t* heap, const void* p) mi_attr_noexcept;
mi_decl_nodiscard mi_decl_export bool mi_heap_check_owned(mi_heap_t* heap, const void* p) mi_attr_noexcept;
mi_decl_nodiscard mi_decl_export bool mi_any_heap_contains(const void* p) mi_attr_noexcept;

/// A stretch of memory that holds blocks of one heap.
typedef struct mi_heap_area_s {
  void* blocks;            ///< where its blocks start
  size_t reserved;         ///< bytes of address space
  size_t committed;        ///< bytes in use so far
  size_t used;             ///< number of live blocks
  size_t block_size;       ///< bytes of each block; 0 in an area that mixes sizes
  size_t full_block_size;  ///< the same, padding included
#ifdef MI_API_V2
  int heap_tag;  ///< as given to mi_heap_new_ex
#else
  void* reserved1;
#endif
} mi_heap_area_t;

/// Called once per area with `block` = NULL, and, if blocks are visited, once per live block. Returning false
/// ends the visit. The address shown is the one that was returned, except for blocks made with an aligned offset: there
/// it may lie a little before; mi_free takes either.
typedef bool mi_block_visit_fun(const mi_heap_t* heap, const mi_heap_area_t* area, void* block, size_t block_size,
                                void* arg);

/// Visits every area of the heap, and with `visit_blocks` every live block of every thread's part, of every
/// size. The visitor may free any block of the heap, also the one that it is shown, and may allocate in other
/// heaps; a block that it freed is not shown later. No other thread may use the heap meanwhile, and a visit of the same
/// heap inside the visitor is refused (EINVAL reported), as is what would end the heap. Returns
/// false if the visitor ended it, or (errno = ENOMEM) without memory for the visit itself.
#ifdef MI_API_V2
mi_decl_export bool mi_heap_visit_blocks(const mi_heap_t* heap, bool visit_blocks, mi_block_visit_fun* visitor,
                                         void* arg);
#else
mi_decl_export bool mi_heap_visit_blocks(mi_heap_t* heap, bool visit_blocks, mi_block_visit_fun* visitor, void* arg);
#endif
/// The same for the calling thread's part only.
mi_decl_export bool mi_theap_visit_blocks(const mi_theap_t* theap, bool visit_blocks, mi_block_visit_fun* visitor,
                                          void* arg);
/// The same for the parts of threads that ended.
mi_decl_export bool mi_heap_visit_abandoned_blocks(mi_heap_t* heap, bool visit_blocks, mi_block_visit_fun* visitor,
                                                   void* arg);

/// Calls `visitor` for the main heap and every heap alive; false from it ends the visit. A heap that other
/// threads make or end meanwhile may be shown or not.
typedef bool mi_heap_visit_fun(mi_heap_t* heap, void* arg);
mi_decl_export bool mi_heap_visit_all(mi_heap_visit_fun* visitor, void* arg);

/// Looks at everything that ties the heap together, with the heaps that were merged into it: handle, parts, regions and
/// their bits, theaps, pages, free lists, counts, and memory that should read as zero. True if all of it agrees. The
/// first thing that does not is named in a message, which is printed whatever mi_option_show_errors says, and reported
/// through mi_register_error (EFAULT); the program should then end, since memory was written to that is not its own. A
/// million blocks take a fraction of a second. No other thread may use the heap or its blocks meanwhile (of the main
/// heap: any block of mi_malloc); other heaps may be in use. NULL and a heap that is being visited are refused (EINVAL
/// reported), so is a heap that ended (EFAULT); false.
mi_decl_nodiscard mi_decl_export bool mi_heap_check(mi_heap_t* heap) mi_attr_noexcept;

/// Writes a picture of the heap to `fd`, as SVG: a square for each page or region, by the size of its blocks, the
/// darker the fuller; a square's title says how many blocks it holds. (Of heaps of more than 16,384 pages a square is
/// several.) True if all of it was written; else errno is as write(2) or a visit sets it. No other thread may use the
/// heap meanwhile. What mi_heap_visit_blocks refuses is refused: false.
mi_decl_export bool mi_heap_dump_svg(mi_heap_t* heap, int fd) mi_attr_noexcept;

/// So many blocks of a size.
typedef struct mi_survivor_size_s {
  size_t size;    ///< bytes, as visitors are shown them
  size_t blocks;  ///< how many
} mi_survivor_size_t;
/// What was still alive in a heap when it was destroyed or when the process ended.
typedef struct mi_survivors_s {
  mi_heap_t* heap;                  ///< still there: its blocks may be visited, and freed, but not the heap ended
  const char* name;                 ///< of the heap
  size_t blocks;                    ///< of all sizes
  size_t bytes;                     ///< in them
  const mi_survivor_size_t* sizes;  ///< by size, smallest first; where there are thousands, some are rounded up
  size_t size_count;                ///< entries of `sizes`
  bool at_exit;                     ///< at the end of the process: sizes are those of classes, and for blocks with
                                    ///<   pages of their own there is one entry with the average
} mi_survivors_t;
typedef void mi_survivors_fun(const mi_survivors_t* survivors, void* arg);

/// Registers the function that is given what was still alive in a heap, instead of the report that is printed; NULL: it
/// is printed again. It concerns heaps made with MI_HEAP_REPORT_SURVIVORS, and with mi_option_report_survivors (set in
/// the environment, or before the first heap is made) all heaps, the main heap included. Called by mi_heap_destroy
/// before anything of the heap goes, on the same thread, unless nothing was alive; and when the library's destructor
/// runs, for those of these heaps that did not end. `survivors` is valid during the call. The function may allocate in
/// other heaps. Function and argument change at once. Any thread; without memory ENOMEM, and the former stays.
mi_decl_export void mi_register_survivors(mi_survivors_fun* fun, void* arg) mi_attr_noexcept;

/// For programs that move objects together: is the page around `p` one that would be worth emptying? True if it belongs
/// to the calling thread's part of `heap`, less than `perc_threshold` per cent of its blocks are live, and it is not
/// the page that serves the next allocations of its size. False for all else, also for objects of young heaps and
/// blocks with a page of their own. `p` is a live block.
mi_decl_nodiscard mi_decl_export bool mi_unsafe_heap_page_is_under_utilized(mi_heap_t* heap, void* p,
                                                                            size_t perc_threshold) mi_attr_noexcept;

// Guarded builds (MI_GUARDED): every Nth block within the size bounds has an inaccessible OS page behind it, so that
// the program stops where it reads or writes past the end. Such a block takes 8 KiB of memory at least, and two of the
// mappings that the system allows a process: when those are used up, blocks stay unguarded. In other builds these
// functions have no effect. Any thread; NULL is ignored.
/// From now on, every `sample_rate`th allocation in the heap (0: none) is guarded, beginning with number `seed` modulo
/// `sample_rate`; `seed` 0 draws one. For this heap it replaces the options of the same name.
mi_decl_export void mi_heap_guarded_set_sample_rate(mi_heap_t* heap, size_t sample_rate, size_t seed) mi_attr_noexcept;
/// Only blocks of `min` to `max` bytes are counted and guarded.
mi_decl_export void mi_heap_guarded_set_size_bound(mi_heap_t* heap, size_t min, size_t max) mi_attr_noexcept;
/// The same for the heap that the theap belongs to, and for all its threads.
mi_decl_export void mi_theap_guarded_set_sample_rate(mi_theap_t* theap, size_t sample_rate, size_t seed)
    mi_attr_noexcept;
mi_decl_export void mi_theap_guarded_set_size_bound(mi_theap_t* theap, size_t min, size_t max) mi_attr_noexcept;

/// The name given at creation, "" if none, "main" for the main heap.
mi_decl_nodiscard mi_decl_export const char* mi_heap_name(const mi_heap_t* heap) mi_attr_noexcept;

// ---------------------------------------------------------------------------------------------------
// 2.x: what takes an arena by its number. mimalloc.h has the others.
// ---------------------------------------------------------------------------------------------------
#ifdef MI_API_V2
static inline mi_heap_t* mi_v2_heap_new_in_arena(mi_arena_id_t arena) mi_attr_noexcept {
  return mi_heap_new_in_arena(_mi_arena_id_of_index(arena));
}
static inline mi_heap_t* mi_v2_heap_new_ex(int heap_tag, bool allow_destroy, mi_arena_id_t arena) mi_attr_noexcept {
  return mi_heap_new_ex(heap_tag, allow_destroy, _mi_arena_id_of_index(arena));
}
#define mi_heap_new_in_arena mi_v2_heap_new_in_arena
#define mi_heap_new_ex mi_v2_heap_new_ex
#endif

#ifdef __cplusplus
}
#endif
#endif
