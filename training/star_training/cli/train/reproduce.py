"""run a study: methods by seeds, measured alike, in one table"""

import argparse
import os
from pathlib import Path

from ... import studies
from ...settings import registry

GO_ON = "give the same command again to go on"


def declare(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.epilog = f"studies:\n{registry.listed(studies.known())}"
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("study", help="a study's name")
    add("--data", type=Path, help="the folder with its data sets (STAR_ZOO_DATA)")
    add("--out", type=Path, help="the study's folder (runs/STUDY)")
    add("--seeds", type=int, help="so many seeds of every method (as the study says)")
    add("--fast", action="store_true", help="a few minutes of each run: the same table, without its meaning")
    add("--jobs", type=int, help="runs at once (the number of processors, or 1 with an accelerator)")
    add("--processes", type=int, default=1, help="processes of one run, such as one a GPU (%(default)s)")
    add("--only", metavar="METHOD-SEED", help="one run alone, in this process and without the table")
    add("--tables", action="store_true", help="run nothing: tables and page from the results that are there")


def run(arguments: argparse.Namespace) -> None:
    """Does what the command says."""
    from ...data.eval_sets.local import home
    from ...reports.tables import markdown
    from ...studies import run as reproduction

    study = studies.find(arguments.study).seeds(arguments.seeds)
    study = study.in_haste() if arguments.fast else study
    folder = arguments.data or home()
    out = arguments.out or Path("runs") / (study.name + ("-fast" if arguments.fast else ""))
    if arguments.only:
        reproduction.run_one(study, arguments.only, out, folder)
        return
    if not arguments.tables:
        options = ["--fast"] if arguments.fast else []
        options += ["--seeds", str(arguments.seeds)] if arguments.seeds else []
        jobs = at_once(arguments.jobs)
        if arguments.processes < 1:
            raise ValueError(f"--processes is {arguments.processes}; it must be at least 1")
        reproduction.run_all(study, out, folder, options, jobs, arguments.processes)
    for table in reproduction.tell(study, out):
        print(f"\n{table.title}\n\n{markdown(table)}", end="")
    print(f"\n{out / 'table.md'}\n{out / 'report.html'}")


def at_once(jobs: int | None) -> int:
    """How many runs at once. Raises ValueError for less than one."""
    import torch

    if jobs is None:
        return 1 if torch.accelerator.is_available() else os.cpu_count() or 1
    if jobs < 1:
        raise ValueError(f"--jobs is {jobs}; it must be at least 1")
    return jobs
