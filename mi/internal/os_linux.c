// The Linux implementation of os.h: mmap, mprotect, madvise, clock_gettime, write, tgkill. Address space is reserved
// read-only and made writable on demand, so that strict overcommit counts only what is used.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <time.h>
#include <unistd.h>

#include "mi/internal/os.h"
#include "mi/internal/stats.h"
#include "mi/internal/track.h"

// A random page between 1 TiB and 96 TiB, for ranges that the kernel would put close to each other; 34 bits.
#define PLACES_LOW ((uintptr_t)1 << 40)
#define PLACES_SIZE ((uintptr_t)95 << 40)

static uint8_t* map_reserved(size_t size, bool anywhere) {
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  for (int tries = 0; anywhere && tries < 8; tries++) {
    uint8_t* const place = (uint8_t*)((PLACES_LOW + _mi_os_random() % PLACES_SIZE) & ~(MI_OS_PAGE - 1));
    uint8_t* const p = mmap(place, size, PROT_READ, flags, -1, 0);
    mi_count(&_mi_stats.mmap_calls, 1);
    if (p == place) return p;
    if (p == MAP_FAILED) break;
    munmap(p, size);  // the place is taken: not the kernel's choice, another place
  }
  mi_count(&_mi_stats.mmap_calls, 1);
  return mmap(NULL, size, PROT_READ, flags, -1, 0);
}

void* _mi_os_reserve(size_t size, size_t alignment, bool anywhere) {
  const int saved = errno;
  const size_t total = size + alignment - MI_OS_PAGE;
  uint8_t* const p = map_reserved(total, anywhere);
  errno = saved;
  if (p == MAP_FAILED) return NULL;
  uint8_t* const start = (uint8_t*)mi_round_up((uintptr_t)p, alignment);
  if (start > p) munmap(p, (size_t)(start - p));
  if (p + total > start + size) munmap(start + size, (size_t)(p + total - (start + size)));
  // Where the system hands out huge pages unasked, a heap of 50 objects would touch 2 MiB.
  madvise(start, size, MADV_NOHUGEPAGE);
  // Debuggers that write a core file would fill it with what is not used yet.
  madvise(start, size, MADV_DONTDUMP);
  errno = saved;
  return start;
}

bool _mi_os_commit(void* start, size_t size) {
  const int saved = errno;
  const bool ok = (mprotect(start, size, PROT_READ | PROT_WRITE) == 0);
  if (ok) madvise(start, size, MADV_DODUMP);
  mi_count(&_mi_stats.commit_calls, 1);
  errno = saved;
  return ok;
}

// Reserved memory becomes a part of core files.
static bool os_dump(void* start, size_t size) {
  const int saved = errno;
  const bool ok = (madvise(start, size, MADV_DODUMP) == 0);
  errno = saved;
  return ok;
}

bool _mi_os_commit_next(void* start, size_t size, const void* end) {
  if (mi_likely(_mi_os_commit(start, size))) return true;
  return os_dump(start, (size_t)((const uint8_t*)end - (uint8_t*)start)) && _mi_os_commit(start, size);
}

bool _mi_os_protect(void* start, size_t size, bool protect) {
  const int saved = errno;
  const bool ok = (mprotect(start, size, protect ? PROT_NONE : PROT_READ | PROT_WRITE) == 0);
  errno = saved;
  return ok;
}

// The kernel's numbers; the C library's headers may be older.
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE 103
#endif
#define GUARDS_DEAR 400

static bool advise(void* start, size_t size, int advice) {
  const int saved = errno;
  const bool ok = (madvise(start, size, advice) == 0);
  errno = saved;
  return ok;
}

bool _mi_os_has_guards(void) {
  static _Atomic(uint8_t) known;  // 0: not asked yet, 1: yes, 2: no
  uint8_t answer = mi_load_relaxed(&known);
  if (mi_likely(answer != 0)) return answer == 1;
  answer = (advise(NULL, 0, MADV_GUARD_INSTALL) ? 1 : 2);  // of no pages: tells what the kernel knows, and does nothing
  mi_store_relaxed(&known, answer);
  return answer == 1;
}

bool _mi_os_guard(void* start, size_t size) { return _mi_os_has_guards() && advise(start, size, MADV_GUARD_INSTALL); }
bool _mi_os_unguard(void* start, size_t size) { return _mi_os_has_guards() && advise(start, size, MADV_GUARD_REMOVE); }

bool _mi_os_guard_dear(void* start, size_t size, bool on) {
  static _Atomic(int64_t) count;  // guards by protection; where some are refused marks only (locked memory), all ever
  if (on) {
    if (_mi_os_guard(start, size)) return true;
    const bool ok = mi_fetch_add_relaxed(&count, 1) < GUARDS_DEAR && _mi_os_protect(start, size, true);
    if (!ok) mi_fetch_add_relaxed(&count, -1);
    return ok;
  }
  const bool unmarked = _mi_os_unguard(start, size);
  if (mi_load_relaxed(&count) == 0) return unmarked;
  const bool ok = _mi_os_protect(start, size, false);
  if (_mi_os_has_guards()) return ok && unmarked;
  if (ok) mi_fetch_add_relaxed(&count, -1);
  return ok;
}

