"""Views of images and what a frozen model makes of them: features and embeddings.

Letters: N images, V views of an image, A augmentations, S view size, P augmentation parameters, D features,
O embedding size.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from star_zoo import Objective, Policy

from ..data import Source
from ..data.views import MultiViewDataset
from .features import NotFinite, evaluating
from .frozen_model import Subject

PolicyPlan = Callable[[Policy, int, int, torch.Generator], Tensor]  # a view plan under any policy

_AT_ONCE = 512  # views or rows of features
_WIDEST = 4096  # features; what is measured of them takes the square or the cube of their number
_ATTEMPTS = 200  # draws in which an augmentation must act once, or it counts as one that never does


class Viewed(NamedTuple):
    """Views of N images under one plan."""

    params: Tensor  # (N, V, P), raw
    features: Tensor  # (N, V, D)


def view(subject: Subject, source: Source, plan: PolicyPlan, seed: int, epoch: int = 0) -> Viewed:
    """Draws the plan's views of every image and extracts their features, on the CPU.

    What is drawn is a pure function of seed, epoch and index, as in pretraining. Raises NotFinite where features are
    infinite or not a number, ValueError where there are more than 4096 of them.
    """
    dataset = MultiViewDataset(source, subject.policy, functools.partial(plan, subject.policy), seed)
    found = []
    images_at_once = max(1, _AT_ONCE // len(dataset[epoch, 0].params))
    for start in range(0, len(source), images_at_once):
        drawn = [dataset[epoch, index] for index in range(start, min(start + images_at_once, len(source)))]
        params = torch.stack([one.params for one in drawn])
        features = extract_views(
            subject, torch.cat([one.views[0].permute(0, 3, 1, 2) for one in drawn]), params.flatten(0, 1)
        )
        if features.shape[1] > _WIDEST:
            raise ValueError(f"{subject.name} has {features.shape[1]} features; this is measured of at most {_WIDEST}")
        found.append(Viewed(params, features.unflatten(0, params.shape[:2])))
    viewed = Viewed(*(torch.cat(parts) for parts in zip(*found, strict=True)))
    _check_finite(viewed.features, "features")
    return viewed


def extract_views(subject: Subject, images: Tensor, params: Tensor) -> Tensor:
    """Features (N, D) float32, in eval mode, of cropped views (N, 3, S, S) uint8 with raw params (N, P)."""
    parts = []
    with evaluating(subject.backbone):
        for pixels, rows in zip(images.split(_AT_ONCE), params.split(_AT_ONCE), strict=True):
            x = subject.policy.apply(pixels, rows).to(device(subject.backbone))
            parts.append(subject.backbone(x.contiguous(memory_format=torch.channels_last)).float().cpu())
    return torch.cat(parts)


def embed(objective: Objective | None, features: Tensor) -> dict[str, Tensor]:
    """Returns the objective's embeddings of features (..., D) by name, (..., O) each, computed in eval mode.

    Empty without an objective and for an objective without embeddings. Raises NotFinite.
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


def device(module: nn.Module) -> torch.device:
    """Where a module's weights are."""
    return next((p.device for p in module.parameters()), torch.device("cpu"))


def columns(policy: Policy) -> dict[str, slice]:
    """Which columns of params each augmentation fills, by the augmentation's name."""
    starts = {a: policy.fields.index(a.fields[0]) for a in policy.augmentations}
    return {type(a).__name__: slice(start, start + len(a.fields)) for a, start in starts.items()}


# View plans


def base(policy: Policy, height: int, width: int, generator: torch.Generator) -> Tensor:
    """The base view: (1, P)."""
    return policy.base(height, width)[None]


def base_and_drawn(drawn: int) -> PolicyPlan:
    """The base view and so many draws: (1 + drawn, P)."""

    def plan(policy: Policy, height: int, width: int, generator: torch.Generator) -> Tensor:
        draws = (policy.draw(height, width, generator) for _ in range(drawn))
        return torch.stack((policy.base(height, width), *draws))

    return plan


def base_all_and_each(policy: Policy, height: int, width: int, generator: torch.Generator) -> Tensor:
    """The base view, a draw, and for each augmentation a view in which it acts and no other does: (2 + A, P).

    One that never acts stays at its base values.
    """
    start = policy.base(height, width)
    alone = []
    for part in columns(policy).values():
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
