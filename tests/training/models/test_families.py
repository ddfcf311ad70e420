"""Every family of timm, a module of `timm.models`, trains, exports, loads in timm and is fine-tuned; new ones enter.

A family is represented by a small model of it. On shapes alone, all families are tested; with numbers, a few kinds are,
and one model of every family by

    STAR_ZOO_FAMILIES=all pytest tests/training/models/test_families.py

which takes about ten minutes on one core and 8 GB of memory.
"""

import os
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from finetune_cases import tiny
from star_training import recipes
from star_training.finetuning import model as finetuning
from star_training.models import fits
from star_training.pretraining.module import build, build_backbone
from star_training.pretraining.recipe import Recipe
from star_training.settings.base import override
from star_zoo import save_pretrained
from twins import batch

GUIDE = Path(__file__).parents[3] / "training" / "README.md"
SIZE = 96  # pixels, of the recipe `folder`
FEW = 64  # pixels, where numbers are computed
SIZES = "policy.augmentations.0.size"
SMALL = ("test", "femto", "atto", "pico", "nano", "xxs", "xxtiny", "tiny", "xs", "small", "s")  # in names, by size


def size(name: str) -> tuple[Any, ...]:
    """Orders the models of a family by their names, the small ones first."""
    parts = re.split(r"[_.]", name)
    numbers = [int(n) for n in re.findall(r"\d+", name)]
    return min((SMALL.index(part) for part in parts if part in SMALL), default=len(SMALL)), numbers, len(name), name


def smallest(family: str) -> str:
    return min(timm.list_models(module=family), key=size)


def is_timms(family: str) -> bool:
    return timm.model_entrypoint(smallest(family)).__module__.startswith("timm.")  # star_zoo's are registered too


FAMILIES = [family for family in timm.list_modules() if is_timms(family)]
ENCODERS = [name for name in timm.list_models("*_enc") if name.removesuffix("_enc") in timm.list_models()]
KINDS = (
    "coat_tiny",  # tensors with several names
    "mobilenetv3_small_050",  # features wider than the last map
    "pit_ti_distilled_224",  # two heads
    "test_convnext",  # layer norm
    "test_efficientnet_evos",  # norms without statistics
    "test_maxvit",  # windows
    "test_nfnet",  # standardised weights
    "test_vit",  # made for one size
    "test_vit_relpos",  # relative positions
    "xcit_nano_12_p16_224",  # attention over channels
)
TRAINED = [smallest(f) for f in FAMILIES] if os.environ.get("STAR_ZOO_FAMILIES") == "all" else KINDS


def recipe(backbone: str, pixels: int = SIZE) -> Recipe:
    small = ("channels_last=false", "precision=no", "objective_args.num_experts=2", "objective_args.hidden=16")
    return override(recipes.find("folder"), [f"backbone={backbone}", f"{SIZES}={pixels}", *small])


def refusal(name: str, pixels: int = SIZE) -> str | None:
    """Why a model can't be trained on images of this size; None if it can."""
    cfg = timm.get_pretrained_cfg(name)
    try:
        fits.check(
            lambda other: build_backbone(recipe(name), other, "meta"), pixels, name, SIZES,
            own=None if cfg is None else cfg.input_size[-1],
        )  # fmt: skip
    except ValueError as error:
        return str(error)
    return None


def other_size(line: str) -> int:
    """The size that a refusal recommends."""
    found = re.search(rf"; it takes e\.g\. [\d and]+ pixels: --set {SIZES}=(\d+)$", line)
    assert found, line
    return int(found[1])


# Shapes


@pytest.fixture(scope="module")
def refused() -> dict[str, str]:
    """The families whose smallest model takes no images of 96 pixels, with the message."""
    return {family: line for family in FAMILIES if (line := refusal(smallest(family)))}


def known_issue(start: str) -> list[str]:
    """The names in code in the guide's known issue that starts with these words."""
    text = GUIDE.read_text(encoding="utf-8").partition("\n## Known issues\n")[2].partition("\n## ")[0]
    (item,) = (item for item in re.split(r"^- ", text, flags=re.M) if item.startswith(start))
    return re.findall(r"`([^`]+)`", item.partition(":")[2])


@pytest.mark.slow  # about half a minute
def test_all_families_take_images_of_some_size_and_the_guide_names_those_that_do_not_take_96_pixels(refused):
    assert len(FAMILIES) >= 95 and "resnet" in FAMILIES and not {"star_backbones", "wrapped_model"} & set(FAMILIES)
    for family, line in refused.items():
        assert refusal(smallest(family), other_size(line)) is None, family
    assert known_issue("Every family of timm") == sorted(refused)


def test_networks_without_pooled_features_are_refused_and_in_the_guide():
    for name in {name.partition("_")[0]: name for name in sorted(ENCODERS, key=size, reverse=True)}.values():
        assert "instead of a vector of features for each" in str(refusal(name)), name
    assert known_issue("Networks without pooled features") == sorted(ENCODERS)


# Numbers


def step(module: nn.Module, loss: Tensor) -> None:
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3)
    loss.backward()
    optimizer.step()


def assert_loads(folder: Path, model: Any, images: Tensor) -> Tensor:
    """Checks that timm loads equal weights and computes equal outputs, which are returned."""
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    saved = model.state_dict()
    assert loaded.state_dict().keys() == saved.keys()
    assert all(torch.equal(tensor, saved[name]) for name, tensor in loaded.state_dict().items())
    with torch.no_grad():
        made, expected = loaded(images), model.eval()(images)
    assert torch.equal(made, expected)
    return made


@pytest.mark.filterwarnings("default")  # of timm's networks
@pytest.mark.parametrize("name", TRAINED)
def test_a_family_trains_a_step_exports_loads_and_is_fine_tuned_a_step(name: str, tmp_path: Path):
    line = refusal(name, FEW)
    pixels = other_size(line) if line else FEW
    images = torch.randn(4, 3, pixels, pixels, generator=torch.Generator().manual_seed(0))

    torch.manual_seed(0)
    pretrainer, _ = build(recipe(name, pixels))
    before = {key: tensor.clone() for key, tensor in pretrainer.backbone.named_parameters()}
    step(pretrainer, pretrainer.train()(batch(pretrainer.objective, 4))["loss"])
    assert any(not torch.equal(tensor, before[key]) for key, tensor in pretrainer.backbone.named_parameters())
    save_pretrained(tmp_path / "pretrained", pretrainer.backbone, pretrainer.objective)
    assert assert_loads(tmp_path / "pretrained", pretrainer.backbone, images).shape == (
        4,
        pretrainer.backbone.head_hidden_size,
    )
    del pretrainer, before

    settings = tiny("images", "views.size=null", model=str(tmp_path / "pretrained"))
    classifier, _ = finetuning.build(settings, 3)
    step(classifier, F.cross_entropy(classifier.train()(images), torch.arange(4) % 3))
    save_pretrained(tmp_path / "classifier", classifier)
    assert assert_loads(tmp_path / "classifier", classifier, images).shape == (4, 3)
