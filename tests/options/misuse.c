// A program with one misuse, or none, of a block in a hardened heap, or in the main heap of the secure build. It prints
// what the library must say, as an extended regular expression, does it, and stops with 3 if it comes back; with 77 if
// the system has no light guards, where only such would stop the misuse.
//
//   misuse NAME SIZE same    by the thread that allocated
//   misuse NAME SIZE other   by another thread, while the first one lives
//   misuse NAME SIZE dead    after the thread that allocated ended
//
// A neighbour of the block stays allocated, so that a page of small blocks stays; blocks larger than a class are alone.
#define _GNU_SOURCE
#include <mimalloc.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define CLASS_MAX (64 * 1024)

static mi_heap_t* heap;
static size_t size;
static const char* misuse;
static char *block, *neighbour;
static __attribute__((unused)) char global[64] __attribute__((aligned(16)));
static char expected[512];

// Hides from the compiler where a pointer comes from: it would warn of the misuse.
static __attribute__((noinline)) char* veil(void* p) {
  __asm__ volatile("" : "+r"(p));
  return p;
}

static bool is(const char* name) { return strcmp(misuse, name) == 0; }

// What the message ends with.
static const char* place(bool page_known) {
  static char text[256];
  if (page_known) {
    snprintf(text, sizeof(text), " \\(class [0-9]+, heap %p \"%s\", thread %d\\)", (void*)heap, mi_heap_name(heap),
             gettid());
  } else {
    snprintf(text, sizeof(text), " \\(thread %d\\)", gettid());
  }
  return text;
}

static void expect(const char* text) {
  printf("%s\n", text);
  fflush(stdout);
}
#define EXPECT(page_known, ...)                                \
  do {                                                         \
    int n = snprintf(expected, sizeof(expected), __VA_ARGS__); \
    strcpy(expected + n, place(page_known));                   \
    expect(expected);                                          \
  } while (0)

// The block was freed. A small one's page is still there; that of a large one is, if its owner has not seen it yet.
static void expect_freed(const char* function, const char* what) {
  int n = snprintf(expected, sizeof(expected), "(%s: %s %p, a block of [0-9]+ bytes%s", function, what, (void*)block,
                   place(true));
  if (size >= CLASS_MAX) {
    n += snprintf(expected + n, sizeof(expected) - (size_t)n,
                  "|%s: invalid pointer %p: its page was given back, the block was freed or never was one%s", function,
                  (void*)block, place(false));
  }
  snprintf(expected + n, sizeof(expected) - (size_t)n, ")");
  expect(expected);
}

// It was freed with all others of its page. If another thread did, its owner may not have given the page back yet.
static void expect_given_back(void) {
  snprintf(expected, sizeof(expected),
           "mi_free: (double free of %p, a block|invalid pointer %p: its page was given back, the block was freed)",
           (void*)block, (void*)block);
  expect(expected);
}

