"""Reconstructions of test images by an auto-encoder with an invariant code, for every turned copy of each image.

Letters: N images, G elements of the group, S image size in pixels.
"""

import io
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from star_catalog.decimals import fixed
from star_zoo import Policy
from star_zoo.groups import Group
from star_zoo.objectives.giae import GIAE

from ..data.eval_sets.dataset import Splits
from ..data.intact import intact
from ..data.sources.base import Source
from ..data.sources.raw import evenly_spaced
from ..evaluation.features import evaluating
from ..evaluation.frozen_model import load
from ..models.resolve import saved_objective
from .drawing import Figure
from .loading import Shown
from .pixels import as_colours
from .tables import Table

_SHOWN = 6  # images
_SIDE, _GAP = 56, 4  # pixels of an image and between images


def draw(models: list[Shown], splits: Splits) -> list[Figure]:
    """Returns a sheet for every saved model whose heads are those of `giae`."""
    saved = [m for m in models if m.folder and isinstance(saved_objective(str(m.folder)), GIAE)]
    return [_sheet(m.label, str(m.folder), intact(splits.reading(m.channels).test)) for m in saved]


@torch.no_grad()
def _sheet(label: str, folder: str, source: Source) -> Figure:
    """Draws one row per image: its turned copies, a gap, their reconstructions, a gap, their canonical images."""
    model = load(folder)
    objective, group = cast(GIAE, model.objective), cast(Group, model.backbone.group)
    indices = evenly_spaced(len(source), _SHOWN).tolist()
    orbits = group.orbit(_views([source[i] for i in indices], model.policy))  # (N, G, C, S, S)
    images = orbits.flatten(0, 1).to(next(objective.parameters()).device)
    with evaluating(model.backbone), evaluating(objective):
        made = objective.reconstruct(cast(Any, model.backbone).regular_features(images))
    errors = (made.images - images).square().mean((1, 2, 3)).view(len(indices), group.order)

    shape = orbits.shape
    blocks = [_pixels(x.cpu().view(shape), model.policy) for x in (images, made.images, made.canonical)]
    rows = [torch.cat([_strip(block[n]) for block in blocks], 2) for n in range(len(indices))]
    png = io.BytesIO()
    to_pil_image(torch.cat(rows, 1)).save(png, format="PNG")

    turns = [f"{90 * (g % 4)}°{' flipped' if g >= 4 else ''}" for g in range(group.order)]
    numbers = Table(
        "squared error of normalised pixels",
        ["image", *turns],
        [
            [str(index), *(fixed(error, 4) for error in row)]
            for index, row in zip(indices, errors.tolist(), strict=True)
        ],
    )
    alt = (
        f"{len(rows)} test images, one per row: the image turned by {', '.join(turns)}; the reconstruction of each; "
        "and the canonical image that was decoded for each, which is turned to make the reconstruction."
    )
    return Figure(
        f"reconstructions_{label}", f"Reconstructions of turned images, {label}", alt, png.getvalue(), numbers
    )


def _views(images: list[Tensor], policy: Policy) -> Tensor:
    """Returns the base views of images of any size, normalised: (N, 3, S, S)."""
    params = torch.stack([policy.base(*image.shape[-2:]) for image in images])
    return policy.apply(torch.stack([policy.crop(*pair) for pair in zip(images, params, strict=True)]), params)


def _pixels(images: Tensor, policy: Policy) -> Tensor:
    """Returns normalised images as pixels, resized for display: (N, G, C, S, S) -> (N, G, 3, side, side) in [0, 1]."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (policy.mean, policy.std))
    pixels = (images * std + mean).clamp(0, 1)
    resized = F.interpolate(pixels.flatten(0, 1), size=_SIDE, mode="bilinear", antialias=True)
    return as_colours(resized.unflatten(0, images.shape[:2]))


def _strip(images: Tensor) -> Tensor:
    """Returns G images side by side, separated by white, with a wider white gap at the end."""
    padded = [F.pad(image, (0, _GAP, 0, _GAP), value=1.0) for image in images]
    return F.pad(torch.cat(padded, 2), (0, 3 * _GAP), value=1.0)
