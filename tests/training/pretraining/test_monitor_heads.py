"""What is watched of the heads during a run. Letters: N images, D features, E experts, T tasks, O embedding size."""

import math

import pytest
import torch

from star_training.pretraining import online_eval as monitor
from star_training.pretraining.online_eval import watch_heads
from star_zoo import objectives
from star_zoo.heads import FixedRouter
from twins import build, randn
from view_cases import Photos, Sees


def watched(name: str, images: int):
    model = Sees(build(name))
    return watch_heads(model.backbone, model.objective, Photos(images))


@pytest.mark.parametrize("name", objectives.known())
def test_every_objective_is_watched_or_left_alone(name: str):
    found = watched(name, 30)
    objective = build(name)
    if objective.routing(randn(2, 8)) is None:
        assert found == {}
        return
    router = objective.heads.router
    assert found.keys() == {"router", "entropy", "norm"}  # too few images for canonical correlations
    shares = torch.tensor(found["router"])
    assert shares.sum(1).tolist() == pytest.approx([1.0, 1.0])
    assert min(found["norm"]) > 0
    if isinstance(router, FixedRouter):  # the same for every image: known without any
        table = router.weights / router.weights.sum(1, keepdim=True)
        assert torch.allclose(shares, table)
        even = [-sum(w * math.log(w) for w in row if w) for row in table.tolist()]
        assert found["entropy"] == pytest.approx(even, abs=1e-6)


def test_equal_embeddings_are_wholly_correlated(monkeypatch: pytest.MonkeyPatch):
    """Under `uniform` z_inv and z_eq are one; ten images a dimension are enough to say so."""
    monkeypatch.setattr(monitor, "_WATCHED", 2600)
    assert watched("uniform", 2600)["canonical"] == pytest.approx(1)
    assert 0 < watched("star", 2600)["canonical"] < 1
