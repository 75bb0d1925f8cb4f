// Marks, and everything that orders a heap's life, against a model: random operations on heaps with marks, merges,
// families and callbacks, by four threads that take turns on each world of heaps and come and go meanwhile, so that
// every heap has parts, pages and frees of several threads, living and ended. After each end the callbacks must have
// run in the model's order, and the blocks that the model has must be there, unchanged, and no others.
#include <errno.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "mi/heap/heap.h"
#include "mi/mimalloc.h"
#include "tests/test_support.h"

namespace mi_test {
namespace {

bool CountBlock(const mi_heap_t*, const mi_heap_area_t*, void* block, size_t, void* arg) {
  if (block != nullptr) ++*static_cast<size_t*>(arg);
  return true;
}
size_t LiveBlocks(mi_heap_t* heap) {
  size_t n = 0;
  EXPECT_TRUE(mi_heap_visit_blocks(heap, true, CountBlock, &n));
  return n;
}

// ---- marks alone -------------------------------------------------------------------------------------------

TEST(Mark, RewindFreesWhatCameSinceAndKeepsTheRestManyTimes) {
  for (int before : {0, 10, 3000}) {
    mi_heap_t* heap = mi_heap_new();
    std::vector<void*> old;
    for (int i = 0; i < before; i++) {
      old.push_back(mi_heap_malloc(heap, 16 + i % 300));
      Fill(old.back(), 16 + i % 300, i);
    }
    mi_heap_mark_t mark = mi_heap_mark(heap);
    ASSERT_NE(mark.serial, 0u);
    for (int round = 0; round < 5; round++) {
      for (int i = 0; i < 2000; i++) {
        void* p = mi_heap_malloc(heap, i % 100 == 99 ? 100000 : 16 + i % 500);
        ASSERT_NE(p, nullptr);
        Fill(p, 16, 1);
      }
      ASSERT_TRUE(mi_heap_rewind(heap, mark));
      ASSERT_EQ(LiveBlocks(heap), old.size());
      ASSERT_TRUE(mi_heap_check(heap));
      for (int i = 0; i < before; i++) ASSERT_TRUE(Holds(old[i], 16 + i % 300, i));
    }
    ASSERT_TRUE(mi_heap_unmark(heap, mark));
    for (void* p : old) mi_free(p);
    EXPECT_EQ(LiveBlocks(heap), 0u);
    mi_heap_destroy(heap);
  }
}

// In a thread of its own: a handle that comes from a thread's cache may have a large region, which holds all of it.
TEST(Mark, WhatComesAfterACollectOfEmptyRegionsIsRewoundToo) {
  InThread([] {
    mi_heap_t* heap = mi_heap_new();
    std::vector<void*> old;  // more than the handle's own region holds, and little enough to leave room in it
    old.push_back(mi_heap_malloc(heap, 100));
    for (int i = 0; i < 3; i++) old.push_back(mi_heap_malloc(heap, 200));
    const mi_heap_mark_t mark = mi_heap_mark(heap);
    std::vector<void*> more;
    for (int i = 0; i < 20; i++) more.push_back(mi_heap_malloc(heap, 64));
    for (void* p : more) mi_free(p);
    mi_heap_collect(heap, true);
    for (int i = 0; i < 3; i++) Fill(mi_heap_malloc(heap, 16), 16, i);
    EXPECT_EQ(LiveBlocks(heap), old.size() + 3);
    ASSERT_TRUE(mi_heap_rewind(heap, mark));
    EXPECT_EQ(LiveBlocks(heap), old.size());
    ASSERT_TRUE(mi_heap_check(heap));
    for (void* p : old) mi_free(p);
    mi_heap_destroy(heap);
  });
}

TEST(Mark, TheLastObjectBeforeAMarkKeepsItsSizeWhenItIsResizedLater) {
  mi_heap_t* heap = mi_heap_new();
  char* p = static_cast<char*>(mi_heap_malloc(heap, 32));
  Fill(p, 32, 5);
  mi_heap_mark_t mark = mi_heap_mark(heap);
  char* q = static_cast<char*>(mi_heap_realloc(heap, p, 96));
  ASSERT_NE(q, nullptr);
  EXPECT_TRUE(Holds(q, 32, 5, 32));
  ASSERT_TRUE(mi_heap_rewind(heap, mark));
  std::vector<char*> more;
  for (int i = 0; i < 20; i++) more.push_back(static_cast<char*>(mi_heap_zalloc(heap, 48)));
  for (char* m : more) EXPECT_TRUE(IsZero(m, 0, 48));
  EXPECT_EQ(LiveBlocks(heap), 20u) << "the old object moved, and went with the new one";
  mi_heap_destroy(heap);
}

TEST(Mark, BadMarksAndHeapsAreRefused) {
  mi_heap_t* heap = mi_heap_new();
  mi_heap_t* other = mi_heap_new();
  mi_heap_mark_t first = mi_heap_mark(heap);
  mi_heap_mark_t second = mi_heap_mark(heap);
  ErrorRecorder errors;
  EXPECT_FALSE(mi_heap_rewind(other, first));
  EXPECT_FALSE(mi_heap_rewind(heap, mi_heap_mark_t{0, 0}));
  EXPECT_TRUE(mi_heap_rewind(heap, first));
  EXPECT_FALSE(mi_heap_rewind(heap, second)) << "a rewind ends later marks";
  EXPECT_TRUE(mi_heap_unmark(heap, first));
  EXPECT_FALSE(mi_heap_unmark(heap, first));
  mi_heap_mark_t third = mi_heap_mark(heap);
  mi_heap_reset(heap);
  EXPECT_FALSE(mi_heap_rewind(heap, third));
  EXPECT_EQ(mi_heap_mark(mi_heap_main()).serial, 0u);
  EXPECT_EQ(mi_heap_mark(nullptr).serial, 0u);
  EXPECT_EQ(errors.count(EINVAL), 7);
  mi_heap_destroy(heap);
  EXPECT_FALSE(mi_heap_rewind(heap, third));
  EXPECT_EQ(errors.count(EFAULT), 1);
  mi_heap_destroy(other);
}

TEST(Mark, AnArenaHeapRewindsToo) {
  mi_arena_id_t arena = nullptr;
  ASSERT_EQ(mi_reserve_os_memory_ex(64 * kMiB, true, false, true, &arena), 0);
  mi_heap_t* heap = mi_heap_new_in_arena(arena);
  void* old = mi_heap_malloc(heap, 100);
  Fill(old, 100, 1);
  mi_heap_mark_t mark = mi_heap_mark(heap);
  for (int round = 0; round < 50; round++) {
    for (int i = 0; i < 200; i++) ASSERT_NE(mi_heap_malloc(heap, 100 + 50 * (i % 100)), nullptr);
    ASSERT_TRUE(mi_heap_rewind(heap, mark));
    ASSERT_EQ(LiveBlocks(heap), 1u);
  }
  EXPECT_TRUE(Holds(old, 100, 1));
  mi_heap_destroy(heap);
}

TEST(Mark, TheChildOfAForkRewindsAHeapOfThreadsThatAreGone) {
  if (kTsan) GTEST_SKIP() << "the sanitizer's run-time does not survive a fork of a threaded process";
  mi_heap_t* heap = mi_heap_new();
  std::vector<void*> old;
  auto allocate = [&](std::vector<void*>* into) {
    for (int i = 0; i < 1500; i++) {
      void* p = mi_heap_malloc(heap, 16 + i % 400);
      Fill(p, 16, 3);
      if (into != nullptr) into->push_back(p);
    }
  };
  Worker worker;
  worker.Run([&] { allocate(&old); });
  allocate(&old);
  mi_heap_mark_t mark = mi_heap_mark(heap);
  worker.Run([&] { allocate(nullptr); });
  allocate(nullptr);
  EXPECT_EQ(InChild([&] {
              if (!mi_heap_rewind(heap, mark) || LiveBlocks(heap) != old.size()) return 1;
              for (void* p : old) {
                if (!Holds(p, 16, 3, 16)) return 2;
              }
              mi_heap_mark_t next = mi_heap_mark(heap);
              allocate(nullptr);
              if (!mi_heap_rewind(heap, next) || LiveBlocks(heap) != old.size()) return 3;
              if (!mi_heap_unmark(heap, mark)) return 4;
              for (void* p : old) mi_free(p);
              if (LiveBlocks(heap) != 0) return 5;
              mi_heap_destroy(heap);
              return 0;
            }),
            0);
  ASSERT_TRUE(mi_heap_rewind(heap, mark));
  EXPECT_EQ(LiveBlocks(heap), old.size());
  mi_heap_destroy(heap);
}

// ---- the model -----------------------------------------------------------------------------------------------

// The library's errors, of which there are many: how many of what is refused, and the last message about a breach.
class Errors {
 public:
  Errors() {
    refused_ = 0;
    at_limit_ = 0;
    other_ = 0;
    mi_option_set(mi_option_show_errors, 1);
    mi_option_set(mi_option_max_errors, -1);
    mi_register_error([](int err, void*) { (err == EINVAL   ? refused_
                                            : err == ENOMEM ? at_limit_
                                                            : other_)++; },
                      nullptr);
    mi_register_output(
        [](const char* message, void*) {
          if (strstr(message, "mi_heap_check") != nullptr) strncpy(breach_, message, sizeof(breach_) - 1);
        },
        nullptr);
  }
  ~Errors() {
    mi_register_error(nullptr, nullptr);
    mi_register_output(nullptr, nullptr);
    mi_option_set_default(mi_option_max_errors, 32);
  }
  int refused() const { return refused_; }
  int at_limit() const { return at_limit_; }
  int other() const { return other_; }
  static const char* breach() { return breach_; }

