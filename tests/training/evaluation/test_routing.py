"""How experts are shared, against closed forms. Letters: N images, Q of them looked up, E experts, T tasks."""

import json
import math

import pytest
import torch

from star_training.data.sources.raw import evenly_spaced
from star_training.evaluation.embeddings import base, view
from star_training.evaluation.features import NotFinite, evaluating
from star_training.evaluation.protocols import routing
from star_training.evaluation.protocols.routing import entropy, largest, neighbours, same_class, usage
from star_training.evaluation.record import evaluate
from star_zoo import objectives
from twins import build, randn
from view_cases import Photos, Sees, blind, data, unchanged


def test_entropies_have_closed_forms():
    even, one = torch.full((5,), 0.2), torch.tensor([0.0, 1.0, 0.0])
    assert float(entropy(even)) == pytest.approx(math.log(5)) and float(entropy(one)) == 0
    assert float(entropy(torch.tensor([0.5, 0.25, 0.25]))) == pytest.approx(1.5 * math.log(2))


def test_usage_distinguishes_one_image_from_all():
    """Each image uses one expert, all images together use both; the second task knows one expert only."""
    weights = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]]]).repeat(4, 1, 1).double()
    found = {metric.slug: metric.value for metric in usage(weights)}
    assert found == pytest.approx({
        "entropy_image_invariant": 0,
        "entropy_mean_invariant": math.log(2),
        "entropy_image_equivariant": 0,
        "entropy_mean_equivariant": 0,
        "overlap": 0.5,
    })  # fmt: skip
    assert largest(weights).tolist() == [[0.5, 0.5], [1.0, 0.0]]


def test_ties_of_the_largest_weight_are_shared():
    assert largest(torch.tensor([[[0.4, 0.4, 0.2]]])).tolist() == [[0.5, 0.5, 0.0]]


def test_neighbours_are_the_nearest_others_by_cosine():
    x = randn(30, 4)
    x[7] = 100 * x[3]
    found = neighbours(x, torch.tensor([3, 20]), 5)
    for query, row in zip((3, 20), found.tolist(), strict=True):
        cosines = {j: float(x[query] @ x[j] / x[query].norm() / x[j].norm()) for j in range(30) if j != query}
        assert row == sorted(cosines, key=lambda j: -cosines[j])[:5]
    assert found[0, 0] == 7


def test_neighbours_of_the_same_class_are_counted_one_by_one():
    outputs, targets = {"invariant": randn(40, 3), "equivariant": randn(40, 5, seed=1)}, torch.arange(40) % 3
    found = same_class(outputs, targets)
    by_hand = {}
    for task, x in outputs.items():
        shares = []
        for i in range(40):
            order = sorted(set(range(40)) - {i}, key=lambda j: -float(torch.cosine_similarity(x[i], x[j], 0)))
            shares.append(sum(bool(targets[j] == targets[i]) for j in order[:8]) / 8)
        by_hand[task] = sum(shares) / 40
    invariant, equivariant, less = (metric.value for metric in found)
    assert (invariant, equivariant) == pytest.approx((by_hand["invariant"], by_hand["equivariant"]))
    assert less == pytest.approx(by_hand["invariant"] - by_hand["equivariant"])


def test_an_expert_that_knows_classes_finds_them_and_noise_is_chance():
    targets = torch.arange(1000) % 4
    knows = torch.nn.functional.one_hot(targets).float() + 0.01 * randn(1000, 4)
    found = [metric.value for metric in same_class({"invariant": knows, "equivariant": randn(1000, 4)}, targets)]
    assert found[0] == 1 and found[1] == pytest.approx(0.25, abs=0.02) and found[2] == found[0] - found[1]


# The protocol


