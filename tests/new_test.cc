// mi_new and its family: std::bad_alloc, the program's new_handler, and operator new and delete through
// mimalloc-new-delete.h, which this program includes.
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "mi/mimalloc-new-delete.h"
#include "mi/mimalloc.h"
#include "tests/test_support.h"

namespace mi_test {
namespace {

const size_t kTooMuch = SIZE_MAX - 4096;

// The calls of the handler; a test sets what it does.
int handler_calls;
void (*handler_action)();
void Handler() {
  handler_calls++;
  handler_action();
}

// Installs the handler while it lives.
class WithHandler {
 public:
  explicit WithHandler(void (*action)()) {
    handler_calls = 0;
    handler_action = action;
    former_ = std::set_new_handler(Handler);
  }
  ~WithHandler() { std::set_new_handler(former_); }

 private:
  std::new_handler former_;
};

// All functions that throw, with a request that no memory can serve; each in the given heap or the default one.
std::vector<std::pair<std::string, std::function<void*(mi_heap_t*)>>> Throwing() {
  static void* block = mi_malloc(10);
  return {
      {"mi_new", [](mi_heap_t*) { return mi_new(Opaque(kTooMuch)); }},
      {"mi_new_n", [](mi_heap_t*) { return mi_new_n(Opaque(kTooMuch / 16), 16); }},
      {"mi_new_aligned", [](mi_heap_t*) { return mi_new_aligned(Opaque(kTooMuch), 64); }},
      {"mi_new_realloc", [](mi_heap_t*) { return mi_new_realloc(block, Opaque(kTooMuch)); }},
      {"mi_new_reallocn", [](mi_heap_t*) { return mi_new_reallocn(block, Opaque(kTooMuch / 16), 16); }},
      {"mi_heap_alloc_new", [](mi_heap_t* heap) { return mi_heap_alloc_new(heap, Opaque(kTooMuch)); }},
      {"mi_heap_alloc_new_n", [](mi_heap_t* heap) { return mi_heap_alloc_new_n(heap, Opaque(kTooMuch / 16), 16); }},
  };
}

TEST(NewTest, ServesAsMallocDoes) {
  mi_heap_t* heap = mi_heap_new();
  void* blocks[] = {mi_new(100),
                    mi_new_nothrow(100),
                    mi_new_aligned(100, 128),
                    mi_new_aligned_nothrow(100, 128),
                    mi_new_n(10, 10),
                    mi_new_realloc(nullptr, 100),
                    mi_new_reallocn(nullptr, 10, 10),
                    mi_heap_alloc_new(heap, 100),
                    mi_heap_alloc_new_n(heap, 10, 10)};
  for (void* p : blocks) {
    ASSERT_NE(p, nullptr);
    EXPECT_GE(mi_usable_size(p), 100u);
    memset(p, 1, 100);
  }
  EXPECT_TRUE(IsAligned(blocks[2], 128) && IsAligned(blocks[3], 128));
  EXPECT_EQ(mi_heap_of(blocks[7]), heap);
  EXPECT_EQ(mi_heap_of(blocks[8]), heap);
  blocks[0] = mi_new_realloc(blocks[0], 10000);
  blocks[1] = mi_new_reallocn(blocks[1], 100, 100);
  EXPECT_EQ(FindOther(blocks[0], 0, 100, 1), 100u);
  EXPECT_EQ(FindOther(blocks[1], 0, 100, 1), 100u);
  for (void* p : blocks) mi_free(p);
  mi_heap_destroy(heap);
}

TEST(NewTest, WithoutMemoryAndHandlerStdBadAllocIsThrown) {
  mi_heap_t* heap = mi_heap_new();
  for (auto& [name, request] : Throwing()) {
    int destroyed = 0;
    bool caught = false;
    try {
      std::unique_ptr<int, std::function<void(int*)>> local(&destroyed, [](int* n) { (*n)++; });
      request(heap);
      ADD_FAILURE() << name << " returned";
    } catch (const std::bad_alloc& e) {
      caught = typeid(e) == typeid(std::bad_alloc) && e.what() != nullptr;
    }
    EXPECT_TRUE(caught) << name;
    EXPECT_EQ(destroyed, 1) << name << ": locals on the way were not destroyed";
  }
  EXPECT_EQ(mi_new_nothrow(Opaque(kTooMuch)), nullptr);
  EXPECT_EQ(mi_new_aligned_nothrow(Opaque(kTooMuch), 64), nullptr);
  mi_heap_destroy(heap);
}

TEST(NewTest, FailureLeaksNothing) {
  mi_heap_t* heap = mi_heap_new();
  void* kept = mi_heap_malloc(heap, 50);
  Fill(kept, 50, 9);
  for (int i = 0; i < 1000; i++) {
    EXPECT_THROW(Opaque(mi_heap_alloc_new(heap, Opaque(kTooMuch))), std::bad_alloc);
    EXPECT_THROW(Opaque(mi_new_realloc(kept, Opaque(kTooMuch))), std::bad_alloc);
  }
  EXPECT_TRUE(Holds(kept, 50, 9)) << "the block that could not be resized changed";
  int live = 0;
  mi_heap_visit_blocks(
      heap, true,
      [](const mi_heap_t*, const mi_heap_area_t*, void* block, size_t, void* arg) {
        *static_cast<int*>(arg) += block != nullptr;
        return true;
      },
      &live);
  EXPECT_EQ(live, 1);
  mi_heap_destroy(heap);
}

TEST(NewTest, TheHandlerIsCalledUntilItGivesUp) {
  mi_heap_t* heap = mi_heap_new();
  for (auto& [name, request] : Throwing()) {
    WithHandler with([] {
      if (handler_calls == 5) std::set_new_handler(nullptr);
    });
    EXPECT_THROW(request(heap), std::bad_alloc) << name;
    EXPECT_EQ(handler_calls, 5) << name;
  }
  WithHandler with([] {
    if (handler_calls == 5) std::set_new_handler(nullptr);
  });
  EXPECT_EQ(mi_new_nothrow(Opaque(kTooMuch)), nullptr);
  EXPECT_EQ(handler_calls, 5);
  mi_heap_destroy(heap);
}

TEST(NewTest, WhatTheHandlerThrowsArrives) {
  mi_heap_t* heap = mi_heap_new();
  for (auto& [name, request] : Throwing()) {
    WithHandler with([] { throw std::runtime_error("from the handler"); });
    bool caught = false;
    try {
      request(heap);
    } catch (const std::runtime_error& e) {
      caught = std::string(e.what()) == "from the handler";
    }
    EXPECT_TRUE(caught) << name;
    EXPECT_EQ(handler_calls, 1) << name;
  }
  mi_heap_destroy(heap);
}

TEST(NewTest, WhatNoHandlerCanHelpThrowsWithoutAskingIt) {
  WithHandler with([] {
    if (handler_calls == 100) std::set_new_handler(nullptr);
  });
  ErrorRecorder errors;
  EXPECT_THROW(Opaque(mi_new_n(Opaque(SIZE_MAX / 2), 3)), std::bad_alloc);
  EXPECT_THROW(Opaque(mi_new_reallocn(nullptr, Opaque(SIZE_MAX / 2), 3)), std::bad_alloc);
  EXPECT_THROW(Opaque(mi_new_aligned(10, Opaque(size_t{24}))), std::bad_alloc);
  EXPECT_EQ(mi_new_aligned_nothrow(10, Opaque(size_t{24})), nullptr);
  EXPECT_THROW(Opaque(mi_heap_alloc_new(Opaque<mi_heap_t*>(nullptr), 10)), std::bad_alloc);
  EXPECT_THROW(Opaque(mi_heap_alloc_new_n(Opaque<mi_heap_t*>(nullptr), 10, 10)), std::bad_alloc);
  mi_heap_t* heap = mi_heap_new();
  mi_heap_destroy(heap);
  errno = ENOMEM;  // of an earlier failure
  EXPECT_THROW(Opaque(mi_heap_alloc_new(Opaque(heap), 10)), std::bad_alloc);
  EXPECT_EQ(handler_calls, 0);
  EXPECT_EQ(errors.count(EFAULT), 1);
}

// A process whose memory is used up but for what the handler frees.
void* hoard[4096];
size_t hoarded;
void UseUp() {
  mi_free(mi_malloc(1));
  mi_option_set(mi_option_disallow_os_alloc, 1);
  hoarded = 0;
  while (hoarded < 4096 && (hoard[hoarded] = mi_malloc(kGiB)) != nullptr) hoarded++;
}

TEST(NewTest, MemoryThatTheHandlerFreesIsUsed) {
  using Request = void* (*)(mi_heap_t*);
  const Request requests[] = {
      [](mi_heap_t*) { return mi_new(Opaque(kGiB)); },
      [](mi_heap_t*) { return mi_new_nothrow(Opaque(kGiB)); },
      [](mi_heap_t*) { return mi_new_aligned(Opaque(kGiB), 4096); },
      [](mi_heap_t*) { return mi_new_n(Opaque(kGiB / 16), 16); },
      [](mi_heap_t*) { return mi_new_realloc(mi_malloc(10), Opaque(kGiB)); },
      [](mi_heap_t* heap) { return mi_heap_alloc_new(heap, Opaque(kGiB)); },
  };
  for (Request request : requests) {
    EXPECT_EQ(InChild([request] {
                mi_heap_t* heap = mi_heap_new();
                UseUp();
                if (hoarded < 2 || hoarded == 4096) return 1;
                WithHandler with([] {
                  if (handler_calls == 3) mi_free(hoard[--hoarded]);
                });
                char* p = static_cast<char*>(request(heap));
                if (p == nullptr) return 2;
                if (handler_calls != 3) return 3;
                p[0] = p[kGiB - 1] = 1;
                return mi_usable_size(p) >= kGiB ? 0 : 4;
              }),
              0);
  }
}

// ---- operator new and delete --------------------------------------------------------------------------------

struct alignas(128) Wide {
  char bytes[256];
};

template <typename T>
void ExpectOurs(T* p) {
  ASSERT_NE(p, nullptr);
  EXPECT_TRUE(mi_any_heap_contains(p));
  EXPECT_TRUE(IsAligned(p, alignof(T)));
}

TEST(NewDeleteTest, EveryFormOfNewIsServedFromHere) {
  int* one = new int(1);
  ExpectOurs(one);
  delete one;
  int* many = new int[1000];
  ExpectOurs(many);
  delete[] many;
  one = new (std::nothrow) int(2);
  ExpectOurs(one);
  operator delete(one, std::nothrow);
  many = new (std::nothrow) int[10];
  ExpectOurs(many);
  operator delete[](many, std::nothrow);
  Wide* wide = new Wide;
  ExpectOurs(wide);
  delete wide;
  Wide* wides = new Wide[3];
  ExpectOurs(wides);
  delete[] wides;
  wide = new (std::nothrow) Wide;
  ExpectOurs(wide);
  operator delete (wide, std::align_val_t{128}, std::nothrow);
  wides = new (std::nothrow) Wide[3];
  ExpectOurs(wides);
  operator delete[](wides, std::align_val_t{128}, std::nothrow);
  std::string text(1000, 'x');
  EXPECT_TRUE(mi_any_heap_contains(text.data()));
}

TEST(NewDeleteTest, EveryFormOfDeleteFrees) {
  // A block with a page of its own is no block of ours any more when it is freed.
  static constexpr size_t size = kMiB;
  static constexpr std::align_val_t a{64};
  void (*const forms[])(void*) = {
      [](void* p) { operator delete(p); },
      [](void* p) { operator delete[](p); },
      [](void* p) { operator delete(p, std::nothrow); },
      [](void* p) { operator delete[](p, std::nothrow); },
      [](void* p) { operator delete(p, size); },
      [](void* p) { operator delete[](p, size); },
      [](void* p) { operator delete(p, a); },
      [](void* p) { operator delete[](p, a); },
      [](void* p) { operator delete(p, size, a); },
      [](void* p) { operator delete[](p, size, a); },
      [](void* p) { operator delete(p, a, std::nothrow); },
      [](void* p) { operator delete[](p, a, std::nothrow); },
  };
  for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
    void* p = i < 6 ? operator new(size) : operator new(size, a);
    EXPECT_TRUE(mi_any_heap_contains(p));
    forms[i](p);
    EXPECT_FALSE(mi_any_heap_contains(Opaque(p)));
  }
}

TEST(NewDeleteTest, WithoutMemoryNewThrowsAndNothrowNewReturnsNull) {
  EXPECT_THROW(operator delete(operator new(Opaque(kTooMuch))), std::bad_alloc);
  EXPECT_THROW(operator delete[](operator new[](Opaque(kTooMuch))), std::bad_alloc);
  EXPECT_THROW(operator delete(operator new (Opaque(kTooMuch), std::align_val_t{64})), std::bad_alloc);
  EXPECT_EQ(operator new(Opaque(kTooMuch), std::nothrow), nullptr);
  EXPECT_EQ(operator new[](Opaque(kTooMuch), std::nothrow), nullptr);
  EXPECT_EQ(operator new (Opaque(kTooMuch), std::align_val_t{64}, std::nothrow), nullptr);
  EXPECT_EQ(operator new[](Opaque(kTooMuch), std::align_val_t{64}, std::nothrow), nullptr);
}

TEST(NewDeleteTest, NothrowNewReturnsNullAlsoWhenTheHandlerThrows) {
  WithHandler with([] { throw std::bad_alloc(); });
  EXPECT_EQ(operator new(Opaque(kTooMuch), std::nothrow), nullptr);
  EXPECT_EQ(operator new[](Opaque(kTooMuch), std::nothrow), nullptr);
  EXPECT_EQ(operator new (Opaque(kTooMuch), std::align_val_t{64}, std::nothrow), nullptr);
  EXPECT_EQ(handler_calls, 3);
}

}  // namespace
}  // namespace mi_test
