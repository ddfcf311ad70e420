"""The interface of a method: `Objective` and `FeatureObjective`.

Letters: B images, V views of an image, D features, O embedding size, T tasks,
E experts, P augmentation parameters.
"""

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ..augmentations import Policy
from ..batch import Batch
from ..encoder import Encoder
from ..momentum import MemoryBank, MomentumCopy, Queue
from ._papers import SELF_SUPERVISED, Paper


class Pretrained(NamedTuple):
    """A pretrained model that an objective reads while it trains, as results and cards record it."""

    name: str  # without a folder of this machine
    license: str | None  # its SPDX name as timm states it, if known
    fingerprint: str  # of its weights; a run can be resumed with the same weights only


class Objective(nn.Module):
    """A method: its view plan, its loss terms, and the modules it trains in addition to the backbone.

    The constructor of a subclass takes `num_features`, `policy` and keyword-only settings. A subclass implements `plan`
    and `forward`; every other method has a default. `objectives.build` sets `config`, from which it can build the
    objective again. A method that needs only pooled features and params subclasses `FeatureObjective` instead.
    """

    share: int = 1  # number of consecutive images of a batch that share one draw of params
    sizes: tuple[int, ...] = ()  # the size of each view in pixels; if empty, all views have the policy's size
    needs_group: ClassVar[bool] = False  # whether the backbone must have regular features, as star_c4_resnet10t has
    papers: ClassVar[tuple[Paper, ...]] = ()  # where the method is published; cards cite them
    tags: ClassVar[tuple[str, ...]] = ()  # of the method on the Hub

    def __init__(self, policy: Policy):
        super().__init__()
        self.policy = policy
        self.config: dict[str, Any] = {}  # name, num_features, settings, policy

    @classmethod
    def adapt(cls, policy: Policy) -> Policy:
        """Returns the policy that the method trains with, given the recipe's. Must be idempotent."""
        return policy

    def plan(self, height: int, width: int, generator: torch.Generator) -> Tensor:
        """Draws the params of the views of one image of this size in pixels: (V, P).

        Must be a pure function of its arguments, including the generator's state.
        """
        raise NotImplementedError

    def forward(self, batch: Batch, encoder: Encoder) -> dict[str, Tensor]:
        """Returns named scalar terms, each multiplied by its weight; the loss is their sum."""
        raise NotImplementedError

    def attach(self, encoder: Encoder) -> None:
        """Called once before training, after the encoder's weights are initialised; make momentum copies here.

        The optimizer is built and a checkpoint is loaded afterwards. The optimizer skips parameters that do not require
        a gradient; a resumed run restores every parameter and buffer of the objective exactly.
        """

    def after_step(self, encoder: Encoder, progress: float) -> None:
        """Called without gradient after every optimizer step; `progress` is the fraction of all steps, in (0, 1]."""

    def embed(self, features: Tensor) -> dict[str, Tensor]:
        """Returns the method's embeddings by name: (B, D) -> (B, O) each; an empty dict without heads."""
        return {}

    def predict(self, z: Tensor, params: Tensor) -> Tensor | None:
        """Returns predicted "z_eq" embeddings of views, from those of the base views: (B, O), params (B, P) -> (B, O).

        Returns None if the method has no such predictor.
        """
        return None

    def routing(self, features: Tensor) -> Tensor | None:
        """Returns the weights over the experts for each task, (B, D) -> (B, T, E), or None without routing."""
        return None

    def experts(self, features: Tensor) -> Tensor | None:
        """Returns the output of every expert that `routing` weights, (B, D) -> (B, E, O), or None without routing."""
        return None

    def pretrained(self) -> dict[str, Pretrained]:
        """Returns the pretrained models that `attach` loaded, by their roles, e.g. "teacher"."""
        return {}

    def published(self) -> dict[str, Tensor]:
        """Returns the tensors to publish: the state dict without momentum copies, queues and memory banks."""
        left_out = MomentumCopy | Queue | MemoryBank
        kept_back = tuple(f"{name}." for name, module in self.named_modules() if isinstance(module, left_out))
        return {name: tensor for name, tensor in self.state_dict().items() if not name.startswith(kept_back)}


class FeatureObjective(Objective):
    """An objective that needs only pooled features and params; a subclass implements `plan` and `terms`."""

    tags: ClassVar[tuple[str, ...]] = (SELF_SUPERVISED,)  # because it reads no labels

    def terms(self, features: list[Tensor], params: list[Tensor]) -> dict[str, Tensor]:
        """Returns the named terms of V views, given V features (B, D) and V raw params (B, P)."""
        raise NotImplementedError

    def forward(self, batch: Batch, encoder: Encoder) -> dict[str, Tensor]:
        images = [encoder.augment(batch, view) for view in range(len(batch.views))]
        return self.terms(encoder(images), batch.params)
