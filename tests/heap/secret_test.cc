// Secret heaps: which protections a heap really gets, on systems that refuse some of them; what is required; limits of
// locked memory; children of fork; wiping, as the program itself can see it. What other processes see is
// secret_scan_test.cc.
#include <sys/uio.h>

#include <cerrno>
#include <cstring>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "mi/mimalloc-stats.h"
#include "mi/mimalloc.h"
#include "tests/apart_support.h"
#include "tests/test_support.h"

namespace mi_test {
namespace {

constexpr mi_protections_t kAlways = MI_PROTECTED_SEGMENTS | MI_PROTECTED_GUARDS | MI_PROTECTED_PAGE_GUARDS |
                                     MI_PROTECTED_QUARANTINE | MI_PROTECTED_SEALING | MI_PROTECTED_WIPED;
constexpr mi_protections_t kAnonymous = kAlways | MI_PROTECTED_CORE_FILE | MI_PROTECTED_FORK;

mi_heap_t* NewSecret(const char* name = "keys", mi_protections_t required = 0) {
  return NewApart(MI_HEAP_SECRET, name, required);
}

// What the heap prints and reports while `body` runs in a child that the system treats in some way.
int InRestricted(const std::function<bool()>& restrict_self, const std::function<int()>& body) {
  return InChild([&] {
    if (!restrict_self()) return 250;
    return body();
  });
}

// Does an area of the heap's memory have these flags in /proc/self/smaps?
bool HasFlag(const void* p, const std::string& flag) {
  std::ifstream maps("/proc/self/smaps");
  const uintptr_t at = reinterpret_cast<uintptr_t>(p);
  bool here = false;
  for (std::string line; std::getline(maps, line);) {
    uintptr_t low, high;
    if (sscanf(line.c_str(), "%lx-%lx ", &low, &high) == 2) here = (low <= at && at < high);
    if (here && line.rfind("VmFlags:", 0) == 0) return (line + " ").find(" " + flag + " ") != std::string::npos;
  }
  return false;
}

TEST(SecretHeap, HasAFileOfItsOwnWhereTheKernelHasThat) {
  if (!HasSecretFiles()) GTEST_SKIP() << "this kernel has no memfd_secret; what is done then is tested below";
  mi_heap_t* heap = NewSecret("keys", MI_PROTECTED_ALL);
  ASSERT_NE(heap, nullptr) << "everything is to be had here";
  EXPECT_EQ(mi_heap_protections(heap), static_cast<mi_protections_t>(MI_PROTECTED_ALL));
  for (size_t size : {1, 32, 5000, 30000, 200000, 3000000}) {
    char* p = static_cast<char*>(mi_heap_malloc(heap, size));
    ASSERT_NE(p, nullptr);
    p[0] = p[size - 1] = 1;
    EXPECT_TRUE(HasFlag(p, "lo")) << "locked: " << size;
    EXPECT_TRUE(HasFlag(p, "dd")) << "in no core file: " << size;
    EXPECT_TRUE(HasFlag(p, "dc")) << "not copied for a child: " << size;
    // Not even the kernel reads it for others.
    char copy[1];
    const iovec to{copy, 1}, from{p, 1};
    EXPECT_EQ(process_vm_readv(getpid(), &to, 1, &from, 1, 0), -1);
    EXPECT_EQ(errno, EFAULT);
  }
  mi_heap_destroy(heap);
}

TEST(SecretHeap, IsLockedMemoryWhereTheKernelHasNoSecretFiles) {
  if (kSanitized) GTEST_SKIP() << "a sanitizer makes mlock do nothing";
  for (int error : {ENOSYS, EPERM}) {
    EXPECT_EQ(InRestricted([&] { return RefuseCall(SYS_memfd_secret, error); },
                           [&] {
                             mi_heap_t* heap = NewSecret("keys", kAnonymous | MI_PROTECTED_SWAP);
                             if (heap == nullptr) return 1;
                             if (mi_heap_protections(heap) != (kAnonymous | MI_PROTECTED_SWAP)) return 2;
                             for (size_t size : {1, 32, 5000, 30000, 200000, 3000000}) {
                               char* p = static_cast<char*>(mi_heap_malloc(heap, size));
                               if (p == nullptr) return 3;
                               p[0] = p[size - 1] = 1;
                               if (!HasFlag(p, "lo") || !HasFlag(p, "dd") || !HasFlag(p, "wf")) return 4;
                             }
                             ErrorRecorder errors;
                             errno = 0;
                             if (NewSecret("keys", MI_PROTECTED_KERNEL_MAP) != nullptr) return 5;
                             if (errno != (error == EPERM ? EPERM : ENOTSUP)) return 6;
                             if (errors.text().find("not to be had: not in the kernel's map") == std::string::npos)
                               return 7;
                             mi_heap_destroy(heap);
                             return 0;
                           }),
              0)
        << strerror(error);
  }
}

TEST(SecretHeap, SaysWhatItHasNotWhereNothingMayBeLocked) {
  if (kSanitized) GTEST_SKIP() << "a sanitizer makes mlock do nothing";
  EXPECT_EQ(
      InRestricted([] { return BecomeOrdinary(0); },
                   [] {
                     ErrorRecorder errors;
                     mi_heap_t* heap = NewSecret("keys");
                     if (heap == nullptr) return 1;
                     if (mi_heap_protections(heap) != kAnonymous) return 2;
                     if (errors.text().find("secret heap keys is without: no swap") == std::string::npos) return 3;
                     char* p = static_cast<char*>(mi_heap_malloc(heap, 32));
                     p[0] = 1;
                     if (!HasFlag(p, "dd") || !HasFlag(p, "wf") || HasFlag(p, "lo")) return 4;
                     errno = 0;
                     if (NewSecret("keys", MI_PROTECTED_SWAP) != nullptr) return 5;
                     if (errno != EPERM && errno != ENOMEM) return 6;
                     if (errors.text().find("heap keys cannot be made: not to be had: no swap") == std::string::npos)
                       return 7;
                     mi_heap_destroy(heap);
                     return 0;
                   }),
      0);
  // The same by a filter, for a process that has every privilege.
  EXPECT_EQ(InRestricted([] { return RefuseCall(SYS_memfd_secret, ENOSYS) && RefuseCall(SYS_mlock, EPERM); },
                         [] {
                           ErrorRecorder errors;
                           mi_heap_t* heap = NewSecret("keys");
                           if (heap == nullptr || mi_heap_protections(heap) != kAnonymous) return 1;
                           errno = 0;
                           if (NewSecret("keys", MI_PROTECTED_SWAP) != nullptr || errno != EPERM) return 2;
                           return 0;
                         }),
            0);
}

TEST(SecretHeap, NothingIsHadWhereEveryAdviceIsRefused) {
  if (kSanitized) GTEST_SKIP() << "a sanitizer makes mlock do nothing";
  EXPECT_EQ(InRestricted([] { return RefuseCall(SYS_memfd_secret, ENOSYS) && RefuseCall(SYS_madvise, EINVAL); },
                         [] {
                           ErrorRecorder errors;
                           mi_heap_t* heap = NewSecret("keys");
                           if (heap == nullptr) return 1;
                           if ((mi_heap_protections(heap) & (MI_PROTECTED_CORE_FILE | MI_PROTECTED_FORK)) != 0)
                             return 2;
                           if (errors.text().find("no core file, not in the child") == std::string::npos) return 3;
                           for (mi_protections_t one : {MI_PROTECTED_CORE_FILE, MI_PROTECTED_FORK}) {
                             errno = 0;
                             if (NewSecret("keys", one) != nullptr || errno != ENOTSUP) return 4;
                           }
                           void* p = mi_heap_malloc(heap, 100);
                           if (p == nullptr) return 5;
                           mi_free(p);
                           mi_heap_destroy(heap);
                           return 0;
                         }),
            0);
}

TEST(SecretHeap, GrowsToTheLimitOfLockedMemoryAndShrinksAgain) {
  if (kSanitized) GTEST_SKIP() << "a sanitizer makes mlock do nothing";
  for (size_t limit : {64 * kKiB, 256 * kKiB, 2 * kMiB}) {
    for (bool file : {true, false}) {
      EXPECT_EQ(InRestricted([&] { return BecomeOrdinary(limit) && (file || RefuseCall(SYS_memfd_secret, ENOSYS)); },
                             [&] {
                               mi_heap_t* heap = NewSecret("keys", MI_PROTECTED_SWAP);
                               if (heap == nullptr) return 1;
                               ErrorRecorder errors;
                               size_t most = 0;
                               for (int round = 0; round < 3; round++) {
                                 std::vector<void*> keys;
                                 errno = 0;
                                 for (void* p; (p = mi_heap_malloc(heap, 64)) != nullptr;) {
                                   memset(p, 0x5a, 64);
                                   keys.push_back(p);
                                   if (keys.size() * 64 > limit) return 2;
                                 }
                                 if (errno != ENOMEM || errors.count(ENOMEM) != round + 1) return 3;
                                 if (LockedBytes() > limit) return 4;
                                 // Slices are of 64 KiB, and less than one is left.
                                 if (keys.size() * 64 + 64 * kKiB < limit && keys.size() * 64 < limit / 2) return 5;
                                 if (keys.size() + 2 * 4096 / 64 < most) return 6;  // OS pages that pages do not fill
                                 most = keys.size();
                                 if (!mi_heap_check(heap)) return 7;
                                 for (void* p : keys) mi_free(p);
                                 mi_heap_collect(heap, true);
                                 if (LockedBytes() != 0) return 8;
                               }
                               // Other classes find room when those of the first are empty, without being asked.
                               for (size_t size : {32, 100, 1000, 4000}) {
                                 void* p = mi_heap_malloc(heap, size);
                                 if (p == nullptr) return 9;
                                 mi_free(p);
                               }
                               mi_heap_destroy(heap);
                               return LockedBytes() == 0 ? 0 : 10;
                             }),
                0)
          << limit << (file ? " with files" : " without");
    }
  }
}

TEST(SecretHeap, WhatOtherHeapsHaveInQuarantineDoesNotKeepItFromLockedMemory) {
  if (kSanitized) GTEST_SKIP() << "a sanitizer makes mlock do nothing";
  constexpr size_t kLimit = 256 * kKiB;
  for (bool file : {true, false}) {
    EXPECT_EQ(InRestricted([&] { return BecomeOrdinary(kLimit) && (file || RefuseCall(SYS_memfd_secret, ENOSYS)); },
                           [&] {
                             const uint32_t flags = MI_HEAP_SECRET | MI_HEAP_QUARANTINE;
                             mi_heap_t* one = NewApart(flags, "one", MI_PROTECTED_SWAP);
                             mi_heap_t* other = NewApart(flags, "other", MI_PROTECTED_SWAP);
                             if (one == nullptr || other == nullptr) return 1;
                             ErrorRecorder errors;
                             std::vector<void*> keys;
                             while (LockedBytes() + 64 * kKiB <= kLimit) {
                               keys.push_back(mi_heap_malloc(one, 4000));
                               if (keys.back() == nullptr) return 2;
                             }
                             void* const kept = keys.back();
                             memset(kept, 0x5a, 4000);
                             keys.pop_back();
                             for (void* p : keys) mi_free(p);
                             if (LockedBytes() + 64 * kKiB < kLimit) return 3;
                             for (int i = 0; i < 20; i++) {
                               void* p = mi_heap_malloc(other, 4000);
                               if (p == nullptr) return 4;
                               memset(p, 0xa5, 4000);
                             }
                             if (errors.total() != 0) return 5;
                             for (int i = 0; i < 4000; i++) {
                               if (static_cast<char*>(kept)[i] != 0x5a) return 6;
                             }
                             if (!mi_heap_check(one) || !mi_heap_check(other)) return 7;
                             return 0;
                           }),
              0)
        << (file ? "with files" : "without");
  }
}

TEST(SecretHeap, TenThousandKeysShareFewPages) {
  mi_heap_t* heap = NewSecret();
  const size_t locked = LockedBytes(), mappings = MappingCount();
  std::vector<unsigned char*> keys;
  for (int i = 0; i < 10000; i++) {
    keys.push_back(static_cast<unsigned char*>(mi_heap_malloc(heap, 32)));
    ASSERT_NE(keys.back(), nullptr);
    Fill(keys.back(), 32, static_cast<uint64_t>(i));
  }
  if (HasSecretFiles()) {
    EXPECT_LE(LockedBytes() - locked, 640 * kKiB);
  }
  if (!kSanitized) {
    EXPECT_LE(MappingCount() - mappings, 40u);
  }
  for (int i = 0; i < 10000; i++) EXPECT_TRUE(Holds(keys[static_cast<size_t>(i)], 32, static_cast<uint64_t>(i)));
  for (unsigned char* key : keys) mi_free(key);
  mi_heap_collect(heap, true);
  EXPECT_EQ(LockedBytes(), locked);
  mi_heap_destroy(heap);
}

// The bytes of a freed block, as a program sees them that does what it may not.
TEST(SecretHeap, AFreedBlockIsZeroToItsLastByteWhoeverFreesIt) {
  mi_heap_t* heap = NewSecret();
  int looks = 0;
  for (size_t size : {16, 64, 100, 1000, 4000, 20000}) {
    char* stays = static_cast<char*>(mi_heap_malloc(heap, size));  // keeps the page
    for (bool remote : {false, true}) {
      char* p = static_cast<char*>(mi_heap_malloc(heap, size));
      const size_t usable = mi_usable_size(p);
      memset(p, 0x5a, usable);
      if (remote) {
        InThread([p] { mi_free(p); });
      } else {
        mi_free(p);
      }
      // Pages without blocks may be gone: then there is nothing to look at.
      if (CanRead(p)) {
        looks++;
        EXPECT_TRUE(IsZero(p, 0, usable)) << size << (remote ? " by another thread" : "");
      }
      // So a new one is zero whoever asks for it.
      char* q = static_cast<char*>(mi_heap_malloc(heap, size));
      EXPECT_TRUE(IsZero(q, 0, mi_usable_size(q)));
      mi_free(q);
    }
    mi_free(stays);
  }
  EXPECT_GE(looks, 6);
  mi_heap_destroy(heap);
}

TEST(SecretHeap, AResizeWipesWhatItLeavesBehind) {
  mi_heap_t* heap = NewSecret();
  for (size_t size : {64, 1000, 4000}) {
    char* stays = static_cast<char*>(mi_heap_malloc(heap, size));
    char* p = static_cast<char*>(mi_heap_malloc(heap, size));
    const size_t usable = mi_usable_size(p);
    memset(p, 0x5a, usable);
    char* q = static_cast<char*>(mi_realloc(p, 10 * size));
    ASSERT_NE(q, nullptr);
    ASSERT_NE(q, p);
    EXPECT_EQ(q[size - 1], 0x5a);
    EXPECT_TRUE(IsZero(p, 0, usable)) << "moved";
    // Smaller, in its place: the rest of the block goes.
    memset(q, 0x5a, mi_usable_size(q));
    const size_t whole = mi_usable_size(q);
    char* r = static_cast<char*>(mi_realloc(q, whole - whole / 4));
    ASSERT_EQ(r, q);
    EXPECT_TRUE(IsZero(r, whole - whole / 4, whole)) << "shrunk";
    // Refused: all of it stays.
    ErrorRecorder errors;
    EXPECT_EQ(mi_realloc(r, Opaque<size_t>(PTRDIFF_MAX)), nullptr);
    EXPECT_EQ(r[0], 0x5a);
    EXPECT_EQ(mi_reallocf(r, Opaque<size_t>(PTRDIFF_MAX)), nullptr);
    mi_free(stays);
  }
  EXPECT_TRUE(ShowsExactly(heap, {}));
  mi_heap_destroy(heap);
}

TEST(SecretHeap, IsNotInAForkedChildWhichMakesItsOwn) {
  if (kSanitized) GTEST_SKIP() << "a sanitizer makes mlock do nothing";
  for (bool file : {true, false}) {
    if (file && !HasSecretFiles()) continue;
    EXPECT_EQ(InRestricted([&] { return file || RefuseCall(SYS_memfd_secret, ENOSYS); },
                           [] {
                             mi_heap_t* heap = NewSecret();
                             std::vector<char*> keys;
                             for (size_t size : {32, 32, 5000, 30000, 200000, 3000000}) {
                               keys.push_back(static_cast<char*>(mi_heap_malloc(heap, size)));
                               memset(keys.back(), 0x5a, size);
                             }
                             const int child = InChild([&] {
                               // Something else is mapped, which the heap's end must not take away.
                               char* other = static_cast<char*>(
                                   mmap(nullptr, kMiB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
                               other[0] = 7;
                               for (char* key : keys) {
                                 if (CanRead(key)) return 1;
                               }
                               ErrorRecorder errors;
                               errno = 0;
                               if (mi_heap_malloc(heap, 10) != nullptr || errno != EPERM) return 2;
                               if (mi_realloc(keys[0], 1000) != nullptr) return 3;
                               mi_free(keys[0]);
                               if (!mi_heap_check(heap)) return 4;
                               mi_heap_t* own = NewSecret("own", mi_heap_protections(heap));
                               if (own == nullptr) return 5;
                               char* p = static_cast<char*>(mi_heap_malloc(own, 100));
                               p[0] = 1;
                               // A grandchild is a child.
                               if (InChild([&] { return CanRead(p) || CanRead(keys[1]) ? 1 : 0; }) != 0) return 6;
                               mi_free(p);
                               mi_heap_destroy(own);
                               // The parent's heap serves again when it was reset, and goes as others do.
                               mi_heap_reset(heap);
                               p = static_cast<char*>(mi_heap_malloc(heap, 100));
                               if (p == nullptr) return 7;
                               p[0] = 1;
                               mi_heap_destroy(heap);
                               return other[0] == 7 ? 0 : 8;
                             });
                             if (child != 0) return 100 + child;
                             for (char* key : keys) {
                               if (key[0] != 0x5a) return 1;
                             }
                             mi_heap_destroy(heap);
                             return 0;
                           }),
              0)
        << (file ? "with files" : "without");
  }
}

TEST(SecretHeap, ThreadsThatAllocateWhileTheProcessForksLeaveNothingToTheChild) {
  mi_heap_t* heap = NewSecret();
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (int t = 0; t < 2; t++) {
    threads.emplace_back([&, t] {
      // A page at a time comes and goes.
      for (size_t round = 0; !stop.load(); round++) {
        char* p = static_cast<char*>(mi_heap_malloc(heap, 100000 + 1000 * static_cast<size_t>(t)));
        if (p == nullptr) continue;
        memset(p, 0x5a, 1000);
        mi_free(p);
      }
    });
  }
  for (int round = 0; round < Scaled(40); round++) {
    EXPECT_EQ(InChild([&] {
                // No mapping of a secret file is here.
                std::ifstream maps("/proc/self/maps");
                for (std::string line; std::getline(maps, line);) {
                  if (line.find("secretmem") != std::string::npos && line.find("rw") != std::string::npos) return 1;
                }
                mi_heap_destroy(heap);
                return 0;
              }),
              0);
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(mi_heap_check(heap));
  mi_heap_destroy(heap);
}

TEST(SecretHeap, MessagesAndFiguresSayNothingOfWhatIsInIt) {
  mi_heap_t* heap = NewSecret();
  ErrorRecorder recorder;
  const std::string secret = "xyzzy-plugh-" + std::to_string(getpid());
  char* p = static_cast<char*>(mi_heap_malloc(heap, 64));
  strcpy(p, secret.c_str());
  mi_heap_protect(heap, MI_PROTECT_READ);
  mi_free(p);
  EXPECT_EQ(mi_realloc(p, 1000), nullptr);
  mi_heap_protect(heap, MI_PROTECT_READ_WRITE);
  mi_stats_print(nullptr);
  char* json = mi_heap_stats_get_json(heap, 0, nullptr);
  std::string all = recorder.text() + (json == nullptr ? "" : json);
  EXPECT_GT(all.size(), 100u);
  EXPECT_EQ(all.find("xyzzy"), std::string::npos);
  mi_free(json);
  mi_heap_destroy(heap);
}

}  // namespace
}  // namespace mi_test
