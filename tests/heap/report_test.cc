// The survivors report: what is said of blocks that are alive when a heap is destroyed, or when the process ends.
#include <map>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/test_support.h"

namespace mi_test {
namespace {

mi_heap_t* NewReporting(const char* name) {
  mi_heap_config_t config = {};
  config.size = sizeof(config);
  config.name = name;
  config.flags = MI_HEAP_REPORT_SURVIVORS;
  return mi_heap_new_with(&config);
}

// Keeps what the callback is given, without allocating in it.
class Survivors {
 public:
  Survivors() {
    Get() = State();
    mi_register_survivors(&OnSurvivors, nullptr);
  }
  ~Survivors() { mi_register_survivors(nullptr, nullptr); }
  int calls() const { return Get().calls; }
  size_t blocks() const { return Get().blocks; }
  size_t bytes() const { return Get().bytes; }
  bool at_exit() const { return Get().at_exit; }
  std::string name() const { return Get().name; }
  std::map<size_t, size_t> sizes() const {
    std::map<size_t, size_t> sizes;
    for (size_t i = 0; i < Get().size_count; i++) sizes[Get().sizes[i].size] = Get().sizes[i].blocks;
    return sizes;
  }
  bool sorted() const {
    for (size_t i = 1; i < Get().size_count; i++) {
      if (Get().sizes[i - 1].size >= Get().sizes[i].size) return false;
    }
    return true;
  }

