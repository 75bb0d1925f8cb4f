#!/bin/sh
# Runs the request server end to end in both allocator modes, with its own clients and bad input, and once for other
# clients until it is told to end. Its own exit status says whether every answer was right; here the table, the JSON
# file and the refusals of bad arguments are checked. $1: the program. Only free ports of the loopback interface are
# used, and nothing depends on how long anything takes.
set -eu
server=$1
# Each failure at a limit is an error that debug builds print.
export MIMALLOC_SHOW_ERRORS=0
scratch=$(mktemp -d)
server_pid=
trap 'if [ -n "$server_pid" ]; then kill "$server_pid" 2>/dev/null || true; fi; rm -rf "$scratch"' EXIT

fail() {
  echo "FAILED: $*" >&2
  for file in "$scratch"/*; do echo "--- $file" >&2; cat "$file" >&2; done
  exit 1
}

# has FILE PATTERN: a line of the file is wholly the extended regular expression.
has() {
  grep -Eqx -- "$2" "$1" || fail "no line '$2' in $1"
}

# run_with NAME ARGUMENT...: must end with status 0; the table is left in $scratch/NAME.
run_with() {
  name=$1
  shift
  "$server" "$@" >"$scratch/$name" 2>"$scratch/$name.errors" || fail "status $? of: $*"
}

# refuses WORD ARGUMENT...: must end with status 64 and a message with the word.
refuses() {
  word=$1
  shift
  status=0
  "$server" "$@" >"$scratch/refusal" 2>&1 || status=$?
  [ "$status" -eq 64 ] || fail "status $status instead of 64 of: $*"
  grep -q -- "$word" "$scratch/refusal" || fail "no '$word' in the refusal of: $*"
}

# 390 requests are three rounds of all thirteen kinds of bad requests.
for allocator in heap malloc; do
  run_with "$allocator" --requests=390 --connections=4 --threads=2 --allocator="$allocator" --json="$scratch/$allocator.json"
  table=$scratch/$allocator
  has "$table" "allocator +$allocator"
  has "$table" 'requests +390'
  has "$table" '  answered with 200 +35[1-4]'  # 351, and resets that came too late to spoil the answer
  has "$table" '  answered with 400 +12'
  has "$table" '  answered with 404 +3'
  has "$table" '  answered with 405 +3'
  has "$table" '  answered with 413 +9'
  has "$table" '  answered with 503 +3'
  has "$table" '  dropped by the client +[6-9]'
  has "$table" 'errors, unexpected +0'
  has "$table" 'latency, median +[0-9.]+ ms'
  has "$table" 'latency, 99 % +[0-9.]+ ms'
  has "$table" 'allocations per request +[1-9][0-9.]+'
  has "$table" 'RSS at peak +[1-9][0-9]* KiB'
  [ "$(tail -n 1 "$table")" = 'heaps alive = 0' ] || fail "the last line of $table"
  [ ! -s "$table.errors" ] || fail "messages from $allocator mode"
  grep -Eq '"requests":[[:space:]]*390,' "$table.json" || fail "the requests in $table.json"
  grep -Eq '"heaps_alive":[[:space:]]*0$' "$table.json" || fail "the heaps in $table.json"
done
has "$scratch/heap" 'bytes of a request heap, peak +[1-9][0-9]* B'
has "$scratch/heap" 'heap destroy, median +[0-9]+ ns'
# No request's heap was above its limit, not even of those that were refused.
peak=$(sed -n 's/^bytes of a request heap, peak *\([0-9]*\) B$/\1/p' "$scratch/heap")
[ "$peak" -le 16777216 ] || fail "a request held $peak bytes"
# Larger requests and a larger limit: the same refusals.
run_with roomy --requests=390 --connections=4 --threads=2 --max-body=2097152 --max-memory=50331648
has "$scratch/roomy" '  answered with 503 +3'
has "$scratch/roomy" 'errors, unexpected +0'
run_with one_thread --requests=130 --connections=1 --threads=1
has "$scratch/one_thread" 'heaps alive = 0'

# For other clients: comes up on a free port, ends on SIGTERM with the table.
mkfifo "$scratch/first_line"
"$server" --serve=0 >"$scratch/first_line" 2>"$scratch/serve.errors" &
server_pid=$!
{
  read -r line || fail 'nothing from --serve'
  case $line in
    "POST to http://127.0.0.1:"*"/summary") ;;
    *) fail "the first line of --serve: $line" ;;
  esac
  kill -TERM "$server_pid"
  cat >"$scratch/serve"
} <"$scratch/first_line"
status=0
wait "$server_pid" || status=$?
server_pid=
[ "$status" -eq 0 ] || fail "status $status of --serve"
has "$scratch/serve" 'heaps alive = 0'

refuses requests --requests=0
refuses requests --requests=12x
refuses connections --connections=-1
refuses allocator --allocator=none
refuses serve --serve=65536
refuses unexpected stray
refuses unrecognized --no-such-option

status=0
"$server" --documents="$scratch/nowhere" --requests=1 >"$scratch/nowhere.table" 2>"$scratch/nowhere.errors" || status=$?
[ "$status" -eq 1 ] || fail "status $status without documents"
grep -q -- '--documents' "$scratch/nowhere.errors" || fail 'no hint at --documents'

"$server" --help >"$scratch/help"
grep -q -- '--allocator' "$scratch/help" || fail '--allocator is not in the help'
