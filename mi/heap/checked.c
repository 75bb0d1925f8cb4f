// Checked blocks: what lies behind each block in builds with padding and in those that a tool sees through, and who
// looks at it when. Empty in other builds; guarded blocks are in guarded.c.
//
// A block is allocated with 16 bytes more than was asked for. The last 16 bytes of what the core gave are its tail: the
// size, and a check word that depends on the address, the size and a secret of the process. Bytes between the block and
// its tail are filled with bytes of the check word, the first 64 at least. So:
//  * mi_usable_size is exactly what was asked for;
//  * a free that finds the filling or the tail changed reports an overflow; one that finds the check word of a freed
//    block a double free (until the memory is used again); one that finds neither an invalid pointer. The last two
//    leave everything as it is;
//  * what is freed as a whole (mi_heap_destroy, mi_heap_reset) is walked first, block by block;
//  * resizing always moves, apart from mi_expand.
// Tails are written by who allocates and who frees, and lie where free lists do not reach: a link is in a block's first
// 8 bytes, and a block has 24 at least.
#include "mi/heap/checked.h"

#if MI_CHECKED

#include <errno.h>
#include <string.h>

#if MI_TRACK_ASAN
#include <sanitizer/asan_interface.h>
#endif

#include "mi/internal/os.h"
#include "mi/internal/space.h"
#include "mi/mimalloc.h"

#if MI_TAIL

typedef struct tail_s {
  uint64_t size;
  uint32_t inside;  // how far the block's address lies behind where the core's block starts
  uint32_t check;
} tail_t;
_Static_assert(sizeof(tail_t) == MI_TAIL_SIZE, "a tail is what MI_TAIL_SIZE says");

#define FILL_MAX 64

typedef enum state_e {
  BLOCK_NONE,     // no block starts there, as far as the core knows
  BLOCK_GUARDED,  // lies between guards, and has no tail
  BLOCK_APART,    // of an isolated heap: nothing is written into it, and it may not even be readable
  BLOCK_LIVE,
  BLOCK_FREED,
  BLOCK_BROKEN,  // tail overwritten, or the pointer is not what was handed out
} state_t;

static uint32_t check_word(const void* p, uint64_t size, uint32_t inside) {
  uint64_t x = (uintptr_t)p ^ _mi_os_secret();
  x = (x ^ size) * 0x9e3779b97f4a7c15u;
  x = (x ^ x >> 32 ^ inside) * 0xd6e8feb86659fd93u;
  return (uint32_t)(x >> 33) | 1;  // neither it nor its complement is 0, which fresh memory is
}

static state_t block_look(const void* p, tail_t** found) {
  mi_page_t* const page = _mi_page_of_any(p);
  if (page != NULL && page->kind == MI_PAGE_SPACE) return BLOCK_APART;
  const size_t room = _mi_block_size_in(page, p);
  if (room == 0) return BLOCK_NONE;
  if (page->guard != 0) return BLOCK_GUARDED;
  if (room < sizeof(tail_t)) return BLOCK_BROKEN;
  tail_t* const tail = (tail_t*)((uint8_t*)p + room - sizeof(tail_t));
  if (tail->size > room - sizeof(tail_t)) return BLOCK_BROKEN;
  *found = tail;
  const uint32_t check = check_word(p, tail->size, tail->inside);
  return (tail->check == check ? BLOCK_LIVE : tail->check == ~check ? BLOCK_FREED : BLOCK_BROKEN);
}

// How far the core's block starts before `p`.
static uint32_t block_inside(const void* p) {
  const mi_page_t* const page = _mi_page_of_any(p);
  if ((mi_load_relaxed((_Atomic(mi_tid_t)*)&page->owner) & MI_OWNER_SPECIAL) != 0) return 0;
  return (uint32_t)((size_t)((const uint8_t*)p - page->start) % page->block_size);
}

static size_t fill_length(const void* p, const tail_t* tail) {
  const size_t gap = (size_t)((const uint8_t*)tail - ((const uint8_t*)p + tail->size));
  return (gap < FILL_MAX ? gap : FILL_MAX);
}

static uint8_t fill_byte(const tail_t* tail, size_t i) { return (uint8_t)(tail->check >> (8 * (i % 4)) | 1); }

