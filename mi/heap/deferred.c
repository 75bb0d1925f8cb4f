// The deferred_free callbacks: the process-wide one and those of heaps. Registration as one pair, when a call is due,
// and the one place that makes it. A callback runs with nothing held and may allocate and free; one flag per thread
// keeps callbacks from nesting, except that a heap which a callback ends gets its last call.
//
// When a heap's call is due is found on the slow paths of the heap, by what the calling thread allocated in its part
// since the last call. Nothing counts on the fast paths: blocks of pages are counted when they come to a free list
// (page.c), objects in regions when a slow path looks at the current region, as far as the bump went since the last
// look. Bytes are known from the bump; the number of objects takes a look at the start bits, and is kept only for a
// heap whose cadence goes by it. No clock is read and no address matters, so that the same program is called at the
// same allocations every time.
//
// A thread that ends makes a last call for every heap that it has a part of: its record lists them. Such a heap may be
// ended by another thread at that moment. The list names heaps by their mi_deferred_t, which is type-stable, and by
// their id: the thread pins the record, then compares the id; who ends the heap takes the id away, then waits for the
// pins (each sequentially consistent: one of the two sees the other). Heaps that no other thread had a part of skip
// that. The wait is for calls of threads that end, and is in destroy, delete, merge and reset only.
#include "mi/heap/deferred.h"

#include <errno.h>
#include <string.h>

#include "mi/internal/os.h"
#include "mi/internal/stack.h"
#include "mi/internal/stats.h"
#include "mi/internal/track.h"
#include "mi/mimalloc.h"

#define PAUSED ((uint64_t)1 << 63)         // no id is so high
#define BYTES_USUAL ((size_t)64 * MI_KiB)  // a page
#define SPARES_MAX 16                      // records that a thread keeps

_Atomic(const mi_pair_t*) _mi_deferred_pair;
_Atomic(uint8_t) _mi_deferred_armed;
static _Atomic(mi_deferred_t*) main_deferred;
static _Atomic(uint64_t) spares;
#define SPARE_LINK offsetof(mi_deferred_t, link)

// --- the process-wide callback ----------------------------------------------------------------------------------

void mi_register_deferred_free(mi_deferred_free_fun* deferred_free, void* arg) {
  const mi_pair_t* const pair = _mi_pair_intern((mi_any_fun*)deferred_free, arg);
  if (pair == NULL && deferred_free != NULL) return;  // no memory: errno is ENOMEM, the former pair stays
  mi_store_release(&_mi_deferred_pair, pair);
  if (pair != NULL) mi_fetch_or_acq_rel(&_mi_deferred_armed, (uint8_t)MI_ARMED_PROCESS);
}

static void process_call(mi_thread_t* thread, mi_heap_t* heap, bool force) {
  const mi_pair_t* const pair = mi_load_acquire(&_mi_deferred_pair);
  if (mi_likely(pair == NULL) || thread->callback_depth > 0) return;
  mi_callback_t frame = {NULL, heap, 0};
  mi_callback_enter(thread, &frame);
  mi_deferred_free_fun* const deferred_free = (mi_deferred_free_fun*)mi_load_relaxed(&pair->fun);
  MI_CALL_USER(deferred_free(force, thread->heartbeat, pair->arg));
  mi_callback_leave(thread, &frame);
}

// --- records ------------------------------------------------------------------------------------------------------

static _Atomic(mi_deferred_t*)* deferred_word(mi_heap_t* heap) {  // NULL: the heap has no extras
  if (heap == &_mi_heap_main) return &main_deferred;
  mi_heap_extra_t* const extra = mi_load_acquire(mi_heap_extra_word(heap));
  return (extra == NULL ? NULL : &extra->deferred);
}

static inline mi_deferred_t* deferred_of(mi_heap_t* heap) {
  _Atomic(mi_deferred_t*)* const word = deferred_word(heap);
  return (word == NULL ? NULL : mi_load_acquire(word));
}

static mi_deferred_t* record_take(mi_thread_t* thread) {
  mi_deferred_t* deferred = thread->deferred_spare;
  if (mi_likely(deferred != NULL)) {
    thread->deferred_spare = deferred->spare;
    thread->deferred_spare_count--;
    return deferred;
  }
  deferred = mi_stack_pop(&spares, SPARE_LINK);
  return (deferred != NULL ? deferred : _mi_internal_zalloc(thread, sizeof(mi_deferred_t)));
}

