// Lock-freedom, shown from outside: one thread is stopped at a random instant, wherever it happens to be inside the
// library, and all others must go on and complete many operations of every kind before it is released. The stop is a
// signal handler that waits on a futex; it allocates nothing. The workers keep to single atomic words among themselves,
// and touch neither the C library's malloc nor stdio: a stopped thread must hold nobody up by the harness's fault.
//
// Not among the operations: destroy and reset of a shared heap (their contract excludes other users), merges into a
// heap that is not the main heap (serialised by design), and the exit of threads into whose full pages others free (it
// waits for a free that is under way).
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "mi/heap/heap.h"
#include "mi/mimalloc.h"
#include "tests/test_support.h"

namespace mi_test {
namespace {

// The round that a thread is stopped in, and the last round that was released.
std::atomic<int> stopped_in{0};
std::atomic<int> released{0};
std::atomic<int> round_now{0};

void StopHere(int) {
  const int saved = errno;
  const int round = round_now.load();
  stopped_in.store(round);
  for (int seen = released.load(); seen < round; seen = released.load()) {
    syscall(SYS_futex, reinterpret_cast<int*>(&released), FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
  }
  errno = saved;
}

void Release(int round) {
  released.store(round);
  syscall(SYS_futex, reinterpret_cast<int*>(&released), FUTEX_WAKE_PRIVATE, 1 << 30, nullptr, nullptr, 0);
}

constexpr int kWorkers = 4;
constexpr size_t kSlots = 512;

struct alignas(64) WorkerState {
  std::atomic<long> operations{0};
  std::atomic<pthread_t> thread{};
  std::atomic<int> failures{0};
};

struct Scene {
  mi_heap_t* shared = nullptr;
  std::atomic<void*> slots[kSlots] = {};
  std::atomic<bool> done{false};
  WorkerState workers[kWorkers];
};

void Put(Scene* scene, Random& random, void* block) {
  mi_free(scene->slots[random.Below(kSlots)].exchange(block, std::memory_order_acq_rel));
}

// One operation of a random kind. False if the library refused something.
bool OneOperation(Scene* scene, Random& random, void** window, size_t window_size) {
  switch (random.Below(32)) {
    case 0: {  // a heap of one's own, for a moment
      mi_heap_t* heap = mi_heap_new();
      if (heap == nullptr) return false;
      for (size_t i = random.Below(200); i > 0; i--) {
        if (mi_heap_malloc(heap, 16 + random.Below(300)) == nullptr) return false;
      }
      mi_heap_destroy(heap);
      return true;
    }
    case 1: {  // a heap that is deleted; its survivors are freed by anybody
      mi_heap_t* heap = mi_heap_new();
      if (heap == nullptr) return false;
      for (int i = 0; i < 10; i++) Put(scene, random, mi_heap_malloc(heap, 16 + random.Below(300)));
      mi_heap_delete(heap);
      return true;
    }
    case 2: {  // large and huge
      void* block = mi_malloc(random.OneIn(8) ? 5 * kMiB : 100 * kKiB + random.Below(kMiB));
      if (block == nullptr) return false;
      memset(block, 1, 64);
      mi_free(block);
      return true;
    }
    case 3:
      if (random.OneIn(8)) {
        mi_heap_collect(scene->shared, random.OneIn(2));
      } else {
        mi_collect(random.OneIn(8));
      }
      return true;
    case 4:
    case 5:
    case 6: {  // many of one size, so that pages become full, freed by others
      const size_t size = random.OneIn(2) ? 64 : 2000;
      for (int i = 0; i < 50; i++) {
        void* block = random.OneIn(2) ? mi_heap_malloc(scene->shared, size) : mi_malloc(size);
        if (block == nullptr) return false;
        Put(scene, random, block);
      }
      return true;
    }
    case 7: {
      void*& block = window[random.Below(window_size)];
      block = mi_realloc(block, random.Below(5000));
      return block != nullptr;
    }
    default: {
      void*& block = window[random.Below(window_size)];
      mi_free(block);
      const size_t size = random.OneIn(50) ? random.Below(100000) : random.Below(1000);
      block = random.OneIn(2) ? mi_heap_malloc(scene->shared, size) : mi_malloc(size);
      return block != nullptr;
    }
  }
}

void Work(Scene* scene, int index) {
  WorkerState& state = scene->workers[index];
  Random random(index + 1);
  void* window[200] = {};
  state.thread = pthread_self();
  while (!scene->done.load(std::memory_order_relaxed)) {
    if (!OneOperation(scene, random, window, 200)) state.failures++;
    state.operations.fetch_add(1, std::memory_order_relaxed);
  }
  for (void* block : window) mi_free(block);
}

void SpinFor(size_t iterations) {
  for (size_t i = 0; i < iterations; i++) Opaque(i);
}

TEST(StopTest, AThreadStoppedAtARandomInstantHoldsNobodyUp) {
  if (kSanitized) GTEST_SKIP() << "a sanitizer delays signals to places of its own choice";
  if (kSecure) GTEST_SKIP() << "every heap has an account there, and a merge takes the lock of those that have one";
  struct sigaction action = {};
  action.sa_handler = &StopHere;
  ASSERT_EQ(sigaction(SIGUSR1, &action, nullptr), 0);
  const size_t before = CountBlocks(mi_heap_main());
  Scene scene;
  scene.shared = mi_heap_new();
  ASSERT_NE(scene.shared, nullptr);
  std::vector<std::thread> threads;
  for (int i = 0; i < kWorkers; i++) threads.emplace_back(Work, &scene, i);
  for (WorkerState& worker : scene.workers) {
    while (worker.operations == 0) std::this_thread::yield();
  }
  // Threads that come and go with blocks of their own meanwhile; never stopped.
  std::atomic<long> threads_ended{0};
  std::thread spawner([&] {
    while (!scene.done) {
      InThread([&] {
        void* blocks[100];
        for (int i = 0; i < 100; i++) blocks[i] = i % 2 == 0 ? mi_malloc(64) : mi_heap_malloc(scene.shared, 64);
        for (void* block : blocks) mi_free(block);
      });
      threads_ended++;
    }
  });

  Random random(4711);
  constexpr long kOperations = 300;
  std::string blocked;
  for (int round = 1; round <= (kSoak ? 50000 : 600) && blocked.empty(); round++) {
    SpinFor(random.Below(200000));
    const int victim = static_cast<int>(random.Below(kWorkers));
    round_now = round;
    ASSERT_EQ(pthread_kill(scene.workers[victim].thread, SIGUSR1), 0);
    Deadline until_stopped(60);
    while (stopped_in != round && !until_stopped.Passed()) std::this_thread::yield();
    ASSERT_EQ(stopped_in, round) << "the harness could not stop the thread";
    long start[kWorkers];
    for (int i = 0; i < kWorkers; i++) start[i] = scene.workers[i].operations;
    const long ended = threads_ended;
    Deadline deadline(60);
    for (int i = 0; i < kWorkers; i++) {
      if (i == victim) continue;
      while (scene.workers[i].operations < start[i] + kOperations && !deadline.Passed()) std::this_thread::yield();
      if (scene.workers[i].operations < start[i] + kOperations) {
        blocked += " worker " + std::to_string(i) + " in round " + std::to_string(round);
      }
    }
    while (threads_ended < ended + 2 && !deadline.Passed()) std::this_thread::yield();
    if (threads_ended < ended + 2) blocked += " thread exits in round " + std::to_string(round);
    if (scene.workers[victim].operations > start[victim] + 1) blocked += " (the harness did not stop the victim)";
    Release(round);
  }
  EXPECT_EQ(blocked, "") << "held up by a stopped thread";
  scene.done = true;
  for (std::thread& thread : threads) thread.join();
  spawner.join();
  for (WorkerState& worker : scene.workers) EXPECT_EQ(worker.failures, 0);
  for (std::atomic<void*>& slot : scene.slots) mi_free(slot.exchange(nullptr));
  EXPECT_EQ(CountBlocks(scene.shared), 0u);
  mi_heap_destroy(scene.shared);
  EXPECT_EQ(CountBlocks(mi_heap_main()), before) << "blocks were lost";
}

}  // namespace
}  // namespace mi_test
