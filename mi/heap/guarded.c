// Guarded mode: which allocations get a block between inaccessible pages (mi/internal/guard.c). In builds with
// MI_GUARDED a sample of all, in every build a sample of those in heaps that were made with MI_HEAP_GUARDED.
//
// Every allocation is chosen with the same chance, 1/rate, whatever was chosen before: no pattern of the program can
// keep in step with it. Two ways come to that:
//  * a thread draws how many allocations it makes until the next one is chosen (the gaps between such choices are
//    distributed geometrically), and counts down, which is all that the fast paths of a guarded build do: one
//    instruction and one branch. The numbers come from a stream of the thread's own, which the seed and the thread's
//    number give, so that the same program with the same seed guards the same allocations of each thread in every run.
//    Threads are numbered as they first allocate.
//  * a heap with settings of its own counts its allocations, and asks a hash of seed and number. The heap's threads
//    share the count.
// Both are computed in integers: the same on every machine, and no floating-point state of the program is touched.
//
// The countdown, with `guard_left` of the thread's record: allocations until the next one that is chosen, all of them
// in the countdown; or 1 in the countdown and the others in guard_left, so that every allocation comes by here: while
// the thread's default heap has settings of its own, and once when options or default heap change.
#include <errno.h>
#include <string.h>

#include "mi/heap/checked.h"
#include "mi/internal/guard.h"
#include "mi/internal/os.h"
#include "mi/mimalloc.h"

#define RATE_MAX ((size_t)1 << 31)
#define POLICY_RATE 4000  // of a heap made with MI_HEAP_GUARDED where neither the option nor the program says

// --- chance --------------------------------------------------------------------------------------------------------

#define STEP 0x9e3779b97f4a7c15u

static uint64_t mix(uint64_t x) {  // the finaliser of SplitMix64 (Steele, Lea, Flood: OOPSLA 2014)
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return x ^ x >> 31;
}

static uint64_t seed_of(size_t seed) {  // 0: another one each time, and in each process
  static _Atomic(uint64_t) drawn;
  if (seed != 0) return mix(seed);
  return mix(_mi_os_secret() ^ _mi_os_clock_ms() << 32 ^ mi_fetch_add_relaxed(&drawn, STEP));
}

// Is the `number`th one chosen?
static bool is_chosen(uint64_t seed, uint64_t number, size_t rate) {
  return rate == 1 || (rate != 0 && mix(seed + number * STEP) <= UINT64_MAX / rate);
}

// --- the settings of a heap -----------------------------------------------------------------------------------------

// NULL: it has none. Made at the first call and kept until the heap goes.
static mi_guard_settings_t* heap_settings(mi_heap_t* heap) {
  mi_heap_extra_t* const extra = mi_load_acquire(mi_heap_extra_word(heap));
  return (extra == NULL || mi_load_acquire(&extra->guard.is_set) == 0 ? NULL : &extra->guard);
}

static mi_guard_settings_t* heap_settings_make(mi_heap_t* heap) {
  mi_heap_extra_t* const extra = _mi_heap_extra_make(heap);
  if (extra == NULL) {
    _mi_error(ENOMEM, "no memory for the guard settings of heap %p (%s)\n", (void*)heap, mi_heap_name(heap));
    return NULL;
  }
  mi_guard_settings_t* const guard = &extra->guard;
  if (mi_load_acquire(&guard->is_set) == 0) {
    const size_t rate = (size_t)_mi_option(mi_option_guarded_sample_rate);
    mi_store_relaxed(&guard->rate, rate != 0 || MI_GUARDED ? rate : POLICY_RATE);
    mi_store_relaxed(&guard->seed, seed_of((size_t)_mi_option(mi_option_guarded_sample_seed)));
    mi_store_relaxed(&guard->min, (size_t)_mi_option(mi_option_guarded_min));
    mi_store_relaxed(&guard->max, (size_t)_mi_option(mi_option_guarded_max));
    mi_store_release(&guard->is_set, (uint8_t)1);
  }
  return guard;
}

static bool settings_choose(mi_guard_settings_t* settings, size_t size) {
  if (size < mi_load_relaxed(&settings->min) || size > mi_load_relaxed(&settings->max)) return false;
  const uint64_t number = mi_fetch_add_relaxed(&settings->count, 1);
  return is_chosen(mi_load_relaxed(&settings->seed), number, mi_load_relaxed(&settings->rate));
}

// --- blocks --------------------------------------------------------------------------------------------------------

static void* guarded_block(mi_theap_t* theap, const mi_request_t* request) {
  const long where = _mi_option(mi_option_guarded_before);
  const size_t precise = (_mi_option(mi_option_guarded_precise) != 0 ? 1 : MI_MIN_ALIGN);
  const mi_guard_request_t r = {
      .size = request->size,
      .alignment = (request->alignment > precise ? request->alignment : precise),
      .zero = request->zero,
      .before = (where == 1 || (where == 2 && mix(theap->thread->guards_made++ * STEP) % 2 == 0)),
      .frame = request->frame,
  };
  mi_guard_t* const guard = _mi_guard_make(theap, &r);
  if (guard == NULL) return NULL;
  const char* const name = mi_heap_name(theap->heap);
  for (size_t i = 0; i + 1 < sizeof(guard->heap_name) && name[i] != 0; i++) {
    guard->heap_name[i] = name[i];
    guard->heap_name[i + 1] = 0;
  }
  return guard->block;
}

