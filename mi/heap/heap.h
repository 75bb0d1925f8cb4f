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
/// arena gives a reference that every function refuses. Any thread. Exported for the inline functions of MI_API_V2,
/// which are a part of such programs.
mi_decl_nodiscard mi_decl_export mi_arena_ref_t _mi_arena_id_of_index(int number) mi_attr_noexcept;
mi_decl_nodiscard mi_decl_export int _mi_arena_index_of_id(mi_arena_ref_t arena) mi_attr_noexcept;

// ---------------------------------------------------------------------------------------------------
// Making and ending heaps
// ---------------------------------------------------------------------------------------------------

/// At the limit: `need` more bytes are asked for than `heap` may hold. Free something or raise the limit and return
/// true to have it tried again; false declines. At the soft limit: `heap` holds `need` bytes more than that; the result
/// does not matter. Runs on the thread that allocates, in `heap` or a descendant, with nothing held; it may allocate in
/// other heaps and free anywhere, but must not end or reset `heap` or the heap that is allocated in (refused, EINVAL
/// reported). Not called inside another callback.
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
  MI_HEAP_HARDENED = 2,          ///< every free and resize is checked; what is wrong ends the process (see above)
  MI_HEAP_GUARDED = 4,           ///< a sample of the blocks lies between inaccessible pages (mi_heap_guarded_...)
  MI_HEAP_QUARANTINE = 8,        ///< a freed block is not handed out again before 1,024 others were freed by its thread
                                 ///< (of an isolated heap: by any)
  MI_HEAP_WIPE = 16,      ///< a block is zeroed, to its last byte, before a free, destroy, reset or rewind returns
  MI_HEAP_ZERO = 32,      ///< every block is zero when it is allocated, and where it grows, to its last byte
  MI_HEAP_ISOLATED = 64,  ///< memory of its own between guards, in quarantine after its end; may be sealed
  MI_HEAP_SECRET = 128,   ///< isolated, and kept out of swap, core files, children and freed memory
} mi_heap_flag_t;

/// What protects a heap: bits of a set, for `required` of a configuration and from mi_heap_protections.
typedef enum mi_protected_e {
  MI_PROTECTED_SEGMENTS = 1,      ///< no other heap's blocks lie in its segments of 4 MiB while it lives
  MI_PROTECTED_GUARDS = 2,        ///< inaccessible memory before and behind each of its segments
  MI_PROTECTED_PAGE_GUARDS = 4,   ///< and behind every page; memory that holds no page is inaccessible too
  MI_PROTECTED_QUARANTINE = 8,    ///< after its end its address space is inaccessible, and not used again for long
  MI_PROTECTED_SEALING = 16,      ///< mi_heap_protect works
  MI_PROTECTED_WIPED = 32,        ///< blocks are overwritten before the call that frees them returns
  MI_PROTECTED_SWAP = 64,         ///< its memory is locked: never written to swap
  MI_PROTECTED_CORE_FILE = 128,   ///< nor to core files
  MI_PROTECTED_FORK = 256,        ///< a child of fork finds nothing of it
  MI_PROTECTED_KERNEL_MAP = 512,  ///< not in the kernel's own map: nothing but the process reads it (memfd_secret)
  MI_PROTECTED_ALL = 1023,        ///< every bit that there is
} mi_protected_t;
typedef uint32_t mi_protections_t;

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
  uint32_t required;                         ///< MI_PROTECTED_... without which it is not made
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

/// Like mi_heap_delete, but the blocks go to `into` (NULL: the main heap). Merging a heap into itself, or in a callback
/// into a descendant of it that is ending (or as mi_heap_set_parent refuses it), is refused (EINVAL reported); without
/// memory for what `into` takes over (ENOMEM reported) the heap stays as it was. `into` may be in use by other threads;
/// it may not end (by destroy, delete or merge) during the call.
mi_decl_export void mi_heap_merge(mi_heap_t* heap, mi_heap_t* into) mi_attr_noexcept;

/// A function to be called before a heap's memory goes.
typedef void mi_heap_destroy_fun(void* arg);