mi_purged_t _mi_os_purge(void* start, size_t size, bool decommit) {
  const int saved = errno;
  mi_purged_t result = MI_PURGE_REFUSED;
  if (!decommit) {
    if (madvise(start, size, MADV_FREE) == 0) result = MI_PURGE_LATER;
    mi_count(&_mi_stats.reset_calls, 1);
    if (result == MI_PURGE_LATER) mi_count(&_mi_stats.reset_bytes, (int64_t)size);
  }
  if (result == MI_PURGE_REFUSED) {
    if (madvise(start, size, MADV_DONTNEED) == 0) result = MI_PURGE_ZERO;
    mi_count(&_mi_stats.purge_calls, 1);
    if (result == MI_PURGE_ZERO) mi_count(&_mi_stats.purged_bytes, (int64_t)size);
  }
  errno = saved;
  return result;
}

// What the system refused to unmap (it may have to cut a mapping in two, and there are as many as it allows): kept in a
// list, whose nodes lie in the memory itself, and tried again with the next request.
typedef struct stuck_s {
  struct stuck_s* next;
  size_t size;
} stuck_t;
static _Atomic(stuck_t*) stuck;

static void stuck_push(stuck_t* node) {
  stuck_t* head = mi_load_relaxed(&stuck);
  do {
    node->next = head;
    // Release: the node. It is taken with the whole list, so that nobody looks at memory that is gone.
  } while (!mi_cas_weak_acq_rel(&stuck, &head, node));
}

static bool unmap(void* start, size_t size) {
  if (munmap(start, size) == 0) return true;
  madvise(start, size, MADV_DONTNEED);  // the memory at least
  stuck_t* const node = start;
  node->size = size;
  stuck_push(node);
  return false;
}

static void unmap_stuck(void) {
  if (mi_likely(mi_load_relaxed(&stuck) == NULL)) return;
  bool works = true;
  for (stuck_t* node = mi_exchange_acq_rel(&stuck, (stuck_t*)NULL); node != NULL;) {
    stuck_t* const next = node->next;
    if (works) {
      works = unmap(node, node->size);
    } else {
      stuck_push(node);
    }
    node = next;
  }
}

void* _mi_os_alloc(size_t size) {
  const int saved = errno;
  unmap_stuck();
  void* const p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  mi_count(&_mi_stats.mmap_calls, 1);
  errno = saved;
  return (p == MAP_FAILED ? NULL : p);
}

void _mi_os_free(void* start, size_t size) {
  const int saved = errno;
  unmap_stuck();
  unmap(start, size);
  errno = saved;
}

void _mi_os_unreserve(void* start, size_t size) {
  const int saved = errno;
  munmap(start, size);
  errno = saved;
}

#ifndef MAP_HUGE_SHIFT
#define MAP_HUGE_SHIFT 26
#endif

bool _mi_os_map_huge_pages(void* start, size_t size, int shift) {
  const int saved = errno;
  // Without MAP_FIXED first: a failed MAP_FIXED may have taken the old mapping away. What was got in another place is
  // moved, which keeps the pages.
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | (shift << MAP_HUGE_SHIFT);
  void* const p = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, -1, 0);
  bool ok = (p != MAP_FAILED);
  if (ok) {
    munmap(p, size);
    ok = (mmap(start, size, PROT_READ | PROT_WRITE, flags | MAP_FIXED, -1, 0) == start);
    if (!ok) mmap(start, size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  }
  errno = saved;
  return ok;
}

void _mi_os_prefer_node(void* start, size_t size, int node) {
  const int saved = errno;
  unsigned long mask[(MI_NUMA_NODE_MAX + 1) / (8 * sizeof(unsigned long))] = {0};
  mask[(size_t)node / (8 * sizeof(unsigned long))] = 1ul << ((size_t)node % (8 * sizeof(unsigned long)));
  const int preferred = 1;  // MPOL_PREFERRED
  syscall(SYS_mbind, start, size, preferred, mask, (unsigned long)MI_NUMA_NODE_MAX + 1, 0);
  errno = saved;
}

size_t _mi_os_node_count(void) {
  const int saved = errno;
  size_t count = 0;
  char path[64];
  do {
    count++;
    snprintf(path, sizeof(path), "/sys/devices/system/node/node%zu", count);
  } while (count < MI_NUMA_NODE_MAX && access(path, F_OK) == 0);
  errno = saved;
  return count;
}

size_t _mi_os_space_limit(void) {
  const int saved = errno;
  struct rlimit limit;
  const bool is_limited = (getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY);
  errno = saved;
  return (is_limited ? (size_t)limit.rlim_cur : SIZE_MAX);
}

