// Pages whose blocks hold nothing of the library's: the state of each block is in bits beside the page, out of line.
// See bit_page.c. This header has the layout and what is short.
#pragma once
#ifndef MI_INTERNAL_BIT_PAGE_H
#define MI_INTERNAL_BIT_PAGE_H

#include <string.h>

#include "mi/internal/core.h"

// 64 blocks. At most one of the owner's three has a block's bit set: handed out, freed a while ago, freed before that.
typedef struct mi_bit_word_s {
  _Atomic(uint64_t) live;    // handed out, as far as the owner knows; written by who has the page
  _Atomic(uint64_t) remote;  // freed by others since the last collect: fetch_or; the collect exchanges it
} mi_bit_word_t;
typedef struct mi_bit_withheld_s {
  uint64_t fresh, old;  // in quarantine; by who has the page
} mi_bit_withheld_t;

// What belongs to a page, in memory that serves one slice for ever. The first line is the owner's; `word` is
// type-stable: it stays what it is when the page is gone, so that a freer may look at it then.
struct mi_bits_s {
  uint64_t avail;               // blocks of `current` that are to be handed out next
  mi_bit_word_t* current;       // the word that serves
  uint8_t* base;                // its first block
  mi_bit_word_t* words;         // constant while the page lives, as the next three; in the same memory
  void* slack;                  // by block: its size less what was asked for; 4 bits, 1 or 2 bytes each
  uint64_t magic;               // 2^40 / block size, rounded up; 0: the page has one block
  uint32_t slack_bits;          // 4, 8, 16
  uint16_t inside;              // how far its one block begins behind page->start
  uint16_t turn;                // which block of `current` comes first; or MI_TURN_ANY
  mi_bit_withheld_t* withheld;  // by word, of a page with a quarantine; else NULL. Constant
  union {
    uint64_t stamp;        // theap->frees when the blocks in `fresh` began to come
    uint64_t single_size;  // of a page's one block: what was asked for. It is not in quarantine meanwhile
  };
  mi_block_t link;                 // in the theap's delayed list
  _Atomic(mi_thread_free_t) word;  // what page->thread_free is to other pages: generation, MI_SIGNAL, LISTED, state
  _Atomic(uint32_t) queued;        // is on the theap's delayed list, or about to be
  uint32_t quarantined;            // blocks with a bit in `fresh` or `old`
  mi_page_t* page;                 // constant
  _Atomic(uint32_t) policy;        // of the page that is here, or was here last
  uint32_t guard;                  // bytes at the end of the page's slices that are inaccessible; constant
} __attribute__((aligned(MI_CACHE_LINE)));
_Static_assert(sizeof(mi_bits_t) == 2 * MI_CACHE_LINE, "two lines");
mi_hidden extern const mi_bits_t _mi_bits_empty;  // of the empty page: nothing is available

// Per segment, three stretches for each slice: with the head, the words, and the slack where there is room for it
// (blocks of 64 bytes and more); for the slack of smaller blocks; and for quarantine. So that what a page touches is
// little, and in few OS pages. Each is an odd number of cache lines long: heads and words of pages at powers of two
// would share sets.
#define MI_BITS_SMALL ((size_t)23 * MI_CACHE_LINE)
#define MI_BITS_SLACK ((size_t)33 * MI_CACHE_LINE)
#define MI_BITS_WITHHELD ((size_t)17 * MI_CACHE_LINE)
#define MI_BITS_STRIDE (MI_SLICES_PER_SEGMENT * (MI_BITS_SMALL + MI_BITS_SLACK + MI_BITS_WITHHELD))
_Static_assert(MI_BITS_STRIDE % MI_OS_PAGE == 0, "committed by segment");

// The low bits of `word`; above them a number that is new with each page that begins.
#define MI_SIGNAL ((mi_thread_free_t)8)  // others set bits in `remote` since the last collect
#define MI_GENERATION_ONE ((mi_thread_free_t)16)
#define MI_TURN_ANY 128
#define MI_GENERATION(word) ((word) / MI_GENERATION_ONE)

mi_hidden extern _Atomic(uintptr_t) _mi_span_bits;  // of the span's first segment; 0: there are none yet
mi_hidden mi_bits_t* _mi_bits_elsewhere(const mi_page_t* page);

