"""A model, images and objectives so small that a protocol over views of them takes a moment.

Letters: N images, B views at once.
"""

import functools
from typing import Any

import torch
from torch import Tensor, nn

from star_training.data.eval_sets.dataset import Splits
from star_training.data.sources.base import NOT_TAKEN
from star_training.evaluation.features import pixels
from star_training.evaluation.frozen_model import FrozenModel
from star_zoo import Objective, Policy
from twins import NUM_FEATURES, POLICY, photos


class Photos:
    """N images of coloured blobs, 20 x 20, without labels."""

    classes = targets = None
    bad = ()
    inventory = NOT_TAKEN

    def __init__(self, count: int, seed: int = 0, name: str = "photos"):
        self.name, self.fingerprint = name, f"{name} {count} {seed}"
        coarse = photos(count, 4, 4, seed).float()
        self.images = nn.functional.interpolate(coarse, size=20, mode="bilinear").to(torch.uint8)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]

    def describe(self, index: int) -> str:
        return f"photo {index}"

    def check_bad(self) -> None:
        pass


class Eye(nn.Module):
    """A few random views of the coarse picture, with dropout: (B, 3, S, S) -> (B, 8)."""

    def __init__(self, width: int = NUM_FEATURES):
        super().__init__()
        self.look = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Dropout(0.5), nn.Linear(48, width))
        with torch.no_grad():
            self.look[3].weight.normal_(std=48**-0.5, generator=torch.Generator().manual_seed(0))
            self.look[3].bias.zero_()

    def forward(self, images: Tensor) -> Tensor:
        return self.look(images)


class Sees(FrozenModel):
    """A model with a policy of its own, even where there is no objective."""

    def __init__(self, objective: Objective | None = None, backbone: nn.Module | None = None, policy: Policy = POLICY):
        super().__init__("eye", backbone or Eye(), pixels(16), objective)
        self.__dict__["policy"] = objective.policy if objective else policy


def data(train: int | Photos = 60, test: int | Photos = 60) -> Splits:
    """A data set of these training and test images, or of so many."""
    made = Splits("photos")
    made.__dict__ |= {
        "train": train if isinstance(train, Photos) else Photos(train, 1, "train"),
        "val": None,
        "test": test if isinstance(test, Photos) else Photos(test, 2, "test"),
    }
    return made


def blind() -> nn.Module:
    """A model whose features are not numbers."""
    eye = Eye()
    nn.init.constant_(eye.look[3].bias, torch.nan)
    return eye


def unchanged(model: FrozenModel) -> Any:
    """Gives a function that says whether modes and weights of a model in training mode are what they were."""
    modules = [m for m in (model.backbone, model.objective) if m is not None]
    for module in modules:
        module.train()
    state = [{k: v.clone() for k, v in m.state_dict().items()} for m in modules]
    random = torch.get_rng_state()

    def same() -> bool:
        modes = all(m.training for module in modules for m in module.modules())
        kept = all(
            torch.equal(v, before[k])
            for module, before in zip(modules, state, strict=True)
            for k, v in module.state_dict().items()
        )
        return modes and kept and torch.equal(torch.get_rng_state(), random)

    return functools.partial(same)
