// Memory, page faults, system calls and instruction counts: the figures that need a process of their own. The driver
// starts this same program again for every figure, with the name of a probe and its arguments (--probe ...), under
// valgrind or strace where instructions, cache misses or system calls are counted, and reads the probe's answers as
// lines "key value". Resident memory is read from smaps_rollup, which, unlike statm, is exact. Nothing here is timed
// but the first-time creation of very many heaps.
//
// Usage: rss [--filter REGEX] [--quick] [--seconds S] [--json FILE]
// --quick divides counts by ten; --seconds is the length of the rows that watch memory over time.

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <random>
#include <regex>
#include <string>
#include <thread>
#include <vector>

#include "mi/mimalloc.h"
#include "tests/bench/clock.h"
#include "tests/bench/peers.h"
#include "tests/bench/report.h"
#include "tests/bench/workloads.h"

// The functions whose instructions are counted need names that valgrind can be told.
extern "C" __attribute__((noinline)) void BenchCreateHeaps(mi_heap_t** heaps, size_t count) {
  for (size_t i = 0; i < count; i++) {
    heaps[i] = mi_heap_new();
    char* p = static_cast<char*>(mi_heap_malloc(heaps[i], 16));
    *const_cast<volatile char*>(p) = 1;
  }
}

extern "C" __attribute__((noinline)) void BenchDestroyHeaps(mi_heap_t** heaps, size_t count) {
  for (size_t i = 0; i < count; i++) mi_heap_destroy(heaps[i]);
}

namespace bench {
namespace {

constexpr double kNoBar = NAN;
constexpr double kKiB = 1024;
constexpr double kMiB = 1024 * 1024;

/// Resident bytes of this process.
double Rss() {
  char text[4096];
  const int file = open("/proc/self/smaps_rollup", O_RDONLY | O_CLOEXEC);
  Require(file >= 0, "no /proc/self/smaps_rollup");
  const ssize_t length = read(file, text, sizeof(text) - 1);
  close(file);
  Require(length > 0, "cannot read /proc/self/smaps_rollup");
  text[length] = '\0';
  const char* line = strstr(text, "\nRss:");
  Require(line != nullptr, "no Rss in /proc/self/smaps_rollup");
  return strtod(line + 5, nullptr) * kKiB;
}

void Answer(const char* key, double value) { printf("%s %.17g\n", key, value); }

void Wait(sem_t* semaphore) {
  while (sem_wait(semaphore) != 0) Require(errno == EINTR, "sem_wait");
}

using Arguments = std::vector<std::string>;

size_t Number(const Arguments& arguments, size_t i) {
  Require(i < arguments.size(), "a probe's argument is missing");
  return static_cast<size_t>(strtoull(arguments[i].c_str(), nullptr, 10));
}

// ---- live heaps -------------------------------------------------------------------------------------------------

template <typename Peer>
void ProbeLiveOf(const std::string& shape, size_t count) {
  Peer::Prepare();
  std::vector<typename Peer::Heap> heaps(count);
  Rss();
  const double start = Rss();
  for (auto& heap : heaps) {
    Peer::Create(heap);
    if (shape == "one16") AllocTouched<Peer>(heap, 16);
    if (shape == "w") AllocW<Peer>(heap);
  }
  Answer("bytes_per_heap", (Rss() - start) / static_cast<double>(count));
}

/// live PEER SHAPE COUNT: resident bytes per live heap.
void ProbeLive(const Arguments& arguments) {
  const size_t count = Number(arguments, 2);
  if (arguments[0] == "ours") return ProbeLiveOf<Ours>(arguments[1], count);
  if (arguments[0] == "apr") return ProbeLiveOf<Apr>(arguments[1], count);
  if (arguments[0] == "mimalloc2") return ProbeLiveOf<Mimalloc2>(arguments[1], count);
  if (arguments[0] == "talloc") return ProbeLiveOf<Talloc>(arguments[1], count);
  Fail("unknown peer");
}

/// many COUNT: heaps with one block of 16 B each, for the first time in the process.
void ProbeMany(const Arguments& arguments) {
  const size_t count = Number(arguments, 0);
  std::vector<mi_heap_t*> heaps(count);
  Rss();
  const double start = Rss();
  const int64_t begin = ThreadCpuNs();
  BenchCreateHeaps(heaps.data(), count);
  const int64_t created = ThreadCpuNs();
  const double peak = Rss();
  const int64_t again = ThreadCpuNs();
  BenchDestroyHeaps(heaps.data(), count);
  const int64_t destroyed = ThreadCpuNs();
  Answer("rss", peak);
  Answer("bytes_per_heap", (peak - start) / static_cast<double>(count));
  Answer("create_ns", static_cast<double>(created - begin) / static_cast<double>(count));
  Answer("destroy_ns", static_cast<double>(destroyed - again) / static_cast<double>(count));
}

// ---- threads ----------------------------------------------------------------------------------------------------

/// Threads that do what they are told, step by step, and stand still in between.
class Company {
 public:
  explicit Company(size_t count) : count_(count) {
    pthread_barrier_init(&barrier_, nullptr, static_cast<unsigned>(count + 1));
    for (size_t i = 0; i < count; i++) {
      threads_.emplace_back([this, i] {
        for (;;) {
          pthread_barrier_wait(&barrier_);
          if (!step_) return;
          step_(i);
          pthread_barrier_wait(&barrier_);
        }
      });
    }
    All([](size_t) {});
  }
  ~Company() {
    step_ = nullptr;
    pthread_barrier_wait(&barrier_);
    for (std::thread& thread : threads_) thread.join();
    pthread_barrier_destroy(&barrier_);
  }
  /// Every thread calls `step` with its number; returns when all have.
  void All(std::function<void(size_t)> step) {
    step_ = std::move(step);
    pthread_barrier_wait(&barrier_);
    pthread_barrier_wait(&barrier_);
  }
  size_t count() const { return count_; }

