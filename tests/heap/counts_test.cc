// What a heap counts: allocations, frees, frees by other threads, live blocks, pages, against a count of the test's
// own.
#include <cjson/cJSON.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "mi/mimalloc-stats.h"
#include "tests/test_support.h"

namespace mi_test {
namespace {

mi_heap_counts_t CountsOf(mi_heap_t* heap) {
  mi_heap_counts_t counts = {};
  counts.size = sizeof(counts);
  EXPECT_TRUE(mi_heap_counts_get(heap, &counts));
  return counts;
}

struct Expected {
  uint64_t allocations = 0, frees = 0, remote_frees = 0;
};

void ExpectCounts(mi_heap_t* heap, const Expected& expected) {
  mi_heap_counts_t counts = CountsOf(heap);
  EXPECT_EQ(counts.allocations, expected.allocations);
  EXPECT_EQ(counts.frees, expected.frees);
  EXPECT_EQ(counts.remote_frees, expected.remote_frees);
  EXPECT_EQ(counts.blocks, expected.allocations - expected.frees);
}

TEST(CountsTest, AgreeWithARandomRunOnTwoThreads) {
  for (uint64_t seed = 1; seed <= 5; seed++) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    Random random(seed);
    // Of one size only, or of all: pages and regions are counted in different ways.
    auto size = [&] {
      if (seed == 1) return size_t{64};
      if (random.OneIn(300)) return random.Below(5 * kMiB);
      return random.Below(seed == 2 ? 400 : 30000);
    };
    mi_heap_t* heap = mi_heap_new();
    Expected expected;
    Worker other;
    std::vector<void*> blocks[2];  // by the thread that made them
    for (int step = 0; step < Scaled(400); step++) {
      int maker = static_cast<int>(random.Below(2)), freer = static_cast<int>(random.Below(2));
      int makes = static_cast<int>(random.Below(300));
      auto make = [&] {
        for (int i = 0; i < makes; i++) {
          void* p = random.OneIn(30) ? mi_heap_malloc_aligned(heap, size(), 64) : mi_heap_malloc(heap, size());
          ASSERT_NE(p, nullptr);
          blocks[maker].push_back(p);
          expected.allocations++;
        }
      };
      auto free_some = [&] {
        for (auto& owned : blocks) {
          size_t n = random.Below(owned.size() + 1);
          for (size_t i = 0; i < n; i++) {
            std::swap(owned[random.Below(owned.size())], owned.back());
            mi_free(owned.back());
            owned.pop_back();
            expected.frees++;
            expected.remote_frees += &owned != &blocks[freer];
          }
        }
      };
      maker == 0 ? make() : other.Run(make);
      freer == 0 ? free_some() : other.Run(free_some);
      if (random.OneIn(30)) mi_heap_collect(heap, random.OneIn(2));
      if (random.OneIn(5)) ExpectCounts(heap, expected);
      if (random.OneIn(100)) {
        mi_heap_reset(heap);
        for (auto& owned : blocks) owned.clear();
        expected = Expected();
        ExpectCounts(heap, expected);
      }
      if (HasFailure()) FAIL() << "step " << step;
    }
    ExpectCounts(heap, expected);
    other.Exit();  // its pages are abandoned
    ExpectCounts(heap, expected);
    for (auto& owned : blocks) {
      for (void* p : owned) mi_free(p);
      expected.frees += owned.size();
    }
    mi_heap_counts_t counts = CountsOf(heap);
    EXPECT_EQ(counts.blocks, 0u);
    EXPECT_EQ(counts.bytes, 0u);
    EXPECT_EQ(counts.allocations, expected.allocations);
    EXPECT_EQ(counts.frees, expected.frees);
    mi_heap_destroy(heap);
  }
}

TEST(CountsTest, AMergedHeapBringsItsCounts) {
  mi_heap_t* target = mi_heap_new();
  mi_heap_t* heap = mi_heap_new();
  std::vector<void*> blocks;
  for (int i = 0; i < 5000; i++) blocks.push_back(mi_heap_malloc(heap, i % 2 == 0 ? 64 : 3000));
  for (int i = 0; i < 1000; i++) {
    mi_free(blocks.back());
    blocks.pop_back();
  }
  InThread([&] {
    for (int i = 0; i < 500; i++) {
      mi_free(blocks.back());
      blocks.pop_back();
    }
  });
  for (int i = 0; i < 10; i++) ASSERT_NE(mi_heap_malloc(target, 100), nullptr);
  mi_heap_merge(heap, target);
  Expected expected{5010, 1500, 500};
  ExpectCounts(target, expected);
  for (void* p : blocks) mi_free(p);
  mi_heap_collect(target, true);  // nothing is left of the merged heap
  mi_heap_counts_t counts = CountsOf(target);
  EXPECT_EQ(counts.allocations, 5010u);
  EXPECT_EQ(counts.frees, 5000u);
  EXPECT_EQ(counts.blocks, 10u);
  EXPECT_GE(counts.remote_frees, 500u);
  mi_heap_destroy(target);
}

TEST(CountsTest, OfTheMainHeapFreesByOthersAreCountedToo) {
  InThread([] {
    mi_heap_counts_t before = CountsOf(mi_heap_main());
    std::vector<void*> blocks(3000);
    for (void*& p : blocks) p = mi_malloc(500);
    InThread([&] {
      for (void* p : blocks) mi_free(p);
    });
    mi_heap_counts_t after = CountsOf(mi_heap_main());
    EXPECT_EQ(after.remote_frees - before.remote_frees, blocks.size());
  });
}

TEST(CountsTest, PagesMemoryAndPeak) {
  mi_heap_t* heap = mi_heap_new();
  EXPECT_EQ(CountsOf(heap).pages, 0u);
  void* p = mi_heap_malloc(heap, 10 * kMiB);
  mi_heap_counts_t counts = CountsOf(heap);
  EXPECT_EQ(counts.pages, 1u);
  EXPECT_GE(counts.bytes, 10 * kMiB);
  EXPECT_GE(counts.committed, 10 * kMiB);
  EXPECT_EQ(counts.peak, counts.committed);
  mi_free(p);
  mi_heap_counts_t after = CountsOf(heap);
  EXPECT_EQ(after.pages, 0u);
  EXPECT_LT(after.committed, kMiB);
  EXPECT_EQ(after.peak, counts.peak);
  mi_heap_destroy(heap);
}

TEST(CountsTest, AnOlderProgramsStructIsNotWrittenBeyondAndANewerOnesIsCleared) {
  ErrorRecorder recorder;
  struct {
    mi_heap_counts_t counts;
    uint64_t more[4];
  } newer;
  memset(&newer, 0xff, sizeof(newer));
  newer.counts.size = sizeof(newer.counts) + 2 * sizeof(uint64_t);
  EXPECT_TRUE(mi_heap_counts_get(mi_heap_main(), &newer.counts));
  EXPECT_EQ(newer.more[0] | newer.more[1], 0u);
  EXPECT_EQ(newer.more[2] & newer.more[3], ~uint64_t{0});
  EXPECT_EQ(newer.counts.size, sizeof(newer.counts) + 2 * sizeof(uint64_t));
  newer.counts.size = 8;
  EXPECT_FALSE(mi_heap_counts_get(mi_heap_main(), &newer.counts));
  EXPECT_FALSE(mi_heap_counts_get(mi_heap_main(), nullptr));
  newer.counts.size = sizeof(newer.counts);
  EXPECT_FALSE(mi_heap_counts_get(nullptr, &newer.counts));
  EXPECT_EQ(recorder.errors(), (std::vector<int>{EINVAL, EINVAL, EINVAL}));
}

TEST(CountsTest, AsJson) {
  mi_heap_config_t config = {};
  config.size = sizeof(config);
  config.name = "a \"name\"";
  mi_heap_t* heap = mi_heap_new_with(&config);
  for (int i = 0; i < 3; i++) ASSERT_NE(mi_heap_malloc(heap, 100), nullptr);
  mi_free(mi_heap_malloc(heap, 100));
  char* text = mi_heap_counts_get_json(heap, 0, nullptr);
  cJSON* json = cJSON_Parse(text);
  ASSERT_NE(json, nullptr) << text;
  EXPECT_STREQ(cJSON_GetObjectItem(json, "name")->valuestring, "a \"name\"");
  EXPECT_EQ(cJSON_GetObjectItem(json, "blocks")->valuedouble, 3);
  EXPECT_EQ(cJSON_GetObjectItem(json, "allocations")->valuedouble, 4);
  EXPECT_EQ(cJSON_GetObjectItem(json, "frees")->valuedouble, 1);
  for (const char* field : {"bytes", "remote_frees", "pages", "committed", "peak"}) {
    EXPECT_TRUE(cJSON_IsNumber(cJSON_GetObjectItem(json, field))) << field;
  }
  cJSON_Delete(json);
  mi_free(text);
  char small[10];
  errno = 0;
  EXPECT_EQ(mi_heap_counts_get_json(heap, sizeof(small), small), nullptr);
  EXPECT_EQ(errno, ERANGE);
  mi_heap_destroy(heap);
}

// Figures of a heap that is at work may be old, but not wild; and who asks disturbs nobody.
void ExpectSaneCountsWhileThreadsWorkIn(mi_heap_t* heap) {
  std::atomic<bool> done{false};
  std::atomic<uint64_t> made{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; t++) {
    threads.emplace_back([&, t] {
      Random random(static_cast<uint64_t>(t));
      while (!done) {
        std::vector<void*> blocks;
        for (int i = 0; i < 300; i++) blocks.push_back(mi_heap_malloc(heap, random.Below(2000)));
        made += blocks.size();
        for (void* p : blocks) mi_free(p);
      }
    });
  }
  for (int i = 0; i < 200 || made < 10000; i++) {
    mi_heap_counts_t counts = CountsOf(heap);
    ASSERT_LT(counts.blocks, 100000u);
    ASSERT_LT(counts.allocations, 10 * made + 100000);
    ASSERT_EQ(counts.remote_frees, 0u);
  }
  done = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(CountsOf(heap).allocations, made);
  EXPECT_EQ(CountsOf(heap).frees, made);
  mi_heap_destroy(heap);
}

TEST(CountsTest, MayBeAskedForWhileThreadsWorkInTheHeap) { ExpectSaneCountsWhileThreadsWorkIn(mi_heap_new()); }

TEST(CountsTest, MayBeAskedForWhileThreadsWorkInAHardenedHeap) {
  if (kTsan)
    GTEST_SKIP() << "where a page has its states is read while its owner may write it: either of two places, and both "
                    "can be read";
  mi_heap_config_t config{};
  config.size = sizeof(config);
  config.flags = MI_HEAP_HARDENED;
  ExpectSaneCountsWhileThreadsWorkIn(mi_heap_new_with(&config));
}

}  // namespace
}  // namespace mi_test
