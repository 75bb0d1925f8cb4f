// The heap layer's own functions: parts, regions, callbacks, merged heaps. Each is described where it is defined.
#pragma once
#ifndef MI_HEAP_PARTS_H
#define MI_HEAP_PARTS_H

#include "mi/heap/family.h"
#include "mi/heap/heap.h"
#include "mi/internal/account.h"
#include "mi/internal/core.h"
#include "mi/internal/options.h"
#include "mi/internal/track.h"

// A heap's own settings of which blocks are guarded (guarded.c). Written by any thread, each by itself.
typedef struct mi_guard_settings_s {
  _Atomic(size_t) rate;  // one in so many; 0: none
  _Atomic(size_t) min, max;
  _Atomic(uint64_t) seed;
  _Atomic(uint64_t) count;  // allocations within the bounds
  _Atomic(uint8_t) is_set;
} mi_guard_settings_t;

// What few heaps have, in a block away from the bump regions; part->config of the handle points to it.
typedef struct mi_subproc_s mi_subproc_t;
struct mi_deferred_s;
typedef struct mi_hold_s mi_hold_t;
typedef struct mi_heap_extra_s {
  mi_account_t account;  // what the heap holds (internal/account.c): first, so that the core finds it
  char name[64];
  mi_subproc_t* subproc;                    // NULL: the main one
  int tag;                                  // of mi_heap_new_ex
  uint8_t policy;                           // MI_HEAP_HARDENED to MI_HEAP_SECRET (policy.c); constant
  uint16_t numa;                            // of mi_heap_set_numa_affinity, plus 1
  bool even;                                // every block lies at a multiple of 16
  uint16_t unasked;                         // the first part's young_max, as it was made
  bool is_prepared;                         // for the next heap of the same `config` (prepared.c)
  mi_heap_config_t config;                  // if so
  size_t retain;                            // bytes that stay warm; 0: as much as is usual
  _Atomic(struct mi_name_s*) named;         // of its name (table.c); NULL: unnamed, or ended
  _Atomic(struct mi_deferred_s*) deferred;  // its deferred_free (deferred.c); NULL: never had one
  _Atomic(mi_hold_t*) hold;                 // that its memory stays (hold.c); NULL: it was never held
  mi_family_t family;
  mi_guard_settings_t guard;
} mi_heap_extra_t;

// Where the heap keeps it: settings may come to a heap that other threads use already.
static inline _Atomic(mi_heap_extra_t*)* mi_heap_extra_word(mi_heap_t* heap) {
  return (_Atomic(mi_heap_extra_t*)*)&heap->home.config;
}

// --- regions (nursery.c) ----------------------------------------------------------------------------------
mi_hidden void _mi_part_init(mi_part_t* part, mi_heap_t* heap, mi_tid_t owner, uint8_t shift);
mi_hidden void* _mi_young_malloc_slow(mi_part_t* part, size_t size);
mi_hidden void* _mi_young_alloc(mi_part_t* part, size_t size, size_t alignment, bool zero);
mi_hidden void _mi_region_free(mi_page_t* page, void* p);
mi_hidden size_t _mi_region_usable(const mi_page_t* page, const void* p);  // 0: no live object starts at p
mi_hidden bool _mi_region_resize(const mi_page_t* page, void* p, size_t newsize);
mi_hidden mi_region_t* _mi_region_of(const mi_page_t* page, const void* p);
mi_hidden bool _mi_region_is_empty(const mi_region_t* region);
mi_hidden void _mi_part_release_regions(mi_part_t* part);
mi_hidden void _mi_part_release_empty(mi_part_t* part);
mi_hidden void _mi_part_release_step(mi_part_t* part);
mi_hidden void _mi_part_reset(mi_part_t* part, size_t retain);  // 0: what is usual
mi_hidden void _mi_part_reset_home(mi_part_t* part);
mi_hidden void _mi_part_account(mi_part_t* part);  // of a heap that was given an account
mi_hidden void _mi_part_trim(mi_part_t* part);     // gives back spare regions, but for what stays warm
// Objects of this size have pages from now on.
mi_hidden void _mi_part_earned(mi_part_t* part, size_t size);
mi_hidden void _mi_part_settle(mi_part_t* part);
mi_hidden void _mi_returned_settle(mi_thread_t* self);
mi_hidden void _mi_lane_free(mi_part_t* lane);
mi_hidden void _mi_handle_cache_flush(mi_thread_t* thread);
mi_hidden void _mi_returned_flush(mi_thread_t* thread);
static inline bool mi_region_is_mine(const mi_region_t* region) {
  return (mi_load_relaxed((_Atomic(mi_tid_t)*)&region->owner) ^ _mi_tls.tid) <= MI_OWNER_FLAGS;
}
// The granules [first, end) are those that a walk of the region looks at.
mi_hidden size_t _mi_region_end(const mi_region_t* region);
static inline _Atomic(uint64_t)* mi_region_words(const mi_region_t* region, size_t granule) {
  return (_Atomic(uint64_t)*)((mi_region_t*)region + 1) + 3 * (granule / 64);
}

