// Arenas and the slices of their segments: the layer below pages. See arena.c and segment.c.
#pragma once
#ifndef MI_INTERNAL_ARENA_H
#define MI_INTERNAL_ARENA_H

#include "mi/internal/os.h"
#include "mi/internal/types.h"

#define MI_ARENAS_MAX 160
mi_hidden extern _Atomic(mi_arena_t*) _mi_arenas[MI_ARENAS_MAX];

// The range test of mi_free: p lies in the first arena, behind the segments of its header, iff p - low < size. `low` is
// a multiple of a segment, so that the offset serves to find the slice as well. Both are written once, before the first
// pointer into the arena is handed out, and the whole range is readable at once (what is not in use reads as zero: an
// owner that nobody is). So they are plain words, which the compiler folds into the compare; who frees a wild pointer
// while the first arena is being made reads an aligned word that is zero or final.
typedef struct mi_span_s {
#if MI_WITH_TSAN
  _Atomic(uintptr_t) low;
  _Atomic(size_t) size;
#else
  uintptr_t low;
  size_t size;
#endif
} mi_span_t;
mi_hidden extern mi_span_t _mi_span;
// Nothing is, where every free is checked: each then takes the slow path, which needs no span.
static inline bool mi_span_offset(const void* p, size_t* offset) {
  *offset = (uintptr_t)p - _mi_span.low;
  return !MI_CHECKED && *offset < _mi_span.size;
}
static inline bool mi_span_contains(const void* p) {
  size_t offset;
  return mi_span_offset(p, &offset);
}
static inline void mi_span_publish(uintptr_t low, size_t size) {  // once
#if MI_WITH_TSAN
  mi_store_release(&_mi_span.low, low);
  mi_store_release(&_mi_span.size, size);
#else
  __atomic_store_n(&_mi_span.low, low, __ATOMIC_RELEASE);
  __atomic_store_n(&_mi_span.size, size, __ATOMIC_RELEASE);
#endif
}

static inline uint8_t* mi_arena_segment(const mi_arena_t* arena, size_t index) {
  return arena->start + (index << MI_SEGMENT_SHIFT);
}
static inline mi_segment_t* mi_segment_of(const void* p) {
  return (mi_segment_t*)(((uintptr_t)p - 1) & ~(uintptr_t)MI_SEGMENT_MASK);
}
static inline mi_page_t* mi_slot_of(const void* p) {
  return &mi_segment_of(p)->slot[((uintptr_t)p >> MI_SLICE_SHIFT) & (MI_SLICES_PER_SEGMENT - 1)];
}
// The same for p in the span, at `offset` from its start.
static inline mi_page_t* mi_slot_of_offset(const void* p, size_t offset) {
  return &mi_segment_of(p)->slot[(offset >> MI_SLICE_SHIFT) & (MI_SLICES_PER_SEGMENT - 1)];
}
static inline mi_segment_t* mi_page_segment(const mi_page_t* page) {
  return (mi_segment_t*)((uintptr_t)page & ~(uintptr_t)MI_SEGMENT_MASK);
}
static inline size_t mi_page_slice(const mi_page_t* page) { return (size_t)(page - mi_page_segment(page)->slot); }

// The arena that `p` (or p - 1) lies in, and the index of its segment; NULL if none.
mi_hidden mi_arena_t* _mi_arena_of(const void* p, size_t* segment_index);

// Gives all arenas but those in the program's own memory back to the system, with everything in them. Nobody may use
// the library afterwards.
mi_hidden void _mi_arenas_unmap(void);

// Takes `count` unused segments in a row, readable and writable, such that (address + phase) % alignment == 0
// (alignment 0: anywhere). From `only`, if that is not NULL; else from any arena that is not exclusive, and makes a new
// one if it must. `apart`: not from the span. False: no address space or memory.
mi_hidden bool _mi_segments_claim(size_t count, size_t alignment, size_t phase, mi_arena_t* only, bool apart,
                                  mi_arena_t** arena, size_t* index);
// Returns when no thread is making segments of the arena accessible that are by now.
mi_hidden void _mi_arena_await_growth(mi_arena_t* arena);
// Takes segments from `index` on, if all of them are unused. False: they are not, or there is no memory.
mi_hidden bool _mi_segments_claim_at(mi_arena_t* arena, size_t index, size_t count);
// Where in a run of segments a huge block begins, and for an alignment above a segment what the run is claimed with.
mi_hidden size_t _mi_huge_lead(size_t alignment, size_t offset, size_t* segment_alignment, size_t* phase);
// Gives them back; the caller has set kind to UNUSED already. Their dirty and backed words stay as they are.
mi_hidden void _mi_segments_release(mi_arena_t* arena, size_t index, size_t count);

