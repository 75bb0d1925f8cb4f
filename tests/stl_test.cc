// The allocators for the containers of the standard library, and the memory resource, over default heap and heaps.
#include <array>
#include <list>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "mi/mimalloc-pmr.h"
#include "mi/mimalloc.h"
#include "tests/test_support.h"

namespace mi_test {
namespace {

struct alignas(128) Wide {
  char bytes[128];
};

int CountHeaps() {
  int n = 0;
  mi_heap_visit_all(
      [](mi_heap_t*, void* arg) {
        ++*static_cast<int*>(arg);
        return true;
      },
      &n);
  return n;
}

size_t CountBlocks(mi_heap_t* heap) {
  size_t n = 0;
  mi_heap_visit_blocks(
      heap, true,
      [](const mi_heap_t*, const mi_heap_area_t*, void* block, size_t, void* arg) {
        *static_cast<size_t*>(arg) += block != nullptr;
        return true;
      },
      &n);
  return n;
}

// Does the object lie in a block of ours? A container puts it somewhere behind the start of its node.
bool IsInABlock(const void* p) {
  for (int offset = 0; offset <= 256; offset += 8) {
    if (mi_any_heap_contains(static_cast<const char*>(p) - offset)) return true;
  }
  return false;
}

// ---- every allocator ----------------------------------------------------------------------------------------

template <template <class> class Allocator>
struct Of {
  template <class T>
  using type = Allocator<T>;
};

template <class A>
class AllocatorTest : public ::testing::Test {};
using Allocators = ::testing::Types<Of<mi_stl_allocator>, Of<mi_heap_stl_allocator>, Of<mi_heap_destroy_stl_allocator>>;
TYPED_TEST_SUITE(AllocatorTest, Allocators);

TYPED_TEST(AllocatorTest, ContainersOfEveryKindLiveInIt) {
  using String = std::basic_string<char, std::char_traits<char>, typename TypeParam::template type<char>>;
  using Pair = std::pair<const int, String>;
  typename TypeParam::template type<int> allocator;
  std::vector<int, typename TypeParam::template type<int>> numbers(allocator);
  std::list<int, typename TypeParam::template type<int>> list(allocator);
  std::set<int, std::less<int>, typename TypeParam::template type<int>> set(allocator);
  std::map<int, String, std::less<int>, typename TypeParam::template type<Pair>> map(allocator);
  std::unordered_map<int, int, std::hash<int>, std::equal_to<int>,
                     typename TypeParam::template type<std::pair<const int, int>>>
      hash(allocator);
  for (int i = 0; i < 2000; i++) {
    numbers.push_back(i);
    list.push_front(i);
    set.insert(i % 500);
    map.emplace(i, String(size_t(i % 100), 'x', allocator));
    hash[i] = 2 * i;
    if (i % 3 == 0) list.pop_back();
    if (i % 7 == 0) map.erase(i / 2);
  }
  EXPECT_EQ(numbers.size(), 2000u);
  for (int i = 0; i < 2000; i++) EXPECT_EQ(numbers[size_t(i)], i);
  EXPECT_EQ(list.front(), 1999);
  EXPECT_EQ(set.size(), 500u);
  for (auto& [key, text] : map) EXPECT_EQ(text.size(), size_t(key % 100));
  for (auto& [key, value] : hash) EXPECT_EQ(value, 2 * key);
  EXPECT_TRUE(mi_any_heap_contains(numbers.data()));
  EXPECT_TRUE(IsInABlock(&list.front()));
  EXPECT_TRUE(IsInABlock(&*map.find(1999)));
}

TYPED_TEST(AllocatorTest, OverAlignedElementsAreAligned) {
  std::vector<Wide, typename TypeParam::template type<Wide>> wide;
  for (int i = 0; i < 100; i++) {
    wide.emplace_back();
    ASSERT_TRUE(IsAligned(wide.data(), 128));
  }
  std::list<Wide, typename TypeParam::template type<Wide>> nodes(50);
  for (Wide& w : nodes) EXPECT_TRUE(IsAligned(&w, 128));
}

TYPED_TEST(AllocatorTest, ContainersAreCopiedMovedAndSwapped) {
  using Vector = std::vector<int, typename TypeParam::template type<int>>;
  Vector a(1000, 1), b(10, 2);
  Vector copy = a;
  EXPECT_EQ(copy, a);
  EXPECT_TRUE(copy.get_allocator() == a.get_allocator());
  int* const data = a.data();
  Vector moved = std::move(a);
  EXPECT_EQ(moved.data(), data);
  swap(moved, b);
  EXPECT_EQ(b.data(), data);
  moved = b;
  EXPECT_EQ(moved, copy);
  moved = std::move(b);
  EXPECT_EQ(moved.data(), data);
}

TYPED_TEST(AllocatorTest, TooManyElementsThrow) {
  typename TypeParam::template type<int> allocator;
  typename TypeParam::template type<Wide> wide(allocator);
  EXPECT_THROW(Opaque(allocator.allocate(Opaque(SIZE_MAX / 2))), std::bad_alloc);
  EXPECT_THROW(Opaque(allocator.allocate(Opaque(SIZE_MAX / 4))), std::bad_alloc);
  EXPECT_THROW(Opaque(wide.allocate(Opaque(SIZE_MAX / 2))), std::bad_alloc);
  EXPECT_THROW(Opaque(wide.allocate(Opaque(SIZE_MAX / 128))), std::bad_alloc);
  EXPECT_THROW(Opaque(wide.allocate(Opaque(wide.max_size()))), std::bad_alloc);
  EXPECT_EQ(allocator.max_size(), size_t{PTRDIFF_MAX} / sizeof(int));
  static int calls;
  calls = 0;
  std::set_new_handler([] {
    if (++calls == 4) std::set_new_handler(nullptr);
  });
  EXPECT_THROW(Opaque(wide.allocate(Opaque(wide.max_size()))), std::bad_alloc);
  EXPECT_EQ(calls, 4) << "the new_handler is asked for over-aligned elements too";
}

TYPED_TEST(AllocatorTest, SharedPointersMayUseIt) {
  typename TypeParam::template type<Wide> allocator;
  std::shared_ptr<Wide> p = std::allocate_shared<Wide>(allocator);
  EXPECT_TRUE(IsInABlock(p.get()));
  EXPECT_TRUE(IsAligned(p.get(), 128));
}

// ---- those of heaps -------------------------------------------------------------------------------------------

TEST(HeapAllocatorTest, EachDefaultAllocatorHasAHeapThatEndsWithItsLastCopy) {
  const int before = CountHeaps();
  {
    mi_heap_stl_allocator<int> first;
    EXPECT_EQ(CountHeaps(), before + 1);
    mi_heap_stl_allocator<double> second(first);
    mi_heap_stl_allocator<int> third = second;
    EXPECT_EQ(CountHeaps(), before + 1);
    EXPECT_TRUE(first == second && second == third);
    mi_heap_stl_allocator<int> other;
    EXPECT_EQ(CountHeaps(), before + 2);
    EXPECT_TRUE(first != other);
    other = first;
    EXPECT_EQ(CountHeaps(), before + 1) << "its heap had no allocator any more";
    EXPECT_TRUE(first == other);
  }
  EXPECT_EQ(CountHeaps(), before);
  {
    std::vector<int, mi_heap_destroy_stl_allocator<int>> numbers(10);
    auto copy = numbers;
    EXPECT_EQ(CountHeaps(), before + 1);
  }
  EXPECT_EQ(CountHeaps(), before);
}

TEST(HeapAllocatorTest, ADeletedHeapsBlocksLiveOn) {
  int* survivor;
  {
    mi_heap_stl_allocator<int> allocator;
    survivor = allocator.allocate(100);
    EXPECT_NE(mi_heap_of(survivor), mi_heap_main());
    Fill(survivor, 400, 3);
  }
  EXPECT_EQ(mi_heap_of(survivor), mi_heap_main());
  EXPECT_TRUE(Holds(survivor, 400, 3));
  mi_free(survivor);
}

TEST(HeapAllocatorTest, ADestroyedHeapsBlocksGoWithIt) {
  char* p;
  {
    mi_heap_destroy_stl_allocator<char> allocator;
    p = allocator.allocate(kMiB);  // a page of its own, which is no page any more when the block is gone
    allocator.deallocate(p, kMiB);
    EXPECT_TRUE(mi_any_heap_contains(p));
  }
  EXPECT_FALSE(mi_any_heap_contains(Opaque(p)));
}

TEST(HeapAllocatorTest, ADestroyedHeapsElementsAreNotFreedOneByOne) {
  mi_heap_t* heap = mi_heap_new();
  {
    mi_heap_destroy_stl_allocator<int> allocator(heap);
    std::list<int, mi_heap_destroy_stl_allocator<int>> list(allocator);
    for (int i = 0; i < 100; i++) list.push_back(i);
    list.clear();
    EXPECT_EQ(CountBlocks(heap), 100u);
    mi_heap_stl_allocator<int> frees(heap);
    std::list<int, mi_heap_stl_allocator<int>> other(frees);
    for (int i = 0; i < 100; i++) other.push_back(i);
    EXPECT_EQ(CountBlocks(heap), 200u);
    other.clear();
    EXPECT_EQ(CountBlocks(heap), 100u);
  }
  EXPECT_EQ(CountBlocks(heap), 100u) << "a heap that was given does not end with its allocators";
  mi_heap_destroy(heap);
}

TEST(HeapAllocatorTest, AGivenHeapServesAndStays) {
  mi_heap_t* heap = mi_heap_new();
  {
    mi_heap_stl_allocator<int> allocator(heap);
    std::vector<int, mi_heap_stl_allocator<int>> numbers(1000, 7, allocator);
    EXPECT_EQ(mi_heap_of(numbers.data()), heap);
    EXPECT_TRUE(allocator == mi_heap_stl_allocator<char>(heap));
    numbers.clear();
    numbers.shrink_to_fit();
    allocator.collect(true);
  }
  void* p = mi_heap_malloc(heap, 10);
  EXPECT_NE(p, nullptr);
  mi_heap_destroy(heap);
}

TEST(HeapAllocatorTest, ContainersWithOneHeapWorkOnSeveralThreads) {
  mi_heap_t* heap = mi_heap_new();
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; t++) {
    threads.emplace_back([heap, t] {
      mi_heap_stl_allocator<std::pair<const int, int>> allocator(heap);
      std::map<int, int, std::less<int>, mi_heap_stl_allocator<std::pair<const int, int>>> map(allocator);
      for (int i = 0; i < Scaled(5000); i++) {
        map[i % 1000] = t;
        if (i % 3 == 0) map.erase(i / 2 % 1000);
      }
      for (auto& [key, value] : map) EXPECT_EQ(value, t);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(CountBlocks(heap), 0u);
  mi_heap_destroy(heap);
}

// ---- std::pmr -------------------------------------------------------------------------------------------------

TEST(MemoryResourceTest, ContainersLiveInItsHeap) {
  mi_heap_memory_resource resource;
  std::pmr::vector<std::pmr::string> lines(&resource);
  for (int i = 0; i < 1000; i++) lines.emplace_back(100, 'x');
  EXPECT_EQ(mi_heap_of(lines.data()), resource.heap());
  EXPECT_EQ(mi_heap_of(lines[500].data()), resource.heap());
  std::pmr::map<int, Wide> map(&resource);
  for (int i = 0; i < 100; i++) EXPECT_TRUE(IsAligned(&map[i], 128));
}

TEST(MemoryResourceTest, ItsOwnHeapEndsWithItAndAGivenOneDoesNot) {
  const int before = CountHeaps();
  mi_heap_t* heap = mi_heap_new();
  {
    mi_heap_memory_resource own;
    EXPECT_EQ(CountHeaps(), before + 2);
    EXPECT_NE(own.allocate(100), nullptr);
    mi_heap_memory_resource given(heap);
    EXPECT_EQ(CountHeaps(), before + 2);
    void* p = given.allocate(100);
    EXPECT_EQ(mi_heap_of(p), heap);
  }
  EXPECT_EQ(CountHeaps(), before + 1);
  EXPECT_EQ(CountBlocks(heap), 1u);
  mi_heap_destroy(heap);
}

TEST(MemoryResourceTest, DeallocateFreesSingleBlocksAndReleaseAllOfThem) {
  mi_heap_memory_resource resource;
  void* blocks[50];
  for (void*& p : blocks) p = resource.allocate(64, 64);
  EXPECT_EQ(CountBlocks(resource.heap()), 50u);
  for (int i = 0; i < 20; i++) resource.deallocate(blocks[i], 64, 64);
  EXPECT_EQ(CountBlocks(resource.heap()), 30u);
  resource.release();
  EXPECT_EQ(CountBlocks(resource.heap()), 0u);
  EXPECT_NE(resource.allocate(10), nullptr);
}

TEST(MemoryResourceTest, AlignmentIsKeptAndFailureThrows) {
  mi_heap_memory_resource resource;
  for (size_t alignment = 1; alignment <= 64 * kKiB; alignment *= 2) {
    for (size_t size : {size_t{0}, size_t{1}, size_t{8}, size_t{100}, size_t{5000}}) {
      void* p = resource.allocate(size, alignment);
      EXPECT_TRUE(IsAligned(p, alignment));
      resource.deallocate(p, size, alignment);
    }
  }
  EXPECT_THROW(Opaque(resource.allocate(Opaque(SIZE_MAX / 2 + 100))), std::bad_alloc);
  static int calls;
  calls = 0;
  std::set_new_handler([] {
    if (++calls == 4) std::set_new_handler(nullptr);
  });
  EXPECT_THROW(Opaque(resource.allocate(Opaque(SIZE_MAX / 2 + 100))), std::bad_alloc);
  EXPECT_EQ(calls, 4);
}

TEST(MemoryResourceTest, ResourcesOverOneHeapAreEqual) {
  mi_heap_memory_resource first;
  mi_heap_memory_resource second(first.heap());
  mi_heap_memory_resource third;
  EXPECT_TRUE(first.is_equal(first));
  EXPECT_TRUE(first == second);
  EXPECT_FALSE(first == third);
  EXPECT_FALSE(first == *std::pmr::new_delete_resource());
}

}  // namespace
}  // namespace mi_test
