"""SER (Soft Equivariance Regularization, ICLR 2026, arXiv 2603.06693): early maps are equivariant, features invariant.

Letters: B images, N of them turned, C channels, H x W positions of a map, W processes, D features, O embedding size,
P augmentation parameters.
The paper's body could not be read; layer, weight, temperature, projector and negatives follow the authors' code
(aitrics-chris/SER, MIT). Ours: SimCLR at the end instead of MoCo v3, with a gradient to both sides of the maps; the
elements of D4 by an image's place in the batch instead of draws; no change of scale, which would need views of another
size; and for a ViT, the class token from the first block on.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..augmentations import Flip, Framing, Policy, QuarterTurn
from ..batch import Batch
from ..encoder import Encoder
from ..heads import EMBED_DIM, mlp
from ..losses import gather_with_grad, nt_xent, rank
from . import _papers
from ._base import Objective


class SER(Objective):
    """SimCLR, and for every few images of a batch the equivariance of a map to quarter turns and flips.

    Those images have two uncropped views of different colours; the second is turned. Each position of the first map,
    turned too, must find the same position of the second map among the positions of the other images. The two views
    also take part in the invariant term, so that `equivariant_weight=0` is a control with the same augmentations.
    """

    papers = (_papers.SER, _papers.SIMCLR)
    tags = (_papers.SELF_SUPERVISED, _papers.EQUIVARIANCE)

    def __init__(
        self,
        num_features: int,
        policy: Policy,
        *,
        temperature: float = 0.2,  # of the invariant term
        layer: int = 2,  # index of the map in timm's forward_intermediates; a ViT's 2 is its third block, as published
        equivariant_weight: float = 1.0,  # lambda, weight of the equivariant term
        equivariant_temperature: float = 0.5,  # of the equivariant term
        every: int = 4,  # one of so many consecutive images is turned; the loss compares all positions of those images
        project: int = 512,  # width of both layers of the maps' projector
        hidden: int | None = None,  # width of the head's hidden layers; None: num_features
        embed_dim: int = EMBED_DIM,  # O, width of the embedding
    ):
        super().__init__(policy)
        if every < 2:
            raise ValueError(f"every is {every}; it must be at least 2, because some images must remain unturned")
        if equivariant_temperature <= 0:
            raise ValueError(f"equivariant_temperature is {equivariant_temperature}; it must be positive")
        self.temperature, self.equivariant_temperature = temperature, equivariant_temperature
        self.layer, self.equivariant_weight, self.every, self.width = layer, equivariant_weight, every, project
        self.heads = mlp(num_features, hidden or num_features, hidden or num_features, embed_dim)

    def attach(self, encoder: Encoder) -> None:
        """Makes the projector of the maps, whose number of channels only the backbone knows."""
        if not self.equivariant_weight:
            return
        training, size, device = encoder.training, self.policy.size, encoder.device
        with torch.no_grad():
            black = torch.zeros(1, self.policy.channels, size, size, device=device)
            ((seen,),) = encoder.eval().maps([black], [self.layer])
        encoder.train(training)
        first, second = (nn.Conv2d(c, self.width, 1, bias=False, device=device) for c in (seen.shape[1], self.width))
        self.projector = nn.Sequential(first, nn.GELU(), second)

    def plan(self, height: int, width: int, generator: torch.Generator) -> Tensor:
        """Returns the params of two draws, and of two more without crop, flip and turn: (4, P)."""
        rows = self.policy.draws(4, height, width, generator)
        for a in self.policy.augmentations:
            if isinstance(a, Framing | Flip | QuarterTurn):
                columns = self.policy.columns[type(a).__name__]
                rows[2:, columns] = self.policy.base(height, width)[columns]
        return rows

    def forward(self, batch: Batch, encoder: Encoder) -> dict[str, Tensor]:
        """Returns {"invariant": ..., "equivariant": ...}, without the second if its weight is 0."""
        count = len(batch.index)
        chosen = torch.arange(0, count, self.every, device=batch.index.device)
        others = torch.arange(count - len(chosen), device=batch.index.device)
        others = others + others // (self.every - 1) + 1  # every number that is no multiple of `every`
        cropped = [encoder.augment(_rows(batch, others), view) for view in (0, 1)]
        upright, second = (encoder.augment(_rows(batch, chosen), view) for view in (2, 3))
        start = rank() * len(chosen)  # of the images of all processes
        pair = [upright, turn(second, start).contiguous(memory_format=encoder.memory_format)]
        z1, z2 = map(self.heads, encoder([torch.cat(parts) for parts in zip(pair, cropped, strict=True)]))
        terms = {"invariant": nt_xent(z1, z2, self.temperature)}
        if self.equivariant_weight:
            first, second = (self.projector(x) for (x,) in encoder.maps(pair, [self.layer]))
            agreement = positions_agree(turn(first, start), second, self.equivariant_temperature)
            terms["equivariant"] = self.equivariant_weight * agreement
        return terms

    def embed(self, features: Tensor) -> dict[str, Tensor]:
        """Returns the head's output as "z_inv": (B, D) -> (B, O)."""
        return {"z_inv": self.heads(features)}

    def published(self) -> dict[str, Tensor]:
        """Returns the head's tensors; the projector is for training only."""
        return {name: x for name, x in super().published().items() if not name.startswith("projector.")}


def turn(x: Tensor, start: int = 0) -> Tensor:
    """Turns square images or maps, (N, C, S, S), by the elements of D4: image k by element start + k modulo 8."""
    place = start + torch.arange(len(x), device=x.device)[:, None]
    return Flip().apply(QuarterTurn().apply(x, (place % 4).float()), (place // 4 % 2).float())


def positions_agree(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """Returns the cross entropy of finding each position of `a` in `b` and the other way round, averaged; float32.

    (N, C, H, W), (N, C, H, W) -> scalar. The negatives are all positions of other images, of all processes; the other
    positions of the same image are ignored.
    """
    with torch.autocast(a.device.type, enabled=False):
        a, b = (F.normalize(x.float().flatten(2).mT, dim=2) for x in (a, b))  # (N, H*W, C)
        return (_found(a, b, temperature) + _found(b, a, temperature)) / 2


def _found(queries: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """Returns the cross entropy of each position's key among those of other images: (N, H*W, C) each -> scalar."""
    count, positions = queries.shape[:2]
    everyone = gather_with_grad(keys.contiguous()).flatten(0, 1)  # (W*N*H*W, C)
    own = rank() * count * positions + torch.arange(count * positions, device=keys.device)
    place = torch.arange(len(everyone), device=keys.device)
    ignored = (own[:, None] // positions == place // positions) & (own[:, None] != place)
    logits = (queries.flatten(0, 1) @ everyone.T / temperature).masked_fill(ignored, float("-inf"))
    return F.cross_entropy(logits, own)


def _rows(batch: Batch, rows: Tensor) -> Batch:
    """Returns the batch of some of the images."""
    target = None if batch.target is None else batch.target[rows]
    views, params = ([x[rows] for x in parts] for parts in (batch.views, batch.params))
    return Batch(views, params, batch.index[rows], batch.size[rows], target)