// Slices that are wanted in a row of one segment.
typedef struct mi_want_s {
  size_t count;
  size_t expected;   // bytes of them that are likely to be used; 0: not known
  mi_arena_t* only;  // as above
  bool guard;        // the page is to end with one (_mi_slices_guard)
  bool bare;         // and has no other now: the system does not take them away
} mi_want_t;
// Takes them for a page and returns the slot of the first; `*zero` tells whether all are known to be zero. Tries the
// thread's current segment first. NULL: no memory.
mi_hidden mi_page_t* _mi_slices_claim(mi_thread_t* thread, const mi_want_t* want, bool* zero);
// Gives the slices of a page back, of which the first `used` bytes were used; its slots are reset first.
mi_hidden void _mi_slices_release(mi_page_t* page, size_t used);
// Makes the page `count` slices long: gives the last ones back, or takes those behind it if they are free. False: they
// are not. `*zero`: those that were taken are known to be zero. By who has the page.
mi_hidden bool _mi_slices_resize(mi_page_t* page, size_t count, bool* zero);
// Makes the last OS page of a page's slices a guard, or accessible as all its others; those of its other slices are
// always accessible. `dear`: see _mi_os_guard_dear. `*guard`: how many bytes at the end are guard. False: one of the
// others still is, the system refused.
mi_hidden bool _mi_slices_guard(mi_page_t* page, bool on, bool dear, size_t* guard);
// Ends all guards of segments that the caller has just taken. False: the system refused, and they were given back.
mi_hidden bool _mi_segments_unguard(mi_arena_t* arena, size_t index, size_t count);
mi_hidden extern _Atomic(bool) _mi_guards_used;  // is there a guard anywhere?
// The resolved page of a pointer into an arena, from any slot of the page; NULL if there is no page there.
mi_hidden mi_page_t* _mi_page_of_any(const void* p);

// Takes a run of segments for one huge block of `size` bytes at an address with (p + offset) % alignment == 0.
// The program's pointer will be `inside` (less than 8) bytes into the block.
mi_hidden mi_page_t* _mi_huge_claim(size_t size, size_t alignment, size_t offset, size_t inside, mi_arena_t* only,
                                    bool* zero);
mi_hidden void _mi_huge_release(mi_page_t* page);
// The same for a huge block that is to have `size` bytes, a multiple of OS pages; its size is for the caller to set.
mi_hidden bool _mi_huge_resize(mi_page_t* page, size_t size, bool* zero);

// In the child of a fork: makes the summaries and the counts true again, whatever threads that are gone were about to
// do with them; a span that was about to be published is; the thread's own share of the counts is in them.
mi_hidden void _mi_arenas_settle(void);
mi_hidden void _mi_span_settle(void);
mi_hidden void _mi_held_forget(mi_thread_t* thread);

// Gives memory of slices back that have been free for a while; `force`: of all free slices, and whole segments.
// Any thread, any time. Cheap when there is nothing due.
mi_hidden void _mi_purge(bool force);
// The same without force, but no more at a time than a call of the program's may wait for; and as much again, if the
// state is STOPPED.
mi_hidden void _mi_purge_step(void);
mi_hidden void _mi_purge_go_on(void);
typedef enum mi_tick_state_e {
  MI_TICK_DONE = 0,
  MI_TICK_STOPPED,  // something is left for the next slow path
  MI_TICK_BUSY,     // a thread is at it
} mi_tick_state_t;
mi_hidden extern _Atomic(uint8_t) _mi_tick_state;
mi_hidden void _mi_purge_spared(void);  // what ticks spared and is due goes back after all
// Slices that are free with memory behind them, and slices in use; threads keep back up to 15 of each.
mi_hidden void _mi_held_counts(int64_t* held, int64_t* used);

// Gives the memory of a stretch back that the caller holds, as the arena that it lies in allows.
mi_hidden mi_purged_t _mi_arena_purge(mi_arena_t* arena, void* start, size_t size, bool decommit);
mi_hidden bool _mi_memory_purge(void* start, size_t size);  // at once; finds the arena. True: it reads as zero

// What is known of memory that becomes an arena.
typedef struct mi_area_s {
  void* start;
  size_t size;
  bool is_committed, is_zero, is_pinned, is_exclusive, is_foreign, is_vault;
  int numa_node;
  mi_commit_memory_fun* commit;
  void* commit_arg;
} mi_area_t;
// Makes an arena of it, with its header inside. NULL: it holds no whole aligned segment, cannot be made accessible, or
// there are MI_ARENAS_MAX arenas already.
mi_hidden mi_arena_t* _mi_arena_add(const mi_area_t* area);
// Is it one of the arenas in the table that heaps may be put in? (A vault is for heaps with a space.)
mi_hidden bool _mi_arena_exists(const mi_arena_t* arena);

#endif