/// Has `fun(arg)` called, once, before the heap's memory goes: in mi_heap_destroy and mi_heap_reset, after the heap's
/// children ended, and in mi_heap_delete; the last registered first, on the thread that ends the heap, with nothing
/// held. mi_heap_merge takes it along to the other heap (where it counts as registered then), but a merge into the main
/// heap, which never ends, calls it. It may free blocks of the heap and allocate anywhere (what it allocates in the
/// heap goes with it), end other heaps, and register more, which is called after it; it must not end, reset or move
/// `heap` (EINVAL reported), nor in a reset or rewind what is above it, nor leave by longjmp or an exception. Returns
/// false with errno = ENOMEM without memory, and reports EINVAL for a `fun` or `heap` that is NULL and for the main
/// heap, EFAULT for a heap that ended. Any thread.
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
/// another sub-process, `heap` itself or one of its descendants, or a callback asks for this and `heap` is ending, or a
/// callback of `heap` or a descendant is running and `parent` may be ending.
/// False with errno = ENOMEM without memory, EFAULT reported for a `heap` that ended. Any thread.
mi_decl_export bool mi_heap_set_parent(mi_heap_t* heap, mi_heap_t* parent) mi_attr_noexcept;

// Isolated and secret heaps (MI_HEAP_ISOLATED, MI_HEAP_SECRET; the flags that go with them are MI_HEAP_WIPE, _ZERO,
// _HARDENED, _QUARANTINE and _REPORT_SURVIVORS, _GUARDED is refused). Their blocks lie in segments of their own, and
// nothing of the library's lies between them, but for padding where they are hardened: then what was asked for is known
// to the byte, a byte written behind it is found, and neighbours come in no order. Freeing what is no live block of
// theirs, or asking for its size, using the heap or a block of it after its end: all of that ends the program with a
// message that names the heap. What keeps the memory of a heap that ended from being used again is a quarantine of the
// last 1,024 such heaps and of 64 GiB of their address space at most, the oldest going first. A block above 4 MiB that
// is freed keeps its address space for the heap. Such a heap is not deleted or merged, and none is merged into it, and
// it has no marks (EINVAL reported).
//
// Secrets: memory comes from memfd_secret where the kernel has that, else it is locked (mlock). A block is overwritten
// with zeros before the call that frees it, or makes it smaller, returns; a resize that moves it overwrites where it
// was; so do reset and destroy with all that is alive. mi_heap_realloc into another heap takes a copy there. The system
// limits locked memory (RLIMIT_MEMLOCK): at the limit allocation fails (ENOMEM). In a child of fork the heap is there,
// but access to its blocks faults and allocation is refused (EPERM); the child may free its blocks, destroy it, reset
// it and then use it, and make its own. What none of this stops: registers and copies that the program makes on its
// stack or elsewhere, a debugger or root that runs code in the process, and (without memfd_secret) root, the kernel,
// and a machine that hibernates.

/// The protections that the heap really has, as the system granted them when it was made: MI_PROTECTED_..., or-ed. 0
/// for a plain heap, and for bad input (EINVAL for NULL, EFAULT for a heap that ended, reported). Any thread.
mi_decl_nodiscard mi_decl_export mi_protections_t mi_heap_protections(mi_heap_t* heap) mi_attr_noexcept;
/// The name of a protection, as it stands in messages; "" for what is not exactly one.
mi_decl_nodiscard mi_decl_export const char* mi_protection_name(mi_protections_t protection) mi_attr_noexcept;

/// What may be done with an isolated heap's blocks.
typedef enum mi_protection_e {
  MI_PROTECT_NONE = 0,        ///< access to them faults
  MI_PROTECT_READ = 1,        ///< they may be read
  MI_PROTECT_READ_WRITE = 2,  ///< they may be read, written, allocated and freed
} mi_protection_t;

