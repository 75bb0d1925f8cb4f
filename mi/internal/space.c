// Spaces: the blocks, pages and slices of heaps that have memory of their own (isolated and secret heaps). Where the
// segments come from is vault.c.
//
// Nothing of the library's lies in a block, live or free, or next to one: which blocks are live says one bit each, in
// the segment's head. So a free tells a block that is live from one that was freed, from an address inside one and from
// none at all; a space that nobody may write to or even read can be looked through and ended; and what was wiped stays
// zero. Pages have no owner: any thread takes blocks of any page, with a few atomic operations and no lock.
//
// Invariants:
//  * a page's state counts its live blocks: who takes one counts it first and sets a bit after that, who frees one
//    clears the bit first. So there are never more bits set than are counted, and who counted one finds a clear bit;
//  * a page is closed by who changes its state from "no live blocks" to 0 by CAS: nobody counts a block in it after
//    that, and its slices are the closer's. Slots stay slots while the heap lives, so that a stale pointer to one is
//    harmless: its class and its room are checked by the CAS that counts;
//  * if a page has room, its bit in `room` is set, or somebody is about to set it: who frees counts down and then looks
//    at the bit; who finds the page full clears the bit and then looks at the count (sequentially consistent, as the
//    summaries of segment.c);
//  * a slice's `free` bit is set iff nobody holds it; a claim is one CAS of a run, a release one fetch_or after the
//    slots of the run were reset. The arena's own word of the segment stays 0, so that nobody else's claim succeeds;
//  * behind every page is at least one OS page that is not accessible, if `has_guards`; a slice that nobody holds is
//    not accessible either. Without it only segments have guards;
//  * where blocks are wiped, a block that is not live is zero;
//  * where freed blocks go into quarantine, the bits say which blocks are taken, and others, beside the arena, which of
//    those are live. Who frees clears the live bit, puts the block into a ring, and frees what was in its place: a
//    block comes out once, since places are exchanged. A live bit is set when its block was taken, and a block is taken
//    only when it came out of the ring: so no bit that is looked at is another block's (model quarantine);
//  * of a hardened heap, what was asked for of each block is known to the byte, beside the arena (bit_page.h), and what
//    is behind that to the block's end, a byte at least, holds the pattern of padding.
// The heap's end, a reset and a change of access have the heap to themselves; only a collect of all heaps may come from
// elsewhere at any time, and they exclude it by the space's lock, which nobody takes to allocate or free.
#include "mi/internal/space.h"

#include <errno.h>
#include <string.h>

#include "mi/internal/account.h"
#include "mi/internal/bit_page.h"
#include "mi/internal/options.h"
#include "mi/internal/os.h"
#include "mi/internal/random.h"
#include "mi/internal/stats.h"

#define MI_SPACE_GUARD MI_OS_PAGE
#define MI_SPACE_WIPE_LARGE (8 * MI_OS_PAGE)
#define MI_SPACE_MISSES 64   // pages of other classes that a search looks at
#define MI_SPACE_IDLE_MAX 4  // pages without blocks that stay, for what comes next
#define MI_SPACE_FIRST 8192  // bytes of a class's first page of secrets: locked memory is scarce

// --- memory of runs ------------------------------------------------------------------------------------------------

// Wipes a stretch of a page. A secret file has memory only where it was touched, and the first touch is dear: a
// large block is wiped where there is any.
static void space_wipe(const mi_space_t* space, uint8_t* p, size_t size) {
  if (!space->is_secret || space->secret.way != MI_SECRET_FILE || size < MI_SPACE_WIPE_LARGE) {
    _mi_wipe(p, size);
    return;
  }
  uint8_t* const end = p + size;
  uint8_t* at = (uint8_t*)mi_round_up((uintptr_t)p, MI_OS_PAGE);
  _mi_wipe(p, (size_t)(at - p));
  while ((size_t)(end - at) >= MI_OS_PAGE) {
    size_t pages = (size_t)(end - at) / MI_OS_PAGE;
    if (pages > MI_PRESENT_MAX) pages = MI_PRESENT_MAX;
    uint64_t present = _mi_os_present(at, pages);
    if (pages < 64) present &= mi_run_mask(0, pages);
    for (; present != 0; present &= present - 1) _mi_wipe(at + mi_ctz(present) * MI_OS_PAGE, MI_OS_PAGE);
    at += pages * MI_OS_PAGE;
  }
  _mi_wipe(at, (size_t)(end - at));
}

// The OS pages of a page's blocks.
typedef struct stretch_s {
  uint8_t* start;
  size_t size;
} stretch_t;

static stretch_t stretch_of(const mi_page_t* page) {
  uint8_t* const start = (uint8_t*)((uintptr_t)page->start & ~(uintptr_t)(MI_OS_PAGE - 1));
  const size_t size = (size_t)(page->start - start) + page->reserved * page->block_size;
  return (stretch_t){start, mi_round_up(size, MI_OS_PAGE)};
}

// Makes a stretch of slices that nobody holds accessible: it reads as zero. 0, or the system's error.
static int stretch_open(const mi_space_t* space, stretch_t s, bool huge) {
  if (space->is_secret) return _mi_os_secret_map(s.start, s.size, &space->secret);
  bool ok = true;
  if (huge) {
    ok = _mi_os_reopen(s.start, s.size);
  } else if (space->has_guards) {
    ok = _mi_os_unguard(s.start, s.size);
  }
  return (ok ? 0 : ENOMEM);
}

static void stretch_close(const mi_space_t* space, stretch_t s, bool huge) {
  if (!space->is_secret && !huge) {
    if (space->has_guards && _mi_os_guard(s.start, s.size)) return;
    if (_mi_os_purge(s.start, s.size, true) != MI_PURGE_ZERO) memset(s.start, 0, s.size);  // memory that is locked
  } else if (!_mi_os_close(s.start, s.size)) {  // too many mappings: its contents go, it stays
    if (!space->is_secret) _mi_os_purge(s.start, s.size, true);
    _mi_os_access(s.start, s.size, MI_ACCESS_NONE);
  }
}

