// Prints which allocations of each thread are guarded, by number, for 4 threads that begin one after the other and then
// run at the same time: with one seed, the same in every run. Blocks of 100 bytes are 112 large unless guarded.
#define _GNU_SOURCE
#include <mimalloc.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define THREADS 4
#define COUNT 20000

static pthread_barrier_t begun;
static pthread_mutex_t one_after_the_other[THREADS];
static char text[THREADS][COUNT];
static size_t length[THREADS];

static void* run(void* argument) {
  const size_t number = (size_t)(char*)argument;
  pthread_mutex_lock(&one_after_the_other[number]);
  for (int i = 0; i < COUNT; i++) {
    char* const p = mi_malloc(100);
    if (p == NULL) exit(3);
    if (mi_usable_size(p) == 100 && length[number] + 16 < COUNT)
      length[number] += (size_t)snprintf(text[number] + length[number], 16, " %d", i);
    mi_free(p);
    if (i > 0) continue;
    if (number + 1 < THREADS) pthread_mutex_unlock(&one_after_the_other[number + 1]);
    pthread_barrier_wait(&begun);
  }
  return NULL;
}

int main(void) {
  pthread_t threads[THREADS];
  pthread_barrier_init(&begun, NULL, THREADS);
  for (size_t i = 0; i < THREADS; i++) {
    pthread_mutex_init(&one_after_the_other[i], NULL);
    if (i > 0) pthread_mutex_lock(&one_after_the_other[i]);
  }
  for (size_t i = 0; i < THREADS; i++) {
    if (pthread_create(&threads[i], NULL, run, (void*)(uintptr_t)i) != 0) return 3;
  }
  for (size_t i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
  for (size_t i = 0; i < THREADS; i++) printf("%zu:%s\n", i, text[i]);
  return 0;
}
