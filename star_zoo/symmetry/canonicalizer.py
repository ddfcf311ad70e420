"""Learned canonicalization: scores of the poses of an image, so that it can be turned upright.

Source: Kaba et al., "Equivariance with Learned Canonicalization Functions" (arXiv 2211.06489), the direct form with a
group-equivariant network; Panigrahi & Mondal (arXiv 2405.14089), the optimised form with any network; Mondal et al.
(2023), the prior; Dym et al. (arXiv 2402.16077), weighted frames. The bodies of these papers could not be read.
Layers, widths and sizes are ours, and so is the form that scores the features of the model itself.
Letters: B images, S image size, G elements of the group, R entries of a vector, D features.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from star_catalog.names import not_found

from ..groups import AveragePool, FieldNorm, Group, GroupConv, LiftConv
from .choice import straight_through, turn

_SIDE = 64  # pixels; larger images are halved until they are no larger
_FIELDS, _CHANNELS, _VECTOR = 8, 32, 32  # widths of the direct network, of the optimised one, and R
_HIDDEN = 256  # width of the scores of features
_SPREAD = 1e-4  # weight of the penalty on similar vectors
_BOTH = 0.2  # share of the task's loss on both poses alike, so that the model knows images that it turns wrongly

Backbone = Callable[[Tensor], Tensor]  # (B, C, S, S) -> (B, D)
Task = Callable[[Tensor], Tensor]  # the loss of each image, given its features: (k * B, D) -> (k * B,) for any k


class Canonicalizer(nn.Module):
    """Activations of each element of the group, (B, C, S, S) -> (B, G); turning the images by g moves them by g.

    An image is in the pose of its largest activation. A subclass implements `activate`.
    """

    kind: ClassVar[str]
    prior_weight: ClassVar[float] = 100.0  # of the prior beside a task's loss; equiadapt's
    trains_backbone: ClassVar[bool] = False  # whether the activations depend on the backbone's weights

    def __init__(self, group: Group):
        super().__init__()
        self.group = group

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Keeps float32 when the model is converted to another precision, because rounded activations would tie."""

        def moved(tensor: Tensor) -> Tensor:
            made = fn(tensor)
            return made if made.dtype == tensor.dtype else tensor.to(made.device)

        return super()._apply(moved, recurse)  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor, backbone: Backbone) -> Tensor:
        """Returns the activations, (B, G), float32. Raises ValueError for images that aren't square."""
        return self.activate(x, backbone)[0]

    def activate(self, x: Tensor, backbone: Backbone) -> tuple[Tensor, Tensor]:
        """Returns the activations (B, G) and a penalty that is trained with the prior, a scalar; float32."""
        raise NotImplementedError

    def features(self, x: Tensor, backbone: Backbone) -> Tensor:
        """Returns the backbone's features of the images in their chosen poses: (B, C, S, S) -> (B, D)."""
        return backbone(self.to_canonical(x, self.weights(self(x, backbone)).to(x.dtype)))

    def losses(self, x: Tensor, backbone: Backbone, task: Task) -> tuple[Tensor, Tensor]:
        """Returns the task's mean loss on the images in their chosen poses, and the loss if all images are upright."""
        activations, penalty = self.activate(x, backbone)
        upright = self.to_canonical(x, self.weights(activations).to(x.dtype))
        return task(backbone(upright)).mean(), prior(activations, penalty)

    def poses(self, x: Tensor) -> Tensor:
        """Returns the images turned back by each element, one after the other: (B, C, S, S) -> (G * B, C, S, S)."""
        return torch.cat([self.group.act_on_images(x, self.group.inverse(g)) for g in range(self.group.order)])

    def weights(self, activations: Tensor) -> Tensor:
        """Returns the choice as weights of the elements, (B, G) -> (B, G): 1 for the largest activation, else 0.

        In training, they have the gradient of the softmax.
        """
        return straight_through(activations if self.training else activations.detach())

    def to_canonical(self, x: Tensor, weights: Tensor) -> Tensor:
        """Returns the images turned back by the chosen elements, exactly: (B, C, S, S), (B, G) -> (B, C, S, S)."""
        return turn(x, weights, self.group, back=True)

    def from_canonical(self, maps: Tensor, weights: Tensor) -> Tensor:
        """Undoes `to_canonical` on maps of canonical images: (B, C, H, H), (B, G) -> (B, C, H, H)."""
        return turn(maps, weights, self.group)

    def extra_repr(self) -> str:
        """Returns the settings, for the printed module."""
        return f"{self.group.name}, {self.kind}"


