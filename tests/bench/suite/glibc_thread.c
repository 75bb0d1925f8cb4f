// A working set whose blocks are replaced at random: what the GNU C library's own benchmarks call malloc-thread. Each
// of THREADS holds 1,024 blocks and replaces them in random order, with sizes of 4 to 32,768 bytes that fall off as
// their inverse.
#include "tests/bench/suite/suite.h"

enum { kBlocks = 1024, kMost = 32768 };

typedef struct {
  uint64_t seed;
  long operations;
  uint64_t freed;
} worker_t;

static void* work(void* argument) {
  worker_t* const worker = argument;
  uint64_t seed = worker->seed;
  uint64_t freed = 0;
  void* blocks[kBlocks] = {NULL};
  for (long i = 0; i < worker->operations; i++) {
    void** const place = &blocks[suite_below(&seed, kBlocks)];
    freed += suite_free(*place);
    *place = suite_malloc(suite_falling_size(&seed, kMost));
  }
  for (int i = 0; i < kBlocks; i++) freed += suite_free(blocks[i]);
  worker->freed = freed;
  return NULL;
}

int main(int argc, char** argv) {
  const suite_args_t args = suite_args(argc, argv);
  worker_t workers[1024] = {{0, 0, 0}};
  for (int i = 0; i < args.threads; i++) {
    workers[i].seed = 900 + (uint64_t)i;
    workers[i].operations = suite_scaled(&args, 7000000 / args.threads);
  }
  suite_threads(args.threads, work, workers, sizeof(workers[0]));
  uint64_t freed = 0;
  for (int i = 0; i < args.threads; i++) freed += workers[i].freed;
  return suite_finish(freed);
}
