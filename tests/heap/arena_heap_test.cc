// Heaps in arenas: in memory that the program gives (static, mapped, shared, filled with junk), in reserved arenas, and
// what happens when such an arena is full, small, or not one at all.
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "mi/mimalloc-stats.h"
#include "mi/mimalloc.h"

namespace {

constexpr size_t kMiB = 1024 * 1024;

// A range of memory that lives as long as the process: an arena is never taken back.
uint8_t* Map(size_t size, int flags = MAP_PRIVATE | MAP_ANONYMOUS, int fd = -1) {
  void* p = mmap(nullptr, size, PROT_READ | PROT_WRITE, flags, fd, 0);
  return p == MAP_FAILED ? nullptr : static_cast<uint8_t*>(p);
}

struct Arena {
  uint8_t* start;
  size_t size;
  mi_arena_id_t id;
  bool Contains(const void* p, size_t n = 1) const {
    const uint8_t* q = static_cast<const uint8_t*>(p);
    return q >= start && q + n <= start + size;
  }
};

Arena Manage(uint8_t* start, size_t size, bool zero = true, bool exclusive = true) {
  Arena arena{start, size, nullptr};
  EXPECT_TRUE(mi_manage_os_memory_ex(start, size, true, false, zero, -1, exclusive, &arena.id));
  return arena;
}

bool IsZero(const void* p, size_t n) {
  const uint8_t* q = static_cast<const uint8_t*>(p);
  for (size_t i = 0; i < n; i++) {
    if (q[i] != 0) return false;
  }
  return true;
}

alignas(4096) uint8_t static_memory[9 * kMiB];

TEST(ArenaHeap, LivesInAStaticBufferWithEverythingThatItNeeds) {
  const Arena arena = Manage(static_memory, sizeof(static_memory));
  for (int round = 0; round < 50; round++) {
    mi_heap_t* heap = mi_heap_new_in_arena(arena.id);
    ASSERT_NE(heap, nullptr) << "round " << round;
    EXPECT_TRUE(arena.Contains(heap)) << "the handle lies outside";
    EXPECT_TRUE(arena.Contains(mi_heap_theap(heap))) << "the theap lies outside";
    std::vector<void*> blocks;
    for (size_t size : {1, 8, 16, 100, 512, 1000, 4000, 9000, 30000, 70000, 300000}) {
      void* p = mi_heap_malloc(heap, size);
      ASSERT_NE(p, nullptr) << size << " bytes in round " << round;
      ASSERT_TRUE(arena.Contains(p, size)) << size;
      memset(p, 0xA5, size);
      ASSERT_EQ(mi_heap_of(p), heap);
      blocks.push_back(p);
    }
    for (size_t alignment = 32; alignment <= kMiB; alignment *= 2) {
      void* p = mi_heap_malloc_aligned(heap, 100, alignment);
      ASSERT_NE(p, nullptr) << "alignment " << alignment << " in round " << round;
      ASSERT_EQ(reinterpret_cast<uintptr_t>(p) % alignment, 0u);
      ASSERT_TRUE(arena.Contains(p, 100));
      mi_free(p);
    }
    for (size_t i = 0; i < blocks.size(); i += 2) mi_free(blocks[i]);
    mi_heap_destroy(heap);
  }
}

TEST(ArenaHeap, GivesNullWhenTheArenaIsFullAndServesAgainAfterFrees) {
  const size_t size = 8 * kMiB;
  const Arena arena = Manage(Map(size), size);
  mi_heap_t* heap = mi_heap_new_in_arena(arena.id);
  ASSERT_NE(heap, nullptr);
  for (int round = 0; round < 3; round++) {
    std::vector<void*> blocks;
    errno = 0;
    while (void* p = mi_heap_malloc(heap, 10000)) {
      ASSERT_TRUE(arena.Contains(p, 10000));
      memset(p, round, 10000);
      blocks.push_back(p);
      ASSERT_LT(blocks.size(), size / 10000) << "more than the arena holds";
    }
    EXPECT_EQ(errno, ENOMEM);
    EXPECT_GT(blocks.size(), 200u);
    for (void* p : blocks) mi_free(p);
  }
  mi_heap_destroy(heap);
}

// What is free is in the hands of who purges it for a moment.
TEST(ArenaHeap, AnArenaWithRoomServesWhileAnotherThreadPurgesIt) {
  struct Case {
    size_t arena, block;
  };
  for (const Case& c : {Case{4 * kMiB, 2 * kMiB}, Case{12 * kMiB, 6 * kMiB}}) {
    uint8_t* const area = Map(c.arena + 4 * kMiB);
    ASSERT_NE(area, nullptr);
    const Arena arena = Manage(area + (0 - reinterpret_cast<uintptr_t>(area)) % (4 * kMiB), c.arena);
    mi_heap_t* heap = mi_heap_new_in_arena(arena.id);
    ASSERT_NE(heap, nullptr);
    std::atomic<bool> done{false};
    std::thread purger([&] {
      while (!done) mi_collect(true);
    });
    int refused = 0;
    for (int i = 0; i < 3000; i++) {
      uint8_t* p = static_cast<uint8_t*>(mi_heap_malloc(heap, c.block));
      if (p != nullptr) {
        memset(p, i, 64 * 1024);
      } else {
        refused++;
      }
      mi_free(p);
    }
    done = true;
    purger.join();
    EXPECT_EQ(refused, 0) << c.block;
    mi_heap_destroy(heap);
  }
}

TEST(ArenaHeap, AnExclusiveArenaServesNobodyElse) {
  const size_t size = 64 * kMiB;
  const Arena arena = Manage(Map(size), size);
  mi_heap_t* other = mi_heap_new();
  std::vector<void*> blocks;
  for (int i = 0; i < 2000; i++) {
    void* p = (i % 2 == 0 ? mi_malloc(50000) : mi_heap_malloc(other, 50000));
    ASSERT_FALSE(arena.Contains(p)) << "block " << i;
    blocks.push_back(p);
  }
  for (void* p : blocks) mi_free(p);
  mi_heap_destroy(other);
}

TEST(ArenaHeap, ZeroedBlocksAreZeroInMemoryFullOfJunk) {
  const size_t size = 12 * kMiB;
  uint8_t* memory = Map(size);
  memset(memory, 0xFF, size);
  const Arena arena = Manage(memory, size, /*zero=*/false);
  mi_heap_t* heap = mi_heap_new_in_arena(arena.id);
  ASSERT_NE(heap, nullptr);
  for (int round = 0; round < 3; round++) {
    std::vector<void*> blocks;
    for (size_t n : {8, 64, 1000, 5000, 60000, 200000, 1000000}) {
      void* p = mi_heap_zalloc(heap, n);
      ASSERT_NE(p, nullptr) << n;
      ASSERT_TRUE(IsZero(p, mi_usable_size(p))) << n;
      memset(p, 0xFF, mi_usable_size(p));
      blocks.push_back(p);
    }
    for (void* p : blocks) mi_free(p);
    mi_collect(true);
  }
  mi_heap_destroy(heap);
}

TEST(ArenaHeap, ZeroedBlocksAreZeroInASharedFileThatKeepsItsContents) {
  const size_t size = 8 * kMiB;
  const int fd = memfd_create("arena", 0);
  ASSERT_GE(fd, 0);
  ASSERT_EQ(ftruncate(fd, static_cast<off_t>(size)), 0);
  const Arena arena = Manage(Map(size, MAP_SHARED, fd), size);
  close(fd);
  mi_heap_t* heap = mi_heap_new_in_arena(arena.id);
  ASSERT_NE(heap, nullptr);
  for (int round = 0; round < 5; round++) {
    for (size_t n : {100, 70000, 500000}) {
      void* p = mi_heap_zalloc(heap, n);
      ASSERT_NE(p, nullptr);
      ASSERT_TRUE(IsZero(p, n)) << n << " bytes in round " << round;
      memset(p, 0xEE, n);
      mi_free(p);
    }
    mi_heap_collect(heap, true);  // purges; a shared file still holds what was written
  }
  mi_heap_destroy(heap);
}

TEST(ArenaHeap, IsUsedByOtherThreadsWithTheirPartsInsideToo) {
  const size_t size = 32 * kMiB;
  const Arena arena = Manage(Map(size), size);
  for (int round = 0; round < 10; round++) {
    mi_heap_t* heap = mi_heap_new_in_arena(arena.id);
    ASSERT_NE(heap, nullptr) << "round " << round;
    std::vector<std::thread> threads;
    std::vector<std::vector<void*>> blocks(3);
    for (size_t t = 0; t < 3; t++) {
      threads.emplace_back([&, t] {
        EXPECT_TRUE(arena.Contains(mi_heap_theap(heap)));
        for (size_t i = 0; i < 500; i++) {
          void* p = mi_heap_malloc(heap, 16 + 13 * i);
          EXPECT_TRUE(arena.Contains(p)) << i;
          if (p != nullptr) memset(p, static_cast<int>(t), 16 + 13 * i);
          blocks[t].push_back(p);
        }
      });
    }
    for (auto& thread : threads) thread.join();
    for (size_t t = 0; t < 3; t++) {
      for (size_t i = 0; i < 500; i += 3) mi_free(blocks[t][i]);
      for (size_t i = 1; i < 500; i += 3) {
        ASSERT_EQ(*static_cast<uint8_t*>(blocks[t][i]), t);
        ASSERT_EQ(mi_heap_of(blocks[t][i]), heap);
      }
    }
    mi_heap_destroy(heap);
  }
}

TEST(ArenaHeap, LeavesItsBlocksInPlaceWhenItIsDeleted) {
  const size_t size = 8 * kMiB;
  const Arena arena = Manage(Map(size), size);
  for (int round = 0; round < 20; round++) {
    mi_heap_t* heap = mi_heap_new_in_arena(arena.id);
    ASSERT_NE(heap, nullptr) << "round " << round;
    std::vector<char*> blocks;
    for (int i = 0; i < 300; i++) blocks.push_back(mi_heap_strdup(heap, "survives its heap"));
    void* large = mi_heap_malloc(heap, 200000);
    mi_heap_delete(heap);
    for (char* p : blocks) {
      ASSERT_STREQ(p, "survives its heap");
      ASSERT_EQ(mi_heap_of(p), mi_heap_main());
      mi_free(p);
    }
    mi_free(large);
    mi_collect(true);
  }
}

TEST(ArenaHeap, IsEmptyAndUsableAfterReset) {
  const size_t size = 8 * kMiB;
  const Arena arena = Manage(Map(size), size);
  mi_heap_t* heap = mi_heap_new_in_arena(arena.id);
  ASSERT_NE(heap, nullptr);
  for (int round = 0; round < 100; round++) {
    for (int i = 0; i < 200; i++) {
      void* p = mi_heap_malloc(heap, 10000);
      ASSERT_NE(p, nullptr) << "round " << round << ", block " << i;
      ASSERT_TRUE(arena.Contains(p, 10000));
    }
    mi_heap_reset(heap);
  }
  mi_heap_destroy(heap);
}

struct Seen {
  mi_heap_t* heap;
  size_t times = 0, blocks = 0;
};

TEST(ArenaHeap, IsShownByVisitors) {
  const size_t size = 8 * kMiB;
  const Arena arena = Manage(Map(size), size);
  mi_heap_t* heap = mi_heap_new_in_arena(arena.id);
  ASSERT_NE(heap, nullptr);
  for (int i = 0; i < 10; i++) ASSERT_NE(mi_heap_malloc_aligned(heap, 100000, 128 * 1024), nullptr);
  for (int i = 0; i < 20; i++) ASSERT_NE(mi_heap_malloc(heap, 24), nullptr);
  Seen seen{heap};
  auto count_heap = [](mi_heap_t* h, void* arg) {
    auto* s = static_cast<Seen*>(arg);
    s->times += (h == s->heap);
    return true;
  };
  EXPECT_TRUE(mi_heap_visit_all(count_heap, &seen));
  EXPECT_EQ(seen.times, 1u);
  auto count_block = [](const mi_heap_t*, const mi_heap_area_t*, void* block, size_t, void* arg) {
    static_cast<Seen*>(arg)->blocks += (block != nullptr);
    return true;
  };
  EXPECT_TRUE(mi_heap_visit_blocks(heap, true, count_block, &seen));
  EXPECT_EQ(seen.blocks, 30u);
  mi_heap_destroy(heap);
  Seen after{heap};
  EXPECT_TRUE(mi_heap_visit_all(count_heap, &after));
  EXPECT_EQ(after.times, 0u);
}

TEST(ArenaHeap, IsCountedWithTheOthers) {
  const size_t size = 8 * kMiB;
  const Arena arena = Manage(Map(size), size);
  mi_stats_t_decl(before);
  ASSERT_TRUE(mi_stats_get(&before));
  mi_heap_t* heap = mi_heap_new_in_arena(arena.id);
  ASSERT_NE(heap, nullptr);
  std::vector<void*> blocks;
  for (int i = 0; i < 600; i++) blocks.push_back(mi_heap_malloc(heap, 1000));
  for (void* block : blocks) mi_free(block);
  mi_heap_collect(heap, true);  // their pages are gone
  ASSERT_NE(mi_heap_malloc(heap, 1000), nullptr);
  mi_stats_t_decl(stats);
  ASSERT_TRUE(mi_heap_stats_get(heap, &stats));
  EXPECT_EQ(stats.malloc_normal_count.total, 601);
  EXPECT_EQ(stats.malloc_normal.current, 1024);
  EXPECT_EQ(stats.heaps.current, 1);
  mi_stats_t_decl(process);
  ASSERT_TRUE(mi_stats_get(&process));
  EXPECT_EQ(process.heaps.current, before.heaps.current + 1);
  EXPECT_EQ(process.malloc_normal_count.total, before.malloc_normal_count.total + 601);
  mi_heap_destroy(heap);
  ASSERT_TRUE(mi_stats_get(&process));
  EXPECT_EQ(process.heaps.current, before.heaps.current);
}

TEST(ArenaHeap, RefusesWhatIsNoArena) {
  int number = 0;
  errno = 0;
  EXPECT_EQ(mi_heap_new_in_arena(&number), nullptr);
  EXPECT_EQ(errno, EINVAL);
  mi_heap_t* heap = mi_heap_new_in_arena(nullptr);  // any arena
  EXPECT_NE(heap, nullptr);
  mi_heap_destroy(heap);
}

TEST(ArenaHeap, KeepsTheTagAndTheRefusalToDestroyOfItsConstructor) {
  const size_t size = 8 * kMiB;
  const Arena arena = Manage(Map(size), size);
  mi_heap_t* heap = mi_heap_new_ex(7, false, arena.id);
  ASSERT_NE(heap, nullptr);
  auto check = [](const mi_heap_t*, const mi_heap_area_t* area, void*, size_t, void* arg) {
    *static_cast<intptr_t*>(arg) = reinterpret_cast<intptr_t>(area->reserved1);
    return true;
  };
  char* text = mi_heap_strdup(heap, "kept");
  ASSERT_TRUE(arena.Contains(text, 5));
  intptr_t tag = 0;
  EXPECT_TRUE(mi_heap_visit_blocks(heap, false, check, &tag));
  EXPECT_EQ(tag, 7);
  mi_heap_destroy(heap);
  EXPECT_STREQ(text, "kept");
  mi_free(text);
}

TEST(Arena, RefusesMemoryThatHoldsNoAlignedSegment) {
  uint8_t* memory = Map(16 * kMiB);
  uint8_t* aligned = memory + (0 - reinterpret_cast<uintptr_t>(memory)) % (4 * kMiB);
  mi_arena_id_t id = aligned;
  errno = 0;
  EXPECT_FALSE(mi_manage_os_memory_ex(aligned + 4096, 4 * kMiB, true, false, true, -1, true, &id));
  EXPECT_EQ(errno, EINVAL);
  EXPECT_EQ(id, nullptr);
  EXPECT_FALSE(mi_manage_os_memory_ex(nullptr, 4 * kMiB, true, false, true, -1, true, &id));
  EXPECT_TRUE(mi_manage_os_memory_ex(aligned, mi_arena_min_size(), true, false, true, -1, true, &id));
  size_t size = 0;
  EXPECT_EQ(mi_arena_area(id, &size), aligned);
  EXPECT_EQ(size, mi_arena_min_size());
  EXPECT_TRUE(mi_arena_contains(id, aligned + 100));
  EXPECT_FALSE(mi_arena_contains(id, aligned + size));
  EXPECT_EQ(_mi_arena_id_of_index(_mi_arena_index_of_id(id)), id);
  EXPECT_EQ(_mi_arena_index_of_id(nullptr), 0);
  EXPECT_EQ(_mi_arena_id_of_index(0), nullptr);
  EXPECT_EQ(mi_heap_new_in_arena(_mi_arena_id_of_index(100000)), nullptr);
  mi_heap_t* heap = mi_heap_new_in_arena(id);
  ASSERT_NE(heap, nullptr);
  EXPECT_NE(mi_heap_malloc(heap, 1000), nullptr);
  mi_heap_destroy(heap);
}

struct Commits {
  uint8_t* start;
  size_t size;
  size_t calls = 0, end = 0;
  bool refuse = false;
};

bool Commit(bool commit, void* start, size_t size, bool* is_zero, void* arg) {
  auto* c = static_cast<Commits*>(arg);
  c->calls++;
  if (c->refuse || !commit) return false;
  EXPECT_GE(static_cast<uint8_t*>(start), c->start);
  EXPECT_LE(static_cast<uint8_t*>(start) + size, c->start + c->size);
  *is_zero = false;
  return mprotect(start, size, PROT_READ | PROT_WRITE) == 0;
}

TEST(Arena, AsksTheProgramForMemoryThatIsNotCommitted) {
  const size_t size = 32 * kMiB;
  void* p = mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  ASSERT_NE(p, MAP_FAILED);
  Commits commits{static_cast<uint8_t*>(p), size};
  mi_arena_id_t id;
  ASSERT_TRUE(mi_manage_memory(p, size, false, false, false, -1, true, Commit, &commits, &id));
  EXPECT_EQ(commits.calls, 1u);
  mi_heap_t* heap = mi_heap_new_in_arena(id);
  ASSERT_NE(heap, nullptr);
  for (int i = 0; i < 80; i++) ASSERT_NE(mi_heap_zalloc(heap, 100000), nullptr) << i;
  EXPECT_GT(commits.calls, 2u);
  commits.refuse = true;
  errno = 0;
  while (mi_heap_malloc(heap, 100000) != nullptr) {
  }
  EXPECT_EQ(errno, ENOMEM);
  commits.refuse = false;
  EXPECT_NE(mi_heap_malloc(heap, 100000), nullptr);
  mi_heap_destroy(heap);
}

TEST(Arena, ReservedForAHeapHoldsAlignmentsUpToItsSize) {
  mi_arena_id_t id = nullptr;
  ASSERT_EQ(mi_reserve_os_memory_ex(64 * kMiB, false, false, true, &id), 0);
  ASSERT_NE(id, nullptr);
  size_t size = 0;
  EXPECT_NE(mi_arena_area(id, &size), nullptr);
  EXPECT_GE(size, 64 * kMiB);
  mi_heap_t* heap = mi_heap_new_in_arena(id);
  ASSERT_NE(heap, nullptr);
  for (size_t alignment = 16; alignment <= 16 * kMiB; alignment *= 2) {
    void* p = mi_heap_zalloc_aligned(heap, 3 * kMiB, alignment);
    ASSERT_NE(p, nullptr) << alignment;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % alignment, 0u);
    EXPECT_TRUE(mi_arena_contains(id, p));
    mi_free(p);
  }
  void* huge = mi_heap_malloc(heap, 40 * kMiB);
  EXPECT_TRUE(mi_arena_contains(id, huge));
  mi_heap_destroy(heap);
  EXPECT_EQ(mi_reserve_os_memory_ex(0, false, false, true, &id), EINVAL);
}

