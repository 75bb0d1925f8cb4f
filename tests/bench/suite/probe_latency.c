// How long the longest single malloc and free take: PERCENT / 100 times 10^8 operations on a working set of blocks
// whose sizes fall off, each between two reads of the processor's time stamp counter (of which the cost stays in).
// Answers the 99.99th percentile and the greatest, in nanoseconds. The greatest of a run is often the kernel's doing:
// compare the lowest of several runs.
#include "tests/bench/suite/probe.h"

#if defined(__x86_64__)
static inline uint64_t ticks(void) { return __builtin_ia32_rdtsc(); }
#else
static inline uint64_t ticks(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}
#endif

enum { kBlocks = 20000, kBuckets = 1 << 16 };

typedef struct {
  uint32_t counts[kBuckets];  // by tick; the last one holds all that took longer
  uint64_t greatest;
} histogram_t;

static histogram_t mallocs, frees;

static inline void add(histogram_t* histogram, uint64_t took) {
  histogram->counts[took < kBuckets - 1 ? took : kBuckets - 1]++;
  if (took > histogram->greatest) histogram->greatest = took;
}

static double percentile(const histogram_t* histogram, long operations, double ns_per_tick) {
  long above = operations / 10000;
  for (int i = kBuckets - 1; i >= 0; i--) {
    above -= histogram->counts[i];
    if (above <= 0) return i * ns_per_tick;
  }
  return 0;
}

int main(int argc, char** argv) {
  const suite_args_t args = suite_args(argc, argv);
  const long pairs = suite_scaled(&args, 50000000);
  void* const* end;
  void** const blocks = calloc(kBlocks, sizeof(void*));
  if (blocks == NULL) suite_fail("no memory");
  end = blocks + kBlocks;
  uint64_t seed = 1;
  for (void** block = blocks; block != end; block++) *block = suite_malloc(suite_falling_size(&seed, 8192));
  struct timespec from, to;
  clock_gettime(CLOCK_MONOTONIC, &from);
  const uint64_t first = ticks();
  for (long i = 0; i < pairs; i++) {
    void** const block = &blocks[suite_below(&seed, kBlocks)];
    const size_t size = suite_falling_size(&seed, 8192);
    suite_stamped(*block);
    const uint64_t a = ticks();
    free(*block);
    const uint64_t b = ticks();
    *block = malloc(size);
    const uint64_t c = ticks();
    add(&frees, b - a);
    add(&mallocs, c - b);
    suite_stamp(*block, size);
  }
  const uint64_t last = ticks();
  clock_gettime(CLOCK_MONOTONIC, &to);
  const double ns = (double)(to.tv_sec - from.tv_sec) * 1e9 + (double)(to.tv_nsec - from.tv_nsec);
  const double ns_per_tick = ns / (double)(last - first);
  probe_answer("malloc_9999_ns", percentile(&mallocs, pairs, ns_per_tick));
  probe_answer("malloc_greatest_ns", (double)mallocs.greatest * ns_per_tick);
  probe_answer("free_9999_ns", percentile(&frees, pairs, ns_per_tick));
  probe_answer("free_greatest_ns", (double)frees.greatest * ns_per_tick);
  for (void** block = blocks; block != end; block++) suite_free(*block);
  free(blocks);
  return 0;
}
