#!/usr/bin/env bash
# The third way in: a project that finds the library with CMake. The project as people read it, both targets, every
# variable, what requests for versions are served, and an installation that was moved.
source tests/package/support.sh
install_into "$prefix"

# A program that says whose its memory is, without naming the library.
mkdir -p "$scratch/myapp"
cat > "$scratch/myapp/main.cpp" << 'END'
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>

extern "C" __attribute__((weak)) bool mi_is_in_heap_region(const void*);

int main() {
  auto* is_ours = reinterpret_cast<bool (*)(const void*)>(dlsym(RTLD_DEFAULT, "mi_is_in_heap_region"));
  if (is_ours == nullptr) is_ours = mi_is_in_heap_region;
  if (is_ours == nullptr) return 1;
  void* block = std::malloc(100);
  int* number = new int(1);
  std::printf("malloc %d, new %d\n", is_ours(block), is_ours(number));
  std::free(block);
  delete number;
}
END

# configures DIR ARGUMENT...: CMake accepts the project in $scratch/DIR, finding packages below $prefix only.
configures() {
  rm -rf "$scratch/$1/build"
  CXX=g++ CC=gcc cmake -S "$scratch/$1" -B "$scratch/$1/build" -G "Unix Makefiles" -DCMAKE_BUILD_TYPE=Release \
    "-DCMAKE_PREFIX_PATH=$prefix" "${@:2}" > "$scratch/cmake.log" 2>&1
}
builds() {
  configures "$@" || fail "cmake: $(< "$scratch/cmake.log")"
  cmake --build "$scratch/$1/build" > "$scratch/cmake.log" 2>&1 || fail "cmake --build: $(< "$scratch/cmake.log")"
}

# As people read it: find_package without CONFIG.
{
  printf 'cmake_minimum_required(VERSION 3.13)\nproject(myapp CXX)\n'
  snippet 3
} > "$scratch/myapp/CMakeLists.txt"
builds myapp
loads "$scratch/myapp/build/myapp"
prints "malloc 1, new 1" "$scratch/myapp/build/myapp"

# The archive, and CONFIG.
sed -i -e 's/PRIVATE mimalloc)/PRIVATE mimalloc-static)/' -e 's/(mimalloc REQUIRED)/(mimalloc CONFIG REQUIRED)/' \
  "$scratch/myapp/CMakeLists.txt"
grep -q mimalloc-static "$scratch/myapp/CMakeLists.txt" || fail "the snippet changed"
builds myapp
loads_none "$scratch/myapp/build/myapp"
prints "malloc 1, new 1" "$scratch/myapp/build/myapp"

# A program that does not mention malloc or new itself: what it uses of other libraries does.
cat > "$scratch/myapp/main.cpp" << 'END'
#include <stdio.h>

extern "C" bool mi_is_in_heap_region(const void*);

int main() {
  char* line = nullptr;
  size_t size = 0;
  if (getline(&line, &size, stdin) < 0) return 1;
  puts(mi_is_in_heap_region(line) ? "mimalloc" : "other");
}
END
for target in mimalloc mimalloc-static; do
  sed -i "s/PRIVATE mimalloc.*)/PRIVATE $target)/" "$scratch/myapp/CMakeLists.txt"
  builds myapp -DCMAKE_EXE_LINKER_FLAGS=-Wl,--as-needed
  prints mimalloc sh -c 'echo text | "$1"' _ "$scratch/myapp/build/myapp"
done

# The object, for who wants malloc to be replaced whatever comes first.
mkdir -p "$scratch/object"
cp "$scratch/myapp/main.cpp" "$scratch/object/"
cat > "$scratch/object/CMakeLists.txt" << 'END'
cmake_minimum_required(VERSION 3.13)
project(object CXX)
find_package(mimalloc 3 REQUIRED)
add_executable(object main.cpp "${MIMALLOC_OBJECT_DIR}/mimalloc.o")
target_include_directories(object PRIVATE "${MIMALLOC_INCLUDE_DIR}")
END
builds object
loads_none "$scratch/object/build/object"
prints mimalloc sh -c 'echo text | "$1"' _ "$scratch/object/build/object"