static void record_recycle(mi_deferred_t* deferred) {
  for (mi_deferred_pair_t* pair = mi_load_relaxed(&deferred->pairs); pair != NULL;) {
    mi_deferred_pair_t* const next = pair->next;
    _mi_internal_free(pair);
    pair = next;
  }
  mi_thread_t* const thread = _mi_tls.thread;
  if (thread == NULL || thread->deferred_spare_count >= SPARES_MAX) {
    mi_stack_push(&spares, deferred, SPARE_LINK);
    return;
  }
  deferred->spare = thread->deferred_spare;
  thread->deferred_spare = deferred;
  thread->deferred_spare_count++;
}

// Everything but the pins, which a thread that ends may just be changing.
static void record_init(mi_deferred_t* deferred, mi_heap_t* heap) {
  deferred->heap = heap;
  deferred->cadence = SIZE_MAX;
  deferred->bytes = BYTES_USUAL;
  mi_store_relaxed(&deferred->pair, NULL);
  mi_store_relaxed(&deferred->heartbeat, 0);
  mi_store_relaxed(&deferred->pairs, NULL);
  deferred->first.fun = NULL;
  memset(&deferred->home, 0, sizeof(deferred->home));
  // Release: who finds the id finds the rest.
  mi_store_release(&deferred->id, heap == &_mi_heap_main ? 1 : mi_load_relaxed(&heap->home.id));
}

// --- what a thread has allocated ------------------------------------------------------------------------------------

static inline mi_deferred_part_t* part_state(mi_deferred_t* deferred, mi_part_t* part) {
  return (part == &part->heap->home ? &deferred->home : (mi_deferred_part_t*)part->handle_line);
}

// The calling thread's part of a heap other than the main one; NULL: it has none.
static mi_part_t* part_of_self(const mi_thread_t* thread, mi_heap_t* heap) {
  if (mi_likely(mi_region_is_mine(&heap->home.region))) return &heap->home;
  if (_mi_tls.away_heap == heap && mi_load_relaxed(&heap->home.id) == _mi_tls.away_id) return _mi_tls.away_part;
  const mi_tid_t self = mi_load_relaxed(&thread->id);
  MI_FOR_EACH_PART(heap, part) {
    if (mi_part_owner(part) == self) return part;
  }
  return NULL;
}

// How many objects start in the granules [from, to) of a region; gaps before aligned ones are none.
static size_t region_starts(const mi_region_t* region, size_t from, size_t to) {
  size_t count = 0;
  for (size_t at = from; at < to;) {
    const size_t next = ((at / 64 + 1) * 64 < to ? (at / 64 + 1) * 64 : to);
    _Atomic(uint64_t)* const word = mi_region_words(region, at);
    uint64_t starts = mi_load_relaxed(&word[0]) & ~(mi_load_relaxed(&word[1]) & mi_load_relaxed(&word[2]));
    starts >>= at % 64;
    if (next - at < 64) starts &= ((uint64_t)1 << (next - at)) - 1;
    count += mi_popcount(starts);
    at = next;
  }
  return count;
}

static inline size_t region_granule(const mi_region_t* region, const uint8_t* at) {
  return (size_t)(at - (const uint8_t*)region) / 16;
}

// Counts what was allocated in the current region since the last look. Regions are left on slow paths only, after this.
static inline void part_count(const mi_deferred_t* deferred, mi_part_t* part, mi_deferred_part_t* state) {
  const mi_region_t* const region = part->current;
  const uint8_t* const bump = mi_load_relaxed(&part->bump);
  const uint8_t* from = state->counted;
  if (state->region != region) from = (const uint8_t*)region + region->first * (size_t)16;
  state->region = region;
  state->counted = bump;
  if (bump <= from) return;  // the last object may have been made smaller
  state->bytes += (size_t)(bump - from);
  if (deferred->cadence != SIZE_MAX)
    state->blocks += region_starts(region, region_granule(region, from), region_granule(region, bump));
}

void _mi_deferred_region_emptied(const mi_region_t* region, mi_part_t* part) {
  mi_deferred_t* const deferred = deferred_of(part->heap);
  if (deferred == NULL) return;
  mi_deferred_part_t* const state = part_state(deferred, part);
  if (state->region == region) state->region = NULL;
}

