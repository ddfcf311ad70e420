"""Folders that somebody tampered with: refused in one line, with nothing executed and nothing written elsewhere."""

import ast
import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save, save_file

import star_catalog
import star_training
import star_zoo
from star_training.cli.main import main
from star_zoo import NotAvailable, install, load_objective, objectives, save_pretrained, store, zoo
from twins import POLICY, backbone

TAG = "star_test_resnet.mine"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STAR_ZOO_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = backbone()
    objective = objectives.build("star", model.num_features, POLICY, num_experts=2, hidden=8)
    return save_pretrained(tmp_path_factory.mktemp("good"), model, objective, recipe={}, results={})


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "folder"))


def tree(where: Path) -> dict[Path, tuple[int, int]]:
    """Everything below a folder, with size and time."""
    return {path: (path.lstat().st_size, path.lstat().st_mtime_ns) for path in where.rglob("*")}


def refused(folder: Path, capsys: pytest.CaptureFixture[str], by_all: bool = True) -> str:
    """The one line in which a folder is refused by install, and by embed and publish too, which check the same."""
    commands = [
        ["install", str(folder), TAG],
        ["install", str(folder), TAG, "--embed"],
        ["publish", str(folder), "me/name", "--dry-run", "--out", str(folder.with_name("staged"))],
    ]
    errors = []
    for command in commands if by_all else commands[:1]:
        before = {path: tree(path) for path in (store.home(), zoo.EMBEDDED, folder)}
        assert main(command) == 1, command
        error = capsys.readouterr().err
        assert error.startswith("star-zoo: ") and error.count("\n") == 1 and len(error) < 700
        assert {path: tree(path) for path in before} == before
        errors.append(error)
    assert len({error[:80] for error in errors}) == 1
    return errors[0]


class Trap:
    """Would leave a file behind if it were unpickled."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


# --- weights


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("file", ["model.safetensors", "heads.safetensors"])
def test_weights_that_are_not_finite_are_refused(file: str, number: float, folder: Path, capsys):
    tensors = load_file(folder / file)
    name = next(name for name, tensor in sorted(tensors.items()) if tensor.is_floating_point())
    tensors[name].view(-1)[-1] = number
    save_file(tensors, folder / file, {"format": "pt"})
    assert f"{folder / file} holds NaN or infinite numbers, in {name}; " in refused(folder, capsys)


def header(tensors: dict[str, Any], data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file with such a header, whatever it says."""
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape: list[int], size: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}


DAMAGED: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda whole: b"",
    "a few bytes": lambda whole: whole[:7],
    "half of the header": lambda whole: whole[:500],
    "half": lambda whole: whole[: len(whole) // 2],
    "all but a byte": lambda whole: whole[:-1],
    "a byte more": lambda whole: whole + b"\0",
    "zeros": lambda whole: bytes(1000),
    "a long header": lambda whole: struct.pack("<Q", 2**63) + whole[8:],
    "the longest header": lambda whole: struct.pack("<Q", 2**64 - 1) + whole[8:],
    "no json": lambda whole: header({}, length=1) + b"x" * 100,
    "nested": lambda whole: struct.pack("<Q", 100_000) + b"[" * 100_000,
    "a huge tensor": lambda whole: header({"conv1.0.weight": entry([2**40], 2**42)}, b"1234"),
    "a tensor too large for its bytes": lambda whole: header({"conv1.0.weight": entry([2**40], 4)}, b"1234"),
    "more than there are numbers": lambda whole: header({"conv1.0.weight": entry([2**63, 2**63], 4)}, b"1234"),
    "negative": lambda whole: header({"conv1.0.weight": entry([-1], 4)}, b"1234"),
    "backwards": lambda whole: header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}, b"1234"),
    "outside": lambda whole: header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, b"1234"),
    "overlapping": lambda whole: header({"a": entry([1], 4), "b": entry([1], 4)}, b"1234"),
    "an unknown type": lambda whole: header({"a": {"dtype": "OBJECT", "shape": [1], "data_offsets": [0, 4]}}, b"1234"),
}


@pytest.mark.parametrize("name", ["model.safetensors", "heads.safetensors"])
def test_damaged_weights_are_refused(name: str, folder: Path, capsys: pytest.CaptureFixture[str]):
    install(folder, TAG)
    whole = (folder / name).read_bytes()
    for damage, change in DAMAGED.items():
        (folder / name).write_bytes(change(whole))
        error = refused(folder, capsys, by_all=damage == "half")
        assert ("no model that timm can load" if name[0] == "m" else "not an intact safetensors file") in error, damage


