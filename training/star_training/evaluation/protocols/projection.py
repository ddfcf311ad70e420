"""Nearest neighbours and interpolations in random poses, by raw features and by their invariant projections.

Letters: N training images, M test images, B images at once, S side of the model's input, D features, G elements of the
group, O projected features, P pairs, T steps of an interpolation.

Every image takes a random pose of the group: regular features of a turned image are those of the image, moved by the
element. They are the backbone's own if it has a group, else its features of the image in the four poses of C4.
Between two test images of different classes, the class of the nearest training image should change once; along raw
features the path leaves the training images and crosses classes that belong to neither end.

Source: "Interpreting Equivariant Representations" (arXiv 2401.12588) plots maps and interpolations after an invariant
projection; its body could not be read, so k, the numbers of images, pairs and steps, and the count are ours.
"""

from typing import Any

import torch
from torch import Tensor, nn

from star_zoo.groups import C4, Group
from star_zoo.symmetry.projections import Projection
from star_zoo.wrappers.invariant import own_group, regular_features

from ...data import Source
from ...data.eval_sets.dataset import Splits
from ...data.sources.subset import spread
from ...data.views import seeded
from ..features import Labelled, as_classes
from ..frozen_model import FrozenModel
from ..metrics import ACCURACY, SHARE, Estimate, Measurement, Metric, NotApplicable, by_slug, share

_KINDS = ("sort", "max", "cross_section")
_K = 5
_IMAGES = 2_000  # of either split
_PAIRS, _STEPS = 200, 21
_SHOWN = 300  # images in the maps of the report


def run(model: FrozenModel, splits: Splits, seed: int = 0) -> Measurement:
    """Returns 5-NN accuracy and the share of steady interpolations, of raw features and of three projections.

    `seed` draws poses and pairs. Raises ValueError for a model of rendered objects.
    """
    if getattr(model.backbone, "takes_objects", False):
        raise NotApplicable(f"{model.name} renders objects, which can't be turned; projection needs a model of images")
    group = own_group(model.backbone) or C4
    train, test = as_classes(splits.name, *(_regular(model, part, group) for part in (splits.train, splits.test)))
    generator = seeded(seed)
    train, _ = _posed(train, group, generator)
    test, poses = _posed(test, group, generator)
    pairs = _pairs(test.targets, generator)
    metrics: list[Metric] = []
    maps = {}
    for kind in ("raw", *_KINDS):
        known, queries = (_projected(part, kind, group) for part in (train, test))
        metrics += _metrics(kind, known, queries, pairs)
        if kind in ("raw", "sort"):
            maps[kind] = [[round(float(v), 4) for v in row] for row in plane(queries.features[:_SHOWN])]
    settings = {
        "group": group.name, "k": _K, "distance": "Euclidean", "features": _name(model),
        "images": {"train": len(train.targets), "test": len(test.targets)},
        "pairs": len(pairs), "steps of an interpolation": _STEPS,
    }  # fmt: skip
    shown = {"classes": test.targets[:_SHOWN].tolist(), "poses": poses[:_SHOWN].tolist()}
    return Measurement(by_slug(metrics), settings, {"maps": maps, **shown})


def _name(model: FrozenModel) -> str:
    return "regular" if own_group(model.backbone) else "of the image in every pose"


def _metrics(kind: str, known: Labelled, queries: Labelled, pairs: Tensor) -> list[Metric]:
    """Returns the metrics of one kind of features; a data set with fewer than 5 training images has no 5-NN."""
    called = kind.replace("_", " ")
    metrics = []
    if len(known.targets) >= _K:
        found = share(neighbours(known, queries))
        average = f"projection_knn_accuracy_{kind}", f"5-NN accuracy, {called}"
        name = f"5-NN top-1 in random poses, {called}"
        metrics.append(Metric(f"projection_knn5_top1_{kind}", name, SHARE, ACCURACY, *found, averaged_as=average))
    steady = Estimate(*share(changes(known, queries.features, pairs) <= 1)) if len(pairs) else None
    if steady:
        metrics.append(
            Metric(f"projection_steady_{kind}", f"steady interpolations, {called}", SHARE, "interpolation", *steady)
        )
    return metrics


class Regular(nn.Module):
    """The regular features of a backbone, flattened: (B, 3, S, S) -> (B, D * G)."""

    def __init__(self, backbone: nn.Module, group: Group):
        super().__init__()
        self.backbone, self.group = backbone, group

    def forward(self, x: Tensor) -> Tensor:
        return regular_features(self.backbone, x, self.group).flatten(1)


def _regular(model: FrozenModel, source: Source, group: Group) -> Labelled:
    """Returns the regular features of a part of a source, (N, D, G), with its labels."""
    regular = FrozenModel(model.name, Regular(model.backbone, group), model.preprocess, workers=model.workers)
    features, targets = regular.labelled(spread(source, _IMAGES))
    return Labelled(features.unflatten(1, (-1, group.order)), targets)


def _posed(part: Labelled, group: Group, generator: torch.Generator) -> tuple[Labelled, Tensor]:
    """Returns the features of the images in random poses, and the poses (N,)."""
    poses = torch.randint(group.order, (len(part.targets),), generator=generator)
    every = torch.stack([group.act_on_features(part.features, g) for g in range(group.order)])
    return part._replace(features=every[poses, torch.arange(len(poses))]), poses


def _projected(part: Labelled, kind: str, group: Group) -> Labelled:
    project: Any = nn.Flatten() if kind == "raw" else Projection(kind, group, part.features.shape[1])
    return part._replace(features=project(part.features))


def _pairs(targets: Tensor, generator: torch.Generator) -> Tensor:
    """Returns random pairs of images of different classes: (P, 2), at most 200."""
    pairs = torch.randint(len(targets), (10 * _PAIRS, 2), generator=generator)
    return pairs[targets[pairs[:, 0]] != targets[pairs[:, 1]]][:_PAIRS]


def neighbours(known: Labelled, queries: Labelled) -> Tensor:
    """Returns which queries the majority of their 5 nearest neighbours classifies correctly: (M,) bool."""
    from sklearn.neighbors import KNeighborsClassifier

    fitted = KNeighborsClassifier(_K).fit(known.features.numpy(), known.targets.numpy())
    return torch.from_numpy(fitted.predict(queries.features.numpy())) == queries.targets


def changes(known: Labelled, features: Tensor, pairs: Tensor) -> Tensor:
    """Returns how often the nearest training image's class changes between two images: (M, O), (P, 2) -> (P,)."""
    first, second = features[pairs[:, 0]], features[pairs[:, 1]]
    classes = []
    for share_of_second in torch.linspace(0, 1, _STEPS):
        point = torch.lerp(first, second, share_of_second)
        classes.append(known.targets[torch.cdist(point, known.features).argmin(1)])
    path = torch.stack(classes)  # (T, P)
    return (path[1:] != path[:-1]).sum(0)


def plane(features: Tensor) -> Tensor:
    """Returns the two principal components of features, in units of the first one's deviation: (M, O) -> (M, 2)."""
    centred = (features - features.mean(0)).double()
    u, s, _ = torch.linalg.svd(centred, full_matrices=False)
    flat = nn.functional.pad(u * s, (0, 2))[:, :2]
    return flat / flat[:, 0].std(correction=0).clamp(min=1e-12)
