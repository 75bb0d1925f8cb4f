// Visiting: every area and live block of a heap, of every thread's part, and every heap of the process.
//
// The visitor may free any block of the heap. So the pages are gathered first, each pinned (the visit counts itself
// among its live blocks, so that no free can release it), and which blocks are free is worked out anew for a page
// whenever its lists changed. Regions need neither: their bits are looked at as the walk comes by, and no region is
// reset while `visiting` is set. Theaps of the heap are BUSY meanwhile: their threads may exit or collect (that is then
// left to the visit), but by contract do not use the heap.
//
// In the child of a fork, pages of threads that are gone are found by their slots, and need no pin: nothing releases
// them. Their free lists are read with care, since the thread may have been changing them.
#include <errno.h>
#include <string.h>

#include "mi/heap/checked.h"
#include "mi/internal/bit_page.h"
#include "mi/internal/guard.h"
#include "mi/internal/os.h"
#include "mi/internal/space.h"
#include "mi/internal/stack.h"
#include "mi/internal/stats.h"
#include "mi/mimalloc.h"

typedef struct visit_s {
  mi_visit_t base;
  mi_heap_t* shown;  // to the visitor as the heap
  bool blocks;
  mi_block_visit_fun* visitor;
  void* arg;
  mi_page_t** pages;  // pinned
  size_t count, capacity;
  size_t slot_capacity;
} visit_t;

// What 2.x's programs find as area.heap_tag.
static void* heap_tag(const mi_heap_t* heap) {
  const mi_heap_extra_t* const extra = mi_heap_extra(heap);
  return (void*)(intptr_t)(extra == NULL ? 0 : extra->tag);
}

// --- growing arrays, outside of any heap -------------------------------------------------------------------

static bool array_push(void* array, size_t* count, size_t* capacity, void* item) {
  void*** const items = array;
  if (*count == *capacity) {
    const size_t next = (*capacity == 0 ? 512 : *capacity * 2);
    void** const grown = _mi_os_alloc(next * sizeof(void*));
    if (grown == NULL) return false;
    if (*capacity > 0) {
      memcpy(grown, *items, *count * sizeof(void*));
      _mi_os_free(*items, *capacity * sizeof(void*));
    }
    *items = grown;
    *capacity = next;
  }
  (*items)[(*count)++] = item;
  return true;
}

static bool visit_add_page(visit_t* visit, mi_page_t* page) {
  if (!array_push(&visit->pages, &visit->count, &visit->capacity, page)) return false;
  if (!mi_page_is_frozen(page)) _mi_page_pin(page);
  return true;
}

static bool visit_add_frozen_page(mi_page_t* page, void* visit) {
  return (mi_page_is_single(page) && page->used == 0) || visit_add_page(visit, page);
}

// --- gathering ------------------------------------------------------------------------------------------------

static bool gather_theap(visit_t* visit, mi_theap_t* theap) {
  for (size_t bin = 1; bin <= MI_BIN_FULL; bin++) {
    mi_page_t* const first = theap->queue[bin];
    if (first == NULL) continue;
    mi_page_t* page = first;
    do {
      if (!visit_add_page(visit, page)) return false;
      page = page->next;
    } while (page != first);
  }
  return true;
}

static bool gather_part(visit_t* visit, mi_part_t* part) {
  for (;;) {
    bool taken;
    mi_slot_t* const slot = _mi_slot_enter_part(part, &taken);
    if (slot == NULL && !taken) return true;
    if (slot == NULL) {
      _mi_os_yield();  // its thread is in collect or exit for a moment
      continue;
    }
    if (!array_push(&visit->base.slots, &visit->base.slot_count, &visit->slot_capacity, slot)) {
      _mi_slot_leave(slot, false, true);
      return false;
    }
    return gather_theap(visit, mi_load_relaxed(&slot->theap));
  }
}

static bool gather_abandoned(visit_t* visit, mi_heap_t* heap) {
  if (!_mi_orphans_settle(heap)) return false;
  for (size_t bin = 1; bin < MI_BIN_COUNT; bin++) {
    for (mi_page_t* page = _mi_abandoned_first(heap, bin); page != NULL; page = mi_load_relaxed(&page->listed_next)) {
      if (MI_STATE(mi_load_acquire(mi_page_word(page))) != MI_ABANDONED) continue;  // has an owner again: met there
      if (page->used > 0 && !visit_add_page(visit, page)) return false;
    }
  }
  return true;
}

