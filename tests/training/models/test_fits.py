"""Whether a model takes images of a size: found from shapes, before anything is read."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

from star_training.cli.main import main
from star_training.models import fits

Forward = Callable[[Tensor], Any]


class Fake(nn.Module):
    """A model of timm's kind with a forward pass of the test's own."""

    def __init__(self, forward: Forward, channels: int = 3):
        super().__init__()
        self.pretrained_cfg = {"input_size": (channels, 32, 32)}
        self.head_hidden_size, self.classes, self.act = 5, 0, forward

    def forward(self, x: Tensor) -> Any:
        return x.new_zeros(len(x), self.classes) if self.classes else self.act(x)

    def get_classifier(self) -> Any:
        return self.act

    def reset_classifier(self, classes: int) -> None:
        self.classes = classes


def features(x: Tensor) -> Tensor:
    return x.new_zeros(len(x), 5)


def only(*sizes: int) -> Forward:
    def forward(x: Tensor) -> Tensor:
        if x.shape[-1] not in sizes:
            raise AssertionError
        return features(x)

    return forward


def refusal(forward: Forward, size: int = 40, *, channels: int = 3, **options: Any) -> str:
    with pytest.raises(ValueError) as refused:
        fits.check(lambda size: Fake(forward, channels), size, "model 'm'", "views.size", **options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_model_that_fits_is_accepted_and_computes_nothing():
    devices = []
    fits.check(lambda size: Fake(lambda x: devices.append(x.device.type) or features(x)), 40, "m", "s", classifier=True)
    assert devices == ["meta"]


@pytest.mark.parametrize(
    ("sizes", "own", "listed"),
    [((48,), None, "48"), ((32, 48, 64), None, "32 and 48"), ((224,), 224, "224"), ((96, 224), 224, "96 and 224")],
)
def test_sizes_that_fit_are_listed_with_the_setting(sizes: tuple[int, ...], own: int | None, listed: str):
    line = refusal(only(*sizes), own=own)
    assert line.startswith("model 'm' doesn't take images of 40 pixels: AssertionError (test_fits.py:")
    assert line.endswith(f"; it takes e.g. {listed} pixels: --set views.size={listed.partition(' ')[0]}")


def test_no_size_is_listed_where_none_fits():
    assert "it takes" not in refusal(only())


def test_a_size_for_which_the_model_can_not_be_built():
    def make(size: int) -> Fake:
        if size % 16:
            raise ValueError(f"{size} is no multiple of 16")
        return Fake(features)

    with pytest.raises(ValueError, match=r"^40 is no multiple of 16; it takes e\.g\. 32 and 48 pixels: --set s=32$"):
        fits.check(make, 40, "m", "s")


@pytest.mark.parametrize(
    ("forward", "channels", "message"),
    [
        (lambda x: x, 3, r"returns the shape \(2, 3, 40, 40\) for two images instead of a vector of features"),
        (lambda x: (x, x), 3, "returns a tuple for two images instead of a vector of features"),
        (lambda x: x[:, 0, 0, :7], 3, "returns 7 features, but its head_hidden_size is 5"),
    ],
)
def test_what_has_another_cause_is_not_reported_as_a_wrong_size(forward: Forward, channels: int, message: str):
    with pytest.raises(ValueError, match=f"^model 'm' {message}") as refused:
        fits.check(lambda size: Fake(forward, channels), 40, "model 'm'", "views.size", classifier=True)
    assert "pixels" not in str(refused.value)


def test_an_error_in_a_network_of_the_users_is_named_with_its_place():
    def forward(x: Tensor) -> Tensor:
        raise KeyError("block")

    assert re.search(r"pixels: 'block' \(test_fits\.py:\d+\)$", refusal(forward))


def test_a_cause_that_shows_at_another_size_alone_is_the_one_reported():
    line = refusal(lambda x: only(48)(x) if x.shape[-1] != 48 else x)
    assert "returns the shape (2, 3, 48, 48)" in line and "40" not in line


def test_a_classifier_that_does_not_take_the_features(monkeypatch):
    monkeypatch.setattr(Fake, "reset_classifier", lambda self, classes: setattr(self, "act", nn.Linear(7, classes)))
    monkeypatch.setattr(Fake, "forward", lambda self, x: self.act(features(x)))
    line = refusal(features, classifier=True)
    assert "fails with a new classifier, so it can't be fine-tuned" in line and "doesn't take images" not in line


@pytest.mark.parametrize("method", ["get_classifier", "reset_classifier"])
def test_a_model_whose_classifier_cannot_be_replaced(method: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(Fake, method)
    line = refusal(features, size=32, classifier=True)
    assert line == f"model 'm' has no method {method}, so it can't be fine-tuned; define it as timm's models do"
    fits.check(lambda size: Fake(features), 32, "model 'm'", "views.size")


def test_a_model_that_needs_numbers_is_left_to_the_trial_with_numbers():
    fits.check(lambda size: Fake(lambda x: features(x[: int(x.sum()) + 1])), 40, "m", "s")


# The commands


def test_pretraining_refuses_before_it_reads_images_or_writes(tmp_path: Path, capsys):
    words = ["pretrain", "folder", "--data", str(tmp_path / "missing"), "--out", str(tmp_path / "out")]
    assert main([*words, "--set", "backbone=test_vit", "--set", "policy.augmentations.0.size=30"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "backbone 'test_vit'" in line and "e.g. 32 and 160 pixels: --set policy.augmentations.0.size=32" in line
    assert main([*words, "--set", "backbone_args.in_chans=1"]) == 1
    assert "missing' doesn't exist" in capsys.readouterr().err
    assert main(words) == 1
    assert "missing' doesn't exist" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_fine_tuning_refuses_before_it_reads_images_or_writes(tmp_path: Path, capsys):
    words = ["finetune", "untrained:test_vit", "--data", str(tmp_path / "missing"), "--out", str(tmp_path / "out")]
    assert main([*words, "--set", "views.size=30"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "test_vit'" in line and "e.g. 32 and 160 pixels: --set views.size=32" in line
    assert main([*words, "--set", "backbone_args.in_chans=1"]) == 1
    assert "missing' doesn't exist" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
