// Allocators for the containers of the C++ standard library, C++11 and up. mimalloc.h includes this in C++.
//
//   mi_stl_allocator<T>               the calling thread's default heap
//   mi_heap_stl_allocator<T>          a heap: its own, deleted with the last copy of the allocator, or one that is
//   given mi_heap_destroy_stl_allocator<T>  the same, destroyed with the last copy: freeing single elements does
//   nothing
//
// Copies, also of another T, share the heap; a heap that was given never ends with its allocators, and must outlive
// them. Any thread may use any of them. Failure is that of mi_new: the new_handler, then std::bad_alloc.
#pragma once
#ifndef MIMALLOC_STL_H
#define MIMALLOC_STL_H
#ifdef __cplusplus

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>

#include "mimalloc.h"

// What all of them are made of: the names that containers and older programs ask an allocator for.
template <class T>
struct _mi_stl_allocator_common {
  typedef T value_type;
  typedef std::size_t size_type;
  typedef std::ptrdiff_t difference_type;
  typedef value_type& reference;
  typedef value_type const& const_reference;
  typedef value_type* pointer;
  typedef value_type const* const_pointer;
  using propagate_on_container_copy_assignment = std::true_type;
  using propagate_on_container_move_assignment = std::true_type;
  using propagate_on_container_swap = std::true_type;

  template <class U, class... Args>
  void construct(U* p, Args&&... args) {
    ::new (static_cast<void*>(p)) U(std::forward<Args>(args)...);
  }
  template <class U>
  void destroy(U* p) noexcept {
    p->~U();
  }
  size_type max_size() const noexcept { return static_cast<size_type>(PTRDIFF_MAX) / sizeof(value_type); }
  pointer address(reference x) const noexcept { return std::addressof(x); }
  const_pointer address(const_reference x) const noexcept { return std::addressof(x); }

 protected:
  // Blocks are aligned to 16 bytes by themselves.
  static constexpr bool _mi_is_over_aligned() noexcept { return alignof(value_type) > 16; }
};

template <class T>
struct mi_stl_allocator : public _mi_stl_allocator_common<T> {
  using typename _mi_stl_allocator_common<T>::value_type;
  using typename _mi_stl_allocator_common<T>::size_type;
  using typename _mi_stl_allocator_common<T>::pointer;
  using is_always_equal = std::true_type;
  template <class U>
  struct rebind {
    typedef mi_stl_allocator<U> other;
  };

  mi_stl_allocator() noexcept = default;
  mi_stl_allocator(const mi_stl_allocator&) noexcept = default;
  template <class U>
  mi_stl_allocator(const mi_stl_allocator<U>&) noexcept {}
  mi_stl_allocator& operator=(const mi_stl_allocator&) noexcept = default;
  mi_stl_allocator select_on_container_copy_construction() const { return *this; }

  mi_decl_nodiscard pointer allocate(size_type count) {
    if (this->_mi_is_over_aligned() && count <= this->max_size()) {
      return static_cast<pointer>(mi_new_aligned(count * sizeof(value_type), alignof(value_type)));
    }
    return static_cast<pointer>(mi_new_n(count, sizeof(value_type)));
  }
  mi_decl_nodiscard pointer allocate(size_type count, const void*) { return allocate(count); }
  void deallocate(T* p, size_type) noexcept { mi_free(p); }
};

template <class T1, class T2>
bool operator==(const mi_stl_allocator<T1>&, const mi_stl_allocator<T2>&) noexcept {
  return true;
}
template <class T1, class T2>
bool operator!=(const mi_stl_allocator<T1>&, const mi_stl_allocator<T2>&) noexcept {
  return false;
}

// A heap that several allocators share. `destroys`: it ends by mi_heap_destroy, not by mi_heap_delete.
template <class T, bool destroys>
struct _mi_heap_stl_allocator_common : public _mi_stl_allocator_common<T> {
  using typename _mi_stl_allocator_common<T>::value_type;
  using typename _mi_stl_allocator_common<T>::size_type;
  using typename _mi_stl_allocator_common<T>::pointer;
  using is_always_equal = std::false_type;

