"""Where images are paired with targets, those that don't decode are left out, decoded beforehand or not."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from data_cases import encoded, numbers, picture, png, write_folder
from star_training.data import BadImageWarning, DataError, Source, open_source
from star_training.data.decode import UndecodableImage, opened
from star_training.data.eval_sets.dataset import Splits
from star_training.data.intact import Intact, check_intact, intact
from star_training.data.sources.open import open_undecoded
from star_training.data.sources.subset import Part, spread
from star_training.evaluation.frozen_model import load
from star_training.evaluation.record import evaluate
from star_training.pretraining.online_eval import Monitor
from star_zoo import Policy
from star_zoo.augmentations import Crop
from twins import photos


def jpeg(number: int, whole: bool = True) -> bytes:
    data = encoded(picture(number, (64, 64)), "JPEG")
    return data if whole else data[: len(data) * 2 // 3]  # the header is whole


def bright(k: int) -> int:
    return 40 + 160 * (k % 2)  # what its class is seen by


def write_cut(root: Path, count: int, cut: set[int], train: int = 20) -> Path:
    """ImageNet's layout, whose validation images lie in order; those with the numbers in `cut` are cut off."""
    val = {f"val/{'ab'[k % 2]}/{k:03d}.jpg": jpeg(bright(k), k not in cut) for k in range(count)}
    return write_folder(root, {f"train/{'ab'[k % 2]}/{k:03d}.jpg": jpeg(bright(k)) for k in range(train)} | val)


def both(root: Path, max_bad: float = 0.01) -> tuple[Source, Source]:
    """The validation images as they are decoded beforehand, and on access."""
    decoded, streamed = (open_source(str(root), "val", max_bad=max_bad, cache_bytes=size) for size in (2**30, 0))
    return decoded, intact(streamed)


def test_bad_images_are_left_out_as_if_decoded_beforehand(tmp_path: Path):
    write_cut(tmp_path, 40, {0, 7, 39})
    with pytest.warns(BadImageWarning, match="3 of the 40 images") as warned:
        decoded, streamed = both(tmp_path, 0.1)
    assert len({str(warning.message) for warning in warned}) == 1
    assert len(decoded) == len(streamed) == 37 and decoded.fingerprint == streamed.fingerprint
    assert decoded.targets.tolist() == streamed.targets.tolist()
    assert all(torch.equal(a, b) for a, b in zip(decoded, streamed, strict=True))
    assert [decoded.describe(k) for k in range(37)] == [streamed.describe(k) for k in range(37)]
    assert intact(streamed) is streamed and intact(decoded) is decoded


@pytest.mark.parametrize("progressive", [False, True])
def test_a_damaged_jpeg_is_found_as_by_decoding_it_at_full_size(progressive: bool):
    """`intact` decodes at an eighth of the size."""
    whole = encoded(Image.fromarray(photos(1, 96, 120)[0].permute(1, 2, 0).numpy()), "JPEG", progressive=progressive)
    damaged = [whole[:cut] for cut in range(0, len(whole), len(whole) // 60)]
    for place in range(0, len(whole), len(whole) // 120):
        damaged.append(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
    found = [(decodes(data, 1), decodes(data, 8)) for data in [whole, *damaged]]
    assert found[0] == (True, True) and {full for full, _ in found} == {True, False}
    assert all(full == eighth for full, eighth in found)


def decodes(data: bytes, times: int) -> bool:
    try:
        opened(data).shrunk(times)
    except UndecodableImage:
        return False
    return True


def test_too_many_bad_images_are_refused_on_both_paths(tmp_path: Path):
    write_cut(tmp_path, 24, set(range(0, 24, 3)))
    lines = []
    for size in (2**30, 0):
        with pytest.raises(DataError, match=r"8 of the 24 images .* max_bad = 0\.01 allows fewer") as refused:
            intact(open_source(str(tmp_path), "val", cache_bytes=size))
        lines.append(str(refused.value))
    assert lines[0] == lines[1]


def test_a_model_is_measured_on_the_images_that_decode(tmp_path: Path):
    write_cut(tmp_path, 24, {0, 7})
    model = load("pixels")
    train, test = (open_source(str(tmp_path), split, max_bad=0.1, cache_bytes=0) for split in ("train", "val"))
    with pytest.warns(BadImageWarning, match="2 of the 24 images"):
        queries = model.labelled(test)
    assert queries.features.shape[0] == len(queries.targets) == 22
    assert (queries.features.mean(1) > 0.5).tolist() == (queries.targets == 1).tolist()
    assert len(model.labelled(train).targets) == 20
    with pytest.raises(DataError, match=r"2 images of .* don't decode, e\.g\. .*000\.jpg"):
        model.features(test)  # whose length would be wrong


@pytest.mark.parametrize("protocol", ["knn", "linear"])
def test_evaluation_refuses_a_set_on_access_of_which_a_third_is_cut_off(protocol: str, tmp_path: Path, monkeypatch):
    write_cut(tmp_path, 24, set(range(0, 24, 3)))
    monkeypatch.setitem(open_undecoded.__kwdefaults__, "cache_bytes", 0)
    with pytest.raises(DataError, match="8 of the 24 images"):
        evaluate(protocol, load("pixels"), Splits(str(tmp_path)))


def test_online_evaluation_leaves_them_out_and_training_does_not(tmp_path: Path):
    write_cut(tmp_path, 24, {0, 7})
    policy = Policy((Crop(16),), (0.0,) * 3, (1.0,) * 3)
    train, test = (open_source(str(tmp_path), split, max_bad=0.1, cache_bytes=0) for split in ("train", "val"))
    monitor = Monitor(policy, train, test)
    with pytest.warns(BadImageWarning, match="2 of the 24 images"):
        assert monitor(torch.nn.Flatten())["knn1_top1"] == 1.0
    assert len(test) == 24 and test.bad and torch.equal(test[0], test[1])  # another image stands in
    refused = Monitor(policy, train, open_source(str(tmp_path), "val", cache_bytes=0))
    with pytest.raises(DataError, match="2 of the 24 images"):
        refused(torch.nn.Flatten())


def test_images_are_tried_once_although_another_process_asks(tmp_path: Path, monkeypatch):
    write_folder(tmp_path, {f"{k}.png": png(k) for k in range(6)})
    source = intact(open_source(str(tmp_path), cache_bytes=0))
    monkeypatch.setattr("star_training.data.intact._intact", set())  # as in another process
    monkeypatch.setattr(type(source), "open", lambda *_: pytest.fail("an image is decoded"))
    again = open_source(str(tmp_path), cache_bytes=0)
    assert intact(again) is again


def test_images_that_spoil_after_they_were_tried_end_the_evaluation(tmp_path: Path):
    write_folder(tmp_path, {f"{'ab'[k % 2]}/{k}.png": png(k) for k in range(6)})
    source = intact(open_source(str(tmp_path), max_bad=1.0, cache_bytes=0))
    (tmp_path / "b/3.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"1 image of .* doesn't decode, e\.g\. .*3\.png, but they did"):
        load("pixels").labelled(source)


def test_parts_of_what_decodes_are_numbered_through(tmp_path: Path):
    write_folder(tmp_path, {f"{k}.png": png(k) if k not in (2, 5) else b"" for k in range(8)})
    with pytest.warns(BadImageWarning):
        whole = intact(open_source(str(tmp_path), max_bad=1.0, cache_bytes=0))
    assert isinstance(whole, Intact) and numbers(whole) == [0, 1, 3, 4, 6, 7]
    some = spread(whole, 3)
    assert intact(some) is some and isinstance(some, Part)
    check_intact(some)
