// Guarded blocks: each lies between inaccessible OS pages, in a page (of the library) of its own, and has a record that
// says who allocated and who freed it. An access beyond the block, or to it when it was freed, is a fault, and fault.c
// names the block. Which allocations get such a block is decided in mi/heap/guarded.c.
//
//   page->start                 body           block         block + size   body_end          end
//   | guard, one OS page        | OS pages ......[...............]........  | guard, one OS page and more |
//
// Memory. A page that nobody has (withheld, or fresh) is a guard from one end to the other; the block's body is opened
// when it is handed out, and closed by who frees it, at once and from whatever thread (in a heap that is held, when the
// page goes). Guards are marks in the page
// tables (_mi_os_guard) where the kernel has those: closing the body also gives its memory back. Elsewhere they are
// PROT_NONE mappings, of which a process may have some 65,000 only: PROTECTED_MAX blocks at a time get such ones, and
// no more, which is told once.
//
// Freed blocks are withheld: they wait in a ring, oldest first out, until more than guarded_quarantine others or
// WITHHELD_BYTES_MAX of address space were freed, or memory is short; but for blocks of more than WITHHELD_BLOCK_MAX
// and those in arenas that few heaps use. Small ones then serve the next guarded block, which needs no more than one
// system call for it. The ring: who puts a block in takes a number (fetch_add) and exchanges the place of that number;
// who takes one out takes the next number of its own (CAS), and exchanges its place with nothing. A place that is not
// filled yet is passed over, and its block goes when the ring comes round. Every exchange has one winner, so that no
// block is released twice; a thread that stops in between (in a fork) loses its one block to the child.
//
// Records lie in one range of address space, so that one compare tells a link of theirs from a block (see `link`), and
// are found from the page by number. A record's state goes LIVE -> ENDING -> FREED by who wins the first step: a second
// free finds it, whatever thread it comes from.
#include "mi/internal/guard.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "mi/internal/bit_page.h"
#include "mi/internal/options.h"
#include "mi/internal/os.h"
#include "mi/internal/stack.h"
#include "mi/internal/stats.h"

#define RECORDS_MAX ((size_t)1 << 20)
#define RECORDS_PER_COMMIT 64
#define PROTECTED_MAX 8192
#define WITHHELD_MAX 4096
#define WITHHELD_BYTES_MAX (256 * MI_MiB)
#define WITHHELD_BLOCK_MAX (16 * MI_MiB)
#define FILL_MAX 64
#define FILL_BYTE 0xb7

mi_guards_t _mi_guards;
static _Atomic(uint64_t) unused_records;
static _Atomic(uint32_t) protected_count;  // blocks, live and withheld, whose guards are mappings

// --- records ------------------------------------------------------------------------------------------------------

#define RECORD_LINK offsetof(mi_guard_t, next)

static mi_guard_t* records_start(void) {
  mi_guard_t* start = mi_load_acquire(&_mi_guards.start);
  if (mi_likely(start != NULL)) return start;
  mi_guard_t* const made = _mi_os_reserve(RECORDS_MAX * sizeof(mi_guard_t), MI_OS_PAGE, MI_SECURE != 0);
  if (made == NULL) return NULL;
  if (mi_cas_strong_acq_rel(&_mi_guards.start, &start, made)) {
    // A link is in no list before its record is made, which comes after this.
    mi_store_release(&_mi_guards.size, RECORDS_MAX * sizeof(mi_guard_t));
    return made;
  }
  _mi_os_unreserve(made, RECORDS_MAX * sizeof(mi_guard_t));
  return start;
}

// NULL: no memory, or too many guarded blocks.
static mi_guard_t* record_take(void) {
  mi_guard_t* const used = mi_stack_pop(&unused_records, RECORD_LINK);
  if (used != NULL) return used;
  mi_guard_t* const start = records_start();
  if (start == NULL) return NULL;
  uint32_t index = mi_load_relaxed(&_mi_guards.count);
  do {
    if (index >= RECORDS_MAX) return NULL;
    // Memory first: an index that was taken is never given back. Others may do the same twice, which changes nothing.
    if (index % RECORDS_PER_COMMIT == 0 && !_mi_os_commit(start + index, RECORDS_PER_COMMIT * sizeof(mi_guard_t)))
      return NULL;
  } while (!mi_cas_weak_acq_rel(&_mi_guards.count, &index, index + 1));
  return start + index;
}

