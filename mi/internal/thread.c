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

#include "mi/internal/core.h"
#include "mi/internal/options.h"
#include "mi/internal/os.h"

#define INDEX_BITS 20
#define RECORDS_PER_CHUNK 64
#define CHUNKS ((1u << INDEX_BITS) / RECORDS_PER_CHUNK)

_Thread_local mi_tls_t _mi_tls = {MI_THEAP_EMPTY, MI_TID_UNINIT, NULL, NULL, 0, NULL};

mi_heap_t _mi_heap_main;
mi_heap_t _mi_heap_internal;

static _Atomic(mi_thread_t*) chunks[CHUNKS];
static _Atomic(uint32_t) record_count;
static _Atomic(uint64_t) free_records;  // (tag << 32) | (index + 1); 0 in the low half: none
static pthread_key_t exit_key;
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

static mi_thread_t* record_new(void) {
  uint32_t index = mi_load_relaxed(&record_count);
  do {
    if (index >= (1u << INDEX_BITS)) return NULL;
  } while (!mi_cas_weak_acq_rel(&record_count, &index, index + 1));
  _Atomic(mi_thread_t*)* const place = &chunks[index / RECORDS_PER_CHUNK];
  mi_thread_t* chunk = mi_load_acquire(place);
  if (chunk == NULL) {
    mi_thread_t* const made = _mi_os_alloc(RECORDS_PER_CHUNK * sizeof(mi_thread_t));
    if (made == NULL) return NULL;  // the index is lost, which costs nothing
    if (mi_cas_strong_acq_rel(place, &chunk, made)) {
      chunk = made;
    } else {
      _mi_os_free(made, RECORDS_PER_CHUNK * sizeof(mi_thread_t));
    }
  }
  mi_thread_t* const thread = &chunk[index % RECORDS_PER_CHUNK];
  thread->index = index;
  return thread;
}

// --- the process --------------------------------------------------------------------------------------------

static void at_thread_end(void* thread) {
  if (_mi_tls.thread == thread) _mi_thread_exit(thread);
}

static void after_fork_in_child(void);

static void process_init(void) {
  _mi_options_init();
  if (_mi_option(mi_option_allow_thp) == 0) _mi_os_disallow_thp();
  pthread_key_create(&exit_key, at_thread_end);
  pthread_atfork(NULL, NULL, after_fork_in_child);
}

mi_cold mi_thread_t* _mi_thread_make(void) {
  const int saved = errno;
  pthread_once(&once, process_init);
  mi_thread_t* thread = record_pop();
  if (thread == NULL) thread = record_new();
  if (thread == NULL) return NULL;
  thread->generation++;
  const mi_tid_t id = (thread->generation << INDEX_BITS | thread->index) << 3;
  mi_store_relaxed(&thread->mail, 0u);
  mi_store_relaxed(&thread->collect_wanted, 0u);
  thread->segment_arena = NULL;
  thread->callback_depth = 0;
  thread->generic_count = 0;
  thread->heap_balance = 0;
  thread->handle_cache_limit = MI_HANDLE_CACHE_START;
  thread->handle_trims = 0;
  thread->subproc = NULL;
  memset(thread->part_cache, 0, sizeof(thread->part_cache));
  mi_store_release(&thread->id, id);
  _mi_theap_init(&thread->main_theap, &_mi_heap_main, thread);
  _mi_theap_init(&thread->internal_theap, &_mi_heap_internal, thread);
  _mi_tls.thread = thread;
  _mi_tls.tid = id;
  _mi_tls.theap = &thread->main_theap;
  pthread_setspecific(exit_key, thread);  // may allocate: the record is ready
  errno = saved;
  return thread;
}

void _mi_thread_exit(mi_thread_t* thread) {
  if (thread->callback_depth > 0) return;  // not from inside a callback
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
  _mi_tls.theap = MI_THEAP_EMPTY;
  _mi_tls.tid = MI_TID_UNINIT;
  _mi_tls.thread = NULL;
  _mi_tls.away_heap = NULL;
  pthread_setspecific(exit_key, NULL);
  mi_store_release(&thread->id, MI_TID_NONE);
  record_push(thread);
}

void _mi_threads_want_collect(mi_thread_t* self) {
  const uint32_t count = mi_load_acquire(&record_count);
  for (uint32_t i = 0; i < count; i++) {
    mi_thread_t* const thread = record_at(i);
    if (thread == NULL || thread == self || mi_load_relaxed(&thread->id) == MI_TID_NONE) continue;
    mi_store_relaxed(&thread->collect_wanted, 1u);
    mi_store_release(&thread->mail, 1u);
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

// A remote free of a thread that does not exist in the child may have stopped between its two halves.
static void settle_pages(mi_theap_t* theap) {
  for (size_t bin = 1; bin < MI_BIN_COUNT; bin++) {
    mi_page_t* const first = theap->queue[bin];
    mi_page_t* page = first;
    if (first == NULL) continue;
    do {
      const mi_thread_free_t tf = mi_load_relaxed(&page->thread_free);
      // The freer may not have told the theap yet: the next one does.
      const uintptr_t state = (page->in_full ? MI_DELAYED : MI_NORMAL);
      if (MI_STATE(tf) == MI_DELAYING) mi_store_relaxed(&page->thread_free, MI_WITH_STATE(tf, state));
      page = page->next;
    } while (page != first);
  }
}

static void settle_slot(mi_slot_t* slot, bool unused) {
  (void)unused;
  mi_theap_t* const theap = mi_load_relaxed(&slot->theap);
  if (theap != NULL && (mi_load_relaxed(&slot->word) & MI_SLOT_STATE) == MI_SLOT_LIVE) settle_pages(theap);
}

// The other threads' records stay as they are: their ids count as alive, so that nobody adopts their parts, which may
// have stopped in the middle of a change; frees into their pages are pushed and never collected.
static void after_fork_in_child(void) {
  const mi_thread_t* const self = _mi_tls.thread;
  const uint32_t count = mi_load_relaxed(&record_count);
  for (uint32_t i = 0; i < count; i++) {
    mi_thread_t* const thread = record_at(i);
    if (thread == NULL) continue;
    if (thread == self) {
      settle_pages(&thread->main_theap);
      settle_pages(&thread->internal_theap);
      _mi_thread_for_each_slot(thread, settle_slot, false);
    } else if (mi_load_relaxed(&thread->id) != MI_TID_NONE) {
      thread->forked = true;
    }
  }
  _mi_upcalls.after_fork();
}
