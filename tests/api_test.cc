// The interface is complete: each function that mimalloc 2.x and 3.4 define has an address, in C and in C++, in both
// generations. api_table.inc checks their types when it is compiled.
#include <cstring>
#include <map>
#include <set>
#include <string>

#include "gtest/gtest.h"
#include "tests/api_table.h"

namespace mi_test {
namespace {

constexpr size_t kCount = 200;

using Table = std::map<std::string, void (*)()>;

Table Read(const mi_api_entry_t* (*table)(size_t*)) {
  size_t count = 0;
  const mi_api_entry_t* entries = table(&count);
  Table result;
  for (size_t i = 0; i < count; i++) {
    EXPECT_NE(entries[i].function, nullptr) << entries[i].name;
    EXPECT_TRUE(result.emplace(entries[i].name, entries[i].function).second) << entries[i].name << " is there twice";
  }
  return result;
}

const struct {
  const char* name;
  const mi_api_entry_t* (*current)(size_t*);
  const mi_api_entry_t* (*v2)(size_t*);
} kLanguages[] = {
    {"C11", mi_api_c11, mi_api_c11_v2},       {"C++11", mi_api_cxx11, mi_api_cxx11_v2},
    {"C++14", mi_api_cxx14, mi_api_cxx14_v2}, {"C++17", mi_api_cxx17, mi_api_cxx17_v2},
    {"C++20", mi_api_cxx20, mi_api_cxx20_v2},
};

TEST(ApiTest, EveryFunctionHasAnAddressInEveryLanguageAndGeneration) {
  for (const auto& language : kLanguages) {
    EXPECT_EQ(Read(language.current).size(), kCount) << language.name;
    EXPECT_EQ(Read(language.v2).size(), kCount) << language.name << ", 2.x";
  }
}

TEST(ApiTest, EveryFunctionIsOneOfTheLibraryWhateverTheLanguage) {
  const Table expected = Read(mi_api_c11);
  for (const auto& language : kLanguages) EXPECT_EQ(Read(language.current), expected) << language.name;
}

TEST(ApiTest, TwoXCallsTheSameFunctionsButForThoseThatTakeAnArenasNumber) {
  const std::set<std::string> by_number = {
      "mi_heap_new_ex",          "mi_heap_new_in_arena",   "mi_arena_area",    "mi_arena_contains",
      "mi_reserve_os_memory_ex", "mi_manage_os_memory_ex", "mi_manage_memory", "mi_reserve_huge_os_pages_at_ex"};
  const Table expected = Read(mi_api_c11);
  for (const auto& language : kLanguages) {
    std::set<std::string> differ;
    for (const auto& [name, function] : Read(language.v2)) {
      if (function != expected.at(name)) differ.insert(name);
    }
    EXPECT_EQ(differ, by_number) << language.name;
  }
}

}  // namespace
}  // namespace mi_test
