"""Views of images, and a frozen model's features and embeddings of them.

Letters: N images, V views of an image, A augmentations, S view size, P augmentation parameters, D features,
O embedding size.
"""

import copy
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from star_zoo import Objective, Policy

from ..data import Source
from ..data.views import MultiViewDataset, load_views
from ..data.workers import loading, useful_workers
from .features import NotFinite, evaluating
from .frozen_model import FrozenModel
from .metrics import NotApplicable

PolicyPlan = Callable[[Policy, int, int, torch.Generator], Tensor]  # a view plan under any policy

_AT_ONCE = 512  # views or rows of features
_WIDEST = 4096  # features; the measurements' cost is quadratic or cubic in their number
_NORMALISED = 1000  # rows per batch, whose statistics batch norms average
_ATTEMPTS = 200  # draws; an augmentation that acts in none of them counts as one that never acts


class Viewed(NamedTuple):
    """Views of N images under one plan."""

    params: Tensor  # (N, V, P), raw
    features: Tensor  # (N, V, D)


def view(model: FrozenModel, source: Source, plan: PolicyPlan, seed: int, epoch: int = 0) -> Viewed:
    """Returns the plan's views of every image with their features, on the CPU.

    The draws are a pure function of seed, epoch and index, as in pretraining. Raises NotFinite if a feature is
    infinite or NaN, NotApplicable if there are more than 4096 features.
    """
    dataset = MultiViewDataset(source, model.policy, functools.partial(plan, model.policy), seed)
    found = []
    at_once = max(1, _AT_ONCE // len(dataset[epoch, 0].params))  # images
    indices = range(len(source))
    keys = [[(epoch, index) for index in indices[start : start + at_once]] for start in indices[::at_once]]
    with loading(load_views(dataset, keys, useful_workers(source, model.workers))) as batches:
        for batch in batches:
            images = batch.views[0].flatten(0, 1).permute(0, 3, 1, 2)
            features = extract_views(model, images, batch.params.flatten(0, 1))
            if features.shape[1] > _WIDEST:
                width = features.shape[1]
                raise NotApplicable(f"{model.name} has {width} features; this is measured for at most {_WIDEST}")
            found.append(Viewed(batch.params, features.unflatten(0, batch.params.shape[:2])))
    viewed = Viewed(*(torch.cat(parts) for parts in zip(*found, strict=True)))
    _check_finite(viewed.features, "features")
    return viewed


def extract_views(model: FrozenModel, images: Tensor, params: Tensor) -> Tensor:
    """Returns features (N, D) float32 of cropped views (N, 3, S, S) uint8 with raw params (N, P), in eval mode."""
    parts = []
    with evaluating(model.backbone):
        for pixels, rows in zip(images.split(_AT_ONCE), params.split(_AT_ONCE), strict=True):
            x = model.policy.apply(pixels, rows).to(device(model.backbone))
            parts.append(model.backbone(x.contiguous(memory_format=torch.channels_last)).float().cpu())
    return torch.cat(parts)


def embed(objective: Objective | None, features: Tensor) -> dict[str, Tensor]:
    """Returns the objective's embeddings of features (..., D) by name, (..., O) each, computed in eval mode.

    The dict is empty without an objective or for an objective without embeddings. Raises NotFinite.
    """
    if objective is None:
        return {}
    with evaluating(objective):
        parts = [
            {name: z.float().cpu() for name, z in objective.embed(rows.to(device(objective))).items()}
            for rows in features.flatten(0, -2).split(_AT_ONCE)
        ]
    found = {name: torch.cat([part[name] for part in parts]).unflatten(0, features.shape[:-1]) for name in parts[0]}
    for name, z in found.items():
        _check_finite(z, name)
    return found


@torch.no_grad()
def recalibrated(objective: Objective, method: Callable[..., Any], *inputs: Tensor) -> Objective:
    """Returns a copy in eval mode whose batch norms have the statistics of one of its methods on inputs (N, ...).

    In training each forward normalises one kind of view by its own statistics; the running statistics mix all kinds
    and fit none of them. Source: precise batch norm, Wu & Johnson (2021).
    """
    measured = copy.deepcopy(objective).eval()
    for norm in measured.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            norm.reset_running_stats()
            norm.momentum = None  # the mean over all batches
            norm.train()
    for batch in zip(*(x.chunk(math.ceil(len(x) / _NORMALISED)) for x in inputs), strict=True):
        getattr(measured, method.__name__)(*(x.to(device(measured)) for x in batch))
    return measured.eval()


def device(module: nn.Module) -> torch.device:
    """Returns the device of a module's weights."""
    return next((p.device for p in module.parameters()), torch.device("cpu"))


# View plans


def base(policy: Policy, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Returns the base view's params: (1, P)."""
    return policy.base(height, width)[None]


def base_and_drawn(drawn: int) -> PolicyPlan:
    """Returns the plan of the base view and `drawn` random views: (1 + drawn, P)."""

    return functools.partial(_base_and_drawn, drawn)


def _base_and_drawn(drawn: int, policy: Policy, height: int, width: int, generator: torch.Generator) -> Tensor:
    return torch.cat((policy.base(height, width)[None], policy.draws(drawn, height, width, generator)))


def base_all_and_each(policy: Policy, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Returns the base view, a random view, and for each augmentation a view in which only it acts: (2 + A, P).

    An augmentation that never acts keeps its base values.
    """
    start = policy.base(height, width)
    alone = []
    for part in policy.columns.values():
        row = start.clone()
        for _ in range(_ATTEMPTS):
            row[part] = policy.draw(height, width, generator)[part]
            if not torch.equal(row, start):
                break
        alone.append(row)
    return torch.stack((start, policy.draw(height, width, generator), *alone))


def _check_finite(x: Tensor, what: str) -> None:
    if not x.isfinite().all():
        bad = int((~x.isfinite().flatten(1).all(1)).sum())
        raise NotFinite(f"{bad} of {len(x)} images have {what} that are not finite")
