// What stays warm: over a reset, for the next heap of a thread, and for the next heap of a name; and that it is given
// back.
#include <string.h>

#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "mi/mimalloc-stats.h"
#include "tests/internal/probe.h"
#include "tests/test_support.h"

namespace mi_test {
namespace {

mi_heap_t* NewHeap(const char* name, size_t retain) {
  mi_heap_config_t config = {};
  config.size = sizeof(config);
  config.name = name;
  config.retain = retain;
  return mi_heap_new_with(&config);
}

uint64_t CommittedBy(mi_heap_t* heap) {
  mi_heap_counts_t counts = {};
  counts.size = sizeof(counts);
  EXPECT_TRUE(mi_heap_counts_get(heap, &counts));
  EXPECT_EQ(counts.blocks, 0u);
  return counts.committed;
}

void Fill(mi_heap_t* heap, size_t bytes, size_t size) {
  for (size_t n = 0; n < bytes; n += size) ASSERT_NE(mi_heap_malloc(heap, size), nullptr);
}

TEST(RetainTest, AHeapThatIsFilledOverSeveralRegionsTwiceGetsOneThatHoldsAsMuch) {
  InThread([] {
    mi_heap_t* heap = mi_heap_new();
    Fill(heap, 6000, 100);
    size_t regions = probe_part(heap).regions;
    ASSERT_GE(regions, 3u);
    mi_heap_reset(heap);
    EXPECT_EQ(probe_part(heap).regions, 1u) << "the next objects go there at once";
    EXPECT_EQ(probe_part(heap).spare, regions - 1) << "once is not enough";
    Fill(heap, 6000, 100);
    ASSERT_GE(probe_part(heap).regions, 3u);
    size_t bytes = probe_part(heap).bytes;
    mi_heap_reset(heap);
    EXPECT_EQ(probe_part(heap).spare, 0u);
    EXPECT_EQ(probe_part(heap).regions, 1u);
    EXPECT_GE(probe_part(heap).regions_bytes, bytes);
    EXPECT_LT(probe_part(heap).regions_bytes, 2 * bytes);
    for (int i = 0; i < 10; i++) {
      Fill(heap, 6000, 100);
      EXPECT_EQ(probe_part(heap).regions, 1u);
      EXPECT_TRUE(mi_heap_check(heap));
      mi_heap_reset(heap);
    }
    mi_heap_destroy(heap);
  });
}

TEST(RetainTest, SoDoesTheNextHeapOfTheThread) {
  InThread([] {
    for (int i = 0; i < 3; i++) {
      mi_heap_t* heap = mi_heap_new();
      Fill(heap, 6000, 100);
      if (i == 2) {
        EXPECT_EQ(probe_part(heap).regions, 1u);
      }
      mi_heap_destroy(heap);
    }
  });
}

TEST(RetainTest, PagesStayOverAResetAsFarAsTheConfigurationSays) {
  for (size_t size : {64, 900, 5000, 20000}) {
    SCOPED_TRACE(size);
    mi_heap_t* heap = NewHeap("pages", 1 * kMiB);
    Fill(heap, 3 * kMiB, size);
    ASSERT_NE(mi_heap_malloc(heap, 2 * kMiB), nullptr);
    mi_heap_reset(heap);
    uint64_t warm = CommittedBy(heap);
    EXPECT_LE(warm, 1 * kMiB + 128 * kKiB);
    EXPECT_GE(warm, 512 * kKiB);
    EXPECT_TRUE(mi_heap_check(heap));
    uint64_t most = warm;
    for (int i = 0; i < 5; i++) {  // it is what serves next
      Fill(heap, 400 * kKiB, size);
      mi_heap_counts_t counts = {};
      counts.size = sizeof(counts);
      ASSERT_TRUE(mi_heap_counts_get(heap, &counts));
      most = std::max<uint64_t>(most, counts.committed);
      mi_heap_reset(heap);
    }
    EXPECT_LE(most, warm + 128 * kKiB);
    mi_heap_collect(heap, true);
    EXPECT_LE(CommittedBy(heap), 2 * kKiB) << "a collect gives it back";
    EXPECT_TRUE(mi_heap_check(heap));
    mi_heap_destroy(heap);
  }
}

// A page that starts again after a reset has memory behind blocks that it has not handed out yet.
TEST(RetainTest, WhatAPageUsedBeforeAResetIsNotForgotten) {
  mi_heap_t* heap = NewHeap("used", 8 * kMiB);
  Fill(heap, 1 * kMiB, 900);  // the class has pages now
  probe_purge(true);          // so that the next ones have no memory yet
  std::vector<const void*> slots;
  std::vector<uint8_t*> starts;
  for (int i = 0; i < 2000; i++) {
    probe_page_t page = {};
    ASSERT_TRUE(probe_page_of(mi_heap_malloc(heap, 900), &page));
    if (!slots.empty() && slots.back() == page.slot) continue;
    slots.push_back(page.slot);
    starts.push_back(page.start);
  }
  mi_heap_reset(heap);
  Fill(heap, 2000, 900);
  mi_heap_destroy(heap);
  size_t warm = 0;
  for (size_t i = 0; i + 1 < slots.size(); i++) {  // the last one may not have been filled
    probe_segment_t segment = {};
    ASSERT_TRUE(probe_segment_of(starts[i], &segment));
    const uint64_t bit = uint64_t{1} << static_cast<size_t>(starts[i] - segment.start) / (64 * kKiB);
    warm += (segment.backed & ~segment.little & ~segment.much & bit) != 0;
  }
  EXPECT_EQ(warm, slots.size() - 1);
}

TEST(RetainTest, WithoutItPagesGo) {
  mi_heap_t* heap = mi_heap_new();
  Fill(heap, 3 * kMiB, 900);
  mi_heap_reset(heap);
  EXPECT_LE(CommittedBy(heap), 130 * kKiB);
  mi_heap_destroy(heap);
}

TEST(RetainTest, ASmallOneGivesRegionsBack) {
  mi_heap_t* heap = NewHeap("regions", 4 * kKiB);
  Fill(heap, 30 * kKiB, 100);
  ASSERT_GT(probe_part(heap).bytes, 16 * kKiB);
  mi_heap_reset(heap);
  EXPECT_LE(probe_part(heap).bytes, 4 * kKiB);
  mi_heap_destroy(heap);
}

TEST(RetainTest, TheNextHeapOfANameGetsWhatTheLastOneHad) {
  InThread([] {
    auto run = [](const char* name, size_t bytes) {
      mi_heap_t* heap = NewHeap(name, 0);
      size_t warm = probe_part(heap).bytes;
      if (bytes > 0) Fill(heap, bytes, 100);
      mi_heap_destroy(heap);
      return warm;
    };
    // Several alive at once, so that the thread keeps several handles.
    mi_heap_t* small[4];
    mi_heap_t* large = NewHeap("large", 0);
    for (mi_heap_t*& heap : small) heap = NewHeap("small", 0);
    Fill(large, 12000, 100);
    mi_heap_destroy(large);
    for (mi_heap_t* heap : small) mi_heap_destroy(heap);
    for (int i = 0; i < 10; i++) {
      EXPECT_GE(run("large", 12000), 8 * kKiB) << i;
      EXPECT_EQ(run("small", 0), 0u) << i;
      EXPECT_EQ(run("small", 0), 0u) << i;
    }
  });
}

TEST(RetainTest, AThreadKeepsAsMuchAsAHeapAskedForUntilACollect) {
  InThread([] {
    const size_t wanted = 300 * kKiB;
    mi_heap_t* heap = NewHeap("asks", wanted);
    for (size_t size = 16; size <= 1600; size += 16) Fill(heap, 4 * kKiB, size);  // no class earns pages
    ASSERT_GT(probe_part(heap).bytes, 200 * kKiB);
    mi_heap_destroy(heap);
    probe_cache_t kept = probe_cache(probe_thread_record());
    EXPECT_GT(kept.bytes, 150 * kKiB) << kept.count << " handles, at most " << kept.limit << " bytes, balance "
                                      << kept.balance;
    EXPECT_LE(probe_cache(probe_thread_record()).bytes, wanted);
    mi_collect(true);
    EXPECT_EQ(probe_cache(probe_thread_record()).bytes, 0u);
    EXPECT_EQ(probe_cache(probe_thread_record()).limit, 32 * kKiB);
  });
}

TEST(RetainTest, WhatAThreadDoesNotUseForAWhileGoesHome) {
  InThread([] {
    mi_heap_t* heap = mi_heap_new();
    Fill(heap, 6000, 100);
    mi_heap_destroy(heap);
    ASSERT_GT(probe_cache(probe_thread_record()).bytes, 0u);
    for (int i = 0; i < 1000; i++) mi_free(mi_malloc(kMiB));  // slow paths
    EXPECT_GT(probe_cache(probe_thread_record()).bytes, 0u) << "not yet";
    for (int i = 0; i < 10000; i++) mi_free(mi_malloc(kMiB));
    EXPECT_EQ(probe_cache(probe_thread_record()).bytes, 0u);
    for (int i = 0; i < 200; i++) {  // a thread that makes heaps keeps it
      mi_heap_t* h = mi_heap_new();
      Fill(h, 6000, 100);
      mi_heap_destroy(h);
      for (int k = 0; k < 100; k++) mi_free(mi_malloc(kMiB));
    }
    EXPECT_GT(probe_cache(probe_thread_record()).bytes, 0u);
  });
}

// Pages that stay are as good as new: zeroed blocks are zero, counts agree, whoever frees what.
void Round(mi_heap_t* heap, size_t bytes) {
  Fill(heap, bytes, 100);
  EXPECT_TRUE(mi_heap_check(heap));
  mi_heap_reset(heap);
  EXPECT_EQ(CountBlocks(heap), 0u);
  EXPECT_TRUE(mi_heap_check(heap));
}

// A heap whose region waits for the next object, since `other` was reset before it.
mi_heap_t* RestingHeap(mi_heap_t* other) {
  mi_heap_t* heap = mi_heap_new();
  for (int i = 0; i < 5; i++) Round(heap, 6000);
  EXPECT_EQ(probe_part(heap).regions, 1u) << "reset again, it keeps its region";
  Round(other, 100);
  Round(heap, 6000);
  EXPECT_EQ(probe_part(heap).regions, 0u);
  EXPECT_EQ(probe_part(heap).spare, 1u);
  return heap;
}

bool IsInOwnRegion(mi_heap_t* heap, void* p) {
  return reinterpret_cast<uintptr_t>(p) / 512 == reinterpret_cast<uintptr_t>(heap) / 512;
}

TEST(RetainTest, AHeapThatIsResetAgainKeepsItsRegionAndOneThatIsResetInTurnRests) {
  InThread([] {
    mi_heap_t* other = mi_heap_new();
    mi_heap_t* heap = RestingHeap(other);
    EXPECT_FALSE(IsInOwnRegion(heap, mi_heap_malloc(heap, 100)));
    mi_heap_reset(heap);
    EXPECT_TRUE(IsInOwnRegion(heap, mi_heap_malloc(heap, 100))) << "the last round was a small one";
    mi_heap_destroy(heap);

    heap = RestingHeap(other);
    memset(mi_heap_malloc(heap, 8192), 1, 8192);  // its region is too small for that
    EXPECT_EQ(CountBlocks(heap), 1u);
    Round(heap, 6000);
    mi_heap_destroy(heap);

    heap = RestingHeap(other);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(mi_heap_malloc_aligned(heap, 64, 256)) % 256, 0u);
    EXPECT_EQ(CountBlocks(heap), 1u);
    Round(heap, 6000);
    mi_heap_destroy(heap);

    heap = RestingHeap(other);
    mi_heap_mark_t mark = mi_heap_mark(heap);
    for (int i = 0; i < 3; i++) {
      Fill(heap, 6000, 100);
      EXPECT_TRUE(mi_heap_rewind(heap, mark));
      EXPECT_EQ(CountBlocks(heap), 0u);
      EXPECT_TRUE(mi_heap_check(heap));
    }
    mi_heap_destroy(heap);

    heap = RestingHeap(other);
    mi_heap_collect(heap, true);
    EXPECT_EQ(probe_part(heap).bytes, 0u);
    Round(heap, 6000);
    mi_heap_delete(heap);
    mi_heap_destroy(other);
  });
}

TEST(RetainTest, WhatAnEmptiedHeapHoldsGoesBackOnCollect) {
  InThread([] {
    mi_heap_t* heap = mi_heap_new();
    for (int i = 0; i < 5; i++) {
      Fill(heap, 6000, 100);
      mi_heap_reset(heap);
    }
    ASSERT_EQ(probe_part(heap).regions, 1u);
    mi_heap_collect(heap, true);
    EXPECT_EQ(probe_part(heap).bytes, 0u);
    EXPECT_TRUE(mi_heap_check(heap));
    Fill(heap, 6000, 100);
    EXPECT_TRUE(mi_heap_check(heap));
    mi_heap_destroy(heap);
  });
}

TEST(RetainTest, TheHandleOfAHeapThatWasMergedIsAsNew) {
  InThread([] {
    const size_t before = mi_heap_used(mi_heap_main());
    for (int i = 0; i < 20; i++) {
      mi_heap_t* heap = mi_heap_new();
      EXPECT_EQ(mi_heap_used(heap), 0u);
      EXPECT_TRUE(mi_heap_check(heap));
      Fill(heap, 6000, 100);
      if (i % 4 == 1) {
        mi_heap_t* into = mi_heap_new();
        mi_heap_merge(heap, into);
        mi_heap_destroy(into);
      } else if (i % 4 == 2) {
        mi_heap_reset(heap);
        mi_heap_delete(heap);  // empty, with the region that it opened for what was to come
      } else if (i % 4 == 3) {
        mi_heap_reset(heap);
        EXPECT_TRUE(mi_heap_set_limit(heap, 3000));
        EXPECT_EQ(mi_heap_used(heap), 0u);
        EXPECT_NE(mi_heap_malloc(heap, 100), nullptr);
        EXPECT_LE(mi_heap_used(heap), 3000u);
        mi_heap_destroy(heap);
      } else {
        mi_heap_destroy(heap);
      }
    }
    EXPECT_EQ(mi_heap_used(mi_heap_main()), before);
  });
}

// Plain heaps, reset by turns and again, ended and made anew, by who has them and by others.
TEST(RetainTest, HeapsThatAreEmptiedAgainAndAgainAreSound) {
  for (uint64_t seed = 1; seed <= 4; seed++) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    Random random(seed);
    Worker owner, other;
    std::vector<mi_heap_t*> heaps(3, nullptr);
    size_t usual = 3000;
    for (int round = 0; round < Scaled(1500); round++) {
      size_t which = random.Below(random.OneIn(2) ? 1 : heaps.size());
      mi_heap_t*& heap = heaps[which];
      std::vector<void*> blocks;
      if (random.OneIn(30)) usual = random.Below(20000);
      (random.OneIn(20) ? other : owner).Run([&] {
        if (heap == nullptr) heap = mi_heap_new();
        size_t bytes = (random.OneIn(8) ? random.Below(30000) : usual);
        for (size_t got = 0; got < bytes;) {
          size_t size = (random.OneIn(40) ? random.Below(9000) : random.Below(500));
          void* p = (random.OneIn(30) ? mi_heap_malloc_aligned(heap, size, 16u << random.Below(5))
                                      : mi_heap_malloc(heap, size));
          ASSERT_NE(p, nullptr);
          ASSERT_EQ(mi_heap_of(p), heap);
          memset(p, 0xee, size);
          blocks.push_back(p);
          got += size + 8;
        }
      });
      ASSERT_EQ(CountBlocks(heap), blocks.size());
      size_t freed = (random.OneIn(3) ? random.Below(blocks.size() + 1) : 0);
      (random.OneIn(2) ? owner : other).Run([&] {
        for (size_t i = 0; i < freed; i++) mi_free(blocks[i]);
      });
      ASSERT_EQ(CountBlocks(heap), blocks.size() - freed);
      if (random.OneIn(10)) {
        EXPECT_TRUE(mi_heap_check(heap));
      }
      (random.OneIn(20) ? other : owner).Run([&] {
        if (random.OneIn(3)) {
          if (random.OneIn(3)) {
            mi_heap_t* into = mi_heap_new();
            mi_heap_merge(heap, into);
            if (random.OneIn(2)) {
              EXPECT_NE(mi_heap_malloc(into, random.Below(2000)), nullptr);
            }
            heap = into;
          }
          random.OneIn(10) ? mi_heap_delete(heap) : mi_heap_destroy(heap);
          heap = nullptr;
          return;
        }
        mi_heap_reset(heap);
        ASSERT_EQ(CountBlocks(heap), 0u);
        ASSERT_TRUE(mi_heap_check(heap));
        if (random.OneIn(20)) mi_heap_collect(heap, random.OneIn(2));
      });
      if (random.OneIn(50)) owner.Run([] { mi_collect(true); });
    }
    owner.Run([&] {
      for (mi_heap_t* heap : heaps) mi_heap_destroy(heap);
    });
  }
}

