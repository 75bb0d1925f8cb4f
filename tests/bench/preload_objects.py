"""Allocation-heavy Python: JSON, regular expressions, dictionaries, strings, classes; a fixed amount of it."""
import json
import random
import re
import sys

draw = random.Random(7)
words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 12))) for _ in range(5000)]


class Node:
    def __init__(self, key, value):
        self.key = key
        self.value = value
        self.children = []


def documents(count):
    return [{"id": i, "name": " ".join(draw.choices(words, k=6)), "tags": draw.choices(words, k=10),
             "price": draw.random() * 1000, "nested": {"list": [draw.random() for _ in range(20)], "text": words[i % 5000] * 9}}
            for i in range(count)]


def as_json(kept):
    text = json.dumps(kept)
    parsed = json.loads(text)
    return len(text) + len(parsed)


def as_words(rounds):
    found = 0
    for _ in range(rounds):
        text = " ".join(draw.choices(words, k=20000))
        counts = {}
        for match in re.finditer(r"([a-m]+)([n-z]*)", text):
            key = match.group(1) + "-" + match.group(2)
            counts[key] = counts.get(key, 0) + 1
        found += len(counts) + len(re.sub(r"(\w)\1", r"<\1>", text).split())
    return found


def as_objects(count):
    nodes = [Node(i, str(i * 7)) for i in range(count)]
    for node in nodes[1:]:
        nodes[node.key // 3].children.append(node)
    index = {node.value: node for node in nodes}
    del nodes[count // 2:]
    return sum(len(node.children) for node in index.values())


kept = documents(9000)
total = sum(as_json(kept) for _ in range(2)) + as_words(10) + as_objects(100000)
lines = sorted(" ".join(draw.choices(words, k=5)) for _ in range(40000))
total += len("\n".join(lines).split("\n")) + sum(line.count("a") for line in lines)
sys.stdout.write("%d\n" % total)
