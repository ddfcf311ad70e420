"""Wrappers in other precisions than float32 and on other devices: features as before, up to rounding."""

from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from star_zoo import save_pretrained, wrapped_model, wrappers
from star_zoo.symmetry import canonicalizer, projections
from star_zoo.wrappers import Wrapper
from twins import POLICY, backbone, randn

VARIANTS = [
    ("averaged", {"views": 2}),
    ("concat", {}),
    *(("canonical", {"kind": kind}) for kind in canonicalizer.KINDS),
    *(("invariant", {"kind": kind}) for kind in projections.KINDS),
]


def made(name: str, settings: dict) -> Wrapper:
    parts = [backbone() for _ in range(2 if wrappers.find(name).several else 1)]
    return wrappers.build(name, parts, POLICY, **settings).eval()


def test_every_wrapper_without_heads_is_here():
    assert {name for name, _ in VARIANTS} == {n for n in wrappers.known() if not wrappers.find(n).uses_heads}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize(("name", "settings"), VARIANTS)
@torch.no_grad()
def test_a_converted_wrapper_has_the_features_of_before(name: str, settings: dict, dtype: torch.dtype, tmp_path: Path):
    model, images = made(name, settings), randn(3, 3, 32, 32)
    expected = model(images)
    save_pretrained(tmp_path, model)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, dtype=dtype).eval()
    for converted in (model.to(dtype), loaded):
        found = converted(images.to(dtype))
        assert found.dtype == dtype
        assert nn.functional.cosine_similarity(found.float(), expected, dim=1).min() > 0.999
    model.reset_classifier(5)
    assert model(images.to(dtype)).dtype == dtype


def test_a_canonicalizer_keeps_float32_and_moves_with_the_model():
    model = made("canonical", {"kind": "optimised"})
    before = {name: value.clone() for name, value in model.canonicalizer.state_dict().items()}
    model.half().to(torch.bfloat16)
    assert all(torch.equal(value, before[name]) for name, value in model.canonicalizer.state_dict().items())
    assert {p.dtype for p in model.backbones.parameters()} == {torch.bfloat16}
    model.to("meta").reset_classifier(3)
    assert {p.device.type for p in model.parameters()} == {"meta"}


def test_the_architecture_of_wrappers_alone_says_how_to_make_one():
    with pytest.raises(ValueError, match=r"star_zoo\.wrappers\.build makes one"):
        timm.create_model(wrapped_model.NAME)
