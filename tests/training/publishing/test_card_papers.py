"""Cards: every method of a chain of runs is credited with its own papers."""

import json
import sys
from pathlib import Path

from huggingface_hub import ModelCard

from runs import tiny
from star_training.publishing import card
from star_zoo import objectives, save_pretrained
from twins import POLICY, backbone

INVARIANT = {
    "barlow_twins", "byol", "distill", "looc", "moco", "moco_v3", "simclr", "simclr_gr", "simsiam", "supervised",
    "vicreg",
}  # fmt: skip


def test_every_objective_is_credited_with_its_own_papers(tmp_path: Path):
    model = backbone()
    described = {}
    for name in objectives.known():
        kind, objective = objectives.find(name), objectives.build(name, model.num_features, POLICY)
        text = card.render(save_pretrained(tmp_path / name, model, objective))
        first = str(sys.modules[kind.__module__].__doc__).splitlines()[0]
        assert len(first) > 20 and first in text and f"# Model card for test_resnet-{name}\n" in text
        described[name] = first
        cited = [line for line in text.splitlines() if line.startswith(("@inproceedings{", "@misc{"))]
        assert cited == [paper.bibtex.partition("\n")[0] for paper in kind.papers]
        assert ("jeon2025soft" in text) == (name in ("star", "star_ss", "uniform", "equimod"))
        tags = set(ModelCard(text).data.tags) & {"self-supervised-learning", "equivariance", "distillation"}
        assert tags == set(kind.tags) and ("without labels" in text) == ("self-supervised-learning" in tags)
        assert ("equivariance" in tags) == (name not in INVARIANT)
    assert len(set(described.values())) == len(described)
    assert [name for name in described if not objectives.find(name).papers] == ["supervised"]
    assert described["star"].startswith("STAR (Jeon et al., NeurIPS 2025)") and "SimCLR (Chen" in described["simclr"]


def test_every_method_of_a_chain_is_credited_and_an_objective_from_outside_named(tmp_path: Path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "support")
    model = backbone()
    objective = objectives.build("outside.simsiam", model.num_features, POLICY)
    recipe = tiny().to_dict() | {"objective": "outside.simsiam", "objective_args": {}}
    before = tiny().to_dict() | {"objective": "distill", "objective_args": {"beside": "vicreg"}}
    folder = save_pretrained(tmp_path / "outside", model, objective, recipe=recipe)
    text = card.render(folder)
    assert "on Spirographs with the objective `outside.simsiam`. SimSiam (Chen & He, CVPR 2021) on STAR" in text
    assert "those of the objective `outside.simsiam`, which isn't part of star-zoo" in text
    assert "## Citation" not in text and "jeon2025" not in text
    (folder / "results.json").write_text(json.dumps({"start": {"recipe": before}}))
    text = card.render(folder)
    cited = [line.split("{")[1] for line in text.splitlines() if line.startswith(("@inproceedings", "@misc"))]
    assert cited == ["bardes2022vicreg,", "hinton2015distilling,", "romero2015fitnets,"]
    assert "equivariance" not in ModelCard(text).data.tags
