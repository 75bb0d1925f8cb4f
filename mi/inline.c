// The library's side of mimalloc-inline.h: may a program that was compiled with that header run its own copies of the
// fast paths with this library? The header tells its layout as one number and shows a block that the program's malloc
// or heap gave it. Only if the number is ours, no block has to be checked, and the block is ours, the program learns
// where the calling thread's words are. What the header takes for granted is compared with the structures here, so that
// a change of them that the header does not follow does not compile.
#include "mi/heap/parts.h"
#include "mi/mimalloc-inline.h"
#include "mi/mimalloc.h"

_Static_assert(offsetof(mi_page_t, free) == MI_INLINE_PAGE_FREE, "the inline header's page");
_Static_assert(offsetof(mi_page_t, local_free) == MI_INLINE_PAGE_LOCAL_FREE, "the inline header's page");
_Static_assert(offsetof(mi_page_t, used) == MI_INLINE_PAGE_USED, "the inline header's page");
_Static_assert(offsetof(mi_page_t, owner) == MI_INLINE_PAGE_OWNER, "the inline header's page");
_Static_assert(offsetof(mi_inline_page_t, free) == MI_INLINE_PAGE_FREE, "as its enumeration says");
_Static_assert(offsetof(mi_inline_page_t, local_free) == MI_INLINE_PAGE_LOCAL_FREE, "as its enumeration says");
_Static_assert(offsetof(mi_inline_page_t, used) == MI_INLINE_PAGE_USED, "as its enumeration says");
_Static_assert(offsetof(mi_block_t, next) == MI_INLINE_BLOCK_NEXT, "the inline header's block");
_Static_assert(offsetof(mi_heap_t, home.region.owner) == MI_INLINE_HEAP_OWNER, "the inline header's heap");
_Static_assert(offsetof(mi_heap_t, home.theap) == MI_INLINE_HEAP_THEAP, "the inline header's heap");
_Static_assert(offsetof(mi_theap_t, direct) == 0, "the inline header takes the theap for its table");
_Static_assert(MI_DIRECT_SIZE_MAX == MI_INLINE_DIRECT_SIZE, "the inline header's table");
_Static_assert(MI_SMALL_SIZE_MAX == MI_INLINE_DIRECT_SIZE, "what the interface calls small");
_Static_assert(MI_SEGMENT_SHIFT == MI_INLINE_SEGMENT_SHIFT, "the inline header's segment");
_Static_assert(MI_SLICE_SHIFT == MI_INLINE_SLICE_SHIFT, "the inline header's slice");
_Static_assert(MI_SLICES_PER_SEGMENT == MI_INLINE_SLICES, "the inline header's segment");
_Static_assert(sizeof(mi_page_t) == (size_t)1 << MI_INLINE_PAGE_SHIFT, "the inline header's page");
_Static_assert(offsetof(mi_segment_t, slot) == 0, "the inline header takes the segment for its slots");
_Static_assert(MI_INLINE_WITH_TSAN == MI_WITH_TSAN, "both ask the compiler the same");

const char _mi_inline_side = 1;

// In secure builds the pages have no lists; in guarded ones every allocation is counted.
static bool serves(unsigned long long layout) {
  return layout == mi_inline_layout() && !MI_CHECKED && !MI_SECURE && !MI_GUARDED;
}

bool _mi_inline_thread_fill(unsigned long long layout, const void* probe, mi_inline_thread_t* thread) {
  if (!serves(layout) || mi_heap_of(probe) == NULL) return false;
  thread->id = _mi_tls.tid;
  thread->low = _mi_span.low;
  thread->size = _mi_span.size;
  thread->active = 1;
  return true;
}

const void* _mi_inline_theap_table(unsigned long long layout, const void* probe, mi_heap_t* heap) {
  if (!serves(layout) || mi_heap_of(probe) != heap) return NULL;
  return mi_heap_theap(heap);
}
