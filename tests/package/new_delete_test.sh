#!/usr/bin/env bash
# The fourth way in: a C++ program whose new and delete are the library's because it includes mimalloc-new-delete.h.
source tests/package/support.sh
install_into "$prefix"

# The program as people read it. Its operators are its own, in its own file, and call the library.
snippet 4 > "$scratch/snippet.cc"
for form in "-L$prefix/lib -lmimalloc -Wl,-rpath,$prefix/lib" "$prefix/lib/libmimalloc.a" "$prefix/lib/mimalloc.o"; do
  read -ra flags <<< "$form"
  cxx snippet "$scratch/snippet.cc" "${flags[@]}"
  prints "" "$scratch/snippet"
done
g++ "-I$prefix/include" -c "$scratch/snippet.cc" -o "$scratch/snippet.o"
nm --demangle "$scratch/snippet.o" > "$scratch/names"
for operator in 'operator new(unsigned long)' 'operator new[](unsigned long)' \
  'operator new[](unsigned long, std::align_val_t, std::nothrow_t const&)' 'operator delete(void*)' \
  'operator delete[](void*, unsigned long)' 'operator delete[](void*, std::align_val_t)'; do
  grep -qF " T $operator" "$scratch/names" || fail "the header does not define $operator"
done
grep -q ' U mi_new' "$scratch/names" || fail "new does not call mi_new"
grep -q ' U mi_free' "$scratch/names" || fail "delete does not call mi_free"

# The same header in a program of two files, one of which knows nothing of it.
cat > "$scratch/other.cc" << 'END'
#include <memory>
#include <string>
#include <vector>

bool is_ours(const void* block);

bool others_are_ours() {
  auto number = std::make_unique<long>(1);
  std::vector<double> numbers(1000, 1.0);
  std::string text(1000, 'x');
  struct alignas(128) wide {
    char bytes[256];
  };
  auto* aligned = new wide;
  const bool ours = is_ours(number.get()) && is_ours(numbers.data()) && is_ours(text.data()) && is_ours(aligned) &&
                    reinterpret_cast<unsigned long>(aligned) % 128 == 0;
  delete aligned;
  return ours;
}
END
cat > "$scratch/main.cc" << 'END'
#include <mimalloc-new-delete.h>

#include <mimalloc.h>

#include <cstdio>
#include <limits>
#include <new>

bool others_are_ours();
bool is_ours(const void* block) { return mi_is_in_heap_region(block); }

int main() {
  int* array = new int[1000];
  const bool ours = is_ours(array);
  delete[] array;
  bool threw = false;
  try {
    volatile size_t size = std::numeric_limits<std::ptrdiff_t>::max();
    delete[] new char[size];
  } catch (const std::bad_alloc&) {
    threw = true;
  }
  std::puts(ours && others_are_ours() && threw ? "fine" : "wrong");
}
END
for standard in 11 14 17 20; do
  g++ -std=c++$standard -Wall -Wextra -Werror "-I$prefix/include" -fsyntax-only "$scratch/main.cc" || fail "C++$standard"
done
for form in "-L$prefix/lib -lmimalloc -Wl,-rpath,$prefix/lib" "$prefix/lib/libmimalloc.a" "$prefix/lib/mimalloc.o"; do
  read -ra flags <<< "$form"
  cxx two_files "$scratch/main.cc" "$scratch/other.cc" "${flags[@]}"
  prints fine "$scratch/two_files"
done

# A program with operators of its own keeps them, whichever form of the library it has, and whichever it replaces: those
# that it does not replace must reach those that it does. These put a header before each block, so that a block that
# passed by one of them ends the program.
cat > "$scratch/own.cc" << 'END'
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <new>

static long live;

static void* make(size_t size, size_t header) {
  char* p = static_cast<char*>(header == 16 ? std::malloc(size + header) : std::aligned_alloc(header, size + header));
  if (p == nullptr) throw std::bad_alloc();
  live++;
  p += header;
  reinterpret_cast<size_t*>(p)[-1] = ~header;
  return p;
}
static void drop(void* p, size_t header) {
  if (p == nullptr) return;
  if (reinterpret_cast<size_t*>(p)[-1] != ~header) std::abort();
  live--;
  std::free(static_cast<char*>(p) - header);
}
void* operator new(size_t size) { return make(size, 16); }
void operator delete(void* p) noexcept { drop(p, 16); }
#ifdef ALIGNED
void* operator new(size_t size, std::align_val_t) { return make(size, 64); }
void operator delete(void* p, std::align_val_t) noexcept { drop(p, 64); }
#endif
#ifdef ARRAYS
void* operator new[](size_t size) { return make(size, 16); }
void operator delete[](void* p) noexcept { drop(p, 16); }
#endif

struct plain {
  ~plain() {}
  long values[4];
};
struct alignas(64) aligned {
  ~aligned() {}
  long values[8];
};

static void use(void* p) {
  if (p == nullptr || live != 1) {
    std::puts("not the program's");
    std::_Exit(1);
  }
}

template <class T>
static void all_forms() {
  T* p = new T;
  use(p);
  delete p;
  p = new (std::nothrow) T;
  use(p);
  delete p;
  p = new T[10];
  use(p);
  delete[] p;
  p = new (std::nothrow) T[10];
  use(p);
  delete[] p;
  if (live != 0) std::abort();
}

int main() {
  all_forms<plain>();
#ifdef ALIGNED
  all_forms<aligned>();
#endif
  volatile size_t size = std::numeric_limits<std::ptrdiff_t>::max() - 1000;
  std::puts(new (std::nothrow) char[size] == nullptr ? "fine" : "wrong");
}
END
for define in -DNONE -DALIGNED -DARRAYS; do
  cxx own "$scratch/own.cc" $define -Wno-alloc-size-larger-than -Wno-sized-deallocation
  prints fine "$scratch/own"
  LD_PRELOAD=$prefix/lib/libmimalloc.so prints fine "$scratch/own"
  for form in "$prefix/lib/libmimalloc.so -Wl,-rpath,$prefix/lib" "$prefix/lib/libmimalloc.a" "$prefix/lib/mimalloc.o"; do
    read -ra flags <<< "$form"
    cxx own_linked "$scratch/own.cc" $define -Wno-alloc-size-larger-than -Wno-sized-deallocation "${flags[@]}"
    prints fine "$scratch/own_linked"
  done
done
