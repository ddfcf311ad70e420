"""lightly's side: the loop of SimCLR in its documentation, with its data set, transform, head and loss."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from . import sizes
from .side import Side, shapes, trained, training_device
from .sizes import Size


class Model(nn.Module):
    """A backbone and lightly's projection head with as many layers and of the same widths as ours."""

    def __init__(self, backbone: Any):
        from lightly.models.modules.heads import SimCLRProjectionHead

        super().__init__()
        width = backbone.num_features
        self.backbone = backbone
        self.head = SimCLRProjectionHead(width, width, sizes.EMBED_DIM, num_layers=3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.backbone(images))


def transform(pixels: int) -> Any:
    """Returns lightly's transform with the common probabilities and strengths."""
    from lightly.transforms import SimCLRTransform

    brightness, contrast, saturation, hue = sizes.JITTER
    return SimCLRTransform(
        input_size=pixels,
        cj_prob=sizes.JITTER_P,
        cj_bright=brightness,
        cj_contrast=contrast,
        cj_sat=saturation,
        cj_hue=hue,
        min_scale=sizes.MIN_SCALE,
        random_gray_scale=sizes.GREY_P,
        gaussian_blur=sizes.BLUR_P,
        sigmas=sizes.BLUR_SIGMA,
        hf_prob=sizes.FLIP,
    )


class Lightly(Side):
    """lightly's steps, in its own layout, contiguous, unless `channels_last`."""

    name = "lightly"

    def __init__(self, size: Size, images: Path, precision: str, workers: int, channels_last: bool):
        from lightly.data import LightlyDataset
        from lightly.loss import NTXentLoss

        super().__init__()
        sizes.register_backbones()
        self.device, self.precision = training_device(), precision
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        backbone: Any = timm.create_model(size.backbone, num_classes=0)
        self.model = Model(backbone).to(memory_format=self.layout).to(self.device)
        self.parameters = trained(self.model)
        self.loader = DataLoader(
            LightlyDataset(str(images), transform=transform(size.pixels)),
            batch_size=size.batch,
            shuffle=True,
            drop_last=True,
            num_workers=workers,
            pin_memory=self.device.type == "cuda",
            persistent_workers=workers > 0,
        )
        self.batches = self._endless()
        self.criterion = NTXentLoss(temperature=sizes.TEMPERATURE)
        rate = sizes.RATE * size.batch / 256
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), rate, momentum=sizes.MOMENTUM, weight_decay=sizes.DECAY
        )

    def step(self) -> Tensor:
        views = [view.to(self.device, non_blocking=True, memory_format=self.layout) for view in next(self.batches)[0]]
        self.views = shapes(views)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            first, second = (self.model(view) for view in views)
            loss: Tensor = self.criterion(first, second)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()

    def _endless(self) -> Iterator[Any]:
        while True:
            yield from self.loader
