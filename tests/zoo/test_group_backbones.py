"""The equivariant backbones: equivariance, the interface of timm's models, files and cards.

As `star_*` models they are also tested in test_star_backbones.py and by timm's own suite, in test_timm_suite.py.
"""

import copy
import json
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from star_training.publishing import card
from star_zoo import Encoder, NotAvailable, hub, install, load_objective, objectives, save_pretrained, store
from star_zoo.group_resnet import ARCHITECTURES, GroupResNet
from star_zoo.groups import equivariance_error
from twins import every_operation, photos, randn

NAMES = list(ARCHITECTURES)
_trained: dict[str, GroupResNet] = {}


def create(name: str, **arguments) -> GroupResNet:
    torch.manual_seed(0)
    return timm.create_model(name, **arguments)


def trained(name: str) -> GroupResNet:
    """A model after two steps of training on random labels, in eval mode."""
    if name not in _trained:
        model = create(name, num_classes=5)
        optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
        for step in range(2):
            loss = F.cross_entropy(model(randn(3, 3, 32, 32, seed=step)), torch.arange(3))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        _trained[name] = model.eval()
    return _trained[name]


@pytest.fixture(params=NAMES)
def model(request: pytest.FixtureRequest) -> GroupResNet:
    """Each model, trained; not to be changed."""
    return trained(request.param)


# ----- the symmetry


def test_the_error_of_every_element_is_rounding(model: GroupResNet):
    assert equivariance_error(model.group, model.regular_features, randn(2, 3, 48, 48)) < 1e-5


@pytest.mark.parametrize("size", [32, 64, 96, 224])
@torch.no_grad()
def test_the_error_is_rounding_at_every_size(model: GroupResNet, size: int):
    """One element alone, to be fast: a quarter turn, in D4 after a flip."""
    g, x = model.group.order - 3, randn(1, 3, size, size)
    expected = model.group.act_on_features(model.regular_features(x), g)
    found = model.regular_features(model.group.act_on_images(x, g))
    assert float((found - expected).norm() / expected.norm()) < 1e-5