TEST(Arena, OfHugePagesIsMadeOrRefusedWithEnomem) {
  mi_arena_id_t id = nullptr;
  const int error = mi_reserve_huge_os_pages_at_ex(1, 0, 100, true, &id);
  EXPECT_TRUE(error == 0 || error == ENOMEM);
  EXPECT_EQ(error == 0, id != nullptr);
  size_t reserved = 77;
  EXPECT_EQ(mi_reserve_huge_os_pages(0, 1.0, &reserved), 0);
  EXPECT_EQ(reserved, 0u);
  EXPECT_EQ(mi_reserve_huge_os_pages_at(1, 100000, 0), EINVAL);
  EXPECT_EQ(mi_reserve_huge_os_pages(1, 0.1, &reserved) == 0, reserved == 1);
}

TEST(Arena, OfANodeIsPreferredByHeapsOfThatNode) {
  const size_t size = 8 * kMiB;
  const int node = 3;
  const size_t blocks = 100;
  Arena arena{Map(size), size, nullptr};
  ASSERT_TRUE(mi_manage_os_memory_ex(arena.start, size, true, false, true, node, /*exclusive=*/false, &arena.id));
  mi_heap_t* heap = mi_heap_new();
  mi_heap_set_numa_affinity(heap, node);
  size_t inside = 0;
  for (size_t i = 0; i < blocks; i++) inside += arena.Contains(mi_heap_malloc(heap, 20000));
  EXPECT_EQ(inside, blocks);
  std::thread([&] { EXPECT_TRUE(arena.Contains(mi_heap_malloc(heap, 100000))); }).join();
  // It is a preference: when the arena is full, the heap goes on elsewhere.
  void* large = mi_heap_malloc(heap, 2 * size);
  EXPECT_NE(large, nullptr);
  EXPECT_FALSE(arena.Contains(large));
  mi_heap_destroy(heap);
  errno = 0;
  heap = mi_heap_new();
  mi_heap_set_numa_affinity(heap, -7);
  EXPECT_EQ(errno, EINVAL);
  mi_heap_destroy(heap);
}

}  // namespace
