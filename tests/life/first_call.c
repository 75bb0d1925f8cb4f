// A program whose first call of the library is the one that its arguments name, at the time that they name: any entry
// point must do, and everything must work afterwards. Built with PLAIN for the names with mi_, without for malloc's
// own.
//
// Usage: first_call count                 prints how many calls there are
//        first_call WHEN NUMBER           WHEN: preinit, constructor, main, thread, exit, destructor
#define _GNU_SOURCE
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef PLAIN
#include "mi/mimalloc.h"
#define allocate mi_malloc
#define deallocate mi_free
#else
#define allocate malloc
#define deallocate free
#endif

static void fail(const char* what) {
  fprintf(stderr, "first_call: %s\n", what);
  _exit(1);
}
#define CHECK(condition) ((condition) ? (void)0 : fail(#condition))

static char foreign[64] __attribute__((unused));  // see CALL_FOREIGN

// Keeps the compiler from knowing where a pointer points to.
static void* hidden(void* p) {
  __asm__ volatile("" : "+r"(p) : : "memory");
  return p;
}

#ifdef PLAIN
static bool no_block(const mi_heap_t* heap, const mi_heap_area_t* area, void* block, size_t size, void* arg) {
  (void)heap, (void)area, (void)block, (void)size, (void)arg;
  return true;
}
static void no_deferred(bool force, unsigned long long heartbeat, void* arg) {
  (void)force, (void)heartbeat, (void)arg;
}
static void no_error(int err, void* arg) { (void)err, (void)arg; }
static void no_output(const char* text, void* arg) { (void)text, (void)arg; }
#endif

// What is done with memory that is not ours: in the secure build that ends the program.
#if defined(MI_SECURE) && MI_SECURE
#define CALL_FOREIGN(...)
#else
#define CALL_FOREIGN(...) CALL(__VA_ARGS__)
#endif

// clang-format off
#define EACH_CALL                                                          \
  CALL(deallocate(NULL))                                                   \
  CALL_FOREIGN(deallocate(hidden(foreign + 16)))                           \
  CALL(deallocate(allocate(0)))                                            \
  CALL(deallocate(allocate(100)))                                          \
  CALL(deallocate(allocate(100000)))                                       \
  CALL(deallocate(allocate(10000000)))                                     \
  CALL(CHECK(allocate((size_t)hidden((void*)-1)) == NULL))                 \
  EACH_CALL_OF_THIS_FORM

#ifdef PLAIN
#define EACH_CALL_OF_THIS_FORM                                             \
  CALL(mi_free(mi_calloc(10, 10)))                                         \
  CALL(mi_free(mi_zalloc(100)))                                            \
  CALL(mi_free(mi_malloc_small(100)))                                      \
  CALL(mi_free(mi_zalloc_small(100)))                                      \
  CALL(mi_free(mi_realloc(NULL, 100)))                                     \
  CALL_FOREIGN(CHECK(mi_realloc(hidden(foreign), 100) == NULL))            \
  CALL_FOREIGN(CHECK(mi_expand(hidden(foreign), 100) == NULL))             \
  CALL(mi_free(mi_reallocf(NULL, 100)))                                    \
  CALL(mi_free(mi_recalloc(NULL, 10, 10)))                                 \
  CALL(mi_free(mi_malloc_aligned(100, 4096)))                              \
  CALL(mi_free(mi_malloc_aligned_at(100, 4096, 8)))                        \
  CALL(mi_free(mi_zalloc_aligned(100, 8 << 20)))                           \
  CALL(mi_free(mi_strdup("text")))                                         \
  CALL(mi_free(mi_realpath("/", NULL)))                                    \
  CALL_FOREIGN(CHECK(mi_usable_size(foreign) == 0))                        \
  CALL(CHECK(mi_good_size(100) >= 100))                                    \
  CALL(mi_cfree(hidden(foreign)))                                          \
  CALL(CHECK(!mi_is_in_heap_region(foreign)))                              \
  CALL(CHECK(mi_heap_of(foreign) == NULL))                                 \
  CALL(mi_collect(false))                                                  \
  CALL(mi_collect(true))                                                   \
  CALL(mi_heap_destroy(mi_heap_new()))                                     \
  CALL(mi_heap_delete(mi_heap_new()))                                      \
  CALL(mi_heap_destroy(NULL))                                              \
  CALL(mi_heap_collect(mi_heap_main(), true))                              \
  CALL(mi_free(mi_heap_malloc(mi_heap_main(), 100)))                       \
  CALL(mi_free(mi_heap_malloc(mi_heap_get_default(), 100)))                \
  CALL(mi_free(mi_heap_zalloc(mi_heap_get_backing(), 100000)))             \
  CALL(mi_heap_set_default(mi_heap_main()))                                \
  CALL(mi_heap_visit_blocks(mi_heap_main(), true, no_block, NULL))         \
  CALL(mi_free(mi_theap_malloc(mi_theap_get_default(), 100)))              \
  CALL(mi_free(mi_theap_malloc(mi_heap_theap(mi_heap_main()), 100)))       \
  CALL(mi_process_init())                                                  \
  CALL(mi_thread_init())                                                   \
  CALL(mi_thread_done())                                                   \
  CALL(mi_register_deferred_free(no_deferred, NULL))                       \
  CALL(mi_register_error(no_error, NULL))                                  \
  CALL(mi_register_output(no_output, NULL))                                \
  CALL(mi_option_set(mi_option_purge_delay, 0))                            \
  CALL(CHECK(mi_option_get(mi_option_purge_delay) == 10))                  \
  CALL(CHECK(mi_version() > 0))
