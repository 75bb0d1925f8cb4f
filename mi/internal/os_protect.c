// The Linux implementation of os_protect.h: mmap over reserved address space, mprotect, madvise, mlock, memfd_secret.
//
// Memory of secrets is a memfd_secret of its own for each run where the kernel has that. Such a file cannot be resized
// or punched, and counts as locked from the moment it is mapped, touched or not; so a run is mapped when it is needed
// and unmapped when it is not. It is shared memory: a child would see it, but for MADV_DONTFORK. (MADV_WIPEONFORK is
// refused for it.) A file mapping that the system refuses leaves a hole behind, so that a first mapping elsewhere asks
// whether there is room, and what fails after that is closed again.
//
// mseal is not used: what it seals can never be unmapped or opened again while the process lives.
#define _GNU_SOURCE
#include "mi/internal/os_protect.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "mi/internal/stats.h"

#ifndef SYS_memfd_secret
#define SYS_memfd_secret 447
#endif

bool _mi_os_close(void* start, size_t size) {
  const int saved = errno;
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
  const bool ok = (mmap(start, size, PROT_NONE, flags, -1, 0) == start);
  mi_count(&_mi_stats.mmap_calls, 1);
  errno = saved;
  return ok;
}

bool _mi_os_reopen(void* start, size_t size) {
  const int saved = errno;
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
  const bool ok = (mmap(start, size, PROT_READ | PROT_WRITE, flags, -1, 0) == start);
  mi_count(&_mi_stats.mmap_calls, 1);
  if (ok) madvise(start, size, MADV_NOHUGEPAGE);  // as the rest of the arena
  errno = saved;
  return ok;
}

bool _mi_os_access(void* start, size_t size, mi_access_t access) {
  static const int protections[] = {PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE};
  const int saved = errno;
  const bool ok = (mprotect(start, size, protections[access]) == 0);
  errno = saved;
  return ok;
}

// Asked anew each time: what a process may do can change, and where all its memory is locked there are none.
bool _mi_os_may_guard(void) {
  const int saved = errno;
  void* const p = mmap(NULL, MI_OS_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  const bool may = (p != MAP_FAILED && _mi_os_guard(p, MI_OS_PAGE));
  if (p != MAP_FAILED) munmap(p, MI_OS_PAGE);
  errno = saved;
  return may;
}

// --- secrets -------------------------------------------------------------------------------------------------------

// A file of so many bytes, mapped at `start` (NULL: anywhere). 0, or the error.
static int file_map(void* start, size_t size, int protection, void** mapped) {
  const int file = (int)syscall(SYS_memfd_secret, O_CLOEXEC);
  if (file < 0) return errno;
  int error = 0;
  if (ftruncate(file, (off_t)size) != 0) {
    error = errno;
  } else {
    *mapped = mmap(start, size, protection, MAP_SHARED | (start == NULL ? 0 : MAP_FIXED), file, 0);
    // EAGAIN: more than may be locked.
    if (*mapped == MAP_FAILED) error = (errno == EAGAIN ? ENOMEM : errno);
  }
  close(file);
  return error;
}

static int lock_error(int error) { return (error == EAGAIN ? ENOMEM : error); }

// Tries what there is, on one OS page.
void _mi_os_secret_probe(mi_secret_probe_t* probe) {
  const int saved = errno;
  *probe = (mi_secret_probe_t){MI_SECRET_OPEN, 0, 0, 0, 0};
  void* p;
  probe->file_error = file_map(NULL, MI_OS_PAGE, PROT_READ | PROT_WRITE, &p);
  if (probe->file_error == 0) {
    if (madvise(p, MI_OS_PAGE, MADV_DONTFORK) != 0) probe->fork_error = errno;
    munmap(p, MI_OS_PAGE);
    probe->way = MI_SECRET_FILE;
    errno = saved;
    return;
  }
  p = mmap(NULL, MI_OS_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) {
    probe->lock_error = probe->dump_error = probe->fork_error = ENOMEM;
    errno = saved;
    return;
  }
  if (madvise(p, MI_OS_PAGE, MADV_DONTDUMP) != 0) probe->dump_error = errno;
  if (madvise(p, MI_OS_PAGE, MADV_WIPEONFORK) != 0) probe->fork_error = errno;
  if (mlock(p, MI_OS_PAGE) != 0) {
    probe->lock_error = lock_error(errno);
  } else {
    probe->way = MI_SECRET_LOCK;
  }
  munmap(p, MI_OS_PAGE);
  errno = saved;
}

static int map_file(void* start, size_t size, const mi_secret_probe_t* probe) {
  void* p;
  int error = file_map(NULL, size, PROT_NONE, &p);  // a child that is forked here cannot reach the real one by it
  if (error != 0) return error;
  munmap(p, size);
  error = file_map(start, size, PROT_READ | PROT_WRITE, &p);
  if (error == 0 && madvise(start, size, MADV_DONTFORK) != 0 && probe->fork_error == 0) error = errno;
  return error;
}

static int map_memory(void* start, size_t size, const mi_secret_probe_t* probe) {
  void* const p =
      mmap(start, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  if (p == MAP_FAILED) return errno;
  madvise(start, size, MADV_NOHUGEPAGE);
  if (madvise(start, size, MADV_DONTDUMP) != 0 && probe->dump_error == 0) return errno;
  if (madvise(start, size, MADV_WIPEONFORK) != 0 && probe->fork_error == 0) return errno;
  return (probe->way == MI_SECRET_LOCK && mlock(start, size) != 0 ? lock_error(errno) : 0);
}

int _mi_os_secret_map(void* start, size_t size, const mi_secret_probe_t* probe) {
  const int saved = errno;
  const int error = (probe->way == MI_SECRET_FILE ? map_file : map_memory)(start, size, probe);
  mi_count(&_mi_stats.mmap_calls, 1);
  if (error != 0) _mi_os_close(start, size);
  errno = saved;
  return error;
}

uint64_t _mi_os_present(void* start, size_t pages) {
  const int saved = errno;
  unsigned char present[MI_PRESENT_MAX];
  uint64_t result = 0;
  if (mincore(start, pages * MI_OS_PAGE, present) != 0) {
    result = ~(uint64_t)0;
  } else {
    for (size_t i = 0; i < pages; i++) result |= (uint64_t)(present[i] & 1) << i;
  }
  errno = saved;
  return result;
}
