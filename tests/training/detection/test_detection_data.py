"""Every layout gives the same boxes; what is wrong in a data set is named, cut, left out or refused."""

import json
import warnings
from pathlib import Path

import pytest
import torch

from data_cases import BROKEN, png, write_parquet
from detection_cases import CLASSES, given, scene, write_coco, write_pack, write_voc, xml
from star_training.data.decode import decode
from star_training.data.sources.base import DataError, NoSuchSplit
from star_training.detection.datasets.base import Box, BoxWarning, DetectionSet, Picture, align, make
from star_training.detection.datasets.open import open_set
from star_training.detection.views import TrainingViews, fit

NUMBERS = [0, 1, 2, 5]


def check_scenes(images: DetectionSet, numbers: list[int], *, lossy: bool = False) -> None:
    """That a set holds these scenes, in order."""
    assert len(images) == len(numbers)
    assert images.classes == CLASSES
    for index, number in enumerate(numbers):
        picture, boxes = scene(number)
        difference = (images.image(index).int() - decode(picture).int()).abs().float().mean()
        assert difference < (20 if lossy else 0.001)
        target = images.target(index)
        torch.testing.assert_close(target.boxes, torch.tensor([b[1:5] for b in boxes]).float(), atol=1e-4, rtol=0)
        assert target.labels.tolist() == [b.label for b in boxes]
        assert not target.crowd.any() and not target.difficult.any()


def test_a_pack(tmp_path: Path):
    path = write_pack(tmp_path / "scenes.parquet", NUMBERS, [7, 8])
    check_scenes(open_set(str(path), "train"), NUMBERS)
    check_scenes(open_set(str(path), "val"), [7, 8])
    assert open_set(str(path), "train").name == "scenes"


def test_a_voc_folder(tmp_path: Path):
    root = write_voc(tmp_path / "VOC2007", {"trainval": NUMBERS, "test": [8, 9]})
    check_scenes(open_set(str(root), "trainval"), NUMBERS, lossy=True)
    check_scenes(open_set(str(root), "test"), [8, 9], lossy=True)


def test_a_coco_folder(tmp_path: Path):
    root = write_coco(tmp_path, "train2017", NUMBERS)
    write_coco(tmp_path, "val2017", [8])
    check_scenes(open_set(str(root), "train2017"), NUMBERS)
    check_scenes(open_set(str(root), "train"), NUMBERS)
    check_scenes(open_set(str(root), "val"), [8])
    (root / "images").mkdir()
    (root / "val2017").rename(root / "images" / "val2017")
    check_scenes(open_set(str(root), "val"), [8])


def test_splits_of_several_folders_are_joined(tmp_path: Path):
    write_voc(tmp_path / "VOC2007", {"trainval": [1, 5], "test": [8]})  # no brick in 1 and 5
    write_voc(tmp_path / "VOC2012", {"trainval": [2, 0]})
    images = open_set(str(tmp_path), "VOC2007/trainval+VOC2012/trainval")
    assert images.classes == ("leaf", "brick") and images.name == "VOC2007+VOC2012"
    for index, number in enumerate([1, 5, 2, 0]):
        names = [images.classes[label] for label in images.target(index).labels]
        assert names == [CLASSES[box.label] for box in scene(number)[1]]


def test_sets_are_aligned_by_the_names_of_their_classes():
    a = given([Box(0, 0, 0, 9, 9), Box(1, 0, 0, 8, 8)], classes=("cat", "dog"))
    b = given([Box(0, 0, 0, 9, 9), Box(1, 0, 0, 8, 8)], classes=("dog", "eel"))
    left, right = align([a, b])
    assert left.classes == right.classes == ("cat", "dog", "eel")
    assert left.all_boxes.labels.tolist() == [0, 1] and right.all_boxes.labels.tolist() == [1, 2]


# Boxes


