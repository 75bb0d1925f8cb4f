// The contract of the malloc family on the default heap: sizes, alignment, zeroing, resizing, refusals and their errno,
// strings, and what happens on misuse. Alignment beyond the natural one is in aligned_test.cc, heaps are in heap/.
#include <limits.h>
#include <stdint.h>

#include <atomic>
#include <cstddef>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "mi/mimalloc.h"
#include "tests/test_support.h"

namespace mi_test {
namespace {

constexpr size_t kTooLarge = static_cast<size_t>(PTRDIFF_MAX) + 1;

// One byte below, at and above every size that mi_good_size names, up to `largest`.
std::vector<size_t> SizesAroundClasses(size_t largest) {
  std::set<size_t> sizes;
  for (size_t size = 0; size <= 130; size++) sizes.insert(size);
  for (size_t size = 1; size <= largest;) {
    size_t good = mi_good_size(size);
    if (good < size) break;  // reported by its own test
    sizes.insert({good - 1, good, good + 1});
    size = good + 1;
  }
  return {sizes.begin(), sizes.end()};
}

TEST(MallocTest, ServesEverySizeAroundEveryClassAlignedAndFullyWritable) {
  uint64_t seed = 1;
  for (size_t size : SizesAroundClasses(2 * kMiB)) {
    SCOPED_TRACE(size);
    constexpr int kBlocks = 4;
    void* block[kBlocks];
    size_t usable[kBlocks];
    for (int i = 0; i < kBlocks; i++) {
      block[i] = mi_malloc(size);
      ASSERT_NE(block[i], nullptr);
      ASSERT_TRUE(IsAligned(block[i], NaturalAlignment(size))) << block[i];
      usable[i] = mi_usable_size(block[i]);
      ASSERT_GE(usable[i], size);
      FillBytes(block[i], 0, usable[i], seed + i);
    }
    for (int i = 0; i < kBlocks; i++) {
      ASSERT_EQ(FindDifference(block[i], 0, usable[i], seed + i), usable[i]) << "blocks overlap";
      mi_free(block[i]);
    }
    seed += kBlocks;
  }
}

TEST(MallocTest, ServesHugeBlocksThatAreWritableToTheLastByte) {
  for (size_t size :
       {kMiB, 4 * kMiB - 64 * kKiB, 4 * kMiB - 1, 4 * kMiB, 4 * kMiB + 1, 5 * kMiB, 8 * kMiB, 64 * kMiB}) {
    SCOPED_TRACE(size);
    void* first = mi_malloc(size);
    void* second = mi_malloc(size);
    ASSERT_NE(first, nullptr);
    ASSERT_NE(second, nullptr);
    ASSERT_TRUE(IsAligned(first, 16));
    ASSERT_GE(mi_usable_size(first), size);
    ASSERT_GE(mi_usable_size(second), size);
    Fill(first, mi_usable_size(first), 1);
    Fill(second, mi_usable_size(second), 2);
    ASSERT_TRUE(Holds(first, mi_usable_size(first), 1));
    ASSERT_TRUE(Holds(second, mi_usable_size(second), 2));
    mi_free(first);
    ASSERT_TRUE(Holds(second, mi_usable_size(second), 2)) << "freeing one huge block hit the other";
    mi_free(second);
  }
}

TEST(MallocTest, EveryEntryPointOfSizeZeroReturnsADistinctBlock) {
  void* blocks[] = {mi_malloc(0),     mi_zalloc(0),       mi_calloc(0, 8),    mi_calloc(8, 0),
                    mi_mallocn(0, 0), mi_malloc_small(0), mi_zalloc_small(0), mi_realloc(nullptr, 0)};
  std::set<void*> distinct;
  for (void* block : blocks) {
    ASSERT_NE(block, nullptr);
    distinct.insert(block);
    mi_free(block);
  }
  EXPECT_EQ(distinct.size(), sizeof(blocks) / sizeof(blocks[0]));
}

TEST(MallocTest, SmallEntryPointsServeLargeSizesToo) {
  for (size_t size : {size_t{1}, size_t{MI_SMALL_SIZE_MAX}, size_t{MI_SMALL_SIZE_MAX} + 1, 100 * kKiB, 5 * kMiB}) {
    SCOPED_TRACE(size);
    void* plain = mi_malloc_small(size);
    void* zero = mi_zalloc_small(size);
    ASSERT_NE(plain, nullptr);
    ASSERT_NE(zero, nullptr);
    ASSERT_GE(mi_usable_size(plain), size);
    ASSERT_GE(mi_usable_size(zero), size);
    ASSERT_TRUE(IsZero(zero, 0, size));
    Fill(plain, size, 1);
    ASSERT_TRUE(IsZero(zero, 0, size));
    mi_free_small(plain);
    mi_free_small(zero);
  }
}

TEST(MallocTest, GoodSizeIsTheUsableSizeThatAMallocGets) {
  for (size_t size : SizesAroundClasses(kMiB)) {
    void* block = mi_malloc(size);
    ASSERT_NE(block, nullptr);
    ASSERT_EQ(mi_usable_size(block), kSecure ? std::max<size_t>(size, 1) : mi_good_size(size)) << "requested: " << size;
    ASSERT_EQ(mi_malloc_good_size(size), mi_good_size(size));
    ASSERT_EQ(mi_malloc_size(block), mi_usable_size(block));
    ASSERT_EQ(mi_malloc_usable_size(block), mi_usable_size(block));
    mi_free(block);
  }
}

TEST(MallocTest, GoodSizeGrowsWithTheSizeAndIsItsOwnGoodSize) {
  size_t former = 0;
  for (size_t size = 0; size <= 256 * kKiB; size++) {
    size_t good = mi_good_size(size);
    ASSERT_GE(good, size);
    ASSERT_GE(good, former) << size;
    ASSERT_EQ(mi_good_size(good), good) << size;
    former = good;
  }
}

TEST(MallocTest, UsableSizeOfNullAndForeignPointersIsZero) {
  static int in_data;
  int on_stack = 0;
  std::unique_ptr<char[]> elsewhere(new char[100]);
  EXPECT_EQ(mi_usable_size(nullptr), 0u);
  if (kSecure) GTEST_SKIP() << kMisuseEnds;
  EXPECT_EQ(mi_usable_size(&in_data), 0u);
  EXPECT_EQ(mi_usable_size(Opaque(&on_stack)), 0u);
  EXPECT_EQ(mi_usable_size(elsewhere.get()), 0u);
}

// The promise is 16.7 % for every size above 64 bytes. Sizes 65 and 66 exceed it where blocks are multiples of 16 bytes
// (80 is the next), and nothing else may.
std::vector<size_t> WastefulSizes() { return kMinAlign == 16 ? std::vector<size_t>{65, 66} : std::vector<size_t>{}; }

bool WastesTooMuch(size_t requested, size_t usable) {
  return static_cast<double>(usable - requested) > 0.167 * static_cast<double>(usable);
}

TEST(MallocTest, WastesAtMostASixthOfABlockForEverySizeAbove64) {
  if (kSecure) GTEST_SKIP() << kUsableIsAsked;
  std::vector<size_t> exceptions;
  size_t surplus = 0;
  for (size_t size = 65; size <= 64 * kKiB; size++) {
    void* block = mi_malloc(size);
    ASSERT_NE(block, nullptr);
    size_t usable = mi_usable_size(block);
    mi_free(block);
    ASSERT_GE(usable, size);
    if (WastesTooMuch(size, usable)) {
      if (exceptions.size() < 10) exceptions.push_back(size);
      surplus++;
    }
  }
  EXPECT_EQ(exceptions, WastefulSizes()) << surplus << " sizes waste more than promised";
}

TEST(MallocTest, WastesAtMostASixthOfABlockInAHeapWhoseClassesMovedToPages) {
  if (kSecure) GTEST_SKIP() << kUsableIsAsked;
  std::vector<size_t> exceptions;
  for (size_t good = mi_good_size(65), size = 65; size <= 16 * kKiB; size = good + 1, good = mi_good_size(size)) {
    mi_heap_t* heap = mi_heap_new();
    ASSERT_NE(heap, nullptr);
    // Enough of the class to earn pages, then one block of every size of the class (or a sample of the sizes).
    for (size_t bytes = 0; bytes < 512 * kKiB || bytes < 80 * good; bytes += good) {
      ASSERT_NE(mi_heap_malloc(heap, good), nullptr);
    }
    // Youth ends by bytes: smaller sizes of the class may still fit into what is left of it.
    for (int i = 0; i < 3; i++) ASSERT_NE(mi_heap_malloc(heap, size), nullptr);
    for (size_t request = size; request <= good; request += 1 + (good - size) / 16) {
      void* block = mi_heap_malloc(heap, request);
      ASSERT_NE(block, nullptr);
      ASSERT_EQ(mi_usable_size(block), good) << "requested: " << request;
      if (WastesTooMuch(request, mi_usable_size(block))) exceptions.push_back(request);
    }
    mi_heap_destroy(heap);
  }
  EXPECT_EQ(exceptions, WastefulSizes());
}

// ---- zeroing --------------------------------------------------------------------------------------------

class ZeroTest : public ::testing::TestWithParam<size_t> {};

TEST_P(ZeroTest, ZeroingFunctionsReturnZeroedMemoryAlsoWhenItWasDirtyBefore) {
  size_t size = GetParam();
  const int blocks = size > kMiB ? 2 : 64;
  for (int round = 0; round < 3; round++) {
    std::vector<void*> dirty;
    for (int i = 0; i < blocks; i++) {
      void* block = mi_malloc(size);
      ASSERT_NE(block, nullptr);
      memset(block, 0xff, mi_usable_size(block));
      dirty.push_back(block);
    }
    for (void* block : dirty) mi_free(block);
    std::vector<void*> zeroed;
    for (int i = 0; i < blocks; i++) {
      void* block = nullptr;
      switch (i % 4) {
        case 0:
          block = mi_zalloc(size);
          break;
        case 1:
          block = mi_calloc(1, size);
          break;
        case 2:
          block = mi_rezalloc(nullptr, size);
          break;
        default:
          block = mi_recalloc(nullptr, size, 1);
          break;
      }
      ASSERT_NE(block, nullptr);
      ASSERT_TRUE(IsZero(block, 0, size)) << "round " << round << ", block " << i;
      zeroed.push_back(block);
    }
    for (void* block : zeroed) {
      ASSERT_TRUE(IsZero(block, 0, size)) << "a later allocation wrote into an earlier block";
      memset(block, 0xff, mi_usable_size(block));
      mi_free(block);
    }
  }
}

TEST_P(ZeroTest, RezallocClearsTheTailWhenABlockGrows) {
  size_t size = GetParam();
  for (size_t larger : {size + 1, size + 17, size + size / 8 + 1, 2 * size + 5, 5 * size + 100}) {
    SCOPED_TRACE(larger);
    // Dirty what the larger block may be made of.
    void* dirt = mi_malloc(larger);
    ASSERT_NE(dirt, nullptr);
    memset(dirt, 0xff, mi_usable_size(dirt));
    mi_free(dirt);
    void* block = mi_zalloc(size);
    ASSERT_NE(block, nullptr);
    memset(block, 0xff, size);
    block = mi_rezalloc(block, larger);
    ASSERT_NE(block, nullptr);
    ASSERT_EQ(FindOther(block, 0, size, 0xff), size);
    ASSERT_TRUE(IsZero(block, size, larger));
    mi_free(block);

    block = mi_calloc(1, size);
    ASSERT_NE(block, nullptr);
    memset(block, 0xff, size);
    block = mi_recalloc(block, larger, 1);
    ASSERT_NE(block, nullptr);
    ASSERT_EQ(FindOther(block, 0, size, 0xff), size);
    ASSERT_TRUE(IsZero(block, size, larger));
    mi_free(block);
  }
}

TEST_P(ZeroTest, RezallocClearsWhatIsNewAfterAShrinkToo) {
  size_t size = GetParam();
  for (size_t smaller : {size - size / 16, size - size / 4, size / 2, size / 5}) {
    SCOPED_TRACE(smaller);
    void* block = mi_zalloc(size);
    ASSERT_NE(block, nullptr);
    memset(block, 0xff, size);
    block = mi_rezalloc(block, smaller);
    ASSERT_NE(block, nullptr);
    ASSERT_EQ(FindOther(block, 0, smaller, 0xff), smaller);
    block = mi_rezalloc(block, size);
    ASSERT_NE(block, nullptr);
    ASSERT_EQ(FindOther(block, 0, smaller, 0xff), smaller);
    ASSERT_TRUE(IsZero(block, smaller, size));
    mi_free(block);
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, ZeroTest,
                         ::testing::Values(8, 16, 24, 100, 512, 1000, 4096, 5000, 20000, 65536, 100000, 600000,
                                           5 * kMiB));

// ---- resizing -------------------------------------------------------------------------------------------

TEST(ReallocTest, KeepsTheContentsBetweenAnyTwoSizes) {
  const std::vector<size_t> sizes = {0,    1,    8,     9,     16,     17,     64,      100,      512,     513,
                                     1024, 4000, 16384, 65536, 100000, 524288, 1000000, 4 * kMiB, 9 * kMiB};
  uint64_t seed = 100;
  for (size_t from : sizes) {
    for (size_t to : sizes) {
      SCOPED_TRACE(testing::Message() << from << " -> " << to);
      seed++;
      void* block = mi_malloc(from);
      ASSERT_NE(block, nullptr);
      Fill(block, from, seed);
      void* resized = mi_realloc(block, to);
      ASSERT_NE(resized, nullptr);
      ASSERT_GE(mi_usable_size(resized), to);
      ASSERT_TRUE(IsAligned(resized, NaturalAlignment(to)));
      ASSERT_TRUE(Holds(resized, from, seed, to));
      Fill(resized, mi_usable_size(resized), seed + 1);
      ASSERT_TRUE(Holds(resized, mi_usable_size(resized), seed + 1));
      mi_free(resized);
    }
  }
}

TEST(ReallocTest, GrowsByteByByteFromOneByteToManyPages) {
  char* block = static_cast<char*>(mi_realloc(nullptr, 1));
  ASSERT_NE(block, nullptr);
  const size_t step = 7;
  size_t size = 1;
  FillBytes(block, 0, size, 7);
  while (size < 300 * kKiB) {
    // Between the checks of the whole, only what a move could have damaged at the ends.
    block = static_cast<char*>(mi_realloc(block, size + step));
    ASSERT_NE(block, nullptr);
    ASSERT_EQ(FindDifference(block, size > 64 ? size - 64 : 0, size, 7), size);
    FillBytes(block, size, size + step, 7);
    size += step;
    if (size % 1024 < step) {
      ASSERT_EQ(FindDifference(block, 0, size, 7), size);
    }
  }
  ASSERT_EQ(FindDifference(block, 0, size, 7), size);
  mi_free(block);
}

TEST(ReallocTest, StaysInPlaceWithinTheUsableSize) {
  for (size_t size : {8, 24, 100, 1000, 5000, 30000, 200000, 3000000}) {
    SCOPED_TRACE(size);
    void* block = mi_malloc(size);
    ASSERT_NE(block, nullptr);
    size_t usable = mi_usable_size(block);
    Fill(block, size, 3);
    EXPECT_EQ(mi_realloc(block, usable), block);
    EXPECT_EQ(mi_realloc(block, size), block);
    EXPECT_TRUE(Holds(block, size, 3));
    mi_free(block);
  }
}

TEST(ReallocTest, OfNullAllocatesAndToZeroReturnsABlockOfTheSmallestSize) {
  void* block = mi_realloc(nullptr, 100);
  ASSERT_NE(block, nullptr);
  EXPECT_GE(mi_usable_size(block), 100u);
  block = mi_realloc(block, 0);
  ASSERT_NE(block, nullptr);
  EXPECT_TRUE(mi_check_owned(block));
  mi_free(block);
}

TEST(ReallocTest, GivesBackMostOfAHugeBlockThatShrinks) {
  void* block = mi_malloc(32 * kMiB);
  ASSERT_NE(block, nullptr);
  Fill(block, 32 * kMiB, 5);
  block = mi_realloc(block, 1000);
  ASSERT_NE(block, nullptr);
  EXPECT_LT(mi_usable_size(block), 16 * kMiB);
  EXPECT_TRUE(Holds(block, 32 * kMiB, 5, 1000));
  mi_free(block);
}

TEST(ReallocTest, LeavesTheBlockUnchangedOnFailure) {
  for (size_t size : {size_t{20}, size_t{700}, size_t{40000}, size_t{2} * kMiB}) {
    void* block = mi_malloc(size);
    ASSERT_NE(block, nullptr);
    Fill(block, size, 11);
    errno = 0;
    EXPECT_EQ(mi_realloc(block, Opaque(kTooLarge)), nullptr);
    EXPECT_EQ(errno, ENOMEM);
    errno = 0;
    EXPECT_EQ(mi_rezalloc(block, Opaque(kTooLarge)), nullptr);
    EXPECT_EQ(errno, ENOMEM);
    errno = 0;
    EXPECT_EQ(mi_reallocn(block, Opaque(SIZE_MAX / 2), 3), nullptr);
    EXPECT_EQ(errno, EOVERFLOW);
    errno = 0;
    EXPECT_EQ(mi_reallocarray(block, Opaque(SIZE_MAX / 2), 3), nullptr);
    EXPECT_EQ(errno, EOVERFLOW);
    errno = 0;
    EXPECT_EQ(mi_recalloc(block, Opaque(SIZE_MAX / 2), 3), nullptr);
    EXPECT_EQ(errno, EOVERFLOW);
    EXPECT_TRUE(mi_check_owned(block));
    EXPECT_TRUE(Holds(block, size, 11));
    mi_free(block);
  }
}

TEST(ReallocTest, ReallocfFreesTheBlockOnFailureOnly) {
  mi_heap_t* heap = mi_heap_new();
  ASSERT_NE(heap, nullptr);
  void* block = mi_heap_malloc(heap, 100);
  ASSERT_NE(block, nullptr);
  Fill(block, 100, 1);
  block = mi_heap_reallocf(heap, block, 5000);
  ASSERT_NE(block, nullptr);
  EXPECT_TRUE(Holds(block, 100, 1));
  EXPECT_EQ(CountBlocks(heap), 1u);
  errno = 0;
  EXPECT_EQ(mi_heap_reallocf(heap, block, Opaque(kTooLarge)), nullptr);
  EXPECT_EQ(errno, ENOMEM);
  EXPECT_EQ(CountBlocks(heap), 0u) << "the block was not freed";
  mi_heap_destroy(heap);
  EXPECT_EQ(mi_reallocf(nullptr, Opaque(kTooLarge)), nullptr);
}

TEST(ReallocTest, ArrayFormsMultiply) {
  char* block = static_cast<char*>(mi_mallocn(100, 3));
  ASSERT_NE(block, nullptr);
  EXPECT_GE(mi_usable_size(block), 300u);
  Fill(block, 300, 1);
  block = static_cast<char*>(mi_reallocn(block, 100, 30));
  ASSERT_NE(block, nullptr);
  EXPECT_GE(mi_usable_size(block), 3000u);
  EXPECT_TRUE(Holds(block, 300, 1));
  block = static_cast<char*>(mi_reallocarray(block, 1000, 30));
  ASSERT_NE(block, nullptr);
  EXPECT_GE(mi_usable_size(block), 30000u);
  EXPECT_TRUE(Holds(block, 300, 1));
  mi_free(block);
}

TEST(ExpandTest, ResizesInPlaceOrNotAtAll) {
  for (size_t size : {16, 100, 1000, 50000, 5000000}) {
    SCOPED_TRACE(size);
    void* block = mi_malloc(size);
    ASSERT_NE(block, nullptr);
    size_t usable = mi_usable_size(block);
    Fill(block, size, 9);
    EXPECT_EQ(mi_expand(block, size), block);
    EXPECT_EQ(mi_expand(block, usable), block);
    void* larger = mi_expand(block, usable * 8 + 64);
    if (larger != nullptr) {
      EXPECT_EQ(larger, block);
      EXPECT_GE(mi_usable_size(block), usable * 8 + 64);
    }
    EXPECT_EQ(mi_expand(block, Opaque(kTooLarge)), nullptr);
    EXPECT_TRUE(Holds(block, size, 9));
    mi_free(block);
  }
  EXPECT_EQ(mi_expand(nullptr, 10), nullptr);
}

// ---- refusals -------------------------------------------------------------------------------------------

TEST(RefusalTest, SizesAbovePtrdiffMaxGiveEnomemAndAreReported) {
  for (size_t size : {kTooLarge, kTooLarge + 4096, SIZE_MAX - 64, SIZE_MAX}) {
    ErrorRecorder errors;
    int expected = 0;
    auto refused = [&](void* block) {
      expected++;
      EXPECT_EQ(block, nullptr);
      EXPECT_EQ(errno, ENOMEM);
      EXPECT_EQ(errors.count(ENOMEM), expected);
      errno = 0;
    };
    errno = 0;
    refused(mi_malloc(Opaque(size)));
    refused(mi_malloc_small(Opaque(size)));
    refused(mi_zalloc(Opaque(size)));
    refused(mi_zalloc_small(Opaque(size)));
    refused(mi_calloc(Opaque(size), 1));
    refused(mi_calloc(1, Opaque(size)));
    refused(mi_mallocn(Opaque(size), 1));
    refused(mi_realloc(nullptr, Opaque(size)));
    refused(mi_rezalloc(nullptr, Opaque(size)));
    refused(mi_malloc_aligned(Opaque(size), 64));
    refused(mi_zalloc_aligned(Opaque(size), 64));
    refused(mi_memalign(64, Opaque(size)));
    refused(mi_valloc(Opaque(size)));
    refused(mi_pvalloc(Opaque(size)));
    mi_heap_t* heap = mi_heap_new();
    ASSERT_NE(heap, nullptr);
    refused(mi_heap_malloc(heap, Opaque(size)));
    refused(mi_heap_malloc_small(heap, Opaque(size)));
    refused(mi_heap_zalloc(heap, Opaque(size)));
    refused(mi_heap_calloc(heap, 1, Opaque(size)));
    refused(mi_heap_malloc_aligned(heap, Opaque(size), 64));
    refused(mi_heap_realloc(heap, nullptr, Opaque(size)));
    mi_heap_destroy(heap);
    EXPECT_EQ(errors.total(), expected);
    EXPECT_FALSE(errors.text().empty());
  }
}

TEST(RefusalTest, AProductThatOverflowsGivesEoverflowAndIsReported) {
  struct Product {
    size_t count, size;
  };
  for (Product p : {Product{SIZE_MAX, 2}, Product{SIZE_MAX / 2, 3}, Product{size_t{1} << 32, size_t{1} << 32},
                    Product{(size_t{1} << 32) + 1, (size_t{1} << 32) + 1}, Product{SIZE_MAX, SIZE_MAX}}) {
    ErrorRecorder errors;
    int expected = 0;
    auto refused = [&](void* block) {
      expected++;
      EXPECT_EQ(block, nullptr);
      EXPECT_EQ(errno, EOVERFLOW);
      EXPECT_EQ(errors.count(EOVERFLOW), expected);
      errno = 0;
    };
    size_t count = Opaque(p.count), size = Opaque(p.size);
    errno = 0;
    refused(mi_calloc(count, size));
    refused(mi_mallocn(count, size));
    refused(mi_reallocn(nullptr, count, size));
    refused(mi_reallocarray(nullptr, count, size));
    refused(mi_recalloc(nullptr, count, size));
    refused(mi_calloc_aligned(count, size, 64));
    refused(mi_calloc_aligned_at(count, size, 64, 8));
    refused(mi_recalloc_aligned(nullptr, count, size, 64));
    mi_heap_t* heap = mi_heap_new();
    ASSERT_NE(heap, nullptr);
    refused(mi_heap_calloc(heap, count, size));
    refused(mi_heap_mallocn(heap, count, size));
    refused(mi_heap_reallocn(heap, nullptr, count, size));
    refused(mi_heap_recalloc(heap, nullptr, count, size));
    refused(mi_heap_calloc_aligned(heap, count, size, 64));
    mi_heap_destroy(heap);
    EXPECT_EQ(errors.total(), expected);
  }
}

TEST(RefusalTest, MoreMemoryThanTheMachineCanHoldGivesEnomemAndTheNextRequestIsServed) {
  errno = 0;
  EXPECT_EQ(mi_malloc(Opaque(size_t{1} << 60)), nullptr);
  EXPECT_EQ(errno, ENOMEM);
  void* block = mi_malloc(100);
  ASSERT_NE(block, nullptr);
  mi_free(block);
}

TEST(RefusalTest, SuccessLeavesErrnoAlone) {
  errno = 4711;
  void* small = mi_malloc(10);
  void* large = mi_malloc(6 * kMiB);
  small = mi_realloc(small, 3000);
  EXPECT_EQ(errno, 4711);
  mi_free(small);
  EXPECT_EQ(errno, 4711);
  mi_free(large);
  EXPECT_EQ(errno, 4711);
  mi_free(nullptr);
  EXPECT_EQ(errno, 4711);
  mi_collect(true);
  EXPECT_EQ(errno, 4711);
  mi_heap_t* heap = mi_heap_new();
  ASSERT_NE(heap, nullptr);
  ASSERT_NE(mi_heap_malloc(heap, 100), nullptr);
  void* elsewhere = mi_heap_malloc(heap, 100000);
  InThread([&] {
    errno = 4712;
    mi_free(elsewhere);
    EXPECT_EQ(errno, 4712);
  });
  mi_heap_destroy(heap);
  EXPECT_EQ(errno, 4711);
  errno = 0;
}

TEST(PosixTest, PosixMemalignReturnsItsErrorsAndLeavesThePointerAlone) {
  void* const untouched = &errno;
  void* p = untouched;
  for (size_t alignment : {0, 1, 2, 3, 4, 7, 12, 24, 100}) {
    EXPECT_EQ(mi_posix_memalign(&p, Opaque(alignment), 100), EINVAL) << alignment;
    EXPECT_EQ(p, untouched);
  }
  EXPECT_EQ(mi_posix_memalign(&p, 64, Opaque(kTooLarge)), ENOMEM);
  EXPECT_EQ(p, untouched);
  EXPECT_EQ(mi_posix_memalign(nullptr, 64, 100), EINVAL);
  for (size_t alignment = sizeof(void*); alignment <= kMiB; alignment *= 2) {
    for (size_t size : {0, 1, 100, 5000}) {
      ASSERT_EQ(mi_posix_memalign(&p, alignment, size), 0) << alignment << ' ' << size;
      ASSERT_NE(p, nullptr);
      ASSERT_TRUE(IsAligned(p, alignment));
      Fill(p, size, 1);
      mi_free(p);
    }
  }
}

TEST(PosixTest, VallocAlignsToPagesAndPvallocRoundsUpToThem) {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  for (size_t size : {size_t{1}, page - 1, page, page + 1, 10 * page}) {
    void* v = mi_valloc(size);
    void* pv = mi_pvalloc(size);
    ASSERT_NE(v, nullptr);
    ASSERT_NE(pv, nullptr);
    EXPECT_TRUE(IsAligned(v, page));
    EXPECT_TRUE(IsAligned(pv, page));
    EXPECT_GE(mi_usable_size(v), size);
    EXPECT_GE(mi_usable_size(pv), (size + page - 1) / page * page);
    mi_free(v);
    mi_free(pv);
  }
}

// ---- strings --------------------------------------------------------------------------------------------

TEST(StringTest, StrdupCopiesIntoABlockOfTheDefaultHeap) {
  const std::string text(1000, 'x');
  for (size_t length : {size_t{0}, size_t{1}, size_t{7}, size_t{8}, size_t{15}, size_t{16}, size_t{1000}}) {
    const std::string source = text.substr(0, length);
    char* copy = mi_strdup(source.c_str());
    ASSERT_NE(copy, nullptr);
    EXPECT_EQ(source, copy);
    EXPECT_EQ(mi_heap_of(copy), mi_heap_get_default());
    EXPECT_GE(mi_usable_size(copy), length + 1);
    mi_free(copy);
  }
  EXPECT_EQ(mi_strdup(nullptr), nullptr);
  EXPECT_EQ(mi_strndup(nullptr, 10), nullptr);
}

TEST(StringTest, StrndupStopsAtTheLimitAndReadsNoFurther) {
  // No terminator behind the limit: the copy must not look for one.
  const char text[4] = {'a', 'b', 'c', 'd'};
  char* copy = mi_strndup(text, 4);
  ASSERT_NE(copy, nullptr);
  EXPECT_STREQ(copy, "abcd");
  mi_free(copy);
  copy = mi_strndup("abcd", 2);
  ASSERT_NE(copy, nullptr);
  EXPECT_STREQ(copy, "ab");
  mi_free(copy);
  copy = mi_strndup("abcd", SIZE_MAX);
  ASSERT_NE(copy, nullptr);
  EXPECT_STREQ(copy, "abcd");
  mi_free(copy);
}

TEST(StringTest, RealpathResolvesIntoABlockOrTheGivenBuffer) {
  char expected[PATH_MAX];
  ASSERT_NE(realpath("/proc/self/../self/..", expected), nullptr);
  char* resolved = mi_realpath("/proc/self/../self/..", nullptr);
  ASSERT_NE(resolved, nullptr);
  EXPECT_STREQ(resolved, expected);
  EXPECT_TRUE(mi_check_owned(resolved));
  mi_free(resolved);
  char buffer[PATH_MAX];
  EXPECT_EQ(mi_realpath("/proc/self/../self/..", buffer), buffer);
  EXPECT_STREQ(buffer, expected);
  errno = 0;
  EXPECT_EQ(mi_realpath("/does/not/exist", nullptr), nullptr);
  EXPECT_EQ(errno, ENOENT);
}

// ---- misuse ---------------------------------------------------------------------------------------------

TEST(ReallocTest, WhatWasZeroOfNoBytesGrowsIntoZeros) {
  for (int round = 0; round < 300; round++) {
    void* const dirty = Opaque(mi_malloc(1));
    memset(dirty, 0xff, mi_usable_size(dirty));
    mi_free(dirty);
    void* const p = mi_rezalloc(Opaque(mi_zalloc(0)), 12);
    ASSERT_NE(p, nullptr);
    EXPECT_TRUE(IsZero(p, 0, 12));
    mi_free(p);
  }
}

// Whatever is noted of two neighbours must not share a byte that both threads write.
TEST(ReallocTest, AnotherThreadResizesBlocksWhileTheirNeighboursAreHandedOut) {
  for (size_t least : {size_t{17}, size_t{33}, size_t{97}}) {
    std::vector<void*> own, others;
    for (int i = 0; i < 1000; i++) {
      (i % 2 == 0 ? own : others).push_back(mi_malloc(least));
    }
    std::atomic<bool> done{false};
    std::thread resizer([&] {
      Random random(1);
      for (int round = 0; round < Scaled(20, 200); round++) {
        for (void*& p : others) {
          const size_t size = least + random.Below(15);
          p = mi_realloc(p, size);
          EXPECT_GE(mi_usable_size(p), size);
          memset(p, 1, size);
        }
      }
      for (void* p : others) mi_free(p);
      done = true;
    });
    Random random(2);
    while (!done) {
      for (void*& p : own) {
        const size_t size = least + random.Below(15);
        mi_free(p);
        p = mi_malloc(size);
        EXPECT_GE(mi_usable_size(p), size);
        memset(p, 2, size);
      }
    }
    resizer.join();
    for (void* p : own) mi_free(p);
  }
}

TEST(MisuseTest, FreeingNullDoesNothing) {
  ErrorRecorder errors;
  mi_free(nullptr);
  mi_cfree(nullptr);
  mi_free_small(nullptr);
  mi_free_size(nullptr, 10);
  mi_free_size_aligned(nullptr, 10, 16);
  mi_free_aligned(nullptr, 16);
  EXPECT_EQ(errors.total(), 0);
}

TEST(MisuseTest, EveryFormOfFreeFrees) {
  mi_heap_t* heap = mi_heap_new();
  ASSERT_NE(heap, nullptr);
  for (int round = 0; round < 200; round++) {
    mi_free(mi_heap_malloc(heap, 100));
    mi_cfree(mi_heap_malloc(heap, 100));
    mi_free_small(mi_heap_malloc(heap, 100));
    mi_free_size(mi_heap_malloc(heap, 100), 100);
    mi_free_size_aligned(mi_heap_malloc_aligned(heap, 100, 128), 100, 128);
    mi_free_aligned(mi_heap_malloc_aligned(heap, 100, 128), 128);
  }
  EXPECT_EQ(CountBlocks(heap), 0u);
  mi_heap_destroy(heap);
}

TEST(MisuseTest, FreeingAForeignPointerIsReportedWithItsAddressAndLeftAlone) {
  if (kSecure) GTEST_SKIP() << kMisuseEnds;
  static int in_data = 1;
  int on_stack = 2;
  std::unique_ptr<char[]> elsewhere(new char[100]);
  memset(elsewhere.get(), 3, 100);
  void* kept = mi_malloc(100);
  ASSERT_NE(kept, nullptr);
  Fill(kept, 100, 1);
  void* const foreign[] = {&in_data,
                           Opaque<void*>(&on_stack),
                           elsewhere.get(),
                           reinterpret_cast<void*>(uintptr_t{64}),
                           reinterpret_cast<void*>(~uintptr_t{0}),
                           reinterpret_cast<void*>(uintptr_t{1} << 62)};
  for (void* p : foreign) {
    SCOPED_TRACE(p);
    ErrorRecorder errors;
    mi_free(Opaque(p));
    EXPECT_EQ(errors.errors(), std::vector<int>{EINVAL});
    char address[32];
    snprintf(address, sizeof(address), "%zx", reinterpret_cast<size_t>(p));
    EXPECT_NE(errors.text().find(address), std::string::npos) << errors.text();
  }
  EXPECT_EQ(in_data, 1);
  EXPECT_EQ(on_stack, 2);
  EXPECT_EQ(FindOther(elsewhere.get(), 0, 100, 3), 100u);
  EXPECT_TRUE(Holds(kept, 100, 1));
  mi_free(kept);
}

// One after the other: what lies deeper in the page's list is not noticed, but the list never has more blocks than the
// page, and no block comes out of it for ever.
TEST(MisuseTest, ADoubleFreeByAnotherThreadIsReportedWhileTheBlockWaitsForItsOwner) {
  if (kSecure) GTEST_SKIP() << kMisuseEnds;
  std::vector<void*> blocks;
  for (int i = 0; i < 100; i++) blocks.push_back(mi_malloc(72));
  ErrorRecorder errors;
  InThread([&] {
    mi_free(Opaque(blocks[50]));
    mi_free(Opaque(blocks[50]));
  });
  EXPECT_EQ(errors.errors(), std::vector<int>{EAGAIN}) << errors.text();
  blocks.erase(blocks.begin() + 50);
  std::set<void*> others(blocks.begin(), blocks.end());
  for (int i = 0; i < 5000; i++) {
    void* const block = mi_malloc(72);
    EXPECT_TRUE(others.insert(block).second) << block << " was handed out twice";
    blocks.push_back(block);
  }
  for (void* block : blocks) mi_free(block);
  EXPECT_TRUE(mi_heap_check(mi_heap_main()));
}

TEST(MisuseTest, FreeingIntoTheMetadataOfOurOwnMemoryIsReportedAndNothingIsLost) {
  if (kSecure) GTEST_SKIP() << kMisuseEnds;
  // The first bytes of a 4 MiB stretch hold the description of its pages, never a block.
  std::vector<void*> blocks;
  for (int i = 0; i < 1000; i++) {
    blocks.push_back(mi_malloc(200));
    ASSERT_NE(blocks.back(), nullptr);
    Fill(blocks.back(), 200, i);
  }
  char* segment = reinterpret_cast<char*>(reinterpret_cast<uintptr_t>(blocks[500]) & ~(4 * kMiB - 1));
  for (size_t offset : {size_t{64}, size_t{4096}, size_t{8192}}) {
    ErrorRecorder errors;
    mi_free(Opaque(segment + offset));
    EXPECT_EQ(errors.errors(), std::vector<int>{EINVAL}) << offset;
  }
  for (int i = 0; i < 1000; i++) {
    ASSERT_TRUE(Holds(blocks[i], 200, i));
    mi_free(blocks[i]);
  }
}

TEST(MisuseTest, FreeingTheMiddleOfAHugeBlockIsReportedAndTheBlockStays) {
  if (kSecure) GTEST_SKIP() << kMisuseEnds;
  char* block = static_cast<char*>(mi_malloc(13 * kMiB));
  ASSERT_NE(block, nullptr);
  memset(block, 0, 13 * kMiB);
  for (size_t offset : {size_t{64}, 64 * kKiB, 4 * kMiB + 128, 9 * kMiB}) {
    ErrorRecorder errors;
    mi_free(Opaque(block + offset));
    EXPECT_EQ(errors.errors(), std::vector<int>{EINVAL}) << offset;
    EXPECT_EQ(mi_heap_of(block), mi_heap_get_default());
  }
  EXPECT_TRUE(IsZero(block, 0, 13 * kMiB));
  ErrorRecorder errors;
  mi_free(block);
  EXPECT_EQ(errors.total(), 0);
}

TEST(MisuseTest, CfreeIgnoresForeignPointersWithoutAMessage) {
  static int in_data = 1;
  int on_stack = 2;
  std::unique_ptr<char[]> elsewhere(new char[100]);
  ErrorRecorder errors;
  mi_cfree(&in_data);
  mi_cfree(Opaque(&on_stack));
  mi_cfree(elsewhere.get());
  EXPECT_EQ(errors.total(), 0);
  EXPECT_EQ(errors.text(), "");
}

TEST(MisuseTest, ReallocOfAForeignPointerIsReportedAndRefused) {
  if (kSecure) GTEST_SKIP() << kMisuseEnds;
  std::unique_ptr<char[]> elsewhere(new char[100]);
  memset(elsewhere.get(), 3, 100);
  ErrorRecorder errors;
  EXPECT_EQ(mi_realloc(Opaque(elsewhere.get()), 1000), nullptr);
  EXPECT_GE(errors.count(EINVAL), 1);
  EXPECT_EQ(FindOther(elsewhere.get(), 0, 100, 3), 100u);
}

// In builds that notice what is written behind a block.
TEST(MisuseTest, TheErrorCallbackMayFreeTheBlockThatWasOverrun) {
  static void* overrun;
  static int told;
  if (kAsan || kSecure) GTEST_SKIP() << "ends the program";
  for (int i = 0; i < 20; i++) {
    uint8_t* const p = static_cast<uint8_t*>(Opaque(mi_malloc(Opaque(size_t{100}))));
    overrun = p;
    told = 0;
    mi_register_error(
        [](int, void*) {
          if (told++ == 0) mi_free(overrun);
        },
        nullptr);
    if (mi_usable_size(p) == 100) p[100]++;
    mi_free(p);
    mi_register_error(nullptr, nullptr);
    std::set<void*> blocks;
    for (int k = 0; k < 200; k++) EXPECT_TRUE(blocks.insert(mi_malloc(100)).second) << "handed out twice";
    for (void* block : blocks) mi_free(block);
  }
}

TEST(MisuseTest, ErrorsAreReportedFromEveryThreadAndStopWhenTheCallbackIsTakenAway) {
  if (kSecure) GTEST_SKIP() << kMisuseEnds;
  int on_stack = 0;
  {
    ErrorRecorder errors;
    InThreads(4, [&](int) { mi_free(Opaque(&on_stack)); });
    EXPECT_EQ(errors.count(EINVAL), 4);
    mi_register_error(nullptr, nullptr);
    mi_free(Opaque(&on_stack));
    EXPECT_EQ(errors.total(), 4);
  }
}

// ---- the rest -------------------------------------------------------------------------------------------

TEST(MallocTest, OwnershipQuestionsAreAnsweredForOursAndForeign) {
  static int in_data;
  void* block = mi_malloc(100);
  ASSERT_NE(block, nullptr);
  EXPECT_TRUE(mi_is_in_heap_region(block));
  EXPECT_TRUE(mi_check_owned(block));
  EXPECT_FALSE(mi_is_in_heap_region(&in_data));
  EXPECT_FALSE(mi_check_owned(&in_data));
  EXPECT_FALSE(mi_is_in_heap_region(nullptr));
  EXPECT_FALSE(mi_check_owned(nullptr));
  mi_free(block);
}

TEST(MallocTest, VersionIsTheHeadersVersion) { EXPECT_EQ(mi_version(), MI_MALLOC_VERSION); }

TEST(MallocTest, ExplicitInitialisationAndEndOfAThreadAreHarmless) {
  mi_process_init();
  mi_process_init();
  mi_thread_init();
  void* kept = nullptr;
  InThread([&] {
    mi_thread_init();
    kept = mi_malloc(100);
    Fill(kept, 100, 1);
    mi_thread_done();
    mi_thread_done();
    // A destructor may still allocate after that.
    void* late = mi_malloc(200);
    ASSERT_NE(late, nullptr);
    mi_free(late);
    mi_thread_done();
  });
  ASSERT_TRUE(Holds(kept, 100, 1));
  mi_free(kept);
}

TEST(MallocTest, BlocksOfOneClassAllocatedInARowLieInAddressOrderMostly) {
  if (kSecure) GTEST_SKIP() << kNoOrder;
  // Locality: free lists of a fresh page run upwards, and pages of a class are taken side by side.
  mi_heap_t* heap = mi_heap_new();
  ASSERT_NE(heap, nullptr);
  std::vector<uintptr_t> at;
  for (int i = 0; i < 4000; i++) at.push_back(reinterpret_cast<uintptr_t>(mi_heap_malloc(heap, 64)));
  int upwards = 0;
  for (size_t i = 1; i < at.size(); i++) upwards += at[i] > at[i - 1];
  EXPECT_GE(upwards, 3800);
  std::set<uintptr_t> pages;
  for (size_t i = at.size() - 1000; i < at.size(); i++) pages.insert(at[i] >> 16);
  EXPECT_LE(pages.size(), 3u) << "1000 blocks of 64 bytes need at most two 64 KiB pages, or three with a shared start";
  mi_heap_destroy(heap);
}

}  // namespace
}  // namespace mi_test
