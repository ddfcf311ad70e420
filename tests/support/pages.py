"""The pages of the project, as tests read them."""

import shutil
from pathlib import Path

from star_training.reports import tables
from star_training.studies import run as reproduction
from star_training.studies.study import Study

README = Path(__file__).parents[2] / "README.md"
CARDS = README.parent / "hub_cards"


def words(page: Path) -> str:
    """A page's text with single spaces, because a phrase may run over the end of a line."""
    return " ".join(page.read_text(encoding="utf-8").split())


def remade(study: Study, out: Path) -> list[tables.Table]:
    """The tables of a study, made from copies of its result files; its page and its table.md hold the same."""
    kept = CARDS / study.name
    shutil.copytree(kept / "results", out / "results")
    short, *others = reproduction.report(study, out)
    assert tables.markdown(short) in (kept / "README.md").read_text(encoding="utf-8")
    assert (out / "table.md").read_text(encoding="utf-8") == (kept / "table.md").read_text(encoding="utf-8")
    return [short, *others]
