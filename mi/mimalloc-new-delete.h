// Replaces operator new and delete of a C++ program, C++11 and up. Include it in one source file of the program: these
// are definitions. A program in C++ that is linked with the library's override, or has it preloaded, does not need it.
//
// The forms that a standard later than C++11 added (sized, aligned) are defined where that is compiled. The nothrow
// forms return nullptr whenever the plain ones throw, also what a new_handler throws.
#pragma once
#ifndef MIMALLOC_NEW_DELETE_H
#define MIMALLOC_NEW_DELETE_H

#ifdef __cplusplus

#include <cstddef>
#include <new>

#include "mimalloc.h"

// An exception that leaves the expression becomes nullptr; without exceptions none is thrown.
#ifdef __cpp_exceptions
#define MI_NOTHROW(throwing, nothrow) \
  try {                               \
    return throwing;                  \
  } catch (...) {                     \
    return nullptr;                   \
  }
#else
#define MI_NOTHROW(throwing, nothrow) return nothrow;
#endif

void* operator new(std::size_t n) noexcept(false) { return mi_new(n); }
void* operator new[](std::size_t n) noexcept(false) { return mi_new(n); }
void* operator new(std::size_t n, const std::nothrow_t&) noexcept { MI_NOTHROW(mi_new(n), mi_new_nothrow(n)) }
void* operator new[](std::size_t n, const std::nothrow_t&) noexcept { MI_NOTHROW(mi_new(n), mi_new_nothrow(n)) }

void operator delete(void* p) noexcept { mi_free(p); }
void operator delete[](void* p) noexcept { mi_free(p); }
void operator delete(void* p, const std::nothrow_t&) noexcept { mi_free(p); }
void operator delete[](void* p, const std::nothrow_t&) noexcept { mi_free(p); }

#if __cplusplus >= 201402L
void operator delete(void* p, std::size_t n) noexcept { mi_free_size(p, n); }
void operator delete[](void* p, std::size_t n) noexcept { mi_free_size(p, n); }
#endif

#ifdef __cpp_aligned_new
void* operator new(std::size_t n, std::align_val_t alignment) noexcept(false) {
  return mi_new_aligned(n, static_cast<std::size_t>(alignment));
}
void* operator new[](std::size_t n, std::align_val_t alignment) noexcept(false) {
  return mi_new_aligned(n, static_cast<std::size_t>(alignment));
}
void* operator new(std::size_t n, std::align_val_t alignment, const std::nothrow_t&) noexcept {
  const std::size_t a = static_cast<std::size_t>(alignment);
  MI_NOTHROW(mi_new_aligned(n, a), mi_new_aligned_nothrow(n, a))
}
void* operator new[](std::size_t n, std::align_val_t alignment, const std::nothrow_t&) noexcept {
  const std::size_t a = static_cast<std::size_t>(alignment);
  MI_NOTHROW(mi_new_aligned(n, a), mi_new_aligned_nothrow(n, a))
}

void operator delete(void* p, std::align_val_t alignment) noexcept {
  mi_free_aligned(p, static_cast<std::size_t>(alignment));
}
void operator delete[](void* p, std::align_val_t alignment) noexcept {
  mi_free_aligned(p, static_cast<std::size_t>(alignment));
}
void operator delete(void* p, std::size_t n, std::align_val_t alignment) noexcept {
  mi_free_size_aligned(p, n, static_cast<std::size_t>(alignment));
}
void operator delete[](void* p, std::size_t n, std::align_val_t alignment) noexcept {
  mi_free_size_aligned(p, n, static_cast<std::size_t>(alignment));
}
void operator delete(void* p, std::align_val_t alignment, const std::nothrow_t&) noexcept {
  mi_free_aligned(p, static_cast<std::size_t>(alignment));
}
void operator delete[](void* p, std::align_val_t alignment, const std::nothrow_t&) noexcept {
  mi_free_aligned(p, static_cast<std::size_t>(alignment));
}
#endif

#undef MI_NOTHROW

#endif
#endif
