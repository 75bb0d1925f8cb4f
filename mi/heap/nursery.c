// The young part of a heap: regions that mix object sizes. A heap starts as one block of 512 bytes, the handle with its
// first region inside, and grows by regions of 1, 1, 2, 4, 4, 8, 8, ... 64 KiB; a size class moves to pages of its own
// when it has earned them. Objects have no headers: three bits per 16 bytes, beside the objects' memory, say where one
// starts, whether its owner freed it, and whether somebody else did.
//
// A class earns pages by the regions that it makes the heap open (or use again): each is put down to the class of the
// object that did not fit any more, which is a class with a chance in proportion to the bytes that it takes, so that
// the common path counts nothing. Where objects are freed, about 16 KiB are enough: pages reuse single blocks, regions
// do not. In a heap that only grows it takes four times that: there regions are faster (measured: 1,000 mixed blocks
// 2.7 against 4.2 us).
//
// Invariants:
//  * a region is a block of a page of the internal heap: a power of two large and aligned to its size, so that an
//    object's address leads to the region's head; obtaining, returning and reclaiming it is the core's malloc and free;
//  * only the living owner of the part bumps, resizes in place, or resets a region; `start` and `freed` words are
//    written by it alone (plain loads and stores, atomic only for the readers' sake), `remote` words by fetch_or;
//  * freeing only sets a bit, and that is the freer's last touch of the region; an empty region is found by comparing
//    the bits when there is need: there is no counter, so that a free costs no read-modify-write;
//  * a region's bits below `end` (or, in the current region, below the part's bump) are final: an object ends where
//    the next one starts or there;
//  * after every single store, the part's list can be walked, no region on it is anywhere else but perhaps among the
//    spare ones, and a region that was closed has its `end`: the owner may stop there for good, when another thread
//    forks (mi_stores_in_order; _mi_part_settle).
#include <errno.h>
#include <string.h>

#include "mi/heap/parts.h"
#include "mi/internal/account.h"

#define MI_GRANULE 16
#define MI_SEEN_EARNED 65  // what regions a class was put down for, in KiB, four times over where objects are freed

// Region sizes by step, as shifts. W = 50 objects of 16 to 512 bytes (6,880 bytes) then take 8.5 KiB with the handle.
// Beyond 4 KiB only what is used of a region is touched, so that larger steps cost address space only.
static const uint8_t region_shift[] = {10, 10, 11, 12, 12, 13, 13, 14, 14, 15, 15, 16};
#define STEPS (sizeof(region_shift) / sizeof(region_shift[0]))

#define REGION_SHIFT_LEAST 10

#define MI_CACHE_COUNT_MAX 16
#define MI_CACHE_BYTES_MAX (128 * (uint32_t)MI_KiB)
#define MI_CACHE_LEARN 64  // heaps that were trimmed before the limit doubles
#define MI_BALANCE_MAX 100
#define MI_RETAIN_MAX (4 * (uint32_t)MI_MiB)  // bytes of regions that a thread keeps at most where a heap asks for it
#define MI_IDLE_STEPS 64                      // looks at the cache in which no heap was made until it goes home
#define MI_JOIN_REGIONS 3                     // regions in use from which they are joined to one,
#define MI_JOIN_FILLS 2                       // if it is so the second time
#define MI_OWN_BYTES 512                      // of a region, its head included, that a part's own would have served

static size_t region_word_count(const mi_region_t* region) {
  return (region->shift <= 10 ? 1 : (size_t)1 << (region->shift - 10));
}
static uint8_t* region_at(const mi_region_t* region, size_t granule) { return (uint8_t*)region + granule * MI_GRANULE; }

// --- parts ------------------------------------------------------------------------------------------------------

static void part_set_current(mi_part_t* part, mi_region_t* region) {
  mi_stores_in_order();  // the former one has its `end`
  part->current = region;
  part->limit = (uint8_t*)region + ((size_t)1 << region->shift);
  mi_store_relaxed(&region->end, (uint16_t)0);
  // Release: who reads a bump in this region sees its cleared bits and its `end` of 0.
  mi_store_release(&part->bump, region_at(region, region->first));
}

// Clears the bits of a region that was used up to `end` (0: perhaps all of it).
static inline void region_clear_to(mi_region_t* region, size_t end) {
  uint64_t* words = (uint64_t*)(region + 1);
  const size_t all = region_word_count(region);
  size_t count = (end == 0 ? all : (end + 63) / 64);
  // No calls, and no rep stos, which takes longer to start.
  if (all >= 4) {  // a power of two
    size_t fours = (count + 3) / 4;
    do {
      words[0] = words[1] = words[2] = words[3] = words[4] = words[5] = 0;
      words[6] = words[7] = words[8] = words[9] = words[10] = words[11] = 0;
      words += 12;
    } while (--fours > 0);
    return;
  }
  do {
    words[0] = words[1] = words[2] = 0;
    words += 3;
  } while (--count > 0);
}

static inline void region_clear(mi_region_t* region) { region_clear_to(region, mi_load_relaxed(&region->end)); }

static inline bool part_is_home(const mi_part_t* part) { return part == &part->heap->home; }
static inline size_t region_kib(const mi_region_t* region) { return (size_t)1 << (region->shift - 10); }
// Is a limit to be asked before so many KiB of regions are opened, or something to be charged?
static inline bool part_asks(const mi_part_t* part, size_t kib) {
  return mi_unlikely(part->young + kib > mi_load_relaxed((_Atomic(uint16_t)*)&part->young_max));
}

// Nothing was opened yet.
static inline void part_forget_counts(mi_part_t* part) {
  part->young = 0;
  memset(part->seen, 0, sizeof(part->seen));
}

// Sets up a part in a block of 1 << shift bytes: a handle or a lane.
void _mi_part_init(mi_part_t* part, mi_heap_t* heap, mi_tid_t owner, uint8_t shift) {
  memset(part, 0, MI_PART_SIZE);  // a region of up to 1 KiB has one group of words
  mi_region_t* const region = &part->region;
  region->part = part;
  region->first = MI_PART_SIZE / MI_GRANULE;
  region->shift = shift;
  part->heap = heap;
  mi_store_relaxed(&part->young_max, MI_YOUNG_UNASKED);
  mi_store_relaxed(&part->theap, MI_THEAP_EMPTY);
  part_set_current(part, region);
  mi_store_relaxed(&region->owner, owner);
}

static inline void part_close_current(mi_part_t* part) {
  mi_region_t* const current = part->current;
  mi_store_release(&current->end, (uint16_t)((mi_load_relaxed(&part->bump) - (uint8_t*)current) / MI_GRANULE));
}

// A block that carried a region goes home. It must not look like a region any more to who asks about a stale address.
static void region_go_home(mi_region_t* region) {
  mi_stores_in_order();  // it is on no list any more
  region->first = 0;
  _mi_internal_free(region);
}

