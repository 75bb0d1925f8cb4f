#!/usr/bin/env bash
# Installs the library under a prefix: public headers, archive, object and shared library, what CMake and pkg-config
# look for, and manual pages.
#
#   bazel run -c opt //:install -- --prefix DIR [--libdir DIR] [--destdir DIR]
#
#   --prefix DIR    where it will be used; a relative DIR is meant from where `bazel run` was called
#   --libdir DIR    the libraries' directory below the prefix: lib, if not given
#   --destdir DIR   (or the environment's DESTDIR) write below DIR/PREFIX instead, for packages that are unpacked later
#
# A second installation replaces the first, file by file and each at once, so that programs that are running with the
# library go on. Nothing is removed, and nothing that another library of this name installed is replaced: that is
# refused before anything is written. What is installed holds no absolute path and may be moved as a whole.
# Runs out of Bazel's runfiles, or of a directory that is laid out like them (bazel/deb.sh).
set -euo pipefail

readonly usage_line="usage: bazel run -c opt //:install -- --prefix DIR [--libdir DIR] [--destdir DIR]"

usage() {
  [[ $# -eq 0 ]] || echo "install: $1" >&2
  echo "$usage_line" >&2
  exit 2
}

fail() {
  echo "install: $1" >&2
  exit 1
}

prefix=
libdir=lib
destdir=${DESTDIR:-}
while (($# > 0)); do
  case "$1" in
    --prefix | --libdir | --destdir)
      (($# >= 2)) || usage "$1 needs a directory"
      declare "${1#--}=$2"
      shift 2
      ;;
    --prefix=* | --libdir=* | --destdir=*)
      option=${1%%=*}
      declare "${option#--}=${1#*=}"
      shift
      ;;
    --help)
      echo "$usage_line"
      exit 0
      ;;
    *) usage "unknown argument: $1" ;;
  esac
done

readonly caller=${BUILD_WORKING_DIRECTORY:-$PWD}
[[ -n "$prefix" ]] || usage "--prefix DIR is missing"
if [[ -n "$destdir" ]]; then
  [[ "$prefix" == /* ]] || usage "with --destdir, --prefix must be absolute: $prefix"
  [[ "$destdir" == /* ]] || destdir=$caller/$destdir
else
  [[ "$prefix" == /* ]] || prefix=$caller/$prefix
fi
while [[ "$libdir" == */ ]]; do libdir=${libdir%/}; done
case "/$libdir/" in
  */./* | */../* | *//* | *[!A-Za-z0-9._/+-]*) usage "--libdir is a plain path below the prefix, such as lib or lib64: $libdir" ;;
esac
root=$destdir$prefix
[[ ! -e "$root" || -d "$root" ]] || usage "$root is not a directory"

readonly templates=bazel/package
for file in mi/mimalloc.h mi/heap/heap.h mi/libmimalloc.so $templates/{libmimalloc.a,mimalloc.o,mimalloc.pc.in} \
  $templates/{mimalloc.cmake.in,mimalloc-config.cmake.in,mimalloc-config-version.cmake.in} man/mimalloc.3 LICENSE; do
  [[ -f "$file" ]] || fail "$file is not here; run it as: ${usage_line#usage: }"
done

# The version is written in the header, as major * 10000 + minor * 100 + patch; the shared library carries its major
# number already.
number=$(sed -n 's/^#define MI_MALLOC_VERSION \([0-9]*\).*/\1/p' mi/mimalloc.h)
[[ -n "$number" ]] || fail "mi/mimalloc.h does not say MI_MALLOC_VERSION"
readonly major=$((number / 10000))
readonly version=$major.$((number / 100 % 100)).$((number % 100))
grep -q "libmimalloc\.so\.$major" mi/libmimalloc.so || fail "mi/libmimalloc.so is not of version $major, as mi/mimalloc.h is"

readonly include=$root/include lib=$root/$libdir man=$root/share/man/man3
readonly cmake=$lib/cmake/mimalloc doc=$root/share/doc/mimalloc

# Each of these, if it is there, must be of an installation of this library.
for file in "$include/mimalloc.h" "$lib"/libmimalloc.{a,so,so."$major"} "$lib/mimalloc.o" "$lib/pkgconfig/mimalloc.pc"; do
  if [[ -e "$file" ]] && ! grep -qE 'MI_FIRST_CLASS_HEAPS|mi_heap_new_with|first-class heaps' "$file"; then
    fail "$file belongs to another library; nothing was installed"
  fi
done

# put MODE SOURCE TARGET: TARGET is the old file until it is the new one.
put() {
  install -m "$1" "$2" "$3.new"
  mv -f "$3.new" "$3"
}

# link TEXT TARGET: likewise, a symbolic link.
link() {
  ln -sfn "$1" "$2.new"
  mv -fT "$2.new" "$2"
}

# fill TEMPLATE TARGET: likewise, with each @NAME@ replaced.
fill() {
  sed -e "s|@VERSION@|$version|g" -e "s|@MAJOR@|$major|g" -e "s|@LIBDIR@|$libdir|g" \
    -e "s|@LIB_TO_PREFIX@|$lib_to_prefix|g" -e "s|@PC_TO_PREFIX@|../$lib_to_prefix|g" \
    "$templates/$1" > "$2.new"
  ! grep -n '@[A-Z_]*@' "$2.new" || fail "$templates/$1 has a name that is not known"
  chmod 644 "$2.new"
  mv -f "$2.new" "$2"
}

# The way from the libraries' directory to the prefix: .. for lib, ../.. for lib/x86_64-linux-gnu.
lib_to_prefix=$(sed 's|[^/][^/]*|..|g' <<< "$libdir")

install -d "$include/mi/heap" "$lib/pkgconfig" "$cmake" "$man" "$doc"

put 644 mi/mimalloc.h "$include/mimalloc.h"
for header in mi/mimalloc-*.h; do
  [[ ! -f "$header" ]] || put 644 "$header" "$include/${header#mi/}"
done
put 644 mi/heap/heap.h "$include/mi/heap/heap.h"

put 644 $templates/libmimalloc.a "$lib/libmimalloc.a"
put 644 $templates/mimalloc.o "$lib/mimalloc.o"
put 755 mi/libmimalloc.so "$lib/libmimalloc.so.$version"
link "libmimalloc.so.$version" "$lib/libmimalloc.so.$major"
link "libmimalloc.so.$major" "$lib/libmimalloc.so"

fill mimalloc.pc.in "$lib/pkgconfig/mimalloc.pc"
for name in mimalloc mimalloc-config mimalloc-config-version; do
  fill "$name.cmake.in" "$cmake/$name.cmake"
done

# A page is found under the name of each function that it describes: those after .Nm in its section NAME.
for page in man/*.3; do
  name=${page##*/}
  put 644 "$page" "$man/$name"
  while read -r function; do
    [[ "$function.3" == "$name" ]] || link "$name" "$man/$function.3"
  done < <(sed -n '/^\.Sh SYNOPSIS/q; s/^\.Nm \([a-z_0-9]*\).*/\1/p' "$page")
done

put 644 LICENSE "$doc/LICENSE"

echo "installed mimalloc $version in $root"