// The main heap's pages are found by looking at all slots of all segments: the theaps of other threads are theirs.
static bool gather_main(visit_t* visit, bool abandoned_only) {
  for (size_t i = 0; i < MI_ARENAS_MAX; i++) {
    mi_arena_t* const arena = mi_load_acquire(&_mi_arenas[i]);
    if (arena == NULL) break;
    const size_t ready = mi_load_acquire(&arena->ready);
    for (size_t index = 0; index < ready; index++) {
      const uint8_t kind = mi_load_acquire(&arena->kind[index]);
      if (kind != MI_SEGMENT_NORMAL && kind != MI_SEGMENT_HUGE_START) continue;
      mi_segment_t* const segment = (mi_segment_t*)mi_arena_segment(arena, index);
      for (size_t s = 1; s < MI_SLICES_PER_SEGMENT; s++) {
        mi_page_t* const page = &segment->slot[s];
        const bool frozen = mi_page_is_frozen(page);
        if (page->kind != MI_PAGE_NONE && page->kind != MI_PAGE_TAIL &&
            mi_load_relaxed(&page->heap) == &_mi_heap_main && page->used > 0 &&
            (!abandoned_only || frozen || MI_STATE(mi_load_relaxed(mi_page_word(page))) == MI_ABANDONED)) {
          if (!visit_add_page(visit, page)) return false;
        }
        if (kind == MI_SEGMENT_HUGE_START) break;
      }
    }
  }
  return true;
}

// Shows an area (no block), or a block as the program knows it.
static bool show(const visit_t* visit, const mi_heap_area_t* area, void* block, size_t size) {
#if MI_TAIL
  if (block != NULL) _mi_checked_show(&block, &size);
#endif
  // The visit itself is memory of ours.
  mi_block_visit_fun* const visitor = visit->visitor;
  mi_heap_t* const shown = visit->shown;
  void* const arg = visit->arg;
  bool more;
  MI_CALL_USER(more = visitor(shown, area, block, size, arg));
  return more;
}

// --- pages ------------------------------------------------------------------------------------------------------

#define MI_BLOCKS_MAX (MI_SLICE_SIZE / 8)

typedef struct free_map_s {
  uint64_t bits[MI_BLOCKS_MAX / 64];  // 1: free, or never handed out
  size_t live;
} free_map_t;

static void map_set(free_map_t* map, const mi_page_t* page, const mi_block_t* block) {
  const size_t index = mi_page_block_index(page, block);
  map->bits[index / 64] |= (uint64_t)1 << (index % 64);
}

// Marks the blocks of one of the page's lists. If the thread is gone that was changing it, a link may lead anywhere,
// and the list ends there.
static void map_set_list(free_map_t* map, const mi_page_t* page, const mi_block_t* block, bool frozen) {
  for (uint32_t n = 0; block != NULL && n < page->reserved; n++, block = block->next) {
    const size_t offset = (size_t)((const uint8_t*)block - page->start);
    if (frozen && (offset >= page->reserved * page->block_size || offset % page->block_size != 0)) return;
    map_set(map, page, block);
  }
}

static void map_fill(free_map_t* map, mi_page_t* page) {
  if (mi_unlikely(page->guard != 0)) {
    map->bits[0] = !mi_guard_is_live(page);
    map->live = (map->bits[0] == 0);
    return;
  }
  if (mi_page_is_single(page)) {
    // Freed ones that wait for the end of a visit are on a list; without one they would be gone.
    map->bits[0] = (page->free != NULL || page->local_free != NULL);
    const mi_theap_t* const theap = mi_load_relaxed(&page->theap);
    if (MI_LIST(mi_load_acquire(&page->thread_free)) != NULL) map->bits[0] = 1;
    for (const mi_block_t* b = (theap == NULL ? NULL : mi_load_acquire(&((mi_theap_t*)theap)->delayed_free)); b != NULL;
         b = b->next) {
      if ((const uint8_t*)b == page->start) map->bits[0] = 1;
    }
    map->live = (map->bits[0] == 0);
    return;
  }
  memset(map->bits, 0, sizeof(map->bits));
  for (uint32_t k = page->capacity; k < page->reserved; k++) {
    const size_t index = (k + page->color) % page->reserved;
    map->bits[index / 64] |= (uint64_t)1 << (index % 64);
  }
  const bool frozen = mi_page_is_frozen(page);
  map_set_list(map, page, page->free, frozen);
  map_set_list(map, page, page->local_free, frozen);
  map_set_list(map, page, MI_LIST(mi_load_acquire(&page->thread_free)), frozen);
  // Blocks of full pages wait on their theap's delayed list.
  mi_theap_t* const theap = mi_load_relaxed(&page->theap);
  for (const mi_block_t* b = (theap == NULL ? NULL : mi_load_acquire(&theap->delayed_free)); b != NULL; b = b->next) {
    const size_t offset = (size_t)((const uint8_t*)b - page->start);
    if (offset < page->reserved * page->block_size) map_set(map, page, b);
  }
  map->live = 0;
  for (uint32_t i = 0; i < page->reserved; i++) {
    if ((map->bits[i / 64] >> (i % 64) & 1) == 0) map->live++;
  }
}

