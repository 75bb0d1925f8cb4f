// Two threads and blocks of the library, for ThreadSanitizer.
//
//   race handover   blocks go from thread to thread in every correct way: nothing to report
//   race blocks     two threads write to one block without order: to be reported
//   race freed      one thread writes to a block that another one frees meanwhile: to be reported
#define _XOPEN_SOURCE 700  // pthread_barrier_t

#include <mimalloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROUNDS 300
#define BLOCKS 40

static _Atomic(char*) slots[BLOCKS];
static mi_heap_t* shared;

static char* take(size_t i) { return atomic_exchange_explicit(&slots[i], NULL, memory_order_acquire); }

// Frees what it finds in the slots, made by the other thread or by itself, and puts new blocks there: through free
// lists, regions, full pages and pages that a thread left behind, memory goes back and forth with no other order than
// that.
static void* swap_blocks(void* arg) {
  const size_t seed = (size_t)arg;
  for (size_t round = 0; round < ROUNDS; round++) {
    mi_heap_t* const own = mi_heap_new();
    for (size_t i = 0; i < BLOCKS; i++) {
      const size_t size = 8 + (seed * 7919 + round * 31 + i * 127) % (i % 10 == 0 ? 60000 : 900);
      char* const mine = (i % 3 == 0 ? mi_heap_malloc(shared, size) : i % 3 == 1 ? mi_malloc(size) : mi_zalloc(size));
      if (mine == NULL) exit(3);
      memset(mine, (int)i, size);
      char* const passing = mi_heap_malloc(own, size);
      memset(passing, 1, size);
      char* old = take(i);
      if (old != NULL) {
        old[0]++;
        if (i % 4 == 0) old = mi_realloc(old, size / 2 + 1);
        mi_free(old);
      }
      char* const other = atomic_exchange_explicit(&slots[i], mine, memory_order_acq_rel);
      if (other != NULL) mi_free(other);
    }
    if (round % 5 == 4) {
      mi_heap_delete(own);
    } else {
      mi_heap_destroy(own);
    }
  }
  return NULL;
}

static void handover(void) {
  shared = mi_heap_new();
  for (size_t generation = 0; generation < 3; generation++) {
    pthread_t threads[2];
    for (size_t i = 0; i < 2; i++) pthread_create(&threads[i], NULL, swap_blocks, (void*)(2 * generation + i));
    for (size_t i = 0; i < 2; i++) pthread_join(threads[i], NULL);
  }
  for (size_t i = 0; i < BLOCKS; i++) mi_free(take(i));
  mi_heap_destroy(shared);
  mi_collect(true);
}

static char* raced;
static pthread_barrier_t both;

static void* write_raced(void* arg) {
  (void)arg;
  pthread_barrier_wait(&both);
  *(volatile char*)raced = 'x';
  return NULL;
}

static void* free_raced(void* arg) {
  (void)arg;
  pthread_barrier_wait(&both);
  mi_free(raced);
  return NULL;
}

static void with_race(void* (*other)(void*)) {
  raced = mi_malloc(50);
  pthread_barrier_init(&both, NULL, 2);
  pthread_t threads[2];
  pthread_create(&threads[0], NULL, write_raced, NULL);
  pthread_create(&threads[1], NULL, other, NULL);
  for (size_t i = 0; i < 2; i++) pthread_join(threads[i], NULL);
}

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  if (strcmp(argv[1], "handover") == 0) {
    handover();
  } else if (strcmp(argv[1], "blocks") == 0) {
    with_race(write_raced);
  } else if (strcmp(argv[1], "freed") == 0) {
    with_race(free_raced);
  } else {
    return 2;
  }
  puts("done");
  return 0;
}
