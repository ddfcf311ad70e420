"""`embed`: features and embeddings of all images of a data set, in a file."""

import os
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from star_catalog.files import user_path
from star_catalog.printing import printable

from ..messages import noted
from ..settings.common import EVALUATION_WORKERS
from .arguments import Model, Place

if TYPE_CHECKING:
    import numpy

    from ..data import Source
    from ..evaluation.embedding_file import Rows
    from ..evaluation.frozen_model import FrozenModel

_AT_ONCE = 256  # images


@dataclass(frozen=True)
class Embeddings:
    """A file of embeddings."""

    path: Path
    images: int
    failed: list[str]  # the images that don't decode, which are not in the file

    @property
    def _is_array(self) -> bool:
        return self.path.suffix.lower() == ".npy"

    def array(self, name: str = "features") -> "numpy.ndarray[Any, Any]":
        """Returns the features, or an embedding by name, e.g. "z_inv": (N, D) float32.

        Raises ValueError for an embedding that the file does not have.
        """
        if self._is_array and name == "features":
            import numpy

            return numpy.load(self.path)
        column = self._read(name)
        return column.flatten().to_numpy().reshape(len(column), -1).copy()  # Arrow's memory can't be written to

    def column(self, name: str) -> list[Any]:
        """Returns a column of a Parquet file: "file", "split", "label" or "class"; None where there is no value.

        Raises ValueError for a column that the file does not have.
        """
        return self._read(name).to_pylist()

    def _read(self, name: str) -> Any:
        from pyarrow.parquet import read_schema, read_table

        from star_catalog.names import not_found

        if self._is_array:
            raise ValueError(
                f"{self.path} holds the features alone, so there is no {name!r}; files and labels are in "
                f"{self.path.with_suffix('.csv')}, and embeddings in a .parquet file: embed with out='NAME.parquet'"
            )
        known = read_schema(self.path).names
        if name not in known:
            raise ValueError(not_found(f"column of {self.path}", name, known))
        return read_table(self.path, columns=[name])[name].combine_chunks()

    def __str__(self) -> str:
        beside = f"; their files and labels in {self.path.with_suffix('.csv')}" if self._is_array else ""
        lines = [f"{self.path}: {self.images:,} image{'s' if self.images != 1 else ''}{beside}"]
        if self.failed:
            lines += [f"left out, because they don't decode ({len(self.failed):,}):", *self.failed]
        return "\n".join(map(printable, lines))


@noted()
def embed(
    model: Model,
    *,
    data: Place,
    out: Place,
    seed: int = 0,
    workers: int = EVALUATION_WORKERS,
) -> Embeddings:
    """Writes a model's features of every image, and the embeddings of its saved heads, to a file; returns the file.

    Args:
        model: a `Trained`, or any name of a model, also with wrappers, e.g. "averaged(views=8):runs/a".
        data: images, labelled or not, as in `--data`; all their splits are read.
        out: a .parquet file with the columns file, split, label, class, features, and those of the heads, e.g. z_inv
            and z_eq; or a .npy file with the features alone, (N, D) float32, and the first columns in a .csv beside it.
        seed: seed of random weights.
        workers: processes that load images.

    Images are read once, and few are in memory at a time. Images that don't decode are left out, and listed. The file
    is written whole or not at all. Raises ValueError or OSError for a model, data or a file that can't be used.
    """
    from ..data.eval_sets.every_split import every_split
    from ..data.summary import summary
    from ..engine.logging import messages, progress_bar
    from ..evaluation.embedding_file import check_place, embedding_file
    from ..evaluation.frozen_model import load
    from ..messages import busy, quiet

    path = user_path(out)
    check_place(path, os.fspath(data))
    frozen = load(os.fspath(model), seed, workers=workers)
    sources = every_split(os.fspath(data), frozen.channels)
    if not quiet():
        print(summary(*sources.values()), file=messages(), flush=True)
    about = {"model": frozen.name, "model_fingerprint": frozen.fingerprint, "data": next(iter(sources.values())).name}
    numbers = any(s.targets is not None and s.targets.is_floating_point() for s in sources.values())
    images, total, failed = 0, sum(map(len, sources.values())), list[str]()
    with (
        embedding_file(path, about, numbers) as write,
        progress_bar(total=total, desc="images", unit="image") as bar,
        busy(lambda: f"{images + len(failed):,} of {total:,} images"),
    ):
        for split, source in sources.items():
            for rows, bad in _batches(frozen, split, source):
                if rows.files:
                    write(rows)
                images += len(rows.files)
                failed += bad
                bar.update(len(rows.files) + len(bad))
    return Embeddings(path, images, failed)


def _batches(model: "FrozenModel", split: str, source: "Source") -> "Generator[tuple[Rows, list[str]], None, None]":
    """Yields the rows of consecutive images, and the names of those among them that don't decode."""
    import torch

    from ..evaluation.embedding_file import Rows
    from ..evaluation.embeddings import embed as embed_heads
    from ..evaluation.features import check_finite, evaluating, feature_batches

    start = 0
    with evaluating(model.backbone):
        for features in feature_batches(model.backbone, source, model.preprocess, _AT_ONCE, model.workers):
            indices = torch.arange(start, start + len(features))
            start += len(features)
            replaced = torch.isin(indices, torch.tensor(source.bad, dtype=torch.int64))
            kept, good = indices[~replaced], features[~replaced]
            check_finite(good, source.name)
            targets = None if source.targets is None else source.targets[kept]
            heads = embed_heads(_fitting(model, good), good) if len(good) else {}
            names = [source.describe(index) for index in kept.tolist()]
            yield (
                Rows(names, split, targets, source.classes, {"features": good, **heads}),
                [source.describe(index) for index in indices[replaced].tolist()],
            )


def _fitting(model: "FrozenModel", features: Any) -> Any:
    """Returns the objective with the model's heads; None if a wrapper changes the features that they take."""
    objective = model.objective
    return objective if objective and objective.config["num_features"] == features.shape[1] else None
