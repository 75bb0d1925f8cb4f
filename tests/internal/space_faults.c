// The faults of space_faults.h, over the private headers.
#include "tests/internal/space_faults.h"

#include <string.h>

#include "mi/internal/space.h"

static void* patched_at;
static size_t patched_size;
static uint64_t patched_old;

static void poke(void* at, size_t size, uint64_t value) {
  patched_at = at;
  patched_size = size;
  memcpy(&patched_old, at, size);
  memcpy(at, &value, size);
}
#define SET(field, value) poke((void*)&(field), sizeof(field), (uint64_t)(uintptr_t)(value))

void space_faults_undo(void) { memcpy(patched_at, &patched_old, patched_size); }

static const char* const messages[] = {
    "a page is of another kind",
    "a page's state is not that of its class",
    "a page's blocks are of another size than its class",
    "a page names another heap",
    "a page counts other blocks than are live",
    "a page has used more blocks than fit",
    "two pages have one slice",
    "a page leaves its segment",
    "a segment's free slices are not those without pages",
    "a segment of the heap's own is free for others",
    "a segment names another space",
    "it counts other pages without blocks than there are",
};

size_t space_faults_count(void) { return sizeof(messages) / sizeof(messages[0]); }
const char* space_faults_message(size_t fault) { return messages[fault]; }

void space_faults_apply(size_t fault, void* block) {
  mi_page_t* const page = _mi_page_of_any(block);
  mi_space_segment_t* const segment = mi_space_segment_of(page);
  switch (fault) {
    case 0:
      SET(page->kind, MI_PAGE_CLASS);
      break;
    case 1:
      SET(page->reserved, page->reserved - 1);
      break;
    case 2:
      SET(page->block_size, page->block_size + 16);
      break;
    case 3:
      SET(page->heap, &_mi_heap_main);
      break;
    case 4:
      SET(page->thread_free, mi_load_relaxed(mi_space_state(page)) + MI_SPACE_ONE);
      break;
    case 5:
      SET(page->capacity, page->reserved + 1);
      break;
    case 6:
      SET(page->slices, 2);
      break;
    case 7:
      SET(page->slices, MI_SLICES_PER_SEGMENT);
      break;
    case 8:
      SET(segment->free, mi_load_relaxed(&segment->free) | (uint64_t)1 << mi_page_slice(page));
      break;
    case 9:
      SET(segment->arena->info[segment->index].free, 2);
      break;
    case 10:
      SET(segment->space, NULL);
      break;
    default:
      SET(segment->space->idle, mi_load_relaxed(&segment->space->idle) + 1);
      break;
  }
}