static void tail_write(void* p, tail_t* tail, size_t size, uint32_t inside) {
  tail->size = size;
  tail->inside = inside;
  tail->check = check_word(p, size, inside);
  uint8_t* const behind = (uint8_t*)p + size;
  const size_t length = fill_length(p, tail);
  for (size_t i = 0; i < length; i++) behind[i] = fill_byte(tail, i);
}

static void block_dress(void* p, size_t size, bool zero) {
  if (_mi_page_of_any(p)->kind == MI_PAGE_SPACE) {
    _mi_track_alloc(p, _mi_block_size(p), zero);
    return;
  }
  tail_t* const tail = (tail_t*)((uint8_t*)p + _mi_block_size(p) - sizeof(tail_t));
  tail_write(p, tail, size, block_inside(p));
  _mi_track_alloc(p, size, zero);
}

static const char* heap_name_of(const void* p) {
  mi_heap_t* const heap = mi_heap_of(p);
  return (heap == NULL ? "?" : mi_heap_name(heap));
}

// The first byte behind a live block, counted from its start, that was written; or SIZE_MAX.
static size_t block_breach(const void* p, const tail_t* tail) {
  const uint8_t* const behind = (const uint8_t*)p + tail->size;
  const size_t length = fill_length(p, tail);
  for (size_t i = 0; i < length; i++) {
    if (behind[i] != fill_byte(tail, i)) return (size_t)tail->size + i;
  }
  return SIZE_MAX;
}

static void block_overrun(const void* p, size_t size, size_t at) {
  _mi_error(EFAULT, "overflow: byte %zu of block %p of %zu bytes (heap \"%s\") was written\n", at, p, size,
            heap_name_of(p));
}

// The block is not the program's any more: first, so that a callback which frees it has that refused.
static void block_undress(void* p, tail_t* tail) {
  const size_t size = tail->size, at = block_breach(p, tail);
  tail->check = ~tail->check;
  _mi_track_free(p, size);
  if (mi_unlikely(at != SIZE_MAX)) block_overrun(p, size, at);
}

// The tool is told, unless the core will refuse; what is no block ends the program here already.
static void apart_undress(mi_page_t* page, void* p) {
  const size_t size = _mi_space_block_size(page, p, "mi_free");
  if (_mi_space_refusal(mi_space_segment_of(page)->space) == NULL) _mi_track_free(p, size);
}

static void block_report(const char* function, void* p, state_t state, const tail_t* tail) {
  if (state == BLOCK_FREED) {
    _mi_error(EAGAIN, "%s: double free of %p, a block of %zu bytes\n", function, p, (size_t)tail->size);
  } else {
    _mi_error(EFAULT, "%s: what lies behind the block at %p was overwritten, or no block starts there\n", function, p);
  }
}

#endif  // MI_TAIL

// --- allocation ------------------------------------------------------------------------------------------------

void* _mi_checked_alloc(const mi_request_t* request) {
#if MI_TAIL
  mi_request_t larger = *request;
  const mi_heap_t* const heap = (request->theap != NULL ? request->theap->heap : request->heap);
  const bool is_apart = (heap != NULL && mi_heap_space(heap) != NULL);  // nothing is written behind its blocks
  if (mi_likely(request->size <= MI_ALLOC_MAX - sizeof(tail_t)) && !is_apart) larger.size += sizeof(tail_t);
  void* const p = _mi_unchecked_alloc(&larger);
  if (mi_likely(p != NULL) && mi_likely(_mi_page_of_any(p)->guard == 0)) block_dress(p, request->size, request->zero);
  return p;
#else
  return _mi_unchecked_alloc(request);
#endif
}

// --- the end of a block ------------------------------------------------------------------------------------------

bool _mi_checked_free(void* p) {
#if MI_TAIL
  if (p == NULL) return true;
  tail_t* tail = NULL;
  const state_t state = block_look(p, &tail);
  switch (state) {
    case BLOCK_GUARDED:
      return true;
    case BLOCK_APART:
      apart_undress(_mi_page_of_any(p), p);
      return true;
    case BLOCK_LIVE:
      block_undress(p, tail);
      return true;
    case BLOCK_NONE:
      _mi_track_free_invalid(p);
      return true;  // the core reports it
    default:
      _mi_track_free_invalid(p);
      block_report("mi_free", p, state, tail);
      return false;
  }
#else
  (void)p;
  return true;
#endif
}

