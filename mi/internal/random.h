// Random numbers for the order of things: which free block is handed out next. Not for keys.
#pragma once
#ifndef MI_INTERNAL_RANDOM_H
#define MI_INTERNAL_RANDOM_H

#include "mi/internal/os.h"

// The next of a thread's numbers (wyrand: a counter, multiplied with itself once). The counter begins with the system's
// entropy when the first number is asked for, whenever that is. It is odd and its step even, so that 0 says: not yet,
// or the child of a fork.
static inline uint64_t mi_random_next(mi_thread_t* thread) {
  if (mi_unlikely(thread->random == 0)) thread->random = _mi_os_random() | 1;
  thread->random += UINT64_C(0xa0761d6478bd642e);
  const __uint128_t product = (__uint128_t)thread->random * (thread->random ^ UINT64_C(0xe7037ed1a0b428db));
  return (uint64_t)(product >> 64) ^ (uint64_t)product;
}

#endif
