"""Recipes, models and data sets that hold anything: refused in one clear line, or right; never a crash or a hang."""

import copy
import json
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_cases import png, write_parquet, write_tar
from runs import PACKAGES
from star_training import recipes
from star_training.pretraining.recipe import Recipe
from star_training.settings.base import override
from star_zoo import load_objective, objectives, save_pretrained
from star_zoo.hub import check
from twins import POLICY, backbone

wild = settings(derandomize=True, deadline=None)

# Recipes

FOLDER = recipes.find("folder")
WORDS = ["Crop", "Blur", "star", "", "NaN", "null", "../..", "\x00", "\ud800", "ε"]
TEXT = st.text(st.characters(exclude_characters="\n\r"), max_size=5)  # one is printed as it was given
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(WORDS) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=4,
)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) in some JSON."""
    for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield value, key
        if isinstance(inner, (dict, list)):
            yield from places(inner)


@st.composite
def wild_recipes(draw: Callable[[Any], Any]) -> Any:
    """A recipe's JSON in which a few things were replaced, removed, added or put elsewhere."""
    data = copy.deepcopy(FOLDER.to_dict())
    for _ in range(draw(st.integers(1, 3))):
        found = list(places(data))
        if not found:
            break
        container, key = draw(st.sampled_from(found))
        change = draw(st.sampled_from(["replace", "remove", "add", "move"]))
        if change == "remove":
            del container[key]
        elif change == "add" and isinstance(container, dict):
            container[draw(TEXT)] = draw(VALUES)
        elif change == "move":
            other, where = draw(st.sampled_from(found))
            container[key] = (
                copy.deepcopy(other.get(where) if isinstance(other, dict) else other[where % len(other)])
                if other
                else None
            )
        else:
            container[key] = draw(VALUES)
    return data


def whole_or_refused(make: Callable[[], Recipe]) -> None:
    """One line, or a recipe that JSON keeps."""
    try:
        recipe = make()
    except ValueError as error:
        assert str(error) and "\n" not in str(error)
        return
    text = json.dumps(recipe.to_dict(), allow_nan=False)
    assert json.dumps(Recipe.from_dict(json.loads(text)).to_dict()) == text


@settings(wild, max_examples=200)
@given(wild_recipes())
def test_any_json_is_a_recipe_or_refused(data: Any):
    whole_or_refused(lambda: Recipe.from_dict(data))


PATHS = sorted(
    {"policy.augmentations.0.size", "policy.mean.0", "optimizer.lr", "run.keep", "data.limit", "seed"}
    | set(FOLDER.to_dict())
)


@settings(wild, max_examples=200)
@given(
    path=st.sampled_from(PATHS) | st.lists(st.sampled_from([*PATHS, "0", "x", "", "lr"]), max_size=4).map(".".join),
    value=VALUES.map(json.dumps) | TEXT | st.sampled_from(["NaN", "-Infinity", "1e999", "9" * 5000]),
    sign=st.sampled_from(["=", "=", "=", ""]),
)
@example("seed", "[" * 100_000, "=")
def test_any_setting_is_taken_or_refused(path: str, value: str, sign: str):
    whole_or_refused(lambda: override(FOLDER, [f"{path}{sign}{value}"]))


# Saved models


@st.composite
def damage(draw: Callable[[Any], Any], until: int = 4000) -> Callable[[bytes], bytes]:
    """Bytes of the first `until` changed, or the file cut short."""
    flips = draw(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=3))
    cut = draw(st.none() | st.floats(0, 1))

    def change(data: bytes) -> bytes:
        changed = bytearray(data)
        for place, bits in flips:
            changed[int(place * min(until, len(data)))] ^= bits
        return bytes(changed if cut is None else data[: int(cut * len(data))])

    return change


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = backbone()
    objective = objectives.build("star", model.num_features, POLICY, num_experts=2, hidden=8)
    return save_pretrained(tmp_path_factory.mktemp("saved"), model, objective)


@pytest.fixture(scope="module")
def folder(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(saved, tmp_path_factory.mktemp("damaged") / "folder"))


def damaged(folder: Path, saved: Path, name: str, change: Callable[[bytes], bytes]) -> set[str]:
    """Changes one file of a folder that is whole otherwise; gives the names in it."""
    for path in saved.iterdir():
        shutil.copy(path, folder)
    (folder / name).write_bytes(change((saved / name).read_bytes()))
    return {path.name for path in folder.iterdir()}


