// Ten million blocks of 16 bytes, written to and freed at the end, in a table of pointers: what the smallest block
// costs beyond itself, which is what its peak memory shows.
#include "tests/bench/suite/suite.h"

int main(int argc, char** argv) {
  const suite_args_t args = suite_args(argc, argv);
  const long count = suite_scaled(&args, 10000000);
  uint64_t** const blocks = malloc((size_t)count * sizeof(*blocks));
  if (blocks == NULL) suite_fail("no memory");
  for (long i = 0; i < count; i++) {
    blocks[i] = malloc(2 * sizeof(uint64_t));
    if (blocks[i] == NULL) suite_fail("no memory");
    blocks[i][0] = blocks[i][1] = (uint64_t)i;
  }
  uint64_t sum = 0;
  for (long i = 0; i < count; i++) {
    sum += blocks[i][1];
    free(blocks[i]);
  }
  free(blocks);
  return suite_finish(sum);
}
