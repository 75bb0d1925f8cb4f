// Putting statistics together, for the process and for single heaps: a walk over the slots of all segments, which finds
// every page and, in the pages of handles, every heap with its regions; and the totals that pages and regions leave
// behind. Counting in pages is mi/internal/stats.c; what is shown, and how, mi/stats.c.
//
// The walk takes nothing from anybody and stops nobody. What it reads may change meanwhile, so every address that it
// follows is checked first: slots and handles lie in memory that is never anything else; a region must be a block of a
// page of regions that names its part. It reads no queue of another thread.
//
// A heap's totals are a block of their own, made when the first page of the heap goes or the first region is used
// again. It stays with a handle that is recycled, so that a plain heap's destroy need not look at it, and carries the
// heap's id: one with another id is a former heap's, and is replaced.
#include "mi/heap/stats.h"

#include <errno.h>
#include <string.h>

#include "mi/internal/space.h"
#include "mi/internal/stats.h"

// --- a heap's totals ----------------------------------------------------------------------------------------------

static void totals_free(mi_totals_t* totals) {
  mi_totals_t* const base = mi_load_relaxed(&totals->base);
  if (base != NULL) _mi_internal_free(base);
  _mi_internal_free(totals);
}

// Does the block in `heap->totals` belong to the heap as it is now? A closed heap has no id, but was settled before.
// The block may have been replaced, freed and used again since `totals` was read: then what is read of it means
// nothing, and the second look at the pointer says so.
static MI_RACY bool totals_are_of(mi_heap_t* heap, mi_totals_t* totals, uint64_t id) {
  const uint64_t its = mi_load_acquire(&totals->id);
  return (its == id || its == 0 || id == 0) && mi_load_acquire(&heap->home.totals) == totals;
}

// The heap's totals, or NULL if it has none.
static MI_RACY mi_totals_t* totals_of(mi_heap_t* heap) {
  mi_totals_t* const totals = mi_load_acquire(&heap->home.totals);
  if (totals == NULL || !totals_are_of(heap, totals, mi_load_acquire(&heap->home.id))) return NULL;
  return totals;
}

// Where to add what pages and regions of the heap leave behind; its totals, made if need be. Without memory for them
// the figures go where the process's totals find them: the heap's are then too low.
mi_totals_t* _mi_heap_totals(mi_heap_t* heap) {
  mi_thread_t* const thread = _mi_tls.thread;
  if (heap == &_mi_heap_main) return (thread != NULL ? &thread->main_totals : &_mi_stats.main);
  const uint64_t id = mi_load_acquire(&heap->home.id);
  mi_totals_t* totals = mi_load_acquire(&heap->home.totals);
  for (;;) {
    if (totals != NULL && totals_are_of(heap, totals, id)) return totals;
    mi_totals_t* const made = (thread == NULL ? NULL : _mi_internal_zalloc(thread, sizeof(mi_totals_t)));
    if (made == NULL) return &_mi_stats.ended;
    mi_store_relaxed(&made->id, id);
    mi_totals_t* const former = totals = mi_load_acquire(&heap->home.totals);
    if (former == NULL || !totals_are_of(heap, former, id)) {
      // Release: who finds the block finds it zero, with its id.
      if (mi_cas_strong_acq_rel(&heap->home.totals, &totals, made)) {
        if (former != NULL) totals_free(former);
        return made;
      }
    }
    _mi_internal_free(made);
  }
}

// A heap is about to be closed and lose its id: what a former heap left on the handle goes first.
void _mi_heap_totals_settle(mi_heap_t* heap) {
  mi_totals_t* totals = mi_load_acquire(&heap->home.totals);
  if (totals == NULL || totals_are_of(heap, totals, mi_load_acquire(&heap->home.id))) return;
  mi_totals_t* const former = totals;
  if (mi_cas_strong_acq_rel(&heap->home.totals, &totals, (mi_totals_t*)NULL)) totals_free(former);
}

// The heap ends or starts again; nobody else uses it.
void _mi_heap_totals_end(mi_heap_t* heap) {
  mi_totals_t* const totals = mi_load_acquire(&heap->home.totals);
  if (totals == NULL) return;
  if ((mi_heap_flags(heap) & MI_HEAP_COUNTED) != 0 && totals_of(heap) != NULL) _mi_totals_add(&_mi_stats.ended, totals);
  mi_store_release(&heap->home.totals, (mi_totals_t*)NULL);
  totals_free(totals);
}

