// Slices of segments: claiming and releasing runs of them for pages and huge blocks, and purging what is free.
//
// Which slices are free is one 64-bit word per segment, in the arena's header. There is no lock, no owner and no
// list. Invariants (modelled in tests/models):
//  * a slice's `free` bit is set iff nobody holds the slice; a claim is one CAS of a run of bits, a release one
//    fetch_or after the page slots of the run were reset. The word is 0 for unused, huge and private segments, so
//    that a claim by who looked too long at a segment fails;
//  * only who takes the word from ALL to 0 by CAS may return the segment to the arena;
//  * if the word is not 0, the segment's bit in `has_free` is set, or somebody is about to set it: who takes the
//    word from 0 to non-zero sets the bit; who finds 0 clears the bit, reads the word again, and sets the bit if it
//    is no longer 0. These are sequentially consistent read-modify-writes: either the clearer sees the new word, or
//    the releaser's set comes after the clear;
//  * a purger holds (has claimed) the slices that it purges. Due is what was free at two ticks in a row: release
//    clears a slice's `aged` bit before it sets the `free` bit. What purgers hold is counted (`purging`): a search that
//    found nothing meanwhile is made again before memory is said to be short.
// The bits of `dirty`, `backed` and their like are changed only by who holds the slice; they are published by the
// release.
//
// When free memory goes back: at a tick, if it was free for half a delay to one delay, in which the process was at
// work; four times as long else. Ticks are passed by threads that are at work; a program that frees much and then
// sleeps would keep it. So there is a bound on what may wait: see `held`.
#include <limits.h>
#include <string.h>

#include "mi/internal/bit_page.h"
#include "mi/internal/options.h"
#include "mi/internal/os.h"
#include "mi/internal/stats.h"

// --- resolving pointers -----------------------------------------------------------------------------------

mi_page_t* _mi_page_of_any(const void* p) {
  size_t index;
  mi_arena_t* const arena = _mi_arena_of(p, &index);
  if (arena == NULL) return NULL;
  switch ((mi_segment_kind_t)mi_load_acquire(&arena->kind[index])) {
    case MI_SEGMENT_NORMAL: {
      mi_page_t* page = mi_slot_of(p);
      if (page->kind == MI_PAGE_TAIL) page -= page->distance;
      return (page->kind == MI_PAGE_NONE || page->kind == MI_PAGE_TAIL ? NULL : page);
    }
    case MI_SEGMENT_HUGE_INSIDE:
      while (mi_load_acquire(&arena->kind[index]) == MI_SEGMENT_HUGE_INSIDE) index--;
      if (mi_load_acquire(&arena->kind[index]) != MI_SEGMENT_HUGE_START) return NULL;
      // fall through
    case MI_SEGMENT_HUGE_START: {
      mi_page_t* const page = &((mi_segment_t*)mi_arena_segment(arena, index))->slot[1];
      const uint8_t* const q = (const uint8_t*)p;
      return (q >= page->start && (size_t)(q - page->start) < page->block_size ? page : NULL);
    }
    case MI_SEGMENT_UNUSED:
    case MI_SEGMENT_PRIVATE:
    case MI_SEGMENT_CLOSED:
      break;
  }
  return NULL;
}

// --- the summary -------------------------------------------------------------------------------------------

static void summary_set(mi_arena_t* arena, size_t index) {
  mi_fetch_or_seq_cst(&arena->has_free[index / 64], (uint64_t)1 << (index % 64));
  const size_t hint = mi_load_relaxed(&arena->first_free);
  if (index / 64 < hint) mi_store_relaxed(&arena->first_free, index / 64);
}

static void summary_clear(mi_arena_t* arena, size_t index) {
  mi_fetch_and_seq_cst(&arena->has_free[index / 64], ~((uint64_t)1 << (index % 64)));
  if (mi_load_seq_cst(&arena->info[index].free) != 0) summary_set(arena, index);
}

static void slices_give(mi_arena_t* arena, size_t index, uint64_t run) {
  // Release: the reset slots, and the dirty and backed bits, are visible to who claims the run.
  if (mi_fetch_or_seq_cst(&arena->info[index].free, run) == 0) summary_set(arena, index);
}

// After slices were given: a tick that runs between would clear the mark again and miss them.
static void mark_purgeable(mi_arena_t* arena, size_t index) {
  const uint64_t bit = (uint64_t)1 << (index % 64);
  if ((mi_load_seq_cst(&arena->purgeable[index / 64]) & bit) == 0) {
    mi_fetch_or_seq_cst(&arena->purgeable[index / 64], bit);
  }
}

// A search found the mark stale. As with the summary: clear, look again, set.
static void purgeable_clear(mi_arena_t* arena, size_t index) {
  mi_segment_info_t* const info = &arena->info[index];
  const uint64_t word = mi_load_relaxed(&info->free);
  if (word == MI_SLICES_ALL || (word & mi_load_relaxed(&info->backed)) != 0) return;  // to be closed, or to be purged
  mi_fetch_and_seq_cst(&arena->purgeable[index / 64], ~((uint64_t)1 << (index % 64)));
  const uint64_t now = mi_load_seq_cst(&info->free);
  if (now == MI_SLICES_ALL || (now & mi_load_acquire(&info->backed)) != 0) mark_purgeable(arena, index);
}

// --- what waits to be purged ----------------------------------------------------------------------------------
// Free slices with memory behind them are *held* for the delay, since a program often takes at once what it freed. How
// much is worth holding? What a thread could fill within the delay: the bound, 32 MiB at 10 ms. When more is held, what
// is above it and an eighth of it are purged. When the program has released more than the bound in a row (ticks may
// have taken some of it already), all that is free is, and then again after every 4 MiB, until somebody takes memory:
// however much a program frees in a row, it sleeps on 4 MiB of it, or on less than the bound. If memory is taken soon
// after such an early purge, and on and on, that was a mistake: the bound is raised by four times as much (so that few
// such mistakes are made), to four times itself, or by twice what is in use if that is more: blocks of many MiB do not
// fit into what others left. It falls again within a second or so of ticks.
//
// The counts are in slices and need not be exact; each thread keeps back up to a MiB, so that threads do not share a
// word for every page. All relaxed: nothing is published by them.
#define MI_HELD_PER_MS 51  // slices: 3.2 MiB
#define MI_HELD_STEP 64    // 4 MiB
#define MI_HELD_FLUSH 16   // 1 MiB
#define MI_HELD_FADE 128   // ticks
#define MI_HELD_EXCESS 8   // part of the bound that goes when more is held
#define MI_HELD_LESSON 4   // times what an early purge took too much
#define MI_HELD_REGRET 4   // delays: a thread that has to wait for a processor takes a while to come back

static _Atomic(int64_t) held;         // free and backed
static _Atomic(int64_t) held_used;    // not free
static _Atomic(int64_t) held_floor;   // of `held`, what an early purge left: the system refused it
static _Atomic(int64_t) held_extra;   // what the bound is raised by
static _Atomic(int64_t) held_freed;   // how much was released in a row: more was released than taken
static _Atomic(bool) held_draining;   // an early purge in this row
static _Atomic(int64_t) early_count;  // what was purged early and not taken again
static _Atomic(uint64_t) early_ms;    // when that was, or the last of it was taken again

// What ticks purge may be a mistake too: a program whose memory goes up and down more slowly than the delay takes
// again, and clears again, what it has just given back. So ticks count what they purge; where memory is taken anew
// while some of that is out, as much is *spared* by later ticks: at most what is missing to what was in use a moment
// ago, so that sparing does not raise the most that the process holds, or an eighth of what is in use if that is more;
// of segments that nobody uses, a half. All this fades within seconds of ticks.
#define MI_SPARED_SHARE 8
#define MI_SPARED_WHOLE 2            // huge blocks, which are dear to clear
#define MI_SPARED_FADE 256           // ticks
#define MI_PEAK_FADE 64              // ticks, some 0.4 s
static _Atomic(int64_t) tick_count;  // what ticks purged and was not taken again
static _Atomic(int64_t) spared;      // what they leave
static _Atomic(int64_t) used_peak;   // the most that was in use, not long ago

