"""Random pixels with random labels, in every layout of splits and every kind of data set: nothing can be learned."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from data_cases import encoded, write_folder, write_idx, write_parquet, write_tar

CLASSES = 5  # as many as few-shot tasks have, so that chance is the same for all protocols
SIDE = 8
COUNTS = {"train": 150, "val": 70, "validation": 70, "test": 70}
LAYOUTS = ("train test", "train val", "train validation", "train val test", "")


class Noise(NamedTuple):
    """One split: encoded images, each with a class at random."""

    images: list[bytes]
    labels: list[int]


def noise(layout: str) -> dict[str, Noise]:
    """The splits of a layout by name; a data set without splits is all "train". All kinds hold the same images."""
    rng = np.random.default_rng(0)

    def split(count: int) -> Noise:
        pixels = rng.integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)
        return Noise([encoded(Image.fromarray(one), "PNG") for one in pixels], rng.integers(0, CLASSES, count).tolist())

    return {name: split(COUNTS[name]) for name in layout.split()} or {"train": split(350)}


def _files(of: Noise) -> dict[str, bytes]:
    """By path below the split, in the order of the images' classes."""
    return {f"c{label}/{k:03d}.png": data for k, (data, label) in enumerate(zip(*of, strict=True))}


def folder(splits: dict[str, Noise], root: Path) -> str:
    for name, of in splits.items():
        write_folder(root / name if len(splits) > 1 else root, _files(of))
    return str(root)


def parquet(splits: dict[str, Noise], root: Path) -> str:
    rows = [(*row, name) for name, of in splits.items() for row in zip(*of, strict=True)]
    columns = dict(zip(("image", "label", "split"), map(list, zip(*rows, strict=True)), strict=True))
    if len(splits) == 1:
        del columns["split"]
    return str(write_parquet(root / "noise.parquet", **columns))


def tar(splits: dict[str, Noise], root: Path) -> str:
    for name, of in splits.items():
        members = {}
        for k, (data, label) in enumerate(zip(*of, strict=True)):
            members |= {f"{k:03d}.png": data, f"{k:03d}.cls": str(label).encode()}
        write_tar(root / f"{name if len(splits) > 1 else 'shard'}-0000.tar", members)
    return str(root)


def huggingface(splits: dict[str, Noise], root: Path) -> str:
    import datasets  # slow to import

    made = {
        name: datasets.Dataset.from_dict({"image": [{"bytes": i, "path": None} for i in of.images], "label": of.labels})
        .cast_column("image", datasets.Image())
        .cast_column("label", datasets.ClassLabel(names=[f"c{k}" for k in range(CLASSES)]))
        for name, of in splits.items()
    }
    (datasets.DatasetDict(made) if len(made) > 1 else made["train"]).save_to_disk(root)
    return str(root)


def torchvision(splits: dict[str, Noise], root: Path) -> str:
    """The class of torchvision that has the layout, in its own form on the disk."""
    return _TORCHVISION[tuple(splits)](splits, root)


def _mnist(splits: dict[str, Noise], root: Path) -> str:
    for prefix, of in zip(("train", "t10k"), splits.values(), strict=True):
        shape = len(of.labels), SIDE, SIDE
        pixels = np.random.default_rng(len(prefix)).integers(0, 256, shape, dtype=np.uint8)
        write_idx(root / f"MNIST/raw/{prefix}-images-idx3-ubyte", pixels)
        write_idx(root / f"MNIST/raw/{prefix}-labels-idx1-ubyte", np.array(of.labels, dtype=np.uint8))
    return f"torchvision:MNIST@{root}"


def _imagenet(splits: dict[str, Noise], root: Path) -> str:
    torch.save(({f"c{k}": (f"class {k}",) for k in range(CLASSES)}, []), root / "meta.bin")
    return f"torchvision:ImageNet@{folder(splits, root)}"


def _country211(splits: dict[str, Noise], root: Path) -> str:
    folder({"valid" if name == "val" else name: of for name, of in splits.items()}, root / "country211")
    return f"torchvision:Country211@{root}"


def _eurosat(splits: dict[str, Noise], root: Path) -> str:
    folder(splits, root / "eurosat/2750")
    return f"torchvision:EuroSAT@{root}"


_TORCHVISION: dict[Sequence[str], Callable[[dict[str, Noise], Path], str]] = {
    ("train", "test"): _mnist,
    ("train", "val"): _imagenet,
    ("train", "val", "test"): _country211,
    ("train",): _eurosat,
}
KINDS = (folder, parquet, tar, huggingface, torchvision)
# torchvision calls no validation split "validation"
CASES = [(kind, layout) for kind in KINDS for layout in LAYOUTS if (kind, layout) != (torchvision, "train validation")]
