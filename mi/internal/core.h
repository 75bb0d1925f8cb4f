// The sharded core's functions for the layers above: pages, theaps, frees, threads. Each is described where it is
// defined (page.c, free.c, theap.c, thread.c).
#pragma once
#ifndef MI_INTERNAL_CORE_H
#define MI_INTERNAL_CORE_H

#include "mi/internal/arena.h"

// What the core calls of the layers above: filled in by mi/heap, so that the core knows nothing of it.
typedef struct mi_upcalls_s {
  void (*region_free)(mi_page_t* page, void* p);         // an object in a page that carries regions
  void (*policy_free)(void* p);                          // where a page with a policy is, or was once
  void (*policy_freed_twice)(mi_page_t* page, void* p);  // a block of one, by two threads at the same moment
  void (*thread_unwound)(mi_thread_t* thread);           // its stack is gone, with what called back from it
  void (*thread_exit)(mi_thread_t* thread);              // callbacks, before the thread's memory is handed over
  void (*thread_flush)(mi_thread_t* thread);             // what the thread keeps for itself goes back
  void (*thread_collect)(mi_thread_t* thread);           // a forced collect that another thread asked for
  void (*theap_gone)(mi_heap_t* heap);                   // a theap left the heap: drop its reference
  mi_page_t* (*reclaim)(mi_theap_t* theap, size_t bin);  // from heaps that were merged into the theap's
  void (*around_fork)(bool before);                      // in the process that forks
  void (*after_fork)(mi_thread_t* self);                 // in the child; `self` NULL: the thread has no record
#if MI_CHECKED
  bool (*check_free)(void* p);  // looks at a block before it is freed; false: it stays
#endif
  bool (*has_hold)(mi_heap_t* heap);        // must empty pages of the heap stay?
  mi_totals_t* (*totals)(mi_heap_t* heap);  // where to add what pages of the heap leave behind
  void (*process_start)(void);              // when the first thread's record is ready
  void (*process_end)(void);                // in the library's destructor
} mi_upcalls_t;
mi_hidden extern const mi_upcalls_t _mi_upcalls;

// Per-thread state of the fast paths.
// In an executable the linker knows the offset; a shared library loads it.
#if defined(__PIC__) && !defined(__PIE__)
mi_hidden extern _Thread_local mi_tls_t _mi_tls __attribute__((tls_model("initial-exec")));
#else
mi_hidden extern _Thread_local mi_tls_t _mi_tls __attribute__((tls_model("local-exec")));
#endif

mi_hidden extern const mi_page_t _mi_page_empty;    // no free blocks: what a direct table holds for "none"
mi_hidden extern const mi_theap_t _mi_theap_empty;  // of a thread without a record, of a young part
mi_hidden extern uint8_t _mi_fork_stamp;            // 1 in the first process, another one in each child; never 0
mi_hidden extern mi_heap_t _mi_heap_main;
mi_hidden extern mi_heap_t _mi_heap_internal;  // handles, regions, theaps: what no visitor shows

#define MI_THEAP_EMPTY ((mi_theap_t*)&_mi_theap_empty)
#define MI_PAGE_EMPTY ((mi_page_t*)&_mi_page_empty)

// Must memory of the heap stay what it is when no block is left in it (heap/hold.c)? To be asked before it goes.
mi_hidden bool _mi_heap_is_held(mi_heap_t* heap);
mi_hidden extern _Atomic(uint32_t) _mi_holds;  // of all heaps