// --- sizes and padding ---------------------------------------------------------------------------------------------
// Of hardened heaps. What a block of a class is larger than what was asked for is a number in one or two bytes, which
// only who has the block writes: no two blocks share a byte.

static inline bool page_pads(const mi_page_t* page) { return (page->policy & MI_POLICY_HARDENED) != 0; }
_Static_assert((MI_SLICE_SIZE - MI_SPACE_GUARD) / 16 <= MI_BITS_LARGE, "a byte for each of a page's blocks");

static size_t size_of(const mi_page_t* page, size_t index) {
  const void* const sizes = _mi_bits_beside(page);
  if (page->bin == MI_BIN_SOLO) return *(const uint64_t*)sizes;
  const size_t slack = (page->block_size <= 256 ? ((const uint8_t*)sizes)[index] : ((const uint16_t*)sizes)[index]);
  return page->block_size - slack;
}

static void size_set(const mi_page_t* page, size_t index, size_t size) {
  void* const sizes = _mi_bits_beside(page);
  if (page->bin == MI_BIN_SOLO) {
    *(uint64_t*)sizes = size;
  } else if (page->block_size <= 256) {
    ((uint8_t*)sizes)[index] = (uint8_t)(page->block_size - size);
  } else {
    ((uint16_t*)sizes)[index] = (uint16_t)(page->block_size - size);
  }
}

static uint8_t* block_end(const mi_page_t* page, size_t index) { return page->start + (index + 1) * page->block_size; }

// The block `p`, of so many bytes from now on.
static void block_pad(const mi_page_t* page, size_t index, const uint8_t* p, size_t size) {
  size_set(page, index, size);
  _mi_padding_write(block_end(page, index), (size_t)(block_end(page, index) - p) - size);
}

static void block_check(const mi_page_t* page, size_t index, const uint8_t* p, const char* function) {
  const uint8_t* const end = block_end(page, index);
  const size_t size = size_of(page, index), padding = (size_t)(end - p) - size;
  if (mi_likely(_mi_padding_is_whole(end, padding))) return;
  const mi_space_t* const space = mi_space_segment_of(page)->space;
  _mi_corruption(
      EFAULT,
      "%s: overflow: byte %zu of the block %p of %zu bytes was written (class %zu, heap %p \"%s\", thread %u)\n",
      function, size + _mi_padding_breach(end, padding), (const void*)p, size, page->block_size, (void*)space->heap,
      space->name, _mi_os_thread_id());
}

// --- live blocks where there is a quarantine -----------------------------------------------------------------------
// Their bits lie where the head of a bit page would have its words.

_Static_assert(sizeof(mi_bits_t) + MI_SPACE_BITS <= MI_BITS_SMALL, "the bits lie behind the head");
_Atomic(uint64_t)* _mi_space_live_withheld(const mi_page_t* page) {
  return (_Atomic(uint64_t)*)(_mi_bits_elsewhere(page) + 1);
}

MI_RACY uint32_t _mi_space_live_count(const mi_page_t* page, uint64_t state) {
  if ((mi_racy(page->policy) & MI_POLICY_QUARANTINE) == 0) return mi_space_taken(state);
  _Atomic(uint64_t)* const bits = _mi_space_live_withheld(page);
  uint32_t count = 0;
  for (size_t w = 0; w < (mi_space_fit(state) + 63) / 64; w++)
    count += (uint32_t)mi_popcount(mi_load_acquire(&bits[w]));
  return count;
}

// The caller took the block, which was in no quarantine.
static void live_begin(const mi_page_t* page, size_t index) {
  if (mi_likely((page->policy & MI_POLICY_QUARANTINE) == 0)) return;
  mi_fetch_or_acq_rel(&mi_space_live(page)[index / 64], (uint64_t)1 << (index % 64));
}

// --- slices --------------------------------------------------------------------------------------------------------

static mi_page_t* slot_at(const mi_space_segment_t* segment, size_t slice) {
  return &((mi_segment_t*)mi_arena_segment(segment->arena, segment->index))->slot[slice];
}

static mi_page_t* run_take(mi_space_segment_t* segment, size_t count) {
  uint64_t word = mi_load_relaxed(&segment->free);
  size_t at;
  do {
    at = mi_find_run(word, count, 1);
    if (at >= MI_SLICES_PER_SEGMENT) return NULL;
    // Acquire: the slots that the releaser reset.
  } while (!mi_cas_weak_acq_rel(&segment->free, &word, word & ~mi_run_mask(at, count)));
  return slot_at(segment, at);
}

static void run_give(mi_space_segment_t* segment, const mi_page_t* page, size_t count) {
  mi_fetch_or_acq_rel(&segment->free, mi_run_mask(mi_page_slice(page), count));
}

static void segment_push(_Atomic(mi_space_segment_t*)* list, mi_space_segment_t* segment) {
  mi_space_segment_t* head = mi_load_relaxed(list);
  do {
    segment->next = head;
    // Release: the segment is set up before it is found.
  } while (!mi_cas_weak_acq_rel(list, &head, segment));
}

// The slot of the first of `count` free slices in a row. NULL: no memory.
static mi_page_t* slices_claim(mi_space_t* space, size_t count) {
  for (mi_space_segment_t* s = mi_load_acquire(&space->segments); s != NULL; s = s->next) {
    mi_page_t* const page = run_take(s, count);
    if (page != NULL) return page;
  }
  mi_space_segment_t* const segment = _mi_vault_claim(space, 1, 0, 0);
  if (segment == NULL) return NULL;
  if (!space->is_secret) {
    uint8_t* const slices = mi_arena_segment(segment->arena, segment->index) + MI_SLICE_SIZE;
    // Light guards everywhere, to be taken away where pages are.
    if (!_mi_os_reopen(slices, MI_SOLO_SIZE_MAX)) {
      segment_push(&space->huge, segment);  // not lost: a huge block's run
      return NULL;
    }
    if (space->has_guards) _mi_os_guard(slices, MI_SOLO_SIZE_MAX);
  }
  mi_store_release(&segment->arena->kind[segment->index], (uint8_t)MI_SEGMENT_NORMAL);
  mi_store_relaxed(&segment->free, MI_SLICES_ALL & ~mi_run_mask(1, count));
  segment_push(&space->segments, segment);
  return slot_at(segment, 1);
}

