"""A frozen model under evaluation. Letters: N images, D features, S image size."""

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..data import Source
from ..data.contents import keep, kept
from ..data.intact import check_intact, intact
from ..models.identity import identity
from ..models.names import Leaf, Model, parse
from ..models.resolve import called, objective_of
from ..settings.common import EVALUATION_WORKERS, check_seed
from .feature_cache import FeatureCache
from .features import Labelled, Preprocess, extract, objects, pixels, timm_view
from .metrics import NotApplicable

if TYPE_CHECKING:  # features in the cache are read without creating a model, so without this package
    from star_zoo import Objective, Policy

_PIXELS = 32  # side of the images whose pixels are the features


def _uncounted(images: int) -> None:
    """Ignores the progress of an extraction."""


class FrozenModel:
    """A backbone, its preprocessing, and the objective that it was trained with, if any.

    `cache` is the folder of a `FeatureCache`; with None, features are kept only in this object. `workers` processes
    load the images of large data sets that are decoded on access. `extracted` is called with the number of images of
    each batch whose features are extracted.
    """

    extracted: Callable[[int], None] = staticmethod(_uncounted)

    def __init__(
        self,
        name: str,
        backbone: nn.Module,
        preprocess: Preprocess,
        objective: "Objective | None" = None,
        cache: Path | None = None,
        workers: int = EVALUATION_WORKERS,
    ):
        self.name, self.backbone, self.preprocess, self.objective = name, backbone, preprocess, objective
        self.workers = workers
        self.cache = FeatureCache(cache) if cache else None
        self._features: dict[str, Tensor] = {}

    @functools.cached_property
    def fingerprint(self) -> str:
        """A short hex hash of the backbone's weights, its settings, the user's code in it, and its preprocessing."""
        from star_zoo import own_networks

        sha = hashlib.sha256(self.preprocess.key.encode())
        for file in own_networks.sources(self.backbone):
            sha.update(file.read_bytes())
        sha.update(repr([(name, *_settings(module)) for name, module in self.backbone.named_modules()]).encode())
        for name, tensor in (*self.backbone.state_dict().items(), *self.backbone.named_buffers()):
            sha.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            sha.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return sha.hexdigest()[:16]

    @functools.cached_property
    def channels(self) -> int:
        """The number of channels of the images that the model takes; 3 for objects, which aren't images."""
        if getattr(self.backbone, "takes_objects", False):
            return 3
        return int(getattr(self.backbone, "pretrained_cfg", {}).get("input_size", (3,))[0])

    @functools.cached_property
    def policy(self) -> "Policy":
        """The objective's policy, else a wrapper's, else our default one at the backbone's size and statistics."""
        import timm

        from star_zoo.augmentations.presets import of_config
        from star_zoo.wrappers import Wrapper

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
                found = extract(self.backbone, source, self.preprocess, workers=self.workers, extracted=self.extracted)
                check_intact(source)
                if self.cache:
                    self.cache.write(key, found)
            self._features[key] = found
        return self._features[key]

    def forget(self) -> None:
        """Drops the features in this object; those in the cache stay."""
        self._features.clear()

    def labelled(self, source: Source) -> Labelled:
        """Returns features and label of every image that decodes. Raises NotApplicable if there are no labels."""
        source = intact(source)
        if source.targets is None:
            why = source.inventory.unlabelled
            raise NotApplicable(f"{source.name} has no labels to evaluate with{why and f': {why}'}")
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


class Recognised(FrozenModel):
    """A model whose fingerprint an earlier process has computed; the network is created when it is needed.

    Features in the cache are therefore read without it. `known` is the fingerprint and the number of channels; `make`
    creates the model.
    """

    def __init__(self, name: str, known: str, make: Callable[[], FrozenModel], cache: Path | None, workers: int):
        self.fingerprint, channels = known.split()
        self.name, self.channels, self.workers = name, int(channels), workers
        self.cache = FeatureCache(cache) if cache else None
        self._make = make
        self._features = {}

    def __getattr__(self, attribute: str) -> Any:
        """Creates the network at the first access to a part of it. Raises ValueError if its files have changed."""
        if attribute not in ("backbone", "preprocess", "objective"):
            raise AttributeError(attribute)
        made = self._make()
        if made.fingerprint != self.fingerprint:
            raise ValueError(f"{self.name} changed while it was in use; start again")
        self.backbone, self.preprocess, self.objective = made.backbone, made.preprocess, made.objective
        return getattr(self, attribute)


def load(name: str, seed: int = 0, cache: Path | None = None, workers: int = EVALUATION_WORKERS) -> FrozenModel:
    """Loads a model by any name of `star_training.models.names`, or `pixels`: the images themselves.

    Untrained models get random weights from `seed`. Raises ValueError for a model that can't be loaded.
    """
    if workers < 0:
        raise ValueError(f"workers is {workers}; it must be at least 0")
    check_seed(seed)
    model = parse(name)
    if model == Leaf("pixels"):
        return FrozenModel(name, nn.Flatten(), pixels(_PIXELS), cache=cache, workers=workers)
    make = functools.partial(_create, name, model, seed, cache, workers)
    key = identity(model)
    if key and (known := kept(key)):
        return Recognised(called(name), known, make, cache, workers)
    made = make()
    if key and identity(model) == key:
        keep(key, f"{made.fingerprint} {made.channels}")
    return made


def _create(name: str, model: Model, seed: int, cache: Path | None, workers: int) -> FrozenModel:
    from ..models.create import create

    backbone, objective = create(name, seed=seed), objective_of(model)
    view = objects() if getattr(backbone, "takes_objects", False) else timm_view(backbone)
    device = evaluation_device()
    return FrozenModel(called(name), backbone.to(device), view, objective and objective.to(device), cache, workers)
