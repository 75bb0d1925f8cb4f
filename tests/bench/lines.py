#!/usr/bin/python3
"""Counts the lines of the library's C files and headers that hold code: no blank lines, no lines with nothing but a
comment. Prints a line for each directory and the sum.

Usage: lines.py [DIRECTORY]
"""

import os
import re
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
# Comments, and the literals in which their signs are none.
TOKEN = re.compile(r"//[^\n]*|/\*.*?\*/|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'", re.S)


def blank_comment(match):
    text = match[0]
    return "\n" * text.count("\n") if text.startswith("/") else text


def code_lines(name):
    with open(name) as file:
        text = TOKEN.sub(blank_comment, file.read())
    return sum(1 for line in text.split("\n") if line.strip())


def main():
    top = sys.argv[1] if len(sys.argv) > 1 else os.path.join(ROOT, "mi")
    total = 0
    for directory, _, files in sorted(os.walk(top)):
        count = sum(code_lines(os.path.join(directory, name)) for name in files if name.endswith((".c", ".h")))
        total += count
        print("%6d  %s" % (count, os.path.relpath(directory, os.path.dirname(top))))
    print("%6d  together" % total)


if __name__ == "__main__":
    main()