def test_pickles_are_not_opened(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    install(folder, TAG)
    trace = tmp_path / "executed"
    for name in ("model.safetensors", "heads.safetensors"):
        whole = (folder / name).read_bytes()
        for write in (
            lambda path: path.write_bytes(pickle.dumps(Trap(trace))),
            lambda path: torch.save({"conv1.0.weight": Trap(trace)}, path),
        ):
            write(folder / name)
            refused(folder, capsys)
        (folder / name).write_bytes(whole)
    for name in ("pytorch_model.bin", "model.pth", "heads.pt", "recipe.pkl"):
        torch.save(Trap(trace), folder / name)
    load_objective(folder)
    timm.create_model(f"local-dir:{folder}", pretrained=True)
    (folder / "model.safetensors").unlink()
    assert "has no model.safetensors" in refused(folder, capsys)
    assert not trace.exists()
    pickle.loads(pickle.dumps(Trap(trace)))
    assert trace.exists()  # as it would have been


def test_weights_in_the_store_are_never_unpickled(tmp_path: Path):
    trace = tmp_path / "executed"
    install(save_pretrained(tmp_path / "model", timm.create_model("star_resnet10t.cifar10")), "star_resnet10t.mine")
    torch.save({"conv1.0.weight": Trap(trace)}, store.folder("star_resnet10t.mine") / "model.safetensors")
    for arguments in ({}, {"num_classes": 2}, {"features_only": True}):
        with pytest.raises(NotAvailable, match="is not an intact safetensors file"):
            timm.create_model("star_resnet10t.mine", pretrained=True, **arguments)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("bn1.weight"), "bn1.weight is missing, needs [32]"),
        (lambda t: t.update(extra=torch.zeros(3)), "extra is [3], needs none"),
        (lambda t: t.update({"bn1.weight": torch.zeros(3, 1)}), "bn1.weight is [3, 1], needs [32]"),
        (lambda t: t.clear(), "bn1.bias is missing, needs [32], bn1.num_batches_tracked is missing"),
    ],
    ids=["missing", "extra", "another shape", "none"],
)
def test_tensors_that_do_not_fit_are_named(change: Callable[[dict], Any], message: str, folder: Path, capsys):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    (folder / "model.safetensors").write_bytes(save(tensors))
    assert f"does not fit its config.json: {message}" in refused(folder, capsys)


# --- what is said of them


def with_cfg(**changes: Any) -> Callable[[dict], dict]:
    return lambda config: {**config, "pretrained_cfg": {**config["pretrained_cfg"], **changes}}


CONFIGS: dict[str, Callable[[dict], Any]] = {
    "a list": lambda config: [config],
    "a word": lambda config: "resnet18",
    "null": lambda config: None,
    "nothing": lambda config: {},
    "a path": lambda config: {**config, "architecture": "../../x"},
    "a repository": lambda config: {**config, "architecture": "hf-hub:somebody/name"},
    "a folder": lambda config: {**config, "architecture": "local-dir:/"},
    "an unknown architecture": lambda config: {**config, "architecture": "os.system"},
    "no architecture": lambda config: {**config, "architecture": None},
    "another architecture": lambda config: {**config, "architecture": "test_convnext"},
    "arguments that are a list": lambda config: {**config, "model_args": [1]},
    "an unknown argument": lambda config: {**config, "model_args": {"bogus": 1}},
    "a checkpoint": lambda config: {**config, "model_args": {"checkpoint_path": "/etc/passwd"}},
    "twice": lambda config: {**config, "model_args": {"pretrained": True}},
    "a huge network": lambda config: {**config, "model_args": {"channels": [10**7] * 4}},
    "a huge classifier": lambda config: {**config, "model_args": {"num_classes": 10**12}},
    "a cfg that is a list": lambda config: {**config, "pretrained_cfg": []},
    "an unknown field": with_cfg(bogus=1),
    "classes that are a word": lambda config: {**config, "num_classes": "many"},
}


def test_a_config_that_says_something_else_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]):
    install(folder, TAG)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for name, change in CONFIGS.items():
        path.write_text(json.dumps(change(config)))
        assert str(folder) in refused(folder, capsys), name
    for text in (b"", b"{", b"\x80\x04.", b"[" * 100_000, b'{"a": ' * 100_000):
        path.write_bytes(text)
        refused(folder, capsys)


@pytest.mark.parametrize(
    "change", [with_cfg(input_size=[3, 1, float("inf")]), with_cfg(mean="grey"), with_cfg(input_size=None)]
)
def test_a_config_that_the_registry_cannot_use_is_not_installed(change: Callable, folder: Path, capsys):
    install(folder, TAG)
    before = tree(store.home())
    path = folder / "config.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    assert main(["install", str(folder), TAG]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert tree(store.home()) == before


