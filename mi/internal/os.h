// What the library needs of the operating system, and nothing else: address space, memory, time, a way to say
// something. No function here allocates; each keeps errno unless it says otherwise.
#pragma once
#ifndef MI_INTERNAL_OS_H
#define MI_INTERNAL_OS_H

#include "mi/internal/types.h"

// Reserves `size` bytes of address space aligned to `alignment`, without memory: it reads as zero and cannot be
// written. NULL if there is none. `anywhere`: at a random place, whatever the system would choose.
mi_hidden void* _mi_os_reserve(size_t size, size_t alignment, bool anywhere);
// Makes reserved memory readable and writable, and a part of core files; false if the system refuses.
mi_hidden bool _mi_os_commit(void* start, size_t size);
// The same of a reserved range that is made writable in the order of its addresses, to its end at last. At the limit of
// mappings there is none for memory that is unlike what is before it and what is behind: then all behind it is to be in
// core files too, so that the border between two mappings moves.
mi_hidden bool _mi_os_commit_next(void* start, size_t size, const void* end);
// Gives memory back and keeps the address space. `decommit`: at once, and it reads as zero afterwards; else when the
// system needs it (the contents are unknown until then).
typedef enum mi_purged_e {
  MI_PURGE_REFUSED,  // the memory is where it was
  MI_PURGE_LATER,
  MI_PURGE_ZERO,
} mi_purged_t;
mi_hidden mi_purged_t _mi_os_purge(void* start, size_t size, bool decommit);
// How many bytes of `size` from `*start` on are whole OS pages; `*start` becomes that of the first.
static inline size_t mi_os_pages_inside(uint8_t** start, size_t size) {
  uint8_t* const first = (uint8_t*)mi_round_up((uintptr_t)*start, MI_OS_PAGE);
  const size_t lead = (size_t)(first - *start);
  *start = first;
  return (size > lead ? (size - lead) & ~(MI_OS_PAGE - 1) : 0);
}
// Memory of its own, zeroed, readable and writable; NULL if there is none.
mi_hidden void* _mi_os_alloc(size_t size);
mi_hidden void _mi_os_free(void* start, size_t size);  // of _mi_os_alloc
mi_hidden void _mi_os_unreserve(void* start, size_t size);
// Address space that may be reserved up front: a multiple of the machine's memory, less under a limit.
mi_hidden size_t _mi_os_reserve_goal(void);
// The limit of the process's address space at the moment; SIZE_MAX: none.
mi_hidden size_t _mi_os_space_limit(void);
// Milliseconds of a monotonic clock, as coarse as a timer tick and as cheap.
mi_hidden uint64_t _mi_os_clock_ms(void);
mi_hidden uint64_t _mi_os_processor_ms(void);  // that the process has had, all threads together
// Maps huge pages of 1 << `shift` bytes over a reserved range, readable and writable; false, and the range as before,
// if the system has none.
#define MI_OS_PAGE_2MIB 21
#define MI_OS_PAGE_1GIB 30
mi_hidden bool _mi_os_map_huge_pages(void* start, size_t size, int shift);
// Asks for memory of a NUMA node; a machine without nodes does not mind.
mi_hidden void _mi_os_prefer_node(void* start, size_t size, int node);
mi_hidden size_t _mi_os_node_count(void);  // at least 1
// Writes to standard error.
mi_hidden void _mi_os_write(const char* text, size_t length);
// A number that differs between processes and stays the same in one, and in its forked children.
mi_hidden uint64_t _mi_os_secret(void);
// 64 bits of the system's entropy; of what the process was started with if there is none yet, or none to be had.
mi_hidden uint64_t _mi_os_random(void);
// Makes OS pages inaccessible, or readable and writable again; false if the system refuses. Costs mappings.
mi_hidden bool _mi_os_protect(void* start, size_t size, bool protect);
// The same without a mapping, and what the pages held is gone: marks in the page tables, which a fork's child has too.
// False where the kernel has none (before 6.13), or not for these pages (locked ones).
mi_hidden bool _mi_os_guard(void* start, size_t size);
// Takes such marks away: the pages read as zero.
mi_hidden bool _mi_os_unguard(void* start, size_t size);
mi_hidden bool _mi_os_has_guards(void);  // has the kernel such marks?
// The same by protection where there are no marks, few at a time. `on` false ends either. False: it cannot be done.
mi_hidden bool _mi_os_guard_dear(void* start, size_t size, bool on);
// Does the process run with raised privileges?
mi_hidden bool _mi_os_is_secure(void);
mi_hidden void _mi_os_yield(void);
// The kernel's ids of the process and of the calling thread; both below 2^22.
mi_hidden uint32_t _mi_os_process_id(void);
mi_hidden uint32_t _mi_os_thread_id(void);
// Is there certainly no such thread in the process any more?
mi_hidden bool _mi_os_thread_is_gone(uint32_t process_id, uint32_t thread_id);
// Lets the system back reserved memory with its large pages.
mi_hidden void _mi_os_allow_large_pages(void* start, size_t size);
// Turns transparent huge pages off for the process, and for what it executes.
mi_hidden void _mi_os_disallow_thp(void);

// What the system says of the process; 0 where it says nothing.
typedef struct mi_os_process_s {
  size_t user_ms, system_ms;
  size_t rss, peak_rss;  // bytes
  size_t page_faults;    // those that waited for input
} mi_os_process_t;
mi_hidden void _mi_os_process(mi_os_process_t* process);

#endif
