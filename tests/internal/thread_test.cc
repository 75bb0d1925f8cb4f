// mi/internal/thread.c: ids and records, and records of threads that ended without telling.
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

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

TEST(ThreadTest, AThreadThatEndsOnItsWayThroughAccountsIsNotWaitedFor) {
  mi_heap_t* parents[2] = {mi_heap_new(), mi_heap_new()};
  mi_heap_t* child = mi_heap_new();
  std::set<const void*> records;
  for (int i = 0; i < 3; i++) {
    InThread([&] {
      ASSERT_NE(mi_heap_malloc(child, 100 * kKiB), nullptr);
      records.insert(probe_thread_record());
      if (i == 0) probe_account_walk_begin();
    });
    // The child was used by other threads: a move waits for all that are on their way.
    ASSERT_TRUE(mi_heap_set_parent(child, parents[i % 2]));
    EXPECT_EQ(mi_heap_used(parents[i % 2]), mi_heap_used(child));
    EXPECT_EQ(mi_heap_used(parents[1 - i % 2]), 0u);
  }
  EXPECT_EQ(records.size(), 1u);
  for (mi_heap_t* heap : {child, parents[0], parents[1]}) mi_heap_destroy(heap);
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

// --- destructors after ours ------------------------------------------------------------------------------------------

// A key of the program, made after the library's, so that its destructor runs after the library's in every round.
class LateKey {
 public:
  explicit LateKey(int rounds) {
    mi_free(mi_malloc(1));
    rounds_ = rounds;
    EXPECT_EQ(pthread_key_create(&key_, Destroy), 0);
  }
  ~LateKey() { pthread_key_delete(key_); }
  // In a thread: its destructor will allocate in `rounds` rounds.
  void Arm() { pthread_setspecific(key_, reinterpret_cast<void*>(uintptr_t{1})); }

 private:
  static void Destroy(void* value) {
    const uintptr_t round = reinterpret_cast<uintptr_t>(value);
    void* blocks[20];
    for (size_t i = 0; i < 20; i++) blocks[i] = mi_malloc(50 * i);
    for (void* block : blocks) mi_free(block);
    mi_heap_t* heap = mi_heap_new();
    EXPECT_NE(mi_heap_malloc(heap, 100), nullptr);
    mi_heap_destroy(heap);
    if (round < static_cast<uintptr_t>(rounds_)) pthread_setspecific(key_, reinterpret_cast<void*>(round + 1));
  }
  static inline int rounds_;
  static inline pthread_key_t key_;
};

size_t RecordsOf(int threads, const std::function<void()>& task) {
  std::set<size_t> indices;
  for (int i = 0; i < threads; i++) {
    InThread(task);
    InThread([&] { indices.insert(probe_thread_index()); });
  }
  return indices.size();
}

TEST(LateThreadTest, DestructorsThatAllocateAfterOursLeaveNothingBehindWhicheverRoundTheyRunIn) {
  if (kSanitized) GTEST_SKIP() << "the sanitizers have keys of their own";
  for (int rounds = 1; rounds <= PTHREAD_DESTRUCTOR_ITERATIONS; rounds++) {
    LateKey key(rounds);
    const size_t before = ResidentBytes();
    const size_t records = RecordsOf(10000 / PTHREAD_DESTRUCTOR_ITERATIONS, [&] {
      mi_free(mi_malloc(100));
      key.Arm();
    });
    EXPECT_LE(records, 32u) << rounds << " rounds";
    EXPECT_LE(ResidentBytes(), before + 4 * kMiB) << rounds << " rounds";
  }
}

TEST(LateThreadTest, AThreadWhoseFirstAllocationIsInItsLastDestructorLeavesNothingBehind) {
  if (kSanitized) GTEST_SKIP() << "the sanitizers have keys of their own";
  static pthread_key_t key;
  static std::atomic<int> ended;
  ended = 0;
  ASSERT_EQ(pthread_key_create(&key,
                               [](void* value) {
                                 const uintptr_t round = reinterpret_cast<uintptr_t>(value);
                                 if (round < PTHREAD_DESTRUCTOR_ITERATIONS) {
                                   pthread_setspecific(key, reinterpret_cast<void*>(round + 1));
                                 } else {
                                   mi_free(mi_malloc(100));
                                   ended++;
                                 }
                               }),
            0);
  const size_t records = RecordsOf(1000, [] { pthread_setspecific(key, reinterpret_cast<void*>(uintptr_t{1})); });
  EXPECT_EQ(ended, 1000);
  EXPECT_LE(records, 32u);
  pthread_key_delete(key);
}

// --- threads that end in a callback or a visitor of the library's
// -----------------------------------------------------------------------------------

struct Unwound {
  mi_heap_t* heap;
  mi_heap_t* child;
  uint64_t id;
};
Unwound g_unwound;
constexpr char kNoUnwinding[] = "no thread can be unwound through functions that the sanitizer watches";

bool EndInVisitor(const mi_heap_t*, const mi_heap_area_t*, void* block, size_t, void*) {
  if (block != nullptr) pthread_exit(nullptr);
  return true;
}
void EndInDeferredFree(mi_heap_t*, bool force, unsigned long long, void*) {
  if (!force) pthread_exit(nullptr);
}
void EndInCleanup(void*) { pthread_exit(nullptr); }

void* VisitAndEnd(void*) {
  g_unwound.id = probe_thread_id();
  for (int i = 0; i < 3000; i++) memset(mi_heap_malloc(g_unwound.heap, 100), 1, 100);
  mi_heap_visit_blocks(g_unwound.heap, true, EndInVisitor, nullptr);
  return nullptr;
}
void* VisitTheapAndEnd(void*) {
  g_unwound.id = probe_thread_id();
  g_unwound.heap = mi_heap_main();
  for (int i = 0; i < 3000; i++) memset(mi_malloc(100), 1, 100);
  mi_theap_visit_blocks(mi_heap_theap(nullptr), true, EndInVisitor, nullptr);
  return nullptr;
}
void* AllocateAndEnd(void*) {
  g_unwound.id = probe_thread_id();
  for (int i = 0; i < 100000; i++) memset(mi_heap_malloc(g_unwound.heap, 100), 1, 100);
  return nullptr;
}
void* DestroyAndEnd(void*) {
  g_unwound.id = probe_thread_id();
  mi_heap_destroy(g_unwound.heap);
  return nullptr;
}

void RunToItsEnd(void* (*body)(void*)) {
  pthread_t thread;
  ASSERT_EQ(pthread_create(&thread, nullptr, body, nullptr), 0);
  ASSERT_EQ(pthread_join(thread, nullptr), 0);
  EXPECT_FALSE(probe_tid_is_alive(g_unwound.id)) << "its record is lost";
}

TEST(UnwoundThreadTest, AHeapIsNotVisitedAnyMoreWhenTheThreadEndedInTheVisitor) {
  if (kTsan) GTEST_SKIP() << kNoUnwinding;
  g_unwound.heap = mi_heap_new();
  std::vector<void*> blocks;
  for (int i = 0; i < 3000; i++) blocks.push_back(mi_heap_malloc(g_unwound.heap, 1 + i));
  mi_heap_t* merged = mi_heap_new();
  for (int i = 0; i < 3000; i++) blocks.push_back(mi_heap_malloc(merged, 1 + i));
  mi_heap_merge(merged, g_unwound.heap);
  RunToItsEnd(VisitAndEnd);
  EXPECT_TRUE(mi_heap_check(g_unwound.heap));
  for (void* block : blocks) mi_free(block);
  mi_heap_collect(g_unwound.heap, true);
  EXPECT_TRUE(probe_heap(merged).gone) << "a page is held";
  ErrorRecorder errors;
  mi_heap_destroy(g_unwound.heap);
  EXPECT_EQ(errors.total(), 0);
  EXPECT_TRUE(probe_heap(g_unwound.heap).gone) << "a theap is held";
}

TEST(UnwoundThreadTest, AVisitOfItsOwnPartEndsWithIt) {
  if (kTsan) GTEST_SKIP() << kNoUnwinding;
  RunToItsEnd(VisitTheapAndEnd);
  EXPECT_TRUE(mi_heap_check(mi_heap_main()));
}

TEST(UnwoundThreadTest, ARecordIsFreeWhenTheThreadEndedInADeferredFree) {
  if (kTsan) GTEST_SKIP() << kNoUnwinding;
  mi_heap_config_t config = {};
  config.size = sizeof(config);
  config.deferred_free = EndInDeferredFree;
  g_unwound.heap = mi_heap_new_with(&config);
  RunToItsEnd(AllocateAndEnd);
  EXPECT_TRUE(mi_heap_check(g_unwound.heap));
  mi_heap_destroy(g_unwound.heap);
  EXPECT_TRUE(probe_heap(g_unwound.heap).gone);
}

TEST(UnwoundThreadTest, AHeapThatTheThreadWasEndingIsEndedByAnother) {
  if (kTsan) GTEST_SKIP() << kNoUnwinding;
  g_unwound.heap = mi_heap_new();
  mi_heap_config_t config = {};
  config.size = sizeof(config);
  config.parent = g_unwound.heap;
  g_unwound.child = mi_heap_new_with(&config);
  ASSERT_TRUE(mi_heap_on_destroy(g_unwound.child, EndInCleanup, nullptr));
  RunToItsEnd(DestroyAndEnd);
  ErrorRecorder errors;
  mi_heap_destroy(g_unwound.heap);
  EXPECT_EQ(errors.total(), 0);
  EXPECT_TRUE(probe_heap(g_unwound.heap).gone);
  EXPECT_TRUE(probe_heap(g_unwound.child).gone);
}

// --- threads that end without destructors
// --------------------------------------------------------------------------------

void CollectUntilGone(uint64_t id) {
  while (probe_tid_is_alive(id)) {  // the kernel forgets a thread a little after its end was seen
    mi_collect(true);
    sched_yield();
  }
}

TEST(GoneThreadTest, ACollectEndsTheRecordOfAThreadThatIsGoneAndItsBlocksStay) {
  if (kSanitized) GTEST_SKIP() << "the sanitizers want threads to end properly";
  uint64_t id = 0;
  const mi_theap_t* theap = nullptr;
  std::vector<void*> kept;
  mi_heap_t* heap = nullptr;
  void* in_heap = nullptr;
  InThreadWithoutEnd([&] {
    id = probe_thread_id();
    theap = probe_theap_main();
    for (int i = 0; i < 1000; i++) {
      kept.push_back(mi_malloc(i));
      Fill(kept[i], i, i);
    }
    heap = mi_heap_new();
    in_heap = mi_heap_malloc(heap, 5000);
    Fill(in_heap, 5000, 5000);
  });
  CollectUntilGone(id);
  EXPECT_EQ(probe_theap_page_count(theap), 0u) << "the pages were handed over";
  for (int i = 0; i < 1000; i++) {
    EXPECT_TRUE(Holds(kept[i], i, i));
    mi_free(kept[i]);
  }
  EXPECT_TRUE(Holds(in_heap, 5000, 5000));
  EXPECT_NE(mi_heap_malloc(heap, 100), nullptr);
  mi_heap_destroy(heap);
  EXPECT_TRUE(probe_heap(heap).gone);
  mi_free(mi_malloc(100));
  EXPECT_TRUE(probe_theap_is_sound(probe_theap_main()));
}

TEST(GoneThreadTest, TheDefaultHeapOfAThreadThatIsGoneCanBeDestroyedBeforeAndAfter) {
  if (kSanitized) GTEST_SKIP() << "the sanitizers want threads to end properly";
  for (bool before : {true, false}) {
    uint64_t id = 0;
    mi_heap_t* heap = nullptr;
    void* slot = nullptr;
    InThreadWithoutEnd([&] {
      id = probe_thread_id();
      heap = mi_heap_new();
      mi_heap_set_default(heap);
      for (int i = 0; i < 5000; i++) EXPECT_NE(mi_malloc(100), nullptr);
      slot = probe_slot_of_heap(heap).slot;
      EXPECT_TRUE(probe_slot_at(slot).is_default);
    });
    if (before) mi_heap_destroy(heap);
    CollectUntilGone(id);
    if (!before) mi_heap_destroy(heap);
    EXPECT_TRUE(probe_heap(heap).gone) << before;
    EXPECT_TRUE(probe_slot_at(slot).is_free) << before;
  }
}

TEST(GoneThreadTest, TheNextThreadsUseTheRecordsOfThoseThatAreGone) {
  if (kSanitized) GTEST_SKIP() << "the sanitizers want threads to end properly";
  EXPECT_LE(RecordsOf(500, [] {}), 32u);
  std::set<size_t> indices;
  for (int i = 0; i < 500; i++) InThreadWithoutEnd([&] { indices.insert(probe_thread_index()); });
  EXPECT_LE(indices.size(), 64u);
}

TEST(GoneThreadTest, ThreadsThatRunKeepTheirRecordsWhoeverLooksForThoseThatAreGone) {
  constexpr int kTogether = 40;
  std::vector<uint64_t> ids(kTogether);
  std::vector<void*> blocks(kTogether);
  Barrier ready(kTogether + 1), done(kTogether + 1);
  std::thread threads([&] {
    InThreads(kTogether, [&](int thread) {
      ids[thread] = probe_thread_id();
      blocks[thread] = mi_malloc(1000);
      Fill(blocks[thread], 1000, thread);
      ready.Arrive();
      done.Arrive();
      EXPECT_EQ(probe_thread_id(), ids[thread]);
      EXPECT_TRUE(probe_theap_is_sound(probe_theap_main()));
      mi_free(blocks[thread]);
    });
  });
  ready.Arrive();
  const auto all_alive = [&] {
    return std::all_of(ids.begin(), ids.end(), [](uint64_t id) { return probe_tid_is_alive(id); });
  };
  mi_collect(true);
  EXPECT_TRUE(all_alive());
  InThreads(40, [](int) { mi_free(mi_malloc(100)); });
  EXPECT_TRUE(all_alive());
  // Who shares the memory, but is another process, knows the threads by other ids.
  const pid_t child = vfork();
  if (child == 0) {
    mi_collect(true);
    _exit(0);
  }
  EXPECT_TRUE(all_alive());
  // And in the child of a fork, what they had stays as it was when they stopped.
  const pid_t forked = fork();
  if (forked == 0) {
    mi_collect(true);
    _exit(all_alive() ? 0 : 1);
  }
  int status = -1;
  EXPECT_EQ(waitpid(forked, &status, 0), forked);
  EXPECT_EQ(status, 0);
  waitpid(child, &status, 0);
  done.Arrive();
  threads.join();
}

// A copy of a process with threads that the handlers of fork did not see, and whose parent, in which the threads run,
// is gone as well: nobody may take the copies of the threads' records apart.
TEST(GoneThreadTest, ACopyOfTheProcessThatForkDidNotMakeLeavesTheRecordsOfItsThreadsAlone) {
  if (kSanitized) GTEST_SKIP() << "the sanitizers want to know of every process";
  int result[2];
  ASSERT_EQ(pipe(result), 0);
  const pid_t parent = fork();
  if (parent == 0) {
    static uint64_t ids[20];
    static Barrier ready(21), done(21);
    for (uint64_t& id : ids) {
      std::thread([&id] {
        id = probe_thread_id();
        ready.Arrive();
        done.Arrive();
      }).detach();
    }
    ready.Arrive();
    const pid_t me = getpid();
    if (syscall(SYS_clone, SIGCHLD, nullptr, nullptr, nullptr, nullptr) != 0) _exit(0);
    while (getppid() == me) sched_yield();
    mi_collect(true);
    const char good = std::all_of(ids, ids + 20, [](uint64_t id) { return probe_tid_is_alive(id); }) ? 'y' : 'n';
    _exit(write(result[1], &good, 1) == 1 ? 0 : 1);
  }
  close(result[1]);
  char good = '-';
  EXPECT_EQ(read(result[0], &good, 1), 1);
  EXPECT_EQ(good, 'y');
  close(result[0]);
  waitpid(parent, nullptr, 0);
}

}  // namespace
}  // namespace mi_test
