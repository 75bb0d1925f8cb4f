// Checking a heap: every invariant that ties its handle, parts, regions, theaps, pages and lists together, walked
// through from the handle on. The first breach is named, and ends the walk.
//
// What is read may be wrong, since that is the question: an address is followed only after it is found to lead to what
// it should, and every walk is bounded. Nothing is changed and nothing allocated. The heap's theaps are BUSY meanwhile,
// as in a visit (visit.c), so that threads which use other heaps may exit or collect at the same time; by contract
// nobody uses the heap itself. Heaps that were merged into it are part of it.
//
// Of threads that are gone in the child of a fork nothing is known (fork.c): their parts and pages are left out.
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "mi/heap/parts.h"
#include "mi/internal/bit_page.h"
#include "mi/internal/guard.h"
#include "mi/internal/os.h"
#include "mi/internal/page_queue.h"
#include "mi/internal/space.h"
#include "mi/internal/stack.h"
#include "mi/internal/stats.h"

#define MI_BLOCKS_MAX (MI_SLICE_SIZE / 8)
#define LANES_MAX ((size_t)1 << 24)  // more than there can be thread records
#define PAGES_MAX ((size_t)1 << 30)
#define SETTLE_TRIES 1000

typedef struct check_s {
  mi_heap_t* heap;   // that is checked
  mi_heap_t* at;     // it, or one that was merged into it
  uint64_t pages;    // met so far, of all of them
  uint64_t waiting;  // pages without a theap, of `at`
  int64_t held;      // bytes that `at` should be charged with, but for its first part
  int64_t merged;    // bytes that heaps hold which were merged into `heap`
  bool held_agrees;  // what they are charged with is right; else what should be, and what is
  int64_t expected, counted;
  size_t theaps;  // of `at`: the first so many parts' slots are BUSY
  size_t parts;   // that were looked at for slots
  uint64_t bits[MI_BLOCKS_MAX / 64];
} check_t;

// --- reports ------------------------------------------------------------------------------------------------------

static bool report(const check_t* check, const char* what, const void* address, const char* format, va_list args) {
  char text[256];
  vsnprintf(text, sizeof(text), format, args);
  char merged[48] = "";
  if (check->at != check->heap) {
    snprintf(merged, sizeof(merged), ", of %p that was merged into it", (const void*)check->at);
  }
  _mi_report(EFAULT, "mi_heap_check: heap %p (%.63s)%s: %s %p: %s\n", (const void*)check->heap,
             mi_heap_name(check->heap), merged, what, address, text);
  return false;
}

#define BREACH(name, what, type)                                                                                   \
  static __attribute__((format(printf, 3, 4))) bool name(const check_t* check, const type* at, const char* format, \
                                                         ...) {                                                    \
    va_list args;                                                                                                  \
    va_start(args, format);                                                                                        \
    report(check, what, at, format, args);                                                                         \
    va_end(args);                                                                                                  \
    return false;                                                                                                  \
  }
BREACH(heap_breach, "handle", mi_heap_t)
BREACH(part_breach, "part", mi_part_t)
BREACH(region_breach, "region", mi_region_t)
BREACH(theap_breach, "theap", mi_theap_t)
BREACH(page_breach, "page", mi_page_t)

// --- where an address leads ----------------------------------------------------------------------------------------

// Is this the slot of a page?
static bool is_slot(const mi_page_t* page) {
  const uintptr_t offset = (uintptr_t)page & MI_SEGMENT_MASK;
  if (offset < sizeof(mi_page_t) || offset >= sizeof(mi_segment_t) || offset % sizeof(mi_page_t) != 0) return false;
  size_t index;
  mi_arena_t* const arena = _mi_arena_of((const uint8_t*)page + 1, &index);
  if (arena == NULL) return false;
  const uint8_t kind = mi_load_acquire(&arena->kind[index]);
  return kind == MI_SEGMENT_NORMAL || (kind == MI_SEGMENT_HUGE_START && mi_page_slice(page) == 1);
}

// The page of the internal heap that has a block of at least `size` bytes at this address; NULL if there is none. The
// page may be at work for another thread: only what stays while the block lives is read.
static MI_RACY const mi_page_t* internal_page(const void* p, size_t size) {
  size_t index;
  if ((uintptr_t)p % sizeof(void*) != 0) return NULL;
  mi_arena_t* const arena = _mi_arena_of((const uint8_t*)p + 1, &index);
  if (arena == NULL || mi_load_acquire(&arena->kind[index]) != MI_SEGMENT_NORMAL) return NULL;
  const mi_page_t* page = mi_slot_of((const uint8_t*)p + 1);
  const size_t distance = mi_racy(page->distance);
  if (mi_racy(page->kind) == MI_PAGE_TAIL && distance < mi_page_slice(page)) page -= distance;
  const uint8_t kind = mi_racy(page->kind);
  if (kind != MI_PAGE_CLASS && kind != MI_PAGE_SOLO) return NULL;
  if (mi_load_relaxed((_Atomic(mi_heap_t*)*)&page->heap) != &_mi_heap_internal) return NULL;
  const size_t block_size = mi_racy(page->block_size);
  const size_t inside = (size_t)((const uint8_t*)p - mi_racy(page->start));
  return (block_size >= size && inside % block_size == 0 ? page : NULL);
}

// --- pages ---------------------------------------------------------------------------------------------------------

static bool check_class_shape(const check_t* check, const mi_page_t* page) {
  const size_t slice = mi_page_slice(page);
  if (page->bin == 0 || page->bin > MI_BIN_LAST) return page_breach(check, page, "class %u is none", page->bin);
  const size_t size = mi_bin_size(page->bin);
  if (page->block_size != size)
    return page_breach(check, page, "blocks of %zu bytes in class %u of %zu", page->block_size, page->bin, size);
  const size_t slices = page->slices, most = mi_page_slices(page->policy, size, false);
  const bool may_be_short = (page->policy == 0 && size > MI_SMALL_PAGE_BLOCK_MAX);
  if (may_be_short ? slices < 1 || slices > most : slices != most)
    return page_breach(check, page, "%zu slices instead of %zu", slices, most);
  if (page->start != (uint8_t*)mi_page_segment(page) + slice * MI_SLICE_SIZE)
    return page_breach(check, page, "its blocks start at %p", (void*)page->start);
  const size_t room = slices * MI_SLICE_SIZE - (page->policy != 0 ? mi_bits_of(page)->guard : 0);
  if (page->reserved != room / size)
    return page_breach(check, page, "%u blocks fit, not %u", (unsigned)(room / size), page->reserved);
  if (page->color >= page->reserved) return page_breach(check, page, "colour %u is none", page->color);
  return true;
}

