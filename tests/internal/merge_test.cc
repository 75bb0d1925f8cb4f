// mi/heap/merge.c and heap.c: the counts by which a closed heap knows that it is done.
#include <algorithm>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "tests/internal/probe.h"
#include "tests/test_support.h"

namespace mi_test {
namespace {

void FreeAll(const std::vector<void*>& blocks) {
  for (void* block : blocks) mi_free(block);
}

TEST(ReferencesTest, OneForTheHeapAndOneForEveryTheapAttached) {
  mi_heap_t* heap = mi_heap_new();
  EXPECT_EQ(probe_heap(heap).refs, 1u);
  ASSERT_NE(mi_heap_malloc(heap, 100), nullptr);
  EXPECT_EQ(probe_heap(heap).refs, kSecure ? 2u : 1u) << "a young part is no theap";
  ASSERT_NE(mi_heap_theap(heap), nullptr);
  EXPECT_EQ(probe_heap(heap).refs, 2u);
  {
    Worker workers[3];
    size_t expected = 2;
    for (Worker& worker : workers) {
      worker.Run([&] {
        ASSERT_NE(mi_heap_malloc(heap, 20000), nullptr);
        ASSERT_NE(mi_heap_malloc(heap, 30000), nullptr);
      });
      EXPECT_EQ(probe_heap(heap).refs, ++expected);
    }
    EXPECT_EQ(probe_heap(heap).lanes, 3u);
    EXPECT_EQ(probe_heap(heap).pages_out, 0);
  }
  EXPECT_EQ(probe_heap(heap).refs, 2u);
  EXPECT_EQ(probe_heap(heap).pages_out, 6);
  InThread([&] {
    ASSERT_NE(mi_heap_malloc(heap, 20000), nullptr);
    EXPECT_EQ(probe_heap(heap).lanes, 3u) << "a lane whose thread ended is adopted";
    EXPECT_EQ(probe_heap(heap).pages_out, 5);
  });
  mi_heap_destroy(heap);
  EXPECT_TRUE(probe_heap(heap).gone);
}

TEST(DeleteTest, ACountedHeapIsFreedWithItsLastBlock) {
  InThread([] {
    size_t before = probe_heap(mi_heap_main()).forwarders;
    mi_heap_t* heap = mi_heap_new();
    std::vector<void*> blocks;
    for (int i = 0; i < 4; i++) blocks.push_back(mi_heap_malloc(heap, 12000));  // a page
    for (int i = 0; i < 10; i++) blocks.push_back(mi_heap_malloc(heap, 100));   // regions
    blocks.push_back(mi_heap_malloc(heap, 300000));                             // a page of its own
    blocks.push_back(mi_heap_malloc(heap, 5 * kMiB));                           // segments of its own
    EXPECT_EQ(probe_heap(heap).refs, 2u);
    mi_heap_delete(heap);
    probe_heap_t closed = probe_heap(heap);
    EXPECT_TRUE(closed.closed);
    EXPECT_EQ(closed.into, mi_heap_main());
    EXPECT_EQ(closed.refs, 1u) << "the calling thread's theap left at once";
    EXPECT_EQ(closed.pages_out, kSecure ? 4 : 3) << "in the secure build those of 100 have a page";
    EXPECT_EQ(probe_heap(mi_heap_main()).forwarders, before + 1);
    while (blocks.size() > 1) {
      EXPECT_EQ(mi_heap_of(blocks.back()), mi_heap_main());
      size_t at = blocks.size() * 7 / 11 % blocks.size();
      mi_free(blocks[at]);
      blocks.erase(blocks.begin() + static_cast<ptrdiff_t>(at));
      mi_collect(true);
      EXPECT_FALSE(probe_heap(heap).gone) << blocks.size() << " blocks are left";
    }
    mi_free(blocks[0]);
    mi_collect(true);
    EXPECT_TRUE(probe_heap(heap).gone);
    EXPECT_EQ(probe_heap(mi_heap_main()).forwarders, before);
  });
}

TEST(DeleteTest, AHeapWithoutBlocksIsGoneAtOnce) {
  InThread([] {
    size_t before = probe_heap(mi_heap_main()).forwarders;
    mi_heap_t* heap = mi_heap_new();
    std::vector<void*> blocks;
    for (int i = 0; i < 3000; i++) blocks.push_back(mi_heap_malloc(heap, 200));
    FreeAll(blocks);
    mi_heap_delete(heap);
    EXPECT_TRUE(probe_heap(heap).gone);
    EXPECT_EQ(probe_heap(mi_heap_main()).forwarders, before);
  });
}

TEST(DeleteTest, PagesOutFallWhenOtherThreadsFreeAndNobodyAllocates) {
  mi_heap_t* heap = mi_heap_new();
  std::vector<void*> blocks;
  for (int i = 0; i < 200; i++) blocks.push_back(mi_heap_malloc(heap, 20000));
  mi_heap_delete(heap);
  long pages = probe_heap(heap).pages_out;
  EXPECT_GE(pages, 200 / 25);
  InThreads(3, [&](int thread) {
    for (size_t i = thread; i < blocks.size(); i += 3) mi_free(blocks[i]);
  });
  EXPECT_LE(probe_heap(heap).pages_out, pages);
  EXPECT_GE(probe_heap(heap).pages_out, 0);
  mi_collect(true);
  EXPECT_TRUE(probe_heap(heap).gone);
}

TEST(DeleteTest, EmptyPagesOfALargeHeapThatNobodyTakesPagesFromGoBackWithoutACollect) {
  InThread([] {
    mi_heap_config_t config{};
    config.size = sizeof(config);
    config.flags = MI_HEAP_HARDENED;
    mi_heap_t* heap = mi_heap_new_with(&config);
    ASSERT_NE(heap, nullptr);
    std::vector<void*> blocks;
    for (int i = 0; i < 20000; i++) blocks.push_back(mi_heap_malloc(heap, i % 2 == 0 ? 1000 : 3000));
    mi_heap_delete(heap);
    const long pages = probe_heap(heap).pages_out;
    ASSERT_GT(pages, 500);
    // One block in 2,000 stays, others come from the first pages on.
    std::vector<void*> kept;
    for (size_t i = 0; i < blocks.size(); i++) {
      if (i % 2000 == 0) {
        kept.push_back(blocks[i]);
      } else {
        mi_free(blocks[i]);
      }
    }
    std::vector<void*> own;
    for (int i = 0; i < 200000 && probe_heap(heap).pages_out > 10; i++) own.push_back(mi_malloc(1 + i % 1000));
    EXPECT_EQ(probe_heap(heap).pages_out, 10) << "of " << pages;
    EXPECT_TRUE(mi_heap_check(mi_heap_main()));
    FreeAll(kept);
    for (int i = 0; i < 200000 && !probe_heap(heap).gone; i++) own.push_back(mi_malloc(1 + i % 1000));
    EXPECT_TRUE(probe_heap(heap).gone);
    FreeAll(own);
  });
}

TEST(DeleteTest, PagesAreFoundAgainWhenATargetOfAnotherPolicyEndsBeforeThem) {
  InThread([] {
    mi_heap_config_t config{};
    config.size = sizeof(config);
    config.flags = MI_HEAP_HARDENED;
    mi_heap_t* hardened = mi_heap_new_with(&config);
    mi_heap_t* heap = mi_heap_new();
    ASSERT_NE(hardened, nullptr);
    std::vector<void*> blocks;
    InThread([&] {
      for (int i = 0; i < 20000; i++) blocks.push_back(mi_heap_malloc(heap, 1000));
    });
    mi_heap_merge(heap, hardened);
    const long pages = probe_heap(heap).pages_out;
    ASSERT_GT(pages, 200);
    // The hardened heap looks for pages of many classes, and at its forwarder each time.
    for (int i = 0; i < 4000; i++) ASSERT_NE(mi_heap_malloc(hardened, 1000 + i % 50 * 600), nullptr);
    mi_heap_delete(hardened);
    // Threads of the main heap may take the pages now.
    std::vector<void*> own;
    for (int i = 0; i < 400000 && probe_heap(heap).pages_out > 0; i++) own.push_back(mi_malloc(1 + i % 1000));
    FreeAll(blocks);
    for (int i = 0; i < 400000 && !probe_heap(heap).gone; i++) own.push_back(mi_malloc(1 + i % 1000));
    EXPECT_TRUE(probe_heap(heap).gone) << probe_heap(heap).pages_out << " of " << pages;
    FreeAll(own);
    EXPECT_TRUE(mi_heap_check(mi_heap_main()));
  });
}

TEST(DeleteTest, ClosedHeapsDoNotPileUpWhereNobodyCollectsOrAllocatesInTheirClasses) {
  InThread([] {
    size_t before = probe_heap(mi_heap_main()).forwarders;
    for (int i = 0; i < Scaled(20000); i++) {
      mi_heap_t* heap = mi_heap_new();
      void* block = mi_heap_malloc(heap, i % 2 == 0 ? 20000 : 200);
      ASSERT_NE(block, nullptr);
      mi_heap_delete(heap);
      mi_free(block);
      mi_free(mi_malloc(100));
      ASSERT_LE(probe_heap(mi_heap_main()).forwarders, before + 250) << "after " << i << " heaps";
    }
    mi_collect(true);
    EXPECT_LE(probe_heap(mi_heap_main()).forwarders, before);
  });
}

TEST(DeleteTest, ACollectLooksThroughThoseOfTheThreadsSubprocess) {
  mi_subproc_id_t subproc = mi_subproc_new();
  std::thread([&] {
    mi_subproc_add_current_thread(subproc);
    for (bool force : {false, true}) {
      mi_heap_t* heap = mi_heap_new();
      std::vector<void*> blocks;
      for (size_t i = 0; i < 2000; i++) blocks.push_back(mi_heap_malloc(heap, 1 + i));
      mi_heap_delete(heap);
      for (void* p : blocks) {
        ASSERT_EQ(mi_heap_of(p), mi_heap_main());
        mi_free(p);
      }
      EXPECT_FALSE(probe_heap(heap).gone);
      mi_collect(force);
      EXPECT_TRUE(probe_heap(heap).gone) << force;
    }
  }).join();
  mi_subproc_destroy(subproc);
}

TEST(DeleteTest, TheMainHeapTakesAForwardersPagesWhenItLooksForThatClass) {
  InThread([] {
    mi_collect(true);
    mi_heap_t* heap = mi_heap_new();
    void* block = mi_heap_malloc(heap, 20000);
    probe_page_t page;
    ASSERT_TRUE(probe_page_of(block, &page));
    EXPECT_EQ(page.heap, heap);
    mi_heap_delete(heap);
    ASSERT_EQ(probe_heap(heap).pages_out, 1);
    void* more = mi_malloc(20000);
    probe_page_t now;
    ASSERT_TRUE(probe_page_of(more, &now));
    EXPECT_EQ(now.slot, page.slot);
    EXPECT_EQ(now.heap, mi_heap_main());
    mi_free(more);
    mi_free(block);
    mi_collect(true);
    EXPECT_TRUE(probe_heap(heap).gone) << "nothing is left of the closed heap";
  });
}

TEST(MergeTest, AChainOfForwardersIsFreedWhenItsLastBlockGoes) {
  InThread([] {
    mi_heap_t* heaps[4];
    std::vector<void*> blocks[4];
    for (int i = 0; i < 4; i++) {
      heaps[i] = mi_heap_new();
      blocks[i] = {mi_heap_malloc(heaps[i], 100), mi_heap_malloc(heaps[i], 20000), mi_heap_malloc(heaps[i], 400000)};
    }
    for (int i = 0; i < 3; i++) mi_heap_merge(heaps[i], heaps[i + 1]);
    for (int i = 0; i < 3; i++) {
      EXPECT_EQ(probe_heap(heaps[i]).into, heaps[3]) << "no chain stays: " << i;
      EXPECT_TRUE(probe_heap(heaps[i]).closed);
      EXPECT_EQ(probe_heap(heaps[i]).refs, 1u);
      EXPECT_EQ(probe_heap(heaps[i]).pages_out, kSecure ? 3 : 2) << "in the secure build all three have a page";
      EXPECT_EQ(probe_heap(heaps[i]).forwarders, 0u) << "its own went on with it";
      for (void* block : blocks[i]) EXPECT_EQ(mi_heap_of(block), heaps[3]);
    }
    EXPECT_EQ(probe_heap(heaps[3]).forwarders, 3u);
    FreeAll(blocks[1]);
    mi_heap_collect(heaps[3], true);
    EXPECT_EQ(probe_heap(heaps[3]).forwarders, 2u);
    EXPECT_TRUE(probe_heap(heaps[1]).gone);
    FreeAll(blocks[0]);
    FreeAll(blocks[2]);
    mi_heap_collect(heaps[3], true);
    EXPECT_EQ(probe_heap(heaps[3]).forwarders, 0u);
    EXPECT_TRUE(probe_heap(heaps[0]).gone);
    EXPECT_TRUE(probe_heap(heaps[2]).gone);
    EXPECT_EQ(mi_heap_of(blocks[3][0]), heaps[3]);
    mi_heap_destroy(heaps[3]);
    EXPECT_TRUE(probe_heap(heaps[3]).gone);
  });
}

TEST(MergeTest, DestroyingTheTargetFreesItsForwarders) {
  InThread([] {
    mi_heap_t* target = mi_heap_new();
    std::vector<mi_heap_t*> heaps;
    std::vector<probe_page_t> pages;
    for (int i = 0; i < 20; i++) {
      heaps.push_back(mi_heap_new());
      ASSERT_NE(mi_heap_malloc(heaps.back(), 100), nullptr);
      void* block = mi_heap_malloc(heaps.back(), 300000);
      pages.emplace_back();
      ASSERT_TRUE(probe_page_of(block, &pages.back()));
      mi_heap_merge(heaps.back(), target);
    }
    EXPECT_EQ(probe_heap(target).forwarders, 20u);
    mi_heap_destroy(target);
    for (mi_heap_t* heap : heaps) EXPECT_TRUE(probe_heap(heap).gone);
    for (const probe_page_t& page : pages) EXPECT_TRUE(probe_slices_are_free(page.slot, page.slices));
  });
}

TEST(MergeTest, AForwarderWaitsForTheTheapOfAThreadThatHasNotLookedYet) {
  Worker worker;
  mi_heap_t* heap = mi_heap_new();
  mi_heap_t* target = mi_heap_new();
  void* block = nullptr;
  worker.Run([&] { block = mi_heap_malloc(heap, 20000); });
  mi_heap_merge(heap, target);
  EXPECT_EQ(probe_heap(heap).refs, 2u);
  EXPECT_EQ(probe_heap(heap).pages_out, 0);
  mi_free(block);
  mi_heap_collect(target, true);
  EXPECT_FALSE(probe_heap(heap).gone) << "the worker's theap is still attached";
  EXPECT_EQ(probe_heap(target).forwarders, 1u);
  worker.Run([] { mi_free(mi_malloc(100000)); });
  EXPECT_EQ(probe_heap(heap).refs, 1u);
  mi_heap_collect(target, true);
  EXPECT_TRUE(probe_heap(heap).gone);
  EXPECT_EQ(probe_heap(target).forwarders, 0u);
  mi_heap_destroy(target);
}

TEST(MergeTest, ForwardersAreLookedThroughWhileTheTargetAllocates) {
  InThread([] {
    mi_heap_t* target = mi_heap_new();
    std::vector<void*> blocks;
    for (int i = 0; i < 50; i++) {
      mi_heap_t* heap = mi_heap_new();
      for (int k = 0; k < 20; k++) blocks.push_back(mi_heap_malloc(heap, 100));  // regions
      if (i % 2 == 0) blocks.push_back(mi_heap_malloc(heap, 20000));             // and pages
      mi_heap_merge(heap, target);
    }
    ASSERT_EQ(probe_heap(target).forwarders, 50u);
    FreeAll(blocks);
    // Searches for pages, without a collect: each meets a few forwarders.
    for (int i = 0; i < 5000 && probe_heap(target).forwarders > 0; i++) {
      ASSERT_NE(mi_heap_malloc(target, 20000), nullptr);
    }
    EXPECT_EQ(probe_heap(target).forwarders, 0u);
    mi_heap_destroy(target);
  });
}

}  // namespace
}  // namespace mi_test
