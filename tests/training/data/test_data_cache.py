"""Decoded beforehand or on access, with and without images that do not decode."""

import multiprocessing
import shutil

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from data_cases import (
    BROKEN,
    encoded,
    flat_folder,
    numbers,
    png,
    write_folder,
    write_parquet,
    write_shards,
)
from star_training.data import BadImageWarning, DataError, decode, open_source
from star_training.data.cached import CachedSource
from star_training.data.lazy import StreamedSource
from star_training.data.sources.folder import open_folder

FORK = multiprocessing.get_context("fork")
forks = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # said from Python 3.12 on


# The cache


def mixed_sizes(root, count=40):
    sizes = [(5 + n % 7, 9 - n % 5) for n in range(count)]
    return write_folder(root, {f"{n:03d}.png": png(n, size) for n, size in enumerate(sizes)})


def test_cached_and_streamed_images_are_the_same(tmp_path):
    cached = open_source(str(mixed_sizes(tmp_path)))
    streamed = open_source(str(tmp_path), cache_bytes=0)
    assert isinstance(cached, CachedSource) and isinstance(streamed, StreamedSource)
    assert len(cached) == len(streamed) == 40 and cached.fingerprint == streamed.fingerprint
    for index in (*range(40), -1):
        assert torch.equal(cached[index], streamed[index])
    for source in (cached, streamed):
        for index in (40, -41):
            with pytest.raises(IndexError):
                source[index]


def test_cache_bytes_is_compared_with_the_decoded_size(tmp_path):
    flat_folder(tmp_path, 10)
    assert isinstance(open_source(str(tmp_path), cache_bytes=10 * 6 * 4 * 3), CachedSource)
    assert isinstance(open_source(str(tmp_path), cache_bytes=10 * 6 * 4 * 3 - 1), StreamedSource)


def test_cache_grows_where_the_estimate_was_too_small(tmp_path):
    raw = open_folder(mixed_sizes(tmp_path), "train")
    source = CachedSource("x", raw, 0.0, expected=1, most=10**6, reopen=lambda: raw)
    assert all(torch.equal(source[index], decode(raw.encoded(index))) for index in range(40))


def test_cached_images_are_views_of_one_buffer(tmp_path):
    source = open_source(str(flat_folder(tmp_path, 3)))
    assert len({source[index].untyped_storage().data_ptr() for index in range(3)}) == 1


def test_cache_needs_the_files_only_once(tmp_path):
    source = open_source(str(flat_folder(tmp_path / "images", 3)))
    shutil.rmtree(tmp_path / "images")
    assert numbers(source) == [0, 1, 2]


@forks
@pytest.mark.parametrize("cache_bytes", [2**30, 0])
@pytest.mark.parametrize("kind", ["folder", "parquet", "tar", "saved"])
def test_forked_workers_see_the_same_images(tmp_path, kind, cache_bytes):
    if kind == "folder":
        spec = flat_folder(tmp_path, 12)
    elif kind == "parquet":
        spec = write_parquet(tmp_path / "x.parquet", image=[png(n) for n in range(12)])
    elif kind == "tar":
        spec = write_shards(tmp_path, range(7), range(7, 12))
    else:
        spec = tmp_path / "saved"
        rows = {"image": [{"bytes": png(n), "path": None} for n in range(12)]}
        datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image()).save_to_disk(spec)
    source = open_source(str(spec), cache_bytes=cache_bytes)
    loader = DataLoader(source, batch_size=4, num_workers=2, multiprocessing_context=FORK)
    assert torch.equal(torch.cat(list(loader)), torch.stack(list(source)))
    assert torch.cat(list(loader))[:, 0, 0, 0].tolist() == list(range(12))


# Images that don't decode


@pytest.mark.parametrize(("count", "bad", "max_bad"), [(100, 1, 0.01), (100, 29, 0.29), (7, 1, 1 / 7), (5, 0, 0.0)])
@pytest.mark.parametrize("cache_bytes", [2**30, 0])
def test_max_bad_is_a_limit_that_may_be_reached(tmp_path, count, bad, max_bad, cache_bytes):
    flat_folder(tmp_path, count, broken=range(bad))

    def use(max_bad):
        source = open_source(str(tmp_path), max_bad=max_bad, cache_bytes=cache_bytes)
        numbers(source)
        source.check_bad()
        return source

    if bad:
        with pytest.warns(
            BadImageWarning,
            match=f"{bad} of the {count} images of .*can't be used: .*000.png .not recognised as an image",
        ):
            assert len(use(max_bad)) == (count - bad if cache_bytes else count)
        with pytest.raises(DataError, match=f"{bad} of the {count} images .*max_bad = "):
            use(max_bad - 1e-6)
    else:
        assert len(use(max_bad)) == count


HALF = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)), "PNG")[:6000]


