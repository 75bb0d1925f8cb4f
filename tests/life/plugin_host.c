// Loads libraries that bring the allocator with them (plugin.c), uses them in threads, and unloads them before the
// threads end. plugin_test.sh runs it alone and with the allocator of its own, so that there are two in the process.
//
// Usage: plugin_host threads LIBRARY     unloads while threads that used it go on, again and again
//        plugin_host space LIBRARY       unloading gives the address space back (MIMALLOC_DESTROY_ON_EXIT=1)
//        plugin_host together LIBRARY... all at once
//        plugin_host exchange LIBRARY    blocks of one allocator are given to the other (secure build: ends the
//        program)
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

__attribute__((weak)) bool mi_is_in_heap_region(const void* p);

static void fail(const char* what, int line) {
  fprintf(stderr, "plugin_host: line %d: %s\n", line, what);
  _exit(1);
}
#define CHECK(condition) ((condition) ? (void)0 : fail(#condition, __LINE__))

typedef struct plugin_s {
  void* handle;
  void* (*allocate)(size_t size);
  void (*free)(void* p);
  void* (*resize)(void* p, size_t size);
  size_t (*usable)(void* p);
  void* (*work)(void);
} plugin_t;

static plugin_t plugin_open(const char* path) {
  plugin_t plugin = {0};
  plugin.handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (plugin.handle == NULL) fail(dlerror(), __LINE__);
  *(void**)&plugin.allocate = dlsym(plugin.handle, "plugin_allocate");
  *(void**)&plugin.free = dlsym(plugin.handle, "plugin_free");
  *(void**)&plugin.resize = dlsym(plugin.handle, "plugin_resize");
  *(void**)&plugin.usable = dlsym(plugin.handle, "plugin_usable");
  *(void**)&plugin.work = dlsym(plugin.handle, "plugin_work");
  CHECK(plugin.work != NULL);
  return plugin;
}

static void plugin_close(const plugin_t* plugin) {
  CHECK(dlclose(plugin->handle) == 0);
  Dl_info info;
  CHECK(dladdr(*(void* const*)&plugin->work, &info) == 0);  // its code is gone
}

#define THREADS 8
static plugin_t current;
static pthread_barrier_t barrier;

static void* user(void* arg) {
  pthread_barrier_wait(&barrier);  // loaded
  CHECK(current.work() != NULL);
  pthread_barrier_wait(&barrier);  // used
  pthread_barrier_wait(&barrier);  // unloaded
  void* const block = malloc(100);
  CHECK(block != NULL);
  free(block);
  return arg;
}

static void expect_fork(void) {
  const pid_t child = fork();
  if (child == 0) {
    free(malloc(1000));
    _exit(0);
  }
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child && status == 0);
}

static void cycle(const char* path) {
  pthread_t threads[THREADS];
  CHECK(pthread_barrier_init(&barrier, NULL, THREADS + 1) == 0);
  // Half of the threads are there before the library is.
  for (int i = 0; i < THREADS; i++) {
    if (i == THREADS / 2) current = plugin_open(path);
    CHECK(pthread_create(&threads[i], NULL, user, NULL) == 0);
  }
  pthread_barrier_wait(&barrier);
  CHECK(current.work() != NULL);
  pthread_barrier_wait(&barrier);
  expect_fork();
  plugin_close(&current);
  expect_fork();
  // A key that is made now may get the number of the library's.
  pthread_key_t key;
  CHECK(pthread_key_create(&key, NULL) == 0);
  pthread_barrier_wait(&barrier);
  for (int i = 0; i < THREADS; i++) CHECK(pthread_join(threads[i], NULL) == 0);
  CHECK(pthread_key_delete(key) == 0);
  pthread_barrier_destroy(&barrier);
}

static size_t address_space(void) {
  FILE* const file = fopen("/proc/self/statm", "r");
  size_t pages = 0;
  CHECK(file != NULL && fscanf(file, "%zu", &pages) == 1);
  fclose(file);
  return pages * (size_t)sysconf(_SC_PAGESIZE);
}

// Keeps the compiler from knowing what is done with a pointer.
static void* hidden(void* p) {
  __asm__ volatile("" : "+r"(p) : : "memory");
  return p;
}

#if defined(MI_SECURE) && MI_SECURE
// Each allocator ends the program that gives it a block of the other.
static void exchange(const plugin_t* plugin) {
  char* const ours = hidden(malloc(100));
  char* const theirs = plugin->allocate(100);
  CHECK(mi_is_in_heap_region(ours) && !mi_is_in_heap_region(theirs));
  for (int misuse = 0; misuse < 6; misuse++) {
    const pid_t child = fork();
    if (child == 0) {
      close(STDERR_FILENO);
      if (misuse == 0) plugin->free(ours);
      if (misuse == 1) free(hidden(theirs));
      if (misuse == 2) (void)plugin->usable(ours);
      if (misuse == 3) (void)hidden((void*)malloc_usable_size(hidden(theirs)));
      if (misuse == 4) (void)plugin->resize(ours, 10);
      if (misuse == 5) (void)hidden(realloc(hidden(theirs), 10));
      _exit(0);
    }
    int status = 0;
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
  }
  free(hidden(ours));
  plugin->free(theirs);
}
#else
// Each allocator leaves the other's blocks alone.
static void exchange(const plugin_t* plugin) {
  CHECK(mi_is_in_heap_region != NULL);
  for (int i = 0; i < 100; i++) {
    const size_t size = (size_t)i * (size_t)i * 100 + 1;
    char* const ours = hidden(malloc(size));
    char* const theirs = plugin->allocate(size);
    CHECK(ours != NULL && theirs != NULL && mi_is_in_heap_region(ours) && !mi_is_in_heap_region(theirs));
    memset(ours, 1, size);
    memset(theirs, 2, size);
    CHECK(plugin->usable(ours) == 0 && plugin->usable(theirs) >= size);
    CHECK(malloc_usable_size(theirs) == 0 && malloc_usable_size(ours) >= size);
    plugin->free(ours);
    free(hidden(theirs));
    CHECK(plugin->resize(ours, 10) == NULL && hidden(realloc(hidden(theirs), 10)) == NULL);
    for (size_t at = 0; at < size; at++) CHECK(ours[at] == 1 && theirs[at] == 2);
    free(hidden(ours));
    plugin->free(theirs);
  }
}
#endif

int main(int argc, char** argv) {
  if (argc < 3) fail("usage: plugin_host threads|space|together|exchange LIBRARY...", __LINE__);
  const char* const what = argv[1];
  if (strcmp(what, "threads") == 0) {
    for (int i = 0; i < 20; i++) cycle(argv[2]);
  } else if (strcmp(what, "space") == 0) {
    cycle(argv[2]);
    const size_t before = address_space();
    for (int i = 0; i < 10; i++) cycle(argv[2]);
    CHECK(address_space() <= before + ((size_t)1 << 30));
  } else if (strcmp(what, "together") == 0) {
    for (int i = 2; i < argc; i++) {
      const plugin_t plugin = plugin_open(argv[i]);
      CHECK(plugin.work() != NULL);
    }
  } else if (strcmp(what, "exchange") == 0) {
    const plugin_t plugin = plugin_open(argv[2]);
    exchange(&plugin);
    CHECK(plugin.work() != NULL);
  } else {
    fail("no such scenario", __LINE__);
  }
  return 0;
}
