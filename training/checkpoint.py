"""Checkpoints: one safetensors file each, atomic, checked when read, the last few kept; nothing is ever unpickled.

A file holds named tensors and, in its header, JSON with the rest of the state and a checksum of the tensors.
"""

import json
import re
import warnings
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from star_zoo.files import replacing


class Checkpoint(NamedTuple):
    """The state of a run after `step` optimiser steps."""

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]  # what JSON holds


class CheckpointWarning(UserWarning):
    """A damaged checkpoint was passed over."""


class Checkpoints:
    """The checkpoints of one run, newest last."""

    def __init__(self, folder: Path, keep: int):
        self.folder, self.keep = folder, keep

    def paths(self) -> list[Path]:
        """The checkpoint files, oldest first."""
        return sorted(p for p in self.folder.glob("step-*.safetensors") if re.fullmatch(r"step-\d+", p.stem))

    def save(self, checkpoint: Checkpoint) -> Path:
        """Writes one and deletes those beyond `keep`; raises OSError naming the last good one where it can't."""
        tensors = {k: v.detach().cpu().contiguous() for k, v in checkpoint.tensors.items()}
        header = {"step": checkpoint.step, "state": checkpoint.state, "checksum": _checksum(tensors)}
        path = self.folder / f"step-{checkpoint.step:09d}.safetensors"
        try:
            with replacing(path) as part:
                save_file(tensors, part, metadata={"checkpoint": json.dumps(header)})
        except (OSError, SafetensorError) as error:
            older = self.paths()
            left = f"the last good checkpoint is {older[-1]}" if older else "there is no earlier checkpoint"
            raise OSError(f"could not write {path}: {error}; {left}; make room, then go on with --resume") from error
        for old in self.paths()[: -self.keep]:
            old.unlink(missing_ok=True)
        return path

    def newest(self) -> Checkpoint | None:
        """The newest intact checkpoint, or None; warns of each damaged one that it passes over."""
        for path in reversed(self.paths()):
            try:
                return _read(path)
            except (SafetensorError, OSError, ValueError, KeyError) as error:
                warnings.warn(CheckpointWarning(f"passed over the damaged {path}: {error}"), stacklevel=2)
        return None


def _read(path: Path) -> Checkpoint:
    with safe_open(path, framework="pt") as file:
        header = json.loads((file.metadata() or {})["checkpoint"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if _checksum(tensors) != header["checksum"]:
        raise ValueError("its checksum does not match its tensors")
    return Checkpoint(header["step"], tensors, header["state"])


def _checksum(tensors: dict[str, Tensor]) -> int:
    total = 0
    for name in sorted(tensors):
        flat = tensors[name].reshape(-1).view(torch.uint8)
        total = zlib.crc32(flat.numpy().data, zlib.crc32(name.encode(), total))
    return total


def pack_optimizer(state: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimiser's state_dict as named tensors and JSON."""
    tensors = {
        f"{index}.{key}": value
        for index, entries in state["state"].items()
        for key, value in entries.items()
        if isinstance(value, Tensor)
    }
    numbers = {
        str(index): {k: v for k, v in entries.items() if not isinstance(v, Tensor)}
        for index, entries in state["state"].items()
    }
    return tensors, {"param_groups": state["param_groups"], "numbers": numbers}


def unpack_optimizer(tensors: dict[str, Tensor], plain: dict[str, Any], params: list[Tensor]) -> dict[str, Any]:
    """The state_dict that `pack_optimizer` took apart, each tensor laid out in memory as its parameter is.

    The layout matters to the last bit: strided and dense loops round differently.
    """
    state: dict[int, dict[str, Any]] = {int(index): dict(numbers) for index, numbers in plain["numbers"].items()}
    for name, value in tensors.items():
        index, key = name.split(".", 1)
        like = params[int(index)]
        state[int(index)][key] = torch.empty_like(like).copy_(value) if value.shape == like.shape else value
    return {"state": state, "param_groups": plain["param_groups"]}
