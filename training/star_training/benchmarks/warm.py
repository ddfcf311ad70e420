"""`star-zoo eval knn` with features in the cache beside a plain program for 20-NN, each in a new process.

The plain program imports torch, reads the same features and labels, and computes the same accuracy; it is the least
that such an evaluation takes. The two alternate; a ratio is the median over the rounds of the ratio within a round. The
first round is dropped, because it fills caches.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from .imports import run_python
from .pretrain.rounds import ratio

_PLAIN = """
import sys
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
found = load_file(sys.argv[1])
bank, queries = (F.normalize(found[name], dim=1) for name in ("bank", "queries"))
classes, hits = int(found["labels"].max()) + 1, 0
for part, truth in zip(queries.split(1024), found["truth"].split(1024)):
    cosines, nearest = (part @ bank.T).topk(20, dim=1)
    votes = torch.zeros(len(part), classes).scatter_add_(1, found["labels"][nearest], (cosines / 0.07).exp())
    hits += int((votes.argmax(1) == truth).sum())
print(hits / len(found["truth"]))
"""


def declare(parser: argparse.ArgumentParser) -> None:
    """Declares the benchmark's arguments."""
    add = parser.add_argument
    add("--model", default="star_resnet10t", help="model, as in star-zoo eval (default: %(default)s)")
    add("--data", required=True, help="data set with train and test splits of at least 20 training images")
    add("--rounds", type=int, default=5, help="processes of each (default: %(default)s)")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Prints and returns the comparison. Raises ValueError for fewer than one round, or if the accuracies differ."""
    if arguments.rounds < 1:
        raise ValueError(f"--rounds is {arguments.rounds}; it must be at least 1")
    from ..engine.results import read
    from ..evaluation.record import Record
    from .pretrain.machine import machine

    with tempfile.TemporaryDirectory() as folder:
        features, results = Path(folder) / "features.safetensors", Path(folder) / "results.json"
        images = _save_features(arguments.model, arguments.data, features)
        programs = {
            "ours": ["-m", "star_training", "eval", "knn", arguments.model, "--data", arguments.data, "--out", results],
            "plain": ["-c", _PLAIN, features],
        }
        seconds = [_round(number, programs) for number in range(arguments.rounds + 1)][1:]
        (result,) = read(results)["evaluations"]
        accuracy = Record.from_dict(result).metrics["knn20_top1"].value
        plain = float(run_python("-c", _PLAIN, str(features)))
    if abs(accuracy - plain) > 2 / images["test"]:  # equal votes may be counted in another order
        raise ValueError(f"20-NN finds {accuracy:.4f}, the plain program {plain:.4f}: they don't do the same work")
    found = {
        "machine": machine(), "model": arguments.model, "data": Path(arguments.data).stem, "images": images,
        "seconds": seconds, "ratio": ratio(seconds, "ours", "plain"), "accuracy": accuracy,
    }  # fmt: skip
    ours, others = (statistics.median(each[name] for each in seconds) for name in programs)
    spoken = "{median:.2f} times as long ({least:.2f} to {most:.2f} over the rounds)".format(**found["ratio"])
    print(f"star-zoo eval knn {ours:.2f} s, plain torch {others:.2f} s: {spoken}", flush=True)
    return found


def _save_features(model: str, data: str, path: Path) -> dict[str, int]:
    """Saves features and labels for the plain program, which also fills our cache; returns the numbers of images."""
    from safetensors.torch import save_file

    from star_catalog import store

    from ..data.eval_sets.dataset import Splits
    from ..evaluation.features import as_classes
    from ..evaluation.frozen_model import load

    frozen, splits = load(model, 0, store.home() / "features"), Splits(data)
    bank, queries = as_classes(splits.name, frozen.labelled(splits.train), frozen.labelled(splits.test))
    save_file(
        {"bank": bank.features, "queries": queries.features, "labels": bank.targets, "truth": queries.targets}, path
    )
    return {"train": len(bank.targets), "test": len(queries.targets)}


def _round(number: int, programs: dict[str, list[Any]]) -> dict[str, float]:
    """Returns the seconds of each program as a whole process; every other round runs them in the other order."""
    found = {}
    for name in programs if number % 2 else reversed(programs):
        start = time.perf_counter()
        run_python(*map(os.fspath, programs[name]))
        found[name] = time.perf_counter() - start
    return found