// All regions in use become spare: nothing of the part is live any more. Constant time.
static inline void part_spare_regions(mi_part_t* part) {
  if (part->regions == NULL) return;
  // What is beyond its end need not be cleared. (In a closed heap no region is current: all have their end.)
  if (mi_likely(mi_load_relaxed(&part->current->end) == 0)) part_close_current(part);
  mi_region_t* const first = part->regions;
  part->regions = NULL;
  mi_stores_in_order();
  part->regions_last->next = part->spare;
  part->spare = first;
}

// The granule behind the head and the bits of a region.
static inline size_t region_first(size_t shift) {
  const size_t words = (size_t)1 << (shift - 10);
  return mi_round_up(sizeof(mi_region_t) + 3 * sizeof(uint64_t) * words, MI_GRANULE) / MI_GRANULE;
}

// A region of the given size from the core, with what does not change while it is kept, and room for `need` bytes.
static mi_region_t* region_make(mi_thread_t* thread, mi_part_t* part, size_t shift, size_t need) {
  size_t first = region_first(shift);
  mi_region_t* const region = _mi_internal_alloc(thread, (size_t)1 << shift);
  if (region == NULL) return NULL;
  // Regions of 4 KiB and up would all begin in the same cache sets. By number and not by address: see page_fresh.
  if (shift >= 12 && ((size_t)1 << shift) - first * MI_GRANULE >= need + 192) {
    first += (mi_load_relaxed(&part->heap->home.id) + part->step) % 4 * (64 / MI_GRANULE);
  }
  region->first = (uint16_t)first;
  region->shift = (uint8_t)shift;
  region->marked = 0;
  mi_store_relaxed(&region->end, (uint16_t)0);
  part->bytes += 1u << shift;
  return region;
}

// Gives spare regions back until the part has at most `keep` bytes of regions.
static void part_trim_spare(mi_part_t* part, size_t keep) {
  while (part->spare != NULL && part->bytes > keep) {
    mi_region_t* const region = part->spare;
    part->spare = region->next;
    part->bytes -= 1u << region->shift;
    region_go_home(region);
  }
}

// A part that was filled twice over several regions gets one that holds as much, so that it opens one the next time.
// All its regions are spare. (One that is filled once only, or so much that the thread would not keep it, stays as it
// is.)
static mi_noinline void part_join_spare(mi_part_t* part) {
  mi_thread_t* const thread = _mi_tls.thread;
  if (++part->fills < MI_JOIN_FILLS) return;
  part->fills = 0;
  const uint32_t bytes = part->bytes;
  const size_t shift = mi_msb(bytes - 1) + 1;
  if (thread == NULL || shift > MI_REGION_SHIFT_MAX || (size_t)1 << shift > thread->handle_cache_limit) return;
  mi_region_t* const region = region_make(thread, part, shift, 0);
  if (region == NULL) return;
  part_trim_spare(part, part->bytes - bytes);
  region->next = NULL;
  part->spare = region;
}

// How many regions a part opened since it was empty, roughly: `step` counts no further than sizes grow.
static inline bool part_opened_several(const mi_part_t* part) { return part->step >= MI_JOIN_REGIONS; }

void _mi_lane_free(mi_part_t* lane) {
  _mi_part_release_regions(lane);
  mi_store_relaxed(&lane->region.owner, MI_TID_NONE);
  region_go_home(&lane->region);
}

void _mi_part_release_regions(mi_part_t* part) {
  part_spare_regions(part);
  part_trim_spare(part, 0);
}

void _mi_part_close_young(mi_part_t* part) {
  part->limit = mi_load_relaxed(&part->bump);
  memset(part->seen, 255, sizeof(part->seen));
}

// Where the first object of the part's own region lies.
static inline uint8_t* part_first(mi_part_t* part) { return region_at(&part->region, MI_PART_SIZE / MI_GRANULE); }

static inline void part_empty(mi_part_t* part, size_t size) {
  mi_region_t* const region = &part->region;
  part->words[0] = part->words[1] = part->words[2] = 0;  // of the part's own region, which has no more
  mi_stores_in_order();
  part->current = region;
  part->limit = (uint8_t*)region + size;
  mi_store_relaxed(&region->end, (uint16_t)0);
  mi_store_release(&part->bump, part_first(part));
  part->step = 0;
  part_forget_counts(part);
}

static mi_noinline void part_reset_slow(mi_part_t* part, size_t retain) {
  if (part_opened_several(part)) part_join_spare(part);
  part_trim_spare(part, retain == 0 ? MI_CACHE_BYTES_MAX : retain);
  part_empty(part, (size_t)1 << part->region.shift);
}

static inline bool part_is_large(const mi_part_t* part) {
  return part_opened_several(part) || part->bytes > MI_CACHE_BYTES_MAX;
}

void _mi_part_trim(mi_part_t* part) { part_trim_spare(part, MI_CACHE_BYTES_MAX); }

// For a reset: nothing is live, what was warm stays.
void _mi_part_reset(mi_part_t* part, size_t retain) {
  part_spare_regions(part);
  const int64_t charged = (part_is_home(part) ? 0 : part->young * (int64_t)MI_KiB);
  part_reset_slow(part, retain);
  mi_account_t* const account = mi_account_of(part->heap);
  if (account == NULL) return;
  if (part_is_home(part)) {
    _mi_account_settle(account, 0);
  } else {
    _mi_account_add(account, -charged);
    part->is_shut = 1;
  }
  if (part->is_shut != 0) _mi_part_shut(part);
}

// The embedded region hands out nothing until it is opened.
void _mi_part_shut(mi_part_t* part) {
  part->is_shut = 1;
  part->limit = mi_load_relaxed(&part->bump);
}

// --- emptied again and again ------------------------------------------------------------------------------------
// A heap that is reset, or ended and made anew, fills up as it did before. So a part that needed more than its own
// region has takes a spare one at once when it is empty: that is put down to no class, and saves the way through its
// own region and a slow path. While it holds all that is allocated, emptying the part is to clear the bits that were
// used. (In a part whose `step` is 0 nothing was put down to a class, `seen` is 0, and if such a region is the current
// one, the part's own is empty.) Where a limit would have to be asked, nothing is opened.
//
// A reset leaves even the bits to the next allocation if the thread reset another heap before: they are no longer in
// the processor's nearest cache, nor would they be when they are needed. The part *rests*: its own region is the
// current one and has no room.

// Opens the first spare region of an empty part.
static inline void part_reopen(mi_part_t* part) {
  mi_region_t* const region = part->spare;
  if (region == NULL) return;
  part->spare = region->next;
  part->young += (uint16_t)region_kib(region);
  region_clear(region);
  mi_store_relaxed(&region->end, (uint16_t)0);
  region->part = part;
  region->next = NULL;
  mi_store_relaxed(&region->owner, mi_part_owner(part));
  mi_stores_in_order();
  part->regions_last = region;
  part->regions = region;
  mi_store_release(&part->region.end, (uint16_t)(MI_PART_SIZE / MI_GRANULE));
  part_set_current(part, region);
}

