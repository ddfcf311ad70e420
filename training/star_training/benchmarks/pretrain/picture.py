"""The time of each part of a step, one bar per size; parts differ in colour and hatch."""

import itertools
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from .clock import PARTS

_HATCHES = ("", "//", "xx", "..", "\\\\", "++")
_LEGIBLE = 0.04  # smallest share of a bar that is labelled


def draw(path: Path, found: dict[str, Any]) -> None:
    """Writes a PNG of the results of `star-zoo bench pretrain`."""
    sizes = found["sizes"]
    figure = Figure(figsize=(10, 1.6 + 0.7 * len(sizes)), layout="constrained")
    axes = figure.subplots()
    names = [f"{name}\n{1000 * sum(result['parts'].values()):.0f} ms a step" for name, result in sizes.items()]
    left = [0.0] * len(sizes)
    for part, hatch in zip(PARTS, itertools.cycle(_HATCHES), strict=False):
        shares = [result["parts"][part] / sum(result["parts"].values()) for result in sizes.values()]
        bars = axes.barh(names, shares, left=left, label=part, hatch=hatch, edgecolor="white")
        written = [f"{share:.0%}" if share >= _LEGIBLE else "" for share in shares]
        boxed = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
        for text, label in zip(axes.bar_label(bars, written, label_type="center", fontsize=8), written, strict=True):
            text.set_bbox(boxed if label else None)
        left = [a + b for a, b in zip(left, shares, strict=True)]
    axes.invert_yaxis()  # the first size on top
    axes.set(
        xlim=(0, 1), xlabel="share of a step's time", title=f"parts of our training step, {found['machine']['cpu']}"
    )
    figure.legend(loc="outside lower center", ncols=4, fontsize=8)
    figure.savefig(path, dpi=120, format="png")