 private:
  static inline std::atomic<int> refused_{0}, at_limit_{0}, other_{0};
  static inline char breach_[512];
};

struct World;

struct Cleanup {
  World* world;
  int number;
  uint64_t came;
};

struct Block {
  void* at;
  size_t size;
  uint64_t seed;
  uint64_t came;
};

struct Mark {
  mi_heap_mark_t mark;
  uint64_t came;
};

struct Heap {
  mi_heap_t* handle;
  uint64_t age;  // when it was made
  size_t limit = 0;
  Heap* parent = nullptr;
  uint64_t joined = 0;
  std::vector<Heap*> children;
  std::vector<Block> blocks;
  std::vector<Cleanup*> cleanups;  // the last is called first
  std::vector<Mark> marks;
  std::vector<mi_heap_mark_t> stale;
};

// The heaps that threads take turns on.
struct World {
  std::mutex mutex;
  uint64_t now = 0;
  std::vector<std::unique_ptr<Heap>> heaps;  // the first is the root
  std::vector<std::unique_ptr<Cleanup>> cleanups;
  std::vector<Block> main_blocks;
  std::vector<int> log;
  int next_cleanup = 0;
  int at_limit = 0;  // allocations that a limit refused
};

void RunCleanup(void* arg) {
  Cleanup* cleanup = static_cast<Cleanup*>(arg);
  cleanup->world->log.push_back(cleanup->number);
  mi_free(mi_malloc(40));
}

class Player {
 public:
  Player(World* world, Random* random, std::atomic<int>* refusals) : w_(*world), r_(*random), refusals_(*refusals) {}