 private:
  size_t count_;
  pthread_barrier_t barrier_;
  std::function<void(size_t)> step_;
  std::vector<std::thread> threads_;
};

/// touch THREADS HEAPS: what one more thread costs a heap in which it allocates one block.
void ProbeTouch(const Arguments& arguments) {
  const size_t threads = Number(arguments, 0);
  const size_t count = Number(arguments, 1);
  std::vector<mi_heap_t*> heaps(count + 1);
  BenchCreateHeaps(heaps.data(), heaps.size());
  Company company(threads);
  const auto touch = [](mi_heap_t* heap) { AllocTouched<Ours>(heap, 16); };
  Rss();
  const double before = Rss();
  company.All([&](size_t) { touch(heaps[0]); });
  const double first = Rss();
  company.All([&](size_t) {
    for (size_t i = 1; i < heaps.size(); i++) touch(heaps[i]);
  });
  const double all = Rss();
  Answer("first_heap", (first - before) / static_cast<double>(threads));
  Answer("further_heap", (all - first) / static_cast<double>(threads * count));
}

/// hop CYCLES SAMPLES: every heap is made on one of three threads, used on the next and destroyed on the one after.
/// The threads pass bursts of heaps round, and each plays all three parts. The first tenth is the warming up; resident
/// memory is read SAMPLES times (0: never).
class Hop {
 public:
  Hop(uint64_t cycles, size_t samples)
      : cycles_((cycles + kGrain - 1) / kGrain * kGrain), marks_(samples > 0 ? samples : 10), unmade_(cycles_) {
    for (sem_t& waiting : waiting_) sem_init(&waiting, 0, 0);
    sem_init(&progress_, 0, 0);
    for (size_t i = 0; i < kBursts; i++) Send(i % kThreads, &bursts_[i]);
    std::vector<std::thread> threads;
    for (size_t i = 0; i < kThreads; i++) threads.emplace_back([this, i] { Work(i); });
    std::vector<double> rss;
    long warm_faults = 0;
    for (size_t i = 1; i <= marks_; i++) {
      Wait(&progress_);
      if (i == marks_ / 10) warm_faults = Faults();
      if (samples > 0) rss.push_back(Rss());
    }
    const long faults = Faults() - warm_faults;
    for (std::thread& thread : threads) thread.join();
    Answer("cycles", static_cast<double>(cycles_));
    Answer("faults", static_cast<double>(faults));
    if (samples == 0) return;
    const size_t tenth = rss.size() / 10;
    double first = 0, last = 0;
    for (size_t i = 0; i < tenth; i++) {
      first += rss[i] / static_cast<double>(tenth);
      last += rss[rss.size() - 1 - i] / static_cast<double>(tenth);
    }
    Answer("rss_first_tenth", first);
    Answer("rss_last_tenth", last);
  }

 private:
  static constexpr size_t kThreads = 3;
  static constexpr size_t kBursts = 6;
  static constexpr size_t kHeaps = 64;             // of a burst
  static constexpr uint64_t kGrain = 10 * kHeaps;  // cycles come in tenths of whole bursts
  struct Burst {
    mi_heap_t* heaps[kHeaps];
    void* first_block[kHeaps];
    enum { kEmpty, kMade, kUsed } state = kEmpty;
  };

  static long Faults() {
    rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_minflt;
  }

  void Send(size_t thread, Burst* burst) {
    inbox_[thread][sent_[thread]++ % kBursts] = burst;  // at most kBursts are on their way: none is overwritten
    sem_post(&waiting_[thread]);
  }

  void Work(size_t self) {
    for (size_t received = 0;; received++) {
      Wait(&waiting_[self]);
      Burst* burst = inbox_[self][received % kBursts];
      if (burst == nullptr) return;
      if (burst->state == Burst::kMade) {
        Use(burst);
      } else {
        if (burst->state == Burst::kUsed) Destroy(burst);
        if (!Make(burst)) {
          if (retired_.fetch_add(1) + 1 < kBursts) continue;
          for (size_t i = 0; i < kThreads; i++) Send(i, nullptr);  // nothing else is on its way any more
          continue;
        }
      }
      Send((self + 1) % kThreads, burst);
    }
  }

  /// False if enough heaps have been made.
  bool Make(Burst* burst) {
    if (unmade_.fetch_sub(kHeaps) <= 0) return false;
    for (size_t i = 0; i < kHeaps; i++) {
      burst->heaps[i] = mi_heap_new();
      burst->first_block[i] = AllocTouched<Ours>(burst->heaps[i], 32);
      for (size_t k = 0; k < 5; k++) AllocTouched<Ours>(burst->heaps[i], kSizesOfW[(i + k) % 10]);
    }
    burst->state = Burst::kMade;
    return true;
  }

