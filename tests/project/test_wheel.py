"""A wheel of the project, installed away from the repository, does all that the zoo is for."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from loopback_client import ROOT
from loopback_hub import LoopbackHub
from released_twin import Theirs
from star_zoo import objectives, save_pretrained, store, zoo
from twins import POLICY, backbone

pytestmark = pytest.mark.slow

CODE = """
import contextlib, io, re, sys
from pathlib import Path
import star_catalog, star_training, star_zoo, timm, torch
from safetensors.torch import load_file

where = Path(sys.argv[1])
assert {Path(package.__file__).parents[1] for package in (star_catalog, star_zoo, star_training)} == {where / "target"}

from star_training.cli.main import main

def star_zoo_says(*words):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(list(words)) == 0, words
    return out.getvalue()

def same(model, folder):
    state = load_file(folder / "model.safetensors")
    return all(torch.equal(tensor, state[name].to(tensor.dtype)) for name, tensor in model.state_dict().items())

# the model in the package, its heads, and the table
features = timm.create_model("star_resnet10t", pretrained=True).eval()(torch.rand(2, 3, 32, 32))
assert star_zoo.load_objective("star_resnet10t").eval().heads(features)[1].shape == (2, 128)
for tag in sorted(path.name for path in (where / "target" / "star_zoo" / "weights").iterdir()):
    assert same(timm.create_model(tag, pretrained=True), where / "target" / "star_zoo" / "weights" / tag)
    assert re.search(rf"^{tag} +embedded ", star_zoo_says("list"), re.M)

# a released checkpoint, converted and installed
released = ("convert", str(where / "ckpt-200.pth"), "--recipe", "stl10_resnet18", "--out", str(where / "released"))
star_zoo_says(*released, "--install", "star_resnet18.stl10")
assert same(timm.create_model("star_resnet18.stl10", pretrained=True), where / "released")

# a card, and what would be published
star_zoo_says("card", str(where / "model"))
assert 'create_model("local-dir:' in (where / "model" / "README.md").read_text()
repository = "me/star_test_resnet.mine"
staged = Path(star_zoo_says("publish", str(where / "model"), repository, "--dry-run").strip())
assert 'create_model("hf-hub:me/star_test_resnet.mine"' in (staged / "README.md").read_text()

# published, and had from there
assert repository in star_zoo_says("publish", str(where / "model"), repository, "--tag", "v1.0")
assert same(timm.create_model(f"hf-hub:{repository}", pretrained=True), where / "model")
objective = star_zoo.load_objective(f"hf-hub:{repository}@v1.0")
assert objective.config == star_zoo.load_objective(where / "model").config

# published under the name of a tag
star_zoo_says("publish", str(where / "released"), "me/star_resnet18.tinyimagenet")
assert same(timm.create_model("star_resnet18.tinyimagenet", pretrained=True), where / "released")

# for another process
star_zoo_says("install", str(where / "model"), "star_test_resnet.mine")
"""
LATER = """
import sys
from pathlib import Path
import star_zoo, timm
assert timm.list_pretrained("star_test_resnet*") == ["star_test_resnet.mine"]
assert timm.create_model("star_test_resnet", pretrained=True).num_features == 96
assert star_zoo.load_objective("star_test_resnet.mine").config["objective"] == "star"
assert timm.create_model("star_resnet18.tinyimagenet", pretrained=True).num_features == 512  # from the cache
"""


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the wheel is installed, alone; it lies beside it."""
    where = tmp_path_factory.mktemp("wheel")
    built = pip("wheel", "--no-deps", "--wheel-dir", where, ROOT)
    if built.returncode:
        pytest.skip(f"no wheel can be built here: {built.stderr.strip().splitlines()[-1]}")
    (wheel,) = where.glob("*.whl")
    done = pip("install", "--no-deps", "--no-index", "--target", where / "target", wheel)
    assert done.returncode == 0, done.stderr
    return where / "target"


def pip(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_what_is_in_the_wheel(target: Path):
    (wheel,) = target.parent.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    packages = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert packages == {"star_catalog", "star_zoo", "star_training"}
    assert [name for name in names if "test" in name.split("/")[0] or name.endswith((".pyc", ".pth", ".part"))] == []
    assert wheel.stat().st_size < 95e6  # PyPI's limit for a file is 100 MB
    for tag in sorted(path.name for path in zoo.EMBEDDED.iterdir()):
        embedded = {name.rpartition("/")[2] for name in names if name.startswith(f"star_zoo/weights/{tag}/")}
        assert embedded == set(store.FILES) - {"finetune.json"}
    assert {
        *(f"star_training/publishing/templates/{name}.md.jinja" for name in ("card", "results", "training")),
        "star_training/reports/page.html.jinja",
        "star_catalog/py.typed",
        "star_zoo/py.typed",
        "star_training/py.typed",
    } <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_installed_wheel_does_what_the_zoo_is_for(target: Path):
    where = target.parent
    torch.manual_seed(0)
    Theirs().checkpoint(where / "ckpt-200.pth")
    model = backbone()
    save_pretrained(
        where / "model", model, objectives.build("star", model.num_features, POLICY, num_experts=2, hidden=8)
    )
    with LoopbackHub() as hub:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "PYTHON"))}
        env = kept | hub.env(where / "home") | {
            "PYTHONPATH": str(target),
            "STAR_ZOO_HOME": str(where / "store"),
            "STAR_ZOO_HUB_ORG": "me",
        }  # fmt: skip

        def run(*command: object, **more: str) -> str:
            words = [str(word) for word in command]
            done = subprocess.run(words, cwd=where, env=env | more, capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout

        run(sys.executable, "-c", CODE, where)
        assert set(json.loads((where / "model-to-publish" / "heads.json").read_text())) >= {"objective", "policy"}
        hub.stop()
        run(sys.executable, "-c", LATER, HF_HUB_OFFLINE="1")
        table = run(target / "bin" / "star-zoo", "list")
    assert "star_test_resnet.mine" in table and "broken" not in table
