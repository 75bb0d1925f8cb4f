// Threads: their records, their ids, first use and exit, and what fork leaves in the child.
//
// A record is type-stable memory: made once, used by one thread after the other, never returned while the process
// lives, so that any thread may read it. A thread's id is (generation of the record, index of the record) and is never
// used again; "is this thread alive" is one load: record->id == id. Exit hands over the thread's pages, then clears
// record->id (release): that one store orphans every young part that the thread owned, and who adopts one (acquire)
// sees all that the thread wrote.
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "mi/internal/account.h"
#include "mi/internal/core.h"
#include "mi/internal/options.h"
#include "mi/internal/os.h"
#include "mi/internal/stats.h"

#define INDEX_BITS MI_TID_INDEX_BITS
#define RECORDS_PER_CHUNK 64
#define CHUNKS ((1u << INDEX_BITS) / RECORDS_PER_CHUNK)

_Thread_local mi_tls_t _mi_tls = {
    .theap = MI_THEAP_EMPTY,
    .tid = MI_TID_UNINIT,
#if MI_GUARDED
    .guard_countdown = 1,  // the first allocation draws
#endif
};

mi_heap_t _mi_heap_main;
mi_heap_t _mi_heap_internal;

static _Atomic(mi_thread_t*) chunks[CHUNKS];
static _Atomic(uint32_t) record_count;
static _Atomic(uint64_t) free_records;  // (tag << 32) | (index + 1); 0 in the low half: none
static pthread_once_t once = PTHREAD_ONCE_INIT;

static mi_thread_t* record_at(uint32_t index) {
  mi_thread_t* const chunk = mi_load_acquire(&chunks[index / RECORDS_PER_CHUNK]);
  return (chunk == NULL ? NULL : &chunk[index % RECORDS_PER_CHUNK]);
}

mi_thread_t* _mi_thread_of(mi_tid_t id) { return record_at((uint32_t)(id >> 3) & ((1u << INDEX_BITS) - 1)); }

// --- records ----------------------------------------------------------------------------------------------

static void record_push(mi_thread_t* thread) {
  uint64_t head = mi_load_relaxed(&free_records);
  uint64_t next;
  do {
    const uint32_t below = (uint32_t)head;
    mi_store_relaxed(&thread->next_free, below == 0 ? NULL : record_at(below - 1));
    next = ((head >> 32) + 1) << 32 | (thread->index + 1);
  } while (!mi_cas_weak_acq_rel(&free_records, &head, next));
}

static mi_thread_t* record_pop(void) {
  uint64_t head = mi_load_acquire(&free_records);
  for (;;) {
    if ((uint32_t)head == 0) return NULL;
    mi_thread_t* const thread = record_at((uint32_t)head - 1);
    const mi_thread_t* const below = mi_load_relaxed(&thread->next_free);
    const uint64_t next = ((head >> 32) + 1) << 32 | (below == NULL ? 0 : below->index + 1);
    if (mi_cas_weak_acq_rel(&free_records, &head, next)) return thread;
  }
}

// The chunk that holds record `index`, made if need be; NULL: no memory.
static mi_thread_t* chunk_for(uint32_t index) {
  _Atomic(mi_thread_t*)* const place = &chunks[index / RECORDS_PER_CHUNK];
  mi_thread_t* chunk = mi_load_acquire(place);
  if (chunk != NULL) return chunk;
  mi_thread_t* const made = _mi_os_alloc(RECORDS_PER_CHUNK * sizeof(mi_thread_t));
  if (made == NULL || mi_cas_strong_acq_rel(place, &chunk, made)) return made;
  _mi_os_free(made, RECORDS_PER_CHUNK * sizeof(mi_thread_t));
  return chunk;
}

