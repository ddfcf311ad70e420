"""Networks that a user registers with timm are saved under their own names, and found by their module."""

import json
import re
from pathlib import Path

import pytest

from runs import finish, start
from star_zoo import hub, save_pretrained
from twins import backbone

OWN = """
import dataclasses, pathlib, sys, timm, torch, warnings
from timm.models import register_model
from star_training import recipes
from star_training.evaluation.features import pixels
from star_training.evaluation.frozen_model import FrozenModel
from star_training.models.identity import identity
from star_training.models.names import Leaf
from star_training.publishing import card
from star_zoo import Policy, hub, own_networks, save_pretrained, wrapped_model, wrappers
from star_zoo.augmentations import Crop

POLICY = Policy([Crop(size=32)], mean=[0.5] * 3, std=[0.5] * 3)

def small(settings):
    model = timm.create_model("resnet10t", **settings)
    model.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1)
    model.maxpool = torch.nn.Identity()
    return model

@register_model
def own_small_stem(pretrained=False, **settings):
    model = small(settings)
    if pretrained:
        timm.models.load_pretrained(model)
    return model

@register_model
def forgetful(pretrained=False, **settings):
    return small(settings)

def saved(name):
    made = hub.create(name, pretrained=False, num_classes=0).eval()
    save_pretrained(folder, made)
    hub.check(folder)
    return made

folder, x = pathlib.Path(sys.argv[1]), torch.randn(2, 3, 32, 32)
try:
    saved("forgetful")
except ValueError as error:
    assert "timm creates 'forgetful' from" in str(error) and "without its conv1" in str(error), error
else:
    raise AssertionError("the weights are lost")
made = saved("own_small_stem")
assert torch.equal(timm.create_model(f"local-dir:{folder}", pretrained=True).eval()(x), made(x))
assert hub.create("resnet10t.c3_in1k", pretrained=False).pretrained_cfg["architecture"] == "resnet10t"
text = card.render(folder)
assert "\\nown_small_stem, a network that is not part of timm.\\n" in text and "With timm alone" not in text
assert "in a program that has registered the network `own_small_stem`" in text
sys.path.append(str(folder.parent))
import own_module
made = hub.create("own_tiny", pretrained=False, num_classes=3)
save_pretrained(folder.parent / "tiny", made)
for classes in (0, 5):
    loaded = hub.create(str(folder.parent / "tiny"), num_classes=classes)
    assert torch.equal(loaded.layers[0].weight, made.layers[0].weight) and loaded(x).shape == (2, classes or 8)
assert "After importing `own_module`" in card.render(folder.parent / "tiny").replace("after", "After")
plain = [hub.create("own_tiny", pretrained=False, num_classes=0) for _ in range(2)]
both = wrappers.build("concat", [plain[0], wrappers.build("averaged", [plain[1]], POLICY, views=2)], POLICY)
save_pretrained(folder.parent / "both", wrapped_model.savable(both))

source = pathlib.Path(own_module.__file__)
assert own_networks.sources(made) == [source]
prints = []
for code in (source.read_text(), source.read_text() + "# another\\n"):
    source.write_text(code)
    prints.append(FrozenModel("tiny", made, pixels(32)).fingerprint)
assert prints[0] != prints[1] and identity(Leaf(str(folder.parent / "tiny"))) is None is not identity(Leaf(str(folder)))
with warnings.catch_warnings(action="ignore"):  # timm's of the overwritten name
    register_model(own_module.resnet26)
try:
    dataclasses.replace(recipes.find("folder"), backbone="resnet26").check()
except ValueError as error:
    assert "own_module registers its own network under a name of timm's, 'resnet26'" in str(error)
    assert str(error).endswith("register it under another name")
else:
    raise AssertionError("it would be loaded as timm's")
"""


MODULE = """
import timm
from torch import nn

class Tiny(nn.Module):
    def __init__(self, in_chans=3, num_classes=0, **others):
        super().__init__()
        self.num_classes, self.num_features, self.head_hidden_size = num_classes, 8, 8
        self.layers = nn.Sequential(nn.Conv2d(in_chans, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.last = nn.Linear(8, num_classes) if num_classes else nn.Identity()

    def get_classifier(self):
        return self.last

    def forward(self, x):
        return self.last(self.layers(x))

def resnet26(pretrained=False, **arguments):
    return timm.models.build_model_with_cfg(Tiny, "resnet26", pretrained, **arguments)

@timm.models.register_model
def own_tiny(pretrained=False, **arguments):
    return timm.models.build_model_with_cfg(Tiny, "own_tiny", pretrained, **arguments)
"""
LOADING = """
import sys
sys.path += sys.argv[2:]
from star_zoo import hub

made = hub.create(sys.argv[1])
print(*(type(one).__module__ for one in made.modules() if type(one).__name__ == "Tiny"))
"""


def test_a_network_that_the_user_registered_is_saved_under_its_own_name_and_found_by_its_module(tmp_path: Path):
    (tmp_path / "own_module.py").write_text(MODULE)
    status, _, err = finish(start([str(tmp_path / "saved")], program=("-c", OWN)))
    assert status == 0, err
    found = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("saved", "tiny")]
    assert [config["architecture"] for config in found] == ["own_small_stem", "own_tiny"]
    assert [config.get("module") for config in found] == [None, "own_module"]  # __main__ can't be imported again
    for name, count in (("tiny", 1), ("both", 2)):  # the latter is a wrapper of two
        status, out, err = finish(start([str(tmp_path / name), str(tmp_path)], program=("-c", LOADING)))
        assert (status, out.split()) == (0, ["own_module"] * count), err


def test_an_unknown_network_is_refused_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save_pretrained(tmp_path, backbone())
    (tmp_path / "needs.py").write_text("import nee")  # the start of its own name
    monkeypatch.syspath_prepend(tmp_path)
    made = json.loads((tmp_path / "config.json").read_text())
    assert "module" not in made
    for module, words in (
        ("nowhere", ", and its module can't be imported: No module named 'nowhere'; install its package, or add its"),
        ("json", ", and the module 'json' doesn't register it; correct it, or install its package, or add its folder"),
        ("needs", ", and its module can't be imported: No module named 'nee'; needs needs it"),
        (None, "; in Python, first import the module that registers it with timm"),
        (".relative", "; in Python, first import the module that registers it with timm"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({**made, "architecture": "own_tiny", "module": module}))
        with pytest.raises(ValueError, match=re.escape(f"neither timm nor star-zoo has the network 'own_tiny'{words}")):
            hub.create(str(tmp_path))
