// Options: their defaults, setting and getting, the environment (in a process of its own: it is read once), and
// messages through the registered output.
#include <limits.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstddef>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "mi/mimalloc.h"
#include "tests/test_support.h"

namespace mi_test {
namespace {

const mi_option_t kAll[] = {
    mi_option_show_errors,       mi_option_show_stats,      mi_option_verbose,         mi_option_max_errors,
    mi_option_max_warnings,      mi_option_purge_delay,     mi_option_purge_decommits, mi_option_arena_reserve,
    mi_option_disallow_os_alloc, mi_option_destroy_on_exit, mi_option_generic_collect,
};

// What a program sees that was started with these environment variables.
struct Outcome {
  std::map<int, long> value;
  std::map<int, size_t> size;
  std::string text;  // all of its output
  int status = -1;
};

// Runs a test of OptionsChildTest in a fresh process.
Outcome RunTest(const char* test, const std::vector<std::string>& environment) {
  Outcome outcome;
  std::string filter = std::string("--gtest_filter=OptionsChildTest.") + test;
  int ends[2];
  if (pipe(ends) != 0) return outcome;
  pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], 1);
    dup2(ends[1], 2);
    close(ends[0]);
    close(ends[1]);
    std::vector<char*> variables;
    for (const std::string& variable : environment) variables.push_back(const_cast<char*>(variable.c_str()));
    variables.push_back(nullptr);
    char name[] = "options_test", disabled[] = "--gtest_also_run_disabled_tests";
    char* arguments[] = {name, filter.data(), disabled, nullptr};
    execve("/proc/self/exe", arguments, variables.data());
    _exit(127);
  }
  close(ends[1]);
  char buffer[4096];
  for (ssize_t n; (n = read(ends[0], buffer, sizeof(buffer))) > 0;) outcome.text.append(buffer, n);
  close(ends[0]);
  waitpid(child, &outcome.status, 0);
  return outcome;
}

Outcome RunWith(const std::vector<std::string>& environment) {
  Outcome outcome = RunTest("DISABLED_PrintsItsOptions", environment);
  for (size_t at = outcome.text.find("option "); at != std::string::npos; at = outcome.text.find("option ", at + 1)) {
    int option;
    long value;
    size_t size;
    if (sscanf(outcome.text.c_str() + at, "option %d = %ld, size %zu;", &option, &value, &size) == 3) {
      outcome.value[option] = value;
      outcome.size[option] = size;
    }
  }
  EXPECT_EQ(outcome.status, 0) << outcome.text;
  EXPECT_EQ(outcome.value.size(), sizeof(kAll) / sizeof(kAll[0])) << outcome.text;
  return outcome;
}

// Not a test by itself: what RunWith starts.
TEST(OptionsChildTest, DISABLED_PrintsItsOptions) {
  mi_free(mi_malloc(10));
  for (mi_option_t option : kAll) {
    printf("option %d = %ld, size %zu;\n", option, mi_option_get(option), mi_option_get_size(option));
  }
}

TEST(EnvironmentTest, WithoutVariablesTheDocumentedDefaultsHold) {
  Outcome outcome = RunWith({});
  EXPECT_EQ(outcome.value[mi_option_show_stats], 0);
  EXPECT_EQ(outcome.value[mi_option_verbose], 0);
  EXPECT_EQ(outcome.value[mi_option_max_errors], 32);
  EXPECT_EQ(outcome.value[mi_option_max_warnings], 32);
  EXPECT_EQ(outcome.value[mi_option_purge_delay], 10);
  EXPECT_EQ(outcome.value[mi_option_purge_decommits], 1);
  EXPECT_EQ(outcome.value[mi_option_arena_reserve], 0);
  EXPECT_EQ(outcome.value[mi_option_disallow_os_alloc], 0);
  EXPECT_EQ(outcome.value[mi_option_destroy_on_exit], 0);
  EXPECT_EQ(outcome.value[mi_option_generic_collect], 10000);
  EXPECT_EQ(outcome.text.find("mimalloc:"), std::string::npos) << outcome.text;
}

