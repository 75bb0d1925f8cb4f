// The functions that tell block sizes, those that resize through a pointer to the pointer, the Windows names, and what
// the library says of the process and of pages.
#include <locale.h>
#include <sys/prctl.h>

#include <cwchar>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "mi/mimalloc.h"
#include "tests/test_support.h"

namespace mi_test {
namespace {

constexpr size_t kUntouched = 0xabababab;

// ---- with block sizes -------------------------------------------------------------------------------------

TEST(SizedTest, EachAllocationTellsTheSizeThatTheBlockHas) {
  for (size_t size : {size_t{0}, size_t{1}, size_t{8}, size_t{9}, size_t{100}, size_t{1000}, size_t{1024}, size_t{5000},
                      size_t{70000}, 5 * kMiB}) {
    size_t told[7];
    std::fill(std::begin(told), std::end(told), kUntouched);
    void* blocks[] = {mi_umalloc(size, &told[0]),
                      mi_ucalloc(1, size, &told[1]),
                      mi_umalloc_small(size, &told[2]),
                      mi_uzalloc_small(size, &told[3]),
                      mi_umalloc_aligned(size, 64, &told[4]),
                      mi_uzalloc_aligned(size, 4096, &told[5]),
                      mi_urealloc(nullptr, size, nullptr, &told[6])};
    for (int i = 0; i < 7; i++) {
      ASSERT_NE(blocks[i], nullptr) << size << ", function " << i;
      EXPECT_EQ(told[i], mi_usable_size(blocks[i])) << size << ", function " << i;
      EXPECT_GE(told[i], size);
      if (i == 1 || i == 3 || i == 5) {
        EXPECT_TRUE(IsZero(blocks[i], 0, size));
      }
      memset(blocks[i], 0xee, told[i]);
    }
    EXPECT_TRUE(IsAligned(blocks[4], 64));
    EXPECT_TRUE(IsAligned(blocks[5], 4096));
    for (int i = 0; i < 7; i++) {
      size_t freed = kUntouched;
      mi_ufree(blocks[i], &freed);
      EXPECT_EQ(freed, told[i]) << size << ", function " << i;
    }
  }
}

TEST(SizedTest, TheSizeMayBeLeftOut) {
  void* p = mi_umalloc(100, nullptr);
  p = mi_urealloc(p, 3000, nullptr, nullptr);
  ASSERT_NE(p, nullptr);
  mi_ufree(p, nullptr);
  mi_ufree(nullptr, nullptr);
}

TEST(SizedTest, ZeroedSmallBlocksAreZeroAlsoWhenTheyWereUsedBefore) {
  for (size_t size = 0; size <= MI_SMALL_SIZE_MAX; size += 7) {
    for (int round = 0; round < 3; round++) {
      size_t usable = 0;
      void* p = mi_uzalloc_small(size, &usable);
      ASSERT_NE(p, nullptr);
      ASSERT_TRUE(IsZero(p, 0, size));
      memset(p, 0xff, usable);
      mi_ufree(p, nullptr);
    }
  }
}

TEST(SizedTest, ReallocTellsTheSizesBeforeAndAfterAndKeepsTheContents) {
  size_t first = 0;
  void* p = mi_umalloc(100, &first);
  Fill(p, 100, 5);
  size_t before = kUntouched, after = kUntouched;
  p = mi_urealloc(p, 20000, &before, &after);
  ASSERT_NE(p, nullptr);
  EXPECT_EQ(before, first);
  EXPECT_EQ(after, mi_usable_size(p));
  EXPECT_GE(after, 20000u);
  EXPECT_TRUE(Holds(p, 100, 5));
  mi_free(p);
  p = mi_urealloc(nullptr, 50, &before, &after);
  EXPECT_EQ(before, 0u);
  EXPECT_EQ(after, mi_usable_size(p));
  mi_free(p);
}

TEST(SizedTest, WhatFailsTellsNoSize) {
  ErrorRecorder errors;
  size_t size = kUntouched;
  EXPECT_EQ(mi_umalloc(Opaque(SIZE_MAX), &size), nullptr);
  EXPECT_EQ(size, 0u);
  size = kUntouched;
  EXPECT_EQ(mi_ucalloc(Opaque(SIZE_MAX / 2), 3, &size), nullptr);
  EXPECT_EQ(size, 0u);
  EXPECT_EQ(errors.count(EOVERFLOW), 1);
  size = kUntouched;
  EXPECT_EQ(mi_umalloc_aligned(10, Opaque(size_t{24}), &size), nullptr);
  EXPECT_EQ(size, 0u);
  EXPECT_EQ(errors.count(EINVAL), 1);
  void* p = mi_malloc(100);
  Fill(p, 100, 6);
  size_t before = kUntouched, after = kUntouched;
  EXPECT_EQ(mi_urealloc(p, Opaque(SIZE_MAX), &before, &after), nullptr);
  EXPECT_EQ(before, mi_usable_size(p)) << "the old block is unchanged";
  EXPECT_EQ(after, 0u);
  EXPECT_TRUE(Holds(p, 100, 6));
  mi_free(p);
}

TEST(SizedTest, FreeOfWhatIsNoBlockTellsZero) {
  if (kSecure) GTEST_SKIP() << kMisuseEnds;
  ErrorRecorder errors;
  int on_stack = 0;
  size_t size = kUntouched;
  mi_ufree(Opaque(&on_stack), &size);
  EXPECT_EQ(size, 0u);
  EXPECT_EQ(errors.count(EINVAL), 1);
  size = kUntouched;
  mi_ufree(nullptr, &size);
  EXPECT_EQ(size, 0u);
}

TEST(SizedTest, BlocksOfHeapsTellTheirSizesToo) {
  mi_heap_t* heap = mi_heap_new();
  void* p = mi_heap_malloc(heap, 40);
  const size_t usable = mi_usable_size(p);
  size_t before = 0, after = 0;
  p = mi_urealloc(p, 9000, &before, &after);
  EXPECT_EQ(before, usable);
  EXPECT_EQ(mi_heap_of(p), heap);
  size_t freed = 0;
  mi_ufree(p, &freed);
  EXPECT_EQ(freed, after);
  mi_heap_destroy(heap);
}

// ---- through a pointer to the pointer ---------------------------------------------------------------------

TEST(ReallocarrTest, ResizesInPlaceOfTheProgramsPointer) {
  int* numbers = nullptr;
  ASSERT_EQ(mi_reallocarr(&numbers, 100, sizeof(int)), 0);
  ASSERT_NE(numbers, nullptr);
  for (int i = 0; i < 100; i++) numbers[i] = i;
  ASSERT_EQ(mi_reallocarr(&numbers, 10000, sizeof(int)), 0);
  for (int i = 0; i < 100; i++) EXPECT_EQ(numbers[i], i);
  EXPECT_GE(mi_usable_size(numbers), 10000 * sizeof(int));
  mi_free(numbers);
}

TEST(ReallocarrTest, FailureLeavesPointerBlockAndErrnoAsTheyWere) {
  ErrorRecorder errors;
  char* text = mi_strdup("kept");
  char* const former = text;
  errno = 77;
  EXPECT_EQ(mi_reallocarr(&text, Opaque(SIZE_MAX / 2), 3), EOVERFLOW);
  EXPECT_EQ(mi_reallocarr(&text, Opaque(SIZE_MAX), 1), ENOMEM);
  EXPECT_EQ(mi_reallocarr(Opaque<void*>(nullptr), 1, 1), EINVAL);
  EXPECT_EQ(errno, 77);
  EXPECT_EQ(text, former);
  EXPECT_STREQ(text, "kept");
  mi_free(text);
  if (kSecure) GTEST_SKIP() << kMisuseEnds;
  int on_stack = 0;
  void* wild = Opaque(&on_stack);
  EXPECT_EQ(mi_reallocarr(&wild, 1, 1), EINVAL);
  EXPECT_EQ(wild, &on_stack);
}

// ---- Windows ----------------------------------------------------------------------------------------------

TEST(WindowsNamesTest, AlignedRecallocZerosWhatIsNewAndKeepsTheAlignment) {
  void* p = mi_aligned_recalloc(nullptr, 10, 10, 256);
  ASSERT_TRUE(IsAligned(p, 256));
  EXPECT_TRUE(IsZero(p, 0, 100));
  memset(p, 1, 100);
  p = mi_aligned_recalloc(p, 1000, 10, 256);
  ASSERT_TRUE(IsAligned(p, 256));
  EXPECT_EQ(FindOther(p, 0, 100, 1), 100u);
  EXPECT_TRUE(IsZero(p, 100, 10000));
  mi_free(p);
  p = mi_aligned_offset_recalloc(nullptr, 10, 10, 512, 24);
  ASSERT_TRUE(IsAligned(p, 512, 24));
  p = mi_aligned_offset_recalloc(p, 500, 10, 512, 24);
  ASSERT_TRUE(IsAligned(p, 512, 24));
  EXPECT_TRUE(IsZero(p, 0, 5000));
  mi_free(p);
}

TEST(WindowsNamesTest, ExpandResizesInPlaceOrNotAtAll) {
  void* p = mi_malloc(100);
  EXPECT_EQ(mi__expand(p, mi_usable_size(p)), p);
  EXPECT_EQ(mi__expand(p, 100000), nullptr);
  mi_free(p);
  EXPECT_EQ(mi__expand(nullptr, 10), nullptr);
}

TEST(WindowsNamesTest, StringsAreCopied) {
  wchar_t* wide = mi_wcsdup(L"b\u00e4r");
  ASSERT_NE(wide, nullptr);
  EXPECT_EQ(std::wstring(wide), L"b\u00e4r");
  mi_free(wide);
  wide = mi_wcsdup(L"");
  EXPECT_EQ(std::wstring(wide), L"");
  mi_free(wide);
  unsigned char* bytes = mi_mbsdup(reinterpret_cast<const unsigned char*>("b\xc3\xa4r"));
  ASSERT_NE(bytes, nullptr);
  EXPECT_STREQ(reinterpret_cast<char*>(bytes), "b\xc3\xa4r");
  mi_free(bytes);
  EXPECT_EQ(mi_wcsdup(Opaque<const wchar_t*>(nullptr)), nullptr);
  EXPECT_EQ(mi_mbsdup(Opaque<const unsigned char*>(nullptr)), nullptr);
}

TEST(WindowsNamesTest, AnEnvironmentVariableIsCopiedWithItsLength) {
  setenv("MI_TEST_VARIABLE", "value", 1);
  char* text = nullptr;
  size_t size = kUntouched;
  EXPECT_EQ(mi_dupenv_s(&text, &size, "MI_TEST_VARIABLE"), 0);
  ASSERT_NE(text, nullptr);
  EXPECT_STREQ(text, "value");
  EXPECT_EQ(size, 6u);
  EXPECT_TRUE(mi_any_heap_contains(text));
  mi_free(text);
  EXPECT_EQ(mi_dupenv_s(&text, nullptr, "MI_TEST_VARIABLE"), 0);
  mi_free(text);
  unsetenv("MI_TEST_VARIABLE");
  EXPECT_EQ(mi_dupenv_s(&text, &size, "MI_TEST_VARIABLE"), 0) << "no such variable is no error";
  EXPECT_EQ(text, nullptr);
  EXPECT_EQ(size, 0u);
  size = kUntouched;
  EXPECT_EQ(mi_dupenv_s(&text, &size, nullptr), EINVAL);
  EXPECT_EQ(size, 0u);
  EXPECT_EQ(mi_dupenv_s(nullptr, &size, "MI_TEST_VARIABLE"), EINVAL);
}

TEST(WindowsNamesTest, AWideEnvironmentVariableIsConvertedByTheLocale) {
  const std::string former = setlocale(LC_CTYPE, nullptr);
  ASSERT_NE(setlocale(LC_CTYPE, "C.UTF-8"), nullptr);
  setenv(
      "MI_TEST_VARI\xc3\x84"
      "BLE",
      "\xe2\x82\xac 5", 1);
  wchar_t* text = nullptr;
  size_t size = kUntouched;
  EXPECT_EQ(mi_wdupenv_s(&text, &size,
                         L"MI_TEST_VARI\u00c4"
                         L"BLE"),
            0);
  ASSERT_NE(text, nullptr);
  EXPECT_EQ(std::wstring(text), L"\u20ac 5");
  EXPECT_EQ(size, 4u);
  mi_free(text);
  setenv("MI_TEST_VARIABLE", "not UTF-8: \xff", 1);
  errno = 77;
  EXPECT_EQ(mi_wdupenv_s(&text, &size, L"MI_TEST_VARIABLE"), EILSEQ);
  EXPECT_EQ(text, nullptr);
  EXPECT_EQ(size, 0u);
  EXPECT_EQ(errno, 77);
  unsetenv("MI_TEST_VARIABLE");
  EXPECT_EQ(mi_wdupenv_s(&text, &size, L"MI_TEST_VARIABLE"), 0);
  EXPECT_EQ(text, nullptr);
  EXPECT_EQ(mi_wdupenv_s(&text, &size, nullptr), EINVAL);
  EXPECT_EQ(mi_wdupenv_s(nullptr, &size, L"MI_TEST_VARIABLE"), EINVAL);
  setlocale(LC_CTYPE, former.c_str());
}

// ---- the process ------------------------------------------------------------------------------------------

TEST(ProcessInfoTest, MemoryThatIsWrittenToShowsAsResidentAndCommittedAndGoesAgain) {
  size_t rss[3], commit[3], peak_commit[3];
  const size_t size = 64 * kMiB;
  mi_free(mi_malloc(1));
  mi_collect(true);
  for (int i = 0; i < 3; i++) {
    static void* block;
    if (i == 1) {
      block = mi_malloc(size);
      memset(block, 1, size);
    } else if (i == 2) {
      mi_free(block);
      mi_collect(true);
    }
    size_t elapsed, user, system, peak_rss, faults;
    mi_process_info(&elapsed, &user, &system, &rss[i], &peak_rss, &commit[i], &peak_commit[i], &faults);
    EXPECT_GE(peak_rss, rss[i]);
    EXPECT_GE(peak_commit[i], commit[i]);
    EXPECT_LT(elapsed, 1000u * 3600);
  }
  EXPECT_GE(commit[1], commit[0] + size);
  EXPECT_LT(commit[2], commit[0] + size);
  EXPECT_GE(peak_commit[2], commit[1]);
  EXPECT_GE(rss[1], rss[0] + size / 2);
  if (!kSanitized) {
    EXPECT_LT(rss[2], rss[1] - size / 2);
  }
}

TEST(ProcessInfoTest, EachFigureMayBeLeftOut) {
  mi_process_info(nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr);
  size_t rss = 0;
  mi_process_info(nullptr, nullptr, nullptr, &rss, nullptr, nullptr, nullptr, nullptr);
  EXPECT_GT(rss, 0u);
}

TEST(ProcessInfoTest, IsPrintedToTheGivenOutputOrTheRegisteredOne) {
  std::string text;
  mi_process_info_print_out([](const char* message, void* arg) { static_cast<std::string*>(arg)->append(message); },
                            &text);
  EXPECT_NE(text.find("elapsed"), std::string::npos) << text;
  EXPECT_NE(text.find("resident"), std::string::npos) << text;
  ErrorRecorder errors;
  mi_process_info_print();
  EXPECT_NE(errors.text().find("resident"), std::string::npos);
}

TEST(ProcessTest, MallocItselfIsNotOursInAProgramWithoutTheOverride) {
  errno = 77;
  EXPECT_FALSE(mi_is_redirected());
  EXPECT_EQ(errno, 77);
}

TEST(ProcessTest, TheLibraryCanBeUsedAfterItsEnd) {
  void* before = mi_malloc(100);
  mi_process_done();
  void* after = mi_malloc(100);
  ASSERT_NE(after, nullptr);
  mi_free(before);
  mi_free(after);
  mi_thread_set_in_threadpool();
}

// ---- the shape of memory ----------------------------------------------------------------------------------

// Blocks of one size in several pages, the first of which are left with few live blocks.
struct Sparse {
  static constexpr size_t kSize = 1024;
  std::vector<char*> live;
  explicit Sparse(mi_heap_t* heap) {
    std::vector<char*> all;
    for (int i = 0; i < 1000; i++) all.push_back(static_cast<char*>(mi_heap_malloc(heap, kSize)));
    for (size_t i = 0; i < all.size(); i++) {
      if (i < 700 && i % 16 != 0) {
        mi_free(all[i]);
      } else {
        live.push_back(all[i]);
      }
    }
    mi_heap_collect(heap, false);
  }
  int UnderUtilized(mi_heap_t* heap, size_t percent) {
    int n = 0;
    for (char* p : live) n += mi_unsafe_heap_page_is_under_utilized(heap, p, percent);
    return n;
  }
};

TEST(UnderUtilizedTest, SparseMemoryOfAHeapIsFoundOnAnyOfItsParts) {
  mi_heap_t* heap = mi_heap_new();
  mi_heap_t* other = mi_heap_new();
  // A young heap: the regions in which most was freed, but for the current one.
  std::vector<void*> young, sparse_young;
  for (int i = 0; i < 100; i++) young.push_back(mi_heap_malloc(heap, 48));
  for (void* p : young) EXPECT_FALSE(mi_heap_is_under_utilized(heap, p));
  for (size_t i = 0; i < young.size(); i++) {
    if (i % 8 == 0) {
      sparse_young.push_back(young[i]);
    } else {
      mi_free(young[i]);
    }
  }
  int found = 0;
  for (void* p : sparse_young) found += mi_heap_is_under_utilized(heap, p);
  // In the secure build all lie in the page that serves.
  EXPECT_GE(found, kSecure ? 0 : 6) << "of 13, some of which lie where the next objects come from";
  EXPECT_LT(found, 13);
  // Pages, of this thread and of one that ended.
  Sparse sparse(heap);
  found = 0;
  for (char* p : sparse.live) found += mi_heap_is_under_utilized(heap, p);
  EXPECT_GE(found, 700 / 16 / 2);
  EXPECT_LE(found, 2 * 700 / 16);
  std::vector<char*> theirs;
  std::thread([&] { theirs = Sparse(heap).live; }).join();
  found = 0;
  for (char* p : theirs) {
    found += mi_heap_is_under_utilized(heap, p);
    EXPECT_FALSE(mi_heap_is_under_utilized(other, p)) << "another heap's";
  }
  EXPECT_GE(found, 700 / 16 / 2);
  void* large = mi_heap_malloc(heap, 100000);
  EXPECT_FALSE(mi_heap_is_under_utilized(heap, large));
  EXPECT_FALSE(mi_heap_is_under_utilized(heap, nullptr));
  EXPECT_FALSE(mi_heap_is_under_utilized(nullptr, large));
  int on_stack;
  EXPECT_FALSE(mi_heap_is_under_utilized(heap, &on_stack));
  // What a collector does with the answer makes the heap smaller.
  std::vector<char*> all = sparse.live;
  all.insert(all.end(), theirs.begin(), theirs.end());
  for (int round = 0; round < 4; round++) {
    std::vector<char*> moving;
    for (char* p : all) {
      if (mi_heap_is_under_utilized(heap, p)) moving.push_back(p);
    }
    all.erase(std::remove_if(all.begin(), all.end(),
                             [&](char* p) { return std::find(moving.begin(), moving.end(), p) != moving.end(); }),
              all.end());
    for (size_t i = 0; i < moving.size(); i++) all.push_back(static_cast<char*>(mi_heap_malloc(heap, Sparse::kSize)));
    for (char* p : moving) mi_free(p);
    mi_heap_collect(heap, false);
  }
  size_t used = 0, reserved = 0;
  size_t* sums[2] = {&used, &reserved};
  mi_heap_visit_blocks(
      heap, false,
      [](auto, const mi_heap_area_t* area, void*, size_t, void* arg) {
        size_t** sum = static_cast<size_t**>(arg);
        if (area->block_size >= Sparse::kSize && area->block_size < 2 * Sparse::kSize) {
          *sum[0] += area->used * area->block_size;
          *sum[1] += area->reserved;
        }
        return true;
      },
      sums);
  EXPECT_GT(2 * used, reserved) << "at least half full";
  mi_heap_destroy(heap);
  mi_heap_destroy(other);
}

TEST(UnderUtilizedTest, SparsePagesAreFoundAndFullOnesAreNot) {
  mi_heap_t* heap = mi_heap_main();
  Sparse sparse(heap);
  const int sparse_blocks = 700 / 16;
  EXPECT_EQ(sparse.UnderUtilized(heap, 0), 0);
  EXPECT_EQ(sparse.UnderUtilized(heap, 5), 0) << "one in sixteen live is more than five per cent";
  EXPECT_GE(sparse.UnderUtilized(heap, 50), sparse_blocks / 2);
  EXPECT_LE(sparse.UnderUtilized(heap, 50), 2 * sparse_blocks);
  EXPECT_FALSE(mi_unsafe_heap_page_is_under_utilized(heap, nullptr, 100));
  void* next = mi_malloc(Sparse::kSize);
  EXPECT_FALSE(mi_unsafe_heap_page_is_under_utilized(heap, next, 100)) << "the page that serves next";
  mi_free(next);
  int on_stack;
  EXPECT_FALSE(mi_unsafe_heap_page_is_under_utilized(heap, &on_stack, 100));
  mi_heap_t* other = mi_heap_new();
  EXPECT_EQ(sparse.UnderUtilized(other, 50), 0) << "another heap's pages";
  mi_heap_destroy(other);
  int elsewhere = -1;
  std::thread([&] { elsewhere = sparse.UnderUtilized(heap, 50); }).join();
  EXPECT_EQ(elsewhere, 0) << "another thread's pages";
  for (char* p : sparse.live) mi_free(p);
}

TEST(CollectReduceTest, HandsTheThreadsPagesOverSoThatAnotherThreadUsesTheirFreeBlocks) {
  mi_heap_t* heap = mi_heap_new();
  Sparse sparse(heap);
  for (char*& p : sparse.live) Fill(p, Sparse::kSize, reinterpret_cast<uintptr_t>(p));
  ASSERT_GT(sparse.UnderUtilized(heap, 50), 0);
  mi_collect_reduce(SIZE_MAX);
  EXPECT_GT(sparse.UnderUtilized(heap, 50), 0) << "nothing is handed over without need";
  mi_collect_reduce(0);
  EXPECT_EQ(sparse.UnderUtilized(heap, 50), 0) << "a page is the thread's still";
  std::thread([&] {
    // The free blocks of those pages serve before a fresh page does.
    std::vector<void*> mine;
    int near = 0;
    for (int i = 0; i < 300; i++) {
      char* p = static_cast<char*>(mi_heap_malloc(heap, Sparse::kSize));
      for (char* q : sparse.live) {
        if ((reinterpret_cast<uintptr_t>(p) ^ reinterpret_cast<uintptr_t>(q)) < 64 * kKiB) {
          near++;
          break;
        }
      }
      mine.push_back(p);
    }
    EXPECT_GE(near, 100);
    for (void* p : mine) mi_free(p);
  }).join();
  for (char* p : sparse.live) EXPECT_TRUE(Holds(p, Sparse::kSize, reinterpret_cast<uintptr_t>(p)));
  for (int i = 0; i < 100; i++) {  // and the thread goes on
    void* p = mi_heap_malloc(heap, Sparse::kSize);
    ASSERT_NE(p, nullptr);
    mi_free(p);
  }
  mi_heap_destroy(heap);
}

}  // namespace
}  // namespace mi_test
