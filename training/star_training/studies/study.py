"""The definition of a study: methods and seeds of one recipe, the measurements of every run, and the claims to test.

A method is trained; a fusion joins the trained models of some methods; a start is the model that all runs begin with.

Each study is a function of a module of its own that returns a `Study`; run.py runs it.
A slug is the name of a metric in results.json, e.g. "knn20_top1".
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from star_catalog.names import not_found

from ..data.eval_sets.transfer import SETS
from ..data.sources.base import DataError
from ..pretraining.recipe import Recipe
from ..reports.tables import Table
from ..settings.base import override

MEAN = "mean of transfer sets"  # takes the place of a data set's name in comparisons and tables


class Method(NamedTuple):
    """One column of the table: an objective and its changes to the study's recipe.

    `changes` are in the syntax of --set; `seeds` is the number of seeds, counted from 0.
    """

    name: str
    objective: str
    changes: tuple[str, ...] = ()
    seeds: int = 1


class Fusion(NamedTuple):
    """One column of the table that trains nothing: the models of some methods with the same seed, in one wrapper."""

    name: str
    methods: tuple[str, ...]
    wrapper: str = "concat"
    seeds: int = 1  # as in `Method`; at most those of each of its methods


class Start(NamedTuple):
    """One column of the table that trains nothing: the weights that every run starts from, with no seed to draw.

    `weights` is the name of their folder, as `--init-from` takes it, in the folder of the data sets.
    """

    name: str
    weights: str

    @property
    def seeds(self) -> int:
        """One: the weights are the same for every seed."""
        return 1


class Measure(NamedTuple):
    """A protocol and the data sets on which it is run."""

    protocol: str
    data: tuple[str, ...]


class Place(NamedTuple):
    """Identifies a number by the slug of its metric and its data set, or MEAN."""

    metric: str
    data: str = MEAN


class Comparison(NamedTuple):
    """The difference of two methods in one number, by seed: `better` - `worse` should be above 0, or below if `lower`.

    If `worse` is empty, the number is compared with `than`.
    """

    better: str
    worse: str
    metric: str  # its slug
    data: str = MEAN
    lower: bool = False  # whether a lower number is better
    than: float = 0.0


class Claim(NamedTuple):
    """A statement of the paper with the comparisons that would show it; if there are none, `note` states the reason."""

    name: str
    says: str
    comparisons: tuple[Comparison, ...] = ()
    note: str = ""


class Images(NamedTuple):
    """The images that a study pretrains on: the name of a data set, and of its torchvision class if there is one."""

    name: str
    torchvision: str = ""

    def source(self, folder: Path) -> str:
        """Returns `data.source` of a recipe: NAME.parquet in the folder, or the folder NAME in it. Raises DataError."""
        pack, root = folder / f"{self.name}.parquet", folder / self.name
        if pack.is_file():
            return str(pack)
        if not root.is_dir():
            raise _missing(self.name, folder)
        return f"torchvision:{self.torchvision}@{root}" if self.torchvision else str(root)


Column = Start | Method | Fusion


@dataclass(frozen=True, kw_only=True)
class Study:
    """Several methods and seeds of one recipe; everything else is the same.

    Args:
        name: of the study's folder and page.
        recipe: of all runs, before the changes of the methods.
        images: the images to pretrain on.
        methods: to train, in the order of the tables.
        measures: measurements of every trained model.
        fusions: models that join those of several methods, measured like them.
        start: the weights that every run starts from, measured like the trained models; None for random ones.
        transfer: data sets of the mean of transfer sets.
        steps: steps whose checkpoints are measured, too.
        transfer_over_steps: data sets for the 20-NN accuracy of these checkpoints.
        pairs: methods to compare, the first minus the second.
        headline: numbers of the first table.
        shown: slugs of the metrics of the other tables; () for all.
        claims: statements to test.
        tables: functions of the study and its outcomes that make further tables.
        fast: changes of --fast to the recipe, in the syntax of --set.
        fast_measures: measurements of --fast.
    """

    name: str
    recipe: Recipe
    images: Images
    methods: tuple[Method, ...]
    measures: tuple[Measure, ...]
    fusions: tuple[Fusion, ...] = ()
    start: Start | None = None
    transfer: tuple[str, ...] = ()
    steps: tuple[int, ...] = ()
    transfer_over_steps: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()
    headline: tuple[Place, ...] = ()
    shown: tuple[str, ...] = ()
    claims: tuple[Claim, ...] = ()
    tables: tuple[Callable[..., Table], ...] = ()
    fast: tuple[str, ...] = ()
    fast_measures: tuple[Measure, ...] = ()

    def only(self, names: Sequence[str] | None) -> "Study":
        """Returns the study with the methods and fusions of these names, or unchanged for None.

        A fusion comes with its methods; the start stays. Raises ValueError for an unknown name, listing the known ones.
        """
        if names is None:
            return self
        known = [column.name for column in self.columns]
        for name in names:
            if name not in known:
                raise ValueError(not_found("method", name, known))
        fusions = tuple(fusion for fusion in self.fusions if fusion.name in names)
        kept = {*names, *(part for fusion in fusions for part in fusion.methods)}
        kept |= {self.start.name} if self.start else set()
        return dataclasses.replace(
            self,
            methods=tuple(method for method in self.methods if method.name in kept),
            fusions=fusions,
            pairs=tuple(pair for pair in self.pairs if set(pair) <= kept),
        )

    def seeds(self, count: int | None) -> "Study":
        """Returns the study with `count` seeds of every method, or unchanged if `count` is None."""
        if count is None:
            return self
        if count < 1:
            raise ValueError(f"--seeds is {count}; it must be at least 1")
        return dataclasses.replace(
            self,
            methods=tuple(method._replace(seeds=count) for method in self.methods),
            fusions=tuple(fusion._replace(seeds=count) for fusion in self.fusions),
        )

    def in_haste(self) -> "Study":
        """Returns the study with the same methods and tables, but a recipe too short to distinguish the methods."""
        measured = {name for measure in self.fast_measures for name in measure.data}
        return dataclasses.replace(
            self,
            recipe=override(self.recipe, self.fast),
            measures=self.fast_measures,
            transfer=tuple(name for name in self.transfer if name in measured),
            steps=(),
        )

    def recipe_of(self, method: Method, seed: int, folder: Path) -> Recipe:
        """Returns the recipe of one run, with images and start under `folder`. Raises DataError if they are missing."""
        recipe = override(self.recipe.with_objective(method.objective), method.changes)
        data = dataclasses.replace(recipe.data, source=self.images.source(folder))
        weights = str(_weights(self.start, folder)) if self.start else recipe.init_from
        return dataclasses.replace(recipe, data=data, init_from=weights, seed=seed)

    def parts(self, fusion: Fusion) -> tuple[Method, ...]:
        """Returns the methods that a fusion joins, in its order."""
        by_name = {method.name: method for method in self.methods}
        return tuple(by_name[name] for name in fusion.methods)

    @property
    def columns(self) -> "tuple[Column, ...]":
        """The start, the methods and the fusions, in the order of tables."""
        return (*((self.start,) if self.start else ()), *self.methods, *self.fusions)

    @property
    def data(self) -> tuple[str, ...]:
        """The data sets that runs are measured on, without repeats."""
        return tuple(dict.fromkeys(name for measure in self.measures for name in measure.data))


def located(name: str, folder: Path) -> str:
    """Returns the spec of a data set under `folder` for `Splits`: NAME.parquet or the folder NAME. Raises DataError."""
    pack, root = folder / f"{name}.parquet", folder / name
    if pack.is_file():
        return str(pack)
    if root.is_dir():
        return f"{name}@{root}" if name in SETS else str(root)
    raise _missing(name, folder)


def _weights(start: Start, folder: Path) -> Path:
    """Returns the folder of a start's weights. Raises DataError if it does not exist."""
    found = folder / start.weights
    if not found.is_dir():
        raise DataError(
            f"the study starts from the weights in {found}, which does not exist; make that folder, or pass the folder "
            "that holds it and the data sets as --data"
        )
    return found


def _missing(name: str, folder: Path) -> DataError:
    return DataError(
        f"the study needs {name}: neither {folder / name}.parquet nor the folder {folder / name} exists; "
        "pass the folder with its data sets as --data"
    )
