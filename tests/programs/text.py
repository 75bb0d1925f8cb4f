"""Text that compresses like prose, always the same: text.py BYTES."""
import random
import sys

draw = random.Random(11)
words = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(1, 9))) for _ in range(5000)]
left = int(sys.argv[1])
while left > 0:
    line = " ".join(words[int(5000 * draw.random() ** 3)] for _ in range(2000))
    piece = (line + "\n")[:left]
    sys.stdout.write(piece)
    left -= len(piece)
