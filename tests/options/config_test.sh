#!/usr/bin/env bash
# mi/internal/config.h refuses values and combinations of the build's macros that nobody meant, with a sentence, for
# whoever compiles the library without Bazel.
set -euo pipefail

compile() { gcc -std=c11 -fsyntax-only -I. "$@" -x c - <<< "#include \"mi/internal/config.h\"" 2>&1; }

fail() {
  echo "FAILED: $1" >&2
  exit 1
}

accepted() { [[ -z "$(compile "$@")" ]] || fail "$* is refused: $(compile "$@")"; }
# refused SENTENCE FLAG...
refused() {
  local sentence=$1 message
  shift
  if message=$(compile "$@"); then fail "$* is accepted"; fi
  [[ "$message" == *"#error \"$sentence"* ]] || fail "$*: message is: $message"
}

accepted
accepted -DMI_DEBUG=3 -DMI_PADDING -DMI_XMALLOC=1 -DMI_MIN_ALIGN=8 -DMI_SECURE=0
accepted -DMI_GUARDED=1 -DMI_PADDING=1
accepted -DMI_TRACK_VALGRIND=1
accepted -DMI_TRACK_ASAN=1
accepted -DMI_TRACK_TSAN=1 -fsanitize=thread
for name in MI_PADDING MI_GUARDED MI_TRACK_VALGRIND MI_TRACK_ASAN MI_TRACK_TSAN MI_XMALLOC; do
  for value in 2 ON yes; do refused "$name must be 0 or 1" "-D$name=$value"; done
done
for value in 4 8 ON; do refused "MI_DEBUG must be" "-DMI_DEBUG=$value"; done
for value in 0 4 32 ON; do refused "MI_MIN_ALIGN must be 8 or 16" "-DMI_MIN_ALIGN=$value"; done
for value in 5 ON; do refused "MI_SECURE must be 0, 1, 2, 3 or 4" "-DMI_SECURE=$value"; done
for value in 1 4; do accepted "-DMI_SECURE=$value"; done
refused "MI_SECURE does not go with" -DMI_SECURE=4 -DMI_PADDING=1
refused "MI_TRACK_VALGRIND, MI_TRACK_ASAN and MI_TRACK_TSAN exclude each other" -DMI_TRACK_VALGRIND=1 -DMI_TRACK_ASAN=1
refused "MI_GUARDED does not go with MI_TRACK_VALGRIND" -DMI_GUARDED=1 -DMI_TRACK_VALGRIND=1
refused "MI_TRACK_TSAN needs -fsanitize=thread" -DMI_TRACK_TSAN=1
refused "MI_TRACK_ASAN needs -fno-sanitize=address" -DMI_TRACK_ASAN=1 -fsanitize=address
