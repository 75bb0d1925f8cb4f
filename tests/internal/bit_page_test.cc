// mi/internal/bit_page.c: what a second free of a block, by another thread, may do while the block's page ends. The
// owner's free is gone through instruction by instruction, and the other thread's comes in after each in turn. And what
// the error callback may do that is told of such a free.
#include <sched.h>
#include <string.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "mi/mimalloc.h"
#include "tests/internal/probe.h"
#include "tests/single_steps.h"
#include "tests/test_support.h"

namespace mi_test {
namespace {

// A heap whose pages are bit pages, and in which misuse is advice.
mi_heap_t* NewAdvisedHeap() {
  mi_heap_config_t config{};
  config.size = sizeof(config);
  config.flags = MI_HEAP_ZERO;
  return mi_heap_new_with(&config);
}

long steps_left;
bool came;  // the other free did
void* block;
uint64_t generation;
void (*other_free)();

void OnTrap(int, siginfo_t*, void* context) {
  if (--steps_left > 0) return;
  StopSteps(context);
  other_free();
}

// Another thread's, which began while the page was there: when that is gone it only looks at the number.
bool ok;
void FreeByAnother() {
  if (probe_bits_generation(block) != generation) return;
  came = true;
  ok = probe_bits_free_remote(block);
}
// The first half of that.
void TakeByAnother() {
  if (probe_bits_generation(block) != generation) return;
  came = true;
  ok = probe_bits_take_live(block);
}

void FreeByOwner() {
  came = true;
  mi_free(block);
}

// A free, into which the other one comes after so many instructions. `came` false: it came too late.
template <typename Free>
void FreeTwice(void* p, long steps, void (*other)(), Free free) {
  block = p;
  generation = probe_bits_generation(p);
  other_free = other;
  steps_left = steps;
  came = false;
  TrapFlag(true);
  free(p);
  TrapFlag(false);
}

// `late`: the other thread tells of its free only when the owner's is over.
class BitPageFreeTest : public ::testing::TestWithParam<bool> {};

TEST_P(BitPageFreeTest, ADoubleFreeThatMeetsThePagesEndLeavesNothingBehind) {
  const bool late = GetParam();
  const TrapHandler trap(&OnTrap);
  ErrorRecorder errors;
  constexpr size_t kSize = 73 * 4096 - 16;  // little padding to be compared
  long steps = 1, most = 0;
  for (; steps < 20000; steps++) {
    mi_heap_t* heap = NewAdvisedHeap();
    ASSERT_NE(heap, nullptr);
    void* p = mi_heap_malloc(heap, kSize);
    ASSERT_NE(p, nullptr);
    errors.Forget();
    ok = true;
    FreeTwice(p, steps, late ? &TakeByAnother : &FreeByAnother, &mi_free);
    const bool in_time = came;
    if (in_time && late && ok) ok = probe_bits_tell(p);
    ASSERT_TRUE(probe_delayed_frees_lead_to_pages(heap)) << "after " << steps << " instructions";
    mi_heap_t* other = NewAdvisedHeap();
    void* q = mi_heap_malloc(other, kSize);
    mi_heap_collect(heap, true);
    EXPECT_EQ(errors.count(EAGAIN) + !ok, in_time ? 1 : 0) << "after " << steps << " instructions";
    EXPECT_TRUE(mi_heap_check(heap));
    EXPECT_TRUE(mi_heap_check(other));
    mi_free(q);
    mi_heap_destroy(other);
    mi_heap_destroy(heap);
    if (in_time) most = steps;
    if (!in_time && steps > most + 100) break;
  }
  EXPECT_GT(most, 20) << "the page was there for longer";
}

INSTANTIATE_TEST_SUITE_P(Late, BitPageFreeTest, ::testing::Bool());

// The other way round: the other thread found the block live, and the owner's free, which ends the page, comes in after
// each instruction of what it does then.
class BitPageEndTest : public ::testing::TestWithParam<size_t> {};

TEST_P(BitPageEndTest, TheSecondFreeIsNoticedAlsoWhenThePageHasEnded) {
  const TrapHandler trap(&OnTrap);
  ErrorRecorder errors;
  const size_t size = GetParam();
  long steps = 1, ended = 0;
  for (bool in_time = true; in_time; steps++) {
    mi_heap_t* heap = NewAdvisedHeap();
    ASSERT_NE(heap, nullptr);
    // The second page of its class goes when it is empty.
    void* const first = mi_heap_malloc(heap, size);
    void* p = mi_heap_malloc(heap, size);
    while (size <= 8192 && probe_same_page(first, p)) p = mi_heap_malloc(heap, size);
    mi_free(first);
    const uint64_t before = probe_bits_generation(p);
    errors.Forget();
    ok = true;
    FreeTwice(p, steps, &FreeByOwner, [](void* twice) { ok = probe_bits_free_remote(twice); });
    in_time = came;
    ended += in_time && probe_bits_generation(p) != before;
    mi_heap_collect(heap, true);
    EXPECT_EQ(errors.count(EAGAIN) + !ok, in_time ? 1 : 0) << "after " << steps << " instructions";
    EXPECT_TRUE(mi_heap_check(heap));
    mi_heap_destroy(heap);
  }
  EXPECT_GT(ended, 20) << "the page was there for longer";
}

INSTANTIATE_TEST_SUITE_P(Size, BitPageEndTest, ::testing::Values(64, 3000, 73 * 4096 - 16));

bool CountBlock(const mi_heap_t*, const mi_heap_area_t*, void* p, size_t, void* arg) {
  *static_cast<int*>(arg) += p != nullptr;
  return true;
}

// A free comes in after each instruction of a resize.
TEST(BitPageTest, AResizeOfABlockThatIsFreedMeanwhileDoesNotMakeItLiveAgain) {
  const TrapHandler trap(&OnTrap);
  ErrorRecorder errors;
  long steps = 1, failed = 0;
  for (bool in_time = true; in_time; steps++) {
    mi_heap_t* heap = NewAdvisedHeap();
    ASSERT_NE(heap, nullptr);
    void* const other = mi_heap_malloc(heap, 56);  // the page stays
    void* const p = mi_heap_malloc(heap, 56);
    errors.Forget();
    void* resized = nullptr;
    FreeTwice(p, steps, &FreeByOwner, [&resized](void* q) { resized = mi_realloc(q, 60); });
    in_time = came;
    if (in_time && resized == nullptr) {
      failed++;
      EXPECT_EQ(errors.count(EAGAIN), 1) << "after " << steps << " instructions";
    } else if (resized != p || !in_time) {
      mi_free(resized);
    }
    mi_heap_collect(heap, true);
    int live = 0;
    EXPECT_TRUE(mi_heap_visit_blocks(heap, true, &CountBlock, &live));
    EXPECT_EQ(live, 1) << "after " << steps << " instructions";
    EXPECT_TRUE(mi_heap_check(heap)) << "after " << steps << " instructions";
    mi_free(other);
    mi_heap_destroy(heap);
  }
  EXPECT_GT(failed, 10);
}

// Who looks at a block while it is resized finds no size of a block that lay there before its page did.
size_t largest;
void LookAtSize() {
  came = true;
  largest = std::max(largest, mi_usable_size(block));
}
TEST(BitPageTest, ASizeThatIsReadDuringAResizeIsOneOfTheBlocksClass) {
  const TrapHandler trap(&OnTrap);
  long steps = 1;
  for (bool in_time = true; in_time; steps++) {
    mi_heap_t* heap = NewAdvisedHeap();
    ASSERT_NE(heap, nullptr);
    void* former[60];
    for (void*& q : former) q = mi_heap_malloc(heap, 33000);
    for (void* q : former) mi_free(q);
    mi_heap_collect(heap, true);
    // One of the first blocks of a page that begins where one of the larger blocks did.
    void* p = nullptr;
    bool found = false;
    for (int i = 0; i < 4000 && !found; i++) {
      p = mi_heap_malloc(heap, 1000);
      found = std::any_of(former, former + 60, [p](void* q) {
        return reinterpret_cast<uintptr_t>(p) - reinterpret_cast<uintptr_t>(q) < 8192 && probe_same_page(p, q);
      });
    }
    ASSERT_TRUE(found);
    largest = 0;
    FreeTwice(p, steps, &LookAtSize,
              [](void* q) { EXPECT_EQ(mi_realloc(q, 600), q); });  // too much padding for the state's byte
    in_time = came;
    EXPECT_LE(largest, 1024u) << "after " << steps << " instructions";
    mi_heap_destroy(heap);
  }
  EXPECT_GT(steps, 50);
}

TEST(BitPageTest, TheSecondFreeIsNoticedAlsoWhenThePageHadToWaitForItsEnd) {
  mi_heap_t* heap = NewAdvisedHeap();
  ASSERT_NE(heap, nullptr);
  ErrorRecorder errors;
  std::vector<void*> blocks(32);
  std::thread([&] {
    for (void*& p : blocks) p = mi_heap_malloc(heap, 100000);
  }).join();
  // Abandoned pages: from both ends, so that most are too far down in their stack to go at once.
  for (size_t i = 0; i < blocks.size(); i++) mi_free(blocks[i % 2 == 0 ? i / 2 : blocks.size() - 1 - i / 2]);
  mi_heap_collect(heap, true);
  for (void* p : blocks) EXPECT_FALSE(probe_bits_free_remote(p));
  EXPECT_EQ(errors.total(), 0);
  EXPECT_TRUE(mi_heap_check(heap));
  mi_heap_destroy(heap);
}

TEST(BitPageRaceTest, OfTwoThreadsThatFreeABlockAtTheSameMomentOneIsTold) {
  mi_option_set(mi_option_purge_delay, -1);  // else the padding of a page that is gone may be, too
  mi_heap_t* heap = NewAdvisedHeap();
  ErrorRecorder errors;
  constexpr int kRounds = 3000;
  std::atomic<void*> shared{nullptr};
  std::atomic<int> freed{0};
  std::thread other([&] {
    for (int round = 0; round < kRounds; round++) {
      void* p;
      while ((p = shared.load()) == nullptr) sched_yield();
      mi_free(p);
      shared = nullptr;
      freed++;
    }
  });
  for (int round = 0; round < kRounds; round++) {
    void* p = mi_heap_malloc(heap, 100000);  // ends with its page
    shared = p;
    for (int i = 0; i < round % 500; i++) Opaque(i);
    mi_free(p);
    while (freed.load() <= round) sched_yield();
    mi_heap_collect(heap, true);
  }
  other.join();
  EXPECT_EQ(errors.count(EAGAIN), kRounds);
  EXPECT_EQ(errors.total(), kRounds);
  EXPECT_TRUE(mi_heap_check(heap));
  mi_heap_destroy(heap);
  mi_option_set(mi_option_purge_delay, 10);
}

// An error callback that allocates in the heap where the error was, and frees the half of that again.
class Allocates {
 public:
  Allocates(mi_heap_t* heap, size_t size) : heap_(heap), size_(size) { mi_register_error(&Told, this); }
  ~Allocates() { mi_register_error(nullptr, nullptr); }
  int told() const { return told_; }
  const std::vector<void*>& blocks() const { return blocks_; }

