// Refusals of the system: mmap, madvise, munmap or mprotect fail, from the Kth of the library's calls on, only the Kth,
// or now and then. The linker sends the library's calls through the functions below (--wrap), so that nothing in the
// library knows of it. Each case runs in a child process: a workload of blocks and heaps on several threads while the
// fault lasts, then everything is looked at, freed, and asked for again. What is required: NULL with ENOMEM or success,
// no block changed or handed out twice, zeroed memory zero, and after the fault nothing missing.
#include <stdarg.h>
#include <sys/mman.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "mi/heap/heap.h"
#include "mi/mimalloc-stats.h"
#include "mi/mimalloc.h"
#include "tests/internal/probe.h"
#include "tests/test_support.h"

namespace mi_test {
namespace {

// ---- the faults -----------------------------------------------------------------------------------------

enum Call { kMmap, kMadvise, kMunmap, kMprotect, kCalls };
const char* const kCallNames[] = {"mmap", "madvise", "munmap", "mprotect", "every call"};
enum Mode { kFromKth, kOnlyKth, kNowAndThen };
const char* const kModeNames[] = {"from the Kth on", "only the Kth", "three in ten"};

struct Injector {
  std::atomic<bool> on{false};
  int call = kCalls;  // kCalls: all of them
  Mode mode = kFromKth;
  uint64_t k = 0;  // counted from 1; the seed of kNowAndThen
  std::atomic<uint64_t> seen[kCalls];
  std::atomic<uint64_t> failed{0};
  std::atomic<int64_t> mapped{0};  // bytes of address space that the library has

  bool Fails(Call which) {
    const uint64_t n = seen[which].fetch_add(1) + 1;
    if (!on.load() || (call != kCalls && call != which)) return false;
    const bool fails = mode == kFromKth ? n >= k : mode == kOnlyKth ? n == k : Mix(k * 1000003 + n) % 10 < 3;
    if (fails) failed++;
    return fails;
  }
};
Injector injector;

}  // namespace
}  // namespace mi_test

using mi_test::injector;

extern "C" {
void* __real_mmap(void* start, size_t size, int protection, int flags, int file, off_t offset);
int __real_madvise(void* start, size_t size, int advice);
int __real_munmap(void* start, size_t size);
int __real_mprotect(void* start, size_t size, int protection);

void* __wrap_mmap(void* start, size_t size, int protection, int flags, int file, off_t offset) {
  if (injector.Fails(mi_test::kMmap)) {
    errno = ENOMEM;
    return MAP_FAILED;
  }
  void* const result = __real_mmap(start, size, protection, flags, file, offset);
  if (result != MAP_FAILED) injector.mapped += static_cast<int64_t>((size + 4095) & ~size_t{4095});
  return result;
}
int __wrap_madvise(void* start, size_t size, int advice) {
  if (injector.Fails(mi_test::kMadvise)) {
    errno = EINVAL;
    return -1;
  }
  return __real_madvise(start, size, advice);
}
int __wrap_munmap(void* start, size_t size) {
  if (injector.Fails(mi_test::kMunmap)) {
    errno = ENOMEM;
    return -1;
  }
  const int result = __real_munmap(start, size);
  if (result == 0) injector.mapped -= static_cast<int64_t>((size + 4095) & ~size_t{4095});
  return result;
}
int __wrap_mprotect(void* start, size_t size, int protection) {
  if (injector.Fails(mi_test::kMprotect)) {
    errno = ENOMEM;
    return -1;
  }
  return __real_mprotect(start, size, protection);
}
}  // extern "C"

namespace mi_test {
namespace {

// ---- checks in a child --------------------------------------------------------------------------------------

// The child ends at the first breach, with a line that says what was breached.
[[noreturn]] void Breach(int line, const char* what) {
  char text[300];
  const int n = snprintf(text, sizeof(text), "line %d: %s (%llu calls failed)\n", line, what,
                         static_cast<unsigned long long>(injector.failed.load()));
  if (write(STDERR_FILENO, text, static_cast<size_t>(n)) < 0) abort();
  _exit(1);
}
#define REQUIRE(condition) ((condition) ? void() : Breach(__LINE__, #condition))

// Small blocks are filled wholly, of larger ones the first and last 4 KiB and a word per MiB: the address space of
// many large blocks costs nothing, their memory would.
template <typename Visit>
void ForEachSpan(size_t size, Visit visit) {
  const size_t page = 4 * kKiB;
  if (size <= 4 * page) {
    visit(size_t{0}, size);
    return;
  }
  visit(size_t{0}, page);
  for (size_t at = kMiB; at + page < size - page; at += kMiB) visit(at, at + 8);
  visit(size - page, size);
}

class Blocks {
 public:
  struct Block {
    uint8_t* at;
    size_t size;
    uint64_t seed;
    mi_heap_t* heap;  // nullptr: the main heap
  };

