// Spaces, of the inside: mi_heap_check names each fault that is seeded here, and nothing where nothing is wrong.
#include <cerrno>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "mi/mimalloc.h"
#include "tests/apart_support.h"
#include "tests/internal/space_faults.h"
#include "tests/test_support.h"

namespace mi_test {
namespace {

TEST(SpaceTest, EachSeededFaultIsNamedAndTheHeapIsSoundWithoutIt) {
  for (uint32_t flags : {MI_HEAP_ISOLATED, MI_HEAP_SECRET}) {
    mi_heap_t* heap = NewApart(flags, "seeded");
    ASSERT_NE(heap, nullptr);
    // A page of each of some classes, one after the other, one of them empty again.
    std::vector<void*> blocks;
    for (size_t size : {64, 128, 256, 1000, 70000}) {
      for (int i = 0; i < 5; i++) {
        blocks.push_back(mi_heap_malloc(heap, size));
        ASSERT_NE(blocks.back(), nullptr);
      }
    }
    mi_free(mi_heap_malloc(heap, 512));
    ASSERT_TRUE(mi_heap_check(heap));
    for (size_t fault = 0; fault < space_faults_count(); fault++) {
      SCOPED_TRACE(space_faults_message(fault));
      ErrorRecorder recorder;
      space_faults_apply(fault, blocks[7]);
      const bool sound = mi_heap_check(heap);
      space_faults_undo();
      EXPECT_FALSE(sound);
      EXPECT_EQ(recorder.errors(), std::vector<int>{EFAULT});
      EXPECT_NE(recorder.text().find(space_faults_message(fault)), std::string::npos) << recorder.text();
      EXPECT_NE(recorder.text().find("seeded"), std::string::npos) << recorder.text();
      EXPECT_TRUE(mi_heap_check(heap)) << "undone";
    }
    mi_heap_destroy(heap);
  }
}

}  // namespace
}  // namespace mi_test