static bool check_single_shape(const check_t* check, const mi_page_t* page) {
  if (page->bin != MI_BIN_SOLO) return page_breach(check, page, "class %u of a page with one block", page->bin);
  if (page->reserved != 1) return page_breach(check, page, "room for %u blocks instead of one", page->reserved);
  const uintptr_t segment = (uintptr_t)mi_page_segment(page), start = (uintptr_t)page->start;
  if (page->kind == MI_PAGE_SOLO) {
    const uintptr_t room = segment + mi_page_slice(page) * MI_SLICE_SIZE, end = room + page->slices * MI_SLICE_SIZE;
    if (start < room || start > end || page->block_size > end - start)
      return page_breach(check, page, "its block of %zu bytes at %p is not within its slices", page->block_size,
                         (void*)page->start);
    return true;
  }
  size_t index;
  mi_arena_t* const arena = _mi_arena_of((const uint8_t*)page + 1, &index);
  const size_t count = (start - segment + page->block_size + MI_SEGMENT_MASK) >> MI_SEGMENT_SHIFT;
  if (start < segment + MI_SLICE_SIZE || page->block_size == 0 || index + count > arena->segment_count)
    return page_breach(check, page, "its block of %zu bytes at %p is not within its segments", page->block_size,
                       (void*)page->start);
  for (size_t i = 1; i < count; i++) {
    if (mi_load_acquire(&arena->kind[index + i]) != MI_SEGMENT_HUGE_INSIDE)
      return page_breach(check, page, "segment %zu of its run is not its own", i);
  }
  return true;
}

// Kind, class, place: what is constant while the page lives.
static bool check_shape(const check_t* check, const mi_page_t* page) {
  size_t index;
  mi_arena_t* const arena = _mi_arena_of((const uint8_t*)page + 1, &index);
  const bool huge = mi_load_acquire(&arena->kind[index]) == MI_SEGMENT_HUGE_START;
  if ((page->kind != MI_PAGE_CLASS && page->kind != MI_PAGE_SOLO && page->kind != MI_PAGE_HUGE) ||
      (page->kind == MI_PAGE_HUGE) != huge)
    return page_breach(check, page, "kind %u", page->kind);
  if (page->kind != MI_PAGE_HUGE) {
    const size_t slice = mi_page_slice(page);
    if (page->slices == 0 || slice + page->slices > MI_SLICES_PER_SEGMENT)
      return page_breach(check, page, "%u slices from slice %zu of its segment", page->slices, slice);
    if ((mi_load_acquire(&arena->info[index].free) & mi_run_mask(slice, page->slices)) != 0)
      return page_breach(check, page, "slices of it are free");
    for (size_t i = 1; i < page->slices; i++) {
      if (page[i].kind != MI_PAGE_TAIL || page[i].distance != i)
        return page_breach(check, page, "slice %zu of it does not lead to it", i);
    }
  }
  return (page->kind == MI_PAGE_CLASS ? check_class_shape(check, page) : check_single_shape(check, page));
}

static bool is_zero(const void* from, size_t size) {
  const uint64_t* word = from;
  uint64_t sum = 0;
  for (; size >= sizeof(*word); size -= sizeof(*word)) sum |= *word++;
  return sum == 0;
}

// One of the page's lists of free blocks. Its length is added to `*length`.
static bool check_list(check_t* check, const mi_page_t* page, const char* name, const mi_block_t* block, bool zero,
                       uint32_t* length) {
  const size_t size = page->block_size;
  const uint32_t reserved = page->reserved;
  for (; block != NULL; block = block->next) {
    if (mi_unlikely(page->guard != 0) && block == mi_page_single_block(page) && *length == 0) {
      ++*length;
      continue;
    }
    const size_t offset = (size_t)((const uint8_t*)block - page->start), number = offset / size;
    if (number >= reserved || number * size != offset)
      return page_breach(check, page, "its list %s leads to %p, where no block starts", name, (const void*)block);
    const uint32_t order = (uint32_t)number + (number < page->color ? reserved : 0) - page->color;
    if (order >= page->capacity)
      return page_breach(check, page, "its list %s holds %p, which never was a block", name, (const void*)block);
    uint64_t* const bits = &check->bits[number / 64];
    if ((*bits >> (number % 64) & 1) != 0)
      return page_breach(check, page, "its list %s holds %p, which is free already", name, (const void*)block);
    *bits |= (uint64_t)1 << (number % 64);
    if (zero && !is_zero(block + 1, size - sizeof(*block)))
      return page_breach(check, page, "the free block %p was written to", (const void*)block);
    ++*length;
  }
  return true;
}

// What was never handed out, in the two stretches that the page's colour makes of it.
static bool check_fresh(const check_t* check, const mi_page_t* page) {
  const size_t size = page->block_size, reserved = page->reserved;
  size_t from = page->capacity + page->color, count = reserved - page->capacity;
  if (from >= reserved) from -= reserved;
  if (page->guard != 0) return true;  // an OS page of it cannot be read
  for (int stretch = 0; stretch < 2; stretch++) {
    const size_t n = (count < reserved - from ? count : reserved - from);
    if (!is_zero(page->start + from * size, n * size))
      return page_breach(check, page, "memory that was never handed out was written to");
    from = 0;
    count -= n;
  }
  return true;
}

