#!/usr/bin/python3
"""Real programs with an allocator preloaded: processor time and peak memory, ours against four others.

Each round runs a program once under every allocator, in an order drawn anew; what is compared is the ratio of ours to a
peer within a round, so that what else the machine does falls on both. A figure is the median of these ratios, with
quartiles. Processor time is user and system time of the program with its children; memory is the highest resident set
of the process that held most (of redis-server: VmHWM). All inputs are made here, the same in every run.

Before anything is measured, every program is run once under every allocator with the dynamic loader's own account of
what `malloc` was bound to: an allocator that is not the one that serves is an error, and so are results that differ.
(glibc is preloaded by name, too: Debian's redis-server is linked with jemalloc.)

Bars: time at most 1.05 times that of the best peer, memory at most 1.05 times that of the better of jemalloc and
mimalloc. "Best" is decided by the same paired medians, so that no peer is chosen by a lucky round.

Usage: preload.py LIBRARY HISTORY [--rounds N] [--program NAME]... [--json FILE]
"""

import argparse
import contextlib
import glob
import json
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
LIBRARIES = "/usr/lib/x86_64-linux-gnu"
OURS = "ours"
# Name: (file, Debian package).
PEERS = {
    "glibc": ("libc.so.6", "libc6"),
    "jemalloc": ("libjemalloc.so.2", "libjemalloc2"),
    "tcmalloc": ("libtcmalloc_minimal.so.4", "libtcmalloc-minimal4"),
    "mimalloc2": ("libmimalloc.so.2.0", "libmimalloc2.0"),
}
MEMORY_PEERS = ("jemalloc", "mimalloc2")
TIME_BAR = MEMORY_BAR = 1.05
TOOLS = {
    "/usr/bin/gcc": "gcc",
    "/usr/bin/git": "git",
    "/usr/bin/python3": "python3",
    "/usr/bin/redis-server": "redis-server",
    "/usr/bin/redis-benchmark": "redis-tools",
    "/usr/bin/sqlite3": "sqlite3",
}


def environment(scratch, preload=None, **more):
    """What a measured program sees: nothing of the caller's own environment."""
    result = {"PATH": "/usr/bin:/bin", "HOME": scratch, "LC_ALL": "C.UTF-8", "TZ": "UTC", "GIT_CONFIG_NOSYSTEM": "1",
              "PYTHONHASHSEED": "0", "TMPDIR": scratch, **more}
    if preload is not None:
        result["LD_PRELOAD"] = preload
    return result


class Usage:
    """What one run cost."""

    def __init__(self, resources, peak_kib=None):
        self.time = resources.ru_utime + resources.ru_stime
        self.system = resources.ru_stime
        self.peak = (peak_kib or resources.ru_maxrss) / 1024
        self.faults = resources.ru_minflt

    def __iter__(self):
        return iter((self.time, self.system, self.peak, self.faults))


def wait(process, name):
    _, status, resources = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit("preload: %s ended with %d" % (name, process.returncode))
    return resources


class Command:
    """A program that runs to its end, with children or without."""

    def __init__(self, arguments, stdin=os.devnull, result=None, **variables):
        self.arguments = arguments
        self.stdin = stdin
        self.result = result  # a file that it writes; None: its standard output
        self.variables = variables

    def run(self, scratch, preload, **more):
        """Usage, and what the run gave, to be the same every time."""
        out = os.path.join(scratch, "out")
        with open(self.stdin) as stdin, open(out, "wb") as stdout:
            process = subprocess.Popen(self.arguments, stdin=stdin, stdout=stdout, cwd=scratch,
                                       env=environment(scratch, preload, **self.variables, **more))
            usage = Usage(wait(process, self.arguments[0]))
        with open(os.path.join(scratch, self.result) if self.result else out, "rb") as file:
            return usage, file.read()


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
        with open(os.path.join(scratch, "out"), "wb") as log:
            server = subprocess.Popen(
                ["/usr/bin/redis-server", "--port", "0", "--unixsocket", socket, "--save", "", "--appendonly", "no",
                 "--daemonize", "no", "--activedefrag", "no"],
                stdin=subprocess.DEVNULL, stdout=log, cwd=scratch, env=environment(scratch, preload, **more))
        try:
            self.await_server(scratch, socket, server)
            for tests, requests, size, keys in self.LOADS:
                subprocess.run(
                    ["/usr/bin/redis-benchmark", "-s", socket, "-q", "-c", "20", "-P", "16", "-t", tests, "-n",
                     str(requests), "-d", str(size), "-r", str(keys)],
                    check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment(scratch))
            with open("/proc/%d/status" % server.pid) as status:
                peak = int(re.search(r"^VmHWM:\s+(\d+) kB", status.read(), re.M)[1])
            self.cli(scratch, socket, "flushall", "sync")
            self.cli(scratch, socket, "shutdown", "nosave")
            return Usage(wait(server, "redis-server"), peak), b""
        finally:
            if server.returncode is None:
                server.kill()
                server.wait()

    @staticmethod
    def cli(scratch, socket, *words):
        return subprocess.run(["/usr/bin/redis-cli", "-s", socket, *words], stdin=subprocess.DEVNULL,
                              capture_output=True, env=environment(scratch), text=True)

    def await_server(self, scratch, socket, server):
        for _ in range(1000):
            if self.cli(scratch, socket, "ping").stdout.strip() == "PONG":
                return
            if server.poll() is not None:
                sys.exit("preload: redis-server ended with %d" % server.returncode)
            time.sleep(0.01)
        sys.exit("preload: redis-server does not answer")


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


