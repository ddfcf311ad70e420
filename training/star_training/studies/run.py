"""Runs a study: trains every method and seed, measures all runs alike, and writes one table and one page.

A run's folder is `OUT/METHOD-SEED`, its outcome is `OUT/results/METHOD-SEED.json`. Runs with an outcome are skipped.
The start is measured first. Fusions are measured after all methods, because they are made of their models.
"""

import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from star_catalog.files import replacing, write_text
from star_catalog.names import not_found
from star_catalog.writing import check_writable

from ..pretraining.module import build
from ..pretraining.recipe import Recipe
from ..reports import figures, html
from ..reports.loading import Shown, gather
from ..reports.tables import Table, compare, markdown
from ..settings.base import differences
from . import aggregate, curves, dots, jobs, outcome
from .one_run import begin, fuse, name_of, run, started
from .study import Column, Fusion, Method, Start, Study, located


def runs(study: Study) -> Iterator[tuple[Column, int]]:
    """Yields methods and seeds in the order of execution: all methods with seed 0, then with seed 1, and so on.

    The start comes before them, fusions follow in the same order.
    """
    if study.start:
        yield study.start, 0
    for columns in (study.methods, study.fusions):
        for seed in range(max((column.seeds for column in columns), default=0)):
            yield from ((column, seed) for column in columns if seed < column.seeds)


def run_one(study: Study, name: str, out: Path, folder: Path) -> None:
    """Runs METHOD-SEED alone, in this process. Raises ValueError if the study has no such run."""
    known = {name_of(method, seed): (method, seed) for method, seed in runs(study)}
    if name not in known:
        raise ValueError(not_found(f"run of {study.name}", name, known))
    column, seed = known[name]
    if isinstance(column, Fusion):
        fuse(study, column, seed, out, folder)
    elif isinstance(column, Start):
        begin(study, column, out, folder)
    else:
        run(study, column, seed, out, folder)


def check(study: Study, folder: Path) -> None:
    """Raises DataError or ValueError if images or settings are wrong, before any training."""
    for method in study.methods:
        build(study.recipe_of(method, 0, folder))
    for name in study.data:
        located(name, folder)


def run_all(
    study: Study, called: str, out: Path, folder: Path, options: Sequence[str], at_once: int, processes: int
) -> None:
    """Executes every run without an outcome: `at_once` runs at a time, each in `processes` processes.

    `called` is the name of the study on the command line, which `options` follow in these processes.
    """
    check_writable(out)
    check(study, folder)
    launch = [sys.executable, "-m"]
    if processes > 1:
        launch += ["torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", "-m"]
    common = [*launch, "star_training", "reproduce", called, "--out", str(out), "--data", str(folder), *options]
    todo = [(column, seed) for column, seed in runs(study) if not _done(study, column, seed, out, folder)]
    for kinds in (Start | Method, Fusion):  # fusions after all others, also where several runs execute at a time
        names = [name_of(column, seed) for column, seed in todo if isinstance(column, kinds)]
        if names:
            jobs.run(
                [jobs.Job(name, [*common, "--only", name, "--with-parent"], out / f"{name}.log") for name in names],
                at_once,
            )


def _done(study: Study, column: Column, seed: int, out: Path, folder: Path) -> bool:
    """Whether there is an outcome. Raises ValueError if it has other recipes, because a study must not mix recipes.

    The outcome of a start must be of the same weights and views.
    """
    path = out / "results" / f"{name_of(column, seed)}.json"
    if not path.is_file():
        return False
    if isinstance(column, Start):
        if outcome.load(path).content.get("model_fingerprint") != started(study, column, folder).fingerprint:
            raise ValueError(f"{path} is of another start than {folder / column.weights}; choose another --out")
        return True
    methods = study.parts(column) if isinstance(column, Fusion) else (column,)
    recipes = [Recipe.from_dict(study.recipe_of(method, seed, folder).published()) for method in methods]
    theirs = map(Recipe.from_dict, outcome.load(path).recipes)
    if found := list(chain.from_iterable(map(differences, theirs, recipes))):
        raise ValueError(f"{path} has other settings (theirs, yours): {'; '.join(found)}; choose another --out")
    return True


def report(study: Study, out: Path) -> list[Table]:
    """Writes `table.md`, and `report.html` with figures, from the existing outcomes, and returns the tables.

    Raises ValueError if there is no outcome.
    """
    outcomes = [outcome.load(path) for path in sorted((out / "results").glob("*.json"))]
    if not outcomes:
        raise ValueError(f"{out / 'results'} holds no outcome of a run")
    shown = aggregate.shown(study, outcomes)
    tables = [
        aggregate.headline(study, outcomes),
        compare(aggregate.averaged(study, outcomes), shown)._replace(title="methods: means over seeds"),
        compare(aggregate.differences(study, outcomes), shown)._replace(title="differences by seed"),
        *([aggregate.verdicts(study, outcomes)] if study.claims else []),
        *(make(study, outcomes) for make in study.tables),
    ]
    note = "± and brackets are Student's 95 % interval over the seeds of a method; a method with one seed has none."
    text = "\n".join(f"## {table.title}\n\n{markdown(table)}" for table in tables)
    write_text(out / "table.md", f"# {study.name}\n\n{note}\n\n{text}")
    drawn = [figure for kind in (dots, curves) if (figure := kind.draw(study, outcomes))]
    drawn += figures.draw(_first_seeds(study, out))
    write_text(out / "report.html", html.render(study.name, note, tables, drawn))
    for kind in (dots, curves):  # wider, for the study's page
        if wide := kind.draw(study, outcomes, columns=2):
            with replacing(out / f"{wide.name}.png") as part:
                part.write_bytes(wide.png)
    return tables


def _first_seeds(study: Study, out: Path) -> list[Shown]:
    """Returns each method's run with seed 0 whose folder still exists."""
    folders = [out / name_of(method, 0) for method in study.methods]
    return gather([str(folder) for folder in folders if (folder / "export" / "config.json").is_file()])