static void purge_pass(bool force, bool all, size_t least, int64_t spare);

// How many runs of slices and segments purgers hold at the moment (low half), and how many they gave back (high half).
static _Atomic(uint64_t) purging;
#define MI_SEARCHES_AGAIN 100
#define MI_YIELDS_AGAIN 1000

// Before the claim; release with that: who misses what was claimed sees that it is held, or was given back since.
static void purging_take(void) { mi_fetch_add_acq_rel(&purging, (uint64_t)1); }
// After it was given back: who sees that sees it free.
static void purging_give(void) { mi_fetch_add_acq_rel(&purging, ((uint64_t)1 << 32) - 1); }

// After a search without result, before which `purging` was `before`: did purgers hold something? Then it is worth
// another one, when that is back. So many times at most: purgers may be at work elsewhere, on and on.
static bool search_again(uint64_t before, int searches) {
  atomic_thread_fence(memory_order_acquire);
  const uint64_t now = mi_load_acquire(&purging);
  if ((now == before && (uint32_t)now == 0) || searches > MI_SEARCHES_AGAIN) return false;
  for (int i = 0; (uint32_t)now != 0 && i < MI_YIELDS_AGAIN && mi_load_acquire(&purging) == now; i++) _mi_os_yield();
  return true;
}

// Milliseconds that free memory waits; 0: it goes at once; negative: never.
static long purge_delay(void) {
  const long delay = _mi_option(mi_option_purge_delay), times = _mi_option(mi_option_arena_purge_mult);
  if (mi_likely(times == 1) || delay <= 0) return delay;
  return (times <= 0 ? 0 : delay > LONG_MAX / times ? LONG_MAX : delay * times);
}

// Runs that are shorter are not worth a call of the system.
static size_t purge_least(void) {
  const long minimal = _mi_option(mi_option_minimal_purge_size);
  return (minimal <= 0 ? 1 : (size_t)minimal / (MI_SLICE_SIZE / MI_KiB));
}

static int64_t held_base(void) {
  const long delay = purge_delay();
  return (delay > INT32_MAX ? INT32_MAX : delay) * (int64_t)MI_HELD_PER_MS;
}

// `extra`, or as much of it as is allowed while so much is in use.
static int64_t held_limit_extra(int64_t extra) {
  const int64_t used = 2 * mi_load_relaxed(&held_used), most = (3 * held_base() > used ? 3 * held_base() : used);
  return (extra < most ? extra : most);
}

// What may be held between releases and claims. The delay is positive.
static int64_t held_bound(void) { return held_base() + held_limit_extra(mi_load_relaxed(&held_extra)); }

static bool early_is_recent(uint64_t now) {
  const long delay = purge_delay();
  return delay > 0 && (now - mi_load_relaxed(&early_ms)) / MI_HELD_REGRET <= (uint64_t)delay;
}

// Leaves `keep` slices with memory, those that are claimed first.
static mi_noinline void held_purge(int64_t keep) {
  const int64_t before = mi_load_relaxed(&held);
  purge_pass(true, false, purge_least(), keep);
  const int64_t after = mi_load_relaxed(&held);
  const uint64_t now = _mi_os_clock_ms();
  const int64_t former = (early_is_recent(now) ? mi_load_relaxed(&early_count) : 0);
  mi_store_relaxed(&early_count, former + (before > after ? before - after : 0));
  mi_store_relaxed(&early_ms, now);
  mi_store_relaxed(&held_floor, after > keep ? after - keep : 0);
  if (keep == 0) mi_store_relaxed(&held_draining, true);
}

// So much is held now: too much? A program that takes what it frees is left most of it; one that only frees may be
// about to sleep, and is left a little.
static void held_check(int64_t now) {
  const int64_t floor = mi_load_relaxed(&held_floor), bound = held_bound();
  const bool frees_on = mi_load_relaxed(&held_draining) || mi_load_relaxed(&held_freed) > bound;
  if (now <= floor + (frees_on ? MI_HELD_STEP : bound)) return;
  held_purge(frees_on ? 0 : bound - bound / MI_HELD_EXCESS);
}

// Memory was taken that had been given back: too early?
static mi_noinline void held_regret(int64_t count) {
  const uint64_t now = _mi_os_clock_ms();
  if (!early_is_recent(now)) {
    mi_store_relaxed(&early_count, (int64_t)0);
    return;
  }
  const int64_t early = mi_load_relaxed(&early_count), again = (count < early ? count : early);
  mi_store_relaxed(&early_count, early - again);
  mi_store_relaxed(&early_ms, now);
  mi_store_relaxed(&held_extra, held_limit_extra(mi_load_relaxed(&held_extra) + MI_HELD_LESSON * again));
}

// What may be spared.
static int64_t spared_most(int64_t share) {
  const int64_t used = mi_load_relaxed(&held_used), peak = mi_load_relaxed(&used_peak);
  return (peak - used > used / share ? peak - used : used / share);
}

// Memory was taken that had none behind it while what ticks purged is out.
static mi_noinline void spared_regret(int64_t count) {
  const int64_t out = mi_load_relaxed(&tick_count), again = (count < out ? count : out);
  const int64_t most = spared_most(MI_SPARED_WHOLE);
  const int64_t sum = mi_load_relaxed(&spared) + again;
  mi_store_relaxed(&tick_count, out - again);
  mi_store_relaxed(&spared, sum < most ? sum : most > 0 ? most : 0);
}

// What a tick leaves.
static int64_t spared_now(int64_t share) {
  const int64_t most = spared_most(share), sum = mi_load_relaxed(&spared);
  return (sum < most ? sum : most > 0 ? most : 0);
}

static void fade(_Atomic(int64_t)* count, int64_t ticks) {
  const int64_t now = mi_load_relaxed(count);
  if (now > 0) mi_store_relaxed(count, now - (now + ticks - 1) / ticks);
}

// Counts slices that were taken with memory behind them (`warm`) or without it (`cold`), or were released, `bare` of
// them without memory.
static void held_count(mi_thread_t* thread, int64_t warm, int64_t cold, int64_t released, int64_t bare) {
  int64_t change = released - bare - warm, used = warm + cold - released;
  if (thread != NULL) {
    thread->held_change += (int32_t)change;
    thread->used_change += (int32_t)used;
    thread->cold_taken += (int32_t)cold;
    change = thread->held_change;
    used = thread->used_change;
    cold = thread->cold_taken;
    if (mi_likely(change > -MI_HELD_FLUSH && change < MI_HELD_FLUSH && used > -MI_HELD_FLUSH && used < MI_HELD_FLUSH &&
                  cold < MI_HELD_FLUSH)) {
      return;
    }
    thread->held_change = thread->used_change = thread->cold_taken = 0;
  }
  const int64_t in_use = mi_fetch_add_relaxed(&held_used, used) + used;
  if (in_use > mi_load_relaxed(&used_peak)) mi_store_relaxed(&used_peak, in_use);
  const int64_t now = mi_fetch_add_relaxed(&held, change) + change, low = (change < 0 ? now : now - change);
  if (low < mi_load_relaxed(&held_floor)) mi_store_relaxed(&held_floor, low > 0 ? low : 0);
  if (used < 0) {
    mi_fetch_add_relaxed(&held_freed, -used);
  } else if (used > 0) {
    mi_store_relaxed(&held_freed, (int64_t)0);
    mi_store_relaxed(&held_draining, false);
  }
  if (cold > 0 && mi_load_relaxed(&early_count) > 0) held_regret(cold);
  if (cold > 0 && mi_load_relaxed(&tick_count) > 0) spared_regret(cold);
  if (change <= 0 || purge_delay() <= 0) return;  // 0: at once, less: never
  held_check(now);
}

