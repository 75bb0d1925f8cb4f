// The paired driver: for each row, this library and a peer take turns in one process in short timed batches (A B, B A,
// A B, ...), and the row's figure is the median of the ratios of neighbouring batches, with the quartiles as its
// spread. Machines drift by tens of percent within minutes; neighbours do not. Rows that have no peer give time per
// unit. Each row runs in a child process of its own, so that none inherits another's warm memory or options. Batches
// are measured in processor time of the threads that work; waiting for another thread is never part of it.
//
// Usage: paired [--filter REGEX] [--pairs N] [--batch-ms MS] [--json FILE] [--list]

#include <apr_version.h>
#include <pthread.h>
#include <semaphore.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <regex>
#include <string>
#include <thread>
#include <vector>

#include "mi/mimalloc.h"
#include "tests/bench/clock.h"
#include "tests/bench/peers.h"
#include "tests/bench/report.h"
#include "tests/bench/workloads.h"

namespace bench {
namespace {

constexpr double kNoBar = NAN;

struct Settings {
  int pairs = 41;
  double batch_ns = 4e6;
};

/// One side of a comparison: runs `amount` units of work and returns the nanoseconds that they took.
using Batch = std::function<double(uint64_t amount)>;

struct Side {
  std::string name;
  Batch batch;
  double units = 1;           // what a row reports is nanoseconds per amount * units
  uint64_t fixed_amount = 0;  // not 0: the batch cannot be scaled
};

struct Row {
  std::string id;
  std::string what;
  std::string unit;
  double bar;                                // of the ratio, or of the time if there is no peer
  std::function<std::vector<Side>()> sides;  // made in the row's own process: ours, and the peer if there is one
};

struct Result {
  char ours[32];
  char peer[32];  // empty if there is none
  double ours_ns;
  double peer_ns;
  Quartiles figure;  // of the ratios, or of the times if there is no peer
};

/// Times a function that does `amount` units on the calling thread.
Batch OnThisThread(std::function<void(uint64_t)> work) {
  return [work](uint64_t amount) {
    const int64_t start = ThreadCpuNs();
    work(amount);
    return static_cast<double>(ThreadCpuNs() - start);
  };
}

template <typename Peer>
Side MakeSide(void (*work)(uint64_t)) {
  Peer::Prepare();
  return {Peer::kName, OnThisThread(work)};
}

template <typename Peer>
Side MixedSide(size_t blocks) {
  Peer::Prepare();
  MixedSizes();
  Side side{Peer::kName, OnThisThread([blocks](uint64_t passes) { CycleMixed<Peer>(passes, blocks); })};
  side.units = static_cast<double>(kMixedCycle / blocks);
  return side;
}

/// Time of the destroy alone; the heaps are built outside of it.
template <typename Peer>
Side DestroySide() {
  Peer::Prepare();
  SmallSizes();
  Side side{Peer::kName, [](uint64_t heaps) {
              int64_t total = 0;
              for (uint64_t i = 0; i < heaps; i++) {
                typename Peer::Heap heap;
                Peer::Create(heap);
                Fill<Peer>(heap, SmallSizes());
                const int64_t start = ThreadCpuNs();
                Peer::Destroy(heap);
                total += ThreadCpuNs() - start;
              }
              return static_cast<double>(total);
            }};
  side.units = static_cast<double>(SmallSizes().size());
  side.fixed_amount = 3;
  return side;
}

/// Time of the resets alone, of a few heaps in turn that hold W. Amount: rounds over them.
template <typename Peer>
Side ResetSide() {
  constexpr size_t kHeaps = 32;
  Peer::Prepare();
  auto* heaps = new std::vector<typename Peer::Heap>(kHeaps);  // lives as long as the row's process
  for (auto& heap : *heaps) Peer::Create(heap);
  const int64_t clock_cost = ThreadClockCostNs();
  Side side{Peer::kName, [heaps, clock_cost](uint64_t rounds) {
              int64_t total = 0;
              for (uint64_t i = 0; i < rounds; i++) {
                for (auto& heap : *heaps) AllocW<Peer>(heap);
                const int64_t start = ThreadCpuNs();
                for (auto& heap : *heaps) Peer::Reset(heap);
                total += ThreadCpuNs() - start - clock_cost;
              }
              return static_cast<double>(total);
            }};
  side.units = kHeaps;
  side.fixed_amount = 200;
  return side;
}

// ---- hot pairs ------------------------------------------------------------------------------------------------

template <typename Peer>
Side HotSide(size_t count, size_t live) {
  Peer::Prepare();
  auto* heaps = new std::vector<typename Peer::Heap>(count);  // lives as long as the row's process
  for (auto& heap : *heaps) Peer::Create(heap);
  Grow<Peer>(heaps->data(), Peer::kDropsAll ? count : 1, live);
  return {Peer::kName, OnThisThread([heaps, count](uint64_t pairs) {
            HotPairs<Peer>(heaps->data(), Peer::kDropsAll ? count : 1, 64, pairs);
          })};
}

// ---- two threads ----------------------------------------------------------------------------------------------

/// Heaps of 100 mixed blocks made on one thread and destroyed on another, handed over in bursts through a bounded
/// ring. The time is the processor time of making plus that of destroying. Amount: passes over the mixed sizes.
template <typename Peer>
class HandOver {
 public:
  HandOver() {
    sem_init(&free_slots_, 0, kSlots);
    sem_init(&full_slots_, 0, 0);
    sem_init(&done_, 0, 0);
    clock_cost_ = ThreadClockCostNs();
    destroyer_ = std::thread([this] { DestroyBursts(); });
  }