def test_boxes_are_cut_at_the_border_and_empty_ones_left_out():
    boxes = [
        Box(0, -5, 10, 20, 120),  # over two borders
        Box(0, 30, 30, 30, 40),  # no width
        Box(1, 50, 50, 40, 60),  # mirrored
        Box(1, 200, 0, 220, 50),  # outside
        Box(1, float("nan"), 0, 20, 20),
        Box(1, 0, 0, 100, 100),
    ]
    with pytest.warns(BoxWarning, match="4 of the 6 boxes of given .*image 0.*and 1 more. They are not used"):
        images = given(boxes)
    target = images.target(0)
    assert target.boxes.tolist() == [[0, 10, 20, 100], [0, 0, 100, 100]] and target.labels.tolist() == [0, 1]


def test_images_without_boxes_to_learn_from_are_tested_on_only():
    plain, crowd = Box(0, 0, 0, 9, 9), Box(0, 0, 0, 9, 9, crowd=True)
    images = given([plain], [], [crowd], [crowd, plain], [plain._replace(difficult=True)])
    assert len(images) == 5 and images.trainable == [0, 3, 4]
    assert [len(images.target(k).boxes) for k in range(5)] == [1, 0, 1, 2, 1]


def test_flags_of_voc_and_coco(tmp_path: Path):
    root = write_voc(tmp_path / "voc", {"test": [1]})
    boxes = [("brick", Box(0, 1, 2, 30, 40, difficult=True)), ("brick", Box(0, 3, 4, 30, 40))]
    (root / "Annotations" / "000001.xml").write_text(xml(boxes))
    assert open_set(str(root), "test").target(0).difficult.tolist() == [True, False]
    crowd = {"image_id": 1001, "category_id": 7, "bbox": [0, 0, 9, 9], "iscrowd": 1}
    write_coco(tmp_path / "coco", "val2017", [1], annotations=[crowd])
    assert open_set(str(tmp_path / "coco"), "val").target(0).crowd.tolist() == [True]


def test_the_fingerprint_depends_on_content_not_place(tmp_path: Path):
    def of(numbers: list[int], name: str = "a") -> str:
        return open_set(str(write_pack(tmp_path / name / "p.parquet", numbers, [9])), "train").fingerprint

    assert of([1, 2]) == of([1, 2], "b") != of([2, 1], "c") != of([1, 3], "d")


# What is wrong


@pytest.mark.parametrize("label", [-1.0, 0.5, 1e9])
def test_a_class_that_there_is_not(tmp_path: Path, label: float):
    path = write_parquet(tmp_path / "p.parquet", image=[png(0)], boxes=[[[label, 0.5, 0.5, 1.0, 1.0]]], split=["train"])
    with pytest.raises(DataError, match=f"row 0 .* has boxes .*{label}.*expected rows of class"):
        open_set(str(path), "train")


def test_classes_without_a_name_are_numbered(tmp_path: Path):
    boxes = [[[2.0, 0.5, 0.5, 1.0, 1.0]]]
    path = write_parquet(tmp_path / "p.parquet", {"classes": '["a"]'}, image=[png(0)], boxes=boxes, split=["train"])
    assert open_set(str(path), "train").classes == ("a", "1", "2")


