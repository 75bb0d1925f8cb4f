#!/usr/bin/python3
"""What other builds of the library cost: processor time and peak memory of programs, against the default build.

Each round runs a program once with every build preloaded, in an order drawn anew; a figure is the median of the ratios
within rounds, with quartiles. There are real programs (programs.py), and programs of suite/ that do nothing but allocate
and free, named by program and threads; of the latter, and of blocks of 16 bytes, the geometric mean and the worst.

Usage: builds.py MEASURED LIBRARY HISTORY NAME=LIBRARY... [--rounds N] [--program REGEX] [--percent P] [--json FILE]
"""

import argparse
import contextlib
import json
import os
import random
import re
import statistics
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import programs  # noqa: E402
import runs  # noqa: E402

PROGRAMS = ("redis-server", "sqlite3", "python3", "gcc -O2 -g", "git gc")
ALLOCATION = (("larson", 1), ("larson", 8), ("alloc_test", 1), ("alloc_test", 4), ("mstress", 4), ("rptest", 1), ("rptest", 4),
              ("glibc_simple", 1), ("glibc_thread", 1), ("glibc_thread", 4))
SMALL = "blocks of 16 bytes"
TIME, PEAK = (runs.FIGURES.index(name) for name in ("time", "peak"))
# Of each kind: at most so much time and so much memory; None: no bar.
BARS = {"real": (1.03, 1.08), "allocation": (1.5, None), "small": (None, 1.15)}
MEAN_BAR = 1.20


def every_program(scratch, arguments):
    """{name: (program, kind)}."""
    measured = os.path.realpath(arguments.measured)
    real = programs.programs(scratch, measured, arguments.history)
    result = {name: (real[name], "real") for name in PROGRAMS}
    directory = os.path.dirname(measured)
    for program, threads in ALLOCATION:
        command = [os.path.join(directory, "suite_" + program), str(threads), str(arguments.percent)]
        result["%s %d" % (program, threads)] = (runs.Command(measured, command), "allocation")
    small = [os.path.join(directory, "suite_small"), "1", "100"]
    result[SMALL] = (runs.Command(measured, small), "small")
    return {name: one for name, one in result.items() if re.search(arguments.program, name)}


def verdict(kind, time, peak):
    missed = [word for word, value, bar in zip(("time", "peak"), (time, peak), BARS[kind])
              if bar is not None and value["median"] > bar]
    return "met" if not missed else "MISSED: " + ", ".join(missed)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("measured", help="the program that runs others and measures them, beside those of the suite")
    parser.add_argument("library", help="libmimalloc.so, default build")
    parser.add_argument("history", help="the script that makes the repository")
    parser.add_argument("builds", nargs="+", metavar="NAME=LIBRARY", help="libmimalloc.so of another build; more may follow")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--percent", type=int, default=100, help="of the suite's work")
    parser.add_argument("--program", metavar="REGEX", default="", help="only those whose name matches")
    parser.add_argument("--seed", type=int, default=1, help="of the orders")
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    libraries = {None: os.path.realpath(arguments.library)}
    libraries.update((name, os.path.realpath(library)) for name, library in
                     (build.split("=", 1) for build in arguments.builds))
    results = {}
    times = {}
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="builds.", dir="/tmp"))
        for name, (program, kind) in every_program(scratch, arguments).items():
            rounds = []
            for _ in range(arguments.rounds):
                order = list(libraries)
                draw.shuffle(order)
                rounds.append({build: program.run(scratch, libraries[build])[0].values for build in order})
            for build in list(libraries)[1:]:
                time, peak = (runs.quartiles([max(one[build][i], 0.001) / max(one[None][i], 0.001) for one in rounds])
                              for i in (TIME, PEAK))
                plain = {figure: statistics.median(one[None][i] for one in rounds)
                         for figure, i in (("time", TIME), ("peak", PEAK))}
                results["%s, %s" % (build, name)] = {"time": time, "peak": peak, "plain": plain}
                if kind == "allocation":
                    times.setdefault(build, []).append(time["median"])
                print("%-32s %7.3f s %7.1f MiB   time %.3f (%.3f to %.3f)   peak %.3f (%.3f to %.3f)   %s" %
                      ("%s, %s" % (build, name), plain["time"], plain["peak"], time["median"], *time["quartiles"],
                       peak["median"], *peak["quartiles"], verdict(kind, time, peak)))
                sys.stdout.flush()
    for build, medians in times.items():
        mean = runs.geometric_mean(medians)
        print("%-32s geometric mean of times %.3f   %s" %
              (build + ", allocation only", mean, "met" if mean <= MEAN_BAR else "MISSED"))
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"machine": runs.machine(programs.PACKAGES), "rounds": arguments.rounds, "results": results}, file, indent=1)


if __name__ == "__main__":
    main()
