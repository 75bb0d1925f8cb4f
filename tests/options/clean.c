// A program without a bug that goes through the library's whole interface of blocks: sizes around every class, zeroed
// and aligned blocks, resizing in all forms, heaps that end in every way, visitors and callbacks, threads that hand
// blocks to each other. Writes each block to its last byte and looks at every byte that the library promises. Exits
// with 0 if all is well. Under a tool, there is nothing to report, and no block is left.
#include <mimalloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                             \
  do {                                                               \
    if (!(condition)) {                                              \
      fprintf(stderr, "clean: line %d: %s\n", __LINE__, #condition); \
      exit(1);                                                       \
    }                                                                \
  } while (0)

static const size_t sizes[] = {0,     1,     7,     8,     9,     15,    16,    17,     24,      31,      32,     33,
                               48,    64,    100,   127,   128,   129,   255,   256,    257,     500,     1000,   1008,
                               1009,  1023,  1024,  1025,  2000,  4000,  4096,  4097,   8191,    8192,    8193,   16384,
                               40000, 65520, 65521, 65535, 65536, 65537, 70000, 200000, 4000000, 4194304, 9000000};
#define SIZES (sizeof(sizes) / sizeof(sizes[0]))

static int all_zero(const char* p, size_t size) {
  for (size_t i = 0; i < size; i++) {
    if (p[i] != 0) return 0;
  }
  return 1;
}

static void sizes_and_zeros(mi_heap_t* heap) {
  for (size_t i = 0; i < SIZES; i++) {
    const size_t size = sizes[i];
    char* const p = mi_heap_malloc(heap, size);
    char* const z = mi_heap_zalloc(heap, size);
    CHECK(p != NULL && z != NULL && mi_usable_size(p) >= size && all_zero(z, size));
    memset(p, 'p', mi_usable_size(p));
    memset(z, 'z', mi_usable_size(z));
    CHECK(mi_heap_of(p) == heap);
    mi_free(p);
    char* const again = mi_heap_zalloc(heap, size);
    CHECK(all_zero(again, size));
    mi_free(again);
    mi_free(z);
  }
}

static void alignments(mi_heap_t* heap) {
  for (size_t alignment = 1; alignment <= 65536; alignment *= 2) {
    for (size_t i = 0; i < SIZES && sizes[i] <= 70000; i += 3) {
      char* const p = mi_heap_zalloc_aligned(heap, sizes[i], alignment);
      CHECK(p != NULL && (size_t)p % alignment == 0 && all_zero(p, sizes[i]));
      memset(p, 'a', sizes[i]);
      char* const q = mi_heap_malloc_aligned_at(heap, sizes[i] + 40, alignment, 24);
      CHECK(q != NULL && ((size_t)q + 24) % alignment == 0);
      memset(q, 'q', sizes[i] + 40);
      char* const r = mi_heap_realloc_aligned(heap, p, sizes[i] * 2 + 1, alignment);
      CHECK(r != NULL && (size_t)r % alignment == 0 && (sizes[i] == 0 || r[sizes[i] - 1] == 'a'));
      mi_free(r);
      mi_free(q);
    }
  }
}

static void resizing(mi_heap_t* heap) {
  char* p = mi_heap_malloc(heap, 1);
  p[0] = 'r';
  for (size_t size = 2; size < 100000; size += 1 + size / 3) {
    p = mi_heap_realloc(heap, p, size);
    CHECK(p != NULL && p[0] == 'r' && (size == 2 || p[1] == 's'));
    memset(p + 1, 's', size - 1);
  }
  p = mi_realloc(p, 10);
  CHECK(p[0] == 'r' && p[9] == 's');
  if (mi_expand(p, mi_usable_size(p)) != NULL) memset(p, 'e', mi_usable_size(p));
  if (mi_expand(p, 5) == p) memset(p, 'f', 5);
  mi_free(p);
  char* z = mi_heap_zalloc(heap, 10);
  for (size_t size = 11; size < 3000; size += 7) {
    z = mi_heap_rezalloc(heap, z, size);
    CHECK(z != NULL && all_zero(z, size));
  }
  z = mi_heap_recalloc(heap, z, 10, 3);
  CHECK(all_zero(z, 30));
  mi_free(z);
  char* const text = mi_heap_strdup(heap, "some text");
  CHECK(strcmp(text, "some text") == 0);
  mi_free(text);
}

typedef struct counts_s {
  size_t blocks, bytes;
} counts_t;

static bool count(const mi_heap_t* heap, const mi_heap_area_t* area, void* block, size_t size, void* arg) {
  (void)heap, (void)area;
  counts_t* const counts = arg;
  if (block == NULL) return true;
  counts->blocks++;
  counts->bytes += size;
  memset(block, 'v', mi_usable_size(block));
  return true;
}

static void visits(void) {
  mi_heap_t* const heap = mi_heap_new();
  for (size_t i = 0; i < SIZES; i++) CHECK(mi_heap_malloc(heap, sizes[i]) != NULL);
  counts_t counts = {0, 0};
  CHECK(mi_heap_visit_blocks(heap, true, count, &counts) && counts.blocks == SIZES);
  mi_heap_destroy(heap);
}

// What a heap is called is the library's memory, but the program's to read.
static void names(void) {
  const mi_heap_config_t config = {.size = sizeof(config), .name = "a name of some length"};
  for (int round = 0; round < 3; round++) {
    mi_heap_t* const heap = mi_heap_new_with(&config);
    CHECK(strcmp(mi_heap_name(heap), config.name) == 0);
    char* const p = mi_heap_malloc(heap, 100);
    memset(p, 'n', 100);
    mi_heap_destroy(heap);
  }
}

static void* kept[64];

static void deferred(bool force, unsigned long long heartbeat, void* arg) {
  (void)force, (void)heartbeat;
  int* const calls = arg;
  ++*calls;
  mi_free(mi_zalloc(40));
}

static void* churn(void* arg) {
  mi_heap_t* const heap = arg;
  for (int round = 0; round < 20; round++) {
    mi_heap_t* const own = mi_heap_new();
    char* blocks[50];
    for (size_t i = 0; i < 50; i++) {
      blocks[i] = mi_heap_malloc(i % 2 == 0 ? own : heap, 10 + 37 * i);
      memset(blocks[i], 'c', 10 + 37 * i);
    }
    for (size_t i = 1; i < 50; i += 2) mi_free(blocks[i]);
    if (round % 3 == 0) {
      mi_heap_reset(own);
      mi_heap_delete(own);
    } else {
      mi_heap_destroy(own);
    }
  }
  for (size_t i = 0; i < 64; i += 2) {
    if (kept[i] != NULL) mi_free(kept[i]);
    kept[i] = mi_malloc(100 * i + 1);
  }
  return NULL;
}

int main(void) {
  int calls = 0;
  mi_register_deferred_free(deferred, &calls);
  mi_heap_t* const heap = mi_heap_new();
  for (int round = 0; round < 2; round++) {
    sizes_and_zeros(mi_heap_main());
    sizes_and_zeros(heap);
    alignments(mi_heap_main());
    alignments(heap);
    resizing(mi_heap_main());
    resizing(heap);
    visits();
    names();
  }
  for (size_t i = 0; i < 64; i++) kept[i] = mi_heap_malloc(heap, 10 * i);
  for (int i = 0; i < 3; i++) {
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, churn, heap) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
  }
  mi_heap_delete(heap);
  for (size_t i = 0; i < 64; i++) mi_free(kept[i]);
  mi_collect(true);
  CHECK(calls > 0);
  mi_register_deferred_free(NULL, NULL);
  puts("clean");
  return 0;
}