static void slots_set(mi_page_t* page, size_t count) {
  page->slices = (uint8_t)count;
  page->distance = 0;
  for (size_t i = 1; i < count; i++) {
    page[i].distance = (uint8_t)i;
    page[i].kind = MI_PAGE_TAIL;
  }
}

static void slots_reset(mi_page_t* page, size_t count) {
  for (size_t i = 0; i < count; i++) page[i].kind = MI_PAGE_NONE;
}

// --- runs of segments ----------------------------------------------------------------------------------------------

// A run that an earlier huge block had, or a new one.
static mi_space_segment_t* huge_claim(mi_space_t* space, size_t count, size_t alignment, size_t phase) {
  for (mi_space_segment_t* s = mi_load_acquire(&space->huge); s != NULL; s = s->next) {
    const uintptr_t start = (uintptr_t)mi_arena_segment(s->arena, s->index);
    if (s->count < count + 1 || (alignment != 0 && (start + phase) % alignment != 0)) continue;
    uint32_t expected = 0;
    if (mi_load_relaxed(&s->taken) == 0 && mi_cas_strong_acq_rel(&s->taken, &expected, 1u)) return s;
  }
  mi_space_segment_t* const segment = _mi_vault_claim(space, count, alignment, phase);
  if (segment == NULL) return NULL;
  mi_store_relaxed(&segment->taken, 1u);
  segment_push(&space->huge, segment);
  return segment;
}

static void huge_kinds(const mi_space_segment_t* segment, bool used) {
  mi_arena_t* const arena = segment->arena;
  const size_t last = segment->index + segment->count - 2;  // the closed one stays closed
  if (!used) mi_store_release(&arena->kind[segment->index], (uint8_t)MI_SEGMENT_CLOSED);
  // From the end, so that a walk back always meets a start.
  for (size_t i = last; i > segment->index; i--) {
    mi_store_release(&arena->kind[i], (uint8_t)(used ? MI_SEGMENT_HUGE_INSIDE : MI_SEGMENT_CLOSED));
  }
  if (used) mi_store_release(&arena->kind[segment->index], (uint8_t)MI_SEGMENT_HUGE_START);
}

// --- pages ---------------------------------------------------------------------------------------------------------

static void page_count_out(mi_totals_t* to, const mi_page_t* page, size_t bin) {
  const uint64_t made = mi_load_relaxed((_Atomic(uint64_t)*)&page->recycled);
  mi_fetch_add_relaxed(&to->blocks[bin], made);
  mi_fetch_add_relaxed(&to->pages[bin], (uint64_t)1);
  if (bin == MI_BIN_SOLO) mi_fetch_add_relaxed(&to->single_bytes, made * page->block_size);
}

// What a page is charged with (account.c): all its blocks, from when it is opened until it is closed.
static int64_t page_charged(const mi_page_t* page) { return (int64_t)(page->reserved * page->block_size); }

static void space_uncharge(const mi_space_t* space, int64_t size) {
  _mi_account_add(mi_account_of(space->heap), -size);
}

// Gives back what the page had. Its state is 0, and it is the caller's.
static void page_release(mi_space_t* space, mi_page_t* page) {
  space_uncharge(space, page_charged(page));
  mi_space_segment_t* const segment = mi_space_segment_of(page);
  const size_t slices = page->slices;
  mi_gauge_sub(&_mi_stats.pages, 1);
  stretch_close(space, stretch_of(page), slices == 0);
  if (slices == 0) {
    huge_kinds(segment, false);
    page->kind = MI_PAGE_NONE;
    mi_store_release(&segment->taken, 0u);
  } else {
    slots_reset(page, slices);
    run_give(segment, page, slices);
  }
}

// Closes a page without live blocks, unless somebody else does, or takes a block of it, or the heap is held: then it is
// one of those that stay, for a collect.
static void page_close(mi_space_t* space, mi_page_t* page) {
  uint64_t state = mi_load_relaxed(mi_space_state(page));
  if ((state & MI_SPACE_OPEN) == 0 || mi_space_taken(state) != 0 || _mi_heap_is_held(space->heap)) return;
  do {
    if ((state & MI_SPACE_OPEN) == 0 || mi_space_taken(state) != 0) return;
    // Acquire: the last writes of who freed.
  } while (!mi_cas_weak_acq_rel(mi_space_state(page), &state, (uint64_t)0));
  mi_fetch_add_relaxed(&space->idle, (int64_t)-1);
  page_count_out(_mi_upcalls.totals(space->heap), page, mi_space_bin(state));
  page_release(space, page);
}

// Counts a block in an open page of the class that has room. True: a bit of it is clear for the caller.
static bool page_enter(mi_space_t* space, mi_page_t* page, size_t bin) {
  uint64_t state = mi_load_relaxed(mi_space_state(page));
  do {
    if ((state & MI_SPACE_OPEN) == 0 || mi_space_bin(state) != bin || mi_space_taken(state) >= mi_space_fit(state))
      return false;
    // Acquire: the slot, as who opened the page wrote it.
  } while (!mi_cas_weak_acq_rel(mi_space_state(page), &state, state + MI_SPACE_ONE));
  if (mi_space_taken(state) == 0) mi_fetch_add_relaxed(&space->idle, (int64_t)-1);
  return true;
}

// Where the search for a clear bit begins: a hint.
static _Atomic(uint16_t)* page_hint(mi_page_t* page) { return (_Atomic(uint16_t)*)&page->color; }

