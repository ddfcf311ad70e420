"""Features cached on disk; only intact files of the same model and the same images are read.

Letters: N images, D features.
"""

import hashlib
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from star_catalog import store

_PREPARED = 3  # increased when images are decoded or resized in another way
_COMPUTE = ("torch", "torchvision", "timm", "pillow")  # packages that decode, resize and compute


class FeatureCache:
    """A folder of features (N, D) float32, one file per key.

    A key identifies model, images and preprocessing; file names also hash package versions and the device type.
    """

    def __init__(self, folder: Path):
        self._folder, self._computed_by = folder, _computed_by()

    def read(self, key: str, count: int) -> Tensor | None:
        """Returns the features of `count` images; None if there is no file, or if it isn't as `write` left it."""
        try:
            with safe_open(self._path(key), "pt") as file:
                features, checksum = file.get_tensor("features"), (file.metadata() or {}).get("checksum")
        except (OSError, SafetensorError):
            return None
        fits = features.dtype == torch.float32 and features.ndim == 2 and len(features) == count
        return features if fits and checksum == _checksum(key, features) else None

    def write(self, key: str, features: Tensor) -> None:
        """Writes features; does nothing but a note if the folder can't be written."""
        from star_zoo.weights_file import write_tensors  # imports timm, which reading doesn't need

        with store.keeping():
            write_tensors(self._path(key), {"features": features}, {"checksum": _checksum(key, features)})

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}-{self._computed_by}.safetensors"


def _computed_by() -> str:
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    return hashlib.sha256(repr([_PREPARED, str(device), *map(version, _COMPUTE)]).encode()).hexdigest()[:8]


def _checksum(key: str, features: Tensor) -> str:
    sha = hashlib.sha256(f"{key} {tuple(features.shape)}".encode())
    sha.update(features.contiguous().numpy().tobytes())
    return sha.hexdigest()
