"""The gradient of augmentations with respect to their params, against finite differences in double precision."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from star_zoo.augmentations import Augmentation, Blur, ColorJitter
from star_zoo.augmentations.policy import KNOWN
from twins import generator, make

SMOOTH = [ColorJitter(style="torchvision"), ColorJitter(style="released"), Blur(kernel=5)]


def images() -> Tensor:
    """Images without values near the bounds of [0, 1], where clamping has a kink: (3, 3, 6, 6)."""
    return 0.3 + 0.3 * torch.rand(3, 3, 6, 6, generator=generator(0), dtype=torch.float64)


def slopes(augmentation: Augmentation, x: Tensor, params: Tensor, weights: Tensor, step: float = 1e-6) -> Tensor:
    found = torch.zeros_like(params)
    for b in range(len(params)):
        for k in range(params.shape[1]):
            ends = []
            for sign in (1, -1):
                moved = params.clone()
                moved[b, k] += sign * step
                ends.append((weights * augmentation.apply(x, moved)).sum())
            found[b, k] = (ends[0] - ends[1]) / (2 * step)
    return found


@pytest.mark.parametrize("augmentation", SMOOTH, ids=["torchvision", "released", "blur"])
def test_gradients_equal_finite_differences(augmentation: Augmentation):
    x, weights = images(), torch.randn(3, 3, 6, 6, generator=generator(1), dtype=torch.float64)
    rows = {"ColorJitter": [[1.1, 0.9, 1.2, 0.05], [0.9, 1.1, 0.8, -0.05], [1, 1, 1, 0]], "Blur": [[0.7], [1.5], [0.9]]}
    params = torch.tensor(rows[type(augmentation).__name__], dtype=torch.float64, requires_grad=True)
    out = augmentation.apply(x, params)
    (weights * out).sum().backward()
    assert_close(params.grad, slopes(augmentation, x, params.detach(), weights), rtol=1e-5, atol=1e-6)
    assert torch.equal(out.detach(), augmentation.apply(x, params.detach()))


def test_an_untouched_image_keeps_its_values_and_passes_its_gradient_once():
    x, params = images().requires_grad_(), torch.tensor([[1.0, 1, 1, 0]] * 3, dtype=torch.float64, requires_grad=True)
    out = ColorJitter().apply(x, params)
    assert torch.equal(out, x)
    out.sum().backward()
    assert_close(x.grad, torch.ones_like(x))


@pytest.mark.parametrize("name", [name for name in KNOWN if name != "Spirograph"])
def test_augmentations_say_whether_they_are_differentiable(name: str):
    augmentation = make(name)
    x = (255 * images()).round() if name == "Crop" else images()
    params = torch.tensor([augmentation.draw(16, 16, [0.1] * augmentation.uniforms)] * 3, dtype=torch.float64)
    assert augmentation.apply(x, params.requires_grad_()).requires_grad == augmentation.differentiable