def test_wrong_packs(tmp_path: Path):
    path = write_parquet(tmp_path / "p.parquet", image=[png(0)], split=["train"])
    with pytest.raises(DataError, match="has no column 'boxes', only image, split"):
        open_set(str(path), "train")
    path = write_parquet(tmp_path / "q.parquet", image=[BROKEN], boxes=[[[0.0] * 5]], split=["train"])
    with pytest.raises(DataError, match="row 0 of q.parquet doesn't decode .* repair it"):
        open_set(str(path), "train")
    path = write_parquet(tmp_path / "paths.parquet", image=["gone.png"], boxes=[[[0.0] * 5]], split=["train"])
    with pytest.raises(DataError, match="row 0 of paths.parquet doesn't decode .'gone.png' is no file below"):
        open_set(str(path), "train")
    path = write_parquet(tmp_path / "r.parquet", image=[png(0)], boxes=[[[0.0] * 4]], split=["train"])
    with pytest.raises(DataError, match="row 0 of r.parquet has boxes .*expected rows of class"):
        open_set(str(path), "train")
    with pytest.raises(NoSuchSplit, match="no split 'val'"):
        open_set(str(path), "val")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation>", "no element found"),
        ("<annotation><size/></annotation>", "has no size/height"),
        (xml([("brick", Box(0, 1, 2, 3, 4))]).replace("<ymax>4</ymax>", ""), "<object> has no bndbox/ymax"),
        (xml([("brick", Box(0, 1, 2, 3, 4))]).replace("<ymax>4<", "<ymax>four<"), "could not convert"),
        ('<!DOCTYPE a [<!ENTITY b "ha"><!ENTITY c "&b;&b;">]><annotation>&c;</annotation>', "DOCTYPE"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_wrong_voc_annotations(tmp_path: Path, text: str, message: str, encoding: str):
    root = write_voc(tmp_path, {"test": [1]})
    (root / "Annotations" / "000001.xml").write_text(text, encoding=encoding)
    with pytest.raises(DataError, match=f"(?s)can't read the annotation .*000001.xml.*{message}"):
        open_set(str(root), "test")


def test_wrong_voc_folders(tmp_path: Path):
    root = write_voc(tmp_path / "voc", {"test": [1], "train": [2]})
    with pytest.raises(NoSuchSplit, match="no split 'val' .*it has 'test', 'train'"):
        open_set(str(root), "val")
    (root / "JPEGImages" / "000001.jpg").unlink()
    with pytest.raises(DataError, match="000001.jpg doesn't exist"):
        open_set(str(root), "test")
    (root / "Annotations" / "000002.xml").unlink()
    with pytest.raises(DataError, match="000002.xml"):
        open_set(str(root), "train")
    (root / "ImageSets" / "Main" / "test.txt").write_text("../../secret\n")
    with pytest.raises(DataError, match="'../../secret'; expected names"):
        open_set(str(root), "test")


def test_an_image_that_is_not_what_its_annotation_says(tmp_path: Path):
    root = write_voc(tmp_path, {"test": [1, 2]})
    (root / "Annotations" / "000001.xml").write_text(xml([], (64, 65)))
    with pytest.raises(DataError, match="000001.jpg has 64 x 64 pixels, but 64 x 65 in its annotation"):
        open_set(str(root), "test")
    (root / "Annotations" / "000001.xml").write_text(xml([], (64, 64)))
    photo = root / "JPEGImages" / "000002.jpg"
    photo.write_bytes(photo.read_bytes()[:-500])
    with pytest.raises(DataError, match="000002.jpg doesn't decode"):
        open_set(str(root), "test").image(1)
    photo.write_bytes(BROKEN)
    with pytest.raises(DataError, match="000002.jpg doesn't decode"):
        open_set(str(root), "test")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": [{"id": 1, "file_name": "../a.png", "width": 64, "height": 64}], "annotations": []}, "leaves"),
        ({"images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 64}], "annotations": []}, "doesn't exist"),
        ({"images": [{"id": 1}], "annotations": []}, "'file_name' is missing"),
        ({"annotations": [{"image_id": 5, "category_id": 7, "bbox": [0, 0, 9, 9]}]}, "5 is missing"),
        ({"annotations": [{"image_id": 1001, "category_id": 8, "bbox": [0, 0, 9, 9]}]}, "8 is missing"),
        ({"annotations": [{"image_id": 1001, "category_id": 7, "bbox": [0, 0, 9]}]}, "not enough values"),
        ({"annotations": None}, "not iterable"),
    ],
)
def test_wrong_coco_annotations(tmp_path: Path, changes: dict, message: str):
    write_coco(tmp_path, "val2017", [1], **changes)
    with pytest.raises(DataError, match=message):
        open_set(str(tmp_path), "val")


def test_wrong_coco_folders(tmp_path: Path):
    write_coco(tmp_path, "val2014", [1])
    write_coco(tmp_path, "val2017", [1])
    with pytest.raises(NoSuchSplit, match="several match, val2014, val2017; pass one in full"):
        open_set(str(tmp_path), "val")
    with pytest.raises(NoSuchSplit, match="not found; known: val2014, val2017"):
        open_set(str(tmp_path), "train")
    (tmp_path / "val2014").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="images of val2014 are missing"):
        open_set(str(tmp_path), "val2014")
    (tmp_path / "annotations" / "instances_val2017.json").write_text("[")
    with pytest.raises(DataError, match="can't read the annotations .*instances_val2017.json"):
        open_set(str(tmp_path), "val2017")
    (tmp_path / "annotations" / "instances_val2017.json").write_text(json.dumps([]))
    with pytest.raises(DataError, match="can't read the annotations"):
        open_set(str(tmp_path), "val2017")


