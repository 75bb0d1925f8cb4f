// The process as a whole: what it used, its end, and whether malloc itself is ours.
#include <errno.h>
#include <stdlib.h>

#include "mi/heap/parts.h"
#include "mi/internal/os.h"
#include "mi/mimalloc.h"

// --- figures ----------------------------------------------------------------------------------------------------

static uint64_t start_ms;
static __attribute__((constructor)) void remember_start(void) { start_ms = _mi_os_clock_ms(); }

// Bytes of slices that have memory behind them, and of those that ever could be written to. The words change while they
// are read: the sum is one of a moment each.
static void commit_sizes(size_t* current, size_t* peak) {
  *current = *peak = 0;
  for (size_t i = 0; i < MI_ARENAS_MAX; i++) {
    mi_arena_t* const arena = mi_load_acquire(&_mi_arenas[i]);
    if (arena == NULL) break;
    const size_t ready = mi_load_acquire(&arena->ready);
    *peak += ready << MI_SEGMENT_SHIFT;
    for (size_t s = 0; s < ready; s++) {
      *current += mi_popcount(mi_load_relaxed(&arena->info[s].backed)) * MI_SLICE_SIZE;
    }
  }
}

void mi_process_info(size_t* elapsed_msecs, size_t* user_msecs, size_t* system_msecs, size_t* current_rss,
                     size_t* peak_rss, size_t* current_commit, size_t* peak_commit, size_t* page_faults) {
  mi_os_process_t process;
  size_t commit, most;
  _mi_os_process(&process);
  commit_sizes(&commit, &most);
  if (elapsed_msecs != NULL) *elapsed_msecs = (size_t)(start_ms == 0 ? 0 : _mi_os_clock_ms() - start_ms);
  if (user_msecs != NULL) *user_msecs = process.user_ms;
  if (system_msecs != NULL) *system_msecs = process.system_ms;
  if (current_rss != NULL) *current_rss = process.rss;
  if (peak_rss != NULL) *peak_rss = process.peak_rss;
  if (current_commit != NULL) *current_commit = commit;
  if (peak_commit != NULL) *peak_commit = most;
  if (page_faults != NULL) *page_faults = process.page_faults;
}

void mi_process_info_print_out(mi_output_fun* out, void* arg) {
  size_t elapsed, user, system, rss, peak_rss, commit, peak_commit, faults;
  mi_process_info(&elapsed, &user, &system, &rss, &peak_rss, &commit, &peak_commit, &faults);
  _mi_print_to(out, arg, "process: elapsed %zu.%03zu s, user %zu.%03zu s, system %zu.%03zu s, page faults %zu\n",
               elapsed / 1000, elapsed % 1000, user / 1000, user % 1000, system / 1000, system % 1000, faults);
  _mi_print_to(out, arg, "memory: resident %zu KiB (peak %zu KiB), committed %zu KiB (at most %zu KiB)\n", rss / MI_KiB,
               peak_rss / MI_KiB, commit / MI_KiB, peak_commit / MI_KiB);
}
void mi_process_info_print(void) { mi_process_info_print_out(NULL, NULL); }

// --- the process's life -----------------------------------------------------------------------------------------

void mi_process_done(void) {
  if (_mi_tls.thread != NULL) mi_collect(true);
}

void mi_thread_set_in_threadpool(void) {}

bool mi_is_redirected(void) {
  // Whatever malloc is in this process: only the address of a block tells.
  void* (*volatile const allocate)(size_t) = malloc;
  void (*volatile const release)(void*) = free;
  const int saved = errno;
  void* const p = allocate(1);
  const bool ours = mi_any_heap_contains(p);
  release(p);
  errno = saved;
  return ours;
}
