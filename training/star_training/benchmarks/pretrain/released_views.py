"""Views in the released code's style: PIL crops one image at a time, torch changes colours one batch at a time.

Letters: B images, S view size, P augmentation parameters. Colours are in [0, 1]. Written from the description of the
augmentations (kornia 0.4.1's operations): parameters are drawn for a whole batch, each operation is applied only to the
images that it changes, and the jitter's four operations have one order per batch. Each image is known to have its own
blur kernel; applying it to rows and then to columns is an assumption in the released code's favour.
"""

from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as pil

_SCALE, _RATIO = [0.2, 1.0], [3 / 4, 4 / 3]
_NOTHING = (1.0, 1.0, 1.0, 0.0)  # brightness, contrast, saturation, hue


class Crops(Dataset[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]):
    """index -> the original image and two crops, each (3, S, S) float, and the boxes of the crops, each (4,)."""

    def __init__(self, images: list[Image.Image] | list[Path], size: int):
        self.images, self.size = images, size

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        image = self.images[index]
        if isinstance(image, Path):
            image = Image.open(image).convert("RGB")
        boxes = [RandomResizedCrop.get_params(image, _SCALE, _RATIO) for _ in range(2)]
        first, second = (crop(image, box, self.size) for box in boxes)
        whole = pil.to_tensor(pil.center_crop(pil.resize(image, [self.size]), [self.size]))
        return whole, first, second, torch.tensor(boxes[0]).float(), torch.tensor(boxes[1]).float()


def crop(image: Image.Image, box: tuple[int, int, int, int], size: int) -> Tensor:
    """Returns the box (top, left, height, width) of an image, resized: (3, S, S) float."""
    top, left, height, width = box
    return pil.to_tensor(pil.resized_crop(image, top, left, height, width, [size, size]))


class Drawn(NamedTuple):
    """The augmentations of each image of a batch."""

    flip: Tensor  # (B,), 0 or 1
    factors: Tensor  # (B, 4): brightness, contrast, saturation, hue
    grey: Tensor  # (B,), 0 or 1
    sigma: Tensor | None  # (B,) pixels, 0 for no blur; None if the policy has no blur

    def params(self, boxes: Tensor) -> Tensor:
        """Returns the parameters that the heads receive: boxes (B, 4) -> (B, P)."""
        columns = [boxes, self.flip[:, None], self.factors, self.grey[:, None]]
        return torch.cat(columns if self.sigma is None else [*columns, self.sigma[:, None]], 1)


def draw(count: int, blur: bool, device: torch.device) -> Drawn:
    """Draws the augmentations of `count` images."""

    def share() -> Tensor:
        return torch.rand(count, device=device)

    factors = torch.stack([0.6 + 0.8 * share(), 0.6 + 0.8 * share(), 0.6 + 0.8 * share(), 0.2 * share() - 0.1], 1)
    factors = torch.where((share() < 0.8)[:, None], factors, factors.new_tensor(_NOTHING))
    sigma = torch.where(share() < 0.5, 0.1 + 1.9 * share(), torch.zeros(count, device=device)) if blur else None
    return Drawn((share() < 0.5).float(), factors, (share() < 0.2).float(), sigma)


def augmented(images: Tensor, drawn: Drawn, order: list[int], kernel: int | None) -> Tensor:
    """Returns a batch of crops (B, 3, S, S) after flip, jitter with its operations in `order`, grey and blur."""
    images = images.clone()
    if (acts := drawn.flip > 0).any():
        images[acts] = images[acts].flip(-1)
    if (acts := (drawn.factors != drawn.factors.new_tensor(_NOTHING)).any(1)).any():
        chosen, factors = images[acts], drawn.factors[acts]
        for k in order:
            chosen = _OPERATIONS[k](chosen, factors[:, k].view(-1, 1, 1, 1))
        images[acts] = chosen
    if (acts := drawn.grey > 0).any():
        images[acts] = _grey(images[acts])
    if drawn.sigma is not None and kernel is not None and (acts := drawn.sigma > 0).any():
        images[acts] = _blurred(images[acts], drawn.sigma[acts], kernel)
    return images


def _brightness(x: Tensor, factor: Tensor) -> Tensor:
    return (x + (factor - 1)).clamp(0, 1)


def _contrast(x: Tensor, factor: Tensor) -> Tensor:
    return (x * factor).clamp(0, 1)


def _saturation(x: Tensor, factor: Tensor) -> Tensor:
    h, s, v = _to_hsv(x)
    return _to_rgb(h, (s * factor).clamp(0, 1), v)


def _hue(x: Tensor, shift: Tensor) -> Tensor:
    h, s, v = _to_hsv(x)
    return _to_rgb((h + shift) % 1, s, v)


_OPERATIONS = (_brightness, _contrast, _saturation, _hue)


def _to_hsv(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns hue in turns, saturation and value, each (B, 1, S, S)."""
    value, largest = x.max(1, keepdim=True)
    span = value - x.min(1, keepdim=True).values
    red, green, blue = x.split(1, 1)
    safe = span.clamp(min=1e-12)
    sides = torch.cat([(green - blue) / safe, 2 + (blue - red) / safe, 4 + (red - green) / safe], 1)
    return (sides.gather(1, largest) / 6) % 1, span / value.clamp(min=1e-12), value


def _to_rgb(h: Tensor, s: Tensor, v: Tensor) -> Tensor:
    """Computes the colour on all six sides of the colour hexagon, and selects one side for each pixel."""
    side = (6 * h).floor()
    into = 6 * h - side
    p, q, t = v * (1 - s), v * (1 - s * into), v * (1 - s * (1 - into))
    red, green, blue = (torch.cat(x, 1) for x in ((v, q, p, p, t, v), (t, v, v, q, p, p), (p, p, t, v, v, q)))
    which = side.long() % 6
    return torch.cat([channel.gather(1, which) for channel in (red, green, blue)], 1)


def _grey(x: Tensor) -> Tensor:
    return (x * x.new_tensor((0.299, 0.587, 0.114)).view(1, 3, 1, 1)).sum(1, keepdim=True).expand_as(x)


def _blurred(x: Tensor, sigma: Tensor, size: int) -> Tensor:
    """Blurs each image with its own Gaussian kernel of `size` pixels."""
    distance = torch.arange(size, device=x.device) - size // 2
    kernels = torch.exp(-(distance**2) / (2 * sigma[:, None] ** 2))
    kernels = (kernels / kernels.sum(1, keepdim=True)).repeat_interleave(3, 0)
    padded = F.pad(x, (size // 2,) * 4, mode="reflect").flatten(0, 1)[None]
    rows = F.conv2d(padded, kernels[:, None, :, None], groups=len(kernels))
    return F.conv2d(rows, kernels[:, None, None, :], groups=len(kernels)).view_as(x)
