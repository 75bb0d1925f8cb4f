// One program whose heaps have a deferred_free, for deferred_runs_test.sh: it prints how often which heap was called,
// and a digest of the allocation at which each call came and of the budget that it had. With an argument it sleeps now
// and then, for times that differ from run to run: memory is purged at other moments, and pages come to lie elsewhere.
// Nothing of that may show.
#define _DEFAULT_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "mi/heap/heap.h"
#include "mi/mimalloc.h"

#define HEAPS 6
#define KEPT 40000

static uint64_t allocations;
static uint64_t digest = 14695981039346656037u;

static void digest_add(uint64_t value) { digest = (digest ^ value) * 1099511628211u; }

typedef struct vm_s {
  mi_heap_t* heap;
  unsigned long long calls, forced, heartbeat;
  void* waiting[KEPT];
  size_t waiting_count;
} vm_t;

static void free_some(mi_heap_t* heap, bool force, unsigned long long heartbeat, void* arg) {
  vm_t* const vm = arg;
  if (heap != vm->heap || heartbeat <= vm->heartbeat) {
    puts("FAILED: the callback got another heap or an old heartbeat");
    exit(1);
  }
  vm->heartbeat = heartbeat;
  vm->calls++;
  if (force) vm->forced++;
  const size_t budget = mi_heap_deferred_budget(heap);
  digest_add(allocations);
  digest_add(force ? 1 : budget);
  for (size_t n = 0; n < budget && vm->waiting_count > 0; n++) mi_free(vm->waiting[--vm->waiting_count]);
}

static uint64_t seed = 88172645463325252u;
static uint64_t next_random(void) {
  seed ^= seed << 13;
  seed ^= seed >> 7;
  seed ^= seed << 17;
  return seed;
}

static void drop(vm_t* vm, void* block) {
  if (vm->waiting_count < KEPT) {
    vm->waiting[vm->waiting_count++] = block;
  } else {
    mi_free(block);
  }
}

int main(int argc, char** argv) {
  (void)argv;
  srand((unsigned)(time(NULL) ^ getpid()));
  static vm_t vms[HEAPS];
  for (int i = 0; i < HEAPS; i++) {
    mi_heap_config_t config = {.size = sizeof(config), .deferred_free = free_some, .deferred_arg = &vms[i]};
    if (i % 3 == 1) config.deferred_cadence = 500;
    if (i % 3 == 2) config.deferred_bytes = 20000;
    vms[i].heap = mi_heap_new_with(&config);
    if (vms[i].heap == NULL) return 1;
  }
  static void* live[HEAPS][1000];
  for (int round = 0; round < 400; round++) {
    vm_t* const vm = &vms[round % HEAPS];
    void** const slots = live[round % HEAPS];
    const uint64_t kind = next_random() % 10;
    for (int n = 0; n < 2000; n++) {
      const uint64_t r = next_random();
      const size_t size = (kind < 7 ? r % 200 : kind < 9 ? r % 3000 : r % 100000);
      void** const slot = &slots[(r >> 32) % 1000];
      if (*slot != NULL) drop(vm, *slot);
      *slot = mi_heap_malloc(vm->heap, size);
      if (*slot == NULL) return 1;
      memset(*slot, 1, size < 64 ? size : 64);
      allocations++;
    }
    if (round % 20 == 19) {
      mi_heap_reset(vm->heap);
      memset(live[round % HEAPS], 0, sizeof(live[0]));
      vm->waiting_count = 0;
    }
    if (argc > 1 && round % 10 == 0) usleep((useconds_t)(rand() % 8000));
    free(malloc(100000 + (size_t)(argc > 1 ? rand() % 100000 : 0)));  // the C library's: addresses move
  }
  for (int i = 0; i < HEAPS; i++) {
    mi_heap_destroy(vms[i].heap);
    printf("heap %d: %llu calls, %llu forced, heartbeat %llu\n", i, vms[i].calls, vms[i].forced, vms[i].heartbeat);
  }
  printf("digest %016llx\n", (unsigned long long)digest);
  return 0;
}
