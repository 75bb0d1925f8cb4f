// Heaps with a policy: every way in and out of one, on every thread, and what each flag promises.
#include <atomic>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "mi/mimalloc.h"
#include "tests/test_support.h"

namespace {

const size_t kSizes[] = {1, 8, 16, 40, 100, 250, 1000, 1024, 1500, 4000, 9000, 30000, 65536, 70000, 300000, 5000000};

mi_heap_t* NewHeap(uint32_t flags, const char* name = "policy") {
  mi_heap_config_t config{};
  config.size = sizeof(config);
  config.name = name;
  config.flags = flags;
  mi_heap_t* heap = mi_heap_new_with(&config);
  EXPECT_NE(heap, nullptr);
  return heap;
}

bool IsFilled(const void* p, size_t n, uint8_t value) {
  const uint8_t* q = static_cast<const uint8_t*>(p);
  for (size_t i = 0; i < n; i++) {
    if (q[i] != value) return false;
  }
  return true;
}

// Every heap of these tests has one of these policies.
class Policy : public ::testing::TestWithParam<uint32_t> {
 protected:
  // Is what the heap hands out as its policy says?
  bool IsAsPromised(const void* p, size_t n) const { return (GetParam() & MI_HEAP_ZERO) == 0 || IsFilled(p, n, 0); }
};

INSTANTIATE_TEST_SUITE_P(Flags, Policy,
                         ::testing::Values(MI_HEAP_ZERO, MI_HEAP_HARDENED, MI_HEAP_QUARANTINE, MI_HEAP_WIPE,
                                           MI_HEAP_HARDENED | MI_HEAP_QUARANTINE | MI_HEAP_WIPE | MI_HEAP_ZERO));

// Every function that allocates in a heap.
std::vector<void*> AllocateEveryWay(mi_heap_t* heap, size_t size) {
  std::vector<void*> blocks;
  blocks.push_back(mi_heap_malloc(heap, size));
  blocks.push_back(mi_heap_zalloc(heap, size));
  blocks.push_back(mi_heap_calloc(heap, 1, size));
  if (size <= 1024) blocks.push_back(mi_heap_malloc_small(heap, size));
  blocks.push_back(mi_heap_malloc_aligned(heap, size, 16));
  blocks.push_back(mi_heap_malloc_aligned(heap, size, 256));
  blocks.push_back(mi_heap_zalloc_aligned(heap, size, 8192));
  blocks.push_back(mi_heap_malloc_aligned_at(heap, size, 64, 8));
  blocks.push_back(mi_heap_realloc(heap, nullptr, size));
  blocks.push_back(mi_theap_malloc(mi_heap_theap(heap), size));
  mi_heap_t* former = mi_heap_set_default(heap);
  blocks.push_back(mi_malloc(size));
  blocks.push_back(mi_zalloc(size));
  blocks.push_back(mi_malloc_aligned(size, 32));
  mi_heap_set_default(former);
  return blocks;
}

TEST_P(Policy, EveryWayToAllocateLeadsIntoTheHeap) {
  mi_heap_t* heap = NewHeap(GetParam());
  for (int round = 0; round < 3; round++) {
    for (size_t size : kSizes) {
      for (void* p : AllocateEveryWay(heap, size)) {
        ASSERT_NE(p, nullptr);
        EXPECT_TRUE(mi_heap_contains(heap, p)) << size;
        EXPECT_GE(mi_usable_size(p), size);
        EXPECT_TRUE(IsAsPromised(p, mi_usable_size(p))) << size;
        memset(p, 0xa5, mi_usable_size(p));
        mi_free(p);
      }
    }
  }
  EXPECT_TRUE(mi_heap_check(heap));
  mi_heap_destroy(heap);
}

TEST_P(Policy, ThreadsUseTheHeapTogetherAndFreeEachOthersBlocks) {
  mi_heap_t* heap = NewHeap(GetParam());
  for (int round = 0; round < mi_test::Scaled(30); round++) {
    std::vector<void*> blocks[3];
    std::vector<std::thread> threads;
    for (auto& mine : blocks) {
      threads.emplace_back([this, heap, &mine] {
        for (int i = 0; i < 300; i++) {
          const size_t size = kSizes[i % 13];
          void* p = mi_heap_malloc(heap, size);
          ASSERT_TRUE(IsAsPromised(p, size));
          memset(p, 0x5a, size);
          if (i % 3 == 0) {
            mi_free(p);
          } else {
            mine.push_back(p);
          }
        }
      });
    }
    for (auto& thread : threads) thread.join();
    threads.clear();
    for (int t = 0; t < 3; t++) {
      threads.emplace_back([&blocks, t] {
        for (void* p : blocks[(t + 1) % 3]) mi_free(p);
      });
    }
    for (auto& thread : threads) thread.join();
  }
  EXPECT_TRUE(mi_heap_check(heap));
  mi_heap_destroy(heap);
}

// Threads that allocate, hand their blocks to whoever takes them, and end while others free: pages become full, are
// abandoned, adopted by other threads and by freers.
TEST_P(Policy, BlocksGoAroundBetweenThreadsThatComeAndGo) {
  mi_heap_t* heap = NewHeap(GetParam());
  constexpr size_t kPlaces = 4096;
  std::vector<std::atomic<uint64_t*>> places(kPlaces);
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; t++) {
    threads.emplace_back([this, heap, &places, t] {
      for (int life = 0; life < mi_test::Scaled(20, 200); life++) {
        std::thread([this, heap, &places, seed = 1000u * t + life]() mutable {
          for (int i = 0; i < 3000; i++) {
            seed = seed * 1103515245u + 12345u;
            const size_t size = (seed >> 8) % 100 == 0 ? 70000 : 8 + (seed >> 10) % ((seed >> 4) % 2 == 0 ? 64 : 3000);
            uint64_t* p = static_cast<uint64_t*>(mi_heap_malloc(heap, size));
            ASSERT_NE(p, nullptr);
            ASSERT_TRUE(IsAsPromised(p, size));
            *p = reinterpret_cast<uintptr_t>(p) ^ 0x5a5a;
            p = places[(seed >> 12) % kPlaces].exchange(p);
            if (p == nullptr) continue;
            ASSERT_EQ(*p, reinterpret_cast<uintptr_t>(p) ^ 0x5a5a) << "a block was handed out twice";
            mi_free(p);
          }
        }).join();
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_TRUE(mi_heap_check(heap));
  for (auto& place : places) mi_free(place.load());
  EXPECT_TRUE(mi_heap_check(heap));
  mi_heap_collect(heap, true);
  EXPECT_TRUE(mi_heap_check(heap));
  size_t live = 0;
  mi_heap_visit_blocks(
      heap, true,
      [](const mi_heap_t*, const mi_heap_area_t*, void* block, size_t, void* arg) {
        *static_cast<size_t*>(arg) += (block != nullptr);
        return true;
      },
      &live);
  EXPECT_EQ(live, 0u);
  mi_heap_destroy(heap);
}

TEST_P(Policy, BlocksOutliveTheirHeapsDeleteAndMerge) {
  for (uint32_t into_flags : {uint32_t{0}, GetParam(), uint32_t{MI_HEAP_ZERO}}) {
    mi_heap_t* heap = NewHeap(GetParam());
    mi_heap_t* into = NewHeap(into_flags, "into");
    std::vector<void*> blocks;
    for (size_t size : kSizes) blocks.push_back(mi_heap_malloc(heap, size));
    std::thread([&] {
      for (size_t size : kSizes) blocks.push_back(mi_heap_malloc(heap, size));
    }).join();
    for (void* p : blocks) memset(p, 1, mi_usable_size(p));
    mi_heap_merge(heap, into);
    for (void* p : blocks) EXPECT_EQ(mi_heap_of(p), into);
    for (int i = 0; i < 200; i++) {
      void* p = mi_heap_malloc(into, kSizes[i % 14]);
      memset(p, 2, mi_usable_size(p));
      blocks.push_back(p);
    }
    for (size_t i = 0; i < 2 * std::size(kSizes); i++) {
      EXPECT_TRUE(IsFilled(blocks[i], mi_usable_size(blocks[i]), 1));
    }
    mi_heap_delete(into);
    for (void* p : blocks) {
      EXPECT_EQ(mi_heap_of(p), mi_heap_main());
      mi_free(p);
    }
    mi_collect(true);
  }
}

TEST_P(Policy, ResetAndMarksKeepThePolicy) {
  mi_heap_t* heap = NewHeap(GetParam());
  for (int round = 0; round < 3; round++) {
    std::vector<void*> kept;
    for (size_t size : kSizes) {
      kept.push_back(mi_heap_malloc(heap, size));
      memset(kept.back(), 7, mi_usable_size(kept.back()));
    }
    const mi_heap_mark_t mark = mi_heap_mark(heap);
    for (size_t size : kSizes) memset(mi_heap_malloc(heap, size), 9, size);
    EXPECT_TRUE(mi_heap_check(heap));
    EXPECT_TRUE(mi_heap_rewind(heap, mark));
    for (void* p : kept) EXPECT_TRUE(IsFilled(p, mi_usable_size(p), 7));
    for (size_t size : kSizes) EXPECT_TRUE(IsAsPromised(mi_heap_malloc(heap, size), size));
    EXPECT_TRUE(mi_heap_check(heap));
    mi_heap_reset(heap);
    EXPECT_TRUE(mi_heap_check(heap));
    for (size_t size : kSizes) EXPECT_TRUE(IsAsPromised(mi_heap_malloc(heap, size), size));
    mi_heap_reset(heap);
  }
  mi_heap_destroy(heap);
}

TEST_P(Policy, BlocksKeepTheirBytesWhenTheyAreResized) {
  mi_heap_t* heap = NewHeap(GetParam());
  for (size_t size : kSizes) {
    uint8_t* p = static_cast<uint8_t*>(mi_heap_malloc(heap, size));
    memset(p, 3, size);
    for (size_t next : {size + 1, 2 * size, size / 2 + 1, 3 * size}) {
      const size_t kept = std::min(size, next);
      uint8_t* q = static_cast<uint8_t*>(mi_realloc(p, next));
      ASSERT_NE(q, nullptr);
      EXPECT_TRUE(mi_heap_contains(heap, q));
      EXPECT_TRUE(IsFilled(q, std::min(kept, size / 2 + 1), 3));
      p = q;
    }
    mi_free(p);
  }
  mi_heap_destroy(heap);
}

TEST_P(Policy, PagesThatAreFullAreSoundAndServeAgain) {
  mi_heap_t* heap = NewHeap(GetParam());
  std::vector<void*> blocks;
  for (int i = 0; i < 20000; i++) blocks.push_back(mi_heap_malloc(heap, 48));
  EXPECT_TRUE(mi_heap_check(heap));
  for (size_t i = 0; i < blocks.size(); i += 100) mi_free(blocks[i]);
  std::thread([&blocks] {
    for (size_t i = 50; i < blocks.size(); i += 100) mi_free(blocks[i]);
  }).join();
  EXPECT_TRUE(mi_heap_check(heap));
  for (int i = 0; i < 400; i++) EXPECT_NE(mi_heap_malloc(heap, 48), nullptr);
  EXPECT_TRUE(mi_heap_check(heap));
  mi_heap_destroy(heap);
}

TEST_P(Policy, VisitorsSeeEveryLiveBlockOnce) {
  mi_heap_t* heap = NewHeap(GetParam());
  std::vector<void*> live;
  for (int i = 0; i < 500; i++) {
    void* p = mi_heap_malloc(heap, kSizes[i % 13]);
    if (i % 4 == 0) {
      std::thread([p] { mi_free(p); }).join();
    } else if (i % 4 == 1) {
      mi_free(p);
    } else {
      live.push_back(p);
    }
  }
  std::vector<void*> seen;
  EXPECT_TRUE(mi_heap_visit_blocks(
      heap, true,
      [](const mi_heap_t*, const mi_heap_area_t*, void* block, size_t, void* arg) {
        if (block != nullptr) static_cast<std::vector<void*>*>(arg)->push_back(block);
        return true;
      },
      &seen));
  std::sort(live.begin(), live.end());
  std::sort(seen.begin(), seen.end());
  EXPECT_EQ(seen, live);
  mi_heap_destroy(heap);
}

TEST_P(Policy, AHeapWithFullPagesIsSound) {
  mi_heap_t* heap = NewHeap(GetParam());
  std::vector<void*> blocks;
  for (size_t size : {16u, 100u, 1000u, 9000u}) {
    for (size_t i = 0; i < 5000 && i * size < mi_test::kMiB; i++) blocks.push_back(mi_heap_malloc(heap, size));
  }
  EXPECT_TRUE(mi_heap_check(heap));
  for (size_t i = 0; i < blocks.size(); i += 2) mi_free(blocks[i]);
  EXPECT_TRUE(mi_heap_check(heap));
  mi_heap_destroy(heap);
}

TEST_P(Policy, ASoftLimitIsToldOfByTheAllocationThatPassesIt) {
  for (int i = 0; i < 200; i++) {
    int calls = 0;
    mi_heap_config_t config{};
    config.size = sizeof(config);
    config.flags = GetParam();
    config.soft_limit = 30000;
    config.on_limit = [](mi_heap_t*, size_t, void* arg) { return ++*static_cast<int*>(arg) == 0; };
    config.limit_arg = &calls;
    mi_heap_t* heap = mi_heap_new_with(&config);
    while (mi_heap_used(heap) < config.soft_limit) {
      ASSERT_EQ(calls, 0);
      ASSERT_NE(mi_heap_malloc(heap, 64), nullptr);
    }
    EXPECT_EQ(calls, 1);
    mi_heap_destroy(heap);
  }
}

// Pages of such a heap end with a guard, which stays until the memory serves for something else: handles, say.
TEST(HardenedHeap, WhatOneBlockIsExpandedToSaysNothingOfItsNeighbours) {
  mi_heap_t* heap = NewHeap(MI_HEAP_HARDENED);
  for (size_t size : {size_t{20}, size_t{40}, size_t{100}}) {
    for (size_t other = 1; other < size + 30; other++) {
      std::vector<std::pair<void*, size_t>> blocks;
      for (int i = 0; i < 64; i++) blocks.emplace_back(mi_heap_malloc(heap, size), size);
      for (size_t i = 0; i < blocks.size(); i += 3) {
        if (mi_expand(mi_test::Opaque(blocks[i].first), other) != nullptr) blocks[i].second = other;
      }
      for (auto& [p, its] : blocks) {
        ASSERT_EQ(mi_usable_size(p), its);
        memset(p, 1, its);
      }
      for (auto& [p, its] : blocks) mi_free_size(p, its);
    }
  }
  mi_heap_destroy(heap);
}

// A block alone in its page stays there for its quarantine, whatever becomes of the mark before it.
TEST(Quarantine, OutlivesTheMarkUnderWhichItBegan) {
  mi_heap_t* heap = NewHeap(MI_HEAP_QUARANTINE);
  const mi_heap_mark_t first = mi_heap_mark(heap), second = mi_heap_mark(heap);
  ASSERT_NE(second.serial, 0u);
  void* block = mi_heap_malloc(heap, 300000);
  ASSERT_NE(block, nullptr);
  mi_free(block);
  EXPECT_TRUE(mi_heap_rewind(heap, first));
  EXPECT_TRUE(mi_heap_check(heap));
  EXPECT_TRUE(mi_heap_unmark(heap, first));
  EXPECT_TRUE(mi_heap_check(heap));
  mi_heap_destroy(heap);
}

TEST(HardenedHeap, HandlesLieWhereItsPagesWere) {
  mi_heap_t* heap = NewHeap(MI_HEAP_HARDENED);
  for (int i = 0; i < 5000; i++) ASSERT_NE(mi_heap_malloc(heap, 100), nullptr);
  mi_heap_destroy(heap);
  std::vector<mi_heap_t*> heaps;
  for (int i = 0; i < 3000; i++) heaps.push_back(mi_heap_new());
  for (mi_heap_t* made : heaps) mi_heap_destroy(made);
}

// A mistake with blocks of a plain heap does not end the program, whatever was in their place before.
TEST(HardenedHeap, ItsPolicyIsForgottenWhereItsPagesWere) {
#if defined(MI_SECURE) && MI_SECURE
  GTEST_SKIP() << "in a secure build every mistake ends the program";
#endif
  mi_heap_t* heap = NewHeap(MI_HEAP_HARDENED);
  for (int i = 0; i < 200; i++) ASSERT_NE(mi_heap_malloc(heap, 20000), nullptr);
  mi_heap_destroy(heap);
  heap = mi_heap_new();
  std::vector<void*> blocks;
  for (int i = 0; i < 100; i++) blocks.push_back(mi_heap_malloc(heap, 20000));
  mi_heap_destroy(heap);
  mi_test::ErrorRecorder errors;
  for (void* p : blocks) mi_free(p);
  EXPECT_EQ(errors.count(EINVAL), static_cast<int>(blocks.size()));
}

// What held a block larger than a page's keeps it, and goes with the hold.
TEST_P(Policy, MemoryOfAHeldHeapStays) {
  mi_heap_t* heap = NewHeap(GetParam());
  ASSERT_TRUE(mi_heap_hold_pages(heap));
  std::vector<char*> freed;
  for (size_t size : {40u, 30000u, 70000u, 300000u, 5000000u}) {
    for (bool by_another : {false, true}) {
      char* p = static_cast<char*>(mi_heap_malloc(heap, size));
      memset(p, 3, size);
      if (by_another) {
        std::thread([p] { mi_free(p); }).join();
      } else {
        mi_free(p);
      }
      freed.push_back(p);
    }
  }
  mi_heap_collect(heap, true);
  std::vector<void*> others;
  for (size_t size : kSizes) others.push_back(mi_malloc(size));
  for (char* p : freed) {
    EXPECT_TRUE(mi_heap_contains(heap, p));
    EXPECT_EQ(std::count(others.begin(), others.end(), p), 0);
    // The program's pattern, zeros where the heap wipes and where quarantine gave the memory back.
    EXPECT_TRUE(p[20] == 3 || p[20] == 0);
  }
  EXPECT_TRUE(mi_heap_check(heap));
  for (void* p : others) mi_free(p);
  EXPECT_TRUE(mi_heap_release_pages(heap));
  mi_heap_collect(heap, true);
  EXPECT_EQ(mi_heap_used(heap), 0u);
  mi_heap_destroy(heap);
}

TEST_P(Policy, InAChildOthersFreeWhatFilledPagesBeforeTheFork) {
  mi_heap_t* heap = NewHeap(GetParam());
  std::vector<void*> blocks;
  for (int i = 0; i < 2000; i++) blocks.push_back(mi_heap_malloc(heap, 100));
  for (size_t size : {70000u, 300000u, 5000000u}) blocks.push_back(mi_heap_malloc(heap, size));
  EXPECT_EQ(mi_test::InChild([&] {
              if (!mi_heap_check(heap)) return 1;
              std::thread([&] {
                for (void* p : blocks) mi_free(p);
              }).join();
              mi_heap_collect(heap, true);
              if (!mi_heap_check(heap)) return 2;
              return mi_heap_used(heap) == 0 ? 0 : 3;
            }),
            0);
  for (void* p : blocks) mi_free(p);
  mi_heap_collect(heap, true);
  EXPECT_EQ(mi_heap_used(heap), 0u);
  mi_heap_destroy(heap);
}

TEST_P(Policy, AHandleThatIsRecycledIsAPlainHeapAgain) {
  for (int i = 0; i < 100; i++) {
    mi_heap_destroy(NewHeap(GetParam()));
    mi_heap_t* plain = mi_heap_new();
    for (size_t size : kSizes) memset(mi_heap_malloc(plain, size), 1, size);
    EXPECT_TRUE(mi_heap_check(plain));
    mi_heap_destroy(plain);
  }
}

// --- what single flags promise ---------------------------------------------------------------------------------------

const size_t kNineSizes[] = {16, 48, 100, 1000, 8192, 65536, 300000, 4194304, 67108864};

TEST(Quarantine, NoAddressComesBackWithinAThousandAllocationsAndFrees) {
  for (size_t size : kNineSizes) {
    mi_heap_t* heap = NewHeap(MI_HEAP_QUARANTINE);
    void* freed = mi_heap_malloc(heap, size);
    mi_free(freed);
    for (int i = 0; i < (size > 1000000 ? 100 : 1000); i++) {
      void* p = mi_heap_malloc(heap, size);
      ASSERT_NE(p, nullptr);
      ASSERT_NE(p, freed) << size << " bytes, after " << i;
      mi_free(p);
    }
    mi_heap_destroy(heap);
  }
}

TEST(Wipe, NothingOfABlockIsLeftAfterAFreeByAnyThread) {
  mi_heap_t* heap = NewHeap(MI_HEAP_WIPE);
  for (size_t size : {16, 48, 100, 1000, 8192, 30000}) {
    for (bool remote : {false, true}) {
      void* neighbour = mi_heap_malloc(heap, size);  // keeps the page
      uint8_t* p = static_cast<uint8_t*>(mi_heap_malloc(heap, size));
      memset(p, 0xc3, size);
      if (remote) {
        std::thread([p] { mi_free(p); }).join();
      } else {
        mi_free(p);
      }
      // The memory is the heap's still, and can be read.
      const volatile uint8_t* gone = p;
      for (size_t i = 0; i < size; i++) ASSERT_EQ(gone[i], 0) << size << " bytes, at " << i;
      mi_free(neighbour);
    }
  }
  mi_heap_destroy(heap);
}

TEST(Wipe, ABlockThatShrinksOrMovesLeavesNothing) {
  mi_heap_t* heap = NewHeap(MI_HEAP_WIPE);
  void* neighbour = mi_heap_malloc(heap, 1000);
  uint8_t* p = static_cast<uint8_t*>(mi_heap_malloc(heap, 1000));
  memset(p, 0xc3, 1000);
  uint8_t* q = static_cast<uint8_t*>(mi_realloc(p, 950));
  ASSERT_EQ(q, p) << "it fits";
  uint8_t* r = static_cast<uint8_t*>(mi_realloc(q, 5000));
  ASSERT_NE(r, p);
  const volatile uint8_t* gone = p;
  for (size_t i = 0; i < 1000; i++) ASSERT_EQ(gone[i], 0) << i;
  EXPECT_TRUE(IsFilled(r, 950, 0xc3));
  mi_free(r);
  mi_free(neighbour);
  mi_heap_destroy(heap);
}

}  // namespace
