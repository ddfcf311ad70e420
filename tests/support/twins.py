"""Slow, independent statements of what star_zoo computes fast; the tests compare the two.

Letters: B images, D features, H hidden width, E experts, O embedding size, P augmentation parameters.
"""

import math
import traceback
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import timm
import torch
from hypothesis import settings
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from star_zoo import Batch, Encoder, Objective, objectives
from star_zoo.augmentations import Augmentation, Framing, Policy
from star_zoo.augmentations.policy import KNOWN
from star_zoo.groups import C4, AveragePool, FieldNorm, Group, GroupConv, LiftConv

# the same examples every time, and no limit on the time of one: a busy machine fails no test
repeatable = settings(derandomize=True, deadline=None, max_examples=60)


MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)  # of pixels


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed))


def photos(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Random images: (B, 3, height, width) uint8."""
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator(seed))


def make(name: str, **settings: Any) -> Augmentation:
    """A known augmentation by its name, 16 pixels where it wants a size."""
    kind = KNOWN[name]
    return kind(**({"size": 16} if issubclass(kind, Framing) else {}), **settings)


def every_operation(size: int = 16, **changes: Any) -> Policy:
    """A policy with each known operation after a crop, so that a new operation is tested by existing."""
    operations = (kind() for kind in KNOWN.values() if not issubclass(kind, Framing))
    return Policy((KNOWN["Crop"](size=size), *operations), MEAN, STD, **changes)


def draws(policy: Policy, count: int, seed: int = 0) -> Tensor:
    """Parameters of that many views of an image of the policy's own size: (B, P)."""
    g = generator(seed)
    return torch.stack([policy.draw(policy.size, policy.size, g) for _ in range(count)])


NUM_FEATURES = 8
POLICY = every_operation(16)


_NARROW = {"essl": {"hidden": 32, "embed_dim": 32}}  # instead of 2048, which makes tests slow


def build(name: str, seed: int = 0, **settings: Any) -> Objective:
    """An objective on features of width 8, the same weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return objectives.build(name, NUM_FEATURES, POLICY, **_NARROW.get(name, {}) | settings)


def backbone(name: str = "test_resnet", **kwargs: Any) -> nn.Module:
    """A timm model, the same weights every time; the default is one of timm's smallest."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return timm.create_model(name, num_classes=0, **kwargs)


def sized(size: int = 32, name: str = "test_resnet", mean: tuple = MEAN) -> nn.Module:
    """A backbone for images of a size, normalised with `mean`."""
    overlay = {"input_size": (3, size, size), "mean": mean, "std": STD, "crop_pct": 1.0}
    return backbone(name, pretrained_cfg_overlay=overlay)


class Pooled(nn.Module):
    """The smallest backbone with batch norm and forward_intermediates: (B, 3, S, S) -> (B, NUM_FEATURES)."""

    num_features = head_hidden_size = NUM_FEATURES

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(6, NUM_FEATURES, 3, 2, 1, bias=False), nn.BatchNorm2d(NUM_FEATURES))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.stem(x)).mean((2, 3))

    def forward_intermediates(self, x: Tensor, indices: Any = None, **_: Any) -> list[Tensor]:
        maps = [stem := self.stem(x), body := self.body(stem), body.relu()]
        return [maps[k] for k in (range(3) if indices is None else indices)]


