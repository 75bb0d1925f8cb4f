// Arenas: ranges of reserved address space, cut into segments. Holds the table of arenas, the bitmap from which
// segments are claimed, and the growth of the accessible part; not slices (segment.c).
//
// An arena's header lies in its first segments (kind PRIVATE; in the first slice only, if the program gave the memory
// and the header is small), behind where page slots would be, and is never unmapped, so that whatever a thread read
// from it stays readable. Invariants:
//  * a segment's `unused` bit is set iff nobody holds the segment and its kind is UNUSED; who clears the bit by CAS
//    holds the segment;
//  * segments [0, ready) are writable, all others readable; `ready` only grows;
//  * the first arena, less the segments of its header, is the span that mi_free tests for with one compare; what would
//    be the slots of the segment before the span is zero.
#include "mi/internal/arena.h"

#include <string.h>

#include "mi/internal/bit_page.h"
#include "mi/internal/options.h"
#include "mi/internal/os.h"
#include "mi/internal/stats.h"
#include "mi/internal/track.h"

_Atomic(mi_arena_t*) _mi_arenas[MI_ARENAS_MAX];
mi_span_t _mi_span = {1, 0};  // a `low` of 1 before there is an arena: NULL is in no span, whatever the size

mi_arena_t* _mi_arena_of(const void* p, size_t* segment_index) {
  for (size_t i = 0; i < MI_ARENAS_MAX; i++) {
    mi_arena_t* const arena = mi_load_acquire(&_mi_arenas[i]);
    if (arena == NULL) break;
    const size_t offset = (uintptr_t)p - 1 - (uintptr_t)arena->start;
    const size_t index = offset >> MI_SEGMENT_SHIFT;
    if (index < mi_load_acquire(&arena->ready)) {
      *segment_index = index;
      return arena;
    }
  }
  return NULL;
}

// --- making arenas --------------------------------------------------------------------------------------

#define MI_HEADER_OFFSET sizeof(mi_segment_t)

static size_t header_size(size_t segments) {
  const size_t words = (segments + 63) / 64;
  return MI_HEADER_OFFSET + sizeof(mi_arena_t) + 128 + segments * sizeof(mi_segment_info_t) +
         3 * words * sizeof(uint64_t) + segments;
}

static bool arena_commit(const mi_arena_t* arena, uint8_t* start, size_t size) {
  if (arena->commit == NULL && arena->is_foreign) return _mi_os_protect(start, size, false);
  if (arena->commit == NULL) {
    if (arena->segment_count == 0) return _mi_os_commit(start, size);
    return _mi_os_commit_next(start, size, mi_arena_segment(arena, arena->segment_count));
  }
  bool is_zero = false, ok;
  MI_CALL_USER(ok = arena->commit(true, start, size, &is_zero, arena->commit_arg));
  return ok;
}

// How many segments the header takes for itself. That of a small arena of given memory lies in the first slice of a
// segment that is used like others (0), so that 4 MiB make an arena.
static size_t header_segments(size_t segments, bool is_foreign) {
  if (is_foreign && header_size(segments) <= MI_SLICE_SIZE) return 0;
  const size_t own = mi_round_up(header_size(segments), MI_SEGMENT_SIZE) >> MI_SEGMENT_SHIFT;
  return (own == 1 ? 1 : own + 1);  // the last one has zeros for slots
}

// What mi_free takes for the span. A block may start at its first byte: its slot would be in the segment before. If the
// arena has bits, who sees the span finds them.
static void span_publish(const mi_arena_t* arena) {
  const size_t own = header_segments(arena->segment_count, arena->is_foreign);
  if (mi_load_acquire((_Atomic(uint8_t*)*)&arena->bits) != NULL) _mi_bits_are_span(arena, own);
  mi_span_publish((uintptr_t)mi_arena_segment(arena, own), (arena->segment_count - own) << MI_SEGMENT_SHIFT);
}

static bool is_span(const mi_arena_t* arena) {
  return mi_span_contains(arena->start + (arena->segment_count << MI_SEGMENT_SHIFT) - 1);
}

