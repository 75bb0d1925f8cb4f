// A source file of a program that includes mimalloc-override.h; override_header_test.cc looks at what it got.
#include "tests/override_header.h"

#include <stdbool.h>
#include <stdio.h>

#include "mi/mimalloc-override.h"

int allocate_all(void* blocks[ALLOCATED]) {
  int n = 0;
  blocks[n++] = malloc(10);
  blocks[n++] = calloc(10, 10);
  blocks[n++] = realloc(NULL, 10);
  blocks[n++] = reallocarray(NULL, 10, 10);
  blocks[n++] = reallocf(NULL, 10);
  blocks[n++] = aligned_alloc(64, 64);
  blocks[n++] = memalign(64, 10);
  blocks[n++] = valloc(10);
  blocks[n++] = pvalloc(10);
  blocks[n++] = strdup("text");
  blocks[n++] = strndup("text", 2);
  blocks[n++] = wcsdup(L"text");
  blocks[n++] = realpath("/", NULL);
  blocks[n] = NULL;
  if (posix_memalign(&blocks[n], 64, 10) != 0) return -1;
  n++;
  blocks[n] = NULL;
  if (reallocarr(&blocks[n], 10, 10) != 0) return -2;
  n++;
  blocks[n++] = _recalloc(NULL, 10, 10);
  blocks[n++] = _strdup("text");
  blocks[n++] = _wcsdup(L"text");
  blocks[n++] = _mbsdup((const unsigned char*)"text");
  blocks[n++] = _aligned_malloc(10, 64);
  blocks[n++] = _aligned_realloc(NULL, 10, 64);
  blocks[n++] = _aligned_recalloc(NULL, 10, 10, 64);
  blocks[n++] = _aligned_offset_malloc(10, 64, 8);
  blocks[n++] = _aligned_offset_realloc(NULL, 10, 64, 8);
  blocks[n++] = _aligned_offset_recalloc(NULL, 10, 10, 64, 8);
  for (int i = 0; i < n; i++) {
    if (malloc_usable_size(blocks[i]) != malloc_size(blocks[i]) || malloc_size(blocks[i]) != _msize(blocks[i]))
      return -3;
  }
  return n;
}

void free_all(void* blocks[], int count) {
  for (int i = 0; i < count; i++) {
    if (i % 3 == 0) {
      free(blocks[i]);
    } else if (i % 3 == 1) {
      cfree(blocks[i]);
    } else {
      _aligned_free(blocks[i]);
    }
  }
}
