// Every structure that more than one file touches, with who may write each field and when.
//
// Geometry (DESIGN: memory hierarchy):
//   arena    a reserved address range, cut into segments; its header holds one entry per segment
//   segment  4 MiB, 4 MiB-aligned; slice 0 holds 64 page slots of 128 bytes (8 KiB: 0.2 % of the other 63)
//   slice    64 KiB; a page is a run of slices inside one segment, described by the slot of its first slice
//   block    8 bytes and up; a free block holds nothing but the pointer to the next free block
//
// Pointer to page:  segment(p) = (p - 1) & ~(4 MiB - 1);  slot(p) = segment->slot[(p >> 16) & 63].
// p - 1, because a block may start exactly at a 4 MiB boundary; such a block belongs to the segment before.
#pragma once
#ifndef MI_INTERNAL_TYPES_H
#define MI_INTERNAL_TYPES_H

#include "mi/internal/bits.h"

#define MI_KiB ((size_t)1024)
#define MI_MiB (MI_KiB * MI_KiB)
#define MI_GiB (MI_KiB * MI_MiB)
#define MI_SLICE_SHIFT 16
#define MI_SLICE_SIZE ((size_t)1 << MI_SLICE_SHIFT)
#define MI_SEGMENT_SHIFT 22
#define MI_SEGMENT_SIZE ((size_t)1 << MI_SEGMENT_SHIFT)
#define MI_SEGMENT_MASK (MI_SEGMENT_SIZE - 1)
#define MI_SLICES_PER_SEGMENT 64
#define MI_SLICES_ALL (~(uint64_t)1)  // every slice but the header's
#define MI_SOLO_SIZE_MAX ((MI_SLICES_PER_SEGMENT - 1) * MI_SLICE_SIZE)
#define MI_ALLOC_MAX ((size_t)PTRDIFF_MAX)
#define MI_OS_PAGE ((size_t)4096)
#define MI_CACHE_LINE 64
#define MI_NUMA_NODE_MAX 1023

typedef struct mi_heap_s mi_heap_t;
typedef struct mi_theap_s mi_theap_t;
typedef struct mi_thread_s mi_thread_t;
typedef struct mi_page_s mi_page_t;
typedef struct mi_segment_s mi_segment_t;
typedef struct mi_part_s mi_part_t;
typedef struct mi_slot_s mi_slot_t;
typedef struct mi_account_s mi_account_t;
typedef struct mi_bits_s mi_bits_t;

typedef struct mi_block_s {
  struct mi_block_s* next;
} mi_block_t;

// A thread id is a 64-bit number that is never used again: (generation of the record, index of the record) << 3.
// Its low 3 bits are zero; page->owner carries flags there, so that one compare in mi_free decides the fast path.
typedef uint64_t mi_tid_t;
#define MI_TID_NONE ((mi_tid_t)0)
#define MI_TID_INDEX_BITS 20
#define MI_TID_GENERATION(id) ((uint64_t)(id) >> (MI_TID_INDEX_BITS + 3))
#define MI_TID_UNINIT (~(mi_tid_t)0)     // of a thread without a record: equal to no owner ever
#define MI_OWNER_FULL ((mi_tid_t)1)      // the page is on its theap's full list
#define MI_OWNER_INTERIOR ((mi_tid_t)2)  // some block was handed out at an address inside it; or the page has a policy
#define MI_OWNER_SPECIAL ((mi_tid_t)4)   // blocks of the page carry objects of their own: handles, regions, lanes
#define MI_OWNER_INTERNAL (MI_OWNER_SPECIAL | MI_OWNER_INTERIOR)  // blocks of the library's own, and no objects
#define MI_OWNER_FLAGS ((mi_tid_t)7)

