"""A history for `git fast-import`: 400 commits on two branches with merges, over 150 files of text and data."""
import random
import sys

draw = random.Random(7)
out = sys.stdout.buffer
words = [bytes(draw.choices(b"abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 10))) for _ in range(3000)]
files = {}


def data(content):
    out.write(b"data %d\n" % len(content) + content + b"\n")


def change(name):
    if name.endswith(b".bin"):
        return draw.randbytes(draw.randint(100, 60000))
    lines = files.get(name, b"").split(b"\n")
    for _ in range(draw.randint(1, 12)):
        line = b" ".join(draw.choices(words, k=draw.randint(1, 12)))
        lines.insert(draw.randint(0, len(lines)), line)
    if len(lines) > 30:
        del lines[draw.randint(0, 20):draw.randint(20, 30)]
    return b"\n".join(lines)


for commit in range(1, 401):
    branch = b"side" if commit % 5 == 0 else b"main"
    out.write(b"commit refs/heads/%s\nmark :%d\n" % (branch, commit))
    out.write(b"committer A U Thor <author@example.com> %d +0000\n" % (1600000000 + commit * 60))
    data(b"Change %d: " % commit + b" ".join(draw.choices(words, k=8)))
    if commit == 5:
        out.write(b"from :1\n")
    if commit % 40 == 1 and commit > 40:
        out.write(b"merge :%d\n" % (commit - 1))
    for _ in range(draw.randint(1, 10)):
        number = draw.randint(0, 149)
        name = b"dir%d/file%d.%s" % (number % 7, number, b"bin" if number % 10 == 0 else b"txt")
        files[name] = change(name)
        out.write(b"M 100644 inline " + name + b"\n")
        data(files[name])
    out.write(b"\n")
