// Phases of much work with idle time between them: what Hunter et al. ("Beyond malloc efficiency to fleet efficiency",
// OSDI 2021) say of servers, whose load rises and falls, and where memory that goes back too early costs as much as
// memory that is kept. Each of THREADS allocates some 24 MiB of blocks, frees nearly all of them, ticks for 20 ms with
// a few small blocks every millisecond, and begins again.
#include <time.h>

#include "tests/bench/suite/suite.h"

enum { kBlocks = 60000, kIdleTicks = 20 };

typedef struct {
  uint64_t seed;
  long phases;
  uint64_t freed;
} worker_t;

static uint64_t tick(uint64_t* seed) {
  const struct timespec millisecond = {0, 1000000};
  uint64_t freed = 0;
  for (int i = 0; i < 8; i++) freed += suite_free(suite_malloc(suite_falling_size(seed, 256)));
  nanosleep(&millisecond, NULL);
  return freed;
}

static void* work(void* argument) {
  worker_t* const worker = argument;
  uint64_t freed = 0;
  void** const blocks = calloc(kBlocks, sizeof(void*));
  if (blocks == NULL) suite_fail("no memory");
  for (long phase = 0; phase < worker->phases; phase++) {
    for (int i = 0; i < kBlocks; i++) {
      freed += suite_free(blocks[i]);
      blocks[i] = suite_malloc(suite_falling_size(&worker->seed, 16384));
    }
    for (int i = 0; i < kBlocks; i++) {
      if (i % 100 == 0) continue;
      freed += suite_free(blocks[i]);
      blocks[i] = NULL;
    }
    for (int i = 0; i < kIdleTicks; i++) freed += tick(&worker->seed);
  }
  for (int i = 0; i < kBlocks; i++) freed += suite_free(blocks[i]);
  free(blocks);
  worker->freed = freed;
  return NULL;
}

int main(int argc, char** argv) {
  const suite_args_t args = suite_args(argc, argv);
  worker_t workers[1024] = {{0, 0, 0}};
  for (int i = 0; i < args.threads; i++) {
    workers[i].seed = 1800 + (uint64_t)i;
    workers[i].phases = suite_scaled(&args, 48 / args.threads);
  }
  suite_threads(args.threads, work, workers, sizeof(workers[0]));
  uint64_t freed = 0;
  for (int i = 0; i < args.threads; i++) freed += workers[i].freed;
  return suite_finish(freed);
}
