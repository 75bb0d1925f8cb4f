// Heaps with a policy: hardened, guarded, quarantined, wiped, zeroed, isolated, secret. The generic entry that every
// allocation in such a heap comes by, every free of its blocks, and what is said of misuse. How the state of a block is
// known is mi/internal/bit_page.c's business.
//
// A policy costs plain heaps nothing. The home part of a heap with one carries MI_OWNER_INTERIOR in its owner word, and
// the thread's cache of heaps that it is away from never holds such a heap, so that the fast path of mi_heap_malloc
// fails its one compare; direct tables of its theaps stay empty; its pages carry MI_OWNER_INTERIOR, so that the fast
// path of mi_free fails as well, and `policy` in the slot says why. There are no regions: every class begins with a
// page.
//
// Invariants:
//  * MI_HEAP_POLICY of a heap and `policy` of its theaps and pages never change while they live; a page with a policy
//    serves no heap of another policy: when its heap is deleted or merged, it may stay until its last block is freed;
//  * what was asked for is known to the byte, and bytes between there and the block's end hold a pattern that depends
//    on the block and a secret of the process, from the allocation to the free;
//  * a free looks at the address, the kind of segment, the page, the place of the block, its bits and its padding, in
//    this order, and only then touches the block.
//
// What is found wrong is one of two things. In a heap that is hardened (or isolated, or secret) it is a corruption: the
// message, the error callback, and the end of the process, whatever the callback does. In others it is advice: message
// and callback, and nothing else happens. The callback may allocate and free in the heap: it is told when the library
// is through with the block, and nothing that was looked at before is used after it. Of what is found in the midst of a
// change it is told later (_mi_freed_twice).
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "mi/heap/checked.h"
#include "mi/internal/bit_page.h"
#include "mi/internal/guard.h"
#include "mi/internal/os.h"
#include "mi/internal/space.h"

_Static_assert((int)MI_POLICY_HARDENED == (int)MI_HEAP_HARDENED && (int)MI_POLICY_GUARDED == (int)MI_HEAP_GUARDED &&
                   (int)MI_POLICY_QUARANTINE == (int)MI_HEAP_QUARANTINE && (int)MI_POLICY_WIPE == (int)MI_HEAP_WIPE &&
                   (int)MI_POLICY_ZERO == (int)MI_HEAP_ZERO && (int)MI_POLICY_ISOLATED == (int)MI_HEAP_ISOLATED &&
                   (int)MI_POLICY_SECRET == (int)MI_HEAP_SECRET,
               "the core's names for the flags");

void _mi_policy_begin(mi_heap_t* heap, uint32_t policy) {
  mi_heap_extra_t* const extra = mi_load_relaxed(mi_heap_extra_word(heap));
  extra->policy = (uint8_t)policy;
  mi_heap_set_flags(heap, mi_heap_flags(heap) | MI_HEAP_POLICY);
  _mi_part_close_young(&heap->home);
  mi_store_relaxed(&heap->home.region.owner, mi_part_owner(&heap->home) | MI_OWNER_INTERIOR);
}

bool _mi_policy_may_reclaim(const mi_theap_t* theap, const mi_heap_t* forwarder) {
  const mi_heap_extra_t* const extra = mi_heap_extra(forwarder);
  const uint32_t policy = (MI_SECURE ? MI_POLICY_SECURE : 0u) | (extra == NULL ? 0u : extra->policy);
  return policy == theap->policy && (policy & (MI_POLICY_ISOLATED | MI_POLICY_SECRET)) == 0;
}

// --- reports ----------------------------------------------------------------------------------------------------

static inline void stop_if_corrupt(void) {
  if (mi_unlikely(mi_load_relaxed(&_mi_is_corrupt))) _mi_corruption_stop();
}

// What is to be said of a mistake, at once or later.
typedef struct report_s {
  int code;
  char text[256], place[192];
} report_t;

