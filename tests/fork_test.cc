// Fork from a process whose other threads are inside the library. In the child only the forking thread is left; what
// the others were doing has stopped in the middle, for ever. The child must nevertheless allocate, free (blocks of its
// own, of threads that are gone, of heaps), make and end heaps, start threads and fork again, without a hang or a
// crash; what it inherited must be intact; and memory that anybody had live at the fork must never be served.
//
// Two ways to choose the instant. Churn: threads run random operations without a pause, and the test forks. Steps (on
// x86-64): one thread runs one kind of operation with the processor's trap flag set, and is held after some number of
// instructions while the test forks; so every instruction of every operation is met, however short the window.
//
// All threads note what they have in tables of plain words, so that the child finds them as they were: live blocks
// with their contents, and heaps with who uses them. A child that hangs is ended by an alarm; the step that it was in,
// and what it found wrong, are in memory that it shares with the test. The child touches neither GoogleTest nor the C
// library's malloc.
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <string>
#include <thread>

#include "gtest/gtest.h"
#include "mi/heap/heap.h"
#include "mi/mimalloc.h"
#include "tests/single_steps.h"
#include "tests/test_support.h"

extern char** environ;

namespace mi_test {
namespace {

// ---- what a child reports -----------------------------------------------------------------------------------

enum Step : int {
  kStart,
  kVerify,
  kAllocate,
  kFreeInherited,
  kMakeHeaps,
  kAllocateInHeap,
  kVisitHeap,
  kVisitMain,
  kVisitAll,
  kCollectHeap,
  kDestroyHeap,
  kDeleteHeap,
  kMergeHeap,
  kResetHeap,
  kDefaultHeap,
  kThreads,
  kGrandchild,
  kCollect,
  kThreadDone,
  kVerifyAtEnd,
  kFreeAll,
  kEnd,
};
const char* const kStepNames[] = {
    "start",
    "verifying what was inherited",
    "allocating",
    "freeing inherited blocks",
    "making and ending heaps",
    "allocating in an inherited heap",
    "visiting an inherited heap",
    "visiting the main heap",
    "visiting all heaps",
    "collecting an inherited heap",
    "destroying an inherited heap",
    "deleting an inherited heap",
    "merging an inherited heap",
    "resetting an inherited heap",
    "an inherited heap as default",
    "starting threads",
    "forking again",
    "collecting",
    "ending the thread's part in the library",
    "verifying at the end",
    "freeing everything",
    "end",
};

struct Report {
  std::atomic<int> step;
  char message[400];
};

Report* SharedReport() {
  static Report* const report =
      static_cast<Report*>(mmap(nullptr, sizeof(Report), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  return report;
}

[[noreturn]] __attribute__((format(printf, 1, 2))) void ChildFails(const char* format, ...) {
  va_list args;
  va_start(args, format);
  vsnprintf(SharedReport()->message, sizeof(SharedReport()->message), format, args);
  va_end(args);
  _exit(1);
}

void Enter(Step step) { SharedReport()->step.store(step); }

// Waits for a child of its own; empty if it ended well.
std::string Outcome(pid_t child) {
  if (child < 0) return "fork failed";
  int status = 0;
  while (waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) return "the child could not be waited for";
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return "";
  std::string text = WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM ? "the child hung"
                     : WIFSIGNALED(status) ? "the child ended by signal " + std::to_string(WTERMSIG(status))
                                           : "the child ended with code " + std::to_string(WEXITSTATUS(status));
  return text + " while " + kStepNames[SharedReport()->step.load()] + ": " + SharedReport()->message;
}

// ---- single steps ---------------------------------------------------------------------------------------------

#if defined(__x86_64__) && !defined(MI_TEST_TSAN)
#define MI_TEST_STEPS 1
#endif

// The trap flag is on while `stepped` threads are inside the library.
thread_local bool stepped = false;

#ifdef MI_TEST_STEPS
std::atomic<long> steps_done{0};
std::atomic<long> step_to_hold{0};
std::atomic<int> held{0};  // futex: 1 while the thread is held

void FutexWait(std::atomic<int>* word, int value) {
  syscall(SYS_futex, reinterpret_cast<int*>(word), FUTEX_WAIT_PRIVATE, value, nullptr, nullptr, 0);
}
void FutexWake(std::atomic<int>* word) {
  syscall(SYS_futex, reinterpret_cast<int*>(word), FUTEX_WAKE_PRIVATE, 1 << 30, nullptr, nullptr, 0);
}

// A long operation runs freely from here on.
constexpr long kMostSteps = kSoak ? 2000000 : 50000;

void OnTrap(int, siginfo_t*, void* context) {
  const long steps = steps_done.fetch_add(1) + 1;
  if (steps >= kMostSteps) StopSteps(context);
  if (steps < step_to_hold.load()) return;
  const int saved = errno;
  held.store(1);
  FutexWake(&held);
  while (held.load() == 1) FutexWait(&held, 1);
  errno = saved;
}
#endif

struct Inside {
  Inside() {
    if (stepped) TrapFlag(true);
  }
  ~Inside() {
    if (stepped) TrapFlag(false);
  }
};

// A call of the library.
template <typename F>
auto Call(F&& f) {
  Inside inside;
  return f();
}

// ---- the tables -------------------------------------------------------------------------------------------------

constexpr int kMostFailures = kSoak ? 50 : 3;  // after which a test gives up

constexpr int kChurners = 3;
constexpr int kForker = kChurners;
constexpr int kThreadTables = kChurners + 1;
constexpr int kBlocks = 350;  // per table
constexpr int kHeaps = 6;
constexpr int kMain = -1;
constexpr uint32_t kFates = 1 << 14;

enum BlockState : int { kEmpty, kInWork, kLive };

struct Block {
  std::atomic<int> state;
  int heap;  // index of a heap, or kMain
  uint32_t generation;
  int life;  // of the thread that made it
  char* p;
  size_t size;
  size_t usable;
  uint64_t seed;
};

// What became of the heap that stood in a place: blocks remember the generation of their heap's place.
enum Fate : uint64_t { kOpen = 0, kGone = 1, kKept = 2, kMerged = 4 };

enum Use : int { kFree = 0, kEnding = -1, kKeeping = -2, kVisiting = -3 };

struct HeapPlace {
  std::atomic<mi_heap_t*> heap;
  std::atomic<uint32_t> generation;
  std::atomic<int> use;                // how many use it, or one of Use
  std::atomic<uint64_t> fate[kFates];  // by generation; kMerged: | place << 8 | generation << 16
};

struct World {
  Block block[kThreadTables][kBlocks];
  HeapPlace heap[kHeaps];
  std::atomic<bool> done;
  std::atomic<long> operations[kThreadTables];
  std::atomic<int> lives[kThreadTables];  // how often its thread ended for the library
  std::atomic<int> wrong;                 // contents that a churning thread found changed
};
World world;

// Where a block is now: the place of its heap, kMain, or -2 for nowhere.
constexpr int kNowhere = -2;
int Whereabouts(const Block& block, uint32_t* generation) {
  int place = block.heap;
  uint32_t at = block.generation;
  while (place != kMain) {
    if (world.heap[place].generation.load() - at >= kFates / 2) return kNowhere;  // forgotten: never in practice
    const uint64_t fate = world.heap[place].fate[at % kFates].load();
    if (fate == kOpen) break;
    if (fate == kGone) return kNowhere;
    if (fate == kKept) {
      place = kMain;
      break;
    }
    at = static_cast<uint32_t>(fate >> 16);
    place = static_cast<int>(fate >> 8 & 0xff);
  }
  *generation = at;
  return place;
}

bool EnterHeap(int place) {
  int use = world.heap[place].use.load();
  do {
    if (use < 0) return false;
  } while (!world.heap[place].use.compare_exchange_weak(use, use + 1));
  return true;
}
void LeaveHeap(int place) { world.heap[place].use.fetch_sub(1); }
bool TakeHeap(int place, Use use) {
  int expected = kFree;
  return world.heap[place].use.compare_exchange_strong(expected, use);
}
void GiveHeap(int place) { world.heap[place].use.store(kFree); }

// The heap of a place that the caller has taken ends, with this fate for its blocks.
void SetFate(int place, uint64_t fate) {
  HeapPlace& h = world.heap[place];
  h.fate[h.generation.load() % kFates].store(fate);
  h.fate[(h.generation.load() + 1) % kFates].store(kOpen);
  h.generation.fetch_add(1);
}

// ---- operations of the threads -------------------------------------------------------------------------------------

enum Operation : int {
  kOpMalloc,
  kOpHeapMalloc,
  kOpMany,
  kOpFree,
  kOpFreeOthers,
  kOpRealloc,
  kOpLarge,
  kOpAligned,
  kOpOwnHeap,
  kOpGrowHeap,
  kOpPagesOfHeap,
  kOpDestroy,
  kOpReset,
  kOpDelete,
  kOpMerge,
  kOpVisit,
  kOpCollect,
  kOpForcedCollect,
  kOpHeapCollect,
  kOpDefault,
  kOpThreadDone,
  kOpFullPage,
  kOpSmall,
  kOperations,
};
const char* const kOperationNames[] = {
    "malloc",
    "allocation in a heap",
    "filling pages",
    "free",
    "free of others' blocks",
    "realloc",
    "large blocks",
    "aligned blocks",
    "a heap of one's own",
    "regions",
    "pages of a heap",
    "destroy",
    "reset",
    "delete",
    "merge",
    "visit",
    "collect",
    "forced collect",
    "collect of a heap",
    "default heap",
    "thread exit",
    "free into another thread's full page",
    "small blocks",
};

// Blocks of the forker's full pages, for the others to free: the first free into a full page takes two steps.
constexpr int kBaits = 64;
std::atomic<void*> bait[kBaits];
void LayBaits() {
  for (std::atomic<void*>& b : bait) mi_free(b.exchange(nullptr));
  for (std::atomic<void*>& b : bait) b = mi_malloc(8000);
}

uint64_t NextSeed() {
  static std::atomic<uint64_t> next{1};
  return next.fetch_add(1);
}

size_t BlockSize(Random& random) {
  const size_t kind = random.Below(100);
  if (kind < 70) return random.Between(1, 300);
  if (kind < 95) return random.Between(300, 2500);
  return random.Between(2500, 20000);
}

// Notes a block in the table's first free entry from a random one on; frees it if there is none. The caller is inside
// the heap.
void Note(int table, Random& random, int place, void* p, size_t size) {
  if (p == nullptr) return;
  size_t at = random.Below(kBlocks);
  for (int i = 0; i < 20; i++, at = (at + 1) % kBlocks) {
    Block& block = world.block[table][at];
    int expected = kEmpty;
    if (!block.state.compare_exchange_strong(expected, kInWork)) continue;
    block.heap = place;
    block.generation = place == kMain ? 0 : world.heap[place].generation.load();
    block.life = world.lives[table];
    block.p = static_cast<char*>(p);
    block.size = size;
    block.usable = mi_usable_size(p);
    block.seed = NextSeed();
    Fill(p, size, block.seed);
    block.state.store(kLive);
    return;
  }
  Call([&] { mi_free(p); });
}

// Frees (or drops from the table) the block of an entry, whoever's it is.
void FreeEntry(Block& block) {
  int expected = kLive;
  if (!block.state.compare_exchange_strong(expected, kInWork)) return;
  uint32_t generation = 0;
  const int place = Whereabouts(block, &generation);
  if (place == kNowhere) {
    block.state.store(kEmpty);
    return;
  }
  if (place != kMain) {
    uint32_t again = 0;
    if (!EnterHeap(place)) {
      block.state.store(kLive);
      return;
    }
    if (Whereabouts(block, &again) != place || again != generation) {
      LeaveHeap(place);
      block.state.store(kLive);
      return;
    }
  }
  if (FindDifference(block.p, 0, block.size, block.seed) != block.size) world.wrong++;
  Call([&] { mi_free(block.p); });
  block.state.store(kEmpty);
  if (place != kMain) LeaveHeap(place);
}

void Prune(int table) {
  for (Block& block : world.block[table]) {
    uint32_t generation;
    int expected = kLive;
    if (Whereabouts(block, &generation) != kNowhere) continue;
    if (block.state.compare_exchange_strong(expected, kInWork)) {
      block.state.store(Whereabouts(block, &generation) == kNowhere ? kEmpty : kLive);
    }
  }
}

void ReplaceHeap(int place) {
  world.heap[place].heap.store(Call([] { return mi_heap_new(); }));
  GiveHeap(place);
}

void RunOperation(Operation operation, int table, Random& random) {
  const int place = static_cast<int>(random.Below(kHeaps));
  HeapPlace& h = world.heap[place];
  switch (operation) {
    case kOpMalloc: {
      const size_t size = BlockSize(random);
      Note(table, random, kMain, Call([&] { return mi_malloc(size); }), size);
      break;
    }
    case kOpHeapMalloc:
      if (EnterHeap(place)) {
        const size_t size = BlockSize(random);
        Note(table, random, place, Call([&] { return mi_heap_malloc(h.heap, size); }), size);
        LeaveHeap(place);
      }
      break;
    case kOpMany: {  // of one size, so that pages become full; others free some of them
      const int where = random.OneIn(2) ? kMain : place;
      if (where != kMain && !EnterHeap(where)) break;
      const size_t size = random.OneIn(2) ? 2000 : random.Between(500, 5000);
      for (int i = 0; i < 40; i++) {
        void* p = Call([&] { return where == kMain ? mi_malloc(size) : mi_heap_malloc(h.heap, size); });
        Note(table, random, where, p, size);
      }
      if (where != kMain) LeaveHeap(where);
      break;
    }
    case kOpFree:
      FreeEntry(world.block[table][random.Below(kBlocks)]);
      break;
    case kOpFreeOthers:
      for (int i = 0; i < 8; i++) FreeEntry(world.block[random.Below(kThreadTables)][random.Below(kBlocks)]);
      break;
    case kOpRealloc: {
      const size_t from = BlockSize(random), to = BlockSize(random);
      void* p = Call([&] { return mi_realloc(mi_malloc(from), to); });
      Note(table, random, kMain, p, to);
      break;
    }
    case kOpLarge: {
      const size_t size = random.OneIn(6) ? 5 * kMiB : random.Between(70 * kKiB, 600 * kKiB);
      char* p = static_cast<char*>(Call([&] { return mi_malloc(size); }));
      if (p == nullptr) break;
      p[0] = p[size - 1] = 1;
      if (random.OneIn(2) || size > kMiB) {
        Call([&] { mi_free(p); });
      } else {
        Note(table, random, kMain, p, 5000);  // a few pages of it are written
      }
      break;
    }
    case kOpAligned: {
      const size_t size = random.Between(1, 3000), alignment = size_t{16} << random.Below(9);
      Note(table, random, kMain, Call([&] { return mi_malloc_aligned(size, alignment); }), size);
      break;
    }
    case kOpOwnHeap: {
      mi_heap_t* heap = Call([] { return mi_heap_new(); });
      void* kept[60];
      int count = 0;
      for (size_t i = random.Below(60); i > 0; i--) {
        const size_t size = BlockSize(random);
        void* p = Call([&] { return mi_heap_malloc(heap, size); });
        memset(p, 1, std::min<size_t>(size, 64));
        if (random.OneIn(4)) {
          Call([&] { mi_free(p); });
        } else {
          kept[count++] = p;
        }
      }
      if (random.OneIn(8)) {
        Call([&] { mi_heap_delete(heap); });
        while (count > 0) Call([&] { mi_free(kept[--count]); });
      } else {
        Call([&] { mi_heap_destroy(heap); });
      }
      break;
    }
    case kOpGrowHeap:  // many regions
      if (EnterHeap(place)) {
        for (int i = 0; i < 30; i++) {
          const size_t size = random.Between(100, 900);
          Note(table, random, place, Call([&] { return mi_heap_malloc(h.heap, size); }), size);
          if (random.OneIn(2)) FreeEntry(world.block[table][random.Below(kBlocks)]);
        }
        LeaveHeap(place);
      }
      break;
    case kOpPagesOfHeap:
      if (EnterHeap(place)) {
        for (int i = 0; i < 30; i++) {
          const size_t size = random.Between(9000, 10000);
          Note(table, random, place, Call([&] { return mi_heap_malloc(h.heap, size); }), size);
          FreeEntry(world.block[table][random.Below(kBlocks)]);
        }
        LeaveHeap(place);
      }
      break;
    case kOpDestroy:
      if (TakeHeap(place, kEnding)) {
        SetFate(place, kGone);
        Call([&] { mi_heap_destroy(h.heap); });
        ReplaceHeap(place);
      }
      break;
    case kOpReset:
      if (TakeHeap(place, kEnding)) {
        SetFate(place, kGone);
        Call([&] { mi_heap_reset(h.heap); });
        GiveHeap(place);
      }
      break;
    case kOpDelete:
      if (TakeHeap(place, kKeeping)) {
        SetFate(place, kKept);
        Call([&] { mi_heap_delete(h.heap); });
        ReplaceHeap(place);
      }
      break;
    case kOpMerge: {
      const int into = static_cast<int>(random.Below(kHeaps));
      if (into == place || !EnterHeap(into)) break;
      if (TakeHeap(place, kKeeping)) {
        SetFate(place, kMerged | static_cast<uint64_t>(into) << 8 |
                           static_cast<uint64_t>(world.heap[into].generation.load()) << 16);
        Call([&] { mi_heap_merge(h.heap, world.heap[into].heap); });
        ReplaceHeap(place);
      }
      LeaveHeap(into);
      break;
    }
    case kOpVisit:
      if (TakeHeap(place, kVisiting)) {
        size_t count = 0;
        auto visitor = [](const mi_heap_t*, const mi_heap_area_t*, void*, size_t, void* arg) {
          ++*static_cast<size_t*>(arg);
          return true;
        };
        Call([&] { mi_heap_visit_blocks(h.heap, true, visitor, &count); });
        GiveHeap(place);
      }
      break;
    case kOpCollect:
      Call([] { mi_collect(false); });
      break;
    case kOpForcedCollect:
      Call([] { mi_collect(true); });
      break;
    case kOpHeapCollect:
      if (EnterHeap(place)) {
        const bool force = random.OneIn(2);
        Call([&] { mi_heap_collect(h.heap, force); });
        LeaveHeap(place);
      }
      break;
    case kOpDefault: {
      mi_heap_t* heap = Call([] { return mi_heap_new(); });
      Call([&] { mi_heap_set_default(heap); });
      for (int i = 0; i < 20; i++) Opaque(Call([&] { return mi_malloc(100); }));
      Call([&] { mi_heap_destroy(heap); });
      break;
    }
    case kOpThreadDone:
      Call([] { mi_thread_done(); });
      Call([] { mi_free(mi_malloc(10)); });
      world.lives[table]++;
      break;
    case kOpFullPage: {
      const size_t first = random.Below(kBaits);
      for (int i = 0; i < 4; i++) {
        void* p = bait[(first + 7 * i) % kBaits].exchange(nullptr);
        Call([&] { mi_free(p); });
      }
      break;
    }
    case kOpSmall: {
      void* p[8];
      for (void*& block : p) block = Call([] { return mi_malloc(32); });
      for (void* block : p) Call([&] { mi_free(block); });
      break;
    }
    case kOperations:
      break;
  }
}

void RandomOperation(int table, Random& random) {
  // Common ones often, ends of heaps and threads now and then, collects seldom.
  static const unsigned char weight[kOperations] = {20, 30, 3, 25, 6, 4, 1, 3, 6, 4, 1, 2,
                                                    2,  2,  2, 1,  1, 1, 1, 1, 1, 2, 2};
  size_t total = 0;
  for (size_t w : weight) total += w;
  size_t pick = random.Below(total);
  int operation = 0;
  while (pick >= weight[operation]) pick -= weight[operation++];
  RunOperation(static_cast<Operation>(operation), table, random);
  if (world.operations[table].fetch_add(1) % 256 == 0) Prune(table);
}

void MakeWorld() {
  world.done = false;
  world.wrong = 0;
  for (HeapPlace& h : world.heap) {
    h.heap = mi_heap_new();
    h.use = kFree;
  }
}

// After the other threads have ended.
void EndWorld() {
  for (std::atomic<void*>& b : bait) mi_free(b.exchange(nullptr));
  for (auto& table : world.block) {
    for (Block& block : table) FreeEntry(block);
    for (Block& block : table) EXPECT_EQ(block.state, kEmpty);
  }
  for (int place = 0; place < kHeaps; place++) {
    EXPECT_EQ(world.heap[place].use, kFree);
    EXPECT_EQ(CountBlocks(world.heap[place].heap), 0u) << "blocks were lost in the parent";
    SetFate(place, kGone);
    mi_heap_destroy(world.heap[place].heap);
  }
  EXPECT_EQ(world.wrong, 0) << "contents of blocks changed in the parent";
}

// ---- the child ------------------------------------------------------------------------------------------------

struct Inherited {
  uintptr_t begin, end;
  const Block* block;
  int place;
  bool live;
  bool at_home;  // made by the forking thread in its present life, in a heap that is open
  int table;
};
struct Own {
  void* p;
  size_t size;
  uint64_t seed;
  mi_heap_t* heap;  // NULL: main
};

class Child {
 public:
  explicit Child(uint64_t seed) : random_(seed) {}

  void Run(bool grandchild) {
    Enter(kVerify);
    if (!grandchild) Gather();
    VerifyInherited();
    if (!grandchild) UseDefaultHeap();
    VerifyOwn();
    const int rounds = grandchild ? 3 : static_cast<int>(random_.Between(4, 10));
    for (int i = 0; i < rounds; i++) RandomStep(grandchild);
    Enter(kVerifyAtEnd);
    VerifyInherited();
    VerifyOwn();
    Enter(kFreeAll);
    if (random_.OneIn(2)) FreeAll();
    if (random_.OneIn(2)) {
      Enter(kThreadDone);
      mi_thread_done();
      mi_free(mi_malloc(100));
    }
    Enter(kEnd);
  }

 private:
  static constexpr int kOwnMax = 1500;

  void Gather() {
    count_ = 0;
    for (int place = 0; place < kHeaps; place++) {
      usable_[place] = world.heap[place].use >= 0 || world.heap[place].use == kVisiting;
      heap_[place] = world.heap[place].heap;
    }
    for (int table = 0; table < kThreadTables; table++) {
      for (const Block& block : world.block[table]) {
        if (block.state != kLive) continue;
        uint32_t generation = 0;
        const int place = Whereabouts(block, &generation);
        if (place == kNowhere) continue;
        // A heap that was being ended or reset: what its blocks are worth is not known.
        if (place != kMain && world.heap[place].use == kEnding) continue;
        const bool at_home = block.heap == place && (place == kMain || block.generation == generation) &&
                             table == kForker && block.life == world.lives[kForker];
        const uintptr_t begin = reinterpret_cast<uintptr_t>(block.p);
        inherited_[count_++] = {begin, begin + block.usable, &block, place, true, at_home, table};
      }
    }
    std::sort(inherited_, inherited_ + count_,
              [](const Inherited& a, const Inherited& b) { return a.begin < b.begin; });
    for (int i = 1; i < count_; i++) {
      if (inherited_[i - 1].end > inherited_[i].begin) {
        ChildFails("inherited blocks overlap: %p and %p", static_cast<void*>(inherited_[i - 1].block->p),
                   static_cast<void*>(inherited_[i].block->p));
      }
    }
  }

  void Verify(const Inherited& in) {
    const Block& block = *in.block;
    const size_t at = FindDifference(block.p, 0, block.size, block.seed);
    if (at != block.size) {
      ChildFails("contents of the inherited block %p (%zu bytes, of thread %d, heap %d) differ at %zu",
                 static_cast<void*>(block.p), block.size, in.table, in.place, at);
    }
  }
  void VerifyInherited() {
    for (int i = 0; i < count_; i++) {
      if (inherited_[i].live) Verify(inherited_[i]);
    }
  }

  // No byte of a block that was served may belong to a live inherited one.
  void CheckServed(const void* p, size_t size, size_t usable = 0) {
    if (p == nullptr) ChildFails("an allocation of %zu bytes failed", size);
    const uintptr_t begin = reinterpret_cast<uintptr_t>(p), end = begin + (usable == 0 ? mi_usable_size(p) : usable);
    if (end < begin + size) {
      ChildFails("the usable size of %p is %zu, less than %zu", p, static_cast<size_t>(end - begin), size);
    }
    Inherited* at = std::upper_bound(inherited_, inherited_ + count_, begin,
                                     [](uintptr_t address, const Inherited& in) { return address < in.begin; });
    if (at != inherited_) at--;
    for (; at < inherited_ + count_ && at->begin < end; at++) {
      if (at->live && at->end > begin) {
        ChildFails(
            "memory served twice: %p (%zu bytes) overlaps the inherited block %p (%zu bytes, of thread %d, heap %d)", p,
            size, static_cast<void*>(at->block->p), at->block->size, at->table, at->place);
      }
    }
  }

  void Keep(void* p, size_t size, mi_heap_t* heap) {
    CheckServed(p, size);
    const uint64_t seed = random_.Next();
    FillBytes(p, 0, std::min<size_t>(size, 4096), seed);
    if (own_count_ == kOwnMax) {
      FreeOwn(static_cast<int>(random_.Below(kOwnMax)));
    }
    own_[own_count_++] = {p, std::min<size_t>(size, 4096), seed, heap};
  }
  void FreeOwn(int i) {
    if (FindDifference(own_[i].p, 0, own_[i].size, own_[i].seed) != own_[i].size) {
      ChildFails("contents of the child's own block %p (%zu bytes) changed", own_[i].p, own_[i].size);
    }
    mi_free(own_[i].p);
    own_[i] = own_[--own_count_];
  }
  void VerifyOwn() {
    for (int i = 0; i < own_count_; i++) {
      if (FindDifference(own_[i].p, 0, own_[i].size, own_[i].seed) != own_[i].size) {
        ChildFails("contents of the child's own block %p (%zu bytes) changed", own_[i].p, own_[i].size);
      }
    }
  }

  void FreeInherited(Inherited& in) {
    if (!in.live) return;
    Verify(in);
    if (mi_usable_size(in.block->p) != in.block->usable) {
      ChildFails("the usable size of the inherited block %p changed from %zu to %zu", static_cast<void*>(in.block->p),
                 in.block->usable, mi_usable_size(in.block->p));
    }
    in.live = false;
    mi_free(in.block->p);
  }

  void FreeAll() {
    for (int i = 0; i < count_; i++) FreeInherited(inherited_[i]);
    while (own_count_ > 0) FreeOwn(own_count_ - 1);
  }

  // Whatever became of it at the fork.
  void UseDefaultHeap() {
    if (mi_heap_get_default() == mi_heap_main()) return;
    Enter(kDefaultHeap);
    void* blocks[50];
    for (int i = 0; i < 50; i++) {
      const size_t size = BlockSize(random_);
      blocks[i] = mi_malloc(size);
      CheckServed(blocks[i], size);
      memset(blocks[i], 1, size);
    }
    for (void* p : blocks) mi_free(p);
    mi_heap_set_default(nullptr);
  }

  size_t Size() { return random_.OneIn(100) ? random_.Between(70 * kKiB, 6 * kMiB) : BlockSize(random_); }

  void Allocate(mi_heap_t* heap, int n) {
    for (int i = 0; i < n; i++) {
      const size_t size = Size();
      void* p = nullptr;
      switch (random_.Below(8)) {
        case 0:
          p = heap == nullptr ? mi_zalloc(size) : mi_heap_zalloc(heap, size);
          if (p != nullptr && FindOther(p, 0, size, 0) != size) ChildFails("zalloc: %p is not zero", p);
          break;
        case 1: {
          const size_t alignment = size_t{16} << random_.Below(8);
          p = heap == nullptr ? mi_malloc_aligned(size, alignment) : mi_heap_malloc_aligned(heap, size, alignment);
          break;
        }
        default:
          p = heap == nullptr ? mi_malloc(size) : mi_heap_malloc(heap, size);
      }
      Keep(p, size, heap);
      if (mi_heap_of(p) != (heap == nullptr ? mi_heap_get_default() : heap)) ChildFails("mi_heap_of(%p) is wrong", p);
      if (random_.OneIn(3)) FreeOwn(static_cast<int>(random_.Below(own_count_)));
    }
  }

  // Blocks of a heap that ended.
  void Drop(mi_heap_t* heap, int place) {
    for (int i = 0; i < own_count_;) {
      if (own_[i].heap == heap) {
        own_[i] = own_[--own_count_];
      } else {
        i++;
      }
    }
    if (place == kMain) return;
    for (int i = 0; i < count_; i++) {
      if (inherited_[i].place == place) inherited_[i].live = false;
    }
  }
  void Move(mi_heap_t* heap, int place, mi_heap_t* to, int to_place) {
    for (int i = 0; i < own_count_; i++) {
      if (own_[i].heap == heap) own_[i].heap = to;
    }
    for (int i = 0; i < count_; i++) {
      if (inherited_[i].place == place) {
        inherited_[i].place = to_place;
        inherited_[i].at_home = false;
      }
    }
  }

  void MakeHeaps() {
    for (int n = 0; n < 5; n++) {
      mi_heap_t* heap = mi_heap_new();
      if (heap == nullptr) ChildFails("mi_heap_new failed");
      CheckServed(heap, 1, 512);
      Allocate(heap, static_cast<int>(random_.Below(100)));
      const int fate = static_cast<int>(random_.Below(4));
      if (fate == 0) {
        mi_heap_delete(heap);
        Move(heap, kNowhere, nullptr, kMain);
      } else if (fate == 1) {
        mi_heap_reset(heap);
        Drop(heap, kMain);
        Allocate(heap, 10);
        mi_heap_destroy(heap);
        Drop(heap, kMain);
      } else {
        mi_heap_destroy(heap);
        Drop(heap, kMain);
      }
    }
  }

  struct Seen {
    Child* child;
    int place;
    size_t blocks;
    uintptr_t last;
  };
  static bool Visitor(const mi_heap_t*, const mi_heap_area_t*, void* block, size_t size, void* arg) {
    Seen* seen = static_cast<Seen*>(arg);
    if (block == nullptr) return true;
    seen->blocks++;
    if (size == 0) ChildFails("a visit shows %p without a size", block);
    // Mark the inherited block that it is.
    Child* c = seen->child;
    const uintptr_t at = reinterpret_cast<uintptr_t>(block);
    Inherited* in = std::lower_bound(c->inherited_, c->inherited_ + c->count_, at,
                                     [](const Inherited& i, uintptr_t address) { return i.begin < address; });
    if (in < c->inherited_ + c->count_ && in->begin == at) c->shown_[in - c->inherited_]++;
    return true;
  }
  size_t Visit(mi_heap_t* heap, int place) {
    memset(shown_, 0, sizeof(shown_));
    Seen seen = {this, place, 0, 0};
    if (!mi_heap_visit_blocks(heap, true, &Visitor, &seen)) ChildFails("a visit of heap %d is refused or fails", place);
    for (int i = 0; i < count_; i++) {
      const Inherited& in = inherited_[i];
      // Another thread may have stopped with a closed heap, or with an abandoned page, in its hands: those are not
      // found any more.
      if (shown_[i] > 1 || (in.live && in.place == place && in.at_home && shown_[i] != 1)) {
        ChildFails("a visit of heap %d shows the block %p %d times", place, static_cast<void*>(in.block->p), shown_[i]);
      }
    }
    return seen.blocks;
  }

  void Threads() {
    pthread_t threads[2];
    for (pthread_t& thread : threads) {
      auto body = [](void* arg) -> void* {
        Child* c = static_cast<Child*>(arg);
        Random random(c->random_.Next());
        void* blocks[100];
        mi_heap_t* heap = mi_heap_new();
        for (int i = 0; i < 100; i++) {
          const size_t size = BlockSize(random);
          const int place = static_cast<int>(random.Below(kHeaps));
          blocks[i] = i % 3 == 0                         ? mi_malloc(size)
                      : i % 3 == 1 || !c->usable_[place] ? mi_heap_malloc(heap, size)
                                                         : mi_heap_malloc(c->heap_[place], size);
          c->CheckServed(blocks[i], size);
        }
        for (int i = 0; i < 100; i += 2) mi_free(blocks[i]);
        if (random.OneIn(2)) {
          mi_heap_destroy(heap);
        } else {
          mi_heap_delete(heap);
        }
        return nullptr;
      };
      if (pthread_create(&thread, nullptr, body, this) != 0) ChildFails("pthread_create failed");
    }
    for (pthread_t thread : threads) pthread_join(thread, nullptr);
  }

  void Grandchild() {
    const pid_t pid = fork();
    if (pid < 0) ChildFails("fork in the child failed");
    if (pid == 0) {
      alarm(kSanitized ? 60 : 15);
      Run(true);
      _exit(0);
    }
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    if (WIFSIGNALED(status)) {
      snprintf(SharedReport()->message, sizeof(SharedReport()->message), "(in the grandchild) %.300s",
               SharedReport()->message);
      raise(WTERMSIG(status));
    }
    if (status != 0) _exit(1);
  }

  void RandomStep(bool grandchild) {
    const Step step = static_cast<Step>(random_.Between(kAllocate, grandchild ? kDefaultHeap : kCollect));
    Enter(step);
    const int place = static_cast<int>(random_.Below(kHeaps));
    mi_heap_t* const heap = heap_[place];
    switch (step) {
      case kAllocate:
        Allocate(nullptr, 150);
        break;
      case kFreeInherited:
        for (int n = 0; n < 200 && count_ > 0; n++) FreeInherited(inherited_[random_.Below(count_)]);
        break;
      case kMakeHeaps:
        MakeHeaps();
        break;
      case kVisitMain:
        Visit(mi_heap_main(), kMain);
        break;
      case kVisitAll:
        mi_heap_visit_all(
            [](mi_heap_t* shown, void*) {
              if (mi_heap_name(shown) == nullptr) ChildFails("a heap without a name");
              return true;
            },
            nullptr);
        break;
      case kThreads:
        Threads();
        break;
      case kGrandchild:
        Grandchild();
        break;
      case kCollect:
        mi_collect(random_.OneIn(2));
        break;
      default:
        if (usable_[place]) HeapStep(step, heap, place);
    }
  }

  void HeapStep(Step step, mi_heap_t* heap, int place) {
    switch (step) {
      case kAllocateInHeap:
        Allocate(heap, 100);
        break;
      case kVisitHeap:
        Visit(heap, place);
        break;
      case kCollectHeap:
        mi_heap_collect(heap, random_.OneIn(2));
        break;
      case kDestroyHeap:
        mi_heap_destroy(heap);
        Drop(heap, place);
        usable_[place] = false;
        Allocate(nullptr, 50);
        break;
      case kDeleteHeap:
        mi_heap_delete(heap);
        Move(heap, place, nullptr, kMain);
        usable_[place] = false;
        Allocate(nullptr, 50);
        break;
      case kMergeHeap: {
        const int into = static_cast<int>(random_.Below(kHeaps));
        if (into == place || !usable_[into]) break;
        mi_heap_merge(heap, heap_[into]);
        Move(heap, place, heap_[into], into);
        usable_[place] = false;
        Allocate(heap_[into], 50);
        if (random_.OneIn(2)) {
          mi_heap_destroy(heap_[into]);
          Drop(heap_[into], into);
          usable_[into] = false;
        }
        break;
      }
      case kResetHeap:
        mi_heap_reset(heap);
        Drop(heap, place);
        if (Visit(heap, place) != 0) ChildFails("heap %d has blocks after its reset", place);
        Allocate(heap, 100);
        break;
      case kDefaultHeap: {
        if (mi_heap_set_default(heap) == nullptr) ChildFails("an inherited heap cannot be the default");
        for (int i = 0; i < 50; i++) {
          const size_t size = BlockSize(random_);
          Keep(mi_malloc(size), size, heap);
        }
        mi_heap_set_default(nullptr);
        break;
      }
      default:
        break;
    }
  }

  Random random_;
  int count_ = 0;
  int own_count_ = 0;
  bool usable_[kHeaps];
  mi_heap_t* heap_[kHeaps];
  Inherited inherited_[kThreadTables * kBlocks];
  unsigned char shown_[kThreadTables * kBlocks];
  Own own_[kOwnMax];
};

// What the child does, from the fork on.
[[noreturn]] void BeChild(uint64_t seed) {
  alarm(kSanitized ? 120 : 60);
  stepped = false;
  static Child child(seed);
  child.Run(false);
  _exit(0);
}

// Forks; the child does its program and exits. Returns what went wrong.
std::string ForkOne(uint64_t seed) {
  Enter(kStart);
  SharedReport()->message[0] = 0;
  const pid_t pid = fork();
  if (pid == 0) BeChild(seed);
  return Outcome(pid);
}

// The same from a thread that the library does not know.
std::string ForkFromFreshThread(uint64_t seed) {
  std::string outcome;
  InThread([&] { outcome = ForkOne(seed); });
  return outcome;
}

// The same from inside the library: in a callback or a visitor that an operation of the forking thread calls. In the
// child that operation goes on to its end.
struct Inner {
  bool armed = false;
  pid_t pid = -1;
  int blocks = 0;
  int nested = 0;  // visits that were tried inside the visit
} inner;
thread_local bool is_forker = false;  // callbacks are called in every thread

void ForkInside() {
  if (!is_forker || !inner.armed) return;
  inner.armed = false;
  Enter(kStart);
  SharedReport()->message[0] = 0;
  inner.pid = fork();
  if (inner.pid != 0) return;
  alarm(kSanitized ? 120 : 60);
  // The callback of the child allocates and frees, as callbacks may.
  for (int i = 0; i < 20; i++) mi_free(mi_malloc(100 * i));
  mi_heap_t* heap = mi_heap_new();
  memset(mi_heap_malloc(heap, 1000), 1, 1000);
  mi_heap_destroy(heap);
}

std::string ForkInCallback(uint64_t seed) {
  inner = {true, -1, 0, 0};
  is_forker = true;
  mi_register_deferred_free([](bool, unsigned long long, void*) { ForkInside(); }, nullptr);
  void* blocks[2000] = {};
  for (int i = 0; i < 2000 && inner.pid == -1; i++) blocks[i] = mi_malloc(500);
  for (void* p : blocks) mi_free(p);
  mi_register_deferred_free(nullptr, nullptr);
  if (inner.pid == 0) BeChild(seed);
  return Outcome(inner.pid);
}

std::string ForkInVisitor(uint64_t seed) {
  mi_heap_t* heap = mi_heap_new();
  for (int i = 0; i < 300; i++) memset(mi_heap_malloc(heap, i < 200 ? 60 : 3000), 1, 60);
  inner = {true, -1, 0, 0};
  is_forker = true;
  auto visitor = [](const mi_heap_t* shown, const mi_heap_area_t*, void* block, size_t, void* arg) {
    if (block == nullptr) return true;
    inner.blocks++;
    if (inner.blocks == *static_cast<int*>(arg)) ForkInside();
    if (inner.pid == 0 && inner.nested++ == 0 &&
        mi_heap_visit_blocks(
            const_cast<mi_heap_t*>(shown), false,
            [](const mi_heap_t*, const mi_heap_area_t*, void*, size_t, void*) { return true; }, nullptr)) {
      ChildFails("a visit inside a visit is not refused in the child");
    }
    if (inner.pid == 0 && inner.blocks % 2 == 0) mi_free(block);
    return true;
  };
  int when = 1 + static_cast<int>(seed % 300);
  mi_option_disable(mi_option_show_errors);  // of the visit that is refused
  const bool complete = mi_heap_visit_blocks(heap, true, visitor, &when);
  if (inner.pid == 0) {
    if (!complete || inner.blocks != 300) ChildFails("the visit that the fork was in showed %d blocks", inner.blocks);
    if (seed % 2 == 0) {
      mi_heap_reset(heap);
      memset(mi_heap_malloc(heap, 3000), 1, 3000);
    }
    mi_heap_destroy(heap);
    mi_option_enable(mi_option_show_errors);
    BeChild(seed);
  }
  mi_option_enable(mi_option_show_errors);
  mi_heap_destroy(heap);
  return Outcome(inner.pid);
}

// ---- churn ----------------------------------------------------------------------------------------------------

// Each thread of the chain runs some operations, starts the next one, and ends.
void* Churn(void* arg) {
  const int table = static_cast<int>(reinterpret_cast<intptr_t>(arg));
  Random random(NextSeed() * 7919);
  while (!world.done) {
    RandomOperation(table, random);
    // A sanitizer's own locks may be held by a thread that starts or ends at the fork.
    if (!kSanitized && random.OneIn(500)) {
      pthread_t next;
      pthread_attr_t attributes;
      pthread_attr_init(&attributes);
      pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
      const int failed = pthread_create(&next, &attributes, &Churn, arg);
      pthread_attr_destroy(&attributes);
      if (failed == 0) return nullptr;
    }
  }
  world.operations[table] = -1;
  return nullptr;
}

class Churners {
 public:
  Churners() {
    MakeWorld();
    LayBaits();
    for (std::atomic<long>& operations : world.operations) operations = 0;
    for (intptr_t i = 0; i < kChurners; i++) {
      pthread_t thread;
      EXPECT_EQ(pthread_create(&thread, nullptr, &Churn, reinterpret_cast<void*>(i)), 0);
      pthread_detach(thread);
    }
    for (int i = 0; i < kChurners; i++) {
      while (world.operations[i] < 1000) std::this_thread::yield();
    }
  }
  ~Churners() {
    world.done = true;
    for (int i = 0; i < kChurners; i++) {
      while (world.operations[i] != -1) std::this_thread::yield();
    }
    EndWorld();
  }
};

TEST(ForkTest, ChildrenOfAThreadedProcessAllocateFreeAndEndHeaps) {
  Churners churners;
  Random random(20);
  const int forks = Scaled(120, 10000);
  int failures = 0;
  for (int n = 0; n < forks && failures < kMostFailures; n++) {
    for (size_t i = random.Below(100); i > 0; i--) RandomOperation(kForker, random);
    LayBaits();
    const uint64_t seed = random.Next();
    const int how = static_cast<int>(random.Below(10));
    const std::string outcome = how == 0   ? ForkFromFreshThread(seed)
                                : how == 1 ? ForkInCallback(seed)
                                : how == 2 ? ForkInVisitor(seed)
                                           : ForkOne(seed);
    if (!outcome.empty()) {
      ADD_FAILURE() << "child " << n << " (" << how << "): " << outcome;
      failures++;
    }
    if ((n + 1) % 1000 == 0) {
      printf("%d children\n", n + 1);
      fflush(stdout);
    }
  }
}

TEST(ForkTest, ProgramsThatAreStartedWithoutForkDisturbNobody) {
  Churners churners;
  char name[] = "/proc/self/exe", argument[] = "--nothing";
  char* arguments[] = {name, argument, nullptr};
  for (int n = 0; n < 20; n++) {
    pid_t spawned = -1;
    ASSERT_EQ(posix_spawn(&spawned, name, nullptr, nullptr, arguments, environ), 0);
    EXPECT_EQ(Outcome(spawned), "");
    const pid_t child = vfork();  // the child runs in our memory, on our stack, while we wait
    if (child == 0) {
      execve(name, arguments, environ);
      _exit(127);
    }
    EXPECT_EQ(Outcome(child), "");
    Random random(n);
    for (int i = 0; i < 100; i++) RandomOperation(kForker, random);
  }
}

// ---- threads that were at rest --------------------------------------------------------------------------------

struct Listing {
  static constexpr size_t kMost = 4096;
  void* block[kMost];
  size_t count = 0;

  void Take(mi_heap_t* heap, bool abandoned) {
    count = 0;
    auto visitor = [](const mi_heap_t*, const mi_heap_area_t*, void* p, size_t, void* arg) {
      Listing* self = static_cast<Listing*>(arg);
      if (p != nullptr && self->count < kMost) self->block[self->count++] = p;
      return true;
    };
    if (!(abandoned ? mi_heap_visit_abandoned_blocks(heap, true, visitor, this)
                    : mi_heap_visit_blocks(heap, true, visitor, this))) {
      ChildFails("a visit failed");
    }
    std::sort(block, block + count);
  }
  bool Is(void** blocks, size_t n) {
    std::sort(blocks, blocks + n);
    return count == n && std::equal(block, block + n, blocks);
  }
};

TEST(ForkTest, BlocksOfThreadsThatAreGoneAreShownAndFreedAndEndWithTheirHeap) {
  mi_heap_t* heap = mi_heap_new();
  constexpr size_t kEach = 600;
  static void* blocks[2 * kEach];
  auto allocate = [&](size_t from) {
    for (size_t i = from; i < from + kEach; i++) {
      const size_t size = i % 200 == 0 ? 5 * kMiB : i % 100 == 0 ? 100 * kKiB : i % 3 == 0 ? 3000 : 50;
      blocks[i] = mi_heap_malloc(heap, size);
      memset(blocks[i], 1, 50);
    }
  };
  Worker worker;
  worker.Run([&] { allocate(0); });
  allocate(kEach);
  Enter(kStart);
  SharedReport()->message[0] = 0;
  const pid_t pid = fork();
  if (pid == 0) {
    alarm(60);
    static Listing listing;
    Enter(kVisitHeap);
    listing.Take(heap, false);
    if (!listing.Is(blocks, 2 * kEach)) ChildFails("%zu blocks are shown, or others", listing.count);
    // Sorted: which are whose is not told apart any more. Free every second one.
    Enter(kFreeInherited);
    size_t kept = 0;
    for (size_t i = 0; i < 2 * kEach; i++) {
      if (mi_heap_of(blocks[i]) != heap) ChildFails("mi_heap_of(%p) is wrong", blocks[i]);
      if (i % 2 == 0) {
        mi_free(blocks[i]);
      } else {
        blocks[kept++] = blocks[i];
      }
    }
    Enter(kVisitHeap);
    listing.Take(heap, false);
    if (!listing.Is(blocks, kept)) ChildFails("%zu blocks are shown, or others, of %zu", listing.count, kept);
    listing.Take(heap, true);
    const size_t of_gone = listing.count;
    if (of_gone < 250 || of_gone > 350) ChildFails("%zu blocks are shown of threads that ended", of_gone);
    Enter(kDestroyHeap);
    mi_heap_destroy(heap);
    for (size_t i = 0; i < kept; i++) {
      if (mi_heap_of(blocks[i]) != nullptr)
        ChildFails("%p still is a block of %p", blocks[i], static_cast<void*>(mi_heap_of(blocks[i])));
    }
    _exit(0);
  }
  EXPECT_EQ(Outcome(pid), "");
  mi_heap_destroy(heap);
}

TEST(ForkTest, AVisitThatIsLostHoldsNobodyUpInTheChild) {
  mi_heap_t* heap = mi_heap_new();
  static void* blocks[300];
  size_t count = 0;
  for (int i = 0; i < 200; i++) blocks[count++] = mi_heap_malloc(heap, i % 2 == 0 ? 40 : 3000);
  void* const huge = blocks[count++] = mi_heap_malloc(heap, 9 * kMiB);
  for (size_t i = 0; i < count; i++) memset(blocks[i], 1, 40);
  Worker worker;
  std::atomic<int> stage{0};
  auto visitor = [](const mi_heap_t*, const mi_heap_area_t*, void*, size_t, void* arg) {
    std::atomic<int>& at = *static_cast<std::atomic<int>*>(arg);
    if (at == 0) at = 1;
    while (at == 1) std::this_thread::yield();
    return true;
  };
  worker.Start([&] { mi_heap_visit_blocks(heap, true, visitor, &stage); });
  while (stage != 1) std::this_thread::yield();
  for (int fate = 0; fate < 4; fate++) {
    Enter(kStart);
    SharedReport()->message[0] = 0;
    const pid_t pid = fork();
    if (pid == 0) {
      alarm(60);
      static Listing listing;
      Enter(kVisitHeap);
      listing.Take(heap, false);
      if (!listing.Is(blocks, count)) ChildFails("%zu blocks are shown, or others", listing.count);
      Enter(kFreeInherited);
      mi_free(huge);
      if (mi_heap_of(huge) != nullptr) ChildFails("a block that was freed is kept for the visit");
      blocks[std::find(blocks, blocks + count, huge) - blocks] = blocks[count - 1];
      listing.Take(heap, false);
      if (!listing.Is(blocks, count - 1)) ChildFails("%zu blocks are shown, or others", listing.count);
      Enter(kResetHeap);
      if (fate == 0) mi_heap_reset(heap);
      Enter(kDestroyHeap);
      if (fate == 1) mi_heap_destroy(heap);
      Enter(kDeleteHeap);
      if (fate == 2) mi_heap_delete(heap);
      Enter(kCollectHeap);
      if (fate == 3) {
        for (size_t i = 0; i < count - 1; i++) mi_free(blocks[i]);
        mi_heap_collect(heap, true);
        for (size_t i = 0; i < count - 1; i++) {
          if (mi_heap_of(blocks[i]) != nullptr && mi_usable_size(blocks[i]) >= 3000) {
            ChildFails("the page of %p is kept for the visit", blocks[i]);
          }
        }
      }
      Enter(kThreadDone);
      mi_thread_done();
      _exit(0);
    }
    EXPECT_EQ(Outcome(pid), "");
  }
  stage = 2;
  worker.Wait();
  mi_heap_destroy(heap);
}

TEST(ForkTest, ATheapWhoseThreadEndedDuringAVisitThatIsLostIsOneOfAThreadThatIsGone) {
  mi_heap_t* heap = mi_heap_new();
  static void* blocks[900];
  size_t count = 0;
  void* const mine = mi_heap_malloc(heap, 100);  // the first part is this thread's
  std::atomic<int> stage{0};
  auto visitor = [](const mi_heap_t*, const mi_heap_area_t*, void*, size_t, void* arg) {
    std::atomic<int>& at = *static_cast<std::atomic<int>*>(arg);
    if (at == 0) at = 1;
    while (at == 1) std::this_thread::yield();
    return true;
  };
  Worker visiting;
  visiting.Run([] { mi_free(mi_malloc(1)); });  // its record is not one that is free below
  {
    Worker worker;
    worker.Run([&] {
      for (int i = 0; i < 300; i++) blocks[count++] = mi_heap_malloc(heap, i % 3 == 0 ? 40 : i % 3 == 1 ? 3000 : 20000);
    });
    for (size_t i = 0; i < count; i++) memset(blocks[i], 1, 40);
    blocks[count++] = mine;
    visiting.Start([&] { mi_heap_visit_blocks(heap, true, visitor, &stage); });
    while (stage != 1) std::this_thread::yield();
  }
  // The worker has ended; its record is free, or is used by another thread, which is gone in the child or forks.
  for (int user = 0; user < 3; user++) {
    for (int fate = 0; fate < 5; fate++) {
      auto fork_child = [&] {
        Enter(kStart);
        SharedReport()->message[0] = 0;
        const pid_t pid = fork();
        if (pid != 0) {
          EXPECT_EQ(Outcome(pid), "") << "the record's user is " << user << ", fate " << fate;
          return;
        }
        alarm(20);
        static Listing listing;
        auto expect = [&](size_t n) {
          listing.Take(heap, false);
          if (!listing.Is(blocks, n)) ChildFails("%zu blocks are shown, or others, of %zu", listing.count, n);
        };
        Enter(kVisitHeap);
        expect(count);
        if (!mi_heap_check(heap)) ChildFails("the heap is said to be broken");
        Enter(kDefaultHeap);
        if (mi_heap_set_default(heap) == nullptr) ChildFails("an inherited heap cannot be the default");
        for (int i = 0; i < 300; i++) blocks[count++] = mi_malloc(i % 3 == 0 ? 40 : i % 3 == 1 ? 3000 : 20000);
        for (size_t i = count - 300; i < count; i++) memset(blocks[i], 2, 40);
        mi_heap_set_default(nullptr);
        expect(count);
        Enter(kFreeInherited);
        for (int i = 0; i < 100; i++) mi_free(blocks[--count]);
        expect(count);
        if (!mi_heap_check(heap)) ChildFails("the heap is said to be broken");
        Enter(fate == 0 ? kDestroyHeap : kDeleteHeap);
        if (fate == 0) mi_heap_destroy(heap);
        if (fate == 1) mi_heap_delete(heap);
        if (fate == 2) {
          Enter(kResetHeap);
          mi_heap_reset(heap);
          expect(0);
        }
        if (fate == 3) {
          Enter(kCollectHeap);
          mi_heap_collect(heap, true);
          mi_collect(true);
          expect(count);
        }
        for (size_t i = 0; i < count && fate != 2; i++) {  // what was reset is kept warm
          mi_heap_t* const its = fate == 1 ? mi_heap_main() : fate == 0 ? nullptr : heap;
          if (mi_heap_of(blocks[i]) != its) ChildFails("mi_heap_of(%p) is wrong", blocks[i]);
        }
        Enter(kThreadDone);
        mi_thread_done();
        _exit(0);
      };
      if (user == 0) fork_child();
      if (user == 1) {
        Worker other;
        other.Run([] { mi_free(mi_malloc(1)); });
        fork_child();
      }
      if (user == 2) {
        InThread([&] {
          mi_free(mi_malloc(1));
          fork_child();
        });
      }
    }
  }
  stage = 2;
  visiting.Wait();
  mi_heap_destroy(heap);
}

// In a process of its own, whose first arena is memory of the program that is not accessible yet.
int GivenMemory() {
  constexpr size_t kSize = 64 * kMiB;
  char* area = static_cast<char*>(mmap(nullptr, kSize, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  auto commit = [](bool on, void* start, size_t size, bool* is_zero, void*) {
    *is_zero = false;
    return mprotect(start, size, on ? PROT_READ | PROT_WRITE : PROT_NONE) == 0;
  };
  if (!mi_manage_memory(area, kSize, false, false, true, -1, false, commit, nullptr, nullptr)) return 2;
  mi_option_disable(mi_option_show_errors);
  const pid_t pid = fork();
  if (pid == 0) {
    alarm(60);
    Enter(kAllocate);
    void* p = mi_malloc(100);
    if (p < area || p >= area + kSize) ChildFails("not of the memory that was given");
    Enter(kFreeInherited);
    mi_free(area + kSize - 5 * kMiB);  // is refused
    mi_free(p);
    _exit(0);
  }
  const std::string outcome = Outcome(pid);
  if (!outcome.empty()) fprintf(stderr, "%s\n", outcome.c_str());
  return outcome.empty() ? 0 : 1;
}

TEST(ForkTest, MemoryOfTheProgramIsNotTakenForOursInTheChild) {
  if (kSecure) GTEST_SKIP() << kMisuseEnds;
  char name[] = "/proc/self/exe", argument[] = "--given-memory";
  char* arguments[] = {name, argument, nullptr};
  pid_t child = -1;
  ASSERT_EQ(posix_spawn(&child, name, nullptr, nullptr, arguments, environ), 0);
  EXPECT_EQ(Outcome(child), "");
}

#ifdef MI_TEST_STEPS
// ---- steps ----------------------------------------------------------------------------------------------------

TEST(ForkTest, ChildrenManageWhereverAnotherThreadStopped) {
  struct sigaction action = {};
  action.sa_sigaction = &OnTrap;
  action.sa_flags = SA_SIGINFO;
  ASSERT_EQ(sigaction(SIGTRAP, &action, nullptr), 0);
  MakeWorld();
  LayBaits();
  Random random(21);
  for (int i = 0; i < 2000; i++) RandomOperation(kForker, random);
  std::atomic<int> turn{0};  // futex: even: the test's, odd: the stepped thread's
  std::atomic<int> operation{0};
  std::atomic<bool> finished{false};
  std::thread thread([&] {
    Random own(22);
    for (int i = 0; i < 2000; i++) RandomOperation(0, own);
    for (int seen = 0;;) {
      while ((seen = turn.load()) % 2 == 0) FutexWait(&turn, seen);
      if (operation < 0) return;
      stepped = true;
      RunOperation(static_cast<Operation>(operation.load()), 0, own);
      stepped = false;
      finished = true;
      turn++;
      held.store(2);
      FutexWake(&held);
    }
  });
  int failures = 0;
  for (int op = 0; op < kOperations && failures < kMostFailures; op++) {
    const int children = Scaled(8, 500) * (op == kOpFullPage ? 3 : 1);
    long stride = 200;
    int done = 0;
    for (int tries = 0; done < children && tries < 100 * children && failures < kMostFailures; tries++) {
      // A few operations of both in between.
      for (size_t i = random.Below(10); i > 0; i--) RandomOperation(kForker, random);
      LayBaits();
      // A heap may end that is another thread's default.
      if (op == kOpDestroy) mi_heap_set_default(world.heap[random.Below(kHeaps)].heap);
      operation = op;
      finished = false;
      steps_done = 0;
      step_to_hold = 1 + static_cast<long>(random.Below(stride));
      held = 0;
      turn++;
      FutexWake(&turn);
      int in_this_run = 0;
      while (!finished) {
        int state = held.load();
        if (state == 0) FutexWait(&held, 0);
        if (held.load() != 1) continue;
        if (done < children && in_this_run < 8) {
          const std::string outcome = ForkOne(random.Next());
          done++;
          in_this_run++;
          if (!outcome.empty()) {
            ADD_FAILURE() << "another thread stopped in \"" << kOperationNames[op] << "\" after " << steps_done
                          << " steps: " << outcome;
            failures++;
          }
          step_to_hold = steps_done + 1 + static_cast<long>(random.Below(stride));
        } else {
          step_to_hold = LONG_MAX;
        }
        held.store(0);
        FutexWake(&held);
      }
      mi_heap_set_default(nullptr);
      // About eight children to a run of the operation.
      stride = std::max<long>(2, steps_done / 4);
    }
  }
  operation = -1;
  turn++;
  FutexWake(&turn);
  thread.join();
  EndWorld();
}

// ---- the first use --------------------------------------------------------------------------------------------

// Runs in a process of its own, in which nobody has used the library: one thread is held at many places of its first
// allocation, its first heap and its exit, and each time the main thread, which does not use the library, forks.
int FirstUse() {
  struct sigaction action = {};
  action.sa_sigaction = &OnTrap;
  action.sa_flags = SA_SIGINFO;
  if (sigaction(SIGTRAP, &action, nullptr) != 0) return 2;
  std::atomic<bool> finished{false};
  Random random(23);
  step_to_hold = 1;
  std::thread thread([&] {
    stepped = true;
    void* p = Call([] { return mi_malloc(100); });
    mi_heap_t* heap = Call([] { return mi_heap_new(); });
    Call([&] { return mi_heap_malloc(heap, 5000); });
    Call([&] { mi_free(p); });
    Call([&] { mi_heap_destroy(heap); });
    Call([] { mi_thread_done(); });
    stepped = false;
    finished = true;
    held.store(2);
    FutexWake(&held);
  });
  int code = 0;
  while (!finished && code == 0) {
    if (held.load() == 0) FutexWait(&held, 0);
    if (held.load() != 1) continue;
    Enter(kStart);
    SharedReport()->message[0] = 0;
    const pid_t pid = fork();
    if (pid == 0) {
      alarm(60);
      void* blocks[200];
      Enter(kAllocate);
      for (int i = 0; i < 200; i++) {
        const size_t size = BlockSize(random);
        blocks[i] = mi_malloc(size);
        if (blocks[i] == nullptr) ChildFails("no memory");
        Fill(blocks[i], size, i);
      }
      Enter(kMakeHeaps);
      mi_heap_t* heap = mi_heap_new();
      for (int i = 0; i < 200; i++) memset(mi_heap_malloc(heap, 100), 1, 100);
      mi_heap_destroy(heap);
      Enter(kFreeAll);
      for (int i = 0; i < 200; i++) {
        if (FindDifference(blocks[i], 0, 1, i) != 1) ChildFails("contents of %p changed", blocks[i]);
        mi_free(blocks[i]);
      }
      Enter(kThreadDone);
      mi_thread_done();
      _exit(0);
    }
    const std::string outcome = Outcome(pid);
    if (!outcome.empty()) {
      fprintf(stderr, "another thread stopped after %ld steps of its first use: %s\n", steps_done.load(),
              outcome.c_str());
      code = 1;
    }
    step_to_hold = steps_done + 1 + static_cast<long>(random.Below(Scaled(400, 20)));
    held.store(0);
    FutexWake(&held);
  }
  step_to_hold = LONG_MAX;
  held.store(0);
  FutexWake(&held);
  thread.join();
  return code;
}

TEST(ForkTest, ChildrenManageWhereverAnotherThreadStoppedInTheFirstUseOfTheLibrary) {
  char name[] = "/proc/self/exe", argument[] = "--first-use";
  char* arguments[] = {name, argument, nullptr};
  pid_t child = -1;
  ASSERT_EQ(posix_spawn(&child, name, nullptr, nullptr, arguments, environ), 0);
  EXPECT_EQ(Outcome(child), "");
}
#else
int FirstUse() { return 0; }
#endif

}  // namespace

int Main(int argc, char** argv) {
  if (argc == 2 && strcmp(argv[1], "--nothing") == 0) return 0;
  if (argc == 2 && strcmp(argv[1], "--first-use") == 0) return FirstUse();
  if (argc == 2 && strcmp(argv[1], "--given-memory") == 0) return GivenMemory();
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}

}  // namespace mi_test

int main(int argc, char** argv) { return mi_test::Main(argc, argv); }
