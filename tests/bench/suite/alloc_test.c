// A random mix with sizes and lifetimes of about a real program: after "Testing memory allocators: ptmalloc2 vs
// tcmalloc vs hoard vs jemalloc while trying to simulate real-world loads" (Ignatchenko, 2018). Each of THREADS has
// slots, of which it chooses with a preference for few (the product of two random numbers); a full slot is freed, an
// empty one filled with a block whose size falls off as its inverse.
#include "tests/bench/suite/suite.h"

enum { kSlots = 1 << 15, kMost = 8192 };

typedef struct {
  uint64_t seed;
  long operations;
  uint64_t freed;
} worker_t;

static void* work(void* argument) {
  worker_t* const worker = argument;
  uint64_t seed = worker->seed;
  uint64_t freed = 0;
  void** const slots = calloc(kSlots, sizeof(void*));
  if (slots == NULL) suite_fail("no memory");
  for (long i = 0; i < worker->operations; i++) {
    void** const slot = &slots[suite_below(&seed, suite_below(&seed, kSlots) + 1)];
    if (*slot != NULL) {
      freed += suite_free(*slot);
      *slot = NULL;
    } else {
      *slot = suite_malloc(suite_falling_size(&seed, kMost));
    }
  }
  for (int i = 0; i < kSlots; i++) freed += suite_free(slots[i]);
  free(slots);
  worker->freed = freed;
  return NULL;
}

int main(int argc, char** argv) {
  const suite_args_t args = suite_args(argc, argv);
  worker_t workers[1024] = {{0, 0, 0}};
  for (int i = 0; i < args.threads; i++) {
    workers[i].seed = 500 + (uint64_t)i;
    workers[i].operations = suite_scaled(&args, 8000000 / args.threads);
  }
  suite_threads(args.threads, work, workers, sizeof(workers[0]));
  uint64_t freed = 0;
  for (int i = 0; i < args.threads; i++) freed += workers[i].freed;
  return suite_finish(freed);
}
