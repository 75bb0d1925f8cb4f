// Short names for the C11 atomics that the library uses, and the few compiler hints. Holds no logic: the
// memory order stands in the name at every use, so that a reader sees it where it matters.
#pragma once
#ifndef MI_INTERNAL_ATOMIC_H
#define MI_INTERNAL_ATOMIC_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mi/internal/config.h"

#define mi_likely(x) __builtin_expect(!!(x), 1)
#define mi_unlikely(x) __builtin_expect(!!(x), 0)
#define mi_noinline __attribute__((noinline))
#define mi_cold __attribute__((noinline, cold))
#define mi_hidden __attribute__((visibility("hidden")))

#define mi_load_relaxed(p) atomic_load_explicit((p), memory_order_relaxed)
#define mi_load_acquire(p) atomic_load_explicit((p), memory_order_acquire)
#define mi_load_seq_cst(p) atomic_load_explicit((p), memory_order_seq_cst)
#define mi_store_relaxed(p, v) atomic_store_explicit((p), (v), memory_order_relaxed)
#define mi_store_release(p, v) atomic_store_explicit((p), (v), memory_order_release)
#define mi_exchange_acq_rel(p, v) atomic_exchange_explicit((p), (v), memory_order_acq_rel)
#define mi_exchange_seq_cst(p, v) atomic_exchange_explicit((p), (v), memory_order_seq_cst)
#define mi_fetch_add_relaxed(p, v) atomic_fetch_add_explicit((p), (v), memory_order_relaxed)
#define mi_fetch_add_acq_rel(p, v) atomic_fetch_add_explicit((p), (v), memory_order_acq_rel)
#define mi_fetch_add_seq_cst(p, v) atomic_fetch_add_explicit((p), (v), memory_order_seq_cst)
#define mi_fetch_sub_acq_rel(p, v) atomic_fetch_sub_explicit((p), (v), memory_order_acq_rel)
#define mi_fetch_or_acq_rel(p, v) atomic_fetch_or_explicit((p), (v), memory_order_acq_rel)
#define mi_fetch_or_seq_cst(p, v) atomic_fetch_or_explicit((p), (v), memory_order_seq_cst)
#define mi_fetch_and_acq_rel(p, v) atomic_fetch_and_explicit((p), (v), memory_order_acq_rel)
#define mi_fetch_and_seq_cst(p, v) atomic_fetch_and_explicit((p), (v), memory_order_seq_cst)
#define mi_cas_weak_acq_rel(p, expected, desired) \
  atomic_compare_exchange_weak_explicit((p), (expected), (desired), memory_order_acq_rel, memory_order_acquire)
#define mi_cas_weak_seq_cst(p, expected, desired) \
  atomic_compare_exchange_weak_explicit((p), (expected), (desired), memory_order_seq_cst, memory_order_seq_cst)
#define mi_cas_strong_acq_rel(p, expected, desired) \
  atomic_compare_exchange_strong_explicit((p), (expected), (desired), memory_order_acq_rel, memory_order_acquire)

// Keeps stores in the order in which they are written. A thread may stop between any two of them for good, when another
// one forks; the child then reads what was stored before. (A fork copies memory as the threads' processors see it, one
// after the other: on x86-64 that is the order of the instructions.) Costs no instruction.
#define mi_stores_in_order() atomic_signal_fence(memory_order_acq_rel)

// Internal assertions: on in debug builds (MI_DEBUG), free of cost elsewhere. A breach is a bug of the library.
#if MI_DEBUG > 0
_Noreturn void _mi_assert_fail(const char* expression, const char* file, int line);
#define mi_assert(e) ((e) ? (void)0 : _mi_assert_fail(#e, __FILE__, __LINE__))
#else
#define mi_assert(e) ((void)0)
#endif

#endif
