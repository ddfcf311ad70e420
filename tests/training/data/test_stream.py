"""Shards that are read from front to back: from a disk, over HTTP, by Hugging Face `datasets`."""

import io
import pickle
import tarfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset
from webdataset.tariterators import group_by_keys, tar_file_expander

from data_cases import BROKEN, encoded, numbers, png, write_parquet, write_tar
from runs import tiny
from star_training.data import DataError, open_source
from star_training.data.streaming import shards as shards_module
from star_training.data.streaming.loader import HeldImage
from star_training.data.streaming.stream import Stream, open_stream
from stream_cases import Site, served, shards


@pytest.fixture
def site(tmp_path: Path, monkeypatch) -> Iterator[Site]:
    monkeypatch.setattr(shards_module, "PAUSES", (0.0, 0.0, 0.0))
    with served(tmp_path) as site:
        yield site


def read(stream: Stream, shard: int = 0) -> list[int]:
    """Which images a shard gives."""
    return [Image.open(io.BytesIO(image.data)).getpixel((0, 0))[0] for image in stream.shards.read(shard)]


def test_shards_are_read_as_webdataset_reads_them(tmp_path: Path):
    pattern = shards(tmp_path, [7, 5])
    stream = open_stream(f"stream:{pattern}")
    assert len(stream.shards) == 2
    for shard in range(2):
        with (tmp_path / f"s-{shard}.tar").open("rb") as file:
            theirs = group_by_keys(tar_file_expander([{"url": file.name, "stream": file}]))
            assert [image.data for image in stream.shards.read(shard)] == [sample["png"] for sample in theirs]


def test_as_a_source_a_stream_is_its_first_images(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("star_training.data.streaming.stream._FIRST", 9)
    stream = open_stream(f"stream:{shards(tmp_path, [7, 5], broken=(2,))}")
    assert len(stream) == 9 and stream.targets is None and stream.classes is None
    assert numbers(stream) == [0, 1, 3, 3, 4, 5, 6, 7, 8]
    assert stream.describe(8) == f"{8:03d} in {tmp_path / 's-1.tar'}"


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA"])
def test_images_are_read_with_as_many_channels_as_the_model_takes(mode: str, tmp_path: Path):
    channels = len(mode)
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, channels), dtype=np.uint8)
    write_tar(tmp_path / "s.tar", {"0.png": encoded(Image.fromarray(pixels.squeeze(), mode), "PNG")})
    stream, held = open_stream(f"stream:{tmp_path / 's.tar'}", channels), HeldImage(channels)
    (sample,) = stream.shards.read(0)
    held.data = sample.data
    for image in (stream[0], held.open(0, lambda picture: picture.shrunk(1)[0])):
        assert np.array_equal(image.permute(1, 2, 0).numpy(), pixels)


