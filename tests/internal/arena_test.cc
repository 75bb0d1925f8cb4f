// mi/internal/arena.c: segments claimed singly and in runs. Growth is in arena_growth_test.cc, which needs processes in
// which no arena was made yet.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/internal/probe.h"
#include "tests/test_support.h"

namespace mi_test {
namespace {

constexpr size_t kSegment = 4 * kMiB;

struct Segments {
  size_t arena, index, count;
};

// Who holds which segment, beside the arena's own bitmap.
class Shadow {
 public:
  Shadow() : segments_(probe_arena(0).segment_count), held_(new std::atomic<uint8_t>[segments_]()) {}
  // False if one of them was held already.
  bool Take(const Segments& run) {
    bool fresh = true;
    for (size_t i = 0; i < run.count; i++) fresh = held_[run.index + i].exchange(1) == 0 && fresh;
    return fresh;
  }
  void Give(const Segments& run) {
    for (size_t i = 0; i < run.count; i++) held_[run.index + i].store(0);
  }
  size_t size() const { return segments_; }

 private:
  size_t segments_;
  std::unique_ptr<std::atomic<uint8_t>[]> held_;
};

class ArenaTest : public testing::Test {
 protected:
  void SetUp() override {
    mi_free(mi_malloc(1));
    ASSERT_GE(probe_arena_count(), 1u);
  }
};

bool Claim(size_t count, size_t alignment, size_t phase, Segments* run, uint8_t** start = nullptr) {
  probe_segment_t first;
  if (!probe_segments_claim(count, alignment, phase, &first)) return false;
  *run = {first.arena, first.index, count};
  if (start != nullptr) *start = first.start;
  return true;
}

void Release(const Segments& run) { probe_segments_release(run.arena, run.index, run.count); }

TEST_F(ArenaTest, SegmentsClaimedSinglyAndInRunsAreDisjoint) {
  Random random(1);
  Shadow shadow;
  std::vector<Segments> held;
  for (int round = 0; round < 4000; round++) {
    if (held.size() < 100 && !random.OneIn(3)) {
      Segments run;
      uint8_t* start;
      ASSERT_TRUE(Claim(random.OneIn(2) ? 1 : random.Between(2, 70), 0, 0, &run, &start));
      ASSERT_EQ(run.arena, 0u);
      ASSERT_LE(run.index + run.count, shadow.size());
      ASSERT_TRUE(IsAligned(start, kSegment));
      ASSERT_TRUE(shadow.Take(run)) << "segment " << run.index << " was given twice";
      ASSERT_LE(run.index + run.count, probe_arena(0).ready) << "claimed but not accessible";
      for (size_t i = 0; i < run.count; i++) {
        probe_segment_t segment = probe_segment(0, run.index + i);
        ASSERT_FALSE(segment.unused);
        ASSERT_EQ(segment.kind, PROBE_SEGMENT_UNUSED) << "another use was still going on";
      }
      start[0] = 1;  // writable, from the first byte to the last
      start[run.count * kSegment - 1] = 1;
      held.push_back(run);
    } else if (!held.empty()) {
      size_t at = random.Below(held.size());
      shadow.Give(held[at]);
      Release(held[at]);
      for (size_t i = 0; i < held[at].count; i++) ASSERT_TRUE(probe_segment(0, held[at].index + i).unused);
      held[at] = held.back();
      held.pop_back();
    }
  }
  for (const Segments& run : held) Release(run);
}

TEST_F(ArenaTest, ThreadsNeverHoldTheSameSegment) {
  Shadow shadow;
  std::atomic<int> failures{0};
  InThreads(4, [&](int thread) {
    Random random(100 + thread);
    std::vector<Segments> held;
    for (int round = 0; round < Scaled(20000); round++) {
      Segments run;
      if (held.size() < 20 && !random.OneIn(3)) {
        if (!Claim(random.OneIn(2) ? 1 : random.Between(2, 5), 0, 0, &run) || !shadow.Take(run)) failures++;
        held.push_back(run);
      } else if (!held.empty()) {
        size_t at = random.Below(held.size());
        shadow.Give(held[at]);
        Release(held[at]);
        held[at] = held.back();
        held.pop_back();
      }
    }
    for (const Segments& run : held) {
      shadow.Give(run);
      Release(run);
    }
  });
  EXPECT_EQ(failures, 0);
}

TEST_F(ArenaTest, AlignmentAndPhaseAreHonoured) {
  Random random(2);
  std::vector<Segments> held;
  for (size_t alignment = kSegment; alignment <= kGiB; alignment *= 2) {
    for (int round = 0; round < 8; round++) {
      size_t phase = kSegment * random.Below(3 * alignment / kSegment), count = random.Between(1, 3);
      Segments run;
      uint8_t* start;
      ASSERT_TRUE(Claim(count, alignment, phase, &run, &start)) << alignment << " phase " << phase;
      EXPECT_TRUE(IsAligned(start, alignment, phase)) << alignment << " phase " << phase;
      held.push_back(run);
    }
  }
  for (const Segments& run : held) Release(run);
}

TEST_F(ArenaTest, ReleasedSegmentsAreTheNextToBeUsed) {
  for (size_t count : {1u, 1u, 2u, 7u, 64u, 130u}) {
    Segments first, again;
    ASSERT_TRUE(Claim(count, 0, 0, &first));
    Release(first);
    ASSERT_TRUE(Claim(count, 0, 0, &again));
    EXPECT_EQ(again.index, first.index) << count;
    Release(again);
  }
}

TEST_F(ArenaTest, AHoleThatIsTooSmallIsLeftForSmallerRequests) {
  std::vector<Segments> runs(3);
  ASSERT_TRUE(Claim(130, 0, 0, &runs[0]));  // across words of the bitmap
  ASSERT_TRUE(Claim(2, 0, 0, &runs[1]));
  ASSERT_TRUE(Claim(130, 0, 0, &runs[2]));
  Release(runs[1]);
  Segments three, two;
  ASSERT_TRUE(Claim(3, 0, 0, &three));
  EXPECT_TRUE(three.index + 3 <= runs[1].index || three.index > runs[1].index + 1);
  ASSERT_TRUE(Claim(2, 0, 0, &two));
  EXPECT_LE(two.index, runs[1].index);
  for (const Segments& run : {runs[0], runs[2], three, two}) Release(run);
}

TEST_F(ArenaTest, MoreThanTheAddressSpaceIsRefused) {
  size_t arenas = probe_arena_count();
  probe_segment_t first;
  EXPECT_FALSE(probe_segments_claim(size_t{1} << 40, 0, 0, &first));
  EXPECT_EQ(probe_arena_count(), arenas);
}

// Is memory that lies there left out of core files?
bool IsLeftOut(const void* p) {
  std::ifstream maps("/proc/self/smaps");
  bool here = false;
  for (std::string line; std::getline(maps, line);) {
    uintptr_t low, high;
    if (sscanf(line.c_str(), "%lx-%lx ", &low, &high) == 2) {
      here = (low <= reinterpret_cast<uintptr_t>(p) && reinterpret_cast<uintptr_t>(p) < high);
    } else if (here && line.rfind("VmFlags:", 0) == 0) {
      return line.find(" dd") != std::string::npos;
    }
  }
  ADD_FAILURE() << p << " is not mapped";
  return false;
}

TEST_F(ArenaTest, CoreFilesHaveWhatIsInUseAndNotTheReservation) {
  std::vector<void*> blocks;
  for (size_t size : {16u, 5000u, 300000u, 20000000u}) {
    blocks.push_back(mi_malloc(size));
    EXPECT_FALSE(IsLeftOut(blocks.back())) << size;
    EXPECT_FALSE(IsLeftOut(static_cast<char*>(blocks.back()) + size - 1)) << size;
  }
  const probe_arena_t arena = probe_arena(0);
  ASSERT_LT(arena.ready, arena.segment_count);
  EXPECT_TRUE(IsLeftOut(arena.start + arena.ready * kSegment));
  EXPECT_TRUE(IsLeftOut(arena.start + (arena.segment_count - 1) * kSegment));
  for (void* p : blocks) mi_free(p);
}

TEST_F(ArenaTest, TheHeaderIsPrivateAndResolvesToNoPage) {
  probe_arena_t arena = probe_arena(0);
  EXPECT_TRUE(IsAligned(arena.start, kSegment));
  EXPECT_EQ(probe_segment(0, 0).kind, PROBE_SEGMENT_PRIVATE);
  EXPECT_FALSE(probe_segment(0, 0).unused);
  for (size_t at = 1; at < kSegment; at += 100000) EXPECT_EQ(probe_slot_resolved(arena.start + at), nullptr);
}

TEST_F(ArenaTest, TheSpanIsTheFirstArenaWithoutItsHeader) {
  probe_arena_t arena = probe_arena(0);
  uint8_t* end = arena.start + arena.segment_count * kSegment;
  EXPECT_FALSE(probe_span_contains(nullptr));
  EXPECT_FALSE(probe_span_contains(arena.start + kSegment - 1));
  EXPECT_TRUE(probe_span_contains(arena.start + kSegment));
  EXPECT_TRUE(probe_span_contains(end - 1));
  EXPECT_FALSE(probe_span_contains(end)) << "a block that starts there is found otherwise";
  // The slot that the first byte of the span leads to belongs to nobody.
  for (size_t i = 0; i < 8192; i++) ASSERT_EQ(arena.start[i], 0) << i;
}

}  // namespace
}  // namespace mi_test
