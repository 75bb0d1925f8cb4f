// Arrays and strings that grow at their end: realloc by half as much again, of a few hundred arrays at once, from a few
// bytes to megabytes, each dropped when it reached its length, and zeroed tables of many sizes in between. What the
// allocator can do in place, or by moving pages instead of bytes, shows here.
#include "tests/bench/suite/suite.h"

enum { kVectors = 200 };

typedef struct {
  uint32_t* items;
  size_t count;
  size_t room;
  size_t end;
} vector_t;

static uint64_t finish(vector_t* vector) {
  uint64_t sum = 0;
  for (size_t i = 0; i < vector->count; i += 16) {
    if (vector->items[i] != (uint32_t)i) suite_fail("vector damaged");
    sum += vector->items[i];
  }
  free(vector->items);
  memset(vector, 0, sizeof(*vector));
  return sum;
}

static void grow(vector_t* vector, size_t by) {
  while (vector->room < vector->count + by) vector->room += vector->room / 2 + 8;
  vector->items = realloc(vector->items, vector->room * sizeof(uint32_t));
  if (vector->items == NULL) suite_fail("no memory");
  for (size_t i = 0; i < by; i++) vector->items[vector->count + i] = (uint32_t)(vector->count + i);
  vector->count += by;
}

static uint64_t zeroed_table(uint64_t* seed) {
  const size_t size = (size_t)1 << suite_between(seed, 6, 17);
  unsigned char* const table = calloc(1, size);
  if (table == NULL) suite_fail("no memory");
  uint64_t sum = size;
  for (size_t i = 0; i < size; i += 512) sum += table[i];
  memset(table, 0xff, size);
  free(table);
  return sum;
}

int main(int argc, char** argv) {
  const suite_args_t args = suite_args(argc, argv);
  static vector_t vectors[kVectors];
  uint64_t seed = 1900;
  uint64_t sum = 0;
  const long steps = suite_scaled(&args, 300000);
  for (long i = 0; i < steps; i++) {
    vector_t* const vector = &vectors[suite_below(&seed, kVectors)];
    if (vector->end == 0) {
      vector->end = (size_t)16 << suite_below(&seed, 15);
    } else if (vector->count >= vector->end) {
      sum += finish(vector);
      continue;
    }
    grow(vector, suite_between(&seed, 1, 16 + vector->count / 4));
    if (i % 8 == 0) sum += zeroed_table(&seed);
  }
  for (int i = 0; i < kVectors; i++) sum += finish(&vectors[i]);
  return suite_finish(sum);
}
