#!/usr/bin/python3
"""The allocator suite: the workloads of suite/, and real programs, with this library and four others preloaded.

Each row is a program with so many threads. Rows run one after the other; in each round a row runs once under every
allocator, in an order drawn anew, and what is compared are ratios of ours to a peer within a round (runs.py). Time is the
processor time of the whole process, user and system, memory its largest resident set. A figure is the median of the
rounds' ratios, with quartiles; smaller is better for ours. The table shows each row against mimalloc 2.0, glibc and
the peer that does best in it, then the geometric means of the rows.

--quick does a part of the work three times (the real programs once); the default does more of it seven times.
--figures DIRECTORY draws charts with gnuplot: time and peak memory of every row and allocator, and the workloads of
the talk (redis, a reference-counted program, larson, xmalloc-test, cache-scratch) over glibc.
--test runs every program of suite/ with hardly any work, alone and with this library preloaded, and compares what it
gives with suite_expected.json; it measures nothing.

Usage: suite.py MEASURED LIBRARY [--quick] [--rounds N] [--percent P] [--row REGEX] [--json FILE] [--figures DIRECTORY]
       suite.py MEASURED LIBRARY --test | --from-json FILE [--figures DIRECTORY]
"""

import argparse
import collections
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile

import programs
import runs

Row = collections.namedtuple("Row", "name program threads")

# N threads are as many as the machine that the figures come from has processors, or more where the workload has threads
# that wait for each other; they are fixed, so that every machine does the same work.
ROWS = (
    Row("larson1", "larson", 1),
    Row("larsonN", "larson", 8),
    Row("xmalloc-test2", "xmalloc_test", 2),
    Row("xmalloc-testN", "xmalloc_test", 8),
    Row("asymmetric", "asymmetric", 3),
    Row("cache-scratch1", "cache_scratch", 1),
    Row("cache-scratchN", "cache_scratch", 2),
    Row("cache-thrash1", "cache_thrash", 1),
    Row("cache-thrashN", "cache_thrash", 2),
    Row("alloc-test1", "alloc_test", 1),
    Row("alloc-testN", "alloc_test", 4),
    Row("rptest1", "rptest", 1),
    Row("rptestN", "rptest", 4),
    Row("sh6bench1", "sh6bench", 1),
    Row("sh6benchN", "sh6bench", 4),
    Row("sh8benchN", "sh8bench", 4),
    Row("glibc-simple", "glibc_simple", 1),
    Row("glibc-thread1", "glibc_thread", 1),
    Row("glibc-threadN", "glibc_thread", 4),
    Row("mstressN", "mstress", 4),
    Row("mleakN", "mleak", 4),
    Row("malloc-large", "malloc_large", 1),
    Row("compiler", "compiler", 1),
    Row("refcount1", "refcount", 1),
    Row("refcountN", "refcount", 4),
    Row("json", "json", 1),
    Row("pool", "pool", 8),
    Row("bursts", "bursts", 2),
    Row("vectors", "vectors", 1),
    Row("containers", "containers", 1),
)
REAL = ("redis-server", "sqlite3", "python3", "python3 PYTHONMALLOC=malloc", "gcc -O2 -g")
TALK = (("redis", "redis-server"), ("lean (refcount)", "refcount1"), ("larsonN", "larsonN"),
        ("xmalloc-testN", "xmalloc-testN"), ("cache-scratchN", "cache-scratchN"))
QUICK_PERCENT, QUICK_ROUNDS = 100, 3
FULL_PERCENT, FULL_ROUNDS = 200, 7
TEST_PERCENT = 1
ALLOWED_PEAK, ALLOWED_MIB = 1.25, 2


def command(measured, row, percent):
    program = os.path.join(os.path.dirname(measured), "suite_" + row.program)
    return runs.Command(measured, [program, str(row.threads), str(percent)])


def ratio(summary, figure, peer):
    value = summary[peer][figure + "_ratio"]
    return "%.2f (%.2f-%.2f)" % (value["median"], *value["quartiles"])


def print_header():
    print("ours: seconds and MiB; and ratios to peers, with quartiles")
    print("%-27s %7s  %-16s %-16s %-26s %6s  %-16s %-16s %-26s" % (
        "", "time s", "mimalloc2", "glibc", "best", "MiB", "mimalloc2", "jemalloc", "best"))