// Of a page with a policy.
static inline mi_bits_t* mi_bits_of(const mi_page_t* page) {
  size_t offset;
  if (mi_unlikely(!mi_span_offset(page, &offset))) return _mi_bits_elsewhere(page);
  const uintptr_t base = mi_load_relaxed(&_mi_span_bits) + (offset >> MI_SEGMENT_SHIFT) * MI_BITS_STRIDE;
  return (mi_bits_t*)(base + mi_page_slice(page) * MI_BITS_SMALL);
}

static inline mi_bits_t* mi_bits_of_link(const mi_block_t* link) {
  return (mi_bits_t*)((uintptr_t)link - offsetof(mi_bits_t, link));
}

// The word with the page's state, whatever the page.
static inline _Atomic(mi_thread_free_t)* mi_page_word(const mi_page_t* page) {
  return (mi_likely(page->policy == 0) ? &((mi_page_t*)page)->thread_free : &mi_bits_of(page)->word);
}
// Did others free blocks since the last collect, by the page's word?
static inline bool mi_word_has_frees(const mi_page_t* page, mi_thread_free_t word) {
  return (mi_likely(page->policy == 0) ? MI_LIST(word) != NULL : (word & MI_SIGNAL) != 0);
}
// The word without them, in state NORMAL.
static inline mi_thread_free_t mi_word_base(const mi_page_t* page, mi_thread_free_t word) {
  return (mi_likely(page->policy == 0) ? word & MI_LISTED : word & ~(MI_SIGNAL | 3));
}

// --- the life of a page -----------------------------------------------------------------------------------------
// Sets up the bits of a page for its blocks; its policy, block size and `reserved` are set. False: no memory for them.
mi_hidden bool _mi_bits_begin(mi_page_t* page, uint32_t policy);
// All blocks go with the page, or are free from now on (a reset).
mi_hidden void _mi_bits_drop(mi_page_t* page);
// The page goes, with no block in use: by who has it, and nobody is DELAYING.
mi_hidden void _mi_bits_end(mi_page_t* page);
// Does a page of a theap with this policy end with a guard? `single`: one with one block.
static inline bool mi_policy_guards(uint32_t policy, bool single) {
  if ((policy & (MI_POLICY_HARDENED | MI_POLICY_ISOLATED | MI_POLICY_SECRET)) != 0) return true;
  return MI_SECURE >= (single ? 2 : 3) && policy != 0;
}
// Nothing that could be freed remembers a policy: the slice (or with slice 0 the segment) is used for something else.
mi_hidden void _mi_bits_forget(const mi_segment_t* segment, size_t slice);
// The policy of the page that lies, or lay last, at an address; 0: none that is remembered.
mi_hidden uint32_t _mi_bits_last_policy(const void* p);

// --- blocks -----------------------------------------------------------------------------------------------------
typedef enum mi_block_state_e {
  MI_BLOCK_NONE,  // no block starts there, or it never was handed out
  MI_BLOCK_LIVE,
  MI_BLOCK_FREED,  // and not handed out again
} mi_block_state_t;

// The number of the block that an address is in; not below page->reserved: none.
static inline size_t mi_bits_index(const mi_page_t* page, const mi_bits_t* bits, const void* p) {
  return (size_t)((uint64_t)((const uint8_t*)p - page->start) * bits->magic >> 40);
}
static inline uint8_t* mi_bits_block(const mi_page_t* page, const mi_bits_t* bits, size_t index) {
  return (bits->magic == 0 ? page->start + bits->inside : page->start + index * page->block_size);
}
static inline mi_block_state_t mi_bits_state(const mi_bits_t* bits, size_t index) {
  const mi_bit_word_t* const word = &bits->words[index / 64];
  // Acquire: who sees a block freed by another thread sees what that did before.
  const uint64_t live =
      mi_load_relaxed((_Atomic(uint64_t)*)&word->live) & ~mi_load_acquire((_Atomic(uint64_t)*)&word->remote);
  return ((live >> (index % 64) & 1) != 0 ? MI_BLOCK_LIVE : MI_BLOCK_FREED);
}
// What is at an address in a page with a policy, and which block it is.
static inline mi_block_state_t mi_bits_find(const mi_page_t* page, const mi_bits_t* bits, const void* p,
                                            size_t* index) {
  if (mi_unlikely(bits->magic == 0)) {
    *index = 0;
    return (p == page->start + bits->inside ? mi_bits_state(bits, 0) : MI_BLOCK_NONE);
  }
  *index = mi_bits_index(page, bits, p);
  if (*index >= page->reserved || page->start + *index * page->block_size != p) return MI_BLOCK_NONE;
  return mi_bits_state(bits, *index);
}