TEST(EnvironmentTest, EveryOptionIsReadUnderItsName) {
  Outcome outcome = RunWith({"MIMALLOC_SHOW_ERRORS=1", "MIMALLOC_SHOW_STATS=0", "MIMALLOC_VERBOSE=0",
                             "MIMALLOC_MAX_ERRORS=7", "MIMALLOC_MAX_WARNINGS=8", "MIMALLOC_PURGE_DELAY=25",
                             "MIMALLOC_PURGE_DECOMMITS=0", "MIMALLOC_ARENA_RESERVE=64M", "MIMALLOC_DISALLOW_OS_ALLOC=0",
                             "MIMALLOC_DESTROY_ON_EXIT=1", "MIMALLOC_GENERIC_COLLECT=500"});
  EXPECT_EQ(outcome.value[mi_option_show_errors], 1);
  EXPECT_EQ(outcome.value[mi_option_max_errors], 7);
  EXPECT_EQ(outcome.value[mi_option_max_warnings], 8);
  EXPECT_EQ(outcome.value[mi_option_purge_delay], 25);
  EXPECT_EQ(outcome.value[mi_option_purge_decommits], 0);
  EXPECT_EQ(outcome.value[mi_option_arena_reserve], 64 * 1024);
  EXPECT_EQ(outcome.value[mi_option_destroy_on_exit], 1);
  EXPECT_EQ(outcome.value[mi_option_generic_collect], 500);
}

TEST(EnvironmentTest, SizesTakeTheSuffixesKMAndGAndAreKeptInKib) {
  const struct {
    const char* text;
    long kib;
  } cases[] = {{"512K", 512}, {"64M", 64 * 1024}, {"1G", 1024 * 1024}, {"3G", 3 * 1024 * 1024}, {"0", 0}};
  for (const auto& c : cases) {
    Outcome outcome = RunWith({std::string("MIMALLOC_ARENA_RESERVE=") + c.text});
    EXPECT_EQ(outcome.value[mi_option_arena_reserve], c.kib) << c.text;
    EXPECT_EQ(outcome.size[mi_option_arena_reserve], static_cast<size_t>(c.kib) * 1024) << c.text;
  }
}

TEST(EnvironmentTest, NegativeNumbersAreTakenWhereTheyMeanSomething) {
  Outcome outcome = RunWith({"MIMALLOC_PURGE_DELAY=-1", "MIMALLOC_MAX_ERRORS=-1"});
  EXPECT_EQ(outcome.value[mi_option_purge_delay], -1);
  EXPECT_EQ(outcome.value[mi_option_max_errors], -1);
}

TEST(EnvironmentTest, WhatIsNoNumberIsReportedByNameAndTheDefaultStays) {
  for (const char* value : {"banana", "12monkeys", "-", "99999999999999999999999", "1 2", "0x10"}) {
    Outcome outcome = RunWith({std::string("MIMALLOC_PURGE_DELAY=") + value});
    EXPECT_EQ(outcome.value[mi_option_purge_delay], 10) << value;
    EXPECT_NE(outcome.text.find("MIMALLOC_PURGE_DELAY"), std::string::npos) << value << ": " << outcome.text;
  }
  for (const char* value : {"-1", "-64M", "12Q", "M", "64MM", "99999999999999G"}) {
    Outcome outcome = RunWith({std::string("MIMALLOC_ARENA_RESERVE=") + value});
    EXPECT_EQ(outcome.value[mi_option_arena_reserve], 0) << value;
    EXPECT_NE(outcome.text.find("MIMALLOC_ARENA_RESERVE"), std::string::npos) << value << ": " << outcome.text;
  }
}

TEST(EnvironmentTest, AVariableOfAnUnknownOptionIsIgnored) {
  Outcome outcome = RunWith({"MIMALLOC_NO_SUCH_OPTION=1", "MIMALLOC_=2", "MIMALLOC_PURGE_DELAYED=3"});
  EXPECT_EQ(outcome.value[mi_option_purge_delay], 10);
}

// ---- in this process ------------------------------------------------------------------------------------

class OptionsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    for (mi_option_t option : kAll) saved_.push_back(mi_option_get(option));
  }
  void TearDown() override {
    for (size_t i = 0; i < saved_.size(); i++) mi_option_set(kAll[i], saved_[i]);
  }
  std::vector<long> saved_;
};

TEST_F(OptionsTest, WhatIsSetIsWhatOneGets) {
  for (mi_option_t option : kAll) {
    for (long value : {0L, 1L, 17L, -1L}) {
      if (option == mi_option_arena_reserve && value < 0) continue;
      mi_option_set(option, value);
      EXPECT_EQ(mi_option_get(option), value);
      EXPECT_EQ(mi_option_is_enabled(option), value != 0);
    }
  }
}

TEST_F(OptionsTest, EnableAndDisableSetOneAndZero) {
  mi_option_enable(mi_option_destroy_on_exit);
  EXPECT_EQ(mi_option_get(mi_option_destroy_on_exit), 1);
  mi_option_disable(mi_option_destroy_on_exit);
  EXPECT_EQ(mi_option_get(mi_option_destroy_on_exit), 0);
  mi_option_set_enabled(mi_option_destroy_on_exit, true);
  EXPECT_TRUE(mi_option_is_enabled(mi_option_destroy_on_exit));
  mi_option_set_enabled(mi_option_destroy_on_exit, false);
  EXPECT_FALSE(mi_option_is_enabled(mi_option_destroy_on_exit));
}

TEST_F(OptionsTest, ClampCutsAtBothEnds) {
  mi_option_set(mi_option_purge_delay, 50);
  EXPECT_EQ(mi_option_get_clamp(mi_option_purge_delay, 0, 100), 50);
  EXPECT_EQ(mi_option_get_clamp(mi_option_purge_delay, 60, 100), 60);
  EXPECT_EQ(mi_option_get_clamp(mi_option_purge_delay, 0, 40), 40);
}

TEST_F(OptionsTest, GetSizeIsInBytes) {
  mi_option_set(mi_option_arena_reserve, 2048);
  EXPECT_EQ(mi_option_get_size(mi_option_arena_reserve), 2 * kMiB);
}

TEST_F(OptionsTest, AnOptionThatDoesNotExistGivesZeroAndAMessage) {
  for (int option : {-1, static_cast<int>(_mi_option_last), 1000, INT_MAX, INT_MIN}) {
    ErrorRecorder errors;
    EXPECT_EQ(mi_option_get(static_cast<mi_option_t>(Opaque(option))), 0);
    EXPECT_FALSE(errors.text().empty()) << option;
    mi_option_set(static_cast<mi_option_t>(Opaque(option)), 5);
    mi_option_set_default(static_cast<mi_option_t>(Opaque(option)), 5);
    EXPECT_FALSE(mi_option_is_enabled(static_cast<mi_option_t>(Opaque(option))));
    EXPECT_EQ(mi_option_get_size(static_cast<mi_option_t>(Opaque(option))), 0u);
  }
}

TEST(OptionsChildTest, DISABLED_SetsDefaults) {
  EXPECT_EQ(mi_option_get(mi_option_max_warnings), 32);
  mi_option_set_default(mi_option_max_warnings, 40);
  EXPECT_EQ(mi_option_get(mi_option_max_warnings), 40);
  mi_option_set(mi_option_max_warnings, 50);
  mi_option_set_default(mi_option_max_warnings, 60);
  EXPECT_EQ(mi_option_get(mi_option_max_warnings), 50) << "the program's value was lost";
  mi_option_set_enabled_default(mi_option_destroy_on_exit, true);
  EXPECT_TRUE(mi_option_is_enabled(mi_option_destroy_on_exit));
  mi_option_set_enabled(mi_option_destroy_on_exit, false);
  mi_option_set_enabled_default(mi_option_destroy_on_exit, true);
  EXPECT_FALSE(mi_option_is_enabled(mi_option_destroy_on_exit));
  EXPECT_EQ(mi_option_get(mi_option_purge_delay), 77);
  mi_option_set_default(mi_option_purge_delay, 5);
  EXPECT_EQ(mi_option_get(mi_option_purge_delay), 77) << "the environment's value was lost";
}

