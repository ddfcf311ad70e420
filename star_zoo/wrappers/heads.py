"""Embeddings in place of features: LooC++ (Xiao et al., arXiv 2008.05659), and the embeddings of any objective.

Letters: B images, S image size, D features of the backbone, O size of all embeddings together.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from star_catalog.names import not_found

from ..augmentations import Policy
from ..objectives import Objective
from ._base import Wrapper


class Heads(Wrapper):
    """The embeddings of the objective that a model was saved with, one after the other: (B, 3, S, S) -> (B, O).

    `space` chooses one of them by its name, e.g. "z_eq". LooC++ is the concatenation for a model trained with `looc`;
    an independent re-implementation concatenates the hidden layers of the heads instead of their outputs.
    """

    uses_heads = True

    def __init__(
        self, backbones: Sequence[Any], policy: Policy, objective: Objective | None = None, *, space: str = "all"
    ):
        super().__init__(backbones, policy, objective)
        assert objective is not None  # checked by the base class
        self.objective, self.space = objective, space
        width = objective.config["num_features"]
        if width != self.num_features:
            raise ValueError(f"the heads take {width} features; this model has {self.num_features}")
        training = objective.training
        device = next((p.device for p in objective.parameters()), torch.device("cpu"))
        with torch.no_grad():
            spaces = objective.eval().embed(torch.zeros(1, width, device=device))
        objective.train(training)
        if not spaces:
            raise ValueError(f"{objective.config['objective']} has no embeddings; use the model without heads:")
        if space != "all" and space not in spaces:
            raise ValueError(not_found("space of Heads", space, ("all", *spaces)))
        chosen = spaces.values() if space == "all" else [spaces[space]]
        self.num_features = self.head_hidden_size = sum(z.shape[1] for z in chosen)
        self.reset_classifier(0)

    def arguments(self) -> dict[str, Any]:
        raise ValueError("heads: computes with an objective, which a saved model does not contain; use the model in it")

    def forward_features(self, x: Tensor) -> Tensor:
        spaces = self.objective.embed(self.backbones[0](x))
        return torch.cat(list(spaces.values()), 1) if self.space == "all" else spaces[self.space]