// The bits of a page with a policy.
static bool check_bits(check_t* check, const mi_page_t* page) {
  const mi_bits_t* const bits = mi_bits_of(page);
  if (bits->page != page) return page_breach(check, page, "its bits are of page %p", (void*)bits->page);
  if (page->free != NULL || page->bits != bits)
    return page_breach(check, page, "a page with a policy, and a list of free blocks");
  uint32_t quarantined = 0;
  for (size_t w = 0; w < mi_bits_word_count(page); w++) {
    const uint64_t remote = mi_load_acquire(mi_bits_remote(bits, w)), gone = mi_bits_in_state(bits, w, MI_STATE_REMOTE);
    const uint64_t taken = mi_bits_taken(bits, w), out = mi_bits_withheld(bits, w);
    const size_t left = (page->capacity > 64 * w ? page->capacity - 64 * w : 0);
    const uint64_t inside = (left == 0 ? 0 : mi_run_mask(0, left < 64 ? left : 64));
    if (((taken | out) & ~inside) != 0)
      return page_breach(check, page, "a block beyond %u was handed out", page->capacity);
    if ((taken & out) != 0) return page_breach(check, page, "a block is in use and in quarantine");
    if ((remote & ~gone) != 0) return page_breach(check, page, "a block that is not in use was freed");
    if (bits->current == &bits->states[64 * w] && (bits->avail & (taken | out)) != 0)
      return page_breach(check, page, "a block that is to be handed out is not free");
    quarantined += (uint32_t)mi_popcount(out);
  }
  if (quarantined != bits->quarantined)
    return page_breach(check, page, "%u blocks are in quarantine, not %u", quarantined, bits->quarantined);
  if (_mi_bits_used(page) != page->used)
    return page_breach(check, page, "%u blocks are not free, not %u", _mi_bits_used(page), page->used);
  return true;
}

// Counts and lists. `late`: an empty page of one block that a remote freer had not let go of, or of a held heap.
static bool check_blocks(check_t* check, const mi_page_t* page, bool late) {
  const mi_thread_free_t tf = mi_load_acquire(mi_page_word(page));
  if (page->pinned != 0) return page_breach(check, page, "%u visits of it never ended", page->pinned);
  if (page->capacity > page->reserved)
    return page_breach(check, page, "%u blocks were handed out of %u", page->capacity, page->reserved);
  if (page->used > page->capacity)
    return page_breach(check, page, "%u blocks are in use of %u that were handed out", page->used, page->capacity);
  if (late) return true;
  if (page->policy != 0) return check_bits(check, page);
  memset(check->bits, 0, (page->reserved + 63) / 64 * sizeof(uint64_t));
  uint32_t free = 0, remote = 0;
  if (!check_list(check, page, "free", page->free, page->free_zero != 0, &free) ||
      !check_list(check, page, "local_free", page->local_free, false, &free) ||
      !check_list(check, page, "thread_free", MI_LIST(tf), false, &remote))
    return false;
  if (page->used + free != page->capacity)
    return page_breach(check, page, "%u blocks in use and %u free are not the %u that were handed out", page->used,
                       free, page->capacity);
  if (remote != MI_LIST_COUNT(tf))
    return page_breach(check, page, "its list thread_free has %u blocks, but counts %u", remote, MI_LIST_COUNT(tf));
  if (remote > page->used)
    return page_breach(check, page, "%u blocks were freed by other threads of %u in use", remote, page->used);
  return page->fresh_zero == 0 || page->guard != 0 || check_fresh(check, page);  // a guard is out of reach
}

// --- theaps --------------------------------------------------------------------------------------------------------

// Blocks of the page that wait on its theap's delayed list; negative: the page's words do not agree.
static int64_t page_delayed(const mi_page_t* page) {
  if (page->policy != 0) return (mi_load_acquire(&mi_bits_of(page)->queued) != 0 ? 1 : 0);
  const mi_thread_free_t tf = mi_load_acquire(mi_page_word(page));
  return page->delayed + (page->in_full != 0 && MI_STATE(tf) != MI_DELAYED ? 1 : 0);
}

static bool check_full(const check_t* check, const mi_theap_t* theap, const mi_page_t* page, mi_thread_free_t tf) {
  const bool sealed = (page->depth < theap->depth);  // waits there for the end of a mark
  const bool has_list = (page->free != NULL || (page->policy == 0 && page->local_free != NULL));
  const bool may_have_some = (MI_SECURE != 0 && !mi_policy_is_generic(page->policy));
  if (page->kind == MI_PAGE_CLASS && !sealed && !may_have_some && (page->used != page->reserved || has_list))
    return page_breach(check, page, "%u of %u blocks are in use, but it is on the full list", page->used,
                       page->reserved);
  if (page->kind != MI_PAGE_CLASS && page->used != 1)
    return page_breach(check, page, "its block is not in use, but it is on the full list");
  if (MI_STATE(tf) == MI_DELAYED && mi_word_has_frees(page, tf))
    return page_breach(check, page, "full, DELAYED, and with blocks that other threads freed");
  return true;
}

// The thread that made a theap; it may end while the heap is checked, and leaves its pages as they are.
static mi_tid_t theap_owner(const mi_theap_t* theap) {
  return (theap->slot != NULL ? mi_load_relaxed(&theap->slot->owner) : mi_load_relaxed(&theap->thread->id));
}

