// Allocation in heaps: the fast path for the heap's home thread, the way to the calling thread's part for others, the
// choice between the young part and pages, alignment, and resizing.
//
// The hot functions hold the common path only: one compare (is the calling thread at home in the heap?), the direct
// table, and the pop. A heap without pages has the empty theap, whose table leads to the empty page, so that a young
// heap takes the slow path without a test of its own.
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "mi/heap/checked.h"
#include "mi/heap/table.h"
#include "mi/internal/bit_page.h"
#include "mi/internal/guard.h"
#include "mi/internal/os.h"
#include "mi/internal/trace.h"

// --- the slow path ----------------------------------------------------------------------------------------

#define MI_PURGE_EVERY 64

// A heap whose embedded region is shut, so that its first allocation comes here: no callback of it is due.
static inline bool has_allocated_nothing(mi_heap_t* heap) {
  const mi_part_t* const home = &heap->home;
  return home->young == 0 && home->is_shut != 0 && mi_region_is_mine(&home->region) &&
         mi_load_relaxed((_Atomic(mi_slot_t*)*)&home->slot) == NULL;
}

void _mi_slow_path(mi_thread_t* thread, mi_heap_t* heap) {
  thread->heartbeat++;
  if (mi_unlikely(mi_load_relaxed(&thread->mail) != 0)) {
    _mi_thread_read_mail(thread);
    _mi_table_answer(thread);
  }
  const uint8_t armed = mi_load_relaxed(&_mi_deferred_armed);
  if (mi_unlikely(armed != 0) && (armed != MI_ARMED_HEAPS || !has_allocated_nothing(heap)))
    _mi_deferred_step(thread, heap);
#if MI_GUARDED
  _mi_guarded_step(thread);
#endif
  if (mi_unlikely(++thread->generic_count % MI_PURGE_EVERY == 0)) {
    _mi_purge_step();
    _mi_forwarders_step(&_mi_heap_main);
    _mi_table_answer(thread);  // the thread may have begun after the request
    _mi_handle_idle_step(thread);
  } else if (mi_unlikely(mi_load_relaxed(&_mi_tick_state) == MI_TICK_STOPPED)) {
    _mi_purge_go_on();
  }
}

static inline void* page_take(mi_page_t* page, mi_block_t* block, bool zero) {
  mi_page_pop(page, block);
  if (zero) {
    if (page->free_zero) {
      block->next = NULL;
    } else {
      memset(block, 0, page->block_size);
    }
  }
  return block;
}

// Room of a page that was never used, for blocks of more than 1 KiB; NULL: a limit forbids it.
static mi_noinline void* page_pop_fresh(mi_theap_t* theap, mi_page_t* page, bool zero) {
  if (!mi_theap_charge(theap, page->block_size)) return NULL;
  uint32_t index = page->capacity + page->color;
  if (index >= page->reserved) index -= page->reserved;
  mi_block_t* const block = (mi_block_t*)(page->start + index * page->block_size);
  page->capacity++;
  page->used++;
  if (zero && !page->fresh_zero) memset(block, 0, page->block_size);
  if (mi_unlikely(theap->thread->alarm)) _mi_limit_alarm(theap->thread, theap->heap);
  return block;
}

// From the first page of a class, if that has a free block or (for blocks of more than 1 KiB, of which a page holds
// few) room that was never used. Not a slow path: that comes when the page has neither.
static inline void* theap_pop_class(mi_theap_t* theap, size_t bin, bool zero) {
  mi_page_t* const page = theap->queue[mi_theap_bin(theap, bin)];
  if (page == NULL) return NULL;
  mi_block_t* const block = page->free;
  if (block != NULL) return page_take(page, block, zero);
  if (page->block_size <= MI_DIRECT_SIZE_MAX || page->local_free != NULL || page->capacity >= page->reserved)
    return NULL;
  return page_pop_fresh(theap, page, zero);
}