// Did the part need more than its own region has?
static inline bool part_outgrew_own(const mi_part_t* part) {
  return mi_load_relaxed(&part->bump) - (uint8_t*)part->current > MI_OWN_BYTES || part->regions != part->regions_last;
}

// Is the only region in use the current one, taken while the part was empty?
static inline bool part_has_reopened(const mi_part_t* part) {
  const mi_region_t* const region = part->current;
  return region == part->regions && region == part->regions_last && part->step == 0;
}

// Did the part do as it did before?
static inline bool part_repeats(const mi_part_t* part) { return part_has_reopened(part) && part_outgrew_own(part); }

// Empties such a part.
static inline void part_empty_again(mi_part_t* part) {
  mi_region_t* const region = part->current;
  region_clear_to(region, (size_t)(mi_load_relaxed(&part->bump) - (uint8_t*)region) / MI_GRANULE);
  mi_store_release(&part->bump, region_at(region, region->first));
}

// The same without a touch of the region. It becomes spare without its `end`: all of it will be cleared.
static inline void part_rest(mi_part_t* part) {
  mi_region_t* const region = part->current;
  part->regions = NULL;
  mi_stores_in_order();
  part->spare = region;
  part->young = 0;
  part->current = &part->region;
  part->limit = part_first(part);
  mi_store_relaxed(&part->region.end, (uint16_t)0);
  mi_store_release(&part->bump, part_first(part));
}

static inline bool part_rests(mi_part_t* part) {
  return part->limit == part_first(part) && part->spare != NULL && part->is_shut == 0 &&
         !part_asks(part, region_kib(part->spare));
}

static mi_noinline void part_empty_home(mi_part_t* part) {
  const bool outgrew = part_outgrew_own(part);
  part_spare_regions(part);
  if (mi_unlikely(part_is_large(part))) {
    part_reset_slow(part, 0);
  } else {
    part_empty(part, (size_t)1 << MI_REGION_SHIFT_MIN);
  }
  if (outgrew) part_reopen(part);
}

// For a reset of the first part of a heap that has no other, by its owner.
void _mi_part_reset_home(mi_part_t* part) {
  mi_thread_t* const thread = _mi_tls.thread;
  const mi_part_t* const last = thread->reset_last;
  thread->reset_last = part;
  if (mi_likely(part_repeats(part))) {
    if (last == part) {
      part_empty_again(part);
      return;
    }
    if (mi_likely(part->spare == NULL)) {
      part_rest(part);
      return;
    }
  }
  if (part->regions == NULL) {
    part_empty(part, (size_t)1 << MI_REGION_SHIFT_MIN);
  } else {
    part_empty_home(part);
  }
}

// The part of a heap that is over, to be recycled by the calling thread if it is the owner.
static mi_noinline void part_empty_handle(mi_part_t* part) {
  const bool reopens = (part_outgrew_own(part) && mi_part_owner(part) == _mi_tls.tid);
  part_spare_regions(part);
  if (mi_unlikely(part_opened_several(part))) part_join_spare(part);
  part_empty(part, (size_t)1 << MI_REGION_SHIFT_MIN);
  if (reopens && part->spare != NULL && !part_asks(part, region_kib(part->spare))) part_reopen(part);
}

static inline void part_recycle(mi_part_t* part) {
  if (part->regions == NULL) {
    part_empty(part, (size_t)1 << MI_REGION_SHIFT_MIN);
  } else if (mi_likely(mi_part_owner(part) == _mi_tls.tid && part_repeats(part))) {
    part_empty_again(part);
  } else {
    part_empty_handle(part);
  }
}

// All regions of an empty part become spare.
static void part_fold(mi_part_t* part) {
  if (part->regions == NULL) return;
  part_spare_regions(part);
  part_empty(part, (size_t)1 << MI_REGION_SHIFT_MIN);
}

static bool part_is_open_for_nothing(const mi_part_t* part) {
  const mi_region_t* const region = part->current;
  return part_has_reopened(part) && region->marked == 0 &&
         mi_load_relaxed(&part->bump) == region_at(region, region->first);
}

// The heap of this part has an account from now on.
void _mi_part_account(mi_part_t* part) {
  if (mi_region_is_mine(&part->region) && part_is_open_for_nothing(part)) part_fold(part);
}

// --- in the child of a fork -------------------------------------------------------------------------------------

// Gives a region its `end` if it has none. Of the object that was about to be made, perhaps there is the start.
static void region_settle(mi_region_t* region, const uint8_t* bump) {
  if (mi_load_relaxed(&region->end) != 0) return;
  const size_t size = (size_t)1 << region->shift, offset = (size_t)(bump - (const uint8_t*)region);
  size_t end = (bump > (const uint8_t*)region && offset <= size ? offset / MI_GRANULE : region->first);
  if (end < size / MI_GRANULE) end += mi_load_relaxed(mi_region_words(region, end)) >> (end % 64) & 1;
  mi_store_relaxed(&region->end, (uint16_t)end);
}

// For who ends or resets a heap: a part whose owner is gone, which may have stopped between any two stores of this
// file. Its spare regions may be in use at the same time, and are left alone for ever. Nobody bumps in it any more.
void _mi_part_settle(mi_part_t* part) {
  const uint8_t* const bump = mi_load_relaxed(&part->bump);
  region_settle(&part->region, bump);
  part->spare = NULL;
  part->regions_last = NULL;
  part->bytes = 0;
  const uint32_t charged = part->young;
  for (mi_region_t* region = part->regions; region != NULL; region = region->next) {
    region_settle(region, bump);
    part->regions_last = region;
    part->bytes += 1u << region->shift;
  }
  part->young = (uint16_t)(part->bytes / MI_KiB + (part_is_home(part) || part->is_shut ? 0 : 1));
  if (!part_is_home(part))
    _mi_account_add(mi_account_of(part->heap), ((int64_t)part->young - (int64_t)charged) * (int64_t)MI_KiB);
  part->current = &part->region;
  mi_store_relaxed(&part->bump, region_at(&part->region, mi_load_relaxed(&part->region.end)));
}

// A thread that is gone may have counted a handle that it did not return.
void _mi_returned_settle(mi_thread_t* self) {
  uint32_t bytes = 0;
  for (mi_heap_t* heap = mi_load_relaxed(&self->returned); heap != NULL; heap = (mi_heap_t*)heap->home.region.next) {
    bytes += heap->home.bytes + (1u << MI_REGION_SHIFT_MIN);
  }
  mi_store_relaxed(&self->returned_bytes, bytes);
}

// --- recycling ------------------------------------------------------------------------------------------------
// A thread keeps handles of heaps that it ended, with their regions, for the next it makes: last in first out, at most
// 16 handles and 32 KiB of regions, or up to 128 KiB if it learnt that its heaps are that large (until a collect). A
// thread that ends more heaps than it makes keeps nothing.

