"""Runs of programs under allocators that are preloaded, for preload.py and suite.py: which allocators there are, what one
run costs, rounds in an order drawn anew, ratios within a round, and whose malloc a program really has. Knows no program.

A program is an object with `run(scratch, preload, **variables)`, which gives its Usage and its result, bytes that must
be the same under every allocator.
"""

import glob
import math
import os
import platform
import re
import statistics
import subprocess
import sys

LIBRARIES = "/usr/lib/x86_64-linux-gnu"
OURS = "ours"
# Name: (file, Debian package). glibc is preloaded by name, too: Debian's redis-server is linked with jemalloc.
PEERS = {
    "glibc": ("libc.so.6", "libc6"),
    "jemalloc": ("libjemalloc.so.2", "libjemalloc2"),
    "tcmalloc": ("libtcmalloc_minimal.so.4", "libtcmalloc-minimal4"),
    "mimalloc2": ("libmimalloc.so.2.0", "libmimalloc2.0"),
}
FIGURES = ("time", "system", "peak", "faults", "wall")


def fail(text):
    sys.exit("%s: %s" % (os.path.basename(sys.argv[0]), text))


def find_allocators(library, tools):
    """{name: file to preload}, ours first; ends the script if one of them or of `tools` {file: package} is missing."""
    result = {OURS: os.path.realpath(library)}
    for peer, (file, _) in PEERS.items():
        result[peer] = os.path.join(LIBRARIES, file)
    missing = {package for peer, (_, package) in PEERS.items() if not os.path.exists(result[peer])}
    missing |= {package for tool, package in tools.items() if not os.path.exists(tool)}
    if missing:
        fail("not installed: %s" % " ".join(sorted(missing)))
    return result


def environment(scratch, preload=None, **more):
    """What a measured program sees: nothing of the caller's own environment."""
    result = {"PATH": "/usr/bin:/bin", "HOME": scratch, "LC_ALL": "C.UTF-8", "TZ": "UTC", "GIT_CONFIG_NOSYSTEM": "1",
              "PYTHONHASHSEED": "0", "TMPDIR": scratch, **more}
    if preload is not None:
        result["LD_PRELOAD"] = preload
    return result


class Usage:
    """What one run cost: seconds, MiB, a count, seconds."""

    def __init__(self, user, system, peak_kib, faults, wall):
        self.values = (user + system, system, peak_kib / 1024, faults, wall)

    def __iter__(self):
        return iter(self.values)


class Command:
    """A program that runs to its end, with children or without. `measured` is the program that measures it."""

    def __init__(self, measured, arguments, stdin=os.devnull, result=None, **variables):
        self.measured = measured
        self.arguments = arguments
        self.stdin = stdin
        self.result = result  # a file that it writes; None: its standard output
        self.variables = variables

    def run(self, scratch, preload, **more):
        out = os.path.join(scratch, "out")
        cost = os.path.join(scratch, "cost")
        own = {**self.variables, **more, **({} if preload is None else {"LD_PRELOAD": preload})}
        with open(self.stdin) as stdin, open(out, "wb") as stdout:
            code = subprocess.run(
                [self.measured, cost, *("%s=%s" % one for one in own.items()), "--", *self.arguments],
                stdin=stdin, stdout=stdout, cwd=scratch, env=environment(scratch)).returncode
        if code != 0:
            fail("%s ended with %d" % (" ".join(self.arguments), code))
        with open(cost) as file:
            user, system, peak, faults, wall = (int(word) for word in file.read().split())
        with open(os.path.join(scratch, self.result) if self.result else out, "rb") as file:
            return Usage(user / 1e6, system / 1e6, peak, faults, wall / 1e6), file.read()


def allocator_of(program, scratch, library):
    """The files that served malloc in a run, by the dynamic loader's own account, and the run's result."""
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
    return seen, result


def check(name, program, scratch, allocators):
    """Every allocator serves the program's malloc, and the program gives the same under all."""
    expected = None
    for allocator, library in allocators.items():
        seen, result = allocator_of(program, scratch, library)
        # A program may stand in for it with an entry of its own that jumps there: no allocator, then.
        if seen & {os.path.realpath(one) for one in allocators.values()} != {os.path.realpath(library)}:
            fail("malloc of %s under %s is that of %s" % (name, allocator, sorted(seen) or "nobody"))
        if expected is None:
            expected = result
        elif result != expected:
            fail("%s gives something else under %s" % (name, allocator))


def progress(text):
    """One line for people who watch; "" ends it."""
    if sys.stderr.isatty():
        sys.stderr.write("\r%s\x1b[K" % text)
        sys.stderr.flush()


def measure(name, program, scratch, allocators, rounds, draw):
    """[{allocator: figures}]: in each round, one run under each allocator, in an order drawn anew. Every run must give the
    same."""
    result = []
    expected = None
    for number in range(rounds):
        progress("%s: round %d of %d " % (name, number + 1, rounds))
        order = list(allocators)
        draw.shuffle(order)
        measured = {}
        for allocator in order:
            usage, given = program.run(scratch, allocators[allocator])
            measured[allocator] = list(usage)
            if expected is None:
                expected = given
            elif given != expected:
                fail("%s gives something else under %s" % (name, allocator))
        result.append({allocator: measured[allocator] for allocator in allocators})
    progress("")
    return result


def quartiles(values):
    if len(values) == 1:
        return {"median": values[0], "quartiles": [values[0], values[0]]}
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": middle, "quartiles": [low, high]}


def summarize(rounds):
    """Of one program: {allocator: {figure: median, "time_ratio": ours to it, "peak_ratio": the same}}."""
    result = {}
    for allocator in rounds[0]:
        row = {figure: statistics.median(one[allocator][i] for one in rounds) for i, figure in enumerate(FIGURES)}
        for i, figure in ((0, "time"), (2, "peak")):
            # A program that takes less than the clock's step counts as one step.
            row[figure + "_ratio"] = quartiles(
                [max(one[OURS][i], 0.001) / max(one[allocator][i], 0.001) for one in rounds])
        result[allocator] = row
    return result


def best(summary, figure, peers):
    """The peer that does best, which is the one that ours does worst against. By the paired medians, so that no peer is
    chosen by a lucky round."""
    return max(peers, key=lambda peer: summary[peer][figure + "_ratio"]["median"])


def geometric_mean(values):
    return math.exp(statistics.fmean(math.log(value) for value in values))


def machine(packages):
    with open("/proc/cpuinfo") as file:
        model = re.search(r"^model name\s*:\s*(.*)$", file.read(), re.M)
    versions = subprocess.run(
        ["dpkg-query", "--show", "--showformat=${Package} ${Version}\n", *packages, *(package for _, package in PEERS.values())],
        capture_output=True, text=True).stdout.split("\n")
    return {"processor": model[1] if model else platform.machine(), "processors": os.cpu_count(),
            "kernel": platform.release(), "versions": dict(line.split() for line in versions if line)}
