// The faults of faults.h, over the private headers.
#include "tests/internal/faults.h"

#include <string.h>

#include "mi/heap/parts.h"
#include "mi/internal/bit_page.h"
#include "mi/internal/page_queue.h"
#include "mi/internal/stack.h"

typedef struct patch_s {
  void* at;
  size_t size;
  uint64_t old;
} patch_t;
static patch_t patches[8];
static size_t patch_count;

static bool poke(void* at, size_t size, uint64_t value) {
  patch_t* const patch = &patches[patch_count++];
  patch->at = at;
  patch->size = size;
  memcpy(&patch->old, at, size);
  memcpy(at, &value, size);
  return memcmp(at, &patch->old, size) != 0;
}
#define SET(field, value) poke((void*)&(field), sizeof(field), (uint64_t)(value))
#define SET_POINTER(field, value) poke((void*)&(field), sizeof(field), (uint64_t)(uintptr_t)(value))

void faults_undo(void) {
  while (patch_count > 0) {
    const patch_t* const patch = &patches[--patch_count];
    memcpy(patch->at, &patch->old, patch->size);
  }
}

// --- places in the heap -------------------------------------------------------------------------------------------

static uint64_t wild[64];  // an address that is in no arena

static mi_theap_t* theap_of(mi_heap_t* heap) { return mi_load_relaxed(&heap->home.theap); }

typedef bool page_test(const mi_page_t*);
static mi_page_t* page_where(mi_heap_t* heap, page_test* test) {
  for (size_t bin = MI_BIN_COUNT - 1; bin > 0; bin--) {  // larger blocks first
    mi_page_t* const first = theap_of(heap)->queue[bin];
    mi_page_t* page = first;
    if (first == NULL) continue;
    do {
      if (test(page)) return page;
      page = page->next;
    } while (page != first);
  }
  return NULL;
}
static bool is_list(const mi_page_t* page) { return page->policy == 0; }  // the secure build has none but bit pages
static bool is_queued(const mi_page_t* page) { return page->kind == MI_PAGE_CLASS && !page->in_full; }
static bool is_full(const mi_page_t* page) {
  return page->kind == MI_PAGE_CLASS && page->in_full && MI_STATE(mi_load_relaxed(mi_page_word(page))) == MI_DELAYED;
}
static bool is_solo(const mi_page_t* page) { return page->kind == MI_PAGE_SOLO && page->slices > 1; }
static bool is_huge(const mi_page_t* page) { return page->kind == MI_PAGE_HUGE; }
static bool has_free(const mi_page_t* page) {
  return is_queued(page) && page->free != NULL && page->free->next != NULL;
}
static bool has_zero(const mi_page_t* page) { return has_free(page) && page->free_zero && page->block_size >= 64; }
static bool has_fresh(const mi_page_t* page) {
  return is_queued(page) && page->fresh_zero && page->capacity < page->reserved && page->color == 0;
}
static bool has_remote(const mi_page_t* page) {
  return is_queued(page) && page->policy == 0 && MI_LIST(mi_load_relaxed(mi_page_word(page))) != NULL;
}
static bool has_mates(const mi_page_t* page) { return page->in_full && page->next->next != page; }
static bool is_alone(const mi_page_t* page) {
  return is_queued(page) && page->next == page && page->block_size > MI_DIRECT_SIZE_MAX;
}

static mi_page_t* abandoned_page(mi_heap_t* heap) {
  for (size_t bin = 1; bin <= MI_BIN_LAST; bin++) {
    mi_page_t* const page = _mi_abandoned_first(heap, bin);
    if (page != NULL && MI_STATE(mi_load_relaxed(mi_page_word(page))) == MI_ABANDONED) return page;
  }
  return NULL;
}
static mi_region_t* closed_region(mi_heap_t* heap) {  // in use, but not the current one
  mi_region_t* region = heap->home.regions;
  while (region != NULL && region == heap->home.current) region = region->next;
  return region;
}
static _Atomic(uint64_t)* words_of(mi_region_t* region, size_t granule) { return mi_region_words(region, granule); }
static mi_heap_t* merged_into(mi_heap_t* heap) {
  mi_heap_t* const first = mi_stack_node(mi_load_relaxed(&heap->forwarders[0]));
  return first != NULL ? first : mi_stack_node(mi_load_relaxed(&heap->forwarders[1]));
}
static size_t segment_index(const mi_page_t* page, mi_arena_t** arena) {
  size_t index = 0;
  *arena = _mi_arena_of((const uint8_t*)page + 1, &index);
  return index;
}