  void Step() {
    w_.now++;
    Heap* heap = Pick();
    switch (r_.Below(64)) {
      case 0:
      case 1:
        return Make(heap);
      case 2:
        return SetParent(heap, r_.OneIn(3) ? nullptr : Pick());
      case 3:
      case 4:
      case 5:
        return Register(heap);
      case 6:
        return Cancel(heap);
      case 7:
      case 8:
      case 9:
        return TakeMark(heap);
      case 10:
      case 11:
      case 12:
      case 13:
        return Rewind(heap);
      case 14:
        return Unmark(heap);
      case 15:
        return Stale(heap);
      case 16:
        return r_.OneIn(2) ? Merge(heap, Pick()) : Delete(heap);
      case 17:
        return r_.OneIn(3) ? Reset(heap) : Destroy(heap);
      case 18:
        return Verify(heap);
      case 19:
        mi_heap_collect(heap->handle, r_.OneIn(4));
        return;
      case 20:
        return SetLimit(heap);
      default:
        return r_.Below(16) < 9 ? Allocate(heap) : Free(heap);
    }
  }

  Heap* MakeRoot() {
    auto root = std::make_unique<Heap>();
    root->handle = mi_heap_new();
    w_.heaps.push_back(std::move(root));
    return w_.heaps[0].get();
  }

