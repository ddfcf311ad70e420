"""Routing: which experts each task uses, and nearest neighbours in the outputs of experts.

Letters: N images, Q queries, K neighbours, D features, E experts, O embedding size, T tasks.
Source: the expert analysis of STAR (arXiv 2510.27222): mean routing weights, neighbours in single experts' outputs.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from star_zoo import Objective

from ...data.eval_sets.dataset import Splits
from ...data.sources.raw import evenly_spaced
from ...data.sources.subset import spread
from ..embeddings import base, device, embed, view
from ..features import evaluating
from ..frozen_model import FrozenModel
from ..metrics import Estimate, Measurement, Metric, NotApplicable, TooFew, by_slug, mean

TASKS = ("invariant", "equivariant")
_IMAGES = 10_000
_QUERIES, _NEIGHBOURS = 8, 8
_BATCH = 1000


def run(model: FrozenModel, splits: Splits, seed: int = 0) -> Measurement:
    """Returns mean weights, their entropies and their overlap between tasks, on base views of test images.

    Nothing is random. A fixed router's weights are the row of its table, normalised to sum to 1. Raises ValueError for
    a model without experts.
    """
    source = spread(splits.test, _IMAGES)
    if len(source) <= _NEIGHBOURS:
        raise TooFew(f"{source.name} has {len(source)} test images; routing needs at least {_NEIGHBOURS + 1}")
    features = view(model, source, base, seed).features[:, 0]
    found_routing = None if model.objective is None else routed(model.objective, features)
    if found_routing is None:
        raise NotApplicable(f"{model.name} has no experts to route to; pass a model with routed heads, e.g. star's")
    weights, outputs = found_routing
    queries = evenly_spaced(len(source), _QUERIES)
    of_test = evenly_spaced(len(splits.test), len(source))  # the indices that `spread` selected
    found = embed(model.objective, features)

    def alike(embeddings: Tensor) -> list[list[int]]:
        return of_test[neighbours(embeddings, queries, _NEIGHBOURS)].tolist()

    details: dict[str, Any] = {
        "tasks": list(TASKS),
        "weights": weights.mean(0).tolist(),
        "largest weight": largest(weights).tolist(),
        "neighbours": {
            "split": "test",
            "queries": of_test[queries].tolist(),
            "invariant": alike(found["z_inv"]),
            "equivariant": alike(found["z_eq"]),
            "experts": [alike(outputs[:, e]) for e in range(outputs.shape[1])],
        },
    }
    settings = {
        "images": len(features),
        "view": "base view",
        "experts": weights.shape[2],
        "entropy": "in nats; log(experts) is an even use of all",
        "overlap": "sum over experts of the smaller of the two tasks' mean weights: 1 the same use, 0 no shared expert",
        "neighbours": "by cosine",
    }
    metrics = usage(weights)
    if source.targets is not None and not source.targets.is_floating_point() and len(source.targets.unique()) > 1:
        firsts = [outputs[:, int(expert)] for expert in weights.mean(0).argmax(1)]
        metrics += same_class(dict(zip(TASKS, firsts, strict=True)), source.targets)
    return Measurement(by_slug(metrics), settings, details)


def routed(objective: Objective, features: Tensor) -> tuple[Tensor, Tensor] | None:
    """Returns each task's shares of the experts, (N, T, E) summing to 1, and each expert's output (N, E, O).

    Returns None for an objective without routing; `features` are (N, D).
    """
    weights, outputs = [], []
    with evaluating(objective):
        for rows in features.split(_BATCH):
            shares, made = (f(rows.to(device(objective))) for f in (objective.routing, objective.experts))
            if shares is None or made is None:
                return None
            weights.append(shares.cpu())
            outputs.append(made.float().cpu())
    table = torch.cat(weights).double()
    return table / table.sum(2, keepdim=True), torch.cat(outputs)


def usage(weights: Tensor) -> list[Metric]:
    """Returns entropies of shares (N, T, E), per image and of the mean, and the tasks' overlap."""
    average = weights.mean(0)
    metrics = []
    for task, of_images, of_mean in zip(TASKS, entropy(weights).unbind(1), entropy(average), strict=True):
        entropies = mean(of_images), Estimate(float(of_mean))
        for slug, name, found in zip(("image", "mean"), ("an image's", "mean"), entropies, strict=True):
            metrics.append(_metric(f"entropy_{slug}_{task}", f"entropy of {name} weights, {task}", found, "nats"))
    overlap = Estimate(float(average.amin(0).sum()))
    return [*metrics, _metric("overlap", "overlap of the tasks' mean weights", overlap)]


def _metric(slug: str, name: str, found: Estimate, unit: str = "") -> Metric:
    return Metric(slug, name, unit, "routing", *found)


def entropy(weights: Tensor) -> Tensor:
    """Returns the entropy (..., E) -> (...), in nats; 0 log 0 is 0."""
    return torch.special.entr(weights).sum(-1)


def largest(weights: Tensor) -> Tensor:
    """Returns the share of images with their largest weight on each expert: (N, T, E) -> (T, E); ties are split."""
    tops = (weights == weights.amax(2, keepdim=True)).double()
    return (tops / tops.sum(2, keepdim=True)).mean(0)


def same_class(by_task: dict[str, Tensor], targets: Tensor) -> list[Metric]:
    """Returns the share of an image's nearest neighbours that have its class, in outputs (N, O) of each task's expert.

    A task's expert is the one with its largest mean weight. The last metric is the difference of the two, by image.
    """
    found = {task: _same_class(outputs, targets) for task, outputs in by_task.items()}
    name = "same class among neighbours, by the"
    shares = [_metric(f"same_class_{task}", f"{name} {task} task's expert", mean(hits)) for task, hits in found.items()]
    invariant, equivariant = found.values()
    less = f"{name} invariant task's expert less by the equivariant task's"
    return [*shares, _metric("same_class_difference", less, mean(invariant - equivariant))]


def _same_class(outputs: Tensor, targets: Tensor) -> Tensor:
    """Returns the share of each image's neighbours that have its class: (N, O), (N,) -> (N,)."""
    parts = torch.arange(len(outputs)).split(_BATCH)  # bounds the (Q, N) cosines
    nearest = torch.cat([neighbours(outputs, part, _NEIGHBOURS) for part in parts])
    return (targets[nearest] == targets[:, None]).double().mean(1)


def neighbours(embeddings: Tensor, queries: Tensor, count: int) -> Tensor:
    """Returns the `count` nearest other images by cosine, nearest first: (N, O), indices (Q,) -> indices (Q, count)."""
    unit = F.normalize(embeddings.float(), dim=1)
    similarity = unit[queries] @ unit.T
    similarity[torch.arange(len(queries)), queries] = -torch.inf
    return similarity.topk(count, dim=1).indices
