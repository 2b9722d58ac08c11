"""Damage for fuzzers: trees that parse and mean something else, and bytes that are nearly right; all from a seed."""

from __future__ import annotations

import copy
import math
import random
from typing import Any

Tree = Any

NUMBERS: list[Any] = [
    0, -1, 1, 0.5, -0.5, 2**31, 2**32, 2**53 + 1, 2**63, -(2**63) - 1, 10**30, 10**400, 1e9, 1e30, 1e308, -1e308,
    5e-324, math.nan, math.inf, -math.inf, 65535, 65536, 1000000, 10**12,
]  # fmt: skip
WORDS: list[Any] = [
    "", " ", "x", "none", "1", "1e5", "-7", "0x10", "NaN", "building", "../../outside.png", "/etc/passwd", "a\x00b",
    "\ud800", "\x1b[31mred\x1b[0m", "line\nbreak", "é" * 50, "x" * 20_000, "http://127.0.0.1/x", "PPYo1", "\u202e",
]  # fmt: skip
SHAPES: list[Any] = [None, True, False, [], {}, [[]], [{}], {"": {}}, [None], {"size": [1, 1], "counts": "11"}]


def hostile(rng: random.Random) -> Tree:
    """A value that is seldom expected."""
    kind = rng.randrange(6)
    if kind < 2:
        return rng.choice(NUMBERS)
    if kind < 4:
        return copy.deepcopy(rng.choice(SHAPES))
    if kind == 4:
        return rng.choice(WORDS)
    return _large(rng)


def damaged(tree: Tree, rng: random.Random) -> Tree:
    """A copy of a tree of lists and dictionaries with one to four changes."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        tree = _change(tree, rng)
    return tree


def damaged_bytes(content: bytes, rng: random.Random) -> bytes:
    """A copy of some bytes with one to four changes."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4))):
        place, length = rng.randrange(len(data) + 1), rng.choice((1, 1, 4, 16, 200))
        kind = rng.randrange(7)
        if kind == 0:
            data[place : place + length] = rng.randbytes(length)
        elif kind == 1:
            del data[place : place + length]
        elif kind == 2:
            data[place:place] = data[rng.randrange(len(data) + 1) :][:length] * rng.choice((1, 2, 50))
        elif kind == 3:
            del data[place:]
        elif kind == 4:
            data[place:place] = rng.choice((b"[", b"]", b"{", b'"', b"\\", b",", b"[" * 5000, b"9" * 5000, b"\xff\x00"))
        elif kind == 5 and data:
            data[min(place, len(data) - 1)] ^= 1 << rng.randrange(8)
        else:
            data[place : place + 8] = rng.choice((0, 1, 2**31, 2**63 - 1, 2**64 - 1)).to_bytes(8, "little")
    return bytes(data)


def _large(rng: random.Random) -> Tree:
    """A value of many parts or much depth, of a size that a file of some 100 KB has."""
    kind = rng.randrange(5)
    if kind == 0:
        return [rng.choice(NUMBERS[:3])] * 20_000
    if kind == 1:
        deep: Tree = []
        for _ in range(rng.choice((20, 60, 70, 400))):
            deep = [deep] if rng.random() < 0.5 else {"a": deep}
        return deep
    if kind == 2:
        return [rng.choice((0, 1e4, 65535)) for _ in range(4000)]
    if kind == 3:
        return {f"key{number}": number for number in range(3000)}
    return [[]] * 5000


def _change(tree: Tree, rng: random.Random) -> Tree:
    path = _random_path(tree, rng)
    if not path:
        return hostile(rng) if rng.random() < 0.2 else tree
    node = tree
    for step in path[:-1]:
        node = node[step]
    key, kind = path[-1], rng.randrange(8)
    value = node[key]
    if kind == 0:
        del node[key]
    elif kind == 1 and isinstance(value, int | float) and not isinstance(value, bool):
        factor = rng.choice((-1, 0, 1.5, 10, 1000, 1e6))
        node[key] = value * (factor if abs(value) < 1e300 else 10)  # an integer may be too large for a float
    elif kind == 2 and isinstance(node, list):
        node.extend([copy.deepcopy(value)] * rng.choice((1, 3, 300)))
    elif kind == 3 and isinstance(node, dict):
        node[rng.choice(("id", "x", "", "kind", "size", "format_version"))] = hostile(rng)
    elif kind == 4 and isinstance(value, list):
        rng.shuffle(value)
    elif kind == 5:
        node[key] = [value]
    else:
        node[key] = hostile(rng)
    return tree


def _random_path(tree: Tree, rng: random.Random) -> list[Any]:
    path: list[Any] = []
    node = tree
    while isinstance(node, dict | list) and node:
        key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
        path.append(key)
        node = node[key]
        if rng.random() < 0.25:
            break
    return path
