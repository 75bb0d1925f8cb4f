// What the suites of the public API share: random numbers with a printable seed, content patterns, a recorder for
// the library's errors and messages, threads that run one task at a time, barriers, child processes, and figures
// from /proc. Header only; holds no tests. Nothing here allocates through the library, and whatever is registered with
// it (recorders) is taken away again by a destructor.
#ifndef MI_TESTS_TEST_SUPPORT_H_
#define MI_TESTS_TEST_SUPPORT_H_

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "mi/mimalloc.h"

namespace mi_test {

// ---- the build ------------------------------------------------------------------------------------------

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define MI_TEST_ASAN 1
#endif
#if __has_feature(thread_sanitizer)
#define MI_TEST_TSAN 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define MI_TEST_ASAN 1
#endif
#if defined(__SANITIZE_THREAD__)
#define MI_TEST_TSAN 1
#endif

#ifdef MI_TEST_ASAN
inline constexpr bool kAsan = true;
#else
inline constexpr bool kAsan = false;
#endif
#ifdef MI_TEST_TSAN
inline constexpr bool kTsan = true;
#else
inline constexpr bool kTsan = false;
#endif
inline constexpr bool kSanitized = kAsan || kTsan;

#ifdef MI_TEST_SOAK
inline constexpr bool kSoak = true;
#else
inline constexpr bool kSoak = false;
#endif

// Build options of the library come along with it as macros.
#ifdef MI_MIN_ALIGN
inline constexpr size_t kMinAlign = MI_MIN_ALIGN;
#else
inline constexpr size_t kMinAlign = 16;
#endif

// Every heap is checked: all pages are bit pages, there are no regions, a block's usable size is what was asked for,
// and misuse ends the program.
#ifdef MI_SECURE
inline constexpr bool kSecure = MI_SECURE != 0;
#else
inline constexpr bool kSecure = false;
#endif

// Why a test is skipped there.
inline constexpr char kMisuseEnds[] = "in the secure build misuse ends the program";
inline constexpr char kNoRegions[] = "in the secure build there are no regions";
inline constexpr char kUsableIsAsked[] = "in the secure build the usable size is what was asked for";
inline constexpr char kNoOrder[] = "in the secure build blocks come in no order that could be told";

// An iteration count: `normal` as a rule, a tenth under a sanitizer, `soak` in the long versions.
inline int Scaled(int normal, int soak = 0) {
  if (kSoak && soak > 0) return soak;
  return kSanitized ? std::max(1, normal / 10) : normal;
}

inline constexpr size_t kKiB = 1024;
inline constexpr size_t kMiB = 1024 * kKiB;
inline constexpr size_t kGiB = 1024 * kMiB;

// Hides a value from the compiler, so that arguments that are wrong on purpose do not become warnings and
// allocations whose result is dropped are not optimised away.
template <typename T>
T Opaque(T value) {
  asm volatile("" : "+r"(value) : : "memory");
  return value;
}

// ---- random numbers -------------------------------------------------------------------------------------

inline uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

class Random {
 public:
  explicit Random(uint64_t seed) : state_(Mix(seed)) {}
  uint64_t Next() {
    state_ += 0x9e3779b97f4a7c15u;
    return Mix(state_);
  }
  // 0 <= result < bound
  size_t Below(size_t bound) { return bound == 0 ? 0 : static_cast<size_t>(Next() % bound); }
  // low <= result <= high
  size_t Between(size_t low, size_t high) { return low + Below(high - low + 1); }
  bool OneIn(size_t n) { return Below(n) == 0; }