static bool can_be_guarded(const mi_request_t* request) {
  return request->offset == 0 && request->alignment <= MI_OS_PAGE && request->size <= MI_ALLOC_MAX;
}

void* _mi_guarded_serve(mi_theap_t* theap, const mi_request_t* given) {
  if (MI_TRACKED) return NULL;  // the tool sees every block already
  mi_request_t r = *given;
  if (MI_TAIL) r.size -= MI_TAIL_SIZE;  // a guarded block has none (checked.c)
  const mi_request_t* const request = &r;
  mi_guard_settings_t* settings = heap_settings(theap->heap);
  if (settings == NULL) settings = heap_settings_make(theap->heap);
  if (settings == NULL || !can_be_guarded(request) || !settings_choose(settings, request->size)) return NULL;
  return guarded_block(theap, request);
}

#if MI_GUARDED

// --- the countdown -------------------------------------------------------------------------------------------------

#define NEVER ((uint64_t)1 << 62)

static _Atomic(uint32_t) epoch = 1;  // another one whenever options change: threads then begin anew
static _Atomic(uint32_t) looks;  // another one whenever a heap gets settings: threads then look what their default is

// log2(x) times 2^32, for x > 0: a bit of the fraction by each squaring.
static uint64_t log2_fixed(uint64_t x) {
  uint64_t result = mi_msb(x);
  uint64_t m = x << (63 - mi_msb(x));  // 1 <= m / 2^63 < 2
  for (int i = 0; i < 32; i++) {
    m = (uint64_t)((unsigned __int128)m * m >> 64);
    const uint64_t bit = m >> 63;
    if (bit == 0) m <<= 1;
    result = result << 1 | bit;
  }
  return result;
}

// How many allocations until the next one that is chosen, that one included: 1 + floor(log(u) / log(1 - 1/rate)) for
// a random u in (0, 1). 1 / -log2(1 - 1/n) is ln 2 times the series n - 1/2 - 1/(12 n) - 1/(24 n^2) - ...
static uint64_t gap(uint64_t random, uint64_t rate) {
  if (rate == 1) return 1;
  const uint64_t one = (uint64_t)1 << 32, ln2 = 2977044472u;
  const uint64_t mean = rate * one - one / 2 - one / 12 / rate - one / 24 / rate / rate -
                        19 * one / 720 / rate / rate / rate - 3 * one / 160 / rate / rate / rate / rate;
  const unsigned __int128 scale = (unsigned __int128)ln2 * mean >> 32;
  const uint64_t bits = 64 * one - log2_fixed(random | 1);
  return 1 + (uint64_t)(bits * scale >> 64);
}

static uint64_t next_gap(mi_thread_t* thread) {
  if (thread->guard_rate == 0) return NEVER;
  thread->guard_random += STEP;
  return gap(mix(thread->guard_random), thread->guard_rate);
}

static mi_heap_t* default_heap(void) {
  mi_theap_t* const theap = _mi_tls.theap;
  return (theap == MI_THEAP_EMPTY || mi_load_acquire(&theap->dead) ? &_mi_heap_main : theap->heap);
}

// So many allocations are left until the next one that is chosen.
static void arm(mi_thread_t* thread, uint64_t left) {
  const uint64_t counted = (heap_settings(default_heap()) != NULL ? 1 : left);
  _mi_tls.guard_countdown = counted;
  thread->guard_left = left - counted;
}

// The process's seed where the option gives none.
static uint64_t drawn_seed(void) {
  static _Atomic(uint64_t) drawn;
  uint64_t seed = mi_load_relaxed(&drawn);
  if (seed != 0) return seed;
  const uint64_t made = seed_of(0) | 1;
  return (mi_cas_strong_acq_rel(&drawn, &seed, made) ? made : seed);
}

// The thread's stream from its start.
static void begin(mi_thread_t* thread) {
  thread->guard_epoch = mi_load_acquire(&epoch);
  const long rate = _mi_option(mi_option_guarded_sample_rate);
  thread->guard_rate = (rate < 0 ? 0 : (size_t)rate < RATE_MAX ? (size_t)rate : RATE_MAX);
  const size_t seed = (size_t)_mi_option(mi_option_guarded_sample_seed);
  thread->guard_random = mix((seed != 0 ? seed_of(seed) : drawn_seed()) + thread->guard_number * STEP);
  thread->guard_left = next_gap(thread) - 1;
}

// The countdown is at 0. Is this allocation chosen? In any case the countdown goes on.
static bool thread_chooses(mi_thread_t* thread) {
  thread->guard_looks = mi_load_acquire(&looks);
  if (thread->guard_epoch != mi_load_acquire(&epoch)) begin(thread);
  const bool chosen = (thread->guard_left == 0);
  arm(thread, chosen ? next_gap(thread) : thread->guard_left);
  return chosen;
}

