// mi/internal/resize.c: large and huge blocks that grow and shrink where they are, and when they may not.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "gtest/gtest.h"
#include "mi/heap/heap.h"
#include "tests/internal/probe.h"
#include "tests/test_support.h"

namespace mi_test {
namespace {

constexpr size_t kSlice = 64 * kKiB;
constexpr char kStays[] = "in the secure build a large block ends with a guard, and grows into nothing behind it";
constexpr size_t kSegment = 4 * kMiB;

// Whole segments of blocks of 100 KiB in two slices each, so that each block but the last of a segment has another one
// behind it. Some are freed by a test.
class ResizeTest : public ::testing::Test {
 protected:
  void SetUp() override {
    mi_collect(true);
    for (int i = 0; i < 80; i++) {
      blocks_.push_back(mi_malloc(kSize));
      ASSERT_NE(blocks_.back(), nullptr);
    }
    std::sort(blocks_.begin(), blocks_.end());
    for (size_t i = 0; i + 3 < blocks_.size(); i++) {
      if (Slice(i) % 64 + 8 <= 64 && Slice(i + 3) == Slice(i) + 6) {
        first_ = i;
        return;
      }
    }
    FAIL() << "no four blocks in a row";
  }
  void TearDown() override {
    for (void* block : blocks_) mi_free(block);
  }
  size_t Slice(size_t i) const { return reinterpret_cast<uintptr_t>(blocks_[i]) / kSlice; }
  // Number 0 to 3 of four that lie in a row.
  void*& Block(size_t i) { return blocks_[first_ + i]; }
  void Free(size_t i) {
    mi_free(Block(i));
    Block(i) = nullptr;
  }