static void record_give(mi_guard_t* guard) {
  mi_store_release(&guard->state, (uint32_t)MI_GUARD_NONE);
  mi_stack_push(&unused_records, guard, RECORD_LINK);
}

// --- guards -------------------------------------------------------------------------------------------------------

// Guards were not to be had: told once, and counted.
static mi_cold void say_unguarded(void) {
  static _Atomic(bool) said;
  mi_count(&_mi_stats.guards_refused, 1);
  if (atomic_exchange_explicit(&said, true, memory_order_relaxed)) return;
  _mi_warning("no more guarded blocks: %u have guards that cost mappings, of which a process may have so many only\n",
              (unsigned)PROTECTED_MAX);
}

// Makes OS pages of a page inaccessible. `*is_protected` is set where it took mappings.
static bool close_pages(uint8_t* start, size_t size, bool* is_protected) {
  if (mi_likely(_mi_os_guard(start, size))) return true;
  (void)_mi_os_purge(start, size, true);
  if (!_mi_os_protect(start, size, true)) return false;
  *is_protected = true;
  return true;
}

static bool open_pages(uint8_t* start, size_t size, bool is_protected) {
  const bool unmarked = _mi_os_unguard(start, size);
  return (is_protected ? _mi_os_protect(start, size, false) : unmarked);
}

// One more block whose guards are mappings, if there may be one.
static bool protected_begin(void) {
  if (mi_fetch_add_relaxed(&protected_count, 1u) < PROTECTED_MAX) return true;
  atomic_fetch_sub_explicit(&protected_count, 1u, memory_order_relaxed);
  say_unguarded();
  return false;
}

static void protected_end(mi_guard_t* guard) {
  if (guard->is_protected) atomic_fetch_sub_explicit(&protected_count, 1u, memory_order_relaxed);
  guard->is_protected = false;
}

// Everything of the page accessible again, and the slices back. Memory that cannot be made accessible is lost.
static void release(mi_guard_t* guard) {
  mi_page_t* const page = guard->page;
  const bool open = open_pages(page->start, (size_t)(guard->end - page->start), guard->is_protected);
  protected_end(guard);
  page->guard = 0;
  record_give(guard);
  if (open) _mi_guard_page_release(page);
}

// --- withheld blocks ------------------------------------------------------------------------------------------------

static _Atomic(mi_guard_t*) ring[WITHHELD_MAX];
static _Atomic(uint64_t) ring_in, ring_out;
static _Atomic(size_t) ring_bytes;

static size_t guard_bytes(const mi_guard_t* guard) { return (size_t)(guard->end - guard->page->start); }

static size_t withheld_most(void) {
  const long most = _mi_option(mi_option_guarded_quarantine);
  return (most < 0 ? 0 : most < WITHHELD_MAX / 2 ? (size_t)most : WITHHELD_MAX / 2);
}

static bool ring_is_over(size_t most) {
  const int64_t count = (int64_t)(mi_load_relaxed(&ring_in) - mi_load_relaxed(&ring_out));
  return count > (int64_t)most || (count > 0 && mi_load_relaxed(&ring_bytes) > WITHHELD_BYTES_MAX);
}

// The oldest one; NULL: there is none, or it is just being put in.
static mi_guard_t* ring_take(void) {
  uint64_t out = mi_load_relaxed(&ring_out);
  do {
    if ((int64_t)(mi_load_relaxed(&ring_in) - out) <= 0) return NULL;
  } while (!mi_cas_weak_acq_rel(&ring_out, &out, out + 1));
  mi_guard_t* const guard = mi_exchange_acq_rel(&ring[out % WITHHELD_MAX], (mi_guard_t*)NULL);
  if (guard != NULL) atomic_fetch_sub_explicit(&ring_bytes, guard_bytes(guard), memory_order_relaxed);
  return guard;
}

static void ring_put(mi_guard_t* guard) {
  mi_fetch_add_relaxed(&ring_bytes, guard_bytes(guard));
  const uint64_t in = mi_fetch_add_relaxed(&ring_in, 1);
  // Release: the record and the slot as they are now; who takes it, acquires.
  mi_guard_t* const passed = mi_exchange_acq_rel(&ring[in % WITHHELD_MAX], guard);
  if (passed != NULL) {
    atomic_fetch_sub_explicit(&ring_bytes, guard_bytes(passed), memory_order_relaxed);
    release(passed);
  }
}

