"""Evaluating one model on one data set by one protocol, with a record of what was measured."""

import json
import time
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from star_zoo.files import write_json

from . import evals
from .data import Source, open_source
from .evals.features import Labelled, Preprocess, extract, pixels, timm_view
from .pretrainer import model_folder


def evaluate(protocol: str, model: str, data: str, seed: int = 0) -> dict[str, Any]:
    """Runs a protocol on frozen features of a data set's train and test splits; gives the record of it.

    `model` is a run, a saved folder, any timm name or hub id, `untrained:NAME` for random weights (from `seed`), or
    `pixels` for the images themselves. Raises ValueError for what can't be evaluated.
    """
    run = evals.find(protocol)
    backbone, preprocess = load(model, seed)
    train, test = (open_source(data, split) for split in ("train", "test"))
    start = time.perf_counter()
    metrics = run(*(_labelled(backbone, source, preprocess) for source in (train, test)), seed=seed)
    return {
        "protocol": protocol,
        "model": model,
        "data": Path(data).name,
        "data_fingerprint": [train.fingerprint, test.fingerprint],
        "images": [len(train), len(test)],
        "seed": seed,
        "metrics": metrics,
        "seconds": round(time.perf_counter() - start, 1),
    }


def load(model: str, seed: int) -> tuple[nn.Module, Preprocess]:
    """A backbone by name, and what turns images into its input."""
    if model == "pixels":
        return nn.Flatten(), pixels(32)
    folder = model_folder(model)
    untrained = model.startswith("untrained:")
    name = f"local-dir:{folder}" if folder else model.removeprefix("untrained:").removeprefix("timm:")
    if untrained:
        torch.manual_seed(seed)
    try:
        backbone = timm.create_model(name, pretrained=not untrained, num_classes=0)
    except (RuntimeError, KeyError) as error:
        raise ValueError(f"model {model!r} can't be loaded: {error}") from error
    return backbone, timm_view(backbone)


def record(path: Path, result: dict[str, Any]) -> None:
    """Adds a result to a JSON list in a file, in place of an earlier one of the same protocol, model, data and seed."""
    same = ("protocol", "model", "data", "seed")
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    kept = [r for r in before if any(r[k] != result[k] for k in same)]
    write_json(path, [*kept, result])


def _labelled(backbone: nn.Module, source: Source, preprocess: Preprocess) -> Labelled:
    if source.targets is None:
        raise ValueError(f"{source.name} has no labels to evaluate with")
    return Labelled(extract(backbone, source, preprocess), source.targets)
