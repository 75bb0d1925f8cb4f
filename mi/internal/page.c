// Pages: making them, extending and collecting their free lists, the full list, retiring and releasing, and the
// abandoned pages that no theap holds. Freeing single blocks is in free.c, whole theaps in theap.c.
//
// The three lists (talk: free list multi-sharding): allocation pops `free`; the owner's frees push `local_free`;
// everybody else's push `thread_free`. When `free` runs dry the slow path collects the other two, so that it runs at
// least once per page capacity: the temporal cadence.
//
// Ownership of a page is its state in `thread_free`, not the word `owner`, which is only the fast path's copy:
//  * NORMAL, DELAYED, DELAYING: the theap in `theap` has the page, or one thread that claimed it and is about to
//    keep, free or abandon it;
//  * ABANDONED: nobody has it. Who changes ABANDONED to NORMAL by CAS has it from then on.
// The same word counts the blocks of its list: whoever pushes one adds one, the collect takes both and walks nothing.
// Abandoned pages stand in a stack per heap and size class, so that allocation and destroy find them; LISTED says that
// a page is in the stack or on its way. A page is linked only by who set LISTED, and only once; a page that is LISTED
// is not released, but left (empty, ABANDONED) for who pops it. The models in tests/models check this.
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "mi/internal/account.h"
#include "mi/internal/bit_page.h"
#include "mi/internal/guard.h"
#include "mi/internal/options.h"
#include "mi/internal/os.h"
#include "mi/internal/page_queue.h"
#include "mi/internal/stack.h"
#include "mi/internal/stats.h"

#if MI_SECURE
const mi_page_t _mi_page_empty = {.bits = (mi_bits_t*)&_mi_bits_empty};
#else
const mi_page_t _mi_page_empty;
#endif

// --- free lists -----------------------------------------------------------------------------------------------

// Do the owner's lists of a class page lead from block to block of the page, and not further than there are blocks? A
// program that writes to what it has freed, or past the end of a block, changes links. By who has the page.
static void page_check(const mi_page_t* page) {
#if MI_DEBUG >= 2
  if (page->kind != MI_PAGE_CLASS || page->policy != 0) return;
  const mi_block_t* const lists[2] = {page->free, page->local_free};
  uint32_t count = 0;
  for (size_t i = 0; i < 2; i++) {
    for (const mi_block_t* b = lists[i]; b != NULL; b = b->next) {
      const size_t offset = (size_t)((const uint8_t*)b - page->start);
      if (offset < page->reserved * page->block_size && offset % page->block_size == 0 && ++count <= page->capacity)
        continue;
      _mi_print("mimalloc: a free list of the page at %p, blocks of %zu bytes, was overwritten: it leads to %p\n",
                (const void*)page->start, page->block_size, (const void*)b);
      abort();
    }
  }
  // A visitor's pin counts as one more; a page whose heap ends while it is listed has lost its blocks (free_held_page).
  mi_assert(page->used + count >= page->capacity || page->used + count == 0);
  mi_assert(page->capacity <= page->reserved);
#else
  (void)page;
#endif
}

// Puts a list of blocks before the owner's, or behind it: whichever list ends first leads. What others freed lies in
// other processors' caches, and the lists are walked no further than need be.
static void page_join_local(mi_page_t* page, mi_block_t* first) {
  mi_block_t* const local = page->local_free;
  page->local_free = first;
  if (local == NULL) return;
  mi_block_t *a = first, *b = local;
  for (; a->next != NULL && b->next != NULL; b = b->next) a = a->next;
  if (a->next == NULL) {
    a->next = local;
  } else {
    b->next = first;
    page->local_free = local;
  }
}

// Takes all remotely freed blocks; the state stays. Acquire: the freers' last writes to the blocks come before ours.
static void page_collect_remote(mi_page_t* page) {
  mi_thread_free_t tf = mi_load_relaxed(&page->thread_free);
  do {
    if (MI_LIST_COUNT(tf) == 0) return;
  } while (!mi_cas_weak_acq_rel(&page->thread_free, &tf, tf & 7));
  const uint32_t count = MI_LIST_COUNT(tf);
  if (mi_unlikely(count > page->used)) {  // the list goes round in a circle
    _mi_freed_twice("mi_free: a block of the page at %p was freed more than once by other threads\n", page->start);
    return;
  }
  page_join_local(page, MI_LIST(tf));
  _mi_stats_remote_frees(page, count);
  page->used -= count;
}

static inline void page_supply(mi_page_t* page, size_t count) {
  mi_theap_t* const theap = mi_load_relaxed(&page->theap);
  if (theap != NULL) mi_theap_supply(theap, page, count);  // else abandoned
}

// What the owner freed becomes what is handed out, if that ran dry.
static inline void page_refill(mi_page_t* page) {
  if (page->free == NULL && page->local_free != NULL) page_supply(page, mi_page_turn(page));
}

// The owner's frees come first: they make room for the others' to stay apart, and are nearer.
void _mi_page_collect(mi_page_t* page) {
  if (mi_unlikely(page->policy != 0)) {
    _mi_bits_collect(page);
    return;
  }
  page_refill(page);
  page_collect_remote(page);
  page_refill(page);
  page_check(page);
}

// Puts the next few KiB of never used blocks on the (empty) free list, in address order. The first lot ends at the
// end of an OS page, so that a page of a size that is used once touches 4 KiB; where that is few blocks, later ones are
// as many as there are already, so that what is touched is at most twice what is used. Under a limit it is one block if
// there is no room for more; false: none.
#define MI_EXTEND_MOST 16
static bool page_extend(mi_page_t* page) {
  mi_assert(page->free == NULL && page->capacity < page->reserved);
  const size_t size = page->block_size;
  size_t count = (size >= MI_OS_PAGE ? 1 : MI_OS_PAGE / size);
  if (page->capacity == 0 && page->color < count) count -= page->color;
  if (size <= MI_DIRECT_SIZE_MAX && count < MI_EXTEND_MOST && count < page->capacity)
    count = (page->capacity < MI_EXTEND_MOST ? page->capacity : MI_EXTEND_MOST);
  if (count > page->reserved - page->capacity) count = page->reserved - page->capacity;
  size_t index = page->capacity + page->color;
  if (index >= page->reserved) index -= page->reserved;
  if (count > page->reserved - index) count = page->reserved - index;  // the next lot wraps
  mi_theap_t* const theap = mi_load_relaxed(&page->theap);
  if (mi_unlikely(!mi_theap_charge(theap, count * size))) {
    if (count == 1 || !mi_theap_charge(theap, size)) return false;
    count = 1;
  }
  uint8_t* at = page->start + index * size;
  uint8_t* const last = at + (count - 1) * size;
  mi_block_t* const first = (mi_block_t*)at;
  while (at < last) {
    ((mi_block_t*)at)->next = (mi_block_t*)(at + size);
    at += size;
  }
  ((mi_block_t*)last)->next = NULL;
  mi_stores_in_order();
  page->free = first;
  if (size <= MI_DIRECT_SIZE_MAX) {
    page_supply(page, count);
  } else if (page->capacity == 0) {
    page_supply(page, page->reserved);
  }
  page->capacity += (uint32_t)count;
  page->free_zero = page->fresh_zero;
  mi_count_own(&_mi_tls.thread->counts.pages_extended, 1);
  return true;
}

// --- holding
// ----------------------------------------------------------------------------------------------------------

_Atomic(uint32_t) _mi_holds;

bool _mi_heap_is_held(mi_heap_t* heap) {
  // The stores by which the program unlinked the block that was freed come before the question (heap/hold.c).
#if MI_WITH_TSAN
  const uint32_t holds = atomic_fetch_add_explicit(&_mi_holds, 0u, memory_order_seq_cst);  // it knows no fences
#else
  atomic_thread_fence(memory_order_seq_cst);
  const uint32_t holds = mi_load_relaxed(&_mi_holds);
#endif
  return mi_unlikely(holds != 0) && _mi_upcalls.has_hold(heap);
}

// --- making and releasing pages --------------------------------------------------------------------------------

// Handles stay handles: pages of them are kept for handles for ever (their memory goes back when they are empty),
// so that a stale heap pointer reads a dead handle and never a user's bytes. What a handle points to for as long as it
// lives (its extras) stays likewise: who walks all heaps may read a pointer of a heap that ends at that moment, and
// must then meet memory that can be read. These are the empty pages of both.
typedef struct kept_s {
  _Atomic(uint64_t) pages;  // a stack
  _Atomic(uint32_t) warm;   // how many of them have memory behind them, roughly
} kept_t;
static kept_t kept_pages[2];
#define MI_KEPT_PAGES_WARM 32

static kept_t* kept_of(const mi_heap_t* heap, size_t bin) {
  if (heap != &_mi_heap_internal) return NULL;
  return (bin == MI_BIN_HANDLE ? &kept_pages[0] : bin == MI_BIN_EXTRA ? &kept_pages[1] : NULL);
}

#define PAGE_LINK offsetof(mi_page_t, listed_next)

// What looks like a page names its heap, and not the one that had the slot before: mi_heap_check compares (check.c).
static void page_set_kind(mi_theap_t* theap, mi_page_t* page, mi_kind_t kind) {
  mi_store_release(&page->heap, theap->heap);  // who walks all pages reads the handle through it
  mi_stores_in_order();
  page->kind = (uint8_t)kind;
}

// The policy of a claimed slot, whose block size and number of blocks are set. False: no memory for its bits.
static bool page_init_policy(mi_theap_t* theap, uint8_t policy, mi_page_t* page, mi_kind_t kind) {
  if (mi_likely(policy == 0)) {
    mi_slots_forget_policy(page, 0, page->slices == 0 ? 1 : page->slices);
    return true;
  }
  // Until it has its policy, who walks all pages takes it for one with lists. What the former page left of them leads
  // to where the guard is now.
  page->free = NULL;
  if (page->policy == 0) page->local_free = NULL;
  page->used = page->capacity = 0;
  mi_stores_in_order();
  page_set_kind(theap, page, kind);
  if (!_mi_bits_begin(page, policy)) return false;
  page->policy = policy;
  return true;
}