  static constexpr size_t kSize = 100 * kKiB;
  std::vector<void*> blocks_;
  size_t first_ = 0;
};

TEST_F(ResizeTest, ALargeBlockTakesTheSlicesBehindItIfTheyAreFree) {
  if (kSecure) GTEST_SKIP() << kStays;
  Fill(Block(0), kSize, 1);
  Fill(Block(2), kSize, 2);
  EXPECT_EQ(mi_expand(Block(0), 3 * kSlice), nullptr) << "into a block that is alive";
  Free(1);
  void* const before = Block(0);
  EXPECT_EQ(mi_expand(Block(0), 4 * kSlice + 1), nullptr) << "one byte into a block that is alive";
  ASSERT_EQ(Block(0) = mi_realloc(Block(0), 4 * kSlice), before);
  EXPECT_EQ(mi_usable_size(Block(0)), 4 * kSlice);
  EXPECT_TRUE(Holds(Block(0), kSize, 1));
  memset(Block(0), 0xff, 4 * kSlice);
  EXPECT_TRUE(Holds(Block(2), kSize, 2));
}

TEST_F(ResizeTest, TheRestOfItsOwnSlicesIsItsAnyTime) {
  if (kSecure) GTEST_SKIP() << kStays;
  ASSERT_LT(mi_usable_size(Block(0)), 2 * kSlice);
  EXPECT_EQ(mi_expand(Block(0), 2 * kSlice), Block(0));
  EXPECT_EQ(mi_usable_size(Block(0)), 2 * kSlice);
}

TEST_F(ResizeTest, ALargeBlockThatShrinksGivesItsLastSlicesToOthers) {
  if (kSecure) GTEST_SKIP() << kStays;
  Free(1);
  Free(2);
  void* const before = Block(0);
  ASSERT_EQ(mi_expand(Block(0), 6 * kSlice), before);
  Fill(Block(0), 6 * kSlice, 3);
  ASSERT_EQ(Block(0) = mi_realloc(Block(0), kSize), before);
  EXPECT_EQ(mi_usable_size(Block(0)), kSize);
  EXPECT_TRUE(Holds(Block(0), 6 * kSlice, 3, kSize));
  const size_t index = static_cast<size_t>(static_cast<const uint8_t*>(before) - probe_arena(0).start) / kSegment;
  const probe_segment_t segment = probe_segment(0, index);
  EXPECT_EQ(segment.free >> (Slice(first_) % 64) & 63, 0x3cu);
  for (void*& block : {std::ref(Block(1)), std::ref(Block(2))}) {
    block = mi_malloc(kSize);
    Fill(block, kSize, 4);
  }
  EXPECT_TRUE(Holds(Block(0), 6 * kSlice, 3, kSize));
}

TEST_F(ResizeTest, WhatIsAddedIsZeroForWhoAsksForThat) {
  memset(Block(1), 0xff, kSize);
  Free(1);
  mi_free(Block(0));
  ASSERT_NE(Block(0) = mi_zalloc(kSize), nullptr);
  for (size_t size : {4 * kSlice, kSize + 1, 4 * kSlice, 3 * kSlice, 20 * kSlice, 6 * kMiB, 5 * kMiB, 20 * kMiB}) {
    const size_t former = mi_usable_size(Block(0));
    ASSERT_NE(Block(0) = mi_rezalloc(Block(0), size), nullptr);
    EXPECT_TRUE(IsZero(Block(0), std::min(former, size), mi_usable_size(Block(0)))) << size;
    memset(Block(0), 0xff, size);
  }
}

TEST_F(ResizeTest, AnotherThreadsBlockIsNotResizedWhereItIs) {
  Free(1);
  Fill(Block(0), kSize, 5);
  InThread([&] {
    EXPECT_EQ(mi_expand(Block(0), 3 * kSlice), nullptr);
    void* const before = Block(0);
    ASSERT_NE(Block(0) = mi_realloc(Block(0), 4 * kSlice), nullptr);
    EXPECT_NE(Block(0), before);
    EXPECT_TRUE(Holds(Block(0), kSize, 5));
  });
}

TEST_F(ResizeTest, NorOneThatIsToMoveToAnotherHeap) {
  Free(1);
  mi_heap_t* heap = mi_heap_new();
  ASSERT_NE(Block(0) = mi_heap_realloc(heap, Block(0), 4 * kSlice), nullptr);
  EXPECT_EQ(mi_heap_of(Block(0)), heap);
  mi_heap_delete(heap);
}

TEST(ResizeHugeTest, AHugeBlockGrowsIntoSegmentsThatNobodyUsesAndGivesThemBack) {
  if (kSecure) GTEST_SKIP() << kStays;
  void* const wide = mi_malloc(100 * kMiB);  // what is behind the block is free for sure
  mi_free(wide);
  unsigned char* const block = Opaque(static_cast<unsigned char*>(mi_malloc(5 * kMiB)));
  ASSERT_NE(block, nullptr);
  Fill(block, 5 * kMiB, 1);
  ASSERT_EQ(mi_expand(Opaque(block), 7 * kMiB), block);
  ASSERT_EQ(mi_expand(Opaque(block), 60 * kMiB), block);
  EXPECT_EQ(mi_usable_size(block), 60 * kMiB);
  for (size_t at = 5 * kMiB; at < 60 * kMiB; at += kSlice) block[at] = 7;
  EXPECT_TRUE(mi_check_owned(block + 5));
  void* const behind = mi_malloc(6 * kMiB);
  EXPECT_GE(static_cast<unsigned char*>(behind), block + 60 * kMiB);
  ASSERT_EQ(mi_realloc(Opaque(block), 5 * kMiB), block);
  void* const between = mi_malloc(30 * kMiB);
  EXPECT_GT(between, block);
  EXPECT_LT(between, behind) << "segments that were given back serve others";
  EXPECT_EQ(mi_expand(Opaque(block), 16 * kMiB), nullptr);
  Fill(between, 30 * kMiB, 2);
  EXPECT_TRUE(Holds(block, 5 * kMiB, 1));
  mi_free(between);
  mi_free(behind);
  mi_free(block);
}

// Memory that was never used before a block, used memory behind it. What the first growth adds is looked at by the
// second one again.
TEST(ResizeZeroTest, TheSecondGrowthIntoUsedMemoryIsZeroToo) {
  if (kSecure) GTEST_SKIP() << kStays;
  mi_arena_id_t arena;
  ASSERT_EQ(mi_reserve_os_memory_ex(64 * kMiB, false, false, true, &arena), 0);
  mi_heap_t* heap = mi_heap_new_in_arena(arena);
  ASSERT_NE(heap, nullptr);
  struct {
    size_t first, behind, second, third;
  } const cases[] = {{120 * kKiB, 190 * kKiB, 140 * kKiB, 180 * kKiB},
                     {5 * kMiB, 11 * kMiB, 8 * kMiB + 100 * kKiB, 11 * kMiB}};
  for (const auto& sizes : cases) {
    void* const block = mi_heap_zalloc(heap, sizes.first);
    void* const behind = mi_heap_malloc(heap, sizes.behind);
    ASSERT_NE(behind, nullptr);
    ASSERT_GT(behind, block);
    memset(behind, 0xff, sizes.behind);
    mi_free(behind);
    ASSERT_EQ(mi_heap_rezalloc(heap, Opaque(block), sizes.second), block);
    ASSERT_EQ(mi_heap_rezalloc(heap, Opaque(block), sizes.third), block);
    EXPECT_TRUE(IsZero(block, sizes.first, mi_usable_size(block))) << sizes.first;
    mi_free(block);
  }
  mi_heap_destroy(heap);
}

TEST(ResizeHoldTest, WhatAHeldHeapsBlockLayInStaysAsItIs) {
  mi_heap_t* heap = mi_heap_new();
  for (size_t size : {900 * kKiB, 9 * kMiB}) {
    void* const block = mi_heap_malloc(heap, size);
    Fill(block, size, 1);
    ASSERT_TRUE(mi_heap_hold_pages(heap));
    void* const smaller = mi_heap_realloc(heap, Opaque(block), size / 9);
    ASSERT_NE(smaller, nullptr);
    void* const other = mi_malloc(size / 9 * 7);
    memset(other, 0xff, size / 9 * 7);
    EXPECT_TRUE(Holds(Opaque(block), size, 1)) << "a reader's view of it";
    mi_free(other);
    mi_heap_release_pages(heap);
    mi_free(smaller);
  }
  mi_heap_destroy(heap);
}

TEST(ResizeAccountTest, WhatABlockGrowsByCountsAndALimitRefusesIt) {
  mi_heap_config_t config = {};
  config.size = sizeof(config);
  config.limit = kMiB;
  for (size_t size : {kMiB / 2, 3 * kMiB / 4}) {
    mi_heap_t* heap = mi_heap_new_with(&config);
    mi_free(mi_malloc(3 * kMiB));
    void* const block = mi_heap_malloc(heap, 4 * kSlice);
    ASSERT_NE(block, nullptr);
    const size_t before = mi_heap_used(heap);
    if (mi_expand(Opaque(block), size) == nullptr) GTEST_SKIP() << "no room behind it";
    EXPECT_EQ(mi_heap_used(heap), before - 4 * kSlice + size);
    EXPECT_EQ(mi_expand(Opaque(block), kMiB + 1), nullptr);
    EXPECT_EQ(mi_heap_used(heap), before - 4 * kSlice + size);
    EXPECT_EQ(mi_realloc(block, 2 * kSlice), block);
    EXPECT_EQ(mi_heap_used(heap), before - 2 * kSlice);
    mi_free(block);
    EXPECT_EQ(mi_heap_used(heap), before - 4 * kSlice);
    mi_heap_destroy(heap);
  }
}

TEST(ResizeVisitTest, ABlockThatAVisitorLooksAtKeepsItsShape) {
  mi_heap_t* heap = mi_heap_new();
  mi_free(mi_malloc(3 * kMiB));
  void* block = mi_heap_malloc(heap, 4 * kSlice);
  int seen = 0;
  struct Arg {
    void* block;
    int* seen;
  } arg = {block, &seen};
  mi_heap_visit_blocks(
      heap, true,
      [](const mi_heap_t*, const mi_heap_area_t*, void* p, size_t, void* a) {
        Arg* const its = static_cast<Arg*>(a);
        if (p != its->block) return true;
        ++*its->seen;
        EXPECT_EQ(mi_expand(p, 5 * kSlice), nullptr);
        return true;
      },
      &arg);
  EXPECT_EQ(seen, 1);
  mi_heap_destroy(heap);
}

// Every block is filled, and checked when it was resized: what two blocks had at the same time would show.
TEST(ResizeStressTest, ThreadsGrowAndShrinkBlocksNextToEachOther) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; t++) {
    threads.emplace_back([t] {
      Random random(static_cast<uint64_t>(t) + 77);
      struct Item {
        void* p = nullptr;
        size_t size = 0;
        uint64_t seed = 0;
      } items[12];
      for (int i = 0; i < Scaled(4000, 40000); i++) {
        Item& item = items[random.Below(12)];
        const size_t most = random.OneIn(40) ? 12 * kMiB : 600 * kKiB, size = random.Between(66 * kKiB, most);
        if (item.p != nullptr && random.OneIn(6)) {
          mi_free(item.p);
          item.p = nullptr;
        }
        void* const p = mi_realloc(item.p, size);
        ASSERT_NE(p, nullptr);
        if (item.p != nullptr) {
          ASSERT_TRUE(Holds(p, item.size, item.seed, size));
        }
        item = {p, size, random.Next()};
        Fill(p, size, item.seed);
      }
      for (Item& item : items) {
        if (item.p != nullptr) {
          EXPECT_TRUE(Holds(item.p, item.size, item.seed));
        }
        mi_free(item.p);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(mi_heap_check(mi_heap_main()));
}

}  // namespace
}  // namespace mi_test
