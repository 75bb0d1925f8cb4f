// Memory that the program freed: it leaves the process although the program does nothing more, the address space stays,
// and what is freed in turn with what is allocated is not given back each time. Measures resident memory and page
// faults, so it runs alone and without sanitizers. The linker sends the library's calls of the system through the
// functions below, which count them. No test depends on how long something takes.
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>

#include <atomic>
#include <cstddef>
#include <vector>

#include "gtest/gtest.h"
#include "mi/heap/heap.h"
#include "mi/mimalloc-stats.h"
#include "mi/mimalloc.h"
#include "tests/test_support.h"

namespace {
std::atomic<long> mmap_calls{0};
std::atomic<long> mprotect_calls{0};
std::atomic<long> madvise_calls{0};
std::atomic<bool> madvise_fails{false};
}  // namespace

extern "C" {
void* __real_mmap(void* start, size_t size, int protection, int flags, int file, off_t offset);
int __real_madvise(void* start, size_t size, int advice);
int __real_munmap(void* start, size_t size);
int __real_mprotect(void* start, size_t size, int protection);
void* __wrap_mmap(void* start, size_t size, int protection, int flags, int file, off_t offset) {
  mmap_calls++;
  return __real_mmap(start, size, protection, flags, file, offset);
}
int __wrap_madvise(void* start, size_t size, int advice) {
  madvise_calls++;
  if (!madvise_fails) return __real_madvise(start, size, advice);
  errno = EINVAL;
  return -1;
}
int __wrap_munmap(void* start, size_t size) { return __real_munmap(start, size); }
int __wrap_mprotect(void* start, size_t size, int protection) {
  mprotect_calls++;
  return __real_mprotect(start, size, protection);
}
}  // extern "C"

namespace mi_test {
namespace {

constexpr size_t kTotal = 256 * kMiB;

// What a program that sleeps may keep of a large free: the last 4 MiB, and what each thread has not counted yet. In the
// secure build also what its pages had in bits, up to a tenth, for the next ones in their place.
constexpr size_t kKept = 8 * kMiB + (kSecure ? kTotal / 10 : 0);

// Waits without a call of the library. Generous: on a quiet machine the memory is gone when the free returns.
bool FallsToWithoutActivity(size_t target) {
  Deadline deadline(20);
  while (ResidentBytes() > target) {
    if (deadline.Passed()) return false;
    timespec t = {0, 1000000};
    nanosleep(&t, nullptr);
  }
  return true;
}

void Touch(void* block, size_t size) {
  for (size_t at = 0; at < size; at += 4096) static_cast<char*>(block)[at] = 1;
}

long PageFaults() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_minflt;
}

class PurgeTest : public ::testing::TestWithParam<size_t> {
 protected:
  void SetUp() override {
    blocks_.resize(kTotal / GetParam());
    mi_collect(true);
    before_ = ResidentBytes();
  }
  void Allocate(mi_heap_t* heap) {
    for (void*& block : blocks_) {
      block = mi_heap_malloc(heap, GetParam());
      ASSERT_NE(block, nullptr);
      Touch(block, GetParam());
    }
  }
  void AllocateAll(mi_heap_t* heap) {
    Allocate(heap);
    ASSERT_GE(ResidentBytes(), before_ + kTotal / 10 * 9);
  }
  ::testing::AssertionResult MemoryIsBack() {
    if (FallsToWithoutActivity(before_ + kKept)) return ::testing::AssertionSuccess();
    return ::testing::AssertionFailure() << ResidentBytes() / kMiB << " MiB are resident, " << before_ / kMiB
                                         << " before";
  }

  std::vector<void*> blocks_;
  size_t before_ = 0;
};

TEST_P(PurgeTest, LeavesTheProcessWhenTheProgramFreesItAndSleeps) {
  for (int round = 0; round < 3; round++) {
    AllocateAll(mi_heap_main());
    for (void* block : blocks_) mi_free(block);
    ASSERT_TRUE(MemoryIsBack()) << "round " << round;
  }
}

TEST_P(PurgeTest, AlsoWhenItWasFreedInAnotherOrder) {
  AllocateAll(mi_heap_main());
  Random random(GetParam());
  for (size_t i = blocks_.size(); i > 1; i--) std::swap(blocks_[i - 1], blocks_[random.Below(i)]);
  for (void* block : blocks_) mi_free(block);
  ASSERT_TRUE(MemoryIsBack());
}

TEST_P(PurgeTest, AlsoWhenAHeapIsDestroyed) {
  mi_heap_t* heap = mi_heap_new();
  AllocateAll(heap);
  mi_heap_destroy(heap);
  ASSERT_TRUE(MemoryIsBack());
}

TEST_P(PurgeTest, AlsoFromAThreadThatSleepsAndFromOneThatEnded) {
  {
    Worker worker;
    worker.Run([&] {
      AllocateAll(mi_heap_main());
      for (void* block : blocks_) mi_free(block);
    });
    ASSERT_TRUE(MemoryIsBack());
  }
  InThread([&] { AllocateAll(mi_heap_main()); });
  for (void* block : blocks_) mi_free(block);
  ASSERT_TRUE(MemoryIsBack());
}

TEST_P(PurgeTest, TheAddressSpaceStaysAndServesTheSameAgainWithoutTheSystem) {
  AllocateAll(mi_heap_main());
  std::vector<void*> former;
  for (size_t i = 0; i < blocks_.size(); i += 1 + blocks_.size() / 10000) former.push_back(blocks_[i]);
  for (void* block : blocks_) mi_free(block);
  ASSERT_TRUE(MemoryIsBack());
  std::vector<unsigned char> pages(GetParam() / 4096 + 2);
  for (void* block : former) {
    void* const page = reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(block) & ~uintptr_t{4095});
    ASSERT_EQ(mincore(page, GetParam(), pages.data()), 0) << "address space was unmapped";
  }
  const long mmaps = mmap_calls, mprotects = mprotect_calls;
  AllocateAll(mi_heap_main());
  EXPECT_EQ(mmap_calls, mmaps);
  EXPECT_EQ(mprotect_calls, mprotects);
  for (void* block : blocks_) mi_free(block);
}

