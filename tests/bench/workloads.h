// The workloads: what is done to a heap, once for every peer. Holds no clocks. Invariants: the sequence of sizes is the
// same for all peers and in every run; one byte of each block is written; a block that cannot be had ends the program.
#ifndef TESTS_BENCH_WORKLOADS_H
#define TESTS_BENCH_WORKLOADS_H

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "tests/bench/peers.h"

namespace bench {

/// W: 50 objects whose sizes go round these ten, 6,840 bytes in all.
inline constexpr size_t kObjectsOfW = 50;
inline constexpr size_t kSizesOfW[10] = {16, 24, 32, 48, 64, 96, 128, 192, 256, 512};

/// A uniform number in [low, high] that does not depend on the standard library's choice of algorithm.
inline uint32_t Uniform(std::mt19937_64& random, uint32_t low, uint32_t high) {
  return low + static_cast<uint32_t>(random() % (high - low + 1));
}

/// A cycle of 50,000 sizes: exactly 90 % of 16 to 512 B, 9.8 % of 1 to 8 KiB, 1 in 500 of 64 KiB, shuffled. One pass
/// over it is the unit of every mixed workload, so that all batches do the same work whatever the size of the heaps.
inline constexpr size_t kMixedCycle = 50000;
inline const std::vector<uint32_t>& MixedSizes() {
  static const std::vector<uint32_t> sizes = [] {
    std::mt19937_64 random(20240229);
    std::vector<uint32_t> result;
    result.reserve(kMixedCycle);
    for (size_t i = 0; i < kMixedCycle * 900 / 1000; i++) result.push_back(Uniform(random, 16, 512));
    for (size_t i = 0; i < kMixedCycle * 98 / 1000; i++) result.push_back(Uniform(random, 1024, 8192));
    while (result.size() < kMixedCycle) result.push_back(65536);
    for (size_t i = result.size() - 1; i > 0; i--) std::swap(result[i], result[random() % (i + 1)]);
    return result;
  }();
  return sizes;
}

inline const std::vector<uint32_t>& SmallSizes() {
  static const std::vector<uint32_t> sizes = [] {
    std::mt19937_64 random(7);
    std::vector<uint32_t> result(100000);
    for (uint32_t& size : result) size = Uniform(random, 16, 512);
    return result;
  }();
  return sizes;
}

template <typename Peer>
inline char* AllocTouched(typename Peer::Heap& heap, size_t size) {
  char* p = static_cast<char*>(Peer::Alloc(heap, size));
  Require(p != nullptr, "out of memory");
  *const_cast<volatile char*>(p) = 1;
  return p;
}

template <typename Peer>
void CycleEmpty(uint64_t cycles) {
  for (uint64_t i = 0; i < cycles; i++) {
    typename Peer::Heap heap;
    Peer::Create(heap);
    Keep(&heap);
    Peer::Destroy(heap);
  }
}

template <typename Peer>
void CycleOne64(uint64_t cycles) {
  for (uint64_t i = 0; i < cycles; i++) {
    typename Peer::Heap heap;
    Peer::Create(heap);
    Keep(Peer::Alloc(heap, 64));
    Peer::Destroy(heap);
  }
}

template <typename Peer>
void AllocW(typename Peer::Heap& heap) {
  for (size_t i = 0; i < kObjectsOfW; i++) AllocTouched<Peer>(heap, kSizesOfW[i % 10]);
}

template <typename Peer>
void CycleW(uint64_t cycles) {
  for (uint64_t i = 0; i < cycles; i++) {
    typename Peer::Heap heap;
    Peer::Create(heap);
    AllocW<Peer>(heap);
    Peer::Destroy(heap);
  }
}

/// W in a heap that is kept and emptied.
template <typename Peer>
void CycleWReset(uint64_t cycles) {
  typename Peer::Heap heap;
  Peer::Create(heap);
  for (uint64_t i = 0; i < cycles; i++) {
    AllocW<Peer>(heap);
    Peer::Reset(heap);
  }
  Peer::Destroy(heap);
}

/// W with every block freed singly, in the order of allocation, before the heap is destroyed.
template <typename Peer>
void CycleWFreed(uint64_t cycles) {
  for (uint64_t i = 0; i < cycles; i++) {
    typename Peer::Heap heap;
    void* blocks[kObjectsOfW];
    Peer::Create(heap);
    for (size_t k = 0; k < kObjectsOfW; k++) blocks[k] = AllocTouched<Peer>(heap, kSizesOfW[k % 10]);
    for (void* block : blocks) Peer::Free(heap, block);
    Peer::Destroy(heap);
  }
}

/// `passes` passes over the cycle of mixed sizes, cut into heaps of `blocks` each (a divisor of kMixedCycle).
template <typename Peer>
void CycleMixed(uint64_t passes, size_t blocks) {
  const std::vector<uint32_t>& sizes = MixedSizes();
  for (uint64_t pass = 0; pass < passes; pass++) {
    for (size_t next = 0; next < kMixedCycle;) {
      typename Peer::Heap heap;
      Peer::Create(heap);
      for (size_t i = 0; i < blocks; i++) AllocTouched<Peer>(heap, sizes[next++]);
      Peer::Destroy(heap);
    }
  }
}

/// A heap with one touched block per entry of `sizes`.
template <typename Peer>
void Fill(typename Peer::Heap& heap, const std::vector<uint32_t>& sizes) {
  for (uint32_t size : sizes) AllocTouched<Peer>(heap, size);
}

/// A block of `size` bytes allocated and freed at once, `pairs` times, going round `count` heaps (a power of two).
template <typename Peer>
void HotPairs(typename Peer::Heap* heaps, size_t count, size_t size, uint64_t pairs) {
  const size_t mask = count - 1;
  for (uint64_t i = 0; i < pairs; i++) {
    typename Peer::Heap& heap = heaps[i & mask];
    void* p = Peer::Alloc(heap, size);
    Keep(p);
    Peer::Free(heap, p);
  }
}

/// Makes heaps that have grown. Each allocates and frees 5,000 blocks of 64 B, so that a young heap moves this class to
/// pages, then takes `live` blocks, which keep the page from becoming empty, and frees 64 more, so that the page has
/// free blocks for a while wherever it happens to stand.
template <typename Peer>
void Grow(typename Peer::Heap* heaps, size_t count, size_t live) {
  for (size_t i = 0; i < count; i++) {
    HotPairs<Peer>(&heaps[i], 1, 64, 5000);
    for (size_t k = 0; k < live; k++) AllocTouched<Peer>(heaps[i], 64);
    void* spare[64];
    for (void*& block : spare) block = AllocTouched<Peer>(heaps[i], 64);
    for (void* block : spare) Peer::Free(heaps[i], block);
    HotPairs<Peer>(&heaps[i], 1, 64, 5000);
  }
}

}  // namespace bench

#endif