void _mi_deferred_count(mi_part_t* part) {
  mi_deferred_t* const deferred = deferred_of(part->heap);
  if (deferred != NULL) part_count(deferred, part, part_state(deferred, part));
}

void _mi_deferred_rewound(mi_part_t* part) {
  mi_deferred_t* const deferred = deferred_of(part->heap);
  if (deferred == NULL) return;
  mi_deferred_part_t* const state = part_state(deferred, part);
  state->region = part->current;
  state->counted = mi_load_relaxed(&part->bump);
}

// The objects in regions: counted, or told from their bytes and the sizes of those in the current region.
static size_t part_blocks(const mi_deferred_t* deferred, const mi_part_t* part, const mi_deferred_part_t* state) {
  if (deferred->cadence != SIZE_MAX || state->bytes == 0) return state->blocks;
  const mi_region_t* const region = part->current;
  const size_t last = region_granule(region, mi_load_relaxed((_Atomic(uint8_t*)*)&part->bump));
  const size_t starts = region_starts(region, region->first, last);
  const size_t granules = state->bytes / 16;
  return (starts == 0 ? granules / 4 : granules * starts / (last - region->first)) + 1;
}

// --- heaps that a thread has a part of -------------------------------------------------------------------------------

#define ENTRIES_FIRST 96  // 1.5 KiB: no power of two, as all blocks of the internal heap but regions

static size_t entries_size(size_t capacity) { return capacity * sizeof(mi_deferred_entry_t); }

static void entries_free(mi_thread_t* thread) {
  if (thread->deferred_capacity > ENTRIES_FIRST) {
    _mi_os_free(thread->deferred_heaps, entries_size(thread->deferred_capacity));
  } else if (thread->deferred_heaps != NULL) {
    _mi_internal_free(thread->deferred_heaps);
  }
}

// Room for one more: heaps that ended are dropped, unless the thread is walking the list. False: no memory.
static bool entries_make_room(mi_thread_t* thread) {
  mi_deferred_entry_t* const entries = thread->deferred_heaps;
  uint32_t count = 0;
  if (thread->callback_depth == 0) {
    for (uint32_t i = 0; i < thread->deferred_count; i++) {
      if ((mi_load_relaxed(&entries[i].deferred->id) & ~PAUSED) == entries[i].id) entries[count++] = entries[i];
    }
    thread->deferred_count = count;
    if (count < thread->deferred_capacity / 2) return true;
  }
  const uint32_t capacity = (entries == NULL ? ENTRIES_FIRST : 4 * thread->deferred_capacity);
  mi_deferred_entry_t* const grown =
      (entries == NULL ? _mi_internal_alloc(thread, entries_size(capacity)) : _mi_os_alloc(entries_size(capacity)));
  if (grown == NULL) return thread->deferred_count < thread->deferred_capacity;
  if (entries != NULL) memcpy(grown, entries, entries_size(thread->deferred_count));
  entries_free(thread);
  thread->deferred_heaps = grown;
  thread->deferred_capacity = capacity;
  return true;
}

static inline void join(mi_thread_t* thread, mi_deferred_t* deferred, mi_deferred_part_t* state) {
  if (mi_unlikely(thread->deferred_count == thread->deferred_capacity) && !entries_make_room(thread)) return;
  if (state == &deferred->home) deferred->entry = thread->deferred_count;
  ((mi_deferred_entry_t*)thread->deferred_heaps)[thread->deferred_count++] =
      (mi_deferred_entry_t){deferred, mi_load_relaxed(&deferred->id) & ~PAUSED};
  state->joined = mi_load_relaxed(&thread->id);
}

void _mi_deferred_join(mi_thread_t* thread, mi_part_t* part) {
  mi_deferred_t* const deferred = deferred_of(part->heap);
  if (deferred != NULL) join(thread, deferred, part_state(deferred, part));
}

// --- calls -----------------------------------------------------------------------------------------------------------

