// mi/override.c in the secure build: a delete that is told a size which is not the block's ends the program, with an
// alignment and without; one that is told the right one frees.
#include <new>

#include "gtest/gtest.h"
#include "mi/mimalloc.h"
#include "tests/apart_support.h"

namespace mi_test {
namespace {

constexpr size_t kSizes[] = {1, 16, 40, 100, 1000, 5000, 30000, 65536, 300000, 5000000};

TEST(SizedDelete, TheRightSizeFreesWhateverTheAlignment) {
  for (int round = 0; round < 50; round++) {
    for (size_t size : kSizes) {
      ::operator delete(Opaque(::operator new(size)), size);
      for (size_t alignment : {16u, 64u, 4096u, 65536u}) {
        const std::align_val_t aligned{alignment};
        ::operator delete(Opaque(::operator new(size, aligned)), size, aligned);
        ::operator delete[](Opaque(::operator new[](size, aligned)), size, aligned);
      }
    }
  }
}

TEST(SizedDelete, AWrongSizeEndsTheProgramWhateverTheAlignment) {
  for (size_t size : kSizes) {
    EXPECT_TRUE(Aborts([&] { ::operator delete(Opaque(::operator new(size)), size + 1); }, "mi_free_size: the block"));
    for (size_t alignment : {64u, 4096u}) {
      const std::align_val_t aligned{alignment};
      const std::string due = " is one of " + std::to_string(size) + " bytes, not of " + std::to_string(size + 1);
      EXPECT_TRUE(Aborts([&] { ::operator delete(Opaque(::operator new(size, aligned)), size + 1, aligned); }, due));
      EXPECT_TRUE(
          Aborts([&] { mi_free_size_aligned(Opaque(mi_malloc_aligned(size, alignment)), size + 1, alignment); }, due));
    }
  }
}

}  // namespace
}  // namespace mi_test
