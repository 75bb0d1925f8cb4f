"""The real programs that preload.py and suite.py run, with inputs that are made here, the same in every run."""

import os
import random
import re
import subprocess
import time

import runs

HERE = os.path.dirname(os.path.abspath(__file__))
TOOLS = {
    "/usr/bin/gcc": "gcc",
    "/usr/bin/git": "git",
    "/usr/bin/python3": "python3",
    "/usr/bin/redis-server": "redis-server",
    "/usr/bin/redis-benchmark": "redis-tools",
    "/usr/bin/sqlite3": "sqlite3",
}
PACKAGES = ("gcc-12", "git", "python3.11", "redis-server", "sqlite3")


class Redis:
    """redis-server on a socket, under redis-benchmark, which runs without the allocator. Its keys are random, its
    replies are not compared."""

    # Tests, requests of each, size of values, range of keys.
    LOADS = (
        ("set,get,lpush,rpush,lpop,rpop,sadd,hset,spop,zadd", 60000, 100, 100000),
        ("set,mset,lrange_100", 6000, 700, 20000),
        ("set,get", 60000, 30, 100000),
    )

    def run(self, scratch, preload, **more):
        socket = os.path.join(scratch, "socket")
        start = time.monotonic()
        with open(os.path.join(scratch, "out"), "wb") as log:
            server = subprocess.Popen(
                ["/usr/bin/redis-server", "--port", "0", "--unixsocket", socket, "--save", "", "--appendonly", "no",
                 "--daemonize", "no", "--activedefrag", "no"],
                stdin=subprocess.DEVNULL, stdout=log, cwd=scratch, env=runs.environment(scratch, preload, **more))
        try:
            self.await_server(scratch, socket, server)
            for tests, requests, size, keys in self.LOADS:
                subprocess.run(
                    ["/usr/bin/redis-benchmark", "-s", socket, "-q", "-c", "20", "-P", "16", "-t", tests, "-n",
                     str(requests), "-d", str(size), "-r", str(keys)],
                    check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=runs.environment(scratch))
            with open("/proc/%d/status" % server.pid) as status:
                peak = int(re.search(r"^VmHWM:\s+(\d+) kB", status.read(), re.M)[1])
            self.cli(scratch, socket, "flushall", "sync")
            self.cli(scratch, socket, "shutdown", "nosave")
            _, status, resources = os.wait4(server.pid, 0)
            server.returncode = os.waitstatus_to_exitcode(status)
            if server.returncode != 0:
                runs.fail("redis-server ended with %d" % server.returncode)
            return runs.Usage(resources.ru_utime, resources.ru_stime, peak, resources.ru_minflt,
                              time.monotonic() - start), b""
        finally:
            if server.returncode is None:
                server.kill()
                server.wait()

    @staticmethod
    def cli(scratch, socket, *words):
        return subprocess.run(["/usr/bin/redis-cli", "-s", socket, *words], stdin=subprocess.DEVNULL,
                              capture_output=True, env=runs.environment(scratch), text=True)

    def await_server(self, scratch, socket, server):
        for _ in range(1000):
            if self.cli(scratch, socket, "ping").stdout.strip() == "PONG":
                return
            if server.poll() is not None:
                runs.fail("redis-server ended with %d" % server.returncode)
            time.sleep(0.01)
        runs.fail("redis-server does not answer")


def c_source(functions):
    """A large C file: switches, loops, calls, tables."""
    draw = random.Random(7)
    parts = ["#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n"
             "struct node { int key; double weight; char name[24]; struct node *left, *right; };\n"]
    for i in range(functions):
        cases = "".join(
            "      case %d: total += (n->key ^ %d) * %d; n = n->%s ? n->%s : n; break;\n" %
            (case, draw.randrange(1 << 16), draw.randrange(1, 99), side, side)
            for case, side in ((case, draw.choice(("left", "right"))) for case in range(draw.randint(4, 16))))
        call = " + work%d(n->left, count / 2, table, sums)" % draw.randrange(i) if i > 0 else ""
        parts.append("""
static long work%d(struct node* n, long count, const int* table, double* sums) {
  long total = %d;
  for (long i = 0; i < count; i++) {
    switch ((table[i %% %d] + n->key) %% 16) {
%s      default: total -= table[(i * %d) %% 64]; sums[i %% 8] += n->weight * %d.5;
    }
    if (total > %d) { snprintf(n->name, sizeof(n->name), "node %%ld", total); total /= strlen(n->name) + 1; }
    for (int j = 0; j < %d; j++) sums[j] = sums[j] * sums[(j + %d) %% 8] + table[j];
  }
  return total%s;
}
""" % (i, draw.randrange(1 << 20), draw.randint(3, 64), cases, draw.randint(3, 31), draw.randint(1, 9),
            draw.randrange(1 << 24), draw.randint(3, 8), draw.randint(1, 7), call))
    parts.append("long (*const works[])(struct node*, long, const int*, double*) = {%s};\n" %
                 ", ".join("work%d" % i for i in range(functions)))
    return "".join(parts)


def make_repository(scratch, history, measured):
    """A repository for `git gc`, which computes all deltas anew each time."""
    repository = os.path.join(scratch, "repository.git")
    stream = subprocess.run(["/usr/bin/python3", history], check=True, stdout=subprocess.PIPE).stdout
    git = ["/usr/bin/git", "-C", repository]
    subprocess.run(["/usr/bin/git", "init", "--quiet", "--bare", "-b", "main", repository], check=True,
                   env=runs.environment(scratch))
    subprocess.run(git + ["fast-import", "--quiet"], input=stream, check=True, env=runs.environment(scratch))
    for name, value in (("gc.aggressiveWindow", 30), ("gc.aggressiveDepth", 20), ("pack.threads", 2)):
        subprocess.run(git + ["config", name, str(value)], check=True, env=runs.environment(scratch))
    return runs.Command(measured, git + ["gc", "--quiet", "--aggressive", "--prune=now"])


def programs(scratch, measured, history=None):
    """{name: program}. `measured` is the program that measures; `history` the script that makes the repository, without
    which git is left out."""
    source = os.path.join(scratch, "big.c")
    with open(source, "w") as file:
        file.write(c_source(80))
    objects = ["/usr/bin/python3", os.path.join(HERE, "preload_objects.py")]
    result = {
        "redis-server": Redis(),
        "sqlite3": runs.Command(measured, ["/usr/bin/sqlite3", ":memory:"], stdin=os.path.join(HERE, "preload_rows.sql")),
        "python3": runs.Command(measured, objects),
        "python3 PYTHONMALLOC=malloc": runs.Command(measured, objects, PYTHONMALLOC="malloc"),
        "gcc -O2 -g": runs.Command(measured, ["/usr/bin/gcc", "-O2", "-g", "-c", source, "-o", "big.o"], result="big.o"),
    }
    if history is not None:
        result["git gc"] = make_repository(scratch, history, measured)
    return result
