"""Weights and heads from the Hub: what is asked and cached, what others make of it, what happens when it breaks."""

import json
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from loopback_client import client
from loopback_hub import LoopbackHub
from star_training.recipes.paper import stl10_resnet18
from star_zoo import load_objective, objectives, save_pretrained
from twins import randn

TAG, REPOSITORY = "star_resnet18.stl10", "star-zoo/star_resnet18.stl10"
PRELUDE = """
import json, os, sys, time
time.sleep = lambda seconds: None  # so the client's tries follow one another at once
from pathlib import Path
import torch

def refusal(call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"
"""


def run(hub: LoopbackHub, home: Path, code: str, *args: Any, **env: str) -> Any:
    """What the code printed last, read as JSON."""
    return json.loads(client(hub, home, PRELUDE + dedent(code), *map(str, args), **env).stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run on STL-10 exports, in half precision, with its features on two images."""
    folder = tmp_path_factory.mktemp("saved")
    torch.manual_seed(0)
    model = timm.create_model("star_resnet18.stl10").eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # timm starts the last of a block at zero
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    objective = objectives.build("star", 512, stl10_resnet18().policy, num_experts=2, hidden=8)
    save_pretrained(folder, model, objective)
    half = {name: t.half() if t.is_floating_point() else t for name, t in model.state_dict().items()}
    save_file(half, folder / "model.safetensors", {"format": "pt"})
    model.load_state_dict(half)
    with torch.no_grad():
        save_file({"images": randn(2, 3, 96, 96), "features": model(randn(2, 3, 96, 96))}, folder / "expected")
    return folder


@pytest.fixture(scope="module")
def files(saved: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in saved.iterdir() if path.name != "expected"}


@pytest.fixture
def hub(files: dict[str, bytes]) -> Iterator[LoopbackHub]:
    with LoopbackHub() as hub:
        hub.put(REPOSITORY, files)
        yield hub


def downloads(hub: LoopbackHub) -> list[str]:
    """The files that were fetched since the last call."""
    found = [path for method, path in hub.requests if method == "GET" and "/resolve/" in path]
    hub.requests.clear()
    return found


# --- by its tag


def test_a_tag_is_downloaded_once_and_cached(hub: LoopbackHub, tmp_path: Path, saved: Path, files: dict[str, bytes]):
    first = hub.commits(REPOSITORY)[-1]
    code = """
    import timm
    from safetensors.torch import load_file
    import star_zoo
    from star_zoo import load_objective

    state, expected = (load_file(Path(sys.argv[1]) / name) for name in ("model.safetensors", "expected"))
    def same(model, but=()):
        return all(torch.equal(t, state[k].to(t.dtype)) for k, t in model.state_dict().items() if not k.startswith(but))
    create = lambda name="star_resnet18.stl10", **kwargs: timm.create_model(name, pretrained=True, **kwargs).eval()

    with torch.no_grad():
        assert torch.equal(create()(expected["images"]), expected["features"])
        assert create(num_classes=10)(expected["images"]).shape == (2, 10)
        grey = create(in_chans=1)
        assert grey(expected["images"][:, :1]).shape == (2, 512)
        maps = create(features_only=True)(expected["images"])
    assert same(create(num_classes=10), but=("fc",)) and same(grey, but=("conv1",))
    colours = state["conv1.weight"].float().sum(1, keepdim=True)
    torch.testing.assert_close(grey.conv1.weight, colours, rtol=1e-2, atol=1e-3)
    assert [tuple(m.shape[1:]) for m in maps] == [(64, 48, 48), (64, 24, 24), (128, 12, 12), (256, 6, 6), (512, 3, 3)]
    torch.testing.assert_close(maps[-1].mean((2, 3)), expected["features"])
    heads = load_file(Path(sys.argv[1]) / "heads.safetensors")
    for name in ("star_resnet18.stl10", "hf-hub:star-zoo/star_resnet18.stl10", sys.argv[2]):
        found = load_objective(name).state_dict()
        assert found.keys() == heads.keys() and all(torch.equal(found[k], heads[k]) for k in heads)
    print(json.dumps(load_objective(sys.argv[1]).config == load_objective("star_resnet18.stl10").config))
    """
    assert run(hub, tmp_path, code, saved, f"hf-hub:{REPOSITORY}@{first}")
    assert sorted(downloads(hub)) == [
        f"/{REPOSITORY}/resolve/{revision}/{name}"
        for revision in (first, "main")
        for name in ("heads.json", "heads.safetensors", "model.safetensors")
        if revision == "main"  # what is asked for by its sha is there already
    ]


def test_a_pinned_tag_asks_nothing_once_it_is_cached(hub: LoopbackHub, tmp_path: Path, files: dict[str, bytes]):
    pinned = hub.commits(REPOSITORY)[-1]
    hub.put(REPOSITORY, {"model.safetensors": b"newer, and not what this star_zoo was tested with"})
    code = """
    import star_zoo, timm
    from star_catalog import tags
    tags.TAGS["star_resnet18.stl10"]["hf_hub_id"] = sys.argv[1]
    timm.create_model("star_resnet18.stl10", pretrained=True)
    star_zoo.load_objective("star_resnet18.stl10")
    print(json.dumps(refusal(timm.create_model, "star_resnet18", pretrained=True, pretrained_cfg="other")))
    """
    assert "other" in run(hub, tmp_path / "home", code, f"{REPOSITORY}@{pinned}")
    assert downloads(hub) == [
        f"/{REPOSITORY}/resolve/{pinned}/{name}" for name in ("model.safetensors", "heads.json", "heads.safetensors")
    ]
    run(hub, tmp_path / "home", code, f"{REPOSITORY}@{pinned}")
    assert hub.requests == []
    hub.put("other/star_resnet18.stl10", files)
    code = code.replace("pretrained=True)", "pretrained=True, cache_dir=sys.argv[2])", 1).replace(
        'load_objective("star_resnet18.stl10")', 'load_objective("star_resnet18.stl10", cache_dir=sys.argv[2])'
    )
    cache = tmp_path / "cache"
    run(hub, tmp_path / "new", code, f"{REPOSITORY}@{pinned}", cache, STAR_ZOO_HUB_ORG="other")
    assert {path.split("/")[1] for path in downloads(hub)} == {"other"}  # whose newest it is: the pin is another's
    assert len(list(cache.rglob("*.safetensors"))) == 2
    assert not list((tmp_path / "new").rglob("*.safetensors"))


def test_offline_what_is_cached_is_there(hub: LoopbackHub, tmp_path: Path):
    code = """
    import star_zoo, timm
    timm.create_model("star_resnet18.stl10", pretrained=True)
    star_zoo.load_objective("star_resnet18.stl10")
    print(json.dumps(refusal(timm.create_model, "star_resnet50.in100", pretrained=True)))
    """
    run(hub, tmp_path, code)
    hub.requests.clear()
    error = run(hub, tmp_path, code, HF_HUB_OFFLINE="1")
    assert hub.requests == []
    assert error.startswith("NotAvailable: no weights for star_resnet50.in100: none in the local store")
    assert "\n" not in error and "not in the cache" in error and "HF_HUB_OFFLINE" in error


# --- without star_zoo


def test_plain_timm_loads_the_repository(hub: LoopbackHub, tmp_path: Path, saved: Path):
    code = """
    import timm
    from safetensors.torch import load_file
    model = timm.create_model("hf-hub:star-zoo/star_resnet18.stl10", pretrained=True).eval()
    expected = load_file(Path(sys.argv[1]) / "expected")
    with torch.no_grad():
        assert torch.equal(model(expected["images"]), expected["features"])
    data = timm.data.resolve_model_data_config(model)
    print(json.dumps([data["input_size"], data["mean"], [name for name in sys.modules if "star_zoo" in name]]))
    """
    assert run(hub, tmp_path, code, saved) == [[3, 96, 96], [0.43, 0.42, 0.39], []]


def test_transformers_loads_the_repository_and_the_folder(hub: LoopbackHub, tmp_path: Path, saved: Path):
    pytest.importorskip("transformers")
    code = """
    import warnings
    warnings.simplefilter("ignore")  # transformers' own
    import timm
    from PIL import Image
    from safetensors.torch import load_file
    from transformers import AutoImageProcessor, AutoModel, TimmBackbone, pipeline

    folder, repository, stages = sys.argv[1], "star-zoo/star_resnet18.stl10", (1, 2, 3, 4)
    expected = load_file(Path(folder) / "expected")
    image = Image.effect_noise((150, 120), 60).convert("RGB")
    kinds = []
    for name, of_timm in ((repository, f"hf-hub:{repository}"), (folder, f"local-dir:{folder}")):
        model = AutoModel.from_pretrained(name, dtype=torch.float32).eval()
        by_timm = timm.create_model(of_timm, pretrained=True).eval()
        maps = timm.create_model(of_timm, pretrained=True, features_only=True, out_indices=stages).eval()
        transform = timm.data.create_transform(**timm.data.resolve_model_data_config(by_timm))
        pixels = AutoImageProcessor.from_pretrained(name)(image, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(pixels[0], transform(image))
        backbone = TimmBackbone.from_pretrained(of_timm, out_indices=stages).eval()
        extract = pipeline("image-feature-extraction", model=name, dtype=torch.float32, pool=True)
        with torch.no_grad():
            torch.testing.assert_close(model(expected["images"]).pooler_output, expected["features"])
            torch.testing.assert_close(torch.tensor(extract(image)), by_timm(pixels))
            for found, wanted in zip(backbone(pixels).feature_maps, maps(pixels), strict=True):
                torch.testing.assert_close(found, wanted)
        kinds.append([type(model).__name__, list(backbone.channels)])
    print(json.dumps([*kinds, [name for name in sys.modules if "star_zoo" in name]]))
    """
    kind = ["TimmWrapperModel", [64, 128, 256, 512]]
    assert run(hub, tmp_path, code, saved) == [kind, kind, []]


# --- what can't be had


def test_a_failed_download_is_reported_in_a_line_and_leaves_nothing(
    hub: LoopbackHub, tmp_path: Path, files: dict[str, bytes]
):
    owners = ("down", "cut", "damaged", "forbidden", "unauthorized", "empty", "secret")
    for owner in owners:
        hub.put(f"{owner}/star_resnet18.stl10", files if owner != "empty" else {})
    hub.gated |= {"forbidden/star_resnet18.stl10": 403, "unauthorized/star_resnet18.stl10": 401}
    hub.fail, hub.fail_at = 503, "GET /down/"
    hub.drop_after, hub.drop_always = 1000, {"cut/star_resnet18.stl10"}
    hub.corrupt = {f"damaged/star_resnet18.stl10/{name}" for name in ("model.safetensors", "heads.json")}
    code = """
    import star_zoo, timm
    from star_training.pretraining.module import build
    from star_training.recipes.paper import stl10_resnet18
    from star_training.settings.base import override
    errors = {}
    for owner in sys.argv[1:]:
        os.environ["STAR_ZOO_HUB_ORG"] = owner
        errors[owner] = refusal(timm.create_model, "star_resnet18.stl10", pretrained=True)
        errors[f"heads of {owner}"] = refusal(star_zoo.load_objective, "star_resnet18.stl10")
        start = f"init_from=hf-hub:{owner}/star_resnet18.stl10"
        errors[f"start from {owner}"] = refusal(lambda: build(override(stl10_resnet18(), [start])))
        errors[f"{owner}@v0"] = refusal(star_zoo.load_objective, f"hf-hub:{owner}/star_resnet18.stl10@v0")
    os.environ["HF_TOKEN"] = "hf_wrong"
    errors["token"] = refusal(star_zoo.load_objective, "hf-hub:secret/star_resnet18.stl10")
    print(json.dumps(errors))
    """
    errors = run(hub, tmp_path, code, *owners[:-1], "nobody", "../..", "a/b", "")
    expected = {
        "down": "503",
        "cut": "can't be downloaded",
        "damaged": "model.safetensors of damaged/star_resnet18.stl10 was damaged in the download",
        "heads of damaged": "heads.json of damaged/star_resnet18.stl10 was damaged in the download",
        "start from damaged": "model.safetensors of damaged/star_resnet18.stl10 was damaged in the download",
        "start from cut": "can't be downloaded",
        "start from down": "503",
        "forbidden": "forbidden/star_resnet18.stl10 is gated; accept its terms on the Hub",
        "unauthorized": "unauthorized/star_resnet18.stl10 is gated; accept its terms on the Hub",
        "empty": "empty/star_resnet18.stl10 on the Hub has no model.safetensors",
        "nobody": "nobody/star_resnet18.stl10 does not exist on the Hub, or it is private",
        "down@v0": "down/star_resnet18.stl10 on the Hub has no revision 'v0'",
        "../..": "can't be downloaded: Repo id must",
        "a/b": "can't be downloaded: Repo id must",
        "token": "401",
    }
    assert {name: errors[name] for name in expected if expected[name] not in errors[name]} == {}
    assert [error for error in errors.values() if "\n" in error] == []
    kinds = {name: error.partition(":")[0] for name, error in errors.items()}
    assert kinds.pop("") == kinds.pop("heads of ") == "no error"  # no owner is ours
    assert kinds.pop("heads of empty") == "FileNotFoundError"
    for owner in ("../..", "a/b", ""):  # no names of repositories
        assert kinds.pop(f"{owner}@v0") == kinds.pop(f"start from {owner}") == "ValueError"
    assert kinds.pop("start from empty") == "ValueError"  # as timm found it
    assert set(kinds.values()) == {"NotAvailable"}
    for owner in ("down", "cut", "damaged", "forbidden", "nobody", "../.."):
        error = errors[owner]
        assert error.startswith("NotAvailable: no weights for star_resnet18.stl10: none in the local store (")
        for way_out in ("star-zoo install", "star-zoo convert", "STAR_ZOO_HUB_ORG", "HF_ENDPOINT", "pretrained=False"):
            assert way_out in error

    assert not list(tmp_path.rglob("*.incomplete"))
    ours, cut, damaged = (f"models--{owner}--star_resnet18.stl10" for owner in ("star-zoo", "cut", "damaged"))
    cached = {(path.parts[-4], path.name) for path in tmp_path.rglob("snapshots/*/*")}
    assert {file for file in cached if file[0] != ours} == {(cut, "config.json"), (damaged, "config.json")}
    assert (ours, "model.safetensors") in cached
    assert not [path for path in tmp_path.rglob("*") if path.is_symlink() and not path.exists()]

    hub.corrupt, hub.fail, hub.drop_always = set(), None, set()  # every other download still breaks off
    errors = run(hub, tmp_path, code, "down", "cut", "damaged")
    assert {
        errors[f"{kind}{owner}"] for kind in ("", "heads of ", "start from ") for owner in ("down", "cut", "damaged")
    } == {"no error"}


def test_nothing_but_safetensors_is_taken_from_a_repository(hub: LoopbackHub, tmp_path: Path, files: dict[str, bytes]):
    trap = tmp_path / "executed"
    pickled = f"cposix\nsystem\n(S'touch {trap}'\ntR.".encode()
    config = {"config.json": files["config.json"]}
    hub.put("pickled/star_resnet18.stl10", {**config, "pytorch_model.bin": pickled, "model.bin": pickled})
    hub.put("named/star_resnet18.stl10", {**files, "model.safetensors": pickled, "heads.safetensors": pickled})
    code = """
    import pickle, star_zoo, timm
    from star_training.settings.base import override
    from star_training.pretraining.module import build
    from star_training.recipes.paper import stl10_resnet18
    errors = []
    for owner in ("pickled", "named"):
        os.environ["STAR_ZOO_HUB_ORG"] = owner
        errors.append(refusal(timm.create_model, "star_resnet18.stl10", pretrained=True))
        errors.append(refusal(timm.create_model, "star_resnet18.stl10", pretrained=True, features_only=True))
        errors.append(refusal(star_zoo.load_objective, "star_resnet18.stl10"))
        start = f"init_from=hf-hub:{owner}/star_resnet18.stl10"
        errors.append(refusal(build, override(stl10_resnet18(), [start])))
    print(json.dumps([errors, Path(sys.argv[1]).exists(), refusal(pickle.loads, sys.argv[2].encode())]))
    """
    errors, executed, _ = run(hub, tmp_path, code, trap, pickled.decode())
    assert not executed and trap.exists()  # until it was unpickled, at the end, to show that it would have been
    assert [error for error in errors if "\n" in error or error == "no error"] == []
    assert "on the Hub has no model.safetensors" in errors[0] and "on the Hub has no heads.json" in errors[2]
    assert "the weights of star_resnet18.stl10, is not an intact safetensors file" in errors[4]
    assert errors[5].split(":")[0] == "NotAvailable" and "not an intact safetensors file" in errors[6]
    assert {errors[3].partition("'")[0], errors[7].partition("'")[0]} == {"ValueError: --init-from "}


def test_the_folder_is_what_a_download_gives(saved: Path):
    """The expectations above are those of the folder itself."""
    model = timm.create_model(f"local-dir:{saved}", pretrained=True).eval()
    expected = load_file(saved / "expected")
    with torch.no_grad():
        assert torch.equal(model(expected["images"]), expected["features"])
    assert load_objective(saved).policy == stl10_resnet18().policy
