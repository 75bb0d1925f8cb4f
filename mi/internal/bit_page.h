// Pages whose blocks hold nothing of the library's: the state of each block is in bits beside the page, out of line.
// See bit_page.c. This header has the layout and what is short.
#pragma once
#ifndef MI_INTERNAL_BIT_PAGE_H
#define MI_INTERNAL_BIT_PAGE_H

#include "mi/internal/core.h"

// 64 blocks. At most one of the owner's three has a block's bit set: handed out, freed a while ago, freed before that.
typedef struct mi_bit_word_s {
  _Atomic(uint64_t) live;    // handed out, as far as the owner knows; written by who has the page
  _Atomic(uint64_t) remote;  // freed by others since the last collect: fetch_or; the collect exchanges it
  uint64_t fresh, old;       // in quarantine; by who has the page
} mi_bit_word_t;

// What belongs to a page, in memory that serves one slice for ever. `word` is type-stable: it stays what it is when the
// page is gone, so that a freer may look at it then.
struct mi_bits_s {
  mi_block_t link;                 // in the theap's delayed list
  _Atomic(mi_thread_free_t) word;  // what page->thread_free is to other pages: generation, MI_SIGNAL, LISTED, state
  _Atomic(uint32_t) queued;        // is on the theap's delayed list, or about to be
  uint32_t quarantined;            // blocks with a bit in `fresh` or `old`
  mi_page_t* page;                 // constant, as all below but `stamp`, `single_size` and `cursor`
  mi_bit_word_t* words;            // in the same memory, as the next
  void* slack;                     // by block: its size less what was asked for; 4 bits, 1 or 2 bytes each
  uint64_t magic;                  // 2^40 / block size, rounded up; 0: the page has one block
  union {
    uint64_t stamp;        // theap->frees when the blocks in `fresh` began to come
    uint64_t single_size;  // of a page's one block: what was asked for. It is not in quarantine meanwhile
  };
  uint16_t cursor;           // the word that served last
  uint8_t slack_bits;        // 4, 8, 16
  uint8_t inside;            // how far its one block begins behind page->start
  _Atomic(uint32_t) policy;  // of the page that is here, or was here last
};
_Static_assert(sizeof(mi_bits_t) <= 80, "small");

// Per segment: 1 KiB for each slice, with the head and all of it where that is enough, then 4 KiB for each slice.
#define MI_BITS_SMALL ((size_t)1024)
#define MI_BITS_LARGE ((size_t)4096)
#define MI_BITS_STRIDE (MI_SLICES_PER_SEGMENT * (MI_BITS_SMALL + MI_BITS_LARGE))

// The low bits of `word`; above them a number that is new with each page that begins.
#define MI_SIGNAL ((mi_thread_free_t)8)  // others set bits in `remote` since the last collect
#define MI_GENERATION_ONE ((mi_thread_free_t)16)
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

// What was asked for of a live block, and noting it.
static inline size_t mi_bits_size(const mi_page_t* page, const mi_bits_t* bits, size_t index) {
  switch (bits->slack_bits) {
    case 4:
      return page->block_size -
             (mi_load_relaxed(&((_Atomic(uint8_t)*)bits->slack)[index / 2]) >> (4 * (index % 2)) & 15);
    case 8:
      return page->block_size - ((const uint8_t*)bits->slack)[index];
    case 16:
      return page->block_size - ((const uint16_t*)bits->slack)[index];
    default:
      return bits->single_size;
  }
}
// Can a block of the page be one of `size` bytes?
static inline bool mi_bits_fits(const mi_page_t* page, const mi_bits_t* bits, size_t size) {
  const size_t room = page->block_size - bits->inside;
  return size <= room && size > 0 && (bits->magic == 0 || room - size < (size_t)1 << bits->slack_bits);
}
mi_hidden void _mi_bits_set_size(mi_page_t* page, mi_bits_t* bits, size_t index, size_t size);

// Adds the page's next blocks; there are some. False: a limit refuses them. By who has the page, as the next four.
mi_hidden bool _mi_bits_extend(mi_theap_t* theap, mi_page_t* page);
// Takes a random free block; there is one.
mi_hidden size_t _mi_bits_take(mi_theap_t* theap, mi_page_t* page);
mi_hidden void _mi_bits_free_local(mi_page_t* page, mi_bits_t* bits, size_t index);  // a live block, by the owner
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
mi_hidden void _mi_bits_settle(const mi_theap_t* theap, mi_page_t* page);

static inline size_t mi_bits_word_count(const mi_page_t* page) { return ((size_t)page->reserved + 63) / 64; }

// Writes zeros that no compiler leaves out.
mi_hidden void _mi_wipe(void* p, size_t size);

#endif
