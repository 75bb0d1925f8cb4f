// What the process keeps: memory goes back to the system after destroy and collect, and after a while by itself;
// address space stays; threads that come and go cost nothing lasting. Measures resident memory, so it runs alone and
// without sanitizers. No test depends on how long something takes: what must happen eventually is waited for.
#include <sys/mman.h>
#include <time.h>

#include <atomic>
#include <cstddef>
#include <vector>

#include "gtest/gtest.h"
#include "mi/heap/heap.h"
#include "mi/mimalloc.h"
#include "tests/test_support.h"

namespace mi_test {
namespace {

void ShortSleep() {
  timespec t = {0, 1000000};
  nanosleep(&t, nullptr);
}

class MemoryTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (kSanitized) GTEST_SKIP() << "a sanitizer keeps memory of its own";
  }

  // Runs `work(scale)` once small, so that everything that is made once is there (stacks of threads, the C
  // library's own memory), then at full size, and requires that the memory of the difference went back. `in_pages`: of
  // so much in pages, those of the secure build keep bits, up to a tenth, for the next ones in their place.
  template <typename Work>
  void ExpectAllGoesBack(Work work, size_t in_pages = 0) {
    work(2);
    mi_collect(true);
    const size_t before = ResidentBytes();
    work(0);
    mi_collect(true);
    const size_t after = ResidentBytes();
    EXPECT_LE(after, before + kMiB + (kSecure ? in_pages / 10 : 0))
        << "of " << before / kKiB << " KiB at the start, " << after / kKiB << " KiB are resident at the end";
  }
};

// `count` blocks in `heap`, one byte of every OS page touched.
void AllocateAndTouch(mi_heap_t* heap, size_t count, size_t size) {
  for (size_t i = 0; i < count; i++) {
    char* block = static_cast<char*>(mi_heap_malloc(heap, size));
    ASSERT_NE(block, nullptr);
    for (size_t at = 0; at < size; at += 4096) block[at] = 1;
  }
}

TEST_F(MemoryTest, GoesBackAfterDestroyOfAHeapOfEveryKindOfBlock) {
  const auto sizes = {16, 64, 500, 3000, 20000, 100000, 700000};
  const auto work = [&](int scale) {
    mi_heap_t* heap = mi_heap_new();
    for (size_t size : sizes) AllocateAndTouch(heap, (16 * kMiB >> (2 * scale)) / size, size);
    if (scale == 0) {
      EXPECT_GE(ResidentBytes(), 90 * kMiB);
    }
    mi_heap_destroy(heap);
  };
  ExpectAllGoesBack(work, sizes.size() * 16 * kMiB);
}

TEST_F(MemoryTest, GoesBackAfterDestroyOfThousandsOfHeaps) {
  if (kSecure) GTEST_SKIP() << "each has a page for each size, whose bits stay and are as much as what it holds";
  std::vector<mi_heap_t*> heaps(50000);
  ExpectAllGoesBack([&](int scale) {
    const size_t n = heaps.size() >> (2 * scale);
    for (size_t i = 0; i < n; i++) {
      heaps[i] = mi_heap_new();
      ASSERT_NE(heaps[i], nullptr);
      for (size_t size : {16, 100, 300, 512}) memset(mi_heap_malloc(heaps[i], size), 1, size);
    }
    for (size_t i = 0; i < n; i++) mi_heap_destroy(heaps[(i * 7919) % n]);
  });
}

