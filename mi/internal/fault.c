// The report of a fault: a handler of SIGSEGV and SIGBUS that names the guarded block (guard.c) which the program ran
// over, or used after it was freed, and then lets things take the course that they would have taken without it.
//
// It is put in place when the first guarded block is made, so that a program without such blocks never has it, and
// guarded_report = 0 keeps it away. What the program installed before is called afterwards, as the kernel would have
// called it: with its mask, its flags and its stack. If that was the default action, it is put back, and the access
// runs into it: the signal, its address and the core file are those of the access itself. A handler that the program
// installs later replaces this one.
//
// Faults at addresses that are not in guarded blocks, and signals that were sent, are handed on without a word. Nothing
// here allocates, locks, or calls what may not be called in a signal handler; it needs some 2 KiB of stack.
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "mi/internal/guard.h"
#include "mi/internal/options.h"
#include "mi/internal/os.h"

// --- what the machine tells -----------------------------------------------------------------------------------------

typedef struct access_s {
  const char* kind;  // "read", "write" or "access"
  void* pc;
  const void* frame;
} access_t;

#if defined(__x86_64__)
static access_t access_of(const ucontext_t* context) {
  const bool write = (context->uc_mcontext.gregs[REG_ERR] & 2) != 0;
  return (access_t){write ? "write" : "read", (void*)context->uc_mcontext.gregs[REG_RIP],
                    (const void*)context->uc_mcontext.gregs[REG_RBP]};
}
#elif defined(__aarch64__)
// The syndrome of the fault lies among the records behind the registers.
static const char* kind_of(const ucontext_t* context) {
  const uint32_t magic = 0x45535201u;
  const uint8_t* at = context->uc_mcontext.__reserved;
  const uint8_t* const end = at + sizeof(context->uc_mcontext.__reserved);
  while (at + 16 <= end) {
    uint32_t head[2];
    memcpy(head, at, sizeof(head));
    if (head[0] == magic) {
      uint64_t syndrome;
      memcpy(&syndrome, at + 8, sizeof(syndrome));
      return ((syndrome >> 6 & 1) != 0 ? "write" : "read");
    }
    if (head[0] == 0 || head[1] < 16) break;
    at += head[1];
  }
  return "access";
}
static access_t access_of(const ucontext_t* context) {
  return (access_t){kind_of(context), (void*)context->uc_mcontext.pc, (const void*)context->uc_mcontext.regs[29]};
}
#else
static access_t access_of(const ucontext_t* context) {
  (void)context;
  return (access_t){"access", NULL, NULL};
}
#endif

// --- the report -----------------------------------------------------------------------------------------------------

static void write_line(const char* text, bool in_handler) {
  (void)in_handler;
  _mi_os_write(text, strlen(text));
}

static void add_block(mi_line_t* line, const mi_guard_t* guard) {
  _mi_line_add(line, " the block at ");
  _mi_line_add_hex(line, (uintptr_t)guard->block);
  _mi_line_add(line, " of ");
  _mi_line_add_number(line, guard->size);
  _mi_line_add(line, " bytes (heap ");
  if (guard->heap_name[0] != 0) {
    _mi_line_add(line, "\"");
    _mi_line_add(line, guard->heap_name);
    _mi_line_add(line, "\"");
  } else {
    _mi_line_add_hex(line, (uintptr_t)guard->heap);
  }
  _mi_line_add(line, ")\n");
}

