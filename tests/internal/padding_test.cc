// mi/internal/bit_page.c: the padding behind blocks, whole and by its edge, for every length and at every place.
#include <cstring>
#include <vector>

#include "gtest/gtest.h"
#include "mi/mimalloc.h"
#include "tests/internal/probe.h"

namespace mi_test {
namespace {

constexpr size_t kEdge = 16;
constexpr size_t kLongest = 600;  // many times the pattern
constexpr uint8_t kBlock = 0;     // the pattern has no such byte

class PaddingTest : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    mi_heap_config_t config{};
    config.size = sizeof(config);
    config.flags = MI_HEAP_HARDENED;
    heap_ = mi_heap_new_with(&config);
    ASSERT_NE(heap_, nullptr);
    ASSERT_NE(mi_heap_malloc(heap_, 10), nullptr);  // there is a pattern
  }
  void TearDown() override { mi_heap_destroy(heap_); }

  // Ends of blocks, at multiples of 8.
  static std::vector<size_t> Ends() {
    std::vector<size_t> ends;
    for (size_t end = kLongest + kEdge; end <= kLongest + kEdge + 256; end += 8) ends.push_back(end);
    return ends;
  }
  static bool IsInEdge(size_t at) { return at < kEdge; }

  alignas(256) uint8_t memory_[2048];
  mi_heap_t* heap_ = nullptr;
};

TEST_P(PaddingTest, IsWrittenWhereItBelongsAndNowhereElse) {
  const bool edge = GetParam();
  for (const size_t end : Ends()) {
    for (size_t padding = 0; padding <= kLongest; padding++) {
      std::memset(memory_, kBlock, sizeof(memory_));
      probe_padding_write(memory_ + end, padding, edge);
      const size_t start = end - padding;
      for (size_t i = start; i < end; i++) {
        const bool written = (!edge || IsInEdge(i - start));
        ASSERT_EQ(memory_[i] != kBlock, written) << "byte " << i - start << " of " << padding;
      }
      // Of a block that nobody has yet, up to 16 bytes before.
      const size_t before = (edge && padding < kEdge ? kEdge - padding : 0);
      for (size_t i = 0; i < start - before; i++) ASSERT_EQ(memory_[i], kBlock) << "padding " << padding;
      for (size_t i = end; i < sizeof(memory_); i++) ASSERT_EQ(memory_[i], kBlock) << "padding " << padding;
      ASSERT_TRUE(probe_padding_is_whole(memory_ + end, padding, edge)) << padding;
    }
  }
}

TEST_P(PaddingTest, EveryWrittenByteOfItCounts) {
  const bool edge = GetParam();
  for (const size_t end : Ends()) {
    for (size_t padding = 1; padding <= 80; padding++) {
      std::memset(memory_, kBlock, sizeof(memory_));
      probe_padding_write(memory_ + end, padding, edge);
      const size_t start = end - padding;
      for (size_t at = 0; at < padding; at++) {
        const uint8_t former = memory_[start + at];
        memory_[start + at] ^= 0x10;
        const bool counts = (!edge || IsInEdge(at));
        ASSERT_EQ(probe_padding_is_whole(memory_ + end, padding, edge), !counts) << at << " of " << padding;
        if (counts) {
          ASSERT_EQ(probe_padding_breach(memory_ + end, padding), at) << padding;
        }
        memory_[start + at] = former;
      }
      // The program's bytes, and those behind the block, do not.
      memory_[start - 1] ^= 0x10;
      memory_[end] ^= 0x10;
      ASSERT_TRUE(probe_padding_is_whole(memory_ + end, padding, edge)) << padding;
    }
  }
}

TEST_P(PaddingTest, WholePaddingIsWholeByItsEdge) {
  for (const size_t end : Ends()) {
    for (size_t padding = 0; padding <= kLongest; padding++) {
      std::memset(memory_, kBlock, sizeof(memory_));
      probe_padding_write(memory_ + end, padding, false);
      ASSERT_TRUE(probe_padding_is_whole(memory_ + end, padding, GetParam())) << padding;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(WholeAndByEdge, PaddingTest, testing::Bool(),
                         [](const testing::TestParamInfo<bool>& edge) { return edge.param ? "Edge" : "Whole"; });

}  // namespace
}  // namespace mi_test
