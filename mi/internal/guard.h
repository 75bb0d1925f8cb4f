// Guarded blocks: a block between inaccessible pages, with a record of where it was allocated and freed. See guard.c.
#pragma once
#ifndef MI_INTERNAL_GUARD_H
#define MI_INTERNAL_GUARD_H

#include "mi/internal/core.h"
#include "mi/internal/trace.h"

typedef enum mi_guard_state_e {
  MI_GUARD_NONE = 0,  // the record is of no block
  MI_GUARD_LIVE,
  MI_GUARD_ENDING,  // who changed LIVE to this is about to write where the block was freed
  MI_GUARD_FREED,
} mi_guard_state_t;

#define MI_GUARD_NAME_MAX 32

// Written by who makes the block, and by who frees it; read by a signal handler at any time.
typedef struct mi_guard_s {
  mi_block_t link;          // stands for the block in lists of freed blocks: its own memory is out of reach by then
  _Atomic(uint32_t) state;  // mi_guard_state_t
  bool is_protected;        // by PROT_NONE, in part at least
  bool is_open;             // its body stays accessible until its page goes: it was freed in a heap that was held
  uint8_t policy;           // of its heap; the page has none, since no bits tell of its block
  mi_page_t* page;
  uint8_t* block;
  size_t size;  // as asked for
  uint8_t* body;
  uint8_t* body_end;  // OS pages between the guards
  uint8_t* end;       // of the guard behind them
  const mi_heap_t* heap;
  char heap_name[MI_GUARD_NAME_MAX];
  mi_trace_t allocated, freed;
  _Atomic(void*) next;  // link in the stack of records of no block
} __attribute__((aligned(128))) mi_guard_t;

// All records, one after the other: address space that is filled from below.
typedef struct mi_guards_s {
  _Atomic(mi_guard_t*) start;
  _Atomic(size_t) size;     // in bytes
  _Atomic(uint32_t) count;  // records that were ever used
} mi_guards_t;
mi_hidden extern mi_guards_t _mi_guards;

static inline mi_guard_t* mi_guard_of(const mi_page_t* page) {  // page->guard != 0
  return mi_load_relaxed(&_mi_guards.start) + (page->guard - 1);
}
// The page of a link of a guarded block, as it is met in a list of freed blocks; NULL: an ordinary block.
static inline mi_page_t* mi_guard_link_page(const mi_block_t* block) {
  if (mi_likely((uintptr_t)block - (uintptr_t)mi_load_relaxed(&_mi_guards.start) >= mi_load_relaxed(&_mi_guards.size)))
    return NULL;
  return ((const mi_guard_t*)block)->page;
}
// What stands for the block of a page with one block in lists of freed blocks.
static inline mi_block_t* mi_page_single_block(const mi_page_t* page) {
  return (mi_unlikely(page->guard != 0) ? &mi_guard_of(page)->link : (mi_block_t*)page->start);
}
static inline bool mi_guard_is_live(const mi_page_t* page) {
  return mi_load_acquire(&mi_guard_of(page)->state) == MI_GUARD_LIVE;
}

// What is asked for.
typedef struct mi_guard_request_s {
  size_t size;       // at most PTRDIFF_MAX
  size_t alignment;  // at most an OS page
  bool zero;
  bool before;        // directly behind the guard in front, else as near to the guard behind as the alignment allows
  const void* frame;  // of the function whose caller allocates
} mi_guard_request_t;

// A guarded block of the calling thread's theap. NULL: it cannot be had, which is no error: the block is allocated
// without guards then.
mi_hidden mi_guard_t* _mi_guard_make(mi_theap_t* theap, const mi_guard_request_t* request);
// A free of `p`, by any thread; the page has a guard. Who calls it as the last thing it does is not in the trace.
mi_hidden void _mi_guard_free(mi_page_t* page, void* p);
// The size of the block at `p`, as it was asked for; 0: no live block starts there.
mi_hidden size_t _mi_guard_size(const mi_page_t* page, const void* p);
// The page goes: keeps it out of reach for a while. It is in no queue, and its blocks are counted.
mi_hidden void _mi_guard_withhold(mi_page_t* page);
// Memory is short: no freed block is kept out of reach any longer.
mi_hidden void _mi_guard_release_withheld(void);
// Reports that `function` was called for what is no live block, if that is a guarded one. False: it is none.
mi_hidden bool _mi_guard_misused(const char* function, const void* p, const void* frame);
// The record of an address in a guarded block or in its guards, also of one that was freed a short time ago; NULL:
// none. Safe in signal handlers.
mi_hidden mi_guard_t* _mi_guard_at(const void* address);
// Prints where the program is (unless NULL), and where the block was allocated and freed.
mi_hidden void _mi_guard_print(const mi_guard_t* guard, const mi_trace_t* here, mi_trace_out_fun* out, bool in_handler);

// The pages of fresh and withheld guarded blocks (page.c).
mi_hidden mi_page_t* _mi_guard_page_fresh(mi_theap_t* theap, size_t size, bool* zero);
mi_hidden bool _mi_guard_page_again(mi_theap_t* theap, mi_page_t* page, size_t size);  // false: a limit refuses it
mi_hidden void _mi_guard_page_release(mi_page_t* page);

// --- the report of a fault (fault.c) ------------------------------------------------------------------------------
// Puts the handler in place, the first time; not if the option says so.
mi_hidden void _mi_fault_install(void);

#endif
