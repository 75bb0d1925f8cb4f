// A program that runs over a guarded block, or uses one after it was freed, in the place that is named: what the report
// of the fault must say, and what must happen after it. With other words it does what must not be reported.
//
//   fault BUG PLACE [SIZE]    BUG: overflow, underflow, use_after_free, use_after_destroy, null, sent
//                             PLACE: here, thread, thread_start, freed_elsewhere, child, signal
//   fault handler KIND        an overflow, with a handler that the program had before: info, plain, ignored, jumps,
//                             reset, altstack, nested; or one that it installs later: later
//   fault locked              guards where the pages are locked in memory
//   fault old_kernel          without marks in page tables: how many blocks get guards, and how many mappings there are
//   fault quarantine          how long freed blocks stay out of reach
//
// Stops with 3 if the library does not do what is asked. Prints "unseen" if a bug does no harm.
#define _GNU_SOURCE
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <mimalloc.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define NOINLINE __attribute__((noinline))

static size_t size = 112;
static volatile char sink;
static const char* bug;

#define REQUIRE(condition)                                    \
  do {                                                        \
    if (!(condition)) {                                       \
      fprintf(stderr, "line %d: %s\n", __LINE__, #condition); \
      exit(3);                                                \
    }                                                         \
  } while (0)

static void say(const char* text) { REQUIRE(write(1, text, strlen(text)) == (ssize_t)strlen(text)); }

static NOINLINE char* veil(char* p) {
  __asm__ volatile("" : "+r"(p));
  return p;
}
static mi_heap_t* heap;  // made to be guarded, in the build without guards elsewhere; NULL: the default heap
static NOINLINE char* allocate(void) {
  char* const p = (heap == NULL ? mi_malloc(size) : mi_heap_malloc(heap, size));
  REQUIRE(p != NULL && mi_usable_size(p) == size);
  memset(p, 1, size);
  return veil(p);
}
static NOINLINE void release(char* p) {
  mi_free(p);
  __asm__ volatile("");
}
static NOINLINE void write_at(char* p, ptrdiff_t at) { veil(p)[at] = 'x'; }
static NOINLINE void read_at(char* p, ptrdiff_t at) { sink = veil(p)[at]; }

static void* free_it(void* p) {
  release(p);
  return NULL;
}

// Allocated here; `elsewhere`: freed by another thread.
static void act(bool elsewhere) {
  if (strcmp(bug, "null") == 0) write_at(NULL, 8);
  if (strcmp(bug, "sent") == 0) raise(SIGSEGV);
  if (strcmp(bug, "use_after_destroy") == 0) {
    mi_heap_t* const dropped = (heap == NULL ? mi_heap_new() : heap);
    char* const p = mi_heap_malloc(dropped, size);
    REQUIRE(p != NULL && mi_usable_size(p) == size);
    mi_heap_destroy(dropped);
    read_at(p, 0);
  }
  char* const p = allocate();
  if (strcmp(bug, "overflow") == 0) write_at(p, (ptrdiff_t)size);
  if (strcmp(bug, "underflow") == 0) read_at(p, -1);
  if (strcmp(bug, "use_after_free") == 0) {
    if (elsewhere) {
      pthread_t thread;
      REQUIRE(pthread_create(&thread, NULL, free_it, p) == 0 && pthread_join(thread, NULL) == 0);
    } else {
      release(p);
    }
    write_at(p, 4);
  }
}

static void* act_in_thread(void* wait) {
  if (wait != NULL) release(allocate());
  act(false);
  return NULL;
}
static void act_in_signal(int number) {
  (void)number;
  act(false);
}

static int at(const char* place) {
  if (strcmp(place, "here") == 0) {
    act(false);
  } else if (strcmp(place, "freed_elsewhere") == 0) {
    act(true);
  } else if (strcmp(place, "thread") == 0 || strcmp(place, "thread_start") == 0) {
    pthread_t thread;
    if (strcmp(place, "thread") == 0) release(allocate());
    REQUIRE(pthread_create(&thread, NULL, act_in_thread, strcmp(place, "thread") == 0 ? &thread : NULL) == 0);
    pthread_join(thread, NULL);
  } else if (strcmp(place, "signal") == 0) {
    release(allocate());
    signal(SIGUSR1, act_in_signal);
    raise(SIGUSR1);
  } else if (strcmp(place, "child") == 0) {
    char* const p = allocate();
    char* const q = allocate();
    release(q);
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      if (strcmp(bug, "overflow") == 0) write_at(p, (ptrdiff_t)size);  // of the parent's blocks
      if (strcmp(bug, "use_after_free") == 0) write_at(q, 4);
      _exit(0);
    }
    int status;
    REQUIRE(waitpid(child, &status, 0) == child);
    release(p);
    if (WIFSIGNALED(status)) printf("the child ended by signal %d\n", WTERMSIG(status));
    return 0;
  } else {
    return 2;
  }
  puts("unseen");
  return 0;
}