static mi_thread_t* record_new(void) {
  uint32_t index = mi_load_relaxed(&record_count);
  mi_thread_t* chunk;
  do {
    // The memory first: an index that was taken is never given back.
    if (index >= (1u << INDEX_BITS) || (chunk = chunk_for(index)) == NULL) return NULL;
  } while (!mi_cas_weak_acq_rel(&record_count, &index, index + 1));
  mi_thread_t* const thread = &chunk[index % RECORDS_PER_CHUNK];
  thread->index = index;
  return thread;
}

// --- the process --------------------------------------------------------------------------------------------

static pthread_key_t exit_key;
static _Atomic(bool) exit_key_lives;      // false: not made, or deleted
static _Atomic(uint32_t) exit_key_users;  // threads between the test of exit_key_lives and the use of the key
static _Atomic(uint32_t) process_id;      // 0 before the first use

// A thread may end in a callback or a visitor of ours (pthread_exit): nobody comes back to it.
static void thread_unwound(mi_thread_t* thread) {
  thread->callback_depth = 0;
  thread->callbacks = NULL;
  thread->callback_heap = NULL;
  if (thread->visits != NULL) _mi_upcalls.thread_unwound(thread);
}

static void at_thread_end(void* thread) {
  if (_mi_tls.thread != thread) return;
  thread_unwound(thread);
  _mi_thread_exit(thread);
}

static void exit_key_set(mi_thread_t* thread) {
  const uint8_t process = _mi_fork_stamp;
  // Sequentially consistent: either who deletes the key sees us, or we see that it is gone.
  atomic_fetch_add_explicit(&exit_key_users, 1, memory_order_seq_cst);
  if (mi_load_seq_cst(&exit_key_lives)) pthread_setspecific(exit_key, thread);  // may allocate, may fail
  if (process != _mi_fork_stamp) return;  // forked in a callback of that: the child counted anew
  atomic_fetch_sub_explicit(&exit_key_users, 1, memory_order_seq_cst);
}
// After the program's destructors and its atexit functions, or when a program closes the library.
static __attribute__((destructor)) void at_process_end(void) { _mi_upcalls.process_end(); }

static void before_fork(void) { _mi_upcalls.around_fork(true); }
static void after_fork(void) { _mi_upcalls.around_fork(false); }
static void after_fork_in_child(void);

static void process_init(void) {
  mi_store_relaxed(&process_id, _mi_os_process_id());
  if (_mi_option(mi_option_allow_thp) == 0) _mi_os_disallow_thp();
  if (pthread_key_create(&exit_key, at_thread_end) == 0) atomic_store(&exit_key_lives, true);
  pthread_atfork(before_fork, after_fork, after_fork_in_child);
  _mi_upcalls.process_start();
}

// In a shared library that a program may unload, the key's destructor must not outlive the code: threads that end later
// keep their records. (libmimalloc.so is never unloaded; handlers of fork go with their library.) Blocks may be in use
// after it, so that memory stays unless the option says otherwise.
#if defined(__PIC__) && !defined(__PIE__) && !defined(MI_SHARED_LIB)
__attribute__((destructor(101))) static void process_unload(void) {
  if (!atomic_exchange(&exit_key_lives, false)) return;
  while (mi_load_seq_cst(&exit_key_users) != 0) _mi_os_yield();
  pthread_key_delete(exit_key);
  if (_mi_option(mi_option_destroy_on_exit) == 0) return;
  for (size_t i = 0; i < CHUNKS; i++) {
    mi_thread_t* const chunk = mi_load_relaxed(&chunks[i]);
    if (chunk == NULL) break;
    _mi_os_free(chunk, RECORDS_PER_CHUNK * sizeof(mi_thread_t));
  }
  _mi_arenas_unmap();
}
#endif

// --- threads that ended without telling --------------------------------------------------------------------
// The key's destructor runs again for a thread that allocates in destructors after ours, but not after the last of
// PTHREAD_DESTRUCTOR_ITERATIONS rounds; nor for a thread that ends without destructors. Such records name a thread that
// the kernel no longer knows. They are looked for when the free records are used up, and by a forced collect.

