"""One self-contained page about one or several models, drawn from their logs and evaluation records."""

from pathlib import Path

from star_catalog.files import replacing, write_text
from star_catalog.printing import as_typed
from star_catalog.reading import refusing
from star_catalog.writing import NotWritten, check_file

from ..data.eval_sets.dataset import Splits
from ..messages import say
from ..publishing import card
from . import figures, html, neighbours, omissions, reconstructions, tables
from .drawing import Figure
from .loading import Shown, gather


def report(names: list[str], out: Path, data: list[str]) -> list[str]:
    """Writes `out`, an HTML page without scripts or external links, and returns the titles of its tables and figures.

    `names` are runs, saved folders and results.json files; `data` are the data sets whose images are shown, as nearest
    neighbours and as reconstructions. The figures of a single run are also saved as PNG files beside its model and
    added to its card, if they can be written. Raises ValueError if there is nothing to show, or nothing of one of the
    data sets.
    """
    check_file(out)
    models = gather(names)
    with refusing(f"{', '.join(names)}: the log or the details of an evaluation can't be drawn"):
        found = figures.draw(models)
    for spec in data:
        found += _sheets(models, spec)
    measured = tables.accuracies(models) + tables.comparisons(models)
    if not (found or measured):
        raise ValueError(f"{', '.join(names)}: no log and no evaluation to show; run `star-zoo eval all` first")
    brackets = "Brackets are the 95 % interval over the test images or tasks of one pretraining run."
    note = " ".join([brackets, *(f"{model.label}: {sentence}" for model in models for sentence in model.seen)])
    shown = [tables.summary(models), *measured]
    title = ", ".join(model.label for model in models)
    write_text(out, html.render(title, note, shown, found, omissions.of(models, data)))
    if len(models) == 1 and (folder := models[0].folder):
        try:
            _add_to(folder, found)
        except NotWritten as error:
            say(f"the figures aren't added to the model's card: {error}")
    return [table.title for table in shown] + [figure.title for figure in found]


def _add_to(folder: Path, found: list[Figure]) -> None:
    """Saves figures beside a model, and writes its card with them."""
    for figure in found:
        with replacing(folder / f"{figure.name}.png") as part:
            part.write_bytes(figure.png)
    card.write(folder)


def _sheets(models: list[Shown], spec: str) -> list[Figure]:
    """Returns the figures that show images of a data set. Raises ValueError if no model has any."""
    found = [figure for sheet in (neighbours.draw, reconstructions.draw) for figure in sheet(models, Splits(spec))]
    if not found:
        known = ", ".join(dict.fromkeys(name for model in models for name in neighbours.measured(model))) or "none"
        finding = as_typed("star-zoo", "eval", "routing", "MODEL", "--data", spec)
        raise ValueError(
            f"--data {spec}: no model has nearest neighbours among its images, or reconstructs images; data sets with "
            f"nearest neighbours: {known}; `{finding}` finds them"
        )
    return found
