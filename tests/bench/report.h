// Reporting for the benchmark drivers: statistics over samples, the JSON document that a run leaves behind (through
// cJSON) and the words for "bar met". Measures nothing.
#ifndef TESTS_BENCH_REPORT_H
#define TESTS_BENCH_REPORT_H

#include <cjson/cJSON.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "tests/bench/peers.h"

namespace bench {

struct Quartiles {
  double lower;
  double median;
  double upper;
};

/// The quantile `q` of sorted samples, interpolated.
inline double SortedQuantile(const std::vector<double>& sorted, double q) {
  const double position = q * static_cast<double>(sorted.size() - 1);
  const size_t below = static_cast<size_t>(position);
  if (below + 1 >= sorted.size()) return sorted.back();
  return sorted[below] + (sorted[below + 1] - sorted[below]) * (position - static_cast<double>(below));
}

inline Quartiles QuartilesOf(std::vector<double> samples) {
  Require(!samples.empty(), "no samples");
  std::sort(samples.begin(), samples.end());
  return {SortedQuantile(samples, 0.25), SortedQuantile(samples, 0.5), SortedQuantile(samples, 0.75)};
}

/// "-" for rows that only inform.
inline const char* Verdict(double value, double bar) {
  if (std::isnan(bar)) return "-";
  return value <= bar ? "met" : "MISSED";
}

/// Writes `document` to `path` ("-": standard output) and frees it.
inline void WriteJson(cJSON* document, const std::string& path) {
  char* text = cJSON_Print(document);
  Require(text != nullptr, "cJSON_Print");
  FILE* file = path == "-" ? stdout : fopen(path.c_str(), "w");
  if (file == nullptr) Fail(("cannot write " + path).c_str());
  fprintf(file, "%s\n", text);
  if (file != stdout) fclose(file);
  cJSON_free(text);
  cJSON_Delete(document);
}

}  // namespace bench

#endif