// --- the faults ---------------------------------------------------------------------------------------------------

#define FAULT(name) static bool name(mi_heap_t* heap)
#define FAULT_PAGE(name, test, change)              \
  FAULT(name) {                                     \
    mi_page_t* const page = page_where(heap, test); \
    return page != NULL && (change);                \
  }
#define FAULT_ABANDONED(name, change)             \
  FAULT(name) {                                   \
    mi_page_t* const page = abandoned_page(heap); \
    return page != NULL && (change);              \
  }
#define FAULT_REGION(name, change)                   \
  FAULT(name) {                                      \
    mi_region_t* const region = closed_region(heap); \
    return region != NULL && (change);               \
  }

FAULT(handle_into) { return SET_POINTER(heap->into, &_mi_heap_main); }
FAULT(handle_flags) { return SET(heap->flags, heap->flags | MI_HEAP_IN_ARENA); }
FAULT(handle_refs) { return SET(heap->refs, mi_load_relaxed(&heap->refs) + 1); }
FAULT(handle_pages_more) { return SET(heap->pages_out, mi_load_relaxed(&heap->pages_out) + 1); }
FAULT(handle_pages_fewer) { return SET(heap->pages_out, mi_load_relaxed(&heap->pages_out) - 1); }
FAULT(handle_name) {
  mi_heap_extra_t* const extra = heap->home.config;
  if (extra == NULL) return false;
  for (size_t i = 0; i < 8; i++) poke(extra->name + 8 * i, 8, 0x7373646564656573);  // "seededss"
  return true;
}
FAULT(handle_abandoned_wild) {
  mi_page_t* const page = abandoned_page(heap);
  return page != NULL && SET_POINTER(page->listed_next, wild);
}

FAULT(lanes_wild) { return SET_POINTER(heap->parts, wild); }
FAULT(lane_heap) { return SET_POINTER(heap->parts->heap, &_mi_heap_main); }
FAULT(lane_shift) { return SET(heap->parts->region.shift, 11); }
FAULT(lane_circle) { return SET_POINTER(heap->parts->next, heap->parts); }
FAULT(home_heap) { return SET_POINTER(heap->home.heap, &_mi_heap_main); }
FAULT(part_slot_wild) { return SET_POINTER(heap->home.slot, wild); }
FAULT(part_theap) { return SET_POINTER(heap->home.theap, wild); }
FAULT(part_owner) { return SET(heap->home.region.owner, mi_load_relaxed(&heap->home.region.owner) ^ 64); }
FAULT(part_regions_wild) { return SET_POINTER(heap->home.regions, wild); }
FAULT(part_regions_inside) { return SET_POINTER(heap->home.regions, (uint8_t*)heap->home.regions + 64); }
FAULT(part_last) { return SET_POINTER(heap->home.regions_last, NULL); }
FAULT(part_bytes) { return SET(heap->home.bytes, heap->home.bytes + 1024); }
FAULT(part_bytes_fewer) { return !MI_SECURE && SET(heap->home.bytes, heap->home.bytes - 1024); }
FAULT(part_spare_wild) { return SET_POINTER(heap->home.spare, wild); }
FAULT(part_current) { return SET_POINTER(heap->home.current, wild); }
FAULT(part_bump_low) { return SET_POINTER(heap->home.bump, heap->home.current); }
FAULT(part_bump_odd) { return SET_POINTER(heap->home.bump, mi_load_relaxed(&heap->home.bump) + 8); }
FAULT(part_limit) { return !MI_SECURE && SET_POINTER(heap->home.limit, heap->home.limit + 64); }
FAULT(part_current_end) { return SET(heap->home.current->end, 40); }

FAULT_REGION(region_part, SET_POINTER(region->part, wild))
FAULT_REGION(region_owner, SET(region->owner, mi_load_relaxed(&region->owner) ^ 64))
FAULT_REGION(region_first, SET(region->first, 1))
FAULT_REGION(region_end_none, SET(region->end, 0))
FAULT_REGION(region_end_far, SET(region->end, 65535))
FAULT_REGION(region_start_outside, SET(words_of(region, 0)[0], mi_load_relaxed(&words_of(region, 0)[0]) | 1))
FAULT_REGION(region_start_beyond, SET(region->end, region->first))
FAULT_REGION(region_freed, SET(words_of(region, 0)[1], mi_load_relaxed(&words_of(region, 0)[1]) | 1))
FAULT_REGION(region_remote, SET(words_of(region, 0)[2], mi_load_relaxed(&words_of(region, 0)[2]) | 1))
FAULT(region_first_start) {  // with the bits that say whether it was freed
  mi_region_t* const region = closed_region(heap);
  if (region == NULL) return false;
  _Atomic(uint64_t)* const words = words_of(region, region->first);
  const uint64_t others = ~((uint64_t)1 << (region->first % 64));
  for (size_t i = 1; i < 3; i++) SET(words[i], mi_load_relaxed(&words[i]) & others);
  return SET(words[0], mi_load_relaxed(&words[0]) & others);
}

