"""Boxes lie on the object that they are of, whichever way round a photo is stored and its annotation was made."""

import json
import warnings
from pathlib import Path

import pytest
from PIL import ExifTags, Image, ImageOps

from data_cases import write_parquet
from detection_cases import xml
from star_training.cli.main import main
from star_training.data.sources.base import DataError
from star_training.detection.datasets.base import Box, BoxWarning, DetectionSet
from star_training.detection.datasets.open import open_set
from star_training.detection.datasets.pack import read as read_pack

UPRIGHT, STORED = "upright", "stored"
SETTLING = [5, 6, 7, 8]  # orientations that swap the sides
BOX = (4, 6, 24, 22)  # left, top, right, bottom of the only bright thing, in the top left corner


def photo(path: Path, orientation: int, annotated: str, size: tuple[int, int] = (64, 96)) -> dict:
    """Writes a photo whose annotated picture has one bright box near its top left corner; returns COCO's entry."""
    picture = Image.new("RGB", size, (20, 20, 20))
    picture.paste((240, 240, 240), BOX)
    if annotated == UPRIGHT:  # the file holds what EXIF turns into the picture
        back = {6: 8, 8: 6}.get(orientation, orientation)
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = back
        picture.info["exif"] = exif.tobytes()
        picture = ImageOps.exif_transpose(picture)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, quality=95, exif=exif)
    return {"file_name": path.name, "width": size[0], "height": size[1]}


def coco(root: Path, split: str, kinds: list[tuple], **changes: int) -> Path:
    """A COCO folder of photos; `changes` are made to the entry of the first."""
    images = [{"id": k, **photo(root / split / f"{k}.jpg", *kind)} for k, kind in enumerate(kinds)]
    images[0] |= changes
    left, top, right, bottom = BOX
    bbox = [left, top, right - left, bottom - top]
    boxes = [{"image_id": k, "category_id": 1, "bbox": bbox, "iscrowd": 0} for k in range(len(kinds))]
    (root / "annotations").mkdir(exist_ok=True)
    data = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "lamp"}]}
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(data))
    return root


def on_the_object(images: DetectionSet) -> list[bool]:
    """For each image whether its box holds all that is bright, and nothing else."""
    found = []
    for index in range(len(images)):
        bright = images.image(index).float().mean(0) > 128
        left, top, right, bottom = images.target(index).boxes[0].int().tolist()
        inside = bright[top:bottom, left:right]
        found.append(bool(inside.float().mean() > 0.95 and inside.sum() > 0.95 * bright.sum()))
    return found


@pytest.mark.parametrize("annotated", [UPRIGHT, STORED])
def test_boxes_lie_on_their_object_in_both_conventions(tmp_path: Path, annotated: str):
    images = open_set(str(coco(tmp_path, "val", [(o, annotated) for o in range(1, 9)])), "val")
    assert on_the_object(images) == [True] * 8  # 2 to 4 follow 5 to 8
    assert images.sizes.tolist() == [[96, 64]] * 8


def test_each_image_is_of_the_convention_of_its_own_annotation(tmp_path: Path):
    kinds = [(o, annotated) for o in SETTLING for annotated in (UPRIGHT, STORED)]
    assert on_the_object(open_set(str(coco(tmp_path, "val", kinds)), "val")) == [True] * 8


@pytest.mark.parametrize("orientation", SETTLING)
def test_packs_are_read_as_stored(tmp_path: Path, orientation: int):
    entry = photo(tmp_path / "photo.jpg", orientation, STORED)
    width, height = entry["width"], entry["height"]
    left, top, right, bottom = BOX
    box = [0, (left + right) / 2 / width, (top + bottom) / 2 / height, (right - left) / width, (bottom - top) / height]
    images = [(tmp_path / "photo.jpg").read_bytes()]
    pack = write_parquet(tmp_path / "pack.parquet", image=images, boxes=[[box]], split=["train"])
    found = read_pack(pack, "train")
    assert found.image(0).shape == (3, height, width) and on_the_object(found) == [True]


def test_a_voc_folder_of_upright_annotations(tmp_path: Path):
    photo(tmp_path / "JPEGImages" / "a.jpg", 6, UPRIGHT)
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations" / "a.xml").write_text(xml([("lamp", Box(0, *BOX))], (64, 96)))
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Main" / "test.txt").write_text("a\n")
    assert on_the_object(open_set(str(tmp_path), "test")) == [True]


@pytest.mark.parametrize(("count", "annotated"), [(2, UPRIGHT), (3, STORED)])
def test_square_images_follow_the_majority_which_is_reported(tmp_path: Path, count: int, annotated: str):
    kinds = [(8, annotated)] * count + [(6, UPRIGHT if annotated == STORED else STORED), (6, annotated, (64, 64))]
    root = coco(tmp_path, "val", kinds)
    message = r"1 images of .*, e\.g\. .*\.jpg, have an EXIF orientation.*fits both the stored and the upright image"
    with pytest.warns(BoxWarning, match=message):
        images = open_set(str(root), "val")
    assert on_the_object(images) == [True] * len(kinds)


def test_without_a_majority_pixels_are_as_stored_which_is_reported(tmp_path: Path):
    root = coco(tmp_path, "val", [(3, STORED), (1, STORED)])
    with pytest.warns(BoxWarning, match="0 other images are annotated upright, 0 as stored. They are read as stored"):
        images = open_set(str(root), "val")
    assert on_the_object(images) == [True] * 2


def test_broken_exif_is_none(tmp_path: Path):
    root = coco(tmp_path, "val", [(6, STORED)])
    path = root / "val" / "0.jpg"
    data = path.read_bytes()
    start = data.index(b"Exif\0\0") + 6
    for broken in (data[:start] + b"\xff" * 8 + data[start + 8 :], data[: start + 18] + b"\x77\0" + data[start + 20 :]):
        path.write_bytes(broken)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL's, of the EXIF
            assert on_the_object(open_set(str(root), "val")) == [True]


def test_sizes_are_checked_before_training_those_of_the_test_images_too(tmp_path: Path, capsys):
    coco(tmp_path, "train", [(6, UPRIGHT)] * 2)
    coco(tmp_path, "val", [(1, STORED)], width=65)
    arguments = ["detect", "untrained:test_resnet", "--data", str(tmp_path), "--out", str(tmp_path / "run")]
    assert main([*arguments, "--set", "precision=no"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{tmp_path}/val/0.jpg has 64 x 96 pixels, but 65 x 96 in its annotation" in line
    assert not (tmp_path / "run").exists()
    with pytest.raises(DataError, match="0.jpg has 64 x 96 pixels, but 96 x 65 in its annotation"):
        open_set(str(coco(tmp_path, "val", [(1, STORED)], width=96, height=65)), "val")


def test_a_detector_learns_from_turned_photos_and_is_tested_on_them(tmp_path: Path, capsys):
    coco(tmp_path, "train", [(6, UPRIGHT)] * 4)
    coco(tmp_path, "val", [(8, UPRIGHT)] * 2)
    arguments = ["detect", "untrained:test_resnet", "--data", str(tmp_path), "--out", str(tmp_path / "run")]
    settings = ("head=c4", "steps=2", "batch_size=2", "regions=8", "sizes=[32,48,8]", "test_size=32", "precision=no")
    for setting in (*settings, "run.workers=1", "norm_batches=1"):
        arguments += ["--set", setting]
    assert main(arguments) == 0
    assert "detection: COCO AP" in capsys.readouterr().out
