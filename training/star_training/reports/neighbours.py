"""Nearest neighbours shown as images, by the invariant and by the equivariant embedding."""

from pathlib import Path
from typing import Any

import torch
from torchvision.transforms.v2.functional import resize

from ..data.eval_sets.dataset import Splits
from ..data.eval_sets.names import ends
from ..data.sources.base import Source
from .drawing import WIDTH, Figure, axes_of, finish
from .loading import Shown
from .pixels import as_colours
from .tables import Table

_SIDE, _SHOWN = 56, 5  # pixels of an image; neighbours of each kind


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
    """Draws one row per query: the image, its neighbours by z_inv and by z_eq, framed by right and wrong."""
    groups = {"invariant": found["invariant"], "equivariant": found["equivariant"]}
    figure, axes = axes_of(len(found["queries"]), 1 + 2 * _SHOWN, height=0.5, width=2 * WIDTH)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    axes[0, 0].set_title("image")
    rows: list[list[str]] = []
    for line, query in zip(axes, found["queries"], strict=True):
        _show(line[0], source, query, query)
        cells = [_name(source, query)]
        for number, nearest in enumerate(groups.values()):
            near = nearest[len(rows)][:_SHOWN]
            for axis, index in zip(line[1 + number * _SHOWN :], near, strict=False):
                _show(axis, source, index, query)
            cells.append("; ".join(_name(source, index) for index in near))
        rows.append(cells)
    for number, name in enumerate(groups):
        heading = axes[0, 1 + number * _SHOWN + _SHOWN // 2].set_title(f"nearest by the {name} embedding")
        heading.set_in_layout(False)  # it is wider than its column
    classes = source.targets is not None and not source.targets.is_floating_point()
    alt = (
        f"{len(rows)} test images, one per row, each followed by its {_SHOWN} nearest neighbours by the invariant "
        f"and its {_SHOWN} nearest by the equivariant embedding"
        f"{'; those of its class have a green solid frame, others a red dashed one' if classes else ''}."
    )
    numbers = Table("neighbours", ["image", "by z_inv", "by z_eq"], rows)
    return Figure(f"neighbours_{label}", f"Nearest neighbours, {label}", alt, finish(figure), numbers)


def _show(axis: Any, source: Source, index: int, query: int) -> None:
    """Shows an image in a frame: green and solid if its class is that of the query, else red and dashed."""
    image = resize(as_colours(source[index]), [_SIDE, _SIDE], antialias=True)
    axis.imshow(image.round().to(torch.uint8).permute(1, 2, 0).numpy())  # more bits are float32 from 0 to 255
    targets = source.targets
    if index == query or targets is None or targets.is_floating_point():
        return
    same = bool(targets[index] == targets[query])
    for side in axis.spines.values():
        side.set(color="#009E73" if same else "#D55E00", linestyle="-" if same else "--", linewidth=2)


def _name(source: Source, index: int) -> str:
    """Returns the origin of an image without the folder of its data set."""
    return source.describe(index).replace(f"{source.name}/", "").replace(f"{Path(source.name).parent}/", "")