// --- theaps and pages ---------------------------------------------------------------------------------------
mi_hidden void _mi_theap_init(mi_theap_t* theap, mi_heap_t* heap, mi_thread_t* thread);
// A block of a size class, of the calling thread's theap. NULL: no memory (nothing reported).
mi_hidden void* _mi_theap_alloc_class(mi_theap_t* theap, size_t bin, bool zero);
// A block with a page of its own, at (p + offset) % alignment == 0; alignment a power of two, 1 for none.
mi_hidden void* _mi_theap_alloc_solo(mi_theap_t* theap, size_t size, size_t alignment, size_t offset, bool zero);
// Any size, natural alignment.
static inline void* mi_theap_alloc(mi_theap_t* theap, size_t size, bool zero) {
  return (mi_likely(size <= MI_CLASS_SIZE_MAX) ? _mi_theap_alloc_class(theap, mi_bin_of(size), zero)
                                               : _mi_theap_alloc_solo(theap, size, 1, 0, zero));
}
// Housekeeping of one slow path: blocks of full pages that others freed, retired pages.
mi_hidden void _mi_theap_tidy(mi_theap_t* theap);
mi_hidden void _mi_theap_collect(mi_theap_t* theap, bool force);
// A small, bounded piece of a collect: a few pages of one class, another one each time.
mi_hidden void _mi_theap_collect_step(mi_theap_t* theap);
// Hands all pages over to the heap's abandoned lists. `wait`: for remote frees that are half done; without it the
// result is false, and pages remain, if there is one.
mi_hidden bool _mi_theap_abandon(mi_theap_t* theap, bool wait);
// Frees all pages with all their blocks. Nobody else may use them.
mi_hidden void _mi_theap_free_pages(mi_theap_t* theap);
// The same for a reset, but that up to `keep` bytes of pages stay, empty; `kept` is told their block sizes.
mi_hidden void _mi_theap_reset(mi_theap_t* theap, size_t keep, void (*kept)(mi_part_t* part, size_t size));

// Marks (page.c): from here on new pages are of the given depth, older ones serve no more / frees those of that depth
// and deeper / those that are deeper get that depth.
mi_hidden void _mi_theap_seal(mi_theap_t* theap, uint16_t depth);
mi_hidden void _mi_theap_rewind(mi_theap_t* theap, uint16_t depth);
mi_hidden void _mi_theap_unseal(mi_theap_t* theap, uint16_t depth);
mi_hidden bool _mi_abandoned_ready(mi_heap_t* heap);  // false: no memory
mi_hidden void _mi_abandoned_rewind(mi_heap_t* heap, uint16_t depth);
mi_hidden void _mi_abandoned_unseal(mi_heap_t* heap, uint16_t depth);
mi_hidden void _mi_frozen_pages_rewind(mi_heap_t* heap, uint16_t depth);
mi_hidden void _mi_frozen_pages_unseal(mi_heap_t* heap, uint16_t depth);

// Makes the only block of a page of its own so large, where it is (resize.c). False: it cannot be, nothing happened.
// `*zero`: what was added is known to be zero.
mi_hidden bool _mi_page_resize(mi_page_t* page, size_t size, bool* zero);
mi_hidden void _mi_page_retire(mi_page_t* page);
mi_hidden void _mi_page_collect(mi_page_t* page);
mi_hidden void _mi_page_mark_interior(mi_page_t* page);
mi_hidden void _mi_page_free_local(mi_page_t* page, mi_block_t* block);  // by the owner, slow cases included
mi_hidden void _mi_page_claimed(mi_page_t* page);
// Blocks of a page with a policy were freed: `used` says how many are left. By the owner.
mi_hidden void _mi_page_block_gone(mi_theap_t* theap, mi_page_t* page);
// The first page of a class that has a free block, of a theap with a policy. NULL: no memory.
mi_hidden mi_page_t* _mi_theap_bit_page(mi_theap_t* theap, size_t bin);
// In the child of a fork: of the pages of a theap that the calling thread has, what threads left that are gone.
mi_hidden void _mi_theap_settle(mi_theap_t* theap, bool pinned);
// In the child of a fork: calls `fn` for the heap's pages whose threads are gone, until it returns false.
mi_hidden bool _mi_frozen_pages_each(mi_heap_t* heap, bool (*fn)(mi_page_t* page, void* arg), void* arg);
// Frees them all, with their blocks. Nobody else may use the heap.
mi_hidden void _mi_frozen_pages_free(mi_heap_t* heap);
mi_hidden void _mi_page_pin(mi_page_t* page);
mi_hidden void _mi_page_unpin(mi_page_t* page);
// Gives back what is empty among so many of a closed heap's abandoned pages, others each time: of one that nobody takes
// pages from. By who holds it.
mi_hidden void _mi_abandoned_sweep_step(mi_heap_t* heap, size_t most);
// So many of those that were looked at can be taken again, since somebody does by now.
mi_hidden void _mi_abandoned_unsweep_step(mi_heap_t* heap, size_t most);
// The first page of a stack of abandoned pages, for a walk by who has the heap to itself.
mi_hidden mi_page_t* _mi_abandoned_first(mi_heap_t* heap, size_t bin);
mi_hidden void _mi_theap_drain_delayed(mi_theap_t* theap);
// A page with room from another heap's abandoned lists, made the theap's; NULL if none.
mi_hidden mi_page_t* _mi_theap_reclaim(mi_theap_t* theap, mi_heap_t* forwarder, size_t bin);

