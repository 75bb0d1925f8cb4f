// What a thread costs that holds ten blocks, of 16 to 128 bytes in four classes: THREADS threads with them against the
// same threads without. Answers the bytes per thread. Every thread has allocated and freed a block in both cases, as
// nearly all threads do.
#include "tests/bench/suite/probe.h"

static pthread_barrier_t ready, done;

static void* hold(void* argument) {
  static const size_t sizes[] = {16, 48, 80, 128};
  const int count = *(const int*)argument;
  void* blocks[10];
  suite_free(suite_malloc(16));
  for (int i = 0; i < count; i++) blocks[i] = suite_malloc(sizes[i % 4]);
  pthread_barrier_wait(&ready);
  pthread_barrier_wait(&done);
  for (int i = 0; i < count; i++) suite_free(blocks[i]);
  return NULL;
}

// The resident memory while they hold.
static double resident_with(int threads, int blocks) {
  pthread_t ids[1024];
  for (int i = 0; i < threads; i++) ids[i] = suite_thread(hold, &blocks);
  pthread_barrier_wait(&ready);
  const double resident = probe_resident();
  pthread_barrier_wait(&done);
  for (int i = 0; i < threads; i++) suite_join(ids[i]);
  return resident;
}

int main(int argc, char** argv) {
  const suite_args_t args = suite_args(argc, argv);
  pthread_barrier_init(&ready, NULL, (unsigned)args.threads + 1);
  pthread_barrier_init(&done, NULL, (unsigned)args.threads + 1);
  // A process for each: what the first threads leave, the second ones would use.
  const double resident = resident_with(args.threads, args.percent == 100 ? 10 : 0);
  probe_answer("resident", resident);
  return 0;
}