class Turning(nn.Module):
    """The smallest group backbone with batch norm: (B, 3, S, S) -> (B, NUM_FEATURES)."""

    num_features = head_hidden_size = NUM_FEATURES

    def __init__(self, group: Group = C4) -> None:
        super().__init__()
        self.group = group
        self.layers = nn.Sequential(
            LiftConv(group, 3, 6), AveragePool(), FieldNorm(6), nn.ReLU(),
            GroupConv(group, 6, NUM_FEATURES), FieldNorm(NUM_FEATURES), AveragePool(),
        )  # fmt: skip

    def regular_features(self, x: Tensor) -> Tensor:
        return self.layers(x).relu().mean((3, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.regular_features(x).mean(2)


def encoder(policy: Policy, needs_group: bool = False) -> Encoder:
    """An encoder of `NUM_FEATURES` features, the same weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Encoder(policy, Turning() if needs_group else Pooled())


def batch(objective: Objective, count: int, seed: int = 0, classes: int = 3) -> Batch:
    """The views that an objective plans of random images of 20 x 30 pixels, with random classes."""
    images, policy = photos(count, 20, 30, seed), objective.policy
    plans = [objective.plan(20, 30, generator(1000 * seed + k // objective.share)) for k in range(count)]
    params = list(torch.stack(plans).unbind(1))
    views = []
    for rows, side in zip(params, objective.sizes or (policy.size,) * len(params), strict=True):
        resized = policy.resized(side)
        views.append(torch.stack([resized.crop(image, row) for image, row in zip(images, rows, strict=True)]))
    numbers = torch.arange(count)
    return Batch(views, params, numbers, torch.tensor([[20, 30]] * count), numbers % classes)


class SeparateExperts(nn.Module):
    """E networks of stock layers, one after the other: what `Experts` computes at once. (B, D) -> (B, E, O)."""

    def __init__(self, num_features: int, num_experts: int, embed_dim: int, hidden: int):
        super().__init__()
        self.networks = nn.ModuleList(
            nn.Sequential(
                nn.Linear(num_features, hidden, bias=False),
                nn.BatchNorm1d(hidden),
                nn.ReLU(),
                nn.Linear(hidden, hidden, bias=False),
                nn.BatchNorm1d(hidden),
                nn.ReLU(),
                nn.Linear(hidden, embed_dim),
            )
            for _ in range(num_experts)
        )
        for norm in (n for n in self.modules() if isinstance(n, nn.BatchNorm1d)):  # all experts differ in everything
            for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)

    def forward(self, features: Tensor) -> Tensor:
        return torch.stack([network(features) for network in self.networks], 1)

    def stacked(self, read: Callable[[Tensor], Any] = lambda tensor: tensor.detach().clone()) -> dict[str, Tensor]:
        """What `read` gives of every weight, under the names and in the layout of `Experts`."""

        def get(layer: int, name: str) -> list[Tensor]:
            return [read(getattr(network[layer], name)) for network in self.networks]

        state = {
            "linear1.weight": torch.cat(get(0, "weight")),
            "weight2": torch.stack([w.T for w in get(3, "weight")]),
            "weight3": torch.stack([w.T for w in get(6, "weight")]),
            "bias3": torch.stack(get(6, "bias"))[:, None],
        }
        for name, layer in (("norm1", 1), ("norm2", 4)):
            state |= {f"{name}.{key}": torch.cat(get(layer, key)) for key in ("weight", "bias")}
        return state

    def statistics(self) -> dict[str, Tensor]:
        """The running statistics, named and laid out as those of `Experts`."""
        state = {}
        for name, layer in (("norm1", 1), ("norm2", 4)):
            for key in ("running_mean", "running_var"):
                state[f"{name}.{key}"] = torch.cat([getattr(network[layer], key) for network in self.networks]).clone()
            state[f"{name}.num_batches_tracked"] = self.networks[0][layer].num_batches_tracked.clone()
        return state


def contrast(
    rows: Sequence[Sequence[float]],
    positive: Sequence[int],
    temperature: float,
    candidate: Callable[[int, int], bool] = lambda anchor, other: True,
) -> float:
    """Mean over anchors of -log(exp(s / t) of the positive over the sum of exp(s / t) of all candidates but itself)."""
    unit = [[x / math.sqrt(sum(y * y for y in row)) for x in row] for row in rows]
    losses = []
    for i, anchor in enumerate(unit):
        scores = {
            j: math.exp(sum(x * y for x, y in zip(anchor, other, strict=True)) / temperature)
            for j, other in enumerate(unit)
            if j != i and candidate(i, j)
        }
        losses.append(-math.log(scores[positive[i]] / sum(scores.values())))
    return sum(losses) / len(losses)


def nt_xent(a: Tensor, b: Tensor, temperature: float) -> float:
    """SimCLR's loss of N pairs, in Python floats."""
    n = len(a)
    return contrast(a.tolist() + b.tolist(), [*range(n, 2 * n), *range(n)], temperature)


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


class HostCalls(TorchFunctionMode):
    """Within it, `names` grows by each call that on a device waits for it, to read a number or to send some."""

    WAITING: ClassVar = {
        *("tensor", "as_tensor", "from_numpy", "new_tensor", "item", "tolist", "numpy", "cpu"),
        *("nonzero", "unique", "equal", "allclose", "masked_select"),
        *("__bool__", "__float__", "__int__", "__index__"),
    }

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(function, "__name__", "")
        indices = args[1] if name in ("__getitem__", "__setitem__") else ()  # a list of numbers would be sent
        if name in self.WAITING or any(isinstance(k, list) for k in (indices, *tree_leaves(indices, is_leaf=_is_list))):
            line = traceback.extract_stack()[-2]
            self.names.append(f"{name} at {line.filename}:{line.lineno}")
        return function(*args, **(kwargs or {}))


class Kernels(TorchDispatchMode):
    """Within it, `names` grows by each operation that reaches a device."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))
