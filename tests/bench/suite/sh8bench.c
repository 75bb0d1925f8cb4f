// Random sizes with batches that live for different times, between threads: in the manner of MicroQuill's SmartHeap
// benchmark for SMP (its eighth version). Each of THREADS allocates batches of blocks of random size, frees one in four
// at once, and hangs the rest on a random one of a number of hooks that all threads share; what hung there it frees in
// the order of allocation or backwards.
#include <stdatomic.h>

#include "tests/bench/suite/suite.h"

enum { kHooks = 64, kRun = 400 };

typedef struct {
  int count;
  void* blocks[kRun];
} batch_t;

static _Atomic(batch_t*) hooks[kHooks];

typedef struct {
  uint64_t seed;
  long rounds;
  uint64_t freed;
} worker_t;

static uint64_t free_batch(batch_t* batch, int backwards) {
  uint64_t freed = 0;
  if (batch == NULL) return 0;
  for (int i = 0; i < batch->count; i++) freed += suite_free(batch->blocks[backwards ? batch->count - 1 - i : i]);
  free(batch);
  return freed;
}

static void* work(void* argument) {
  worker_t* const worker = argument;
  uint64_t freed = 0;
  for (long round = 0; round < worker->rounds; round++) {
    batch_t* const batch = malloc(sizeof(*batch));
    if (batch == NULL) suite_fail("no memory");
    batch->count = 0;
    for (int i = 0; i < kRun; i++) {
      void* const block = suite_malloc(suite_falling_size(&worker->seed, 1024));
      if (i % 4 == 3) {
        freed += suite_free(block);
      } else {
        batch->blocks[batch->count++] = block;
      }
    }
    freed += free_batch(atomic_exchange(&hooks[suite_below(&worker->seed, kHooks)], batch), round % 2 != 0);
  }
  worker->freed = freed;
  return NULL;
}

int main(int argc, char** argv) {
  const suite_args_t args = suite_args(argc, argv);
  worker_t workers[1024] = {{0, 0, 0}};
  for (int i = 0; i < args.threads; i++) {
    workers[i].seed = 800 + (uint64_t)i;
    workers[i].rounds = suite_scaled(&args, 12000 / args.threads);
  }
  suite_threads(args.threads, work, workers, sizeof(workers[0]));
  uint64_t freed = 0;
  for (int i = 0; i < args.threads; i++) freed += workers[i].freed;
  for (int i = 0; i < kHooks; i++) freed += free_batch(atomic_load(&hooks[i]), 0);
  return suite_finish(freed);
}
