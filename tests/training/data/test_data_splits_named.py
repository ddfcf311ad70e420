"""Names of splits and folders: the usual spellings are understood, what is doubtful is refused, nothing goes unseen."""

import io
import os
import tempfile
from pathlib import Path

import datasets
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_cases import numbers, png, write_folder, write_parquet, write_tar
from star_training.data import DataError, NoSuchSplit, open_source
from star_training.data.eval_sets.dataset import Splits
from star_training.data.sources.layout import layout, walk
from star_training.data.split_names import choose_split, kind_of
from star_training.data.summary import Summaries, summary

SPELLINGS = [
    ("train", "test"),
    ("Train", "Test"),
    ("TRAIN", "VALIDATION"),
    ("training", "testing"),
    ("Training", "valid"),
    ("train2017", "val2017"),
    ("training_set", "test_set"),
    ("train_images", "dev"),
]


def folder(root: Path, *names: str) -> str:
    """Files whose pictures are numbered in the given order."""
    return str(write_folder(root, {name: png(number) for number, name in enumerate(names)}))


def train_and_test(spec: object) -> tuple[list[int], list[int]]:
    return numbers(open_source(str(spec))), numbers(Splits(str(spec)).test)


# Every kind of source understands the same names


@pytest.mark.parametrize(("train", "test"), SPELLINGS)
def test_usual_spellings_in_every_kind_of_source(tmp_path: Path, train: str, test: str):
    folder(tmp_path / "folder", f"{train}/cat/a.png", f"{train}/dog/a.png", f"{test}/dog/a.png")
    images = [png(k) for k in range(3)]
    write_parquet(tmp_path / "column.parquet", image=images, split=[train, train, test])
    for name, part in ((train, slice(2)), (test, slice(2, 3))):
        write_parquet(tmp_path / f"files/{name}-0-of-1.parquet", image=images[part])
        write_tar(tmp_path / f"shards/{name}-0.tar", {f"{k}.png": png(k) for k in range(3)[part]})
        write_tar(tmp_path / f"after/birds-{name}-0.tar", {f"{k}.png": png(k) for k in range(3)[part]})
    for kind in ("folder", "column.parquet", "files", "shards", "after"):
        assert train_and_test(tmp_path / kind) == ([0, 1], [2]), kind
    assert open_source(str(tmp_path / "folder")).classes == ("cat", "dog")
    assert numbers(open_source(str(tmp_path / "folder"), train)) == [0, 1]  # by its exact name
    with pytest.raises(NoSuchSplit, match="no split 'extra'"):
        open_source(str(tmp_path / "folder"), "extra")


def test_usual_spellings_in_a_hugging_face_set(tmp_path: Path):
    def rows(*given: int) -> datasets.Dataset:
        made = datasets.Dataset.from_dict({"image": [{"bytes": png(k), "path": None} for k in given]})
        return made.cast_column("image", datasets.Image())

    datasets.DatasetDict(training=rows(0, 1), dev=rows(2), unsupervised=rows(3)).save_to_disk(tmp_path)
    assert train_and_test(tmp_path) == ([0, 1], [2])
    assert numbers(open_source(str(tmp_path), "unsupervised")) == [3]
    assert "2 images without labels (there is no column 'label') in training, 1 in dev, 1 in unsupervised" in summary(
        open_source(str(tmp_path))
    )


@pytest.mark.parametrize("name", ["train", "Testing", "val_2012", "DEV", "test-images", "trainset"])
def test_names_of_splits(name: str):
    assert kind_of(name) == {"t": "train", "T": "test", "v": "val", "D": "val"}[name[0]] or name == "test-images"


@pytest.mark.parametrize("name", ["trains", "train_station", "bullet train", "retrain", "testudo", "", "train.x"])
def test_names_that_only_resemble_those_of_splits(name: str):
    assert kind_of(name) is None


