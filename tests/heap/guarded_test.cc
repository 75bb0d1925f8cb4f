// Heaps that were made with MI_HEAP_GUARDED, in a build where nothing else is guarded: which blocks get guards, and
// that these are blocks like others in everything that a heap does. What happens where one is run over is in
// tests/options.
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <map>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "mi/mimalloc-stats.h"
#include "mi/mimalloc.h"

namespace {

// A block of this size begins where an OS page or half of one does, unless it is guarded: those end where one ends.
constexpr size_t kSize = 2000;
bool IsGuarded(const void* p) { return reinterpret_cast<uintptr_t>(p) % 4096 == 4096 - kSize; }

mi_heap_t* NewHeap(size_t rate, size_t seed = 1, uint32_t flags = 0) {
  mi_heap_config_t config{};
  config.size = sizeof(config);
  config.name = "guarded";
  config.flags = MI_HEAP_GUARDED | flags;
  mi_heap_t* heap = mi_heap_new_with(&config);
  EXPECT_NE(heap, nullptr);
  mi_heap_guarded_set_sample_rate(heap, rate, seed);
  return heap;
}

std::vector<int> GuardedOnes(mi_heap_t* heap, int count) {
  std::vector<int> numbers;
  for (int i = 0; i < count; i++) {
    void* p = mi_heap_malloc(heap, kSize);
    EXPECT_NE(p, nullptr);
    if (IsGuarded(p)) numbers.push_back(i);
    mi_free(p);
  }
  return numbers;
}

void Fill(void* p, size_t size, int seed) {
  for (size_t i = 0; i < size; i++) static_cast<uint8_t*>(p)[i] = static_cast<uint8_t>(seed + i);
}
bool IsIntact(const void* p, size_t size, int seed) {
  for (size_t i = 0; i < size; i++) {
    if (static_cast<const uint8_t*>(p)[i] != static_cast<uint8_t>(seed + i)) return false;
  }
  return true;
}

// --- which ----------------------------------------------------------------------------------------------------------

TEST(GuardedHeap, GuardsOneBlockInSoManyWithinThreeDeviations) {
  for (size_t rate : {2, 10, 100}) {
    for (size_t seed : {1, 2, 3}) {
      mi_heap_t* heap = NewHeap(rate, seed);
      const int count = 6000;
      const double mean = static_cast<double>(count) / static_cast<double>(rate);
      const double deviation = std::sqrt(mean * (1 - 1.0 / static_cast<double>(rate)));
      EXPECT_NEAR(static_cast<double>(GuardedOnes(heap, count).size()), mean, 3 * deviation) << rate << " " << seed;
      mi_heap_destroy(heap);
    }
  }
}

TEST(GuardedHeap, TheGapsBetweenGuardedBlocksAreGeometric) {
  mi_heap_t* heap = NewHeap(8);
  const std::vector<int> numbers = GuardedOnes(heap, 24000);
  std::map<int, int> gaps;
  for (size_t i = 1; i < numbers.size(); i++) gaps[std::min(numbers[i] - numbers[i - 1], 31)]++;
  double sum = 0;
  for (int gap = 1; gap <= 31; gap++) {
    const double chance = (gap < 31 ? std::pow(7.0 / 8, gap - 1) / 8 : std::pow(7.0 / 8, 30));
    const double expected = chance * static_cast<double>(numbers.size() - 1);
    sum += (gaps[gap] - expected) * (gaps[gap] - expected) / expected;
  }
  EXPECT_LT(sum, 59.7);  // chi-square with 30 degrees of freedom exceeds it once in 1,000 times
  mi_heap_destroy(heap);
}

TEST(GuardedHeap, TheSameSeedGuardsTheSameBlocks) {
  const auto run = [](size_t seed) {
    mi_heap_t* heap = NewHeap(20, seed);
    const std::vector<int> numbers = GuardedOnes(heap, 5000);
    mi_heap_destroy(heap);
    return numbers;
  };
  const std::vector<int> first = run(5);
  EXPECT_EQ(run(5), first);
  EXPECT_NE(run(6), first);
  EXPECT_NE(run(0), run(0));
}

TEST(GuardedHeap, OnlySizesWithinTheBoundsAreGuarded) {
  mi_heap_t* heap = NewHeap(1);
  mi_heap_guarded_set_size_bound(heap, 50, 150);
  const auto guarded = [] {
    mi_stats_t_decl(stats);
    EXPECT_TRUE(mi_stats_get(&stats));
    return stats.malloc_guarded_count.total;
  };
  for (size_t size : {49, 50, 150, 151}) {
    const int64_t before = guarded();
    EXPECT_EQ(mi_usable_size(mi_heap_malloc(heap, size)), size);
    EXPECT_EQ(guarded() - before, size >= 50 && size <= 150 ? 1 : 0) << size;
  }
  mi_heap_destroy(heap);
}

TEST(GuardedHeap, ARateOfZeroGuardsNothing) {
  mi_heap_t* heap = NewHeap(0);
  EXPECT_TRUE(GuardedOnes(heap, 1000).empty());
  mi_heap_destroy(heap);
}

TEST(GuardedHeap, WithoutSettingsAFewBlocksAreGuarded) {
  mi_heap_config_t config{};
  config.size = sizeof(config);
  config.flags = MI_HEAP_GUARDED;
  mi_heap_t* heap = mi_heap_new_with(&config);
  ASSERT_NE(heap, nullptr);
  const size_t count = GuardedOnes(heap, 100000).size();
  EXPECT_GE(count, 5u);  // one in 4,000: 25 are expected
  EXPECT_LE(count, 60u);
  mi_heap_destroy(heap);
}

TEST(GuardedHeap, OtherHeapsHaveNoGuardsWhateverTheyAskFor) {
  mi_heap_t* heap = mi_heap_new();
  mi_heap_guarded_set_sample_rate(heap, 1, 0);
  EXPECT_TRUE(GuardedOnes(heap, 100).empty());
  mi_heap_destroy(heap);
}

// --- blocks like others
// -----------------------------------------------------------------------------------------------

TEST(GuardedHeap, SettingsOfAPlainHeapLeaveWhatItHoldsAndItsLimitAlone) {
  mi_heap_t* heap = mi_heap_new();
  mi_heap_guarded_set_sample_rate(heap, 1000, 1);
  EXPECT_EQ(mi_heap_used(heap), 0u);
  ASSERT_NE(mi_heap_malloc(heap, size_t{100} << 10), nullptr);
  EXPECT_GE(mi_heap_used(heap), size_t{100} << 10);
  EXPECT_TRUE(mi_heap_set_limit(heap, size_t{200} << 10));
  EXPECT_EQ(mi_heap_malloc(heap, size_t{150} << 10), nullptr);
  EXPECT_TRUE(mi_heap_check(heap));
  mi_heap_destroy(heap);
}

TEST(GuardedHeap, BlocksOfEverySizeHoldTheirBytesAndGrow) {
  mi_heap_t* heap = NewHeap(1);
  for (size_t size : {1, 8, 16, 100, 4095, 4096, 4097, 60000, 65536, 1000000, 4200000, 9000000}) {
    void* p = mi_heap_malloc(heap, size);
    ASSERT_NE(p, nullptr);
    EXPECT_EQ(mi_usable_size(p), size);
    EXPECT_EQ(mi_heap_of(p), heap);
    Fill(p, size, 7);
    for (size_t other : {size, 2 * size, size / 2 + 1}) {
      const size_t kept = std::min(other, mi_usable_size(p));
      p = mi_heap_realloc(heap, p, other);
      ASSERT_NE(p, nullptr);
      EXPECT_TRUE(IsIntact(p, std::min(kept, size / 2 + 1), 7)) << size;
    }
    mi_free(p);
    uint8_t* zeros = static_cast<uint8_t*>(mi_heap_zalloc(heap, size));
    for (size_t i = 0; i < size; i++) ASSERT_EQ(zeros[i], 0) << i;
    mi_free(zeros);
  }
  EXPECT_TRUE(mi_heap_check(heap));
  mi_heap_destroy(heap);
}

TEST(GuardedHeap, AlignmentsAreKept) {
  mi_heap_t* heap = NewHeap(1);
  for (size_t alignment = 1; alignment <= 65536; alignment *= 2) {
    for (size_t size : {1, 24, 100, 5000}) {
      void* p = mi_heap_malloc_aligned(heap, size, alignment);
      ASSERT_NE(p, nullptr);
      EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % alignment, 0u);
      Fill(p, size, 3);
      mi_free(p);
    }
  }
  mi_heap_destroy(heap);
}

