// The dearest single malloc and the dearest single free, in instructions, when the process holds 10 to 100,000 pages:
// the bound must not grow with the number of pages. A child process fills memory at full speed and then runs a window
// of operations with the processor's trap flag set, so that every instruction raises SIGTRAP, whose handler counts. The
// kernel's own work does not count, nor does time. x86-64 Linux only.
//
// Usage: dearest [--quick] [--json FILE]

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "mi/mimalloc.h"
#include "tests/bench/peers.h"
#include "tests/bench/report.h"

namespace bench {
namespace {

constexpr size_t kBlockSize = 7000;  // nine to a 64 KiB page, so that a window crosses many pages

enum class Window { kAllocate, kFreeRandom, kFreeLastFirst, kMixed };

struct Plan {
  const char* name;
  Window window;
};

struct Count {
  long dearest = 0;
  double mean = 0;
  size_t operations = 0;
};

volatile long steps;

void CountStep(int) { steps = steps + 1; }

// The red zone below the stack pointer is skipped, since the compiler may keep values there.
inline __attribute__((always_inline)) void TraceOn() {
  asm volatile("lea -128(%%rsp), %%rsp\n pushfq\n orq $0x100, (%%rsp)\n popfq\n lea 128(%%rsp), %%rsp"
               :
               :
               : "memory", "cc");
}

inline __attribute__((always_inline)) void TraceOff() {
  asm volatile("lea -128(%%rsp), %%rsp\n pushfq\n andq $~0x100, (%%rsp)\n popfq\n lea 128(%%rsp), %%rsp"
               :
               :
               : "memory", "cc");
}

__attribute__((noinline)) void* NoMalloc(size_t size) {
  asm volatile("" : "+r"(size));
  return nullptr;
}

__attribute__((noinline)) void NoFree(void* p) { asm volatile("" : : "r"(p)); }

/// The instructions of `malloc_function` and of the few that surround the call.
template <typename Malloc>
long CountMalloc(Malloc malloc_function, void** p) {
  steps = 0;
  TraceOn();
  void* block = malloc_function(kBlockSize);
  TraceOff();
  *p = block;
  return steps;
}

template <typename Free>
long CountFree(Free free_function, void* p) {
  steps = 0;
  TraceOn();
  free_function(p);
  TraceOff();
  return steps;
}

/// In the child: fill, then run the window.
Count RunWindow(Window window, size_t pages, size_t operations) {
  mi_option_set(mi_option_purge_delay, -1);
  mi_option_set(mi_option_generic_collect, 500);  // so that the window holds this work, which is rare by default
  std::mt19937_64 random(pages);
  std::vector<void*> blocks(pages * 9);
  for (void*& p : blocks) {
    p = mi_malloc(kBlockSize);
    Require(p != nullptr, "out of memory");
  }
  const auto take = [&blocks, &random] {
    std::swap(blocks[random() % blocks.size()], blocks.back());
    void* p = blocks.back();
    blocks.pop_back();
    return p;
  };
  if (window == Window::kMixed) {
    // Holes everywhere: half of the blocks go, in random order.
    for (size_t i = pages * 9 / 2; i > 0; i--) mi_free(take());
  }
  blocks.reserve(blocks.size() + operations);

  struct sigaction action = {};
  action.sa_handler = CountStep;
  Require(sigaction(SIGTRAP, &action, nullptr) == 0, "sigaction");
  void* block = nullptr;
  const long malloc_surroundings = CountMalloc(NoMalloc, &block) - 2;  // NoMalloc itself: xor and ret
  const long free_surroundings = CountFree(NoFree, nullptr) - 1;
  Require(malloc_surroundings > 0 && free_surroundings > 0, "the trap flag does not count");
  Count count;
  double total = 0;
  for (size_t i = 0; i < operations; i++) {
    long cost;
    if (window == Window::kAllocate || (window == Window::kMixed && i % 2 == 0)) {
      cost = CountMalloc(mi_malloc, &block) - malloc_surroundings;
      Require(block != nullptr, "out of memory");
      blocks.push_back(block);
    } else if (blocks.empty()) {
      break;
    } else if (window == Window::kFreeLastFirst) {
      cost = CountFree(mi_free, blocks.back()) - free_surroundings;
      blocks.pop_back();
    } else {
      cost = CountFree(mi_free, take()) - free_surroundings;
    }
    count.dearest = std::max(count.dearest, cost);
    total += static_cast<double>(cost);
    count.operations++;
  }
  count.mean = total / static_cast<double>(count.operations);
  return count;
}

Count RunApart(Window window, size_t pages, size_t operations) {
  int ends[2];
  Require(pipe(ends) == 0, "pipe");
  fflush(stdout);
  const pid_t child = fork();
  Require(child >= 0, "fork");
  if (child == 0) {
    const Count mine = RunWindow(window, pages, operations);
    _exit(write(ends[1], &mine, sizeof(mine)) == static_cast<ssize_t>(sizeof(mine)) ? 0 : 1);
  }
  close(ends[1]);
  Count count;
  Require(read(ends[0], &count, sizeof(count)) == static_cast<ssize_t>(sizeof(count)), "the child failed");
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  return count;
}

int Main(int argc, char** argv) {
  bool quick = false;
  std::string json;
  for (int i = 1; i < argc; i++) {
    if (strcmp(argv[i], "--quick") == 0) {
      quick = true;
    } else if (strcmp(argv[i], "--json") == 0 && i + 1 < argc) {
      json = argv[++i];
    } else {
      fprintf(stderr, "usage: %s [--quick] [--json FILE]\n", argv[0]);
      return 2;
    }
  }
  const Plan plans[] = {{"malloc, all pages full", Window::kAllocate},
                        {"free in random order", Window::kFreeRandom},
                        {"free, last first", Window::kFreeLastFirst},
                        {"malloc and free, half empty pages", Window::kMixed}};
  std::vector<size_t> sizes = {10, 100, 1000, 10000};
  if (!quick) sizes.push_back(100000);
  cJSON* document = cJSON_CreateObject();
  cJSON* rows = cJSON_AddArrayToObject(document, "rows");
  printf("%-36s %9s %12s %12s %12s\n", "window", "pages", "operations", "mean", "dearest");
  for (const Plan& plan : plans) {
    for (size_t pages : sizes) {
      const Count count = RunApart(plan.window, pages, quick ? 600 : 3000);
      printf("%-36s %9zu %12zu %12.1f %12ld\n", plan.name, pages, count.operations, count.mean, count.dearest);
      fflush(stdout);
      cJSON* row = cJSON_CreateObject();
      cJSON_AddStringToObject(row, "window", plan.name);
      cJSON_AddNumberToObject(row, "pages", static_cast<double>(pages));
      cJSON_AddNumberToObject(row, "operations", static_cast<double>(count.operations));
      cJSON_AddNumberToObject(row, "mean_instructions", count.mean);
      cJSON_AddNumberToObject(row, "dearest_instructions", static_cast<double>(count.dearest));
      cJSON_AddItemToArray(rows, row);
    }
  }
  if (json.empty()) {
    cJSON_Delete(document);
  } else {
    WriteJson(document, json);
  }
  return 0;
}

}  // namespace
}  // namespace bench

int main(int argc, char** argv) { return bench::Main(argc, argv); }
