// Size classes and bit tricks. A size class (bin) is a block size that pages are made of:
//   bin 1        8 bytes
//   bins 2..9    16, 32, ..., 128 (steps of 16: every block of 16 bytes and up is 16-byte aligned)
//   bins 10..81  eight per doubling up to 64 KiB: (8 + s) * 2^k for s in 1..8
// so that above 128 bytes a block is less than 1/8 larger than the request. With MI_MIN_ALIGN = 8, bins 1..16 are 8,
// 16, 24, ..., 128, and the others follow seven later. Larger requests get a page of their own (MI_BIN_SOLO) and are
// rounded to OS pages only.
#pragma once
#ifndef MI_INTERNAL_BITS_H
#define MI_INTERNAL_BITS_H

#include "mi/internal/atomic.h"

#if MI_MIN_ALIGN == 8
#define MI_BIN_EVEN 16u  // the bin of 128: classes up to here are in even steps
#else
#define MI_BIN_EVEN 9u
#endif
#define MI_BIN_LAST (MI_BIN_EVEN + 72)  // the bin of MI_CLASS_SIZE_MAX
#define MI_BIN_SOLO (MI_BIN_LAST + 1)   // pages of one block
#define MI_BIN_FULL (MI_BIN_LAST + 2)   // queue of pages without free blocks
#define MI_BIN_LATE (MI_BIN_LAST + 3)   // queue of empty solo pages that a remote freer has not let go of yet
#define MI_BIN_COUNT (MI_BIN_LAST + 4)

#define MI_CLASS_SIZE_MAX ((size_t)64 * 1024)
#define MI_DIRECT_SIZE_MAX ((size_t)1024)

static inline size_t mi_msb(size_t x) {  // index of the highest bit set; x > 0
  return 63u - (size_t)__builtin_clzl(x);
}
static inline size_t mi_ctz(uint64_t x) { return (unsigned)__builtin_ctzll(x); }
// How many bits are set. Without the processor's instruction for it, which not every processor has, compilers call a
// function of theirs.
static inline size_t mi_popcount(uint64_t x) {
#ifdef __POPCNT__
  return (unsigned)__builtin_popcountll(x);
#else
  x -= x >> 1 & UINT64_C(0x5555555555555555);
  x = (x & UINT64_C(0x3333333333333333)) + (x >> 2 & UINT64_C(0x3333333333333333));
  x = (x + (x >> 4)) & UINT64_C(0x0f0f0f0f0f0f0f0f);
  return (size_t)(x * UINT64_C(0x0101010101010101) >> 56);
#endif
}
static inline size_t mi_round_up(size_t x, size_t power_of_two) { return (x + power_of_two - 1) & ~(power_of_two - 1); }
static inline bool mi_is_power_of_two(size_t x) { return x != 0 && (x & (x - 1)) == 0; }

// The bin for a size of at most MI_CLASS_SIZE_MAX.
static inline size_t mi_bin_of(size_t size) {
  if (size <= 8) return 1;
  if (size <= 128) return (MI_MIN_ALIGN == 8 ? (size + 7) / 8 : 1 + (size + 15) / 16);
  const size_t b = mi_msb(size - 1);
  return MI_BIN_EVEN + 1 + (b - 7) * 8 + (((size - 1) >> (b - 3)) & 7);
}
// The block size of a bin in 1..MI_BIN_LAST.
static inline size_t mi_bin_size(size_t bin) {
  if (bin <= 1) return 8;
  if (bin <= MI_BIN_EVEN) return (MI_MIN_ALIGN == 8 ? bin * 8 : (bin - 1) * 16);
  const size_t b = (bin - MI_BIN_EVEN - 1) / 8 + 7, sub = (bin - MI_BIN_EVEN - 1) % 8;
  return (9 + sub) << (b - 3);
}

// Multiplies with overflow check, for count * size.
static inline bool mi_mul_overflow(size_t a, size_t b, size_t* total) { return __builtin_mul_overflow(a, b, total); }

// Where `count` (1..64) consecutive bits of `word` are set: bit i says that those from i on are.
static inline uint64_t mi_run_starts(uint64_t word, size_t count) {
  uint64_t m = word;
  size_t have = 1;
  while (have < count && m != 0) {
    const size_t step = (count - have < have ? count - have : have);
    m &= m >> step;
    have += step;
  }
  return m;
}
// The lowest index at which `count` (1..64) consecutive bits of `word` are set and index % align == 0; 64 if none.
static inline size_t mi_find_run(uint64_t word, size_t count, size_t align) {
  uint64_t m = mi_run_starts(word, count);
  if (align > 1) {
    uint64_t mask = 0;
    for (size_t i = 0; i < 64; i += align) mask |= (uint64_t)1 << i;
    m &= mask;
  }
  return (m == 0 ? 64 : mi_ctz(m));
}
static inline uint64_t mi_run_mask(size_t index, size_t count) {
  return (count >= 64 ? ~(uint64_t)0 : (((uint64_t)1 << count) - 1)) << index;
}

#endif