// page->thread_free: the list of remotely freed blocks, in its three low bits the page's state and whether it is
// listed, and in the sixteen high ones how many blocks the list has (addresses have 48 bits, see stack.h), so that one
// compare-and-swap decides about all of them, and nobody needs to walk the list. See page.c and free.c.
typedef uint64_t mi_thread_free_t;
enum {
  MI_NORMAL = 0,
  MI_DELAYED = 1,
  MI_DELAYING = 2,
  MI_ABANDONED = 3,
  MI_LISTED = 4,  // is in (or on its way to) a stack of abandoned pages
};
#define MI_STATE(tf) ((tf)&3u)
#define MI_LIST_COUNT_SHIFT 48
#define MI_LIST(tf) ((mi_block_t*)((tf) & (((uint64_t)1 << MI_LIST_COUNT_SHIFT) - 8)))
#define MI_LIST_COUNT(tf) ((uint32_t)((tf) >> MI_LIST_COUNT_SHIFT))
#define MI_WITH_STATE(tf, state) (((tf) & ~(mi_thread_free_t)3) | (state))
// The word with a block, whose `next` is MI_LIST(tf), on the list.
static inline mi_thread_free_t mi_word_with_block(mi_thread_free_t tf, const mi_block_t* block) {
  return tf - (uintptr_t)MI_LIST(tf) + (uintptr_t)block + ((mi_thread_free_t)1 << MI_LIST_COUNT_SHIFT);
}

typedef enum mi_kind_e {
  MI_PAGE_NONE = 0,  // no page here: slot 0, or free slices
  MI_PAGE_TAIL,      // a later slice of a page: `distance` slots before this one is its slot
  MI_PAGE_CLASS,     // blocks of one size class
  MI_PAGE_SOLO,      // one block, up to MI_SOLO_SIZE_MAX
  MI_PAGE_HUGE,      // one block in a run of segments of its own
  MI_PAGE_WITHHELD,  // a guarded block that was freed, out of everybody's reach for a while (guard.c)
  MI_PAGE_SPACE,     // of a heap with a space: a bit for each block, no lists and no owner (space.c)
} mi_kind_t;

// A page slot: two cache lines. The first is the owner's alone; the second is what other threads read or write. A page
// with a policy is a bit page: it has no lists, `recycled` counts the blocks that it handed out and those in `avail`
// that are to be next, and its state is not in `thread_free` (bit_page.c).
//   live blocks = used - length(thread_free);  used + length(free) + length(local_free) = capacity <= reserved
struct mi_page_s {
  // --- owner only (the thread in `owner`, or who claimed the page, see free.c)
  mi_block_t* free;  // blocks to hand out
  union {
    mi_block_t* local_free;  // blocks that the owner freed
    mi_bits_t* bits;         // of a bit page (bit_page.c)
  };
  uint32_t used;      // blocks handed out and not yet back in one of the two lists
  uint32_t capacity;  // blocks that were ever put on a list
  uint32_t reserved;  // blocks that fit
  uint16_t color;     // block k of the page is handed out as the ((k + color) mod reserved)th
  uint8_t bin;
  uint8_t retire;   // slow paths until an empty page goes back; 0: not retired
  mi_page_t* next;  // queue of the theap
  mi_page_t* prev;
  uint8_t fresh_zero : 1;  // memory beyond `capacity` is known to be zero
  uint8_t worn : 1;        // blocks beyond `capacity` were used before
  uint8_t free_zero;       // so are the blocks in `free`, but for their first word
  uint8_t in_full;         // is on the full list: copy of MI_OWNER_FULL
  uint8_t pinned;          // visits that count themselves in `used`
  int8_t delayed;          // blocks on the theap's delayed list, less the one that `in_full` without DELAYED stands for
  uint8_t dry;             // was left by a search, and stays in its queue for a turn (page.c); `free` is empty
  uint16_t depth;          // marks of the heap that are older than its blocks (page.c: marks)
  uint64_t recycled;       // blocks that came back to `free` from the other lists, or to `avail`: see stats.h
  // --- shared
  _Atomic(mi_tid_t) owner __attribute__((aligned(MI_CACHE_LINE)));  // owner's id | flags; written by the owner only
  _Atomic(mi_thread_free_t) thread_free;
  _Atomic(mi_heap_t*) heap;    // written by the owner
  _Atomic(mi_theap_t*) theap;  // NULL while abandoned; written by the owner
  size_t block_size;  // constant while the page lives, as all below; but a single block's may change (resize.c)
  uint8_t* start;
  _Atomic(void*) listed_next;  // link in an abandoned list, written while LISTED and not yet pushed
  uint8_t slices;
  uint8_t policy;  // what its heap asked for (theap->policy); not 0: no fast path, see heap/policy.c
  uint8_t distance;
  uint8_t kind;    // mi_kind_t
  uint32_t guard;  // 1 + the number of its record, if its block lies between guards (guard.c); else 0
} __attribute__((aligned(2 * MI_CACHE_LINE)));

