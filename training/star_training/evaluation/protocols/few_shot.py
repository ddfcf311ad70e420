"""Few-shot classification: many small tasks with a handful of labelled images per class.

Letters: T tasks at once, W classes per task, K labelled images per class, n = W * K, Q queries per class, D features.

Source: the released few_shot.py of STAR and AugSelf, reimplemented: W = 5, K = 1 and 5, Q = 16, 2000 tasks. The
classifier on raw features is scikit-learn's LogisticRegression(solver="liblinear") with its defaults: one-vs-rest,
minimising |w|^2 / 2 + sum log(1 + exp(-y w.x)), where x ends in a constant 1, so that the intercept is regularised too.
Classes with at most K images are left out; a class with fewer than K + Q images has queries drawn with replacement.
The originals draw without a seed; here a task is a function of the seed, K and its number.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from star_catalog.names import slugify

from ...data.eval_sets.dataset import Splits
from ...data.views import seeded
from ..features import Labelled
from ..frozen_model import FrozenModel
from ..metrics import ACCURACY, SHARE, Measurement, Metric, NotApplicable, TooFew, by_slug, mean

IN_ALL = True
WAYS, SHOTS, QUERIES, TASKS = 5, (1, 5), 16, 2000
# Parquet column -> benchmark; the column holds the benchmark's part (train, val or test) of each row's class.
BENCHMARKS = {"cifarfs": "CIFAR-FS", "fc100": "FC100"}
_CHUNK = 50  # tasks at once: bounds the gathered (T, n + W Q, D) features
_SMALL = 1e-10  # predicted relative decrease of the loss in the last step: Newton's method converges quadratically


def run(model: FrozenModel, splits: Splits, seed: int = 0) -> Measurement:
    """Returns the mean accuracy of the tasks, with its interval over tasks, for 1 and 5 labelled images per class.

    A file with the columns of CIFAR-FS and FC100 is measured on all images, training and test, of their novel classes,
    as those benchmarks define. Any other data set is measured on all classes of its test images.
    """
    benchmarks = benchmark_classes(splits)
    whole = _both(model, splits) if benchmarks else model.labelled(splits.test)
    if whole.targets.is_floating_point():
        raise NotApplicable(f"{splits.name} has numbers for labels; few-shot tasks need classes")
    metrics: list[Metric] = []
    for name, classes in (benchmarks or {"": whole.targets.unique()}).items():
        of_these = torch.isin(whole.targets, classes)
        part = Labelled(whole.features[of_these], whole.targets[of_these])
        for shots in SHOTS:
            slug = slugify(f"fewshot {name} {WAYS}way {shots}shot")
            title = f"{name} {WAYS}-way {shots}-shot".lstrip()
            found = mean(accuracies(part, shots, seed, name or splits.name))
            metrics.append(Metric(slug, title, SHARE, ACCURACY, *found))
    settings = {
        "ways": WAYS, "shots": list(SHOTS), "queries": QUERIES, "tasks": TASKS,
        "images": "train and test" if benchmarks else "test",
        "classifier": "one-vs-rest logistic regression on raw features, C = 1, intercept regularised",
    }  # fmt: skip
    return Measurement(by_slug(metrics), settings)


def benchmark_classes(splits: Splits) -> dict[str, Tensor]:
    """Returns the novel classes (C,) of each benchmark with a column in a Parquet file; {} for other data sets."""
    path = Path(splits.spec)  # with other labels than the usual ones, it is no path
    files = sorted(path.glob("[!.]*.parquet")) if path.is_dir() else [path] if path.suffix == ".parquet" else []
    if not files:
        return {}
    from pyarrow.parquet import read_schema, read_table

    columns = [c for c in BENCHMARKS if c in read_schema(files[0]).names]
    if not columns:
        return {}
    table = read_table(files, columns=["label", *columns])
    names = splits.test.classes or ()
    labels = [names.index(label) if isinstance(label, str) else label for label in table["label"].to_pylist()]
    novel = {c: {n for n, part in zip(labels, table[c].to_pylist(), strict=True) if part == "test"} for c in columns}
    return {BENCHMARKS[c]: torch.tensor(sorted(numbers)) for c, numbers in novel.items()}


def _both(model: FrozenModel, splits: Splits) -> Labelled:
    parts = [model.labelled(source) for source in (splits.train, splits.test)]
    return Labelled(torch.cat([p.features for p in parts]), torch.cat([p.targets for p in parts]))


def accuracies(labelled: Labelled, shots: int, seed: int, name: str, tasks: int = TASKS) -> Tensor:
    """Returns the share of hits among each task's queries, (tasks,) float64. Raises TooFew."""
    members, generator = usable(labelled.targets, shots, name), seeded(seed, shots)
    drawn = torch.stack([draw(members, shots, generator) for _ in range(tasks)])  # (tasks, W, K + Q)
    return torch.cat([hits(labelled.features[part], shots).double().mean((1, 2)) for part in drawn.split(_CHUNK)])


