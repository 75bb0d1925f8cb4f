// The grid: sizes times alignments times every function that allocates or resizes. Each block must be aligned, zero if
// the function says so (on memory that was dirty), at least as large as asked for and writable to its last usable byte
// without harm to its neighbours, found in its heap, and keep its contents when it is resized. Blocks wait in a row,
// filled to their last usable byte, until they have passed their neighbours' lives, and are checked when they are
// freed. The test command takes all sizes to 1,024, then the boundaries of the classes, of slices and of segments, and
// samples to 1 GiB; the long version all sizes to 64 KiB.
#include <stdint.h>

#include <cstddef>
#include <deque>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "mi/heap/heap.h"
#include "mi/mimalloc.h"
#include "tests/test_support.h"

namespace mi_test {
namespace {

constexpr size_t kLargestAlignment = 16 * kMiB;
constexpr size_t kGiant = 64 * kMiB;  // from here on only the ends of a block are touched

// How far a block is filled and checked: wholly up to 64 KiB, its ends and a word now and then beyond.
template <typename Visit>
void ForEachSpan(size_t size, Visit visit) {
  if (size <= 64 * kKiB) {
    visit(size_t{0}, size);
    return;
  }
  const size_t end = 256;
  visit(size_t{0}, end);
  if (size < kGiant) {
    for (size_t at = 64 * kKiB - 8; at + end < size - end; at += 64 * kKiB) visit(at, at + 16);
  }
  visit(size - end, size);
}

struct Allocator {
  const char* name;
  bool zero;
  bool aligned;  // takes an alignment
  bool offset;   // and an offset
  mi_heap_t* heap;
  std::function<void*(size_t size, size_t alignment, size_t offset)> allocate;
};

struct Resizer {
  const char* name;
  bool zero;
  bool aligned;
  bool offset;
  mi_heap_t* heap;  // where the block is afterwards; nullptr: where it was
  std::function<void*(void* p, size_t size, size_t alignment, size_t offset)> resize;
};

class Grid {
 public:
  Grid() : young_(mi_heap_new()), paged_(mi_heap_new()), away_(mi_heap_new()) {
    delay_ = mi_option_get(mi_option_purge_delay);
    mi_option_set(mi_option_purge_delay, -1);  // what was freed stays dirty
    // Of one heap every class has pages; one belongs to another thread.
    for (size_t size = 16; size <= 8 * kKiB; size = mi_good_size(size + 1)) {
      for (size_t bytes = 0; bytes < 256 * kKiB; bytes += size) memset(mi_heap_malloc(paged_, size), 0xff, size);
    }
    InThread([&] { memset(mi_heap_malloc(away_, 100), 0xff, 100); });
    theap_ = mi_heap_theap(paged_);
    MakeTables();
  }
  ~Grid() {
    Drain(0);
    mi_heap_destroy(young_);
    mi_heap_destroy(paged_);
    mi_heap_destroy(away_);
    mi_option_set(mi_option_purge_delay, delay_);
    mi_collect(true);
  }

  void AllocatePlain(size_t size) {
    for (const Allocator& a : allocators_) {
      if (!a.aligned) Allocate(a, size, 1, 0);
      if (::testing::Test::HasFatalFailure()) return;
    }
  }
  void AllocateAligned(size_t size, size_t alignment) {
    for (const Allocator& a : allocators_) {
      if (a.aligned) Allocate(a, size, alignment, a.offset ? NextOffset(size, alignment) : 0);
      if (::testing::Test::HasFatalFailure()) return;
    }
  }
  void Resize(size_t size, size_t alignment, bool aligned) {
    for (const Resizer& r : resizers_) {
      if (r.aligned == aligned)
        ResizeOne(r, size, NextSize(size), alignment, r.offset ? NextOffset(size, alignment) : 0);
      if (::testing::Test::HasFatalFailure()) return;
    }
  }
  void ExpectVisitorsShowExactlyWhatLives() {
    for (mi_heap_t* heap : {young_, away_}) {
      std::vector<void*> exact, inside;
      for (const Block& b : row_) {
        if (b.heap == heap) (b.offset != 0 ? inside : exact).push_back(b.at);
      }
      if (heap == away_) exact.push_back(FirstOfAway());
      ASSERT_TRUE(ShowsExactly(heap, exact, inside));
    }
  }
  // Frees all but the last `count` blocks.
  void Drain(size_t count) {
    while (row_.size() > count) FreeOldest();
  }

