// Secret heaps against libsodium's guarded allocations, in one run: 64 bytes allocated and freed in turn, in pairs of
// batches (ours and theirs, theirs and ours), with the median of the ratios and its quartiles; and what 10,000 keys of
// 32 bytes take of locked memory and of the mappings that the system allows a process.
//
// Usage: secret [PAIRS]
#include <sodium.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "mi/mimalloc.h"
#include "tests/bench/clock.h"

namespace bench {
namespace {

size_t StatusKiB(const std::string& field) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind(field + ":", 0) == 0) return std::stoul(line.substr(field.size() + 1));
  }
  return 0;
}

size_t Mappings() {
  std::ifstream maps("/proc/self/maps");
  size_t count = 0;
  for (std::string line; std::getline(maps, line);) count++;
  return count;
}

mi_heap_t* NewHeap(uint32_t flags) {
  mi_heap_config_t config{};
  config.size = sizeof(config);
  config.name = "bench";
  config.flags = flags;
  mi_heap_t* heap = mi_heap_new_with(&config);
  if (heap == nullptr) {
    perror("no heap");
    exit(1);
  }
  return heap;
}

// Nanoseconds of processor time for one allocation and free, where the block is written to.
template <typename Allocate, typename Free>
double Batch(int rounds, Allocate allocate, Free release) {
  const int64_t start = ThreadCpuNs();
  for (int i = 0; i < rounds; i++) {
    char* p = static_cast<char*>(allocate());
    if (p == nullptr) abort();
    memset(p, i, 64);
    asm volatile("" : : "r"(p) : "memory");
    release(p);
  }
  return static_cast<double>(ThreadCpuNs() - start) / rounds;
}

double Quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(q * static_cast<double>(values.size() - 1) + 0.5)];
}

void Show(const char* what, const std::vector<double>& values, const char* unit) {
  printf("  %-44s median %10.4g %s, quartiles %.4g to %.4g\n", what, Quantile(values, 0.5), unit,
         Quantile(values, 0.25), Quantile(values, 0.75));
}

void Speed(int pairs) {
  mi_heap_t* heap = NewHeap(MI_HEAP_SECRET);
  mi_heap_t* isolated = NewHeap(MI_HEAP_ISOLATED);
  const auto ours = [&] {
    return Batch(
        20000, [&] { return mi_heap_malloc(heap, 64); }, [](void* p) { mi_free(p); });
  };
  const auto theirs = [] {
    return Batch(
        200, [] { return sodium_malloc(64); }, [](void* p) { sodium_free(p); });
  };
  std::vector<double> a, b, ratios, apart;
  ours(), theirs();
  for (int i = 0; i < pairs; i++) {
    if (i % 2 == 0) {
      a.push_back(ours());
      b.push_back(theirs());
    } else {
      b.push_back(theirs());
      a.push_back(ours());
    }
    ratios.push_back(a.back() / b.back());
    apart.push_back(Batch(
        20000, [&] { return mi_heap_malloc(isolated, 64); }, [](void* p) { mi_free(p); }));
  }
  printf("allocate and free 64 bytes, %d pairs:\n", pairs);
  Show("secret heap, with wipe", a, "ns");
  Show("sodium_malloc and sodium_free", b, "ns");
  Show("ratio (bar: 0.01)", ratios, "");
  Show("isolated heap", apart, "ns");
  mi_heap_destroy(heap);
  mi_heap_destroy(isolated);
}

void Footprint() {
  mi_heap_t* heap = NewHeap(MI_HEAP_SECRET);
  const size_t locked = StatusKiB("VmLck"), mappings = Mappings();
  std::vector<void*> keys;
  for (int i = 0; i < 10000; i++) {
    keys.push_back(mi_heap_malloc(heap, 32));
    memset(keys.back(), i, 32);
  }
  printf("10,000 keys of 32 bytes: %zu KiB locked (bar: 640), %zu mappings (bar: 40); protections:",
         StatusKiB("VmLck") - locked, Mappings() - mappings);
  const mi_protections_t got = mi_heap_protections(heap);
  for (mi_protections_t bit = 1; bit <= got; bit *= 2) {
    if ((got & bit) != 0) printf(" [%s]", mi_protection_name(bit));
  }
  printf("\n");
  for (void* key : keys) mi_free(key);
  mi_heap_destroy(heap);
}

}  // namespace
}  // namespace bench

int main(int argc, char** argv) {
  const int pairs = argc > 1 ? atoi(argv[1]) : 41;
  if (pairs < 1 || sodium_init() < 0) {
    fprintf(stderr, "usage: secret [PAIRS]\n");
    return 2;
  }
  bench::Footprint();
  bench::Speed(pairs);
  return 0;
}