  // A heap of its own. Without memory for one, the first allocation fails.
  _mi_heap_stl_allocator_common() : heap(mi_heap_new(), &end, mi_stl_allocator<char>()) {}
  // A heap of the caller's.
  _mi_heap_stl_allocator_common(mi_heap_t* borrowed) : heap(borrowed, &keep, mi_stl_allocator<char>()) {}
  template <class U>
  _mi_heap_stl_allocator_common(const _mi_heap_stl_allocator_common<U, destroys>& x) noexcept : heap(x.heap) {}

  mi_decl_nodiscard pointer allocate(size_type count) {
    if (this->_mi_is_over_aligned() && count <= this->max_size()) return allocate_aligned(count);
    return static_cast<pointer>(mi_heap_alloc_new_n(heap.get(), count, sizeof(value_type)));
  }
  mi_decl_nodiscard pointer allocate(size_type count, const void*) { return allocate(count); }
  void deallocate(T* p, size_type) noexcept {
    if (!destroys) mi_free(p);
  }

  // As mi_heap_collect.
  void collect(bool force) { mi_heap_collect(heap.get(), force); }
  template <class U>
  bool is_equal(const _mi_heap_stl_allocator_common<U, destroys>& x) const noexcept {
    return heap == x.heap;
  }

 protected:
  std::shared_ptr<mi_heap_t> heap;
  template <class U, bool other_destroys>
  friend struct _mi_heap_stl_allocator_common;

 private:
  pointer allocate_aligned(size_type count) {
    while (heap != nullptr) {
      void* const p = mi_heap_malloc_aligned(heap.get(), count * sizeof(value_type), alignof(value_type));
      if (p != nullptr) return static_cast<pointer>(p);
      const std::new_handler handler = std::get_new_handler();
      if (handler == nullptr) break;
      handler();
    }
    return static_cast<pointer>(mi_heap_alloc_new(nullptr, 0));  // throws
  }
  static void end(mi_heap_t* ended) {
    if (destroys) {
      mi_heap_destroy(ended);
    } else {
      mi_heap_delete(ended);
    }
  }
  static void keep(mi_heap_t*) {}
};

template <class T>
struct mi_heap_stl_allocator : public _mi_heap_stl_allocator_common<T, false> {
  using typename _mi_heap_stl_allocator_common<T, false>::size_type;
  template <class U>
  struct rebind {
    typedef mi_heap_stl_allocator<U> other;
  };

  mi_heap_stl_allocator() = default;
  mi_heap_stl_allocator(mi_heap_t* borrowed) : _mi_heap_stl_allocator_common<T, false>(borrowed) {}
  template <class U>
  mi_heap_stl_allocator(const mi_heap_stl_allocator<U>& x) noexcept : _mi_heap_stl_allocator_common<T, false>(x) {}
  mi_heap_stl_allocator select_on_container_copy_construction() const { return *this; }
};

template <class T>
struct mi_heap_destroy_stl_allocator : public _mi_heap_stl_allocator_common<T, true> {
  using typename _mi_heap_stl_allocator_common<T, true>::size_type;
  template <class U>
  struct rebind {
    typedef mi_heap_destroy_stl_allocator<U> other;
  };

  mi_heap_destroy_stl_allocator() = default;
  mi_heap_destroy_stl_allocator(mi_heap_t* borrowed) : _mi_heap_stl_allocator_common<T, true>(borrowed) {}
  template <class U>
  mi_heap_destroy_stl_allocator(const mi_heap_destroy_stl_allocator<U>& x) noexcept
      : _mi_heap_stl_allocator_common<T, true>(x) {}
  mi_heap_destroy_stl_allocator select_on_container_copy_construction() const { return *this; }
};

template <class T1, class T2>
bool operator==(const mi_heap_stl_allocator<T1>& x, const mi_heap_stl_allocator<T2>& y) noexcept {
  return x.is_equal(y);
}
template <class T1, class T2>
bool operator!=(const mi_heap_stl_allocator<T1>& x, const mi_heap_stl_allocator<T2>& y) noexcept {
  return !x.is_equal(y);
}
template <class T1, class T2>
bool operator==(const mi_heap_destroy_stl_allocator<T1>& x, const mi_heap_destroy_stl_allocator<T2>& y) noexcept {
  return x.is_equal(y);
}
template <class T1, class T2>
bool operator!=(const mi_heap_destroy_stl_allocator<T1>& x, const mi_heap_destroy_stl_allocator<T2>& y) noexcept {
  return !x.is_equal(y);
}

#endif
#endif
