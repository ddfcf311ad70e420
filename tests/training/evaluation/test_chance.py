"""Labels at random are guessed: no protocol, layout of splits or kind of data set lets a model see what it's asked."""

import functools
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

import chance_cases
from chance_cases import CASES, CLASSES, LAYOUTS, SIDE, folder, noise, parquet
from star_training import recipes
from star_training.data.eval_sets.dataset import Splits
from star_training.evaluation import protocols as evals
from star_training.evaluation.features import pixels
from star_training.evaluation.frozen_model import FrozenModel, load
from star_training.evaluation.metrics import Measurement
from star_training.evaluation.paired_comparison import as_record, compare
from star_training.evaluation.protocols import few_shot, few_shot_augmented, label_fraction
from star_training.evaluation.record import evaluate
from star_training.finetuning.config import FineTune, LabelledData
from star_training.finetuning.run import FineTuning
from star_training.settings.base import override
from star_training.studies import one_run as one
from star_training.studies.study import Images, Measure, Study
from star_zoo import Policy, save_pretrained
from star_zoo.augmentations import ColorJitter, Crop
from twins import backbone

CHANCE = 1 / CLASSES
HOW = {
    "train test": "the data set's own",
    "train val": "the validation split, since there is no test split",
    "train validation": "the validation split, since there is no test split",
    "train val test": "the data set's own",
    "": "70 of 350 images, a fifth of each class drawn at random, since there are no splits",
}


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_fraction, "DRAWS", 1)
    for protocol, tasks in ((few_shot, 100), (few_shot_augmented, 20)):
        monkeypatch.setattr(protocol, "accuracies", functools.partial(protocol.accuracies, tasks=tasks))


def frozen() -> FrozenModel:
    """The pixels themselves, as many as there are images: enough to know every training image by heart."""
    made = FrozenModel("pixels", nn.Flatten(), pixels(SIDE))
    made.policy = Policy((Crop(SIDE), ColorJitter()), (0.0,) * 3, (1.0,) * 3)
    return made


def is_chance(accuracy: float, images: int) -> bool:
    """Whether a guess would be in the 99.9 % interval around it."""
    return abs(accuracy - CHANCE) < 3.2905 * math.sqrt(CHANCE * (1 - CHANCE) / images)


def measured(name: str, splits: Splits) -> Measurement | None:
    try:
        return evals.find(name)(frozen(), splits, 0)
    except ValueError:
        return None


@functools.cache
def classifying() -> tuple[str, ...]:
    """The protocols whose numbers change with the labels of noise, those to come too."""
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        made = noise("train test")
        others = {name: of._replace(labels=of.labels[::-1]) for name, of in made.items()}
        both = [Splits(parquet(splits, Path(place, str(n)))) for n, splits in enumerate((made, others))]
        found = {name: [measured(name, splits) for splits in both] for name in evals.known()}
    names = tuple(name for name, (a, b) in found.items() if a and b and a.metrics != b.metrics)
    assert {"few_shot", "knn", "label_fraction", "linear"} <= set(names)
    return names


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Callable, str], str]:
    """Writes a kind and layout, once."""
    return functools.cache(lambda kind, layout: kind(noise(layout), tmp_path_factory.mktemp("noise")))


@pytest.mark.parametrize(("kind", "layout"), CASES)
def test_every_protocol_guesses(made, kind: Callable, layout: str):
    """Every protocol on folders, one on other kinds of data sets: `Splits` alone decides what any protocol sees."""
    splits = Splits(made(kind, layout))
    for name in classifying() if kind is folder else ("knn",):
        found = evaluate(name, frozen(), splits)
        assert found.settings["test images"] == HOW[layout] and found.images["test"] == 70
        own, held = layout == "train val test", "15 of 150" if layout else "28 of 280"
        rule = "the data set's own" if own else f"{held} training images at random, seed 0"
        assert found.settings.get("validation images", rule) == rule
        accuracies = [metric for metric in found.metrics.values() if metric.is_accuracy]
        assert accuracies
        for metric in accuracies:  # other properties of features have no chance level
            assert is_chance(metric.value, 70), metric


