// Questions about pointers and threads: which heap a block belongs to, how large it is, which heap is the default.
#include <errno.h>

#include "mi/heap/checked.h"
#include "mi/internal/guard.h"
#include "mi/mimalloc.h"

mi_heap_t* _mi_default_heap(void) {
  mi_thread_t* const thread = mi_thread();
  if (thread == NULL || mi_load_acquire(&_mi_tls.theap->dead)) return &_mi_heap_main;
  return _mi_tls.theap->heap;
}

mi_heap_t* mi_heap_main(void) { return _mi_thread_main_heap(); }
mi_heap_t* mi_heap_get_backing(void) { return _mi_thread_main_heap(); }
mi_heap_t* mi_heap_get_default(void) { return _mi_default_heap(); }

mi_theap_t* mi_heap_theap(mi_heap_t* heap) {
  mi_thread_t* const thread = mi_thread();
  if (thread == NULL) {
    _mi_error(ENOMEM, "mi_heap_theap: the thread could not be set up\n");
    return NULL;
  }
  if (heap == NULL) heap = _mi_default_heap();
  if (heap == &_mi_heap_main) return &thread->main_theap;
  mi_part_t* const part = _mi_part_of(thread, heap);
  if (part == NULL) return NULL;
  mi_theap_t* const theap = _mi_part_theap(thread, part);
  if (theap == NULL) _mi_error(ENOMEM, "mi_heap_theap: no memory\n");
  return theap;
}

mi_theap_t* mi_theap_get_default(void) { return mi_heap_theap(NULL); }

mi_theap_t* mi_theap_set_default(mi_theap_t* theap) {
  mi_thread_t* const thread = mi_thread();
  if (thread == NULL || theap == NULL || theap->thread != thread) {
    _mi_error(EINVAL, "mi_theap_set_default: not a theap of the calling thread\n");
    return NULL;
  }
  mi_theap_t* const former = (mi_load_acquire(&_mi_tls.theap->dead) ? &thread->main_theap : _mi_tls.theap);
  if (_mi_tls.theap == theap) return former;
  mi_theap_t* const left = _mi_tls.theap;
  _mi_slot_set_default(theap);
  _mi_tls.theap = theap;
  _mi_guarded_look();
  _mi_slot_clear_default(left);
  return former;
}

mi_heap_t* mi_heap_set_default(mi_heap_t* heap) {
  mi_heap_t* const former = _mi_default_heap();
  mi_theap_t* const theap = mi_heap_theap(heap == NULL ? &_mi_heap_main : heap);
  if (theap == NULL || mi_theap_set_default(theap) == NULL) return NULL;
  return former;
}

// --- pointers -----------------------------------------------------------------------------------------------

mi_heap_t* mi_heap_of(const void* p) {
  mi_page_t* const page = _mi_page_of_any(p);
  if (page == NULL) return NULL;
  const mi_tid_t owner = mi_load_relaxed(&page->owner);
  if ((owner & MI_OWNER_INTERNAL) == MI_OWNER_INTERNAL) return NULL;
  const bool in_region = (owner & MI_OWNER_SPECIAL) != 0;
  if (in_region && _mi_region_usable(page, p) == 0) return NULL;  // a handle, free memory
  for (;;) {
    // A merged heap forwards. It stays while a page is counted for it, so what was read of it is true if the page still
    // names it afterwards; a heap further on may go when ours forwards elsewhere. The stores that undo either come
    // before the handle is cleared (release), and are read in the other order (acquire).
    mi_heap_t* const heap = (in_region ? _mi_region_of(page, p)->part->heap : mi_load_acquire(&page->heap));
    mi_heap_t* const into = mi_load_acquire(&heap->into);
    mi_heap_t* const end = (into == NULL ? heap : mi_heap_live_end(into));
    if (mi_load_acquire(&heap->into) != into || (!in_region && mi_load_acquire(&page->heap) != heap)) continue;
    if (end == &_mi_heap_main || mi_load_acquire(&end->home.id) != 0) return end;
    // No heap, or one that was closed just now: closing stores `into` before it takes the id away.
    if (mi_load_acquire(&end->into) == NULL) return NULL;
  }
}

bool mi_heap_contains(const mi_heap_t* heap, const void* p) { return p != NULL && mi_heap_of(p) == heap; }
bool mi_heap_contains_block(mi_heap_t* heap, const void* p) { return mi_heap_contains(heap, p); }
bool mi_heap_check_owned(mi_heap_t* heap, const void* p) { return mi_heap_contains(heap, p); }
bool mi_any_heap_contains(const void* p) { return p != NULL && mi_heap_of(p) != NULL; }
bool mi_check_owned(const void* p) { return mi_any_heap_contains(p); }
bool mi_is_in_heap_region(const void* p) { return mi_any_heap_contains(p); }

size_t _mi_usable_size(const void* p) {
#if MI_TAIL
  return (p == NULL ? 0 : _mi_checked_size(p));
#else
  mi_page_t* const page = (p == NULL ? NULL : _mi_page_of_any(p));
  if (mi_unlikely(page == NULL)) return (p == NULL ? 0 : _mi_policy_usable(NULL, p));
  return (mi_likely(page->policy == 0) ? _mi_block_size_in(page, p) : _mi_policy_usable(page, p));
#endif
}

size_t _mi_block_size(const void* p) { return (p == NULL ? 0 : _mi_block_size_in(_mi_page_of_any(p), p)); }

size_t _mi_block_size_in(mi_page_t* page, const void* p) {
  if (page == NULL) return 0;
  if (mi_unlikely(page->guard != 0)) return _mi_guard_size(page, p);
  if (mi_unlikely(page->policy != 0)) return _mi_policy_size(page, p);
  const mi_tid_t owner = mi_load_relaxed((_Atomic(mi_tid_t)*)&page->owner);
  if ((owner & MI_OWNER_INTERNAL) == MI_OWNER_INTERNAL) return 0;
  if ((owner & MI_OWNER_SPECIAL) != 0) return ((uintptr_t)p % 16 != 0 ? 0 : _mi_region_usable(page, p));
  if (mi_page_is_single(page)) {  // an odd offset may put the program's address a few bytes into the block
    const size_t inside = (size_t)((const uint8_t*)p - page->start);
    return (inside < sizeof(mi_block_t) ? page->block_size - inside : 0);
  }
  const size_t inside = (size_t)((const uint8_t*)p - page->start) % page->block_size;
  if ((owner & MI_OWNER_INTERIOR) != 0) return page->block_size - inside;
  return (inside == 0 ? page->block_size : 0);
}
