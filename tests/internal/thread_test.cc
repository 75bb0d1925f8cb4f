// mi/internal/thread.c: ids and records.
#include <algorithm>
#include <atomic>
#include <set>
#include <vector>

#include "gtest/gtest.h"
#include "tests/internal/probe.h"
#include "tests/test_support.h"

namespace mi_test {
namespace {

TEST(ThreadIdTest, NoneOfTenThousandThreadsHasAnIdThatWasUsedBeforeAndTheyShareFewRecords) {
  std::vector<uint64_t> ids;
  std::set<const void*> records;
  std::set<size_t> indices;
  for (int i = 0; i < 10000; i++) {
    InThread([&] {
      ids.push_back(probe_thread_id());
      records.insert(probe_thread_record());
      indices.insert(probe_thread_index());
    });
  }
  std::sort(ids.begin(), ids.end());
  EXPECT_EQ(std::unique(ids.begin(), ids.end()), ids.end());
  for (uint64_t id : ids) {
    ASSERT_NE(id, 0u);
    ASSERT_EQ(id % 8, 0u) << "the flags of a page's owner lie there";
  }
  EXPECT_EQ(records.size(), 1u) << "one thread at a time needs one record";
  EXPECT_EQ(indices.size(), 1u);
}

TEST(ThreadIdTest, ThreadsThatRunTogetherHaveRecordsOfTheirOwnAndNoMoreThanTheyNeed) {
  constexpr int kTogether = 16;
  std::set<const void*> all;
  std::set<uint64_t> ids;
  for (int round = 0; round < 50; round++) {
    std::vector<const void*> records(kTogether);
    std::vector<uint64_t> round_ids(kTogether);
    Barrier barrier(kTogether);
    InThreads(kTogether, [&](int thread) {
      records[thread] = probe_thread_record();
      round_ids[thread] = probe_thread_id();
      mi_free(mi_malloc(100));
      barrier.Arrive();
    });
    std::set<const void*> now(records.begin(), records.end());
    EXPECT_EQ(now.size(), static_cast<size_t>(kTogether));
    all.insert(now.begin(), now.end());
    for (uint64_t id : round_ids) EXPECT_TRUE(ids.insert(id).second) << "id " << id << " was used before";
  }
  EXPECT_LE(all.size(), static_cast<size_t>(kTogether) + 2);
}

TEST(ThreadIdTest, AnIdIsAliveUntilItsThreadHasEnded) {
  uint64_t id = 0;
  const void* record = nullptr;
  {
    Worker worker;
    worker.Run([&] {
      id = probe_thread_id();
      record = probe_thread_record();
      EXPECT_TRUE(probe_tid_is_alive(id));
    });
    EXPECT_TRUE(probe_tid_is_alive(id));
    EXPECT_EQ(probe_record_of(id), record);
  }
  EXPECT_FALSE(probe_tid_is_alive(id));
  EXPECT_EQ(probe_record_of(id), record) << "the record stays readable";
  InThread([&] {
    EXPECT_EQ(probe_thread_record(), record) << "the next thread uses it,";
    EXPECT_NE(probe_thread_id(), id) << "with another id";
    EXPECT_FALSE(probe_tid_is_alive(id));
  });
}

TEST(ThreadIdTest, NobodyIsNotAlive) { EXPECT_FALSE(probe_tid_is_alive(0)); }

TEST(ThreadTest, ARecordIsMadeByTheFirstAllocationAndNotByAskingOrFreeing) {
  void* block = mi_malloc(100);
  InThread([&] {
    EXPECT_FALSE(probe_thread_has_record());
    EXPECT_EQ(mi_heap_of(block), mi_heap_main());
    EXPECT_GE(mi_usable_size(block), 100u);
    mi_free(nullptr);
    mi_free(block);
    EXPECT_FALSE(probe_thread_has_record());
    mi_free(mi_malloc(1));
    EXPECT_TRUE(probe_thread_has_record());
  });
}

TEST(ThreadTest, AnEndedThreadsTheapsHoldNothing) {
  const void* record = nullptr;
  mi_theap_t *theap = nullptr, *internal = nullptr;
  std::vector<void*> kept;
  InThread([&] {
    record = probe_thread_record();
    theap = probe_theap_main();
    internal = probe_theap_internal();
    for (int i = 0; i < 1000; i++) kept.push_back(mi_malloc(i));
    for (int i = 0; i < 50; i++) mi_heap_destroy(mi_heap_new());
    EXPECT_GT(probe_theap_page_count(theap), 0u);
  });
  EXPECT_EQ(probe_theap_page_count(theap), 0u);
  EXPECT_EQ(probe_theap_page_count(internal), 0u);
  probe_cache_t cache = probe_cache(record);
  EXPECT_EQ(cache.listed, 0u);
  EXPECT_EQ(cache.bytes, 0u);
  EXPECT_EQ(cache.returned, 0u);
  for (void* block : kept) mi_free(block);
}

TEST(ThreadTest, AForcedCollectReachesOtherThreadsByMail) {
  Worker other;
  const void* record = nullptr;
  mi_theap_t* theap = nullptr;
  other.Run([&] {
    record = probe_thread_record();
    theap = probe_theap_main();
    mi_free(mi_malloc(1000));
  });
  EXPECT_EQ(probe_theap_page_count(theap), 1u) << "retired";
  mi_collect(true);
  EXPECT_TRUE(probe_has_mail(record));
  other.Run([] { mi_free(mi_malloc(100000)); });
  EXPECT_FALSE(probe_has_mail(record));
  EXPECT_EQ(probe_theap_page_count(theap), 0u);
}

}  // namespace
}  // namespace mi_test
