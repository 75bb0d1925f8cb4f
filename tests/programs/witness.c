// Preloaded beside the library into every process of a test: says, from each process's own inside, whether malloc there
// is the library's. Its constructor allocates a block the ordinary way, asks the library whether the block is its own,
// and appends a line "PROGRAM ours" or "PROGRAM foreign" to the file that PRELOAD_WITNESS names. A process that never
// writes a line was never preloaded. It keeps no descriptor, no memory and errno.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static bool malloc_is_ours(void) {
  bool (*is_ours)(const void*) = NULL;
  *(void**)&is_ours = dlsym(RTLD_DEFAULT, "mi_is_in_heap_region");
  void* const block = malloc(100);
  const bool answer = (is_ours != NULL && block != NULL && is_ours(block));
  free(block);
  return answer;
}

__attribute__((constructor)) static void testify(void) {
  const int saved = errno;
  const char* const path = getenv("PRELOAD_WITNESS");
  const int file = (path == NULL ? -1 : open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  if (file >= 0) {
    char line[300];
    const int length = snprintf(line, sizeof(line), "%.200s %s\n", program_invocation_short_name,
                                malloc_is_ours() ? "ours" : "foreign");
    // One write of less than a block: lines of processes that start together do not mix.
    if (write(file, line, (size_t)length) != length) abort();
    close(file);
  }
  errno = saved;
}
