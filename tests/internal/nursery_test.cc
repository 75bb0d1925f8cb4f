// mi/heap/nursery.c: the bits of regions against a model, recycled regions, when a class earns pages, and the bounds of
// what threads keep.
#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "gtest/gtest.h"
#include "tests/internal/probe.h"
#include "tests/test_support.h"

namespace mi_test {
namespace {

constexpr size_t kGranule = 16;

// What the bits of a heap's regions should be, told by what the program did and by nothing else.
class RegionModel {
 public:
  explicit RegionModel(mi_heap_t* heap) : heap_(heap) {}

  // An object of `size` bytes at an address with this alignment. False: it is not in a region.
  bool Allocate(size_t size, size_t alignment, bool zero) {
    uint8_t* p = static_cast<uint8_t*>(alignment > kGranule ? mi_heap_malloc_aligned(heap_, size, alignment)
                                       : zero               ? mi_heap_zalloc(heap_, size)
                                                            : mi_heap_malloc(heap_, size));
    EXPECT_NE(p, nullptr);
    EXPECT_TRUE(IsAligned(p, alignment));
    if (zero && alignment <= kGranule) {
      EXPECT_TRUE(IsZero(p, 0, size));
    }
    probe_region_t region;
    if (p == nullptr || !probe_region_of(p, &region)) {
      mi_free(p);
      return false;
    }
    Known& known = regions_[region.start];
    const size_t granule = static_cast<size_t>(p - region.start) / kGranule;
    const size_t granules = std::max<size_t>(1, (size + kGranule - 1) / kGranule);
    if (known.bump == 0 || granule < known.bump || (known.live == 0 && !known.HasStarts(region, granule))) {
      // New to the heap, or empty and used again from its start (an aligned object may lie behind the former bump).
      EXPECT_EQ(known.live, 0u) << "a region with live objects was reset";
      known = Known();
      known.bump = region.first;
    }
    if (granule > known.bump) {
      EXPECT_GT(alignment, kGranule) << "a gap where none is needed";
      EXPECT_LT((granule - known.bump) * kGranule, alignment);
      known.Set(known.starts, known.bump);
      known.Set(known.freed, known.bump);
      known.Set(known.remote, known.bump);  // freed twice: a gap, and no object that there ever was
    }
    known.Set(known.starts, granule);
    known.bump = granule + granules;
    known.live++;
    current_ = region.start;
    memset(p, 0xab, size);
    live_.push_back({p, region.start, size});
    ExpectBits(region.start);
    return true;
  }

  size_t live() const { return live_.size(); }

  void Free(size_t index, bool remote, Worker* other) {
    Object object = live_[index];
    live_[index] = live_.back();
    live_.pop_back();
    if (remote) {
      other->Run([&] { mi_free(object.p); });
    } else {
      mi_free(object.p);
    }
    Known& known = regions_[object.region];
    known.Set(remote ? known.remote : known.freed, static_cast<size_t>(object.p - object.region) / kGranule);
    known.live--;
    ExpectBits(object.region);
  }

  // In place where the object is the last of the current region and there is room; else it moves.
  void Resize(size_t index, size_t size) {
    Object object = live_[index];
    Known& known = regions_[object.region];
    const size_t granule = static_cast<size_t>(object.p - object.region) / kGranule;
    const size_t usable = mi_usable_size(object.p);
    EXPECT_EQ(usable, (known.Next(granule) - granule) * kGranule);
    uint8_t* p = static_cast<uint8_t*>(mi_heap_realloc(heap_, object.p, size));
    ASSERT_NE(p, nullptr);
    if (p == object.p) {
      const bool is_last = known.Next(granule) == known.bump && object.region == current_;
      if (size > usable || size < usable / 2 || size == 0) {
        EXPECT_TRUE(is_last) << "an object grew or shrank in place that is not the last of the current region";
        known.bump = granule + std::max<size_t>(1, (size + kGranule - 1) / kGranule);
      }
      live_[index].size = size;
      memset(p, 0xab, size);
    } else {
      // A new object and a free of the old one.
      known.Set(known.freed, granule);
      known.live--;
      ExpectMoved(index, p, size);
    }
    ExpectBits(object.region);
  }

