// mi_heap_check: it finds nothing where nothing is wrong, and names each of the faults that are seeded here.
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/internal/faults.h"
#include "tests/internal/probe.h"
#include "tests/single_steps.h"
#include "tests/test_support.h"

namespace mi_test {
namespace {

// A heap with something of everything, of the calling thread.
class Everything {
 public:
  Everything() {
    mi_heap_config_t config = {};
    config.size = sizeof(config);
    config.name = "seeded";
    heap_ = mi_heap_new_with(&config);
    for (int i = 0; i < 500; i++) Make(100);  // regions, of which some stay as spare ones
    blocks_.clear();
    mi_heap_reset(heap_);
    for (int i = 0; i < 60; i++) Make(16 + static_cast<size_t>(i));
    for (size_t size : {64, 400, 1500, 3000}) {
      for (size_t bytes = 0; bytes < 400 * kKiB; bytes += size) Make(size);
    }
    for (size_t i = 1; i < blocks_.size(); i += 3) {  // of all regions and pages, so that both lists have blocks
      mi_free(blocks_[i]);
      blocks_[i] = nullptr;
    }
    for (int i = 0; i < 8000; i++) Make(64);
    Make(10000);
    Make(100000);
    Make(10 * kMiB);
    InThread([this] {  // its pages are abandoned when it ends
      for (int i = 0; i < 3000; i++) ASSERT_NE(mi_heap_malloc(heap_, 200), nullptr);
    });
    size_t last = blocks_.size() - 4;
    InThread([this, last] {  // blocks of full pages, and of one that is not full
      for (size_t i = last - 4000; i <= last; i += 100) {
        mi_free(blocks_[i]);
        blocks_[i] = nullptr;
      }
      mi_free(blocks_[last]);
    });
    mi_heap_t* other = mi_heap_new();
    for (int i = 0; i < 100; i++) EXPECT_NE(mi_heap_malloc(other, 100), nullptr);
    mi_heap_merge(other, heap_);
  }
  ~Everything() { mi_heap_destroy(heap_); }
  mi_heap_t* heap() const { return heap_; }

 private:
  void Make(size_t size) {
    blocks_.push_back(mi_heap_malloc(heap_, size));
    ASSERT_NE(blocks_.back(), nullptr);
  }
  mi_heap_t* heap_;
  std::vector<void*> blocks_;
};

TEST(CheckTest, EachSeededFaultIsNamedAndTheHeapIsSoundWithoutIt) {
  InThread([] {
    Everything everything;
    ASSERT_TRUE(mi_heap_check(everything.heap()));
    size_t applied = 0;
    for (size_t fault = 0; fault < faults_count(); fault++) {
      SCOPED_TRACE(faults_name(fault));
      ErrorRecorder recorder;
      if (!faults_apply(fault, everything.heap())) {
        // There the heap has no regions and no lists.
        if (!kSecure) ADD_FAILURE() << "the heap has no place for this fault";
        faults_undo();
        continue;
      }
      applied++;
      bool sound = mi_heap_check(everything.heap());
      faults_undo();
      EXPECT_FALSE(sound);
      EXPECT_EQ(recorder.errors(), std::vector<int>{EFAULT});
      EXPECT_NE(recorder.text().find(faults_message(fault)), std::string::npos) << recorder.text();
      EXPECT_NE(recorder.text().find("seeded"), std::string::npos) << recorder.text();
      ASSERT_TRUE(mi_heap_check(everything.heap())) << "the fault was undone";
    }
    EXPECT_GT(applied, 50u);
  });
}

TEST(CheckTest, TheMessageIsPrintedAlthoughErrorsAreNot) {
  InThread([] {
    Everything everything;
    ErrorRecorder recorder;
    mi_option_set(mi_option_show_errors, 0);
    ASSERT_TRUE(faults_apply(2, everything.heap()));
    EXPECT_FALSE(mi_heap_check(everything.heap()));
    faults_undo();
    EXPECT_NE(recorder.text().find(faults_message(2)), std::string::npos) << recorder.text();
  });
}

TEST(CheckTest, AHeapIsNotCheckedInsideAVisitOfIt) {
  mi_heap_t* heap = mi_heap_new();
  void* p = mi_heap_malloc(heap, 100);
  ASSERT_NE(p, nullptr);
  ErrorRecorder recorder;
  struct Seen {
    mi_heap_t* heap;
    bool sound = true;
  } seen{heap};
  mi_heap_visit_blocks(
      heap, false,
      [](const mi_heap_t*, const mi_heap_area_t*, void*, size_t, void* arg) {
        Seen* s = static_cast<Seen*>(arg);
        s->sound = mi_heap_check(s->heap);
        return true;
      },
      &seen);
  EXPECT_FALSE(seen.sound);
  EXPECT_EQ(recorder.errors(), std::vector<int>{EINVAL});
  mi_heap_destroy(heap);
}

// The thread that makes a page may lose its processor after any instruction of that, for as long as it takes.
class CheckStepTest : public ::testing::TestWithParam<uint32_t> {
 protected:
  static long steps_left_;
  static bool came_;
  static bool sound_;
  static mi_heap_t* checked_;

  static void OnTrap(int, siginfo_t*, void* context) {
    if (--steps_left_ > 0) return;
    StopSteps(context);
    came_ = true;
    sound_ = mi_heap_check(checked_);
  }
  // A block of `heap`; after so many instructions `checked` is looked at.
  static void* Allocate(mi_heap_t* heap, mi_heap_t* checked, long steps) {
    checked_ = checked;
    steps_left_ = steps;
    came_ = false;
    sound_ = true;
    TrapFlag(true);
    void* p = mi_heap_malloc(heap, 100000);
    TrapFlag(false);
    return p;
  }
};
long CheckStepTest::steps_left_;
bool CheckStepTest::came_;
bool CheckStepTest::sound_;
mi_heap_t* CheckStepTest::checked_;

TEST_P(CheckStepTest, APageThatAnotherHeapIsMakingIsNotTheOneOfWhoHadItsSlotBefore) {
  if (kSanitized) GTEST_SKIP() << "goes through instructions";
  const TrapHandler trap(&OnTrap);
  mi_heap_config_t config{};
  config.size = sizeof(config);
  config.flags = GetParam();
  mi_heap_t* heap = mi_heap_new_with(&config);
  mi_heap_t* other = mi_heap_new_with(&config);
  ASSERT_NE(mi_heap_malloc(heap, 100), nullptr);
  ASSERT_NE(mi_heap_malloc(other, 100000), nullptr);
  int same = 0;
  came_ = true;
  const bool is_long = (kSecure || GetParam() != 0);  // a page with bits takes many more
  for (long steps = 1; came_; steps += (is_long ? 31 : 3)) {
    void* p = mi_heap_malloc(heap, 100000);
    mi_free(p);
    void* q = Allocate(other, heap, steps);
    same += p == q;
    EXPECT_TRUE(sound_) << "after " << steps << " instructions";
    mi_free(q);
  }
  EXPECT_GT(same, 20) << "its slot was another one";
  mi_heap_destroy(other);
  mi_heap_destroy(heap);
}

INSTANTIATE_TEST_SUITE_P(Flags, CheckStepTest, ::testing::Values(0u, static_cast<uint32_t>(MI_HEAP_HARDENED)));

}  // namespace
}  // namespace mi_test
