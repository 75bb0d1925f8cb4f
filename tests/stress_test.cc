// Threads against each other at full speed, with as little synchronisation between them as possible, so that
// ThreadSanitizer sees the library's own ordering and not the harness's: blocks and heaps change hands through single
// atomic words only. Checked: contents at every free, and that nothing is left in the main heap at the end.
#include <algorithm>
#include <atomic>
#include <cstddef>
#include <memory>
#include <vector>

#include "gtest/gtest.h"
#include "mi/heap/heap.h"
#include "mi/mimalloc.h"
#include "tests/test_support.h"

namespace mi_test {
namespace {

// A block describes itself, so that a pointer is all that changes hands.
struct Header {
  size_t size;
  uint64_t seed;
};

void* MakeBlock(mi_heap_t* heap, size_t size, uint64_t seed) {
  size = std::max(size, sizeof(Header));
  void* block = heap == nullptr ? mi_malloc(size) : mi_heap_malloc(heap, size);
  if (block == nullptr) return nullptr;
  Header header{size, seed};
  memcpy(block, &header, sizeof(header));
  FillBytes(block, sizeof(Header), std::min(size, 2 * kKiB), seed);
  if (size > 4 * kKiB) FillBytes(block, size - 8, size, seed);
  return block;
}

// Checks the contents, wipes them and frees the block. The number of faults found.
int DropBlock(void* block) {
  Header header;
  memcpy(&header, block, sizeof(header));
  int faults = 0;
  size_t end = std::min(header.size, 2 * kKiB);
  if (header.size < sizeof(Header) || header.size > 64 * kMiB) return 1;
  if (FindDifference(block, sizeof(Header), end, header.seed) != end) faults++;
  if (header.size > 4 * kKiB && FindDifference(block, header.size - 8, header.size, header.seed) != header.size)
    faults++;
  memset(block, 0xdd, std::min<size_t>(header.size, 64));
  mi_free(block);
  return faults;
}

class StressTest : public ::testing::Test {
 protected:
  void SetUp() override { before_ = CountBlocks(mi_heap_main()); }
  void TearDown() override {
    EXPECT_EQ(faults_, 0) << "blocks with foreign contents";
    EXPECT_EQ(CountBlocks(mi_heap_main()), before_) << "blocks were left behind in the main heap";
  }
  std::atomic<int> faults_{0};

 private:
  size_t before_ = 0;
};

// One producer, one consumer, no locks.
class Ring {
 public:
  bool Push(void* block) {
    size_t tail = tail_.load(std::memory_order_relaxed);
    if (tail - head_.load(std::memory_order_acquire) == kSlots) return false;
    slot_[tail % kSlots] = block;
    tail_.store(tail + 1, std::memory_order_release);
    return true;
  }
  void* Pop() {
    size_t head = head_.load(std::memory_order_relaxed);
    if (head == tail_.load(std::memory_order_acquire)) return nullptr;
    void* block = slot_[head % kSlots];
    head_.store(head + 1, std::memory_order_release);
    return block;
  }

