// mi/internal/options.c: what the environment's texts mean, to the table itself. Each text is read by a process of its
// own, because the environment is read once. And interned pairs of a callback and its argument.
#include <climits>
#include <cstdlib>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/internal/probe.h"
#include "tests/test_support.h"

namespace mi_test {
namespace {

constexpr long kRefused = LONG_MIN;

// What the option is in a process that starts with this text; kRefused if it stayed what it was and a message was
// printed. The parent must not have used the library.
long ReadAs(const char* variable, mi_option_t option, const std::string& text) {
  int ends[2];
  if (pipe(ends) != 0) return LONG_MIN + 1;
  int status = InChild([&] {
    close(ends[0]);
    setenv(variable, text.c_str(), 1);
    static bool complained;
    const long before = probe_option_raw(option);
    mi_register_output([](const char* msg, void*) { complained = strstr(msg, "environment variable") != nullptr; },
                       nullptr);
    mi_free(mi_malloc(1));
    long value = probe_option_raw(option);
    if (complained) value = value == before ? kRefused : LONG_MIN + 2;
    return write(ends[1], &value, sizeof(value)) == sizeof(value) ? 0 : 1;
  });
  long value = LONG_MIN + 3;
  if (status != 0 || read(ends[0], &value, sizeof(value)) != sizeof(value)) value = LONG_MIN + 4;
  close(ends[0]);
  close(ends[1]);
  return value;
}

long Size(const std::string& text) { return ReadAs("MIMALLOC_ARENA_RESERVE", mi_option_arena_reserve, text); }
long Number(const std::string& text) { return ReadAs("MIMALLOC_PURGE_DELAY", mi_option_purge_delay, text); }

constexpr long kMi = 1024, kGi = 1024 * 1024;  // in KiB

TEST(OptionTextTest, SizesAreKeptInKiBWhateverTheirUnit) {
  EXPECT_EQ(Size("64K"), 64);
  EXPECT_EQ(Size("64k"), 64);
  EXPECT_EQ(Size("64KB"), 64);
  EXPECT_EQ(Size("64KiB"), 64);
  EXPECT_EQ(Size("32M"), 32 * kMi);
  EXPECT_EQ(Size("32m"), 32 * kMi);
  EXPECT_EQ(Size("32MiB"), 32 * kMi);
  EXPECT_EQ(Size("1G"), kGi);
  EXPECT_EQ(Size("2GB"), 2 * kGi);
  EXPECT_EQ(Size("2gib"), 2 * kGi);
}

TEST(OptionTextTest, SizesWithoutAUnitAreBytesRoundedUp) {
  EXPECT_EQ(Size("65536"), 64);
  EXPECT_EQ(Size("65537"), 65);
  EXPECT_EQ(Size("0"), 0);
  EXPECT_EQ(Size("1"), 1);
}

TEST(OptionTextTest, GarbageIsRefusedWithAMessageAndChangesNothing) {
  for (const char* text : {"x", "64Q", "64KK", "64 K", "K", "-1", "-64K", "64Kx", "0x40", "12.5M", "64KiBi"}) {
    EXPECT_EQ(Size(text), kRefused) << text;
  }
  for (const char* text : {"x", "10ms", "1.5", "--1", "1e3", "yesno", "tru", "99999999999999999999"}) {
    EXPECT_EQ(Number(text), kRefused) << text;
  }
}

TEST(OptionTextTest, SizesThatDoNotFitAreRefused) {
  EXPECT_EQ(Size("99999999999999999999"), kRefused);
  EXPECT_EQ(Size("9223372036854775807G"), kRefused);
  EXPECT_EQ(Size("9007199254740992G"), kRefused);
}

TEST(OptionTextTest, NumbersMayBeNegativeAndWordsMeanOnAndOff) {
  EXPECT_EQ(Number("250"), 250);
  EXPECT_EQ(Number("-1"), -1);
  EXPECT_EQ(Number("0"), 0);
  for (const char* text : {"", "1", "yes", "YES", "on", "True"}) EXPECT_EQ(Number(text), 1) << text;
  for (const char* text : {"no", "OFF", "false"}) EXPECT_EQ(Number(text), 0) << text;
}

TEST(OptionTextTest, OtherVariablesAreNotRead) {
  EXPECT_EQ(ReadAs("MIMALLOC_PURGE_DELAYX", mi_option_purge_delay, "77"), 10);
  EXPECT_EQ(ReadAs("mimalloc_purge_delay", mi_option_purge_delay, "77"), 10);
}

void First() {}
void Second() {}

TEST(PairTest, TheSameFunctionAndArgumentGiveTheSamePair) {
  int a, b;
  const void* pair = probe_pair_intern(First, &a);
  ASSERT_NE(pair, nullptr);
  EXPECT_EQ(probe_pair_intern(First, &a), pair);
  EXPECT_NE(probe_pair_intern(First, &b), pair);
  EXPECT_NE(probe_pair_intern(Second, &a), pair);
  EXPECT_EQ(probe_pair_intern(First, &a), pair);
  EXPECT_EQ(probe_pair_intern(nullptr, &a), nullptr);
}

TEST(PairTest, ManyPairsAreKeptApart) {
  std::vector<char> arguments(2000);
  std::vector<const void*> pairs;
  for (char& argument : arguments) pairs.push_back(probe_pair_intern(First, &argument));
  for (size_t i = 0; i < arguments.size(); i++) {
    ASSERT_NE(pairs[i], nullptr);
    ASSERT_EQ(probe_pair_intern(First, &arguments[i]), pairs[i]);
  }
  std::sort(pairs.begin(), pairs.end());
  EXPECT_EQ(std::unique(pairs.begin(), pairs.end()), pairs.end());
}

}  // namespace
}  // namespace mi_test
