"""Checkpoints: one safetensors file each, written atomically and verified when read; the last few are kept.

A file holds named tensors and, in its header, JSON with the rest of the state and a checksum of both. Nothing is
unpickled.
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

from star_catalog.files import replacing
from star_catalog.writing import going_on
from star_zoo.weights_file import system_errors

from ...messages import RESUME, Note


class Checkpoint(NamedTuple):
    """The state of a run after `step` optimiser steps."""

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]  # JSON


class Snapshot:
    """Copies tensors to the CPU, into the same memory each time, because writing to new memory is ten times slower."""

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def take(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Returns copies of the current values, valid until the next call."""
        old, self._held = self._held, {}
        for name, tensor in tensors.items():
            copy = old.get(name)
            if copy is None or (copy.shape, copy.dtype) != (tensor.shape, tensor.dtype):
                copy = torch.empty_like(tensor, device="cpu")  # the same memory layout, which copies faster
            self._held[name] = copy.copy_(tensor.detach())
        return dict(self._held)


class CheckpointWarning(Note):
    """A damaged checkpoint was skipped."""


class Checkpoints:
    """The checkpoints of one run, newest last."""

    def __init__(self, folder: Path, keep: int):
        self.folder, self.keep = folder, keep

    def paths(self) -> list[Path]:
        """Returns the checkpoint files, oldest first."""
        return sorted(p for p in self.folder.glob("step-*.safetensors") if re.fullmatch(r"step-\d+", p.stem))

    def save(self, checkpoint: Checkpoint) -> Path:
        """Writes a checkpoint and deletes those beyond `keep`. Raises OSError that names the last good checkpoint."""
        tensors = {k: v.detach().cpu().contiguous() for k, v in checkpoint.tensors.items()}
        header = json.dumps({"step": checkpoint.step, "state": checkpoint.state})
        metadata = {"checkpoint": header, "checksum": _checksum(tensors, header)}
        path = self.folder / f"step-{checkpoint.step:09d}.safetensors"
        older = self.paths()
        left = f"the last good checkpoint is {older[-1]}" if older else "there is no earlier checkpoint"
        with going_on(f"{RESUME}; {left}"), replacing(path) as part, system_errors():
            save_file(tensors, part, metadata=metadata)
        paths = self.paths()
        end = paths.index(path) + 1  # later ones were skipped as damaged, and would displace good ones
        for other in paths[: max(0, end - self.keep)] + paths[end:]:
            other.unlink(missing_ok=True)
        return path

    def newest(self) -> Checkpoint | None:
        """Returns the newest intact checkpoint, or None; warns of each damaged one that it skips, and if all are."""
        for path in reversed(self.paths()):
            try:
                return _read(path)
            except (SafetensorError, OSError, ValueError, KeyError) as error:
                warnings.warn(CheckpointWarning(f"skipped the damaged {path}: {error}"), stacklevel=2)
        if self.paths():
            note = f"no intact checkpoint in {self.folder.parent}, so the run starts at step 0"
            warnings.warn(CheckpointWarning(note), stacklevel=2)
        return None


def _read(path: Path) -> Checkpoint:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if _checksum(tensors, metadata["checkpoint"]) != metadata["checksum"]:
        raise ValueError("its checksum does not match its contents")
    header = json.loads(metadata["checkpoint"])
    return Checkpoint(header["step"], tensors, header["state"])


def _checksum(tensors: dict[str, Tensor], header: str) -> str:
    total = zlib.crc32(header.encode())
    for name, tensor in sorted(tensors.items()):
        total = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), total)
        total = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, total)
    return f"{total:08x}"


def pack_optimizer(state: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Returns an optimiser's state_dict as named tensors and JSON, with the state of parameters and of groups."""
    parts = {"state": state["state"], "param_groups": dict(enumerate(state["param_groups"]))}
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    for part, numbered in parts.items():
        plain[part] = {str(i): {k: v for k, v in e.items() if not isinstance(v, Tensor)} for i, e in numbered.items()}
        for i, entries in numbered.items():
            tensors |= {f"{part}.{i}.{k}": v for k, v in entries.items() if isinstance(v, Tensor)}
    return tensors, plain


def unpack_optimizer(tensors: dict[str, Tensor], plain: dict[str, Any], params: list[Tensor]) -> dict[str, Any]:
    """Returns the state_dict that `pack_optimizer` split, each tensor with the memory layout of its parameter.

    Bit-exact resume needs that layout, because strided and dense loops round differently.
    """
    parts = {part: {int(i): dict(entries) for i, entries in numbered.items()} for part, numbered in plain.items()}
    for name, value in tensors.items():
        part, i, key = name.split(".", 2)
        like = params[int(i)] if part == "state" else value
        alike = torch.empty_like(like, dtype=value.dtype).copy_(value) if value.shape == like.shape else value
        parts[part][int(i)][key] = alike
    return {"state": parts["state"], "param_groups": list(parts["param_groups"].values())}
