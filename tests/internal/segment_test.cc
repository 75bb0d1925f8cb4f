// mi/internal/segment.c: slices, purging and what is known to be zero, huge blocks.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "gtest/gtest.h"
#include "mi/mimalloc-stats.h"
#include "tests/internal/probe.h"
#include "tests/single_steps.h"
#include "tests/test_support.h"

namespace mi_test {
namespace {

constexpr size_t kSlice = 64 * kKiB;
constexpr size_t kSegment = 4 * kMiB;

// Sets an option while it lives.
class WithOption {
 public:
  WithOption(mi_option_t option, long value) : option_(option), former_(mi_option_get(option)) {
    mi_option_set(option, value);
  }
  ~WithOption() { mi_option_set(option_, former_); }

 private:
  mi_option_t option_;
  long former_;
};

// Who holds which slice of the first arena, beside the library's own words.
class Shadow {
 public:
  Shadow() {
    mi_free(mi_malloc(1));
    arena_ = probe_arena(0);
    held_.reset(new std::atomic<uint8_t>[arena_.segment_count * 64]());
  }
  bool Take(const uint8_t* start, size_t slices) {
    bool fresh = true;
    for (size_t i = 0; i < slices; i++) fresh = held_[Index(start) + i].exchange(1) == 0 && fresh;
    return fresh;
  }
  void Give(const uint8_t* start, size_t slices) {
    for (size_t i = 0; i < slices; i++) held_[Index(start) + i].store(0);
  }
  uint64_t HeldIn(size_t segment) const {
    uint64_t word = 0;
    for (size_t i = 0; i < 64; i++) word |= uint64_t{held_[64 * segment + i].load()} << i;
    return word;
  }

