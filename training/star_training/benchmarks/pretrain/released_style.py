"""The same step in the released code's style: one expert after the other, in float32, contiguous, not compiled.

Letters: B images, D features, E experts, O embedding size, P augmentation parameters. Written from the formulas of
arXiv 2510.27222 and the tensor names of the released checkpoints; it computes the same loss as `star`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader

from .clock import now
from .released_views import Crops, augmented, draw
from .sizes import Size

_EMBED_DIM, _PARAM_DIM, _HIDDEN = 128, 128, 512  # released code
_TEMPERATURE = 0.2
_RATE, _MOMENTUM, _DECAY = 0.03, 0.9, 5e-4  # the learning rate for 256 images


class Network(nn.Module):
    """Backbone, experts, one gate per task, and the shift predictor; `statistics` (P,) each standardise the params."""

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, num_features: int, num_experts: int, statistics: tuple[Tensor, Tensor]):
        super().__init__()
        widths = (num_features, num_features, num_features, _EMBED_DIM)
        self.backbone = backbone
        self.projectors = nn.ModuleList(_mlp(*widths) for _ in range(num_experts))
        gates = [nn.Linear(num_features, num_experts) for _ in range(2)]
        self.gatingnetwork = nn.ModuleDict({"gating_fc": nn.ModuleList(gates)})
        self.p_projector = nn.Sequential(nn.Linear(len(statistics[0]), _PARAM_DIM))
        self.eq_predictor = _mlp(_EMBED_DIM + _PARAM_DIM, _HIDDEN, _HIDDEN, _EMBED_DIM)
        for name, values in zip(("mean", "std"), statistics, strict=True):
            self.register_buffer(name, values)

    def forward(self, views: list[Tensor], params: list[Tensor]) -> Tensor:
        """Returns the loss of [base, view, view], (B, 3, S, S) each, and the raw params (B, P) of the two views."""
        return self.loss([self.backbone(x) for x in views], params)

    def loss(self, features: list[Tensor], params: list[Tensor]) -> Tensor:
        """Returns the sum of both terms for three views' features (B, D) and the raw params (B, P) of the last two."""
        (_, eq0), (inv1, eq1), (inv2, eq2) = (self.embeddings(f) for f in features)
        predicted = []
        for p in params:
            encoded = self.p_projector((p - self.mean) / self.std)
            predicted.append(eq0 + self.eq_predictor(torch.cat([eq0, encoded], dim=1)))
        invariant = nt_xent(inv1, inv2)
        equivariant = nt_xent(torch.cat([eq1, eq2]), torch.cat(predicted))
        return invariant + equivariant

    def embeddings(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the invariant and the equivariant embedding of one view's features: (B, D) -> (B, O) twice."""
        outputs = torch.stack([projector(features) for projector in self.projectors], dim=1)
        gates: Any = self.gatingnetwork["gating_fc"]
        weights = [F.softmax(gate(features), dim=-1) for gate in gates]
        invariant, equivariant = ((w.unsqueeze(-1) * outputs).sum(dim=1) for w in weights)
        return invariant, equivariant


def _mlp(wide: int, first: int, second: int, narrow: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(wide, first, bias=False),
        nn.BatchNorm1d(first),
        nn.ReLU(),
        nn.Linear(first, second, bias=False),
        nn.BatchNorm1d(second),
        nn.ReLU(),
        nn.Linear(second, narrow),
    )


def nt_xent(a: Tensor, b: Tensor) -> Tensor:
    """Returns SimCLR's loss of B pairs, (B, O) twice; the similarity of each row to itself is removed."""
    count = len(a)
    rows = F.normalize(torch.cat([a, b]), dim=1)
    others = ~torch.eye(2 * count, dtype=torch.bool, device=rows.device)
    logits = (rows @ rows.t() / _TEMPERATURE)[others].view(2 * count, -1)
    # a's partner comes after the removed entry, so its index is one less; b's partner comes before it
    positive = torch.cat([torch.arange(count - 1, 2 * count - 1), torch.arange(count)]).to(rows.device)
    return F.cross_entropy(logits, positive)


class ReleasedStyle:
    """The steps of the twin, with its own data loader and optimiser."""

    name = "released style"

    def __init__(self, network: Network, size: Size, policy: Any, files: list[Path], workers: int):
        self.device = next(network.parameters()).device
        self.network, self.size = network.train(), size
        self.mean, self.std = (torch.tensor(x, device=self.device).view(1, 3, 1, 1) for x in (policy.mean, policy.std))
        # as in our run: in memory, or decoded on access
        images: Any = files if size.photos else [Image.open(file).convert("RGB") for file in files]
        self.loader = DataLoader(
            Crops(images, size.pixels), batch_size=size.batch, shuffle=True, drop_last=True, num_workers=workers
        )
        self.batches = self._endless()
        rate = _RATE * size.batch / 256
        self.optimizer = torch.optim.SGD(network.parameters(), rate, momentum=_MOMENTUM, weight_decay=_DECAY)

    def seconds(self, steps: int) -> float:
        """Returns the seconds of some steps."""
        start = now(self.device)
        for _ in range(steps):
            self._step()
        return now(self.device) - start

    def _step(self) -> None:
        whole, first, second, *boxes = (part.to(self.device) for part in next(self.batches))
        views, params = [self._normalised(whole)], []
        for images, box in zip((first, second), boxes, strict=True):
            drawn = draw(len(images), self.size.blur is not None, self.device)
            order = torch.randperm(4).tolist()
            views.append(self._normalised(augmented(images, drawn, order, self.size.blur)))
            params.append(drawn.params(box))
        loss = self.network(views, params)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def _normalised(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std

    def _endless(self) -> Iterator[list[Tensor]]:
        while True:
            yield from self.loader