// Sets up a claimed slot for a theap. The owner word last, by a release, as all later stores to it: who walks all pages
// reads it first, and then the page's shape, which was written before.
static void page_init(mi_theap_t* theap, mi_page_t* page, mi_kind_t kind, size_t bin, bool zero) {
  page->free = NULL;
  if (page->policy == 0) page->local_free = NULL;
  page->used = page->capacity = 0;
  page->bin = (uint8_t)bin;
  page->retire = 0;
  page->next = page->prev = NULL;
  page->fresh_zero = zero;
  page->free_zero = 0;
  page->in_full = 0;
  page->pinned = 0;
  page->delayed = 0;
  page->dry = 0;
  page->depth = theap->depth;
  page->recycled = 0;
  page->color = 0;
  page->worn = 0;
  page_set_kind(theap, page, kind);
  mi_store_relaxed(&page->thread_free, (mi_thread_free_t)MI_NORMAL);
  mi_store_relaxed(&page->theap, theap);
  mi_tid_t flags = 0;
  if (theap->is_internal) {
    flags = (bin >= MI_BIN_HANDLE && mi_is_power_of_two(mi_bin_size(bin)) ? MI_OWNER_SPECIAL : MI_OWNER_INTERNAL);
  }
  if (mi_policy_is_generic(page->policy)) flags = MI_OWNER_INTERIOR;
  mi_store_release(&page->owner, mi_load_relaxed(&theap->thread->id) | flags);
  theap->page_count++;
  mi_gauge_add(&_mi_stats.pages, 1);
}

// Slices for a page: of `want->only` if that is not NULL, else of an arena of the preferred node, else of any.
static mi_page_t* theap_claim_slices(mi_theap_t* theap, const mi_want_t* want, bool* zero) {
  if (mi_unlikely(theap->numa != 0) && want->only == NULL) {
    for (size_t i = 0; i < MI_ARENAS_MAX; i++) {
      mi_arena_t* const a = mi_load_acquire(&_mi_arenas[i]);
      if (a == NULL) break;
      if (a->is_exclusive || a->numa_node + 1 != theap->numa) continue;
      mi_want_t here = *want;
      here.only = a;
      mi_page_t* const page = _mi_slices_claim(theap->thread, &here, zero);
      if (page != NULL) return page;
    }
  }
  return _mi_slices_claim(theap->thread, want, zero);
}

// Guards are for policies; but where there are some, slices may have one of a former page.
static inline bool page_may_have_guard(const mi_theap_t* theap) {
  return theap->policy != 0 || mi_load_relaxed(&_mi_guards_used);
}
// False: there is a guard in the midst of the page, which the system does not take away.
static bool page_guard(uint8_t policy, mi_page_t* page, bool single, size_t* guard) {
  return _mi_slices_guard(page, mi_policy_guards(policy, single), single, guard);
}

// How much of its pages a class used lately, in KiB: what to expect of the next one. Of plain pages of all heaps; any
// thread writes, and what one of two writes may be lost.
static _Atomic(uint16_t) class_used[MI_BIN_LAST + 1];

// The library's own pages are not counted: those are written to beyond the blocks that were handed out.
static bool class_is_counted(const mi_page_t* page) {
  return page->kind == MI_PAGE_CLASS && page->policy == 0 && mi_load_relaxed(&page->heap) != &_mi_heap_internal;
}

// A page of medium blocks is full: the next one is to be twice as long.
static void class_fills(const mi_page_t* page) {
  const size_t kib = 2 * page->slices * (MI_SLICE_SIZE / MI_KiB);
  if (class_is_counted(page) && page->block_size > MI_SMALL_PAGE_BLOCK_MAX &&
      mi_load_relaxed(&class_used[page->bin]) < kib) {
    mi_store_relaxed(&class_used[page->bin], (uint16_t)kib);
  }
}

// How many bytes of an empty page were used, from its start; all of them where that is not known.
static size_t page_used(const mi_page_t* page) {
  if (!class_is_counted(page) || page->worn) return page->slices * MI_SLICE_SIZE;
  const size_t blocks = page->capacity + page->color;  // as if it began at its first block's place
  const size_t bytes = (blocks < page->reserved ? blocks : page->reserved) * page->block_size;
  const int before = mi_load_relaxed(&class_used[page->bin]);
  const int after = before + ((int)(bytes / MI_KiB) + 1 - before) / 4;
  if (after != before) mi_store_relaxed(&class_used[page->bin], (uint16_t)after);
  return bytes;
}

// How long a page is. Of medium blocks it holds two at first, as few of them are the rule, and more where they were
// used before.
static size_t page_slices(const mi_theap_t* theap, size_t size, size_t expected) {
  const size_t most = mi_page_slices(theap->policy, size, theap->is_internal);
  if (theap->policy != 0 || size <= MI_SMALL_PAGE_BLOCK_MAX) return most;
  const size_t least = (expected < 2 * size ? 2 * size : expected);
  const size_t slices = (least + MI_SLICE_SIZE - 1) / MI_SLICE_SIZE;
  return (slices < most ? slices : most);
}

// `bare`: of slices without guards that the system would have to take away, which it does not.
#define MI_COLORED_PAGES 32
static mi_page_t* page_fresh(mi_theap_t* theap, size_t bin, bool bare) {
  const bool is_counted = (theap->policy == 0 && !theap->is_internal);
  const size_t size = mi_bin_size(bin), expected = (is_counted ? mi_load_relaxed(&class_used[bin]) * MI_KiB : 0);
  const size_t slices = page_slices(theap, size, expected);
  const bool is_handle = (bin == MI_BIN_HANDLE && theap->heap == &_mi_heap_internal);
  bool zero, made = false;
  mi_page_t* page = NULL;
  kept_t* const kept = kept_of(theap->heap, bin);
  if (kept != NULL && (page = mi_stack_pop(&kept->pages, PAGE_LINK)) != NULL) {
    zero = page->fresh_zero;
    if (!zero) atomic_fetch_sub_explicit(&kept->warm, 1u, memory_order_relaxed);
  } else {
    const mi_want_t want = {slices, expected, theap->arena, mi_policy_guards(theap->policy, false), bare};
    page = theap_claim_slices(theap, &want, &zero);
    if (page == NULL) return NULL;
    made = true;
  }
  size_t guard = 0;
  if (made) {  // a kept page keeps its shape, which who walks all pages reads at any time
    page->block_size = size;
    page->start = (uint8_t*)mi_page_segment(page) + mi_page_slice(page) * MI_SLICE_SIZE;
    if (mi_unlikely(page_may_have_guard(theap)) && !page_guard(theap->policy, page, false, &guard)) {
      _mi_slices_release(page, 0);
      return (bare ? NULL : page_fresh(theap, bin, true));
    }
    page->reserved = (uint32_t)((slices * MI_SLICE_SIZE - guard) / size);
  }
  if (is_handle && made && !zero) {  // who enumerates the handles reads all of the page: an id of 0 is no heap
    memset(page->start, 0, MI_SLICE_SIZE);
    zero = true;
  }
  if (theap->is_internal && !zero && !is_handle && mi_is_power_of_two(size)) {
    // A block that carries no region yet must not look as if it did: its head is zero.
    for (uint8_t* b = page->start; b < page->start + page->reserved * size; b += size)
      memset(b, 0, sizeof(mi_region_t));
  }
  if (mi_unlikely(!page_init_policy(theap, theap->policy, page, MI_PAGE_CLASS))) {
    _mi_slices_release(page, slices * MI_SLICE_SIZE);
    return NULL;
  }
  if (guard != 0) page->bits->guard = (uint32_t)guard;
  page_init(theap, page, MI_PAGE_CLASS, bin, zero);
  // The first pages of a theap begin in different cache sets: at equal offsets, 64 heaps that are used in turn evict
  // each other. By number and not by address, so that the same program meets its slow paths at the same allocations
  // every time. Later pages do not: what fills many in a row and is then walked at a stride (records that are sorted,
  // say) keeps that stride across pages, which the processor's prefetcher needs.
  theap->thread->page_color += 7;
  if (size <= MI_OS_PAGE / 2 && theap->policy == 0 && theap->page_count <= MI_COLORED_PAGES)
    page->color = (uint16_t)(theap->thread->page_color % (MI_OS_PAGE / size));
  mi_queue_link(theap, bin, page, true);
  return page;
}

// Puts an empty page by; every handle in it is dead, its id 0. `fresh_zero` says whether its memory went back.
static void kept_push(kept_t* kept, mi_page_t* page, bool warm) {
  page->fresh_zero = 0;
  if (!warm) {
    page->fresh_zero = _mi_memory_purge(page->start, MI_SLICE_SIZE);
    if (page->fresh_zero) atomic_fetch_sub_explicit(&kept->warm, 1u, memory_order_relaxed);
  }
  mi_stack_push(&kept->pages, page, PAGE_LINK);
}

void _mi_kept_pages_purge(void) {
  for (kept_t* kept = kept_pages; kept < kept_pages + sizeof(kept_pages) / sizeof(kept_pages[0]); kept++) {
    mi_page_t* list = NULL;
    for (mi_page_t* page; (page = mi_stack_pop(&kept->pages, PAGE_LINK)) != NULL; list = page) page->next = list;
    while (list != NULL) {
      mi_page_t* const page = list;
      list = page->next;
      if (page->fresh_zero) {
        mi_stack_push(&kept->pages, page, PAGE_LINK);
      } else {
        kept_push(kept, page, false);
      }
    }
  }
}

// The guard of a huge block is an OS page more than the block, and begins with the first that is behind it.
static uint8_t* huge_guard_of(const mi_page_t* page) {
  return (uint8_t*)mi_round_up((uintptr_t)page->start + page->block_size, MI_OS_PAGE);
}

// The slices of a page that is in no queue, and whose blocks are counted, go back.
static void page_return_slices(mi_page_t* page) {
  mi_page_uncharge(page);
  mi_gauge_sub(&_mi_stats.pages, 1);
  if (mi_unlikely(page->policy != 0)) mi_bits_leave(page);
  if (mi_unlikely(page->guard != 0)) {
    _mi_guard_withhold(page);
    return;
  }
  kept_t* const kept = (page->kind == MI_PAGE_CLASS ? kept_of(mi_load_relaxed(&page->heap), page->bin) : NULL);
  if (page->kind == MI_PAGE_HUGE) {
    if (mi_unlikely(page->policy != 0 && mi_policy_guards(page->policy, true))) {
      const bool guarded = (page->bits->guard != 0);
      // Memory that cannot be made accessible again is never handed out again.
      if (guarded && !_mi_os_guard_dear(huge_guard_of(page), MI_OS_PAGE, false)) return;
      page->block_size += MI_OS_PAGE;
    }
    _mi_huge_release(page);
  } else if (kept != NULL) {
    mi_store_release(&page->owner, MI_OWNER_INTERNAL);  // nobody's, and no place for objects: a stale free is noticed
    kept_push(kept, page, mi_fetch_add_relaxed(&kept->warm, 1u) < MI_KEPT_PAGES_WARM);
    return;
  } else {
    _mi_slices_release(page, page_used(page));
  }
  _mi_purge_step();
}

