// What the tests of isolated and secret heaps share: making them, accesses that may fault, programs that must end with
// a message, and system calls that are refused. Header only; holds no tests.
#ifndef MI_TESTS_APART_SUPPORT_H_
#define MI_TESTS_APART_SUPPORT_H_

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <setjmp.h>
#include <signal.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "mi/mimalloc.h"
#include "tests/test_support.h"

#ifndef SYS_memfd_secret
#define SYS_memfd_secret 447
#endif

namespace mi_test {

inline mi_heap_t* NewApart(uint32_t flags, const char* name = "apart", mi_protections_t required = 0) {
  mi_heap_config_t config{};
  config.size = sizeof(config);
  config.name = name;
  config.flags = flags;
  config.required = required;
  return mi_heap_new_with(&config);
}

// ---- access ---------------------------------------------------------------------------------------------

inline sigjmp_buf& FaultJump() {
  static sigjmp_buf jump;
  return jump;
}

// Does this access fault? One at a time.
inline bool Faults(void* p, bool write) {
  struct sigaction action {};
  struct sigaction former_segv, former_bus;
  action.sa_handler = [](int) { siglongjmp(FaultJump(), 1); };
  sigaction(SIGSEGV, &action, &former_segv);
  sigaction(SIGBUS, &action, &former_bus);
  bool faulted = true;
  if (sigsetjmp(FaultJump(), 1) == 0) {
    volatile char* const at = static_cast<volatile char*>(p);
    const char value = *at;
    if (write) *at = value;
    faulted = false;
  }
  sigaction(SIGSEGV, &former_segv, nullptr);
  sigaction(SIGBUS, &former_bus, nullptr);
  return faulted;
}
inline bool CanRead(void* p) { return !Faults(p, false); }
inline bool CanWrite(void* p) { return !Faults(p, true); }

// Runs `body` in a child, which must abort after it printed something that contains `message`.
inline ::testing::AssertionResult Aborts(const std::function<void()>& body, const std::string& message) {
  int ends[2];
  if (pipe(ends) != 0) return ::testing::AssertionFailure() << "no pipe";
  const int result = InChild([&] {
    dup2(ends[1], STDERR_FILENO);
    signal(SIGABRT, SIG_DFL);
    rlimit no_core{0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    body();
    return 0;
  });
  close(ends[1]);
  std::string text;
  char buffer[4096];
  for (ssize_t n; (n = read(ends[0], buffer, sizeof(buffer))) > 0;) text.append(buffer, static_cast<size_t>(n));
  close(ends[0]);
  if (result == -SIGABRT && text.find(message) != std::string::npos) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "result " << result << ", printed: " << text;
}

// ---- a system that refuses --------------------------------------------------------------------------------

// From here on the calling process's system call `number` fails with `error`.
inline bool RefuseCall(long number, int error) {
  sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<unsigned>(number), 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<unsigned>(error)),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  sock_fprog program{sizeof(code) / sizeof(code[0]), code};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

// May the process lock as much as it likes, whatever its limit says?
inline bool MayLockAnything() {
  rlimit limit;
  if (getrlimit(RLIMIT_MEMLOCK, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return true;
  const size_t size = limit.rlim_cur + 64 * kKiB;
  void* p = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  const bool may = p != MAP_FAILED && syscall(SYS_mlock, p, size) == 0;
  if (p != MAP_FAILED) munmap(p, size);
  return may;
}

// An ordinary user, who may lock so many bytes. (In a container root may be one already, and cannot become another.)
inline bool BecomeOrdinary(size_t may_lock) {
  rlimit limit{may_lock, may_lock};
  if (setrlimit(RLIMIT_MEMLOCK, &limit) != 0) return false;
  if (MayLockAnything() && (setresgid(65534, 65534, 65534) != 0 || setresuid(65534, 65534, 65534) != 0)) return false;
  return !MayLockAnything();
}

// The largest block that tests of secret heaps make, and there are many of them at a time: the usual limit is 8 MiB.
inline size_t LargestSecret() { return MayLockAnything() ? 20 * kMiB : 20 * kKiB; }

inline bool HasSecretFiles() {
  const int file = static_cast<int>(syscall(SYS_memfd_secret, O_CLOEXEC));
  if (file >= 0) close(file);
  return file >= 0;
}

// ---- what the kernel says -----------------------------------------------------------------------------------

inline size_t StatusKiB(const char* field) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind(field, 0) == 0) return std::stoul(line.substr(line.find(':') + 1));
  }
  return 0;
}
inline size_t LockedBytes() { return StatusKiB("VmLck") * kKiB; }

inline size_t MappingCount() {
  std::ifstream maps("/proc/self/maps");
  size_t count = 0;
  for (std::string line; std::getline(maps, line);) count++;
  return count;
}

}  // namespace mi_test

#endif  // MI_TESTS_APART_SUPPORT_H_