TEST(OptionsDefaultTest, SetDefaultYieldsToWhatTheProgramOrTheEnvironmentSet) {
  Outcome outcome = RunTest("DISABLED_SetsDefaults", {"MIMALLOC_PURGE_DELAY=77"});
  EXPECT_EQ(outcome.status, 0) << outcome.text;
}

TEST_F(OptionsTest, MaxErrorsLimitsTheMessagesButNotTheCallbacks) {
  // The count of messages is the process's: in a process of its own.
  EXPECT_EQ(InChild([] {
              int on_stack = 0;
              ErrorRecorder errors;
              mi_option_set(mi_option_max_errors, 3);
              for (int i = 0; i < 10; i++) mi_free(Opaque(&on_stack));
              if (errors.count(EINVAL) != 10) return 1;
              std::string text = errors.text();
              int lines = 0;
              for (char c : text) lines += c == '\n';
              return lines == 3 ? 0 : 2;
            }),
            0);
}

TEST_F(OptionsTest, ErrorsAreSilentUnlessTheyAreToBeShown) {
  int on_stack = 0;
  ErrorRecorder errors;
  mi_option_set(mi_option_show_errors, 0);
  mi_option_set(mi_option_verbose, 0);
  mi_free(Opaque(&on_stack));
  EXPECT_EQ(errors.count(EINVAL), 1);
  EXPECT_EQ(errors.text(), "");
  mi_option_set(mi_option_show_errors, 1);
  mi_free(Opaque(&on_stack));
  EXPECT_NE(errors.text(), "");
}

TEST_F(OptionsTest, PrintNamesEveryOptionThroughTheRegisteredOutput) {
  ErrorRecorder errors;
  mi_options_print();
  for (const char* name :
       {"show_errors", "show_stats", "verbose", "max_errors", "max_warnings", "purge_delay", "purge_decommits",
        "arena_reserve", "disallow_os_alloc", "destroy_on_exit", "generic_collect"}) {
    EXPECT_NE(errors.text().find(name), std::string::npos) << name << " in:\n" << errors.text();
  }
}

TEST_F(OptionsTest, OutputGetsItsArgumentAndStopsWhenTakenAway) {
  static int expected_argument;
  static int calls, wrong;
  calls = wrong = 0;
  mi_register_output(
      [](const char* message, void* arg) {
        calls++;
        wrong += arg != &expected_argument || message == nullptr;
      },
      &expected_argument);
  mi_options_print();
  mi_register_output(nullptr, nullptr);
  EXPECT_GT(calls, 0);
  EXPECT_EQ(wrong, 0);
}

TEST_F(OptionsTest, ErrorGetsItsArgument) {
  static int expected_argument;
  static int calls, wrong;
  calls = wrong = 0;
  mi_register_error(
      [](int err, void* arg) {
        calls++;
        wrong += arg != &expected_argument || err != EINVAL;
      },
      &expected_argument);
  mi_option_set(mi_option_show_errors, 0);
  int on_stack = 0;
  mi_free(Opaque(&on_stack));
  mi_register_error(nullptr, nullptr);
  EXPECT_EQ(calls, 1);
  EXPECT_EQ(wrong, 0);
}

TEST(OptionsEffectTest, DisallowingSystemMemoryMakesAllocationFailAndWorkAgainAfterFrees) {
  EXPECT_EQ(InChild([] {
              mi_free(mi_malloc(100));
              mi_option_set(mi_option_disallow_os_alloc, 1);
              static void* blocks[100000];
              size_t n = 0;
              while (n < 100000) {
                errno = 0;
                void* block = mi_malloc(60 * kMiB);
                if (block == nullptr) break;
                blocks[n++] = block;
              }
              if (n == 100000) return 1;
              if (errno != ENOMEM) return 2;
              if (n == 0) return 3;
              for (size_t i = 0; i < n; i++) mi_free(blocks[i]);
              void* block = mi_malloc(60 * kMiB);
              if (block == nullptr) return 4;
              memset(block, 1, 60 * kMiB);
              mi_free(block);
              return 0;
            }),
            0);
}

}  // namespace
}  // namespace mi_test
