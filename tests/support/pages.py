"""The pages of the project, as tests read them."""

from pathlib import Path

README = Path(__file__).parents[2] / "README.md"
CARDS = README.parent / "hub_cards"


def words(page: Path) -> str:
    """A page's text with single spaces, because a phrase may run over the end of a line."""
    return " ".join(page.read_text(encoding="utf-8").split())