FAULT(theap_heap) { return SET_POINTER(theap_of(heap)->heap, wild); }
FAULT(theap_part) { return SET_POINTER(theap_of(heap)->part, wild); }
FAULT(theap_slot) { return SET_POINTER(theap_of(heap)->slot, wild); }
FAULT(theap_thread) { return SET_POINTER(theap_of(heap)->thread, wild); }
FAULT(theap_count_more) { return SET(theap_of(heap)->page_count, theap_of(heap)->page_count + 1); }
FAULT(theap_count_fewer) { return SET(theap_of(heap)->page_count, theap_of(heap)->page_count - 1); }
FAULT(theap_queue_0) { return SET_POINTER(theap_of(heap)->queue[0], wild); }
FAULT(theap_queue_wild) { return SET_POINTER(theap_of(heap)->queue[MI_BIN_LAST], wild); }
FAULT(theap_direct) { return SET_POINTER(theap_of(heap)->direct[3], wild); }
FAULT(theap_direct_large) { return SET_POINTER(theap_of(heap)->direct[MI_DIRECT_SIZE_MAX / 8 + 1], wild); }
FAULT(theap_dry_pages) { return SET(theap_of(heap)->dry_pages, theap_of(heap)->dry_pages + 1); }
FAULT(theap_delayed_wild) { return SET_POINTER(theap_of(heap)->delayed_free, wild); }
FAULT(theap_delayed_lost) { return SET_POINTER(theap_of(heap)->delayed_free, NULL); }
FAULT(theap_page_lost) {
  mi_page_t* const page = page_where(heap, is_alone);
  if (page == NULL) return false;
  SET_POINTER(theap_of(heap)->queue[page->bin], NULL);
  return SET(theap_of(heap)->page_count, theap_of(heap)->page_count - 1);
}

FAULT_PAGE(page_kind, is_queued, SET(page->kind, 9))
FAULT_PAGE(page_bin, is_queued, SET(page->bin, page->bin - 1))
FAULT_PAGE(page_bin_none, is_queued, SET(page->bin, 0))
FAULT_PAGE(page_block_size, is_queued, SET(page->block_size, page->block_size + 8))
FAULT_PAGE(page_slices, is_queued, SET(page->slices, page->slices + 1))
FAULT_PAGE(page_slices_far, is_queued, SET(page->slices, 64))
FAULT_PAGE(page_start, is_queued, SET_POINTER(page->start, page->start + 8))
FAULT_PAGE(page_reserved, is_queued, SET(page->reserved, page->reserved + 1))
FAULT_PAGE(page_color, is_queued, SET(page->color, page->reserved))
FAULT_PAGE(page_capacity, is_queued, SET(page->capacity, page->reserved + 1))
FAULT_PAGE(page_capacity_more, has_fresh, is_list(page) && SET(page->capacity, page->capacity + 1))
FAULT_PAGE(page_used_more, has_free, SET(page->used, page->used + 1))
FAULT_PAGE(page_used_fewer, has_free, SET(page->used, page->used - 1))
FAULT_PAGE(page_used_far, is_queued, SET(page->used, page->capacity + 1))
FAULT_PAGE(page_pinned, is_queued, SET(page->pinned, 1))
FAULT_PAGE(page_in_full, is_queued, SET(page->in_full, 1))
FAULT_PAGE(page_dry, is_queued, SET(page->dry, 2))
FAULT_PAGE(page_owner_flag, is_queued, SET(page->owner, mi_load_relaxed(&page->owner) | MI_OWNER_FULL))
FAULT_PAGE(page_owner, is_queued, SET(page->owner, mi_load_relaxed(&page->owner) ^ 64))
FAULT_PAGE(page_heap, is_queued, SET_POINTER(page->heap, &_mi_heap_main))
FAULT_PAGE(page_theap, is_queued, SET_POINTER(page->theap, wild))
FAULT_PAGE(page_state, is_queued, SET(*mi_page_word(page), mi_load_relaxed(mi_page_word(page)) | MI_DELAYING))
FAULT_PAGE(page_delayed, is_queued, is_list(page) && SET(page->delayed, 255))
FAULT_PAGE(page_next_wild, is_queued, SET_POINTER(page->next, wild))
FAULT_PAGE(page_next_other, has_mates, SET_POINTER(page->next, page->next->next))
FAULT_PAGE(page_prev, has_mates, SET_POINTER(page->prev, page))
FAULT_PAGE(page_free_wild, has_free, SET_POINTER(page->free->next, wild))
FAULT_PAGE(page_free_inside, has_free, SET_POINTER(page->free->next, (uint8_t*)page->free + 4))
FAULT_PAGE(page_free_circle, has_free, SET_POINTER(page->free->next, page->free))
FAULT_PAGE(page_free_lost, has_free, SET_POINTER(page->free->next, NULL))
FAULT_PAGE(page_free_twice, has_free, SET_POINTER(page->local_free, page->free))
FAULT_PAGE(page_free_new, has_fresh,
           is_list(page) && SET_POINTER(page->local_free, page->start + page->capacity * page->block_size))
