"""Three policies that teach different invariances, their fusion, and one wide model, on CIFAR-10."""

from .. import recipes
from ..settings.base import override
from .study import Images, Measure, Method, Place, Study

_SETS = ("dtd10", "flowers17", "rsscn7", "signdigits")  # Caltech101's linear classifier takes longer than these together
_POLICIES = ("default", "ventral", "dorsal")
# three times the width: as many features as the three models have together, nine times the weights of one
_WIDE = ("backbone_args.channels=[96,192,384,768]", "backbone_args.stem_width=48")
_SHORT = ("epochs=1", "data.limit=19200", "precision=no", "optimizer.warmup_epochs=0.1", "run.eval_every=0")


def invariances_small() -> Study:
    """Which data set needs which invariance: SimCLR under three policies, their fusion, and one model of its width."""
    return Study(
        name="invariances_small",
        recipe=override(recipes.cifar10_small(), _SHORT),
        images=Images("cifar10", "CIFAR10"),
        methods=(
            *(Method(name, "simclr", (f"policy={name}",), seeds=3) for name in _POLICIES),
            Method("wide", "simclr", ("policy=default", *_WIDE), seeds=2),
        ),
        measures=(
            Measure("linear", _SETS),
            Measure("knn", ("cifar10", *_SETS)),
        ),
        transfer=_SETS,
        headline=(Place("linear_accuracy"), Place("knn20_top1")),
        shown=("linear_accuracy", "knn20_top1"),
    )
