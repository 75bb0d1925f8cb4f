// Programs with a part of a process's life each, by name: exit code 0 is good. life_test.sh runs them with malloc
// itself overridden (the library preloaded, linked in, and linked in without any shared library), and with PLAIN
// through the names with mi_.
//
// Usage: life NAME
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <initializer_list>
#include <thread>

#ifdef PLAIN
#include "mi/mimalloc.h"
#else
extern "C" __attribute__((weak)) bool mi_is_in_heap_region(const void* p);
extern "C" __attribute__((weak)) void mi_collect(bool force);
#endif

extern char** environ;

namespace {

#ifdef PLAIN
void* Allocate(size_t size) { return mi_malloc(size); }
void Free(void* p) { mi_free(p); }
#else
void* Allocate(size_t size) { return malloc(size); }
void Free(void* p) { free(p); }
#endif

[[noreturn]] void Fail(const char* what, int line) {
  char text[300];
  const int length = snprintf(text, sizeof(text), "life: line %d: %s (errno %d)\n", line, what, errno);
  if (write(2, text, static_cast<size_t>(length)) < 0) _exit(2);
  _exit(1);
}
#define CHECK(condition) ((condition) ? (void)0 : Fail(#condition, __LINE__))

// The secure build: what is freed must be a block.
#if defined(MI_SECURE) && MI_SECURE
constexpr bool kSecure = true;
#else
constexpr bool kSecure = false;
#endif

// Random blocks come and go; each is checked when it goes.
class Churn {
 public:
  explicit Churn(uint64_t seed) : state_(seed * 2654435761u + 1) {}
  ~Churn() {
    for (size_t i = 0; i < kBlocks; i++) Drop(i);
  }
  // `may_fail`: where memory is short.
  void Run(int steps, bool may_fail = false) {
    for (int i = 0; i < steps; i++) {
      const size_t at = Next() % kBlocks;
      Drop(at);
      const size_t size = 1 + Next() % (Next() % 16 == 0 ? 200000 : 2000);
      unsigned char* const p = static_cast<unsigned char*>(Allocate(size));
      if (p == nullptr) {
        CHECK(may_fail);
        continue;
      }
      const unsigned char mark = static_cast<unsigned char>(Next());
      p[0] = p[size / 2] = p[size - 1] = mark;
      block_[at] = {p, size, mark};
    }
  }

 private:
  static constexpr size_t kBlocks = 200;
  struct Block {
    unsigned char* p = nullptr;
    size_t size = 0;
    unsigned char mark = 0;
  };
  void Drop(size_t at) {
    Block& b = block_[at];
    if (b.p == nullptr) return;
    CHECK(b.p[0] == b.mark && b.p[b.size / 2] == b.mark && b.p[b.size - 1] == b.mark);
    Free(b.p);
    b.p = nullptr;
  }
  uint64_t Next() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return state_ >> 11;
  }
  uint64_t state_;
  Block block_[kBlocks];
};

void Use(uint64_t seed) {
  Churn churn(seed);
  churn.Run(2000);
}

// --- destructors
// -------------------------------------------------------------------------------------------------------

std::atomic<int> destroyed;

struct Global {
  Global() { Use(1); }
  ~Global() { Use(2); }
};
Global global;

struct PerThread {
  void* block = Allocate(100);
  ~PerThread() {
    Free(block);
    Use(3);
    destroyed++;
  }
};
thread_local PerThread per_thread;

__attribute__((constructor(101))) void Constructor() { Use(4); }
__attribute__((destructor(101))) void Destructor() { Use(5); }

// Handlers of exit, static objects and thread-local objects of the main thread use memory of before and of their own.
void Exit() {
  Use(6);
  CHECK(per_thread.block != nullptr);
  static void* kept[100];
  for (void*& block : kept) block = Allocate(1000);
  CHECK(atexit([] {
          for (void* block : kept) Free(block);
          Use(7);
        }) == 0);
  CHECK(on_exit([](int, void* block) { Free(block); }, Allocate(50)) == 0);
}

void QuickExit() {
  static void* kept = Allocate(100);
  CHECK(at_quick_exit([] {
          Free(kept);
          Use(8);
        }) == 0);
  quick_exit(0);
}

// The main thread ends first; another ends the process.
void MainThreadEnds() {
  std::thread([main = pthread_self()] {
    CHECK(pthread_join(main, nullptr) == 0);
    Use(9);
    exit(0);
  }).detach();
  CHECK(per_thread.block != nullptr);
  pthread_exit(nullptr);
}