# The variables, here and where the installation is moved to: all are computed from the package's own place.
mkdir -p "$scratch/variables"
cat > "$scratch/variables/CMakeLists.txt" << 'END'
cmake_minimum_required(VERSION 3.13)
project(variables C)
find_package(mimalloc REQUIRED)
find_package(mimalloc REQUIRED)
foreach(name INCLUDE_DIR LIBRARY_DIR OBJECT_DIR TARGET_DIR CMAKE_DIR VERSION_DIR)
  message("${name}=${MIMALLOC_${name}}")
endforeach()
message("version=${mimalloc_VERSION}")
foreach(target mimalloc mimalloc-static)
  get_target_property(location ${target} IMPORTED_LOCATION)
  get_target_property(definitions ${target} INTERFACE_COMPILE_DEFINITIONS)
  message("${target}=${location} ${definitions}")
endforeach()
END
# variables PREFIX LIBDIR: what the project above sees of an installation there.
variables() {
  configures variables "-DCMAKE_PREFIX_PATH=$1" "-DCMAKE_LIBRARY_ARCHITECTURE=x86_64-linux-gnu" ||
    fail "cmake: $(< "$scratch/cmake.log")"
  diff - <(grep '=' "$scratch/cmake.log") << END || fail "the package's variables below $1"
INCLUDE_DIR=$1/include
LIBRARY_DIR=$1/$2
OBJECT_DIR=$1/$2
TARGET_DIR=$1/$2
CMAKE_DIR=$1/$2/cmake
VERSION_DIR=mimalloc
version=3.4.0
mimalloc=$1/$2/libmimalloc.so.3.4.0 definitions-NOTFOUND
mimalloc-static=$1/$2/libmimalloc.a definitions-NOTFOUND
END
}
variables "$prefix" lib
cp -a "$prefix" "$scratch/moved"
variables "$scratch/moved" lib
install_into "$scratch/debian" --libdir lib/x86_64-linux-gnu
variables "$scratch/debian" lib/x86_64-linux-gnu

# Versions: which requests are served, and with which generation's interface.
mkdir -p "$scratch/versions"
cat > "$scratch/versions/CMakeLists.txt" << 'END'
cmake_minimum_required(VERSION 3.19)
project(versions C)
separate_arguments(request)
find_package(mimalloc ${request})
if(mimalloc_FOUND)
  get_target_property(definitions mimalloc INTERFACE_COMPILE_DEFINITIONS)
  message("found: ${definitions}")
else()
  message("found: no")
endif()
END
# request ANSWER WORD...: find_package(mimalloc WORD...) is answered with: 3, 2 or no.
request() {
  local answer
  configures versions "-Drequest=${*:2}" || fail "find_package(mimalloc ${*:2}): $(< "$scratch/cmake.log")"
  answer=$(sed -n 's/^found: //p' "$scratch/cmake.log")
  case "$answer" in
    definitions-NOTFOUND) answer=3 ;;
    MI_API_V2) answer=2 ;;
  esac
  [[ "$answer" == "$1" ]] || fail "find_package(mimalloc ${*:2}) is answered with '$answer', not '$1'"
}
for version in "" 3 3.0 3.3.2 3.4 3.4.0 "3.4.0 EXACT" "3.0...3.9" "2.1...4" "2...3.4.0"; do
  request 3 $version
done
for version in 2 2.0 2.1.9 2.4 "2.0...<3" "2.1...2.2"; do
  request 2 $version
done
for version in 1 1.9 2.5 3.4.1 3.5 4 "2.1 EXACT" "3.3 EXACT" "3.5...4" "2...<3.4.0" "1...2.2" "2.1...3"; do
  request no $version
done

# A program of the older generation, compiled as it is. And the two generations do not mix in one directory.
cat > "$scratch/versions/main.c" << 'END'
#include <mimalloc.h>
#ifndef MI_API_V2
#error "the interface is not that of 2.x"
#endif
int main(void) { return mi_heap_get_backing() != mi_heap_get_default(); }
END
cat >> "$scratch/versions/CMakeLists.txt" << 'END'
add_executable(older main.c)
target_link_libraries(older PRIVATE mimalloc-static)
if(again)
  find_package(mimalloc ${again} REQUIRED)
endif()
END
builds versions -Drequest=2.1
prints "" "$scratch/versions/build/older"
configures versions -Drequest=2.1 -Dagain=2.0 || fail "cmake: $(< "$scratch/cmake.log")"
if configures versions -Drequest=2.1 -Dagain=3.0; then fail "two generations in one directory"; fi
grep -q "not of the generation asked" "$scratch/cmake.log" || fail "cmake: $(< "$scratch/cmake.log")"