#if MI_SECURE
// The available blocks of the direct table's page have run dry, and it has others.
static inline void* theap_next_word(mi_theap_t* theap, size_t size, bool zero) {
  mi_thread_t* const thread = theap->thread;  // NULL: the empty theap
  if (mi_unlikely(thread == NULL) || mi_slow_path_is_whole(thread, theap)) return NULL;
  void* const p = _mi_bits_pop_next(theap, size);
  if (mi_unlikely(p == NULL)) return NULL;
  mi_slow_path_passed(thread);
  return (zero ? memset(p, 0, size) : p);
}
#else
// The direct table's page has run dry, and it or the next has blocks that the thread freed since: that page, with free
// blocks; NULL: another case. Where every allocation is looked at, the table leads to no page.
static inline __attribute__((always_inline)) mi_page_t* theap_turn_page(mi_theap_t* theap, size_t size) {
  if (MI_CHECKED || MI_GUARDED || mi_unlikely(size > MI_DIRECT_SIZE_MAX)) return NULL;
  mi_page_t* page = theap->direct[(size + 7) / 8];
  if (page->free != NULL || !mi_page_may_turn(page)) return NULL;
  mi_thread_t* const thread = theap->thread;
  if (mi_slow_path_is_whole(thread, theap)) return NULL;
  if (mi_likely(mi_page_turns_at_once(page))) {
    page->retire = 0;
    mi_page_is_dry_no_more(theap, page);
    mi_theap_supply(theap, page, mi_page_turn(page));
  } else {
    page = _mi_theap_turn(theap, page);
    if (mi_unlikely(page == NULL)) return NULL;
  }
  mi_slow_path_passed(thread);
  return page;
}
#endif

void* _mi_theap_serve(mi_theap_t* theap, const mi_request_t* r) {
  if (mi_likely(r->alignment <= 1)) return mi_theap_alloc(theap, r->size, r->zero);
  if (r->offset == 0 && r->alignment <= MI_CLASS_SIZE_MAX) {
    // A class size is a multiple of every power of two up to its step, and blocks lie at multiples of it.
    const size_t size = mi_round_up(r->size == 0 ? 1 : r->size, r->alignment);
    if (size <= MI_CLASS_SIZE_MAX) return _mi_theap_alloc_class(theap, mi_bin_of(size), r->zero);
  }
  if (r->offset != 0 && r->size <= MI_CLASS_SIZE_MAX && r->alignment <= MI_CLASS_SIZE_MAX - r->size) {
    uint8_t* const block = _mi_theap_alloc_class(theap, mi_bin_of(r->size + r->alignment), r->zero);
    if (block == NULL) return NULL;
    uint8_t* const p = (uint8_t*)(mi_round_up((uintptr_t)block + r->offset, r->alignment) - r->offset);
    if (p != block) {
      mi_page_t* page = mi_slot_of(block);
      if (page->kind == MI_PAGE_TAIL) page -= page->distance;
      _mi_page_mark_interior(page);
    }
    return p;
  }
  return _mi_theap_alloc_solo(theap, r->size, r->alignment, r->offset, r->zero);
}

// The part's theap. A heap at its limit does not get one for nothing.
static inline mi_theap_t* part_theap_for(mi_thread_t* thread, mi_part_t* part, size_t size) {
  mi_theap_t* const theap = mi_load_relaxed(&part->theap);
  if (mi_likely(theap != MI_THEAP_EMPTY)) return theap;
  mi_account_t* const account = mi_account_of(part->heap);
  if (account != NULL && size <= MI_AMOUNT_MAX && !_mi_account_fits(account, size)) return NULL;
  return _mi_part_theap(thread, part);
}