static void close_body(mi_guard_t* guard) {
  const size_t size = (size_t)(guard->body_end - guard->body);
  guard->is_open = false;
  if (size > WITHHELD_BLOCK_MAX) return;
  const bool was_protected = guard->is_protected;
  // Where the guards beside it are mappings, it joins them; else it costs its own.
  if (!close_pages(guard->body, size, &guard->is_protected)) return;
  if (guard->is_protected && !was_protected) mi_fetch_add_relaxed(&protected_count, 1u);
}

// A block was freed, or its heap ended: what it was is remembered, and its body is closed.
static void end_block(mi_guard_t* guard, const void* frame) {
  _mi_trace_take(&guard->freed, frame);
  mi_store_release(&guard->state, (uint32_t)MI_GUARD_FREED);
  if ((guard->policy & MI_POLICY_WIPES) != 0) _mi_wipe(guard->body, (size_t)(guard->body_end - guard->body));
  if (!guard->is_open) close_body(guard);
}

static void check_filling(const mi_guard_t* guard);

void _mi_guard_withhold(mi_page_t* page) {
  mi_guard_t* const guard = mi_guard_of(page);
  uint32_t expected = MI_GUARD_LIVE;
  if (mi_cas_strong_acq_rel(&guard->state, &expected, (uint32_t)MI_GUARD_ENDING)) {  // with its heap
    check_filling(guard);
    end_block(guard, NULL);
  } else if (guard->is_open) {
    close_body(guard);
  }
  page->used = 0;
  page->free = page->local_free = NULL;
  mi_store_relaxed(&page->theap, (mi_theap_t*)NULL);
  // Nobody's, and no place for objects. The heap stays in the slot: who looks at the same time may have seen another
  // owner.
  mi_store_release(&page->owner, (mi_tid_t)MI_OWNER_INTERNAL);
  page->kind = MI_PAGE_WITHHELD;
  const size_t most = withheld_most();
  size_t index;
  // An arena of few heaps may be small: what is withheld there would be missed.
  if (most == 0 || guard->body_end - guard->body > (ptrdiff_t)WITHHELD_BLOCK_MAX ||
      _mi_arena_of(page->start, &index)->is_exclusive) {
    release(guard);
    return;
  }
  ring_put(guard);
  // Some more than must be: a program that frees a few and allocates a few in turn then goes on with the same pages.
  while (ring_is_over(most + most / 4)) {
    mi_guard_t* const oldest = ring_take();
    if (oldest != NULL) release(oldest);
  }
}

void _mi_guard_release_withheld(void) {
  for (mi_guard_t* guard; (guard = ring_take()) != NULL;) release(guard);
}

// --- making one -----------------------------------------------------------------------------------------------------

// A withheld page of one slice, closed from one end to the other, whose turn it is, with `body` bytes of it open.
static mi_guard_t* take_withheld(const mi_theap_t* theap, size_t body) {
  const size_t most = withheld_most();
  if (theap->arena != NULL || theap->numa != 0 || body + 2 * MI_OS_PAGE > MI_SLICE_SIZE || most == 0 ||
      !ring_is_over(most - 1))
    return NULL;
  mi_guard_t* const guard = ring_take();
  if (guard == NULL) return NULL;
  const mi_page_t* const page = guard->page;
  if (page->slices == 1 && !guard->is_protected && open_pages(page->start + MI_OS_PAGE, body, false)) return guard;
  release(guard);
  return NULL;
}

// A fresh page with guards at both ends; what lies between them is open.
static mi_guard_t* make_fresh(mi_theap_t* theap, size_t body, bool* zero) {
  mi_guard_t* const guard = record_take();
  if (guard == NULL) {
    say_unguarded();
    return NULL;
  }
  guard->is_protected = false;
  mi_page_t* const page = _mi_guard_page_fresh(theap, body + 2 * MI_OS_PAGE, zero);
  if (page == NULL) {
    record_give(guard);
    return NULL;
  }
  guard->page = page;
  guard->end =
      (page->kind == MI_PAGE_SOLO ? page->start + page->slices * MI_SLICE_SIZE : page->start + page->block_size);
  size_t index;
  // Memory that the program handed in may be mapped elsewhere too, and is not ours to protect.
  bool closed = !_mi_arena_of(page->start, &index)->is_foreign;
  uint8_t* const behind = page->start + MI_OS_PAGE + body;
  const bool is_marked = closed && _mi_os_guard(page->start, MI_OS_PAGE);
  if (closed && !is_marked) closed = protected_begin();
  if (closed) {
    guard->is_protected = !is_marked;
    bool by_mapping = false;
    closed = (is_marked || _mi_os_protect(page->start, MI_OS_PAGE, MI_SECURE != 0)) &&
             close_pages(behind, (size_t)(guard->end - behind), &by_mapping);
    if (by_mapping && !guard->is_protected) mi_fetch_add_relaxed(&protected_count, 1u);
    guard->is_protected |= by_mapping;
  }
  page->guard = (uint32_t)(guard - mi_load_relaxed(&_mi_guards.start)) + 1;
  if (closed) return guard;
  if (guard->is_protected || is_marked) {
    open_pages(page->start, guard_bytes(guard), guard->is_protected);
    protected_end(guard);
  }
  page->guard = 0;
  record_give(guard);
  _mi_page_free_local(page, (mi_block_t*)page->start);
  return NULL;
}

