#!/usr/bin/env bash
# Makes what people install without Bazel. Called by the rules //:deb and //:tarball, with the files that
# bazel/install.sh needs:
#
#   bazel/pack.sh tarball VERSION OUT FILE...             the installation in a directory mimalloc-VERSION
#   bazel/pack.sh deb VERSION OUT OUT_DEV FILE...         two Debian packages: the shared library, and the rest
#
# Equal inputs give equal outputs: times are the manual's date, owners root.
set -euo pipefail
umask 022

fail() {
  echo "pack: $1" >&2
  exit 1
}

kind=$1
version=$2
shift 2
outputs=("$PWD/$1")
shift
if [[ "$kind" == deb ]]; then
  outputs+=("$PWD/$1")
  shift
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The files as bazel/install.sh knows them: without the directory that Bazel built them in.
for file in "$@"; do
  name=${file#bazel-out/*/bin/}
  name=${name#external/*/}
  mkdir -p "$work/files/$(dirname "$name")"
  cp -L "$file" "$work/files/$name"
done

# install_files ARGUMENT...: must install the version that is packed.
install_files() {
  local line
  line=$(cd "$work/files" && bash bazel/install.sh "$@")
  [[ "$line" == "installed mimalloc $version in "* ]] || fail "version $version is to be packed, but: $line"
}

released=$(sed -n 's/^\.Dd //p' "$work/files/man/mimalloc.3")
SOURCE_DATE_EPOCH=$(date --utc --date="$released" +%s)
export SOURCE_DATE_EPOCH

if [[ "$kind" == tarball ]]; then
  install_files --prefix "$work/tar/mimalloc-$version" > /dev/null
  tar --create --directory="$work/tar" --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=root:0 --group=root:0 \
    "mimalloc-$version" | gzip --best --no-name > "${outputs[0]}"
  exit 0
fi

# ---- Debian ------------------------------------------------------------------------------------------------------
# Other names than those of Debian's own packages of mimalloc, which hold other software; they cannot be installed
# beside each other where they hold files of the same names.
readonly runtime=libmimalloc-heaps3 dev=libmimalloc-heaps-dev
architecture=$(dpkg --print-architecture)
libdir=lib/$(gcc -print-multiarch)
install_files --destdir "$work/$dev" --prefix /usr --libdir "$libdir"

rm -r "$work/$dev/usr/share/doc" # as Debian has it: below

chmod 644 "$work/$dev/usr/$libdir/libmimalloc.so.$version" # Debian has no shared library executable
strip --strip-unneeded "$work/$dev/usr/$libdir/libmimalloc.so.$version"
strip --strip-debug --enable-deterministic-archives "$work/$dev/usr/$libdir"/{libmimalloc.a,mimalloc.o}

mkdir -p "$work/$runtime/usr/$libdir"
mv "$work/$dev/usr/$libdir"/libmimalloc.so.* "$work/$runtime/usr/$libdir/"

# Manual pages are compressed; a link to a page is a link to the compressed page.
for page in "$work/$dev"/usr/share/man/man3/*.3; do
  if [[ -L "$page" ]]; then
    ln -s "$(readlink "$page").gz" "$page.gz"
    rm "$page"
  fi
done
find "$work/$dev/usr/share/man" -name '*.3' -exec gzip --best --no-name {} +

# The oldest C library that has all that is used of it.
libc=$(objdump -T "$work/$runtime/usr/$libdir/libmimalloc.so.$version" | grep -o 'GLIBC_[0-9][0-9.]*' | sort -uV | tail -n 1)
[[ -n "$libc" ]] || fail "the shared library needs no version of the C library"

# package NAME OUTPUT: builds it of $work/NAME and the paragraph of its control file on standard input.
package() {
  local name=$1 directory=$work/$1 documents=$work/$1/usr/share/doc/$1
  mkdir -p "$directory/DEBIAN" "$documents"
  cp "$work/files/LICENSE" "$documents/copyright"
  printf 'mimalloc-heaps (%s) unstable; urgency=medium\n\n  * Version %s.\n\n -- %s  %s\n' \
    "$version" "$version" "$maintainer" "$(date --utc --date="@$SOURCE_DATE_EPOCH" -R)" |
    gzip --best --no-name > "$documents/changelog.gz"
  {
    echo "Package: $name"
    echo "Source: mimalloc-heaps"
    echo "Version: $version"
    echo "Architecture: $architecture"
    echo "Maintainer: $maintainer"
    echo "Installed-Size: $(du --apparent-size -sk "$directory/usr" | cut -f 1)"
    cat
  } > "$directory/DEBIAN/control"
  (cd "$directory" && find usr -type f -print0 | sort -z | xargs -0 md5sum > DEBIAN/md5sums)
  chmod -R u=rwX,go=rX "$directory"
  find "$directory" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
  dpkg-deb --root-owner-group --build "$directory" "$2" > /dev/null
}

readonly maintainer="The heap library authors <root@localhost>"

mkdir -p "$work/$runtime/DEBIAN"
echo "libmimalloc 3 $runtime (>= $version)" > "$work/$runtime/DEBIAN/shlibs"
echo "activate-noawait ldconfig" > "$work/$runtime/DEBIAN/triggers"
package $runtime "${outputs[0]}" << END
Section: libs
Priority: optional
Multi-Arch: same
Depends: libc6 (>= ${libc#GLIBC_})
Conflicts: libmimalloc3
Description: memory allocator with first-class heaps (shared library)
 Heaps that a program makes, allocates in from any thread, and drops whole, on
 a general memory allocator. Programs that are linked with the library, or that
 it is preloaded into (LD_PRELOAD=libmimalloc.so.3), get its malloc and new.
END

package $dev "${outputs[1]}" << END
Section: libdevel
Priority: optional
Multi-Arch: same
Depends: $runtime (= $version), libc6-dev
Provides: libmimalloc-dev (= $version)
Conflicts: libmimalloc-dev
Description: memory allocator with first-class heaps (development files)
 Heaps that a program makes, allocates in from any thread, and drops whole, on
 a general memory allocator. This package holds the headers, the static forms
 of the library, what CMake and pkg-config look for, and the manual.
END