void _mi_handle_totals_free(mi_heap_t* heap) {
  mi_totals_t* const totals = mi_load_acquire(&heap->home.totals);
  if (totals == NULL) return;
  mi_store_relaxed(&heap->home.totals, (mi_totals_t*)NULL);
  totals_free(totals);
}

// In a process that shows statistics at its end, heaps are counted when they end; in one that reports survivors, each
// heap does.
uint8_t _mi_heap_flags_of_new(void) {
  const bool reports = _mi_option(mi_option_report_survivors) != 0;
  return (uint8_t)((_mi_option(mi_option_show_stats) != 0 ? MI_HEAP_COUNTED : 0) | (reports ? MI_HEAP_REPORTS : 0));
}

// --- regions ------------------------------------------------------------------------------------------------------

typedef struct region_tally_s {
  uint32_t made[MI_BIN_LAST + 1], live[MI_BIN_LAST + 1];
  uint64_t bytes_made, bytes, remote_frees;
} region_tally_t;

static void tally_object(region_tally_t* tally, size_t size, bool live, bool gap) {
  if (gap || size > MI_CLASS_SIZE_MAX) return;
  const size_t bin = mi_bin_of(size);
  tally->made[bin]++;
  tally->bytes_made += size;
  if (!live) return;
  tally->live[bin]++;
  tally->bytes += size;
}

// The objects that start below `end`. One that was freed twice is the gap before an aligned one. The region may be at
// work, or be cleared for another heap.
static MI_RACY void tally_objects(region_tally_t* tally, const mi_region_t* region, size_t end) {
  size_t start = 0;  // of the object before; 0: none
  bool live = false, gap = false;
  for (size_t at = 0; at < end; at += 64) {
    _Atomic(uint64_t)* const word = mi_region_words(region, at);
    const uint64_t freed = mi_load_relaxed(&word[1]), remote = mi_load_relaxed(&word[2]);
    uint64_t starts = mi_load_relaxed(&word[0]);
    if (end - at < 64) starts &= ((uint64_t)1 << (end - at)) - 1;
    for (; starts != 0; starts &= starts - 1) {
      const size_t bit = mi_ctz(starts);
      if (start != 0) tally_object(tally, (at + bit - start) * 16, live, gap);
      start = at + bit;
      live = ((freed | remote) >> bit & 1) == 0;
      gap = (freed & remote & (uint64_t)1 << bit) != 0;
      if (!gap && (remote >> bit & 1) != 0) tally->remote_frees++;
    }
  }
  if (start != 0) tally_object(tally, (end - start) * 16, live, gap);
}

static void region_add(mi_totals_t* to, const mi_region_t* region, const mi_part_t* part) {
  const size_t bump = (size_t)(mi_load_relaxed((_Atomic(uint8_t*)*)&part->bump) - (const uint8_t*)region) / 16;
  const size_t end = mi_load_relaxed((_Atomic(uint16_t)*)&region->end);
  region_tally_t tally = {0};
  tally_objects(&tally, region, end != 0 ? end : bump);
  uint64_t classes = 0;
  for (size_t bin = 1; bin <= MI_BIN_LAST; bin++) {
    if (tally.made[bin] == 0) continue;
    mi_fetch_add_relaxed(&to->blocks[bin], tally.made[bin]);
    classes += tally.made[bin] * mi_bin_size(bin);
  }
  if (classes != tally.bytes_made) mi_fetch_add_relaxed(&to->young_slack, classes - tally.bytes_made);
  if (tally.remote_frees != 0) mi_fetch_add_relaxed(&to->remote_frees, tally.remote_frees);
}

// A region without live objects, in use so far, is about to lose its bits. By who may reset it.
void _mi_region_emptied(mi_region_t* region, mi_part_t* part) {
  if (mi_unlikely(mi_load_relaxed(&_mi_deferred_armed) != 0)) _mi_deferred_region_emptied(region, part);
  region_add(_mi_heap_totals(part->heap), region, part);
}

