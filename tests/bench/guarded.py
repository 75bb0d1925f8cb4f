#!/usr/bin/python3
"""What guarded blocks cost real programs: processor time of the guarded build, preloaded, against the default build.

Each round runs a program once with either library, in an order drawn anew; a figure is the median of the ratios within
rounds, with quartiles. The programs are those of programs.py."""

import argparse
import contextlib
import json
import os
import random
import statistics
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import programs  # noqa: E402
import runs  # noqa: E402

PROGRAMS = ("redis-server", "sqlite3", "python3", "git gc")
BAR = 1.01
TIME, PEAK = (runs.FIGURES.index(name) for name in ("time", "peak"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("measured", help="the program that runs others and measures them")
    parser.add_argument("library", help="libmimalloc.so, default build")
    parser.add_argument("guarded", help="libmimalloc.so, built with MI_GUARDED")
    parser.add_argument("history", help="the script that makes the repository")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--rate", type=int, action="append", help="one guarded block in so many (1000)")
    parser.add_argument("--program", metavar="NAME", action="append", help="one of: " + ", ".join(PROGRAMS))
    parser.add_argument("--seed", type=int, default=1, help="of the orders")
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    rates = arguments.rate or [1000]
    draw = random.Random(arguments.seed)
    libraries = {None: os.path.realpath(arguments.library)}
    libraries.update((rate, os.path.realpath(arguments.guarded)) for rate in rates)
    results = {}
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="guarded.", dir="/tmp"))
        every = programs.programs(scratch, os.path.realpath(arguments.measured), arguments.history)
        for name in arguments.program or PROGRAMS:
            rounds = []
            for _ in range(arguments.rounds):
                order = list(libraries)
                draw.shuffle(order)
                rounds.append({rate: every[name].run(scratch, libraries[rate],
                                                     MIMALLOC_GUARDED_SAMPLE_RATE=str(rate or 0))[0].values
                               for rate in order})
            for rate in rates:
                time = runs.quartiles([one[rate][TIME] / one[None][TIME] for one in rounds])
                peak = runs.quartiles([one[rate][PEAK] / one[None][PEAK] for one in rounds])
                plain = statistics.median(one[None][TIME] for one in rounds)
                results["%s at 1/%d" % (name, rate)] = {"time": time, "peak": peak, "plain": plain}
                print("%-28s %7.3f s   time %.4f (%.4f to %.4f)   peak %.3f   %s" %
                      ("%s at 1/%d" % (name, rate), plain, time["median"], *time["quartiles"], peak["median"],
                       "met" if time["median"] <= BAR else "MISSED"))
                sys.stdout.flush()
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"machine": runs.machine(programs.PACKAGES), "rounds": arguments.rounds, "results": results}, file, indent=1)


if __name__ == "__main__":
    main()