 private:
  uint64_t state_;
};

// ---- content patterns -----------------------------------------------------------------------------------

inline uint64_t PatternWord(uint64_t seed, size_t index) { return Mix(seed + index * 0x2545f4914f6cdd1du); }

// Small blocks are filled completely; large ones in their first 64 KiB, one word per 4 KiB and the last word. The
// pattern of a position depends on the seed and the position only, so that a prefix survives realloc.
inline constexpr size_t kFullPattern = 64 * kKiB;

inline void FillBytes(void* p, size_t begin, size_t end, uint64_t seed) {
  unsigned char* bytes = static_cast<unsigned char*>(p);
  size_t i = begin;
  for (; i < end && i % 8 != 0; i++) bytes[i] = static_cast<unsigned char>(PatternWord(seed, i / 8) >> (8 * (i % 8)));
  for (; i + 8 <= end; i += 8) {
    uint64_t word = PatternWord(seed, i / 8);
    memcpy(bytes + i, &word, 8);
  }
  for (; i < end; i++) bytes[i] = static_cast<unsigned char>(PatternWord(seed, i / 8) >> (8 * (i % 8)));
}

// The first position at which [begin, end) differs from the pattern, or `end`.
inline size_t FindDifference(const void* p, size_t begin, size_t end, uint64_t seed) {
  const unsigned char* bytes = static_cast<const unsigned char*>(p);
  size_t i = begin;
  while (i < end) {
    if (i % 8 == 0 && i + 8 <= end) {
      uint64_t word;
      memcpy(&word, bytes + i, 8);
      if (word == PatternWord(seed, i / 8)) {
        i += 8;
        continue;
      }
    }
    if (bytes[i] != static_cast<unsigned char>(PatternWord(seed, i / 8) >> (8 * (i % 8)))) return i;
    i++;
  }
  return end;
}

inline void Fill(void* p, size_t size, uint64_t seed) {
  FillBytes(p, 0, std::min(size, kFullPattern), seed);
  if (size <= kFullPattern) return;
  for (size_t at = kFullPattern; at + 8 <= size; at += 4 * kKiB) FillBytes(p, at, at + 8, seed);
  FillBytes(p, size - 8, size, seed);
}

// Checks the pattern of a block that was filled with `filled` bytes, as far as it now has `size` bytes.
inline ::testing::AssertionResult Holds(const void* p, size_t filled, uint64_t seed, size_t size = SIZE_MAX) {
  size_t length = std::min(filled, size);
  size_t at = FindDifference(p, 0, std::min(length, kFullPattern), seed);
  bool good = at == std::min(length, kFullPattern);
  for (size_t word = kFullPattern; good && word + 8 <= length; word += 4 * kKiB) {
    at = FindDifference(p, word, word + 8, seed);
    good = at == word + 8;
  }
  if (good && filled > kFullPattern && size >= filled) {
    at = FindDifference(p, filled - 8, filled, seed);
    good = at == filled;
  }
  if (good) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "contents of the block at " << p << " (" << filled
                                       << " bytes) differ at offset " << at;
}

// The first byte of [begin, end) that is not `value`, or `end`.
inline size_t FindOther(const void* p, size_t begin, size_t end, unsigned char value) {
  const unsigned char* bytes = static_cast<const unsigned char*>(p);
  for (size_t i = begin; i < end; i++) {
    if (bytes[i] != value) return i;
  }
  return end;
}

inline ::testing::AssertionResult IsZero(const void* p, size_t begin, size_t end) {
  size_t at = FindOther(p, begin, end, 0);
  if (at == end) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "byte " << at << " of the block at " << p << " is not zero ([" << begin
                                       << ", " << end << ") should be)";
}

inline bool IsAligned(const void* p, size_t alignment, size_t offset = 0) {
  return (reinterpret_cast<uintptr_t>(p) + offset) % alignment == 0;
}

// The alignment that every block of this size has.
inline size_t NaturalAlignment(size_t size) { return size <= 8 ? 8 : kMinAlign; }

// ---- errors and messages --------------------------------------------------------------------------------

// Records what the library reports while it lives. The callbacks do not allocate. One at a time.
class ErrorRecorder {
 public:
  ErrorRecorder() {
    State& s = Get();
    s.errors = 0;
    s.text_used = 0;
    memset(s.text, 0, sizeof(s.text));
    show_errors_ = mi_option_get(mi_option_show_errors);
    max_errors_ = mi_option_get(mi_option_max_errors);
    mi_option_set(mi_option_show_errors, 1);
    mi_option_set(mi_option_max_errors, -1);
    mi_register_error(&OnError, nullptr);
    mi_register_output(&OnOutput, nullptr);
  }
  ~ErrorRecorder() {
    mi_register_error(nullptr, nullptr);
    mi_register_output(nullptr, nullptr);
    mi_option_set(mi_option_show_errors, show_errors_);
    mi_option_set(mi_option_max_errors, max_errors_);
  }
  ErrorRecorder(const ErrorRecorder&) = delete;
  ErrorRecorder& operator=(const ErrorRecorder&) = delete;

