"""The authors' released augmentation policies and checkpoints.

Source: the released code (transforms.py, trainers.py): crop boxes in source pixels, kornia 0.4.1's colour operations,
and a hard-coded mean and standard deviation of each parameter on each of their two data sets. One table, `_TABLE`,
maps their tensors to ours and ours to theirs. Letters: D features, E experts, H hidden width, O embedding size.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from star_catalog.names import not_found
from star_catalog.reading import refusing

from .augmentations import Blur, ColorJitter, Crop, Flip, Grayscale, Policy

_STL10 = (
    (13.0968, 13.1474, 69.8042, 69.7284, 0.4986, 1.0016941, 0.99847072, 0.99962264, -9.0546833e-05, 0.2066, 0.53592795),
    (
        11.503563, 11.360162, 14.589053, 14.54193, 0.49999804,
        0.20763062, 0.20504521, 0.20646675, 0.05180895, 0.40486595, 0.65823567,
    ),
)  # fmt: skip
_IMAGENET100 = (
    (
        55.96519, 85.8532, 292.3404, 298.526, 0.50069067,
        1.0005505, 1.0010018, 1.0004101, 1.1400196e-4, 0.20029363, 0.5294427,
    ),
    (
        65.29286, 87.91453, 133.99657, 141.05266, 0.49999952,
        0.20643362, 0.20659508, 0.20603292, 0.05166076, 0.40022006, 0.65506816,
    ),
)  # fmt: skip


def policy(dataset: str) -> Policy:
    """Returns the authors' policy for "stl10" (96 px) or "imagenet100" (224 px), with crop boxes in source pixels.

    Raises ValueError for another data set.
    """
    if dataset == "stl10":
        return _policy(96, 9, (0.43, 0.42, 0.39), (0.27, 0.26, 0.27), _STL10)
    if dataset == "imagenet100":
        return _policy(224, 23, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), _IMAGENET100)
    raise ValueError(not_found("released policy", dataset, ("stl10", "imagenet100")))


def _policy(
    size: int,
    blur: int,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    statistics: tuple[tuple[float, ...], tuple[float, ...]],
) -> Policy:
    jitter, grey = ColorJitter(style="released"), Grayscale(style="released")
    return Policy((Crop(size, unit="pixel"), Flip(), jitter, grey, Blur(blur)), mean, std, statistics)


class _Row(NamedTuple):
    """The conversion between one tensor of ours and theirs; {} in their name is the number of an expert or task."""

    ours: str
    theirs: str  # group, then name
    join: Callable[[list[Tensor]], Tensor]
    split: Callable[[Tensor, int], list[Tensor]]  # arguments: our tensor, the number of experts or tasks


def _one(tensor: Tensor, count: int) -> list[Tensor]:
    return [tensor] * count


def _same(tensors: list[Tensor]) -> Tensor:
    if any(not torch.equal(t, tensors[0]) for t in tensors):
        raise ValueError("num_batches_tracked differs between experts; our single batch norm needs one value")
    return tensors[0]


def _rows(ours: str, theirs: str) -> _Row:
    """Concatenates or chunks: E times (H, ...) <-> (E*H, ...)."""
    return _Row(ours, theirs, torch.cat, lambda t, count: list(t.chunk(count)))


def _matrices(ours: str, theirs: str) -> _Row:
    """Stacks and transposes, or the inverse: E times (out, in) <-> (E, in, out)."""
    return _Row(ours, theirs, lambda ts: torch.stack([t.T for t in ts]), lambda t, _: [m.T for m in t])


def _norm(ours: str, theirs: str) -> list[_Row]:
    """Returns the rows of a batch norm: one for each expert <-> one over the columns of all experts."""
    rows = [_rows(f"{ours}.{name}", f"{theirs}.{name}") for name in ("weight", "bias", "running_mean", "running_var")]
    return [*rows, _Row(f"{ours}.num_batches_tracked", f"{theirs}.num_batches_tracked", _same, _one)]


_EXPERT, _ROUTER = "projectors {}", "gatingnetwork gating_fc.{}"
_TABLE = (
    _rows("heads.experts.linear1.weight", f"{_EXPERT}.0.weight"),
    *_norm("heads.experts.norm1", f"{_EXPERT}.1"),
    _matrices("heads.experts.weight2", f"{_EXPERT}.3.weight"),
    *_norm("heads.experts.norm2", f"{_EXPERT}.4"),
    _matrices("heads.experts.weight3", f"{_EXPERT}.6.weight"),
    _Row("heads.experts.bias3", f"{_EXPERT}.6.bias", lambda ts: torch.stack(ts)[:, None], lambda t, _: list(t[:, 0])),
    _rows("heads.router.linear.weight", f"{_ROUTER}.weight"),
    _rows("heads.router.linear.bias", f"{_ROUTER}.bias"),
)
_RENAMED = {"shift_predictor.encode.": "p_projector 0.", "shift_predictor.shift.": "eq_predictor "}  # same tensors
_GROUPS = ("backbone", "projectors", "p_projector", "eq_predictor", "gatingnetwork")
_TASKS = 2


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Returns the model's tensors in a released `ckpt-N.pth` by "group name", without the "module." that DDP adds.

    The states of the optimizer and the scheduler are ignored. The file is read with `weights_only`, so no code in it
    is executed. Raises OSError if it can't be opened and ValueError if it is not a released checkpoint.
    """
    with refusing(f"{path} is not a checkpoint that can be read safely"):
        groups = torch.load(path, map_location="cpu", weights_only=True)
        missing = [name for name in _GROUPS if name not in groups]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}; a released checkpoint has {', '.join(_GROUPS)}")
    with refusing(f"{path} is not a released checkpoint"):
        named = {f"{group} {name}": tensor for group in _GROUPS for name, tensor in groups[group].items()}
        if wrong := [name for name, tensor in named.items() if not isinstance(tensor, Tensor)]:
            raise ValueError(f"{wrong[0]} is {type(named[wrong[0]]).__name__}, not a tensor")
    return {re.sub(r"\bmodule\.", "", name): tensor for name, tensor in named.items()}


