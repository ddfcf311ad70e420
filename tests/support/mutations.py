"""Mutated inputs for loaders: valid documents with parts removed, replaced, added or moved, and with damaged bytes.

Equal seeds produce equal inputs.
"""

import copy
import json
import random
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from star_catalog.zoo import NotAvailable
from star_training.errors import unexpected

COUNT = 1000  # inputs of a loader
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 3, 7.5, -1e308, 10**9, 10**30, 10**400, float("nan"), float("inf"), "", "x", "NaN",
    "null", "../..", "\x00", "\ud800", "ε" * 300, "a\nb", [], {}, [1], ["x"], [None], [[1, 2], [3]], {"a": 1},
    {"name": "x", "value": None}, [{"a": [1]}], [0.5, 0.5, 0.5], [3, 32, 32],
]  # fmt: skip
NUMBERS = ["NaN", "-Infinity", "1e999", "-0", "9" * 30, "9" * 5000, "[" * 100_000, "[[[[]]]]", '{"a":' * 500, '"x"']


def documents(valid: Any, seed: int, count: int = COUNT) -> Iterator[bytes]:
    """Mutations of some JSON; a few are other JSON altogether, or none."""
    rng = random.Random(seed)
    yield from (json.dumps(value).encode() for value in VALUES)
    yield from (b"", b"{", b"\x80", b"[" * 100_000, b"null" * 9, b'{"a": 1, "a": 2}')
    text = json.dumps(valid).encode()
    for _ in range(count - len(VALUES) - 6):
        yield document(valid, rng) if rng.random() < 0.8 else damaged(text, rng)


def document(valid: Any, rng: random.Random) -> bytes:
    """Some JSON with one to three changes, and at times with a number or a text that JSON hardly holds."""
    data = copy.deepcopy(valid)
    for _ in range(rng.randint(1, 3)):
        change(data, rng)
    text = json.dumps(data)
    if rng.random() < 0.15:
        scalars = list(re.finditer(r'(?<=[:\[,] )(-?\d[\d.e+-]*|"[^"\\]*"|null|true|false)(?=[,\]}])', text))
        if scalars:
            place = rng.choice(scalars)
            text = text[: place.start()] + rng.choice(NUMBERS) + text[place.end() :]
    return text.encode()


def change(data: Any, rng: random.Random) -> None:
    """Replaces, removes, adds or moves a part of some JSON."""
    found = list(places(data))
    if not found:
        return
    container, key = rng.choice(found)
    kind = rng.choice(["replace", "replace", "remove", "add", "move", "type"])
    if kind == "remove":
        del container[key]
    elif kind == "add":
        if isinstance(container, dict):
            container[rng.choice(["x", "name", "", "data"])] = copy.deepcopy(rng.choice(VALUES))
        else:
            container.append(copy.deepcopy(rng.choice(VALUES)))
    elif kind == "move":
        other, where = rng.choice(found)
        known = other if isinstance(other, dict) else range(len(other))  # an earlier change may have removed it
        container[key] = copy.deepcopy(other[where]) if where in known else None
    elif kind == "type":
        value = container[key]
        container[key] = rng.choice([str(value), [value], {"a": value}, value == 0, None])
    else:
        container[key] = copy.deepcopy(rng.choice(VALUES))


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) in some JSON."""
    for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield value, key
        if isinstance(inner, (dict, list)):
            yield from places(inner)


def damaged(data: bytes, rng: random.Random, until: int = 4000) -> bytes:
    """Bytes with up to four of the first `until` changed, cut short, or with a part repeated."""
    changed = bytearray(data)
    for _ in range(rng.randint(0, 4)):
        if changed:
            changed[rng.randrange(min(until, len(changed)))] ^= 1 << rng.randrange(8)
    kind = rng.random()
    if kind < 0.4:
        return bytes(changed[: rng.randrange(len(changed) + 1)])
    if kind < 0.5 and changed:
        start = rng.randrange(len(changed))
        return bytes(changed[:start] + changed[start : start + 50] * 2 + changed[start:])
    return bytes(changed)


def texts(known: Iterable[str], alphabet: str, seed: int, count: int = COUNT) -> Iterator[str]:
    """Mutations of some texts: characters removed, repeated, replaced, texts joined."""
    rng, known = random.Random(seed), list(known)
    yield from ("", " ", "\x00", "\ud800", "x" * 5000, "(" * 1000, "ε", "\n")
    for _ in range(count - 8):
        text = rng.choice(known)
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(len(text) + 1)
            kind = rng.randrange(4)
            if kind == 0:
                text = text[:place] + text[place + 1 :]
            elif kind == 1:
                text = text[:place] + rng.choice(alphabet) + text[place:]
            elif kind == 2:
                text = text[:place] + rng.choice(known)
            else:
                text = text[: place // 2] + text[place:]
        yield text


def refused_or_loaded(load: Callable[[Any], object], inputs: Iterable[Any]) -> int:
    """Loads every input and returns the number of refused ones, each by an error of one line that a command prints.

    Raises AssertionError with the others.
    """
    refused, wrong, total = 0, [], 0
    for given in inputs:
        total += 1
        try:
            load(given)
        except (ValueError, OSError, NotAvailable) as error:
            refused += 1
            if "\n" in str(error) or not str(error) or isinstance(error, UnicodeError):
                wrong.append(f"{type(error).__name__} {str(error)[:300]!r} for {given[:200]!r}")
        except Exception as error:
            wrong.append(f"{unexpected(error)} for {given[:300]!r}")
    assert not wrong, f"{len(wrong)} of {total}:\n" + "\n".join(wrong[:10])
    return refused


def written(path: Path, load: Callable[[], object]) -> Callable[[bytes], object]:
    """A loader of bytes, from one of files."""

    def write_and_load(data: bytes) -> object:
        path.write_bytes(data)
        return load()

    return write_and_load