def test_two_names_of_one_split_are_refused(tmp_path: Path):
    names = ["train/a.png", "Train/a.png", "test/a.png"]
    message = "has both 'Train' and 'train', two names of one split"
    with pytest.raises(DataError, match=message):
        open_source(folder(tmp_path / "folder", *names))
    for name in ("train", "Train", "test"):
        write_tar(tmp_path / f"shards/{name}-0.tar", {"a.png": png(0)})
    path = write_parquet(tmp_path / "a.parquet", image=[png(k) for k in range(3)], split=["train", "Train", "test"])
    for spec in (tmp_path / "shards", path):
        with pytest.raises(DataError, match=message):
            open_source(str(spec))
    assert choose_split("Train", ["Train", "train"], "here") == "Train"  # asked for by its exact name
    with pytest.raises(DataError, match="both 'val' and 'valid'"):
        choose_split("val", ["train", "val", "valid"], "here")


# Folders


@pytest.mark.parametrize("around", ["data", "data/images", "data/images/2024"])
def test_folders_around_the_splits_are_seen_through(tmp_path: Path, around: str):
    names = [f"{around}/train/cat/a.png", f"{around}/train/dog/a.png", f"{around}/test/dog/a.png"]
    write_folder(tmp_path, {"README.md": b"x", "data/licence.txt": b"x", "annotations/boxes.json": b"x"})
    source = open_source(folder(tmp_path, *names))
    assert train_and_test(tmp_path) == ([0, 1], [2]) and source.classes == ("cat", "dog")
    assert source.fingerprint == open_source(str(tmp_path / around)).fingerprint
    assert f"its folder {around} holds all images" in summary(source)


def test_a_folder_around_classes_is_seen_through(tmp_path: Path):
    source = open_source(folder(tmp_path, "photos/cat/a.png", "photos/dog/b.png"))
    assert source.classes == ("cat", "dog") and source.targets.tolist() == [0, 1]


def test_a_single_class_stays_one(tmp_path: Path):
    assert open_source(folder(tmp_path, "cat/a.png", "cat/b.png")).classes == ("cat",)
    assert open_source(folder(tmp_path / "deep", "cat/deep/a.png")).classes == ("cat",)


@pytest.mark.parametrize("name", ["train", "Training", "training_set"])
def test_a_split_alone_is_that_split_and_no_class(tmp_path: Path, name: str):
    source = open_source(folder(tmp_path, f"{name}/cat/a.png", f"{name}/dog/b.png"))
    assert source.classes == ("cat", "dog") and numbers(source) == [0, 1]
    with pytest.raises(NoSuchSplit, match=f"it has '{name}'"):
        open_source(str(tmp_path), "test")


def test_a_test_split_alone_is_never_trained_on(tmp_path: Path):
    folder(tmp_path / "folder", "test/cat/a.png", "test/dog/b.png")
    write_parquet(tmp_path / "packs/test-0-of-1.parquet", image=[png(0), png(1)])
    write_tar(tmp_path / "shards/test-0.tar", {"a.png": png(0), "b.png": png(1)})
    for name in ("folder", "packs", "shards"):
        assert numbers(open_source(str(tmp_path / name), "test")) == [0, 1]
        with pytest.raises(NoSuchSplit, match="no split 'train' in .*: it has 'test'"):
            open_source(str(tmp_path / name))
    # a file or a range of files that is asked for itself has no splits
    assert numbers(open_source(str(tmp_path / "packs/test-0-of-1.parquet"))) == [0, 1]
    assert numbers(open_source(str(tmp_path / "shards/test-{0..0}.tar"))) == [0, 1]


def test_a_split_in_a_folder_of_its_own_name(tmp_path: Path):
    names = [
        "training_set/training_set/cat/a.png",
        "training_set/training_set/dog/a.png",
        "test_set/test_set/dog/a.png",
    ]
    source = open_source(folder(tmp_path, *names))
    assert source.classes == ("cat", "dog") and train_and_test(tmp_path) == ([0, 1], [2])