  size_t blocks() const { return blocks_; }

 private:
  struct Block {
    uint8_t* at;
    size_t usable;
    uint64_t seed;
    size_t offset;
    mi_heap_t* heap;
    const char* name;
  };

  void* FirstOfAway() {
    if (first_of_away_ == nullptr) {
      for (const Shown& shown : BlocksOf(away_)) {
        bool ours = true;
        for (const Block& b : row_) ours = ours && b.at != shown.block;
        if (ours && shown.size < 200) first_of_away_ = shown.block;
      }
    }
    return first_of_away_;
  }

  void Allocate(const Allocator& a, size_t size, size_t alignment, size_t offset) {
    errno = 0;
    uint8_t* const p = static_cast<uint8_t*>(a.allocate(size, alignment, offset));
    ASSERT_NE(p, nullptr) << a.name << ' ' << size << ' ' << alignment << ' ' << offset << ", errno " << errno;
    Check(a.name, p, size, a.aligned ? alignment : NaturalAlignment(size), offset, a.heap);
    if (a.zero) ExpectZero(a.name, p, 0, size);
    if (::testing::Test::HasFatalFailure()) return;
    Enter({p, mi_usable_size(p), ++seed_, offset, a.heap, a.name}, size);
  }

  void ResizeOne(const Resizer& r, size_t from, size_t to, size_t alignment, size_t offset) {
    mi_heap_t* const heap = turn_++ % 3 == 0 ? mi_heap_main() : turn_ % 3 == 0 ? young_ : paged_;
    uint8_t* p = static_cast<uint8_t*>(r.zero ? mi_heap_zalloc_aligned_at(heap, from, alignment, offset)
                                              : mi_heap_malloc_aligned_at(heap, from, alignment, offset));
    ASSERT_NE(p, nullptr) << r.name << ' ' << from << ' ' << alignment;
    const uint64_t seed = ++seed_;
    ForEachSpan(from, [&](size_t begin, size_t end) { FillBytes(p, begin, end, seed); });
    uint8_t* const q = static_cast<uint8_t*>(r.resize(p, to, alignment, offset));
    if (q == nullptr && strcmp(r.name, "mi_expand") == 0) {  // not in place
      mi_free(p);
      return;
    }
    ASSERT_NE(q, nullptr) << r.name << ' ' << from << " -> " << to << ' ' << alignment;
    Check(r.name, q, to, r.aligned ? alignment : 1, offset, r.heap == nullptr ? heap : r.heap);
    ForEachSpan(from, [&](size_t begin, size_t end) {
      end = std::min(end, to);
      if (begin < end && FindDifference(q, begin, end, seed) != end) {
        ADD_FAILURE() << r.name << ' ' << from << " -> " << to << " lost contents, alignment " << alignment;
      }
    });
    if (r.zero && to > from) ExpectZero(r.name, q, from, to);
    if (::testing::Test::HasFailure()) return;
    Enter({q, mi_usable_size(q), ++seed_, offset, r.heap == nullptr ? heap : r.heap, r.name}, to);
  }

  void Check(const char* name, uint8_t* p, size_t size, size_t alignment, size_t offset, mi_heap_t* heap) {
    ASSERT_TRUE(IsAligned(p, alignment, offset)) << name << ' ' << size << ' ' << alignment << ' ' << offset;
    ASSERT_GE(mi_usable_size(p), size) << name << ' ' << alignment << ' ' << offset;
    ASSERT_TRUE(mi_heap_contains(heap, p)) << name << ' ' << size << ' ' << alignment << ' ' << offset;
    ASSERT_TRUE(mi_check_owned(p));
  }
  void ExpectZero(const char* name, uint8_t* p, size_t from, size_t size) {
    ForEachSpan(size, [&](size_t begin, size_t end) {
      begin = std::max(begin, from);
      if (begin < end && FindOther(p, begin, end, 0) != end) {
        ADD_FAILURE() << name << ": " << size << " bytes are not zero from " << from << " on";
      }
    });
  }