def test_of_a_sample_only_its_first_image_is_looked_at_and_nothing_is_unpickled(tmp_path: Path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    trap = pickle.dumps(Trap())
    members = {"a.pkl": trap, "a.pyd": trap, "a.png": png(1), "a.jpg": png(9), "a.seg.png": png(9), "b/c.png": png(2)}
    write_tar(tmp_path / "s.tar", members)
    with tarfile.open(tmp_path / "s.tar", "a") as tar:
        link = tarfile.TarInfo("d.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)
    first, second, link = open_stream(f"stream:{tmp_path / 's.tar'}").shards.read(0)
    assert [first.data, second.data] == [png(1), png(2)]
    # which can't be followed: a bad image, which is reported and counted
    assert link.data == b"" and link.where.endswith("a link, which can't be followed in a stream")


def test_dots_in_names_cost_no_image_and_no_memory(tmp_path: Path):
    write_tar(tmp_path / "s.tar", {"a.seg.png": png(9), "a.png": png(1), "b.left.png": png(2), "b.right.png": png(3)})
    assert read(open_stream(f"stream:{tmp_path / 's.tar'}")) == [1, 2, 3]
    write_tar(tmp_path / "s.tar", {f"frame.{k:04d}.png": png(k) for k in range(100)})
    reader = open_stream(f"stream:{tmp_path / 's.tar'}").shards.read(0)
    assert [Image.open(io.BytesIO(image.data)).getpixel((0, 0))[0] for image in reader] == list(range(100))


def test_long_names_and_headers_of_their_own_are_no_damage(tmp_path: Path):
    for format in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT):
        with tarfile.open(tmp_path / "s.tar", "w", format=format) as tar:
            for k in range(3):
                member = tarfile.TarInfo(f"{'d' * 90}/{'ö' * 40}{k}.png")
                member.size = len(png(k))
                tar.addfile(member, io.BytesIO(png(k)))
        assert read(open_stream(f"stream:{tmp_path / 's.tar'}")) == [0, 1, 2]


def test_a_shard_takes_no_more_memory_the_longer_it_is(tmp_path: Path):
    noise = [bytes([k]) * 100_000 for k in range(4)]

    def peak(count: int) -> int:
        write_tar(tmp_path / "s.tar", {f"{k}.png": noise[k % 4] for k in range(count)})
        reader = open_stream(f"stream:{tmp_path / 's.tar'}").shards
        tracemalloc.start()
        assert sum(1 for _ in reader.read(0)) == count
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(400) < peak(20) + 100_000  # 380 images more are 38 MB


# Over HTTP


def test_a_server_gives_what_a_disk_does(tmp_path: Path, site: Site):
    pattern = shards(tmp_path, [7, 5])
    remote = open_stream(f"stream:{site.address}/s-{{0..1}}.tar?token=secret")
    local = open_stream(f"stream:{pattern}")
    assert [read(remote, k) for k in range(2)] == [read(local, k) for k in range(2)]
    assert remote.describe(0) == f"000 in {site.address}/s-0.tar"


@pytest.mark.parametrize("cut", [0, 100, 512, 1000, 1024, 3000, 10_000])
def test_a_shard_that_broke_off_is_read_again_and_nothing_comes_twice(tmp_path: Path, site: Site, cut: int):
    shards(tmp_path, [12])
    stream = open_stream(f"stream:{site.address}/s-0.tar")
    site.asked.clear()
    site.cuts["s-0.tar"] = [cut, cut + 700]
    assert read(stream) == list(range(12))
    assert len(site.asked) == 3


def test_a_server_that_stays_broken_ends_in_an_error_with_the_url(tmp_path: Path, site: Site):
    shards(tmp_path, [12])
    stream = open_stream(f"stream:{site.address}/s-0.tar?token=secret")
    site.asked.clear()
    site.cuts["s-0.tar"] = [3000] * 9
    with pytest.raises(DataError, match=r"/s-0.tar can't be read .the connection ended after 3000") as caught:
        read(stream)
    assert (
        "tried 4 times" in str(caught.value) and "--resume" in str(caught.value) and "secret" not in str(caught.value)
    )
    assert len(site.asked) == 4


def test_a_server_that_is_gone_is_reported(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(shards_module, "PAUSES", (0.0,))
    with served(tmp_path) as site:
        shards(tmp_path, [2])
        stream = open_stream(f"stream:{site.address}/s-0.tar")
    with pytest.raises(DataError, match=rf"{site.address}/s-0.tar can't be read .*tried 2 times"):
        read(stream)


def test_what_the_server_does_not_have_is_not_asked_for_twice(tmp_path: Path, site: Site):
    with pytest.raises(DataError, match=rf"{site.address}/none.tar can't be downloaded \(HTTP Error 404"):
        open_stream(f"stream:{site.address}/none.tar")
    assert site.asked == ["none.tar"]


# Damage


def test_a_file_that_is_no_tar_is_refused_at_once(tmp_path: Path, site: Site):
    (tmp_path / "s.tar").write_bytes(b"<html>Sign in</html>" * 100)
    for spec in (f"stream:{site.address}/s.tar", f"stream:{tmp_path / 's.tar'}"):
        with pytest.raises(DataError, match=r"s\.tar is not a complete, uncompressed tar file"):
            open_stream(spec)
    assert site.asked == ["s.tar"]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_shard_cut_anywhere_gives_its_beginning_and_then_an_error(tmp_path: Path, data: st.DataObject):
    path = tmp_path / "s-0.tar"
    if not path.exists():
        shards(tmp_path, [5], size=(4, 4))
    whole = path.read_bytes()
    end = 5 * 4 * 512  # of the last member; the end mark follows
    cut = data.draw(st.integers(0, end + 511))
    reader = open_stream(f"stream:{path}").shards
    try:
        path.write_bytes(whole[:cut])
        got = []
        with pytest.raises(DataError, match="is not a complete"):
            got.extend(image.data for image in reader.read(0))
        # a header and a block of the label, a header and a block of the image
        images = [png(k, (4, 4)) for k in range(5)]
        assert got == [image for k, image in enumerate(images) if cut >= 2048 * k + 1536 + len(image)]
    finally:
        path.write_bytes(whole)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 10_239), byte=st.integers(0, 255))
def test_a_damaged_byte_gives_images_or_an_error_of_ours(tmp_path: Path, place: int, byte: int):
    path = tmp_path / "s-0.tar"
    shards(tmp_path, [3], size=(4, 4))
    broken = bytearray(path.read_bytes())
    assert len(broken) == 10_240
    reader = open_stream(f"stream:{path}").shards
    broken[place] = byte
    path.write_bytes(broken)
    try:
        assert len(list(reader.read(0))) <= 3
    except DataError as error:
        assert "is not a complete" in str(error)


# What may be asked for


@pytest.mark.parametrize("spec", ["stream:pipe:cat x.tar", "stream:s3://bucket/x.tar", "stream:file:///x.tar"])
def test_other_ways_to_fetch_are_refused(spec: str):
    with pytest.raises(DataError, match="streams are read from files, http://, https:// and hf:NAME"):
        open_stream(spec)


