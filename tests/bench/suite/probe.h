// What the probes share: resident memory of the process, the processor time of the thread, and the way they answer:
// lines "key value" on standard output, read by tests/bench/probes.py. Unlike the programs of the suite they measure
// themselves.
#ifndef TESTS_BENCH_SUITE_PROBE_H
#define TESTS_BENCH_SUITE_PROBE_H

#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include "tests/bench/suite/suite.h"

static inline void probe_answer(const char* key, double value) { printf("%s %.17g\n", key, value); }

/// Resident bytes, exact (statm is not). Reads without allocating.
static inline double probe_resident(void) {
  char text[2048];
  const int file = open("/proc/self/smaps_rollup", O_RDONLY);
  const ssize_t length = file < 0 ? -1 : read(file, text, sizeof(text) - 1);
  if (length <= 0) suite_fail("cannot read smaps_rollup");
  close(file);
  text[length] = '\0';
  const char* const line = strstr(text, "\nRss:");
  if (line == NULL) suite_fail("no Rss in smaps_rollup");
  return 1024.0 * (double)atol(line + 5);
}

static inline double probe_cpu_seconds(void) {
  struct timespec time;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static inline void probe_sleep_ms(long ms) {
  const struct timespec time = {ms / 1000, ms % 1000 * 1000000};
  nanosleep(&time, NULL);
}

#endif
