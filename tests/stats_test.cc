// Statistics: every figure against a shadow count of what the test did, on one thread and on several, through thread
// exits, destroys, resets, deletes and merges; JSON against the struct; the table; refusals; the struct's layout.
//
// The suite runs twice: as a program starts by default, where a heap that is destroyed or reset takes its totals with
// it, and with MIMALLOC_SHOW_STATS=1, where they stay.
#include <cjson/cJSON.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <climits>
#include <cstddef>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "mi/mimalloc-stats.h"
#include "mi/mimalloc.h"
#include "tests/test_support.h"
#if defined(MI_SECURE) && MI_SECURE
#include "tests/internal/probe.h"
#endif

extern "C" {
size_t stats_header_size(void);
size_t stats_header_last_offset(void);
bool stats_header_query(mi_stats_t* out);
}

namespace mi_test {
namespace {

const bool kCounted = getenv("MIMALLOC_SHOW_STATS") != nullptr;

constexpr size_t kBins = MI_STAT_BIN_COUNT;
constexpr size_t kClassMax = 64 * kKiB;  // larger blocks have a page of their own

size_t BinOf(size_t size) {
  size_t bin = 1;
  while (mi_stats_get_bin_size(bin) < size) bin++;
  return bin;
}

// What statistics count of a block: all of it.
size_t BlockSize(const void* p) {
#if defined(MI_SECURE) && MI_SECURE
  return probe_block_size(p);
#else
  return mi_usable_size(p);
#endif
}

mi_stats_t Process() {
  mi_stats_t_decl(stats);
  EXPECT_TRUE(mi_stats_get(&stats));
  return stats;
}

mi_stats_t Of(mi_heap_t* heap) {
  mi_stats_t_decl(stats);
  EXPECT_TRUE(mi_heap_stats_get(heap, &stats));
  return stats;
}

// ---- the shadow -----------------------------------------------------------------------------------------

// What was allocated and is live, as statistics should say.
struct Count {
  int64_t made[kBins] = {0}, live[kBins] = {0};
  int64_t normal_bytes_made = 0, normal_bytes = 0, huge_bytes_made = 0, huge_bytes = 0;

  void Made(size_t bin, size_t size, int64_t n) {
    made[bin] += n;
    (bin == MI_STAT_BIN_HUGE ? huge_bytes_made : normal_bytes_made) += n * static_cast<int64_t>(size);
  }
  void Live(size_t bin, size_t size, int64_t n) {
    live[bin] += n;
    (bin == MI_STAT_BIN_HUGE ? huge_bytes : normal_bytes) += n * static_cast<int64_t>(size);
  }
  Count& operator+=(const Count& other) {
    for (size_t bin = 0; bin < kBins; bin++) {
      made[bin] += other.made[bin];
      live[bin] += other.live[bin];
    }
    normal_bytes_made += other.normal_bytes_made;
    normal_bytes += other.normal_bytes;
    huge_bytes_made += other.huge_bytes_made;
    huge_bytes += other.huge_bytes;
    return *this;
  }
  void DropLive() {
    memset(live, 0, sizeof(live));
    normal_bytes = huge_bytes = 0;
  }
};

// The figures of statistics that a Count speaks of.
Count CountOf(const mi_stats_t& stats) {
  Count count;
  for (size_t bin = 0; bin < kBins; bin++) {
    count.made[bin] = stats.malloc_bins[bin].total;
    count.live[bin] = stats.malloc_bins[bin].current;
  }
  count.normal_bytes_made = stats.malloc_normal.total;
  count.normal_bytes = stats.malloc_normal.current;
  count.huge_bytes_made = stats.malloc_huge.total;
  count.huge_bytes = stats.malloc_huge.current;
  return count;
}

// Are the statistics those of `expected`, on top of what there was `before`?
::testing::AssertionResult Shows(const mi_stats_t& stats, const Count& expected, const Count& before = Count()) {
  Count whole = before;
  whole += expected;
  const Count shown = CountOf(stats);
  int64_t normal = 0;
  for (size_t bin = 0; bin < kBins; bin++) {
    if (bin != MI_STAT_BIN_HUGE) normal += shown.made[bin];
    if (shown.made[bin] == whole.made[bin] && shown.live[bin] == whole.live[bin]) continue;
    return ::testing::AssertionFailure() << "blocks of " << mi_stats_get_bin_size(bin) << " bytes: total "
                                         << shown.made[bin] << ", expected " << whole.made[bin] << "; current "
                                         << shown.live[bin] << ", expected " << whole.live[bin];
  }
  if (shown.normal_bytes != whole.normal_bytes || shown.normal_bytes_made != whole.normal_bytes_made) {
    return ::testing::AssertionFailure() << "malloc_normal: total " << shown.normal_bytes_made << ", expected "
                                         << whole.normal_bytes_made << "; current " << shown.normal_bytes
                                         << ", expected " << whole.normal_bytes;
  }
  if (shown.huge_bytes != whole.huge_bytes || shown.huge_bytes_made != whole.huge_bytes_made) {
    return ::testing::AssertionFailure() << "malloc_huge: total " << shown.huge_bytes_made << ", expected "
                                         << whole.huge_bytes_made << "; current " << shown.huge_bytes << ", expected "
                                         << whole.huge_bytes;
  }
  if (stats.malloc_normal_count.total != normal || stats.malloc_huge_count.total != shown.made[MI_STAT_BIN_HUGE]) {
    return ::testing::AssertionFailure() << "the counters differ from the bins";
  }
  return ::testing::AssertionSuccess();
}

// Blocks of one heap, from one thread at a time, with their count.
class Blocks {
 public:
  explicit Blocks(mi_heap_t* heap) : heap_(heap) {}

  mi_heap_t* heap() const { return heap_; }
  const Count& count() const { return count_; }
  size_t size() const { return live_.size(); }
  bool empty() const { return live_.empty(); }

  void Allocate(Random& random, size_t largest = 3 * kMiB) {
    const size_t size = RandomSize(random, largest);
    size_t alignment = 1;
    void* p;
    switch (random.Below(8)) {
      case 0:
        alignment = size_t{16} << random.Below(9);  // to 4 KiB
        p = mi_heap_malloc_aligned(heap_, size, alignment);
        break;
      case 1:
        p = mi_heap_zalloc(heap_, size);
        break;
      default:
        p = mi_heap_malloc(heap_, size);
        break;
    }
    ASSERT_NE(p, nullptr);
    Add(p);
  }

  void Add(void* p) {
    const Block block = {p, BlockSize(p)};
    live_.push_back(block);
    count_.Made(BinOf(block.size), block.size, 1);
    count_.Live(BinOf(block.size), block.size, 1);
  }

  void Free(Random& random) { mi_free(Take(random)); }

  // The block leaves the count; the caller frees it.
  void* Take(Random& random) {
    const size_t index = random.Below(live_.size());
    const Block block = live_[index];
    live_[index] = live_.back();
    live_.pop_back();
    count_.Live(BinOf(block.size), block.size, -1);
    return block.p;
  }

