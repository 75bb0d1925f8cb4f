// Bit pages: pages of heaps with a policy. Their free blocks hold nothing, neither links nor marks: the state of each
// block is a byte, out of line, in memory that no block is near. So there is no list that an overflow could lead
// astray, nothing to encode, no pointer to be read in a free block, and every free can be checked before the block is
// touched. The byte of a block that is handed out also says what was asked for.
//
// The state of such a page (full, delayed, abandoned, listed) is a word as page->thread_free is for others, and page.c
// treats both alike (mi_page_word). Instead of a list it has MI_SIGNAL: others freed blocks since the last collect.
//
// Who writes what. A block's state is written by who has the page, with plain stores, and by others with a CAS from the
// live state that they saw: to REMOTE by the one who frees it, to another live one by the one who resizes it. A block
// that is free, or that another thread freed, is not freed or resized again. The owner's own free loads, compares and
// stores: the next paragraphs say what comes of a CAS in between. A heap that wipes has its owner make the block
// REMOTE, too, before it is written to.
//
// Remote free: (1) read the word's generation, (2) make the state REMOTE, (3) set the block's bit in `remote`, (4) see
// that somebody will look.
//  * Until (3) the block is not free for the page's owner, which keeps the page: the collect frees blocks that are
//    REMOTE and have their bit. After (3) the owner may find the bit and release the page at once, and the slice may be
//    another page, of any heap, a moment later. So after (3) the freer touches nothing but the word, which is
//    type-stable: its memory is the slice's for ever. Each page that begins in the slice gets a generation of its own,
//    and every CAS of the freer names the generation that it read before (2): it can change the word of that page only,
//    and while the word has that generation and is DELAYED or ABANDONED, there is the page.
//  * (4) is: MI_SIGNAL is set, nothing to do. NORMAL or DELAYING: set it by CAS. DELAYED: make it DELAYING, put the
//    page on its theap's delayed list (through `queued`: once), make it NORMAL. ABANDONED: make it NORMAL, and own it.
//  * The collect clears MI_SIGNAL first and looks at the bits then; a freer sets its bit first and looks at MI_SIGNAL
//    then. All four are sequentially consistent: no bit is left without a signal.
//  * A page that is `queued` is not released, abandoned or forgotten until the theap drained its list: queued counts as
//    DELAYING (page_is_delaying).
//
// Double frees. The owner's free finds that the state is not live; another's finds the same, or its CAS does. Only if
// the CAS comes between the owner's load and store neither sees the other: then the state is FREE, and the other
// thread's bit is one of a block that is not REMOTE. The collect finds that, or the next use of the block; or, if the
// owner's free ends the page, its end: all `remote` bits are set until another page begins in the slice, the end takes
// what was set before, and who sets a bit after that finds it set. No live block has a bit there then, so that no free
// which is right meets it. A bit that comes later still, to a block that was handed out again or to another page, is
// again one of a block that is not REMOTE: it is reported, and frees nothing. (Model double_free.) Not noticed is whose
// CAS comes when the address is in use again: that is a free of a live block. Nor is, in the few instructions between
// its look at the generation and the CAS, that the page ended and a page of another size began: the block that the byte
// belongs to then may be freed instead.
//
// Quarantine. A block that is freed has a bit in `fresh`, and goes to `old` and then out as the page is looked at,
// each time when the theap has seen MI_QUARANTINE frees since. So it is not handed out again before as many.
//
// Order. A page's blocks are added an OS page at a time (or all, where each is as large). Of up to 64 that lie together
// those that are free become available, and go out at random; then of others, at random too. In the secure build they
// go out in the order of their addresses, from a random one on, and word follows word; blocks of more than 1 KiB become
// available one at a time, at random among those that were in use before, or among all if none of those is free.
//
// Cost. A free and an allocation of the secure build touch two lines of the page's slot, one of its head, the line of
// the state, and that of the block in which the padding begins; in six and in two branches, none of which depends on
// sizes, and without a division or a random number: programs whose sizes are mixed spent more time on branches that no
// processor foresees than on everything else. A free finds the page by its head, which lies at a multiple of the
// slice's number: what lies in the slices themselves, whatever it is, is not read.
#include "mi/internal/bit_page.h"

#include <errno.h>
#include <string.h>

#include "mi/internal/account.h"
#include "mi/internal/options.h"
#include "mi/internal/os.h"
#include "mi/internal/random.h"
#include "mi/internal/stats.h"

// --- where the bits are -----------------------------------------------------------------------------------------
// As much address space as an arena needs is reserved beside it when its first such page is made, or with the arena in
// the secure build: first the near stretches of all slices, then the far ones, each with a margin that nobody can write
// to. It is made writable in address order.

_Atomic(uintptr_t) _mi_span_bits;
_Atomic(uint64_t) _mi_padding_pattern[MI_PADDING_WORDS] __attribute__((aligned(MI_CACHE_LINE)));
const mi_bits_t _mi_bits_empty;
size_t _mi_bits_stride = MI_BITS_SMALL;

