"""The models of a page, with their logs and evaluation records."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from star_catalog.files import user_path
from star_catalog.reading import json_object

from ..engine.logging import read
from ..engine.results import read as read_results
from ..engine.saving.best import FOLDER
from ..evaluation.record import Record
from ..models.resolve import called, label, saved_folder


@dataclass(frozen=True)
class Shown:
    """One model of the page."""

    label: str
    folder: Path | None  # holds its weights and its card
    log: list[dict[str, Any]]  # entries of its training log; empty if it has none
    evaluations: list[Record]
    comparisons: list[dict[str, Any]] = field(default_factory=list)  # of `star-zoo compare`, with this model first
    settings: dict[str, Any] = field(default_factory=dict)  # recipe.json or finetune.json; empty if it has none
    steps: int | None = None  # of its training
    channels: int = 3  # of the images that it takes
    online_images: dict[str, int] = field(default_factory=dict)  # of its evaluations during training, by split
    seen: list[str] = field(default_factory=list)  # sentences about test images that its pretraining used

    def details(self, protocol: str) -> dict[str, Any] | None:
        """Returns the details of the first record of a protocol; None if it was not run."""
        return next((record.details for record in self.evaluations if record.protocol == protocol), None)


def gather(names: list[str]) -> list[Shown]:
    """Returns the models of runs, saved folders and results.json files. Raises ValueError for any other name."""
    files = [(name, user_path(name)) for name in names]
    models = [model for name, path in files for model in (_from_file(path) if path.is_file() else [_of(name)])]
    labels = [model.label for model in models]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise ValueError(f"several models are called {', '.join(twice)}; rename their folders so that the names differ")
    return models


def _of(name: str) -> Shown:
    from ..publishing.card_results import seen  # imports timm, which tables don't need
    from ..publishing.card_training import Made, chain

    folder = saved_folder(name)
    log = (folder.parent if folder.name in ("export", FOLDER) else folder) / "log.jsonl"
    results, records = read_results(folder / "results.json"), _evaluations(folder / "results.json")
    files = (folder / "recipe.json", folder / "finetune.json")
    recipe, finetune = (json_object(path, path.name) if path.is_file() else {} for path in files)
    return Shown(
        called(str(folder)),
        folder,
        read(log) if log.is_file() else [],
        records,
        results.get("comparisons", []),
        finetune or recipe,
        results.get("training", {}).get("steps"),
        _channels(str(folder)),
        results.get("online_images", {}),
        seen(chain(Made(recipe, finetune, results)), records, results),
    )


def _from_file(path: Path) -> list[Shown]:
    by_model: dict[str, list[Record]] = {}
    for record in _evaluations(path):
        by_model.setdefault(record.model, []).append(record)
    compared: dict[str, list[dict[str, Any]]] = {}
    for comparison in read_results(path).get("comparisons", []):
        compared.setdefault(comparison["model"], []).append(comparison)
    return [
        Shown(label(model), None, [], by_model.get(model, []), compared.get(model, []), channels=_channels(model))
        for model in dict.fromkeys([*by_model, *compared])
    ]


def _channels(model: str) -> int:
    """Returns the number of channels of a model's images."""
    from ..models.create import input_channels  # as above

    return input_channels(model)


def _evaluations(path: Path) -> list[Record]:
    """Returns the records of a results.json. Raises ValueError, naming the file, for one that is not readable."""
    return [Record.from_dict(found) for found in read_results(path).get("evaluations", [])]