// Thread-local objects of C++ and keys of pthread, made before and after the library's first use in the thread, each of
// which allocates in its destructor, in every round.
pthread_key_t early_key, late_key;

void KeyDestructor(pthread_key_t key, void* value) {
  const uintptr_t round = reinterpret_cast<uintptr_t>(value);
  Use(round);
  destroyed++;
  if (round < PTHREAD_DESTRUCTOR_ITERATIONS) CHECK(pthread_setspecific(key, reinterpret_cast<void*>(round + 1)) == 0);
}

void ThreadDestructors() {
  CHECK(pthread_key_create(&early_key, [](void* value) { KeyDestructor(early_key, value); }) == 0);
  Use(1);
  CHECK(pthread_key_create(&late_key, [](void* value) { KeyDestructor(late_key, value); }) == 0);
  constexpr int kThreads = 200;
  for (int i = 0; i < kThreads; i++) {
    std::thread([i] {
      if (i % 3 != 0) Use(i);
      CHECK(pthread_setspecific(early_key, reinterpret_cast<void*>(uintptr_t{1})) == 0);
      CHECK(pthread_setspecific(late_key, reinterpret_cast<void*>(uintptr_t{1})) == 0);
      if (i % 2 != 0) CHECK(per_thread.block != nullptr);
    }).join();
  }
  CHECK(destroyed == kThreads * 2 * PTHREAD_DESTRUCTOR_ITERATIONS + kThreads / 2);
}

// Threads go on while the process ends, in the handlers of exit and after them.
void DetachedThreads() {
  static std::atomic<int> started;
  for (int i = 0; i < 4; i++) {
    std::thread([i] {
      Churn churn(i);
      for (;;) {
        churn.Run(100);
        started++;
        if (started % 16 == 0) std::thread([] { Use(1); }).detach();
      }
    }).detach();
  }
  while (started < 40) sched_yield();
}

// --- other processes
// ------------------------------------------------------------------------------------------------------