  void Use(Burst* burst) {
    for (size_t i = 0; i < kHeaps; i++) {
      mi_free(burst->first_block[i]);
      for (size_t k = 0; k < 5; k++) AllocTouched<Ours>(burst->heaps[i], kSizesOfW[(i + k) % 10]);
    }
    burst->state = Burst::kUsed;
  }

  void Destroy(Burst* burst) {
    for (mi_heap_t* heap : burst->heaps) mi_heap_destroy(heap);
    const uint64_t before = destroyed_.fetch_add(kHeaps);
    const uint64_t after = before + kHeaps;
    for (uint64_t i = before * marks_ / cycles_; i < after * marks_ / cycles_; i++) sem_post(&progress_);
  }

  const uint64_t cycles_;
  const size_t marks_;
  std::atomic<int64_t> unmade_;
  std::atomic<uint64_t> destroyed_{0};
  std::atomic<size_t> retired_{0};
  Burst bursts_[kBursts];
  Burst* inbox_[kThreads][kBursts];
  size_t sent_[kThreads] = {};
  sem_t waiting_[kThreads];
  sem_t progress_;
};

void ProbeHop(const Arguments& arguments) { Hop hop(Number(arguments, 0), Number(arguments, 1)); }

// ---- metadata, giving back ---------------------------------------------------------------------------------------

/// metadata SIZE MIB: what resident memory holds beside the blocks, when MIB of blocks of SIZE are live and every byte
/// of them has been written.
void ProbeMetadata(const Arguments& arguments) {
  const size_t size = Number(arguments, 0);
  const size_t count = Number(arguments, 1) * static_cast<size_t>(kMiB) / size;
  mi_free(mi_malloc(size));
  Rss();
  const double start = Rss();
  double usable = 0;
  void* list = nullptr;  // the blocks keep themselves
  for (size_t i = 0; i < count; i++) {
    void* p = mi_malloc(size);
    Require(p != nullptr, "out of memory");
    const size_t bytes = mi_usable_size(p);
    memset(p, 1, bytes);
    *static_cast<void**>(p) = list;
    list = p;
    usable += static_cast<double>(bytes);
  }
  const double grown = Rss() - start;
  Answer("share", (grown - usable) / grown);
  Answer("grown", grown);
  double worst = 0;
  for (size_t request = 65; request <= 4 << 20; request += request < 65536 ? 1 : 4093) {
    const size_t good = mi_good_size(request);
    worst = std::max(worst, static_cast<double>(good - request) / static_cast<double>(good));
  }
  Answer("worst_fragmentation", worst);
}

/// All kinds of blocks, in heaps of one's own and in `shared`.
struct Possessions {
  std::vector<mi_heap_t*> heaps;
  std::vector<void*> blocks;

  void Gather(mi_heap_t* shared) {
    const auto hold = [this](void* p, size_t size) {
      Require(p != nullptr, "out of memory");
      memset(p, 1, size);
      blocks.push_back(p);
    };
    for (int i = 0; i < 300; i++) {
      heaps.push_back(mi_heap_new());
      AllocW<Ours>(heaps.back());
    }
    heaps.push_back(mi_heap_new());
    Fill<Ours>(heaps.back(), MixedSizes());
    Fill<Ours>(shared, SmallSizes());
    memset(mi_heap_malloc(heaps.back(), 64 << 20), 1, 64 << 20);
    memset(mi_heap_malloc_aligned(heaps.back(), 1 << 20, 8 << 20), 1, 1 << 20);
    memset(mi_heap_malloc_aligned(shared, 100000, 256 << 10), 1, 100000);
    for (uint32_t size : MixedSizes()) hold(mi_malloc(size), size);
    hold(mi_malloc(64 << 20), 64 << 20);
    hold(mi_malloc_aligned(3 << 20, 16 << 20), 3 << 20);
    hold(mi_malloc_aligned(64, 128 << 10), 64);
  }

