// Heaps in memory that the program brings: a static buffer, a file, and memory that another process reads. Everything
// that such a heap holds lies in that memory; nothing of it is taken from elsewhere, and what does not fit is refused.
//
// One process allocates, and others may read, wherever they have mapped the memory: so the blocks that are meant for
// them refer to each other by offsets from its start. The memory stays the library's as long as the process lives: a
// heap in it may be destroyed, the memory itself must stay mapped.
//
//   heap_in_memory FILE    makes FILE, which must not exist, and leaves it: 16 MiB, of which little is ever written
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "mi/mimalloc.h"

#define MIB ((size_t)1 << 20)

static void die(const char* what) {
  fprintf(stderr, "heap_in_memory: %s: %s\n", what, strerror(errno));
  exit(1);
}

// A heap that lies in [start, start + size) and in nothing else. `keeps_memory`: the memory belongs to a file, so that
// giving free parts of it back to the system would free nothing.
static mi_heap_t* heap_in(void* start, size_t size, bool keeps_memory) {
  mi_arena_id_t arena;
  const bool is_committed = true;  // it may be written to as it is
  const bool is_zero = true;       // nobody wrote to it yet
  const bool is_exclusive = true;  // for heaps that are made in it, not for malloc
  if (!mi_manage_os_memory_ex(start, size, is_committed, keeps_memory, is_zero, -1, is_exclusive, &arena)) {
    errno = EINVAL;
    die("mi_manage_os_memory_ex");
  }
  mi_heap_t* heap = mi_heap_new_in_arena(arena);
  if (heap == NULL) die("mi_heap_new_in_arena");
  return heap;
}

// ---- a static buffer ------------------------------------------------------------------------------------------

// Of any alignment: what lies before the first multiple of mi_arena_min_alignment() (4 MiB) is left out.
static char buffer[12 * MIB];

static bool lies_in_buffer(const void* p) {
  return (const char*)p >= buffer && (const char*)p < buffer + sizeof buffer;
}

static size_t fill(mi_heap_t* heap) {
  size_t bytes = 0;
  for (char* block; (block = mi_heap_malloc(heap, 1000)) != NULL; bytes += 1000) {
    if (!lies_in_buffer(block)) die("a block outside of the buffer");
    memset(block, 'x', 1000);
  }
  return bytes;
}

static void use_static_buffer(void) {
  mi_heap_t* heap = heap_in(buffer, sizeof buffer, false);
  const size_t first = fill(heap);
  printf("static buffer: full: %s\n", first > 6 * MIB && errno == ENOMEM ? "yes, ENOMEM" : "too early");
  mi_heap_reset(heap);
  printf("static buffer: after mi_heap_reset as much again: %s\n", fill(heap) >= first / 10 * 9 ? "yes" : "no");
  mi_heap_destroy(heap);
}

// ---- what other processes read ---------------------------------------------------------------------------------

// At the start of the memory, before the first multiple of 4 MiB, which the library leaves alone.
struct header {
  uint64_t first;  // offset of the first note from the start of the memory; 0: none
};

struct note {
  uint64_t next;  // likewise
  char text[];
};

#define SHARED_SIZE (16 * MIB)

// Maps the file so that its header is outside of what the library takes: one page before a multiple of 4 MiB.
static char* map_for_heap(int file) {
  const size_t alignment = mi_arena_min_alignment(), page = (size_t)sysconf(_SC_PAGESIZE);
  char* room = mmap(NULL, SHARED_SIZE + alignment, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (room == MAP_FAILED) die("mmap");
  char* aligned = (char*)(((uintptr_t)room + page + alignment - 1) / alignment * alignment);
  if (ftruncate(file, SHARED_SIZE) != 0) die("ftruncate");
  char* memory = mmap(aligned - page, SHARED_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0);
  if (memory == MAP_FAILED) die("mmap");
  return memory;
}

// Computed of integers: for the compiler a block that was just allocated is no part of `memory`, and a difference of
// two pointers tells it nothing of who will read the block.
static uint64_t offset_in(const char* memory, const void* p) { return (uintptr_t)p - (uintptr_t)memory; }

static void add_note(mi_heap_t* heap, char* memory, const char* text) {
  struct header* header = (struct header*)memory;
  struct note* note = mi_heap_malloc(heap, sizeof *note + strlen(text) + 1);
  if (note == NULL) die("mi_heap_malloc");
  strcpy(note->text, text);
  note->next = header->first;
  header->first = offset_in(memory, note);
}

// What the other process does: it makes no heap, and reads where it likes to have the memory.
static int read_notes(const char* what, int file) {
  const char* memory = mmap(NULL, SHARED_SIZE, PROT_READ, MAP_SHARED, file, 0);
  if (memory == MAP_FAILED) die("mmap");
  for (uint64_t at = ((const struct header*)memory)->first; at != 0;) {
    const struct note* note = (const struct note*)(memory + at);
    printf("%s: another process reads: %s\n", what, note->text);
    at = note->next;
  }
  return fflush(stdout) == 0 ? 0 : 1;
}

static void let_another_process_read(const char* what, int file) {
  fflush(stdout);
  const pid_t reader = fork();
  if (reader < 0) die("fork");
  if (reader == 0) {
    char number[16];
    snprintf(number, sizeof number, "%d", file);
    execl("/proc/self/exe", "heap_in_memory", what, number, (char*)NULL);
    _exit(127);
  }
  int status;
  if (waitpid(reader, &status, 0) != reader || status != 0) die("the reader");
}

static void use_file(const char* name) {
  const int file = open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
  if (file < 0) die(name);
  char* memory = map_for_heap(file);
  mi_heap_t* heap = heap_in(memory, SHARED_SIZE, true);
  add_note(heap, memory, "written first");
  add_note(heap, memory, "written second");
  if (msync(memory, SHARED_SIZE, MS_SYNC) != 0) die("msync");
  let_another_process_read("file", file);
  // The heap is neither destroyed nor deleted: its blocks stay in the file when the process ends.
}

static void use_shared_memory(void) {
  const int file = memfd_create("notes", 0);
  if (file < 0) die("memfd_create");
  char* memory = map_for_heap(file);
  mi_heap_t* heap = heap_in(memory, SHARED_SIZE, true);
  add_note(heap, memory, "a note in shared memory");
  let_another_process_read("shared memory", file);
  mi_heap_reset(heap);
  ((struct header*)memory)->first = 0;
  add_note(heap, memory, "another, after mi_heap_reset");
  let_another_process_read("shared memory", file);
}

int main(int argc, char** argv) {
  if (argc == 3) return read_notes(argv[1], atoi(argv[2]));
  if (argc != 2) {
    fprintf(stderr, "usage: heap_in_memory FILE\n");
    return 2;
  }
  use_static_buffer();
  use_file(argv[1]);
  use_shared_memory();
  return 0;
}