TEST_F(MemoryTest, GoesBackAfterHugeAndOverAlignedBlocks) {
  ExpectAllGoesBack([](int scale) {
    mi_heap_t* heap = mi_heap_new();
    AllocateAndTouch(heap, 4 >> scale, 40 * kMiB);
    AllocateAndTouch(heap, 4 >> scale, 5 * kMiB);
    std::vector<void*> singles;
    for (size_t alignment = 64 * kKiB; alignment <= 16 * kMiB; alignment *= 2) {
      for (size_t size : {100, 50000, 2000000}) {
        char* block = static_cast<char*>(mi_heap_malloc_aligned(heap, size, alignment));
        ASSERT_NE(block, nullptr);
        memset(block, 1, size);
        block = static_cast<char*>(mi_malloc_aligned(size, alignment));
        ASSERT_NE(block, nullptr);
        memset(block, 1, size);
        singles.push_back(block);
      }
    }
    mi_heap_destroy(heap);
    for (void* block : singles) mi_free(block);
  });
}

TEST_F(MemoryTest, GoesBackAfterSingleFreesInTheMainHeapAndInHeaps) {
  std::vector<void*> blocks(400000);
  const auto work = [&](int scale) {
    const size_t n = blocks.size() >> (2 * scale);
    mi_heap_t* heap = mi_heap_new();
    for (size_t i = 0; i < n; i++) {
      blocks[i] = i % 2 == 0 ? mi_malloc(16 + i % 400) : mi_heap_malloc(heap, 16 + i % 400);
      memset(blocks[i], 1, 16 + i % 400);
    }
    for (size_t i = 0; i < n; i++) mi_free(blocks[(i * 7919) % n]);
    mi_heap_destroy(heap);
  };
  ExpectAllGoesBack(work, blocks.size() * (16 + 400 / 2));
}

TEST_F(MemoryTest, GoesBackAfterThreadsThatExited) {
  std::vector<std::vector<void*>> singles(8, std::vector<void*>(20000));
  ExpectAllGoesBack([&](int scale) {
    mi_heap_t* heap = mi_heap_new();
    InThreads(8, [&](int t) {
      const int n = 20000 >> (2 * scale);
      AllocateAndTouch(heap, n, 100);
      AllocateAndTouch(heap, 2, 5 * kMiB);
      for (int i = 0; i < n; i++) {
        singles[t][i] = mi_malloc(50 + t);
        memset(singles[t][i], 1, 50 + t);
      }
      mi_heap_t* own = mi_heap_new();
      AllocateAndTouch(own, n, 200);
      mi_heap_destroy(own);
    });
    for (auto& of_thread : singles) {
      for (int i = 0; i < 20000 >> (2 * scale); i++) mi_free(of_thread[i]);
    }
    mi_heap_destroy(heap);
  });
}

TEST_F(MemoryTest, GoesBackFromThreadsThatLiveOnceTheyHavePassedASlowPath) {
  Worker worker[4];
  ExpectAllGoesBack([&](int scale) {
    mi_heap_t* heap = mi_heap_new();
    for (Worker& w : worker) {
      w.Start([&] {
        AllocateAndTouch(heap, 20000 >> (2 * scale), 100);
        mi_heap_t* own = mi_heap_new();
        AllocateAndTouch(own, 20000 >> (2 * scale), 100);
        mi_heap_destroy(own);
      });
    }
    for (Worker& w : worker) w.Wait();
    mi_heap_destroy(heap);
    for (Worker& w : worker) w.Run([] { mi_collect(true); });
  });
}

TEST_F(MemoryTest, GoesBackAfterDeleteAndTheSurvivorsFrees) {
  std::vector<void*> blocks(100000);
  ExpectAllGoesBack([&](int scale) {
    const size_t n = blocks.size() >> (2 * scale);
    mi_heap_t* heap = mi_heap_new();
    InThread([&] {
      for (size_t i = 0; i < n / 2; i++) memset(blocks[i] = mi_heap_malloc(heap, 16 + i % 600), 1, 16);
    });
    for (size_t i = n / 2; i < n; i++) memset(blocks[i] = mi_heap_malloc(heap, 16 + i % 600), 1, 16);
    mi_heap_delete(heap);
    for (size_t i = 0; i < n; i++) mi_free(blocks[i]);
  });
}

// ---- by itself ------------------------------------------------------------------------------------------