#define MARGIN MI_SLICE_SIZE
#define COMMIT_SEGMENTS ((size_t)4)
#define NEAR_STRIDE (MI_SLICES_PER_SEGMENT * MI_BITS_SMALL)  // per segment
#define FAR_STRIDE (MI_SLICES_PER_SEGMENT * MI_BITS_LARGE)

static size_t near_size(const mi_arena_t* arena) {
  return mi_round_up(arena->segment_count, COMMIT_SEGMENTS) * NEAR_STRIDE + MARGIN;
}
static size_t area_size(const mi_arena_t* arena) {
  return near_size(arena) + mi_round_up(arena->segment_count, COMMIT_SEGMENTS) * FAR_STRIDE + 2 * MARGIN;
}

static uint8_t* arena_bits(mi_arena_t* arena) {
  uint8_t* seen = mi_load_acquire(&arena->bits);
  if (mi_likely(seen != NULL)) return seen;
  const size_t size = area_size(arena);
  uint8_t* const area = _mi_os_reserve(size, MI_OS_PAGE, MI_SECURE != 0);
  if (area == NULL) return NULL;
  uint8_t* const bits = area + MARGIN;
  if (mi_cas_strong_acq_rel(&arena->bits, &seen, bits)) return bits;
  _mi_os_unreserve(area, size);
  return seen;
}

bool _mi_bits_reserve(mi_arena_t* arena) { return arena_bits(arena) != NULL; }

void _mi_bits_are_span(const mi_arena_t* arena, size_t first) {
  mi_store_relaxed(&_mi_span_bits, (uintptr_t)mi_load_acquire(&arena->bits) + first * NEAR_STRIDE);
}

void _mi_bits_unmap(mi_arena_t* arena) {
  uint8_t* const bits = mi_load_acquire(&arena->bits);
  if (bits != NULL) _mi_os_unreserve(bits - MARGIN, area_size(arena));
}

// Fills the pattern, unless it is there. Threads that come at the same time do so together: each word is that of who is
// first.
static void padding_begin(void) {
  // Acquire: all other words, which who stored it had stored or seen.
  if (mi_likely(mi_load_acquire(&_mi_padding_pattern[MI_PADDING_WORDS - 1]) != 0)) return;
  for (size_t i = 0; i < MI_PADDING_WORDS; i++) {
    uint64_t none = 0, word = _mi_os_random();
    for (size_t shift = 0; shift < 64; shift += 8)
      if ((word >> shift & 0xff) == 0) word |= (uint64_t)1 << shift;
    // Release: who finds the last one finds all. Nothing is stored over what others may read already.
    mi_cas_strong_acq_rel(&_mi_padding_pattern[i], &none, word);
  }
}

// The stretches of slice `slice` of segment `index`.
static mi_bits_t* near_stretch(uint8_t* bits, size_t index, size_t slice) {
  return (mi_bits_t*)(bits + index * NEAR_STRIDE + slice * MI_BITS_SMALL);
}
static uint8_t* far_stretch(const mi_arena_t* arena, uint8_t* bits, size_t index, size_t slice) {
  return bits + near_size(arena) + index * FAR_STRIDE + slice * MI_BITS_LARGE;
}

// Makes the bits of the segments up to `index` writable.
static bool bits_commit(mi_arena_t* arena, uint8_t* bits, size_t index) {
  size_t ready = mi_load_acquire(&arena->bits_ready);
  if (mi_likely(index < ready)) return true;
  const size_t end = mi_round_up(index + 1, COMMIT_SEGMENTS), count = end - ready;
  uint8_t *const far = far_stretch(arena, bits, 0, 0), *const area_end = bits - MARGIN + area_size(arena);
  if (!_mi_os_commit_next(bits + ready * NEAR_STRIDE, count * NEAR_STRIDE, far) ||
      !_mi_os_commit_next(far + ready * FAR_STRIDE, count * FAR_STRIDE, area_end))
    return false;
  while (ready < end && !mi_cas_weak_acq_rel(&arena->bits_ready, &ready, end)) {
  }
  return true;
}

// The head of a slice's bits, writable; NULL: no memory.
static mi_bits_t* bits_make(const mi_page_t* page) {
  size_t index;
  mi_arena_t* const arena = _mi_arena_of((const uint8_t*)page + 1, &index);
  uint8_t* const bits = arena_bits(arena);
  if (bits == NULL) return NULL;
  padding_begin();
  if (!bits_commit(arena, bits, index)) return NULL;
  mi_bits_t* const head = near_stretch(bits, index, mi_page_slice(page));
  head->far = far_stretch(arena, bits, index, mi_page_slice(page));
  size_t offset;
  if (mi_span_offset(page, &offset) && mi_load_relaxed(&_mi_span_bits) == 0)
    _mi_bits_are_span(arena, index - (offset >> MI_SEGMENT_SHIFT));
  return head;
}