static inline uint32_t handle_bytes(const mi_heap_t* heap) { return heap->home.bytes + (1u << MI_REGION_SHIFT_MIN); }

static inline void handle_keep(mi_thread_t* thread, mi_heap_t* heap) {
  heap->home.region.next = (mi_region_t*)thread->handle_cache;
  thread->handle_cache = heap;
  thread->handle_cache_count++;
  thread->handle_cache_bytes += heap->home.bytes;
}

// A thread that ends heaps which others make gives each back to the thread that cut its handle, regions and all, with
// one CAS: the maker takes them for its next heaps. Bounded like its own cache; the count is only roughly right.
static bool handle_return(mi_heap_t* heap) {
  const mi_tid_t id = mi_load_relaxed(&mi_slot_of(heap)->owner) & ~MI_OWNER_FLAGS;
  if (id == MI_TID_NONE || id == _mi_tls.tid || !mi_tid_is_alive(id) || mi_tid_is_gone(id)) return false;
  mi_thread_t* const maker = _mi_thread_of(id);
  const uint32_t bytes = mi_load_relaxed(&maker->returned_bytes);
  if (bytes >= MI_CACHE_BYTES_MAX) return false;
  part_trim_spare(&heap->home, MI_CACHE_BYTES_MAX - bytes);
  mi_fetch_add_relaxed(&maker->returned_bytes, handle_bytes(heap));
  mi_heap_t* head = mi_load_relaxed(&maker->returned);
  do {
    heap->home.region.next = (mi_region_t*)head;
    // Release: the regions as they are now. The maker takes the whole stack at once (acquire), so there is no ABA. If
    // it ended meanwhile, the record's next thread or a collect takes it.
  } while (!mi_cas_weak_acq_rel(&maker->returned, &head, heap));
  return true;
}

// Takes all that was returned to a thread.
static mi_heap_t* returned_take(mi_thread_t* thread) {
  mi_heap_t* const list = mi_exchange_acq_rel(&thread->returned, (mi_heap_t*)NULL);
  uint32_t bytes = 0;
  for (mi_heap_t* heap = list; heap != NULL; heap = (mi_heap_t*)heap->home.region.next) bytes += handle_bytes(heap);
  atomic_fetch_sub_explicit(&thread->returned_bytes, bytes, memory_order_relaxed);
  return list;
}

static void prepared_yield(mi_thread_t* thread);

static mi_noinline mi_heap_t* handle_alloc_slow(mi_thread_t* thread) {
  if (mi_unlikely(thread->prepared != NULL)) {
    prepared_yield(thread);
    mi_heap_t* const heap = thread->handle_cache;
    thread->handle_cache = (mi_heap_t*)heap->home.region.next;
    thread->handle_cache_count--;
    thread->handle_cache_bytes -= heap->home.bytes;
    return heap;
  }
  if (mi_load_relaxed(&thread->returned) != NULL) {
    mi_heap_t* const first = returned_take(thread);
    for (mi_heap_t* list = (mi_heap_t*)first->home.region.next; list != NULL;) {
      mi_heap_t* const next = (mi_heap_t*)list->home.region.next;
      handle_keep(thread, list);
      list = next;
    }
    return first;
  }
  mi_heap_t* const heap = _mi_internal_alloc(thread, (size_t)1 << MI_REGION_SHIFT_MIN);
  if (heap == NULL) return NULL;
  _mi_part_init(&heap->home, heap, MI_TID_NONE, MI_REGION_SHIFT_MIN);
  mi_store_relaxed(&heap->refs, 1u);
  mi_heap_set_flags(heap, _mi_heap_flags_of_new());
  return heap;
}

static mi_noinline void handle_free_slow(mi_thread_t* thread, mi_heap_t* heap) {
  mi_part_t* const part = &heap->home;
  if (mi_unlikely(thread != NULL && thread->prepared != NULL)) prepared_yield(thread);
  part_fold(part);
  if (thread != NULL && thread->heap_balance >= 0 && thread->handle_cache_count < MI_CACHE_COUNT_MAX) {
    const uint32_t limit = thread->handle_cache_limit;
    part_trim_spare(part, thread->handle_cache_bytes < limit ? limit - thread->handle_cache_bytes : 0);
    thread->handle_trims++;
    handle_keep(thread, heap);
    return;
  }
  if (handle_return(heap)) return;
  part_trim_spare(part, 0);
  _mi_handle_totals_free(heap);
  region_go_home(&part->region);
}

// --- handles with what a configuration asked for (prepared.c)

bool _mi_handle_keep_prepared(mi_thread_t* thread, mi_heap_t* heap) {
  mi_part_t* const part = &heap->home;
  if (thread->heap_balance < 0 || thread->handle_cache_count >= MI_CACHE_COUNT_MAX) return false;
  mi_store_relaxed(&part->id, 0);  // first, as below
  mi_stores_in_order();
  part_recycle(part);
  mi_store_relaxed(&part->region.owner, MI_TID_NONE);
  if (thread->heap_balance > -MI_BALANCE_MAX) thread->heap_balance--;
  if (part_asks(part, 0)) part_fold(part);  // its limit was higher than the configuration's
  if (mi_unlikely(thread->handle_cache_bytes + part->bytes > thread->handle_cache_limit)) {
    const uint32_t limit = thread->handle_cache_limit;
    part_fold(part);
    part_trim_spare(part, thread->handle_cache_bytes < limit ? limit - thread->handle_cache_bytes : 0);
    thread->handle_trims++;
  }
  if (part->is_shut != 0 && part->regions == NULL) part->limit = part_first(part);
  part->region.next = (mi_region_t*)thread->prepared;
  thread->prepared = heap;
  thread->handle_cache_count++;
  thread->handle_cache_bytes += part->bytes;
  return true;
}

void _mi_handle_take_prepared(mi_thread_t* thread, mi_heap_t* heap) {
  mi_part_t* const part = &heap->home;
  if (thread->heap_balance < MI_BALANCE_MAX) thread->heap_balance++;
  thread->prepared = (mi_heap_t*)part->region.next;
  thread->handle_cache_count--;
  thread->handle_cache_bytes -= part->bytes;
  mi_store_relaxed(&part->region.owner, mi_load_relaxed(&thread->id) | MI_OWNER_YOUNG);
}

// One of them becomes a handle like others, for what the thread makes now.
static void prepared_yield(mi_thread_t* thread) {
  mi_heap_t* const heap = thread->prepared;
  thread->prepared = (mi_heap_t*)heap->home.region.next;
  thread->handle_cache_count--;
  thread->handle_cache_bytes -= heap->home.bytes;
  _mi_prepared_strip(heap);
  if (heap->home.regions == NULL) part_empty(&heap->home, (size_t)1 << MI_REGION_SHIFT_MIN);
  handle_keep(thread, heap);
}

