"""Features kept on disk: read only where they are whole and were made by the same model of the same images.

Letters: N images, D features.
"""

import contextlib
import hashlib
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from star_zoo.files import replacing

_COMPUTE = ("torch", "torchvision", "timm", "pillow")  # packages that decode, resize and compute


class FeatureCache:
    """A folder of features (N, D) float32 by key.

    A key stands for model, images and preprocessing; the versions of what computes and the kind of device are added.
    """

    def __init__(self, folder: Path):
        self._folder, self._computed_by = folder, _computed_by()

    def read(self, key: str, count: int) -> Tensor | None:
        """The features of `count` images; None where there are none, or a file that isn't as `write` left it."""
        try:
            with safe_open(self._path(key), "pt") as file:
                features, checksum = file.get_tensor("features"), (file.metadata() or {}).get("checksum")
        except (OSError, SafetensorError):
            return None
        fits = features.dtype == torch.float32 and features.ndim == 2 and len(features) == count
        return features if fits and checksum == _checksum(key, features) else None

    def write(self, key: str, features: Tensor) -> None:
        """Keeps features; where the folder can't be written, they aren't kept."""
        with contextlib.suppress(OSError, SafetensorError), replacing(self._path(key)) as part:
            save_file({"features": features}, part, {"checksum": _checksum(key, features)})

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}-{self._computed_by}.safetensors"


def _computed_by() -> str:
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    return hashlib.sha256(repr([str(device), *map(version, _COMPUTE)]).encode()).hexdigest()[:8]


def _checksum(key: str, features: Tensor) -> str:
    sha = hashlib.sha256(f"{key} {tuple(features.shape)}".encode())
    sha.update(features.contiguous().numpy().tobytes())
    return sha.hexdigest()
