# What the tests of the installation share; sourced by each. Installs into $prefix, a directory of the test's own, and
# from then on uses nothing but that directory, the compiler and what the test names.
set -euo pipefail

export LC_ALL=C.UTF-8
unset CMAKE_PREFIX_PATH CPATH C_INCLUDE_PATH CPLUS_INCLUDE_PATH DESTDIR LD_LIBRARY_PATH LD_PRELOAD LIBRARY_PATH
unset mimalloc_DIR mimalloc_ROOT

readonly tests=$PWD/tests/package
readonly scratch=$TEST_TMPDIR/scratch
readonly prefix=$TEST_TMPDIR/prefix
mkdir -p "$scratch"

fail() {
  echo "FAILED: $1" >&2
  exit 1
}

# install_into PREFIX ARGUMENT...: the command of README.md, as `bazel run` calls it.
install_into() {
  bazel/install.sh --prefix "$@" > "$scratch/install.log" 2>&1 || fail "install --prefix $*: $(< "$scratch/install.log")"
}

# c NAME SOURCE FLAG..., cxx NAME SOURCE FLAG...: builds $scratch/NAME with every warning an error, and only
# $prefix/include added to the compiler's own directories.
c() {
  gcc -std=gnu11 -Wall -Wextra -Werror "-I$prefix/include" "${@:2:1}" -o "$scratch/$1" "${@:3}" || fail "$1: build"
}
cxx() {
  g++ -std=c++17 -Wall -Wextra -Werror "-I$prefix/include" "${@:2:1}" -o "$scratch/$1" "${@:3}" || fail "$1: build"
}

# prints TEXT COMMAND...: it ends with 0 and prints TEXT, and nothing else to either stream.
prints() {
  local text=$1 code=0 output
  shift
  output=$("$@" 2>&1) || code=$?
  [[ $code -eq 0 && "$output" == "$text" ]] || fail "exit code $code, not 0, or not '$text', of: $*"$'\n'"$output"
}

# loads FILE: the program or library needs this prefix's library. loads_none FILE: it needs none of that name.
loads() {
  [[ "$(ldd "$1")" == *"libmimalloc.so.3 => $prefix/lib/libmimalloc.so.3 "* ]] || fail "$1 loads: $(ldd "$1")"
}
loads_none() {
  [[ "$(ldd "$1" 2>&1 || true)" != *mimalloc* ]] || fail "$1 loads: $(ldd "$1")"
}

# snippet N: the Nth block of code of README.md's section "Four ways in", as it stands there.
snippet() {
  awk -v wanted="$1" '
    /^###? / { inside = $0 == "### Four ways in" }
    inside && /^```/ { if (open) { open = 0 } else { open = 1; n++ } next }
    open && n == wanted { print }
  ' README.md > "$scratch/snippet"
  [[ -s "$scratch/snippet" ]] || fail "README.md has no snippet $1"
  cat "$scratch/snippet"
}