FAULT_PAGE(page_remote_wild, has_remote,
           SET_POINTER(*mi_page_word(page), (uintptr_t)wild | (mi_load_relaxed(mi_page_word(page)) & 7)))
FAULT_PAGE(page_remote_count, has_remote,
           SET(*mi_page_word(page), mi_load_relaxed(mi_page_word(page)) + ((uint64_t)1 << MI_LIST_COUNT_SHIFT)))
FAULT_PAGE(page_zero_free, has_zero, SET(page->free[4].next, 1))
FAULT_PAGE(page_zero_fresh, has_fresh, is_list(page) && poke(page->start + page->reserved * page->block_size - 8, 8, 1))
FAULT_PAGE(page_tail, is_solo, SET(page[1].distance, 2))
FAULT_PAGE(page_tail_kind, is_solo, SET(page[1].kind, MI_PAGE_NONE))
FAULT(page_slice_free) {
  mi_page_t* const page = page_where(heap, is_queued);
  mi_arena_t* arena;
  const size_t index = segment_index(page, &arena);
  return SET(arena->info[index].free, mi_load_relaxed(&arena->info[index].free) | (uint64_t)1 << mi_page_slice(page));
}
FAULT_PAGE(full_used, is_full, is_list(page) && SET(page->used, page->used - 1))
FAULT_PAGE(full_remote, is_full,
           is_list(page) && SET(page->thread_free,
                                mi_word_with_block(mi_load_relaxed(&page->thread_free), (mi_block_t*)page->start)))
FAULT_PAGE(full_state, is_full, is_list(page) && SET(page->thread_free, MI_NORMAL))
FAULT_PAGE(solo_size, is_solo, SET(page->block_size, page->block_size + MI_SLICE_SIZE))
FAULT_PAGE(solo_reserved, is_solo, SET(page->reserved, 2))
FAULT_PAGE(solo_bin, is_solo, SET(page->bin, 3))
FAULT_PAGE(solo_used, is_solo, SET(page->used, 0))
FAULT_PAGE(huge_size, is_huge, SET(page->block_size, (size_t)1 << 50))
FAULT(huge_segment) {
  mi_page_t* const page = page_where(heap, is_huge);
  if (page == NULL) return false;
  mi_arena_t* arena;
  const size_t index = segment_index(page, &arena);
  return SET(arena->kind[index + 1], MI_SEGMENT_UNUSED);
}

FAULT_ABANDONED(abandoned_listed, SET(*mi_page_word(page), mi_load_relaxed(mi_page_word(page)) & ~(uintptr_t)MI_LISTED))
FAULT_ABANDONED(abandoned_theap, SET_POINTER(page->theap, theap_of(heap)))
FAULT_ABANDONED(abandoned_owner, SET(page->owner, 64))
FAULT_ABANDONED(abandoned_full, SET(page->in_full, 1))
FAULT_ABANDONED(abandoned_bin, SET(page->bin, page->bin + 1))
FAULT_ABANDONED(abandoned_heap, SET_POINTER(page->heap, &_mi_heap_main))
FAULT_ABANDONED(abandoned_used, is_list(page) && SET(page->used, page->used + 1))
FAULT_ABANDONED(abandoned_remote,
                is_list(page) && SET(page->thread_free,
                                     mi_word_with_block(mi_load_relaxed(&page->thread_free), (mi_block_t*)page->start)))

