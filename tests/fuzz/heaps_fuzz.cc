// Sequences of calls of the heap interface, decoded from bytes, beside a model of what they mean: which blocks live in
// which heap, with which contents, who is whose parent, what was there when a mark was made. After each call what the
// library says is compared with the model; the first thing that does not agree ends the process by abort().
//
// The same function serves libFuzzer (run_fuzzer.sh) and the program that replays a corpus (replay.cc). Nothing depends
// on time, addresses or chance: threads take turns, each call being made by one of three while the others wait. Memory
// of the model is the C library's, so that every block of the library is one that the sequence asked for.
#include <mimalloc.h>

#include <algorithm>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

#define EXPECT(condition, ...)                                              \
  do {                                                                      \
    if (!(condition)) {                                                     \
      fprintf(stderr, "heaps_fuzz: line %d: %s\n  ", __LINE__, #condition); \
      fprintf(stderr, __VA_ARGS__);                                         \
      fprintf(stderr, "\n");                                                \
      abort();                                                              \
    }                                                                       \
  } while (0)

#if defined(MI_SECURE) && MI_SECURE
constexpr bool kSecure = true;  // a pointer that is none of a block ends the process
#else
constexpr bool kSecure = false;
#endif
constexpr int kHeaps = 8;  // the first one is the main heap
constexpr size_t kBlocks = 256;
constexpr size_t kCalls = 2000;

// --- bytes -----------------------------------------------------------------------------------------------------------

class Bytes {
 public:
  Bytes(const uint8_t* data, size_t size) : at_(data), end_(data + size) {}
  bool AtEnd() const { return at_ == end_; }
  uint8_t Next() { return at_ == end_ ? 0 : *at_++; }
  size_t Next(size_t below) { return below == 0 ? 0 : Next() % below; }
  // Small sizes mostly, of every class; now and then a page of its own, seldom more than a segment.
  size_t Size() {
    const uint8_t kind = Next(), more = Next();
    if (kind < 128) return more;
    if (kind < 200) return static_cast<size_t>(kind - 128) * 16 + more;
    if (kind < 236) return (static_cast<size_t>(kind - 199) << 10) + more * 7;
    if (kind < 254) return (static_cast<size_t>(kind - 235) << 15) + more * 129;
    return (static_cast<size_t>(kind - 253) << 21) + more * 4099;
  }

 private:
  const uint8_t* at_;
  const uint8_t* end_;
};

// --- threads ---------------------------------------------------------------------------------------------------------

// Runs one task at a time, and waits for it.
class Worker {
 public:
  Worker() : thread_([this] { Run(); }) {}
  ~Worker() {
    Do(nullptr);
    thread_.join();
  }
  void Do(const std::function<void()>& task) {
    std::unique_lock<std::mutex> lock(mutex_);
    task_ = &task;
    is_last_ = (task == nullptr);
    busy_ = true;
    changed_.notify_all();
    if (!is_last_) changed_.wait(lock, [this] { return !busy_; });
  }

 private:
  void Run() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return busy_; });
      if (is_last_) return;
      (*task_)();
      busy_ = false;
      changed_.notify_all();
    }
  }
  std::mutex mutex_;
  std::condition_variable changed_;
  const std::function<void()>* task_ = nullptr;
  bool busy_ = false, is_last_ = false;
  std::thread thread_;
};

// --- the model -------------------------------------------------------------------------------------------------------

struct Block {
  uint8_t* p = nullptr;  // nullptr: none
  size_t size = 0;       // as asked for
  size_t extent = 0;     // bytes that were written
  size_t alignment = 1, offset = 0;
  int heap = 0;
  uint64_t born = 0;
  uint8_t seed = 0;
  bool zeroing = false;  // allocated zeroed: resized by functions that keep that, what is added is zero
};

struct Mark {
  mi_heap_mark_t mark;
  uint64_t at;
};

