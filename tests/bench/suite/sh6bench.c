// Batches of small blocks freed in mixed orders: in the manner of MicroQuill's SmartHeap benchmark (its sixth version).
// Each of THREADS allocates runs of blocks of one size, for sizes from small to large, frees every third soon, and of
// the rest some in the order of allocation and some backwards, a few batches later.
#include "tests/bench/suite/suite.h"

enum { kBatches = 8, kRun = 64, kSizes = 24, kPerBatch = kRun * kSizes };

typedef struct {
  long rounds;
  uint64_t freed;
} worker_t;

static uint64_t free_batch(void** batch, int backwards) {
  uint64_t freed = 0;
  for (int i = 0; i < kPerBatch; i++) {
    const int place = backwards ? kPerBatch - 1 - i : i;
    freed += suite_free(batch[place]);
    batch[place] = NULL;
  }
  return freed;
}

static void* work(void* argument) {
  worker_t* const worker = argument;
  uint64_t freed = 0;
  void*(*const batches)[kPerBatch] = calloc(kBatches, sizeof(*batches));
  if (batches == NULL) suite_fail("no memory");
  for (long round = 0; round < worker->rounds; round++) {
    void** const batch = batches[round % kBatches];
    freed += free_batch(batch, (round / kBatches) % 2 != 0);
    for (int i = 0; i < kPerBatch; i++) {
      batch[i] = suite_malloc(8 + (size_t)(i / kRun) * 24);
      if (i % 3 == 2) {
        freed += suite_free(batch[i - 1]);
        batch[i - 1] = NULL;
      }
    }
  }
  for (int i = 0; i < kBatches; i++) freed += free_batch(batches[i], 0);
  free(batches);
  worker->freed = freed;
  return NULL;
}

int main(int argc, char** argv) {
  const suite_args_t args = suite_args(argc, argv);
  worker_t workers[1024] = {{0, 0}};
  for (int i = 0; i < args.threads; i++) workers[i].rounds = suite_scaled(&args, 12000 / args.threads);
  suite_threads(args.threads, work, workers, sizeof(workers[0]));
  uint64_t freed = 0;
  for (int i = 0; i < args.threads; i++) freed += workers[i].freed;
  return suite_finish(freed);
}
