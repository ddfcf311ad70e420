"""LooC (Xiao et al., ICLR 2021, arXiv 2008.05659): an invariant space, and a space for each factor that keeps it.

Letters: B images, W processes, D features, O embedding size, F factors, S = F + 1 spaces and as many keys, K rows of a
queue, P augmentation parameters.
No official code exists and the paper's body could not be read; the loss and the heads follow a description of an
independent re-implementation. The batch form is our choice, and so are the names of the spaces.
"""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from star_catalog.names import not_found

from ..augmentations import Crop, Flip, Policy
from ..batch import Batch
from ..encoder import Encoder
from ..heads import EMBED_DIM
from ..losses import gather_with_grad, rank
from ..momentum import MomentumCopy, Queue
from . import _papers
from ._base import FeatureObjective

Factors = dict[str, tuple[int, ...]]  # a factor's name -> its columns of params


class LooC(FeatureObjective):
    """One invariant space, and one for each factor; the views are a query, a fresh key, and a key for each factor.

    A factor's key has the query's params of that factor; all others are drawn anew. In the invariant space the positive
    is the fresh key. In a factor's space the positive is the factor's key, and the other keys of the same image are
    negatives, so that the space keeps the factor's value. Other images are negatives in all spaces: the keys of the
    batch, or with `queue`, the fresh keys of earlier batches. The keys then come from momentum copies of the encoder
    and the heads.
    """

    papers = (_papers.LOOC,)

    def __init__(
        self,
        num_features: int,
        policy: Policy,
        *,
        factors: Mapping[str, Sequence[str]] | None = None,  # name -> fields or augmentations; None: see `factors_of`
        temperature: float = 0.2,  # of the cross entropy in each space
        queue: int = 0,  # K, rows of each space's queue; 16384 in the paper, 0: negatives from the batch, no momentum
        momentum: float = 0.999,  # of the copies, with a queue
        hidden: int | None = None,  # width of the heads' hidden layers; None: num_features
        embed_dim: int = EMBED_DIM,  # O, width of the embedding
    ):
        super().__init__(policy)
        if temperature <= 0:
            raise ValueError(f"temperature is {temperature}; it must be positive")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum is {momentum}; it must be at least 0 and below 1")
        self.temperature, self.momentum = temperature, momentum
        self.factors = factors_of(policy, factors)
        count = len(self.factors) + 1
        self.heads = Heads(num_features, hidden or num_features, embed_dim, count)
        self.queues = nn.ModuleList(Queue(queue, embed_dim) for _ in range(count if queue else 0))

    def plan(self, height: int, width: int, generator: torch.Generator) -> Tensor:
        """Returns the params of the query, of the fresh key and of the key of each factor: (1 + S, P)."""
        rows = self.policy.draws(len(self.factors) + 2, height, width, generator)
        for key, columns in zip(rows[2:], self.factors.values(), strict=True):
            key[list(columns)] = rows[0, list(columns)]
        return rows

    def attach(self, encoder: Encoder) -> None:
        if self.queues:
            self.encoder_copy, self.heads_copy = MomentumCopy(encoder), MomentumCopy(self.heads)

    def after_step(self, encoder: Encoder, progress: float) -> None:
        if self.queues:
            self.encoder_copy.update(encoder, self.momentum)
            self.heads_copy.update(self.heads, self.momentum)

    def forward(self, batch: Batch, encoder: Encoder) -> dict[str, Tensor]:
        if not self.queues:
            return super().forward(batch, encoder)
        images = [encoder.augment(batch, view) for view in range(len(batch.views))]
        query = self.heads(encoder(images[:1])[0])
        features = cast(list[Tensor], self.encoder_copy(images[1:]))
        keys = torch.stack([cast(Tensor, self.heads_copy(x)) for x in features], 1)
        queues = [cast(Queue, queue) for queue in self.queues]
        losses = leave_one_out(query, keys, torch.stack([queue.rows for queue in queues]), None, self.temperature)
        if self.training:
            for queue, key in zip(queues, keys[:, 0], strict=True):
                queue.push(key)
        return self._named(losses)

    def terms(self, features: list[Tensor], params: list[Tensor]) -> dict[str, Tensor]:
        """Returns the batch form's term of each space, by name, for [query, fresh key, key of each factor]."""
        query, *keys = (self.heads(x) for x in features)
        own = torch.stack(keys, 1)
        everyone = gather_with_grad(own.permute(2, 0, 1, 3).contiguous())  # (W*B, S, S, O)
        me = rank() * own.shape[2] + torch.arange(own.shape[2], device=own.device)
        same = me[:, None] == torch.arange(len(everyone), device=own.device).repeat_interleave(own.shape[1])
        others = everyone.transpose(0, 1).flatten(1, 2)  # (S, W*B*S, O)
        return self._named(leave_one_out(query, own, others, same, self.temperature))

    def _named(self, losses: Tensor) -> dict[str, Tensor]:
        """Returns each space's share of the mean over the spaces: (S,) -> S scalars."""
        return dict(zip(("invariant", *self.factors), (losses / len(losses)).unbind(), strict=True))

    def embed(self, features: Tensor) -> dict[str, Tensor]:
        """Returns the invariant space as "z_inv" and each factor's as "z_FACTOR": (B, D) -> (B, O) each."""
        names = ("z_inv", *(f"z_{factor}" for factor in self.factors))
        return dict(zip(names, self.heads(features).unbind(), strict=True))


