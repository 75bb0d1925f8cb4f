// malloc itself, as a program sees it that was not written for us: one source, run with the library preloaded and with
// the override linked in (see override.bzl). Checks whose memory a block is, glibc's rules for arguments, results and
// errno, C++ new and delete with and without memory, and pointers that are not ours.
#include <alloca.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>
#include <wchar.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <new>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

// Of the library, if it is there: with neither form of the override the tests fail.
extern "C" {
__attribute__((weak)) bool mi_is_in_heap_region(const void* p);
__attribute__((weak)) void* dlopen(const char* file, int mode) noexcept(noexcept(dlopen("", 0)));
__attribute__((weak)) void mi_collect(bool force);
__attribute__((weak)) void* __libc_malloc(size_t size);
__attribute__((weak)) void* __libc_calloc(size_t count, size_t size);
__attribute__((weak)) void* __libc_realloc(void* p, size_t size);
__attribute__((weak)) void __libc_free(void* p);
__attribute__((weak)) void* __libc_memalign(size_t alignment, size_t size);
__attribute__((weak)) void* __libc_valloc(size_t size);
__attribute__((weak)) void* __libc_pvalloc(size_t size);
__attribute__((weak)) int __posix_memalign(void** p, size_t alignment, size_t size);
}

namespace {

constexpr size_t kTooLarge = static_cast<size_t>(PTRDIFF_MAX) + 1;

// The compiler knows malloc and its rules, and would remove or warn of what is tested here.
template <typename T>
T Opaque(T value) {
  __asm__ volatile("" : "+r"(value) : : "memory");
  return value;
}

// The secure build: misuse ends the program.
#if defined(MI_SECURE) && MI_SECURE
constexpr bool kSecure = true;
#else
constexpr bool kSecure = false;
#endif

bool IsOurs(const void* p) { return mi_is_in_heap_region != nullptr && mi_is_in_heap_region(p); }

// A block of at least `size` bytes of ours, which can be written and is aligned; frees it.
void ExpectBlock(void* p, size_t size, size_t alignment = 16) {
  ASSERT_NE(p, nullptr);
  EXPECT_TRUE(IsOurs(p));
  EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % alignment, 0u);
  EXPECT_GE(malloc_usable_size(p), size);
  memset(p, 0x5a, malloc_usable_size(p));
  free(p);
}

// --- whose memory it is ------------------------------------------------------------------------------------------

TEST(OverrideTest, EveryFunctionOfCAndPosixThatAllocatesGivesOurBlocks) {
  ExpectBlock(malloc(100), 100);
  ExpectBlock(calloc(10, 10), 100);
  ExpectBlock(realloc(nullptr, 100), 100);
  ExpectBlock(reallocarray(nullptr, 10, 10), 100);
  void* p = nullptr;
  ASSERT_EQ(posix_memalign(&p, 256, 100), 0);
  ExpectBlock(p, 100, 256);
  ExpectBlock(aligned_alloc(128, 256), 256, 128);
  ExpectBlock(memalign(512, 100), 100, 512);
  ExpectBlock(valloc(100), 100, 4096);
  ExpectBlock(pvalloc(100), 4096, 4096);
}

TEST(OverrideTest, StringsThatTheCLibraryAllocatesAreOurBlocks) {
  char* copy = strdup("a string to copy");
  EXPECT_STREQ(copy, "a string to copy");
  ExpectBlock(copy, 17);
  copy = strndup("a string to copy", 8);
  EXPECT_STREQ(copy, "a string");
  ExpectBlock(copy, 9);
  copy = strndup("short", 100);
  EXPECT_STREQ(copy, "short");
  ExpectBlock(copy, 6, 8);
  wchar_t* wide = wcsdup(L"wide");
  EXPECT_EQ(wcscmp(wide, L"wide"), 0);
  ExpectBlock(wide, 5 * sizeof(wchar_t));
  ExpectBlock(realpath("/", nullptr), 2, 8);
  char* text = nullptr;
  ASSERT_EQ(asprintf(&text, "%d and %d", 1, 2), 7);
  EXPECT_STREQ(text, "1 and 2");
  ExpectBlock(text, 8, 8);
  ExpectBlock(getcwd(nullptr, 0), 2, 8);
}