def test_sources_in_a_config_are_not_followed(folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch):
    """A cfg may name files, addresses and repositories; weights come from the folder alone."""
    path = folder / "config.json"
    sources = {"file": "/etc/passwd", "url": "http://127.0.0.1:9/x.pth", "hf_hub_id": "a/b", "custom_load": True}
    path.write_text(json.dumps(with_cfg(**sources)(json.loads(path.read_text()))))
    install(folder, TAG)
    cfg, arguments = star_zoo.star_backbones.read_config(store.folder(TAG) / "config.json", TAG)
    assert (cfg.file, cfg.url, cfg.hf_hub_id) == (str(store.folder(TAG) / "model.safetensors"), None, None)
    assert not cfg.custom_load and "num_classes" not in arguments


HEADS: dict[str, dict[str, Any]] = {
    "a path": {"objective": "../../x"},
    "a module": {"objective": "_base"},
    "a dotted name": {"objective": "os.system"},
    "a list": {"objective": ["star"]},
    "another": {"objective": "equimod"},
    "a huge bank": {"settings": {"num_experts": 10**9, "temperature": 0.2, "equivariant_weight": 1.0, "hidden": None}},
    "huge features": {"num_features": 2**62},
    "a policy": {"policy": {"augmentations": [{"name": "../../x"}]}},
    "nested": {"policy": []},
}


def test_heads_that_say_something_else_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]):
    install(folder, TAG)
    path = folder / "heads.json"
    config = json.loads(path.read_text())
    for changes in HEADS.values():
        path.write_text(json.dumps({**config, **changes}))
        assert str(path.parent) in refused(folder, capsys)
    for text in (b"", b"[]", b"\x80\x04.", b"[" * 100_000):
        path.write_bytes(text)
        assert str(path) in refused(folder, capsys)


@pytest.mark.parametrize("name", ["heads.json", "heads.safetensors"])
def test_half_of_the_heads_is_refused(name: str, folder: Path, capsys: pytest.CaptureFixture[str]):
    (folder / name).unlink()
    assert f"has no {name}" in refused(folder, capsys)


# --- the folder itself


def test_links_are_not_published(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """What they lead to may be anything that this machine's user can read."""
    secret = tmp_path / "secret"
    secret.write_text('{"token": "hf_secret"}')
    for name in ("results.json", "heads.json", "picture.png"):
        path = folder / name
        whole = path.read_bytes() if path.exists() else None
        path.unlink(missing_ok=True)
        for target in (secret, tmp_path / "nowhere", path):  # the last leads to itself
            path.symlink_to(target)
            assert main(["publish", str(folder), "me/name", "--dry-run", "--out", str(tmp_path / "staged")]) == 1
            error = capsys.readouterr().err
            assert f"holds links, {name}; only files are published" in error and error.count("\n") == 1
            path.unlink()
        if whole is not None:
            path.write_bytes(whole)
    assert not (tmp_path / "staged").exists()


def test_a_link_to_nowhere_is_not_installed(folder: Path, tmp_path: Path, home: Path, capsys):
    for name in ("config.json", "model.safetensors", "heads.json"):
        path = folder / name
        whole = path.read_bytes()
        for target in (tmp_path / "nowhere", path):
            path.unlink()
            path.symlink_to(target)
            assert main(["install", str(folder), TAG]) == 1
            assert capsys.readouterr().err.count("\n") == 1
        path.unlink()
        path.write_bytes(whole)
    assert not home.exists()


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "heads.json"])
def test_a_folder_in_the_place_of_a_file_is_refused(name: str, folder: Path, capsys: pytest.CaptureFixture[str]):
    (folder / name).unlink()
    (folder / name).mkdir()
    for command in (["install", str(folder), TAG], ["publish", str(folder), "me/name", "--dry-run"]):
        assert main(command) == 1
        assert capsys.readouterr().err.count("\n") == 1


def test_a_file_that_nobody_may_read_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]):
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    (folder / "heads.safetensors").chmod(0)
    refused(folder, capsys)


# --- the code


def test_nothing_in_the_project_unpickles():
    """No pickle anywhere, and no torch.load but with weights_only."""
    found = []
    for package in (star_catalog, star_zoo, star_training):
        for path in Path(package.__file__).parent.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    names = [*(alias.name for alias in node.names), getattr(node, "module", None) or ""]
                    if {"pickle", "dill", "joblib", "shelve", "marshal", "cloudpickle"} & set(names):
                        found.append(f"{path.name}:{node.lineno} imports {names}")
                if not isinstance(node, ast.Call):
                    continue
                name, given = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
                unsafe = (
                    name.endswith("torch.load") and given.get("weights_only") != "True",
                    name.rpartition(".")[2] in ("eval", "exec") and name in ("eval", "exec"),
                    name.endswith("np.load") and given.get("allow_pickle", "False") != "False",
                    given.get("weights_only") == "False",
                    given.get("trust_remote_code") == "True",
                )
                if any(unsafe):
                    found.append(f"{path.name}:{node.lineno} calls {name}({given})")
    assert found == []
