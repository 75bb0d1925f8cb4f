#!/bin/sh
# Lua VMs in heaps of their own, at a small scale: the same pages in every way, with Lua's collector stopped and running,
# runaway scripts stopped at small limits, and what is refused. The program's status says whether all went as it should;
# nothing here depends on how long anything takes. $1: the program.
set -eu
program=$1
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# Each failure at a limit is an error that debug builds print.
export MIMALLOC_SHOW_ERRORS=0

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
  [ "$(tail -n 1 "$scratch/$name")" = 'heaps alive = 0' ] || fail "the last line of: $*"
}

# refuses STATUS WORD ARGUMENT...: must end with this status and a message with the word.
refuses() {
  expected=$1
  word=$2
  shift 2
  status=0
  "$program" "$@" >"$scratch/refusal" 2>&1 || status=$?
  [ "$status" -eq "$expected" ] || fail "status $status instead of $expected of: $*"
  grep -q -- "$word" "$scratch/refusal" || fail "no '$word' in the refusal of: $*"
}

for collector in stop run; do
  run_with "$collector" --rounds=1 --requests=12 --runaways=10 --collector="$collector"
  has "$scratch/$collector" 'a request +heap, dropped +heap, lua_close +malloc, lua_close'
  has "$scratch/$collector" 'whole, microseconds( +[0-9]+[.][0-9]){3}'
  has "$scratch/$collector" 'runaway scripts +10 stopped at the limit, in a row, with a request after each: all as expected'
done

# Its own documents and script, under a limit that holds little more than a VM.
mkdir "$scratch/documents"
printf '{"greeting": "caf\\u00e9 <&>", "numbers": [1, 2.5, -3e2], "none": null, "list": [{"a": 1}, {"b": "x"}]}' \
  >"$scratch/documents/small.json"
run_with small --rounds=2 --requests=3 --runaways=50 --limit=524288 --documents="$scratch/documents"
has "$scratch/small" 'held by one, at most +([0-9]|[1-9][0-9]+) of 512 KiB'
printf 'local body = ...\nif #body < 10 then error("short") end\nreturn body:upper()\n' >"$scratch/own.lua"
run_with own --rounds=1 --requests=1 --runaways=5 --script="$scratch/own.lua"

# A page that cannot be made, a script that is none, documents and limits that will not do.
printf '{"a": [1, 2' >"$scratch/documents/broken.json"
refuses 1 "broken.json: line 1: ',' or '\]' expected" --rounds=1 --requests=2 --runaways=0 --documents="$scratch/documents"
printf 'local = 1' >"$scratch/none.lua"
refuses 1 'none.lua:1:' --script="$scratch/none.lua"
refuses 1 'No such file' --script="$scratch/missing.lua"
mkdir "$scratch/empty"
refuses 1 'no documents' --documents="$scratch/empty"
refuses 1 'no memory for a VM' --rounds=1 --requests=1 --runaways=0 --limit=4096
refuses 1 'not enough memory' --rounds=1 --requests=1 --runaways=0 --limit=65536
refuses 64 rounds --rounds=0
refuses 64 requests --requests=12x
refuses 64 limit --limit=-1
refuses 64 collector --collector=pause
refuses 64 unexpected more
"$program" --help >"$scratch/help" || fail "status $? of --help"
grep -q -- '--runaways=N' "$scratch/help" || fail "--help"
