"""Complementary invariance and equivariance (Rizve et al., CVPR 2021): 16 transformations of an image and its labels.

Letters: B images, T transformations, D features, O size of the invariant embedding, K rows of the memory bank,
C negatives, N = T * B views (one transformation after another), P augmentation parameters.
Source: arXiv 2103.01315 and the released code (nayeemrizve/invariance-equivariance, MIT). Ours: all images of a batch
share the negatives, which are spread evenly over the bank; the divergences are multiplied by the temperature squared,
as in Hinton et al. (2015); the student starts from the teacher's weights.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..augmentations import Policy, QuarterTurn
from ..batch import Batch
from ..encoder import Encoder
from ..heads import mlp
from ..momentum import FrozenCopy, MemoryBank
from . import _papers
from ._base import Objective
from ._labels import LabelHead

_PART = 22 / 32  # side of the smaller crops
_SHARES = ((1.0, 1.0), (_PART, 1.0), (1.0, _PART), (_PART, _PART))  # height and width of the crops in the base view
_BOX = ("top", "left", "height", "width")
_DISTIL_TEMPERATURE = 4.0


class _Heads(nn.Module):
    """The three heads: features (N, D) -> outputs of the classifier, logits (N, T), invariant embedding (N, O)."""

    def __init__(self, num_features: int, num_classes: int, transformations: int, embed_dim: int):
        super().__init__()
        self.classifier = LabelHead(num_features, num_classes)
        self.equivariant = mlp(num_features, num_features, num_features, transformations)
        self.invariant = mlp(num_features, num_features, num_features, embed_dim)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.classifier(features), self.equivariant(features), self.invariant(features)


class InvEq(Objective):
    """Classifies labels and transformations of 16 views, and attracts their embeddings to that of the first view.

    The views are the products of four crops and four rotations; the policy's other augmentations act on each. Without
    a crop, e.g. in renderings, there are four views. Without labels the term of the classes is left out.
    With `distil`, a frozen copy of the weights at the start of the run, those of `init_from`, is the teacher.
    """

    papers = (_papers.INV_EQ,)
    tags = (_papers.EQUIVARIANCE,)

    def __init__(
        self,
        num_features: int,
        policy: Policy,
        *,
        num_classes: int = 1000,  # outputs of the classifier: at least as many as there are classes
        gamma: float = 1.0,  # weight of the equivariant and the invariant term
        temperature: float = 1.0,  # of the invariant term
        embed_dim: int = 64,  # O, width of the embedding
        images: int = 50_000,  # K, the number of training images; with fewer rows, images share them
        negatives: int = 6400,  # C, rows of the bank that an image is compared with
        bank_momentum: float = 0.99,  # share of a row that an update keeps
        distil: float = 0.0,  # weight of the four distillation terms; 1 in the released code's second stage
    ):
        super().__init__(policy)
        self.gamma, self.temperature, self.distil = gamma, temperature, distil
        self.negatives, self.bank_momentum = negatives, bank_momentum
        shares = _SHARES if set(_BOX) <= set(policy.fields) else _SHARES[:1]
        self.transformations = tuple(itertools.product(shares, range(4)))
        self.heads = _Heads(num_features, num_classes, len(self.transformations), embed_dim)
        self.bank = MemoryBank(images, embed_dim)

    @classmethod
    def adapt(cls, policy: Policy) -> Policy:
        """Returns the policy with quarter turns."""
        return policy.including(QuarterTurn())

    def plan(self, height: int, width: int, generator: torch.Generator) -> Tensor:
        """Returns the params of a view for each transformation: (T, P); the first is neither cropped nor rotated."""
        base, rows = self.policy.base(height, width), []
        for shares, turns in self.transformations:
            row = self.policy.draw(height, width, generator)
            row[self.policy.fields.index("quarter_turns")] = turns
            offsets = torch.rand(2, generator=generator, device="cpu").tolist()
            if len(self.transformations) > 4:
                start = self.policy.fields.index(_BOX[0])
                row[start : start + 4] = crop(base[start : start + 4], shares, offsets)
            rows.append(row)
        return torch.stack(rows)

    def forward(self, batch: Batch, encoder: Encoder) -> dict[str, Tensor]:
        """Returns {"class": ..., "equivariant": ..., "invariant": ...}, and "distillation" if it has a weight."""
        count = len(self.transformations)
        images = torch.cat([encoder.augment(batch, view) for view in range(count)])
        (features,) = encoder([images])  # in one pass, so that batch norm can't distinguish the transformations
        outputs = self.heads(features)
        numbers = torch.arange(count, device=features.device).repeat_interleave(len(batch.index))
        terms = {
            "equivariant": self.gamma * F.cross_entropy(outputs[1].float(), numbers),
            "invariant": self.gamma * self._invariant(outputs[2], batch.index),
        }
        if batch.target is None:
            terms["equivariant"] = terms["equivariant"] + self.heads.classifier.unused(features)
        else:
            target = torch.cat([batch.target] * count)
            terms["class"] = self.heads.classifier.loss(features, target)
        if self.distil:
            classes = batch.target is not None and not batch.target.is_floating_point()
            terms["distillation"] = self.distil * self._distillation(images, features, outputs, classes)
        return terms

    def _invariant(self, embeddings: Tensor, index: Tensor) -> Tensor:
        """Returns the mean loss of the views (N, O) of images (B,), and updates the bank while training."""
        with torch.autocast(embeddings.device.type, enabled=False):
            views, count = F.normalize(embeddings.float(), dim=1), len(embeddings) // len(index)
            first = views[: len(index)]
            anchors = torch.cat((F.normalize(self.bank.read(index), dim=1), first.repeat(count - 1, 1)))
            positive = (anchors * views).sum(1, keepdim=True) / self.temperature
            rows, others = self.bank.sample(index, self.negatives)
            negative = views @ F.normalize(rows, dim=1).T / self.temperature
            negative = negative.masked_fill(~others.repeat(count, 1), float("-inf"))
            if self.training:  # as batch norms update their statistics
                self.bank.update(index, first, self.bank_momentum)
            return (torch.cat((positive, negative), 1).logsumexp(1) - positive[:, 0]).mean()

    def attach(self, encoder: Encoder) -> None:
        """Makes the teacher, if there is one."""
        if self.distil:
            self.teacher = nn.ModuleList((FrozenCopy(encoder), FrozenCopy(self.heads)))

    def _distillation(self, images: Tensor, features: Tensor, outputs: tuple[Tensor, ...], classes: bool) -> Tensor:
        """Returns the divergences of the logits and the squared errors of embedding and features from the teacher's."""
        encoder, heads = self.teacher
        (taught,) = encoder([images])
        labels, transformations, embedding = heads(taught)
        loss = divergence(outputs[1], transformations)
        if classes:
            loss = loss + divergence(outputs[0], labels)
        return loss + F.mse_loss(outputs[2].float(), embedding.float()) + F.mse_loss(features.float(), taught.float())

    def embed(self, features: Tensor) -> dict[str, Tensor]:
        """Returns the invariant embedding "z_inv" (B, O) and the logits "transformation" (B, T)."""
        _, logits, z_inv = self.heads(features)
        return {"z_inv": z_inv, "transformation": logits}


def crop(box: Tensor, shares: tuple[float, float], offsets: list[float]) -> Tensor:
    """Returns a part of a box (top, left, height, width): `shares` of its sides, at `offsets` in [0, 1] of the rest."""
    top, left, height, width = box.tolist()
    (rows, columns), (down, right) = shares, offsets
    parts = top + down * (1 - rows) * height, left + right * (1 - columns) * width, rows * height, columns * width
    return torch.tensor(parts, device="cpu")


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Returns the mean Kullback-Leibler divergence of softened logits (N, C), times the temperature squared."""
    s, t = ((x.float() / _DISTIL_TEMPERATURE).log_softmax(1) for x in (student, teacher))
    return _DISTIL_TEMPERATURE**2 * F.kl_div(s, t, reduction="batchmean", log_target=True)
