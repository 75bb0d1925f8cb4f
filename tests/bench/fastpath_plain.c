// The pairs of fastpath.c with malloc and free, whoever's those are: for counting instructions with a library
// preloaded. Knows no allocator. fastpath.py counts what is executed in the library; the calls are the program's.
//
// Usage: fastpath_plain malloc|batch PAIRS

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { kSize = 64, kWarmPairs = 20000, kLiveBlocks = 20, kBatch = 1000 };

static inline void keep(void* p) { __asm__ volatile("" : : "r"(p) : "memory"); }

static void run_pairs(unsigned long pairs) {
  for (unsigned long i = 0; i < pairs; i++) {
    void* p = malloc(kSize);
    keep(p);
    free(p);
  }
}

static void run_batches(unsigned long pairs) {
  static void* blocks[kBatch];
  for (unsigned long done = 0; done < pairs; done += kBatch) {
    for (int i = 0; i < kBatch; i++) blocks[i] = malloc(kSize);
    for (int i = 0; i < kBatch; i++) free(blocks[i]);
  }
}

int main(int argc, char** argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: %s malloc|batch PAIRS\n", argv[0]);
    return 2;
  }
  void (*const run)(unsigned long) = strcmp(argv[1], "batch") == 0 ? run_batches : run_pairs;
  for (int i = 0; i < kLiveBlocks; i++) keep(malloc(kSize));
  run(kWarmPairs);
  run(strtoul(argv[2], NULL, 10));
  return 0;
}
