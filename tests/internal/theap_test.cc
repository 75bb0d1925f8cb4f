// mi/internal/theap.c: the slot protocol, by which a theap's thread, a destroyer, a visitor and a collector from
// another thread agree.
#include <algorithm>
#include <vector>

#include "gtest/gtest.h"
#include "tests/internal/probe.h"
#include "tests/test_support.h"

namespace mi_test {
namespace {

void FreeAll(const std::vector<void*>& blocks) {
  for (void* block : blocks) mi_free(block);
}

TEST(SlotTest, ATheapHasALiveSlotAndAYoungHeapHasNone) {
  InThread([] {
    mi_heap_t* heap = mi_heap_new();
    EXPECT_EQ(probe_slot_of_heap(heap).slot, nullptr);
    EXPECT_EQ(probe_theap_of_heap(heap), nullptr);
    ASSERT_NE(mi_heap_theap(heap), nullptr);
    EXPECT_TRUE(probe_slot_of_heap(heap).live);
    EXPECT_FALSE(probe_slot_of_heap(heap).is_default);
    mi_heap_destroy(heap);
  });
}

TEST(SlotTest, TheGenerationRisesEachTimeASlotIsUsedAgain) {
  InThread([] {
    void* slot = nullptr;
    uint64_t generation = 0;
    for (int i = 0; i < 100; i++) {
      mi_heap_t* heap = mi_heap_new();
      ASSERT_NE(mi_heap_theap(heap), nullptr);
      probe_slot_t now = probe_slot_of_heap(heap);
      if (i > 0) {
        ASSERT_EQ(now.slot, slot) << "the slot of the theap that ended is free";
        ASSERT_GT(now.generation, generation);
      }
      slot = now.slot;
      generation = now.generation;
      mi_heap_destroy(heap);
      EXPECT_TRUE(probe_slot_at(slot).is_free);
      EXPECT_GT(probe_slot_at(slot).generation, generation) << "a late bit for the former theap would reach the next";
    }
  });
}

TEST(SlotTest, ManyTheapsOfOneThreadHaveSlotsOfTheirOwn) {
  InThread([] {
    std::vector<mi_heap_t*> heaps;
    std::vector<void*> slots;
    for (int i = 0; i < 100; i++) {  // several chunks
      heaps.push_back(mi_heap_new());
      ASSERT_NE(mi_heap_theap(heaps.back()), nullptr);
      slots.push_back(probe_slot_of_heap(heaps.back()).slot);
    }
    std::sort(slots.begin(), slots.end());
    EXPECT_EQ(std::unique(slots.begin(), slots.end()), slots.end());
    for (mi_heap_t* heap : heaps) mi_heap_destroy(heap);
    for (void* slot : slots) EXPECT_TRUE(probe_slot_at(slot).is_free);
  });
}

TEST(SlotTest, WhoEntersHasTheTheapAloneAndWhatIsWantedMeanwhileIsDoneOnLeaving) {
  InThread([] {
    mi_heap_t* heap = mi_heap_new();
    mi_theap_t* theap = mi_heap_theap(heap);
    ASSERT_NE(theap, nullptr);
    void* block = mi_theap_malloc(theap, 100000);
    void* slot = probe_slot_of_heap(heap).slot;
    ASSERT_TRUE(probe_slot_enter(slot));
    EXPECT_TRUE(probe_slot_at(slot).busy);
    EXPECT_FALSE(probe_slot_enter(slot));
    InThread([heap] { mi_heap_collect(heap, true); });
    EXPECT_TRUE(probe_slot_at(slot).busy);
    EXPECT_TRUE(probe_slot_at(slot).want_collect);
    probe_slot_leave(slot);
    EXPECT_TRUE(probe_slot_at(slot).live);
    EXPECT_FALSE(probe_slot_at(slot).want_collect);
    EXPECT_EQ(mi_heap_of(block), heap);
    mi_heap_destroy(heap);
  });
}

TEST(SlotTest, ADestroyerThatFindsATheapBusyLeavesTheEndToWhoHasIt) {
  InThread([] {
    mi_heap_t* heap = mi_heap_new();
    mi_theap_t* theap = mi_heap_theap(heap);
    ASSERT_NE(theap, nullptr);
    ASSERT_NE(mi_theap_malloc(theap, 100000), nullptr);
    probe_slot_t slot = probe_slot_of_heap(heap);
    uint64_t id = probe_heap(heap).id;
    ASSERT_NE(id, 0u);
    EXPECT_EQ(probe_heap(heap).refs, 2u);
    ASSERT_TRUE(probe_slot_enter(slot.slot));
    mi_heap_destroy(heap);
    EXPECT_TRUE(probe_slot_at(slot.slot).busy);
    EXPECT_TRUE(probe_slot_at(slot.slot).want_destroy);
    EXPECT_TRUE(probe_heap(heap).dying);
    EXPECT_EQ(probe_heap(heap).refs, 1u) << "the theap's";
    EXPECT_EQ(probe_theap_page_count(theap), 1u);
    probe_slot_leave(slot.slot);
    EXPECT_TRUE(probe_slot_at(slot.slot).is_free);
    EXPECT_EQ(probe_slot_at(slot.slot).generation, slot.generation + 1);
    EXPECT_TRUE(probe_heap(heap).gone) << "the last reference is gone";
  });
}

TEST(SlotTest, ACollectFromElsewhereIsAnsweredAtTheNextSlowPath) {
  Worker owner;
  mi_heap_t* heap = nullptr;
  const void* record = nullptr;
  std::vector<void*> blocks;
  mi_theap_t* theap = nullptr;
  owner.Run([&] {
    record = probe_thread_record();
    heap = mi_heap_new();
    theap = mi_heap_theap(heap);
    for (int i = 0; i < 300; i++) blocks.push_back(mi_theap_malloc(theap, 1500));
  });
  FreeAll(blocks);  // remotely: the pages are empty, but only their owner can know
  EXPECT_GT(probe_theap_page_count(theap), 1u);
  mi_heap_collect(heap, true);
  EXPECT_TRUE(probe_has_mail(record));
  EXPECT_TRUE(probe_slot_of_heap(heap).want_collect);
  EXPECT_TRUE(probe_slot_of_heap(heap).live);
  owner.Run([] { mi_free(mi_malloc(100000)); });
  EXPECT_FALSE(probe_has_mail(record));
  EXPECT_FALSE(probe_slot_of_heap(heap).want_collect);
  EXPECT_TRUE(probe_slot_of_heap(heap).live);
  EXPECT_EQ(probe_theap_page_count(theap), 0u);
  mi_heap_destroy(heap);
}

TEST(SlotTest, AfterADeleteElsewhereTheTheapEndsAtItsThreadsNextSlowPath) {
  Worker owner;
  mi_heap_t* heap = nullptr;
  void* block = nullptr;
  owner.Run([&] {
    heap = mi_heap_new();
    block = mi_theap_malloc(mi_heap_theap(heap), 20000);
  });
  probe_slot_t slot = probe_slot_of_heap(heap);
  mi_heap_delete(heap);
  EXPECT_TRUE(probe_slot_at(slot.slot).want_abandon);
  EXPECT_TRUE(probe_heap(heap).closed);
  EXPECT_EQ(probe_heap(heap).refs, 2u);
  owner.Run([] { mi_free(mi_malloc(100000)); });
  EXPECT_TRUE(probe_slot_at(slot.slot).is_free);
  EXPECT_EQ(probe_slot_at(slot.slot).generation, slot.generation + 1);
  EXPECT_EQ(probe_slot_of_heap(heap).slot, nullptr);
  EXPECT_EQ(probe_heap(heap).refs, 1u);
  EXPECT_EQ(probe_heap(heap).pages_out, 1);
  mi_free(block);
  mi_collect(true);
  EXPECT_TRUE(probe_heap(heap).gone);
}

TEST(SlotTest, ADestroyElsewhereTakesALiveTheapAtOnce) {
  Worker owner;
  mi_heap_t* heap = nullptr;
  void* block = nullptr;
  owner.Run([&] {
    heap = mi_heap_new();
    block = mi_theap_malloc(mi_heap_theap(heap), 100000);
  });
  probe_page_t page;
  ASSERT_TRUE(probe_page_of(block, &page));
  probe_slot_t slot = probe_slot_of_heap(heap);
  mi_heap_destroy(heap);
  EXPECT_TRUE(probe_slot_at(slot.slot).is_free);
  EXPECT_TRUE(probe_slices_are_free(page.slot, page.slices));
  EXPECT_TRUE(probe_heap(heap).gone);
  // The thread's next theap may use the slot.
  owner.Run([&] {
    mi_heap_t* next = mi_heap_new();
    EXPECT_NE(mi_heap_theap(next), nullptr);
    EXPECT_GT(probe_slot_of_heap(next).generation, 0u);
    mi_heap_destroy(next);
  });
}

TEST(SlotTest, ADefaultThatWasDestroyedElsewhereIsDeadUntilItsThreadLeavesIt) {
  for (bool by_exit : {false, true}) {
    Worker owner;
    mi_heap_t* heap = nullptr;
    mi_theap_t* theap = nullptr;
    owner.Run([&] {
      heap = mi_heap_new();
      mi_heap_set_default(heap);
      theap = mi_theap_get_default();
      for (int i = 0; i < 1000; i++) ASSERT_NE(mi_malloc(200), nullptr);
    });
    probe_slot_t slot = probe_slot_of_heap(heap);
    EXPECT_TRUE(slot.live);
    EXPECT_TRUE(slot.is_default);
    mi_heap_destroy(heap);
    EXPECT_TRUE(probe_slot_at(slot.slot).dead);
    EXPECT_EQ(probe_slot_at(slot.slot).generation, slot.generation);
    EXPECT_EQ(probe_theap_page_count(theap), 0u);
    EXPECT_TRUE(probe_heap(heap).gone) << "the heap does not wait for the thread";
    probe_page_t before, after;
    ASSERT_TRUE(probe_page_of(theap, &before)) << "the theap's memory is still there";
    if (by_exit) {
      owner.Exit();
    } else {
      owner.Run([&] {
        void* block = mi_malloc(200);
        EXPECT_EQ(mi_heap_of(block), mi_heap_main());
        mi_free(block);
        EXPECT_TRUE(probe_page_of(theap, &after));
        EXPECT_EQ(after.used - after.remote_free + 1, before.used - before.remote_free) << "the theap's block is free";
      });
    }
    EXPECT_TRUE(probe_slot_at(slot.slot).is_free);
    EXPECT_EQ(probe_slot_at(slot.slot).generation, slot.generation + 1);
  }
}

TEST(SlotTest, ThreadExitEndsItsTheapsAndLeavesTheirPagesToTheHeaps) {
  mi_heap_t* heap = mi_heap_new();
  void* block = nullptr;
  InThread([&] {
    ASSERT_NE(mi_heap_theap(heap), nullptr);
    block = mi_theap_malloc(mi_heap_theap(heap), 20000);
    probe_heap_t now = probe_heap(heap);
    EXPECT_EQ(now.refs, 2u);
    EXPECT_EQ(now.lanes, 1u);
    EXPECT_EQ(now.pages_out, 0);
  });
  EXPECT_EQ(probe_heap(heap).refs, 1u);
  EXPECT_EQ(probe_heap(heap).pages_out, 1);
  EXPECT_EQ(mi_heap_of(block), heap);
  // The next thread adopts the lane and, when it allocates, the page.
  InThread([&] {
    void* more = mi_theap_malloc(mi_heap_theap(heap), 20000);
    EXPECT_EQ(probe_heap(heap).lanes, 1u);
    EXPECT_EQ(probe_heap(heap).pages_out, 0);
    probe_page_t page;
    ASSERT_TRUE(probe_page_of(block, &page));
    EXPECT_EQ(page.owner, probe_thread_id());
    mi_free(more);
  });
  mi_heap_destroy(heap);
}

TEST(SlotTest, AResetGivesTheTheapBackEmpty) {
  InThread([] {
    mi_heap_t* heap = mi_heap_new();
    mi_theap_t* theap = mi_heap_theap(heap);
    for (int i = 0; i < 1000; i++) ASSERT_NE(mi_theap_malloc(theap, 300), nullptr);
    probe_slot_t slot = probe_slot_of_heap(heap);
    mi_heap_reset(heap);
    EXPECT_EQ(probe_slot_of_heap(heap).slot, slot.slot);
    EXPECT_TRUE(probe_slot_of_heap(heap).live);
    EXPECT_EQ(probe_slot_of_heap(heap).generation, slot.generation);
    EXPECT_EQ(probe_theap_page_count(theap), 0u);
    EXPECT_TRUE(probe_theap_is_sound(theap));
    EXPECT_EQ(mi_heap_theap(heap), theap);
    mi_heap_destroy(heap);
  });
}

TEST(TheapTest, QueuesDirectTableAndCountsAgreeThroughRandomUse) {
  InThread([] {
    mi_heap_t* heap = mi_heap_new();
    mi_theap_t* theap = mi_heap_theap(heap);
    Random random(9);
    std::vector<void*> blocks;
    for (int round = 0; round < Scaled(30000); round++) {
      if (blocks.size() < 3000 && !random.OneIn(3)) {
        blocks.push_back(mi_theap_malloc(theap, random.OneIn(50) ? random.Below(300000) : random.Below(2000)));
      } else if (!blocks.empty()) {
        size_t at = random.Below(blocks.size());
        mi_free(blocks[at]);
        blocks[at] = blocks.back();
        blocks.pop_back();
      }
      if (round % 1000 == 0) {
        ASSERT_TRUE(probe_theap_is_sound(theap)) << "round " << round;
      }
    }
    FreeAll(blocks);
    mi_theap_collect(theap, true);
    EXPECT_EQ(probe_theap_page_count(theap), 0u);
    EXPECT_TRUE(probe_theap_is_sound(theap));
    mi_heap_destroy(heap);
  });
}

}  // namespace
}  // namespace mi_test