def test_a_class_named_as_a_split_is_one_inside_a_split(tmp_path: Path):
    names = [f"{split}/{kind}/a.png" for split in ("train", "test") for kind in ("boat", "train", "test")]
    assert open_source(folder(tmp_path, *names)).classes == ("boat", "test", "train")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["train/a.png", "extra_stuff/a.png"],
            "holds 'train', named as a split, beside 'extra_stuff': pass the folder",
        ),
        (["cat/a.png", "dog/a.png", "test/a.png"], "holds 'test', named as a split, beside 'cat' and 1 more"),
        (["train/a.png", "b.png"], "holds 'train', named as a split, beside images"),
        (["val/a.png", "test/a.png", "cat/a.png"], "named as a split, beside 'cat'"),
        (["in/train/a.png", "in/cat/a.png"], "in/? holds 'train', named as a split"),
        (
            ["a/train/x.png", "a/test/x.png", "b/train/x.png"],
            "a holds the splits 'test' and 'train', but images lie",
        ),
        (["cat/train/x.png", "cat/test/x.png", "dog/train/x.png"], "arrange .* as train/CLASS and test/CLASS"),
        (["seg_train/cat/a.png", "seg_test/cat/a.png"], "has 'seg_test' and 'seg_train', which seem to be splits"),
        (["birds train/a.png", "birds val/a.png"], "which seem to be splits: name them train, val or test"),
    ],
)
def test_doubtful_folders_are_refused(tmp_path: Path, names: list[str], message: str):
    spec = folder(tmp_path, *names)
    for split in ("train", "test"):
        with pytest.raises(DataError, match=message) as caught:
            open_source(spec, split)
        assert not isinstance(caught.value, NoSuchSplit) and "\n" not in str(caught.value)


def test_doubtful_files_are_refused(tmp_path: Path):
    for name in ("test-0", "birds"):
        write_parquet(tmp_path / f"packs/{name}.parquet", image=[png(0)])
        write_tar(tmp_path / f"shards/{name}.tar", {"a.png": png(0)})
    for kind in ("packs", "shards"):
        with pytest.raises(DataError, match=r"holds test-0.*, named as a split, and birds\.\w+, which may"):
            open_source(str(tmp_path / kind))


def test_everything_that_is_left_out_is_named(tmp_path: Path):
    source = open_source(
        str(
            write_folder(
                tmp_path,
                {
                    **{f"train/{k}/{k}.png": png(k) for k in range(3)},
                    "test/0/0.png": png(3),
                    **{f"train/0/{k}.HEIC": b"x" for k in range(4)},
                    **dict.fromkeys(("README", ".DS_Store", "train/0/._a.png", "train/0/notes.txt"), b"x"),
                    **{f"{name}/a.png": png(9) for name in ("train/__MACOSX", ".cache", "unlabeled")},
                    "b.png": png(9),
                },
            )
        )
    )
    (tmp_path / "train" / "empty" / "inside").mkdir(parents=True)
    os.mkfifo(tmp_path / "train" / "0" / "fifo.png")
    source = open_source(str(tmp_path))
    assert source.classes == ("0", "1", "2") and numbers(source) == [0, 1, 2]
    assert summary(source) == (
        f"{tmp_path}: 3 images of 3 classes in train, 1 in test, 1 in unlabeled; left out: train/0/0.HEIC, "
        "train/0/1.HEIC, train/0/2.HEIC and 1 more (not readable here), README, train/0/fifo.png, train/0/notes.txt "
        "(not images), train/0/._a.png (hidden), unlabeled (no usual name of a split), b.png (beside the splits), "
        ".cache, train/__MACOSX (hidden or system folder), train/empty (no images)"
    )


def test_why_images_have_no_labels_is_said(tmp_path: Path):
    source = open_source(folder(tmp_path, "cat/a.png", "dog/b.png", "c.png"))
    assert source.targets is None and "(1 of 3 images lie beside the class folders, e.g. c.png)" in summary(source)