// The same where the page cannot be in the span, or perhaps there are none. NULL: there are none.
static mi_bits_t* bits_at(const mi_segment_t* segment, size_t slice) {
  size_t index;
  mi_arena_t* const arena = _mi_arena_of((const uint8_t*)segment + 1, &index);
  if (arena == NULL || index >= mi_load_acquire(&arena->bits_ready)) return NULL;
  return near_stretch(mi_load_acquire(&arena->bits), index, slice);
}

mi_bits_t* _mi_bits_elsewhere(const mi_page_t* page) { return bits_at(mi_page_segment(page), mi_page_slice(page)); }

void* _mi_bits_beside_make(const mi_page_t* page) {
  const mi_bits_t* const head = bits_make(page);
  return (head == NULL ? NULL : head->far);
}

void* _mi_bits_beside(const mi_page_t* page) { return _mi_bits_elsewhere(page)->far; }

void _mi_bits_forget(const mi_segment_t* segment, size_t slice) {
  const size_t last = (slice == 0 ? MI_SLICES_PER_SEGMENT - 1 : slice);
  for (size_t s = (slice == 0 ? 1 : slice); s <= last; s++) {
    mi_bits_t* const bits = bits_at(segment, s);
    if (bits == NULL) return;
    if (mi_load_relaxed(&bits->policy) != 0) mi_store_relaxed(&bits->policy, 0u);
  }
}

uint32_t _mi_bits_last_policy(const void* p) {
  const mi_bits_t* const bits = bits_at(mi_segment_of(p), (uintptr_t)p >> MI_SLICE_SHIFT & (MI_SLICES_PER_SEGMENT - 1));
  return (bits == NULL ? 0 : mi_load_relaxed((_Atomic(uint32_t)*)&bits->policy));
}

// Blocks of word `w` that are not live for their owner are freed by another thread: both freed them at the same moment.
// This may not return. If it does, no callback has run: it will when this thread is through with the page.
static mi_cold void found_freed_twice(mi_page_t* page, mi_bits_t* bits, size_t w, uint64_t twice) {
  for (; twice != 0; twice &= twice - 1)
    _mi_upcalls.policy_freed_twice(page, mi_bits_block(page, bits, 64 * w + mi_ctz(twice)));
}

// --- the life of a page -----------------------------------------------------------------------------------------

// Smaller blocks' slack is never wider than a state holds.
#define WIDE_FROM ((size_t)256)

// In a page of blocks of more than 1 KiB, those that were handed out before.
#define WIDE_BLOCKS ((size_t)64)
static inline uint64_t* touched(const mi_bits_t* bits) { return (uint64_t*)(bits->wide + WIDE_BLOCKS); }

// Modulo 2^64. An odd number is its own inverse modulo 8; each step doubles the bits that are right.
static uint64_t inverse_of(uint64_t odd) {
  uint64_t inverse = odd;
  for (int right = 3; right < 64; right *= 2) inverse *= 2 - odd * inverse;
  return inverse;
}

static void bits_clear(mi_bits_t* bits, size_t blocks) {
  memset((void*)bits->states, 0, mi_round_up(blocks, 64));
  memset((void*)mi_bits_remote(bits, 0), 0, MI_BITS_REMOTE(mi_round_up(blocks, 64)));
}

bool _mi_bits_begin(mi_page_t* page, uint32_t policy) {
  mi_bits_t* const bits = bits_make(page);
  if (mi_unlikely(bits == NULL)) return false;
  const size_t size = page->block_size, reserved = page->reserved, rounded = mi_round_up(reserved, 64);
  const bool single = mi_page_is_single(page);
  bits->page = page;
  page->bits = bits;
  bits->start = page->start;
  bits->is_far = (reserved > MI_BITS_NEAR);
  uint8_t* const near = (uint8_t*)(bits + 1);
  bits->states =
      (mi_state_t*)(bits->is_far ? bits->far + MI_BITS_REMOTE(MI_BITS_FAR) : near + MI_BITS_REMOTE(MI_BITS_NEAR));
  bits->wide = (uint16_t*)(bits->states + rounded);
  bits->is_wide = (!single && size > MI_DIRECT_SIZE_MAX);
  mi_assert(reserved <= MI_BITS_FAR &&
            (single || size < WIDE_FROM || rounded + reserved * sizeof(uint16_t) <= MI_BITS_NEAR));
  mi_assert(!bits->is_wide || reserved <= WIDE_BLOCKS);
  if (bits->is_wide) *touched(bits) = 0;
  // No size of another page's: who reads one while the block is resized finds an older one of this page's.
  if (!single && size >= WIDE_FROM) memset(bits->wide, 0, reserved * sizeof(uint16_t));
  bits->magic = (single ? 0 : (((uint64_t)1 << 40) + size - 1) / size);
  bits->shift = (uint8_t)mi_ctz(size);
  bits->inverse = (single ? 0 : inverse_of(size >> bits->shift));
  bits->in_order = (MI_SECURE != 0 && !mi_policy_is_generic(policy));
  bits->quarantined = 0;
  bits->guard = 0;
  bits->stamp = 0;
  bits->avail = 0;
  bits->current = NULL;
  bits->inside = 0;
  bits_clear(bits, reserved);
  if ((policy & MI_POLICY_QUARANTINE) != 0) memset(mi_bits_waiting(bits, 0), 0, MI_BITS_WAITING(rounded));
  mi_store_relaxed(&bits->queued, 0u);
  mi_store_relaxed(&bits->policy, policy);
  for (size_t i = 1; !single && i < page->slices; i++) {  // for who frees a block in them when the page is gone
    mi_store_relaxed(&((mi_bits_t*)((uint8_t*)bits + i * MI_BITS_SMALL))->policy, policy);
    page[i].policy = (uint8_t)policy;
  }
  // A freer of the slice's former page may still look at the word: it finds another generation.
  const mi_thread_free_t word = mi_load_relaxed(&bits->word);
  mi_store_release(&bits->word, (word & ~(MI_GENERATION_ONE - 1)) + MI_GENERATION_ONE + MI_NORMAL);
  mi_store_release(&bits->count, (uint16_t)(single ? 0 : reserved));
  return true;
}

