#!/usr/bin/env bash
# mi_new in programs of each kind, linked by hand with the archive: a C program, which has no C++ runtime, is aborted with
# a message; a C++ program catches std::bad_alloc, whether its runtime is shared or linked in.
set -euo pipefail

library=$PWD/mi/libmimalloc.a
cd "$TEST_TMPDIR"
include=(-I "$OLDPWD/mi" -I "$OLDPWD")

fail() {
  echo "FAILED: $1" >&2
  exit 1
}

cat > program.c << 'END'
#include <mimalloc.h>
#include <stdint.h>
int main(int argc, char** argv) {
  (void)argv;
  void* p = mi_new(10);
  if (p == NULL || mi_new_nothrow(SIZE_MAX / (size_t)(argc + 1)) != NULL) return 1;
  mi_free(p);
  return mi_new(SIZE_MAX / (size_t)argc) != NULL;
}
END
gcc -std=c11 -O1 "${include[@]}" program.c "$library" -pthread -o c_program
[[ "$(ldd c_program)" != *libstdc++* ]] || fail "a C program needs the C++ runtime"
code=0
output=$(./c_program 2>&1) || code=$?
((code == 134)) || fail "a C program without memory ends with code $code, not by abort"
[[ "$output" == *"operator new"* ]] || fail "a C program without memory prints: $output"

cat > program.cc << 'END'
#include <mimalloc.h>
#include <cstdint>
#include <new>
static int calls;
static void handler() {
  if (++calls == 3) std::set_new_handler(nullptr);
}
int main(int argc, char**) {
  std::set_new_handler(handler);
  try {
    return mi_new(SIZE_MAX / static_cast<std::size_t>(argc)) == nullptr ? 1 : 2;
  } catch (const std::bad_alloc& e) {
    return calls == 3 && e.what()[0] != 0 ? 42 : 3;
  }
}
END
for how in "" "-static-libstdc++ -static-libgcc" -static -static-pie; do
  read -ra flags <<< "$how"
  g++ -std=c++11 -O1 "${include[@]}" program.cc "$library" -pthread "${flags[@]}" -o cxx_program ||
    fail "C++ program ($how): link"
  code=0
  ./cxx_program || code=$?
  ((code == 42)) || fail "C++ program ($how): code $code"
done