INSTANTIATE_TEST_SUITE_P(Size, PurgeTest,
                         ::testing::Values(size_t{300}, size_t{5000}, 40 * kKiB, 100 * kKiB, kMiB, 20 * kMiB, kTotal));

TEST(PurgeBoundTest, NothingIsGivenBackWhereTheOptionSaysNever) {
  const long delay = mi_option_get(mi_option_purge_delay);
  mi_option_set(mi_option_purge_delay, -1);
  mi_collect(true);
  const size_t before = ResidentBytes();
  void* block = mi_malloc(kTotal);
  Touch(block, kTotal);
  mi_free(block);
  EXPECT_GE(ResidentBytes(), before + kTotal / 10 * 9);
  mi_option_set(mi_option_purge_delay, delay);
  mi_collect(true);
  EXPECT_LE(ResidentBytes(), before + kKept);
}

TEST(PurgeBoundTest, WhatIsFreedInARowCountsAlsoIfTicksTookItsBeginning) {
  EXPECT_EQ(InChild([] {
              mi_free(mi_malloc(1));
              std::vector<void*> blocks(62);
              const size_t before = ResidentBytes();
              for (void*& block : blocks) Touch(block = mi_malloc(kMiB), kMiB);
              for (size_t i = 0; i < blocks.size(); i++) {
                mi_free(blocks[i]);
                timespec t = {0, 2000000};
                if (i < 40) nanosleep(&t, nullptr);
              }
              return FallsToWithoutActivity(before + kKept) ? 0 : 1;
            }),
            0);
}

// What is freed and taken again at once is not given back each time, although it is more than the bound.
TEST(PurgeBoundTest, ABlockThatComesAndGoesKeepsItsMemory) {
  for (size_t size : {20 * kMiB, 64 * kMiB, 100 * kMiB}) {
    mi_collect(true);
    const int rounds = 60;
    const long before = PageFaults();
    for (int i = 0; i < rounds; i++) {
      void* block = mi_malloc(size);
      ASSERT_NE(block, nullptr);
      Touch(block, size);
      mi_free(block);
    }
    EXPECT_LE(PageFaults() - before, static_cast<long>(rounds / 3 * (size / 4096))) << size / kMiB << " MiB";
  }
}

TEST(PurgeBoundTest, SoDoManyBlocks) {
  std::vector<void*> blocks(60 * kMiB / 1000);
  mi_collect(true);
  const int rounds = 60;
  const long before = PageFaults();
  for (int i = 0; i < rounds; i++) {
    for (void*& block : blocks) block = mi_malloc(1000);
    for (void* block : blocks) memset(block, 1, 1000);
    for (void* block : blocks) mi_free(block);
  }
  EXPECT_LE(PageFaults() - before, static_cast<long>(rounds / 2 * (60 * kMiB / 4096)));
}

TEST(PurgeBoundTest, WhatTheSystemRefusesIsNotTriedOverAndOver) {
  std::vector<void*> blocks(kTotal / (64 * kKiB));
  mi_collect(true);
  const size_t before = ResidentBytes();
  for (int round = 0; round < 4; round++) {
    for (void*& block : blocks) {
      block = mi_malloc(64 * kKiB);
      Touch(block, 64 * kKiB);
    }
    madvise_fails = true;
    const long calls = madvise_calls;
    for (void* block : blocks) mi_free(block);
    // A call per page that was released, of eight blocks each, and some more for ticks that met half of a segment.
    EXPECT_LE(madvise_calls - calls, static_cast<long>(blocks.size() / 8 * 2)) << "round " << round;
    madvise_fails = false;
  }
  EXPECT_GE(ResidentBytes(), before + kTotal / 10 * 9);
  mi_collect(true);
  EXPECT_LE(ResidentBytes(), before + kKept);
}

// Memory that goes up and down more slowly than the delay: ticks learn to spare it.
TEST(PurgeSparedTest, WhatAProgramTakesAgainAndAgainIsNotGivenBackEachTime) {
  constexpr size_t kSize = 8000, kSwing = 4 * kMiB;
  mi_stats_t stats = {};
  stats.size = sizeof(stats);
  stats.version = MI_STAT_VERSION;
  const auto read = [&](int64_t* ticks) {
    EXPECT_TRUE(mi_stats_get(&stats));
    *ticks = stats.arena_purges.total;
    return stats.purged.total;
  };
  std::vector<void*> kept(64 * kMiB / kSize), swing(kSwing / kSize);
  for (void*& block : kept) Touch(block = mi_malloc(kSize), kSize);
  Deadline deadline(20);
  int64_t given;
  do {
    for (void*& block : swing) Touch(block = mi_malloc(kSize), kSize);
    for (void* block : swing) mi_free(block);
    int64_t ticks, now;
    const int64_t before = read(&ticks);
    do {
      mi_collect(false);
      given = read(&now) - before;
    } while (now < ticks + 4);
  } while (given > static_cast<int64_t>(kSwing / 4) && !deadline.Passed());
  EXPECT_LE(given, static_cast<int64_t>(kSwing / 4));
  for (void* block : kept) mi_free(block);
}

}  // namespace
}  // namespace mi_test
