// Asks the library for memory: as much as its argument says. For xmalloc_test.sh.
#include <mimalloc.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  puts("asking");
  fflush(stdout);
  volatile size_t many = SIZE_MAX / 4;
  void* p = NULL;
  if (strcmp(argv[1], "huge") == 0) p = mi_malloc(many);
  if (strcmp(argv[1], "product") == 0) p = mi_calloc(many, 100);
  if (strcmp(argv[1], "fits") == 0) p = mi_malloc(1000);
  if (p == NULL) return 1;
  mi_free(p);
  puts("served");
  return 0;
}