  void Drop() {
    for (mi_heap_t* heap : heaps) mi_heap_destroy(heap);
    for (void* block : blocks) mi_free(block);
    heaps = {};
    blocks = {};
  }
};

/// giveback exit|alive|other: resident memory after everything was destroyed and collected, less that at the start.
/// The threads' blocks are partly freed by themselves and partly by the main thread. exit: the threads end before the
/// collect; alive: they stand still during it, pass a slow path afterwards, and collect runs once more; other: they
/// end, and a thread that never allocated collects, once more after the main thread has passed a slow path.
void ProbeGiveBack(const Arguments& arguments) {
  constexpr size_t kThreads = 3;
  const std::string& kind = arguments[0];
  MixedSizes();
  SmallSizes();
  Possessions own;
  std::vector<Possessions> theirs(kThreads);
  // What glibc needs for threads and for vectors of this size is not ours: have it resident before the start.
  for (int round = 0; round < 2; round++) {
    std::vector<std::vector<void*>> vectors(kThreads + 1, std::vector<void*>(kMixedCycle + 100));
    Company company(kThreads);
    company.All([](size_t) {
      volatile char stack[64 << 10];
      for (size_t i = 0; i < sizeof(stack); i += 512) stack[i] = 1;
    });
  }
  for (Possessions& possessions : theirs) possessions.blocks.reserve(kMixedCycle + 100);
  own.blocks.reserve(kMixedCycle + 100);
  for (size_t i = 0; i < kMixedCycle + 100; i++) {
    for (Possessions& possessions : theirs) possessions.blocks.push_back(&own);
    own.blocks.push_back(&own);
  }
  for (Possessions& possessions : theirs) possessions.blocks.clear();
  own.blocks.clear();
  Rss();
  const double start = Rss();

  mi_heap_t* shared = mi_heap_new();
  auto* company = new Company(kThreads);
  company->All([&](size_t i) { theirs[i].Gather(shared); });
  own.Gather(shared);
  const double peak = Rss();
  company->All([&](size_t i) {
    if (i == 0) theirs[i].Drop();
  });
  for (size_t i = 1; i < kThreads; i++) theirs[i].Drop();
  own.Drop();
  mi_heap_destroy(shared);
  if (kind == "alive") {
    mi_collect(true);
    company->All([](size_t) { mi_free(mi_malloc(1 << 20)); });
    mi_collect(true);
  } else {
    delete company;
    company = nullptr;
    if (kind == "other") {
      std::thread([] { mi_collect(true); }).join();
      mi_free(mi_malloc(1 << 20));  // this thread is one of those that must pass a slow path
      std::thread([] { mi_collect(true); }).join();
    } else {
      mi_collect(true);
    }
  }
  const double end = Rss();
  Answer("peak", peak - start);
  Answer("left", end - start);
  delete company;
}

// ---- memory over time ------------------------------------------------------------------------------------------

/// Keeps the sum of live bytes and its peak.
class LiveBytes {
 public:
  void Add(int64_t bytes) {
    const int64_t now = live_.fetch_add(bytes) + bytes;
    int64_t peak = peak_.load();
    while (now > peak && !peak_.compare_exchange_weak(peak, now)) {
    }
  }
  double peak() const { return static_cast<double>(peak_.load()); }