def make_repository(scratch, history):
    """A repository for `git gc`, which computes all deltas anew each time."""
    repository = os.path.join(scratch, "repository.git")
    stream = subprocess.run(["/usr/bin/python3", history], check=True, stdout=subprocess.PIPE).stdout
    git = ["/usr/bin/git", "-C", repository]
    subprocess.run(["/usr/bin/git", "init", "--quiet", "--bare", "-b", "main", repository], check=True,
                   env=environment(scratch))
    subprocess.run(git + ["fast-import", "--quiet"], input=stream, check=True, env=environment(scratch))
    for name, value in (("gc.aggressiveWindow", 30), ("gc.aggressiveDepth", 20), ("pack.threads", 2)):
        subprocess.run(git + ["config", name, str(value)], check=True, env=environment(scratch))
    return Command(git + ["gc", "--quiet", "--aggressive", "--prune=now"])


def programs(scratch, history):
    source = os.path.join(scratch, "big.c")
    with open(source, "w") as file:
        file.write(c_source(80))
    objects = ["/usr/bin/python3", os.path.join(HERE, "preload_objects.py")]
    return {
        "redis-server": Redis(),
        "sqlite3": Command(["/usr/bin/sqlite3", ":memory:"], stdin=os.path.join(HERE, "preload_rows.sql")),
        "python3": Command(objects),
        "python3 PYTHONMALLOC=malloc": Command(objects, PYTHONMALLOC="malloc"),
        "gcc -O2 -g": Command(["/usr/bin/gcc", "-O2", "-g", "-c", source, "-o", "big.o"], result="big.o"),
        "git gc": make_repository(scratch, history),
    }


def check(name, program, scratch, allocators):
    """Every allocator serves the program's malloc, and the program gives the same under all."""
    expected = None
    for allocator, library in allocators.items():
        trace = os.path.join(scratch, "bindings")
        _, result = program.run(scratch, library, LD_DEBUG="bindings", LD_DEBUG_OUTPUT=trace)
        seen = set()
        for file in glob.glob(trace + ".*"):
            with open(file, errors="replace") as lines:
                for line in lines:
                    match = re.search(r" to (\S+) \[0\]: normal symbol `(?:malloc|free|calloc|realloc)'", line)
                    if match:
                        seen.add(os.path.realpath(match[1]))
            os.unlink(file)
        # A program may stand in for it with an entry of its own that jumps there: no allocator, then.
        if seen & {os.path.realpath(one) for one in allocators.values()} != {os.path.realpath(library)}:
            sys.exit("preload: malloc of %s under %s is that of %s" % (name, allocator, sorted(seen) or "nobody"))
        if expected is None:
            expected = result
        elif result != expected:
            sys.exit("preload: %s gives something else under %s" % (name, allocator))


def quartiles(values):
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": middle, "quartiles": [low, high]}


def summarize(rounds):
    """Of one program: {allocator: {figure: ...}}, and the peers that count for the bars."""
    figures = ("time", "system", "peak", "faults")
    result = {}
    for allocator in rounds[0]:
        row = {figure: statistics.median(one[allocator][i] for one in rounds) for i, figure in enumerate(figures)}
        for i, figure in ((0, "time"), (2, "peak")):
            row[figure + "_ratio"] = quartiles([one[OURS][i] / one[allocator][i] for one in rounds])
        result[allocator] = row
    return result


