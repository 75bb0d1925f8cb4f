// Google Benchmark cases: every workload on every peer, as NAME/PEER. They show how the peers stand to each other;
// for figures that can be compared with a bar use the paired driver, since two cases here are seconds apart. All of
// Google Benchmark's flags work (--benchmark_filter, --benchmark_format=json, --benchmark_out). Times per item are in
// the column items_per_second: an item is a heap, in HotPair an allocation with its free, in Destroy100k a block.

#include <benchmark/benchmark.h>

#include <functional>
#include <string>
#include <vector>

#include "mi/mimalloc.h"
#include "tests/bench/clock.h"
#include "tests/bench/peers.h"
#include "tests/bench/workloads.h"

namespace bench {
namespace {

std::string NameOf(const char* workload, const char* peer) { return std::string(workload) + "/" + peer; }

/// Runs `work(1)` per iteration; `items` heaps each.
void Register(const std::string& name, void (*prepare)(), std::function<void()> work, size_t items) {
  benchmark::RegisterBenchmark(name.c_str(), [prepare, work, items](benchmark::State& state) {
    prepare();
    MixedSizes();
    for (auto _ : state) work();
    state.SetItemsProcessed(static_cast<int64_t>(state.iterations() * items));
  });
}

template <typename Peer>
void RegisterCycles() {
  constexpr uint64_t kRepeat = 16;  // keeps the timing loop's own cost out of the shortest cycles
  const char* peer = Peer::kName;
  if constexpr (Peer::kDropsAll) {
    Register(
        NameOf("Empty", peer), Peer::Prepare, [] { CycleEmpty<Peer>(kRepeat); }, kRepeat);
    Register(
        NameOf("One64", peer), Peer::Prepare, [] { CycleOne64<Peer>(kRepeat); }, kRepeat);
    Register(
        NameOf("W", peer), Peer::Prepare, [] { CycleW<Peer>(kRepeat); }, kRepeat);
    for (size_t blocks : {10, 100, 1000, 10000}) {
      const std::string name = "Mixed" + std::to_string(blocks);
      Register(
          NameOf(name.c_str(), peer), Peer::Prepare, [blocks] { CycleMixed<Peer>(1, blocks); }, kMixedCycle / blocks);
    }
    benchmark::RegisterBenchmark(
        NameOf("Destroy100k", peer).c_str(),
        [](benchmark::State& state) {
          Peer::Prepare();
          for (auto _ : state) {
            typename Peer::Heap heap;
            Peer::Create(heap);
            Fill<Peer>(heap, SmallSizes());
            const int64_t start = ThreadCpuNs();
            Peer::Destroy(heap);
            state.SetIterationTime(static_cast<double>(ThreadCpuNs() - start) * 1e-9);
          }
          state.SetItemsProcessed(static_cast<int64_t>(state.iterations() * SmallSizes().size()));
        })
        ->UseManualTime()
        ->Iterations(50);
  }
  if constexpr (Peer::kFreesBlocks) {
    Register(
        NameOf("WFreed", peer), Peer::Prepare, [] { CycleWFreed<Peer>(kRepeat); }, kRepeat);
    for (size_t count : {1, 2, 8, 64}) {
      if (!Peer::kDropsAll && count > 1) continue;  // has no heaps to alternate between
      const std::string name = "HotPair" + std::to_string(count);
      benchmark::RegisterBenchmark(NameOf(name.c_str(), peer).c_str(), [count](benchmark::State& state) {
        Peer::Prepare();
        std::vector<typename Peer::Heap> heaps(count);
        for (auto& heap : heaps) Peer::Create(heap);
        Grow<Peer>(heaps.data(), heaps.size(), 20);
        for (auto _ : state) HotPairs<Peer>(heaps.data(), count, 64, 64);
        state.SetItemsProcessed(static_cast<int64_t>(state.iterations() * 64));
        for (auto& heap : heaps) Peer::Destroy(heap);
      });
    }
  }
}

}  // namespace
}  // namespace bench

int main(int argc, char** argv) {
  bench::RegisterCycles<bench::Ours>();
  bench::RegisterCycles<bench::OursDefault>();
  bench::RegisterCycles<bench::Mimalloc2>();
  bench::RegisterCycles<bench::Apr>();
  bench::RegisterCycles<bench::AprUnlocked>();
  bench::RegisterCycles<bench::Talloc>();
  bench::RegisterCycles<bench::Obstack>();
  bench::RegisterCycles<bench::GlibcTracked>();
  bench::RegisterCycles<bench::Glibc>();
  bench::RegisterCycles<bench::Bump>();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
