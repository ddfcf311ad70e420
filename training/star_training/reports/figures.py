"""The figures of a page, each with a description and its numbers: those of training logs here, those of protocols in
`details`."""

from collections.abc import Callable

import numpy as np

from star_catalog.decimals import fixed

from . import details
from .curves import Curve, over_steps
from .drawing import Figure, Looks, axes_of, draw_over_steps, experts, finish, looks_of, sized
from .loading import Shown
from .tables import Table

_NAMES = {  # of online metrics, on their axes
    "knn1_top1": "1-NN top-1",
    "knn20_top1": "20-NN top-1",
    "linear_top1": "linear top-1",
    "r2": "R²",
    "rankme": "RankMe",
    "top1": "fine-tuning top-1",
}


def draw(models: list[Shown]) -> list[Figure]:
    """Returns all figures for which any of the models has data."""
    looks = looks_of(model.label for model in models)
    with sized():
        found = [draw_one(models, looks) for draw_one in _OF_LOGS] + [
            draw_one({m.label: known for m in models if (known := m.details(protocol))}, looks)
            for protocol, draw_one in details.known().items()
        ]
    return [figure for figure in found if figure]


def losses(models: list[Shown], looks: Looks) -> Figure | None:
    """Draws the loss over steps."""
    series = {m.label: curves["loss"] for m in models if "loss" in (curves := over_steps(m.log))}
    if not series:
        return None
    figure, axes = axes_of()
    draw_over_steps(axes[0, 0], series, looks)
    axes[0, 0].set(ylabel="training loss")
    rows = [[label, fixed(y[0], 3), fixed(y[-1], 3), f"{x[-1]:.0f}"] for label, (x, y) in series.items()]
    alt = "; ".join(f"{label} from {first} to {last} in {steps} steps" for label, first, last, steps in rows)
    numbers = Table("loss", ["model", "first", "last", "steps"], rows)
    return Figure("loss", "Training loss", f"Loss over training steps: {alt}.", finish(figure), numbers)


def online(models: list[Shown], looks: Looks) -> Figure | None:
    """Draws the evaluations during training: one small plot per metric, one line per model."""
    panels: dict[str, dict[str, Curve]] = {}
    for model in models:
        for name, curve in over_steps(model.log).items():
            if name != "loss":
                panels.setdefault(name, {})[model.label] = curve
    if not panels:
        return None
    figure, axes = axes_of(len(panels), height=1.9)
    for (name, series), axis in zip(panels.items(), axes[:, 0], strict=True):
        draw_over_steps(axis, series, looks)
        axis.set(ylabel=_NAMES.get(name, name))
    curves = [(label, name, y) for name, series in panels.items() for label, (_, y) in series.items()]
    images = {model.label: model.online_images for model in models}
    rows = [[label, name, fixed(y[0], 3), fixed(y[-1], 3), _images(images[label], name)] for label, name, y in curves]
    alt = "; ".join(f"{label}, {name}, from {first} to {last}" for label, name, first, last, _ in rows)
    numbers = Table("online", ["model", "metric", "first", "last", "images"], rows)
    title = "Frozen features during training, on views of the policy"  # unlike those of `star-zoo eval`
    if panels.keys() == {"top1"}:  # of a fine-tuning
        title = "Test accuracy during training"
    return Figure("online", title, f"Over steps: {alt}.", finish(figure), numbers)


def _images(counts: dict[str, int], metric: str) -> str:
    """Returns the number of images that an online metric is measured on, "-" if it isn't recorded."""
    count = counts.get("train" if metric == "rankme" else "test")
    return "-" if count is None else f"{count:,}"


def usage(models: list[Shown], looks: Looks) -> Figure | None:
    """Draws the mean weight of each expert during training: one small plot per model and task, one line per expert."""
    known = {m.label: [e for e in m.log if "router" in e] for m in models}
    known = {label: entries for label, entries in known.items() if len(entries) > 1}
    if not known:
        return None
    figure, axes = axes_of(2 * len(known), height=2.1)
    places, rows = iter(axes[:, 0]), []
    for label, entries in known.items():
        steps, weights = [e["step"] for e in entries], np.array([e["router"] for e in entries])  # (entries, T, E)
        of_experts = experts(weights.shape[2])
        for task, name in enumerate(("invariant", "equivariant")):
            axis = next(places)
            series = {e: (steps, weights[:, task, k].tolist()) for k, e in enumerate(of_experts)}
            draw_over_steps(axis, series, of_experts)
            axis.set(title=f"{label}, {name} task", ylabel="mean weight", ylim=(0, None))
            for when, row in (("first", weights[0, task]), ("last", weights[-1, task])):
                rows.append([label, name, when, ", ".join(f"{w:.3f}" for w in row)])
    alt = "Mean routing weight of each expert over training, for both tasks; the table has the first and last values."
    numbers = Table("usage", ["model", "task", "when", "weights of experts 1, 2, ..."], rows)
    return Figure("usage", "How the tasks share the experts during training", alt, finish(figure), numbers)


_OF_LOGS: tuple[Callable[[list[Shown], Looks], Figure | None], ...] = (losses, online, usage)
