"""The part of a timm model that the package uses, as a type; and that of a backbone that is equivariant to a group."""

from collections.abc import Iterator
from typing import Any, Protocol

from torch import Tensor, nn

from .groups import Group


class Backbone(Protocol):
    """A timm model without a classifier: normalised images (B, C, S, S) -> pooled features (B, D).

    Any `nn.Module` with these members is a backbone. `forward_intermediates` is needed only by `Encoder.maps`.
    """

    training: bool
    num_features: int  # channels of the last feature map
    head_hidden_size: int  # D, width of the pooled features; larger than num_features in e.g. MobileNet
    pretrained_cfg: dict[str, Any]  # timm's: input_size (C, S, S), mean and std per channel of pixels in [0, 1], ...

    def __call__(self, x: Tensor, /) -> Tensor: ...

    def forward_intermediates(
        self,
        x: Tensor,
        /,
        indices: list[int] | None = None,
        *,
        stop_early: bool = False,
        intermediates_only: bool = False,
    ) -> Any:
        """Returns maps (B, C, H, W) of these layers; also the last map unless `intermediates_only`, as timm does.

        With `stop_early`, the layers after them are not computed.
        """

    def modules(self) -> Iterator[nn.Module]: ...

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]: ...

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...

    def to(self, *args: Any, **kwargs: Any) -> Any: ...

    def train(self, mode: bool = True) -> Any: ...

    def eval(self) -> Any: ...


class GroupBackbone(Backbone, Protocol):
    """A backbone whose features the elements of a group permute, e.g. `star_c4_resnet10t`. G elements."""

    group: Group

    def regular_features(self, x: Tensor, /) -> Tensor:
        """Returns the pooled features by element, (B, C, S, S) -> (B, D, G).

        Their mean over G is the model's output under average pooling.
        `group.act_on_images(x, g)` has the features `group.act_on_features(z, g)`.
        """
