"""A frozen pretrained model that reads the same views as the encoder, for distillation.

Letters: B images, S view size in pixels, T teacher's input size in pixels, D features of the teacher.
"""

import hashlib
from collections.abc import Callable
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from star_catalog import zoo
from star_catalog.reading import one_line

from .. import hub
from ..augmentations import Policy
from ._base import Pretrained

_data: Any = timm.data  # untyped


class Teacher(nn.Module):
    """A frozen model outside the state dict, in eval mode: normalised views (B, 3, S, S) -> features (B, D).

    Views are normalised with the model's own pixel statistics instead of the policy's, and resized to T, the model's
    own input size by default. The model moves between devices with this module, but is neither saved nor trained.
    Raises ValueError or `zoo.NotAvailable` if the model can't be loaded.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, name: str, policy: Policy, size: int | None = None):
        super().__init__()
        model = load(name)
        config = _data.resolve_model_data_config(model)
        self._model = (model,)  # a tuple, so that it is not a submodule
        self.num_features: int = model.head_hidden_size
        self.size: int = size or config["input_size"][-1]
        if len(config["mean"]) != policy.channels:
            raise ValueError(
                f"teacher {name!r} takes images of {len(config['mean'])} channels, but these have {policy.channels}; "
                "pass a teacher of as many channels"
            )
        ours, theirs = ((policy.mean, policy.std), (config["mean"], config["std"]))
        (mean, std), (their_mean, their_std) = (map(_per_channel, statistics) for statistics in (ours, theirs))
        self.register_buffer("scale", std / their_std, persistent=False)
        self.register_buffer("shift", (mean - their_mean) / their_std, persistent=False)
        folder = zoo.exported(name)
        self.record = Pretrained(
            name if folder is None else zoo.called(folder), model.pretrained_cfg.get("license"), fingerprint(model)
        )

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        images = images.float() * self.scale + self.shift
        if images.shape[-1] != self.size:
            images = F.interpolate(images, (self.size, self.size), mode="bilinear", antialias=True)
        features: Tensor = self._model[0](images)
        return features

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Moves or converts the model with this module."""
        self._model[0]._apply(fn, recurse)
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]


def load(name: str) -> Any:
    """Returns a pretrained model without classifier, frozen and in eval mode.

    `name` is a run, a saved folder, a tag, `hf-hub:OWNER/NAME` or any timm name with weights. Raises ValueError, or
    `zoo.NotAvailable` for files that can't be downloaded.
    """
    known_as = hub.timm_name(name)
    try:
        model = hub.create(known_as, num_classes=0)
    except zoo.NotAvailable:  # its message names the ways out
        raise
    except (AssertionError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"teacher {name!r} can't be loaded: {one_line(error)}; pass a run, a saved folder, a zoo tag or a timm "
            "name with pretrained weights"
        ) from error
    return model.eval().requires_grad_(False)


def fingerprint(model: nn.Module) -> str:
    """Returns a fingerprint of a model's weights: the first 16 digits of the sha256 of names and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _per_channel(statistics: Any) -> Tensor:
    return torch.tensor(statistics)[:, None, None]