 private:
  static void Told(int err, void* arg) {
    Allocates* self = static_cast<Allocates*>(arg);
    EXPECT_EQ(err, EAGAIN);
    self->told_++;
    for (int i = 0; i < 10; i++) {
      self->blocks_.push_back(mi_heap_malloc(self->heap_, self->size_));
      void* p = mi_heap_malloc(self->heap_, self->size_);
      mi_free(p);
    }
  }
  mi_heap_t* heap_;
  size_t size_;
  int told_ = 0;
  std::vector<void*> blocks_;
};

// The error callback, as a function of the test's.
class Told {
 public:
  explicit Told(std::function<void(int)> act) : act_(std::move(act)) {
    mi_register_error([](int err, void* arg) { static_cast<Told*>(arg)->act_(err); }, this);
  }
  ~Told() { mi_register_error(nullptr, nullptr); }

 private:
  std::function<void(int)> act_;
};

class BitPageErrorTest : public ::testing::Test {
 protected:
  static constexpr size_t kSize = 64;
  static constexpr int kLive = 64;  // what the page begins with

  void SetUp() override {
    heap_ = NewAdvisedHeap();
    ASSERT_NE(heap_, nullptr);
    for (int i = 0; i < kLive; i++) blocks_.push_back(mi_heap_malloc(heap_, kSize));
  }
  void TearDown() override { mi_heap_destroy(heap_); }