// Does not return where misuse is a corruption. `page` NULL: it was given back, and its policy is what is known of it.
static mi_cold void report_make(report_t* report, const mi_page_t* page, uint32_t policy, int code, const char* format,
                                va_list args) {
  report->code = code;
  vsnprintf(report->text, sizeof(report->text), format, args);
  report->place[0] = 0;
  if (page != NULL) {
    const mi_heap_t* const heap = mi_load_acquire((_Atomic(mi_heap_t*)*)&page->heap);
    snprintf(report->place, sizeof(report->place), "class %zu, heap %p \"%.63s\", ", page->block_size,
             (const void*)heap, mi_heap_name(heap));
  }
  if ((policy & MI_POLICY_STOPS) != 0)
    _mi_corruption(code, "%s (%sthread %u)\n", report->text, report->place, _mi_os_thread_id());
}

static mi_cold void report_say(const report_t* report) {
  _mi_error(report->code, "%s (%sthread %u)\n", report->text, report->place, _mi_os_thread_id());
}

static mi_cold __attribute__((format(printf, 4, 5))) void misuse(const mi_page_t* page, uint32_t policy, int code,
                                                                 const char* format, ...) {
  report_t report;
  va_list args;
  va_start(args, format);
  report_make(&report, page, policy, code, format, args);
  va_end(args);
  report_say(&report);
}

// Why `p`, which lies in a page with a policy, is no live block.
static mi_cold void misuse_pointer(const char* function, const mi_page_t* page, const void* p, mi_block_state_t state) {
  mi_bits_t* const bits = mi_bits_of(page);
  const bool frees = (strncmp(function, "mi_free", 7) == 0);
  const size_t index = (bits->magic == 0 ? 0 : mi_bits_index(page, bits, p));
  if (state == MI_BLOCK_FREED && (bits->magic == 0 || index < page->capacity)) {
    misuse(page, page->policy, EAGAIN, "%s: %s %p, a block of %zu bytes", function,
           frees ? "double free of" : "use after free of", p, page->block_size);
    return;
  }
  const uint8_t its = (index < page->capacity ? mi_load_acquire(&bits->states[index]) : MI_STATE_FREE);
  if (mi_state_is_live(its)) {
    const uint8_t* const block = mi_bits_block(page, bits, index);
    misuse(page, page->policy, EINVAL, "%s: invalid pointer %p: %zd bytes into the block %p of %zu bytes", function, p,
           (const uint8_t*)p - block, (const void*)block, mi_bits_size(page, bits, index, its));
  } else {
    misuse(page, page->policy, EINVAL, "%s: invalid pointer %p: no block starts there", function, p);
  }
}

static mi_cold void misuse_gone(const char* function, const void* p, uint32_t policy) {
  misuse(NULL, policy, EAGAIN, "%s: invalid pointer %p: its page was given back, the block was freed or never was one",
         function, p);
}

void _mi_policy_check_gone(const char* function, const void* p) {
  _mi_vault_accuse(p, function);
  const uint32_t policy = (_mi_page_of_any(p) != NULL ? 0 : _mi_bits_last_policy(p));
  if (policy != 0) {
    misuse_gone(function, p, policy);
  } else if (MI_SECURE) {
    misuse(NULL, MI_POLICY_SECURE, EINVAL, "%s: invalid pointer %p: not a block of this library", function, p);
  }
}

#define FREED_TWICE "mi_free: double free of %p, a block of %zu bytes, by two threads"

void _mi_policy_freed_twice(mi_page_t* page, void* p) {
  const size_t size = page->block_size;
  if ((page->policy & MI_POLICY_STOPS) != 0) misuse(page, page->policy, EAGAIN, FREED_TWICE, p, size);
  const mi_heap_t* const heap = mi_load_acquire(&page->heap);
  _mi_freed_twice(FREED_TWICE " (class %zu, heap %p \"%.63s\", thread %u)\n", p, size, size, (const void*)heap,
                  mi_heap_name(heap), _mi_os_thread_id());
}

// The page of a pointer whose page has a policy, or NULL; what lies in a huge block may look like the slot of one.
static mi_page_t* page_of(const void* p) {
  mi_page_t* const page = _mi_page_of_any(p);
  return (page != NULL && page->policy != 0 ? page : NULL);
}

// --- padding -----------------------------------------------------------------------------------------------------

static inline size_t padding_of(const mi_page_t* page, const mi_bits_t* bits, size_t size) {
  return page->block_size - bits->inside - size;
}