struct mi_segment_s {
  mi_page_t slot[MI_SLICES_PER_SEGMENT];  // slot 0 stands for the header itself: kind NONE for ever
};

// What the arena knows of a segment. Never in the segment itself, so that no stale reader takes a user's bytes
// for it.
typedef enum mi_segment_kind_e {
  MI_SEGMENT_UNUSED = 0,
  MI_SEGMENT_NORMAL,       // has a header, hands out slices
  MI_SEGMENT_HUGE_START,   // first segment of a huge block's run: has a header, slot 1 describes the block
  MI_SEGMENT_HUGE_INSIDE,  // later segment of such a run
  MI_SEGMENT_PRIVATE,      // the arena's own header
  MI_SEGMENT_CLOSED,       // inaccessible: a guard of a heap with a space, or such a heap's that ended (vault.c)
} mi_segment_kind_t;

typedef struct mi_segment_info_s {
  _Atomic(uint64_t) free;     // slices that nobody holds; 0 unless NORMAL. Claim: CAS. Release: fetch_or.
  _Atomic(uint64_t) aged;     // slices that were free at the last purge tick; cleared by release
  _Atomic(uint64_t) dirty;    // slices that may hold something else than zeros; only their holder changes a bit
  _Atomic(uint64_t) backed;   // slices that may have memory behind them; only their holder changes a bit
  _Atomic(uint64_t) part[2];  // of those, slices of which at most a quarter has memory; or five eighths. As `backed`
  _Atomic(uint64_t) cold;     // slices in use that had no memory behind them when they were taken. As `backed`
  _Atomic(uint64_t) guarded;  // slices whose last OS page is a guard; of slice 0 all behind the slots. As `backed`
} mi_segment_info_t;

typedef bool mi_commit_memory_fun(bool commit, void* start, size_t size, bool* is_zero, void* arg);

typedef struct mi_arena_s {
  uint8_t* start;  // of segment 0; aligned to a segment
  size_t segment_count;
  uint8_t* area;  // the memory as it was given: segments are cut from its inside
  size_t area_size;
  mi_commit_memory_fun* commit;  // of memory that the program manages; NULL: mprotect
  void* commit_arg;
  int numa_node;                 // -1: unknown
  bool is_exclusive;             // serves only who names it
  bool is_foreign;               // not mapped by us: what is purged may read as anything
  bool is_pinned;                // has its memory for ever: never purged
  bool is_vault;                 // for heaps with memory of their own (vault.c)
  bool is_resident;              // segment 0 holds this header behind its slots, and is never closed
  _Atomic(size_t) ready;         // segments [0, ready) are writable; only grows
  _Atomic(uint32_t) growing;     // threads that are about to raise it
  _Atomic(size_t) first_unused;  // hint: no unused segment below
  _Atomic(size_t) first_free;    // hint: word of `has_free` to start at
  _Atomic(uint64_t)* unused;     // a bit per segment
  _Atomic(uint64_t)* has_free;   // summary: the segment's `free` word is not 0
  _Atomic(uint64_t)* purgeable;  // summary: the segment may have free slices with memory behind them
  _Atomic(uint8_t)* kind;        // mi_segment_kind_t
  mi_segment_info_t* info;
  _Atomic(uint8_t*) bits;      // of bit pages (bit_page.c), reserved when the first is made; NULL: there are none
  _Atomic(size_t) bits_ready;  // those of segments [0, bits_ready) are writable; only grows
} mi_arena_t;

// Policies of heaps, as the core knows them; mi/heap/heap.h has the same values.
enum {
  MI_POLICY_SECURE = 1,  // the secure build: of every heap
  MI_POLICY_HARDENED = 2,
  MI_POLICY_GUARDED = 4,
  MI_POLICY_QUARANTINE = 8,
  MI_POLICY_WIPE = 16,
  MI_POLICY_ZERO = 32,
  MI_POLICY_ISOLATED = 64,
  MI_POLICY_SECRET = 128,
  MI_POLICY_WIPES = MI_POLICY_WIPE | MI_POLICY_SECRET,
  // What is found to be wrong ends the process.
  MI_POLICY_STOPS = MI_POLICY_SECURE | MI_POLICY_HARDENED | MI_POLICY_ISOLATED | MI_POLICY_SECRET,
};