// A new object at the bump: its start bit, and the bump behind it.
static inline void* mi_part_bump(mi_part_t* part, uint8_t* at, size_t need) {
  mi_region_t* const region = part->current;
  const size_t offset = (size_t)(at - (uint8_t*)region);
  _Atomic(uint64_t)* const word = mi_region_words(region, offset / 16);
  mi_store_relaxed(&word[0], mi_load_relaxed(&word[0]) | (uint64_t)1 << (offset / 16 % 64));
  // Release: who reads a bump beyond an object sees the start of the next.
  mi_store_release(&part->bump, at + need);
  return at;
}

// For the home thread of a heap while no class has pages: the next object of the current region. The room is a multiple
// of 16, so that a size below it fits when rounded; one that fits exactly takes the slow path.
static inline void* mi_young_malloc(mi_part_t* part, size_t size) {
  uint8_t* const at = mi_load_relaxed(&part->bump);
  if (mi_unlikely(size >= (size_t)(part->limit - at))) return _mi_young_malloc_slow(part, size);
  return mi_part_bump(part, at, (size + (size == 0) + 15) & ~(size_t)15);
}

// A region of the part goes out of use: it is not charged any more.
mi_hidden void _mi_part_leave(mi_part_t* part, const mi_region_t* region);
// What the heap's first part holds is not all any more that counts against a limit: it asks from now on.
mi_hidden void _mi_part_ask(mi_heap_t* heap);
// Nothing is handed out of the embedded region, which is not charged.
mi_hidden void _mi_part_shut(mi_part_t* part);

// For a heap in an arena: nothing is allocated in regions, every size has earned its pages.
mi_hidden void _mi_part_close_young(mi_part_t* part);

// A handle with an empty first part of the calling thread, but without an id; recycled if possible.
mi_hidden mi_heap_t* _mi_handle_alloc(mi_thread_t* thread);
mi_hidden void _mi_handle_free(mi_thread_t* thread, mi_heap_t* heap);
// The next handle that the thread takes is one of a heap of this name, if it keeps one.
mi_hidden void _mi_handle_prefer(mi_thread_t* thread, const void* name);
// The thread keeps at least so many bytes of regions for heaps to come, within bounds, until a collect.
mi_hidden void _mi_handle_retain(mi_thread_t* thread, size_t bytes);
// What the thread keeps and has not used for a while goes home.
mi_hidden void _mi_handle_idle_step(mi_thread_t* thread);

