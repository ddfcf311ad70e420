"""One self-contained page about one or several models: what was learned, drawn from their logs and records."""

from pathlib import Path

from star_zoo.files import replacing, write_text

from ..data.eval_sets.dataset import Splits
from ..publishing import card
from . import figures, neighbours, tables
from . import html as page
from .loading import gather


def report(names: list[str], out: Path, data: list[str]) -> list[str]:
    """Writes `out`, an HTML page without scripts or links to elsewhere; gives the titles of what it shows.

    `names` are runs, saved folders and results.json files; `data` are the data sets whose images are shown, as nearest
    neighbours. The figures of a single run go beside its model too, as PNG files, and into its card. Raises ValueError
    where there is nothing to show.
    """
    models = gather(names)
    found = [figure for draw in figures.ALL if (figure := draw(models))]
    found += [figure for spec in data for figure in neighbours.draw(models, Splits(spec))]
    transfer = tables.transfer(models)
    if not (found or transfer):
        raise ValueError(f"{', '.join(names)}: no log and no evaluation to show; run `star-zoo eval all` first")
    note = "In brackets the 95 % interval over the test images or tasks of one pretraining run."
    write_text(out, page.render(", ".join(model.label for model in models), note, transfer, found))
    if len(models) == 1 and (folder := models[0].folder):
        for figure in found:
            with replacing(folder / f"{figure.name}.png") as part:
                part.write_bytes(figure.png)
        card.write(folder)
    return [table.title for table in transfer] + [figure.title for figure in found]