void _mi_bits_drop(mi_page_t* page) {
  mi_bits_t* const bits = mi_bits_of(page);
  if ((page->policy & MI_POLICY_WIPES) != 0) {
    for (size_t i = 0; i < page->capacity; i++) {
      if (mi_load_relaxed(&bits->states[i]) != MI_STATE_FREE)
        _mi_wipe(page->start + i * page->block_size, page->block_size);
    }
  }
  if (bits->quarantined != 0) memset(mi_bits_waiting(bits, 0), 0, MI_BITS_WAITING(mi_round_up(page->reserved, 64)));
  bits_clear(bits, page->reserved);
  bits->avail = 0;
  bits->quarantined = 0;
  mi_store_relaxed(&bits->queued, 0u);
}

// A free that comes at the same moment as the owner's of the same block left its bit, or finds it set from here on; it
// finds another generation, too. The page is NORMAL: none of the kind is on its way to the theap's list, or there.
void _mi_bits_end(mi_page_t* page) {
  mi_bits_t* const bits = mi_bits_of(page);
  mi_thread_free_t tf = mi_load_relaxed(&bits->word);
  do {
    mi_assert(MI_STATE(tf) == MI_NORMAL && mi_load_relaxed(&bits->queued) == 0);
  } while (!mi_cas_weak_acq_rel(&bits->word, &tf, (tf & ~(MI_GENERATION_ONE - 1)) + MI_GENERATION_ONE + MI_NORMAL));
  const size_t used = (page->worn ? page->reserved : page->capacity);  // others were never handed out
  const size_t words = (used + 63) / 64;
  for (size_t w = 0; w < words; w++) {
    const uint64_t twice = mi_exchange_seq_cst(mi_bits_remote(bits, w), ~(uint64_t)0);
    if (mi_unlikely(twice != 0)) found_freed_twice(page, bits, w, twice);
  }
}

// --- padding ----------------------------------------------------------------------------------------------------

// Where in the pattern it begins.
static inline size_t padding_skip(size_t padding) {
  return (padding < MI_PADDING_EDGE ? MI_PADDING_EDGE - padding : 0);
}

void _mi_padding_write(uint8_t* end, size_t padding) {
  size_t left = padding;
  for (; left >= MI_PADDING_EDGE; left -= MI_PADDING_EDGE)  // of a constant size, which compilers make fast
    memcpy(end - left, (const void*)_mi_padding_pattern, MI_PADDING_EDGE);
  memcpy(end - left, (const uint8_t*)_mi_padding_pattern + padding_skip(padding), left);
}

bool _mi_padding_is_whole(const uint8_t* end, size_t padding) {
  size_t left = padding;
  for (; left >= MI_PADDING_EDGE; left -= MI_PADDING_EDGE)
    if (mi_unlikely(!mi_padding_edge_is_whole(end - left + MI_PADDING_EDGE, MI_PADDING_EDGE))) return false;
  return memcmp(end - left, (const uint8_t*)_mi_padding_pattern + padding_skip(padding), left) == 0;
}

size_t _mi_padding_breach(const uint8_t* end, size_t padding) {
  const uint8_t *const start = end - padding, *const pattern = (const uint8_t*)_mi_padding_pattern;
  const size_t skip = padding_skip(padding);
  size_t at = 0;
  while (at < padding && start[at] == pattern[(skip + at) % MI_PADDING_EDGE]) at++;
  return at;
}

void _mi_wipe(void* p, size_t size) {
  memset(p, 0, size);
  __asm__ volatile("" : : "r"(p) : "memory");
}

// --- taking -----------------------------------------------------------------------------------------------------