size_t _mi_os_reserve_goal(void) {
  const int saved = errno;
  size_t goal = 64 * MI_GiB;
  struct sysinfo info;
  if (sysinfo(&info) == 0) {
    const size_t memory = (size_t)info.totalram * info.mem_unit;
    while (goal < 4 * memory && goal < 16 * 1024 * MI_GiB) goal *= 2;
  }
  const size_t limit = _mi_os_space_limit();
  if (limit / 8 < goal) goal = mi_round_up(limit / 8, MI_SEGMENT_SIZE);
  // Valgrind has little address space, and warns of ranges of 256 MiB and more.
  if (MI_TRACK_VALGRIND && _mi_track_is_active()) goal = 128 * MI_MiB;
  errno = saved;
  return goal;
}

uint64_t _mi_os_clock_ms(void) {
  struct timespec t;
  if (clock_gettime(CLOCK_MONOTONIC_COARSE, &t) != 0) return 0;
  return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

uint64_t _mi_os_processor_ms(void) {
  struct timespec t = {0, 0};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

void _mi_os_write(const char* text, size_t length) {
  const int saved = errno;
  while (length > 0) {
    const ssize_t n = write(STDERR_FILENO, text, length);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    text += n;
    length -= (size_t)n;
  }
  errno = saved;
}

uint64_t _mi_os_secret(void) {
  static _Atomic(uint64_t) cached;
  uint64_t secret = mi_load_relaxed(&cached);
  if (mi_likely(secret != 0)) return secret;
  const void* const random = (const void*)getauxval(AT_RANDOM);  // 16 bytes
  if (random != NULL) memcpy(&secret, (const uint8_t*)random + 8, sizeof(secret));
  secret = (secret ^ (uintptr_t)&cached) * 0x9e3779b97f4a7c15u | 1;
  mi_store_relaxed(&cached, secret);  // every thread comes to the same
  return secret;
}

uint64_t _mi_os_random(void) {
  const int saved = errno;
  uint64_t random;
  if (syscall(SYS_getrandom, &random, sizeof(random), 1 /* GRND_NONBLOCK */) != (long)sizeof(random)) {
    static _Atomic(uint64_t) count;
    struct timespec t = {0, 0};
    clock_gettime(CLOCK_MONOTONIC, &t);
    random = _mi_os_secret() ^ (uint64_t)t.tv_nsec << 32 ^ (uint64_t)getpid();
    random = (random + mi_fetch_add_relaxed(&count, 1u)) * 0x9e3779b97f4a7c15u;
    random ^= random >> 29;
  }
  errno = saved;
  return random;
}

bool _mi_os_is_secure(void) { return getauxval(AT_SECURE) != 0; }

void _mi_os_yield(void) {
  const int saved = errno;
  sched_yield();
  errno = saved;
}

uint32_t _mi_os_process_id(void) { return (uint32_t)getpid(); }
uint32_t _mi_os_thread_id(void) { return (uint32_t)gettid(); }

bool _mi_os_thread_is_gone(uint32_t process_id, uint32_t thread_id) {
  const int saved = errno;
  const bool gone = (tgkill((pid_t)process_id, (pid_t)thread_id, 0) != 0 && errno == ESRCH);
  errno = saved;
  return gone;
}

void _mi_os_allow_large_pages(void* start, size_t size) {
  const int saved = errno;
  madvise(start, size, MADV_HUGEPAGE);  // refused where there are none
  errno = saved;
}

void _mi_os_disallow_thp(void) {
  const int saved = errno;
  prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
  errno = saved;
}

// Resident memory by /proc/self/statm: "size resident ...", in pages.
static size_t resident_size(void) {
  const int file = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
  if (file < 0) return 0;
  char text[128];
  const ssize_t n = read(file, text, sizeof(text) - 1);
  close(file);
  if (n <= 0) return 0;
  text[n] = 0;
  char* end;
  strtoul(text, &end, 10);
  return strtoul(end, NULL, 10) * (size_t)sysconf(_SC_PAGESIZE);
}

static size_t milliseconds(const struct timeval* t) { return (size_t)t->tv_sec * 1000 + (size_t)t->tv_usec / 1000; }

void _mi_os_process(mi_os_process_t* process) {
  const int saved = errno;
  *process = (mi_os_process_t){0};
  struct rusage usage;
  if (getrusage(RUSAGE_SELF, &usage) == 0) {
    process->user_ms = milliseconds(&usage.ru_utime);
    process->system_ms = milliseconds(&usage.ru_stime);
    process->peak_rss = (size_t)usage.ru_maxrss * MI_KiB;
    process->page_faults = (size_t)usage.ru_majflt;
  }
  process->rss = resident_size();
  // The kernel counts the peak now and then only.
  if (process->peak_rss < process->rss) process->peak_rss = process->rss;
  errno = saved;
}