// Is there more to do for a heap with this policy than the fast paths do? They do the secure build's checks.
static inline bool mi_policy_is_generic(uint32_t policy) { return (policy & ~(uint32_t)MI_POLICY_SECURE) != 0; }

// --- statistics -------------------------------------------------------------------------------------

// What was handed out by pages and regions that are gone, or that were emptied and used again (stats.h). Any thread
// adds.
typedef struct mi_totals_s {
  _Atomic(uint64_t) id;                       // of the heap; 0 in what needs none, and of closed heaps. Constant
  _Atomic(struct mi_totals_s*) base;          // what mi_heap_stats_merge_to_subproc took over: not shown any more
  _Atomic(uint64_t) single_bytes;             // of blocks in pages of their own
  _Atomic(uint64_t) remote_frees;             // by threads that did not own the block's memory
  _Atomic(uint64_t) peak;                     // bytes reserved, the most that a query met (mi_heap_counts_get)
  _Atomic(uint64_t) young_slack;              // what objects in regions are smaller than the blocks of their classes
  _Atomic(uint64_t) blocks[MI_BIN_SOLO + 1];  // by class
  _Atomic(uint64_t) pages[MI_BIN_SOLO + 1];   // that were released, by class
} mi_totals_t;

// What happens too often for a counter that threads share: each counts for itself, who asks adds up all records.
typedef struct mi_thread_counts_s {
  _Atomic(int64_t) pages_extended;
  _Atomic(int64_t) pages_retired;
  _Atomic(int64_t) searches;        // for a page with room
  _Atomic(int64_t) pages_searched;  // pages looked at in all of them
  _Atomic(int64_t) main_held;       // what the thread's doings added to the account of the main heap (account.c)
} mi_thread_counts_t;

// --- accounts ---------------------------------------------------------------------------------------

typedef bool mi_limit_fun_t(mi_heap_t* heap, size_t need, void* arg);

// What a heap holds, with its children and the heaps that were merged into it. The first thing of a heap's extras, so
// that the core finds it. See account.c.
struct mi_account_s {
  _Atomic(int64_t) word;              // twice the bytes, and in the lowest bit which of `above` they count in
  _Atomic(mi_account_t*) above[2];    // written under the families' lock
  mi_heap_t* heap;                    // constant
  _Atomic(size_t) limit, soft_limit;  // bytes; 0: none. Any thread
  size_t headroom;                    // bytes; constant, as the next two
  mi_limit_fun_t* on_limit;           // NULL: none
  void* limit_arg;
  _Atomic(int64_t) peak;      // the most bytes that it held before it fell
  _Atomic(uint32_t) counted;  // bytes of the heap's first part that `word` holds
  _Atomic(uint8_t) alarm;     // MI_ALARM_NONE and so on: of the soft limit
  _Atomic(uint8_t) tripped;   // an allocation failed at the limit: the headroom serves
};
enum { MI_ALARM_NONE = 0, MI_ALARM_DUE, MI_ALARM_GIVEN };

// What an account refused, as far as it may be told when the account is gone.
typedef struct mi_refusal_s {
  mi_heap_t* heap;  // whose limit it was; NULL: nothing was refused
  uint64_t id;      // of that heap
  size_t need;      // bytes that were too many
  mi_limit_fun_t* on_limit;
  void* limit_arg;
} mi_refusal_t;

// --- threads ----------------------------------------------------------------------------------------

