"""Features of a frozen backbone."""

import math
from pathlib import Path

import pytest
import timm
import torch
from torch import nn
from torchvision.transforms.v2.functional import to_pil_image

from runs import pictures, tiny
from star_training.data import open_source
from star_training.data.sources.spirograph import Spirographs
from star_training.evaluation import features
from star_training.evaluation.features import NotFinite, base_view, drawn_view, evaluating, extract, pixels, timm_view
from twins import every_operation

POLICY = tiny().policy


def backbone(seed: int = 0, **settings: object) -> nn.Module:
    torch.manual_seed(seed)
    return timm.create_model("test_resnet", num_classes=0, **settings)


def test_evaluating_puts_everything_back_as_it_was():
    model = backbone(drop_rate=0.5)
    model.layer1.eval()  # a part that somebody froze
    modes = [m.training for m in model.modules()]
    state = {k: v.clone() for k, v in model.state_dict().items()}
    for error in (None, RuntimeError):
        try:
            with evaluating(model):
                assert not any(m.training for m in model.modules()) and not torch.is_grad_enabled()
                model(torch.rand(4, 3, 32, 32))
                if error:
                    raise error
        except RuntimeError:
            pass
        assert [m.training for m in model.modules()] == modes and torch.is_grad_enabled()
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())  # running statistics too


@pytest.mark.parametrize("size", [1, 5, 7, 100])
def test_features_do_not_depend_on_the_batch(size: int):
    model, source = backbone(drop_rate=0.5), Spirographs(12)
    view = base_view(POLICY)
    found = extract(model, source, view, batch_size=size)
    with evaluating(model):
        singly = torch.cat([model(view([source[i]])) for i in range(12)])
    torch.testing.assert_close(found, singly, rtol=1e-4, atol=1e-5)
    assert found.shape == (12, 96) and found.dtype == torch.float32 and not found.requires_grad


def test_the_largest_map_bounds_the_images_at_once(monkeypatch: pytest.MonkeyPatch):
    class Wide(nn.Conv2d):
        def forward(self, x):
            sizes.append(len(x))
            return super().forward(x).mean((2, 3))

    sizes: list[int] = []
    model, source, view = (
        torch.nn.Sequential(torch.nn.Conv2d(3, 5, 1), Wide(5, 7, 1)),
        Spirographs(7),
        base_view(POLICY),
    )
    expected = extract(model, source, view)
    assert sizes == [1, 7]
    side = view([source[0]]).shape[-1]
    monkeypatch.setattr(features, "_MAPS", 3 * 5 * side**2)  # the output of the first convolution
    torch.testing.assert_close(extract(model, source, view), expected)
    assert sizes[2:] == [1, 3, 3, 1]


def test_features_that_are_not_finite_are_refused():
    model = backbone()
    with torch.no_grad():
        model.bn1.weight[3] = math.nan
    with pytest.raises(NotFinite, match="5 of 5 images of spirograph:5 have features that are not finite"):
        extract(model, Spirographs(5), base_view(POLICY))
    assert issubclass(NotFinite, ValueError)


def test_the_base_view_is_the_image_without_augmentation(tmp_path: Path):
    source = open_source(str(pictures(tmp_path, 4, size=24)))
    policy = every_operation(16)
    images = [source[i] for i in range(4)]
    mean, std = (torch.tensor(v)[:, None, None] for v in (policy.mean, policy.std))
    for view, image in zip(base_view(policy)(images), images, strict=True):
        cropped = policy.crop(image, policy.base(*image.shape[-2:]))
        torch.testing.assert_close(view, (cropped / 255 - mean) / std, rtol=0, atol=1e-5)


def test_drawn_views_are_the_same_for_the_same_seed():
    images = [Spirographs(3)[i] for i in range(3)]
    one, again, other = (drawn_view(POLICY, seed)(images) for seed in (0, 0, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)
    view = drawn_view(POLICY, 0)
    assert not torch.equal(view(images), view(images))  # it goes on drawing


def test_timm_s_view_is_what_timm_does_in_evaluation(tmp_path: Path):
    source = open_source(str(pictures(tmp_path, 3)))
    model = backbone()
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model), is_training=False)
    found = timm_view(model)([source[i] for i in range(3)])
    for view, index in zip(found, range(3), strict=True):
        assert torch.equal(view, transform(to_pil_image(source[index])))


def test_pixels_are_the_images():
    image = torch.arange(3 * 4 * 4, dtype=torch.uint8).reshape(3, 4, 4)
    assert torch.equal(pixels(4)([image])[0], image / 255)
    assert pixels(2)([image, image[:, :3]]).shape == (2, 3, 2, 2)