// What nobody may write, next to the block: looked at when it is freed.
static void fill(const mi_guard_t* guard) {
  uint8_t* const end = guard->block + guard->size;
  const size_t behind = (size_t)(guard->body_end - end), before = (size_t)(guard->block - guard->body);
  memset(end, FILL_BYTE, behind < FILL_MAX ? behind : FILL_MAX);
  const size_t lead = (before < FILL_MAX ? before : FILL_MAX);
  memset(guard->block - lead, FILL_BYTE, lead);
}

mi_guard_t* _mi_guard_make(mi_theap_t* theap, const mi_guard_request_t* request) {
  const size_t size = (request->size == 0 ? 1 : request->size);
  const size_t body = mi_round_up(size, MI_OS_PAGE);
  _mi_fault_install();
  bool zero = true;
  mi_guard_t* guard = take_withheld(theap, body);
  if (guard != NULL) {
    if (!_mi_guard_page_again(theap, guard->page)) {  // a limit
      release(guard);
      return NULL;
    }
  } else {
    guard = make_fresh(theap, body, &zero);
    if (guard == NULL) return NULL;
  }
  guard->link.next = NULL;
  guard->body = guard->page->start + MI_OS_PAGE;
  guard->body_end = guard->body + body;
  guard->block = guard->body + (request->before ? 0 : (body - size) & ~(request->alignment - 1));
  guard->size = size;
  guard->heap = theap->heap;
  guard->policy = theap->policy;
  guard->is_open = false;
  guard->heap_name[0] = 0;
  guard->freed.count = 0;
  _mi_trace_take(&guard->allocated, request->frame);
  fill(guard);
  if (request->zero && !zero) memset(guard->block, 0, size);
  mi_count(&_mi_stats.guarded, 1);
  // Release: the record, for who frees the block.
  mi_store_release(&guard->state, (uint32_t)MI_GUARD_LIVE);
  return guard;
}

// --- misuse ---------------------------------------------------------------------------------------------------------

static void print_line(const char* text, bool in_handler) {
  (void)in_handler;
  _mi_print("%s", text);
}

static void print_trace(const char* what, const mi_trace_t* trace, mi_trace_out_fun* out, bool in_handler) {
  mi_line_t line = {0};
  _mi_line_add(&line, "mimalloc:   ");
  _mi_line_add(&line, what);
  _mi_line_add(&line, "by thread ");
  _mi_line_add_number(&line, trace->thread);
  _mi_line_add(&line, ":\n");
  out(line.text, in_handler);
  _mi_trace_print(trace, out, in_handler);
}

void _mi_guard_print(const mi_guard_t* guard, const mi_trace_t* here, mi_trace_out_fun* out, bool in_handler) {
  if (here != NULL) print_trace("", here, out, in_handler);
  print_trace("allocated ", &guard->allocated, out, in_handler);
  if (mi_load_acquire((_Atomic(uint32_t)*)&guard->state) != MI_GUARD_FREED) return;
  print_trace(guard->freed.count > 0 ? "freed " : "freed with its heap ", &guard->freed, out, in_handler);
}

// In a hardened heap no misuse goes on.
static void stop_if_hardened(const mi_guard_t* guard) {
  if ((guard->policy & MI_POLICY_HARDENED) != 0) abort();
}

static void check_bytes(const mi_guard_t* guard, const uint8_t* from, const uint8_t* to, const char* what) {
  for (const uint8_t* at = from; at < to; at++) {
    if (*at == FILL_BYTE) continue;
    const bool behind = (at >= guard->block);
    _mi_report(EFAULT, "%s: byte %s%zu of block %p of %zu bytes (heap \"%s\") was written\n", what, behind ? "" : "-",
               (size_t)(behind ? at - guard->block : guard->block - at), (void*)guard->block, guard->size,
               guard->heap_name);
    _mi_guard_print(guard, NULL, print_line, false);
    stop_if_hardened(guard);
    return;
  }
}

