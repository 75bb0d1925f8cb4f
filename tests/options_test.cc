// Options: their defaults, setting and getting, the environment (in a process of its own: it is read once), and
// messages through the registered output.
#include <limits.h>
#include <sys/mman.h>
#include <sys/prctl.h>
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

#if defined(MI_DEBUG) && MI_DEBUG > 0
constexpr long kShowErrors = 1;
#else
constexpr long kShowErrors = 0;
#endif

// Every option, in the order of the enumeration.
const struct Known {
  mi_option_t option;
  const char* name;
  long value;  // the default
  bool is_size;
  bool has_effect;
  const char* older_variable;
} kAll[] = {
    {mi_option_show_errors, "show_errors", kShowErrors, false, true, nullptr},
    {mi_option_show_stats, "show_stats", 0, false, true, nullptr},
    {mi_option_verbose, "verbose", 0, false, true, nullptr},
    {mi_option_arena_eager_commit, "arena_eager_commit", 2, false, false, "MIMALLOC_EAGER_REGION_COMMIT"},
    {mi_option_purge_decommits, "purge_decommits", 1, false, true, "MIMALLOC_RESET_DECOMMITS"},
    {mi_option_allow_large_os_pages, "allow_large_os_pages", 0, false, true, "MIMALLOC_LARGE_OS_PAGES"},
    {mi_option_reserve_huge_os_pages, "reserve_huge_os_pages", 0, false, true, nullptr},
    {mi_option_reserve_huge_os_pages_at, "reserve_huge_os_pages_at", -1, false, true, nullptr},
    {mi_option_reserve_os_memory, "reserve_os_memory", 0, true, true, nullptr},
    {mi_option_purge_delay, "purge_delay", 10, false, true, "MIMALLOC_RESET_DELAY"},
    {mi_option_use_numa_nodes, "use_numa_nodes", 0, false, true, nullptr},
    {mi_option_disallow_os_alloc, "disallow_os_alloc", 0, false, true, "MIMALLOC_LIMIT_OS_ALLOC"},
    {mi_option_os_tag, "os_tag", 100, false, false, nullptr},
    {mi_option_max_errors, "max_errors", 32, false, true, nullptr},
    {mi_option_max_warnings, "max_warnings", 32, false, true, nullptr},
    {mi_option_destroy_on_exit, "destroy_on_exit", 0, false, true, nullptr},
    {mi_option_arena_reserve, "arena_reserve", 0, true, true, nullptr},
    {mi_option_arena_purge_mult, "arena_purge_mult", 1, false, true, nullptr},
    {mi_option_disallow_arena_alloc, "disallow_arena_alloc", 0, false, false, nullptr},
    {mi_option_retry_on_oom, "retry_on_oom", 400, false, false, nullptr},
    {mi_option_visit_abandoned, "visit_abandoned", 0, false, false, nullptr},
    {mi_option_guarded_min, "guarded_min", 0, false, true, nullptr},
    {mi_option_guarded_max, "guarded_max", 1024 * 1024 * 1024, false, true, nullptr},
    {mi_option_guarded_precise, "guarded_precise", 0, false, true, nullptr},
    {mi_option_guarded_sample_rate, "guarded_sample_rate", 0, false, true, nullptr},
    {mi_option_guarded_sample_seed, "guarded_sample_seed", 0, false, true, nullptr},
    {mi_option_generic_collect, "generic_collect", 10000, false, false, nullptr},
    {mi_option_page_reclaim_on_free, "page_reclaim_on_free", 0, false, false, nullptr},
    {mi_option_page_full_retain, "page_full_retain", 2, false, false, nullptr},
    {mi_option_page_max_candidates, "page_max_candidates", 4, false, false, nullptr},
    {mi_option_max_vabits, "max_vabits", 0, false, false, nullptr},
    {mi_option_pagemap_commit, "pagemap_commit", 0, false, false, nullptr},
    {mi_option_page_commit_on_demand, "page_commit_on_demand", 0, false, false, nullptr},
    {mi_option_page_max_reclaim, "page_max_reclaim", -1, false, false, nullptr},
    {mi_option_page_cross_thread_max_reclaim, "page_cross_thread_max_reclaim", 32, false, false, nullptr},
    {mi_option_allow_thp, "allow_thp", 1, false, true, nullptr},
    {mi_option_minimal_purge_size, "minimal_purge_size", 0, true, true, nullptr},
    {mi_option_arena_max_object_size, "arena_max_object_size", 2 * 1024 * 1024, true, false, nullptr},
    {mi_option_arena_is_numa_local, "arena_is_numa_local", 0, false, false, nullptr},
    {mi_option_eager_commit, "eager_commit", 1, false, false, nullptr},
    {mi_option_eager_commit_delay, "eager_commit_delay", 1, false, false, nullptr},
    {mi_option_abandoned_page_purge, "abandoned_page_purge", 0, false, false, nullptr},
    {mi_option_max_segment_reclaim, "max_segment_reclaim", 10, false, false, nullptr},
    {mi_option_purge_extend_delay, "purge_extend_delay", 1, false, false, nullptr},
    {mi_option_abandoned_reclaim_on_free, "abandoned_reclaim_on_free", 0, false, false, nullptr},
    {mi_option_target_segments_per_thread, "target_segments_per_thread", 0, false, false, nullptr},
    {mi_option_report_survivors, "report_survivors", 0, false, true, nullptr},
    {mi_option_table_on_signal, "table_on_signal", 0, false, true, nullptr},
    {mi_option_guarded_before, "guarded_before", 0, false, true, nullptr},
    {mi_option_guarded_quarantine, "guarded_quarantine", 256, false, true, nullptr},
    {mi_option_guarded_report, "guarded_report", 1, false, true, nullptr},
};

