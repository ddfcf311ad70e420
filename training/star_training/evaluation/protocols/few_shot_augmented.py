"""Few-shot classification from augmented copies of the labelled images, as inv_eq's authors measure it.

Letters: N images, W classes per task, K labelled images per class, A copies of an image, Q queries per class,
D features.

Source: Rizve et al. (CVPR 2021, arXiv 2103.01315) and their released eval/meta_eval.py: W = 5, K = 1 and 5, Q = 15,
A = 5, 600 tasks; features of unit length; scikit-learn's multinomial LogisticRegression with C = 1; the mean of the
tasks with Student's interval. The copies are views under the model's policy, and the queries are not augmented. Ours:
an image has the same copies in every task, and a task is a function of the seed, K and its number. `few_shot` draws the
classes and images in the same way and describes the data sets.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from star_catalog.names import slugify
from star_zoo import Policy

from ...data.eval_sets.dataset import Splits
from ...data.intact import intact
from ...data.views import seeded
from ..embeddings import view
from ..frozen_model import FrozenModel
from ..metrics import ACCURACY, SHARE, Measurement, Metric, NotApplicable, by_slug, of_runs
from .few_shot import SHOTS, WAYS, benchmark_classes, draw, usable

QUERIES, COPIES, TASKS = 15, 5, 600


class Copied(NamedTuple):
    """Features of unit length, of images (N, D) and of their augmented copies (N, A, D), and the classes (N,)."""

    features: Tensor
    copies: Tensor
    targets: Tensor


def run(model: FrozenModel, splits: Splits, seed: int = 0) -> Measurement:
    """Returns the mean accuracy of the tasks, with its interval over tasks, for 1 and 5 labelled images per class.

    The images are those of `few_shot`: all of the novel classes of CIFAR-FS and FC100 if the file has their columns,
    else the test images.
    """
    benchmarks = benchmark_classes(splits)
    sources = (splits.train, splits.test) if benchmarks else (splits.test,)
    labelled = [model.labelled(source) for source in sources]
    if labelled[0].targets.is_floating_point():
        raise NotApplicable(f"{splits.name} has numbers for labels; few-shot tasks need classes")
    copies = torch.cat([view(model, intact(source), copied, seed).features for source in sources])
    features, targets = (torch.cat(parts) for parts in zip(*labelled, strict=True))
    metrics: list[Metric] = []
    for name, classes in (benchmarks or {"": targets.unique()}).items():
        own = torch.isin(targets, classes)
        part = Copied(F.normalize(features[own], dim=-1), F.normalize(copies[own], dim=-1), targets[own])
        for shots in SHOTS:
            title = f"{name} {WAYS}-way {shots}-shot, augmented".lstrip()
            slug = slugify(f"fewshot {name} {WAYS}way {shots}shot augmented")
            found = of_runs(accuracies(part, shots, seed, name or splits.name).tolist())
            metrics.append(Metric(slug, title, SHARE, ACCURACY, *found))
    settings = {
        "ways": WAYS, "shots": list(SHOTS), "queries": QUERIES, "copies": COPIES, "tasks": TASKS,
        "images": "train and test" if benchmarks else "test",
        "classifier": "multinomial logistic regression on features of unit length, C = 1",
        "interval": "Student's",
    }  # fmt: skip
    return Measurement(by_slug(metrics), settings)


def copied(policy: Policy, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Returns the params of an image's copies: (A, P)."""
    return policy.draws(COPIES, height, width, generator)


def accuracies(images: Copied, shots: int, seed: int, name: str, tasks: int = TASKS) -> Tensor:
    """Returns the share of hits among each task's queries, (tasks,) float64. Raises TooFew."""
    members, generator = usable(images.targets, shots, name), seeded(seed, shots)
    found = []
    for _ in range(tasks):
        support, queries = draw(members, shots, generator, QUERIES).split([shots, QUERIES], 1)
        found.append(hits(images.copies[support].flatten(1, 2), images.features[queries]).double().mean())
    return torch.stack(found)


def hits(support: Tensor, queries: Tensor) -> Tensor:
    """Returns which queries are classified correctly: (W, K * A, D), (W, Q, D) -> (W, Q) bool."""
    from sklearn.linear_model import LogisticRegression

    ways = torch.arange(len(support))
    classifier = LogisticRegression(max_iter=1000)
    classifier.fit(support.flatten(0, 1).double().numpy(), ways.repeat_interleave(support.shape[1]).numpy())
    predicted = torch.from_numpy(classifier.predict(queries.flatten(0, 1).double().numpy()))
    return predicted.view(queries.shape[:2]) == ways[:, None]