typedef struct page_mark_s {  // changes whenever a block of the page is freed
  const void* local_free;
  mi_thread_free_t thread_free;
  const void* delayed;
  uint32_t used;
} page_mark_t;

static page_mark_t page_mark(mi_page_t* page) {
  mi_theap_t* const theap = mi_load_relaxed(&page->theap);
  const page_mark_t mark = {page->local_free, mi_load_acquire(&page->thread_free),
                            theap == NULL ? NULL : mi_load_relaxed(&theap->delayed_free), page->used};
  return mark;
}

static bool mark_equal(page_mark_t a, page_mark_t b) {
  return a.local_free == b.local_free && a.thread_free == b.thread_free && a.delayed == b.delayed && a.used == b.used;
}

// A bit page: each block's bits are looked at as the walk comes by.
static bool visit_bit_page(const visit_t* visit, mi_page_t* page) {
  const size_t live = _mi_bits_live(page);
  if (live == 0) return true;
  const bool single = mi_page_is_single(page);
  const mi_bits_t* const bits = mi_bits_of(page);
  const mi_heap_area_t area = {
      .blocks = page->start,
      .reserved = (single ? page->block_size : page->slices * MI_SLICE_SIZE),
      .committed = (single ? page->block_size : mi_round_up(page->capacity * page->block_size, MI_OS_PAGE)),
      .used = live,
      .block_size = page->block_size,
      .full_block_size = page->block_size,
      .reserved1 = heap_tag(visit->shown),
  };
  if (!show(visit, &area, NULL, page->block_size)) return false;
  if (!visit->blocks) return true;
  for (uint32_t i = 0; i < page->capacity; i++) {
    const uint8_t state = mi_load_acquire(&bits->states[i]);
    if (!mi_state_is_live(state)) continue;
    if (!show(visit, &area, mi_bits_block(page, bits, i), mi_bits_size(page, bits, i, state))) return false;
  }
  return true;
}

static bool visit_page(const visit_t* visit, mi_page_t* page) {
  if (mi_unlikely(page->policy != 0)) return visit_bit_page(visit, page);
  free_map_t map;
  map_fill(&map, page);
  page_mark_t mark = page_mark(page);
  if (map.live == 0) return true;
  const bool single = mi_page_is_single(page);
  const mi_heap_area_t area = {
      .blocks = page->start,
      .reserved = (single ? page->block_size : page->slices * MI_SLICE_SIZE),
      .committed = (single ? page->block_size : mi_round_up(page->capacity * page->block_size, MI_OS_PAGE)),
      .used = map.live,
      .block_size = page->block_size,
      .full_block_size = page->block_size,
      .reserved1 = heap_tag(visit->shown),
  };
  if (!show(visit, &area, NULL, page->block_size)) return false;
  if (!visit->blocks) return true;
  for (uint32_t i = 0; i < page->reserved; i++) {
    if (!mark_equal(mark, page_mark(page))) {
      map_fill(&map, page);
      mark = page_mark(page);
    }
    if ((map.bits[i / 64] >> (i % 64) & 1) != 0) continue;
    if (mi_unlikely(page->guard != 0)) return show(visit, &area, mi_guard_of(page)->block, mi_guard_of(page)->size);
    if (!show(visit, &area, page->start + i * page->block_size, page->block_size)) return false;
  }
  return true;
}

// --- regions -------------------------------------------------------------------------------------------------------

static bool region_object_live(const mi_region_t* region, size_t granule) {
  _Atomic(uint64_t)* const word = mi_region_words(region, granule);
  const uint64_t live = mi_load_relaxed(&word[0]) & ~(mi_load_acquire(&word[1]) | mi_load_acquire(&word[2]));
  return (live >> (granule % 64) & 1) != 0;
}