static void report(const mi_guard_t* guard, const uint8_t* at, const access_t* access) {
  const bool freed = (mi_load_acquire((_Atomic(uint32_t)*)&guard->state) != MI_GUARD_LIVE);
  const uint8_t* const end = guard->block + guard->size;
  const bool before = (at < guard->block), behind = (at >= end);
  mi_line_t line = {0};
  _mi_line_add(&line, "mimalloc: error: ");
  _mi_line_add(&line, freed ? "use after free" : before ? "underflow" : behind ? "overflow" : "fault");
  _mi_line_add(&line, ": ");
  _mi_line_add(&line, access->kind);
  _mi_line_add(&line, " at ");
  _mi_line_add_hex(&line, (uintptr_t)at);
  _mi_line_add(&line, ", ");
  _mi_line_add_number(&line, (uint64_t)(before ? guard->block - at : behind ? at - end : at - guard->block));
  _mi_line_add(&line, before ? " bytes before" : behind ? " bytes after" : " bytes inside");
  add_block(&line, guard);
  write_line(line.text, true);

  mi_trace_t trace;
  _mi_trace_take_at(&trace, access->pc, access->frame);
  _mi_guard_print(guard, &trace, write_line, true);
}

// --- handing on -----------------------------------------------------------------------------------------------------

// What the program had before, by signal. Written before our handler is in place.
static struct sigaction former_segv, former_bus;

static struct sigaction* former_of(int number) { return (number == SIGSEGV ? &former_segv : &former_bus); }

// Did the processor raise it, so that the instruction runs into it once more? Not if it was sent, nor if it tells of
// memory that failed elsewhere.
static bool is_of_an_access(int number, const siginfo_t* info) {
  return info->si_code > 0 && !(number == SIGBUS && info->si_code == BUS_MCEERR_AO);
}

static void hand_on(int number, siginfo_t* info, void* context) {
  const struct sigaction former = *former_of(number);
  const bool is_function =
      (former.sa_flags & SA_SIGINFO) != 0 || (former.sa_handler != SIG_DFL && former.sa_handler != SIG_IGN);
  struct sigaction by_default;
  memset(&by_default, 0, sizeof(by_default));
  by_default.sa_handler = SIG_DFL;
  if (is_function) {
    if ((former.sa_flags & (int)SA_RESETHAND) != 0) sigaction(number, &by_default, NULL);
    if ((former.sa_flags & SA_SIGINFO) != 0) {
      former.sa_sigaction(number, info, context);
    } else {
      former.sa_handler(number);
    }
  } else if (is_of_an_access(number, info)) {
    sigaction(number, &by_default, NULL);  // a signal of an access is not to be ignored
  } else if (former.sa_handler == SIG_DFL) {
    sigaction(number, &by_default, NULL);
    syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), number);  // when this handler returns
  }
}

static void on_fault(int number, siginfo_t* info, void* context) {
  const int saved = errno;
  if (is_of_an_access(number, info)) {
    const mi_guard_t* const guard = _mi_guard_at(info->si_addr);
    if (guard != NULL) {
      const access_t access = access_of(context);
      report(guard, info->si_addr, &access);
    }
  }
  errno = saved;
  hand_on(number, info, context);
}

// --- putting it in place --------------------------------------------------------------------------------------------

static void install(int number) {
  struct sigaction* const former = former_of(number);
  if (sigaction(number, NULL, former) != 0) return;
  struct sigaction action;
  memset(&action, 0, sizeof(action));
  action.sa_sigaction = on_fault;
  action.sa_mask = former->sa_mask;
  // On the stack that the former one wants: what is called there may need more than an alternative one has.
  const bool is_function =
      (former->sa_flags & SA_SIGINFO) != 0 || (former->sa_handler != SIG_DFL && former->sa_handler != SIG_IGN);
  action.sa_flags = SA_SIGINFO | (is_function ? former->sa_flags & (SA_ONSTACK | SA_NODEFER | SA_RESTART) : SA_ONSTACK);
  sigaction(number, &action, NULL);
}

void _mi_fault_install(void) {
  static _Atomic(bool) done;
  if (mi_likely(mi_load_relaxed(&done)) || atomic_exchange_explicit(&done, true, memory_order_relaxed)) return;
  if (_mi_option(mi_option_guarded_report) == 0) return;
  const int saved = errno;
  install(SIGSEGV);
  install(SIGBUS);
  errno = saved;
}