 private:
  size_t Index(const uint8_t* start) const { return static_cast<size_t>(start - arena_.start) / kSlice; }
  probe_arena_t arena_;
  std::unique_ptr<std::atomic<uint8_t>[]> held_;
};

// What must hold of every segment when nobody is at work.
void ExpectConsistentSegments(const Shadow& shadow) {
  for (size_t i = 0; i < probe_arena(0).ready; i++) {
    probe_segment_t segment = probe_segment(0, i);
    uint64_t held = shadow.HeldIn(i);
    if (segment.kind == PROBE_SEGMENT_NORMAL) {
      // Slices that the library itself took are neither ours nor free.
      EXPECT_EQ(segment.free & held, 0u) << "segment " << i;
      EXPECT_EQ(segment.free & 1, 0u) << "the header of segment " << i << " is free";
      if (segment.free != 0) {
        EXPECT_TRUE(segment.has_free) << "free slices of segment " << i << " that no search would find";
      }
      EXPECT_FALSE(segment.unused) << i;
      EXPECT_EQ(held & ~(segment.dirty & segment.backed), 0u) << "slices in use of segment " << i;
    } else {
      EXPECT_EQ(segment.free, 0u) << i;
    }
    if (segment.unused) {
      EXPECT_EQ(segment.kind, PROBE_SEGMENT_UNUSED) << i;
      EXPECT_EQ(held, 0u) << i;
    }
  }
}

size_t RandomCount(Random& random) {
  switch (random.Below(10)) {
    case 0:
      return random.Between(1, 63);
    case 1:
    case 2:
      return 8;
    case 3:
      return random.Between(2, 16);
    default:
      return 1;
  }
}

void SlicesByManyThreads(int threads, int rounds, bool purger) {
  Shadow shadow;
  std::atomic<int> failures{0}, running{threads};
  InThreads(threads + (purger ? 1 : 0), [&](int thread) {
    if (thread == threads) {
      while (running > 0) probe_purge(true);
      return;
    }
    Random random(300 + thread);
    std::vector<probe_run_t> held;
    auto release = [&](size_t at) {
      shadow.Give(held[at].start, held[at].slices);
      probe_slices_release(&held[at]);
      held[at] = held.back();
      held.pop_back();
    };
    for (int round = 0; round < rounds; round++) {
      if (held.size() < 40 && !random.OneIn(3)) {
        probe_run_t run;
        size_t count = RandomCount(random);
        if (!probe_slices_claim(count, &run) || run.slices != count || !shadow.Take(run.start, count)) {
          failures++;
          break;
        }
        // The page stays inside one segment and behind the header.
        size_t first = reinterpret_cast<uintptr_t>(run.start) % kSegment / kSlice;
        if (first == 0 || first + count > 64) failures++;
        memset(run.start, 0xa5, 64);
        held.push_back(run);
      } else if (!held.empty()) {
        release(random.Below(held.size()));
      }
    }
    while (!held.empty()) release(held.size() - 1);
    running--;
  });
  EXPECT_EQ(failures, 0);
  ExpectConsistentSegments(shadow);
}

TEST(SliceTest, NoSliceIsHeldTwiceWhenThreadsClaimAndRelease) { SlicesByManyThreads(4, Scaled(40000), false); }

TEST(SliceTest, NoSliceIsHeldTwiceWhileAnotherThreadPurgesAndClosesSegments) {
  SlicesByManyThreads(3, Scaled(10000), true);
}

TEST(SliceTest, TheSummaryShowsEveryFreeSliceWhenNobodyIsAtWork) {
  Shadow shadow;
  Random random(5);
  std::vector<probe_run_t> held;
  for (int round = 0; round < 2000; round++) {
    if (held.size() < 200 && !random.OneIn(3)) {
      probe_run_t run;
      ASSERT_TRUE(probe_slices_claim(RandomCount(random), &run));
      ASSERT_TRUE(shadow.Take(run.start, run.slices));
      held.push_back(run);
    } else if (!held.empty()) {
      size_t at = random.Below(held.size());
      shadow.Give(held[at].start, held[at].slices);
      probe_slices_release(&held[at]);
      held[at] = held.back();
      held.pop_back();
    }
    if (random.OneIn(100)) probe_purge(true);
    if (round % 100 == 0) ExpectConsistentSegments(shadow);
  }
  for (const probe_run_t& run : held) probe_slices_release(&run);
}

TEST(SliceTest, ReleasedSlicesAreClaimedAgainBeforeANewSegmentIs) {
  std::vector<probe_run_t> runs(500);
  for (probe_run_t& run : runs) ASSERT_TRUE(probe_slices_claim(1, &run));
  size_t segments = 0;
  for (size_t i = 0; i < probe_arena(0).ready; i++) segments += probe_segment(0, i).kind == PROBE_SEGMENT_NORMAL;
  for (const probe_run_t& run : runs) probe_slices_release(&run);
  for (int round = 0; round < 20; round++) {
    for (probe_run_t& run : runs) ASSERT_TRUE(probe_slices_claim(1, &run));
    size_t now = 0;
    for (size_t i = 0; i < probe_arena(0).ready; i++) now += probe_segment(0, i).kind == PROBE_SEGMENT_NORMAL;
    ASSERT_LE(now, segments);
    for (const probe_run_t& run : runs) probe_slices_release(&run);
  }
}

// ---- how much of a slice has memory ---------------------------------------------------------------------

// The bits of the run in a word of its segment.
uint64_t BitsOf(const probe_run_t& run, uint64_t probe_segment_t::*word) {
  probe_segment_t segment{};
  EXPECT_TRUE(probe_segment_of(run.start, &segment));
  const size_t first = static_cast<size_t>(run.start - segment.start) / kSlice;
  return segment.*word >> first & ((uint64_t{1} << run.slices) - 1);
}

TEST(PartTest, WhatHadNoMemoryAndWasNotUsedHasNoneWhenItIsReleased) {
  probe_purge(true);
  probe_run_t run;
  ASSERT_TRUE(probe_slices_claim(8, &run));
  EXPECT_EQ(BitsOf(run, &probe_segment_t::backed), 0xffu);
  probe_slices_release_used(&run, 2 * kSlice + 1);
  EXPECT_EQ(BitsOf(run, &probe_segment_t::backed), 0x07u) << "two slices, and the one that was begun";
  // What has memory stays so, whatever the next use is.
  probe_run_t again;
  ASSERT_TRUE(probe_slices_claim(3, &again));
  ASSERT_EQ(again.start, run.start) << "slices with memory come first";
  probe_slices_release_used(&again, 0);
  EXPECT_EQ(BitsOf(run, &probe_segment_t::backed), 0x07u);
  probe_purge(true);
}

TEST(PartTest, WhatIsHeldIsCountedWithoutWhatHasNoMemory) {
  probe_purge(true);
  std::vector<probe_run_t> runs(20);  // less than what counts as freeing on and on
  for (probe_run_t& run : runs) ASSERT_TRUE(probe_slices_claim(20, &run));
  const probe_counts_t before = probe_counts();
  for (const probe_run_t& run : runs) probe_slices_release_used(&run, kSlice);
  const probe_counts_t after = probe_counts();
  EXPECT_NEAR(static_cast<double>(after.used - before.used), -400, 31);
  EXPECT_NEAR(static_cast<double>(after.held - before.held), 20, 31);
  probe_purge(true);
  EXPECT_NEAR(static_cast<double>(probe_counts().held - before.held), 0, 31);
}

TEST(PartTest, ASliceIsTakenForWhatIsLikelyToUseAsMuchOfIt) {
  probe_purge(true);
  const size_t much[3] = {4 * kKiB, 30 * kKiB, kSlice};
  probe_run_t first[3];
  for (int i = 0; i < 3; i++) ASSERT_TRUE(probe_slices_claim_for(1, much[i], &first[i]));
  for (int i = 0; i < 3; i++) probe_slices_release_used(&first[i], much[i]);
  int turns[3] = {0, 1, 2};
  do {
    probe_run_t run[3];
    for (int i : turns) {
      ASSERT_TRUE(probe_slices_claim_for(1, much[i], &run[i]));
      EXPECT_EQ(run[i].start, first[i].start) << much[i] << " bytes";
    }
    for (int i : turns) probe_slices_release_used(&run[i], much[i]);
  } while (std::next_permutation(turns, turns + 3));
  // A second one for little takes a slice without memory rather than one with much.
  probe_run_t little[2];
  for (probe_run_t& run : little) ASSERT_TRUE(probe_slices_claim_for(1, much[0], &run));
  EXPECT_EQ(little[0].start, first[0].start);
  EXPECT_NE(little[1].start, first[1].start);
  EXPECT_NE(little[1].start, first[2].start);
  // More of a slice was used: it is one for more, and stays so.
  probe_slices_release_used(&little[0], 40 * kKiB);
  probe_slices_release_used(&little[1], 64);
  probe_run_t some[2];
  for (probe_run_t& run : some) ASSERT_TRUE(probe_slices_claim_for(1, much[1], &run));
  EXPECT_TRUE((some[0].start == first[0].start) != (some[1].start == first[0].start));
  EXPECT_TRUE((some[0].start == first[1].start) != (some[1].start == first[1].start));
  for (const probe_run_t& run : some) probe_slices_release_used(&run, 64);
  ASSERT_TRUE(probe_slices_claim_for(1, much[1], &some[0]));
  EXPECT_TRUE(some[0].start == first[0].start || some[0].start == first[1].start);
  probe_slices_release(&some[0]);
  probe_purge(true);
}

TEST(PartTest, HowMuchOfASliceHasMemoryOnlyGrowsUntilItIsPurged) {
  const size_t bytes[] = {0, 1, 16 * kKiB, 16 * kKiB + 1, 40 * kKiB, 40 * kKiB + 1, kSlice};
  const auto expected = [](size_t most) {  // backed, little, much
    return (most == 0 ? 0 : most <= 16 * kKiB ? 110 : most <= 40 * kKiB ? 101 : 100);
  };
  for (size_t before : bytes) {
    for (size_t now : bytes) {
      probe_purge(true);
      probe_run_t run[2];
      for (int i = 0; i < 2; i++) {
        ASSERT_TRUE(probe_slices_claim(1, &run[i]));
        if (i == 1 && before != 0) {
          ASSERT_EQ(run[1].start, run[0].start) << "it has memory, and no other has";
        }
        probe_slices_release_used(&run[i], i == 0 ? before : now);
        const size_t most = (i == 0 ? before : std::max(before, now));
        const uint64_t has = 100 * BitsOf(run[i], &probe_segment_t::backed) +
                             10 * BitsOf(run[i], &probe_segment_t::little) + BitsOf(run[i], &probe_segment_t::much);
        EXPECT_EQ(has, static_cast<uint64_t>(expected(most))) << before << ", then " << now << " bytes";
      }
    }
  }
  probe_purge(true);
}

TEST(PartTest, ALongRunOrAnUnknownUseTakesWhateverHasMemory) {
  probe_purge(true);
  probe_run_t first;
  ASSERT_TRUE(probe_slices_claim_for(1, 4 * kKiB, &first));
  probe_slices_release_used(&first, 4 * kKiB);
  probe_run_t run;
  ASSERT_TRUE(probe_slices_claim(1, &run));
  EXPECT_EQ(run.start, first.start);
  probe_slices_release(&run);
  probe_purge(true);
}

// ---- purging --------------------------------------------------------------------------------------------

TEST(PurgeTest, FreeSlicesReadAsZeroAfterAForcedPurgeAndHeldOnesKeepTheirBytes) {
  Random random(6);
  std::vector<probe_run_t> runs(120);
  for (probe_run_t& run : runs) {
    ASSERT_TRUE(probe_slices_claim(random.OneIn(4) ? random.Between(2, 9) : 1, &run));
    memset(run.start, 0xee, run.slices * kSlice);
  }
  std::vector<probe_run_t> kept;
  for (const probe_run_t& run : runs) {
    if (random.OneIn(2)) {
      kept.push_back(run);
    } else {
      probe_slices_release(&run);
    }
  }
  probe_purge(true);
  size_t checked = 0;
  for (const probe_run_t& run : runs) {
    bool is_kept = std::any_of(kept.begin(), kept.end(), [&](const probe_run_t& k) { return k.slot == run.slot; });
    size_t size = run.slices * kSlice;
    ASSERT_EQ(FindOther(run.start, 0, size, is_kept ? 0xee : 0), size);
    checked += !is_kept;
    if (is_kept) continue;
    probe_segment_t segment;
    ASSERT_TRUE(probe_segment_of(run.start + 1, &segment));
    uint64_t bits = probe_run_mask(reinterpret_cast<uintptr_t>(run.start) % kSegment / kSlice, run.slices);
    EXPECT_EQ(segment.backed & bits, 0u);
    EXPECT_EQ(segment.dirty & bits, 0u);
  }
  EXPECT_GT(checked, 20u);
  for (const probe_run_t& run : kept) probe_slices_release(&run);
}

mi_stats_t Stats() {
  mi_stats_t stats{};
  stats.size = sizeof(stats);
  stats.version = MI_STAT_VERSION;
  EXPECT_TRUE(mi_stats_get(&stats));
  return stats;
}

int64_t CommittedBytes() { return Stats().committed.current; }

// What is due at a tick goes in pieces, one for each slow path: of many short runs of slices, and of a huge block's
// segments. The next tick, which waits for nothing, is far away.
int TickGoesInPieces(bool huge) {
  constexpr long kLong = 1000000;
  mi_option_set(mi_option_purge_delay, kLong);
  std::vector<probe_run_t> runs(huge ? 0 : 600);
  probe_huge_t block{};
  if (huge && !probe_huge_claim(30 * kMiB, 1, 0, &block)) return 1;
  for (probe_run_t& run : runs) {
    if (!probe_slices_claim(1, &run)) return 2;
  }
  const int64_t before = CommittedBytes();
  size_t freed = (huge ? 8 * 64 : 0);
  if (huge) probe_huge_release(&block);
  for (size_t i = 0; i < runs.size(); i += 2, freed++) probe_slices_release(&runs[i]);
  // The first tick only notes what is free.
  mi_option_set(mi_option_purge_delay, 2);
  probe_segment_t segment{};
  while (segment.aged == 0) {
    probe_purge_step();
    if (!probe_segment_of(huge ? block.run + 1 : runs[0].start + 1, &segment)) return 3;
  }
  if (CommittedBytes() != before) return 4;
  mi_option_set(mi_option_purge_delay, kLong);
  size_t pieces = 0;
  const int64_t after = before - static_cast<int64_t>(freed * kSlice);
  for (int64_t committed = before; committed > after;) {
    const int64_t calls = Stats().purge_calls.total;
    probe_purge_step();
    if (Stats().purge_calls.total - calls > 17) return 5;  // the last one of a segment's head
    const int64_t now = CommittedBytes();
    if (committed - now > static_cast<int64_t>(17 * kSlice)) return 6;
    pieces += (now != committed);
    committed = now;
  }
  return pieces >= freed / 17 ? 0 : 7;
}

TEST(PurgeTest, OneStepOfATickCallsTheSystemAFewTimesAndTakesALittle) {
  EXPECT_EQ(InChild([] { return TickGoesInPieces(false); }), 0);
  EXPECT_EQ(InChild([] { return TickGoesInPieces(true); }), 0);
}

#if defined(__x86_64__)
long purge_steps;
probe_run_t purge_run;
bool purge_came;  // in time

void PurgeOnTrap(int, siginfo_t*, void* context) {
  if (--purge_steps > 0) return;
  StopSteps(context);
  purge_came = (BitsOf(purge_run, &probe_segment_t::backed) != 0);
  probe_purge(true);
}

// Another thread's purge comes in while one is under way: after its look at the slices, too, which it finds as they
// were when it takes them.
TEST(PurgeTest, WhatTwoPurgesFindIsCountedOnce) {
  if (kSanitized) GTEST_SKIP() << "goes through the code instruction by instruction";
  const TrapHandler trap(&PurgeOnTrap);
  probe_run_t kept;  // the segment stays in use
  ASSERT_TRUE(probe_slices_claim(1, &kept));
  probe_purge(true);
  const int64_t committed = CommittedBytes();
  const probe_counts_t before = probe_counts();
  long steps = 1;
  for (purge_came = true; purge_came; steps += 3) {
    ASSERT_TRUE(probe_slices_claim(20, &purge_run));
    probe_slices_release(&purge_run);
    purge_came = false;
    purge_steps = steps;
    TrapFlag(true);
    probe_purge(true);
    TrapFlag(false);
    ASSERT_EQ(CommittedBytes(), committed) << "after " << steps << " instructions";
  }
  EXPECT_GT(steps, 100) << "the purge was under way for longer";
  EXPECT_NEAR(static_cast<double>(probe_counts().held - before.held), 0, 15);
  probe_slices_release(&kept);
  probe_purge(true);
}
#endif

TEST(PurgeTest, ASegmentWithoutASliceInUseGoesBackToTheArenaHeaderAndAll) {
  // 63 slices in one run: a segment to itself.
  probe_run_t run;
  ASSERT_TRUE(probe_slices_claim(63, &run));
  uint8_t* segment = run.start - kSlice;
  ASSERT_TRUE(IsAligned(segment, kSegment));
  memset(run.start, 0x77, 63 * kSlice);
  probe_slices_release(&run);
  probe_purge(true);
  probe_segment_t info;
  ASSERT_TRUE(probe_segment_of(segment + 1, &info));
  EXPECT_EQ(info.kind, PROBE_SEGMENT_UNUSED);
  EXPECT_TRUE(info.unused);
  EXPECT_EQ(info.free, 0u);
  EXPECT_EQ(info.backed, 0u);
  EXPECT_EQ(info.dirty, 0u);
  // In the secure build a guard behind the header stays where it is for the next one.
  if (!kSecure) {
    EXPECT_TRUE(IsZero(segment, 0, kSegment));
  }
  EXPECT_TRUE(IsZero(segment, 0, 8 * kKiB));
  EXPECT_TRUE(IsZero(segment, kSlice, kSegment));
}

TEST(PurgeTest, WithANegativeDelayOnlyAForcedPurgeGivesBack) {
  WithOption delay(mi_option_purge_delay, -1);
  probe_run_t kept, run;
  ASSERT_TRUE(probe_slices_claim(1, &kept));
  ASSERT_TRUE(probe_slices_claim(4, &run));
  memset(run.start, 0x11, 4 * kSlice);
  probe_slices_release(&run);
  for (int i = 0; i < 100; i++) probe_purge(false);
  EXPECT_EQ(FindOther(run.start, 8, 4 * kSlice, 0x11), 4 * kSlice);
  probe_purge(true);
  EXPECT_TRUE(IsZero(run.start, 0, 4 * kSlice));
  probe_slices_release(&kept);
}

TEST(PurgeTest, WithoutADelayTheNextPurgeGivesBack) {
  WithOption delay(mi_option_purge_delay, 0);
  probe_run_t run;
  ASSERT_TRUE(probe_slices_claim(4, &run));
  memset(run.start, 0x11, 4 * kSlice);
  probe_slices_release(&run);
  probe_purge(false);
  EXPECT_TRUE(IsZero(run.start, 0, 4 * kSlice));
}

TEST(PurgeTest, ResettingInPlaceOfDecommittingMakesNoClaimAboutContents) {
  WithOption decommits(mi_option_purge_decommits, 0);
  probe_run_t kept, run;
  ASSERT_TRUE(probe_slices_claim(1, &kept));
  ASSERT_TRUE(probe_slices_claim(3, &run));
  memset(run.start, 0x33, 3 * kSlice);
  uint64_t bits = probe_run_mask(reinterpret_cast<uintptr_t>(run.start) % kSegment / kSlice, 3);
  probe_slices_release(&run);
  probe_purge(true);
  probe_segment_t segment;
  ASSERT_TRUE(probe_segment_of(run.start + 1, &segment));
  if (segment.kind == PROBE_SEGMENT_NORMAL) {
    EXPECT_EQ(segment.backed & bits, 0u);
    EXPECT_EQ(segment.dirty & bits, bits);
  }
  probe_slices_release(&kept);
}

// ---- what is known to be zero -----------------------------------------------------------------------------

// Claims, dirties and releases at random, slices and huge blocks, with purges of both kinds; whenever a claim says that
// its memory is zero, all of it is.
void ZeroKnowledgeRounds(uint64_t seed, int rounds, bool purges, std::atomic<int>* lies, std::atomic<int>* zeros) {
  Random random(seed);
  std::vector<probe_run_t> runs;
  std::vector<probe_huge_t> blocks;
  auto dirty = [&](uint8_t* start, size_t size) {
    if (random.OneIn(4)) return;  // never touched, or not again
    if (random.OneIn(3)) {
      memset(start, 0x5a, size);
    } else {
      for (int i = 0; i < 3; i++) start[random.Below(size)] = 0xff;
      start[size - 1] = 0xfe;
    }
  };
  for (int round = 0; round < rounds; round++) {
    switch (random.Below(12)) {
      case 0:
        if (blocks.size() < 2) {
          probe_huge_t huge;
          size_t alignment = random.OneIn(2) ? 1 : size_t{1} << random.Between(12, 23);
          size_t offset = random.OneIn(2) ? 0 : 64 * kKiB;
          if (!probe_huge_claim(random.Between(1, 6 * kMiB), alignment, offset, &huge)) {
            ++*lies;
            return;
          }
          if (huge.zero) {
            ++*zeros;
            if (FindOther(huge.start, 0, huge.size, 0) != huge.size) ++*lies;
          }
          dirty(huge.start, huge.size);
          blocks.push_back(huge);
          break;
        }
        [[fallthrough]];
      case 1:
        if (!blocks.empty()) {
          probe_huge_release(&blocks.back());
          blocks.pop_back();
        }
        break;
      case 2:
        if (purges) probe_purge(true);
        break;
      case 3:
      case 4:
      case 5:
      case 6:
      case 7:
        if (runs.size() < 60) {
          probe_run_t run;
          if (!probe_slices_claim(random.OneIn(30) ? 63 : random.OneIn(3) ? random.Between(2, 8) : 1, &run)) {
            ++*lies;
            return;
          }
          size_t size = run.slices * kSlice;
          if (run.zero) {
            ++*zeros;
            if (FindOther(run.start, 0, size, 0) != size) ++*lies;
          }
          dirty(run.start, size);
          runs.push_back(run);
          break;
        }
        [[fallthrough]];
      default:
        for (size_t n = random.Below(4); n > 0 && !runs.empty(); n--) {
          size_t at = random.Below(runs.size());
          probe_slices_release(&runs[at]);
          runs[at] = runs.back();
          runs.pop_back();
        }
        if (random.OneIn(20)) {
          for (const probe_run_t& run : runs) probe_slices_release(&run);
          runs.clear();
        }
        break;
    }
  }
  for (const probe_run_t& run : runs) probe_slices_release(&run);
  for (const probe_huge_t& huge : blocks) probe_huge_release(&huge);
}

TEST(ZeroKnowledgeTest, MemoryThatIsSaidToBeZeroIsZero) {
  std::atomic<int> lies{0}, zeros{0};
  for (uint64_t seed = 1; seed <= 6; seed++) ZeroKnowledgeRounds(seed, Scaled(1500), true, &lies, &zeros);
  EXPECT_EQ(lies, 0);
  EXPECT_GT(zeros, 20) << "hardly anything was known to be zero: the test shows nothing";
}

TEST(ZeroKnowledgeTest, AlsoWhenPurgesOnlyReset) {
  WithOption decommits(mi_option_purge_decommits, 0);
  std::atomic<int> lies{0}, zeros{0};
  for (uint64_t seed = 11; seed <= 14; seed++) ZeroKnowledgeRounds(seed, Scaled(1500), true, &lies, &zeros);
  EXPECT_EQ(lies, 0);
}

TEST(ZeroKnowledgeTest, AlsoWhenThreadsClaimAndPurgeAtTheSameTime) {
  std::atomic<int> lies{0}, zeros{0};
  InThreads(3, [&](int thread) { ZeroKnowledgeRounds(50 + thread, Scaled(1500), thread < 2, &lies, &zeros); });
  EXPECT_EQ(lies, 0);
}

// ---- huge blocks --------------------------------------------------------------------------------------------

TEST(HugeTest, EveryAlignmentAndOffsetIsHonouredInsideTheRunBehindTheHeader) {
  std::vector<size_t> offsets = {0,
                                 8,
                                 24,
                                 4096,
                                 kSlice - 8,
                                 kSlice,
                                 kSlice + 8,
                                 kSegment / 2,
                                 kSegment - kSlice,
                                 kSegment - 24,
                                 kSegment - 127,
                                 kSegment - 128,
                                 kSegment + 24};
  for (size_t alignment = 1; alignment <= 64 * kMiB; alignment *= alignment < 4096 ? 4096 : 4) {
    for (size_t offset : offsets) {
      for (size_t size : {size_t{1}, size_t{10}, size_t{4096}, kSegment - kSlice, kSegment, 2 * kSegment + 1}) {
        probe_huge_t huge;
        size_t phase = offset & (alignment - 1);
        ASSERT_TRUE(probe_huge_claim(size, alignment, phase, &huge)) << alignment << ' ' << offset << ' ' << size;
        // So close behind a segment's start the slot that mi_free looks at is the block's own: not in the span.
        size_t low = (0 - phase) & (kSegment - 1);
        if (alignment >= kSegment && low > 0 && low < 128) {
          ASSERT_FALSE(probe_span_contains(huge.start)) << alignment << ' ' << offset << ' ' << size;
        }
        ASSERT_TRUE(IsAligned(huge.start, alignment, phase)) << alignment << ' ' << offset << ' ' << size;
        ASSERT_GE(huge.size, size);
        size_t lead = static_cast<size_t>(huge.start - huge.run);
        ASSERT_GE(lead, kSlice);
        size_t count = (lead + huge.size + kSegment - 1) / kSegment;
        for (size_t i = 0; i < count; i++) {
          probe_segment_t segment;
          ASSERT_TRUE(probe_segment_of(huge.run + i * kSegment + 1, &segment));
          ASSERT_EQ(segment.kind, i == 0 ? PROBE_SEGMENT_HUGE_START : PROBE_SEGMENT_HUGE_INSIDE);
          ASSERT_FALSE(segment.unused);
          ASSERT_EQ(segment.free, 0u);
        }
        probe_huge_publish(&huge);
        EXPECT_EQ(probe_slot_resolved(huge.start), huge.slot);
        EXPECT_EQ(probe_slot_resolved(huge.start + huge.size - 1), huge.slot);
        EXPECT_EQ(probe_slot_resolved(huge.start + huge.size / 2), huge.slot);
        EXPECT_EQ(probe_slot_resolved(huge.start - 1), nullptr) << alignment << ' ' << offset << ' ' << size;
        // Writing all of it, edges first, hurts no slot.
        huge.start[0] = huge.start[huge.size - 1] = 0xff;
        EXPECT_EQ(probe_slot_resolved(huge.start), huge.slot);
        probe_huge_release(&huge);
        for (size_t i = 0; i < count; i++) {
          probe_segment_t segment;
          ASSERT_TRUE(probe_segment_of(huge.run + i * kSegment + 1, &segment));
          ASSERT_EQ(segment.kind, PROBE_SEGMENT_UNUSED);
          ASSERT_TRUE(segment.unused);
        }
      }
    }
  }
}

TEST(HugeTest, NeighboursShareNoByteAndReleasingOneLeavesTheOther) {
  Random random(8);
  for (int round = 0; round < Scaled(300); round++) {
    std::vector<probe_huge_t> blocks;
    while (blocks.size() < 4) {
      size_t alignment = size_t{1} << random.Below(25), offset = random.OneIn(2) ? 0 : 8 * random.Below(kSegment / 8);
      probe_huge_t huge;
      if (!probe_huge_claim(random.Between(1, 9 * kMiB), alignment, offset & (alignment - 1), &huge)) continue;
      probe_huge_publish(&huge);
      huge.start[0] = huge.start[huge.size - 1] = static_cast<uint8_t>(blocks.size());
      for (const probe_huge_t& other : blocks) {
        ASSERT_TRUE(huge.run >= other.start + other.size || other.run >= huge.start + huge.size);
      }
      blocks.push_back(huge);
    }
    while (!blocks.empty()) {
      for (const probe_huge_t& huge : blocks) {
        ASSERT_EQ(probe_slot_resolved(huge.start), huge.slot);
        ASSERT_EQ(probe_slot_resolved(huge.start + huge.size - 1), huge.slot);
        ASSERT_EQ(huge.start[0], huge.start[huge.size - 1]);
      }
      size_t at = random.Below(blocks.size());
      probe_huge_release(&blocks[at]);
      blocks.erase(blocks.begin() + static_cast<ptrdiff_t>(at));
    }
  }
}

TEST(HugeTest, ReleasedSegmentsServeTheNextBlock) {
  probe_huge_t first, again;
  ASSERT_TRUE(probe_huge_claim(10 * kMiB, 1, 0, &first));
  probe_huge_release(&first);
  ASSERT_TRUE(probe_huge_claim(10 * kMiB, 1, 0, &again));
  EXPECT_EQ(again.run, first.run);
  probe_huge_release(&again);
}

TEST(HugeTest, ASegmentThatWasInsideAHugeBlockHasCleanSlotsWhenItsSlicesAreHandedOut) {
  WithOption delay(mi_option_purge_delay, -1);  // nothing cleans up meanwhile
  probe_huge_t huge;
  ASSERT_TRUE(probe_huge_claim(3 * kSegment, 1, 0, &huge));
  memset(huge.start, 0xff, huge.size);
  size_t count = (static_cast<size_t>(huge.start - huge.run) + huge.size + kSegment - 1) / kSegment;
  ASSERT_GE(count, 3u);
  probe_huge_release(&huge);
  // Runs of 63 slices take whole segments, the lowest first.
  std::vector<probe_run_t> runs;
  size_t met = 0;
  while (met < count && runs.size() < 100) {
    probe_run_t run;
    ASSERT_TRUE(probe_slices_claim(63, &run));
    runs.push_back(run);
    uint8_t* segment = run.start - kSlice;
    if (segment < huge.run || segment >= huge.run + count * kSegment) continue;
    met++;
    EXPECT_FALSE(run.zero) << "the former block's bytes are still there";
    EXPECT_TRUE(probe_slots_are_clean(segment, 0));
    for (size_t i = 0; i < 63; i += 7) EXPECT_EQ(probe_slot_resolved(run.start + i * kSlice + 1), nullptr);
  }
  EXPECT_EQ(met, count);
  for (const probe_run_t& run : runs) probe_slices_release(&run);
}

TEST(HugeTest, ASegmentThatWasInsideAHugeBlockIsZeroWhereItIsSaidToBeAfterItsSlicesWereUsedAndPurged) {
  WithOption delay(mi_option_purge_delay, -1);
  probe_huge_t huge;
  ASSERT_TRUE(probe_huge_claim(3 * kSegment, 1, 0, &huge));
  memset(huge.start, 0xff, huge.size);
  size_t count = (static_cast<size_t>(huge.start - huge.run) + huge.size + kSegment - 1) / kSegment;
  probe_huge_release(&huge);
  std::vector<probe_run_t> runs;
  size_t met = 0;
  while (met < count && runs.size() < 100) {
    runs.emplace_back();
    ASSERT_TRUE(probe_slices_claim(63, &runs.back()));
    met += runs.back().start >= huge.run && runs.back().start < huge.run + count * kSegment;
  }
  for (const probe_run_t& run : runs) probe_slices_release(&run);
  probe_purge(true);
  for (size_t i = 0; i < count; i++) {
    probe_segment_t segment;
    uint8_t* start = huge.run + i * kSegment;
    ASSERT_TRUE(probe_segment_of(start + 1, &segment));
    EXPECT_EQ(segment.kind, PROBE_SEGMENT_UNUSED);
    for (size_t slice = 0; slice < 64; slice++) {
      if ((segment.dirty >> slice & 1) != 0) continue;
      // In the secure build a guard behind the header stays.
      const size_t size = (kSecure && slice == 0 ? 8 * kKiB : kSlice);
      EXPECT_TRUE(IsZero(start + slice * kSlice, 0, size)) << "segment " << i << ", slice " << slice;
    }
    EXPECT_EQ(segment.dirty, 0u);
  }
}

TEST(HugeTest, ASegmentThatALargeBlockLeavesEmptyIsNobodysAtOnceAndKeepsItsMemory) {
  const WithOption never(mi_option_purge_delay, -1);
  const size_t size = kSegment - kSlice - (kSecure ? 4 * kKiB : 0);  // all slices of a segment, with a guard
  void* const block = mi_malloc(size);
  ASSERT_NE(block, nullptr);
  memset(block, 1, size);
  const size_t index = static_cast<size_t>(static_cast<uint8_t*>(block) - probe_arena(0).start) / kSegment;
  ASSERT_EQ(probe_segment(0, index).kind, PROBE_SEGMENT_NORMAL);
  mi_free(block);
  const probe_segment_t segment = probe_segment(0, index);
  EXPECT_EQ(segment.kind, PROBE_SEGMENT_UNUSED);
  EXPECT_TRUE(segment.unused);
  EXPECT_TRUE(segment.purgeable);
  EXPECT_FALSE(segment.has_free);
  EXPECT_EQ(segment.backed, ~uint64_t{0}) << "its memory went back, although it never should";
  mi_collect(true);
  EXPECT_EQ(probe_segment(0, index).backed, 0u) << "its memory is held for ever";
}

TEST(HugeTest, SizesThatCannotBeServedAreRefused) {
  probe_huge_t huge;
  EXPECT_FALSE(probe_huge_claim(PTRDIFF_MAX, 1, 0, &huge));
  EXPECT_FALSE(probe_huge_claim(PTRDIFF_MAX - kSegment, 1, 0, &huge));
  EXPECT_FALSE(probe_huge_claim(size_t{1} << 55, 1, 0, &huge));
}

}  // namespace
}  // namespace mi_test
