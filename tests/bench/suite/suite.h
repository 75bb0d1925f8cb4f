// What the programs of the suite share: arguments, random numbers, threads, blocks that know their size. Each program
// is called with the number of its threads and the amount of its work in percent, does a fixed amount of work from
// fixed seeds with malloc and its family, whoever's those are, and prints a checksum which is the same under any
// allocator and any schedule. It measures nothing: time and memory are taken from outside (tests/bench/suite.py).
#ifndef TESTS_BENCH_SUITE_SUITE_H
#define TESTS_BENCH_SUITE_SUITE_H

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static inline void suite_fail(const char* what) {
  fprintf(stderr, "suite: %s\n", what);
  exit(1);
}

typedef struct {
  int threads;
  long percent;
} suite_args_t;

static inline suite_args_t suite_args(int argc, char** argv) {
  suite_args_t args = {0, 0};
  if (argc == 3) {
    args.threads = atoi(argv[1]);
    args.percent = atol(argv[2]);
  }
  if (args.threads < 1 || args.threads > 1024 || args.percent < 1) suite_fail("usage: PROGRAM THREADS PERCENT");
  return args;
}

/// `n` at 100 percent, but never 0.
static inline long suite_scaled(const suite_args_t* args, long n) {
  const long scaled = n * args->percent / 100;
  return scaled < 1 ? 1 : scaled;
}

/// Ends the program with its result.
static inline int suite_finish(uint64_t checksum) {
  printf("%016llx\n", (unsigned long long)checksum);
  return 0;
}

/// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
static inline uint64_t suite_random(uint64_t* state) {
  uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
  z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
  return z ^ (z >> 31);
}

static inline uint64_t suite_below(uint64_t* state, uint64_t n) { return ((suite_random(state) >> 32) * n) >> 32; }

static inline size_t suite_between(uint64_t* state, size_t least, size_t most) {
  return least + (size_t)suite_below(state, most - least + 1);
}

/// A size of which half are below 64 bytes, a quarter below 128, and so on up to `most`, a power of two: sizes of
/// blocks in programs fall off about as their inverse.
static inline size_t suite_falling_size(uint64_t* state, size_t most) {
  size_t limit = 64;
  while (limit < most && (suite_random(state) & 1) != 0) limit *= 2;
  return suite_between(state, 8, limit);
}

/// Writes the size (at least 8) into the block's first eight bytes and last byte.
static inline void suite_stamp(void* block, size_t size) {
  if (block == NULL) suite_fail("no memory");
  memcpy(block, &size, sizeof(size));
  if (size > sizeof(size)) ((unsigned char*)block)[size - 1] = (unsigned char)size;
}

/// The size that was stamped; ends the program if the block was written over.
static inline size_t suite_stamped(const void* block) {
  size_t size;
  memcpy(&size, block, sizeof(size));
  if (size > sizeof(size) && ((const unsigned char*)block)[size - 1] != (unsigned char)size)
    suite_fail("block damaged");
  return size;
}

static inline void* suite_malloc(size_t size) {
  void* const block = malloc(size);
  suite_stamp(block, size);
  return block;
}

/// Frees a stamped block or NULL; its size.
static inline size_t suite_free(void* block) {
  if (block == NULL) return 0;
  const size_t size = suite_stamped(block);
  free(block);
  return size;
}

static inline pthread_t suite_thread(void* (*run)(void*), void* argument) {
  pthread_t thread;
  if (pthread_create(&thread, NULL, run, argument) != 0) suite_fail("no thread");
  return thread;
}

static inline void suite_join(pthread_t thread) {
  if (pthread_join(thread, NULL) != 0) suite_fail("no join");
}

/// Runs `run` in `n` threads with the elements of an array of arguments, and waits for them.
static inline void suite_threads(int n, void* (*run)(void*), void* arguments, size_t size) {
  pthread_t threads[1024];
  for (int i = 0; i < n; i++) threads[i] = suite_thread(run, (char*)arguments + (size_t)i * size);
  for (int i = 0; i < n; i++) suite_join(threads[i]);
}

#endif
