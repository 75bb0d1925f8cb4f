#!/bin/bash
# Heap mode against malloc mode of the request server, under wrk: processor time of the server per request and its
# peak RSS. Each of the pairs runs both modes, the order alternating, so that a machine that gets slower or faster
# in between tilts nothing; the figures are the medians of the pairs' ratios. Ends with status 1 if a request failed
# or a heap was left over, whatever the figures.
#
# usage: server_bench.sh REQUEST_SERVER DOCUMENTS_DIRECTORY [PAIRS [SECONDS [CONNECTIONS]]]
set -euo pipefail

if [ $# -lt 2 ]; then
  sed -n 's/^# usage: /usage: /p' "$0" >&2
  exit 64
fi
server=$1
documents=("$2"/*.json)
pairs=${3:-7}
seconds=${4:-5}
connections=${5:-16}
script=$(dirname "$0")/server_post.lua
scratch=$(mktemp -d)
server_pid=
trap 'if [ -n "$server_pid" ]; then kill "$server_pid" 2>/dev/null || true; fi; rm -rf "$scratch"' EXIT

fail() {
  echo "server_bench: $*" >&2
  exit 1
}
[ -x "$server" ] || fail "'$server' is not a program"
[ -f "${documents[0]}" ] || fail "no *.json in '$2'"
command -v wrk >/dev/null || fail "wrk is not installed (Debian package wrk)"

# cpu_ticks PID: user and system time so far. The fields are counted after the command's name, which may hold blanks.
cpu_ticks() {
  local stat
  stat=$(<"/proc/$1/stat")
  set -- ${stat##*) }
  echo $((${12} + ${13}))
}

# drive SECONDS: runs wrk and leaves the number of requests in $requests.
drive() {
  wrk -t 2 -c "$connections" -d "$1s" -s "$script" "$url" -- "${documents[@]}" >"$scratch/wrk" 2>&1 ||
    fail "wrk failed: $(cat "$scratch/wrk")"
  local line
  line=$(grep '^requests ' "$scratch/wrk") || fail "wrk printed no result: $(cat "$scratch/wrk")"
  requests=$(echo "$line" | cut -d ' ' -f 2)
  [ "${line##* }" = 0 ] || fail "requests failed: $line"
  [ "$requests" -gt 0 ] || fail "no request was served"
}

# measure MODE: leaves microseconds of processor time per request in $cpu and kibibytes of peak RSS in $rss.
measure() {
  rm -f "$scratch/out"
  mkfifo "$scratch/out"
  "$server" --serve=0 --threads=2 --allocator="$1" >"$scratch/out" &
  server_pid=$!
  exec 3<"$scratch/out"
  read -r url <&3 || fail "the server did not start"
  url=${url#POST to }
  drive 1 # warm
  local before after
  before=$(cpu_ticks "$server_pid")
  drive "$seconds"
  after=$(cpu_ticks "$server_pid")
  cpu=$(awk -v t=$((after - before)) -v hz="$(getconf CLK_TCK)" -v n="$requests" 'BEGIN { print t / hz * 1e6 / n }')
  rss=$(awk '/^VmHWM:/ { print $2 }' "/proc/$server_pid/status")
  kill -TERM "$server_pid"
  local last
  last=$(tail -n 1 <&3)
  exec 3<&-
  wait "$server_pid" || fail "the server ended with status $?"
  server_pid=
  [ "$last" = 'heaps alive = 0' ] || fail "the server's last line: $last"
}

median() {
  sort -g | awk '{ v[NR] = $1 } END { m = int((NR + 1) / 2); print NR % 2 ? v[m] : (v[m] + v[m + 1]) / 2 }'
}

printf '%4s %16s %16s %8s %14s %14s %8s\n' pair 'heap us/request' 'malloc us/request' ratio 'heap KiB' 'malloc KiB' ratio
for ((pair = 1; pair <= pairs; pair++)); do
  order=(heap malloc)
  if ((pair % 2 == 0)); then order=(malloc heap); fi
  declare -A cpu_of rss_of
  for mode in "${order[@]}"; do
    measure "$mode"
    cpu_of[$mode]=$cpu
    rss_of[$mode]=$rss
  done
  awk -v n="$pair" -v a="${cpu_of[heap]}" -v b="${cpu_of[malloc]}" -v c="${rss_of[heap]}" -v d="${rss_of[malloc]}" \
    'BEGIN { printf "%4d %16.1f %17.1f %8.3f %14d %14d %8.3f\n", n, a, b, a / b, c, d, c / d }' | tee -a "$scratch/pairs"
done
printf 'server CPU per request, heap / malloc, median of %d pairs: %s\n' "$pairs" "$(awk '{ print $4 }' "$scratch/pairs" | median)"
printf 'server peak RSS,        heap / malloc, median of %d pairs: %s\n' "$pairs" "$(awk '{ print $7 }' "$scratch/pairs" | median)"