// --- parts (part.c) ------------------------------------------------------------------------------------------
// The calling thread's part of an open heap, adopted or made if need be. NULL: no memory, or not an open heap
// (reported).
mi_hidden mi_part_t* _mi_part_of(mi_thread_t* thread, mi_heap_t* heap);
// The part's theap, made if need be; NULL: no memory. The calling thread owns the part.
mi_hidden mi_theap_t* _mi_part_theap(mi_thread_t* thread, mi_part_t* part);
// Calls `fn` for the heap's first part and every lane.
#define MI_FOR_EACH_PART(heap, part)                  \
  for (mi_part_t* part = &(heap)->home; part != NULL; \
       part = (part == &(heap)->home ? mi_load_acquire(&(heap)->parts) : mi_load_acquire(&part->next)))

static inline mi_heap_t* mi_heap_live_end(mi_heap_t* heap) {
  for (;;) {
    mi_heap_t* const into = mi_load_acquire(&heap->into);
    if (into == NULL) return heap;
    heap = into;
  }
}

// --- policies (policy.c) -----------------------------------------------------------------------------------------
// What is asked for: of `theap`, or if that is NULL of `heap`. `alignment` 0 or 1: natural.
typedef struct mi_request_s {
  mi_theap_t* theap;
  mi_heap_t* heap;
  size_t size;
  size_t alignment;
  size_t offset;
  bool zero;
  const void* frame;  // of the function whose caller asks, for the trace of a guarded block; NULL: not known
} mi_request_t;

// May pages of a closed heap serve a theap of its target? Only if both have the same policy, and nothing keeps the two
// apart.
mi_hidden bool _mi_policy_may_reclaim(const mi_theap_t* theap, const mi_heap_t* forwarder);
// Gives a heap that nobody else knows yet a policy; its extras are there.
mi_hidden void _mi_policy_begin(mi_heap_t* heap, uint32_t policy);
// The generic entry of every allocation in a heap with a policy. `part` NULL: the calling thread's is looked for.
mi_hidden void* _mi_policy_alloc(mi_heap_t* heap, mi_part_t* part, const mi_request_t* request);
// What a theap with a policy serves; NULL: no memory (alloc.c collects, and asks again).
mi_hidden void* _mi_policy_serve(mi_theap_t* theap, const mi_request_t* request);
// The same, from the first page of its class alone, unless a whole slow path is due; natural alignment, at most half of
// the largest class.
mi_hidden void* _mi_policy_serve_first(mi_theap_t* theap, const mi_request_t* request);
// Of blocks in pages with a policy. What is wrong with a pointer or a block is reported, and ends the process where the
// policy says so; else nothing happens.
mi_hidden void _mi_policy_free(void* p);
mi_hidden void _mi_policy_freed_twice(mi_page_t* page, void* p);
mi_hidden size_t _mi_policy_size(mi_page_t* page, const void* p);    // what was asked for; 0: no live block
mi_hidden size_t _mi_policy_usable(mi_page_t* page, const void* p);  // the same, and reports that; page may be NULL
mi_hidden void* _mi_policy_realloc(mi_heap_t* heap, mi_page_t* page, void* p, size_t newsize, size_t alignment,
                                   size_t offset, bool zero);
mi_hidden void* _mi_policy_expand(mi_page_t* page, void* p, size_t newsize);
// Reports a pointer that leads to no page if there was one with a policy.
mi_hidden void _mi_policy_check_gone(const char* function, const void* p);
mi_hidden void _mi_free_sized_slow(void* p, size_t size);  // what the fast path of mi_free_size leaves

