#!/usr/bin/python3
"""Instructions and conditional jumps on the fast paths, per pair of an allocation and a free of 64 B.

Runs the static program `fastpath` under callgrind twice, with different numbers of pairs, and takes the difference per
instruction address; so what remains is the loop, and what an address costs per pair says whether it lies on the path
(executed in most pairs) or beside it. Conditional jumps are those that objdump's disassembly shows on the path. The
call instructions are in the caller and not counted, but where inline paths are compared with calls. Slow paths that run now and then are in their own lines.

Atomic read-modify-writes are those instructions with a lock prefix, and exchanges with memory, in the library's functions:
none belongs on the path of one thread (the purge's tick has one, by the clock), and one, the push, in a free of another
thread's block.

With --preload LIBRARY the pairs of PLAIN, a program that knows no allocator, are counted too, with the library preloaded:
the instructions in it that are executed in most pairs, and all per pair.

With --expect the counts are compared with those in a file, exactly, and every difference is an error: a change that
costs an instruction is noticed, and one that saves some is written down.

Usage: fastpath.py PROGRAM [--preload LIBRARY --plain PLAIN] [--show] [--json FILE] [--expect FILE]
"""

import argparse
import collections
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

FEW_PAIRS = 1000
MANY_PAIRS = 101000

# Path: (functions that make it up, bar for instructions, bar for conditional jumps in the first function).
PATHS = {
    "malloc": (("mi_malloc", "mi_free"), 36, 2),
    "small": (("mi_malloc_small", "mi_free"), None, 1),
    "heap": (("mi_heap_malloc", "mi_free"), None, None),
    "heap_small": (("mi_heap_malloc_small", "mi_free"), None, None),
    "theap": (("mi_theap_malloc", "mi_free"), None, None),
    "inline_theap": (("run_inline_theap",), None, None),
    "inline_heap": (("run_inline_heap",), None, None),
}
# Path: the most atomic read-modify-writes per pair.
TICKS = 0.001
ATOMICS = {"malloc": TICKS, "heap": TICKS, "batch": TICKS, "remote": 1.1}
STATIC_BAR = {"malloc": 32, "batch": 32}
PRELOADED_BAR = {"malloc": 36, "batch": 36}
# Inline path: what it replaces, and how much of that it may cost.
REPLACES = {"inline_theap": ("theap", 0.7), "inline_heap": ("heap", 0.7)}


def callgrind(program, path, pairs, preload=None):
    """Executions of each instruction, as {(object, function, address): count}."""
    with tempfile.TemporaryDirectory() as directory:
        out = os.path.join(directory, "out")
        subprocess.run(
            ["valgrind", "--quiet", "--tool=callgrind", "--dump-instr=yes", "--dump-line=no", "--compress-strings=no",
             "--compress-pos=no", "--callgrind-out-file=" + out, program, path, str(pairs)],
            check=True, env={**os.environ, **({} if preload is None else {"LD_PRELOAD": preload})})
        counts = collections.Counter()
        function = None
        place = None
        call_follows = False
        with open(out) as lines:
            for line in lines:
                if line.startswith("ob="):
                    place = line[3:].strip()
                elif line.startswith("fn="):
                    function = line[3:].strip()
                elif line.startswith("calls="):
                    call_follows = True
                elif line.startswith("0x"):
                    # After "calls=" comes what the callee cost, which is the callee's business.
                    if not call_follows:
                        address, count = line.split()[:2]
                        counts[place, function, int(address, 16)] += int(count)
                    call_follows = False
        return counts


def disassembly(program):
    """{address: instruction} of the program."""
    text = subprocess.run(["objdump", "-d", "--no-show-raw-insn", program], check=True, capture_output=True,
                          text=True).stdout
    return {int(match[1], 16): match[2].strip() for match in re.finditer(r"^\s*([0-9a-f]+):\t(.*)$", text, re.M)}


def is_conditional_jump(instruction):
    mnemonic = instruction.split()[0]
    return mnemonic.startswith("j") and not mnemonic.startswith("jmp")


def verdict(value, bar):
    if bar is None:
        return "-"
    return "%g %s" % (bar, "met" if value <= bar else "MISSED")


def executed_per_pair(program, path, preload=None):
    """{(object, function, address): executions per pair}."""
    few = callgrind(program, path, FEW_PAIRS, preload)
    many = callgrind(program, path, MANY_PAIRS, preload)
    return {key: (many[key] - few[key]) / (MANY_PAIRS - FEW_PAIRS) for key in many}


def is_atomic_update(instruction):
    return instruction.startswith("lock ") or (instruction.startswith("xchg") and "(" in instruction)


def measure_atomics(program, code):
    rows = []
    for path, bar in ATOMICS.items():
        count = sum(value for (_, function, address), value in executed_per_pair(program, path).items()
                    if re.match("_?mi_|page_|theap_|free_", function or "") and is_atomic_update(code.get(address, "")))
        rows.append({"path": path, "atomics": count, "bar": bar})
        print("%-11s %-26s %12s %12.4f %6s  %s" % (path, "atomic updates", "", count, "", verdict(count, bar)))
    return rows


def measure_preloaded(plain, library, program):
    """Instructions in the library per pair, and the same of the static program."""
    rows = []
    for path in PRELOADED_BAR:
        for how, bar, executed in (
                ("static", STATIC_BAR[path], executed_per_pair(program, path)),
                ("preloaded", PRELOADED_BAR[path], executed_per_pair(plain, path, os.path.realpath(library)))):
            counts = [value for (place, function, _), value in executed.items()
                      if (function not in ("main", "run", "run_batches") if how == "static" else
                          "libmimalloc" in (place or ""))]
            on_path = sum(value > 0.5 for value in counts)
            rows.append({"path": path, "how": how, "instructions": on_path, "with_slow": sum(counts), "bar": bar})
            print("%-11s %-26s %12d %12.2f %6s  %s" % (path, how, on_path, sum(counts), "", verdict(on_path, bar)))
    return rows


