// One thread only frees, all others only allocate, and what each allocates is passed on block by block: the shape in
// which memory of many threads comes back through one. Described as producer-consumer in Berger et al., "Hoard: a
// scalable memory allocator for multithreaded applications" (ASPLOS 2000), where it makes some allocators grow without
// bound. The rings are of 1,024 places, so that what is live is bounded.
#include <sched.h>
#include <stdatomic.h>

#include "tests/bench/suite/suite.h"

enum { kPlaces = 1024 };

typedef struct {
  _Alignas(64) _Atomic(size_t) written;
  _Alignas(64) _Atomic(size_t) read;
  _Alignas(64) void* places[kPlaces];
  uint64_t seed;
  long blocks;
} ring_t;

static void* allocate(void* argument) {
  ring_t* const ring = argument;
  size_t written = 0;
  for (long i = 0; i < ring->blocks; i++) {
    while (written - atomic_load_explicit(&ring->read, memory_order_acquire) == kPlaces) sched_yield();
    ring->places[written % kPlaces] = suite_malloc(suite_between(&ring->seed, 16, 400));
    // Told in bursts, as a buffer of messages would be.
    if (++written % 64 == 0 || i + 1 == ring->blocks) {
      atomic_store_explicit(&ring->written, written, memory_order_release);
    }
  }
  return NULL;
}

int main(int argc, char** argv) {
  const suite_args_t args = suite_args(argc, argv);
  const long blocks = suite_scaled(&args, 8000000 / args.threads);
  ring_t* const rings = aligned_alloc(64, sizeof(ring_t) * (size_t)args.threads);
  if (rings == NULL) suite_fail("no memory");
  memset(rings, 0, sizeof(ring_t) * (size_t)args.threads);
  pthread_t threads[1024];
  for (int i = 0; i < args.threads; i++) {
    rings[i].seed = 300 + (uint64_t)i;
    rings[i].blocks = blocks;
    threads[i] = suite_thread(allocate, &rings[i]);
  }
  uint64_t freed = 0;
  for (long left = blocks * args.threads; left > 0;) {
    long taken = 0;
    for (int i = 0; i < args.threads; i++) {
      ring_t* const ring = &rings[i];
      const size_t end = atomic_load_explicit(&ring->written, memory_order_acquire);
      size_t read = atomic_load_explicit(&ring->read, memory_order_relaxed);
      for (; read != end; read++, taken++) freed += suite_free(ring->places[read % kPlaces]);
      atomic_store_explicit(&ring->read, read, memory_order_release);
    }
    left -= taken;
    if (taken == 0) sched_yield();
  }
  for (int i = 0; i < args.threads; i++) suite_join(threads[i]);
  free(rings);
  return suite_finish(freed);
}