// From pages: of the part's theap, or the thread's main theap.
mi_noinline void* _mi_paged_alloc(mi_thread_t* thread, mi_heap_t* heap, mi_part_t* part, const mi_request_t* r) {
  if (mi_unlikely(r->size > MI_ALLOC_MAX)) {
    _mi_error(ENOMEM, "allocation of %zu bytes refused: larger than PTRDIFF_MAX\n", r->size);
    return NULL;
  }
  _mi_slow_path(thread, heap);
  mi_limit_tries_t limit_tries = {0, 0, 0};
  for (int tries = 0;; tries++) {
    thread->refusal.heap = NULL;
    mi_theap_t* const theap = (part == NULL ? &thread->main_theap : part_theap_for(thread, part, r->size));
    if (mi_likely(theap != NULL)) {
      _mi_theap_tidy(theap);
      // A heap that lives on pages opens no regions any more, which is when empty ones are met.
      if (part != NULL && theap->tidy_count % 4 == 0) _mi_part_release_step(part);
      void* const p = (mi_likely(theap->policy == 0) ? _mi_theap_serve(theap, r) : _mi_policy_serve(theap, r));
      if (mi_likely(p != NULL)) {
        if (mi_unlikely(thread->alarm)) _mi_limit_alarm(thread, heap);
        return p;
      }
    }
    if (mi_unlikely(thread->refusal.heap != NULL)) {
      if (!_mi_limit_try_again(thread, heap, r->size, &limit_tries)) return NULL;
      tries--;
      continue;
    }
    if (tries == 1) break;
    // Out of memory. The program may have something to give, and so may we.
    _mi_deferred_call(thread, heap, true);
    _mi_thread_collect(thread, true);
    _mi_abandoned_sweep(&_mi_heap_main, false);
    _mi_guard_release_withheld();
    _mi_purge(true);
  }
  _mi_error(ENOMEM, "no memory for %zu bytes\n", r->size);
  return NULL;
}

mi_noinline void* _mi_part_malloc_paged(mi_part_t* part, size_t size, bool zero) {
  // A class has earned pages: the direct table is worth a look from now on.
  if (size <= MI_YOUNG_SIZE_MAX) mi_store_relaxed(&part->region.owner, mi_part_owner(part));
  const mi_request_t r = {.size = size, .alignment = 1, .zero = zero};
  return _mi_paged_alloc(_mi_tls.thread, part->heap, part, &r);
}

// In a heap with a policy; called as the last thing, so that the trace of a guarded block begins with who allocates.
static mi_noinline void* policy_malloc(mi_heap_t* heap, mi_part_t* part, size_t size, bool zero) {
  const mi_request_t r = {.size = size, .alignment = 1, .zero = zero, .frame = MI_FRAME};
  return _mi_policy_alloc(heap, part, &r);
}

// In a part that the calling thread owns, when the direct table had nothing.
static mi_noinline void* part_alloc(mi_part_t* part, size_t size, bool zero) {
  if (mi_unlikely(mi_heap_has_policy(part->heap))) return policy_malloc(part->heap, part, size, zero);
  mi_theap_t* const theap = mi_load_relaxed(&part->theap);
#if !MI_SECURE
  mi_page_t* const page = theap_turn_page(theap, size);
  if (page != NULL) return page_take(page, page->free, zero);
#endif
  if (mi_likely(size <= MI_CLASS_SIZE_MAX)) {
    if ((MI_CHECKED || size > MI_DIRECT_SIZE_MAX) && theap != MI_THEAP_EMPTY) {
      void* const p = theap_pop_class(theap, mi_bin_of(size), zero);
      if (p != NULL) return p;
    }
    void* const p = _mi_young_alloc(part, size, 16, zero);
    if (mi_likely(p != NULL)) return p;
  }
  return _mi_part_malloc_paged(part, size, zero);
}

static mi_cold void* no_record(size_t size) {
  _mi_error(ENOMEM, "no memory for %zu bytes: the thread could not be set up\n", size);
  return NULL;
}

// The calling thread's default heap was destroyed by another thread: back to the main heap.
static void leave_dead_default(mi_thread_t* thread) {
  mi_theap_t* const former = _mi_tls.theap;
  if (!mi_load_acquire(&former->dead)) return;
  _mi_tls.theap = &thread->main_theap;
  _mi_slot_clear_default(former);
}

static inline void* malloc_generic(mi_theap_t* theap, size_t size, bool zero) {
#if MI_SECURE
  void* const next = theap_next_word(theap, size, zero);
  if (mi_likely(next != NULL)) return next;
#endif
  mi_thread_t* const thread = mi_thread();
  if (mi_unlikely(thread == NULL)) return no_record(size);
  if (mi_unlikely(theap == MI_THEAP_EMPTY || mi_load_acquire(&theap->dead))) {
    leave_dead_default(thread);
    theap = _mi_tls.theap;
  }
  if (theap->part != NULL) return part_alloc(theap->part, size, zero);
#if MI_SECURE
  return _mi_policy_alloc(&_mi_heap_main, NULL, &(mi_request_t){.size = size, .alignment = 1, .zero = zero});
#else
  if ((MI_CHECKED || MI_GUARDED || size > MI_DIRECT_SIZE_MAX) && size <= MI_CLASS_SIZE_MAX) {
    void* const p = theap_pop_class(theap, mi_bin_of(size), zero);
    if (mi_likely(p != NULL)) return p;
  }
  const mi_request_t r = {.size = size, .alignment = 1, .zero = zero};
  return _mi_paged_alloc(thread, &_mi_heap_main, NULL, &r);
#endif
}