  int total() const { return Get().errors.load(); }
  int count(int err) const {
    int n = 0;
    for (int i = 0; i < std::min<int>(total(), kMaxErrors); i++) n += Get().error[i].load() == err;
    return n;
  }
  // The codes, in the order of their arrival.
  std::vector<int> errors() const {
    std::vector<int> result;
    for (int i = 0; i < std::min<int>(total(), kMaxErrors); i++) result.push_back(Get().error[i].load());
    return result;
  }
  // All messages, one after the other.
  std::string text() const { return std::string(Get().text, std::min(Get().text_used.load(), sizeof(Get().text))); }
  void Forget() {
    Get().errors = 0;
    Get().text_used = 0;
  }

 private:
  static constexpr int kMaxErrors = 4096;
  struct State {
    std::atomic<int> errors{0};
    std::atomic<int> error[kMaxErrors];
    std::atomic<size_t> text_used{0};
    char text[64 * 1024];
  };
  static State& Get() {
    static State state;
    return state;
  }
  static void OnError(int err, void*) {
    State& s = Get();
    int at = s.errors.fetch_add(1);
    if (at < kMaxErrors) s.error[at] = err;
  }
  static void OnOutput(const char* msg, void*) {
    State& s = Get();
    size_t length = strlen(msg);
    size_t at = s.text_used.fetch_add(length);
    if (at + length <= sizeof(s.text)) memcpy(s.text + at, msg, length);
  }
  long show_errors_;
  long max_errors_;
};

// ---- threads --------------------------------------------------------------------------------------------

// A thread that runs the tasks that it is given, in order. The destructor ends it.
class Worker {
 public:
  Worker() : thread_([this] { Loop(); }) {}
  ~Worker() { Exit(); }
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // Starts `task` and returns at once.
  void Start(std::function<void()> task) {
    std::lock_guard<std::mutex> lock(mutex_);
    task_.push_back(std::move(task));
    changed_.notify_all();
  }
  // Waits until everything that was started is done.
  void Wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return task_.empty() && !busy_; });
  }
  void Run(std::function<void()> task) {
    Start(std::move(task));
    Wait();
  }
  // Ends the thread, after what was started.
  void Exit() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      ending_ = true;
      changed_.notify_all();
    }
    if (thread_.joinable()) thread_.join();
  }

 private:
  void Loop() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return !task_.empty() || ending_; });
      if (task_.empty()) return;
      std::function<void()> task = std::move(task_.front());
      task_.erase(task_.begin());
      busy_ = true;
      lock.unlock();
      task();
      task = nullptr;
      lock.lock();
      busy_ = false;
      changed_.notify_all();
    }
  }
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::function<void()>> task_;
  bool busy_ = false;
  bool ending_ = false;
  std::thread thread_;
};

// Runs `task` in a thread of its own, which has ended when this returns.
inline void InThread(const std::function<void()>& task) { std::thread(task).join(); }

// Runs task(0) .. task(n - 1) in n threads at once.
inline void InThreads(int n, const std::function<void(int)>& task) {
  std::vector<std::thread> threads;
  for (int i = 0; i < n; i++) threads.emplace_back(task, i);
  for (std::thread& t : threads) t.join();
}