// A theap's state word: (generation << 8) | wanted bits | state. It lies in a slot of the thread's record,
// type-stable memory, so that it may be read when the theap is gone. See theap.c.
enum {
  MI_SLOT_FREE = 0,
  MI_SLOT_LIVE = 1,
  MI_SLOT_BUSY = 2,   // its thread is in exit or collect, or a visitor has it
  MI_SLOT_TAKEN = 3,  // a destroyer has it
  MI_SLOT_STATE = 67,
  MI_SLOT_DEAD = 64,  // its pages are gone; the owner, whose default it is, frees the theap
  MI_WANT_DESTROY = 4,
  MI_WANT_ABANDON = 8,
  MI_WANT_COLLECT = 16,
  MI_WANT_ANY = 28,
  MI_SLOT_DEFAULT = 32,  // the theap is its thread's default; set and cleared by the owner
  MI_SLOT_GENERATION = 256,
};
struct mi_slot_s {
  _Atomic(uint64_t) word;
  _Atomic(mi_theap_t*) theap;     // written by the owner while it makes the slot LIVE
  mi_thread_t* thread;            // constant
  _Atomic(mi_tid_t) owner;        // the thread of the theap; written as `theap` is
  _Atomic(mi_slot_t*) next_free;  // link in thread->free_slots
};
#define MI_SLOTS_PER_CHUNK 27  // a chunk is no power of two: those are for regions
typedef struct mi_slot_chunk_s {
  struct mi_slot_chunk_s* next;
  mi_slot_t slot[MI_SLOTS_PER_CHUNK];
} mi_slot_chunk_t;

// The part of a heap that one thread allocates from: one page queue per size class, a table that finds the
// page for a small size at once, and the list on which others leave blocks of full pages.
struct mi_theap_s {
  // By (size + 7) / 8; never NULL: the empty page stands for none. The last entry, for every larger size, stays empty.
  mi_page_t* direct[MI_DIRECT_SIZE_MAX / 8 + 2];
  mi_page_t* queue[MI_BIN_COUNT];  // circular lists: head; head->prev is the last
  mi_heap_t* heap;
  mi_thread_t* thread;
  mi_part_t* part;  // NULL for the main and the internal heap
  mi_slot_t* slot;  // NULL for those that live in the record
  uint32_t page_count;
  uint32_t tidy_count;
  uint8_t retire_low, retire_high;  // bins that may hold a retired page
  _Atomic(bool) dead;               // its heap was destroyed while it was its thread's default
  bool is_internal;
  uint8_t policy;          // of its heap (MI_HEAP_HARDENED and so on); 0: a plain heap. Its pages get it
  bool even;               // no block lies at an odd multiple of 8
  uint8_t collect_bin;     // where the last small collect looked
  uint8_t dry_pages;       // in all its queues
  uint16_t numa;           // the node that arenas are preferred of, plus 1; 0: none
  uint16_t depth;          // marks that its heap has
  size_t supplied_blocks;  // blocks that came to free lists, to be handed out, since the last deferred_free
  size_t supplied_bytes;   // and their bytes (heap/deferred.c)
  uint64_t random;         // which block comes next
  _Atomic(mi_block_t*) delayed_free __attribute__((aligned(MI_CACHE_LINE)));
  _Atomic(uint64_t) remote_frees;  // frees by others, as far as they were collected; written by who has the theap
  mi_arena_t* arena;               // where its pages come from; NULL: any that is not exclusive; as the next
  uint64_t frees;                  // blocks that went into quarantine (bit_page.c); by the owner
} __attribute__((aligned(MI_CACHE_LINE)));

// A visit in progress (visit.c): the theaps that it has made BUSY.
typedef struct mi_visit_s {
  struct mi_visit_s* outer;
  mi_heap_t* heap;
  mi_slot_t** slots;
  size_t slot_count;
  bool marks;  // the heap is one that is visited
} mi_visit_t;

// A heap's deferred_free that runs, on the stack of the thread that makes the call.
typedef struct mi_callback_s {
  struct mi_callback_s* outer;
  mi_heap_t* heap;
  size_t budget;
} mi_callback_t;

#define MI_REGION_SHIFT_MIN 9   // a handle: 512 bytes
#define MI_REGION_SHIFT_MAX 16  // 64 KiB
#define MI_HANDLE_CACHE_START (32 * (uint32_t)1024)
#define MI_PART_CACHE 32  // entries of the (heap, id) -> part cache

typedef struct mi_part_cache_s {
  mi_heap_t* heap;
  uint64_t id;
  mi_part_t* part;
} mi_part_cache_t;

// Addresses of a stack.
typedef struct mi_stack_range_s {
  uintptr_t low, high;
} mi_stack_range_t;