def measure(program, path, code, show):
    per_pair = {(function, address): value for (_, function, address), value in executed_per_pair(program, path).items()}
    functions, instruction_bar, jump_bar = PATHS[path]
    rows = []
    slow = 0.0
    for function in sorted({name for name, _ in per_pair}):
        cost = sum(value for (name, _), value in per_pair.items() if name == function)
        if function in ("main", "run") or cost < 0.005:
            continue
        on_path = sorted(address for (name, address), value in per_pair.items() if name == function and value > 0.5)
        if not on_path:
            slow += cost
            continue
        jumps = sum(is_conditional_jump(code[address]) for address in on_path)
        rows.append({"function": function, "instructions": len(on_path), "mean_instructions": cost,
                     "conditional_jumps": jumps})
        if show:
            print("\n%s: %s" % (path, function))
            for address in on_path:
                print("  %x: %s" % (address, code[address]))
    missing = set(functions) - {row["function"] for row in rows}
    if missing:
        sys.exit("fastpath: %s not seen on the path %s; is the path inlined or the name changed?" % (missing, path))
    total = sum(row["instructions"] for row in rows)
    allocation_jumps = sum(row["conditional_jumps"] for row in rows if row["function"] != "mi_free")
    for row in rows:
        print("%-11s %-26s %12d %12.2f %6d" % (path, row["function"], row["instructions"], row["mean_instructions"],
                                               row["conditional_jumps"]))
    print("%-11s %-26s %12d %12.2f %6s  %s" % (path, "together", total,
                                               sum(row["mean_instructions"] for row in rows) + slow, "",
                                               verdict(total, instruction_bar)))
    print("%-11s %-26s %12s %12s %6d  %s" % (path, "jumps of the allocation", "", "", allocation_jumps,
                                             verdict(allocation_jumps, jump_bar)))
    return {"path": path, "functions": rows, "instructions": total, "slow_path_instructions": slow,
            "allocation_jumps": allocation_jumps, "instruction_bar": instruction_bar, "jump_bar": jump_bar}


def compare(rows, name):
    """The differences between what was counted and what the file says, as lines."""
    with open(name) as file:
        expected = json.load(file)
    counted = {row["path"]: {function["function"]: [function["instructions"], function["conditional_jumps"]]
                             for function in row["functions"]} for row in rows}
    differences = []
    for path in sorted(set(expected) | set(counted)):
        for function in sorted(set(expected.get(path, {})) | set(counted.get(path, {}))):
            before = expected.get(path, {}).get(function)
            now = counted.get(path, {}).get(function)
            if before != now:
                differences.append("%s: %s: %s instructions and jumps, expected %s" % (path, function, now, before))
    return differences


def on_path(program, path):
    """(Instructions executed in most pairs, mean of all) for a pair, those of the caller and of the loop included."""
    few = callgrind(program, path, FEW_PAIRS)
    many = callgrind(program, path, MANY_PAIRS)
    per_pair = [(many[key] - few[key]) / (MANY_PAIRS - FEW_PAIRS) for key in many]
    return sum(value > 0.5 for value in per_pair), sum(per_pair)


def compare_inline(program):
    """Prints what inline paths cost beside calls, the calls themselves and their arguments included; returns rows."""
    loop = on_path(program, "loop")[0]
    rows = []
    for path, (call, bar) in REPLACES.items():
        here, there = on_path(program, path), on_path(program, call)
        ratio = (here[0] - loop) / (there[0] - loop)
        print("%s: %d instructions for each pair; %s with its calls: %d; ratio %.3f, bar %s; slow paths and the loop's "
              "%d included %.2f, %.2f, %.3f" % (path, here[0] - loop, call, there[0] - loop, ratio, verdict(ratio, bar),
                                                loop, here[1], there[1], here[1] / there[1]))
        rows.append({"path": path, "call": call, "instructions": here[0] - loop, "of_calls": there[0] - loop,
                     "ratio": ratio, "bar": bar, "all": here[1], "all_of_calls": there[1]})
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("program")
    parser.add_argument("--preload", metavar="LIBRARY", help="count with this preloaded, too")
    parser.add_argument("--plain", help="the program that it is preloaded into")
    parser.add_argument("--show", action="store_true", help="print the instructions on each path")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--expect", metavar="FILE", help="compare with {path: {function: [instructions, jumps]}}")
    arguments = parser.parse_args()
    for tool in ("valgrind", "objdump"):
        if shutil.which(tool) is None:
            sys.exit("fastpath: %s is not installed" % tool)
    code = disassembly(arguments.program)
    print("%-11s %-26s %12s %12s %6s  %s" % ("path", "function", "instructions", "with slow", "jumps", "bar"))
    rows = [measure(arguments.program, path, code, arguments.show) for path in PATHS]
    inline = compare_inline(arguments.program)
    atomics = measure_atomics(arguments.program, code)
    preloaded = measure_preloaded(arguments.plain, arguments.preload, arguments.program) if arguments.preload else []
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"pairs": MANY_PAIRS - FEW_PAIRS, "rows": rows, "inline": inline, "atomics": atomics,
                       "preloaded": preloaded}, file, indent=2)
    if arguments.expect:
        differences = compare(rows, arguments.expect)
        differences += ["%s: %g atomic updates, at most %g" % (row["path"], row["atomics"], row["bar"])
                        for row in atomics if row["atomics"] > row["bar"]]
        if differences:
            sys.exit("fastpath: not what %s says:\n  %s" % (arguments.expect, "\n  ".join(differences)))


if __name__ == "__main__":
    main()
