"""Nearest neighbours shown as images, by the invariant and by the equivariant embedding."""

import io
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import resize, to_pil_image

from ..data.eval_sets.dataset import Splits
from ..data.eval_sets.names import ends
from ..data.sources.base import Source
from .drawing import Figure
from .loading import Shown
from .pixels import as_colours
from .tables import Table

_SIDE, _GAP, _SHOWN = 56, 4, 5  # pixels of an image and between images; neighbours of each kind


def measured(model: Shown) -> list[str]:
    """Returns the names of the data sets among whose images a model has nearest neighbours."""
    return [record.data for record in model.evaluations if "neighbours" in record.details]


def draw(models: list[Shown], splits: Splits) -> list[Figure]:
    """Returns a sheet for every model with a record of nearest neighbours among these images."""
    figures = []
    for model in models:
        called = [r for r in model.evaluations if "neighbours" in r.details and r.data in ends(splits.spec)]
        if not called:
            continue
        test = splits.reading(model.channels).test
        records = [r for r in called if r.data_fingerprint["test"] == test.fingerprint]
        if not records:
            raise ValueError(f"{splits.spec} does not contain the images that {model.label} was measured on")
        figures += [_sheet(model.label, r.details["neighbours"], test) for r in records]
    return figures


def _sheet(label: str, found: dict[str, list[Any]], source: Source) -> Figure:
    """Draws one row per query: the image, its neighbours by z_inv, a gap, its neighbours by z_eq."""
    rows = []
    for query, invariant, equivariant in zip(found["queries"], found["invariant"], found["equivariant"], strict=True):
        groups = ([query], invariant[:_SHOWN], equivariant[:_SHOWN])
        rows.append(torch.cat([_strip(source, group) for group in groups], 2))
    png = io.BytesIO()
    to_pil_image(torch.cat(rows, 1)).save(png, format="PNG")
    numbers = Table(
        "neighbours",
        ["image", "by z_inv", "by z_eq"],
        [
            [str(query), ", ".join(map(str, a[:_SHOWN])), ", ".join(map(str, b[:_SHOWN]))]
            for query, a, b in zip(found["queries"], found["invariant"], found["equivariant"], strict=True)
        ],
    )
    alt = (
        f"{len(rows)} test images, one per row, each followed by its {_SHOWN} nearest neighbours by the invariant "
        f"and its {_SHOWN} nearest by the equivariant embedding."
    )
    return Figure(f"neighbours_{label}", f"Nearest neighbours, {label}", alt, png.getvalue(), numbers)


def _strip(source: Source, indices: list[int]) -> Tensor:
    """Returns images side by side, separated by white, with a wider white gap at the end: (3, S + gap, W) uint8."""
    resized = [resize(as_colours(source[i]), [_SIDE, _SIDE], antialias=True) for i in indices]
    images = [image.round().to(torch.uint8) for image in resized]  # more bits are float32 from 0 to 255
    padded = [torch.nn.functional.pad(image, (0, _GAP, 0, _GAP), value=255) for image in images]
    return torch.nn.functional.pad(torch.cat(padded, 2), (0, 3 * _GAP), value=255)
