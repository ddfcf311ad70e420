"""ResNets that are equivariant under C4 or D4 by construction, with as many parameters as timm's plain ones.

Turning an image turns the feature maps and moves them to other elements of the group; the pooled features stay the
same. Where the plain network has P channels, this one has P / sqrt(G) fields, hence P * sqrt(G) channels. That keeps
the number of parameters, and makes a convolution G times as expensive.

Where timm's ResNets halve the size by a stride, these pool: after the first convolution and at the start of each stage.
Letters: B images, S image size, C fields of a layer, G elements of the group, H x W map size, D features.
"""

import math
from dataclasses import replace
from typing import Any, cast

import timm.layers
import torch
import torch.nn.functional as F
from timm.models import PretrainedCfg, build_model_with_cfg, checkpoint_seq, get_pretrained_cfg
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from .groups import C4, D4, AveragePool, FieldNorm, Group, GroupConv, LiftConv

_layers: Any = timm.layers  # untyped

_PLAIN: dict[str, dict[str, Any]] = {
    "resnet10t": {"layers": (1, 1, 1, 1), "stem": (24, 32, 64), "kernel_size": 3},
    "resnet18": {"layers": (2, 2, 2, 2), "stem": (64,), "kernel_size": 7},
}
_WIDTHS = (64, 128, 256, 512)  # channels of the plain networks' stages

ARCHITECTURES = {  # our name: the group, and timm's plain network of the same size
    "star_c4_resnet10t": (C4, "resnet10t"),
    "star_d4_resnet10t": (D4, "resnet10t"),
    "star_c4_resnet18": (C4, "resnet18"),
}


def create(name: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Creates one of `ARCHITECTURES`; the arguments are those of timm's entrypoints."""
    group, plain = ARCHITECTURES[name]
    arguments = {"group": group, **_PLAIN[plain], **kwargs}
    model: nn.Module = build_model_with_cfg(
        GroupResNet, name, pretrained, feature_cfg={"feature_cls": "getter"}, **arguments
    )
    return model


def structure(name: str) -> PretrainedCfg:
    """Returns a cfg with the structure of one of `ARCHITECTURES`: names of layers, sizes of inputs and maps."""
    return replace(cast(PretrainedCfg, get_pretrained_cfg(ARCHITECTURES[name][1])), first_conv="stem.0")


class Block(nn.Module):
    """ResNet's basic block on fields: (B, C_in, G, H, W) -> (B, C, G, H, W)."""

    def __init__(self, group: Group, channels: int, fields: int, **dd: Any):
        super().__init__()
        self.conv1, self.bn1 = GroupConv(group, channels, fields, **dd), FieldNorm(fields, **dd)
        self.conv2, self.bn2 = GroupConv(group, fields, fields, **dd), FieldNorm(fields, **dd)
        self.act = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if channels != fields:
            self.shortcut = nn.Sequential(GroupConv(group, channels, fields, 1, **dd), FieldNorm(fields, **dd))
        nn.init.zeros_(self.bn2.norm.weight)  # as timm's zero_init_last

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.bn1(self.conv1(x)))
        y = self.act(self.bn2(self.conv2(y)) + self.shortcut(x))
        return y