// Was anything written behind a live block?
static inline bool block_is_whole(const mi_page_t* page, const mi_bits_t* bits, const mi_found_t* found,
                                  const uint8_t* block) {
  const size_t padding = padding_of(page, bits, found->size);
  return mi_page_padding_is_whole(page, block + found->size + padding, padding);
}

static mi_cold __attribute__((format(printf, 4, 5))) void report_later(report_t* report, const mi_page_t* page,
                                                                       int code, const char* format, ...) {
  va_list args;
  va_start(args, format);
  report_make(report, page, page->policy, code, format, args);
  va_end(args);
}

// It was: the report, to be said when the block is freed or resized, or is the program's as before. Else the callback
// might free the block, get it anew from the heap, and have it freed.
static mi_cold void report_overflow(report_t* report, const char* function, const mi_page_t* page,
                                    const mi_bits_t* bits, const mi_found_t* found, uint8_t* block) {
  const size_t size = found->size, padding = padding_of(page, bits, size);
  uint8_t* const end = block + size + padding;
  const size_t at = _mi_padding_breach(end, padding);
  report_later(report, page, EFAULT, "%s: overflow: byte %zu of the block %p of %zu bytes was written", function,
               size + at, (const void*)block, size);
}
// Makes what is behind it as it was, so that nobody reports it again.
static mi_cold void mend_overflow(const mi_page_t* page, const mi_bits_t* bits, const mi_found_t* found,
                                  uint8_t* block) {
  const size_t padding = padding_of(page, bits, found->size);
  mi_page_pad_live(page, block + found->size + padding, padding);
}

// --- allocation ------------------------------------------------------------------------------------------------

void* _mi_policy_alloc(mi_heap_t* heap, mi_part_t* part, const mi_request_t* request) {
  stop_if_corrupt();
  mi_thread_t* const thread = mi_thread();
  if (mi_unlikely(thread == NULL)) {
    _mi_error(ENOMEM, "no memory for %zu bytes: the thread could not be set up\n", request->size);
    return NULL;
  }
  if (mi_heap_space(heap) != NULL) return _mi_isolated_alloc(thread, heap, request);
  const bool is_main = (heap == &_mi_heap_main);
  if (part == NULL && !is_main) part = _mi_part_of(thread, heap);
  if (mi_unlikely(part == NULL && !is_main)) return NULL;
  mi_theap_t* const theap = (is_main ? &thread->main_theap : mi_load_relaxed(&part->theap));
  // What the first page has needs no slow path, or only now and then.
  if (mi_likely(theap != MI_THEAP_EMPTY && request->size <= MI_CLASS_SIZE_MAX / 2 && request->alignment <= 1 &&
                (theap->policy & MI_POLICY_GUARDED) == 0)) {
    void* const p = _mi_policy_serve_first(theap, request);
    if (mi_unlikely(thread->alarm) && p != NULL) _mi_limit_alarm(thread, heap);
    if (mi_likely(p != NULL)) return p;
  }
  return _mi_paged_alloc(thread, heap, part, request);
}

static inline size_t with_padding(const mi_theap_t* theap, size_t size) {
  const size_t need = mi_policy_need(theap->policy, size);
  return (mi_unlikely(theap->even) ? mi_round_up(need, 16) : need);  // classes of other sizes are at odd multiples of 8
}

static void* block_make(mi_theap_t* theap, mi_page_t* page, size_t size, bool zero) {
  uint8_t* block;
  while (mi_unlikely((block = mi_bits_pop(theap, page, page->bits, size)) == NULL)) _mi_bits_refill(theap, page);
  return (zero || (theap->policy & MI_POLICY_ZERO) != 0 ? memset(block, 0, size) : block);
}

void* _mi_policy_serve_first(mi_theap_t* theap, const mi_request_t* r) {
  const size_t size = r->size + (r->size == 0), need = with_padding(theap, size);
  mi_page_t* const page = theap->queue[mi_bin_of(need < 16 ? 16 : need)];
  if (page == NULL) return NULL;
  if (page->bits->avail == 0) {
    mi_thread_t* const thread = theap->thread;
    if (page->used - page->pinned >= page->capacity || mi_slow_path_is_whole(thread, theap)) return NULL;
    mi_slow_path_passed(thread);
  }
  return block_make(theap, page, size, r->zero);
}

