// Threads that only allocate and threads that only free: Lever and Boreham, "malloc() performance in a multithreaded
// Linux environment" (USENIX 2000, FREENIX track), after a program of theirs at Sun. Half of THREADS produce batches of
// blocks on a shared list of bounded length, the other half take batches off it and free them.
#include "tests/bench/suite/suite.h"

enum { kBatch = 500, kWaiting = 16 };

typedef struct batch {
  struct batch* next;
  void* blocks[kBatch];
} batch_t;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static batch_t* waiting;
static int waiting_count;
static long to_consume;

typedef struct {
  uint64_t seed;
  long batches;  // 0: a consumer
  uint64_t freed;
} worker_t;

static void produce(worker_t* worker) {
  for (; worker->batches > 0; worker->batches--) {
    batch_t* const batch = malloc(sizeof(*batch));
    if (batch == NULL) suite_fail("no memory");
    for (int i = 0; i < kBatch; i++) batch->blocks[i] = suite_malloc(suite_falling_size(&worker->seed, 512));
    pthread_mutex_lock(&mutex);
    while (waiting_count >= kWaiting) pthread_cond_wait(&changed, &mutex);
    batch->next = waiting;
    waiting = batch;
    waiting_count++;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&mutex);
  }
}

static batch_t* next_batch(void) {
  pthread_mutex_lock(&mutex);
  while (waiting == NULL && to_consume > 0) pthread_cond_wait(&changed, &mutex);
  batch_t* const batch = waiting;
  if (batch != NULL) {
    waiting = batch->next;
    waiting_count--;
    to_consume--;
    pthread_cond_broadcast(&changed);
  }
  pthread_mutex_unlock(&mutex);
  return batch;
}

static void* work(void* argument) {
  worker_t* const worker = argument;
  if (worker->batches > 0) {
    produce(worker);
    return NULL;
  }
  for (batch_t* batch; (batch = next_batch()) != NULL; free(batch)) {
    for (int i = 0; i < kBatch; i++) worker->freed += suite_free(batch->blocks[i]);
  }
  return NULL;
}

int main(int argc, char** argv) {
  const suite_args_t args = suite_args(argc, argv);
  const int pairs = args.threads < 2 ? 1 : args.threads / 2;
  const long batches = suite_scaled(&args, 10000 / pairs);
  worker_t workers[1024] = {{0, 0, 0}};
  for (int i = 0; i < pairs; i++) {
    workers[2 * i].seed = 100 + (uint64_t)i;
    workers[2 * i].batches = batches;
  }
  to_consume = batches * pairs;
  suite_threads(2 * pairs, work, workers, sizeof(workers[0]));
  uint64_t freed = 0;
  for (int i = 0; i < 2 * pairs; i++) freed += workers[i].freed;
  return suite_finish(freed);
}
