// A program for counting instructions: pairs of an allocation and a free of 64 B on a warm path, nothing else. Linked
// statically, so that no jump through a table comes between. fastpath.py runs it under callgrind with two numbers of
// pairs and takes the difference, in which everything before and after the loop disappears. The inline paths are the
// whole of a function of their own, loop included. `batch` allocates 1,000 blocks and then frees them in order;
// `remote` has another thread free them, and waits for it without an atomic read-modify-write of its own.
//
// Usage: fastpath malloc|small|heap|heap_small|theap|inline_theap|inline_heap|loop|batch|remote PAIRS

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mi/mimalloc-inline.h"

enum { kSize = 64, kWarmPairs = 5000, kLiveBlocks = 20, kSpareBlocks = 64, kBatch = 1000 };

// Keeps the compiler from removing an allocation that is not used.
static inline void keep(void* p) { __asm__ volatile("" : : "r"(p) : "memory"); }

#define PAIRS(allocation)                 \
  for (unsigned long i = 0; i < n; i++) { \
    void* p = (allocation);               \
    keep(p);                              \
    mi_free(p);                           \
  }

static void* batch[kBatch];
static _Atomic(int) turn;  // 0: allocate, 1: free, 2: the end

static void* free_batches(void* unused) {
  for (int now; (now = atomic_load_explicit(&turn, memory_order_acquire)) != 2;) {
    if (now == 0) {
      sched_yield();
      continue;
    }
    for (int i = 0; i < kBatch; i++) mi_free(batch[i]);
    atomic_store_explicit(&turn, 0, memory_order_release);
  }
  return unused;
}

static void run_batches(unsigned long n, bool remote) {
  for (unsigned long done = 0; done < n; done += kBatch) {
    for (int i = 0; i < kBatch; i++) batch[i] = mi_malloc(kSize);
    if (!remote) {
      for (int i = 0; i < kBatch; i++) mi_free(batch[i]);
      continue;
    }
    atomic_store_explicit(&turn, 1, memory_order_release);
    while (atomic_load_explicit(&turn, memory_order_acquire) != 0) sched_yield();
  }
}

static __attribute__((noinline)) void run_inline_theap(const mi_inline_thread_t* thread, const mi_inline_theap_t* theap,
                                                       unsigned long n) {
  for (unsigned long i = 0; i < n; i++) {
    void* p = mi_inline_theap_malloc_small(theap, kSize);
    keep(p);
    mi_inline_free_small(thread, p);
  }
}

static __attribute__((noinline)) void run_inline_heap(const mi_inline_thread_t* thread, mi_heap_t* heap,
                                                      unsigned long n) {
  for (unsigned long i = 0; i < n; i++) {
    void* p = mi_inline_heap_malloc_small(thread, heap, kSize);
    keep(p);
    mi_inline_free_small(thread, p);
  }
}

static void run(const char* which, mi_heap_t* heap, unsigned long n) {
  if (strcmp(which, "malloc") == 0) {
    PAIRS(mi_malloc(kSize))
  } else if (strcmp(which, "small") == 0) {
    PAIRS(mi_malloc_small(kSize))
  } else if (strcmp(which, "heap") == 0) {
    PAIRS(mi_heap_malloc(heap, kSize))
  } else if (strcmp(which, "heap_small") == 0) {
    PAIRS(mi_heap_malloc_small(heap, kSize))
  } else if (strcmp(which, "theap") == 0) {
    mi_theap_t* theap = mi_heap_theap(heap);
    PAIRS(mi_theap_malloc(theap, kSize))
  } else if (strcmp(which, "batch") == 0 || strcmp(which, "remote") == 0) {
    run_batches(n, which[0] == 'r');
  } else if (strcmp(which, "loop") == 0) {
    for (unsigned long i = 0; i < n; i++) keep(heap);
  } else if (strncmp(which, "inline", 6) == 0) {
    mi_inline_thread_t thread;
    mi_inline_theap_t theap;
    if (!mi_inline_thread_attach(&thread) || !mi_inline_theap_attach(&theap, heap)) {
      fprintf(stderr, "no inline paths with this library\n");
      exit(2);
    }
    if (strcmp(which, "inline_theap") == 0) {
      run_inline_theap(&thread, &theap, n);
    } else {
      run_inline_heap(&thread, heap, n);
    }
  } else {
    fprintf(stderr, "no such path: %s\n", which);
    exit(2);
  }
}

int main(int argc, char** argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: %s malloc|small|heap|heap_small|theap|inline_theap|inline_heap|loop|batch|remote PAIRS\n",
            argv[0]);
    return 2;
  }
  mi_heap_t* heap = mi_heap_new();
  pthread_t freer;
  const bool remote = strcmp(argv[1], "remote") == 0;
  if (remote && pthread_create(&freer, NULL, free_batches, NULL) != 0) return 1;
  run(argv[1], heap, kWarmPairs);  // a young heap moves this class to pages
  // Live blocks keep the page from becoming empty; spare ones give it free blocks for a while.
  void* spare[kSpareBlocks][2];
  for (int i = 0; i < kLiveBlocks; i++) {
    keep(mi_malloc(kSize));
    keep(mi_heap_malloc(heap, kSize));
  }
  for (int i = 0; i < kSpareBlocks; i++) {
    spare[i][0] = mi_malloc(kSize);
    spare[i][1] = mi_heap_malloc(heap, kSize);
  }
  for (int i = 0; i < kSpareBlocks; i++) {
    mi_free(spare[i][0]);
    mi_free(spare[i][1]);
  }
  run(argv[1], heap, kWarmPairs);
  run(argv[1], heap, strtoul(argv[2], NULL, 10));
  if (remote) {
    atomic_store_explicit(&turn, 2, memory_order_release);
    pthread_join(freer, NULL);
  }
  return 0;
}