def from_released(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Converts the tensors of `read_checkpoint` to state dicts of our backbone and our `star` objective.

    The checkpoint has no statistics of the params, so the objective's state dict lacks them. Raises ValueError naming
    the tensors that are missing or unknown.
    """
    left = dict(tensors)
    counts = {_EXPERT: _count(left, _EXPERT), _ROUTER: _TASKS}
    if missing := [name for row in _TABLE for name in _names(row, counts) if name not in left]:
        raise ValueError(f"the released checkpoint lacks the tensor {missing[0]!r}")
    objective = {}
    for row in _TABLE:
        with refusing(f"{row.theirs} of the released checkpoint have no common shape"):
            objective[row.ours] = row.join([left.pop(name) for name in _names(row, counts)])
    for ours, theirs in _RENAMED.items():
        names = [name for name in left if name.startswith(theirs)]
        objective |= {ours + name.removeprefix(theirs): left.pop(name) for name in names}
    backbone = {name: left.pop(name) for name in list(left) if name.startswith("backbone ")}
    if left:
        raise ValueError(f"the released checkpoint has unknown tensors: {', '.join(sorted(left)[:5])}")
    return {name.removeprefix("backbone "): tensor for name, tensor in backbone.items()}, objective


def to_released(backbone: Mapping[str, Tensor], objective: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Converts state dicts of ours to the groups of a released checkpoint; the tensors share no memory with ours."""
    num_experts = objective["heads.router.linear.weight"].shape[0] // _TASKS
    counts = {_EXPERT: num_experts, _ROUTER: _TASKS}
    named = {f"backbone {name}": tensor for name, tensor in backbone.items()}
    for row in _TABLE:
        names = _names(row, counts)
        named |= dict(zip(names, row.split(objective[row.ours], len(names)), strict=True))
    for ours, theirs in _RENAMED.items():
        named |= {theirs + n.removeprefix(ours): t for n, t in objective.items() if n.startswith(ours)}
    groups: dict[str, Any] = {group: {} for group in _GROUPS}
    for name, tensor in named.items():
        group, _, rest = name.partition(" ")
        groups[group][rest] = tensor.detach().clone(memory_format=torch.contiguous_format)
    return groups


def _names(row: _Row, counts: Mapping[str, int]) -> list[str]:
    (prefix,) = (p for p in counts if row.theirs.startswith(p))
    return [row.theirs.format(number) for number in range(counts[prefix])]


def _count(tensors: Mapping[str, Tensor], prefix: str) -> int:
    """Returns the number of experts that the names count."""
    pattern = re.escape(prefix).replace(r"\{\}", r"(\d+)")
    return len({found[1] for name in tensors if (found := re.match(pattern, name))})