  // When all is quiet.
  void Check() {
    for (auto& heap : w_.heaps) {
      Verify(heap.get());
      ASSERT_TRUE(mi_heap_check(heap->handle)) << Errors::breach();
    }
  }

  void End() {
    Check();
    while (w_.heaps.size() > 1) {
      w_.now++;
      Destroy(w_.heaps.back().get());
    }
    Reset(w_.heaps[0].get());
    mi_heap_destroy(w_.heaps[0]->handle);
    for (Block& b : w_.main_blocks) FreeBlock(b, mi_heap_main());
  }

 private:
  Heap* Pick() { return w_.heaps[r_.Below(w_.heaps.size())].get(); }

  void Make(Heap* parent) {
    if (w_.heaps.size() >= 12) return;
    mi_heap_config_t config = {};
    config.size = sizeof(config);
    config.parent = parent->handle;
    auto heap = std::make_unique<Heap>();
    if (r_.OneIn(4)) config.limit = heap->limit = r_.Between(1, r_.OneIn(2) ? 20000 : 4000000);
    heap->handle = mi_heap_new_with(&config);
    ASSERT_NE(heap->handle, nullptr);
    heap->age = w_.now;
    Link(heap.get(), parent);
    w_.heaps.push_back(std::move(heap));
  }

  void SetLimit(Heap* heap) {
    heap->limit = r_.OneIn(2) ? 0 : r_.Between(1, r_.OneIn(2) ? 20000 : 4000000);
    ASSERT_TRUE(mi_heap_set_limit(heap->handle, heap->limit));
    ASSERT_EQ(mi_heap_limit(heap->handle), heap->limit);
  }

  // A limit refused this: there must be one, on the way up.
  void AtLimit(const Heap* heap) {
    w_.at_limit++;
    while (heap != nullptr && heap->limit == 0) heap = heap->parent;
    ASSERT_NE(heap, nullptr);
  }

  static size_t BytesOf(const Heap* heap) {
    size_t sum = 0;
    for (const Block& b : heap->blocks) sum += mi_usable_size(b.at);
    for (const Heap* child : heap->children) sum += BytesOf(child);
    return sum;
  }

  void Link(Heap* heap, Heap* parent) {
    if (heap->parent != nullptr) {
      auto& list = heap->parent->children;
      list.erase(std::find(list.begin(), list.end(), heap));
    }
    heap->parent = parent;
    heap->joined = w_.now;
    if (parent != nullptr) parent->children.push_back(heap);
  }

  static bool IsAbove(const Heap* heap, const Heap* below) {
    while (below != nullptr && below != heap) below = below->parent;
    return below == heap;
  }

  void SetParent(Heap* heap, Heap* parent) {
    if (heap == w_.heaps[0].get()) return;
    const bool circle = parent != nullptr && IsAbove(heap, parent);
    ASSERT_EQ(mi_heap_set_parent(heap->handle, parent == nullptr ? nullptr : parent->handle), !circle);
    if (circle) {
      refusals_++;
    } else if (heap->parent != parent) {
      Link(heap, parent);
    }
    ASSERT_EQ(mi_heap_parent(heap->handle), heap->parent == nullptr ? nullptr : heap->parent->handle);
  }