mi_hidden void _mi_kept_pages_purge(void);  // gives back the memory of empty pages of handles and extras
// Pops abandoned pages of a heap: frees the empty ones, and with `all` the others too (nobody else may use the heap
// then); without it gives them back. For collect and destroy.
mi_hidden void _mi_abandoned_sweep(mi_heap_t* heap, bool all);
// Moves abandoned pages that could not be listed with their heaps to the heaps' lists. False: there is no memory for
// those of `heap`.
mi_hidden bool _mi_orphans_settle(mi_heap_t* heap);
mi_hidden void _mi_orphans_after_fork(void);

// --- freeing -------------------------------------------------------------------------------------------------
mi_hidden void _mi_free_slow(void* p);
mi_hidden void _mi_free_other(void* p);  // the same for what mi_free_short (free.h) did not do
mi_hidden void _mi_block_free(mi_page_t* page, mi_block_t* block);                  // a resolved block, by any thread
static inline mi_block_t* mi_page_block_of(const mi_page_t* page, const void* p) {  // the block around p
  const size_t offset = (size_t)((const uint8_t*)p - page->start);
  return (mi_block_t*)(page->start + (offset - offset % page->block_size));
}
static inline size_t mi_page_block_index(const mi_page_t* page, const void* block) {
  return (size_t)((const uint8_t*)block - page->start) / page->block_size;
}
static inline bool mi_page_is_single(const mi_page_t* page) {
  return page->kind == MI_PAGE_SOLO || page->kind == MI_PAGE_HUGE;
}

// The class that serves for `bin` in a theap whose blocks all lie at multiples of 16, or in one of the secure build.
static inline size_t mi_theap_bin(const mi_theap_t* theap, size_t bin) {
  if (MI_SECURE && bin == 1 && theap->policy != 0) return 2;
  return (mi_unlikely(theap->even) && mi_bin_size(bin) % 16 != 0 ? bin + 1 : bin);
}

// Pops a block of a page whose free list is not empty.
static inline void* mi_page_pop(mi_page_t* page, mi_block_t* block) {
  page->free = block->next;
  page->used++;
  return block;
}

// --- a page turns: what its owner freed becomes what is handed out
static inline bool mi_page_has_own(const mi_page_t* page) { return page->free != NULL || page->local_free != NULL; }
// Has the first page of a class, without free blocks, or the one behind it such blocks? Not the empty page.
static inline bool mi_page_may_turn(const mi_page_t* page) {
  return page->local_free != NULL || (page->next != NULL && mi_page_has_own(page->next));
}
// Where it is so few, another page of the class may have more: turns are dear.
#define MI_FEW_BLOCKS 8
static inline bool mi_page_has_few(const mi_page_t* page) { return page->capacity - page->used < MI_FEW_BLOCKS; }
// Is there no more to it for a page without free blocks that may turn?
static inline bool mi_page_turns_at_once(const mi_page_t* page) {
  return MI_DEBUG < 2 && page->local_free != NULL && (!mi_page_has_few(page) || page->next == page) &&
         MI_LIST_COUNT(mi_load_relaxed(&page->thread_free)) == 0;
}
static inline uint32_t mi_page_turn(mi_page_t* page) {  // so many blocks
  page->free = page->local_free;
  page->local_free = NULL;
  page->free_zero = 0;
  const uint32_t count = page->capacity - (page->used - page->pinned);
  page->recycled += count;
  return count;
}
static inline void mi_page_is_dry_no_more(mi_theap_t* theap, mi_page_t* page) {
  theap->dry_pages -= page->dry;
  page->dry = 0;
}
// What is supplied to the program is counted when it comes to a free list (pages of blocks above MI_DIRECT_SIZE_MAX,
// whose unused room is not listed: with the first block), so that handing it out counts nothing.
static inline void mi_theap_supply(mi_theap_t* theap, const mi_page_t* page, size_t count) {
  theap->supplied_blocks += count;
  theap->supplied_bytes += count * page->block_size;
}
// Turns the first page of a class, or makes the next one the first. The first page then has free blocks; NULL: it takes
// a search. The direct table leads to `page`, which may turn and has no free block.
mi_hidden mi_page_t* _mi_theap_turn(mi_theap_t* theap, mi_page_t* page);

