"""Exports a model to a file and compares the file's outputs with the model's."""

import contextlib
import importlib
import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from star_catalog.files import replacing
from star_catalog.reading import refusing
from star_catalog.writing import check_file

from ..models.create import create
from ..models.resolve import called
from . import FORMATS

_BATCHES = (1, 3)  # sizes that are compared; the file is made from a batch of two
_TOLERANCE = 1e-4  # largest difference, relative to the largest output
_INPUT = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")


def export(name: str, file_format: str, out: Path) -> str:
    """Writes a model to a file of a format and returns a line about it; the file is written whole or not at all.

    A classifier returns logits (B, K), any other model pooled features (B, D), both in float32 from normalised images
    (B, C, H, W). Raises ValueError if the model can't be exported, or the file's outputs differ from the model's.
    """
    check_file(out)
    chosen: Any = importlib.import_module(f".{FORMATS[file_format]}", __package__)
    model = create(name, num_classes=None).eval().requires_grad_(False)
    if drawing := [type(part).__name__ for part in model.modules() if getattr(part, "draws", False)]:
        raise ValueError(
            f"{name!r} can't be exported: {drawing[0]} draws views of every batch, and a file holds fixed operations; "
            "export the model in it"
        )
    described = metadata(model, name)
    size = described["input_size"]
    generator = torch.Generator().manual_seed(0)
    with replacing(out) as part, _silently():
        with refusing(f"{name!r} can't be exported to {file_format}"):  # an exporter may raise anything for a network
            chosen.write(model, torch.randn(2, *size, generator=generator), part, described)
            difference = max(_difference(model, chosen.read(part), (b, *size), generator) for b in _BATCHES)
        if not difference <= _TOLERANCE:
            raise ValueError(
                f"the outputs of {name!r} in {file_format} differ by {difference:.1e} of the largest one from those of "
                f"the model, more than {_TOLERANCE:g}; try another format"
            )
    shape, megabytes = "x".join(map(str, size)), out.stat().st_size / 1e6
    return (
        f"{out}: images of {shape} in batches of any size to {described['outputs']}, {megabytes:.1f} MB; "
        f"largest difference from the model {difference:.1e}, relative to the largest output, in batches of "
        f"{' and '.join(map(str, _BATCHES))}"
    )


def metadata(model: Any, name: str) -> dict[str, Any]:
    """Returns the facts that a file carries: preprocessing, kind of outputs, names of classes, licence."""
    config = timm.data.resolve_model_data_config(model)
    found: dict[str, Any] = {"model": called(name), "outputs": "logits" if model.num_classes else "features"}
    found |= {key: config[key] for key in _INPUT}
    names, licence = (model.pretrained_cfg.get(key) for key in ("label_names", "license"))
    if names and len(names) == model.num_classes:
        found["class_names"] = list(names)
    plain: dict[str, Any] = json.loads(json.dumps(found | ({"license": licence} if licence else {})))
    return plain


@contextlib.contextmanager
def _silently() -> Iterator[None]:
    """Leaves out the messages and graphs that torch's exporters print; the reason of a failure is in their errors."""
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)


def _difference(model: nn.Module, exported: Any, size: tuple[int, ...], generator: torch.Generator) -> float:
    """Returns the largest difference of the outputs for random images, relative to the largest output."""
    images = torch.randn(size, generator=generator)
    with torch.inference_mode():
        expected, found = model(images), exported(images)
    if found.shape != expected.shape:
        raise ValueError(f"the file returns {tuple(found.shape)} in place of {tuple(expected.shape)}")
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12))
