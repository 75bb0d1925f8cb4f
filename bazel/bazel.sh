#!/usr/bin/env bash
# Calls Debian's Bazel so that the result does not depend on who calls: the environment's compilers, search paths
# and Java are put aside, and a home directory that is missing or cannot be written is no obstacle.
#
#   bazel/bazel.sh COMMAND ARGUMENT...
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

unset CC CXX CFLAGS CXXFLAGS LDFLAGS CPATH C_INCLUDE_PATH CPLUS_INCLUDE_PATH LIBRARY_PATH LD_LIBRARY_PATH LD_PRELOAD
unset BAZEL_COMPILER BAZEL_CONLYOPTS BAZEL_CXXOPTS BAZEL_LINKLIBS BAZEL_LINKOPTS BAZEL_SH GCOV
unset USE_BAZEL_VERSION JAVA_HOME JAVA_TOOL_OPTIONS _JAVA_OPTIONS PKG_CONFIG_PATH PKG_CONFIG_LIBDIR
export PATH="/usr/bin:/bin:/usr/sbin:/sbin${PATH:+:$PATH}"
export USER="${USER:-$(id -un 2> /dev/null || echo user)}"

startup=()
cache=${XDG_CACHE_HOME:-${HOME:+$HOME/.cache}}
if [[ -z "$cache" ]] || ! mkdir -p "$cache/bazel" 2> /dev/null || [[ ! -w "$cache/bazel" ]]; then
  cache=${TMPDIR:-/var/tmp}/bazel-cache-$(id -u)
  mkdir -m 700 "$cache" 2> /dev/null || true
  if [[ ! -d "$cache" || ! -O "$cache" ]]; then
    echo "bazel.sh: $cache cannot be made or belongs to someone else; set HOME or TMPDIR" >&2
    exit 1
  fi
  export HOME="$cache"
  startup+=("--output_user_root=$cache")
fi

# Progress is for people who watch.
quiet=()
[[ -t 2 ]] || quiet=(--noshow_progress)

command=$1
shift
exec bazel "${startup[@]}" "$command" "${quiet[@]}" "$@"