struct Heap {
  mi_heap_t* heap = nullptr;  // nullptr: none
  int parent = -1;
  uint64_t joined = 0;
  bool is_zero = false;
  std::vector<Mark> marks;
};

class Model {
 public:
  explicit Model(Bytes* bytes) : bytes_(*bytes) { heaps_[0].heap = mi_heap_main(); }

  void Run() {
    for (size_t calls = 0; calls < kCalls && !bytes_.AtEnd(); calls++) {
      const uint8_t code = bytes_.Next();
      const int thread = code >> 6;  // 0 and 1: this one
      now_++;
      const std::function<void()> task = [this, code] { Call(code & 63); };
      thread_ = (thread < 2 ? 0 : thread - 1);
      if (thread < 2) {
        task();
      } else if ((code & 63) == 63) {
        workers_[thread - 2].reset();  // the thread ends
        defaults_[thread_] = 0;
      } else {
        if (workers_[thread - 2] == nullptr) workers_[thread - 2] = std::make_unique<Worker>();
        workers_[thread - 2]->Do(task);
      }
    }
    CheckAll();
    End();
  }

 private:
  // --- contents
  static uint8_t ByteAt(uint8_t seed, size_t i) { return static_cast<uint8_t>(seed + i * 31 + (i >> 8)); }
  // The bytes that are written and looked at in a block of `extent` bytes, those below `to`: all of a small one; of a
  // large one the ends, and a byte of each OS page.
  template <typename Function>
  static void EachByte(size_t extent, size_t to, Function function) {
    to = std::min(to, extent);
    const size_t start = (extent <= 8192 ? to : std::min<size_t>(to, 512));
    for (size_t i = 0; i < start; i++) function(i);
    if (start == to) return;
    for (size_t i = 4096; i < std::min(to, extent - 64); i += 4096) function(i);
    for (size_t i = extent - 64; i < to; i++) function(i);
  }
  void Fill(Block* b) {
    b->seed = static_cast<uint8_t>(now_ * 7 + 1);
    b->extent = b->zeroing ? b->size : mi_usable_size(b->p);
    EXPECT(b->extent >= b->size, "block of %zu bytes, usable %zu", b->size, b->extent);
    EachByte(b->extent, b->extent, [&](size_t i) { b->p[i] = ByteAt(b->seed, i); });
  }
  static void CheckContents(const Block& b, const uint8_t* p, size_t to) {
    EachByte(b.extent, to, [&](size_t i) {
      EXPECT(p[i] == ByteAt(b.seed, i), "byte %zu of %zu at %p", i, b.size, static_cast<const void*>(p));
    });
  }
  static void CheckZero(const uint8_t* p, size_t from, size_t to) {
    for (size_t i = from; i < to; i += (i - from < 8192 || to - i < 64 ? 1 : 61))
      EXPECT(p[i] == 0, "byte %zu of %zu is not zero", i, to);
  }

  // --- blocks
  Block* FreeSlot() {
    for (Block& b : blocks_) {
      if (b.p == nullptr) return &b;
    }
    return nullptr;
  }
  Block* SomeBlock() {
    const size_t start = bytes_.Next();
    for (size_t n = 0; n < kBlocks; n++) {
      Block* b = &blocks_[(start + n) % kBlocks];
      if (b->p != nullptr) return b;
    }
    return nullptr;
  }
  void CheckPlace(const Block& b) {
    EXPECT((reinterpret_cast<uintptr_t>(b.p) + b.offset) % b.alignment == 0, "%p, alignment %zu", b.p, b.alignment);
    if (b.size >= 16)
      EXPECT(reinterpret_cast<uintptr_t>(b.p + b.offset) % std::min<size_t>(b.alignment, 16) == 0, "%p", b.p);
    EXPECT(mi_heap_of(b.p) == heaps_[b.heap].heap, "block %p of heap %d", b.p, b.heap);
    const uintptr_t from = reinterpret_cast<uintptr_t>(b.p), to = from + std::max<size_t>(b.extent, 1);
    for (const Block& other : blocks_) {
      if (other.p == nullptr || &other == &b) continue;
      const uintptr_t start = reinterpret_cast<uintptr_t>(other.p);
      EXPECT(to <= start || from >= start + std::max<size_t>(other.extent, 1), "blocks %p and %p overlap", b.p,
             other.p);
    }
  }
  void Add(Block* slot, void* p, size_t size, int heap, bool zeroing, size_t alignment = 1, size_t offset = 0) {
    EXPECT(p != nullptr, "no block of %zu bytes", size);
    *slot = Block{static_cast<uint8_t*>(p), size, 0, alignment, offset, heap, now_, 0, zeroing};
    if (zeroing) CheckZero(slot->p, 0, size);
    Fill(slot);
    CheckPlace(*slot);
  }
  static size_t Alignment(size_t n) { return size_t{1} << n % 17; }

