"""The star_* models as timm sees them: every registered name is tested by existing.

timm's own suite runs over the same names in test_timm_suite.py; here are the promises that it can't know.
"""

import json
import re
from pathlib import Path

import pytest
import timm
import torch
from timm.models import PretrainedCfg
from torch import Tensor, nn

from runs import plain
from star_catalog import tags
from star_catalog.reading import one_line
from star_zoo import NotAvailable, load_objective, star_backbones

MODELS = timm.list_models("star_*")
TAGS = timm.list_models("star_*", include_tags=True)
OWN = [name for name in MODELS if not timm.is_model(name.removeprefix("star_"))]  # networks that plain timm lacks


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small inputs gain nothing from more; on busy cores threads that wait for each other take four times longer."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def cfg_of(name: str) -> PretrainedCfg:
    """The cfg that timm holds for a name."""
    cfg = timm.get_pretrained_cfg(name)
    assert cfg is not None
    return cfg


def stock(name: str) -> str:
    """timm's name of the same architecture; of our own networks, of the plain one of their size."""
    return re.sub(r"^star_([cd]4_)?", "", name).partition(".")[0]


def saved(name: str) -> str:
    """The architecture that a saved model names: timm's, or ours where timm has none."""
    architecture = name.partition(".")[0]
    return architecture if architecture in OWN else stock(name)


def small(name: str, **kwargs) -> tuple[nn.Module, int]:
    """A model in eval mode and the smallest input side that shows what is tested: 64 px, whatever the row says."""
    if cfg_of(name).fixed_input_size:
        kwargs["img_size"] = 64
    return timm.create_model(name, **kwargs).eval(), 64


def images(side: int, channels: int = 3, count: int = 2) -> Tensor:
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(0))


def run_python(code: str, *args: str | Path) -> str:
    """Runs code in a process without star_zoo, in which warnings are errors, from the folder that holds star_zoo."""
    return plain(code, *args, cwd=Path(star_backbones.__file__).parents[1])


# ----- the rows


def test_the_first_rows_are_there():
    expected = {
        "star_resnet10t.cifar10": 48,
        "star_resnet10t.tin100": 48,
        "star_resnet10t.cifar10_simclr": 48,
        "star_resnet18.tin100": 64,
        "star_resnet18.tinyimagenet": 64,
        "star_resnet18.stl10": 96,
        "star_resnet50.in100": 224,
        "star_vit_small_patch16_224.in100": 224,
        "star_convnext_atto.tin100": 64,
        "star_convnext_tiny.in100": 224,
    }
    assert set(expected) <= set(TAGS)
    for name, side in expected.items():
        assert cfg_of(name).input_size == (3, side, side)


@pytest.mark.parametrize("name", TAGS)
def test_a_row_reaches_the_data_config(name):
    row = tags.TAGS[name]
    config = timm.data.resolve_model_data_config(timm.create_model(name, device="meta"))
    assert config == {
        "input_size": (3, row["size"], row["size"]),
        "interpolation": "bicubic",
        "mean": row["mean"],
        "std": row["std"],
        "crop_pct": row.get("crop_pct", 1.0),
        "crop_mode": "center",
    }


@pytest.mark.parametrize("name", TAGS)
def test_a_cfg_takes_only_structure_from_timm(name):
    cfg, base = cfg_of(name), cfg_of(stock(name))
    first = "stem.0" if saved(name) in OWN else base.first_conv
    assert (cfg.first_conv, cfg.classifier, cfg.fixed_input_size) == (first, base.classifier, base.fixed_input_size)
    assert (cfg.num_classes, cfg.license, cfg.custom_load, cfg.test_input_size) == (0, "apache-2.0", False, None)
    assert cfg.url is None  # weights live on the Hub
    assert not (cfg.hf_hub_id or "").startswith("timm/"), "that is where timm's own weights live"
    assert cfg.hf_hub_id is None or "@" in cfg.hf_hub_id, f"pin a revision: {cfg.hf_hub_id}"


def test_tags_are_listed_as_pretrained_where_weights_are_on_this_machine_or_pinned():
    listed = [name for name in TAGS if cfg_of(name).hf_hub_id or isinstance(tags.place(name), Path)]
    assert timm.list_pretrained("star_*") == listed
    assert "star_resnet10t.cifar10" in listed


