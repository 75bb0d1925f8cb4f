#!/usr/bin/env bash
# Installs the library under a prefix: public headers, static and shared library, and the file for pkg-config.
#
#   bazel run -c opt //:install -- --prefix DIR
#
# A relative DIR is meant from where `bazel run` was called. Runs out of Bazel's runfiles, and only there.
set -euo pipefail

usage() {
  [[ $# -eq 0 ]] || echo "install: $1" >&2
  echo "usage: bazel run -c opt //:install -- --prefix DIR" >&2
  exit 2
}

prefix=
while (($# > 0)); do
  case "$1" in
    --prefix)
      (($# >= 2)) || usage "--prefix needs a directory"
      prefix=$2
      shift 2
      ;;
    --prefix=*)
      prefix=${1#--prefix=}
      shift
      ;;
    --help)
      echo "usage: bazel run -c opt //:install -- --prefix DIR"
      exit 0
      ;;
    *) usage "unknown argument: $1" ;;
  esac
done
[[ -n "$prefix" ]] || usage "--prefix DIR is missing"
[[ "$prefix" == /* ]] || prefix=${BUILD_WORKING_DIRECTORY:-$PWD}/$prefix
[[ ! -e "$prefix" || -d "$prefix" ]] || usage "$prefix is not a directory"

for file in mi/mimalloc.h mi/heap/heap.h mi/libmimalloc.a mi/libmimalloc.so; do
  if [[ ! -f "$file" ]]; then
    echo "install: $file is not here; run it as: bazel run -c opt //:install -- --prefix DIR" >&2
    exit 1
  fi
done

# The version is written once, in the header, as major * 10000 + minor * 100 + patch.
number=$(sed -n 's/^#define MI_MALLOC_VERSION \([0-9]*\).*/\1/p' mi/mimalloc.h)
if [[ -z "$number" ]]; then
  echo "install: mi/mimalloc.h does not say MI_MALLOC_VERSION" >&2
  exit 1
fi
major=$((number / 10000))
version=$major.$((number / 100 % 100)).$((number % 100))

mkdir -p "$prefix"
prefix=$(cd "$prefix" && pwd)
lib=$prefix/lib

install -d "$prefix/include/mi/heap" "$lib/pkgconfig"
install -m 644 mi/mimalloc.h "$prefix/include/"
for header in mi/mimalloc-*.h; do
  [[ ! -f "$header" ]] || install -m 644 "$header" "$prefix/include/"
done
install -m 644 mi/heap/heap.h "$prefix/include/mi/heap/"

install -m 644 mi/libmimalloc.a "$lib/"
install -m 755 mi/libmimalloc.so "$lib/libmimalloc.so.$version"
ln -sfn "libmimalloc.so.$version" "$lib/libmimalloc.so.$major"
ln -sfn "libmimalloc.so.$major" "$lib/libmimalloc.so"

cat > "$lib/pkgconfig/mimalloc.pc" << END
prefix=$prefix
includedir=\${prefix}/include
libdir=\${prefix}/lib

Name: mimalloc
Description: An allocator whose heaps are first-class: create, allocate from any thread, drop whole
Version: $version
Cflags: -I\${includedir}
Libs: -L\${libdir} -lmimalloc
Libs.private: -pthread
END

echo "installed mimalloc $version in $prefix"
