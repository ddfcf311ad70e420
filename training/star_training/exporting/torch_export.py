"""torch.export's format: `torch.export.load(FILE).module()`; the metadata are its extra file metadata.json."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


def write(model: nn.Module, images: Tensor, path: Path, metadata: dict[str, Any]) -> None:
    """Writes a file."""
    program = torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    with path.open("wb") as file:  # a path would have to end in .pt2
        torch.export.save(program, file, extra_files={"metadata.json": json.dumps(metadata)})


def read(path: Path) -> Callable[[Tensor], Tensor]:
    """Returns the model in a file."""
    with path.open("rb") as file:
        return torch.export.load(file).module()