@pytest.mark.parametrize("name", objectives.known())
def test_every_objective_is_measured_or_refused(name: str):
    model, splits = Sees(build(name)), data(1, 30)
    if model.objective.routing(randn(2, 8)) is None:
        with pytest.raises(ValueError, match="eye has no experts to route to"):
            routing.run(model, splits)
        return
    same = unchanged(model)
    first, again = (evaluate("routing", model, splits, seed) for seed in (0, 1))
    assert json.loads(json.dumps(first.to_dict())) == first.to_dict() and same()
    assert (first.metrics, first.details) == (again.metrics, again.details)  # nothing is random
    weights = torch.tensor(first.details["weights"])
    assert weights.shape == (2, first.settings["experts"]) and first.details["tasks"] == [*routing.TASKS]
    torch.testing.assert_close(weights.sum(1), torch.ones(2))
    found = first.details["neighbours"]
    assert found["split"] == "test" and found["queries"] == evenly_spaced(30, 8).tolist()
    assert len(found["experts"]) == weights.shape[1]
    for rows in (found["invariant"], found["equivariant"], *found["experts"]):
        assert len(rows) == 8
        for query, row in zip(found["queries"], rows, strict=True):
            assert len(set(row)) == 8 and query not in row and set(row) <= set(range(30))


def test_separate_heads_share_nothing():
    found = routing.run(Sees(build("equimod")), data(1, 30))
    assert found.details["weights"] == [[1, 0], [0, 1]] == found.details["largest weight"]
    assert all(metric.value == 0 for metric in found.metrics.values())
    alike = found.details["neighbours"]
    assert alike["experts"] == [alike["invariant"], alike["equivariant"]]


def test_a_shared_expert_has_half_of_each_task():
    found = routing.run(Sees(build("star_ss")), data(1, 30))
    assert found.details["weights"] == [[0.5, 0, 0.5], [0, 0.5, 0.5]]
    values = {name: metric.value for name, metric in found.metrics.items()}
    assert values.pop("overlap") == 0.5
    assert list(values.values()) == pytest.approx([math.log(2)] * 4)


def test_weights_are_the_routers():
    model = Sees(build("star"))
    with torch.no_grad():
        model.objective.heads.router.linear.weight.mul_(20)
    features = view(model, Photos(30, 2), base, 0).features[:, 0]
    with evaluating(model.objective):
        weights = model.objective.heads.router(features)
    found = routing.run(model, data(1, 30))
    torch.testing.assert_close(torch.tensor(found.details["weights"]), weights.mean(0))
    tops = torch.nn.functional.one_hot(weights.argmax(2), weights.shape[2]).float().mean(0)
    torch.testing.assert_close(torch.tensor(found.details["largest weight"]), tops)
    for task, k in (("invariant", 0), ("equivariant", 1)):
        of_image = found.metrics[f"entropy_image_{task}"]
        assert of_image.value == pytest.approx(float(entropy(weights[:, k]).mean()), rel=1e-5)
        assert of_image.low < of_image.value < of_image.high
        assert of_image.value < found.metrics[f"entropy_mean_{task}"].value  # entropy is concave


def test_neighbours_of_a_sample_are_indices_into_the_whole_split(monkeypatch):
    monkeypatch.setattr(routing, "_IMAGES", 20)
    found = routing.run(Sees(build("equimod")), data(1, 77))
    taken = evenly_spaced(77, 20)
    alike = found.details["neighbours"]
    everything = {j for rows in (alike["invariant"], alike["equivariant"]) for row in rows for j in row}
    assert everything | set(alike["queries"]) <= set(taken.tolist()) and found.settings["images"] == 20
    monkeypatch.setattr(routing, "_IMAGES", 77)
    whole = routing.run(Sees(build("equimod")), data(1, test=TakenFrom(Photos(77, 2), taken)))
    for rows, others in zip(alike["invariant"], whole.details["neighbours"]["invariant"], strict=True):
        assert rows == [int(taken[j]) for j in others]


class TakenFrom(Photos):
    """Some images of another set, as a set of their own."""

    def __init__(self, photos: Photos, indices: torch.Tensor):
        super().__init__(len(indices))
        self.images = photos.images[indices]


def test_models_and_data_without_an_answer_are_refused():
    with pytest.raises(ValueError, match="eye has no experts to route to"):
        routing.run(Sees(), data())
    with pytest.raises(ValueError, match="test has 8 test images; routing needs at least 9"):
        routing.run(Sees(build("star")), data(1, 8))
    with pytest.raises(NotFinite, match="features that are not finite"):
        routing.run(Sees(build("star"), backbone=blind()), data(1, 20))
