"""The fine-tuned classifier, which is any timm model with a fresh head, and its optimiser.

Letters: B images, S view size, P augmentation parameters, C classes.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from timm.data import Mixup
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

from star_catalog.reading import one_line
from star_zoo import Batch, Policy, wrapped_model, wrappers
from star_zoo.augmentations.presets import of_config
from star_zoo.encoder import lay_out
from star_zoo.wrappers.canonical import Canonical

from ..engine.optim import check_optimizer
from ..evaluation.features import timm_view
from ..evaluation.frozen_model import FrozenModel
from .config import FineTune
from .start import create_start


def build(settings: FineTune, classes: int) -> tuple[Any, str]:
    """Returns the model with a new classifier (B, 3, S, S) -> (B, C), and the fingerprint of its backbone.

    Raises ValueError for a name or settings that timm doesn't know, or a size that the model doesn't take.
    """
    name = settings.model
    model = create_start(settings)
    fingerprint = FrozenModel(name, model, timm_view(model)).fingerprint
    if settings.canonicalize:
        if isinstance(model, Canonical):
            raise ValueError(f"{name!r} has a canonicalizer already, which is trained further; leave canonicalize out")
        policy = of_config(timm.data.resolve_model_data_config(model))
        group, kind = settings.canonicalize, settings.canonicalizer
        model = wrappers.build("canonical", [model], policy, group=group, kind=kind, seed=settings.seed)
    if isinstance(model, wrappers.Wrapper):
        wrapped_model.savable(model)  # raises ValueError before training
        if settings.optimizer.layer_decay is not None:
            raise ValueError(
                f"optimizer.layer_decay is {settings.optimizer.layer_decay}; the layers of a wrapper have no order: "
                "leave it out"
            )
    model.reset_classifier(classes)
    _try_out(model, name)
    return model, fingerprint


def _try_out(model: Any, name: str) -> None:
    """Checks that the model with its classifier takes images of its size, before training."""
    size = timm.data.resolve_model_data_config(model)["input_size"]
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, *size))
    except (AssertionError, RuntimeError) as error:
        raise ValueError(f"model {name!r} fails on images of {size[-1]} pixels: {one_line(error)}") from error


def build_optimizer(settings: FineTune, model: nn.Module, device: torch.device) -> torch.optim.Optimizer:
    """Returns timm's optimiser for the model. Raises ValueError for one that is unknown or can't be used here."""
    config = settings.optimizer
    check_optimizer(config, device)
    return create_optimizer_v2(
        model,
        opt=config.name,
        lr=config.lr,
        weight_decay=config.weight_decay,
        momentum=config.momentum,
        filter_bias_and_bn=not config.decay_norms,
        layer_decay=config.layer_decay,
    )


class Learner(nn.Module):
    """The classifier and its loss as one module, so that wrappers see a single forward.

    A canonicalizer's loss is added to the task's, as if all images were upright.
    """

    def __init__(self, net: nn.Module, policy: Policy, settings: FineTune, classes: int, channels_last: bool = True):
        super().__init__()
        self.net = net
        self.use_layout(channels_last)
        self.policy, self.smoothing, self.seed = policy, settings.smoothing, settings.seed
        if isinstance(net, Canonical):
            weight = settings.prior_weight
            self.prior_weight = net.canonicalizer.prior_weight if weight is None else weight
        self.mix = None
        if settings.mixup or settings.cutmix:
            self.mix = Mixup(settings.mixup, settings.cutmix, label_smoothing=settings.smoothing, num_classes=classes)

    def use_layout(self, channels_last: bool) -> None:
        """Stores weights and views in channels-last memory format, or contiguously."""
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        lay_out(self.net, self.memory_format)

    def forward(self, batch: Batch, step: int, rank: int) -> Tensor:
        """Returns the mean cross entropy of the batch's single view; mixing depends only on seed, step and rank."""
        assert batch.target is not None
        x, wanted = self.batch(batch.views[0], batch.params[0], batch.target, step, rank)
        if isinstance(self.net, Canonical):
            task, upright = self.net.losses(x, lambda logits: self._task(logits, wanted))
            return task + self.prior_weight * upright
        return self._task(self.net(x), wanted).mean()

    def _task(self, logits: Tensor, wanted: Tensor) -> Tensor:
        """Returns the cross entropy of each image, (k * B, C) -> (k * B,), with the same labels for all k copies."""
        wanted = wanted.repeat(len(logits) // len(wanted), *[1] * (wanted.ndim - 1))
        smoothing = 0.0 if self.mix else self.smoothing
        return F.cross_entropy(logits.float(), wanted, label_smoothing=smoothing, reduction="none")

    @torch.no_grad()
    def batch(self, images: Tensor, params: Tensor, labels: Tensor, step: int, rank: int) -> tuple[Tensor, Tensor]:
        """Returns normalised views (B, 3, S, S) with labels (B,), or with mixed labels (B, C), smoothed already."""
        with torch.autocast(images.device.type, enabled=False):  # params need more digits than bfloat16 has
            x = self.policy.apply(images, params).contiguous(memory_format=self.memory_format)
        if self.mix is None:
            return x, labels
        with _numpy_seeded(self.seed, step, rank):
            return self.mix(x, labels)


@contextlib.contextmanager
def _numpy_seeded(*key: int) -> Iterator[None]:
    """Seeds numpy's global generator, from which timm draws, inside the block, and restores it afterwards."""
    before = np.random.get_state()
    np.random.seed(np.random.SeedSequence([number % 2**64 for number in key]).generate_state(4))
    try:
        yield
    finally:
        np.random.set_state(before)