// An empty page that is in no queue goes back.
static void page_give_slices(mi_page_t* page) {
  _mi_stats_page_emptied(page, true);
  if (mi_unlikely(page->policy != 0)) _mi_bits_end(page);
  page_return_slices(page);
}

// A page goes back with all its blocks, because its heap ends or is reset.
static void page_drop(mi_page_t* page) {
  _mi_stats_page_dropped(page, true);
  if (page->policy != 0) _mi_bits_drop(page);
  page->used = 0;
  page_return_slices(page);
}

static void page_give_up(mi_page_t* page, bool may_stay);

static void page_forget_lists(mi_page_t* page) {
  page->free = NULL;
  if (mi_likely(page->policy == 0)) {
    page->local_free = NULL;
  } else {
    page->bits->avail = 0;
  }
}

// Releases an empty page of the calling thread's theap (or of one that it holds). A page that was adopted while it
// stood in a stack of abandoned pages may stand there still: if it is not found soon, it is left for who pops it.
static void page_release(mi_theap_t* theap, mi_page_t* page) {
  mi_assert(page->used == 0);
  mi_queue_unlink(theap, page->in_full ? MI_BIN_FULL : page->bin, page);
  theap->page_count--;
  if (mi_unlikely((mi_load_acquire(mi_page_word(page)) & MI_LISTED) != 0)) {
    mi_fetch_add_acq_rel(&theap->heap->pages_out, 1);
    page_give_up(page, true);
  } else {
    page_give_slices(page);
  }
}

// --- the full list -----------------------------------------------------------------------------------------------

static void owner_flag(mi_page_t* page, mi_tid_t flag, bool on) {
  const mi_tid_t owner = mi_load_relaxed(&page->owner);
  mi_store_release(&page->owner, on ? owner | flag : owner & ~flag);
}

// Moves a page without free blocks to the full list, where no search meets it. Only from (empty, NORMAL): a free that
// came in between makes the CAS fail, and the page is not full. False in that case, or while a freer is DELAYING.
static bool page_to_full(mi_theap_t* theap, mi_page_t* page) {
  _Atomic(mi_thread_free_t)* const word = mi_page_word(page);
  mi_thread_free_t tf = mi_load_relaxed(word);
  do {
    if (mi_word_has_frees(page, tf) || MI_STATE(tf) != MI_NORMAL) return false;
    // Release: a freer that finds DELAYED reads page->theap.
  } while (!mi_cas_weak_acq_rel(word, &tf, MI_WITH_STATE(tf, MI_DELAYED)));
  mi_queue_unlink(theap, page->bin, page);
  mi_queue_link(theap, MI_BIN_FULL, page, false);
  page->in_full = 1;
  page->retire = 0;
  class_fills(page);
  owner_flag(page, MI_OWNER_FULL, true);
  return true;
}

// DELAYED becomes NORMAL. False: it is not, a freer was there first.
static bool page_end_delayed(const mi_page_t* page) {
  _Atomic(mi_thread_free_t)* const word = mi_page_word(page);
  mi_thread_free_t tf = mi_load_relaxed(word);
  while (MI_STATE(tf) == MI_DELAYED && !mi_cas_weak_acq_rel(word, &tf, MI_WITH_STATE(tf, MI_NORMAL))) {
  }
  return MI_STATE(tf) == MI_DELAYED;
}

// Takes a class page off the full list. While a freer is DELAYING, the state is its to reset.
static void page_unfull(mi_theap_t* theap, mi_page_t* page) {
  mi_assert(page->in_full);
  mi_queue_unlink(theap, MI_BIN_FULL, page);
  mi_queue_link(theap, page->bin, page, false);
  page->in_full = 0;
  owner_flag(page, MI_OWNER_FULL, false);
  if (!page_end_delayed(page) && page->policy == 0) page->delayed++;  // a freer was there first
}

// A bit page that is on its theap's delayed list stays like one that is about to be put there.
static bool page_is_delaying(const mi_page_t* page) {
  // Acquire: what the freer did to the theap's list comes before what we do next.
  if (MI_STATE(mi_load_acquire(mi_page_word(page))) == MI_DELAYING) return true;
  return mi_unlikely(page->policy != 0) && mi_load_acquire(&mi_bits_of(page)->queued) != 0;
}

// Older than a mark, the page waits on the full list until the mark is gone: nobody allocates from it, and blocks that
// are freed stay there. Its theap's depth, or the page's, says that it is sealed.
static void page_seal(mi_theap_t* theap, mi_page_t* page) {
  while (!page_to_full(theap, page)) {
    if (page->policy != 0) _mi_theap_drain_delayed(theap);
    _mi_page_collect(page);
  }
}

// A sealed page without blocks is as good as new.
static bool page_empty_opens(const mi_theap_t* theap, mi_page_t* page) {
  if (page->used == 0) page->depth = theap->depth;
  return page->used == 0;
}

// --- retiring ----------------------------------------------------------------------------------------------------

#define MI_RETIRE_CYCLES 16
#define MI_TIDY_EVERY 8    // slow paths between two steps of collecting
#define MI_SWEEP_EVERY 64  // slow paths between two looks at retired pages

// Leaves an empty page to the sweep, which looks at the first pages.
static void page_release_later(mi_theap_t* theap, mi_page_t* page) {
  page->retire = MI_RETIRE_CYCLES;
  if (theap->queue[page->bin] != page) {
    mi_queue_unlink(theap, page->bin, page);
    mi_queue_link(theap, page->bin, page, true);
  }
  if (page->bin < theap->retire_low) theap->retire_low = page->bin;
  if (page->bin > theap->retire_high) theap->retire_high = page->bin;
}

// An empty page goes back, but not at once if it is the last of its class: a program that allocates and frees one
// block in turn would make and release a page each time.
void _mi_page_retire(mi_page_t* page) {
  if (mi_likely(page->retire != 0)) {  // one block that comes and goes
    page->retire = MI_RETIRE_CYCLES;
    return;
  }
  mi_theap_t* const theap = mi_load_relaxed(&page->theap);
  mi_assert(page->used == 0 && !page->in_full);
  if (page->next == page || page_is_delaying(page)) {
    mi_count_own(&_mi_tls.thread->counts.pages_retired, 1);
    page_release_later(theap, page);
  } else if (!_mi_heap_is_held(theap->heap)) {  // else it stays in its queue, and serves its class
    page_release(theap, page);
  }
}

static void theap_sweep_retired(mi_theap_t* theap, bool force) {
  uint8_t low = MI_BIN_COUNT - 1, high = 0;
  for (size_t bin = theap->retire_low; bin <= theap->retire_high; bin++) {
    mi_page_t* const page = theap->queue[bin];
    if (page == NULL || page->retire == 0) continue;
    if (page->used != 0) {
      page->retire = 0;
      continue;
    }
    page->retire--;
    if ((force || page->retire == 0) && !page_is_delaying(page) && !_mi_heap_is_held(theap->heap)) {
      page_release(theap, page);
    } else {
      if (page->retire == 0) page->retire = 1;
      if (bin < low) low = (uint8_t)bin;
      if (bin > high) high = (uint8_t)bin;
    }
  }
  theap->retire_low = low;
  theap->retire_high = high;
}

#define MI_LATE_STEP 8

// Single-block pages that were freed while their remote freer was still DELAYING, or the heap held, or that are in
// quarantine, which `force` ends. At most so many.
static void theap_sweep_late(mi_theap_t* theap, size_t most, bool force) {
  mi_page_t* page = theap->queue[MI_BIN_LATE];
  if (page == NULL || _mi_heap_is_held(theap->heap)) return;
  for (size_t n = 0; page != NULL && n < most; n++) {
    mi_page_t* next = (page->next == page ? NULL : page->next);
    if (!page_is_delaying(page) && (force || page->policy == 0 || _mi_bits_is_due(page))) {
      mi_queue_unlink(theap, MI_BIN_LATE, page);
      theap->page_count--;
      page_give_slices(page);
    } else if (next == theap->queue[MI_BIN_LATE]) {
      next = NULL;  // round
    }
    page = next;
  }
}

void _mi_theap_tidy(mi_theap_t* theap) {
#if MI_DEBUG >= 3
  for (size_t bin = 1; bin <= MI_BIN_LAST; bin++) {
    if (theap->queue[bin] != NULL) page_check(theap->queue[bin]);
  }
#endif
  if (mi_load_relaxed(&theap->delayed_free) != NULL) _mi_theap_drain_delayed(theap);
  if (theap->retire_low <= theap->retire_high && theap->tidy_count % MI_SWEEP_EVERY == 0) {
    theap_sweep_retired(theap, false);
  }
  if (++theap->tidy_count % MI_TIDY_EVERY == MI_TIDY_EVERY / 2) _mi_theap_collect_step(theap);
  if (theap->queue[MI_BIN_LATE] != NULL) theap_sweep_late(theap, MI_LATE_STEP, false);
}

// --- a free by the owner ---------------------------------------------------------------------------------------

void _mi_page_free_local(mi_page_t* page, mi_block_t* block) {
  mi_theap_t* const theap = mi_load_relaxed(&page->theap);
  if (mi_page_is_single(page)) {
    if (mi_unlikely(page->used == 0)) {  // of a held heap: its page is still there
      _mi_error(EAGAIN, "mi_free: double free of %p\n", (void*)block);
      return;
    }
    if (--page->used != 0) {  // a visitor has it pinned
      page->local_free = block;
      return;
    }
    mi_queue_unlink(theap, MI_BIN_FULL, page);
    page->in_full = 0;
    if (page_is_delaying(page) || _mi_heap_is_held(theap->heap)) {
      mi_queue_link(theap, MI_BIN_LATE, page, false);
      return;
    }
    theap->page_count--;
    page_give_slices(page);
    return;
  }
  block->next = page->local_free;
  page->local_free = block;
  mi_assert(page->used > 0);
  page->used--;
  if (page->in_full) {
    if (mi_unlikely(page->depth < theap->depth) && !page_empty_opens(theap, page)) return;  // sealed
    page_unfull(theap, page);
  }
  if (page->used == 0) _mi_page_retire(page);
}

