"""Online evaluation: its numbers against scikit-learn and slow formulas; it disturbs nothing, and needs no labels.

Letters: N bank images, D features, C classes.
"""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from finetune_cases import coloured
from runs import NOISY, assert_equal, entries, exported, pictures, tiny
from star_training.data import open_source
from star_training.data.sources.spirograph import Spirographs
from star_training.evaluation.solvers.ridge import STRENGTHS
from star_training.pretraining.module import build
from star_training.pretraining.online_eval import Monitor
from star_training.pretraining.run import Run
from star_zoo import Policy
from star_zoo.augmentations import Crop
from twins import every_operation

POLICY = tiny().policy
CROP = 'policy={"augmentations": [{"name": "Crop", "size": 32}], "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]}'
SIDE = 6  # pixels
PLAIN = Policy((Crop(SIDE),), (0.5,) * 3, (0.25,) * 3)


def backbone() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=0)


def hard(folder: Path, images: int, seed: int) -> Path:
    """Images of three classes in noise that hides most of the difference."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(128, 12, (3, SIDE, SIDE, 3))
    for k in range(images):
        path = folder / "abc"[k % 3] / f"{k:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = random.normal(centres[k % 3], 60).clip(0, 255).astype(np.uint8)
        Image.fromarray(noise).save(path)
    return folder


def labelled(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Normalised pixels (N, D) and labels (N,), read without any of our code."""
    paths = sorted(folder.rglob("*.png"))
    pixels = np.stack([np.asarray(Image.open(path)).transpose(2, 0, 1).ravel() for path in paths])
    return (pixels / 255 - 0.5) / 0.25, np.array(["abc".index(path.parent.name) for path in paths])


def ridge_twin(x: np.ndarray, y: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """The classes of queries by ridge regression, for each class at the strength of least cross-validation error."""
    mean, scale = x.mean(0), x.std(0, ddof=1)
    x, queries = (x - mean) / scale, (queries - mean) / scale
    scores = []
    for label in range(3):
        target = (y == label).astype(float)
        centred, best = target - target.mean(), (np.inf, np.empty(0))
        for strength in STRENGTHS:
            solved = np.linalg.solve(x.T @ x + len(x) * strength * np.eye(x.shape[1]), x.T)
            hat = x @ solved
            error = ((centred - hat @ centred) ** 2).sum() / (len(x) - np.trace(hat)) ** 2
            best = min(best, (error, queries @ (solved @ centred) + target.mean()), key=lambda found: found[0])
        scores.append(best[1])
    return np.stack(scores).argmax(0)


def test_the_metrics_of_classes_are_those_of_other_code(tmp_path: Path):
    train, test = hard(tmp_path / "train", 240, 1), hard(tmp_path / "test", 90, 2)
    monitor = Monitor(PLAIN, open_source(str(train)), open_source(str(test)))
    found = monitor(nn.Flatten())
    assert monitor.images == {"train": 240, "test": 90}
    assert (*found,) == monitor.names == ("knn1_top1", "knn20_top1", "linear_top1", "rankme")
    (x, y), (queries, truth) = labelled(train), labelled(test)
    nearest = KNeighborsClassifier(1, metric="cosine").fit(x, y)
    assert found["knn1_top1"] == pytest.approx(nearest.score(queries, truth))
    assert found["linear_top1"] == pytest.approx((ridge_twin(x, y, queries) == truth).mean())
    assert 0.4 < found["linear_top1"] < 0.95
    sizes = np.linalg.svd(x, compute_uv=False)
    shares = sizes / sizes.sum()
    assert found["rankme"] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-5)


def test_it_disturbs_nothing():
    module, _ = build(tiny("backbone_args.drop_rate=0.3"))
    module.train()
    module.backbone.layer1.eval()
    modes = [m.training for m in module.modules()]
    state = {k: v.clone() for k, v in module.state_dict().items()}
    random = torch.get_rng_state()
    monitor = Monitor(POLICY, Spirographs(40), Spirographs(30, "test"))
    first = monitor(module.backbone)
    assert first == monitor(module.backbone) and (*first,) == monitor.names == ("r2", "rankme")
    assert [m.training for m in module.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(v, state[k]) for k, v in module.state_dict().items())


def test_a_run_has_the_same_weights_with_and_without_it(tmp_path: Path):
    coloured(tmp_path / "images", 32, 8)
    found = {}
    for every in (0, 1):
        settings = (f"data.source={tmp_path / 'images'}", f"run.eval_every={every}")
        policy = (
            'policy={"augmentations": [{"name": "Crop", "size": 32}], "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]}'
        )
        Run(tiny(*NOISY, settings[0], settings[1], policy), tmp_path / str(every)).train()
        found[every] = exported(tmp_path / str(every))
    assert_equal(found[0], found[1])
    assert entries(tmp_path / "0", "linear_top1") == [] and len(entries(tmp_path / "1", "linear_top1")) == 3


def test_a_small_bank_has_no_twenty_neighbours(tmp_path: Path):
    source = open_source(str(pictures(tmp_path, 10)))
    found = Monitor(every_operation(32), source, source)(backbone())
    assert found.keys() == {"knn1_top1", "linear_top1", "rankme"}
    assert found["knn1_top1"] == 1.0  # each image is its own neighbour


def test_without_labels_or_held_out_images_it_measures_rankme(tmp_path: Path):
    unlabelled = open_source(str(pictures(tmp_path / "flat", 10, classes=(".",))))
    of_one_class = open_source(str(pictures(tmp_path / "one", 10, classes=("a",))))
    assert unlabelled.targets is None
    for train, test in ((unlabelled, None), (unlabelled, unlabelled), (of_one_class, of_one_class)):
        found = Monitor(every_operation(32), train, test)(backbone())
        assert found.keys() == {"rankme"} and 1 <= found["rankme"] <= 10


def test_features_that_are_all_zero_have_no_rank():
    assert Monitor(POLICY, Spirographs(9), None)(Zero()) == {"rankme": 0.0}


class Zero(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(x), 4)