def best(summary, figure, peers):
    """The peer that does best, which is the one that ours does worst against."""
    return max(peers, key=lambda peer: summary[peer][figure + "_ratio"]["median"])


def print_program(name, summary):
    print("\n%s\n%-11s %8s %8s %9s %9s   %-22s %-22s" %
          (name, "", "time s", "of it sys", "peak MiB", "faults", "ours/it, time", "ours/it, peak"))
    for allocator, row in summary.items():
        ratios = ["%6.3f (%.3f to %.3f)" % (ratio["median"], *ratio["quartiles"])
                  for ratio in (row["time_ratio"], row["peak_ratio"])] if allocator != OURS else ["", ""]
        print("%-11s %8.3f %9.3f %9.1f %9d   %-22s %-22s" %
              (allocator, row["time"], row["system"], row["peak"], row["faults"], *ratios))


def verdicts(summary):
    result = {}
    for figure, peers, bar in (("time", tuple(PEERS), TIME_BAR), ("peak", MEMORY_PEERS, MEMORY_BAR)):
        peer = best(summary, figure, peers)
        ratio = summary[peer][figure + "_ratio"]
        result[figure] = {"peer": peer, **ratio, "bar": bar, "met": ratio["median"] <= bar}
    return result


def machine():
    with open("/proc/cpuinfo") as file:
        model = re.search(r"^model name\s*:\s*(.*)$", file.read(), re.M)
    packages = ["gcc-12", "git", "python3.11", "redis-server", "sqlite3"] + [package for _, package in PEERS.values()]
    versions = subprocess.run(["dpkg-query", "--show", "--showformat=${Package} ${Version}\n", *packages],
                              capture_output=True, text=True).stdout.split("\n")
    return {"processor": model[1] if model else platform.machine(), "processors": os.cpu_count(),
            "kernel": platform.release(), "versions": dict(line.split() for line in versions if line)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("library", help="libmimalloc.so of this library")
    parser.add_argument("history", help="the script that makes the repository")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--program", metavar="NAME", action="append", help="only programs whose name begins so")
    parser.add_argument("--seed", type=int, default=1, help="of the orders")
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    if arguments.rounds < 2:
        parser.error("--rounds must be at least 2")
    allocators = {OURS: os.path.realpath(arguments.library)}
    for peer, (file, _) in PEERS.items():
        allocators[peer] = os.path.join(LIBRARIES, file)
    missing = [package for file, package in PEERS.values() if not os.path.exists(os.path.join(LIBRARIES, file))]
    missing += [package for tool, package in TOOLS.items() if not os.path.exists(tool)]
    if missing:
        sys.exit("preload: not installed: %s" % " ".join(missing))
    draw = random.Random(arguments.seed)
    result = {"machine": machine(), "rounds": arguments.rounds, "programs": {}}
    with contextlib.ExitStack() as stack:
        # Not below the directory that `bazel run` names in TMPDIR: the path of a socket has to be short.
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="preload.", dir="/tmp"))
        chosen = {name: program for name, program in programs(scratch, arguments.history).items()
                  if not arguments.program or any(name.startswith(word) for word in arguments.program)}
        if not chosen:
            parser.error("no program has such a name")
        for name, program in chosen.items():
            check(name, program, scratch, allocators)
            rounds = []
            for number in range(arguments.rounds):
                if sys.stderr.isatty():
                    sys.stderr.write("\r%s: round %d of %d \x1b[K" % (name, number + 1, arguments.rounds))
                order = list(allocators)
                draw.shuffle(order)
                measured = {allocator: list(program.run(scratch, allocators[allocator])[0]) for allocator in order}
                rounds.append({allocator: measured[allocator] for allocator in allocators})
            if sys.stderr.isatty():
                sys.stderr.write("\r\x1b[K")
            summary = summarize(rounds)
            print_program(name, summary)
            result["programs"][name] = {"summary": summary, "verdicts": verdicts(summary), "rounds": rounds}
            sys.stdout.flush()
    print("\n%-28s %-40s %-40s" % ("against the best", "time", "peak"))
    for name, row in result["programs"].items():
        cells = ["%.3f (%.3f to %.3f) %s %s" % (v["median"], *v["quartiles"], v["peer"], "met" if v["met"] else "MISSED")
                 for v in row["verdicts"].values()]
        print("%-28s %-40s %-40s" % (name, *cells))
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(result, file, indent=1)


if __name__ == "__main__":
    main()
