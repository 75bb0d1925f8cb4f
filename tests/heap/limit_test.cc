// Limits of heaps and what heaps hold: every way to allocate against a limit, callbacks at it, headroom, soft limits,
// families whose members are moved while they are at work, merges, resets, threads.
#include <errno.h>
#include <stddef.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "mi/heap/heap.h"
#include "mi/mimalloc-stats.h"
#include "mi/mimalloc.h"
#include "tests/test_support.h"

namespace mi_test {
namespace {

constexpr size_t kPage = 64 * kKiB;

struct Config {
  mi_heap_config_t config = {};
  Config() { config.size = sizeof(config); }
  Config& Limit(size_t limit) { return config.limit = limit, *this; }
  Config& Soft(size_t soft_limit) { return config.soft_limit = soft_limit, *this; }
  Config& Headroom(size_t headroom) { return config.headroom = headroom, *this; }
  Config& Parent(mi_heap_t* parent) { return config.parent = parent, *this; }
  Config& OnLimit(std::function<bool(mi_heap_t*, size_t)>* fun) {
    config.on_limit = [](mi_heap_t* heap, size_t need, void* arg) {
      return (*static_cast<std::function<bool(mi_heap_t*, size_t)>*>(arg))(heap, need);
    };
    config.limit_arg = fun;
    return *this;
  }
  mi_heap_t* Make() const { return mi_heap_new_with(&config); }
};

mi_heap_t* Limited(size_t limit) { return Config().Limit(limit).Make(); }

// Allocates until that fails; returns the blocks.
std::vector<void*> FillUp(mi_heap_t* heap, size_t size) {
  std::vector<void*> blocks;
  for (void* p; (p = mi_heap_malloc(heap, size)) != nullptr;) blocks.push_back(p);
  return blocks;
}

size_t Usable(const std::vector<void*>& blocks) {
  size_t sum = 0;
  for (void* p : blocks) sum += mi_usable_size(p);
  return sum;
}

void FreeAll(std::vector<void*>* blocks) {
  for (void* p : *blocks) mi_free(p);
  blocks->clear();
}

// ---- what is counted -----------------------------------------------------------------------------------------

TEST(HeapUsed, IsNothingForANewHeapAndAfterAReset) {
  for (size_t limit : {size_t{0}, 100 * kMiB}) {
    for (size_t size : {size_t{8}, size_t{500}, size_t{5000}, size_t{40000}, size_t{200000}, 9 * kMiB}) {
      mi_heap_t* heap = Limited(limit);
      EXPECT_EQ(mi_heap_used(heap), 0u);
      EXPECT_EQ(mi_heap_peak(heap), 0u);
      std::vector<void*> blocks;
      for (size_t i = 0; i < std::max<size_t>(3, 100000 / size); i++) blocks.push_back(mi_heap_malloc(heap, size));
      const size_t used = mi_heap_used(heap);
      EXPECT_GE(used, Usable(blocks));
      EXPECT_LE(used, 2 * Usable(blocks) + kPage);
      EXPECT_EQ(mi_heap_peak(heap), used);
      EXPECT_TRUE(mi_heap_check(heap));
      mi_heap_reset(heap);
      EXPECT_EQ(mi_heap_used(heap), 0u) << size;
      EXPECT_EQ(mi_heap_peak(heap), 0u) << size;
      mi_heap_destroy(heap);
    }
  }
}

TEST(HeapUsed, CountsTheFirstSmallBlockOfAPlainHeap) {
  mi_heap_t* heap = mi_heap_new();
  ASSERT_NE(mi_heap_malloc(heap, 100), nullptr);
  EXPECT_GE(mi_heap_used(heap), 100u);
  EXPECT_LE(mi_heap_used(heap), kSecure ? 8 * kKiB : kKiB)
      << "in the secure build a page begins with 4 KiB, or twice that";
  mi_heap_destroy(heap);
}

TEST(HeapUsed, FallsWhenPagesGoAndThePeakStays) {
  mi_heap_t* heap = mi_heap_new();
  std::vector<void*> blocks;
  for (int i = 0; i < 200; i++) blocks.push_back(mi_heap_malloc(heap, 100 * kKiB));
  const size_t most = mi_heap_used(heap);
  EXPECT_EQ(most, Usable(blocks));
  FreeAll(&blocks);
  EXPECT_EQ(mi_heap_used(heap), 0u);
  EXPECT_EQ(mi_heap_peak(heap), most);
  for (int i = 0; i < 10000; i++) blocks.push_back(mi_heap_malloc(heap, 700));
  FreeAll(&blocks);
  mi_heap_collect(heap, true);
  EXPECT_LE(mi_heap_used(heap), kPage);
  EXPECT_EQ(mi_heap_peak(heap), most);
  EXPECT_TRUE(mi_heap_check(heap));
  mi_heap_destroy(heap);
}

TEST(HeapUsed, OfTheMainHeapFollowsItsBlocks) {
  const size_t before = mi_heap_used(mi_heap_main());
  void* p = mi_malloc(3 * kMiB);
  EXPECT_EQ(mi_heap_used(mi_heap_main()), before + mi_usable_size(p));
  EXPECT_GE(mi_heap_peak(mi_heap_main()), before + 3 * kMiB);
  InThread([p] { mi_free(p); });
  mi_collect(true);
  EXPECT_LE(mi_heap_used(mi_heap_main()), before);
}

TEST(HeapUsed, StandsInTheHeapsCountsAlsoForACallerWithAnOlderStruct) {
  mi_heap_t* heap = Limited(kMiB);
  mi_free(mi_heap_malloc(heap, 500 * kKiB));
  ASSERT_NE(mi_heap_malloc(heap, 200 * kKiB), nullptr);
  mi_heap_counts_t counts = {};
  counts.size = sizeof(counts);
  ASSERT_TRUE(mi_heap_counts_get(heap, &counts));
  EXPECT_EQ(counts.used, 200 * kKiB);
  EXPECT_EQ(counts.used_peak, 500 * kKiB);
  EXPECT_EQ(counts.limit, kMiB);
  counts.used = 77;
  counts.size = offsetof(mi_heap_counts_t, used);
  ASSERT_TRUE(mi_heap_counts_get(heap, &counts));
  EXPECT_EQ(counts.blocks, 1u);
  EXPECT_EQ(counts.used, 77u);
  mi_heap_destroy(heap);
}

TEST(HeapUsed, BadHeapsAreReported) {
  ErrorRecorder errors;
  EXPECT_EQ(mi_heap_used(nullptr), 0u);
  EXPECT_EQ(mi_heap_peak(nullptr), 0u);
  EXPECT_EQ(mi_heap_limit(nullptr), 0u);
  EXPECT_FALSE(mi_heap_set_limit(nullptr, 1));
  EXPECT_FALSE(mi_heap_set_limit(mi_heap_main(), 1));
  EXPECT_FALSE(mi_heap_set_soft_limit(mi_heap_main(), 1));
  EXPECT_EQ(errors.count(EINVAL), 6);
  mi_heap_t* heap = mi_heap_new();
  mi_heap_destroy(heap);
  EXPECT_EQ(mi_heap_used(heap), 0u);
  EXPECT_FALSE(mi_heap_set_limit(heap, 1));
  EXPECT_EQ(errors.count(EFAULT), 2);
}

TEST(HeapConfig, RefusesWhatMeansNothingAndNamesTheField) {
  ErrorRecorder errors;
  EXPECT_EQ(Config().Headroom(1).Make(), nullptr);
  EXPECT_NE(errors.text().find("headroom"), std::string::npos);
  Config config;
  config.config.limit_arg = &config;
  EXPECT_EQ(config.Make(), nullptr);
  EXPECT_NE(errors.text().find("limit_arg"), std::string::npos);
  for (size_t align : {size_t{1}, size_t{4}, size_t{12}, size_t{32}, SIZE_MAX}) {
    Config aligned;
    aligned.config.min_align = align;
    errors.Forget();
    EXPECT_EQ(aligned.Make(), nullptr) << align;
    EXPECT_EQ(errors.count(EINVAL), 1);
    EXPECT_NE(errors.text().find("min_align"), std::string::npos);
  }
}

TEST(HeapConfig, WhatIsRequiredIsAskedForEachTime) {
  ErrorRecorder errors;
  for (int i = 1; i <= 4; i++) {
    Config config;
    config.Limit(kMiB);
    config.config.required = MI_PROTECTED_GUARDS;
    EXPECT_EQ(config.Make(), nullptr);
    EXPECT_NE(errors.text().find("not to be had"), std::string::npos);
    errors.Forget();
    mi_heap_t* heap = Limited(kMiB);
    mi_heap_destroy(heap);
  }
}

TEST(HeapConfig, MinAlignIsThatOfEveryBlock) {
  for (size_t align : {size_t{8}, size_t{16}}) {
    Config config;
    config.config.min_align = align;
    mi_heap_t* heap = config.Make();
    ASSERT_NE(heap, nullptr);
    Random random(7);
    std::vector<void*> blocks;
    for (int i = 0; i < Scaled(100000); i++) {
      const size_t size = random.OneIn(2) ? random.Below(9) : random.Below(300);
      void* p = random.OneIn(3)   ? mi_heap_zalloc(heap, size)
                : random.OneIn(3) ? mi_heap_malloc_aligned(heap, size, 8)
                                  : mi_heap_malloc(heap, size);
      ASSERT_TRUE(IsAligned(p, align)) << size;
      blocks.push_back(p);
      if (random.OneIn(2)) {
        const size_t at = random.Below(blocks.size());
        blocks[at] = mi_heap_realloc(heap, blocks[at], random.Below(100));
        ASSERT_TRUE(IsAligned(blocks[at], align));
      }
      if (random.OneIn(3)) {
        std::swap(blocks[random.Below(blocks.size())], blocks.back());
        mi_free(blocks.back());
        blocks.pop_back();
      }
    }
    EXPECT_TRUE(mi_heap_check(heap));
    InThread([&] {
      for (int i = 0; i < 20000; i++) ASSERT_TRUE(IsAligned(mi_heap_malloc(heap, i % 9), align));
    });
    EXPECT_TRUE(mi_heap_check(heap));
    mi_heap_destroy(heap);
  }
}

// ---- hard limits -------------------------------------------------------------------------------------------------

TEST(HeapLimit, HoldsForEverySizeAndIsUsedUp) {
  for (size_t limit : {size_t{1}, size_t{700}, 5 * kKiB, 100 * kKiB, 3 * kMiB, 20 * kMiB}) {
    for (size_t size :
         {size_t{8}, size_t{24}, size_t{300}, size_t{1500}, size_t{7000}, size_t{30000}, 100 * kKiB, 5 * kMiB}) {
      mi_heap_t* heap = Limited(limit);
      ASSERT_NE(heap, nullptr);
      EXPECT_EQ(mi_heap_limit(heap), limit);
      for (int round = 0; round < 3; round++) {
        errno = 0;
        std::vector<void*> blocks = FillUp(heap, size);
        EXPECT_EQ(errno, ENOMEM);
        const size_t used = mi_heap_used(heap);
        ASSERT_LE(used, limit);
        ASSERT_LE(Usable(blocks), used);
        // No block more would have fitted.
        void* one = mi_malloc(size);
        EXPECT_GT(used + mi_usable_size(one) + (size <= 8 * kKiB ? kKiB : 0), limit) << limit << " " << size;
        mi_free(one);
        EXPECT_TRUE(mi_heap_check(heap));
        if (round == 0) {
          FreeAll(&blocks);
        } else {
          mi_heap_reset(heap);
          EXPECT_EQ(mi_heap_used(heap), 0u);
        }
      }
      mi_heap_destroy(heap);
    }
  }
}

TEST(HeapLimit, HoldsForEveryWayToAllocate) {
  mi_heap_t* heap = Limited(kMiB);
  void* keep = mi_heap_malloc(heap, 700 * kKiB);
  ASSERT_NE(keep, nullptr);
  const size_t used = mi_heap_used(heap);
  const size_t more = 400 * kKiB;
  errno = 0;
  EXPECT_EQ(mi_heap_malloc(heap, more), nullptr);
  EXPECT_EQ(mi_heap_zalloc(heap, more), nullptr);
  EXPECT_EQ(mi_heap_calloc(heap, 4, more / 4), nullptr);
  EXPECT_EQ(mi_heap_mallocn(heap, 4, more / 4), nullptr);
  EXPECT_EQ(mi_heap_malloc_aligned(heap, more, 4096), nullptr);
  EXPECT_EQ(mi_heap_malloc_aligned(heap, more, 16 * kMiB), nullptr);
  EXPECT_EQ(mi_heap_zalloc_aligned_at(heap, more, 256, 24), nullptr);
  EXPECT_EQ(mi_heap_realloc(heap, nullptr, more), nullptr);
  EXPECT_EQ(mi_heap_realloc(heap, keep, 2 * kMiB), nullptr);
  EXPECT_EQ(mi_heap_rezalloc(heap, keep, 2 * kMiB), nullptr);
  EXPECT_EQ(mi_heap_malloc(heap, kGiB), nullptr);
  EXPECT_EQ(mi_heap_malloc(heap, Opaque(static_cast<size_t>(PTRDIFF_MAX))), nullptr);
  EXPECT_EQ(mi_heap_malloc_aligned(heap, Opaque(static_cast<size_t>(PTRDIFF_MAX) - kMiB), 64), nullptr);
  EXPECT_EQ(mi_theap_malloc(mi_heap_theap(heap), more), nullptr);
  EXPECT_EQ(errno, ENOMEM);
  EXPECT_EQ(mi_heap_used(heap), used);
  EXPECT_EQ(mi_heap_peak(heap), used);
  InThread([&] {
    EXPECT_EQ(mi_heap_malloc(heap, more), nullptr);
    EXPECT_EQ(mi_heap_used(heap), used);
  });
  mi_heap_set_default(heap);
  EXPECT_EQ(mi_malloc(more), nullptr);
  mi_heap_set_default(nullptr);
  EXPECT_NE(mi_heap_malloc(heap, 100 * kKiB), nullptr);
  EXPECT_TRUE(mi_heap_check(heap));
  mi_heap_destroy(heap);
}

TEST(HeapLimit, MayBeSetLoweredAndLiftedAtAnyTime) {
  mi_heap_t* heap = mi_heap_new();
  std::vector<void*> blocks;
  for (int i = 0; i < 20; i++) blocks.push_back(mi_heap_malloc(heap, 100 * kKiB));
  const size_t used = mi_heap_used(heap);
  ASSERT_TRUE(mi_heap_set_limit(heap, used / 2));
  EXPECT_EQ(mi_heap_limit(heap), used / 2);
  EXPECT_EQ(mi_heap_malloc(heap, 10 * kKiB), nullptr);
  EXPECT_EQ(mi_heap_malloc(heap, 100 * kKiB), nullptr);
  while (mi_heap_used(heap) > used / 2 - 100 * kKiB) {
    mi_free(blocks.back());
    blocks.pop_back();
  }
  EXPECT_NE(mi_heap_malloc(heap, 90 * kKiB), nullptr);
  EXPECT_EQ(mi_heap_malloc(heap, 200 * kKiB), nullptr);
  ASSERT_TRUE(mi_heap_set_limit(heap, SIZE_MAX));
  EXPECT_NE(mi_heap_malloc(heap, 5 * kMiB), nullptr);
  ASSERT_TRUE(mi_heap_set_limit(heap, 0));
  EXPECT_NE(mi_heap_malloc(heap, 5 * kMiB), nullptr);
  EXPECT_TRUE(mi_heap_check(heap));
  mi_heap_destroy(heap);
}

TEST(HeapLimit, IsFoundInLanesInAdoptedPartsAndInAbandonedPages) {
  mi_heap_t* heap = Limited(2 * kMiB);
  std::vector<void*> blocks;
  for (int round = 0; round < 10; round++) {
    InThread([&] {
      for (size_t size : {size_t{40}, size_t{400}, size_t{4000}}) {
        for (int i = 0; i < 100; i++) {
          void* p = mi_heap_malloc(heap, size);
          if (p != nullptr) blocks.push_back(p);
        }
      }
    });
    ASSERT_LE(mi_heap_used(heap), 2 * kMiB);
    ASSERT_LE(Usable(blocks), mi_heap_used(heap));
    ASSERT_TRUE(mi_heap_check(heap));
  }
  InThread([&] {
    std::vector<void*> rest = FillUp(heap, 64);
    blocks.insert(blocks.end(), rest.begin(), rest.end());
  });
  EXPECT_LE(mi_heap_used(heap), 2 * kMiB);
  EXPECT_GT(mi_heap_used(heap), 2 * kMiB - 2 * kKiB);
  const size_t full = mi_heap_used(heap);
  FreeAll(&blocks);
  mi_heap_collect(heap, true);
  EXPECT_LT(mi_heap_used(heap), full / 2);
  EXPECT_TRUE(mi_heap_check(heap));
  mi_heap_reset(heap);
  EXPECT_EQ(mi_heap_used(heap), 0u);
  InThread([&] {
    blocks = FillUp(heap, 64);
    EXPECT_GT(Usable(blocks), kMiB);
  });
  EXPECT_TRUE(mi_heap_check(heap));
  mi_heap_destroy(heap);
}

TEST(HeapLimit, EightThreadsDoNotPassIt) {
  constexpr size_t kLimit = 16 * kMiB;
  for (size_t size : {size_t{48}, size_t{900}, size_t{12000}, size_t{150000}, size_t{0}}) {
    mi_heap_t* heap = Limited(kLimit);
    std::atomic<size_t> live{0}, most{0};
    std::atomic<int> failures{0};
    InThreads(8, [&](int t) {
      Random random(t);
      std::vector<void*> blocks;
      while (failures.load() < 8 * 20) {
        void* p = mi_heap_malloc(heap, size != 0 ? size : RandomSize(random, kMiB));
        if (p == nullptr) {
          failures++;
          for (size_t i = 0; i < blocks.size() / 2; i++) {
            live -= mi_usable_size(blocks[i]);
            mi_free(blocks[i]);
          }
          blocks.erase(blocks.begin(), blocks.begin() + static_cast<std::ptrdiff_t>(blocks.size() / 2));
          continue;
        }
        blocks.push_back(p);
        const size_t now = (live += mi_usable_size(p));
        size_t seen = most.load();
        while (seen < now && !most.compare_exchange_weak(seen, now)) {
        }
      }
      for (void* p : blocks) mi_free(p);
    });
    EXPECT_LE(most.load(), kLimit + 7 * kPage);
    EXPECT_LE(mi_heap_peak(heap), kLimit + 7 * kPage);
    EXPECT_GE(mi_heap_peak(heap), kLimit - 2 * kMiB);
    EXPECT_TRUE(mi_heap_check(heap));
    mi_heap_reset(heap);
    EXPECT_EQ(mi_heap_used(heap), 0u);
    mi_heap_destroy(heap);
  }
}

TEST(HeapLimit, ALoopThatRunsAwayFailsAThousandTimesInTheSameMemory) {
  mi_heap_t* heap = Limited(4 * kMiB);
  size_t early = 0;
  for (int i = 0; i < 1000; i++) {
    std::vector<void*> blocks = FillUp(heap, static_cast<size_t>(i % 7 + 1) * 1000);
    ASSERT_FALSE(blocks.empty());
    if (i % 2 == 0) {
      FreeAll(&blocks);
    } else {
      mi_heap_reset(heap);
      ASSERT_EQ(mi_heap_used(heap), 0u);
    }
    if (i == 100) early = ResidentBytes();
  }
  if (!kSanitized) {
    EXPECT_LE(ResidentBytes(), early + 2 * kMiB);
  }
  EXPECT_TRUE(mi_heap_check(heap));
  mi_heap_destroy(heap);
}

// ---- callbacks -----------------------------------------------------------------------------------------------------

TEST(OnLimit, IsAskedAndMayDecline) {
  int calls = 0;
  size_t needed = 0;
  std::function<bool(mi_heap_t*, size_t)> on_limit = [&](mi_heap_t*, size_t need) {
    calls++;
    needed = need;
    return false;
  };
  mi_heap_t* heap = Config().Limit(kMiB).OnLimit(&on_limit).Make();
  ASSERT_NE(mi_heap_malloc(heap, 600 * kKiB), nullptr);
  EXPECT_EQ(calls, 0);
  EXPECT_EQ(mi_heap_malloc(heap, 500 * kKiB), nullptr);
  EXPECT_EQ(calls, 1);
  EXPECT_EQ(needed, 600 * kKiB + 500 * kKiB - kMiB);
  mi_heap_destroy(heap);
}

TEST(OnLimit, MayFreeAndHaveItTriedAgain) {
  std::vector<void*> cache;
  int calls = 0;
  std::function<bool(mi_heap_t*, size_t)> on_limit = [&](mi_heap_t*, size_t need) {
    calls++;
    EXPECT_GT(need, 0u);
    if (cache.empty()) return false;
    for (size_t i = 0; i < 5 && !cache.empty(); i++) {
      mi_free(cache.back());
      cache.pop_back();
    }
    return true;
  };
  mi_heap_t* heap = Config().Limit(kMiB).OnLimit(&on_limit).Make();
  for (size_t size : {100 * kKiB, size_t{2000}, size_t{100}}) {
    cache.clear();
    mi_heap_reset(heap);
    calls = 0;
    for (int i = 0; i < 9; i++) cache.push_back(mi_heap_malloc(heap, 100 * kKiB));
    std::vector<void*> blocks;
    size_t bytes = 0;
    while (bytes < 800 * kKiB) {
      void* p = mi_heap_malloc(heap, size);
      ASSERT_NE(p, nullptr) << size << " after " << blocks.size();
      blocks.push_back(p);
      bytes += mi_usable_size(p);
    }
    EXPECT_GE(calls, 1);
    EXPECT_LE(calls, 3);
    EXPECT_TRUE(mi_heap_check(heap));
  }
  mi_heap_destroy(heap);
}

TEST(OnLimit, ThatFreesAllHasMadeRoomForAnything) {
  for (size_t limit : {16 * kKiB, 64 * kKiB, kMiB}) {
    for (size_t held : {size_t{64}, size_t{500}, size_t{1500}, size_t{5000}, size_t{30000}}) {
      for (size_t asked : {held, limit / 2, limit - 2 * kKiB}) {
        if (3 * held > limit) continue;
        // A handle that was used before has regions of any size.
        mi_heap_t* before = Limited(kMiB);
        for (int i = 0; i < 200; i++) ASSERT_NE(mi_heap_malloc(before, 64), nullptr);
        mi_heap_destroy(before);
        std::vector<void*> blocks;
        std::function<bool(mi_heap_t*, size_t)> on_limit = [&](mi_heap_t*, size_t) {
          const bool any = !blocks.empty();
          FreeAll(&blocks);
          return any;
        };
        mi_heap_t* heap = Config().Limit(limit).OnLimit(&on_limit).Make();
        for (int rounds = 0; rounds < 3; rounds++) {
          size_t most = 0;
          do {
            most = blocks.size();
            void* p = mi_heap_malloc(heap, held);
            ASSERT_NE(p, nullptr) << limit << " " << held << ", " << mi_heap_used(heap) << " are held";
            blocks.push_back(p);
          } while (blocks.size() > most);
          void* p = mi_heap_malloc(heap, asked);
          ASSERT_NE(p, nullptr) << limit << " " << held << " " << asked << ", " << mi_heap_used(heap) << " are held";
          blocks.push_back(p);
          ASSERT_TRUE(mi_heap_check(heap));
        }
        mi_heap_destroy(heap);
      }
    }
  }
}

TEST(OnLimit, OfAParentThatFreesWhatTheParentHoldsMakesRoomForTheChild) {
  std::vector<void*> blocks;
  std::function<bool(mi_heap_t*, size_t)> on_limit = [&](mi_heap_t*, size_t) {
    const bool any = !blocks.empty();
    FreeAll(&blocks);
    return any;
  };
  mi_heap_t* parent = Config().Limit(128 * kKiB).OnLimit(&on_limit).Make();
  mi_heap_t* child = Config().Parent(parent).Make();
  for (size_t size : {size_t{100}, size_t{700}, size_t{3000}}) {
    for (size_t i = 0; i < 20 * kKiB / size; i++) blocks.push_back(mi_heap_malloc(parent, size));
    ASSERT_GT(Usable(blocks), 16 * kKiB);
    void* p = mi_heap_malloc(child, 112 * kKiB);
    ASSERT_NE(p, nullptr) << size;
    EXPECT_TRUE(blocks.empty());
    mi_free(p);
  }
  EXPECT_TRUE(mi_heap_check(parent));
  mi_heap_destroy(parent);
}

TEST(OnLimit, MayRaiseTheLimit) {
  int calls = 0;
  std::function<bool(mi_heap_t*, size_t)> on_limit = [&](mi_heap_t* heap, size_t need) {
    calls++;
    return mi_heap_set_limit(heap, mi_heap_limit(heap) + need + kMiB);
  };
  mi_heap_t* heap = Config().Limit(kMiB).OnLimit(&on_limit).Make();
  for (int i = 0; i < 100; i++) ASSERT_NE(mi_heap_malloc(heap, 100 * kKiB), nullptr);
  EXPECT_GE(calls, 8);
  EXPECT_LE(calls, 10);
  EXPECT_LE(mi_heap_used(heap), mi_heap_limit(heap));
  mi_heap_destroy(heap);
}

TEST(OnLimit, ThatOnlySaysSoIsNotAskedForEver) {
  int calls = 0;
  std::function<bool(mi_heap_t*, size_t)> on_limit = [&](mi_heap_t*, size_t) { return ++calls, true; };
  mi_heap_t* heap = Config().Limit(kMiB).OnLimit(&on_limit).Make();
  EXPECT_EQ(mi_heap_malloc(heap, 2 * kMiB), nullptr);
  EXPECT_GE(calls, 1);
  EXPECT_LE(calls, 100);
  mi_heap_destroy(heap);
}

TEST(OnLimit, MayUseTheHeapButNotEndItAndIsNotNested) {
  ErrorRecorder errors;
  int calls = 0;
  mi_heap_t* other = nullptr;
  std::function<bool(mi_heap_t*, size_t)> on_limit = [&](mi_heap_t* heap, size_t) {
    calls++;
    errors.Forget();
    EXPECT_EQ(mi_heap_malloc(heap, 2 * kMiB), nullptr);  // fails without another call
    EXPECT_EQ(errors.count(ENOMEM), 1);
    mi_heap_destroy(heap);
    mi_heap_reset(heap);
    mi_heap_delete(heap);
    EXPECT_EQ(errors.count(EINVAL), 3);
    if (other != nullptr) {
      EXPECT_EQ(mi_heap_malloc(other, 2 * kMiB), nullptr);  // at its limit too
    } else {
      mi_heap_t* made = mi_heap_new();
      EXPECT_NE(mi_heap_malloc(made, kMiB), nullptr);
      mi_heap_destroy(made);
    }
    return false;
  };
  mi_heap_t* heap = Config().Limit(kMiB).OnLimit(&on_limit).Make();
  EXPECT_EQ(mi_heap_malloc(heap, 2 * kMiB), nullptr);
  EXPECT_EQ(calls, 1);
  other = Config().Limit(kMiB).OnLimit(&on_limit).Make();
  EXPECT_EQ(mi_heap_malloc(heap, 2 * kMiB), nullptr);
  EXPECT_EQ(calls, 2);
  mi_heap_destroy(other);
  mi_heap_destroy(heap);
}

TEST(OnLimit, OfAParentIsCalledForADescendantAndKeepsBoth) {
  ErrorRecorder errors;
  mi_heap_t* seen = nullptr;
  mi_heap_t* child = nullptr;
  std::function<bool(mi_heap_t*, size_t)> on_limit = [&](mi_heap_t* heap, size_t) {
    seen = heap;
    mi_heap_destroy(child);
    mi_heap_destroy(heap);
    EXPECT_EQ(errors.count(EINVAL), 2);
    return mi_heap_set_limit(heap, 10 * kMiB);
  };
  mi_heap_t* parent = Config().Limit(kMiB).OnLimit(&on_limit).Make();
  child = Config().Parent(Config().Parent(parent).Make()).Make();
  EXPECT_NE(mi_heap_malloc(child, 2 * kMiB), nullptr);
  EXPECT_EQ(seen, parent);
  EXPECT_TRUE(mi_heap_check(child));
  mi_heap_destroy(parent);
}

TEST(OnLimit, ComesAfterTheDeferredFree) {
  struct State {
    std::vector<void*> waiting;
    int forced = 0;
  } state;
  int calls = 0;
  std::function<bool(mi_heap_t*, size_t)> on_limit = [&](mi_heap_t*, size_t) { return ++calls, false; };
  Config config;
  config.Limit(2 * kMiB).OnLimit(&on_limit);
  config.config.deferred_free = [](mi_heap_t*, bool force, unsigned long long, void* arg) {
    State* s = static_cast<State*>(arg);
    if (!force) return;
    s->forced++;
    FreeAll(&s->waiting);
  };
  config.config.deferred_arg = &state;
  mi_heap_t* heap = config.Make();
  for (int i = 0; i < 100; i++) {
    for (int k = 0; k < 19; k++) {
      void* p = mi_heap_malloc(heap, 100 * kKiB);
      ASSERT_NE(p, nullptr) << i << " " << k;
      state.waiting.push_back(p);
    }
  }
  EXPECT_GE(state.forced, 90);
  EXPECT_EQ(calls, 0);
  EXPECT_EQ(mi_heap_malloc(heap, 3 * kMiB), nullptr);
  EXPECT_EQ(calls, 1);
  mi_heap_destroy(heap);
}

TEST(SoftLimit, CallsOnceUntilTheHeapFallsBelow) {
  int calls = 0;
  size_t over = 0;
  std::function<bool(mi_heap_t*, size_t)> on_limit = [&](mi_heap_t* heap, size_t need) {
    calls++;
    over = need;
    EXPECT_EQ(mi_heap_used(heap), kMiB + need);
    return false;  // means nothing here
  };
  mi_heap_t* heap = Config().Soft(kMiB).OnLimit(&on_limit).Make();
  std::vector<void*> blocks;
  for (int round = 1; round <= 3; round++) {
    while (mi_heap_used(heap) <= kMiB) {
      EXPECT_EQ(calls, round - 1);
      blocks.push_back(mi_heap_malloc(heap, 70 * kKiB));
    }
    EXPECT_EQ(calls, round);
    for (int i = 0; i < 20; i++) blocks.push_back(mi_heap_malloc(heap, 70 * kKiB));
    EXPECT_EQ(calls, round);
    FreeAll(&blocks);
  }
  // Small blocks, in regions and in pages, and a callback that frees.
  for (size_t size : {size_t{100}, size_t{1000}, size_t{3000}, size_t{20000}}) {
    mi_heap_reset(heap);
    calls = 0;
    while (mi_heap_used(heap) <= 2 * kMiB) {
      const bool was_above = mi_heap_used(heap) > kMiB;
      ASSERT_NE(mi_heap_malloc(heap, size), nullptr);
      ASSERT_EQ(calls, mi_heap_used(heap) > kMiB ? 1 : 0) << size << " " << was_above;
    }
  }
  on_limit = [&](mi_heap_t*, size_t) { return ++calls, false; };
  mi_heap_set_soft_limit(heap, 4 * kMiB);
  calls = 0;
  while (mi_heap_used(heap) < 5 * kMiB) ASSERT_NE(mi_heap_malloc(heap, 100000), nullptr);
  EXPECT_EQ(calls, 1);
  mi_heap_destroy(heap);
}

TEST(SoftLimit, ACallThatPassesItAgainIsNotRepeatedForEver) {
  int calls = 0;
  void* block = nullptr;
  std::function<bool(mi_heap_t*, size_t)> on_limit = [&](mi_heap_t* heap, size_t) {
    calls++;
    mi_free(block);
    block = mi_heap_malloc(heap, 500 * kKiB);
    return calls > 1000000;
  };
  mi_heap_t* heap = Config().Soft(600 * kKiB).OnLimit(&on_limit).Make();
  block = mi_heap_malloc(heap, 500 * kKiB);
  EXPECT_EQ(calls, 0);
  ASSERT_NE(mi_heap_malloc(heap, 200 * kKiB), nullptr);
  EXPECT_GE(calls, 1);
  EXPECT_LE(calls, 100);
  mi_heap_destroy(heap);
}

TEST(Headroom, LargerThanTheLimitServesUntilTheHeapIsEmpty) {
  for (bool lowered : {false, true}) {
    mi_heap_t* heap = Config().Limit(lowered ? 4 * kMiB : kMiB).Headroom(2 * kMiB).Make();
    if (lowered) {
      ASSERT_TRUE(mi_heap_set_limit(heap, kMiB));
    }
    for (int round = 0; round < 3; round++) {
      ASSERT_EQ(mi_heap_malloc(heap, 1500 * kKiB), nullptr) << round;
      void* p = mi_heap_malloc(heap, 1500 * kKiB);
      ASSERT_NE(p, nullptr);
      if (round == 1) {
        mi_heap_reset(heap);
      } else {
        mi_free(p);
      }
      EXPECT_EQ(mi_heap_used(heap), 0u);
    }
    mi_heap_destroy(heap);
  }
}

TEST(Headroom, ServesAfterAFailureAndAgainWhenThereWasRoomAgain) {
  mi_heap_t* heap = Config().Limit(kMiB).Headroom(200 * kKiB).Make();
  std::vector<void*> blocks;
  for (int i = 0; i < 10; i++) blocks.push_back(mi_heap_malloc(heap, 100 * kKiB));
  for (int round = 0; round < 3; round++) {
    ASSERT_EQ(mi_heap_malloc(heap, 100 * kKiB), nullptr);
    void* a = mi_heap_malloc(heap, 100 * kKiB);  // the error's way
    void* b = mi_heap_malloc(heap, 100 * kKiB);
    ASSERT_NE(a, nullptr);
    ASSERT_NE(b, nullptr);
    EXPECT_GT(mi_heap_used(heap), kMiB);
    EXPECT_EQ(mi_heap_malloc(heap, 100 * kKiB), nullptr);
    mi_free(a);
    mi_free(b);
    mi_free(blocks.back());  // not yet as much room below the limit as the headroom: it still serves
    blocks.back() = mi_heap_malloc(heap, 200 * kKiB);
    ASSERT_NE(blocks.back(), nullptr);
    // From here on it does not, and the limit is the limit again.
    for (int i = 0; i < 3; i++) {
      mi_free(blocks.back());
      blocks.pop_back();
    }
    while (blocks.size() < 10) {
      blocks.push_back(mi_heap_malloc(heap, 100 * kKiB));
      ASSERT_NE(blocks.back(), nullptr);
    }
  }
  EXPECT_TRUE(mi_heap_check(heap));
  mi_heap_destroy(heap);
}

// ---- families and merges
// ---------------------------------------------------------------------------------------------

TEST(FamilyLimit, BoundsTheWholeTree) {
  mi_heap_t* top = Limited(2 * kMiB);
  mi_heap_t* left = Config().Parent(top).Limit(kMiB).Make();
  mi_heap_t* right = Config().Parent(top).Make();
  mi_heap_t* deep = Config().Parent(left).Make();
  std::vector<void*> blocks = FillUp(deep, 50 * kKiB);
  EXPECT_LE(mi_heap_used(deep), kMiB);
  EXPECT_EQ(mi_heap_used(left), mi_heap_used(deep));
  EXPECT_EQ(mi_heap_used(top), mi_heap_used(deep));
  EXPECT_EQ(mi_heap_malloc(left, 100 * kKiB), nullptr);
  InThread([&] { FillUp(right, 500); });
  EXPECT_GT(mi_heap_used(right), 900 * kKiB);
  EXPECT_EQ(mi_heap_used(top), mi_heap_used(left) + mi_heap_used(right));
  EXPECT_LE(mi_heap_used(top), 2 * kMiB);
  EXPECT_EQ(mi_heap_malloc(top, 100 * kKiB), nullptr);
  for (mi_heap_t* heap : {top, left, right, deep}) EXPECT_TRUE(mi_heap_check(heap));
  mi_heap_destroy(left);
  EXPECT_EQ(mi_heap_used(top), mi_heap_used(right));
  EXPECT_NE(mi_heap_malloc(top, 500 * kKiB), nullptr);
  mi_heap_reset(top);
  EXPECT_EQ(mi_heap_used(top), 0u);
  mi_heap_destroy(top);
}

TEST(FamilyLimit, RegionsOfAParentShareTheRoomWithItsChildrenAndWhatWasMerged) {
  for (bool merged : {false, true}) {
    for (bool late : {false, true}) {
      mi_heap_t* parent = Limited(64 * kKiB);
      if (late) {
        ASSERT_NE(mi_heap_malloc(parent, 100), nullptr);
      }
      mi_heap_t* other = merged ? mi_heap_new() : Config().Parent(parent).Make();
      for (int i = 0; i < 80; i++) ASSERT_NE(mi_heap_malloc(other, 400), nullptr);
      if (merged) mi_heap_merge(other, parent);
      EXPECT_GE(mi_heap_used(parent), 32000u);
      const std::vector<void*> blocks = FillUp(parent, 100);
      EXPECT_LT(Usable(blocks), 32 * kKiB);
      EXPECT_LE(mi_heap_used(parent), 64 * kKiB);
      EXPECT_TRUE(mi_heap_check(parent));
      mi_heap_destroy(parent);
    }
  }
}

TEST(FamilyLimit, ADeepFamilyIsBoundedAtItsTop) {
  mi_heap_t* top = Limited(kMiB);
  std::vector<mi_heap_t*> heaps = {top};
  for (int i = 0; i < 200; i++) heaps.push_back(Config().Parent(heaps.back()).Make());
  for (int round = 0; round < 2; round++) {
    std::vector<void*> blocks = FillUp(heaps.back(), 3000);
    EXPECT_GT(Usable(blocks), kMiB / 2);
    EXPECT_EQ(mi_heap_malloc(heaps.back(), 2 * kMiB), nullptr);
    for (mi_heap_t* heap : heaps) ASSERT_EQ(mi_heap_used(heap), mi_heap_used(top));
    EXPECT_LE(mi_heap_used(top), kMiB);
    mi_heap_reset(heaps.back());
    EXPECT_EQ(mi_heap_used(top), 0u);
  }
  mi_heap_destroy(top);
}

TEST(FamilyLimit, AMoveTakesWhatTheHeapHoldsAlong) {
  mi_heap_t* from = Limited(10 * kMiB);
  mi_heap_t* to = Limited(kMiB);
  mi_heap_t* child = mi_heap_new();  // plain, and of a size of its own first
  for (int i = 0; i < 30; i++) ASSERT_NE(mi_heap_malloc(child, 300), nullptr);
  const size_t small = mi_heap_used(child);
  InThread([&] { ASSERT_TRUE(mi_heap_set_parent(child, from)); });
  EXPECT_EQ(mi_heap_used(from), small);
  for (int i = 0; i < 30; i++) ASSERT_NE(mi_heap_malloc(child, 100 * kKiB), nullptr);
  const size_t used = mi_heap_used(child);
  EXPECT_EQ(mi_heap_used(from), used);
  ASSERT_TRUE(mi_heap_set_parent(child, to));  // over its limit
  EXPECT_EQ(mi_heap_used(from), 0u);
  EXPECT_EQ(mi_heap_peak(from), used);
  EXPECT_EQ(mi_heap_used(to), used);
  EXPECT_EQ(mi_heap_malloc(child, 10 * kKiB), nullptr);
  EXPECT_EQ(mi_heap_malloc(to, 10 * kKiB), nullptr);
  ASSERT_TRUE(mi_heap_set_parent(child, nullptr));
  EXPECT_EQ(mi_heap_used(to), 0u);
  EXPECT_NE(mi_heap_malloc(child, kMiB), nullptr);
  for (mi_heap_t* heap : {from, to, child}) EXPECT_TRUE(mi_heap_check(heap));
  mi_heap_destroy(child);
  mi_heap_destroy(from);
  mi_heap_destroy(to);
}

TEST(MergeLimit, WhatIsMergedInCountsUntilItGoes) {
  for (bool limited : {false, true}) {
    mi_heap_t* into = limited ? Limited(3 * kMiB) : mi_heap_new();
    mi_heap_t* first = mi_heap_new();
    std::vector<void*> blocks, young;
    for (int i = 0; i < 20; i++) blocks.push_back(mi_heap_malloc(first, 60 * kKiB));
    for (int i = 0; i < 40; i++) young.push_back(mi_heap_malloc(first, 200));
    for (int i = 0; i < 500; i++) blocks.push_back(mi_heap_malloc(first, 2000));
    const size_t used = mi_heap_used(first);
    mi_heap_t* second = mi_heap_new();
    mi_heap_merge(first, second);
    EXPECT_EQ(mi_heap_used(second), used);
    mi_heap_merge(second, into);
    EXPECT_EQ(mi_heap_used(into), used);
    EXPECT_TRUE(mi_heap_check(into));
    if (limited) {
      EXPECT_EQ(mi_heap_malloc(into, 2 * kMiB), nullptr);
    }
    InThread([&] { FreeAll(&blocks); });
    mi_heap_collect(into, true);
    EXPECT_LE(mi_heap_used(into), 128 * kKiB);
    FreeAll(&young);
    mi_heap_collect(into, true);
    EXPECT_LE(mi_heap_used(into), 64 * kKiB);
    EXPECT_NE(mi_heap_malloc(into, 2 * kMiB), nullptr);
    // Pages of the merged heap that serve the target count once.
    for (int i = 0; i < 500; i++) ASSERT_NE(mi_heap_malloc(into, 2000), nullptr);
    EXPECT_TRUE(mi_heap_check(into));
    mi_heap_reset(into);
    EXPECT_EQ(mi_heap_used(into), 0u);
    mi_heap_destroy(into);
  }
}

TEST(MergeLimit, WhatIsDeletedCountsInTheMainHeap) {
  const size_t before = mi_heap_used(mi_heap_main());
  mi_heap_t* parent = Limited(10 * kMiB);
  std::vector<void*> blocks;
  for (mi_heap_t* heap : {mi_heap_new(), Config().Parent(parent).Make()}) {
    for (int i = 0; i < 20; i++) blocks.push_back(mi_heap_malloc(heap, i < 10 ? 500 : 100 * kKiB));
    const size_t held = mi_heap_used(heap), main = mi_heap_used(mi_heap_main());
    mi_heap_delete(heap);
    EXPECT_EQ(mi_heap_used(mi_heap_main()), main + held);
    EXPECT_EQ(mi_heap_used(parent), 0u);
  }
  mi_heap_t* young = mi_heap_new();
  for (int i = 0; i < 50; i++) blocks.push_back(mi_heap_malloc(young, 100));
  mi_heap_delete(young);
  FreeAll(&blocks);
  mi_collect(true);
  EXPECT_LE(mi_heap_used(mi_heap_main()), before);
  mi_heap_destroy(parent);
}

TEST(MergeLimit, PagesThatATargetTakesOverAreNoReasonToCallAgain) {
  int calls = 0;
  std::function<bool(mi_heap_t*, size_t)> on_limit = [&](mi_heap_t*, size_t) { return ++calls, false; };
  mi_heap_t* into = Config().OnLimit(&on_limit).Make();
  mi_heap_t* from = mi_heap_new();
  std::vector<void*> blocks;
  for (int i = 0; i < 4000; i++) {
    blocks.push_back(mi_heap_malloc(from, 500));
    ASSERT_NE(mi_heap_malloc(into, 500), nullptr);  // it has pages of this class too
  }
  mi_heap_merge(from, into);
  for (size_t i = 0; i < blocks.size(); i++) {
    if (i % 3 != 0) mi_free(blocks[i]);
  }
  ASSERT_TRUE(mi_heap_set_soft_limit(into, mi_heap_used(into) - kKiB));
  const size_t used = mi_heap_used(into);
  for (int i = 0; i < 4000; i++) ASSERT_NE(mi_heap_malloc(into, 500), nullptr);
  EXPECT_LT(mi_heap_used(into), used + kMiB);  // it took some over
  EXPECT_EQ(calls, 1);
  EXPECT_EQ(mi_heap_peak(into), mi_heap_used(into));
  EXPECT_TRUE(mi_heap_check(into));
  mi_heap_destroy(into);
}

TEST(MergeLimit, AHeapThatAllocatedNothingLeavesTheMainHeapAsItWas) {
  void* keep = mi_malloc(kMiB);
  const size_t before = mi_heap_used(mi_heap_main());
  for (int i = 0; i < 10; i++) {
    // The next heap begins with a region of this one.
    mi_heap_t* used = mi_heap_new();
    for (int k = 0; k < 50; k++) ASSERT_NE(mi_heap_malloc(used, 100), nullptr);
    mi_heap_destroy(used);
    mi_heap_t* heap = mi_heap_new();
    if (i % 2 == 0) {
      mi_heap_delete(heap);
    } else {
      InThread([heap] { mi_heap_delete(heap); });
    }
    EXPECT_EQ(mi_heap_used(mi_heap_main()), before);
  }
  EXPECT_TRUE(mi_heap_check(mi_heap_main()));
  mi_free(keep);
}

TEST(MarkLimit, ARewindGivesBackWhatCameSince) {
  mi_heap_t* heap = Limited(20 * kMiB);
  for (size_t size : {size_t{100}, size_t{2000}, 80 * kKiB}) {
    for (int i = 0; i < 40; i++) ASSERT_NE(mi_heap_malloc(heap, size), nullptr);
    const size_t used = mi_heap_used(heap);
    const mi_heap_mark_t mark = mi_heap_mark(heap);
    InThread([&] {
      for (int i = 0; i < 100; i++) ASSERT_NE(mi_heap_malloc(heap, size), nullptr);
    });
    for (int i = 0; i < 100; i++) ASSERT_NE(mi_heap_malloc(heap, size), nullptr);
    EXPECT_GT(mi_heap_used(heap), used);
    ASSERT_TRUE(mi_heap_rewind(heap, mark));
    // A page that was begun before the mark stays as far as it was used.
    EXPECT_LE(mi_heap_used(heap), used + 4 * kKiB);
    EXPECT_TRUE(mi_heap_check(heap));
    ASSERT_TRUE(mi_heap_unmark(heap, mark));
  }
  mi_heap_reset(heap);
  EXPECT_EQ(mi_heap_used(heap), 0u);
  mi_heap_destroy(heap);
}

// ---- against a shadow count
// --------------------------------------------------------------------------------------------

// Blocks with pages of their own are charged with exactly their usable size, or in the secure build with what that is
// rounded up to, so that whoever allocates knows what every heap must hold.
size_t Charged(const std::vector<void*>& blocks) {
  if (!kSecure) return Usable(blocks);
  size_t sum = 0;
  for (void* p : blocks) sum += mi_good_size(mi_usable_size(p));
  return sum;
}
size_t LargeSize(Random* random) { return random->Between(66 * kKiB, random->OneIn(20) ? 5 * kMiB : 300 * kKiB); }

// A family of heaps and what the program knows of it.
class ShadowFamily {
 public:
  explicit ShadowFamily(uint64_t seed) : random_(seed), members_(12) {}
  ~ShadowFamily() {
    for (Member& m : members_) {
      if (m.heap != nullptr) mi_heap_set_parent(m.heap, nullptr);
    }
    for (Member& m : members_) {
      if (m.heap != nullptr) mi_heap_destroy(m.heap);
    }
  }