static inline uint64_t free_bits(const mi_page_t* page, const mi_bits_t* bits, size_t w) {
  const size_t left = page->capacity - 64 * w;
  return mi_bits_in_state(bits, w, MI_STATE_FREE) & ~mi_bits_withheld(bits, w) & mi_run_mask(0, left < 64 ? left : 64);
}

mi_noinline bool _mi_bits_extend(mi_theap_t* theap, mi_page_t* page) {
  const size_t size = page->block_size;
  size_t count = (size >= MI_OS_PAGE ? page->reserved : MI_OS_PAGE / size);
  if (count < 8) count = 8;
  if (count > page->reserved - page->capacity) count = page->reserved - page->capacity;
  if (mi_unlikely(!mi_theap_charge(theap, count * size))) {
    if (count == 1 || !mi_theap_charge(theap, size)) return false;
    count = 1;
  }
  page->capacity += (uint32_t)count;
  mi_count_own(&_mi_tls.thread->counts.pages_extended, 1);
  return true;
}

static inline size_t current_word(const mi_bits_t* bits) { return (size_t)(bits->current - bits->states) / 64; }

// A block that is to be handed out was freed by another thread at the moment when the owner freed it.
static mi_cold void available_freed_twice(mi_page_t* page, mi_bits_t* bits, size_t w, uint64_t twice) {
  mi_fetch_and_acq_rel(mi_bits_remote(bits, w), ~twice);
  found_freed_twice(page, bits, w, twice);
}
static inline void check_available(mi_page_t* page, mi_bits_t* bits, size_t w) {
  const uint64_t twice = mi_load_relaxed(mi_bits_remote(bits, w)) & bits->avail;
  if (mi_unlikely(twice != 0)) available_freed_twice(page, bits, w, twice);
}

// The free blocks of the next word, from `w` on, that has some, as one of the `count` does.
static inline uint64_t next_free(const mi_page_t* page, const mi_bits_t* bits, size_t count, size_t* w) {
  uint64_t free;
  while ((free = free_bits(page, bits, *w)) == 0) *w = (*w + 1 < count ? *w + 1 : 0);
  return free;
}

static inline void begin_word(mi_theap_t* theap, mi_page_t* page, mi_bits_t* bits, size_t w, uint64_t avail) {
  bits->avail = avail;
  bits->current = &bits->states[64 * w];
  bits->base = page->start + 64 * w * page->block_size;
  check_available(page, bits, w);
  const size_t blocks = mi_popcount(avail);
  page->recycled += blocks;
  theap->supplied_blocks += blocks;
  theap->supplied_bytes += blocks * page->block_size;
}

void _mi_bits_take_back(mi_theap_t* theap, const mi_page_t* page) {
  const size_t blocks = mi_popcount(mi_bits_of(page)->avail), bytes = blocks * page->block_size;
  // Those that came before the last deferred_free are counted there.
  theap->supplied_blocks -= (blocks < theap->supplied_blocks ? blocks : theap->supplied_blocks);
  theap->supplied_bytes -= (bytes < theap->supplied_bytes ? bytes : theap->supplied_bytes);
}

// Now and then a page gets its next blocks before it must, so that a block that is freed is not always the next to be
// handed out. In the secure build not where more than an OS page is free already: a page would go on growing, and in
// the end touch all of its memory, however few blocks are in use.
#define MI_FRESH_EVERY 16
static inline bool may_be_fresh(const mi_page_t* page, const mi_bits_t* bits) {
  if (page->capacity >= page->reserved) return false;
  return !bits->in_order || (page->capacity - (page->used - page->pinned)) * page->block_size <= MI_OS_PAGE;
}

uint8_t* _mi_bits_pop_next(mi_theap_t* theap, size_t size) {
  if (mi_unlikely(size > MI_DIRECT_SIZE_MAX || mi_load_relaxed(&_mi_is_corrupt))) return NULL;
  mi_page_t* const page = theap->direct[(size + 7) / 8];
  mi_bits_t* const bits = page->bits;
  if (page->used - page->pinned >= page->capacity || bits->avail != 0 || bits->current == NULL) return NULL;
  if (may_be_fresh(page, bits)) {  // _mi_bits_refill may add some
    if (mi_theap_random(theap) >> 32 < ((uint64_t)1 << 32) / MI_FRESH_EVERY) return NULL;
  }
  const size_t count = ((size_t)page->capacity + 63) / 64;
  size_t w = current_word(bits);
  if (mi_unlikely(w >= count)) return NULL;
  const uint64_t avail = next_free(page, bits, count, &w);
  begin_word(theap, page, bits, w, avail);
  return mi_bits_pop_direct(page, size);
}

// Blocks of more than 1 KiB are made available one by one, any of those that were handed out before, or else any: all
// are added to a page at once or by eight, and a program that always has one of them would touch all.
static uint64_t choose_one(const mi_bits_t* bits, uint64_t avail, uint64_t from_start) {
  const uint64_t used = avail & *touched(bits), from = (used != 0 ? used : avail);
  const uint64_t next = ((from & from_start) != 0 ? from & from_start : from), one = next & (0 - next);
  *touched(bits) |= one;
  return one;
}

