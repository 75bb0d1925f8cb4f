// mi/internal/page.c and free.c: extending pages, colours, the full list and the delayed list, retiring, abandoned
// pages. Every test works in threads of its own, whose theaps are empty when they begin.
#include <algorithm>
#include <cstdint>
#include <set>
#include <vector>

#include "gtest/gtest.h"
#include "tests/internal/probe.h"
#include "tests/test_support.h"

namespace mi_test {
namespace {

probe_page_t PageOf(const void* p) {
  probe_page_t page{};
  EXPECT_TRUE(probe_page_of(p, &page)) << p;
  return page;
}

probe_page_t PageAt(const void* slot) {
  probe_page_t page{};
  probe_page_at(slot, &page);
  return page;
}

// Allocates until the page of the first block has none free: the blocks, all in that page.
std::vector<void*> FillOnePage(size_t size) {
  std::vector<void*> blocks = {mi_malloc(size)};
  const size_t reserved = PageOf(blocks[0]).reserved;
  while (blocks.size() < reserved) {
    blocks.push_back(mi_malloc(size));
    EXPECT_EQ(PageOf(blocks.back()).slot, PageOf(blocks[0]).slot);
  }
  return blocks;
}

// Goes on allocating until that page is on the full list: not when nothing is found in it, but when it has no block
// after its turn in the queue either. The blocks, in other pages.
std::vector<void*> FillMore(size_t size, const std::vector<void*>& blocks) {
  const probe_page_t page = PageOf(blocks[0]);
  std::vector<void*> more;
  while (!PageAt(page.slot).in_full && more.size() < 2 * page.reserved) {
    more.push_back(mi_malloc(size));
    EXPECT_NE(PageOf(more.back()).slot, page.slot);
  }
  EXPECT_TRUE(PageAt(page.slot).in_full);
  return more;
}

void FreeAll(const std::vector<void*>& blocks) {
  for (void* block : blocks) mi_free(block);
}

// ---- extending --------------------------------------------------------------------------------------------

TEST(PageExtendTest, ANewPageTouchesAtMostOnePageOfTheSystem) {
  if (kSecure) GTEST_SKIP() << "bit pages get their blocks by the page of the system, in no order";
  InThread([] {
    mi_theap_t* theap = probe_theap_main();
    for (size_t bin = 1; bin <= probe_bin_last(); bin++) {
      size_t size = probe_bin_size(bin);
      uint8_t* block = static_cast<uint8_t*>(probe_theap_alloc_class(theap, bin));
      ASSERT_NE(block, nullptr);
      probe_page_t page = PageOf(block);
      ASSERT_EQ(page.used, 1u) << "not a new page, class " << bin;
      ASSERT_EQ(page.capacity, page.used + page.free);
      if (size >= 4 * kKiB) {
        EXPECT_EQ(page.capacity, 1u) << size;
      } else {
        uintptr_t begin = reinterpret_cast<uintptr_t>(page.start) + page.color * size;
        uintptr_t last = begin + page.capacity * size - 1;
        EXPECT_EQ(reinterpret_cast<uintptr_t>(block), begin);
        EXPECT_EQ(begin / 4096, last / 4096) << "blocks of " << size << ", colour " << page.color;
        EXPECT_GE(page.capacity + page.color, 4096 / size / 2) << "less than half of what fits";
      }
      mi_free(block);
    }
    mi_collect(true);
  });
}

// The classes of this test are used by no other: how much of its pages a class used is known to all threads.
TEST(PageExtendTest, APageOfMediumBlocksIsShortUntilOneIsFull) {
  if (kSecure) GTEST_SKIP() << "there all of them are short";
  for (size_t size : {28 * kKiB, 52 * kKiB}) {
    InThread([size] {
      std::vector<void*> blocks;
      std::vector<size_t> slices;
      while (slices.size() < 5) {
        std::vector<void*> page = FillOnePage(size);
        blocks.insert(blocks.end(), page.begin(), page.end());
        slices.push_back(PageOf(page[0]).slices);
        EXPECT_EQ(page.size(), slices.back() * 64 * kKiB / size);
      }
      EXPECT_GE(64 * kKiB * slices[0], 2 * size) << "two blocks";
      EXPECT_LT(64 * kKiB * slices[0], 2 * size + 64 * kKiB) << "no more slices than two blocks take";
      for (size_t i = 1; i < slices.size(); i++) EXPECT_EQ(slices[i], std::min<size_t>(2 * slices[i - 1], 8));
      EXPECT_TRUE(mi_heap_check(mi_heap_main()));
      FreeAll(blocks);
    });
    // What was used before is expected again; where it is not used any more, that is forgotten.
    for (int i = 0; i < 30; i++) {
      InThread([i, size] {
        void* block = mi_malloc(size);
        if (i == 0) {
          EXPECT_GT(PageOf(block).slices, 2u);
        } else if (i == 29) {
          EXPECT_LE(PageOf(block).slices, 2u);
        }
        mi_free(block);
      });
    }
  }
}

TEST(PageExtendTest, PagesThatEndWithGuardsStayShort) {
  InThread([] {
    mi_heap_config_t config{};
    config.size = sizeof(config);
    config.flags = MI_HEAP_HARDENED;
    mi_heap_t* const heap = mi_heap_new_with(&config);
    ASSERT_NE(heap, nullptr);
    for (size_t size : {9 * kKiB, 28 * kKiB, 52 * kKiB, 63 * kKiB}) {
      for (int i = 0; i < 30; i++) {
        const uint8_t* const block = static_cast<uint8_t*>(mi_heap_malloc(heap, size));
        const probe_page_t page = PageOf(block);
        EXPECT_EQ(page.slices, size <= 60 * kKiB ? 1u : 2u) << size;
        EXPECT_LT(page.start + page.slices * 64 * kKiB - 4 * kKiB, block + size + 64 * kKiB) << "its guard is near";
      }
    }
    mi_heap_destroy(heap);
  });
}

TEST(PageExtendTest, EveryBlockOfAPageIsHandedOutOnceWhateverItsColour) {
  InThread([] {
    for (size_t size : {8u, 16u, 48u, 112u, 640u, 1792u, 5000u, 65536u}) {
      std::vector<void*> blocks = FillOnePage(size);
      probe_page_t page = PageOf(blocks[0]);
      EXPECT_EQ(page.used, page.reserved);
      EXPECT_EQ(page.capacity, page.reserved);
      std::set<void*> distinct(blocks.begin(), blocks.end());
      EXPECT_EQ(distinct.size(), page.reserved);
      EXPECT_EQ(*distinct.begin(), page.start);
      EXPECT_EQ(*distinct.rbegin(), page.start + (page.reserved - 1) * page.block_size);
      EXPECT_LE(page.reserved * page.block_size, page.slices * 64 * kKiB);
      EXPECT_TRUE(probe_theap_is_sound(probe_theap_main()));
      FreeAll(blocks);
    }
    mi_collect(true);
  });
}

TEST(PageExtendTest, ConsecutiveBlocksOfANewPageLieInAddressOrder) {
  InThread([] {
    std::vector<void*> blocks = FillOnePage(64);
    size_t descents = 0;
    for (size_t i = 1; i < blocks.size(); i++) descents += blocks[i] < blocks[i - 1];
    EXPECT_LE(descents, 1u) << "in order, but for where the colour wraps around";
    FreeAll(blocks);
  });
}

TEST(PageExtendTest, TheFirstPagesHaveDifferentColoursAndLaterOnesNone) {
  if (kSecure) GTEST_SKIP() << "bit pages have no colour";
  InThread([] {
    std::vector<std::vector<void*>> pages;
    std::set<size_t> seen;
    size_t without = 0;
    while (pages.size() < 100) {
      pages.push_back(FillOnePage(64));
      const size_t color = PageOf(pages.back()[0]).color;
      ASSERT_LT(color * 64, 4096u);
      if (pages.size() <= 30) {
        EXPECT_TRUE(seen.insert(color).second) << "colour " << color << " twice";
      } else if (pages.size() > 32) {
        without += (color == 0);
      }
    }
    EXPECT_EQ(without, 100u - 32u);
    for (const auto& blocks : pages) FreeAll(blocks);
    mi_collect(true);
  });
}

// ---- the full list ------------------------------------------------------------------------------------------

// In the secure build a page is full when it is found to be dry: none waits in its queue for a second look. One of many
// blocks stays on the full list until its owner freed a few of them.
constexpr size_t kWaitsForATurn = kSecure ? 0 : 1;
constexpr int kComesBackWith = kSecure ? 8 : 1;

TEST(FullListTest, APageThatIsFullAfterItsTurnLeavesItsQueueAndComesBackWithItsOwnersFirstFree) {
  InThread([] {
    mi_theap_t* theap = probe_theap_main();
    std::vector<void*> blocks = FillOnePage(80);
    void* slot = PageOf(blocks[0]).slot;
    size_t bin = PageOf(blocks[0]).bin;
    EXPECT_FALSE(PageAt(slot).in_full) << "nobody has looked for a block since it became full";
    std::vector<void*> more = {mi_malloc(80)};
    EXPECT_NE(PageOf(more[0]).slot, slot);
    EXPECT_EQ(PageAt(slot).in_full, kWaitsForATurn == 0) << "found so once";
    EXPECT_EQ(probe_queue_length(theap, bin), kWaitsForATurn + 1);
    EXPECT_TRUE(probe_theap_is_sound(theap));
    for (void* block : FillMore(80, blocks)) more.push_back(block);
    EXPECT_TRUE(PageAt(slot).owner_full);
    EXPECT_EQ(PageAt(slot).state, PROBE_DELAYED);
    EXPECT_EQ(probe_queue_length(theap, probe_bin_full()), 1u);
    EXPECT_EQ(probe_queue_length(theap, bin), kWaitsForATurn + 1)
        << "the page made next, which has no block either now, and the third";
    EXPECT_TRUE(probe_theap_is_sound(theap));
    for (int i = 1; i < kComesBackWith; i++) {
      mi_free(blocks.back());
      blocks.pop_back();
      EXPECT_TRUE(PageAt(slot).in_full);
      EXPECT_TRUE(probe_theap_is_sound(theap));
    }
    mi_free(blocks.back());
    blocks.pop_back();
    EXPECT_FALSE(PageAt(slot).in_full);
    EXPECT_FALSE(PageAt(slot).owner_full);
    EXPECT_EQ(PageAt(slot).state, PROBE_NORMAL);
    EXPECT_EQ(probe_queue_length(theap, probe_bin_full()), 0u);
    EXPECT_EQ(probe_queue_length(theap, bin), kWaitsForATurn + 2);
    EXPECT_TRUE(probe_theap_is_sound(theap));
    FreeAll(more);
    FreeAll(blocks);
  });
}

TEST(FullListTest, APageWithBlocksAfterItsTurnServesWithoutHavingBeenThere) {
  if (kSecure) GTEST_SKIP() << "bit pages are full at once";
  InThread([] {
    mi_theap_t* theap = probe_theap_main();
    std::vector<void*> blocks = FillOnePage(80), second = {mi_malloc(80)};
    const probe_page_t page = PageOf(blocks[0]);
    for (int i = 0; i < 10; i++) {
      mi_free(blocks.back());
      blocks.pop_back();
    }
    while (second.size() < page.reserved) second.push_back(mi_malloc(80));
    for (int i = 0; i < 10; i++) {
      blocks.push_back(mi_malloc(80));
      EXPECT_EQ(PageOf(blocks.back()).slot, page.slot) << i;
    }
    EXPECT_EQ(probe_queue_length(theap, probe_bin_full()), 0u);
    EXPECT_TRUE(probe_theap_is_sound(theap));
    EXPECT_TRUE(mi_heap_check(mi_heap_main()));
    FreeAll(second);
    FreeAll(blocks);
  });
}

TEST(FullListTest, APageThatServedInItsTurnGetsAnotherOne) {
  if (kSecure) GTEST_SKIP() << "bit pages are full at once";
  InThread([] {
    mi_theap_t* theap = probe_theap_main();
    std::vector<void*> blocks = FillOnePage(80);
    const probe_page_t page = PageOf(blocks[0]);
    mi_free(mi_malloc(80));  // another page: this one waits
    mi_collect(true);        // and is the only one again
    ASSERT_EQ(probe_queue_length(theap, page.bin), 1u);
    for (int i = 0; i < 10; i++) {
      mi_free(blocks.back());
      blocks.pop_back();
    }
    for (int i = 0; i < 10; i++) {
      blocks.push_back(mi_malloc(80));
      EXPECT_EQ(PageOf(blocks.back()).slot, page.slot) << i;
    }
    blocks.push_back(mi_malloc(80));
    EXPECT_NE(PageOf(blocks.back()).slot, page.slot);
    EXPECT_FALSE(PageAt(page.slot).in_full);
    EXPECT_TRUE(mi_heap_check(mi_heap_main()));
    FreeAll(blocks);
  });
}

TEST(FullListTest, APageInWhichACollectFindsBlocksWaitsForNoTurn) {
  InThread([] {
    std::vector<void*> blocks = FillOnePage(80);
    const probe_page_t page = PageOf(blocks[0]);
    void* const second = mi_malloc(80);
    EXPECT_TRUE(mi_heap_check(mi_heap_main()));
    for (int i = 0; i < 10; i++) {
      mi_free(blocks.back());
      blocks.pop_back();
    }
    mi_collect(false);
    EXPECT_EQ(PageAt(page.slot).free, 10u);
    EXPECT_TRUE(mi_heap_check(mi_heap_main()));
    mi_free(second);
    FreeAll(blocks);
  });
}

// A page of larger blocks may be long: what waits for a turn must not keep much.
TEST(FullListTest, OnlyPagesOfBlocksOfUpToEightKiBWaitForATurn) {
  InThread([] {
    mi_theap_t* theap = probe_theap_main();
    std::vector<void*> blocks;
    size_t large = 0;
    for (size_t bin = probe_bin_last(); bin > probe_bin_last() - 50; bin--) {
      const size_t size = probe_bin_size(bin);
      const std::vector<void*> filled = FillOnePage(size);
      blocks.insert(blocks.end(), filled.begin(), filled.end());
      blocks.push_back(mi_malloc(size));
      if (size > 8 * kKiB) large++;
    }
    EXPECT_GT(large, 0u);
    EXPECT_LT(large, 50u);
    EXPECT_TRUE(probe_theap_is_sound(theap));
    EXPECT_TRUE(mi_heap_check(mi_heap_main()));
    EXPECT_EQ(probe_queue_length(theap, probe_bin_full()), kWaitsForATurn == 0 ? 50 : large);
    FreeAll(blocks);
  });
}

TEST(FullListTest, LargeAndHugeBlocksStandThereFromTheBeginning) {
  InThread([] {
    mi_theap_t* theap = probe_theap_main();
    void* solo = mi_malloc(300000);
    void* huge = mi_malloc(9 * kMiB);
    EXPECT_EQ(PageOf(solo).kind, PROBE_SOLO);
    EXPECT_EQ(PageOf(huge).kind, PROBE_HUGE);
    EXPECT_EQ(probe_queue_length(theap, probe_bin_full()), 2u);
    EXPECT_TRUE(probe_theap_is_sound(theap));
    void* slot = PageOf(solo).slot;
    size_t slices = PageOf(solo).slices;
    mi_free(solo);
    EXPECT_TRUE(probe_slices_are_free(slot, slices));
    mi_free(huge);
    EXPECT_EQ(probe_queue_length(theap, probe_bin_full()), 0u);
    EXPECT_EQ(probe_theap_page_count(theap), 0u);
  });
}

TEST(DelayedListTest, TheFirstRemoteFreeOfAFullPageGoesToTheTheapAndBringsThePageBack) {
  Worker owner, other;
  mi_theap_t* theap = nullptr;
  std::vector<void*> blocks;
  std::vector<void*> more;
  owner.Run([&] {
    theap = probe_theap_main();
    blocks = FillOnePage(80);
    more = FillMore(80, blocks);
  });
  probe_page_t page = PageOf(blocks[0]);
  ASSERT_EQ(page.state, PROBE_DELAYED);
  other.Run([&] {
    for (int i = 0; i < 3; i++) {
      mi_free(blocks.back());
      blocks.pop_back();
    }
  });
  page = PageAt(page.slot);
  EXPECT_EQ(page.state, PROBE_NORMAL);
  EXPECT_EQ(probe_delayed_length(theap), 1u) << "one block tells the theap; the others go to the page";
  EXPECT_EQ(page.remote_free, kSecure ? 3u : 2u) << "each has a bit in a bit page";
  EXPECT_EQ(page.used, page.capacity) << "only the owner counts";
  EXPECT_TRUE(page.in_full);
  owner.Run([&] { probe_theap_tidy(theap); });
  page = PageAt(page.slot);
  EXPECT_FALSE(page.in_full);
  EXPECT_FALSE(page.owner_full);
  EXPECT_EQ(probe_delayed_length(theap), 0u);
  if (kSecure) {
    EXPECT_EQ(page.used, page.capacity - 3);
    EXPECT_EQ(page.free, 3u);
    EXPECT_EQ(page.remote_free, 0u);
  } else {
    EXPECT_EQ(page.used, page.capacity - 1);
    EXPECT_EQ(page.local_free, 1u);
    EXPECT_EQ(page.remote_free, 2u);
  }
  EXPECT_EQ(probe_queue_length(theap, page.bin), kWaitsForATurn + 2);
  owner.Run([&] {
    EXPECT_TRUE(probe_theap_is_sound(theap));
    // The page serves again, all three blocks of it.
    std::vector<void*> again;
    size_t from_page = 0;
    for (size_t i = 0; i < 2 * page.reserved; i++) {
      again.push_back(mi_malloc(80));
      from_page += PageOf(again.back()).slot == page.slot;
    }
    EXPECT_EQ(from_page, 3u);
    FreeAll(again);
    FreeAll(more);
    FreeAll(blocks);
    mi_collect(true);
    EXPECT_EQ(probe_theap_page_count(theap), 0u);
  });
}

TEST(DelayedListTest, ASlowPathOfAnotherClassDrainsIt) {
  Worker owner;
  std::vector<void*> blocks;
  mi_theap_t* theap = nullptr;
  std::vector<void*> more;
  owner.Run([&] {
    theap = probe_theap_main();
    blocks = FillOnePage(80);
    more = FillMore(80, blocks);
  });
  mi_free(blocks.back());
  blocks.pop_back();
  EXPECT_EQ(probe_delayed_length(theap), 1u);
  owner.Run([&] {
    mi_free(mi_malloc(200000));
    EXPECT_EQ(probe_delayed_length(theap), 0u);
    EXPECT_FALSE(PageOf(blocks[0]).in_full);
    FreeAll(more);
    FreeAll(blocks);
  });
}

TEST(RemoteFreeTest, BlocksWaitOnTheirPageUntilItsOwnerRunsOutOfOthers) {
  Worker owner;
  std::vector<void*> blocks;
  owner.Run([&] {
    for (int i = 0; i < 10; i++) blocks.push_back(mi_malloc(700));
  });
  probe_page_t page = PageOf(blocks[0]);
  ASSERT_EQ(PageOf(blocks[4]).slot, page.slot);
  for (int i = 0; i < 4; i++) {
    mi_free(blocks.back());
    blocks.pop_back();
  }
  EXPECT_EQ(PageAt(page.slot).remote_free, 4u);
  EXPECT_EQ(PageAt(page.slot).state, PROBE_NORMAL);
  EXPECT_EQ(PageAt(page.slot).used, page.used);
  owner.Run([&] {
    for (size_t i = 0; i < 200 && PageAt(page.slot).remote_free > 0; i++) blocks.push_back(mi_malloc(700));
    EXPECT_EQ(PageAt(page.slot).remote_free, 0u);
    EXPECT_LE(PageAt(page.slot).used, page.reserved);
    EXPECT_TRUE(probe_theap_is_sound(probe_theap_main()));
    FreeAll(blocks);
  });
}

TEST(RemoteFreeTest, LargeBlocksFreedElsewhereGoBackAtTheOwnersNextSlowPath) {
  Worker owner;
  void *solo = nullptr, *huge = nullptr;
  mi_theap_t* theap = nullptr;
  owner.Run([&] {
    theap = probe_theap_main();
    solo = mi_malloc(200000);
    huge = mi_malloc(6 * kMiB);
  });
  mi_free(huge);
  mi_free(solo);
  EXPECT_EQ(probe_delayed_length(theap), 2u);
  owner.Run([&] {
    probe_theap_tidy(theap);
    EXPECT_EQ(probe_theap_page_count(theap), 0u);
    EXPECT_TRUE(probe_theap_is_sound(theap));
  });
  EXPECT_EQ(mi_heap_of(solo), nullptr);
}

TEST(RemoteFreeTest, AllListsAddUpWhileManyThreadsFreeWhatOneAllocates) {
  Worker owner;
  std::vector<void*> blocks(Scaled(20000));
  for (int round = 0; round < 5; round++) {
    owner.Run([&] {
      for (void*& block : blocks) block = mi_malloc(48);
    });
    InThreads(3, [&](int thread) {
      for (size_t i = thread; i < blocks.size(); i += 3) mi_free(blocks[i]);
    });
    owner.Run([&] {
      mi_theap_t* theap = probe_theap_main();
      EXPECT_TRUE(probe_theap_is_sound(theap));
      mi_theap_collect(theap, true);
      EXPECT_EQ(probe_theap_page_count(theap), 0u) << "round " << round;
      EXPECT_EQ(probe_delayed_length(theap), 0u);
    });
  }
}

TEST(RemoteFreeTest, TheCallbackThatIsToldOfBlocksThatWereFreedAgainAndAgainMayAllocate) {
  if (kSecure) GTEST_SKIP() << kMisuseEnds;
  EXPECT_EQ(InChild([] {
              static std::vector<void*> made;
              static int told;
              mi_register_error(
                  [](int err, void*) {
                    told += err == EAGAIN;
                    for (int i = 0; i < 50; i++) made.push_back(mi_malloc(3000));
                  },
                  nullptr);
              const std::vector<void*> blocks = FillOnePage(3000);
              std::thread([&] {
                for (size_t i = 0; i <= blocks.size(); i++) mi_free(Opaque(blocks[i % 2]));
              }).join();
              for (int i = 0; i < 50; i++) {
                void* const p = mi_malloc(3000);
                made.push_back(p);
              }
              mi_register_error(nullptr, nullptr);
              if (told != 1) return 1;
              made.insert(made.end(), blocks.begin(), blocks.end());
              if (std::set<void*>(made.begin(), made.end()).size() != made.size()) return 2;
              return probe_theap_is_sound(probe_theap_main()) ? 0 : 3;
            }),
            0);
}

// ---- retiring -----------------------------------------------------------------------------------------------

TEST(RetireTest, TheLastPageOfAClassStaysForSomeSlowPathsAndThenGoesBack) {
  InThread([] {
    mi_theap_t* theap = probe_theap_main();
    void* block = mi_malloc(96);
    probe_page_t page = PageOf(block);
    mi_free(block);
    EXPECT_EQ(PageAt(page.slot).used, 0u);
    EXPECT_GT(PageAt(page.slot).retire, 0u);
    EXPECT_EQ(probe_queue_length(theap, page.bin), 1u);
    int slow_paths = 0;
    while (probe_queue_length(theap, page.bin) == 1 && slow_paths < 10000) {
      probe_theap_tidy(theap);
      slow_paths++;
    }
    EXPECT_GT(slow_paths, 4) << "it went back too soon to serve a program that frees and allocates in turn";
    EXPECT_LE(slow_paths, 2000);
    EXPECT_TRUE(probe_slices_are_free(page.slot, page.slices));
    EXPECT_EQ(probe_theap_page_count(theap), 0u);
    EXPECT_TRUE(probe_theap_is_sound(theap));
  });
}

TEST(RetireTest, APageThatIsUsedAgainMeanwhileIsKept) {
  InThread([] {
    mi_theap_t* theap = probe_theap_main();
    void* block = mi_malloc(96);
    probe_page_t page = PageOf(block);
    for (int i = 0; i < 300; i++) {
      mi_free(block);
      probe_theap_tidy(theap);
      block = mi_malloc(96);
      ASSERT_EQ(PageOf(block).slot, page.slot);
    }
    for (int i = 0; i < 300; i++) probe_theap_tidy(theap);
    EXPECT_EQ(PageOf(block).slot, page.slot) << "a page with a live block went back";
    EXPECT_EQ(PageAt(page.slot).used, 1u);
    mi_free(block);
  });
}

TEST(RetireTest, AnEmptyPageGoesBackAtOnceWhenItsClassHasAnother) {
  InThread([] {
    mi_theap_t* theap = probe_theap_main();
    std::vector<void*> first = FillOnePage(1000);
    std::vector<void*> second = FillOnePage(1000);
    probe_page_t page = PageOf(first[0]);
    ASSERT_NE(page.slot, PageOf(second[0]).slot);
    FreeAll(first);
    EXPECT_TRUE(probe_slices_are_free(page.slot, page.slices));
    EXPECT_EQ(probe_queue_length(theap, page.bin), 1u);
    FreeAll(second);
    EXPECT_EQ(probe_queue_length(theap, page.bin), 1u) << "the last page of the class is retired, not released";
    mi_theap_collect(theap, true);
    EXPECT_EQ(probe_theap_page_count(theap), 0u);
  });
}

TEST(RetireTest, APageThatRunsDryIsNotRetiredAnyMoreAndGoesBackAtOnceWhenItIsEmpty) {
  if (kSecure) GTEST_SKIP() << "bit pages are full at once";
  InThread([] {
    mi_theap_t* theap = probe_theap_main();
    std::vector<void*> blocks = FillOnePage(1000);
    const probe_page_t page = PageOf(blocks[0]);
    InThread([&] { FreeAll(blocks); });
    for (int i = 0; i < 2000 && PageAt(page.slot).retire == 0; i++) probe_theap_tidy(theap);
    ASSERT_GT(PageAt(page.slot).retire, 0u);
    blocks = FillOnePage(1000);  // all of them lie in the list of free blocks: the page needs no turn
    ASSERT_EQ(PageOf(blocks[0]).slot, page.slot);
    void* other = mi_malloc(1000);
    ASSERT_NE(PageOf(other).slot, page.slot);
    FreeAll(blocks);
    EXPECT_TRUE(probe_slices_are_free(page.slot, page.slices));
    mi_free(other);
  });
}

// ---- abandoned pages ------------------------------------------------------------------------------------------

// Blocks of a thread that has ended.
std::vector<void*> BlocksOfAnEndedThread(size_t size, int count) {
  std::vector<void*> blocks;
  InThread([&] {
    for (int i = 0; i < count; i++) blocks.push_back(mi_malloc(size));
  });
  return blocks;
}

TEST(AbandonedPageTest, ThreadExitLeavesItListedAndWithoutOwner) {
  std::vector<void*> blocks = BlocksOfAnEndedThread(1200, 3);
  probe_page_t page = PageOf(blocks[0]);
  EXPECT_EQ(page.state, PROBE_ABANDONED);
  EXPECT_TRUE(page.listed);
  EXPECT_EQ(page.owner, 0u);
  EXPECT_EQ(page.theap, nullptr);
  EXPECT_EQ(page.heap, mi_heap_main());
  EXPECT_EQ(page.used, 3u);
  EXPECT_EQ(mi_heap_of(blocks[0]), mi_heap_main());
  InThread([&] {
    FreeAll(blocks);
    mi_collect(true);
  });
  EXPECT_TRUE(probe_slices_are_free(page.slot, page.slices));
}

TEST(AbandonedPageTest, EmptyPagesOfAnEndedThreadAreNotKept) {
  probe_page_t page{};
  InThread([&] {
    void* block = mi_malloc(1400);
    page = PageOf(block);
    mi_free(block);
    EXPECT_EQ(PageAt(page.slot).kind, PROBE_CLASS);
  });
  EXPECT_TRUE(probe_slices_are_free(page.slot, page.slices));
}

TEST(AbandonedPageTest, AllocationOfItsClassAdoptsIt) {
  std::vector<void*> blocks = BlocksOfAnEndedThread(1200, 3);
  void* slot = PageOf(blocks[0]).slot;
  InThread([&] {
    void* block = mi_malloc(1200);
    EXPECT_EQ(PageOf(block).slot, slot);
    probe_page_t page = PageAt(slot);
    EXPECT_EQ(page.state, PROBE_NORMAL);
    EXPECT_FALSE(page.listed);
    EXPECT_EQ(page.owner, probe_thread_id());
    EXPECT_EQ(page.theap, probe_theap_main());
    EXPECT_EQ(page.used, 4u);
    EXPECT_TRUE(probe_theap_is_sound(probe_theap_main()));
    mi_free(block);
    FreeAll(blocks);
  });
}

// One block in each of so many pages of a class, of a thread that has ended.
std::vector<void*> BlocksInPagesOfAnEndedThread(size_t size, size_t pages) {
  std::vector<void*> blocks, others;
  InThread([&] {
    while (blocks.size() < pages) {
      void* block = mi_malloc(size);
      const bool is_new = blocks.empty() || PageOf(block).slot != PageOf(blocks.back()).slot;
      (is_new ? blocks : others).push_back(block);
    }
    FreeAll(others);
  });
  return blocks;
}

TEST(AbandonedPageTest, AFreeAdoptsItAndAnEmptyOneIsFoundInItsStack) {
  std::vector<void*> blocks = BlocksOfAnEndedThread(1200, 2);
  probe_page_t page = PageOf(blocks[0]);
  ASSERT_TRUE(page.listed);
  InThread([&] {
    mi_theap_t* theap = probe_theap_main();
    mi_free(blocks[0]);
    probe_page_t now = PageAt(page.slot);
    EXPECT_EQ(now.state, PROBE_NORMAL);
    EXPECT_EQ(now.theap, theap);
    EXPECT_EQ(now.owner, probe_thread_id());
    EXPECT_EQ(now.used, 1u);
    EXPECT_TRUE(now.listed) << "nobody popped it";
    EXPECT_EQ(probe_queue_length(theap, page.bin), 1u);
    mi_free(blocks[1]);
    mi_theap_collect(theap, true);
    EXPECT_EQ(probe_theap_page_count(theap), 0u);
    EXPECT_TRUE(probe_slices_are_free(page.slot, page.slices));
  });
}

TEST(AbandonedPageTest, AnEmptyOneThatIsFarDownInItsStackIsNotReleasedWhileItIsListed) {
  std::vector<void*> blocks = BlocksInPagesOfAnEndedThread(1200, 12);
  // As they lie in the stack, from its top on.
  const auto depth = [](const void* block) {
    const probe_page_t page = PageOf(block);
    return probe_abandoned_depth(mi_heap_main(), page.bin, page.slot);
  };
  std::sort(blocks.begin(), blocks.end(), [&](void* a, void* b) { return depth(a) < depth(b); });
  std::vector<probe_page_t> pages;
  for (void* block : blocks) pages.push_back(PageOf(block));
  ASSERT_EQ(depth(blocks.back()), blocks.size() - 1);
  InThread([&] {
    probe_thread_record();
    mi_free(blocks.back());
    blocks.pop_back();
    const probe_page_t page = pages.back(), now = PageAt(page.slot);
    ASSERT_FALSE(probe_slices_are_free(page.slot, page.slices)) << "a stack still leads to it";
    EXPECT_EQ(now.state, PROBE_ABANDONED);
    EXPECT_TRUE(now.listed);
    EXPECT_EQ(now.used, 0u);
    EXPECT_EQ(now.capacity, 0u);
    for (size_t i = 0; i < blocks.size(); i++) {
      EXPECT_TRUE(PageAt(pages[i].slot).listed) << "what was popped on the way went back";
      mi_free(blocks[i]);
    }
    // Now it is at the top, and serves.
    uint8_t* block = static_cast<uint8_t*>(mi_zalloc(1200));
    EXPECT_EQ(PageOf(block).slot, page.slot);
    EXPECT_EQ(PageAt(page.slot).used, 1u);
    EXPECT_TRUE(IsZero(block, 0, 1200));
    mi_free(block);
    mi_theap_collect(probe_theap_main(), true);
    for (const probe_page_t& one : pages) EXPECT_TRUE(probe_slices_are_free(one.slot, one.slices));
  });
}

TEST(AbandonedPageTest, AListedPageIsListedOnceHoweverOftenItsOwnersEnd) {
  std::vector<void*> blocks = BlocksOfAnEndedThread(1200, 20);
  void* slot = PageOf(blocks[0]).slot;
  for (int round = 0; round < 10; round++) {
    InThread([&] {
      // A thread that never allocated has no theap that could keep the page: it gives it up again at once.
      if (round % 2 == 0) probe_thread_record();
      mi_free(blocks.back());
      blocks.pop_back();
      EXPECT_EQ(PageAt(slot).state, round % 2 == 0 ? PROBE_NORMAL : PROBE_ABANDONED);
    });
    EXPECT_EQ(PageAt(slot).state, PROBE_ABANDONED);
    EXPECT_TRUE(PageAt(slot).listed);
  }
  InThread([&] {
    void* block = mi_malloc(1200);
    EXPECT_EQ(PageOf(block).slot, slot);
    std::vector<void*> more;
    for (int i = 0; i < 200; i++) more.push_back(mi_malloc(1200));
    EXPECT_TRUE(probe_theap_is_sound(probe_theap_main())) << "the page was popped twice";
    FreeAll(more);
    mi_free(block);
    FreeAll(blocks);
    mi_collect(true);
  });
  EXPECT_TRUE(probe_slices_are_free(slot, 1));
}

TEST(AbandonedPageTest, FullPagesOfAnEndedThreadAreFoundWhenTheyHaveRoomAgain) {
  std::vector<void*> blocks;
  InThread([&] {
    blocks = FillOnePage(2000);
    FreeAll(FillMore(2000, blocks));
    EXPECT_EQ(PageOf(blocks[0]).state, PROBE_DELAYED);
  });
  probe_page_t page = PageOf(blocks[0]);
  EXPECT_EQ(page.state, PROBE_ABANDONED);
  EXPECT_FALSE(page.in_full);
  EXPECT_FALSE(page.owner_full);
  InThread([&] {
    mi_theap_t* theap = probe_theap_main();
    mi_free(blocks.back());
    blocks.pop_back();
    EXPECT_EQ(PageAt(page.slot).theap, theap);
    void* block = mi_malloc(2000);
    EXPECT_EQ(PageOf(block).slot, page.slot);
    mi_free(block);
    FreeAll(blocks);
    mi_collect(true);
  });
}

TEST(AbandonedPageTest, LargeBlocksOfAnEndedThreadGoBackWithTheirFree) {
  std::vector<void*> blocks = BlocksOfAnEndedThread(500000, 1);
  probe_page_t page = PageOf(blocks[0]);
  EXPECT_EQ(page.state, PROBE_ABANDONED);
  EXPECT_FALSE(page.listed);
  mi_free(blocks[0]);
  EXPECT_TRUE(probe_slices_are_free(page.slot, page.slices));
}

TEST(AbandonedPageTest, ManyThreadsFreeingIntoAbandonedPagesLeaveNothingBehind) {
  for (int round = 0; round < Scaled(30); round++) {
    std::vector<void*> blocks = BlocksOfAnEndedThread(224, 3000);
    std::set<void*> slots;
    for (void* block : blocks) slots.insert(PageOf(block).slot);
    std::atomic<int> unsound{0};
    SpinMeeting start(3);
    InThreads(3, [&](int thread) {
      start.Meet();
      std::vector<void*> own;
      for (size_t i = thread; i < blocks.size(); i += 3) {
        mi_free(blocks[i]);
        if (i % 5 == 0) own.push_back(mi_malloc(224));
      }
      FreeAll(own);
      unsound += !probe_theap_is_sound(probe_theap_main());
    });
    ASSERT_EQ(unsound, 0);
    InThread([] { mi_collect(true); });
    for (void* slot : slots) ASSERT_TRUE(probe_slices_are_free(slot, 1)) << "round " << round;
  }
}

}  // namespace
}  // namespace mi_test
