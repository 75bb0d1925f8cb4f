// A pool of workers that sleep between jobs, as in servers of the kind that Larson and Krishnan (1998) describe: the
// main thread makes requests in bursts, THREADS workers wait for them on a condition variable, allocate for each a
// scratch area that grows and an answer of many blocks, and go to sleep again; the main thread reads and frees the
// answers. No worker works for long, and each meets memory of all the others.
#include "tests/bench/suite/suite.h"

enum { kBurst = 64, kBlocks = 120 };

typedef struct job {
  struct job* next;
  uint64_t seed;
  void* blocks[kBlocks];
} job_t;

typedef struct {
  pthread_mutex_t mutex;
  pthread_cond_t filled;
  job_t* jobs;
  int ended;
} channel_t;

static channel_t requests = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, NULL, 0};
static channel_t answers = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, NULL, 0};

static void put(channel_t* channel, job_t* job) {
  pthread_mutex_lock(&channel->mutex);
  job->next = channel->jobs;
  channel->jobs = job;
  pthread_cond_signal(&channel->filled);
  pthread_mutex_unlock(&channel->mutex);
}

static job_t* get(channel_t* channel) {
  pthread_mutex_lock(&channel->mutex);
  while (channel->jobs == NULL && !channel->ended) pthread_cond_wait(&channel->filled, &channel->mutex);
  job_t* const job = channel->jobs;
  if (job != NULL) channel->jobs = job->next;
  pthread_mutex_unlock(&channel->mutex);
  return job;
}

static void answer(job_t* job) {
  char* scratch = NULL;
  for (size_t size = 64; size <= 8192; size *= 2) {
    scratch = realloc(scratch, size);
    suite_stamp(scratch, size);
  }
  for (int i = 0; i < kBlocks; i++) job->blocks[i] = suite_malloc(suite_falling_size(&job->seed, 2048));
  suite_free(scratch);
}

static void* work(void* argument) {
  for (job_t* job; (job = get(&requests)) != NULL; put(&answers, job)) answer(job);
  return argument;
}

int main(int argc, char** argv) {
  const suite_args_t args = suite_args(argc, argv);
  const long bursts = suite_scaled(&args, 300);
  pthread_t threads[1024];
  for (int i = 0; i < args.threads; i++) threads[i] = suite_thread(work, NULL);
  uint64_t freed = 0;
  for (long burst = 0; burst < bursts; burst++) {
    for (int i = 0; i < kBurst; i++) {
      job_t* const job = malloc(sizeof(*job));
      if (job == NULL) suite_fail("no memory");
      job->seed = 1700 + (uint64_t)(burst * kBurst + i);
      put(&requests, job);
    }
    for (int i = 0; i < kBurst; i++) {
      job_t* const job = get(&answers);
      for (int k = 0; k < kBlocks; k++) freed += suite_free(job->blocks[k]);
      free(job);
    }
  }
  pthread_mutex_lock(&requests.mutex);
  requests.ended = 1;
  pthread_cond_broadcast(&requests.filled);
  pthread_mutex_unlock(&requests.mutex);
  for (int i = 0; i < args.threads; i++) suite_join(threads[i]);
  return suite_finish(freed);
}