static void heap_call(mi_thread_t* thread, mi_deferred_t* deferred, bool force, size_t budget) {
  // Acquire: the pair is as it was made. It lives as long as the heap.
  const mi_deferred_pair_t* const pair = mi_load_acquire(&deferred->pair);
  if (pair == NULL) return;
  mi_heap_t* const heap = deferred->heap;
  mi_callback_t frame = {NULL, heap, budget};
  mi_callback_enter(thread, &frame);
  // One number for each call, of whatever thread. Who ends a call before another begins has the smaller one, since the
  // changes of one word have one order.
  const unsigned long long heartbeat = mi_fetch_add_relaxed(&deferred->heartbeat, 1) + 1;
  MI_CALL_USER(pair->fun(heap, force, heartbeat, pair->arg));
  mi_callback_leave(thread, &frame);
}

// What the calling thread has of a heap: its theap (the empty one: none), and for a heap with regions its part.
static mi_theap_t* counts_of(mi_thread_t* thread, mi_deferred_t* deferred, mi_part_t** part,
                             mi_deferred_part_t** state) {
  *part = NULL;
  *state = NULL;
  if (deferred->heap == &_mi_heap_main) return &thread->main_theap;
  *part = part_of_self(thread, deferred->heap);
  if (*part == NULL) return MI_THEAP_EMPTY;
  *state = part_state(deferred, *part);
  return mi_load_relaxed(&(*part)->theap);
}

static void counts_clear(mi_theap_t* theap, mi_deferred_part_t* state) {
  if (theap != MI_THEAP_EMPTY) theap->supplied_blocks = theap->supplied_bytes = 0;
  if (state != NULL) state->bytes = state->blocks = 0;
}

static void heap_force(mi_thread_t* thread, mi_deferred_t* deferred) {
  if (thread != NULL) {
    mi_part_t* part;
    mi_deferred_part_t* state;
    mi_theap_t* const theap = counts_of(thread, deferred, &part, &state);
    counts_clear(theap, state);
  }
  heap_call(thread, deferred, true, SIZE_MAX);
}

static inline void heap_step(mi_thread_t* thread, mi_deferred_t* deferred) {
  mi_part_t* part;
  mi_deferred_part_t* state;
  mi_theap_t* const theap = counts_of(thread, deferred, &part, &state);
  size_t bytes = theap->supplied_bytes, blocks = theap->supplied_blocks;
  if (part != NULL) {
    if (mi_unlikely(state->joined != _mi_tls.tid)) join(thread, deferred, state);
    part_count(deferred, part, state);
    bytes += state->bytes;
    blocks += state->blocks;
  }
  if (mi_likely(bytes < deferred->bytes && blocks < deferred->cadence)) return;
  if (thread->callback_depth > 0) return;  // due on the next slow path
  if (part != NULL) blocks = theap->supplied_blocks + part_blocks(deferred, part, state);
  counts_clear(theap, state);
  heap_call(thread, deferred, false, blocks);
}

void _mi_deferred_step(mi_thread_t* thread, mi_heap_t* heap) {
  if (mi_load_relaxed(&_mi_deferred_pair) != NULL) process_call(thread, heap, false);
  mi_deferred_t* const deferred = deferred_of(heap);
  if (deferred != NULL) heap_step(thread, deferred);
}

void _mi_deferred_force(mi_thread_t* thread, mi_heap_t* heap) {
  mi_deferred_t* const deferred = deferred_of(heap);
  if (deferred != NULL && thread->callback_depth == 0) heap_force(thread, deferred);
}

void _mi_deferred_call(mi_thread_t* thread, mi_heap_t* heap, bool force) {
  process_call(thread, heap, force);
  mi_deferred_t* const deferred = deferred_of(heap);
  if (mi_likely(deferred == NULL)) return;
  if (force) {
    if (thread->callback_depth == 0) heap_force(thread, deferred);
  } else {
    heap_step(thread, deferred);
  }
}

// --- heaps of the same configuration (prepared.c)
// -------------------------------------------------------------------------------------------------------------

void _mi_deferred_join_again(mi_thread_t* thread, mi_deferred_t* deferred) { join(thread, deferred, &deferred->home); }

// --- ends
// -------------------------------------------------------------------------------------------------------------

// Pins of threads that did not survive a fork do not count.
static bool is_pinned(mi_deferred_t* deferred) {
  const uint64_t pins = mi_load_seq_cst(&deferred->pins);
  return (uint32_t)pins != 0 && pins >> 32 == _mi_fork_stamp;
}

