"""TorchScript, which torch deprecates: `torch.jit.load(FILE)`; the metadata are its extra file metadata.json."""

import contextlib
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


def write(model: nn.Module, images: Tensor, path: Path, metadata: dict[str, Any]) -> None:
    """Writes a file, by tracing."""
    with _deprecated(), torch.no_grad():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # of constants: the outputs are compared
        traced = torch.jit.trace(model, images, check_trace=False)
        torch.jit.save(traced, path, _extra_files={"metadata.json": json.dumps(metadata)})


def read(path: Path) -> Callable[[Tensor], Tensor]:
    """Returns the model in a file."""
    with _deprecated():
        return torch.jit.load(path)


@contextlib.contextmanager
def _deprecated() -> Iterator[None]:
    """Leaves out torch's warnings of the deprecation, which the command's help states."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.", FutureWarning)
        warnings.filterwarnings("ignore", r"`torch\.jit\.", DeprecationWarning)
        yield
