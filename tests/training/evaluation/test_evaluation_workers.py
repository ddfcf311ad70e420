"""Evaluation loads images in workers: features are equal bit for bit, and an error ends `eval` in one line."""

import multiprocessing
import pickle
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import get_worker_info

from data_cases import encoded, write_folder, write_parquet, write_tar
from star_training.cli.main import main
from star_training.data import DataError, Source, open_source
from star_training.data.eval_sets.dataset import Splits
from star_training.data.sources.spirograph import Spirographs
from star_training.data.sources.subset import spread
from star_training.data.workers import useful_workers
from star_training.errors import LoadingError
from star_training.evaluation import features
from star_training.evaluation.embeddings import base_and_drawn, view
from star_training.evaluation.features import Preprocess, base_view, drawn_view, extract, pixels, timm_view
from star_training.evaluation.frozen_model import FrozenModel, load
from twins import backbone, every_operation

COUNT = 301  # images: enough for workers, and the last batch is incomplete
POLICY = every_operation(16)


def jpeg(number: int) -> bytes:
    """An image of one of a few sizes, unlike all others."""
    noise = torch.randint(256, (40 + number % 7, 36 + number % 5, 3), generator=torch.Generator().manual_seed(number))
    return encoded(Image.fromarray(noise.byte().numpy()), "JPEG")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The same images as a folder, a Parquet file and a tar shard."""
    root = tmp_path_factory.mktemp("images")
    images = [jpeg(number) for number in range(COUNT)]
    write_folder(root / "folder", {f"{n % 2}/{n:03d}.jpg": data for n, data in enumerate(images)})
    write_parquet(root / "a.parquet", image=images, label=[n % 2 for n in range(COUNT)])
    write_tar(
        root / "a.tar",
        {
            f"{n:03d}.{end}": data
            for n, image in enumerate(images)
            for end, data in (("jpg", image), ("cls", str(n % 2).encode()))
        },
    )
    return {"folder": str(root / "folder"), "parquet": str(root / "a.parquet"), "tar": str(root / "a.tar")}


@pytest.fixture(params=["folder", "parquet", "tar"])
def source(request: pytest.FixtureRequest, files: dict[str, str]) -> Source:
    return open_source(files[request.param], cache_bytes=0)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of workers of each pass over images."""
    found: list[int] = []
    load_once = features.load_once
    monkeypatch.setattr(features, "load_once", lambda *a: (found.append(a[-1]), load_once(*a))[1])
    return found


def small() -> nn.Module:
    return backbone(pretrained_cfg_overlay={"input_size": (3, 32, 32)})


def views() -> dict[str, tuple[nn.Module, Preprocess]]:
    model = small()
    return {"timm": (model, timm_view(model)), "base": (model, base_view(POLICY)), "pixels": (nn.Flatten(), pixels(8))}


@pytest.mark.parametrize("kind", ["timm", "base", "pixels"])
def test_features_are_those_of_no_workers(source: Source, started: list[int], kind: str):
    model, preprocess = views()[kind]
    found = [extract(model, source, preprocess, batch_size=128, workers=workers) for workers in (0, 2)]
    assert started == [0, 2] and len(found[0]) == COUNT
    assert torch.equal(*found)
    with features.evaluating(model):
        images = [preprocess([source[i] for i in some.tolist()]) for some in torch.arange(COUNT).split(128)]
        alone = torch.cat([model(x.contiguous(memory_format=torch.channels_last)) for x in images])
    assert torch.equal(found[0], alone)
    assert multiprocessing.active_children() == []


def test_views_are_those_of_no_workers(source: Source):
    found = []
    for workers in (0, 2):
        model = FrozenModel("a", net := small(), timm_view(net), workers=workers)
        found.append(view(model, source, base_and_drawn(2), seed=3))
    assert all(map(torch.equal, *((each.params, each.features) for each in found)))


def test_workers_are_for_many_images_that_are_decoded_on_access(files: dict[str, str], started: list[int]):
    lazy = open_source(files["folder"], cache_bytes=0)
    cached = open_source(files["folder"])
    assert useful_workers(lazy, 2) == useful_workers(spread(lazy, COUNT - 1), 2) == 2
    for other in (spread(lazy, 50), cached, spread(cached, COUNT - 1), Spirographs(1000)):
        assert useful_workers(other, 2) == 0
    drawn = [extract(small(), lazy, drawn_view(POLICY, 0), workers=workers) for workers in (0, 2)]
    assert started == [0, 0] and torch.equal(*drawn)  # draws depend on the images before


def test_what_workers_get_can_be_pickled(files: dict[str, str]):
    """Where they are not forked; the preprocessing draws nothing then."""
    image = open_source(files["folder"])[0]
    for _, preprocess in views().values():
        again = pickle.loads(pickle.dumps(preprocess.each))
        assert all(map(torch.equal, again(image), preprocess.each(image)))
    plan = pickle.loads(pickle.dumps(base_and_drawn(1)))
    assert plan(POLICY, 40, 36, torch.Generator()).shape[0] == 2


def test_an_image_that_fails_is_named_and_no_worker_is_left(files: dict[str, str], monkeypatch: pytest.MonkeyPatch):
    source = open_source(files["folder"], cache_bytes=0)
    for error, expected in ((RuntimeError("odd"), LoadingError), (DataError("bad data."), DataError)):

        def each(image: Tensor, error: Exception = error) -> tuple[Tensor]:
            raise error

        with pytest.raises(expected, match="odd|bad data") as raised:
            extract(nn.Flatten(), source, pixels(8)._replace(each=each), workers=2)
        assert "\n" not in str(raised.value)
        assert multiprocessing.active_children() == []


def test_images_that_do_not_decode_are_flagged_by_workers(tmp_path: Path):
    images = {f"{n % 2}/{n:03d}.jpg": jpeg(n) for n in range(COUNT)}
    images["0/100.jpg"] = images["0/100.jpg"][:50]
    found = []
    for workers in (0, 2):
        source = open_source(str(write_folder(tmp_path / str(workers), images)), cache_bytes=0)
        found.append(extract(nn.Flatten(), source, pixels(8), workers=workers))
        assert [source.describe(i)[-7:] for i in source.bad] == ["100.jpg"]
    assert torch.equal(*found)


@pytest.mark.parametrize("protocol", ["knn", "redundancy"])
def test_an_exception_in_a_worker_ends_eval_in_one_line(
    files: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], protocol: str
):
    def strange(self: object, index: int, use: object) -> None:
        if get_worker_info() is not None:
            raise RuntimeError("one\ntwo")
        return opened(self, index, use)

    source = open_source(files["folder"], cache_bytes=0)
    opened = type(source).open
    monkeypatch.setattr(type(source), "open", strange)
    monkeypatch.setattr(Splits, "_open", lambda self, split: source)
    command = ["eval", protocol, "untrained:test_resnet", "--data", files["folder"], "--workers"]
    capsys.readouterr()
    assert main([*command, "2"]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("star-zoo:")]
    assert line.startswith("star-zoo: can't load ") and ".jpg: RuntimeError: one two (" in line
    assert multiprocessing.active_children() == []
    assert main([*command, "-1"]) == 1
    assert "workers is -1; it must be at least 0" in capsys.readouterr().err


def test_models_have_the_training_loaders_default():
    assert load("pixels").workers == load("pixels", workers=2).workers == 2