#if MI_SECURE
static bool is_partly_free(const mi_page_t* page) {
  return is_queued(page) && page->used < page->capacity && page->capacity < page->reserved;
}
// The number of a block that is not in use.
static size_t free_block(const mi_page_t* page) {
  size_t i = 0;
  while (mi_load_relaxed(&page->bits->states[i]) != MI_STATE_FREE) i++;
  return i;
}
static bool set_remote(const mi_page_t* page, size_t i) {
  _Atomic(uint64_t)* const word = mi_bits_remote(page->bits, i / 64);
  return SET(*word, mi_load_relaxed(word) | (uint64_t)1 << (i % 64));
}
FAULT_PAGE(bits_used_more, is_partly_free, SET(page->used, page->used + 1))
FAULT_PAGE(bits_used_fewer, is_partly_free, SET(page->used, page->used - 1))
FAULT_PAGE(bits_live, is_partly_free, SET(page->bits->states[free_block(page)], 1))
FAULT_PAGE(bits_beyond, is_partly_free, SET(page->bits->states[page->capacity], 1))
FAULT_PAGE(bits_remote, is_partly_free, set_remote(page, free_block(page)))
FAULT_PAGE(bits_quarantined, is_partly_free, SET(page->bits->quarantined, page->bits->quarantined + 1))
#endif

FAULT(merged_state) { return SET(merged_into(heap)->state, MI_HEAP_OPEN); }
FAULT(merged_target) { return SET_POINTER(merged_into(heap)->into, &_mi_heap_main); }
FAULT(merged_refs) { return SET(merged_into(heap)->refs, 9); }
FAULT(merged_wild) { return SET_POINTER(merged_into(heap)->forwarder_next, wild); }
FAULT(merged_regions) { return SET(merged_into(heap)->home.region.end, 65535); }