  void Register(Heap* heap) {
    auto cleanup = std::make_unique<Cleanup>(Cleanup{&w_, w_.next_cleanup++, w_.now});
    ASSERT_TRUE(mi_heap_on_destroy(heap->handle, RunCleanup, cleanup.get()));
    heap->cleanups.push_back(cleanup.get());
    w_.cleanups.push_back(std::move(cleanup));
  }

  void Cancel(Heap* heap) {
    if (heap->cleanups.empty()) return;
    auto at = heap->cleanups.begin() + static_cast<long>(r_.Below(heap->cleanups.size()));
    ASSERT_TRUE(mi_heap_cancel_on_destroy(heap->handle, RunCleanup, *at));
    ASSERT_FALSE(mi_heap_cancel_on_destroy(heap->handle, RunCleanup, *at));
    heap->cleanups.erase(at);
  }

  void Allocate(Heap* heap) {
    if (heap->blocks.size() > 3000) return Free(heap);
    size_t n = r_.OneIn(20) ? r_.Below(400) : 1 + r_.Below(4);
    for (size_t i = 0; i < n; i++) {
      size_t size = r_.OneIn(400)  ? r_.Between(70000, 200000)
                    : r_.OneIn(30) ? r_.Between(1000, 30000)
                                   : r_.Between(1, r_.OneIn(2) ? 64 : 600);
      uint64_t seed = r_.Next();
      void* at = r_.OneIn(8) ? mi_heap_malloc_aligned(heap->handle, size, 64) : mi_heap_malloc(heap->handle, size);
      if (at == nullptr) return AtLimit(heap);
      FillSome(at, size, seed);
      heap->blocks.push_back({at, size, seed, w_.now});
    }
  }

  // Large blocks at both ends only: the test is about order.
  static void FillSome(void* at, size_t size, uint64_t seed) {
    char* p = static_cast<char*>(at);
    Fill(p, std::min<size_t>(size, 64), seed);
    if (size > 128) Fill(p + size - 64, 64, seed + 1);
  }
  static void CheckBlock(const Block& b, mi_heap_t* heap) {
    const char* p = static_cast<const char*>(b.at);
    ASSERT_TRUE(Holds(p, std::min<size_t>(b.size, 64), b.seed));
    if (b.size > 128) {
      ASSERT_TRUE(Holds(p + b.size - 64, 64, b.seed + 1));
    }
    ASSERT_EQ(mi_heap_of(b.at), heap);
  }
  static void FreeBlock(const Block& b, mi_heap_t* heap) {
    CheckBlock(b, heap);
    mi_free(b.at);
  }

  void Free(Heap* heap) {
    if (r_.OneIn(10) && !w_.main_blocks.empty()) {
      FreeBlock(w_.main_blocks.back(), mi_heap_main());
      w_.main_blocks.pop_back();
    }
    size_t n = r_.OneIn(10) ? r_.Below(400) : r_.OneIn(50) ? heap->blocks.size() : 1 + r_.Below(4);
    for (size_t i = 0; i < n && !heap->blocks.empty(); i++) {
      size_t k = r_.Below(heap->blocks.size());
      Block& b = heap->blocks[k];
      if (r_.OneIn(20)) {
        size_t size = r_.Between(1, 800);
        void* at = mi_heap_realloc(heap->handle, b.at, size);
        if (at == nullptr) return AtLimit(heap);
        if (at != b.at) b.came = w_.now;
        ASSERT_TRUE(Holds(at, std::min({b.size, size, size_t{64}}) & ~size_t{7}, b.seed));
        b.at = at;
        b.size = size;
        FillSome(at, size, b.seed);
      } else {
        FreeBlock(b, heap->handle);
        b = heap->blocks.back();
        heap->blocks.pop_back();
      }
    }
  }