def print_row(name, summary):
    best_time = runs.best(summary, "time", runs.PEERS)
    best_peak = runs.best(summary, "peak", runs.PEERS)
    print("%-27s %7.2f  %-16s %-16s %-26s %6.1f  %-16s %-16s %-26s" % (
        name, summary[runs.OURS]["time"], ratio(summary, "time", "mimalloc2"), ratio(summary, "time", "glibc"),
        "%s %s" % (ratio(summary, "time", best_time), best_time), summary[runs.OURS]["peak"],
        ratio(summary, "peak", "mimalloc2"), ratio(summary, "peak", "jemalloc"),
        "%s %s" % (ratio(summary, "peak", best_peak), best_peak)))
    sys.stdout.flush()


def means(rows):
    """Geometric means over the rows of the medians: {figure: {peer: ..., "best": ...}}."""
    result = {}
    for figure in ("time", "peak"):
        medians = [{peer: summary[peer][figure + "_ratio"]["median"] for peer in runs.PEERS} for summary in rows]
        result[figure] = {peer: runs.geometric_mean([row[peer] for row in medians]) for peer in runs.PEERS}
        result[figure]["best"] = runs.geometric_mean([max(row.values()) for row in medians])
    return result


def losses(rows):
    """What misses a bar: rows that are slower than the best peer by more than 5 % beyond their spread, and rows that hold
    a quarter and 2 MiB more than mimalloc or jemalloc."""
    result = []
    for name, summary in rows.items():
        peer = runs.best(summary, "time", runs.PEERS)
        if summary[peer]["time_ratio"]["quartiles"][0] > 1.05:
            result.append("%s: time %s of %s" % (name, ratio(summary, "time", peer), peer))
        for peer in ("mimalloc2", "jemalloc"):
            more = summary[runs.OURS]["peak"] - summary[peer]["peak"]
            if summary[peer]["peak_ratio"]["median"] > ALLOWED_PEAK and more > ALLOWED_MIB:
                result.append("%s: peak memory %s of %s, %.1f MiB more" % (name, ratio(summary, "peak", peer), peer, more))
    return result


def bar_chart(directory, name, title, unit, names, series, top):
    """Bars in groups: `names` of the groups, {legend: heights}. What is higher than `top` is cut, with its height."""
    script = ["set terminal svg size %d,420 noenhanced font 'sans,11' background '#ffffff'" % (220 + 48 * len(names)),
              "set output '%s'" % os.path.join(directory, name + ".svg"), "set title '%s'" % title,
              "set ylabel '%s'" % unit, "set yrange [0:%g]" % top, "set style data histograms",
              "set style histogram clustered gap 1", "set style fill solid border -1", "set grid ytics",
              "set xtics rotate by -40 scale 0", "set key outside right top"]
    for group in range(len(names)):
        for place, values in enumerate(series.values()):
            if values[group] > top:
                at = group + (place - (len(series) - 1) / 2) / (len(series) + 1)
                script.append("set label '%.3g' at %g,%g right rotate by 90 font ',9' front" %
                              (values[group], at, top * 0.99))
    plots = []
    for place, legend in enumerate(series):
        plots.append("$data using %d%s title '%s'" % (place + 2, ":xtic(1)" if place == 0 else "", legend))
    data = ["'%s' %s" % (group, " ".join("%g" % min(values[i], top) for values in series.values()))
            for i, group in enumerate(names)]
    script += ["$data << END", *data, "END", "plot " + ", ".join(plots)]
    subprocess.run(["gnuplot"], input="\n".join(script).replace("'", '"'), check=True, text=True)


def draw_figures(directory, rows):
    os.makedirs(directory, exist_ok=True)
    for figure, title in (("time", "Processor time"), ("peak", "Peak resident memory")):
        series = {allocator: [summary[allocator][figure] / summary["mimalloc2"][figure] for summary in rows.values()]
                  for allocator in (runs.OURS, *runs.PEERS)}
        bar_chart(directory, "suite_" + figure, title + " against mimalloc 2.0", "mimalloc 2.0 = 1",
                  list(rows), series, 2.5)
    talk = [(label, rows[name]) for label, name in TALK if name in rows]
    if talk:
        series = {peer: [summary["glibc"]["time"] / summary[peer]["time"] for _, summary in talk]
                  for peer in (runs.OURS, "jemalloc", "tcmalloc", "mimalloc2")}
        bar_chart(directory, "suite_talk", "Speed over glibc (processor time)", "glibc = 1",
                  [label for label, _ in talk], series, 3)