 private:
  static constexpr size_t kSlots = 1024;
  void* slot_[kSlots];
  alignas(64) std::atomic<size_t> head_{0};
  alignas(64) std::atomic<size_t> tail_{0};
};

TEST_F(StressTest, RingsOfProducersAndConsumers) {
  // Thread t produces for thread t + 1 and consumes what thread t - 1 makes, in four kinds of heaps.
  constexpr int kThreads = 4;
  mi_heap_t* shared = mi_heap_new();
  ASSERT_NE(shared, nullptr);
  std::vector<Ring> rings(kThreads);
  std::vector<mi_heap_t*> own(kThreads);
  for (mi_heap_t*& heap : own) heap = mi_heap_new();
  std::atomic<int> producing{kThreads};
  const int blocks = Scaled(200000, 50000000);
  InThreads(kThreads, [&](int t) {
    Random random(t);
    Ring& out = rings[t];
    Ring& in = rings[(t + kThreads - 1) % kThreads];
    auto consume = [&] {
      void* block = in.Pop();
      if (block == nullptr) return false;
      faults_ += DropBlock(block);
      return true;
    };
    for (int i = 0; i < blocks; i++) {
      size_t size = random.OneIn(500) ? random.Below(300 * kKiB) : 16 + random.Below(t % 2 == 0 ? 100 : 2000);
      mi_heap_t* heap = i % 3 == 0 ? nullptr : i % 3 == 1 ? shared : own[(t + i / 1000) % kThreads];
      void* block = MakeBlock(heap, size, random.Next());
      if (block == nullptr) {
        faults_++;
        break;
      }
      while (!out.Push(block)) {
        if (!consume()) std::this_thread::yield();
      }
      if (random.OneIn(2)) consume();
    }
    producing--;
    while (producing != 0) {
      if (!consume()) std::this_thread::yield();
    }
    while (consume()) {
    }
  });
  EXPECT_EQ(CountBlocks(shared), 0u);
  mi_heap_destroy(shared);
  for (mi_heap_t* heap : own) {
    EXPECT_EQ(CountBlocks(heap), 0u);
    mi_heap_destroy(heap);
  }
}

TEST_F(StressTest, RemoteFreesIntoFullPagesWhileTheOwnerAllocatesOn) {
  for (size_t size : {16, 64, 500, 5000, 60000}) {
    SCOPED_TRACE(size);
    const int per_round = static_cast<int>(std::min<size_t>(8000, 8 * kMiB / size));
    for (int where = 0; where < 2; where++) {
      mi_heap_t* heap = where == 0 ? nullptr : mi_heap_new();
      std::vector<std::atomic<void*>> slots(per_round);
      std::atomic<bool> done{false};
      auto freer = [&](size_t seed) {
        Random random(seed);
        while (!done) {
          // Bursts over a stretch of the slots: whole pages become free at once, and others by two threads at a time.
          size_t start = random.Below(slots.size());
          for (size_t i = 0; i < 500; i++) {
            void* block = slots[(start + i) % slots.size()].exchange(nullptr, std::memory_order_acq_rel);
            if (block != nullptr) faults_ += DropBlock(block);
          }
        }
      };
      std::thread first(freer, 1), second(freer, 2);
      Random random(3);
      // Every block is made to fill a slot that a freer emptied, so that freers and owner meet all the time.
      for (int made = 0; made < Scaled(100000, 10000000);) {
        for (std::atomic<void*>& slot : slots) {
          if (slot.load(std::memory_order_relaxed) != nullptr) continue;
          made++;
          void* block = MakeBlock(heap, size, random.Next());
          if (block == nullptr) {
            faults_++;
            break;
          }
          void* former = slot.exchange(block, std::memory_order_acq_rel);
          if (former != nullptr) faults_ += DropBlock(former);
        }
      }
      done = true;
      first.join();
      second.join();
      for (std::atomic<void*>& slot : slots) {
        void* block = slot.exchange(nullptr);
        if (block != nullptr) faults_ += DropBlock(block);
      }
      if (heap != nullptr) {
        EXPECT_EQ(CountBlocks(heap), 0u);
        mi_heap_destroy(heap);
      }
    }
  }
}

TEST_F(StressTest, ThreadsExitWhileOthersFreeTheirBlocks) {
  // Short-lived threads leave blocks in slots; two long-lived ones free them, often while the maker is exiting.
  mi_heap_t* shared = mi_heap_new();
  ASSERT_NE(shared, nullptr);
  std::vector<std::atomic<void*>> slots(3000);
  std::atomic<bool> done{false};
  auto freer = [&](size_t seed) {
    Random random(seed);
    while (!done) {
      for (int i = 0; i < 100; i++) {
        void* block = slots[random.Below(slots.size())].exchange(nullptr, std::memory_order_acq_rel);
        if (block != nullptr) faults_ += DropBlock(block);
      }
    }
  };
  std::thread first(freer, 1), second(freer, 2);
  for (int round = 0; round < Scaled(400, 40000); round++) {
    InThreads(3, [&](int t) {
      Random random(round * 3 + t);
      // Enough to fill pages of some classes.
      const size_t size = random.OneIn(2) ? 16 + random.Below(200) : 1000 + random.Below(8000);
      const int n = random.OneIn(4) ? 1500 : 50;
      for (int i = 0; i < n; i++) {
        void* block = MakeBlock(i % 2 == 0 ? nullptr : shared, size, random.Next());
        if (block == nullptr) {
          faults_++;
          return;
        }
        void* former = slots[random.Below(slots.size())].exchange(block, std::memory_order_acq_rel);
        if (former != nullptr) faults_ += DropBlock(former);
      }
    });
  }
  done = true;
  first.join();
  second.join();
  for (std::atomic<void*>& slot : slots) {
    void* block = slot.exchange(nullptr);
    if (block != nullptr) faults_ += DropBlock(block);
  }
  EXPECT_EQ(CountBlocks(shared), 0u);
  mi_heap_destroy(shared);
}

TEST_F(StressTest, HeapsAreDeletedWhileOthersFreeTheirBlocks) {
  // Every thread makes heaps, spreads their blocks over slots that everybody empties, and deletes them at once.
  std::vector<std::atomic<void*>> slots(2000);
  InThreads(4, [&](int t) {
    Random random(t);
    for (int round = 0; round < Scaled(3000, 300000); round++) {
      mi_heap_t* heap = mi_heap_new();
      if (heap == nullptr) {
        faults_++;
        return;
      }
      const int n = random.OneIn(10) ? 1500 : static_cast<int>(random.Below(60));
      const size_t size = 16 + random.Below(random.OneIn(20) ? 30000 : 300);
      for (int i = 0; i < n; i++) {
        void* block = MakeBlock(heap, size, random.Next());
        void* former = slots[random.Below(slots.size())].exchange(block, std::memory_order_acq_rel);
        if (former != nullptr) faults_ += DropBlock(former);
      }
      mi_heap_delete(heap);
    }
  });
  for (std::atomic<void*>& slot : slots) {
    void* block = slot.exchange(nullptr);
    if (block != nullptr) {
      if (mi_heap_of(block) != mi_heap_main()) faults_++;
      faults_ += DropBlock(block);
    }
  }
}

// A heap that changes hands, with the list of its blocks in itself.
struct Parcel {
  mi_heap_t* heap;
  void* blocks[64];
  int count;
};

TEST_F(StressTest, HeapsAreHandedFromThreadToThread) {
  std::vector<std::atomic<Parcel*>> slots(8);
  InThreads(4, [&](int t) {
    Random random(t);
    for (int round = 0; round < Scaled(60000, 6000000); round++) {
      std::atomic<Parcel*>& slot = slots[random.Below(slots.size())];
      Parcel* parcel = slot.exchange(nullptr, std::memory_order_acq_rel);
      if (parcel == nullptr) {
        mi_heap_t* heap = mi_heap_new();
        parcel = heap == nullptr ? nullptr : static_cast<Parcel*>(mi_heap_malloc(heap, sizeof(Parcel)));
        if (parcel == nullptr) {
          faults_++;
          return;
        }
        parcel->heap = heap;
        parcel->count = 0;
      }
      for (size_t i = random.Below(12); i > 0; i--) {
        if (parcel->count < 64 && random.OneIn(2)) {
          size_t size = random.OneIn(50) ? random.Below(100000) : random.Below(600);
          parcel->blocks[parcel->count++] = MakeBlock(parcel->heap, size, random.Next());
        } else if (parcel->count > 0) {
          size_t at = random.Below(parcel->count);
          faults_ += DropBlock(parcel->blocks[at]);
          parcel->blocks[at] = parcel->blocks[--parcel->count];
        }
      }
      switch (random.Below(24)) {
        case 0:
          mi_heap_destroy(parcel->heap);
          continue;
        case 1: {
          // Delete, and free the survivors one by one.
          Parcel copy = *parcel;
          mi_heap_delete(copy.heap);
          for (int i = 0; i < copy.count; i++) faults_ += DropBlock(copy.blocks[i]);
          mi_free(parcel);
          continue;
        }
        case 2: {
          mi_heap_t* heap = parcel->heap;
          mi_heap_reset(heap);
          parcel = static_cast<Parcel*>(mi_heap_malloc(heap, sizeof(Parcel)));
          parcel->heap = heap;
          parcel->count = 0;
          break;
        }
        case 3: {
          // Into another heap of this thread's choice.
          mi_heap_t* into = mi_heap_new();
          mi_heap_merge(parcel->heap, into);
          parcel->heap = into;
          if (mi_heap_of(parcel) != into) faults_++;
          break;
        }
        default:
          break;
      }
      Parcel* former = slot.exchange(parcel, std::memory_order_acq_rel);
      if (former != nullptr) mi_heap_destroy(former->heap);
    }
  });
  for (std::atomic<Parcel*>& slot : slots) {
    Parcel* parcel = slot.exchange(nullptr);
    if (parcel == nullptr) continue;
    for (int i = 0; i < parcel->count; i++) faults_ += DropBlock(parcel->blocks[i]);
    EXPECT_EQ(CountBlocks(parcel->heap), 1u);
    mi_heap_destroy(parcel->heap);
  }
}

TEST_F(StressTest, OneHeapTakesTheBlocksOfAllThreadsAndTheirMergedHeaps) {
  for (int round = 0; round < Scaled(20, 2000); round++) {
    mi_heap_t* into = mi_heap_new();
    ASSERT_NE(into, nullptr);
    std::vector<std::atomic<void*>> slots(500);
    InThreads(4, [&](int t) {
      Random random(round * 4 + t);
      for (int i = 0; i < 100; i++) {
        mi_heap_t* heap = mi_heap_new();
        for (int j = 0; j < 40; j++) {
          void* block = MakeBlock(random.OneIn(3) ? into : heap, 16 + random.Below(500), random.Next());
          void* former = slots[random.Below(slots.size())].exchange(block, std::memory_order_acq_rel);
          if (former != nullptr) faults_ += DropBlock(former);
        }
        mi_heap_merge(heap, into);
      }
    });
    std::vector<void*> expected;
    for (std::atomic<void*>& slot : slots) {
      if (slot.load() != nullptr) expected.push_back(slot.load());
    }
    ASSERT_TRUE(ShowsExactly(into, expected));
    for (size_t i = 0; i < expected.size(); i += 2) faults_ += DropBlock(expected[i]);
    mi_heap_destroy(into);
  }
}

TEST_F(StressTest, MemoryStaysBoundedWhenThreadsAllocateForEachOther) {
  // The live blocks never exceed the slots; the memory must not grow with the number of exchanges.
  std::vector<std::atomic<void*>> slots(20000);
  auto exchange_many = [&](int rounds) {
    InThreads(4, [&](int t) {
      Random random(t + rounds);
      for (int i = 0; i < rounds; i++) {
        void* block = MakeBlock(nullptr, 16 + random.Below(1000), random.Next());
        void* former = slots[random.Below(slots.size())].exchange(block, std::memory_order_acq_rel);
        if (former != nullptr) faults_ += DropBlock(former);
      }
    });
  };
  exchange_many(Scaled(50000));
  size_t before = ResidentBytes();
  // How much is free but held at a moment goes up and down by some MiB; what grows is never small again.
  const int rounds = Scaled(10, 1000);
  size_t least = SIZE_MAX;
  for (int i = 0; i < rounds; i++) {
    exchange_many(Scaled(50000));
    if (i >= rounds / 2) least = std::min(least, ResidentBytes());
  }
  if (!kSanitized) {
    EXPECT_LE(least, before + 20 * kMiB) << "20000 slots of 500 bytes are 10 MiB";
  }
  for (std::atomic<void*>& slot : slots) {
    void* block = slot.exchange(nullptr);
    if (block != nullptr) faults_ += DropBlock(block);
  }
}

}  // namespace
}  // namespace mi_test