  // By the calling thread and another one, neither of which saw the other: what the other one wrote is overwritten.
  void FreeTwice(size_t i) {
    ASSERT_TRUE(probe_bits_free_unseen(blocks_[i]));
    blocks_.erase(blocks_.begin() + static_cast<long>(i));
  }
  // Nothing that is in use is handed out.
  void ExpectSound(const std::vector<void*>& callbacks) {
    for (int i = 0; i < 2 * kLive; i++) blocks_.push_back(mi_heap_malloc(heap_, kSize));
    blocks_.insert(blocks_.end(), callbacks.begin(), callbacks.end());
    EXPECT_EQ(std::set<void*>(blocks_.begin(), blocks_.end()).size(), blocks_.size());
    EXPECT_TRUE(mi_heap_check(heap_));
  }

  mi_heap_t* heap_;
  std::vector<void*> blocks_;
};

TEST_F(BitPageErrorTest, TheCallbackMayAllocateWhenABlockThatIsHandedOutWasFreedTwice) {
  Allocates error(heap_, kSize);
  for (int round = 1; round <= 20; round++) {  // the last free one of its page now and then
    FreeTwice(20);
    for (int i = 0; i < 5000 && error.told() < round; i++) blocks_.push_back(mi_heap_malloc(heap_, kSize));
    EXPECT_EQ(error.told(), round);
  }
  ExpectSound(error.blocks());
}

TEST_F(BitPageErrorTest, TheCallbackMayAllocateWhenACollectFindsBlocksThatWereFreedTwice) {
  Allocates error(heap_, kSize);
  std::thread([this] {
    for (int i = 0; i < 10; i++) mi_free(blocks_[static_cast<size_t>(i)]);
  }).join();
  blocks_.erase(blocks_.begin(), blocks_.begin() + 10);
  FreeTwice(20);
  FreeTwice(30);
  mi_heap_collect(heap_, false);
  EXPECT_EQ(error.told(), 2);
  ExpectSound(error.blocks());
}

TEST_F(BitPageErrorTest, TheCallbackMayAllocateWhenAFreeEndsThePage) {
  Allocates error(heap_, kSize);
  mi_heap_collect(heap_, true);
  std::vector<void*> first;  // so that the page is not the last of its class
  for (int i = 0; i < 2048; i++) first.push_back(mi_heap_malloc(heap_, kSize));
  FreeTwice(20);
  for (void* p : blocks_) mi_free(p);
  blocks_ = first;
  mi_heap_collect(heap_, true);
  EXPECT_EQ(error.told(), 1);
  ExpectSound(error.blocks());
}

TEST_F(BitPageErrorTest, TheCallbackMayAllocateAtTheEndOfTheThread) {
  Allocates error(heap_, kSize);
  std::thread([this] {
    std::vector<void*> mine;
    for (int i = 0; i < kLive; i++) mine.push_back(mi_heap_malloc(heap_, kSize));
    blocks_.insert(blocks_.end(), mine.begin(), mine.end());
    FreeTwice(kLive + 20);
  }).join();
  EXPECT_EQ(error.told(), 1);
  ExpectSound(error.blocks());
}

// What the callback of a late report does is done by what it is given.
struct Late {
  std::function<void()> act;
  int depth = 0, deepest = 0, told = 0, refused = 0;