  double Run(uint64_t passes) {
    const std::vector<uint32_t>& sizes = MixedSizes();
    int64_t making = 0;
    destroying_.store(0);
    size_t next = 0;
    const uint64_t heaps = passes * (kMixedCycle / kBlocks);
    for (uint64_t made = 0; made < heaps; made += kBurst) {
      Wait(&free_slots_);
      Burst& burst = ring_[head_++ % kSlots];
      burst.last = made + kBurst >= heaps;
      const int64_t start = ThreadCpuNs();
      for (typename Peer::Heap& heap : burst.heaps) {
        Peer::Create(heap);
        for (size_t i = 0; i < kBlocks; i++) AllocTouched<Peer>(heap, sizes[next++]);
        if (next == sizes.size()) next = 0;
      }
      making += ThreadCpuNs() - start - clock_cost_;
      sem_post(&full_slots_);
    }
    Wait(&done_);
    return static_cast<double>(making + destroying_.load());
  }

  static constexpr size_t kBlocks = 100;
  static constexpr size_t kBurst = 20;  // divides kMixedCycle / kBlocks

 private:
  static constexpr size_t kSlots = 3;
  struct Burst {
    typename Peer::Heap heaps[kBurst];
    bool last;
  };

  static void Wait(sem_t* semaphore) {
    while (sem_wait(semaphore) != 0) Require(errno == EINTR, "sem_wait");
  }

  void DestroyBursts() {
    for (size_t tail = 0;; tail++) {
      Wait(&full_slots_);
      Burst& burst = ring_[tail % kSlots];
      const int64_t start = ThreadCpuNs();
      for (typename Peer::Heap& heap : burst.heaps) Peer::Destroy(heap);
      destroying_.fetch_add(ThreadCpuNs() - start - clock_cost_);
      const bool last = burst.last;
      sem_post(&free_slots_);
      if (last) sem_post(&done_);
    }
  }

  Burst ring_[kSlots];
  size_t head_ = 0;
  sem_t free_slots_;
  sem_t full_slots_;
  sem_t done_;
  std::atomic<int64_t> destroying_{0};
  int64_t clock_cost_;
  std::thread destroyer_;
};

template <typename Peer>
Side HandOverSide() {
  Peer::Prepare();
  auto* hand_over = new HandOver<Peer>;  // its thread ends with the row's process
  Side side{Peer::kName, [hand_over](uint64_t passes) { return hand_over->Run(passes); }};
  side.units = static_cast<double>(kMixedCycle / HandOver<Peer>::kBlocks);
  return side;
}

/// Two threads that allocate and free at the same time, `first` on the calling thread. Both go on until both have done
/// their share, so that neither is ever measured alone. The time is the mean of the two threads' processor times.
class TwoThreads {
 public:
  using Work = std::function<void(uint64_t)>;
  TwoThreads(Work first, Work second) : first_(std::move(first)), second_(std::move(second)) {
    pthread_barrier_init(&barrier_, nullptr, 2);
    other_ = std::thread([this] {
      for (;;) {
        pthread_barrier_wait(&barrier_);
        other_ns_ = Share(second_);
        pthread_barrier_wait(&barrier_);
      }
    });
  }

