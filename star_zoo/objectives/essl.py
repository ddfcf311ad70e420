"""E-SSL (Dangovski et al., ICLR 2022): SimCLR on two views, and rotation prediction on a small third one.

Letters: B images, S view size in pixels, D features, O embedding size, P augmentation parameters.
Source: arXiv 2111.00899 and the released code for CIFAR-10 (rdangovs/essl, MIT): losses, heads and weights.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..augmentations import Policy, QuarterTurn
from ..batch import Batch
from ..encoder import Encoder
from ..heads import mlp
from ..losses import info_nce
from . import _papers
from ._base import Objective


class Essl(Objective):
    """SimCLR with negatives of the other view only, and a head that predicts each of four rotations of a small view.

    Only the small view is rotated. Its four rotations pass the batch norms together, so that these can't
    distinguish them. Renderings, e.g. spirographs, keep their size.
    """

    papers = (_papers.ESSL,)
    tags = (_papers.SELF_SUPERVISED, _papers.EQUIVARIANCE)

    def __init__(
        self,
        num_features: int,
        policy: Policy,
        *,
        temperature: float = 0.5,  # of the invariant term
        rotation_weight: float = 0.4,  # lambda, weight of the rotation term
        small_size: int | None = None,  # of the rotated view in pixels; None: half of the others', 16 on CIFAR-10
        hidden: int = 2048,  # width of the hidden layers of both heads
        embed_dim: int = 2048,  # O, width of the embedding
    ):
        super().__init__(policy)
        self.temperature, self.rotation_weight = temperature, rotation_weight
        self.sizes = (policy.size, policy.size, policy.size // 2 if small_size is None else small_size)
        self.column = policy.fields.index("quarter_turns")
        self.heads = nn.Sequential(mlp(num_features, hidden, embed_dim), nn.BatchNorm1d(embed_dim, affine=False))
        self.rotation = layer_norm_mlp(num_features, hidden, hidden, 4)

    @classmethod
    def adapt(cls, policy: Policy) -> Policy:
        """Returns the policy with quarter turns."""
        return policy.including(QuarterTurn())

    def plan(self, height: int, width: int, generator: torch.Generator) -> Tensor:
        """Returns the params of three draws that are not rotated: (3, P)."""
        params = self.policy.draws(3, height, width, generator)
        params[:, self.column] = 0
        return params

    def forward(self, batch: Batch, encoder: Encoder) -> dict[str, Tensor]:
        """Returns {"invariant": ..., "rotation": ...}."""
        turned = torch.cat([encoder.augment(self._turned(batch, k), 2) for k in range(4)])
        f1, f2, small = encoder([encoder.augment(batch, 0), encoder.augment(batch, 1), turned])
        z1, z2 = self.heads(f1), self.heads(f2)
        invariant = (info_nce(z1, z2, self.temperature) + info_nce(z2, z1, self.temperature)) / 2
        turns = torch.arange(4, device=small.device).repeat_interleave(len(f1))
        rotation = F.cross_entropy(self.rotation(small).float(), turns)
        return {"invariant": invariant, "rotation": self.rotation_weight * rotation}

    def _turned(self, batch: Batch, turns: int) -> Batch:
        """Returns the batch with the third view rotated by quarter turns."""
        params = batch.params[2].clone()
        params[:, self.column] = turns
        return batch._replace(params=[*batch.params[:2], params])

    def embed(self, features: Tensor) -> dict[str, Tensor]:
        """Returns the projection as "z_inv" (B, O) and the logits of the four rotations as "rotation" (B, 4)."""
        return {"z_inv": self.heads(features), "rotation": self.rotation(features)}


def layer_norm_mlp(*widths: int) -> nn.Sequential:
    """Returns linear layers of these widths, each but the last followed by layer norm and ReLU."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths[:-1]):
        layers += [nn.Linear(fan_in, fan_out), nn.LayerNorm(fan_out), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))