#define RECORDS_BEFORE_REAP 16u
static _Atomic(uint32_t) reap_at = RECORDS_BEFORE_REAP;  // records

static uint64_t kernel_thread_word(const mi_thread_t* thread) {
  // Unknown to who shares the memory but not the process (vfork, clone), in which ids mean something else.
  const uint32_t process = _mi_os_process_id();
  if (process != mi_load_relaxed(&process_id)) return 0;
  return thread->generation << 22 | _mi_os_thread_id();
}

static uint32_t thread_end(mi_thread_t* thread);

// Ends a record in the name of its thread, which does not run any more.
static void thread_exit_for(mi_thread_t* thread) {
  const mi_tls_t own = _mi_tls;
  _mi_tls = (mi_tls_t){.theap = &thread->main_theap, .tid = mi_load_relaxed(&thread->id), .thread = thread};
  for (mi_slot_chunk_t* chunk = thread->slot_chunks; chunk != NULL; chunk = chunk->next) {
    for (size_t i = 0; i < MI_SLOTS_PER_CHUNK; i++) {
      mi_slot_t* const slot = &chunk->slot[i];
      if ((mi_load_acquire(&slot->word) & MI_SLOT_DEFAULT) != 0) _mi_tls.theap = mi_load_relaxed(&slot->theap);
    }
  }
  thread->reaper = own.thread;
  thread_unwound(thread);
  const uint32_t untold = thread_end(thread);
  _mi_tls = own;
  if (own.thread == NULL) return;  // it is just getting a record, and nobody is told
  exit_key_set(own.thread);
  own.thread->untold += untold;
  own.thread->alarm |= (untold != 0);
}

void _mi_threads_reap(void) {
  const mi_thread_t* const self = _mi_tls.thread;
  const uint32_t process = mi_load_relaxed(&process_id);
  if (process == 0 || process != _mi_os_process_id() || (self != NULL && self->callback_depth > 0)) return;
  const uint32_t count = mi_load_acquire(&record_count);
  uint32_t in_use = 0;
  for (uint32_t i = 0; i < count; i++) {
    mi_thread_t* const thread = record_at(i);
    if (thread == NULL || mi_load_relaxed(&thread->id) == MI_TID_NONE) continue;
    uint64_t word = mi_load_acquire(&thread->kernel_thread);
    // One thread gets the record. Not if it was ended, or used again, since the load: the generation tells.
    if (word != 0 && thread != self && !mi_thread_is_gone(thread) &&
        _mi_os_thread_is_gone(process, (uint32_t)word & ((1u << 22) - 1)) &&
        mi_cas_strong_acq_rel(&thread->kernel_thread, &word, (uint64_t)0)) {
      // All that the thread did comes before its end, and that before the kernel's answer.
      atomic_thread_fence(memory_order_seq_cst);
      thread_exit_for(thread);
    } else {
      in_use++;
    }
  }
  // Next when the records that are not known to be in use are as many as those that are: a look costs little per
  // record.
  const uint32_t next = 2 * in_use;
  mi_store_relaxed(&reap_at, next < RECORDS_BEFORE_REAP ? RECORDS_BEFORE_REAP : next);
}

static mi_thread_t* record_take(void) {
  mi_thread_t* thread = record_pop();
  if (thread == NULL && mi_load_relaxed(&record_count) >= mi_load_relaxed(&reap_at)) {
    _mi_threads_reap();
    thread = record_pop();
  }
  return (thread == NULL ? record_new() : thread);
}

// --- first use and exit -----------------------------------------------------------------------------------------