// A page in the queue `bin` of a theap.
static bool check_queued(check_t* check, const mi_theap_t* theap, mi_page_t* page, size_t bin) {
  check->pages++;
  if (!check_shape(check, page)) return false;
  check->held += mi_page_charged(page);
  if (page->policy != (page->guard == 0 ? theap->policy : 0))
    return page_breach(check, page, "its policy is %u, its theap's %u", page->policy, theap->policy);
  const mi_thread_free_t tf = mi_load_acquire(mi_page_word(page));
  const mi_tid_t owner = mi_load_relaxed(&page->owner);
  if (mi_load_relaxed(&page->heap) != check->at)
    return page_breach(check, page, "it names heap %p", (void*)mi_load_relaxed(&page->heap));
  if (mi_load_relaxed(&page->theap) != theap)
    return page_breach(check, page, "it names theap %p", (void*)mi_load_relaxed(&page->theap));
  if ((owner & ~MI_OWNER_FLAGS) != theap_owner(theap) || (owner & MI_OWNER_SPECIAL) != 0)
    return page_breach(check, page, "its owner is %llx, its theap's thread %llx", (unsigned long long)owner,
                       (unsigned long long)theap_owner(theap));
  // The flag stays with a page of one block when that is freed: a second free is noticed.
  if ((page->in_full != 0) != (bin == MI_BIN_FULL) ||
      (((owner & MI_OWNER_FULL) != 0) != (page->in_full != 0) && bin != MI_BIN_LATE))
    return page_breach(check, page, "in queue %zu, but in_full is %u and the owner's flag %u", bin, page->in_full,
                       (owner & MI_OWNER_FULL) != 0);
  if (page->dry > (bin <= MI_BIN_LAST ? 1 : 0))
    return page_breach(check, page, "in queue %zu, but dry is %u", bin, page->dry);
  if (page->dry != 0 && page->free != NULL) return page_breach(check, page, "it is dry, but has free blocks");
  if (bin <= MI_BIN_LAST && (page->kind != MI_PAGE_CLASS || page->bin != bin))
    return page_breach(check, page, "class %u in queue %zu", page->bin, bin);
  if (bin == MI_BIN_LATE && (page->kind == MI_PAGE_CLASS || page->used != 0))
    return page_breach(check, page, "not an empty page of one block, but in the queue of those");
  if (MI_STATE(tf) != MI_NORMAL && (bin < MI_BIN_FULL || MI_STATE(tf) != MI_DELAYED))
    return page_breach(check, page, "state %u in queue %zu", (unsigned)MI_STATE(tf), bin);
  if (page->depth > theap->depth || (page->depth < theap->depth && bin <= MI_BIN_LAST))
    return page_breach(check, page, "in queue %zu at depth %u of %u marks", bin, page->depth, theap->depth);
  if (bin == MI_BIN_FULL && !check_full(check, theap, page, tf)) return false;
  // A bit page may be on the list when all that others freed was collected.
  if (bin != MI_BIN_LATE && page->policy == 0 && (page_delayed(page) < 0 || page_delayed(page) > page->used))
    return page_breach(check, page, "%lld blocks of it wait on its theap's list", (long long)page_delayed(page));
  return check_blocks(check, page, bin == MI_BIN_LATE);
}

static bool check_queue(check_t* check, mi_theap_t* theap, size_t bin, uint32_t* pages, uint32_t* dry,
                        int64_t* delayed) {
  mi_page_t* const first = theap->queue[bin];
  mi_page_t* page = first;
  if (first == NULL) return true;
  do {
    if (!is_slot(page)) return theap_breach(check, theap, "queue %zu leads to %p, which is no page", bin, (void*)page);
    if (++*pages > theap->page_count)
      return theap_breach(check, theap, "it counts %u pages, and its queues hold more", theap->page_count);
    if (!check_queued(check, theap, page, bin)) return false;
    *dry += page->dry;
    if (bin != MI_BIN_LATE) *delayed += page_delayed(page);
    if (!is_slot(page->next) || page->next->prev != page)
      return page_breach(check, page, "the next page in queue %zu, %p, does not lead back", bin, (void*)page->next);
    page = page->next;
  } while (page != first);
  return true;
}

static bool check_direct(const check_t* check, const mi_theap_t* theap) {
  for (size_t bin = 1; bin <= MI_BIN_DIRECT_LAST; bin++) {
    const mi_page_t* const first = theap->queue[bin];
    const mi_page_t* const page =
        (first == NULL || MI_CHECKED || mi_policy_is_generic(theap->policy) ? MI_PAGE_EMPTY : first);
    if (mi_theap_bin(theap, bin) != bin) {
      if (first != NULL) return theap_breach(check, theap, "it has pages of class %zu, which it does not use", bin);
      continue;
    }
    for (size_t w = mi_direct_low(theap, bin); w <= mi_bin_size(bin) / 8; w++) {
      if (theap->direct[w] != page)
        return theap_breach(check, theap, "the table has %p for %zu bytes, the queue %p", (void*)theap->direct[w],
                            8 * w, (const void*)page);
    }
  }
  if (theap->direct[MI_DIRECT_SIZE_MAX / 8 + 1] != MI_PAGE_EMPTY)
    return theap_breach(check, theap, "the table has a page for large sizes");
  return true;
}

// The blocks of full pages that other threads freed: as many as the pages count, each a block of one of them.
static bool check_delayed(const check_t* check, mi_theap_t* theap, int64_t expected) {
  int64_t count = 0;
  for (const mi_block_t* b = mi_load_acquire(&theap->delayed_free); b != NULL; b = b->next) {
    const mi_page_t* const guarded = mi_guard_link_page(b);
    if (theap->policy != 0 && guarded == NULL) {
      const mi_bits_t* const bits = mi_bits_of_link(b);
      if (!is_slot(bits->page) || mi_bits_of(bits->page) != bits)
        return theap_breach(check, theap, "its delayed list leads to %p, which is no page's", (const void*)b);
      if (++count > expected) break;
      continue;
    }
    const mi_page_t* const page = (guarded == NULL ? _mi_page_of_any(b) : guarded);
    if (page == NULL || mi_load_relaxed((_Atomic(mi_theap_t*)*)&page->theap) != theap ||
        (guarded == NULL && (size_t)((const uint8_t*)b - page->start) % page->block_size != 0))
      return theap_breach(check, theap, "its delayed list leads to %p, which is no block of it", (const void*)b);
    if (++count > expected) break;
  }
  if (count != expected)
    return theap_breach(check, theap, "its pages count %lld blocks on its delayed list, which has %s",
                        (long long)expected, count > expected ? "more" : "fewer");
  return true;
}

