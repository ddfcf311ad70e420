"""Small data sets in the official layouts: everything that a study of the paper reads, made up in a second.

An image is noise around a colour of its class, so that an image that comes with another's label is found out.
Where numbers of images or checksums have to be the official ones, `make` lets others pass.
"""

import json
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from data_cases import encoded, write_folder
from star_training.data.eval_sets.transfer import SETS

TWO = ("abbey", "zoo")  # classes, for sets whose names of classes mean nothing here


class Shot(NamedTuple):
    """One image: its class and a number that no other image of this class has."""

    label: int
    number: int


Shots = dict[str, list[Shot]]  # by split


def shots(classes: int = 2, train: int = 11, val: int = 4, test: int = 6) -> Shots:
    """So many images of each class in each split; two classes have 22 to train on, more than 20 neighbours."""
    made, first = {}, 0
    for split, count in {"train": train, "val": val, "test": test}.items():
        made[split] = [Shot(label, first + n) for label in range(classes) for n in range(count)]
        first += count
    return made


def every(made: Shots) -> list[Shot]:
    """The images of all splits, class by class."""
    return sorted(shot for part in made.values() for shot in part)


def without_val(made: Shots) -> Shots:
    """The splits of a set whose validation images are drawn from its training images."""
    return {"train": made["train"] + made["val"], "test": made["test"]}