  void Resize(Random& random) {
    Block& block = live_[random.Below(live_.size())];
    const size_t newsize = random.OneIn(2) ? random.Between(1, 2 * block.size) : RandomSize(random, 200 * kKiB);
    void* p = mi_heap_realloc(heap_, block.p, newsize);
    ASSERT_NE(p, nullptr);
    const size_t size = BlockSize(p);
    // One that grows or shrinks in place is the same block, and its new size counts.
    if (p == block.p) count_.Made(BinOf(block.size), block.size, -1);
    count_.Made(BinOf(size), size, 1);
    count_.Live(BinOf(block.size), block.size, -1);
    count_.Live(BinOf(size), size, 1);
    block = {p, size};
  }

  void FreeAll() {
    for (const Block& block : live_) {
      mi_free(block.p);
      count_.Live(BinOf(block.size), block.size, -1);
    }
    live_.clear();
  }

  void Step(Random& random, size_t live, size_t largest = 3 * kMiB) {
    if (!live_.empty() && random.OneIn(10)) {
      Resize(random);
    } else if (live_.size() < live / 2 || (live_.size() < 2 * live && random.OneIn(2))) {
      Allocate(random, largest);
    } else if (!live_.empty()) {
      Free(random);
    }
  }

  // The heap is merged into the other's: so are the blocks.
  void MoveTo(Blocks& other) {
    other.live_.insert(other.live_.end(), live_.begin(), live_.end());
    other.count_ += count_;
    live_.clear();
    count_ = Count();
  }

  // The heap was destroyed or reset. Returns what remains in the process's totals.
  Count Drop() {
    Count kept = count_;
    kept.DropLive();
    live_.clear();
    count_ = Count();
    return kCounted ? kept : Count();
  }

 private:
  struct Block {
    void* p;
    size_t size;
  };
  mi_heap_t* const heap_;
  std::vector<Block> live_;
  Count count_;
};

class StatsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    before_ = CountOf(Process());
    main_before_ = CountOf(Of(mi_heap_main()));
  }
  Count before_, main_before_;
};

// ---- one thread -----------------------------------------------------------------------------------------

TEST_F(StatsTest, EveryBlockIsCountedInTheFirstBinThatIsLargeEnough) {
  for (size_t size = 1; size <= 70 * kKiB; size += (size < 600 ? 1 : 397)) {
    const mi_stats_t empty = Process();
    void* p = mi_malloc(size);
    mi_stats_t stats = Process();
    const size_t bin = BinOf(BlockSize(p));
    for (size_t i = 0; i < kBins; i++) {
      ASSERT_EQ(stats.malloc_bins[i].total - empty.malloc_bins[i].total, i == bin) << size << " in " << i;
      ASSERT_EQ(stats.malloc_bins[i].current - empty.malloc_bins[i].current, i == bin) << size << " in " << i;
    }
    mi_free(p);
    stats = Process();
    ASSERT_EQ(stats.malloc_bins[bin].current, empty.malloc_bins[bin].current);
    ASSERT_EQ(stats.malloc_bins[bin].total, empty.malloc_bins[bin].total + 1);
  }
}

TEST_F(StatsTest, TheMainHeapIsExactThroughARandomRun) {
  Random random(11);
  Blocks blocks(mi_heap_main());
  const int steps = Scaled(40000);
  for (int i = 0; i < steps; i++) {
    blocks.Step(random, 600);
    if (random.OneIn(4000)) mi_collect(random.OneIn(2));
    if (random.OneIn(400)) {
      ASSERT_TRUE(Shows(Process(), blocks.count(), before_)) << "step " << i;
      ASSERT_TRUE(Shows(Of(mi_heap_main()), blocks.count(), main_before_)) << "step " << i;
    }
  }
  blocks.FreeAll();
  EXPECT_TRUE(Shows(Process(), blocks.count(), before_));
  mi_collect(true);
  EXPECT_TRUE(Shows(Process(), blocks.count(), before_)) << "pages that went back took counts with them";
}

TEST_F(StatsTest, AHeapIsExactThroughARandomRun) {
  for (size_t live : {5, 60, 2000}) {  // young, at the edge, on pages
    Random random(live);
    Blocks blocks(mi_heap_new());
    Count ended;
    const int steps = Scaled(30000);
    for (int i = 0; i < steps; i++) {
      blocks.Step(random, live, live < 1000 ? 9 * kKiB : 100 * kKiB);
      if (random.OneIn(3000)) mi_heap_collect(blocks.heap(), random.OneIn(2));
      if (random.OneIn(300)) {
        ASSERT_TRUE(Shows(Of(blocks.heap()), blocks.count())) << live << ", step " << i;
      }
    }
    ASSERT_TRUE(Shows(Process(), blocks.count(), before_));
    mi_heap_destroy(blocks.heap());
    ended += blocks.Drop();
    ASSERT_TRUE(Shows(Process(), ended, before_));
    before_ += ended;
  }
}

TEST_F(StatsTest, ManyHeapsAreEachExactThroughTheirLives) {
  Random random(5);
  std::vector<std::unique_ptr<Blocks>> heaps;
  heaps.push_back(std::make_unique<Blocks>(mi_heap_main()));
  Count ended;
  auto check = [&] {
    Count all = ended;
    for (size_t i = 0; i < heaps.size(); i++) {
      all += heaps[i]->count();
      ASSERT_TRUE(Shows(Of(heaps[i]->heap()), heaps[i]->count(), i == 0 ? main_before_ : Count())) << "heap " << i;
    }
    ASSERT_TRUE(Shows(Process(), all, before_));
  };
  const int steps = Scaled(60000);
  for (int i = 0; i < steps; i++) {
    const size_t index = random.Below(heaps.size());
    Blocks& blocks = *heaps[index];
    const size_t live = (index % 3 == 0 ? 800 : index % 3 == 1 ? 100 : 10);
    if (!random.OneIn(150)) {
      blocks.Step(random, live, 100 * kKiB);
    } else if (heaps.size() < 8) {
      heaps.push_back(std::make_unique<Blocks>(mi_heap_new()));
    } else if (index != 0) {
      switch (random.Below(5)) {
        case 0:
          mi_heap_destroy(blocks.heap());
          ended += blocks.Drop();
          break;
        case 1:
          mi_heap_reset(blocks.heap());
          ended += blocks.Drop();
          continue;
        case 2:
          mi_heap_delete(blocks.heap());
          blocks.MoveTo(*heaps[0]);
          break;
        default: {
          const size_t other = random.Below(heaps.size());
          if (other == index) continue;
          mi_heap_merge(blocks.heap(), heaps[other]->heap());
          blocks.MoveTo(*heaps[other]);
          break;
        }
      }
      heaps[index] = std::move(heaps.back());
      heaps.pop_back();
    }
    if (random.OneIn(500)) {
      ASSERT_NO_FATAL_FAILURE(check()) << "step " << i;
    }
    if (random.OneIn(5000)) mi_collect(true);
  }
  for (auto& blocks : heaps) blocks->FreeAll();
  mi_collect(true);
  ASSERT_NO_FATAL_FAILURE(check());
  for (size_t i = 1; i < heaps.size(); i++) {
    mi_heap_delete(heaps[i]->heap());
    heaps[i]->MoveTo(*heaps[0]);
  }
  heaps.resize(1);
  mi_collect(true);
  ASSERT_NO_FATAL_FAILURE(check()) << "heaps without blocks took their totals with them";
}