static bool check_theap(check_t* check, mi_theap_t* theap, mi_part_t* part, const mi_slot_t* slot) {
  if (theap->heap != check->at) return theap_breach(check, theap, "it names heap %p", (void*)theap->heap);
  if (theap->part != part) return theap_breach(check, theap, "it names part %p", (void*)theap->part);
  if (theap->slot != slot) return theap_breach(check, theap, "it names slot %p", (void*)theap->slot);
  if (slot != NULL && theap->thread != slot->thread)
    return theap_breach(check, theap, "it names thread %p, its slot %p", (void*)theap->thread, (void*)slot->thread);
  if (theap->queue[0] != NULL) return theap_breach(check, theap, "it has a queue of class 0");
  uint32_t pages = 0, dry = 0;
  int64_t delayed = 0;
  for (size_t bin = 1; bin < MI_BIN_COUNT; bin++) {
    if (!check_queue(check, theap, bin, &pages, &dry, &delayed)) return false;
  }
  if (dry != theap->dry_pages)
    return theap_breach(check, theap, "it counts %u dry pages, and its queues hold %u", theap->dry_pages, dry);
  if (pages != theap->page_count)
    return theap_breach(check, theap, "it counts %u pages, and its queues hold %u", theap->page_count, pages);
  return check_direct(check, theap) && check_delayed(check, theap, delayed);
}

// --- pages that no theap holds -------------------------------------------------------------------------------------

static bool check_abandoned_page(check_t* check, mi_page_t* page) {
  const mi_tid_t owner = mi_load_relaxed(&page->owner);
  check->pages++;
  check->waiting++;
  if (!check_shape(check, page)) return false;
  check->held += mi_page_charged(page);
  if (mi_load_relaxed(&page->heap) != check->at)
    return page_breach(check, page, "it names heap %p", (void*)mi_load_relaxed(&page->heap));
  if (mi_load_relaxed(&page->theap) != NULL || (owner & ~MI_OWNER_INTERIOR) != 0)
    return page_breach(check, page, "abandoned, with theap %p and owner %llx", (void*)mi_load_relaxed(&page->theap),
                       (unsigned long long)owner);
  if (page->in_full != 0 || page->delayed != 0)
    return page_breach(check, page, "abandoned, with in_full %u and %d delayed blocks", page->in_full, page->delayed);
  if (mi_word_has_frees(page, mi_load_acquire(mi_page_word(page))))
    return page_breach(check, page, "abandoned, with blocks that other threads freed");
  return check_blocks(check, page, page->kind != MI_PAGE_CLASS && page->used == 0);
}

static bool check_stack(check_t* check, mi_heap_t* heap, size_t bin) {
  size_t steps = 0;
  for (mi_page_t* page = _mi_abandoned_first(heap, bin); page != NULL; page = mi_load_relaxed(&page->listed_next)) {
    if (!is_slot(page))
      return heap_breach(check, heap, "its stack of abandoned pages %zu leads to %p, which is no page", bin,
                         (void*)page);
    if (++steps > PAGES_MAX) return heap_breach(check, heap, "its stack of abandoned pages %zu does not end", bin);
    const mi_thread_free_t tf = mi_load_acquire(mi_page_word(page));
    if ((tf & MI_LISTED) == 0) return page_breach(check, page, "in a stack of abandoned pages, but not LISTED");
    if (page->bin != bin && bin <= MI_BIN_SOLO)
      return page_breach(check, page, "class %u in stack %zu of abandoned pages", page->bin, bin);
    if (MI_STATE(tf) != MI_ABANDONED) continue;                               // has an owner again, and is met there
    if (check->waiting > (uint64_t)mi_load_acquire(&heap->pages_out)) break;  // a circle, or a count that is wrong
    if (!check_abandoned_page(check, page)) return false;
  }
  return true;
}

static bool check_abandoned(check_t* check, mi_heap_t* heap) {
  if (!_mi_orphans_settle(heap)) return true;  // without memory for its stacks the heap's pages cannot be told
  for (size_t bin = 1; bin < MI_BIN_COUNT; bin++) {
    if (!check_stack(check, heap, bin)) return false;
  }
  return true;
}

// --- regions -------------------------------------------------------------------------------------------------------

// `end`: where its objects end.
static bool check_region_bits(const check_t* check, const mi_region_t* region, size_t end) {
  const size_t granules = (size_t)1 << (region->shift - 4);
  uint64_t first = 0;
  for (size_t at = 0; at < granules; at += 64) {
    _Atomic(uint64_t)* const word = mi_region_words(region, at);
    const uint64_t starts = mi_load_acquire(&word[0]);
    const uint64_t freed = mi_load_acquire(&word[1]), remote = mi_load_acquire(&word[2]);
    uint64_t outside = 0;
    if (at < region->first) outside |= mi_run_mask(0, region->first - at < 64 ? region->first - at : 64);
    if (at + 64 > end) outside |= ~(at >= end ? 0 : mi_run_mask(0, end - at));
    if ((starts & outside) != 0)
      return region_breach(check, region, "an object starts at byte %zu, where none is",
                           16 * (at + mi_ctz(starts & outside)));
    if (((freed | remote) & ~starts) != 0)
      return region_breach(check, region, "an object was freed at byte %zu, where none starts",
                           16 * (at + mi_ctz((freed | remote) & ~starts)));
    if (region->first >= at && region->first < at + 64) first = starts >> (region->first - at) & 1;
  }
  if (end > region->first && first == 0) return region_breach(check, region, "no object starts at its beginning");
  return true;
}

static bool check_region(const check_t* check, const mi_part_t* part, const mi_region_t* region) {
  const size_t granules = (size_t)1 << (region->shift - 4);
  const uintptr_t size = (uintptr_t)1 << region->shift;
  if (region->part != part) return region_breach(check, region, "it names part %p", (void*)region->part);
  const mi_tid_t owner = mi_load_relaxed((_Atomic(mi_tid_t)*)&region->owner) & ~MI_OWNER_FLAGS;
  if (owner != mi_part_owner(part))
    return region_breach(check, region, "its owner is %llx, its part's %llx", (unsigned long long)owner,
                         (unsigned long long)mi_part_owner(part));
  if (region->first < (sizeof(mi_region_t) + 24) / 16 || region->first > granules)
    return region_breach(check, region, "its objects start at granule %u", region->first);
  size_t end = mi_load_acquire((_Atomic(uint16_t)*)&region->end);
  const uint8_t* const bump = mi_load_acquire((_Atomic(uint8_t*)*)&part->bump);
  const bool closed = (mi_load_relaxed(&check->at->state) == MI_HEAP_CLOSED);
  if (region == part->current && !closed) {
    if (end != 0) return region_breach(check, region, "objects are made in it, but it has an end");
    if (bump < (const uint8_t*)region + region->first * (size_t)16 || bump > (const uint8_t*)region + size ||
        (uintptr_t)bump % 16 != 0 || part->limit > (const uint8_t*)region + size || part->limit < bump)
      return region_breach(check, region, "the next object would be at %p, up to %p", (const void*)bump,
                           (void*)part->limit);
    end = (size_t)(bump - (const uint8_t*)region) / 16;
  } else if (end < region->first || end > granules) {
    return region_breach(check, region, "it ends at granule %zu", end);
  }
  return check_region_bits(check, region, end);
}