  void Allocate(int how) {
    Block* slot = FreeSlot();
    const int h = SomeHeap();
    const size_t size = bytes_.Size();
    if (slot == nullptr) return;
    mi_heap_t* heap = heaps_[h].heap;
    switch (how) {
      case 0:
        Add(slot, mi_heap_malloc(heap, size), size, h, heaps_[h].is_zero);
        break;
      case 1:
        Add(slot, mi_heap_zalloc(heap, size), size, h, true);
        break;
      case 2:
        Add(slot, mi_heap_malloc_small(heap, size % 1025), size % 1025, h, false);
        break;
      case 3:
        Add(slot, mi_heap_calloc(heap, 3, size), 3 * size, h, true);
        break;
      case 4: {
        const size_t alignment = Alignment(bytes_.Next());
        Add(slot, mi_heap_malloc_aligned(heap, size, alignment), size, h, false, alignment);
        break;
      }
      case 5: {
        const size_t alignment = Alignment(bytes_.Next()), offset = bytes_.Next();
        Add(slot, mi_heap_zalloc_aligned_at(heap, size, alignment, offset), size, h, true, alignment, offset);
        break;
      }
      case 6: {  // in the default heap of the thread
        const int own = defaults_[thread_];
        Add(slot, mi_malloc(size), size, own, heaps_[own].is_zero);
        EXPECT(mi_heap_get_default() == heaps_[own].heap, "the default is heap %d", own);
        break;
      }
      default: {
        mi_theap_t* theap = mi_heap_theap(heap);
        EXPECT(theap != nullptr, "no theap");
        Add(slot, mi_theap_zalloc(theap, size), size, h, true);
        break;
      }
    }
  }

  void Free(int how) {
    Block* b = SomeBlock();
    if (b == nullptr) return;
    CheckContents(*b, b->p, b->extent);
    if (how == 0) {
      mi_free(b->p);
    } else {
      mi_free_size(b->p, b->size);
    }
    b->p = nullptr;
  }

  void Resize(int how) {
    Block* b = SomeBlock();
    const size_t size = bytes_.Size();
    if (b == nullptr) return;
    CheckContents(*b, b->p, b->extent);
    const size_t kept = std::min(b->extent, size);
    const bool zeroing = (how == 1 && b->zeroing);
    uint8_t* p;
    int heap = b->heap;
    switch (how) {
      case 0:
        p = static_cast<uint8_t*>(mi_realloc(b->p, size));
        break;
      case 1:
        p = static_cast<uint8_t*>(mi_rezalloc(b->p, size));
        break;
      case 2: {
        p = static_cast<uint8_t*>(mi_expand(b->p, size));
        if (p == nullptr) return;
        EXPECT(p == b->p, "mi_expand moved %p to %p", b->p, p);
        break;
      }
      default:
        heap = SomeHeap();
        p = static_cast<uint8_t*>(mi_heap_realloc(heaps_[heap].heap, b->p, size));
        if (p == b->p) heap = b->heap;
        break;
    }
    EXPECT(p != nullptr, "no block of %zu bytes", size);
    CheckContents(*b, p, kept);
    if (zeroing && size > b->size) CheckZero(p, b->size, size);
    if (p != b->p) b->born = now_;
    b->p = p;
    b->size = size;
    b->heap = heap;
    b->zeroing = zeroing;
    if (how != 2) b->alignment = 1, b->offset = 0;
    Fill(b);
    CheckPlace(*b);
  }

