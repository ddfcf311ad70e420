"""Runs a study: trains every method and seed, measures all runs alike, and writes one table and one page.

A run's folder is `OUT/METHOD-SEED`, its outcome is `OUT/results/METHOD-SEED.json`. Runs with an outcome are skipped.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from star_zoo.files import write_text

from ..pretraining.module import build
from ..pretraining.recipe import Recipe
from ..reports import figures, html
from ..reports.loading import Shown, gather
from ..reports.tables import Table, compare, markdown
from ..settings.base import differences
from . import aggregate, curves, jobs, outcome
from .one_run import name_of, run
from .study import Method, Study, located


def runs(study: Study) -> Iterator[tuple[Method, int]]:
    """Yields methods and seeds in the order of execution: all methods with seed 0, then with seed 1, and so on."""
    for seed in range(max(method.seeds for method in study.methods)):
        yield from ((method, seed) for method in study.methods if seed < method.seeds)


def run_one(study: Study, name: str, out: Path, folder: Path) -> None:
    """Runs METHOD-SEED alone, in this process. Raises ValueError if the study has no such run."""
    known = {name_of(method, seed): (method, seed) for method, seed in runs(study)}
    if name not in known:
        raise ValueError(f"{study.name} has no run {name!r}; its runs are {', '.join(known)}")
    run(study, *known[name], out, folder)


def check(study: Study, folder: Path) -> None:
    """Raises DataError or ValueError if images or settings are wrong, before any training."""
    for method in study.methods:
        build(study.recipe_of(method, 0, folder))
    for name in study.data:
        located(name, folder)


def run_all(study: Study, out: Path, folder: Path, options: Sequence[str], at_once: int, processes: int) -> None:
    """Executes every run without an outcome: `at_once` runs at a time, each in `processes` processes.

    `options` are the command-line options that are passed on to these processes.
    """
    check(study, folder)
    known = {name_of(method, seed): study.recipe_of(method, seed, folder) for method, seed in runs(study)}
    todo = [name for name, recipe in known.items() if not _done(out / "results" / f"{name}.json", recipe)]
    launch = [sys.executable, "-m"]
    if processes > 1:
        launch += ["torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", "-m"]
    common = [*launch, "star_training", "reproduce", study.name, "--out", str(out), "--data", str(folder), *options]
    jobs.run([jobs.Job(name, [*common, "--only", name], out / f"{name}.log") for name in todo], at_once)


def _done(path: Path, recipe: Recipe) -> bool:
    """Whether there is an outcome. Raises ValueError if it has another recipe, because a study must not mix recipes."""
    if not path.is_file():
        return False
    if found := differences(Recipe.from_dict(outcome.load(path).content["recipe"]), recipe):
        raise ValueError(f"{path} has other settings (theirs, yours): {'; '.join(found)}; choose another --out")
    return True


def report(study: Study, out: Path) -> list[Table]:
    """Writes `table.md`, and `report.html` with figures, from the existing outcomes, and returns the tables.

    Raises ValueError if there is no outcome.
    """
    outcomes = [outcome.load(path) for path in sorted((out / "results").glob("*.json"))]
    if not outcomes:
        raise ValueError(f"{out / 'results'} holds no outcome of a run")
    shown = list(study.shown)
    tables = [
        aggregate.headline(study, outcomes),
        compare(aggregate.averaged(study, outcomes), shown)._replace(title="methods: means over seeds"),
        compare(aggregate.differences(study, outcomes), shown)._replace(title="differences by seed"),
        *([aggregate.verdicts(study, outcomes)] if study.claims else []),
    ]
    note = "± and brackets are Student's 95 % interval over the seeds of a method; a method with one seed has none."
    text = "\n".join(f"## {table.title}\n\n{markdown(table)}" for table in tables)
    write_text(out / "table.md", f"# {study.name}\n\n{note}\n\n{text}")
    drawn = [curve] if (curve := curves.draw(study, outcomes)) else []
    models = _first_seeds(study, out)
    drawn += figures.draw(models)
    write_text(out / "report.html", html.render(study.name, note, tables, drawn))
    for figure in drawn[:1]:
        (out / f"{figure.name}.png").write_bytes(figure.png)
    return tables


def _first_seeds(study: Study, out: Path) -> list[Shown]:
    """Returns each method's run with seed 0 whose folder still exists."""
    folders = [out / name_of(method, 0) for method in study.methods]
    return gather([str(folder) for folder in folders if (folder / "export" / "config.json").is_file()])
