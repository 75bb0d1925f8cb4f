// Families of heaps, and what the program wants run when a heap ends: what a heap's extras hold of both, and the
// functions of family.c, cleanup.c and mark.c that other files call.
#pragma once
#ifndef MI_HEAP_FAMILY_H
#define MI_HEAP_FAMILY_H

#include "mi/heap/heap.h"
#include "mi/internal/core.h"

// A function to be called before the heap's memory goes: a block of the internal heap.
typedef struct mi_cleanup_s {
  struct mi_cleanup_s* next;  // registered before this one
  mi_heap_destroy_fun* fun;
  void* arg;
  uint64_t serial;  // when it came to the heap
} mi_cleanup_t;

typedef struct mi_mark_record_s mi_mark_record_t;

// What a heap has of a family. All zero: alone, and nothing is to be called. Written under the lock of family.c, but
// for `ender` (the thread that ends the heap) and `marks` (who has the heap to itself).
typedef struct mi_family_s {
  _Atomic(mi_heap_t*) parent;
  mi_heap_t* children;      // the first; linked by next and prev, the youngest first unless `unsorted`
  mi_heap_t *next, *prev;   // in the parent's list
  uint64_t joined;          // when it came to the parent
  mi_cleanup_t* cleanups;   // the last registered first
  mi_mark_record_t* marks;  // the latest first (mark.c)
  _Atomic(mi_tid_t) ender;  // who is ending, resetting or rewinding the heap; 0: nobody
  bool unsorted;
} mi_family_t;

// --- family.c -----------------------------------------------------------------------------------------------------
// The lock of all families and of all lists of callbacks: never held while anything of the program runs, nor on a way
// that allocates or frees blocks. The same thread may enter again.
mi_hidden void _mi_family_enter(void);
mi_hidden void _mi_family_leave(void);
mi_hidden uint64_t _mi_family_serial(void);               // the next point in time; with the lock
mi_hidden mi_family_t* _mi_family_make(mi_heap_t* heap);  // NULL: no memory
mi_hidden bool _mi_heap_is_ending(mi_heap_t* heap);
mi_hidden bool _mi_family_is_above(mi_heap_t* heap, mi_heap_t* below);  // the heap itself, or an ancestor
// Why `parent` cannot be the parent of a heap of the given sub-process; NULL: it can.
mi_hidden const char* _mi_family_refusal(mi_heap_t* parent, const void* subproc);
mi_hidden bool _mi_family_join(mi_heap_t* heap, mi_heap_t* parent);  // a heap that nobody knows yet. False: no memory
// The heap is about to be destroyed or reset: what must happen while its memory is there.
mi_hidden void _mi_heap_before_end(mi_heap_t* heap, bool reset);
// What came to the heap after the time `since` ends, children and callbacks, and the heap stays.
mi_hidden void _mi_family_run_down(mi_heap_t* heap, uint64_t since);
// May the heap be closed, its blocks to go to `target`? False: reported, and nothing happened.
mi_hidden bool _mi_heap_may_close(mi_heap_t* heap, mi_heap_t* target, const char* function);
mi_hidden void _mi_heap_before_close(mi_heap_t* heap, mi_heap_t* target);  // it may, and is about to be

// --- mark.c -------------------------------------------------------------------------------------------------------
mi_hidden void _mi_marks_drop(mi_heap_t* heap);  // the heap ends, is reset or closed: it has no marks any more

// --- cleanup.c ----------------------------------------------------------------------------------------------------
// The last callback that came after `since`, taken off the list; NULL: none. With the lock.
mi_hidden mi_cleanup_t* _mi_cleanup_pop(mi_family_t* family, uint64_t since);
mi_hidden void _mi_cleanup_run(mi_cleanup_t* cleanup);
mi_hidden void _mi_cleanup_move(mi_family_t* from, mi_family_t* into);  // with the lock

#endif
