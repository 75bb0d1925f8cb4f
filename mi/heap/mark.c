// Marks: remembering what is in a heap, and freeing all that came to it since.
//
// The young part of a mark is a place in the current region of each part. Regions that are in use at a mark are
// stamped with its depth (their `marked`, 1 for a heap's first mark): until the mark is gone they are neither used
// again nor given back when they are empty, and their last object is not resized in place, so that whatever lies behind
// the place came after the mark. A rewind clears the bits from there, and makes later regions spare. Pages have a depth
// too; those that are older than the last mark are sealed (page.c). A heap that was merged into this one has, in its
// handle, the depth at which it came. Children and callbacks have serial numbers (family.c), and so has a mark.
//
// Invariants:
//  * a heap's records are a stack; the depth of one is its place in it, 1 at the bottom, and home.depth the height;
//  * a spare region is not stamped, nor is any region of a heap without marks;
//  * a part without a place in a record came after the mark: all of it goes at a rewind.
#include <errno.h>
#include <string.h>

#include "mi/heap/checked.h"
#include "mi/internal/os.h"
#include "mi/internal/stats.h"

// Where a part stood.
typedef struct place_s {
  struct place_s* next;
  mi_part_t* part;
  mi_region_t* current;
  uint8_t* bump;
  uint8_t* limit;
  uint8_t step;
  uint8_t seen[58];
} place_t;
_Static_assert(sizeof(((place_t*)0)->seen) == sizeof(((mi_part_t*)0)->seen), "all of it");

struct mi_mark_record_s {
  mi_mark_record_t* below;
  uint64_t serial;
  place_t* places;
  uint16_t depth;
};

#define GRANULE 16

static void record_free(mi_mark_record_t* record) {
  for (place_t* place = record->places; place != NULL;) {
    place_t* const next = place->next;
    _mi_internal_free(place);
    place = next;
  }
  _mi_internal_free(record);
}

static const place_t* place_of(const mi_mark_record_t* record, const mi_part_t* part) {
  const place_t* place = record->places;
  while (place != NULL && place->part != part) place = place->next;
  return place;
}

// The mark's record. NULL: none (reported).
static mi_mark_record_t* record_of(mi_heap_t* heap, mi_heap_mark_t mark, const char* function) {
  mi_family_t* const family = mi_heap_family(heap);
  mi_mark_record_t* record = NULL;
  if (family != NULL && mark.serial != 0 && mark.heap == mi_load_relaxed(&heap->home.id)) record = family->marks;
  while (record != NULL && record->serial != mark.serial) record = record->below;
  if (record == NULL) _mi_error(EINVAL, "%s: no mark of heap %p (%s)\n", function, (void*)heap, mi_heap_name(heap));
  return record;
}

static void pop_above(mi_family_t* family, const mi_mark_record_t* record) {
  while (family->marks != record) {
    mi_mark_record_t* const top = family->marks;
    family->marks = top->below;
    record_free(top);
  }
}

static bool check(mi_heap_t* heap, const char* function) {
  if (heap == NULL) {
    _mi_error(EINVAL, "%s: no heap\n", function);
    return false;
  }
  if (!_mi_heap_check_end(heap, true, function)) return false;
  if (mi_thread() != NULL) return true;
  _mi_error(ENOMEM, "%s: the thread could not be set up\n", function);
  return false;
}

// --- parts --------------------------------------------------------------------------------------------------------

// In the child of a fork: a part whose thread is gone may have stopped anywhere.
static void part_settle(mi_part_t* part) {
  if (mi_tid_is_gone(mi_part_owner(part))) _mi_part_settle(part);
}

static void part_stamp(mi_part_t* part, uint16_t depth) {
  if (part->region.marked == 0) part->region.marked = depth;
  for (mi_region_t* region = part->regions; region != NULL; region = region->next) {
    if (region->marked == 0) region->marked = depth;
  }
}

// Regions that were stamped by this mark or a later one are not any more.
static void part_unstamp(mi_part_t* part, uint16_t depth) {
  if (part->region.marked >= depth) part->region.marked = 0;
  for (mi_region_t* region = part->regions; region != NULL; region = region->next) {
    if (region->marked >= depth) region->marked = 0;
  }
}

static size_t granule_of(const mi_region_t* region, const uint8_t* at) {
  return (size_t)(at - (const uint8_t*)region) / GRANULE;
}