static mi_noinline void* malloc_unguarded(size_t size, mi_theap_t* theap, bool zero) {
#if MI_CHECKED
  return _mi_checked_alloc(&(mi_request_t){.theap = theap, .size = size, .zero = zero});
#else
  return malloc_generic(theap, size, zero);
#endif
}

#if MI_GUARDED
static mi_noinline void* malloc_due(size_t size, mi_theap_t* theap, bool zero) {
  void* const p = _mi_guarded_alloc(&(mi_request_t){.theap = theap, .size = size, .zero = zero, .frame = MI_FRAME});
  return (p != NULL ? p : malloc_unguarded(size, theap, zero));
}
#endif

mi_noinline void* _mi_malloc_generic(size_t size, mi_theap_t* theap, bool zero) {
#if MI_GUARDED
  if (mi_unlikely(_mi_tls.guard_countdown == 0)) return malloc_due(size, theap, zero);
#elif !MI_SECURE
  mi_page_t* const page = theap_turn_page(theap, size);
  if (mi_likely(page != NULL)) return page_take(page, page->free, zero);
#endif
  return malloc_unguarded(size, theap, zero);
}

static inline void* theap_pop(mi_theap_t* theap, size_t size, bool zero) {
#if MI_SECURE
  mi_page_t* const direct = mi_bits_direct_page(theap, size);
  if (mi_unlikely(direct == NULL)) return NULL;
  void* const p = mi_bits_pop_direct(direct, size);
  return (zero ? memset(p, 0, size) : p);
#endif
  if (mi_unlikely(size > MI_DIRECT_SIZE_MAX)) return NULL;
  mi_page_t* const page = theap->direct[(size + 7) / 8];
  mi_block_t* const block = page->free;
  return (mi_likely(block != NULL) ? page_take(page, block, zero) : NULL);
}

// For a thread that is not at home in the heap.
static inline mi_theap_t* theap_away(mi_thread_t* thread, mi_heap_t* heap, mi_part_t** part) {
  if (heap == &_mi_heap_main) {
    *part = NULL;
    return &thread->main_theap;
  }
  *part = _mi_part_of(thread, heap);
  if (mi_unlikely(*part == NULL)) return NULL;
  // The id is never used again: who finds it in the handle finds the heap that the part belongs to.
  _mi_tls.away_heap = heap;
  _mi_tls.away_id = mi_load_relaxed(&heap->home.id);
  _mi_tls.away_part = *part;
  return mi_load_relaxed(&(*part)->theap);
}

static mi_noinline void* heap_alloc_away(mi_heap_t* heap, size_t size, bool zero) {
  mi_thread_t* const thread = mi_thread();
  if (mi_unlikely(thread == NULL)) return no_record(size);
  if (mi_unlikely(mi_heap_is_generic(heap))) return policy_malloc(heap, NULL, size, zero);
  mi_part_t* part;
  mi_theap_t* const theap = theap_away(thread, heap, &part);
  if (mi_unlikely(theap == NULL)) return NULL;
  void* const p = theap_pop(theap, size, zero);
  if (mi_likely(p != NULL)) return p;
  if (part != NULL) return part_alloc(part, size, zero);
  if (MI_SECURE) return malloc_generic(&thread->main_theap, size, zero);
  const mi_request_t r = {.size = size, .alignment = 1, .zero = zero};
  return _mi_paged_alloc(thread, &_mi_heap_main, NULL, &r);
}

