"""`Trained`, a finished training, and how to continue one that was stopped."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from star_catalog.decimals import significant
from star_catalog.printing import printable

from ..engine.signals import Stopped


@dataclass(frozen=True)
class Trained:
    """A finished training. It stands for its model wherever a model's name is expected, e.g. in `evaluate`."""

    folder: Path  # recipe.json or finetune.json, log.jsonl, checkpoints/, export/
    metrics: dict[str, float]  # measured last on held-out images, by name; {} without labels, and in further processes

    @property
    def export(self) -> Path:
        """The saved folder of the model, for `timm.create_model(f"local-dir:{run.export}", pretrained=True)`."""
        return self.folder / "export"

    @property
    def log(self) -> list[dict[str, Any]]:
        """The entries of log.jsonl, e.g. to plot the loss over the steps."""
        from ..engine.logging import read

        return read(self.folder / "log.jsonl")

    def __fspath__(self) -> str:
        return str(self.folder)

    def __str__(self) -> str:
        return printable(f"exported to {self.export}: {self._load}")

    @property
    def _load(self) -> str:
        return f"timm.create_model({json.dumps(f'local-dir:{self.export}', ensure_ascii=False)}, pretrained=True)"

    def _repr_markdown_(self) -> str:
        """Returns the display in a notebook."""
        metrics = "".join(f"- {name}: {significant(value)}\n" for name, value in self.metrics.items())
        return f"**{self.folder}**\n\n{metrics}\n```python\n{self._load}\n```"


@contextlib.contextmanager
def continuing(how: str, settings: Path | None = None) -> Iterator[None]:
    """Adds to the message of `Stopped` how to continue in Python; `{folder}` in it is the stopped run's folder.

    `settings` is the file that a training writes when it begins: from then on, it can be continued after any interrupt.
    A card that the run's best weights lack is written, too.
    """
    try:
        try:
            yield
        except KeyboardInterrupt as interrupt:
            if settings is None or not settings.exists():
                raise
            raise Stopped.by(interrupt, folder=settings.parent) from None
    except Stopped as stopped:
        if stopped.folder:
            from ..publishing import card

            with contextlib.suppress(OSError, ValueError):  # then the end of the run writes it
                card.write_of_stopped(stopped.folder)
        stopped.how_in_python = how.format(folder=str(stopped.folder))
        raise
