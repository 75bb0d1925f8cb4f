// Over-aligned allocation: every combination of size and alignment from 1 byte to several segments, offsets, zeroing,
// resizing, refusals, and that over-aligned blocks belong to their heap like all others.
#include <stdint.h>

#include <cstddef>
#include <vector>

#include "gtest/gtest.h"
#include "mi/mimalloc.h"
#include "tests/test_support.h"

namespace mi_test {
namespace {

constexpr size_t kLargestAlignment = 16 * kMiB;

const size_t kSizes[] = {0,    1,     7,     8,      16,     24,     100,      640,      1000,    4095,
                         4096, 10000, 65536, 100000, 300000, 600000, 2 * kMiB, 4 * kMiB, 5 * kMiB};

class AlignmentTest : public ::testing::TestWithParam<size_t> {};

TEST_P(AlignmentTest, BlocksOfEverySizeAreAlignedUsableAndDoNotOverlap) {
  const size_t alignment = GetParam();
  struct Block {
    void* at;
    size_t usable;
    uint64_t seed;
  };
  std::vector<Block> blocks;
  uint64_t seed = alignment;
  for (size_t size : kSizes) {
    const int copies = alignment > kMiB || size > kMiB ? 2 : 5;
    for (int i = 0; i < copies; i++) {
      void* block = mi_malloc_aligned(size, alignment);
      ASSERT_NE(block, nullptr) << size;
      ASSERT_TRUE(IsAligned(block, alignment)) << size << ": " << block;
      const size_t usable = mi_usable_size(block);
      ASSERT_GE(usable, size);
      ASSERT_EQ(mi_heap_of(block), mi_heap_get_default()) << size;
      ASSERT_TRUE(mi_check_owned(block)) << size;
      Fill(block, usable, ++seed);
      blocks.push_back({block, usable, seed});
    }
  }
  for (const Block& block : blocks) {
    ASSERT_TRUE(Holds(block.at, block.usable, block.seed));
    ASSERT_EQ(mi_usable_size(block.at), block.usable);
    mi_free(block.at);
  }
}

TEST_P(AlignmentTest, OffsetsMoveTheAlignedAddressIntoTheBlock) {
  const size_t alignment = GetParam();
  uint64_t seed = 1;
  for (size_t size : kSizes) {
    for (size_t offset : {size_t{0}, size_t{1}, size_t{8}, size_t{16}, size_t{40}, size / 2, size, alignment / 2,
                          alignment - 1, alignment, alignment + 8, 3 * alignment + 24}) {
      SCOPED_TRACE(testing::Message() << "size " << size << ", offset " << offset);
      void* block = mi_malloc_aligned_at(size, alignment, offset);
      ASSERT_NE(block, nullptr);
      ASSERT_TRUE(IsAligned(block, alignment, offset)) << block;
      const size_t usable = mi_usable_size(block);
      ASSERT_GE(usable, size);
      ASSERT_EQ(mi_heap_of(block), mi_heap_get_default());
      Fill(block, usable, ++seed);
      void* zero = mi_zalloc_aligned_at(size, alignment, offset);
      ASSERT_NE(zero, nullptr);
      ASSERT_TRUE(IsAligned(zero, alignment, offset)) << zero;
      ASSERT_TRUE(size > kMiB ? IsZero(zero, size - 70000, size) : IsZero(zero, 0, size));
      ASSERT_TRUE(Holds(block, usable, seed));
      mi_free(block);
      mi_free(zero);
    }
  }
}

TEST_P(AlignmentTest, ZeroingFormsReturnZeroedMemoryAlsoWhenItWasDirtyBefore) {
  const size_t alignment = GetParam();
  for (size_t size : kSizes) {
    // Large ones only where the alignment makes them blocks of their own segments.
    if (size > (alignment >= kMiB ? 2 * kMiB : 600000)) continue;
    SCOPED_TRACE(size);
    const int copies = alignment > kMiB ? 2 : 6;
    for (int round = 0; round < 2; round++) {
      std::vector<void*> blocks;
      for (int i = 0; i < copies; i++) {
        void* block = mi_malloc_aligned(size, alignment);
        ASSERT_NE(block, nullptr);
        memset(block, 0xff, mi_usable_size(block));
        blocks.push_back(block);
      }
      for (void* block : blocks) mi_free(block);
      for (int i = 0; i < copies; i++) {
        void* block = i % 3 == 0   ? mi_zalloc_aligned(size, alignment)
                      : i % 3 == 1 ? mi_calloc_aligned(size, 1, alignment)
                                   : mi_calloc_aligned_at(1, size, alignment, 8);
        ASSERT_NE(block, nullptr);
        ASSERT_TRUE(IsAligned(block, alignment, i % 3 == 2 ? 8 : 0));
        ASSERT_TRUE(IsZero(block, 0, size));
        memset(block, 0xff, mi_usable_size(block));
        blocks[i] = block;
      }
      for (void* block : blocks) mi_free(block);
    }
  }
}

TEST_P(AlignmentTest, ReallocKeepsContentsAlignmentAndOffset) {
  const size_t alignment = GetParam();
  uint64_t seed = 500;
  for (size_t offset : {size_t{0}, size_t{24}}) {
    for (size_t from : {0, 10, 600, 5000, 100000, 2000000}) {
      for (size_t to : {0, 9, 700, 6000, 200000, 5000000}) {
        SCOPED_TRACE(testing::Message() << from << " -> " << to << ", offset " << offset);
        void* block = mi_malloc_aligned_at(from, alignment, offset);
        ASSERT_NE(block, nullptr);
        Fill(block, from, ++seed);
        block = mi_realloc_aligned_at(block, to, alignment, offset);
        ASSERT_NE(block, nullptr);
        ASSERT_TRUE(IsAligned(block, alignment, offset)) << block;
        ASSERT_GE(mi_usable_size(block), to);
        ASSERT_TRUE(Holds(block, from, seed, to));
        Fill(block, to, seed);
        // An aligned block may be resized by the plain function too: contents stay, alignment need not.
        block = mi_realloc(block, to + 1);
        ASSERT_NE(block, nullptr);
        ASSERT_TRUE(Holds(block, to, seed));
        mi_free(block);
      }
    }
  }
}

TEST_P(AlignmentTest, ReallocToALargerAlignmentMovesTheBlockThere) {
  const size_t alignment = GetParam();
  void* block = mi_malloc(1000);
  ASSERT_NE(block, nullptr);
  Fill(block, 1000, 77);
  for (size_t a = 1; a <= alignment; a *= 2) {
    block = mi_realloc_aligned(block, 1000, a);
    ASSERT_NE(block, nullptr);
    ASSERT_TRUE(IsAligned(block, a));
    ASSERT_TRUE(Holds(block, 1000, 77));
  }
  mi_free(block);
}

TEST_P(AlignmentTest, RezallocClearsTheTail) {
  const size_t alignment = GetParam();
  for (size_t from : {10, 700, 30000}) {
    for (size_t to : {40, 1000, 50000, 700000}) {
      if (to < from) continue;
      SCOPED_TRACE(testing::Message() << from << " -> " << to);
      void* dirt = mi_malloc_aligned(to, alignment);
      ASSERT_NE(dirt, nullptr);
      memset(dirt, 0xff, mi_usable_size(dirt));
      mi_free(dirt);
      void* block = mi_zalloc_aligned(from, alignment);
      ASSERT_NE(block, nullptr);
      memset(block, 0xff, from);
      block = mi_rezalloc_aligned(block, to, alignment);
      ASSERT_NE(block, nullptr);
      ASSERT_TRUE(IsAligned(block, alignment));
      ASSERT_EQ(FindOther(block, 0, from, 0xff), from);
      ASSERT_TRUE(IsZero(block, from, to));
      mi_free(block);

      block = mi_zalloc_aligned_at(from, alignment, 8);
      ASSERT_NE(block, nullptr);
      memset(block, 0xff, from);
      block = mi_recalloc_aligned_at(block, 1, to, alignment, 8);
      ASSERT_NE(block, nullptr);
      ASSERT_TRUE(IsAligned(block, alignment, 8));
      ASSERT_EQ(FindOther(block, 0, from, 0xff), from);
      ASSERT_TRUE(IsZero(block, from, to));
      mi_free(block);

      block = mi_calloc_aligned(1, from, alignment);
      ASSERT_NE(block, nullptr);
      block = mi_recalloc_aligned(block, 1, to, alignment);
      ASSERT_NE(block, nullptr);
      ASSERT_TRUE(IsZero(block, 0, to));
      block = mi_rezalloc_aligned_at(block, to + 1, alignment, 16);
      ASSERT_NE(block, nullptr);
      ASSERT_TRUE(IsAligned(block, alignment, 16));
      ASSERT_TRUE(IsZero(block, 0, to + 1));
      mi_free(block);
    }
  }
}

TEST_P(AlignmentTest, BlocksBelongToTheirHeapAndAreFreedSinglyAndByDestroy) {
  const size_t alignment = GetParam();
  mi_heap_t* heap = mi_heap_new();
  ASSERT_NE(heap, nullptr);
  std::vector<void*> live, inside;
  for (size_t size : kSizes) {
    void* kept = mi_heap_malloc_aligned(heap, size, alignment);
    void* single = mi_heap_zalloc_aligned(heap, size, alignment);
    void* at = mi_heap_malloc_aligned_at(heap, size, alignment, 8);
    ASSERT_NE(kept, nullptr);
    ASSERT_NE(single, nullptr);
    ASSERT_NE(at, nullptr);
    ASSERT_TRUE(IsAligned(kept, alignment));
    ASSERT_TRUE(IsAligned(at, alignment, 8));
    for (void* block : {kept, single, at}) {
      ASSERT_EQ(mi_heap_of(block), heap) << size;
      ASSERT_TRUE(mi_heap_contains(heap, block)) << size;
      ASSERT_FALSE(mi_heap_contains(mi_heap_main(), block)) << size;
    }
    Fill(kept, size, size);
    mi_free(single);
    live.push_back(kept);
    inside.push_back(at);
  }
  ASSERT_TRUE(ShowsExactly(heap, live, inside));
  for (size_t i = 0; i < live.size(); i += 2) {
    ASSERT_TRUE(Holds(live[i], kSizes[i], kSizes[i]));
    mi_free(live[i]);
    live[i] = nullptr;
    mi_free(inside[i]);
    inside[i] = nullptr;
  }
  live.erase(std::remove(live.begin(), live.end(), nullptr), live.end());
  inside.erase(std::remove(inside.begin(), inside.end(), nullptr), inside.end());
  ASSERT_TRUE(ShowsExactly(heap, live, inside));
  mi_heap_destroy(heap);
  for (void* block : live) ASSERT_FALSE(mi_heap_contains(mi_heap_main(), block));
}

TEST_P(AlignmentTest, BlocksAreFreedByOtherThreadsToo) {
  const size_t alignment = GetParam();
  mi_heap_t* heap = mi_heap_new();
  ASSERT_NE(heap, nullptr);
  for (int round = 0; round < 3; round++) {
    std::vector<void*> blocks;
    for (size_t size : kSizes) {
      for (int i = 0; i < (alignment > kMiB ? 1 : 8); i++) {
        blocks.push_back(mi_heap_malloc_aligned(heap, size, alignment));
        ASSERT_NE(blocks.back(), nullptr);
      }
    }
    InThread([&] {
      for (void* block : blocks) mi_free(block);
    });
    ASSERT_EQ(CountBlocks(heap), 0u);
  }
  mi_heap_destroy(heap);
}

std::vector<size_t> AllAlignments() {
  std::vector<size_t> result;
  for (size_t alignment = 1; alignment <= kLargestAlignment; alignment *= 2) result.push_back(alignment);
  return result;
}

INSTANTIATE_TEST_SUITE_P(Alignments, AlignmentTest, ::testing::ValuesIn(AllAlignments()));

TEST(AlignmentRefusalTest, WhatIsNoPowerOfTwoGivesEinvalAndIsReported) {
  for (size_t alignment :
       {size_t{0}, size_t{3}, size_t{6}, size_t{24}, size_t{48}, size_t{1000}, size_t{4097}, 4 * kMiB + 16, SIZE_MAX}) {
    SCOPED_TRACE(alignment);
    ErrorRecorder errors;
    int expected = 0;
    auto refused = [&](void* block) {
      expected++;
      EXPECT_EQ(block, nullptr);
      EXPECT_EQ(errno, EINVAL);
      EXPECT_EQ(errors.count(EINVAL), expected);
      errno = 0;
    };
    const size_t bad = Opaque(alignment);
    errno = 0;
    refused(mi_malloc_aligned(100, bad));
    refused(mi_malloc_aligned_at(100, bad, 8));
    refused(mi_zalloc_aligned(100, bad));
    refused(mi_zalloc_aligned_at(100, bad, 8));
    refused(mi_calloc_aligned(10, 10, bad));
    refused(mi_calloc_aligned_at(10, 10, bad, 8));
    refused(mi_realloc_aligned(nullptr, 100, bad));
    refused(mi_memalign(bad, 100));
    refused(mi_aligned_alloc(bad, 100));
    mi_heap_t* heap = mi_heap_new();
    ASSERT_NE(heap, nullptr);
    refused(mi_heap_malloc_aligned(heap, 100, bad));
    refused(mi_heap_zalloc_aligned_at(heap, 100, bad, 8));
    refused(mi_heap_calloc_aligned(heap, 10, 10, bad));
    void* block = mi_heap_malloc(heap, 100);
    ASSERT_NE(block, nullptr);
    Fill(block, 100, 1);
    refused(mi_heap_realloc_aligned(heap, block, 1000, bad));
    EXPECT_TRUE(Holds(block, 100, 1)) << "a refused resize changed the block";
    EXPECT_TRUE(mi_heap_contains(heap, block));
    mi_heap_destroy(heap);
  }
}

// Where pages end with guards, the bytes before a page's first block are out of reach.
TEST(AlignmentGridTest, WholePagesOfBlocksMuchSmallerThanTheirAlignmentAreResizedAndFreed) {
  for (size_t alignment : {16, 32, 64, 128, 256, 512, 1024, 4096}) {
    for (size_t size : {1, 8, 17, 40, 100, 129, 300, 1000}) {
      SCOPED_TRACE(testing::Message() << "size " << size << ", alignment " << alignment);
      std::vector<void*> blocks(128 * kKiB / (alignment < 64 ? 64 : alignment));
      uint64_t seed = size;
      for (void*& block : blocks) {
        block = mi_malloc_aligned(size, alignment);
        ASSERT_TRUE(block != nullptr && IsAligned(block, alignment));
        Fill(block, size, ++seed);
      }
      seed = size;
      for (size_t i = 0; i < blocks.size(); i++) {
        ASSERT_TRUE(Holds(blocks[i], size, ++seed));
        if (i % 2 == 0) continue;
        blocks[i] = mi_realloc(blocks[i], size + i % 5);
        ASSERT_TRUE(blocks[i] != nullptr && Holds(blocks[i], size, seed));
      }
      for (void* block : blocks) mi_free(block);
    }
  }
}

TEST(AlignmentRefusalTest, AnAlignmentThatNoAddressSpaceCanHoldGivesEnomem) {
  for (size_t alignment : {size_t{1} << 62, size_t{1} << 63}) {
    errno = 0;
    EXPECT_EQ(mi_malloc_aligned(100, Opaque(alignment)), nullptr);
    EXPECT_EQ(errno, ENOMEM);
    errno = 0;
    EXPECT_EQ(mi_malloc_aligned(Opaque(static_cast<size_t>(PTRDIFF_MAX)), Opaque(alignment)), nullptr);
    EXPECT_EQ(errno, ENOMEM);
  }
}

TEST(AlignmentGridTest, BlocksOfMultiplesOfTheAlignmentCostAtMostTwiceTheSizeAndOneAlignment) {
  for (size_t alignment = 16; alignment <= 4096; alignment *= 2) {
    for (size_t factor : {1, 2, 3}) {
      const size_t size = alignment * factor;
      void* block = mi_malloc_aligned(size, alignment);
      ASSERT_NE(block, nullptr);
      EXPECT_LE(mi_usable_size(block), 2 * size + alignment) << size << " aligned to " << alignment;
      mi_free(block);
    }
  }
}

}  // namespace
}  // namespace mi_test
