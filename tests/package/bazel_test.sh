#!/usr/bin/env bash
# A workspace of someone else that depends on @mimalloc//:mimalloc, and on @mimalloc//:override for malloc itself: as
# README.md shows it, with a Bazel of its own beside the one that runs the test. And build options, which only a build of
# its own can set.
source tests/package/support.sh
tree=$(dirname "$(realpath WORKSPACE)")

workspace=$TEST_TMPDIR/user
mkdir -p "$workspace"
snippet 5 | sed "s|path = \"[^\"]*\"|path = \"$tree\"|" > "$workspace/WORKSPACE"
grep -q "path = \"$tree\"" "$workspace/WORKSPACE" || fail "the snippet changed: $(< "$workspace/WORKSPACE")"
snippet 6 > "$workspace/BUILD"
cat > "$workspace/main.c" << 'END'
#include <mimalloc.h>
#include <stdio.h>
#include <stdlib.h>
int main(void) {
  mi_heap_t* heap = mi_heap_new();
  void* block = malloc(10);
  if (heap == NULL || mi_heap_of(mi_heap_malloc(heap, 10)) != heap) return 1;
  mi_heap_destroy(heap);
  puts(mi_is_in_heap_region(block) ? "malloc is mimalloc's" : "malloc is the system's");
  free(block);
  return 0;
}
END

export HOME=$TEST_TMPDIR/home USER=${USER:-user}
mkdir -p "$HOME"
cd "$workspace"
# builds ARGUMENT...: the command ends with 0.
builds() {
  bazel --batch --output_user_root="$TEST_TMPDIR/bazel" build --spawn_strategy=local --repo_env=CC=gcc \
    --symlink_prefix="$TEST_TMPDIR/links-" "$@" > "$scratch/bazel.log" 2>&1
}

builds //:all || fail "bazel build: $(< "$scratch/bazel.log")"
prints "malloc is the system's" "$TEST_TMPDIR/links-bin/plain"
prints "malloc is mimalloc's" "$TEST_TMPDIR/links-bin/overridden"
if grep -E ': warning:|WARNING' "$scratch/bazel.log"; then fail "a user sees the warnings above"; fi

# Build options reach what is packed and installed; one that is not known ends the build.
builds --define MI_OVERRIDE=OFF --define MI_XMALLOC=ON @mimalloc//:tarball || fail "options: $(< "$scratch/bazel.log")"
tar -xf "$TEST_TMPDIR"/links-bin/external/mimalloc/mimalloc-*.tar.gz -C "$scratch"
installed=$(echo "$scratch"/mimalloc-*/)
gcc -I "$installed/include" main.c "$installed/lib/mimalloc.o" -o "$scratch/no_override" || fail "MI_OVERRIDE=OFF: build"
prints "malloc is the system's" "$scratch/no_override"
for form in libmimalloc.so libmimalloc.a mimalloc.o; do
  if nm --defined-only "$installed/lib/$form" | grep -q ' malloc$'; then fail "MI_OVERRIDE=OFF: $form defines malloc"; fi
done
printf '#include <mimalloc.h>\n#include <stdint.h>\nint main(void) { return mi_malloc(PTRDIFF_MAX) == NULL; }\n' > failing.c
gcc -w -I "$installed/include" failing.c "$installed/lib/libmimalloc.a" -o "$scratch/failing" || fail "MI_XMALLOC=ON: build"
code=0
(ulimit -c 0; exec "$scratch/failing") > "$scratch/failing.log" 2>&1 || code=$?
[[ $code -ge 128 ]] || fail "MI_XMALLOC=ON: a failed allocation does not end the program, but: $code"

if builds --define MI_XMALLOC=PERHAPS @mimalloc//:tarball; then fail "MI_XMALLOC=PERHAPS was accepted"; fi
grep -q "MI_XMALLOC=PERHAPS is not known" "$scratch/bazel.log" || fail "MI_XMALLOC=PERHAPS: $(< "$scratch/bazel.log")"
