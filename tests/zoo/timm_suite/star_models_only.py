"""A pytest plugin that points timm's own tests/test_models.py at the star_* models.

That file parametrises its tests at import by `timm.list_models(...)` with filters over timm's names (`vit_*` is tested
without the CNN's spatial maps, 'resnet' is a module with forward_intermediates). Our names match none of them, so each
filter is evaluated over timm's names, and the results are mapped to star_<name>: a star_ViT is tested as a ViT. Our own
networks are tested as the plain ones of their size: star_c4_resnet18 as a resnet18.
Loaded with `-p`, hence before test_models.py is imported.
"""

import tempfile
import warnings
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models import register_model

from star_zoo import star_backbones
from star_zoo.group_resnet import ARCHITECTURES

_list_models = timm.list_models
OURS = frozenset(_list_models("star_*"))

# Our own networks are one class, and slow for their size: all tests run over the first, the tests of tags over all.
# All passed the whole suite when they were new; test_star_backbones.py and test_group_backbones.py test all three.
AS_ANOTHER = tuple(ARCHITECTURES)[1:]
# These compile, trace or prune a network, which says nothing of our names where it is timm's; they are slow, too.
OF_NETWORKS = ("_fx", "_torchscript", "prune_intermediate_layers")
OF_TAGS = ("test_model_default_cfgs", "test_model_load_pretrained", "test_model_features_pretrained")


def list_star_models(
    filter: str | Iterable[str] = "",
    module: str | Iterable[str] = "",
    pretrained: bool = False,
    exclude_filters: str | Iterable[str] = "",
    name_matches_cfg: bool = False,
    include_tags: bool | None = None,
) -> list[str]:
    """`timm.list_models`, answered with the star_* twins of what it picks."""
    picked = _list_models(filter, module, exclude_filters=exclude_filters)
    # Weights, cfgs and tags are ours to have, so these three are asked of the twins.
    twins = partial(_list_models, pretrained=pretrained, name_matches_cfg=name_matches_cfg, include_tags=include_tags)
    ours = [
        star
        for name in picked
        for star in (f"star_{name}", *(n for n, (_, p) in ARCHITECTURES.items() if p == name))
        if star in OURS  # each question below goes through all names of timm
    ]
    return [twin for star in ours for twin in twins(star)]


def give_every_tag_weights(folder: Path) -> None:
    """Register every tag again with a weight file, so that timm's tests of pretrained models run without a download.

    The file stands in for what the store, the package or the Hub would give. It holds zeros of the right shapes and is
    a few kB, since an expanded tensor is saved as its one element.
    """
    star_backbones._fetch = lambda tag, installed, cache_dir: folder / tag.partition(".")[0]
    star_backbones._check_complete = lambda *_: None  # which reads safetensors; these are torch's, to be small
    for name, default_cfg in star_backbones.default_cfgs.items():
        state = timm.create_model(name, device="meta").state_dict()
        torch.save({k: torch.zeros((), dtype=v.dtype).expand(v.shape) for k, v in state.items()}, folder / name)
        for cfg in default_cfg.cfgs.values():
            cfg.file = str(folder / name)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Overwriting")
            register_model(getattr(star_backbones, name))


def pytest_configure(config: pytest.Config) -> None:
    folder = tempfile.TemporaryDirectory()
    config.add_cleanup(folder.cleanup)
    give_every_tag_weights(Path(folder.name))
    timm.list_models = list_star_models


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests of fixed timm names, which say nothing about ours, and most of equal networks."""

    def is_wanted(item: Any) -> bool:
        if "callspec" not in vars(item):
            return False
        name, test = str(item.callspec.params.get("model_name", "")), str(item.originalname)
        if name not in ARCHITECTURES and any(part in test for part in OF_NETWORKS):
            return False
        return name.startswith("star_") and (test in OF_TAGS or name not in AS_ANOTHER)

    config.hook.pytest_deselected(items=[item for item in items if not is_wanted(item)])
    items[:] = [item for item in items if is_wanted(item)]
