#!/usr/bin/env bash
# Runs a program with one bug (bug.c) and one without (clean.c) under a tool, or in a library that checks by itself, and
# asserts the exact diagnosis: kind, offset and block size.
#
#   tool_test.sh valgrind|asan|padded|guarded|debug3 BUG CLEAN
set -uo pipefail

readonly tool=$1 bug=$2 clean=$3
failures=0
cases=0

fail() {
  echo "FAILED: $1" >&2
  sed 's/^/    /' "$TEST_TMPDIR/out" >&2
  failures=$((failures + 1))
}

case $tool in
  valgrind) run=(valgrind --error-exitcode=99 --leak-check=full --show-leak-kinds=all --errors-for-leak-kinds=definite) ;;
  *) run=() ;;
esac
export ASAN_OPTIONS=exitcode=99

# sees CODE PATTERN... -- ARGUMENT...: `bug ARGUMENT...` ends with this exit code, and its output has a line for each
# pattern (extended regular expressions), in this order.
sees() {
  local code=$1 patterns=() got=0 line=0 found
  shift
  while [[ $1 != -- ]]; do
    patterns+=("$1")
    shift
  done
  shift
  cases=$((cases + 1))
  "${run[@]}" "$bug" "$@" > "$TEST_TMPDIR/out" 2>&1 || got=$?
  if [[ $got -ne $code ]]; then
    fail "bug $*: exit code $got, not $code"
    return
  fi
  for pattern in "${patterns[@]}"; do
    found=$(tail -n +$((line + 1)) "$TEST_TMPDIR/out" | grep -nE -m1 "$pattern" | cut -d: -f1)
    if [[ -z $found ]]; then
      fail "bug $*: no line like \"$pattern\""
      return
    fi
    line=$((line + found))
  done
}

# silent PATTERN -- PROGRAM ARGUMENT...: ends with 0, and no line is like the pattern.
silent() {
  local pattern=$1 got=0
  shift 2
  cases=$((cases + 1))
  "${run[@]}" "$@" > "$TEST_TMPDIR/out" 2>&1 || got=$?
  [[ $got -eq 0 ]] || fail "$*: exit code $got"
  ! grep -qE "$pattern" "$TEST_TMPDIR/out" || fail "$*: a line like \"$pattern\""
}

number() { sed -E ':a; s/^([0-9]+)([0-9]{3})/\1,\2/; ta' <<< "$1"; } # as memcheck writes it

case $tool in
  valgrind)
    while read -r size place; do
      n=$(number "$size")
      at="at 0x[0-9A-F]+: "
      in=("$size" $place)
      sees 99 "Invalid read of size 1" "${at}read_at" "Address .* is $(number $((size / 2))) bytes inside a block of size $n free'd" \
        "mi_free" "Block was alloc'd" "by .*: allocate" -- read_after_free "${in[@]}"
      sees 99 "Invalid write of size 1" "${at}write_at" "Address .* is 0 bytes after a block of size $n alloc'd" \
        "by .*: allocate" -- write_past_end "${in[@]}"
      sees 99 "Invalid free" "Address .* is 0 bytes inside a block of size $n free'd" -- double_free "${in[@]}"
      [[ -n $place ]] || continue
      sees 99 "Invalid read of size 1" "${at}read_at" "Address .* is $(number $((size / 2))) bytes inside a block of size $n free'd" \
        "mi_heap_destroy" "Block was alloc'd" "mi_heap_malloc" -- read_after_destroy "${in[@]}"
      sees 99 "Invalid read of size 1" "${at}read_at" "Address .* is $(number $((size / 2))) bytes inside a block of size $n free'd" \
        "mi_heap_reset" -- read_after_reset "${in[@]}"
    done << END
