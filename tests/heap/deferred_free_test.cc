// The process-wide deferred free callback: when it is called and with what, that its heartbeat never runs backwards on
// a thread, what it may do, and that its registration is one pair. The callback's own state is thread-local or atomic:
// it runs on whatever thread allocates.
#include <sys/resource.h>

#include <atomic>
#include <cstddef>
#include <vector>

#include "gtest/gtest.h"
#include "mi/heap/heap.h"
#include "mi/mimalloc.h"
#include "tests/test_support.h"

namespace mi_test {
namespace {

struct PerThread {
  unsigned long long heartbeat = 0;
  int calls = 0;
  int forced = 0;
  int depth = 0;
};
thread_local PerThread this_thread;

struct Shared {
  std::atomic<int> calls{0};
  std::atomic<int> forced{0};
  std::atomic<int> backwards{0};
  std::atomic<int> nested{0};
};

void Count(bool force, unsigned long long heartbeat, void* arg) {
  Shared* shared = static_cast<Shared*>(arg);
  shared->calls++;
  this_thread.calls++;
  if (force) {
    shared->forced++;
    this_thread.forced++;
  }
  if (heartbeat < this_thread.heartbeat) shared->backwards++;
  this_thread.heartbeat = heartbeat;
}

class DeferredFreeTest : public ::testing::Test {
 protected:
  void SetUp() override { this_thread = PerThread(); }
  void TearDown() override {
    mi_register_deferred_free(nullptr, nullptr);
    EXPECT_EQ(shared_.backwards, 0) << "a heartbeat ran backwards";
    EXPECT_EQ(shared_.nested, 0);
  }
  Shared shared_;
};

// Allocates and frees so much that slow paths are inevitable.
void Churn(mi_heap_t* heap, int blocks, size_t size = 64) {
  std::vector<void*> all;
  for (int i = 0; i < blocks; i++) {
    all.push_back(mi_heap_malloc(heap, size));
    ASSERT_NE(all.back(), nullptr);
  }
  for (void* block : all) mi_free(block);
}

TEST_F(DeferredFreeTest, IsCalledAtLeastOncePerPageOfAllocations) {
  mi_register_deferred_free(&Count, &shared_);
  const int n = 100000;
  mi_heap_t* heap = mi_heap_new();
  ASSERT_NE(heap, nullptr);
  // Live blocks of 64 bytes: at most 1024 to a page of 64 KiB.
  for (int i = 0; i < n; i++) ASSERT_NE(mi_heap_malloc(heap, 64), nullptr);
  EXPECT_GE(shared_.calls, n / 1024);
  mi_heap_destroy(heap);
  // A steady state, one block out and one in, must not starve the callback either.
  int before = shared_.calls;
  for (int i = 0; i < n; i++) {
    void* block = mi_malloc(64);
    ASSERT_NE(block, nullptr);
    mi_free(block);
  }
  EXPECT_GE(shared_.calls - before, n / 1024 / 2);
  // Nor one that goes on in a page that never runs dry.
  void* blocks[300];
  for (void*& block : blocks) block = mi_malloc(64);
  before = shared_.calls;
  Random random(1);
  for (int i = 0; i < n; i++) {
    void*& block = blocks[random.Below(300)];
    mi_free(block);
    block = mi_malloc(64);
    ASSERT_NE(block, nullptr);
  }
  EXPECT_GE(shared_.calls - before, n / 1024);
  for (void* block : blocks) mi_free(block);
}

TEST_F(DeferredFreeTest, IsCalledWithForceOnCollect) {
  mi_register_deferred_free(&Count, &shared_);
  mi_collect(true);
  EXPECT_GE(this_thread.forced, 1);
  int forced = this_thread.forced;
  mi_heap_t* heap = mi_heap_new();
  ASSERT_NE(heap, nullptr);
  ASSERT_NE(mi_heap_malloc(heap, 10), nullptr);
  mi_heap_collect(heap, true);
  EXPECT_GT(this_thread.forced, forced);
  mi_heap_destroy(heap);
}

TEST_F(DeferredFreeTest, IsCalledWithForceAtThreadExitBeforeTheThreadsHeapGoes) {
  // The callback still finds the thread's deferred blocks, frees them, and allocates.
  static thread_local std::vector<void*>* deferred = nullptr;
  struct State : Shared {
    std::atomic<int> freed{0};
    std::atomic<int> allocated{0};
  } state;
  mi_register_deferred_free(
      [](bool force, unsigned long long, void* arg) {
        State* s = static_cast<State*>(arg);
        s->calls++;
        if (!force) return;
        s->forced++;
        if (deferred == nullptr) return;
        for (void* block : *deferred) {
          EXPECT_EQ(mi_heap_of(block), mi_heap_main());
          mi_free(block);
          s->freed++;
        }
        delete deferred;
        deferred = nullptr;
        for (size_t size : {10, 1000, 100000}) {
          void* block = mi_malloc(size);
          EXPECT_NE(block, nullptr);
          if (block != nullptr) s->allocated++;
          mi_free(block);
        }
      },
      &state);
  size_t before = CountBlocks(mi_heap_main());
  for (int i = 0; i < 50; i++) {
    InThread([] {
      deferred = new std::vector<void*>();
      for (int j = 0; j < 5; j++) deferred->push_back(mi_malloc(64 + j));
    });
    ASSERT_EQ(state.freed, 5 * (i + 1)) << "the callback did not run at thread exit";
    ASSERT_EQ(state.allocated, 3 * (i + 1));
  }
  mi_register_deferred_free(nullptr, nullptr);
  EXPECT_EQ(CountBlocks(mi_heap_main()), before);
}

TEST_F(DeferredFreeTest, TheHeartbeatNeverRunsBackwardsWhenHeapsAlternate) {
  mi_register_deferred_free(&Count, &shared_);
  std::vector<mi_heap_t*> heaps;
  for (int i = 0; i < 20; i++) heaps.push_back(mi_heap_new());
  unsigned long long first = 0;
  for (int round = 0; round < 300; round++) {
    mi_heap_t*& heap = heaps[round % 20];
    Churn(heap, 200, 16 + 32 * (round % 30));
    if (round % 7 == 0) {
      mi_heap_destroy(heap);
      heap = mi_heap_new();
    }
    if (round % 11 == 0) mi_heap_reset(heap);
    if (round % 13 == 0) mi_heap_set_default(heap);
    mi_free(mi_malloc(5000));
    if (round % 13 == 0) mi_heap_set_default(nullptr);
    if (round == 10) first = this_thread.heartbeat;
  }
  EXPECT_GT(this_thread.calls, 20);
  EXPECT_GT(this_thread.heartbeat, first) << "the heartbeat stands still";
  for (mi_heap_t* heap : heaps) mi_heap_destroy(heap);
}

TEST_F(DeferredFreeTest, EveryThreadHasAHeartbeatOfItsOwnWhichNeverRunsBackwards) {
  mi_register_deferred_free(&Count, &shared_);
  mi_heap_t* heap = mi_heap_new();
  ASSERT_NE(heap, nullptr);
  InThreads(4, [&](int t) {
    for (int round = 0; round < Scaled(60); round++) {
      mi_heap_t* own = mi_heap_new();
      Churn(own, 300);
      Churn(heap, 300, 16 + 8 * t);
      Churn(mi_heap_main(), 300);
      mi_heap_destroy(own);
    }
    EXPECT_GT(this_thread.calls, 0);
  });
  mi_heap_destroy(heap);
}

TEST_F(DeferredFreeTest, TheHeartbeatAdvancesWithTheSlowPathsThatAThreadTakes) {
  mi_register_deferred_free(&Count, &shared_);
  Churn(mi_heap_main(), 20000);
  unsigned long long first = this_thread.heartbeat;
  int calls = this_thread.calls;
  Churn(mi_heap_main(), 20000);
  EXPECT_GT(this_thread.calls, calls);
  EXPECT_GT(this_thread.heartbeat, first);
}

TEST_F(DeferredFreeTest, MayAllocateAndFreeAndIsNotCalledFromWithinItself) {
  struct State : Shared {
    mi_heap_t* heap;
    std::vector<void*> kept;
  } state;
  state.heap = mi_heap_new();
  ASSERT_NE(state.heap, nullptr);
  mi_register_deferred_free(
      [](bool, unsigned long long, void* arg) {
        State* s = static_cast<State*>(arg);
        s->calls++;
        if (this_thread.depth++ != 0) s->nested++;
        for (int i = 0; i < 50; i++) {
          void* block = mi_malloc(16 + i * 100);
          EXPECT_NE(block, nullptr);
          if (i % 10 == 0) {
            s->kept.push_back(mi_heap_malloc(s->heap, 100));
          }
          mi_free(block);
        }
        mi_free(mi_malloc(3 * kMiB));
        mi_collect(true);
        mi_heap_t* own = mi_heap_new();
        EXPECT_NE(mi_heap_malloc(own, 10000), nullptr);
        mi_heap_destroy(own);
        if (s->kept.size() > 100) {
          for (void* block : s->kept) mi_free(block);
          s->kept.clear();
        }
        this_thread.depth--;
      },
      &state);
  mi_heap_t* heap = mi_heap_new();
  ASSERT_NE(heap, nullptr);
  std::vector<std::pair<void*, size_t>> blocks;
  for (int i = 0; i < 20000; i++) {
    size_t size = 16 + i % 300;
    mi_heap_t* where = i % 3 == 0 ? heap : i % 3 == 1 ? mi_heap_main() : state.heap;
    blocks.emplace_back(mi_heap_malloc(where, size), size);
    Fill(blocks.back().first, size, i);
  }
  mi_register_deferred_free(nullptr, nullptr);
  EXPECT_GT(state.calls, 10);
  EXPECT_EQ(state.nested, 0);
  for (size_t i = 0; i < blocks.size(); i++) {
    ASSERT_TRUE(Holds(blocks[i].first, blocks[i].second, i));
    mi_free(blocks[i].first);
  }
  for (void* block : state.kept) mi_free(block);
  EXPECT_EQ(CountBlocks(heap), 0u);
  EXPECT_EQ(CountBlocks(state.heap), 0u);
  mi_heap_destroy(heap);
  mi_heap_destroy(state.heap);
}

TEST_F(DeferredFreeTest, MayFreeBlocksOfTheClassThatIsBeingAllocated) {
  // Deferred reference counting: dropped blocks are queued, and the callback frees a bounded number of them.
  struct State : Shared {
    std::vector<void*> queue;
  } state;
  mi_register_deferred_free(
      [](bool, unsigned long long, void* arg) {
        State* s = static_cast<State*>(arg);
        s->calls++;
        for (int i = 0; i < 1000 && !s->queue.empty(); i++) {
          mi_free(s->queue.back());
          s->queue.pop_back();
        }
      },
      &state);
  mi_heap_t* heap = mi_heap_new();
  ASSERT_NE(heap, nullptr);
  size_t most = 0;
  for (int i = 0; i < 300000; i++) {
    void* block = mi_heap_malloc(heap, 48);
    ASSERT_NE(block, nullptr);
    memset(block, i, 48);
    state.queue.push_back(block);
    most = std::max(most, state.queue.size());
  }
  EXPECT_LT(most, 100000u) << "the callback is called too seldom to keep up";
  mi_register_deferred_free(nullptr, nullptr);
  EXPECT_EQ(CountBlocks(heap), state.queue.size());
  mi_heap_destroy(heap);
}

TEST_F(DeferredFreeTest, MayDestroyAHeapOtherThanTheOneThatAllocates) {
  struct State : Shared {
    std::vector<mi_heap_t*> doomed;
  } state;
  mi_register_deferred_free(
      [](bool, unsigned long long, void* arg) {
        State* s = static_cast<State*>(arg);
        s->calls++;
        if (!s->doomed.empty()) {
          mi_heap_destroy(s->doomed.back());
          s->doomed.pop_back();
        }
      },
      &state);
  mi_heap_t* heap = mi_heap_new();
  ASSERT_NE(heap, nullptr);
  for (int i = 0; i < 50; i++) {
    mi_heap_t* doomed = mi_heap_new();
    for (int j = 0; j < 500; j++) ASSERT_NE(mi_heap_malloc(doomed, 64), nullptr);
    state.doomed.push_back(doomed);
    Churn(heap, 3000, 64);
  }
  mi_register_deferred_free(nullptr, nullptr);
  EXPECT_LT(state.doomed.size(), 10u);
  EXPECT_EQ(CountBlocks(heap), 0u);
  for (mi_heap_t* doomed : state.doomed) mi_heap_destroy(doomed);
  mi_heap_destroy(heap);
}

TEST_F(DeferredFreeTest, MayChangeTheDefaultHeapAndRegisterAnother) {
  struct State : Shared {
    mi_heap_t* heap;
    Shared second;
  } state;
  state.heap = mi_heap_new();
  mi_register_deferred_free(
      [](bool, unsigned long long, void* arg) {
        State* s = static_cast<State*>(arg);
        s->calls++;
        mi_heap_set_default(s->heap);
        mi_register_deferred_free(&Count, &s->second);
      },
      &state);
  for (int i = 0; i < 20000 && state.calls == 0; i++) ASSERT_NE(mi_malloc(64), nullptr);
  EXPECT_EQ(state.calls, 1);
  EXPECT_EQ(mi_heap_get_default(), state.heap);
  for (int i = 0; i < 20000; i++) ASSERT_NE(mi_malloc(64), nullptr);
  EXPECT_EQ(state.calls, 1);
  EXPECT_GT(state.second.calls, 0);
  mi_register_deferred_free(nullptr, nullptr);
  mi_heap_destroy(state.heap);
  // What was allocated in the main heap before the callback ran stays allocated: it belongs to this test only.
  std::vector<Shown> left = BlocksOf(mi_heap_main());
  for (const Shown& shown : left) mi_free(shown.block);
  EXPECT_EQ(CountBlocks(mi_heap_main()), 0u);
}

TEST_F(DeferredFreeTest, IsNotCalledOnceTakenAway) {
  mi_register_deferred_free(&Count, &shared_);
  Churn(mi_heap_main(), 5000);
  mi_register_deferred_free(nullptr, nullptr);
  int calls = shared_.calls;
  Churn(mi_heap_main(), 50000);
  mi_collect(true);
  InThread([] { Churn(mi_heap_main(), 1000); });
  EXPECT_EQ(shared_.calls, calls);
}

// Function i expects argument i: a mix of two registrations would be noticed.
std::atomic<int> mismatches{0};
std::atomic<int> pair_calls{0};
int expected_argument[4] = {0, 1, 2, 3};
template <int kWhich>
void ExpectOwnArgument(bool, unsigned long long, void* arg) {
  pair_calls++;
  if (arg != &expected_argument[kWhich]) mismatches++;
}

TEST_F(DeferredFreeTest, FunctionAndArgumentAreRegisteredAsOnePair) {
  mi_register_deferred_free(&ExpectOwnArgument<0>, &expected_argument[0]);
  std::atomic<bool> done{false};
  std::thread registrar([&] {
    mi_deferred_free_fun* const functions[] = {&ExpectOwnArgument<0>, &ExpectOwnArgument<1>, &ExpectOwnArgument<2>,
                                               &ExpectOwnArgument<3>};
    for (int i = 0; !done; i++) mi_register_deferred_free(functions[i % 4], &expected_argument[i % 4]);
  });
  InThreads(3, [&](int) {
    for (int i = 0; i < Scaled(20000); i++) mi_collect(i % 2 == 0);
  });
  done = true;
  registrar.join();
  EXPECT_GT(pair_calls, 0);
  EXPECT_EQ(mismatches, 0);
}

TEST_F(DeferredFreeTest, IsCalledBeforeAnAllocationFails) {
  mi_register_deferred_free(&Count, &shared_);
  for (int i = 0; i < 5; i++) {
    int calls = this_thread.calls;
    errno = 0;
    EXPECT_EQ(mi_malloc(Opaque(size_t{1} << 60)), nullptr);
    EXPECT_EQ(errno, ENOMEM);
    EXPECT_GT(this_thread.calls, calls);
    calls = this_thread.calls;
    mi_heap_t* heap = mi_heap_new();
    EXPECT_EQ(mi_heap_malloc(heap, Opaque(size_t{1} << 60)), nullptr);
    EXPECT_GT(this_thread.calls, calls);
    mi_heap_destroy(heap);
  }
}

// In a process whose address space is exhausted: what the callback frees is used before the allocation fails.
int RescueByTheCallback() {
  rlimit limit;
  limit.rlim_cur = limit.rlim_max = AddressSpaceBytes() + 256 * kMiB;
  if (setrlimit(RLIMIT_AS, &limit) != 0) return 2;
  static std::vector<void*> hoard;
  hoard.reserve(1 << 20);
  // Without a callback, until nothing of any size can be had.
  for (size_t size : {64 * kMiB, 3 * kMiB}) {
    for (;;) {
      errno = 0;
      void* block = mi_malloc(size);
      if (block == nullptr) break;
      hoard.push_back(block);
      if (hoard.size() == (1 << 20)) return 3;
    }
    if (errno != ENOMEM) return 4;
  }
  if (mi_malloc(3 * kMiB) != nullptr) return 5;
  mi_register_deferred_free(
      [](bool, unsigned long long, void*) {
        if (hoard.empty()) return;
        mi_free(hoard.back());
        hoard.pop_back();
      },
      nullptr);
  size_t hoarded = hoard.size();
  void* block = mi_malloc(3 * kMiB);
  if (block == nullptr) return 6;
  if (hoard.size() == hoarded) return 7;
  memset(block, 1, 3 * kMiB);
  mi_free(block);
  // And the process goes on.
  mi_register_deferred_free(nullptr, nullptr);
  while (!hoard.empty()) {
    mi_free(hoard.back());
    hoard.pop_back();
  }
  block = mi_malloc(64 * kMiB);
  if (block == nullptr) return 8;
  mi_free(block);
  return 0;
}

TEST_F(DeferredFreeTest, WhatItFreesSavesAnAllocationThatWouldHaveFailed) {
  if (kSanitized) GTEST_SKIP() << "the sanitizer needs the address space for itself";
  EXPECT_EQ(InChild(&RescueByTheCallback), 0);
}

}  // namespace
}  // namespace mi_test
