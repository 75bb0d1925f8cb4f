// The lives of heaps and threads against each other: heaps made, used and ended on different threads in every order,
// threads that end while their heaps live and the other way round, handles that are used again at the same address,
// default heaps ended by others, and survivors of deleted heaps freed anywhere, at the same moment and later.
#include <atomic>
#include <cstddef>
#include <memory>
#include <set>
#include <vector>

#include "gtest/gtest.h"
#include "mi/heap/heap.h"
#include "mi/mimalloc.h"
#include "tests/test_support.h"

namespace mi_test {
namespace {

struct Block {
  void* at;
  size_t size;
  uint64_t seed;
};

// Allocates `n` blocks in `heap`, of sizes that make some classes move to pages and others not.
void AllocateSome(mi_heap_t* heap, int n, uint64_t seed, std::vector<Block>* blocks) {
  for (int i = 0; i < n; i++) {
    size_t size = i % 50 == 49 ? 20000 : i % 200 == 199 ? 300000 : i % 3 == 0 ? 64 : 16 + (i * 37) % 600;
    void* at = mi_heap_malloc(heap, size);
    ASSERT_NE(at, nullptr);
    uint64_t s = Mix(seed + i);
    Fill(at, size, s);
    blocks->push_back({at, size, s});
  }
}

void CheckAndFree(const std::vector<Block>& blocks, size_t first, size_t step) {
  for (size_t i = first; i < blocks.size(); i += step) {
    ASSERT_TRUE(Holds(blocks[i].at, blocks[i].size, blocks[i].seed));
    mi_free(blocks[i].at);
  }
}

::testing::AssertionResult AllHold(const std::vector<Block>& blocks) {
  for (const Block& block : blocks) {
    auto result = Holds(block.at, block.size, block.seed);
    if (!result) return result;
  }
  return ::testing::AssertionSuccess();
}

// A fresh heap at the address of `former`, which was just ended; nullptr if that address does not come back.
mi_heap_t* NewHeapAt(mi_heap_t* former) {
  std::vector<mi_heap_t*> others;
  mi_heap_t* found = nullptr;
  for (int i = 0; i < 2000 && found == nullptr; i++) {
    mi_heap_t* heap = mi_heap_new();
    if (heap == former) {
      found = heap;
    } else {
      others.push_back(heap);
    }
  }
  for (mi_heap_t* heap : others) mi_heap_destroy(heap);
  return found;
}

enum class End { kDestroy, kDelete, kMerge, kReset };

// ---- who makes, who uses, who ends ----------------------------------------------------------------------

// A heap is made on thread `maker`, used on `first` and `second`, and ended on `ender`, where each is one of three
// threads; the uses free blocks of each other.
void RunPermutation(Worker* worker, int maker, int first, int second, int ender, End end, int n) {
  mi_heap_t* heap = nullptr;
  mi_heap_t* into = mi_heap_new();
  ASSERT_NE(into, nullptr);
  std::vector<Block> a, b;
  worker[maker].Run([&] { heap = mi_heap_new(); });
  ASSERT_NE(heap, nullptr);
  worker[first].Run([&] { AllocateSome(heap, n, 1, &a); });
  worker[second].Run([&] {
    CheckAndFree(a, 0, 2);
    AllocateSome(heap, n, 2, &b);
  });
  worker[first].Run([&] {
    CheckAndFree(b, 0, 3);
    AllocateSome(heap, n / 2, 3, &a);
  });
  std::vector<Block> live;
  for (size_t i = 0; i < a.size(); i++) {
    if (i >= static_cast<size_t>(n) || i % 2 != 0) live.push_back(a[i]);
  }
  for (size_t i = 0; i < b.size(); i++) {
    if (i % 3 != 0) live.push_back(b[i]);
  }
  ASSERT_TRUE(AllHold(live));
  worker[ender].Run([&] {
    switch (end) {
      case End::kDestroy:
        mi_heap_destroy(heap);
        break;
      case End::kDelete:
        mi_heap_delete(heap);
        break;
      case End::kMerge:
        mi_heap_merge(heap, into);
        break;
      case End::kReset:
        mi_heap_reset(heap);
        ASSERT_EQ(CountBlocks(heap), 0u);
        break;
    }
  });
  switch (end) {
    case End::kDestroy:
      break;
    case End::kDelete:
      ASSERT_TRUE(AllHold(live));
      ASSERT_EQ(mi_heap_of(live.back().at), mi_heap_main());
      worker[second].Run([&] { CheckAndFree(live, 0, 2); });
      CheckAndFree(live, 1, 2);
      break;
    case End::kMerge:
      ASSERT_TRUE(AllHold(live));
      ASSERT_EQ(mi_heap_of(live.back().at), into);
      worker[second].Run([&] { CheckAndFree(live, 0, 2); });
      worker[first].Run([&] { ASSERT_NE(mi_heap_malloc(into, 64), nullptr); });
      ASSERT_EQ(CountBlocks(into), live.size() / 2 + 1);
      break;
    case End::kReset: {
      a.clear();
      worker[second].Run([&] { AllocateSome(heap, n, 4, &a); });
      ASSERT_TRUE(AllHold(a));
      ASSERT_EQ(CountBlocks(heap), a.size());
      worker[maker].Run([&] { mi_heap_destroy(heap); });
      break;
    }
  }
  mi_heap_destroy(into);
}

class PermutationTest : public ::testing::TestWithParam<End> {};

TEST_P(PermutationTest, HeapsAreMadeUsedAndEndedOnAnyThreads) {
  Worker worker[3];
  size_t before = CountBlocks(mi_heap_main());
  for (int n : {4, 60, 700}) {
    for (int code = 0; code < 81; code++) {
      if (kSanitized && n == 700 && code % 4 != 0) continue;
      SCOPED_TRACE(testing::Message() << n << " blocks, permutation " << code);
      RunPermutation(worker, code % 3, code / 3 % 3, code / 9 % 3, code / 27, GetParam(), n);
      if (HasFatalFailure()) return;
    }
  }
  for (Worker& w : worker) w.Exit();
  EXPECT_EQ(CountBlocks(mi_heap_main()), before) << "blocks were lost";
}

TEST_P(PermutationTest, TheSameWithThreadsThatEndAfterEveryStep) {
  size_t before = CountBlocks(mi_heap_main());
  for (int round = 0; round < Scaled(150); round++) {
    mi_heap_t* heap = nullptr;
    mi_heap_t* into = mi_heap_new();
    std::vector<Block> a, b;
    const int n = round % 3 == 0 ? 500 : 30;
    InThread([&] { heap = mi_heap_new(); });
    InThread([&] { AllocateSome(heap, n, 1, &a); });
    InThread([&] {
      CheckAndFree(a, 0, 2);
      AllocateSome(heap, n, 2, &b);
    });
    InThread([&] {
      switch (GetParam()) {
        case End::kDestroy:
          mi_heap_destroy(heap);
          break;
        case End::kDelete:
          mi_heap_delete(heap);
          break;
        case End::kMerge:
          mi_heap_merge(heap, into);
          break;
        case End::kReset:
          mi_heap_reset(heap);
          break;
      }
    });
    switch (GetParam()) {
      case End::kDestroy:
        break;
      case End::kDelete:
        InThread([&] { CheckAndFree(a, 1, 2); });
        InThread([&] { CheckAndFree(b, 0, 1); });
        break;
      case End::kMerge:
        InThread([&] { CheckAndFree(a, 1, 2); });
        ASSERT_TRUE(AllHold(b));
        ASSERT_EQ(CountBlocks(into), b.size());
        break;
      case End::kReset:
        b.clear();
        InThread([&] { AllocateSome(heap, n, 5, &b); });
        ASSERT_TRUE(AllHold(b));
        ASSERT_EQ(CountBlocks(heap), b.size());
        InThread([&] { mi_heap_destroy(heap); });
        break;
    }
    mi_heap_destroy(into);
  }
  EXPECT_EQ(CountBlocks(mi_heap_main()), before) << "blocks were lost";
}

std::string NameOf(const ::testing::TestParamInfo<End>& info) {
  switch (info.param) {
    case End::kDestroy:
      return "Destroy";
    case End::kDelete:
      return "Delete";
    case End::kMerge:
      return "Merge";
    default:
      return "Reset";
  }
}

INSTANTIATE_TEST_SUITE_P(Ends, PermutationTest,
                         ::testing::Values(End::kDestroy, End::kDelete, End::kMerge, End::kReset), NameOf);

// ---- ending against exits and collects ------------------------------------------------------------------

TEST(LifecycleTest, DestroyWhileAThreadThatUsedTheHeapExits) {
  for (int round = 0; round < Scaled(1500, 50000); round++) {
    mi_heap_t* heap = mi_heap_new();
    ASSERT_NE(heap, nullptr);
    const int n = round % 5 == 0 ? 600 : 10;
    std::vector<Block> mine;
    AllocateSome(heap, round % 2 == 0 ? n : 0, 1, &mine);
    SpinMeeting meeting(2);
    std::thread user([&] {
      std::vector<Block> blocks;
      AllocateSome(heap, n, 2, &blocks);
      void* own = mi_malloc(100);
      meeting.Meet();
      mi_free(own);
    });
    meeting.Meet();
    mi_heap_destroy(heap);
    user.join();
  }
}

TEST(LifecycleTest, DestroyWhileAThreadThatUsedTheHeapCollectsAndAllocatesElsewhere) {
  Worker user;
  for (int round = 0; round < Scaled(3000, 100000); round++) {
    mi_heap_t* heap = mi_heap_new();
    ASSERT_NE(heap, nullptr);
    const int n = round % 5 == 0 ? 600 : 10;
    SpinMeeting meeting(2);
    user.Start([&] {
      std::vector<Block> blocks;
      AllocateSome(heap, n, 2, &blocks);
      mi_heap_t* own = mi_heap_new();
      meeting.Meet();
      mi_collect(true);
      blocks.clear();
      AllocateSome(own, n, 3, &blocks);
      mi_heap_collect(own, true);
      EXPECT_TRUE(AllHold(blocks));
      mi_heap_destroy(own);
    });
    meeting.Meet();
    mi_heap_destroy(heap);
    user.Wait();
  }
}

TEST(LifecycleTest, DeleteWhileThreadsThatUsedTheHeapExitAndFreeItsBlocks) {
  size_t before = CountBlocks(mi_heap_main());
  for (int round = 0; round < Scaled(1000, 50000); round++) {
    mi_heap_t* heap = mi_heap_new();
    ASSERT_NE(heap, nullptr);
    const int n = round % 5 == 0 ? 600 : 20;
    std::vector<Block> made_here, made_there;
    AllocateSome(heap, n, 1, &made_here);
    SpinMeeting meeting(3);
    std::atomic<bool> ready{false};
    std::thread user([&] {
      AllocateSome(heap, n, 2, &made_there);
      ready = true;
      meeting.Meet();
      CheckAndFree(made_here, 0, 2);
    });
    while (!ready) std::this_thread::yield();
    std::thread freer([&] {
      meeting.Meet();
      CheckAndFree(made_there, 0, 2);
    });
    meeting.Meet();
    mi_heap_delete(heap);
    CheckAndFree(made_here, 1, 4);
    user.join();
    freer.join();
    CheckAndFree(made_here, 3, 4);
    CheckAndFree(made_there, 1, 2);
  }
  EXPECT_EQ(CountBlocks(mi_heap_main()), before) << "blocks were lost";
}

TEST(LifecycleTest, CollectFromAnyThreadWhileOthersUseTheHeap) {
  mi_heap_t* heap = mi_heap_new();
  ASSERT_NE(heap, nullptr);
  std::atomic<bool> done{false};
  std::thread collector([&] {
    while (!done) {
      mi_heap_collect(heap, true);
      mi_heap_collect(heap, false);
      mi_collect(true);
    }
  });
  InThreads(3, [&](int t) {
    Random random(t);
    std::vector<Block> blocks;
    for (int round = 0; round < Scaled(100); round++) {
      AllocateSome(heap, 200, round, &blocks);
      CheckAndFree(blocks, 0, 1);
      blocks.clear();
    }
  });
  done = true;
  collector.join();
  EXPECT_EQ(CountBlocks(heap), 0u);
  mi_heap_destroy(heap);
}

// ---- heaps that outlive their threads -------------------------------------------------------------------

TEST(LifecycleTest, AThreadExitsWithLiveHeapsWhichOthersUseAndFreeLater) {
  std::vector<mi_heap_t*> heaps;
  std::vector<std::vector<Block>> blocks;
  for (int t = 0; t < 20; t++) {
    InThread([&] {
      for (int i = 0; i < 10; i++) {
        heaps.push_back(mi_heap_new());
        blocks.emplace_back();
        AllocateSome(heaps.back(), 10 + 100 * (i % 3), i, &blocks.back());
      }
      // One is the default of the thread that exits.
      mi_heap_set_default(heaps.back());
      ASSERT_NE(mi_malloc(100), nullptr);
    });
  }
  for (size_t i = 0; i < heaps.size(); i++) {
    ASSERT_TRUE(AllHold(blocks[i]));
    AllocateSome(heaps[i], 50, 99, &blocks[i]);
    if (i % 2 == 0) {
      InThread([&] { CheckAndFree(blocks[i], 0, 2); });
    } else {
      CheckAndFree(blocks[i], 0, 2);
    }
    if (i % 3 == 0) {
      InThread([&] { mi_heap_destroy(heaps[i]); });
    } else {
      mi_heap_destroy(heaps[i]);
    }
  }
}

TEST(LifecycleTest, ParkedHeapsKeepTheirBlocksWhileThreadsComeAndGo) {
  // Heaps are used, parked while much else happens, and taken up again by whoever comes first, many times.
  constexpr int kHeaps = 40;
  std::vector<mi_heap_t*> heaps(kHeaps);
  std::vector<std::vector<Block>> blocks(kHeaps);
  for (mi_heap_t*& heap : heaps) {
    heap = mi_heap_new();
    ASSERT_NE(heap, nullptr);
  }
  Worker resident[2];
  Random random(17);
  for (int step = 0; step < Scaled(2000, 50000); step++) {
    size_t h = random.Below(kHeaps);
    uint64_t seed = random.Next();
    auto use = [&] {
      AllocateSome(heaps[h], 1 + seed % 40, seed, &blocks[h]);
      while (blocks[h].size() > 400 || (!blocks[h].empty() && Mix(seed++) % 3 != 0)) {
        size_t i = Mix(seed) % blocks[h].size();
        ASSERT_TRUE(Holds(blocks[h][i].at, blocks[h][i].size, blocks[h][i].seed));
        mi_free(blocks[h][i].at);
        blocks[h][i] = blocks[h].back();
        blocks[h].pop_back();
      }
    };
    switch (random.Below(4)) {
      case 0:
        use();
        break;
      case 1:
        InThread(use);
        break;
      default:
        resident[random.Below(2)].Run(use);
        break;
    }
    if (step % 100 == 99) {
      ASSERT_TRUE(AllHold(blocks[h]));
      ASSERT_EQ(CountBlocks(heaps[h]), blocks[h].size());
    }
    if (random.OneIn(50)) {
      mi_heap_destroy(heaps[h]);
      blocks[h].clear();
      InThread([&] { heaps[h] = mi_heap_new(); });
    }
  }
  for (int h = 0; h < kHeaps; h++) {
    ASSERT_TRUE(AllHold(blocks[h]));
    mi_heap_destroy(heaps[h]);
  }
}

// ---- handles at the same address ------------------------------------------------------------------------

TEST(HandleReuseTest, WhatAThreadRememberedOfADestroyedHeapDoesNotServeTheNextAtItsAddress) {
  Worker other;
  int reused = 0;
  for (int round = 0; round < Scaled(500); round++) {
    mi_heap_t* former = mi_heap_new();
    ASSERT_NE(former, nullptr);
    const int n = round % 4 == 0 ? 500 : 5;
    std::vector<Block> blocks;
    // Both threads use the heap and so remember it.
    other.Run([&] { AllocateSome(former, n, 1, &blocks); });
    AllocateSome(former, n, 2, &blocks);
    mi_heap_destroy(former);
    mi_heap_t* heap = NewHeapAt(former);
    if (heap == nullptr) continue;
    reused++;
    blocks.clear();
    other.Run([&] { AllocateSome(heap, 5, 3, &blocks); });
    AllocateSome(heap, 5, 4, &blocks);
    std::vector<void*> expected;
    for (const Block& block : blocks) {
      ASSERT_EQ(mi_heap_of(block.at), heap);
      expected.push_back(block.at);
    }
    ASSERT_TRUE(ShowsExactly(heap, expected));
    ASSERT_TRUE(AllHold(blocks));
    mi_heap_destroy(heap);
  }
  EXPECT_GT(reused, 0) << "no address came back: the test showed nothing";
}

TEST(HandleReuseTest, ADefaultHeapThatWasDestroyedIsNotRevivedByANewHeapAtItsAddress) {
  int reused = 0;
  for (int round = 0; round < Scaled(300); round++) {
    Worker other;
    mi_heap_t* former = mi_heap_new();
    ASSERT_NE(former, nullptr);
    other.Run([&] {
      mi_heap_set_default(former);
      for (int i = 0; i < (round % 2 == 0 ? 3 : 1000); i++) {
        void* block = mi_malloc(64);
        ASSERT_EQ(mi_heap_of(block), former);
      }
    });
    mi_heap_destroy(former);
    mi_heap_t* heap = NewHeapAt(former);
    if (heap == nullptr) continue;
    reused++;
    void* here = mi_heap_malloc(heap, 64);
    other.Run([&] {
      void* block = mi_malloc(64);
      ASSERT_NE(block, nullptr);
      EXPECT_EQ(mi_heap_of(block), mi_heap_main());
      EXPECT_EQ(mi_heap_get_default(), mi_heap_main());
      mi_free(block);
    });
    EXPECT_TRUE(ShowsExactly(heap, {here}));
    mi_heap_destroy(heap);
  }
  EXPECT_GT(reused, 0) << "no address came back: the test showed nothing";
}

// ---- default heaps --------------------------------------------------------------------------------------

TEST(DefaultAcrossThreadsTest, AThreadWhoseDefaultAnotherDestroysFallsBackToTheMainHeap) {
  Worker other;
  for (int round = 0; round < Scaled(500); round++) {
    mi_heap_t* heap = mi_heap_new();
    ASSERT_NE(heap, nullptr);
    const int n = round % 3 == 0 ? 2000 : 3;
    other.Run([&] {
      mi_heap_set_default(heap);
      for (int i = 0; i < n; i++) ASSERT_EQ(mi_heap_of(mi_malloc(64)), heap);
    });
    mi_heap_destroy(heap);
    other.Run([&] {
      // Every way in.
      void* block = round % 4 == 0   ? mi_malloc(64)
                    : round % 4 == 1 ? mi_zalloc(5000)
                    : round % 4 == 2 ? mi_malloc_small(64)
                                     : mi_malloc_aligned(64, 256);
      ASSERT_NE(block, nullptr);
      ASSERT_EQ(mi_heap_of(block), mi_heap_main());
      ASSERT_EQ(mi_heap_get_default(), mi_heap_main());
      mi_free(block);
    });
  }
}

TEST(DefaultAcrossThreadsTest, AThreadThatExitsAfterItsDefaultWasDestroyedLeavesNothingBehind) {
  for (int round = 0; round < Scaled(500); round++) {
    mi_heap_t* heap = mi_heap_new();
    ASSERT_NE(heap, nullptr);
    Worker other;
    other.Run([&] {
      mi_heap_set_default(heap);
      for (int i = 0; i < (round % 2 == 0 ? 3 : 1000); i++) ASSERT_NE(mi_malloc(64), nullptr);
    });
    if (round % 3 == 0) {
      // At the same moment.
      SpinMeeting meeting(2);
      other.Start([&] { meeting.Meet(); });
      meeting.Meet();
      mi_heap_destroy(heap);
      other.Exit();
    } else {
      mi_heap_destroy(heap);
      other.Exit();
    }
    mi_heap_t* next = mi_heap_new();
    ASSERT_EQ(CountBlocks(next), 0u);
    mi_heap_destroy(next);
  }
}

TEST(DefaultAcrossThreadsTest, OneHeapMayBeTheDefaultOfManyThreads) {
  mi_heap_t* heap = mi_heap_new();
  ASSERT_NE(heap, nullptr);
  std::mutex mutex;
  std::vector<void*> all;
  Worker worker[4];
  for (Worker& w : worker) {
    w.Start([&] {
      mi_heap_set_default(heap);
      for (int i = 0; i < 1000; i++) {
        void* block = mi_malloc(16 + i % 500);
        std::lock_guard<std::mutex> lock(mutex);
        all.push_back(block);
      }
    });
  }
  for (Worker& w : worker) w.Wait();
  EXPECT_TRUE(ShowsExactly(heap, all));
  mi_heap_destroy(heap);
  for (Worker& w : worker) {
    w.Run([&] {
      void* block = mi_malloc(32);
      EXPECT_EQ(mi_heap_of(block), mi_heap_main());
      mi_free(block);
    });
  }
}

// ---- survivors ------------------------------------------------------------------------------------------

TEST(SurvivorTest, OfADeletedHeapAreFreedByOtherThreadsAtTheSameMoment) {
  size_t before = CountBlocks(mi_heap_main());
  Worker freer[2];
  for (int round = 0; round < Scaled(1000, 50000); round++) {
    mi_heap_t* heap = mi_heap_new();
    ASSERT_NE(heap, nullptr);
    std::vector<Block> blocks;
    AllocateSome(heap, round % 4 == 0 ? 1000 : 30, round, &blocks);
    SpinMeeting meeting(3);
    for (int i = 0; i < 2; i++) {
      freer[i].Start([&, i] {
        meeting.Meet();
        CheckAndFree(blocks, i, 3);
      });
    }
    meeting.Meet();
    if (round % 2 == 0) {
      mi_heap_delete(heap);
    } else {
      mi_heap_merge(heap, nullptr);
    }
    CheckAndFree(blocks, 2, 3);
    for (Worker& f : freer) f.Wait();
  }
  EXPECT_EQ(CountBlocks(mi_heap_main()), before) << "blocks were lost";
}

TEST(SurvivorTest, MadeByManyThreadsAreFreedByOthersAfterAllOfThemExited) {
  size_t before = CountBlocks(mi_heap_main());
  for (int round = 0; round < Scaled(20); round++) {
    mi_heap_t* heap = mi_heap_new();
    ASSERT_NE(heap, nullptr);
    constexpr int kThreads = 6;
    std::vector<Block> blocks[kThreads];
    InThreads(kThreads, [&](int t) { AllocateSome(heap, 10 << t, t, &blocks[t]); });
    std::vector<Block> alive_part;
    Worker alive;
    alive.Run([&] { AllocateSome(heap, 300, 77, &alive_part); });
    InThread([&] { mi_heap_delete(heap); });
    for (auto& part : blocks) {
      ASSERT_TRUE(AllHold(part));
      ASSERT_EQ(mi_heap_of(part[0].at), mi_heap_main());
    }
    ASSERT_EQ(mi_heap_of(alive_part[0].at), mi_heap_main());
    InThreads(kThreads, [&](int t) {
      CheckAndFree(blocks[t], 0, 2);
      CheckAndFree(blocks[(t + 1) % kThreads], 1, 2);
    });
    CheckAndFree(alive_part, 0, 2);
    alive.Run([&] { CheckAndFree(alive_part, 1, 2); });
  }
  EXPECT_EQ(CountBlocks(mi_heap_main()), before) << "blocks were lost";
}

TEST(SurvivorTest, MergedIntoAHeapThatIsDestroyedLaterAreGoneWithIt) {
  Worker idle;
  for (int round = 0; round < Scaled(300); round++) {
    mi_heap_t* into = mi_heap_new();
    ASSERT_NE(into, nullptr);
    std::vector<Block> blocks;
    for (int i = 0; i < 5; i++) {
      mi_heap_t* heap = mi_heap_new();
      ASSERT_NE(heap, nullptr);
      AllocateSome(heap, i * 40, i, &blocks);
      // A thread that stays idle until after the destroy owns a part of every heap.
      idle.Run([&] { AllocateSome(heap, i * 20, 10 + i, &blocks); });
      InThread([&] { AllocateSome(heap, 10, 20 + i, &blocks); });
      mi_heap_merge(heap, into);
    }
    for (const Block& block : blocks) ASSERT_EQ(mi_heap_of(block.at), into);
    ASSERT_TRUE(AllHold(blocks));
    CheckAndFree(blocks, 0, 2);
    ASSERT_EQ(CountBlocks(into), blocks.size() / 2);
    InThread([&] { mi_heap_destroy(into); });
    if (round % 2 == 0) {
      idle.Run([&] {
        mi_heap_t* heap = mi_heap_new();
        std::vector<Block> more;
        AllocateSome(heap, 100, 5, &more);
        EXPECT_TRUE(AllHold(more));
        mi_heap_destroy(heap);
        mi_collect(true);
      });
    }
  }
}

TEST(SurvivorTest, ChainsOfMergesAcrossThreadsEndInTheLastHeap) {
  Worker worker[3];
  for (int round = 0; round < Scaled(200); round++) {
    std::vector<mi_heap_t*> heaps;
    std::vector<Block> blocks;
    for (int i = 0; i < 6; i++) {
      heaps.push_back(mi_heap_new());
      worker[i % 3].Run([&] { AllocateSome(heaps[i], 30, i, &blocks); });
      worker[(i + 1) % 3].Run([&] { AllocateSome(heaps[i], 30, i + 50, &blocks); });
    }
    // Either from the front or from the back.
    for (int i = 0; i < 5; i++) {
      int from = round % 2 == 0 ? i : 4 - i;
      worker[(round + i) % 3].Run([&] { mi_heap_merge(heaps[from], heaps[from + 1]); });
    }
    ASSERT_TRUE(AllHold(blocks));
    for (const Block& block : blocks) ASSERT_EQ(mi_heap_of(block.at), heaps[5]);
    worker[0].Run([&] { CheckAndFree(blocks, 0, 2); });
    ASSERT_EQ(CountBlocks(heaps[5]), blocks.size() / 2);
    if (round % 3 == 0) {
      mi_heap_delete(heaps[5]);
      CheckAndFree(blocks, 1, 2);
    } else {
      worker[2].Run([&] { mi_heap_destroy(heaps[5]); });
    }
  }
}

TEST(SurvivorTest, ManyHeapsMergedIntoOneAtOnceWhileItIsInUse) {
  for (int round = 0; round < Scaled(100, 5000); round++) {
    mi_heap_t* into = mi_heap_new();
    ASSERT_NE(into, nullptr);
    constexpr int kThreads = 4;
    std::vector<Block> blocks[kThreads];
    SpinMeeting meeting(kThreads);
    InThreads(kThreads, [&](int t) {
      for (int i = 0; i < 10; i++) {
        mi_heap_t* heap = mi_heap_new();
        ASSERT_NE(heap, nullptr);
        AllocateSome(heap, 25, t * 100 + i, &blocks[t]);
        if (i == 0) meeting.Meet();
        mi_heap_merge(heap, into);
        AllocateSome(into, 5, t * 100 + i + 50, &blocks[t]);
      }
    });
    size_t total = 0;
    for (auto& part : blocks) {
      ASSERT_TRUE(AllHold(part));
      total += part.size();
    }
    ASSERT_EQ(CountBlocks(into), total);
    mi_heap_destroy(into);
  }
}

// ---- very many threads ----------------------------------------------------------------------------------

TEST(ThreadChurnTest, TensOfThousandsOfThreadsThatKeepOneBlockEachDoNotBloat) {
  const int n = Scaled(10000, 100000);
  mi_heap_t* heap = mi_heap_new();
  ASSERT_NE(heap, nullptr);
  std::vector<void*> in_heap, in_main;
  in_heap.reserve(n);
  in_main.reserve(n);
  auto one_thread = [&](int i) {
    InThread([&] {
      in_heap.push_back(mi_heap_malloc(heap, 64));
      in_main.push_back(mi_malloc(64));
      Fill(in_heap.back(), 64, i);
      Fill(in_main.back(), 64, i);
    });
  };
  for (int i = 0; i < 100; i++) one_thread(i);
  size_t before = ResidentBytes();
  for (int i = 100; i < n; i++) {
    one_thread(i);
    ASSERT_NE(in_heap.back(), nullptr);
    ASSERT_NE(in_main.back(), nullptr);
  }
  size_t after = ResidentBytes();
  // 128 bytes per thread are live. Allow as much again and 8 MiB.
  if (!kSanitized) {
    EXPECT_LE(after, before + 256 * static_cast<size_t>(n) + 8 * kMiB);
  }
  for (int i = 0; i < n; i++) {
    ASSERT_TRUE(Holds(in_heap[i], 64, i));
    ASSERT_TRUE(Holds(in_main[i], 64, i));
  }
  EXPECT_TRUE(ShowsExactly(heap, in_heap));
  for (void* block : in_main) {
    ASSERT_EQ(mi_heap_of(block), mi_heap_main());
    mi_free(block);
  }
  mi_heap_destroy(heap);
}

TEST(ThreadChurnTest, ThreadsThatMakeHeapsAndLeaveThemBehindLoseNothing) {
  std::vector<mi_heap_t*> heaps;
  for (int i = 0; i < Scaled(3000, 30000); i++) {
    InThread([&] {
      heaps.push_back(mi_heap_new());
      for (int j = 0; j < 10; j++) ASSERT_NE(mi_heap_malloc(heaps.back(), 16 + 16 * j), nullptr);
    });
  }
  EXPECT_EQ(std::set<mi_heap_t*>(heaps.begin(), heaps.end()).size(), heaps.size());
  for (mi_heap_t* heap : heaps) {
    ASSERT_EQ(CountBlocks(heap), 10u);
    mi_heap_destroy(heap);
  }
}

// ---- several threads in one heap ------------------------------------------------------------------------

TEST(SharedHeapTest, EightThreadsUseTheMainThreadsHeapsAtOnce) {
  constexpr int kHeaps = 3;
  constexpr int kThreads = 8;
  mi_heap_t* heaps[kHeaps];
  for (mi_heap_t*& heap : heaps) heap = mi_heap_new();
  std::mutex mutex;
  std::vector<Block> exchange[kHeaps];
  InThreads(kThreads, [&](int t) {
    Random random(t);
    for (int round = 0; round < Scaled(300, 10000); round++) {
      size_t h = random.Below(kHeaps);
      std::vector<Block> mine, taken;
      AllocateSome(heaps[h], 1 + random.Below(60), random.Next(), &mine);
      {
        std::lock_guard<std::mutex> lock(mutex);
        exchange[h].insert(exchange[h].end(), mine.begin(), mine.end());
        while (exchange[h].size() > 500) {
          size_t i = random.Below(exchange[h].size());
          taken.push_back(exchange[h][i]);
          exchange[h][i] = exchange[h].back();
          exchange[h].pop_back();
        }
      }
      for (const Block& block : taken) ASSERT_EQ(mi_heap_of(block.at), heaps[h]);
      CheckAndFree(taken, 0, 1);
    }
  });
  for (int h = 0; h < kHeaps; h++) {
    ASSERT_TRUE(AllHold(exchange[h]));
    std::vector<void*> expected;
    for (const Block& block : exchange[h]) expected.push_back(block.at);
    EXPECT_TRUE(ShowsExactly(heaps[h], expected));
    mi_heap_destroy(heaps[h]);
  }
}

TEST(SharedHeapTest, ThreadsMakeAndEndTheirOwnHeapsAllTheTime) {
  InThreads(6, [&](int t) {
    Random random(t + 100);
    std::vector<std::pair<mi_heap_t*, std::vector<Block>>> live;
    for (int round = 0; round < Scaled(2000, 50000); round++) {
      if (live.size() < 10) {
        live.emplace_back(mi_heap_new(), std::vector<Block>());
        ASSERT_NE(live.back().first, nullptr);
      }
      size_t i = random.Below(live.size());
      AllocateSome(live[i].first, 1 + random.Below(30), random.Next(), &live[i].second);
      if (random.OneIn(3)) {
        ASSERT_TRUE(AllHold(live[i].second));
        mi_heap_destroy(live[i].first);
        live[i] = std::move(live.back());
        live.pop_back();
      }
    }
    for (auto& heap : live) {
      ASSERT_TRUE(AllHold(heap.second));
      mi_heap_destroy(heap.first);
    }
  });
}

}  // namespace
}  // namespace mi_test