std::string VariableOf(const Known& known) {
  std::string variable = "MIMALLOC_";
  for (const char* c = known.name; *c != 0; c++) variable += static_cast<char>(toupper(*c));
  return variable;
}

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
  for (const Known& known : kAll) {
    printf("option %d = %ld, size %zu;\n", known.option, mi_option_get(known.option), mi_option_get_size(known.option));
  }
}

TEST(EnvironmentTest, WithoutVariablesTheDocumentedDefaultsHold) {
  Outcome outcome = RunWith({});
  for (const Known& known : kAll) EXPECT_EQ(outcome.value[known.option], known.value) << known.name;
  EXPECT_EQ(outcome.text.find("mimalloc"), std::string::npos) << outcome.text;
}

TEST(EnvironmentTest, EveryOptionIsReadUnderItsName) {
  std::vector<std::string> variables;
  for (const Known& known : kAll) {
    if (known.option == mi_option_verbose || known.option == mi_option_disallow_os_alloc) continue;
    variables.push_back(VariableOf(known) + (known.is_size ? "=640K" : known.value == 0 ? "=1" : "=0"));
  }
  Outcome outcome = RunWith(variables);
  for (const Known& known : kAll) {
    if (known.option == mi_option_verbose || known.option == mi_option_disallow_os_alloc) continue;
    EXPECT_EQ(outcome.value[known.option], known.is_size ? 640 : known.value == 0 ? 1 : 0) << known.name;
    EXPECT_EQ(outcome.size[known.option], known.is_size ? 640 * kKiB : known.value == 0 ? 1 : 0) << known.name;
  }
  EXPECT_EQ(RunWith({"MIMALLOC_VERBOSE=1"}).value[mi_option_verbose], 1);
  EXPECT_EQ(RunWith({"MIMALLOC_DISALLOW_OS_ALLOC=1"}).value[mi_option_disallow_os_alloc], 1);
}

