"""Redis commands, always the same, for `redis-cli`: all data types, growth, deletion, scripts."""
import random

draw = random.Random(5)
word = lambda longest: "".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(1, longest)))
for i in range(15000):
    key = draw.randint(0, 1500)
    print(draw.choice([
        f"SET s:{key} {word(300)}", f"APPEND s:{key} {word(100)}", f"SETRANGE s:{key} {draw.randint(0, 2000)} {word(20)}",
        f"RPUSH l:{key % 50} {word(20)} {word(200)}", f"LPOP l:{key % 50} 2", f"LINSERT l:{key % 50} BEFORE x {word(9)}",
        f"SADD t:{key % 40} {word(3)} {draw.randint(0, 999)}", f"SREM t:{key % 40} {draw.randint(0, 999)}",
        f"HSET h:{key % 100} {word(2)} {word(90)}", f"HDEL h:{key % 100} {word(1)}",
        f"ZADD z:{key % 30} {draw.randint(0, 9999)} {word(2)}", f"ZREMRANGEBYRANK z:{key % 30} 0 {draw.randint(0, 2)}",
        f"PFADD p:{key % 9} {word(5)}", f"XADD x:{key % 9} MAXLEN 300 {i + 1}-1 field {word(50)}",
        f"SUNIONSTORE t:{key % 40} t:{(key + 1) % 40} t:{(key + 2) % 40}", f"ZUNIONSTORE z:{key % 30} 1 z:{(key + 7) % 30}",
        f"UNLINK l:{key % 50}", f"DEL s:{key}", f"BITFIELD b:{key % 9} SET u8 {draw.randint(0, 90000)} {key % 256}",
        f"EVAL \"local t = {{}} for i = 1, {key} do t[i] = i .. 'x' end return redis.call('SET', KEYS[1], #table.concat(t))\""
        f" 1 e:{key % 20}",
    ]))
