"""Alternating rounds of the sides, and what they measured: rates, ratios, memory, and that they do the same work."""

import argparse
import contextlib
import dataclasses
import statistics
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

from ..pretrain.elsewhere import Elsewhere
from ..pretrain.machine import machine
from ..pretrain.rounds import ratio, take_turns
from .ours import StarZoo
from .sizes import VIEWS, Size, write_images
from .with_lightly import Lightly
from .with_timm import Timm


def machine_and_peers() -> dict[str, Any]:
    """Returns the machine of a measurement, with lightly's version."""
    found = machine()
    found["versions"]["lightly"] = metadata.version("lightly")
    return found


def compare(size: Size, arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns all measurements of a size as plain data: seconds by round, rates, ratios, memory, views.

    Raises ValueError if the sides' views have different shapes.
    """
    size = dataclasses.replace(size, batch=arguments.batch or size.batch)
    with tempfile.TemporaryDirectory(prefix="star-zoo-bench-") as folder, contextlib.ExitStack() as stack:
        images = Path(folder) / "images"
        write_images(size, images, arguments.images)
        common = arguments.precision, arguments.workers
        sides = [
            stack.enter_context(Elsewhere(StarZoo.name, StarZoo, size, images, Path(folder) / "run", *common)),
            *(
                stack.enter_context(Elsewhere(kind.name, kind, size, images, *common, arguments.channels_last))
                for kind in (Lightly, Timm)
            ),
        ]
        seconds = take_turns(sides, arguments.rounds, arguments.steps)
        views, memory, parameters = (
            {side.name: side.get(what) for side in sides} for what in ("views", "memory", "parameters")
        )
    check_views(size, views)
    return {
        **{name: getattr(size, name) for name in ("backbone", "pixels", "batch")},
        "steps": arguments.steps,
        "seconds": seconds,
        "images per second": {
            side: statistics.median(arguments.steps * size.batch / each[side] for each in seconds) for side in memory
        },
        "times lightly": ratio(seconds, Lightly.name, StarZoo.name),
        "times timm, by view": {k: VIEWS * x for k, x in ratio(seconds, Timm.name, StarZoo.name).items()},
        "memory": memory,
        "memory of lightly": _share(memory),
        "views": views,
        "parameters": parameters,
    }


def check_views(size: Size, views: dict[str, list[list[int]]]) -> None:
    """Raises ValueError unless ours and lightly train on two views of every image, and timm on one, of equal shape."""
    shape = [size.batch, 3, size.pixels, size.pixels]
    for side, found in views.items():
        if found != [shape] * (1 if side == Timm.name else VIEWS):
            raise ValueError(f"{side} trained on views of {found}, which are not those of the other sides; {views}")


def _share(memory: dict[str, dict[str, int]]) -> float:
    """Returns our memory over lightly's: that of tensors on an accelerator, resident memory on a CPU."""
    where = "device" if memory[StarZoo.name]["device"] else "resident"
    return memory[StarZoo.name][where] / memory[Lightly.name][where]