/// Seals an isolated or secret heap, and opens it again. A heap is open once when it is made. MI_PROTECT_READ_WRITE
/// opens it once more; MI_PROTECT_READ and MI_PROTECT_NONE take that back, and the call after which it is open no more
/// seals it, and says how. So who opens it, and seals it when done, disturbs nobody who does the same at the time, on
/// any thread. While it is sealed, MI_PROTECT_READ and MI_PROTECT_NONE change from one to the other; allocation in it,
/// and free, resize and reset, are refused (EPERM reported, blocks stay as they are); destroy works. The call that
/// seals may not overlap with an allocation or free by a thread that has not opened it. False: EINVAL reported for a
/// `heap` that is NULL or not isolated and for a mode that is none, EFAULT for one that ended; ENOMEM, and nothing
/// changed, if the system refused. Any thread.
mi_decl_export bool mi_heap_protect(mi_heap_t* heap, mi_protection_t mode) mi_attr_noexcept;

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
/// threads that ended. With `force`, also warm memory, and what is in quarantine. The calling thread's part (of an
/// isolated heap, all) is done at once, other running threads' parts at their next slow path. Any thread. NULL is
/// ignored.
mi_decl_export void mi_heap_collect(mi_heap_t* heap, bool force) mi_attr_noexcept;

// Holding memory, for readers that a runtime does not count (epochs, QSBR). While a heap is held, memory of blocks that
// are freed in it stays what it is, so that a thread that still has a pointer to a freed block may look:
//  * it stays readable, and blocks of the same size class of the same heap are all that it is used for again. It is not
//    given back to the system, nor to other heaps or sizes; what has no live block goes when the last hold ends: at
//    once if it is the calling thread's or that of threads which ended, else at a slow path of the thread that has it;
//  * freeing a block changes its first 8 bytes (a block in a page) or nothing of it (an object of a young heap, until
//    the hold ends; a block larger than 64 KiB that the thread frees which allocated it). All of it changes when it is
//    handed out again: a reader checks what it read against something that the program changes first, as a version;
//  * checked builds (MI_PADDING and so on) also write behind the block, and tools call the reader's access an error.
// Holds nest. A hold counts for what is freed after it; who takes one and only then reads a pointer is safe from who
// takes the pointer away and then frees, without more synchronisation. Holds delay only what holds no live block, and
// cost nothing where nothing becomes empty. An allocation that finds no memory fails although memory is held.
// mi_heap_destroy, mi_heap_reset and mi_heap_rewind free the memory whatever holds there are (a reset keeps the count);
// the holds end with mi_heap_destroy, _delete and _merge. What is merged into a heap that is held is held like its own.
// In the child of a fork, holds that other threads took count on: the child may end them.

/// Takes a hold of the heap, any open heap, the main heap too. False with errno = ENOMEM without memory, EINVAL
/// reported for NULL, EFAULT for a heap that ended; not while another thread ends it. Any thread; any other may end the
/// hold.
mi_decl_export bool mi_heap_hold_pages(mi_heap_t* heap) mi_attr_noexcept;
/// Ends one hold. False, with EINVAL reported, if the heap is not held; else as above. Any thread. With the last hold
/// this is a mi_heap_collect(heap, false), but without callbacks, and only if anything was kept; so not in a visitor of
/// the heap.
mi_decl_export bool mi_heap_release_pages(mi_heap_t* heap) mi_attr_noexcept;

/// Registers `deferred_free` with `arg` as the heap's callback (NULL: none), in place of the one before; also of the
/// main heap. It is called
///  * with force false on a slow path of allocation in the heap, and in mi_heap_rewind, when the calling thread has
///    allocated there as much as the configuration says since its last call: deferred_cadence blocks or deferred_bytes
///    bytes, 64 KiB where neither is set. Slow paths come at least once per page of allocations, so that a small
///    cadence may be exceeded by as much. What is counted is allocations, never time: the same program on one thread
///    gets the same calls every time (in the secure build nearly so: blocks are made ready in random numbers);
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

// Limits. A heap holds the blocks that its pages have supplied so far, with their full sizes and whether they are live
// or were freed, until the page is empty and goes; and its regions in use (a young heap's memory, of 1 to 64 KiB each;
// of what its handle holds, the bytes that were handed out). What its children hold, and heaps that were merged into
// it, counts in it too; memory that is kept warm over a reset does not, so that a heap that was reset holds 0 bytes. An
// allocation that would bring a heap, or one above it, over its limit fails (NULL, errno = ENOMEM), but not before the
// heap's deferred_free was called with force and the calling thread gave back what it can of the heap, with another
// try, and on_limit was called, with another try each time that it returns true and there is any effect. After a
// failure as many bytes as `headroom` says are served above the limit, for the way of the error, until the heap has as
// much room below its limit again, or is empty. A heap may get over its limit where a child or a heap that is merged
// into it brings more with it, or where the limit is lowered: then what needs more memory fails until it is below;
// blocks that were supplied before are still served.