static void part_close_current(mi_part_t* part) {
  mi_region_t* const region = part->current;
  if (mi_load_relaxed(&region->end) != 0) return;
  mi_store_release(&region->end, (uint16_t)granule_of(region, mi_load_relaxed(&part->bump)));
}

// A region goes out of use, with all its objects.
static void part_spare(mi_part_t* part, mi_region_t* region) {
  region->marked = 0;
  _mi_part_leave(part, region);
  _mi_deferred_region_emptied(region, part);
  mi_stores_in_order();  // it is on no list
  region->next = part->spare;
  mi_stores_in_order();
  part->spare = region;
}

static void region_clear_from(mi_region_t* region, size_t granule, size_t end) {
  for (size_t at = granule; at < end; at = (at / 64 + 1) * 64) {
    _Atomic(uint64_t)* const word = mi_region_words(region, at);
    const uint64_t keep = ((uint64_t)1 << (at % 64)) - 1;
    for (int i = 0; i < 3; i++) mi_store_relaxed(&word[i], mi_load_relaxed(&word[i]) & keep);
  }
}

static void part_rewind(mi_part_t* part, const place_t* place, uint16_t depth) {
  part_settle(part);
  if (place == NULL) {
    part_unstamp(part, 0);
    _mi_part_reset(part, 0);
    if ((part->heap->flags & MI_HEAP_IN_ARENA) != 0) _mi_part_close_young(part);
    return;
  }
  part_close_current(part);
  mi_region_t* last = NULL;
  for (mi_region_t** link = &part->regions; *link != NULL;) {
    mi_region_t* const region = *link;
    if (region->marked == 0 || region->marked > depth) {
      *link = region->next;
      part_spare(part, region);
    } else {
      last = region;
      link = &region->next;
    }
  }
  part->regions_last = last;
  mi_region_t* const current = place->current;
  region_clear_from(current, granule_of(current, place->bump), mi_load_relaxed(&current->end));
  mi_stores_in_order();
  part->current = current;
  part->limit = place->limit;
  part->step = place->step;
  memcpy(part->seen, place->seen, sizeof(part->seen));
  mi_store_relaxed(&current->end, (uint16_t)0);
  mi_store_release(&part->bump, place->bump);
  if (part == &part->heap->home) _mi_account_settle(mi_account_of(part->heap), 0);
  _mi_part_trim(part);
}

// --- theaps -------------------------------------------------------------------------------------------------------

// Has the part's theap, whose thread may be in collect or exit for a moment. NULL: there is none that anybody uses.
static mi_slot_t* theap_take(mi_part_t* part) {
  if (_mi_part_has_frozen_theap(part)) return NULL;
  for (;;) {
    mi_slot_t* slot = NULL;
    if (_mi_slot_take_for_reset(part, &slot)) return slot;
    if (slot == NULL) return NULL;
    mi_count(&_mi_stats.heap_waits, 1);
    _mi_os_yield();
  }
}

static void theaps_each(mi_heap_t* heap, void (*fn)(mi_theap_t*, uint16_t), uint16_t depth) {
  MI_FOR_EACH_PART(heap, part) {
    mi_slot_t* const slot = theap_take(part);
    if (slot == NULL) continue;
    fn(mi_load_relaxed(&slot->theap), depth);
    _mi_slot_give_back(slot);
  }
}

// --- marks --------------------------------------------------------------------------------------------------------

static mi_mark_record_t* record_make(mi_thread_t* thread, mi_heap_t* heap) {
  mi_mark_record_t* const record = _mi_internal_alloc(thread, sizeof(mi_mark_record_t));
  if (record == NULL) return NULL;
  record->places = NULL;
  bool has_pages = (mi_load_acquire(&heap->pages_out) != 0);
  MI_FOR_EACH_PART(heap, part) {
    if (mi_load_acquire(&part->slot) != NULL) has_pages = true;
    part_settle(part);
    place_t* const place = _mi_internal_alloc(thread, sizeof(place_t));
    if (place == NULL) {
      record_free(record);
      return NULL;
    }
    place->part = part;
    place->current = part->current;
    place->bump = mi_load_relaxed(&part->bump);
    place->limit = part->limit;
    place->step = part->step;
    memcpy(place->seen, part->seen, sizeof(place->seen));
    place->next = record->places;
    record->places = place;
  }
  if (!has_pages || _mi_abandoned_ready(heap)) return record;
  record_free(record);
  return NULL;
}