static void page_touch(mi_page_t* page, uint32_t index) {  // `capacity` is one more than the highest block used so far
  _Atomic(uint32_t)* const capacity = (_Atomic(uint32_t)*)&page->capacity;
  uint32_t seen = mi_load_relaxed(capacity);
  while (seen <= index && !mi_cas_weak_acq_rel(capacity, &seen, index + 1)) {
  }
  mi_fetch_add_relaxed((_Atomic(uint64_t)*)&page->recycled, (uint64_t)1);
}

// A random one of the first 64 blocks of a page, or its first one.
static size_t first_block(const mi_space_t* space, const mi_page_t* page) {
  if ((space->policy & MI_POLICY_HARDENED) == 0) return 0;
  return mi_random_next(_mi_tls.thread) % (page->reserved < 64 ? page->reserved : 64);
}

// The block that page_enter counted: the lowest that is free, as far as the hint is right, so that what is used
// together stays together; of a hardened heap, any of the 64 with the lowest.
static uint8_t* page_take(mi_page_t* page) {
  const size_t turn = (page_pads(page) ? mi_random_next(_mi_tls.thread) % 64 : 0);
  _Atomic(uint64_t)* const bits = mi_space_bits(page);
  const size_t words = (page->reserved + 63) / 64;
  size_t w = mi_load_relaxed(page_hint(page));
  for (;; w = (w + 1 < words ? w + 1 : 0)) {
    uint64_t word = mi_load_relaxed(&bits[w]);
    while (word != ~(uint64_t)0) {
      const size_t bit = (mi_ctz(mi_turn(~word, turn)) + turn) % 64;
      // Acquire: the last writes of who freed the block.
      if (!mi_cas_weak_acq_rel(&bits[w], &word, word | (uint64_t)1 << bit)) continue;
      mi_store_relaxed(page_hint(page), (uint16_t)w);
      const uint32_t index = (uint32_t)(64 * w + bit);
      page_touch(page, index);
      live_begin(page, index);
      return page->start + index * page->block_size;
    }
  }
}

// Sets up a slot for a page of which one block is the caller's. The state last.
static void page_begin(mi_space_t* space, mi_page_t* page, size_t bin, size_t block) {
  page->free = page->local_free = NULL;
  page->used = 0;
  page->capacity = (uint32_t)block + 1;
  page->recycled = 1;
  page->color = 0;
  page->bin = (uint8_t)bin;
  page->in_full = page->pinned = page->retire = 0;
  page->delayed = 0;
  page->depth = 0;
  page->next = page->prev = NULL;
  page->policy = space->policy;
  page->guard = 0;
  mi_store_relaxed(&page->owner, MI_TID_NONE);
  mi_store_release(&page->heap, space->heap);
  mi_store_relaxed(&page->theap, (mi_theap_t*)NULL);
  page->kind = MI_PAGE_SPACE;
  _Atomic(uint64_t)* const bits = mi_space_bits(page);
  for (size_t w = 0; w < (page->reserved + 63) / 64; w++) {
    const size_t here = (page->reserved - 64 * w < 64 ? page->reserved - 64 * w : 64);
    mi_store_relaxed(&bits[w], ~mi_run_mask(0, here));  // beyond the last block nothing is free
  }
  mi_store_relaxed(&bits[0], mi_load_relaxed(&bits[0]) | (uint64_t)1 << block);
  if ((page->policy & MI_POLICY_QUARANTINE) != 0) {
    for (size_t w = 0; w < (page->reserved + 63) / 64; w++) mi_store_relaxed(&mi_space_live(page)[w], (uint64_t)0);
    live_begin(page, block);
  }
  mi_gauge_add(&_mi_stats.pages, 1);
  const uint64_t state = MI_SPACE_ONE | (uint64_t)page->reserved << 16 | (uint64_t)bin << 8 | MI_SPACE_OPEN;
  mi_store_release(mi_space_state(page), state);
}

// Bytes for the blocks of a new page of a class. The guard behind the page is less than 64 KiB behind every block.
static size_t page_plan(const mi_space_t* space, size_t bin) {
  const size_t size = mi_bin_size(bin), small = MI_SLICE_SIZE - MI_SPACE_GUARD;
  size_t bytes = small;
  if (space->is_secret) {
    const bool first = (mi_load_relaxed(&space->current[bin]) == NULL);
    if (first) bytes = MI_SPACE_FIRST;
    if (!first && 4 * size < small && size > 8 * MI_KiB) bytes = 4 * size;
  }
  return (bytes < size ? size : bytes);
}

// The page's memory, and for what is beside the arena of its blocks; its shape is set. False: no memory.
static bool page_open_memory(const mi_space_t* space, const mi_page_t* page, bool huge) {
  const uint32_t beside = MI_POLICY_HARDENED | MI_POLICY_QUARANTINE;
  if ((space->policy & beside) != 0 && _mi_bits_beside_make(page) == NULL) return false;
  return stretch_open(space, stretch_of(page), huge) == 0;
}

// Slices for a page of so many blocks, and accessible memory. NULL: no memory.
static mi_page_t* page_claim(mi_space_t* space, size_t bin, size_t blocks) {
  const size_t size = mi_bin_size(bin), slices = (blocks * size + MI_SPACE_GUARD + MI_SLICE_SIZE - 1) / MI_SLICE_SIZE;
  mi_page_t* const page = slices_claim(space, slices);
  if (page == NULL) return NULL;
  page->block_size = size;
  page->reserved = (uint32_t)blocks;
  page->start = (uint8_t*)mi_page_segment(page) + mi_page_slice(page) * MI_SLICE_SIZE;
  if (!page_open_memory(space, page, false)) {
    run_give(mi_space_segment_of(page), page, slices);
    return NULL;
  }
  slots_set(page, slices);
  return page;
}

// The same, and charged. NULL also if a limit refuses it.
static mi_page_t* page_claim_charged(mi_space_t* space, size_t bin, size_t blocks) {
  const size_t size = blocks * mi_bin_size(bin);
  if (!_mi_account_charge(mi_account_of(space->heap), size)) return NULL;
  mi_page_t* const page = page_claim(space, bin, blocks);
  if (page == NULL) space_uncharge(space, (int64_t)size);
  return page;
}