static void* do_misuse(void* unused) {
  (void)unused;
  char local[64] __attribute__((aligned(16)));
  if (is("double_free")) {
    mi_free(veil(block));
    expect_freed("mi_free", "double free of");
    mi_free(veil(block));
  } else if (is("free_of_given_back")) {
    mi_free(veil(block));
    mi_free(veil(neighbour));
    mi_heap_collect(heap, true);
    expect_given_back();
    mi_free(veil(block));
  } else if (is("interior_free")) {
    const size_t inside = (size > 16 ? 16 : 8);
    EXPECT(true, "mi_free: invalid pointer %p: %zu bytes into the block %p of %zu bytes", (void*)(block + inside),
           inside, (void*)block, size);
    mi_free(veil(block + inside));
  } else if (is("unaligned_free")) {
    EXPECT(true, "mi_free: invalid pointer %p: 1 bytes into the block %p of %zu bytes", (void*)(block + 1),
           (void*)block, size);
    mi_free(veil(block + 1));
  } else if (is("sized_free")) {
    EXPECT(true, "mi_free_size: the block %p is one of %zu bytes, not of %zu", (void*)block, size, size + 1);
    mi_free_size(veil(block), size + 1);
  } else if (is("realloc_of_freed")) {
    mi_free(veil(block));
    expect_freed("realloc", "use after free of");
    neighbour = mi_realloc(veil(block), 2 * size);
  } else if (is("realloc_of_interior")) {
    EXPECT(true, "realloc: invalid pointer %p: 8 bytes into the block %p of %zu bytes", (void*)(block + 8),
           (void*)block, size);
    neighbour = mi_realloc(veil(block + 8), 2 * size);
  } else if (is("usable_of_freed")) {
    mi_free(veil(block));
    expect_freed("mi_usable_size", "use after free of");
    size += mi_usable_size(veil(block));
  } else if (is("usable_of_interior")) {
    EXPECT(true, "mi_usable_size: invalid pointer %p: 8 bytes into the block %p of %zu bytes", (void*)(block + 8),
           (void*)block, size);
    size += mi_usable_size(veil(block + 8));
  } else if (is("overflow_1") || is("overflow_8")) {
    const size_t many = (is("overflow_1") ? 1 : 8);
    EXPECT(true, "mi_free: overflow: byte %zu of the block %p of %zu bytes was written", size, (void*)block, size);
    memset(veil(block) + size, 0, many);
    mi_free(veil(block));
  } else if (is("overflow_64k") || is("aligned_overflow_64k") || is("overflow_1m")) {
    expect("a fault");
    volatile char* const behind = veil(block) + size;
    for (size_t i = 0; i < (size_t)(is("overflow_1m") ? 1024 : 64) * 1024; i++) behind[i] = 'b';
#if MI_SECURE
  } else if (is("stack_free") || is("global_free") || is("foreign_free") || is("noncanonical_free")) {
    char* const foreign = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char* const p = (is("stack_free")     ? local
                     : is("global_free")  ? global
                     : is("foreign_free") ? foreign
                                          : (char*)0x8000123412341230u);
    EXPECT(false, "mi_free: invalid pointer %p: not a block of this library", (void*)p);
    mi_free(veil(p));
  } else if (is("realloc_of_stack")) {
    EXPECT(false, "realloc: invalid pointer %p: not a block of this library", (void*)local);
    neighbour = mi_realloc(veil(local), 100);
#endif
  } else {
    fprintf(stderr, "no such misuse: %s\n", misuse);
    exit(2);
  }
  veil(local);
  return NULL;
}

static void* allocate(void* unused) {
  (void)unused;
  block = mi_heap_malloc(heap, size);
  neighbour = mi_heap_malloc(heap, size);
  if (block == NULL || neighbour == NULL) exit(2);
  // The first one of a page, as far as it can be had: blocks are in no order.
  for (int i = 0; i < 200 && strncmp(misuse, "overflow_", 9) == 0 && size <= CLASS_MAX; i++) {
    char* const another = mi_heap_malloc(heap, size);
    if (another < block) block = another;
  }
  if (is("aligned_overflow_64k")) block = mi_heap_malloc_aligned(heap, size, 512 * 1024);
  memset(block, 'a', size);
  return NULL;
}

static void on_thread(void* (*what)(void*)) {
  pthread_t thread;
  if (pthread_create(&thread, NULL, what, NULL) != 0) exit(2);
  pthread_join(thread, NULL);
}

// A callback that does what it can to go on.
static void on_error(int err, void* arg) {
  (void)err, (void)arg;
  mi_free(mi_malloc(100));
}

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  misuse = argv[1];
  if (strstr(misuse, "overflow_64k") != NULL && madvise(NULL, 0, 102 /* MADV_GUARD_INSTALL */) != 0) return 77;
  size = strtoul(argv[2], NULL, 10);
#if MI_SECURE
  heap = mi_heap_main();
#else
  const mi_heap_config_t config = {.size = sizeof(config), .name = "vault", .flags = MI_HEAP_HARDENED};
  heap = mi_heap_new_with(&config);
#endif
  mi_register_error(on_error, NULL);
  if (strcmp(argv[3], "dead") == 0) {
    on_thread(allocate);
    do_misuse(NULL);
  } else {
    allocate(NULL);
    if (strcmp(argv[3], "same") == 0) {
      do_misuse(NULL);
    } else {
      on_thread(do_misuse);
    }
  }
  return 3;
}
