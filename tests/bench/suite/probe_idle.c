// What an idle process keeps: allocates PERCENT / 100 GiB in blocks of 16 to 2,000 bytes, frees all, and then does
// nothing but a heartbeat of some small blocks every millisecond. Answers the resident bytes at the peak and 200 ms
// later.
#include "tests/bench/suite/probe.h"

int main(int argc, char** argv) {
  const suite_args_t args = suite_args(argc, argv);
  const size_t total = (size_t)suite_scaled(&args, 1L << 30);
  const size_t most = total / 1000 + 1;
  void** const blocks = malloc(most * sizeof(void*));
  if (blocks == NULL) suite_fail("no memory");
  uint64_t seed = 1;
  size_t count = 0;
  for (size_t bytes = 0; bytes < total && count < most; count++) {
    const size_t size = suite_between(&seed, 16, 2000);
    blocks[count] = suite_malloc(size);
    memset((char*)blocks[count] + sizeof(size), (int)(size & 255), size - sizeof(size));
    bytes += size;
  }
  probe_answer("peak", probe_resident());
  for (size_t i = 0; i < count; i++) suite_free(blocks[i]);
  free(blocks);
  for (int ms = 0; ms < 200; ms++) {
    for (int i = 0; i < 8; i++) suite_free(suite_malloc(suite_between(&seed, 16, 256)));
    probe_sleep_ms(1);
  }
  probe_answer("idle", probe_resident());
  return 0;
}