TEST(RetainTest, AHeapIsSoundOverManyResets) {
  for (uint64_t seed = 1; seed <= 4; seed++) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    Random random(seed);
    mi_heap_t* heap = NewHeap("many resets", random.Below(3 * kMiB) + 1);
    auto worker = std::make_unique<Worker>();
    for (int round = 0; round < Scaled(60); round++) {
      std::vector<void*> blocks;
      auto work = [&] {
        size_t common = random.Below(9000);
        for (int i = 0; i < 1500; i++) {
          size_t size = random.OneIn(3) ? common : random.Below(random.OneIn(50) ? 200000 : 3000);
          void* p = mi_heap_zalloc(heap, size);
          ASSERT_NE(p, nullptr);
          ASSERT_TRUE(IsZero(p, 0, size));
          memset(p, 0xff, size);
          blocks.push_back(p);
          if (random.OneIn(3)) {
            std::swap(blocks[random.Below(blocks.size())], blocks.back());
            mi_free(blocks.back());
            blocks.pop_back();
          }
        }
      };
      random.OneIn(2) ? work() : worker->Run(work);
      if (random.OneIn(2)) {
        worker->Run([&] {
          for (size_t i = 0; i < blocks.size(); i += 2) mi_free(blocks[i]);
        });
      }
      if (random.OneIn(10)) worker = std::make_unique<Worker>();  // the former one ends
      ASSERT_TRUE(mi_heap_check(heap));
      mi_heap_reset(heap);
      ASSERT_TRUE(mi_heap_check(heap));
      if (random.OneIn(10)) mi_heap_collect(heap, random.OneIn(2));
    }
    worker = nullptr;
    mi_heap_destroy(heap);
  }
}

}  // namespace
}  // namespace mi_test
