// Spaces: memory of one heap's own, apart from all other heaps'. See space.c (blocks, pages, slices, segments) and
// vault.c (where the segments come from, and where they lie after the heap ended).
#pragma once
#ifndef MI_INTERNAL_SPACE_H
#define MI_INTERNAL_SPACE_H

#include "mi/internal/core.h"
#include "mi/internal/os_protect.h"

// A segment of a space. What the library knows of it lies behind its page slots, and an inaccessible stretch behind
// that: no block leads there.
//   [0, 8 KiB)        the slots
//   [8 KiB, 40 KiB)   512 bytes for each slice: those of slice 0 are this structure, those of a page's first slice say
//                     which of its blocks are taken: live, or in quarantine
//   [40 KiB, 64 KiB)  closed
//   then slices of pages, or one huge block; and at the end one whole segment that is closed
typedef struct mi_space_s mi_space_t;
typedef struct mi_space_segment_s {
  mi_space_t* space;  // this and what follows up to `next`: constant
  mi_arena_t* arena;
  size_t index;  // of the first segment in its arena
  size_t count;  // of segments, with the closed one
  struct mi_space_segment_s* next;
  _Atomic(uint64_t) free;   // slices that nobody holds. Claim: CAS. Release: fetch_or
  _Atomic(uint64_t) room;   // slices whose page may have a free block
  _Atomic(uint32_t) taken;  // of a run for huge blocks: somebody has it
} mi_space_segment_t;
#define MI_SPACE_HEAD ((size_t)40 * MI_KiB)
#define MI_SPACE_BITS 512  // bytes for each slice

static inline mi_space_segment_t* mi_space_segment_of(const mi_page_t* page) {
  return (mi_space_segment_t*)((uint8_t*)mi_page_segment(page) + sizeof(mi_segment_t));
}
static inline _Atomic(uint64_t)* mi_space_bits(const mi_page_t* page) {
  return (_Atomic(uint64_t)*)((uint8_t*)mi_page_segment(page) + sizeof(mi_segment_t) +
                              mi_page_slice(page) * MI_SPACE_BITS);
}

// A page of a space (kind MI_PAGE_SPACE) has no lists and no owner. Its word `thread_free` is
//   taken blocks << 32 | blocks that fit << 16 | class << 8 | 1, or 0 while there is no page.
#define MI_SPACE_OPEN ((uint64_t)1)
#define MI_SPACE_ONE ((uint64_t)1 << 32)
static inline _Atomic(uint64_t)* mi_space_state(const mi_page_t* page) {
  return (_Atomic(uint64_t)*)&page->thread_free;
}
static inline uint32_t mi_space_taken(uint64_t state) { return (uint32_t)(state >> 32); }
static inline uint32_t mi_space_fit(uint64_t state) { return (uint32_t)(state >> 16) & 0xFFFF; }
static inline size_t mi_space_bin(uint64_t state) { return (state >> 8) & 0xFF; }
_Static_assert(sizeof(mi_thread_free_t) == sizeof(uint64_t), "a page's state is its word thread_free");

// The space itself lies behind its heap's handle, in the same page; and behind it the ring, if there is one.
#define MI_SPACE_OFFSET ((size_t)2048)
struct mi_space_s {
  mi_heap_t* heap;
  uint64_t id;    // of the heap
  char name[64];  // of the heap
  uint8_t policy;
  bool is_secret, wipes, has_guards;      // constant; guards: between pages as well
  mi_secret_probe_t secret;               // how secrets are kept
  uint32_t protections;                   // MI_PROTECTED_...
  _Atomic(mi_space_segment_t*) segments;  // push-only while the heap lives, like `huge`
  _Atomic(mi_space_segment_t*) huge;
  _Atomic(mi_space_segment_t*) cursor;  // the segment where the last search ended
  _Atomic(int64_t) idle;                // pages without live blocks
  _Atomic(uint32_t) sealed;             // 0: blocks may be used; else 1 + mi_access_t
  _Atomic(uint32_t) lock;               // of who has the whole: a change of access, a reset, the end, a collect of all
  uint32_t opened;                      // how often, less how often sealed
  _Atomic(uint8_t) stamp;               // _mi_fork_stamp of the process that may use what is in it
  mi_space_t* next;                     // of all that live, or of those in quarantine (vault.c)
  mi_space_t* prev;
  size_t buried;                              // segments in quarantine
  _Atomic(void*)* withheld;                   // the ring; NULL: blocks do not go into quarantine. Constant
  _Atomic(uint32_t) withheld_next;            // number of the next block that goes there
  _Atomic(mi_page_t*) current[MI_BIN_COUNT];  // by class: the page that served last
};
_Static_assert(MI_SPACE_OFFSET + sizeof(mi_space_t) <= MI_OS_PAGE, "a handle with its space is one OS page");

static inline mi_space_t* mi_heap_space(const mi_heap_t* heap) {  // NULL: an ordinary heap
  const uint8_t flags = mi_heap_flags(heap);
  return ((flags & MI_HEAP_IN_SPACE) == 0 ? NULL : (mi_space_t*)((uint8_t*)heap + MI_SPACE_OFFSET));
}
// Secrets that the parent of a forked process has: there is nothing of them here.
static inline bool mi_space_is_inherited(const mi_space_t* space) {
  return space->is_secret && mi_load_relaxed((_Atomic(uint8_t)*)&space->stamp) != _mi_fork_stamp;
}