@settings(wild, max_examples=40)
@given(name=st.sampled_from(["heads.json", "heads.safetensors"]), change=damage())
def test_damaged_heads_are_refused_or_right(saved: Path, folder: Path, name: str, change: Callable[[bytes], bytes]):
    names = damaged(folder, saved, name, change)
    try:
        found = load_objective(folder)
    except ValueError as error:
        assert str(folder / "heads") in str(error) and "\n" not in str(error)
    else:
        expected = load_objective(saved).state_dict()
        assert found.state_dict().keys() == expected.keys()
        if name == "heads.safetensors":  # its tensors have no checksum, but their description is checked
            assert all(
                t.shape == expected[k].shape and t.dtype == expected[k].dtype for k, t in found.state_dict().items()
            )
    assert {path.name for path in folder.iterdir()} == names


@settings(wild, max_examples=60)
@given(name=st.sampled_from(["config.json", "model.safetensors"]), change=damage())
def test_a_damaged_backbone_is_refused_or_right(saved: Path, folder: Path, name: str, change: Callable[[bytes], bytes]):
    names = damaged(folder, saved, name, change)
    try:
        check(folder)
    except ValueError as error:
        assert str(folder) in str(error) and "\n" not in str(error)
    else:  # what is passed loads, and is what was saved
        found = timm.create_model(f"local-dir:{folder}", pretrained=True).state_dict()
        expected = timm.create_model(f"local-dir:{saved}", pretrained=True).state_dict()
        assert all(tensor.shape == expected[key].shape for key, tensor in found.items())
        if name == "config.json":
            assert all(torch.equal(tensor, expected[key]) for key, tensor in found.items())
    assert {path.name for path in folder.iterdir()} == names


# Data sets, read by another process, which may neither die nor stay silent

READER = """
import resource, sys, warnings
import torch
from star_training.data import BadImageWarning, DataError, open_source

resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30, 8 * 2**30))  # as much memory as it takes would be an end too
warnings.simplefilter("error")
warnings.simplefilter("ignore", BadImageWarning)
for line in sys.stdin:
    try:
        source = open_source(line.strip(), max_bad=1)
        assert all(source[k].dtype == torch.uint8 and source[k].shape[0] == 3 for k in range(len(source)))
        assert source.targets is None or len(source.targets) == len(source)
        print("read", flush=True)
    except DataError as error:
        print("refused", str(error).encode(), flush=True)
    except Exception as error:
        print(type(error).__name__, error, flush=True)
"""
SECONDS = 30  # until an answer counts as a hang


class Reader:
    """A process that reads the data sets that it is given."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", READER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": PACKAGES},
        )

    def __call__(self, path: Path) -> str:
        assert self.process.stdin and self.process.stdout and self.process.stderr
        self.process.stdin.write(f"{path}\n".encode())
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], SECONDS)
        assert ready, f"no answer on {path} within {SECONDS} s"
        answer = self.process.stdout.readline().decode()
        assert answer, f"{path} ended the process: {self.process.stderr.read().decode()}"
        return answer


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    reader = Reader()
    yield reader
    reader.process.kill()
    reader.process.communicate()


def packs(folder: Path) -> dict[str, Path]:
    """A data set of each kind of one file, with labels."""
    pictures = {f"{k}.png": png(k, (20, 10)) for k in range(6)}
    labels = {f"{k}.cls": b"%d" % (k % 2) for k in range(6)}
    columns = {"image": [*pictures.values()], "label": [k % 2 for k in range(6)], "split": ["train", "test"] * 3}
    texts = {"image": [*pictures.values()], "label_name": [f"class {k % 2}" for k in range(6)]}
    return {
        "a.tar": write_tar(folder / "a.tar", dict(sorted((pictures | labels).items()))),
        "a.parquet": write_parquet(folder / "a.parquet", {"classes": '["a", "b"]'}, **columns),
        "b.parquet": write_parquet(folder / "b.parquet", **texts),
    }


@pytest.mark.parametrize("name", ["a.tar", "a.parquet", "b.parquet"])
def test_a_damaged_pack_is_refused_or_read(name: str, reader: Reader, tmp_path: Path):
    whole = packs(tmp_path)[name]
    data, path = whole.read_bytes(), tmp_path / f"damaged{whole.suffix}"

    @settings(wild, max_examples=60)
    @given(damage(until=10**6))
    def read(change: Callable[[bytes], bytes]) -> None:
        path.write_bytes(change(data))
        answer = reader(path)
        assert answer.startswith(("read", "refused")), answer
        assert "\\n" not in answer
        assert sorted(p.name for p in tmp_path.iterdir()) == ["a.parquet", "a.tar", "b.parquet", path.name]

    read()