static void heap_add_regions(mi_totals_t* to, mi_heap_t* heap) {
  MI_FOR_EACH_PART(heap, part) {
    region_add(to, &part->region, part);
    for (const mi_region_t* region = part->regions; region != NULL; region = region->next) region_add(to, region, part);
  }
}

// A counted heap ends or is reset, and its regions with it.
void _mi_heap_count_regions(mi_heap_t* heap) { heap_add_regions(&_mi_stats.ended, heap); }

// --- what was taken over ------------------------------------------------------------------------------------------

// The figures that are not shown of a heap any more; made if need be, NULL without memory.
static mi_totals_t* base_of(mi_heap_t* heap) {
  mi_totals_t* const totals = (heap == &_mi_heap_main ? &_mi_stats.main : _mi_heap_totals(heap));
  mi_thread_t* const thread = mi_thread();
  if (thread == NULL || totals == &_mi_stats.ended) return NULL;
  mi_totals_t* base = mi_load_acquire(&totals->base);
  if (base != NULL) return base;
  mi_totals_t* const made = _mi_internal_zalloc(thread, sizeof(mi_totals_t));
  if (made == NULL || mi_cas_strong_acq_rel(&totals->base, &base, made)) return made;
  _mi_internal_free(made);
  return base;
}

static MI_RACY mi_totals_t* base_if_any(mi_heap_t* heap) {
  mi_totals_t* const totals = (heap == &_mi_heap_main ? &_mi_stats.main : totals_of(heap));
  return (totals == NULL ? NULL : mi_load_acquire(&totals->base));
}

// A closed heap has no block left and is about to go. What it counted goes where its blocks went; the caller holds it,
// and its target does not end meanwhile.
void _mi_heap_totals_move(mi_heap_t* heap) {
  mi_heap_t* const target = mi_heap_live_end(heap);
  mi_totals_t* const to = _mi_heap_totals(target);
  heap_add_regions(to, heap);
  mi_totals_t* const totals = totals_of(heap);
  if (totals != NULL) {
    _mi_totals_add(to, totals);
    mi_totals_t* const base = base_if_any(heap);
    mi_totals_t* const to_base = (base == NULL ? NULL : base_of(target));
    if (to_base != NULL) _mi_totals_add(to_base, base);
  }
  mi_heap_set_flags(heap, mi_heap_flags(heap) & (uint8_t)~MI_HEAP_COUNTED);
}

// --- looking at regions that may be at work -----------------------------------------------------------------------

// The page slot of an address in some segment with slots; NULL if there is none.
static MI_RACY mi_page_t* racy_page_of(const void* p) {
  size_t index;
  mi_arena_t* const arena = _mi_arena_of((const uint8_t*)p + 1, &index);
  if (arena == NULL || mi_load_acquire(&arena->kind[index]) != MI_SEGMENT_NORMAL) return NULL;
  mi_page_t* page = mi_slot_of((const uint8_t*)p + 1);
  const size_t distance = mi_racy(page->distance);
  if (mi_racy(page->kind) == MI_PAGE_TAIL && distance < mi_page_slice(page)) page -= distance;
  return (mi_racy(page->kind) == MI_PAGE_CLASS ? page : NULL);
}

// Is there a region of the part at this address? If so its bits and its end may be read.
static MI_RACY bool racy_is_region_of(const mi_region_t* region, const mi_part_t* part) {
  const size_t least = (size_t)1 << MI_REGION_SHIFT_MIN;
  if (((uintptr_t)region & (least - 1)) != 0) return false;
  mi_page_t* const page = racy_page_of(region);
  if (page == NULL || (mi_load_acquire(&page->owner) & MI_OWNER_INTERNAL) != MI_OWNER_SPECIAL) return false;
  const size_t size = (size_t)1 << (mi_racy(region->shift) & 31), first = mi_racy(region->first);
  return size >= least && size <= (size_t)1 << MI_REGION_SHIFT_MAX && mi_racy(page->block_size) == size &&
         ((uintptr_t)region & (size - 1)) == 0 && first != 0 && first < size / 16 && mi_racy(region->part) == part;
}

