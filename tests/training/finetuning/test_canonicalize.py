"""Fine-tuning with a canonicalizer: its loss, its record, and the export in the commands. Letters: B images."""

import json
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F

from finetune_cases import coloured, tiny
from star_training.cli.main import main
from star_training.evaluation.frozen_model import load
from star_training.finetuning.config import FineTune
from star_training.finetuning.data import training_policy
from star_training.finetuning.model import Learner, build
from star_training.finetuning.run import FineTuning, in_words
from star_zoo import Batch
from star_zoo.groups import C4, D4
from star_zoo.wrappers.canonical import Activations, Canonical
from twins import photos, randn


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return coloured(tmp_path_factory.mktemp("images"), 24, 12)


def settings(images: Path, *changes: str, model: str = "untrained:test_resnet") -> FineTune:
    return tiny(images, "canonicalize=c4", "epochs=1", *changes, model=model)


@pytest.fixture(scope="module")
def finished(images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FineTuning]:
    out = tmp_path_factory.mktemp("finished") / "upright"
    tuning = FineTuning(settings(images), out)
    tuning.train()
    return out, tuning


@torch.no_grad()
def test_the_export_is_the_trained_model_and_classifies_all_poses_alike(finished):
    out, tuning = finished
    model = timm.create_model(f"local-dir:{out / 'export'}", pretrained=True).eval()
    x, trained = randn(5, 3, 32, 32), tuning.net.eval()
    assert isinstance(model, Canonical) and model.canonicalizer.group is C4
    torch.testing.assert_close(model(x), trained(x), rtol=1e-4, atol=1e-5)  # another memory format
    assert all(torch.equal(model(x.rot90(k, (2, 3))), model(x)) for k in (1, 2, 3))
    assert model.pretrained_cfg["label_names"] == ["blue", "green", "red"]


def test_the_record_has_the_share_of_images_that_are_left_unturned(finished, images: Path):
    _, tuning = finished
    made = tuning.outcome()
    assert list(made.metrics) == ["finetune_top1", "finetune_identities"]
    kept = made.metrics["finetune_identities"]
    assert not kept.is_accuracy and kept.is_share and "Images left unturned" in in_words(made)
    activations = tuning._outputs(Activations(tuning.net))
    assert activations.shape == (12, 4)
    assert kept.value == pytest.approx(float((activations.argmax(1) == 0).float().mean()))
    assert made.settings["canonicalize"] == "c4"


def test_the_export_is_evaluated_compared_and_has_a_card(finished, images: Path, tmp_path: Path, capsys):
    export, results = str(finished[0]), str(tmp_path / "results.json")
    model = load(export)
    assert isinstance(model.backbone, Canonical) and model.policy.size == 32
    assert main(["eval", "knn", export, "--data", str(images), "--out", results]) == 0
    assert main(["compare", export, "pixels", "--data", str(images), "--protocol", "knn", "--out", results]) == 0
    assert main(["card", export]) == 0
    text = (finished[0] / "export" / "README.md").read_text()
    assert "star-zoo's canonical of timm's test_resnet" in text and "Images left unturned" in text
    assert json.loads(Path(results).read_text())["comparisons"]
    capsys.readouterr()


def test_the_export_is_trained_further_with_its_canonicalizer(finished, images: Path, tmp_path: Path):
    made = tiny(images, "epochs=1", model=str(finished[0]))
    net, _ = build(made, 3)
    before = finished[1].net.canonicalizer.state_dict()
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.canonicalizer.state_dict().items())
    with pytest.raises(ValueError, match="has a canonicalizer already, which is trained further"):
        build(settings(images, model=str(finished[0])), 3)


def learned(made: FineTune) -> tuple[Learner, Batch, torch.Tensor]:
    """A learner in eval mode, a batch of upright views, and these views normalised."""
    torch.manual_seed(0)
    net, _ = build(made, 3)
    learner = Learner(net, training_policy(made.views, 32, (0.5,) * 3, (0.2,) * 3), made, 3, channels_last=False).eval()
    params = learner.policy.base(32, 32).expand(6, -1)
    size, labels = torch.full((6, 2), 32), torch.arange(6) % 3
    batch = Batch([photos(6, 32, 32)], [params], torch.arange(6), size, labels)
    return learner, batch, learner.batch(batch.views[0], params, labels, 0, 0)[0]


@pytest.mark.parametrize(
    ("changes", "weight"),
    [(["prior_weight=0"], 0.0), (["prior_weight=2.5"], 2.5), ([], 100.0)],
)
def test_the_loss_is_the_tasks_and_the_weighted_prior(images: Path, changes: list[str], weight: float):
    learner, batch, x = learned(settings(images, *changes, "smoothing=0"))
    upright = F.cross_entropy(learner.net.activations(x), torch.zeros(6).long())
    expected = F.cross_entropy(learner.net(x), batch.target) + weight * upright
    torch.testing.assert_close(learner(batch, 0, 0), expected)


def test_scores_of_features_are_trained_on_two_poses_of_each_image(images: Path):
    learner, batch, x = learned(settings(images, "canonicalizer=features", "smoothing=0.1"))
    labels = batch.target.repeat(2)
    torch.manual_seed(0)
    task, upright = learner.net.losses(
        x, lambda logits: F.cross_entropy(logits, labels, label_smoothing=0.1, reduction="none")
    )
    torch.manual_seed(0)
    torch.testing.assert_close(learner(batch, 0, 0), task + upright)  # its weight is 1


def test_groups_flips_and_weights_that_do_not_fit_are_refused(images: Path):
    with pytest.raises(ValueError, match="canonicalize is 'c8'; known: 'c4', 'd4', or null for none"):
        tiny(images, "canonicalize=c8")
    with pytest.raises(ValueError, match=r"views.flip is 0.5; with canonicalize=d4 it must be 0"):
        tiny(images, "canonicalize=d4")
    assert build(tiny(images, "views.flip=0", "canonicalize=d4"), 3)[0].canonicalizer.group is D4
    with pytest.raises(ValueError, match="prior_weight is -1.0; it must be at least 0"):
        tiny(images, "canonicalize=c4", "prior_weight=-1.0")


def test_detection_refuses_a_canonicalized_model(finished):
    from star_training.detection.model import build as detector

    backbone = load(str(finished[0])).backbone
    with pytest.raises(ValueError, match="head 'fpn' needs maps .* Canonical has none; pass another model"):
        detector(backbone, "fpn", 2, 32, 8)