  // What the end of everything that came after `since` calls, in order; descendants leave the model.
  void ExpectEnd(Heap* heap, uint64_t since, std::vector<int>* calls) {
    std::vector<Heap*> going;
    for (Heap* child : heap->children) {
      if (child->joined > since) going.push_back(child);
    }
    std::sort(going.begin(), going.end(), [](Heap* a, Heap* b) { return a->age > b->age; });
    for (Heap* child : going) {
      ExpectEnd(child, 0, calls);
      Link(child, nullptr);
      Drop(child);
    }
    while (!heap->cleanups.empty() && heap->cleanups.back()->came > since) {
      calls->push_back(heap->cleanups.back()->number);
      heap->cleanups.pop_back();
    }
  }

  void Drop(Heap* heap) {
    auto at = std::find_if(w_.heaps.begin(), w_.heaps.end(), [&](auto& h) { return h.get() == heap; });
    w_.heaps.erase(at);
  }

  void ExpectLog(const std::vector<int>& calls) {
    ASSERT_EQ(w_.log, calls);
    w_.log.clear();
  }

  void Destroy(Heap* heap) {
    if (heap == w_.heaps[0].get()) return;
    mi_heap_t* handle = heap->handle;
    std::vector<int> calls;
    ExpectEnd(heap, 0, &calls);
    Link(heap, nullptr);
    Drop(heap);
    mi_heap_destroy(handle);
    ExpectLog(calls);
  }

  void Reset(Heap* heap) {
    std::vector<int> calls;
    ExpectEnd(heap, 0, &calls);
    mi_heap_reset(heap->handle);
    ExpectLog(calls);
    ASSERT_EQ(mi_heap_used(heap->handle), 0u);
    for (Mark& m : heap->marks) heap->stale.push_back(m.mark);
    heap->marks.clear();
    heap->blocks.clear();
    Verify(heap);
  }

  void TakeMark(Heap* heap) {
    if (heap->marks.size() >= 6) return Unmark(heap);
    mi_heap_mark_t mark = mi_heap_mark(heap->handle);
    ASSERT_NE(mark.serial, 0u);
    heap->marks.push_back({mark, w_.now});
  }

  void Rewind(Heap* heap) {
    if (heap->marks.empty()) return;
    size_t k = heap->marks.size() - 1 - (r_.OneIn(3) ? r_.Below(heap->marks.size()) : 0);
    const Mark mark = heap->marks[k];
    std::vector<int> calls;
    ExpectEnd(heap, mark.came, &calls);
    ASSERT_TRUE(mi_heap_rewind(heap->handle, mark.mark));
    ExpectLog(calls);
    while (heap->marks.size() > k + 1) PopMark(heap);
    auto& blocks = heap->blocks;
    blocks.erase(std::remove_if(blocks.begin(), blocks.end(), [&](const Block& b) { return b.came > mark.came; }),
                 blocks.end());
    if (r_.OneIn(4)) Verify(heap);
  }

  void PopMark(Heap* heap) {
    heap->stale.push_back(heap->marks.back().mark);
    heap->marks.pop_back();
  }

  void Unmark(Heap* heap) {
    if (heap->marks.empty()) return;
    size_t k = r_.Below(heap->marks.size());
    ASSERT_TRUE(mi_heap_unmark(heap->handle, heap->marks[k].mark));
    while (heap->marks.size() > k) PopMark(heap);
  }

  void Stale(Heap* heap) {
    if (heap->stale.empty()) return;
    mi_heap_mark_t mark = heap->stale[r_.Below(heap->stale.size())];
    ASSERT_FALSE(r_.OneIn(2) ? mi_heap_rewind(heap->handle, mark) : mi_heap_unmark(heap->handle, mark));
    refusals_++;
    if (heap->stale.size() > 50) heap->stale.clear();
  }