static void pin_change(mi_deferred_t* deferred, int by) {
  const uint64_t stamp = (uint64_t)_mi_fork_stamp << 32;
  uint64_t pins = mi_load_relaxed(&deferred->pins);
  uint64_t next;
  do {
    const bool is_current = (pins >> 32 << 32) == stamp;
    if (by < 0 && !is_current) return;  // made before the fork
    next = (is_current ? pins + (uint64_t)(int64_t)by : stamp | 1);
  } while (
      !atomic_compare_exchange_weak_explicit(&deferred->pins, &pins, next, memory_order_seq_cst, memory_order_relaxed));
}

// From here on no thread that ends calls for the heap. `id`: 0, or the heap's with PAUSED.
static void heap_silence(mi_deferred_t* deferred, uint64_t id) {
  mi_heap_t* const heap = deferred->heap;
  if (mi_likely(mi_region_is_mine(&heap->home.region)) && mi_load_acquire(&heap->parts) == NULL) {
    mi_store_relaxed(&deferred->id, id);  // no other thread that runs has a part of it
    return;
  }
  mi_exchange_seq_cst(&deferred->id, id);
  while (is_pinned(deferred)) {
    mi_count(&_mi_stats.heap_waits, 1);
    _mi_os_yield();
  }
}

// The heap's extras go, or the heap: the record is recycled.
void _mi_deferred_drop(mi_heap_extra_t* extra) {
  mi_deferred_t* const deferred = mi_load_acquire(&extra->deferred);
  if (deferred == NULL) return;
  if (mi_load_relaxed(&deferred->id) != 0) heap_silence(deferred, 0);
  mi_store_release(&extra->deferred, NULL);
  record_recycle(deferred);
}

void _mi_deferred_end(mi_heap_t* heap) {
  mi_heap_extra_t* const extra = (mi_heap_extra_t*)mi_heap_extra(heap);
  mi_deferred_t* const deferred = (extra == NULL ? NULL : mi_load_acquire(&extra->deferred));
  if (deferred == NULL) return;
  heap_force(mi_thread(), deferred);
  _mi_deferred_drop(extra);
}

void _mi_deferred_reset_begin(mi_heap_t* heap) {
  mi_deferred_t* const deferred = deferred_of(heap);
  if (mi_likely(deferred == NULL)) return;
  heap_force(mi_thread(), deferred);
  heap_silence(deferred, mi_load_relaxed(&heap->home.id) | PAUSED);
}

void _mi_deferred_reset_end(mi_heap_t* heap) {
  mi_deferred_t* const deferred = deferred_of(heap);
  if (mi_likely(deferred == NULL)) return;
  MI_FOR_EACH_PART(heap, part) {
    mi_deferred_part_t* const state = part_state(deferred, part);
    state->region = NULL;
    state->bytes = state->blocks = 0;
  }
  mi_store_release(&deferred->id, mi_load_relaxed(&heap->home.id));
}

#define EXIT_ROUNDS 4  // heaps that the callbacks allocate in for the first time

void _mi_deferred_thread_exit(mi_thread_t* thread) {
  if (mi_likely(mi_load_acquire(&_mi_deferred_armed) == 0)) return;
  process_call(thread, &_mi_heap_main, true);
  mi_deferred_t* const of_main = mi_load_acquire(&main_deferred);
  if (of_main != NULL) heap_force(thread, of_main);
  uint32_t done = 0;
  for (int round = 0; round < EXIT_ROUNDS && done < thread->deferred_count; round++) {
    for (const uint32_t end = thread->deferred_count; done < end; done++) {
      const mi_deferred_entry_t entry = ((const mi_deferred_entry_t*)thread->deferred_heaps)[done];
      pin_change(entry.deferred, 1);
      if (mi_load_seq_cst(&entry.deferred->id) == entry.id) heap_force(thread, entry.deferred);
      pin_change(entry.deferred, -1);
    }
  }
  entries_free(thread);
  thread->deferred_heaps = NULL;
  thread->deferred_count = thread->deferred_capacity = 0;
  while (thread->deferred_spare != NULL) {
    mi_deferred_t* const deferred = thread->deferred_spare;
    thread->deferred_spare = deferred->spare;
    mi_stack_push(&spares, deferred, SPARE_LINK);
  }
  thread->deferred_spare_count = 0;
}