class Heads(nn.Module):
    """Two-layer MLPs without batch norm, one for each space: (B, D) -> (S, B, O)."""

    def __init__(self, num_features: int, hidden: int, embed_dim: int, count: int):
        super().__init__()
        self.spaces = nn.ModuleList(
            nn.Sequential(nn.Linear(num_features, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, embed_dim))
            for _ in range(count)
        )

    def forward(self, features: Tensor) -> Tensor:
        return torch.stack([head(features) for head in self.spaces])


def leave_one_out(query: Tensor, keys: Tensor, others: Tensor, same: Tensor | None, temperature: float) -> Tensor:
    """Returns the cross entropy of each space, float32: (S, B, O), (S, S, B, O), (S, N, O) -> (S,).

    `keys[s, v]` are the keys of view v in space s; the positive in space s is view s. The other views are negatives in
    every space but the first, which ignores them. `others` are the negatives from other images; those at which `same`,
    (B, N), is true are of the query's own image and ignored.
    """
    with torch.autocast(query.device.type, enabled=False):
        query, keys, others = (F.normalize(x.float(), dim=-1) for x in (query, keys, others))
        own = torch.einsum("sbo,svbo->sbv", query, keys) / temperature
        rest = query @ others.mT / temperature
        ignored = torch.zeros_like(own[:, :1], dtype=torch.bool)
        ignored[0, :, 1:] = True
        own = own.masked_fill(ignored, float("-inf"))
        if same is not None:
            rest = rest.masked_fill(same, float("-inf"))
        positive = torch.arange(len(query), device=query.device)[:, None].expand(own.shape[:2])
        logits = torch.cat((own, rest), 2)
        return F.cross_entropy(logits.movedim(2, 1), positive, reduction="none").mean(1)


def factors_of(policy: Policy, given: Mapping[str, Sequence[str]] | None) -> Factors:
    """Returns the columns of each factor; a factor's members are fields of the policy or names of its augmentations.

    By default, each augmentation is a factor, except Crop and Flip, which the paper leaves out. Raises ValueError for a
    factor without members, for an unknown member, and for the name "invariant".
    """
    groups = {type(a).__name__: a.fields for a in policy.augmentations}
    if given is None:
        given = {type(a).__name__: a.fields for a in policy.augmentations if not isinstance(a, Crop | Flip)}
    if "invariant" in given or "inv" in given:
        raise ValueError("a factor is named invariant or inv, like the space without factors; give it another name")
    found: Factors = {}
    for name, members in given.items():
        if isinstance(members, str) or not members:
            raise ValueError(f"factor {name!r} is {members!r}; pass a list of fields or augmentations")
        for member in members:
            if member not in (*groups, *policy.fields):
                raise ValueError(not_found(f"member of factor {name!r}", member, (*policy.fields, *groups)))
        fields = {field for member in members for field in groups.get(member, (member,))}
        found[name] = tuple(k for k, field in enumerate(policy.fields) if field in fields)
    return found