static MI_RACY void racy_tally_region(mi_tally_t* tally, const mi_region_t* region, const mi_part_t* part, bool space) {
  const size_t size = (size_t)1 << mi_racy(region->shift);
  size_t end = 0;
  for (int tries = 0; tries < 2 && end == 0; tries++) {
    end = mi_load_acquire((_Atomic(uint16_t)*)&region->end);
    if (end != 0) break;
    const size_t offset = (size_t)(mi_load_acquire((_Atomic(uint8_t*)*)&part->bump) - (const uint8_t*)region);
    if (offset <= size)
      end = offset / 16;  // else the part went on to another region meanwhile, and this one has an end
  }
  if (end > size / 16) end = size / 16;
  region_tally_t objects;
  memset(&objects, 0, sizeof(objects));
  tally_objects(&objects, region, end);
  for (size_t bin = 1; bin <= MI_BIN_LAST; bin++) {
    tally->made[bin] += objects.made[bin];
    tally->live[bin] += objects.live[bin];
  }
  tally->bytes_made += objects.bytes_made;
  tally->bytes += objects.bytes;
  tally->remote_frees += objects.remote_frees;
  if (!space) return;
  tally->reserved += size;
  tally->used += end * 16;
}

// What the part's theap counted. The theap may be gone: what is read of it is believed if it is the part's before and
// after.
static MI_RACY uint64_t racy_remote_frees(const mi_part_t* part) {
  size_t index;
  mi_theap_t* const theap = mi_load_acquire((_Atomic(mi_theap_t*)*)&part->theap);
  if (theap == MI_THEAP_EMPTY || _mi_arena_of((const uint8_t*)theap + 1, &index) == NULL) return 0;
  const uint64_t count = mi_load_acquire(&theap->remote_frees);
  const bool ours = (mi_racy(theap->part) == part && mi_racy(theap->heap) == mi_racy(part->heap));
  return (ours && mi_load_acquire((_Atomic(mi_theap_t*)*)&part->theap) == theap ? count : 0);
}

static MI_RACY void racy_tally_part(mi_tally_t* tally, const mi_part_t* part, bool space) {
  tally->remote_frees += racy_remote_frees(part);
  racy_tally_region(tally, &part->region, part, space);
  const mi_region_t* region = mi_racy(part->regions);
  size_t most = mi_racy(part->bytes) >> 10;  // a region has 1 KiB at least
  for (; region != NULL && most > 0 && racy_is_region_of(region, part); most--) {
    racy_tally_region(tally, region, part, space);
    region = mi_racy(region->next);
  }
}

// The regions of one heap, without those merged into it, and its totals. `space`: their memory too, which the pages of
// the internal heap hold.
static MI_RACY void racy_tally_heap(mi_tally_t* tally, mi_heap_t* heap, bool space) {
  racy_tally_part(tally, &heap->home, space);
  const mi_part_t* lane = mi_load_acquire(&heap->parts);
  while (lane != NULL && racy_is_region_of(&lane->region, lane) && mi_racy(lane->heap) == heap) {
    racy_tally_part(tally, lane, space);
    lane = mi_load_acquire((_Atomic(mi_part_t*)*)&lane->next);
  }
  mi_totals_t* const totals = totals_of(heap);
  if (totals != NULL) _mi_tally_totals(tally, totals, false);
}

// --- the walk -----------------------------------------------------------------------------------------------------

typedef struct walk_s {
  mi_heap_t* heap;                                                          // NULL: all
  void (*share)(mi_heap_t* heap, const mi_heap_share_t* share, void* arg);  // NULL: only the sum is wanted
  void* share_arg;
  mi_tally_t tally;
  uint64_t heaps;
  uint64_t segments_cache;
  uint64_t chunks[MI_CBIN_COUNT];
} walk_t;

// Is a page or part of this heap counted? Who holds blocks of a merged heap is the heap that its chain ends at. A
// handle may be made anew at this moment.
static MI_RACY bool walk_wants(const walk_t* walk, mi_heap_t* heap) {
  if (walk->heap == NULL || heap == walk->heap) return true;
  for (int steps = 0; heap != NULL && steps < 1000; steps++) {
    if (!_mi_heap_went_to(heap, &heap)) return false;
    if (heap == walk->heap) return true;
  }
  return false;
}