void* _mi_policy_serve(mi_theap_t* theap, const mi_request_t* r) {
  if ((theap->policy & MI_POLICY_GUARDED) != 0) {
    mi_request_t guarded = *r;
    guarded.zero |= ((theap->policy & MI_POLICY_ZERO) != 0);
    void* const p = _mi_guarded_serve(theap, &guarded);
    if (p != NULL) return p;
  }
  const size_t alignment = (r->alignment < 16 ? 16 : r->alignment);
  const size_t size = r->size + (r->size == 0), need = with_padding(theap, size);
  if ((r->offset == 0 || r->alignment <= 1) && alignment <= MI_CLASS_SIZE_MAX && need <= MI_CLASS_SIZE_MAX) {
    // A class size is a multiple of every power of two up to its step, and blocks lie at multiples of it.
    const size_t room = (r->alignment <= 1 ? (need < 16 ? 16 : need) : mi_round_up(need, alignment));
    if (room <= MI_CLASS_SIZE_MAX) {
      mi_page_t* const page = _mi_theap_bit_page(theap, mi_bin_of(room));
      return (mi_unlikely(page == NULL) ? NULL : block_make(theap, page, size, r->zero));
    }
  }
  const bool zero = (r->zero || (theap->policy & MI_POLICY_ZERO) != 0);
  uint8_t* const p = _mi_theap_alloc_solo(theap, need, r->alignment == 0 ? 1 : r->alignment, r->offset, zero);
  if (mi_unlikely(p == NULL)) return NULL;
  mi_page_t* const page = _mi_page_of_any(p);
  mi_bits_set_size(page, page->bits, 0, size);
  mi_page_pad_live(page, page->start + page->block_size, padding_of(page, page->bits, size));
  return p;
}

// --- freeing -----------------------------------------------------------------------------------------------------

// Frees what was found to be a live block. `heap`: see block_free. In a heap that wipes, the block is the caller's
// alone before it is written to, whoever frees it too at the moment.
static inline void block_end(mi_page_t* page, mi_bits_t* bits, const mi_found_t* found, uint8_t* block,
                             mi_heap_t* heap) {
  const uint32_t policy = page->policy;
  const size_t size = page->block_size, room = size - bits->inside;
  const bool wipes = (policy & MI_POLICY_WIPES) != 0;
  const bool is_own = ((mi_load_relaxed(&page->owner) & ~MI_OWNER_FLAGS) == _mi_tls.tid);
  if ((is_own && !wipes) || mi_likely(_mi_bits_change(bits, found, MI_STATE_REMOTE))) {
    if (mi_unlikely(wipes)) _mi_wipe(block, room);
    if (is_own) {
      _mi_bits_free_local(page, bits, found->index);
      mi_freed_twice_tell(_mi_tls.thread, heap);
      return;
    }
    if (mi_likely(_mi_bits_tell(bits, found))) return;
  }
  misuse(NULL, policy, EAGAIN, FREED_TWICE, (void*)block, size);
}

static mi_cold void overrun_end(mi_page_t* page, mi_bits_t* bits, const mi_found_t* found, uint8_t* block,
                                mi_heap_t* heap) {
  report_t report;
  report_overflow(&report, "mi_free", page, bits, found, block);
  block_end(page, bits, found, block, heap);
  report_say(&report);
}

// `heap`: what the call is for, and may not end in a callback; the main one: the call ends with this.
static void block_free(void* p, mi_heap_t* heap) {
  stop_if_corrupt();
  mi_page_t* const page = page_of(p);
  if (mi_unlikely(page == NULL)) {
    const uint32_t policy = _mi_bits_last_policy(p);
    if (policy != 0) {
      misuse_gone("mi_free", p, policy);
    } else {
      _mi_misuse(EINVAL, "mi_free: invalid pointer %p: not a block of this library", p);
    }
    return;
  }
  if (page->kind == MI_PAGE_SPACE) {
    _mi_space_free(page, p);
    return;
  }
  mi_bits_t* const bits = mi_bits_of(page);
  mi_found_t found;
  const mi_block_state_t state = mi_bits_find(page, bits, p, &found);
  if (mi_unlikely(state != MI_BLOCK_LIVE)) {
    misuse_pointer("mi_free", page, p, state);
    return;
  }
  if (mi_likely(block_is_whole(page, bits, &found, p))) {
    block_end(page, bits, &found, p, heap);
  } else {
    overrun_end(page, bits, &found, p, heap);
  }
}