  explicit Blocks(uint64_t seed) : random_(seed), seed_(seed << 32) {}

  // Enters a block that was just obtained; NULL is for when faults are on, and means ENOMEM.
  void Enter(void* p, size_t size, mi_heap_t* heap, bool zero, size_t alignment = 1, size_t offset = 0) {
    if (p == nullptr) {
      REQUIRE(injector.on.load());
      REQUIRE(errno == ENOMEM);
      refused_++;
      return;
    }
    REQUIRE(IsAligned(p, alignment, offset));
    REQUIRE(mi_usable_size(p) >= size);
    uint8_t* const at = static_cast<uint8_t*>(p);
    if (zero) ForEachSpan(size, [&](size_t from, size_t to) { REQUIRE(FindOther(at, from, to, 0) == to); });
    const uint64_t seed = ++seed_;
    ForEachSpan(size, [&](size_t from, size_t to) { FillBytes(at, from, to, seed); });
    blocks_.push_back({at, size, seed, heap});
  }

  void Check(const Block& b, size_t size) const {
    if (size < b.size) {
      REQUIRE(FindDifference(b.at, 0, std::min(size, 4 * kKiB), b.seed) == std::min(size, 4 * kKiB));
    } else {
      ForEachSpan(b.size, [&](size_t from, size_t to) { REQUIRE(FindDifference(b.at, from, to, b.seed) == to); });
    }
  }
  void CheckAll() const {
    for (const Block& b : blocks_) {
      Check(b, b.size);
      REQUIRE(mi_usable_size(b.at) >= b.size);
    }
  }

  void Allocate(mi_heap_t* heap, size_t size) {
    errno = 0;
    switch (random_.Below(4)) {
      case 0:
        Enter(heap == nullptr ? mi_calloc(1, size) : mi_heap_calloc(heap, 1, size), size, heap, true);
        break;
      case 1: {
        const size_t alignment = size_t{1} << random_.Below(random_.OneIn(8) ? 24 : 13);
        const size_t offset = random_.OneIn(2) ? 0 : 8 * random_.Below(100);
        Enter(heap == nullptr ? mi_zalloc_aligned_at(size, alignment, offset)
                              : mi_heap_zalloc_aligned_at(heap, size, alignment, offset),
              size, heap, true, alignment, offset);
        break;
      }
      default:
        Enter(heap == nullptr ? mi_malloc(size) : mi_heap_malloc(heap, size), size, heap, false);
    }
  }

  void Resize(size_t i, size_t size) {
    Block b = blocks_[i];
    errno = 0;
    uint8_t* const p =
        static_cast<uint8_t*>(random_.OneIn(2) ? mi_realloc(b.at, size) : mi_realloc_aligned(b.at, size, 64));
    if (p == nullptr) {  // the block is as it was
      REQUIRE(injector.on.load());
      REQUIRE(errno == ENOMEM);
      Check(b, b.size);
      return;
    }
    b.at = p;
    Check(b, size);
    b.size = size;
    ForEachSpan(size, [&](size_t from, size_t to) { FillBytes(p, from, to, b.seed); });
    blocks_[i] = b;
  }

