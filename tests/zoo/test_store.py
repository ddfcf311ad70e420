"""Installing while others read, and being killed at it: real processes, real SIGKILLs, whole models at any moment."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from runs import PACKAGES, pictures
from star_catalog import store
from star_zoo import install, objectives, save_pretrained
from twins import POLICY, backbone

TAG = "star_test_resnet.mine"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two saved models; every weight of the first is 1, of the second 2, and their results say so."""
    folders = [tmp_path_factory.mktemp("models") / name for name in ("one", "two")]
    for number, folder in enumerate(folders, 1):
        model = backbone()
        heads = objectives.build("simclr", model.num_features, POLICY)
        save_pretrained(folder, model, heads, recipe={"number": number}, results={"number": number})
        weights = load_file(folder / "model.safetensors")
        filled = {k: torch.full_like(v, number) if v.is_floating_point() else v for k, v in weights.items()}
        save_file(filled, folder / "model.safetensors", {"format": "pt"})
    return folders


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STAR_ZOO_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


# All moments of a life cost one import: lives are forked from a process that has everything imported.
_LIVES = """
import json, os, random, signal, sys, time, warnings
from pathlib import Path
import timm, torch
from star_training.evaluation import frozen_model, paired_comparison
from star_training.evaluation.protocols import knn
from star_training.reports import tables
from safetensors.torch import load_file
from star_zoo import load_objective, store
from star_training.engine import results
from star_training.cli.main import main

torch.set_num_threads(1)
TAG, folders, data, kills = sys.argv[1], [Path(f) for f in sys.argv[2:4]], sys.argv[4], int(sys.argv[5])
held, chance = [folder / "results.json" for folder in folders], random.Random(0)

def begin(act):
    life = os.fork()
    if life == 0:
        sys.stdout = open(os.devnull, "w")
        act()
        os._exit(0)
    return life

def commands(*lines):
    for line in lines:
        assert main(line) == 0

def number():
    "Of the model that the tag loads, all of it from one version."
    folder = store.folder(TAG)
    numbers = {json.loads((folder / name).read_text())["number"] for name in ("recipe.json", "results.json")}
    values = {float(v.min()) for k, v in load_file(folder / "model.safetensors").items() if k.endswith("weight")}
    assert len(numbers | values) == 1, (numbers, values)
    return numbers.pop()

def again(times):
    for n in range(times):
        folder = folders[n % 2]
        store.put(TAG, [folder / name for name in store.FILES if (folder / name).is_file()])

def hammer():
    "Looks while two processes install."
    looks, seen = 0, set()
    lives = [begin(lambda: again(12)) for _ in range(2)]
    while lives:
        looks += 1
        seen.add(number())
        if looks % 50 == 1:
            model = timm.create_model(TAG, pretrained=True)
            assert len({float(p.max()) for p in model.parameters() if p.dim() > 1}) == 1
            load_objective(TAG)
        ended = [life for life in lives if os.waitpid(life, os.WNOHANG)[0]]
        lives = [life for life in lives if life not in ended]
    return looks, sorted(seen)

def die_at(count, act):
    "Kills this process before its so-manieth operation on files."
    left = [count]

    def hook(event, _):
        if event == "open" or event.startswith(("os.", "shutil.")):
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    act()

def kill_everywhere():
    "Before each operation on files of an install: one that only switches, and one that removes old versions."
    counts = []
    for grace in (600, -1):
        store._GRACE, count, code = grace, 0, -signal.SIGKILL
        while code == -signal.SIGKILL:
            count += 1
            life = begin(lambda: die_at(count, lambda: again(1 + count % 2)))
            code = os.waitstatus_to_exitcode(os.waitpid(life, 0)[1])
            number()
            assert store.installed() == [TAG]
        assert code == 0
        counts.append(count)
    store._GRACE = 600
    return counts

def kill_all():
    "Kills a life at each of so many moments; after each of them everything is whole."
    cut = 0
    for k in range(kills):
        one, other = folders[k % 2], folders[1 - k % 2]
        life = begin(lambda: commands(
            ["install", str(one), TAG],
            ["eval", "knn", str(other), "--data", data, "--seed", str(k)],
            ["compare", str(one), "pixels", "--protocol", "knn", "--data", data, "--seed", str(k)],
            ["install", str(other), TAG],
        ))
        time.sleep(chance.uniform(0, 0.3))
        os.kill(life, signal.SIGKILL)
        cut += os.waitstatus_to_exitcode(os.waitpid(life, 0)[1]) == -signal.SIGKILL
        number()
        assert store.installed() == [TAG]
        assert all(results.read(path)["number"] == n for n, path in enumerate(held, 1))
    return cut

print(json.dumps({"everywhere": kill_everywhere(), "hammered": hammer(), "cut": kill_all()}))
"""


def test_killed_or_hammered_a_tag_is_whole_at_any_moment(models: list[Path], home: Path, tmp_path: Path):
    data = tmp_path / "images"
    for split in ("train", "test"):
        pictures(data / split, 22)
    install(models[0], TAG)
    environment = {"PYTHONPATH": PACKAGES, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _LIVES, TAG, *map(str, models), str(data), "12"],
        env=os.environ | environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    looks, seen = report["hammered"]
    assert looks >= 10 and seen == [1, 2] and report["cut"] >= 8 and min(report["everywhere"]) > 20, report
    install(models[0], TAG)  # takes away what killed ones had begun
    assert [path.name for path in (home / "models").iterdir()] == [TAG]
    assert list((home / "models").rglob(".*")) == []


def test_a_write_to_the_caches_removes_what_killed_writers_left(home: Path):
    (home / "features").mkdir(parents=True)
    old, new = (home / "features" / name for name in (".a.safetensors.0123abcd.part", ".tmpAb3dEf"))
    for age, path in ((700, old), (500, new)):  # seconds
        path.touch()
        os.utime(path, (time.time() - age, time.time() - age))
    with store.keeping():
        pass
    assert list((home / "features").iterdir()) == [new]  # which may still be written
