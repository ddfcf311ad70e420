"""The seam between a method and everything around it: `Batch`, `Objective`, `FeatureObjective`.

Letters: B images, V views of an image, S_v size of view v in pixels, D features, O embedding size, T tasks,
E experts, P augmentation parameters.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..augmentations import Policy
from ..encoder import Encoder


class Batch(NamedTuple):
    """The views of B images with everything that a data set knows about the images."""

    views: list[Tensor]  # V of (B, 3, S_v, S_v) uint8, cropped, before the other augmentations
    params: list[Tensor]  # V of (B, P) float32, raw units, columns named by `Policy.fields`
    index: Tensor  # type: ignore[assignment] # (B,) int64, the image's number in its data set
    size: Tensor  # (B, 2) int64, height and width of the source image in pixels
    target: Tensor | None = None  # (B,) int64 classes or (B, K) float32 numbers, where the data set has them

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """Returns the batch on another device."""

        def moved(x: Tensor) -> Tensor:
            return x.to(device, non_blocking=non_blocking)

        views, params = [moved(x) for x in self.views], [moved(x) for x in self.params]
        target = None if self.target is None else moved(self.target)
        return Batch(views, params, moved(self.index), moved(self.size), target)


class Objective(nn.Module):
    """One method: its view plan, its loss terms, and the modules it trains beside the backbone.

    A subclass takes `num_features`, `policy` and keyword-only settings, and implements `plan` and `forward`. Every
    other method has a default. `objectives.build` fills `config`, from which it can build the objective again.
    A method on pooled features and params alone subclasses `FeatureObjective` instead.
    """

    share: int = 1  # consecutive images of a batch that share one draw of their params
    sizes: tuple[int, ...] = ()  # the size of each view in pixels; empty: all views have the policy's size

    def __init__(self, policy: Policy):
        super().__init__()
        self.policy = policy
        self.config: dict[str, Any] = {}  # name, num_features, settings, policy

    @classmethod
    def adapt(cls, policy: Policy) -> Policy:
        """Returns the policy that the method trains under, made from the recipe's; an adapted policy stays as it is."""
        return policy

    def plan(self, height: int, width: int, generator: torch.Generator) -> Tensor:
        """Draws the params of the views of one image of this size: (V, P), a pure function of the generator."""
        raise NotImplementedError

    def forward(self, batch: Batch, encoder: Encoder) -> dict[str, Tensor]:
        """Computes named scalar terms, each with its weight inside; the loss is their sum."""
        raise NotImplementedError

    def attach(self, encoder: Encoder) -> None:
        """Prepares for training this encoder, after its weights are initialised: the place for momentum copies.

        Called once, before the optimizer is built and before a checkpoint is loaded. Parameters that do not require a
        gradient are not given to the optimizer; every parameter and buffer of the objective is resumed exactly.
        """

    def after_step(self, encoder: Encoder, progress: float) -> None:
        """Called without gradient after every optimizer step; `progress` is the share of all steps, in (0, 1]."""

    def embed(self, features: Tensor) -> dict[str, Tensor]:
        """Returns the method's embeddings of features (B, D), (B, O) each, by name; empty without heads."""
        return {}

    def predict(self, z: Tensor, params: Tensor) -> Tensor | None:
        """Predicts views' "z_eq" embeddings from the base views', (B, O), and the views' params, (B, P).

        None where the method has no such predictor.
        """
        return None

    def routing(self, features: Tensor) -> Tensor | None:
        """Returns each task's weights over the experts, (B, T, E), or None where nothing is routed."""
        return None

    def experts(self, features: Tensor) -> Tensor | None:
        """Returns the output of every expert that `routing` weighs, (B, E, O), or None."""
        return None

    def published(self) -> dict[str, Tensor]:
        """Returns the tensors to publish: the state dict without momentum copies and queues."""
        return self.state_dict()


class FeatureObjective(Objective):
    """An objective that needs nothing but pooled features and params: a subclass implements `plan` and `terms`."""

    def terms(self, features: list[Tensor], params: list[Tensor]) -> dict[str, Tensor]:
        """Computes the named terms from V features (B, D) and V raw params (B, P)."""
        raise NotImplementedError

    def forward(self, batch: Batch, encoder: Encoder) -> dict[str, Tensor]:
        images = [encoder.augment(batch, view) for view in range(len(batch.views))]
        return self.terms(encoder(images), batch.params)
