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

# A program with operators of its own keeps them, whichever form of the library it is linked with.
cat > "$scratch/own.cc" << 'END'
#include <mimalloc.h>

#include <cstdio>
#include <cstdlib>
#include <new>
#include <string>

static int news, deletes;

void* operator new(size_t size) {
  news++;
  if (void* p = std::malloc(size)) return p;
  throw std::bad_alloc();
}
void operator delete(void* p) noexcept {
  deletes++;
  std::free(p);
}
void operator delete(void* p, size_t) noexcept { operator delete(p); }

int main() {
  bool ours = false;
  {
    std::string text(1000, 'x');
    ours = mi_is_in_heap_region(text.data());
  }
  std::puts(ours && news == 1 && deletes == 1 ? "fine" : "wrong");
}
END
for form in "-L$prefix/lib -lmimalloc -Wl,-rpath,$prefix/lib" "$prefix/lib/libmimalloc.a" "$prefix/lib/mimalloc.o"; do
  read -ra flags <<< "$form"
  cxx own "$scratch/own.cc" "${flags[@]}"
  prints fine "$scratch/own"
done