@pytest.mark.parametrize(("kind", "layout"), CASES)
def test_no_image_is_in_two_parts(made, kind: Callable, layout: str):
    splits = Splits(made(kind, layout))
    parts = [splits.train, splits.test, *([splits.val] if splits.val else [])]
    assert [part.name for part in parts] == [splits.spec] * len(parts)
    assert (splits.val is not None) == (layout == "train val test")
    images = [{part[k].numpy().tobytes() for k in range(len(part))} for part in parts]
    assert all(not a & b for a, b in itertools.combinations(images, 2))
    assert list(map(len, images)) == [280 if not layout else 150, 70, 70][: len(parts)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_comparison_guesses(made, layout: str):
    data = [Splits(made(folder, layout))]
    rows = compare(frozen(), frozen(), data, ["linear", "knn"], 0)
    assert rows and all(is_chance(row.first, 70) and row.difference.value == 0 for row in rows)
    assert as_record(frozen(), frozen(), data, ["linear"], 0, rows)["test images"] == {data[0].name: HOW[layout]}


@pytest.mark.parametrize("layout", ["train val", ""])
def test_fine_tuning_guesses(made, layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    small = (
        f"views.size={SIDE}",
        "views.scale=[1,1]",
        "epochs=8",
        "batch_size=30",
        "run.workers=0",
        "smoothing=0",
        "precision=no",
    )
    settings = FineTune(model="untrained:test_resnet", data=LabelledData(source=made(folder, layout)))
    tuning = FineTuning(override(settings, [*small, "optimizer.lr=0.1"]), tmp_path / "out")
    record = tuning.train()
    assert is_chance(record.metrics["finetune_top1"].value, 70), record.metrics
    assert record.images == {"train": 150 if layout else 280, "test": 70}
    assert record.details["test images"] == HOW[layout]
    assert capsys.readouterr().out.count("the test images are") == 1


def test_a_study_guesses(made, tmp_path: Path):
    place = save_pretrained(tmp_path / "star-0", backbone(), results={}).parent / "star-0"
    splits = {layout: Splits(made(folder, layout)) for layout in ("train val", "")}
    measures = (Measure("linear", ("train val",)), Measure("knn", tuple(splits)))
    study = Study(name="s", recipe=recipes.find("folder"), images=Images("x"), methods=(), measures=measures)
    one._measure(study, load(str(place)), place / "results.json", splits)
    records = json.loads((place / "results.json").read_text())["evaluations"]
    assert len(records) == 3
    for record in records:
        for metric, value in record["metrics"].items():
            assert is_chance(value["value"], 70), (record["data"], metric, value)


# What can't be measured, and what can


def relabelled(layout: str, to: Callable[[int], int], root: Path) -> Splits:
    made = {name: of._replace(labels=[to(label) for label in of.labels]) for name, of in noise(layout).items()}
    return Splits(parquet(made, root))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_class_is_refused(layout: str, tmp_path: Path):
    splits = relabelled(layout, lambda label: 3, tmp_path)
    for name in classifying():
        with pytest.raises(ValueError, match="all of one class|has 1 class with at least 2 test images") as refused:
            evaluate(name, frozen(), splits)
        assert "\n" not in str(refused.value)


def test_class_ids_may_have_gaps(tmp_path: Path):
    ids = (7, 8, 10**6, 10**9, 2**62)
    plain = relabelled("", int, tmp_path / "plain")
    gaps = relabelled("", lambda label: ids[label], tmp_path / "gaps")
    for name in classifying():
        assert evaluate(name, frozen(), gaps).metrics == evaluate(name, frozen(), plain).metrics, name


def test_test_images_alone_do_for_protocols_that_need_no_others(tmp_path: Path):
    made = noise("train test")
    rows = made["test"]
    splits = Splits(parquet({"test": rows, "none": chance_cases.Noise([], [])}, tmp_path))
    found = evaluate("few_shot", frozen(), splits)
    assert found.images == {"test": 70} and found.settings["test images"] == "the data set's own"
    for name in ("knn", "linear", "label_fraction"):
        with pytest.raises(ValueError, match=r"^no split 'train' in .*: it has 'test'\.$"):
            evaluate(name, frozen(), splits)