TEST(OverrideTest, BuffersOfStreamsAreOurBlocksAndGrow) {
  char* buffer = nullptr;
  size_t size = 0;
  FILE* stream = open_memstream(&buffer, &size);
  for (int i = 0; i < 10000; i++) fprintf(stream, "line %d\n", i);
  fclose(stream);
  ASSERT_TRUE(IsOurs(buffer));
  stream = fmemopen(buffer, size, "r");
  char* line = nullptr;
  size_t capacity = 0;
  int lines = 0;
  while (getline(&line, &capacity, stream) > 0) lines++;
  fclose(stream);
  EXPECT_EQ(lines, 10000);
  ExpectBlock(line, 10);
  free(buffer);
}

TEST(OverrideTest, GlibcsOwnNamesAreOursToo) {
  ExpectBlock(__libc_malloc(100), 100);
  ExpectBlock(__libc_calloc(10, 10), 100);
  ExpectBlock(__libc_realloc(nullptr, 100), 100);
  ExpectBlock(__libc_memalign(64, 100), 100, 64);
  ExpectBlock(__libc_valloc(100), 100, 4096);
  ExpectBlock(__libc_pvalloc(100), 4096, 4096);
  void* p = nullptr;
  ASSERT_EQ(__posix_memalign(&p, 64, 100), 0);
  ExpectBlock(p, 100, 64);
  p = malloc(100);
  __libc_free(p);
}