void _mi_policy_free(void* p) { block_free(p, &_mi_heap_main); }

// What the program asked for: in padded builds the core's block has a tail besides.
static size_t size_asked(mi_page_t* page, const void* p) {
#if MI_TAIL
  (void)page;
  return _mi_checked_size(p);
#else
  return _mi_policy_size(page, p);
#endif
}

void _mi_free_sized_slow(void* p, size_t size) {
#if MI_SECURE
  if (mi_likely(_mi_bits_free_plain(p, &size))) return;
#endif
  mi_page_t* const page = (p == NULL ? NULL : page_of(p));
  size_t its = 0;
  if (page != NULL && page->kind != MI_PAGE_SPACE) {
    its = size_asked(page, p);
  } else if (page != NULL && (page->policy & MI_POLICY_HARDENED) != 0) {  // of other isolated heaps' it is not known
    its = _mi_space_block_size(page, p, "mi_free_size");
  }
  if (mi_unlikely(its != 0 && its != size + (size == 0))) {
    misuse(page, page->policy, EINVAL, "mi_free_size: the block %p is one of %zu bytes, not of %zu", p, its, size);
    return;
  }
  _mi_free_slow(p);
}

// --- sizes -------------------------------------------------------------------------------------------------------

size_t _mi_policy_size(mi_page_t* page, const void* p) {
  if (page->kind == MI_PAGE_SPACE) return _mi_space_block_size(page, p, "mi_usable_size");
  mi_found_t found;
  return (mi_bits_find(page, mi_bits_of(page), p, &found) == MI_BLOCK_LIVE ? found.size : 0);
}

size_t _mi_policy_usable(mi_page_t* page, const void* p) {
  if (mi_unlikely(page == NULL)) {
    _mi_policy_check_gone("mi_usable_size", p);
    return 0;
  }
  const size_t size = _mi_policy_size(page, p);
  if (mi_unlikely(size == 0)) {
    mi_found_t found;
    misuse_pointer("mi_usable_size", page, p, mi_bits_find(page, mi_bits_of(page), p, &found));
  }
  return size;
}

// --- resizing ----------------------------------------------------------------------------------------------------

// May a block of the page become one of `size` bytes where it is? Not if another class would serve it, and of blocks
// alone in their pages not if half of it were unused.
static bool fits_in_place(const mi_page_t* page, const mi_bits_t* bits, size_t size) {
  const size_t need = mi_policy_need(page->policy, size);
  if (!mi_bits_fits(page, bits, need)) return false;
  if (bits->magic == 0) return need > MI_CLASS_SIZE_MAX && need >= page->block_size / 2;
  return need >= page->block_size / 2;
}

// False: another thread freed the block since it was found, which is reported.
static bool block_resize(const char* function, mi_page_t* page, mi_bits_t* bits, const mi_found_t* found,
                         uint8_t* block, size_t size, bool zero) {
  const size_t former = found->size;
  if (mi_unlikely(!_mi_bits_resize(page, bits, found, size))) {
    misuse_pointer(function, page, block, MI_BLOCK_FREED);
    return false;
  }
  if (size < former && (page->policy & MI_POLICY_WIPES) != 0) _mi_wipe(block + size, former - size);
  if (size > former && (zero || (page->policy & MI_POLICY_ZERO) != 0)) memset(block + former, 0, size - former);
  const size_t padding = padding_of(page, bits, size);
  mi_page_pad_live(page, block + size + padding, padding);
  return true;
}