// --- handlers
// ---------------------------------------------------------------------------------------------------------

static sigjmp_buf back;
static char alternative[64 * 1024];

static void on_info(int number, siginfo_t* info, void* context) {
  sigset_t blocked;
  pthread_sigmask(SIG_BLOCK, NULL, &blocked);
  REQUIRE(number == SIGSEGV && info->si_signo == SIGSEGV && info->si_addr != NULL && context != NULL);
  REQUIRE(sigismember(&blocked, SIGUSR2) == 1 && sigismember(&blocked, SIGSEGV) == 1);
  say("the program's handler\n");
  _exit(7);
}
static void on_plain(int number) {
  REQUIRE(number == SIGSEGV);
  say("the program's handler\n");
  _exit(7);
}
static void on_jump(int number) {
  (void)number;
  siglongjmp(back, 1);
}
static void on_reset(int number) {
  struct sigaction now;
  REQUIRE(sigaction(number, NULL, &now) == 0 && now.sa_handler == SIG_DFL);
  say("the program's handler\n");
}
static void on_alternative(int number) {
  (void)number;
  char here;
  REQUIRE(&here >= alternative && &here < alternative + sizeof(alternative));
  say("the program's handler\n");
  _exit(7);
}
static void on_normal(int number) {
  (void)number;
  char here;
  REQUIRE(&here < alternative || &here >= alternative + sizeof(alternative));
  say("the program's handler\n");
  _exit(7);
}

static void set(void (*handler)(int), int flags) {
  struct sigaction action;
  memset(&action, 0, sizeof(action));
  action.sa_handler = handler;
  action.sa_flags = flags;
  REQUIRE(sigaction(SIGSEGV, &action, NULL) == 0);
}

static int with_handler(const char* kind) {
  bug = "overflow";
  if (strcmp(kind, "later") == 0) {
    release(allocate());
    set(on_plain, 0);
  } else if (strcmp(kind, "info") == 0) {
    struct sigaction action;
    memset(&action, 0, sizeof(action));
    action.sa_sigaction = on_info;
    action.sa_flags = SA_SIGINFO;
    sigaddset(&action.sa_mask, SIGUSR2);
    REQUIRE(sigaction(SIGSEGV, &action, NULL) == 0);
  } else if (strcmp(kind, "plain") == 0) {
    set(on_plain, 0);
  } else if (strcmp(kind, "ignored") == 0) {
    set(SIG_IGN, 0);
    release(allocate());
    REQUIRE(raise(SIGSEGV) == 0);  // what was sent is ignored
    say("ignored\n");
  } else if (strcmp(kind, "reset") == 0) {
    set(on_reset, (int)SA_RESETHAND);
  } else if (strcmp(kind, "altstack") == 0 || strcmp(kind, "normal_stack") == 0) {
    const stack_t stack = {.ss_sp = alternative, .ss_size = sizeof(alternative)};
    REQUIRE(sigaltstack(&stack, NULL) == 0);
    if (strcmp(kind, "altstack") == 0) {
      set(on_alternative, SA_ONSTACK);
    } else {
      set(on_normal, 0);
    }
  } else if (strcmp(kind, "jumps") == 0) {
    set(on_jump, 0);
    for (int i = 0; i < 2; i++) {  // more than once
      if (sigsetjmp(back, 1) == 0) act(false);
    }
    say("survived\n");
    return 0;
  } else {
    return 2;
  }
  act(false);
  return 0;
}