// Changed by who makes or ends the heap, and by a visitor; read by any thread.
static inline uint8_t mi_heap_flags(const mi_heap_t* heap) { return mi_load_relaxed(&heap->flags); }
static inline void mi_heap_set_flags(mi_heap_t* heap, unsigned flags) {
  mi_store_relaxed(&heap->flags, (uint8_t)flags);
}

// --- blocks of the internal heap: handles, regions, theaps ---------------------------------------------------
// mi_bin_of(512): pages of this class in the internal heap hold handles and nothing else.
#define MI_BIN_HANDLE (MI_BIN_EVEN + 16)
#define MI_BIN_EXTRA (MI_BIN_EVEN + 15)  // likewise their extras (parts.h), of up to 480 bytes
mi_hidden void* _mi_internal_alloc(mi_thread_t* thread, size_t size);
mi_hidden void* _mi_internal_zalloc(mi_thread_t* thread, size_t size);
// The same for a heap whose everything lies in one arena: a page of its own there. `arena` NULL: as zalloc.
mi_hidden void* _mi_internal_alloc_in(mi_thread_t* thread, mi_arena_t* arena, size_t size);
static inline mi_arena_t* _mi_heap_arena(const mi_heap_t* heap) {  // NULL: of no arena in particular
  size_t index;
  const uint8_t flags = mi_heap_flags(heap);
  return (mi_likely((flags & MI_HEAP_IN_ARENA) == 0) ? NULL : _mi_arena_of((const uint8_t*)heap + 1, &index));
}
mi_hidden void _mi_internal_free(void* block);

// A heap with a policy of its own: hardened, guarded, quarantined, wiped, zeroed, isolated or secret.
static inline bool mi_heap_is_generic(const mi_heap_t* heap) { return (mi_heap_flags(heap) & MI_HEAP_POLICY) != 0; }
// The same, or any in the secure build.
static inline bool mi_heap_has_policy(const mi_heap_t* heap) { return MI_SECURE != 0 || mi_heap_is_generic(heap); }
// Do objects of the heap lie in regions? Not if everything of it lies in an arena, nor with a policy.
static inline bool mi_heap_has_regions(const mi_heap_t* heap) {
  return MI_SECURE == 0 && (mi_heap_flags(heap) & (MI_HEAP_POLICY | MI_HEAP_IN_ARENA)) == 0;
}

// --- threads -------------------------------------------------------------------------------------------------
mi_hidden mi_thread_t* _mi_thread_make(void);  // NULL: no memory
static inline mi_thread_t* mi_thread(void) {   // the calling thread's record, made if need be; NULL: no memory
  mi_thread_t* const thread = _mi_tls.thread;
  return (mi_likely(thread != NULL) ? thread : _mi_thread_make());
}
// Around a callback that is of a heap's: no other is started meanwhile, and the heap may not end in it. `thread` NULL:
// there was no memory for a record.
static inline void mi_callback_enter(mi_thread_t* thread, mi_callback_t* frame) {
  if (mi_unlikely(thread == NULL)) return;
  frame->outer = thread->callbacks;
  thread->callbacks = frame;
  thread->callback_heap = frame->heap;
  thread->callback_depth++;
}
static inline void mi_callback_leave(mi_thread_t* thread, const mi_callback_t* frame) {
  if (mi_unlikely(thread == NULL)) return;
  thread->callbacks = frame->outer;
  thread->callback_heap = (frame->outer == NULL ? NULL : frame->outer->heap);
  thread->callback_depth--;
}
mi_hidden void _mi_thread_exit(mi_thread_t* thread);
mi_hidden void _mi_threads_reap(void);                       // ends records of threads that ended without telling
mi_hidden void _mi_threads_want_collect(mi_thread_t* self);  // posts a forced collect to all other threads
mi_hidden mi_thread_t* _mi_thread_of(mi_tid_t id);           // the record that `id` names
mi_hidden void _mi_threads_each_free(void (*fn)(mi_thread_t*));
mi_hidden void _mi_threads_each(void (*fn)(mi_thread_t*, void*), void* arg);
// Does the thread with this id still run?
static inline bool mi_tid_is_alive(mi_tid_t id) {
  return id != MI_TID_NONE && mi_load_acquire(&_mi_thread_of(id)->id) == id;
}

