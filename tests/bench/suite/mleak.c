// Threads that come and go: what each leaves behind must be found again by the next ones, or memory grows with the
// number of threads that ever were. After the test of that name among mimalloc's. THREADS at a time allocate a few
// hundred blocks, free half and end; the main thread frees the other half when they are gone.
#include "tests/bench/suite/suite.h"

enum { kBlocks = 300 };

typedef struct {
  uint64_t seed;
  void* blocks[kBlocks];
} worker_t;

static void* work(void* argument) {
  worker_t* const worker = argument;
  for (int i = 0; i < kBlocks; i++) worker->blocks[i] = suite_malloc(suite_falling_size(&worker->seed, 4096));
  for (int i = 0; i < kBlocks; i += 2) {
    worker->seed += suite_free(worker->blocks[i]);
    worker->blocks[i] = NULL;
  }
  return NULL;
}

int main(int argc, char** argv) {
  const suite_args_t args = suite_args(argc, argv);
  const long rounds = suite_scaled(&args, 4000 / args.threads);
  worker_t* const workers = calloc((size_t)args.threads, sizeof(worker_t));
  if (workers == NULL) suite_fail("no memory");
  uint64_t freed = 0;
  for (long round = 0; round < rounds; round++) {
    for (int i = 0; i < args.threads; i++) workers[i].seed = 1100 + (uint64_t)(round * args.threads + i);
    suite_threads(args.threads, work, workers, sizeof(workers[0]));
    for (int i = 0; i < args.threads; i++) {
      freed += workers[i].seed;
      for (int k = 1; k < kBlocks; k += 2) freed += suite_free(workers[i].blocks[k]);
    }
  }
  free(workers);
  return suite_finish(freed);
}