static bool is_region_block(const mi_region_t* region) {
  const size_t shift =
      ((uintptr_t)region % 16 != 0 || internal_page(region, sizeof(mi_region_t)) == NULL) ? 0 : region->shift;
  if (shift <= MI_REGION_SHIFT_MIN || shift > MI_REGION_SHIFT_MAX) return false;
  if (((uintptr_t)region & (((uintptr_t)1 << shift) - 1)) != 0) return false;
  const mi_page_t* const page = internal_page(region, (size_t)1 << shift);
  return page != NULL && page->block_size == (size_t)1 << shift;
}

// The lists first: what is in them, and how much.
static bool check_region_lists(const check_t* check, const mi_part_t* part) {
  bool current = (part->current == &part->region);
  size_t bytes = 0;
  const mi_region_t* last = NULL;
  for (const mi_region_t* region = part->regions; region != NULL; region = region->next) {
    if (!is_region_block(region))
      return part_breach(check, part, "its list of regions leads to %p, which is none", (const void*)region);
    bytes += (size_t)1 << region->shift;
    if (bytes > part->bytes) break;
    if (region == part->current) current = true;
    last = region;
  }
  for (const mi_region_t* region = part->spare; region != NULL && bytes <= part->bytes; region = region->next) {
    if (!is_region_block(region))
      return part_breach(check, part, "its list of spare regions leads to %p, which is none", (const void*)region);
    bytes += (size_t)1 << region->shift;
  }
  if (bytes != part->bytes)
    return part_breach(check, part, "it counts %u bytes of regions, its lists have %s", part->bytes,
                       bytes > part->bytes ? "more" : "fewer");
  size_t young = 0;
  for (const mi_region_t* region = part->regions; region != NULL; region = region->next)
    young += (size_t)1 << (region->shift - 10);
  if (part != &part->heap->home && part->is_shut == 0) young++;
  if (part->young != young)
    return part_breach(check, part, "it counts %u KiB of regions in use, and has %zu", part->young, young);
  if (last != NULL && last != part->regions_last)
    return part_breach(check, part, "its last region is %p, not %p", (const void*)last, (void*)part->regions_last);
  if (!current)
    return part_breach(check, part, "it makes objects in %p, which is no region of it", (void*)part->current);
  return true;
}

static bool check_regions(const check_t* check, const mi_part_t* part) {
  if (!check_region_lists(check, part) || !check_region(check, part, &part->region)) return false;
  for (const mi_region_t* region = part->regions; region != NULL; region = region->next) {
    if (!check_region(check, part, region)) return false;
  }
  return true;
}

// --- parts ---------------------------------------------------------------------------------------------------------

static bool part_is_frozen(const mi_part_t* part) {
  return mi_tid_is_gone(mi_part_owner(part)) || _mi_part_has_frozen_theap(part);
}

static bool check_lanes(const check_t* check, mi_heap_t* heap) {
  size_t lanes = 0;
  for (mi_part_t* lane = mi_load_acquire(&heap->parts); lane != NULL; lane = mi_load_acquire(&lane->next)) {
    if (internal_page(lane, (size_t)1 << 10) == NULL)
      return heap_breach(check, heap, "its list of parts leads to %p, which is none", (void*)lane);
    if (lane->heap != heap) return part_breach(check, lane, "it names heap %p", (void*)lane->heap);
    if (lane->region.shift != 10) return part_breach(check, lane, "its first region is %u bits", lane->region.shift);
    if (++lanes > LANES_MAX) return heap_breach(check, heap, "its list of parts does not end");
  }
  if (heap->home.heap != heap) return part_breach(check, &heap->home, "it names heap %p", (void*)heap->home.heap);
  if (heap->home.region.shift != MI_REGION_SHIFT_MIN)
    return part_breach(check, &heap->home, "its first region is %u bits", heap->home.region.shift);
  return true;
}

static bool check_slot(const check_t* check, mi_part_t* part) {
  const mi_slot_t* const slot = mi_load_acquire(&part->slot);
  if (slot == NULL) return true;
  // A slot lies inside a chunk, which is a block of the library's own.
  size_t index;
  mi_arena_t* const arena = _mi_arena_of((const uint8_t*)slot + 1, &index);
  const mi_page_t* const page =
      (arena == NULL || mi_load_acquire(&arena->kind[index]) != MI_SEGMENT_NORMAL ? NULL : _mi_page_of_any(slot));
  if (page == NULL || (uintptr_t)slot % sizeof(void*) != 0 ||
      mi_load_relaxed((_Atomic(mi_heap_t*)*)&page->heap) != &_mi_heap_internal)
    return part_breach(check, part, "its slot is %p, which is none", (const void*)slot);
  return true;
}

// Makes all theaps of the heap BUSY.
static bool enter_slots(check_t* check, mi_heap_t* heap) {
  MI_FOR_EACH_PART(heap, part) {
    if (!check_slot(check, part)) return false;
    for (;;) {
      bool taken;
      if (_mi_slot_enter_part(part, &taken) != NULL) {
        check->theaps++;
        break;
      }
      if (!taken) break;
      _mi_os_yield();  // its thread is in collect or exit for a moment
    }
    check->parts++;
  }
  return true;
}

static void leave_slots(check_t* check, mi_heap_t* heap) {
  MI_FOR_EACH_PART(heap, part) {
    if (check->parts == 0) break;
    check->parts--;
    mi_slot_t* const slot = mi_load_acquire(&part->slot);
    if (slot != NULL && !part_is_frozen(part)) _mi_slot_leave(slot, false, true);
  }
  check->theaps = 0;
}

