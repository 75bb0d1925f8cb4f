#!/usr/bin/env bash
# Installs the library into a temporary directory and checks, with nothing but that directory and the system's C
# compiler, that a program can be built against both forms of the library, and that bad arguments are refused.
set -euo pipefail

prefix=$TEST_TMPDIR/prefix
program=$TEST_TMPDIR/program

fail() {
  echo "FAILED: $1" >&2
  exit 1
}

# refuses TEXT ARGUMENT...: the arguments are refused with exit code 2 and a message that contains TEXT.
refuses() {
  local text=$1 code=0 output
  shift
  output=$(bazel/install.sh "$@" 2>&1) || code=$?
  [[ $code -eq 2 ]] || fail "install $*: exit code $code, not 2"
  [[ "$output" == *"$text"* && "$output" == *usage:* ]] || fail "install $*: message is: $output"
}

refuses "--prefix DIR is missing"
refuses "--prefix needs a directory" --prefix
refuses "--prefix DIR is missing" --prefix ""
refuses "unknown argument: --prefxi" --prefxi "$prefix"
refuses "is not a directory" --prefix "$PWD/mi/mimalloc.h"

bazel/install.sh --prefix "$prefix"
# A second installation replaces the first.
bazel/install.sh "--prefix=$prefix"

for file in include/mimalloc.h include/mi/heap/heap.h lib/libmimalloc.a lib/libmimalloc.so lib/pkgconfig/mimalloc.pc; do
  [[ -s "$prefix/$file" ]] || fail "$file was not installed"
done
[[ -L "$prefix/lib/libmimalloc.so.3" ]] || fail "lib/libmimalloc.so.3 is not a link"
for header in mi/mimalloc-*.h; do
  [[ ! -f "$header" || -s "$prefix/include/${header#mi/}" ]] || fail "$header was not installed"
done

cat > "$program.c" << 'END'
#include <mimalloc.h>
#include <stdio.h>
#include <string.h>

#ifndef MI_FIRST_CLASS_HEAPS
#error "another library's header was found"
#endif

int main(void) {
  mi_heap_t* heap = mi_heap_new();
  if (heap == NULL) return 1;
  char* block = mi_heap_malloc(heap, 100);
  if (block == NULL || mi_heap_of(block) != heap) return 2;
  memset(block, 'x', 100);
  mi_heap_destroy(heap);
  void* plain = mi_malloc(10);
  if (plain == NULL) return 3;
  mi_free(plain);
  puts("fine");
  return 0;
}
END

# builds_and_runs NAME FLAG...: the program builds from $prefix/include only, with these flags, and runs.
builds_and_runs() {
  local name=$1
  shift
  gcc -std=c11 -Wall -Wextra -Werror "-I$prefix/include" "$program.c" -o "$program.$name" "$@" || fail "$name: build"
  [[ "$("$program.$name")" == fine ]] || fail "$name: the program does not run"
}

builds_and_runs static "$prefix/lib/libmimalloc.a" -pthread
builds_and_runs shared "-L$prefix/lib" -lmimalloc "-Wl,-rpath,$prefix/lib"
[[ "$(ldd "$program.shared")" == *"$prefix/lib/libmimalloc.so.3"* ]] || fail "shared: another library was loaded"
[[ "$(ldd "$program.static")" != *mimalloc* ]] || fail "static: needs a shared library"

# The same through pkg-config, whose answer must be of this prefix.
export PKG_CONFIG_LIBDIR=$prefix/lib/pkgconfig
read -ra flags <<< "$(pkg-config --cflags --libs mimalloc)"
builds_and_runs pkg_config "${flags[@]}" "-Wl,-rpath,$prefix/lib"
[[ "$(pkg-config --modversion mimalloc)" == 3.* ]] || fail "pkg-config: version $(pkg-config --modversion mimalloc)"

# The shared library shows its public names and nothing private.
private=$(nm --dynamic --defined-only "$prefix/lib/libmimalloc.so" | grep -E ' [A-Z] _mi_' || true)
[[ -z "$private" ]] || fail "the shared library exports private names: $private"
