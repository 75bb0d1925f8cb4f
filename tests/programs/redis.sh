# Runs redis-server on a socket in the working directory through the life that redis_test.sh tells; $1: the commands.
set -eu

commands=$1
server=

start() {
  redis-server --port 0 --unixsocket socket --io-threads 2 --io-threads-do-reads yes --save '' \
    --enable-debug-command yes --lazyfree-lazy-user-del yes --daemonize no "$@" >> log 2>&1 &
  server=$!
  local tries=0
  until redis-cli -s socket ping > /dev/null 2>&1; do
    kill -0 "$server" && ((++tries < 600)) || { tail log >&2; exit 1; }
    sleep 0.05
  done
}

stop() {
  redis-cli -s socket shutdown nosave
  wait "$server"
}

cli() { redis-cli -s socket "$@"; }

# idle FIELD: waits until the server has no such child any more.
idle() {
  local tries=0
  while cli info persistence | grep -q "^$1:1"; do
    ((++tries < 1200)) || { echo "$1 does not end" >&2; exit 1; }
    sleep 0.05
  done
}

trap 'if [ -n "$server" ]; then kill "$server" 2> /dev/null || true; fi' EXIT

start --appendonly yes
# The benchmark's keys are random: its data is dropped again. The children's snapshots are taken while it writes.
for round in 1 2; do
  redis-benchmark -s socket --threads 3 -c 30 -n 8000 -r 20000 -d $((round * 150)) -P 16 -q \
    -t set,get,lpush,rpop,sadd,hset,zadd,lrange_100,mset > benchmark &
  benchmark=$!
  cli bgsave > /dev/null || true
  idle rdb_bgsave_in_progress
  cli bgrewriteaof > /dev/null || true
  wait "$benchmark"
  idle aof_rewrite_in_progress
  echo "benchmark: $(tr '\r' '\n' < benchmark | grep -c 'requests per second')"
  cli info persistence | grep -E '^(rdb_last_bgsave_status|aof_last_bgrewrite_status|aof_last_write_status)' | tr -d '\r'
  cli flushall async
done
cli < "$commands" > replies
sed 's/[0-9]*-[0-9]*//' replies | grep -vc ERR
cli debug digest | tee digest
cli dbsize
cli debug reload
cmp <(cli debug digest) digest
cli bgrewriteaof > /dev/null
idle aof_rewrite_in_progress
cli save
stop
start --appendonly yes
cmp <(cli debug digest) digest && echo "the same from the log"
cli script flush async
cli memory doctor > /dev/null
stop
rm -r appendonlydir
start
cmp <(cli debug digest) digest && echo "the same from the snapshot"
cli flushall sync
cli dbsize
stop
server=
