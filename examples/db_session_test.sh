#!/bin/sh
# SQLite connections in heaps of their own, at a small scale. The program's status says whether all books balance, each
# query that is too much ended with SQLITE_NOMEM, and nothing is left; here the table and what is refused are checked.
# Nothing depends on how long anything takes. $1: the program.
set -eu
program=$1
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# Each failure at a limit is an error that debug builds print.
export MIMALLOC_SHOW_ERRORS=0 TMPDIR="$scratch"

fail() {
  echo "FAILED: $*" >&2
  for file in "$scratch"/*; do [ -f "$file" ] && { echo "--- $file" >&2; cat "$file" >&2; }; done
  exit 1
}

# has FILE LINE: a line of the file, as an extended regular expression.
has() {
  grep -Eqx -- "$2" "$1" || fail "no line '$2' in $1"
}

# run_with NAME ARGUMENT...: must end with status 0; the table is left in $scratch/NAME.
run_with() {
  name=$1
  shift
  "$program" "$@" >"$scratch/$name" 2>"$scratch/$name.errors" || fail "status $? of: $*"
  [ ! -s "$scratch/$name.errors" ] || fail "messages of: $*"
  has "$scratch/$name" 'connections refused for lack of memory +[1-9]'
  has "$scratch/$name" 'blocks that a closed session left to another +[1-9][0-9]*'
  has "$scratch/$name" 'blocks left = 0'
  has "$scratch/$name" 'heaps alive = 0'
}

refuses() {
  word=$1
  shift
  status=0
  "$program" "$@" >"$scratch/refusal" 2>&1 || status=$?
  [ "$status" -eq 64 ] || fail "status $status instead of 64 of: $*"
  grep -q -- "$word" "$scratch/refusal" || fail "no '$word' in the refusal of: $*"
}

# Every third session tries such a query: both of it, inside a transaction and outside, and each kind of query.
run_with threads --threads=3 --sessions=9 --runaway-every=3 --limit=2097152
has "$scratch/threads" 'sessions +27'
has "$scratch/threads" 'transfers committed +27'
has "$scratch/threads" 'queries stopped with SQLITE_NOMEM +9'
run_with alone --threads=1 --sessions=8 --runaway-every=1 --limit=1048576
has "$scratch/alone" 'queries stopped with SQLITE_NOMEM +8'
run_with none --threads=2 --sessions=2 --runaway-every=0
has "$scratch/none" 'queries stopped with SQLITE_NOMEM +0'

# The database went with its directory.
[ -z "$(find "$scratch" -name 'db_session.*' -print)" ] || fail 'files are left'

refuses threads --threads=0
refuses sessions --sessions=many
refuses limit --limit=1000
refuses unexpected more
"$program" --help >"$scratch/help" || fail "status $? of --help"
grep -q -- '--runaway-every=K' "$scratch/help" || fail "--help"