#if MI_TAIL
static bool end_block(const mi_heap_t* heap, const mi_heap_area_t* area, void* block, size_t size, void* arg) {
  (void)heap, (void)area, (void)arg;
  tail_t* tail;
  const state_t state = (block == NULL ? BLOCK_NONE : block_look(block, &tail));
  if (state == BLOCK_LIVE) block_undress(block, tail);
  if (state == BLOCK_APART) _mi_track_free(block, size);
  return true;
}
#endif

#if MI_TAIL
typedef struct rewind_s {
  bool (*is_gone)(const void* block, void* arg);
  void* arg;
} rewind_t;

static bool end_gone_block(const mi_heap_t* heap, const mi_heap_area_t* area, void* block, size_t size, void* arg) {
  const rewind_t* const rewind = arg;
  if (block != NULL && rewind->is_gone(block, rewind->arg)) end_block(heap, area, block, size, NULL);
  return true;
}
#endif

void _mi_checked_heap_rewind(mi_heap_t* heap, bool (*is_gone)(const void* block, void* arg), void* arg) {
#if MI_TAIL
  rewind_t rewind = {is_gone, arg};
  (void)mi_heap_visit_blocks(heap, true, end_gone_block, &rewind);
#else
  (void)heap, (void)is_gone, (void)arg;
#endif
}

void _mi_checked_heap_end(mi_heap_t* heap) {
#if MI_TAIL
  (void)mi_heap_visit_blocks(heap, true, end_block, NULL);
#else
  (void)heap;
#endif
}

#if MI_TAIL

// --- sizes -----------------------------------------------------------------------------------------------------------

size_t _mi_checked_size(const void* p) {
  tail_t* tail;
  switch (block_look(p, &tail)) {
    case BLOCK_GUARDED:
    case BLOCK_APART:
      return _mi_block_size(p);
    case BLOCK_LIVE:
      return tail->size;
    default:
      return 0;
  }
}

void _mi_checked_show(void** block, size_t* size) {
  if (_mi_page_of_any(*block)->kind == MI_PAGE_SPACE) return;
  const tail_t* const tail = (const tail_t*)((uint8_t*)*block + *size - sizeof(tail_t));
  if (*size < sizeof(tail_t) || tail->inside > *size - sizeof(tail_t)) return;
  void* const p = (uint8_t*)*block + tail->inside;
  tail_t* found;
  if (block_look(p, &found) != BLOCK_LIVE || found != tail) return;
  *block = p;
  *size = tail->size;
}

#if MI_TRACK_ASAN

// --- what AddressSanitizer cannot know ------------------------------------------------------------------------------

#define TAIL_SEARCH_MAX 4096

// The same in a region whose bits are gone, since its heap ended: a tail behind the address is right about one start.
static void* block_by_tail(const mi_region_t* region, const uint8_t* at, tail_t** found) {
  uint8_t* const first = (uint8_t*)region + 16 * (size_t)region->first;
  uint8_t* const end = (uint8_t*)region + ((size_t)1 << region->shift);
  uint8_t* const from = (uint8_t*)((uintptr_t)at & ~(uintptr_t)15);
  for (uint8_t* t = from; t + sizeof(tail_t) <= end && t - from < TAIL_SEARCH_MAX; t += 16) {
    tail_t* const tail = (tail_t*)t;
    for (uint8_t* start = from; start >= first && from - start < TAIL_SEARCH_MAX; start -= 16) {
      if (tail->size > (size_t)(t - start) || tail->inside > (size_t)(t - start)) continue;
      void* const p = start + tail->inside;
      if (tail->check != ~check_word(p, tail->size, tail->inside)) continue;
      *found = tail;
      return p;
    }
  }
  return NULL;
}