  void Free(size_t i) {
    Check(blocks_[i], blocks_[i].size);
    errno = 77;
    mi_free(blocks_[i].at);
    REQUIRE(errno == 77);
    blocks_[i] = blocks_.back();
    blocks_.pop_back();
  }
  void FreeAll() {
    while (!blocks_.empty()) Free(blocks_.size() - 1);
  }
  void FreeSome(size_t one_in) {
    for (size_t i = blocks_.size(); i-- > 0;) {
      if (random_.OneIn(one_in)) Free(i);
    }
  }
  // The heap was destroyed or reset: its blocks are gone. With `into`: they belong to that heap now.
  void Drop(mi_heap_t* heap) {
    for (size_t i = blocks_.size(); i-- > 0;) {
      if (blocks_[i].heap != heap) continue;
      blocks_[i] = blocks_.back();
      blocks_.pop_back();
    }
  }
  void Move(mi_heap_t* heap, mi_heap_t* into) {
    for (Block& b : blocks_) {
      if (b.heap == heap) b.heap = into;
    }
  }
  void Take(Blocks& other) {
    blocks_.insert(blocks_.end(), other.blocks_.begin(), other.blocks_.end());
    other.blocks_.clear();
  }

  // A mix of everything, in the main heap and `heap`.
  void Mixed(mi_heap_t* heap, int operations, size_t largest) {
    for (int i = 0; i < operations; i++) {
      mi_heap_t* const where = heap != nullptr && random_.OneIn(2) ? heap : nullptr;
      const size_t what = random_.Below(10);
      if (what < 6 || blocks_.empty()) {
        Allocate(where, RandomSize(random_, largest));
      } else if (what < 8) {
        Free(random_.Below(blocks_.size()));
      } else {
        Resize(random_.Below(blocks_.size()), RandomSize(random_, largest));
      }
    }
  }

  size_t refused() const { return refused_; }
  void ForgetRefusals() { refused_ = 0; }
  size_t count() const { return blocks_.size(); }
  Random& random() { return random_; }