static uint64_t live_blocks(const mi_tally_t* tally) {
  uint64_t sum = 0;
  for (size_t bin = 1; bin <= MI_BIN_SOLO; bin++) sum += tally->live[bin];
  return sum;
}

// Shows what was added to an empty tally, and empties it.
static void walk_share(walk_t* walk, mi_heap_t* heap, bool is_heap) {
  mi_tally_t* const tally = &walk->tally;
  const mi_heap_share_t share = {live_blocks(tally), tally->bytes + tally->single_bytes, tally->reserved, is_heap};
  walk->share(heap, &share, walk->share_arg);
  memset(tally, 0, sizeof(*tally));
}

// A handle may be made, ended or used again at this moment.
static MI_RACY void walk_handle(walk_t* walk, mi_heap_t* heap) {
  const uint8_t state = mi_load_acquire(&heap->state);
  const bool open = (state == MI_HEAP_OPEN && mi_load_acquire(&heap->home.id) != 0);
  const bool closed = (state == MI_HEAP_CLOSED && mi_load_acquire(&heap->into) != NULL);
  if ((!open && !closed) || !walk_wants(walk, heap)) return;
  if (open || walk->heap != NULL) walk->heaps++;
  racy_tally_heap(&walk->tally, heap, walk->heap != NULL || walk->share != NULL);
  if (walk->share != NULL) walk_share(walk, heap, open);
}

// Returns how many slices the page has.
static MI_RACY size_t walk_page(walk_t* walk, mi_page_t* page) {
  const uint8_t kind = mi_racy(page->kind);
  if (kind != MI_PAGE_CLASS && kind != MI_PAGE_SOLO && kind != MI_PAGE_HUGE && kind != MI_PAGE_SPACE) return 0;
  // Acquire: `owner` is written last when a page is made.
  const mi_tid_t owner = mi_load_acquire(&page->owner);
  mi_heap_t* const heap = mi_load_relaxed(&page->heap);
  if (heap != &_mi_heap_internal) {
    if (heap != NULL && walk_wants(walk, heap)) {
      _mi_tally_page(&walk->tally, page, true);
      if (walk->share != NULL) walk_share(walk, heap, false);
    }
  } else {
    uint8_t* const handles = (uint8_t*)mi_page_segment(page) + mi_page_slice(page) * MI_SLICE_SIZE;
    if ((owner & MI_OWNER_INTERNAL) == MI_OWNER_SPECIAL && mi_racy(page->bin) == MI_BIN_HANDLE) {
      const size_t size = (size_t)1 << MI_REGION_SHIFT_MIN;
      for (uint8_t* at = handles; at < handles + MI_SLICE_SIZE; at += size) walk_handle(walk, (mi_heap_t*)at);
    } else if (_mi_page_is_arena_handle(page)) {
      walk_handle(walk, (mi_heap_t*)handles);
    }
    if (walk->heap == NULL && walk->share == NULL) {
      _mi_tally_page(&walk->tally, page, false);  // blocks of the library's own are nobody's business
    }
  }
  return mi_racy(page->slices);
}

static void walk_segment(walk_t* walk, mi_arena_t* arena, size_t index) {
  mi_segment_t* const segment = (mi_segment_t*)mi_arena_segment(arena, index);
  switch ((mi_segment_kind_t)mi_load_acquire(&arena->kind[index])) {
    case MI_SEGMENT_NORMAL: {
      size_t pages = 0, small = 0, medium = 0, large = 0;
      for (size_t s = 1; s < MI_SLICES_PER_SEGMENT; s++) {
        const size_t slices = walk_page(walk, &segment->slot[s]);
        if (slices == 0) continue;
        pages++;
        small += (slices == 1);
        medium += (slices == 8);
        large += (slices >= 16);
      }
      const mi_chunkbin_t use = (pages == 0        ? MI_CBIN_NONE
                                 : small == pages  ? MI_CBIN_SMALL
                                 : medium == pages ? MI_CBIN_MEDIUM
                                 : large == pages  ? MI_CBIN_LARGE
                                                   : MI_CBIN_OTHER);
      walk->chunks[use]++;
      break;
    }
    case MI_SEGMENT_HUGE_START:
      walk_page(walk, &segment->slot[1]);
      walk->chunks[MI_CBIN_HUGE]++;
      break;
    case MI_SEGMENT_HUGE_INSIDE:
      walk->chunks[MI_CBIN_HUGE]++;
      break;
    case MI_SEGMENT_UNUSED:
      if (mi_load_relaxed(&arena->info[index].backed) != 0) walk->segments_cache++;
      break;
    case MI_SEGMENT_PRIVATE:
    case MI_SEGMENT_CLOSED:
      break;
  }
}