// A thread's record: type-stable, recycled, never returned while the process lives.
struct mi_thread_s {
  _Atomic(mi_tid_t) id;    // 0: nobody uses the record. A part's owner lives iff its record's id equals its own
  _Atomic(uint32_t) mail;  // somebody left a WANTED bit in one of the slots
  _Atomic(uint32_t) collect_wanted;  // with mail: a forced collect of everything
  uint32_t index;
  uint64_t generation;
  uint64_t gone;  // in the child of a fork: who used the record up to this generation is not in this process
  _Atomic(mi_thread_t*) next_free;  // link in the stack of free records
  _Atomic(uint64_t) kernel_thread;  // (generation, the kernel's id) of who uses the record; 0: nobody, or not known
  // --- owner only
  uint64_t heartbeat;         // slow paths of this thread, over the record's life
  uint32_t callback_depth;    // > 0: a callback of ours runs; no other is started
  uint32_t generic_count;     // slow paths since the last collect
  mi_arena_t* segment_arena;  // where it took its last slices
  size_t segment_index;
  uint64_t heap_id_next, heap_id_end;  // its run of heap ids
  mi_slot_chunk_t* slot_chunks;
  mi_heap_t* handle_cache;      // recycled handles with their spare regions, last in first out
  mi_heap_t* prepared;          // the same, with what their configuration asked for (heap/prepared.c)
  uint32_t handle_cache_count;  // of both, as the next
  uint32_t handle_cache_bytes;
  uint32_t handle_cache_limit;  // how much it keeps, learnt
  uint32_t handle_trims;        // heaps that were larger
  uint32_t handle_idle;         // looks at the cache since a heap was made,
  uint64_t handle_seen;         // told by the next heap's id
  int8_t heap_balance;          // heaps made less heaps ended, saturating
  int32_t held_change;          // slices, not yet counted for all (segment.c): held more than before,
  int32_t used_change;          // in use more than before,
  int32_t cold_taken;           // taken without memory behind them
  mi_thread_t* reaper;          // whose thread ends this record for one that did not tell; NULL: nobody does
  mi_visit_t* visits;           // its visits in progress, the innermost first
  mi_heap_t* callback_heap;     // the heap that called back: may not be ended from the callback
  mi_callback_t* callbacks;     // of heaps, the innermost first
  mi_part_t* reset_last;        // of the heap that it reset last: compared, never read (heap/nursery.c)
  uint32_t page_color;          // of the last page that it made
  bool alarm;                   // a soft limit was passed, on_limit is to be called; or there is something untold
  uint32_t untold;              // double frees of which the error callback does not know yet (options.h)
  mi_refusal_t refusal;         // of the last charge that failed
  uint64_t random;              // see random.h; 0: not begun
  uint32_t deferred_count, deferred_capacity;  // of the heaps with a deferred_free that it has a part of
  void* deferred_heaps;                        // mi_deferred_entry_t[deferred_capacity] of the layer above
  void* deferred_spare;                        // mi_deferred_t, for the next heaps
  uint32_t deferred_spare_count;
  _Atomic(void*) subproc;        // mi_subproc_t of the layer above; NULL: the main one
  mi_stack_range_t stack_known;  // of its stack, what is known to be readable (trace.c)
  uint64_t guards_made;          // guarded blocks that may lie at either end
#if MI_GUARDED
  uint64_t guard_number;  // of the thread, in the order of their first allocations
  uint64_t guard_random;  // where its stream of numbers is (heap/guarded.c)
  uint64_t guard_rate;
  uint64_t guard_left;                // allocations until the next one that is chosen, less those in the countdown
  uint32_t guard_epoch, guard_looks;  // of the options, and of heaps' settings, that it knows
#endif
  mi_part_cache_t part_cache[MI_PART_CACHE];
  // --- shared
  _Atomic(mi_slot_t*) free_slots __attribute__((aligned(MI_CACHE_LINE)));  // pushed by any, popped by the owner
  _Atomic(mi_heap_t*) returned;      // handles that others give back (nursery.c); pushed by any, taken whole
  _Atomic(uint32_t) returned_bytes;  // of their regions, roughly
  _Atomic(uint64_t) charging;        // odd: the owner is on its way through accounts
  mi_theap_t main_theap;
  mi_theap_t internal_theap;
  // Like the record, these outlive the thread and go on with the next.
  mi_thread_counts_t counts;  // written by the owner
  mi_totals_t main_totals;    // of what the thread released of the main heap
};