// The slices of `run`, of which those in `backed` had memory, were taken.
static void held_taken(mi_thread_t* thread, uint64_t run, uint64_t backed) {
  held_count(thread, mi_popcount(run & backed), mi_popcount(run & ~backed), 0, 0);
}

void _mi_held_counts(int64_t* free_backed, int64_t* used) {
  *free_backed = mi_load_relaxed(&held);
  *used = mi_load_relaxed(&held_used);
}

static void held_tick(void) {
  fade(&tick_count, MI_SPARED_FADE);
  const int64_t peak = mi_load_relaxed(&used_peak), above = peak - mi_load_relaxed(&held_used);
  if (above > 0) mi_store_relaxed(&used_peak, peak - (above + MI_PEAK_FADE - 1) / MI_PEAK_FADE);
  fade(&spared, MI_SPARED_FADE);
  const int64_t extra = mi_load_relaxed(&held_extra);
  if (extra > 0) mi_store_relaxed(&held_extra, extra - (extra + MI_HELD_FADE - 1) / MI_HELD_FADE);
}

// --- claiming ------------------------------------------------------------------------------------------------

static void count_backed(uint64_t slices) {
  mi_gauge_add(&_mi_stats.committed, (int64_t)(mi_popcount(slices) * MI_SLICE_SIZE));
}
static void count_unbacked(uint64_t slices) {
  mi_gauge_sub(&_mi_stats.committed, (int64_t)(mi_popcount(slices) * MI_SLICE_SIZE));
}

// The slices may have memory behind them from now on. The caller holds them. Returns those that had none.
static uint64_t set_backed(mi_segment_info_t* info, uint64_t run) {
  const uint64_t fresh = run & ~mi_load_relaxed(&info->backed);
  if (fresh == 0) return 0;
  mi_fetch_or_acq_rel(&info->backed, run);
  count_backed(fresh);
  return fresh;
}

// The same for slices that are to be used, whose use is noted. `*zero`: they are known to be zero.
static uint64_t slices_begin(mi_segment_info_t* info, uint64_t run, bool* zero) {
  const uint64_t dirty = mi_load_relaxed(&info->dirty);
  *zero = ((dirty & run) == 0);
  if ((dirty & run) != run) mi_fetch_or_acq_rel(&info->dirty, run);
  const uint64_t fresh = set_backed(info, run);
  if (fresh != 0) mi_fetch_or_acq_rel(&info->cold, fresh);
  return fresh;
}

// --- how much of a slice ---------------------------------------------------------------------------------------
// Memory comes by OS pages, and most pages of blocks use a few of a slice's sixteen. If slices went from use to use as
// it happens, all of each would be touched before long, and a page of three blocks would hold 64 KiB. So it is noted
// how much of a slice has memory, roughly, and slices are taken for what is likely to use as much. What had no memory
// when it was taken, and was not used, has none when it is released.
#define MI_PART_LITTLE (MI_SLICE_SIZE / 4)
#define MI_PART_MUCH (MI_SLICE_SIZE / 8 * 5)

enum { MI_PARTS = 2, MI_PART_MOST = 2 };

static int part_of(size_t bytes) { return (bytes <= MI_PART_LITTLE ? 0 : bytes <= MI_PART_MUCH ? 1 : MI_PART_MOST); }

// Those with such a part, of slices that are free and have memory at all.
static uint64_t slices_with_part(mi_segment_info_t* info, int part) {
  if (part < MI_PART_MOST) return mi_load_relaxed(&info->part[part]);
  return ~(mi_load_relaxed(&info->part[0]) | mi_load_relaxed(&info->part[1]));
}

static void bits_change(_Atomic(uint64_t)* word, uint64_t before, uint64_t after) {
  if ((before & ~after) != 0) mi_fetch_and_acq_rel(word, ~(before & ~after));
  if ((after & ~before) != 0) mi_fetch_or_acq_rel(word, after & ~before);
}

// The caller holds `run`, which begins with slice `at`, and used so many bytes of it. Returns the slices without
// memory.
static uint64_t slices_used(mi_segment_info_t* info, uint64_t run, size_t at, size_t bytes) {
  const size_t whole = bytes / MI_SLICE_SIZE, rest = bytes % MI_SLICE_SIZE;
  const uint64_t used = mi_run_mask(at, whole), last = (rest == 0 ? 0 : (uint64_t)1 << (at + whole));
  const uint64_t cold = mi_load_relaxed(&info->cold) & run;
  const int part = part_of(rest);
  uint64_t less = cold;  // of which less was used before than of the last one now
  for (int i = 0; i < MI_PARTS; i++) {
    const uint64_t before = mi_load_relaxed(&info->part[i]) & run;
    uint64_t after = before & ~used;
    if (i == part) after |= last & less;
    if (i < part) after &= ~last;
    if (after != before) bits_change(&info->part[i], before, after);
    less |= before;
  }
  if (cold == 0) return 0;
  mi_fetch_and_acq_rel(&info->cold, ~cold);
  const uint64_t bare = cold & ~(used | last);
  if (bare != 0) {
    mi_fetch_and_acq_rel(&info->backed, ~bare);
    count_unbacked(bare);
  }
  return bare;
}

// A claim turned the word of a segment to `left`: the run is the caller's.
static void slices_taken(mi_thread_t* thread, mi_arena_t* arena, size_t index, uint64_t left, uint64_t run,
                         bool* zero) {
  mi_segment_info_t* const info = &arena->info[index];
  if (left == 0) summary_clear(arena, index);
  held_taken(thread, run, ~slices_begin(info, run, zero));
}

// The lowest run of free slices, best one that has guards where it is to have them already (`guard`: behind the last
// slice; else nowhere), so that putting it to use takes no call of the system; then one without any; with any at last.
static size_t slices_choose(uint64_t free, uint64_t guarded, const mi_want_t* want) {
  const size_t count = want->count;
  if (mi_likely((free & guarded) == 0)) return mi_find_run(free, count, 1);
  const uint64_t bare = free & ~guarded;
  if (want->guard) {
    const uint64_t before = (count == 1 ? ~(uint64_t)0 : mi_run_starts(bare, count - 1));
    const uint64_t fits = before & (free & guarded) >> (count - 1);
    if (fits != 0) return mi_ctz(fits);
  }
  const size_t at = mi_find_run(bare, count, 1);
  return (at < MI_SLICES_PER_SEGMENT || want->bare ? at : mi_find_run(free, count, 1));
}

// What uses a part of a slice gets the highest, and stays out of the way of long runs.
static size_t slices_pick(uint64_t free, uint64_t guarded, const mi_want_t* want, int part) {
  if (part == MI_PART_MOST) return slices_choose(free, guarded, want);
  if ((free & ~guarded) != 0 || want->bare) free &= ~guarded;
  return (free == 0 ? MI_SLICES_PER_SEGMENT : mi_msb(free));
}

// Takes a run of one segment: of slices that have memory behind them if there is one, and with `warm` only then. What
// was in use a moment ago costs no page fault, and does not add to what the process holds. Of one slice of which it is
// known how much will be used, one that has as much is best (with `warm` no other is taken), then one that has nothing.
// Of others, those that have all their memory. What is looked at besides `free` is a hint: it may have changed by the
// claim, whatever that finds in `free`.
static mi_page_t* slices_take(mi_thread_t* thread, mi_arena_t* arena, size_t index, const mi_want_t* want, bool warm,
                              bool* zero) {
  mi_segment_info_t* const info = &arena->info[index];
  const bool chooses = (want->count == 1 && want->expected != 0);
  const int part = (chooses ? part_of(want->expected) : MI_PART_MOST);
  uint64_t word = mi_load_relaxed(&info->free);
  uint64_t run;
  size_t at;
  do {
    if (word == 0) return NULL;
    const uint64_t guarded = mi_load_relaxed(&info->guarded);
    const uint64_t backed = mi_load_relaxed(&info->backed);
    at = slices_pick(word & backed & slices_with_part(info, part), guarded, want, part);
    if (at >= MI_SLICES_PER_SEGMENT && !(chooses && warm))
      at = slices_pick(word & (chooses ? ~backed : backed), guarded, want, part);
    if (at >= MI_SLICES_PER_SEGMENT && !warm) at = slices_pick(word, guarded, want, part);
    if (at >= MI_SLICES_PER_SEGMENT) return NULL;
    run = mi_run_mask(at, want->count);
  } while (!mi_cas_weak_acq_rel(&info->free, &word, word & ~run));
  slices_taken(thread, arena, index, word & ~run, run, zero);
  return &((mi_segment_t*)mi_arena_segment(arena, index))->slot[at];
}

