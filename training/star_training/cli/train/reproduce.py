"""run a study: several methods and seeds, measured alike, in one table"""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from star_catalog.files import user_path
from star_catalog.printing import printable

from ... import studies
from ...engine.signals import end_with_parent
from ...messages import QUIET, VERBOSE
from ...settings import registry
from . import arguments as shared

if TYPE_CHECKING:
    from ...studies.study import Study


def declare(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.epilog = f"studies:\n{registry.listed(studies.known())}"
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("study", help="name of a study, or the dotted path of a module of yours that defines one")
    add("--data", type=user_path, help="the folder with its data sets (default: $STAR_ZOO_DATA)")
    add("--out", type=user_path, help="the study's folder (default: runs/STUDY)")
    add("--methods", nargs="+", metavar="METHOD", help="run and show these methods only (default: all of the study)")
    add("--seeds", type=int, help="number of seeds of every method (default: set by the study)")
    add("--fast", action="store_true", help="run the study's short form, e.g. 300 steps a model, to see that all works")
    add("--jobs", type=int, help="runs at a time (default: the number of processors, or 1 with an accelerator)")
    add("--processes", type=int, default=1, help="processes of each run, e.g. one per GPU (default: %(default)s)")
    add("--only", metavar="METHOD-SEED", help="execute this run alone, in this process, without the table")
    add("--show", action="store_true", help="only print the recipe's settings, the methods and measurements")
    add("--with-parent", action="store_true", help=argparse.SUPPRESS)  # end with the process that started this one
    add("--tables", action="store_true", help="execute no run; make tables and page from existing results")


def run(arguments: argparse.Namespace) -> None:
    """Executes the command."""
    if arguments.with_parent:
        end_with_parent()
    shared.find_own_modules()
    study = studies.find(arguments.study)  # first, because the other imports take seconds
    study = study.only(arguments.methods).seeds(arguments.seeds)
    study = study.in_haste() if arguments.fast else study
    if arguments.show:
        _show(study)
        return

    from ...data.eval_sets.local import home
    from ...reports.tables import markdown
    from ...studies import run

    folder = arguments.data or home()
    out = arguments.out or Path("runs") / (study.name + ("-fast" if arguments.fast else ""))
    if arguments.only:
        run.run_one(study, arguments.only, out, folder)
        return
    if not arguments.tables:
        options = ["--fast"] if arguments.fast else []
        options += ["--seeds", str(arguments.seeds)] if arguments.seeds else []
        options += {QUIET: ["-q"], VERBOSE: ["-v"]}.get(arguments.verbosity, [])
        jobs = at_once(arguments.jobs)
        if arguments.processes < 1:
            raise ValueError(f"--processes is {arguments.processes}; it must be at least 1")
        run.run_all(study, arguments.study, out, folder, options, jobs, arguments.processes)
    for table in run.report(study, out):
        print(f"\n{table.title}\n\n{markdown(table)}", end="")
    print(f"\n{printable(str(out / 'table.md'))}\n{printable(str(out / 'report.html'))}")


def go_on(arguments: argparse.Namespace, words: list[str], folder: Path | None) -> list[str]:
    """Returns the words of the command that continues a stopped one: the same."""
    return words


def _show(study: "Study") -> None:
    """Prints the settings that all methods share, each method with its changes, and the measurements."""
    shared.show(study.recipe, {})
    if study.start:
        print(f"\nstart of every run, measured as {study.start.name}: {study.start.weights} in the folder of data sets")
    print("\nmethods, with their changes and numbers of seeds:")
    for method in study.methods:
        changes = ", ".join([method.objective, *method.changes])
        print(f"  {method.name}: {changes}; {method.seeds}")
    for fusion in study.fusions:
        print(f"  {fusion.name}: {fusion.wrapper} of {', '.join(fusion.methods)}; {fusion.seeds}")
    print("\nmeasurements:")
    for protocol, data in study.measures:
        print(f"  {protocol} on {', '.join(data)}")


def at_once(jobs: int | None) -> int:
    """Returns the number of runs at a time. Raises ValueError if it is below one."""
    import torch

    if jobs is None:
        return 1 if torch.accelerator.is_available() else os.cpu_count() or 1
    if jobs < 1:
        raise ValueError(f"--jobs is {jobs}; it must be at least 1")
    return jobs