TEST_F(StatsTest, AMergedHeapsTotalsGoOnWhenItsLastBlockIsFreed) {
  mi_heap_t* into = mi_heap_new();
  mi_heap_t* heap = mi_heap_new();
  Random random(3);
  Blocks moved(heap), own(into);
  for (int i = 0; i < 3000; i++) moved.Step(random, 300, 10 * kKiB);
  mi_heap_merge(heap, into);
  moved.MoveTo(own);
  ASSERT_TRUE(Shows(Of(into), own.count()));
  EXPECT_EQ(Of(into).heaps.current, 2) << "the merged heap still holds blocks";
  own.FreeAll();
  ASSERT_TRUE(Shows(Of(into), own.count()));
  mi_heap_collect(into, true);
  EXPECT_EQ(Of(into).heaps.current, 1) << "the merged heap is gone";
  ASSERT_TRUE(Shows(Of(into), own.count()));
  mi_heap_destroy(into);
}

TEST_F(StatsTest, TheGapBeforeAnAlignedObjectIsNoBlock) {
  mi_heap_t* heap = mi_heap_new();
  Blocks blocks(heap);
  for (int i = 0; i < 40; i++) {
    blocks.Add(mi_heap_malloc(heap, 16));
    blocks.Add(mi_heap_malloc_aligned(heap, 40, 128));
    ASSERT_TRUE(Shows(Of(heap), blocks.count()));
  }
  mi_heap_destroy(heap);
}

TEST_F(StatsTest, ABlockAtAnOddOffsetOrAHugeAlignmentIsOneBlock) {
  mi_heap_t* heap = mi_heap_new();
  void* offset = mi_heap_malloc_aligned_at(heap, 200, 256, 72);
  void* solo = mi_heap_malloc_aligned(heap, 100, kMiB);
  mi_stats_t stats = Of(heap);
  const int64_t alone = kSecure ? 2 : 1;  // the block at an odd offset has a page of its own there, too
  EXPECT_EQ(stats.malloc_normal_count.total, 2 - alone);
  EXPECT_EQ(stats.malloc_huge_count.total, alone);
  EXPECT_EQ(stats.malloc_bins[MI_STAT_BIN_HUGE].current, alone);
  mi_free(offset);
  mi_free(solo);
  stats = Of(heap);
  EXPECT_EQ(stats.malloc_normal.current, 0);
  EXPECT_EQ(stats.malloc_huge.current, 0);
  EXPECT_EQ(stats.malloc_huge_count.total, alone);
  mi_heap_destroy(heap);
}

TEST_F(StatsTest, PagesAreCountedByClassAndTotalsKeepThoseThatWent) {
  mi_heap_t* heap = mi_heap_new();
  std::vector<void*> blocks;
  for (int i = 0; i < 3000; i++) blocks.push_back(mi_heap_malloc(heap, 200));
  mi_stats_t stats = Of(heap);
  const size_t bin = BinOf(208);
  const int64_t pages = stats.page_bins[bin].current;
  EXPECT_GE(pages, 2);
  EXPECT_EQ(stats.pages.current, pages);
  EXPECT_EQ(stats.pages.total, pages);
  EXPECT_EQ(stats.theaps.current, 1);
  EXPECT_GE(stats.page_committed.current, stats.malloc_normal.current);
  EXPECT_GE(stats.reserved.current, stats.page_committed.current);
  for (void* p : blocks) mi_free(p);
  mi_heap_collect(heap, true);
  stats = Of(heap);
  EXPECT_EQ(stats.pages.current, 0);
  EXPECT_EQ(stats.page_bins[bin].total, pages);
  mi_heap_destroy(heap);
}

TEST_F(StatsTest, AVisitorSeesStatisticsWithoutItsOwnHoldOnPages) {
  mi_heap_t* heap = mi_heap_new();
  Blocks blocks(heap);
  for (int i = 0; i < 2000; i++) blocks.Add(mi_heap_malloc(heap, 100));
  blocks.Add(mi_heap_malloc(heap, 300 * kKiB));
  struct State {
    const Blocks* blocks;
    int areas;
  } state = {&blocks, 0};
  mi_heap_visit_blocks(
      heap, false,
      [](const mi_heap_t*, const mi_heap_area_t*, void*, size_t, void* arg) {
        State* s = static_cast<State*>(arg);
        EXPECT_TRUE(Shows(Of(s->blocks->heap()), s->blocks->count()));
        s->areas++;
        return true;
      },
      &state);
  EXPECT_GE(state.areas, 3);
  EXPECT_TRUE(Shows(Of(heap), blocks.count()));
  mi_heap_destroy(heap);
}

// ---- several threads ------------------------------------------------------------------------------------

TEST_F(StatsTest, ThreadsThatEndedAreInTheCounts) {
  constexpr int kThreads = 4;
  mi_heap_t* heap = mi_heap_new();
  std::vector<std::unique_ptr<Blocks>> main_blocks, heap_blocks;
  for (int i = 0; i < kThreads; i++) {
    main_blocks.push_back(std::make_unique<Blocks>(mi_heap_main()));
    heap_blocks.push_back(std::make_unique<Blocks>(heap));
  }
  auto check = [&] {
    Count in_main, in_heap;
    for (int i = 0; i < kThreads; i++) {
      in_main += main_blocks[i]->count();
      in_heap += heap_blocks[i]->count();
    }
    EXPECT_TRUE(Shows(Of(mi_heap_main()), in_main, main_before_));
    EXPECT_TRUE(Shows(Of(heap), in_heap));
    in_main += in_heap;
    EXPECT_TRUE(Shows(Process(), in_main, before_));
  };
  for (int round = 0; round < 6; round++) {
    InThreads(kThreads, [&](int thread) {
      Random random(100 * round + thread);
      const int steps = Scaled(6000);
      for (int i = 0; i < steps; i++) {
        Blocks& blocks = *(random.OneIn(2) ? main_blocks : heap_blocks)[thread];
        blocks.Step(random, 300, 200 * kKiB);
      }
    });
    check();
  }
  EXPECT_GT(Process().pages_abandoned.current, 0);
  EXPECT_GT(Process().pages_abandoned.total, 0);
  for (auto& blocks : main_blocks) blocks->FreeAll();
  for (auto& blocks : heap_blocks) blocks->FreeAll();
  check();
  mi_collect(true);
  mi_heap_collect(heap, true);
  check();
  EXPECT_EQ(Of(heap).pages.current, 0);
  mi_heap_destroy(heap);
}