class Direct(Canonicalizer):
    """A small equivariant network, which computes all activations at once. It doesn't use the backbone."""

    kind = "direct"

    def __init__(self, group: Group, channels: int, num_features: int, **dd: Any):
        super().__init__(group)
        self.net = _equivariant(group, channels, dd)

    def activate(self, x: Tensor, backbone: Backbone) -> tuple[Tensor, Tensor]:
        """Returns the activations (B, G), and 0."""
        check_square(x)
        with _float32(x):
            return self.net(_halved(x.float())).flatten(1), torch.zeros((), device=x.device)


class Optimised(Canonicalizer):
    """a_g = cos(r, h(g^-1 x)) with a small network h and a fixed random vector r. It doesn't use the backbone."""

    kind = "optimised"
    target: Tensor  # r, (R,)

    def __init__(self, group: Group, channels: int, num_features: int, **dd: Any):
        super().__init__(group)
        self.net = _plain(channels, dd)
        self.register_buffer("target", torch.randn(_VECTOR, **dd))

    def activate(self, x: Tensor, backbone: Backbone) -> tuple[Tensor, Tensor]:
        """Returns the activations (B, G), and the mean absolute product of the vectors of two poses of one image."""
        check_square(x)
        with _float32(x):
            count = self.group.order
            vectors = self.net(self.poses(_halved(x.float()))).unflatten(0, (count, -1)).transpose(0, 1)  # (B, G, R)
            products = (vectors @ vectors.mT).abs()
            off_diagonal = 1 - torch.eye(count, device=x.device)
            penalty = (products * off_diagonal).sum((1, 2)).mean() / (count * (count - 1))
            return F.cosine_similarity(vectors, self.target, dim=2), penalty


class OfFeatures(Canonicalizer):
    """a_g is a score of the backbone's features of g^-1 x; backbone and score learn the pose together.

    The backbone computes each image in all poses; in training, `losses` takes two.
    """

    kind = "features"
    prior_weight = 1.0  # because the backbone learns the task as well
    trains_backbone = True

    def __init__(self, group: Group, channels: int, num_features: int, **dd: Any):
        super().__init__(group)
        hidden = nn.Linear(num_features, _HIDDEN, **dd)
        self.net = nn.Sequential(hidden, nn.ReLU(inplace=True), nn.Linear(_HIDDEN, 1, **dd))

    def activate(self, x: Tensor, backbone: Backbone) -> tuple[Tensor, Tensor]:
        """Returns the activations (B, G), and 0."""
        return self._of_poses(x, backbone)[0], torch.zeros((), device=x.device)

    def features(self, x: Tensor, backbone: Backbone) -> Tensor:
        """Returns the mean of the features of all poses, weighted by the softmax of their activations: (B, D).

        `losses` weighs two poses in the same way. Unlike the features of the best pose, the mean is continuous in x,
        and it is invariant up to rounding: a weighted frame.
        """
        activations, features = self._of_poses(x, backbone)
        return (activations.softmax(1)[..., None] * features).sum(1).to(x.dtype)

    def _of_poses(self, x: Tensor, backbone: Backbone) -> tuple[Tensor, Tensor]:
        """Returns the activations (B, G) and the features (B, G, D) of the poses; float32."""
        check_square(x)
        with _float32(x):
            features = backbone(self.poses(x)).float()
            activations = self.net(features).view(self.group.order, -1).T
            return activations, features.view(self.group.order, len(x), -1).transpose(0, 1)

    def losses(self, x: Tensor, backbone: Backbone, task: Task) -> tuple[Tensor, Tensor]:
        """Returns the expected loss of the task over two poses, and the loss if all images are upright.

        The two poses are the given one and a random other one, which costs two passes of the backbone. Their
        probabilities are the softmax of their activations, mixed with equal ones.
        """
        elements = torch.randint(1, self.group.order, (len(x),), device=x.device)
        turned = turn(x, F.one_hot(elements, self.group.order).to(x.dtype), self.group)
        features = backbone(torch.cat([x, turned]))
        activations = self.net(features.float()).float().view(2, -1).T  # (B, 2)
        probabilities = (1 - _BOTH) * activations.softmax(1) + _BOTH / 2
        expected = (probabilities.T * task(features).view(2, -1)).sum(0).mean()
        return expected, prior(activations, activations.new_zeros(()))