// Lets the library pass by, as other activity of a program does, until the resident memory fell to `target`.
bool FallsTo(size_t target, int seconds = 60) {
  Deadline deadline(seconds);
  mi_heap_t* heap = mi_heap_new();
  bool fell = false;
  while (!fell && !deadline.Passed()) {
    ShortSleep();
    for (int i = 0; i < 100; i++) {
      mi_free(mi_malloc(100 + i * 50));
      mi_free(mi_heap_malloc(heap, 3000));
    }
    fell = ResidentBytes() <= target;
  }
  mi_heap_destroy(heap);
  return fell;
}

TEST_F(MemoryTest, FreedMemoryGoesBackAfterAWhileWithoutACollect) {
  for (size_t size : {64 * kKiB, size_t{300}, kMiB, 20 * kMiB}) {
    SCOPED_TRACE(size);
    mi_collect(true);
    std::vector<void*> blocks(256 * kMiB / size);
    size_t before = ResidentBytes();
    for (void*& block : blocks) {
      block = mi_malloc(size);
      ASSERT_NE(block, nullptr);
      memset(block, 1, size);
    }
    ASSERT_GE(ResidentBytes(), before + blocks.size() * size / 10 * 9);
    for (void* block : blocks) mi_free(block);
    EXPECT_TRUE(FallsTo(before + 32 * kMiB)) << ResidentBytes() / kMiB << " MiB are resident";
  }
}

TEST_F(MemoryTest, MemoryThatAnotherThreadFreedBeforeItWentIdleGoesBackToo) {
  mi_collect(true);
  Worker idle;
  size_t before = ResidentBytes();
  idle.Run([] {
    mi_heap_t* heap = mi_heap_new();
    AllocateAndTouch(heap, 256, kMiB);
    mi_heap_destroy(heap);
  });
  EXPECT_TRUE(FallsTo(before + 32 * kMiB)) << ResidentBytes() / kMiB << " MiB are resident";
}

TEST_F(MemoryTest, AddressSpaceOnceTakenStays) {
  std::vector<char*> blocks;
  mi_heap_t* heap = mi_heap_new();
  for (size_t size : {100 * kKiB, 3 * kMiB, 30 * kMiB}) {
    blocks.push_back(static_cast<char*>(mi_heap_malloc(heap, size)));
    memset(blocks.back(), 1, size);
  }
  mi_heap_destroy(heap);
  mi_collect(true);
  for (char* block : blocks) {
    unsigned char resident;
    char* page = reinterpret_cast<char*>(reinterpret_cast<uintptr_t>(block) & ~uintptr_t{4095});
    EXPECT_EQ(mincore(page, 4096, &resident), 0) << "address space was unmapped";
  }
}

TEST_F(MemoryTest, TheSameAddressSpaceIsUsedAgain) {
  auto work = [] {
    mi_heap_t* heap = mi_heap_new();
    AllocateAndTouch(heap, 20, 3 * kMiB);
    AllocateAndTouch(heap, 3, 20 * kMiB);
    AllocateAndTouch(heap, 10000, 1000);
    ASSERT_NE(mi_heap_malloc_aligned(heap, 100000, 16 * kMiB), nullptr);
    mi_heap_destroy(heap);
  };
  work();
  work();
  const size_t before = AddressSpaceBytes();
  for (int i = 0; i < 50; i++) work();
  EXPECT_LE(AddressSpaceBytes(), before) << "address space is lost with every round";
}

TEST_F(MemoryTest, APurgedPageIsServedAgainAsFreshMemory) {
  for (int round = 0; round < 5; round++) {
    char* block = static_cast<char*>(mi_malloc(2 * kMiB));
    memset(block, 0xff, 2 * kMiB);
    mi_free(block);
    mi_collect(true);
    block = static_cast<char*>(mi_zalloc(2 * kMiB));
    ASSERT_TRUE(IsZero(block, 0, 2 * kMiB));
    memset(block, 0xff, 2 * kMiB);
    mi_free(block);
    block = static_cast<char*>(mi_zalloc(2 * kMiB));
    ASSERT_TRUE(IsZero(block, 0, 2 * kMiB));
    mi_free(block);
  }
}