static bool visit_region(const visit_t* visit, const mi_region_t* region) {
  const size_t end = _mi_region_end(region);
  size_t live = 0;
  for (size_t g = region->first; g < end; g++) live += region_object_live(region, g);
  if (live == 0) return true;
  const mi_heap_area_t area = {
      .blocks = (uint8_t*)region + region->first * (size_t)16,
      .reserved = (size_t)1 << region->shift,
      .committed = end * 16,
      .used = live,
      .block_size = 0,
      .full_block_size = 0,
      .reserved1 = heap_tag(visit->shown),
  };
  if (!show(visit, &area, NULL, 0)) return false;
  if (!visit->blocks) return true;
  const mi_page_t* page = mi_slot_of((const uint8_t*)region + 1);
  if (page->kind == MI_PAGE_TAIL) page -= page->distance;
  for (size_t g = region->first; g < end; g++) {
    if (!region_object_live(region, g)) continue;
    uint8_t* const p = (uint8_t*)region + g * 16;
    if (!show(visit, &area, p, _mi_region_usable(page, p))) return false;
  }
  return true;
}

static bool visit_part_regions(const visit_t* visit, const mi_part_t* part) {
  if (!visit_region(visit, &part->region)) return false;
  for (const mi_region_t* region = part->regions; region != NULL; region = region->next) {
    if (!visit_region(visit, region)) return false;
  }
  return true;
}

// --- spaces -------------------------------------------------------------------------------------------------------

// A page of an isolated heap: its bits are looked at as the walk comes by, and if its last block is freed meanwhile it
// is no page any more, and they are all clear.
static bool visit_bits_page(mi_page_t* page, void* arg) {
  const visit_t* const visit = arg;
  const uint64_t state = mi_load_acquire(mi_space_state(page));
  const uint32_t reserved = page->reserved;
  const size_t size = page->block_size;
  uint8_t* const start = page->start;
  const bool single = (page->bin == MI_BIN_SOLO);
  const uint32_t live = _mi_space_live_count(page, state);
  if (live == 0) return true;
  const mi_heap_area_t area = {
      .blocks = start,
      .reserved = (single ? size : page->slices * MI_SLICE_SIZE),
      .committed = mi_round_up(page->capacity * size, MI_OS_PAGE),
      .used = live,
      .block_size = size,
      .full_block_size = size,
      .reserved1 = heap_tag(visit->shown),
  };
  if (!show(visit, &area, NULL, size)) return false;
  for (uint32_t i = 0; i < reserved && visit->blocks; i++) {
    if ((mi_load_acquire(mi_space_state(page)) & MI_SPACE_OPEN) == 0) return true;
    if (mi_space_is_live(page, i) && !show(visit, &area, start + i * size, size)) return false;
  }
  return true;
}

// --- heaps ----------------------------------------------------------------------------------------------------------

// A visit is a block of the internal heap, and not on the stack, so that a thread that ends in its visitor lets go of
// what it has. `marks`: the heap is one that is visited. NULL: no memory.
static visit_t* visit_begin(mi_thread_t* thread, const visit_t* wanted, bool marks) {
  visit_t* const visit = _mi_internal_alloc(thread, sizeof(visit_t));
  if (visit == NULL) return NULL;
  *visit = *wanted;
  visit->base.outer = thread->visits;
  visit->base.marks = marks;
  thread->visits = &visit->base;
  if (marks) mi_store_relaxed(&visit->base.heap->visiting, _mi_fork_stamp);
  return visit;
}

static void visit_let_go(visit_t* visit) {
  for (size_t i = 0; i < visit->count; i++) {
    if (!mi_page_is_frozen(visit->pages[i])) _mi_page_unpin(visit->pages[i]);
  }
  if (visit->capacity > 0) _mi_os_free(visit->pages, visit->capacity * sizeof(void*));
  for (size_t i = 0; i < visit->base.slot_count; i++) _mi_slot_leave(visit->base.slots[i], false, true);
  if (visit->slot_capacity > 0) _mi_os_free(visit->base.slots, visit->slot_capacity * sizeof(void*));
  visit->count = visit->capacity = visit->base.slot_count = visit->slot_capacity = 0;
}

// Visits the pages if `ok`, and lets go of everything.
static bool visit_gathered(visit_t* visit, bool ok) {
  for (size_t i = 0; i < visit->count && ok; i++) ok = visit_page(visit, visit->pages[i]);
  visit_let_go(visit);
  return ok;
}