// Lays the header into the first segments; NULL if there is no room, or no memory for it.
static mi_arena_t* arena_format(const mi_area_t* area) {
  uint8_t* const start = (uint8_t*)mi_round_up((uintptr_t)area->start, MI_SEGMENT_SIZE);
  const size_t lead = (size_t)(start - (uint8_t*)area->start);
  if (area->size < lead + MI_SEGMENT_SIZE) return NULL;
  const size_t segments = (area->size - lead) >> MI_SEGMENT_SHIFT;
  const bool is_resident = (header_segments(segments, area->is_foreign) == 0);
  const size_t own = (is_resident ? 1 : header_segments(segments, area->is_foreign));
  if (!is_resident && own >= segments) return NULL;
  const mi_arena_t given = {.commit = area->commit, .commit_arg = area->commit_arg, .is_foreign = area->is_foreign};
  if (!area->is_committed && !arena_commit(&given, start, own << MI_SEGMENT_SHIFT)) return NULL;
  // What the program says of its memory is not relied on here: a mapped file may hold anything.
  if (area->is_foreign) memset(start, 0, (is_resident ? MI_SLICE_SIZE : header_size(segments)));
  mi_arena_t* const arena = (mi_arena_t*)(start + MI_HEADER_OFFSET);
  uint8_t* at = (uint8_t*)arena + mi_round_up(sizeof(mi_arena_t), 64);
  const size_t words = (segments + 63) / 64;
  arena->info = (mi_segment_info_t*)at;
  at += segments * sizeof(mi_segment_info_t);
  arena->unused = (_Atomic(uint64_t)*)at;
  at += words * sizeof(uint64_t);
  arena->has_free = (_Atomic(uint64_t)*)at;
  at += words * sizeof(uint64_t);
  arena->purgeable = (_Atomic(uint64_t)*)at;
  at += words * sizeof(uint64_t);
  arena->kind = (_Atomic(uint8_t)*)at;
  arena->start = start;
  arena->segment_count = segments;
  arena->area = area->start;
  arena->area_size = area->size;
  arena->commit = area->commit;
  arena->commit_arg = area->commit_arg;
  arena->numa_node = area->numa_node;
  arena->is_exclusive = area->is_exclusive;
  arena->is_foreign = area->is_foreign;
  arena->is_pinned = area->is_pinned;
  arena->is_vault = area->is_vault;
  arena->is_resident = is_resident;
  for (size_t w = 0; w < words; w++) {
    const size_t here = (segments - 64 * w < 64 ? segments - 64 * w : 64);
    mi_store_relaxed(&arena->unused[w], mi_run_mask(0, here));
  }
  for (size_t i = 0; i < own; i++) arena->unused[i / 64] &= ~((uint64_t)1 << (i % 64));
  if (is_resident) {
    mi_store_relaxed(&arena->kind[0], (uint8_t)MI_SEGMENT_NORMAL);
    mi_store_relaxed(&arena->info[0].free, MI_SLICES_ALL);
    mi_store_relaxed(&arena->has_free[0], (uint64_t)1);
    mi_store_relaxed(&arena->info[0].backed, (uint64_t)1);
  } else {
    for (size_t i = 0; i < own; i++) mi_store_relaxed(&arena->kind[i], (uint8_t)MI_SEGMENT_PRIVATE);
  }
  if (!area->is_zero || area->commit != NULL) {
    for (size_t i = 0; i < segments; i++) mi_store_relaxed(&arena->info[i].dirty, ~(uint64_t)0);
  }
  mi_store_relaxed(&arena->ready, area->is_committed ? segments : own);
  if (area->is_committed) _mi_track_root(start, segments << MI_SEGMENT_SHIFT);
  _mi_track_hide(start, own << MI_SEGMENT_SHIFT);
  return arena;
}

// Enters an arena into the table, at place `n` or, if `any`, the first free one from there. False: no place.
static bool arena_publish(mi_arena_t* arena, size_t n, bool any) {
  for (; n < MI_ARENAS_MAX; n++) {
    mi_arena_t* expected = NULL;
    // Release: the header is complete for who finds it.
    if (mi_cas_strong_acq_rel(&_mi_arenas[n], &expected, arena)) return true;
    if (!any) return false;
  }
  return false;
}

mi_arena_t* _mi_arena_add(const mi_area_t* area) {
  mi_arena_t* const arena = arena_format(area);
  return (arena != NULL && arena_publish(arena, 0, true) ? arena : NULL);
}

bool _mi_arena_exists(const mi_arena_t* arena) {
  for (size_t i = 0; i < MI_ARENAS_MAX && arena != NULL; i++) {
    const mi_arena_t* const a = mi_load_acquire(&_mi_arenas[i]);
    if (a == NULL) break;
    if (a == arena) return !a->is_vault;
  }
  return false;
}

