"""timm's side: the supervised loop of its training script, with its data set, loader, transform and optimiser."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import create_dataset, create_loader
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

from . import sizes
from .side import Side, shapes, trained, training_device
from .sizes import Size


class Timm(Side):
    """Cross entropy on one view of each image, in timm's own layout, contiguous, unless `channels_last`."""

    name = "timm"

    def __init__(self, size: Size, images: Path, precision: str, workers: int, channels_last: bool):
        super().__init__()
        sizes.register_backbones()
        self.device, self.precision = training_device(), precision
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.model: Any = timm.create_model(size.backbone, num_classes=sizes.CLASSES)
        self.model.to(memory_format=self.layout).to(self.device)
        self.parameters = trained(self.model)
        jitter: Any = sizes.JITTER  # declared as one number, though its docstring allows the components
        self.loader = create_loader(
            create_dataset("", str(images), search_split=False),
            input_size=(3, size.pixels, size.pixels),
            batch_size=size.batch,
            is_training=True,
            scale=(sizes.MIN_SCALE, 1.0),
            hflip=sizes.FLIP,
            color_jitter=jitter,
            color_jitter_prob=sizes.JITTER_P,
            grayscale_prob=sizes.GREY_P,
            gaussian_blur_prob=sizes.BLUR_P,
            num_workers=workers,
            pin_memory=self.device.type == "cuda",
            device=self.device,
        )
        self.batches = self._endless()
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = create_optimizer_v2(
            self.model,
            opt="momentum",
            lr=sizes.RATE * size.batch / 256,
            weight_decay=sizes.DECAY,
            momentum=sizes.MOMENTUM,
            filter_bias_and_bn=False,
        )

    def step(self) -> Tensor:
        images, targets = next(self.batches)
        images = images.contiguous(memory_format=self.layout)
        self.views = shapes([images])
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            loss: Tensor = self.criterion(self.model(images), targets)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def _endless(self) -> Iterator[Any]:
        while True:
            yield from self.loader
