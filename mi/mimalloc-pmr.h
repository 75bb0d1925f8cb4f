// A std::pmr::memory_resource over a heap, for C++17 and up.
//
//   mi_heap_memory_resource resource;            // a heap of its own, destroyed with the resource
//   std::pmr::vector<std::pmr::string> lines(&resource);
//
// Any thread may use it, several at once: the heap does its own synchronisation. Two resources are equal if they are
// over the same heap. Memory that was not deallocated goes with the heap; destructors are the caller's business.
#pragma once
#ifndef MIMALLOC_PMR_H
#define MIMALLOC_PMR_H

#if !defined(__cplusplus) || __cplusplus < 201703L
#error "mimalloc-pmr.h needs C++17"
#endif

#include <cstddef>
#include <memory_resource>
#include <new>

#include "mimalloc.h"

class mi_heap_memory_resource : public std::pmr::memory_resource {
 public:
  /// A heap of its own. Without memory for one, each allocation throws std::bad_alloc.
  mi_heap_memory_resource() noexcept : heap_(mi_heap_new()), is_own_(true) {}
  /// The caller's heap, which must outlive the resource, and everything that was allocated of it.
  explicit mi_heap_memory_resource(mi_heap_t* heap) noexcept : heap_(heap), is_own_(false) {}
  ~mi_heap_memory_resource() override {
    if (is_own_) mi_heap_destroy(heap_);
  }
  mi_heap_memory_resource(const mi_heap_memory_resource&) = delete;
  mi_heap_memory_resource& operator=(const mi_heap_memory_resource&) = delete;

  mi_heap_t* heap() const noexcept { return heap_; }
  /// Frees all memory of the heap at once, whoever allocated it; the resource stays. As mi_heap_reset.
  void release() noexcept { mi_heap_reset(heap_); }

 protected:
  void* do_allocate(std::size_t bytes, std::size_t alignment) override {
    while (heap_ != nullptr) {
      void* const p = mi_heap_malloc_aligned(heap_, bytes, alignment);
      if (p != nullptr) return p;
      const std::new_handler handler = std::get_new_handler();
      if (handler == nullptr) break;
      handler();
    }
    return mi_heap_alloc_new(nullptr, bytes);  // throws
  }
  void do_deallocate(void* p, std::size_t, std::size_t) override { mi_free(p); }
  bool do_is_equal(const std::pmr::memory_resource& other) const noexcept override {
    if (this == &other) return true;
#ifdef __cpp_rtti
    const mi_heap_memory_resource* const mine = dynamic_cast<const mi_heap_memory_resource*>(&other);
    return mine != nullptr && mine->heap_ == heap_;
#else
    return false;
#endif
  }

 private:
  mi_heap_t* const heap_;
  const bool is_own_;
};

#endif