// Is this process the child of a fork, and the thread with this id one of its parent's, but not the one that forked?
static inline bool mi_tid_is_of_parent(mi_tid_t id) {
  if (mi_likely(_mi_fork_stamp == 1) || id == MI_TID_NONE) return false;
  const mi_thread_t* const thread = _mi_thread_of(id);
  return thread != NULL && MI_TID_GENERATION(id) <= thread->gone;
}
// And did it run at the fork? Such an id counts as alive.
static inline bool mi_tid_is_gone(mi_tid_t id) { return mi_tid_is_of_parent(id) && mi_tid_is_alive(id); }
static inline bool mi_thread_is_gone(mi_thread_t* thread) { return mi_tid_is_of_parent(mi_load_relaxed(&thread->id)); }
static inline mi_tid_t mi_part_owner(const mi_part_t* part) {
  return mi_load_relaxed((_Atomic(mi_tid_t)*)&part->region.owner) & ~MI_OWNER_FLAGS;
}
// A page that nobody has names no owner; so the owner of a page that has one stopped in the fork, or ended before it
// while a visitor had its theap, who stopped then (theap.c).
static inline bool mi_page_is_frozen(const mi_page_t* page) {
  return mi_tid_is_of_parent(mi_load_relaxed((_Atomic(mi_tid_t)*)&page->owner) & ~MI_OWNER_FLAGS);
}

// --- slots: the life of a theap (theap.c) -----------------------------------------------------------------------
mi_hidden mi_slot_t* _mi_slot_open(mi_thread_t* thread, mi_theap_t* theap);  // LIVE; NULL: no memory
mi_hidden bool _mi_slot_take(mi_part_t* part, mi_slot_t** taken);
mi_hidden bool _mi_slot_take_for_reset(mi_part_t* part, mi_slot_t** taken);
mi_hidden void _mi_slot_give_back(mi_slot_t* slot);
mi_hidden void _mi_slot_post(mi_part_t* part, uint64_t want);
mi_hidden void _mi_slot_free(mi_slot_t* slot);
mi_hidden bool _mi_part_has_frozen_theap(const mi_part_t* part);
mi_hidden bool _mi_slot_forget_frozen(mi_part_t* part);
mi_hidden int64_t _mi_slots_settle(mi_thread_t* self);
mi_hidden bool _mi_slot_enter(mi_slot_t* slot);  // LIVE -> BUSY
mi_hidden mi_slot_t* _mi_slot_enter_part(mi_part_t* part, bool* taken);
mi_hidden void _mi_slot_leave(mi_slot_t* slot, bool exiting, bool wait);
mi_hidden void _mi_slot_end_taken(mi_slot_t* slot);
mi_hidden void _mi_slot_set_default(mi_theap_t* theap);
mi_hidden void _mi_slot_clear_default(mi_theap_t* theap);
mi_hidden void _mi_thread_read_mail(mi_thread_t* thread);
mi_hidden void _mi_thread_for_each_slot(mi_thread_t* thread, void (*fn)(mi_slot_t*, bool), bool arg);
mi_hidden void _mi_thread_exit_slots(mi_thread_t* thread);
mi_hidden void _mi_theap_end(mi_theap_t* theap);

#endif
