"""Figures of the details of protocols, one protocol per file, found by module name.

A module has the name of its protocol and a function `draw(known, looks) -> Figure | None`, where `known` holds the
details of the protocol's record by label of the model, and `looks` the style of each. A protocol needs no figure.
"""

import importlib
from collections.abc import Callable
from typing import Any

from star_catalog.names import modules

from ..drawing import Figure, Looks


def known() -> dict[str, Callable[[dict[str, dict[str, Any]], Looks], Figure | None]]:
    """Returns the function that draws each protocol's details, by protocol, sorted."""
    return {name: importlib.import_module(f"{__name__}.{name}").draw for name in modules(__name__)}
