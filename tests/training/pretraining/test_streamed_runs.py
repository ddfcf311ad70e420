"""Runs on streams: they resume to the same bits, report bad images, and refuse settings that make no stream."""

from pathlib import Path
from typing import Any

import pytest
import torch

from runs import (
    EPOCH,
    EVALUATED,
    NOISY,
    STEPS,
    assert_equal,
    command,
    entries,
    exported,
    finish,
    start,
    stopped_at,
    tiny,
)
from star_training.cli.main import main
from star_training.data import BadImageWarning, DataError
from star_training.data.streaming import shards as shards_module
from star_training.engine.saving.checkpoint import Checkpoints
from star_training.pretraining.run import Run
from star_training.settings.base import override
from stream_cases import served, shards

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # on small machines

STREAMED = (
    'policy={"augmentations": [{"name": "Crop", "size": 32}], "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]}',
    "data.images=32",
    "data.lanes=4",
    "data.buffer=4",
)


COUNTS = [9, 5, 7, 8, 6]  # 35 images: a lane begins its second pass in mid-run


@pytest.fixture
def source(tmp_path: Path) -> str:
    return f"data.source=stream:{shards(tmp_path / 'shards', COUNTS)}"


@pytest.mark.parametrize(("before", "after", "step"), [(0, 2, EPOCH + 1), (2, 0, 3), (3, 1, EPOCH)])
def test_a_stopped_run_goes_on_to_the_same_bits(before: int, after: int, step: int, source, tmp_path, monkeypatch):
    def recipe(workers: int) -> Any:
        return tiny(*NOISY, *STREAMED, source, f"run.workers={workers}")

    Run(recipe(0), tmp_path / "whole").train()
    stopped_at(monkeypatch, recipe(before), tmp_path / "parted", step)
    Run(recipe(after), tmp_path / "parted", resume=True).train()
    assert_equal(exported(tmp_path / "parted"), exported(tmp_path / "whole"))
    assert [e["loss"] for e in entries(tmp_path / "parted")] == [e["loss"] for e in entries(tmp_path / "whole")]
    assert [e["step"] for e in entries(tmp_path / "whole")] == [*range(1, STEPS + 1)]


def test_a_run_whose_server_broke_down_goes_on_when_it_is_mended(source, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(shards_module, "PAUSES", (0.0, 0.0))
    common = (*NOISY, *STREAMED, "run.checkpoint_every=1", "run.workers=1")
    assert main(command(tmp_path / "whole", settings=(*common, source))) == 0
    with served(tmp_path / "shards") as site:
        remote = (*common, f"data.source=stream:{site.address}/s-{{0..4}}.tar")
        original = Run._train_step

        def train_step(run: Run, batches: Any) -> None:
            if run.step == 2:
                site.cuts = {f"s-{k}.tar": [2000] * 99 for k in range(5)}
            original(run, batches)

        with monkeypatch.context() as patch:
            patch.setattr(Run, "_train_step", train_step)
            assert main(command(tmp_path / "run", settings=remote)) == 1
        (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("star-zoo: "))
        assert f"{site.address}/s-" in line and "tried 3 times" in line and "--resume" in line
        assert 2 <= entries(tmp_path / "run")[-1]["step"] < STEPS
        site.cuts = {f"s-{k}.tar": [2000] for k in range(5)}  # once more, each
        assert main(command(tmp_path / "run", "--resume", settings=remote)) == 0
    assert_equal(exported(tmp_path / "run"), exported(tmp_path / "whole"))


def test_other_shards_are_refused_on_resume_as_are_other_lanes(source, tmp_path: Path, monkeypatch):
    recipe = tiny(*STREAMED, source)
    stopped_at(monkeypatch, recipe, tmp_path / "run", 2)
    other = f"data.source=stream:{shards(tmp_path / 'other', COUNTS[1:])}"
    with pytest.raises(ValueError, match="are not those that .* began with"):
        Run(tiny(*STREAMED, other), tmp_path / "run", resume=True)
    with pytest.raises(ValueError, match="data.lanes: 4, 2"):
        Run(override(recipe, ["data.lanes=2"]), tmp_path / "run", resume=True)


@pytest.mark.slow
def test_two_processes_save_where_all_lanes_stand(source, tmp_path: Path):
    settings = (*STREAMED, source, "run.workers=1")
    two = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "star_training")
    code, _, stderr = finish(start(command(tmp_path / "two", settings=settings), program=two), 300)
    assert code == 0, stderr
    Run(tiny(*settings), tmp_path / "one").train()
    states = [Checkpoints(tmp_path / name, 2).newest() for name in ("one/checkpoints", "two/checkpoints")]
    one, other = (state.tensors["lanes"] for state in states if state)
    assert torch.equal(one, other) and one[:, 3].tolist() == [2 * STEPS] * 4


def test_bad_images_of_a_run_are_reported_and_too_many_end_it(tmp_path: Path):
    source = f"data.source=stream:{shards(tmp_path / 'shards', COUNTS, broken=(3, 20))}"
    with pytest.warns(BadImageWarning, match=r"of the \d+ images of stream:.* can't be used: \d+ in .*s-\d.tar \("):
        Run(tiny(*STREAMED, source, "data.max_bad=0.3"), tmp_path / "run").train()
    with (
        pytest.warns(BadImageWarning, match="(are|is) not used"),
        pytest.raises(DataError, match="max_bad = 0.01"),
    ):
        Run(
            tiny(*STREAMED, source, EVALUATED), tmp_path / "strict"
        ).train()  # online evaluation, before training, only warns


def test_a_run_says_that_it_starts_no_more_workers_than_lanes(source, tmp_path: Path):
    notes = Run(tiny(*STREAMED, source, EVALUATED, "run.workers=5"), tmp_path / "run").notes
    assert "4 lanes of the stream to read, so no more workers than that" in notes
    assert "no held-out labels: RankMe alone is measured online" in notes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["data.images=null"], r"can't be counted; pass images per epoch with --set data.images=N"),
        (["data.images=7"], r"has 7 images to train on, but a step takes 8; pass more images"),
        (["data.images=0"], "data.images is 0; it must be at least 1"),
        (["data.buffer=0"], "data.buffer is 0; it must be at least 1"),
        (["data.limit=9"], "data.limit=9 can't choose among the images of a stream; pass fewer shards"),
        (["data.lanes=3"], "batch_size 8 must be a multiple of the lanes"),
        (["data.source=spirograph:32"], "data.images=32 is for streams, but spirograph:32 isn't one; use data.limit"),
    ],
)
def test_settings_that_make_no_stream_are_refused_before_anything_is_written(changes, message, source, tmp_path):
    with pytest.raises(ValueError, match=message):
        Run(tiny(*STREAMED, source, *changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()