  // --- heaps
  int SomeHeap() {
    const size_t start = bytes_.Next();
    for (size_t n = 0; n < kHeaps; n++) {
      const int h = static_cast<int>((start + n) % kHeaps);
      if (heaps_[h].heap != nullptr) return h;
    }
    return 0;
  }
  bool IsAbove(int h, int other) const {  // h is `other`, or an ancestor of it
    for (; other >= 0; other = heaps_[other].parent) {
      if (other == h) return true;
    }
    return false;
  }
  void New() {
    int h = 1;
    while (h < kHeaps && heaps_[h].heap != nullptr) h++;
    const uint8_t kind = bytes_.Next();
    const int parent = SomeHeap();
    if (h == kHeaps) return;
    mi_heap_config_t config;
    memset(&config, 0, sizeof(config));
    config.size = sizeof(config);
    if ((kind & 4) != 0) config.flags |= MI_HEAP_ZERO;
    if ((kind & 8) != 0) config.flags |= MI_HEAP_GUARDED;
    if ((kind & 3) == 3) config.flags |= MI_HEAP_HARDENED;
    if ((kind & 67) == 66) config.flags |= MI_HEAP_QUARANTINE | MI_HEAP_WIPE;
    if ((kind & 16) != 0) config.name = "fuzzed";
    if ((kind & 32) != 0 && parent != 0) config.parent = heaps_[parent].heap;
    if ((kind & 192) == 192) config.retain = 65536;
    heaps_[h] = Heap{};
    heaps_[h].heap = ((kind & 3) == 0 ? mi_heap_new() : mi_heap_new_with(&config));
    EXPECT(heaps_[h].heap != nullptr, "no heap");
    if ((kind & 3) == 0) return;
    if ((kind & 8) != 0) mi_heap_guarded_set_sample_rate(heaps_[h].heap, 1 + bytes_.Next(8), 1);
    heaps_[h].is_zero = (kind & 4) != 0;
    if (config.parent != nullptr) {
      heaps_[h].parent = parent;
      heaps_[h].joined = now_;
    }
  }
  // The heap is gone: destroyed with its blocks and descendants.
  void Drop(int h) {
    for (int i = 1; i < kHeaps; i++) {
      if (heaps_[i].heap != nullptr && heaps_[i].parent == h) Drop(i);
    }
    DropBlocks(h, 0);
    Forget(h);
  }
  void Forget(int h) {
    heaps_[h] = Heap{};
    for (int& own : defaults_) {
      if (own == h) own = 0;
    }
  }
  bool IsDefaultOfOthers(int h) const {
    for (int t = 0; t < 3; t++) {
      if (t != thread_ && defaults_[t] == h) return true;
    }
    return false;
  }
  void DropBlocks(int h, uint64_t since) {
    for (Block& b : blocks_) {
      if (b.heap == h && b.born > since) b.p = nullptr;
    }
  }
  void MoveChildren(int h, int to) {
    for (Heap& heap : heaps_) {
      if (heap.heap == nullptr || heap.parent != h) continue;
      heap.parent = to;
      heap.joined = now_;
    }
  }
  void MoveBlocks(int h, int to) {
    for (Block& b : blocks_) {
      if (b.p == nullptr || b.heap != h) continue;
      b.heap = to;
      b.born = now_;
    }
  }