void _mi_bits_refill(mi_theap_t* theap, mi_page_t* page) {
  mi_bits_t* const bits = mi_bits_of(page);
  if (mi_unlikely(bits->avail != 0)) {
    check_available(page, bits, current_word(bits));
    return;
  }
  const uint64_t random = mi_random_next(theap->thread);
  theap->random ^= random;
  // Sometimes there is more to choose from before it must be.
  if (random % MI_FRESH_EVERY == 0 && may_be_fresh(page, bits)) (void)_mi_bits_extend(theap, page);
  const size_t count = ((size_t)page->capacity + 63) / 64;
  // In order from where the last one was; else any.
  const bool begins = (bits->current == NULL);
  const size_t last = (begins ? 0 : current_word(bits));
  size_t w = (bits->in_order && last < count ? last : (random >> 16 & 0xffff) * count >> 16);
  uint64_t avail = next_free(page, bits, count, &w);
  if (bits->in_order) {
    const size_t left = page->capacity - 64 * w, blocks = (left < 64 ? left : 64);
    const uint64_t from_start = ~(uint64_t)0 << ((random >> 32 & 0xffff) * blocks >> 16);
    if (bits->is_wide) {
      avail = choose_one(bits, avail, from_start);
    } else if (begins && (avail & from_start) != 0) {
      avail &= from_start;  // those before it come next
    }
  }
  begin_word(theap, page, bits, w, avail);
}

// --- quarantine -------------------------------------------------------------------------------------------------

static bool page_quarantines(const mi_page_t* page, const mi_theap_t* theap) {
  return (page->policy & MI_POLICY_QUARANTINE) != 0 && theap != NULL;
}

// Blocks in `bits` of word `w` go into quarantine.
static void quarantine_add(mi_theap_t* theap, mi_page_t* page, mi_bits_t* bits, size_t w, uint64_t freed) {
  const uint32_t count = (uint32_t)mi_popcount(freed);
  if (bits->quarantined == 0) bits->stamp = theap->frees;
  mi_bits_waiting(bits, w)->fresh |= freed;
  bits->quarantined += count;
  theap->frees += count;
  if (page->block_size < MI_QUARANTINE_PURGE_FROM) return;
  for (uint64_t rest = freed; rest != 0; rest &= rest - 1) {
    uint8_t* inner = mi_bits_block(page, bits, 64 * w + mi_ctz(rest));
    const size_t size = mi_os_pages_inside(&inner, page->block_size - bits->inside);
    if (size > 0) (void)_mi_memory_purge(inner, size);
  }
}

void _mi_bits_release_old(mi_page_t* page, bool all) {
  mi_bits_t* const bits = mi_bits_of(page);
  const mi_theap_t* const theap = mi_load_relaxed(&page->theap);
  if (bits->quarantined == 0 || bits->magic == 0) return;
  if (!all && theap != NULL && theap->frees - bits->stamp < MI_QUARANTINE) return;
  uint32_t out = 0;
  const size_t count = mi_bits_word_count(page);
  for (size_t w = 0; w < count; w++) {
    mi_waiting_t* const word = mi_bits_waiting(bits, w);
    if (all) {
      word->old |= word->fresh;
      word->fresh = 0;
    }
    out += (uint32_t)mi_popcount(word->old);
    word->old = word->fresh;
    word->fresh = 0;
    if (all) word->old = 0;
  }
  bits->stamp = (theap == NULL ? 0 : theap->frees);
  bits->quarantined -= out;
  page->used -= out;
}

bool _mi_bits_is_due(const mi_page_t* page) {
  const mi_bits_t* const bits = mi_bits_of(page);
  const mi_theap_t* const theap = mi_load_relaxed((_Atomic(mi_theap_t*)*)&page->theap);
  return bits->quarantined == 0 || theap->frees - bits->stamp >= MI_QUARANTINE;
}

// --- freeing by the owner ---------------------------------------------------------------------------------------

void _mi_bits_free_local(mi_page_t* page, mi_bits_t* bits, size_t index) {
  mi_theap_t* const theap = mi_load_relaxed(&page->theap);
  mi_store_relaxed(&bits->states[index], MI_STATE_FREE);
  const bool quarantine = page_quarantines(page, theap);
  if (mi_unlikely(quarantine)) {
    quarantine_add(theap, page, bits, index / 64, (uint64_t)1 << (index % 64));
    if (bits->magic != 0) _mi_bits_release_old(page, false);
  }
  if (!quarantine || bits->magic == 0) page->used--;
  _mi_page_block_gone(theap, page);
}

// --- freeing by others ------------------------------------------------------------------------------------------

