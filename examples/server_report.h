// The results of a run: collects them from the server's counters, the clients and /proc, and prints them as a table
// or as JSON.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "examples/server_driver.h"
#include "examples/server_http.h"
#include "examples/server_memory.h"

/// A run so far; the process' figures are taken by the report_... calls, in their order.
struct report {
  enum allocator allocator;
  unsigned threads;
  unsigned connections;                    // 0: no clients of our own
  size_t rss_before, rss_peak, rss_after;  // bytes
  double processor_seconds;                // of the whole process, between the first two calls
  uint64_t requests;
  uint64_t ended[OUTCOME_COUNT];
  double allocations;                         // per request
  double open_nanoseconds, drop_nanoseconds;  // medians; negative: not measured
  double heap_bytes_median, heap_bytes_max;
  size_t heaps_alive;
  const struct driver_results* clients;  // NULL: no clients of our own
  double latency_median, latency_p99;    // milliseconds
};

/// Before the first request.
void report_started(struct report* report);
/// After the last request, with the server stopped and not freed.
void report_stopped(struct report* report, const struct server* server);
/// After everything was given back: the last memory figures, then the clients' results (or NULL).
void report_finished(struct report* report, const struct driver_results* clients);

/// Did everything go as it should? Else says on standard error what did not.
bool report_is_clean(const struct report* report);
void report_print(const struct report* report, FILE* file);
/// False with errno set if the file cannot be written.
bool report_write_json(const struct report* report, const char* path);
