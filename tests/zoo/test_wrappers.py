"""Every wrapper by existing, against slow twins; the grammar of model names; wrappers through the commands.

Letters: B images, S image size, D features.
"""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from data_cases import birds
from star_training import models
from star_training.cli.main import main
from star_training.data.sources.spirograph import Spirographs
from star_training.evaluation.features import extract, objects
from star_training.evaluation.frozen_model import FrozenModel, load
from star_training.evaluation.protocols.regression import r2
from star_training.models.create import create
from star_training.models.names import Leaf, Wrapped, parse
from star_training.models.resolve import called, model_folder, saved_objective
from star_zoo import Objective, Policy, objectives, save_pretrained, wrapped_model, wrappers
from star_zoo.augmentations import Crop, Spirograph
from star_zoo.wrappers import Wrapper
from twins import MEAN, STD, backbone, every_operation, generator, randn, repeatable

S, B = 32, 5
POLICY = every_operation(S)


def sized(size: int = S, name: str = "test_resnet", mean: tuple = MEAN) -> nn.Module:
    overlay = {"input_size": (3, size, size), "mean": mean, "std": STD, "crop_pct": 1.0}
    return backbone(name, pretrained_cfg_overlay=overlay)


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
        wrappers.build("averaged", [backbone()], POLICY, views=1001)
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


# --- names


def names() -> st.SearchStrategy:
    """Parsed names; a concat stands last in another, because it takes all that follows."""
    plain = st.sampled_from(["resnet18", "timm:vit", "hf-hub:me/mine@v1", "local-dir:none", "star_resnet10t.a", "x/y"])
    leaf = st.builds(Leaf, plain, st.booleans())
    settings = st.one_of(st.just({}), st.fixed_dictionaries({"views": st.integers(-9, 99)}))

    def averaged(inner: st.SearchStrategy) -> st.SearchStrategy:
        return st.builds(lambda s, m: Wrapped("averaged", s, (m,)), settings, inner) | st.builds(
            lambda s, m: Wrapped("heads", {"space": s}, (m,)), st.sampled_from(["all", "z_eq"]), inner
        )

    single = st.recursive(leaf, averaged, max_leaves=3)

    def larger(inner: st.SearchStrategy) -> st.SearchStrategy:
        first = st.lists(single, min_size=1, max_size=3)
        return averaged(inner) | st.builds(lambda a, last: Wrapped("concat", {}, (*a, last)), first, inner)

    return st.recursive(single, larger, max_leaves=4)


@repeatable
@given(names())
def test_a_name_is_read_as_it_is_written(model: Leaf | Wrapped):
    assert parse(str(model)) == model
    assert called(str(model)) == str(model)


@repeatable
@given(st.text("averagedconcat:+(),=8 untrained:é/", max_size=40))
def test_any_text_is_a_name_or_refused_in_one_line(text: str):
    try:
        parse(text)
    except ValueError as refused:
        assert "\n" not in str(refused)


def test_names_mean_what_the_grammar_says():
    a, b, c = map(Leaf, "abc")
    assert parse("averaged:a") == Wrapped("averaged", {}, (a,))
    assert parse("averaged( 4 ):a") == parse("averaged(views=4):a") == Wrapped("averaged", {"views": 4}, (a,))
    assert parse("averaged(4):concat:a+b") == Wrapped("averaged", {"views": 4}, (Wrapped("concat", {}, (a, b)),))
    assert parse("concat:averaged:a+b") == Wrapped("concat", {}, (Wrapped("averaged", {}, (a,)), b))
    assert parse("concat:a+concat:b+c") == Wrapped("concat", {}, (a, Wrapped("concat", {}, (b, c))))
    assert parse("concat:untrained:a+b") == Wrapped("concat", {}, (Leaf("a", untrained=True), b))
    assert parse("untrained:timm:a") == Leaf("timm:a", untrained=True)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("averaged(vews=3):a", "setting of averaged 'vews' not found; did you mean 'views'. known: views"),
        ("averaged(many):a", "averaged.views is 'many'; it must be a whole number"),
        ("averaged(views=2.5):a", "averaged.views is 2.5; it must be a whole number"),
        ("averaged(1,2):a", "has too many settings; known: views"),
        ("averaged(views=1,views=2):a", "has views twice"),
        ("concat(3):a+b", "has too many settings; known: none"),
        ("concat:a", "'concat:a' lacks a model; write concat:MODEL.MODEL"),
        ("concat:a+", "lacks a model"),
        ("averaged:", "'averaged:' lacks a model; write averaged:MODEL"),
        ("untrained:averaged:a", "untrained: stands before a single name, as in averaged:untrained:NAME"),
        (
            "averagd:untrained:test_resnet",
            "wrapper 'averagd' not found; did you mean 'averaged'. known: averaged",
        ),
        ("concat:untrained:test_resnet+pixels", "pixels are no model"),
        ("averaged:nosuchnet", "model 'nosuchnet' can't be loaded"),
        ("", "name is empty"),
    ],
)
def test_a_wrong_name_is_refused_in_one_line(text: str, told: str):
    with pytest.raises(ValueError, match=told) as refused:
        create(text)
    assert "\n" not in str(refused.value)


def test_a_path_that_exists_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a+b", "averaged:x", "p:q+r"):
        save_pretrained(tmp_path / name / "export", sized())
        assert parse(name) == Leaf(name) and model_folder(name) == Path(name) / "export"
        assert called(f"untrained:{tmp_path / name}") == f"untrained:{name}"
    assert parse("concat:a+b+p:q+r+untrained:c").models == (Leaf("a+b"), Leaf("p:q+r"), Leaf("c", untrained=True))
    assert create("concat:a+b+averaged(2):p:q+r").num_features == 2 * sized().num_features