TEST_F(StatsTest, ThreadsThatAreAliveButQuietAreInTheCounts) {
  constexpr int kThreads = 3;
  mi_heap_t* heap = mi_heap_new();
  {
    Worker workers[kThreads];
    std::vector<std::unique_ptr<Blocks>> blocks;
    for (int i = 0; i < 2 * kThreads; i++) blocks.push_back(std::make_unique<Blocks>(i % 2 ? heap : mi_heap_main()));
    Random random(77);
    for (int round = 0; round < Scaled(40); round++) {
      for (int t = 0; t < kThreads; t++) {
        workers[t].Start([&, t, round] {
          Random own(1000 * round + t);
          for (int i = 0; i < 600; i++) {
            blocks[2 * t + own.Below(2)]->Step(own, 400, 100 * kKiB);
          }
        });
      }
      for (Worker& worker : workers) worker.Wait();
      // Frees of others' blocks, also in full pages and in regions: not collected by their owners yet.
      for (int i = 0; i < 300; i++) {
        Blocks& from = *blocks[random.Below(blocks.size())];
        if (!from.empty()) from.Free(random);
      }
      Count in_main, in_heap;
      for (size_t i = 0; i < blocks.size(); i++) (i % 2 ? in_heap : in_main) += blocks[i]->count();
      ASSERT_TRUE(Shows(Of(mi_heap_main()), in_main, main_before_)) << "round " << round;
      ASSERT_TRUE(Shows(Of(heap), in_heap)) << "round " << round;
      in_main += in_heap;
      ASSERT_TRUE(Shows(Process(), in_main, before_)) << "round " << round;
    }
    for (auto& b : blocks) b->FreeAll();
  }
  mi_heap_destroy(heap);
}

// A block of a full page goes over the theap's delayed list, the next ones over the page's own; and a page that its
// owner takes off the full list meanwhile has one there still.
TEST_F(StatsTest, BlocksOfFullPagesThatOthersFreeAreNotLive) {
  for (size_t size : {size_t{64}, size_t{1000}, size_t{200} * kKiB}) {
    Worker owner;
    std::vector<void*> blocks;
    const int count = size > kClassMax ? 5 : 2000;
    owner.Run([&] {
      for (int i = 0; i < count; i++) blocks.push_back(mi_malloc(size));
    });
    const size_t bin = BinOf(BlockSize(blocks[0]));
    const int64_t other = Process().malloc_bins[bin].current - count;
    for (int i = 0; i < count; i++) {
      if (i % 3 == 1) {
        owner.Run([&] { mi_free(blocks[i]); });
      } else {
        mi_free(blocks[i]);
      }
      if (i % 50 == 0 || count - i < 10 || i < 10) {
        ASSERT_EQ(Process().malloc_bins[bin].current - other, count - i - 1) << size << ", block " << i;
      }
    }
  }
}

TEST_F(StatsTest, QueriesAreSafeWhileOthersAllocateAndEndHeaps) {
  constexpr int kThreads = 3;
  std::atomic<int> running{kThreads};
  std::vector<std::unique_ptr<Blocks>> main_blocks;
  std::vector<Count> ended(kThreads);
  mi_heap_t* shared = mi_heap_new();
  std::vector<std::unique_ptr<Blocks>> shared_blocks;
  for (int i = 0; i < kThreads; i++) {
    main_blocks.push_back(std::make_unique<Blocks>(mi_heap_main()));
    shared_blocks.push_back(std::make_unique<Blocks>(shared));
  }
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; t++) {
    threads.emplace_back([&, t] {
      Random random(t);
      const int rounds = Scaled(300);
      for (int round = 0; round < rounds; round++) {
        Blocks own(mi_heap_new());
        const size_t live = (round % 3 == 0 ? 500 : 20);
        for (int i = 0; i < 300; i++) {
          own.Step(random, live, 20 * kKiB);
          main_blocks[t]->Step(random, 200, 100 * kKiB);
          shared_blocks[t]->Step(random, 200, 20 * kKiB);
        }
        if (round % 4 == 0) {
          own.FreeAll();
          mi_heap_delete(own.heap());
          own.MoveTo(*main_blocks[t]);
        } else {
          mi_heap_destroy(own.heap());
          ended[t] += own.Drop();
        }
      }
      running--;
    });
  }
  int queries = 0;
  while (running > 0) {
    for (const mi_stats_t& stats : {Process(), Of(shared), Of(mi_heap_main())}) {
      for (size_t bin = 0; bin < kBins; bin++) {
        ASSERT_GE(stats.malloc_bins[bin].current, 0);
        ASSERT_LT(stats.malloc_bins[bin].current, 1000000);
      }
      ASSERT_LT(stats.malloc_normal.current, static_cast<int64_t>(kGiB));
    }
    queries++;
    if (queries % 16 == 0)
      mi_subproc_heap_stats_print_out(
          {nullptr}, [](const char*, void*) {}, nullptr);
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(queries, 0);
  Count all, in_shared;
  for (int i = 0; i < kThreads; i++) {
    all += main_blocks[i]->count();
    all += ended[i];
    in_shared += shared_blocks[i]->count();
  }
  EXPECT_TRUE(Shows(Of(shared), in_shared));
  all += in_shared;
  EXPECT_TRUE(Shows(Process(), all, before_));
  for (auto& blocks : main_blocks) blocks->FreeAll();
  mi_heap_destroy(shared);
}

// ---- what is not blocks ---------------------------------------------------------------------------------

TEST_F(StatsTest, HeapsAndThreadsAreCounted) {
  const mi_stats_t empty = Process();
  std::vector<mi_heap_t*> heaps;
  for (int i = 0; i < 3000; i++) heaps.push_back(mi_heap_new());
  EXPECT_EQ(Process().heaps.current, empty.heaps.current + 3000);
  for (int i = 0; i < 1000; i++) mi_heap_destroy(heaps[i]);
  for (int i = 1000; i < 2000; i++) mi_heap_delete(heaps[i]);
  EXPECT_EQ(Process().heaps.current, empty.heaps.current + 1000);
  for (int i = 2000; i < 3000; i++) mi_heap_destroy(heaps[i]);
  mi_stats_t stats = Process();
  EXPECT_EQ(stats.heaps.current, empty.heaps.current);
  EXPECT_EQ(stats.heaps.total, empty.heaps.total + 3000);
  EXPECT_GE(stats.heaps.peak, empty.heaps.current + 3000);

  Worker worker;
  mi_heap_t* heap = mi_heap_new();
  worker.Run([&] {
    mi_free(mi_malloc(10));
    mi_free(mi_heap_malloc(heap, 20 * kKiB));
  });
  stats = Process();
  EXPECT_EQ(stats.threads.current, empty.threads.current + 1);
  EXPECT_EQ(stats.theaps.current, empty.theaps.current + 2);
  EXPECT_EQ(Of(heap).theaps.current, 1);
  worker.Exit();
  stats = Process();
  EXPECT_EQ(stats.threads.current, empty.threads.current);
  EXPECT_EQ(stats.theaps.current, empty.theaps.current);
  EXPECT_EQ(stats.threads.total, empty.threads.total + 1);
  EXPECT_GE(stats.threads.peak, empty.threads.current + 1);
  mi_heap_destroy(heap);
}