static inline __attribute__((always_inline)) void* heap_alloc(mi_heap_t* heap, size_t size, bool zero) {
  const mi_tid_t owner = mi_load_relaxed(&heap->home.region.owner) ^ _mi_tls.tid;
  if (!MI_SECURE && owner == MI_OWNER_YOUNG) {
    return (zero ? part_alloc(&heap->home, size, zero) : mi_young_malloc(&heap->home, size));
  }
  mi_part_t* part = &heap->home;
  if (mi_unlikely(owner != 0)) {
    if (_mi_tls.away_heap != heap || mi_load_relaxed(&heap->home.id) != _mi_tls.away_id) {
      return heap_alloc_away(heap, size, zero);
    }
    part = _mi_tls.away_part;
  }
  if (MI_SECURE) {
    void* const p = theap_pop(mi_load_relaxed(&part->theap), size, zero);
    if (mi_likely(p != NULL)) return p;
  } else if (mi_likely(size <= MI_DIRECT_SIZE_MAX)) {
    mi_page_t* const page = mi_load_relaxed(&part->theap)->direct[(size + 7) / 8];
    mi_block_t* const block = page->free;
    if (mi_likely(block != NULL)) return page_take(page, block, zero);
    // A class without pages is still young (or its pages went back: then regions serve as well).
    if (page == MI_PAGE_EMPTY && !zero) return mi_young_malloc(part, size);
  }
  return part_alloc(part, size, zero);
}

void* _mi_heap_alloc(mi_heap_t* heap, size_t size, bool zero) {
  return (zero ? mi_heap_zalloc(heap, size) : mi_heap_malloc(heap, size));
}

#if MI_CHECKED
static void* heap_alloc_checked(mi_heap_t* heap, size_t size, bool zero) {
  return _mi_checked_alloc(&(mi_request_t){.heap = heap, .size = size, .zero = zero});
}
#else
#define heap_alloc_checked heap_alloc
#endif

#if MI_GUARDED
static mi_noinline void* heap_alloc_due(mi_heap_t* heap, size_t size, bool zero) {
  void* const p = _mi_guarded_alloc(&(mi_request_t){.heap = heap, .size = size, .zero = zero, .frame = MI_FRAME});
  return (p != NULL ? p : heap_alloc_checked(heap, size, zero));
}

static inline void* heap_alloc_counted(mi_heap_t* heap, size_t size, bool zero) {
  return (mi_guarded_tick_heap(heap) ? heap_alloc_due(heap, size, zero) : heap_alloc_checked(heap, size, zero));
}
#else
#define heap_alloc_counted heap_alloc_checked
#endif

void* mi_heap_malloc(mi_heap_t* heap, size_t size) { return heap_alloc_counted(heap, size, false); }
void* mi_heap_malloc_small(mi_heap_t* heap, size_t size) { return mi_heap_malloc(heap, size); }
void* mi_heap_zalloc(mi_heap_t* heap, size_t size) { return heap_alloc_counted(heap, size, true); }
void* mi_heap_zalloc_small(mi_heap_t* heap, size_t size) { return mi_heap_zalloc(heap, size); }

bool _mi_count_size(size_t count, size_t size, size_t* total) {
  if (mi_likely(!mi_mul_overflow(count, size, total))) return true;
  _mi_error(EOVERFLOW, "allocation of %zu times %zu bytes refused: the product overflows\n", count, size);
  return false;
}

void* mi_heap_calloc(mi_heap_t* heap, size_t count, size_t size) {
  size_t total;
  return (_mi_count_size(count, size, &total) ? mi_heap_zalloc(heap, total) : NULL);
}
void* mi_heap_mallocn(mi_heap_t* heap, size_t count, size_t size) {
  size_t total;
  return (_mi_count_size(count, size, &total) ? mi_heap_malloc(heap, total) : NULL);
}

// --- alignment ------------------------------------------------------------------------------------------------