// --- blocks (space.c) ----------------------------------------------------------------------------------------------
// A block at (p + offset) % alignment == 0; alignment a power of two, 0 or 1 for none. NULL: no memory, nothing
// reported.
mi_hidden void* _mi_space_alloc(mi_space_t* space, size_t size, size_t alignment, size_t offset, bool zero);
// A misuse ends the program.
mi_hidden void _mi_space_free(mi_page_t* page, void* p);
// What may be used of a live block: in a hardened heap what was asked for, to the byte.
mi_hidden size_t _mi_space_block_size(mi_page_t* page, const void* p, const char* function);
// The block becomes one of `size` bytes where it is: what it loses is wiped, if the heap wipes, and with `zero` what it
// gains is zero. False: it does not fit, or `may_waste` is false and half of it would be unused.
mi_hidden bool _mi_space_resize(mi_page_t* page, void* p, size_t size, bool zero, bool may_waste, const char* function);
// Why blocks may not be made, freed or moved just now; NULL: they may.
mi_hidden const char* _mi_space_refusal(const mi_space_t* space);

// --- the whole (space.c) -------------------------------------------------------------------------------------------
// Pages without blocks go back; with `force`, blocks come out of quarantine first.
mi_hidden void _mi_space_collect(mi_space_t* space, bool force);
// Who has the heap to itself waits for a collect of all spaces to be through with this one.
mi_hidden void _mi_space_enter(mi_space_t* space);
mi_hidden bool _mi_space_try_enter(mi_space_t* space);
mi_hidden void _mi_space_leave(mi_space_t* space);
// All blocks go. Nobody else uses the heap. `ends`: and the memory is shut next (_mi_vault_shut); no collect of all
// looks at it any more.
mi_hidden void _mi_space_clear(mi_space_t* space, bool ends);
// Changes what may be done with the blocks' memory. False: the system refused, and all is as it was.
mi_hidden bool _mi_space_set_access(mi_space_t* space, mi_access_t access);
// Calls `fn` for every page until it returns false; `fn` may free blocks.
mi_hidden bool _mi_space_pages_each(mi_space_t* space, bool (*fn)(mi_page_t* page, void* arg), void* arg);
// Of each block: is it live? The bits of taken ones, but where there is a quarantine.
mi_hidden _Atomic(uint64_t)* _mi_space_live_withheld(const mi_page_t* page);
static inline _Atomic(uint64_t)* mi_space_live(const mi_page_t* page) {
  return (mi_likely((page->policy & MI_POLICY_QUARANTINE) == 0) ? mi_space_bits(page) : _mi_space_live_withheld(page));
}
static inline bool mi_space_is_live(const mi_page_t* page, size_t index) {
  return (mi_load_acquire(&mi_space_live(page)[index / 64]) >> (index % 64) & 1) != 0;
}
mi_hidden uint32_t _mi_space_live_count(const mi_page_t* page, uint64_t state);  // of a page in that state; any time
// Does everything agree? NULL, or what does not, and in `*at` the page or segment.
mi_hidden const char* _mi_space_breach(mi_space_t* space, const void** at);

// --- where it lies (vault.c) ---------------------------------------------------------------------------------------
// The next of the arenas for handles and segments of spaces, from the table's place `*i` on; NULL: no more.
mi_hidden mi_arena_t* _mi_vault_next(size_t* i);
// None of them has room for so many segments: makes one more, or gives up what is longest in quarantine. False:
// neither.
mi_hidden bool _mi_vault_make_room(size_t segments);
// `count` segments in a row and a closed one behind them, at (address + phase) % alignment == 0 (alignment 0:
// anywhere), the first one's head ready and everything behind it closed. NULL: no address space or memory.
mi_hidden mi_space_segment_t* _mi_vault_claim(mi_space_t* space, size_t count, size_t alignment, size_t phase);
// A space begins / ends: its segments are in quarantine from then on, until others have pushed it out.
mi_hidden void _mi_vault_enter(mi_space_t* space);
mi_hidden void _mi_vault_shut(mi_space_t* space);  // its blocks are gone: every access faults from now on
mi_hidden void _mi_vault_bury(mi_space_t* space);  // so is everything else, but for handle and name
// A forced collect of all spaces that live, or of those with secrets, but for who has one to itself at the moment.
mi_hidden void _mi_vault_collect(bool secrets_only);
// What `p` leads to, if that is not a page: the memory of a heap that ended, or of a space, where no page is. Ends the
// program then.
mi_hidden void _mi_vault_accuse(const void* p, const char* function);
// Use of a heap that ended, whose handle is still in quarantine: ends the program. Other heaps: nothing happens.
mi_hidden void _mi_vault_accuse_heap(const mi_heap_t* heap, const char* function);
mi_hidden void _mi_vault_around_fork(bool before);
mi_hidden void _mi_vault_after_fork(void);

// How many heaps that ended are in quarantine at most, and how much address space of theirs.
#define MI_QUARANTINE_HEAPS 1024
#define MI_QUARANTINE_BYTES (64 * MI_GiB)

#endif
