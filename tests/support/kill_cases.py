"""The commands that are killed: their arguments, their results, and the parts that are complete before the end."""

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

import runs
from star_catalog import store
from star_training.engine.results import read
from star_zoo import hub

TAG = "star_test_resnet.mine"
# differ between two sittings; `why` is the reason for the precision, which a resumed run has from its start
LOOSE = {"seconds", "images_per_second", "data_wait", "peak_memory", "why"}
Words = Callable[[Path], list[str]]  # of a command in a place


@dataclasses.dataclass(frozen=True)
class Case:
    """A command that is killed."""

    words: Words
    results: Callable[[Path], dict[str, Any]]  # equal at the end
    whole: Callable[[Path], set[str]]  # the complete parts of a place; raises for an incomplete one
    prepare: Callable[[Path], object] = lambda place: None  # fills a place
    settings: str = "none"  # the file of a run that has begun, which goes on with --resume
    part: Words | None = None  # a command that does a part of the work, and is killed instead
    own_store: bool = False  # in the place
    kills: int = 4


# Comparison of results


def comparable(value: Any) -> Any:
    """JSON without the fields in `LOOSE`."""
    if isinstance(value, dict):
        return {name: comparable(held) for name, held in value.items() if name not in LOOSE}
    return [comparable(held) for held in value] if isinstance(value, list) else value


def content(path: Path, place: Path) -> Any:
    if path.suffix == ".safetensors":
        return {name: tensor.numpy().tobytes() for name, tensor in load_file(path).items()}
    if path.suffix in (".html", ".png"):
        return path.stat().st_size > 0
    text = path.read_text().replace(str(place), "PLACE")
    if path.suffix == ".json":
        return comparable(json.loads(text))
    if path.suffix == ".jsonl":
        return [comparable(json.loads(line)) for line in text.splitlines()]
    return [line for line in text.splitlines() if not re.search(r"images per second|peak memory| minutes on ", line)]


def tree(folder: Path) -> dict[str, Any]:
    """Every file and folder, hidden ones too, but of checkpoints the newest alone: a stop keeps another one before."""
    old = sorted(folder.glob("**/checkpoints/step-*"))[:-1]
    paths = sorted(path for path in folder.rglob("*") if path.suffix != ".log" and path not in old)
    return {str(path.relative_to(folder)): path.is_dir() or content(path, folder.parent) for path in paths}


def exports(place: Path) -> set[str]:
    """The complete exports of a run."""
    for path in (place / "run" / "checkpoints").glob("step-*"):
        load_file(path)
    found = {name for name in ("export", "export_best") if read(place / "run" / name / "results.json")}
    for name in found:
        hub.check(place / "run" / name)
    assert "export_best" in found or not (place / "run" / "export_best").exists()
    return found


# The commands; `shared` is a folder that they only read


def changed(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def pretrain(shared: Path) -> Case:
    settings = (
        *runs.NOISY,
        runs.EVALUATED,
        "channels_last=false",
        "run.keep_best=r2",
        "run.checkpoint_every=2",
        "run.keep=1",
    )
    return Case(
        words=lambda place: runs.command(place / "run", settings=settings),
        results=lambda place: tree(place / "run"),
        whole=exports,
        settings="run/recipe.json",
    )


def finetune(shared: Path) -> Case:
    settings = changed(
        "views.size=32", "epochs=2", "batch_size=8", "ema=0.9", "mixup=0.8", "precision=no", "run.workers=0",
        "run.log_every=1", "run.eval_every=1", "run.checkpoint_every=2", "run.keep=1", "run.keep_best=top1",
    )  # fmt: skip
    images = str(shared / "images")
    return Case(
        words=lambda place: [
            "finetune", str(place / "model"), "--data", images, "--out", str(place / "run"), *settings
        ],
        results=lambda place: tree(place / "run") | {"model": tree(place / "model")},
        whole=exports,
        prepare=lambda place: shutil.copytree(shared / "model", place / "model"),
        settings="run/finetune.json",
    )  # fmt: skip


def detect(shared: Path) -> Case:
    settings = changed(
        "head=c4", "steps=6", "milestones=[4,5]", "warmup=2", "batch_size=2", "regions=8", "sizes=[32,48,8]",
        "test_size=32", "norm_batches=2", "precision=no", "run.workers=0", "run.checkpoint_every=2", "run.keep=1",
        "run.log_every=1",
    )  # fmt: skip
    scenes = str(shared / "scenes.parquet")
    return Case(
        words=lambda place: [
            "detect", "untrained:test_resnet", "--data", scenes, "--out", str(place / "run"), *settings
        ],
        results=lambda place: tree(place / "run"),
        whole=lambda place: {"results"} if read(place / "run" / "results.json") else set(),
        settings="run/recipe.json",
    )  # fmt: skip


def evaluate(shared: Path) -> Case:
    sets = [str(shared / "images"), str(shared / "sets" / "cifar10.parquet")]

    def whole(place: Path) -> set[str]:
        hub.check(place / "model")
        found = read(place / "model" / "results.json")["evaluations"]
        assert found[0]["seed"] == 1  # that of before
        return {f"{record['protocol']} on {record['data']}" for record in found}

    return Case(
        words=lambda place: [
            "eval", "all", str(place / "model"), "--data", *sets, "--protocols", "knn", "--workers", "0"
        ],
        results=lambda place: tree(place / "model"),
        whole=whole,
        prepare=lambda place: shutil.copytree(shared / "model", place / "model"),
        own_store=True,
    )  # fmt: skip


def install(shared: Path) -> Case:
    def files(folder: Path) -> dict[str, Any]:
        return {name: content(folder / name, folder) for name in store.FILES if (folder / name).exists()}

    def installed(place: Path) -> dict[str, Any]:
        tag = place / "home" / "models" / TAG
        return files(tag / (tag / "current").read_text().strip() if (tag / "current").exists() else tag)

    def whole(place: Path) -> set[str]:
        assert installed(place) in (files(shared / "older"), files(shared / "model"))
        return {"new"} if installed(place) == files(shared / "model") else set()

    return Case(
        words=lambda place: ["install", str(shared / "model"), TAG],
        results=installed,
        whole=whole,
        prepare=lambda place: shutil.copytree(shared / "older", place / "home" / "models" / TAG),
        own_store=True,
        kills=6,
    )


def reproduce(shared: Path) -> Case:
    study = ["reproduce", "symmetry_small", "--fast", "--seeds", "1", "--methods", "simclr", "--jobs", "1", "--data"]

    def words(place: Path) -> list[str]:
        return [*study, str(shared / "sets"), "--out", str(place / "run")]

    return Case(
        words=words,
        results=lambda place: tree(place / "run"),
        whole=lambda place: {path.name for path in place.glob("run/results/*.json") if json.loads(path.read_text())},
        part=lambda place: [*words(place), "--only", "simclr-0"],
        kills=2,
    )


CASES = (pretrain, finetune, detect, evaluate, install, reproduce)
