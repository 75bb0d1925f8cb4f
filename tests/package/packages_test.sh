#!/usr/bin/env bash
# The packages: the tarball holds what an installation holds and is used where it was unpacked; the Debian packages are
# well formed, are accepted by dpkg in a root directory of their own, refuse to stand beside mimalloc's, and serve a
# program there.
source tests/package/support.sh
install_into "$prefix"

cat > "$scratch/main.c" << 'END'
#include <mimalloc.h>
#include <stdio.h>
#include <stdlib.h>
int main(void) {
  void* block = malloc(100);
  puts(mi_is_in_heap_region(block) && mi_version() == MI_MALLOC_VERSION ? "fine" : "wrong");
  free(block);
  return 0;
}
END

# builds_and_runs NAME LIBRARIES: with the flags that pkg-config has for the library, and the static way.
builds_and_runs() {
  local flags
  read -ra flags <<< "$(pkg-config --cflags --libs mimalloc)"
  gcc "$scratch/main.c" -o "$scratch/$1" "${flags[@]}" "-Wl,-rpath,$2" || fail "$1: build"
  [[ "$(ldd "$scratch/$1")" == *"=> $2/libmimalloc.so.3 "* ]] || fail "$1: another library is loaded"
  prints fine "$scratch/$1"
  gcc "$scratch/main.c" -o "$scratch/$1.static" "${flags[0]}" "$2/libmimalloc.a" || fail "$1: static build"
  prints fine "$scratch/$1.static"
}

# ---- the tarball
mkdir "$scratch/tar"
tar --extract --file=mimalloc-3.4.0-linux.tar.gz --directory="$scratch/tar"
diff -r "$prefix" "$scratch/tar/mimalloc-3.4.0" || fail "the tarball differs from an installation"
[[ -z "$(tar --list --verbose --numeric-owner --file=mimalloc-3.4.0-linux.tar.gz | grep -v ' 0/0 ')" ]] || fail "owners"
export PKG_CONFIG_LIBDIR=$scratch/tar/mimalloc-3.4.0/lib/pkgconfig
builds_and_runs tarball "$scratch/tar/mimalloc-3.4.0/lib"

# ---- Debian
readonly runtime=libmimalloc-heaps3_3.4.0.deb dev=libmimalloc-heaps-dev_3.4.0.deb
architecture=$(dpkg --print-architecture)
libdir=usr/lib/$(gcc -print-multiarch)

# field PACKAGE NAME: of its control file.
field() { dpkg-deb --field "$1" "$2"; }

for package in $runtime $dev; do
  dpkg-deb --info "$package" > "$scratch/info" || fail "dpkg-deb --info $package"
  [[ "$(field "$package" Version)" == 3.4.0 && "$(field "$package" Architecture)" == "$architecture" ]] || fail "$package"
  if dpkg-deb --contents "$package" | awk '$2 != "root/root" || $6 !~ /^\.\/(usr\/.*)?$/ && $6 != "./"' | grep .; then
    fail "the files above of $package are not root's, or not below /usr"
  fi
  dpkg-deb --contents "$package" | awk '!/^d/ { print $6 }' | sort > "$scratch/$package.files"
done
[[ -z "$(comm -12 "$scratch/$runtime.files" "$scratch/$dev.files")" ]] || fail "a file is in both packages"
[[ "$(field $runtime Depends)" == "libc6 (>= 2."* ]] || fail "Depends: $(field $runtime Depends)"
[[ "$(field $dev Depends)" == "libmimalloc-heaps3 (= 3.4.0)"* ]] || fail "Depends: $(field $dev Depends)"

# dpkg in a root directory that has the C library and nothing else. No package has a script, so that nothing is run there.
root=$scratch/root
# new_root PARAGRAPH: one more package that is installed there, of which only the name matters.
new_root() {
  rm -rf "$root"
  mkdir -p "$root/var/lib/dpkg"/{info,updates,triggers}
  local package version
  for package in libc6 libc6-dev $1; do
    version=$(dpkg-query --show --showformat='${Version}' "$package:$architecture" 2> /dev/null || echo 3.0.1)
    printf 'Package: %s\nStatus: install ok installed\nMaintainer: x\nArchitecture: %s\nMulti-Arch: same\nVersion: %s\nDescription: x\n\n' \
      "$package" "$architecture" "$version"
    touch "$root/var/lib/dpkg/info/$package:$architecture.list"
  done > "$root/var/lib/dpkg/status"
}
dpkg_there() {
  PATH="$PATH:/usr/sbin:/sbin" fakeroot dpkg --root="$root" --force-not-root --log="$scratch/dpkg.log" "$@" > "$scratch/dpkg" 2>&1
}

new_root ""
dpkg_there --install $runtime $dev || fail "dpkg --install: $(< "$scratch/dpkg")"
for name in libmimalloc-heaps3 libmimalloc-heaps-dev; do
  [[ "$(dpkg-query --admindir="$root/var/lib/dpkg" --show --showformat='${db:Status-Status}' $name)" == installed ]] || fail "$name"
done
dpkg_there --audit || fail "dpkg --audit: $(< "$scratch/dpkg")"
dpkg_there --verify libmimalloc-heaps3 libmimalloc-heaps-dev || fail "dpkg --verify"
[[ ! -s "$scratch/dpkg" ]] || fail "dpkg --verify: $(< "$scratch/dpkg")"
dpkg_there --install $runtime $dev || fail "a second time: $(< "$scratch/dpkg")"

export PKG_CONFIG_LIBDIR=$root/$libdir/pkgconfig
builds_and_runs debian "$root/$libdir"
MANPATH=$root/usr/share/man man -P cat mi_free > "$scratch/man" 2>&1 || fail "man mi_free: $(< "$scratch/man")"

# What a distribution's mimalloc has under the same names is not overwritten, nor silently left half replaced.
for other in libmimalloc-dev libmimalloc3; do
  new_root $other
  if dpkg_there --install $runtime $dev; then fail "dpkg installs beside $other"; fi
  grep -q "conflict" "$scratch/dpkg" || fail "beside $other: $(< "$scratch/dpkg")"
done

new_root ""
dpkg_there --install $runtime $dev || fail "dpkg --install: $(< "$scratch/dpkg")"
dpkg_there --purge libmimalloc-heaps-dev libmimalloc-heaps3 || fail "dpkg --purge: $(< "$scratch/dpkg")"
[[ -z "$(find "$root/usr" -name '*mimalloc*' 2> /dev/null)" ]] || fail "purge leaves: $(find "$root/usr" -name '*mimalloc*')"
