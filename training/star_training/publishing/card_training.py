"""The training of a card: the settings, the cost and the command of each run that made the model, oldest first."""

import dataclasses
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from star_catalog.decimals import significant
from star_zoo import objectives

from .. import recipes
from ..finetuning.config import FineTune, LabelledData
from ..pretraining.recipe import Recipe
from ..settings.base import CHOSEN, override
from ..settings.common import AUTO, precision_name
from .markdown import operand


class Made(NamedTuple):
    """The files that a run left beside its model: recipe.json of a pretraining, finetune.json of a fine-tuning."""

    recipe: dict[str, Any]
    finetune: dict[str, Any]
    results: dict[str, Any]
    file: str = ""  # that holds the settings, if it isn't the run's own

    @property
    def kind(self) -> str:
        """The run as an adjective of its images."""
        return "fine-tuning" if self.finetune else "pretraining"

    @property
    def source(self) -> str:
        """The name of its images, if it is recorded."""
        settings = self.finetune or self.recipe
        return str(settings["data"]["source"]) if settings else ""


def chain(last: Made) -> list[Made]:
    """Returns every run that the results of the last one record, oldest first."""
    made = []
    while any(last):
        made.append(last)
        start = last.results.get("start") or {}
        last = Made(start.get("recipe") or {}, start.get("finetune") or {}, start, "results.json" if start else "")
    return made[::-1]


def described(made: list[Made]) -> list[dict[str, Any]]:
    """Returns the values of the template for each run of which something is recorded."""
    runs = [_finetuning(run) if run.finetune else _pretraining(run) for run in made]
    found = [
        shown | {"cost": _cost(run.results.get("training")), "best": _best(run.results.get("best"))}
        for shown, run in zip(runs, made, strict=True)
    ]
    return [shown for shown in found if any(shown[name] for name in ("settings", "cost", "command", "released"))]


def _pretraining(run: Made) -> dict[str, Any]:
    return {
        "recipe": run.recipe["name"] if run.recipe else None,
        "settings": _settings(run.recipe) if run.recipe else "",
        "start": run.recipe.get("init_from"),
        "file": run.file or "recipe.json",
        "command": _pretrain_command(run.recipe) if run.recipe else [],
        "released": run.results.get("released"),
    }


def _finetuning(run: Made) -> dict[str, Any]:
    return {
        "recipe": None,
        "settings": _settings(run.finetune),
        "start": run.finetune["model"],
        "file": run.file or "finetune.json",
        "command": _finetune_command(run.finetune),
        "released": None,
    }


def _settings(settings: dict[str, Any]) -> str:
    epochs = settings["epochs"]
    parts = [f"{epochs} epoch{'s' if epochs != 1 else ''}", f"batches of {settings['batch_size']}"]
    precision = settings.get("precision", AUTO)
    chosen = [] if precision == AUTO else [precision_name(precision)]
    return ", ".join([*parts, settings["optimizer"]["name"], *chosen])


def _cost(cost: dict[str, Any] | None) -> str:
    if not cost:
        return ""
    processes = f"{cost['processes']} {cost['device'].upper()} process{'es' if cost['processes'] != 1 else ''}"
    took = f"{_duration(cost['seconds'])} on {processes}"
    if peak := cost.get("peak_memory"):
        took += f", peak memory {peak / 1e9:.2f} GB"
    if (chosen := cost.get("precision", {})).get("asked") == AUTO:
        took += f", precision chosen by the run ({chosen['why']})"
    versions = ", ".join(f"{name} {version}" for name, version in cost["versions"].items())
    return f"{cost['images']:,} images in {cost['steps']:,} steps, {took}; {versions}."


def _best(best: dict[str, Any] | None) -> dict[str, Any] | None:
    """Returns the evaluation for which the weights were kept; None for those of the end of a run."""
    if not best:
        return None
    shown = {"step": f"{best['step']:,}", "epoch": f"{best['epoch']:g}", "value": significant(best["value"])}
    return shown | {"metric": best["metric"], "held_out": best["metric"] not in ("loss", "rankme")}


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} second{'s' if round(seconds) != 1 else ''}"
    return f"{seconds / 3600:.1f} hours" if seconds >= 7200 else f"{seconds / 60:.1f} minutes"


# without the defaults that a factory makes
_DEFAULTS = {
    field.name: field.default for field in dataclasses.fields(Recipe) if field.default is not dataclasses.MISSING
}


def _pretrain_command(recipe: dict[str, Any]) -> list[str]:
    """Returns the words of the command with these settings; none if the package lacks the recipe or the objective.

    Nor are there any if no command has exactly these settings, as when an earlier version had others.
    """
    if recipe.get("name") not in recipes.known() or recipe.get("objective") not in objectives.known():
        return []
    source, start = recipe["data"]["source"], recipe.get("init_from")
    recipe = _DEFAULTS | recipe  # earlier versions lacked some
    ours = recipes.find(recipe["name"]).with_objective(recipe["objective"])
    ours = dataclasses.replace(ours, init_from=start, data=dataclasses.replace(ours.data, source=source))
    same = {name: True for name in CHOSEN if getattr(ours, name) == AUTO and recipe.get(name) is True}  # chosen by auto
    differing = list(changes(recipe, ours.to_dict() | same, ""))
    try:
        made = override(ours, differing).to_dict()
    except ValueError:  # a setting that this version lacks
        return []
    if made | same | {"run": recipe.get("run")} != recipe:
        return []
    sets = [word for change in differing for word in ("--set", change)]
    begin = ["--init-from", operand(start)] if start else []
    return ["pretrain", recipe["name"], "--objective", recipe["objective"], "--data", operand(source), *begin, *sets]


def _finetune_command(settings: dict[str, Any]) -> list[str]:
    """Returns the words of the command with these settings."""
    model, source = settings["model"], settings["data"]["source"]
    ours = FineTune(model=model, data=LabelledData(source=source)).to_dict()
    sets = [word for change in changes(settings, ours, "") for word in ("--set", change)]
    return ["finetune", operand(model), "--data", operand(source), *sets]


def changes(settings: dict[str, Any], ours: dict[str, Any], path: str) -> Iterator[str]:
    """Yields the values of `--set` that make settings of ours, which lie below `path`."""
    for name, value in settings.items():
        if not path and name == "run":  # which changes no number
            continue
        before = ours.get(name)
        if isinstance(before, dict) and before and isinstance(value, dict):
            yield from changes(value, before, f"{path}{name}.")
        elif isinstance(before, list) and isinstance(value, list) and before and _names(before) == _names(value):
            for old, new in zip(before, value, strict=True):
                yield from changes(new, old, f"{path}{name}.{new['name']}.")
        elif value != before:
            yield f"{path}{name}={value if isinstance(value, str) else json.dumps(value)}"


def _names(values: list[Any]) -> list[Any]:
    """Returns the names of a list's elements, if they are settings with names; otherwise something else each time."""
    return [value["name"] if isinstance(value, dict) and "name" in value else object() for value in values]
