// What the library needs of the operating system to keep memory apart from the rest of the process and of the machine:
// closed address space, light guards, memory that is kept out of swap, core files, forked children and the kernel's own
// map. Every function keeps errno, and says what it did not get.
#pragma once
#ifndef MI_INTERNAL_OS_PROTECT_H
#define MI_INTERNAL_OS_PROTECT_H

#include "mi/internal/types.h"

typedef enum mi_access_e { MI_ACCESS_NONE, MI_ACCESS_READ, MI_ACCESS_WRITE } mi_access_t;

// Maps nothing over a stretch: its memory is gone, and every access faults. False if the system refuses.
mi_hidden bool _mi_os_close(void* start, size_t size);
// Maps fresh memory over a stretch: it reads as zero and can be written.
mi_hidden bool _mi_os_reopen(void* start, size_t size);
mi_hidden bool _mi_os_may_guard(void);  // does _mi_os_guard work here, for memory that is not locked by itself?
mi_hidden bool _mi_os_access(void* start, size_t size, mi_access_t access);

// How the memory of secrets is made.
typedef enum mi_secret_way_e {
  MI_SECRET_FILE,  // memfd_secret: locked, not in the kernel's map, in no core file; kept from children by
                   // MADV_DONTFORK
  MI_SECRET_LOCK,  // anonymous memory, locked, without a place in core files; zero in children
  MI_SECRET_OPEN,  // the same, but not locked
} mi_secret_way_t;

// What was got, and why not: 0 or the system's error for each.
typedef struct mi_secret_probe_s {
  mi_secret_way_t way;
  int file_error, lock_error, dump_error, fork_error;
} mi_secret_probe_t;
mi_hidden void _mi_os_secret_probe(mi_secret_probe_t* probe);
// Maps memory for secrets over closed address space, readable, writable and zero. 0, or the error, and the stretch is
// closed as before; ENOMEM for a limit of locked memory that is reached.
mi_hidden int _mi_os_secret_map(void* start, size_t size, const mi_secret_probe_t* probe);
// Which of up to MI_PRESENT_MAX OS pages were ever touched, of memory that is never swapped out; all, if the system
// does not say.
#define MI_PRESENT_MAX 64
mi_hidden uint64_t _mi_os_present(void* start, size_t pages);

#endif