// A visit in progress: no simple end. By contract nobody else changes the heap's flags; threads that end may read them.
// What was merged into the heap that is shown has no simple end anyway.
static void visit_flag(const visit_t* visit, bool on) {
  mi_heap_t* const heap = visit->base.heap;
  if (heap == &_mi_heap_main || heap != visit->shown) return;
  const uint8_t now = mi_heap_flags(heap), others = (uint8_t)(now & ~MI_HEAP_VISITED);
  const uint8_t next = (uint8_t)(on ? others | MI_HEAP_VISITED : others);
  if (next != now) mi_heap_set_flags(heap, next);
}

static bool is_marked_by(const mi_visit_t* visit, const mi_heap_t* heap) {
  while (visit != NULL && (visit->heap != heap || !visit->marks)) visit = visit->outer;
  return visit != NULL;
}

// The innermost visit of the thread ends.
static void visit_end(mi_thread_t* thread, visit_t* visit) {
  mi_heap_t* const heap = visit->base.heap;
  thread->visits = visit->base.outer;
  // A visit of a theap may be inside one of its heap.
  if (visit->base.marks && !is_marked_by(thread->visits, heap)) {
    visit_flag(visit, false);
    mi_store_relaxed(&heap->visiting, (uint8_t)0);
  }
  _mi_internal_free(visit);
}

// The thread's stack is gone, with visitors on it.
void _mi_visits_end(mi_thread_t* thread) {
  while (thread->visits != NULL) {
    visit_let_go((visit_t*)thread->visits);
    visit_end(thread, (visit_t*)thread->visits);
  }
}

static bool gather_failed(void) {
  errno = ENOMEM;
  return false;
}

static bool visit_heap(mi_heap_t* heap, mi_heap_t* shown, bool blocks, mi_block_visit_fun* visitor, void* arg,
                       bool abandoned_only) {
  mi_thread_t* const thread = _mi_tls.thread;
  if (mi_heap_is_visited(heap)) {
    _mi_error(EINVAL, "a visit of heap %p (%s) is refused inside a visit of it\n", (void*)heap, mi_heap_name(heap));
    return false;
  }
  const visit_t wanted = {.base = {.heap = heap}, .shown = shown, .blocks = blocks, .visitor = visitor, .arg = arg};
  visit_t* const visit = visit_begin(thread, &wanted, true);
  if (visit == NULL) return gather_failed();
  visit_flag(visit, true);
  bool gathered = true, frozen = false;
  if (heap == &_mi_heap_main) {
    gathered = gather_main(visit, abandoned_only);
  } else {
    MI_FOR_EACH_PART(heap, part) {
      if (gathered && !abandoned_only) gathered = gather_part(visit, part);
      if (_mi_part_has_frozen_theap(part)) frozen = true;
    }
    if (gathered) gathered = gather_abandoned(visit, heap);
    if (gathered && frozen) gathered = _mi_frozen_pages_each(heap, visit_add_frozen_page, visit);
  }
  bool ok = true;
  if (gathered && heap != &_mi_heap_main) {
    MI_FOR_EACH_PART(heap, part) {
      const mi_tid_t owner = mi_part_owner(part);
      if (ok && (!abandoned_only || !mi_tid_is_alive(owner) || mi_tid_is_gone(owner))) {
        ok = visit_part_regions(visit, part);
      }
    }
  }
  if (gathered && ok && mi_heap_space(heap) != NULL && !abandoned_only)
    ok = _mi_space_pages_each(mi_heap_space(heap), visit_bits_page, visit);
  ok = visit_gathered(visit, gathered && ok);
  // Blocks of heaps that were merged into this one are its own. Nobody looks at what remains of those meanwhile.
  for (int i = 0; i < 2 && ok; i++) {
    mi_heap_t* forwarder = mi_stack_node(mi_load_acquire(&heap->forwarders[i]));
    for (; forwarder != NULL && ok; forwarder = mi_load_relaxed(&forwarder->forwarder_next)) {
      ok = visit_heap(forwarder, shown, blocks, visitor, arg, abandoned_only);
    }
  }
  visit_end(thread, visit);
  return gathered ? ok : gather_failed();
}

