// Does an allocation cost more while very many full pages are alive? Times batches of allocations of many sizes with
// their frees, alternately small and large lots, in a heap that holds nothing; then fills PERCENT / 100 times 18,000
// pages of 64 KiB with blocks of another size, and times the same again. Answers the medians, per operation.
#include "tests/bench/suite/probe.h"

enum { kPages = 18000, kPageSize = 65536, kFillSize = 8192, kBatches = 61, kRounds = 40, kLot = 200 };

static int compare(const void* a, const void* b) {
  const double x = *(const double*)a, y = *(const double*)b;
  return (x > y) - (x < y);
}

static double median_batch(void) {
  double times[kBatches];
  void* blocks[kLot];
  for (int batch = 0; batch < kBatches; batch++) {
    uint64_t seed = 1;
    const double start = probe_cpu_seconds();
    for (int round = 0; round < kRounds; round++) {
      for (int i = 0; i < kLot; i++) blocks[i] = suite_malloc(suite_between(&seed, 16, 1000));
      for (int i = 0; i < kLot; i++) suite_free(blocks[i]);
    }
    times[batch] = (probe_cpu_seconds() - start) / (kRounds * kLot);
  }
  qsort(times, kBatches, sizeof(times[0]), compare);
  return times[kBatches / 2] * 1e9;
}

int main(int argc, char** argv) {
  const suite_args_t args = suite_args(argc, argv);
  const long count = suite_scaled(&args, (long)kPages * (kPageSize / kFillSize));
  void** const fill = malloc((size_t)count * sizeof(void*));
  if (fill == NULL) suite_fail("no memory");
  median_batch();
  const double before = median_batch();
  for (long i = 0; i < count; i++) fill[i] = suite_malloc(kFillSize);
  median_batch();
  probe_answer("empty_ns", before);
  probe_answer("full_ns", median_batch());
  for (long i = 0; i < count; i++) suite_free(fill[i]);
  free(fill);
  return 0;
}
