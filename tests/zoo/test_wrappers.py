"""Every wrapper by existing, against slow twins.

Letters: B images, S image size, D features.
"""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from star_training import models
from star_training.data.sources.spirograph import Spirographs
from star_training.evaluation.features import extract, objects
from star_training.evaluation.protocols.regression import r2
from star_zoo import Objective, Policy, objectives, save_pretrained, wrapped_model, wrappers
from star_zoo.augmentations import Spirograph
from star_zoo.wrappers import Wrapper
from twins import MEAN, STD, every_operation, generator, randn, sized

S, B = 32, 5
POLICY = every_operation(S)


def parts(name: str) -> list[nn.Module]:
    """One backbone, or three of different kinds, sizes and normalisations."""
    others = [sized(48, "test_vit2", (0.1, 0.2, 0.3)), sized(24, mean=(0.5, 0.6, 0.7))]
    return [sized(), *(others if wrappers.find(name).several else [])]


def trained(name: str = "looc") -> Objective:
    """An objective on the features of `sized`, whose heads have random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        width = sized().num_features
        return objectives.build(name, width, POLICY, hidden=8, **({"embed_dim": 5} if name == "looc" else {}))


def build(name: str, policy: Policy = POLICY, **settings) -> Wrapper:
    return wrappers.build(name, parts(name), policy, trained(), **settings).eval()


def images(count: int = B, size: int = S) -> Tensor:
    """Normalised images of values in [0, 1]: (B, 3, S, S)."""
    pixels = torch.rand(count, 3, size, size, generator=generator(0))
    return (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def slow_averaged(x: Tensor, policy: Policy = POLICY, views: int = 8) -> Tensor:
    """One image and one view at a time."""
    model, g, rows = sized().eval(), generator(0), []
    for image in x:
        pixels = 255 * torch.stack([channel * STD[c] + MEAN[c] for c, channel in enumerate(image)])
        total = torch.zeros(model.num_features)
        for _ in range(views):
            params = policy.draw(*image.shape[-2:], g)
            total += model(policy.apply(policy.crop(pixels, params)[None], params[None]))[0]
        rows.append(total / views)
    return torch.stack(rows)


def slow_concat(x: Tensor) -> Tensor:
    """Each backbone on images that are brought back to [0, 1], resized and normalised anew."""
    columns = []
    for model in (m.eval() for m in parts("concat")):
        config = timm.data.resolve_model_data_config(model)
        pixels = x * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
        pixels = F.interpolate(pixels, config["input_size"][1:], mode="bilinear", antialias=True)
        mean, std = (torch.tensor(config[key])[:, None, None] for key in ("mean", "std"))
        columns.append(model((pixels - mean) / std))
    return torch.cat(columns, 1)


def slow_heads(x: Tensor) -> Tensor:
    """One space at a time, by the layers of its head."""
    features, spaces = sized().eval()(x), trained().heads.spaces
    hidden = [(features @ head[0].weight.T + head[0].bias).clamp(min=0) for head in spaces]
    return torch.cat([h @ head[2].weight.T + head[2].bias for h, head in zip(hidden, spaces, strict=True)], 1)


def slow_invariant(x: Tensor) -> Tensor:
    """The features of the four quarter turns, sorted feature by feature."""
    model = sized().eval()
    turns = [model(x.rot90(k, (2, 3))).tolist() for k in range(4)]
    rows = [[sorted(turn[b][d] for turn in turns) for d in range(model.num_features)] for b in range(len(x))]
    return torch.tensor(rows).flatten(1)


def slow_canonical(x: Tensor) -> Tensor:
    """Each image turned back from the pose of its largest activation."""
    model, network = build("canonical"), sized().eval()
    poses = [int(model.activations(image[None]).argmax()) for image in x]
    assert len(set(poses)) > 1
    return torch.cat([network(image[None].rot90(-pose, (2, 3))) for image, pose in zip(x, poses, strict=True)])


TWINS: dict[str, Callable[[Tensor], Tensor]] = {
    "averaged": slow_averaged,
    "canonical": slow_canonical,
    "concat": slow_concat,
    "heads": slow_heads,
    "invariant": slow_invariant,
}


# --- every wrapper


def test_every_file_is_a_wrapper_with_a_twin_and_is_named_in_the_help():
    folder = Path(wrappers.__file__).parent
    assert wrappers.known() == tuple(sorted(path.stem for path in folder.glob("[!_]*.py"))) == tuple(sorted(TWINS))
    assert all(f"{name}(" in models.WRAPPERS or f"{name}:" in models.WRAPPERS for name in wrappers.known())


@pytest.mark.parametrize("name", wrappers.known())
@torch.no_grad()
def test_features_equal_the_slow_twin(name: str):
    assert_close(build(name)(images()), TWINS[name](images()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", wrappers.known())
@torch.no_grad()
def test_a_wrapper_is_a_module_like_timms(name: str):
    model, x = build(name), images()
    features = model(x)
    assert features.shape == (B, model.num_features) and model.head_hidden_size == model.num_features
    assert torch.equal(model(x), features)  # nothing is random
    assert torch.equal(model.forward_head(model.forward_features(x)), features)
    assert timm.data.resolve_model_data_config(model)["input_size"] == (3, S, S)
    assert model.num_classes == model.pretrained_cfg["num_classes"] == 0
    model.reset_classifier(4)
    assert model(x).shape == (B, 4) and model.num_classes == 4 and model.get_classifier().out_features == 4
    assert torch.equal(model.forward_head(model.forward_features(x), pre_logits=True), features)
    model.reset_classifier(0)
    assert torch.equal(model(x), features)


@pytest.mark.parametrize("name", wrappers.known())
def test_gradients_reach_every_image_and_weight(name: str):
    model, x = build(name), images().requires_grad_()
    model.train(name == "canonical")  # a canonicalizer's choice has a gradient in training alone
    model(x).square().sum().backward()
    assert x.grad is not None and x.grad.isfinite().all() and x.grad.flatten(1).any(1).all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", wrappers.known())
@torch.no_grad()
def test_a_copy_is_independent_and_every_tensor_moves(name: str):
    model, x = build(name), images()
    before, copied = model(x), copy.deepcopy(model)
    assert torch.equal(copied(x), before)
    for p in copied.parameters():
        p.zero_()
    assert torch.equal(model(x), before)
    model.backbones[0].pretrained_cfg["mean"] = (9.0, 9.0, 9.0)
    assert model.pretrained_cfg["mean"] == MEAN
    moved = copied.to("meta")
    assert all(t.is_meta for t in (*moved.parameters(), *moved.buffers()))
    weights = {f"backbones.{k}.{key}" for k, part in enumerate(parts(name)) for key in part.state_dict()}
    heads = {f"objective.{key}" for key in trained().state_dict()} if model.uses_heads else set()
    chooses = {f"canonicalizer.{key}" for key in model.canonicalizer.state_dict()} if name == "canonical" else set()
    assert model.state_dict().keys() == weights | heads | chooses


@pytest.mark.parametrize("name", [name for name in wrappers.known() if not wrappers.find(name).uses_heads])
@torch.no_grad()
def test_a_saved_wrapper_is_a_model_of_timm_with_the_same_outputs(name: str, tmp_path: Path):
    inner = build(name)
    for model in (inner, wrappers.build("invariant", [build(name)], POLICY, kind="max")):  # wrappers nest
        wrapped_model.savable(model)
        model.reset_classifier(3)
        again = saved_and_loaded(model, tmp_path)
        assert type(again) is type(model) and again.policy == model.policy
        assert torch.equal(again(images()), model(images()))
        features = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=0).eval()
        assert torch.equal(features(images()), model.forward_features(images()))
        assert torch.equal(saved_and_loaded(again, tmp_path)(images()), model(images()))


def saved_and_loaded(model: nn.Module, folder: Path) -> nn.Module:
    save_pretrained(folder, model)
    return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()


def test_a_wrapper_that_needs_an_objective_can_not_be_saved():
    with pytest.raises(ValueError, match=r"^heads: computes with an objective, which a saved model does not contain"):
        wrapped_model.savable(build("heads"))


@pytest.mark.parametrize("name", wrappers.known())
def test_what_does_not_fit_is_refused(name: str):
    known = ", ".join(wrappers.settings(name)) or "none"
    with pytest.raises(ValueError, match=f"'{name}' has no setting bogus; known: {known}$"):
        build(name, bogus=1)
    with pytest.raises(ValueError, match="takes (one model|two models or more), not 0"):
        wrappers.build(name, [], POLICY)
    with pytest.raises(ValueError, match="takes backbones without classifier"):
        classifiers = [timm.create_model("test_resnet", num_classes=3) for _ in parts(name)]
        wrappers.build(name, classifiers, POLICY, trained())


def test_an_unknown_wrapper_is_refused_and_the_known_ones_listed():
    with pytest.raises(ValueError, match="wrapper 'averagd' not found; did you mean 'averaged'"):
        wrappers.find("averagd")


# --- averaged and concat


@pytest.mark.parametrize("views", [1, 2, 3])
@torch.no_grad()
def test_averaged_is_the_mean_in_a_loop(views: int):
    assert_close(build("averaged", views=views)(images()), slow_averaged(images(), views=views), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_draws_depend_on_the_place_in_a_batch_alone():
    model = build("averaged", views=2)
    assert_close(model(images())[:2], model(images()[:2]), rtol=1e-5, atol=1e-6)
    assert not torch.equal(model.draw(1, S, S)[0], model.draw(1, S, S)[1])


@torch.no_grad()
def test_concat_leaves_the_images_of_models_alike_as_they_are():
    x, model = images(), sized().eval()
    assert torch.equal(wrappers.build("concat", [model, model], POLICY).eval()(x), torch.cat([model(x)] * 2, 1))


def test_views_below_one_are_refused():
    with pytest.raises(ValueError, match="views of Averaged is 1001; it must be at least 1, and at most 1000"):
        wrappers.build("averaged", [sized()], POLICY, views=1001)
    with pytest.raises(ValueError, match="views of Averaged is 0; it must be at least 1"):
        build("averaged", views=0)


# --- heads


@torch.no_grad()
def test_heads_are_all_spaces_in_the_objectives_order_or_one_of_them():
    x, objective = images(), trained()
    spaces = objective.embed(sized().eval()(x))
    assert next(iter(spaces)) == "z_inv" and {"z_QuarterTurn", "z_ColorJitter", "z_Grayscale", "z_Blur"} < set(spaces)
    assert torch.equal(build("heads")(x), torch.cat(list(spaces.values()), 1))
    one = build("heads", space="z_Blur")
    assert torch.equal(one(x), spaces["z_Blur"]) and one.num_features == 5


def test_heads_need_an_objective_of_the_models_width_with_that_space():
    with pytest.raises(ValueError, match="Heads takes a model that was saved with its heads; this one has none"):
        wrappers.build("heads", [sized()], POLICY)
    with pytest.raises(ValueError, match="the heads take 7 features; this model has 96"):
        wrappers.build("heads", [sized()], POLICY, objectives.build("simclr", 7, POLICY))
    with pytest.raises(ValueError, match="space of Heads 'z_blur' not found; did you mean 'z_Blur'"):
        build("heads", space="z_blur")


# --- spirographs


def spirograph(views: int) -> Wrapper:
    return build("averaged", Policy((Spirograph(S),), MEAN, STD), views=views)


def error(model: nn.Module) -> float:
    """Returns the share of variance that a linear map of the features leaves, the mean over m and rfore.

    Untrained features of one view predict little of the other two numbers.
    """
    train, test = Spirographs(256), Spirographs(128, "test")
    found = [extract(model, source, objects()) for source in (train, test)]
    return float(1 - r2(found[0], train.targets, found[1], test.targets)[[0, 3]].mean())


def test_objects_are_rendered_and_averaging_reduces_the_error():
    model, things = spirograph(2), torch.stack([Spirographs(3)[k] for k in range(3)])
    assert model(things).shape == (3, model.num_features)
    assert timm.data.resolve_model_data_config(model)["input_size"] == (4, 1, 1) and model.takes_objects
    with pytest.raises(ValueError, match=r"renders objects, \(B, 4, 1, 1\); its input has the shape \(5, 3, 32, 32\)"):
        model(images())
    assert error(spirograph(8)) <= 0.6 * error(spirograph(1))


def test_models_of_objects_are_joined_but_not_averaged_again():
    both = wrappers.build("concat", [spirograph(1), spirograph(2)], POLICY)
    assert both.takes_objects and both(Spirographs(1)[0][None]).shape == (1, both.num_features)
    with pytest.raises(ValueError, match="takes a model of images; this one renders objects"):
        wrappers.build("averaged", [spirograph(1)], POLICY)
    with pytest.raises(ValueError, match="one kind of input"):
        wrappers.build("concat", [sized(), spirograph(1)], POLICY)


def test_random_images_have_finite_features():
    assert build("averaged")(randn(2, 3, S, S)).isfinite().all()