bool CountBlock(const mi_heap_t*, const mi_heap_area_t*, void* block, size_t size, void* arg) {
  auto* seen = static_cast<std::map<void*, size_t>*>(arg);
  if (block != nullptr) (*seen)[block] = size;
  return true;
}

TEST(GuardedHeap, AVisitShowsLiveBlocksAsTheyWereAskedFor) {
  mi_heap_t* heap = NewHeap(1);
  std::map<void*, size_t> expected, seen;
  std::vector<void*> others;
  for (size_t i = 1; i < 100; i++) {
    expected[mi_heap_malloc(heap, 10 * i)] = 10 * i;
    others.push_back(mi_heap_malloc(heap, 10 * i));
  }
  for (size_t i = 0; i < others.size(); i++) {
    if (i % 2 == 0) {
      mi_free(others[i]);
    } else {
      std::thread([&] { mi_free(others[i]); }).join();  // waits for its owner
    }
  }
  EXPECT_TRUE(mi_heap_visit_blocks(heap, true, CountBlock, &seen));
  EXPECT_EQ(seen, expected);
  EXPECT_TRUE(mi_heap_check(heap));
  mi_heap_destroy(heap);
}

TEST(GuardedHeap, BlocksOutliveADeletedHeap) {
  for (int merge = 0; merge < 2; merge++) {
    mi_heap_t* heap = NewHeap(2);
    mi_heap_t* into = mi_heap_new();
    std::vector<void*> blocks;
    for (int i = 0; i < 200; i++) {
      blocks.push_back(mi_heap_malloc(heap, kSize));
      Fill(blocks.back(), kSize, i);
    }
    if (merge != 0) {
      mi_heap_merge(heap, into);
    } else {
      mi_heap_delete(heap);
    }
    for (int i = 0; i < 200; i++) {
      EXPECT_TRUE(IsIntact(blocks[i], kSize, i));
      EXPECT_EQ(mi_heap_of(blocks[i]), merge != 0 ? into : mi_heap_main());
      mi_free(blocks[i]);
    }
    mi_heap_destroy(into);
  }
}