  void ExpectAllBits() {
    for (const auto& [start, known] : regions_) ExpectBits(start);
    for (const Object& object : live_) {
      EXPECT_EQ(FindOther(object.p, 0, std::min<size_t>(object.size, kGranule), 0xab),
                std::min<size_t>(object.size, kGranule));
    }
  }

 private:
  struct Known {
    uint64_t starts[64] = {0}, freed[64] = {0}, remote[64] = {0};
    size_t bump = 0;
    size_t live = 0;
    static void Set(uint64_t* words, size_t granule) { words[granule / 64] |= uint64_t{1} << (granule % 64); }
    // Does the region have the known objects' starts below the known bump, and a gap there if the object at `granule`
    // does not follow at once?
    bool HasStarts(const probe_region_t& region, size_t granule) const {
      for (size_t i = 0; i < bump; i++) {
        if (((starts[i / 64] ^ region.starts[i / 64]) >> (i % 64) & 1) != 0) return false;
      }
      return granule <= bump || (region.starts[bump / 64] >> (bump % 64) & 1) != 0;
    }
    // Where the object at `granule` ends.
    size_t Next(size_t granule) const {
      for (size_t i = granule + 1; i < bump; i++) {
        if ((starts[i / 64] >> (i % 64) & 1) != 0) return i;
      }
      return bump;
    }
  };
  struct Object {
    uint8_t* p;
    uint8_t* region;
    size_t size;
  };

  void ExpectMoved(size_t index, uint8_t* p, size_t size) {
    memset(p, 0xab, size);
    probe_region_t region;
    if (!probe_region_of(p, &region)) {
      mi_free(p);
      live_[index] = live_.back();
      live_.pop_back();
      return;
    }
    Known& known = regions_[region.start];
    const size_t granule = static_cast<size_t>(p - region.start) / kGranule;
    if (known.bump == 0 || granule < known.bump || (known.live == 0 && !known.HasStarts(region, granule))) {
      EXPECT_EQ(known.live, 0u);
      known = Known();
      known.bump = region.first;
    }
    EXPECT_EQ(granule, known.bump);
    known.Set(known.starts, granule);
    known.bump = granule + std::max<size_t>(1, (size + kGranule - 1) / kGranule);
    known.live++;
    current_ = region.start;
    live_[index] = {p, region.start, size};
    ExpectBits(region.start);
  }

  void ExpectBits(uint8_t* start) {
    const Known& known = regions_[start];
    probe_region_t region;
    if (!probe_region_of(start + region_head_, &region) || region.start != start) return;  // it went back, empty
    ASSERT_GE(region.end, known.bump == 0 ? 0 : known.bump) << "objects beyond the region's end";
    ASSERT_EQ(region.end, known.bump);
    for (size_t w = 0; w < region.words; w++) {
      ASSERT_EQ(region.starts[w], known.starts[w]) << "starts, word " << w;
      ASSERT_EQ(region.freed[w], known.freed[w]) << "freed, word " << w;
      ASSERT_EQ(region.remote[w], known.remote[w]) << "remote, word " << w;
    }
  }