TEST_F(StatsTest, MemoryIsCountedAsItIsTakenAndGivenBack) {
  mi_collect(true);
  const mi_stats_t empty = Process();
  EXPECT_GE(empty.arena_count.total, 1);
  EXPECT_GE(empty.mmap_calls.total, 1);
  EXPECT_GE(empty.reserved.current, static_cast<int64_t>(kMiB));
  constexpr int64_t kSize = 64 * kMiB;
  void* huge = mi_malloc(kSize);
  std::vector<void*> small;
  for (int i = 0; i < 1000; i++) small.push_back(mi_malloc(16 * kKiB));
  mi_stats_t stats = Process();
  const int64_t taken = kSize + 1000 * static_cast<int64_t>(16 * kKiB);
  EXPECT_GE(stats.committed.current, empty.committed.current + taken);
  EXPECT_LE(stats.committed.current, empty.committed.current + taken + 16 * static_cast<int64_t>(kMiB));
  EXPECT_GE(stats.committed.peak, stats.committed.current);
  EXPECT_GE(stats.segments.current, empty.segments.current + 16);
  EXPECT_GE(stats.page_committed.current, taken);
  EXPECT_GT(stats.chunk_bins[MI_CBIN_HUGE].current, 15);
  // Blocks of 16 KiB have pages of 512 KiB, or in the secure build of 64 KiB.
  EXPECT_GT(stats.chunk_bins[MI_CBIN_MEDIUM].current + stats.chunk_bins[MI_CBIN_OTHER].current +
                (kSecure ? stats.chunk_bins[MI_CBIN_SMALL].current : 0),
            0);
  int64_t chunks = 0;
  for (const mi_stat_count_t& chunk : stats.chunk_bins) chunks += chunk.current;
  EXPECT_EQ(chunks, stats.segments.current);

  mi_free(huge);
  for (void* p : small) mi_free(p);
  mi_collect(true);
  const mi_stats_t after = Process();
  EXPECT_LE(after.committed.current, empty.committed.current + static_cast<int64_t>(kMiB));
  EXPECT_GE(after.committed.peak, stats.committed.current);
  EXPECT_GE(after.purged.total, empty.purged.total + taken);
  EXPECT_GT(after.purge_calls.total, empty.purge_calls.total);
  EXPECT_GT(after.arena_purges.total, empty.arena_purges.total);
  EXPECT_EQ(after.segments.current, empty.segments.current);
  EXPECT_EQ(after.pages.current, empty.pages.current);
}

TEST_F(StatsTest, MemoryGivenBackLazilyIsCountedAsReset) {
  mi_option_set(mi_option_purge_decommits, 0);
  const mi_stats_t empty = Process();
  mi_free(mi_malloc(8 * kMiB));
  mi_collect(true);
  const mi_stats_t stats = Process();
  mi_option_set(mi_option_purge_decommits, 1);
  EXPECT_GT(stats.reset_calls.total, empty.reset_calls.total);
  EXPECT_GE(stats.reset.total + stats.purged.total, empty.reset.total + empty.purged.total + int64_t{8 * kMiB});
}

TEST_F(StatsTest, SlowPathsAreCounted) {
  const mi_stats_t empty = Process();
  std::vector<void*> blocks;
  for (int i = 0; i < 10000; i++) blocks.push_back(mi_malloc(96));
  mi_stats_t stats = Process();
  EXPECT_GE(stats.pages_extended.total, empty.pages_extended.total + 10000 / 64);
  EXPECT_GE(stats.page_searches_count.total, stats.pages_extended.total - empty.pages_extended.total);
  EXPECT_GT(stats.page_searches.total, empty.page_searches.total);
  for (void* p : blocks) mi_free(p);
  InThread([] { mi_free(mi_malloc(96)); });
  EXPECT_GT(Process().pages_retire.total, empty.pages_retire.total) << "a thread's last page is kept for a while";
  // Pages of a thread that ended: one by one they come to who allocates, or frees a block in one.
  std::vector<void*> left;
  InThread([&] {
    for (int i = 0; i < 10000; i++) left.push_back(mi_malloc(96));
  });
  stats = Process();
  EXPECT_GT(stats.pages_abandoned.current, 0);
  mi_free(left.back());
  left.pop_back();
  EXPECT_EQ(Process().pages_reclaim_on_free.total, stats.pages_reclaim_on_free.total + 1);
  for (int i = 0; i < 20000; i++) left.push_back(mi_malloc(96));
  EXPECT_GT(Process().pages_reclaim_on_alloc.total, stats.pages_reclaim_on_alloc.total);
  for (void* p : left) mi_free(p);
}

// ---- reset and merge ------------------------------------------------------------------------------------

TEST_F(StatsTest, AfterAResetTotalsCountFromThereAndPeaksFromWhatIsInUse) {
  void* kept = mi_malloc(1000);
  std::vector<void*> blocks;
  for (int i = 0; i < 5000; i++) blocks.push_back(mi_malloc(500));
  const mi_stats_t full = Process();
  for (void* p : blocks) mi_free(p);
  mi_collect(true);
  EXPECT_GE(Process().malloc_normal.peak, full.malloc_normal.current);
  mi_stats_reset();
  mi_stats_t stats = Process();
  EXPECT_EQ(stats.malloc_normal.total, 0);
  EXPECT_EQ(stats.malloc_normal_count.total, 0);
  EXPECT_EQ(stats.malloc_bins[BinOf(512)].total, 0);
  EXPECT_EQ(stats.pages_extended.total, 0);
  EXPECT_EQ(stats.mmap_calls.total, 0);
  EXPECT_EQ(stats.malloc_normal.current, full.malloc_normal.current - 5000 * 512);
  EXPECT_EQ(stats.malloc_normal.peak, stats.malloc_normal.current);
  EXPECT_EQ(stats.pages.peak, stats.pages.current);
  EXPECT_EQ(stats.committed.peak, stats.committed.current);
  mi_free(mi_malloc(500));
  stats = Process();
  EXPECT_EQ(stats.malloc_normal_count.total, 1);
  EXPECT_EQ(stats.malloc_bins[BinOf(512)].total, 1);
  mi_free(kept);
}

TEST_F(StatsTest, MergeNotesAPeakThatNoQuerySaw) {
  mi_collect(true);
  void* p = mi_malloc(50 * kMiB);
  mi_stats_merge();
  mi_free(p);
  mi_collect(true);
  EXPECT_GE(Process().malloc_huge.peak, static_cast<int64_t>(50 * kMiB));
  mi_stats_reset();
  p = mi_malloc(40 * kMiB);
  mi_free(p);
  EXPECT_LT(Process().malloc_huge.peak, static_cast<int64_t>(40 * kMiB)) << "nobody looked";
}