// The block whose memory `address` is in, or was in: of a page's slot that was given back, too. Nothing of this is
// sure, until the check word says so.
static void* block_around(const void* address, tail_t** found) {
  size_t index;
  const mi_arena_t* const arena = _mi_arena_of(address, &index);
  if (arena == NULL || mi_load_acquire((_Atomic(uint8_t)*)&arena->kind[index]) != MI_SEGMENT_NORMAL) return NULL;
  const mi_page_t* page = mi_slot_of((const uint8_t*)address + 1);
  if (page->distance <= mi_page_slice(page)) page -= page->distance;
  const uint8_t* const at = address;
  if (page->block_size == 0 || at < page->start || at - page->start >= page->slices * (ptrdiff_t)MI_SLICE_SIZE)
    return NULL;
  uint8_t* start = page->start + (size_t)(at - page->start) / page->block_size * page->block_size;
  size_t room = page->block_size;
  const mi_region_t* const region = (const mi_region_t*)start;
  if (mi_is_power_of_two(room) && room <= MI_SLICE_SIZE && (size_t)1 << region->shift == room && region->first != 0) {
    size_t granule = (size_t)(at - start) / 16;
    while (granule >= region->first && _mi_region_usable(page, start + 16 * granule) == 0) granule--;
    if (granule < region->first) return block_by_tail(region, at, found);
    start += 16 * granule;
    room = _mi_region_usable(page, start);
  }
  if (room < sizeof(tail_t)) return NULL;
  tail_t* const tail = (tail_t*)(start + room - sizeof(tail_t));
  if (tail->inside > room || tail->size > room) return NULL;
  void* const p = start + tail->inside;
  const uint32_t check = check_word(p, tail->size, tail->inside);
  if (tail->check != check && tail->check != ~check) return NULL;
  *found = tail;
  return p;
}

// Called by the sanitizer before it prints. Weak: a program may have its own.
mi_decl_export __attribute__((weak)) void __asan_on_error(void);
void __asan_on_error(void) {
  const uint8_t* const at = __asan_get_report_address();
  tail_t* tail;
  const uint8_t* const p = block_around(at, &tail);
  if (p == NULL || at < p) return;
  const bool live = (tail->check == check_word(p, tail->size, tail->inside));
  const size_t size = tail->size, offset = (size_t)(at - p);
  _mi_print("mimalloc: %p is %zu bytes %s a block of %zu bytes%s\n", (const void*)at,
            offset < size ? offset : offset - size, offset < size ? "inside" : "after", size,
            live ? "" : " that was freed");
}

#endif

// --- resizing --------------------------------------------------------------------------------------------------------

void* _mi_checked_realloc(mi_heap_t* heap, void* p, size_t newsize, size_t alignment, size_t offset, bool zero) {
  tail_t* tail = NULL;
  const state_t state = block_look(p, &tail);
  if (state == BLOCK_APART) return _mi_isolated_realloc(heap, _mi_page_of_any(p), p, newsize, alignment, offset, zero);
  if (state != BLOCK_LIVE && state != BLOCK_GUARDED) {
    _mi_track_free_invalid(p);
    if (state == BLOCK_NONE) {
      _mi_error(EINVAL, "realloc of %p refused: not a live block\n", p);
    } else {
      block_report("realloc", p, state, tail);
    }
    errno = EINVAL;
    return NULL;
  }
  const size_t size = (state == BLOCK_LIVE ? tail->size : _mi_block_size(p));
  if (heap == NULL) heap = mi_heap_of(p);
  void* const q = _mi_heap_alloc_aligned(heap, newsize, alignment, offset, zero);
  if (mi_unlikely(q == NULL)) return NULL;
  memcpy(q, p, newsize < size ? newsize : size);
  _mi_free_slow(p);
  return q;
}

void* _mi_checked_expand(void* p, size_t newsize) {
  tail_t* tail;
  switch (p == NULL ? BLOCK_NONE : block_look(p, &tail)) {
    case BLOCK_GUARDED:
      return (newsize <= _mi_block_size(p) ? p : NULL);
    case BLOCK_APART:
      return _mi_policy_expand(_mi_page_of_any(p), p, newsize);
    case BLOCK_LIVE: {
      if (newsize > (size_t)((uint8_t*)tail - (uint8_t*)p)) return NULL;
      const size_t size = tail->size, at = block_breach(p, tail);
      tail_write(p, tail, newsize, tail->inside);
      _mi_track_resize(p, size, newsize);
      if (mi_unlikely(at != SIZE_MAX)) block_overrun(p, size, at);
      return p;
    }
    default:
      return NULL;
  }
}

#endif  // MI_TAIL
#else
typedef int mi_checked_is_not_empty_t;  // C wants a declaration in every file
#endif