def test_the_default_tag_is_the_first_row_of_an_architecture():
    for name in MODELS:
        first = next(tag for tag in tags.TAGS if tag.startswith(f"{name}."))
        assert tags.full(name) == first == f"{name}.{cfg_of(name).tag}"


def test_importing_adds_names_changes_none_of_timms_and_imports_no_training():
    code = """
import sys, timm
from timm.models import get_pretrained_cfg, model_entrypoint
before = {name: (model_entrypoint(name), get_pretrained_cfg(name)) for name in timm.list_models()}
modules = {module: timm.list_models(module=module) for module in timm.list_modules()}
import star_zoo.star_backbones  # warnings are errors: timm warns when a name is overwritten
after = set(timm.list_models()) - set(before)
assert "wrapped" in after and all(name.startswith("star_") for name in after - {"wrapped"}), after
assert before == {name: (model_entrypoint(name), get_pretrained_cfg(name)) for name in before}
assert modules == {module: timm.list_models(module=module) for module in modules}
assert set(timm.list_models(module="star_backbones")) == after - {"wrapped"}
assert not any(name.split(".")[0] == "star_training" for name in sys.modules)
"""
    run_python(code)


# ----- what a timm model does


@pytest.mark.parametrize("name", [name for name in MODELS if name not in OWN])
def test_a_model_is_timms_without_a_classifier(name):
    cfg = cfg_of(name)
    size = {"img_size": cfg.input_size[-1]} if cfg.fixed_input_size else {}
    ours = timm.create_model(name, device="meta")
    theirs = timm.create_model(stock(name), num_classes=0, device="meta", **size)
    assert type(ours) is type(theirs)
    ours, theirs = ([(k, v.shape) for k, v in model.state_dict().items()] for model in (ours, theirs))
    assert ours == theirs


@pytest.mark.parametrize("name", MODELS)
def test_features_maps_and_heads(name):
    model, side = small(name)
    x = images(side)
    with torch.no_grad():
        features = model(x)
        unpooled = model.forward_features(x)
        final, maps = model.forward_intermediates(x)
        assert features.shape == (2, model.num_features)
        assert model.forward_head(unpooled).equal(features)
        torch.testing.assert_close(final, unpooled)
        assert len(maps) == len(model.feature_info)
        assert all(m.ndim == 4 and len(m) == 2 for m in maps)
        model.reset_classifier(7)
        assert model(x).shape == (2, 7)
        model.reset_classifier(0)
        assert model(x).equal(features)