static bool check_part(check_t* check, mi_part_t* part) {
  if (part_is_frozen(part)) return true;
  const mi_theap_t* const theap = mi_load_acquire(&part->theap);
  mi_slot_t* const slot = mi_load_acquire(&part->slot);
  if ((slot == NULL) != (theap == MI_THEAP_EMPTY) || (slot != NULL && mi_load_relaxed(&slot->theap) != theap))
    return part_breach(check, part, "its theap is %p, its slot's %p", (const void*)theap,
                       slot == NULL ? NULL : (void*)mi_load_relaxed(&slot->theap));
  if (slot != NULL && mi_load_relaxed(&part->heap->state) == MI_HEAP_OPEN &&
      mi_part_owner(part) != mi_load_relaxed(&slot->owner))
    return part_breach(check, part, "its owner is %llx, its theap's thread %llx",
                       (unsigned long long)mi_part_owner(part), (unsigned long long)mi_load_relaxed(&slot->owner));
  if (!check_regions(check, part)) return false;
  if (part != &part->heap->home) check->held += part->young * (int64_t)MI_KiB;
  return slot == NULL || check_theap(check, mi_load_relaxed(&slot->theap), part, slot);
}

// --- heaps ---------------------------------------------------------------------------------------------------------

// What a thread does at its end, it does step by step: what does not agree may do so in a moment.
static bool refs_settle(const check_t* check, mi_heap_t* heap, size_t extra) {
  for (int tries = 0; tries < SETTLE_TRIES; tries++) {
    if (mi_load_acquire(&heap->refs) == 1 + check->theaps + extra) return true;
    _mi_os_yield();
  }
  return false;
}

static bool check_handle(const check_t* check, mi_heap_t* heap) {
  const bool closed = (heap != check->heap);
  if (mi_load_acquire(&heap->state) != (closed ? MI_HEAP_CLOSED : MI_HEAP_OPEN))
    return heap_breach(check, heap, "its state is %u", mi_load_acquire(&heap->state));
  if (mi_load_acquire(&heap->into) != (closed ? check->heap : NULL))
    return heap_breach(check, heap, "its blocks went to %p", (void*)mi_load_acquire(&heap->into));
  const mi_page_t* const page = internal_page(heap, (size_t)1 << MI_REGION_SHIFT_MIN);
  if (page == NULL) return heap_breach(check, heap, "it does not lie where handles do");
  if (((mi_heap_flags(heap) & MI_HEAP_IN_ARENA) != 0) != _mi_page_is_arena_handle(page))
    return heap_breach(check, heap, "its flags are %x", mi_heap_flags(heap));
  const mi_heap_extra_t* const extra = mi_heap_extra(heap);
  if (extra != NULL && memchr(extra->name, 0, sizeof(extra->name)) == NULL)
    return heap_breach(check, heap, "its name does not end");
  return true;
}

static bool check_parts(check_t* check, mi_heap_t* heap) {
  size_t frozen = 0;
  MI_FOR_EACH_PART(heap, part) {
    if (_mi_part_has_frozen_theap(part)) frozen++;
    if (!check_part(check, part)) return false;
  }
  if (!refs_settle(check, heap, frozen))
    return heap_breach(check, heap, "%u references, but %zu theaps", mi_load_acquire(&heap->refs),
                       check->theaps + frozen);
  if (!check_abandoned(check, heap)) return false;
  const int64_t out = mi_load_acquire(&heap->pages_out);
  if (_mi_fork_stamp == 1 && out != (int64_t)check->waiting)
    return heap_breach(check, heap, "it counts %lld abandoned pages, its stacks hold %s", (long long)out,
                       out < (int64_t)check->waiting ? "more" : "fewer");
  return true;
}

// A heap that is not the main one, open or closed.
static bool add_space_page(mi_page_t* page, void* arg) {
  ((check_t*)arg)->held += (int64_t)(page->reserved * page->block_size);
  return true;
}

static bool check_one(check_t* check, mi_heap_t* heap) {
  check->at = heap;
  check->waiting = 0;
  check->held = 0;
  check->theaps = check->parts = 0;
  if (!check_handle(check, heap) || !check_lanes(check, heap)) return false;
  const void* at;
  const char* const apart = (mi_heap_space(heap) == NULL ? NULL : _mi_space_breach(mi_heap_space(heap), &at));
  if (apart != NULL) return heap_breach(check, heap, "at %p: %s", at, apart);
  if (mi_heap_space(heap) != NULL) (void)_mi_space_pages_each(mi_heap_space(heap), add_space_page, check);
  const bool ok = enter_slots(check, heap) && check_parts(check, heap);
  leave_slots(check, heap);
  return ok;
}

// --- accounts ------------------------------------------------------------------------------------------------------

static int64_t account_word(mi_account_t* account) { return mi_load_acquire(&account->word) >> 1; }

// Does the heap's account say what was found? `merged`: bytes of heaps that were merged into it. What its children hold
// is theirs to know, who may be at work: then it is at least what was found.
static bool held_agrees(check_t* check, mi_heap_t* heap, int64_t merged) {
  mi_account_t* const account = mi_account_of(heap);
  const mi_family_t* const family = mi_heap_family(heap);
  check->expected = check->held + merged + (account == NULL ? 0 : (int64_t)mi_load_relaxed(&account->counted));
  check->counted = (account == NULL ? 0 : account_word(account));
  if (family != NULL && family->children != NULL) return check->counted >= check->expected;
  return check->counted == check->expected;
}

static bool check_forwarders(check_t* check, mi_heap_t* heap) {
  for (int i = 0; i < 2; i++) {
    size_t count = 0;
    mi_heap_t* forwarder = mi_stack_node(mi_load_acquire(&heap->forwarders[i]));
    for (; forwarder != NULL; forwarder = mi_load_relaxed(&forwarder->forwarder_next)) {
      if (internal_page(forwarder, (size_t)1 << MI_REGION_SHIFT_MIN) == NULL)
        return heap_breach(check, heap, "its stack of merged heaps leads to %p, which is none", (void*)forwarder);
      if (forwarder == heap || ++count > PAGES_MAX)
        return heap_breach(check, heap, "its stack of merged heaps does not end");
      if (!check_one(check, forwarder)) return false;
      mi_account_t* const account = mi_account_of(forwarder);
      check->merged += (account == NULL ? (int64_t)_mi_account_held(forwarder) : account_word(account));
      check->held_agrees = check->held_agrees && held_agrees(check, forwarder, 0);
    }
  }
  return true;
}

