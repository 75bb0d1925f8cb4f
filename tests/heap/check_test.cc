// mi_heap_check as a program uses it: on heaps of every shape, while other threads are at work in other heaps. What it
// finds is tests/internal/check_test.cc.
#include <time.h>

#include <atomic>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "tests/test_support.h"

namespace mi_test {
namespace {

TEST(CheckTest, NewHeapsTheMainHeapAndHeapsAfterAResetAreSound) {
  mi_heap_t* heap = mi_heap_new();
  EXPECT_TRUE(mi_heap_check(heap));
  for (size_t size : {1, 100, 5000, 50000, 500000, 5000000}) ASSERT_NE(mi_heap_malloc(heap, size), nullptr);
  EXPECT_TRUE(mi_heap_check(heap));
  mi_heap_reset(heap);
  EXPECT_TRUE(mi_heap_check(heap));
  mi_heap_destroy(heap);
  EXPECT_TRUE(mi_heap_check(mi_heap_main()));
}

TEST(CheckTest, WhatIsNoHeapIsRefused) {
  ErrorRecorder recorder;
  EXPECT_FALSE(mi_heap_check(nullptr));
  EXPECT_EQ(recorder.errors(), std::vector<int>{EINVAL});
  recorder.Forget();
  mi_heap_t* heap = mi_heap_new();
  mi_heap_destroy(heap);
  EXPECT_FALSE(mi_heap_check(heap));
  EXPECT_EQ(recorder.errors(), std::vector<int>{EFAULT});
}

// After every few operations of a random run, among them frees by other threads, resets, merges and collects.
TEST(CheckTest, AHeapIsSoundAtEveryTimeOfARandomRun) {
  for (uint64_t seed = 1; seed <= 4; seed++) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    Random random(seed);
    mi_heap_t* heap = mi_heap_new();
    std::vector<void*> blocks;
    Worker worker;
    for (int step = 0; step < Scaled(600); step++) {
      auto allocate = [&] {
        for (int i = 0; i < 200; i++) {
          size_t size = random.OneIn(200) ? random.Below(3 * kMiB) : random.Below(random.OneIn(10) ? 20000 : 600);
          void* p = random.OneIn(20) ? mi_heap_zalloc_aligned(heap, size, size_t{1} << random.Between(4, 13))
                                     : mi_heap_malloc(heap, size);
          ASSERT_NE(p, nullptr);
          blocks.push_back(p);
        }
      };
      auto free_some = [&] {
        for (int i = 0; i < 190 && !blocks.empty(); i++) {
          std::swap(blocks[random.Below(blocks.size())], blocks.back());
          mi_free(blocks.back());
          blocks.pop_back();
        }
      };
      if (random.OneIn(2)) {
        allocate();
      } else {
        worker.Run(allocate);
      }
      if (random.OneIn(2)) {
        free_some();
      } else {
        worker.Run(free_some);
      }
      if (random.OneIn(20)) mi_heap_collect(heap, random.OneIn(2));
      if (random.OneIn(40)) {
        mi_heap_t* other = mi_heap_new();
        for (int i = 0; i < 300; i++) blocks.push_back(mi_heap_malloc(other, random.Below(2000)));
        mi_heap_merge(other, heap);
      }
      if (random.OneIn(150)) {
        mi_heap_reset(heap);
        blocks.clear();
      }
      if (random.OneIn(5)) {
        ASSERT_TRUE(mi_heap_check(heap)) << "step " << step;
      }
    }
    worker.Exit();
    EXPECT_TRUE(mi_heap_check(heap));
    mi_heap_destroy(heap);
  }
}

// Row 9 of what is promised: a check, a visit and a query of one heap take nothing from threads that use others. Each
// of those must come by its own work however often the heap is looked at.
TEST(CheckTest, OtherThreadsWorkInOtherHeapsMeanwhile) {
  mi_heap_t* heap = mi_heap_new();
  InThreads(3, [&](int) {
    for (int i = 0; i < 3000; i++) {
      void* p = mi_heap_malloc(heap, static_cast<size_t>(i % 700));
      if (i % 3 == 0) mi_free(p);
    }
  });
  constexpr int kThreads = 3;
  std::atomic<bool> done{false};
  std::atomic<uint64_t> rounds[kThreads] = {};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; t++) {
    threads.emplace_back([&, t] {
      Random random(static_cast<uint64_t>(t));
      while (!done) {
        mi_heap_t* own = mi_heap_new();
        std::vector<void*> blocks;
        for (int i = 0; i < 500; i++) blocks.push_back(mi_heap_malloc(own, random.Below(3000)));
        blocks.push_back(mi_heap_malloc(own, 5 * kMiB));
        for (size_t i = 0; i < blocks.size(); i += 2) mi_free(blocks[i]);
        switch (random.Below(3)) {
          case 0:
            mi_heap_destroy(own);
            break;
          case 1:
            mi_heap_reset(own);
            mi_heap_destroy(own);
            break;
          default:
            for (size_t i = 1; i < blocks.size(); i += 2) mi_free(blocks[i]);
            mi_heap_delete(own);
        }
        rounds[t]++;
      }
    });
  }
  struct Count {
    size_t blocks = 0;
  };
  // Until every thread came by ten rounds while the heap was looked at; and every answer is the same.
  uint64_t looks = 0;
  for (bool more = true; more || looks < 50; looks++) {
    ASSERT_TRUE(mi_heap_check(heap));
    Count count;
    ASSERT_TRUE(mi_heap_visit_blocks(
        heap, true,
        [](const mi_heap_t*, const mi_heap_area_t*, void* block, size_t, void* arg) {
          static_cast<Count*>(arg)->blocks += block != nullptr;
          return true;
        },
        &count));
    ASSERT_EQ(count.blocks, 3u * 2000);
    more = false;
    for (auto& r : rounds) more = more || r < 10;
  }
  done = true;
  for (std::thread& thread : threads) thread.join();
  mi_heap_destroy(heap);
}

}  // namespace
}  // namespace mi_test