// Searches the segments with free slices; `warm`: those that may have free slices with memory behind them. A run that
// is longer than one slice may not fit in many of them: after some misses a new segment is the better choice, and the
// work stays bounded.
#define MI_SEARCH_MISSES 32
static mi_page_t* slices_search(mi_thread_t* thread, const mi_want_t* want, bool warm, size_t misses_max, bool* zero) {
  const bool last_resort = (misses_max == SIZE_MAX);
  size_t misses = 0;
  for (size_t i = 0; i < MI_ARENAS_MAX; i++) {
    mi_arena_t* const arena = mi_load_acquire(&_mi_arenas[i]);
    if (arena == NULL) break;
    if (want->only == NULL ? arena->is_exclusive : arena != want->only) continue;
    const size_t ready = mi_load_acquire(&arena->ready), words = (ready + 63) / 64;
    const size_t hint = mi_load_relaxed(&arena->first_free);
    bool all_empty = true;
    for (size_t n = 0, w = (hint < words ? hint : 0); n < words; n++, w = (w + 1 < words ? w + 1 : 0)) {
      if (w == 0 && n > 0) all_empty = false;  // round: what lies below the hint, which a race may have set too high
      uint64_t summary = mi_load_relaxed(&arena->has_free[w]);
      // The last resort goes by no summary: another thread may be about to set it.
      if (last_resort) summary = mi_run_mask(0, ready - 64 * w < 64 ? ready - 64 * w : 64);
      if (summary != 0) all_empty = false;
      if (warm) summary &= mi_load_relaxed(&arena->purgeable[w]);
      while (summary != 0) {
        const size_t index = 64 * w + mi_ctz(summary);
        summary &= summary - 1;
        mi_page_t* const page = slices_take(thread, arena, index, want, warm, zero);
        if (page != NULL) {
          thread->segment_arena = arena;
          thread->segment_index = index;
          return page;
        }
        if (!last_resort && mi_load_relaxed(&arena->info[index].free) == 0) summary_clear(arena, index);
        if (warm) purgeable_clear(arena, index);
        if (++misses >= misses_max) return NULL;
      }
      if (all_empty) mi_store_relaxed(&arena->first_free, w);  // a hint: releases lower it again
    }
  }
  return NULL;
}

// --- guards -------------------------------------------------------------------------------------------------------
// A guard stays when its slices are free, so that a page of the same shape finds it in place, and is noted in
// `guarded`. It is taken away when its slice is to hold something else.

_Atomic(bool) _mi_guards_used;

static uint8_t* guard_of(const mi_arena_t* arena, size_t index, size_t slice, size_t* size) {
  uint8_t* const start = mi_arena_segment(arena, index) + slice * MI_SLICE_SIZE;
  const size_t lead = (slice == 0 ? sizeof(mi_segment_t) : MI_SLICE_SIZE - MI_OS_PAGE);
  *size = MI_SLICE_SIZE - lead;
  return start + lead;
}

// Ends the guards of some slices, which the caller holds. False: there still is one, the system refused.
static bool guards_end(mi_arena_t* arena, size_t index, uint64_t slices) {
  mi_segment_info_t* const info = &arena->info[index];
  for (uint64_t rest = slices & mi_load_relaxed(&info->guarded); rest != 0; rest &= rest - 1) {
    size_t size;
    uint8_t* const guard = guard_of(arena, index, mi_ctz(rest), &size);
    if (_mi_os_guard_dear(guard, size, false)) mi_fetch_and_acq_rel(&info->guarded, ~(rest & (0 - rest)));
  }
  return (mi_load_relaxed(&info->guarded) & slices) == 0;
}

bool _mi_segments_unguard(mi_arena_t* arena, size_t index, size_t count) {
  bool ended = true;
  for (size_t i = index; i < index + count; i++) ended = guards_end(arena, i, ~(uint64_t)0) && ended;
  if (mi_unlikely(!ended)) _mi_segments_release(arena, index, count);
  return ended;
}

static bool guard_begin(mi_arena_t* arena, size_t index, size_t slice, bool dear) {
  mi_segment_info_t* const info = &arena->info[index];
  const uint64_t bit = (uint64_t)1 << slice;
  if ((mi_load_relaxed(&info->guarded) & bit) != 0) return true;
  size_t size;
  uint8_t* const guard = guard_of(arena, index, slice, &size);
  if (arena->is_foreign) return false;
  if (!(dear ? _mi_os_guard_dear(guard, size, true) : _mi_os_guard(guard, size))) return false;
  mi_fetch_or_acq_rel(&info->guarded, bit);
  if (!mi_load_relaxed(&_mi_guards_used)) mi_store_relaxed(&_mi_guards_used, true);
  return true;
}

bool _mi_slices_guard(mi_page_t* page, bool on, bool dear, size_t* guard) {
  size_t index = 0;
  mi_arena_t* const arena = _mi_arena_of((uint8_t*)page + 1, &index);
  const size_t last = mi_page_slice(page) + page->slices - 1;
  const uint64_t others = mi_run_mask(mi_page_slice(page), page->slices) & ~(on ? (uint64_t)1 << last : 0);
  if (!guards_end(arena, index, others)) return false;
  *guard = (on && guard_begin(arena, index, last, dear) ? MI_OS_PAGE : 0);
  return true;
}

// Takes a segment from the arena and makes it NORMAL, with the caller's run claimed; with none, *page NULL, if it is
// to be bare, and there is none in this one. False: no memory.
static bool segment_open_one(mi_thread_t* thread, const mi_want_t* want, mi_page_t** page, bool* zero) {
  mi_arena_t* arena;
  size_t index;
  if (!_mi_segments_claim(1, 0, 0, want->only, false, &arena, &index)) return false;
  mi_segment_info_t* const info = &arena->info[index];
  mi_segment_t* const segment = (mi_segment_t*)mi_arena_segment(arena, index);
  if ((mi_load_relaxed(&info->dirty) & 1) != 0) memset(segment, 0, sizeof(*segment));
  const uint64_t backed = mi_load_relaxed(&info->backed);
  mi_fetch_or_acq_rel(&info->dirty, 1);
  set_backed(info, 1);
  mi_gauge_add(&_mi_stats.segments, 1);
  if (MI_SECURE >= 2) guard_begin(arena, index, 0, true);
  if (mi_unlikely(mi_load_relaxed(&arena->bits_ready) != 0)) _mi_bits_forget(segment, 0);
  mi_store_release(&arena->kind[index], (uint8_t)MI_SEGMENT_NORMAL);
  const size_t at = slices_choose(MI_SLICES_ALL, mi_load_relaxed(&info->guarded), want);
  const uint64_t run = (mi_likely(at < MI_SLICES_PER_SEGMENT) ? mi_run_mask(at, want->count) : 0);
  (void)slices_begin(info, run, zero);
  held_taken(thread, run | 1, backed);
  thread->segment_arena = arena;
  thread->segment_index = index;
  if ((MI_SLICES_ALL & ~run) != 0) slices_give(arena, index, MI_SLICES_ALL & ~run);
  mark_purgeable(arena, index);  // a tick that saw the word 0 took the mark away
  *page = (mi_likely(run != 0) ? &segment->slot[at] : NULL);
  return true;
}

static mi_page_t* segment_open(mi_thread_t* thread, const mi_want_t* want, bool* zero) {
  mi_page_t* page = NULL;
  while (segment_open_one(thread, want, &page, zero) && mi_unlikely(page == NULL)) {
  }
  return page;
}