// What a live block of a class is larger than what was asked for.
static inline size_t mi_bits_slack(const mi_bits_t* bits, size_t index) {
  if (bits->slack_bits == 8) return ((const uint8_t*)bits->slack)[index];
  if (bits->slack_bits == 4)
    return mi_load_relaxed(&((_Atomic(uint8_t)*)bits->slack)[index / 2]) >> (4 * (index % 2)) & 15;
  return ((const uint16_t*)bits->slack)[index];
}
// What was asked for of a live block, and noting it.
static inline size_t mi_bits_size(const mi_page_t* page, const mi_bits_t* bits, size_t index) {
  return (bits->magic == 0 ? bits->single_size : page->block_size - mi_bits_slack(bits, index));
}
// Can a block of the page be one of `size` bytes?
static inline bool mi_bits_fits(const mi_page_t* page, const mi_bits_t* bits, size_t size) {
  const size_t room = page->block_size - bits->inside;
  return size <= room && size > 0 && (bits->magic == 0 || room - size < (size_t)1 << bits->slack_bits);
}
static inline void mi_bits_set_slack(mi_bits_t* bits, size_t index, size_t slack) {
  if (bits->slack_bits == 8) {
    ((uint8_t*)bits->slack)[index] = (uint8_t)slack;
  } else if (bits->slack_bits == 4) {
    // The other half may be that of a block that another thread frees at the moment.
    _Atomic(uint8_t)* const byte = &((_Atomic(uint8_t)*)bits->slack)[index / 2];
    const size_t shift = 4 * (index % 2);
    mi_store_relaxed(byte, (uint8_t)((mi_load_relaxed(byte) & ~((size_t)15 << shift)) | slack << shift));
  } else {
    ((uint16_t*)bits->slack)[index] = (uint16_t)slack;
  }
}
static inline void mi_bits_set_size(mi_page_t* page, mi_bits_t* bits, size_t index, size_t size) {
  mi_assert(mi_bits_fits(page, bits, size));
  if (mi_unlikely(bits->magic == 0)) {
    bits->single_size = size;
  } else {
    mi_bits_set_slack(bits, index, page->block_size - size);
  }
}

// --- padding ----------------------------------------------------------------------------------------------------
// Bytes between what was asked for and the block's end hold a pattern that depends on the block and a secret of the
// process, in words that end where the block ends. No byte of it is 0, which is what a string's end writes.
mi_hidden extern _Atomic(uint64_t) _mi_padding_secret;
static inline uint64_t mi_padding_word(const uint8_t* end) {
  const uint64_t x = ((uintptr_t)end ^ mi_load_relaxed(&_mi_padding_secret)) * UINT64_C(0x9e3779b97f4a7c15);
  return (x ^ x >> 32) | UINT64_C(0x0101010101010101);
}
// The secure build's lower levels do without, but for heaps with a policy of their own.
static inline bool mi_page_pads(const mi_page_t* page) {
  return MI_SECURE == 0 || MI_SECURE >= 4 || mi_policy_is_generic(page->policy);
}
// In a block that nobody has yet: up to 7 bytes before the padding are written too.
static inline void mi_padding_write(uint8_t* end, size_t padding) {
  if (padding == 0) return;
  const uint64_t word = mi_padding_word(end);
  for (size_t i = 0; i < padding; i += sizeof(word)) memcpy(end - i - sizeof(word), &word, sizeof(word));
}
// Is it as it was written?
static inline bool mi_padding_is_whole(const uint8_t* end, size_t padding) {
  if (padding == 0) return true;
  const uint64_t word = mi_padding_word(end);
  uint64_t at;
  for (; padding >= sizeof(word); padding -= sizeof(word)) {
    end -= sizeof(word);
    memcpy(&at, end, sizeof(at));
    if (mi_unlikely(at != word)) return false;
  }
  memcpy(&at, end - sizeof(word), sizeof(at));
  return padding == 0 || (at ^ word) >> (8 * (sizeof(word) - padding)) == 0;
}

// --- taking and giving, by who has the page ---------------------------------------------------------------------

static inline uint64_t mi_turn(uint64_t word, size_t turn) { return word >> turn | word << ((64 - turn) & 63); }

