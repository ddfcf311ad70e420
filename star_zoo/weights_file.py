"""Reads safetensors files; an error names the file."""

from contextlib import AbstractContextManager
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from star_catalog.reading import refusing


def read_shapes(path: Path) -> dict[str, list[int]]:
    """Returns the shapes of the tensors by name, from the header alone. Raises ValueError for a damaged file."""
    with _intact(path), safe_open(path, framework="pt") as file:
        return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Returns the tensors by name, on the CPU. Raises ValueError for a damaged file."""
    with _intact(path):
        return load_file(path)


def _intact(path: Path) -> AbstractContextManager[None]:
    return refusing(f"{path} is not an intact safetensors file")