static void slots_mark_tail(mi_page_t* page, size_t from, size_t count) {
  page->slices = (uint8_t)count;
  for (size_t i = from; i < count; i++) {
    page[i].distance = (uint8_t)i;
    page[i].kind = MI_PAGE_TAIL;
  }
}

// Of segments that are searched for slices that have as much memory as is needed, when there is other memory nearer.
#define MI_SEARCH_CHOICE 8

mi_page_t* _mi_slices_claim(mi_thread_t* thread, const mi_want_t* want, bool* zero) {
  const mi_arena_t* const only = want->only;
  mi_arena_t* last = thread->segment_arena;
  if (last != NULL && (only == NULL ? last->is_exclusive : last != only)) last = NULL;
  const size_t last_index = thread->segment_index;
  const size_t misses_max = (want->expected == 0 ? MI_SEARCH_MISSES : MI_SEARCH_CHOICE);
  mi_page_t* page = NULL;
  if (last != NULL) page = slices_take(thread, last, last_index, want, true, zero);
  if (page == NULL) page = slices_search(thread, want, true, misses_max, zero);
  if (page == NULL && last != NULL) page = slices_take(thread, last, last_index, want, false, zero);
  if (page == NULL) page = slices_search(thread, want, false, MI_SEARCH_MISSES, zero);
  if (page == NULL) page = segment_open(thread, want, zero);
  if (page == NULL) {
    // Memory is short. Free slices elsewhere may be backed by memory that others need. Now every segment is looked at.
    _mi_purge(true);
    uint64_t before;
    int searches = 0;
    do {
      before = mi_load_acquire(&purging);
      page = slices_search(thread, want, false, SIZE_MAX, zero);
      if (page == NULL) page = segment_open(thread, want, zero);
    } while (page == NULL && search_again(before, ++searches));
  }
  if (page != NULL) {
    page->distance = 0;
    slots_mark_tail(page, 1, want->count);
  }
  return page;
}

// Slots [from, to) of a page, counted from its first, of which the first `used` bytes were used.
static void slices_release(mi_page_t* page, size_t from, size_t to, size_t used) {
  size_t index = 0;
  mi_arena_t* const arena = _mi_arena_of((uint8_t*)mi_page_segment(page) + 1, &index);
  for (size_t i = from; i < to; i++) {
    mi_store_relaxed(&page[i].owner, MI_TID_NONE);
    page[i].kind = MI_PAGE_NONE;
  }
  const size_t at = mi_page_slice(page) + from;
  const uint64_t run = mi_run_mask(at, to - from);
  mi_segment_info_t* const info = &arena->info[index];
  if ((mi_load_relaxed(&info->aged) & run) != 0) mi_fetch_and_acq_rel(&info->aged, ~run);
  const uint64_t bare = slices_used(info, run, at, used);
  slices_give(arena, index, run);
  mark_purgeable(arena, index);
  held_count(_mi_tls.thread, 0, 0, (int64_t)(to - from), mi_popcount(bare));
}

// A segment that a large block leaves empty serves huge blocks at once; elsewhere a purge closes it.
#define MI_CLOSE_FROM 16
static void segment_close(mi_arena_t* arena, size_t index, bool purge);
static bool segment_may_close(const mi_arena_t* arena, size_t index);

void _mi_slices_release(mi_page_t* page, size_t used) {
  const size_t count = page->slices;
  slices_release(page, 0, count, used);
  if (count < MI_CLOSE_FROM) return;
  size_t index = 0;
  mi_arena_t* const arena = _mi_arena_of((uint8_t*)mi_page_segment(page) + 1, &index);
  if (mi_load_relaxed(&arena->info[index].free) == MI_SLICES_ALL && segment_may_close(arena, index))
    segment_close(arena, index, false);
}

static bool slices_extend(mi_page_t* page, size_t count, bool* zero) {
  size_t index = 0;
  mi_arena_t* const arena = _mi_arena_of((uint8_t*)mi_page_segment(page) + 1, &index);
  mi_segment_info_t* const info = &arena->info[index];
  const size_t at = mi_page_slice(page), have = page->slices;
  if (at + count > MI_SLICES_PER_SEGMENT) return false;
  const uint64_t run = mi_run_mask(at + have, count - have);
  uint64_t word = mi_load_relaxed(&info->free);
  do {
    if ((word & run) != run) return false;
  } while (!mi_cas_weak_acq_rel(&info->free, &word, word & ~run));
  slices_taken(_mi_tls.thread, arena, index, word & ~run, run, zero);
  slots_mark_tail(page, have, count);
  mi_slots_forget_policy(page, have, count);
  if (mi_likely(guards_end(arena, index, run))) return true;
  page->slices = (uint8_t)have;
  slices_release(page, have, count, 0);
  return false;
}

bool _mi_slices_resize(mi_page_t* page, size_t count, bool* zero) {
  *zero = true;
  const size_t have = page->slices;
  if (count > have) return slices_extend(page, count, zero);
  if (count < have) {
    page->slices = (uint8_t)count;
    slices_release(page, count, have, (have - count) * MI_SLICE_SIZE);
  }
  return true;
}

// --- huge blocks -----------------------------------------------------------------------------------------------

// The block starts behind the header, and where the alignment wants it.
size_t _mi_huge_lead(size_t alignment, size_t offset, size_t* segment_alignment, size_t* phase) {
  *segment_alignment = *phase = 0;
  if (alignment <= MI_SEGMENT_SIZE) return MI_SLICE_SIZE + ((0 - offset - MI_SLICE_SIZE) & (alignment - 1));
  const size_t low = (0 - offset) & MI_SEGMENT_MASK;
  const size_t lead = (low == 0 ? MI_SEGMENT_SIZE : low >= MI_SLICE_SIZE ? low : MI_SEGMENT_SIZE + low);
  *segment_alignment = alignment;
  *phase = lead + offset;
  return lead;
}

// Segments were taken for a huge block. Are they known to be zero? Of the first one `header` slices do not matter.
static bool huge_taken(mi_arena_t* arena, size_t index, size_t count, size_t header) {
  bool zero = true;
  for (size_t i = index; i < index + count; i++) {
    mi_segment_info_t* const info = &arena->info[i];
    const uint64_t dirty = mi_load_relaxed(&info->dirty);
    if (dirty >> (i == index ? header : 0) != 0) zero = false;
    const uint64_t backed = mi_load_relaxed(&info->backed);
    mi_store_relaxed(&info->dirty, ~(uint64_t)0);
    for (int part = 0; part < MI_PARTS; part++) mi_store_relaxed(&info->part[part], (uint64_t)0);
    count_backed(~backed);
    mi_store_relaxed(&info->backed, ~(uint64_t)0);
    held_taken(_mi_tls.thread, ~(uint64_t)0, backed);
  }
  mi_gauge_add(&_mi_stats.segments, (int64_t)count);
  if (mi_unlikely(mi_load_relaxed(&arena->bits_ready) != 0)) {
    for (size_t i = 0; i < count; i++) _mi_bits_forget((mi_segment_t*)mi_arena_segment(arena, index + i), 0);
  }
  return zero;
}

static size_t huge_segments(size_t lead, size_t size) { return (lead + size + MI_SEGMENT_MASK) >> MI_SEGMENT_SHIFT; }