// In the secure build a page leaves the full list when a few blocks of it are free (8, or a 32nd), so that the way
// there and back is not gone for each; but at once if another thread told the theap of it.
static bool page_stays_full(const mi_page_t* page) {
  if (MI_SECURE == 0 || mi_policy_is_generic(page->policy)) return false;
  const uint32_t few = (page->reserved >= 256 ? 8 : page->reserved / 32);
  return page->used + few > page->reserved && MI_STATE(mi_load_relaxed(mi_page_word(page))) == MI_DELAYED;
}

void _mi_page_block_gone(mi_theap_t* theap, mi_page_t* page) {
  if (mi_page_is_single(page)) {
    if (page->used != 0 || !page->in_full) return;  // a visitor has it pinned
    mi_queue_unlink(theap, MI_BIN_FULL, page);
    page->in_full = 0;
    // First: a second free of the block, by another thread at this moment, does not get to the theap's list any more.
    page_end_delayed(page);
    if (page_is_delaying(page) || !_mi_bits_is_due(page) || _mi_heap_is_held(theap->heap)) {
      mi_queue_link(theap, MI_BIN_LATE, page, false);
      owner_flag(page, MI_OWNER_FULL, false);
      return;
    }
    theap->page_count--;
    page_give_slices(page);
    return;
  }
  if (page->in_full) {
    if (mi_unlikely(page->depth < theap->depth) && !page_empty_opens(theap, page)) return;  // sealed
    if (page_stays_full(page)) return;
    page_unfull(theap, page);
  }
  if (page->used == 0) _mi_page_retire(page);
}

// --- abandoned pages ---------------------------------------------------------------------------------------------

static mi_abandoned_t main_abandoned;

static mi_abandoned_t* heap_abandoned(mi_heap_t* heap, mi_thread_t* thread) {
  if (heap == &_mi_heap_main) return &main_abandoned;
  mi_abandoned_t* seen = mi_load_acquire(&heap->abandoned);
  if (seen != NULL || thread == NULL) return seen;
  mi_abandoned_t* const made =
      (heap == &_mi_heap_internal ? _mi_os_alloc(sizeof(*made))
                                  : _mi_internal_alloc_in(thread, _mi_heap_arena(heap), sizeof(*made)));
  if (made == NULL) return NULL;
  if (mi_cas_strong_acq_rel(&heap->abandoned, &seen, made)) return made;
  if (heap == &_mi_heap_internal) {
    _mi_os_free(made, sizeof(*made));
  } else {
    _mi_internal_free(made);
  }
  return seen;
}

// What a popper does with the page that it popped: clears LISTED, and claims the page if nobody has it, in one step.
// The page could not be released while it was LISTED; after this it can.
static bool page_claim_popped(mi_page_t* page) {
  _Atomic(mi_thread_free_t)* const word = mi_page_word(page);
  mi_thread_free_t tf = mi_load_relaxed(word);
  for (;;) {
    const bool abandoned = (MI_STATE(tf) == MI_ABANDONED);
    const mi_thread_free_t next = (abandoned ? MI_WITH_STATE(tf, MI_NORMAL) : tf) & ~(uintptr_t)MI_LISTED;
    // Acquire: what the former owner wrote to the page; release: LISTED is clear for who owns it.
    if (mi_cas_weak_acq_rel(word, &tf, next)) return abandoned;
  }
}

// Orphans: abandoned pages of heaps for whose table there was no memory, LISTED in one stack for all heaps. They go to
// their heaps' own stacks when a sweep finds memory for the tables. Who has the flag is the only one to pop from here:
// a destroyer waits for it, so that no page of its heap is in flight.
static _Atomic(uint64_t) orphans;
static _Atomic(uint32_t) orphans_flag;

// False: pages of `heap` are left among the orphans. `wait`: for the flag; without it the answer may be true too soon.
// `release`: pages of `heap` go back with all their blocks, as in _mi_abandoned_sweep.
static bool orphans_settle(mi_heap_t* heap, bool wait, bool release) {
  // Acquire, in this order: who took the stack set the flag before.
  const bool none = mi_stack_node(mi_load_acquire(&orphans)) == NULL;
  if (mi_likely(none && (!wait || mi_load_acquire(&orphans_flag) == 0))) return true;
  uint32_t expected = 0;
  while (!mi_cas_strong_acq_rel(&orphans_flag, &expected, 1u)) {
    if (!wait) return true;
    expected = 0;
    _mi_os_yield();
  }
  bool settled = true;
  for (mi_page_t* page = mi_stack_take(&orphans); page != NULL;) {
    mi_page_t* const next = mi_load_relaxed(&page->listed_next);
    mi_heap_t* const owner = mi_load_relaxed(&page->heap);  // stays: whoever adopts the page does so for this heap
    if (release && owner == heap) {
      if (page_claim_popped(page)) {
        page_drop(page);
        atomic_fetch_sub_explicit(&heap->pages_out, 1, memory_order_acq_rel);
      }
    } else {
      mi_abandoned_t* const abandoned = heap_abandoned(owner, _mi_tls.thread);
      mi_stack_push(abandoned == NULL ? &orphans : &abandoned->list[page->bin], page, PAGE_LINK);
      if (abandoned == NULL && owner == heap) settled = false;
    }
    page = next;
  }
  mi_store_release(&orphans_flag, 0u);
  return settled;
}

bool _mi_orphans_settle(mi_heap_t* heap) { return orphans_settle(heap, true, false); }
void _mi_orphans_after_fork(void) { mi_store_relaxed(&orphans_flag, 0u); }

// Looks for the caller's page, which is LISTED, among the first of its stack. Whatever is popped and somebody has loses
// LISTED, so that it is met once; what nobody has goes back in the same order. An empty page that stays LISTED waits
// for a popper without its memory, which is dear where threads end all the time and others free what they allocated.
// False: it is further down, or elsewhere.
#define MI_UNLIST_MAX 8
static bool page_unlist(_Atomic(uint64_t)* stack, mi_page_t* page) {
  mi_page_t* back = NULL;
  bool is_listed = true;
  for (int n = 0; is_listed && n < MI_UNLIST_MAX; n++) {
    mi_page_t* const popped = mi_stack_pop(stack, PAGE_LINK);
    if (popped == NULL) break;
    if (page_claim_popped(popped)) {
      popped->next = back;
      back = popped;
    }
    is_listed = (mi_load_acquire(mi_page_word(page)) & MI_LISTED) != 0;
  }
  while (back != NULL) {
    mi_page_t* const next = back->next;
    page_give_up(back, true);  // not LISTED: this goes no deeper
    back = next;
  }
  return !is_listed;
}

// Gives up a page that the caller owns and that is in no queue. Its heap counts it in `pages_out` already. `bin`: the
// stack that it goes to if it is LISTED in none. `may_stay`: if it is empty, and the heap held, it stays as it is,
// among the abandoned pages.
static void page_give_up_to(mi_page_t* page, size_t bin, bool may_stay) {
  mi_heap_t* const heap = mi_load_relaxed(&page->heap);
  mi_abandoned_t* const abandoned = heap_abandoned(heap, _mi_tls.thread);
  _Atomic(uint64_t)* const stack = (abandoned == NULL ? &orphans : &abandoned->list[bin]);
  if (mi_unlikely(abandoned == NULL)) mi_store_relaxed(&heap->is_target, (uint8_t)1);  // its end is not simple
  // A page of the main or the internal heap that holds a single block needs no finder but the block's free.
  const bool is_endless = (heap == &_mi_heap_main || heap == &_mi_heap_internal);
  mi_thread_free_t list_it = (is_endless && mi_page_is_single(page) ? 0 : MI_LISTED);
  _Atomic(mi_thread_free_t)* const word = mi_page_word(page);
  mi_store_relaxed(&page->theap, (mi_theap_t*)NULL);
  mi_store_release(&page->owner, mi_load_relaxed(&page->owner) & (MI_OWNER_INTERIOR | MI_OWNER_SPECIAL));
  for (;;) {
    _mi_page_collect(page);
    mi_thread_free_t tf = mi_load_acquire(word);
    if (mi_word_has_frees(page, tf)) continue;
    mi_assert(MI_STATE(tf) == MI_NORMAL);
    if (page->used == 0 && may_stay && _mi_heap_is_held(heap)) {
      list_it = MI_LISTED;  // no free will come that finds it
    } else if (page->used == 0) {
      if ((tf & MI_LISTED) == 0) {
        page_give_slices(page);
        atomic_fetch_sub_explicit(&heap->pages_out, 1, memory_order_acq_rel);  // the last touch of the heap
        return;
      }
      if (page->capacity != 0) {
        if (stack != &orphans && page_unlist(stack, page)) continue;
        // It waits for a popper: without its memory. Only a page without lists can lose that: start afresh.
        const size_t size = (mi_page_is_single(page) ? page->block_size : page->slices * MI_SLICE_SIZE);
        uint8_t* inner = page->start;
        const size_t inner_size = mi_os_pages_inside(&inner, size);
        _mi_stats_page_emptied(page, false);
        mi_page_uncharge(page);
        page_forget_lists(page);
        page->capacity = 0;
        page->worn = 1;
        page->fresh_zero = 0;
        if (inner_size > 0) {
          const bool zero = _mi_memory_purge(inner, inner_size);
          page->fresh_zero = (inner == page->start && zero);
        }
      }
    }
    const mi_thread_free_t next = mi_word_base(page, tf) | list_it | MI_ABANDONED;
    if (!mi_cas_strong_acq_rel(word, &tf, next)) continue;
    mi_count(&_mi_stats.pages_abandoned, 1);
    // From here on the page is not ours; until it is pushed, LISTED keeps everybody from releasing it.
    if ((tf & MI_LISTED) == 0 && list_it != 0) mi_stack_push(stack, page, PAGE_LINK);
    return;
  }
}

static void page_give_up(mi_page_t* page, bool may_stay) { page_give_up_to(page, page->bin, may_stay); }

// Links a page that the caller claimed into its theap.
static void page_adopt(mi_theap_t* theap, mi_page_t* page) {
  mi_heap_t* const from = mi_load_relaxed(&page->heap);
  if (mi_unlikely(from != theap->heap))
    _mi_account_pass(mi_account_of(from), mi_theap_account(theap), mi_page_charged(page));
  mi_store_release(&page->heap, theap->heap);
  mi_store_relaxed(&page->theap, theap);
  const mi_tid_t flags = mi_load_relaxed(&page->owner) & (MI_OWNER_INTERIOR | MI_OWNER_SPECIAL);
  page->in_full = 0;
  page->retire = 0;
  page->dry = 0;
  mi_queue_link(theap, page->bin, page, false);
  theap->page_count++;
  mi_store_release(&page->owner, mi_load_relaxed(&theap->thread->id) | flags);
  if (from != theap->heap) page->depth = from->home.depth;
  if (page->used == 0) page->depth = theap->depth;
  if (mi_unlikely(page->depth < theap->depth)) page_seal(theap, page);
  atomic_fetch_sub_explicit(&from->pages_out, 1, memory_order_acq_rel);
}