static inline void* heap_alloc_aligned(mi_heap_t* heap, size_t size, size_t alignment, size_t offset, bool zero) {
  if (mi_unlikely(!mi_is_power_of_two(alignment))) {
    _mi_error(EINVAL, "allocation of %zu bytes refused: alignment %zu is not a power of two\n", size, alignment);
    return NULL;
  }
  if (mi_unlikely(size > MI_ALLOC_MAX || alignment > MI_ALLOC_MAX / 2)) {
    _mi_error(ENOMEM, "allocation of %zu bytes aligned to %zu refused: too large\n", size, alignment);
    return NULL;
  }
  offset &= alignment - 1;
  if (mi_unlikely(mi_heap_has_policy(heap)))
    return _mi_policy_alloc(heap, NULL, &(mi_request_t){NULL, heap, size, alignment, offset, zero, MI_FRAME});
  if (offset == 0 && alignment <= 16) {
    // Small classes are multiples of their step only.
    if (alignment == 16 && size < 128) size = mi_round_up(size + (size == 0), 16);
    return (MI_CHECKED || MI_GUARDED ? heap_alloc(heap, size, zero) : _mi_heap_alloc(heap, size, zero));
  }
  mi_thread_t* const thread = mi_thread();
  if (mi_unlikely(thread == NULL)) return no_record(size);
  mi_part_t* part = NULL;
  if (heap != &_mi_heap_main) {
    part = (mi_region_is_mine(&heap->home.region) ? &heap->home : _mi_part_of(thread, heap));
    if (part == NULL) return NULL;
    if (offset == 0 && alignment <= 256 && size <= MI_DIRECT_SIZE_MAX) {
      void* const p = _mi_young_alloc(part, size, alignment, zero);
      if (p != NULL) return p;
    }
  }
  const mi_request_t r = {NULL, heap, size, alignment, offset, zero, NULL};
  return _mi_paged_alloc(thread, heap, part, &r);
}

void* _mi_heap_alloc_aligned(mi_heap_t* heap, size_t size, size_t alignment, size_t offset, bool zero) {
#if MI_GUARDED
  if (mi_guarded_tick_heap(heap) && mi_is_power_of_two(alignment)) {
    void* const p =
        _mi_guarded_alloc(&(mi_request_t){NULL, heap, size, alignment, offset & (alignment - 1), zero, MI_FRAME});
    if (p != NULL) return p;
  }
#endif
#if MI_CHECKED
  if (mi_is_power_of_two(alignment))
    return _mi_checked_alloc(&(mi_request_t){NULL, heap, size, alignment, offset, zero, NULL});
#endif
  return heap_alloc_aligned(heap, size, alignment, offset, zero);
}

#if MI_CHECKED
void* _mi_unchecked_alloc(const mi_request_t* r) {
  if (r->alignment != 0) return heap_alloc_aligned(r->heap, r->size, r->alignment, r->offset, r->zero);
  return (r->theap != NULL ? malloc_generic(r->theap, r->size, r->zero) : heap_alloc(r->heap, r->size, r->zero));
}
#endif

void* mi_heap_malloc_aligned_at(mi_heap_t* heap, size_t size, size_t alignment, size_t offset) {
  return _mi_heap_alloc_aligned(heap, size, alignment, offset, false);
}
void* mi_heap_malloc_aligned(mi_heap_t* heap, size_t size, size_t alignment) {
  return _mi_heap_alloc_aligned(heap, size, alignment, 0, false);
}
void* mi_heap_zalloc_aligned_at(mi_heap_t* heap, size_t size, size_t alignment, size_t offset) {
  return _mi_heap_alloc_aligned(heap, size, alignment, offset, true);
}
void* mi_heap_zalloc_aligned(mi_heap_t* heap, size_t size, size_t alignment) {
  return _mi_heap_alloc_aligned(heap, size, alignment, 0, true);
}
void* mi_heap_calloc_aligned_at(mi_heap_t* heap, size_t count, size_t size, size_t alignment, size_t offset) {
  size_t total;
  return (_mi_count_size(count, size, &total) ? _mi_heap_alloc_aligned(heap, total, alignment, offset, true) : NULL);
}
void* mi_heap_calloc_aligned(mi_heap_t* heap, size_t count, size_t size, size_t alignment) {
  return mi_heap_calloc_aligned_at(heap, count, size, alignment, 0);
}

// --- resizing ---------------------------------------------------------------------------------------------------

