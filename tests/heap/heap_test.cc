// First-class heaps, one call at a time: making, ending, resetting, merging and asking, the default heap of a thread,
// theaps, configuration, and the diagnosis of misuse. What happens across threads is in lifecycle_test.cc, the young
// part in young_test.cc, visiting in visit_test.cc.
#include "mi/heap/heap.h"

#include <limits.h>

#include <cstddef>
#include <set>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "mi/mimalloc.h"
#include "tests/test_support.h"

namespace mi_test {
namespace {

const size_t kMixedSizes[] = {0,    1,    8,    16,    40,    64,     100,    200,     512,
                              1000, 4000, 9000, 30000, 70000, 300000, 900000, 5 * kMiB};

mi_heap_config_t Named(const char* name) {
  mi_heap_config_t config = {};
  config.size = sizeof(config);
  config.name = name;
  return config;
}

// Allocates one block of every mixed size in `heap`, filled with its pattern, and returns them.
std::vector<void*> Populate(mi_heap_t* heap) {
  std::vector<void*> blocks;
  for (size_t size : kMixedSizes) {
    void* block = mi_heap_malloc(heap, size);
    EXPECT_NE(block, nullptr);
    Fill(block, size, reinterpret_cast<uintptr_t>(block));
    blocks.push_back(block);
  }
  return blocks;
}

void ExpectIntact(const std::vector<void*>& blocks) {
  for (size_t i = 0; i < blocks.size(); i++) {
    const size_t size = kMixedSizes[i % (sizeof(kMixedSizes) / sizeof(kMixedSizes[0]))];
    EXPECT_TRUE(Holds(blocks[i], size, reinterpret_cast<uintptr_t>(blocks[i])));
  }
}

std::set<mi_heap_t*> AllHeaps() {
  std::set<mi_heap_t*> heaps;
  EXPECT_TRUE(mi_heap_visit_all(
      [](mi_heap_t* heap, void* arg) {
        EXPECT_TRUE(static_cast<std::set<mi_heap_t*>*>(arg)->insert(heap).second) << "shown twice";
        return true;
      },
      &heaps));
  return heaps;
}

// ---- making and ending ----------------------------------------------------------------------------------

TEST(HeapTest, ANewHeapIsEmptyUnnamedAndDistinct) {
  mi_heap_t* first = mi_heap_new();
  mi_heap_t* second = mi_heap_new();
  ASSERT_NE(first, nullptr);
  ASSERT_NE(second, nullptr);
  EXPECT_NE(first, second);
  EXPECT_NE(first, mi_heap_main());
  EXPECT_EQ(CountBlocks(first), 0u);
  EXPECT_STREQ(mi_heap_name(first), "");
  mi_heap_destroy(first);
  mi_heap_destroy(second);
}

TEST(HeapTest, DestroyFreesEveryKindOfBlockAndLeavesOtherHeapsAlone) {
  mi_heap_t* kept = mi_heap_new();
  ASSERT_NE(kept, nullptr);
  std::vector<void*> in_kept = Populate(kept);
  for (int round = 0; round < 20; round++) {
    mi_heap_t* heap = mi_heap_new();
    ASSERT_NE(heap, nullptr);
    std::vector<void*> blocks = Populate(heap);
    for (size_t i = 0; i < blocks.size(); i += 3) mi_free(blocks[i]);
    mi_heap_destroy(heap);
    ExpectIntact(in_kept);
  }
  EXPECT_TRUE(ShowsExactly(kept, in_kept));
  mi_heap_destroy(kept);
}

TEST(HeapTest, DeleteKeepsTheBlocksInTheMainHeapWhereTheyAreFreedSingly) {
  std::vector<Shown> before = BlocksOf(mi_heap_main());
  mi_heap_t* heap = mi_heap_new();
  ASSERT_NE(heap, nullptr);
  std::vector<void*> blocks = Populate(heap);
  mi_heap_delete(heap);
  ExpectIntact(blocks);
  for (void* block : blocks) {
    EXPECT_EQ(mi_heap_of(block), mi_heap_main());
    EXPECT_TRUE(mi_heap_contains(mi_heap_main(), block));
  }
  EXPECT_EQ(CountBlocks(mi_heap_main()), before.size() + blocks.size());
  for (void* block : blocks) mi_free(block);
  EXPECT_EQ(CountBlocks(mi_heap_main()), before.size());
}

TEST(HeapTest, SurvivorsOfADeletedHeapAreResizedInTheMainHeap) {
  mi_heap_t* heap = mi_heap_new();
  ASSERT_NE(heap, nullptr);
  void* small = mi_heap_malloc(heap, 50);
  void* large = mi_heap_malloc(heap, 100000);
  ASSERT_NE(small, nullptr);
  ASSERT_NE(large, nullptr);
  Fill(small, 50, 1);
  Fill(large, 100000, 2);
  mi_heap_delete(heap);
  small = mi_realloc(small, 5000);
  large = mi_realloc(large, 200);
  ASSERT_NE(small, nullptr);
  ASSERT_NE(large, nullptr);
  EXPECT_TRUE(Holds(small, 50, 1));
  EXPECT_TRUE(Holds(large, 100000, 2, 200));
  EXPECT_EQ(mi_heap_of(small), mi_heap_main());
  EXPECT_EQ(mi_heap_of(large), mi_heap_main());
  mi_free(small);
  mi_free(large);
}

TEST(HeapTest, ResetFreesAllBlocksAndTheHeapServesAgain) {
  mi_heap_config_t config = Named("kept over reset");
  mi_heap_t* heap = mi_heap_new_with(&config);
  ASSERT_NE(heap, nullptr);
  for (int round = 0; round < 50; round++) {
    std::vector<void*> blocks = Populate(heap);
    if (round % 2 == 0) {
      // Enough of one size for its class to move to pages.
      for (int i = 0; i < 1000; i++) {
        blocks.push_back(mi_heap_malloc(heap, 72));
        ASSERT_NE(blocks.back(), nullptr);
      }
    }
    ASSERT_TRUE(ShowsExactly(heap, blocks));
    mi_heap_reset(heap);
    ASSERT_EQ(CountBlocks(heap), 0u);
    ASSERT_STREQ(mi_heap_name(heap), "kept over reset");
  }
  void* block = mi_heap_zalloc(heap, 100);
  ASSERT_NE(block, nullptr);
  EXPECT_TRUE(IsZero(block, 0, 100));
  EXPECT_EQ(mi_heap_of(block), heap);
  mi_heap_destroy(heap);
}

TEST(HeapTest, ResetOfAnEmptyHeapDoesNothing) {
  mi_heap_t* heap = mi_heap_new();
  ASSERT_NE(heap, nullptr);
  mi_heap_reset(heap);
  mi_heap_reset(heap);
  EXPECT_EQ(CountBlocks(heap), 0u);
  mi_heap_destroy(heap);
}

TEST(HeapTest, ZeroingAllocationsAreZeroAfterResetAndDestroy) {
  for (int round = 0; round < 10; round++) {
    mi_heap_t* heap = mi_heap_new();
    ASSERT_NE(heap, nullptr);
    for (int half = 0; half < 2; half++) {
      for (size_t size : kMixedSizes) {
        void* block = mi_heap_zalloc(heap, size);
        ASSERT_NE(block, nullptr);
        ASSERT_TRUE(IsZero(block, 0, size)) << "size " << size << ", round " << round;
        memset(block, 0xff, mi_usable_size(block));
        block = mi_heap_malloc(heap, size);
        ASSERT_NE(block, nullptr);
        memset(block, 0xff, mi_usable_size(block));
      }
      if (half == 0) mi_heap_reset(heap);
    }
    mi_heap_destroy(heap);
  }
}

TEST(HeapTest, MergeMovesTheBlocksIntoTheGivenHeap) {
  mi_heap_t* from = mi_heap_new();
  mi_heap_t* into = mi_heap_new();
  ASSERT_NE(from, nullptr);
  ASSERT_NE(into, nullptr);
  std::vector<void*> all = Populate(into);
  std::vector<void*> moved = Populate(from);
  all.insert(all.end(), moved.begin(), moved.end());
  mi_heap_merge(from, into);
  ExpectIntact(all);
  for (void* block : all) {
    EXPECT_EQ(mi_heap_of(block), into);
    EXPECT_TRUE(mi_heap_contains(into, block));
  }
  EXPECT_TRUE(ShowsExactly(into, all));
  // The target goes on, and takes what it got with it.
  void* more = mi_heap_malloc(into, 40);
  ASSERT_NE(more, nullptr);
  all.push_back(more);
  for (size_t i = 0; i < 10; i++) {
    mi_free(all.front());
    all.erase(all.begin());
  }
  EXPECT_TRUE(ShowsExactly(into, all));
  mi_heap_destroy(into);
}

TEST(HeapTest, MergeIntoNullIsMergeIntoTheMainHeap) {
  mi_heap_t* heap = mi_heap_new();
  ASSERT_NE(heap, nullptr);
  void* block = mi_heap_malloc(heap, 100);
  ASSERT_NE(block, nullptr);
  mi_heap_merge(heap, nullptr);
  EXPECT_EQ(mi_heap_of(block), mi_heap_main());
  mi_free(block);
}

TEST(HeapTest, ResetOfTheTargetFreesWhatWasMergedIntoIt) {
  mi_heap_t* from = mi_heap_new();
  mi_heap_t* into = mi_heap_new();
  ASSERT_NE(from, nullptr);
  ASSERT_NE(into, nullptr);
  Populate(from);
  Populate(into);
  mi_heap_merge(from, into);
  mi_heap_reset(into);
  EXPECT_EQ(CountBlocks(into), 0u);
  std::vector<void*> blocks = Populate(into);
  ExpectIntact(blocks);
  EXPECT_TRUE(ShowsExactly(into, blocks));
  mi_heap_destroy(into);
}

TEST(HeapTest, AChainOfMergesEndsInTheLastHeap) {
  constexpr int kLength = 30;
  std::vector<mi_heap_t*> heaps;
  std::vector<void*> blocks;
  for (int i = 0; i < kLength; i++) {
    heaps.push_back(mi_heap_new());
    ASSERT_NE(heaps.back(), nullptr);
    std::vector<void*> some = Populate(heaps.back());
    blocks.insert(blocks.end(), some.begin(), some.end());
  }
  for (int i = 0; i + 1 < kLength; i++) {
    mi_heap_merge(heaps[i], heaps[i + 1]);
    ASSERT_EQ(mi_heap_of(blocks.front()), heaps[i + 1]);
  }
  ExpectIntact(blocks);
  for (void* block : blocks) ASSERT_EQ(mi_heap_of(block), heaps.back());
  ASSERT_TRUE(ShowsExactly(heaps.back(), blocks));
  mi_heap_destroy(heaps.back());
}

TEST(HeapTest, CollectKeepsLiveBlocksAndTheHeap) {
  mi_heap_t* heap = mi_heap_new();
  ASSERT_NE(heap, nullptr);
  std::vector<void*> blocks = Populate(heap);
  std::vector<void*> dropped = Populate(heap);
  for (void* block : dropped) mi_free(block);
  for (bool force : {false, true}) {
    mi_heap_collect(heap, force);
    mi_collect(force);
    ExpectIntact(blocks);
    EXPECT_TRUE(ShowsExactly(heap, blocks));
    void* block = mi_heap_malloc(heap, 100);
    ASSERT_NE(block, nullptr);
    mi_free(block);
  }
  mi_heap_collect(nullptr, true);
  mi_heap_destroy(heap);
}

TEST(HeapTest, ThousandsOfHeapsLiveAtOnceAndKeepTheirBlocksApart) {
  const int n = Scaled(20000, 200000);
  std::vector<mi_heap_t*> heaps;
  std::vector<void*> blocks;
  for (int i = 0; i < n; i++) {
    heaps.push_back(mi_heap_new());
    ASSERT_NE(heaps.back(), nullptr);
    blocks.push_back(mi_heap_malloc(heaps.back(), 16 + i % 200));
    ASSERT_NE(blocks.back(), nullptr);
    Fill(blocks.back(), 16 + i % 200, i);
  }
  EXPECT_EQ(std::set<mi_heap_t*>(heaps.begin(), heaps.end()).size(), heaps.size());
  Random random(7);
  for (int i = n - 1; i > 0; i--) {
    size_t j = random.Below(i + 1);
    std::swap(heaps[i], heaps[j]);
    std::swap(blocks[i], blocks[j]);
  }
  for (int i = 0; i < n; i++) {
    ASSERT_EQ(mi_heap_of(blocks[i]), heaps[i]);
    mi_heap_destroy(heaps[i]);
  }
}

TEST(HeapTest, TheWholeAllocationFamilyAllocatesInTheHeap) {
  mi_heap_t* heap = mi_heap_new();
  ASSERT_NE(heap, nullptr);
  std::vector<void*> blocks = {
      mi_heap_malloc(heap, 100),
      mi_heap_malloc_small(heap, 100),
      mi_heap_zalloc(heap, 100),
      mi_heap_zalloc_small(heap, 100),
      mi_heap_calloc(heap, 10, 10),
      mi_heap_mallocn(heap, 10, 10),
      mi_heap_malloc_aligned(heap, 100, 64),
      mi_heap_zalloc_aligned(heap, 100, 64),
      mi_heap_calloc_aligned(heap, 10, 10, 64),
      mi_heap_realloc(heap, nullptr, 100),
      mi_heap_reallocn(heap, nullptr, 10, 10),
      mi_heap_reallocf(heap, nullptr, 100),
      mi_heap_rezalloc(heap, nullptr, 100),
      mi_heap_recalloc(heap, nullptr, 10, 10),
      mi_heap_realloc_aligned(heap, nullptr, 100, 64),
      mi_heap_rezalloc_aligned(heap, nullptr, 100, 64),
      mi_heap_recalloc_aligned(heap, nullptr, 10, 10, 64),
      mi_heap_strdup(heap, "a string that is copied"),
      mi_heap_strndup(heap, "a string that is copied", 5),
      mi_heap_realpath(heap, "/", nullptr),
      mi_heap_malloc_tp(long, heap),
      mi_heap_zalloc_tp(long, heap),
      mi_heap_calloc_tp(long, heap, 10),
      mi_heap_mallocn_tp(long, heap, 10),
      mi_heap_reallocn_tp(long, heap, nullptr, 10),
      mi_heap_recalloc_tp(long, heap, nullptr, 10),
  };
  std::vector<void*> with_offset = {
      mi_heap_malloc_aligned_at(heap, 100, 64, 8),
      mi_heap_zalloc_aligned_at(heap, 100, 64, 8),
      mi_heap_calloc_aligned_at(heap, 10, 10, 64, 8),
      mi_heap_realloc_aligned_at(heap, nullptr, 100, 64, 8),
      mi_heap_rezalloc_aligned_at(heap, nullptr, 100, 64, 8),
      mi_heap_recalloc_aligned_at(heap, nullptr, 10, 10, 64, 8),
  };
  for (void* block : with_offset) {
    ASSERT_NE(block, nullptr);
    EXPECT_TRUE(IsAligned(block, 64, 8));
    EXPECT_EQ(mi_heap_of(block), heap);
  }
  for (size_t i = 0; i < blocks.size(); i++) {
    ASSERT_NE(blocks[i], nullptr) << i;
    EXPECT_EQ(mi_heap_of(blocks[i]), heap) << i;
  }
  EXPECT_TRUE(ShowsExactly(heap, blocks, with_offset));
  EXPECT_STREQ(static_cast<char*>(blocks[17]), "a string that is copied");
  EXPECT_STREQ(static_cast<char*>(blocks[18]), "a str");
  EXPECT_STREQ(static_cast<char*>(blocks[19]), "/");
  mi_heap_destroy(heap);
}

TEST(HeapTest, AResizedBlockThatMovesMovesToTheHeapAndOneThatStaysStays) {
  mi_heap_t* first = mi_heap_new();
  mi_heap_t* second = mi_heap_new();
  ASSERT_NE(first, nullptr);
  ASSERT_NE(second, nullptr);
  uint64_t seed = 1;
  for (size_t from : kMixedSizes) {
    for (size_t to : kMixedSizes) {
      void* block = mi_heap_malloc(first, from);
      ASSERT_NE(block, nullptr);
      Fill(block, from, ++seed);
      void* resized = mi_heap_realloc(second, block, to);
      ASSERT_NE(resized, nullptr);
      ASSERT_EQ(mi_heap_of(resized), resized == block ? first : second) << from << " -> " << to;
      ASSERT_TRUE(Holds(resized, from, seed, to));
      mi_free(resized);
    }
  }
  EXPECT_EQ(CountBlocks(first), 0u);
  EXPECT_EQ(CountBlocks(second), 0u);
  mi_heap_destroy(first);
  mi_heap_destroy(second);
}

TEST(HeapTest, NewExMakesAHeapThatDestroyDeletesIfItMayNotBeDestroyed) {
  mi_heap_t* heap = mi_heap_new_ex(7, true, nullptr);
  ASSERT_NE(heap, nullptr);
  ASSERT_NE(mi_heap_malloc(heap, 100), nullptr);
  mi_heap_destroy(heap);

  heap = mi_heap_new_ex(0, false, nullptr);
  ASSERT_NE(heap, nullptr);
  void* block = mi_heap_malloc(heap, 100);
  ASSERT_NE(block, nullptr);
  Fill(block, 100, 1);
  mi_heap_destroy(heap);
  EXPECT_TRUE(Holds(block, 100, 1));
  EXPECT_EQ(mi_heap_of(block), mi_heap_main());
  mi_free(block);

  ErrorRecorder errors;
  errno = 0;
  int arena = 0;
  EXPECT_EQ(mi_heap_new_ex(0, true, &arena), nullptr);
  EXPECT_EQ(errno, EINVAL);
  EXPECT_EQ(errors.count(EINVAL), 1);
}

// ---- configuration --------------------------------------------------------------------------------------

TEST(HeapConfigTest, NullIsAPlainHeap) {
  mi_heap_t* heap = mi_heap_new_with(nullptr);
  ASSERT_NE(heap, nullptr);
  EXPECT_STREQ(mi_heap_name(heap), "");
  mi_heap_destroy(heap);
}

TEST(HeapConfigTest, TheNameIsCopiedAndCutAt63Bytes) {
  char name[100];
  for (size_t length : {0, 1, 5, 62, 63, 64, 99}) {
    memset(name, 'n', sizeof(name));
    name[length] = 0;
    mi_heap_config_t config = Named(name);
    mi_heap_t* heap = mi_heap_new_with(&config);
    ASSERT_NE(heap, nullptr);
    memset(name, 'x', sizeof(name) - 1);
    EXPECT_EQ(mi_heap_name(heap), std::string(std::min<size_t>(length, 63), 'n'));
    ASSERT_NE(mi_heap_malloc(heap, 100000), nullptr);
    mi_heap_reset(heap);
    EXPECT_EQ(mi_heap_name(heap), std::string(std::min<size_t>(length, 63), 'n'));
    mi_heap_destroy(heap);
  }
  mi_heap_config_t unnamed = Named(nullptr);
  mi_heap_t* heap = mi_heap_new_with(&unnamed);
  ASSERT_NE(heap, nullptr);
  EXPECT_STREQ(mi_heap_name(heap), "") << "the name of a former heap shows";
  mi_heap_destroy(heap);
}

TEST(HeapConfigTest, SizeZeroIsRefusedWithAMessageThatNamesTheField) {
  mi_heap_config_t config = Named("name");
  config.size = 0;
  ErrorRecorder errors;
  errno = 0;
  EXPECT_EQ(mi_heap_new_with(&config), nullptr);
  EXPECT_EQ(errno, EINVAL);
  EXPECT_EQ(errors.errors(), std::vector<int>{EINVAL});
  EXPECT_NE(errors.text().find("size"), std::string::npos) << errors.text();
}

TEST(HeapConfigTest, WhatIsRefusedNamesTheFieldAndMakesNothing) {
  struct Case {
    const char* field;
    void (*set)(mi_heap_config_t*);
  };
  static int no_arena;
  const Case cases[] = {
      {"numa_node", [](mi_heap_config_t* config) { config->numa_node = -1; }},
      {"numa_node", [](mi_heap_config_t* config) { config->numa_node = 1 << 20; }},
      {"arena", [](mi_heap_config_t* config) { config->arena = &no_arena; }},
      {"deferred_arg", [](mi_heap_config_t* config) { config->deferred_arg = config; }},
      {"flags", [](mi_heap_config_t* config) { config->flags = uint32_t{1} << 31; }},
      {"required", [](mi_heap_config_t* config) { config->required = uint32_t{1} << 31; }},
  };
  const std::set<mi_heap_t*> before = AllHeaps();
  for (const Case& refused : cases) {
    mi_heap_config_t config = Named("refused");
    refused.set(&config);
    ErrorRecorder errors;
    errno = 0;
    EXPECT_EQ(mi_heap_new_with(&config), nullptr) << refused.field;
    EXPECT_EQ(errno, EINVAL) << refused.field;
    EXPECT_NE(errors.text().find(refused.field), std::string::npos) << errors.text();
  }
  EXPECT_EQ(AllHeaps(), before);
}

struct FutureConfig {
  mi_heap_config_t known;
  unsigned char more[64];
};

TEST(HeapConfigTest, BytesBeyondWhatIsKnownMustBeZero) {
  FutureConfig config;
  for (size_t at = 0; at < sizeof(config.more); at++) {
    memset(&config, 0, sizeof(config));
    config.known.size = sizeof(config);
    config.more[at] = 1;
    ErrorRecorder errors;
    errno = 0;
    EXPECT_EQ(mi_heap_new_with(&config.known), nullptr) << at;
    EXPECT_EQ(errno, EINVAL);
    EXPECT_EQ(errors.errors(), std::vector<int>{EINVAL});
    EXPECT_FALSE(errors.text().empty());
  }
}

TEST(HeapConfigTest, ALargerConfigurationWithZeroesIsAcceptedAndBytesBehindItsSizeAreNotRead) {
  FutureConfig config;
  memset(&config, 0, sizeof(config));
  config.known.name = "from the future";
  for (size_t size = sizeof(mi_heap_config_t); size <= sizeof(config); size++) {
    config.known.size = size;
    memset(config.more, 0, sizeof(config.more));
    memset(reinterpret_cast<unsigned char*>(&config) + size, 0xff, sizeof(config) - size);
    mi_heap_t* heap = mi_heap_new_with(&config.known);
    ASSERT_NE(heap, nullptr) << size;
    EXPECT_STREQ(mi_heap_name(heap), "from the future");
    mi_heap_destroy(heap);
  }
}

TEST(HeapConfigTest, ASizeBelowTheFirstVersionsIsRefused) {
  mi_heap_config_t config = Named("name");
  config.size = 0;
  for (size_t size = 0; size < sizeof(size_t) + sizeof(const char*); size++) {
    config.size = size;
    ErrorRecorder errors;
    errno = 0;
    EXPECT_EQ(mi_heap_new_with(&config), nullptr) << size;
    EXPECT_EQ(errno, EINVAL);
    EXPECT_EQ(errors.errors(), std::vector<int>{EINVAL});
  }
}

// ---- the main heap and the default ----------------------------------------------------------------------

TEST(DefaultHeapTest, TheMainHeapIsTheDefaultOfEveryThreadThatChoseNoOther) {
  EXPECT_NE(mi_heap_main(), nullptr);
  EXPECT_EQ(mi_heap_main(), mi_heap_get_backing());
  EXPECT_EQ(mi_heap_get_default(), mi_heap_main());
  EXPECT_STREQ(mi_heap_name(mi_heap_main()), "main");
  mi_heap_t* here = mi_heap_main();
  InThread([here] {
    EXPECT_EQ(mi_heap_get_default(), here);
    void* block = mi_malloc(100);
    EXPECT_EQ(mi_heap_of(block), here);
    mi_free(block);
  });
}

TEST(DefaultHeapTest, SetDefaultChangesWhereTheCallingThreadAllocatesAndReturnsTheFormer) {
  mi_heap_t* heap = mi_heap_new();
  ASSERT_NE(heap, nullptr);
  EXPECT_EQ(mi_heap_set_default(heap), mi_heap_main());
  EXPECT_EQ(mi_heap_get_default(), heap);
  std::vector<void*> blocks = {
      mi_malloc(10),           mi_zalloc(5000),    mi_calloc(3, 100000), mi_strdup("x"), mi_malloc_aligned(100, 256),
      mi_realloc(nullptr, 70), mi_malloc(5 * kMiB)};
  for (void* block : blocks) {
    ASSERT_NE(block, nullptr);
    EXPECT_EQ(mi_heap_of(block), heap);
  }
  InThread([] {
    EXPECT_EQ(mi_heap_get_default(), mi_heap_main());
    void* block = mi_malloc(10);
    EXPECT_EQ(mi_heap_of(block), mi_heap_main());
    mi_free(block);
  });
  EXPECT_EQ(mi_heap_set_default(nullptr), heap);
  EXPECT_EQ(mi_heap_get_default(), mi_heap_main());
  void* block = mi_malloc(10);
  EXPECT_EQ(mi_heap_of(block), mi_heap_main());
  mi_free(block);
  EXPECT_TRUE(ShowsExactly(heap, blocks));
  mi_heap_destroy(heap);
}

TEST(DefaultHeapTest, EndingTheDefaultHeapMakesTheMainHeapTheDefault) {
  for (int way = 0; way < 3; way++) {
    mi_heap_t* heap = mi_heap_new();
    ASSERT_NE(heap, nullptr);
    mi_heap_set_default(heap);
    void* block = mi_malloc(100);
    ASSERT_NE(block, nullptr);
    ASSERT_EQ(mi_heap_of(block), heap);
    switch (way) {
      case 0:
        mi_heap_destroy(heap);
        break;
      case 1:
        mi_heap_delete(heap);
        mi_free(block);
        break;
      default:
        mi_heap_merge(heap, nullptr);
        mi_free(block);
        break;
    }
    EXPECT_EQ(mi_heap_get_default(), mi_heap_main());
    block = mi_malloc(100);
    ASSERT_NE(block, nullptr);
    EXPECT_EQ(mi_heap_of(block), mi_heap_main());
    mi_free(block);
  }
}

TEST(DefaultHeapTest, ResettingTheDefaultHeapKeepsItTheDefault) {
  mi_heap_t* heap = mi_heap_new();
  ASSERT_NE(heap, nullptr);
  mi_heap_set_default(heap);
  for (int i = 0; i < 3000; i++) ASSERT_NE(mi_malloc(64), nullptr);
  mi_heap_reset(heap);
  EXPECT_EQ(mi_heap_get_default(), heap);
  void* block = mi_malloc(64);
  EXPECT_EQ(mi_heap_of(block), heap);
  EXPECT_TRUE(ShowsExactly(heap, {block}));
  mi_heap_destroy(heap);
}

TEST(DefaultHeapTest, TheMainHeapIsNeverEnded) {
  void* block = mi_malloc(100);
  ASSERT_NE(block, nullptr);
  Fill(block, 100, 1);
  mi_heap_t* other = mi_heap_new();
  ASSERT_NE(other, nullptr);
  ErrorRecorder errors;
  mi_heap_destroy(mi_heap_main());
  mi_heap_delete(mi_heap_main());
  mi_heap_reset(mi_heap_main());
  mi_heap_merge(mi_heap_main(), other);
  mi_heap_merge(mi_heap_main(), nullptr);
  EXPECT_EQ(errors.errors(), std::vector<int>(5, EINVAL));
  EXPECT_TRUE(Holds(block, 100, 1));
  EXPECT_EQ(mi_heap_of(block), mi_heap_main());
  mi_heap_destroy(other);
  mi_free(block);
}

TEST(HeapTest, EndingNullDoesNothing) {
  ErrorRecorder errors;
  mi_heap_destroy(nullptr);
  mi_heap_delete(nullptr);
  mi_heap_reset(nullptr);
  mi_heap_merge(nullptr, nullptr);
  mi_heap_collect(nullptr, false);
  EXPECT_EQ(errors.total(), 0);
}

TEST(HeapTest, AHeapIsNotMergedIntoItself) {
  mi_heap_t* heap = mi_heap_new();
  ASSERT_NE(heap, nullptr);
  void* block = mi_heap_malloc(heap, 100);
  ASSERT_NE(block, nullptr);
  ErrorRecorder errors;
  mi_heap_merge(heap, heap);
  EXPECT_EQ(errors.errors(), std::vector<int>{EINVAL});
  EXPECT_EQ(mi_heap_of(block), heap);
  ASSERT_NE(mi_heap_malloc(heap, 100), nullptr);
  mi_heap_destroy(heap);
}

// ---- theaps ---------------------------------------------------------------------------------------------

TEST(TheapTest, AllocatesInItsHeapAndIsTheSameForAThread) {
  mi_heap_t* heap = mi_heap_new();
  ASSERT_NE(heap, nullptr);
  mi_theap_t* theap = mi_heap_theap(heap);
  ASSERT_NE(theap, nullptr);
  EXPECT_EQ(mi_heap_theap(heap), theap);
  std::vector<void*> blocks = {mi_theap_malloc(theap, 100),          mi_theap_malloc_small(theap, 100),
                               mi_theap_zalloc(theap, 100000),       mi_theap_zalloc_small(theap, 20),
                               mi_theap_calloc(theap, 10, 20),       mi_theap_malloc_aligned(theap, 100, 4096),
                               mi_theap_realloc(theap, nullptr, 77), mi_heap_malloc(heap, 100)};
  for (void* block : blocks) {
    ASSERT_NE(block, nullptr);
    EXPECT_EQ(mi_heap_of(block), heap);
  }
  EXPECT_TRUE(ShowsExactly(heap, blocks));
  mi_theap_t* elsewhere = nullptr;
  InThread([&] {
    elsewhere = mi_heap_theap(heap);
    ASSERT_NE(elsewhere, nullptr);
    EXPECT_NE(elsewhere, theap);
    void* block = mi_theap_malloc(elsewhere, 50);
    EXPECT_EQ(mi_heap_of(block), heap);
    mi_free(block);
  });
  mi_theap_collect(theap, true);
  EXPECT_TRUE(ShowsExactly(heap, blocks));
  mi_heap_destroy(heap);
}

TEST(TheapTest, TheDefaultTheapBelongsToTheDefaultHeapAndCanBeSet) {
  mi_heap_t* heap = mi_heap_new();
  ASSERT_NE(heap, nullptr);
  mi_theap_t* of_main = mi_theap_get_default();
  ASSERT_NE(of_main, nullptr);
  EXPECT_EQ(mi_heap_theap(nullptr), of_main);
  EXPECT_EQ(mi_heap_theap(mi_heap_main()), of_main);
  mi_theap_t* theap = mi_heap_theap(heap);
  ASSERT_NE(theap, nullptr);
  EXPECT_EQ(mi_theap_set_default(theap), of_main);
  EXPECT_EQ(mi_heap_get_default(), heap);
  EXPECT_EQ(mi_theap_get_default(), theap);
  EXPECT_EQ(mi_heap_theap(nullptr), theap);
  void* block = mi_malloc(100);
  EXPECT_EQ(mi_heap_of(block), heap);
  EXPECT_EQ(mi_theap_set_default(of_main), theap);
  EXPECT_EQ(mi_heap_get_default(), mi_heap_main());
  mi_heap_destroy(heap);
}

TEST(TheapTest, AHeapThatWasYoungKeepsItsBlocksWhenItsTheapIsMade) {
  for (int objects : {0, 1, 10, 100, 1000}) {
    mi_heap_t* heap = mi_heap_new();
    ASSERT_NE(heap, nullptr);
    std::vector<void*> blocks;
    for (int i = 0; i < objects; i++) {
      blocks.push_back(mi_heap_malloc(heap, 40));
      Fill(blocks.back(), 40, i);
    }
    mi_theap_t* theap = mi_heap_theap(heap);
    ASSERT_NE(theap, nullptr);
    for (int i = 0; i < 100; i++) blocks.push_back(i % 2 == 0 ? mi_theap_malloc(theap, 40) : mi_heap_malloc(heap, 40));
    for (int i = 0; i < objects; i++) ASSERT_TRUE(Holds(blocks[i], 40, i));
    EXPECT_TRUE(ShowsExactly(heap, blocks));
    mi_heap_destroy(heap);
  }
}

// ---- asking ---------------------------------------------------------------------------------------------

TEST(HeapOfTest, EveryKindOfBlockBelongsToExactlyItsHeap) {
  mi_heap_t* first = mi_heap_new();
  mi_heap_t* second = mi_heap_new();
  ASSERT_NE(first, nullptr);
  ASSERT_NE(second, nullptr);
  for (mi_heap_t* heap : {first, second, mi_heap_main()}) {
    std::vector<void*> blocks = Populate(heap);
    for (void* block : blocks) {
      for (mi_heap_t* other : {first, second, mi_heap_main()}) {
        EXPECT_EQ(mi_heap_contains(other, block), other == heap);
        EXPECT_EQ(mi_heap_contains_block(other, block), other == heap);
        EXPECT_EQ(mi_heap_check_owned(other, block), other == heap);
      }
      EXPECT_EQ(mi_heap_of(block), heap);
      EXPECT_TRUE(mi_any_heap_contains(block));
      EXPECT_TRUE(mi_check_owned(block));
      InThread([&] { EXPECT_EQ(mi_heap_of(block), heap); });
    }
    for (void* block : blocks) mi_free(block);
  }
  mi_heap_destroy(first);
  mi_heap_destroy(second);
}

TEST(HeapOfTest, NullAndForeignPointersBelongToNoHeap) {
  static int in_data;
  int on_stack = 0;
  std::vector<char> elsewhere(100);
  for (void* p : {static_cast<void*>(nullptr), static_cast<void*>(&in_data), Opaque<void*>(&on_stack),
                  static_cast<void*>(elsewhere.data()), reinterpret_cast<void*>(uintptr_t{16}),
                  reinterpret_cast<void*>(~uintptr_t{0})}) {
    EXPECT_EQ(mi_heap_of(p), nullptr);
    EXPECT_FALSE(mi_heap_contains(mi_heap_main(), p));
    EXPECT_FALSE(mi_heap_contains_block(mi_heap_main(), p));
    EXPECT_FALSE(mi_heap_check_owned(mi_heap_main(), p));
    EXPECT_FALSE(mi_any_heap_contains(p));
  }
}

TEST(VisitAllTest, ShowsTheMainHeapAndEveryLiveHeapOnceAndNoEndedOne) {
  std::set<mi_heap_t*> before = AllHeaps();
  EXPECT_EQ(before.count(mi_heap_main()), 1u);
  std::set<mi_heap_t*> made;
  for (int i = 0; i < 500; i++) {
    mi_heap_t* heap = mi_heap_new();
    ASSERT_NE(heap, nullptr);
    made.insert(heap);
    if (i % 3 == 0) {
      ASSERT_NE(mi_heap_malloc(heap, 100), nullptr);
    }
  }
  std::set<mi_heap_t*> all = AllHeaps();
  EXPECT_EQ(all.size(), before.size() + made.size());
  for (mi_heap_t* heap : made) EXPECT_EQ(all.count(heap), 1u);
  int i = 0;
  for (mi_heap_t* heap : made) {
    if (i++ % 2 == 0) {
      mi_heap_destroy(heap);
    } else {
      mi_heap_delete(heap);
    }
  }
  EXPECT_EQ(AllHeaps(), before);
}

TEST(VisitAllTest, EndsWhenTheVisitorSaysSo) {
  mi_heap_t* heap = mi_heap_new();
  ASSERT_NE(heap, nullptr);
  int calls = 0;
  EXPECT_FALSE(mi_heap_visit_all(
      [](mi_heap_t*, void* arg) {
        ++*static_cast<int*>(arg);
        return false;
      },
      &calls));
  EXPECT_EQ(calls, 1);
  mi_heap_destroy(heap);
}

// ---- use after destroy ----------------------------------------------------------------------------------

TEST(UseAfterDestroyTest, AllocatingInADestroyedHeapIsReportedAndReturnsNull) {
  for (bool used : {false, true}) {
    mi_heap_t* heap = mi_heap_new();
    ASSERT_NE(heap, nullptr);
    if (used) {
      for (int i = 0; i < 2000; i++) ASSERT_NE(mi_heap_malloc(heap, 64), nullptr);
    }
    mi_heap_destroy(heap);
    ErrorRecorder errors;
    int expected = 0;
    auto refused = [&](void* block) {
      expected++;
      EXPECT_EQ(block, nullptr);
      EXPECT_EQ(errors.count(EFAULT), expected);
    };
    refused(mi_heap_malloc(heap, 64));
    refused(mi_heap_malloc_small(heap, 64));
    refused(mi_heap_zalloc(heap, 64));
    refused(mi_heap_malloc(heap, 100000));
    refused(mi_heap_malloc_aligned(heap, 64, 128));
    refused(mi_heap_calloc(heap, 2, 64));
    refused(mi_heap_realloc(heap, nullptr, 64));
    EXPECT_EQ(errors.total(), expected);
    EXPECT_FALSE(errors.text().empty());
  }
}

TEST(UseAfterDestroyTest, TheHandleOfADestroyedHeapIsNoBlock) {
  if (kSecure) GTEST_SKIP() << kMisuseEnds;
  std::vector<mi_heap_t*> heaps(1000);  // pages of handles: the empty ones are kept apart
  for (mi_heap_t*& heap : heaps) heap = mi_heap_new();
  for (mi_heap_t* heap : heaps) mi_heap_destroy(heap);
  mi_collect(true);
  ErrorRecorder errors;
  int expected = 0;
  for (mi_heap_t* heap : heaps) {
    EXPECT_EQ(mi_usable_size(heap), 0u);
    EXPECT_EQ(mi_heap_of(heap), nullptr);
    EXPECT_FALSE(mi_check_owned(heap));
    mi_free(heap);
    ASSERT_EQ(errors.count(EINVAL), ++expected);
  }
  for (mi_heap_t*& heap : heaps) {
    heap = mi_heap_new();
    ASSERT_NE(heap, nullptr);
    ASSERT_NE(mi_heap_zalloc(heap, 64), nullptr);
  }
  for (mi_heap_t* heap : heaps) mi_heap_destroy(heap);
}

TEST(UseAfterDestroyTest, EndingADestroyedHeapAgainIsReportedAndDoesNothing) {
  mi_heap_t* heap = mi_heap_new();
  mi_heap_t* into = mi_heap_new();
  ASSERT_NE(heap, nullptr);
  ASSERT_NE(into, nullptr);
  mi_heap_destroy(heap);
  ErrorRecorder errors;
  mi_heap_destroy(heap);
  EXPECT_EQ(errors.count(EFAULT), 1);
  mi_heap_delete(heap);
  EXPECT_EQ(errors.count(EFAULT), 2);
  mi_heap_reset(heap);
  EXPECT_EQ(errors.count(EFAULT), 3);
  mi_heap_merge(heap, into);
  EXPECT_EQ(errors.count(EFAULT), 4);
  mi_heap_merge(into, heap);
  EXPECT_EQ(errors.count(EFAULT), 5);
  mi_heap_collect(heap, true);
  EXPECT_EQ(errors.count(EFAULT), 6);
  EXPECT_EQ(errors.total(), 6);
  EXPECT_EQ(mi_heap_theap(heap), nullptr);
  mi_heap_t* next = mi_heap_new();
  mi_heap_t* after = mi_heap_new();
  ASSERT_NE(next, nullptr);
  ASSERT_NE(after, nullptr);
  EXPECT_NE(next, after) << "the handle was given away twice";
  EXPECT_NE(next, into);
  EXPECT_NE(after, into);
  mi_heap_destroy(next);
  mi_heap_destroy(after);
  mi_heap_destroy(into);
}

TEST(UseAfterDestroyTest, UseOfADeletedHeapIsReportedWhileItsBlocksLive) {
  mi_heap_t* heap = mi_heap_new();
  ASSERT_NE(heap, nullptr);
  void* block = mi_heap_malloc(heap, 64);
  ASSERT_NE(block, nullptr);
  mi_heap_delete(heap);
  ErrorRecorder errors;
  EXPECT_EQ(mi_heap_malloc(heap, 64), nullptr);
  EXPECT_EQ(errors.count(EFAULT), 1);
  mi_free(block);
}

TEST(UseAfterDestroyTest, TheReportNamesTheAddress) {
  mi_heap_t* heap = mi_heap_new();
  ASSERT_NE(heap, nullptr);
  mi_heap_destroy(heap);
  ErrorRecorder errors;
  EXPECT_EQ(mi_heap_malloc(heap, 64), nullptr);
  char address[32];
  snprintf(address, sizeof(address), "%zx", reinterpret_cast<size_t>(heap));
  EXPECT_NE(errors.text().find(address), std::string::npos) << errors.text();
}

TEST(UseAfterDestroyTest, ItIsNoticedOnOtherThreadsThatHaveUsedTheHeap) {
  mi_heap_t* heap = mi_heap_new();
  ASSERT_NE(heap, nullptr);
  Worker worker;
  worker.Run([&] {
    for (int i = 0; i < 1000; i++) ASSERT_NE(mi_heap_malloc(heap, 64), nullptr);
  });
  mi_heap_destroy(heap);
  ErrorRecorder errors;
  worker.Run([&] { EXPECT_EQ(mi_heap_malloc(heap, 64), nullptr); });
  EXPECT_EQ(errors.errors(), std::vector<int>{EFAULT});
}

}  // namespace
}  // namespace mi_test
