"""A frozen model under evaluation. Letters: N images, D features, S image size."""

import functools
import hashlib
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from star_zoo import Objective, Policy
from star_zoo.augmentations.presets import of_config
from star_zoo.wrappers import Wrapper

from ..data import Source
from ..data.intact import check_intact, intact
from ..models.create import create
from ..models.names import Leaf, parse
from ..models.resolve import called, objective_of
from ..settings.common import EVALUATION_WORKERS
from .feature_cache import FeatureCache
from .features import Labelled, Preprocess, extract, objects, pixels, timm_view

_PIXELS = 32  # side of the images whose pixels are the features


class FrozenModel:
    """A backbone, its preprocessing, and the objective that it was trained with, if any.

    `cache` is the folder of a `FeatureCache`; with None, features are kept only in this object. `workers` processes
    load the images of large data sets that are decoded on access.
    """

    def __init__(
        self,
        name: str,
        backbone: nn.Module,
        preprocess: Preprocess,
        objective: Objective | None = None,
        cache: Path | None = None,
        workers: int = EVALUATION_WORKERS,
    ):
        self.name, self.backbone, self.preprocess, self.objective = name, backbone, preprocess, objective
        self.workers = workers
        self.cache = FeatureCache(cache) if cache else None
        self._features: dict[str, Tensor] = {}

    @functools.cached_property
    def fingerprint(self) -> str:
        """A short hex hash of the backbone's weights and settings and of its preprocessing."""
        sha = hashlib.sha256(self.preprocess.key.encode())
        sha.update(repr([(name, *_settings(module)) for name, module in self.backbone.named_modules()]).encode())
        for name, tensor in (*self.backbone.state_dict().items(), *self.backbone.named_buffers()):
            sha.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            sha.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return sha.hexdigest()[:16]

    @functools.cached_property
    def policy(self) -> Policy:
        """The objective's policy, else a wrapper's, else our default one at the backbone's size and statistics."""
        if self.objective is not None:
            return self.objective.policy
        if isinstance(self.backbone, Wrapper):
            return self.backbone.policy
        if isinstance(self.backbone, nn.Flatten):  # pixels
            size = (3, _PIXELS, _PIXELS)
            return of_config({"input_size": size, "mean": (0.0,) * 3, "std": (1.0,) * 3})
        return of_config(timm.data.resolve_model_data_config(self.backbone))

    def features(self, source: Source) -> Tensor:
        """Returns pooled features (N, D) float32 of every image, extracted once."""
        key = f"{self.fingerprint}-{source.fingerprint}-{len(source)}"
        if key not in self._features:
            found = self.cache.read(key, len(source)) if self.cache else None
            if found is None:
                found = extract(self.backbone, source, self.preprocess, workers=self.workers)
                check_intact(source)
                if self.cache:
                    self.cache.write(key, found)
            self._features[key] = found
        return self._features[key]

    def labelled(self, source: Source) -> Labelled:
        """Returns features and label of every image that decodes. Raises ValueError if the data set has no labels."""
        source = intact(source)
        if source.targets is None:
            why = source.inventory.unlabelled
            raise ValueError(f"{source.name} has no labels to evaluate with{why and f': {why}'}")
        return Labelled(self.features(source), source.targets)


def _settings(module: nn.Module) -> tuple[object, ...]:
    """Returns a module's settings besides weights: its class, plain attributes, and names of function attributes."""
    own = {name: value for name, value in vars(module).items() if name not in vars(nn.Module())}
    plain = {name: value for name, value in own.items() if _is_plain(value)}
    functions = {name: value.__qualname__ for name, value in own.items() if hasattr(value, "__qualname__")}
    return type(module).__qualname__, module.extra_repr(), sorted(plain.items()), sorted(functions.items())


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return isinstance(value, bool | int | float | str | None)


def evaluation_device() -> torch.device:
    """Returns the device for evaluation: torch's accelerator if there is one, else the CPU."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found or torch.device("cpu")


def load(name: str, seed: int = 0, cache: Path | None = None, workers: int = EVALUATION_WORKERS) -> FrozenModel:
    """Loads a model by any name of `star_training.models.names`, or `pixels`: the images themselves.

    Untrained models get random weights from `seed`. Raises ValueError for a model that can't be loaded.
    """
    if workers < 0:
        raise ValueError(f"workers is {workers}; it must be at least 0")
    model = parse(name)
    if model == Leaf("pixels"):
        return FrozenModel(name, nn.Flatten(), pixels(_PIXELS), cache=cache, workers=workers)
    backbone, objective = create(name, seed=seed), objective_of(model)
    view = objects() if getattr(backbone, "takes_objects", False) else timm_view(backbone)
    device = evaluation_device()
    return FrozenModel(called(name), backbone.to(device), view, objective and objective.to(device), cache, workers)
