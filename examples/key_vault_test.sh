#!/bin/bash
# The keys of a key_vault are not in its core files: of one that aborted, and of one that aborted, or that a debugger
# took, while it was signing. What is looked for: the DER form of each private key, and of each private number every 16
# bytes, as DER has them (big end first) and as the words of OpenSSL's numbers have them (little end first). In each core
# file there must be the control, bytes that lie in a plain heap; but for those of gdb where it says that it could not
# read all: it ends a mapping at the first page that it may not read, of which the secure build has many, while the kernel
# goes on behind it. $1: the program, $2: the searcher.
set -euo pipefail
program=$(realpath "$1") searcher=$(realpath "$2")
scratch=$(mktemp -d "${TEST_TMPDIR:-/tmp}/key_vault.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
# A debugger writes reserved address space to its core files as well.
export MIMALLOC_ARENA_RESERVE=16M

fail() {
  echo "FAILED: $*" >&2
  exit 1
}

# It signs, and says what it has.
printf '0 one\n1 two\n2 three\n9 four\n' | "$program" 3 > answers || fail "exit code $?"
grep -q '^protected: .*\[wiped\].*\[no swap\].*\[no core file\].*\[not in the child\]' answers || fail "$(cat answers)"
[ "$(grep -c '^signed by [012]: ' answers)" -eq 3 ] || fail "$(cat answers)"
grep -q '^no such key$' answers || fail "$(cat answers)"

cores=0
# look CORE REVEALED [--partial]: nothing but the control is in the file; --partial: not even that need be.
look() {
  /usr/bin/python3 "$searcher" "$@" || fail "$1"
  cores=$((cores + 1))
}

# Core files by abort, where the system writes them into the folder.
can_dump=false
if ulimit -c unlimited 2> /dev/null && [ "$(cat /proc/sys/kernel/core_pattern)" = core ]; then
  can_dump=true
else
  echo "the system writes no core file here: by a debugger only"
fi
# core_of OUTPUT REVEALED: looks at the core file that there must be now.
core_of() {
  local core
  core=$(find . -name 'core*' | head -n 1)
  [ -n "$core" ] || fail "no core file, though the system would write one: $(cat "$1")"
  look "$core" "$2"
  rm "$core"
}

if $can_dump; then
  (printf '0 a\n1 b\n2 c\n3 d\nabort\n' | "$program" --reveal revealed1 6 > out1 2>&1) || true
  core_of out1 revealed1
fi

# One that is signing all the time: by gdb, which may not be allowed to look at another process, and by its abort.
mkfifo requests
"$program" --reveal revealed2 6 < requests > out2 2>&1 &
vault=$!
exec 3> requests
echo "busy signing" >&3
for _ in $(seq 600); do
  grep -q '^busy$' out2 && break
  sleep 0.1
done
grep -q '^busy$' out2 || fail "it does not sign: $(cat out2)"
if command -v gcore > /dev/null; then
  gcore -o dump "$vault" > gcore.log 2>&1 || echo "gcore: $(tail -n 2 gcore.log)"
fi
kill -0 "$vault" || fail "the vault ended while it was looked at: $(cat out2)"
kill -ABRT "$vault"
exec 3>&-
wait "$vault" 2> /dev/null || true
# Not the page for old system calls, which is nobody's.
partial=$(grep 'Memory read failed' gcore.log 2> /dev/null | grep -v 0xffffffffff600000 || true)
for dump in dump*; do
  [ ! -e "$dump" ] || look "$dump" revealed2 ${partial:+--partial}
done
if $can_dump; then core_of out2 revealed2; fi
[ "$cores" -gt 0 ] || fail "no core file could be had here, neither by abort nor by gcore"
echo "$cores core files, no key in any"