// --- guarded blocks (guarded.c) ----------------------------------------------------------------------------------
// Of a theap whose heap was made with MI_HEAP_GUARDED. NULL: this allocation gets an ordinary block.
mi_hidden void* _mi_guarded_serve(mi_theap_t* theap, const mi_request_t* request);
#if MI_GUARDED
// The same for all heaps, when the countdown is at its end or the heap has settings of its own.
mi_hidden void* _mi_guarded_alloc(const mi_request_t* request);
mi_hidden void _mi_guarded_look(void);                  // the thread's default heap changed
mi_hidden void _mi_guarded_option(mi_option_t option);  // it was set
mi_hidden void _mi_guarded_step(const mi_thread_t* thread);
// Counts an allocation, once each. True: it may have to be guarded.
static inline bool mi_guarded_tick(void) { return mi_unlikely(--_mi_tls.guard_countdown == 0); }
static inline bool mi_guarded_tick_heap(mi_heap_t* heap) {
  return mi_guarded_tick() || mi_unlikely(mi_load_relaxed(mi_heap_extra_word(heap)) != NULL);
}
#else
static inline bool mi_guarded_tick(void) { return false; }
static inline bool mi_guarded_tick_heap(mi_heap_t* heap) {
  (void)heap;
  return false;
}
static inline void _mi_guarded_look(void) {}
static inline void _mi_guarded_option(mi_option_t option) { (void)option; }
#endif
// --- isolated and secret heaps (isolated.c) --------------------------------------------------------------------------
// What of the configuration such a heap cannot have; NULL: nothing.
mi_hidden const char* _mi_isolated_refusal(const mi_heap_config_t* config);
mi_hidden mi_heap_t* _mi_isolated_new(const mi_heap_config_t* config);  // NULL: reported
// Has the heap got these protections? If not, it is destroyed, and the error reported.
mi_hidden bool _mi_isolated_satisfies(mi_heap_t* heap, mi_protections_t required);
mi_hidden void* _mi_isolated_alloc(mi_thread_t* thread, mi_heap_t* heap, const mi_request_t* request);
mi_hidden void* _mi_isolated_realloc(mi_heap_t* heap, mi_page_t* page, void* p, size_t newsize, size_t alignment,
                                     size_t offset, bool zero);
mi_hidden bool _mi_isolated_may_reset(mi_heap_t* heap, const char* function);  // false: reported
// Is one of the two isolated, so that the blocks stay where they are? Reports it.
mi_hidden bool _mi_isolated_stays(mi_heap_t* heap, mi_heap_t* into, const char* function);

// --- allocation (alloc.c) --------------------------------------------------------------------------------------
// Housekeeping of one slow path: heartbeat, mail, callbacks, now and then a collect.
mi_hidden void _mi_slow_path(mi_thread_t* thread, mi_heap_t* heap);
// Where the first page of a class has run dry, and has free blocks after a look, only the cadence of a slow path is
// due: every eighth is a whole one at least, and each that has more to do.
mi_hidden extern _Atomic(uint8_t) _mi_deferred_armed;  // is there, or was there ever, a callback of any kind?
#define MI_SLOW_PATH_WHOLE_EVERY 8
static inline bool mi_slow_path_is_whole(const mi_thread_t* thread, const mi_theap_t* theap) {
  return (thread->generic_count + 1) % MI_SLOW_PATH_WHOLE_EVERY == 0 || mi_load_relaxed(&thread->mail) != 0 ||
         mi_load_relaxed(&_mi_deferred_armed) != 0 || mi_load_relaxed(&theap->delayed_free) != NULL;
}
static inline void mi_slow_path_passed(mi_thread_t* thread) {
  thread->heartbeat++;
  thread->generic_count++;
}
mi_hidden void* _mi_malloc_generic(size_t size, mi_theap_t* theap, bool zero);
mi_hidden void* _mi_part_malloc_paged(mi_part_t* part, size_t size, bool zero);
mi_hidden void* _mi_paged_alloc(mi_thread_t* thread, mi_heap_t* heap, mi_part_t* part, const mi_request_t* request);
// From a theap's pages, with the alignment that is asked for.
mi_hidden void* _mi_theap_serve(mi_theap_t* theap, const mi_request_t* request);
mi_hidden void* _mi_heap_alloc(mi_heap_t* heap, size_t size, bool zero);
mi_hidden void* _mi_heap_alloc_aligned(mi_heap_t* heap, size_t size, size_t alignment, size_t offset, bool zero);
// `heap` NULL: the heap of the block.
mi_hidden void* _mi_heap_realloc_any(mi_heap_t* heap, void* p, size_t newsize, size_t alignment, size_t offset,
                                     bool zero);