 private:
  std::vector<Block> blocks_;
  Random random_;
  uint64_t seed_;
  size_t refused_ = 0;
};

mi_heap_t* NewHeap() {
  errno = 0;
  mi_heap_t* const heap = mi_heap_new();
  if (heap == nullptr) REQUIRE(injector.on.load() && errno == ENOMEM);
  return heap;
}

// Visits the heap: memory for the visit comes straight from the system.
void Visit(mi_heap_t* heap) {
  if (heap == nullptr) return;
  errno = 0;
  const bool all = mi_heap_visit_blocks(
      heap, true, [](const mi_heap_t*, const mi_heap_area_t*, void*, size_t, void*) { return true; }, nullptr);
  if (!all) REQUIRE(injector.on.load() && errno == ENOMEM);
}

// One round of everything. Everything that it made is gone when it returns.
void Workload(uint64_t seed, int scale) {
  Blocks mine(seed);
  mine.Mixed(nullptr, 60 * scale, kMiB);

  // Heaps that two threads use at the same time; each leaves blocks there and in the main heap, and ends.
  mi_heap_t* shared = NewHeap();
  mi_heap_t* doomed = NewHeap();
  Blocks left[2] = {Blocks(seed * 7 + 1), Blocks(seed * 7 + 2)};
  {
    Barrier barrier(3);
    std::thread threads[2];
    for (int t = 0; t < 2; t++) {
      threads[t] = std::thread([&, t] {
        left[t].Mixed(shared, 40 * scale, 100 * kKiB);
        if (doomed != nullptr) {
          for (int i = 0; i < 40; i++) left[t].Allocate(doomed, 2000 + 100 * i);
        }
        barrier.Arrive();
        barrier.Arrive();
        mi_heap_t* own = NewHeap();
        left[t].Mixed(own, 40 * scale, 64 * kKiB);
        if (own != nullptr) {
          if (t == 0) {
            left[t].Drop(own);
            mi_heap_destroy(own);
          } else {
            left[t].Move(own, nullptr);
            mi_heap_delete(own);
          }
        }
      });
    }
    barrier.Arrive();
    // Blocks of threads that live: full pages learn of it through the delayed list.
    for (Blocks& of_thread : left) of_thread.FreeSome(3);
    mine.Take(left[0]);
    mine.Take(left[1]);
    barrier.Arrive();
    for (std::thread& thread : threads) thread.join();
  }
  mine.Take(left[0]);
  mine.Take(left[1]);
  if (doomed != nullptr) {
    mine.Drop(doomed);
    mi_heap_destroy(doomed);
  }

  // Segment after segment: each is made writable when it is needed.
  for (int i = 0; i < 200; i++) {
    errno = 0;
    mine.Enter(mi_malloc(3 * kMiB), 64, nullptr, false);  // more would only take time
  }
  for (size_t size : {5 * kMiB, 20 * kMiB, 64 * kMiB}) mine.Allocate(shared, size);
  for (size_t alignment : {64 * kKiB, kMiB, 4 * kMiB, 8 * kMiB}) {
    errno = 0;
    mine.Enter(mi_malloc_aligned(100000, alignment), 100000, nullptr, false, alignment);
    errno = 0;
    mine.Enter(mi_zalloc_aligned_at(5 * kMiB, alignment, 24), 5 * kMiB, nullptr, true, alignment, 24);
  }
  mine.FreeSome(2);
  mi_collect(true);

  for (int i = 0; i < 105; i++) Visit(shared);
  mi_heap_t* merged = NewHeap();
  if (merged != nullptr && shared != nullptr) {
    mine.Mixed(merged, 60 * scale, 100 * kKiB);
    mi_heap_merge(merged, shared);
    mine.Move(merged, shared);
  } else if (merged != nullptr) {
    mi_heap_destroy(merged);
  }
  if (shared != nullptr) {
    mine.Mixed(shared, 40 * scale, 100 * kKiB);
    if (seed % 2 == 0) {
      mine.Drop(shared);
      mi_heap_reset(shared);
    }
    mine.Mixed(shared, 40 * scale, 30000);
  }
  mi_heap_t* const aside = NewHeap();
  if (aside != nullptr) {
    mine.Mixed(aside, 30 * scale, 30000);
    mine.Move(aside, nullptr);
    mi_heap_delete(aside);
  }
  mine.CheckAll();
  if (shared != nullptr) {
    mine.Drop(shared);
    mi_heap_destroy(shared);
  }
  for (int i = 0; i < 100 * scale; i++) {  // zero where something else was
    mine.Allocate(nullptr, RandomSize(mine.random(), 200 * kKiB));
    if (mine.count() > 0) mine.Free(mine.random().Below(mine.count()));
  }
  mine.FreeAll();
}

// Nothing is live: what the library holds.
struct Held {
  size_t segments = 0;  // in use
  size_t lost = 0;      // segments of huge blocks whose guards the system did not take away: they stay
  size_t slices = 0;    // of pages
  size_t backed = 0;    // free slices that may have memory behind them
  size_t resident = 0;  // OS pages of free slices that have
  size_t arenas = 0;    // bytes
  int64_t mapped = 0;   // bytes
};

// How many OS pages of these slices of a segment are in memory.
size_t ResidentPages(uint8_t* segment, uint64_t slices) {
  unsigned char pages[1024];
  REQUIRE(mincore(segment, 4 * kMiB, pages) == 0);
  size_t count = 0;
  for (size_t i = 0; i < 1024; i++) count += (slices >> (i / 16) & 1) != 0 && (pages[i] & 1) != 0;
  return count;
}

Held Look() {
  Held held;
  for (size_t a = 0; a < probe_arena_count(); a++) {
    const probe_arena_t arena = probe_arena(a);
    held.arenas += arena.segment_count * 4 * kMiB;
    for (size_t i = 0; i < arena.ready; i++) {
      const probe_segment_t s = probe_segment(a, i);
      if (s.kind == PROBE_SEGMENT_PRIVATE) continue;
      if (kSecure && (s.kind == PROBE_SEGMENT_HUGE_START || s.kind == PROBE_SEGMENT_HUGE_INSIDE)) {
        held.lost++;
        continue;
      }
      REQUIRE(s.kind == PROBE_SEGMENT_NORMAL || s.kind == PROBE_SEGMENT_UNUSED);
      REQUIRE(s.unused == (s.kind == PROBE_SEGMENT_UNUSED));
      if (s.kind == PROBE_SEGMENT_NORMAL) {
        held.segments++;
        held.slices += 63 - static_cast<size_t>(__builtin_popcountll(s.free));
        held.backed += static_cast<size_t>(__builtin_popcountll(s.free & s.backed));
        held.resident += ResidentPages(s.start, s.free);
      } else {
        REQUIRE(s.free == 0);
        held.backed += static_cast<size_t>(__builtin_popcountll(s.backed));
        held.resident += ResidentPages(s.start, ~uint64_t{0});
      }
    }
  }
  held.mapped = injector.mapped.load();
  // The library's own counts, by which it decides when to purge, do not drift.
  const long kKeptBack = 15 * 8;  // by the threads of the workload
  const probe_counts_t counts = probe_counts();
  REQUIRE(labs(counts.held - static_cast<long>(held.backed)) <= kKeptBack);
  REQUIRE(labs(counts.used - static_cast<long>(held.slices + held.segments + 64 * held.lost)) <= kKeptBack);
  return held;
}

// Pages of handles, which stay for ever, and of the thread's own needs.
constexpr size_t kSlicesKept = 12;

// A short look at whether everything is served again.
void Serves(uint64_t seed) {
  Blocks blocks(seed);
  mi_heap_t* heap = NewHeap();
  blocks.Mixed(heap, 60, 200 * kKiB);
  InThread([&] {
    for (size_t size = 8; size < 20 * kMiB; size *= 3) blocks.Allocate(size % 2 == 0 ? nullptr : heap, size);
  });
  Visit(heap);
  blocks.Drop(heap);
  mi_heap_destroy(heap);
  blocks.FreeAll();
}

struct Case {
  int call;
  Mode mode;
  uint64_t k;
  long purge_delay = 0;
  const char* reserve = "64M";  // of the first arena: several are made
  int rounds = 1;               // with faults
  int scale = 1;
};

// What a child does: 0, or its message and 1.
int RunCase(const Case& c) {
  setenv("MIMALLOC_ARENA_RESERVE", c.reserve, 1);
  mi_option_set(mi_option_purge_delay, c.purge_delay);
  injector.call = c.call;
  injector.mode = c.mode;
  injector.k = c.k;
  for (int round = 0; round < c.rounds; round++) {
    for (std::atomic<uint64_t>& n : injector.seen) n = 0;
    injector.on = true;
    Workload(c.k + static_cast<uint64_t>(round), c.scale);
    injector.on = false;
  }
  // The fault is over: what was freed goes back, nothing is missing, and all is served.
  void* block = mi_malloc(1);
  Visit(mi_heap_main());  // takes memory from the system, which is when what could not be unmapped is tried again
  mi_free(block);
  mi_collect(true);
  const Held once = Look();
  REQUIRE(once.slices <= kSlicesKept);
  REQUIRE(once.lost == 0 || c.call == kMadvise || c.call == kCalls);
  REQUIRE(once.backed == 0);
  REQUIRE(once.resident == 0);
  // Beside the arenas: threads' records, and what could not be cut off when an arena was made. In the secure build the
  // bits of all blocks, too, which are less than an eighth of what they are for.
  const size_t bits = kSecure ? once.arenas / 8 : 0;
  const size_t most = once.arenas + bits + probe_arena_count() * 4 * kMiB + 512 * kKiB;
  if (c.call != kCalls) REQUIRE(once.mapped <= static_cast<int64_t>(most));
  if (c.rounds == 1 && c.k % 8 != 0) {
    Serves(c.k);
    return 0;
  }
  Held before = once;
  for (int i = 0; i < (c.rounds == 1 ? 1 : 3); i++) {
    Workload(c.k + 1000, c.scale);
    mi_collect(true);
    const Held now = Look();
    REQUIRE(now.slices <= kSlicesKept);
    REQUIRE(now.lost == once.lost);
    REQUIRE(now.backed == 0);
    REQUIRE(now.resident == 0);
    if (i > 0) {
      REQUIRE(now.arenas == before.arenas);
      REQUIRE(now.mapped <= before.mapped);
    }
    before = now;
  }
  return 0;
}

::testing::AssertionResult Passes(const Case& c) {
  const int result = InChild([&] { return RunCase(c); }, kSoak ? 600 : 60);
  if (result == 0) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << kCallNames[c.call] << " fails, " << kModeNames[c.mode] << ", K = " << c.k
                                       << ", purge delay " << c.purge_delay << ": "
                                       << (result < 0 ? "signal " : "result ") << (result < 0 ? -result : result);
}

class FaultTest : public ::testing::TestWithParam<int> {};

std::string NameOfCall(const ::testing::TestParamInfo<int>& info) {
  return info.param == kCalls ? "all" : kCallNames[info.param];
}

TEST_P(FaultTest, TheWorkloadMakesMoreThanTwoHundredCalls) {
  // Without this the cases below might look at nothing.
  EXPECT_EQ(InChild([&] {
              setenv("MIMALLOC_ARENA_RESERVE", "64M", 1);
              mi_option_set(mi_option_purge_delay, 0);
              Workload(1, 1);
              return injector.seen[GetParam()] > 200 ? 0 : 1;
            }),
            0)
      << kCallNames[GetParam()];
}

TEST_P(FaultTest, FromAnyCallOnNothingBreaksAndAfterwardsNothingIsMissing) {
  for (uint64_t k = 1; k <= 200; k++) {
    Case c{GetParam(), kFromKth, k};
    if (k % 4 == 0) c.purge_delay = 10;
    ASSERT_TRUE(Passes(c));
  }
}

TEST_P(FaultTest, OneCallThatFailsBreaksNothing) {
  for (uint64_t k = 1; k <= 200; k += kSoak ? 1 : 3) {
    Case c{GetParam(), kOnlyKth, k};
    if (k % 4 == 0) c.purge_delay = 10;
    ASSERT_TRUE(Passes(c));
  }
}

INSTANTIATE_TEST_SUITE_P(Call, FaultTest, ::testing::Values(kMmap, kMadvise, kMunmap, kMprotect), NameOfCall);

// ---- no memory at the wrong moment --------------------------------------------------------------------------

// In an arena of 32 MiB, and nothing beyond: a thread fills pages of two heaps and ends when there is no slice left in
// which its heaps could note its pages. `then` runs in that state, with the two heaps and what fills the memory.
// `counted`: the heaps are counted when they end.
int WithOrphans(void (*then)(mi_heap_t* heap, mi_heap_t* other, Blocks* filler), bool counted = false) {
  return InChild([&] {
    setenv("MIMALLOC_ARENA_RESERVE", "32M", 1);
    mi_free(mi_malloc(1));
    mi_option_set_enabled(mi_option_show_stats, counted);
    mi_option_set(mi_option_disallow_os_alloc, 1);
    mi_heap_t* heap = nullptr;
    mi_heap_t* other = nullptr;
    Blocks filler(1);
    {
      Worker worker;
      worker.Run([&] {
        heap = mi_heap_new();
        other = mi_heap_new();
        for (int i = 0; i < 2000; i++) memset(mi_heap_malloc(heap, 500), 1, 500);
        for (int i = 0; i < 1000; i++) memset(mi_heap_malloc(other, 500), 1, 500);
      });
      injector.on = true;  // NULL is what is waited for
      for (size_t size : {kMiB, 100 * kKiB, 8 * kKiB}) {
        while (filler.refused() == 0) filler.Enter(mi_malloc(size), size, nullptr, false);
        filler.ForgetRefusals();
      }
    }
    while (filler.refused() == 0) filler.Enter(mi_malloc(8 * kKiB), 8 * kKiB, nullptr, false);  // what it released
    injector.on = false;
    REQUIRE(probe_heap(heap).pages_out > 0);
    REQUIRE(!probe_heap(heap).has_lists && !probe_heap(other).has_lists);
    then(heap, other, &filler);
    return 0;
  });
}

TEST(OrphanTest, PagesOfAHeapThatCouldNotBeListedGoBackWhenTheHeapIsDestroyed) {
  EXPECT_EQ(WithOrphans([](mi_heap_t* heap, mi_heap_t* other, Blocks* filler) {
              mi_heap_destroy(heap);
              REQUIRE(CountBlocks(other) == 1000);
              mi_heap_destroy(other);
              filler->FreeAll();
              mi_collect(true);
              REQUIRE(Look().slices <= kSlicesKept);
            }),
            0);
}

TEST(OrphanTest, TheirBlocksAreCountedWhenTheHeapIsDestroyed) {
  EXPECT_EQ(WithOrphans(
                [](mi_heap_t* heap, mi_heap_t* other, Blocks*) {
                  mi_option_disable(mi_option_show_stats);
                  mi_stats_t_decl(before);
                  REQUIRE(mi_stats_get(&before));
                  mi_heap_destroy(heap);
                  mi_heap_destroy(other);
                  mi_stats_t_decl(after);
                  REQUIRE(mi_stats_get(&after));
                  REQUIRE(after.malloc_normal_count.total == before.malloc_normal_count.total);
                },
                true),
            0);
}

TEST(OrphanTest, AVisitShowsThemOrFails) {
  EXPECT_EQ(WithOrphans([](mi_heap_t* heap, mi_heap_t* other, Blocks* filler) {
              auto count = [](const mi_heap_t*, const mi_heap_area_t*, void* block, size_t, void* n) {
                *static_cast<size_t*>(n) += block != nullptr;
                return true;
              };
              size_t blocks = 0;
              errno = 0;
              const bool all = mi_heap_visit_blocks(heap, true, count, &blocks);
              REQUIRE(all ? blocks == 2000 : blocks == 0 && errno == ENOMEM);
              filler->FreeAll();
              blocks = 0;
              REQUIRE(mi_heap_visit_blocks(heap, true, count, &blocks));
              REQUIRE(blocks == 2000);
              blocks = 0;
              REQUIRE(mi_heap_visit_blocks(other, true, count, &blocks));
              REQUIRE(blocks == 1000);
              mi_heap_destroy(other);
              mi_heap_destroy(heap);
              mi_collect(true);
              REQUIRE(Look().slices <= kSlicesKept);
            }),
            0);
}

TEST(OrphanTest, AThreadThatTakesOverAPartOfTheHeapAndDestroysItFreesThemToo) {
  EXPECT_EQ(WithOrphans([](mi_heap_t* heap, mi_heap_t* other, Blocks* filler) {
              filler->FreeAll();
              REQUIRE(mi_heap_malloc(heap, 16) != nullptr);
              REQUIRE(mi_heap_malloc(other, 16) != nullptr);
              REQUIRE(!probe_heap(heap).has_lists);
              mi_heap_destroy(heap);
              mi_heap_destroy(other);
              mi_collect(true);
              REQUIRE(Look().slices <= kSlicesKept);
            }),
            0);
}

TEST(OrphanTest, TheirBlocksAreFreedAndTheHeapDeletedAsEver) {
  EXPECT_EQ(WithOrphans([](mi_heap_t* heap, mi_heap_t* other, Blocks* filler) {
              mi_heap_delete(heap);
              mi_heap_delete(other);
              filler->FreeAll();
              size_t freed = 0;
              mi_heap_visit_blocks(
                  mi_heap_main(), true,
                  [](const mi_heap_t*, const mi_heap_area_t*, void* block, size_t, void* n) {
                    if (block == nullptr) return true;
                    mi_free(block);
                    ++*static_cast<size_t*>(n);
                    return true;
                  },
                  &freed);
              REQUIRE(freed >= 3000);
              for (int i = 0; i < 3; i++) mi_collect(true);
              REQUIRE(Look().slices <= kSlicesKept);
            }),
            0);
}

TEST(FaultLimitTest, AThreadThatCouldNotBeSetUpAMillionTimesIsServedAfterwards) {
  EXPECT_EQ(InChild([] {
              injector.call = kMmap;
              injector.mode = kFromKth;
              injector.k = 1;
              injector.on = true;
              for (int i = 0; i < 1200000; i++) {
                errno = 0;
                REQUIRE(mi_malloc(10) == nullptr);
                REQUIRE(errno == ENOMEM);
              }
              injector.on = false;
              mi_free(mi_malloc(10));
              REQUIRE(probe_thread_has_record());
              return 0;
            }),
            0);
}

TEST(FaultLimitTest, TheLastRunThatFitsIsFoundBehindManySegmentsWithGaps) {
  EXPECT_EQ(InChild([] {
              setenv("MIMALLOC_ARENA_RESERVE", "256M", 1);
              mi_free(mi_malloc(1));
              mi_option_set(mi_option_disallow_os_alloc, 1);
              mi_option_set(mi_option_purge_delay, -1);
              std::vector<probe_run_t> runs;
              for (probe_run_t run; probe_slices_claim(1, &run);) runs.push_back(run);
              std::sort(runs.begin(), runs.end(),
                        [](const probe_run_t& a, const probe_run_t& b) { return a.start < b.start; });
              REQUIRE(runs.size() > 60 * 63);
              for (size_t segment = 0; segment < 55; segment++) probe_slices_release(&runs[segment * 63 + 30]);
              const probe_run_t* const last = &runs[57 * 63 + 20];
              for (int i = 0; i < 8; i++) probe_slices_release(&last[i]);
              probe_run_t run;
              REQUIRE(probe_slices_claim(8, &run));
              REQUIRE(run.start == last->start);
              return 0;
            }),
            0);
}

TEST(FaultLimitTest, AGuardThatTheSystemDoesNotTakeAwayIsInNoBlock) {
  EXPECT_EQ(InChild([] {
              setenv("MIMALLOC_ARENA_RESERVE", "32M", 1);
              mi_free(mi_malloc(1));
              mi_option_set(mi_option_disallow_os_alloc, 1);
              mi_heap_config_t config{};
              config.size = sizeof(config);
              config.flags = MI_HEAP_HARDENED;  // its pages end with guards, which stay when they are gone
              mi_heap_t* const heap = mi_heap_new_with(&config);
              while (mi_heap_malloc(heap, 50000) != nullptr) {
              }
              mi_heap_destroy(heap);
              mi_collect(true);
              injector.k = 1;
              injector.on = true;
              std::vector<void*> blocks;
              for (size_t size : {8 * kMiB, kMiB, 20 * kKiB, size_t{100}}) {
                for (int i = 0; i < 1000; i++) {
                  errno = 0;
                  void* const p = mi_malloc(size);
                  if (p == nullptr) REQUIRE(errno == ENOMEM);
                  if (p == nullptr) break;
                  memset(p, 1, size);
                  blocks.push_back(p);
                }
              }
              injector.on = false;
              for (void* p : blocks) mi_free(p);
              mi_collect(true);
              void* const p = mi_malloc(8 * kMiB);
              REQUIRE(p != nullptr);
              memset(p, 1, 8 * kMiB);
              mi_free(p);
              return 0;
            }),
            0);
}

TEST(FaultLimitTest, WhereTheSystemTakesNoGuardAwayOtherMemoryServes) {
  EXPECT_EQ(InChild([] {
              mi_heap_config_t config{};
              config.size = sizeof(config);
              config.flags = MI_HEAP_HARDENED;  // its pages end with guards, which stay when they are gone
              mi_heap_t* const heap = mi_heap_new_with(&config);
              std::vector<void*> blocks;
              for (int i = 0; i < 2000; i++) blocks.push_back(mi_heap_malloc(heap, 50000));
              // Some of the pages go back one by one, the others with all of their segments.
              for (size_t i = 0; i < blocks.size(); i += 3) mi_free(blocks[i]);
              injector.call = kMadvise;
              injector.k = 1;
              injector.on = true;
              for (int round = 0; round < 2; round++) {
                blocks.clear();
                for (size_t size : {kMiB, 200 * kKiB, 20 * kKiB, size_t{100}}) {
                  for (int i = 0; i < 200; i++) {
                    void* const p = mi_malloc(size);
                    REQUIRE(p != nullptr);
                    memset(p, 1, size);
                    blocks.push_back(p);
                  }
                }
                for (void* p : blocks) mi_free(p);
                if (round == 0) mi_heap_destroy(heap);
                mi_collect(true);
              }
              return 0;
            }),
            0);
}

class RandomFaultTest : public ::testing::TestWithParam<int> {};

TEST_P(RandomFaultTest, CallsThatFailNowAndThenRoundAfterRoundLeaveNothingBehind) {
  for (int seed = 1; seed <= Scaled(10, 600); seed++) {
    Case c{GetParam(), kNowAndThen, static_cast<uint64_t>(seed)};
    c.rounds = 4;
    c.scale = kSoak ? 4 : 1;
    if (seed % 3 == 0) c.purge_delay = 1;
    if (seed % 5 == 0) c.reserve = "1G";
    ASSERT_TRUE(Passes(c));
  }
}

INSTANTIATE_TEST_SUITE_P(Call, RandomFaultTest, ::testing::Values(kMmap, kMadvise, kMunmap, kMprotect, kCalls),
                         NameOfCall);

}  // namespace
}  // namespace mi_test