// A new page, with a block taken, which is returned; near a limit, of the heap or of locked memory, a smaller one.
// NULL: no memory.
static uint8_t* page_open(mi_space_t* space, size_t bin, mi_page_t** opened) {
  size_t blocks = page_plan(space, bin) / mi_bin_size(bin);
  mi_page_t* page = page_claim_charged(space, bin, blocks);
  while (page == NULL && (space->is_secret || _mi_tls.thread->refusal.heap != NULL) && blocks > 1)
    page = page_claim_charged(space, bin, blocks /= 2);
  if (page == NULL) return NULL;
  const size_t block = first_block(space, page);
  page_begin(space, page, bin, block);
  mi_space_segment_t* const segment = mi_space_segment_of(page);
  mi_fetch_or_seq_cst(&segment->room, (uint64_t)1 << mi_page_slice(page));
  mi_store_release(&space->cursor, segment);
  mi_store_release(&space->current[bin], page);
  *opened = page;
  return page->start + block * page->block_size;
}

static bool page_has_room(const mi_page_t* page) {
  const uint64_t state = mi_load_seq_cst(mi_space_state(page));
  return (state & MI_SPACE_OPEN) != 0 && mi_space_taken(state) < mi_space_fit(state);
}

// Looks for a page of the class with room in a segment, and counts a block in it.
static mi_page_t* segment_search(mi_space_t* space, mi_space_segment_t* segment, size_t bin, size_t* misses) {
  for (uint64_t word = mi_load_relaxed(&segment->room); word != 0; word &= word - 1) {
    mi_page_t* const page = slot_at(segment, mi_ctz(word));
    if (page_enter(space, page, bin)) return page;
    if (!page_has_room(page)) {
      const uint64_t bit = word & (0 - word);
      mi_fetch_and_seq_cst(&segment->room, ~bit);
      if (page_has_room(page)) mi_fetch_or_seq_cst(&segment->room, bit);
    } else if (++*misses >= MI_SPACE_MISSES) {
      return NULL;
    }
  }
  return NULL;
}

static mi_page_t* page_search(mi_space_t* space, size_t bin) {
  mi_space_segment_t* const first = mi_load_acquire(&space->cursor);
  mi_space_segment_t* segment = first;
  size_t misses = 0;
  while (segment != NULL && misses < MI_SPACE_MISSES) {
    mi_page_t* const page = segment_search(space, segment, bin, &misses);
    if (page != NULL) {
      mi_store_release(&space->current[bin], page);
      mi_store_release(&space->cursor, segment);
      return page;
    }
    segment = (segment->next != NULL ? segment->next : mi_load_acquire(&space->segments));
    if (segment == first) break;
  }
  if (misses >= MI_SPACE_MISSES) mi_store_release(&space->cursor, segment);  // further on the next time
  return NULL;
}

static void* class_alloc(mi_space_t* space, size_t bin, size_t size, bool zero) {
  mi_page_t* page = mi_load_acquire(&space->current[bin]);
  if (page == NULL || !page_enter(space, page, bin)) page = page_search(space, bin);
  uint8_t* const block = (mi_likely(page != NULL) ? page_take(page) : page_open(space, bin, &page));
  if (block == NULL) return NULL;
  if (zero && !space->wipes) memset(block, 0, page->block_size);
  if (page_pads(page)) block_pad(page, (size_t)(block - page->start) / page->block_size, block, size);
  return block;
}

// One block with a page of its own, `inside` its page's start. What is new is zero. Its memory is charged.
static void* single_make(mi_space_t* space, size_t block_size, size_t alignment, size_t offset, size_t inside,
                         mi_page_t** made) {
  const size_t slack = (alignment <= MI_SLICE_SIZE && offset == 0 ? 0 : alignment);
  mi_page_t* page;
  size_t slices = 0;
  if (block_size <= MI_SOLO_SIZE_MAX && slack <= MI_SOLO_SIZE_MAX) {
    slices = (block_size + slack + 2 * MI_SPACE_GUARD + MI_SLICE_SIZE - 1) / MI_SLICE_SIZE;
    if (slices >= MI_SLICES_PER_SEGMENT) slices = 0;
  }
  if (slices != 0) {
    page = slices_claim(space, slices);
    if (page == NULL) return NULL;
    uint8_t* const start = (uint8_t*)mi_page_segment(page) + mi_page_slice(page) * MI_SLICE_SIZE;
    page->start = (uint8_t*)(mi_round_up((uintptr_t)start + offset, alignment) - offset);
    if (page->start < start) page->start += alignment;
  } else {
    size_t segment_alignment, phase;
    const size_t lead = _mi_huge_lead(alignment, offset, &segment_alignment, &phase);
    const size_t count = (lead + block_size + MI_OS_PAGE + MI_SEGMENT_MASK) >> MI_SEGMENT_SHIFT;
    mi_space_segment_t* const segment = huge_claim(space, count, segment_alignment, phase);
    if (segment == NULL) return NULL;
    page = slot_at(segment, 1);
    page->start = mi_arena_segment(segment->arena, segment->index) + lead;
  }
  page->block_size = block_size;
  page->reserved = 1;
  if (!page_open_memory(space, page, slices == 0)) {
    if (slices != 0) {
      run_give(mi_space_segment_of(page), page, slices);
    } else {
      mi_store_release(&mi_space_segment_of(page)->taken, 0u);
    }
    return NULL;
  }
  slots_set(page, slices);
  if (slices == 0) huge_kinds(mi_space_segment_of(page), true);
  page_begin(space, page, MI_BIN_SOLO, 0);
  *made = page;
  return page->start + inside;
}

static void* single_alloc(mi_space_t* space, size_t size, size_t alignment, size_t offset) {
  const size_t inside = (0 - offset) & (sizeof(mi_block_t) - 1) & (alignment - 1);  // as in page.c
  if (size > MI_AMOUNT_MAX) return NULL;
  const size_t block_size = mi_round_up(mi_policy_need(space->policy, size) + inside, MI_OS_PAGE);
  if (!_mi_account_charge(mi_account_of(space->heap), block_size)) return NULL;  // before memory is taken
  mi_page_t* page;
  uint8_t* const p = single_make(space, block_size, alignment, offset + inside, inside, &page);
  if (p == NULL) {
    space_uncharge(space, (int64_t)block_size);
  } else if (page_pads(page)) {
    block_pad(page, 0, p, size);
  }
  return p;
}

