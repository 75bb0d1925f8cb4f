// mi/internal/arena.c beyond the first arena. Every test runs in a child process that makes its first arena itself, as
// small as MIMALLOC_ARENA_RESERVE says; the parent never uses the library.
#include <sys/mman.h>

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "gtest/gtest.h"
#include "tests/internal/probe.h"
#include "tests/test_support.h"

namespace mi_test {
namespace {

constexpr size_t kSegment = 4 * kMiB;

// The result of `body` in a child with this setting; `body` gives 0, or the line of what failed.
int WithReserve(const char* reserve, int (*body)()) {
  return InChild([&] {
    setenv("MIMALLOC_ARENA_RESERVE", reserve, 1);
    return body();
  });
}
#define REQUIRE(condition)                                  \
  if (!(condition)) {                                       \
    fprintf(stderr, "line %d: %s\n", __LINE__, #condition); \
    return 1;                                               \
  }

TEST(ArenaGrowthTest, TheFirstArenaIsAsLargeAsTheOptionSays) {
  EXPECT_EQ(WithReserve("32M",
                        [] {
                          mi_free(mi_malloc(1));
                          REQUIRE(probe_arena_count() == 1);
                          REQUIRE(probe_arena(0).segment_count == 8);
                          return 0;
                        }),
            0);
}

TEST(ArenaGrowthTest, EveryFurtherArenaIsTwiceAsLargeAndItsBlocksAreAsGoodAsAny) {
  EXPECT_EQ(WithReserve("32M",
                        [] {
                          std::vector<uint8_t*> blocks;
                          size_t outside = 0;
                          for (int i = 0; i < 300; i++) {
                            uint8_t* block = static_cast<uint8_t*>(mi_malloc(kMiB));
                            REQUIRE(block != nullptr);
                            REQUIRE(mi_heap_of(block) == mi_heap_main());
                            REQUIRE(mi_usable_size(block) == kMiB);
                            Fill(block, kMiB, i);
                            outside += !probe_span_contains(block);
                            blocks.push_back(block);
                          }
                          REQUIRE(outside > 100);  // not in the first arena
                          size_t count = probe_arena_count();
                          REQUIRE(count >= 3);
                          for (size_t i = 0; i < count; i++) {
                            probe_arena_t arena = probe_arena(i);
                            REQUIRE(arena.segment_count == size_t{8} << i);
                            REQUIRE(IsAligned(arena.start, kSegment));
                            for (size_t k = 0; k < i; k++) {
                              probe_arena_t other = probe_arena(k);
                              REQUIRE(other.start + other.segment_count * kSegment <= arena.start ||
                                      arena.start + arena.segment_count * kSegment <= other.start);
                            }
                          }
                          for (int i = 0; i < 300; i++) REQUIRE(Holds(blocks[i], kMiB, i));
                          for (uint8_t* block : blocks) mi_free(block);
                          mi_collect(true);
                          for (int i = 0; i < 300; i++) blocks[i] = static_cast<uint8_t*>(mi_malloc(kMiB));
                          REQUIRE(probe_arena_count() == count);  // what was freed serves again
                          for (uint8_t* block : blocks) {
                            REQUIRE(block != nullptr);
                            mi_free(block);
                          }
                          return 0;
                        }),
            0);
}

TEST(ArenaGrowthTest, SmallBlocksOfLaterArenasComeAndGoAcrossThreads) {
  EXPECT_EQ(WithReserve("16M",
                        [] {
                          std::vector<void*> blocks;
                          for (int i = 0; i < 200000; i++) blocks.push_back(mi_malloc(300));
                          REQUIRE(probe_arena_count() >= 2);
                          for (void* block : blocks) REQUIRE(block != nullptr);
                          for (size_t i = 0; i < blocks.size(); i++) Fill(blocks[i], 300, i);
                          int wrong = 0;
                          InThread([&] {
                            for (size_t i = 0; i < blocks.size(); i++) {
                              wrong += !Holds(blocks[i], 300, i);
                              mi_free(blocks[i]);
                            }
                          });
                          REQUIRE(wrong == 0);
                          size_t arenas = probe_arena_count();
                          for (size_t i = 0; i < blocks.size(); i++) blocks[i] = mi_malloc(300);
                          REQUIRE(probe_arena_count() == arenas);
                          return 0;
                        }),
            0);
}

TEST(ArenaGrowthTest, OneBlockThatIsLargerThanTheNextArenaGetsOneThatFits) {
  EXPECT_EQ(WithReserve("16M",
                        [] {
                          size_t size = 300 * kMiB;
                          uint8_t* block = static_cast<uint8_t*>(mi_malloc(size));
                          REQUIRE(block != nullptr);
                          block[0] = block[size - 1] = 1;
                          REQUIRE(mi_usable_size(block) >= size);
                          REQUIRE(mi_heap_of(block + size - 1) == mi_heap_main());
                          void* aligned = mi_malloc_aligned(10, 512 * kMiB);
                          REQUIRE(aligned != nullptr);
                          REQUIRE(IsAligned(aligned, 512 * kMiB));
                          mi_free(aligned);
                          mi_free(block);
                          return 0;
                        }),
            0);
}

TEST(ArenaGrowthTest, WithoutPermissionToAskTheSystemMemoryEndsWithTheFirstArena) {
  EXPECT_EQ(WithReserve("32M",
                        [] {
                          mi_free(mi_malloc(1));
                          mi_option_set(mi_option_disallow_os_alloc, 1);
                          std::vector<void*> blocks;
                          errno = 0;
                          for (void* block; (block = mi_malloc(3 * kMiB)) != nullptr;) {
                            REQUIRE(blocks.size() < 8);
                            blocks.push_back(block);
                          }
                          REQUIRE(errno == ENOMEM);
                          REQUIRE(blocks.size() >= 6);  // eight segments, less the header's and the small pages'
                          REQUIRE(probe_arena_count() == 1);
                          size_t count = blocks.size();
                          for (void* block : blocks) mi_free(block);
                          blocks.clear();
                          for (void* block; (block = mi_malloc(3 * kMiB)) != nullptr;) blocks.push_back(block);
                          REQUIRE(blocks.size() == count);
                          return 0;
                        }),
            0);
}

// What is committed next to what was committed before needs no further mapping.
TEST(ArenaGrowthTest, AnArenaGrowsWhereNoMoreMappingsAreToBeHad) {
  if (kSanitized) GTEST_SKIP() << "the run-time needs mappings of its own";
  EXPECT_EQ(InChild([] {
              constexpr size_t kPages = 1 << 18;
              char* const pages = static_cast<char*>(
                  mmap(nullptr, kPages * 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
              if (pages == MAP_FAILED) return 1;
              void* blocks[200];
              for (void*& block : blocks) block = nullptr;
              blocks[0] = mi_malloc(kMiB);  // the first arena
              size_t at = 0;
              while (at < kPages && mprotect(pages + at * 4096, 4096, PROT_READ) == 0) at += 2;
              if (at >= kPages) return 0;  // no such limit within reach
              for (size_t i = 1; i < 200; i++) {
                if ((blocks[i] = mi_malloc(kMiB)) == nullptr) return 3;
                memset(blocks[i], 1, kMiB);
              }
              return 0;
            }),
            0);
}

TEST(ArenaGrowthTest, ThreadsThatGrowAtTheSameMomentLoseNothing) {
  EXPECT_EQ(WithReserve("16M",
                        [] {
                          std::atomic<int> failures{0};
                          std::vector<std::vector<uint8_t*>> blocks(4);
                          SpinMeeting start(4);
                          InThreads(4, [&](int thread) {
                            start.Meet();
                            for (int i = 0; i < 100; i++) {
                              uint8_t* block = static_cast<uint8_t*>(mi_malloc(kMiB));
                              if (block == nullptr) {
                                failures++;
                                return;
                              }
                              Fill(block, kMiB, 1000 * thread + i);
                              blocks[thread].push_back(block);
                            }
                          });
                          REQUIRE(failures == 0);
                          for (int thread = 0; thread < 4; thread++) {
                            for (int i = 0; i < 100; i++) REQUIRE(Holds(blocks[thread][i], kMiB, 1000 * thread + i));
                          }
                          for (auto& mine : blocks) {
                            for (uint8_t* block : mine) mi_free(block);
                          }
                          return 0;
                        }),
            0);
}

// What the program had reserved becomes the span in the child, which finds the bits of pages there.
TEST(ArenaGrowthTest, AnArenaThatWasReservedServesTheChildOfAForkWithPagesOfHardenedHeaps) {
  for (const bool is_used : {false, true}) {
    EXPECT_EQ(InChild([is_used] {
                REQUIRE(mi_reserve_os_memory(256 * kMiB, true, false) == 0);
                mi_heap_config_t config{};
                config.size = sizeof(config);
                config.flags = MI_HEAP_HARDENED;
                mi_heap_t* const heap = (is_used ? mi_heap_new_with(&config) : nullptr);
                void* const before = (is_used ? mi_heap_malloc(heap, 100) : nullptr);
                return InChild([&config, is_used, before] {
                  mi_heap_t* const own = mi_heap_new_with(&config);
                  REQUIRE(own != nullptr);
                  for (int i = 0; i < 1000; i++) REQUIRE(mi_heap_malloc(own, 100) != nullptr);
                  void* const p = mi_malloc(100);
                  REQUIRE(p != nullptr && mi_usable_size(p) >= 100);
                  mi_free(p);
                  REQUIRE(!is_used || mi_usable_size(before) == 100);
                  mi_free(before);
                  mi_heap_destroy(own);
                  return 0;
                });
              }),
              0)
        << is_used;
  }
}

}  // namespace
}  // namespace mi_test
