// A random mix with frees by other threads: after the benchmark that Jansson describes with rpmalloc (2017). Each of
// THREADS goes round an array of blocks; at each step it frees a run of it and allocates as many, of 16 to 16,000 bytes
// with a preference for small ones. Every so often it gives a chunk of its blocks to the next thread and frees what it
// got from the one before.
#include <stdatomic.h>

#include "tests/bench/suite/suite.h"

enum { kBlocks = 4096, kRun = 128, kChunk = 256, kStepsPerChunk = 4, kMost = 16384 };

typedef struct chunk {
  struct chunk* next;
  void* blocks[kChunk];
} chunk_t;

typedef struct {
  _Alignas(64) _Atomic(chunk_t*) inbox;
  _Alignas(64) _Atomic(chunk_t*)* next_inbox;
  uint64_t seed;
  long steps;
  uint64_t freed;
} worker_t;

static uint64_t free_inbox(worker_t* worker) {
  uint64_t freed = 0;
  chunk_t* chunk = atomic_exchange(&worker->inbox, NULL);
  while (chunk != NULL) {
    chunk_t* const next = chunk->next;
    for (int i = 0; i < kChunk; i++) freed += suite_free(chunk->blocks[i]);
    free(chunk);
    chunk = next;
  }
  return freed;
}

static void give_chunk(worker_t* worker) {
  chunk_t* const chunk = malloc(sizeof(*chunk));
  if (chunk == NULL) suite_fail("no memory");
  for (int i = 0; i < kChunk; i++) chunk->blocks[i] = suite_malloc(suite_falling_size(&worker->seed, 1024));
  chunk->next = atomic_load(worker->next_inbox);
  while (!atomic_compare_exchange_weak(worker->next_inbox, &chunk->next, chunk)) continue;
}

static void* work(void* argument) {
  worker_t* const worker = argument;
  uint64_t freed = 0;
  void** const blocks = calloc(kBlocks, sizeof(void*));
  if (blocks == NULL) suite_fail("no memory");
  for (long step = 0; step < worker->steps; step++) {
    const size_t begin = suite_below(&worker->seed, kBlocks);
    for (size_t i = 0; i < kRun; i++) freed += suite_free(blocks[(begin + i * 7) % kBlocks]);
    for (size_t i = 0; i < kRun; i++) {
      blocks[(begin + i * 7) % kBlocks] = suite_malloc(suite_falling_size(&worker->seed, kMost));
    }
    if (step % kStepsPerChunk == 0) {
      give_chunk(worker);
      freed += free_inbox(worker);
    }
  }
  for (int i = 0; i < kBlocks; i++) freed += suite_free(blocks[i]);
  free(blocks);
  worker->freed = freed;
  return NULL;
}

int main(int argc, char** argv) {
  const suite_args_t args = suite_args(argc, argv);
  worker_t* const workers = aligned_alloc(64, sizeof(worker_t) * (size_t)args.threads);
  if (workers == NULL) suite_fail("no memory");
  for (int i = 0; i < args.threads; i++) {
    atomic_init(&workers[i].inbox, NULL);
    workers[i].next_inbox = &workers[(i + 1) % args.threads].inbox;
    workers[i].seed = 700 + (uint64_t)i;
    workers[i].steps = suite_scaled(&args, 28000 / args.threads);
  }
  suite_threads(args.threads, work, workers, sizeof(workers[0]));
  uint64_t freed = 0;
  for (int i = 0; i < args.threads; i++) freed += workers[i].freed + free_inbox(&workers[i]);
  free(workers);
  return suite_finish(freed);
}