// The next allocation of the thread comes by here, whatever the countdown was.
void _mi_guarded_look(void) {
  mi_thread_t* const thread = _mi_tls.thread;
  if (thread == NULL || _mi_tls.guard_countdown <= 1) return;
  thread->guard_left += _mi_tls.guard_countdown - 1;
  _mi_tls.guard_countdown = 1;
}

void _mi_guarded_option(mi_option_t option) {
  if (option != mi_option_guarded_sample_rate && option != mi_option_guarded_sample_seed) return;
  mi_fetch_add_acq_rel(&epoch, 1u);
  _mi_guarded_look();
}

static void heap_has_settings(void) {
  mi_fetch_add_acq_rel(&looks, 1u);
  _mi_guarded_look();
}

void _mi_guarded_step(const mi_thread_t* thread) {
  if (mi_unlikely(thread->guard_epoch != mi_load_relaxed(&epoch) || thread->guard_looks != mi_load_relaxed(&looks)))
    _mi_guarded_look();
}

static mi_theap_t* theap_for(mi_thread_t* thread, mi_heap_t* heap) {
  mi_part_t* part = NULL;
  if (heap != &_mi_heap_main) {
    if (mi_load_acquire(&heap->home.id) == 0 || mi_load_relaxed(&heap->state) != MI_HEAP_OPEN) return NULL;
    part = (mi_region_is_mine(&heap->home.region) ? &heap->home : _mi_part_of(thread, heap));
    if (part == NULL) return NULL;
  }
  _mi_slow_path(thread, heap);
  mi_theap_t* const theap = (part == NULL ? &thread->main_theap : _mi_part_theap(thread, part));
  if (theap != NULL) _mi_theap_tidy(theap);
  return theap;
}

void* _mi_guarded_alloc(const mi_request_t* request) {
  const bool at_end = (_mi_tls.guard_countdown == 0);
  if (at_end) _mi_tls.guard_countdown = NEVER;  // making the thread's record may allocate
  mi_thread_t* const thread = mi_thread();
  if (thread == NULL) {
    _mi_tls.guard_countdown = 1;
    return NULL;
  }
  const bool chosen = at_end && thread_chooses(thread);
  mi_theap_t* const given = request->theap;
  mi_heap_t* const heap = (given == NULL                                              ? request->heap
                           : given == MI_THEAP_EMPTY || mi_load_acquire(&given->dead) ? default_heap()
                                                                                      : given->heap);
  if (mi_heap_is_generic(heap) || !can_be_guarded(request)) return NULL;
  mi_guard_settings_t* const own = heap_settings(heap);
  if (own != NULL ? !settings_choose(own, request->size)
                  : !chosen || request->size < (size_t)_mi_option(mi_option_guarded_min) ||
                        request->size > (size_t)_mi_option(mi_option_guarded_max))
    return NULL;
  mi_theap_t* const theap = theap_for(thread, heap);
  void* const p = (theap == NULL ? NULL : guarded_block(theap, request));
  if (mi_unlikely(thread->alarm) && p != NULL) _mi_limit_alarm(thread, heap);
  return p;
}

#else
static void heap_has_settings(void) {}
#endif

// --- the public functions ------------------------------------------------------------------------------------------

static mi_guard_settings_t* settings_to_set(mi_heap_t* heap, const char* function) {
  if (heap == NULL || !_mi_heap_check_usable(heap, function)) return NULL;
  const mi_heap_extra_t* const extra = mi_heap_extra(heap);
  if (!MI_GUARDED && (extra == NULL || (extra->policy & MI_HEAP_GUARDED) == 0)) return NULL;
  return heap_settings_make(heap);
}

void mi_heap_guarded_set_sample_rate(mi_heap_t* heap, size_t sample_rate, size_t seed) {
  mi_guard_settings_t* const settings = settings_to_set(heap, "mi_heap_guarded_set_sample_rate");
  if (settings == NULL) return;
  mi_store_relaxed(&settings->count, (uint64_t)0);
  mi_store_relaxed(&settings->seed, seed_of(seed));
  mi_store_relaxed(&settings->rate, sample_rate);
  heap_has_settings();
}

void mi_heap_guarded_set_size_bound(mi_heap_t* heap, size_t min, size_t max) {
  mi_guard_settings_t* const settings = settings_to_set(heap, "mi_heap_guarded_set_size_bound");
  if (settings == NULL) return;
  mi_store_relaxed(&settings->min, min);
  mi_store_relaxed(&settings->max, max < min ? min : max);
  heap_has_settings();
}

// The settings are the heap's, for all its threads.
void mi_theap_guarded_set_sample_rate(mi_theap_t* theap, size_t sample_rate, size_t seed) {
  if (theap != NULL) mi_heap_guarded_set_sample_rate(theap->heap, sample_rate, seed);
}
void mi_theap_guarded_set_size_bound(mi_theap_t* theap, size_t min, size_t max) {
  if (theap != NULL) mi_heap_guarded_set_size_bound(theap->heap, min, max);
}