def usable(targets: Tensor, shots: int, name: str) -> list[Tensor]:
    """Returns the images of each class with more than K images. Raises TooFew for fewer than W such classes."""
    members = [(targets == label).nonzero().flatten() for label in targets.unique()]
    found = [images for images in members if len(images) > shots]
    if len(found) < WAYS:
        classes = "class" if len(found) == 1 else "classes"
        raise TooFew(
            f"{name} has {len(found)} {classes} with at least {shots + 1} test images; "
            f"{WAYS}-way {shots}-shot needs {WAYS} of them"
        )
    return found


def draw(members: list[Tensor], shots: int, generator: torch.Generator, queries: int = QUERIES) -> Tensor:
    """Returns one task's images, the labelled ones first: (W, K + Q) indices; `members` holds each class's images."""
    rows = []
    for label in torch.randperm(len(members), generator=generator)[:WAYS].tolist():
        images = members[label][torch.randperm(len(members[label]), generator=generator)]
        support, rest = images[:shots], images[shots:]
        if len(rest) < queries:
            rest = rest[torch.randint(len(rest), (queries,), generator=generator)]
        rows.append(torch.cat((support, rest[:queries])))
    return torch.stack(rows)


def hits(features: Tensor, shots: int) -> Tensor:
    """Returns which queries are classified correctly: features (T, W, K + Q, D) -> (T, W, Q) bool."""
    features = features.double()
    support, queries = (part.flatten(1, 2) for part in features.split([shots, features.shape[2] - shots], 2))
    ways = features.shape[1]
    coefficients = fit(support @ support.mT + 1, ways)  # + 1 for the constant feature, whose weight is the intercept
    scores = (queries @ support.mT + 1) @ coefficients
    truth = torch.arange(ways).repeat_interleave(features.shape[2] - shots)
    return (scores.argmax(-1) == truth).unflatten(1, (ways, -1))


def fit(gram: Tensor, ways: int) -> Tensor:
    """Fits one-vs-rest logistic regressions of W classes from the inner products of n images.

    gram (T, n, n), with images ordered by class -> coefficients (T, n, W): class c scores an image with inner products
    k (n,) as k @ coefficients[:, c]. The optimum lies in the span of the images, w = sum a_i x_i, so Newton's method
    needs n dimensions only, for features of any width. Its system is I + S G S, where S is the square root of the
    curvature; the system's eigenvalues are at least 1 (Rasmussen and Williams 2006, algorithm 3.1).
    """
    size = gram.shape[-1]
    y = (2 * F.one_hot(torch.arange(ways).repeat_interleave(size // ways), ways) - 1).T.to(gram)  # (W, n)
    gram, y = gram[:, None], y.expand(len(gram), ways, size)  # problems (T, W)
    a = torch.zeros_like(y)
    scores, loss = torch.zeros_like(y), _loss(a, torch.zeros_like(y), y)
    for _ in range(200):
        slope = y * torch.sigmoid(-y * scores)  # at the optimum this is a itself
        curvature = torch.sigmoid(scores) * torch.sigmoid(-scores)
        root = curvature.sqrt()
        system = torch.eye(size, dtype=gram.dtype) + root[..., :, None] * gram * root[..., None, :]
        target = curvature * scores + slope
        inner = torch.cholesky_solve((root * _times(gram, target))[..., None], torch.linalg.cholesky(system))[..., 0]
        step = target - root * inner - a
        move = _times(gram, step)
        promised = (step * move + curvature * move.square()).sum(-1)
        a, scores, loss = _shortened(a, scores, loss, step, move, y)
        if (promised <= _SMALL * loss).all():
            return a.mT
    raise ValueError("few-shot classifiers don't converge on these features; their scale may be extreme")


def _times(gram: Tensor, vectors: Tensor) -> Tensor:
    return (gram @ vectors[..., None])[..., 0]


def _loss(a: Tensor, scores: Tensor, y: Tensor) -> Tensor:
    """Returns |w|^2 / 2 plus the logistic losses of each problem: coefficients, scores, signs (T, W, n) -> (T, W)."""
    return (a * scores).sum(-1) / 2 + F.softplus(-y * scores).sum(-1)


def _shortened(
    a: Tensor, scores: Tensor, loss: Tensor, step: Tensor, move: Tensor, y: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns coefficients, scores and losses after the step, which is halved while it would raise the loss."""
    length = torch.ones_like(loss)[..., None]
    for _ in range(30):
        ahead = a + length * step, scores + length * move
        found = _loss(*ahead, y)
        worse = found > loss + _SMALL * loss  # smaller differences are rounding
        if not worse.any():
            break
        length = torch.where(worse[..., None], length / 2, length)
    return *ahead, found
