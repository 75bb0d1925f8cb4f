// Patterns that run for minutes while their memory is watched: ten million heaps on threads that hop, and blocks that
// are made on one thread and freed on another, at rates that change. Memory is measured from outside; the bounds are
// those that the library promises. MI_SOAK_SECONDS sets the length of the second kind (600).
#include <sys/resource.h>

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <vector>

#include "gtest/gtest.h"
#include "mi/heap/heap.h"
#include "mi/mimalloc.h"
#include "tests/test_support.h"

namespace mi_test {
namespace {

long PageFaults() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_minflt + usage.ru_majflt;
}

int SoakSeconds() {
  const char* text = getenv("MI_SOAK_SECONDS");
  return text == nullptr ? 600 : atoi(text);
}

TEST(CyclesSoakTest, TenMillionHeapsOnHoppingThreadsKeepTheirMemoryAndHardlyFault) {
  // A heap is made on one worker, filled on the next and destroyed on a third; workers take turns in batches.
  constexpr int kWorkers = 3;
  constexpr int kBatch = 1000;
  const long cycles = 10000000;
  Worker worker[kWorkers];
  std::vector<mi_heap_t*> heaps(kBatch);
  size_t first_tenth = 0, last_tenth = 0;
  long warm_faults = 0;
  for (long done = 0; done < cycles; done += kBatch) {
    const long turn = done / kBatch;
    worker[turn % kWorkers].Run([&] {
      for (mi_heap_t*& heap : heaps) heap = mi_heap_new();
    });
    worker[(turn + turn / 7) % kWorkers].Run([&] {
      for (mi_heap_t* heap : heaps) {
        for (int i = 0; i < 10; i++) memset(mi_heap_malloc(heap, 16 + 32 * i), 1, 16);
      }
    });
    worker[(turn + turn / 3) % kWorkers].Run([&] {
      for (mi_heap_t* heap : heaps) mi_heap_destroy(heap);
    });
    if (turn == cycles / kBatch / 100) warm_faults = PageFaults();
    if (turn % 50 == 0) {
      size_t now = ResidentBytes();
      if (done < cycles / 10) first_tenth = std::max(first_tenth, now);
      if (done >= cycles / 10 * 9) last_tenth = std::max(last_tenth, now);
    }
  }
  const long faults = PageFaults() - warm_faults;
  EXPECT_LE(last_tenth, first_tenth + first_tenth / 50);
  EXPECT_LE(faults, cycles / 1000);
}

// Blocks on their way between threads, and how many bytes are live in them.
struct Exchange {
  std::vector<std::atomic<void*>> slots;
  std::atomic<size_t> live{0};
  std::atomic<size_t> most_live{0};
  std::atomic<bool> done{false};

  explicit Exchange(size_t n) : slots(n) {}
  void Add(size_t bytes) {
    size_t now = live.fetch_add(bytes) + bytes;
    size_t most = most_live.load();
    while (now > most && !most_live.compare_exchange_weak(most, now)) {
    }
  }
  void Free(void* block) {
    if (block == nullptr) return;
    live -= *static_cast<size_t*>(block);
    mi_free(block);
  }
};

void* MakeTouched(mi_heap_t* heap, size_t size) {
  void* block = heap == nullptr ? mi_malloc(size) : mi_heap_malloc(heap, size);
  if (block == nullptr) abort();
  memset(block, 1, size);
  *static_cast<size_t*>(block) = size;
  return block;
}

// Runs the pattern and requires that resident memory stays within twice the live bytes' peak, and 16 MiB for the
// process itself.
template <typename Produce>
void WatchMemory(size_t slots, Produce produce) {
  Exchange exchange(slots);
  const size_t start = ResidentBytes();
  size_t most = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; t++) {
    threads.emplace_back([&, t] { produce(&exchange, t); });
  }
  Deadline end(SoakSeconds());
  while (!end.Passed()) {
    most = std::max(most, ResidentBytes());
    timespec nap = {0, 50000000};
    nanosleep(&nap, nullptr);
  }
  exchange.done = true;
  for (std::thread& thread : threads) thread.join();
  for (std::atomic<void*>& slot : exchange.slots) exchange.Free(slot.exchange(nullptr));
  EXPECT_EQ(exchange.live, 0u);
  EXPECT_LE(most, start + 2 * exchange.most_live + 16 * kMiB) << "live at most: " << exchange.most_live;
}

TEST(CyclesSoakTest, ProducersAndConsumersStayWithinTwiceTheLiveBytes) {
  WatchMemory(50000, [](Exchange* exchange, int t) {
    // Thread 0 produces only, thread 1 consumes only, thread 2 does both and changes its size class now and then.
    Random random(t);
    for (long i = 0; !exchange->done; i++) {
      std::atomic<void*>& slot = exchange->slots[random.Below(exchange->slots.size())];
      if (t == 1) {
        exchange->Free(slot.exchange(nullptr));
        continue;
      }
      const size_t size = t == 0 ? random.Between(16, 2000) : 16 + (i / 1000000 % 8) * 300 + random.Below(64);
      void* block = MakeTouched(nullptr, size);
      exchange->Add(size);
      exchange->Free(slot.exchange(block));
    }
  });
}

TEST(CyclesSoakTest, ThreadsThatHopAndEndStayWithinTwiceTheLiveBytes) {
  mi_heap_t* shared = mi_heap_new();
  ASSERT_NE(shared, nullptr);
  WatchMemory(20000, [shared](Exchange* exchange, int t) {
    for (uint64_t round = 0; !exchange->done; round++) {
      // The work of a round is done by a thread of its own.
      InThread([&] {
        Random random(round * 3 + t);
        for (int i = 0; i < 2000; i++) {
          const size_t size = random.Between(16, 3000);
          void* block = MakeTouched(random.OneIn(2) ? nullptr : shared, size);
          exchange->Add(size);
          exchange->Free(exchange->slots[random.Below(exchange->slots.size())].exchange(block));
        }
      });
    }
  });
  EXPECT_EQ(CountBlocks(shared), 0u);
  mi_heap_destroy(shared);
}

}  // namespace
}  // namespace mi_test
