"""A policy: ordered augmentations whose parameters lie side by side.

Letters: B images, S view size in pixels, P parameters of one view.
"""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from ..names import not_found
from .base import Augmentation, Framing
from .blur import Blur
from .color import ColorJitter, Grayscale, Solarize
from .crop import Crop
from .geometry import Flip, QuarterTurn
from .spirograph import Spirograph

KNOWN: dict[str, type[Augmentation]] = {
    kind.__name__: kind for kind in (Crop, Spirograph, Flip, QuarterTurn, ColorJitter, Grayscale, Solarize, Blur)
}
_IN_CACHE = 1_000_000  # numbers of images at once, 4 MB of float32
_SAMPLE = 4096  # draws behind an estimated statistic: 1.6 % of a standard deviation


@dataclass(frozen=True)
class Policy:
    """Which augmentations, in which order, and how pixels are normalised at the end.

    The first augmentation makes the view out of the image (`Crop`), the others change the batch of views.
    `statistics` are the mean and standard deviation of each field over the training set, where they are known
    (the authors' constants); otherwise `field_statistics` estimates them from draws.
    """

    augmentations: tuple[Augmentation, ...]
    mean: tuple[float, float, float]  # pixel statistics, of values in [0, 1]
    std: tuple[float, float, float]
    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None

    def __post_init__(self) -> None:
        if not self.augmentations or not isinstance(self.augmentations[0], Framing):
            raise ValueError("a policy's first augmentation must make the view: Crop or Spirograph")
        if any(isinstance(a, Framing) for a in self.augmentations[1:]):
            raise ValueError("a policy makes its view once: Crop or Spirograph stands first and nowhere else")
        if len(set(self.fields)) < len(self.fields):
            raise ValueError(f"a policy names each field once, but it has {', '.join(self.fields)}")
        if self.statistics and {len(s) for s in self.statistics} != {len(self.fields)}:
            raise ValueError(f"statistics need {len(self.fields)} means and deviations, one for each of {self.fields}")

    @functools.cached_property
    def fields(self) -> tuple[str, ...]:
        """The names of the P columns of params."""
        return tuple(name for a in self.augmentations for name in a.fields)

    @property
    def size(self) -> int:
        """S, the side of a view in pixels."""
        return self._framing.size

    def resized(self, size: int) -> "Policy":
        """Returns the same policy with views of another size in pixels."""
        return replace(self, augmentations=(replace(self._framing, size=size), *self.augmentations[1:]))

    @property
    def _framing(self) -> Framing:
        first = self.augmentations[0]
        assert isinstance(first, Framing)
        return first

    def base(self, height: int, width: int) -> Tensor:
        """The parameters of the un-augmented view of an image of this size: (P,)."""
        return _row(x for a in self.augmentations for x in a.base(height, width))

    def draw(self, height: int, width: int, generator: torch.Generator) -> Tensor:
        """One view's parameters for an image of this size: (P,); what doesn't act draws its base values."""
        u = torch.rand(self._uniforms, generator=generator, dtype=torch.float64, device="cpu").tolist()
        params: list[float] = []
        start = 0
        for a in self.augmentations:
            params += a.draw(height, width, u[start : start + a.uniforms])
            start += a.uniforms
        return _row(params)

    @functools.cached_property
    def _uniforms(self) -> int:
        return sum(a.uniforms for a in self.augmentations)

    def crop(self, image: Tensor, params: Tensor, extent: tuple[float, float] | None = None) -> Tensor:
        """One view of one image, before the other operations: any size, (P,) -> (3, S, S) uint8.

        `extent` is the height and width of what the image shows, in its own pixels: its own size, unless a decoder made
        it smaller and its last row and column stand for fewer pixels of the whole than the others do.
        """
        height, width = extent or image.shape[-2:]
        return self._framing.crop_within(image, params[: len(self._framing.fields)], height, width)

    def shrink(self, params: Tensor, height: int, width: int) -> int:
        """How many times smaller an image of this size may be for the view that `params` (P,) tell."""
        return self._framing.shrink(params[: len(self._framing.fields)], height, width)

    def apply(self, images: Tensor, params: Tensor) -> Tensor:
        """The rest, on a batch of `crop`'s results: (B, 3, S, S) uint8, (B, P) -> (B, 3, S, S) float32, normalised.

        Differentiable in the params as far as the augmentations are.
        """
        if params.shape != (len(images), len(self.fields)):
            raise ValueError(
                f"params have shape {tuple(params.shape)}; {len(images)} images under this policy need "
                f"({len(images)}, {len(self.fields)}), columns {', '.join(self.fields)}"
            )
        if images.device.type != "cpu":
            return self._apply(images, params)
        # so few at once that a processor keeps them in its cache from one operation to the next
        few = max(1, _IN_CACHE // max(images.shape[1:].numel(), 3 * self.size**2))
        parts = zip(images.split(few), params.split(few), strict=True)
        return torch.cat([self._apply(*part) for part in parts])

    def _apply(self, images: Tensor, params: Tensor) -> Tensor:
        x, start = images, 0
        for a in self.augmentations:
            x = a.apply(x, params[:, start : start + len(a.fields)])
            start += len(a.fields)
        mean, std = (x.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (x - mean) / std

    @functools.cached_property
    def field_statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each field, each (P,): as given, or over 4096 draws for an image of S x S."""
        if self.statistics:
            return _row(self.statistics[0]), _row(self.statistics[1])
        generator = torch.Generator().manual_seed(0)
        sample = torch.stack([self.draw(self.size, self.size, generator) for _ in range(_SAMPLE)])
        return sample.mean(0), sample.std(0)

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for JSON; `from_dict` is the way back."""
        named = [{"name": type(a).__name__, **asdict(a)} for a in self.augmentations]
        return {"augmentations": named, "mean": self.mean, "std": self.std, "statistics": self.statistics}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> "Policy":
        """Builds a policy from `to_dict`'s data or the same read from JSON.

        Raises ValueError for an unknown augmentation or setting, naming the known ones.
        """
        try:
            made = tuple(_augmentation(dict(one)) for one in data["augmentations"])
            return Policy(made, _tuples(data["mean"]), _tuples(data["std"]), _tuples(data.get("statistics")))
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a policy: {error!r} in {str(data)[:200]}") from error


def _row(values: Iterable[float]) -> Tensor:
    """Parameters are made on the CPU, whatever device models are being made on."""
    return torch.tensor(list(values), dtype=torch.float32, device="cpu")


def _augmentation(settings: dict[str, Any]) -> Augmentation:
    name = settings.pop("name")
    if name not in KNOWN:
        raise ValueError(not_found("augmentation", name, KNOWN))
    known = {f.name for f in fields(KNOWN[name])}
    if unknown := set(settings) - known:
        raise ValueError(f"{name} has no setting {', '.join(sorted(unknown))}; known: {', '.join(sorted(known))}")
    return KNOWN[name](**{key: _tuples(value) for key, value in settings.items()})


def _tuples(value: Any) -> Any:
    """JSON has lists where we have tuples."""
    return tuple(_tuples(v) for v in value) if isinstance(value, (list, tuple)) else value