 private:
  std::atomic<int64_t> live_{0};
  std::atomic<int64_t> peak_{0};
};

/// Reads resident memory until the time is over, then tells the others to stop.
void Watch(double seconds, double start, std::atomic<bool>* stop, const LiveBytes& live) {
  const int64_t end = WallNs() + static_cast<int64_t>(seconds * 1e9);
  double highest = 0;
  while (WallNs() < end) {
    highest = std::max(highest, Rss() - start);
    usleep(20000);
  }
  stop->store(true);
  Answer("rss_peak", highest);
  Answer("live_peak", live.peak());
}

struct SizedBlock {
  void* p;
  uint32_t size;
};

SizedBlock NewBlock(mi_heap_t* heap, uint32_t size, LiveBytes* live) {
  live->Add(size);
  void* p = mi_heap_malloc(heap, size);
  Require(p != nullptr, "out of memory");
  memset(p, 1, size);
  return {p, size};
}

void FreeBlock(const SizedBlock& block, LiveBytes* live) {
  mi_free(block.p);
  live->Add(-static_cast<int64_t>(block.size));
}

/// producer SECONDS: one thread allocates in a heap, another frees, through a queue whose length swings between 1,000
/// and 50,000 blocks.
void ProbeProducer(const Arguments& arguments) {
  LiveBytes live;
  std::atomic<bool> stop{false};
  const std::vector<uint32_t>& sizes = MixedSizes();
  std::vector<SizedBlock> ring(50000);
  std::atomic<size_t> head{0}, tail{0};
  for (auto& slot : ring) slot = {nullptr, 1};
  Rss();
  const double start = Rss();
  std::thread producer([&] {
    mi_heap_t* heap = mi_heap_new();
    for (size_t i = 0; !stop.load(); i++) {
      while (head.load() - tail.load() == ring.size()) {
        if (stop.load()) break;
        sched_yield();
      }
      if (stop.load()) break;
      ring[i % ring.size()] = NewBlock(heap, sizes[i % sizes.size()], &live);
      head.store(i + 1);
    }
  });
  std::thread consumer([&] {
    while (!stop.load()) {
      while (head.load() - tail.load() < ring.size() && !stop.load()) sched_yield();
      while (head.load() - tail.load() > 1000) {
        FreeBlock(ring[tail.load() % ring.size()], &live);
        tail.fetch_add(1);
      }
    }
  });
  Watch(atof(arguments[0].c_str()), start, &stop, live);
  producer.join();
  consumer.join();
  Answer("operations", static_cast<double>(head.load()));
}

/// churn SECONDS: 50,000 live blocks, of which three threads at a time replace a random half; the threads then end and
/// others take their place. Every second generation allocates in one shared heap, the others by mi_malloc.
void ProbeChurn(const Arguments& arguments) {
  LiveBytes live;
  std::atomic<bool> stop{false};
  const std::vector<uint32_t>& sizes = MixedSizes();
  std::vector<SizedBlock> slots(kMixedCycle, SizedBlock{nullptr, 0});
  std::atomic<uint64_t> operations{0};
  for (auto& slot : slots) slot.p = nullptr;
  Rss();
  const double start = Rss();
  std::thread generations([&] {
    mi_heap_t* shared = mi_heap_new();
    for (uint64_t generation = 0; !stop.load(); generation++) {
      std::vector<std::thread> threads;
      for (size_t part = 0; part < 3; part++) {
        threads.emplace_back([&, part] {
          mi_heap_t* heap = generation % 2 == 0 ? shared : mi_heap_get_default();
          std::mt19937_64 random(generation * 3 + part);
          for (size_t i = part; i < slots.size(); i += 3) {
            const uint64_t number = random();
            if ((number & 1) != 0 && slots[i].p != nullptr) continue;
            if (slots[i].p != nullptr) FreeBlock(slots[i], &live);
            slots[i] = NewBlock(heap, sizes[(number >> 8) % sizes.size()], &live);
            operations.fetch_add(1, std::memory_order_relaxed);
          }
        });
      }
      for (std::thread& thread : threads) thread.join();
    }
  });
  Watch(atof(arguments[0].c_str()), start, &stop, live);
  generations.join();
  Answer("operations", static_cast<double>(operations.load()));
}

/// heaps SECONDS: heaps of 200 mixed blocks, every byte written; 300 are alive, and each of three threads in turn
/// makes, fills up or destroys whatever is in the slots that chance gives it.
void ProbeHeaps(const Arguments& arguments) {
  LiveBytes live;
  std::atomic<bool> stop{false};
  const std::vector<uint32_t>& sizes = MixedSizes();
  struct Slot {
    std::mutex mutex;
    mi_heap_t* heap = nullptr;
    int64_t bytes = 0;
    int fills = 0;
  };
  std::vector<Slot> slots(300);
  std::atomic<uint64_t> operations{0};
  Rss();
  const double start = Rss();
  std::vector<std::thread> threads;
  for (uint64_t id = 0; id < 3; id++) {
    threads.emplace_back([&, id] {
      std::mt19937_64 random(id);
      while (!stop.load()) {
        Slot& slot = slots[random() % slots.size()];
        const std::lock_guard<std::mutex> lock(slot.mutex);
        if (slot.fills == 4) {
          mi_heap_destroy(slot.heap);
          live.Add(-slot.bytes);
          slot.heap = nullptr;
          slot.bytes = 0;
          slot.fills = 0;
        }
        if (slot.heap == nullptr) slot.heap = mi_heap_new();
        for (int i = 0; i < 50; i++) {
          const uint32_t size = sizes[random() % sizes.size()];
          NewBlock(slot.heap, size, &live);
          slot.bytes += size;
        }
        slot.fills++;
        operations.fetch_add(1, std::memory_order_relaxed);
      }
    });
  }
  Watch(atof(arguments[0].c_str()), start, &stop, live);
  for (std::thread& thread : threads) thread.join();
  Answer("operations", static_cast<double>(operations.load()));
}

// ---- locality ----------------------------------------------------------------------------------------------------

/// order default|heap SIZE: how 1,000 blocks of one class that are allocated in a row lie.
void ProbeOrder(const Arguments& arguments) {
  const size_t size = Number(arguments, 1);
  mi_heap_t* heap = arguments[0] == "heap" ? mi_heap_new() : nullptr;
  size_t falls = 0, far_steps = 0, page_falls = 0;
  uintptr_t former = 0;
  for (int i = 0; i < 1000; i++) {
    const uintptr_t p = reinterpret_cast<uintptr_t>(heap != nullptr ? mi_heap_malloc(heap, size) : mi_malloc(size));
    if (former != 0) {
      const uintptr_t page = p >> 16, former_page = former >> 16;
      if (p < former) falls++;
      if (page < former_page) page_falls++;
      if (page > former_page + 1) far_steps++;
    }
    former = p;
  }
  Answer("address_falls", static_cast<double>(falls));
  Answer("page_falls", static_cast<double>(page_falls));
  Answer("far_steps", static_cast<double>(far_steps));
}

struct Node {
  Node* next;
  uint64_t value;
  char payload[48];
};

/// list none|ours|glibc COUNT fresh|used: a list of 64 B nodes built and walked ten times; `used` first allocates as
/// many nodes again and frees them in random order. For counting cache misses from outside.
void ProbeList(const Arguments& arguments) {
  const std::string& kind = arguments[0];
  const size_t count = Number(arguments, 1);
  std::vector<void*> order(count);
  std::mt19937_64 random(1);
  if (kind == "none") return;
  const bool ours = kind == "ours";
  const auto allocate = [ours] { return ours ? mi_malloc(sizeof(Node)) : malloc(sizeof(Node)); };
  const auto release = [ours](void* p) { ours ? mi_free(p) : free(p); };
  if (arguments[2] == "used") {
    for (void*& p : order) p = allocate();
    std::shuffle(order.begin(), order.end(), random);
    for (void* p : order) release(p);
  }
  Node* list = nullptr;
  for (size_t i = 0; i < count; i++) {
    Node* node = static_cast<Node*>(allocate());
    Require(node != nullptr, "out of memory");
    node->next = list;
    node->value = i;
    list = node;
  }
  uint64_t sum = 0;
  for (int round = 0; round < 10; round++) {
    for (Node* node = list; node != nullptr; node = node->next) sum += node->value;
  }
  Require(sum == 10 * (static_cast<uint64_t>(count) * (count - 1) / 2), "the list is broken");
}

// ---- the driver ----------------------------------------------------------------------------------------------------

using Answers = std::map<std::string, double>;

struct Options {
  std::regex filter{""};
  bool quick = false;
  double seconds = 10;
};

std::string self_path;
std::string scratch;  // a directory for the tools' output files

/// Runs this program's probe in a fresh process, under `tool` if that is not empty.
Answers RunProbe(const Arguments& probe, const Arguments& tool = {}) {
  Arguments command = tool;
  command.push_back(self_path);
  command.push_back("--probe");
  command.insert(command.end(), probe.begin(), probe.end());
  std::vector<char*> argv;
  for (std::string& word : command) argv.push_back(word.data());
  argv.push_back(nullptr);
  int ends[2];
  Require(pipe2(ends, O_CLOEXEC) == 0, "pipe");
  fflush(stdout);
  const pid_t child = fork();
  Require(child >= 0, "fork");
  if (child == 0) {
    dup2(ends[1], STDOUT_FILENO);
    execvp(argv[0], argv.data());
    perror(argv[0]);
    _exit(127);
  }
  close(ends[1]);
  Answers answers;
  FILE* output = fdopen(ends[0], "r");
  char key[64];
  double value;
  while (fscanf(output, "%63s %lf", key, &value) == 2) answers[key] = value;
  fclose(output);
  int status = 0;
  waitpid(child, &status, 0);
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) Fail(("probe " + probe[0]).c_str());
  return answers;
}

std::string ReadFile(const std::string& path) {
  FILE* file = fopen(path.c_str(), "r");
  if (file == nullptr) Fail(("cannot read " + path).c_str());
  std::string text;
  char buffer[65536];
  size_t length;
  while ((length = fread(buffer, 1, sizeof(buffer), file)) > 0) text.append(buffer, length);
  fclose(file);
  return text;
}

bool HaveTool(const char* tool) {
  return system((std::string("command -v ") + tool + " >/dev/null 2>&1").c_str()) == 0;
}

/// Instructions executed inside `function` and what it calls.
double Instructions(const char* function, const Arguments& probe) {
  const std::string file = scratch + "/callgrind.out";
  RunProbe(probe, {"valgrind", "--quiet", "--log-file=" + scratch + "/valgrind.log", "--tool=callgrind",
                   "--callgrind-out-file=" + file, std::string("--toggle-collect=") + function});
  const std::string text = ReadFile(file);
  std::smatch match;
  Require(std::regex_search(text, match, std::regex("\n(?:summary|totals): ([0-9]+)")), "no totals from callgrind");
  return atof(match[1].str().c_str());
}

/// Misses of the first-level data cache, reads and writes, in the whole process.
double CacheMisses(const Arguments& probe) {
  const std::string file = scratch + "/cachegrind.out";
  RunProbe(probe,
           {"valgrind", "--quiet", "--log-file=" + scratch + "/valgrind.log", "--tool=cachegrind", "--cache-sim=yes",
            "--I1=32768,8,64", "--D1=32768,8,64", "--LL=33554432,16,64", "--cachegrind-out-file=" + file});
  const std::string text = ReadFile(file);
  // events: Ir I1mr ILmr Dr D1mr DLmr Dw D1mw DLmw
  std::smatch match;
  Require(std::regex_search(text, match,
                            std::regex("\nsummary: [0-9]+ [0-9]+ [0-9]+ [0-9]+ ([0-9]+) [0-9]+ [0-9]+ ([0-9]+) ")),
          "no summary from cachegrind");
  return atof(match[1].str().c_str()) + atof(match[2].str().c_str());
}

/// System calls of a probe but those with which its threads wait for each other.
double SystemCalls(const Arguments& probe) {
  const std::string file = scratch + "/strace.out";
  RunProbe(probe, {"strace", "-f", "-c", "--seccomp-bpf", "-U", "calls,name", "-e", "trace=!futex", "-o", file});
  const std::string text = ReadFile(file);
  std::smatch match;
  Require(std::regex_search(text, match, std::regex("([0-9]+) total")), "no total from strace");
  return atof(match[1].str().c_str());
}

class Report {
 public:
  Report() : document_(cJSON_CreateObject()), rows_(cJSON_AddArrayToObject(document_, "rows")) {
    printf("%-22s %14s %-22s %10s  %-6s  %s\n", "row", "value", "unit", "bar", "", "what");
  }

