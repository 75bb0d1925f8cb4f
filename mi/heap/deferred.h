// What a heap with a deferred_free of its own has (deferred.c), and what of it the core's slow paths and the ends of
// heaps touch.
#pragma once
#ifndef MI_HEAP_DEFERRED_H
#define MI_HEAP_DEFERRED_H

#include "mi/heap/parts.h"

// What a thread allocated in its part of the heap since the last call: its objects in regions; blocks of pages are
// counted in the theap. In the heap's record for the first part, in the unused line of a lane. Owner of the part only.
typedef struct mi_deferred_part_s {
  mi_tid_t joined;            // the thread whose list names the heap
  const mi_region_t* region;  // its objects are counted
  const uint8_t* counted;     // up to here
  size_t bytes;               // of objects since the last call
  size_t blocks;              // their number; only kept if the cadence goes by it
} mi_deferred_part_t;

// A function and its argument; constant, freed with the heap.
typedef struct mi_deferred_pair_s {
  mi_heap_deferred_free_fun* fun;
  void* arg;
  struct mi_deferred_pair_s* next;
} mi_deferred_pair_t;

// A heap's deferred_free. Type-stable and recycled, never returned: threads that end look whether the heap still lives.
typedef struct mi_deferred_s {
  _Atomic(uint64_t) id;                     // of the heap; 0: it ended, or is being reset
  _Atomic(uint64_t) pins;                   // threads that end and are in a call; (fork stamp << 32) | number
  mi_heap_t* heap;                          // constant while id is not 0, as are the next two
  size_t cadence;                           // blocks between calls; SIZE_MAX: not by blocks
  size_t bytes;                             // bytes between calls; SIZE_MAX: not by bytes
  _Atomic(const mi_deferred_pair_t*) pair;  // what is called; NULL: nothing. Any thread
  _Atomic(unsigned long long) heartbeat;    // of the last call
  _Atomic(mi_deferred_pair_t*) pairs;       // those that were made later, so that they can be freed
  mi_deferred_pair_t first;                 // the one of the configuration
  mi_deferred_part_t home;                  // of the heap's first part
  uint32_t entry;                           // where its heap's first thread lists it
  struct mi_deferred_s* spare;              // list of its thread, while it is not in use
  _Atomic(void*) link;                      // stack of those that no thread keeps
  uint64_t padding[13];
} mi_deferred_t;
_Static_assert(sizeof(mi_deferred_t) == 256, "its address is a multiple of 128: see stack.h");
_Static_assert(sizeof(mi_deferred_part_t) <= 64, "fits the line of a lane that only handles use");

// A heap that a thread has a part of.
typedef struct mi_deferred_entry_s {
  mi_deferred_t* deferred;
  uint64_t id;
} mi_deferred_entry_t;

mi_hidden void _mi_deferred_join_again(mi_thread_t* thread, mi_deferred_t* deferred);  // for prepared.c
// For mi_heap_new_with: false without memory.
mi_hidden bool _mi_deferred_configure(mi_heap_t* heap, const mi_heap_config_t* config);

#endif
