// The results of a run, see server_report.h. Percentiles come from recorded samples, sorted; what was not measured is
// left out instead of shown as zero.

#define _GNU_SOURCE
#include "examples/server_report.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

static double processor_seconds(void) {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

// A line such as "VmRSS:   1234 kB" of /proc/self/status, in bytes; 0 if there is none.
static size_t status_bytes(const char* name) {
  FILE* file = fopen("/proc/self/status", "r");
  if (file == NULL) return 0;
  char line[256];
  size_t kilobytes = 0;
  while (fgets(line, sizeof line, file) != NULL) {
    if (strncmp(line, name, strlen(name)) == 0 && sscanf(line + strlen(name), ": %zu", &kilobytes) == 1) break;
  }
  fclose(file);
  return kilobytes * 1024;
}

// ---- percentiles -----------------------------------------------------------------------------------------

static int compare(const void* a, const void* b) {
  const uint32_t x = *(const uint32_t*)a, y = *(const uint32_t*)b;
  return (x > y) - (x < y);
}

// The smallest value of which `share` of the sorted values are no larger; -1 if there are none.
static double percentile(const uint32_t* sorted, size_t count, double share) {
  if (count == 0) return -1;
  size_t rank = (size_t)(share * (double)count);
  if ((double)rank < share * (double)count) rank++;
  return sorted[rank > 0 ? rank - 1 : 0];
}

typedef const struct samples* samples_of(const struct server_counters* counters);

static const struct samples* open_samples(const struct server_counters* counters) {
  return &counters->open_nanoseconds;
}
static const struct samples* drop_samples(const struct server_counters* counters) {
  return &counters->drop_nanoseconds;
}
static const struct samples* heap_samples(const struct server_counters* counters) { return &counters->heap_bytes; }

// Median and maximum of one kind of sample over all threads; -1 without samples or memory.
static void summarise(const struct server_counters* counters, samples_of* of, double* median, double* max) {
  size_t count = 0;
  *median = *max = -1;
  for (const struct server_counters* c = counters; c != NULL; c = c->next) count += SAMPLE_CAPACITY;
  uint32_t* values = malloc(count * sizeof *values);
  if (values == NULL) return;
  count = 0;
  for (const struct server_counters* c = counters; c != NULL; c = c->next) {
    const struct samples* samples = of(c);
    const size_t filled = samples->taken < SAMPLE_CAPACITY ? (size_t)samples->taken : SAMPLE_CAPACITY;
    memcpy(values + count, samples->values, filled * sizeof *values);
    count += filled;
  }
  qsort(values, count, sizeof *values, compare);
  *median = percentile(values, count, 0.5);
  *max = percentile(values, count, 1);
  free(values);
}

static void take_latencies(struct report* report) {
  uint32_t* values = malloc(LATENCIES * sizeof *values);
  size_t count = 0;
  report->latency_median = report->latency_p99 = -1;
  if (values == NULL) return;
  for (size_t i = 0; i < LATENCIES; i++) {
    if (report->clients->latencies[i] != 0) values[count++] = report->clients->latencies[i];
  }
  qsort(values, count, sizeof *values, compare);
  if (count != 0) {
    report->latency_median = percentile(values, count, 0.5) / 1e6;
    report->latency_p99 = percentile(values, count, 0.99) / 1e6;
  }
  free(values);
}

// ---- collecting ------------------------------------------------------------------------------------------

void report_started(struct report* report) {
  report->rss_before = status_bytes("VmRSS");
  report->processor_seconds = -processor_seconds();
}

void report_stopped(struct report* report, const struct server* server) {
  report->processor_seconds += processor_seconds();
  report->rss_peak = status_bytes("VmHWM");
  const struct server_counters* counters = server_counters(server);
  uint64_t allocations = 0;
  for (const struct server_counters* c = counters; c != NULL; c = c->next) {
    report->requests += c->requests;
    allocations += c->allocations;
    for (int i = 0; i < OUTCOME_COUNT; i++) report->ended[i] += c->ended[i];
  }
  report->allocations = report->requests != 0 ? (double)allocations / (double)report->requests : 0;
  double max;
  summarise(counters, open_samples, &report->open_nanoseconds, &max);
  summarise(counters, drop_samples, &report->drop_nanoseconds, &max);
  summarise(counters, heap_samples, &report->heap_bytes_median, &report->heap_bytes_max);
}

void report_finished(struct report* report, const struct driver_results* clients) {
  report->rss_after = status_bytes("VmRSS");
  report->heaps_alive = memory_heaps_alive();
  report->clients = clients;
  report->latency_median = report->latency_p99 = -1;
  if (clients != NULL) take_latencies(report);
}

static uint64_t refused(const struct report* report) {
  return report->requests - report->ended[OUTCOME_OK] - report->ended[OUTCOME_DROPPED];
}

static bool expect(bool truth, const char* complaint) {
  if (!truth) fprintf(stderr, "request_server: %s\n", complaint);
  return truth;
}

bool report_is_clean(const struct report* report) {
  uint64_t ended = 0;
  for (int i = 0; i < OUTCOME_COUNT; i++) ended += report->ended[i];
  bool clean = expect(report->heaps_alive == 0, "heaps were left over");
  clean &= expect(ended == report->requests, "requests were begun and not ended");
  const struct driver_results* clients = report->clients;
  if (clients == NULL) return clean;
  const uint64_t dropped = report->ended[OUTCOME_DROPPED];
  clean &= expect(clients->unexpected == 0, "requests were not answered as they should be");
  clean &= expect(refused(report) == clients->refused, "the server refused other requests than the clients saw");
  clean &= expect(dropped >= clients->dropped_unanswered &&
                      dropped <= clients->dropped_unanswered + clients->dropped_anyhow &&
                      report->ended[OUTCOME_OK] + dropped ==
                          clients->answered + clients->dropped_unanswered + clients->dropped_anyhow,
                  "the server counted other answers and dropped connections than the clients");
  return clean;
}

// ---- printing --------------------------------------------------------------------------------------------

static void print_count(FILE* file, const char* name, uint64_t value) {
  fprintf(file, "%-34s %14" PRIu64 "\n", name, value);
}

// `unit` brings its own blank, "" for a plain number.
static void print_measure(FILE* file, const char* name, double value, int decimals, const char* unit) {
  if (value >= 0) fprintf(file, "%-34s %14.*f%s\n", name, decimals, value, unit);
}

void report_print(const struct report* report, FILE* file) {
  const bool heap = report->allocator == ALLOCATOR_HEAP;
  char name[64];
  fprintf(file, "%-34s %14s\n", "allocator", heap ? "heap" : "malloc");
  print_count(file, "server threads", report->threads);
  if (report->connections != 0) print_count(file, "connections", report->connections);
  print_count(file, "requests", report->requests);
  for (int i = 0; i < OUTCOME_COUNT; i++) {
    if (i == OUTCOME_DROPPED) {
      snprintf(name, sizeof name, "  dropped by the client");
    } else {
      snprintf(name, sizeof name, "  answered with %u", outcome_status((enum outcome)i));
    }
    if (report->ended[i] != 0) print_count(file, name, report->ended[i]);
  }
  print_count(file, "errors, expected", refused(report) + report->ended[OUTCOME_DROPPED]);
  if (report->clients != NULL) {
    print_count(file, "errors, unexpected", report->clients->unexpected);
    print_measure(file, "requests per second", (double)report->requests / report->clients->seconds, 0, "");
    print_measure(file, "latency, median", report->latency_median, 3, " ms");
    print_measure(file, "latency, 99 %", report->latency_p99, 3, " ms");
  }
  if (report->requests != 0) {
    print_measure(file, "server CPU per request", report->processor_seconds * 1e6 / (double)report->requests, 1, " us");
    print_measure(file, "allocations per request", report->allocations, 1, "");
  }
  print_measure(file, "bytes of a request heap, median", report->heap_bytes_median, 0, " B");
  print_measure(file, "bytes of a request heap, peak", report->heap_bytes_max, 0, " B");
  print_measure(file, heap ? "heap create, median" : "first malloc, median", report->open_nanoseconds, 0, " ns");
  print_measure(file, heap ? "heap destroy, median" : "freeing each block, median", report->drop_nanoseconds, 0, " ns");
  print_measure(file, "RSS before", (double)report->rss_before / 1024, 0, " KiB");
  print_measure(file, "RSS at peak", (double)report->rss_peak / 1024, 0, " KiB");
  print_measure(file, "RSS after", (double)report->rss_after / 1024, 0, " KiB");
  fprintf(file, "heaps alive = %zu\n", report->heaps_alive);
}

static void add_measure(cJSON* object, const char* name, double value) {
  if (value >= 0) cJSON_AddNumberToObject(object, name, value);
}

static char* json_of(const struct report* report) {
  cJSON* root = cJSON_CreateObject();
  cJSON_AddStringToObject(root, "allocator", report->allocator == ALLOCATOR_HEAP ? "heap" : "malloc");
  add_measure(root, "threads", report->threads);
  add_measure(root, "connections", report->connections);
  add_measure(root, "requests", (double)report->requests);
  cJSON* ended = cJSON_AddObjectToObject(root, "ended");
  for (int i = 0; i < OUTCOME_COUNT; i++) {
    char name[16];
    snprintf(name, sizeof name, "%u", outcome_status((enum outcome)i));
    add_measure(ended, i == OUTCOME_DROPPED ? "dropped" : name, (double)report->ended[i]);
  }
  if (report->clients != NULL) {
    add_measure(root, "unexpected", (double)report->clients->unexpected);
    add_measure(root, "seconds", report->clients->seconds);
  }
  add_measure(root, "latency_median_ms", report->latency_median);
  add_measure(root, "latency_p99_ms", report->latency_p99);
  add_measure(root, "server_cpu_seconds", report->processor_seconds);
  add_measure(root, "allocations_per_request", report->allocations);
  add_measure(root, "request_heap_bytes_median", report->heap_bytes_median);
  add_measure(root, "request_heap_bytes_peak", report->heap_bytes_max);
  add_measure(root, "open_ns_median", report->open_nanoseconds);
  add_measure(root, "drop_ns_median", report->drop_nanoseconds);
  add_measure(root, "rss_before_bytes", (double)report->rss_before);
  add_measure(root, "rss_peak_bytes", (double)report->rss_peak);
  add_measure(root, "rss_after_bytes", (double)report->rss_after);
  add_measure(root, "heaps_alive", (double)report->heaps_alive);
  char* text = cJSON_Print(root);
  cJSON_Delete(root);
  return text;
}

bool report_write_json(const struct report* report, const char* path) {
  char* text = json_of(report);
  FILE* file = text != NULL ? fopen(path, "w") : NULL;
  bool written = file != NULL && fprintf(file, "%s\n", text) > 0;
  if (file != NULL && fclose(file) != 0) written = false;
  cJSON_free(text);
  return written;
}