  void Enter(const Block& block, size_t size) {
    blocks_++;
    ForEachSpan(block.usable, [&](size_t begin, size_t end) { FillBytes(block.at, begin, end, block.seed); });
    row_.push_back(block);
    Drain(size < 100 * kKiB ? 24 : size < kGiant ? 6 : 1);
  }
  void FreeOldest() {
    const Block block = row_.front();
    row_.pop_front();
    ASSERT_EQ(mi_usable_size(block.at), block.usable) << block.name;
    ForEachSpan(block.usable, [&](size_t begin, size_t end) {
      if (FindDifference(block.at, begin, end, block.seed) != end) {
        ADD_FAILURE() << "a block of " << block.name << " with " << block.usable << " bytes was changed by others";
      }
    });
    mi_free(block.at);
  }

  size_t NextOffset(size_t size, size_t alignment) {
    const size_t choice[] = {0, 8, 1, size / 2, size, alignment - 1, alignment / 2, alignment + 24, 64, alignment - 64};
    return choice[turn_++ % (sizeof(choice) / sizeof(choice[0]))];
  }
  size_t NextSize(size_t size) {
    const size_t choice[] = {size + 1, size / 2, 2 * size + 3, size, size / 3, size + 5000, size == 0 ? 1 : size - 1};
    const size_t next = choice[turn_++ % (sizeof(choice) / sizeof(choice[0]))];
    return next == 0 ? 1 : next;
  }

  void MakeTables();