TEST_F(StatsTest, AHeapsTotalsStartAgainWhenTheSubprocessTookThemOver) {
  for (bool on_pages : {false, true}) {
    mi_heap_t* heap = mi_heap_new();
    Random random(9);
    Blocks blocks(heap);
    for (int i = 0; i < 2000; i++) blocks.Step(random, on_pages ? 1000 : 10, on_pages ? 100 * kKiB : 4 * kKiB);
    const mi_stats_t process = Process();
    const Count taken = blocks.count();
    mi_heap_stats_merge_to_subproc(heap);
    const auto minus_taken = [&](const Count& count) {
      Count result = count;
      for (size_t bin = 0; bin < kBins; bin++) result.made[bin] -= taken.made[bin];
      result.normal_bytes_made -= taken.normal_bytes_made;
      result.huge_bytes_made -= taken.huge_bytes_made;
      return result;
    };
    EXPECT_TRUE(Shows(Of(heap), minus_taken(blocks.count())));
    EXPECT_TRUE(Shows(Process(), Count(), CountOf(process)));
    // In place an object may change its bin after it was taken over: no resizing here.
    for (int i = 0; i < 2000; i++) {
      if (random.OneIn(2) || blocks.empty()) {
        blocks.Allocate(random, 4 * kKiB);
      } else {
        blocks.Free(random);
      }
    }
    EXPECT_TRUE(Shows(Of(heap), minus_taken(blocks.count())));
    mi_heap_destroy(heap);
  }
  // The main heap as well.
  const int64_t live = Of(mi_heap_main()).malloc_normal.current;
  mi_heap_stats_merge_to_subproc(mi_heap_main());
  EXPECT_EQ(Of(mi_heap_main()).malloc_normal_count.total, 0);
  EXPECT_EQ(Of(mi_heap_main()).malloc_normal.current, live);
  mi_free(mi_malloc(100));
  EXPECT_EQ(Of(mi_heap_main()).malloc_normal_count.total, 1);
}

// ---- the struct -----------------------------------------------------------------------------------------

TEST(StatsLayoutTest, FieldsAreInTheOrderOfTheInterface) {
  constexpr size_t kCount = 3 * sizeof(int64_t), kHead = 2 * sizeof(size_t);
#define EXPECT_AT(field, n) EXPECT_EQ(offsetof(mi_stats_t, field), kHead + (n)*kCount) << #field
  EXPECT_EQ(offsetof(mi_stats_t, size), 0u);
  EXPECT_EQ(offsetof(mi_stats_t, version), sizeof(size_t));
  EXPECT_AT(pages, 0);
  EXPECT_AT(reserved, 1);
  EXPECT_AT(committed, 2);
  EXPECT_AT(page_committed, 3);
  EXPECT_AT(pages_abandoned, 4);
  EXPECT_AT(threads, 5);
  EXPECT_AT(malloc_normal, 6);
  EXPECT_AT(malloc_huge, 7);
  EXPECT_AT(malloc_requested, 8);
  EXPECT_AT(segments, 9);
  EXPECT_AT(segments_abandoned, 10);
  EXPECT_AT(segments_cache, 11);
  EXPECT_AT(heaps, 12);
  EXPECT_AT(theaps, 13);
#undef EXPECT_AT
#define EXPECT_AT(field, n) \
  EXPECT_EQ(offsetof(mi_stats_t, field), kHead + 14 * kCount + (n) * sizeof(int64_t)) << #field
  EXPECT_AT(reset, 0);
  EXPECT_AT(purged, 1);
  EXPECT_AT(mmap_calls, 2);
  EXPECT_AT(commit_calls, 3);
  EXPECT_AT(reset_calls, 4);
  EXPECT_AT(purge_calls, 5);
  EXPECT_AT(arena_count, 6);
  EXPECT_AT(malloc_normal_count, 7);
  EXPECT_AT(malloc_huge_count, 8);
  EXPECT_AT(malloc_guarded_count, 9);
  EXPECT_AT(arena_rollback_count, 10);
  EXPECT_AT(arena_purges, 11);
  EXPECT_AT(pages_extended, 12);
  EXPECT_AT(pages_retire, 13);
  EXPECT_AT(page_searches, 14);
  EXPECT_AT(page_searches_count, 15);
  EXPECT_AT(pages_reclaim_on_alloc, 16);
  EXPECT_AT(pages_reclaim_on_free, 17);
  EXPECT_AT(pages_reabandon_full, 18);
  EXPECT_AT(pages_unabandon_busy_wait, 19);
  EXPECT_AT(heaps_delete_wait, 20);
  EXPECT_AT(malloc_bins, 21);
#undef EXPECT_AT
  const size_t bins = kHead + 14 * kCount + 21 * sizeof(int64_t);
  EXPECT_EQ(offsetof(mi_stats_t, page_bins), bins + 74 * kCount);
  EXPECT_EQ(offsetof(mi_stats_t, chunk_bins), bins + 2 * 74 * kCount);
  EXPECT_EQ(MI_STAT_VERSION, 5);
}

TEST(StatsLayoutTest, ACProgramSeesTheSameStruct) {
  EXPECT_EQ(stats_header_size(), sizeof(mi_stats_t));
  EXPECT_EQ(stats_header_last_offset(), offsetof(mi_stats_t, chunk_bins));
  void* p = mi_malloc(100);
  mi_stats_t stats;
  ASSERT_TRUE(stats_header_query(&stats));
  EXPECT_EQ(stats.malloc_normal.current, Process().malloc_normal.current);
  mi_free(p);
}

TEST(StatsLayoutTest, BinsGrowAndCoverEverySize) {
  EXPECT_EQ(mi_stats_get_bin_size(0), 0u);
  EXPECT_EQ(mi_stats_get_bin_size(1), 8u);
  for (size_t bin = 1; bin < kBins; bin++) {
    EXPECT_GT(mi_stats_get_bin_size(bin), mi_stats_get_bin_size(bin - 1)) << bin;
  }
  EXPECT_EQ(mi_stats_get_bin_size(72), kClassMax);
  EXPECT_EQ(mi_stats_get_bin_size(73), static_cast<size_t>(PTRDIFF_MAX));
  EXPECT_EQ(mi_stats_get_bin_size(74), 0u);
  EXPECT_EQ(mi_stats_get_bin_size(SIZE_MAX), 0u);
}

TEST(StatsRefusalTest, AnotherSizeOrVersionIsRefusedAndNothingFilledIn) {
  ErrorRecorder recorder;
  mi_heap_t* heap = mi_heap_new();
  const auto refused = [&](mi_stats_t& stats) {
    const mi_stats_t copy = stats;
    const mi_subproc_id_t subproc = {nullptr};
    int refusals = 0;
    refusals += !mi_stats_get(&stats);
    refusals += !mi_heap_stats_get(heap, &stats);
    refusals += !mi_subproc_stats_get(subproc, &stats);
    refusals += !mi_subproc_stats_get_exclusive(subproc, &stats);
    errno = 0;
    refusals += mi_stats_as_json(&stats, 0, nullptr) == nullptr && errno == EINVAL;
    return refusals == 5 && memcmp(&copy, &stats, sizeof(stats)) == 0;
  };
  mi_stats_t_decl(smaller);
  smaller.size -= sizeof(int64_t);
  EXPECT_TRUE(refused(smaller));
  mi_stats_t_decl(larger);
  larger.size += sizeof(int64_t);
  EXPECT_TRUE(refused(larger));
  mi_stats_t_decl(older);
  older.version--;
  EXPECT_TRUE(refused(older));
  mi_stats_t zero = mi_stats_t();
  EXPECT_TRUE(refused(zero));
  EXPECT_EQ(recorder.count(EINVAL), 20);
  EXPECT_FALSE(mi_stats_get(nullptr));
  EXPECT_EQ(recorder.count(EINVAL), 21);
  mi_heap_destroy(heap);
}