static _Atomic(bool) have_span;

// Makes one more arena with room for `count` segments in a row. Threads may do so at the same time: one enters the
// table, the others unmap theirs, in which nobody has seen anything yet. The first of them is the span.
static bool arena_grow(size_t count) {
  if (_mi_option(mi_option_disallow_os_alloc) != 0) return false;
  size_t n = 0;
  const mi_arena_t* last = NULL;  // the largest of those that we made so
  for (; n < MI_ARENAS_MAX; n++) {
    const mi_arena_t* const arena = mi_load_acquire(&_mi_arenas[n]);
    if (arena == NULL) break;
    if (!arena->is_foreign && !arena->is_exclusive && (last == NULL || arena->segment_count > last->segment_count)) {
      last = arena;
    }
  }
  if (n == MI_ARENAS_MAX) return false;
  size_t goal;
  if (last != NULL && mi_load_relaxed(&have_span)) {
    goal = 2 * (last->segment_count << MI_SEGMENT_SHIFT);
  } else {
    goal = (size_t)_mi_option(mi_option_arena_reserve) * MI_KiB;
    if (goal == 0) goal = _mi_os_reserve_goal();
  }
  const size_t need = mi_round_up((count + 2) << MI_SEGMENT_SHIFT, MI_SEGMENT_SIZE) +
                      (header_segments(count + 2, false) << MI_SEGMENT_SHIFT);
  goal = mi_round_up(goal < need ? need : goal, MI_SEGMENT_SIZE);
  for (;;) {
    uint8_t* const start = _mi_os_reserve(goal, MI_SEGMENT_SIZE, MI_SECURE != 0);
    mi_arena_t* arena = NULL;
    if (start != NULL) {
      if (_mi_option(mi_option_allow_large_os_pages) != 0) _mi_os_allow_large_pages(start, goal);
      const mi_area_t area = {.start = start, .size = goal, .is_zero = true, .numa_node = -1};
      arena = arena_format(&area);
      if (arena == NULL) {
        _mi_os_unreserve(start, goal);
        return false;
      }
    }
    // What may be the span has bits from the first on in the secure build: mi_free looks at them, whatever it frees.
    if (MI_SECURE && arena != NULL && !_mi_bits_reserve(arena)) {
      _mi_os_unreserve(start, goal);
      arena = NULL;
    }
    if (arena != NULL) {
      if (!arena_publish(arena, n, false)) {
        _mi_bits_unmap(arena);
        _mi_os_unreserve(start, goal);
        return true;
      }
      if (!atomic_exchange_explicit(&have_span, true, memory_order_relaxed)) {
        span_publish(arena);
      }
      mi_count(&_mi_stats.arenas, 1);
      mi_gauge_add(&_mi_stats.reserved, (int64_t)goal);
      mi_gauge_add(&_mi_stats.committed, (int64_t)mi_round_up(header_size(goal >> MI_SEGMENT_SHIFT), MI_OS_PAGE));
      return true;
    }
    if (goal <= need) return false;
    goal = mi_round_up(goal / 2 < need ? need : goal / 2, MI_SEGMENT_SIZE);
  }
}

// Of a thread that stopped before it published the span there is perhaps the arena. Memory of the program is no span:
// not all of it need be readable.
void _mi_span_settle(void) {
  if (_mi_span.size != 0) return;
  mi_store_relaxed(&have_span, false);
  for (size_t i = 0; i < MI_ARENAS_MAX; i++) {
    mi_arena_t* const arena = mi_load_acquire(&_mi_arenas[i]);
    if (arena == NULL) return;
    if (arena->is_foreign || arena->is_exclusive || (MI_SECURE && !_mi_bits_reserve(arena))) continue;
    mi_store_relaxed(&have_span, true);
    span_publish(arena);
    return;
  }
}

// --- giving memory back -----------------------------------------------------------------------------------

mi_purged_t _mi_arena_purge(mi_arena_t* arena, void* start, size_t size, bool decommit) {
  if (arena->is_pinned) return MI_PURGE_LATER;
  const mi_purged_t purged = _mi_os_purge(start, size, decommit);
  return (purged == MI_PURGE_ZERO && arena->is_foreign ? MI_PURGE_LATER : purged);
}