def test_folders_of_unreadable_images_alone_name_them(tmp_path: Path):
    write_folder(tmp_path, {"a/1.heic": b"x", "a/2.cr2": b"x", "a/3": b"x"})
    with pytest.raises(DataError, match=r"found only other files: a/1.heic, a/2.cr2, a/3\. For"):
        open_source(str(tmp_path))
    write_folder(tmp_path / "b", {"train/1.png": png(1), "test/1.heic": b"x"})
    with pytest.raises(NoSuchSplit, match=r"it has 'train'. Left out: test/1.heic \(not readable here\)"):
        open_source(str(tmp_path / "b"), "test")


def test_errors_are_one_line_whatever_the_names(tmp_path: Path):
    write_folder(tmp_path, {"a\nb/1.heic": b"x"})
    with pytest.raises(DataError, match=r"found only other files: a\\nb/1.heic\. For"):
        open_source(str(tmp_path))


def test_what_lies_beside_packs_is_named(tmp_path: Path):
    folder(tmp_path, "photos/a.png", "b.png", "README.md")
    write_parquet(tmp_path / "a.parquet", image=[png(0)])
    write_tar(tmp_path / "c.tar", {"a.png": png(0)})
    others = "left out: README.md, b.png, c.tar and 1 more (beside the .parquet files)"
    assert others in summary(open_source(str(tmp_path)))


NAMES = st.sampled_from(
    [
        "train",
        "Train",
        "training",
        "test",
        "TEST",
        "val",
        "valid",
        "cat",
        "dog",
        "data",
        "__MACOSX",
        ".git",
        "seg_train",
    ]
) | st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=4).filter(
    lambda name: name not in (".", "..")
)


@settings(derandomize=True, deadline=None, max_examples=80)
@given(st.sets(st.lists(NAMES, max_size=3).map(tuple), min_size=1, max_size=6))
@example({("train",), ("extra",)})
@example({("train", "cat"), ("test", "cat"), ("extra",), ()})
@example({("data", "train", "train"), ("data", "train", "cat"), ("data", "valid", "cat")})
def test_in_any_folder_each_image_is_in_one_split_or_named_as_left_out(folders: set[tuple[str, ...]]):
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for place in folders:
            write_folder(root.joinpath(*place), {"x.png": png(1)})
        visible = {p for p in folders if not any(part.startswith(".") or part == "__MACOSX" for part in p)}
        try:
            splits = layout(walk(root).images, root).splits if visible else {"train": ""}
            sources = [open_source(str(root), split) for split in splits]
        except DataError as error:
            assert "\n" not in str(error)
            return
        found = [Path(source.describe(k)) for source in sources for k in range(len(source))]
        loose = () in visible and "(beside the splits)" in summary(sources[0])
        assert sorted(found) == sorted(root.joinpath(*p, "x.png") for p in visible if p or not loose)
        assert summary(sources[0]).isprintable()
        for split, source in zip(splits, sources, strict=True):
            for k, label in enumerate([] if source.targets is None else source.targets.tolist()):
                if kind_of(source.classes[label]) and kind_of(split):  # such a class there is only inside of a split
                    *above, _ = Path(source.describe(k)).relative_to(root).parts[:-1]
                    assert any(map(kind_of, above))


def test_the_line_on_a_data_set_is_printed_once(tmp_path: Path):
    folder(tmp_path / "a", "train/cat/a.png", "train/dog/a.png", "test/dog/a.png")
    folder(tmp_path / "b", "cat/a.png", "cat/b.png")
    out = io.StringIO()
    summaries, sets = Summaries(out), [Splits(str(tmp_path / name)) for name in "ab"]
    for splits in (*sets, *sets):
        summaries.print(splits)
    assert out.getvalue().splitlines() == [
        f"{tmp_path / 'a'}: 2 images of 2 classes in train, 1 in test",
        f"{tmp_path / 'b'}: 2 images of 1 class in train",
        "b: the test images are 1 of 2 images, a fifth of each class drawn at random, since there are no splits",
    ]
    assert list(sets[0].opened) == ["test"]  # no split is opened for the line alone
