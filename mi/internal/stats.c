// Counting (see stats.h): the process's counters, what a page leaves behind when it goes, and reading a page that is at
// work.
#include "mi/internal/stats.h"

#include "mi/internal/bit_page.h"
#include "mi/internal/space.h"

mi_stats_process_t _mi_stats;

// --- totals -----------------------------------------------------------------------------------------------------

static void add(_Atomic(uint64_t)* to, uint64_t n) {
  if (n != 0) mi_fetch_add_relaxed(to, n);
}

void _mi_totals_add(mi_totals_t* to, mi_totals_t* from) {
  add(&to->single_bytes, mi_load_relaxed(&from->single_bytes));
  add(&to->young_slack, mi_load_relaxed(&from->young_slack));
  add(&to->remote_frees, mi_load_relaxed(&from->remote_frees));
  for (size_t bin = 0; bin <= MI_BIN_SOLO; bin++) {
    add(&to->blocks[bin], mi_load_relaxed(&from->blocks[bin]));
    add(&to->pages[bin], mi_load_relaxed(&from->pages[bin]));
  }
}

// Blocks that the page handed out, for its owner. The length of one list tells that of the other: both are walked,
// until the shorter one ends. The owner's frees since the last refill bound that.
static uint64_t page_handed_out(const mi_page_t* page) {
  if (mi_unlikely(page->policy != 0)) return page->recycled - mi_popcount(mi_bits_of(page)->avail);
  const uint64_t both = page->capacity - (page->used - page->pinned);
  const mi_block_t* a = page->free;
  const mi_block_t* b = page->local_free;
  uint64_t n = 0;
  for (; a != NULL && b != NULL; n++) {
    a = a->next;
    b = b->next;
  }
  return page->capacity + page->recycled - (a == NULL ? n : both - n);
}

static void page_add(mi_totals_t* to, const mi_page_t* page, bool released) {
  const uint64_t blocks = page_handed_out(page);
  add(&to->blocks[page->bin], blocks);
  if (page->bin == MI_BIN_SOLO) add(&to->single_bytes, blocks * page->block_size);
  if (released) add(&to->pages[page->bin], 1);
}

void _mi_stats_page_emptied(mi_page_t* page, bool released) {
  mi_heap_t* const heap = mi_load_relaxed(&page->heap);
  if (heap == &_mi_heap_internal) return;
  page_add(_mi_upcalls.totals(heap), page, released);
  page->recycled = 0;
}

// A theap's count is its holder's alone; a page without a theap counts where its heap's pages do when they go.
void _mi_stats_remote_frees(mi_page_t* page, uint32_t count) {
  mi_theap_t* const theap = mi_load_relaxed(&page->theap);
  if (mi_likely(theap != NULL)) {
    mi_store_relaxed(&theap->remote_frees, mi_load_relaxed(&theap->remote_frees) + count);
    return;
  }
  mi_heap_t* const heap = mi_load_relaxed(&page->heap);
  if (heap != &_mi_heap_internal) add(&_mi_upcalls.totals(heap)->remote_frees, count);
}

void _mi_stats_theap_ends(mi_theap_t* theap) {
  const uint64_t count = mi_load_relaxed(&theap->remote_frees);
  if (count == 0 || theap->is_internal) return;
  mi_store_relaxed(&theap->remote_frees, 0);
  add(&_mi_upcalls.totals(theap->heap)->remote_frees, count);
}

void _mi_stats_page_dropped(mi_page_t* page, bool released) {
  if ((mi_load_relaxed(&page->heap)->flags & MI_HEAP_COUNTED) != 0) page_add(&_mi_stats.ended, page, released);
}

// --- looking ------------------------------------------------------------------------------------------------------

// Where the blocks of a class page may lie, by its slot alone: what else the page says may change meanwhile.
typedef struct area_s {
  uintptr_t start;
  size_t size;
} area_t;

static inline bool area_holds(const area_t* area, const mi_block_t* block) {
  return (uintptr_t)block - area->start <= area->size - sizeof(mi_block_t) && (uintptr_t)block % sizeof(void*) == 0;
}

// A list is followed while the page is the owner's: when its slices are another's, there may be guards in them.
static MI_RACY uint64_t free_length(const area_t* area, const mi_page_t* page, uint64_t both) {
  const mi_tid_t owner = mi_load_acquire(&page->owner);
  const mi_block_t* a = mi_racy(page->free);
  const mi_block_t* b = mi_racy(page->local_free);
  for (uint64_t n = 0; n < both; n++) {
    if (mi_load_acquire(&page->owner) != owner) return n;
    if (a == NULL || !area_holds(area, a)) return n;
    if (b == NULL || !area_holds(area, b)) return both - n;
    a = mi_racy(a->next);
    b = mi_racy(b->next);
  }
  return both;
}

// A page of a space: what it holds says its state.
static MI_RACY void tally_space(mi_tally_t* tally, mi_page_t* page, size_t bin, uint64_t size, bool blocks) {
  const uint64_t state = mi_load_relaxed(mi_space_state(page)), slices = mi_racy(page->slices);
  if ((state & MI_SPACE_OPEN) == 0) return;
  const uint64_t live = _mi_space_live_count(page, state), made = mi_load_relaxed((_Atomic(uint64_t)*)&page->recycled);
  tally->used += mi_round_up(mi_racy(page->capacity) * size, MI_OS_PAGE);
  tally->reserved += (slices != 0 ? slices * MI_SLICE_SIZE : mi_round_up(size + MI_SLICE_SIZE, MI_SEGMENT_SIZE));
  if (!blocks) return;
  tally->pages[bin]++;
  tally->pages_made[bin]++;
  tally->made[bin] += made;
  tally->live[bin] += live;
  *(bin == MI_BIN_SOLO ? &tally->single_bytes_made : &tally->bytes_made) += made * size;
  *(bin == MI_BIN_SOLO ? &tally->single_bytes : &tally->bytes) += live * size;
}