// A handle that is recycled has everything as a new one has it, but for its spare regions, and one that it opened
// already; that one has this thread's id: others' are folded (handle_free_slow).
mi_heap_t* _mi_handle_alloc(mi_thread_t* thread) {
  if (thread->heap_balance < MI_BALANCE_MAX) thread->heap_balance++;
  mi_heap_t* heap = thread->handle_cache;
  if (mi_likely(heap != NULL)) {
    thread->handle_cache = (mi_heap_t*)heap->home.region.next;
    thread->handle_cache_count--;
    thread->handle_cache_bytes -= heap->home.bytes;
  } else {
    heap = handle_alloc_slow(thread);
    if (heap == NULL) return NULL;
  }
  mi_store_relaxed(&heap->home.region.owner, mi_load_relaxed(&thread->id) | (MI_SECURE ? 0 : MI_OWNER_YOUNG));
  return heap;
}

// The heap is over: its regions and the handle are recycled, or go home.
void _mi_handle_free(mi_thread_t* thread, mi_heap_t* heap) {
  mi_part_t* const part = &heap->home;
  mi_store_relaxed(&part->id, 0);  // first: from here on nobody is shown the heap
  mi_stores_in_order();
  part_recycle(part);
  mi_store_relaxed(&part->region.owner, MI_TID_NONE);
  if (mi_unlikely(thread == NULL)) {
    handle_free_slow(thread, heap);
    return;
  }
  if (thread->heap_balance > -MI_BALANCE_MAX) thread->heap_balance--;
  if (mi_unlikely(thread->heap_balance < 0 || thread->handle_cache_count >= MI_CACHE_COUNT_MAX ||
                  thread->handle_cache_bytes + part->bytes > thread->handle_cache_limit)) {
    handle_free_slow(thread, heap);
    return;
  }
  handle_keep(thread, heap);
}

static void handles_free(mi_heap_t* heap) {
  while (heap != NULL) {
    mi_heap_t* const next = (mi_heap_t*)heap->home.region.next;
    part_fold(&heap->home);
    part_trim_spare(&heap->home, 0);
    _mi_handle_totals_free(heap);
    region_go_home(&heap->home.region);
    heap = next;
  }
}

// What others returned to a thread goes home; also of a record that nobody uses at the moment.
void _mi_returned_flush(mi_thread_t* thread) {
  if (mi_load_relaxed(&thread->returned) != NULL) handles_free(returned_take(thread));
}

void _mi_handle_cache_flush(mi_thread_t* thread) {
  while (mi_unlikely(thread->prepared != NULL)) prepared_yield(thread);
  mi_heap_t* const heaps = thread->handle_cache;
  thread->handle_cache = NULL;
  thread->handle_cache_count = 0;
  thread->handle_cache_bytes = 0;
  thread->handle_cache_limit = MI_HANDLE_CACHE_START;
  thread->handle_trims = 0;
  handles_free(heaps);
  _mi_returned_flush(thread);
}

void _mi_handle_prefer(mi_thread_t* thread, const void* name) {
  mi_heap_t* before = NULL;
  for (mi_heap_t* heap = thread->handle_cache; heap != NULL; heap = (mi_heap_t*)heap->home.region.next) {
    if (mi_load_relaxed(&heap->forwarder_next) == name) {
      if (before == NULL) return;
      before->home.region.next = heap->home.region.next;
      heap->home.region.next = (mi_region_t*)thread->handle_cache;
      thread->handle_cache = heap;
      return;
    }
    before = heap;
  }
}

void _mi_handle_retain(mi_thread_t* thread, size_t bytes) {
  const uint32_t limit = (uint32_t)(bytes < MI_RETAIN_MAX ? bytes : MI_RETAIN_MAX);
  if (thread->handle_cache_limit < limit) thread->handle_cache_limit = limit;
}

// Every few dozen slow paths. Handles that were not touched for so many of these go home, and what was learnt is
// forgotten.
void _mi_handle_idle_step(mi_thread_t* thread) {
  if (thread->handle_cache == NULL && thread->prepared == NULL) return;
  if (thread->handle_seen != thread->heap_id_next) {  // heaps were made since
    thread->handle_seen = thread->heap_id_next;
    thread->handle_idle = 0;
  } else if (++thread->handle_idle >= MI_IDLE_STEPS) {
    thread->handle_idle = 0;
    _mi_handle_cache_flush(thread);
  }
}

// --- empty regions ------------------------------------------------------------------------------------------------

static inline bool region_first_word_is_empty(const mi_region_t* region) {
  _Atomic(uint64_t)* const word = mi_region_words(region, 0);
  return (mi_load_relaxed(&word[0]) & ~(mi_load_relaxed(&word[1]) | mi_load_relaxed(&word[2]))) == 0;
}

bool _mi_region_is_empty(const mi_region_t* region) {
  const size_t words = region_word_count(region);
  for (size_t w = 0; w < words; w++) {
    _Atomic(uint64_t)* const word = mi_region_words(region, 64 * w);
    // Acquire: the freers' last uses of the objects come before the memory is used again.
    if ((mi_load_acquire(&word[0]) & ~(mi_load_acquire(&word[1]) | mi_load_acquire(&word[2]))) != 0) return false;
  }
  return true;
}

static inline bool region_may_go(const mi_part_t* part, const mi_region_t* region) {
  return region->marked == 0 && _mi_region_is_empty(region) && !_mi_heap_is_held(part->heap);
}

// The current region, which is empty, is not current any more: the part's own goes on where it ended.
static void part_retreat(mi_part_t* part) {
  mi_region_t* const region = &part->region;
  _mi_deferred_count(part);
  part_close_current(part);
  mi_stores_in_order();
  uint8_t* const at = region_at(region, mi_load_relaxed(&region->end));
  part->current = region;
  part->limit = (part->is_shut != 0 ? at : (uint8_t*)region + ((size_t)1 << region->shift));
  mi_store_release(&part->bump, at);
  // Release, and last: its objects have an end at any moment.
  mi_store_release(&region->end, (uint16_t)0);
  _mi_deferred_rewound(part);
}

// Gives back spare regions, and regions without live objects. By the owner of an open part, or by who has a closed
// heap.
void _mi_part_release_empty(mi_part_t* part) {
  if (part_is_open_for_nothing(part)) {
    if (mi_account_of(part->heap) != NULL) _mi_part_leave(part, part->current);
    part_fold(part);
  }
  part_trim_spare(part, 0);
  if (mi_heap_is_visited(part->heap)) return;
  // What comes to the part's own region again is younger than the marks that it was in use at.
  if (part->current != &part->region && part->region.marked == 0 && region_may_go(part, part->current))
    part_retreat(part);
  mi_region_t* last = NULL;
  for (mi_region_t** link = &part->regions; *link != NULL;) {
    mi_region_t* const region = *link;
    if (region != part->current && region_may_go(part, region)) {
      *link = region->next;
      part->bytes -= 1u << region->shift;
      _mi_part_leave(part, region);
      _mi_region_emptied(region, part);
      region_go_home(region);
    } else {
      last = region;
      link = &region->next;
    }
  }
  part->regions_last = last;
}