_CLASSES: dict[str, Any] = {c.kind: c for c in (Direct, Optimised, OfFeatures)}
KINDS = tuple(_CLASSES)


def build(kind: str, group: Group, channels: int, num_features: int, **dd: Any) -> Canonicalizer:
    """Returns a canonicalizer of images of `channels` channels, with random weights.

    `num_features` is the D of the backbone, `dd` are device and dtype. Raises ValueError for an unknown kind.
    """
    if kind not in _CLASSES:
        raise ValueError(not_found("kind of canonicalizer", kind, KINDS))
    made: Canonicalizer = _CLASSES[kind](group, channels, num_features, **dd)
    return made


def prior(activations: Tensor, penalty: Tensor) -> Tensor:
    """Returns the loss of images that are upright: cross entropy to the identity, plus the weighted penalty."""
    return F.cross_entropy(activations, activations.new_zeros(len(activations), dtype=torch.int64)) + _SPREAD * penalty


def check_square(x: Tensor) -> None:
    """Raises ValueError for images that aren't square."""
    if x.shape[-1] != x.shape[-2]:
        raise ValueError(f"images are {x.shape[-2]} x {x.shape[-1]}; a canonicalizer takes square ones: resize or crop")


def _float32(x: Tensor) -> torch.autocast:
    """Returns a context without mixed precision, because rounding to bfloat16 would tie activations."""
    return torch.autocast(x.device.type, enabled=False)


def _halved(x: Tensor) -> Tensor:
    """Returns the images, halved until their side is at most `_SIDE`; turning them turns the result."""
    x, pool = x[:, :, None], AveragePool()
    while x.shape[-1] > _SIDE:
        x = pool(x)
    return x[:, :, 0]


def _equivariant(group: Group, channels: int, dd: dict[str, Any]) -> nn.Sequential:
    """Returns an equivariant network: (B, C, S, S) -> (B, 1, G, 1, 1)."""
    lift = LiftConv(group, channels, _FIELDS, 5, **dd)
    layers: list[nn.Module] = [lift, FieldNorm(_FIELDS, **dd), nn.ReLU(inplace=True)]
    for _ in range(2):
        layers += [AveragePool(), GroupConv(group, _FIELDS, _FIELDS, **dd), FieldNorm(_FIELDS, **dd)]
        layers += [nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, _Mean(), GroupConv(group, _FIELDS, 1, 1, **dd))


class _Mean(nn.Module):
    """The mean over positions: (B, C, G, H, W) -> (B, C, G, 1, 1)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((3, 4), keepdim=True)


def _plain(channels: int, dd: dict[str, Any]) -> nn.Sequential:
    """Returns a network without symmetry: (B, C, S, S) -> (B, R)."""
    layers: list[nn.Module] = []
    for width, size in ((channels, 5), (_CHANNELS, 3), (_CHANNELS, 3)):
        layers += [nn.Conv2d(width, _CHANNELS, size, padding=size // 2, bias=False, **dd)]
        layers += [nn.BatchNorm2d(_CHANNELS, **dd), nn.ReLU(inplace=True), nn.AvgPool2d(2, ceil_mode=True)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(_CHANNELS, _VECTOR, **dd))