bool _mi_bits_change(const mi_bits_t* bits, const mi_found_t* found, uint8_t state) {
  // The bits may be another page's by now, if the block was freed by another thread since it was found.
  if (mi_unlikely(MI_GENERATION(mi_load_acquire((_Atomic(mi_thread_free_t)*)&bits->word)) != found->generation))
    return false;
  uint8_t seen = found->seen;
  return mi_cas_strong_acq_rel(found->state, &seen, state);
}

bool _mi_bits_resize(mi_page_t* page, mi_bits_t* bits, const mi_found_t* found, size_t size) {
  mi_assert(mi_bits_fits(page, bits, size));
  const size_t slack = page->block_size - size;
  const bool is_single = (bits->magic == 0);
  const uint8_t state = (is_single ? MI_STATE_WIDE : mi_bits_state_of(bits, slack));
  uint16_t* const wide = bits->wide + found->index;
  if (!_mi_bits_change(bits, found, state)) return false;
  if (is_single) {
    bits->single_size = size;
  } else if (state == MI_STATE_WIDE) {
    *wide = (uint16_t)slack;
  }
  return true;
}

bool _mi_bits_tell(mi_bits_t* bits, const mi_found_t* found) {
  const uint64_t mask = (uint64_t)1 << (found->index % 64);
  // From here on only the word is ours to look at, and what is constant for the slice. Who finds the bit set tells of
  // it all the same: it may be one of another page, of which nobody was told.
  const bool alone = (mi_fetch_or_seq_cst(found->remote, mask) & mask) == 0;
  mi_thread_free_t tf = mi_load_seq_cst(&bits->word);
  for (;;) {
    if (MI_GENERATION(tf) != found->generation || (tf & MI_SIGNAL) != 0) return alone;
    switch (MI_STATE(tf)) {
      case MI_DELAYED: {
        // Acquire: page->theap as it was when the page became full.
        if (!mi_cas_weak_acq_rel(&bits->word, &tf, MI_WITH_STATE(tf, MI_DELAYING))) continue;
        mi_theap_t* const theap = mi_load_relaxed(&bits->page->theap);
        // In one order with the drain's: either it sees our bit, or we see that it is not queued any more.
        if (mi_exchange_acq_rel(&bits->queued, 1u) == 0) {
          mi_block_t* head = mi_load_relaxed(&theap->delayed_free);
          do {
            bits->link.next = head;
          } while (!mi_cas_weak_acq_rel(&theap->delayed_free, &head, &bits->link));
        }
        // Release: the push comes before the state that lets the owner go on without us.
        tf = mi_load_relaxed(&bits->word);
        while (!mi_cas_weak_acq_rel(&bits->word, &tf, MI_WITH_STATE(tf, MI_NORMAL))) {
        }
        return alone;
      }
      case MI_ABANDONED:
        // Acquire: what the former owner left.
        if (!mi_cas_weak_acq_rel(&bits->word, &tf, MI_WITH_STATE(tf, MI_NORMAL) | MI_SIGNAL)) continue;
        _mi_page_claimed(bits->page);
        return alone;
      default:  // NORMAL, DELAYING
        if (mi_cas_weak_acq_rel(&bits->word, &tf, tf | MI_SIGNAL)) return alone;
        continue;
    }
  }
}

#if MI_SECURE
bool _mi_bits_free_plain(void* p, const size_t* size) {
  mi_bits_t* bits;
  size_t index;
  if (!mi_bits_around(p, &bits, &index)) return false;
  mi_page_t* const page = bits->page;
  mi_found_t found;
  if (mi_policy_is_generic(page->policy) || mi_bits_find(page, bits, p, &found) != MI_BLOCK_LIVE) return false;
  if (size != NULL && mi_unlikely(found.size != *size + (*size == 0))) return false;
  const size_t block_size = page->block_size, slack = block_size - found.size;
  if (mi_unlikely(!mi_page_padding_is_whole(page, (uint8_t*)p + block_size, slack))) return false;
  if (((mi_load_relaxed(&page->owner) ^ _mi_tls.tid) & ~MI_OWNER_FLAGS) == 0) {
    _mi_bits_free_local(page, bits, found.index);
    return true;
  }
  if (mi_unlikely(mi_load_relaxed(&_mi_is_corrupt))) return false;
  if (mi_unlikely(!_mi_bits_change(bits, &found, MI_STATE_REMOTE))) return false;
  if (mi_unlikely(!_mi_bits_tell(bits, &found)))
    _mi_corruption(EAGAIN, "mi_free: double free of %p, a block of %zu bytes, by two threads (thread %u)\n", p,
                   block_size, _mi_os_thread_id());
  return true;
}
#endif