mi_cold mi_thread_t* _mi_thread_make(void) {
  const int saved = errno;
  _mi_options_init();
  mi_thread_t* const thread = record_take();
  if (thread == NULL) return NULL;
  thread->generation++;
  const mi_tid_t id = (thread->generation << INDEX_BITS | thread->index) << 3;
  mi_store_relaxed(&thread->mail, 0u);
  mi_store_relaxed(&thread->collect_wanted, 0u);
  thread->segment_arena = NULL;
  thread->callback_depth = 0;
  thread->reaper = NULL;
  thread->callbacks = NULL;
  thread->callback_heap = NULL;
  thread->generic_count = 0;
  thread->heap_balance = 0;
  thread->handle_cache_limit = MI_HANDLE_CACHE_START;
  thread->handle_trims = 0;
  mi_store_relaxed(&thread->subproc, NULL);
  thread->stack_known = (mi_stack_range_t){0, 0};
  thread->guards_made = 0;
#if MI_GUARDED
  static _Atomic(uint64_t) numbers;
  thread->guard_number = mi_fetch_add_relaxed(&numbers, 1);
  thread->guard_epoch = 0;
#endif
  thread->visits = NULL;
  memset(thread->part_cache, 0, sizeof(thread->part_cache));
  mi_store_release(&thread->id, id);
  mi_gauge_add(&_mi_stats.threads, 1);
  mi_gauge_add(&_mi_stats.theaps, 1);
  _mi_theap_init(&thread->main_theap, &_mi_heap_main, thread);
  _mi_theap_init(&thread->internal_theap, &_mi_heap_internal, thread);
  _mi_tls.thread = thread;
  _mi_tls.tid = id;
  _mi_tls.theap = &thread->main_theap;
  // The record is ready: what follows may allocate.
  pthread_once(&once, process_init);
  mi_store_release(&thread->kernel_thread, kernel_thread_word(thread));
  exit_key_set(thread);
  errno = saved;
  return thread;
}

// Returns how many double frees the error callback is to be told of.
static uint32_t thread_end(mi_thread_t* thread) {
  mi_account_thread_ends(thread);
  if (_mi_tls.theap != &thread->main_theap) {
    mi_theap_t* const former = _mi_tls.theap;
    _mi_tls.theap = &thread->main_theap;
    _mi_slot_clear_default(former);
  }
  _mi_upcalls.thread_exit(thread);
  if (_mi_tls.theap != &thread->main_theap) {  // the callback chose another default
    mi_theap_t* const former = _mi_tls.theap;
    _mi_tls.theap = &thread->main_theap;
    _mi_slot_clear_default(former);
  }
  _mi_thread_exit_slots(thread);
  _mi_upcalls.thread_flush(thread);
  _mi_theap_abandon(&thread->main_theap, true);
  _mi_theap_abandon(&thread->internal_theap, true);
  _mi_purge_spared();
  _mi_tls.theap = MI_THEAP_EMPTY;
  _mi_tls.tid = MI_TID_UNINIT;
  _mi_tls.thread = NULL;
  _mi_tls.away_heap = NULL;
#if MI_GUARDED
  _mi_tls.guard_countdown = 1;
#endif
  exit_key_set(NULL);
  mi_gauge_sub(&_mi_stats.threads, 1);
  mi_gauge_sub(&_mi_stats.theaps, 1);
  mi_store_relaxed(&thread->kernel_thread, (uint64_t)0);
  const uint32_t untold = thread->untold;
  thread->untold = 0;
  mi_store_release(&thread->id, MI_TID_NONE);
  record_push(thread);
  return untold;
}

void _mi_thread_exit(mi_thread_t* thread) {
  if (thread->callback_depth > 0 || thread->visits != NULL) return;  // not from inside a callback or a visitor
  const uint32_t untold = thread_end(thread);
  if (mi_likely(untold == 0)) return;
  mi_thread_t* const other = mi_thread();  // the callback may allocate, and is known there as one that runs
  if (other == NULL) return;
  other->untold += untold;
  other->alarm = true;
  _mi_freed_twice_tell(other, &_mi_heap_main);
}

