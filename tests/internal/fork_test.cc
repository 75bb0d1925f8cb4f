// What the child of a fork puts right (thread.c, theap.c, page.c, segment.c, mi/heap/fork.c), state by state: a probe
// makes the state that a thread could have left, and the test forks. That no other state is left is
// tests/fork_test.cc's business.
#include <errno.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "mi/mimalloc-stats.h"
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
      while (PageOf(blocks[0]).state != PROBE_DELAYED) {
        ASSERT_LE(blocks.size(), 3 * PageOf(blocks[0]).reserved) << "it does not become full";
        blocks.push_back(mi_malloc(3000));
      }
      probe_free_halfway(blocks[0], told);
      EXPECT_EQ(InChild(
                    [&] {
                      // In a bit page the block is free with the first step, and the child has told the theap.
                      CHILD_EXPECT(PageOf(blocks[0]).state == (kSecure ? PROBE_NORMAL : PROBE_DELAYED));
                      InThread([&] { mi_free(blocks[1]); });
                      CHILD_EXPECT(PageOf(blocks[0]).state == PROBE_NORMAL);
                      CHILD_EXPECT(probe_delayed_length(probe_theap_main()) == (told && !kSecure ? 2u : 1u));
                      probe_theap_tidy(probe_theap_main());
                      CHILD_EXPECT(probe_delayed_length(probe_theap_main()) == 0);
                      CHILD_EXPECT(PageOf(blocks[0]).delayed == 0);
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

TEST(ForkSettleTest, AVisitorThatIsGoneIsCountedInNoPage) {
  mi_heap_t* heap = mi_heap_new();
  void* block = nullptr;
  for (int i = 0; i < 30; i++) block = mi_heap_malloc(heap, 9000);
  std::atomic<int> stage{0};
  Worker worker;
  worker.Start([&] {
    auto visitor = [](const mi_heap_t*, const mi_heap_area_t*, void*, size_t, void* arg) {
      std::atomic<int>& at = *static_cast<std::atomic<int>*>(arg);
      if (at == 0) at = 1;
      while (at == 1) std::this_thread::yield();
      return true;
    };
    mi_heap_visit_blocks(heap, true, visitor, &stage);
  });
  while (stage != 1) std::this_thread::yield();
  const probe_page_t before = PageOf(block);
  EXPECT_EQ(before.pinned, 1);
  EXPECT_EQ(InChild([&] {
              const probe_page_t page = PageOf(block);
              CHILD_EXPECT(page.pinned == 0 && page.used == before.used - 1);
              return 0;
            }),
            0);
  stage = 2;
  worker.Wait();
  mi_heap_destroy(heap);
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

TEST(ForkSettleTest, SlicesAreCountedAnewWithWhatThreadsThatAreGoneHadNotCounted) {
  std::vector<void*> blocks(12);
  Worker worker;
  worker.Run([&] {
    for (void*& block : blocks) block = mi_malloc(100 * kKiB);  // less than a thread tells the others of
    for (int i = 0; i < 3; i++) mi_free(blocks[i]);
  });
  EXPECT_EQ(InChild([&] {
              const probe_counts_t counts = probe_counts();
              long held = 0, used = 0;
              for (size_t a = 0; a < probe_arena_count(); a++) {
                for (size_t i = 0; i < probe_arena(a).ready; i++) {
                  const probe_segment_t segment = probe_segment(a, i);
                  if (segment.kind == PROBE_SEGMENT_PRIVATE) continue;
                  const uint64_t idle = segment.unused ? ~uint64_t{0} : segment.free;
                  held += __builtin_popcountll(idle & segment.backed);
                  used += __builtin_popcountll(~idle);
                }
              }
              CHILD_EXPECT(counts.held == held && counts.used == used);
              // This thread's own share is in them, and is not added again.
              std::vector<void*> more(64);
              for (void*& block : more) block = mi_malloc(100 * kKiB);
              CHILD_EXPECT(std::labs(probe_counts().used - used - 128) < 20);
              for (void* block : more) mi_free(block);
              CHILD_EXPECT(std::labs(probe_counts().used - used) < 20);
              return 0;
            }),
            0);
  worker.Run([&] {
    for (size_t i = 3; i < blocks.size(); i++) mi_free(blocks[i]);
  });
}

// What statistics say of the process.
mi_stats_t Statistics() {
  mi_stats_t stats = {};
  stats.size = sizeof(stats);
  stats.version = MI_STAT_VERSION;
  mi_stats_get(&stats);
  return stats;
}

TEST(ForkSettleTest, ThreadsThatAreGoneAndTheirTheapsAreNotCountedAnyMore) {
  mi_heap_t* heap = mi_heap_new();
  Worker worker;
  worker.Run([&] { Opaque(mi_heap_theap(heap)); });
  InThread([&] {
    Opaque(mi_heap_theap(heap));
    EXPECT_EQ(InChild([&] {
                CHILD_EXPECT(Statistics().threads.current == 1);
                CHILD_EXPECT(Statistics().theaps.current == 2);
                mi_heap_destroy(heap);
                CHILD_EXPECT(Statistics().theaps.current == 1);
                InThread([] { mi_free(mi_malloc(1)); });
                CHILD_EXPECT(Statistics().threads.current == 1);
                return 0;
              }),
              0);
  });
  mi_heap_destroy(heap);
}

TEST(ForkSettleTest, AThreadThatForksWhileItEndsAnothersRecordStaysItself) {
  if (kSanitized) GTEST_SKIP() << "the sanitizers want threads to end properly";
  static uint64_t id;
  static pid_t child;
  child = -1;
  InThreadWithoutEnd([] { id = probe_thread_id(); });
  // What the thread would have done is called by who ends its record, in its name.
  mi_register_deferred_free(
      [](bool, unsigned long long, void*) {
        if (child == -1 && probe_thread_id() == id) child = fork();
      },
      nullptr);
  InThread([] {
    mi_heap_t* heap = mi_heap_new();
    Opaque(mi_heap_theap(heap));
    while (probe_tid_is_alive(id)) {
      mi_collect(true);
      sched_yield();
    }
    if (child == 0) {
      alarm(60);
      _exit([&] {
        CHILD_EXPECT(Statistics().threads.current == 1);
        CHILD_EXPECT(Statistics().theaps.current == 2);
        mi_heap_destroy(heap);
        CHILD_EXPECT(Statistics().theaps.current == 1);
        CHILD_EXPECT(probe_heap(heap).gone);
        return 0;
      }());
    }
    mi_heap_destroy(heap);
  });
  mi_register_deferred_free(nullptr, nullptr);
  ASSERT_GT(child, 0);
  int status = -1;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

TEST(ForkSettleTest, ASubProcessWhoseThreadsAreGoneCanEnd) {
  const mi_subproc_id_t group = mi_subproc_new();
  Worker worker;
  worker.Run([&] {
    mi_subproc_add_current_thread(group);
    EXPECT_NE(mi_malloc(5000), nullptr);
  });
  EXPECT_EQ(InChild([&] {
              ErrorRecorder errors;
              Worker another;
              another.Run([&] { mi_subproc_add_current_thread(group); });
              mi_subproc_destroy(group);
              CHILD_EXPECT(errors.count(EINVAL) == 1);  // a thread of this process is in it
              another.Exit();
              mi_subproc_destroy(group);
              CHILD_EXPECT(errors.total() == 1);
              return 0;
            }),
            0);
  worker.Exit();
  ErrorRecorder errors;
  mi_subproc_destroy(group);
  EXPECT_EQ(errors.total(), 0);
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
  if (kSecure) GTEST_SKIP() << kNoRegions;
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
  if (kSecure) GTEST_SKIP() << kNoRegions;
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
