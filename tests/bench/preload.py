#!/usr/bin/python3
"""Real programs with an allocator preloaded: processor time and peak memory, ours against four others.

Each round runs a program once under every allocator, in an order drawn anew; what is compared is the ratio of ours to a
peer within a round, so that what else the machine does falls on both. A figure is the median of these ratios, with
quartiles. Processor time is user and system time of the program with its children; memory is the highest resident set
of the process that held most (of redis-server: VmHWM). All inputs are made here, the same in every run.

Before anything is measured, every program is run once under every allocator with the dynamic loader's own account of
what `malloc` was bound to: an allocator that is not the one that serves is an error, and so are results that differ.

Bars: time at most 1.05 times that of the best peer, memory at most 1.05 times that of the better of jemalloc and
mimalloc. "Best" is decided by the same paired medians, so that no peer is chosen by a lucky round.

Usage: preload.py MEASURED LIBRARY HISTORY [--rounds N] [--program NAME]... [--json FILE]
"""

import argparse
import contextlib
import json
import os
import random
import sys
import tempfile

import programs
import runs

MEMORY_PEERS = ("jemalloc", "mimalloc2")
TIME_BAR = MEMORY_BAR = 1.05


def print_program(name, summary):
    print("\n%s\n%-11s %8s %8s %9s %9s   %-22s %-22s" %
          (name, "", "time s", "of it sys", "peak MiB", "faults", "ours/it, time", "ours/it, peak"))
    for allocator, row in summary.items():
        ratios = ["%6.3f (%.3f to %.3f)" % (ratio["median"], *ratio["quartiles"])
                  for ratio in (row["time_ratio"], row["peak_ratio"])] if allocator != runs.OURS else ["", ""]
        print("%-11s %8.3f %9.3f %9.1f %9d   %-22s %-22s" %
              (allocator, row["time"], row["system"], row["peak"], row["faults"], *ratios))


def verdicts(summary):
    result = {}
    for figure, peers, bar in (("time", tuple(runs.PEERS), TIME_BAR), ("peak", MEMORY_PEERS, MEMORY_BAR)):
        peer = runs.best(summary, figure, peers)
        ratio = summary[peer][figure + "_ratio"]
        result[figure] = {"peer": peer, **ratio, "bar": bar, "met": ratio["median"] <= bar}
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("measured", help="the program that runs others and measures them")
    parser.add_argument("library", help="libmimalloc.so of this library")
    parser.add_argument("history", help="the script that makes the repository")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--program", metavar="NAME", action="append", help="only programs whose name begins so")
    parser.add_argument("--seed", type=int, default=1, help="of the orders")
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    if arguments.rounds < 2:
        parser.error("--rounds must be at least 2")
    allocators = runs.find_allocators(arguments.library, programs.TOOLS)
    draw = random.Random(arguments.seed)
    result = {"machine": runs.machine(programs.PACKAGES), "rounds": arguments.rounds, "programs": {}}
    with contextlib.ExitStack() as stack:
        # Not below the directory that `bazel run` names in TMPDIR: the path of a socket has to be short.
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="preload.", dir="/tmp"))
        every = programs.programs(scratch, os.path.realpath(arguments.measured), arguments.history)
        chosen = {name: program for name, program in every.items()
                  if not arguments.program or any(name.startswith(word) for word in arguments.program)}
        if not chosen:
            parser.error("no program has such a name")
        for name, program in chosen.items():
            runs.check(name, program, scratch, allocators)
            rounds = runs.measure(name, program, scratch, allocators, arguments.rounds, draw)
            summary = runs.summarize(rounds)
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