def pixels(shot: Shot, height: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8."""
    colour = np.random.default_rng(shot.label).integers(50, 206, 3)
    noise = np.random.default_rng(shot).normal(0, 25, (height, width, 3))
    return (colour + noise).clip(0, 255).astype(np.uint8)


def jpeg(shot: Shot) -> bytes:
    """Mostly wider than high."""
    return encoded(Image.fromarray(pixels(shot, 36, 36 + shot.number % 5)), "JPEG")


def lines(texts: Sequence[str]) -> bytes:
    return "".join(f"{text}\n" for text in texts).encode()


# Sets of torchvision


def cifar10(root: Path, made: Shots) -> None:
    _cifar(root, made, torchvision.datasets.CIFAR10, "labels")


def cifar100(root: Path, made: Shots) -> None:
    _cifar(root, made, torchvision.datasets.CIFAR100, "fine_labels")


def _cifar(root: Path, made: Shots, kind: Any, key: str) -> None:
    """Pickled batches of rows, plane by plane."""
    parts = without_val(made)
    batches = {
        file: part[k :: len(files)]
        for files, part in ((kind.train_list, parts["train"]), (kind.test_list, parts["test"]))
        for k, (file, _) in enumerate(files)
    }
    held = {kind.meta["filename"]: {kind.meta["key"]: [f"class {label}" for label in range(100)]}}
    for file, part in batches.items():
        rows = [pixels(shot, 32, 32).transpose(2, 0, 1).ravel() for shot in part]
        held[file] = {"data": np.stack(rows), key: [shot.label for shot in part]}
    write_folder(root / kind.base_folder, {file: pickle.dumps(data) for file, data in held.items()})


def stl10(root: Path, made: Shots) -> None:
    """Binary files of 96 x 96 pixels, columns first; the unlabelled images are of a third kind."""

    def planes(part: Sequence[Shot]) -> bytes:
        return b"".join(pixels(shot, 96, 96).transpose(2, 1, 0).tobytes() for shot in part)

    files = {"unlabeled_X.bin": planes([Shot(2, n) for n in range(40)])}
    for split, part in without_val(made).items():
        files |= {f"{split}_X.bin": planes(part), f"{split}_y.bin": bytes(1 + shot.label for shot in part)}
    names = [f"class {label}" for label in range(10)]
    write_folder(root / "stl10_binary", files | {"class_names.txt": lines(names)})


def food101(root: Path, made: Shots) -> None:
    files = {f"images/{TWO[s.label]}/{s.number}.jpg": jpeg(s) for s in every(made)}
    for split, part in without_val(made).items():
        listed = {name: [f"{name}/{s.number}" for s in part if TWO[s.label] == name] for name in reversed(TWO)}
        files[f"meta/{split}.json"] = json.dumps(listed).encode()
    write_folder(root / "food-101", files)


def pets(root: Path, made: Shots) -> None:
    names = {s: f"{('Bengal', 'Birman')[s.label]}_{s.number}" for s in every(made)}
    files = {f"images/{name}.jpg": jpeg(s) for s, name in names.items()}
    for split, part in without_val(made).items():
        content = lines([f"{names[s]} {1 + s.label} 1 1" for s in part])
        files[f"annotations/{'trainval' if split == 'train' else split}.txt"] = content
    write_folder(root / "oxford-iiit-pet", files)


def flowers(root: Path, made: Shots) -> None:
    """Numbered from 1 over all splits; MATLAB files tell label and split of each number."""
    scipy_io = pytest.importorskip("scipy.io")
    ids = {s: number for number, s in enumerate(every(made), start=1)}
    write_folder(root / "flowers-102", {f"jpg/image_{number:05d}.jpg": jpeg(s) for s, number in ids.items()})
    of_split = {"trnid": made["train"], "valid": made["val"], "tstid": made["test"]}
    content = {name: np.array([[ids[s] for s in part]], np.uint16) for name, part in of_split.items()}
    scipy_io.savemat(root / "flowers-102/setid.mat", content)
    labels = np.array([[1 + s.label for s in ids]], np.uint8)
    scipy_io.savemat(root / "flowers-102/imagelabels.mat", {"labels": labels})


def aircraft(root: Path, made: Shots) -> None:
    variants = ("747-400", "A 300")
    numbers = {s: f"{s.label}{s.number:05d}" for s in every(made)}
    files = {f"images/{number}.jpg": jpeg(s) for s, number in numbers.items()}
    for split, part in {**made, "trainval": made["train"] + made["val"]}.items():
        files[f"images_variant_{split}.txt"] = lines([f"{numbers[s]} {variants[s.label]}" for s in part])
    write_folder(root / "fgvc-aircraft-2013b/data", files | {"variants.txt": lines(variants)})


def dtd(root: Path, made: Shots) -> None:
    names = {s: f"{TWO[s.label]}/{TWO[s.label]}_{s.number:04d}.jpg" for s in every(made)}
    files = {f"images/{name}": jpeg(s) for s, name in names.items()}
    files |= {f"labels/{split}1.txt": lines([names[s] for s in part]) for split, part in made.items()}
    write_folder(root / "dtd/dtd", files)


# Folders


def folders(root: Path, made: Shots) -> None:
    """Train and test with a folder for each class, as mit67 and cars have them."""
    parts = without_val(made).items()
    write_folder(root, {f"{split}/{TWO[s.label]}/{s.number}.jpg": jpeg(s) for split, part in parts for s in part})


def imagenet100(root: Path, made: Shots) -> None:
    """Its hundred classes, so that no list of them is needed; images to test on are in val."""
    parts = {"train": made["train"] + made["val"], "val": made["test"]}.items()
    write_folder(root, {f"{split}/n{s.label:08d}/{s.number}.JPEG": jpeg(s) for split, part in parts for s in part})


# File lists


def caltech101(root: Path, made: Shots) -> None:
    folder = "caltech101/101_ObjectCategories"
    files = {f"{folder}/{('Faces', 'ant')[s.label]}/image_{1 + s.number:04d}.jpg": jpeg(s) for s in every(made)}
    files |= {f"{folder}/BACKGROUND_Google/image_{n:04d}.jpg": jpeg(Shot(2, n)) for n in range(1, 4)}
    write_folder(root, files | {"caltech101/Annotations/ant/annotation_0001.mat": b""})
    _save_list(root / "caltech101.pth", every(made), *made.values())


def sun397(root: Path, made: Shots) -> None:
    """An official partition; a list divides its training images, which are in an order of their own."""
    classes = ("/a/abbey", "/z/zoo/indoor")
    names = {s: f"{classes[s.label]}/sun_{s.number:04d}.jpg" for s in every(made)}
    training = sorted(made["train"] + made["val"], key=lambda s: s.number)
    files = {f"SUN397{name}": jpeg(s) for s, name in names.items()}
    files |= {"Training_01.txt": lines([names[s] for s in training]), "ClassName.txt": lines(classes)}
    write_folder(root, files | {"Testing_01.txt": lines([names[s] for s in made["test"]])})
    _save_list(root / "sun397.pth", training, made["train"], made["val"])


def _save_list(path: Path, whole: Sequence[Shot], *parts: Sequence[Shot]) -> None:
    """Each split's indices into the whole set, as AugSelf released them."""
    torch.save(tuple([whole.index(shot) for shot in part] for part in parts), path)


# All of them

MAKERS: dict[str, Callable[[Path, Shots], None]] = {
    "caltech101": caltech101, "cifar10": cifar10, "cifar100": cifar100, "food101": food101, "mit67": folders,
    "pets": pets, "flowers": flowers, "cars": folders, "aircraft": aircraft, "dtd": dtd, "sun397": sun397,
}  # fmt: skip
IMAGES = {"stl10": stl10, "imagenet100": imagenet100}  # to pretrain on
SIZES = {
    "cifar100": {"classes": 5},  # for few-shot tasks
    # to test on, more than two embeddings have dimensions
    "stl10": {"test": 130},
    "imagenet100": {"classes": 100, "train": 5, "val": 1, "test": 3},
}


def make(folder: Path, monkeypatch: pytest.MonkeyPatch, images: str = "stl10") -> Path:
    """The sets that a study of the paper on these images reads, each in FOLDER/NAME; gives the folder."""
    for name, maker in {images: IMAGES[images], **MAKERS}.items():
        made = shots(**SIZES.get(name, {}))
        maker(folder / name, made)
        row = SETS[name]
        if rule := row.conventions.held_out:
            held_out = rule._replace(train=len(made["train"]), val=len(made["val"]))
            monkeypatch.setitem(SETS, name, row._replace(conventions=row.conventions._replace(held_out=held_out)))
    for module in ("cifar", "flowers102", "stl10"):
        monkeypatch.setattr(f"torchvision.datasets.{module}.check_integrity", _is_there)
    return folder


def _is_there(path: str, md5: str | None = None) -> bool:
    """Instead of a checksum."""
    return Path(path).is_file()