// A bit page: nothing of it is followed but its bits, which stay readable. Its figures are not of one moment: what its
// owner is about to count makes none of them less than nothing, and no free of another thread.
static MI_RACY void tally_bits(mi_tally_t* tally, const mi_page_t* page, size_t bin, uint64_t size) {
  mi_bits_t* const bits = mi_bits_of(page);
  const uint64_t avail = mi_popcount(mi_racy(bits->avail)), supplied = mi_racy(page->recycled);
  const uint64_t made = (supplied > avail ? supplied - avail : 0), live = _mi_bits_live(page);
  const uint64_t used = (uint64_t)mi_racy(page->used) - mi_racy(page->pinned);
  tally->made[bin] += made;
  tally->live[bin] += live;
  (bin == MI_BIN_SOLO ? (tally->single_bytes_made += made * size) : (tally->bytes_made += made * size));
  (bin == MI_BIN_SOLO ? (tally->single_bytes += live * size) : (tally->bytes += live * size));
  const uint64_t waiting = live + mi_racy(bits->quarantined);
  const bool by_others = (mi_load_relaxed(&bits->word) & MI_SIGNAL) != 0 || mi_load_relaxed(&bits->queued) != 0;
  if (by_others && used > waiting) tally->remote_frees += used - waiting;  // not collected yet
}

MI_RACY void _mi_tally_page(mi_tally_t* tally, mi_page_t* page, bool blocks) {
  const size_t bin = mi_racy(page->bin), at = mi_page_slice(page);
  if (bin == 0 || bin > MI_BIN_SOLO) return;  // at the moment when it is made
  const uint64_t size = (bin == MI_BIN_SOLO ? mi_racy(page->block_size) : mi_bin_size(bin));
  const uint64_t capacity = mi_racy(page->capacity);
  const uint8_t policy = mi_racy(page->policy);
  if (mi_racy(page->kind) == MI_PAGE_SPACE) {
    tally_space(tally, page, bin, size, blocks);
    return;
  }
  const mi_thread_free_t tf = mi_load_relaxed(policy == 0 ? &page->thread_free : &mi_bits_of(page)->word);
  size_t slices = mi_racy(page->slices);
  if (at + slices > MI_SLICES_PER_SEGMENT) slices = MI_SLICES_PER_SEGMENT - at;
  tally->used += mi_round_up(capacity * size, MI_OS_PAGE);
  tally->reserved += (slices != 0 ? slices * MI_SLICE_SIZE : mi_round_up(size + MI_SLICE_SIZE, MI_SEGMENT_SIZE));
  if (MI_STATE(tf) == MI_ABANDONED) tally->abandoned++;
  if (!blocks) return;

  tally->pages[bin]++;
  tally->pages_made[bin]++;
  if (mi_unlikely(policy != 0)) {
    tally_bits(tally, page, bin, size);
    return;
  }
  const uint64_t used = (uint64_t)mi_racy(page->used) - mi_racy(page->pinned);
  // Of a page on the full list that is no longer DELAYED, a freed block is on the theap's delayed list.
  uint64_t freed = (uint64_t)(int64_t)mi_racy(page->delayed);
  if (mi_racy(page->in_full) != 0 && MI_STATE(tf) != MI_DELAYED) freed++;
  if (bin == MI_BIN_SOLO) {
    freed += MI_LIST_COUNT(tf);
    const uint64_t live = (used - freed == 1 ? 1 : 0);
    tally->made[bin] += capacity;  // 1, or 0 if it was counted before it went
    tally->live[bin] += live;
    tally->single_bytes_made += capacity * size;
    tally->single_bytes += live * size;
    if (used == 1 && live == 0) tally->remote_frees++;
    return;
  }
  const area_t area = {(uintptr_t)mi_page_segment(page) + at * MI_SLICE_SIZE, slices * MI_SLICE_SIZE};
  if (slices == 0 || used > capacity) return;
  const uint64_t back = capacity - used;
  const uint64_t made = capacity + mi_racy(page->recycled) - free_length(&area, page, back);
  freed += MI_LIST_COUNT(tf);
  const uint64_t live = ((int64_t)(used - freed) > 0 ? used - freed : 0);
  tally->made[bin] += made;
  tally->live[bin] += live;
  tally->bytes_made += made * size;
  tally->bytes += live * size;
  tally->remote_frees += used - live;  // not collected yet
}

MI_RACY void _mi_tally_totals(mi_tally_t* tally, mi_totals_t* totals, bool minus) {
  const uint64_t sign = (minus ? ~(uint64_t)0 : 1);
  for (size_t bin = 1; bin <= MI_BIN_SOLO; bin++) {
    const uint64_t blocks = sign * mi_load_relaxed(&totals->blocks[bin]);
    tally->made[bin] += blocks;
    tally->pages_made[bin] += sign * mi_load_relaxed(&totals->pages[bin]);
    if (bin < MI_BIN_SOLO) tally->bytes_made += blocks * mi_bin_size(bin);
  }
  tally->remote_frees += sign * mi_load_relaxed(&totals->remote_frees);
  tally->bytes_made -= sign * mi_load_relaxed(&totals->young_slack);
  tally->single_bytes_made += sign * mi_load_relaxed(&totals->single_bytes);
}