void _mi_threads_want_collect(mi_thread_t* self) {
  const uint32_t count = mi_load_acquire(&record_count);
  for (uint32_t i = 0; i < count; i++) {
    mi_thread_t* const thread = record_at(i);
    if (thread == NULL || thread == self || mi_load_relaxed(&thread->id) == MI_TID_NONE) continue;
    if (mi_thread_is_gone(thread)) continue;
    mi_store_relaxed(&thread->collect_wanted, 1u);
    mi_store_release(&thread->mail, 1u);
  }
}

// Calls `fn` for every record, used or not, with what is the record's for ever.
void _mi_threads_each(void (*fn)(mi_thread_t*, void*), void* arg) {
  const uint32_t count = mi_load_acquire(&record_count);
  for (uint32_t i = 0; i < count; i++) {
    mi_thread_t* const thread = record_at(i);
    if (thread != NULL) fn(thread, arg);
  }
}

// Calls `fn` for every record that nobody uses.
void _mi_threads_each_free(void (*fn)(mi_thread_t*)) {
  const uint32_t count = mi_load_acquire(&record_count);
  for (uint32_t i = 0; i < count; i++) {
    mi_thread_t* const thread = record_at(i);
    if (thread != NULL && mi_load_acquire(&thread->id) == MI_TID_NONE) fn(thread);
  }
}

// --- fork -----------------------------------------------------------------------------------------------------

uint8_t _mi_fork_stamp = 1;

// The thread that forked, and while it ends the record of a thread that did not tell, both records.
static bool is_survivor(const mi_thread_t* self, const mi_thread_t* thread) {
  for (; self != NULL; self = self->reaper) {
    if (self == thread) return true;
  }
  return false;
}

static bool visits_main(const mi_thread_t* self) {
  for (; self != NULL; self = self->reaper) {
    for (const mi_visit_t* visit = self->visits; visit != NULL; visit = visit->outer) {
      if (visit->heap == &_mi_heap_main) return true;
    }
  }
  return false;
}

// The other threads' records stay as they are: their ids count as alive, so that nobody adopts their parts, which may
// have stopped in the middle of a change; frees into their pages are pushed and never collected. What ARCHITECTURE.md
// says of each shared word is done here or, if it needs a search, where it matters. No lock is taken and nothing is
// allocated.
static void after_fork_in_child(void) {
  mi_thread_t* const self = _mi_tls.thread;
  mi_store_relaxed(&process_id, _mi_os_process_id());
  mi_store_relaxed(&exit_key_users, 0u);
  const uint32_t count = mi_load_relaxed(&record_count);
  for (uint32_t i = 0; i < count; i++) {
    mi_thread_t* const thread = record_at(i);
    if (thread == NULL) continue;
    // Only where something changes: stores copy pages of memory.
    const bool survives = is_survivor(self, thread);
    const uint64_t gone = thread->generation - (survives ? 1 : 0);
    if (thread->gone != gone) thread->gone = gone;
    if (survives || mi_load_relaxed(&thread->id) == MI_TID_NONE) _mi_held_forget(thread);
  }
  const bool main_visited = (mi_load_relaxed(&_mi_heap_main.visiting) == _mi_fork_stamp && !visits_main(self));
  _mi_fork_stamp = (_mi_fork_stamp == UINT8_MAX ? 2 : _mi_fork_stamp + 1);
  _mi_span_settle();
  _mi_arenas_settle();
  _mi_orphans_after_fork();
  int64_t threads = 0, theaps = 0;
  for (mi_thread_t* thread = self; thread != NULL; thread = thread->reaper) {
    mi_store_relaxed(&thread->kernel_thread, kernel_thread_word(thread));
    thread->random = 0;  // the child's order of blocks is its own
    _mi_theap_settle(&thread->main_theap, main_visited);
    _mi_theap_settle(&thread->internal_theap, false);
    theaps += 1 + _mi_slots_settle(thread);
    threads++;
    _mi_upcalls.after_fork(thread);
  }
  if (self == NULL) _mi_upcalls.after_fork(NULL);
  mi_store_relaxed(&_mi_stats.threads.current, threads);
  mi_store_relaxed(&_mi_stats.theaps.current, theaps);
}