static const struct {
  const char* name;
  const char* message;
  bool (*apply)(mi_heap_t* heap);
} faults[] = {
#define CASE(name, message) \
  { #name, message, name }
    CASE(handle_into, "its blocks went to"),
    CASE(handle_flags, "its flags are"),
    CASE(handle_refs, "references, but"),
    CASE(handle_pages_more, "its stacks hold fewer"),
    CASE(handle_pages_fewer, "its stacks hold more"),
    CASE(handle_name, "its name does not end"),
    CASE(handle_abandoned_wild, "which is no page"),
    CASE(lanes_wild, "its list of parts leads to"),
    CASE(lane_heap, "it names heap"),
    CASE(lane_shift, "its first region is 11 bits"),
    CASE(lane_circle, "its list of parts does not end"),
    CASE(home_heap, "it names heap"),
    CASE(part_slot_wild, "its slot is"),
    CASE(part_theap, "its theap is"),
    CASE(part_owner, "its owner is"),
    CASE(part_regions_wild, "its list of regions leads to"),
    CASE(part_regions_inside, "its list of regions leads to"),
    CASE(part_last, "its last region is"),
    CASE(part_bytes, "its lists have fewer"),
    CASE(part_bytes_fewer, "its lists have more"),
    CASE(part_spare_wild, "its list of spare regions leads to"),
    CASE(part_current, "which is no region of it"),
    CASE(part_bump_low, "the next object would be at"),
    CASE(part_bump_odd, "the next object would be at"),
    CASE(part_limit, "the next object would be at"),
    CASE(part_current_end, "but it has an end"),
    CASE(region_part, "it names part"),
    CASE(region_owner, "its part's"),
    CASE(region_first, "its objects start at granule 1"),
    CASE(region_end_none, "it ends at granule 0"),
    CASE(region_end_far, "it ends at granule 65535"),
    CASE(region_start_outside, "where none is"),
    CASE(region_start_beyond, "where none is"),
    CASE(region_freed, "where none starts"),
    CASE(region_remote, "where none starts"),
    CASE(region_first_start, "no object starts at its beginning"),
    CASE(theap_heap, "it names heap"),
    CASE(theap_part, "it names part"),
    CASE(theap_slot, "it names slot"),
    CASE(theap_thread, "it names thread"),
    CASE(theap_count_more, "and its queues hold"),
    CASE(theap_count_fewer, "and its queues hold more"),
    CASE(theap_queue_0, "queue of class 0"),
    CASE(theap_queue_wild, "which is no page"),
    CASE(theap_direct, "the table has"),
    CASE(theap_direct_large, "for large sizes"),
    CASE(theap_dry_pages, "dry pages, and its queues hold"),
    CASE(theap_delayed_wild, "its delayed list leads to"),
    CASE(theap_delayed_lost, "on its delayed list, which has fewer"),
    CASE(theap_page_lost, "pages are its own"),
    CASE(page_kind, "kind 9"),
    CASE(page_bin, "in class"),
    CASE(page_bin_none, "class 0 is none"),
    CASE(page_block_size, "in class"),
    CASE(page_slices, "slice"),
    CASE(page_slices_far, "of its segment"),
    CASE(page_start, "its blocks start at"),
    CASE(page_reserved, "blocks fit"),
    CASE(page_color, "colour"),
    CASE(page_capacity, "blocks were handed out of"),
    CASE(page_capacity_more, "that were handed out"),
    CASE(page_used_more, "that were handed out"),
    CASE(page_used_fewer, "that were handed out"),
    CASE(page_used_far, "blocks are in use of"),
    CASE(page_pinned, "visits of it never ended"),
    CASE(page_in_full, "but in_full is"),
    CASE(page_dry, "but dry is"),
    CASE(page_owner_flag, "but in_full is"),
    CASE(page_owner, "its theap's thread"),
    CASE(page_heap, "it names heap"),
    CASE(page_theap, "it names theap"),
    CASE(page_state, "state 2"),
    CASE(page_delayed, "wait on its theap's list"),
    CASE(page_next_wild, "does not lead back"),
    CASE(page_next_other, "does not lead back"),
    CASE(page_prev, "does not lead back"),
    CASE(page_free_wild, "where no block starts"),
    CASE(page_free_inside, "where no block starts"),
    CASE(page_free_circle, "which is free already"),
    CASE(page_free_lost, "that were handed out"),
    CASE(page_free_twice, "which is free already"),
    CASE(page_free_new, "which never was a block"),
    CASE(page_remote_wild, "its list thread_free leads to"),
    CASE(page_remote_count, "but counts"),
    CASE(page_zero_free, "was written to"),
    CASE(page_zero_fresh, "never handed out was written to"),
    CASE(page_tail, "does not lead to it"),
    CASE(page_tail_kind, "does not lead to it"),
    CASE(page_slice_free, "slices of it are free"),
    CASE(full_used, "but it is on the full list"),
    CASE(full_remote, "full, DELAYED, and with blocks"),
    CASE(full_state, "on its delayed list, which has fewer"),
    CASE(solo_size, "is not within its slices"),
    CASE(solo_reserved, "instead of one"),
    CASE(solo_bin, "of a page with one block"),
    CASE(solo_used, "its block is not in use"),
    CASE(huge_size, "is not within its segments"),
    CASE(huge_segment, "of its run is not its own"),
    CASE(abandoned_listed, "but not LISTED"),
    CASE(abandoned_theap, "abandoned, with theap"),
    CASE(abandoned_owner, "abandoned, with theap"),
    CASE(abandoned_full, "abandoned, with in_full"),
    CASE(abandoned_bin, "of abandoned pages"),
    CASE(abandoned_heap, "it names heap"),
    CASE(abandoned_used, "that were handed out"),
    CASE(abandoned_remote, "abandoned, with blocks"),
#if MI_SECURE
    CASE(bits_used_more, "blocks are not free, not"),
    CASE(bits_used_fewer, "blocks are not free, not"),
    CASE(bits_live, "blocks are not free, not"),
    CASE(bits_beyond, "was handed out"),
    CASE(bits_remote, "that is not in use was freed"),
    CASE(bits_quarantined, "blocks are in quarantine, not"),
#endif
    CASE(merged_state, "that was merged into it: handle"),
    CASE(merged_target, "that was merged into it: handle"),
    CASE(merged_refs, "references, but"),
    CASE(merged_wild, "its stack of merged heaps leads to"),
    CASE(merged_regions, "it ends at granule 65535"),
};

size_t faults_count(void) { return sizeof(faults) / sizeof(faults[0]); }
const char* faults_name(size_t fault) { return faults[fault].name; }
const char* faults_message(size_t fault) { return faults[fault].message; }
bool faults_apply(size_t fault, mi_heap_t* heap) {
  patch_count = 0;
  return faults[fault].apply(heap);
}