// Guarded blocks, which no bits tell of, always move.
static void* guarded_realloc(mi_heap_t* heap, mi_page_t* page, void* p, size_t newsize, size_t alignment, size_t offset,
                             bool zero, const void* frame) {
  const size_t size = _mi_guard_size(page, p);
  if (mi_unlikely(size == 0)) {
    if (!_mi_guard_misused("realloc", p, frame)) _mi_error(EINVAL, "realloc of %p refused: not a live block\n", p);
    errno = EINVAL;
    return NULL;
  }
  if (heap == NULL) heap = mi_heap_of(p);
  void* const q = _mi_heap_alloc_aligned(heap, newsize, alignment, offset, zero);
  if (mi_unlikely(q == NULL)) return NULL;
  memcpy(q, p, newsize < size ? newsize : size);
  _mi_free_slow(p);
  return q;
}

static mi_cold void* overrun_realloc(mi_heap_t* heap, mi_page_t* page, void* p, const mi_found_t* found, size_t newsize,
                                     size_t alignment, size_t offset, bool zero) {
  report_t report;
  report_overflow(&report, "realloc", page, mi_bits_of(page), found, p);
  mend_overflow(page, mi_bits_of(page), found, p);
  void* const q = _mi_policy_realloc(heap, page, p, newsize, alignment, offset, zero);
  report_say(&report);
  return q;
}

void* _mi_policy_realloc(mi_heap_t* heap, mi_page_t* page, void* p, size_t newsize, size_t alignment, size_t offset,
                         bool zero) {
  MI_KEEP_FRAME();
  if (page->guard != 0) return guarded_realloc(heap, page, p, newsize, alignment, offset, zero, MI_FRAME);
  if (page->kind == MI_PAGE_SPACE) return _mi_isolated_realloc(heap, page, p, newsize, alignment, offset, zero);
  mi_bits_t* const bits = mi_bits_of(page);
  mi_found_t found;
  const mi_block_state_t state = mi_bits_find(page, bits, p, &found);
  if (mi_unlikely(state != MI_BLOCK_LIVE)) {
    misuse_pointer("realloc", page, p, state);
    errno = EINVAL;
    return NULL;
  }
  if (mi_unlikely(!block_is_whole(page, bits, &found, p)))
    return overrun_realloc(heap, page, p, &found, newsize, alignment, offset, zero);
  const size_t size = found.size;
  const bool aligned = (((uintptr_t)p + offset) & (alignment - 1)) == 0;
  if (aligned && newsize > 0 && fits_in_place(page, bits, newsize)) {
    if (mi_likely(block_resize("realloc", page, bits, &found, p, newsize, zero))) return p;
    errno = EINVAL;
    return NULL;
  }
  if (heap == NULL) heap = mi_heap_of(p);
  void* const q = _mi_heap_alloc_aligned(heap, newsize, alignment, offset, zero);
  if (mi_unlikely(q == NULL)) return NULL;
  memcpy(q, p, newsize < size ? newsize : size);
  block_free(p, heap);  // looked at anew: the allocation may have called back
  return q;
}

static mi_cold void* overrun_expand(mi_page_t* page, void* p, const mi_found_t* found, size_t newsize) {
  report_t report;
  report_overflow(&report, "mi_expand", page, mi_bits_of(page), found, p);
  mend_overflow(page, mi_bits_of(page), found, p);
  void* const q = _mi_policy_expand(page, p, newsize);
  report_say(&report);
  return q;
}

void* _mi_policy_expand(mi_page_t* page, void* p, size_t newsize) {
  if (page->kind == MI_PAGE_SPACE) return (_mi_space_resize(page, p, newsize, false, true, "mi_expand") ? p : NULL);
  mi_bits_t* const bits = mi_bits_of(page);
  mi_found_t found;
  const mi_block_state_t state = mi_bits_find(page, bits, p, &found);
  if (mi_unlikely(state != MI_BLOCK_LIVE)) {
    misuse_pointer("mi_expand", page, p, state);
    return NULL;
  }
  if (mi_unlikely(!block_is_whole(page, bits, &found, p))) return overrun_expand(page, p, &found, newsize);
  if (newsize == 0) newsize = 1;
  const size_t need = mi_policy_need(page->policy, newsize);
  if (!mi_bits_fits(page, bits, need)) return NULL;
  return (block_resize("mi_expand", page, bits, &found, p, newsize, false) ? p : NULL);
}