mi_hidden bool _mi_count_size(size_t count, size_t size, size_t* total);  // false: EOVERFLOW reported
mi_hidden mi_heap_t* _mi_default_heap(void);
mi_hidden size_t _mi_usable_size(const void* p);
// A block with a page of its own, at p and of `usable` bytes, grows or shrinks where it is. With `zero`, what lies
// beyond the smaller of both sizes is zero. False: it cannot, or is not of `heap` (NULL: of any); nothing happened.
mi_hidden bool _mi_single_resize(mi_heap_t* heap, mi_page_t* page, void* p, size_t newsize, size_t usable, bool zero);
mi_hidden size_t _mi_block_size_in(mi_page_t* page, const void* p);  // of a page that may be NULL
mi_hidden size_t _mi_block_size(const void* p);  // of what the core gave, with what checked builds keep behind it

// --- beginnings (heap.c, arena_heap.c) -----------------------------------------------------------------------------
mi_hidden uint64_t _mi_heap_next_id(mi_thread_t* thread);
// The heap's extras, made if need be. NULL: no memory. Any thread; not of the main heap.
mi_hidden mi_heap_extra_t* _mi_heap_extra_make(mi_heap_t* heap);
static inline const mi_heap_extra_t* mi_heap_extra(const mi_heap_t* heap) {
  return (heap == &_mi_heap_main ? NULL : mi_load_acquire(mi_heap_extra_word((mi_heap_t*)heap)));
}
static inline mi_family_t* mi_heap_family(mi_heap_t* heap) {  // NULL: it has none
  mi_heap_extra_t* const extra = (heap == &_mi_heap_main ? NULL : mi_load_acquire(mi_heap_extra_word(heap)));
  return (extra == NULL ? NULL : &extra->family);
}
// Heaps that the thread makes from now on are younger than those that other threads have made with a parent.
mi_hidden void _mi_heap_ids_renew(mi_thread_t* thread);
// A handle in an arena, in a block of at least `size` bytes, everything of it set up but the id. NULL: no memory in the
// arena.
mi_hidden mi_heap_t* _mi_arena_handle_make(mi_thread_t* thread, mi_arena_t* arena, size_t size);
mi_hidden bool _mi_page_is_arena_handle(const mi_page_t* page);
// Where the blocks of a heap went (NULL: nowhere), for who walks all pages: the heap may end at this moment. False: its
// handle is no handle any more.
mi_hidden bool _mi_heap_went_to(mi_heap_t* heap, mi_heap_t** into);

// --- sub-processes (subproc.c) --------------------------------------------------------------------------------------
struct mi_subproc_s {
  mi_heap_t* heap;  // its main heap
  _Atomic(size_t) threads;
};
mi_hidden mi_heap_t* _mi_subproc_heap(const mi_subproc_t* subproc);  // of NULL and of the main one: the main heap
mi_hidden mi_subproc_t* _mi_subproc_of(const mi_heap_t* heap);       // NULL: the main one
mi_hidden mi_heap_t* _mi_thread_main_heap(void);                     // of the calling thread's sub-process
mi_hidden void _mi_subproc_leave(mi_thread_t* thread);
mi_hidden bool _mi_subproc_is_main(mi_subproc_id_t id);
mi_hidden bool _mi_subproc_exists(mi_subproc_id_t id);

