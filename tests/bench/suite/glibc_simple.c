// Blocks of one size, allocated and freed in the same order: what the GNU C library's manual of its own benchmarks
// calls malloc-simple. For sizes from 16 to 1,024 bytes and runs of 25, 100, 400 and 1,600 blocks, on one thread or on
// each of THREADS.
#include "tests/bench/suite/suite.h"

enum { kMostBlocks = 1600 };

typedef struct {
  long blocks;
  uint64_t freed;
} worker_t;

static void* work(void* argument) {
  worker_t* const worker = argument;
  void* blocks[kMostBlocks];
  uint64_t freed = 0;
  for (size_t size = 16; size <= 1024; size *= 4) {
    for (int run = 25; run <= kMostBlocks; run *= 4) {
      for (long done = 0; done < worker->blocks; done += run) {
        for (int i = 0; i < run; i++) blocks[i] = suite_malloc(size);
        for (int i = 0; i < run; i++) freed += suite_free(blocks[i]);
      }
    }
  }
  worker->freed = freed;
  return NULL;
}

int main(int argc, char** argv) {
  const suite_args_t args = suite_args(argc, argv);
  worker_t workers[1024] = {{0, 0}};
  for (int i = 0; i < args.threads; i++) workers[i].blocks = suite_scaled(&args, 1500000 / args.threads);
  suite_threads(args.threads, work, workers, sizeof(workers[0]));
  uint64_t freed = 0;
  for (int i = 0; i < args.threads; i++) freed += workers[i].freed;
  return suite_finish(freed);
}
