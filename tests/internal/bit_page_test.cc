// mi/internal/bit_page.c: what a second free of a block, by another thread, may do while the block's page ends. The
// owner's free is gone through instruction by instruction, and the other thread's comes in after each in turn.
#include <signal.h>
#include <ucontext.h>

#include "gtest/gtest.h"
#include "mi/mimalloc.h"
#include "tests/internal/probe.h"
#include "tests/test_support.h"

namespace mi_test {
namespace {

long steps_left;
bool came;  // the other thread's free did
void* block;
uint64_t generation;

void StopSteps(void* context) { static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_EFL] &= ~0x100L; }

void OnTrap(int, siginfo_t*, void* context) {
  if (--steps_left > 0) return;
  StopSteps(context);
  // It began while the page was there: when that is gone it only looks at the number.
  if (probe_bits_generation(block) != generation) return;
  came = true;
  probe_bits_free_remote(block);
}

// mi_free, into which the other comes after so many instructions. False: it came too late.
bool FreeTwice(void* p, long steps) {
  block = p;
  generation = probe_bits_generation(p);
  steps_left = steps;
  came = false;
  asm volatile("sub $128, %%rsp; pushfq; orq $0x100, (%%rsp); popfq; add $128, %%rsp" : : : "memory", "cc");
  mi_free(p);
  asm volatile("sub $128, %%rsp; pushfq; andq $~0x100, (%%rsp); popfq; add $128, %%rsp" : : : "memory", "cc");
  return came;
}

TEST(BitPageTest, ADoubleFreeThatMeetsThePagesEndLeavesNothingBehind) {
  struct sigaction action {
  }, former;
  action.sa_sigaction = OnTrap;
  action.sa_flags = SA_SIGINFO;
  ASSERT_EQ(sigaction(SIGTRAP, &action, &former), 0);
  mi_heap_config_t config{};
  config.size = sizeof(config);
  config.flags = MI_HEAP_ZERO;  // misuse is advice
  ErrorRecorder errors;
  constexpr size_t kSize = 73 * 4096 - 16;  // little padding to be compared
  long steps = 1, most = 0;
  for (; steps < 20000; steps++) {
    mi_heap_t* heap = mi_heap_new_with(&config);
    ASSERT_NE(heap, nullptr);
    void* p = mi_heap_malloc(heap, kSize);
    ASSERT_NE(p, nullptr);
    errors.Forget();
    const bool in_time = FreeTwice(p, steps);
    ASSERT_TRUE(probe_delayed_frees_lead_to_pages(heap)) << "after " << steps << " instructions";
    mi_heap_t* other = mi_heap_new_with(&config);
    void* q = mi_heap_malloc(other, kSize);
    mi_heap_collect(heap, true);
    EXPECT_EQ(errors.count(EAGAIN), in_time ? 1 : 0) << "after " << steps << " instructions";
    EXPECT_TRUE(mi_heap_check(heap));
    EXPECT_TRUE(mi_heap_check(other));
    mi_free(q);
    mi_heap_destroy(other);
    mi_heap_destroy(heap);
    if (in_time) most = steps;
    if (!in_time && steps > most + 100) break;
  }
  EXPECT_GT(most, 20) << "the page was there for longer";
  sigaction(SIGTRAP, &former, nullptr);
}

}  // namespace
}  // namespace mi_test