  double Run(uint64_t pairs) {
    pairs_ = pairs;
    unfinished_.store(2);
    pthread_barrier_wait(&barrier_);
    const double own_ns = Share(first_);
    pthread_barrier_wait(&barrier_);
    return (own_ns + other_ns_) / 2;
  }

 private:
  double Share(const Work& work) {
    const int64_t start = ThreadCpuNs();
    work(pairs_);
    const double time = static_cast<double>(ThreadCpuNs() - start);
    unfinished_.fetch_sub(1);
    while (unfinished_.load() != 0) work(1000);
    return time;
  }

  Work first_;
  Work second_;
  pthread_barrier_t barrier_;
  uint64_t pairs_ = 0;
  double other_ns_ = 0;
  std::atomic<int> unfinished_{0};
  std::thread other_;
};

/// One thread alone against two at once; `same_heap` or each in a heap of its own (what the machine itself costs).
std::vector<Side> TwoThreadSides(bool same_heap, size_t kept) {
  mi_heap_t* heap = mi_heap_new();
  auto work = [kept](mi_heap_t* target) {
    return [target, kept](uint64_t pairs) {
      mi_heap_t* heaps[1] = {target};
      if (kept == 0) return HotPairs<Ours>(heaps, 1, 64, pairs);
      // A window of live blocks of mixed small sizes, the oldest of which is freed at each step.
      static thread_local std::vector<void*> window;
      window.resize(kept);
      const std::vector<uint32_t>& sizes = SmallSizes();
      for (uint64_t i = 0; i < pairs; i++) {
        void*& slot = window[i % kept];
        mi_free(slot);
        slot = mi_heap_malloc(target, sizes[i % sizes.size()]);
      }
    };
  };
  SmallSizes();
  Grow<Ours>(&heap, 1, 20);
  auto* other_heap = new mi_heap_t*(heap);
  auto second = [work, other_heap, same_heap](uint64_t pairs) {
    static thread_local bool grown = false;
    if (!grown) {
      if (!same_heap) *other_heap = mi_heap_new();
      Grow<Ours>(other_heap, 1, 20);
      grown = true;
    }
    work (*other_heap)(pairs);
  };
  auto* two = new TwoThreads(work(heap), second);  // its thread ends with the row's process
  two->Run(1000);
  return {{"two threads", [two](uint64_t pairs) { return two->Run(pairs); }}, {"one alone", OnThisThread(work(heap))}};
}

// ---- the rows ----------------------------------------------------------------------------------------------------

template <typename Peer>
Row CycleRow(const char* id, const char* what, double bar, void (*ours)(uint64_t), void (*peer)(uint64_t)) {
  return {id, what, "heap", bar, [ours, peer] {
            return std::vector<Side>{MakeSide<Ours>(ours), MakeSide<Peer>(peer)};
          }};
}

template <typename Peer>
Row MixedRow(const std::string& id, size_t blocks, double bar) {
  return {id, "create + " + std::to_string(blocks) + " mixed blocks + destroy", "heap", bar, [blocks] {
            return std::vector<Side>{MixedSide<Ours>(blocks), MixedSide<Peer>(blocks)};
          }};
}

Row HotRow(const char* id, size_t heaps, size_t live, double bar) {
  return {id,
          "malloc + free of 64 B hot, over " + std::to_string(heaps) + (heaps == 1 ? " heap" : " heaps") + " with " +
              std::to_string(live) + " live blocks each",
          "pair", bar, [heaps, live] {
            return std::vector<Side>{HotSide<Ours>(heaps, live), HotSide<OursDefault>(heaps, live)};
          }};
}

template <typename Peer>
Row HandOverRow(const char* id, double bar) {
  return {id, "heaps of 100 mixed blocks made on one thread, destroyed on another", "heap", bar, [] {
            return std::vector<Side>{HandOverSide<Ours>(), HandOverSide<Peer>()};
          }};
}

/// Heaps made with a configuration against plain ones.
template <typename Peer>
Row OrderRow(const char* id, double bar) {
  return {id, "create + W + destroy of a heap with a configuration, against a plain one", "heap", bar, [] {
            return std::vector<Side>{MakeSide<Peer>(CycleW<Peer>), MakeSide<Ours>(CycleW<Ours>)};
          }};
}

std::vector<Row> AllRows() {
  std::vector<Row> rows;
  const char* empty = "create + destroy";
  const char* one64 = "create + one 64 B block + destroy";
  const char* w = "create + W + destroy";
  rows.push_back(CycleRow<Apr>("2-empty", empty, 0.5, CycleEmpty<Ours>, CycleEmpty<Apr>));
  rows.push_back(CycleRow<Apr>("2-one64", one64, 0.5, CycleOne64<Ours>, CycleOne64<Apr>));
  rows.push_back(CycleRow<AprUnlocked>("2-empty-unlocked", empty, 0.5, CycleEmpty<Ours>, CycleEmpty<AprUnlocked>));
  rows.push_back(CycleRow<AprUnlocked>("2-one64-unlocked", one64, 0.5, CycleOne64<Ours>, CycleOne64<AprUnlocked>));
  rows.push_back(CycleRow<Apr>("3-w", w, 0.9, CycleW<Ours>, CycleW<Apr>));
  rows.push_back(CycleRow<AprUnlocked>("3-w-unlocked", w, 0.9, CycleW<Ours>, CycleW<AprUnlocked>));
  rows.push_back(CycleRow<Glibc>("3-w-freed", "create + W + every block freed + destroy", 0.8, CycleWFreed<Ours>,
                                 CycleWFreed<Glibc>));
  rows.push_back(CycleRow<Mimalloc2>("3-w-mimalloc2", w, kNoBar, CycleW<Ours>, CycleW<Mimalloc2>));
  rows.push_back(CycleRow<Talloc>("3-w-talloc", w, kNoBar, CycleW<Ours>, CycleW<Talloc>));
  rows.push_back(CycleRow<Obstack>("3-w-obstack", w, kNoBar, CycleW<Ours>, CycleW<Obstack>));
  rows.push_back(CycleRow<GlibcTracked>("3-w-glibc", w, kNoBar, CycleW<Ours>, CycleW<GlibcTracked>));
  rows.push_back(CycleRow<Bump>("3-w-bump", w, kNoBar, CycleW<Ours>, CycleW<Bump>));
  rows.push_back(OrderRow<OursLimited>("3-w-limit", 1.05));
  rows.push_back(OrderRow<OursToOrder<false>>("3-w-to-order", 1.05));
  rows.push_back(OrderRow<OursToOrder<true>>("3-w-to-order-named", kNoBar));
  for (size_t blocks : {10, 100, 1000, 10000}) {
    const std::string id = "4-" + std::to_string(blocks);
    rows.push_back(MixedRow<Apr>(id, blocks, 1.0));
    rows.push_back(MixedRow<AprUnlocked>(id + "-unlocked", blocks, 1.0));
  }
  rows.push_back(MixedRow<Mimalloc2>("4-100-mimalloc2", 100, 0.5));
  rows.push_back(MixedRow<Obstack>("4-100-obstack", 100, kNoBar));
  rows.push_back(MixedRow<GlibcTracked>("4-100-glibc", 100, kNoBar));
  rows.push_back(MixedRow<Bump>("4-100-bump", 100, kNoBar));
  rows.push_back(
      CycleRow<Apr>("6-w-reset", "W + reset of a heap that is kept", 1.0, CycleWReset<Ours>, CycleWReset<Apr>));
  rows.push_back(CycleRow<AprUnlocked>("6-w-reset-unlocked", "W + reset of a heap that is kept", 1.0, CycleWReset<Ours>,
                                       CycleWReset<AprUnlocked>));
  rows.push_back({"6-reset", "reset alone, of a heap that held W", "heap", 1.0, [] {
                    return std::vector<Side>{ResetSide<Ours>(), ResetSide<Apr>()};
                  }});
  rows.push_back({"6-reset-unlocked", "reset alone, of a heap that held W", "heap", 1.0, [] {
                    return std::vector<Side>{ResetSide<Ours>(), ResetSide<AprUnlocked>()};
                  }});
  rows.push_back({"7-destroy", "destroy of a heap with 100,000 blocks of 16 to 512 B, purging off", "block", 0.3, [] {
                    mi_option_set(mi_option_purge_delay, -1);
                    return std::vector<Side>{DestroySide<Ours>()};
                  }});
  rows.push_back(
      {"7-destroy-apr", "destroy of a heap with 100,000 blocks of 16 to 512 B, purging off", "block", kNoBar, [] {
         mi_option_set(mi_option_purge_delay, -1);
         return std::vector<Side>{DestroySide<Ours>(), DestroySide<Apr>()};
       }});
  rows.push_back(HotRow("8-1", 1, 20, 1.1));
  rows.push_back(
      {"8-1-limit", "malloc + free of 64 B hot, in a grown heap with a limit, against one without", "pair", 1.1, [] {
         return std::vector<Side>{HotSide<OursLimited>(1, 20), HotSide<Ours>(1, 20)};
       }});
  rows.push_back(HotRow("8-2", 2, 20, 1.3));
  rows.push_back(HotRow("8-8", 8, 20, 1.3));
  rows.push_back(HotRow("8-64", 64, 20, 1.3));
  rows.push_back(HotRow("8-1-full", 1, 4000, kNoBar));
  rows.push_back(HotRow("8-64-full", 64, 4000, kNoBar));
  rows.push_back(HotRow("8-1-alone", 1, 0, kNoBar));
  rows.push_back(HandOverRow<Apr>("10b-hand-over", 1.0));
  rows.push_back(HandOverRow<AprShared>("10b-hand-over-unmanaged", 1.0));
  rows.push_back(HandOverRow<AprAlone>("10b-hand-over-alone", kNoBar));
  rows.push_back({"10b-two-threads", "two threads allocate and free 64 B in one heap, mean against one alone", "pair",
                  1.1, [] { return TwoThreadSides(true, 0); }});
  rows.push_back({"10b-two-threads-window", "the same with 200 live blocks of 16 to 512 B per thread", "pair", kNoBar,
                  [] { return TwoThreadSides(true, 200); }});
  rows.push_back({"10b-control", "two threads, each in a heap of its own: the machine's share", "pair", kNoBar,
                  [] { return TwoThreadSides(false, 0); }});
  return rows;
}

// ---- measuring ---------------------------------------------------------------------------------------------------

/// The amount whose batch takes about `batch_ns`; also warms the side up.
uint64_t Calibrate(const Side& side, double batch_ns) {
  if (side.fixed_amount != 0) {
    side.batch(side.fixed_amount);
    return side.fixed_amount;
  }
  uint64_t amount = 1;
  for (;;) {
    const double time = side.batch(amount);
    if (time >= batch_ns / 2) {
      const double scaled = static_cast<double>(amount) * batch_ns / time;
      return scaled < 1 ? 1 : static_cast<uint64_t>(scaled);
    }
    amount *= 2;
  }
}

Result Measure(const Row& row, const Settings& settings) {
  const std::vector<Side> sides = row.sides();
  std::vector<uint64_t> amounts;
  for (const Side& side : sides) amounts.push_back(Calibrate(side, settings.batch_ns));
  const auto time_per_unit = [&](size_t i) {
    return sides[i].batch(amounts[i]) / (static_cast<double>(amounts[i]) * sides[i].units);
  };
  for (size_t i = 0; i < sides.size(); i++) time_per_unit(i);
  std::vector<double> ours, peer, figures;
  for (int pair = 0; pair < settings.pairs; pair++) {
    if (sides.size() == 1) {
      ours.push_back(time_per_unit(0));
      figures.push_back(ours.back());
      continue;
    }
    const size_t earlier = static_cast<size_t>(pair % 2);
    double times[2];
    times[earlier] = time_per_unit(earlier);
    times[1 - earlier] = time_per_unit(1 - earlier);
    ours.push_back(times[0]);
    peer.push_back(times[1]);
    figures.push_back(times[0] / times[1]);
  }
  Result result = {};
  snprintf(result.ours, sizeof(result.ours), "%s", sides[0].name.c_str());
  if (sides.size() > 1) snprintf(result.peer, sizeof(result.peer), "%s", sides[1].name.c_str());
  result.ours_ns = QuartilesOf(ours).median;
  result.peer_ns = peer.empty() ? NAN : QuartilesOf(peer).median;
  result.figure = QuartilesOf(figures);
  return result;
}

/// Measures the row in a child process. False if the child failed.
bool MeasureApart(const Row& row, const Settings& settings, Result* result) {
  int ends[2];
  Require(pipe(ends) == 0, "pipe");
  fflush(stdout);
  const pid_t child = fork();
  Require(child >= 0, "fork");
  if (child == 0) {
    close(ends[0]);
    const Result mine = Measure(row, settings);
    const bool written = write(ends[1], &mine, sizeof(mine)) == static_cast<ssize_t>(sizeof(mine));
    _exit(written ? 0 : 1);
  }
  close(ends[1]);
  const bool complete = read(ends[0], result, sizeof(*result)) == static_cast<ssize_t>(sizeof(*result));
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  return complete && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

cJSON* ToJson(const Row& row, const Result& result) {
  cJSON* object = cJSON_CreateObject();
  cJSON_AddStringToObject(object, "row", row.id.c_str());
  cJSON_AddStringToObject(object, "what", row.what.c_str());
  cJSON_AddStringToObject(object, "unit", row.unit.c_str());
  cJSON_AddStringToObject(object, "a", result.ours);
  cJSON_AddNumberToObject(object, "a_ns", result.ours_ns);
  if (result.peer[0] != '\0') {
    cJSON_AddStringToObject(object, "b", result.peer);
    cJSON_AddNumberToObject(object, "b_ns", result.peer_ns);
  }
  cJSON* figure = cJSON_AddObjectToObject(object, result.peer[0] != '\0' ? "ratio" : "ns");
  cJSON_AddNumberToObject(figure, "lower_quartile", result.figure.lower);
  cJSON_AddNumberToObject(figure, "median", result.figure.median);
  cJSON_AddNumberToObject(figure, "upper_quartile", result.figure.upper);
  if (!std::isnan(row.bar)) {
    cJSON_AddNumberToObject(object, "bar", row.bar);
    cJSON_AddBoolToObject(object, "met", result.figure.median <= row.bar);
  }
  return object;
}

void Print(const Row& row, const Result& result) {
  char bar[16] = "-";
  if (!std::isnan(row.bar)) snprintf(bar, sizeof(bar), "%.2f", row.bar);
  printf("%-24s %-12s %11.2f  %-14s %11.2f  %7.3f  %7.3f .. %-7.3f %5s  %-6s  %s, ns per %s\n", row.id.c_str(),
         result.ours, result.ours_ns, result.peer[0] != '\0' ? result.peer : "-", result.peer_ns, result.figure.median,
         result.figure.lower, result.figure.upper, bar, Verdict(result.figure.median, row.bar), row.what.c_str(),
         row.unit.c_str());
}

int Main(int argc, char** argv) {
  Settings settings;
  std::string filter = "";
  std::string json;
  bool list = false;
  for (int i = 1; i < argc; i++) {
    const std::string argument = argv[i];
    const auto value = [&] {
      if (i + 1 == argc) Fail((argument + " needs a value").c_str());
      return argv[++i];
    };
    if (argument == "--filter") {
      filter = value();
    } else if (argument == "--pairs") {
      settings.pairs = atoi(value());
    } else if (argument == "--batch-ms") {
      settings.batch_ns = atof(value()) * 1e6;
    } else if (argument == "--json") {
      json = value();
    } else if (argument == "--list") {
      list = true;
    } else {
      fprintf(stderr, "usage: %s [--filter REGEX] [--pairs N] [--batch-ms MS] [--json FILE] [--list]\n", argv[0]);
      return 2;
    }
  }
  Require(settings.pairs > 0 && settings.batch_ns > 0, "--pairs and --batch-ms must be above 0");

  cJSON* document = cJSON_CreateObject();
  cJSON_AddNumberToObject(document, "pairs", settings.pairs);
  cJSON_AddNumberToObject(document, "batch_ms", settings.batch_ns / 1e6);
  cJSON_AddStringToObject(document, "apr", APR_VERSION_STRING);
  cJSON* array = cJSON_AddArrayToObject(document, "rows");
  if (!list) {
    printf("%-24s %-12s %11s  %-14s %11s  %7s  %-18s %5s  %s\n", "row", "a", "a ns", "b", "b ns", "a/b", "quartiles",
           "bar", "");
  }
  int failed = 0;
  const std::regex pattern(filter);
  for (const Row& row : AllRows()) {
    if (!std::regex_search(row.id, pattern)) continue;
    if (list) {
      printf("%-24s %s\n", row.id.c_str(), row.what.c_str());
      continue;
    }
    Result result;
    if (!MeasureApart(row, settings, &result)) {
      printf("%-24s FAILED: its process did not finish\n", row.id.c_str());
      failed++;
      continue;
    }
    Print(row, result);
    cJSON_AddItemToArray(array, ToJson(row, result));
  }
  if (!json.empty() && !list) {
    WriteJson(document, json);
  } else {
    cJSON_Delete(document);
  }
  return failed == 0 ? 0 : 1;
}

}  // namespace
}  // namespace bench

int main(int argc, char** argv) { return bench::Main(argc, argv); }
