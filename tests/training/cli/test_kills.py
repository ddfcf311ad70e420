"""Commands that are killed at any moment, and given again, end as if they had been left alone.

Every life is a real process that ends by a real signal: before a change of the file system (see `dying`), or after a
time. Whatever is complete stays so.
"""

import dataclasses
import os
import random
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

import dying
import runs
from data_cases import encoded, write_parquet
from detection_cases import write_pack
from failing_runs import members
from finetune_cases import coloured
from kill_cases import CASES, Case
from loopback_hub import LoopbackHub
from star_training.cli.main import main
from twins import photos
from warm import Server

pytestmark = pytest.mark.slow

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGHUP)
REPOSITORY = "me/star_test_resnet.mine"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the commands read: models, and images with labels, with boxes and in a pack."""
    shared = tmp_path_factory.mktemp("shared")
    for seed, name in enumerate(("older", "model")):
        run = shared / "runs" / name
        assert main(runs.command(run, settings=("epochs=1", "run.eval_every=0", f"seed={seed}"))) == 0
        (run / "export").rename(shared / name)
    images = str(coloured(shared / "images", 24, 12))
    assert main(["eval", "knn", str(shared / "model"), "--data", images, "--seed", "1", "--workers", "0"]) == 0
    write_pack(shared / "scenes.parquet", range(6), range(6, 9))
    pictures = [Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()) for image in photos(144, 32, 32)]
    write_parquet(
        shared / "sets" / "cifar10.parquet",
        image=[encoded(picture, "PNG") for picture in pictures],
        label=[k % 4 for k in range(144)],
        split=["train"] * 128 + ["test"] * 16,
    )
    return shared


Start = Callable[[list[str]], subprocess.Popen]  # of a process that runs `dying`


def start(arguments: list[str]) -> subprocess.Popen:
    return runs.start(arguments, program=(dying.__file__,))


@dataclasses.dataclass(frozen=True)
class Life:
    """How a process ended."""

    code: int
    errors: str
    seconds: float


def live(
    case: Case, start: Start, place: Path, words: list[str], number: int = 0, at: int = 0, after: float = 0.0
) -> Life:
    """Runs a command in a process that gets a signal before its change `at`, or after some seconds."""
    home, begun = str(place / "home") if case.own_store else "", time.monotonic()
    process = start([str(at), str(int(number)), str(place / "changes"), home, *words])
    if after:
        time.sleep(after)
        process.send_signal(number)
    code, _, errors = runs.finish(process)
    assert code in (0, -number if number == signal.SIGKILL else 128 + number), (code, errors)
    assert "Traceback" not in errors and members(process.pid) == []
    return Life(code, errors, time.monotonic() - begun)


def again(case: Case, place: Path, before: Life) -> list[str]:
    """The words of the command that goes on, by the message of the one before, or as a user knows them."""
    if found := re.search("; go on with: star-zoo (.*)$", before.errors, re.M):
        return shlex.split(found[1])
    return [*case.words(place), *(["--resume"] if (place / case.settings).exists() else [])]


def at_work(folder: Path) -> list[str]:
    """The command lines of the processes that work in a folder, if they still do after a while."""
    deadline = time.monotonic() + 20
    while found := [line for line in map(command_line, Path("/proc").glob("[0-9]*")) if str(folder) in line]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)
    return found


def command_line(process: Path) -> str:
    try:
        return (process / "cmdline").read_text(errors="replace")
    except OSError:  # it has ended
        return ""


def place_of(case: Case, place: Path) -> Path:
    place.mkdir()
    case.prepare(place)
    return place


def survives(case: Case, folder: Path, seed: int, start: Start = start) -> None:
    """Kills a command some times, each time in a new place and at another moment."""
    chance, part, alone = random.Random(seed), case.part or case.words, place_of(case, folder / "alone")
    seconds = live(case, start, alone, part(alone)).seconds
    count = int((alone / "changes").read_text())
    if case.part:
        seconds += live(case, start, alone, case.words(alone)).seconds
    wanted = case.results(alone)
    for index in range(case.kills):
        place, number = place_of(case, folder / str(index)), SIGNALS[(index + seed) % len(SIGNALS)]
        if index % 3 == 1:
            ended = live(case, start, place, case.words(place), number, after=chance.uniform(0.05, 0.95) * seconds)
        else:
            at = chance.randint(index * count // case.kills + 1, (index + 1) * count // case.kills)
            ended = live(case, start, place, part(place), number, at=at)
        complete = case.whole(place)
        assert live(case, start, place, again(case, place, ended)).code == 0
        if case.part:
            assert live(case, start, place, case.words(place)).code == 0
        assert complete <= case.whole(place)
        found = case.results(place)
        assert [name for name in found | wanted if found.get(name) != wanted.get(name)] == [], (place, number)
    assert at_work(folder) == []


@pytest.mark.parametrize("seed", range(len(CASES)), ids=[case.__name__ for case in CASES])
def test_a_killed_command_that_is_given_again_ends_as_if_it_had_been_left_alone(
    seed: int, shared: Path, tmp_path: Path
):
    survives(CASES[seed](shared), tmp_path, seed)


def test_a_killed_publication_that_is_repeated_ends_as_if_it_had_been_left_alone(shared: Path, tmp_path: Path):
    old = {"heads.json": b"{}", "LICENSE": b"theirs"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    with LoopbackHub() as there:
        settings = runs.settings() | there.env(tmp_path / "hub")
        settings["PYTHONWARNINGS"] += ",ignore:Use 'content=:DeprecationWarning"  # how the client sends large files
        server = Server(environment | settings, ("star_training.publishing.upload",))

        def files() -> dict[str, bytes]:
            return there.files(REPOSITORY)

        def reset(place: Path) -> None:
            there._repositories.clear()
            there._large.clear()
            there.put(REPOSITORY, old)

        def whole(place: Path) -> set[str]:
            if files().keys() - {".gitattributes"} == old.keys():
                return set()
            assert {"README.md", "model.safetensors", "LICENSE"} < files().keys()
            return {"new"}

        case = Case(
            words=lambda place: ["publish", str(shared / "model"), REPOSITORY, "--tag", "v1.0", "--license", "mit"],
            results=lambda place: (
                files() | {"v1.0": there.files(REPOSITORY, "v1.0"), "": len(there.commits(REPOSITORY))}
            ),
            whole=whole,
            prepare=reset,
            kills=6,
        )
        try:
            survives(
                case,
                tmp_path,
                len(CASES),
                lambda arguments: server.start((dying.__file__, *arguments), environment | settings, tmp_path),
            )
        finally:
            server.close()