bool _mi_memory_purge(void* start, size_t size) {
  size_t index;
  return _mi_arena_purge(_mi_arena_of((uint8_t*)start + 1, &index), start, size, true) == MI_PURGE_ZERO;
}

// --- claiming segments ------------------------------------------------------------------------------------

// A program may limit its address space when ours is reserved already, which the system then no longer counts: what we
// make writable may not come to more than the limit.
static bool within_limit(size_t more) {
  const size_t limit = _mi_os_space_limit();
  if (mi_likely(limit == SIZE_MAX)) return true;
  size_t total = more;
  for (size_t i = 0; i < MI_ARENAS_MAX; i++) {
    mi_arena_t* const arena = mi_load_acquire(&_mi_arenas[i]);
    if (arena == NULL) break;
    if (!arena->is_foreign) total += mi_load_relaxed(&arena->ready) << MI_SEGMENT_SHIFT;
  }
  return total <= limit;
}

// Makes segments [0, end) accessible. Threads may overlap: each maps from the `ready` that it saw, which is
// idempotent, and `ready` only rises to what is mapped. But it undoes what else somebody did to the mapping of a
// segment that is ready by now: a vault, which is about to do such a thing, waits for those that saw less
// (_mi_arena_await_growth; the model growth). A guard that is made by protection is not worth that, and may be lost.
static bool arena_raise_ready(mi_arena_t* arena, size_t end) {
  size_t ready = mi_load_seq_cst(&arena->ready);
  if (end <= ready) return true;
  if (!within_limit((end - ready) << MI_SEGMENT_SHIFT)) return false;
  if (!arena_commit(arena, mi_arena_segment(arena, ready), (end - ready) << MI_SEGMENT_SHIFT)) return false;
  _mi_track_root(mi_arena_segment(arena, ready), (end - ready) << MI_SEGMENT_SHIFT);
  while (ready < end && !mi_cas_weak_seq_cst(&arena->ready, &ready, end)) {
  }
  return true;
}

// Sequentially consistent, with the loads and the stores of `ready`: who saw less than was raised counted itself
// before.
static bool arena_make_ready(mi_arena_t* arena, size_t end) {
  if (end <= mi_load_acquire(&arena->ready)) return true;
  mi_fetch_add_seq_cst(&arena->growing, 1u);
  const bool raised = arena_raise_ready(arena, end);
  // Not below 0: a signal handler may have forked, and returned in the child.
  uint32_t growing = mi_load_relaxed(&arena->growing);
  while (growing != 0 && !mi_cas_weak_seq_cst(&arena->growing, &growing, growing - 1)) {
  }
  return raised;
}

void _mi_arena_await_growth(mi_arena_t* arena) {
  (void)mi_load_seq_cst(&arena->ready);
  while (mi_load_seq_cst(&arena->growing) != 0) _mi_os_yield();
}

static void bits_give(mi_arena_t* arena, size_t index, size_t count) {
  while (count > 0) {
    const size_t bit = index % 64, here = (64 - bit < count ? 64 - bit : count);
    // Release: what the former holder wrote to the segments' words is seen by who claims them.
    mi_fetch_or_acq_rel(&arena->unused[index / 64], mi_run_mask(bit, here));
    index += here;
    count -= here;
  }
}

// Clears the `unused` bits of a run; false, and nothing cleared, if one was clear already.
static bool bits_take(mi_arena_t* arena, size_t index, size_t count) {
  size_t done = 0;
  while (done < count) {
    const size_t at = index + done, bit = at % 64, here = (64 - bit < count - done ? 64 - bit : count - done);
    const uint64_t mask = mi_run_mask(bit, here);
    uint64_t word = mi_load_relaxed(&arena->unused[at / 64]);
    do {
      if ((word & mask) != mask) {
        bits_give(arena, index, done);
        return false;
      }
    } while (!mi_cas_weak_acq_rel(&arena->unused[at / 64], &word, word & ~mask));
    done += here;
  }
  return true;
}

static size_t arena_find_one(mi_arena_t* arena, size_t from) {
  const size_t words = (arena->segment_count + 63) / 64;
  for (size_t w = from / 64; w < words; w++) {
    uint64_t word = mi_load_relaxed(&arena->unused[w]);
    while (word != 0) {
      const size_t bit = mi_ctz(word);
      if (mi_cas_weak_acq_rel(&arena->unused[w], &word, word & ~((uint64_t)1 << bit))) return 64 * w + bit;
    }
  }
  return SIZE_MAX;
}

