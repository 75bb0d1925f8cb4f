// Young heaps: the part of a heap that lives in bump regions before size classes earn pages. Growth over all region
// sizes, exact usable sizes, freeing and resizing in place, double frees, frees by other threads, promotion of classes,
// and contents that stay intact through all of it.
#include <cstddef>
#include <map>
#include <set>
#include <vector>

#include "gtest/gtest.h"
#include "mi/heap/heap.h"
#include "mi/mimalloc.h"
#include "tests/test_support.h"

namespace mi_test {
namespace {

// The 50 objects that a small request makes.
const size_t kCycle[] = {16, 24, 32, 48, 64, 96, 128, 192, 256, 512};

TEST(YoungTest, ThousandsOfSmallHeapsKeepTheirContents) {
  struct Small {
    mi_heap_t* heap;
    std::vector<void*> blocks;
  };
  const int heaps = Scaled(5000, 50000);
  std::vector<Small> all;
  for (int i = 0; i < heaps; i++) {
    Small small{mi_heap_new(), {}};
    ASSERT_NE(small.heap, nullptr);
    for (int j = 0; j < 50; j++) {
      void* block = mi_heap_malloc(small.heap, kCycle[j % 10]);
      ASSERT_NE(block, nullptr);
      Fill(block, kCycle[j % 10], static_cast<uint64_t>(i) * 100 + j);
      small.blocks.push_back(block);
    }
    all.push_back(std::move(small));
  }
  for (int i = 0; i < heaps; i++) {
    for (int j = 0; j < 50; j++) {
      ASSERT_TRUE(Holds(all[i].blocks[j], kCycle[j % 10], static_cast<uint64_t>(i) * 100 + j));
      ASSERT_EQ(mi_heap_of(all[i].blocks[j]), all[i].heap);
    }
    if (i % 10 == 0) {
      ASSERT_TRUE(ShowsExactly(all[i].heap, all[i].blocks));
    }
    mi_heap_destroy(all[i].heap);
  }
}

TEST(YoungTest, ObjectsOfAHeapAreIntactThroughAllRegionSizes) {
  Random random(11);
  for (int round = 0; round < 20; round++) {
    mi_heap_t* heap = mi_heap_new();
    ASSERT_NE(heap, nullptr);
    struct Object {
      void* at;
      size_t size;
    };
    std::vector<Object> objects;
    // 512 B, 1 KiB ... 64 KiB regions and several of the last: about 400 KiB, in sizes that rarely repeat.
    for (size_t bytes = 0; bytes < 400 * kKiB;) {
      size_t size = random.OneIn(10) ? random.Between(600, 12000) : random.Between(0, 700);
      void* block = mi_heap_malloc(heap, size);
      ASSERT_NE(block, nullptr);
      ASSERT_TRUE(IsAligned(block, NaturalAlignment(size)));
      Fill(block, mi_usable_size(block), objects.size());
      objects.push_back({block, mi_usable_size(block)});
      ASSERT_GE(objects.back().size, size);
      bytes += size;
    }
    std::vector<void*> blocks;
    for (size_t i = 0; i < objects.size(); i++) {
      ASSERT_TRUE(Holds(objects[i].at, objects[i].size, i));
      blocks.push_back(objects[i].at);
    }
    ASSERT_TRUE(ShowsExactly(heap, blocks));
    mi_heap_destroy(heap);
  }
}

TEST(YoungTest, TheUsableSizeOfAnObjectEndsWhereTheNextBegins) {
  mi_heap_t* heap = mi_heap_new();
  ASSERT_NE(heap, nullptr);
  std::map<char*, size_t> usable;
  Random random(5);
  for (int i = 0; i < 150; i++) {
    size_t size = random.Between(0, 250);
    char* block = static_cast<char*>(mi_heap_malloc(heap, size));
    ASSERT_NE(block, nullptr);
    size_t now = mi_usable_size(block);
    ASSERT_GE(now, size);
    // No size class: objects are multiples of 16 bytes.
    ASSERT_LE(now, std::max<size_t>(16, (size + 15) / 16 * 16)) << "requested: " << size;
    usable[block] = now;
  }
  for (auto it = usable.begin(); it != usable.end(); ++it) {
    EXPECT_EQ(mi_usable_size(it->first), it->second) << "a later allocation changed an object's size";
    auto next = std::next(it);
    if (next != usable.end()) {
      EXPECT_LE(it->first + it->second, next->first);
    }
  }
  mi_heap_destroy(heap);
}

TEST(YoungTest, AnAlignedNeighbourDoesNotChangeAnObjectsUsableSize) {
  for (size_t alignment : {32, 64, 128, 256}) {
    for (int round = 0; round < 20; round++) {
      mi_heap_t* heap = mi_heap_new();
      ASSERT_NE(heap, nullptr);
      // Dirty the memory, so that a gap that is taken for a part of an object is not zero.
      for (int i = 0; i < 60; i++) memset(mi_heap_malloc(heap, 100), 0xff, 100);
      mi_heap_reset(heap);
      for (int i = 0; i < 20; i++) {
        void* block = mi_heap_zalloc(heap, 16 + 16 * (i % 5));
        const size_t usable = mi_usable_size(block);
        void* aligned = mi_heap_malloc_aligned(heap, 40, alignment);
        ASSERT_NE(aligned, nullptr);
        ASSERT_TRUE(IsAligned(aligned, alignment));
        memset(aligned, 0xff, 40);
        EXPECT_EQ(mi_usable_size(block), usable);
        const size_t now = mi_usable_size(block);
        block = mi_heap_rezalloc(heap, block, now);
        ASSERT_TRUE(IsZero(block, 0, now));
      }
      mi_heap_destroy(heap);
    }
  }
}

TEST(YoungTest, ReallocInPlaceAndByMovingKeepsContentsAndNeighbours) {
  Random random(21);
  for (int round = 0; round < 30; round++) {
    mi_heap_t* heap = mi_heap_new();
    ASSERT_NE(heap, nullptr);
    struct Object {
      void* at;
      size_t size;
      uint64_t seed;
    };
    std::vector<Object> objects;
    uint64_t seed = 0;
    for (int step = 0; step < 600; step++) {
      if (objects.size() < 20 || random.OneIn(4)) {
        size_t size = random.Between(0, 300);
        objects.push_back({mi_heap_malloc(heap, size), size, ++seed});
      } else {
        // The last one grows in place more often than not.
        Object& object = random.OneIn(2) ? objects.back() : objects[random.Below(objects.size())];
        size_t size = random.OneIn(8) ? random.Between(0, 5000) : random.Between(0, 500);
        object.at = mi_heap_realloc(heap, object.at, size);
        ASSERT_NE(object.at, nullptr);
        ASSERT_TRUE(Holds(object.at, object.size, object.seed, size));
        object.size = size;
        object.seed = ++seed;
      }
      Object& changed = objects.back();
      ASSERT_NE(changed.at, nullptr);
      for (Object& object : objects) {
        if (object.seed == seed) Fill(object.at, object.size, object.seed);
      }
      if (step % 50 == 0 || step > 590) {
        for (Object& object : objects) ASSERT_TRUE(Holds(object.at, object.size, object.seed));
      }
    }
    std::vector<void*> blocks;
    for (Object& object : objects) blocks.push_back(object.at);
    ASSERT_TRUE(ShowsExactly(heap, blocks));
    mi_heap_destroy(heap);
  }
}

TEST(YoungTest, TheLastObjectOfARegionGrowsInPlace) {
  if (kSecure) GTEST_SKIP() << kNoRegions;
  mi_heap_t* heap = mi_heap_new();
  ASSERT_NE(heap, nullptr);
  char* block = static_cast<char*>(mi_heap_malloc(heap, 16));
  ASSERT_NE(block, nullptr);
  Fill(block, 16, 1);
  EXPECT_EQ(mi_heap_realloc(heap, block, 96), block) << "the last object of a region has room behind it";
  EXPECT_TRUE(Holds(block, 16, 1));
  EXPECT_GE(mi_usable_size(block), 96u);
  char* next = static_cast<char*>(mi_heap_malloc(heap, 16));
  EXPECT_TRUE(next >= block + 96 || next + 16 <= block);
  EXPECT_EQ(mi_expand(block, 80), block);
  EXPECT_TRUE(ShowsExactly(heap, {block, next}));
  mi_heap_destroy(heap);
}

TEST(YoungTest, MemoryOfFreedObjectsIsUsedAgain) {
  // A parser that allocates and frees for ever must not grow without bound, whatever it allocates.
  for (size_t size : {16, 100, 400, 1500, 6000, 20000}) {
    mi_heap_t* heap = mi_heap_new();
    ASSERT_NE(heap, nullptr);
    std::set<uintptr_t> pages;
    std::vector<void*> window(10, nullptr);
    for (int i = 0; i < 20000; i++) {
      mi_free(window[i % 10]);
      window[i % 10] = mi_heap_malloc(heap, size);
      ASSERT_NE(window[i % 10], nullptr);
      pages.insert(reinterpret_cast<uintptr_t>(window[i % 10]) >> 12);
    }
    EXPECT_LE(pages.size() * 4096, 300 * kKiB + 100 * size) << "size " << size;
    for (void* block : window) mi_free(block);
    EXPECT_EQ(CountBlocks(heap), 0u);
    mi_heap_destroy(heap);
  }
}

TEST(YoungTest, ADoubleFreeInARegionIsReportedAndFreesNothingElse) {
  if (kSecure) GTEST_SKIP() << kMisuseEnds;
  mi_heap_t* heap = mi_heap_new();
  ASSERT_NE(heap, nullptr);
  std::vector<void*> blocks;
  for (int i = 0; i < 20; i++) {
    blocks.push_back(mi_heap_malloc(heap, 16 + 8 * i));
    Fill(blocks[i], 16 + 8 * i, i);
  }
  for (int i : {3, 7, 19, 0}) {
    ErrorRecorder errors;
    mi_free(blocks[i]);
    EXPECT_EQ(errors.total(), 0);
    mi_free(Opaque(blocks[i]));
    EXPECT_EQ(errors.errors(), std::vector<int>{EAGAIN}) << i;
    EXPECT_FALSE(errors.text().empty());
    InThread([&] { mi_free(Opaque(blocks[i])); });
    EXPECT_EQ(errors.count(EAGAIN), 2) << "a double free by another thread";
    blocks[i] = nullptr;
  }
  std::vector<void*> live;
  for (int i = 0; i < 20; i++) {
    if (blocks[i] == nullptr) continue;
    EXPECT_TRUE(Holds(blocks[i], 16 + 8 * i, i));
    live.push_back(blocks[i]);
  }
  EXPECT_TRUE(ShowsExactly(heap, live));
  mi_heap_destroy(heap);
}

TEST(YoungTest, AFreeByTwoThreadsOfTheSameObjectIsReportedToo) {
  if (kSecure) GTEST_SKIP() << kMisuseEnds;
  mi_heap_t* heap = mi_heap_new();
  ASSERT_NE(heap, nullptr);
  void* kept = mi_heap_malloc(heap, 32);
  void* block = mi_heap_malloc(heap, 32);
  void* after = mi_heap_malloc(heap, 32);
  InThread([&] { mi_free(block); });
  ErrorRecorder errors;
  mi_free(Opaque(block));
  EXPECT_EQ(errors.errors(), std::vector<int>{EAGAIN});
  InThread([&] { mi_free(Opaque(block)); });
  EXPECT_EQ(errors.count(EAGAIN), 2);
  EXPECT_TRUE(ShowsExactly(heap, {kept, after}));
  mi_heap_destroy(heap);
}

TEST(YoungTest, FreeingTheMiddleOfAnObjectIsReportedAndTheObjectStays) {
  if (kSecure) GTEST_SKIP() << kMisuseEnds;
  mi_heap_t* heap = mi_heap_new();
  ASSERT_NE(heap, nullptr);
  char* block = static_cast<char*>(mi_heap_malloc(heap, 128));
  ASSERT_NE(block, nullptr);
  Fill(block, 128, 1);
  for (size_t offset : {1, 8, 16, 64, 112, 127}) {
    ErrorRecorder errors;
    mi_free(Opaque(block + offset));
    EXPECT_EQ(errors.errors(), std::vector<int>{EINVAL}) << offset;
  }
  EXPECT_TRUE(Holds(block, 128, 1));
  EXPECT_TRUE(ShowsExactly(heap, {block}));
  ErrorRecorder errors;
  mi_free(block);
  EXPECT_EQ(errors.total(), 0);
  mi_heap_destroy(heap);
}

TEST(YoungTest, ObjectsFreedByOtherThreadsAreGoneAndTheirMemoryIsUsedAgain) {
  mi_heap_t* heap = mi_heap_new();
  ASSERT_NE(heap, nullptr);
  std::set<uintptr_t> pages;
  Worker other;
  for (int round = 0; round < 300; round++) {
    std::vector<void*> blocks;
    for (int i = 0; i < 50; i++) {
      blocks.push_back(mi_heap_malloc(heap, kCycle[i % 10]));
      ASSERT_NE(blocks.back(), nullptr);
      pages.insert(reinterpret_cast<uintptr_t>(blocks.back()) >> 12);
    }
    other.Run([&] {
      for (void* block : blocks) mi_free(block);
    });
  }
  EXPECT_EQ(CountBlocks(heap), 0u);
  EXPECT_LE(pages.size(), 200u) << "remotely freed regions are not used again";
  mi_heap_destroy(heap);
}

TEST(YoungTest, AClassMovesToPagesAndItsYoungObjectsStayValid) {
  for (size_t size : {16, 24, 64, 200, 1000, 3000}) {
    SCOPED_TRACE(size);
    mi_heap_t* heap = mi_heap_new();
    ASSERT_NE(heap, nullptr);
    std::vector<void*> blocks;
    for (size_t i = 0; i * size < 200 * kKiB; i++) {
      blocks.push_back(mi_heap_malloc(heap, size));
      ASSERT_NE(blocks.back(), nullptr);
      Fill(blocks.back(), size, i);
      // Another class in between stays young.
      if (i % 100 == 0) {
        blocks.push_back(mi_heap_malloc(heap, size + 40));
        Fill(blocks.back(), size, ++i);
      }
    }
    // Objects of before and after the move are freed and allocated again, in every order.
    Random random(size);
    std::set<void*> live(blocks.begin(), blocks.end());
    ASSERT_EQ(live.size(), blocks.size()) << "a block was handed out twice";
    for (int step = 0; step < 5000; step++) {
      size_t i = random.Below(blocks.size());
      live.erase(blocks[i]);
      mi_free(blocks[i]);
      blocks[i] = mi_heap_malloc(heap, size);
      ASSERT_NE(blocks[i], nullptr);
      ASSERT_TRUE(live.insert(blocks[i]).second) << "a live block was handed out";
      ASSERT_EQ(mi_heap_of(blocks[i]), heap);
    }
    EXPECT_TRUE(ShowsExactly(heap, blocks));
    for (void* block : blocks) mi_free(block);
    EXPECT_TRUE(ShowsExactly(heap, {}));
    mi_heap_destroy(heap);
  }
}

TEST(YoungTest, AClassThatIsFreedOftenMovesToPagesAndNothingIsLost) {
  mi_heap_t* heap = mi_heap_new();
  ASSERT_NE(heap, nullptr);
  void* anchor = mi_heap_malloc(heap, 64);
  for (int i = 0; i < 1000; i++) {
    void* block = mi_heap_malloc(heap, 64);
    ASSERT_NE(block, nullptr);
    ASSERT_NE(block, anchor);
    Fill(block, 64, i);
    ASSERT_TRUE(Holds(block, 64, i));
    mi_free(block);
  }
  EXPECT_TRUE(ShowsExactly(heap, {anchor}));
  mi_free(anchor);
  EXPECT_TRUE(ShowsExactly(heap, {}));
  mi_heap_destroy(heap);
}

TEST(YoungTest, ManyThreadsAllocateInAYoungHeapAtOnce) {
  for (int round = 0; round < Scaled(100); round++) {
    mi_heap_t* heap = mi_heap_new();
    ASSERT_NE(heap, nullptr);
    constexpr int kThreads = 4;
    std::vector<void*> blocks[kThreads];
    InThreads(kThreads, [&](int t) {
      for (int i = 0; i < 60; i++) {
        void* block = mi_heap_malloc(heap, kCycle[i % 10]);
        ASSERT_NE(block, nullptr);
        Fill(block, kCycle[i % 10], t * 1000 + i);
        blocks[t].push_back(block);
      }
      for (int i = 0; i < 60; i++) ASSERT_TRUE(Holds(blocks[t][i], kCycle[i % 10], t * 1000 + i));
    });
    std::vector<void*> all;
    for (int t = 0; t < kThreads; t++) {
      for (int i = 0; i < 60; i++) ASSERT_TRUE(Holds(blocks[t][i], kCycle[i % 10], t * 1000 + i));
      all.insert(all.end(), blocks[t].begin(), blocks[t].end());
    }
    ASSERT_TRUE(ShowsExactly(heap, all));
    mi_heap_destroy(heap);
  }
}

TEST(YoungTest, AHeapWithoutLivingHomeThreadIsTakenOverByTheNext) {
  const int n = Scaled(200);
  for (int round = 0; round < n; round++) {
    mi_heap_t* heap = nullptr;
    std::vector<void*> blocks;
    InThread([&] {
      heap = mi_heap_new();
      for (int i = 0; i < 20; i++) blocks.push_back(mi_heap_malloc(heap, 16 + i));
    });
    for (int i = 0; i < 20; i++) blocks.push_back(mi_heap_malloc(heap, 16 + i));
    InThread([&] {
      for (int i = 0; i < 20; i++) blocks.push_back(mi_heap_malloc(heap, 16 + i));
    });
    ASSERT_EQ(std::set<void*>(blocks.begin(), blocks.end()).size(), 60u);
    ASSERT_TRUE(ShowsExactly(heap, blocks));
    mi_heap_destroy(heap);
  }
}

TEST(YoungTest, ThreadsThatComeAndGoDoNotEachCostAHeapARegion) {
  // A heap used once by each of very many threads, which keep one small block each.
  mi_heap_t* heap = mi_heap_new();
  ASSERT_NE(heap, nullptr);
  const int n = Scaled(3000);
  std::set<uintptr_t> pages;
  std::vector<void*> blocks;
  for (int i = 0; i < n; i++) {
    InThread([&] { blocks.push_back(mi_heap_malloc(heap, 16)); });
    ASSERT_NE(blocks.back(), nullptr);
    pages.insert(reinterpret_cast<uintptr_t>(blocks.back()) >> 12);
  }
  EXPECT_LE(pages.size(), static_cast<size_t>(n) * 16 * 8 / 4096 + 40) << "orphaned parts are not adopted";
  EXPECT_TRUE(ShowsExactly(heap, blocks));
  mi_heap_destroy(heap);
}

TEST(YoungTest, DestroyedHeapsAreRecycledWithoutTracesOfTheirFormerLife) {
  for (int i = 0; i < Scaled(20000); i++) {
    mi_heap_t* heap = mi_heap_new();
    ASSERT_NE(heap, nullptr);
    ASSERT_STREQ(mi_heap_name(heap), "");
    void* block = mi_heap_zalloc(heap, 200);
    ASSERT_NE(block, nullptr);
    ASSERT_TRUE(IsZero(block, 0, 200));
    memset(block, 0xff, 200);
    if (i % 3 == 0) {
      for (int j = 0; j < 100; j++) memset(mi_heap_malloc(heap, 100), 0xff, 100);
    }
    if (i % 500 == 0) {
      ASSERT_EQ(mi_heap_of(block), heap);
    }
    mi_heap_destroy(heap);
  }
}

}  // namespace
}  // namespace mi_test