@torch.no_grad()
def test_outputs_stay_and_maps_turn(model: GroupResNet):
    group, x = model.group, randn(2, 3, 48, 33)  # no square, sides odd and even
    regular, (last, maps) = model.regular_features(x), model.forward_intermediates(x)
    assert regular.shape == (2, model.num_features, group.order)
    torch.testing.assert_close(regular.mean(-1), model.forward_head(last, pre_logits=True))
    for g in (1, group.order - 1):
        found, turned_maps = model.forward_intermediates(group.act_on_images(x, g))
        torch.testing.assert_close(found, group.act_on_images(last, g), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(model.forward_head(found), model.forward_head(last), rtol=1e-4, atol=1e-5)
        for ours, before in zip(turned_maps, maps, strict=True):
            expected = group.act_on_maps(before.unflatten(1, (-1, group.order)), g).flatten(1, 2)
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_features_distinguish_elements_and_those_of_plain_networks_turn_into_others(model: GroupResNet):
    """The tests above would hold for features that are constant."""
    group, x = model.group, randn(1, 3, 48, 48)
    z = model.regular_features(x)
    assert min(float((group.act_on_features(z, g) - z).norm() / z.norm()) for g in range(1, group.order)) > 0.01
    plain = timm.create_model(ARCHITECTURES[model.pretrained_cfg["architecture"]][1], num_classes=0).eval()
    assert float((plain(x.rot90(1, (2, 3))) - plain(x)).norm() / plain(x).norm()) > 0.01


# ----- what timm's models do


@pytest.mark.parametrize("name", NAMES)
def test_parameters_and_strides_are_those_of_the_plain_network(name: str):
    ours = timm.create_model(name, device="meta")
    plain = timm.create_model(ARCHITECTURES[name][1], num_classes=0, device="meta")
    counts = [sum(p.numel() for p in m.parameters()) for m in (ours, plain)]
    assert counts[0] == pytest.approx(counts[1], rel=0.01)
    assert [m["reduction"] for m in ours.feature_info] == [m["reduction"] for m in plain.feature_info]
    assert ours.num_features == round(plain.num_features / ours.group.order**0.5)


@torch.no_grad()
def test_pooling_and_dropout():
    model, x = copy.deepcopy(trained(NAMES[0])), randn(2, 3, 32, 40)
    last = model.forward_features(x)
    model.reset_classifier(0, "max")
    torch.testing.assert_close(model(x), last.amax((2, 3)))
    model.reset_classifier(0)  # keeps the pooling
    assert model(x).equal(last.amax((2, 3)))
    model.reset_classifier(0, "catavgmax")
    assert model(x).shape == (2, model.head_hidden_size) == (2, 2 * model.num_features)
    model.drop_rate = 0.5
    torch.manual_seed(0)
    pooled = model.forward_head(last)
    dropped = model.train().forward_head(last)
    assert 0.3 < float((dropped[pooled != 0] == 0).float().mean()) < 0.7
    assert dropped[dropped != 0].equal(2 * pooled[dropped != 0])


def test_layers_are_grouped_from_stem_to_head():
    from timm.optim import param_groups_layer_decay

    model = create(NAMES[0], num_classes=3)
    scales = {
        name: group["lr_scale"]
        for group in param_groups_layer_decay(model, layer_decay=0.5)
        for parameter in group["params"]
        for name, p in model.named_parameters()
        if p is parameter
    }
    assert scales["stem.0.weight"] < scales["stages.0.1.conv1.weight"] < scales["stages.3.1.conv1.weight"]
    assert scales["stages.3.1.conv1.weight"] < scales["fc.weight"] == 1


def test_views_in_one_pass_are_views_in_a_pass_each():
    policy = every_operation(32)
    together = Encoder(policy, create(NAMES[0]).double())
    alone = copy.deepcopy(together)
    views = [randn(2, 3, 32, 32, seed=seed).double() for seed in (0, 1)]
    expected = torch.cat([alone.backbone(view) for view in views])
    torch.testing.assert_close(torch.cat(together(views)), expected)
    torch.testing.assert_close(dict(together.backbone.named_buffers()), dict(alone.backbone.named_buffers()))
    maps = together.maps(views, [2])
    assert [x.shape for (x,) in maps] == [(2, together.backbone.feature_info[2]["num_chs"], 4, 4)] * 2


def test_a_training_step_is_one_graph_for_the_compiler():
    model, x = create(NAMES[0]), randn(2, 3, 32, 32)
    torch._dynamo.reset()
    found = torch._dynamo.explain(model)(x)
    assert (found.graph_count, found.graph_break_count) == (1, 0), found.break_reasons


@torch.no_grad()
def test_half_precision_and_channels_last_change_no_more_than_rounding():
    model, x = trained(NAMES[0]), randn(2, 3, 32, 32)
    expected = model(x)
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    x = x.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last(x), expected, rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        half = last(x)
    assert half.dtype == torch.bfloat16
    assert float((half - expected).norm() / expected.norm()) < 0.05


# ----- files


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model with heads."""
    torch.manual_seed(0)
    model = create(NAMES[0])
    objective = objectives.build("simclr", model.num_features, every_operation(48), hidden=16, embed_dim=8)
    return save_pretrained(tmp_path_factory.mktemp("saved"), trained_backbone(model), objective)


def trained_backbone(model: nn.Module) -> nn.Module:
    """A model whose norms have seen images."""
    model.train()(photos(4, 32, 32).float() / 255)
    return model.eval()


@torch.no_grad()
def features(name: str, **arguments) -> Tensor:
    return timm.create_model(name, pretrained=True, num_classes=0, **arguments).eval()(randn(1, 3, 32, 32))


def test_a_saved_model_loads_again_and_can_be_installed(folder: Path, monkeypatch, tmp_path: Path):
    config = json.loads((folder / "config.json").read_text())
    assert (config["architecture"], config["num_features"]) == (NAMES[0], create(NAMES[0]).num_features)
    hub.check(folder)
    expected = features(f"local-dir:{folder}")
    monkeypatch.setenv("STAR_ZOO_HOME", str(tmp_path))
    with pytest.raises(ValueError, match=f"its tag must be {NAMES[0]}.NAME, not 'star_resnet10t.mine'"):
        install(folder, "star_resnet10t.mine")
    install(folder, f"{NAMES[0]}.cifar10")
    assert features(f"{NAMES[0]}.cifar10").equal(expected)
    assert load_objective(f"{NAMES[0]}.cifar10").config["objective"] == "simclr"


def test_an_architecture_of_a_newer_version_is_named(folder: Path, monkeypatch, tmp_path: Path):
    from star_zoo import star_backbones

    monkeypatch.setenv("STAR_ZOO_HOME", str(tmp_path))
    tag = "star_c4_resnet10t_wide.new"
    store.put(tag, [folder / name for name in ("config.json", "model.safetensors")])
    with pytest.raises(
        NotAvailable, match=r"'star_c4_resnet10t_wide' is unknown: .*own are star_c4_.* a newer star_zoo"
    ):
        star_backbones._installed(tag, store.folder(tag))


def test_the_card_has_the_error_and_says_that_timm_alone_lacks_the_network(folder: Path):
    text = card.render(folder, "hf-hub:me/mine")
    error = float(text.split("relative error of the features of a random image is ")[1].split()[0])
    assert 0 < error < 1e-5
    assert f"star-zoo's {NAMES[0]}, pretrained" in text and "timm's star" not in text
    assert "under C4, by construction" in text
    assert "timm alone can't load this model" in text and text.count("import timm, star_zoo") == 1
    assert "library_name: star-zoo" in text and "- transformers" not in text
