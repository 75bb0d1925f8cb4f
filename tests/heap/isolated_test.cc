// Isolated heaps: memory of their own between guards, in quarantine after their end, sealed and opened, and what is
// said to who misuses them.
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "mi/mimalloc-stats.h"
#include "mi/mimalloc.h"
#include "tests/apart_support.h"
#include "tests/test_support.h"

namespace mi_test {
namespace {

constexpr uintptr_t kSegment = 4 * kMiB;
const size_t kAllSizes[] = {0,    1,     8,     16,    17,     100,     1000,           1024,    5000,
                            9000, 30000, 65536, 70000, 300000, 1000000, 4 * kMiB - 100, 5000000, 20 * kMiB};

uintptr_t SegmentOf(const void* p) { return reinterpret_cast<uintptr_t>(p) / kSegment; }
char* Bytes(void* p) { return static_cast<char*>(p); }

class Isolated : public ::testing::TestWithParam<uint32_t> {
 protected:
  mi_heap_t* New(const char* name = "vault") { return NewApart(GetParam(), name); }
  bool IsSecret() const { return (GetParam() & MI_HEAP_SECRET) != 0; }
  size_t Largest() const { return IsSecret() ? LargestSecret() : 20 * kMiB; }
  std::vector<size_t> Sizes() const {
    std::vector<size_t> sizes;
    for (size_t size : kAllSizes) {
      if (size <= Largest()) sizes.push_back(size);
    }
    return sizes;
  }
};

TEST_P(Isolated, ServesEverySizeAndAlignmentAndIsShownAndCountedRight) {
  mi_heap_t* heap = New();
  ASSERT_NE(heap, nullptr);
  EXPECT_STREQ(mi_heap_name(heap), "vault");
  std::vector<void*> blocks;
  std::vector<size_t> sizes;
  for (size_t size : Sizes()) {
    for (size_t alignment : {size_t{1}, size_t{16}, size_t{64}, size_t{4096}, size_t{65536}, 2 * kMiB, 8 * kMiB}) {
      if (alignment > kMiB && size > 5 * kMiB) continue;
      void* p = alignment == 1 ? mi_heap_malloc(heap, size) : mi_heap_malloc_aligned(heap, size, alignment);
      ASSERT_NE(p, nullptr) << size << " aligned to " << alignment;
      EXPECT_TRUE(IsAligned(p, alignment)) << size << " aligned to " << alignment;
      EXPECT_GE(mi_usable_size(p), size);
      EXPECT_EQ(mi_heap_of(p), heap);
      Fill(p, size, blocks.size());
      blocks.push_back(p);
      sizes.push_back(size);
    }
    void* p = mi_heap_zalloc_aligned_at(heap, size, 256, 40);
    ASSERT_NE(p, nullptr);
    EXPECT_TRUE(IsAligned(p, 256, 40));
    EXPECT_TRUE(IsZero(p, 0, size));
    Fill(p, size, blocks.size());
    blocks.push_back(p);
    sizes.push_back(size);
  }
  for (size_t i = 0; i < blocks.size(); i++) EXPECT_TRUE(Holds(blocks[i], sizes[i], i)) << sizes[i];
  EXPECT_TRUE(mi_heap_check(heap));
  EXPECT_TRUE(ShowsExactly(heap, blocks));
  mi_heap_counts_t counts{};
  counts.size = sizeof(counts);
  ASSERT_TRUE(mi_heap_counts_get(heap, &counts));
  EXPECT_EQ(counts.blocks, blocks.size());
  EXPECT_EQ(counts.allocations, blocks.size());
  for (size_t i = 0; i < blocks.size(); i += 2) mi_free(blocks[i]);
  ASSERT_TRUE(mi_heap_counts_get(heap, &counts));
  EXPECT_EQ(counts.blocks, blocks.size() / 2);
  EXPECT_EQ(counts.allocations, blocks.size());
  for (size_t i = 1; i < blocks.size(); i += 2) {
    EXPECT_TRUE(Holds(blocks[i], sizes[i], i)) << sizes[i];
    mi_free(blocks[i]);
  }
  EXPECT_TRUE(ShowsExactly(heap, {}));
  EXPECT_TRUE(mi_heap_check(heap));
  mi_heap_destroy(heap);
}

TEST_P(Isolated, ResizesBlocksInPlaceAndByMoving) {
  mi_heap_t* heap = New();
  Random random(7);
  std::vector<std::pair<void*, size_t>> blocks;
  for (int round = 0; round < Scaled(2000); round++) {
    const size_t size = RandomSize(random, IsSecret() ? Largest() / 200 + 4000 : 3 * kMiB);
    if (blocks.size() < 50 || random.OneIn(3)) {
      void* p = mi_heap_malloc(heap, size);
      ASSERT_NE(p, nullptr);
      Fill(p, size, reinterpret_cast<uintptr_t>(p));
      blocks.emplace_back(p, size);
    } else {
      auto& [p, old] = blocks[random.Below(blocks.size())];
      const uint64_t seed = reinterpret_cast<uintptr_t>(p);
      void* q = random.OneIn(2) ? mi_realloc(p, size) : mi_heap_realloc(heap, p, size);
      ASSERT_NE(q, nullptr);
      ASSERT_TRUE(Holds(q, old, seed, size));
      EXPECT_EQ(mi_heap_of(q), heap);
      Fill(q, size, reinterpret_cast<uintptr_t>(q));
      p = q;
      old = size;
    }
    if (blocks.size() > 100) {
      mi_free(blocks.back().first);
      blocks.pop_back();
    }
  }
  EXPECT_TRUE(mi_heap_check(heap));
  mi_heap_destroy(heap);
}

TEST_P(Isolated, SharesNoSegmentWithAnotherHeap) {
  mi_heap_t* heaps[3] = {New("one"), New("two"), mi_heap_new()};
  std::set<uintptr_t> segments[4];
  std::vector<size_t> sizes = Sizes();
  while (sizes.back() > 4 * kMiB) sizes.pop_back();
  for (int round = 0; round < 300; round++) {
    const size_t size = sizes[static_cast<size_t>(round) % sizes.size()];
    for (int i = 0; i < 3; i++) segments[i].insert(SegmentOf(mi_heap_malloc(heaps[i], size)));
    segments[3].insert(SegmentOf(mi_malloc(size)));
  }
  for (int i = 0; i < 2; i++) {
    for (int k = 0; k < 4; k++) {
      for (uintptr_t segment : segments[i]) {
        if (k == i) continue;
        EXPECT_EQ(segments[k].count(segment), 0u) << "heap " << i << " and heap " << k;
        // Nor has the one behind anybody: it is the guard.
        EXPECT_EQ(segments[k].count(segment + 1), 0u) << "heap " << i << " and heap " << k;
      }
    }
  }
  for (mi_heap_t* heap : heaps) mi_heap_destroy(heap);
}

TEST_P(Isolated, HasInaccessibleMemoryBeforeAndBehindItsSegmentsAndPages) {
  mi_heap_t* heap = New();
  const mi_protections_t got = mi_heap_protections(heap);
  EXPECT_NE(got & MI_PROTECTED_GUARDS, 0u);
  for (size_t size : Sizes()) {
    char* p = Bytes(mi_heap_malloc(heap, size));
    ASSERT_NE(p, nullptr);
    // Upwards from the block, byte by byte in steps of an OS page, something faults within a segment and the guard.
    size_t reach = 0;
    while (reach < size + 2 * kSegment && CanWrite(p + reach)) reach += 4096;
    EXPECT_LT(reach, size + kSegment) << size;
    if ((got & MI_PROTECTED_PAGE_GUARDS) != 0) {
      EXPECT_LE(reach, std::max<size_t>(size + 4096, 512 * kKiB)) << size;
    }
    // What describes the heap's pages lies below, behind a closed stretch.
    char* head = reinterpret_cast<char*>(SegmentOf(p) * kSegment);
    if (size < kMiB) {
      EXPECT_FALSE(CanRead(head + 48 * kKiB));
      EXPECT_FALSE(CanRead(head + 63 * kKiB));
    }
    // And the whole segment behind it is closed.
    char* behind = head + (size / kSegment + 1) * kSegment;
    while (SegmentOf(behind) * kSegment < reinterpret_cast<uintptr_t>(p) + size) behind += kSegment;
    if (size < kMiB) {
      EXPECT_FALSE(CanRead(behind));
    }
  }
  mi_heap_destroy(heap);
}

TEST_P(Isolated, AnOverflowOf64KiBFaultsBehindEveryBlockOfEveryClass) {
  mi_heap_t* heap = New();
  if ((mi_heap_protections(heap) & MI_PROTECTED_PAGE_GUARDS) == 0) GTEST_SKIP() << "the system has no light guards";
  for (size_t size = 16; size <= Largest() && size < 6 * kMiB; size += size / 7 + 1) {
    std::vector<void*> blocks;
    for (int i = 0; i < (size < 70000 ? 60 : 1); i++) blocks.push_back(mi_heap_malloc(heap, size));
    if (size < 1000000) blocks.push_back(mi_heap_malloc_aligned(heap, size, 512 * kKiB));
    for (void* p : blocks) {
      ASSERT_NE(p, nullptr);
      size_t behind = size;
      while (behind < size + 64 * kKiB && CanRead(Bytes(p) + behind)) behind = (behind + 4096) & ~size_t{4095};
      EXPECT_LT(behind, size + 64 * kKiB) << size;
    }
    for (void* p : blocks) mi_free(p);
  }
  mi_heap_destroy(heap);
}

TEST_P(Isolated, NoAddressIsUsedAgainAndOldBlocksFaultAfterItsEnd) {
  mi_heap_t* heap = New();
  std::vector<char*> blocks;
  std::set<uintptr_t> segments;
  for (size_t size : Sizes()) {
    for (int i = 0; i < 20; i++) {
      blocks.push_back(Bytes(mi_heap_malloc(heap, size)));
      segments.insert(SegmentOf(blocks.back()));
    }
  }
  mi_heap_destroy(heap);
  for (char* p : blocks) EXPECT_TRUE(Faults(p, false)) << "an old block can be read";
  size_t reused = 0;
  const std::vector<size_t> sizes = Sizes();
  mi_heap_t* other = New("other");
  mi_heap_t* plain = mi_heap_new();
  for (int i = 0; i < 1000; i++) {
    const size_t size = sizes[static_cast<size_t>(i) % sizes.size()];
    void* p[4] = {mi_malloc(size), mi_heap_malloc(plain, size), mi_heap_malloc(other, size < kMiB ? size : 64),
                  nullptr};
    mi_heap_t* next = New("next");
    p[3] = mi_heap_malloc(next, 100);
    for (void* q : p) reused += segments.count(SegmentOf(q));
    mi_heap_destroy(next);
    mi_free(p[0]);
    mi_free(p[1]);
  }
  EXPECT_EQ(reused, 0u) << "of 4,000 addresses";
  mi_heap_destroy(other);
  mi_heap_destroy(plain);
}

TEST_P(Isolated, TheQuarantineIsBoundedAndGivesTheOldestBackFirst) {
  constexpr size_t kHeaps = 5000;
  std::set<uintptr_t> seen;
  size_t again = 0, first_again = kHeaps;
  const size_t reserved = AddressSpaceBytes();
  for (size_t i = 0; i < kHeaps; i++) {
    mi_heap_t* heap = New("later");
    void* p = mi_heap_malloc(heap, 100);
    ASSERT_NE(p, nullptr);
    if (!seen.insert(SegmentOf(p)).second) {
      again++;
      first_again = std::min(first_again, i);
    }
    EXPECT_TRUE(CanWrite(p));
    mi_heap_destroy(heap);
  }
  EXPECT_GT(again, kHeaps / 4) << "address space is not used again";
  EXPECT_GE(first_again, 1000u) << "address space was used again too early";
  EXPECT_LT(AddressSpaceBytes(), reserved + 8 * kGiB) << "the bound is a bound";
  EXPECT_LT(MappingCount(), 20000u);
}

TEST(IsolatedHeap, SegmentsOfHandlesServeForBlocksLater) {
  constexpr size_t kHeaps = 1400;  // more than the quarantine holds, by some segments
  std::vector<mi_heap_t*> heaps;
  for (size_t i = 0; i < kHeaps; i++) heaps.push_back(NewApart(MI_HEAP_ISOLATED));
  for (mi_heap_t* heap : heaps) mi_heap_destroy(heap);
  heaps.clear();
  mi_collect(true);
  mi_collect(true);
  for (size_t i = 0; i < 200; i++) {
    heaps.push_back(NewApart(MI_HEAP_ISOLATED));
    void* p = mi_heap_malloc(heaps.back(), 100);
    ASSERT_NE(p, nullptr);
    memset(p, 1, 100);
    EXPECT_TRUE(mi_heap_check(heaps.back()));
  }
  for (mi_heap_t* heap : heaps) mi_heap_destroy(heap);
}

TEST_P(Isolated, MemoryOfAHeldHeapStays) {
  mi_heap_t* heap = New();
  ASSERT_TRUE(mi_heap_hold_pages(heap));
  std::vector<void*> freed;
  for (size_t size : Sizes()) {
    if (size < 100) continue;
    for (int i = 0; i < (size < 10000 ? 100 : 1); i++) freed.push_back(mi_heap_malloc(heap, size));
  }
  for (void* p : freed) mi_free(p);
  mi_heap_collect(heap, true);
  for (void* p : freed) EXPECT_TRUE(CanWrite(p));
  EXPECT_TRUE(mi_heap_check(heap));
  EXPECT_TRUE(mi_heap_release_pages(heap));
  for (void* p : freed) EXPECT_FALSE(CanWrite(p));
  EXPECT_EQ(mi_heap_used(heap), 0u);
  EXPECT_TRUE(mi_heap_check(heap));
  mi_heap_destroy(heap);
}

TEST_P(Isolated, EveryMisuseEndsTheProgramWithTheHeapsName) {
  const uint32_t flags = GetParam();
  const auto with = [flags](const std::function<void(mi_heap_t*, char*)>& body, size_t size = 100) {
    return [flags, body, size] {
      mi_heap_t* heap = NewApart(flags, "the vault");
      char* p = Bytes(mi_heap_malloc(heap, size));
      Opaque(mi_heap_malloc(heap, size));  // another one: the page stays
      body(heap, Opaque(p));
    };
  };
  for (size_t size : Sizes()) {
    EXPECT_TRUE(Aborts(with([](mi_heap_t*, char* p) { mi_free(p), mi_free(Opaque(p)); }, size), "\"the vault\""))
        << size;
    EXPECT_TRUE(Aborts(with([](mi_heap_t*, char* p) { mi_free(p + 8 + 1); }, std::max<size_t>(size, 16)),
                       "mi_free: invalid pointer"))
        << size;
    EXPECT_TRUE(Aborts(with(
                           [](mi_heap_t*, char* p) {
                             mi_free(p);
                             InThread([p] { mi_free(Opaque(p)); });
                           },
                           size),
                       "the vault"))
        << size;
  }
  EXPECT_TRUE(Aborts(with([](mi_heap_t*, char* p) { mi_free(p), mi_free(Opaque(p)); }), "mi_free: double free of"));
  EXPECT_TRUE(Aborts(with([](mi_heap_t*, char* p) { mi_free(p), (void)Opaque(mi_realloc(Opaque(p), 300)); }),
                     "realloc: use after free of"));
  EXPECT_TRUE(Aborts(with([](mi_heap_t*, char* p) { (void)Opaque(mi_realloc(p + 16, 300)); }), "realloc: invalid"));
  EXPECT_TRUE(
      Aborts(with([](mi_heap_t*, char* p) { (void)Opaque(mi_usable_size(p + 16)); }), "mi_usable_size: invalid"));
  EXPECT_TRUE(Aborts(with([](mi_heap_t* heap, char* p) { mi_heap_destroy(heap), mi_free(Opaque(p)); }),
                     "was a block of a heap that was destroyed"));
  EXPECT_TRUE(Aborts(with([](mi_heap_t* heap, char*) { mi_heap_destroy(heap), mi_heap_destroy(Opaque(heap)); }),
                     "mi_heap_destroy: the heap was destroyed"));
  EXPECT_TRUE(Aborts(
      with([](mi_heap_t* heap, char*) { mi_heap_destroy(heap), (void)Opaque(mi_heap_malloc(Opaque(heap), 10)); }),
      "allocation: the heap was destroyed"));
  EXPECT_TRUE(Aborts(with([](mi_heap_t*, char* p) { mi_free(reinterpret_cast<char*>(SegmentOf(p) * kSegment) + 100); }),
                     "no block is there"));
  EXPECT_TRUE(
      Aborts(with([](mi_heap_t*, char* p) { mi_free(reinterpret_cast<char*>((SegmentOf(p) + 1) * kSegment + 64)); }),
             "no block is there"));
}

TEST_P(Isolated, ACorruptionCallbackIsCalledAndDoesNotSaveTheProgram) {
  const uint32_t flags = GetParam();
  EXPECT_TRUE(Aborts(
      [flags] {
        mi_register_error([](int err, void*) { fprintf(stderr, "told %d\n", err); }, nullptr);
        mi_heap_t* heap = NewApart(flags);
        void* p = mi_heap_malloc(heap, 100);
        mi_free(p);
        mi_free(Opaque(p));
      },
      "told " + std::to_string(EAGAIN)));
}

TEST_P(Isolated, SealedItCanBeReadOrNotEvenThatAndIsLeftAlone) {
  mi_heap_t* heap = New();
  for (size_t size : Sizes()) {
    if (size == 0) continue;
    char* p = Bytes(mi_heap_malloc(heap, size));
    p[0] = 'a', p[size - 1] = 'z';
    ASSERT_TRUE(mi_heap_protect(heap, MI_PROTECT_READ));
    EXPECT_FALSE(CanWrite(p)) << size;
    EXPECT_FALSE(CanWrite(p + size - 1)) << size;
    EXPECT_TRUE(CanRead(p)) << size;
    EXPECT_EQ(p[size - 1], size == 1 ? 'z' : 'z');
    ASSERT_TRUE(mi_heap_protect(heap, MI_PROTECT_NONE));
    EXPECT_FALSE(CanRead(p)) << size;
    {
      ErrorRecorder errors;
      errno = 0;
      EXPECT_EQ(mi_heap_malloc(heap, size), nullptr);
      EXPECT_EQ(errno, EPERM);
      errno = 0;
      mi_free(p);
      EXPECT_EQ(errno, EPERM);
      EXPECT_EQ(mi_realloc(p, size + 1), nullptr);
      mi_heap_reset(heap);
      EXPECT_EQ(errors.count(EPERM), 4);
      mi_free_size(p, size);
      InThread([p] { mi_free(p); });
      EXPECT_EQ(mi_reallocf(p, size / 2 + 1), nullptr);  // and the free
      EXPECT_EQ(errors.count(EPERM), 8);
      EXPECT_EQ(mi_expand(p, size), nullptr);
      EXPECT_NE(errors.text().find("is sealed"), std::string::npos);
    }
    // What can be known of it needs no look at the blocks.
    EXPECT_TRUE(mi_heap_check(heap));
    EXPECT_GE(mi_usable_size(p), size);
    EXPECT_EQ(mi_heap_of(p), heap);
    EXPECT_GE(CountBlocks(heap), 1u);
    mi_heap_counts_t counts{};
    counts.size = sizeof(counts);
    EXPECT_TRUE(mi_heap_counts_get(heap, &counts));
    EXPECT_EQ(counts.blocks, CountBlocks(heap));
    ASSERT_TRUE(mi_heap_protect(heap, MI_PROTECT_READ_WRITE));
    EXPECT_EQ(p[size - 1], 'z');
    p[0] = 'b';
    if (size % 2 == 0) mi_free(p);
  }
  // It ends sealed as well as open.
  ASSERT_TRUE(mi_heap_protect(heap, MI_PROTECT_NONE));
  mi_heap_destroy(heap);
}

TEST_P(Isolated, OpeningsAreCounted) {
  mi_heap_t* heap = New();
  char* p = Bytes(mi_heap_malloc(heap, 64));
  ASSERT_TRUE(mi_heap_protect(heap, MI_PROTECT_NONE));  // as a new heap is open once
  EXPECT_FALSE(CanRead(p));
  ASSERT_TRUE(mi_heap_protect(heap, MI_PROTECT_READ_WRITE));
  ASSERT_TRUE(mi_heap_protect(heap, MI_PROTECT_READ_WRITE));
  ASSERT_TRUE(mi_heap_protect(heap, MI_PROTECT_NONE));
  EXPECT_TRUE(CanWrite(p)) << "the outer one has it open";
  ASSERT_TRUE(mi_heap_protect(heap, MI_PROTECT_READ));
  EXPECT_TRUE(CanRead(p));
  EXPECT_FALSE(CanWrite(p));
  ASSERT_TRUE(mi_heap_protect(heap, MI_PROTECT_NONE));
  EXPECT_FALSE(CanRead(p));
  ASSERT_TRUE(mi_heap_protect(heap, MI_PROTECT_READ));
  EXPECT_TRUE(CanRead(p));
  // Who opens it may use it, whatever others do at the time.
  InThreads(4, [&](int i) {
    for (int round = 0; round < Scaled(500); round++) {
      ASSERT_TRUE(mi_heap_protect(heap, MI_PROTECT_READ_WRITE));
      char* q = Bytes(mi_heap_malloc(heap, 32 + 16 * static_cast<size_t>(i)));
      ASSERT_NE(q, nullptr);
      *q = 1;
      mi_free(q);
      ASSERT_TRUE(mi_heap_protect(heap, i % 2 == 0 ? MI_PROTECT_NONE : MI_PROTECT_READ));
    }
  });
  EXPECT_FALSE(CanWrite(p));
  mi_heap_destroy(heap);
}

TEST_P(Isolated, AResetFreesEverythingAndKeepsTheHeap) {
  mi_heap_t* heap = New();
  for (int round = 0; round < 5; round++) {
    for (size_t size : Sizes()) ASSERT_NE(mi_heap_malloc(heap, size), nullptr);
    mi_heap_reset(heap);
    EXPECT_TRUE(ShowsExactly(heap, {}));
    EXPECT_TRUE(mi_heap_check(heap));
    char* p = Bytes(mi_heap_zalloc(heap, 5000));
    EXPECT_TRUE(IsZero(p, 0, 5000));
  }
  mi_heap_destroy(heap);
}

TEST_P(Isolated, MayBeADefaultHeap) {
  mi_heap_t* heap = New();
  InThread([&] {
    mi_heap_t* former = mi_heap_set_default(heap);
    ASSERT_NE(former, nullptr);
    for (size_t size : Sizes()) {
      void* p = mi_malloc(size);
      ASSERT_NE(p, nullptr);
      EXPECT_EQ(mi_heap_of(p), heap);
      void* q = mi_zalloc(size);
      EXPECT_EQ(mi_heap_of(q), heap);
      EXPECT_TRUE(IsZero(q, 0, size));
      mi_free(p);
      mi_free(q);
    }
    EXPECT_EQ(mi_heap_set_default(former), heap);
  });
  EXPECT_TRUE(mi_heap_check(heap));
  mi_heap_destroy(heap);
}

TEST_P(Isolated, WhatItCannotDoIsRefusedAndNothingIsLost) {
  mi_heap_t* heap = New();
  mi_heap_t* plain = mi_heap_new();
  void* p = mi_heap_malloc(heap, 100);
  ErrorRecorder errors;
  mi_heap_delete(heap);
  mi_heap_merge(heap, plain);
  mi_heap_merge(plain, heap);
  EXPECT_EQ(mi_heap_mark(heap).serial, 0u);
  EXPECT_FALSE(mi_heap_protect(plain, MI_PROTECT_READ));
  EXPECT_FALSE(mi_heap_protect(nullptr, MI_PROTECT_READ));
  EXPECT_FALSE(mi_heap_protect(heap, static_cast<mi_protection_t>(3)));
  EXPECT_EQ(errors.count(EINVAL), 7) << errors.text();
  EXPECT_EQ(NewApart(GetParam() | MI_HEAP_GUARDED), nullptr);
  EXPECT_EQ(NewApart(GetParam(), "r", 1u << 20), nullptr);
  EXPECT_EQ(errors.count(EINVAL), 9) << errors.text();
  EXPECT_EQ(mi_heap_of(p), heap);
  mi_free(p);
  mi_heap_destroy(heap);
  mi_heap_destroy(plain);
}

TEST_P(Isolated, ThreadsAllocateAndFreeInItAtOnceAndEnd) {
  mi_heap_t* heap = New();
  constexpr int kThreads = 6;
  std::vector<void*> handed[kThreads];
  Barrier barrier(kThreads);
  InThreads(kThreads, [&](int t) {
    Random random(static_cast<uint64_t>(t) + 1);
    std::vector<std::pair<void*, size_t>> mine;
    for (int round = 0; round < Scaled(20000); round++) {
      if (mine.size() < 20 || random.OneIn(2)) {
        const size_t size = random.OneIn(200) ? random.Below(std::min<size_t>(Largest(), 300000)) : random.Below(600);
        void* p = mi_heap_malloc(heap, size);
        ASSERT_NE(p, nullptr);
        Fill(p, size, reinterpret_cast<uintptr_t>(p));
        mine.emplace_back(p, size);
      } else {
        const size_t i = random.Below(mine.size());
        ASSERT_TRUE(Holds(mine[i].first, mine[i].second, reinterpret_cast<uintptr_t>(mine[i].first)));
        mi_free(mine[i].first);
        mine[i] = mine.back();
        mine.pop_back();
      }
    }
    for (auto& [p, size] : mine) handed[t].push_back(p);
    barrier.Arrive();
    for (void* p : handed[(t + 1) % kThreads]) mi_free(p);  // another thread's, which may have ended
  });
  EXPECT_TRUE(mi_heap_check(heap));
  EXPECT_TRUE(ShowsExactly(heap, {}));
  mi_heap_collect(heap, true);
  EXPECT_TRUE(mi_heap_check(heap));
  mi_heap_destroy(heap);
}

TEST_P(Isolated, CollectsMayComeAtAnyTime) {
  mi_heap_t* heap = New();
  std::atomic<bool> stop{false};
  std::vector<std::thread> collectors;
  for (int t = 0; t < 2; t++) {
    collectors.emplace_back([&] {
      while (!stop.load()) mi_heap_collect(heap, true);
    });
  }
  InThreads(3, [&](int t) {
    for (int round = 0; round < Scaled(5000); round++) {
      void* blocks[4];
      for (int i = 0; i < 4; i++) {
        const size_t size = 16 + static_cast<size_t>((round + 100 * i + t) % 700);
        blocks[i] = Opaque(mi_heap_malloc(heap, Opaque(size)));
        ASSERT_NE(blocks[i], nullptr);
        Fill(blocks[i], size, static_cast<uint64_t>(round));
      }
      for (int i = 0; i < 4; i++) {
        const size_t size = 16 + static_cast<size_t>((round + 100 * i + t) % 700);
        ASSERT_TRUE(Holds(blocks[i], size, static_cast<uint64_t>(round)));
        mi_free(blocks[i]);
      }
    }
  });
  stop = true;
  for (std::thread& thread : collectors) thread.join();
  EXPECT_TRUE(mi_heap_check(heap));
  EXPECT_TRUE(ShowsExactly(heap, {}));
  mi_heap_destroy(heap);
}

TEST_P(Isolated, HasALimit) {
  mi_heap_config_t config{};
  config.size = sizeof(config);
  config.flags = GetParam();
  config.name = "limited";
  config.limit = 200 * kKiB;
  mi_heap_t* heap = mi_heap_new_with(&config);
  ASSERT_NE(heap, nullptr);
  for (int round = 0; round < 3; round++) {
    std::vector<void*> blocks;
    for (void* p; (p = mi_heap_malloc(heap, 1000)) != nullptr;) blocks.push_back(p);
    EXPECT_EQ(errno, ENOMEM);
    EXPECT_GT(blocks.size(), 150u);
    EXPECT_LE(blocks.size(), 200u);
    EXPECT_LE(mi_heap_used(heap), 200 * kKiB);
    EXPECT_GE(mi_heap_used(heap), blocks.size() * 1000);
    EXPECT_EQ(mi_heap_malloc(heap, 300 * kKiB), nullptr);
    for (void* p : blocks) mi_free(p);
    mi_heap_collect(heap, true);
    EXPECT_EQ(mi_heap_used(heap), 0u);
  }
  mi_heap_destroy(heap);
}

TEST_P(Isolated, AVisitorMayFreeWhatItIsShown) {
  mi_heap_t* heap = New();
  for (int i = 0; i < 3000; i++) ASSERT_NE(mi_heap_malloc(heap, static_cast<size_t>(i) % 700), nullptr);
  for (size_t size : Sizes()) ASSERT_NE(mi_heap_malloc(heap, size), nullptr);
  size_t freed = 0;
  EXPECT_TRUE(mi_heap_visit_blocks(
      heap, true,
      [](const mi_heap_t*, const mi_heap_area_t*, void* block, size_t, void* arg) {
        if (block == nullptr) return true;
        mi_free(block);
        ++*static_cast<size_t*>(arg);
        return true;
      },
      &freed));
  EXPECT_EQ(freed, 3000 + Sizes().size());
  EXPECT_TRUE(ShowsExactly(heap, {}));
  EXPECT_TRUE(mi_heap_check(heap));
  mi_heap_destroy(heap);
}

TEST_P(Isolated, EndsWithItsParentAndCallsItsCleanupsAndItsDeferredFree) {
  mi_heap_t* parent = mi_heap_new();
  mi_heap_config_t config{};
  config.size = sizeof(config);
  config.flags = GetParam();
  config.parent = parent;
  config.name = "child";
  static int cleanups, calls;
  cleanups = calls = 0;
  config.deferred_free = [](mi_heap_t*, bool, unsigned long long, void*) { calls++; };
  config.deferred_cadence = 100;
  mi_heap_t* heap = mi_heap_new_with(&config);
  ASSERT_NE(heap, nullptr);
  EXPECT_EQ(mi_heap_parent(heap), parent);
  ASSERT_TRUE(mi_heap_on_destroy(
      heap, [](void*) { cleanups++; }, nullptr));
  for (int i = 0; i < 1000; i++) mi_free(mi_heap_malloc(heap, 64));
  EXPECT_GE(calls, 9);
  EXPECT_LE(calls, 11);
  char* p = Bytes(mi_heap_malloc(heap, 64));
  mi_heap_destroy(parent);
  EXPECT_EQ(cleanups, 1);
  EXPECT_TRUE(Faults(p, false));
}

std::string NameOf(const ::testing::TestParamInfo<uint32_t>& which) {
  return std::string((which.param & MI_HEAP_HARDENED) != 0 ? "Hardened" : "") +
         ((which.param & MI_HEAP_QUARANTINE) != 0 ? "Quarantined" : "") +
         ((which.param & MI_HEAP_SECRET) != 0 ? "Secret" : "Isolated");
}

INSTANTIATE_TEST_SUITE_P(Heaps, Isolated,
                         ::testing::Values(MI_HEAP_ISOLATED, MI_HEAP_SECRET, MI_HEAP_ISOLATED | MI_HEAP_HARDENED,
                                           MI_HEAP_ISOLATED | MI_HEAP_QUARANTINE,
                                           MI_HEAP_SECRET | MI_HEAP_HARDENED | MI_HEAP_QUARANTINE),
                         NameOf);

// ---- and with a quarantine of blocks --------------------------------------------------------------------------

class QuarantinedIsolated : public Isolated {};

INSTANTIATE_TEST_SUITE_P(Heaps, QuarantinedIsolated,
                         ::testing::Values(MI_HEAP_ISOLATED | MI_HEAP_QUARANTINE, MI_HEAP_SECRET | MI_HEAP_QUARANTINE,
                                           MI_HEAP_ISOLATED | MI_HEAP_HARDENED | MI_HEAP_QUARANTINE,
                                           MI_HEAP_SECRET | MI_HEAP_HARDENED | MI_HEAP_QUARANTINE),
                         NameOf);

TEST_P(QuarantinedIsolated, NoAddressComesBackBefore1024OthersWereFreed) {
  for (size_t size : Sizes()) {
    if (IsSecret() && size > 30000) continue;  // as many as that cannot be locked
    mi_heap_t* heap = New();
    void* freed = mi_heap_malloc(heap, size);
    mi_free(freed);
    for (int i = 0; i < 1024; i++) {
      void* p = mi_heap_malloc(heap, size);
      ASSERT_NE(p, nullptr);
      ASSERT_NE(p, freed) << size << " bytes, after " << i;
      mi_free(p);
    }
    EXPECT_TRUE(ShowsExactly(heap, {}));
    EXPECT_TRUE(mi_heap_check(heap));
    mi_heap_destroy(heap);
  }
}

TEST_P(QuarantinedIsolated, BlocksInItAreFreeForEveryoneWhoAsks) {
  mi_heap_t* heap = New();
  std::vector<void*> blocks;
  for (int i = 0; i < 500; i++) blocks.push_back(mi_heap_malloc(heap, 100));
  for (int i = 0; i < 300; i++) {
    mi_free(blocks.back());
    blocks.pop_back();
  }
  mi_heap_counts_t counts{};
  counts.size = sizeof(counts);
  ASSERT_TRUE(mi_heap_counts_get(heap, &counts));
  EXPECT_EQ(counts.blocks, 200u);
  EXPECT_EQ(counts.allocations, 500u);
  EXPECT_TRUE(ShowsExactly(heap, blocks));
  EXPECT_TRUE(mi_heap_check(heap));
  mi_heap_reset(heap);
  EXPECT_TRUE(ShowsExactly(heap, {}));
  EXPECT_TRUE(mi_heap_check(heap));
  mi_heap_destroy(heap);
}

TEST_P(QuarantinedIsolated, AFreeOfABlockInItEndsTheProgram) {
  const uint32_t flags = GetParam();
  for (size_t size : {16, 1000, 30000}) {
    const auto freed = [flags, size] {
      mi_heap_t* heap = NewApart(flags, "the vault");
      void* p = mi_heap_malloc(heap, size);
      mi_free(p);
      for (int i = 0; i < 500; i++) mi_free(mi_heap_malloc(heap, 16));
      return p;
    };
    EXPECT_TRUE(Aborts([&] { mi_free(Opaque(freed())); }, "mi_free: double free of"));
    EXPECT_TRUE(Aborts([&] { (void)Opaque(mi_usable_size(Opaque(freed()))); }, "mi_usable_size: use after free of"));
  }
}

TEST_P(QuarantinedIsolated, ItEndsWithAForcedCollectAndAtALimit) {
  mi_heap_config_t config{};
  config.size = sizeof(config);
  config.flags = GetParam();
  config.limit = 200000;
  mi_heap_t* heap = mi_heap_new_with(&config);
  for (int i = 0; i < 100; i++) {  // as much as the limit, again and again
    void* p = mi_heap_malloc(heap, 100000);
    ASSERT_NE(p, nullptr) << i;
    mi_free(p);
  }
  EXPECT_GT(mi_heap_used(heap), 0u);
  mi_heap_collect(heap, true);
  EXPECT_EQ(mi_heap_used(heap), 0u);
  EXPECT_TRUE(mi_heap_check(heap));
  mi_heap_destroy(heap);
  heap = New();
  std::vector<void*> blocks;
  for (int i = 0; i < 10; i++) blocks.push_back(mi_heap_malloc(heap, 100));
  void* freed = blocks[5];
  mi_free(freed);
  for (int i = 0; i < 2000; i++) ASSERT_NE(mi_heap_malloc(heap, 100), freed) << i;
  mi_heap_collect(heap, true);
  int more = 0;
  while (more < 5000 && mi_heap_malloc(heap, 100) != freed) more++;
  EXPECT_LT(more, 5000);
  mi_heap_destroy(heap);
}

TEST_P(QuarantinedIsolated, ItEndsInAllHeapsWithAForcedCollectOfEverything) {
  mi_heap_t* heaps[] = {New(), New(), New()};
  for (mi_heap_t* heap : heaps) {
    void* p = mi_heap_malloc(heap, 5000);
    mi_free(p);
    EXPECT_GT(mi_heap_used(heap), 0u);
  }
  ASSERT_TRUE(mi_heap_protect(heaps[1], MI_PROTECT_READ));
  mi_collect(false);
  EXPECT_GT(mi_heap_used(heaps[0]), 0u);
  mi_collect(true);
  EXPECT_EQ(mi_heap_used(heaps[0]), 0u);
  EXPECT_GT(mi_heap_used(heaps[1]), 0u) << "it is sealed";
  EXPECT_EQ(mi_heap_used(heaps[2]), 0u);
  ASSERT_TRUE(mi_heap_protect(heaps[1], MI_PROTECT_READ_WRITE));
  mi_collect(true);
  EXPECT_EQ(mi_heap_used(heaps[1]), 0u);
  for (mi_heap_t* heap : heaps) {
    EXPECT_TRUE(mi_heap_check(heap));
    mi_heap_destroy(heap);
  }
}

TEST_P(QuarantinedIsolated, HeapsComeAreResetAndSealedAndEndWhileEverythingIsCollected) {
  std::atomic<bool> stop{false};
  std::thread collector([&] {
    while (!stop.load()) mi_collect(true);
  });
  InThreads(2, [&](int t) {
    for (int round = 0; round < Scaled(200); round++) {
      mi_heap_t* heap = New();
      for (int part = 0; part < 3; part++) {
        std::vector<void*> blocks;
        for (int i = 0; i < 20; i++) {
          void* p = mi_heap_malloc(heap, static_cast<size_t>(100 + 50 * t));
          ASSERT_NE(p, nullptr);
          Fill(p, 100, static_cast<uint64_t>(i));
          blocks.push_back(p);
        }
        for (int i = 0; i < 10; i++) mi_free(blocks[static_cast<size_t>(i)]);
        if (part == 0) {
          ASSERT_TRUE(mi_heap_protect(heap, MI_PROTECT_READ));
          ASSERT_TRUE(mi_heap_protect(heap, MI_PROTECT_READ_WRITE));
        }
        for (int i = 10; i < 20; i++) ASSERT_TRUE(Holds(blocks[static_cast<size_t>(i)], 100, static_cast<uint64_t>(i)));
        if (part == 1) mi_heap_reset(heap);
      }
      mi_heap_destroy(heap);
    }
  });
  stop = true;
  collector.join();
}

TEST_P(QuarantinedIsolated, OfLargeBlocksOnlyTheAddressStays) {
  if (IsSecret()) GTEST_SKIP() << "locked memory stays";
  mi_heap_t* heap = New();
  void* p = mi_heap_malloc(heap, kMiB);
  memset(p, 1, kMiB);
  mi_free(p);
  std::vector<unsigned char> resident(kMiB / 4096);
  ASSERT_EQ(mincore(p, kMiB, resident.data()), 0);
  EXPECT_EQ(std::count_if(resident.begin(), resident.end(), [](unsigned char r) { return (r & 1) != 0; }), 0);
  mi_heap_destroy(heap);
}

// ---- isolated and hardened ------------------------------------------------------------------------------------

class HardenedIsolated : public Isolated {};

INSTANTIATE_TEST_SUITE_P(Heaps, HardenedIsolated,
                         ::testing::Values(MI_HEAP_ISOLATED | MI_HEAP_HARDENED, MI_HEAP_SECRET | MI_HEAP_HARDENED),
                         NameOf);

TEST_P(HardenedIsolated, KnowsWhatWasAskedForToTheByte) {
  mi_heap_t* heap = New();
  for (size_t size : Sizes()) {
    const size_t least = std::max<size_t>(size, 1);
    for (void* p : {mi_heap_malloc(heap, size), mi_heap_malloc_aligned(heap, size, 4096),
                    mi_heap_zalloc_aligned_at(heap, size, 256, 40)}) {
      ASSERT_NE(p, nullptr);
      EXPECT_EQ(mi_usable_size(p), least);
      memset(p, 1, least);
      char* q = Bytes(mi_realloc(p, least + 1));
      EXPECT_EQ(mi_usable_size(q), least + 1);
      EXPECT_EQ(q[0], 1);
      memset(q, 2, least + 1);
      q = Bytes(mi_rezalloc(q, least + 9));
      EXPECT_EQ(mi_usable_size(q), least + 9);
      EXPECT_TRUE(IsZero(q, least + 1, least + 9));
      memset(q, 3, least + 9);
      ASSERT_EQ(mi_expand(q, least), q);
      EXPECT_EQ(mi_usable_size(q), least);
      mi_free_size(q, mi_usable_size(q));
    }
  }
  EXPECT_TRUE(mi_heap_check(heap));
  mi_heap_destroy(heap);
}

TEST_P(HardenedIsolated, OneByteBehindABlockEndsTheProgramAtItsFreeOrResize) {
  const uint32_t flags = GetParam();
  for (size_t size : Sizes()) {
    if (size == 0) continue;
    const std::string due = "overflow: byte " + std::to_string(size) + " of the block";
    for (int way = 0; way < 4; way++) {
      EXPECT_TRUE(Aborts(
          [=] {
            mi_heap_t* heap = NewApart(flags, "the vault");
            char* p = Bytes(way == 3 ? mi_heap_malloc_aligned_at(heap, size, 64, 8) : mi_heap_malloc(heap, size));
            memset(p, 1, size);
            Opaque(p)[size] = 0;
            if (way == 0 || way == 3) mi_free(p);
            if (way == 1) InThread([p] { mi_free(p); });
            if (way == 2) (void)Opaque(mi_realloc(p, 2 * size + 1));
          },
          due))
          << size << " way " << way;
    }
    EXPECT_TRUE(Aborts(
        [=] {
          mi_heap_t* heap = NewApart(flags, "the vault");
          mi_free_size(Opaque(mi_heap_malloc(heap, size)), size + 1);
        },
        " is one of " + std::to_string(size) + " bytes, not of "))
        << size;
  }
}

TEST_P(HardenedIsolated, WhichOfManyNeighboursComesNextIsNotKnown) {
  std::set<std::vector<ptrdiff_t>> orders;
  size_t in_row = 0;
  constexpr int kHeaps = 20, kBlocks = 40;
  for (int i = 0; i < kHeaps; i++) {
    mi_heap_t* heap = New();
    std::vector<ptrdiff_t> order;
    char* last = nullptr;
    for (int n = 0; n < kBlocks; n++) {
      char* p = Bytes(mi_heap_malloc(heap, 40));
      order.push_back(last == nullptr ? static_cast<ptrdiff_t>(reinterpret_cast<uintptr_t>(p) % 65536) : p - last);
      in_row += (last != nullptr && p == last + 48);
      last = p;
    }
    orders.insert(order);
    mi_heap_destroy(heap);
  }
  EXPECT_EQ(orders.size(), static_cast<size_t>(kHeaps));
  EXPECT_LT(in_row, static_cast<size_t>(kHeaps) * kBlocks / 5);
}

TEST_P(HardenedIsolated, ThreadsKeepTheSizesOfTheirBlocksApart) {
  mi_heap_t* heap = New();
  InThreads(3, [&](int t) {
    Random random(static_cast<uint64_t>(t));
    std::vector<std::pair<void*, size_t>> blocks;
    for (int i = 0; i < Scaled(5000); i++) {
      const size_t size = 1 + random.Below(random.OneIn(20) ? 3000 : 60);
      void* p = mi_heap_malloc(heap, size);
      ASSERT_NE(p, nullptr);
      memset(p, t, size);
      blocks.emplace_back(p, size);
      if (blocks.size() < 100) continue;
      const size_t at = random.Below(blocks.size());
      ASSERT_EQ(mi_usable_size(blocks[at].first), blocks[at].second);
      mi_free(blocks[at].first);
      blocks[at] = blocks.back();
      blocks.pop_back();
    }
    for (auto& [p, size] : blocks) mi_free_size(p, size);
  });
  EXPECT_TRUE(mi_heap_check(heap));
  mi_heap_destroy(heap);
}

TEST(IsolatedHeap, IsACopyInAForkedChild) {
  mi_heap_t* heap = NewApart(MI_HEAP_ISOLATED);
  char* p = Bytes(mi_heap_malloc(heap, 100));
  strcpy(p, "before");
  EXPECT_EQ(InChild([&] {
              if (strcmp(p, "before") != 0) return 1;
              strcpy(p, "child");
              for (int i = 0; i < 1000; i++) mi_free(mi_heap_malloc(heap, 100));
              if (!mi_heap_check(heap)) return 2;
              mi_free(p);
              mi_heap_destroy(heap);
              return Faults(p, false) ? 0 : 3;
            }),
            0);
  EXPECT_STREQ(p, "before");
  mi_heap_destroy(heap);
}

TEST(IsolatedHeap, TheQuarantineYieldsWhereAddressSpaceIsLimited) {
  if (kSanitized) GTEST_SKIP() << "a sanitizer needs all address space";
  EXPECT_EQ(InChild([] {
              // The first isolated heap of this process reserves an eighth of the limit.
              const rlimit limit{AddressSpaceBytes() + 2 * kGiB, RLIM_INFINITY};
              if (setrlimit(RLIMIT_AS, &limit) != 0) return 1;
              for (int i = 0; i < 2000; i++) {
                mi_heap_t* heap = NewApart(MI_HEAP_ISOLATED);
                void* p = heap == nullptr ? nullptr : mi_heap_malloc(heap, 100);
                if (p == nullptr) return 2;
                mi_heap_destroy(heap);
              }
              return 0;
            }),
            0);
}

// Kernels before 6.13.
TEST(IsolatedHeap, WithoutLightGuardsItsSegmentsHaveGuardsAndItsMemoryIsClean) {
  if (kSanitized) GTEST_SKIP() << "a sanitizer needs madvise";
  EXPECT_EQ(InChild([&] {
              if (!RefuseCall(SYS_madvise, EINVAL)) return 1;
              mi_heap_t* heap = NewApart(MI_HEAP_ISOLATED);
              if (heap == nullptr) return 2;
              const mi_protections_t got = mi_heap_protections(heap);
              if ((got & MI_PROTECTED_PAGE_GUARDS) != 0 || (got & MI_PROTECTED_GUARDS) == 0) return 3;
              for (int round = 0; round < 20; round++) {
                std::vector<char*> blocks;
                for (size_t size : {16, 100, 5000, 40000, 200000, 5000000}) {
                  for (int i = 0; i < 5; i++) {
                    char* p = Bytes(mi_heap_zalloc(heap, size));
                    if (p == nullptr || !IsZero(p, 0, size)) return 4;
                    memset(p, 0x5a, size);
                    blocks.push_back(p);
                  }
                }
                char* last = blocks.back();
                char* behind = reinterpret_cast<char*>((SegmentOf(blocks[0]) + 1) * kSegment);
                if (CanRead(behind)) return 5;
                if (!mi_heap_check(heap)) return 6;
                for (char* p : blocks) mi_free(p);
                mi_heap_collect(heap, true);
                if (CanRead(last)) return 7;
              }
              char* p = Bytes(mi_heap_malloc(heap, 100));
              mi_heap_destroy(heap);
              return CanRead(p) ? 8 : 0;
            }),
            0);
}

TEST(IsolatedHeap, ThreadsThatUseItWhileTheProcessForksLeaveTheChildAHeapThatWorks) {
  mi_heap_t* heap = NewApart(MI_HEAP_ISOLATED);
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (int t = 0; t < 2; t++) {
    threads.emplace_back([&, t] {
      for (size_t round = 0; !stop.load(); round++) {
        void* p = mi_heap_malloc(heap, 16 + (round * 97 + static_cast<size_t>(t)) % 70000);
        if (p != nullptr) *Bytes(p) = 1;
        mi_free(p);
        if (round % 50 == 0) mi_heap_destroy(NewApart(MI_HEAP_ISOLATED));
      }
    });
  }
  for (int round = 0; round < Scaled(20); round++) {
    EXPECT_EQ(InChild([&] {
                for (size_t i = 0; i < 500; i++) {
                  char* p = Bytes(mi_heap_malloc(heap, 16 + i * 131));
                  if (p == nullptr) return 1;
                  memset(p, 1, 16 + i * 131);
                  mi_free(p);
                }
                if (!mi_heap_check(heap)) return 2;
                if (!mi_heap_protect(heap, MI_PROTECT_READ)) return 3;
                mi_heap_destroy(heap);
                mi_heap_t* own = NewApart(MI_HEAP_ISOLATED);
                if (own == nullptr || mi_heap_malloc(own, 100) == nullptr) return 4;
                mi_heap_destroy(own);
                return 0;
              }),
              0);
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(mi_heap_check(heap));
  mi_heap_destroy(heap);
}

TEST(IsolatedHeap, ProtectionsAreNamedAndRequired) {
  std::set<std::string> names;
  for (int i = 0; i < 10; i++) names.insert(mi_protection_name(1u << i));
  EXPECT_EQ(names.size(), 10u);
  EXPECT_EQ(names.count(""), 0u);
  EXPECT_STREQ(mi_protection_name(0), "");
  EXPECT_STREQ(mi_protection_name(3), "");
  EXPECT_STREQ(mi_protection_name(1024), "");
  EXPECT_EQ(mi_heap_protections(mi_heap_main()), 0u);
  ErrorRecorder errors;
  EXPECT_EQ(mi_heap_protections(nullptr), 0u);
  EXPECT_EQ(errors.count(EINVAL), 1);
  // A plain heap has none, and an isolated one keeps no secrets.
  errno = 0;
  EXPECT_EQ(NewApart(0, "plain", MI_PROTECTED_GUARDS), nullptr);
  EXPECT_EQ(errno, ENOTSUP);
  errno = 0;
  EXPECT_EQ(NewApart(MI_HEAP_ISOLATED, "isolated", MI_PROTECTED_GUARDS | MI_PROTECTED_SWAP), nullptr);
  EXPECT_EQ(errno, ENOTSUP);
  EXPECT_NE(errors.text().find("heap isolated cannot be made: not to be had: no swap"), std::string::npos)
      << errors.text();
  mi_heap_t* heap = NewApart(MI_HEAP_ISOLATED, "isolated", MI_PROTECTED_GUARDS | MI_PROTECTED_SEALING);
  ASSERT_NE(heap, nullptr);
  mi_heap_destroy(heap);
}

}  // namespace
}  // namespace mi_test
