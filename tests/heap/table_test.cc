// The table of heaps by name, as rows, text and JSON, and on request.
#include <cjson/cJSON.h>
#include <signal.h>

#include <atomic>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "mi/mimalloc-stats.h"
#include "tests/test_support.h"

namespace mi_test {
namespace {

mi_heap_t* NewNamed(const std::string& name) {
  mi_heap_config_t config = {};
  config.size = sizeof(config);
  config.name = name.c_str();
  return mi_heap_new_with(&config);
}

struct Row {
  size_t live, peak, made, blocks, bytes, reserved;
};

std::map<std::string, Row> Rows() {
  std::map<std::string, Row> rows;
  EXPECT_TRUE(mi_heap_table_visit(
      [](const mi_heap_row_t* row, void* arg) {
        auto* r = static_cast<std::map<std::string, Row>*>(arg);
        EXPECT_TRUE(
            r->emplace(row->name, Row{row->live, row->peak, row->made, row->blocks, row->bytes, row->reserved}).second)
            << row->name;
        return true;
      },
      &rows));
  return rows;
}

TEST(TableTest, CountsTheHeapsOfEachName) {
  std::vector<mi_heap_t*> heaps;
  for (int i = 0; i < 10; i++) heaps.push_back(NewNamed("counted"));
  for (int i = 0; i < 5; i++) heaps.push_back(NewNamed("counted too"));
  Row row = Rows()["counted"];
  EXPECT_EQ(row.live, 10u);
  EXPECT_EQ(row.peak, 10u);
  EXPECT_EQ(row.made, 10u);
  for (mi_heap_t* heap : heaps) mi_heap_destroy(heap);
  for (int i = 0; i < 100; i++) mi_heap_destroy(NewNamed("counted"));
  row = Rows()["counted"];
  EXPECT_EQ(row.live, 0u);
  EXPECT_EQ(row.peak, 10u);
  EXPECT_EQ(row.made, 110u);
  EXPECT_EQ(Rows()["counted too"].made, 5u);
}

TEST(TableTest, AHeapThatIsDeletedOrMergedLivesNoLonger) {
  mi_heap_t* target = NewNamed("target");
  mi_heap_t* heap = NewNamed("merged");
  void* p = mi_heap_malloc(heap, 100);
  mi_heap_t* deleted = NewNamed("merged");
  void* q = mi_heap_malloc(deleted, 100);
  size_t size = mi_usable_size(p);
  mi_heap_merge(heap, target);
  mi_heap_delete(deleted);
  Row row = Rows()["merged"];
  EXPECT_EQ(row.live, 0u);
  EXPECT_EQ(row.made, 2u);
  EXPECT_EQ(row.blocks, 0u);
  row = Rows()["target"];
  EXPECT_EQ(row.live, 1u);
  EXPECT_EQ(row.blocks, 1u);
  EXPECT_GE(row.bytes, size);
  EXPECT_LT(row.bytes, 2 * size);
  mi_free(p);
  mi_free(q);
  EXPECT_EQ(Rows()["target"].blocks, 0u);
  mi_heap_destroy(target);
}

TEST(TableTest, ShowsWhatTheHeapsHold) {
  mi_heap_t* heaps[3] = {NewNamed("holding"), NewNamed("holding"), NewNamed("holding")};
  size_t blocks = 0, bytes = 0;
  std::vector<void*> freed;
  for (mi_heap_t* heap : heaps) {
    for (size_t size : {16, 100, 100, 3000, 20000, 200000, 5000000}) {
      void* p = mi_heap_malloc(heap, size);
      blocks++;
      bytes += mi_usable_size(p);
    }
    for (int i = 0; i < 5000; i++) {
      void* p = mi_heap_malloc(heap, 64);
      if (i % 2 == 0) {
        freed.push_back(p);
      } else {
        blocks++;
        bytes += mi_usable_size(p);
      }
    }
  }
  InThread([&] {
    for (void* p : freed) mi_free(p);
  });
  Row row = Rows()["holding"];
  EXPECT_EQ(row.blocks, blocks);
  EXPECT_GE(row.reserved, bytes);
  EXPECT_LT(row.reserved, 5 * bytes);
  for (mi_heap_t* heap : heaps) mi_heap_destroy(heap);
  row = Rows()["holding"];
  EXPECT_EQ(row.blocks, 0u);
  EXPECT_EQ(row.reserved, 0u);
}

TEST(TableTest, UnnamedHeapsAreOneRowAndTheMainHeapIsAnother) {
  Row before = Rows()[""];
  mi_heap_t* heap = mi_heap_new();
  ASSERT_NE(mi_heap_malloc(heap, 100), nullptr);
  Row now = Rows()[""];
  EXPECT_EQ(now.live, before.live + 1);
  EXPECT_EQ(now.made, before.made + 1);
  EXPECT_GE(now.peak, now.live);
  mi_heap_destroy(heap);
  EXPECT_EQ(Rows()[""].live, before.live);
  void* p = mi_malloc(3 * kMiB);
  Row main = Rows()["main"];
  EXPECT_EQ(main.live, 1u);
  EXPECT_GE(main.bytes, 3 * kMiB);
  mi_free(p);
}

TEST(TableTest, NamesWithoutEndAreCountedTogether) {
  EXPECT_EQ(InChild([] {
              for (int i = 0; i < 5000; i++) mi_heap_destroy(NewNamed("request " + std::to_string(i)));
              mi_heap_t* heap = NewNamed("one more");
              auto rows = Rows();
              if (rows.size() > 1100 || rows.count("(others)") != 1) return 1;
              if (rows["(others)"].made < 3900 || rows["(others)"].live != 1) return 2;
              mi_heap_destroy(heap);
              return Rows()["(others)"].live == 0 ? 0 : 3;
            }),
            0);
}

TEST(TableTest, CountsAreExactAfterManyThreads) {
  constexpr int kEach = 2000;
  InThreads(4, [](int t) {
    std::vector<mi_heap_t*> kept;
    for (int i = 0; i < Scaled(kEach); i++) {
      mi_heap_t* heap = NewNamed(i % 2 == 0 ? "threads" : "thread " + std::to_string(t) + " " + std::to_string(i % 10));
      if (i % 5 == 0) {
        kept.push_back(heap);
      } else if (i % 3 == 0) {
        mi_heap_delete(heap);
      } else {
        mi_heap_destroy(heap);
      }
    }
    for (mi_heap_t* heap : kept) mi_heap_destroy(heap);
  });
  auto rows = Rows();
  EXPECT_EQ(rows["threads"].made, 4u * static_cast<size_t>(Scaled(kEach)) / 2);
  EXPECT_EQ(rows["threads"].live, 0u);
  EXPECT_GT(rows["threads"].peak, 0u);
  size_t others = 0;
  for (const auto& [name, row] : rows) {
    if (name.rfind("thread ", 0) == 0) others += row.made;
  }
  EXPECT_EQ(others, 4u * static_cast<size_t>(Scaled(kEach)) / 2);
}

// The query takes nothing from threads that make, use and end heaps of the same names.
TEST(TableTest, MayBeAskedForWhileHeapsComeAndGo) {
  std::atomic<bool> done{false};
  std::atomic<int> rounds{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; t++) {
    threads.emplace_back([&] {
      while (!done) {
        mi_heap_t* heap = NewNamed("coming and going");
        for (int i = 0; i < 200; i++) EXPECT_NE(mi_heap_malloc(heap, static_cast<size_t>(i * 50)), nullptr);
        mi_heap_destroy(heap);
        rounds++;
      }
    });
  }
  for (int i = 0; i < 50 || rounds < 100; i++) {
    Row row = Rows()["coming and going"];
    EXPECT_LE(row.live, 3u);
    EXPECT_LE(row.peak, 3u);
  }
  done = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(Rows()["coming and going"].blocks, 0u);
}

TEST(TableTest, TheTextHasALineForEachName) {
  mi_heap_t* heap = NewNamed("in the text");
  std::string text;
  mi_heap_table_print([](const char* line, void* arg) { *static_cast<std::string*>(arg) += line; }, &text);
  EXPECT_NE(text.find("\nin the text "), std::string::npos) << text;
  EXPECT_NE(text.find("\nmain "), std::string::npos) << text;
  mi_heap_destroy(heap);
}

TEST(TableTest, TheJsonIsWellFormedWhateverTheNames) {
  const std::vector<std::string> names = {
      "plain",    "a \"quoted\" \\ name", "tab\tand\nline", "gr\xc3\xbc\xc3\x9f", "cut \xc3",
      "\xff\xfe", std::string(200, 'x')};
  std::vector<mi_heap_t*> heaps;
  for (const std::string& name : names) heaps.push_back(NewNamed(name));
  ASSERT_NE(mi_heap_malloc(heaps[0], 100), nullptr);
  char* text = mi_heap_table_get_json(0, nullptr);
  ASSERT_NE(text, nullptr);
  cJSON* json = cJSON_Parse(text);
  ASSERT_NE(json, nullptr) << text;
  std::map<std::string, const cJSON*> rows;
  const cJSON* row = nullptr;
  cJSON_ArrayForEach(row, cJSON_GetObjectItem(json, "heaps")) {
    rows[cJSON_GetObjectItem(row, "name")->valuestring] = row;
  }
  auto figure = [&](const char* name, const char* field) {
    const cJSON* item = cJSON_GetObjectItem(rows[name], field);
    return cJSON_IsNumber(item) ? item->valuedouble : -1.0;
  };
  EXPECT_EQ(figure("plain", "live"), 1);
  EXPECT_EQ(figure("plain", "blocks"), 1);
  for (const char* field : {"peak", "made", "bytes", "memory"}) EXPECT_GE(figure("plain", field), 1) << field;
  for (size_t k = 1; k < 4; k++) EXPECT_EQ(rows.count(names[k]), 1u) << names[k];
  EXPECT_EQ(rows.count("cut \xc3\x83"), 1u) << "taken for Latin-1";
  EXPECT_EQ(rows.count(std::string(63, 'x')), 1u);
  cJSON_Delete(json);
  std::vector<char> buffer(strlen(text) + 1000);
  EXPECT_EQ(mi_heap_table_get_json(buffer.size(), buffer.data()), buffer.data());
  errno = 0;
  EXPECT_EQ(mi_heap_table_get_json(100, buffer.data()), nullptr);
  EXPECT_EQ(errno, ERANGE);
  mi_free(text);
  for (mi_heap_t* heap : heaps) mi_heap_destroy(heap);
}

TEST(TableTest, IsPrintedOnRequestAtTheNextSlowPath) {
  ErrorRecorder recorder;
  mi_heap_t* heap = NewNamed("requested");
  mi_heap_table_request();
  EXPECT_EQ(recorder.text(), "") << "not yet";
  for (int i = 0; i < 5000; i++) ASSERT_NE(mi_heap_malloc(heap, 100), nullptr);
  std::string text = recorder.text();
  size_t at = text.find("heaps by name");
  EXPECT_NE(at, std::string::npos);
  EXPECT_NE(text.find("\nrequested "), std::string::npos) << text;
  EXPECT_EQ(text.find("heaps by name", at + 1), std::string::npos) << "once";
  mi_heap_destroy(heap);
}

std::atomic<int> lines_of_main{0};

TEST(TableTest, IsPrintedOnRequestByAnotherThread) {
  lines_of_main = 0;
  mi_register_output([](const char* line, void*) { lines_of_main += strncmp(line, "main ", 5) == 0; }, nullptr);
  std::atomic<bool> asked{false}, done{false};
  std::thread thread([&] {
    mi_free(mi_malloc(1));
    while (!asked) std::this_thread::yield();
    while (!done) mi_free(mi_malloc(1 * kMiB));
  });
  mi_heap_table_request();  // perhaps before the thread is known to the library
  asked = true;
  Deadline deadline(60);
  while (lines_of_main == 0 && !deadline.Passed()) std::this_thread::yield();
  EXPECT_EQ(lines_of_main, 1);
  done = true;
  thread.join();
  mi_register_output(nullptr, nullptr);
}

std::atomic<int> signals{0};
void OnUsr1(int) {
  mi_heap_table_request();
  signals++;
}

TEST(TableTest, MayBeRequestedInASignalHandlerAtAnyInstant) {
  ErrorRecorder recorder;
  signal(SIGUSR1, &OnUsr1);
  std::atomic<bool> done{false};
  pthread_t self = pthread_self();
  std::thread thread([&] {
    while (!done) {
      pthread_kill(self, SIGUSR1);
      std::this_thread::yield();
    }
  });
  while (signals < Scaled(300)) {
    mi_heap_t* heap = NewNamed("signalled");
    std::vector<void*> blocks;
    for (int k = 0; k < 300; k++) blocks.push_back(mi_heap_malloc(heap, static_cast<size_t>(k * 20)));
    for (void* p : blocks) mi_free(p);
    ASSERT_TRUE(mi_heap_check(heap));
    mi_heap_destroy(heap);
  }
  done = true;
  thread.join();
  signal(SIGUSR1, SIG_DFL);
  EXPECT_NE(recorder.text().find("heaps by name"), std::string::npos);
  mi_heap_t* heap = NewNamed("after");  // what was asked for last
  for (int i = 0; i < 5000; i++) ASSERT_NE(mi_heap_malloc(heap, 100), nullptr);
  mi_heap_destroy(heap);
}

TEST(TableTest, TheOptionInstallsAHandlerForTheSignal) {
  struct sigaction action;
  ASSERT_EQ(sigaction(SIGUSR2, nullptr, &action), 0);
  EXPECT_EQ(action.sa_handler == SIG_DFL, getenv("MIMALLOC_TABLE_ON_SIGNAL") == nullptr);
  if (action.sa_handler == SIG_DFL) return;
  ErrorRecorder recorder;
  raise(SIGUSR2);
  EXPECT_EQ(recorder.text(), "");
  mi_collect(false);
  EXPECT_NE(recorder.text().find("heaps by name"), std::string::npos) << recorder.text();
}

TEST(TableTest, WithoutAFunctionItIsRefused) {
  ErrorRecorder recorder;
  EXPECT_FALSE(mi_heap_table_visit(nullptr, nullptr));
  EXPECT_EQ(recorder.errors(), std::vector<int>{EINVAL});
}

}  // namespace
}  // namespace mi_test