void ExpectSuccess(pid_t child) {
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

__attribute__((noinline)) pid_t RunByVfork() {
  const pid_t child = vfork();
  if (child == 0) {
    execl("/bin/true", "true", static_cast<char*>(nullptr));
    _exit(127);
  }
  CHECK(child > 0);
  return child;
}

void OtherProcesses() {
  std::atomic<bool> stop{false};
  std::thread others[2];
  for (std::thread& other : others) {
    other = std::thread([&stop] {
      Churn churn(1);
      while (!stop) churn.Run(100);
    });
  }
  Churn mine(2);
  for (int i = 0; i < 20; i++) {
    mine.Run(200);
    ExpectSuccess(RunByVfork());
    pid_t spawned;
    const char* const arguments[] = {"sh", "-c", "x=$(echo 17); test $x = 17", nullptr};
    CHECK(posix_spawn(&spawned, "/bin/sh", nullptr, nullptr, const_cast<char**>(arguments), environ) == 0);
    ExpectSuccess(spawned);
    CHECK(system("exit 3") >> 8 == 3);
    FILE* const pipe = popen("echo one; echo two", "r");
    CHECK(pipe != nullptr);
    char line[16];
    CHECK(fgets(line, sizeof(line), pipe) != nullptr && strcmp(line, "one\n") == 0);
    CHECK(fgets(line, sizeof(line), pipe) != nullptr && strcmp(line, "two\n") == 0);
    CHECK(fgets(line, sizeof(line), pipe) == nullptr);
    CHECK(pclose(pipe) == 0);
  }
  stop = true;
  for (std::thread& other : others) other.join();
}

// --- signals
// -------------------------------------------------------------------------------------------------------------

std::atomic<int> signals;

void Signals() {
  struct sigaction action = {};
  action.sa_handler = [](int) {
    errno = 99;  // restored by nobody: the program's business; a handler as programs have them does this
    signals++;
  };
  action.sa_flags = SA_RESTART;
  CHECK(sigaction(SIGALRM, &action, nullptr) == 0);
  itimerval timer = {};
  timer.it_interval.tv_usec = timer.it_value.tv_usec = 200;
  CHECK(setitimer(ITIMER_REAL, &timer, nullptr) == 0);
  std::thread other([] {
    Churn churn(1);
    while (signals < 2000) churn.Run(50);
  });
  Churn churn(2);
  while (signals < 2000) churn.Run(50);
  other.join();
  timer = {};
  CHECK(setitimer(ITIMER_REAL, &timer, nullptr) == 0);
}

// --- limits
// --------------------------------------------------------------------------------------------------------------

// Takes blocks until there is no memory, gives them back, and does it again: as much as before.
size_t Fill(size_t size) {
  struct Link {
    Link* next;
  };
  Link* blocks = nullptr;
  size_t total = 0;
  for (;;) {
    errno = 0;
    Link* const block = static_cast<Link*>(Allocate(size));
    if (block == nullptr) break;
    memset(static_cast<void*>(block), 0x5a, size);
    block->next = blocks;
    blocks = block;
    total += size;
    CHECK(total < size_t{64} << 20);
  }
  CHECK(errno == ENOMEM);
  CHECK(Allocate(size_t{1} << 34) == nullptr && errno == ENOMEM);
  while (blocks != nullptr) {
    Link* const next = blocks->next;
    for (size_t i = sizeof(Link); i < size; i += 512) {
      CHECK(reinterpret_cast<unsigned char*>(blocks)[i] == 0x5a);
    }
    Free(blocks);
    blocks = next;
  }
  return total;
}

void Limited(size_t at_least) {
  for (int round = 0; round < 3; round++) {
    for (size_t size : {64u, 1000u, 20000u, 100000u, 1000000u}) {
      const size_t got = Fill(size);
      if (got < at_least) {
        fprintf(stderr, "life: blocks of %zu bytes, round %d: %zu bytes in all\n", size, round, got);
        Fail("too little memory under the limit", __LINE__);
      }
      Use(1);
    }
  }
}

// Run with RLIMIT_AS or RLIMIT_DATA of 64 MiB.
void Limit() {
  rlimit space, data;
  CHECK(getrlimit(RLIMIT_AS, &space) == 0 && getrlimit(RLIMIT_DATA, &data) == 0);
  CHECK(space.rlim_cur == 64u << 20 || data.rlim_cur == 64u << 20);
  Limited(24u << 20);
}

// The limit comes when the library has reserved its space already.
void LateLimit() {
  Use(1);
  rlimit limit = {};
  limit.rlim_cur = limit.rlim_max = 64u << 20;
  CHECK(setrlimit(RLIMIT_DATA, &limit) == 0);
  Limited(24u << 20);
}

void LateSpaceLimit() {
  Use(1);
  rlimit limit = {};
  limit.rlim_cur = limit.rlim_max = 64u << 20;
  CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
  Limited(24u << 20);
}

// What counts under vm.overcommit_memory=2: private mappings that may be written. They follow what is used; the
// reservation does not count.
void Overcommit() {
  Use(1);
  const auto writable = [](size_t* reserved) {
    FILE* const maps = fopen("/proc/self/maps", "r");
    CHECK(maps != nullptr);
    char line[512];
    size_t total = 0;
    *reserved = 0;
    while (fgets(line, sizeof(line), maps) != nullptr) {
      unsigned long start, end;
      char mode[8];
      CHECK(sscanf(line, "%lx-%lx %7s", &start, &end, mode) == 3);
      if (mode[1] == 'w' && mode[3] == 'p') total += end - start;
      if (mode[1] != 'w' && end - start >= size_t{1} << 30) *reserved += end - start;
    }
    fclose(maps);
    return total;
  };
  size_t reserved;
  const size_t before = writable(&reserved);
  CHECK(reserved >= size_t{1} << 30);
  CHECK(before <= 48u << 20);  // the stack, libraries' data, the arena's header and the first segments
  void* const block = Allocate(100u << 20);
  const size_t with = writable(&reserved);
  CHECK(with >= before + (96u << 20) && with <= before + (112u << 20));
  Free(block);
}

// --- poor surroundings
// ---------------------------------------------------------------------------------------------------

void FreeForeign() {
  static char foreign[64];
  void* p = foreign + 16;
  __asm__ volatile("" : "+r"(p) : : "memory");
  Free(p);
}

// The same in a child, which ends by abort; or by what abort comes to where no signal can be sent (Seccomp).
void ExpectFreeForeignEnds() {
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    const rlimit no_core = {};
    syscall(SYS_setrlimit, RLIMIT_CORE, &no_core);
    FreeForeign();
    _exit(0);
  }
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child);
  const bool is_denied = syscall(SYS_sched_yield) != 0;
  CHECK(WIFSIGNALED(status) && WTERMSIG(status) == (is_denied ? SIGSEGV : SIGABRT));
}

void Ordinary() {
  Use(1);
  std::thread([] { Use(2); }).join();
  // Errors have messages; where they go, nobody may be.
  if (kSecure) {
    ExpectFreeForeignEnds();
  } else {
    FreeForeign();
  }
  CHECK(Allocate(size_t{1} << 60) == nullptr);
}