 private:
  static constexpr size_t kMost = 5000;
  struct State {
    int calls = 0;
    size_t blocks = 0, bytes = 0, size_count = 0;
    bool at_exit = true;
    char name[64] = "";
    mi_survivor_size_t sizes[kMost] = {};
  };
  static State& Get() {
    static State state;
    return state;
  }
  static void OnSurvivors(const mi_survivors_t* survivors, void*) {
    State& s = Get();
    s.calls++;
    s.blocks = survivors->blocks;
    s.bytes = survivors->bytes;
    s.at_exit = survivors->at_exit;
    strncpy(s.name, survivors->name, sizeof(s.name) - 1);
    s.size_count = std::min(survivors->size_count, kMost);
    memcpy(s.sizes, survivors->sizes, s.size_count * sizeof(s.sizes[0]));
  }
};

TEST(SurvivorsTest, DestroyReportsWhatIsAliveBySize) {
  Survivors survivors;
  mi_heap_t* heap = NewReporting("request");
  ASSERT_NE(heap, nullptr);
  std::map<size_t, size_t> expected;
  size_t bytes = 0, blocks = 0;
  auto keep = [&](size_t size) {
    void* p = mi_heap_malloc(heap, size);
    ASSERT_NE(p, nullptr);
    expected[mi_usable_size(p)]++;
    bytes += mi_usable_size(p);
    blocks++;
  };
  for (int i = 0; i < 3; i++) keep(48);
  for (size_t size : {16, 100, 3000, 100000, 5000000}) keep(size);
  for (int i = 0; i < 3000; i++) keep(64);
  for (int i = 0; i < 500; i++) mi_free(mi_heap_malloc(heap, 200));
  InThread([&] {  // of a thread that ended
    for (int i = 0; i < 2000; i++) keep(400);
  });
  mi_heap_t* other = mi_heap_new();
  void* merged = mi_heap_malloc(other, 1000);
  expected[mi_usable_size(merged)]++;
  bytes += mi_usable_size(merged);
  mi_heap_merge(other, heap);
  mi_heap_destroy(heap);
  EXPECT_EQ(survivors.calls(), 1);
  EXPECT_EQ(survivors.name(), "request");
  EXPECT_EQ(survivors.blocks(), blocks + 1);
  EXPECT_EQ(survivors.bytes(), bytes);
  EXPECT_EQ(survivors.sizes(), expected);
  EXPECT_TRUE(survivors.sorted());
  EXPECT_FALSE(survivors.at_exit());
}

TEST(SurvivorsTest, NothingIsReportedOfAnEmptyHeapADeletedOneOrOneThatDidNotAsk) {
  Survivors survivors;
  mi_heap_t* heap = NewReporting("empty");
  mi_free(mi_heap_malloc(heap, 100));
  mi_heap_destroy(heap);
  heap = NewReporting("deleted");
  void* p = mi_heap_malloc(heap, 100);
  mi_heap_delete(heap);
  mi_free(p);
  heap = NewReporting("reset");
  ASSERT_NE(mi_heap_malloc(heap, 100), nullptr);
  mi_heap_reset(heap);
  mi_heap_destroy(heap);
  heap = mi_heap_new();
  ASSERT_NE(mi_heap_malloc(heap, 100), nullptr);
  mi_heap_destroy(heap);
  EXPECT_EQ(survivors.calls(), 0);
}

TEST(SurvivorsTest, AHandleThatIsUsedAgainDoesNotReport) {
  Survivors survivors;
  for (int i = 0; i < 100; i++) mi_heap_destroy(NewReporting("first"));
  for (int i = 0; i < 100; i++) {
    mi_heap_t* heap = mi_heap_new();
    ASSERT_NE(mi_heap_malloc(heap, 10), nullptr);
    mi_heap_destroy(heap);
  }
  EXPECT_EQ(survivors.calls(), 0);
}

TEST(SurvivorsTest, ManySizesAreRoundedUpAndNoneIsLost) {
  Survivors survivors;
  mi_heap_t* heap = NewReporting("sizes");
  size_t blocks = 0;
  for (size_t size = 16; size <= 8000; size += 16, blocks++) ASSERT_NE(mi_heap_malloc(heap, size), nullptr);
  for (size_t size = 70000; size < 70000 + 3000 * 4096; size += 4096, blocks++) {
    ASSERT_NE(mi_heap_malloc(heap, size), nullptr);
  }
  mi_heap_destroy(heap);
  EXPECT_EQ(survivors.blocks(), blocks);
  size_t sum = 0;
  for (const auto& [size, count] : survivors.sizes()) sum += count;
  EXPECT_EQ(sum, blocks);
  EXPECT_LT(survivors.sizes().size(), 2500u);
  EXPECT_TRUE(survivors.sorted());
}

TEST(SurvivorsTest, WithoutACallbackItIsPrinted) {
  ErrorRecorder recorder;
  mi_heap_t* heap = NewReporting("printed");
  void* p = mi_heap_malloc(heap, 48);
  ASSERT_NE(p, nullptr);
  size_t size = mi_usable_size(p);
  ASSERT_NE(mi_heap_malloc(heap, 48), nullptr);
  mi_heap_destroy(heap);
  EXPECT_NE(
      recorder.text().find("(printed): 2 blocks, " + std::to_string(2 * size) + " bytes, alive when it is destroyed"),
      std::string::npos)
      << recorder.text();
  EXPECT_NE(recorder.text().find(" 2 of " + std::to_string(size) + " bytes"), std::string::npos) << recorder.text();
  EXPECT_EQ(recorder.total(), 0);
}

TEST(SurvivorsTest, TheCallbackMayFreeBlocksAndUseOtherHeapsButNotEndTheHeap) {
  ErrorRecorder recorder;
  static void* block;
  static mi_heap_t* other;
  other = mi_heap_new();
  mi_heap_t* heap = NewReporting("callback");
  block = mi_heap_malloc(heap, 100);
  ASSERT_NE(block, nullptr);
  mi_register_survivors(
      [](const mi_survivors_t* survivors, void*) {
        EXPECT_TRUE(mi_heap_contains(survivors->heap, block));
        mi_free(block);
        EXPECT_NE(mi_heap_malloc(other, 100), nullptr);
        mi_heap_destroy(survivors->heap);
      },
      nullptr);
  mi_heap_destroy(heap);
  mi_register_survivors(nullptr, nullptr);
  EXPECT_EQ(recorder.errors(), std::vector<int>{EINVAL});
  EXPECT_NE(recorder.text().find("may not end in its own callback"), std::string::npos) << recorder.text();
  mi_heap_destroy(other);
}

TEST(SurvivorsTest, AllHeapsReportWithTheOption) {
  EXPECT_EQ(InChild([] {
              Survivors survivors;
              mi_option_set(mi_option_report_survivors, 1);
              mi_collect(true);  // handles of former heaps
              mi_heap_t* heap = mi_heap_new();
              if (mi_heap_malloc(heap, 100) == nullptr) return 1;
              mi_heap_destroy(heap);
              return survivors.calls() == 1 && survivors.blocks() == 1 ? 0 : 2;
            }),
            0);
}

// --- at the end of the process ------------------------------------------------------------------------------------

// What a child that runs `body` and exits prints.
std::string Printed(void (*body)()) {
  int ends[2];
  if (pipe(ends) != 0) return "no pipe";
  fflush(stdout);
  pid_t child = fork();
  if (child == 0) {
    alarm(120);
    dup2(ends[1], 2);
    body();
    exit(0);
  }
  close(ends[1]);
  std::string text;
  char buffer[4096];
  for (ssize_t n; (n = read(ends[0], buffer, sizeof(buffer))) > 0;) text.append(buffer, static_cast<size_t>(n));
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_TRUE(WIFEXITED(status)) << status;
  return text;
}

TEST(SurvivorsTest, HeapsThatDidNotEndReportWhenTheProcessDoes) {
  std::string text = Printed([] {
    mi_heap_t* heap = NewReporting("leaked");
    for (int i = 0; i < 7; i++) (void)!mi_heap_malloc(heap, 64);
    (void)!mi_heap_malloc(heap, 300000);
    (void)!mi_heap_malloc(mi_heap_new(), 64);
    mi_free(mi_heap_malloc(NewReporting("kept but empty"), 64));
  });
  EXPECT_NE(text.find("(leaked): 8 blocks, "), std::string::npos) << text;
  EXPECT_NE(text.find("alive when the process ends"), std::string::npos) << text;
  EXPECT_NE(text.find(" 7 of "), std::string::npos) << text;
  EXPECT_EQ(text.find("empty"), std::string::npos) << text;
  EXPECT_EQ(text.find("main"), std::string::npos) << text;
}

TEST(SurvivorsTest, TheMainHeapReportsWhenTheProcessEndsWithTheOption) {
  std::string text = Printed([] {
    mi_option_set(mi_option_report_survivors, 1);
    (void)!mi_malloc(77777);
  });
  EXPECT_NE(text.find("(main): "), std::string::npos) << text;
}

// Threads that are still at work then: the report comes from figures that may change, and stops nobody.
TEST(SurvivorsTest, TheProcessMayEndWhileThreadsAllocate) {
  std::string text = Printed([] {
    static mi_heap_t* heap = NewReporting("busy");
    for (int t = 0; t < 3; t++) {
      std::thread([] {
        for (;;) mi_free(mi_heap_malloc(heap, 100 + rand() % 2000));
      }).detach();
    }
    for (int i = 0; i < 1000; i++) (void)!mi_heap_malloc(heap, 2500);
  });
  EXPECT_NE(text.find("(busy): "), std::string::npos) << text;
}

}  // namespace
}  // namespace mi_test