def test(measured, library, scratch):
    """Compares what the programs give with what they must give; prints what they gave if something is wrong."""
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "suite_expected.json")) as file:
        expected = json.load(file)
    wrong = []
    given = {}
    for row in ROWS:
        program = command(measured, row, TEST_PERCENT)
        _, alone = program.run(scratch, None)
        seen, preloaded = runs.allocator_of(program, scratch, library)
        given[row.name] = alone.decode().strip()
        if library not in seen:
            wrong.append("%s: malloc is that of %s" % (row.name, sorted(seen) or "nobody"))
        for how, result in (("alone", alone), ("preloaded", preloaded)):
            if result.decode().strip() != expected.get(row.name):
                wrong.append("%s, %s: %s, expected %s" % (row.name, how, result.decode().strip(), expected.get(row.name)))
    if wrong:
        print(json.dumps(given, indent=1))
        runs.fail("not what it should be:\n  %s" % "\n  ".join(wrong))
    print("%d programs" % len(ROWS))


def write_json(name, result):
    if name:
        with open(name, "w") as file:
            json.dump(result, file, indent=1)


def measure_all(arguments, scratch):
    measured = os.path.realpath(arguments.measured)
    allocators = runs.find_allocators(arguments.library, programs.TOOLS)
    draw = random.Random(arguments.seed)
    percent, rounds = (QUICK_PERCENT, QUICK_ROUNDS) if arguments.quick else (FULL_PERCENT, FULL_ROUNDS)
    percent, rounds = arguments.percent or percent, arguments.rounds or rounds
    # Whose malloc a program has is looked at in a run with hardly any work, if there can be one.
    every = {row.name: (command(measured, row, TEST_PERCENT), command(measured, row, percent), rounds) for row in ROWS}
    real = programs.programs(scratch, measured)
    every.update({name: (real[name], real[name], 1 if arguments.quick else rounds) for name in REAL})
    chosen = {name: one for name, one in every.items() if re.search(arguments.row, name)}
    if not chosen:
        runs.fail("no row has such a name")
    result = {"machine": runs.machine(programs.PACKAGES), "percent": percent, "rounds": rounds, "rows": {}}
    for place, (name, (small, program, times)) in enumerate(chosen.items()):
        label = "%d of %d, %s" % (place + 1, len(chosen), name)
        runs.check(label, small, scratch, allocators)
        measurements = runs.measure(label, program, scratch, allocators, times, draw)
        summary = runs.summarize(measurements)
        print_row(name, summary)
        result["rows"][name] = {"summary": summary, "rounds": measurements}
        write_json(arguments.json, result)  # a run takes long: what is measured stays if it is stopped
    return result


def report(result):
    rows = {name: row["summary"] for name, row in result["rows"].items()}
    result["means"] = means(rows.values())
    result["losses"] = losses(rows)
    for figure, peers in result["means"].items():
        print("geometric mean, %s: %s" % (figure, ", ".join("%s %.3f" % one for one in peers.items())))
    print("\n".join(["beyond the bars:", *("  " + line for line in result["losses"])]))
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("measured", help="the program that runs others, beside those of the suite")
    parser.add_argument("library", help="libmimalloc.so of this library")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--test", action="store_true")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--percent", type=int, help="of the work of the quick mode")
    parser.add_argument("--row", metavar="REGEX", default="", help="only rows whose name matches")
    parser.add_argument("--seed", type=int, default=1, help="of the orders")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--figures", metavar="DIRECTORY", help="draw charts there")
    parser.add_argument("--from-json", metavar="FILE", help="show and draw what a run before wrote; measure nothing")
    arguments = parser.parse_args()
    if arguments.figures and shutil.which("gnuplot") is None:
        runs.fail("not installed: gnuplot-nox")
    # Not below the directory that `bazel run` names in TMPDIR: the path of redis-server's socket has to be short.
    with tempfile.TemporaryDirectory(prefix="suite.", dir="/tmp") as scratch:
        if not arguments.test:
            print_header()
        if arguments.test:
            test(os.path.realpath(arguments.measured), os.path.realpath(arguments.library), scratch)
            return
        if arguments.from_json:
            with open(arguments.from_json) as file:
                result = json.load(file)
            for name, row in result["rows"].items():
                print_row(name, row["summary"])
        else:
            result = measure_all(arguments, scratch)
    rows = report(result)
    write_json(arguments.json, result)
    if arguments.figures:
        draw_figures(arguments.figures, rows)


if __name__ == "__main__":
    main()