mi_heap_mark_t mi_heap_mark(mi_heap_t* heap) {
  const mi_heap_mark_t none = {0, 0};
  if (!check(heap, "mi_heap_mark")) return none;
  mi_family_t* const family = (heap->home.depth == UINT16_MAX ? NULL : _mi_family_make(heap));
  mi_mark_record_t* const record = (family == NULL ? NULL : record_make(_mi_tls.thread, heap));
  if (record == NULL) {
    _mi_error(ENOMEM, "mi_heap_mark: no memory for a mark of heap %p (%s)\n", (void*)heap, mi_heap_name(heap));
    return none;
  }
  const uint16_t depth = (uint16_t)(heap->home.depth + 1);
  MI_FOR_EACH_PART(heap, part) part_stamp(part, depth);
  theaps_each(heap, _mi_theap_seal, depth);
  _mi_family_enter();
  record->serial = _mi_family_serial();
  _mi_family_leave();
  record->depth = depth;
  record->below = family->marks;
  family->marks = record;
  heap->home.depth = depth;
  return (mi_heap_mark_t){mi_load_relaxed(&heap->home.id), record->serial};
}

#if MI_CHECKED
typedef struct newer_s {
  mi_heap_t* heap;
  const mi_mark_record_t* record;
} newer_t;

// Is the block younger than the mark?
static bool is_newer(const void* p, void* arg) {
  const newer_t* const newer = arg;
  const uint16_t depth = newer->record->depth;
  mi_page_t* const page = _mi_page_of_any(p);
  if ((mi_load_relaxed(&page->owner) & MI_OWNER_SPECIAL) == 0) {
    mi_heap_t* const heap = mi_load_relaxed(&page->heap);
    return (heap == newer->heap ? page->depth : heap->home.depth) >= depth;
  }
  const mi_region_t* const region = _mi_region_of(page, p);
  if (region->part->heap != newer->heap) return region->part->heap->home.depth >= depth;
  const place_t* const place = place_of(newer->record, region->part);
  if (place == NULL || region->marked == 0 || region->marked > depth) return true;
  return place->current == region && (const uint8_t*)p >= place->bump;
}
#endif

bool mi_heap_rewind(mi_heap_t* heap, mi_heap_mark_t mark) {
  if (!check(heap, "mi_heap_rewind")) return false;
  mi_mark_record_t* const record = record_of(heap, mark, "mi_heap_rewind");
  if (record == NULL) return false;
  mi_family_t* const family = mi_heap_family(heap);
  const uint16_t depth = record->depth;
  mi_store_relaxed(&family->ender, _mi_tls.tid);
  _mi_family_run_down(heap, record->serial);
  mi_store_release(&family->ender, MI_TID_NONE);
#if MI_CHECKED
  _mi_checked_heap_rewind(heap, is_newer, &(newer_t){heap, record});
#endif
  pop_above(family, record);
  _mi_forwarders_rewind(heap, depth, false);
  theaps_each(heap, _mi_theap_rewind, depth);
  _mi_abandoned_rewind(heap, depth);
  _mi_frozen_pages_rewind(heap, depth);
  MI_FOR_EACH_PART(heap, part) part_rewind(part, place_of(record, part), depth);
  heap->home.depth = depth;
  return true;
}

bool mi_heap_unmark(mi_heap_t* heap, mi_heap_mark_t mark) {
  if (!check(heap, "mi_heap_unmark")) return false;
  mi_mark_record_t* const record = record_of(heap, mark, "mi_heap_unmark");
  if (record == NULL) return false;
  const uint16_t depth = (uint16_t)(record->depth - 1);
  pop_above(mi_heap_family(heap), record->below);
  heap->home.depth = depth;
  MI_FOR_EACH_PART(heap, part) part_unstamp(part, (uint16_t)(depth + 1));
  _mi_forwarders_rewind(heap, depth, true);
  theaps_each(heap, _mi_theap_unseal, depth);
  _mi_abandoned_unseal(heap, depth);
  _mi_frozen_pages_unseal(heap, depth);
  return true;
}

void _mi_marks_drop(mi_heap_t* heap) {
  pop_above(mi_heap_family(heap), NULL);
  MI_FOR_EACH_PART(heap, part) part_unstamp(part, 1);
  heap->home.depth = 0;
}