TEST(OverrideTest, ThreadsAndContainersLiveOnOurBlocks) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; t++) {
    threads.emplace_back([t] {
      std::set<std::string> words;
      for (int i = 0; i < 2000; i++)
        words.insert("a word that is too long for the string itself " + std::to_string(i * t));
      for (const std::string& word : words) ASSERT_TRUE(IsOurs(word.data()));
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// --- C's rules -----------------------------------------------------------------------------------------------------

TEST(OverrideTest, SizeZeroGivesBlocksOfTheirOwn) {
  void* a = Opaque(malloc(0));
  void* b = Opaque(calloc(0, 10));
  void* c = Opaque(realloc(nullptr, 0));
  ASSERT_NE(a, nullptr);
  ASSERT_NE(b, nullptr);
  ASSERT_NE(c, nullptr);
  EXPECT_NE(a, b);
  EXPECT_NE(b, c);
  free(a);
  free(b);
  free(c);
}

TEST(OverrideTest, ReallocToZeroGivesASmallBlockSoThatNullAlwaysMeansFailure) {
  void* p = malloc(1000);
  void* q = Opaque(realloc(p, Opaque<size_t>(0)));
  EXPECT_NE(q, nullptr);
  EXPECT_TRUE(IsOurs(q));
  free(q);
}

TEST(OverrideTest, WhatCannotBeServedIsNullAndEnomem) {
  const auto expect_enomem = [](void* p) {
    EXPECT_EQ(p, nullptr);
    EXPECT_EQ(errno, ENOMEM);
    errno = 0;
  };
  errno = 0;
  const size_t half = SIZE_MAX / 2;
  expect_enomem(Opaque(malloc(Opaque(kTooLarge))));
  expect_enomem(Opaque(malloc(Opaque(SIZE_MAX))));
  expect_enomem(Opaque(calloc(Opaque<size_t>(1), Opaque(kTooLarge))));
  expect_enomem(Opaque(calloc(Opaque<size_t>(3), Opaque(half))));
  expect_enomem(Opaque(realloc(nullptr, Opaque(kTooLarge))));
  expect_enomem(Opaque(reallocarray(nullptr, Opaque<size_t>(3), Opaque(half))));
  expect_enomem(Opaque(memalign(64, Opaque(kTooLarge))));
  expect_enomem(Opaque(aligned_alloc(64, Opaque(kTooLarge))));
  expect_enomem(Opaque(valloc(Opaque(kTooLarge))));
  expect_enomem(Opaque(pvalloc(Opaque(SIZE_MAX))));
}

TEST(OverrideTest, AFailedReallocLeavesTheBlockAsItWas) {
  char* p = static_cast<char*>(malloc(100));
  memset(p, 'x', 100);
  errno = 0;
  EXPECT_EQ(Opaque(realloc(Opaque(p), Opaque(kTooLarge))), nullptr);
  EXPECT_EQ(errno, ENOMEM);
  errno = 0;
  EXPECT_EQ(Opaque(reallocarray(Opaque(p), Opaque(SIZE_MAX), 2)), nullptr);
  EXPECT_EQ(errno, ENOMEM);
  EXPECT_EQ(std::count(p, p + 100, 'x'), 100);
  free(p);
}

TEST(OverrideTest, ReallocKeepsTheContents) {
  for (size_t from : {1u, 16u, 100u, 1000u, 5000u, 70000u, 3000000u, 9000000u}) {
    for (size_t to : {1u, 40u, 1000u, 70000u, 3000000u, 9000000u}) {
      unsigned char* p = static_cast<unsigned char*>(malloc(from));
      for (size_t i = 0; i < from; i++) p[i] = static_cast<unsigned char>(i * 7);
      p = static_cast<unsigned char*>(realloc(p, to));
      ASSERT_NE(p, nullptr);
      for (size_t i = 0; i < std::min(from, to); i++) ASSERT_EQ(p[i], static_cast<unsigned char>(i * 7));
      free(p);
    }
  }
}

TEST(OverrideTest, CallocGivesZerosAlsoWhereBlocksWereUsedBefore) {
  for (size_t size : {8u, 24u, 100u, 1024u, 3000u, 60000u, 300000u, 5000000u}) {
    std::vector<unsigned char*> blocks;
    for (int i = 0; i < 20; i++) {
      blocks.push_back(static_cast<unsigned char*>(malloc(size)));
      memset(blocks.back(), 0xff, size);
    }
    for (unsigned char* block : blocks) free(block);
    for (int i = 0; i < 20; i++) {
      unsigned char* p = static_cast<unsigned char*>(calloc(size / 4, 4));
      ASSERT_EQ(std::count(p, p + size / 4 * 4, 0), static_cast<ptrdiff_t>(size / 4 * 4));
      blocks[i] = p;
    }
    for (unsigned char* block : blocks) free(block);
  }
}

TEST(OverrideTest, PosixMemalignRefusesAlignmentsAsPosixSaysAndLeavesErrnoAlone) {
  void* p = &p;
  for (size_t alignment : {size_t{0}, size_t{1}, size_t{2}, size_t{4}, size_t{7}, size_t{12}, size_t{24}, SIZE_MAX}) {
    errno = 77;
    EXPECT_EQ(posix_memalign(&p, Opaque(alignment), 100), EINVAL) << alignment;
    EXPECT_EQ(errno, 77);
    EXPECT_EQ(p, &p) << "the result is not touched";
  }
  EXPECT_EQ(posix_memalign(&p, 64, Opaque(kTooLarge)), ENOMEM);
  EXPECT_EQ(errno, 77);
  EXPECT_EQ(p, &p);
  for (size_t alignment = sizeof(void*); alignment <= 4u << 20; alignment *= 2) {
    ASSERT_EQ(posix_memalign(&p, alignment, 100), 0);
    ExpectBlock(p, 100, alignment);
  }
  ASSERT_EQ(posix_memalign(&p, 64, 0), 0);
  ExpectBlock(p, 0, 64);
}

TEST(OverrideTest, AlignedAllocRefusesWhatIsNoPowerOfTwoAndMemalignRoundsItUp) {
  for (size_t alignment : {0u, 3u, 12u, 100u}) {
    errno = 0;
    EXPECT_EQ(Opaque(aligned_alloc(Opaque(alignment), 100)), nullptr) << alignment;
    EXPECT_EQ(errno, EINVAL);
  }
  ExpectBlock(memalign(Opaque<size_t>(0), 100), 100);
  ExpectBlock(memalign(Opaque<size_t>(3), 100), 100);
  ExpectBlock(memalign(Opaque<size_t>(17), 100), 100, 32);
  ExpectBlock(memalign(Opaque<size_t>(100), 100), 100, 128);
  ExpectBlock(memalign(Opaque<size_t>(1025), 100), 100, 2048);
  errno = 0;
  EXPECT_EQ(Opaque(memalign(Opaque(SIZE_MAX), 100)), nullptr);
  EXPECT_EQ(errno, EINVAL);
}

TEST(OverrideTest, PvallocRoundsUpToPages) {
  void* p = pvalloc(5000);
  EXPECT_GE(malloc_usable_size(p), 8192u);
  free(p);
  p = pvalloc(0);
  EXPECT_GE(malloc_usable_size(p), 4096u);
  free(p);
}

TEST(OverrideTest, FreeKeepsErrnoWhateverItIsGiven) {
  int on_stack = 0;
  std::vector<void*> blocks;
  for (size_t size : {0u, 8u, 100u, 5000u, 70000u, 1000000u, 8000000u}) blocks.push_back(malloc(size));
  blocks.push_back(nullptr);
  if (!kSecure) blocks.push_back(Opaque<void*>(&on_stack));
  void* of_other_thread = nullptr;
  std::thread([&] { of_other_thread = malloc(200); }).join();
  blocks.push_back(of_other_thread);
  for (void* block : blocks) {
    errno = 1234;
    free(block);
    EXPECT_EQ(errno, 1234);
  }
}

// --- pointers that are not ours
// ----------------------------------------------------------------------------------------

class ForeignTest : public testing::Test {
 protected:
  // Free, resize and measure; nothing of the memory may be read or written, whatever its protection. In the secure
  // build each of them ends the program.
  static void ExpectIgnored(void* p) {
    const auto again = [p] { return Opaque(p); };
    if (kSecure) {
      EXPECT_EXIT(free(again()), testing::KilledBySignal(SIGABRT), "corruption");
      EXPECT_EXIT(Opaque(malloc_usable_size(again())), testing::KilledBySignal(SIGABRT), "corruption");
      EXPECT_EXIT(Opaque(realloc(again(), 100)), testing::KilledBySignal(SIGABRT), "corruption");
      EXPECT_EXIT(::operator delete(again()), testing::KilledBySignal(SIGABRT), "corruption");
      return;
    }
    errno = 1234;
    free(again());
    EXPECT_EQ(errno, 1234);
    EXPECT_EQ(malloc_usable_size(again()), 0u);
    errno = 0;
    EXPECT_EQ(Opaque(realloc(again(), 100)), nullptr);
    EXPECT_EQ(errno, EINVAL);
    errno = 0;
    EXPECT_EQ(Opaque(reallocarray(again(), 10, 10)), nullptr);
    EXPECT_EQ(errno, EINVAL);
    ::operator delete(again());
    ::operator delete[](again(), size_t{10});
    ::operator delete (again(), std::align_val_t{64});
  }
};

TEST_F(ForeignTest, MemoryOfTheProgramIsLeftAlone) {
  static char of_the_program[256];
  char on_stack[256];
  memset(on_stack, 'x', sizeof(on_stack));
  ExpectIgnored(of_the_program);
  ExpectIgnored(on_stack);
  ExpectIgnored(on_stack + 1);
  ExpectIgnored(const_cast<char*>("a constant"));
  ExpectIgnored(reinterpret_cast<void*>(&getenv));
  EXPECT_EQ(std::count(on_stack, on_stack + sizeof(on_stack), 'x'), static_cast<ptrdiff_t>(sizeof(on_stack)));
}

TEST_F(ForeignTest, MemoryThatCannotEvenBeReadIsLeftAlone) {
  char* p = static_cast<char*>(mmap(nullptr, 3 * 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(p, MAP_FAILED);
  ExpectIgnored(p);
  ExpectIgnored(p + 4096 + 16);
  munmap(p, 3 * 4096);
  ExpectIgnored(p + 16);
  ExpectIgnored(reinterpret_cast<void*>(uintptr_t{8}));
  ExpectIgnored(reinterpret_cast<void*>(uintptr_t{1} << 46));
  ExpectIgnored(reinterpret_cast<void*>(UINTPTR_MAX - 15));
  ExpectIgnored(reinterpret_cast<void*>(uintptr_t{1} << 63));
}

TEST_F(ForeignTest, BlocksOfTheCLibrarysOwnMallocAreLeftAlone) {
  if (getauxval(AT_BASE) == 0) GTEST_SKIP() << "linked without shared libraries";
  void* libc = dlopen("libc.so.6", RTLD_LAZY | RTLD_NOLOAD);
  ASSERT_NE(libc, nullptr);
  auto* libc_malloc = reinterpret_cast<void* (*)(size_t)>(dlsym(libc, "malloc"));
  auto* libc_free = reinterpret_cast<void (*)(void*)>(dlsym(libc, "free"));
  ASSERT_NE(libc_malloc, nullptr);
  std::vector<void*> blocks;
  for (size_t size : {10u, 1000u, 100000u, 10000000u}) blocks.push_back(libc_malloc(size));
  for (void* block : blocks) ExpectIgnored(block);
  for (void* block : blocks) libc_free(block);  // would abort if somebody had written there
  dlclose(libc);
}

TEST_F(ForeignTest, AddressesInOurOwnRangeWhereNoBlockStartsAreLeftAlone) {
  char* block = static_cast<char*>(malloc(200));
  char* huge = static_cast<char*>(malloc(20 << 20));
  const uintptr_t segment = uintptr_t{4} << 20;
  char* start = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(block) - 1) & ~(segment - 1));
  std::vector<char*> wild = {start + 8,   start + 4096,   start + 60000,
                             huge + 4096, huge + segment, huge + 3 * segment + 64};
  for (size_t ahead : {64u, 1000u, 4000u}) wild.push_back(start + ahead * segment + 12345 * 16);
  // The program's bytes lie where a segment has its header: they must not be taken for one, whatever they are.
  for (int byte : {0, 1, 2, 3, 4, 5, 0x5a, 0xff}) {
    memset(huge, byte, 20 << 20);
    for (char* p : wild) ExpectIgnored(p);
    EXPECT_EQ(std::count(huge, huge + (20 << 20), static_cast<char>(byte)), 20 << 20);
  }
  memset(block, 1, 200);
  free(block);
  free(huge);
}

// --- C++
// ----------------------------------------------------------------------------------------------------------------

constexpr std::align_val_t k64{64};

TEST(NewTest, EveryFormOfNewGivesOurBlocks) {
  ExpectBlock(::operator new(100), 100);
  ExpectBlock(::operator new[](100), 100);
  ExpectBlock(::operator new(100, std::nothrow), 100);
  ExpectBlock(::operator new[](100, std::nothrow), 100);
  ExpectBlock(::operator new(100, k64), 100, 64);
  ExpectBlock(::operator new[](100, k64), 100, 64);
  ExpectBlock(::operator new(100, k64, std::nothrow), 100, 64);
  ExpectBlock(::operator new[](100, k64, std::nothrow), 100, 64);
  ExpectBlock(::operator new (100, std::align_val_t{1 << 20}), 100, 1 << 20);
  ExpectBlock(::operator new(0), 0, 8);
}

// Room for about `bytes` more of private writable memory, until the end of the scope.
class Shortage {
 public:
  explicit Shortage(size_t bytes) {
    getrlimit(RLIMIT_DATA, &former_);
    rlimit limit = former_;
    limit.rlim_cur = Used() + bytes;
    EXPECT_EQ(setrlimit(RLIMIT_DATA, &limit), 0);
  }
  ~Shortage() { setrlimit(RLIMIT_DATA, &former_); }
  void End() { setrlimit(RLIMIT_DATA, &former_); }

 private:
  static size_t Used() {
    char text[4096];
    const int file = open("/proc/self/status", O_RDONLY);
    const ssize_t length = read(file, text, sizeof(text) - 1);
    close(file);
    text[length > 0 ? length : 0] = 0;
    const char* line = strstr(text, "VmData:");
    return (line == nullptr ? 0 : strtoul(line + 7, nullptr, 10) << 10);
  }
  rlimit former_;
};

TEST(NewTest, EveryFormOfDeleteFrees) {
  static constexpr size_t kSize = 1 << 20;
  const std::vector<void (*)(void*)> forms = {
      [](void* p) { ::operator delete(p); },
      [](void* p) { ::operator delete[](p); },
      [](void* p) { ::operator delete(p, kSize); },
      [](void* p) { ::operator delete[](p, kSize); },
      [](void* p) { ::operator delete(p, std::nothrow); },
      [](void* p) { ::operator delete[](p, std::nothrow); },
      [](void* p) { ::operator delete(p, k64); },
      [](void* p) { ::operator delete[](p, k64); },
      [](void* p) { ::operator delete(p, kSize, k64); },
      [](void* p) { ::operator delete[](p, kSize, k64); },
      [](void* p) { ::operator delete(p, k64, std::nothrow); },
      [](void* p) { ::operator delete[](p, k64, std::nothrow); },
  };
  Shortage shortage(64 << 20);  // a form that does not free runs into it
  for (void (*form)(void*) : forms) {
    form(nullptr);
    for (int i = 0; i < 200; i++) {
      void* p = ::operator new(kSize, k64, std::nothrow);
      ASSERT_NE(p, nullptr) << "form " << (&form - forms.data()) << ", block " << i;
      form(p);
    }
  }
}

TEST(NewTest, WithoutMemoryNewThrowsBadAllocAndNothrowGivesNull) {
  EXPECT_THROW(Opaque(::operator new(Opaque(kTooLarge))), std::bad_alloc);
  EXPECT_THROW(Opaque(::operator new[](Opaque(kTooLarge))), std::bad_alloc);
  EXPECT_THROW(Opaque(::operator new(Opaque(kTooLarge), k64)), std::bad_alloc);
  EXPECT_THROW(Opaque(::operator new[](Opaque(kTooLarge), k64)), std::bad_alloc);
  EXPECT_EQ(Opaque(::operator new(Opaque(kTooLarge), std::nothrow)), nullptr);
  EXPECT_EQ(Opaque(::operator new[](Opaque(kTooLarge), std::nothrow)), nullptr);
  EXPECT_EQ(Opaque(::operator new(Opaque(kTooLarge), k64, std::nothrow)), nullptr);
  EXPECT_EQ(Opaque(::operator new[](Opaque(kTooLarge), k64, std::nothrow)), nullptr);
  EXPECT_THROW(Opaque(std::vector<char>(Opaque(static_cast<size_t>(PTRDIFF_MAX))).data()), std::bad_alloc);
  EXPECT_THROW(Opaque(new int[Opaque(SIZE_MAX / 2)]), std::bad_alloc);  // gcc: std::bad_array_new_length
}

TEST(NewTest, AnExceptionOfNewRunsTheDestructorsOnItsWay) {
  static int destroyed;
  struct Witness {
    ~Witness() { destroyed++; }
  };
  destroyed = 0;
  try {
    Witness outer;
    [] {
      Witness inner;
      Opaque(::operator new(Opaque(kTooLarge)));
    }();
    FAIL();
  } catch (const std::bad_alloc&) {
  }
  EXPECT_EQ(destroyed, 2);
}

// Each time a block that is larger than all before, for which the library needs more memory than it ever had.
size_t Larger() {
  static size_t size = size_t{256} << 20;
  return size += size_t{64} << 20;
}
const std::vector<void* (*)()> kThrowing = {
    [] { return Opaque(::operator new(Larger())); },
    [] { return Opaque(::operator new[](Larger())); },
    [] { return Opaque(::operator new(Larger(), k64)); },
    [] { return Opaque(::operator new[](Larger(), k64)); },
};
const std::vector<void* (*)()> kNothrow = {
    [] { return Opaque(::operator new(Larger(), std::nothrow)); },
    [] { return Opaque(::operator new[](Larger(), std::nothrow)); },
    [] { return Opaque(::operator new(Larger(), k64, std::nothrow)); },
    [] { return Opaque(::operator new[](Larger(), k64, std::nothrow)); },
};

TEST(NewTest, TheNewHandlerIsAskedUntilThereIsMemory) {
  static int calls;
  static Shortage* shortage;
  for (const auto& forms : {kThrowing, kNothrow}) {
    for (void* (*form)() : forms) {
      calls = 0;
      Shortage here(8 << 20);
      shortage = &here;
      std::set_new_handler([] {
        if (++calls == 3) shortage->End();
      });
      void* p = form();
      std::set_new_handler(nullptr);
      ASSERT_NE(p, nullptr);
      EXPECT_TRUE(IsOurs(p));
      EXPECT_EQ(calls, 3);
      memset(p, 1, 100);
      free(p);
      mi_collect(true);
    }
  }
}

TEST(NewTest, ANewHandlerThatTakesItselfAwayEndsTheSearch) {
  static int calls;
  for (const auto& forms : {kThrowing, kNothrow}) {
    for (void* (*form)() : forms) {
      calls = 0;
      Shortage here(8 << 20);
      std::set_new_handler([] {
        if (++calls == 2) std::set_new_handler(nullptr);
      });
      if (&forms == &kThrowing || std::find(kThrowing.begin(), kThrowing.end(), form) != kThrowing.end()) {
        EXPECT_THROW(form(), std::bad_alloc);
      } else {
        EXPECT_EQ(form(), nullptr);
      }
      EXPECT_EQ(calls, 2);
      std::set_new_handler(nullptr);
    }
  }
}

TEST(NewTest, WhatANewHandlerThrowsComesOutOfNewAndNotOutOfNothrowNew) {
  struct Mine : std::bad_alloc {};
  Shortage here(8 << 20);
  std::set_new_handler([] { throw Mine(); });
  for (void* (*form)() : kThrowing) EXPECT_THROW(form(), Mine);
  for (void* (*form)() : kNothrow) EXPECT_EQ(form(), nullptr);
  std::set_new_handler(nullptr);
}

}  // namespace