  void EndHeap(int how) {
    const int h = SomeHeap(), other = SomeHeap();
    if (h == 0) return;
    for (const Block& b : blocks_) {
      if (b.p != nullptr && b.heap == h) CheckContents(b, b.p, b.extent);
    }
    switch (how) {
      case 0:
        mi_heap_destroy(heaps_[h].heap);
        Drop(h);
        break;
      case 1:
        if (IsDefaultOfOthers(h)) return;
        mi_heap_delete(heaps_[h].heap);
        MoveChildren(h, heaps_[h].parent);
        MoveBlocks(h, 0);
        Forget(h);
        break;
      case 2:
        if (IsDefaultOfOthers(h) || h == other) return;
        mi_heap_merge(heaps_[h].heap, heaps_[other].heap);
        if (IsAbove(h, other)) {  // into a descendant, which takes its place
          heaps_[other].parent = heaps_[h].parent;
          heaps_[other].joined = now_;
        }
        MoveChildren(h, other == 0 ? heaps_[h].parent : other);
        MoveBlocks(h, other);
        Forget(h);
        break;
      default:
        mi_heap_reset(heaps_[h].heap);
        for (int i = 1; i < kHeaps; i++) {
          if (heaps_[i].heap != nullptr && heaps_[i].parent == h) Drop(i);
        }
        DropBlocks(h, 0);
        heaps_[h].marks.clear();
        break;
    }
  }

  void SetParent() {
    const int h = SomeHeap(), parent = SomeHeap();
    if (h == 0 || IsAbove(h, parent)) return;
    EXPECT(mi_heap_set_parent(heaps_[h].heap, parent == 0 ? nullptr : heaps_[parent].heap), "heap %d to %d", h, parent);
    const int former = heaps_[h].parent;
    heaps_[h].parent = (parent == 0 ? -1 : parent);
    if (heaps_[h].parent != former) heaps_[h].joined = now_;  // else nothing happens: marks of the parent stay older
  }

  void MarkOrRewind(int how) {
    const int h = SomeHeap();
    Heap& heap = heaps_[h];
    if (h == 0) return;
    if (how == 0) {
      if (heap.marks.size() >= 6) return;
      heap.marks.push_back(Mark{mi_heap_mark(heap.heap), now_});
      EXPECT(heap.marks.back().mark.serial != 0, "no mark");
      return;
    }
    if (heap.marks.empty()) return;
    const size_t n = bytes_.Next(heap.marks.size());
    const Mark mark = heap.marks[n];
    if (how == 1) {
      EXPECT(mi_heap_rewind(heap.heap, mark.mark), "mark %zu of heap %d", n, h);
      for (int i = 1; i < kHeaps; i++) {
        if (heaps_[i].heap != nullptr && heaps_[i].parent == h && heaps_[i].joined > mark.at) Drop(i);
      }
      DropBlocks(h, mark.at);
      heap.marks.resize(n + 1);
    } else {
      EXPECT(mi_heap_unmark(heap.heap, mark.mark), "mark %zu of heap %d", n, h);
      heap.marks.resize(n);
    }
  }

  // --- looking
  struct Seen {
    std::vector<std::pair<uint8_t*, size_t>> blocks;
  };
  static bool See(const mi_heap_t*, const mi_heap_area_t*, void* block, size_t size, void* arg) {
    if (block != nullptr) static_cast<Seen*>(arg)->blocks.emplace_back(static_cast<uint8_t*>(block), size);
    return true;
  }
  void Visit(int h) {
    Seen seen;
    EXPECT(mi_heap_visit_blocks(heaps_[h].heap, true, See, &seen), "visit of heap %d", h);
    std::sort(seen.blocks.begin(), seen.blocks.end());
    size_t count = 0;
    for (const Block& b : blocks_) {
      if (b.p == nullptr || b.heap != h) continue;
      count++;
      auto after = std::upper_bound(seen.blocks.begin(), seen.blocks.end(), std::make_pair(b.p, SIZE_MAX));
      EXPECT(after != seen.blocks.begin(), "block %p of heap %d was not shown", b.p, h);
      --after;
      EXPECT(b.p + b.size <= after->first + after->second, "block %p of heap %d was not shown", b.p, h);
    }
    EXPECT(seen.blocks.size() == count, "heap %d: %zu blocks were shown of %zu", h, seen.blocks.size(), count);
  }
  void CheckAll() {
    for (const Block& b : blocks_) {
      if (b.p == nullptr) continue;
      CheckContents(b, b.p, b.extent);
      CheckPlace(b);
    }
    for (int h = 0; h < kHeaps; h++) {
      if (heaps_[h].heap == nullptr) continue;
      EXPECT(mi_heap_check(heaps_[h].heap), "check of heap %d", h);
      EXPECT(mi_heap_parent(heaps_[h].heap) == (heaps_[h].parent < 0 ? nullptr : heaps_[heaps_[h].parent].heap),
             "parent of heap %d", h);
      Visit(h);
    }
  }

