"""Settings of fine-tuning: names, JSON, and the refusal of invalid values."""

import json
from pathlib import Path

import pytest

from finetune_cases import tiny
from star_training.cli.execute import parser
from star_training.cli.train.finetune import settings_of
from star_training.finetuning.config import FineTune, LabelledData
from star_training.finetuning.setup import default_out, steps_per_epoch


def test_settings_survive_json_and_changes_reach_their_fields():
    made = tiny("images", "optimizer.lr=1", "views.scale=[0.5, 1]", 'backbone_args={"drop_rate": 0.1}', "ema=0.9")
    assert FineTune.from_dict(json.loads(json.dumps(made.to_dict()))) == made
    assert (made.optimizer.lr, made.views.scale, made.backbone_args) == (1.0, (0.5, 1.0), {"drop_rate": 0.1})


def test_options_reach_their_fields():
    words = ["finetune", "resnet18", "--data", "my images", "--fraction", "0.1", "--set", "seed=4"]
    made = settings_of(parser().parse_args(words))
    expected = FineTune(model="resnet18", data=LabelledData(source="my images", fraction=0.1), seed=4)
    assert made == expected


@pytest.mark.parametrize(
    ("model", "source", "fraction", "expected"),
    [
        ("runs/a-star", "packs/cifar10.parquet", 1.0, "finetune-a-star-cifar10"),
        ("runs/a-star/export", "images", 0.01, "finetune-a-star-images-0.01"),
        ("untrained:resnet18", "hf:some/set", 1.0, "finetune-untrained-resnet18-set"),
    ],
)
def test_a_folder_is_named_after_model_and_data(model: str, source: str, fraction: float, expected: str):
    made = FineTune(model=model, data=LabelledData(source=source, fraction=fraction))
    assert default_out(made) == Path("runs") / expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("epochs=0", "epochs is 0; it must be at least 1"),
        ("batch_size=1", "batch_size is 1; it must be at least 2"),
        ("data.fraction=0", "data.fraction is 0.0; it must be a share of the labels above 0, up to 1"),
        ("smoothing=1", "smoothing is 1.0; it must be from 0 to below 1"),
        ("mixup=-1", "mixup is -1.0; it must be at least 0"),
        ("ema=1", "ema is 1.0; it must be between 0 and 1, or null for none"),
        ("optimizer.layer_decay=0", "optimizer.layer_decay is 0.0; it must be above 0, up to 1, or null for none"),
        ("optimizer.clip=0", "optimizer.clip is 0.0; it must be a norm above 0, or null for none"),
        ("precision=half", "precision is 'half'; known: 'auto', 'no', 'bf16', 'fp16'"),
        ("run.log_every=0", "run.log_every is 0; it must be at least 1"),
        ("optimizer.lr=-1", "optimizer.lr is -1.0; it must be at least 0"),
        ("optimizer.weight_decay=-1", "optimizer.weight_decay is -1.0; it must be at least 0"),
        ("optimizer.momentum=1", "optimizer.momentum is 1.0; it must be from 0 to below 1"),
        ("views.size=-8", "views.size is -8; it must be at least 1 pixel, or null for the model's own"),
        ("seed=123456789012345678901", "seed is 123456789012345678901; it must be from -2**63 to 2**63 - 1"),
        ("optimizer.rl=1", "field 'rl' not found; known: name, lr,"),
        ("epochs", "--set 'epochs' has no value; write path=value"),
        ("epochs=many", "epochs is 'many'; it must be a whole number"),
        ("views.flip=2", "views.flip is 2.0; it must be from 0 to 1"),
        ("data=3", "data is 3; it has the fields source, fraction"),
    ],
)
def test_wrong_settings_are_refused(change: str, message: str):
    with pytest.raises(ValueError) as refused:
        tiny("images", change)
    assert message in str(refused.value)


def test_too_few_images_or_an_odd_batch_to_mix_are_refused():
    with pytest.raises(ValueError, match=r"7 labelled images .* a step takes 8; .* --set batch_size=6"):
        steps_per_epoch(tiny("images"), 7, 1)
    with pytest.raises(ValueError, match="batch_size 8 must be a multiple of the number of processes, 3"):
        steps_per_epoch(tiny("images"), 90, 3)
    with pytest.raises(ValueError, match="batch_size 9 is odd on each process; mixup and cutmix mix pairs"):
        steps_per_epoch(tiny("images", "batch_size=9", "cutmix=1"), 90, 1)
    assert steps_per_epoch(tiny("images", "batch_size=9"), 90, 3) == 10
