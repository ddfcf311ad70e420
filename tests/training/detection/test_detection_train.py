"""Training a detector: it learns, goes on to the same bits, refuses what doesn't fit, and leaves a record."""

import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet as pq
import pytest
import timm
import torch

from detection_cases import CLASSES, write_coco, write_pack, write_voc
from runs import assert_equal, finish, start
from star_catalog.writing import NotWritten
from star_training.cli.execute import parser
from star_training.cli.main import main
from star_training.cli.train.detect import recipe_of
from star_training.data.sources.base import DataError
from star_training.detection import recipes
from star_training.detection.model import Pyramid
from star_training.detection.recipe import DetectionRecipe
from star_training.detection.run import DetectionRun
from star_training.engine.saving.checkpoint import Checkpoints
from star_training.engine.signals import Stopped
from star_training.errors import Diverged
from star_training.settings.base import override

STEPS = 6
TINY = (
    "head=c4",
    f"steps={STEPS}",
    "milestones=[4,5]",
    "warmup=2",
    "batch_size=2",
    "regions=8",
    "sizes=[32,48,8]",
    "test_size=32",
    "norm_batches=2",
    "run.log_every=1",
    "precision=no",
)


def tiny(tmp_path: Path, *settings: str, model: str = "untrained:test_resnet") -> DetectionRecipe:
    """Six steps of two scenes under timm's test_resnet."""
    pack = tmp_path / "scenes.parquet"
    if not pack.exists():
        write_pack(pack, range(6), range(6, 9))
    return override(recipes.find("coco256", model), [f"data.source={pack}", *TINY, *settings])


def weights(out: Path) -> dict[str, torch.Tensor]:
    """Everything in a run's newest checkpoint."""
    newest = Checkpoints(out / "checkpoints", 1).newest()
    assert newest is not None
    return newest.tensors


def log(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def stopped_at(
    monkeypatch: Any, recipe: DetectionRecipe, out: Path, step: int, number: int = signal.SIGTERM
) -> Stopped:
    """A run that is sent a signal in step `step`; gives what it raised."""
    original = DetectionRun._train_step

    def train_step(run: DetectionRun, batches: Any) -> None:
        original(run, batches)
        if run.step == step:
            os.kill(os.getpid(), number)

    with monkeypatch.context() as patch:
        patch.setattr(DetectionRun, "_train_step", train_step)
        try:
            DetectionRun(recipe, out).train()
        except Stopped as stopped:
            return stopped
    raise AssertionError("the run was not stopped")


def test_it_learns_four_scenes_by_heart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Pyramid, "out_channels", 32)  # a third of the time, and enough for flat rectangles
    write_pack(tmp_path / "scenes.parquet", range(4), range(4))
    settings = ("head=fpn", "steps=45", "milestones=[32,40]", "warmup=5", "lr=0.03", "regions=32", "norm_batches=5")
    recipe = tiny(tmp_path, *settings, "sizes=[64,64,1]", "test_size=64")
    result = DetectionRun(recipe, tmp_path / "run").train()
    assert result.metrics["coco_ap50"].value > 0.5
    losses = [entry["loss"] for entry in log(tmp_path / "run")]
    assert sum(losses[-5:]) < sum(losses[:5]) / 2


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(tmp_path: Path, monkeypatch, workers: int):
    recipe = tiny(tmp_path, f"run.workers={workers}")
    whole = DetectionRun(recipe, tmp_path / "whole").train()
    stopped = stopped_at(monkeypatch, recipe, tmp_path / "parted", 4)
    assert str(stopped).startswith("stopped by SIGTERM after step 4") and stopped.exit_code == 143
    parted = DetectionRun(recipe, tmp_path / "parted", resume=True).train()
    assert_equal(weights(tmp_path / "parted"), weights(tmp_path / "whole"))
    assert (parted.metrics, parted.details) == (whole.metrics, whole.details)
    assert [e["loss"] for e in log(tmp_path / "parted")] == [e["loss"] for e in log(tmp_path / "whole")]
    again = DetectionRun(recipe, tmp_path / "whole", resume=True).train()  # tests only
    assert again.metrics == whole.metrics


def test_the_learning_rate_rises_and_falls(tmp_path: Path):
    recipe = tiny(tmp_path, "lr=1.0", "warmup=10", "milestones=[20,30]")
    rates = [recipe.learning_rate(step) for step in (0, 5, 10, 19, 20, 29, 30)]
    assert rates == pytest.approx([0.001, 0.5005, 1, 1, 0.1, 0.1, 0.01])
    DetectionRun(tiny(tmp_path), tmp_path / "run").train()
    assert [e["lr"] for e in log(tmp_path / "run")] == [tiny(tmp_path).learning_rate(step) for step in range(STEPS)]