#else
#define EACH_CALL_OF_THIS_FORM                                             \
  CALL(free(hidden(calloc(10, 10))))                                       \
  CALL(free(hidden(realloc(NULL, 100))))                                   \
  CALL(free(hidden(reallocarray(NULL, 10, 10))))                           \
  CALL_FOREIGN(CHECK(hidden(realloc(hidden(foreign), 100)) == NULL))       \
  CALL(void* p; CHECK(posix_memalign(&p, 4096, 100) == 0); free(p))        \
  CALL(void* p; CHECK(posix_memalign(&p, 3, 100) == EINVAL))               \
  CALL(free(hidden(aligned_alloc(64, 128))))                               \
  CALL(free(hidden(memalign(8 << 20, 100))))                               \
  CALL(free(hidden(valloc(100))))                                          \
  CALL(free(hidden(pvalloc(100))))                                         \
  CALL_FOREIGN(CHECK(malloc_usable_size(foreign) == 0))                    \
  CALL(free(hidden(strdup("text"))))                                       \
  CALL(free(hidden(strndup("text", 2))))                                   \
  CALL(free(hidden(realpath("/", NULL))))
#endif
// clang-format on

enum {
#define CALL(...) +1
  CALLS = 0 EACH_CALL
#undef CALL
};

static void call(int number) {
  int i = 0;
#define CALL(...)      \
  if (i++ == number) { \
    __VA_ARGS__;       \
  }
  EACH_CALL
#undef CALL
}

// Small and large blocks, from this thread and from another.
static void* use(void* arg) {
  char* blocks[60];
  for (int i = 0; i < 60; i++) {
    const size_t size = (size_t)i * (size_t)i * 30 + 1;
    blocks[i] = allocate(size);
    CHECK(blocks[i] != NULL);
    memset(blocks[i], i, size);
  }
  for (int i = 0; i < 60; i++) {
    CHECK(blocks[i][0] == (char)i && blocks[i][i * i * 30] == (char)i);
    deallocate(blocks[i]);
  }
  return arg;
}

static int number;
static const char* when = "";

static void at(const char* now) {
  if (strcmp(now, when) != 0) return;
  call(number);
  use(NULL);
}

static void read_arguments(int argc, char** argv) {
  if (argc != 3) return;
  when = argv[1];
  number = atoi(argv[2]);
  if (number < 0 || number >= CALLS) fail("no such call");
}

// The dynamic loader calls this before every constructor.
static void preinit(int argc, char** argv, char** environment) {
  (void)environment;
  read_arguments(argc, argv);
  at("preinit");
}
__attribute__((section(".preinit_array"), used)) static void (*preinit_entry)(int, char**, char**) = preinit;

__attribute__((constructor(101))) static void constructor(void) { at("constructor"); }
__attribute__((destructor(101))) static void destructor(void) {
  at("destructor");
  use(NULL);
}
static void at_exit(void) { at("exit"); }
static void* thread_main(void* arg) {
  at("thread");
  return arg;
}

int main(int argc, char** argv) {
  if (argc == 2 && strcmp(argv[1], "count") == 0) {
    printf("%d\n", CALLS);
    return 0;
  }
  if (argc != 3) fail("usage: first_call count | WHEN NUMBER");
  atexit(at_exit);
  at("main");
  pthread_t thread;
  CHECK(pthread_create(&thread, NULL, thread_main, NULL) == 0 && pthread_join(thread, NULL) == 0);
  if (strcmp(when, "exit") != 0 && strcmp(when, "destructor") != 0) {
    CHECK(pthread_create(&thread, NULL, use, NULL) == 0 && pthread_join(thread, NULL) == 0);
  }
  return 0;
}
