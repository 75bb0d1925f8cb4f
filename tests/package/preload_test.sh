#!/usr/bin/env bash
# The second way in: a program that knows nothing of the library, preloaded with it. The program asks the process
# whether the memory that it gets is the library's.
source tests/package/support.sh
install_into "$prefix"

cat > "$scratch/main.cc" << 'END'
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>

static bool (*is_ours)(const void*);

static void show(const char* what, void* block) {
  std::memset(block, 'x', 1000);
  if (is_ours != nullptr) std::printf("%s: %s\n", what, is_ours(block) ? "mimalloc" : "other");
}

static void show_all() {
  void* block = std::malloc(1000);
  show("malloc", block);
  block = std::realloc(block, 5000);
  show("realloc", block);
  std::free(block);
  block = std::calloc(10, 100);
  show("calloc", block);
  std::free(block);
  block = std::aligned_alloc(256, 1024);
  show("aligned_alloc", block);
  std::free(block);
  char* array = new char[1000];
  show("new", array);
  delete[] array;
  std::string string(1000, 'y');
  show("string", string.data());
}

int main() {
  is_ours = reinterpret_cast<bool (*)(const void*)>(dlsym(RTLD_DEFAULT, "mi_is_in_heap_region"));
  if (is_ours == nullptr) std::puts("no mimalloc");
  show_all();
  std::thread(show_all).join();
}
END
cxx my_application "$scratch/main.cc" -pthread -fno-builtin

cd "$scratch"
prints "no mimalloc" ./my_application

# The line as people read it, with this prefix in the place of /usr/local.
lines=
for turn in main thread; do
  for what in malloc realloc calloc aligned_alloc new string; do
    lines+="$what: mimalloc"$'\n'
  done
done
(cd "$OLDPWD" && snippet 2) > line
sed "s|=/usr/local/|=$prefix/|" line > preload.sh
grep -q "LD_PRELOAD=$prefix/lib/libmimalloc.so ./my_application" preload.sh || fail "the snippet changed: $(< preload.sh)"
prints "${lines%$'\n'}" sh preload.sh

# Any program does: here one that was built long before, with children of its own.
LD_PRELOAD=$prefix/lib/libmimalloc.so prints "3 a b c" bash -c 'set -- a b c; echo "$# $(echo "$*" | sort)"'
