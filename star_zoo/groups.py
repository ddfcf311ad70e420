"""The groups C4 and D4 of quarter turns and flips: their action on images and features, and layers that respect it.

A field is one feature in the regular representation: one map for each element of the group. Turning the images turns
the maps of a field and moves them to other elements. Every layer here maps a turned input to the turned output, to
rounding, on maps of any size. A convolution with a stride doesn't, on maps of even size: its windows lie closer to one
border than to the other. Therefore the convolutions have none, and `AveragePool` reduces the size.

Source: Cohen and Welling, "Group Equivariant Convolutional Networks" (arXiv 1602.07576, sections 4 to 6).
Letters: B images, C channels or fields, G elements of the group, H x W pixels, K kernel size.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from star_catalog.names import not_found


@dataclass(frozen=True)
class Group:
    """C4 or D4; element g is a flip from left to right if g >= 4, followed by g % 4 quarter turns counter-clockwise."""

    name: str
    order: int  # G

    def product(self, g: int, h: int) -> int:
        """Returns the element that acts as `h` followed by `g`."""
        turns = g + (-h if g >= 4 else h)
        return 4 * (g // 4 ^ h // 4) + turns % 4

    def inverse(self, g: int) -> int:
        """Returns the element that undoes `g`."""
        return g if g >= 4 else -g % 4

    def act_on_images(self, x: Tensor, g: int) -> Tensor:
        """Flips and turns images or scalar maps by `g`, exactly: (..., H, W) -> (..., H, W), or (..., W, H)."""
        return (x.flip(-1) if g >= 4 else x).rot90(g % 4, (-2, -1))

    def act_on_features(self, z: Tensor, g: int, dim: int = -1) -> Tensor:
        """Moves the value at each element h to the element gh: (..., G) -> (..., G); in C4, a cyclic shift by g."""
        source = [self.product(self.inverse(g), h) for h in range(self.order)]
        return torch.stack([z.select(dim, h) for h in source], dim)  # an index would be copied to the device

    def act_on_maps(self, x: Tensor, g: int) -> Tensor:
        """Turns the maps of fields by `g` and moves them to other elements: (..., G, H, W) -> (..., G, H, W)."""
        return self.act_on_images(self.act_on_features(x, g, dim=-3), g)

    def orbit(self, x: Tensor) -> Tensor:
        """Returns square images turned by every element: (B, ..., H, H) -> (B, G, ..., H, H)."""
        return torch.stack([self.act_on_images(x, g) for g in range(self.order)], 1)


C4, D4 = Group("c4", 4), Group("d4", 8)
_GROUPS = {group.name: group for group in (C4, D4)}


def find(name: str) -> Group:
    """Returns the group of a name, "c4" or "d4". Raises ValueError for another name."""
    if name not in _GROUPS:
        raise ValueError(not_found("group", name, _GROUPS))
    return _GROUPS[name]


class _Convolution(nn.Module):
    """A convolution whose filters are the turned copies of one filter per output field.

    `turned` holds, for each element, the place in a field's filter that each entry of its turned copy comes from:
    G of (1 or G, K, K). Weights are stored as those of a plain convolution, so that memory formats apply to them.
    """

    index: Tensor  # (1, G, 1, entries of a filter)

    def __init__(self, turned: list[Tensor], channels: int, fields: int, device: Any, dtype: Any):
        super().__init__()
        (depth, self.kernel_size, _), self.order = turned[0].shape, len(turned)
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size is {self.kernel_size}; it must be odd, so that a filter has a centre")
        self.channels, self.fields = channels, fields
        shape = fields, channels * depth, self.kernel_size, self.kernel_size
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        index = torch.stack([places.flatten() for places in turned])[None, :, None]
        self.register_buffer("index", index.to(device), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialises the weight as timm's ResNets do; the turned copies count in the fan-out."""
        nn.init.normal_(self.weight, std=math.sqrt(2 / (self.fields * self.order * self.kernel_size**2)))

    def filters(self) -> Tensor:
        """Returns the filters of a plain convolution: (fields * G, C or C * G, K, K)."""
        # Gathering from an expanded weight is the fastest form, and no two entries meet in its gradient.
        weight = self.weight.reshape(self.fields, 1, self.channels, -1).expand(-1, self.order, -1, -1)
        filters = weight.gather(3, self.index.expand(self.fields, -1, self.channels, -1))
        return filters.reshape(self.fields * self.order, -1, self.kernel_size, self.kernel_size)

    def convolve(self, x: Tensor) -> Tensor:
        """Convolves with all filters: (B, C or C * G, H, W) -> (B, fields, G, H, W)."""
        y = F.conv2d(x, self.filters(), padding=self.kernel_size // 2)
        return y.view(y.shape[0], self.fields, self.order, y.shape[2], y.shape[3])

    def extra_repr(self) -> str:
        """Returns the arguments, for the printed module."""
        return f"{self.channels}, {self.fields}, kernel_size={self.kernel_size}, order={self.order}"


class LiftConv(_Convolution):
    """Convolves images with the turned copies of each filter: (B, C, H, W) -> (B, fields, G, H, W).

    Raises ValueError for an even kernel size.
    """

    def __init__(
        self, group: Group, channels: int, fields: int, kernel_size: int = 3, device: Any = None, dtype: Any = None
    ):
        places = torch.arange(kernel_size**2, device="cpu").view(1, kernel_size, kernel_size)
        turned = [group.act_on_images(places, g) for g in range(group.order)]
        super().__init__(turned, channels, fields, device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.convolve(x)


class GroupConv(_Convolution):
    """Convolves fields over the group and the plane: (B, C, G, H, W) -> (B, fields, G, H, W).

    Raises ValueError for an even kernel size.
    """

    def __init__(
        self, group: Group, channels: int, fields: int, kernel_size: int = 3, device: Any = None, dtype: Any = None
    ):
        places = torch.arange(group.order * kernel_size**2, device="cpu").view(-1, kernel_size, kernel_size)
        turned = [group.act_on_maps(places, g) for g in range(group.order)]
        super().__init__(turned, channels, fields, device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.convolve(x.flatten(1, 2))


class FieldNorm(nn.Module):
    """Batch norm with one mean, variance, weight and bias per field: (B, C, G, H, W) -> (B, C, G, H, W)."""

    def __init__(self, fields: int, device: Any = None, dtype: Any = None):
        super().__init__()
        self.norm = nn.BatchNorm2d(fields, device=device, dtype=dtype)  # stock, so that every tool finds it

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(x.flatten(2, 3))
        return y.reshape(x.shape)


class AveragePool(nn.Module):
    """Halves the size of maps, rounding up: (B, C, G, H, W) -> (B, C, G, H/2, W/2).

    Windows of 2 pixels on an even side; on an odd side, windows of 3 around every other pixel, from the first to the
    last. Both are symmetric, so that pooling commutes with flips and turns.
    """

    def forward(self, x: Tensor) -> Tensor:
        odd = [x.shape[3] % 2, x.shape[4] % 2]
        y = F.avg_pool2d(x.flatten(1, 2), [2 + odd[0], 2 + odd[1]], 2, odd, count_include_pad=False)
        return y.view(x.shape[0], x.shape[1], x.shape[2], y.shape[2], y.shape[3])


@torch.no_grad()
def equivariance_error(group: Group, features: Callable[[Tensor], Tensor], images: Tensor) -> float:
    """Returns the largest relative error of f(g x) = g f(x) over elements g and images x, in the Euclidean norm.

    `features` is f, (B, C, H, H) -> (B, D, G); `images` are square, (B, C, H, H).
    """
    expected = features(images)
    size = expected.flatten(1).norm(dim=1)
    errors = [
        features(group.act_on_images(images, g)) - group.act_on_features(expected, g) for g in range(1, group.order)
    ]
    return max(float((error.flatten(1).norm(dim=1) / size).max()) for error in errors)