  void Call(int code) {
    if (code < 20) return Allocate(code < 12 ? code % 3 : code - 12);
    if (code < 30) return Free(code % 2);
    if (code < 38) return Resize(code % 4);
    if (code < 44) return New();
    if (code < 48) return EndHeap(code - 44);
    if (code < 54) return MarkOrRewind(code % 3);
    switch (code) {
      case 54:
        return SetParent();
      case 55: {
        const int h = SomeHeap();
        Visit(h);
        EXPECT(mi_heap_check(heaps_[h].heap), "check of heap %d", h);
        return;
      }
      case 56:
        return CheckAll();
      case 57:
        return mi_collect(bytes_.Next() % 2 != 0);
      case 58:
        return mi_heap_collect(heaps_[SomeHeap()].heap, bytes_.Next() % 2 != 0);
      case 59: {
        const int h = SomeHeap();
        EXPECT(mi_heap_set_default(heaps_[h].heap) != nullptr, "no former default");
        defaults_[thread_] = h;
        return;
      }
      case 60: {
        Block* slot = FreeSlot();
        const int h = SomeHeap();
        if (slot == nullptr) return;
        const char* text = "a string that is copied";
        char* copy = mi_heap_strdup(heaps_[h].heap, text);
        EXPECT(copy != nullptr && strcmp(copy, text) == 0, "copy");
        Add(slot, copy, strlen(text) + 1, h, false);
        return;
      }
      default:  // what must be refused and change nothing
        if (const uintptr_t at = bytes_.Next() * 8; !kSecure) mi_free(reinterpret_cast<void*>(at));
        EXPECT(mi_heap_malloc(heaps_[SomeHeap()].heap, too_large_ - bytes_.Next()) == nullptr, "a block of that size");
        return;
    }
  }

  void End() {
    mi_heap_set_default(mi_heap_main());
    for (int h = 1; h < kHeaps; h++) {
      if (heaps_[h].heap == nullptr || heaps_[h].parent >= 0) continue;
      mi_heap_destroy(heaps_[h].heap);
      Drop(h);
    }
    for (Block& b : blocks_) {
      if (b.p != nullptr) mi_free(b.p);
      b.p = nullptr;
    }
    for (auto& worker : workers_) worker.reset();
    mi_collect(true);
    Visit(0);
    EXPECT(mi_heap_check(heaps_[0].heap), "check of the main heap");
  }

  Bytes& bytes_;
  const volatile size_t too_large_ = SIZE_MAX;
  uint64_t now_ = 0;
  Heap heaps_[kHeaps];
  Block blocks_[kBlocks];
  int thread_ = 0;               // whose turn it is: 0 or 1 + a worker's number
  int defaults_[3] = {0, 0, 0};  // of each thread
  std::unique_ptr<Worker> workers_[2];
};

void Ignore(const char*, void*) {}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const bool quiet = (mi_register_output(Ignore, nullptr), getenv("FUZZ_SHOW") == nullptr);
  if (!quiet) mi_register_output(nullptr, nullptr);
  Bytes bytes(data, size);
  std::make_unique<Model>(&bytes)->Run();
  return 0;
}
