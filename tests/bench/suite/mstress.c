// Objects that survive their thread: after the stress test that Leijen, Zorn and de Moura describe with mimalloc
// ("Mimalloc: free list sharding in action", APLAS 2019). In each of several rounds THREADS start, allocate objects of
// a few words, some much larger, keep some of them, exchange some with a table that all threads share, and free the
// rest before they end. What is in the table is freed by later threads.
#include <stdatomic.h>

#include "tests/bench/suite/suite.h"

enum { kTable = 1000, kKept = 4096 };

static _Atomic(void*) table[kTable];

typedef struct {
  uint64_t seed;
  long operations;
  uint64_t freed;
} worker_t;

static size_t object_size(uint64_t* seed) {
  const uint64_t kind = suite_below(seed, 1000);
  if (kind < 1) return suite_between(seed, 20000, 200000);
  if (kind < 20) return suite_between(seed, 1000, 8000);
  return suite_between(seed, 1, 16) * sizeof(void*);
}

static void* work(void* argument) {
  worker_t* const worker = argument;
  uint64_t seed = worker->seed;
  uint64_t freed = 0;
  void** const kept = calloc(kKept, sizeof(void*));
  if (kept == NULL) suite_fail("no memory");
  for (long i = 0; i < worker->operations; i++) {
    void** const place = &kept[suite_below(&seed, kKept)];
    if (*place == NULL || suite_below(&seed, 10) < 4) {
      freed += suite_free(*place);
      *place = suite_malloc(object_size(&seed));
    } else {
      // The sum of what is freed does not depend on who frees it.
      *place = atomic_exchange(&table[suite_below(&seed, kTable)], *place);
      if (*place == NULL) *place = suite_malloc(64);
    }
  }
  for (int i = 0; i < kKept; i++) freed += suite_free(kept[i]);
  free(kept);
  worker->freed = freed;
  return NULL;
}

int main(int argc, char** argv) {
  const suite_args_t args = suite_args(argc, argv);
  worker_t workers[1024] = {{0, 0, 0}};
  const long rounds = suite_scaled(&args, 60);
  uint64_t freed = 0;
  for (int i = 0; i < kTable; i++) atomic_init(&table[i], suite_malloc(64));
  for (long round = 0; round < rounds; round++) {
    for (int i = 0; i < args.threads; i++) {
      workers[i].seed = 1000 + (uint64_t)(round * 1000 + i);
      workers[i].operations = 160000 / args.threads;
    }
    suite_threads(args.threads, work, workers, sizeof(workers[0]));
    for (int i = 0; i < args.threads; i++) freed += workers[i].freed;
  }
  for (int i = 0; i < kTable; i++) freed += suite_free(atomic_load(&table[i]));
  return suite_finish(freed);
}