  static void Told(int err, void* arg) {
    Late* self = static_cast<Late*>(arg);
    if (err != EAGAIN) {
      self->refused += err == EINVAL;
      return;
    }
    self->told++;
    self->deepest = std::max(self->deepest, ++self->depth);
    self->act();
    self->depth--;
  }
  explicit Late(std::function<void()> what) : act(std::move(what)) { mi_register_error(&Told, this); }
  ~Late() { mi_register_error(nullptr, nullptr); }
};

TEST_F(BitPageErrorTest, ACallbackDoesNotBeginInsideAnother) {
  std::vector<void*> made;
  Late late([&] {
    for (int i = 0; i < 200; i++) made.push_back(mi_heap_malloc(heap_, kSize));
    mi_heap_collect(heap_, true);
    mi_collect(true);
    void* const p = mi_heap_malloc(heap_, kSize);
    mi_free(p);
  });
  FreeTwice(20);
  FreeTwice(30);
  FreeTwice(40);
  mi_heap_collect(heap_, false);
  EXPECT_EQ(late.told, 3);
  EXPECT_EQ(late.deepest, 1);
  ExpectSound(made);
}

TEST_F(BitPageErrorTest, WhatACallbackFreesTwiceIsToldOfAfterIt) {
  Late late([&] {
    if (late.told > 2) return;
    FreeTwice(20);
    mi_heap_collect(heap_, true);
  });
  FreeTwice(20);
  mi_heap_collect(heap_, false);
  EXPECT_EQ(late.told, 1);
  for (int i = 0; i < 2; i++) blocks_.push_back(mi_heap_malloc(heap_, kSize));
  for (int i = 0; i < 5000 && late.told < 3; i++) blocks_.push_back(mi_heap_malloc(heap_, kSize));
  EXPECT_EQ(late.told, 3);
  EXPECT_EQ(late.deepest, 1);
  ExpectSound({});
}

TEST_F(BitPageErrorTest, TheHeapThatIsAllocatedFromDoesNotEndInTheCallback) {
  Late late([this] {
    mi_heap_destroy(heap_);
    mi_heap_delete(heap_);
  });
  for (int round = 1; round <= 20; round++) {
    FreeTwice(20);
    for (int i = 0; i < 5000 && late.told < round; i++) blocks_.push_back(mi_heap_malloc(heap_, kSize));
    ASSERT_EQ(late.told, round);
    ASSERT_EQ(late.refused, 2 * round);
  }
  void* p = mi_heap_malloc(heap_, kSize);
  FreeTwice(20);
  for (int i = 0; i < 5000 && late.told < 21; i++) p = mi_heap_realloc(heap_, p, i % 2 == 0 ? 500 : kSize);
  ASSERT_EQ(late.told, 21);
  ASSERT_EQ(late.refused, 42);
  blocks_.push_back(p);
  ExpectSound({});
}

TEST_F(BitPageErrorTest, OtherHeapsMayEndInTheCallback) {
  mi_heap_t* other = NewAdvisedHeap();
  void* const p = mi_heap_malloc(other, kSize);
  memset(p, 1, kSize);
  Late late([&] { mi_heap_destroy(std::exchange(other, nullptr)); });
  FreeTwice(20);
  mi_heap_collect(heap_, false);
  EXPECT_EQ(late.told, 1);
  EXPECT_EQ(late.refused, 0);
  EXPECT_EQ(other, nullptr);
  ExpectSound({});
}

TEST_F(BitPageErrorTest, AtTheEndOfTheThreadACallbackDoesNotBeginInsideAnotherEither) {
  Late late([&late] {
    mi_heap_t* const heap = NewAdvisedHeap();
    void* const p = mi_heap_malloc(heap, kSize);
    if (late.told < 5) {
      probe_bits_free_unseen(p);
    } else {
      mi_free(p);
    }
    mi_heap_collect(heap, true);
    mi_heap_destroy(heap);
  });
  std::thread([this] {
    std::vector<void*> mine;
    for (int i = 0; i < kLive; i++) mine.push_back(mi_heap_malloc(heap_, kSize));
    blocks_.insert(blocks_.end(), mine.begin(), mine.end());
    FreeTwice(kLive + 20);
    FreeTwice(kLive + 30);
  }).join();
  EXPECT_EQ(late.told, 6);
  EXPECT_EQ(late.deepest, 1);
  ExpectSound({});
}

// An overrun block, and a callback that is told of that when the block is freed or resized.
class OverrunTest : public BitPageErrorTest {
 protected:
  char* MakeOverrun() {
    char* p = static_cast<char*>(Opaque(mi_heap_malloc(heap_, 50)));
    p[50]++;
    return p;
  }
  // Frees the block, and has it from the heap again.
  void FreeAndTakeAgain(void* p) {
    mi_free(p);
    for (int i = 0; i < 2000; i++) {
      blocks_.push_back(mi_heap_malloc(heap_, 50));
      if (blocks_.back() == p) break;
    }
  }
};

TEST_F(OverrunTest, ABlockThatTheCallbackOfItsFreeGetsAnewIsItsOwn) {
  char* const p = MakeOverrun();
  std::vector<int> told;
  Told report([&](int err) {
    told.push_back(err);
    if (err == EFAULT) FreeAndTakeAgain(p);
  });
  mi_free(p);
  EXPECT_EQ(told, (std::vector<int>{EFAULT, EAGAIN}));
  EXPECT_EQ(blocks_.back(), p);
  ExpectSound({});
}

TEST_F(OverrunTest, OneThatTheCallbackOfItsReallocGetsAnewIsItsOwn) {
  for (const size_t size : {size_t{400}, size_t{52}}) {  // moves; stays
    char* const p = MakeOverrun();
    std::vector<int> told;
    Told report([&](int err) {
      told.push_back(err);
      if (err == EFAULT) FreeAndTakeAgain(p);
    });
    void* const q = mi_heap_realloc(heap_, p, size);
    if (q == p) {
      EXPECT_EQ(told, (std::vector<int>{EFAULT}));
    } else {
      EXPECT_EQ(told, (std::vector<int>{EFAULT, EAGAIN}));
      blocks_.push_back(q);
    }
  }
  ExpectSound({});
}

TEST_F(OverrunTest, ItIsToldOfOnce) {
  std::vector<int> told;
  Told report([&](int err) { told.push_back(err); });
  blocks_.push_back(mi_heap_realloc(heap_, MakeOverrun(), 400));
  EXPECT_EQ(told, (std::vector<int>{EFAULT}));
  char* const p = MakeOverrun();
  EXPECT_EQ(mi_expand(p, 40), p);
  EXPECT_EQ(told, (std::vector<int>{EFAULT, EFAULT}));
  mi_free(p);
  EXPECT_EQ(told, (std::vector<int>{EFAULT, EFAULT}));
  ExpectSound({});
}

TEST_F(BitPageErrorTest, ABlockThatADeferredFreeFreesWhileItIsResizedIsNotFreedAgain) {
  static void* resized;
  resized = nullptr;
  mi_heap_register_deferred_free(
      heap_, [](mi_heap_t*, bool, unsigned long long, void*) { mi_free(std::exchange(resized, nullptr)); }, nullptr);
  std::vector<int> told;
  Told report([&](int err) { told.push_back(err); });
  while (told.empty() && blocks_.size() < 20000) {
    void* const p = mi_heap_malloc(heap_, kSize);
    resized = p;
    void* const q = mi_heap_realloc(heap_, p, 700);
    ASSERT_NE(q, nullptr);
    blocks_.push_back(q);
  }
  EXPECT_EQ(told, (std::vector<int>{EAGAIN}));
  mi_heap_register_deferred_free(heap_, nullptr, nullptr);
  ExpectSound({});
}

}  // namespace
}  // namespace mi_test
