"""The architecture `wrapped`: a wrapper and its backbones as one model of timm, so that they are saved together.

Importing this module registers it. The model arguments in a saved config.json name the wrapper, its settings, its
policy and its backbones: `timm.create_model("local-dir:FOLDER", pretrained=True)` loads the model after
`import star_zoo`.
"""

from typing import Any

import timm
from timm.models import PretrainedCfg, build_model_with_cfg, generate_default_cfgs, register_model

from . import own_networks, wrappers
from .augmentations import Policy
from .wrappers import Wrapper

__all__: list[str] = []  # register_model adds the name

NAME = "wrapped"
default_cfgs = generate_default_cfgs({f"{NAME}.untrained": PretrainedCfg(num_classes=0, classifier="classifier")})
_INPUT = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")  # fields of a cfg that wrappers read


def savable(model: Wrapper) -> Wrapper:
    """Returns the wrapper with the architecture and the arguments that timm writes to config.json.

    Raises ValueError for a wrapper that can't be built from its arguments.
    """
    vars(model)["_model_args"] = {
        "wrapper": type(model).__module__.rpartition(".")[2],
        "settings": model.arguments(),
        "policy": model.policy.to_dict(),
        "backbones": [_description(backbone) for backbone in model.backbones],
    }
    model.pretrained_cfg["architecture"] = NAME
    return model


def _description(backbone: Any) -> dict[str, Any]:
    """Returns the arguments of `_backbone` for a backbone without classifier."""
    if isinstance(backbone, Wrapper):
        savable(backbone)
    cfg, arguments = backbone.pretrained_cfg, getattr(backbone, "_model_args", {})
    module = own_networks.module_of(cfg["architecture"])
    return {
        "model_name": cfg["architecture"],
        **({"module": module} if module else {}),
        "pretrained_cfg_overlay": {field: cfg[field] for field in _INPUT if field in cfg},
        **{name: value for name, value in arguments.items() if name != "num_classes"},
    }


@register_model
def wrapped(pretrained: bool = False, **kwargs: Any) -> Wrapper:
    """A saved wrapper and its backbones, with random weights unless `pretrained`: (B, 3, S, S) -> (B, D)."""
    if "wrapper" not in kwargs:
        raise ValueError(
            f"{NAME!r} is the architecture of saved wrappers, which 'local-dir:FOLDER' and 'hf-hub:OWNER/NAME' load; "
            "star_zoo.wrappers.build makes one"
        )
    model: Wrapper = build_model_with_cfg(_build, NAME, pretrained, **kwargs)
    return model


def _build(
    wrapper: str,
    settings: dict[str, Any],
    policy: dict[str, Any],
    backbones: list[dict[str, Any]],
    num_classes: int = 0,
    img_size: Any = None,  # from timm where the first backbone has a fixed size; each one's own size is in its cfg
    **arguments: Any,
) -> Wrapper:
    made = [_backbone(**{**description, **arguments, "num_classes": 0}) for description in backbones]
    model = savable(wrappers.build(wrapper, made, Policy.from_dict(policy), **settings))
    model.reset_classifier(num_classes)
    return model


def _backbone(model_name: str, module: str = "", **arguments: Any) -> Any:
    """Returns the backbone of a description in a config.json, which may name an architecture, but no file of weights.

    `module` registers a user's network. Raises ValueError for a file of weights and for an unknown network.
    """
    if ":" in model_name or {"pretrained", "checkpoint_path"} & set(arguments):
        raise ValueError(f"the backbone {model_name!r} names weights of its own; a wrapper's are in its own file")
    own_networks.import_module(module, model_name)
    return timm.create_model(model_name, **arguments)