TEST(StatsRefusalTest, NoHeapAnEndedHeapAndAnUnknownSubprocessAreRefused) {
  ErrorRecorder recorder;
  mi_stats_t_decl(stats);
  EXPECT_FALSE(mi_heap_stats_get(nullptr, &stats));
  EXPECT_EQ(mi_heap_stats_get_json(nullptr, 0, nullptr), nullptr);
  mi_heap_stats_print_out(
      nullptr, [](const char*, void*) { FAIL(); }, nullptr);
  mi_heap_stats_merge_to_subproc(nullptr);
  EXPECT_EQ(recorder.count(EINVAL), 4);
  recorder.Forget();
  mi_heap_t* heap = mi_heap_new();
  mi_heap_destroy(heap);
  heap = Opaque(heap);
  EXPECT_FALSE(mi_heap_stats_get(heap, &stats));
  EXPECT_EQ(recorder.count(EFAULT), 1);
  recorder.Forget();
  const mi_subproc_id_t unknown = {&stats};
  EXPECT_FALSE(mi_subproc_stats_get(unknown, &stats));
  EXPECT_FALSE(mi_subproc_stats_get_exclusive(unknown, &stats));
  EXPECT_EQ(mi_subproc_stats_get_json(unknown, 0, nullptr), nullptr);
  mi_subproc_stats_print_out(
      unknown, [](const char*, void*) { FAIL(); }, nullptr);
  mi_subproc_heap_stats_print_out(
      unknown, [](const char*, void*) { FAIL(); }, nullptr);
  EXPECT_EQ(recorder.count(EINVAL), 5);
}

TEST_F(StatsTest, TheSubprocessIsTheProcessAndExclusiveMeansWithoutTheBlocksOfHeaps) {
  mi_heap_t* heap = mi_heap_new();
  void* p = mi_heap_malloc(heap, 100);
  void* q = mi_malloc(100);
  const mi_subproc_id_t subproc = {nullptr};
  mi_stats_t_decl(stats);
  ASSERT_TRUE(mi_subproc_stats_get(subproc, &stats));
  EXPECT_TRUE(Shows(stats, CountOf(Process())));
  ASSERT_TRUE(mi_subproc_stats_get_exclusive(subproc, &stats));
  EXPECT_EQ(stats.malloc_normal.current, 0);
  EXPECT_EQ(stats.malloc_bins[BinOf(112)].current, 0);
  EXPECT_EQ(stats.committed.current, Process().committed.current);
  mi_free(p);
  mi_free(q);
  mi_heap_destroy(heap);
}

// ---- text -----------------------------------------------------------------------------------------------

struct JsonDelete {
  void operator()(cJSON* json) const { cJSON_Delete(json); }
};
using Json = std::unique_ptr<cJSON, JsonDelete>;

// cJSON's numbers are doubles: exact up to 2^53, which no figure here reaches.
int64_t Number(const cJSON* object, const char* name) {
  const cJSON* item = cJSON_GetObjectItemCaseSensitive(object, name);
  EXPECT_TRUE(cJSON_IsNumber(item)) << name;
  return item == nullptr ? -1 : static_cast<int64_t>(item->valuedouble);
}

void ExpectCount(const cJSON* item, const mi_stat_count_t& count, const char* name) {
  EXPECT_EQ(Number(item, "total"), count.total) << name;
  EXPECT_EQ(Number(item, "peak"), count.peak) << name;
  EXPECT_EQ(Number(item, "current"), count.current) << name;
}

