// A program for counting instructions: pairs of an allocation and a free of 64 B on a warm path, nothing else. Linked
// statically, so that no jump through a table comes between. fastpath.py runs it under callgrind with two numbers of
// pairs and takes the difference, in which everything before and after the loop disappears.
//
// Usage: fastpath malloc|small|heap|heap_small|theap PAIRS

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mi/mimalloc.h"

enum { kSize = 64, kWarmPairs = 5000, kLiveBlocks = 20, kSpareBlocks = 64 };

// Keeps the compiler from removing an allocation that is not used.
static inline void keep(void* p) { __asm__ volatile("" : : "r"(p) : "memory"); }

#define PAIRS(allocation)                 \
  for (unsigned long i = 0; i < n; i++) { \
    void* p = (allocation);               \
    keep(p);                              \
    mi_free(p);                           \
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
  } else {
    fprintf(stderr, "no such path: %s\n", which);
    exit(2);
  }
}

int main(int argc, char** argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: %s malloc|small|heap|heap_small|theap PAIRS\n", argv[0]);
    return 2;
  }
  mi_heap_t* heap = mi_heap_new();
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
  return 0;
}