# --- commands


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run's folder with an export and its heads, in the folder that is the current one."""
    model, policy = sized(), Policy((Crop(S),), MEAN, STD)
    saved = objectives.build("simclr", model.num_features, policy, hidden=8)
    save_pretrained(tmp_path / "secret" / "mine" / "export", model, saved)
    monkeypatch.chdir(tmp_path / "secret")
    return tmp_path / "secret" / "mine"


def test_an_averaged_model_keeps_its_objective_and_several_have_none(run: Path):
    one, averaged = load(str(run)), load(f"averaged(2):{run}")
    assert averaged.objective is not None and averaged.policy == one.policy == averaged.backbone.policy
    assert saved_objective(f"concat:{run}+{run}") is None and saved_objective(f"untrained:{run}") is None


def test_heads_replace_the_objective_and_keep_its_policy(run: Path):
    one, heads = load(str(run)), load(f"heads:{run}")
    assert heads.objective is None and heads.policy == one.policy == load(f"averaged:heads:{run}").policy
    assert heads.backbone.num_features == 128 and heads.fingerprint != one.fingerprint
    assert load(f"heads(space=z_inv):averaged(2):{run}").backbone.num_features == 128
    with pytest.raises(ValueError, match="saved with its heads; this one has none"):
        load("heads:untrained:test_resnet")


def test_features_are_kept_by_wrapper_settings_and_policy(run: Path):
    prefixes = ("", "averaged:", "averaged(2):", f"concat:{run}+")
    marks = [load(f"{prefix}{run}").fingerprint for prefix in prefixes]
    other = wrappers.build("averaged", [sized()], Policy((Crop(S, scale=(0.5, 1.0)),), MEAN, STD))
    changed = FrozenModel("changed", other, load(f"averaged:{run}").preprocess)
    assert len({*marks, changed.fingerprint}) == 5 and load(f"averaged(8):{run}").fingerprint == marks[1]


def test_two_untrained_models_in_a_wrapper_differ_and_depend_on_the_seed():
    first, second = create("concat:untrained:test_resnet+untrained:test_resnet", seed=3).backbones
    assert torch.equal(first.conv1[0].weight, create("untrained:test_resnet", seed=3).conv1[0].weight)
    assert not torch.equal(first.conv1[0].weight, second.conv1[0].weight)


def test_wrappers_are_evaluated_and_compared_by_their_whole_names(run: Path, capsys: pytest.CaptureFixture[str]):
    pack, out = str(birds(run.parent)), str(run.parent / "results.json")
    averaged, both = f"averaged(2):{run}", f"concat:{run}/export+untrained:test_resnet"
    assert main(["eval", "knn", averaged, "--data", pack, "--out", out]) == 0
    assert main(["compare", averaged, both, "--data", pack, "--protocol", "knn", "--out", out]) == 0
    text = Path(out).read_text()
    told = json.loads(text)
    assert told["evaluations"][0]["model"] == told["comparisons"][0]["model"] == "averaged(views=2):mine"
    assert told["comparisons"][0]["other"] == "concat:mine+untrained:test_resnet" and "secret" not in text
    assert main(["report", out, "--out", str(run / "report.html")]) == 0
    assert "averaged(views=2):mine" in (run / "report.html").read_text()
    capsys.readouterr()


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["publish", "MODEL", "me/mine", "--dry-run"], "only a saved folder can be published"),
        (["install", "MODEL", "star_test_resnet.mine"], "only a saved folder can be published"),
        (["card", "MODEL"], "only a saved folder can be published"),
        (["report", "MODEL"], "only a saved folder can be published"),
        (["pretrain", "spirograph_tiny", "--init-from", "MODEL", "--out", "out"], "weights of a single model"),
    ],
)
def test_commands_that_need_a_single_model_refuse_wrappers_in_one_line(command, told: str, run: Path, capsys):
    words = [f"averaged:{run}" if word == "MODEL" else word for word in command]
    assert main(words) == 1
    error = capsys.readouterr().err
    assert f"'averaged:{run}' is a wrapper; " in error and told in error and error.count("\n") == 1


def test_a_fine_tuned_fusion_is_one_model_in_every_command(run: Path, tmp_path: Path, capsys):
    out, data = str(tmp_path / "tuned"), str(birds(tmp_path / "birds"))
    words = ["--data", data, "--out", out, "--set", "epochs=1", "--set", "batch_size=2", "--set", "views.size=32"]
    words += ["--set", "precision=no", "--set", "run.workers=0"]
    assert main(["finetune", f"concat:{run}+averaged(views=2):untrained:test_resnet", *words]) == 0
    tuned = timm.create_model(f"local-dir:{out}/export", pretrained=True)
    assert tuned.num_features == 2 * sized().num_features and tuned.num_classes == 4
    assert main(["eval", "knn", out, "--data", data, "--out", str(tmp_path / "results.json")]) == 0
    assert main(["card", out]) == 0
    text = (Path(out) / "export" / "README.md").read_text()
    assert "star-zoo's concat of timm's test_resnet and star-zoo's averaged of timm's test_resnet" in text
    assert main(["finetune", f"heads:{run}", *words[:2], *words[4:], "--out", str(tmp_path / "heads")]) == 1
    assert "\nstar-zoo: heads: computes with an objective" in capsys.readouterr().err


def test_random_images_have_finite_features():
    assert build("averaged")(randn(2, 3, S, S)).isfinite().all()
