"""Distillation (Hinton et al., 2015; of features: FitNets, Romero et al., 2015): follow a frozen teacher's features.

Letters: B images, V views, D features of the student, T features of the teacher, O embedding size, P augmentation
parameters. The teacher reads the same augmented views. A linear map of the student's pooled features meets the
teacher's, alone or as a term beside another objective. The teacher's features are standardised over the batch, because
most of a vector of pooled ReLU outputs is their common mean. Neither the teacher nor the map is published. The
combination is ours; the papers distil logits, and intermediate maps of one view.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from star_catalog.names import not_found

from ..augmentations import Policy
from ..batch import Batch
from ..encoder import Encoder
from . import _papers, build
from ._base import Objective, Pretrained
from ._teacher import Teacher

LOSSES = ("cosine", "mse")


class Distill(Objective):
    """Features follow a teacher's through a linear map; `beside` adds the terms and heads of another objective."""

    papers = (_papers.DISTILLATION, _papers.FITNETS)
    tags = ("distillation",)

    def __init__(
        self,
        num_features: int,
        policy: Policy,
        *,
        teacher: str = "star_resnet10t.cifar10",  # a run, a saved folder, a zoo tag, hf-hub:OWNER/NAME or a timm name
        teacher_size: int | None = None,  # pixels; None: the teacher's own input size
        loss: str = "cosine",  # "cosine": 1 - cosine, "mse": mean squared error
        weight: float = 10.0,  # of the distillation term; the gradient of a cosine in many dimensions is small
        beside: str | None = None,  # the name of another objective, whose terms are added
        beside_args: dict[str, Any] | None = None,  # the settings of `beside`
    ):
        if loss not in LOSSES:
            raise ValueError(not_found("loss", loss, LOSSES))
        if beside_args and beside is None:
            raise ValueError(f"beside_args is {beside_args}, but there is no objective; pass beside too")
        if beside == "distill":
            raise ValueError("beside is 'distill'; there is one teacher, so pass another objective")
        other = build(beside, num_features, policy, **(beside_args or {})) if beside else None
        super().__init__(other.policy if other else policy)
        self.beside = other
        if other:
            self.share, self.sizes = other.share, other.sizes
        self.num_features, self.loss, self.weight = num_features, loss, weight
        self._teacher_name, self._teacher_size = teacher, teacher_size

    def plan(self, height: int, width: int, generator: torch.Generator) -> Tensor:
        """Returns the plan of the objective beside, or the params of two draws: (2, P)."""
        if self.beside:
            return self.beside.plan(height, width, generator)
        return self.policy.draws(2, height, width, generator)

    def attach(self, encoder: Encoder) -> None:
        """Loads the teacher and makes the map, both after construction, so that heads load without the teacher.

        Raises ValueError or `zoo.NotAvailable` if the teacher can't be loaded.
        """
        self.teacher = Teacher(self._teacher_name, self.policy, self._teacher_size).to(encoder.device)
        self.map = nn.Linear(self.num_features, self.teacher.num_features, device=encoder.device)
        self.standardize = nn.BatchNorm1d(self.teacher.num_features, affine=False, device=encoder.device)
        if self.config:
            self.config["settings"]["teacher"] = self.teacher.record.name  # is saved, and must not hold a user's folder
        if self.beside:
            self.beside.attach(encoder)

    def forward(self, batch: Batch, encoder: Encoder) -> dict[str, Tensor]:
        """Returns {"distill": ...} and the terms of the objective beside."""
        seen = _Recording(encoder)
        terms = self.beside(batch, seen) if self.beside else {}
        if not seen.images:  # no objective beside, or one that reads no pooled features
            seen([encoder.augment(batch, view) for view in range(len(batch.views))])
        losses = [self._follow(f, self.teacher(x)) for x, f in zip(seen.images, seen.features, strict=True)]
        return {"distill": self.weight * torch.stack(losses).mean(), **terms}

    def _follow(self, features: Tensor, target: Tensor) -> Tensor:
        """Returns the loss of the student's features of one view: (B, D), (B, T) -> scalar, in float32."""
        mapped = self.map(features).float()
        with torch.autocast(mapped.device.type, enabled=False):
            target = self.standardize(target.float())
            if self.loss == "mse":
                return F.mse_loss(mapped, target)
            return 1 - F.cosine_similarity(mapped, target, dim=1).mean()

    def after_step(self, encoder: Encoder, progress: float) -> None:
        if self.beside:
            self.beside.after_step(encoder, progress)

    def embed(self, features: Tensor) -> dict[str, Tensor]:
        return self.beside.embed(features) if self.beside else {}

    def predict(self, z: Tensor, params: Tensor) -> Tensor | None:
        return self.beside.predict(z, params) if self.beside else None

    def routing(self, features: Tensor) -> Tensor | None:
        return self.beside.routing(features) if self.beside else None

    def experts(self, features: Tensor) -> Tensor | None:
        return self.beside.experts(features) if self.beside else None

    def pretrained(self) -> dict[str, Pretrained]:
        """Returns the teacher, once it is loaded."""
        return {"teacher": self.teacher.record} if hasattr(self, "teacher") else {}

    def published(self) -> dict[str, Tensor]:
        """Returns the tensors that the objective beside publishes."""
        return {f"beside.{name}": tensor for name, tensor in self.beside.published().items()} if self.beside else {}


class _Recording:
    """An encoder that keeps the images and pooled features of all views that pass through it, for a second reader."""

    def __init__(self, encoder: Encoder):
        self.encoder = encoder
        self.images: list[Tensor] = []
        self.features: list[Tensor] = []

    def __call__(self, images: list[Tensor]) -> list[Tensor]:
        features = cast(list[Tensor], self.encoder(images))
        self.images += images
        self.features += features
        return features

    def __getattr__(self, name: str) -> Any:
        return getattr(self.encoder, name)