/// Sets the heap's limit in bytes (0: none) or soft limit (0: none). True, or false with EINVAL reported for NULL and
/// the main heap, EFAULT for a heap that ended, errno = ENOMEM without memory. Any thread at any time, also in
/// on_limit.
mi_decl_export bool mi_heap_set_limit(mi_heap_t* heap, size_t limit) mi_attr_noexcept;
mi_decl_export bool mi_heap_set_soft_limit(mi_heap_t* heap, size_t soft_limit) mi_attr_noexcept;
/// The limit; 0: none. 0 also with EINVAL reported for NULL, EFAULT for a heap that ended, as below.
mi_decl_nodiscard mi_decl_export size_t mi_heap_limit(mi_heap_t* heap) mi_attr_noexcept;
/// The bytes that the heap holds now, and the most that it held since it was made or last reset (of the main heap: the
/// most that a call of mi_heap_peak met). In constant time (for the main heap: that of a look at every thread), on any
/// thread; exact, but for what threads that are at work in the heap are just taking or giving back, a page each at
/// most.
mi_decl_nodiscard mi_decl_export size_t mi_heap_used(mi_heap_t* heap) mi_attr_noexcept;
mi_decl_nodiscard mi_decl_export size_t mi_heap_peak(mi_heap_t* heap) mi_attr_noexcept;

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
/// The address plus `offset` is a multiple of `alignment`; `offset` is taken modulo `alignment`.
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

/// The same question at half, of any block of the heap on any part of it: is less than half of the page's room in use
/// (of a region of a young heap: are most of its objects freed), and is it not where the next allocations of the size
/// come from? To be asked by the thread that the block's memory belongs to, or while no other thread uses the heap. A
/// collector that moves such blocks (allocates anew, copies, and frees the old one) empties their pages, which then go
/// back. False for what is no block of the heap, and for blocks with a page of their own, which moving would not help.
mi_decl_nodiscard mi_decl_export bool mi_heap_is_under_utilized(mi_heap_t* heap, const void* p) mi_attr_noexcept;

// For collectors. Where the world is stopped (every other thread stands still, outside of this library's functions),
// one thread may do what "no other thread uses the heap" asks for: mi_heap_visit_blocks shows all parts of a heap,
// those of running threads, of threads that ended, and of heaps that were merged into it; the visitor may free blocks,
// which is a sweep; and mi_heap_check may be called. Threads stop at safepoints: one that a signal stopped may be in
// the middle of an allocation. Blocks that a sweep frees go to the threads that have their memory, and are used again
// at the next slow path of those. mi_heap_visit_all finds the heaps; heap_tag (of mi_heap_new_ex; in mi_heap_area_t of
// MI_API_V2) tells a runtime's kinds of heaps apart.

// Guarded blocks. A guarded block lies between inaccessible OS pages, so that the program stops where it reads or
// writes past its end, or uses it after it was freed (as long as it is among the last MIMALLOC_GUARDED_QUARANTINE that
// were); on standard error stands then which block that was, and who allocated, freed and touched it. Such a block
// takes 8 KiB of memory and 64 KiB of address space at least. A heap that was made with MI_HEAP_GUARDED guards a sample
// of its blocks, one in MIMALLOC_GUARDED_SAMPLE_RATE, or in 4,000 where that is 0; in builds with MI_GUARDED, all heaps
// do. The functions below have no effect on other heaps. Any thread; NULL is ignored; without memory for the settings
// (ENOMEM is reported) things stay as they are.
/// From now on each allocation in the heap is guarded with a chance of one in `sample_rate` (0: none, 1: all). `seed`
/// says which: the same ones in every run in which the heap's allocations come in the same order; 0 draws one. For this
/// heap it replaces the options of the same name.
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