  static constexpr size_t region_head_ = 8;  // any address in the region leads to it
  mi_heap_t* heap_;
  uint8_t* current_ = nullptr;
  std::map<uint8_t*, Known> regions_;
  std::vector<Object> live_;
};

void RandomLives(uint64_t seed, int heaps, int steps, size_t largest, bool resize) {
  Worker owner, other;
  owner.Run([&] {
    Random random(seed);
    for (int round = 0; round < heaps && !testing::Test::HasFailure(); round++) {
      mi_heap_t* heap = mi_heap_new();
      ASSERT_NE(heap, nullptr);
      RegionModel model(heap);
      size_t in_regions = 0;
      for (int step = 0; step < steps && !testing::Test::HasFailure(); step++) {
        switch (random.Below(resize ? 8 : 7)) {
          case 0:
          case 1:
            if (model.live() > 0) model.Free(random.Below(model.live()), false, nullptr);
            break;
          case 2:
            if (model.live() > 0 && random.OneIn(4)) model.Free(random.Below(model.live()), true, &other);
            break;
          case 3:
            if (random.OneIn(40)) {  // everything, so that regions are used again
              while (model.live() > 0) model.Free(model.live() - 1, false, nullptr);
            }
            break;
          case 7:
            if (model.live() > 0) {
              model.Resize(random.OneIn(2) ? model.live() - 1 : random.Below(model.live()), random.Below(largest));
            }
            break;
          default:
            in_regions += model.Allocate(random.Below(largest),
                                         random.OneIn(8) ? size_t{16} << random.Between(1, 4) : 1, random.OneIn(4));
            break;
        }
      }
      EXPECT_GE(in_regions, static_cast<size_t>(std::min(steps / 20, 20)));
      model.ExpectAllBits();
      mi_heap_destroy(heap);
    }
  });
}

TEST(RegionBitsTest, TheyAreExactThroughRandomAllocationAndFrees) { RandomLives(1, Scaled(100), 400, 200, false); }

TEST(RegionBitsTest, TheyAreExactThroughResizing) { RandomLives(2, Scaled(100), 400, 300, true); }

TEST(RegionBitsTest, TheyAreExactInLargeRegionsOfManySizes) { RandomLives(3, Scaled(40), 1500, 2000, true); }

TEST(RegionBitsTest, ShortLivesInRecycledRegionsMeetNoBitsOfFormerOnes) { RandomLives(4, Scaled(2000), 30, 500, true); }

TEST(RegionBitsTest, ManyLivesOfDifferentLengthShareRegionsWithoutStaleBits) {
  Random random(5);
  for (int round = 0; round < Scaled(100); round++) {
    const auto seed = random.Next();  // one after the other: the order of arguments is the compiler's
    const int steps = 10 << random.Below(6);
    RandomLives(seed, 3, steps, 700, true);
  }
}

TEST(RegionTest, UsableSizeEndsWhereTheNextObjectStarts) {
  InThread([] {
    mi_heap_t* heap = mi_heap_new();
    for (size_t size = 1; size <= 120; size++) {
      void* p = mi_heap_malloc(heap, size);
      void* q = mi_heap_malloc(heap, 1);
      probe_region_t of_p, of_q;
      ASSERT_TRUE(probe_region_of(p, &of_p) && probe_region_of(q, &of_q));
      EXPECT_EQ(mi_usable_size(p), (size + 15) / 16 * 16);
      mi_heap_reset(heap);
    }
    mi_heap_destroy(heap);
  });
}

TEST(RegionTest, RegionsGrowAndAreCountedByTheirPart) {
  InThread([] {
    mi_heap_t* heap = mi_heap_new();
    EXPECT_EQ(probe_part(heap).regions, 0u) << "an empty heap is its handle";
    size_t regions = 0;
    Random random(6);
    for (int i = 0; i < 500; i++) {
      ASSERT_NE(mi_heap_malloc(heap, random.Between(1, 900)), nullptr);
      probe_part_t part = probe_part(heap);
      ASSERT_EQ(part.bytes, part.regions_bytes + part.spare_bytes);
      ASSERT_GE(part.regions, regions);
      regions = part.regions;
    }
    EXPECT_GE(regions, 5u);
    EXPECT_LE(regions, 40u) << "regions do not grow: some 220 KiB were allocated";
    mi_heap_destroy(heap);
  });
}

TEST(RegionTest, RegionsOfAHeapWithoutLiveObjectsAreUsedAgainAndNotAddedTo) {
  InThread([] {
    mi_heap_t* heap = mi_heap_new();
    size_t bytes = 0;
    for (int i = 0; i < Scaled(20000); i++) {
      mi_free(mi_heap_malloc(heap, 16 + i % 200));
      if (i == 1000) bytes = probe_part(heap).bytes;
    }
    EXPECT_LE(probe_part(heap).bytes, std::max<size_t>(bytes, 16 * kKiB));
    mi_heap_destroy(heap);
  });
}

// Bytes of objects of one class that a heap takes into regions before the class has pages; every `free_each`th object
// is freed at once (0: none).
size_t BytesBeforePages(size_t size, int free_each) {
  size_t bytes = 0;
  InThread([&] {
    mi_heap_t* heap = mi_heap_new();
    probe_region_t region;
    for (int i = 1; bytes < 4 * kMiB; i++) {
      void* p = mi_heap_malloc(heap, size);
      ASSERT_NE(p, nullptr);
      if (!probe_region_of(p, &region)) break;
      bytes += (size + 15) / 16 * 16;
      if (free_each != 0 && i % free_each == 0) mi_free(p);
    }
    mi_theap_t* theap = probe_theap_of_heap(heap);
    ASSERT_NE(theap, nullptr);
    EXPECT_EQ(probe_queue_length(theap, probe_bin_of(size)), 1u);
    EXPECT_EQ(probe_theap_page_count(theap), 1u);
    EXPECT_TRUE(probe_region_of(mi_heap_malloc(heap, 3 * size + 40), &region)) << "another class has earned nothing";
    mi_heap_destroy(heap);
  });
  return bytes;
}

TEST(EarnedPagesTest, AClassWhoseObjectsAreFreedMovesToPagesAfterAboutSixteenKiBAndOthersStayYoung) {
  for (size_t size : {16u, 32u, 64u, 192u, 512u, 1000u}) {
    size_t bytes = BytesBeforePages(size, 2);
    EXPECT_GE(bytes, 8 * kKiB) << size;
    EXPECT_LE(bytes, 48 * kKiB) << size;
  }
}

TEST(EarnedPagesTest, AClassThatOnlyGrowsStaysInRegionsLongerButNotForEver) {
  for (size_t size : {16u, 32u, 64u, 192u, 512u, 1000u}) {
    size_t bytes = BytesBeforePages(size, 0);
    EXPECT_GE(bytes, 8 * kKiB) << size;
    EXPECT_LE(bytes, 256 * kKiB) << size;
    EXPECT_GE(bytes, BytesBeforePages(size, 2)) << size;
  }
}

TEST(EarnedPagesTest, ObjectsAboveEightKiBOpenNoRegion) {
  InThread([] {
    mi_heap_t* heap = mi_heap_new();
    probe_region_t region;
    EXPECT_FALSE(probe_region_of(mi_heap_malloc(heap, 8 * kKiB + 1), &region));
    EXPECT_EQ(probe_part(heap).regions, 0u);
    EXPECT_TRUE(probe_region_of(mi_heap_malloc(heap, 8 * kKiB), &region));
    EXPECT_EQ(probe_part(heap).regions, 1u);
    mi_heap_destroy(heap);
  });
}

// ---- what threads keep ----------------------------------------------------------------------------------------

void Populate(mi_heap_t* heap, Random& random, size_t bytes) {
  for (size_t got = 0; got < bytes;) {
    size_t size = random.Between(16, 512);
    ASSERT_NE(mi_heap_malloc(heap, size), nullptr);
    got += size;
  }
}

void ExpectBounded(const probe_cache_t& cache) {
  EXPECT_LE(cache.count, 16u);
  EXPECT_EQ(cache.count, cache.listed);
  EXPECT_EQ(cache.bytes, cache.listed_bytes);
  EXPECT_LE(cache.bytes, cache.limit);
  EXPECT_LE(cache.limit, 128 * kKiB);
}

TEST(HandleCacheTest, WhatAThreadKeepsIsBoundedAndGoesBackOnCollect) {
  InThread([] {
    const void* record = probe_thread_record();
    Random random(7);
    size_t most = 0;
    for (int round = 0; round < Scaled(3000); round++) {
      std::vector<mi_heap_t*> heaps;
      for (size_t n = random.OneIn(20) ? 40 : random.Between(1, 4); n > 0; n--) {
        heaps.push_back(mi_heap_new());
        Populate(heaps.back(), random, random.OneIn(10) ? 100 * kKiB : random.Below(12 * kKiB));
      }
      for (mi_heap_t* heap : heaps) mi_heap_destroy(heap);
      probe_cache_t cache = probe_cache(record);
      ExpectBounded(cache);
      most = std::max(most, cache.bytes);
    }
    EXPECT_GT(most, 4 * kKiB) << "nothing was kept: the test shows nothing";
    mi_collect(true);
    probe_cache_t cache = probe_cache(record);
    EXPECT_EQ(cache.count, 0u);
    EXPECT_EQ(cache.bytes, 0u);
    EXPECT_EQ(cache.listed, 0u);
    EXPECT_LE(cache.limit, 32 * kKiB) << "what was learnt is forgotten";
  });
}

TEST(HandleCacheTest, TheNextHeapGetsTheHandleAndTheRegionsOfTheLast) {
  InThread([] {
    Random random(8);
    mi_heap_t* first = mi_heap_new();
    Populate(first, random, 8 * kKiB);
    size_t bytes = probe_part(first).bytes;
    uint64_t id = probe_heap(first).id;
    mi_heap_destroy(first);
    EXPECT_EQ(probe_heap(first).id, 0u);
    mi_heap_t* second = mi_heap_new();
    EXPECT_EQ(second, first);
    EXPECT_NE(probe_heap(second).id, id);
    EXPECT_EQ(probe_part(second).regions_bytes + probe_part(second).spare_bytes, bytes);
    EXPECT_EQ(probe_heap(second).refs, 1u);
    EXPECT_EQ(CountBlocks(second), 0u);
    Populate(second, random, 8 * kKiB);
    EXPECT_LE(probe_part(second).bytes, 2 * bytes) << "spare regions are taken before new ones";
    mi_heap_destroy(second);
  });
}

TEST(HandleReturnTest, AConsumersHeapsComeBackToTheirMakerBounded) {
  Worker maker, consumer;
  const void* record = nullptr;
  maker.Run([&] { record = probe_thread_record(); });
  std::set<mi_heap_t*> handles;
  Random random(9);
  size_t reused = 0, most = 0;
  for (int round = 0; round < Scaled(300); round++) {
    std::vector<mi_heap_t*> heaps(random.Between(1, 40));
    maker.Run([&] {
      for (mi_heap_t*& heap : heaps) {
        heap = mi_heap_new();
        Populate(heap, random, random.Below(10 * kKiB));
      }
    });
    for (mi_heap_t* heap : heaps) reused += !handles.insert(heap).second;
    consumer.Run([&] {
      for (mi_heap_t* heap : heaps) mi_heap_destroy(heap);
      // Who ends more heaps than it makes keeps nothing.
      probe_cache_t own = probe_cache(probe_thread_record());
      EXPECT_EQ(own.count, 0u);
      EXPECT_EQ(own.bytes, 0u);
    });
    probe_cache_t cache = probe_cache(record);
    EXPECT_LE(cache.returned_listed_bytes, 128 * kKiB);
    EXPECT_LE(cache.returned_bytes, 128 * kKiB + 40 * kKiB);
    EXPECT_EQ(cache.returned_bytes, cache.returned_listed_bytes + 512 * cache.returned);
    most = std::max(most, cache.returned);
    for (mi_heap_t* heap : heaps) ASSERT_EQ(probe_heap(heap).id, 0u);
  }
  EXPECT_GT(most, 0u);
  EXPECT_GT(reused, 0u);
  EXPECT_LE(handles.size(), 400u) << "handles do not come back";
  maker.Run([&] {
    mi_collect(true);
    EXPECT_EQ(probe_cache(record).returned, 0u);
    EXPECT_EQ(probe_cache(record).returned_bytes, 0u);
    EXPECT_EQ(probe_cache(record).listed, 0u);
  });
}

TEST(HandleReturnTest, HeapsOfAnEndedMakerAreNotReturnedToWhoHasItsRecordNow) {
  std::vector<mi_heap_t*> heaps(20);
  const void* record = nullptr;
  InThread([&] {
    record = probe_thread_record();
    for (mi_heap_t*& heap : heaps) {
      heap = mi_heap_new();
      ASSERT_NE(mi_heap_malloc(heap, 2000), nullptr);
    }
  });
  InThread([&] {
    for (mi_heap_t* heap : heaps) mi_heap_destroy(heap);
  });
  EXPECT_EQ(probe_cache(record).returned, 0u);
  EXPECT_EQ(probe_cache(record).listed, 0u);
}

}  // namespace
}  // namespace mi_test