// --- ends (heap.c, merge.c) --------------------------------------------------------------------------------------
mi_hidden bool _mi_heap_check_usable(mi_heap_t* heap, const char* function);
// May the calling thread end the heap, or with `drops` its blocks? Reports why not.
mi_hidden bool _mi_heap_check_end(mi_heap_t* heap, bool drops, const char* function);
mi_hidden void _mi_heap_theap_gone(mi_heap_t* heap);
mi_hidden void _mi_heap_finish(mi_heap_t* heap);  // destroys an open heap; all that comes before has happened
mi_hidden void _mi_heap_close(mi_heap_t* heap, mi_heap_t* target);  // the same for delete
mi_hidden void _mi_heap_end(mi_heap_t* heap);                       // destroys a heap, open or closed
mi_hidden void _mi_heap_leave_default(mi_heap_t* heap);
mi_hidden mi_page_t* _mi_reclaim_merged(mi_theap_t* theap, size_t bin);
mi_hidden mi_heap_t* _mi_forwarder_pop(mi_heap_t* heap);
mi_hidden void _mi_forwarders_collect(mi_heap_t* heap);
mi_hidden void _mi_forwarders_step(mi_heap_t* heap);  // looks at one
mi_hidden void _mi_forwarders_rewind(mi_heap_t* heap, uint16_t depth, bool keep);
mi_hidden void _mi_merge_settle(void);
mi_hidden bool _mi_heap_free_remains(mi_heap_t* heap);

// --- counting (stats.c) -------------------------------------------------------------------------------------------
mi_hidden mi_totals_t* _mi_heap_totals(mi_heap_t* heap);  // where to add what the heap's pages and regions leave behind
mi_hidden void _mi_region_emptied(mi_region_t* region, mi_part_t* part);
mi_hidden void _mi_heap_count_regions(mi_heap_t* heap);
mi_hidden void _mi_heap_totals_settle(mi_heap_t* heap);
mi_hidden void _mi_heap_totals_move(mi_heap_t* heap);
mi_hidden void _mi_heap_totals_end(mi_heap_t* heap);
mi_hidden void _mi_handle_totals_free(mi_heap_t* heap);
mi_hidden uint8_t _mi_heap_flags_of_new(void);
mi_hidden uint64_t _mi_heaps_made(void);
mi_hidden void _mi_stats_at_exit(void);       // mi/stats.c
mi_hidden void _mi_reserve_at_start(void);    // mi/arenas.c
mi_hidden extern const char _mi_inline_side;  // mi/inline.c

// --- reports (report.c) ---------------------------------------------------------------------------------------------
mi_hidden void _mi_heap_report_survivors(mi_heap_t* heap);  // of a heap that is about to be destroyed
mi_hidden void _mi_survivors_at_exit(void);

// --- in the child of a fork (fork.c) --------------------------------------------------------------------------------
mi_hidden void _mi_heaps_around_fork(bool before);
mi_hidden void _mi_heaps_after_fork(mi_thread_t* self);
mi_hidden void _mi_heap_settle(mi_heap_t* heap);
mi_hidden void _mi_heap_settle_to_close(mi_heap_t* heap);
// Does a visit of the heap run? (One of a thread that did not survive a fork has another stamp.)
static inline bool mi_heap_is_visited(const mi_heap_t* heap) {
  return mi_load_relaxed((_Atomic(uint8_t)*)&heap->visiting) == _mi_fork_stamp;
}

// --- visits (visit.c) -----------------------------------------------------------------------------------------------
mi_hidden void _mi_visits_end(mi_thread_t* thread);

// --- callbacks (deferred.c) -----------------------------------------------------------------------------------------
mi_hidden extern _Atomic(const mi_pair_t*) _mi_deferred_pair;
#define MI_ARMED_PROCESS 1
#define MI_ARMED_HEAPS 2
// The process-wide callback and then the heap's; `force`: both with force, else the heap's as far as it is due.
mi_hidden void _mi_deferred_call(mi_thread_t* thread, mi_heap_t* heap, bool force);
// The heap's alone, with force. Nothing inside another callback.
mi_hidden void _mi_deferred_force(mi_thread_t* thread, mi_heap_t* heap);
// What the slow path of a heap does when `_mi_deferred_armed`.
mi_hidden void _mi_deferred_step(mi_thread_t* thread, mi_heap_t* heap);
// The calling thread has a part of the heap now.
mi_hidden void _mi_deferred_join(mi_thread_t* thread, mi_part_t* part);
mi_hidden void _mi_deferred_region_emptied(const mi_region_t* region, mi_part_t* part);
// Around a rewind of the part: what was allocated in it is counted / the bump is where it was before.
mi_hidden void _mi_deferred_count(mi_part_t* part);
mi_hidden void _mi_deferred_rewound(mi_part_t* part);
mi_hidden void _mi_deferred_thread_exit(mi_thread_t* thread);
// Before the heap ends (destroy, delete, merge): the last call, with force, and no call after it.
mi_hidden void _mi_deferred_end(mi_heap_t* heap);
// Around a reset: the call with force; from then until the other no thread that ends makes one.
mi_hidden void _mi_deferred_reset_begin(mi_heap_t* heap);
mi_hidden void _mi_deferred_reset_end(mi_heap_t* heap);
// The heap's extras go: without a call.
mi_hidden void _mi_deferred_drop(mi_heap_extra_t* extra);

