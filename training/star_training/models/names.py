"""The grammar of model names, in one place.

MODEL := NAME | untrained:NAME | WRAPPER[(ARGS)]:MODEL | WRAPPER[(ARGS)]:MODEL+MODEL[+MODEL...]

A wrapper is a module of `star_zoo.wrappers`; the second form is of those that join several models, as concat does. ARGS
are its settings, `views=8` or by position. A path that exists is a name, whatever characters it has. A wrapper stands
before the next model alone, so that concat:averaged:A+B averages A; a concat within a concat takes all that follows.
"""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_type_hints

from star_catalog.names import not_found

from ..settings.base import parse_value, typed

_UNTRAINED = "untrained:"
_HEAD = re.compile(r"([A-Za-z_]\w*)(?:\(([^()]*)\))?:")
_SCHEMES = ("timm", "hf_hub")  # of timm's names, where they look like a wrapper; hf-hub: and local-dir: don't


@dataclass(frozen=True)
class Leaf:
    """One model: a name that means a folder, a file of the Hub or a model of timm."""

    name: str
    untrained: bool = False

    def __str__(self) -> str:
        return f"{_UNTRAINED if self.untrained else ''}{self.name}"


@dataclass(frozen=True)
class Wrapped:
    """Models in a wrapper, with the settings that the name gives."""

    wrapper: str
    settings: dict[str, Any]
    models: "tuple[Leaf | Wrapped, ...]"

    def __str__(self) -> str:
        arguments = ",".join(f"{name}={json.dumps(value)}" for name, value in self.settings.items())
        return f"{self.wrapper}{f'({arguments})' if arguments else ''}:{'+'.join(map(str, self.models))}"


Model = Leaf | Wrapped


def parse(text: str) -> Model:
    """Returns what a name means by the grammar. Raises ValueError for wrong settings and for missing models."""
    if names_path(text):
        return Leaf(expanded(text))
    if not text:
        raise ValueError("a model's name is empty; pass a run, a saved folder, a zoo tag or any timm name")
    if text.startswith(_UNTRAINED):
        inner = parse(text.removeprefix(_UNTRAINED))
        if isinstance(inner, Wrapped) or inner.untrained:
            raise ValueError(f"{text!r}: untrained: stands before a single name, as in averaged:untrained:NAME")
        return Leaf(inner.name, untrained=True)
    head = _HEAD.match(text)
    if head is None:
        return Leaf(text)
    from star_zoo import wrappers  # imports timm, which a single name doesn't need

    if head[1] not in wrappers.known():
        return Leaf(text)
    name, rest = head[1], text[head.end() :]
    several = wrappers.find(name).several
    parts = list(_split(rest)) if several else [rest]
    if not all(parts) or (several and len(parts) < 2):
        raise ValueError(f"{text!r} lacks a model; write {name}:{'MODEL+MODEL' if several else 'MODEL'}")
    return Wrapped(name, _settings(name, head[2] or ""), tuple(map(parse, parts)))


def check_scheme(leaf: Leaf) -> None:
    """Raises ValueError where an unknown wrapper stands before a name, listing the known ones."""
    from star_zoo import wrappers

    if (head := _HEAD.match(leaf.name)) and head[1] not in _SCHEMES and not names_path(leaf.name):
        raise ValueError(f"model {leaf.name!r}: {not_found('wrapper', head[1], wrappers.known())}")


def leaves(model: Model) -> Iterator[Leaf]:
    """Iterates over the single models in a model, from left to right."""
    if isinstance(model, Leaf):
        yield model
    else:
        for inner in model.models:
            yield from leaves(inner)


def names_path(text: str) -> bool:
    """Whether a name is a path that exists, with or without local-dir:."""
    path = expanded(text.removeprefix("local-dir:"))
    return bool(path) and os.path.exists(path)  # not Path.exists, which raises for a name that is too long


def expanded(text: str) -> str:
    """Returns a path with its `~` expanded, and with local-dir: if it has it."""
    prefix = "local-dir:" if text.startswith("local-dir:") else ""
    return prefix + os.path.expanduser(text.removeprefix(prefix))


def _split(text: str) -> Iterator[str]:
    """Splits MODEL+MODEL at each + that is not in a path that exists, in settings, or in an inner concat."""
    from star_zoo import wrappers

    starts = [0]
    while head := _HEAD.match(text, starts[-1]):
        starts.append(head.end())
        if head[1] in wrappers.known() and wrappers.find(head[1]).several:
            yield text
            return
    ends = [m.start() for m in re.finditer(r"\+", text) if m.start() >= starts[-1]] + [len(text)]
    of_path = (end for end in reversed(ends) if any(names_path(text[start:end]) for start in starts))
    end = next(of_path, ends[0])
    yield text[:end]
    if end < len(text):
        yield from _split(text[end + 1 :])


def _settings(wrapper: str, text: str) -> dict[str, Any]:
    """Reads ARGS, each checked against the type of the wrapper's keyword-only argument."""
    from star_zoo import wrappers

    known, hints = list(wrappers.settings(wrapper)), get_type_hints(wrappers.find(wrapper).__init__)
    given: dict[str, Any] = {}
    for place, argument in enumerate(text.split(",") if text.strip() else []):
        name, equals, value = (part.strip() for part in argument.partition("="))
        if not equals:
            if place >= len(known):
                raise ValueError(f"{wrapper}({text}) has too many settings; known: {', '.join(known) or 'none'}")
            name, value = known[place], name
        if name not in known:
            raise ValueError(not_found(f"setting of {wrapper}", name, known))
        if name in given:
            raise ValueError(f"{wrapper}({text}) has {name} twice")
        given[name] = typed(parse_value(value), hints[name], f"{wrapper}.{name}")
    return given
