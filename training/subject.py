"""A frozen model under evaluation. Letters: N images, D features, S image size."""

import functools
import hashlib
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from star_zoo import Objective, Policy
from star_zoo.augmentations import ColorJitter, Crop, Flip, Grayscale
from star_zoo.files import replacing

from .data import Source
from .features import Labelled, Preprocess, extract, pixels, timm_view
from .model_names import called, saved_objective, timm_name
from .pretrainer import one_line

_PIXELS = 32  # side of the images that are their own features


class Subject:
    """A backbone, what turns images into its input, and the objective it was trained with, if there is one.

    `cache` is a folder in which features are kept, by model, data and preprocessing; None keeps them for this
    object's life only.
    """

    def __init__(
        self,
        name: str,
        backbone: nn.Module,
        preprocess: Preprocess,
        objective: Objective | None = None,
        cache: Path | None = None,
    ):
        self.name, self.backbone, self.preprocess, self.objective = name, backbone, preprocess, objective
        self.cache = cache
        self._features: dict[str, Tensor] = {}

    @functools.cached_property
    def fingerprint(self) -> str:
        """Short hex that changes with any weight of the backbone and with its preprocessing."""
        sha = hashlib.sha256(self.preprocess.key.encode())
        for name, tensor in self.backbone.state_dict().items():
            sha.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            sha.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return sha.hexdigest()[:16]

    @functools.cached_property
    def policy(self) -> Policy:
        """The objective's policy; without an objective our default one at the backbone's size and statistics."""
        if self.objective is not None:
            return self.objective.policy
        if isinstance(self.backbone, nn.Flatten):  # pixels
            return _default_policy(_PIXELS, (0.0,) * 3, (1.0,) * 3)
        config = timm.data.resolve_model_data_config(self.backbone)
        return _default_policy(config["input_size"][-1], config["mean"], config["std"])

    def features(self, source: Source) -> Tensor:
        """Pooled features of every image as timm evaluates this model: (N, D) float32, extracted once."""
        key = f"{self.fingerprint}-{source.fingerprint}-{len(source)}"
        if key not in self._features:
            path = self.cache / f"{key}.safetensors" if self.cache else None
            self._features[key] = _cached(path, len(source), lambda: extract(self.backbone, source, self.preprocess))
        return self._features[key]

    def labelled(self, source: Source) -> Labelled:
        """Features of every image with their labels. Raises ValueError where the data set has none."""
        if source.targets is None:
            why = source.inventory.unlabelled
            raise ValueError(f"{source.name} has no labels to evaluate with{why and f': {why}'}")
        return Labelled(self.features(source), source.targets)


def _default_policy(size: int, mean: Any, std: Any) -> Policy:
    return Policy((Crop(size), Flip(), ColorJitter(), Grayscale()), mean, std)


def _cached(path: Path | None, count: int, make: Any) -> Tensor:
    """The features in a file, or made and put there; a file that is not whole is made again."""
    if path is None:
        return make()
    try:
        features = load_file(path)["features"]
        if len(features) == count:
            return features
    except (OSError, KeyError, SafetensorError):
        pass
    features = make()
    with replacing(path) as part:
        save_file({"features": features}, part)
    return features


def evaluation_device() -> torch.device:
    """Where models are evaluated: the accelerator that torch finds, or the CPU."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found or torch.device("cpu")


def load(name: str, seed: int = 0, cache: Path | None = None) -> Subject:
    """A model by name: a run, a saved folder, a zoo tag, any timm name or hub id, `untrained:NAME` (random weights
    from `seed`), or `pixels` for the images themselves. Raises ValueError for what can't be loaded."""
    if name == "pixels":
        return Subject(name, nn.Flatten(), pixels(_PIXELS), cache=cache)
    untrained = name.startswith("untrained:")
    if untrained:
        torch.manual_seed(seed)
    try:
        known_as = timm_name(name.removeprefix("untrained:"))
        backbone = timm.create_model(known_as, pretrained=not untrained, num_classes=0)
    except (AssertionError, LookupError, OSError, RuntimeError) as error:
        raise ValueError(f"model {name!r} can't be loaded: {one_line(error)}") from error
    objective = None if untrained else saved_objective(name)
    device = evaluation_device()
    return Subject(called(name), backbone.to(device), timm_view(backbone), objective and objective.to(device), cache)