// Puts a region behind all others in use; there is one.
static inline void part_append_region(mi_part_t* part, mi_region_t* region) {
  region->next = NULL;
  mi_stores_in_order();
  part->regions_last->next = region;
  part->regions_last = region;
}

// The first of several regions becomes the last: the next search looks at another one.
static inline void part_rotate_regions(mi_part_t* part) {
  mi_region_t* const head = part->regions;
  part->regions = head->next;
  mi_stores_in_order();
  part_append_region(part, head);
}

// A small piece of that: looks at one region, another one each time.
void _mi_part_release_step(mi_part_t* part) {
  mi_region_t* const region = part->regions;
  if (region == NULL || region == part->regions_last || mi_heap_is_visited(part->heap)) return;
  if (region != part->current && region_may_go(part, region)) {
    part->regions = region->next;
    part->bytes -= 1u << region->shift;
    _mi_part_leave(part, region);
    _mi_region_emptied(region, part);
    region_go_home(region);
  } else {
    part_rotate_regions(part);
  }
}

// --- allocation -----------------------------------------------------------------------------------------------------

// Makes an empty region with room for `need` bytes the current one.
static inline bool part_try_reuse(mi_part_t* part, mi_region_t* region, size_t need) {
  if (mi_likely(!region_first_word_is_empty(region))) return false;
  if (((size_t)1 << region->shift) - region->first * (size_t)MI_GRANULE < need || !_mi_region_is_empty(region))
    return false;
  if (region->marked != 0 || _mi_heap_is_held(part->heap)) return false;  // a mark may stand in it
  if (mi_unlikely(part->is_shut != 0) && region == &part->region) return false;
  if (region != part->current) part_close_current(part);
  _mi_region_emptied(region, part);
  region_clear(region);
  part_set_current(part, region);
  return true;
}

// The class of an object by its size in granules, for sizes up to MI_YOUNG_SIZE_MAX: with MI_MIN_ALIGN = 16, mi_bin_of
// as a table.
#define MSB(x) (63 - __builtin_clzl((unsigned long)(x)))
#define BIN(g) \
  (uint8_t)((g) <= 8 ? 1 + (g) : 10 + (MSB((g)*16 - 1) - 7) * 8 + ((((g)*16 - 1) >> (MSB((g)*16 - 1) - 3)) & 7))
#define BIN4(g) BIN(g), BIN(g + 1), BIN(g + 2), BIN(g + 3)
#define BIN16(g) BIN4(g), BIN4(g + 4), BIN4(g + 8), BIN4(g + 12)
#define BIN64(g) BIN16(g), BIN16(g + 16), BIN16(g + 32), BIN16(g + 48)
static const uint8_t granules_bin[MI_YOUNG_SIZE_MAX / MI_GRANULE + 1] = {
    0,         BIN(1),    BIN(2),     BIN(3),     BIN4(4),    BIN4(8),    BIN4(12),   BIN16(16),  BIN16(32),
    BIN16(48), BIN64(64), BIN64(128), BIN64(192), BIN64(256), BIN64(320), BIN64(384), BIN64(448), BIN(512)};

void _mi_part_earned(mi_part_t* part, size_t size) {
  if (size > MI_YOUNG_SIZE_MAX) return;
  if (part->step == 0) part->step = 1;
  part->seen[granules_bin[(size + MI_GRANULE - 1) / MI_GRANULE]] = 255;
}

// --- accounts: see account.c ---------------------------------------------------------------------------------------

// Before `size` bytes of regions are opened: false if a limit forbids it. The first part of a heap that counts in no
// other is believed as it is; else `*prepaid` is what was charged.
static mi_noinline bool part_charge(mi_part_t* part, size_t size, int64_t* prepaid) {
  mi_account_t* const account = mi_account_of(part->heap);
  *prepaid = 0;
  if (part_is_home(part) && mi_account_above(account) == NULL) return _mi_account_fits_alone(account, size);
  if (!_mi_account_charge(account, size)) return false;
  *prepaid = (int64_t)size;
  return true;
}

// After that, or in the course of a change that was charged with.
static inline void part_settle_account(mi_part_t* part, mi_account_t* account, int64_t prepaid) {
  if (part_is_home(part) && (prepaid != 0 || mi_account_above(account) != NULL)) _mi_account_settle(account, prepaid);
}

// A region goes out of use.
void _mi_part_leave(mi_part_t* part, const mi_region_t* region) {
  const int64_t size = (int64_t)1 << region->shift;
  const bool closed = (mi_load_relaxed(&part->heap->state) != MI_HEAP_OPEN);
  mi_account_t* account = mi_account_of(part->heap);
  if (account == NULL && !closed) account = (mi_account_t*)_mi_heap_extra_make(part->heap);  // for the peak
  int64_t prepaid = 0;
  if (account == NULL) {
    if (closed) _mi_account_main_add(-size);
  } else if (part_is_home(part) && mi_account_above(account) == NULL) {
    _mi_account_fell_alone(account, (size_t)size);
  } else {
    _mi_account_add(account, -size);
    prepaid = -size;
  }
  part->young -= (uint16_t)region_kib(region);
  if (account != NULL) part_settle_account(part, account, prepaid);
}

// The embedded region of a lane, which is shut until it is charged.
static mi_noinline bool part_open_embedded(mi_part_t* part, size_t need) {
  int64_t prepaid;
  mi_region_t* const region = &part->region;
  const size_t size = (size_t)1 << region->shift;
  if (part_is_home(part) || region->marked != 0 || size - region->first * (size_t)MI_GRANULE < need ||
      !part_charge(part, size, &prepaid))
    return false;
  part->is_shut = 0;
  part->young += (uint16_t)region_kib(region);
  if (part->current != region) {
    part_close_current(part);
    region_clear(region);
    part_set_current(part, region);
  } else {
    part->limit = (uint8_t*)region + size;
  }
  return true;
}

// A region for an object that fits no other. A thread that keeps making regions which it had to give back at the end of
// the last heap learns to keep more.
static mi_region_t* region_new(mi_thread_t* thread, mi_part_t* part, size_t need, bool* asked, int64_t* prepaid) {
  if (thread->handle_trims > MI_CACHE_LEARN && thread->handle_cache_limit < MI_CACHE_BYTES_MAX) {
    thread->handle_cache_limit *= 2;
    thread->handle_trims = 0;
  }
  size_t shift = region_shift[part->step];
  // A large object does not get a region that is full with it.
  while (((size_t)1 << shift) - region_first(shift) * MI_GRANULE < (need > MI_KiB ? 2 * need : need)) shift++;
  *asked = part_asks(part, (size_t)1 << (shift - 10));
  if (*asked) {
    while (!part_charge(part, (size_t)1 << shift, prepaid)) {  // a smaller one
      if (--shift < REGION_SHIFT_LEAST || ((size_t)1 << shift) - region_first(shift) * MI_GRANULE < need) return NULL;
    }
  }
  mi_region_t* const region = region_make(thread, part, shift, need);
  if (mi_unlikely(region == NULL) && *asked) _mi_account_add(mi_account_of(part->heap), -*prepaid);
  return region;
}