// --- heaps ------------------------------------------------------------------------------------------

// A region mixes object sizes. It is a block of a page of the internal heap, a power of two large and aligned
// to its size. Three bits per 16 bytes say where objects start, which the owner freed, which others freed (both: the
// gap before an aligned object); they are interleaved by words, [start, freed, remote] for each KiB. See nursery.c.
typedef struct mi_region_s {
  mi_part_t* part;           // constant while the region is in use; the free-list link while it is a free block
  _Atomic(mi_tid_t) owner;   // who bumps and frees with plain stores; MI_TID_NONE: nobody
  struct mi_region_s* next;  // the part's list, or a cache
  _Atomic(uint16_t) end;     // first granule never handed out; 0 while the region is its part's current one
  uint16_t first;            // first granule that objects may use
  uint8_t shift;             // its size is 1 << shift
  uint8_t padding;
  uint16_t marked;  // the first mark that it was in use at, by depth; 0: none (heap/mark.c)
  // The bits follow: see mi_region_words.
} mi_region_t;

#define MI_YOUNG_UNASKED ((uint16_t)65535)  // of parts whose regions are charged nowhere

// Flag in part->region.owner: no class of the part has earned pages. A hint that saves the look at an empty table.
#define MI_OWNER_YOUNG ((mi_tid_t)1)

// In part->region.owner, MI_OWNER_INTERIOR says that the heap has a policy: every allocation takes the generic path.

// Objects that regions are opened for. A larger one gets a page, unless it happens to fit the current region.
#define MI_YOUNG_SIZE_MAX ((size_t)8 * 1024)

// A thread's part of a heap: young (regions) at first, with a theap when a size class earned pages. The first
// part is the head of the handle itself; the others (lanes) are 1 KiB regions that carry one.
struct mi_part_s {
  // line 0
  mi_region_t region;          // the region that this part is the head of; region.owner is the part's owner
  uint64_t words[3];           // its bits
  _Atomic(mi_theap_t*) theap;  // its owner's pages; the empty theap while there are none. Owner, or destroyer
  // line 1: owner's bump
  _Atomic(uint8_t*) bump;  // next free byte of the current region; read by others through usable_size
  uint8_t* limit;
  mi_region_t* current;       // the region that `bump` is in
  mi_region_t* regions;       // those in use, but for the embedded one
  mi_region_t* regions_last;  // the last of that list
  mi_region_t* spare;         // regions kept from earlier use, empty, to be taken before new ones
  uint32_t bytes;             // of both lists
  uint8_t step;               // how far region sizes have grown
  uint8_t fills;              // how often it was filled over several regions (nursery.c)
  uint16_t young;             // KiB of its regions in use, but for the embedded one of a handle
  _Atomic(mi_slot_t*) slot;   // of the theap
  // line 2: of the handle, see mi_heap_s; unused in lanes
  uint64_t handle_line[8];
  // line 3
  _Atomic(uint16_t)
      young_max;     // KiB of regions in use up to which none is asked for (account.c). Owner; 0 by any thread
  uint16_t depth;    // in the handle: marks that the heap has; of a closed heap, those that its target had
  uint8_t seen[58];  // KiB of regions that each class of object sizes asked for (nursery.c), saturating at 255
  uint8_t is_shut;   // the embedded region is not to be used (yet): it is not charged
  uint8_t padding;
  // line 4, which it shares with the first objects: read by others
  mi_heap_t* heap;
  _Atomic(uint64_t) id;  // of the heap, in the handle only: unique, never used again; 0: no heap here
  union {
    void* config;              // in the handle: mi_heap_extra_t, NULL for a plain heap
    _Atomic(mi_part_t*) next;  // in a lane: the heap's list of lanes; constant once pushed
  };
  _Atomic(mi_totals_t*) totals;  // in the handle: made at need; stays with a handle that is recycled (heap/stats.c)
  uint64_t padding2[4];
} __attribute__((aligned(MI_CACHE_LINE)));
#define MI_PART_SIZE 288  // what of it is used: objects follow