  void Step() {
    const size_t i = random_.Below(members_.size()), k = random_.Below(members_.size());
    Member& m = members_[i];
    Member& n = members_[k];
    if (m.heap == nullptr) {
      Run([&] { m.heap = mi_heap_new(); });
      return;
    }
    const size_t op = random_.Below(100);
    if (op < 45) {
      const size_t size = LargeSize(&random_);
      Run([&] { m.blocks.push_back(mi_heap_malloc(m.heap, size)); });
      ASSERT_NE(m.blocks.back(), nullptr);
    } else if (op < 75) {
      if (m.blocks.empty()) return;
      std::swap(m.blocks[random_.Below(m.blocks.size())], m.blocks.back());
      Run([&] { mi_free(m.blocks.back()); });
      m.blocks.pop_back();
    } else if (op < 85) {
      if (n.heap == nullptr || IsBelow(&n, &m)) return;
      Run([&] { mi_heap_set_parent(m.heap, n.heap); });
      m.parent = &n;
    } else if (op < 90) {
      Run([&] { mi_heap_set_parent(m.heap, nullptr); });
      m.parent = nullptr;
    } else if (op < 94) {
      if (n.heap == nullptr || IsBelow(&n, &m)) return;
      Run([&] { mi_heap_merge(m.heap, n.heap); });
      n.blocks.insert(n.blocks.end(), m.blocks.begin(), m.blocks.end());
      for (Member& child : members_) {
        if (child.parent == &m) child.parent = &n;
      }
      m = Member();
    } else if (op < 97) {
      Run([&] { mi_heap_delete(m.heap); });
      for (Member& child : members_) {
        if (child.parent == &m) child.parent = m.parent;
      }
      const std::vector<void*> blocks = m.blocks;
      m = Member();
      for (void* p : blocks) mi_free(p);
    } else {
      const bool reset = random_.OneIn(2);
      Run([&] { reset ? mi_heap_reset(m.heap) : mi_heap_destroy(m.heap); });
      std::vector<Member*> gone;
      for (Member& below : members_) {
        if (IsBelow(&below, &m) && (!reset || &below != &m)) gone.push_back(&below);
      }
      for (Member* below : gone) *below = Member();
      m.blocks.clear();
    }
  }

