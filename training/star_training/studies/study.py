"""What a study is: methods and seeds around one recipe, what is measured of every run, and the claims it may bear out.

The studies themselves are functions of cifar10_small.py and paper.py; run.py runs them.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..data.eval_sets.transfer import SETS
from ..data.sources.base import DataError
from ..pretraining.recipe import Recipe
from ..settings.base import override

MEAN = "mean of transfer sets"  # stands where a data set's name could, in comparisons and tables


class Method(NamedTuple):
    """One column of the table: an objective and what it changes in the study's recipe."""

    name: str
    objective: str
    changes: tuple[str, ...] = ()  # as --set takes them
    seeds: int = 1  # how many: 0, 1, ...


class Measure(NamedTuple):
    """A protocol and the data sets it is run on."""

    protocol: str
    data: tuple[str, ...]


class Place(NamedTuple):
    """A number by its metric and the data set it was measured on, or MEAN."""

    metric: str
    data: str = MEAN


class Comparison(NamedTuple):
    """A difference of two methods in one number, by seed: `better` minus `worse` should be above 0.

    Without a `worse` method the number is compared with `than`.
    """

    better: str
    worse: str
    metric: str
    data: str = MEAN
    lower: bool = False  # whether a lower number is the better one
    than: float = 0.0


class Claim(NamedTuple):
    """What the paper says, by the comparisons that would show it; without any it is not tested, and `note` says why."""

    name: str
    says: str
    comparisons: tuple[Comparison, ...] = ()
    note: str = ""


class Images(NamedTuple):
    """The images that a study pretrains on: a set by its name, and torchvision's class where it has one."""

    name: str
    torchvision: str = ""

    def source(self, folder: Path) -> str:
        """What `data.source` of a recipe is called: NAME.parquet in the folder, or the folder NAME in it."""
        pack, root = folder / f"{self.name}.parquet", folder / self.name
        if pack.is_file():
            return str(pack)
        if not root.is_dir():
            raise _missing(self.name, folder)
        return f"torchvision:{self.torchvision}@{root}" if self.torchvision else str(root)


@dataclass(frozen=True, kw_only=True)
class Study:
    """Methods by seeds around one recipe, everything else the same."""

    name: str
    recipe: Recipe
    images: Images
    methods: tuple[Method, ...]
    measures: tuple[Measure, ...]
    transfer: tuple[str, ...] = ()  # the data sets that the mean is over
    steps: tuple[int, ...] = ()  # checkpoints that are measured too
    transfer_over_steps: tuple[str, ...] = ()  # by 20-NN on these sets
    pairs: tuple[tuple[str, str], ...] = ()  # methods whose differences are told, the first less the second
    headline: tuple[Place, ...] = ()  # the numbers of the first table
    shown: tuple[str, ...] = ()  # the metrics of the others
    claims: tuple[Claim, ...] = ()
    fast: tuple[str, ...] = ()  # what --fast changes in the recipe
    fast_measures: tuple[Measure, ...] = ()  # and what it measures then

    def seeds(self, count: int | None) -> "Study":
        """The same study with so many seeds of every method instead of its own numbers."""
        if count is None:
            return self
        if count < 1:
            raise ValueError(f"--seeds is {count}; it must be at least 1")
        return dataclasses.replace(self, methods=tuple(m._replace(seeds=count) for m in self.methods))

    def in_haste(self) -> "Study":
        """The same methods and the same table from a recipe that is too short to tell them apart."""
        measured = {name for measure in self.fast_measures for name in measure.data}
        return dataclasses.replace(
            self,
            recipe=override(self.recipe, self.fast),
            measures=self.fast_measures,
            transfer=tuple(name for name in self.transfer if name in measured),
            steps=(),
        )

    def recipe_of(self, method: Method, seed: int, folder: Path) -> Recipe:
        """The recipe of one run, with its images under `folder`. Raises DataError where they are not there."""
        recipe = override(self.recipe.with_objective(method.objective), method.changes)
        data = dataclasses.replace(recipe.data, source=self.images.source(folder))
        return dataclasses.replace(recipe, data=data, seed=seed)

    @property
    def data(self) -> tuple[str, ...]:
        """The data sets that runs are measured on, each once."""
        return tuple(dict.fromkeys(name for measure in self.measures for name in measure.data))


def located(name: str, folder: Path) -> str:
    """What `Splits` calls a data set under `folder`: NAME.parquet, or the folder NAME. Raises DataError."""
    pack, root = folder / f"{name}.parquet", folder / name
    if pack.is_file():
        return str(pack)
    if root.is_dir():
        return f"{name}@{root}" if name in SETS else str(root)
    raise _missing(name, folder)


def _missing(name: str, folder: Path) -> DataError:
    return DataError(
        f"the study needs {name}: neither {folder / name}.parquet nor the folder {folder / name} is there; "
        "--data says where its data sets lie"
    )