// Bytes that were written next to a live block.
static void check_filling(const mi_guard_t* guard) {
  const uint8_t* const end = guard->block + guard->size;
  const size_t behind = (size_t)(guard->body_end - end), before = (size_t)(guard->block - guard->body);
  check_bytes(guard, end, end + (behind < FILL_MAX ? behind : FILL_MAX), "overflow");
  check_bytes(guard, guard->block - (before < FILL_MAX ? before : FILL_MAX), guard->block, "underflow");
}

bool _mi_guard_misused(const char* function, const void* p, const void* frame) {
  const mi_guard_t* const guard = _mi_guard_at(p);
  if (guard == NULL) return false;
  const bool freed = (mi_load_acquire((_Atomic(uint32_t)*)&guard->state) != MI_GUARD_LIVE);
  if (p != guard->block) {
    const bool inside = ((const uint8_t*)p > guard->block);
    _mi_report(EINVAL, "%s: invalid pointer %p, %zu bytes %s the %sblock %p of %zu bytes (heap \"%s\")\n", function, p,
               (size_t)(inside ? (const uint8_t*)p - guard->block : guard->block - (const uint8_t*)p),
               inside ? "inside" : "before", freed ? "freed " : "", (void*)guard->block, guard->size, guard->heap_name);
  } else {
    _mi_report(EAGAIN, "%s of %p, a block of %zu bytes (heap \"%s\")\n", function, p, guard->size, guard->heap_name);
  }
  mi_trace_t here;
  _mi_trace_take(&here, frame);
  _mi_guard_print(guard, &here, print_line, false);
  stop_if_hardened(guard);
  return true;
}

size_t _mi_guard_size(const mi_page_t* page, const void* p) {
  const mi_guard_t* const guard = mi_guard_of(page);
  return (p == guard->block && mi_guard_is_live(page) ? guard->size : 0);
}

mi_noinline void _mi_guard_free(mi_page_t* page, void* p) {
  mi_guard_t* const guard = mi_guard_of(page);
  uint32_t expected = MI_GUARD_LIVE;
  if (mi_unlikely(p != guard->block)) {
    (void)_mi_guard_misused("mi_free", p, MI_FRAME);
  } else if (mi_unlikely(!mi_cas_strong_acq_rel(&guard->state, &expected, (uint32_t)MI_GUARD_ENDING))) {
    (void)_mi_guard_misused("double free", p, MI_FRAME);
  } else {
    check_filling(guard);
    guard->is_open = _mi_heap_is_held(mi_load_relaxed(&page->heap));
    end_block(guard, MI_FRAME);
    _mi_block_free(page, &guard->link);
  }
}

// --- looking --------------------------------------------------------------------------------------------------------

mi_guard_t* _mi_guard_at(const void* address) {
  size_t index;
  const uintptr_t at = (uintptr_t)address;
  mi_arena_t* const arena = _mi_arena_of((const uint8_t*)address + 1, &index);
  if (arena == NULL || mi_load_acquire(&_mi_guards.start) == NULL) return NULL;
  uint8_t kind = mi_load_acquire(&arena->kind[index]);
  while (kind == MI_SEGMENT_HUGE_INSIDE && index > 0) kind = mi_load_acquire(&arena->kind[--index]);
  if (kind != MI_SEGMENT_NORMAL && kind != MI_SEGMENT_HUGE_START) return NULL;
  const size_t slice = (kind == MI_SEGMENT_NORMAL ? at >> MI_SLICE_SHIFT & (MI_SLICES_PER_SEGMENT - 1) : 1);
  const mi_page_t* page = &((mi_segment_t*)mi_arena_segment(arena, index))->slot[slice];
  if (page->kind == MI_PAGE_TAIL && page->distance < slice) page -= page->distance;
  const uint32_t number = page->guard;
  if (number == 0 || number > mi_load_acquire(&_mi_guards.count)) return NULL;
  mi_guard_t* const guard = mi_guard_of(page);
  if (guard->page != page || mi_load_acquire(&guard->state) == MI_GUARD_NONE) return NULL;
  return (at >= (uintptr_t)page->start && at < (uintptr_t)guard->end ? guard : NULL);
}