// Runs a task in a thread that then leaves by the system call alone.
inline void InThreadWithoutEnd(const std::function<void()>& task) {
  InThread([&] {
    task();
    syscall(SYS_exit, 0);
  });
}

// A barrier that can be used again and again.
class Barrier {
 public:
  explicit Barrier(int parties) : parties_(parties), missing_(parties) {}
  void Arrive() {
    std::unique_lock<std::mutex> lock(mutex_);
    unsigned round = round_;
    if (--missing_ == 0) {
      missing_ = parties_;
      round_++;
      changed_.notify_all();
      return;
    }
    changed_.wait(lock, [&] { return round_ != round; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  const int parties_;
  int missing_;
  unsigned round_ = 0;
};

// Lines up two threads as closely as spinning can: both leave Meet() at about the same instant.
class SpinMeeting {
 public:
  explicit SpinMeeting(int parties) : parties_(parties) {}
  void Meet() {
    int target = (arrived_.fetch_add(1) / parties_ + 1) * parties_;
    for (int spins = 0; arrived_.load() < target; spins++) {
      if (spins > 200) std::this_thread::yield();
    }
  }

 private:
  const int parties_;
  std::atomic<int> arrived_{0};
};

// ---- the process ----------------------------------------------------------------------------------------

// Resident bytes of this process.
inline size_t ResidentBytes() {
  // The accurate figure: statm may lag behind by some pages per thread.
  int fd = open("/proc/self/smaps_rollup", O_RDONLY | O_CLOEXEC);
  if (fd >= 0) {
    char text[2048];
    ssize_t n = read(fd, text, sizeof(text) - 1);
    close(fd);
    if (n > 0) {
      text[n] = 0;
      const char* rss = strstr(text, "\nRss:");
      if (rss != nullptr) return strtoull(rss + 5, nullptr, 10) * kKiB;
    }
  }
  fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
  char text[256] = {0};
  ssize_t n = read(fd, text, sizeof(text) - 1);
  close(fd);
  char* end = text;
  if (n <= 0) return 0;
  strtoull(text, &end, 10);
  return strtoull(end, nullptr, 10) * static_cast<size_t>(sysconf(_SC_PAGESIZE));
}

// Bytes of address space of this process.
inline size_t AddressSpaceBytes() {
  int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
  char text[256] = {0};
  ssize_t n = read(fd, text, sizeof(text) - 1);
  close(fd);
  return n <= 0 ? 0 : strtoull(text, nullptr, 10) * static_cast<size_t>(sysconf(_SC_PAGESIZE));
}

// Runs `body` in a child process and returns its result (0..255), or minus the signal that ended it. An alarm
// ends a child that hangs.
inline int InChild(const std::function<int()>& body, unsigned seconds = 120) {
  fflush(stdout);
  fflush(stderr);
  pid_t child = fork();
  if (child == 0) {
    alarm(seconds);
    int result = body();
    fflush(stdout);
    fflush(stderr);
    _exit(result);
  }
  if (child < 0) return -1000;
  int status = 0;
  while (waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) return -1001;
  }
  if (WIFSIGNALED(status)) return -WTERMSIG(status);
  return WEXITSTATUS(status);
}

// A deadline, generous by intention: it only turns a hang into a failure.
class Deadline {
 public:
  explicit Deadline(int seconds) : end_(Now() + seconds * (kSanitized ? 5 : 1)) {}
  bool Passed() const { return Now() > end_; }

 private:
  static double Now() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
  }
  double end_;
};

// ---- visiting -------------------------------------------------------------------------------------------

struct Shown {
  void* block;
  size_t size;
  bool operator<(const Shown& other) const { return block < other.block; }
};

// Every live block that a visit of the heap shows, sorted by address. Fails the test if the visit ends early or breaks
// the visitor's contract.
inline std::vector<Shown> BlocksOf(mi_heap_t* heap) {
  struct State {
    const mi_heap_t* heap;
    std::vector<Shown> shown;
    size_t areas = 0;
    size_t foreign = 0;
    size_t outside = 0;
  } state{heap, {}, 0, 0, 0};
  bool complete = mi_heap_visit_blocks(
      heap, true,
      [](const mi_heap_t* h, const mi_heap_area_t* area, void* block, size_t size, void* arg) {
        State* s = static_cast<State*>(arg);
        if (h != s->heap) s->foreign++;
        if (area == nullptr) {
          s->outside++;
          return true;
        }
        if (block == nullptr) {
          s->areas++;
          return true;
        }
        uintptr_t start = reinterpret_cast<uintptr_t>(area->blocks);
        uintptr_t at = reinterpret_cast<uintptr_t>(block);
        if (at < start || at + size > start + area->reserved) s->outside++;
        s->shown.push_back({block, size});
        return true;
      },
      &state);
  EXPECT_TRUE(complete) << "the visit ended early";
  EXPECT_EQ(state.foreign, 0u) << "areas shown of another heap";
  EXPECT_EQ(state.outside, 0u) << "blocks shown outside their area";
  if (!state.shown.empty()) {
    EXPECT_GT(state.areas, 0u);
  }
  std::sort(state.shown.begin(), state.shown.end());
  return state.shown;
}

inline size_t CountBlocks(mi_heap_t* heap) { return BlocksOf(heap).size(); }

// Are the shown blocks exactly `expected` (in any order)? A block that was aligned with an offset may be shown from its
// start, before the address that the program got: such pointers are given apart, in `inside`, and are matched by
// the block that contains them. All others must be shown at exactly their address.
inline ::testing::AssertionResult ShowsExactly(mi_heap_t* heap, const std::vector<void*>& expected,
                                               const std::vector<void*>& inside = {}) {
  const std::vector<Shown> shown = BlocksOf(heap);
  std::vector<bool> met(shown.size(), false);
  size_t missing = 0, surplus = 0;
  void* first_missing = nullptr;
  void* first_surplus = nullptr;
  auto look_for = [&](void* p, bool exactly) {
    auto it = std::upper_bound(shown.begin(), shown.end(), Shown{p, 0});
    if (it != shown.begin()) {
      --it;
      const size_t offset = static_cast<size_t>(static_cast<char*>(p) - static_cast<char*>(it->block));
      const size_t index = static_cast<size_t>(it - shown.begin());
      if ((exactly ? offset == 0 : offset <= it->size) && !met[index]) {
        met[index] = true;
        return;
      }
    }
    if (missing++ == 0) first_missing = p;
  };
  for (void* p : expected) look_for(p, true);
  for (void* p : inside) look_for(p, false);
  for (size_t i = 0; i < shown.size(); i++) {
    if (!met[i] && surplus++ == 0) first_surplus = shown[i].block;
  }
  if (missing == 0 && surplus == 0) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "of " << expected.size() + inside.size() << " blocks " << missing
                                       << " are not shown (the first: " << first_missing << "); " << surplus
                                       << " are shown that should not be (the first: " << first_surplus << ")";
}

// ---- sizes ----------------------------------------------------------------------------------------------

// Random sizes as programs have them: mostly small, now and then large, rarely several MiB.
inline size_t RandomSize(Random& random, size_t largest = 6 * kMiB) {
  size_t kind = random.Below(1000);
  size_t size;
  if (kind < 20) {
    size = random.Below(17);
  } else if (kind < 650) {
    size = random.Between(16, 512);
  } else if (kind < 900) {
    size = random.Between(512, 8 * kKiB);
  } else if (kind < 980) {
    size = random.Between(8 * kKiB, 80 * kKiB);
  } else if (kind < 998) {
    size = random.Between(80 * kKiB, kMiB);
  } else {
    size = random.Between(kMiB, 6 * kMiB);
  }
  return std::min(size, largest);
}

}  // namespace mi_test

#endif  // MI_TESTS_TEST_SUPPORT_H_