// Has a page something to hand out that need not be collected first?
static bool page_has_room(const mi_page_t* page) {
  if (mi_unlikely(page->policy != 0)) return page->used - page->pinned < page->reserved;
  return page->free != NULL || page->capacity < page->reserved;
}

// A remote free found the page ABANDONED and made it NORMAL, with its block on the list: the caller owns it now.
void _mi_page_claimed(mi_page_t* page) {
  mi_thread_t* const thread = _mi_tls.thread;
  mi_heap_t* const heap = mi_load_relaxed(&page->heap);
  _mi_page_collect(page);
  if (page->used > 0 && thread != NULL) {
    mi_theap_t* theap = NULL;
    if (heap == &_mi_heap_main) {
      theap = &thread->main_theap;
    } else if (heap == &_mi_heap_internal) {
      theap = &thread->internal_theap;
    } else {
      const mi_part_cache_t* const entry = &thread->part_cache[((uintptr_t)heap >> 9) % MI_PART_CACHE];
      if (entry->heap == heap && entry->id == mi_load_relaxed(&heap->home.id) &&
          mi_load_relaxed(&heap->state) == MI_HEAP_OPEN) {
        theap = mi_load_relaxed(&entry->part->theap);
        if (theap == MI_THEAP_EMPTY) theap = NULL;
      }
    }
    if (theap != NULL && !mi_page_is_single(page) && theap->thread == thread) {
      mi_count(&_mi_stats.reclaimed_on_free, 1);
      page_adopt(theap, page);
      return;
    }
    mi_count(&_mi_stats.abandoned_again, 1);
  }
  page_give_up(page, true);
}

// Pops a page of the bin that has room; full ones that come first are taken over into the full list, so that no later
// search meets them. A few at most.
static mi_page_t* theap_reclaim_from(mi_theap_t* theap, mi_heap_t* heap, size_t bin) {
  mi_abandoned_t* const abandoned = heap_abandoned(heap, NULL);
  if (abandoned == NULL) return NULL;
  for (int tries = 0; tries < 8; tries++) {
    mi_page_t* const page = mi_stack_pop(&abandoned->list[bin], PAGE_LINK);
    if (page == NULL) return NULL;
    if (!page_claim_popped(page)) continue;  // who has it will list it again
    mi_count(&_mi_stats.reclaimed_on_alloc, 1);
    page_adopt(theap, page);
    if (mi_unlikely(page->in_full)) continue;  // sealed
    _mi_page_collect(page);
    if (page_has_room(page)) return page;
    page_to_full(theap, page);
  }
  return NULL;
}

void _mi_abandoned_sweep(mi_heap_t* heap, bool all) {
  orphans_settle(heap, all, all);
  mi_abandoned_t* const abandoned = heap_abandoned(heap, NULL);
  if (abandoned == NULL) return;
  for (size_t bin = 1; bin < MI_BIN_COUNT; bin++) {
    // Take the whole stack, so that pages that are given back are not met again.
    for (mi_page_t* page = mi_stack_take(&abandoned->list[bin]); page != NULL;) {
      mi_page_t* const next = mi_load_relaxed(&page->listed_next);
      if (page_claim_popped(page)) {
        if (all) {
          page_drop(page);
          atomic_fetch_sub_explicit(&heap->pages_out, 1, memory_order_acq_rel);
        } else {
          page_give_up(page, true);
        }
      }
      page = next;
    }
  }
}

// The next page of a closed heap that nobody takes pages from, in turn: those of the classes first; what was looked at
// is in the stack LATE, and is in the stack FULL when it is its turn again. Only who holds the closed heap touches
// these two.
static mi_page_t* abandoned_next(mi_abandoned_t* abandoned) {
  for (size_t bin = 1; bin <= MI_BIN_FULL; bin++) {
    mi_page_t* const page = mi_stack_pop(&abandoned->list[bin], PAGE_LINK);
    if (page != NULL) return page;
  }
  mi_page_t* const first = mi_stack_take(&abandoned->list[MI_BIN_LATE]);
  if (first == NULL) return NULL;
  const uint64_t head = mi_load_relaxed(&abandoned->list[MI_BIN_FULL]);
  mi_store_release(&abandoned->list[MI_BIN_FULL], mi_stack_next_head(head, mi_load_relaxed(&first->listed_next)));
  return first;
}

void _mi_abandoned_sweep_step(mi_heap_t* heap, size_t most) {
  orphans_settle(heap, false, false);
  mi_abandoned_t* const abandoned = heap_abandoned(heap, NULL);
  for (size_t n = 0; abandoned != NULL && n < most; n++) {
    mi_page_t* const page = abandoned_next(abandoned);
    if (page == NULL) return;
    if (page_claim_popped(page)) page_give_up_to(page, MI_BIN_LATE, true);
  }
}

void _mi_abandoned_unsweep_step(mi_heap_t* heap, size_t most) {
  mi_abandoned_t* const abandoned = heap_abandoned(heap, NULL);
  for (size_t n = 0; abandoned != NULL && n < most; n++) {
    mi_page_t* page = mi_stack_pop(&abandoned->list[MI_BIN_FULL], PAGE_LINK);
    if (page == NULL) page = mi_stack_pop(&abandoned->list[MI_BIN_LATE], PAGE_LINK);
    if (page == NULL) return;
    if (page_claim_popped(page)) page_give_up(page, true);
  }
}

mi_page_t* _mi_abandoned_first(mi_heap_t* heap, size_t bin) {
  mi_abandoned_t* const abandoned = heap_abandoned(heap, NULL);
  return (abandoned == NULL ? NULL : mi_stack_node(mi_load_acquire(&abandoned->list[bin])));
}

// A visitor counts itself among a page's live blocks, so that the page stays while the visit lasts. Who calls has the
// page's theap; of an abandoned page, the heap.
void _mi_page_pin(mi_page_t* page) {
  page->used++;
  page->pinned++;
}

void _mi_page_unpin(mi_page_t* page) {
  page->pinned--;
  _Atomic(mi_thread_free_t)* const word = mi_page_word(page);
  mi_thread_free_t tf = mi_load_acquire(word);
  while (MI_STATE(tf) == MI_ABANDONED) {
    if (!mi_cas_weak_acq_rel(word, &tf, MI_WITH_STATE(tf, MI_NORMAL))) continue;
    page->used--;
    page_give_up(page, true);
    return;
  }
  if (mi_page_is_single(page)) {
    if (page->used == 1 && page->policy != 0) {
      page->used = 0;
      _mi_page_block_gone(mi_load_relaxed(&page->theap), page);
    } else if (page->used == 1) {
      _mi_page_free_local(page, NULL);
    } else {
      page->used--;
    }
  } else if (--page->used == 0) {
    mi_theap_t* const theap = mi_load_relaxed(&page->theap);
    if (page->in_full && page_empty_opens(theap, page)) page_unfull(theap, page);  // it was sealed
    _mi_page_retire(page);
  }
}

// --- finding a page ------------------------------------------------------------------------------------------------

static bool page_has_free(mi_page_t* page) {
  if (page->free != NULL) return true;
  // What was freed is used again as late as possible.
  if (MI_TAIL && page->capacity < page->reserved && page_extend(page)) return true;
  _mi_page_collect(page);
  return page->free != NULL || (page->capacity < page->reserved && page_extend(page));
}

// A page that has run dry is not full yet: most pages of a program that frees have blocks again soon. It stays in its
// queue, behind the page that serves, and goes to the full list if it is as dry when a search meets it again: the way
// there and back takes two atomic updates and a slow free, in a program with long-lived blocks for every few dozen
// allocations. Dry is also a page that the owner freed a few blocks of (MI_FEW_BLOCKS), if the next one has more. So
// many of a theap's pages at most, of one slice each: what a search meets is bounded, and what waits for a look because
// others freed all its blocks. A page with blocks in `free` is not dry.
#define MI_DRY_PAGES 64
static inline bool page_may_dry(const mi_theap_t* theap, const mi_page_t* page) {
  return page->dry == 0 && page->block_size <= MI_SMALL_PAGE_BLOCK_MAX && theap->dry_pages < MI_DRY_PAGES;
}
static inline void page_dries(mi_theap_t* theap, mi_page_t* page) {
  page->retire = 0;
  page->dry = 1;
  theap->dry_pages++;
}
static inline void page_serves(mi_theap_t* theap, mi_page_t* page) {
  page->retire = 0;
  mi_page_is_dry_no_more(theap, page);
}
// Of a page in a queue, outside of a search.
static inline void page_collect_queued(mi_theap_t* theap, mi_page_t* page) {
  _mi_page_collect(page);
  if (page->free != NULL) mi_page_is_dry_no_more(theap, page);
}

mi_page_t* _mi_theap_turn(mi_theap_t* theap, mi_page_t* page) {
  mi_page_t* const next = page->next;
  // A page that still has a few blocks is left for one with more.
  const bool passes =
      (page->local_free != NULL ? mi_page_has_few(page) && !mi_page_has_few(next) : page->capacity == page->reserved);
  if (passes && page->used != 0 && mi_page_has_own(next) && next != page && page_may_dry(theap, page) &&
      MI_LIST_COUNT(mi_load_relaxed(&page->thread_free)) == 0) {
    page_dries(theap, page);
    theap->queue[page->bin] = next;
    mi_direct_replace(theap, page, next);
    page = next;
  }
  if (!mi_page_has_own(page)) return NULL;
  page_serves(theap, page);
  if (MI_DEBUG >= 2 || mi_unlikely(MI_LIST_COUNT(mi_load_relaxed(&page->thread_free)) != 0)) {
    _mi_page_collect(page);
  } else if (mi_likely(page->free == NULL)) {
    mi_theap_supply(theap, page, mi_page_turn(page));
  }
  return page;
}