static void walk_all(walk_t* walk) {
  for (size_t i = 0; i < MI_ARENAS_MAX; i++) {
    mi_arena_t* const arena = mi_load_acquire(&_mi_arenas[i]);
    if (arena == NULL) break;
    const size_t ready = mi_load_acquire(&arena->ready);
    for (size_t index = 0; index < ready; index++) walk_segment(walk, arena, index);
  }
}

// --- figures ------------------------------------------------------------------------------------------------------

// Our classes on the bins of the interface: the largest come in pairs.
#define PAIRS_FROM (2 * MI_STAT_BIN_HUGE - MI_BIN_LAST - 1)

static size_t stat_bin(size_t bin) {
  if (bin == MI_BIN_SOLO) return MI_STAT_BIN_HUGE;
  return (bin < PAIRS_FROM ? bin : PAIRS_FROM + (bin - PAIRS_FROM) / 2);
}
_Static_assert(PAIRS_FROM + (MI_BIN_LAST - PAIRS_FROM) / 2 == MI_STAT_BIN_HUGE - 1, "the classes fill the bins");

size_t _mi_stat_bin_size(size_t bin) {
  if (bin == 0 || bin > MI_STAT_BIN_HUGE) return 0;
  if (bin == MI_STAT_BIN_HUGE) return MI_ALLOC_MAX;
  return mi_bin_size(bin < PAIRS_FROM ? bin : PAIRS_FROM + 2 * (bin - PAIRS_FROM) + 1);
}

static void count_add(mi_stat_count_t* count, uint64_t total, uint64_t current) {
  count->total += (int64_t)total;
  count->current += (int64_t)current;
  count->peak = count->current;
}

static void fill_tally(mi_stats_t* stats, const walk_t* walk) {
  const mi_tally_t* const tally = &walk->tally;
  uint64_t made = 0, pages_made = 0, pages = 0;
  for (size_t bin = 1; bin <= MI_BIN_SOLO; bin++) {
    count_add(&stats->malloc_bins[stat_bin(bin)], tally->made[bin], tally->live[bin]);
    count_add(&stats->page_bins[stat_bin(bin)], tally->pages_made[bin], tally->pages[bin]);
    if (bin < MI_BIN_SOLO) made += tally->made[bin];
    pages_made += tally->pages_made[bin];
    pages += tally->pages[bin];
  }
  stats->malloc_normal_count.total = (int64_t)made;
  stats->malloc_huge_count.total = (int64_t)tally->made[MI_BIN_SOLO];
  count_add(&stats->malloc_normal, tally->bytes_made, tally->bytes);
  count_add(&stats->malloc_huge, tally->single_bytes_made, tally->single_bytes);
  count_add(&stats->pages, pages_made, pages);
  count_add(&stats->page_committed, tally->used, tally->used);
  count_add(&stats->pages_abandoned, tally->abandoned, tally->abandoned);
}

static mi_stat_count_t gauge(mi_gauge_t* from) {
  const mi_stat_count_t count = {mi_load_relaxed(&from->total), mi_load_relaxed(&from->peak),
                                 mi_load_relaxed(&from->current)};
  return count;
}

static void add_main_totals(mi_thread_t* thread, void* tally) {
  _mi_tally_totals(tally, &thread->main_totals, false);
  ((mi_tally_t*)tally)->remote_frees += mi_load_relaxed(&thread->main_theap.remote_frees);
}

static void add_counts(mi_thread_t* thread, void* arg) {
  mi_stats_t* const stats = arg;
  stats->pages_extended.total += mi_load_relaxed(&thread->counts.pages_extended);
  stats->pages_retire.total += mi_load_relaxed(&thread->counts.pages_retired);
  stats->page_searches.total += mi_load_relaxed(&thread->counts.pages_searched);
  stats->page_searches_count.total += mi_load_relaxed(&thread->counts.searches);
}