void* _mi_space_alloc(mi_space_t* space, size_t size, size_t alignment, size_t offset, bool zero) {
  if (size == 0) size = 1;
  if (offset == 0 && alignment <= MI_CLASS_SIZE_MAX && size <= MI_CLASS_SIZE_MAX) {
    const size_t need = mi_policy_need(space->policy, size),
                 room = (alignment > 1 ? mi_round_up(need, alignment) : need);
    // The smallest block is 16 bytes: a slice then has no more of them than there are bits.
    if (room <= MI_CLASS_SIZE_MAX) return class_alloc(space, mi_bin_of(room < 16 ? 16 : room), size, zero);
  }
  return single_alloc(space, size, alignment == 0 ? 1 : alignment, offset);
}

// --- blocks --------------------------------------------------------------------------------------------------------

const char* _mi_space_refusal(const mi_space_t* space) {
  if (mi_load_acquire((_Atomic(uint32_t)*)&space->sealed) != 0) return "the heap is sealed (mi_heap_protect)";
  if (mi_space_is_inherited(space)) return "its secrets are those of the process that forked this one";
  return NULL;
}

static mi_cold _Noreturn void freed_already(const char* function, const mi_page_t* page, const void* p) {
  const mi_space_t* const space = mi_space_segment_of(page)->space;
  const bool frees = (strncmp(function, "mi_free", 7) == 0);
  _mi_corruption(EAGAIN, "%s: %s %p, a block of %zu bytes (class %zu, heap %p \"%s\", thread %u)\n", function,
                 frees ? "double free of" : "use after free of", p, page->block_size, page->block_size,
                 (void*)space->heap, space->name, _mi_os_thread_id());
}

// The number of the block that `p` starts, which is live; else the program ends.
static size_t block_index(const mi_page_t* page, const void* p, const char* function) {
  const mi_space_t* const space = mi_space_segment_of(page)->space;
  const size_t offset = (size_t)((const uint8_t*)p - page->start);
  size_t index = 0, inside = offset;
  if (page->bin != MI_BIN_SOLO) {
    index = offset / page->block_size;
    inside = offset % page->block_size;
    if (mi_unlikely(inside != 0 || index >= page->reserved)) index = SIZE_MAX;
  } else if (mi_unlikely(inside >= sizeof(mi_block_t))) {
    index = SIZE_MAX;
  }
  if (mi_unlikely(index == SIZE_MAX)) {
    _mi_corruption(EINVAL, "%s: invalid pointer %p: no block starts there (class %zu, heap %p \"%s\", thread %u)\n",
                   function, p, page->block_size, (void*)space->heap, space->name, _mi_os_thread_id());
  }
  if (mi_unlikely(!mi_space_is_live(page, index))) freed_already(function, page, p);
  return index;
}

// How many bytes of the block there are behind `p`, which starts it.
static size_t block_room(const mi_page_t* page, const void* p) {
  const size_t inside = (page->bin == MI_BIN_SOLO ? (size_t)((const uint8_t*)p - page->start) : 0);
  return page->block_size - inside;
}

size_t _mi_space_block_size(mi_page_t* page, const void* p, const char* function) {
  const size_t index = block_index(page, p, function);
  return (page_pads(page) ? size_of(page, index) : block_room(page, p));
}

bool _mi_space_resize(mi_page_t* page, void* p, size_t size, bool zero, bool may_waste, const char* function) {
  const mi_space_t* const space = mi_space_segment_of(page)->space;
  const size_t index = block_index(page, p, function), room = block_room(page, p);
  if (size >= room + (page_pads(page) ? 0 : 1) || (!may_waste && size < room / 2)) return false;
  if (_mi_space_refusal(space) != NULL) return false;
  const size_t former = _mi_space_block_size(page, p, function);
  if (page_pads(page)) block_check(page, index, p, function);
  if (space->wipes && size < former) space_wipe(space, (uint8_t*)p + size, former - size);
  if (page_pads(page)) {
    if (zero && size > former) memset((uint8_t*)p + former, 0, size - former);
    block_pad(page, index, p, size + (size == 0));
  } else if (zero) {
    memset((uint8_t*)p + size, 0, room - size);
  }
  return true;
}

// A bit was cleared: a block less.
static void page_leave(mi_space_t* space, mi_page_t* page, size_t index) {
  mi_space_segment_t* const segment = mi_space_segment_of(page);
  const uint64_t bit = (uint64_t)1 << mi_page_slice(page);
  if (index / 64 < mi_load_relaxed(page_hint(page))) mi_store_relaxed(page_hint(page), (uint16_t)(index / 64));
  // From here on the page may be somebody else's, unless the count falls to zero: then it is closed only through here
  // or by a collect, and either way it was empty.
  const uint64_t state = atomic_fetch_sub_explicit(mi_space_state(page), MI_SPACE_ONE, memory_order_seq_cst);
  if (mi_space_bin(state) != MI_BIN_SOLO && (mi_load_seq_cst(&segment->room) & bit) == 0) {
    mi_fetch_or_seq_cst(&segment->room, bit);
  }
  if (mi_space_taken(state) != 1) return;
  const int64_t idle = mi_fetch_add_relaxed(&space->idle, (int64_t)1) + 1;
  if (mi_space_bin(state) == MI_BIN_SOLO || idle > MI_SPACE_IDLE_MAX) page_close(space, page);
}

// The block is not taken any more.
static void block_release(mi_space_t* space, mi_page_t* page, size_t index) {
  // Release: the last writes to the block.
  mi_fetch_and_acq_rel(&mi_space_bits(page)[index / 64], ~((uint64_t)1 << (index % 64)));
  page_leave(space, page, index);
}