// A large block grows or shrinks where it is; with `zero`, what lies beyond the smaller of both sizes is zero.
bool _mi_single_resize(mi_heap_t* heap, mi_page_t* page, void* p, size_t newsize, size_t usable, bool zero) {
  mi_heap_t* const its = mi_load_relaxed(&page->heap);
  bool is_zero;
  if (newsize > MI_ALLOC_MAX || (heap != NULL && heap != its) ||
      !_mi_page_resize(page, (size_t)((uint8_t*)p - page->start) + newsize, &is_zero))
    return false;
  if (mi_unlikely(_mi_tls.thread->alarm)) _mi_limit_alarm(_mi_tls.thread, its);
  const size_t now = _mi_block_size_in(page, p), from = (newsize < usable ? newsize : usable);
  if (zero && now > from && (newsize < usable || !is_zero)) memset((uint8_t*)p + from, 0, now - from);
  // A thread that does nothing but resize one block has its heartbeat too.
  _mi_slow_path(_mi_tls.thread, mi_load_relaxed(&its->state) == MI_HEAP_OPEN ? its : &_mi_heap_main);
  return true;
}

void* _mi_heap_realloc_any(mi_heap_t* heap, void* p, size_t newsize, size_t alignment, size_t offset, bool zero) {
  MI_KEEP_FRAME();
  if (p == NULL) {
    return _mi_heap_alloc_aligned(heap != NULL ? heap : _mi_default_heap(), newsize, alignment, offset, zero);
  }
  if (mi_unlikely(!mi_is_power_of_two(alignment))) {
    _mi_error(EINVAL, "realloc refused: alignment %zu is not a power of two\n", alignment);
    return NULL;
  }
#if MI_TAIL
  return _mi_checked_realloc(heap, p, newsize, alignment, offset, zero);
#endif
  mi_page_t* const page = _mi_page_of_any(p);
  if (mi_unlikely(page != NULL && (page->policy != 0 || page->guard != 0)))
    return _mi_policy_realloc(heap, page, p, newsize, alignment, offset, zero);
  const size_t usable = _mi_block_size_in(page, p);
  if (mi_unlikely(usable == 0)) {
    _mi_policy_check_gone("realloc", p);
    _mi_error(EINVAL, "realloc of %p refused: not a live block\n", p);
    return NULL;
  }
  const bool aligned = (((uintptr_t)p + offset) & (alignment - 1)) == 0;
  if (newsize <= usable && newsize >= usable / 2 && newsize > 0 && aligned) {
    // Zeroing functions keep everything beyond the requested size zero, so that a later growth in place shows zeros.
    if (zero) memset((uint8_t*)p + newsize, 0, usable - newsize);
    return p;
  }
  if (aligned && (mi_load_relaxed(&page->owner) & MI_OWNER_SPECIAL) != 0 && _mi_region_resize(page, p, newsize)) {
    if (zero) {
      const size_t now = _mi_usable_size(p);
      const size_t from = (newsize < usable ? newsize : usable);
      if (now > from) memset((uint8_t*)p + from, 0, now - from);
    }
    return p;
  }
  if (aligned && _mi_single_resize(heap, page, p, newsize, usable, zero)) return p;
  if (heap == NULL) heap = mi_heap_of(p);
  void* const q = _mi_heap_alloc_aligned(heap, newsize, alignment, offset, zero);
  if (mi_unlikely(q == NULL)) return NULL;
  memcpy(q, p, newsize < usable ? newsize : usable);
  _mi_free_slow(p);
  return q;
}

