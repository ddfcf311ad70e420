"""Embeds small models in the package, in half precision."""

import shutil
from pathlib import Path

import torch

from star_catalog import store, zoo
from star_catalog.files import replacing
from star_zoo import hub, star_backbones
from star_zoo.weights_file import read_tensors, write_tensors

from .license import state


def embed(folder: Path, tag: str) -> Path:
    """Writes a saved model to `star_zoo/weights/`, with floating-point tensors in float16, and returns its folder.

    Backbone and heads are loaded back into float32 modules. The licence is taken from the tag's row. Raises ValueError
    if a number exceeds float16, or the tag has no row.
    """
    hub.check(folder)
    rows = {f"{a}.{name}": cfg for a, found in star_backbones.default_cfgs.items() for name, cfg in found.cfgs.items()}
    row = rows.get(tag)
    if row is None or not row.license:
        raise ValueError(f"{tag!r} has no row with a licence; add one to training/star_catalog/tags.py")
    target = zoo.EMBEDDED / store.place(tag).name
    for name in store.FILES:
        if not (folder / name).is_file():
            continue
        if name.endswith(".safetensors"):
            write_tensors(target / name, {k: _half(v, k) for k, v in read_tensors(folder / name).items()})
        else:
            with replacing(target / name) as part:
                shutil.copyfile(folder / name, part)
    state(target / "config.json", row.license)
    return target


def _half(tensor: torch.Tensor, name: str) -> torch.Tensor:
    if not tensor.is_floating_point():
        return tensor
    half = tensor.half()
    if not half.isfinite().all():
        raise ValueError(f"{name} holds numbers up to {tensor.abs().max():g}; float16's maximum is 65504")
    return half
