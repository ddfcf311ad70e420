"""The tags: one row of `TAGS` per set of weights, and the properties in the config.json of an installed model.

To add a tag, add a row: `"star_<timm architecture>.<tag>": dict(size=..., **statistics)`. A new architecture of timm
needs nothing else, and the tests cover it automatically. The first row of an architecture is its default tag.
`hf_hub_id="<owner>/<name>@<revision>"`, which `star-zoo publish` prints, pins a row to a revision, so that a released
star_zoo keeps the weights that it was tested with. star_zoo.star_backbones registers the rows with timm.
"""

from pathlib import Path
from typing import Any

from . import store, zoo
from .names import not_found
from .reading import json_object, refusing

LICENSE = "apache-2.0"  # of the weights of a row that states no other

# Mean and std of each channel of the pretraining data, pixels in [0, 1].
CIFAR10 = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)}
TIN100 = {"mean": (0.498, 0.474, 0.426), "std": (0.270, 0.261, 0.279)}  # of Tiny ImageNet's 100 classes and CIFAR-100
TINY_IMAGENET = {"mean": (0.480, 0.448, 0.398), "std": (0.277, 0.269, 0.282)}
STL10 = {"mean": (0.43, 0.42, 0.39), "std": (0.27, 0.26, 0.27)}  # rounded as in the authors' code
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}

TAGS: dict[str, dict[str, Any]] = {
    "star_resnet10t.cifar10": dict(size=48, description="CIFAR-10", **CIFAR10),
    "star_resnet10t.tin100": dict(size=48, description="100 classes of Tiny ImageNet, and CIFAR-100", **TIN100),
    "star_resnet10t.cifar10_simclr": dict(size=48, description="CIFAR-10", **CIFAR10),  # to compare with
    "star_resnet18.tin100": dict(size=64, description="100 classes of Tiny ImageNet, and CIFAR-100", **TIN100),
    "star_resnet18.stl10": dict(size=96, description="STL-10", **STL10),
    "star_resnet18.tinyimagenet": dict(size=64, description="Tiny ImageNet", **TINY_IMAGENET),
    "star_resnet50.in100": dict(size=224, description="ImageNet-100", **IMAGENET),
    "star_vit_small_patch16_224.in100": dict(size=224, description="ImageNet-100", **IMAGENET),
    "star_convnext_atto.tin100": dict(size=64, description="100 classes of Tiny ImageNet, and CIFAR-100", **TIN100),
    "star_convnext_tiny.in100": dict(size=224, description="ImageNet-100", **IMAGENET),
    "star_c4_resnet10t.cifar10": dict(size=48, description="CIFAR-10", **CIFAR10),
    "star_d4_resnet10t.cifar10": dict(size=48, description="CIFAR-10", **CIFAR10),
    "star_c4_resnet18.stl10": dict(size=96, description="STL-10", **STL10),
}


def full(name: str) -> str:
    """Returns a star_* name with its default tag unless it has a tag. Raises ValueError for an unknown architecture.

    The default tag is the first row of the architecture, or else the first of its tags in the local store whose
    config.json is valid.
    """
    if "." in name:
        return name
    known = (*TAGS, *store.installed())
    for tag in known:
        if tag.partition(".")[0] == name and (tag in TAGS or _is_valid(tag)):
            return tag
    raise ValueError(not_found("model", name, dict.fromkeys(tag.partition(".")[0] for tag in known)))


def _is_valid(tag: str) -> bool:
    try:
        read_config(store.folder(tag) / "config.json")
    except (OSError, ValueError):
        return False
    return True


def check(tag: str) -> None:
    """Raises ValueError, with the known tags, for one that has no row and isn't installed."""
    store.place(tag)
    if tag not in TAGS and tag not in (installed := store.installed()):
        architecture = tag.partition(".")[0]
        known = sorted({*TAGS, *installed})
        of_it = [one for one in known if one.partition(".")[0] == architecture]
        raise ValueError(not_found("tag", tag, of_it or known))


def place(name: str) -> Path | zoo.Repository:
    """Returns the folder or repository of a star_* model, given its name with or without a tag.

    Raises ValueError as `full`, for an invalid tag, and for an unknown one unless another owner's repositories are
    searched.
    """
    tag = full(name)
    if zoo.owner() == zoo.HUB_OWNER:
        check(tag)
    return zoo.find(tag, TAGS.get(tag, {}).get("hf_hub_id"))


def read_config(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns a row and the arguments of the model, from a config.json. Raises OSError, or ValueError if invalid."""
    config = json_object(path, "config.json")
    with refusing(f"{path} is not a valid config.json"):
        saved = config["pretrained_cfg"]
        row: dict[str, Any] = {name: tuple(map(float, saved[name])) for name in ("mean", "std") if name in saved}
        row |= {name: saved[name] for name in ("crop_pct", "crop_mode", "interpolation") if name in saved}
        row |= {
            "channels": int(saved["input_size"][0]),
            "size": int(saved["input_size"][-1]),
            "num_classes": int(config.get("num_classes", 0)),
        }
        if names := config.get("label_names"):
            row["label_names"] = tuple(map(str, names))
        row["license"] = saved.get("license")  # if missing, it must not become the license of our rows
        return row, dict(config.get("model_args") or {})