@pytest.mark.parametrize("name", MODELS)
def test_features_only(name):
    model, side = small(name, features_only=True)
    with torch.no_grad():
        maps = model(images(side))
    assert [m.shape[1] for m in maps] == model.feature_info.channels()
    assert [side // m.shape[-1] for m in maps] == model.feature_info.reduction()


@pytest.mark.parametrize("name", MODELS)
def test_arguments_reach_the_model(name):
    model, side = small(name, in_chans=1, num_classes=7, dtype=torch.float64)
    assert model(images(side, channels=1).double()).shape == (2, 7)
    model, side = small(name, global_pool="", device="meta")
    assert model(images(side).to("meta")).shape == model.forward_features(images(side).to("meta")).shape
    with pytest.raises(TypeError, match="not_an_argument"):
        timm.create_model(name, device="meta", not_an_argument=1)


@pytest.mark.parametrize("name", MODELS)
def test_grad_checkpointing_changes_no_gradient(name):
    gradients = []
    for enable in (False, True):
        torch.manual_seed(0)
        model, side = small(name)  # eval mode: batch norm's running statistics would move twice
        model.set_grad_checkpointing(enable)
        model(images(side, count=1)).square().mean().backward()
        gradients.append([p.grad for p in model.parameters()])
    for kept, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(checkpointed, kept)


# ----- weights


def weights(name: str) -> dict[str, Tensor]:
    """A state dict of the right shapes, every tensor another constant."""
    state = timm.create_model(name, device="meta").state_dict()
    return {k: torch.full(v.shape, i % 7 / 8, dtype=v.dtype) for i, (k, v) in enumerate(state.items())}


@pytest.mark.parametrize("name", [name for name in TAGS if not cfg_of(name).has_weights])
def test_pretrained_without_weights_says_the_tag_and_the_ways_out(name):
    with pytest.raises(NotAvailable, match=f"no weights for {name}: .*local store.*in the package.*Ways out: ") as info:
        timm.create_model(name, pretrained=True)
    assert "\n" not in str(info.value)
    assert one_line(info.value) == str(info.value)
    with pytest.raises(NotAvailable, match=f"no heads for {name}: .*local store.*in the package.*Ways out: .* run or"):
        load_objective(name)


@pytest.mark.parametrize("name", TAGS)
def test_pretrained_loads_weights_of_the_users_own(name, tmp_path):
    state = weights(name)
    torch.save(state, tmp_path / "weights.pth")
    for overlay in ({"file": str(tmp_path / "weights.pth")}, {"state_dict": state}):
        model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
        assert all(value.equal(state[key]) for key, value in model.state_dict().items())


def test_pretrained_weights_adapt_to_channels_and_classes():
    overlay = {"state_dict": weights("star_resnet18.stl10")}
    model = timm.create_model(
        "star_resnet18.stl10", pretrained=True, pretrained_cfg_overlay=overlay, in_chans=1, num_classes=7
    )
    torch.testing.assert_close(model.conv1.weight, overlay["state_dict"]["conv1.weight"].sum(1, keepdim=True))
    assert model.fc.out_features == 7


def test_pretrained_asks_the_hub_where_an_overlay_says_so(monkeypatch):
    asked, state = [], weights("star_resnet18.stl10")

    def load(hub_id, **kwargs):
        asked.append(hub_id)
        return dict(state)

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", load)
    timm.create_model("star_resnet18.stl10", pretrained=True, pretrained_cfg_overlay={"hf_hub_id": "someone/else@v1"})
    assert asked == ["someone/else@v1"]


def test_a_wrong_tag_is_an_error():
    with pytest.raises(ValueError, match="tag 'star_resnet18.badtag' not found; did you mean 'star_resnet18"):
        timm.create_model("star_resnet18.badtag")


@pytest.mark.parametrize("name", TAGS)
def test_a_model_carries_the_name_of_its_architecture(name):
    cfg = timm.create_model(name, device="meta").pretrained_cfg  # timm writes it to config.json
    assert (cfg["architecture"], cfg["tag"]) == (saved(name), name.partition(".")[2])


def test_plain_timm_loads_a_saved_model_to_the_last_bit_if_it_has_the_network(tmp_path):
    expected = {}
    for name in MODELS:
        model = timm.create_model(name).eval()
        timm.models.save_for_hf(model, tmp_path / name, safe_serialization=True)
        assert json.loads((tmp_path / name / "config.json").read_text())["architecture"] == saved(name)
        config = timm.data.resolve_model_data_config(model)
        x = images(config["input_size"][-1], count=1)
        with torch.no_grad():
            expected[name] = {"images": x, "features": model(x), "data config": json.dumps(config)}
    # The number of threads decides the order of sums, so the last bit needs it too.
    torch.save({"threads": torch.get_num_threads(), "own": OWN, "saved": expected}, tmp_path / "expected.pt")
    code = """
import json, sys, timm, torch
folder = sys.argv[1]
expected = torch.load(f"{folder}/expected.pt")
torch.set_num_threads(expected["threads"])
for name in sorted(expected["saved"], key=expected["own"].__contains__):
    row = expected["saved"][name]
    if name in expected["own"]:
        if "star_zoo" not in sys.modules:
            try:
                timm.create_model(f"local-dir:{folder}/{name}", pretrained=True)
            except RuntimeError as error:
                assert f"Unknown model ({name})" in str(error), error
            else:
                raise AssertionError("plain timm has no such network")
        import star_zoo
    model = timm.create_model(f"local-dir:{folder}/{name}", pretrained=True).eval()
    with torch.no_grad():
        assert model(row["images"]).equal(row["features"]), name
    assert json.dumps(timm.data.resolve_model_data_config(model)) == row["data config"], name
    if name not in expected["own"]:
        assert not any(name.split(".")[0] == "star_zoo" for name in sys.modules), "plain timm has to do"
print(len(expected["saved"]))
"""
    assert run_python(code, tmp_path).strip() == str(len(MODELS))
