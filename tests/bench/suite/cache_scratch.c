// Passive false sharing: Berger, McKinley, Blumofe and Wilson, "Hoard: a scalable memory allocator for multithreaded
// applications" (ASPLOS 2000). The main thread allocates one small block for each of THREADS and hands it over. A
// thread frees the one it got, then allocates one of that size, writes it many times and frees it, again and again. An
// allocator that gives the freed block to its new thread makes the threads write to one cache line.
#include "tests/bench/suite/suite.h"

enum { kSize = 8, kWrites = 1000 };

typedef struct {
  volatile char* given;
  long rounds;
  uint64_t sum;
} worker_t;

static void* work(void* argument) {
  worker_t* const worker = argument;
  free((void*)worker->given);
  uint64_t sum = 0;
  for (long i = 0; i < worker->rounds; i++) {
    volatile char* const block = malloc(kSize);
    if (block == NULL) suite_fail("no memory");
    for (int k = 0; k < kSize; k++) block[k] = (char)(i + k);
    for (int j = 0; j < kWrites; j++) {
      for (int k = 0; k < kSize; k++) block[k] = (char)(block[k] + 1);
    }
    sum += (unsigned char)block[0];
    free((void*)block);
  }
  worker->sum = sum;
  return NULL;
}

int main(int argc, char** argv) {
  const suite_args_t args = suite_args(argc, argv);
  const long rounds = suite_scaled(&args, 80000) / args.threads + 1;
  worker_t* const workers = malloc(sizeof(worker_t) * (size_t)args.threads);
  if (workers == NULL) suite_fail("no memory");
  for (int i = 0; i < args.threads; i++) {
    workers[i].given = malloc(kSize);
    workers[i].rounds = rounds;
  }
  suite_threads(args.threads, work, workers, sizeof(workers[0]));
  uint64_t sum = 0;
  for (int i = 0; i < args.threads; i++) sum += workers[i].sum;
  free(workers);
  return suite_finish(sum);
}
