// Resizing the one block of a page where it is: a large block takes the slices behind it, a huge one the segments, if
// they are free, and gives back what it is not to have any more. Blocks of classes stay as they are (mi/heap/alloc.c).
//
// Only by the thread whose theap has the page: nobody else then changes its slot. A visitor's pages, and those that are
// older than a mark, keep their shape; pages with a policy or guards are not for here. Neither claim nor release is
// new to the protocol of segment.c: the run is found by its place instead of a search.
#include "mi/internal/account.h"
#include "mi/internal/core.h"

static bool may_resize(const mi_page_t* page, const mi_theap_t* theap) {
  return theap != NULL && (mi_load_relaxed(&page->owner) & ~MI_OWNER_FLAGS) == _mi_tls.tid && page->used == 1 &&
         page->pinned == 0 && page->policy == 0 && page->guard == 0 && page->depth == theap->depth;
}

// The page has room for `size` bytes from its block's start; as many of them as it can use are its block's.
static bool resize_room(mi_page_t* page, size_t size, size_t* block_size, bool* zero) {
  *block_size = mi_round_up(size, MI_OS_PAGE);
  if (page->kind == MI_PAGE_HUGE) return _mi_huge_resize(page, *block_size, zero);
  const size_t lead = (size_t)page->start % MI_SLICE_SIZE;  // of an aligned block, or one at an odd offset
  const size_t before =
      ((uintptr_t)page->start - (uintptr_t)mi_page_segment(page)) / MI_SLICE_SIZE - mi_page_slice(page);
  if (size > MI_SOLO_SIZE_MAX) return false;
  const size_t slices = before + (lead + size + MI_SLICE_SIZE - 1) / MI_SLICE_SIZE;
  if (!_mi_slices_resize(page, slices, zero)) return false;
  const size_t room = (slices - before) * MI_SLICE_SIZE - lead;
  if (*block_size > room) *block_size = room;
  return true;
}

bool _mi_page_resize(mi_page_t* page, size_t size, bool* zero) {
  mi_theap_t* const theap = mi_load_relaxed(&page->theap);
  if (!mi_page_is_single(page) || !may_resize(page, theap) || size > MI_AMOUNT_MAX) return false;
  // What is too small for a page of its kind is better off elsewhere.
  if (size <= (page->kind == MI_PAGE_HUGE ? MI_SOLO_SIZE_MAX : MI_CLASS_SIZE_MAX)) return false;
  const size_t before = page->block_size, most = mi_round_up(size, MI_OS_PAGE);
  if (most < before && _mi_heap_is_held(theap->heap)) return false;  // who reads the block may read all of it
  const size_t charged = (most > before ? most - before : 0);
  if (charged != 0 && !mi_theap_charge(theap, charged)) return false;
  size_t after;
  if (!resize_room(page, size, &after, zero)) {
    mi_theap_add(theap, -(int64_t)charged);
    return false;
  }
  page->block_size = after;
  mi_theap_add(theap, (int64_t)after - (int64_t)before - (int64_t)charged);
  if (after < before) {
    page->fresh_zero = 0;  // what it may take again later was the program's
    _mi_purge_step();
  } else {
    theap->supplied_bytes += after - before;
    page->fresh_zero = *zero = *zero && page->fresh_zero;  // what was added may be looked at again
  }
  return true;
}