  mi_heap_t* young_;
  mi_heap_t* paged_;
  mi_heap_t* away_;
  mi_theap_t* theap_;
  long delay_;
  void* first_of_away_ = nullptr;
  std::vector<Allocator> allocators_;
  std::vector<Resizer> resizers_;
  std::deque<Block> row_;
  uint64_t seed_ = 0;
  size_t turn_ = 0;
  size_t blocks_ = 0;
};

// Calls a function that also stores the block's size, and requires that it is the usable one.
template <typename Call>
void* WithSize(Call call) {
  size_t block_size = 0;
  void* const p = call(&block_size);
  EXPECT_EQ(block_size, mi_usable_size(p));
  return p;
}

void Grid::MakeTables() {
  mi_heap_t* const main = mi_heap_main();
  auto plain = [&](const char* name, bool zero, mi_heap_t* heap, std::function<void*(size_t)> call) {
    allocators_.push_back({name, zero, false, false, heap, [call](size_t n, size_t, size_t) { return call(n); }});
  };
  auto aligned = [&](const char* name, bool zero, mi_heap_t* heap, std::function<void*(size_t, size_t)> call) {
    allocators_.push_back({name, zero, true, false, heap, [call](size_t n, size_t a, size_t) { return call(n, a); }});
  };
  auto at = [&](const char* name, bool zero, mi_heap_t* heap, std::function<void*(size_t, size_t, size_t)> call) {
    allocators_.push_back({name, zero, true, true, heap, call});
  };

  plain("mi_malloc", false, main, mi_malloc);
  plain("mi_malloc_small", false, main, mi_malloc_small);
  plain("mi_zalloc", true, main, mi_zalloc);
  plain("mi_zalloc_small", true, main, mi_zalloc_small);
  plain("mi_calloc", true, main, [](size_t n) { return mi_calloc(n, 1); });
  plain("mi_mallocn", false, main, [](size_t n) { return mi_mallocn(1, n); });
  plain("mi_umalloc", false, main, [](size_t n) { return WithSize([n](size_t* s) { return mi_umalloc(n, s); }); });
  plain("mi_ucalloc", true, main, [](size_t n) { return WithSize([n](size_t* s) { return mi_ucalloc(1, n, s); }); });
  plain("mi_umalloc_small", false, main,
        [](size_t n) { return WithSize([n](size_t* s) { return mi_umalloc_small(n, s); }); });
  plain("mi_uzalloc_small", true, main,
        [](size_t n) { return WithSize([n](size_t* s) { return mi_uzalloc_small(n, s); }); });
  plain("mi_new", false, main, mi_new);
  plain("mi_new_nothrow", false, main, mi_new_nothrow);
  plain("mi_new_n", false, main, [](size_t n) { return mi_new_n(1, n); });
  plain("mi_realloc of NULL", false, main, [](size_t n) { return mi_realloc(nullptr, n); });
  plain("mi_rezalloc of NULL", true, main, [](size_t n) { return mi_rezalloc(nullptr, n); });
  plain("mi_valloc", false, main, [](size_t n) {
    void* const p = mi_valloc(n);
    EXPECT_TRUE(IsAligned(p, 4096));
    return p;
  });
  plain("mi_pvalloc", false, main, [](size_t n) {
    void* const p = mi_pvalloc(n);
    EXPECT_TRUE(IsAligned(p, 4096));
    EXPECT_GE(mi_usable_size(p), (n + 4095) / 4096 * 4096);
    return p;
  });
  for (mi_heap_t* heap : {young_, paged_, away_}) {
    plain("mi_heap_malloc", false, heap, [heap](size_t n) { return mi_heap_malloc(heap, n); });
    plain("mi_heap_malloc_small", false, heap, [heap](size_t n) { return mi_heap_malloc_small(heap, n); });
    plain("mi_heap_zalloc", true, heap, [heap](size_t n) { return mi_heap_zalloc(heap, n); });
    plain("mi_heap_zalloc_small", true, heap, [heap](size_t n) { return mi_heap_zalloc_small(heap, n); });
    plain("mi_heap_calloc", true, heap, [heap](size_t n) { return mi_heap_calloc(heap, 1, n); });
    plain("mi_heap_mallocn", false, heap, [heap](size_t n) { return mi_heap_mallocn(heap, n, 1); });
  }
  plain("mi_theap_malloc", false, paged_, [this](size_t n) { return mi_theap_malloc(theap_, n); });
  plain("mi_theap_malloc_small", false, paged_, [this](size_t n) { return mi_theap_malloc_small(theap_, n); });
  plain("mi_theap_zalloc", true, paged_, [this](size_t n) { return mi_theap_zalloc(theap_, n); });
  plain("mi_theap_zalloc_small", true, paged_, [this](size_t n) { return mi_theap_zalloc_small(theap_, n); });
  plain("mi_theap_calloc", true, paged_, [this](size_t n) { return mi_theap_calloc(theap_, 1, n); });

  aligned("mi_malloc_aligned", false, main, mi_malloc_aligned);
  aligned("mi_zalloc_aligned", true, main, mi_zalloc_aligned);
  aligned("mi_calloc_aligned", true, main, [](size_t n, size_t a) { return mi_calloc_aligned(n, 1, a); });
  aligned("mi_umalloc_aligned", false, main,
          [](size_t n, size_t a) { return WithSize([=](size_t* s) { return mi_umalloc_aligned(n, a, s); }); });
  aligned("mi_uzalloc_aligned", true, main,
          [](size_t n, size_t a) { return WithSize([=](size_t* s) { return mi_uzalloc_aligned(n, a, s); }); });
  aligned("mi_posix_memalign", false, main, [](size_t n, size_t a) {
    void* p = nullptr;
    EXPECT_EQ(mi_posix_memalign(&p, std::max(a, sizeof(void*)), n), 0);
    return p;
  });
  aligned("mi_memalign", false, main, [](size_t n, size_t a) { return mi_memalign(a, n); });
  aligned("mi_aligned_alloc", false, main, [](size_t n, size_t a) { return mi_aligned_alloc(a, n); });
  aligned("mi_new_aligned", false, main, mi_new_aligned);
  aligned("mi_new_aligned_nothrow", false, main, mi_new_aligned_nothrow);
  aligned("mi_theap_malloc_aligned", false, paged_,
          [this](size_t n, size_t a) { return mi_theap_malloc_aligned(theap_, n, a); });
  at("mi_malloc_aligned_at", false, main, mi_malloc_aligned_at);
  at("mi_zalloc_aligned_at", true, main, mi_zalloc_aligned_at);
  at("mi_calloc_aligned_at", true, main, [](size_t n, size_t a, size_t o) { return mi_calloc_aligned_at(1, n, a, o); });
  for (mi_heap_t* heap : {young_, paged_}) {
    aligned("mi_heap_malloc_aligned", false, heap,
            [heap](size_t n, size_t a) { return mi_heap_malloc_aligned(heap, n, a); });
    aligned("mi_heap_zalloc_aligned", true, heap,
            [heap](size_t n, size_t a) { return mi_heap_zalloc_aligned(heap, n, a); });
    aligned("mi_heap_calloc_aligned", true, heap,
            [heap](size_t n, size_t a) { return mi_heap_calloc_aligned(heap, 1, n, a); });
    at("mi_heap_malloc_aligned_at", false, heap,
       [heap](size_t n, size_t a, size_t o) { return mi_heap_malloc_aligned_at(heap, n, a, o); });
    at("mi_heap_zalloc_aligned_at", true, heap,
       [heap](size_t n, size_t a, size_t o) { return mi_heap_zalloc_aligned_at(heap, n, a, o); });
    at("mi_heap_calloc_aligned_at", true, heap,
       [heap](size_t n, size_t a, size_t o) { return mi_heap_calloc_aligned_at(heap, n, 1, a, o); });
  }

  auto resize = [&](const char* name, bool zero, mi_heap_t* heap, std::function<void*(void*, size_t)> call) {
    resizers_.push_back(
        {name, zero, false, false, heap, [call](void* p, size_t n, size_t, size_t) { return call(p, n); }});
  };
  auto resize_aligned = [&](const char* name, bool zero, mi_heap_t* heap,
                            std::function<void*(void*, size_t, size_t)> call) {
    resizers_.push_back(
        {name, zero, true, false, heap, [call](void* p, size_t n, size_t a, size_t) { return call(p, n, a); }});
  };
  auto resize_at = [&](const char* name, bool zero, mi_heap_t* heap,
                       std::function<void*(void*, size_t, size_t, size_t)> call) {
    resizers_.push_back({name, zero, true, true, heap, call});
  };
  resize("mi_realloc", false, nullptr, mi_realloc);
  resize("mi_reallocn", false, nullptr, [](void* p, size_t n) { return mi_reallocn(p, 1, n); });
  resize("mi_reallocf", false, nullptr, mi_reallocf);
  resize("mi_reallocarray", false, nullptr, [](void* p, size_t n) { return mi_reallocarray(p, n, 1); });
  resize("mi_rezalloc", true, nullptr, mi_rezalloc);
  resize("mi_recalloc", true, nullptr, [](void* p, size_t n) { return mi_recalloc(p, 1, n); });
  resize("mi_expand", false, nullptr, mi_expand);
  resize("mi_new_realloc", false, nullptr, mi_new_realloc);
  resize("mi_urealloc", false, nullptr, [](void* p, size_t n) {
    size_t before = 0, after = 0;
    const size_t was = mi_usable_size(p);
    void* const q = mi_urealloc(p, n, &before, &after);
    EXPECT_EQ(before, was);
    EXPECT_EQ(after, mi_usable_size(q));
    return q;
  });
  // The heap_ forms resize in place or move the block to the heap that they are given: to a heap that the block is in.
  resize("mi_heap_realloc", false, nullptr, [](void* p, size_t n) { return mi_heap_realloc(mi_heap_of(p), p, n); });
  resize("mi_heap_reallocf", false, nullptr, [](void* p, size_t n) { return mi_heap_reallocf(mi_heap_of(p), p, n); });
  resize("mi_heap_rezalloc", true, nullptr, [](void* p, size_t n) { return mi_heap_rezalloc(mi_heap_of(p), p, n); });
  resize("mi_heap_recalloc", true, nullptr, [](void* p, size_t n) { return mi_heap_recalloc(mi_heap_of(p), p, n, 1); });
  resize_aligned("mi_realloc_aligned", false, nullptr, mi_realloc_aligned);
  resize_aligned("mi_rezalloc_aligned", true, nullptr, mi_rezalloc_aligned);
  resize_aligned("mi_recalloc_aligned", true, nullptr,
                 [](void* p, size_t n, size_t a) { return mi_recalloc_aligned(p, 1, n, a); });
  resize_at("mi_realloc_aligned_at", false, nullptr, mi_realloc_aligned_at);
  resize_at("mi_rezalloc_aligned_at", true, nullptr, mi_rezalloc_aligned_at);
  resize_at("mi_recalloc_aligned_at", true, nullptr,
            [](void* p, size_t n, size_t a, size_t o) { return mi_recalloc_aligned_at(p, n, 1, a, o); });
  resize_aligned("mi_heap_realloc_aligned", false, nullptr,
                 [](void* p, size_t n, size_t a) { return mi_heap_realloc_aligned(mi_heap_of(p), p, n, a); });
  resize_at("mi_heap_rezalloc_aligned_at", true, nullptr, [](void* p, size_t n, size_t a, size_t o) {
    return mi_heap_rezalloc_aligned_at(mi_heap_of(p), p, n, a, o);
  });
  resize_at("mi_heap_recalloc_aligned_at", true, nullptr, [](void* p, size_t n, size_t a, size_t o) {
    return mi_heap_recalloc_aligned_at(mi_heap_of(p), p, 1, n, a, o);
  });
}

// All functions with these sizes; alignments 1, `step`, step^2, ... to 16 MiB.
void RunGrid(const std::vector<size_t>& sizes, size_t step) {
  Grid grid;
  size_t n = 0;
  for (size_t size : sizes) {
    SCOPED_TRACE(size);
    ASSERT_NO_FATAL_FAILURE(grid.AllocatePlain(size));
    ASSERT_NO_FATAL_FAILURE(grid.Resize(size, 1, false));
    for (size_t alignment = 1; alignment <= kLargestAlignment; alignment *= step) {
      ASSERT_NO_FATAL_FAILURE(grid.AllocateAligned(size, alignment)) << alignment;
      // Resizing copies: with every alignment in turn.
      if (kSoak || (n + alignment) % 3 == 0 || alignment == 1) {
        ASSERT_NO_FATAL_FAILURE(grid.Resize(size, alignment, true)) << alignment;
      }
      if (::testing::Test::HasFailure()) return;
    }
    if (n++ % 64 == 0) {
      ASSERT_NO_FATAL_FAILURE(grid.ExpectVisitorsShowExactlyWhatLives());
    }
  }
  EXPECT_GT(grid.blocks(), sizes.size() * 100);
}

std::vector<size_t> Between(size_t from, size_t to, size_t step = 1) {
  std::vector<size_t> sizes;
  for (size_t size = from; size <= to; size += step) sizes.push_back(size);
  return sizes;
}

TEST(GridTest, EverySizeTo1024) { RunGrid(Between(0, 1024, kSanitized ? 7 : 1), 2); }

TEST(GridTest, TheBoundariesOfTheClasses) {
  std::vector<size_t> sizes;
  for (size_t size = 1024; size <= 64 * kKiB; size = mi_good_size(size + 1)) {
    for (size_t near : {size - 1, size, size + 1}) sizes.push_back(near);
  }
  ASSERT_GT(sizes.size(), 3 * 8 * 6u);
  RunGrid(sizes, kSoak ? 2 : 4);
}

TEST(GridTest, TheBoundariesOfSlicesAndSegments) {
  std::vector<size_t> sizes;
  for (size_t slices = 1; slices <= 66; slices += kSoak ? 1 : 13) {
    for (size_t near : {slices * 64 * kKiB - 1, slices * 64 * kKiB, slices * 64 * kKiB + 1}) sizes.push_back(near);
  }
  for (size_t size : {4 * kMiB - 64 * kKiB, 4 * kMiB, 8 * kMiB - 64 * kKiB, 8 * kMiB}) {
    for (size_t near : {size - 4097, size - 1, size, size + 1}) sizes.push_back(near);
  }
  RunGrid(sizes, kSoak ? 2 : 16);
}

// Zeroed by what is known of memory that was given back, not by writing: no more is touched than what the test touches.
TEST(GridTest, SamplesToAGigabyte) {
  Grid grid;
  mi_option_set(mi_option_purge_delay, 0);
  for (size_t size : {kGiant, 100 * kMiB + 12345, 256 * kMiB + 1, kGiB - 1, kGiB}) {
    SCOPED_TRACE(size);
    ASSERT_NO_FATAL_FAILURE(grid.AllocatePlain(size));
    for (size_t alignment : {size_t{1}, size_t{16}, 4 * kKiB, kMiB, 4 * kMiB, 16 * kMiB}) {
      ASSERT_NO_FATAL_FAILURE(grid.AllocateAligned(size, alignment)) << alignment;
      if (::testing::Test::HasFailure()) return;
    }
  }
  grid.Drain(0);
  mi_option_set(mi_option_purge_delay, -1);
}

#if defined(MI_TEST_SOAK)
class EverySizeTest : public ::testing::TestWithParam<size_t> {};
TEST_P(EverySizeTest, To64KiB) { RunGrid(Between(GetParam(), GetParam() + 4095), 2); }
INSTANTIATE_TEST_SUITE_P(From, EverySizeTest, ::testing::ValuesIn(Between(1, 64 * kKiB, 4096)));
#endif

}  // namespace
}  // namespace mi_test
