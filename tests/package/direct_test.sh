#!/usr/bin/env bash
# The first way in: a program that calls the library, built against each of its three forms, by hand and with what
# pkg-config says.
source tests/package/support.sh
install_into "$prefix"

# The example as people read it, and a caller that looks at whose the memory is.
snippet 1 > "$scratch/example.c"
cat > "$scratch/main.c" << 'END'
#include <mimalloc-inline.h>
#include <stdio.h>
#include <string.h>

#ifndef MI_FIRST_CLASS_HEAPS
#error "another library's header was found"
#endif

void example(void);

int main(void) {
  example();
  char* block = (char*)mi_malloc(1024);
  if (block == NULL || mi_heap_of(block) != mi_heap_main() || mi_usable_size(block) < 1024) return 1;
  memset(block, 'x', 1024);
  mi_free(block);
  mi_heap_t* heap = mi_heap_new();
  if (heap == NULL) return 2;
  block = (char*)mi_heap_malloc(heap, 100);
  if (block == NULL || mi_heap_of(block) != heap) return 3;
  mi_heap_destroy(heap);
  if (mi_version() != MI_MALLOC_VERSION) return 4;
  mi_inline_thread_t thread;
  if (!mi_inline_thread_attach(&thread)) return 5;
  mi_inline_free_small(&thread, mi_malloc(100));
  puts("fine");
  return 0;
}
END

# builds_and_runs NAME FLAG...: it builds with these flags after the sources, and runs.
builds_and_runs() {
  c "$1" "$scratch/main.c" "$scratch/example.c" "${@:2}"
  prints fine "$scratch/$1"
}

builds_and_runs archive "$prefix/lib/libmimalloc.a" -pthread
loads_none "$scratch/archive"
builds_and_runs shared "-L$prefix/lib" -lmimalloc "-Wl,-rpath,$prefix/lib"
loads "$scratch/shared"
builds_and_runs object "$prefix/lib/mimalloc.o" -pthread
loads_none "$scratch/object"
builds_and_runs no_pie -no-pie "$prefix/lib/libmimalloc.a"
builds_and_runs all_static -static "$prefix/lib/libmimalloc.a"

# The header is a C++ header as well.
cp "$scratch/main.c" "$scratch/main.cc"
cp "$scratch/example.c" "$scratch/example.cc"
cxx cxx "$scratch/main.cc" "$scratch/example.cc" "$prefix/lib/libmimalloc.a"
prints fine "$scratch/cxx"

# The same through pkg-config, whose answer must be of this prefix, also after the whole was moved.
export PKG_CONFIG_LIBDIR=$prefix/lib/pkgconfig
[[ "$(pkg-config --modversion mimalloc)" == 3.4.0 ]] || fail "pkg-config: version $(pkg-config --modversion mimalloc)"
read -ra flags <<< "$(pkg-config --cflags --libs mimalloc)"
builds_and_runs pkg_config "${flags[@]}" "-Wl,-rpath,$prefix/lib"
loads "$scratch/pkg_config"
read -ra flags <<< "$(pkg-config --static --cflags --libs mimalloc)"
[[ " ${flags[*]} " == *" -pthread "* ]] || fail "pkg-config --static: ${flags[*]}"
builds_and_runs pkg_config_static -static "${flags[@]}"

mv "$prefix" "$scratch/moved"
export PKG_CONFIG_LIBDIR=$scratch/moved/lib/pkgconfig
read -ra flags <<< "$(pkg-config --cflags --libs mimalloc)"
builds_and_runs pkg_config_moved "${flags[@]}" "-Wl,-rpath,$scratch/moved/lib"
[[ "$(ldd "$scratch/pkg_config_moved")" == *"=> $scratch/moved/lib/libmimalloc.so.3 "* ]] || fail "moved: another library"

# Archive and object may go into a shared library that keeps them to itself.
cat > "$scratch/plugin.c" << 'END'
#include <mimalloc.h>
__attribute__((visibility("default"))) int plugin_works(void) {
  mi_heap_t* heap = mi_heap_new();
  char* text = heap == NULL ? NULL : mi_heap_strdup(heap, "text");
  int works = text != NULL && mi_heap_of(text) == heap;
  mi_heap_destroy(heap);
  return works;
}
END
cat > "$scratch/host.c" << 'END'
#include <dlfcn.h>
#include <stdio.h>
int main(int argc, char** argv) {
  void* plugin = argc == 2 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : NULL;
  if (plugin == NULL) return 1;
  int (*works)(void) = (int (*)(void))dlsym(plugin, "plugin_works");
  puts(works != NULL && works() ? "fine" : "wrong");
  return 0;
}
END
c host "$scratch/host.c"
for form in libmimalloc.a mimalloc.o; do
  gcc -shared -fPIC -fvisibility=hidden "-I$scratch/moved/include" "$scratch/plugin.c" "$scratch/moved/lib/$form" \
    -Wl,--exclude-libs,ALL -Wl,-z,defs -o "$scratch/plugin.so" || fail "plugin with $form: build"
  prints fine "$scratch/host" "$scratch/plugin.so"
done
