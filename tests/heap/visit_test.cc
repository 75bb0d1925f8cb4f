// Visiting a heap: every live block of every kind and every thread is shown exactly once, nothing else is, and the
// visitor may free any block of the heap. Each test keeps a shadow set of what lives and compares.
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <set>
#include <vector>

#include "gtest/gtest.h"
#include "mi/heap/heap.h"
#include "mi/mimalloc.h"
#include "tests/test_support.h"

namespace mi_test {
namespace {

class VisitTest : public ::testing::Test {
 protected:
  void SetUp() override {
    heap_ = mi_heap_new();
    ASSERT_NE(heap_, nullptr);
  }
  void TearDown() override {
    mi_heap_destroy(heap_);
    ASSERT_EQ(mi_heap_get_default(), mi_heap_main());
  }

  void* Allocate(size_t size) {
    void* block = mi_heap_malloc(heap_, size);
    EXPECT_NE(block, nullptr);
    live_.insert(block);
    return block;
  }
  void Free(void* block) {
    live_.erase(block);
    mi_free(block);
  }
  // Every kind of block there is.
  void AllocateEveryKind() {
    for (size_t size : {0, 1, 16, 30, 100, 500, 1000}) Allocate(size);            // young, small
    for (size_t size : {3000, 7000, 15000, 40000, 64000, 70000}) Allocate(size);  // too large for a region
    for (int i = 0; i < 800; i++) Allocate(48);                                   // a class that moved to pages
    for (int i = 0; i < 100; i++) Allocate(5000);                                 // medium pages
    for (size_t size : {200000, 600000, 1500000, 3000000}) Allocate(size);        // large
    for (size_t size : {4 * kMiB, 5 * kMiB, 20 * kMiB}) Allocate(size);           // huge
    for (size_t alignment = 32; alignment <= 16 * kMiB; alignment *= 2) {
      for (size_t size : {10, 1000, 100000}) {
        void* block = mi_heap_malloc_aligned(heap_, size, alignment);
        ASSERT_NE(block, nullptr);
        live_.insert(block);
      }
    }
  }
  std::vector<void*> Live() const { return {live_.begin(), live_.end()}; }

