// A program with one bug, or none, on blocks of the library: what tools and checks must see, and must not.
//
//   bug NAME [SIZE]      in the default heap; with a size, in blocks of so many bytes (100 else)
//   bug NAME SIZE heap   in a heap of its own
//   bug NAME SIZE paged  in a heap of its own whose size class has moved to pages
//
// Bugs act in functions of their own that are not inlined, so that reports name them. Stops with 3 if the library does
// not do what is asked.
#include <mimalloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NOINLINE __attribute__((noinline))

static mi_heap_t* heap;
static volatile char sink;
static char* kept[4096];  // blocks that live as long as the heap

static NOINLINE char* allocate(size_t size) {
  char* const p = (heap == NULL ? mi_malloc(size) : mi_heap_malloc(heap, size));
  if (p == NULL) exit(3);
  return p;
}

// Hides from the compiler where a pointer comes from: it would warn of the bugs.
static NOINLINE char* veil(char* p) {
  __asm__ volatile("" : "+r"(p));
  return p;
}

static NOINLINE void read_at(char* p, size_t at) { sink = veil(p)[at]; }
static NOINLINE void write_at(char* p, size_t at) { veil(p)[at] = 'x'; }
static NOINLINE void branch_on(const char* p) {
  if (*p == 'x') puts("x");
}

// Two blocks whose addresses go no further.
static NOINLINE void leak(size_t size) {
  write_at(allocate(size), 0);
  write_at(allocate(2 * size), 0);
}
// Overwrites what the calls before left on the stack.
static NOINLINE void wipe_stack(void) {
  char room[4096];
  memset(veil(room), 0, sizeof(room));
}

static int with_bug(const char* bug, size_t size) {
  char* p = allocate(size);
  memset(p, 1, size);
  if (strcmp(bug, "read_after_free") == 0) {
    mi_free(p);
    read_at(p, size / 2);
  } else if (strcmp(bug, "write_after_free") == 0) {
    mi_free(p);
    write_at(p, 8);
  } else if (strcmp(bug, "write_to_link") == 0) {  // that of the free list
    mi_free(p);
    write_at(p, 0);
  } else if (strcmp(bug, "write_past_end") == 0) {
    write_at(p, size);
    mi_free(p);
  } else if (strcmp(bug, "read_past_end") == 0) {
    read_at(p, size + 3);
    mi_free(p);
  } else if (strcmp(bug, "write_before_start") == 0) {
    write_at(p, (size_t)-1);
    mi_free(p);
  } else if (strcmp(bug, "double_free") == 0) {
    mi_free(p);
    mi_free(veil(p));
  } else if (strcmp(bug, "read_after_realloc") == 0) {
    char* const q = mi_realloc(p, 2 * size);
    if (q == NULL || q[0] != 1 || q[size - 1] != 1) return 3;
    read_at(p, 0);
    mi_free(q);
  } else if (strcmp(bug, "read_after_destroy") == 0) {
    mi_heap_destroy(heap);
    heap = NULL;
    read_at(p, size / 2);
  } else if (strcmp(bug, "read_after_reset") == 0) {
    mi_heap_reset(heap);
    read_at(p, size / 2);
  } else if (strcmp(bug, "write_past_end_then_destroy") == 0) {
    write_at(p, size);
    mi_heap_destroy(heap);
    heap = NULL;
  } else if (strcmp(bug, "free_after_destroy") == 0) {
    mi_heap_destroy(heap);
    heap = NULL;
    mi_free(veil(p));
  } else if (strcmp(bug, "leak") == 0) {
    mi_free(p);
    leak(size);
    wipe_stack();
    memset(kept, 0, sizeof(kept));
    heap = NULL;  // never ends
  } else if (strcmp(bug, "uninitialised") == 0) {
    mi_free(p);
    p = allocate(size);
    branch_on(p);
    mi_free(p);
  } else if (strcmp(bug, "free_inside") == 0) {
    mi_free(veil(p + 16));
    mi_free(p);
  } else if (strcmp(bug, "none") == 0) {
    mi_free(p);
  } else {
    fprintf(stderr, "bug: there is no bug \"%s\"\n", bug);
    return 2;
  }
  if (heap != NULL) mi_heap_destroy(heap);
  return 0;
}

int main(int argc, char** argv) {
  if (argc < 2) return 2;
  const size_t size = (argc > 2 ? strtoul(argv[2], NULL, 10) : 100);
  if (argc > 3) {
    heap = mi_heap_new();
    if (heap == NULL) return 3;
    for (size_t i = 0; strcmp(argv[3], "paged") == 0 && i * size < 256 * 1024 && i < 4096; i++)
      kept[i] = allocate(size);
  }
  const int code = with_bug(argv[1], size);
  mi_collect(true);
  return code;
}