TEST(EnvironmentTest, OlderNamesAreReadWhereThePresentOneIsNotSet) {
  for (const Known& known : kAll) {
    if (known.older_variable == nullptr || known.option == mi_option_disallow_os_alloc) continue;
    EXPECT_EQ(RunWith({std::string(known.older_variable) + "=5"}).value[known.option], 5) << known.name;
    EXPECT_EQ(RunWith({std::string(known.older_variable) + "=5", VariableOf(known) + "=6"}).value[known.option], 6)
        << known.name;
  }
  EXPECT_EQ(RunWith({"MIMALLOC_LIMIT_OS_ALLOC=1"}).value[mi_option_disallow_os_alloc], 1);
}

TEST(EnvironmentTest, VerbosePrintsTheOptionsAtTheStart) {
  Outcome outcome = RunWith({"MIMALLOC_VERBOSE=1", "MIMALLOC_PURGE_DELAY=321"});
  EXPECT_NE(outcome.text.find("option 'purge_delay': 321"), std::string::npos) << outcome.text;
}

TEST(EnvironmentTest, MaxWarningsLimitsTheMessagesOfOptionsThatAreNotUnderstood) {
  const std::vector<std::string> wrong = {"MIMALLOC_PURGE_DELAY=x", "MIMALLOC_OS_TAG=x", "MIMALLOC_ALLOW_THP=x"};
  for (int max : {0, 1, 2, 32}) {
    std::vector<std::string> variables = wrong;
    variables.push_back("MIMALLOC_MAX_WARNINGS=" + std::to_string(max));
    Outcome outcome = RunWith(variables);
    int warnings = 0;
    for (size_t at = 0; (at = outcome.text.find("warning", at)) != std::string::npos; at++) warnings++;
    EXPECT_EQ(warnings, std::min(max, 3)) << outcome.text;
  }
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
    for (const Known& known : kAll) saved_.push_back(mi_option_get(known.option));
  }
  void TearDown() override {
    for (size_t i = 0; i < saved_.size(); i++) mi_option_set(kAll[i].option, saved_[i]);
  }
  std::vector<long> saved_;
};

TEST_F(OptionsTest, WhatIsSetIsWhatOneGets) {
  for (const Known& known : kAll) {
    for (long value : {0L, 1L, 17L, -1L}) {
      mi_option_set(known.option, value);
      EXPECT_EQ(mi_option_get(known.option), value);
      EXPECT_EQ(mi_option_is_enabled(known.option), value != 0);
    }
  }
}

TEST_F(OptionsTest, TheEnumerationHasAllOfThemInTheirOrder) {
  ASSERT_EQ(sizeof(kAll) / sizeof(kAll[0]), static_cast<size_t>(_mi_option_last));
  for (int i = 0; i < _mi_option_last; i++) EXPECT_EQ(kAll[i].option, i) << kAll[i].name;
  EXPECT_EQ(mi_option_large_os_pages, mi_option_allow_large_os_pages);
  EXPECT_EQ(mi_option_eager_region_commit, mi_option_arena_eager_commit);
  EXPECT_EQ(mi_option_reset_decommits, mi_option_purge_decommits);
  EXPECT_EQ(mi_option_reset_delay, mi_option_purge_delay);
  EXPECT_EQ(mi_option_limit_os_alloc, mi_option_disallow_os_alloc);
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
  mi_option_set(mi_option_arena_reserve, LONG_MAX);
  EXPECT_EQ(mi_option_get_size(mi_option_arena_reserve), SIZE_MAX) << "what does not fit is as much as fits";
  mi_option_set(mi_option_arena_reserve, -5);
  EXPECT_EQ(mi_option_get_size(mi_option_arena_reserve), 0u);
  mi_option_set(mi_option_max_errors, 7);
  EXPECT_EQ(mi_option_get_size(mi_option_max_errors), 7u);
}

// One that is reported as EINVAL; in the secure build a wrong free would end the program.
void MakeError() {
  int on_stack = 0;
  if (kSecure) {
    EXPECT_EQ(mi_malloc_aligned(10, Opaque(size_t{24})), nullptr);
  } else {
    mi_free(Opaque(&on_stack));
  }
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
              ErrorRecorder errors;
              mi_option_set(mi_option_max_errors, 3);
              for (int i = 0; i < 10; i++) MakeError();
              if (errors.count(EINVAL) != 10) return 1;
              std::string text = errors.text();
              int lines = 0;
              for (char c : text) lines += c == '\n';
              return lines == 3 ? 0 : 2;
            }),
            0);
}

