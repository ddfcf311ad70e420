"""Whatever goes wrong where images are loaded ends a command within seconds, in one line, and leaves no process."""

import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from detection_cases import write_pack
from failing_runs import Outcome, Runs, members
from runs import command, finish, pictures, start

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")

DETECTION = ("head=c4", "steps=40", "batch_size=2", "regions=8", "sizes=[32,48,8]", "precision=no", "norm_batches=0")
FINETUNING = ("views.size=32", "epochs=9", "batch_size=8", "precision=no")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    runs = Runs(tmp_path_factory.mktemp("runs"))
    yield runs
    runs.close()


def arguments(name: str, place: Path, workers: int) -> list[str]:
    """A command that takes a while if nothing fails."""
    if name == "pretrain":
        return command(place / "run", settings=("epochs=30", f"run.workers={workers}", "run.eval_every=0"))
    if name == "eval":  # images unlike those of other tests, because images that are known to decode are decoded later
        pictures(place / "images" / "train", 8, size=36)
        pictures(place / "images" / "test", 8, size=36)
        return ["eval", "knn", "pixels", "--data", str(place / "images")]
    if name == "detect":
        data, model, settings = write_pack(place / "scenes.parquet", range(8), [8]), "untrained:test_resnet", DETECTION
    else:
        pictures(place / "images" / "test", 8)
        pictures(place / "images" / "train", 32)
        data, model, settings = place / "images", "untrained:test_resnet", FINETUNING
    made = [name, model, "--data", str(data), "--out", str(place / "run")]
    for setting in (*settings, f"run.workers={workers}"):
        made += ["--set", setting]
    return made


def check(ended: Outcome) -> str:
    """That a command failed as it should; gives its line."""
    assert ended.code == 1, ended
    (line,) = ended.lines
    # on a busy machine it takes Python a while to unload torch, but nothing waits for anything
    assert ended.reported < 8 and ended.ended < 30 and ended.left == [], ended
    return line


HINT = "; PYTHONDEVMODE=1 shows the traceback"


@pytest.mark.parametrize(("name", "workers"), [("pretrain", 0), ("finetune", 2), ("detect", 2)])
def test_an_exception_in_an_image(runs: Runs, tmp_path: Path, name: str, workers: int):
    line = check(runs.run("image", "strange", arguments(name, tmp_path, workers)))
    image = {"pretrain": r"spirograph \d+", "finetune": r".*/\d{3}\.png", "detect": r"row \d of .*scenes\.parquet"}
    message = r"(failing_runs\.)?(__main__\.)?Strange: number 7 second line \(.*\.py:\d+\)"
    assert re.fullmatch(f"star-zoo: can't load {image[name]}: {message}{HINT}", line), line


def test_an_exception_in_collating(runs: Runs, tmp_path: Path):
    line = check(runs.run("collate", "missing", arguments("pretrain", tmp_path, 1)))
    assert re.fullmatch(rf"star-zoo: can't load a batch: KeyError: 'a' \(.*\.py:\d+\){HINT}", line), line


def test_memory_runs_out_in_a_loading_process(runs: Runs, tmp_path: Path):
    line = check(runs.run("image", "out_of_memory", arguments("finetune", tmp_path, 1)))
    assert line.startswith(f"star-zoo: out of memory while loading {tmp_path}") and "run.workers=N" in line


def test_memory_runs_out_in_decoding(runs: Runs, tmp_path: Path):
    """The image is not to blame, and must not be left out as one that doesn't decode."""
    line = check(runs.run("decode", "out_of_memory", arguments("eval", tmp_path, 0)))
    assert line.startswith("star-zoo: unexpected MemoryError (")


def test_an_exception_in_loading_for_an_evaluation(runs: Runs, tmp_path: Path):
    line = check(runs.run("load", "missing", arguments("eval", tmp_path, 0)))
    assert re.fullmatch(rf"star-zoo: unexpected KeyError: 'a' \(star_training/data/\w+\.py:\d+\){HINT}", line), line


@pytest.mark.parametrize(
    ("name", "act"), [("pretrain", "leave"), ("pretrain", "crash"), ("detect", "no_shared_memory")]
)
def test_a_process_that_ends_or_can_not_send_its_batch(runs: Runs, tmp_path: Path, name: str, act: str):
    line = check(runs.run("image", act, arguments(name, tmp_path, 1)))
    assert line.startswith("star-zoo: a worker that loads images was killed or can't be reached ("), line
    assert "/dev/shm" in line and "run.workers=N" in line and "--resume" in line


def test_a_busy_process_is_not_waited_for(runs: Runs, tmp_path: Path):
    ended = runs.run("image", "busy", arguments("pretrain", tmp_path, 2))
    assert "the other one is busy" in check(ended)


# Real processes


@pytest.mark.slow
def test_a_killed_run_takes_its_processes_with_it(tmp_path: Path):
    process = start(arguments("pretrain", tmp_path, 2))
    log = tmp_path / "run" / "log.jsonl"
    while not (log.exists() and log.read_text()):
        assert process.poll() is None, finish(process)
        time.sleep(0.01)
    assert len(members(process.pid)) == 3
    os.kill(process.pid, signal.SIGKILL)
    finish(process)
    deadline = time.monotonic() + 3
    while members(process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)
