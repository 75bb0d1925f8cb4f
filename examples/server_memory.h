// The memory of one request: a heap of its own, or, for comparison, glibc's malloc. Both modes run the same code
// of the server; they differ in who serves a block and in how everything goes at the end: one mi_heap_destroy
// against one free per block. Invariants: a request's memory is used by one thread at a time; cJSON allocates in
// the memory that the calling thread has entered last, and only between memory_enter and memory_leave; a block
// that is refused (limit or no memory) marks the memory as exhausted for good.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mi/mimalloc.h"

enum allocator { ALLOCATOR_HEAP, ALLOCATOR_MALLOC };

struct memory {
  mi_heap_t* heap;     // NULL in malloc mode
  size_t requested;    // bytes asked for so far; what was freed again is not subtracted
  size_t allocations;  // blocks asked for so far, resizing included
  bool exhausted;      // a block was refused
};

/// Chooses the allocator and the bytes that one request may have, and hooks cJSON up. Once, before any thread that uses
/// the rest. In heap mode this is the limit of a request's heap, which counts what the heap holds; malloc cannot tell,
/// so that what was freed still counts.
void memory_setup(enum allocator allocator, size_t limit);
/// Gives cJSON its own allocator again. When no memory is open any more.
void memory_teardown(void);

/// Opens memory and returns its first block, zeroed, of `size` bytes: a struct that begins with a struct memory
/// and lives as long as the memory does. NULL without memory.
void* memory_open(size_t size);
/// Ends the memory and the struct that memory_open returned. Heap mode: all blocks go with it. Malloc mode: the
/// caller has freed the others before.
void memory_close(struct memory* memory);

/// Makes `memory` the one in which cJSON allocates on this thread.
void memory_enter(struct memory* memory);
void memory_leave(void);

/// As realloc, within the request's limit: NULL leaves the old block as it was.
void* memory_resize(struct memory* memory, void* block, size_t size);
void memory_free(struct memory* memory, void* block);

/// The bytes that the heap of `memory` held at most; 0 in malloc mode.
size_t memory_heap_bytes(const struct memory* memory);
/// The heaps alive in the process besides the main heap, counted one by one.
size_t memory_heaps_alive(void);
/// Gives everything that is free back to the system, from the heaps and from glibc's malloc.
void memory_trim(void);