TEST_F(OptionsTest, ErrorsAreSilentUnlessTheyAreToBeShown) {
  ErrorRecorder errors;
  mi_option_set(mi_option_show_errors, 0);
  mi_option_set(mi_option_verbose, 0);
  MakeError();
  EXPECT_EQ(errors.count(EINVAL), 1);
  EXPECT_EQ(errors.text(), "");
  mi_option_set(mi_option_show_errors, 1);
  MakeError();
  EXPECT_NE(errors.text(), "");
}

// The line of an option in what is printed.
std::string LineOf(const std::string& text, const Known& known) {
  const size_t at = text.find(std::string("option '") + known.name + "'");
  return at == std::string::npos ? "" : text.substr(at, text.find('\n', at) - at);
}

TEST_F(OptionsTest, PrintNamesEveryOptionAndWhetherItHasAnEffect) {
  ErrorRecorder errors;
  mi_options_print();
  std::string text;
  mi_options_print_out([](const char* message, void* arg) { static_cast<std::string*>(arg)->append(message); }, &text);
  EXPECT_EQ(text, errors.text()) << "the registered output and a given one get the same";
  for (const Known& known : kAll) {
    const std::string line = LineOf(text, known);
    EXPECT_NE(line.find(std::to_string(mi_option_get(known.option))), std::string::npos) << known.name << ": " << line;
    EXPECT_EQ(line.find("(no effect)") == std::string::npos, known.has_effect) << line;
    EXPECT_EQ(line.find("KiB") != std::string::npos, known.is_size) << line;
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
  MakeError();
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

// How much of [p, p + size) is in memory, in bytes.
size_t Resident(const void* p, size_t size) {
  const uintptr_t start = reinterpret_cast<uintptr_t>(p) & ~uintptr_t{4095};
  std::vector<unsigned char> pages(size / 4096);
  if (mincore(reinterpret_cast<void*>(start), pages.size() * 4096, pages.data()) != 0) return SIZE_MAX;
  return static_cast<size_t>(std::count_if(pages.begin(), pages.end(), [](unsigned char c) { return c & 1; })) * 4096;
}

TEST(OptionsEffectTest, ADelayTimesZeroPurgesAtOnceAndALongOneNotYet) {
  const struct {
    long delay, times;
    bool purged;
  } cases[] = {{0, 1, true},   {1000000, 0, true}, {1000000, 1, false}, {LONG_MAX / 2 + 1, 4, false},
               {-1, 0, false}, {1000000, -5, true}};
  for (const auto& c : cases) {
    EXPECT_EQ(InChild([&c] {
                mi_option_set(mi_option_purge_delay, c.delay);
                mi_option_set(mi_option_arena_purge_mult, c.times);
                void* kept = mi_malloc(kMiB);
                void* p = mi_malloc(kMiB);
                memset(p, 1, kMiB);
                if (Resident(p, kMiB) < kMiB - 4096) return 1;
                mi_free(Opaque(p));
                const size_t rest = Resident(p, kMiB);
                mi_free(kept);
                return (rest == 0) == c.purged ? 0 : 2;
              }),
              0)
        << c.delay << " times " << c.times;
  }
}

TEST(OptionsEffectTest, FreeRunsBelowTheMinimalPurgeSizeStay) {
  for (long minimal : {0L, 1024L}) {
    EXPECT_EQ(InChild([minimal] {
                mi_option_set(mi_option_purge_delay, 0);
                mi_option_set(mi_option_minimal_purge_size, minimal);
                // Neighbours in one segment: some of 256 KiB that are freed apart, and a run of them.
                char* blocks[12];
                const size_t size = 256 * kKiB - (kSecure ? 4 * kKiB : 0);  // with a guard behind it there
                for (char*& p : blocks) {
                  p = static_cast<char*>(mi_malloc(size));
                  memset(p, 1, size);
                }
                for (int i = 1; i < 12; i++) {
                  if (blocks[i] != blocks[0] + 256 * kKiB * i) return 10;
                }
                mi_free(blocks[1]);
                if ((Resident(blocks[1], 256 * kKiB) == 0) != (minimal == 0)) return 1;
                for (int i = 3; i <= 6; i++) mi_free(blocks[i]);
                if (Resident(blocks[3], kMiB) != 0) return 2;
                if ((Resident(blocks[1], 256 * kKiB) == 0) != (minimal == 0)) return 3;
                mi_collect(true);  // whatever the option says
                return Resident(blocks[1], 256 * kKiB) == 0 ? 0 : 4;
              }),
              0)
        << minimal;
  }
}

// The flags that the kernel keeps of the mapping around `p`.
std::string FlagsOf(const void* p) {
  FILE* file = fopen("/proc/self/smaps", "r");
  if (file == nullptr) return "";
  char line[512];
  bool here = false;
  std::string flags;
  while (fgets(line, sizeof(line), file) != nullptr) {
    uintptr_t from, to;
    if (sscanf(line, "%lx-%lx ", &from, &to) == 2) {
      here = reinterpret_cast<uintptr_t>(p) >= from && reinterpret_cast<uintptr_t>(p) < to;
    } else if (here && strncmp(line, "VmFlags:", 8) == 0) {
      flags = line + 8;
    }
  }
  fclose(file);
  return flags;
}

TEST(OptionsChildTest, DISABLED_ShowsItsHugePages) {
  void* p = mi_malloc(100);
  const std::string flags = FlagsOf(p);
  printf("huge %d, not huge %d, off %d;\n", flags.find(" hg") != std::string::npos,
         flags.find(" nh") != std::string::npos, prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0));
  mi_free(p);
}

TEST(OptionsChildTest, DISABLED_ShowsItsArenas) {
  mi_free(mi_malloc(10));
  mi_arenas_print();
}

TEST(OptionsEffectTest, MemoryIsReservedAtTheStart) {
  const std::string text = RunTest("DISABLED_ShowsItsArenas", {"MIMALLOC_RESERVE_OS_MEMORY=128M"}).text;
  // 32 segments of 4 MiB, and one for the arena's header.
  EXPECT_NE(text.find("arena 0 at"), std::string::npos) << text;
  EXPECT_NE(text.find("33 segments of 4 MiB, 33 accessible"), std::string::npos) << text;
}

TEST(OptionsEffectTest, HugePagesAreReservedAtTheStartOrItIsSaidThatThereAreNone) {
  for (const char* node : {"-1", "0"}) {
    const std::string text =
        RunTest("DISABLED_ShowsItsArenas", {"MIMALLOC_RESERVE_HUGE_OS_PAGES=1", "MIMALLOC_SHOW_ERRORS=1",
                                            std::string("MIMALLOC_RESERVE_HUGE_OS_PAGES_AT=") + node})
            .text;
    EXPECT_NE(text.find("arena 0 at"), std::string::npos) << text;
    const bool none = text.find("0 of 1 pages of 1 GiB") != std::string::npos;
    EXPECT_NE(none, text.find("pinned") != std::string::npos) << text;
  }
}

TEST(OptionsEffectTest, LargePagesAreAllowedWhereTheyAreWantedOnly) {
  EXPECT_NE(RunTest("DISABLED_ShowsItsHugePages", {}).text.find("huge 0, not huge 1, off 0;"), std::string::npos);
  EXPECT_NE(RunTest("DISABLED_ShowsItsHugePages", {"MIMALLOC_ALLOW_LARGE_OS_PAGES=1"})
                .text.find("huge 1, not huge 0, off 0;"),
            std::string::npos);
  EXPECT_NE(RunTest("DISABLED_ShowsItsHugePages", {"MIMALLOC_ALLOW_THP=0"}).text.find("off 1;"), std::string::npos);
}

}  // namespace
}  // namespace mi_test