// --- the main heap -------------------------------------------------------------------------------------------------

typedef struct threads_s {
  check_t* check;
  bool ok;
} threads_t;

static void check_thread(mi_thread_t* thread, void* arg) {
  threads_t* const threads = arg;
  if (!threads->ok || mi_load_acquire(&thread->id) == MI_TID_NONE || mi_thread_is_gone(thread)) return;
  threads->ok = check_theap(threads->check, &thread->main_theap, NULL, NULL);
}

// Pages of the main heap with one block are in no stack when they are abandoned.
static bool check_main(check_t* check) {
  threads_t threads = {check, true};
  _mi_threads_each(check_thread, &threads);
  return threads.ok && check_abandoned(check, &_mi_heap_main);
}

// --- pages that claim to be the heap's ------------------------------------------------------------------------------

// What a thread is about to do to the heap's pages lasts until it has a processor again.
#define CHECK_TRIES 64

typedef struct claims_s {
  uint64_t pages;
  uint64_t unlisted;  // of the main heap: abandoned, and in no stack
  int64_t unlisted_bytes;
} claims_t;

// As what it is called with: of a page that may be another's at this moment.
static MI_RACY bool leads_to(mi_heap_t* from, const mi_heap_t* heap) {
  for (int steps = 0; from != NULL && steps < 1000; steps++) {
    if (from == heap) return true;
    if (!_mi_heap_went_to(from, &from)) return false;
  }
  return false;
}

static MI_RACY void claims_add(claims_t* claims, mi_page_t* page, const mi_heap_t* heap) {
  const uint8_t kind = mi_racy(page->kind);
  if (kind != MI_PAGE_CLASS && kind != MI_PAGE_SOLO && kind != MI_PAGE_HUGE) return;
  mi_heap_t* const its = mi_load_acquire(&page->heap);
  if (its == NULL || its == &_mi_heap_internal || !leads_to(its, heap)) return;
  claims->pages++;
  const mi_thread_free_t tf = mi_load_acquire(mi_page_word(page));
  if (MI_STATE(tf) != MI_ABANDONED || (tf & MI_LISTED) != 0) return;
  claims->unlisted++;
  claims->unlisted_bytes += (int64_t)(mi_racy(page->capacity) * mi_racy(page->block_size));
}

static MI_RACY claims_t claims_of(const mi_heap_t* heap) {
  claims_t claims = {0, 0, 0};
  for (size_t i = 0; i < MI_ARENAS_MAX; i++) {
    mi_arena_t* const arena = mi_load_acquire(&_mi_arenas[i]);
    if (arena == NULL) break;
    const size_t ready = mi_load_acquire(&arena->ready);
    for (size_t index = 0; index < ready; index++) {
      const uint8_t kind = mi_load_acquire(&arena->kind[index]);
      if (kind != MI_SEGMENT_NORMAL && kind != MI_SEGMENT_HUGE_START) continue;
      mi_segment_t* const segment = (mi_segment_t*)mi_arena_segment(arena, index);
      const claims_t before = claims;
      const size_t last = (kind == MI_SEGMENT_NORMAL ? MI_SLICES_PER_SEGMENT - 1 : 1);
      for (size_t s = 1; s <= last; s++) claims_add(&claims, &segment->slot[s], heap);
      // A segment without pages of the heap may have become something else meanwhile.
      if (mi_load_acquire(&arena->kind[index]) != kind) claims = before;
    }
  }
  return claims;
}

// Do the pages that name the heap, or one that was merged into it, agree with those that were met in its lists? Not
// always at the first try: threads that worked in a merged heap give its pages back when they come to it.
static bool claims_agree(const check_t* check, claims_t* claims) {
  *claims = claims_of(check->heap);
  return claims->pages == check->pages + claims->unlisted;
}

static bool main_held_agrees(check_t* check, const claims_t* claims) {
  check->expected = check->held + check->merged + claims->unlisted_bytes;
  check->counted = _mi_account_main_total();
  return check->counted == check->expected;
}

bool mi_heap_check(mi_heap_t* heap) {
  if (heap == NULL) {
    _mi_error(EINVAL, "mi_heap_check: no heap\n");
    return false;
  }
  if (mi_thread() == NULL || !_mi_heap_check_usable(heap, "mi_heap_check")) return false;
  if (mi_heap_is_visited(heap)) {
    _mi_error(EINVAL, "mi_heap_check: heap %p (%s) is being visited\n", (void*)heap, mi_heap_name(heap));
    return false;
  }
  check_t check;
  claims_t claims = {0, 0, 0};
  bool agree = false;
  for (int tries = 0; tries < CHECK_TRIES; tries++) {
    if (tries > 0) _mi_os_yield();
    check.heap = check.at = heap;
    check.pages = check.waiting = 0;
    check.theaps = check.parts = 0;
    check.held = check.merged = 0;
    check.held_agrees = true;
    const bool ok = (heap == &_mi_heap_main ? check_main(&check) : check_one(&check, heap));
    const int64_t held = check.held;
    if (!ok || !check_forwarders(&check, heap)) return false;
    check.at = heap;
    if (_mi_fork_stamp != 1) return true;
    check.held = held;
    agree = claims_agree(&check, &claims);
    if (!agree) continue;
    if (heap == &_mi_heap_main) {
      check.held_agrees = check.held_agrees && main_held_agrees(&check, &claims);
    } else {
      check.held_agrees = check.held_agrees && held_agrees(&check, heap, check.merged);
    }
    if (check.held_agrees) return true;
  }
  if (agree)
    return heap_breach(&check, heap, "it holds %lld bytes, but its account says %lld", (long long)check.expected,
                       (long long)check.counted);
  return heap_breach(&check, heap, "%llu pages are its own, but its lists hold %llu", (unsigned long long)claims.pages,
                     (unsigned long long)check.pages);
}