mi_page_t* _mi_huge_claim(size_t size, size_t alignment, size_t offset, size_t inside, mi_arena_t* only, bool* zero) {
  // The block starts `lead` bytes into the run; the program's pointer is `inside` (less than 8) bytes into the block.
  size_t segment_alignment, phase;
  const size_t lead = _mi_huge_lead(alignment, offset, &segment_alignment, &phase);
  // In the span, mi_free looks at the slot that the pointer leads to: that of the first segment up to its end, and slot
  // 0 of the second one behind it. Where that would be bytes of the block, the block must lie in another arena.
  const bool apart = (lead + inside > MI_SEGMENT_SIZE && lead < MI_SEGMENT_SIZE + sizeof(mi_page_t));
  if (size > MI_ALLOC_MAX - 2 * MI_SEGMENT_SIZE) return NULL;
  size = mi_round_up(size, MI_OS_PAGE);
  const size_t count = huge_segments(lead, size);
  mi_arena_t* arena;
  size_t index;
  if (!_mi_segments_claim(count, segment_alignment, phase, only, apart, &arena, &index)) {
    _mi_purge(true);  // whole segments may be among what is free
    uint64_t before;
    int searches = 0;
    do {
      if (searches > 0 && !search_again(before, searches)) return NULL;
      searches++;
      before = mi_load_acquire(&purging);
    } while (!_mi_segments_claim(count, segment_alignment, phase, only, apart, &arena, &index));
  }
  if (mi_unlikely(!_mi_segments_unguard(arena, index, count))) return NULL;
  mi_segment_t* const segment = (mi_segment_t*)mi_arena_segment(arena, index);
  const bool was_used = (mi_load_relaxed(&arena->info[index].dirty) & 1) != 0;
  *zero = huge_taken(arena, index, count, 1);
  if (was_used) memset(segment, 0, sizeof(*segment));
  if (lead > MI_SEGMENT_SIZE && !apart) memset((uint8_t*)segment + MI_SEGMENT_SIZE, 0, sizeof(mi_page_t));
  mi_page_t* const page = &segment->slot[1];
  page->slices = 0;
  page->distance = 0;
  page->block_size = size;
  page->start = (uint8_t*)segment + lead;
  // The kinds last (release): who finds HUGE finds the slot. From the end, so that a walk back always meets a start.
  for (size_t i = index + count - 1; i > index; i--) {
    mi_store_release(&arena->kind[i], (uint8_t)MI_SEGMENT_HUGE_INSIDE);
  }
  mi_store_release(&arena->kind[index], (uint8_t)MI_SEGMENT_HUGE_START);
  // Other blocks that start in a later slice of the first segment find a slot that matches nobody: all are zero.
  return page;
}

static void huge_release(mi_arena_t* arena, size_t index, size_t count) {
  for (size_t i = index; i < index + count; i++) {
    mi_store_relaxed(&arena->info[i].aged, 0);
    mi_store_release(&arena->kind[i], (uint8_t)MI_SEGMENT_UNUSED);
  }
  mi_gauge_sub(&_mi_stats.segments, (int64_t)count);
  _mi_segments_release(arena, index, count);
  held_count(_mi_tls.thread, 0, 0, (int64_t)count * MI_SLICES_PER_SEGMENT, 0);
}

void _mi_huge_release(mi_page_t* page) {
  uint8_t* const segment = (uint8_t*)mi_page_segment(page);
  size_t index = 0;
  mi_arena_t* const arena = _mi_arena_of(segment + 1, &index);
  mi_store_relaxed(&page->owner, MI_TID_NONE);
  page->kind = MI_PAGE_NONE;
  huge_release(arena, index, huge_segments((size_t)(page->start - segment), page->block_size));
}

// The segments behind those of the block are taken, or the last ones given back.
bool _mi_huge_resize(mi_page_t* page, size_t size, bool* zero) {
  uint8_t* const segment = (uint8_t*)mi_page_segment(page);
  size_t index = 0;
  mi_arena_t* const arena = _mi_arena_of(segment + 1, &index);
  const size_t lead = (size_t)(page->start - segment);
  const size_t have = huge_segments(lead, page->block_size), count = huge_segments(lead, size);
  *zero = true;
  if (count < have) {
    page->block_size = size;  // first: the child of a fork at this moment releases what the slot says
    huge_release(arena, index + count, have - count);
  }
  if (count <= have) return true;
  if (!_mi_segments_claim_at(arena, index + have, count - have) ||
      mi_unlikely(!_mi_segments_unguard(arena, index + have, count - have)))
    return false;
  *zero = huge_taken(arena, index + have, count - have, 0);
  for (size_t i = index + have; i < index + count; i++) {
    mi_store_release(&arena->kind[i], (uint8_t)MI_SEGMENT_HUGE_INSIDE);
  }
  return true;
}

// --- purging ------------------------------------------------------------------------------------------------------

// May a segment with all slices free be taken out of use?
static bool segment_may_close(const mi_arena_t* arena, size_t index) { return index != 0 || !arena->is_resident; }

// Purges the slices in `due`, which the caller holds. Returns those whose memory the system did not take: they stay
// dirty and backed, and are tried again when something else of the segment is released, or by a forced purge.
static uint64_t purge_slices(mi_arena_t* arena, size_t index, uint64_t due) {
  mi_segment_info_t* const info = &arena->info[index];
  const bool decommit = (_mi_option(mi_option_purge_decommits) != 0);
  uint64_t refused = 0;
  for (uint64_t rest = due; rest != 0;) {
    const size_t at = mi_ctz(rest);
    size_t n = 1;
    while (at + n < 64 && (rest >> (at + n) & 1) != 0) n++;
    const uint64_t run = mi_run_mask(at, n);
    rest &= ~run;
    uint8_t* const start = mi_arena_segment(arena, index) + at * MI_SLICE_SIZE;
    switch (_mi_arena_purge(arena, start, n * MI_SLICE_SIZE, decommit)) {
      case MI_PURGE_REFUSED:
        refused |= run;
        continue;
      case MI_PURGE_ZERO:
        mi_fetch_and_acq_rel(&info->dirty, ~run);
        break;
      case MI_PURGE_LATER:
        break;
    }
    mi_fetch_and_acq_rel(&info->backed, ~run);
    for (int part = 0; part < MI_PARTS; part++)
      bits_change(&info->part[part], mi_load_relaxed(&info->part[part]) & run, 0);
    count_unbacked(run);
  }
  mi_fetch_add_relaxed(&held, -(int64_t)mi_popcount(due & ~refused));
  return refused;
}

// Takes a segment with all slices free out of use; with `purge` its header's memory goes back.
static void segment_close(mi_arena_t* arena, size_t index, bool purge) {
  mi_segment_info_t* const info = &arena->info[index];
  uint64_t expected = MI_SLICES_ALL;
  purging_take();
  if (!mi_cas_strong_acq_rel(&info->free, &expected, (uint64_t)0)) {
    purging_give();
    return;
  }
  // The word is 0: nobody can claim a slice, the segment is ours.
  summary_clear(arena, index);
  mi_store_release(&arena->kind[index], (uint8_t)MI_SEGMENT_UNUSED);
  if (purge && _mi_arena_purge(arena, mi_arena_segment(arena, index), MI_SLICE_SIZE, true) == MI_PURGE_ZERO) {
    mi_fetch_and_acq_rel(&info->dirty, ~(uint64_t)1);
    mi_fetch_and_acq_rel(&info->backed, ~(uint64_t)1);
    count_unbacked(1);
  } else {
    mi_fetch_add_relaxed(&held, (int64_t)1);
  }
  mi_fetch_add_relaxed(&held_used, (int64_t)-1);
  mi_gauge_sub(&_mi_stats.segments, 1);
  mi_store_relaxed(&info->aged, 0);
  _mi_segments_release(arena, index, 1);
  purging_give();
}

// The runs of `due` that are at least so long.
static uint64_t long_runs(uint64_t due, size_t least) {
  if (mi_likely(least <= 1)) return due;
  uint64_t kept = 0;
  for (uint64_t rest = due; rest != 0;) {
    const size_t at = mi_ctz(rest);
    size_t n = 1;
    while (at + n < 64 && (rest >> (at + n) & 1) != 0) n++;
    const uint64_t run = mi_run_mask(at, n);
    if (n >= least) kept |= run;
    rest &= ~run;
  }
  return kept;
}

static uint64_t without_lowest(uint64_t word, int64_t count) {
  for (; count > 0 && word != 0; count--) word &= word - 1;
  return word;
}

