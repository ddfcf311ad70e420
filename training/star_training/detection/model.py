"""Faster R-CNN on a timm backbone, C4 or with a feature pyramid, built from torchvision's parts.

Letters: B images, R regions, A anchors per location, C classes, D channels, H x W pixels, h x w locations.
"""

from collections import OrderedDict
from typing import Any

import timm
from timm.models import ResNet
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

_RATIOS = (0.5, 1.0, 2.0)  # an anchor's height over its width
_SIZES = 5  # of anchors
_STRIDES = (4, 8, 16, 32)  # of a pyramid's maps, as far as the backbone has them


def build(backbone: Any, head: str, classes: int, anchor: int, regions: int) -> FasterRCNN:
    """Builds a detector on a backbone, which it takes apart.

    In training, it takes lists of images (3, H, W) float in [0, 1] and of {"boxes" (K, 4), "labels" (K,) from 1}, and
    returns four losses; in evaluation, it takes images alone and returns "boxes", "labels" and "scores" of each.
    Raises ValueError for a backbone that doesn't fit the head.
    """
    parts = {"c4": _c4, "fpn": _fpn}[head](backbone, classes + 1, [anchor * 2**k for k in range(_SIZES)])
    detector = FasterRCNN(**parts, box_batch_size_per_image=regions)
    config = timm.data.resolve_model_data_config(backbone)
    detector.transform = _Normalise(0, 0, config["mean"], config["std"])
    return detector


class _Normalise(GeneralizedRCNNTransform):
    """Normalises and pads; images already have their final size."""

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        return image, target


# torchvision computes coordinates in the dtype of the layers' outputs; these layers return float32 under autocast too,
# because bfloat16's 8 bits would locate a box to a few pixels only


class _FullHead(RPNHead):
    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits, shifts = super().forward(x)
        return [t.float() for t in logits], [t.float() for t in shifts]


class _FullPredictor(FastRCNNPredictor):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores, shifts = super().forward(x)
        return scores.float(), shifts.float()


class Stem(nn.Module):
    """A ResNet up to its last stage but one: (B, 3, H, W) -> {"0": (B, D, H / 16, W / 16)}."""

    def __init__(self, resnet: ResNet):
        super().__init__()
        names = ("conv1", "bn1", "act1", "maxpool", "layer1", "layer2", "layer3")
        self.layers = nn.Sequential(OrderedDict((name, getattr(resnet, name)) for name in names))
        self.out_channels = resnet.feature_info[-2]["num_chs"]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"0": self.layers(x).float()}


def _c4(backbone: Any, outputs: int, anchors: list[int]) -> dict[str, object]:
    """Proposes and pools regions at stride 16; the last stage and one more norm (MoCo's) process each region."""
    if not isinstance(backbone, ResNet) or [f["reduction"] for f in backbone.feature_info[-2:]] != [16, 32]:
        raise ValueError(f"head 'c4' needs one of timm's ResNets, not {type(backbone).__name__}; pass --set head=fpn")
    stem, width = Stem(backbone), backbone.num_features
    last: Any = backbone.layer4
    generator = AnchorGenerator((tuple(anchors),), (_RATIOS,))
    return {
        "backbone": stem,
        "rpn_anchor_generator": generator,
        "rpn_head": _FullHead(stem.out_channels, generator.num_anchors_per_location()[0]),
        # detectron2's numbers of proposals and pooling
        "rpn_pre_nms_top_n_train": 12_000,
        "rpn_pre_nms_top_n_test": 6_000,
        "box_roi_pool": MultiScaleRoIAlign(["0"], output_size=14, sampling_ratio=0),
        "box_head": nn.Sequential(
            OrderedDict(layer4=last, norm=nn.BatchNorm2d(width), pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten())
        ),
        "box_predictor": _FullPredictor(width, outputs),
    }


class Pyramid(nn.Module):
    """A feature pyramid on a backbone's maps of strides 4 to 32: (B, 3, H, W) -> names with maps (B, 256, h, w)."""

    out_channels = 256

    def __init__(self, backbone: Any):
        super().__init__()
        self.indices, channels = _levels(backbone)
        self.names = [str(level) for level in range(len(self.indices))]
        # layers behind the last map would get no gradient
        self.indices = backbone.prune_intermediate_layers(self.indices, prune_norm=True)
        self.backbone = backbone
        self.fpn = FeaturePyramidNetwork(channels, self.out_channels, extra_blocks=LastLevelMaxPool())

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = self.backbone.forward_intermediates(
            x, indices=self.indices, intermediates_only=True, stop_early=True, output_fmt="NCHW"
        )
        pyramid = self.fpn(OrderedDict(zip(self.names, maps, strict=True)))
        return {name: level.float() for name, level in pyramid.items()}


def _levels(backbone: Any) -> tuple[list[int], list[int]]:
    """Returns index and channels of the backbone's last map at each stride."""
    info = getattr(backbone, "feature_info", None) if hasattr(backbone, "forward_intermediates") else None
    last = {level["reduction"]: (index, level["num_chs"]) for index, level in enumerate(info or [])}
    last = {stride: place for stride, place in sorted(last.items()) if stride in _STRIDES}
    if len(last) < 2:
        raise ValueError(
            f"head 'fpn' needs maps of at least two strides of {_STRIDES}, but {type(backbone).__name__} has "
            f"{', '.join(map(str, last)) or 'none'}; pass another model"
        )
    indices, channels = zip(*last.values(), strict=True)
    return list(indices), list(channels)


def _fpn(backbone: Any, outputs: int, anchors: list[int]) -> dict[str, object]:
    """Uses one anchor size per level and a pooled coarsest level; two linear layers process each region."""
    pyramid = Pyramid(backbone)
    sizes = [(size,) for size in anchors[: len(pyramid.names) + 1]]
    generator = AnchorGenerator(tuple(sizes), (_RATIOS,) * len(sizes))
    # a region is pooled from the level with anchors of its size: 224 pixels from the third if anchors start at 32
    pool = MultiScaleRoIAlign(pyramid.names, output_size=7, sampling_ratio=2, canonical_scale=7 * anchors[0])
    return {
        "backbone": pyramid,
        "rpn_anchor_generator": generator,
        "rpn_head": _FullHead(pyramid.out_channels, generator.num_anchors_per_location()[0]),
        "box_roi_pool": pool,
        "box_head": TwoMLPHead(pyramid.out_channels * 7**2, 1024),
        "box_predictor": _FullPredictor(1024, outputs),
    }


def parameter_groups(detector: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Returns the parameters in two groups: those that decay, and those of norms, which don't, as in detectron2."""
    kinds = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
    norms = {id(p) for module in detector.modules() if isinstance(module, kinds) for p in module.parameters(False)}
    trained = [p for p in detector.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if id(p) not in norms], "weight_decay": weight_decay},
        {"params": [p for p in trained if id(p) in norms], "weight_decay": 0.0},
    ]