// --- guards that cost mappings
// ----------------------------------------------------------------------------------------

// As a kernel before 6.13: madvise knows no guards.
static void become_old_kernel(void) {
  struct sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_madvise, 0, 4),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 102, 1, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 103, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EINVAL),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const struct sock_fprog program = {.len = sizeof(filter) / sizeof(filter[0]), .filter = filter};
  REQUIRE(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
  REQUIRE(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

static int mappings(void) {
  FILE* const file = fopen("/proc/self/maps", "r");
  REQUIRE(file != NULL);
  int lines = 0;
  for (int c; (c = getc(file)) != EOF;) lines += (c == '\n');
  fclose(file);
  return lines;
}

static int old_kernel(void) {
  enum { COUNT = 20000 };
  static char* blocks[COUNT];
  become_old_kernel();
  size = 2000;
  int guarded = 0;
  for (int round = 0; round < 2; round++) {
    guarded = 0;
    for (int i = 0; i < COUNT; i++) {
      blocks[i] = (heap == NULL ? mi_malloc(size) : mi_heap_malloc(heap, size));
      REQUIRE(blocks[i] != NULL);
      memset(blocks[i], i, size);
      // Guarded ones end where an OS page ends; others begin where one, or half of one, begins.
      guarded += ((uintptr_t)blocks[i] % 4096 == 4096 - size);
    }
    REQUIRE(mappings() < 32000);
    for (int i = 0; i < COUNT; i++) {
      REQUIRE(blocks[i][0] == (char)i && blocks[i][size - 1] == (char)i);
      mi_free(blocks[i]);
    }
  }
  printf("%d of %d\n", guarded, (int)COUNT);
  fflush(stdout);
  bug = "use_after_free";
  size = 100;
  act(false);
  puts("unseen");
  return 0;
}

static int locked(void) {
  const struct rlimit limit = {RLIM_INFINITY, RLIM_INFINITY};
  setrlimit(RLIMIT_MEMLOCK, &limit);
  char* const before = allocate();
  if (mlock(before, size) != 0) {  // without the right to, nothing is locked
    puts("not allowed");
    return 0;
  }
  for (int i = 0; i < 3000; i++) release(allocate());
  release(before);
  write_at(before, 4);
  puts("unseen");
  return 0;
}

// --- how long
// ---------------------------------------------------------------------------------------------------------

static int quarantine(void) {
  char* const p = allocate();
  const uintptr_t page = (uintptr_t)p & ~(uintptr_t)4095;
  release(p);
  int others = 0;
  for (; others < 5000; others++) {
    char* const q = allocate();
    const bool again = (((uintptr_t)q & ~(uintptr_t)4095) == page);
    release(q);
    if (again) break;
  }
  printf("%d\n", others);
  return 0;
}

#ifdef IN_GUARDED_HEAP
static void make_heap(void) {
  mi_heap_config_t config = {.size = sizeof(config), .name = "precious", .flags = MI_HEAP_GUARDED};
  heap = mi_heap_new_with(&config);
  REQUIRE(heap != NULL);
  mi_heap_guarded_set_sample_rate(heap, 1, 0);
  char* const p = mi_malloc(100);  // elsewhere nothing is guarded
  REQUIRE(p != NULL && mi_usable_size(p) > 100);
  mi_free(p);
}
#else
static void make_heap(void) {}
#endif

int main(int argc, char** argv) {
  if (argc < 2) return 2;
  make_heap();
  bug = argv[1];
  if (strcmp(bug, "quarantine") == 0) return quarantine();
  if (strcmp(bug, "old_kernel") == 0) return old_kernel();
  if (strcmp(bug, "locked") == 0) return locked();
  if (argc < 3) return 2;
  if (strcmp(bug, "handler") == 0) return with_handler(argv[2]);
  if (argc > 3) size = strtoul(argv[3], NULL, 10);
  return at(argv[2]);
}
