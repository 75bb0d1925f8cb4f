"""Looks for private keys in a core file: key_vault_search.py CORE REVEALED [--partial]

REVEALED is what key_vault --reveal wrote: lines of a kind and hexadecimal digits. Ends with 1, and says what was found,
if the memory in the file holds anything of a key, or (but for --partial) if it does not hold the control. Registers are
no memory: what the file's notes hold of the instant in which the thread was stopped is counted, and no failure.
"""

import struct
import sys

WINDOW = 16  # bytes in a row that are no coincidence
PT_LOAD, PT_NOTE = 1, 4


def needles(path):
    for line in open(path, encoding="ascii"):
        kind, digits = line.split()
        value = bytes.fromhex(digits)
        if kind in ("control", "der"):
            yield kind, value
            continue
        for form, data in (("DER", value), ("limbs", value[::-1])):
            for at in range(0, len(data) - WINDOW + 1, WINDOW):
                yield "%s of a number, from byte %d" % (form, at), data[at:at + WINDOW]


def pieces(core):
    """The file's memory, and its notes."""
    if core[:5] != b"\x7fELF\x02":
        sys.exit("not a core file of a 64-bit program")
    start, sections = struct.unpack_from("<QQ", core, 32)
    size, count = struct.unpack_from("<HH", core, 54)
    if count == 0xffff:  # more than fit: the number is in the first section
        count = struct.unpack_from("<I", core, sections + 44)[0]
    memory, notes = [], []
    for i in range(count):
        kind, _, offset, _, _, length = struct.unpack_from("<IIQQQQ", core, start + i * size)
        if kind in (PT_LOAD, PT_NOTE) and length > 0:
            (memory if kind == PT_LOAD else notes).append(core[offset:offset + length])
    return memory, notes


def main():
    core_path, revealed = sys.argv[1:3]
    is_partial = (sys.argv[3:] == ["--partial"])
    memory, notes = pieces(open(core_path, "rb").read())
    found, looked, in_registers, controls = [], 0, 0, 0
    for kind, needle in needles(revealed):
        if kind == "control":
            controls += any(needle in piece for piece in memory)
            continue
        looked += 1
        in_registers += any(needle in piece for piece in notes)
        for piece in memory:
            if needle in piece:
                found.append(kind)
    print("%d needles, %d bytes of memory: %d found, %d in registers; control %s" %
          (looked, sum(map(len, memory)), len(found), in_registers, "found" if controls == 1 else "NOT found"))
    for line in found[:10]:
        print("  " + line)
    return 0 if (controls == 1 or is_partial) and not found and looked > 50 and memory and notes else 1


sys.exit(main())
