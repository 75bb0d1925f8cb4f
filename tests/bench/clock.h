// Time for the benchmarks: the processor time of the calling thread, which other programs on the machine do not
// lengthen, and wall-clock time for the rows that need it. Holds no statistics. Both clocks are in nanoseconds.
#ifndef TESTS_BENCH_CLOCK_H
#define TESTS_BENCH_CLOCK_H

#include <time.h>

#include <cstdint>

namespace bench {

inline int64_t ReadClock(clockid_t clock) {
  timespec now;
  clock_gettime(clock, &now);
  return static_cast<int64_t>(now.tv_sec) * 1000000000 + now.tv_nsec;
}

inline int64_t ThreadCpuNs() { return ReadClock(CLOCK_THREAD_CPUTIME_ID); }
inline int64_t WallNs() { return ReadClock(CLOCK_MONOTONIC); }

/// What one pair of ThreadCpuNs() calls adds to the time between them.
inline int64_t ThreadClockCostNs() {
  int64_t best = INT64_MAX;
  for (int i = 0; i < 1000; i++) {
    const int64_t start = ThreadCpuNs();
    const int64_t cost = ThreadCpuNs() - start;
    if (cost < best) best = cost;
  }
  return best;
}

}  // namespace bench

#endif