static void fill_process(mi_stats_t* stats, const walk_t* walk) {
  stats->pages = gauge(&_mi_stats.pages);
  stats->reserved = gauge(&_mi_stats.reserved);
  stats->committed = gauge(&_mi_stats.committed);
  stats->segments = gauge(&_mi_stats.segments);
  stats->threads = gauge(&_mi_stats.threads);
  stats->theaps = gauge(&_mi_stats.theaps);
  stats->pages_abandoned.total = mi_load_relaxed(&_mi_stats.pages_abandoned);
  count_add(&stats->segments_cache, walk->segments_cache, walk->segments_cache);
  count_add(&stats->heaps, _mi_heaps_made() + 1, walk->heaps + 1);
  stats->reset.total = mi_load_relaxed(&_mi_stats.reset_bytes);
  stats->purged.total = mi_load_relaxed(&_mi_stats.purged_bytes);
  stats->mmap_calls.total = mi_load_relaxed(&_mi_stats.mmap_calls);
  stats->commit_calls.total = mi_load_relaxed(&_mi_stats.commit_calls);
  stats->reset_calls.total = mi_load_relaxed(&_mi_stats.reset_calls);
  stats->purge_calls.total = mi_load_relaxed(&_mi_stats.purge_calls);
  stats->malloc_guarded_count.total = mi_load_relaxed(&_mi_stats.guarded);
  stats->arena_count.total = mi_load_relaxed(&_mi_stats.arenas);
  stats->arena_rollback_count.total = mi_load_relaxed(&_mi_stats.arena_rollbacks);
  stats->arena_purges.total = mi_load_relaxed(&_mi_stats.arena_purges);
  stats->pages_reclaim_on_alloc.total = mi_load_relaxed(&_mi_stats.reclaimed_on_alloc);
  stats->pages_reclaim_on_free.total = mi_load_relaxed(&_mi_stats.reclaimed_on_free);
  stats->pages_reabandon_full.total = mi_load_relaxed(&_mi_stats.abandoned_again);
  stats->pages_unabandon_busy_wait.total = mi_load_relaxed(&_mi_stats.abandon_waits);
  stats->heaps_delete_wait.total = mi_load_relaxed(&_mi_stats.heap_waits);
  for (size_t i = 0; i < MI_CBIN_COUNT; i++) count_add(&stats->chunk_bins[i], walk->chunks[i], walk->chunks[i]);
  _mi_threads_each(add_counts, stats);
}

void _mi_stats_gather(mi_stats_t* stats, bool with_heaps) {
  walk_t walk;
  memset(&walk, 0, sizeof(walk));
  walk_all(&walk);
  if (!with_heaps) {
    const uint64_t used = walk.tally.used;
    memset(&walk.tally, 0, sizeof(walk.tally));
    walk.tally.used = used;
  } else {
    _mi_threads_each(add_main_totals, &walk.tally);
    _mi_tally_totals(&walk.tally, &_mi_stats.main, false);
  }
  _mi_tally_totals(&walk.tally, &_mi_stats.ended, false);
  memset(stats, 0, sizeof(*stats));
  fill_tally(stats, &walk);
  fill_process(stats, &walk);
}

static void gather_heap(walk_t* walk, mi_heap_t* heap) {
  memset(walk, 0, sizeof(*walk));
  walk->heap = heap;
  // A heap without pages, into which nothing was merged, is in no segment but its handle's.
  if (heap != &_mi_heap_main && mi_load_acquire(&heap->refs) == 1 && mi_load_acquire(&heap->pages_out) == 0 &&
      mi_load_acquire(&heap->is_target) == 0 && mi_heap_space(heap) == NULL) {
    racy_tally_heap(&walk->tally, heap, true);
    walk->heaps = 1;
    return;
  }
  walk_all(walk);
  if (heap != &_mi_heap_main) return;
  walk->heaps++;
  _mi_threads_each(add_main_totals, &walk->tally);
  _mi_tally_totals(&walk->tally, &_mi_stats.main, false);
}