@pytest.mark.parametrize("layout", ["voc", "coco"])
def test_other_layouts_train_too(tmp_path: Path, layout: str):
    if layout == "voc":
        write_voc(tmp_path / "data" / "VOC2007", {"trainval": [0, 1], "test": [2]})
        write_voc(tmp_path / "data" / "VOC2012", {"trainval": [3, 4]})
        splits = ("data.train=VOC2007/trainval+VOC2012/trainval", "data.test=VOC2007/test")
    else:
        write_coco(tmp_path / "data", "train2017", [0, 1, 3, 4])
        write_coco(tmp_path / "data", "val2017", [2])
        splits = ()
    recipe = tiny(tmp_path, f"data.source={tmp_path / 'data'}", *splits, "steps=2")
    result = DetectionRun(recipe, tmp_path / "run").train()
    assert result.data == "data" and result.images == {"train": 4, "test": 1}
    assert set(result.details["COCO AP by class"]) <= set(CLASSES)


def test_the_record(tmp_path: Path, capsys):
    settings = [part for setting in TINY for part in ("--set", setting)]
    write_pack(tmp_path / "scenes.parquet", range(6), range(6, 9))
    data, out = str(tmp_path / "scenes.parquet"), tmp_path / "run"
    arguments = ["detect", "untrained:test_resnet", "--data", data, "--out", str(out), *settings]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "\nuntrained:test_resnet on scenes, detection: COCO AP 0." in printed
    assert printed.count("scenes: images with boxes of 2 classes: 6 in train, 3 in val\n") == 1
    (record,) = json.loads((out / "results.json").read_text())["evaluations"]
    assert record["protocol"] == "detection" and record["model"] == "untrained:test_resnet" and record["seed"] == 0
    assert list(record["metrics"]) == ["coco_ap", "coco_ap50", "coco_ap75", "voc_ap", "voc_ap50", "voc_ap75"]
    assert all(m["low"] <= m["value"] <= m["high"] for m in record["metrics"].values())
    assert DetectionRecipe.from_dict(record["settings"]) == tiny(tmp_path, "data.source=scenes.parquet")
    assert str(tmp_path) not in json.dumps(record)
    assert record["images"] == {"train": 6, "test": 3} and set(record["data_fingerprint"]) == {"train", "test"}
    assert {"torchvision", "pycocotools"} < set(record["versions"])
    assert main(arguments) == 1
    assert "already holds a run; resume the run (--resume, resume=True)" in capsys.readouterr().err
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.rglob("*.*")}
    assert main(["detect", "--resume", "--out", str(out)]) == 0
    assert f"{out} is finished: nothing was left to do" in capsys.readouterr().out
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.rglob("*.*")} == before
    (out / "recipe.json").unlink()
    assert main(arguments) == 1 and "holds this record already" in capsys.readouterr().err


def test_a_saved_model_keeps_its_record_and_starts_from_its_weights(tmp_path: Path):
    backbone = timm.create_model("test_resnet", num_classes=0)
    timm.models.save_for_hf(backbone, tmp_path / "model", safe_serialization=True)
    recipe = tiny(tmp_path, "steps=1", model=str(tmp_path / "model"))
    run = DetectionRun(recipe, tmp_path / "run")
    assert torch.equal(run.detector.backbone.layers.layer1[0].conv1.weight, backbone.layer1[0].conv1.weight)
    run.train()
    kept = [json.loads((tmp_path / name / "results.json").read_text())["evaluations"] for name in ("run", "model")]
    assert kept[0] == kept[1] and len(kept[0]) == 1


def test_a_model_whose_folder_can_not_be_written_costs_no_result(tmp_path: Path, capsys):
    backbone = timm.create_model("test_resnet", num_classes=0)
    timm.models.save_for_hf(backbone, tmp_path / "model", safe_serialization=True)
    run = DetectionRun(tiny(tmp_path, "steps=1", model=str(tmp_path / "model")), tmp_path / "run")
    models_own = tmp_path / "model" / "results.json"
    models_own.mkdir()  # not even root can write the file any more
    run.train()
    assert len(json.loads((tmp_path / "run" / "results.json").read_text())["evaluations"]) == 1
    assert f"not added to {models_own}: " in capsys.readouterr().out


