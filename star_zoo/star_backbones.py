"""The star_* models: timm's own architectures under our names, one row of `_TAGS` per set of weights.

Importing this file registers every row with timm; afterwards `timm.create_model("star_resnet18.stl10")` works like any
other timm name. The network is timm's, without a classifier: images (B, 3, S, S) -> features (B, D). What a row adds is
what timm can't know: the statistics, the input size and the crop of the data that the weights were made from.

To add a tag, add a row: `"star_<timm architecture>.<tag>": dict(size=..., **statistics)`. A new architecture needs no
more than that, and the tests find it by themselves. Once its weights are published, add
`hf_hub_id="<owner>/<name>@<revision>"` to the row; a pinned revision keeps a released star_zoo on the weights that it
was tested with. The default tag of an architecture is its first row with weights, or its first row while none has any.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from timm.models import (
    PretrainedCfg,
    generate_default_cfgs,
    get_pretrained_cfg,
    model_entrypoint,
    register_model,
    resolve_pretrained_cfg,
)
from torch import nn

__all__: list[str] = []  # register_model adds the names

_PREFIX = "star_"

# Mean and std of each channel of the pretraining data, pixels in 0..1.
CIFAR10 = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)}
TINY_IMAGENET = {"mean": (0.480, 0.448, 0.398), "std": (0.277, 0.269, 0.282)}
STL10 = {"mean": (0.43, 0.42, 0.39), "std": (0.27, 0.26, 0.27)}  # rounded as in the authors' code
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}

_TAGS: dict[str, dict[str, Any]] = {
    "star_resnet10t.cifar10": dict(size=32, **CIFAR10),
    "star_resnet18.stl10": dict(size=96, **STL10),
    "star_resnet18.tinyimagenet": dict(size=64, **TINY_IMAGENET),
    "star_resnet50.in100": dict(size=224, **IMAGENET),
    "star_vit_small_patch16_224.in100": dict(size=224, **IMAGENET),
    "star_convnext_tiny.in100": dict(size=224, **IMAGENET),
}


def _cfg(name: str, size: int, **row: Any) -> PretrainedCfg:
    """The timm cfg of one row: structure from timm's cfg of the same architecture, everything else from the row."""
    stock = _stock_name(name.partition(".")[0])
    base = get_pretrained_cfg(stock)
    if base is None:
        raise ValueError(f"Row {name!r}: {stock!r} must be a timm architecture with a cfg; see timm.list_models().")
    # Only structure is taken over: the rest of timm's cfg (statistics, test size, custom_load) is about timm's weights.
    return PretrainedCfg(
        input_size=(3, size, size),
        fixed_input_size=base.fixed_input_size,
        min_input_size=base.min_input_size,
        pool_size=base.pool_size and 2 * (math.ceil(size / 32),),  # None for a ViT; timm's suite checks the 32
        first_conv=base.first_conv,
        classifier=base.classifier,
        num_classes=0,
        **{"crop_pct": 1.0, "interpolation": "bicubic", "license": "apache-2.0", **row},  # resize to S, crop S
    )


def _stock_name(name: str) -> str:
    """timm's name of the architecture behind a star_* model."""
    return name.removeprefix(_PREFIX)


def _entrypoint(name: str) -> Callable[..., nn.Module]:
    """The function that timm calls to build `name`; it hands timm's own entrypoint our cfg."""
    stock = _stock_name(name)
    build = model_entrypoint(stock)

    def star_model(
        pretrained: bool = False,
        pretrained_cfg: str | dict[str, Any] | None = None,
        pretrained_cfg_overlay: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> nn.Module:
        # Resolved here, since timm's entrypoint would look our tag up under its own name.
        cfg = resolve_pretrained_cfg(name, pretrained_cfg, pretrained_cfg_overlay)
        if pretrained and not (cfg.has_weights or cfg.state_dict):
            raise RuntimeError(_no_weights(f"{name}.{cfg.tag}" if cfg.tag else name))
        # The stock architecture name goes into config.json when the model is saved: plain timm can load it.
        return build(pretrained=pretrained, pretrained_cfg=replace(cfg, architecture=stock), **kwargs)

    star_model.__name__ = star_model.__qualname__ = name
    star_model.__doc__ = f"timm's {stock} without a classifier, pretrained with star-zoo: (B, 3, S, S) -> (B, D)."
    return star_model


def _no_weights(name: str) -> str:
    """The error for `pretrained=True` where there are no weights; timm's own would name the stock architecture."""
    return (
        f"No weights are published for {name} yet: pass pretrained=False, or "
        "pretrained_cfg_overlay=dict(file=...) with a file of yours, or load a saved folder as 'local-dir:FOLDER', "
        "or train it with `star-zoo pretrain`."
    )


default_cfgs = generate_default_cfgs({name: _cfg(name, **row) for name, row in _TAGS.items()})  # timm reads this name

for _name in default_cfgs:
    globals()[_name] = register_model(_entrypoint(_name))
