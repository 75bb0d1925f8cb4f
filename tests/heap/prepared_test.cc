// Heaps of the same configuration one after another: what one leaves on the handle must be nothing to the next.
#include <atomic>
#include <vector>

#include "gtest/gtest.h"
#include "mi/heap/heap.h"
#include "mi/mimalloc.h"
#include "tests/test_support.h"

namespace mi_test {
namespace {

struct Calls {
  int calls = 0;
  int forced = 0;
  unsigned long long heartbeat = 0;
  static void Count(mi_heap_t*, bool force, unsigned long long heartbeat, void* arg) {
    Calls* c = static_cast<Calls*>(arg);
    c->calls++;
    c->forced += force;
    c->heartbeat = heartbeat;
  }
};

mi_heap_config_t ToOrder(Calls* calls) {
  mi_heap_config_t config = {};
  config.size = sizeof(config);
  config.limit = 100 * kKiB;
  config.deferred_free = Calls::Count;
  config.deferred_arg = calls;
  return config;
}

size_t Fill(mi_heap_t* heap) {
  size_t sum = 0;
  for (void* p; (p = mi_heap_malloc(heap, 3000)) != nullptr;) sum += mi_usable_size(p);
  return sum;
}

TEST(Prepared, EachHeapBeginsAsTheFirst) {
  Calls calls;
  const mi_heap_config_t config = ToOrder(&calls);
  for (int i = 0; i < 200; i++) {
    mi_heap_t* heap = mi_heap_new_with(&config);
    ASSERT_NE(heap, nullptr);
    EXPECT_EQ(mi_heap_used(heap), 0u);
    EXPECT_EQ(mi_heap_peak(heap), 0u);
    EXPECT_EQ(mi_heap_limit(heap), 100 * kKiB);
    EXPECT_EQ(CountBlocks(heap), 0u);
    EXPECT_STREQ(mi_heap_name(heap), "");
    EXPECT_EQ(mi_heap_parent(heap), nullptr);
    for (int k = 0; k < i % 40; k++) ASSERT_NE(mi_heap_malloc(heap, 100), nullptr);
    switch (i % 8) {  // what a program may do to a heap
      case 1:
        ASSERT_TRUE(mi_heap_set_limit(heap, kMiB));
        ASSERT_TRUE(mi_heap_set_soft_limit(heap, 1));
        break;
      case 2:
        EXPECT_GT(Fill(heap), 50 * kKiB);
        break;
      case 3:
        mi_heap_reset(heap);
        break;
      case 4:
        ASSERT_TRUE(mi_heap_register_deferred_free(heap, nullptr, nullptr));
        break;
      case 5: {
        mi_heap_t* parent = mi_heap_new();
        ASSERT_TRUE(mi_heap_set_parent(heap, parent));
        ASSERT_NE(mi_heap_malloc(heap, 2000), nullptr);
        ASSERT_TRUE(mi_heap_set_parent(heap, nullptr));
        EXPECT_EQ(mi_heap_used(parent), 0u);
        mi_heap_destroy(parent);
        break;
      }
      case 6:
        InThread([&] { ASSERT_NE(mi_heap_malloc(heap, 100), nullptr); });
        break;
      case 7:
        ASSERT_TRUE(mi_heap_register_deferred_free(
            heap, [](mi_heap_t*, bool, unsigned long long, void*) {}, &calls));
        break;
    }
    EXPECT_LE(mi_heap_used(heap), 104 * kKiB);
    EXPECT_TRUE(mi_heap_check(heap));
    calls = Calls();
    mi_heap_destroy(heap);
    EXPECT_EQ(calls.forced, i % 8 == 4 || i % 8 == 7 ? 0 : 1) << i;
    if (i % 8 == 0) {
      EXPECT_EQ(calls.heartbeat, 1u);
    }
  }
}

TEST(Prepared, AnotherConfigurationGetsItsOwnAndAPlainHeapNone) {
  Calls first, second;
  const mi_heap_config_t a = ToOrder(&first);
  mi_heap_config_t b = ToOrder(&second);
  b.limit = 10 * kKiB;
  for (int i = 0; i < 100; i++) {
    std::vector<mi_heap_t*> heaps;
    for (int k = 0; k < 30; k++) {
      heaps.push_back(k % 3 == 0 ? mi_heap_new_with(&a) : k % 3 == 1 ? mi_heap_new_with(&b) : mi_heap_new());
      EXPECT_EQ(mi_heap_limit(heaps.back()), k % 3 == 0 ? 100 * kKiB : k % 3 == 1 ? 10 * kKiB : 0u);
      ASSERT_NE(mi_heap_malloc(heaps.back(), 1000), nullptr);
    }
    if (i % 10 == 5) mi_collect(true);
    for (mi_heap_t* heap : heaps) {
      EXPECT_TRUE(mi_heap_check(heap));
      mi_heap_destroy(heap);
    }
  }
  EXPECT_EQ(first.calls, 1000);
  EXPECT_EQ(second.calls, 1000);
  EXPECT_EQ(first.forced, 1000);
}

TEST(Prepared, TheLastCallMayUseTheHeapAndCannotEndIt) {
  ErrorRecorder errors;
  static int made = 0;
  mi_heap_config_t config = {};
  config.size = sizeof(config);
  config.deferred_free = [](mi_heap_t* heap, bool, unsigned long long, void*) {
    made++;
    mi_heap_destroy(heap);  // refused
    EXPECT_NE(mi_heap_malloc(heap, made % 2 == 0 ? 100 : 100000), nullptr);
    mi_heap_t* other = mi_heap_new();
    EXPECT_NE(mi_heap_malloc(other, 100), nullptr);
    mi_heap_destroy(other);
  };
  for (int i = 0; i < 20; i++) {
    mi_heap_t* heap = mi_heap_new_with(&config);
    ASSERT_NE(mi_heap_malloc(heap, 100), nullptr);
    mi_heap_destroy(heap);
    EXPECT_EQ(made, i + 1);
    EXPECT_EQ(errors.count(EINVAL), i + 1);
  }
}

TEST(Prepared, ThreadsThatEndKeepNothing) {
  Calls calls;
  const mi_heap_config_t config = ToOrder(&calls);
  size_t early = 0;
  for (int round = 0; round < 300; round++) {
    InThread([&] {
      mi_heap_t* heaps[10];
      for (mi_heap_t*& heap : heaps) {
        heap = mi_heap_new_with(&config);
        for (int i = 0; i < 60; i++) ASSERT_NE(mi_heap_malloc(heap, 300), nullptr);
      }
      for (mi_heap_t* heap : heaps) mi_heap_destroy(heap);
    });
    if (round == 50) early = ResidentBytes();
  }
  EXPECT_EQ(calls.forced, 3000);
  if (!kSanitized) {
    EXPECT_LE(ResidentBytes(), early + kMiB);
  }
}

}  // namespace
}  // namespace mi_test