  void Row(const std::string& id, double value, const std::string& unit, double bar, const std::string& what) {
    char bar_text[32] = "-";
    if (!std::isnan(bar)) snprintf(bar_text, sizeof(bar_text), "%.4g", bar);
    printf("%-22s %14.3f %-22s %10s  %-6s  %s\n", id.c_str(), value, unit.c_str(), bar_text, Verdict(value, bar),
           what.c_str());
    fflush(stdout);
    cJSON* object = cJSON_CreateObject();
    cJSON_AddStringToObject(object, "row", id.c_str());
    cJSON_AddStringToObject(object, "what", what.c_str());
    cJSON_AddStringToObject(object, "unit", unit.c_str());
    cJSON_AddNumberToObject(object, "value", value);
    if (!std::isnan(bar)) {
      cJSON_AddNumberToObject(object, "bar", bar);
      cJSON_AddBoolToObject(object, "met", value <= bar);
    }
    cJSON_AddItemToArray(rows_, object);
  }

  void Skip(const char* id, const char* why) { printf("%-22s skipped: %s\n", id, why); }

  void Finish(const std::string& json) {
    if (json.empty()) {
      cJSON_Delete(document_);
    } else {
      WriteJson(document_, json);
    }
  }

 private:
  cJSON* document_;
  cJSON* rows_;
};

void ReportLive(Report* report, const Options&) {
  const struct {
    const char* shape;
    const char* what;
    double bar;
  } shapes[] = {{"empty", "empty", 544}, {"one16", "one 16 B block", 1088}, {"w", "W, 6,840 B of payload", 9 * kKiB}};
  for (const auto& shape : shapes) {
    for (const char* peer : {"ours", "apr", "mimalloc2", "talloc"}) {
      const bool ours = strcmp(peer, "ours") == 0;
      const Answers answers = RunProbe({"live", peer, shape.shape, "10000"});
      report->Row(std::string("5-") + shape.shape + (ours ? "" : std::string("-") + peer), answers.at("bytes_per_heap"),
                  "B per heap", ours ? shape.bar : kNoBar, std::string("RSS of 10,000 live heaps, ") + shape.what);
    }
  }
}

void ReportMany(Report* report, const Options& options) {
  const size_t many = options.quick ? 100000 : 1000000;
  const std::string large = std::to_string(many), small = std::to_string(many / 10);
  std::vector<double> create, destroy;
  double rss = 0;
  for (int pair = 0; pair < 5; pair++) {
    Answers at_small, at_large;
    if (pair % 2 == 0) at_small = RunProbe({"many", small});
    at_large = RunProbe({"many", large});
    if (pair % 2 != 0) at_small = RunProbe({"many", small});
    create.push_back(at_large.at("create_ns") / at_small.at("create_ns"));
    destroy.push_back(at_large.at("destroy_ns") / at_small.at("destroy_ns"));
    rss = std::max(rss, at_large.at("rss"));
    if (pair == 4) {
      report->Row("6-create-ns", at_large.at("create_ns"), "ns", kNoBar, "create + one block, first time, of " + large);
      report->Row("6-destroy-ns", at_large.at("destroy_ns"), "ns", kNoBar, "destroy of " + large);
    }
  }
  report->Row("6-rss", rss / 1e6, "MB", options.quick ? kNoBar : 1200, "RSS with " + large + " heaps alive");
  report->Row("6-create-time", QuartilesOf(create).median, "ratio", 1.5, "create at " + large + " against " + small);
  report->Row("6-destroy-time", QuartilesOf(destroy).median, "ratio", 1.5, "destroy at " + large + " against " + small);
  if (!HaveTool("valgrind")) return report->Skip("6-instructions", "valgrind is not installed");
  for (const char* function : {"BenchCreateHeaps", "BenchDestroyHeaps"}) {
    const double at_thousand = Instructions(function, {"many", "1000"}) / 1000;
    const double at_many = Instructions(function, {"many", large}) / static_cast<double>(many);
    const std::string id = strcmp(function, "BenchCreateHeaps") == 0 ? "6-create" : "6-destroy";
    report->Row(id + "-1000", at_thousand, "instructions per heap", kNoBar, "at 1,000 heaps");
    report->Row(id + "-many", at_many, "instructions per heap", kNoBar, "at " + large + " heaps");
    report->Row(id + "-instructions", at_many / at_thousand, "ratio", 1.5,
                "instructions at " + large + " against 1,000");
  }
}

void ReportTouch(Report* report, const Options&) {
  const Answers answers = RunProbe({"touch", "16", "64"});
  report->Row("10-further-heap", answers.at("further_heap") / kKiB, "KiB", 4,
              "per thread and heap, from the second heap");
  report->Row("10-first-heap", answers.at("first_heap") / kKiB, "KiB", kNoBar, "per thread, its first heap");
}

void ReportHop(Report* report, const Options& options) {
  const uint64_t cycles = options.quick ? 1000000 : 10000000;
  const Answers answers = RunProbe({"hop", std::to_string(cycles), "100"});
  report->Row("11-faults", answers.at("faults") / (answers.at("cycles") * 0.9 / 1000), "per 1,000 cycles", 1,
              "minor page faults of create/use/destroy on three threads, once warm");
  report->Row("11-rss", answers.at("rss_last_tenth") / answers.at("rss_first_tenth"), "ratio", 1.02,
              "RSS of the last tenth against the first, of " + std::to_string(cycles) + " cycles");
  report->Row("11-rss-last", answers.at("rss_last_tenth") / kMiB, "MiB", kNoBar, "RSS of the last tenth");
  if (!HaveTool("strace")) return report->Skip("11-calls", "strace is not installed");
  const uint64_t few = cycles / 10, more = cycles / 2;
  const double calls = SystemCalls({"hop", std::to_string(more), "0"}) - SystemCalls({"hop", std::to_string(few), "0"});
  report->Row("11-calls", std::max(0.0, calls) / (static_cast<double>(more - few) / 1000), "per 1,000 cycles", 1,
              "system calls but futex (the benchmark's own waiting), once warm");
}

void ReportMetadata(Report* report, const Options&) {
  for (const char* size : {"64", "1024"}) {
    const Answers answers = RunProbe({"metadata", size, "256"});
    report->Row(std::string("12-share-") + size, answers.at("share") * 100, "%", strcmp(size, "64") == 0 ? 0.2 : kNoBar,
                std::string("resident memory beside blocks of ") + size + " B, 256 MiB of them");
    if (strcmp(size, "64") == 0) {
      report->Row("12-fragmentation", answers.at("worst_fragmentation") * 100, "%", 16.7,
                  "worst (usable - requested) / usable of 65 B to 4 MiB, by mi_good_size");
    }
  }
}

void ReportGiveBack(Report* report, const Options&) {
  for (const char* kind : {"exit", "alive", "other"}) {
    const Answers answers = RunProbe({"giveback", kind});
    char what[160];
    snprintf(what, sizeof(what), "RSS after destroy of everything and collect, of %.0f MiB; threads: %s",
             answers.at("peak") / kMiB, kind);
    report->Row(std::string("13-") + kind, answers.at("left") / kMiB, "MiB", 1, what);
  }
}

void ReportTime(Report* report, const Options& options) {
  const std::string seconds = std::to_string(options.seconds);
  for (const char* probe : {"producer", "churn", "heaps"}) {
    const Answers answers = RunProbe({probe, seconds});
    char what[160];
    snprintf(what, sizeof(what), "peak RSS against peak live bytes (%.0f MiB), %.0f s, %.1f million steps",
             answers.at("live_peak") / kMiB, options.seconds, answers.at("operations") / 1e6);
    report->Row(std::string("15-") + probe, answers.at("rss_peak") / answers.at("live_peak"), "ratio", 2, what);
  }
}

void ReportLocality(Report* report, const Options& options) {
  for (const char* where : {"default", "heap"}) {
    for (const char* size : {"64", "256", "1024"}) {
      const Answers answers = RunProbe({"order", where, size});
      char what[200];
      snprintf(what, sizeof(what),
               "1,000 blocks of %s B in a row, %s: steps back or far in 64 KiB pages (%.0f to a lower address)", size,
               strcmp(where, "heap") == 0 ? "in a new heap" : "by mi_malloc", answers.at("address_falls"));
      report->Row(std::string("16-") + where + "-" + size, answers.at("far_steps") + answers.at("page_falls"), "steps",
                  strcmp(where, "heap") == 0 ? kNoBar : 0, what);
    }
  }
  if (!HaveTool("valgrind")) return report->Skip("16-misses", "valgrind is not installed");
  const std::string count = options.quick ? "20000" : "200000";
  const double none = CacheMisses({"list", "none", count, "fresh"});
  for (const char* state : {"fresh", "used"}) {
    const double ours = CacheMisses({"list", "ours", count, state}) - none;
    const double glibc = CacheMisses({"list", "glibc", count, state}) - none;
    char what[160];
    snprintf(what, sizeof(what), "L1 misses, list of %s nodes built and walked, %s memory: %.0f against glibc's %.0f",
             count.c_str(), state, ours, glibc);
    report->Row(std::string("16-misses-") + state, ours / glibc, "ratio", 1.0, what);
  }
}

int RunDriver(int argc, char** argv) {
  Options options;
  std::string json;
  for (int i = 1; i < argc; i++) {
    const std::string argument = argv[i];
    const auto value = [&] {
      if (i + 1 == argc) Fail((argument + " needs a value").c_str());
      return argv[++i];
    };
    if (argument == "--filter") {
      options.filter = value();
    } else if (argument == "--quick") {
      options.quick = true;
    } else if (argument == "--seconds") {
      options.seconds = atof(value());
    } else if (argument == "--json") {
      json = value();
    } else {
      fprintf(stderr, "usage: %s [--filter REGEX] [--quick] [--seconds S] [--json FILE]\n", argv[0]);
      return 2;
    }
  }
  char path[4096];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof(path) - 1);
  Require(length > 0, "readlink");
  self_path.assign(path, static_cast<size_t>(length));
  const char* directory = getenv("TMPDIR");
  scratch = std::string(directory != nullptr ? directory : "/tmp") + "/rss_bench.XXXXXX";
  Require(mkdtemp(scratch.data()) != nullptr, "mkdtemp");