// A look at the segments, from the first to the last. That of a tick stops when it has purged as much as one call of
// the program may wait for, and is gone on with at the next slow path, of whatever thread: see _mi_purge_step.
typedef struct pass_s {
  bool force;            // what is free is due
  bool all;              // segments without the mark, too
  size_t least;          // runs of free slices in segments that are in use go back if they are at least so long
  int64_t spare, total;  // free slices with memory that stay as they are: of segments in use, and of all
  int64_t room;          // slices that may be purged before it stops
  size_t arena, segment;
  size_t slice;      // not 0: it stopped in the segment, before this slice,
  uint64_t refused;  // having met these that the system did not take
} pass_t;

#define MI_TICK_SLICES 16  // and a header: 1 MiB. 50 us if all of it was used; 15 of calls, if they lie apart

// Of what is due in the pass's segment, what it has not met before and has room for. `*rest`: what it has no room for.
static uint64_t pass_due(const pass_t* pass, uint64_t due, uint64_t* rest) {
  due &= ~(uint64_t)0 << pass->slice;
  *rest = (pass->least > 1 ? 0 : without_lowest(due, pass->room));  // what is left of a run may be too short
  return due & ~*rest;
}

// Slices of its segment were purged; it stops before the first of `rest`.
static void pass_went(pass_t* pass, uint64_t due, uint64_t refused, uint64_t rest) {
  pass->room -= mi_popcount(due);
  pass->refused |= refused;
  pass->slice = (rest == 0 ? 0 : mi_ctz(rest));
  if (!pass->force) mi_fetch_add_relaxed(&tick_count, (int64_t)mi_popcount(due & ~refused));
}

// `spare`: how many free slices with memory stay as they are; counted down.
static void purge_normal(pass_t* pass, mi_arena_t* arena, size_t index, int64_t* spare) {
  mi_segment_info_t* const info = &arena->info[index];
  uint64_t word = mi_load_acquire(&info->free);
  const uint64_t aged = mi_load_acquire(&info->aged);
  uint64_t due, rest;
  int64_t stays;
  bool holds = false;
  do {
    const uint64_t candidates = word & mi_load_acquire(&info->backed);
    due = without_lowest(candidates, *spare);
    stays = mi_popcount(candidates & ~due);
    due = pass_due(pass, long_runs(due & (pass->force ? ~(uint64_t)0 : aged), pass->least), &rest);
    if (due != 0 && !holds) purging_take();
    holds = holds || due != 0;
  } while (due != 0 && !mi_cas_weak_acq_rel(&info->free, &word, word & ~due));
  uint64_t refused = 0;
  if (due != 0) {
    if ((word & ~due) == 0) summary_clear(arena, index);
    // Somebody may have taken them since the look at `backed`, purged them, and given them back: the word is the same.
    const uint64_t held_due = due;
    due &= mi_load_relaxed(&info->backed);
    refused = purge_slices(arena, index, due);
    slices_give(arena, index, held_due);
  }
  if (holds) purging_give();
  pass_went(pass, due, refused, rest);
  if (rest != 0) return;  // nothing is aged before its time
  *spare -= stays;
  if (stays == 0 && mi_load_acquire(&info->free) == MI_SLICES_ALL && (pass->force || aged == MI_SLICES_ALL) &&
      segment_may_close(arena, index)) {
    segment_close(arena, index, true);
    pass->room--;  // its header
  } else {
    // Only what is free now and still is when released slices clear their bit: a stale set bit costs an early
    // purge of a free slice, never one of a slice in use (the purger claims first).
    mi_fetch_or_acq_rel(&info->aged, mi_load_acquire(&info->free));
  }
}

static void purge_unused(pass_t* pass, mi_arena_t* arena, size_t index) {
  mi_segment_info_t* const info = &arena->info[index];
  const uint64_t bit = (uint64_t)1 << (index % 64);
  uint64_t due = 0, refused = 0, rest = 0;
  const uint64_t backed = mi_load_acquire(&info->backed);
  if (backed != 0 && !pass->force && mi_load_relaxed(&info->aged) == 0) {
    mi_store_relaxed(&info->aged, MI_SLICES_ALL);
  } else if (backed != 0 && pass->total > 0) {
    pass->total -= mi_popcount(backed);
  } else if (backed != 0) {
    purging_take();
    uint64_t word = mi_load_relaxed(&arena->unused[index / 64]);
    while ((word & bit) != 0 && !mi_cas_weak_acq_rel(&arena->unused[index / 64], &word, word & ~bit)) {
    }
    if ((word & bit) != 0) {
      due = pass_due(pass, mi_load_relaxed(&info->backed), &rest);
      refused = purge_slices(arena, index, due);
      if (rest == 0) mi_store_relaxed(&info->aged, 0);
      mi_fetch_or_acq_rel(&arena->unused[index / 64], bit);
    }
    purging_give();
  }
  pass_went(pass, due, refused, rest);
}

// Returns whether something is left in the segment to be purged.
static bool purge_segment(pass_t* pass, mi_arena_t* arena, size_t index) {
  mi_segment_info_t* const info = &arena->info[index];
  const int64_t most = (pass->spare < pass->total ? pass->spare : pass->total);
  int64_t left = most;
  switch ((mi_segment_kind_t)mi_load_acquire(&arena->kind[index])) {
    case MI_SEGMENT_NORMAL:
      purge_normal(pass, arena, index, &left);
      pass->spare -= most - left;
      pass->total -= most - left;
      if (mi_load_acquire(&info->free) == MI_SLICES_ALL && segment_may_close(arena, index)) return true;
      return (mi_load_seq_cst(&info->free) & mi_load_acquire(&info->backed) & ~pass->refused) != 0;
    case MI_SEGMENT_UNUSED:
      purge_unused(pass, arena, index);
      return (mi_load_acquire(&info->backed) & ~pass->refused) != 0;
    default:
      pass->slice = 0;
      return false;
  }
}

// Goes on with the segments of one word of the summary. False: it stopped.
static bool pass_word(pass_t* pass, mi_arena_t* arena, size_t ready) {
  const size_t w = pass->segment / 64;
  const uint64_t ahead = ~(uint64_t)0 << (pass->segment % 64);
  // Each bit is cleared before its segment is looked at and set again if something is left, so that a release
  // that comes in between is not forgotten.
  uint64_t bits = mi_load_relaxed(&arena->purgeable[w]) & ahead;
  if (bits != 0) bits = mi_fetch_and_seq_cst(&arena->purgeable[w], ~ahead) & ahead;
  if (pass->all) bits = mi_run_mask(0, (ready - 64 * w < 64 ? ready - 64 * w : 64)) & ahead;
  uint64_t left = 0;
  bool stops = false;
  for (uint64_t rest = bits; rest != 0 && !stops; rest &= rest - 1) {
    const size_t index = 64 * w + mi_ctz(rest);
    if (index != pass->segment) {
      pass->slice = 0;
      pass->refused = 0;
    }
    pass->segment = index;
    stops = (pass->room <= 0);
    if (!stops && purge_segment(pass, arena, index)) left |= (uint64_t)1 << (index % 64);
    stops = stops || pass->slice != 0;
    if (stops) left |= rest;
  }
  if (left != 0) mi_fetch_or_seq_cst(&arena->purgeable[w], left);
  if (stops) return false;
  pass->segment = 64 * (w + 1);
  pass->slice = 0;
  pass->refused = 0;
  return true;
}

// False: it stopped.
static bool pass_go_on(pass_t* pass, int64_t room) {
  pass->room = room;
  for (; pass->arena < MI_ARENAS_MAX; pass->arena++) {
    mi_arena_t* const arena = mi_load_acquire(&_mi_arenas[pass->arena]);
    if (arena == NULL) break;
    const size_t ready = mi_load_acquire(&arena->ready);
    while (pass->segment < ready) {
      if (!pass_word(pass, arena, ready)) return false;
    }
    pass->segment = 0;
  }
  return true;
}