static inline size_t region_room(const mi_region_t* region) {
  return ((size_t)1 << region->shift) - region->first * (size_t)MI_GRANULE;
}

// Were many of the region's objects freed (as far as its first KiBs tell)? Then pages, which reuse single blocks, save
// memory; a heap that only grows is better off with regions.
static inline bool region_churns(const mi_region_t* region) {
  const size_t words = region_word_count(region);
  size_t starts = 0, frees = 0;
  for (size_t w = 0; w < words && w < 4; w++) {
    _Atomic(uint64_t)* const word = mi_region_words(region, 64 * w);
    const uint64_t freed = mi_load_relaxed(&word[1]) | mi_load_relaxed(&word[2]);
    if (mi_likely(freed == 0)) continue;
    starts += mi_popcount(mi_load_relaxed(&word[0]));
    frees += mi_popcount(freed);
  }
  return frees > 0 && 4 * frees >= starts;
}

// Puts so many KiB of regions down to a class.
static inline void part_count(mi_part_t* part, size_t kib, size_t bin, bool churns) {
  if (kib > 16) kib = 16;
  const size_t seen = part->seen[bin] + (churns ? 4 * kib : kib);
  part->seen[bin] = (uint8_t)(seen < 255 ? seen : 255);
}

// Makes a region of `kib` KiB that is not in use the current one, and puts it down to class `bin`. It is charged.
static inline void part_open(mi_part_t* part, mi_region_t* region, size_t kib, size_t bin) {
  part_count(part, kib, bin, region_churns(part->current));
  part->young += (uint16_t)kib;
  // The first of several may have been taken uncounted (part_reopen).
  if (part->step == 0 && part->regions != NULL) part->step = 1;
  if (part->step < STEPS - 1) part->step++;
  region_clear(region);
  mi_store_relaxed(&region->end, (uint16_t)0);
  region->part = part;
  mi_store_relaxed(&region->owner, mi_part_owner(part));
  mi_stores_in_order();
  // Large ones first: the next heap on this handle then opens fewer.
  mi_region_t* const head = part->regions;
  if (head == NULL || region->shift >= head->shift) {
    if (head == NULL) part->regions_last = region;
    region->next = head;
    mi_stores_in_order();
    part->regions = region;
  } else {
    part_append_region(part, region);
  }
  part_close_current(part);
  part_set_current(part, region);
}

// Makes room for `need` bytes without a spare region: by a region that became empty, if one of a few did, or a new one.
static mi_noinline bool part_grow(mi_thread_t* thread, mi_part_t* part, size_t need, size_t bin) {
  if (mi_likely(!mi_heap_is_visited(part->heap))) {
    bool reused = part_try_reuse(part, part->current, need);
    mi_region_t* const head = part->regions;
    if (!reused && head != NULL && head != part->regions_last) {
      reused = part_try_reuse(part, head, need);
      part_rotate_regions(part);
    }
    if (reused || part_try_reuse(part, &part->region, need)) {
      if (part->step == 0) part->step = 1;
      part_count(part, part->current->shift <= 10 ? 1 : region_kib(part->current), bin, true);
      return true;
    }
  }
  if (mi_unlikely(part->is_shut != 0) && part_open_embedded(part, need)) return true;
  bool asked;
  int64_t prepaid = 0;
  mi_region_t* const region = region_new(thread, part, need, &asked, &prepaid);
  if (region == NULL) return false;
  part_open(part, region, region_kib(region), bin);
  if (asked) part_settle_account(part, mi_account_of(part->heap), prepaid);
  return true;
}

// The gap before an aligned object is an object of its own that is free already, so that the one before keeps its size.
static inline void part_skip_to(mi_part_t* part, uint8_t* at) {
  uint8_t* const gap = mi_load_relaxed(&part->bump);
  if (mi_likely(gap == at)) return;
  mi_part_bump(part, gap, (size_t)(at - gap));
  const size_t granule = (size_t)(gap - (uint8_t*)part->current) / MI_GRANULE;
  _Atomic(uint64_t)* const word = mi_region_words(part->current, granule);
  mi_store_release(&word[1], mi_load_relaxed(&word[1]) | (uint64_t)1 << (granule % 64));
  mi_fetch_or_acq_rel(&word[2], (uint64_t)1 << (granule % 64));  // freed twice: never an object, and not counted as one
}

// NULL: the class has earned pages, or there is no memory.
static mi_noinline void* young_alloc_slow(mi_part_t* part, size_t size, size_t alignment) {
  mi_thread_t* const thread = _mi_tls.thread;
  const size_t need = mi_round_up(size + (size == 0), MI_GRANULE);
  uint8_t* at = (uint8_t*)mi_round_up((uintptr_t)mi_load_relaxed(&part->bump), alignment);
  if ((intptr_t)(part->limit - at) < (intptr_t)need) {
    const size_t bin = granules_bin[need / MI_GRANULE], room = need + alignment - MI_GRANULE;
    if (part->seen[bin] >= MI_SEEN_EARNED) return NULL;
    mi_region_t* const spare = part->spare;
    const size_t kib = (spare != NULL ? region_kib(spare) : 0);
    const bool asks = part_asks(part, kib);
    int64_t prepaid = 0;
    if (spare != NULL && region_room(spare) >= room &&
        (!asks || part_charge(part, (size_t)1 << spare->shift, &prepaid))) {
      part->spare = spare->next;
      part_open(part, spare, kib, bin);
      if (asks) part_settle_account(part, mi_account_of(part->heap), prepaid);
    } else if (!part_grow(thread, part, room, bin)) {
      return NULL;
    }
    at = (uint8_t*)mi_round_up((uintptr_t)mi_load_relaxed(&part->bump), alignment);
  }
  part_skip_to(part, at);
  return mi_part_bump(part, at, need);
}

// Of a part that rests.
static mi_noinline void* young_reopen(mi_part_t* part, size_t size) {
  _mi_slow_path(_mi_tls.thread, part->heap);  // a callback may have allocated in this very part
  const size_t need = mi_round_up(size + (size == 0), MI_GRANULE);
  if (mi_likely(part_rests(part))) {
    mi_region_t* const region = part->spare;
    if (mi_likely(region_room(region) >= need)) {
      part_reopen(part);
      return mi_part_bump(part, region_at(region, region->first), need);
    }
    part->limit = (uint8_t*)&part->region + ((size_t)1 << part->region.shift);
  }
  return _mi_young_malloc_slow(part, size);
}

