"""A recipe is one function in a file: it is found by existing, and described without being imported."""

import sys
from pathlib import Path

import pytest

from star_training import recipes
from star_training.cli.main import main

MINE = '''
from star_training import recipes
from star_training.pretraining.recipe import Recipe


def mine() -> Recipe:
    """My own images.

    No part of the description.
    """
    return recipes.find("folder")


def quoted() -> "Recipe":
    """Quoted annotation."""
    return recipes.find("folder")


def silent() -> Recipe:
    return recipes.find("folder")


def helper(recipe: Recipe) -> int:
    return 1


def _private() -> Recipe:
    return recipes.find("folder")
'''


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of the recipes' new module, in a folder outside the package."""
    (tmp_path / "my_images.py").write_text(MINE)
    monkeypatch.setattr(recipes, "__path__", [*recipes.__path__, str(tmp_path)])
    name = f"{recipes.__name__}.my_images"
    monkeypatch.setitem(sys.modules, name, None)
    del sys.modules[name]  # monkeypatch removes the imported module afterwards
    return name


def test_a_new_file_adds_its_recipes(module: str):
    names = {"mine": "My own images.", "quoted": "Quoted annotation.", "silent": ""}
    known = recipes.known()
    assert {name: known[name] for name in names} == names and list(known) == sorted(known)
    assert not {"helper", "_private", "Recipe", "default_policy"} & set(known)
    assert module not in sys.modules
    assert recipes.find("mine") == recipes.find("quoted") == recipes.find("folder")


def test_the_help_shows_it_and_an_error_knows_it(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["pretrain", "--help"])
    assert "My own images.\n" in capsys.readouterr().out
    assert main(["pretrain", "mini"]) == 1
    assert "did you mean 'mine'? known: cifar10_resnet10t, " in capsys.readouterr().err


def test_the_only_recipe_of_a_users_module_is_found_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "package_mine").mkdir()
    one, _, _ = MINE.partition("def quoted")
    (tmp_path / "package_mine" / "one.py").write_text(one.replace('find("folder")', 'find("cifar10_small")'))
    (tmp_path / "package_mine" / "three.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    assert recipes.find("package_mine.one") == recipes.find("cifar10_small")
    with pytest.raises(ValueError, match=r"defines mine, quoted, silent; the module must define one .* `-> Recipe"):
        recipes.find("package_mine.three")
    with pytest.raises(ValueError, match=r"recipe 'package_mine.two' can't be imported: No module named .*PYTHONPATH"):
        recipes.find("package_mine.two")