def test_no_data_set_at_all(tmp_path: Path):
    with pytest.raises(DataError, match="nowhere doesn't exist; pass a .parquet file"):
        open_set(str(tmp_path / "nowhere"), "train")
    with pytest.raises(DataError, match="none of the known layouts.*sub-folder"):
        open_set(str(tmp_path), "train")
    with pytest.raises(DataError, match="no images"):
        make("empty", CLASSES, [])


# What is trained on


def test_boxes_stay_on_their_objects(tmp_path: Path):
    images = open_set(str(write_pack(tmp_path / "p.parquet", range(6), [9])), "train")
    views = TrainingViews(images, images.trainable, (48, 96, 16), 200, seed=0)
    widths, mirrored = set(), set()
    for epoch in range(6):
        for index in range(6):
            image, boxes, labels = views[epoch, index]
            widths.add(image.shape[2])
            whole = images.target(index).boxes[0] * image.shape[2] / 64
            mirrored.add(bool((boxes[0] - whole).abs().max() > 1))
            for box, label in zip(boxes.round().int().tolist(), labels.tolist(), strict=True):
                left, top, right, bottom = box
                inside = image[:, top + 2 : bottom - 2, left + 2 : right - 2].float().mean((1, 2))
                assert inside.argmax() == label and inside.max() > 180  # red or green, hardly any noise
    assert widths == {48, 64, 80, 96} and mirrored == {False, True}


def test_views_are_a_pure_function_of_seed_epoch_and_index(tmp_path: Path):
    images = open_set(str(write_pack(tmp_path / "p.parquet", range(4), [9])), "train")

    def drawn(seed: int) -> list[torch.Tensor]:
        views = TrainingViews(images, images.trainable, (48, 96, 1), 200, seed)
        return [views[epoch, index].boxes for epoch in (3, 0) for index in range(4)]

    torch.manual_seed(1)
    first = drawn(0)
    torch.manual_seed(2)
    assert all(torch.equal(a, b) for a, b in zip(first, drawn(0), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, drawn(1), strict=True))


def test_crowds_are_no_objects_to_learn():
    images = given([Box(0, 0, 0, 50, 50, crowd=True), Box(1, 0, 0, 50, 50, difficult=True)])
    images = DetectionSet(**{**vars(images), "encoded": (png(0, (100, 100)),)})
    _, boxes, labels = TrainingViews(images, images.trainable, (100, 100, 1), 100, 0)[0, 0]
    assert labels.tolist() == [1] and len(boxes) == 1


def test_the_shorter_side_is_fitted_unless_the_longer_grows_too_long():
    assert fit(torch.zeros(3, 50, 100, dtype=torch.uint8), 80, 1000).shape == (3, 80, 160)
    assert fit(torch.zeros(3, 100, 50, dtype=torch.uint8), 80, 120).shape == (3, 120, 60)
    assert fit(torch.zeros(3, 1, 500, dtype=torch.uint8), 80, 120).shape == (3, 1, 120)


def test_good_boxes_warn_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images = make("one", ["a"], [Picture(b"", "here", "", 10, 10, [Box(0, 0, 0, 10, 10)])])
    assert images.target(0).boxes.tolist() == [[0, 0, 10, 10]]
