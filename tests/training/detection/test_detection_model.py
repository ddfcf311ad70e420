"""Faster R-CNN on timm backbones: shapes, gradients, statistics, precision, and what can't be built."""

from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from detection_cases import write_pack
from star_training.detection.average_precision import predict
from star_training.detection.datasets.open import open_set
from star_training.detection.model import build, parameter_groups
from star_training.detection.precise_bn import settling
from twins import randn

BACKBONES = {"c4": ["test_resnet"], "fpn": ["test_resnet", "test_convnext", "test_efficientnet"]}
CASES = [(head, name) for head, names in BACKBONES.items() for name in names]


def detector(head: str, name: str = "test_resnet", classes: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return build(timm.create_model(name, num_classes=0), head, classes, anchor=8, regions=16)


def batch() -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]:
    """Two images of different sizes, one without any box."""
    boxes = torch.tensor([[4.0, 4.0, 30.0, 30.0], [20.0, 10.0, 60.0, 50.0]])
    targets = [
        {"boxes": boxes, "labels": torch.tensor([1, 3])},
        {"boxes": boxes[:0], "labels": torch.zeros(0, dtype=torch.int64)},
    ]
    return [randn(3, 64, 80).sigmoid(), randn(3, 72, 50, seed=1).sigmoid()], targets


@pytest.mark.parametrize(("head", "name"), CASES)
def test_gradients_reach_every_parameter(head: str, name: str):
    model = detector(head, name).train()
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.ones_(norm.weight)  # a fresh ResNet ends its branches with 0, which lets nothing through
    terms = model(*batch())
    assert set(terms) == {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}
    sum(terms.values()).backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert without == []
    still = [n for n, p in model.backbone.named_parameters() if p.ndim == 4 and not p.grad.any()]
    assert still == []


@pytest.mark.parametrize(("head", "name"), CASES)
def test_detections_lie_in_the_image(head: str, name: str):
    model = detector(head, name).eval()
    model.roi_heads.score_thresh = 0.0
    with torch.no_grad():
        found = model(batch()[0])
    for (height, width), one in zip([(64, 80), (72, 50)], found, strict=True):
        assert 0 < len(one["boxes"]) <= 100
        assert (one["boxes"][:, :2] >= 0).all()
        assert (one["boxes"][:, 2] <= width).all() and (one["boxes"][:, 3] <= height).all()
        assert set(one["labels"].tolist()) <= {1, 2, 3}


def test_a_c4_detector_is_made_of_the_whole_resnet():
    backbone = timm.create_model("test_resnet", num_classes=0)
    before = {id(p) for p in backbone.parameters()}
    model = build(backbone, "c4", 3, 8, 16)
    assert before <= {id(p) for p in model.parameters()}
    x = randn(1, 3, 64, 64)
    model.eval(), backbone.eval()
    maps = model.backbone(x)["0"]
    assert maps.shape == (1, 192, 4, 4)
    torch.testing.assert_close(backbone.layer4(maps), backbone.forward_features(x))
    pooled = model.roi_heads.box_head(randn(5, 192, 14, 14))
    assert pooled.shape == (5, 96)
    assert isinstance(model.roi_heads.box_head.norm, nn.BatchNorm2d)


def test_a_pyramid_has_the_strides_of_the_backbone_and_one_more():
    maps = detector("fpn").backbone(randn(1, 3, 64, 96))
    assert [tuple(m.shape) for m in maps.values()] == [(1, 256, 16 // k, 24 // k) for k in (1, 2, 4, 8)] + [
        (1, 256, 1, 2)
    ]


def test_anchors_double_from_the_smallest():
    for head, expected in (("c4", ((8, 16, 32, 64, 128),)), ("fpn", ((8,), (16,), (32,), (64,), (128,)))):
        assert detector(head).rpn.anchor_generator.sizes == expected


def test_pixels_are_normalised_as_the_model_wants_them():
    backbone = timm.create_model("test_resnet", num_classes=0, pretrained_cfg_overlay={"mean": (0.5, 0.4, 0.3)})
    model = build(backbone, "c4", 3, 8, 16)
    assert model.transform.image_mean == (0.5, 0.4, 0.3)
    images, _ = model.transform([torch.full((3, 20, 30), 0.5)])
    std = torch.tensor(model.transform.image_std)
    torch.testing.assert_close(images.tensors[0, :, 0, 0], (0.5 - torch.tensor([0.5, 0.4, 0.3])) / std)
    assert images.tensors.shape == (1, 3, 32, 32) and images.image_sizes == [(20, 30)]
    assert (images.tensors[0, :, 20:] == 0).all()


@pytest.mark.parametrize("head", ["c4", "fpn"])
def test_bfloat16_does_not_place_boxes_by_the_pixel(head: str):
    model = detector(head).train()
    model.rpn._post_nms_top_n = {"training": 100, "testing": 100}  # bfloat16 may be emulated
    with torch.autocast("cpu", torch.bfloat16):
        terms = model(*batch())
        sum(terms.values()).backward()
    assert all(anchors.dtype == torch.float32 for anchors in model.rpn.anchor_generator.cell_anchors)
    assert all(term.dtype == torch.float32 and term.isfinite() for term in terms.values())
    assert all(p.grad.isfinite().all() for p in model.parameters())
    model.eval()
    model.roi_heads.score_thresh = 0.0
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        (found, _) = model(batch()[0])
    assert found["boxes"].dtype == torch.float32
    rounded = found["boxes"].bfloat16().float()
    assert (found["boxes"] != rounded).float().mean() > 0.3


@pytest.mark.parametrize(
    ("head", "name", "message"),
    [
        ("c4", "test_convnext", "head 'c4' needs one of timm's ResNets, not ConvNeXt; pass --set head=fpn"),
        ("fpn", "test_vit", "needs maps of at least two strides of .*, but VisionTransformer has 16; pass"),
    ],
)
def test_a_backbone_that_the_head_can_not_stand_on(head: str, name: str, message: str):
    with pytest.raises(ValueError, match=message):
        detector(head, name)


def test_norms_are_not_decayed():
    model = detector("c4")
    decayed, free = parameter_groups(model, 0.1)
    assert decayed["weight_decay"] == 0.1 and free["weight_decay"] == 0.0
    norms = sum(2 for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    assert len(free["params"]) == norms
    assert len(decayed["params"]) + norms == len(list(model.parameters()))


def test_settled_statistics_are_the_means_over_the_batches():
    layer = nn.Sequential(nn.BatchNorm2d(2), nn.Dropout(0.5))
    layer[0].running_mean += 7
    batches = [randn(4, 2, 3, 3, seed=k) + k for k in range(5)]
    with settling(layer):
        for x in batches:
            assert not layer(x).requires_grad
    torch.testing.assert_close(layer[0].running_mean, torch.stack([x.mean((0, 2, 3)) for x in batches]).mean(0))
    variances = torch.stack([x.transpose(0, 1).flatten(1).var(1) for x in batches])
    torch.testing.assert_close(layer[0].running_var, variances.mean(0))
    assert layer[0].momentum == 0.1


def test_predictions_are_in_pixels_of_the_file(tmp_path: Path):
    images = open_set(str(write_pack(tmp_path / "p.parquet", [0, 1], [2])), "train")
    model = detector("c4").train()
    model.roi_heads.score_thresh = 0.0
    (shown,) = predict(model, images, [1], 128, 300)
    assert model.training
    assert shown.boxes.max() <= 64 and shown.boxes.max() > 32  # not the 128 that were shown
    assert set(shown.labels.tolist()) <= {0, 1, 2}
