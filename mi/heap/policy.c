// Heaps with a policy: hardened, guarded, quarantined, wiped, zeroed, isolated, secret. The generic entry that every
// allocation in such a heap comes by, and every free of its blocks.
//
// A policy costs plain heaps nothing. The home part of a heap with one carries MI_OWNER_INTERIOR in its owner word, and
// the thread's cache of heaps that it is away from never holds such a heap, so that the fast path of mi_heap_malloc
// fails its one compare; direct tables of its theaps stay empty; its pages carry MI_OWNER_INTERIOR, so that the fast
// path of mi_free fails as well, and `policy` in the slot says why. There are no regions: every class begins with a
// page.
//
// Invariants:
//  * MI_HEAP_POLICY of a heap and `policy` of its theaps and pages never change while they live; a page with a policy
//    serves no other heap: when its heap is deleted or merged, it stays that heap's until its last block is freed.
#include <errno.h>
#include <string.h>

#include "mi/heap/checked.h"
#include "mi/internal/space.h"

void _mi_policy_begin(mi_heap_t* heap, uint32_t policy) {
  mi_heap_extra_t* const extra = mi_load_relaxed(mi_heap_extra_word(heap));
  extra->policy = (uint8_t)policy;
  heap->flags |= MI_HEAP_POLICY;
  _mi_part_close_young(&heap->home);
  mi_store_relaxed(&heap->home.region.owner, mi_part_owner(&heap->home) | MI_OWNER_INTERIOR);
}

// --- allocation ------------------------------------------------------------------------------------------------

void* _mi_policy_alloc(mi_heap_t* heap, mi_part_t* part, const mi_request_t* request) {
  mi_thread_t* const thread = mi_thread();
  if (mi_unlikely(thread == NULL)) {
    _mi_error(ENOMEM, "no memory for %zu bytes: the thread could not be set up\n", request->size);
    return NULL;
  }
  if (mi_heap_space(heap) != NULL) return _mi_isolated_alloc(thread, heap, request);
  if (part == NULL) part = _mi_part_of(thread, heap);
  if (mi_unlikely(part == NULL)) return NULL;
  return _mi_paged_alloc(thread, heap, part, request);
}

void* _mi_policy_serve(mi_theap_t* theap, const mi_request_t* request) {
  mi_request_t r = *request;
  if ((theap->policy & MI_HEAP_ZERO) != 0) r.zero = true;
  return _mi_theap_serve(theap, &r);
}

// --- blocks ------------------------------------------------------------------------------------------------------

void _mi_policy_free(mi_page_t* page, void* p) {
  if (page->kind == MI_PAGE_BITS) {
    _mi_space_free(page, p);
    return;
  }
  _mi_block_free(page, mi_page_is_single(page) ? (mi_block_t*)page->start : mi_page_block_of(page, p));
}

size_t _mi_policy_size(mi_page_t* page, const void* p) {
  if (page->kind == MI_PAGE_BITS) return _mi_space_block_size(page, p, "usable_size");
  if (mi_page_is_single(page)) {
    const size_t inside = (size_t)((const uint8_t*)p - page->start);
    return (inside < sizeof(mi_block_t) ? page->block_size - inside : 0);
  }
  return page->block_size - (size_t)((const uint8_t*)p - page->start) % page->block_size;
}

void* _mi_policy_realloc(mi_heap_t* heap, mi_page_t* page, void* p, size_t newsize, size_t alignment, size_t offset,
                         bool zero) {
  if (page->kind == MI_PAGE_BITS) return _mi_isolated_realloc(heap, page, p, newsize, alignment, offset, zero);
  const size_t usable = _mi_policy_size(page, p);
  if (mi_unlikely(usable == 0)) {
    _mi_error(EINVAL, "realloc of %p refused: not a live block\n", p);
    return NULL;
  }
  if (heap == NULL) heap = mi_heap_of(p);
  const size_t kept = (newsize < usable ? newsize : usable);
  void* const q = _mi_heap_alloc_aligned(heap, newsize, alignment, offset, zero);
  if (mi_unlikely(q == NULL)) return NULL;
  memcpy(q, p, kept);
  _mi_free_slow(p);
  return q;
}

void* _mi_policy_expand(mi_page_t* page, void* p, size_t newsize) {
  return (newsize <= _mi_policy_size(page, p) ? p : NULL);
}