void NoStandardStreams() {
  for (int file = 0; file < 3; file++) CHECK(fcntl(file, F_GETFD) == -1 && errno == EBADF);
  Ordinary();
}

// Calls that are a help, but that one can live without, are denied; or, with `all`, everything that is not needed to
// run at all, memory included, once there is some.
void Seccomp() {
  static const int denied[] = {SYS_madvise, SYS_sysinfo,       SYS_getrlimit,    SYS_prlimit64, SYS_sched_yield,
                               SYS_getpid,  SYS_gettid,        SYS_tgkill,       SYS_prctl,     SYS_openat,
                               SYS_open,    SYS_readlink,      SYS_readlinkat,   SYS_getrandom, SYS_getrusage,
                               SYS_brk,     SYS_clock_gettime, SYS_memfd_create, SYS_getcpu,    SYS_sched_getaffinity,
                               SYS_mbind,   SYS_newfstatat,    SYS_fstat,        SYS_ioctl};
  constexpr size_t kDenied = sizeof(denied) / sizeof(denied[0]);
  sock_filter filter[2 * kDenied + 2];
  size_t n = 0;
  filter[n++] = BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr));
  for (int number : denied) {
    filter[n++] = BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<unsigned>(number), 0, 1);
    filter[n++] = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM);
  }
  filter[n++] = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
  const sock_fprog program = {static_cast<unsigned short>(n), filter};
  CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
  CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
  CHECK(syscall(SYS_sched_yield) == -1 && errno == EPERM);
}

void Denied() {
  Seccomp();
  Ordinary();
  for (int i = 0; i < 20; i++) {
    void* const large = Allocate(3000000);
    CHECK(large != nullptr);
    memset(large, 1, 3000000);
    Free(large);
  }
  for (int i = 0; i < 50; i++) std::thread([] { Use(2); }).join();
  mi_collect(true);
  Use(3);
}

// Denies, then becomes the program anew: its first use of the library comes with everything denied.
void DeniedFromTheStart(char** argv) {
  Seccomp();
  char name[] = "ordinary";
  char* const arguments[] = {argv[0], name, nullptr};
  execv(argv[0], arguments);
  Fail("execv", __LINE__);
}

// Mappings of the program until the system allows no more.
void MapsExhausted() {
  Churn churn(1);
  churn.Run(1000);
  constexpr size_t kPage = 4096;
  constexpr size_t kPages = size_t{1} << 18;
  char* const area =
      static_cast<char*>(mmap(nullptr, kPages * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  CHECK(area != MAP_FAILED);
  size_t split = 1;
  while (split < kPages && mprotect(area + split * kPage, kPage, PROT_READ) == 0) split += 2;
  CHECK(split < kPages && errno == ENOMEM);
  void* blocks[64];
  for (size_t i = 0; i < 64; i++) {  // beyond what is mapped already, some of it
    blocks[i] = Allocate(i << 20);
    if (blocks[i] != nullptr) memset(blocks[i], 1, (i << 20) < 1000 ? 0 : 1000);
    churn.Run(200, true);
  }
  for (void* block : blocks) Free(block);
  CHECK(munmap(area, kPages * kPage) == 0);
  churn.Run(1000);
  Free(Allocate(size_t{1} << 30));
  std::thread([] { Use(2); }).join();
}

struct Scenario {
  const char* name;
  void (*run)();
};

const Scenario scenarios[] = {
    {"exit", Exit},
    {"quick_exit", QuickExit},
    {"main_thread_ends", MainThreadEnds},
    {"thread_destructors", ThreadDestructors},
    {"detached_threads", DetachedThreads},
    {"other_processes", OtherProcesses},
    {"signals", Signals},
    {"limit", Limit},
    {"late_limit", LateLimit},
    {"late_space_limit", LateSpaceLimit},
    {"overcommit", Overcommit},
    {"ordinary", Ordinary},
    {"no_standard_streams", NoStandardStreams},
    {"denied", Denied},
    {"maps_exhausted", MapsExhausted},
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
#ifndef PLAIN
  void* const block = Allocate(10);
  if (mi_is_in_heap_region == nullptr || !mi_is_in_heap_region(block)) Fail("malloc is not the library's", __LINE__);
  Free(block);
#endif
  if (strcmp(argv[1], "denied_from_the_start") == 0) DeniedFromTheStart(argv);
  for (const Scenario& scenario : scenarios) {
    if (strcmp(argv[1], scenario.name) != 0) continue;
    scenario.run();
    return 0;
  }
  fprintf(stderr, "life: no such scenario: %s\n", argv[1]);
  return 2;
}
