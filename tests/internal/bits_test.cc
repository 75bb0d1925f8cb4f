// mi/internal/bits.h: size classes, and the search for runs of bits against a search that tries every place.
#include <cstdint>

#include "gtest/gtest.h"
#include "tests/internal/probe.h"
#include "tests/test_support.h"

namespace mi_test {
namespace {

TEST(SizeClassTest, EverySizeUpTo64KiBFitsItsClassAndNoSmallerOne) {
  ASSERT_EQ(probe_bin_size(probe_bin_last()), 64 * kKiB);
  for (size_t size = 0; size <= 64 * kKiB; size++) {
    size_t bin = probe_bin_of(size);
    ASSERT_GE(bin, 1u) << size;
    ASSERT_LE(bin, probe_bin_last()) << size;
    ASSERT_GE(probe_bin_size(bin), size);
    if (bin > 1) {
      ASSERT_LT(probe_bin_size(bin - 1), size) << "a smaller class would do for " << size;
    }
  }
}

TEST(SizeClassTest, Above128BytesABlockIsLessThanOneEighthLargerThanTheSize) {
  for (size_t size = 129; size <= 64 * kKiB; size++) {
    ASSERT_LT(8 * probe_bin_size(probe_bin_of(size)), 9 * size) << size;
  }
}

TEST(SizeClassTest, UpTo128BytesABlockIsAtMostOneGranuleLarger) {
  for (size_t size = 1; size <= 128; size++) {
    ASSERT_LT(probe_bin_size(probe_bin_of(size)) - size, size <= 8 ? 8u : 16u) << size;
  }
}

TEST(SizeClassTest, ClassesGrowAndEachServesItsOwnSize) {
  for (size_t bin = 1; bin <= probe_bin_last(); bin++) {
    EXPECT_EQ(probe_bin_of(probe_bin_size(bin)), bin);
    if (bin > 1) {
      EXPECT_GT(probe_bin_size(bin), probe_bin_size(bin - 1));
      EXPECT_EQ(probe_bin_of(probe_bin_size(bin - 1) + 1), bin);
    }
  }
}

TEST(SizeClassTest, BlocksOfSixteenBytesAndMoreAreAlignedToSixteen) {
  EXPECT_EQ(probe_bin_size(1), 8u);
  for (size_t bin = 2; bin <= probe_bin_last(); bin++) EXPECT_EQ(probe_bin_size(bin) % 16, 0u) << bin;
}

TEST(SizeClassTest, RoundingASizeUpToAPowerOfTwoGivesAClassThatIsAMultipleOfIt) {
  // Aligned allocation relies on this.
  for (size_t alignment = 16; alignment <= 64 * kKiB; alignment *= 2) {
    for (size_t size = alignment; size <= 64 * kKiB; size += alignment) {
      ASSERT_EQ(probe_bin_size(probe_bin_of(size)) % alignment, 0u) << size << " aligned to " << alignment;
    }
  }
}

TEST(SizeClassTest, TheDirectTableCoversExactlyTheClassesUpToOneKiB) {
  EXPECT_EQ(probe_bin_size(probe_bin_direct_last()), 1024u);
}

size_t NaiveFindRun(uint64_t word, size_t count, size_t align) {
  for (size_t at = 0; at + count <= 64; at += align) {
    bool all = true;
    for (size_t i = 0; i < count && all; i++) all = (word >> (at + i) & 1) != 0;
    if (all) return at;
  }
  return 64;
}

TEST(FindRunTest, AgreesWithTryingEveryPlaceOnRandomWordsCountsAndAlignments) {
  Random random(20);
  for (int round = 0; round < 300000; round++) {
    uint64_t word = random.Next();
    switch (random.Below(6)) {
      case 0:
        word &= random.Next() & random.Next();
        break;
      case 1:
        word |= random.Next();
        break;
      case 2:
        word |= random.Next() | random.Next() | random.Next();
        break;
      case 3:  // a hole or two in a full word
        word = ~(uint64_t{1} << random.Below(64)) & ~(uint64_t{1} << random.Below(64));
        break;
      case 4:  // one run
        word = probe_run_mask(random.Below(64), random.Between(1, 64));
        break;
      default:
        break;
    }
    size_t count = random.OneIn(3) ? random.Between(1, 64) : random.Between(1, 9);
    size_t align = size_t{1} << random.Below(7);
    ASSERT_EQ(probe_find_run(word, count, align), NaiveFindRun(word, count, align))
        << std::hex << word << std::dec << " count " << count << " align " << align;
  }
}

TEST(FindRunTest, KnowsTheEmptyAndTheFullWord) {
  for (size_t count = 1; count <= 64; count++) {
    for (size_t align = 1; align <= 64; align *= 2) {
      EXPECT_EQ(probe_find_run(0, count, align), 64u);
      EXPECT_EQ(probe_find_run(~uint64_t{0}, count, align), 0u);
    }
  }
}

TEST(RunMaskTest, HasExactlyTheBitsOfTheRun) {
  for (size_t at = 0; at < 64; at++) {
    for (size_t count = 1; at + count <= 64; count++) {
      uint64_t expected = 0;
      for (size_t i = 0; i < count; i++) expected |= uint64_t{1} << (at + i);
      ASSERT_EQ(probe_run_mask(at, count), expected) << at << ' ' << count;
    }
  }
}

TEST(BitTricksTest, HighestBitAndRoundingAgreeWithTheirDefinitions) {
  Random random(21);
  for (int round = 0; round < 10000; round++) {
    size_t x = (random.Next() >> random.Below(64)) | 1;
    size_t bit = probe_msb(x);
    ASSERT_EQ(x >> bit, 1u) << x;
    size_t unit = size_t{1} << random.Below(24), small = random.Below(size_t{1} << 40);
    size_t rounded = probe_round_up(small, unit);
    ASSERT_EQ(rounded % unit, 0u);
    ASSERT_GE(rounded, small);
    ASSERT_LT(rounded - small, unit);
  }
}

}  // namespace
}  // namespace mi_test
