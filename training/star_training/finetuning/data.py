"""Labelled images for fine-tuning: checks, stratified fractions, and training views.

Letters: N images, P augmentation parameters.
"""

import torch

from star_zoo import Policy
from star_zoo.augmentations import Augmentation, ColorJitter, Crop, Flip

from ..data import NoSuchSplit, Source
from ..data.eval_sets.dataset import Splits
from ..data.sources.subset import Part, numbered
from ..data.views import Plan, seeded
from ..evaluation.features import check_classes
from .config import FineTune, Views

_MOST_CLASSES = 1_000_000  # with one classifier output each


def open_labelled(settings: FineTune, splits: Splits) -> tuple[Source, Source, int]:
    """Returns training images, test images and the number of classes. Raises ValueError if they don't fit."""
    try:
        train, test = splits.train, splits.test
    except NoSuchSplit as error:
        raise ValueError(f"{error} Fine-tuning needs a train split and a test split.") from error
    learnt = _classes(train, "train")
    if unseen := sorted(_classes(test, "test") - learnt):
        names = dict(enumerate(test.classes or ()))
        named = ", ".join(names.get(label, str(label)) for label in unseen[:5])
        more = f" and {len(unseen) - 5} more" if len(unseen) > 5 else ""
        raise ValueError(
            f"the test split of {splits.name} has {len(unseen)} classes that its train split lacks: {named}{more}; "
            "a classifier can't predict classes that it wasn't trained on, so pass splits of the same classes"
        )
    train, test = numbered(train, test)
    assert train.targets is not None and test.targets is not None
    check_classes(splits.name, train.targets, test.targets)
    count = max(int(train.targets.max()) + 1, len(train.classes or ()))
    if count > _MOST_CLASSES:
        raise ValueError(f"{splits.name} has {count:,} classes; a classifier has at most {_MOST_CLASSES:,}")
    return stratified(train, settings.data.fraction, settings.seed), test, count


def _classes(source: Source, split: str) -> set[int]:
    if source.targets is None:
        why = source.inventory.unlabelled
        problem = f"the {split} split of {source.name} has no labels to fine-tune with{why and f' ({why})'}"
        raise ValueError(f"{problem}; pass labelled images")
    if source.targets.is_floating_point():
        raise ValueError(f"the labels of {source.name} are numbers; fine-tuning needs classes")
    return set(source.targets.tolist())


def class_names(source: Source, classes: int) -> list[str]:
    """Returns a name for each class: the data set's, or the label as text where it has none."""
    names = source.classes or ()
    return [names[label] if label < len(names) else str(label) for label in range(classes)]


def stratified(source: Source, fraction: float, seed: int) -> Source:
    """Returns the same share of each class's images, at least one of each, chosen by the seed alone."""
    assert source.targets is not None
    if fraction == 1:
        return source
    kept = []
    for label in source.targets.unique():
        images = (source.targets == label).nonzero().flatten()
        order = torch.randperm(len(images), generator=seeded(seed, int(label)))
        kept.append(images[order[: max(1, round(fraction * len(images)))]])
    return Part(source, torch.cat(kept).sort().values)


def training_policy(views: Views, size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Policy:
    """Returns the policy of the training views."""
    augmentations: list[Augmentation] = [Crop(size, scale=views.scale, ratio=views.ratio)]
    if views.flip:
        augmentations.append(Flip(views.flip))
    if views.jitter:
        jitter = ColorJitter(views.jitter, views.jitter, views.jitter, 0.0, p=1.0)
        augmentations.append(jitter if len(mean) == 3 else jitter.without_color())
    return Policy(tuple(augmentations), tuple(mean), tuple(std))


def one_view(policy: Policy) -> Plan:
    """Returns the view plan of a classifier: a single drawn view, (1, P)."""
    return lambda height, width, generator: policy.draws(1, height, width, generator)