// Flags of a handle.
#define MI_HEAP_NO_DESTROY 1  // made with allow_destroy = false
#define MI_HEAP_COUNTED 2     // what it holds at its end is added to the process's totals (heap/stats.c)
#define MI_HEAP_REPORTS 8     // its destroy reports what is alive in it (heap/report.c)
#define MI_HEAP_IN_ARENA 4    // everything of it lies in the arena that its handle lies in
#define MI_HEAP_VISITED 16    // a visit of it runs, or ran in a thread that is gone: `visiting` says which
#define MI_HEAP_POLICY 32     // it has a policy (heap/policy.c); constant from before the heap is shown to anybody
#define MI_HEAP_IN_SPACE 64   // its memory is its own (space.c); stays when the heap ended, in quarantine

typedef enum mi_heap_state_e { MI_HEAP_OPEN = 0, MI_HEAP_CLOSED, MI_HEAP_DYING } mi_heap_state_t;

// What few heaps need is a block of its own, made at first need.
typedef struct mi_abandoned_s {
  // Tagged stacks of abandoned pages, by bin; FULL and LATE are for a sweep of all (page.c).
  _Atomic(uint64_t) list[MI_BIN_COUNT];
} mi_abandoned_t;

// The handle. It overlays a part: line 2 holds what only handles have.
struct mi_heap_s {
  union {
    mi_part_t home;
    struct {
      uint64_t home_lines[16];
      _Atomic(mi_part_t*) parts;           // the lanes; push-only
      _Atomic(mi_abandoned_t*) abandoned;  // made at the first abandonment
      _Atomic(uint64_t) forwarders[2];     // tagged stacks of closed heaps whose blocks are ours (merge.c)
      _Atomic(mi_heap_t*) into;            // where a closed heap's blocks went
      _Atomic(void*) forwarder_next;
      _Atomic(int64_t) pages_out;  // pages that no theap holds
      _Atomic(uint32_t) refs;      // theaps attached, plus one for the heap itself
      _Atomic(uint8_t) state;      // mi_heap_state_t
      _Atomic(uint8_t) flags;      // MI_HEAP_NO_DESTROY and so on: what mi_heap_destroy must look at
      _Atomic(uint8_t) visiting;   // _mi_fork_stamp while a visitor runs: no region is reset, no forwarder looked at
      _Atomic(uint8_t) is_target;  // something was merged into it, or it has pages among the orphans (page.c)
    };
  };
};
_Static_assert(sizeof(mi_page_t) == 128, "a page slot is two cache lines");
_Static_assert(sizeof(mi_segment_t) == 8192, "a segment header is 8 KiB");
_Static_assert(MI_SLICE_SIZE / sizeof(mi_block_t) < (uint64_t)1 << (64 - MI_LIST_COUNT_SHIFT),
               "a page's word can count its blocks");
_Static_assert(offsetof(mi_part_t, padding2) <= MI_PART_SIZE, "objects follow a part");
_Static_assert(sizeof(mi_heap_t) == sizeof(mi_part_t), "the handle overlays its first part");
_Static_assert(offsetof(mi_part_t, words) == sizeof(mi_region_t), "the bits follow the region's head");
_Static_assert(offsetof(mi_heap_t, parts) == offsetof(mi_part_t, handle_line), "line 2 is the handle's");
_Static_assert(sizeof(mi_theap_t) <= 1920, "the class of a theap is no power of two: those are for regions");

// Per-thread state that the fast paths read. Small: a library opened by dlopen must find room in static TLS.
typedef struct mi_tls_s {
  mi_theap_t* theap;     // the default; the empty theap before the first use
  mi_tid_t tid;          // MI_TID_UNINIT before the first use
  mi_thread_t* thread;   // NULL before the first use
  mi_heap_t* away_heap;  // the last heap that the thread used without being at home in it,
  uint64_t away_id;      // the heap's id then,
  mi_part_t* away_part;  // and the thread's part of it
#if MI_GUARDED
  uint64_t guard_countdown;  // allocations until one that may be guarded (heap/guarded.c)
#endif
} mi_tls_t;

#endif