static pass_t pass_begin(bool force, bool all, size_t least, int64_t spare) {
  mi_count(&_mi_stats.arena_purges, 1);
  const int64_t total = (force || spare <= 0 ? spare : spared_now(MI_SPARED_WHOLE));
  return (pass_t){.force = force, .all = all, .least = least, .spare = spare, .total = total};
}

// One look at every segment with the mark, or at `all`.
static void purge_pass(bool force, bool all, size_t least, int64_t spare) {
  pass_t pass = pass_begin(force, all, least, spare);
  (void)pass_go_on(&pass, INT64_MAX);
}

// The pass of the last tick: by who made its state BUSY. Acquire and release hand it on.
static pass_t tick_pass;
_Atomic(uint8_t) _mi_tick_state;

static bool tick_take(mi_tick_state_t from) {
  uint8_t expected = (uint8_t)from;
  return mi_load_relaxed(&_mi_tick_state) == expected &&
         mi_cas_strong_acq_rel(&_mi_tick_state, &expected, (uint8_t)MI_TICK_BUSY);
}

// Returns whether it is through.
static bool tick_go_on(int64_t room) {
  const bool done = pass_go_on(&tick_pass, room);
  mi_store_release(&_mi_tick_state, (uint8_t)(done ? MI_TICK_DONE : MI_TICK_STOPPED));
  return done;
}

static void tick_begin(size_t least) {
  pass_t pass = pass_begin(false, false, least, spared_now(MI_SPARED_SHARE));
  if (mi_likely(tick_take(MI_TICK_DONE))) {
    tick_pass = pass;
    (void)tick_go_on(MI_TICK_SLICES);
  } else {  // another thread is at work on the last one
    (void)pass_go_on(&pass, INT64_MAX);
  }
}

#define MI_TICK_PATIENCE 4

static _Atomic(uint64_t) next_tick;

// A tick every half delay: what is free at two of them in a row goes back after half to one delay.
static uint64_t tick_period(long delay) { return (delay > 1 ? (uint64_t)delay / 2 + 1 : 1); }

// Goes on with the last tick's pass. What is looked at so late must not be looked at again too soon.
static void tick_go_on_late(int64_t room, uint64_t now, long delay) {
  if (tick_go_on(room)) mi_store_relaxed(&next_tick, now + tick_period(delay));
}

mi_noinline void _mi_purge_go_on(void) {
  if (!tick_take(MI_TICK_STOPPED)) return;
  const long delay = purge_delay();
  if (delay > 0) {
    tick_go_on_late(MI_TICK_SLICES, _mi_os_clock_ms(), delay);
  } else {  // not any more
    mi_store_release(&_mi_tick_state, (uint8_t)MI_TICK_DONE);
  }
}

// What a call of the program waits for is bounded: a tick's pass purges MI_TICK_SLICES, and as much each slow path
// after it, until it is through. What is left when the next tick is due goes at once, in place of that.
void _mi_purge_step(void) {
  static _Atomic(uint64_t) last_tick, next_worked;
  const long delay = purge_delay();
  if (delay < 0) return;
  if (delay == 0) {
    purge_pass(true, false, purge_least(), 0);
    return;
  }
  const uint64_t now = _mi_os_clock_ms(), period = tick_period(delay);
  uint64_t due = mi_load_relaxed(&next_tick);
  if (now < due) return;
  if (mi_unlikely(tick_take(MI_TICK_STOPPED))) {
    tick_go_on_late(INT64_MAX, now, delay);
    return;
  }
  // While the program has no processor it misses no memory either. On a busy machine, and where a program sleeps
  // between pieces of work, a tick waits until the process was at work for a period too, up to four of them.
  const uint64_t worked = _mi_os_processor_ms(), since = (now - mi_load_relaxed(&last_tick)) / period;
  const bool waits = worked < mi_load_relaxed(&next_worked) && since < MI_TICK_PATIENCE;
  if (!mi_cas_strong_acq_rel(&next_tick, &due, now + (waits ? 1 : period)) || waits) return;
  mi_store_relaxed(&next_worked, worked + period);
  mi_store_relaxed(&last_tick, now);
  held_tick();
  // A program that passes a tick now and then only forgets as fast.
  if (since > MI_TICK_PATIENCE) {
    for (uint64_t n = 1; n < since && n < MI_SPARED_FADE; n++) held_tick();
  }
  tick_begin(purge_least());
}

void _mi_purge(bool force) {
  if (force) {
    purge_pass(true, true, 1, 0);
    purge_pass(true, false, 1, 0);  // segments that the first pass emptied and closed
    return;
  }
  _mi_purge_step();
  if (tick_take(MI_TICK_STOPPED)) (void)tick_go_on(INT64_MAX);
}

void _mi_purge_spared(void) {
  if (mi_load_relaxed(&spared) == 0) return;
  mi_store_relaxed(&spared, (int64_t)0);
  mi_store_relaxed(&tick_count, (int64_t)0);
  if (purge_delay() > 0) purge_pass(false, false, purge_least(), 0);
}

// --- in the child of a fork ---------------------------------------------------------------------------------------

// What a thread keeps back is in the counts that _mi_arenas_settle makes.
void _mi_held_forget(mi_thread_t* thread) {
  if ((thread->held_change | thread->used_change | thread->cold_taken) == 0) return;
  thread->held_change = thread->used_change = thread->cold_taken = 0;
}

// A thread may have stopped between a change of a segment's word and that of its summaries, or with a whole word of
// `purgeable` in its hands. Slices and segments that it held stay held: nobody knows what they are. What it had not
// counted yet of those that it took and released is counted anew, for all threads; slices that were in the hands of a
// purger are in use from now on.
void _mi_arenas_settle(void) {
  mi_store_relaxed(&purging, (uint64_t)0);
  if (mi_load_relaxed(&_mi_tick_state) == MI_TICK_BUSY) mi_store_relaxed(&_mi_tick_state, (uint8_t)MI_TICK_DONE);
  int64_t free_backed = 0, used = 0;
  for (size_t i = 0; i < MI_ARENAS_MAX; i++) {
    mi_arena_t* const arena = mi_load_relaxed(&_mi_arenas[i]);
    if (arena == NULL) break;
    if (mi_load_relaxed(&arena->growing) != 0) mi_store_relaxed(&arena->growing, 0u);
    const size_t ready = mi_load_relaxed(&arena->ready);
    for (size_t index = 0; index < ready; index++) {
      mi_segment_info_t* const info = &arena->info[index];
      const uint64_t word = mi_load_relaxed(&info->free), backed = mi_load_relaxed(&info->backed);
      const uint8_t kind = mi_load_relaxed(&arena->kind[index]);
      const uint64_t bit = (uint64_t)1 << (index % 64);
      const bool is_unused = (mi_load_relaxed(&arena->unused[index / 64]) & bit) != 0;
      // Stores only where something changes: they copy pages of memory.
      if (word != 0 && (mi_load_relaxed(&arena->has_free[index / 64]) & bit) == 0) summary_set(arena, index);
      if (kind == MI_SEGMENT_NORMAL ? word == MI_SLICES_ALL || (word & backed) != 0 : backed != 0 && is_unused) {
        mark_purgeable(arena, index);
      }
      // A space's segment has no memory, as far as the arena knows, and was never counted.
      if (kind == MI_SEGMENT_PRIVATE || (kind != MI_SEGMENT_UNUSED && backed == 0)) continue;
      const uint64_t idle = (kind == MI_SEGMENT_NORMAL ? word : is_unused ? ~(uint64_t)0 : 0);
      free_backed += mi_popcount(idle & backed);
      used += mi_popcount(~idle);
      if (!segment_may_close(arena, index)) used--;  // the arena's header was never counted
    }
  }
  mi_store_relaxed(&held, free_backed);
  mi_store_relaxed(&held_used, used);
  mi_store_relaxed(&used_peak, used);
  if (mi_load_relaxed(&held_floor) > free_backed) mi_store_relaxed(&held_floor, free_backed);
}
