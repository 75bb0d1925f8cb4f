#!/usr/bin/python3
"""Figures of single properties, with this library and four others preloaded: the probes of suite/ answer them themselves.

  full      time of an allocation with its free while 18,000 full pages are alive, against an empty heap; bar 1.03
  threads   bytes that a thread costs for ten blocks of 16 to 128 bytes, with 1,000 such threads; bar 16 KiB
  idle      what is resident 200 ms after 1 GiB was freed, against the peak; bar 0.05
  latency   99.99th percentile and greatest malloc and free of 10^8 operations, the lowest of the runs; bar: the best peer

Usage: probes.py MEASURED LIBRARY [--probe NAME]... [--runs N] [--percent P] [--json FILE] [--test]
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile

import runs

THREADS = 1000


class Probes:
    def __init__(self, directory, scratch, percent):
        self.directory = directory
        self.scratch = scratch
        self.percent = percent

    def ask(self, library, name, threads=1, percent=None):
        """{key: value} of one run."""
        text = subprocess.run(
            [os.path.join(self.directory, "suite_probe_" + name), str(threads), str(percent or self.percent)],
            check=True, stdout=subprocess.PIPE, text=True, env=runs.environment(self.scratch, library)).stdout
        return {key: float(value) for key, value in (line.split() for line in text.splitlines())}

    def full(self, library):
        answer = self.ask(library, "full")
        return {"ratio": answer["full_ns"] / answer["empty_ns"], "full_ns": answer["full_ns"]}

    def threads(self, library):
        count = max(1, THREADS * self.percent // 100)
        with_blocks, without = (self.ask(library, "threads", count, percent) for percent in (100, 1))
        return {"kib_per_thread": (with_blocks["resident"] - without["resident"]) / count / 1024,
                "kib_without": without["resident"] / count / 1024}

    def idle(self, library):
        answer = self.ask(library, "idle")
        return {"ratio": answer["idle"] / answer["peak"], "idle_mib": answer["idle"] / 2**20}

    def latency(self, library):
        return self.ask(library, "latency")


# Name: (what is made of the runs' figures, bar of the first figure; None: the best peer).
PROBES = {
    "full": (statistics.median, 1.03),
    "threads": (statistics.median, 16),
    "idle": (statistics.median, 0.05),
    "latency": (min, None),
}


def measure(probes, name, allocators, count, draw):
    taken = {allocator: [] for allocator in allocators}
    for number in range(count):
        runs.progress("%s: run %d of %d " % (name, number + 1, count))
        order = list(allocators)
        draw.shuffle(order)
        for allocator in order:
            taken[allocator].append(getattr(probes, name)(allocators[allocator]))
    runs.progress("")
    return taken


def report(name, taken):
    make, bar = PROBES[name]
    result = {}
    for allocator, answers in taken.items():
        figures = {key: make(answer[key] for answer in answers) for key in answers[0]}
        result[allocator] = {"figures": figures, "runs": answers}
        print("%-9s %-10s %s" % (name, allocator, "  ".join(
            "%s %.4g (%.4g-%.4g)" % (key, value, min(a[key] for a in answers), max(a[key] for a in answers))
            for key, value in figures.items())))
    ours = result[runs.OURS]["figures"]
    for key, value in ours.items() if bar is None else list(ours.items())[:1]:
        limit = bar or min(row["figures"][key] for allocator, row in result.items() if allocator != runs.OURS)
        print("%-9s %s %.4g, bar %.4g: %s" % (name, key, value, limit, "met" if value <= limit else "MISSED"))
    sys.stdout.flush()
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("measured", help="a program of the suite; the probes are beside it")
    parser.add_argument("library", help="libmimalloc.so of this library")
    parser.add_argument("--probe", action="append", choices=PROBES)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--percent", type=int, default=100, help="of the work")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--test", action="store_true", help="with ours alone and hardly any work: do they run?")
    arguments = parser.parse_args()
    draw = random.Random(1)
    result = {}
    if arguments.test:
        allocators = {runs.OURS: os.path.realpath(arguments.library)}
        arguments.runs = arguments.percent = 1
    else:
        allocators = runs.find_allocators(arguments.library, {})
    with tempfile.TemporaryDirectory(prefix="probes.") as scratch:
        probes = Probes(os.path.dirname(os.path.realpath(arguments.measured)), scratch, arguments.percent)
        for name in arguments.probe or PROBES:
            taken = measure(probes, name, allocators, arguments.runs, draw)
            if arguments.test:
                if any(not value > 0 for key, value in taken[runs.OURS][0].items() if key != "kib_per_thread"):
                    runs.fail("%s: no figure: %s" % (name, taken[runs.OURS][0]))
            else:
                result[name] = report(name, taken)
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(result, file, indent=1)


if __name__ == "__main__":
    main()