void _mi_heaps_share(void (*fn)(mi_heap_t* heap, const mi_heap_share_t* share, void* arg), void* arg) {
  walk_t walk;
  memset(&walk, 0, sizeof(walk));
  walk.share = fn;
  walk.share_arg = arg;
  walk_all(&walk);
}

void _mi_heap_tally(mi_heap_t* heap, mi_tally_t* tally) {
  walk_t walk;
  gather_heap(&walk, heap);
  *tally = walk.tally;
}

void _mi_heap_stats_gather(mi_heap_t* heap, mi_stats_t* stats) {
  walk_t walk;
  gather_heap(&walk, heap);
  mi_totals_t* const base = base_if_any(heap);
  if (base != NULL) _mi_tally_totals(&walk.tally, base, true);
  memset(stats, 0, sizeof(*stats));
  fill_tally(stats, &walk);
  count_add(&stats->reserved, walk.tally.reserved, walk.tally.reserved);
  count_add(&stats->committed, walk.tally.reserved, walk.tally.reserved);
  count_add(&stats->heaps, walk.heaps, walk.heaps);
  const uint64_t theaps = (heap == &_mi_heap_main ? (uint64_t)mi_load_relaxed(&_mi_stats.threads.current)
                                                  : mi_load_acquire(&heap->refs) - 1);
  count_add(&stats->theaps, theaps, theaps);
}

// The most that a query met, where the heap keeps its totals. Without memory for them: what is there now.
static uint64_t peak_of(mi_heap_t* heap, uint64_t now) {
  mi_totals_t* const totals = (heap == &_mi_heap_main ? &_mi_stats.main : _mi_heap_totals(heap));
  if (mi_thread() == NULL || totals == &_mi_stats.ended) return now;
  uint64_t seen = mi_load_relaxed(&totals->peak);
  while (seen < now && !mi_cas_weak_acq_rel(&totals->peak, &seen, now)) {
  }
  return (seen < now ? now : seen);
}

void _mi_heap_counts_gather(mi_heap_t* heap, mi_heap_counts_t* counts) {
  mi_tally_t tally;
  _mi_heap_tally(heap, &tally);
  uint64_t made = 0, live = 0, pages = 0;
  for (size_t bin = 1; bin <= MI_BIN_SOLO; bin++) {
    made += tally.made[bin];
    live += tally.live[bin];
    pages += tally.pages[bin];
  }
  counts->blocks = live;
  counts->bytes = tally.bytes + tally.single_bytes;
  counts->allocations = made;
  counts->frees = (made > live ? made - live : 0);
  counts->remote_frees = tally.remote_frees;
  counts->pages = pages;
  counts->committed = tally.reserved;
  counts->peak = peak_of(heap, tally.reserved);
}

// Peaks start again from what is there now.
void _mi_stats_reset_peaks(void) {
  mi_gauge_t* const gauges[] = {&_mi_stats.pages,    &_mi_stats.reserved, &_mi_stats.committed,
                                &_mi_stats.segments, &_mi_stats.threads,  &_mi_stats.theaps};
  for (size_t i = 0; i < sizeof(gauges) / sizeof(gauges[0]); i++) {
    mi_store_relaxed(&gauges[i]->peak, mi_load_relaxed(&gauges[i]->current));
    mi_peak(&gauges[i]->peak, mi_load_relaxed(&gauges[i]->current));  // that came in between
  }
}

bool _mi_heap_stats_take_over(mi_heap_t* heap) {
  mi_totals_t* const base = base_of(heap);
  if (base == NULL) return false;
  walk_t walk;
  gather_heap(&walk, heap);
  const mi_tally_t* const tally = &walk.tally;
  uint64_t classes = 0;
  for (size_t bin = 1; bin <= MI_BIN_SOLO; bin++) {
    mi_store_relaxed(&base->blocks[bin], tally->made[bin]);
    mi_store_relaxed(&base->pages[bin], tally->pages_made[bin]);
    if (bin < MI_BIN_SOLO) classes += tally->made[bin] * mi_bin_size(bin);
  }
  mi_store_relaxed(&base->young_slack, classes - tally->bytes_made);
  mi_store_relaxed(&base->single_bytes, tally->single_bytes_made);
  return true;
}
