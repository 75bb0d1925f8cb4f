// Blocks of the internal heap: handles, regions, theaps, slots. They are ordinary blocks of ordinary pages, obtained,
// returned from any thread, abandoned and reclaimed like all others; their pages carry MI_OWNER_SPECIAL, so that a free
// of an object inside one goes to the layer that knows regions.
#include <string.h>

#include "mi/internal/core.h"

void* _mi_internal_alloc(mi_thread_t* thread, size_t size) {
  mi_theap_t* const theap = &thread->internal_theap;
  const size_t bin = mi_bin_of(size);
  mi_page_t* const page = theap->queue[bin];
  if (mi_likely(page != NULL)) {
    mi_block_t* const block = page->free;
    if (mi_likely(block != NULL)) return mi_page_pop(page, block);
  }
  _mi_theap_tidy(theap);
  return _mi_theap_alloc_class(theap, bin, false);
}

void* _mi_internal_zalloc(mi_thread_t* thread, size_t size) {
  return _mi_theap_alloc_class(&thread->internal_theap, mi_bin_of(size), true);
}

void _mi_internal_free(void* block) {
  mi_page_t* page = mi_slot_of(block);
  if (page->kind == MI_PAGE_TAIL) page -= page->distance;
  mi_block_t* const b = (mi_block_t*)block;
  if (mi_likely(mi_load_relaxed(&page->owner) == (_mi_tls.tid | MI_OWNER_SPECIAL))) {
    // Last in, first out: what was used last is warm. The cadence that `local_free` gives is not needed here.
    b->next = page->free;
    page->free = b;
    page->free_zero = 0;
    if (mi_unlikely(--page->used == 0)) _mi_page_retire(page);
    return;
  }
  _mi_block_free(page, b);
}