  mi_heap_t* heap_ = nullptr;
  std::set<void*> live_;
};

TEST_F(VisitTest, AnEmptyHeapShowsNoBlock) { EXPECT_TRUE(ShowsExactly(heap_, {})); }

TEST_F(VisitTest, ShowsEveryKindOfBlockAndNothingElse) {
  AllocateEveryKind();
  EXPECT_TRUE(ShowsExactly(heap_, Live()));
}

TEST_F(VisitTest, BlocksAlignedWithAnOffsetAreShownWithTheirSurroundingsAndFreedByWhatIsShown) {
  AllocateEveryKind();
  std::vector<void*> inside;
  for (size_t alignment = 16; alignment <= 8 * kMiB; alignment *= 2) {
    for (size_t size : {10, 1000, 100000}) {
      for (size_t offset : {8, 24, 1000}) {
        inside.push_back(mi_heap_malloc_aligned_at(heap_, size, alignment, offset));
        ASSERT_NE(inside.back(), nullptr);
      }
    }
  }
  ASSERT_TRUE(ShowsExactly(heap_, Live(), inside));
  for (size_t i = 0; i < inside.size(); i += 2) mi_free(inside[i]);
  for (size_t i = 0; 2 * i + 1 < inside.size(); i++) inside[i] = inside[2 * i + 1];
  inside.resize(inside.size() / 2);
  ASSERT_TRUE(ShowsExactly(heap_, Live(), inside));
  ErrorRecorder errors;
  EXPECT_TRUE(mi_heap_visit_blocks(
      heap_, true,
      [](const mi_heap_t*, const mi_heap_area_t*, void* block, size_t, void*) {
        mi_free(block);
        return true;
      },
      nullptr));
  EXPECT_EQ(errors.total(), 0) << errors.text();
  live_.clear();
  EXPECT_TRUE(ShowsExactly(heap_, {}));
}

TEST_F(VisitTest, BlocksOfOtherHeapsAreNotShown) {
  mi_heap_t* other = mi_heap_new();
  ASSERT_NE(other, nullptr);
  std::vector<void*> in_other;
  for (int i = 0; i < 500; i++) {
    Allocate(40);
    in_other.push_back(mi_heap_malloc(other, 40));
  }
  EXPECT_TRUE(ShowsExactly(heap_, Live()));
  EXPECT_TRUE(ShowsExactly(other, in_other));
  mi_heap_destroy(other);
}

TEST_F(VisitTest, TheShownSizeIsTheUsableSize) {
  for (size_t size : {1, 16, 17, 100, 500, 1000, 3000, 9000, 40000, 100000, 700000, 5000000}) Allocate(size);
  for (int i = 0; i < 500; i++) Allocate(64);
  for (const Shown& shown : BlocksOf(heap_)) {
    EXPECT_EQ(shown.size, mi_usable_size(shown.block));
  }
}

TEST_F(VisitTest, FreedBlocksAreNotShown) {
  AllocateEveryKind();
  Random random(1);
  while (!live_.empty()) {
    std::vector<void*> all = Live();
    for (void* block : all) {
      if (random.OneIn(3)) Free(block);
    }
    if (all.size() < 20) {
      for (void* block : all) {
        if (live_.count(block) != 0) Free(block);
      }
    }
    ASSERT_TRUE(ShowsExactly(heap_, Live()));
  }
}

TEST_F(VisitTest, WithoutBlocksOnlyAreasAreShownAndTheirCountsAddUp) {
  AllocateEveryKind();
  struct State {
    size_t used = 0;
    size_t areas = 0;
    bool shown_block = false;
    bool sane = true;
  } state;
  EXPECT_TRUE(mi_heap_visit_blocks(
      heap_, false,
      [](const mi_heap_t*, const mi_heap_area_t* area, void* block, size_t, void* arg) {
        State* s = static_cast<State*>(arg);
        s->shown_block |= block != nullptr;
        s->used += area->used;
        s->areas++;
        s->sane &= area->blocks != nullptr && area->committed <= area->reserved && area->reserved > 0 &&
                   area->full_block_size >= area->block_size;
        return true;
      },
      &state));
  EXPECT_FALSE(state.shown_block);
  EXPECT_TRUE(state.sane);
  EXPECT_GT(state.areas, 10u);
  EXPECT_EQ(state.used, live_.size());
}

TEST_F(VisitTest, EveryAreaIsAnnouncedBeforeItsBlocksAndHoldsThem) {
  AllocateEveryKind();
  struct State {
    const void* area_start = nullptr;
    size_t expected = 0;
    size_t seen = 0;
    bool right = true;
  } state;
  EXPECT_TRUE(mi_heap_visit_blocks(
      heap_, true,
      [](const mi_heap_t*, const mi_heap_area_t* area, void* block, size_t size, void* arg) {
        State* s = static_cast<State*>(arg);
        if (block == nullptr) {
          s->right &= s->seen == s->expected;
          s->area_start = area->blocks;
          s->expected = area->used;
          s->seen = 0;
        } else {
          s->right &= s->area_start == area->blocks;
          s->right &= area->block_size == 0 || size <= area->block_size;
          s->seen++;
        }
        return true;
      },
      &state));
  EXPECT_TRUE(state.right);
  EXPECT_EQ(state.seen, state.expected);
}

TEST_F(VisitTest, EndsAtOnceWhenTheVisitorSaysSo) {
  AllocateEveryKind();
  for (int stop_at : {1, 2, 5, 300}) {
    struct State {
      int calls;
      int stop_at;
    } state{0, stop_at};
    EXPECT_FALSE(mi_heap_visit_blocks(
        heap_, true,
        [](const mi_heap_t*, const mi_heap_area_t*, void*, size_t, void* arg) {
          State* s = static_cast<State*>(arg);
          return ++s->calls < s->stop_at;
        },
        &state));
    EXPECT_EQ(state.calls, stop_at);
  }
  EXPECT_TRUE(ShowsExactly(heap_, Live())) << "an ended visit left the heap damaged";
  void* block = Allocate(48);
  Free(block);
}

TEST_F(VisitTest, BlocksOfOtherThreadsAliveAndEndedAreShown) {
  std::mutex mutex;
  Worker alive;
  auto allocate_some = [&](int n) {
    for (int i = 0; i < n; i++) {
      void* block = mi_heap_malloc(heap_, i % 7 == 0 ? 3000 : i % 31 == 0 ? 200000 : 16 + i % 300);
      ASSERT_NE(block, nullptr);
      std::lock_guard<std::mutex> lock(mutex);
      live_.insert(block);
    }
  };
  for (int n : {1, 20, 500}) {
    alive.Run([&] { allocate_some(n); });
    InThreads(4, [&](int) { allocate_some(n); });
    allocate_some(n);
    ASSERT_TRUE(ShowsExactly(heap_, Live()));
  }
  // Freed by whoever did not allocate them.
  std::vector<void*> all = Live();
  for (size_t i = 0; i < all.size(); i += 2) Free(all[i]);
  ASSERT_TRUE(ShowsExactly(heap_, Live()));
  alive.Run([&] {
    for (size_t i = 1; i < all.size(); i += 4) Free(all[i]);
  });
  ASSERT_TRUE(ShowsExactly(heap_, Live()));
}

TEST_F(VisitTest, BlocksFreedByAnotherThreadAndNotYetCollectedAreNotShown) {
  AllocateEveryKind();
  std::vector<void*> all = Live();
  InThread([&] {
    for (size_t i = 0; i < all.size(); i += 2) Free(all[i]);
  });
  EXPECT_TRUE(ShowsExactly(heap_, Live()));
  InThread([&] {
    for (size_t i = 1; i < all.size(); i += 2) Free(all[i]);
  });
  EXPECT_TRUE(ShowsExactly(heap_, {}));
}

TEST_F(VisitTest, AFullPageWhoseBlocksOthersFreedShowsOnlyTheRest) {
  // Many full pages of one class, then one block in ten survives.
  std::vector<void*> all;
  for (int i = 0; i < 5000; i++) all.push_back(Allocate(128));
  InThreads(3, [&](int part) {
    for (size_t i = part; i < all.size(); i += 3) {
      if (i % 10 != 0) mi_free(all[i]);
    }
  });
  std::vector<void*> survivors;
  for (size_t i = 0; i < all.size(); i += 10) survivors.push_back(all[i]);
  EXPECT_TRUE(ShowsExactly(heap_, survivors));
  live_.clear();
}

// What freeing visitors need.
struct FreeingVisit {
  mi_heap_t* heap = nullptr;
  std::set<void*>* live = nullptr;
  std::set<void*> shown;
  size_t shown_dead = 0;
  size_t shown_twice = 0;
  Random random{1};
  int calls = 0;
  std::set<void*> freed;