class GroupResNet(nn.Module):
    """A ResNet of basic blocks on fields of C4 or D4, with the interface of timm's models.

    `layers` is the number of blocks of each stage; `stem` are the channels of the plain network's first convolutions,
    `kernel_size` is that of the very first, and `channels` are those of its stages. Feature maps of a layer with C
    fields are (B, C * G, H, W), with the elements of a field side by side; `forward_features` averages the last ones
    over the elements.
    """

    def __init__(
        self,
        group: Group,
        layers: tuple[int, ...],
        stem: tuple[int, ...],
        kernel_size: int,
        channels: tuple[int, ...] = _WIDTHS,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.group, self.in_chans, self.drop_rate, self.grad_checkpointing = group, in_chans, drop_rate, False
        first, *rest = (_fields(group, width) for width in stem)
        widths = [_fields(group, width) for width in channels]

        # pooled before the norm, so that the backward pass keeps no map of full size
        parts: list[nn.Module] = [LiftConv(group, in_chans, first, kernel_size, **dd), AveragePool()]
        for inputs, fields in zip([first, *rest], rest, strict=False):
            parts += [FieldNorm(inputs, **dd), nn.ReLU(inplace=True), GroupConv(group, inputs, fields, **dd)]
        last = [first, *rest][-1]
        self.stem = nn.Sequential(*parts, FieldNorm(last, **dd), nn.ReLU(inplace=True))
        self.feature_info: list[dict[str, Any]] = [{"num_chs": last * group.order, "reduction": 2, "module": "stem"}]

        self.stages = nn.Sequential()
        for index, (fields, blocks) in enumerate(zip(widths, layers, strict=True)):
            widths_in = [last] + [fields] * (blocks - 1)
            self.stages.append(nn.Sequential(AveragePool(), *(Block(group, c, fields, **dd) for c in widths_in)))
            self.feature_info.append(
                {"num_chs": fields * group.order, "reduction": 2 ** (index + 2), "module": f"stages.{index}"}
            )
            last = fields
        self.group_pool: nn.Module = _MeanOverGroup()
        self.num_features = last
        self._set_head(num_classes, global_pool, **dd)

    def _set_head(self, num_classes: int, global_pool: str, **dd: Any) -> None:
        self.num_classes = num_classes
        self.global_pool, self.fc = _layers.create_classifier(self.num_features, num_classes, global_pool, **dd)
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the classifier by a fresh one, by an identity for 0 classes; keeps the pooling unless given."""
        pool = self.global_pool.pool_type if global_pool is None else global_pool
        self._set_head(num_classes, pool, **_layers.get_device_dtype(self))
        self.global_pool.train(self.training)
        self.fc.train(self.training)

    def get_classifier(self) -> nn.Module:
        """Returns the classifier; an identity without classes."""
        return cast(nn.Module, self.fc)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Sets whether the backward pass recomputes the activations of each block."""
        self.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Returns the patterns by which timm groups parameters into layers."""
        return {"stem": r"^stem", "blocks": r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.(\d+)"}

    def _maps(self, x: Tensor, last: int = len(_WIDTHS)) -> list[Tensor]:
        """Returns the maps of the stem and of the stages up to number `last`: each (B, C, G, H, W)."""
        x = self.stem(x)
        maps = [x]
        for index, stage in enumerate(self.stages):
            if index < last:
                x = checkpoint_seq(stage, x) if self.grad_checkpointing and not torch.jit.is_scripting() else stage(x)
                maps.append(x)
        return maps

    def regular_features(self, x: Tensor) -> Tensor:
        """Returns the features that the group acts on, averaged over positions: (B, 3, S, S) -> (B, D, G).

        Their mean over the elements is the model's output under average pooling.
        """
        return self._maps(x)[-1].mean((-2, -1))

    def forward_features(self, x: Tensor) -> Tensor:
        """Returns maps that turn with the images: (B, 3, S, S) -> (B, D, H, W)."""
        maps: Tensor = self.group_pool(self._maps(x)[-1])
        return maps

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pools maps over positions, (B, D, H, W) -> (B, D), and classifies unless `pre_logits`."""
        x = self.global_pool(x)
        if self.drop_rate > 0:
            x = F.dropout(x, self.drop_rate, self.training)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Returns maps (B, C * G, H, W) of the stem and the stages; also the last one's mean unless alone, as timm."""
        assert output_fmt == "NCHW", "Output shape must be NCHW."
        taken, last = feature_take_indices(len(self.feature_info), indices)
        maps = self._maps(x, last if stop_early else len(self.stages))
        intermediates = [maps[index].flatten(1, 2) for index in range(len(maps)) if index in taken]
        return intermediates if intermediates_only else (self.group_pool(maps[-1]), intermediates)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Removes the layers that maps of `indices` don't need, and returns `indices` counted from the first map.

        Without the last stage, `forward_features` returns the last map itself, (B, C * G, H, W).
        """
        taken, last = feature_take_indices(len(self.feature_info), indices)
        pruned = last < len(self.stages)
        self.stages = self.stages[:last]
        if pruned:
            self.group_pool = nn.Flatten(1, 2)
            self.num_features = self.feature_info[last]["num_chs"]
        if pruned or prune_head:
            self.reset_classifier(0, "")
        return taken


class _MeanOverGroup(nn.Module):
    """The mean of fields over the elements of the group: (B, C, G, H, W) -> (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(2)


def _fields(group: Group, channels: int) -> int:
    """Returns the number of fields with as many parameters as so many channels of a plain network."""
    return round(channels / math.sqrt(group.order))
