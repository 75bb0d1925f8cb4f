// Sub-processes: threads that join one have a main heap of their own, their heaps are apart from all others, and the
// end of a sub-process ends them all or hands their blocks to the main heap.
#include <atomic>
#include <cerrno>
#include <cstring>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "mi/mimalloc.h"

namespace {

bool IsMain(mi_subproc_id_t id) { return id._mi_subproc == mi_subproc_main()._mi_subproc; }

template <typename Body>
void InSubproc(mi_subproc_id_t id, Body body) {
  std::thread([&] {
    mi_subproc_add_current_thread(id);
    body();
  }).join();
}

size_t CountHeaps(mi_subproc_id_t id) {
  size_t count = 0;
  auto add = [](mi_heap_t*, void* arg) {
    ++*static_cast<size_t*>(arg);
    return true;
  };
  EXPECT_TRUE(mi_subproc_visit_heaps(id, add, &count));
  return count;
}

TEST(Subproc, OfAThreadIsTheMainOneUntilItJoinsAnother) {
  EXPECT_TRUE(IsMain(mi_subproc_current()));
  mi_subproc_id_t id = mi_subproc_new();
  ASSERT_NE(id._mi_subproc, nullptr);
  EXPECT_FALSE(IsMain(id));
  InSubproc(id, [&] { EXPECT_EQ(mi_subproc_current()._mi_subproc, id._mi_subproc); });
  EXPECT_TRUE(IsMain(mi_subproc_current()));
  mi_subproc_destroy(id);
}

TEST(Subproc, HasAMainHeapOfItsOwnThatMallocUses) {
  mi_subproc_id_t id = mi_subproc_new();
  mi_heap_t* ours = mi_heap_main();
  char* kept = nullptr;
  InSubproc(id, [&] {
    EXPECT_NE(mi_heap_main(), ours);
    EXPECT_EQ(mi_heap_get_backing(), mi_heap_main());
    std::vector<void*> blocks;
    for (size_t i = 0; i < 3000; i++) {
      void* p = mi_malloc(8 + i % 3000);
      EXPECT_EQ(mi_heap_of(p), mi_heap_main());
      blocks.push_back(p);
    }
    for (void* p : blocks) mi_free(p);
    kept = mi_strdup("of the sub-process");
  });
  EXPECT_STREQ(kept, "of the sub-process");
  EXPECT_NE(mi_heap_of(kept), ours);
  mi_free(kept);  // any thread may
  mi_subproc_destroy(id);
}

TEST(Subproc, ShowsItsOwnHeapsAndNoOthers) {
  mi_subproc_id_t id = mi_subproc_new();
  const size_t before = CountHeaps(mi_subproc_main());
  mi_heap_t* outside = mi_heap_new();
  mi_heap_t* inside = nullptr;
  InSubproc(id, [&] {
    inside = mi_heap_new();
    EXPECT_NE(mi_heap_malloc(inside, 100), nullptr);
  });
  EXPECT_EQ(CountHeaps(id), 2u) << "its main heap and the one that was made";
  EXPECT_EQ(CountHeaps(mi_subproc_main()), before + 1);
  mi_heap_destroy(inside);
  EXPECT_EQ(CountHeaps(id), 1u);
  mi_heap_destroy(outside);
  mi_subproc_destroy(id);
  EXPECT_EQ(CountHeaps(mi_subproc_main()), before);
}

TEST(Subproc, DeletedHeapsGoToItsMainHeap) {
  mi_subproc_id_t id = mi_subproc_new();
  InSubproc(id, [] {
    mi_heap_t* heap = mi_heap_new();
    char* text = mi_heap_strdup(heap, "moves");
    mi_heap_delete(heap);
    EXPECT_EQ(mi_heap_of(text), mi_heap_main());
    mi_free(text);
  });
  mi_subproc_destroy(id);
}

TEST(Subproc, IsDestroyedWithAllItsHeapsManyTimes) {
  for (int round = 0; round < 200; round++) {
    mi_subproc_id_t id = mi_subproc_new();
    std::vector<std::thread> threads;
    for (int t = 0; t < 3; t++) {
      threads.emplace_back([&] {
        mi_subproc_add_current_thread(id);
        mi_heap_t* heap = mi_heap_new();
        for (size_t i = 0; i < 200; i++) {
          memset(mi_malloc(1000), 1, 1000);
          memset(mi_heap_malloc(heap, 10 * i + 1), 2, 10 * i + 1);
        }
      });
    }
    for (auto& thread : threads) thread.join();
    EXPECT_EQ(CountHeaps(id), 4u);
    mi_subproc_destroy(id);
  }
}

TEST(Subproc, KeepsItsBlocksWhenItIsDeleted) {
  mi_subproc_id_t id = mi_subproc_new();
  std::vector<char*> blocks;
  InSubproc(id, [&] {
    mi_heap_t* heap = mi_heap_new();
    for (int i = 0; i < 1000; i++) {
      blocks.push_back(mi_strdup("in the main heap of it"));
      blocks.push_back(mi_heap_strdup(heap, "in a heap of it"));
    }
  });
  mi_subproc_delete(id);
  for (size_t i = 0; i < blocks.size(); i++) {
    ASSERT_STREQ(blocks[i], i % 2 == 0 ? "in the main heap of it" : "in a heap of it");
    ASSERT_EQ(mi_heap_of(blocks[i]), mi_heap_main());
    mi_free(blocks[i]);
  }
}

TEST(Subproc, RefusesToEndWhileAThreadIsInItAndToEndItsMainHeap) {
  mi_subproc_id_t id = mi_subproc_new();
  InSubproc(id, [&] {
    errno = 0;
    mi_subproc_destroy(id);
    EXPECT_EQ(errno, EINVAL);
    errno = 0;
    mi_heap_destroy(mi_heap_main());
    EXPECT_EQ(errno, EINVAL);
    errno = 0;
    mi_heap_delete(mi_heap_main());
    EXPECT_EQ(errno, EINVAL);
    errno = 0;
    mi_subproc_add_current_thread(mi_subproc_main());
    EXPECT_EQ(errno, EINVAL);
    mi_free(mi_malloc(10));
  });
  errno = 0;
  mi_subproc_destroy(mi_subproc_main());
  EXPECT_EQ(errno, EINVAL);
  mi_subproc_destroy(id);
}

mi_subproc_id_t g_ending;
TEST(Subproc, RefusesToEndInACallbackOrAVisitOfAHeapOfIt) {
  g_ending = mi_subproc_new();
  static int calls;
  calls = 0;
  auto end = [] {
    for (auto function : {mi_subproc_destroy, mi_subproc_delete}) {
      errno = 0;
      function(g_ending);
      EXPECT_EQ(errno, EINVAL);
      calls++;
    }
  };
  static void (*const run)() = end;
  mi_heap_t* heap = nullptr;
  InSubproc(g_ending, [&] { heap = mi_heap_new(); });
  ASSERT_TRUE(mi_heap_register_deferred_free(
      heap, [](mi_heap_t*, bool, unsigned long long, void*) { run(); }, nullptr));
  std::vector<char*> blocks;
  for (int i = 0; i < 3000; i++) {
    blocks.push_back(static_cast<char*>(mi_heap_malloc(heap, 100)));
    ASSERT_NE(blocks.back(), nullptr);
    memset(blocks.back(), i, 100);
  }
  ASSERT_TRUE(mi_heap_register_deferred_free(heap, nullptr, nullptr));
  EXPECT_GT(calls, 0);
  for (int i = 0; i < 3000; i++) ASSERT_EQ(blocks[i][99], static_cast<char>(i));
  calls = 0;
  EXPECT_FALSE(mi_heap_visit_blocks(
      heap, true,
      [](const mi_heap_t*, const mi_heap_area_t*, void*, size_t, void*) {
        run();
        return false;
      },
      nullptr));
  EXPECT_EQ(calls, 2);
  for (bool destroy : {true, false}) {
    InSubproc(g_ending, [&] { heap = mi_heap_new(); });
    ASSERT_TRUE(mi_heap_on_destroy(
        heap, [](void*) { run(); }, nullptr));
    calls = 0;
    if (destroy) {
      mi_heap_destroy(heap);
    } else {
      mi_heap_delete(heap);
    }
    EXPECT_EQ(calls, 2);
  }
  mi_subproc_destroy(g_ending);
}

struct Sum {
  size_t blocks = 0;
};

TEST(Subproc, ShowsAbandonedBlocksByHeapTag) {
  mi_subproc_id_t id = mi_subproc_new();
  mi_heap_t* tagged = nullptr;
  InSubproc(id, [&] {
    tagged = mi_heap_new_ex(5, true, nullptr);
    for (int i = 0; i < 40; i++) EXPECT_NE(mi_heap_malloc(tagged, 20000), nullptr);
    for (int i = 0; i < 10; i++) EXPECT_NE(mi_malloc(20000), nullptr);
  });
  auto add = [](const mi_heap_t*, const mi_heap_area_t*, void* block, size_t, void* arg) {
    static_cast<Sum*>(arg)->blocks += (block != nullptr);
    return true;
  };
  Sum of_tag, all;
  EXPECT_TRUE(mi_abandoned_visit_blocks(id, 5, true, add, &of_tag));
  EXPECT_TRUE(mi_abandoned_visit_blocks(id, -1, true, add, &all));
  EXPECT_EQ(of_tag.blocks, 40u);
  EXPECT_EQ(all.blocks, 50u);
  mi_subproc_destroy(id);
}

}  // namespace