  void Delete(Heap* heap) {
    if (heap == w_.heaps[0].get()) return;
    std::vector<int> calls;
    for (size_t i = heap->cleanups.size(); i-- > 0;) calls.push_back(heap->cleanups[i]->number);
    if (r_.OneIn(2)) {
      mi_heap_delete(heap->handle);
    } else {
      mi_heap_merge(heap->handle, nullptr);
    }
    ExpectLog(calls);
    while (!heap->children.empty()) Link(heap->children.back(), heap->parent);
    Link(heap, nullptr);
    w_.main_blocks.insert(w_.main_blocks.end(), heap->blocks.begin(), heap->blocks.end());
    Drop(heap);
    while (w_.main_blocks.size() > 10000) {
      FreeBlock(w_.main_blocks.back(), mi_heap_main());
      w_.main_blocks.pop_back();
    }
  }

  void Merge(Heap* heap, Heap* into) {
    if (heap == w_.heaps[0].get() || heap == into) return;
    mi_heap_merge(heap->handle, into->handle);
    ExpectLog({});
    if (IsAbove(heap, into)) Link(into, heap->parent);
    while (!heap->children.empty()) Link(heap->children.back(), into);
    Link(heap, nullptr);
    for (Block b : heap->blocks) {
      b.came = w_.now;
      into->blocks.push_back(b);
    }
    for (Cleanup* c : heap->cleanups) {
      c->came = w_.now;
      into->cleanups.push_back(c);
    }
    Drop(heap);
    if (r_.OneIn(4)) Verify(into);
  }

  void Verify(Heap* heap) {
    ASSERT_TRUE(mi_heap_check(heap->handle)) << Errors::breach();
    for (const Block& b : heap->blocks) CheckBlock(b, heap->handle);
    ASSERT_EQ(LiveBlocks(heap->handle), heap->blocks.size());
    ASSERT_GE(mi_heap_used(heap->handle), BytesOf(heap));
    ASSERT_GE(mi_heap_peak(heap->handle), mi_heap_used(heap->handle));
  }

  World& w_;
  Random& r_;
  std::atomic<int>& refusals_;
};

TEST(Order, RandomOperationsOfFourThreadsDoWhatTheModelDoes) {
  const int kThreads = 4, kWorlds = 4, kLives = 20;
  const int kSteps = Scaled(300000, 10000000) / (kThreads * kLives);
  const uint64_t seed = 20261124;
  Errors errors;
  std::atomic<int> refusals{0};
  World worlds[kWorlds];
  for (int i = 0; i < kWorlds; i++) {
    Random random(seed + i);
    Player(&worlds[i], &random, &refusals).MakeRoot();
  }
  Barrier barrier(kThreads);
  InThreads(kThreads, [&](int t) {
    for (int life = 0; life < kLives; life++) {
      Worker worker;
      worker.Run([&] {
        Random random(seed + 100 * t + 1000 * life + 7);
        for (int i = 0; i < kSteps && !::testing::Test::HasFailure();) {
          World& world = worlds[random.Below(kWorlds)];
          std::lock_guard<std::mutex> lock(world.mutex);
          Player player(&world, &random, &refusals);
          for (size_t n = 1 + random.Below(40); n > 0 && i < kSteps; n--, i++) player.Step();
        }
      });
      worker.Exit();
      if (life % 4 != 3) continue;
      barrier.Arrive();
      if (t == 0) {
        Random random(life);
        for (World& world : worlds) Player(&world, &random, &refusals).Check();
      }
      barrier.Arrive();
    }
  });
  if (::testing::Test::HasFailure()) return;
  for (int i = 0; i < kWorlds; i++) {
    Random random(seed + i);
    Player(&worlds[i], &random, &refusals).End();
  }
  int at_limit = 0;
  for (World& world : worlds) at_limit += world.at_limit;
  EXPECT_GT(at_limit, 100);
  EXPECT_EQ(errors.at_limit(), at_limit);
  EXPECT_EQ(errors.refused(), refusals.load());
  EXPECT_EQ(errors.other(), 0) << Errors::breach();
}

}  // namespace
}  // namespace mi_test