// --- registration
// --------------------------------------------------------------------------------------------------------

// The heap's record, made if need be. NULL: no memory.
static mi_deferred_t* deferred_make(mi_thread_t* thread, mi_heap_t* heap) {
  if (heap != &_mi_heap_main && _mi_heap_extra_make(heap) == NULL) return NULL;
  _Atomic(mi_deferred_t*)* const word = deferred_word(heap);
  mi_deferred_t* seen = mi_load_acquire(word);
  if (seen != NULL) return seen;
  mi_deferred_t* const made = record_take(thread);
  if (made == NULL) return NULL;
  record_init(made, heap);
  if (!mi_cas_strong_acq_rel(word, &seen, made)) {
    mi_store_relaxed(&made->id, 0);
    record_recycle(made);
    return seen;
  }
  if ((mi_load_relaxed(&_mi_deferred_armed) & MI_ARMED_HEAPS) == 0)
    mi_fetch_or_acq_rel(&_mi_deferred_armed, (uint8_t)MI_ARMED_HEAPS);
  if (heap != &_mi_heap_main && mi_region_is_mine(&heap->home.region)) join(thread, made, &made->home);
  return made;
}

// The pair among those that the heap has had, or a new one. NULL: no memory.
static const mi_deferred_pair_t* pair_of(mi_thread_t* thread, mi_deferred_t* deferred, mi_heap_deferred_free_fun* fun,
                                         void* arg) {
  if (deferred->first.fun == fun && deferred->first.arg == arg) return &deferred->first;
  mi_deferred_pair_t* head = mi_load_acquire(&deferred->pairs);
  for (mi_deferred_pair_t* pair = head; pair != NULL; pair = pair->next) {
    if (pair->fun == fun && pair->arg == arg) return pair;
  }
  mi_deferred_pair_t* const made = _mi_internal_alloc(thread, sizeof(mi_deferred_pair_t));
  if (made == NULL) return NULL;
  made->fun = fun;
  made->arg = arg;
  do {
    made->next = head;
    // Release: who finds the pair finds it made. Two threads may make the same pair twice: harmless.
  } while (!mi_cas_weak_acq_rel(&deferred->pairs, &head, made));
  return made;
}

bool mi_heap_register_deferred_free(mi_heap_t* heap, mi_heap_deferred_free_fun* deferred_free, void* arg) {
  if (heap == NULL) {
    _mi_error(EINVAL, "mi_heap_register_deferred_free: no heap\n");
    return false;
  }
  if (!_mi_heap_check_usable(heap, "mi_heap_register_deferred_free")) return false;
  if (deferred_free == NULL) {
    mi_deferred_t* const deferred = deferred_of(heap);
    if (deferred != NULL) mi_store_release(&deferred->pair, NULL);
    return true;
  }
  mi_thread_t* const thread = mi_thread();
  mi_deferred_t* const deferred = (thread == NULL ? NULL : deferred_make(thread, heap));
  const mi_deferred_pair_t* const pair = (deferred == NULL ? NULL : pair_of(thread, deferred, deferred_free, arg));
  if (pair == NULL) {
    _mi_error(ENOMEM, "mi_heap_register_deferred_free: no memory\n");
    return false;
  }
  mi_store_release(&deferred->pair, pair);
  return true;
}

bool _mi_deferred_configure(mi_heap_t* heap, const mi_heap_config_t* config) {
  mi_deferred_t* const deferred = deferred_make(_mi_tls.thread, heap);
  if (deferred == NULL) return false;
  if (config->deferred_cadence != 0) {
    deferred->cadence = config->deferred_cadence;
    deferred->bytes = SIZE_MAX;
  }
  if (config->deferred_bytes != 0) deferred->bytes = config->deferred_bytes;
  deferred->first.arg = config->deferred_arg;
  deferred->first.fun = config->deferred_free;
  if (config->deferred_free != NULL) mi_store_release(&deferred->pair, &deferred->first);
  return true;
}

size_t mi_heap_deferred_budget(mi_heap_t* heap) {
  const mi_thread_t* const thread = _mi_tls.thread;
  for (const mi_callback_t* frame = (thread == NULL ? NULL : thread->callbacks); frame != NULL; frame = frame->outer) {
    if (frame->heap == heap) return frame->budget;
  }
  return 0;
}
