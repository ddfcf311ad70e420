"""Features in random poses: neighbours and interpolations against loops, and digits on a network with random weights.

Letters: N training images, M test images, D features, G elements of the group.
"""

import json

import pytest
import torch
from torch import Tensor, nn

from digits import digits
from eval_cases import Given, Oracle, blobs, splits
from small_groups import Small
from star_training.data.eval_sets.dataset import Splits
from star_training.evaluation.features import Labelled, Preprocess
from star_training.evaluation.frozen_model import FrozenModel
from star_training.evaluation.protocols import projection
from star_training.reports.details import projection as figure
from star_training.reports.drawing import looks_of
from star_zoo.groups import C4, D4
from star_zoo.symmetry.projections import Projection
from twins import generator, randn

EVERY_KIND = ("raw", "sort", "max", "cross_section")


def test_neighbours_are_those_of_a_plain_loop():
    known, queries = blobs(60), blobs(40, seed=1)
    found = projection.neighbours(known, queries)
    for x, truth, right in zip(*queries, found, strict=True):
        nearest = (known.features - x).norm(dim=1).argsort()[:5]
        votes = known.targets[nearest].bincount(minlength=3)
        assert right == (votes.argmax() == truth)  # of equal votes, the smallest class
    assert 0.5 < float(found.float().mean()) < 1


def test_changes_are_counted_along_the_line():
    known = Labelled(torch.tensor([[0.0], [1.0], [2.0], [3.0]]), torch.tensor([0, 1, 0, 2]))
    ends, pairs = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[0, 1], [0, 2], [2, 0], [1, 2], [2, 2]])
    assert projection.changes(known, ends, pairs).tolist() == [1, 3, 3, 2, 0]


def test_pairs_are_of_different_classes_and_few_classes_have_none():
    targets = torch.arange(30) % 3
    pairs = projection._pairs(targets, generator(0))
    assert len(pairs) == 200 and (targets[pairs[:, 0]] != targets[pairs[:, 1]]).all()
    assert len(projection._pairs(torch.zeros(30), generator(0))) == 0


@pytest.mark.parametrize("group", [C4, D4], ids=["c4", "d4"])
def test_poses_move_each_image_by_its_own_element(group):
    part = Labelled(randn(20, 3, group.order), torch.arange(20))
    posed, poses = projection._posed(part, group, generator(0))
    for z, moved, g in zip(part.features, posed.features, poses, strict=True):
        assert torch.equal(moved, group.act_on_features(z, int(g)))
    assert len(poses.unique()) > 2 and torch.equal(posed.targets, part.targets)


def test_a_plane_has_the_principal_components():
    x = randn(50, 3) * torch.tensor([5.0, 2.0, 0.1])
    found = projection.plane(x)
    assert torch.allclose(found.std(0, correction=0)[0], torch.ones((), dtype=torch.float64))
    assert abs(torch.corrcoef(torch.stack([found[:, 0], x[:, 0].double()]))[0, 1]) > 0.98
    assert abs(float(found[:, 0] @ found[:, 1])) < 1e-6
    assert projection.plane(torch.ones(4, 1)).tolist() == [[0.0, 0.0]] * 4


class Images(Given):
    """Float images (3, 16, 16) as the features of a data set."""

    def __getitem__(self, index: int) -> Tensor:
        return self.features[index].view(3, 16, 16)


def of_digits(model: nn.Module) -> tuple[FrozenModel, Splits]:
    """A model of float images, and digits."""
    parts = [Labelled(part.images.flatten(1), part.labels) for part in digits(300, 150, size=16)]
    seen = splits(*parts)
    seen.__dict__ |= {"train": Images(parts[0], "train"), "test": Images(parts[1], "test")}
    return FrozenModel("small", model, Preprocess(lambda image: (image,), lambda batch: batch, "none")), seen


def test_digits_in_random_poses():
    model, seen = of_digits(Small(C4))
    found = projection.run(model, seen)
    value = {slug: metric.value for slug, metric in found.metrics.items()}
    assert value.keys() == {f"projection_{what}_{kind}" for what in ("knn5_top1", "steady") for kind in EVERY_KIND}
    assert value["projection_knn5_top1_sort"] > value["projection_knn5_top1_raw"] + 0.02
    assert value["projection_knn5_top1_max"] > value["projection_knn5_top1_raw"]
    assert json.loads(json.dumps(found.details)) == found.details
    assert projection.run(model, seen).metrics == found.metrics
    z = model.backbone.regular_features(torch.stack([seen.test[k] for k in range(150)]))
    poses = torch.tensor(found.details["poses"])
    moved = torch.stack([C4.act_on_features(x, int(g)) for x, g in zip(z, poses, strict=True)])
    expected = projection.plane(moved.detach().flatten(1))
    same = torch.tensor(found.details["maps"]["raw"], dtype=torch.float64)
    assert torch.allclose(same.abs(), expected.abs(), atol=1e-2)
    drawn = figure.draw({"small": found.details}, looks_of(["small"]))
    assert drawn.png.startswith(b"\x89PNG") and len(drawn.numbers.rows) == 4
    between = {tuple(row[1:3]): float(row[4]) for row in drawn.numbers.rows}
    assert between["sort", "poses"] < 0.1 and between["sort", "classes"] > between["raw", "classes"]


def test_an_upright_projection_is_the_projection_of_every_pose():
    part = Labelled(randn(30, 4, 8), torch.arange(30))
    posed, _ = projection._posed(part, D4, generator(1))
    for kind in projection._KINDS:
        upright, other = (projection._projected(p, kind, D4).features for p in (part, posed))
        assert torch.allclose(upright, other, atol=1e-6)
        assert torch.equal(upright, Projection(kind, D4, 4)(part.features))
    assert not torch.allclose(part.features, posed.features)


def test_objects_and_numbers_are_refused():
    numbers = Labelled(randn(40, 5), randn(40, 2))
    with pytest.raises(ValueError, match="numbers for labels; classification needs classes"):
        projection.run(Oracle(), splits(numbers, numbers))
    oracle = Oracle()
    oracle.backbone.takes_objects = True
    with pytest.raises(ValueError, match="oracle renders objects, which can't be turned"):
        projection.run(oracle, splits(blobs(10), blobs(10)))


def test_a_figure_without_records_is_none():
    assert figure.draw({}, {}) is None