TEST(GuardedHeap, ResetAndRewindDropWhatTheyDrop) {
  mi_heap_t* heap = NewHeap(2);
  for (int round = 0; round < 3; round++) {
    std::vector<void*> kept;
    for (int i = 0; i < 50; i++) kept.push_back(mi_heap_malloc(heap, kSize));
    for (void* p : kept) Fill(p, kSize, round);
    mi_heap_mark_t mark = mi_heap_mark(heap);
    for (int i = 0; i < 50; i++) Fill(mi_heap_malloc(heap, kSize), kSize, 9);
    mi_heap_rewind(heap, mark);
    for (void* p : kept) EXPECT_TRUE(IsIntact(p, kSize, round));
    EXPECT_TRUE(mi_heap_check(heap));
    mi_heap_reset(heap);
    std::map<void*, size_t> seen;
    EXPECT_TRUE(mi_heap_visit_blocks(heap, true, CountBlock, &seen));
    EXPECT_TRUE(seen.empty());
  }
  mi_heap_destroy(heap);
}

TEST(GuardedHeap, ZeroGoesWithIt) {
  mi_heap_t* heap = NewHeap(1, 1, MI_HEAP_ZERO);
  for (int i = 0; i < 3000; i++) {
    uint8_t* p = static_cast<uint8_t*>(mi_heap_malloc(heap, kSize));
    for (size_t k = 0; k < kSize; k++) ASSERT_EQ(p[k], 0);
    Fill(p, kSize, i);
    mi_free(p);
  }
  mi_heap_destroy(heap);
}

// --- threads
// ----------------------------------------------------------------------------------------------------------