  const struct {
    const char* id;
    void (*report)(Report*, const Options&);
  } groups[] = {{"5-live", ReportLive},  {"6-many", ReportMany},          {"10-touch", ReportTouch},
                {"11-hop", ReportHop},   {"12-metadata", ReportMetadata}, {"13-giveback", ReportGiveBack},
                {"15-time", ReportTime}, {"16-locality", ReportLocality}};
  Report report;
  for (const auto& group : groups) {
    if (std::regex_search(group.id, options.filter)) group.report(&report, options);
  }
  report.Finish(json);
  for (const char* file : {"/callgrind.out", "/cachegrind.out", "/strace.out", "/valgrind.log"})
    unlink((scratch + file).c_str());
  rmdir(scratch.c_str());
  return 0;
}

int RunProbeHere(int argc, char** argv) {
  const std::map<std::string, void (*)(const Arguments&)> probes = {
      {"live", ProbeLive},         {"many", ProbeMany},         {"touch", ProbeTouch}, {"hop", ProbeHop},
      {"metadata", ProbeMetadata}, {"giveback", ProbeGiveBack}, {"order", ProbeOrder}, {"list", ProbeList},
      {"producer", ProbeProducer}, {"churn", ProbeChurn},       {"heaps", ProbeHeaps}};
  Require(argc > 2, "--probe needs a name");
  const auto probe = probes.find(argv[2]);
  Require(probe != probes.end(), "no such probe");
  probe->second(Arguments(argv + 3, argv + argc));
  fflush(stdout);
  return 0;
}

}  // namespace
}  // namespace bench

int main(int argc, char** argv) {
  if (argc > 1 && strcmp(argv[1], "--probe") == 0) return bench::RunProbeHere(argc, argv);
  return bench::RunDriver(argc, argv);
}