def test_cached_source_leaves_bad_images_out(tmp_path):
    labels = {2: BROKEN, 3: b"", 5: HALF, 7: BROKEN, 8: BROKEN}
    files = {f"{'ab'[number % 2]}/{number}.png": labels.get(number, png(number)) for number in range(10)}
    with pytest.warns(BadImageWarning) as caught:
        source = open_source(str(write_folder(tmp_path, files)), max_bad=0.5)
        source.check_bad()
    assert numbers(source) == [0, 4, 6, 1, 9] and source.targets.tolist() == [0, 0, 0, 1, 1]
    assert source.describe(3) == str(tmp_path / "b/1.png")
    assert source.bad == ()
    (message,) = (str(warning.message) for warning in caught)
    assert message.startswith(f"5 of the 10 images of {tmp_path} can't be used: {tmp_path / 'a/2.png'} (")
    assert "b/3.png (zero bytes) and 2 more" in message and "b/5.png" not in message


def test_streamed_source_takes_the_next_good_image(tmp_path):
    flat_folder(tmp_path, 6, broken=[2, 3, 5])
    expected = [0, 1, 4, 4, 4, 0]
    for order in (range(6), reversed(range(6)), [3, 0, 5, 2, 2, 3, 1, 4]):
        source = open_source(str(tmp_path), max_bad=0.5, cache_bytes=0)
        for index in order:
            assert source[index][0, 0, 0] == expected[index]
        assert source.bad == (2, 3, 5)
        assert source[-4][0, 0, 0] == 4


def test_check_bad_warns_once_of_each_image(tmp_path):
    source = open_source(str(flat_folder(tmp_path, 8, broken=[1, 4, 6])), max_bad=0.25, cache_bytes=0)
    source.check_bad()
    source[1]
    with pytest.warns(BadImageWarning, match=r"1 of the 8 images .*001.png \("):
        source.check_bad()
    source.check_bad()
    source[4]
    with pytest.warns(BadImageWarning, match=r"2 of the 8 images of .*: .*004.png \(.*\) and 1 more"):
        source.check_bad()
    source[6]
    with pytest.raises(DataError, match=r"3 of the 8 images .*006.png .*max_bad = 0.25"):
        source.check_bad()


def use_in_workers(source, context):
    return torch.cat(list(DataLoader(source, batch_size=5, num_workers=2, multiprocessing_context=context)))[:, 0, 0, 0]


@forks
def test_what_workers_find_bad_reaches_the_main_process(tmp_path):
    source = open_source(str(flat_folder(tmp_path, 20, broken=[3, 19])), max_bad=0.1, cache_bytes=0)
    assert use_in_workers(source, FORK).tolist() == [0, 1, 2, 4, *range(4, 19), 0]
    assert source.bad == (3, 19)
    with pytest.warns(BadImageWarning, match=r"2 of the 20 images .*003.png .*019.png"):
        source.check_bad()
    source = open_source(str(tmp_path), max_bad=0.09, cache_bytes=0)
    use_in_workers(source, FORK)
    with pytest.raises(DataError, match="2 of the 20 images"):
        source.check_bad()


def test_spawned_workers_work_too(tmp_path):
    source = open_source(str(flat_folder(tmp_path, 4, broken=[1])), max_bad=0.5, cache_bytes=0)
    loader = DataLoader(source, batch_size=4, num_workers=1, multiprocessing_context="spawn")
    assert torch.cat(list(loader))[:, 0, 0, 0].tolist() == [0, 2, 2, 3]
    assert source.bad == (1,)


def test_a_file_that_vanishes_is_bad_not_fatal(tmp_path):
    source = open_source(str(write_shards(tmp_path, [0, 1], [2])), max_bad=0.5, cache_bytes=0)
    (tmp_path / "shard-0001.tar").unlink()
    assert source[2][0, 0, 0] == 0 and source.bad == (2,)


@pytest.mark.parametrize("cache_bytes", [2**30, 0])
def test_nothing_decodes(tmp_path, cache_bytes):
    flat_folder(tmp_path / "no headers", 5, broken=range(5))
    with pytest.raises(DataError, match=r"none of the 5 images of .* can be read, e\.g\. .*png \(not recognised"):
        open_source(str(tmp_path / "no headers"), max_bad=1.0, cache_bytes=cache_bytes)
    write_folder(tmp_path / "headers only", {f"{number}.png": HALF for number in range(5)})
    with pytest.raises(DataError, match=r"5 of the 5 images .*There is nothing to use|none of the 5 images .* decodes"):
        open_source(str(tmp_path / "headers only"), max_bad=1.0, cache_bytes=cache_bytes)[0]


@forks
def test_nothing_decodes_in_a_worker(tmp_path):
    source = open_source(str(write_folder(tmp_path, {f"{n}.png": HALF for n in range(3)})), cache_bytes=0)
    with pytest.raises(DataError, match="none of the 3 images"):
        use_in_workers(source, FORK)
