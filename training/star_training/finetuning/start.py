"""The model that a fine-tuning starts from: how it is created for the size of the images, and whether it fits."""

import functools
from typing import Any

from timm.models import get_model_input_config

from ..models import fits
from ..models.create import create, input_channels
from ..models.names import Leaf, leaves, parse
from .config import FineTune


def check(settings: FineTune) -> None:
    """Raises ValueError for a model that timm can't create, or that can't be fine-tuned on images of the wanted size.

    Neither weights nor images are read.
    """
    if settings.model == "pixels":
        raise ValueError("pixels have no weights to fine-tune; pass a model")
    for leaf in map(str, leaves(parse(settings.model))):
        own = _input(leaf, settings)["input_size"][-1]
        fits.check(
            functools.partial(_create, leaf, settings, fixed=_is_fixed(settings), device="meta"),
            settings.views.size or own,
            f"model {leaf!r}",
            "views.size",
            own=own,
            classifier=True,
        )


def channels(settings: FineTune) -> int:
    """Returns the number of channels of the images that the model takes, the first one of a wrapper."""
    size: tuple[int, ...] = _input(str(next(leaves(parse(settings.model)))), settings)["input_size"]
    return size[0]


def create_start(settings: FineTune) -> Any:
    """Returns the model with its weights, without classifier. Raises ValueError as `check` does."""
    return _create(settings.model, settings, settings.views.size, fixed=_is_fixed(settings))


def _create(name: str, settings: FineTune, size: int | None, *, fixed: bool, device: str | None = None) -> Any:
    """Creates a model for images of a size; `fixed`: its network is made for one size, as most transformers."""
    arguments = settings.backbone_args
    if size is not None:
        arguments = {
            "pretrained_cfg_overlay": {"input_size": (input_channels(name), size, size), "pool_size": None}
        } | arguments
    if size is not None and fixed:
        arguments = {"img_size": size} | arguments
    return create(name, seed=settings.seed, device=device, **arguments)


def _is_fixed(settings: FineTune) -> bool:
    """Returns whether a single model is made for one size; False for a wrapper, whose models have equal arguments."""
    single = isinstance(parse(settings.model), Leaf)
    return single and bool(_input(settings.model, settings)["fixed_input_size"])


def _input(name: str, settings: FineTune) -> dict[str, Any]:
    """Returns the "input_size" that a model is made for, (C, S, S), and whether it is a "fixed_input_size"."""
    return dict(get_model_input_config(create(name, device="meta", **settings.backbone_args)))
