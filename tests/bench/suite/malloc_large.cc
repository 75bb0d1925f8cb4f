// Large blocks that come and go: after the benchmark of that name which goes with mimalloc. A few dozen blocks of 1 to
// 16 MiB, of which the first bytes of every page of some are written, replaced at random.
#include "tests/bench/suite/suite.h"

int main(int argc, char** argv) {
  const suite_args_t args = suite_args(argc, argv);
  constexpr int kBlocks = 16;
  constexpr size_t kPage = 4096;
  unsigned char* blocks[kBlocks] = {};
  uint64_t seed = 1200;
  uint64_t freed = 0;
  const long rounds = suite_scaled(&args, 3000);
  for (long i = 0; i < rounds; i++) {
    unsigned char*& block = blocks[suite_below(&seed, kBlocks)];
    if (block != nullptr) freed += suite_stamped(block);
    delete[] block;
    const size_t size = suite_between(&seed, size_t{1} << 20, size_t{16} << 20);
    block = new unsigned char[size];
    suite_stamp(block, size);
    const size_t written = i % 8 == 0 ? size - 1 : 64 * 1024;
    for (size_t at = kPage; at < written; at += kPage) block[at] = 1;
  }
  for (unsigned char* block : blocks) {
    if (block != nullptr) freed += suite_stamped(block);
    delete[] block;
  }
  return suite_finish(freed);
}
