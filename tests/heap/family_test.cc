// Families of heaps and the functions that run before a heap's memory goes: order, who ends whom, what callbacks may
// do and what is refused to them, moves and merges, threads that edit one family at the same time, and forks.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "mi/heap/heap.h"
#include "mi/mimalloc.h"
#include "tests/test_support.h"

namespace mi_test {
namespace {

mi_heap_t* NewChild(mi_heap_t* parent, const char* name = nullptr) {
  mi_heap_config_t config = {};
  config.size = sizeof(config);
  config.name = name;
  config.parent = parent;
  return mi_heap_new_with(&config);
}

// What ran, as a word: each callback adds its letter.
std::string& Log() {
  static std::string log;
  return log;
}
void Note(void* letter) { Log() += *static_cast<const char*>(letter); }
void* Letter(char c) {
  static char letters[256];
  letters[static_cast<unsigned char>(c)] = c;
  return &letters[static_cast<unsigned char>(c)];
}
bool Register(mi_heap_t* heap, char c) { return mi_heap_on_destroy(heap, Note, Letter(c)); }
std::string TakeLog() {
  std::string log = Log();
  Log().clear();
  return log;
}

// A callback with a body of any kind; the object outlives the heap.
struct Action {
  std::function<void()> body;
  static void Run(void* action) { static_cast<Action*>(action)->body(); }
};

// ---- callbacks ---------------------------------------------------------------------------------------------

TEST(OnDestroy, RunsTheLastRegisteredFirstAtDestroyResetAndDelete) {
  for (auto end : {mi_heap_destroy, mi_heap_reset, mi_heap_delete}) {
    mi_heap_t* heap = mi_heap_new();
    ASSERT_TRUE(Register(heap, 'a'));
    ASSERT_TRUE(Register(heap, 'b'));
    ASSERT_TRUE(Register(heap, 'c'));
    EXPECT_EQ(TakeLog(), "");
    end(heap);
    EXPECT_EQ(TakeLog(), "cba");
    if (end == mi_heap_reset) {
      ASSERT_TRUE(Register(heap, 'd'));
      mi_heap_destroy(heap);
      EXPECT_EQ(TakeLog(), "d") << "what a reset called was called again";
    }
  }
}

TEST(OnDestroy, ARegistrationIsTakenBackOnceTheLastOneFirst) {
  mi_heap_t* heap = mi_heap_new();
  ASSERT_TRUE(Register(heap, 'a'));
  ASSERT_TRUE(Register(heap, 'b'));
  ASSERT_TRUE(Register(heap, 'a'));
  EXPECT_TRUE(mi_heap_cancel_on_destroy(heap, Note, Letter('a')));
  EXPECT_FALSE(mi_heap_cancel_on_destroy(heap, Note, Letter('x')));
  mi_heap_reset(heap);
  EXPECT_EQ(TakeLog(), "ba");
  EXPECT_FALSE(mi_heap_cancel_on_destroy(heap, Note, Letter('b')));
  mi_heap_destroy(heap);
  EXPECT_EQ(TakeLog(), "");
}

TEST(OnDestroy, ACallbackMayFreeInTheHeapAndAllocateAnywhereWhileTheBlocksAreThere) {
  for (bool in_pages : {false, true}) {
    mi_heap_t* heap = mi_heap_new();
    mi_heap_t* other = mi_heap_new();
    std::vector<void*> blocks;
    for (int i = 0; i < (in_pages ? 5000 : 20); i++) {
      blocks.push_back(mi_heap_malloc(heap, 64));
      Fill(blocks.back(), 64, i);
    }
    void* kept = nullptr;
    Action action{[&] {
      for (size_t i = 0; i < blocks.size(); i++) {
        EXPECT_TRUE(Holds(blocks[i], 64, i));
        EXPECT_TRUE(mi_heap_contains(heap, blocks[i]));
        if (i % 2 == 0) mi_free(blocks[i]);
      }
      kept = mi_heap_malloc(other, 100);
      Fill(kept, 100, 7);
      EXPECT_NE(mi_heap_malloc(heap, 100), nullptr);
      EXPECT_NE(mi_heap_malloc(heap, 100000), nullptr);
    }};
    ASSERT_TRUE(mi_heap_on_destroy(heap, Action::Run, &action));
    mi_heap_destroy(heap);
    ASSERT_NE(kept, nullptr);
    EXPECT_TRUE(Holds(kept, 100, 7));
    EXPECT_TRUE(mi_heap_contains(other, kept));
    mi_heap_destroy(other);
  }
}

TEST(OnDestroy, WhatACallbackRegistersIsCalledAfterIt) {
  mi_heap_t* heap = mi_heap_new();
  Action action{[&] {
    Register(heap, '1');
    Register(heap, '2');
    Note(Letter('x'));
  }};
  Register(heap, 'a');
  ASSERT_TRUE(mi_heap_on_destroy(heap, Action::Run, &action));
  Register(heap, 'b');
  mi_heap_destroy(heap);
  EXPECT_EQ(TakeLog(), "bx21a");
}

TEST(OnDestroy, ACallbackCannotEndResetMoveOrRewindItsHeap) {
  for (auto end : {mi_heap_destroy, mi_heap_reset, mi_heap_delete}) {
    mi_heap_t* heap = mi_heap_new();
    mi_heap_t* other = mi_heap_new();
    ErrorRecorder errors;
    Action action{[&] {
      mi_heap_destroy(heap);
      mi_heap_reset(heap);
      mi_heap_delete(heap);
      mi_heap_merge(heap, other);
      EXPECT_FALSE(mi_heap_set_parent(heap, other));
    }};
    ASSERT_TRUE(Register(heap, 'a'));
    ASSERT_TRUE(mi_heap_on_destroy(heap, Action::Run, &action));
    end(heap);
    EXPECT_EQ(errors.count(EINVAL), 5) << errors.text();
    EXPECT_EQ(errors.total(), 5);
    EXPECT_EQ(TakeLog(), "a");
    if (end == mi_heap_reset) mi_heap_destroy(heap);
    mi_heap_destroy(other);
  }
}

TEST(OnDestroy, MergeTakesCallbacksAlongAndAMergeIntoMainCallsThem) {
  mi_heap_t* from = mi_heap_new();
  mi_heap_t* into = mi_heap_new();
  Register(into, 'a');
  Register(from, 'b');
  Register(from, 'c');
  mi_heap_merge(from, into);
  EXPECT_EQ(TakeLog(), "");
  Register(into, 'd');
  mi_heap_destroy(into);
  EXPECT_EQ(TakeLog(), "dcba");

  from = mi_heap_new();
  Register(from, 'a');
  void* p = mi_heap_malloc(from, 100);
  mi_heap_merge(from, nullptr);
  EXPECT_EQ(TakeLog(), "a");
  mi_free(p);
}

TEST(OnDestroy, BadInputIsRefused) {
  mi_heap_t* heap = mi_heap_new();
  ErrorRecorder errors;
  EXPECT_FALSE(mi_heap_on_destroy(heap, nullptr, nullptr));
  EXPECT_FALSE(mi_heap_on_destroy(nullptr, Note, nullptr));
  EXPECT_FALSE(mi_heap_on_destroy(mi_heap_main(), Note, nullptr));
  EXPECT_FALSE(mi_heap_cancel_on_destroy(mi_heap_main(), Note, nullptr));
  EXPECT_EQ(errors.count(EINVAL), 4);
  mi_heap_destroy(heap);
  EXPECT_FALSE(mi_heap_on_destroy(heap, Note, nullptr));
  EXPECT_FALSE(mi_heap_cancel_on_destroy(heap, Note, nullptr));
  EXPECT_EQ(errors.count(EFAULT), 2);
}

TEST(OnDestroy, ManyThreadsRegisterInOneHeapAtOnceAndEachIsCalledOnce) {
  const int kThreads = 4, kEach = Scaled(2000);
  mi_heap_t* heap = mi_heap_new();
  std::vector<std::atomic<int>> calls(kThreads * kEach);
  InThreads(kThreads, [&](int t) {
    for (int i = 0; i < kEach; i++) {
      void* arg = &calls[t * kEach + i];
      ASSERT_TRUE(mi_heap_on_destroy(
          heap, [](void* n) { static_cast<std::atomic<int>*>(n)->fetch_add(1); }, arg));
      ASSERT_NE(mi_heap_malloc(heap, 40), nullptr);
      if (i % 3 == 0) {
        ASSERT_TRUE(mi_heap_cancel_on_destroy(
                        heap, [](void* n) { static_cast<std::atomic<int>*>(n)->fetch_add(1); }, arg) == false);
      }
    }
  });
  mi_heap_destroy(heap);
  for (auto& n : calls) ASSERT_EQ(n.load(), 1);
}

TEST(OnDestroy, WorksInAnArenaAndInSubprocesses) {
  mi_subproc_id_t id = mi_subproc_new();
  InThread([&] {
    mi_subproc_add_current_thread(id);
    Register(mi_heap_main(), 'm');
    mi_heap_t* heap = mi_heap_new();
    Register(heap, 'h');
    mi_heap_t* child = NewChild(heap);
    Register(child, 'c');
  });
  mi_subproc_destroy(id);
  EXPECT_EQ(TakeLog(), "chm");

  mi_arena_id_t arena = nullptr;
  ASSERT_EQ(mi_reserve_os_memory_ex(64 * kMiB, true, false, true, &arena), 0);
  mi_heap_t* heap = mi_heap_new_in_arena(arena);
  ASSERT_NE(heap, nullptr);
  Register(heap, 'a');
  mi_heap_t* child = NewChild(heap);
  Register(child, 'b');
  ASSERT_NE(mi_heap_malloc(heap, 100), nullptr);
  mi_heap_reset(heap);
  EXPECT_EQ(TakeLog(), "ba");
  Register(heap, 'd');
  mi_heap_destroy(heap);
  EXPECT_EQ(TakeLog(), "d");
}

// ---- families ----------------------------------------------------------------------------------------------

TEST(Family, ChildrenEndBeforeTheirParentTheYoungestFirstEachWithItsOwn) {
  for (auto end : {mi_heap_destroy, mi_heap_reset}) {
    mi_heap_t* parent = mi_heap_new();
    Register(parent, 'p');
    mi_heap_t* a = NewChild(parent);
    Register(a, 'a');
    mi_heap_t* b = NewChild(parent);
    Register(b, 'b');
    mi_heap_t* aa = NewChild(a);
    Register(aa, '1');
    mi_heap_t* ab = NewChild(a);
    Register(ab, '2');
    EXPECT_EQ(mi_heap_parent(ab), a);
    EXPECT_EQ(mi_heap_parent(a), parent);
    EXPECT_EQ(mi_heap_parent(parent), nullptr);
    end(parent);
    EXPECT_EQ(TakeLog(), "b21ap");
    if (end == mi_heap_reset) mi_heap_destroy(parent);
  }
}

TEST(Family, TheYoungestIsKnownAcrossThreads) {
  mi_heap_t* parent = mi_heap_new();
  Worker threads[3];
  std::string expected;
  for (int i = 0; i < 12; i++) {
    char c = static_cast<char>('a' + i);
    threads[i * 7 % 3].Run([&] {
      for (int k = 0; k < i; k++) mi_heap_destroy(mi_heap_new());  // uses up ids
      Register(NewChild(parent), c);
    });
    expected = c + expected;
  }
  mi_heap_destroy(parent);
  EXPECT_EQ(TakeLog(), expected);
}

TEST(Family, TheOrderIsThatOfAgeAndNotOfJoining) {
  mi_heap_t* parent = mi_heap_new();
  const int kHeaps = 50;
  std::vector<mi_heap_t*> heaps;
  std::string expected;
  for (int i = 0; i < kHeaps; i++) {
    heaps.push_back(mi_heap_new());
    char c = static_cast<char>('0' + i);
    Register(heaps.back(), c);
    expected = c + expected;
  }
  Random random(3);
  while (!heaps.empty()) {
    size_t i = random.Below(heaps.size());
    ASSERT_TRUE(mi_heap_set_parent(heaps[i], parent));
    heaps.erase(heaps.begin() + static_cast<long>(i));
  }
  mi_heap_destroy(parent);
  EXPECT_EQ(TakeLog(), expected);
}

TEST(Family, AChildMayEndOrMoveEarlier) {
  mi_heap_t* p = mi_heap_new();
  mi_heap_t* q = mi_heap_new();
  mi_heap_t* c[4];
  for (int i = 0; i < 4; i++) {
    c[i] = NewChild(p);
    Register(c[i], static_cast<char>('0' + i));
  }
  mi_heap_destroy(c[1]);
  EXPECT_EQ(TakeLog(), "1");
  ASSERT_TRUE(mi_heap_set_parent(c[3], q));
  EXPECT_EQ(mi_heap_parent(c[3]), q);
  ASSERT_TRUE(mi_heap_set_parent(c[0], nullptr));
  EXPECT_EQ(mi_heap_parent(c[0]), nullptr);
  mi_heap_destroy(p);
  EXPECT_EQ(TakeLog(), "2");
  mi_heap_destroy(q);
  EXPECT_EQ(TakeLog(), "3");
  mi_heap_destroy(c[0]);
  EXPECT_EQ(TakeLog(), "0");
}

TEST(Family, DeleteHandsTheChildrenToTheGrandparent) {
  mi_heap_t* g = mi_heap_new();
  mi_heap_t* p = NewChild(g);
  mi_heap_t* a = NewChild(p);
  mi_heap_t* b = NewChild(p);
  Register(a, 'a');
  Register(b, 'b');
  Register(p, 'p');
  void* block = mi_heap_malloc(p, 100);
  mi_heap_delete(p);
  EXPECT_EQ(TakeLog(), "p");
  EXPECT_EQ(mi_heap_parent(a), g);
  EXPECT_EQ(mi_heap_parent(b), g);
  EXPECT_TRUE(mi_heap_contains(mi_heap_main(), block));
  mi_heap_delete(g);
  EXPECT_EQ(mi_heap_parent(a), nullptr);
  mi_heap_destroy(a);
  mi_heap_destroy(b);
  EXPECT_EQ(TakeLog(), "ab");
  mi_free(block);
}

TEST(Family, MergeHandsTheChildrenToTheTargetAlsoToADescendant) {
  mi_heap_t* g = mi_heap_new();
  mi_heap_t* p = NewChild(g);
  mi_heap_t* a = NewChild(p);
  mi_heap_t* aa = NewChild(a);
  mi_heap_t* b = NewChild(p);
  Register(p, 'p');
  Register(aa, '1');
  Register(a, 'a');
  Register(b, 'b');
  mi_heap_merge(p, aa);
  EXPECT_EQ(mi_heap_parent(aa), g);
  EXPECT_EQ(mi_heap_parent(a), aa);
  EXPECT_EQ(mi_heap_parent(b), aa);
  EXPECT_EQ(TakeLog(), "");
  mi_heap_destroy(g);
  EXPECT_EQ(TakeLog(), "bap1");
}

TEST(Family, WhatWouldMakeACircleIsRefused) {
  mi_heap_t* a = mi_heap_new();
  mi_heap_t* b = NewChild(a);
  mi_heap_t* c = NewChild(b);
  ErrorRecorder errors;
  EXPECT_FALSE(mi_heap_set_parent(a, a));
  EXPECT_FALSE(mi_heap_set_parent(a, b));
  EXPECT_FALSE(mi_heap_set_parent(a, c));
  EXPECT_FALSE(mi_heap_set_parent(b, c));
  EXPECT_EQ(errors.count(EINVAL), 4);
  EXPECT_EQ(mi_heap_parent(a), nullptr);
  EXPECT_EQ(mi_heap_parent(b), a);
  EXPECT_TRUE(mi_heap_set_parent(c, a));
  EXPECT_TRUE(mi_heap_set_parent(b, c));
  mi_heap_destroy(a);
}

TEST(Family, MainHeapsDeadHeapsAndOtherSubprocessesAreRefused) {
  mi_heap_t* heap = mi_heap_new();
  mi_heap_t* dead = mi_heap_new();
  mi_heap_destroy(dead);
  {
    ErrorRecorder errors;
    EXPECT_FALSE(mi_heap_set_parent(heap, mi_heap_main()));
    EXPECT_FALSE(mi_heap_set_parent(mi_heap_main(), heap));
    EXPECT_FALSE(mi_heap_set_parent(nullptr, heap));
    EXPECT_FALSE(mi_heap_set_parent(heap, dead));
    EXPECT_EQ(NewChild(mi_heap_main()), nullptr);
    EXPECT_EQ(NewChild(dead), nullptr);
    EXPECT_EQ(errors.count(EINVAL), 6);
    EXPECT_NE(errors.text().find("field parent"), std::string::npos);
    EXPECT_FALSE(mi_heap_set_parent(dead, heap));
    EXPECT_EQ(mi_heap_parent(dead), nullptr);
    EXPECT_EQ(errors.count(EFAULT), 2);
  }
  mi_subproc_id_t id = mi_subproc_new();
  InThread([&] {
    mi_subproc_add_current_thread(id);
    ErrorRecorder errors;
    mi_heap_t* here = mi_heap_new();
    EXPECT_FALSE(mi_heap_set_parent(here, heap));
    EXPECT_FALSE(mi_heap_set_parent(heap, here));
    EXPECT_FALSE(mi_heap_set_parent(mi_heap_main(), here)) << "the main heap of a sub-process got a parent";
    EXPECT_EQ(NewChild(heap), nullptr);
    EXPECT_EQ(errors.count(EINVAL), 4);
    EXPECT_TRUE(mi_heap_set_parent(here, mi_heap_main()));
    EXPECT_EQ(mi_heap_parent(here), mi_heap_main());
  });
  mi_subproc_delete(id);
  mi_heap_destroy(heap);
}

TEST(Family, AChildThatMayNotBeDestroyedIsDeletedWithItsParent) {
  mi_heap_t* parent = mi_heap_new();
  mi_heap_t* child = mi_heap_new_ex(0, false, nullptr);
  ASSERT_TRUE(mi_heap_set_parent(child, parent));
  Register(child, 'c');
  void* p = mi_heap_malloc(child, 100);
  Fill(p, 100, 1);
  mi_heap_destroy(parent);
  EXPECT_EQ(TakeLog(), "c");
  EXPECT_TRUE(Holds(p, 100, 1));
  EXPECT_EQ(mi_heap_of(p), mi_heap_main());
  mi_free(p);
}

TEST(Family, ACallbackOfAChildMayEndSiblingsAndMakeNewOnesButNotItsParentThatIsEnding) {
  mi_heap_t* parent = mi_heap_new();
  mi_heap_t* older = NewChild(parent);
  mi_heap_t* moved = NewChild(parent);
  mi_heap_t* other = mi_heap_new();
  Register(parent, 'p');
  Register(older, 'o');
  Register(moved, 'm');
  mi_heap_t* youngest = NewChild(parent);
  Action action{[&] {
    mi_heap_destroy(older);
    EXPECT_TRUE(mi_heap_set_parent(moved, other));
    Register(NewChild(parent), 'n');
    Register(NewChild(youngest), 'y');
    ErrorRecorder errors;
    mi_heap_destroy(parent);
    mi_heap_destroy(youngest);
    mi_heap_delete(parent);
    mi_heap_merge(parent, other);
    EXPECT_EQ(errors.count(EINVAL), 4);
  }};
  ASSERT_TRUE(mi_heap_on_destroy(youngest, Action::Run, &action));
  mi_heap_destroy(parent);
  EXPECT_EQ(TakeLog(), "oynp");
  mi_heap_destroy(other);
  EXPECT_EQ(TakeLog(), "m");
}

TEST(Family, ACallbackOfAChildThatEndsEarlyMayDestroyTheParent) {
  mi_heap_t* parent = mi_heap_new();
  mi_heap_t* child = NewChild(parent);
  mi_heap_t* sibling = NewChild(parent);
  Register(parent, 'p');
  Register(sibling, 's');
  Action action{[&] {
    void* p = mi_heap_malloc(child, 100);
    Fill(p, 100, 1);
    mi_heap_destroy(parent);
    EXPECT_EQ(mi_heap_parent(child), nullptr);
    EXPECT_TRUE(Holds(p, 100, 1)) << "the child's memory went with its parent's, in the middle of its own end";
  }};
  Register(child, 'c');
  ASSERT_TRUE(mi_heap_on_destroy(child, Action::Run, &action));
  mi_heap_destroy(child);
  EXPECT_EQ(TakeLog(), "spc");
}

TEST(Family, AnAncestorCannotGoIntoADescendantThatIsEnding) {
  mi_heap_t* root = mi_heap_new();
  mi_heap_t* parent = NewChild(root);
  mi_heap_t* child = NewChild(parent);
  mi_heap_t* grandchild = NewChild(child);
  int calls = 0;
  ASSERT_TRUE(mi_heap_register_deferred_free(
      parent, [](mi_heap_t*, bool, unsigned long long, void* n) { ++*static_cast<int*>(n); }, &calls));
  Register(root, 'r');
  Register(parent, 'p');
  Register(grandchild, 'g');
  ErrorRecorder errors;
  Action action{[&] { mi_heap_merge(parent, grandchild); }};
  ASSERT_TRUE(mi_heap_on_destroy(grandchild, Action::Run, &action));
  mi_heap_destroy(child);
  EXPECT_EQ(errors.count(EINVAL), 1);
  EXPECT_EQ(TakeLog(), "g") << "what ended the grandchild did not stop at the child";
  EXPECT_EQ(calls, 0) << "a heap that stays got its last call";
  EXPECT_EQ(mi_heap_parent(parent), root);
  mi_heap_destroy(root);
  EXPECT_EQ(TakeLog(), "pr");
  EXPECT_EQ(calls, 1);
  EXPECT_EQ(errors.count(EFAULT), 0);
}

TEST(Family, ACallbackOfAChildThatIsResetOrRewoundCannotDestroyOrResetTheParent) {
  mi_heap_t* parent = mi_heap_new();
  mi_heap_t* child = NewChild(parent);
  mi_heap_mark_t mark = mi_heap_mark(child);
  ErrorRecorder errors;
  Action action{[&] {
    mi_heap_destroy(parent);
    mi_heap_reset(parent);
  }};
  for (bool rewind : {true, false}) {
    ASSERT_TRUE(mi_heap_on_destroy(child, Action::Run, &action));
    if (rewind) {
      EXPECT_TRUE(mi_heap_rewind(child, mark));
    } else {
      mi_heap_reset(child);
    }
    EXPECT_EQ(mi_heap_parent(child), parent) << "the child was left over";
    EXPECT_EQ(errors.count(EINVAL), rewind ? 2 : 4);
  }
  Register(child, 'c');
  mi_heap_destroy(parent);
  EXPECT_EQ(TakeLog(), "c");
}

void RunDeferred(mi_heap_t*, bool force, unsigned long long, void* action) {
  if (force) static_cast<Action*>(action)->body();
}

TEST(Family, AHeapWhoseCallbackRunsIsNotMovedBelowOneThatIsEnding) {
  for (bool reset : {true, false}) {
    for (bool merge : {true, false}) {
      mi_heap_t* ending = mi_heap_new();
      mi_heap_t* above = mi_heap_new();
      mi_heap_t* heap = NewChild(above);
      ErrorRecorder errors;
      Action move{[&] {
        if (merge) {
          mi_heap_merge(above, ending);
        } else {
          EXPECT_FALSE(mi_heap_set_parent(above, ending));
          EXPECT_FALSE(mi_heap_set_parent(heap, ending));
        }
      }};
      Action end{[&] { reset ? mi_heap_reset(ending) : mi_heap_destroy(ending); }};
      ASSERT_TRUE(mi_heap_register_deferred_free(ending, RunDeferred, &move));
      ASSERT_TRUE(mi_heap_register_deferred_free(heap, RunDeferred, &end));
      Register(heap, 'h');
      mi_heap_destroy(heap);
      EXPECT_EQ(TakeLog(), "h");
      EXPECT_EQ(errors.count(EINVAL), merge ? 1 : 2);
      EXPECT_EQ(errors.count(EFAULT), 0);
      mi_heap_destroy(above);
      if (reset) {
        ASSERT_TRUE(mi_heap_register_deferred_free(ending, nullptr, nullptr));
        mi_heap_destroy(ending);
      }
    }
  }
}

TEST(Family, WhatAMergeCallsCannotEndTheTarget) {
  mi_heap_t* above = mi_heap_new();
  mi_heap_t* target = NewChild(above);
  mi_heap_t* heap = mi_heap_new();
  void* p = mi_heap_malloc(heap, 100);
  Fill(p, 100, 1);
  ErrorRecorder errors;
  Action end{[&] {
    mi_heap_destroy(target);
    mi_heap_merge(target, nullptr);
    mi_heap_destroy(above);
  }};
  ASSERT_TRUE(mi_heap_register_deferred_free(heap, RunDeferred, &end));
  mi_heap_merge(heap, target);
  EXPECT_EQ(errors.count(EINVAL), 3);
  EXPECT_EQ(mi_heap_of(p), target);
  EXPECT_TRUE(Holds(p, 100, 1));
  mi_heap_destroy(above);
}

mi_heap_t* g_above;
TEST(Family, ADeferredFreeOfAChildCannotDestroyItsParent) {
  g_above = mi_heap_new();
  mi_heap_t* child = NewChild(g_above);
  ErrorRecorder errors;
  mi_register_deferred_free([](bool, unsigned long long, void*) { mi_heap_destroy(g_above); }, nullptr);
  std::vector<void*> blocks;
  for (int i = 0; i < 200; i++) {
    blocks.push_back(mi_heap_malloc(child, 1000));
    Fill(blocks.back(), 1000, i);
  }
  mi_register_deferred_free(nullptr, nullptr);
  EXPECT_GT(errors.count(EINVAL), 0);
  for (size_t i = 0; i < blocks.size(); i++) ASSERT_TRUE(Holds(blocks[i], 1000, i));
  mi_heap_destroy(g_above);
}

TEST(Family, ADeepFamilyEndsWithoutADeepStack) {
  const int kDepth = Scaled(100000);
  mi_heap_t* top = mi_heap_new();
  std::atomic<int> ended{0};
  mi_heap_t* at = top;
  for (int i = 0; i < kDepth; i++) {
    at = NewChild(at);
    ASSERT_NE(at, nullptr);
    mi_heap_on_destroy(
        at, [](void* n) { static_cast<std::atomic<int>*>(n)->fetch_add(1); }, &ended);
  }
  mi_heap_destroy(top);
  EXPECT_EQ(ended.load(), kDepth);
}

TEST(Family, ManyThreadsMakeMoveAndEndChildrenOfTheSameParents) {
  const int kRounds = Scaled(20000);
  mi_heap_t* parents[3];
  for (auto& p : parents) p = mi_heap_new();
  std::atomic<int> made{0}, ended{0};
  InThreads(4, [&](int t) {
    Random random(100 + t);
    std::vector<mi_heap_t*> mine;
    for (int i = 0; i < kRounds; i++) {
      size_t op = random.Below(4);
      if (op == 0 || mine.size() < 3) {
        mi_heap_t* heap = random.OneIn(2) ? NewChild(parents[random.Below(3)]) : mi_heap_new();
        ASSERT_NE(heap, nullptr);
        ASSERT_TRUE(mi_heap_on_destroy(
            heap, [](void* n) { static_cast<std::atomic<int>*>(n)->fetch_add(1); }, &ended));
        mine.push_back(heap);
        made++;
      } else if (op == 1) {
        ASSERT_TRUE(mi_heap_set_parent(mine[random.Below(mine.size())], parents[random.Below(3)]));
      } else if (op == 2) {
        ASSERT_TRUE(mi_heap_set_parent(mine[random.Below(mine.size())], nullptr));
      } else {
        size_t k = random.Below(mine.size());
        mi_heap_destroy(mine[k]);
        mine.erase(mine.begin() + static_cast<long>(k));
      }
    }
    for (auto* heap : mine) mi_heap_set_parent(heap, parents[random.Below(3)]);
  });
  for (auto* p : parents) mi_heap_destroy(p);
  EXPECT_EQ(ended.load(), made.load());
}

TEST(Family, OfTwoThreadsThatWouldMakeACircleOneIsRefused) {
  Worker other;
  Barrier barrier(2);
  ErrorRecorder errors;
  const int kRounds = Scaled(3000);
  for (int round = 0; round < kRounds; round++) {
    mi_heap_t* a = mi_heap_new();
    mi_heap_t* b = mi_heap_new();
    std::atomic<int> done{0};
    other.Start([&] {
      barrier.Arrive();
      done += mi_heap_set_parent(a, b);
    });
    barrier.Arrive();
    done += mi_heap_set_parent(b, a);
    other.Wait();
    ASSERT_EQ(done.load(), 1);
    mi_heap_destroy(mi_heap_parent(a) == nullptr ? a : b);
  }
  EXPECT_EQ(errors.total(), kRounds);
}

TEST(Family, AForkWhileOthersEditFamiliesLeavesThemWholeInTheChild) {
  if (kTsan) GTEST_SKIP() << "the sanitizer's run-time does not survive a fork of a threaded process";
  mi_heap_t* parent = mi_heap_new();
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (int t = 0; t < 2; t++) {
    threads.emplace_back([&] {
      while (!stop) {
        mi_heap_t* a = NewChild(parent);
        mi_heap_t* b = NewChild(parent);
        mi_heap_on_destroy(
            a, [](void*) {}, nullptr);
        mi_heap_set_parent(b, a);
        mi_heap_destroy(a);
      }
    });
  }
  for (int i = 0; i < Scaled(300); i++) {
    ASSERT_EQ(InChild([&] {
                mi_heap_t* mine = NewChild(parent);
                bool ok = mine != nullptr && mi_heap_parent(mine) == parent && mi_heap_set_parent(mine, nullptr);
                mi_heap_set_parent(mine, parent);
                mi_heap_destroy(mine);
                mi_heap_t* p = mi_heap_new();
                bool ran = false;
                mi_heap_on_destroy(
                    p, [](void* r) { *static_cast<bool*>(r) = true; }, &ran);
                mi_heap_destroy(p);
                return ok && ran ? 0 : 1;
              }),
              0);
  }
  stop = true;
  for (auto& t : threads) t.join();
  mi_heap_destroy(parent);
}

TEST(Family, AForkInACallbackLetsParentAndChildGoOnWithTheEnd) {
  mi_heap_t* parent = mi_heap_new();
  mi_heap_t* heap = NewChild(parent);
  int status = -1;
  pid_t pid = -1;
  Action action{[&] {
    pid = fork();
    if (pid > 0) waitpid(pid, &status, 0);
  }};
  Register(heap, 'a');
  ASSERT_TRUE(mi_heap_on_destroy(heap, Action::Run, &action));
  Register(parent, 'p');
  mi_heap_destroy(parent);
  std::string log = TakeLog();
  if (pid == 0) _exit(log == "ap" ? 0 : 1);
  EXPECT_EQ(log, "ap");
  EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace mi_test
