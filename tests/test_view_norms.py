"""One pass over all views computes what a pass for each view does, batch norm's statistics included."""

import copy

import pytest
import timm
import torch
from torch import nn

from training.view_norms import ViewNorms
from twins import randn

VIEWS, IMAGES = 3, 4


def backbone(name: str) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=0).double()


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext", "test_vit"])
def test_it_is_a_pass_for_each_view(name: str, checkpointed: bool):
    one = backbone(name)
    three = copy.deepcopy(one)
    one.set_grad_checkpointing(checkpointed)
    three.set_grad_checkpointing(checkpointed)
    size = one.pretrained_cfg["input_size"][-1]
    images = randn(VIEWS * IMAGES, 3, size, size).double()
    weights = randn(VIEWS * IMAGES, one.head_hidden_size, seed=1).double()

    features = ViewNorms(one)(images, VIEWS)
    expected = torch.cat([three(view) for view in images.chunk(VIEWS)])
    torch.testing.assert_close(features, expected)
    # now: what is computed again for the gradients counts once more, and in another order
    torch.testing.assert_close(dict(one.named_buffers()), dict(three.named_buffers()))
    for found in (features, expected):
        (found * weights).sum().backward()
    torch.testing.assert_close(gradients(one), gradients(three))


def test_it_matters():
    one, joint = backbone("test_resnet"), backbone("test_resnet")
    images = randn(VIEWS * IMAGES, 3, 32, 32).double() * torch.arange(1, 13)[:, None, None, None]
    assert not torch.allclose(ViewNorms(one)(images, VIEWS), joint(images))


@pytest.mark.parametrize("training", [False, True])
def test_whoever_else_calls_the_backbone_has_one_batch(training: bool):
    taught, plain = backbone("test_resnet").train(training), backbone("test_resnet").train(training)
    images = randn(VIEWS * IMAGES, 3, 32, 32).double()
    by_view = ViewNorms(taught)
    by_view(images, VIEWS), [plain(view) for view in images.chunk(VIEWS)]
    assert torch.equal(taught(images), plain(images))
    assert taught.state_dict().keys() == plain.state_dict().keys()


def test_a_backbone_that_fails_is_left_as_it_was():
    taught, plain = backbone("test_resnet"), backbone("test_resnet")
    by_view = ViewNorms(taught)
    with pytest.raises(RuntimeError):
        by_view(randn(6, 5, 32, 32).double(), VIEWS)  # five channels
    images = randn(6, 3, 32, 32).double()
    assert torch.equal(taught(images), plain(images))
