"""One pass over all views computes what a pass for each view does, batch norm's statistics included."""

import copy

import pytest
import timm
import torch
from torch import nn

from star_zoo import Encoder
from star_zoo import encoder as encoder_module
from star_zoo.view_norms import ViewNorms
from twins import every_operation, randn

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
    torch.testing.assert_close(dict(one.named_buffers()), dict(three.named_buffers()))
    for found in (features, expected):
        (found * weights).sum().backward()
    torch.testing.assert_close(gradients(one), gradients(three))


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_statistics_count_a_batch_once_though_its_activations_are_computed_twice(
    name: str, reentrant: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("timm.layers.config._USE_REENTRANT_CKPT", reentrant)
    plain = backbone(name)
    checkpointed = copy.deepcopy(plain)
    checkpointed.set_grad_checkpointing(True)
    images = randn(VIEWS * IMAGES, 3, 48, 48).double()
    again = Again()
    for norm in checkpointed.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.register_forward_hook(again)
    for model in (plain, checkpointed):
        by_view = ViewNorms(model)
        for part in images.chunk(2):  # two batches make a step
            by_view(part.clone().requires_grad_(), VIEWS).square().sum().backward()
    assert again.count > 0
    kept, counted = dict(plain.named_buffers()), dict(checkpointed.named_buffers())
    assert any("running_var" in buffer for buffer in kept)
    assert [buffer for buffer in kept if not torch.equal(kept[buffer], counted[buffer])] == []
    torch.testing.assert_close(gradients(plain), gradients(checkpointed))


class Again:
    """Counts forward passes that a backward pass makes."""

    count = 0

    def __call__(self, *_: object) -> None:
        self.count += torch._C._current_graph_task_id() != -1


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


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_activations_of_several_passes_are_computed_again_as_each_was(name: str):
    """Three views of one size, then one of another: what is checkpointed of the first is split as before."""
    results = []
    for checkpointed in (False, True):
        model = backbone(name)
        model.set_grad_checkpointing(checkpointed)
        by_view = ViewNorms(model)
        loss = by_view(randn(VIEWS * IMAGES, 3, 64, 64).double(), VIEWS).square().mean()
        loss = loss + by_view(randn(IMAGES, 3, 32, 32, seed=1).double(), 1).square().mean()
        loss.backward()
        results.append((gradients(model), dict(model.named_buffers())))
    torch.testing.assert_close(results[0][0], results[1][0])
    for buffer, value in results[0][1].items():
        assert torch.equal(value, results[1][1][buffer]), buffer


def test_a_copy_is_independent():
    one = backbone("test_resnet")
    norms = ViewNorms(one)
    copied_norms, other = copy.deepcopy((norms, one))
    images = randn(VIEWS * IMAGES, 3, 32, 32).double()
    before = {k: v.clone() for k, v in one.state_dict().items()}
    expected = copied_norms(images, VIEWS)
    assert all(torch.equal(v, before[k]) for k, v in one.state_dict().items())
    assert torch.equal(norms(images, VIEWS), expected)
    torch.testing.assert_close(dict(one.named_buffers()), dict(other.named_buffers()), rtol=0, atol=0)


def test_large_views_pass_in_turn_to_the_same_features_and_gradients(monkeypatch):
    results, passes = [], []
    for limit in (10**9, 1):
        monkeypatch.setattr(encoder_module, "_LARGE", limit)
        torch.manual_seed(0)
        made = Encoder(every_operation(32), timm.create_model("test_resnet", num_classes=0)).train()
        seen: list[int] = []
        made.backbone.register_forward_pre_hook(lambda module, given, seen=seen: seen.append(len(given[0])))
        features = made([randn(4, 3, 32, 32, seed=k) for k in range(2)])
        torch.cat(features).square().sum().backward()
        buffers = [buffer.float() for buffer in made.backbone.buffers()]
        results.append([*features, *buffers, *(p.grad for p in made.backbone.parameters())])
        passes.append(seen)
    assert passes == [[8], [4, 4]]
    for together, in_turn in zip(*results, strict=True):
        torch.testing.assert_close(in_turn, together, rtol=1e-4, atol=1e-4)


def test_two_encoders_of_one_backbone_do_not_disturb_each_other():
    policy, model = every_operation(32), timm.create_model("test_resnet", num_classes=0)
    alone = Encoder(policy, copy.deepcopy(model)).train()
    first, second = Encoder(policy, model).train(), Encoder(policy, model).train()
    views = [randn(4, 3, 32, 32, seed=k) for k in range(2)]
    expected = alone(views)
    for encoder in (first, second):
        assert all(torch.equal(a, b) for a, b in zip(encoder(views), expected, strict=True))


@pytest.mark.parametrize("method", ["forward_features", "forward_intermediates"])
def test_another_method_of_the_backbone_has_one_batch_after_a_pass(method: str):
    taught, plain = backbone("test_resnet").train(), backbone("test_resnet").train()
    images = randn(VIEWS * IMAGES, 3, 32, 32).double()
    ViewNorms(taught)(images, VIEWS)
    found, expected = (getattr(model, method)(images) for model in (taught, plain))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_maps_cost_no_later_layer():
    model = timm.create_model("test_resnet", num_classes=0)
    encoder = Encoder(every_operation(32), model).train()
    reached: list[str] = []
    for name in ("layer1", "layer2", "layer3", "layer4"):
        getattr(model, name).register_forward_hook(lambda *_, name=name: reached.append(name))
    encoder.maps([randn(2, 3, 32, 32)], [2])
    assert reached == ["layer1", "layer2"]


def test_weights_of_five_dimensions_keep_their_layout():
    model = timm.create_model("test_resnet", num_classes=0)
    model.table = nn.Parameter(torch.zeros(2, 2, 2, 2, 2))  # as in LambdaNetworks
    encoder = Encoder(every_operation(32), model)
    assert model.conv1[0].weight.is_contiguous(memory_format=torch.channels_last) and model.table.is_contiguous()
    encoder.use_layout(channels_last=False)
    assert model.conv1[0].weight.is_contiguous()
