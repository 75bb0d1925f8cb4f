# Small work for four programs, done with every block guarded; $1: a stream that makes a repository, $2: commands for
# redis, $3: this directory.
set -eu

/usr/bin/python3 - << 'END'
import collections, gzip, hashlib, json, re, threading
data = {str(i): [i, i / 7, "x" * (i % 300), None, {"k": list(range(i % 20))}] for i in range(800)}
text = json.dumps(data)
assert json.loads(text) == data
words = collections.Counter(re.findall(r"[0-9]+", text))
results = []
def work(n):
    results.append((n, hashlib.sha256(gzip.decompress(gzip.compress(text.encode() * (n + 1)))).hexdigest()))
threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(text), len(words), words.most_common(3), sorted(results))
END
sqlite3 -batch -bail :memory: << 'END'
create table t(a integer primary key, b text, c real);
with recursive n(x) as (select 1 union all select x + 1 from n where x < 1500)
  insert into t select x, printf('%08x-%s', x * 2654435761 % 4294967296, hex(zeroblob(x % 50))), x / 3.0 from n;
create index i on t(b);
select count(*), sum(a), min(b), max(b), round(sum(c), 3) from t where b > '8';
update t set b = b || 'more' where a % 3 = 0;
select substr(b, 1, 2) k, count(*), group_concat(a % 10, '') from t group by k order by k limit 20;
delete from t where a % 2 = 0;
vacuum;
select count(*), sum(length(b)) from t;
END
git init --quiet --bare -b main origin.git
git -C origin.git fast-import --quiet < "$1"
git -C origin.git -c pack.threads=2 gc --quiet --prune=now
git -C origin.git fsck --full --strict
git clone --quiet --no-local origin.git clone
git -C clone log -p --topo-order origin/main | cksum
git -C clone blame -s dir1/file1.txt | cksum
redis-server --port 0 --unixsocket socket --save '' --daemonize no > log 2>&1 &
server=$!
trap 'kill "$server" 2> /dev/null || true' EXIT
for ((tries = 0; tries < 600; tries++)); do
  redis-cli -s socket ping > /dev/null 2>&1 && break
  sleep 0.05
done
redis-cli -s socket < "$2" > replies
redis-cli -s socket dbsize
redis-cli -s socket bgsave > /dev/null
while redis-cli -s socket info persistence | grep -q "^rdb_bgsave_in_progress:1"; do sleep 0.05; done
redis-cli -s socket info persistence | grep '^rdb_last_bgsave_status' | tr -d '\r'
redis-benchmark -s socket -q -c 10 -n 600 -r 300 -d 100 -P 8 -t set,get,lpush,lrange_100,zadd | tr '\r' '\n' | grep -c "requests per second"
redis-cli -s socket flushall sync
redis-cli -s socket shutdown nosave
wait "$server"
trap - EXIT