// --- heaps of the same configuration (prepared.c) -----------------------------------------------------------------
// A heap was just made with this configuration.
mi_hidden void _mi_prepared_begin(mi_heap_t* heap, const mi_heap_config_t* config);
// A heap that was ended, as one made with this configuration; NULL: there is none.
mi_hidden mi_heap_t* _mi_prepared_take(mi_thread_t* thread, const mi_heap_config_t* config);
typedef enum mi_prepared_end_e {
  MI_PREPARED_NOT = 0,  // it is to be ended as all heaps are
  MI_PREPARED_CALLED,   // so is it, but that its deferred_free had its last call
  MI_PREPARED_KEPT,     // it ended
} mi_prepared_end_t;
// The calling thread, at home in the heap, ends it.
mi_hidden mi_prepared_end_t _mi_prepared_end(mi_thread_t* thread, mi_heap_t* heap);
mi_hidden void _mi_prepared_strip(mi_heap_t* heap);  // a kept handle is as any other
// Their handles (nursery.c). False: there is no room for it.
mi_hidden bool _mi_handle_keep_prepared(mi_thread_t* thread, mi_heap_t* heap);
mi_hidden void _mi_handle_take_prepared(mi_thread_t* thread, mi_heap_t* heap);

// --- limits (limit.c) -----------------------------------------------------------------------------------------------
// An allocation in the heap was refused (the thread's refusal says by whom). True: it is worth another try. False: it
// fails, which was reported.
typedef struct mi_limit_tries_s {
  uint64_t id;  // of the heap; 0 at the beginning
  size_t count;
  size_t need;  // of the last call of on_limit
} mi_limit_tries_t;
mi_hidden bool _mi_limit_try_again(mi_thread_t* thread, mi_heap_t* heap, size_t size, mi_limit_tries_t* tries);
// Soft limits that an allocation in the heap passed.
mi_hidden void _mi_limit_alarm(mi_thread_t* thread, mi_heap_t* heap);
// The heap was reset: its limits begin again.
mi_hidden void _mi_limit_reset(mi_heap_t* heap);
mi_hidden void _mi_limit_configure(mi_heap_extra_t* extra, const mi_heap_config_t* config);

// --- accounts of heaps that end or are closed (family.c, merge.c)
// ----------------------------------------------------- What the heap holds counts in `above` from now on (NULL: in
// none). With the families' lock.
mi_hidden void _mi_heap_account_move(mi_heap_t* heap, mi_account_t* above);
mi_hidden void _mi_heap_account_leave(mi_heap_t* heap);  // the heap ends: it counts nowhere any more

// --- collecting (collect.c) -----------------------------------------------------------------------------------------
mi_hidden void _mi_thread_collect(mi_thread_t* thread, bool force);
// Of one heap, what the calling thread can; other threads are asked to. No callback is called.
mi_hidden void _mi_heap_collect_parts(mi_heap_t* heap, bool force);

// --- holding (hold.c) -----------------------------------------------------------------------------------------------
mi_hidden bool _mi_heap_has_hold(mi_heap_t* heap);
mi_hidden void _mi_hold_end(mi_heap_t* heap);

#endif