  void Compare() {
    // What another thread freed is there until its page's thread meets it.
    const auto collect = [this] {
      mi_collect(false);
      for (Member& m : members_) {
        if (m.heap != nullptr) mi_heap_collect(m.heap, false);
      }
    };
    worker_.Run(collect);
    collect();
    worker_.Run(collect);
    for (Member& m : members_) {
      if (m.heap == nullptr) continue;
      size_t sum = 0;
      for (Member& below : members_) {
        if (IsBelow(&below, &m)) sum += Charged(below.blocks);
      }
      ASSERT_EQ(mi_heap_used(m.heap), sum);
      ASSERT_GE(mi_heap_peak(m.heap), sum);
      ASSERT_TRUE(mi_heap_check(m.heap));
    }
  }

 private:
  struct Member {
    mi_heap_t* heap = nullptr;
    Member* parent = nullptr;
    std::vector<void*> blocks;
  };

  // The same, or a descendant.
  static bool IsBelow(const Member* below, const Member* top) {
    while (below != nullptr && below != top) below = below->parent;
    return below == top;
  }
  void Run(const std::function<void()>& task) {
    if (random_.OneIn(2)) {
      task();
    } else {
      worker_.Run(task);
    }
  }

  Random random_;
  std::vector<Member> members_;
  Worker worker_;
};

TEST(ShadowCount, OfARandomRunWithMovesMergesAndEnds) {
  for (uint64_t seed = 1; seed <= 5; seed++) {
    ShadowFamily family(seed);
    for (int step = 0; step < Scaled(10000, 1000000); step++) {
      ASSERT_NO_FATAL_FAILURE(family.Step());
      if (step % 16 != 0) continue;
      ASSERT_NO_FATAL_FAILURE(family.Compare()) << "seed " << seed << " step " << step;
    }
  }
}

// Threads allocate and free in children, with blocks of all sizes, while others move these between parents, some of
// which end meanwhile. At the end every heap must hold what a walk finds.
TEST(ShadowCount, IsRightAfterChildrenWereMovedWhileTheyWereAtWork) {
  constexpr int kChildren = 4, kParents = 3;
  mi_heap_t* top = mi_heap_new();
  std::atomic<mi_heap_t*> parents[kParents];
  for (auto& p : parents) p = Config().Parent(top).Limit(64 * kMiB).Make();
  mi_heap_t* children[kChildren];
  std::vector<void*> large[kChildren];
  std::atomic<int> at_work{kChildren};
  for (auto& c : children) c = Config().Parent(parents[0].load()).Make();
  InThreads(kChildren + 2, [&](int t) {
    Random random(50 + t);
    if (t < kChildren) {
      std::vector<void*> small;
      mi_heap_t* heap = children[t];
      for (int i = 0; i < Scaled(30000, 3000000); i++) {
        if (random.OneIn(2)) {
          void* p = mi_heap_malloc(heap, LargeSize(&random));
          if (p != nullptr) large[t].push_back(p);
          while (large[t].size() > 40) {
            std::swap(large[t][random.Below(large[t].size())], large[t].back());
            mi_free(large[t].back());
            large[t].pop_back();
          }
        } else {
          void* p = mi_heap_malloc(heap, random.Between(1, 9000));
          if (p != nullptr) small.push_back(p);
          if (small.size() > 300) FreeAll(&small);
        }
      }
      FreeAll(&small);
      mi_heap_collect(heap, true);
      at_work--;
      return;
    }
    while (at_work.load() > 0) {
      mi_heap_t* child = children[random.Below(kChildren)];
      const size_t k = random.Below(kParents);
      if (t == kChildren) {
        mi_heap_set_parent(child, random.OneIn(5) ? nullptr : parents[k].load());
        if (random.OneIn(10)) {
          // A parent without children may end, and another takes its place.
          mi_heap_t* former = parents[k].load();
          for (mi_heap_t* c : children) {
            if (mi_heap_parent(c) == former) mi_heap_set_parent(c, top);
          }
          parents[k] = Config().Parent(top).Limit(64 * kMiB).Make();
          mi_heap_destroy(former);
        }
      } else {
        ASSERT_LE(mi_heap_used(top), kGiB);
        ASSERT_LE(mi_heap_peak(child), kGiB);
      }
    }
  });
  size_t sum = 0;
  for (int c = 0; c < kChildren; c++) {
    EXPECT_TRUE(mi_heap_check(children[c]));
    EXPECT_GE(mi_heap_used(children[c]), Usable(large[c]));
    mi_heap_set_parent(children[c], top);
    sum += mi_heap_used(children[c]);
  }
  for (auto& p : parents) EXPECT_EQ(mi_heap_used(p.load()), 0u);
  EXPECT_EQ(mi_heap_used(top), sum);
  for (int c = 0; c < kChildren; c++) {
    mi_heap_reset(children[c]);
    EXPECT_EQ(mi_heap_used(children[c]), 0u);
  }
  EXPECT_EQ(mi_heap_used(top), 0u);
  EXPECT_TRUE(mi_heap_check(top));
  mi_heap_destroy(top);
}

// The same where limits are in the way: charges are refused at levels that others are moving.
TEST(ShadowCount, IsRightWhereChargesAreTakenBackWhileHeapsMove) {
  mi_heap_t* parents[2] = {Limited(2 * kMiB), Limited(3 * kMiB)};
  mi_heap_t* middle = Config().Parent(parents[0]).Make();
  mi_heap_t* children[3];
  for (auto& c : children) c = Config().Parent(middle).Make();
  std::atomic<int> at_work{3};
  std::vector<void*> blocks[3];
  InThreads(4, [&](int t) {
    Random random(90 + t);
    if (t == 3) {
      for (int i = 0; at_work.load() > 0; i++) {
        mi_heap_set_parent(middle, random.OneIn(4) ? nullptr : parents[i % 2]);
        if (random.OneIn(3)) mi_heap_set_parent(children[random.Below(3)], random.OneIn(2) ? middle : parents[0]);
      }
      return;
    }
    for (int i = 0; i < Scaled(20000, 2000000); i++) {
      void* p = mi_heap_malloc(children[t], random.Between(66 * kKiB, 700 * kKiB));
      if (p != nullptr) blocks[t].push_back(p);
      if (p == nullptr || random.OneIn(3)) {
        while (!blocks[t].empty() && !random.OneIn(3)) {
          mi_free(blocks[t].back());
          blocks[t].pop_back();
        }
      }
    }
    at_work--;
  });
  mi_heap_set_parent(middle, nullptr);
  size_t sum = 0;
  for (int t = 0; t < 3; t++) {
    mi_heap_set_parent(children[t], middle);
    EXPECT_EQ(mi_heap_used(children[t]), Charged(blocks[t]));
    sum += Charged(blocks[t]);
  }
  EXPECT_EQ(mi_heap_used(middle), sum);
  for (mi_heap_t* p : parents) {
    EXPECT_EQ(mi_heap_used(p), 0u);
    mi_heap_destroy(p);
  }
  mi_heap_destroy(middle);
}

TEST(ShadowCount, IsRightWhileBlocksOfMergedHeapsAreFreed) {
  for (int round = 0; round < Scaled(200); round++) {
    mi_heap_t* into = Limited(100 * kMiB);
    mi_heap_t* heap = Config().Parent(into).Make();
    std::vector<void*> blocks;
    InThreads(2, [&](int t) {
      if (t == 0) {
        for (int i = 0; i < 100; i++) blocks.push_back(mi_heap_malloc(heap, i % 2 == 0 ? 70 * kKiB : 1500));
      }
    });
    std::vector<void*> kept;
    SpinMeeting meeting(2);
    InThreads(2, [&](int t) {
      meeting.Meet();
      if (t == 0) {
        mi_heap_merge(heap, into);
        return;
      }
      while (blocks.size() > 30) {
        mi_free(blocks.back());
        blocks.pop_back();
      }
    });
    mi_heap_collect(into, true);
    ASSERT_GE(mi_heap_used(into), Usable(blocks));
    ASSERT_TRUE(mi_heap_check(into));
    FreeAll(&blocks);
    mi_heap_collect(into, true);
    ASSERT_TRUE(mi_heap_check(into));
    mi_heap_reset(into);
    ASSERT_EQ(mi_heap_used(into), 0u);
    mi_heap_destroy(into);
  }
}

TEST(ForkLimit, TheChildGoesOnWithItsAccounts) {
  mi_heap_t* top = Limited(8 * kMiB);
  mi_heap_t* heap = Config().Parent(top).Make();
  Worker worker;
  worker.Run([&] {
    for (int i = 0; i < 1000; i++) ASSERT_NE(mi_heap_malloc(heap, 300), nullptr);
  });
  for (int i = 0; i < 20; i++) ASSERT_NE(mi_heap_malloc(heap, 100 * kKiB), nullptr);
  const size_t used = mi_heap_used(top);
  EXPECT_EQ(InChild([&] {
              if (mi_heap_used(top) != used) return 1;
              if (mi_heap_malloc(heap, 7 * kMiB) != nullptr) return 2;
              if (mi_heap_malloc(heap, 2 * kMiB) == nullptr) return 3;
              if (!mi_heap_set_parent(heap, nullptr) || mi_heap_used(top) != 0) return 4;
              mi_heap_reset(heap);
              if (mi_heap_used(heap) != 0) return 5;
              if (mi_heap_malloc(heap, 20 * kMiB) == nullptr) return 6;
              mi_heap_destroy(heap);
              mi_heap_destroy(top);
              return 0;
            }),
            0);
  worker.Exit();
  mi_heap_destroy(top);
}

}  // namespace
}  // namespace mi_test
