"""The base class `Wrapper`. Letters: B images, S image size, D features, C classes."""

import copy
from collections.abc import Sequence
from typing import Any, ClassVar

import timm
from torch import Tensor, nn

from ..augmentations import Policy
from ..objectives import Objective

_layers: Any = timm.layers  # untyped


class Wrapper(nn.Module):
    """A module like timm's, made of backbones without classifier; a subclass implements `forward_features`.

    Images are those of the first backbone: its size and its normalisation. Settings of a subclass are keyword-only.
    """

    several: ClassVar[bool] = False  # whether it joins two backbones or more; otherwise it wraps one
    draws: ClassVar[bool] = False  # whether it draws random numbers for each batch, which no exported file can
    uses_heads: ClassVar[bool] = False  # whether its features are computed by the objective; it then needs one

    def __init__(self, backbones: Sequence[Any], policy: Policy, objective: Objective | None = None):
        super().__init__()
        if (len(backbones) > 1) != self.several or not backbones:
            wanted = "two models or more" if self.several else "one model"
            raise ValueError(f"{type(self).__name__} takes {wanted}, not {len(backbones)}")
        if any(backbone.num_classes for backbone in backbones):
            raise ValueError(
                f"{type(self).__name__} takes backbones without classifier; create them with num_classes=0"
            )
        if self.uses_heads and objective is None:
            raise ValueError(f"{type(self).__name__} takes a model that was saved with its heads; this one has none")
        self.backbones = nn.ModuleList(backbones)
        self.policy = policy
        self.takes_objects = bool(getattr(backbones[0], "takes_objects", False))  # not images: see `Spirograph`
        self.num_features = self.head_hidden_size = sum(backbone.head_hidden_size for backbone in backbones)
        self.pretrained_cfg = copy.deepcopy(backbones[0].pretrained_cfg) | {"classifier": "classifier"}
        self.reset_classifier(0)

    def forward_features(self, x: Tensor) -> Tensor:
        """Returns pooled features: (B, 3, S, S) normalised -> (B, D)."""
        raise NotImplementedError

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Returns the classifier's logits for pooled features, (B, D) -> (B, C), or the features themselves."""
        return x if pre_logits else self.classifier(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        """Returns the classifier; an identity without classes."""
        return self.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the classifier by a fresh one, by an identity for 0 classes; each backbone keeps its own pooling."""
        self.num_classes = self.pretrained_cfg["num_classes"] = num_classes
        self.classifier: nn.Module = nn.Identity()
        if num_classes:
            self.classifier = nn.Linear(self.num_features, num_classes, **_layers.get_device_dtype(self))

    def arguments(self) -> dict[str, Any]:
        """Returns the settings that build the module again, up to its weights.

        Raises ValueError for a module that they can't build.
        """
        raise NotImplementedError

    def extra_repr(self) -> str:
        """Returns the policy in full, so that the printed module states all that it computes with."""
        return str(self.policy.to_dict())