void* mi_heap_realloc(mi_heap_t* heap, void* p, size_t newsize) {
  return _mi_heap_realloc_any(heap, p, newsize, 1, 0, false);
}
void* mi_heap_reallocn(mi_heap_t* heap, void* p, size_t count, size_t size) {
  size_t total;
  return (_mi_count_size(count, size, &total) ? _mi_heap_realloc_any(heap, p, total, 1, 0, false) : NULL);
}
void* mi_heap_reallocf(mi_heap_t* heap, void* p, size_t newsize) {
  void* const q = _mi_heap_realloc_any(heap, p, newsize, 1, 0, false);
  if (q == NULL) _mi_free_slow(p);
  return q;
}
void* mi_heap_rezalloc(mi_heap_t* heap, void* p, size_t newsize) {
  return _mi_heap_realloc_any(heap, p, newsize, 1, 0, true);
}
void* mi_heap_recalloc(mi_heap_t* heap, void* p, size_t count, size_t size) {
  size_t total;
  return (_mi_count_size(count, size, &total) ? _mi_heap_realloc_any(heap, p, total, 1, 0, true) : NULL);
}
void* mi_heap_realloc_aligned_at(mi_heap_t* heap, void* p, size_t newsize, size_t alignment, size_t offset) {
  return _mi_heap_realloc_any(heap, p, newsize, alignment, offset, false);
}
void* mi_heap_realloc_aligned(mi_heap_t* heap, void* p, size_t newsize, size_t alignment) {
  return _mi_heap_realloc_any(heap, p, newsize, alignment, 0, false);
}
void* mi_heap_rezalloc_aligned_at(mi_heap_t* heap, void* p, size_t newsize, size_t alignment, size_t offset) {
  return _mi_heap_realloc_any(heap, p, newsize, alignment, offset, true);
}
void* mi_heap_rezalloc_aligned(mi_heap_t* heap, void* p, size_t newsize, size_t alignment) {
  return _mi_heap_realloc_any(heap, p, newsize, alignment, 0, true);
}
void* mi_heap_recalloc_aligned_at(mi_heap_t* heap, void* p, size_t newcount, size_t size, size_t alignment,
                                  size_t offset) {
  size_t total;
  if (!_mi_count_size(newcount, size, &total)) return NULL;
  return _mi_heap_realloc_any(heap, p, total, alignment, offset, true);
}
void* mi_heap_recalloc_aligned(mi_heap_t* heap, void* p, size_t newcount, size_t size, size_t alignment) {
  return mi_heap_recalloc_aligned_at(heap, p, newcount, size, alignment, 0);
}

// --- strings --------------------------------------------------------------------------------------------------------

char* mi_heap_strndup(mi_heap_t* heap, const char* s, size_t n) {
  MI_KEEP_FRAME();
  if (s == NULL) return NULL;
  const char* const end = memchr(s, 0, n);
  const size_t length = (end == NULL ? n : (size_t)(end - s));
  char* const copy = mi_heap_malloc(heap, length + 1);
  if (copy == NULL) return NULL;
  memcpy(copy, s, length);
  copy[length] = 0;
  return copy;
}

char* mi_heap_strdup(mi_heap_t* heap, const char* s) {
  return (s == NULL ? NULL : mi_heap_strndup(heap, s, strlen(s)));
}

char* mi_heap_realpath(mi_heap_t* heap, const char* fname, char* resolved_name) {
  if (resolved_name != NULL) return realpath(fname, resolved_name);
  char* const buffer = mi_heap_malloc(heap, PATH_MAX);
  if (buffer == NULL) return NULL;
  char* const copy = (realpath(fname, buffer) == NULL ? NULL : mi_heap_strdup(heap, buffer));
  const int saved = errno;
  _mi_free_slow(buffer);
  errno = saved;
  return copy;
}

// --- theaps --------------------------------------------------------------------------------------------------------

static inline void* theap_alloc(mi_theap_t* theap, size_t size, bool zero) {
  if (mi_guarded_tick()) return _mi_malloc_generic(size, theap, zero);
  void* const p = theap_pop(theap, size, zero);
  return (mi_likely(p != NULL) ? p : _mi_malloc_generic(size, theap, zero));
}

void* mi_theap_malloc(mi_theap_t* theap, size_t size) { return theap_alloc(theap, size, false); }
void* mi_theap_malloc_small(mi_theap_t* theap, size_t size) { return theap_alloc(theap, size, false); }
void* mi_theap_zalloc(mi_theap_t* theap, size_t size) { return theap_alloc(theap, size, true); }
void* mi_theap_zalloc_small(mi_theap_t* theap, size_t size) { return theap_alloc(theap, size, true); }
void* mi_theap_calloc(mi_theap_t* theap, size_t count, size_t size) {
  size_t total;
  return (_mi_count_size(count, size, &total) ? theap_alloc(theap, total, true) : NULL);
}
void* mi_theap_malloc_aligned(mi_theap_t* theap, size_t size, size_t alignment) {
  return _mi_heap_alloc_aligned(theap->heap, size, alignment, 0, false);
}
void* mi_theap_realloc(mi_theap_t* theap, void* p, size_t newsize) {
  return _mi_heap_realloc_any(theap->heap, p, newsize, 1, 0, false);
}