def test_a_model_in_a_read_only_folder_can_be_a_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def check(path: Path) -> None:
        if path.parent.name == "model":
            raise NotWritten(path, "Read-only file system", "choose another")

    monkeypatch.setattr("star_training.engine.results.check", check)
    backbone = timm.create_model("test_resnet", num_classes=0)
    timm.models.save_for_hf(backbone, tmp_path / "model", safe_serialization=True)
    run = DetectionRun(tiny(tmp_path, model=str(tmp_path / "model")), tmp_path / "run")
    note = f"the result won't be added to {tmp_path / 'model' / 'results.json'}: Read-only file system"
    assert note in run.notes


def test_test_images_without_boxes_are_refused_before_training(tmp_path: Path):
    recipe = tiny(tmp_path)
    table = pq.read_table(recipe.data.source)
    kept = [b if s == "train" else [] for b, s in zip(*(table[c].to_pylist() for c in ("boxes", "split")), strict=True)]
    column = pyarrow.array(kept, table.schema.field("boxes").type)
    pq.write_table(table.set_column(table.schema.get_field_index("boxes"), "boxes", column), recipe.data.source)
    with pytest.raises(ValueError, match="has no boxes to detect, so average precision is undefined"):
        DetectionRun(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# Real processes


@pytest.mark.slow
def test_a_process_that_gets_a_signal_says_how_to_go_on(tmp_path: Path):
    recipe = tiny(tmp_path)
    settings = [part for setting in (*TINY, "steps=2000", "run.workers=1") for part in ("--set", setting)]
    arguments = ["detect", recipe.model, "--data", recipe.data.source, "--out", str(tmp_path / "run"), *settings]
    process = start(arguments)
    path = tmp_path / "run" / "log.jsonl"
    while not (path.exists() and '"step": 2,' in path.read_text()):
        assert process.poll() is None, finish(process)
    os.killpg(process.pid, signal.SIGINT)
    code, _, err = finish(process)
    assert code == 130, err
    notice, _, line = err.splitlines()
    assert notice.startswith("stopping as soon as a checkpoint is written; ")
    step = log(tmp_path / "run")[-1]["step"]
    assert line.startswith(f"stopped by SIGINT after step {step}")
    command, _, again = line.rpartition(" -m star_training ")
    assert again == f"detect --resume --out {tmp_path / 'run'}"
    assert re.search("; go on with: [^ ]*python[^ /]*$", command)
    assert recipe_of(parser().parse_args(again.split())) == override(recipe, ["steps=2000", "run.workers=1"])
    assert f"step-{step:09d}.safetensors" in os.listdir(tmp_path / "run" / "checkpoints")


@pytest.mark.slow
def test_two_processes_test_together(tmp_path: Path):
    recipe = tiny(tmp_path, "steps=2", "norm_batches=1")
    settings = [part for setting in (*TINY, "steps=2", "norm_batches=1") for part in ("--set", setting)]
    arguments = ["detect", recipe.model, "--data", recipe.data.source, "--out", str(tmp_path / "run"), *settings]
    program = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "star_training")
    code, out, err = finish(start(arguments, program=program))
    assert code == 0, err
    assert out.count("detection: COCO AP") == 1
    (record,) = json.loads((tmp_path / "run" / "results.json").read_text())["evaluations"]
    assert record["images"]["test"] == 3


# What may not be


def test_what_may_not_differ(tmp_path: Path, monkeypatch, capsys):
    stopped_at(monkeypatch, tiny(tmp_path), tmp_path / "run", 2)
    for changed, message in (
        (tiny(tmp_path, "lr=0.5"), "lr: 0.02, 0.5"),
        (tiny(tmp_path, "head=fpn"), "head: 'c4', 'fpn'"),
        (tiny(tmp_path, "data.test=train"), "data.test: 'val', 'train'"),
    ):
        with pytest.raises(ValueError, match=message):
            DetectionRun(changed, tmp_path / "run", resume=True)
    other = write_pack(tmp_path / "other.parquet", range(1, 7), [9])
    with pytest.raises(ValueError, match="images or boxes of other are not those"):
        DetectionRun(tiny(tmp_path, f"data.source={other}"), tmp_path / "run", resume=True)
    moved = write_pack(tmp_path / "elsewhere" / "scenes.parquet", range(6), [9])
    DetectionRun(tiny(tmp_path, f"data.source={moved}", "run.log_every=3"), tmp_path / "run", resume=True)
    with pytest.raises(ValueError, match="holds no run to resume"):
        DetectionRun(tiny(tmp_path), tmp_path / "nothing", resume=True)
    assert not (tmp_path / "nothing").exists()


