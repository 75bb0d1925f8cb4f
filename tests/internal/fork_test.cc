// What the child of a fork puts right (thread.c, theap.c, page.c, segment.c, mi/heap/fork.c), state by state: a probe
// makes the state that a thread could have left, and the test forks. That no other state is left is
// tests/fork_test.cc's business.
#include <cstdint>
#include <vector>

#include "gtest/gtest.h"
#include "tests/internal/probe.h"
#include "tests/test_support.h"

namespace mi_test {
namespace {

// In the child: ends it with the line at which a condition did not hold.
#define CHILD_EXPECT(condition)                                                     \
  do {                                                                              \
    if (!(condition)) {                                                             \
      fprintf(stderr, "%s:%d: in the child: %s\n", __FILE__, __LINE__, #condition); \
      return 1;                                                                     \
    }                                                                               \
  } while (false)

probe_page_t PageOf(const void* p) {
  probe_page_t page{};
  probe_page_of(p, &page);
  return page;
}

TEST(ForkSettleTest, AFullPageInWhichAFreeStoppedHalfwayIsFullAgainAndLearnsOfTheNextFree) {
  InThread([] {
    for (bool told : {false, true}) {
      std::vector<void*> blocks = {mi_malloc(3000)};
      const size_t reserved = PageOf(blocks[0]).reserved;
      while (blocks.size() <= reserved) blocks.push_back(mi_malloc(3000));
      ASSERT_EQ(PageOf(blocks[0]).state, PROBE_DELAYED);
      probe_free_halfway(blocks[0], told);
      EXPECT_EQ(InChild(
                    [&] {
                      CHILD_EXPECT(PageOf(blocks[0]).state == PROBE_DELAYED);
                      InThread([&] { mi_free(blocks[1]); });
                      CHILD_EXPECT(PageOf(blocks[0]).state == PROBE_NORMAL);
                      CHILD_EXPECT(probe_delayed_length(probe_theap_main()) == (told ? 2u : 1u));
                      probe_theap_tidy(probe_theap_main());
                      CHILD_EXPECT(probe_delayed_length(probe_theap_main()) == 0);
                      CHILD_EXPECT(probe_theap_is_sound(probe_theap_main()));
                      mi_thread_done();  // waits for frees that are half done
                      return 0;
                    },
                    30),
                0);
      probe_free_go_on(blocks[0], told);
      probe_theap_tidy(probe_theap_main());
      for (size_t i = 1; i < blocks.size(); i++) mi_free(blocks[i]);
    }
  });
}

TEST(ForkSettleTest, ALargeBlockWhoseFreeStoppedHalfwayHoldsNobodyUp) {
  InThread([] {
    void* block = mi_malloc(200 * kKiB);
    probe_free_halfway(block, true);
    EXPECT_EQ(InChild(
                  [&] {
                    probe_theap_tidy(probe_theap_main());
                    CHILD_EXPECT(mi_heap_of(block) == nullptr);
                    mi_thread_done();
                    return 0;
                  },
                  30),
              0);
    probe_free_go_on(block, true);
  });
}

TEST(ForkSettleTest, SummariesThatWereNotSetAreSet) {
  std::vector<void*> blocks;
  for (int i = 0; i < 100; i++) blocks.push_back(mi_malloc(300 * kKiB));
  for (void* block : blocks) mi_free(block);
  EXPECT_EQ(InChild([] {
              size_t with_free = 0;
              std::vector<probe_segment_t> before;
              for (size_t i = 0; i < probe_arena(0).ready; i++) before.push_back(probe_segment(0, i));
              probe_summaries_forget();
              return InChild([&] {
                for (size_t i = 0; i < before.size(); i++) {
                  const probe_segment_t now = probe_segment(0, i);
                  CHILD_EXPECT(now.free == before[i].free);
                  CHILD_EXPECT(now.has_free == (now.free != 0));
                  with_free += now.has_free;
                  if (now.kind == PROBE_SEGMENT_NORMAL && (now.free & now.backed) != 0) CHILD_EXPECT(now.purgeable);
                  if (now.unused && now.backed != 0) CHILD_EXPECT(now.purgeable);
                }
                CHILD_EXPECT(with_free > 0);
                mi_collect(true);  // finds it all
                for (size_t i = 0; i < before.size(); i++) {
                  const probe_segment_t now = probe_segment(0, i);
                  CHILD_EXPECT(now.kind != PROBE_SEGMENT_NORMAL || (now.free & now.backed) == 0);
                }
                return 0;
              });
            }),
            0);
}

TEST(ForkSettleTest, HandlesThatWereCountedAsReturnedAndAreNotDoNotCount) {
  mi_free(mi_malloc(1));
  const uint32_t before = probe_returned_bytes();
  probe_returned_count(5000);
  EXPECT_EQ(InChild([&] {
              CHILD_EXPECT(probe_returned_bytes() == before);
              return 0;
            }),
            0);
  probe_returned_count(static_cast<uint32_t>(-5000));
}

// A heap of a thread that is alive in the parent, and gone in its children.
class ForkedHeapTest : public ::testing::Test {
 protected:
  ForkedHeapTest() {
    worker_.Run([this] {
      heap_ = mi_heap_new();
      for (int i = 0; i < 200; i++) blocks_.push_back(mi_heap_malloc(heap_, 100));
    });
    main_ = mi_heap_malloc(heap_, 100);
    // Who makes more heaps than it ends keeps the handles of those that it ends, with their regions.
    for (mi_heap_t*& heap : others_) heap = mi_heap_new();
  }
  ~ForkedHeapTest() override {
    mi_heap_destroy(heap_);
    for (mi_heap_t* heap : others_) mi_heap_destroy(heap);
  }

  Worker worker_;
  mi_heap_t* heap_ = nullptr;
  std::vector<void*> blocks_;
  void* main_ = nullptr;
  mi_heap_t* others_[10];
};

TEST_F(ForkedHeapTest, AnObjectThatWasAboutToBeMadeIsNoneAndDoesNotComeBackWithItsRegion) {
  size_t more = 0;
  worker_.Run([&] { more = probe_object_halfway(heap_); });
  EXPECT_EQ(InChild([&] {
              CHILD_EXPECT(CountBlocks(heap_) == blocks_.size() + more + 1);
              mi_heap_destroy(heap_);
              // The handle and its regions are the next heap's: each object is as large as it was asked for.
              mi_heap_t* next = mi_heap_new();
              std::vector<void*> blocks;
              for (int i = 0; i < 2000; i++) {
                blocks.push_back(mi_heap_malloc(next, 500));
                CHILD_EXPECT(mi_usable_size(blocks.back()) >= 500);
              }
              for (void* p : blocks) CHILD_EXPECT(mi_usable_size(p) >= 500);
              CHILD_EXPECT(ShowsExactly(next, blocks));
              mi_heap_destroy(next);
              return 0;
            }),
            0);
}

TEST_F(ForkedHeapTest, RegionsThatAreInUseAndSpareAreNotUsedTwice) {
  worker_.Run([this] { probe_spare_regions_in_use(heap_, true); });
  for (int fate = 0; fate < 3; fate++) {
    EXPECT_EQ(InChild([&] {
                if (fate == 0) mi_heap_destroy(heap_);
                if (fate == 1) mi_heap_reset(heap_);
                if (fate == 2) mi_heap_delete(heap_);
                mi_heap_t* next = mi_heap_new();
                std::vector<unsigned char*> blocks;
                for (int i = 0; i < 3000; i++) {
                  mi_heap_t* heap = fate == 1 && i % 2 == 0 ? heap_ : next;
                  blocks.push_back(static_cast<unsigned char*>(mi_heap_malloc(heap, 200)));
                  memset(blocks.back(), i, 200);
                }
                for (int i = 0; i < 3000; i++) {
                  CHILD_EXPECT(FindOther(blocks[i], 0, 200, static_cast<unsigned char>(i)) == 200);
                }
                return 0;
              }),
              0);
  }
  worker_.Run([this] { probe_spare_regions_in_use(heap_, false); });
}

TEST_F(ForkedHeapTest, AClosedHeapWhoseThreadsAreGoneKeepsItsHandle) {
  EXPECT_EQ(InChild([&] {
              void* large = mi_heap_malloc(heap_, 20000);
              mi_heap_delete(heap_);
              mi_free(large);
              mi_free(main_);
              for (void* p : blocks_) mi_free(p);
              mi_collect(true);
              CHILD_EXPECT(probe_heap(heap_).closed && !probe_heap(heap_).gone);
              return 0;
            }),
            0);
}

TEST(ForkStampTest, IsNeverThatOfTheFirstProcessInAnyChild) {
  EXPECT_EQ(probe_fork_stamp(), 1u);
  // One fork inside the other, beyond the number of stamps.
  std::function<int(int)> deeper = [&](int depth) {
    if (probe_fork_stamp() < 2) return 1;
    return depth == 0 ? 0 : InChild([&] { return deeper(depth - 1); });
  };
  EXPECT_EQ(InChild([&] { return deeper(256); }), 0);
}

}  // namespace
}  // namespace mi_test