// ---- threads --------------------------------------------------------------------------------------------

TEST_F(MemoryTest, ThreadsThatComeAndGoCostNothingLasting) {
  // Each thread takes over a block of its predecessors, frees it and leaves one behind.
  std::vector<void*> left(64, nullptr);
  mi_heap_t* heap = mi_heap_new();
  auto one_thread = [&](int i) {
    InThread([&] {
      size_t slot = i % left.size();
      mi_free(left[slot]);
      left[slot] = i % 2 == 0 ? mi_malloc(100 + i % 1000) : mi_heap_malloc(heap, 100 + i % 1000);
      memset(left[slot], 2, 100);
      for (int j = 0; j < 20; j++) mi_free(mi_malloc(16 << (j % 8)));
      mi_heap_t* own = mi_heap_new();
      memset(mi_heap_malloc(own, 300), 1, 300);
      if (i % 3 == 0) {
        mi_heap_destroy(own);
      } else {
        mi_heap_delete(own);
      }
    });
  };
  // The heaps that were deleted kept a block each: that is the program's leak, so it is freed by a visit of main.
  auto free_all_in_main = [] {
    mi_heap_visit_blocks(
        mi_heap_main(), true,
        [](const mi_heap_t*, const mi_heap_area_t*, void* block, size_t size, void*) {
          if (block != nullptr && size >= 300 && size < 320 && *static_cast<char*>(block) == 1) mi_free(block);
          return true;
        },
        nullptr);
  };
  int i = 0;
  for (; i < 1000; i++) one_thread(i);
  free_all_in_main();
  mi_collect(true);
  const size_t before = ResidentBytes();
  const int threads = kSoak ? 100000 : 20000;
  for (; i < threads; i++) {
    one_thread(i);
    if (i % 1000 == 0) free_all_in_main();
  }
  free_all_in_main();
  mi_collect(true);
  EXPECT_LE(ResidentBytes(), before + 2 * kMiB);
  for (void* block : left) mi_free(block);
  mi_heap_destroy(heap);
}

TEST_F(MemoryTest, ALongRowOfShortHeapsNeedsTheMemoryOfOne) {
  auto row = [](int n) {
    for (int i = 0; i < n; i++) {
      mi_heap_t* heap = mi_heap_new();
      for (int j = 0; j < 50; j++) memset(mi_heap_malloc(heap, 16 + j * 8), 1, 16);
      mi_heap_destroy(heap);
    }
  };
  row(1000);
  size_t before = ResidentBytes();
  row(kSoak ? 10000000 : 300000);
  EXPECT_LE(ResidentBytes(), before + kMiB);
}

TEST_F(MemoryTest, HeapsMadeHereAndDestroyedThereDoNotPileUp) {
  // One thread only makes, the other only destroys: what the destroyer caches must find its way back.
  Worker destroyer;
  std::vector<mi_heap_t*> batch(500);
  auto row = [&](int batches) {
    for (int i = 0; i < batches; i++) {
      for (mi_heap_t*& heap : batch) {
        heap = mi_heap_new();
        for (int j = 0; j < 30; j++) memset(mi_heap_malloc(heap, 16 + j * 16), 1, 16);
      }
      destroyer.Run([&] {
        for (mi_heap_t* heap : batch) mi_heap_destroy(heap);
      });
    }
  };
  row(kSecure ? 300 : 20);  // there, until every place that pages take turns in has its bits
  size_t before = ResidentBytes();
  row(kSoak ? 20000 : kSecure ? 100 : 400);
  EXPECT_LE(ResidentBytes(), before + 2 * kMiB);
}

}  // namespace
}  // namespace mi_test
