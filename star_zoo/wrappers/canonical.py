"""Canonicalized images: a backbone that sees every image upright, as a learned canonicalizer turns it.

Letters: B images, S image size, D features, G elements of the group, C channels or classes, H side of a map.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .. import groups
from ..augmentations import Policy
from ..objectives import Objective
from ..symmetry import canonicalizer
from ..symmetry.canonicalizer import KINDS, Canonicalizer, Task
from ._base import Wrapper


class Canonical(Wrapper):
    """The features of images turned back to the pose that the canonicalizer chooses: (B, 3, S, S) -> (B, D).

    They are the same for an image in all poses of the group, whatever the weights. A canonicalizer of kind `features`
    returns the mean over all poses instead, weighted by their probabilities; `canonical` and the maps of
    `forward_intermediates` are always those of the most probable pose. A model that was saved with the
    objective `canonicalization` has a learned canonicalizer; for any other model its weights are random, from `seed`,
    and the chosen pose is arbitrary. In training the choice is hard with the gradient of a softmax.
    Raises ValueError for a group or kind that is not the saved one's.
    """

    def __init__(
        self,
        backbones: Sequence[Any],
        policy: Policy,
        objective: Objective | None = None,
        *,
        group: str | None = None,  # c4 or d4; None: the saved one's, else c4
        kind: str | None = None,  # direct, optimised or features; None: the saved one's, else direct
        seed: int = 0,  # of random weights
    ):
        super().__init__(backbones, policy)
        if self.takes_objects:
            raise ValueError("Canonical takes a model of images; this one renders objects, which can't be turned")
        saved = getattr(objective, "canonicalizer", None)
        if saved is None:
            device = next((p.device for p in backbones[0].parameters()), torch.device("cpu"))
            of = groups.find(group or "c4"), policy.channels, self.num_features
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                saved = canonicalizer.build(kind or KINDS[0], *of, device=device)
        for name, given, own in (("group", group, saved.group.name), ("kind", kind, saved.kind)):
            if given not in (None, own):
                raise ValueError(f"{name} is {given}; the saved canonicalizer's is {own}: leave {name} out")
        self.canonicalizer: Canonicalizer = saved

    def arguments(self) -> dict[str, Any]:
        return {"group": self.canonicalizer.group.name, "kind": self.canonicalizer.kind}

    def forward_features(self, x: Tensor) -> Tensor:
        return self.canonicalizer.features(x, self.backbones[0])

    def activations(self, x: Tensor) -> Tensor:
        """Returns the canonicalizer's activations: (B, 3, S, S) -> (B, G)."""
        found: Tensor = self.canonicalizer(x, self.backbones[0])
        return found

    def canonical(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the images in their canonical pose, and the weights of the chosen elements, (B, G)."""
        weights = self.canonicalizer.weights(self.activations(x)).to(x.dtype)
        return self.canonicalizer.to_canonical(x, weights), weights

    def losses(self, x: Tensor, task: Task) -> tuple[Tensor, Tensor]:
        """Returns the mean loss of a task on the canonical images, and the canonicalizer's loss if all are upright.

        `task` maps the outputs of `forward` to a loss for each image; it may be given several poses of the batch, one
        after the other: (k * B, C) -> (k * B,).
        """
        return self.canonicalizer.losses(x, self.backbones[0], lambda features: task(self.forward_head(features)))

    def forward_intermediates(
        self, x: Tensor, indices: int | list[int] | None = None, *, intermediates_only: bool = False, **options: Any
    ) -> Any:
        """Returns maps (B, C, H, H) of the canonical images, turned back so that they turn with the input.

        The arguments are those of timm's method of the backbone; also returns the last map unless
        `intermediates_only`.
        """
        upright, weights = self.canonical(x)
        backbone: Any = self.backbones[0]
        found = backbone.forward_intermediates(
            upright, indices=indices, intermediates_only=intermediates_only, **options
        )
        last, maps = (None, found) if intermediates_only else found
        maps = [self.canonicalizer.from_canonical(each, weights) for each in maps]
        return maps if last is None else (self.canonicalizer.from_canonical(last, weights), maps)


class Activations(nn.Module):
    """The activations of a canonical model as a module: (B, 3, S, S) -> (B, G)."""

    def __init__(self, model: Canonical):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model.activations(x)