// Takes a spare region if there is one that serves, which is what a recycled heap does.
mi_noinline void* _mi_young_malloc_slow(mi_part_t* part, size_t size) {
  if (mi_unlikely(part_rests(part))) return young_reopen(part, size);
  if (mi_likely(size <= MI_YOUNG_SIZE_MAX)) {
    _mi_slow_path(_mi_tls.thread, part->heap);  // may call back, and a callback may allocate in this very part
    const size_t granules = (size + (size == 0) + MI_GRANULE - 1) / MI_GRANULE, need = granules * MI_GRANULE;
    const size_t bin = granules_bin[granules];
    mi_region_t* const spare = part->spare;
    if (mi_likely(spare != NULL && region_room(spare) >= need && part->seen[bin] < MI_SEEN_EARNED &&
                  (size_t)(part->limit - mi_load_relaxed(&part->bump)) < need)) {
      const size_t kib = region_kib(spare);
      if (mi_likely(!part_asks(part, kib))) {
        part->spare = spare->next;
        part_open(part, spare, kib, bin);
        return mi_part_bump(part, mi_load_relaxed(&part->bump), need);
      }
    }
    void* const p = young_alloc_slow(part, size, MI_GRANULE);
    if (mi_likely(p != NULL)) {
      if (mi_unlikely(_mi_tls.thread->alarm)) _mi_limit_alarm(_mi_tls.thread, part->heap);
      return p;
    }
  }
  return _mi_part_malloc_paged(part, size, false);
}

// An object with an alignment of 16 to 256 in a part of the calling thread that may have pages. NULL: take those.
void* _mi_young_alloc(mi_part_t* part, size_t size, size_t alignment, bool zero) {
  if (size > MI_YOUNG_SIZE_MAX) return NULL;
  const size_t need = mi_round_up(size + (size == 0), MI_GRANULE);
  if (part->seen[granules_bin[need / MI_GRANULE]] >= MI_SEEN_EARNED) return NULL;
  uint8_t* const at = (uint8_t*)mi_round_up((uintptr_t)mi_load_relaxed(&part->bump), alignment);
  void* p;
  if (mi_likely((intptr_t)(part->limit - at) >= (intptr_t)need)) {
    part_skip_to(part, at);
    p = mi_part_bump(part, at, need);
  } else {
    _mi_slow_path(_mi_tls.thread, part->heap);
    p = young_alloc_slow(part, size, alignment);
    if (mi_unlikely(_mi_tls.thread->alarm) && p != NULL) _mi_limit_alarm(_mi_tls.thread, part->heap);
  }
  return (p != NULL && zero ? memset(p, 0, need) : p);
}

// --- objects -------------------------------------------------------------------------------------------------------

mi_region_t* _mi_region_of(const mi_page_t* page, const void* p) {
  return (mi_region_t*)((uintptr_t)p & ~(uintptr_t)(page->block_size - 1));
}

static mi_cold void region_free_invalid(void* p, bool twice) {
  if (twice) {
    _mi_error(EAGAIN, "mi_free: double free of %p\n", p);
  } else {
    _mi_error(EINVAL, "mi_free: invalid pointer %p: no object starts there\n", p);
  }
}

void _mi_region_free(mi_page_t* page, void* p) {
  mi_region_t* const region = _mi_region_of(page, p);
  const size_t offset = (size_t)((uint8_t*)p - (uint8_t*)region);
  if (mi_unlikely(offset % MI_GRANULE != 0)) {
    region_free_invalid(p, false);
    return;
  }
  _Atomic(uint64_t)* const word = mi_region_words(region, offset / MI_GRANULE);
  const uint64_t bit = (uint64_t)1 << (offset / MI_GRANULE % 64);
  const uint64_t freed = mi_load_relaxed(&word[1]);
  // No object starts in the region's head or beyond its end: no bit is set there.
  if (mi_unlikely((mi_load_relaxed(&word[0]) & ~(freed | mi_load_relaxed(&word[2])) & bit) == 0)) {
    region_free_invalid(p, (mi_load_relaxed(&word[0]) & bit) != 0);
    return;
  }
  if (mi_likely(mi_region_is_mine(region))) {
    mi_store_release(&word[1], freed | bit);
  } else {
    // Release: the freer's last uses of the object come before its memory is used again.
    if (mi_unlikely((mi_fetch_or_acq_rel(&word[2], bit) & bit) != 0)) region_free_invalid(p, true);
  }
}

// Where objects of the region end: granules beyond were never handed out.
size_t _mi_region_end(const mi_region_t* region) {
  for (int tries = 0; tries < 100; tries++) {
    const size_t end = mi_load_acquire(&region->end);
    if (end != 0) return end;
    const uint8_t* const bump = mi_load_acquire(&region->part->bump);
    const size_t offset = (size_t)(bump - (const uint8_t*)region);
    if (bump > (const uint8_t*)region && offset <= (size_t)1 << region->shift) return offset / MI_GRANULE;
    // The part went on to another region between the two loads: then `end` is set.
  }
  return region->first;  // a stale address, in a region that is used again at this moment
}

size_t _mi_region_usable(const mi_page_t* page, const void* p) {
  mi_region_t* const region = _mi_region_of(page, p);
  if (region->first == 0) return 0;  // a block that was not handed out, or is back
  const size_t granule = (size_t)((const uint8_t*)p - (const uint8_t*)region) / MI_GRANULE;
  // First the end, then the starts: an end beyond the object makes the start of the next one visible.
  const size_t end = _mi_region_end(region);
  if (granule < region->first || granule >= end) return 0;
  const _Atomic(uint64_t)* word = mi_region_words(region, granule);
  if ((mi_load_relaxed((_Atomic(uint64_t)*)&word[0]) >> (granule % 64) & 1) == 0) return 0;
  for (size_t next = granule + 1; next < end;) {
    const uint64_t starts = mi_load_relaxed(mi_region_words(region, next)) >> (next % 64);
    if (starts != 0) {
      const size_t found = next + mi_ctz(starts);
      return (found < end ? found - granule : end - granule) * MI_GRANULE;
    }
    next = (next / 64 + 1) * 64;
  }
  return (end - granule) * MI_GRANULE;
}

// Grows or shrinks the last object of the calling thread's current region in place.
bool _mi_region_resize(const mi_page_t* page, void* p, size_t newsize) {
  mi_region_t* const region = _mi_region_of(page, p);
  mi_part_t* const part = region->part;
  if (!mi_region_is_mine(region) || part->current != region || region->marked != 0) return false;
  if (newsize > MI_YOUNG_SIZE_MAX || (size_t)(part->limit - (uint8_t*)p) < newsize) return false;
  const size_t usable = _mi_region_usable(page, p);
  if (usable == 0 || (uint8_t*)p + usable != mi_load_relaxed(&part->bump)) return false;
  const size_t need = (newsize <= MI_GRANULE ? MI_GRANULE : mi_round_up(newsize, MI_GRANULE));
  if (need > (size_t)(part->limit - (uint8_t*)p)) return false;
  if (need < usable && _mi_heap_is_held(part->heap)) return false;  // the rest would become part of another object
  mi_store_release(&part->bump, (uint8_t*)p + need);
  return true;
}