// A place of the ring gets `p`, or nothing; what was there comes out of quarantine. Somebody who stops between number
// and place for 1,024 frees finds a younger block there.
static void withheld_swap(mi_space_t* space, size_t place, void* p) {
  uint8_t* const old = mi_exchange_acq_rel(&space->withheld[place], p);
  if (old == NULL) return;
  mi_page_t* const page = _mi_page_of_any(old);
  block_release(space, page, page->bin == MI_BIN_SOLO ? 0 : mi_page_block_index(page, old));
}

// Of large blocks in quarantine only the address stays.
static void block_withhold(mi_space_t* space, mi_page_t* page, size_t index, void* p) {
  uint8_t* inner = page->start + index * page->block_size;
  if (page->block_size >= MI_QUARANTINE_PURGE_FROM && !space->is_secret) {
    const size_t size = mi_os_pages_inside(&inner, page->block_size);
    _mi_os_purge(inner, size, true);
  }
  withheld_swap(space, mi_fetch_add_relaxed(&space->withheld_next, 1u) % MI_QUARANTINE, p);
}

static void withheld_end(mi_space_t* space) {
  for (size_t i = 0; space->withheld != NULL && i < MI_QUARANTINE; i++) withheld_swap(space, i, NULL);
}

void _mi_space_free(mi_page_t* page, void* p) {
  mi_space_t* const space = mi_space_segment_of(page)->space;
  const size_t index = block_index(page, p, "mi_free");
  const char* const refusal = _mi_space_refusal(space);
  if (mi_unlikely(refusal != NULL) && mi_load_relaxed(&space->sealed) != 0) {
    _mi_error(EPERM, "mi_free: %p stays: heap %p (%s): %s\n", p, (void*)space->heap, space->name, refusal);
    errno = EPERM;
    return;
  }
  if (page_pads(page) && mi_likely(refusal == NULL)) block_check(page, index, p, "mi_free");
  // In a child of fork there is nothing to wipe.
  if (space->wipes && mi_likely(refusal == NULL))
    space_wipe(space, page->start + index * page->block_size, page->block_size);
  const uint64_t bit = (uint64_t)1 << (index % 64);
  // Release: the last writes to the block.
  if (mi_unlikely((mi_fetch_and_acq_rel(&mi_space_live(page)[index / 64], ~bit) & bit) == 0))
    freed_already("mi_free", page, p);
  if (space->withheld == NULL) {
    page_leave(space, page, index);
  } else {
    block_withhold(space, page, index, p);
  }
}

// --- the whole -----------------------------------------------------------------------------------------------------

static bool segment_pages_each(mi_space_segment_t* segment, bool (*fn)(mi_page_t*, void*), void* arg) {
  for (size_t slice = 1; slice < MI_SLICES_PER_SEGMENT; slice++) {
    mi_page_t* const page = slot_at(segment, slice);
    if ((mi_load_acquire(mi_space_state(page)) & MI_SPACE_OPEN) != 0 && !fn(page, arg)) return false;
  }
  return true;
}

bool _mi_space_pages_each(mi_space_t* space, bool (*fn)(mi_page_t* page, void* arg), void* arg) {
  for (mi_space_segment_t* s = mi_load_acquire(&space->segments); s != NULL; s = s->next) {
    if (!segment_pages_each(s, fn, arg)) return false;
  }
  for (mi_space_segment_t* s = mi_load_acquire(&space->huge); s != NULL; s = s->next) {
    mi_page_t* const page = slot_at(s, 1);
    if ((mi_load_acquire(mi_space_state(page)) & MI_SPACE_OPEN) != 0 && !fn(page, arg)) return false;
  }
  return true;
}

static bool collect_page(mi_page_t* page, void* space) {
  page_close(space, page);
  return true;
}

void _mi_space_collect(mi_space_t* space, bool force) {
  if (mi_load_acquire(&space->sealed) != 0) return;
  if (force) withheld_end(space);
  if (mi_load_relaxed(&space->idle) > 0) _mi_space_pages_each(space, collect_page, space);
}

bool _mi_space_try_enter(mi_space_t* space) {
  uint32_t expected = 0;
  return mi_cas_strong_acq_rel(&space->lock, &expected, 1u);
}

void _mi_space_enter(mi_space_t* space) {
  while (!_mi_space_try_enter(space)) _mi_os_yield();
}

void _mi_space_leave(mi_space_t* space) { mi_store_release(&space->lock, 0u); }

typedef struct clear_s {
  mi_space_t* space;
  bool ends;
} clear_t;

static bool clear_page(mi_page_t* page, void* arg) {
  const clear_t* const clear = arg;
  mi_space_t* const space = clear->space;
  if ((mi_heap_flags(space->heap) & MI_HEAP_COUNTED) != 0) page_count_out(&_mi_stats.ended, page, page->bin);
  if (space->wipes && !mi_space_is_inherited(space)) space_wipe(space, page->start, page->capacity * page->block_size);
  mi_store_relaxed(mi_space_state(page), (uint64_t)0);
  if (clear->ends) {
    space_uncharge(space, page_charged(page));
    mi_gauge_sub(&_mi_stats.pages, 1);
  } else {
    page_release(space, page);
  }
  return true;
}

void _mi_space_clear(mi_space_t* space, bool ends) {
  clear_t clear = {space, ends};
  _mi_space_enter(space);
  // The ring first: the child of a fork that stops this here finds no block in it whose page is gone.
  for (size_t i = 0; space->withheld != NULL && i < MI_QUARANTINE; i++)
    mi_store_release(&space->withheld[i], (void*)NULL);
  mi_stores_in_order();
  // What is to be wiped must be open. (Of a child, nothing is.)
  if (mi_load_relaxed(&space->sealed) != 0 && space->wipes && !mi_space_is_inherited(space))
    _mi_space_set_access(space, MI_ACCESS_WRITE);
  _mi_space_pages_each(space, clear_page, &clear);
  for (size_t bin = 0; bin < MI_BIN_COUNT; bin++) mi_store_relaxed(&space->current[bin], (mi_page_t*)NULL);
  mi_store_relaxed(&space->idle, (int64_t)0);
  mi_store_relaxed(&space->stamp, _mi_fork_stamp);  // what comes now is of this process
  if (!ends) _mi_space_leave(space);
}