TEST(GuardedHeap, ThreadsAllocateAndFreeEachOthersBlocks) {
  mi_heap_t* heap = NewHeap(3);
  constexpr int kThreads = 4, kRounds = 2000, kSlots = 64;
  std::vector<std::atomic<uint8_t*>> slots(kSlots);
  for (auto& slot : slots) slot = nullptr;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; t++) {
    threads.emplace_back([&, t] {
      uint32_t random = static_cast<uint32_t>(t) * 7919 + 1;
      for (int i = 0; i < kRounds; i++) {
        random = random * 1664525 + 1013904223;
        uint8_t* p = static_cast<uint8_t*>(mi_heap_malloc(heap, 8 + random % 500));
        p[0] = static_cast<uint8_t>(random);
        p[7] = static_cast<uint8_t>(random);
        uint8_t* former = slots[random >> 8 & (kSlots - 1)].exchange(p);
        if (former == nullptr) continue;
        EXPECT_EQ(former[0], former[7]);
        mi_free(former);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (auto& slot : slots) mi_free(slot.load());
  mi_collect(true);
  EXPECT_TRUE(mi_heap_check(heap));
  std::map<void*, size_t> seen;
  EXPECT_TRUE(mi_heap_visit_blocks(heap, true, CountBlock, &seen));
  EXPECT_TRUE(seen.empty());
  mi_heap_destroy(heap);
}

TEST(GuardedHeap, BlocksOfThreadsThatEndedAreFreedByOthers) {
  mi_heap_t* heap = NewHeap(1);
  for (int round = 0; round < 50; round++) {
    std::vector<void*> blocks(40);
    std::thread([&] {
      for (void*& p : blocks) {
        p = mi_heap_malloc(heap, kSize);
        Fill(p, kSize, round);
      }
    }).join();
    std::thread([&] {
      for (size_t i = 0; i < blocks.size(); i += 2) mi_free(blocks[i]);
    }).join();
    for (size_t i = 1; i < blocks.size(); i += 2) {
      EXPECT_TRUE(IsIntact(blocks[i], kSize, round));
      mi_free(blocks[i]);
    }
  }
  EXPECT_TRUE(mi_heap_check(heap));
  mi_heap_destroy(heap);
}

// Readers of a heap that is held may look at what was freed: an access that faults would end the test.
TEST(GuardedHeap, FreedBlocksOfAHeldHeapCanBeRead) {
  mi_heap_t* heap = NewHeap(1);
  ASSERT_TRUE(mi_heap_hold_pages(heap));
  std::vector<uint8_t*> freed;
  for (size_t size : {kSize, size_t{5000}, size_t{300000}}) {
    for (bool by_another : {false, true}) {
      auto* p = static_cast<uint8_t*>(mi_heap_malloc(heap, size));
      Fill(p, size, 5);
      if (by_another) {
        std::thread([&] { mi_free(p); }).join();
      } else {
        mi_free(p);
      }
      EXPECT_TRUE(IsIntact(p, size, 5));
      freed.push_back(p);
    }
  }
  mi_collect(true);
  for (uint8_t* p : freed) EXPECT_TRUE(IsIntact(p, kSize, 5));
  EXPECT_TRUE(mi_heap_check(heap));
  EXPECT_TRUE(mi_heap_release_pages(heap));
  mi_heap_collect(heap, true);
  EXPECT_EQ(mi_heap_used(heap), 0u);
  mi_heap_destroy(heap);
}

TEST(GuardedHeap, OneFreeOfTwoIsRefused) {
  static std::atomic<int> errors{0};
  errors = 0;
  mi_register_output([](const char*, void*) {}, nullptr);
  mi_register_error([](int, void*) { errors++; }, nullptr);
  mi_heap_t* heap = NewHeap(1);
  for (int i = 0; i < 300; i++) {
    void* p = mi_heap_malloc(heap, kSize);
    std::thread one([&] { mi_free(p); }), two([&] { mi_free(p); });
    one.join();
    two.join();
    ASSERT_EQ(errors, i + 1);
  }
  EXPECT_TRUE(mi_heap_check(heap));
  mi_heap_destroy(heap);
  mi_register_error(nullptr, nullptr);
  mi_register_output(nullptr, nullptr);
}

}  // namespace
