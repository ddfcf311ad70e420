"""A policy: a sequence of augmentations whose parameters are the columns of one row.

Letters: B images, C channels, S view size in pixels, P parameters of one view.
"""

import functools
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from star_catalog.names import not_found

from ..bounds import SIDE
from .base import Augmentation, Framing, constants, tuples
from .blur import Blur
from .color import ColorJitter, Grayscale, Invert, Solarize
from .crop import Crop
from .geometry import Flip, Jigsaw, QuarterTurn, VerticalFlip
from .spirograph import Spirograph

_KINDS = (
    Crop, Spirograph, Flip, VerticalFlip, QuarterTurn, Jigsaw, ColorJitter, Grayscale, Solarize, Invert, Blur,
)  # fmt: skip
KNOWN: dict[str, type[Augmentation]] = {kind.__name__: kind for kind in _KINDS}
_IN_CACHE = 1_000_000  # pixel values processed together, 4 MB of float32
AUTO = "auto"  # of pixel statistics in plain data: to be estimated from the images
_SAMPLE = 4096  # draws for an estimated mean, whose standard error is 1.6 % of a standard deviation


@dataclass(frozen=True)
class Policy:
    """A sequence of augmentations, followed by the normalisation of pixels.

    The first augmentation makes the view from the image, e.g. `Crop`; the others transform the batch of views.
    `statistics` are the mean and standard deviation of each field over the training set if they are known, e.g. the
    authors' constants; otherwise `field_statistics` estimates them. Raises ValueError unless the first augmentation,
    and no other, makes the view, if it is larger than 4096 pixels, if a field is repeated, if the statistics have the
    wrong length, or if a colour operation meets images that have neither one nor three channels.
    """

    augmentations: tuple[Augmentation, ...]
    mean: tuple[float, ...]  # statistics of pixels in [0, 1], per channel; empty if they are still to be estimated
    std: tuple[float, ...]  # as mean
    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None  # of the params: means, standard deviations

    def __post_init__(self) -> None:
        for name in ("augmentations", "mean", "std", "statistics"):
            object.__setattr__(self, name, tuples(getattr(self, name)))  # a policy is hashable
        if not self.augmentations or not isinstance(self.augmentations[0], Framing):
            raise ValueError("the first augmentation of a policy must be Crop or Spirograph, which make the view")
        if any(isinstance(a, Framing) for a in self.augmentations[1:]):
            raise ValueError("a policy makes its view once; Crop or Spirograph must be first and nowhere else")
        if self.size > SIDE:
            raise ValueError(f"the size of views is {self.size}; it must be at most {SIDE} pixels")
        if len(set(self.fields)) < len(self.fields):
            raise ValueError(f"fields are {', '.join(self.fields)}; a policy must not repeat a field")
        if self.statistics and {len(s) for s in self.statistics} != {len(self.fields)}:
            raise ValueError(
                f"statistics must be {len(self.fields)} means and as many standard deviations, one for each of "
                f"{', '.join(self.fields)}"
            )
        if len(self.mean) != len(self.std):
            raise ValueError(
                f"the policy has {len(self.mean)} pixel means and {len(self.std)} standard deviations; pass one of "
                "each for each channel"
            )
        if self.mean:
            self._check_color(self.channels)
        _ = self.columns  # torch.compile can't trace the lock of a cached property that is first read in a graph

    def _check_color(self, channels: int) -> None:
        """Raises ValueError for an operation that images of so many channels lack the colours for."""
        if channels in (1, 3):  # on grey images, hue, saturation and grayscale change nothing
            return
        if colored := [k for k, a in enumerate(self.augmentations) if a.without_color() != a]:
            names = [type(self.augmentations[k]).__name__ for k in colored]
            removed = " ".join(f"--set policy.augmentations-={name}" for name in names)
            raise ValueError(
                f"{' and '.join(names)} of the policy change colours, but the images have {channels} channels: remove "
                f"them with {removed}, or set ColorJitter's saturation and hue to 0"
            )

    @property
    def channels(self) -> int:
        """C, the number of channels of the images. Raises ValueError if the pixel statistics aren't known yet."""
        if not self.mean:
            raise ValueError("the policy has no pixel statistics yet; pass mean and std, one number for each channel")
        return len(self.mean)

    def of_channels(self, channels: int) -> "Policy":
        """Returns the policy for images of so many channels.

        Pixel statistics for three channels are dropped where there is another number, so that they are estimated. For
        grey images, the operations keep only the parts that act on any number of channels. Raises ValueError for
        other statistics of a wrong length, and for colour operations on two channels or on four and more.
        """
        policy = self
        if channels == 1:
            kept = tuple(part for a in self.augmentations if (part := a.without_color()) is not None)
            policy = self if kept == self.augmentations else replace(self, augmentations=kept, statistics=None)
        if len(self.mean) not in (0, 3, channels):
            raise ValueError(f"policy.mean has {len(self.mean)} values, but the images have {channels} channels")
        if len(self.mean) not in (0, channels):
            policy = replace(policy, mean=(), std=())
        policy._check_color(channels)
        return policy

    @functools.cached_property
    def fields(self) -> tuple[str, ...]:
        """The names of the P columns of params, in order."""
        return tuple(name for a in self.augmentations for name in a.fields)

    @functools.cached_property
    def columns(self) -> dict[str, slice]:
        """The columns of params that each augmentation fills, by the augmentation's name."""
        ends = itertools.accumulate(len(a.fields) for a in self.augmentations)
        return {
            type(a).__name__: slice(end - len(a.fields), end) for a, end in zip(self.augmentations, ends, strict=True)
        }

    @property
    def size(self) -> int:
        """S, the side of a view in pixels."""
        return self._framing.size

    def resized(self, size: int) -> "Policy":
        """Returns the policy with views of another size in pixels."""
        return replace(self, augmentations=(replace(self._framing, size=size), *self.augmentations[1:]))

    def including(self, augmentation: Augmentation) -> "Policy":
        """Returns the policy with this augmentation in the place of one of its type, or else at the end.

        Unless it is already included, `statistics` are dropped, so that `field_statistics` estimates them.
        """
        if augmentation in self.augmentations:
            return self
        kinds = [type(a) for a in self.augmentations]
        place = kinds.index(type(augmentation)) if type(augmentation) in kinds else len(kinds)
        before, after = self.augmentations[:place], self.augmentations[place + 1 :]
        return replace(self, augmentations=(*before, augmentation, *after), statistics=None)

    def only(self, *kinds: type[Augmentation]) -> "Policy":
        """Returns the policy of the first augmentation, which makes the view, and of the others of these types.

        `statistics` are dropped if any augmentation is.
        """
        kept = (self.augmentations[0], *(a for a in self.augmentations[1:] if isinstance(a, kinds)))
        return self if kept == self.augmentations else replace(self, augmentations=kept, statistics=None)

    def without(self, kind: type[Augmentation]) -> "Policy":
        """Returns the policy without the augmentation of this type, and without `statistics` if it had one.

        Raises ValueError if that is the first augmentation, which makes the view.
        """
        kept = tuple(a for a in self.augmentations if not isinstance(a, kind))
        return self if kept == self.augmentations else replace(self, augmentations=kept, statistics=None)

    @property
    def _framing(self) -> Framing:
        first = self.augmentations[0]
        assert isinstance(first, Framing)
        return first

    def base(self, height: int, width: int) -> Tensor:
        """Returns the parameters of the un-augmented view of an image of this size in pixels: (P,) float32."""
        return _row(x for a in self.augmentations for x in a.base(height, width))

    def draw(self, height: int, width: int, generator: torch.Generator) -> Tensor:
        """Draws the parameters of one view of an image of this size in pixels: (P,) float32.

        An augmentation that doesn't act draws its base values.
        """
        u = torch.rand(self._uniforms, generator=generator, dtype=torch.float64, device="cpu").tolist()
        params: list[float] = []
        start = 0
        for a in self.augmentations:
            params += a.draw(height, width, u[start : start + a.uniforms])
            start += a.uniforms
        return _row(params)

    def draws(self, views: int, height: int, width: int, generator: torch.Generator) -> Tensor:
        """Draws the parameters of several views of an image of this size in pixels, one by one: (V, P) float32."""
        return torch.stack([self.draw(height, width, generator) for _ in range(views)])

    @functools.cached_property
    def _uniforms(self) -> int:
        return sum(a.uniforms for a in self.augmentations)

    def crop(self, image: Tensor, params: Tensor, extent: tuple[float, float] | None = None) -> Tensor:
        """Returns one view of one image, before the other operations: (C, height, width), (P,) -> (C, S, S).

        Pixels are uint8, or float32 from 0 to 255 for images of more than 8 bits, before and after.
        `extent` is the height and width of the image's content in the image's pixels, its size by default. It is
        smaller if a decoder downscaled the image and the last row or column covers fewer source pixels than the others.
        """
        height, width = extent or image.shape[-2:]
        return self._framing.crop_within(image, params[: len(self._framing.fields)], height, width)

    def shrink(self, params: Tensor, height: int, width: int) -> int:
        """Returns the largest integer downscale of an image of this size that loses no detail in the view."""
        return self._framing.shrink(params[: len(self._framing.fields)], height, width)

    def apply(self, images: Tensor, params: Tensor) -> Tensor:
        """Applies the other operations to views: (B, C, S, S), (B, P) -> (B, C, S, S) float32, normalised.

        The views are results of `crop`. The result is differentiable in the params wherever the augmentations are.
        Raises ValueError if the params have another shape, and without pixel statistics.
        """
        if params.shape != (len(images), len(self.fields)):
            raise ValueError(
                f"params have shape {tuple(params.shape)}; {len(images)} images under this policy need "
                f"({len(images)}, {len(self.fields)}), columns {', '.join(self.fields)}"
            )
        if images.device.type != "cpu":
            return self._apply(images, params)
        # in parts that stay in the processor's cache from one operation to the next
        few = max(1, _IN_CACHE // max(images.shape[1:].numel(), self.channels * self.size**2))
        parts = zip(torch.split(images, few), torch.split(params, few), strict=True)
        return torch.cat([self._apply(*part) for part in parts])

    def _apply(self, images: Tensor, params: Tensor) -> Tensor:
        x = images
        for a in self.augmentations:
            x = a.apply(x, params[:, self.columns[type(a).__name__]])
        if x.shape[1] != self.channels:
            raise ValueError(
                f"images have {x.shape[1]} channels, but the policy's mean and std have {self.channels}; pass a policy "
                "with one number for each channel"
            )
        mean, std = (constants(x, values)[:, None, None] for values in (self.mean, self.std))
        return (x - mean) / std

    @functools.cached_property
    def field_statistics(self) -> tuple[Tensor, Tensor]:
        """The mean and standard deviation of each field, (P,) each: `statistics`, or those of 4096 draws at S x S."""
        mean, std = self.statistics or _drawn_statistics(self)
        return _row(mean), _row(std)

    def to_dict(self) -> dict[str, Any]:
        """Returns the policy as plain data for JSON; `from_dict` is the inverse."""
        named = [{"name": type(a).__name__, **asdict(a)} for a in self.augmentations]
        pixels = {"mean": self.mean or AUTO, "std": self.std or AUTO}
        return {"augmentations": named, **pixels, "statistics": self.statistics}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> "Policy":
        """Builds a policy from the data of `to_dict`, also after a round trip through JSON.

        Raises ValueError for an unknown augmentation or setting, listing the known ones, and for invalid data.
        """
        try:
            made = tuple(augmentation(one) for one in data["augmentations"])
            pixels = data["mean"], data["std"]
            mean, std = ((), ()) if AUTO in pixels else map(tuples, pixels)
            return Policy(made, mean, std, tuples(data.get("statistics")))
        except (KeyError, TypeError) as error:
            raise ValueError(f"the data is not a policy: {error!r} in {str(data)[:200]}") from error


@functools.lru_cache
def _drawn_statistics(policy: Policy) -> tuple[list[float], list[float]]:
    """Returns the statistics of draws; equal policies, of which processes build many, are drawn from once."""
    generator = torch.Generator().manual_seed(0)
    sample = policy.draws(_SAMPLE, policy.size, policy.size, generator)
    return sample.mean(0).tolist(), sample.std(0).tolist()


def _row(values: Iterable[float]) -> Tensor:
    """Returns a row of params, always on the CPU: a default device is meant for models."""
    return torch.tensor(list(values), dtype=torch.float32, device="cpu")


def augmentation(data: Mapping[str, Any]) -> Augmentation:
    """Returns an augmentation from its name and settings, as `Policy.to_dict` writes them.

    Raises ValueError for an unknown name or setting, with the known ones, and for a missing setting.
    """
    settings = dict(data)
    name = settings.pop("name")
    if name not in KNOWN:
        raise ValueError(not_found("augmentation", name, KNOWN))
    known = {f.name: f.default for f in fields(KNOWN[name])}
    if unknown := set(settings) - set(known):
        raise ValueError(f"{name} has no setting {', '.join(sorted(unknown))}; known: {', '.join(sorted(known))}")
    if missing := [each for each, default in known.items() if default is MISSING and each not in settings]:
        raise ValueError(f"{name} lacks {', '.join(missing)}; its settings are {', '.join(known)}")
    return KNOWN[name](**{key: tuples(value) for key, value in settings.items()})
