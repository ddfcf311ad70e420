"""Reads and writes safetensors files; an error names the file."""

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from star_catalog.files import replacing
from star_catalog.reading import refusing


def read_shapes(path: Path) -> dict[str, list[int]]:
    """Returns the shapes of the tensors by name, from the header alone. Raises ValueError for a damaged file."""
    with _intact(path), safe_open(path, framework="pt") as file:
        return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Returns the tensors by name, on the CPU. Raises ValueError for a damaged file."""
    with _intact(path):
        return load_file(path)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Writes tensors atomically; one that has several names is written under each, because timm loads every name.

    Raises NotWritten.
    """
    # copies, not timm's save_for_hf: safetensors rejects shared and channels_last tensors, and a run must keep its own
    copies = {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
    with replacing(path) as part, system_errors():
        save_file(copies, part, metadata or {"format": "pt"})


@contextlib.contextmanager
def system_errors() -> Iterator[None]:
    """Turns safetensors' errors of the file system, e.g. "I/O error: File too large (os error 27)", into OSError."""
    try:
        yield
    except SafetensorError as error:
        if (found := re.search(r"\(os error (\d+)\)", str(error))) is None:
            raise
        number = int(found[1])
        raise OSError(number, os.strerror(number)) from error


def check_finite(path: Path) -> None:
    """Raises ValueError, naming a tensor, if a file holds numbers that are not finite."""
    with _intact(path), safe_open(path, framework="pt") as file:
        wrong = [name for name in file.keys() if not file.get_tensor(name).isfinite().all()]  # noqa: SIM118
    if wrong:
        more = f" and {len(wrong) - 1} more tensors" if len(wrong) > 1 else ""
        raise ValueError(
            f"{path} holds NaN or infinite numbers, in {wrong[0]}{more}; such a model is unusable: train it again "
            "from an earlier checkpoint, e.g. at a lower learning rate"
        )


def _intact(path: Path) -> AbstractContextManager[None]:
    return refusing(f"{path} is not an intact safetensors file")