// One of the bits of `avail`. Any, but in the secure build, whose pages begin at a random block and go on in order: a
// program that walks along what it allocated in a row took 1.05 times the time of the default build so, 1.3 times where
// each 64 blocks began at a random one, 1.9 with a random direction too, and 2.7 in any order.
static inline size_t mi_bits_choose(const mi_bits_t* bits, uint64_t avail, uint64_t random) {
  if (MI_SECURE && mi_likely(bits->turn != MI_TURN_ANY)) {
    return (mi_ctz(mi_turn(avail, bits->turn)) + bits->turn) & 63;
  }
  const size_t turn = random >> 58;
  return (mi_ctz(mi_turn(avail, turn)) + turn) & 63;
}

// Takes a random one of the blocks that are available, for `size` bytes. NULL: there is none, or something is wrong
// with it: _mi_bits_refill looks.
static inline uint8_t* mi_bits_pop(mi_theap_t* theap, mi_page_t* page, mi_bits_t* bits, size_t size) {
  const uint64_t avail = bits->avail;
  if (mi_unlikely(avail == 0)) return NULL;
  theap->random = theap->random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
  const size_t bit = mi_bits_choose(bits, avail, theap->random);
  const uint64_t mask = (uint64_t)1 << bit;
  mi_bit_word_t* const word = bits->current;
  if (mi_unlikely((mi_load_relaxed(&word->remote) & mask) != 0)) return NULL;
  bits->avail = avail & ~mask;
  mi_store_relaxed(&word->live, mi_load_relaxed(&word->live) | mask);
  page->used++;
  const size_t block_size = page->block_size, slack = block_size - size;
  uint8_t* const block = bits->base + bit * block_size;
  mi_bits_set_slack(bits, 64 * (size_t)(word - bits->words) + bit, slack);
  if (mi_page_pads(page)) mi_padding_write(block + block_size, slack);
  return block;
}
// By the direct table of a theap whose pages are all bit pages. The empty theap's and its page's have none available.
static inline uint8_t* mi_bits_pop_direct(mi_theap_t* theap, size_t size) {
  const size_t wanted = size + (size == 0);
  if (mi_unlikely(size > MI_DIRECT_SIZE_MAX)) return NULL;
  mi_page_t* const page = theap->direct[(wanted < 9 ? 2 : (wanted + 7) / 8)];
  return mi_bits_pop(theap, page, page->bits, wanted);
}
// Adds the page's next blocks; there are some. False: a limit refuses them.
mi_hidden bool _mi_bits_extend(mi_theap_t* theap, mi_page_t* page);
// Makes blocks available where there are none; the page has a free one. `thread`: of the theap.
mi_hidden void _mi_bits_refill(mi_theap_t* theap, mi_page_t* page);
mi_hidden void _mi_bits_free_local(mi_page_t* page, mi_bits_t* bits, size_t index);  // a live block
mi_hidden void _mi_bits_collect(mi_page_t* page);  // what others freed, and what was in quarantine for long enough
mi_hidden void _mi_bits_release_old(mi_page_t* page, bool all);
// A live block, by any thread but the owner. False: somebody else freed it at the same moment.
mi_hidden bool _mi_bits_free_remote(mi_page_t* page, mi_bits_t* bits, size_t index);
// A page that others had put on the theap's delayed list, which was taken off, and its `next` read.
mi_hidden void _mi_bits_drained(mi_theap_t* theap, mi_block_t* link);
mi_hidden bool _mi_bits_is_due(const mi_page_t* page);    // a block alone in its page: is its quarantine over?
mi_hidden size_t _mi_bits_live(const mi_page_t* page);    // how many blocks are
mi_hidden uint32_t _mi_bits_used(const mi_page_t* page);  // live, for the owner, and in quarantine
// In the child of a fork: of a page of the survivor's.
mi_hidden void _mi_bits_settle(mi_theap_t* theap, mi_page_t* page);

static inline size_t mi_bits_word_count(const mi_page_t* page) { return ((size_t)page->reserved + 63) / 64; }
// The blocks of a word that are in quarantine.
static inline uint64_t mi_bits_withheld(const mi_bits_t* bits, size_t w) {
  return (mi_likely(bits->withheld == NULL) ? 0 : bits->withheld[w].fresh | bits->withheld[w].old);
}

// Writes zeros that no compiler leaves out.
mi_hidden void _mi_wipe(void* p, size_t size);

#endif