  void Show(void* block) {
    if (freed.count(block) != 0) shown_dead++;
    if (!shown.insert(block).second) shown_twice++;
  }
  void Free(void* block) {
    live->erase(block);
    freed.insert(block);
    mi_free(block);
  }
};

TEST_F(VisitTest, TheVisitorMayFreeTheBlockThatItIsShown) {
  for (int keep_every : {0, 2, 7}) {
    AllocateEveryKind();
    std::set<void*> expected = live_;
    struct State : FreeingVisit {
      int keep_every;
    } state;
    state.live = &live_;
    state.keep_every = keep_every;
    ASSERT_TRUE(mi_heap_visit_blocks(
        heap_, true,
        [](const mi_heap_t*, const mi_heap_area_t*, void* block, size_t, void* arg) {
          State* s = static_cast<State*>(arg);
          if (block == nullptr) return true;
          s->Show(block);
          if (s->keep_every == 0 || ++s->calls % s->keep_every != 0) s->Free(block);
          return true;
        },
        &state));
    EXPECT_EQ(state.shown, expected);
    EXPECT_EQ(state.shown_twice, 0u);
    EXPECT_TRUE(ShowsExactly(heap_, Live()));
  }
}

TEST_F(VisitTest, TheVisitorMayFreeAnyBlockAndFreedOnesAreNotShownLater) {
  for (uint64_t seed = 1; seed <= 20; seed++) {
    SCOPED_TRACE(seed);
    AllocateEveryKind();
    std::set<void*> expected = live_;
    FreeingVisit state;
    state.live = &live_;
    state.random = Random(seed);
    ASSERT_TRUE(mi_heap_visit_blocks(
        heap_, true,
        [](const mi_heap_t*, const mi_heap_area_t*, void* block, size_t, void* arg) {
          FreeingVisit* s = static_cast<FreeingVisit*>(arg);
          if (block == nullptr) return true;
          s->Show(block);
          for (size_t i = s->random.Below(3); i > 0 && !s->live->empty(); i--) {
            // The next live block from a random address on.
            void* low = *s->live->begin();
            void* high = *s->live->rbegin();
            uintptr_t span = reinterpret_cast<uintptr_t>(high) - reinterpret_cast<uintptr_t>(low) + 1;
            auto it = s->live->lower_bound(static_cast<char*>(low) + s->random.Below(span));
            if (it != s->live->end()) s->Free(*it);
          }
          return true;
        },
        &state));
    EXPECT_EQ(state.shown_dead, 0u) << "blocks that the visitor had freed were shown";
    EXPECT_EQ(state.shown_twice, 0u);
    for (void* block : expected) {
      EXPECT_TRUE(state.shown.count(block) + state.freed.count(block) >= 1) << "a block was neither shown nor freed";
    }
    ASSERT_TRUE(ShowsExactly(heap_, Live()));
  }
}

TEST_F(VisitTest, TheVisitorMayFreeEverythingAtTheFirstBlock) {
  for (int round = 0; round < 3; round++) {
    AllocateEveryKind();
    FreeingVisit state;
    state.live = &live_;
    ASSERT_TRUE(mi_heap_visit_blocks(
        heap_, true,
        [](const mi_heap_t*, const mi_heap_area_t*, void* block, size_t, void* arg) {
          FreeingVisit* s = static_cast<FreeingVisit*>(arg);
          if (block == nullptr) return true;
          s->Show(block);
          while (!s->live->empty()) s->Free(*s->live->begin());
          return true;
        },
        &state));
    EXPECT_EQ(state.shown.size(), 1u);
    EXPECT_EQ(state.shown_dead, 0u);
    EXPECT_TRUE(ShowsExactly(heap_, {}));
  }
}

TEST_F(VisitTest, TheVisitorMayFreeBlocksThatOtherThreadsMade) {
  std::vector<void*> theirs;
  Worker alive;
  alive.Run([&] {
    for (int i = 0; i < 1000; i++) theirs.push_back(mi_heap_malloc(heap_, 16 + i % 400));
  });
  InThread([&] {
    for (int i = 0; i < 1000; i++) theirs.push_back(mi_heap_malloc(heap_, 16 + i % 4000));
  });
  live_.insert(theirs.begin(), theirs.end());
  FreeingVisit state;
  state.live = &live_;
  ASSERT_TRUE(mi_heap_visit_blocks(
      heap_, true,
      [](const mi_heap_t*, const mi_heap_area_t*, void* block, size_t, void* arg) {
        FreeingVisit* s = static_cast<FreeingVisit*>(arg);
        if (block == nullptr) return true;
        s->Show(block);
        if (s->random.OneIn(2)) s->Free(block);
        return true;
      },
      &state));
  EXPECT_EQ(state.shown.size(), 2000u);
  EXPECT_TRUE(ShowsExactly(heap_, Live()));
  alive.Run([&] {
    for (int i = 0; i < 1000; i++) live_.insert(mi_heap_malloc(heap_, 16 + i % 400));
  });
  EXPECT_TRUE(ShowsExactly(heap_, Live()));
}

TEST_F(VisitTest, TheVisitorMayAllocateInOtherHeaps) {
  AllocateEveryKind();
  struct State {
    mi_heap_t* other;
    std::vector<void*> made;
    size_t shown = 0;
  } state;
  state.other = mi_heap_new();
  ASSERT_NE(state.other, nullptr);
  ASSERT_TRUE(mi_heap_visit_blocks(
      heap_, true,
      [](const mi_heap_t*, const mi_heap_area_t*, void* block, size_t size, void* arg) {
        State* s = static_cast<State*>(arg);
        if (block == nullptr) return true;
        s->shown++;
        s->made.push_back(mi_heap_malloc(s->other, size % 5000));
        mi_free(mi_malloc(size % 3000));
        return true;
      },
      &state));
  EXPECT_EQ(state.shown, live_.size());
  EXPECT_TRUE(ShowsExactly(state.other, state.made));
  EXPECT_TRUE(ShowsExactly(heap_, Live()));
  mi_heap_destroy(state.other);
}

TEST_F(VisitTest, BlocksOfMergedAndDeletedHeapsAreShownInTheirNewHeap) {
  mi_heap_t* from = mi_heap_new();
  ASSERT_NE(from, nullptr);
  AllocateEveryKind();
  for (int i = 0; i < 300; i++) live_.insert(mi_heap_malloc(from, 16 + i * 10));
  live_.insert(mi_heap_malloc(from, 6 * kMiB));
  live_.insert(mi_heap_malloc_aligned(from, 100, kMiB));
  InThread([&] {
    for (int i = 0; i < 300; i++) live_.insert(mi_heap_malloc(from, 16 + i * 10));
  });
  mi_heap_merge(from, heap_);
  EXPECT_TRUE(ShowsExactly(heap_, Live()));
  Random random(3);
  for (void* block : Live()) {
    if (random.OneIn(2)) Free(block);
  }
  EXPECT_TRUE(ShowsExactly(heap_, Live()));
}

// What ends a heap would take away what the visit walks along; a reset would wait for the visit, and the visit for it.
TEST_F(VisitTest, AHeapDoesNotEndInsideAVisitOfIt) {
  for (int paged = 0; paged < 2; paged++) {
    Allocate(40);
    if (paged != 0) AllocateEveryKind();
    ErrorRecorder errors;
    EXPECT_TRUE(mi_heap_visit_blocks(
                    heap_, false,
                    [](const mi_heap_t* heap, const mi_heap_area_t*, void*, size_t, void*) {
                      auto* const visited = const_cast<mi_heap_t*>(heap);
                      mi_heap_destroy(visited);
                      mi_heap_delete(visited);
                      mi_heap_merge(visited, mi_heap_main());
                      mi_heap_reset(visited);
                      return false;
                    },
                    nullptr) == false);
    EXPECT_EQ(errors.total(), 4) << errors.text();
    EXPECT_TRUE(ShowsExactly(heap_, Live()));
  }
}

TEST_F(VisitTest, AHeapDoesNotEndWithItsParentInsideAVisitOfIt) {
  mi_heap_config_t config = {};
  config.size = sizeof(config);
  config.parent = heap_;
  mi_heap_t* child = mi_heap_new_with(&config);
  void* block = mi_heap_malloc(child, 40);
  ErrorRecorder errors;
  EXPECT_FALSE(mi_heap_visit_blocks(
      child, false,
      [](const mi_heap_t*, const mi_heap_area_t*, void*, size_t, void* parent) {
        mi_heap_destroy(static_cast<mi_heap_t*>(parent));
        mi_heap_reset(static_cast<mi_heap_t*>(parent));
        return false;
      },
      heap_));
  EXPECT_EQ(errors.count(EINVAL), 2) << errors.text();
  EXPECT_TRUE(ShowsExactly(child, {block}));
}

TEST_F(VisitTest, ATheapVisitInsideAVisitOfItsHeapLeavesTheHeapVisited) {
  Allocate(40);
  for (int i = 0; i < 2000; i++) Allocate(500);  // has a theap
  ErrorRecorder errors;
  int areas = 0;
  EXPECT_TRUE(mi_heap_visit_blocks(
      heap_, false,
      [](const mi_heap_t* heap, const mi_heap_area_t*, void*, size_t, void* arg) {
        auto all = [](const mi_heap_t*, const mi_heap_area_t*, void*, size_t, void*) { return true; };
        mi_theap_t* const theap = mi_heap_theap(const_cast<mi_heap_t*>(heap));
        if (!mi_theap_visit_blocks(theap, true, all, nullptr)) return false;
        ++*static_cast<int*>(arg);
        return !mi_heap_visit_blocks(const_cast<mi_heap_t*>(heap), true, all, nullptr);
      },
      &areas));
  EXPECT_GT(areas, 1);
  EXPECT_EQ(errors.total(), areas) << errors.text();
  EXPECT_TRUE(ShowsExactly(heap_, Live()));
}

TEST_F(VisitTest, TheVisitorMayFreeTheBlocksOfMergedHeapsAndCollect) {
  for (int i = 0; i < 5; i++) {
    mi_heap_t* other = mi_heap_new();
    for (int n = 0; n < 301; n++) live_.insert(mi_heap_malloc(other, 200 + n));
    mi_heap_merge(other, heap_);
  }
  for (int n = 0; n < 301; n++) Allocate(200 + n);
  struct Visit {
    mi_heap_t* heap;
    std::set<void*> shown;
    std::vector<mi_heap_t*> others;  // take what goes back
  } visit{heap_, {}, {}};
  EXPECT_TRUE(mi_heap_visit_blocks(
      heap_, true,
      [](const mi_heap_t*, const mi_heap_area_t*, void* block, size_t, void* arg) {
        auto* const v = static_cast<Visit*>(arg);
        if (block == nullptr) return true;
        v->shown.insert(block);
        mi_free(block);
        mi_heap_collect(v->heap, true);
        v->others.push_back(mi_heap_new());
        for (int n = 0; n < 16; n++) memset(mi_heap_malloc(v->others.back(), 1000), 0xff, 1000);
        return true;
      },
      &visit));
  for (mi_heap_t* other : visit.others) mi_heap_destroy(other);
  EXPECT_EQ(visit.shown, live_);
  live_.clear();
  EXPECT_TRUE(ShowsExactly(heap_, {}));
}

TEST_F(VisitTest, TheTheapVisitShowsTheCallingThreadsPartAndTheAbandonedVisitTheEndedThreadsPart) {
  std::set<void*> mine, dead, theirs;
  Worker alive;
  for (int i = 0; i < 500; i++) mine.insert(mi_heap_malloc(heap_, 16 + i));
  alive.Run([&] {
    for (int i = 0; i < 500; i++) theirs.insert(mi_heap_malloc(heap_, 16 + i));
  });
  InThread([&] {
    for (int i = 0; i < 500; i++) dead.insert(mi_heap_malloc(heap_, 16 + i));
  });
  auto collect = [](const mi_heap_t*, const mi_heap_area_t*, void* block, size_t, void* arg) {
    if (block != nullptr) static_cast<std::set<void*>*>(arg)->insert(block);
    return true;
  };
  std::set<void*> shown;
  EXPECT_TRUE(mi_theap_visit_blocks(mi_heap_theap(heap_), true, collect, &shown));
  EXPECT_EQ(shown, mine);
  shown.clear();
  EXPECT_TRUE(mi_heap_visit_abandoned_blocks(heap_, true, collect, &shown));
  EXPECT_EQ(shown, dead);
  std::set<void*> all = mine;
  all.insert(dead.begin(), dead.end());
  all.insert(theirs.begin(), theirs.end());
  EXPECT_TRUE(ShowsExactly(heap_, {all.begin(), all.end()}));
}

TEST_F(VisitTest, AnotherThreadMayVisit) {
  AllocateEveryKind();
  InThread([&] { EXPECT_TRUE(ShowsExactly(heap_, Live())); });
  Worker other;
  other.Run([&] {
    for (int i = 0; i < 100; i++) live_.insert(mi_heap_malloc(heap_, 200));
    EXPECT_TRUE(ShowsExactly(heap_, Live()));
  });
}

// A mark and sweep collector: threads allocate, and drop or keep what they have; at a safepoint one of them frees all
// that nobody has, wherever it came from.
TEST_F(VisitTest, ACollectorSweepsAHeapWhoseThreadsStandAtSafepoints) {
  constexpr int kThreads = 3, kCycles = 12;
  Barrier stop(kThreads), go(kThreads);
  std::vector<void*> roots[kThreads];
  struct Sweep {
    std::set<void*> marked;
    size_t freed = 0;
  };
  InThreads(kThreads, [&](int self) {
    Random random(static_cast<uint64_t>(self) + 5);
    for (int cycle = 0; cycle < kCycles; cycle++) {
      for (int i = 0; i < 1500; i++) {
        void* p = mi_heap_malloc(heap_, random.OneIn(200) ? 100000 : random.Between(1, 600));
        if (random.OneIn(3)) roots[self].push_back(p);
        if (random.OneIn(4) && !roots[self].empty()) roots[self].pop_back();
      }
      stop.Arrive();
      if (self == cycle % kThreads) {
        Sweep sweep;
        for (const auto& some : roots) sweep.marked.insert(some.begin(), some.end());
        EXPECT_TRUE(mi_heap_visit_blocks(
            heap_, true,
            [](auto, auto, void* block, size_t, void* arg) {
              Sweep* s = static_cast<Sweep*>(arg);
              if (block != nullptr && s->marked.count(block) == 0) {
                mi_free(block);
                s->freed++;
              }
              return true;
            },
            &sweep));
        EXPECT_GT(sweep.freed, 1000u);
        EXPECT_TRUE(ShowsExactly(heap_, std::vector<void*>(sweep.marked.begin(), sweep.marked.end())));
        EXPECT_TRUE(mi_heap_check(heap_));
      }
      go.Arrive();
    }
  });
}

TEST(VisitMainTest, TheMainHeapShowsItsBlocksButNoHandlesOrRegionsOfOtherHeaps) {
  std::vector<Shown> before = BlocksOf(mi_heap_main());
  std::vector<mi_heap_t*> heaps;
  for (int i = 0; i < 200; i++) {
    heaps.push_back(mi_heap_new());
    ASSERT_NE(heaps.back(), nullptr);
    for (int j = 0; j < i; j++) ASSERT_NE(mi_heap_malloc(heaps.back(), 16 + j), nullptr);
  }
  std::vector<void*> expected;
  for (const Shown& shown : before) expected.push_back(shown.block);
  for (int i = 0; i < 500; i++) expected.push_back(mi_malloc(16 + 13 * i));
  EXPECT_TRUE(ShowsExactly(mi_heap_main(), expected));
  for (size_t i = before.size(); i < expected.size(); i++) mi_free(expected[i]);
  for (mi_heap_t* heap : heaps) mi_heap_destroy(heap);
  EXPECT_EQ(CountBlocks(mi_heap_main()), before.size());
}

}  // namespace
}  // namespace mi_test
