// mimalloc-override.h: what a source file that includes it allocates comes from here, and goes back here.
#include "tests/override_header.h"

#include "gtest/gtest.h"
#include "mi/mimalloc.h"
#include "tests/test_support.h"

namespace mi_test {
namespace {

TEST(OverrideHeaderTest, EveryFunctionOfTheFamilyIsRedirected) {
  ErrorRecorder errors;
  void* blocks[ALLOCATED];
  const int count = allocate_all(blocks);
  ASSERT_EQ(count, 25);
  for (int i = 0; i < count; i++) EXPECT_TRUE(mi_any_heap_contains(blocks[i])) << "number " << i;
  free_all(blocks, count);
  EXPECT_EQ(errors.total(), 0) << errors.text();
}

}  // namespace
}  // namespace mi_test