def test_the_model_may_not_change_under_a_run(tmp_path: Path, monkeypatch):
    def save(seed: int) -> None:
        torch.manual_seed(seed)
        backbone = timm.create_model("test_resnet", num_classes=0)
        timm.models.save_for_hf(backbone, tmp_path / "model", safe_serialization=True)

    save(0)
    recipe = tiny(tmp_path, model=str(tmp_path / "model"))
    stopped_at(monkeypatch, recipe, tmp_path / "run", 1)
    save(1)
    with pytest.raises(ValueError, match="the weights of .*model are not those"):
        DetectionRun(recipe, tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("head=c5", "head 'c5' not found; known: c4, fpn"),
        ("precision=fp16", "precision is 'fp16'; known: 'auto', 'no', 'bf16'"),
        ("steps=0", "steps is 0; it must be at least 1"),
        ("sizes=[64,32,8]", r"sizes is \[64, 32, 8\]; pass smallest, largest and step"),
        ("sizes=[64,32]", "sizes is .*; it must be a list of 3"),
        ("clip=0", "clip is 0.0; it must be a norm above 0"),
        ("lr=-1", "lr is -1.0; it must be at least 0"),
        ("milestones=[3,2]", r"milestones is \[3, 2\]; it must be two steps in order"),
        ("anchor=100000", "anchor is 100000; it must be at most longest"),
        ("run.keep=0", "run.keep is 0; it must be at least 1"),
        ("lr=fast", "lr is 'fast'; it must be a number"),
        ("colour=1", "field 'colour' not found"),
        ("lr", "has no value; write path=value"),
    ],
)
def test_wrong_settings(tmp_path: Path, setting: str, message: str):
    with pytest.raises(ValueError, match=message):
        tiny(tmp_path, setting)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("batch_size=7", "6 images of scenes have boxes, too few for a step of 7"),
        ("model=untrained:no_such", "no_such"),
        ("model=untrained:test_vit", "needs one of timm's ResNets, not VisionTransformer"),
        ("model=pixels", "needs one of timm's ResNets, not Flatten"),
        ("data.test=test2", "no split 'test2'"),
    ],
)
def test_what_can_not_be_trained_leaves_no_folder(tmp_path: Path, setting: str, message: str):
    with pytest.raises(ValueError, match=message):
        DetectionRun(tiny(tmp_path, setting), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_image_size_that_the_backbone_can_not_see(tmp_path: Path):
    recipe = tiny(tmp_path, "head=fpn", model="untrained:swin_tiny_patch4_window7_224")
    with pytest.raises(ValueError, match="can't process images of 32 pixels"):
        DetectionRun(recipe, tmp_path / "run")


def test_divergence_names_the_step(tmp_path: Path):
    with pytest.raises(
        Diverged,
        match=r"(the loss is (nan|inf) at|not finite after) step \d.*learning rate was \d.*no checkpoint.*lower lr",
    ):
        DetectionRun(tiny(tmp_path, "lr=1e30", "clip=null", "warmup=0"), tmp_path / "run").train()


def test_a_bad_image_ends_the_run_with_its_name(tmp_path: Path):
    root = write_voc(tmp_path / "data", {"train": [0, 1], "val": [2]})
    (root / "JPEGImages" / "000001.jpg").write_bytes(b"nothing")
    recipe = tiny(tmp_path, f"data.source={root}")
    with pytest.raises(DataError, match="000001.jpg doesn't decode"):
        DetectionRun(recipe, tmp_path / "run").train()


def test_missing_pycocotools_is_reported_before_training(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    with pytest.raises(ImportError, match="pip install"):
        DetectionRun(tiny(tmp_path), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_papers_recipe_is_mocos():
    recipe = recipes.find("voc0712_c4", "some_resnet50")
    assert (recipe.head, recipe.steps, recipe.milestones, recipe.warmup) == ("c4", 24_000, (18_000, 22_000), 100)
    assert (recipe.batch_size, recipe.lr, recipe.sizes, recipe.test_size) == (16, 0.02, (480, 800, 32), 800)
    assert DetectionRecipe.from_dict(recipe.to_dict()) == recipe
    with pytest.raises(ValueError, match="recipe 'voc' not found; known: coco256, voc0712_c4"):
        recipes.find("voc", "x")


def test_images_to_train_and_to_test_on_are_others(tmp_path: Path):
    with pytest.raises(
        ValueError, match=r"data.train=train and data.test=train share 6 images, e\.g\. row 0 of scenes"
    ):
        DetectionRun(tiny(tmp_path, "data.test=train"), tmp_path / "run")


def test_every_recipe_is_explained():
    assert set(recipes.known()) == {"coco256", "voc0712_c4"}
    assert all(line.endswith((".", "!")) for line in recipes.known().values())