def test_a_shard_that_is_missing_is_reported(tmp_path: Path):
    shards(tmp_path, [2, 2])
    with pytest.raises(DataError, match=r"s-2\.tar' of .* is not a file; pass a range of shards that all exist"):
        open_stream(f"stream:{tmp_path}/s-{{0..2}}.tar")
    with pytest.raises(DataError, match="is not a file"):
        open_stream(f"stream:{tmp_path}")


def test_shards_without_images_are_refused(tmp_path: Path):
    write_tar(tmp_path / "s.tar", {"a.txt": b"a"})
    with pytest.raises(DataError, match="no images found in stream:"):
        open_stream(f"stream:{tmp_path / 's.tar'}")


def test_where_images_are_needed_in_any_order_a_stream_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="has no random access"):
        open_source(f"stream:{shards(tmp_path, [2])}")


def test_shards_may_move_but_not_change(tmp_path: Path, site: Site):
    def fingerprint(spec: str) -> str:
        return open_stream(f"stream:{spec}").fingerprint

    before = fingerprint(shards(tmp_path / "a", [3, 3]))
    assert fingerprint(shards(tmp_path / "b", [3, 3])) == before
    assert fingerprint(shards(tmp_path / "c", [3])) != before
    assert fingerprint(shards(tmp_path / "d", [3, 20])) != before
    remote = fingerprint(f"{site.address}/a/s-{{0..1}}.tar?token=1")
    assert fingerprint(f"{site.address}/a/s-{{0..1}}.tar?token=2") == remote != before
    assert fingerprint(f"{site.address}/b/s-{{0..1}}.tar") != remote


# Hugging Face


def hub_set(folder: Path, counts: list[int]) -> str:
    """Parquet files as the Hub has them, a shard each."""
    number = 0
    for shard, count in enumerate(counts):
        rows = [{"bytes": png(k), "path": None} for k in range(number, number + count)]
        features = datasets.Features({"label": datasets.Value("int64"), "image": datasets.Image()})
        made = datasets.Dataset.from_dict({"label": [0] * count, "image": rows}, features=features)
        (folder / "data").mkdir(parents=True, exist_ok=True)
        made.to_parquet(str(folder / "data" / f"train-{shard:05d}-of-{len(counts):05d}.parquet"))
        number += count
    return f"stream:hf:{folder}"


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> str:
    return hub_set(tmp_path_factory.mktemp("hub") / "set", [20, 3, 17])


def test_a_hub_set_is_read_shard_by_shard(hub: str):
    stream = open_stream(hub)
    assert [read(stream, k) for k in range(len(stream.shards))] == [
        list(range(20)),
        list(range(20, 23)),
        list(range(23, 40)),
    ]
    assert stream.describe(17).startswith("row 17 of shard 0 of ")


class InWorkers(IterableDataset):
    """What a loader's worker reads of every shard."""

    def __init__(self, stream: Stream):
        self.stream = stream

    def __iter__(self) -> Iterator[list[int]]:
        yield [n for k in range(len(self.stream.shards)) for n in read(self.stream, k)]


def test_each_worker_of_a_loader_reads_whole_shards_of_a_hub_set(hub: str):
    """`datasets` would share the rows out among the workers by itself."""
    assert list(DataLoader(InWorkers(open_stream(hub)), batch_size=None, num_workers=2)) == [list(range(40))] * 2


def test_a_hub_set_of_files_is_read_too(tmp_path: Path):
    for k in range(4):
        (tmp_path / "set" / "train").mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / "train" / f"{k}.png").write_bytes(png(k))
    assert sorted(read(open_stream(f"stream:hf:{tmp_path / 'set'}"))) == [0, 1, 2, 3]


def test_a_hub_set_that_is_not_there_or_has_no_images_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="can't stream 'nobody/nothing' with Hugging Face datasets"):
        open_stream("stream:hf:nobody/nothing")
    write_parquet(tmp_path / "words" / "train.parquet", word=["a", "b"])
    with pytest.raises(DataError, match="has no column of type Image"):
        open_stream(f"stream:hf:{tmp_path / 'words'}")


def test_a_bad_row_of_a_hub_set_is_left_to_the_reader(tmp_path: Path):
    features = datasets.Features({"image": datasets.Image()})
    rows = [{"bytes": BROKEN, "path": None}, None, {"bytes": png(3), "path": None}]
    (tmp_path / "set").mkdir()
    datasets.Dataset.from_dict({"image": rows}, features=features).to_parquet(str(tmp_path / "set" / "train.parquet"))
    stream = open_stream(f"stream:hf:{tmp_path / 'set'}")
    assert [image.data for image in stream.shards.read(0)] == [BROKEN, b"", png(3)]


def test_a_published_recipe_names_no_folder_and_no_token_of_a_stream():
    for typed, recorded in (
        ("stream:/data/shards/train-{000..019}.tar", "stream:train-{000..019}.tar"),
        ("stream:https://host/secret/train-{000..019}.tar?token=abc", "stream:train-{000..019}.tar"),
        ("stream:hf:owner/name", "stream:hf:owner/name"),
    ):
        assert tiny(f"data.source={typed}", "data.images=64").published()["data"]["source"] == recorded