void ExpectJson(const char* text, const mi_stats_t& stats) {
  ASSERT_NE(text, nullptr);
  Json json(cJSON_Parse(text));
  ASSERT_NE(json, nullptr) << text;
  EXPECT_EQ(Number(json.get(), "size"), static_cast<int64_t>(sizeof(mi_stats_t)));
  EXPECT_EQ(Number(json.get(), "version"), MI_STAT_VERSION);
  int fields = 5;  // size, version and three arrays
#define EXPECT_COUNT(name)                                                             \
  ExpectCount(cJSON_GetObjectItemCaseSensitive(json.get(), #name), stats.name, #name); \
  fields++;
#define EXPECT_COUNTER(name)                                       \
  EXPECT_EQ(Number(json.get(), #name), stats.name.total) << #name; \
  fields++;
  EXPECT_COUNT(pages)
  EXPECT_COUNT(reserved)
  EXPECT_COUNT(committed)
  EXPECT_COUNT(page_committed)
  EXPECT_COUNT(pages_abandoned)
  EXPECT_COUNT(threads)
  EXPECT_COUNT(malloc_normal)
  EXPECT_COUNT(malloc_huge)
  EXPECT_COUNT(malloc_requested)
  EXPECT_COUNT(segments)
  EXPECT_COUNT(segments_abandoned)
  EXPECT_COUNT(segments_cache)
  EXPECT_COUNT(heaps)
  EXPECT_COUNT(theaps)
  EXPECT_COUNTER(reset)
  EXPECT_COUNTER(purged)
  EXPECT_COUNTER(mmap_calls)
  EXPECT_COUNTER(commit_calls)
  EXPECT_COUNTER(reset_calls)
  EXPECT_COUNTER(purge_calls)
  EXPECT_COUNTER(arena_count)
  EXPECT_COUNTER(malloc_normal_count)
  EXPECT_COUNTER(malloc_huge_count)
  EXPECT_COUNTER(malloc_guarded_count)
  EXPECT_COUNTER(arena_rollback_count)
  EXPECT_COUNTER(arena_purges)
  EXPECT_COUNTER(pages_extended)
  EXPECT_COUNTER(pages_retire)
  EXPECT_COUNTER(page_searches)
  EXPECT_COUNTER(page_searches_count)
  EXPECT_COUNTER(pages_reclaim_on_alloc)
  EXPECT_COUNTER(pages_reclaim_on_free)
  EXPECT_COUNTER(pages_reabandon_full)
  EXPECT_COUNTER(pages_unabandon_busy_wait)
  EXPECT_COUNTER(heaps_delete_wait)
#undef EXPECT_COUNT
#undef EXPECT_COUNTER
  EXPECT_EQ(cJSON_GetArraySize(json.get()), fields);
  const struct {
    const char* name;
    const mi_stat_count_t* bins;
    size_t count;
  } arrays[] = {{"malloc_bins", stats.malloc_bins, kBins},
                {"page_bins", stats.page_bins, kBins},
                {"chunk_bins", stats.chunk_bins, MI_CBIN_COUNT}};
  for (const auto& array : arrays) {
    const cJSON* items = cJSON_GetObjectItemCaseSensitive(json.get(), array.name);
    ASSERT_EQ(cJSON_GetArraySize(items), static_cast<int>(array.count)) << array.name;
    for (size_t i = 0; i < array.count; i++) {
      const cJSON* item = cJSON_GetArrayItem(items, static_cast<int>(i));
      ExpectCount(item, array.bins[i], array.name);
      if (array.count != kBins) continue;
      EXPECT_EQ(cJSON_GetObjectItemCaseSensitive(item, "block_size")->valuedouble,
                static_cast<double>(mi_stats_get_bin_size(i)));
    }
  }
}

// Makes all kinds of figures differ from 0.
class JsonTest : public ::testing::Test {
 protected:
  void SetUp() override {
    heap_ = mi_heap_new();
    for (int i = 0; i < 2000; i++) blocks_.push_back(mi_heap_malloc(heap_, static_cast<size_t>(i) * 40));
    InThread([&] { blocks_.push_back(mi_malloc(5 * kMiB)); });
  }
  void TearDown() override {
    for (void* p : blocks_) mi_free(p);
    mi_heap_destroy(heap_);
  }
  mi_heap_t* heap_;
  std::vector<void*> blocks_;
};

TEST_F(JsonTest, ItSaysWhatTheStructSays) {
  mi_stats_t stats = Process();
  char* text = mi_stats_as_json(&stats, 0, nullptr);
  ExpectJson(text, stats);
  EXPECT_TRUE(mi_heap_contains(mi_heap_main(), text)) << "allocated with mi_malloc";
  mi_free(text);
  stats = Of(heap_);
  text = mi_heap_stats_get_json(heap_, 0, nullptr);
  ExpectJson(text, stats);
  mi_free(text);
  for (int64_t* word = &stats.pages.total; word < reinterpret_cast<int64_t*>(&stats + 1); word++) {
    *word = (word - &stats.pages.total) * 1000003;
  }
  text = mi_stats_as_json(&stats, 0, nullptr);
  ExpectJson(text, stats);
  mi_free(text);
}

TEST_F(JsonTest, ItIsWrittenToABufferThatIsLargeEnough) {
  static char buffer[24 * 1024];
  mi_stats_t stats = Process();
  ASSERT_EQ(mi_stats_get_json(sizeof(buffer), buffer), buffer);
  ExpectJson(buffer, stats);
  ASSERT_EQ(mi_subproc_stats_get_json({nullptr}, sizeof(buffer), buffer), buffer);
  ExpectJson(buffer, stats);
  stats = Of(heap_);
  ASSERT_EQ(mi_heap_stats_get_json(heap_, sizeof(buffer), buffer), buffer);
  ExpectJson(buffer, stats);

  const size_t length = strlen(buffer);
  std::vector<char> exact(length + 2, 'x');
  EXPECT_EQ(mi_stats_as_json(&stats, length + 1, exact.data()), exact.data());
  EXPECT_STREQ(exact.data(), buffer);
  EXPECT_EQ(exact[length + 1], 'x');
  for (size_t size : {length, length / 2, size_t{1}, size_t{0}}) {
    std::fill(exact.begin(), exact.end(), 'x');
    errno = 0;
    EXPECT_EQ(mi_stats_as_json(&stats, size, exact.data()), nullptr);
    EXPECT_EQ(errno, ERANGE);
    EXPECT_EQ(exact[size], 'x') << "written beyond the buffer";
  }
}

TEST_F(JsonTest, TheLongestTextFitsTheSizeThatIsPromised) {
  mi_stats_t_decl(stats);
  for (int64_t* word = &stats.pages.total; word < reinterpret_cast<int64_t*>(&stats + 1); word++) *word = INT64_MIN;
  static char buffer[24 * 1024];
  EXPECT_EQ(mi_stats_as_json(&stats, sizeof(buffer), buffer), buffer);
}

TEST(PrintTest, EveryGroupIsThere) {
  std::string text;
  const auto append = [](const char* line, void* arg) { *static_cast<std::string*>(arg) += line; };
  mi_heap_config_t config = {};
  config.size = sizeof(config);
  config.name = "tables";
  mi_heap_t* heap = mi_heap_new_with(&config);
  void* p = mi_heap_malloc(heap, 1000);
  void* q = mi_malloc(100);
  mi_stats_print_out(append, &text);
  for (const char* word : {"statistics of the process", "memory", "blocks", "pages", "heaps and threads",
                           "system calls", "slow paths", "blocks by size", "segments by use", "  committed",
                           "  malloc_normal", "  112 B", "  mmap_calls", "  page_searches_count", "  64 KiB pages"}) {
    EXPECT_NE(text.find(word), std::string::npos) << word << " is missing in:\n" << text;
  }
  text.clear();
  mi_heap_stats_print_out(heap, append, &text);
  EXPECT_NE(text.find("tables"), std::string::npos) << text;
  EXPECT_NE(text.find("  1024 B                                1            1            1"), std::string::npos)
      << text;
  text.clear();
  mi_thread_stats_print_out(append, &text);
  EXPECT_NE(text.find("statistics of the calling thread"), std::string::npos) << text;
  EXPECT_NE(text.find("slow paths"), std::string::npos) << text;
  text.clear();
  mi_subproc_stats_print_out({nullptr}, append, &text);
  EXPECT_NE(text.find("statistics of the process"), std::string::npos) << text;
  text.clear();
  mi_subproc_heap_stats_print_out({nullptr}, append, &text);
  EXPECT_NE(text.find("tables"), std::string::npos) << text;
  EXPECT_NE(text.find(" main\n"), std::string::npos) << text;
  mi_free(p);
  mi_free(q);
  mi_heap_destroy(heap);
}

TEST(PrintTest, WithoutAFunctionItGoesToTheRegisteredOutput) {
  ErrorRecorder recorder;
  mi_stats_print(nullptr);
  EXPECT_NE(recorder.text().find("statistics of the process"), std::string::npos);
  EXPECT_NE(recorder.text().find("blocks by size"), std::string::npos);
  recorder.Forget();
  mi_thread_stats_print_out(nullptr, nullptr);
  EXPECT_NE(recorder.text().find("calling thread"), std::string::npos);
}

// Runs in a process of its own, see below.
TEST(ExitTest, DISABLED_Child) {
  mi_heap_t* heap = mi_heap_new();
  for (int i = 0; i < 7; i++) ASSERT_NE(mi_heap_malloc(heap, 3000), nullptr);
  mi_heap_destroy(heap);
}

std::string OutputOfChild(const char* setting) {
  int ends[2];
  if (pipe(ends) != 0) return "";
  const pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], 2);
    close(ends[0]);
    char name[] = "stats_test", filter[] = "--gtest_filter=ExitTest.DISABLED_Child";
    char disabled[] = "--gtest_also_run_disabled_tests";
    std::string variable = setting;
    char* arguments[] = {name, filter, disabled, nullptr};
    char* variables[] = {variable.data(), nullptr};
    execve("/proc/self/exe", arguments, variables);
    _exit(127);
  }
  close(ends[1]);
  std::string text;
  char buffer[4096];
  for (ssize_t n; (n = read(ends[0], buffer, sizeof(buffer))) > 0;) text.append(buffer, n);
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  return text;
}

TEST(ExitTest, ShowStatsPrintsAtExitAndCountsWhatWasDestroyed) {
  const std::string text = OutputOfChild("MIMALLOC_SHOW_STATS=1");
  EXPECT_NE(text.find("statistics of the process"), std::string::npos) << text;
  EXPECT_NE(text.find("  3072 B                                0            0            7"), std::string::npos)
      << text;
  EXPECT_EQ(OutputOfChild("MIMALLOC_SHOW_STATS=0"), "");
}

}  // namespace
}  // namespace mi_test