100
8 heap
1000 paged
300000 heap
END
    sees 99 "Invalid write of size 1" "Address .* is 8 bytes inside a block of size 100 free'd" -- write_after_free 100
    sees 99 "Invalid read of size 1" "Address .* is 3 bytes after a block of size 100 alloc'd" -- read_past_end 100 heap
    sees 99 "Invalid write of size 1" "Address .* is 1 bytes before a block of size 100 alloc'd" -- write_before_start 100
    sees 99 "Invalid read of size 1" "Address .* is 0 bytes inside a block of size 100 free'd" "mi_realloc" -- read_after_realloc 100
    sees 99 "Invalid read of size 1" "Address .* is 0 bytes inside a block of size 3,000 free'd" -- read_after_realloc 3000 heap
    sees 99 "Conditional jump or move depends on uninitialised" "branch_on" -- uninitialised 100
    sees 99 "Invalid free" "Address .* is 16 bytes inside a block of size 100 alloc'd" -- free_inside 100
    sees 99 "100 bytes in 1 blocks are definitely lost" "by .*: leak" "200 bytes in 1 blocks are definitely lost" -- leak 100
    sees 99 "50 bytes in 1 blocks are definitely lost" "mi_heap_malloc" "100 bytes in 1 blocks are definitely lost" -- leak 50 heap
    sees 99 "bytes in 1 blocks are definitely lost" -- leak 1000 paged
    for place in "" heap paged; do
      silent "Invalid|uninitialised|lost|reachable|Warning" -- "$bug" none 100 $place
    done
    silent "Invalid|uninitialised|lost|reachable|Warning" -- "$clean"
    grep -q "in use at exit: 0 bytes in 0 blocks" "$TEST_TMPDIR/out" || fail "clean: blocks are left"
    ;;
  asan)
    while read -r size place; do
      in=("$size" $place)
      sees 99 "mimalloc: 0x[0-9a-f]+ is $((size / 2)) bytes inside a block of $size bytes that was freed" \
        "use-after-poison" "READ of size 1" "in read_at" -- read_after_free "${in[@]}"
      sees 99 "mimalloc: 0x[0-9a-f]+ is 0 bytes after a block of $size bytes$" \
        "use-after-poison" "WRITE of size 1" "in write_at" -- write_past_end "${in[@]}"
      sees 99 "mimalloc: 0x[0-9a-f]+ is 0 bytes inside a block of $size bytes that was freed" \
        "use-after-poison" "mi_free" -- double_free "${in[@]}"
      [[ -n $place ]] || continue
      sees 99 "mimalloc: 0x[0-9a-f]+ is $((size / 2)) bytes inside a block of $size bytes that was freed" \
        "use-after-poison" "READ of size 1" "in read_at" -- read_after_destroy "${in[@]}"
      sees 99 "use-after-poison" "READ of size 1" "in read_at" -- read_after_reset "${in[@]}"
    done << END
100
8 heap
1000 paged
300000 heap
END
    sees 99 "is 8 bytes inside a block of 100 bytes that was freed" "use-after-poison" "WRITE of size 1" -- write_after_free 100
    sees 99 "is 3 bytes after a block of 100 bytes$" "use-after-poison" "READ of size 1" -- read_past_end 100 heap
    sees 99 "use-after-poison" "WRITE of size 1" "in write_at" -- write_before_start 100
    sees 99 "is 0 bytes inside a block of 100 bytes that was freed" "READ of size 1" -- read_after_realloc 100
    for place in "" heap paged; do
      silent "ERROR|mimalloc:" -- "$bug" none 100 $place
    done
    silent "ERROR|mimalloc:" -- "$clean"
    ;;
  padded)
    while read -r size place; do
      in=("$size" $place)
      # The bytes between a block and its tail, and the tail.
      sees 0 "mimalloc: error: overflow: byte $size of block 0x[0-9a-f]+ of $size bytes" -- write_past_end "${in[@]}"
      if ((size < 65536)); then
        sees 0 "mimalloc: error: mi_free: double free of 0x[0-9a-f]+, a block of $size bytes" -- double_free "${in[@]}"
      else # its pages went back
        sees 0 "mimalloc: error: mi_free: invalid pointer 0x[0-9a-f]+: not a block" -- double_free "${in[@]}"
      fi
      [[ -n $place ]] || continue
      sees 0 "mimalloc: error: overflow: byte $size of block 0x[0-9a-f]+ of $size bytes" -- write_past_end_then_destroy "${in[@]}"
    done << END