// --- access --------------------------------------------------------------------------------------------------------

typedef struct access_s {
  mi_space_t* space;
  mi_access_t access;
} access_t;

static bool access_page(mi_page_t* page, void* arg) {
  const access_t* const a = arg;
  if (!a->space->is_secret && page->slices != 0) return true;  // with the whole segment
  const stretch_t s = stretch_of(page);
  return _mi_os_access(s.start, s.size, a->access);
}

static bool access_all(mi_space_t* space, mi_access_t access) {
  for (mi_space_segment_t* s = mi_load_acquire(&space->segments); s != NULL && !space->is_secret; s = s->next) {
    if (!_mi_os_access(mi_arena_segment(s->arena, s->index) + MI_SLICE_SIZE, MI_SOLO_SIZE_MAX, access)) return false;
  }
  return _mi_space_pages_each(space, access_page, &(access_t){space, access});
}

bool _mi_space_set_access(mi_space_t* space, mi_access_t access) {
  const uint32_t now = mi_load_relaxed(&space->sealed);
  const mi_access_t former = (now == 0 ? MI_ACCESS_WRITE : (mi_access_t)(now - 1));
  if (access == former) return true;
  // Whoever looks while it changes is refused.
  mi_store_release(&space->sealed, 1 + (uint32_t)MI_ACCESS_NONE);
  const bool ok = (mi_space_is_inherited(space) || access_all(space, access));
  if (!ok) access_all(space, former);
  const mi_access_t result = (ok ? access : former);
  mi_store_release(&space->sealed, result == MI_ACCESS_WRITE ? 0 : 1 + (uint32_t)result);
  return ok;
}

// --- a check -------------------------------------------------------------------------------------------------------

typedef struct breach_s {
  const char* what;
  const void* at;
  int64_t idle;
  uint64_t held;    // slices of the segment that pages have
  size_t withheld;  // blocks that are taken and not live
  mi_space_t* space;
} breach_t;

static bool breach(breach_t* b, const void* at, const char* what) {
  b->at = at;
  b->what = what;
  return false;
}

static bool breach_page(mi_page_t* page, void* arg) {
  breach_t* const b = arg;
  const uint64_t state = mi_load_acquire(mi_space_state(page));
  if (page->kind != MI_PAGE_SPACE) return breach(b, page, "a page is of another kind");
  if (mi_space_fit(state) != page->reserved || mi_space_bin(state) != page->bin)
    return breach(b, page, "a page's state is not that of its class");
  if (page->bin != MI_BIN_SOLO && page->block_size != mi_bin_size(page->bin))
    return breach(b, page, "a page's blocks are of another size than its class");
  if (mi_load_relaxed(&page->heap) != b->space->heap) return breach(b, page, "a page names another heap");
  uint64_t taken = 0;
  for (size_t i = 0; i < page->reserved; i++) {
    const bool is_taken = (mi_load_acquire(&mi_space_bits(page)[i / 64]) >> (i % 64) & 1) != 0;
    const bool is_live = mi_space_is_live(page, i);
    if (is_live && !is_taken) return breach(b, page, "a block is live that is not taken");
    taken += is_taken;
    b->withheld += is_taken && !is_live;
  }
  // In the child of a fork, a thread that is gone may have counted a block that it never got.
  if (taken > mi_space_taken(state) || (taken < mi_space_taken(state) && _mi_fork_stamp == 1))
    return breach(b, page, "a page counts other blocks than are live");
  if (page->capacity > page->reserved) return breach(b, page, "a page has used more blocks than fit");
  if (mi_space_taken(state) == 0) b->idle++;
  const size_t slice = mi_page_slice(page);
  if (page->slices == 0) return true;
  if (slice + page->slices > MI_SLICES_PER_SEGMENT) return breach(b, page, "a page leaves its segment");
  const uint64_t run = mi_run_mask(slice, page->slices);
  if ((b->held & run) != 0) return breach(b, page, "two pages have one slice");
  b->held |= run;
  return true;
}

const char* _mi_space_breach(mi_space_t* space, const void** at) {
  breach_t b = {.space = space};
  bool ok = true;
  for (mi_space_segment_t* s = mi_load_acquire(&space->segments); s != NULL && ok; s = s->next) {
    b.held = 0;
    if (s->space != space) ok = breach(&b, s, "a segment names another space");
    ok = ok && segment_pages_each(s, breach_page, &b);
    const uint64_t free = mi_load_acquire(&s->free);
    if (ok && ((free & b.held) != 0 || (_mi_fork_stamp == 1 && (free | b.held) != MI_SLICES_ALL)))
      ok = breach(&b, s, "a segment's free slices are not those without pages");
    if (ok && mi_load_acquire(&s->arena->info[s->index].free) != 0)
      ok = breach(&b, s, "a segment of the heap's own is free for others");
  }
  for (mi_space_segment_t* s = mi_load_acquire(&space->huge); s != NULL && ok; s = s->next) {
    mi_page_t* const page = slot_at(s, 1);
    const bool open = (mi_load_acquire(mi_space_state(page)) & MI_SPACE_OPEN) != 0;
    ok = (!open || breach_page(page, &b));
  }
  size_t withheld = 0;
  for (size_t i = 0; space->withheld != NULL && i < MI_QUARANTINE; i++)
    withheld += (mi_load_acquire(&space->withheld[i]) != NULL);
  if (ok && b.withheld != withheld && _mi_fork_stamp == 1)
    ok = breach(&b, space, "other blocks are in quarantine than its ring has");
  if (ok && b.idle != mi_load_acquire(&space->idle) && _mi_fork_stamp == 1)
    ok = breach(&b, space, "it counts other pages without blocks than there are");
  *at = b.at;
  return (ok ? NULL : b.what);
}
