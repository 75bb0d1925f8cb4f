// Lock-free stacks whose head carries a tag against reuse (Treiber, "Systems Programming: Coping with Parallelism", IBM
// RJ 5118, 1986, with a counter). Nodes are aligned to 128 bytes, which leaves 23 bits for the tag, and lie in memory
// that stays readable: a thread that was slow may read the link of a node that was popped and is something else by now;
// the tag then makes its CAS fail. The link is an _Atomic(void*) at `link` bytes into the node.
#pragma once
#ifndef MI_INTERNAL_STACK_H
#define MI_INTERNAL_STACK_H

#include "mi/internal/atomic.h"

#define MI_STACK_ALIGN_SHIFT 7
#define MI_STACK_TAG ((uint64_t)1 << 41)

static inline void* mi_stack_node(uint64_t head) {
  return (void*)(uintptr_t)((head & (MI_STACK_TAG - 1)) << MI_STACK_ALIGN_SHIFT);
}
// The head that follows `head` when `node` is the first.
static inline uint64_t mi_stack_next_head(uint64_t head, const void* node) {
  return ((head & ~(MI_STACK_TAG - 1)) + MI_STACK_TAG) | ((uintptr_t)node >> MI_STACK_ALIGN_SHIFT);
}
static inline _Atomic(void*)* mi_stack_link(void* node, size_t link) {
  return (_Atomic(void*)*)((uint8_t*)node + link);
}

static inline bool mi_stack_is_empty(_Atomic(uint64_t)* stack) { return mi_stack_node(mi_load_relaxed(stack)) == NULL; }

// Release: who pops the node sees it as it was pushed.
static inline void mi_stack_push(_Atomic(uint64_t)* stack, void* node, size_t link) {
  uint64_t head = mi_load_relaxed(stack);
  do {
    mi_store_relaxed(mi_stack_link(node, link), mi_stack_node(head));
  } while (!mi_cas_weak_acq_rel(stack, &head, mi_stack_next_head(head, node)));
}

static inline void* mi_stack_pop(_Atomic(uint64_t)* stack, size_t link) {
  uint64_t head = mi_load_acquire(stack);
  for (;;) {
    void* const node = mi_stack_node(head);
    if (node == NULL) return NULL;
    const void* const next = mi_load_relaxed(mi_stack_link(node, link));
    if (mi_cas_weak_acq_rel(stack, &head, mi_stack_next_head(head, next))) return node;
  }
}

// Takes the whole stack: its first node, linked to the others.
static inline void* mi_stack_take(_Atomic(uint64_t)* stack) {
  uint64_t head = mi_load_acquire(stack);
  while (mi_stack_node(head) != NULL && !mi_cas_weak_acq_rel(stack, &head, mi_stack_next_head(head, NULL))) {
  }
  return mi_stack_node(head);
}

#endif