static size_t arena_find_run(mi_arena_t* arena, size_t count, size_t alignment, size_t phase) {
  size_t run = 0;
  for (size_t i = 0; i < arena->segment_count; i++) {
    const uint64_t word = mi_load_relaxed(&arena->unused[i / 64]);
    if (i % 64 == 0 && word == 0) {
      run = 0;
      i += 63;
      continue;
    }
    if ((word >> (i % 64) & 1) == 0) {
      run = 0;
      continue;
    }
    // A run may only begin at a segment that fits the alignment.
    if (run == 0 && alignment != 0 && ((uintptr_t)mi_arena_segment(arena, i) + phase) % alignment != 0) continue;
    run++;
    if (run == count) {
      const size_t first = i + 1 - count;
      if (bits_take(arena, first, count)) return first;
      i = first;  // somebody was faster: begin again behind the first
      run = 0;
    }
  }
  return SIZE_MAX;
}

// Makes a run accessible whose bits the caller cleared. False: the system refused, and they are set again.
static bool run_open(mi_arena_t* arena, size_t index, size_t count) {
  if (mi_likely(arena_make_ready(arena, index + count))) {
    _mi_track_hide(mi_arena_segment(arena, index), count << MI_SEGMENT_SHIFT);
    return true;
  }
  bits_give(arena, index, count);
  mi_count(&_mi_stats.arena_rollbacks, 1);
  mi_store_relaxed(&arena->first_unused, (size_t)0);  // it may have hidden segments that are ready
  return false;
}

// `*refused`: there is a run, but the system gave no memory for it.
static bool arena_claim(mi_arena_t* arena, size_t count, size_t alignment, size_t phase, size_t* index, bool* refused) {
  if (count > arena->segment_count) return false;
  size_t at;
  if (count == 1 && alignment == 0) {
    const size_t hint = mi_load_relaxed(&arena->first_unused);
    at = arena_find_one(arena, hint);
    if (at == SIZE_MAX && hint != 0) at = arena_find_one(arena, 0);
    if (at != SIZE_MAX) mi_store_relaxed(&arena->first_unused, at);
  } else {
    at = arena_find_run(arena, count, alignment, phase);
  }
  if (at == SIZE_MAX) return false;
  *index = at;
  *refused = !run_open(arena, at, count);
  return !*refused;
}

bool _mi_segments_claim(size_t count, size_t alignment, size_t phase, mi_arena_t* only, bool apart, mi_arena_t** arena,
                        size_t* index) {
  for (int round = 0;; round++) {
    bool refused = false;
    if (only != NULL) {
      *arena = only;
      return !(apart && is_span(only)) && arena_claim(only, count, alignment, phase, index, &refused);
    }
    for (size_t i = 0; i < MI_ARENAS_MAX; i++) {
      mi_arena_t* const a = mi_load_acquire(&_mi_arenas[i]);
      if (a == NULL) break;
      if (a->is_exclusive || (apart && is_span(a))) continue;
      if (arena_claim(a, count, alignment, phase, index, &refused)) {
        *arena = a;
        return true;
      }
    }
    if (refused) return false;  // more address space would not help
    // A second round meets a new arena, or one that another thread made; after that memory is short, not space.
    const size_t extra = alignment >> MI_SEGMENT_SHIFT;
    if (round == 2 || !arena_grow(count + extra)) return false;
  }
}

bool _mi_segments_claim_at(mi_arena_t* arena, size_t index, size_t count) {
  return index + count <= arena->segment_count && bits_take(arena, index, count) && run_open(arena, index, count);
}

void _mi_segments_release(mi_arena_t* arena, size_t index, size_t count) {
  for (size_t i = index; i < index + count; i++) {
    mi_fetch_or_acq_rel(&arena->purgeable[i / 64], (uint64_t)1 << (i % 64));
  }
  bits_give(arena, index, count);
  if (index < mi_load_relaxed(&arena->first_unused)) mi_store_relaxed(&arena->first_unused, index);
}

void _mi_arenas_unmap(void) {
  for (size_t i = 0; i < MI_ARENAS_MAX; i++) {
    mi_arena_t* const arena = mi_load_acquire(&_mi_arenas[i]);
    if (arena == NULL) break;
    _mi_bits_unmap(arena);
    if (!arena->is_foreign) _mi_os_unreserve(arena->start, arena->segment_count << MI_SEGMENT_SHIFT);
  }
}
