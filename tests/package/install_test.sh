#!/usr/bin/env bash
# The installation itself: its arguments, where things are, that it can be repeated and moved, and that it touches
# nothing of others. What can be done with it is tested one way per file beside this one.
source tests/package/support.sh

# refuses TEXT ARGUMENT...: refused with exit code 2 and a message that contains TEXT.
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
refuses "--libdir needs a directory" --prefix "$prefix" --libdir
for libdir in "" / /lib .. lib/../x lib//x ./lib 'lib|x' 'li b'; do
  refuses "--libdir is a plain path" --prefix "$prefix" --libdir "$libdir"
done
refuses "--prefix must be absolute" --prefix relative --destdir "$scratch"
[[ ! -e "$prefix" ]] || fail "a refused call wrote something"

# tree DIR: every file below it with its mode, and its contents' sum or where it points.
tree() {
  (cd "$1" && find . \( -type f -printf '%p %m ' -exec sh -c 'md5sum < "$1"' _ {} \; \) -o -type l -printf '%p -> %l\n' | sort)
}

# The file of someone else stays; one line is printed; a second installation changes nothing.
mkdir -p "$prefix/lib" "$prefix/include"
echo other > "$prefix/lib/libother.a"
prints "installed mimalloc 3.4.0 in $prefix" bazel/install.sh --prefix "$prefix"
tree "$prefix" > "$scratch/first"
prints "installed mimalloc 3.4.0 in $prefix" bazel/install.sh "--prefix=$prefix"
tree "$prefix" > "$scratch/second"
cmp "$scratch/first" "$scratch/second" || fail "a second installation differs"
[[ "$(< "$prefix/lib/libother.a")" == other ]] || fail "another's file was changed"

for file in include/mimalloc.h include/mi/heap/heap.h lib/libmimalloc.a lib/mimalloc.o lib/libmimalloc.so.3.4.0 \
  lib/pkgconfig/mimalloc.pc lib/cmake/mimalloc/mimalloc{,-config,-config-version}.cmake share/man/man3/mimalloc.3; do
  [[ -s "$prefix/$file" && ! -L "$prefix/$file" ]] || fail "$file was not installed"
done
for header in mi/mimalloc-*.h; do
  [[ ! -f "$header" || -s "$prefix/include/${header#mi/}" ]] || fail "$header was not installed"
done
[[ "$(readlink "$prefix/lib/libmimalloc.so")" == libmimalloc.so.3 ]] || fail "lib/libmimalloc.so"
[[ "$(readlink "$prefix/lib/libmimalloc.so.3")" == libmimalloc.so.3.4.0 ]] || fail "lib/libmimalloc.so.3"
[[ "$(objdump -p "$prefix/lib/libmimalloc.so")" == *SONAME*libmimalloc.so.3$'\n'* ]] || fail "soname"
[[ -z "$(find "$prefix" -name '*.new')" ]] || fail "temporary files are left"

# Nothing that is installed knows where that was: the text files do not name the prefix.
if grep -rIl "$TEST_TMPDIR" "$prefix"; then fail "the files above name the prefix"; fi

# A relative prefix is meant from where bazel was called.
mkdir -p "$scratch/caller"
BUILD_WORKING_DIRECTORY=$scratch/caller bazel/install.sh --prefix to/here > /dev/null
tree "$scratch/caller/to/here" | diff - <(grep -v libother "$scratch/first") || fail "a relative prefix"

# DESTDIR and --destdir only move the whole; --libdir moves the libraries, and what is beside them finds the rest.
DESTDIR=$scratch/dest bazel/install.sh --prefix /usr/local > /dev/null
tree "$scratch/dest/usr/local" | diff - <(grep -v libother "$scratch/first") || fail "DESTDIR"
BUILD_WORKING_DIRECTORY=$scratch bazel/install.sh --destdir dest2 --prefix /usr --libdir lib/x86_64-linux-gnu > /dev/null
[[ -s "$scratch/dest2/usr/lib/x86_64-linux-gnu/libmimalloc.so" ]] || fail "--libdir"
[[ -s "$scratch/dest2/usr/include/mimalloc.h" ]] || fail "--libdir moved the headers"
export PKG_CONFIG_LIBDIR=$scratch/dest2/usr/lib/x86_64-linux-gnu/pkgconfig
for variable in libdir includedir; do
  directory=$(pkg-config --variable=$variable mimalloc)
  [[ -d "$directory" && -n "$(find "$directory" -name '*mimalloc*' -print -quit)" ]] || fail "--libdir: $variable $directory"
done
[[ "$(realpath "$(pkg-config --variable=includedir mimalloc)")" == "$scratch/dest2/usr/include" ]] || fail "--libdir: includedir"

# Another library's files of the same names are not replaced, nor is anything else installed then.
for file in include/mimalloc.h lib/libmimalloc.a lib/libmimalloc.so lib/libmimalloc.so.3 lib/mimalloc.o \
  lib/pkgconfig/mimalloc.pc; do
  other=$scratch/other/$file
  rm -rf "$scratch/other"
  mkdir -p "$(dirname "$other")"
  echo "not of this library" > "$other"
  code=0
  output=$(bazel/install.sh --prefix "$scratch/other" 2>&1) || code=$?
  [[ $code -eq 1 && "$output" == *"$other belongs to another library"* ]] || fail "over another's $file: $code, $output"
  [[ "$(find "$scratch/other" -type f)" == "$other" && "$(< "$other")" == "not of this library" ]] || fail "wrote over $file"
done

# The shared library shows no private names: those with an underscore are what the headers call themselves.
for name in $(nm --dynamic --defined-only "$prefix/lib/libmimalloc.so" | sed -n 's/.* [A-Z] \(_mi_[a-z_0-9]*\)$/\1/p'); do
  grep -rqw "$name" "$prefix/include" || fail "the shared library exports the private name $name"
done