100
5 heap
1001 paged
300001 heap
END
    # A block that leaves no room before its tail: the tail itself is overwritten.
    sees 0 "mi_free: what lies behind the block at 0x[0-9a-f]+ was overwritten" -- write_past_end 16
    sees 0 "mimalloc: error: mi_free: .*0x[0-9a-f]+" -- free_inside 100
    for place in "" heap paged; do
      silent "mimalloc:" -- "$bug" none 100 $place
    done
    silent "mimalloc:" -- "$clean"
    ;;
  guarded)
    # The program stops in the very access: signal 11. What the report says else is in fault_test.sh.
    export MIMALLOC_GUARDED_SAMPLE_RATE=1 MIMALLOC_GUARDED_PRECISE=1
    while read -r size place; do
      in=("$size" $place)
      sees 139 "overflow: write at .* 0 bytes after the block at .* of $size bytes" -- write_past_end "${in[@]}"
      sees 139 "overflow: read at .* 3 bytes after the block at .* of $size bytes" -- read_past_end "${in[@]}"
      sees 139 "use after free: read at .* $((size / 2)) bytes inside the block at .* of $size bytes" -- read_after_free "${in[@]}"
      sees 139 "use after free: read at .* 0 bytes inside the block at .* of $size bytes" "freed by" -- read_after_realloc "${in[@]}"
      sees 0 "error: double free of .* a block of $size bytes" "by thread" "allocated by" "freed by" -- double_free "${in[@]}"
      [[ -z $place ]] || sees 139 "use after free: read at " "freed with its heap" -- read_after_destroy "${in[@]}"
      silent "mimalloc:" -- "$bug" none "${in[@]}"
    done << END
100
8 heap
1000 paged
4096
300001 heap
5000000
END
    silent "mimalloc:" -- "$clean"
    sees 0 "error: mi_free: invalid pointer .*, 16 bytes inside the block .* of 100 bytes" -- free_inside 100
    # Aligned to 16, the last bytes before the guard page belong to nobody, and those before the block: they are looked at
    # when it is freed.
    export MIMALLOC_GUARDED_PRECISE=0
    sees 0 "error: overflow: byte 100 of block .* of 100 bytes .* was written" -- write_past_end 100
    sees 0 "error: underflow: byte -1 of block .* of 100 bytes .* was written" -- write_before_start 100
    sees 139 -- write_past_end 112
    # Outside of the bounds, or where nothing is sampled, nothing is guarded; out of mappings, neither.
    MIMALLOC_GUARDED_MIN=200 silent "mimalloc:" -- "$bug" write_past_end 112
    MIMALLOC_GUARDED_MAX=100 silent "mimalloc:" -- "$bug" write_past_end 112
    MIMALLOC_GUARDED_SAMPLE_RATE=0 silent "mimalloc:" -- "$bug" write_past_end 112
    ;;
  debug3)
    # A link of a free list is overwritten.
    sees 134 "mimalloc: a free list of the page at 0x[0-9a-f]+, blocks of 112 bytes, was overwritten" -- write_to_link 100
    sees 134 "mimalloc: a free list of the page at 0x[0-9a-f]+, blocks of 1024 bytes" -- write_to_link 1000
    silent "mimalloc:" -- "$bug" none 100
    silent "mimalloc:" -- "$clean"
    ;;
esac

if ((failures > 0)); then
  echo "$failures of $cases cases failed" >&2
  exit 1
fi
echo "$cases cases"
