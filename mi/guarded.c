// Guarded mode (build option MI_GUARDED): which allocations get an inaccessible OS page behind them, and the functions
// that choose. How such a block is made is in mi/internal/page.c; that every allocation asks here, in
// mi/heap/checked.c. In other builds the functions are there and do nothing.
//
// Of the allocations with a size within [min, max], every Nth is guarded: in a thread's count where the options rule
// (guarded_sample_rate, _seed, _min, _max), in the heap's own count where a heap was given its own settings. The seed
// says which comes first; 0 draws one, so that runs differ.
#include <errno.h>

#include "mi/heap/checked.h"
#include "mi/internal/os.h"
#include "mi/mimalloc.h"

#if MI_GUARDED

// The settings of one heap, if it has its own. Made at the first call and kept until the heap goes.
static mi_guard_settings_t* heap_settings(mi_heap_t* heap) {
  mi_heap_extra_t* const extra = mi_load_acquire(mi_heap_extra_word(heap));
  return (extra == NULL || mi_load_acquire(&extra->guard.is_set) == 0 ? NULL : &extra->guard);
}

static mi_guard_settings_t* heap_settings_make(mi_heap_t* heap) {
  mi_heap_extra_t* extra = mi_load_acquire(mi_heap_extra_word(heap));
  if (extra == NULL) {
    mi_thread_t* const thread = mi_thread();
    mi_heap_extra_t* const made = (thread == NULL ? NULL : _mi_internal_zalloc(thread, sizeof(*made)));
    if (made == NULL) {
      _mi_error(ENOMEM, "no memory for the guard settings of heap %p (%s)\n", (void*)heap, mi_heap_name(heap));
      return NULL;
    }
    if (mi_cas_strong_acq_rel(mi_heap_extra_word(heap), &extra, made)) {
      extra = made;
    } else {
      _mi_internal_free(made);
    }
  }
  mi_guard_settings_t* const guard = &extra->guard;
  if (mi_load_acquire(&guard->is_set) == 0) {
    mi_store_relaxed(&guard->rate, (size_t)_mi_option(mi_option_guarded_sample_rate));
    mi_store_relaxed(&guard->first, (size_t)_mi_option(mi_option_guarded_sample_seed));
    mi_store_relaxed(&guard->min, (size_t)_mi_option(mi_option_guarded_min));
    mi_store_relaxed(&guard->max, (size_t)_mi_option(mi_option_guarded_max));
    mi_store_release(&guard->is_set, (uint8_t)1);
  }
  return guard;
}

static size_t first_of(size_t seed, size_t rate) {
  return (seed != 0 ? seed : (size_t)(_mi_os_secret() ^ _mi_os_clock_ms() ^ _mi_tls.tid) >> 3) % rate;
}

bool _mi_guarded_is_due(mi_heap_t* heap, const mi_request_t* request) {
  if (request->offset != 0 || request->alignment > MI_OS_PAGE) return false;
  mi_guard_settings_t* const own = heap_settings(heap);
  if (own != NULL) {
    const size_t rate = mi_load_relaxed(&own->rate);
    if (rate == 0 || request->size < mi_load_relaxed(&own->min) || request->size > mi_load_relaxed(&own->max))
      return false;
    return mi_fetch_add_relaxed(&own->count, 1) % rate == mi_load_relaxed(&own->first) % rate;
  }
  // The options, and a count for each thread, which begins anew when they change.
  static _Thread_local struct { size_t rate, seed, first, count; } sample;
  const long rate = _mi_option(mi_option_guarded_sample_rate);
  if (rate <= 0 || request->size < (size_t)_mi_option(mi_option_guarded_min) ||
      request->size > (size_t)_mi_option(mi_option_guarded_max))
    return false;
  const size_t seed = (size_t)_mi_option(mi_option_guarded_sample_seed);
  if (sample.rate != (size_t)rate || sample.seed != seed) {
    sample.rate = (size_t)rate;
    sample.seed = seed;
    sample.first = first_of(seed, sample.rate);
    sample.count = 0;
  }
  return sample.count++ % sample.rate == sample.first;
}

void mi_heap_guarded_set_sample_rate(mi_heap_t* heap, size_t sample_rate, size_t seed) {
  if (heap == NULL || !_mi_heap_check_usable(heap, "mi_heap_guarded_set_sample_rate")) return;
  mi_guard_settings_t* const guard = heap_settings_make(heap);
  if (guard == NULL) return;
  mi_store_relaxed(&guard->count, (size_t)0);
  mi_store_relaxed(&guard->first, sample_rate == 0 ? 0 : first_of(seed, sample_rate));
  mi_store_relaxed(&guard->rate, sample_rate);
}

void mi_heap_guarded_set_size_bound(mi_heap_t* heap, size_t min, size_t max) {
  if (heap == NULL || !_mi_heap_check_usable(heap, "mi_heap_guarded_set_size_bound")) return;
  mi_guard_settings_t* const guard = heap_settings_make(heap);
  if (guard == NULL) return;
  mi_store_relaxed(&guard->min, min);
  mi_store_relaxed(&guard->max, max < min ? min : max);
}

#else

void mi_heap_guarded_set_sample_rate(mi_heap_t* heap, size_t sample_rate, size_t seed) {
  (void)heap, (void)sample_rate, (void)seed;
}
void mi_heap_guarded_set_size_bound(mi_heap_t* heap, size_t min, size_t max) { (void)heap, (void)min, (void)max; }

#endif

// The settings are the heap's, for all its threads.
void mi_theap_guarded_set_sample_rate(mi_theap_t* theap, size_t sample_rate, size_t seed) {
  if (theap != NULL) mi_heap_guarded_set_sample_rate(theap->heap, sample_rate, seed);
}
void mi_theap_guarded_set_size_bound(mi_theap_t* theap, size_t min, size_t max) {
  if (theap != NULL) mi_heap_guarded_set_size_bound(theap->heap, min, max);
}
