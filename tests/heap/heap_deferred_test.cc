// The deferred_free of single heaps: when it is called and with what, on which thread, what it may do, that its
// registration is one pair, and how it ends. That the same program gets the same calls every time is shown by
// deferred_runs_test.
#include <pthread.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "mi/heap/heap.h"
#include "mi/mimalloc.h"
#include "tests/test_support.h"

namespace mi_test {
namespace {

struct Call {
  bool force;
  unsigned long long heartbeat;
  size_t budget;
};

// What a callback was told, in order. For one thread.
struct Calls {
  std::vector<Call> all;
  std::function<void(mi_heap_t*, bool)> then;
  int wrong_heap = 0;
  mi_heap_t* heap = nullptr;

  size_t forced() const {
    return static_cast<size_t>(std::count_if(all.begin(), all.end(), [](const Call& c) { return c.force; }));
  }
  size_t due() const { return all.size() - forced(); }
};

void Record(mi_heap_t* heap, bool force, unsigned long long heartbeat, void* arg) {
  Calls* calls = static_cast<Calls*>(arg);
  if (heap != calls->heap) calls->wrong_heap++;
  calls->all.push_back({force, heartbeat, mi_heap_deferred_budget(heap)});
  if (calls->then) calls->then(heap, force);
}

mi_heap_t* NewHeap(Calls* calls, size_t cadence = 0, size_t bytes = 0) {
  mi_heap_config_t config = {};
  config.size = sizeof(config);
  config.deferred_free = &Record;
  config.deferred_arg = calls;
  config.deferred_cadence = cadence;
  config.deferred_bytes = bytes;
  calls->heap = mi_heap_new_with(&config);
  EXPECT_NE(calls->heap, nullptr);
  return calls->heap;
}

void Allocate(mi_heap_t* heap, int n, size_t size) {
  for (int i = 0; i < n; i++) ASSERT_NE(mi_heap_malloc(heap, size), nullptr);
}

// One block out, one in.
void Steady(mi_heap_t* heap, int n, size_t size) {
  for (int i = 0; i < n; i++) {
    void* block = mi_heap_malloc(heap, size);
    ASSERT_NE(block, nullptr);
    mi_free(block);
  }
}

void ExpectStrictlyIncreasing(const Calls& calls) {
  for (size_t i = 1; i < calls.all.size(); i++) {
    ASSERT_GT(calls.all[i].heartbeat, calls.all[i - 1].heartbeat) << "call " << i;
  }
  EXPECT_EQ(calls.wrong_heap, 0);
}

// How much is handed out between two slow paths at most, beyond what is due: a page.
constexpr size_t kPage = 64 * kKiB;

TEST(HeapDeferredTest, IsCalledOncePer64KiBIfNothingElseIsSaid) {
  for (size_t size : {8, 16, 48, 100, 512, 1000, 4000, 20000, 60000}) {
    Calls calls;
    mi_heap_t* heap = NewHeap(&calls);
    const int n = static_cast<int>(16 * kMiB / size);
    Allocate(heap, n, size);
    // Blocks of more than 8 KiB have pages of 512 KiB.
    EXPECT_GE(calls.due(), 16 * kMiB / (size > 8 * kKiB ? 8 * kPage + size : 2 * kPage)) << size;
    EXPECT_LE(calls.due(), 2 * 16 * kMiB / kPage) << size;
    ExpectStrictlyIncreasing(calls);
    mi_heap_destroy(heap);
  }
}

TEST(HeapDeferredTest, IsCalledByNumberIfThatIsTheCadence) {
  for (size_t size : {8, 40, 100, 300, 1000}) {
    for (size_t cadence : {1, 100, 5000}) {
      Calls calls;
      mi_heap_t* heap = NewHeap(&calls, cadence);
      const size_t n = 200000;
      Allocate(heap, static_cast<int>(n), size);
      // A call may be late by what is handed out between two slow paths: 4 KiB of a fresh page, or a region.
      EXPECT_GE(calls.due(), n / (cadence + kPage / size + 1)) << size << " " << cadence;
      EXPECT_LE(calls.due(), n / cadence + 1) << size << " " << cadence;
      mi_heap_destroy(heap);
    }
  }
}

TEST(HeapDeferredTest, IsCalledByWhicheverOfTheTwoComesFirst) {
  Calls by_number, by_bytes;
  mi_heap_t* heap = NewHeap(&by_number, 1000, kMiB);
  Allocate(heap, 50000, 16);
  EXPECT_GT(by_number.due(), 10u);
  mi_heap_destroy(heap);
  heap = NewHeap(&by_bytes, 100000, kMiB);
  Allocate(heap, 1000, 60000);
  EXPECT_GT(by_bytes.due(), 20u);
  mi_heap_destroy(heap);
}

TEST(HeapDeferredTest, ASteadyStateDoesNotStarveIt) {
  for (size_t size : {16, 100, 1000, 3000, 30000}) {
    Calls calls;
    mi_heap_t* heap = NewHeap(&calls);
    Steady(heap, 20000, size);
    EXPECT_GE(calls.due(), 20000 * size / (3 * kPage + 8 * size)) << size;
    mi_heap_destroy(heap);
  }
}

TEST(HeapDeferredTest, BlocksWithPagesOfTheirOwnCountToo) {
  Calls calls;
  mi_heap_t* heap = NewHeap(&calls);
  Steady(heap, 100, kMiB);
  EXPECT_GE(calls.due(), 99u);
  mi_heap_destroy(heap);
}

TEST(HeapDeferredTest, TheBudgetIsWhatWasAllocatedSinceTheLastCall) {
  for (size_t cadence : {0, 700}) {
    for (size_t size : {16, 64, 200, 1000, 5000}) {
      Calls calls;
      mi_heap_t* heap = NewHeap(&calls, cadence);
      const size_t n = 100000;
      Allocate(heap, static_cast<int>(n), size);
      size_t sum = 0;
      for (const Call& call : calls.all) {
        EXPECT_FALSE(call.force);
        EXPECT_GT(call.budget, 0u);
        sum += call.budget;
      }
      EXPECT_NEAR(static_cast<double>(sum), static_cast<double>(n), 0.05 * n + 64 * kKiB / static_cast<double>(size))
          << size << " " << cadence;
      EXPECT_EQ(mi_heap_deferred_budget(heap), 0u) << "outside of a call";
      mi_heap_destroy(heap);
      EXPECT_EQ(calls.all.back().budget, SIZE_MAX);
    }
  }
}

TEST(HeapDeferredTest, FreeingTheBudgetKeepsWhatWaitsFromGrowing) {
  for (size_t size : {24, 130, 2000}) {
    std::vector<void*> waiting;
    Calls calls;
    calls.then = [&](mi_heap_t*, bool) {
      for (size_t n = calls.all.back().budget; n > 0 && !waiting.empty(); n--) {
        mi_free(waiting.back());
        waiting.pop_back();
      }
    };
    mi_heap_t* heap = NewHeap(&calls);
    size_t most = 0;
    for (int i = 0; i < 300000; i++) {
      waiting.push_back(mi_heap_malloc(heap, size));
      ASSERT_NE(waiting.back(), nullptr);
      most = std::max(most, waiting.size());
    }
    EXPECT_LT(most * size, 2 * kMiB) << size;
    mi_heap_destroy(heap);
    EXPECT_TRUE(waiting.empty()) << "the last call has force";
  }
}

TEST(HeapDeferredTest, WhatARewindFreesWasAllocatedAllTheSame) {
  for (size_t cadence : {0, 1000}) {
    Calls calls;
    mi_heap_t* heap = NewHeap(&calls, cadence);
    const mi_heap_mark_t mark = mi_heap_mark(heap);
    for (int i = 0; i < 20000; i++) {  // never more than fits into the heap's first region
      Allocate(heap, 2, 48);
      ASSERT_TRUE(mi_heap_rewind(heap, mark));
    }
    const size_t expected = (cadence == 0 ? 20000 * 2 * 48 / (64 * kKiB) : 40);
    // In the secure build up to 63 blocks that were ready before a call, and went with the rewind, count once more.
    const size_t again = (kSecure ? (expected * 63 * 48 + 64 * kKiB - 1) / (64 * kKiB) : 0);
    EXPECT_GE(calls.due() + 1, expected) << cadence;
    EXPECT_LE(calls.due(), expected + again) << cadence;
    mi_heap_destroy(heap);
  }
}

TEST(HeapDeferredTest, OnlyTheHeapsOwnAllocationsCount) {
  Calls calls;
  mi_heap_t* heap = NewHeap(&calls);
  mi_heap_t* other = mi_heap_new();
  Allocate(other, 100000, 64);
  Steady(mi_heap_main(), 100000, 64);
  EXPECT_EQ(calls.all.size(), 0u);
  Allocate(heap, 10000, 64);
  EXPECT_GT(calls.all.size(), 3u);
  mi_heap_destroy(other);
  mi_heap_destroy(heap);
}

TEST(HeapDeferredTest, TheHeartbeatsOfHeapsHaveNothingToDoWithEachOther) {
  Calls calls[10];
  mi_heap_t* heaps[10];
  for (int i = 0; i < 10; i++) heaps[i] = NewHeap(&calls[i]);
  for (int round = 0; round < 50; round++) {
    for (int i = 0; i < 10; i++) Allocate(heaps[i], 1000, 64);
  }
  for (int i = 0; i < 10; i++) {
    ExpectStrictlyIncreasing(calls[i]);
    for (size_t n = 0; n < calls[i].all.size(); n++) EXPECT_EQ(calls[i].all[n].heartbeat, n + 1);
    mi_heap_destroy(heaps[i]);
    EXPECT_EQ(calls[i].all.size(), calls[i].all.back().heartbeat);
  }
}

TEST(HeapDeferredTest, IsCalledWithForceBeforeTheHeapIsDestroyedDeletedMergedAndReset) {
  using End = void (*)(mi_heap_t*);
  const End ends[] = {&mi_heap_destroy, &mi_heap_delete, [](mi_heap_t* heap) { mi_heap_merge(heap, nullptr); }};
  for (int blocks : {0, 1, 20, 20000}) {
    for (End end : ends) {
      void* block = nullptr;
      Calls calls;
      calls.then = [&](mi_heap_t* heap, bool force) {
        if (!force) return;
        // The heap is as it was: its block can be freed, and more allocated.
        EXPECT_TRUE(block == nullptr || mi_heap_of(block) == heap);
        mi_free(block);
        block = nullptr;
        EXPECT_NE(mi_heap_malloc(heap, 100), nullptr);
      };
      mi_heap_t* heap = NewHeap(&calls);
      for (int i = 0; i < blocks; i++) block = mi_heap_malloc(heap, 64);
      const size_t due = calls.due();
      mi_heap_reset(heap);
      EXPECT_EQ(calls.forced(), 1u);
      block = mi_heap_malloc(heap, 10);
      end(heap);
      EXPECT_EQ(calls.forced(), 2u) << blocks;
      EXPECT_EQ(calls.due(), due);
      ExpectStrictlyIncreasing(calls);
      EXPECT_EQ(block, nullptr);
    }
  }
  for (const Shown& left : BlocksOf(mi_heap_main())) mi_free(left.block);
}

TEST(HeapDeferredTest, GoesOnAfterAReset) {
  Calls calls;
  mi_heap_t* heap = NewHeap(&calls);
  for (int round = 0; round < 100; round++) {
    const size_t before = calls.due();
    Allocate(heap, 10000, 64);
    EXPECT_GE(calls.due() - before, 3u);
    EXPECT_LE(calls.due() - before, 12u);
    mi_heap_reset(heap);
  }
  EXPECT_EQ(calls.forced(), 100u);
  mi_heap_destroy(heap);
}

TEST(HeapDeferredTest, IsCalledWithForceByCollectOfTheHeap) {
  Calls calls;
  mi_heap_t* heap = NewHeap(&calls);
  Allocate(heap, 10, 64);
  mi_heap_collect(heap, false);
  EXPECT_EQ(calls.forced(), 0u);
  mi_heap_collect(heap, true);
  EXPECT_EQ(calls.forced(), 1u);
  mi_heap_destroy(heap);
}

TEST(HeapDeferredTest, IsCalledWithForceBeforeAnAllocationFails) {
  Calls calls;
  mi_heap_t* heap = NewHeap(&calls);
  EXPECT_EQ(mi_heap_malloc(heap, Opaque(size_t{1} << 60)), nullptr);
  EXPECT_EQ(calls.forced(), 1u);
  mi_heap_destroy(heap);
}

TEST(HeapDeferredTest, MayAllocateAndFreeInItsHeapAndIsNotCalledFromWithinItself) {
  int depth = 0, nested = 0;
  std::vector<void*> kept;
  Calls calls;
  calls.then = [&](mi_heap_t* heap, bool) {
    if (depth++ != 0) nested++;
    for (int i = 0; i < 3000; i++) {
      void* block = mi_heap_malloc(heap, 16 + static_cast<size_t>(i % 50) * 60);
      EXPECT_NE(block, nullptr);
      if (i % 100 == 0) {
        kept.push_back(block);
      } else {
        mi_free(block);
      }
    }
    mi_heap_collect(heap, true);
    depth--;
  };
  mi_heap_t* heap = NewHeap(&calls);
  std::vector<std::pair<void*, size_t>> blocks;
  for (int i = 0; i < 20000; i++) {
    const size_t size = 16 + static_cast<size_t>(i % 300);
    blocks.emplace_back(mi_heap_malloc(heap, size), size);
    Fill(blocks.back().first, size, i);
  }
  EXPECT_GT(calls.due(), 10u);
  EXPECT_EQ(nested, 0);
  for (size_t i = 0; i < blocks.size(); i++) {
    ASSERT_TRUE(Holds(blocks[i].first, blocks[i].second, i));
    mi_free(blocks[i].first);
  }
  for (void* block : kept) mi_free(block);
  kept.clear();
  EXPECT_EQ(CountBlocks(heap), 0u);
  mi_heap_destroy(heap);
}

TEST(HeapDeferredTest, MayNotEndItsOwnHeap) {
  using End = void (*)(mi_heap_t*);
  const End ends[] = {&mi_heap_destroy, &mi_heap_delete, &mi_heap_reset,
                      [](mi_heap_t* heap) { mi_heap_merge(heap, nullptr); }};
  for (End end : ends) {
    Calls calls;
    int refused = 0;
    calls.then = [&](mi_heap_t* heap, bool) {
      ErrorRecorder errors;
      end(heap);
      refused += errors.count(EINVAL);
    };
    mi_heap_t* heap = NewHeap(&calls);
    Allocate(heap, 20000, 64);
    EXPECT_GT(calls.all.size(), 5u);
    EXPECT_EQ(refused, static_cast<int>(calls.all.size()));
    EXPECT_EQ(CountBlocks(heap), 20000u);
    calls.then = nullptr;
    mi_heap_destroy(heap);
  }
}

TEST(HeapDeferredTest, AHeapThatACallbackEndsGetsItsLastCallAndCannotEndTheOuterOne) {
  Calls outer, inner;
  std::vector<mi_heap_t*> doomed;
  int refused = 0;
  inner.then = [&](mi_heap_t* heap, bool force) {
    EXPECT_TRUE(force);
    EXPECT_EQ(mi_heap_deferred_budget(heap), SIZE_MAX);
    EXPECT_EQ(mi_heap_deferred_budget(outer.heap), outer.all.back().budget);
    ErrorRecorder errors;
    mi_heap_destroy(outer.heap);
    refused += errors.count(EINVAL);
  };
  outer.then = [&](mi_heap_t* heap, bool) {
    if (doomed.empty()) return;
    inner.heap = doomed.back();
    doomed.pop_back();
    mi_heap_destroy(inner.heap);
    ErrorRecorder errors;
    mi_heap_destroy(heap);
    EXPECT_EQ(errors.count(EINVAL), 1);
  };
  mi_heap_t* heap = NewHeap(&outer);
  for (int i = 0; i < 10; i++) {
    doomed.push_back(NewHeap(&inner));
    Allocate(doomed.back(), 10 + 1000 * (i % 2), 16);
  }
  inner.all.clear();
  Allocate(heap, 40000, 64);
  EXPECT_TRUE(doomed.empty());
  EXPECT_EQ(inner.all.size(), 10u);
  EXPECT_EQ(refused, 10);
  EXPECT_EQ(CountBlocks(heap), 40000u);
  mi_heap_destroy(heap);
}

TEST(HeapDeferredTest, TheProcessWideCallbackAndThoseOfHeapsDoNotNest) {
  static int running, nested, process_calls;
  running = nested = process_calls = 0;
  Calls calls;
  calls.then = [&](mi_heap_t* heap, bool) {
    if (running++ != 0) nested++;
    Steady(heap, 500, 300);
    running--;
  };
  mi_heap_t* heap = NewHeap(&calls);
  mi_register_deferred_free(
      [](bool, unsigned long long, void* arg) {
        if (running++ != 0) nested++;
        process_calls++;
        Steady(static_cast<mi_heap_t*>(arg), 500, 300);
        running--;
      },
      heap);
  Allocate(heap, 20000, 64);
  mi_register_deferred_free(nullptr, nullptr);
  EXPECT_GT(process_calls, 10);
  EXPECT_GT(calls.due(), 10u);
  EXPECT_EQ(nested, 0);
  mi_heap_destroy(heap);
}

TEST(HeapDeferredTest, CanBeRegisteredLaterExchangedAndTakenAway) {
  Calls first, second;
  mi_heap_t* heap = mi_heap_new();
  first.heap = second.heap = heap;
  Allocate(heap, 20000, 64);
  ASSERT_TRUE(mi_heap_register_deferred_free(heap, &Record, &first));
  Allocate(heap, 20000, 64);
  EXPECT_GT(first.due(), 10u);
  const unsigned long long heartbeat = first.all.back().heartbeat;
  const size_t calls = first.all.size();
  ASSERT_TRUE(mi_heap_register_deferred_free(heap, &Record, &second));
  Allocate(heap, 20000, 64);
  EXPECT_EQ(first.all.size(), calls);
  EXPECT_GT(second.due(), 10u);
  EXPECT_GT(second.all.front().heartbeat, heartbeat);
  const size_t calls_of_second = second.all.size();
  ASSERT_TRUE(mi_heap_register_deferred_free(heap, nullptr, nullptr));
  Allocate(heap, 20000, 64);
  mi_heap_reset(heap);
  EXPECT_EQ(second.all.size(), calls_of_second);
  ASSERT_TRUE(mi_heap_register_deferred_free(heap, &Record, &first));
  mi_heap_destroy(heap);
  EXPECT_EQ(first.all.size(), calls + 1);
}

TEST(HeapDeferredTest, ManyPairsOfOneHeapGoWithIt) {
  std::vector<Calls> calls(2000);
  for (int round = 0; round < 3; round++) {
    mi_heap_t* heap = mi_heap_new();
    for (Calls& one : calls) {
      one.heap = heap;
      ASSERT_TRUE(mi_heap_register_deferred_free(heap, &Record, &one));
    }
    mi_heap_destroy(heap);
    EXPECT_EQ(calls.back().all.size(), static_cast<size_t>(round + 1));
    EXPECT_EQ(calls.front().all.size(), 0u);
  }
}

TEST(HeapDeferredTest, BadInputIsReported) {
  Calls calls;
  {
    ErrorRecorder errors;
    EXPECT_FALSE(mi_heap_register_deferred_free(nullptr, &Record, &calls));
    EXPECT_EQ(errors.count(EINVAL), 1);
  }
  mi_heap_t* heap = mi_heap_new();
  mi_heap_destroy(heap);
  {
    ErrorRecorder errors;
    EXPECT_FALSE(mi_heap_register_deferred_free(heap, &Record, &calls));
    EXPECT_EQ(errors.count(EFAULT), 1);
  }
  EXPECT_EQ(mi_heap_deferred_budget(nullptr), 0u);
}

TEST(HeapDeferredTest, TheMainHeapMayHaveOneToo) {
  Calls calls;
  calls.heap = mi_heap_main();
  ASSERT_TRUE(mi_heap_register_deferred_free(mi_heap_main(), &Record, &calls));
  Steady(mi_heap_main(), 100000, 64);
  EXPECT_GT(calls.due(), 20u);
  const size_t due = calls.due();
  InThread([] { mi_free(mi_malloc(100)); });
  EXPECT_EQ(calls.forced(), 1u);
  EXPECT_EQ(calls.due(), due);
  ASSERT_TRUE(mi_heap_register_deferred_free(mi_heap_main(), nullptr, nullptr));
  Steady(mi_heap_main(), 100000, 64);
  EXPECT_EQ(calls.due(), due);
}

// ---- threads ----------------------------------------------------------------------------------------------------

struct Shared {
  std::atomic<unsigned long long> last{0};
  std::atomic<int> calls{0}, forced{0}, backwards{0}, leaked{0};
  std::atomic<bool> seen_twice{false};
  std::vector<std::atomic<bool>> seen = std::vector<std::atomic<bool>>(1 << 20);
};
thread_local unsigned long long last_here;

void RecordShared(mi_heap_t* heap, bool force, unsigned long long heartbeat, void* arg) {
  Shared* shared = static_cast<Shared*>(arg);
  shared->calls++;
  if (force) shared->forced++;
  if (heartbeat <= last_here) shared->backwards++;
  last_here = heartbeat;
  if (heartbeat >= shared->seen.size() || shared->seen[heartbeat].exchange(true)) shared->seen_twice = true;
  void* block = mi_heap_malloc(heap, 1 + heartbeat % 2000);
  if (block == nullptr) shared->leaked++;
  mi_free(block);
}

TEST(HeapDeferredTest, HeartbeatsOfAllThreadsAreOneStrictlyIncreasingSequence) {
  auto shared = std::make_unique<Shared>();
  mi_heap_t* heap = mi_heap_new();
  ASSERT_TRUE(mi_heap_register_deferred_free(heap, &RecordShared, shared.get()));
  InThreads(4, [&](int t) {
    last_here = 0;
    Allocate(heap, Scaled(50000), 16 + 24 * static_cast<size_t>(t));
  });
  last_here = 0;
  const int calls = shared->calls;
  EXPECT_GT(calls, 4);
  EXPECT_EQ(shared->forced, 4) << "one at the end of each thread";
  EXPECT_EQ(shared->backwards, 0);
  EXPECT_FALSE(shared->seen_twice);
  for (int i = 1; i <= calls; i++) EXPECT_TRUE(shared->seen[static_cast<size_t>(i)]) << i;
  mi_heap_destroy(heap);
  EXPECT_EQ(shared->calls, calls + 1);
}

TEST(HeapDeferredTest, IsCalledAtTheEndOfEveryThreadThatAllocatedInTheHeapAndOfNoOther) {
  auto shared = std::make_unique<Shared>();
  mi_heap_t* heap = mi_heap_new();
  ASSERT_TRUE(mi_heap_register_deferred_free(heap, &RecordShared, shared.get()));
  for (int blocks : {1, 10, 1000}) {
    last_here = 0;
    const int forced = shared->forced;
    InThread([&] { Allocate(heap, blocks, 32); });
    EXPECT_EQ(shared->forced, forced + 1);
    InThread([] { Allocate(mi_heap_main(), 1000, 32); });
    InThread([&] { mi_free(mi_malloc(10)); });
    EXPECT_EQ(shared->forced, forced + 1);
  }
  // The heap's maker, with objects in the first region only.
  mi_heap_t* made = nullptr;
  const int forced = shared->forced;
  InThread([&] {
    mi_heap_config_t config = {};
    config.size = sizeof(config);
    config.deferred_free = &RecordShared;
    config.deferred_arg = shared.get();
    made = mi_heap_new_with(&config);
    shared->seen = std::vector<std::atomic<bool>>(1 << 20);
    Allocate(made, 1, 32);
  });
  EXPECT_EQ(shared->forced, forced + 1);
  mi_heap_destroy(made);
  mi_heap_destroy(heap);
}

TEST(HeapDeferredTest, RegisteredLaterItIsCalledAtTheEndOfThreadsThatWereThereBefore) {
  auto shared = std::make_unique<Shared>();
  mi_heap_t* heap = mi_heap_new();
  Worker worker;
  worker.Run([&] { Allocate(heap, 100, 32); });
  ASSERT_TRUE(mi_heap_register_deferred_free(heap, &RecordShared, shared.get()));
  worker.Run([&] { Allocate(heap, 1000, 32); });
  worker.Exit();
  EXPECT_EQ(shared->forced, 1);
  mi_heap_destroy(heap);
}

TEST(HeapDeferredTest, NothingLeaksOverManyThreadExitsWhoseCallbacksAllocate) {
  auto shared = std::make_unique<Shared>();
  mi_heap_t* kept = mi_heap_new();
  ASSERT_TRUE(mi_heap_register_deferred_free(kept, &RecordShared, shared.get()));
  const int threads = Scaled(10000);
  const size_t main_blocks = CountBlocks(mi_heap_main());
  mi_heap_t* made[2];
  size_t rss = 0;
  for (int i = 0; i < threads; i++) {
    InThread([&] {
      last_here = 0;
      void* block = mi_heap_malloc(kept, 100);
      mi_heap_config_t config = {};
      config.size = sizeof(config);
      config.deferred_free = &RecordShared;
      config.deferred_arg = shared.get();
      mi_heap_t* own = mi_heap_new_with(&config);
      ASSERT_NE(own, nullptr);
      ASSERT_TRUE(mi_heap_register_deferred_free(own, &RecordShared, shared.get()));
      Allocate(own, i % 2 == 0 ? 1000 : 0, 100);
      mi_free(block);
      last_here = 0;
      if (i % 3 == 0) {
        made[i % 2] = own;  // the thread ends before the heap
      } else if (i % 2 == 0) {
        mi_heap_destroy(own);
      } else {
        mi_heap_delete(own);
      }
      last_here = 0;
    });
    if (i % 3 == 0) mi_heap_destroy(made[i % 2]);
    last_here = 0;
    if (i == threads / 10) rss = ResidentBytes();
  }
  EXPECT_EQ(shared->leaked, 0);
  EXPECT_GE(shared->forced, 2 * threads);
  EXPECT_EQ(CountBlocks(kept), 0u);
  EXPECT_EQ(CountBlocks(mi_heap_main()), main_blocks);
  if (!kSanitized) {
    EXPECT_LT(ResidentBytes(), rss + 2 * kMiB);
  }
  mi_heap_destroy(kept);
}

TEST(HeapDeferredTest, AHeapMayEndWhileThreadsThatUsedItEnd) {
  for (int round = 0; round < Scaled(300); round++) {
    struct State {
      std::atomic<bool> ended{false};
      std::atomic<int> late{0};
    } state;
    mi_heap_t* heap = mi_heap_new();
    ASSERT_TRUE(mi_heap_register_deferred_free(
        heap,
        [](mi_heap_t* h, bool, unsigned long long, void* arg) {
          State* s = static_cast<State*>(arg);
          if (s->ended) s->late++;
          void* block = mi_heap_malloc(h, 50);
          for (int i = 0; i < 20; i++) sched_yield();
          mi_free(block);
          if (s->ended) s->late++;
        },
        &state));
    Barrier barrier(4);
    std::vector<std::thread> threads;
    for (int t = 0; t < 3; t++) {
      threads.emplace_back([&, t] {
        Allocate(heap, t == 0 ? 3000 : 3, 64);
        barrier.Arrive();
      });
    }
    barrier.Arrive();
    if (round % 3 == 0) mi_heap_reset(heap);
    if (round % 3 == 1) {
      mi_heap_delete(heap);
    } else {
      mi_heap_destroy(heap);
    }
    state.ended = true;
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(state.late, 0) << "a call after the end of the heap";
  }
  for (const Shown& left : BlocksOf(mi_heap_main())) mi_free(left.block);
}

std::atomic<int> mismatches{0};
std::atomic<int> pair_calls{0};
int expected_argument[4] = {0, 1, 2, 3};
template <int kWhich>
void ExpectOwnArgument(mi_heap_t*, bool, unsigned long long, void* arg) {
  pair_calls++;
  if (arg != &expected_argument[kWhich]) mismatches++;
}

TEST(HeapDeferredTest, AThreadThatJoinsManyHeapsWhileOneIsResetMakesTheLastCallForThatToo) {
  Calls calls, of_others;
  mi_heap_t* heap = NewHeap(&calls);
  std::vector<mi_heap_t*> others;
  Worker worker;
  worker.Run([&] { Allocate(heap, 1, 100); });
  std::function<void()> join = [&] {
    worker.Run([&] {
      for (int i = 0; i < 300; i++) {
        others.push_back(NewHeap(&of_others));
        Allocate(others.back(), 1, 100);
      }
    });
  };
  ASSERT_TRUE(mi_heap_on_destroy(
      heap, [](void* f) { (*static_cast<std::function<void()>*>(f))(); }, &join));
  mi_heap_reset(heap);
  worker.Run([&] { Allocate(heap, 1, 100); });
  const size_t before = calls.forced();
  worker.Exit();
  EXPECT_EQ(calls.forced(), before + 1);
  mi_heap_destroy(heap);
  for (mi_heap_t* other : others) mi_heap_destroy(other);
}

TEST(HeapDeferredTest, FunctionAndArgumentAreRegisteredAsOnePair) {
  mi_heap_t* heap = mi_heap_new();
  std::atomic<bool> done{false};
  std::thread registrar([&] {
    mi_heap_deferred_free_fun* const functions[] = {&ExpectOwnArgument<0>, &ExpectOwnArgument<1>, &ExpectOwnArgument<2>,
                                                    &ExpectOwnArgument<3>};
    for (int i = 0; !done; i++) {
      EXPECT_TRUE(
          mi_heap_register_deferred_free(heap, i % 5 == 4 ? nullptr : functions[i % 4], &expected_argument[i % 4]));
    }
  });
  InThreads(3, [&](int) {
    while (pair_calls < Scaled(1000)) {
      mi_heap_collect(heap, true);
      Allocate(heap, 10, 100);
    }
  });
  done = true;
  registrar.join();
  EXPECT_EQ(mismatches, 0);
  mi_heap_destroy(heap);
}

TEST(HeapDeferredTest, ThousandsOfHeapsOfOneThreadEachGetTheLastCallAtItsEnd) {
  std::vector<Calls> calls(5000);
  InThread([&] {
    for (Calls& one : calls) {
      NewHeap(&one);
      Allocate(one.heap, 3, 20);
    }
    // Those that ended are forgotten.
    for (int i = 0; i < 20000; i++) {
      Calls passing;
      mi_heap_destroy(NewHeap(&passing));
      ASSERT_EQ(passing.forced(), 1u);
    }
  });
  for (Calls& one : calls) {
    EXPECT_EQ(one.forced(), 1u);
    mi_heap_destroy(one.heap);
    EXPECT_EQ(one.forced(), 2u);
  }
}

int ForkedInACallback() {
  static std::atomic<bool> in_child{false};
  mi_heap_t* heap = mi_heap_new();
  mi_heap_register_deferred_free(
      heap,
      [](mi_heap_t*, bool force, unsigned long long, void*) {
        // At the end of a thread: the process forks meanwhile, and this call never ends in the child.
        static std::atomic<int> entered{0};
        if (force && !in_child && entered++ == 0) {
          const pid_t child = fork();
          if (child == 0) in_child = true;
          if (child > 0) {
            int status;
            waitpid(child, &status, 0);
            if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) _exit(3);
          }
        }
      },
      nullptr);
  InThread([&] {
    if (mi_heap_malloc(heap, 10) == nullptr) _exit(4);
  });
  if (in_child) return 0;
  mi_heap_destroy(heap);
  return 0;
}

TEST(HeapDeferredTest, ACallMayFork) {
  if (kSanitized) GTEST_SKIP() << "its threads do not survive a fork of a process with several";
  EXPECT_EQ(InChild(&ForkedInACallback), 0);
}

TEST(HeapDeferredTest, InTheChildOfAForkCallsOfThreadsThatAreGoneDoNotHoldUpTheEnd) {
  EXPECT_EQ(InChild([]() -> int {
              static std::atomic<bool> inside{false}, go_on{false};
              mi_heap_t* heap = mi_heap_new();
              mi_heap_register_deferred_free(
                  heap,
                  [](mi_heap_t*, bool force, unsigned long long, void* maker) {
                    if (!force || pthread_equal(pthread_self(), *static_cast<pthread_t*>(maker))) return;
                    inside = true;
                    while (!go_on) sched_yield();
                  },
                  new pthread_t(pthread_self()));
              std::thread thread([&] {
                if (mi_heap_malloc(heap, 10) == nullptr) _exit(2);
              });
              while (!inside) sched_yield();
              const pid_t child = fork();
              if (child == 0) {
                mi_heap_destroy(heap);  // must not wait for a thread that does not exist
                _exit(0);
              }
              int status;
              waitpid(child, &status, 0);
              go_on = true;
              thread.join();
              mi_heap_destroy(heap);
              return WIFEXITED(status) ? WEXITSTATUS(status) : 5;
            }),
            0);
}

}  // namespace
}  // namespace mi_test
