"""A thousand mutated inputs for each loader: loaded, or refused in one line; never another exception.

Sizes are bounded elsewhere (test_bounds.py); this is about everything else that a file or a name may hold.
"""

import io
import json
import random
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from detection_cases import CLASSES, scene, xml
from mutations import COUNT, change, damaged, documents, refused_or_loaded, texts, written
from star_catalog import store, tags, zoo
from star_training import recipes
from star_training.detection.datasets import coco, voc
from star_training.detection.datasets.base import BoxWarning
from star_training.engine import logging, results
from star_training.engine.run_dir import check_folder
from star_training.evaluation.metrics import ACCURACY, SHARE, Metric
from star_training.evaluation.record import Record
from star_training.finetuning.config import FineTune, LabelledData
from star_training.models import resolve
from star_training.models.names import parse
from star_training.models.resolve import called, model_folder, tag_folder
from star_training.publishing import card
from star_training.reports import tables
from star_training.reports.loading import gather
from star_training.reports.page import report
from star_training.settings.base import override
from star_zoo import hub, load_objective, objectives, released, save_pretrained, weights_file
from star_zoo.star_backbones import read_config
from twins import POLICY, backbone


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model with everything that a run leaves beside it."""
    model = backbone()
    objective = objectives.build("star", model.num_features, POLICY, num_experts=2, hidden=8)
    folder = tmp_path_factory.mktemp("saved")
    recipe = recipes.find("spirograph_tiny").to_dict()
    return save_pretrained(folder, model, objective, recipe=recipe, results=RESULTS)


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "folder"))


def of(path: Path) -> Any:
    return json.loads(path.read_text())


# Settings

TUNING = FineTune(model="runs/a", data=LabelledData(source="images")).to_dict()


@pytest.mark.parametrize(
    ("name", "settings"),
    [("recipe.json", recipes.find("folder")), ("finetune.json", FineTune.from_dict(TUNING))],
)
def test_settings_of_a_run(name: str, settings: Any, tmp_path: Path):
    path = tmp_path / name
    load = written(path, lambda: check_folder(settings, path, True, "another --out"))
    assert refused_or_loaded(load, documents(settings.to_dict(), 1)) > COUNT / 3


def test_changes_of_settings():
    known = [
        "optimizer.lr=0.1", "policy=dorsal", "policy.augmentations.0.size=64", "data.limit=null", "seed=3",
        'objective_args={"hidden": 16}', "policy.mean=[0.5,0.5,0.5]", "run.keep=2", "channels_last=auto",
    ]  # fmt: skip
    recipe = recipes.find("folder")
    assert refused_or_loaded(lambda text: override(recipe, [text]), texts(known, '.=[]{}"0-9e', 2)) > COUNT / 3


# Models


def test_the_config_of_a_model(folder: Path, monkeypatch: pytest.MonkeyPatch):
    path = folder / "config.json"
    valid = of(path)

    def load() -> None:
        read_config(path, "star_test_resnet.mine")
        hub.check(folder)

    heads = SimpleNamespace(config={"num_features": valid["num_features"]})
    monkeypatch.setattr(hub, "load_objective", lambda folder: heads)  # the heads have a test of their own
    assert refused_or_loaded(written(path, load), documents(valid, 3)) > COUNT / 3


def test_the_heads_of_a_model(folder: Path, monkeypatch: pytest.MonkeyPatch):
    path = folder / "heads.json"
    monkeypatch.setattr("star_zoo.augmentations.policy._SAMPLE", 16)  # draws of each policy
    assert refused_or_loaded(written(path, lambda: load_objective(folder)), documents(of(path), 4)) > COUNT / 3


def test_weights(tmp_path: Path):
    path, rng = tmp_path / "model.safetensors", random.Random(5)
    shapes = {"conv1.weight": (4, 3, 2, 2), "bn1.weight": (4,), "bn1.num_batches_tracked": (), "fc.weight": (2, 4)}
    weights_file.write_tensors(path, {name: torch.zeros(shape) for name, shape in shapes.items()})
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    headers = documents(json.loads(whole[8 : 8 + length]), 6, COUNT // 2)
    inputs = [
        *(len(header).to_bytes(8, "little") + header + whole[8 + length :] for header in headers),
        *(damaged(whole, rng, length) for _ in range(COUNT // 2)),
    ]

    def load() -> None:
        weights_file.read_shapes(path)
        weights_file.read_tensors(path)

    assert refused_or_loaded(written(path, load), inputs) > COUNT / 3


def groups() -> dict[str, dict[str, Tensor]]:
    """A released checkpoint of tiny layers."""
    made: dict[str, dict[str, Tensor]] = {name: {} for name in ("backbone", "projectors", "p_projector")}
    made |= {"eq_predictor": {"0.weight": torch.zeros(2, 2)}, "gatingnetwork": {}}
    made["backbone"]["conv1.weight"] = torch.zeros(2, 3, 1, 1)
    made["p_projector"]["0.0.weight"] = torch.zeros(2, 2)
    for expert in range(2):
        layers = {"0.weight": (2, 4), "3.weight": (2, 2), "6.weight": (2, 2), "6.bias": (2,)}
        norms = {f"{k}.{name}": (2,) for k in (1, 4) for name in ("weight", "bias", "running_mean", "running_var")}
        made["projectors"] |= {f"module.{expert}.{k}": torch.zeros(shape) for k, shape in (layers | norms).items()}
        made["projectors"] |= {f"module.{expert}.{k}.num_batches_tracked": torch.tensor(3) for k in (1, 4)}
        router = {"weight": torch.zeros(2, 4), "bias": torch.zeros(2)}
        made["gatingnetwork"] |= {f"gating_fc.{expert}.{name}": tensor for name, tensor in router.items()}
    return made


def test_released_checkpoints(tmp_path: Path):
    rng, path = random.Random(7), tmp_path / "ckpt-1.pth"

    def encoded(data: Any, zipped: bool = False) -> bytes:
        torch.save(data, file := io.BytesIO(), _use_new_zipfile_serialization=zipped)  # without is faster to read
        return file.getvalue()

    def inputs() -> Iterator[bytes]:
        whole = encoded(groups(), zipped=True)
        for k in range(COUNT):
            data: Any = groups()
            for _ in range(rng.randint(1, 3)):
                change(data, rng)
            yield damaged(whole, rng, len(whole)) if k % 3 == 0 else encoded(data)

    def load() -> None:
        released.from_released(released.read_checkpoint(path))

    path.write_bytes(encoded(groups()))
    load()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of damaged archives
        assert refused_or_loaded(written(path, load), inputs()) > COUNT / 3


# Results and logs

METRIC = Metric("knn20_top1", "20-NN top-1", SHARE, ACCURACY, 0.5, 0.4, 0.6, ("knn20", "20-NN accuracy"))
RECORD = Record(
    protocol="knn", model="m", data="d", data_fingerprint={"test": "a"}, images={"test": 5}, seed=0,
    settings={"k": 20}, metrics={METRIC.slug: METRIC}, seconds=1.5, versions={"torch": "2"},
)  # fmt: skip
ROUTING = Record(
    protocol="routing", model="m", data="d", seed=0,
    details={"weights": [[0.5, 0.5], [0.1, 0.9]], "tasks": ["invariant", "equivariant"]},
)  # fmt: skip
RESULTS = {
    "training": {"steps": 8, "images": 64, "seconds": 3.0, "processes": 1, "device": "cpu",
                 "precision": {"asked": "auto", "used": "no", "why": "w"}, "versions": {"torch": "2"}},
    "online": [{"step": 0, "epoch": 0.0, "knn1": 0.1}, {"step": 8, "epoch": 1.0, "knn1": 0.2}],
    "pretrained": {"teacher": {"name": "t", "license": "mit", "fingerprint": "f"}},
    "evaluations": [RECORD.to_dict(), ROUTING.to_dict()],
    "comparisons": [{
        "model": "m", "other": "o", "seed": 0, "protocols": ["knn"], "data_fingerprints": {"d": {"test": "a"}},
        "interval": "over test images", "rows": [{
            "metric": "knn20_top1", "name": "20-NN top-1", "data": "d", "first": 0.5, "second": 0.4,
            "difference": {"value": 0.1, "low": 0.0, "high": 0.2},
        }],
    }],
}  # fmt: skip


def test_results(folder: Path):
    path = folder / "results.json"
    number = iter(range(10**6))

    def load() -> None:
        for found in results.read(path).get("evaluations", []):
            str(Record.from_dict(found))
        models = gather([str(path)])
        tables.accuracies(models), tables.comparisons(models), tables.summary(models)
        if next(number) % 10 == 0:
            card.render(folder)
        if next(number) % 100 == 1:
            report([str(path)], folder / "report.html", [])

    assert refused_or_loaded(written(path, load), documents(RESULTS, 8)) > COUNT / 3


LOG = [
    {"step": 0, "epoch": 0.0, "knn1": 0.25, "knn20": 0.5},
    {"step": 0, "epoch": 0.0, "router": [[0.5, 0.5], [0.25, 0.75]], "entropy": [0.6, 0.5], "norm": [1.0, 2.0]},
    {"step": 4, "epoch": 1.0, "loss": 4.5, "invariant": 2.5, "equivariant": 2.0, "lr": 0.1, "seconds": 1.0},
]


def test_logs(tmp_path: Path):
    path = tmp_path / "log.jsonl"

    def lines(data: bytes) -> bytes:
        try:
            found = json.loads(data)
        except (RecursionError, ValueError):
            return data
        return "".join(json.dumps(entry) + "\n" for entry in (found if isinstance(found, list) else [found])).encode()

    def load() -> None:
        assert all(isinstance(entry["step"], int | float) for entry in logging.read(path))
        logging.evaluations_of(logging.read(path))

    assert refused_or_loaded(written(path, load), map(lines, documents(LOG, 9))) > COUNT / 4


# Boxes


def test_coco_annotations(tmp_path: Path):
    (tmp_path / "images" / "val").mkdir(parents=True)
    (tmp_path / "annotations").mkdir()
    picture, boxes = scene(0)
    picture.save(tmp_path / "images" / "val" / "0.png")
    data = {
        "images": [{"id": 1, "file_name": "0.png", "height": 64, "width": 64}],
        "categories": [{"id": k, "name": name} for k, name in enumerate(CLASSES)],
        "annotations": [{
            "image_id": 1, "category_id": b.label, "bbox": [b.left, b.top, b.right - b.left, b.bottom - b.top],
            "iscrowd": 0,
        } for b in boxes],
    }  # fmt: skip
    load = without_box_warnings(lambda: coco.read(tmp_path, "val"))
    path = tmp_path / "annotations" / "instances_val.json"
    assert refused_or_loaded(written(path, load), documents(data, 10)) > COUNT / 3


def test_voc_annotations(tmp_path: Path):
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (tmp_path / name).mkdir(parents=True)
    picture, boxes = scene(0)
    picture.save(tmp_path / "JPEGImages" / "0.png")
    (tmp_path / "ImageSets/Main/val.txt").write_text("0\n")
    rng, whole = random.Random(11), xml([(CLASSES[b.label], b) for b in boxes]).encode()
    values = ["", "NaN", "-1", "1e999", "x", "9" * 400, "<a>", "&lt;", "3.5", "\x00", "0"]

    def mutated() -> bytes:
        text = whole.decode()
        for _ in range(rng.randint(1, 2)):
            before, tag, after = text.partition(rng.choice(["<xmin>", "<ymax>", "<height>", "<width>", "<name>"]))
            text = before + tag + rng.choice(values) + after[after.find("<") :]
        return text.encode()

    inputs = [damaged(whole, rng, len(whole)) if k % 2 else mutated() for k in range(COUNT)]
    load = without_box_warnings(lambda: voc.read(tmp_path, "val"))
    path = tmp_path / "Annotations" / "0.xml"
    assert refused_or_loaded(written(path, load), inputs) > COUNT / 3


def without_box_warnings(load: Callable[[], object]) -> Callable[[], object]:
    def run() -> object:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", BoxWarning)
            return load()

    return run


# Names


def test_names_of_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    known = [
        "averaged(views=8):resnet18", "concat:a+b", "heads(space=z_eq):star_resnet10t.cifar10", "untrained:resnet18",
        "invariant(kind=sort,group=c4):runs/a", "hf-hub:owner/name@main", "local-dir:runs/a", "~/runs/a",
        "canonical(group=c4):concat:averaged:A+B", "timm:resnet50.a1_in1k",
    ]  # fmt: skip
    monkeypatch.chdir(tmp_path)

    def load(text: str) -> None:
        assert parse(str(parse(text))) == parse(text)
        called(text), resolve.label(text), model_folder(text)

    assert refused_or_loaded(load, texts(known, "():+=,.~/ \x00é", 12)) > COUNT / 10
    assert list(tmp_path.iterdir()) == []


def test_tags(monkeypatch: pytest.MonkeyPatch):
    known = ["star_resnet10t.cifar10", "star_resnet18.stl10", "star_resnet18", "star_c4_resnet18.mine", "hf-hub:a/b@c"]

    def load(text: str) -> None:
        tag_folder(text)
        if text.startswith("hf-hub:"):
            zoo.Repository.parse(text)
        else:
            tags.place(text)
            store.place(text)

    assert refused_or_loaded(load, texts(known, "._-/@ A\x00", 13)) > COUNT / 3
