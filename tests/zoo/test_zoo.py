"""Where a tag's weights come from on this machine: the local store first, then the package; and what is installed."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

from loopback_client import client
from loopback_hub import LoopbackHub
from released_twin import Theirs
from star_training.cli.main import main
from star_zoo import NotAvailable, Policy, hub, install, load_objective, objectives, save_pretrained, store, zoo
from twins import POLICY, backbone

TAG = "star_resnet10t.cifar10"  # the one in the package
MINE = "star_test_resnet.mine"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store that is empty at first."""
    monkeypatch.setenv("STAR_ZOO_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model of an architecture that the zoo has no tag of."""
    model = backbone()
    objective = objectives.build("star", model.num_features, POLICY, num_experts=2, hidden=8)
    return save_pretrained(tmp_path_factory.mktemp("tiny"), model, objective)


def saved(folder: Path, seed: int = 0) -> Path:
    """A saved model for the tag that is in the package."""
    torch.manual_seed(seed)
    return save_pretrained(folder, timm.create_model(TAG, num_classes=0))


def weights(place: Path) -> torch.Tensor:
    return load_file(place / "model.safetensors")["conv1.0.weight"].float()


def loaded(name: str = TAG) -> torch.Tensor:
    return timm.create_model(name, pretrained=True).state_dict()["conv1.0.weight"]


def refused(name: str = TAG) -> str:
    """The one line in which a tag is refused."""
    with pytest.raises(NotAvailable) as caught:
        timm.create_model(name, pretrained=True)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- in the package


def test_a_model_of_the_package_needs_nothing_else():
    model = timm.create_model("star_resnet10t", pretrained=True).eval()
    place = zoo.EMBEDDED / TAG
    assert torch.equal(model.state_dict()["conv1.0.weight"], weights(place))
    assert all(t.dtype in (torch.float32, torch.int64) for t in model.state_dict().values())
    with torch.no_grad():
        features = model(torch.rand(2, 3, 32, 32))
    objective = load_objective("star_resnet10t")
    assert [tuple(z.shape) for z in objective.eval().heads(features)] == [(2, 128), (2, 128)]
    assert objective.policy.size == 48
    recipe = json.loads((place / "recipe.json").read_text(encoding="utf-8"))
    assert objective.policy == Policy.from_dict(recipe["policy"])
    assert TAG in timm.list_pretrained("star_*")


def test_with_a_package_model_s_weights_one_may_go_on():
    """In float32, classifier and other inputs as of any timm model."""
    model = timm.create_model(TAG, pretrained=True, num_classes=3, in_chans=1)
    model(torch.rand(2, 1, 32, 32)).sum().backward()
    assert model.fc.out_features == 3 and model.conv1[0].weight.grad is not None


# --- the order


def test_the_store_comes_before_the_package_and_that_before_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert torch.equal(loaded(), weights(zoo.EMBEDDED / TAG))
    for seed in (1, 2):  # the second in place of the first
        folder = saved(tmp_path / str(seed), seed)
        assert install(folder, TAG) == store.folder(TAG)
        assert torch.equal(loaded(), weights(folder)) and torch.equal(loaded("star_resnet10t"), weights(folder))
    assert [path.name for path in store.place(TAG).parent.iterdir()] == [TAG] == store.installed()
    with pytest.raises(FileNotFoundError, match=r"has no heads\.json"):  # the package's don't belong to these weights
        load_objective(TAG)
    shutil.rmtree(store.place(TAG))
    assert torch.equal(loaded(), weights(zoo.EMBEDDED / TAG))
    monkeypatch.setattr(zoo, "EMBEDDED", tmp_path / "empty")
    error = refused()
    assert str(store.folder(TAG)) in error and f"star-zoo/{TAG}" in error and "HF_HUB_OFFLINE" in error


def test_an_unknown_owner_and_a_pin():
    assert zoo.find(MINE) == zoo.Repository(f"star-zoo/{MINE}")
    assert zoo.find(MINE, "star-zoo/other@v1") == zoo.Repository("star-zoo/other", "v1")


def test_another_owner_s_repositories_are_not_pinned(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("STAR_ZOO_HUB_ORG", "mine")
    assert zoo.find(MINE, "star-zoo/other@v1") == zoo.Repository(f"mine/{MINE}")


@pytest.mark.parametrize("name", ["hf-hub:a/b", "a/b", "hf-hub:a/b@v1.0", "a/b@main"])
def test_names_of_repositories(name: str):
    repository = zoo.Repository.parse(name)
    assert repository.id == "a/b" and str(repository) == name.removeprefix("hf-hub:")


@pytest.mark.parametrize("name", ["hf-hub:", "hf-hub:a", "a/b/c", "/b", "a/", "hf-hub:@v1", "../../x", ""])
def test_what_is_no_name_of_a_repository(name: str):
    with pytest.raises(ValueError, match="is not the name of a model on the Hub; pass hf-hub:OWNER/NAME"):
        zoo.Repository.parse(name)


# --- installing


def test_a_model_of_a_new_architecture_is_known_to_a_new_process(tiny: Path, tmp_path: Path, home: Path):
    code = """
    import sys
    from star_training.cli.main import main
    raise SystemExit(main(["install", *sys.argv[1:]]))
    """
    with LoopbackHub() as nothing:
        done = client(nothing, tmp_path, code, str(tiny), MINE, STAR_ZOO_HOME=str(home))
    where, snippet = done.stdout.split("\n", 1)
    assert where == str(store.folder(MINE))
    code = """
    import sys
    import star_zoo, timm, torch
    from safetensors.torch import load_file
    model = timm.create_model("star_test_resnet.mine", pretrained=True)
    state = load_file(sys.argv[1] + "/model.safetensors")
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert "star_test_resnet.mine" in timm.list_pretrained("star_*") and timm.is_model_pretrained("star_test_resnet")
    assert timm.create_model("star_test_resnet", pretrained=True, num_classes=4).num_classes == 4
    assert model.pretrained_cfg["architecture"] == "test_resnet"
    print(star_zoo.load_objective("star_test_resnet").config["num_features"], model.pretrained_cfg["input_size"])
    exec(sys.argv[2])  # what install printed
    """
    with LoopbackHub() as nothing:
        done = client(nothing, tmp_path, code, str(tiny), snippet, STAR_ZOO_HOME=str(home))
        assert nothing.requests == []
    assert done.stdout == "96 (3, 160, 160)\n" and "create_model" in snippet


def test_a_fine_tuned_model_comes_with_its_classifier(tmp_path: Path):
    torch.manual_seed(0)
    model = timm.create_model("star_resnet10t.cifar10", num_classes=5)
    install(save_pretrained(tmp_path / "model", model), "star_resnet10t.five")
    found = timm.create_model("star_resnet10t.five", pretrained=True)
    assert torch.equal(found.fc.weight, model.fc.weight)
    assert timm.create_model("star_resnet10t.five", pretrained=True, num_classes=0).num_features == 512
    other = timm.create_model("star_resnet10t.five", pretrained=True, num_classes=3)
    assert other.fc.out_features == 3 and torch.equal(other.conv1[0].weight, model.conv1[0].weight)


def test_what_was_given_to_the_model_is_given_again(tmp_path: Path):
    """A transformer for another image size: the tag's own size is the one that it was saved with."""
    model = timm.create_model("star_vit_small_patch16_224.in100", img_size=64, depth=1)
    folder = save_pretrained(tmp_path, model, model_args={"img_size": 64, "depth": 1})
    install(folder, "star_vit_small_patch16_224.mine")
    found = timm.create_model("star_vit_small_patch16_224.mine", pretrained=True)
    assert torch.equal(found.pos_embed, model.pos_embed) and found.patch_embed.img_size == (64, 64)


def test_arguments_of_an_installed_tag_are_saved_again(tmp_path: Path):
    """E.g. after continued pretraining; those of the caller win, and are saved too."""
    narrow = {"channels": [8, 8, 8, 8], "stem_width": 8}
    model = timm.create_model("star_resnet10t.cifar10", **narrow)
    install(save_pretrained(tmp_path / "first", model), "star_resnet10t.narrow")
    found = timm.create_model("star_resnet10t.narrow", pretrained=True, num_classes=3)
    again = timm.create_model(f"local-dir:{save_pretrained(tmp_path / 'again', found)}", pretrained=True)
    assert again.state_dict().keys() == found.state_dict().keys() and again.num_classes == 3
    assert all(torch.equal(tensor, found.state_dict()[name]) for name, tensor in again.state_dict().items())
    fresh = timm.create_model("star_resnet10t.narrow", channels=[16, 8, 8, 8])
    config = json.loads((save_pretrained(tmp_path / "fresh", fresh) / "config.json").read_text())
    arguments = config["model_args"]  # among others that timm writes
    assert (arguments["channels"], arguments["stem_width"]) == ([16, 8, 8, 8], 8)


def test_a_released_checkpoint_is_converted_and_installed_at_once(tmp_path: Path):
    torch.manual_seed(0)
    theirs = Theirs()
    checkpoint, out = theirs.checkpoint(tmp_path / "ckpt-200.pth"), tmp_path / "ours"
    words = ["convert", str(checkpoint), "--recipe", "stl10_resnet18", "--out", str(out)]
    assert main([*words, "--install", "star_resnet18.stl10"]) == 0
    model = timm.create_model("star_resnet18.stl10", pretrained=True)
    expected = theirs.backbone.state_dict()
    assert model.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    assert load_objective("star_resnet18.stl10").policy == load_objective(out).policy
    assert main([*words, "--install", "star_resnet50.stl10"]) == 1
    assert store.installed() == ["star_resnet18.stl10"]


@pytest.mark.parametrize(
    "tag", ["resnet", "star_test_resnet", "star_test_resnet.A", "star_test_resnet.../../x", "../x", "star_x/../y.z", ""]
)
def test_what_cannot_be_a_tag_is_refused(tag: str, tiny: Path, home: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["install", str(tiny), tag]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"star-zoo: {tag!r} is not a valid tag; a tag is star_ARCHITECTURE.NAME")
    assert error.count("\n") == 1
    assert not home.exists()


@pytest.mark.parametrize("tag", ["star_resnet18.mine", "star_nothing.mine"])
def test_a_tag_of_another_architecture_is_refused(tag: str, tiny: Path, home: Path):
    with pytest.raises(ValueError, match=r"holds a test_resnet; its tag must be star_test_resnet\.NAME"):
        install(tiny, tag)
    assert not home.exists()


def test_a_failed_install_leaves_what_was_there(tiny: Path, monkeypatch: pytest.MonkeyPatch):
    install(tiny, MINE)
    before = {path.name: path.read_bytes() for path in store.folder(MINE).iterdir()}
    original = shutil.copyfile

    def full(source: Path, target: Path) -> Path:
        if source.name == "heads.safetensors":
            raise OSError(28, "No space left on device")
        return original(source, target)

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space left"):
        install(tiny, MINE)
    assert {path.name: path.read_bytes() for path in store.folder(MINE).iterdir()} == before
    assert len(list(store.folder(MINE).parent.iterdir())) == 1


def test_whatever_stands_in_the_place_of_a_tag_is_replaced(tiny: Path, tmp_path: Path):
    place = store.folder(MINE)
    place.parent.mkdir(parents=True)
    for make in (place.touch, place.mkdir, lambda: place.symlink_to(tmp_path / "nowhere")):
        make()
        install(tiny, MINE)
        hub.check(place)
        assert [path.name for path in place.parent.iterdir()] == [MINE]
        shutil.rmtree(place)


def test_a_link_in_the_place_of_a_tag_is_not_followed(tiny: Path, tmp_path: Path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "config.json").write_text("mine")
    store.folder(MINE).parent.mkdir(parents=True)
    store.folder(MINE).symlink_to(outside)
    install(tiny, MINE)
    assert not store.folder(MINE).is_symlink()
    assert [(path.name, path.read_text()) for path in outside.iterdir()] == [("config.json", "mine")]
    assert [path.name for path in store.folder(MINE).parent.iterdir()] == [MINE]


def test_what_the_hub_client_downloaded_can_be_installed(tiny: Path, tmp_path: Path):
    """A snapshot in its cache is a folder of links; what is installed are files."""
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for path in tiny.iterdir():
        (snapshot / path.name).symlink_to(path)
    install(snapshot, MINE)
    assert not any(path.is_symlink() for path in store.folder(MINE).iterdir())
    hub.check(store.folder(MINE))


def test_a_store_that_cannot_be_there_is_reported(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("STAR_ZOO_HOME", str(tmp_path / "file"))
    assert main(["install", str(tiny), MINE]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert store.installed() == [] and torch.equal(loaded(), weights(zoo.EMBEDDED / TAG))


# --- what is broken


def _broken(home: Path, tiny: Path) -> Iterator[str]:
    """Entries of a store that can't be used."""
    config = json.loads((tiny / "config.json").read_text())
    cfg = config["pretrained_cfg"]
    for name, data in {
        "missing": None,
        "empty": "",
        "garbage": "\x80\x04.",
        "deep": "[" * 100_000,
        "list": "[]",
        "null": "null",
        "number": json.dumps({**config, "pretrained_cfg": {**cfg, "input_size": [3, 1, float("inf")]}}),
        "words": json.dumps({**config, "pretrained_cfg": {**cfg, "mean": "grey"}}),
        "arguments": json.dumps({**config, "model_args": "many"}),
        "without": json.dumps({k: v for k, v in config.items() if k != "pretrained_cfg"}),
    }.items():
        folder = home / "models" / f"star_resnet10t.{name}"
        folder.mkdir(parents=True)
        shutil.copy(tiny / "model.safetensors", folder)
        if data is not None:
            (folder / "config.json").write_text(data, encoding="latin-1")
        yield folder.name
    shutil.copytree(tiny, home / "models" / "star_nothing.x")
    (home / "models" / "star_resnet10t.file").touch()
    (home / "models" / "star_resnet10t.link").symlink_to(home / "nowhere")
    (home / "models" / "notes.txt").touch()
    yield from ("star_nothing.x", "star_resnet10t.file", "star_resnet10t.link")


def test_a_broken_entry_breaks_nothing_else_and_says_so_when_it_is_asked_for(tiny: Path, tmp_path: Path, home: Path):
    names = list(_broken(home, tiny))
    code = """
    import json, sys
    import star_zoo, timm
    timm.create_model("star_resnet10t", pretrained=True)
    errors = {}
    for name in sys.argv[1:]:
        for pretrained in (True, False):
            try:
                timm.create_model(name, pretrained=pretrained)
            except Exception as error:
                errors[f"{name} {pretrained}"] = f"{type(error).__name__}: {error}"
    from star_training.cli.main import main
    main(["list"])
    print(json.dumps([errors, timm.list_pretrained("star_*")]))
    """
    with LoopbackHub() as nothing:
        *table, last = client(nothing, tmp_path, code, *names, STAR_ZOO_HOME=str(home)).stdout.splitlines()
        assert nothing.requests == []
    errors, listed = json.loads(last)
    assert listed == sorted(path.name for path in zoo.EMBEDDED.iterdir())
    for name in names:
        for error in (errors[f"{name} True"], errors[f"{name} False"]):
            assert "\n" not in error
            if name == "star_nothing.x":
                assert error == "RuntimeError: Unknown model (star_nothing)"
            else:
                assert error.startswith("NotAvailable: ") and str(home / "models" / name / "config.json") in error
                assert error.endswith(f"install {name} again, or remove its folder")
        row = next(line for line in table if line.startswith(f"{name} "))
        assert row.split()[1:3] == ["broken:", str(home / "models" / name)]


def test_a_broken_tag_is_not_the_default_of_its_architecture(tiny: Path, tmp_path: Path, home: Path):
    shutil.copytree(tiny, home / "models" / "star_resnet26.sound")
    shutil.copytree(tiny, home / "models" / "star_resnet26.broken")
    (home / "models" / "star_resnet26.broken" / "config.json").write_text("{")
    code = """
    import star_zoo
    from star_catalog import tags
    print(tags.full("star_resnet26"), star_zoo.star_backbones.default_cfgs["star_resnet26"].tags[0])
    """
    with LoopbackHub() as nothing:
        printed = client(nothing, tmp_path, code, STAR_ZOO_HOME=str(home)).stdout
    assert printed.split() == ["star_resnet26.sound", "sound"]


def test_damaged_or_foreign_weights_are_reported(tmp_path: Path):
    install(saved(tmp_path), TAG)
    path = store.folder(TAG) / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1000])
    assert f"{path}, the weights of {TAG}, is not an intact safetensors file" in refused()
    path.unlink()
    save_pretrained(store.folder(TAG), backbone())
    assert f"{path} does not fit {TAG}" in refused()


def test_weights_that_are_missing_are_not_made_up(tmp_path: Path):
    """With a classifier of its own timm would leave the rest at random."""
    from safetensors.torch import save_file

    install(saved(tmp_path), TAG)
    path = store.folder(TAG) / "model.safetensors"
    save_file({k: v for k, v in load_file(path).items() if not k.startswith("layer3")}, path, {"format": "pt"})
    for arguments in ({}, {"num_classes": 10}, {"features_only": True}, {"in_chans": 1}):
        with pytest.raises(NotAvailable, match="layer3") as caught:
            timm.create_model(TAG, pretrained=True, **arguments)
        assert "\n" not in str(caught.value)