// A page that nobody has, of the heap or of one that was merged into it. Those that a limit keeps from handing out more
// are taken over all the same, a few of them.
static mi_page_t* theap_reclaim_useful(mi_theap_t* theap, size_t bin) {
  for (int tries = 0; tries < 8; tries++) {
    mi_page_t* page = theap_reclaim_from(theap, theap->heap, bin);
    if (page == NULL) page = _mi_upcalls.reclaim(theap, bin);
    if (page == NULL || page_has_free(page)) return page;
  }
  return NULL;
}

// The first page of the class that can serve: what the queue holds (full ones leave it on the way, so the search is
// short, amortised two steps per page filled), then abandoned pages, then a fresh one. A page that a limit keeps from
// handing out more is not full, and stays.
static mi_page_t* theap_find_page(mi_theap_t* theap, size_t bin) {
  mi_thread_counts_t* const counts = &theap->thread->counts;
  mi_count_own(&counts->searches, 1);
  mi_page_t* page = theap->queue[bin];
  bool refused = false;
  while (page != NULL) {
    mi_count_own(&counts->pages_searched, 1);
    if (page_has_free(page)) {
      page_serves(theap, page);
      if (theap->queue[bin] != page) {  // what stood before it comes last; the direct table finds it
        theap->queue[bin] = page;
        mi_direct_update(theap, bin);
      }
      return page;
    }
    mi_page_t* const next = (page->next == theap->queue[bin] ? NULL : page->next);
    if (mi_unlikely(page->capacity < page->reserved)) {
      refused = true;
    } else if (page_may_dry(theap, page)) {
      page_dries(theap, page);
    } else if (!page_to_full(theap, page) && !page_is_delaying(page)) {
      continue;  // a free came in: it has room after all
    }
    page = next;
  }
  page = theap_reclaim_useful(theap, bin);
  if (page == NULL) {
    if (refused || !mi_theap_has_room(theap, mi_bin_size(bin))) return NULL;
    page = page_fresh(theap, bin, false);
    if (page == NULL) return NULL;
    if (mi_unlikely(!page_has_free(page))) {  // other threads took the room
      page_release(theap, page);
      return NULL;
    }
  }
  if (theap->queue[bin] != page) {
    mi_queue_unlink(theap, bin, page);
    mi_queue_link(theap, bin, page, true);
  }
  return page;
}

#define MI_QUARANTINED_PAGES 8  // that a search looks at and finds all quarantined

// Has the page a free block? If not, its next ones are added, unless a limit refuses them.
static bool bit_page_serves(mi_theap_t* theap, mi_page_t* page) {
  return page->used - page->pinned < page->capacity ||
         (page->capacity < page->reserved && _mi_bits_extend(theap, page));
}

// The same for a theap with a policy. A page without a free block that has some in quarantine, or that a limit keeps
// from growing, is not full: it waits at the end of the queue.
mi_page_t* _mi_theap_bit_page(mi_theap_t* theap, size_t bin) {
  mi_page_t* page = theap->queue[bin];
  if (mi_likely(page != NULL && bit_page_serves(theap, page))) return page;
  mi_count_own(&theap->thread->counts.searches, 1);
  bool found = false, refused = false;
  for (int waiting = 0; page != NULL && waiting < MI_QUARANTINED_PAGES;) {
    mi_count_own(&theap->thread->counts.pages_searched, 1);
    _mi_bits_collect(page);
    found = bit_page_serves(theap, page);
    if (found) break;
    mi_page_t* const next = (page->next == theap->queue[bin] ? NULL : page->next);
    const bool may_grow = (page->capacity < page->reserved);
    if (may_grow || mi_bits_of(page)->quarantined != 0) {
      refused |= may_grow;
      waiting++;
      mi_queue_unlink(theap, bin, page);
      mi_queue_link(theap, bin, page, false);
    } else if (!page_to_full(theap, page) && !page_is_delaying(page)) {
      continue;  // a free came in: it has room after all
    }
    page = next;
  }
  if (!found) page = theap_reclaim_from(theap, theap->heap, bin);
  if (page == NULL) page = _mi_upcalls.reclaim(theap, bin);
  if (page == NULL) {
    if (refused || !mi_theap_has_room(theap, mi_bin_size(bin))) return NULL;
    page = page_fresh(theap, bin, false);
    if (page == NULL) return NULL;
  }
  if (mi_unlikely(!bit_page_serves(theap, page))) {  // other threads took the room
    if (page->capacity == 0) page_release(theap, page);
    return NULL;
  }
  page->retire = 0;
  if (theap->queue[bin] != page) {
    mi_queue_unlink(theap, bin, page);
    mi_queue_link(theap, bin, page, true);
  }
  return page;
}

mi_page_t* _mi_theap_reclaim(mi_theap_t* theap, mi_heap_t* forwarder, size_t bin) {
  return theap_reclaim_from(theap, forwarder, bin);
}

