"""One figure of a run: its training views, its losses and evaluations, and the expert weights of its router."""

from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from star_catalog.files import replacing
from star_zoo import Policy

from ..engine.logging import evaluations_of


def draw(path: Path, views: Tensor, policy: Policy, entries: list[dict[str, Any]], weights: Tensor | None) -> None:
    """Writes a PNG: views (rows, V, 3, S, S) normalised, log entries, mean router weights (T, E) or None."""
    figure = Figure(figsize=(10, 7), layout="constrained")  # without pyplot, for which a notebook has its own settings
    axes = figure.subplots(2, 2)
    _views(axes[0, 0], views, policy)
    _losses(axes[0, 1], [e for e in entries if "loss" in e])
    _evaluations(axes[1, 0], evaluations_of(entries))
    _routing(axes[1, 1], weights)
    with replacing(path) as part:
        figure.savefig(part, dpi=120, format="png")


def _views(axes: Axes, views: Tensor, policy: Policy) -> None:
    mean, std = (torch.tensor(v)[:, None, None] for v in (policy.mean, policy.std))
    pixels = (views * std + mean).clamp(0, 1)
    rows = [torch.cat(list(row), 2) for row in pixels]
    axes.imshow(torch.cat(rows, 1).permute(1, 2, 0).numpy())
    columns = (
        ["base view", "view 1", "view 2"] if views.shape[1] == 3 else [f"view {v + 1}" for v in range(views.shape[1])]
    )
    side = views.shape[-1]
    axes.set_xticks([side * (v + 0.5) for v in range(len(columns))], columns)
    axes.set_yticks([])
    axes.set_title("training views of four images")


def _losses(axes: Axes, entries: list[dict[str, Any]]) -> None:
    others = {"epoch", "step", "lr", "images_per_second", "data_wait", "seconds"}
    styles = iter(("-", "--", ":", "-."))
    for name in [n for n in entries[0] if n not in others]:
        axes.plot([e["epoch"] for e in entries], [e[name] for e in entries], next(styles, "-"), label=name)
    axes.set_xlabel("epoch")
    axes.set_title("training loss and its terms")
    axes.legend()


def _evaluations(axes: Axes, entries: list[dict[str, Any]]) -> None:
    axes.set_title("frozen features on held-out images")
    axes.set_xlabel("epoch")
    if not entries:
        axes.text(0.5, 0.5, "no labels to evaluate on", ha="center", va="center", transform=axes.transAxes)
        return
    names = {
        "r2": "R² of the true numbers (ridge)",
        "knn1_top1": "1-NN top-1",
        "knn20_top1": "20-NN top-1",
        "linear_top1": "linear top-1",
    }
    markers = iter(("o-", "s--", "^:"))
    for name in [n for n in entries[0] if n in names]:
        axes.plot([e["epoch"] for e in entries], [e[name] for e in entries], next(markers), label=names[name])
    axes.axhline(entries[0][name], color="0.6", linewidth=1)
    axes.annotate("untrained", (entries[-1]["epoch"], entries[0][name]), ha="right", va="bottom", color="0.4")
    axes.legend()


def _routing(axes: Axes, weights: Tensor | None) -> None:
    axes.set_title("mean weight of each expert")
    if weights is None:
        axes.text(0.5, 0.5, "this objective has no router", ha="center", va="center", transform=axes.transAxes)
        axes.set_axis_off()
        return
    table = axes.imshow(weights.numpy(), cmap="viridis", vmin=0, aspect="auto")
    for task, row in enumerate(weights.tolist()):
        for expert, weight in enumerate(row):
            shade = "white" if weight < 0.6 * float(weights.max()) else "black"
            axes.text(expert, task, f"{weight:.2f}", ha="center", va="center", color=shade)
    axes.set_xticks(range(weights.shape[1]), [f"expert {e + 1}" for e in range(weights.shape[1])])
    axes.set_yticks(range(2), ["invariant", "equivariant"])
    axes.figure.colorbar(table, ax=axes, label="mean weight")
