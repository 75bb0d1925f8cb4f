// Tests mi/heap/hold.c: while a heap is held, memory of freed blocks stays readable, keeps what it held but for the
// first word, and serves the same class of the same heap alone; all goes when the last hold ends.
#include <set>

#include "mi/mimalloc-stats.h"
#include "tests/test_support.h"

namespace mi_test {
namespace {

constexpr size_t kLink = 8;  // what a free may change of a block

// Bytes of address space that the heap's areas take.
size_t Reserved(mi_heap_t* heap) {
  size_t sum = 0;
  mi_heap_visit_blocks(
      heap, false,
      [](auto, const mi_heap_area_t* area, void*, size_t, void* arg) {
        *static_cast<size_t*>(arg) += area->reserved;
        return true;
      },
      &sum);
  return sum;
}

// Pages that somebody has, of all heaps; of blocks larger than 64 KiB each has one.
int64_t Pages() {
  mi_stats_t_decl(stats);
  EXPECT_TRUE(mi_stats_get(&stats));
  return stats.pages.current;
}

struct Freed {
  char* p;
  size_t size;
  uint64_t seed;
};

std::vector<Freed> Allocate(mi_heap_t* heap, size_t size, int count, uint64_t seed) {
  std::vector<Freed> all;
  for (int i = 0; i < count; i++) {
    Freed block = {static_cast<char*>(mi_heap_malloc(heap, size)), size, seed + static_cast<uint64_t>(i)};
    FillBytes(block.p, 0, size, block.seed);
    all.push_back(block);
  }
  return all;
}

void Free(const std::vector<Freed>& blocks) {
  for (const Freed& block : blocks) mi_free(block.p);
}

::testing::AssertionResult Stay(const std::vector<Freed>& blocks) {
  for (const Freed& block : blocks) {
    const size_t at = FindDifference(block.p, kLink, block.size, block.seed);
    if (at < block.size) {
      return ::testing::AssertionFailure() << "byte " << at << " of a block of " << block.size << " changed";
    }
  }
  return ::testing::AssertionSuccess();
}

// Tries to have the memory used for something else: by collects, slow paths and other heaps of other sizes.
void Provoke(mi_heap_t* heap) {
  mi_heap_collect(heap, true);
  mi_collect(true);
  for (size_t size : {24, 208, 3000, 70000, 500000}) {
    for (bool same : {true, false}) {
      mi_heap_t* other = same ? heap : mi_heap_new();
      std::vector<void*> blocks;
      for (int i = 0; i < (size > 10000 ? 20 : 600); i++) {
        blocks.push_back(mi_heap_malloc(other, size));
        memset(blocks.back(), 0xee, size);
      }
      for (void* p : blocks) mi_free(p);
      if (!same) mi_heap_destroy(other);
    }
  }
  mi_heap_collect(heap, true);
  mi_collect(true);
}

class HoldSizeTest : public ::testing::TestWithParam<size_t> {};

TEST_P(HoldSizeTest, WhatWasFreedStaysAsItWasUntilTheHoldEnds) {
  const size_t size = GetParam();
  mi_heap_t* heap = mi_heap_new();
  const int count = size > 100 * kKiB ? 12 : static_cast<int>(std::max<size_t>(20, 600 * kKiB / size));
  ASSERT_TRUE(mi_heap_hold_pages(heap));
  Provoke(heap);
  const int64_t pages = Pages();
  std::vector<Freed> blocks = Allocate(heap, size, count, size);
  const int64_t more = Pages() - pages;
  EXPECT_GT(more, size < 128 ? 0 : 1);
  Free(blocks);
  EXPECT_TRUE(Stay(blocks));
  EXPECT_EQ(Pages(), pages + more);
  Provoke(heap);
  EXPECT_TRUE(Stay(blocks));
  EXPECT_GE(Pages(), pages + more);
  EXPECT_TRUE(mi_heap_check(heap));
  EXPECT_EQ(CountBlocks(heap), 0u);
  ASSERT_TRUE(mi_heap_release_pages(heap));
  mi_heap_collect(heap, true);
  EXPECT_LT(Pages(), pages - 20) << "it went, with what Provoke left";
  EXPECT_TRUE(mi_heap_check(heap));
  mi_heap_destroy(heap);
}

// Young objects, classes of small and of large pages, pages of their own, segments of their own.
INSTANTIATE_TEST_SUITE_P(Sizes, HoldSizeTest, ::testing::Values(48, 160, 1024, 5000, 40000, 200000, 3000000, 9000000),
                         ::testing::PrintToStringParamName());

TEST(HoldTest, AnEmptyPageServesItsClassAgainAndNoOther) {
  mi_heap_t* heap = mi_heap_new();
  Free(Allocate(heap, 256, 5000, 1));  // the class has pages
  ASSERT_TRUE(mi_heap_hold_pages(heap));
  std::vector<Freed> blocks = Allocate(heap, 256, 5000, 2);
  std::set<uintptr_t> slices;
  for (const Freed& block : blocks) slices.insert(reinterpret_cast<uintptr_t>(block.p) >> 16);
  const size_t reserved = Reserved(heap);
  Free(blocks);
  for (int round = 0; round < 5; round++) {
    std::vector<Freed> others = Allocate(heap, 512, 2000, 3);
    for (const Freed& block : others) {
      ASSERT_EQ(slices.count(reinterpret_cast<uintptr_t>(block.p) >> 16), 0u) << "another class";
    }
    std::vector<Freed> again = Allocate(heap, 256, 4500, 4);
    int met = 0;
    for (const Freed& block : again) met += static_cast<int>(slices.count(reinterpret_cast<uintptr_t>(block.p) >> 16));
    EXPECT_GT(met, 4400) << "the class uses its pages again";
    Free(again);
    Free(others);
  }
  EXPECT_LE(Reserved(heap), 2 * reserved + kMiB) << "and does not grow by rounds";
  EXPECT_TRUE(mi_heap_check(heap));
  mi_heap_release_pages(heap);
  mi_heap_destroy(heap);
}

TEST(HoldTest, HoldsNestAndOneTooFewIsRefused) {
  mi_heap_t* heap = mi_heap_new();
  ErrorRecorder recorder;
  EXPECT_FALSE(mi_heap_release_pages(heap));
  EXPECT_EQ(recorder.count(EINVAL), 1) << recorder.text();
  std::vector<Freed> blocks = Allocate(heap, 100000, 20, 1);
  EXPECT_TRUE(mi_heap_hold_pages(heap));
  EXPECT_TRUE(mi_heap_hold_pages(heap));
  InThread([&] { EXPECT_TRUE(mi_heap_hold_pages(heap)); });
  Free(blocks);
  EXPECT_TRUE(mi_heap_release_pages(heap));
  EXPECT_TRUE(mi_heap_release_pages(heap));
  Provoke(heap);
  EXPECT_TRUE(Stay(blocks));
  EXPECT_TRUE(mi_heap_release_pages(heap));
  EXPECT_FALSE(mi_heap_release_pages(heap));
  EXPECT_FALSE(mi_heap_hold_pages(nullptr));
  EXPECT_FALSE(mi_heap_release_pages(nullptr));
  EXPECT_EQ(recorder.count(EINVAL), 4) << recorder.text();
  mi_heap_destroy(heap);
  EXPECT_FALSE(mi_heap_hold_pages(heap));
  EXPECT_FALSE(mi_heap_release_pages(heap));
  EXPECT_EQ(recorder.count(EFAULT), 2) << recorder.text();
}

TEST(HoldTest, EndsWithAHeapWhoseHandleIsKeptForTheNext) {
  mi_heap_config_t config = {};
  config.size = sizeof(config);
  config.limit = kMiB;
  ErrorRecorder errors;
  for (int i = 0; i < 3; i++) {
    mi_heap_t* heap = mi_heap_new_with(&config);
    EXPECT_FALSE(mi_heap_release_pages(heap));  // it is not held
    EXPECT_EQ(errors.count(EINVAL), i + 1);
    ASSERT_TRUE(mi_heap_hold_pages(heap));
    mi_heap_destroy(heap);
  }
}

TEST(HoldTest, OtherHeapsAreNotHeld) {
  mi_heap_t* held = mi_heap_new();
  mi_heap_t* heap = mi_heap_new();
  ASSERT_TRUE(mi_heap_hold_pages(held));
  std::vector<Freed> blocks = Allocate(heap, 100000, 20, 1);
  EXPECT_GE(Reserved(heap), 20u * 100000);
  Free(blocks);
  EXPECT_EQ(Reserved(heap), 0u);
  blocks = Allocate(heap, 1024, 2000, 1);
  Free(blocks);
  mi_heap_collect(heap, true);
  EXPECT_LT(Reserved(heap), 200 * kKiB);
  mi_heap_destroy(held);
  mi_heap_destroy(heap);
}

TEST(HoldTest, TheMainHeapIsHeld) {
  ASSERT_TRUE(mi_heap_hold_pages(mi_heap_main()));
  std::vector<std::vector<Freed>> blocks;
  for (size_t size : {176, 1500, 100000, 6000000}) {
    blocks.push_back(Allocate(mi_heap_main(), size, size > 10000 ? 10 : 2000, size));
    Free(blocks.back());
  }
  // Of a thread that ends too.
  InThread([&] {
    for (size_t size : {96, 800, 90000, 6500000}) {
      blocks.push_back(Allocate(mi_heap_main(), size, size > 10000 ? 10 : 2000, size));
      if (size != 800) Free(blocks.back());
    }
  });
  Free(blocks[5]);
  mi_heap_t* other = mi_heap_new();
  Provoke(other);
  mi_heap_destroy(other);
  for (size_t i : {0u, 1u, 2u, 3u, 5u, 6u, 7u}) EXPECT_TRUE(Stay(blocks[i])) << i;
  EXPECT_TRUE(mi_heap_check(mi_heap_main()));
  EXPECT_TRUE(mi_heap_release_pages(mi_heap_main()));
  EXPECT_TRUE(mi_heap_check(mi_heap_main()));
}

TEST(HoldTest, PagesOfThreadsThatEndedStayAndGo) {
  mi_heap_t* heap = mi_heap_new();
  ASSERT_TRUE(mi_heap_hold_pages(heap));
  std::vector<Freed> freed_there, freed_here, large_there, large_here;
  InThread([&] {
    freed_there = Allocate(heap, 320, 4000, 1);
    freed_here = Allocate(heap, 640, 4000, 2);
    large_there = Allocate(heap, 200000, 5, 3);
    large_here = Allocate(heap, 250000, 5, 4);
    Free(freed_there);
    Free(large_there);
  });
  const int64_t pages = Pages();
  Free(freed_here);
  Free(large_here);
  mi_heap_collect(heap, true);
  EXPECT_GE(Pages(), pages - 3) << "the library's own may go";
  for (const auto* blocks : {&freed_there, &freed_here, &large_there, &large_here}) EXPECT_TRUE(Stay(*blocks));
  EXPECT_EQ(CountBlocks(heap), 0u);
  EXPECT_TRUE(mi_heap_check(heap));
  std::vector<Freed> again = Allocate(heap, 320, 2000, 5);  // adopts
  EXPECT_TRUE(Stay(freed_here) && Stay(large_there) && Stay(large_here));
  Free(again);
  EXPECT_TRUE(mi_heap_release_pages(heap));
  mi_heap_collect(heap, true);
  EXPECT_LT(Pages(), pages - 60) << "10 large blocks, and 60 pages of small ones";
  EXPECT_TRUE(mi_heap_check(heap));
  mi_heap_destroy(heap);
}

TEST(HoldTest, BlocksThatOthersFreeStay) {
  mi_heap_t* heap = mi_heap_new();
  ASSERT_TRUE(mi_heap_hold_pages(heap));
  std::vector<Freed> small = Allocate(heap, 448, 4000, 1), large = Allocate(heap, 300000, 6, 2);
  InThread([&] {
    Free(small);
    Free(large);
  });
  const int64_t pages = Pages();
  mi_heap_collect(heap, true);
  Provoke(heap);
  EXPECT_TRUE(Stay(small));
  EXPECT_TRUE(Stay(large));
  EXPECT_GE(Pages(), pages);
  EXPECT_TRUE(mi_heap_check(heap));
  EXPECT_TRUE(mi_heap_release_pages(heap));
  mi_heap_collect(heap, true);
  EXPECT_LT(Pages(), pages - 26) << "6 large blocks, and 27 pages of small ones";
  mi_heap_destroy(heap);
}

TEST(HoldTest, WhatWasMergedIntoAHeldHeapIsHeld) {
  mi_heap_t* heap = mi_heap_new();
  mi_heap_t* from = mi_heap_new();
  mi_heap_t* tiny = mi_heap_new();
  std::vector<Freed> young = Allocate(tiny, 40, 4, 9);
  std::vector<Freed> small = Allocate(from, 224, 3000, 1), large = Allocate(from, 300000, 6, 2);
  const int64_t pages = Pages();
  ASSERT_TRUE(mi_heap_hold_pages(heap));
  mi_heap_merge(from, heap);
  mi_heap_merge(tiny, heap);
  Free(young);
  Free(small);
  Free(large);
  Provoke(heap);
  for (int i = 0; i < 40; i++) mi_heap_destroy(mi_heap_new());
  EXPECT_TRUE(Stay(young));
  EXPECT_TRUE(Stay(small));
  EXPECT_TRUE(Stay(large));
  EXPECT_GE(Pages(), pages);
  EXPECT_TRUE(mi_heap_check(heap));
  EXPECT_TRUE(mi_heap_release_pages(heap));
  EXPECT_TRUE(mi_heap_check(heap));
  mi_heap_collect(heap, true);
  EXPECT_LT(Pages(), pages - 8);
  mi_heap_destroy(heap);
}

TEST(HoldTest, ADeletedHeapIsHeldNoMore) {
  mi_heap_t* heap = mi_heap_new();
  ASSERT_TRUE(mi_heap_hold_pages(heap));
  std::vector<Freed> large = Allocate(heap, 300000, 6, 2), kept = Allocate(heap, 300000, 6, 3);
  Free(large);
  mi_heap_delete(heap);
  Free(kept);
  mi_collect(true);
  // The next heaps, perhaps on the same handle, are not held.
  for (int i = 0; i < 20; i++) {
    mi_heap_t* next = mi_heap_new();
    std::vector<Freed> blocks = Allocate(next, 300000, 6, 2);
    Free(blocks);
    EXPECT_EQ(Reserved(next), 0u);
    mi_heap_destroy(next);
  }
}

TEST(HoldTest, ResetAndDestroyFreeWhatIsHeld) {
  mi_heap_t* heap = mi_heap_new();
  ASSERT_TRUE(mi_heap_hold_pages(heap));
  for (int round = 0; round < 3; round++) {
    Free(Allocate(heap, 300000, 6, 2));
    Free(Allocate(heap, 300, 3000, 2));
    InThread([&] { Free(Allocate(heap, 400, 3000, 2)); });
    mi_heap_reset(heap);
    EXPECT_TRUE(mi_heap_check(heap));
    EXPECT_LT(Reserved(heap), 300 * kKiB);
  }
  std::vector<Freed> blocks = Allocate(heap, 300000, 6, 2);
  Free(blocks);
  EXPECT_TRUE(Stay(blocks)) << "the hold outlives a reset";
  const int64_t pages = Pages();
  mi_heap_destroy(heap);
  EXPECT_LE(Pages(), pages - 6);
}

TEST(HoldTest, MarksAndHoldsGoTogether) {
  mi_heap_t* heap = mi_heap_new();
  ASSERT_TRUE(mi_heap_hold_pages(heap));
  std::vector<Freed> old = Allocate(heap, 300, 3000, 1), large = Allocate(heap, 200000, 3, 1);
  Free(old);
  Free(large);
  const mi_heap_mark_t mark = mi_heap_mark(heap);
  EXPECT_TRUE(mi_heap_check(heap));
  std::vector<Freed> young = Allocate(heap, 300, 3000, 2);
  EXPECT_TRUE(mi_heap_rewind(heap, mark));
  EXPECT_TRUE(mi_heap_check(heap));
  EXPECT_TRUE(Stay(large));
  EXPECT_TRUE(mi_heap_unmark(heap, mark));
  EXPECT_TRUE(mi_heap_check(heap));
  EXPECT_TRUE(Stay(large));
  EXPECT_TRUE(mi_heap_release_pages(heap));
  EXPECT_TRUE(mi_heap_check(heap));
  mi_heap_collect(heap, true);
  EXPECT_LT(Reserved(heap), 300 * kKiB);
  mi_heap_destroy(heap);
}

TEST(HoldTest, AnEmptyPageThatAMarkFoundGoesAfterTheHold) {
  for (uint32_t flags : {0u, uint32_t{MI_HEAP_ZERO}}) {
    mi_heap_config_t config{};
    config.size = sizeof(config);
    config.flags = flags;
    mi_heap_t* heap = mi_heap_new_with(&config);
    ASSERT_NE(mi_heap_theap(heap), nullptr);
    // Pages of a thread that ended; above the first one are more in the stack of those than are looked at.
    std::vector<void*> blocks;
    std::thread([&] {
      for (int i = 0; i < 1200; i++) blocks.push_back(mi_heap_malloc(heap, 10240));
    }).join();
    const auto second = blocks.begin() + 512 * 1024 / 10240;
    mi_free(blocks[0]);  // takes the first one over, which stays in the stack
    ASSERT_TRUE(mi_heap_hold_pages(heap));
    std::for_each(blocks.begin() + 1, second, mi_free);
    EXPECT_NE(mi_heap_mark(heap).serial, 0u);
    EXPECT_TRUE(mi_heap_check(heap));
    EXPECT_TRUE(mi_heap_release_pages(heap));
    EXPECT_TRUE(mi_heap_check(heap));
    std::for_each(second, blocks.end(), mi_free);
    mi_heap_collect(heap, true);
    EXPECT_TRUE(mi_heap_check(heap));
    EXPECT_EQ(mi_heap_used(heap), 0u);
    mi_heap_destroy(heap);
  }
}

TEST(HoldTest, ADoubleFreeOfALargeBlockIsReportedThoughItsPageIsThere) {
  if (kSecure) GTEST_SKIP() << kMisuseEnds;
  mi_heap_t* heap = mi_heap_new();
  ASSERT_TRUE(mi_heap_hold_pages(heap));
  void* p = mi_heap_malloc(heap, 200000);
  mi_free(p);
  ErrorRecorder recorder;
  mi_free(p);
  EXPECT_EQ(recorder.count(EAGAIN), 1) << recorder.text();
  EXPECT_TRUE(mi_heap_check(heap));
  mi_heap_release_pages(heap);
  EXPECT_EQ(Reserved(heap), 0u);
  mi_heap_destroy(heap);
}

TEST(HoldTest, AnObjectThatShrinksInARegionLeavesNothingToOthers) {
  mi_heap_t* heap = mi_heap_new();
  ASSERT_TRUE(mi_heap_hold_pages(heap));
  char* p = static_cast<char*>(mi_heap_malloc(heap, 200));
  FillBytes(p, 0, 200, 7);
  char* q = static_cast<char*>(mi_realloc(p, 20));
  char* next = static_cast<char*>(mi_heap_malloc(heap, 100));
  memset(next, 0xee, 100);
  EXPECT_EQ(FindDifference(p, q == p ? 32 : 0, 200, 7), 200u);
  mi_heap_release_pages(heap);
  mi_heap_destroy(heap);
}

// A list of nodes that writers change under a lock and readers walk without one: each takes a hold, reads the head and
// follows it. What a reader meets is a node of the list, now or once: its class and its heap hold nothing else. A node
// says so by its tag and by where it lies.
struct Node {
  std::atomic<uintptr_t> link;  // the first 8 bytes: a free changes them
  std::atomic<uint64_t> tag;
  std::atomic<uint64_t> mirror;
  char payload[200];
};

class HoldStressTest : public ::testing::TestWithParam<bool> {};

TEST_P(HoldStressTest, ReadersMeetNodesAndNothingElse) {
  constexpr int kReaders = 2, kWriters = 2;
  constexpr uint64_t kTag = 0x5afe0000c0ffee11u;
  const bool main = GetParam();
  mi_heap_t* heap = main ? mi_heap_main() : mi_heap_new();
  std::atomic<Node*> slots[64] = {};
  std::atomic<int> writing{kWriters};
  std::atomic<uint64_t> looks{0};
  InThreads(kReaders + kWriters, [&](int self) {
    Random random(static_cast<uint64_t>(self) + 1);
    if (self < kWriters) {
      mi_heap_t* noise = mi_heap_new();
      for (int i = 0; i < Scaled(300) || (looks < 5000 && i < 1000000); i++) {
        // A burst that fills pages, and one that empties them; between the two, other sizes and heaps want memory.
        for (int k = 0; k < 400; k++) {
          void* memory = mi_heap_malloc(heap, sizeof(Node));
          Node* node = static_cast<Node*>(memory);
          // Atomics without construction: a reader may be looking at what the memory was before.
          node->tag.store(kTag, std::memory_order_relaxed);
          node->mirror.store(~kTag, std::memory_order_relaxed);
          Node* old = slots[random.Below(64)].exchange(node);
          if (old != nullptr) mi_free(old);
        }
        for (int k = 0; k < 64; k++) {
          Node* old = slots[k].exchange(nullptr);
          if (old != nullptr) mi_free(old);
        }
        for (size_t size : {64, 512, 4000, 70000}) {
          for (mi_heap_t* other : {noise, heap}) {
            void* p = mi_heap_malloc(other, size);
            memset(p, 0xee, size);
            mi_free(p);
          }
        }
        if (i % 8 == 0) mi_heap_reset(noise);
        if (i % 16 == 0) mi_heap_collect(heap, true);
      }
      mi_heap_destroy(noise);
      writing--;
      return;
    }
    while (writing.load() != 0) {
      ASSERT_TRUE(mi_heap_hold_pages(heap));
      for (int k = 0; k < 64; k++) {
        Node* node = slots[random.Below(64)].load(std::memory_order_acquire);
        if (node == nullptr) continue;
        for (int again = 0; again < 3; again++) {
          ASSERT_EQ(node->tag.load(std::memory_order_relaxed), kTag);
          ASSERT_EQ(node->mirror.load(std::memory_order_relaxed), ~kTag);
          if (again == 1) std::this_thread::yield();
        }
        looks++;
      }
      ASSERT_TRUE(mi_heap_release_pages(heap));
    }
  });
  for (auto& slot : slots) mi_free(slot.load());
  EXPECT_GT(looks.load(), 0u);
  EXPECT_TRUE(mi_heap_check(heap));
  if (!main) {
    EXPECT_EQ(CountBlocks(heap), 0u);
    mi_heap_destroy(heap);
  }
}

INSTANTIATE_TEST_SUITE_P(Heaps, HoldStressTest, ::testing::Bool(),
                         [](const auto& instance) { return std::string(instance.param ? "Main" : "Own"); });

// Threads hold, free, end, merge and delete while a reader's hold is on and off.
TEST(HoldTest, HeapsAreHeldMergedAndDeletedByManyThreadsAtOnce) {
  mi_heap_t* target = mi_heap_new();
  InThreads(4, [&](int self) {
    Random random(static_cast<uint64_t>(self) + 77);
    for (int i = 0; i < Scaled(150); i++) {
      const bool held = random.OneIn(2);
      if (held) {
        ASSERT_TRUE(mi_heap_hold_pages(target));
      }
      mi_heap_t* heap = mi_heap_new();
      if (random.OneIn(2)) {
        ASSERT_TRUE(mi_heap_hold_pages(heap));
      }
      std::vector<Freed> all = Allocate(heap, random.Between(16, 2000), 200, 1);
      std::vector<Freed> large = Allocate(heap, 100000, 2, 1);
      std::vector<Freed> own = Allocate(target, random.Between(16, 2000), 200, 1);
      Worker freer;
      freer.Start([&] { Free(all); });
      const size_t end = random.Below(3);
      switch (end) {
        case 0:
          mi_heap_delete(heap);
          break;
        case 1:
          mi_heap_merge(heap, target);
          break;
        default:
          break;
      }
      Free(large);
      Free(own);
      freer.Exit();
      if (held) {
        ASSERT_TRUE(mi_heap_release_pages(target));
      }
      if (end == 2) mi_heap_destroy(heap);
    }
  });
  EXPECT_EQ(CountBlocks(target), 0u);
  EXPECT_TRUE(mi_heap_check(target));
  mi_heap_destroy(target);
}

}  // namespace
}  // namespace mi_test