void* _mi_theap_alloc_class(mi_theap_t* theap, size_t bin, bool zero) {
  bin = mi_theap_bin(theap, bin);
  mi_page_t* page = theap->queue[bin];
  if (page == NULL || page->free == NULL) {
    page = theap_find_page(theap, bin);
    if (page == NULL) return NULL;
  }
  mi_block_t* const block = page->free;
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

static void* solo_failed(mi_theap_t* theap, size_t charged) {
  mi_theap_add(theap, -(int64_t)charged);
  return NULL;
}

static void huge_guard(mi_page_t* page) {
  size_t index;
  page->block_size -= MI_OS_PAGE;
  uint8_t* const guard = huge_guard_of(page);
  if (!_mi_arena_of(guard, &index)->is_foreign && _mi_os_guard_dear(guard, MI_OS_PAGE, true))
    page->bits->guard = MI_OS_PAGE;
}

// The one block of a page that was just made is handed out. There is no free block and never will be while it lives:
// the page is full from the start, so that every free takes the slow path.
static void solo_begin(mi_theap_t* theap, mi_page_t* page) {
  page->used = page->capacity = page->reserved = 1;
  page_supply(page, 1);
  _Atomic(mi_thread_free_t)* const word = mi_page_word(page);
  mi_store_release(word, mi_word_base(page, mi_load_relaxed(word)) | MI_DELAYED);
  mi_queue_link(theap, MI_BIN_FULL, page, false);
  page->in_full = 1;
  owner_flag(page, MI_OWNER_FULL, true);
}

// Gives back the slices of a page that nobody knows yet, but for the first ones.
static void page_cut(mi_page_t* page, size_t slices) {
  if (mi_likely(page->slices <= slices)) return;
  page[slices].slices = (uint8_t)(page->slices - slices);
  page->slices = (uint8_t)slices;
  _mi_slices_release(&page[slices], 0);
}

// `policy`: of the page, which is the theap's but for guarded blocks. `bare`: as in page_fresh.
static void* solo_alloc_in(mi_theap_t* theap, uint8_t policy, mi_arena_t* arena, size_t size, size_t alignment,
                           size_t offset, bool zero, bool bare) {
  bool is_zero;
  mi_page_t* page;
  if (size == 0) size = 1;
  // The block itself starts at a multiple of 8, whatever the offset: it is a link of lists when it is free.
  const size_t inside = (0 - offset) & (sizeof(mi_block_t) - 1) & (alignment - 1);
  offset += inside;
  size += inside;
  const size_t slack = (alignment <= MI_SLICE_SIZE && offset == 0 ? 0 : alignment);
  if (size > MI_AMOUNT_MAX) return NULL;
  const size_t charged = mi_round_up(size, MI_OS_PAGE);
  if (!mi_theap_charge(theap, charged)) return NULL;  // before memory is taken
  const size_t room_for_guard = (mi_policy_guards(policy, true) ? MI_OS_PAGE : 0);
  if (size <= MI_SOLO_SIZE_MAX - room_for_guard && slack <= MI_SOLO_SIZE_MAX - room_for_guard - size) {
    const size_t slices = (size + slack + room_for_guard + MI_SLICE_SIZE - 1) >> MI_SLICE_SHIFT;
    const mi_want_t want = {slices, 0, arena, room_for_guard != 0, bare};
    page = theap_claim_slices(theap, &want, &is_zero);
    if (page == NULL) return solo_failed(theap, charged);
    uint8_t* const start = (uint8_t*)mi_page_segment(page) + mi_page_slice(page) * MI_SLICE_SIZE;
    page->start = (uint8_t*)(((uintptr_t)start + offset + alignment - 1) / alignment * alignment - offset);
    page->block_size = mi_round_up(size, MI_OS_PAGE);
    if (mi_unlikely(room_for_guard != 0)) {  // what was for the alignment is not between the block and its guard
      page_cut(page, ((size_t)(page->start - start) + size + room_for_guard + MI_SLICE_SIZE - 1) >> MI_SLICE_SHIFT);
    }
    size_t guard = 0;
    if (mi_unlikely(page_may_have_guard(theap)) && !page_guard(policy, page, true, &guard)) {
      _mi_slices_release(page, 0);
      solo_failed(theap, charged);
      return (bare ? NULL : solo_alloc_in(theap, policy, arena, size - inside, alignment, offset - inside, zero, true));
    }
    const size_t room = page->slices * MI_SLICE_SIZE - guard - (size_t)(page->start - start);
    if (page->block_size > room) page->block_size = room;
    page->reserved = 1;
    if (mi_unlikely(!page_init_policy(theap, policy, page, MI_PAGE_SOLO))) {
      _mi_slices_release(page, 0);
      return solo_failed(theap, charged);
    }
    if (guard != 0) page->bits->guard = (uint32_t)guard;
    page_init(theap, page, MI_PAGE_SOLO, MI_BIN_SOLO, is_zero);
  } else {
    page = _mi_huge_claim(size + room_for_guard, alignment, offset, inside, arena, &is_zero);
    if (page == NULL) return solo_failed(theap, charged);
    page->reserved = 1;
    if (mi_unlikely(!page_init_policy(theap, policy, page, MI_PAGE_HUGE))) {
      _mi_huge_release(page);
      return solo_failed(theap, charged);
    }
    if (room_for_guard != 0) huge_guard(page);
    page_init(theap, page, MI_PAGE_HUGE, MI_BIN_SOLO, is_zero);
  }
  if (mi_unlikely(page->policy != 0)) {
    mi_bits_t* const bits = mi_bits_of(page);
    bits->inside = (uint16_t)inside;
    page->recycled = 1;
    mi_store_relaxed(&bits->states[0], MI_STATE_WIDE);
  }
  if (mi_unlikely(page->block_size != charged)) mi_theap_add(theap, (int64_t)page->block_size - (int64_t)charged);
  solo_begin(theap, page);
  if (zero && !is_zero) memset(page->start, 0, page->block_size);
  return page->start + inside;
}

static void* solo_alloc(mi_theap_t* theap, uint8_t policy, mi_arena_t* arena, size_t size, size_t alignment,
                        size_t offset, bool zero) {
  return solo_alloc_in(theap, policy, arena, size, alignment, offset, zero, false);
}

void* _mi_theap_alloc_solo(mi_theap_t* theap, size_t size, size_t alignment, size_t offset, bool zero) {
  return solo_alloc(theap, theap->policy, theap->arena, size, alignment, offset, zero);
}

void* _mi_internal_alloc_in(mi_thread_t* thread, mi_arena_t* arena, size_t size) {
  if (arena == NULL) return _mi_internal_zalloc(thread, size);
  return solo_alloc(&thread->internal_theap, 0, arena, size, 1, 0, true);
}

// Pages of guarded blocks (guard.c).
mi_page_t* _mi_guard_page_fresh(mi_theap_t* theap, size_t size, bool* zero) {
  uint8_t* const start = solo_alloc(theap, 0, theap->arena, size, MI_OS_PAGE, 0, false);
  if (start == NULL) return NULL;
  mi_page_t* const page = _mi_page_of_any(start);
  mi_assert(page->start == start);
  *zero = (page->fresh_zero != 0);
  return page;
}

bool _mi_guard_page_again(mi_theap_t* theap, mi_page_t* page, size_t size) {
  if (!mi_theap_charge(theap, size)) return false;
  page->block_size = size;
  page_init(theap, page, MI_PAGE_SOLO, MI_BIN_SOLO, true);
  solo_begin(theap, page);
  return true;
}

void _mi_guard_page_release(mi_page_t* page) {
  if (page->slices == 0) {
    page->kind = MI_PAGE_HUGE;
    _mi_huge_release(page);
  } else {
    _mi_slices_release(page, page->slices * MI_SLICE_SIZE);
  }
  _mi_purge_step();
}

void _mi_page_mark_interior(mi_page_t* page) { owner_flag(page, MI_OWNER_INTERIOR, true); }

// --- whole theaps ----------------------------------------------------------------------------------------------------

// Calls `fn` for every page of the theap; it may unlink and release the page that it is given. Full pages come first,
// and those that stand first in their queues last: of those that a thread abandons, the ones with room are then on top
// of the stacks, where allocation finds them at once.
static void theap_for_each(mi_theap_t* theap, void (*fn)(mi_theap_t*, mi_page_t*, bool), bool arg) {
  for (size_t bin = MI_BIN_COUNT - 1; bin > 0; bin--) {
    mi_page_t* const first = theap->queue[bin];
    if (first == NULL) continue;
    mi_page_t* page = first->prev;
    for (bool more = true; more;) {
      mi_page_t* const prev = page->prev;
      more = (page != first);
      fn(theap, page, arg);
      page = prev;
    }
  }
}

static void collect_page(mi_theap_t* theap, mi_page_t* page, bool force) {
  if (mi_page_is_single(page)) return;
  page_collect_queued(theap, page);
  if (page->policy != 0 && force) _mi_bits_release_old(page, true);              // memory is short: quarantine ends
  if (page->in_full && page_empty_opens(theap, page)) page_unfull(theap, page);  // it was sealed when it was held
  if (page->used == 0 && !page_is_delaying(page) && (force || page->next != page || page->retire == 0) &&
      !_mi_heap_is_held(theap->heap)) {
    page_release(theap, page);
  }
}

void _mi_theap_collect(mi_theap_t* theap, bool force) {
  _mi_theap_drain_delayed(theap);
  theap_for_each(theap, collect_page, force);
  theap_sweep_retired(theap, force);
  theap_sweep_late(theap, SIZE_MAX, force);
}

// Would a collect empty the page, or does it need no walk? Else it can wait until the page's free list runs dry.
static bool page_is_worth_collecting(const mi_page_t* page) {
  if (page->policy != 0 || page->free == NULL || page->local_free == NULL) return true;
  return MI_LIST_COUNT(mi_load_relaxed(&((mi_page_t*)page)->thread_free)) == page->used;
}

void _mi_theap_collect_step(mi_theap_t* theap) {
  size_t bin = theap->collect_bin;
  for (int n = 0; n < 8; n++) {  // a class that has pages, among the next few
    bin = bin % MI_BIN_LAST + 1;
    if (theap->queue[bin] != NULL) break;
  }
  theap->collect_bin = (uint8_t)bin;
  for (int n = 0; n < 4; n++) {
    mi_page_t* const first = theap->queue[bin];
    if (first == NULL) return;
    mi_page_t* const page = first->prev;
    if (page_is_worth_collecting(page)) page_collect_queued(theap, page);
    if (page->used == 0 && page != first && !page_is_delaying(page) && !_mi_heap_is_held(theap->heap)) {
      page_release(theap, page);
      continue;
    }
    // Not _mi_page_retire: a freer that was DELAYING above may be through by now, and the page would be gone below.
    if (page->used == 0 && page->retire == 0) page_release_later(theap, page);
    if (page == first || page == theap->queue[bin]) return;
    // Another one the next time: it comes second.
    const uint8_t dry = page->dry;
    mi_queue_unlink(theap, bin, page);
    mi_queue_link_second(theap, bin, page);
    page->dry = dry;
    theap->dry_pages += dry;
  }
}

// Frees a page with its blocks, of a theap or a thread that has no use for it any more. It is in no queue.
static void free_held_page(mi_heap_t* heap, mi_page_t* page) {
  _Atomic(mi_thread_free_t)* const word = mi_page_word(page);
  mi_thread_free_t tf = mi_load_acquire(word);
  if (mi_unlikely((tf & MI_LISTED) != 0)) {
    _mi_stats_page_dropped(page, false);
    if (page->policy != 0) _mi_bits_drop(page);
    while (!mi_cas_weak_acq_rel(word, &tf, mi_word_base(page, tf) | MI_NORMAL)) {
    }
    page_forget_lists(page);
    page->used = 0;
    page->recycled = (page->policy != 0 ? 0 : 0 - (uint64_t)page->capacity);  // its blocks are counted
    mi_fetch_add_acq_rel(&heap->pages_out, 1);
    page_give_up(page, false);
  } else {
    page_drop(page);
  }
}

void _mi_theap_free_pages(mi_theap_t* theap) {
  for (size_t bin = MI_BIN_COUNT - 1; bin > 0 && theap->page_count > 0; bin--) {
    mi_page_t* page = theap->queue[bin];
    if (page == NULL) continue;
    mi_page_t* const last = page->prev;
    theap->queue[bin] = NULL;
    mi_direct_update(theap, bin);
    for (bool more = true; more;) {
      mi_page_t* const next = page->next;
      more = (page != last);
      theap->page_count--;
      free_held_page(theap->heap, page);
      page = next;
    }
  }
  theap->retire_low = MI_BIN_COUNT - 1;
  theap->retire_high = 0;
  theap->dry_pages = 0;
  theap->depth = 0;
  mi_store_relaxed(&theap->remote_frees, 0);
  mi_store_relaxed(&theap->delayed_free, (mi_block_t*)NULL);
  mi_assert(theap->page_count == 0);
}

// A page of a theap that is reset starts again with nothing in it. It is in no queue and in no stack.
static void page_start_again(mi_page_t* page) {
  _mi_stats_page_dropped(page, false);
  mi_page_uncharge(page);
  if (page->policy != 0) _mi_bits_drop(page);
  page_forget_lists(page);
  page->used = page->capacity = 0;
  page->worn = 1;
  page->fresh_zero = page->free_zero = 0;
  page->in_full = 0;
  page->retire = 0;
  page->delayed = 0;
  page->recycled = 0;
  page->depth = 0;
  const mi_tid_t flags = (mi_policy_is_generic(page->policy) ? MI_OWNER_INTERIOR : 0);
  mi_store_release(&page->owner, (mi_load_relaxed(&page->owner) & ~MI_OWNER_FLAGS) | flags);
  _Atomic(mi_thread_free_t)* const word = mi_page_word(page);
  mi_store_release(word, mi_word_base(page, mi_load_relaxed(word)) | MI_NORMAL);
}

// Empties a theap for a reset: pages of classes stay, up to `keep` bytes of them, and the others go.
void _mi_theap_reset(mi_theap_t* theap, size_t keep, void (*kept)(mi_part_t* part, size_t size)) {
  mi_page_t* list = NULL;
  for (size_t bin = 1; bin <= MI_BIN_FULL && keep > 0; bin++) {
    mi_page_t* page = theap->queue[bin];
    for (uint32_t left = theap->page_count; page != NULL && left > 0; left--) {
      mi_page_t* const next = (page->next == theap->queue[bin] ? NULL : page->next);
      const size_t size = page->slices * MI_SLICE_SIZE;
      if (page->kind == MI_PAGE_CLASS && size <= keep && (mi_load_acquire(mi_page_word(page)) & MI_LISTED) == 0) {
        mi_queue_unlink(theap, bin, page);
        theap->page_count--;
        page->next = list;
        list = page;
        keep -= size;
      }
      page = next;
    }
  }
  _mi_theap_free_pages(theap);
  while (list != NULL) {
    mi_page_t* const page = list;
    list = page->next;
    page_start_again(page);
    mi_queue_link(theap, page->bin, page, false);
    theap->page_count++;
    kept(theap->part, page->block_size);
  }
}

// --- marks ----------------------------------------------------------------------------------------------------------
// A heap's marks are counted: a page remembers how many there were when it was made, its depth. Pages of a lower depth
// than their theap's are sealed (page_seal), so that all blocks of a page are older than a mark, or all are younger.
// The caller has the theap, and the heap to itself: no free is on its way.

void _mi_theap_seal(mi_theap_t* theap, uint16_t depth) {
  _mi_theap_drain_delayed(theap);
  for (size_t bin = 1; bin <= MI_BIN_LAST; bin++) {
    for (mi_page_t* page; (page = theap->queue[bin]) != NULL;) {
      _mi_page_collect(page);
      if (page->used == 0 && !page_is_delaying(page) && !_mi_heap_is_held(theap->heap)) {
        page_release(theap, page);
      } else {
        page_seal(theap, page);
      }
    }
  }
  theap->depth = depth;
}

static void rewind_page(mi_theap_t* theap, mi_page_t* page, bool unused) {
  (void)unused;
  if (page->depth < theap->depth) return;
  if (!page->in_full && mi_page_is_single(page)) {  // its block is freed: see theap_sweep_late
    page->depth = theap->depth;
    return;
  }
  mi_queue_unlink(theap, page->in_full ? MI_BIN_FULL : page->bin, page);
  theap->page_count--;
  if (mi_unlikely(page->policy != 0)) _mi_bits_take_back(theap, page);
  free_held_page(theap->heap, page);
}

// Frees the pages of this depth and more.
void _mi_theap_rewind(mi_theap_t* theap, uint16_t depth) {
  _mi_theap_drain_delayed(theap);
  theap->depth = depth;
  theap_for_each(theap, rewind_page, false);
}

static void unseal_page(mi_theap_t* theap, mi_page_t* page, bool unused) {
  (void)unused;
  if (page->depth > theap->depth) page->depth = theap->depth;
  if (!page->in_full || mi_page_is_single(page) || page->depth < theap->depth) return;
  _mi_page_collect(page);
  if (!page_has_room(page) && (page->policy != 0 || page->local_free == NULL)) return;
  page_unfull(theap, page);
  if (page->used == 0) _mi_page_retire(page);
}

// Pages of more than this depth get it, and those that it does not seal any more serve again.
void _mi_theap_unseal(mi_theap_t* theap, uint16_t depth) {
  _mi_theap_drain_delayed(theap);
  theap->depth = depth;
  theap_for_each(theap, unseal_page, false);
}

// A heap with marks has its table of stacks before it has pages that could be abandoned: none is ever an orphan.
bool _mi_abandoned_ready(mi_heap_t* heap) {
  return heap_abandoned(heap, _mi_tls.thread) != NULL && _mi_orphans_settle(heap);
}

void _mi_abandoned_rewind(mi_heap_t* heap, uint16_t depth) {
  mi_abandoned_t* const abandoned = heap_abandoned(heap, NULL);
  for (size_t bin = 1; abandoned != NULL && bin < MI_BIN_COUNT; bin++) {
    for (mi_page_t* page = mi_stack_take(&abandoned->list[bin]); page != NULL;) {
      mi_page_t* const next = mi_load_relaxed(&page->listed_next);
      if (page_claim_popped(page)) {
        if (page->depth >= depth) {
          page_drop(page);
          atomic_fetch_sub_explicit(&heap->pages_out, 1, memory_order_acq_rel);
        } else {
          page_give_up(page, true);
        }
      }
      page = next;
    }
  }
}

void _mi_abandoned_unseal(mi_heap_t* heap, uint16_t depth) {
  for (size_t bin = 1; bin < MI_BIN_COUNT; bin++) {
    for (mi_page_t* page = _mi_abandoned_first(heap, bin); page != NULL; page = mi_load_relaxed(&page->listed_next)) {
      if (MI_STATE(mi_load_acquire(mi_page_word(page))) == MI_ABANDONED && page->depth > depth) page->depth = depth;
    }
  }
}

typedef struct frozen_s {
  mi_heap_t* heap;
  uint16_t depth;
} frozen_t;

static bool frozen_rewind(mi_page_t* page, void* arg) {
  const frozen_t* const frozen = arg;
  if (page->depth >= frozen->depth) free_held_page(frozen->heap, page);
  return true;
}

static bool frozen_unseal(mi_page_t* page, void* arg) {
  const frozen_t* const frozen = arg;
  if (page->depth > frozen->depth) page->depth = frozen->depth;
  return true;
}

// The same for pages of threads that are gone, in the child of a fork.
void _mi_frozen_pages_rewind(mi_heap_t* heap, uint16_t depth) {
  _mi_frozen_pages_each(heap, frozen_rewind, &(frozen_t){heap, depth});
}
void _mi_frozen_pages_unseal(mi_heap_t* heap, uint16_t depth) {
  _mi_frozen_pages_each(heap, frozen_unseal, &(frozen_t){heap, depth});
}

// --- abandoning a theap ---------------------------------------------------------------------------------------------

static void abandon_page(mi_theap_t* theap, mi_page_t* page, bool unused) {
  (void)unused;
  mi_heap_t* const heap = theap->heap;
  mi_queue_unlink(theap, page->in_full ? MI_BIN_FULL : page->kind == MI_PAGE_CLASS ? page->bin : MI_BIN_LATE, page);
  theap->page_count--;
  page->in_full = 0;
  page->delayed = 0;
  page->retire = 0;
  mi_fetch_add_acq_rel(&heap->pages_out, 1);
  page_give_up(page, true);
}

// DELAYED pages become NORMAL, so that no free leads to the theap any more; false if one is DELAYING.
static bool theap_cut_delayed(mi_theap_t* theap) {
  bool clean = true;
  for (size_t bin = MI_BIN_FULL; bin <= MI_BIN_LATE; bin++) {
    mi_page_t* const first = theap->queue[bin];
    if (first == NULL) continue;
    mi_page_t* page = first;
    do {
      if (page_end_delayed(page) && page->policy == 0) page->delayed--;  // nobody was there
      if (page_is_delaying(page)) clean = false;
      page = page->next;
    } while (page != first);
  }
  // Class pages that left the full list while their freer was DELAYING stand in their queues.
  for (size_t bin = 1; bin < MI_BIN_FULL && clean; bin++) {
    mi_page_t* const first = theap->queue[bin];
    if (first == NULL) continue;
    mi_page_t* page = first;
    do {
      if (page_is_delaying(page)) clean = false;
      page = page->next;
    } while (page != first);
  }
  return clean;
}

bool _mi_theap_abandon(mi_theap_t* theap, bool wait) {
  // A wait: for a thread that is between the two halves of one remote free.
  if (theap->policy != 0) _mi_theap_drain_delayed(theap);
  while (!theap_cut_delayed(theap)) {
    if (!wait) return false;
    if (theap->policy != 0) _mi_theap_drain_delayed(theap);  // what is queued counts as DELAYING
    mi_count(&_mi_stats.abandon_waits, 1);
    _mi_os_yield();
  }
  _mi_theap_drain_delayed(theap);
  theap_for_each(theap, abandon_page, false);
  _mi_stats_theap_ends(theap);
  mi_assert(theap->page_count == 0);
  return true;
}

// --- in the child of a fork -----------------------------------------------------------------------------------------

static uint32_t list_length(const mi_block_t* block, uint32_t most) {
  uint32_t length = 0;
  for (; block != NULL && length < most; block = block->next) length++;
  return length;
}

// A free by a thread that is gone may have stopped between its two halves: nobody ends DELAYING. The freer may not have
// told the theap yet, so that a full page becomes DELAYED again: the next freer tells it. `pinned`: a visitor that is
// gone may have counted itself among the live blocks of the pages.
static void page_settle(mi_theap_t* theap, mi_page_t* page, bool pinned) {
  if (page->policy != 0) {
    _mi_bits_settle(theap, page);
    if (!pinned) return;
    page->pinned = 0;
    page->used = _mi_bits_used(page);
    if (!page->in_full && page->used == 0 && page->retire == 0) page->retire = 1;
    return;
  }
  const mi_thread_free_t tf = mi_load_relaxed(&page->thread_free);
  const uintptr_t state = (page->in_full ? MI_DELAYED : MI_NORMAL);
  if (MI_STATE(tf) == MI_DELAYING) {
    mi_store_relaxed(&page->thread_free, MI_WITH_STATE(tf, state));
    page->delayed = 0;
    const size_t size = page->reserved * page->block_size;
    const mi_block_t* block = mi_load_acquire(&theap->delayed_free);
    for (; block != NULL; block = block->next) {
      if ((size_t)((const uint8_t*)block - page->start) < size || mi_guard_link_page(block) == page) page->delayed++;
    }
  }
  if (!pinned) return;
  page->pinned = 0;
  if (mi_page_is_single(page)) {
    page->used = (page->in_full ? 1 : 0);
  } else {
    page->used = page->capacity;
    page->used -= list_length(page->free, page->used);
    page->used -= list_length(page->local_free, page->used);
    if (page->used == 0 && page->retire == 0) page->retire = 1;  // for the next look at retired pages
  }
}

// The queues are walked as if they could be broken: a program may fork in a signal handler, and then do nothing in the
// child that needs them.
void _mi_theap_settle(mi_theap_t* theap, bool pinned) {
  if (theap->policy != 0) theap->random = _mi_os_random();  // the child's order of blocks is its own
  uint32_t left = theap->page_count;
  for (size_t bin = 1; bin < MI_BIN_COUNT; bin++) {
    mi_page_t* const first = theap->queue[bin];
    mi_page_t* page = first;
    while (page != NULL && left > 0) {
      left--;
      page_settle(theap, page, pinned);
      page = (page->next == first ? NULL : page->next);
    }
  }
  if (pinned) {
    theap->retire_low = 1;
    theap->retire_high = MI_BIN_LAST;
  }
}

// Pages of threads that are gone are found by their slots: their theaps' queues may be broken. A page is the thread's
// from the last store that makes it until the first one that gives it up; the short ways before and after are not
// looked for: what was on one stays where it is.
bool _mi_frozen_pages_each(mi_heap_t* heap, bool (*fn)(mi_page_t*, void*), void* arg) {
  if (_mi_fork_stamp == 1) return true;
  for (size_t i = 0; i < MI_ARENAS_MAX; i++) {
    mi_arena_t* const arena = mi_load_acquire(&_mi_arenas[i]);
    if (arena == NULL) break;
    const size_t ready = mi_load_acquire(&arena->ready);
    for (size_t index = 0; index < ready; index++) {
      const uint8_t kind = mi_load_acquire(&arena->kind[index]);
      if (kind != MI_SEGMENT_NORMAL && kind != MI_SEGMENT_HUGE_START) continue;
      mi_segment_t* const segment = (mi_segment_t*)mi_arena_segment(arena, index);
      const size_t last = (kind == MI_SEGMENT_NORMAL ? MI_SLICES_PER_SEGMENT - 1 : 1);
      for (size_t s = 1; s <= last; s++) {
        mi_page_t* const page = &segment->slot[s];
        if (!mi_page_is_frozen(page) || mi_load_relaxed(&page->heap) != heap) continue;
        if (page->kind != MI_PAGE_CLASS && !mi_page_is_single(page)) continue;
        if (!fn(page, arg)) return false;
      }
    }
  }
  return true;
}

static bool free_frozen_page(mi_page_t* page, void* heap) {
  free_held_page(heap, page);
  return true;
}

void _mi_frozen_pages_free(mi_heap_t* heap) { _mi_frozen_pages_each(heap, free_frozen_page, heap); }
