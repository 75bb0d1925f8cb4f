// Going through code instruction by instruction: with the processor's trap flag a thread gets SIGTRAP after each.
#ifndef MI_TESTS_SINGLE_STEPS_H_
#define MI_TESTS_SINGLE_STEPS_H_

#include <signal.h>
#include <ucontext.h>

#include "gtest/gtest.h"

namespace mi_test {

#if defined(__x86_64__)
// For what the calling thread does next.
inline void TrapFlag(bool on) {
  if (on) {
    asm volatile("sub $128, %%rsp; pushfq; orq $0x100, (%%rsp); popfq; add $128, %%rsp" : : : "memory", "cc");
  } else {
    asm volatile("sub $128, %%rsp; pushfq; andq $~0x100, (%%rsp); popfq; add $128, %%rsp" : : : "memory", "cc");
  }
}

// For what was interrupted, from inside its signal handler.
inline void StopSteps(void* context) { static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_EFL] &= ~0x100L; }

// Has a handler called for each SIGTRAP, for as long as it lives.
class TrapHandler {
 public:
  explicit TrapHandler(void (*handler)(int, siginfo_t*, void*)) {
    struct sigaction action = {};
    action.sa_sigaction = handler;
    action.sa_flags = SA_SIGINFO;
    EXPECT_EQ(sigaction(SIGTRAP, &action, &former_), 0);
  }
  ~TrapHandler() { sigaction(SIGTRAP, &former_, nullptr); }
  TrapHandler(const TrapHandler&) = delete;
  TrapHandler& operator=(const TrapHandler&) = delete;

 private:
  struct sigaction former_ = {};
};
#else
inline void TrapFlag(bool) {}  // not there: tests of it are for that machine
#endif

}  // namespace mi_test

#endif  // MI_TESTS_SINGLE_STEPS_H_
