#!/bin/bash
# The keys of a key_vault are not in its core files: of one that aborted, and of one that a debugger took while it was
# signing. What is looked for: the DER form of each private key, and of each private number every 16 bytes, as DER has
# them (big end first) and as the words of OpenSSL's numbers have them (little end first). In each core file there must
# be the control, bytes that lie in a plain heap. $1: the program, $2: the searcher.
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
# look CORE REVEALED: nothing but the control is in the file.
look() {
  /usr/bin/python3 "$searcher" "$1" "$2" || fail "$1"
  cores=$((cores + 1))
}

# A core file by abort, where the system writes one into the folder.
if ulimit -c unlimited 2> /dev/null && [ "$(cat /proc/sys/kernel/core_pattern)" = core ]; then
  (printf '0 a\n1 b\n2 c\n3 d\nabort\n' | "$program" --reveal revealed1 6 > out1 2>&1) || true
  core=$(find . -name 'core*' | head -n 1)
  [ -n "$core" ] || fail "no core file, though the system would write one: $(cat out1)"
  look "$core" revealed1
else
  echo "the system writes no core file here: by a debugger only"
fi

# Core files of a program that is signing, by gdb. It may not be allowed to look at another process.
if command -v gcore > /dev/null; then
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
  for n in 1 2; do
    gcore -o "dump$n" "$vault" > gcore.log 2>&1 || echo "gcore: $(tail -n 2 gcore.log)"
  done
  kill -0 "$vault" || fail "the vault ended while it was looked at: $(cat out2)"
  kill "$vault"
  exec 3>&-
  wait "$vault" 2> /dev/null || true
  for dump in dump*; do
    [ ! -e "$dump" ] || look "$dump" revealed2
  done
fi
[ "$cores" -gt 0 ] || fail "no core file could be had here, neither by abort nor by gcore"
echo "$cores core files, no key in any"