// Takes what others freed in one word. Returns how many blocks.
static uint32_t collect_word(mi_theap_t* theap, mi_page_t* page, mi_bits_t* bits, size_t w) {
  _Atomic(uint64_t)* const remote = mi_bits_remote(bits, w);
  if (mi_load_seq_cst(remote) == 0) return 0;
  const uint64_t freed = mi_exchange_seq_cst(remote, (uint64_t)0);
  const uint64_t gone = freed & mi_bits_in_state(bits, w, MI_STATE_REMOTE);
  for (uint64_t rest = gone; rest != 0; rest &= rest - 1)
    mi_store_relaxed(&bits->states[64 * w + mi_ctz(rest)], MI_STATE_FREE);
  const uint32_t count = (uint32_t)mi_popcount(gone);
  const bool quarantine = page_quarantines(page, theap);
  if (mi_unlikely(quarantine)) quarantine_add(theap, page, bits, w, gone);
  if (!quarantine || bits->magic == 0) page->used -= count;
  if (mi_unlikely(freed != gone)) found_freed_twice(page, bits, w, freed & ~gone);
  return count;
}

static void collect_frees(mi_page_t* page, mi_bits_t* bits) {
  mi_theap_t* const theap = mi_load_relaxed(&page->theap);
  const size_t words = mi_bits_word_count(page);
  uint32_t count = 0;
  for (size_t w = 0; w < words; w++) count += collect_word(theap, page, bits, w);
  if (count > 0) _mi_stats_remote_frees(page, count);
}

void _mi_bits_collect(mi_page_t* page) {
  mi_bits_t* const bits = mi_bits_of(page);
  if ((mi_load_relaxed(&bits->word) & MI_SIGNAL) != 0) {
    mi_fetch_and_seq_cst(&bits->word, ~MI_SIGNAL);
    collect_frees(page, bits);
  }
  if (mi_unlikely(bits->quarantined != 0)) _mi_bits_release_old(page, mi_load_relaxed(&page->theap) == NULL);
}

void _mi_bits_drained(mi_theap_t* theap, mi_block_t* link) {
  mi_bits_t* const bits = mi_bits_of_link(link);
  mi_page_t* const page = bits->page;
  mi_assert(mi_load_relaxed(&page->theap) == theap);
  mi_exchange_acq_rel(&bits->queued, 0u);
  const uint32_t used = page->used;
  mi_fetch_and_seq_cst(&bits->word, ~MI_SIGNAL);
  collect_frees(page, bits);
  const bool told = (page->in_full && MI_STATE(mi_load_relaxed(&bits->word)) != MI_DELAYED);
  if (told || page->used != used) _mi_page_block_gone(theap, page);
}

// --- looking ------------------------------------------------------------------------------------------------------

size_t _mi_bits_live(const mi_page_t* page) {
  const mi_bits_t* const bits = mi_bits_of(page);
  const size_t words = mi_bits_word_count(page);
  size_t count = 0;
  for (size_t w = 0; w < words; w++) {
    const uint64_t gone = mi_bits_in_state(bits, w, MI_STATE_REMOTE);
    count += mi_popcount(mi_bits_taken(bits, w) & ~gone);
  }
  return count;
}

uint32_t _mi_bits_used(const mi_page_t* page) {
  const mi_bits_t* const bits = mi_bits_of(page);
  const size_t words = mi_bits_word_count(page);
  size_t count = 0;
  for (size_t w = 0; w < words; w++) {
    const uint64_t out = (bits->magic == 0 ? 0 : mi_bits_withheld(bits, w));
    count += mi_popcount(mi_bits_taken(bits, w) | out);
  }
  return (uint32_t)count;
}

// --- in the child of a fork ---------------------------------------------------------------------------------------

// What a freer that is gone had begun is done for it: where it set bits that nobody was told of, the page gets the
// signal, or if it is full, so that no search would meet it, goes on the list.
void _mi_bits_settle(mi_theap_t* theap, mi_page_t* page) {
  mi_bits_t* const bits = mi_bits_of(page);
  mi_thread_free_t tf = mi_load_relaxed(&bits->word);
  if (MI_STATE(tf) == MI_DELAYING) tf = MI_WITH_STATE(tf, MI_NORMAL);
  bool listed = false, freed = false;
  for (const mi_block_t* link = mi_load_acquire(&theap->delayed_free); link != NULL; link = link->next)
    if (link == &bits->link) listed = true;
  for (size_t w = 0; w < mi_bits_word_count(page); w++) {
    const uint64_t gone = mi_bits_in_state(bits, w, MI_STATE_REMOTE);  // of some of which the bit was not set yet
    if (gone == 0) continue;
    mi_fetch_or_acq_rel(mi_bits_remote(bits, w), gone);
    freed = true;
  }
  if (page->in_full && freed && !listed) {
    tf = mi_word_base(page, tf);
    bits->link.next = mi_load_relaxed(&theap->delayed_free);
    mi_store_release(&theap->delayed_free, &bits->link);
    listed = true;
  } else if (freed) {
    tf |= MI_SIGNAL;
  } else if (page->in_full && !listed && page->depth >= theap->depth) {
    tf = mi_word_base(page, tf) | MI_DELAYED;
  }
  mi_store_relaxed(&bits->word, tf);
  mi_store_relaxed(&bits->queued, listed ? 1u : 0u);
}
