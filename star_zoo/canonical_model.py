"""The architecture `canonical`: a backbone and its canonicalizer as one model of timm, so that they are saved together.

Importing this module registers it. The model arguments in a saved config.json name the backbone, the group and the
kind: `timm.create_model("local-dir:FOLDER", pretrained=True)` loads the model after `import star_zoo`.
"""

from typing import Any

import timm
from timm.models import PretrainedCfg, build_model_with_cfg, generate_default_cfgs, register_model

from .augmentations import Policy
from .augmentations.presets import of_config
from .wrappers.canonical import Canonical

__all__: list[str] = []  # register_model adds the name

_data: Any = timm.data  # untyped

NAME = "canonical"
default_cfgs = generate_default_cfgs({f"{NAME}.untrained": PretrainedCfg(num_classes=0, classifier="classifier")})


def wrap(backbone: Any, group: str, kind: str, seed: int = 0) -> Canonical:
    """Returns a backbone of timm without classifier in a canonicalizer with random weights, as a model to be saved."""
    model = Canonical([backbone], _policy(backbone), group=group, kind=kind, seed=seed)
    saved = backbone.pretrained_cfg["architecture"]
    arguments = {name: value for name, value in getattr(backbone, "_model_args", {}).items() if name != "num_classes"}
    vars(model)["_model_args"] = {"backbone": saved, "group": group, "kind": kind, **arguments}  # timm writes them
    model.pretrained_cfg["architecture"] = NAME
    return model


@register_model
def canonical(pretrained: bool = False, **kwargs: Any) -> Canonical:
    """A timm model of the name `backbone` on images that a canonicalizer turns upright: (B, 3, S, S) -> (B, D)."""
    model: Canonical = build_model_with_cfg(_build, NAME, pretrained, **kwargs)
    model.policy = _policy(model)  # of the saved size and pixel statistics
    return model


def _build(
    backbone: str = "resnet10t", group: str = "c4", kind: str = "direct", num_classes: int = 0, **arguments: Any
) -> Canonical:
    made = wrap(timm.create_model(backbone, num_classes=0, **arguments), group, kind)
    made.reset_classifier(num_classes)
    return made


def _policy(model: Any) -> Policy:
    return of_config(_data.resolve_model_data_config(model))