bool mi_heap_visit_blocks(mi_heap_t* heap, bool visit_blocks, mi_block_visit_fun* visitor, void* arg) {
  if (heap == NULL || visitor == NULL) {
    _mi_error(EINVAL, "mi_heap_visit_blocks: no %s\n", heap == NULL ? "heap" : "visitor");
    return false;
  }
  if (mi_thread() == NULL || !_mi_heap_check_usable(heap, "mi_heap_visit_blocks")) return false;
  return visit_heap(heap, heap, visit_blocks, visitor, arg, false);
}

bool mi_heap_visit_abandoned_blocks(mi_heap_t* heap, bool visit_blocks, mi_block_visit_fun* visitor, void* arg) {
  if (heap == NULL || visitor == NULL) {
    _mi_error(EINVAL, "mi_heap_visit_abandoned_blocks: no %s\n", heap == NULL ? "heap" : "visitor");
    return false;
  }
  if (mi_thread() == NULL || !_mi_heap_check_usable(heap, "mi_heap_visit_abandoned_blocks")) return false;
  return visit_heap(heap, heap, visit_blocks, visitor, arg, true);
}

bool mi_theap_visit_blocks(const mi_theap_t* theap, bool visit_blocks, mi_block_visit_fun* visitor, void* arg) {
  if (theap == NULL || visitor == NULL || theap->thread != mi_thread()) {
    _mi_error(EINVAL, "mi_theap_visit_blocks: no visitor, or not a theap of the calling thread\n");
    return false;
  }
  const visit_t wanted = {
      .base = {.heap = theap->heap}, .shown = theap->heap, .blocks = visit_blocks, .visitor = visitor, .arg = arg};
  visit_t* const visit = visit_begin(theap->thread, &wanted, theap->part != NULL);
  if (visit == NULL) return gather_failed();
  const bool gathered = gather_theap(visit, (mi_theap_t*)theap);
  bool ok = gathered;
  if (ok && theap->part != NULL) ok = visit_part_regions(visit, theap->part);
  ok = visit_gathered(visit, ok);
  visit_end(theap->thread, visit);
  return gathered ? ok : gather_failed();
}

// A handle may be made or ended at this moment.
static MI_RACY bool is_open(mi_heap_t* heap) {
  return mi_load_acquire(&heap->home.id) != 0 && mi_load_relaxed(&heap->state) == MI_HEAP_OPEN;
}

// A page may be made or released at this moment; one of handles is made once, and stays.
static MI_RACY bool page_has_handles(mi_page_t* page, mi_tid_t owner) {
  if ((owner & MI_OWNER_SPECIAL) == 0) return false;
  if (mi_racy(page->kind) != MI_PAGE_CLASS) return _mi_page_is_arena_handle(page);
  // One that was put by has both flags.
  return mi_racy(page->bin) == MI_BIN_HANDLE && (owner & MI_OWNER_INTERNAL) == MI_OWNER_SPECIAL;
}

// Handles lie in pages that hold nothing else: those pages are the list of all heaps, at no cost to who makes one.
bool mi_heap_visit_all(mi_heap_visit_fun* visitor, void* arg) {
  if (visitor == NULL) {
    _mi_error(EINVAL, "mi_heap_visit_all: no visitor\n");
    return false;
  }
  bool more;
  MI_CALL_USER(more = visitor(&_mi_heap_main, arg));
  if (!more) return false;
  for (size_t i = 0; i < MI_ARENAS_MAX; i++) {
    mi_arena_t* const arena = mi_load_acquire(&_mi_arenas[i]);
    if (arena == NULL) break;
    const size_t ready = mi_load_acquire(&arena->ready);
    for (size_t index = 0; index < ready; index++) {
      if (mi_load_acquire(&arena->kind[index]) != MI_SEGMENT_NORMAL) continue;
      mi_segment_t* const segment = (mi_segment_t*)mi_arena_segment(arena, index);
      for (size_t s = 1; s < MI_SLICES_PER_SEGMENT; s++) {
        mi_page_t* const page = &segment->slot[s];
        // Acquire: `owner` is written last when a page is made. (Not in there, where ThreadSanitizer would not see it.)
        if (!page_has_handles(page, mi_load_acquire(&page->owner))) continue;
        for (size_t b = 0; b < page->reserved; b++) {
          mi_heap_t* const heap = (mi_heap_t*)(page->start + b * page->block_size);
          if (!is_open(heap)) continue;
          MI_CALL_USER(more = visitor(heap, arg));
          if (!more) return false;
        }
      }
    }
  }
  return true;
}
