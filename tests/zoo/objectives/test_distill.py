"""Distillation: the term by its formula, the teacher's eyes, what is left out of files, and what is refused."""

from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import twins
from star_zoo import Objective, load_objective, objectives, save_pretrained
from star_zoo.objectives._teacher import Teacher, fingerprint
from twins import NUM_FEATURES, POLICY, backbone, build, randn

TEACHER = "star_resnet10t.cifar10_simclr"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose export is the smallest teacher."""
    run = tmp_path_factory.mktemp("runs") / "teacher-run"
    save_pretrained(run / "export", backbone())
    return run


def attached(folder: Path, **settings: object) -> tuple[Objective, twins.Encoder, twins.Batch]:
    torch.manual_seed(0)
    objective = build("distill", **{"teacher": str(folder), "teacher_size": 16, "weight": 1.0, **settings})
    encoder = twins.encoder(objective.policy)
    objective.attach(encoder)
    return objective, encoder, twins.batch(objective, 8)


def seen(objective: Objective, encoder: twins.Encoder, batch: twins.Batch, teacher: nn.Module) -> list[list[Tensor]]:
    """Of each view: mapped features of the student and standardised features of the teacher."""
    config = timm.data.resolve_model_data_config(teacher)
    mean, std = (torch.tensor(config[key])[:, None, None] for key in ("mean", "std"))
    ours = [torch.tensor(s)[:, None, None] for s in (POLICY.mean, POLICY.std)]
    images = [encoder.augment(batch, view) for view in range(len(batch.views))]
    pixels = [x * ours[1] + ours[0] for x in images]  # in [0, 1], as the teacher's transform gets them
    with torch.no_grad():
        features = [teacher((x - mean) / std) for x in pixels]
    expected = [(t - t.mean(0)) / (t.var(0, correction=0) + 1e-5).sqrt() for t in features]
    return [[objective.map(f), t] for f, t in zip(encoder(images), expected, strict=True)]


@pytest.mark.parametrize("loss", ["cosine", "mse"])
def test_value_and_gradient_are_those_of_the_formula(folder: Path, loss: str):
    objective, encoder, batch = attached(folder, loss=loss, weight=0.5)
    teacher = timm.create_model(f"local-dir:{folder / 'export'}", pretrained=True).eval()
    terms = objective(batch, encoder)
    terms["distill"].backward()
    gradients = [p.grad.clone() for p in (*objective.parameters(), *encoder.parameters())]
    objective.zero_grad(), encoder.zero_grad()
    found = []
    for mapped, target in seen(objective, encoder, batch, teacher):
        for x, y in zip(mapped, target, strict=True):
            found.append((x - y).square().mean() if loss == "mse" else 1 - (x @ y) / x.norm() / y.norm())
    expected = 0.5 * torch.stack(found).mean()
    expected.backward()
    assert terms.keys() == {"distill"}
    assert_close(terms["distill"], expected, rtol=1e-4, atol=1e-5)
    for ours, p in zip(gradients, (*objective.parameters(), *encoder.parameters()), strict=True):
        assert_close(ours, p.grad, rtol=1e-3, atol=1e-5)


def test_a_perfect_student_has_no_loss(folder: Path):
    objective, _, batch = attached(folder)
    encoder = twins.Encoder(POLICY, backbone()).eval()
    objective.map = nn.Linear(encoder.backbone.num_features, objective.teacher.num_features)
    with torch.no_grad():
        nn.init.eye_(objective.map.weight), nn.init.zeros_(objective.map.bias)
    objective.standardize.eval()  # of mean 0 and variance 1
    objective.teacher.scale.fill_(1), objective.teacher.shift.fill_(0)  # the same normalisation
    assert objective(batch, encoder)["distill"].item() == pytest.approx(0, abs=1e-5)


def test_views_are_resized_to_the_teachers_own_size_by_default(folder: Path):
    teacher = Teacher(TEACHER, POLICY)
    assert teacher.size == 48
    flat = torch.ones(2, 3, 16, 16)
    config = timm.data.resolve_model_data_config(timm.create_model(TEACHER))
    color = [(m + s - their_m) / their_s for m, s, their_m, their_s in zip(
        POLICY.mean, POLICY.std, config["mean"], config["std"], strict=True)]  # fmt: skip
    expected = timm.create_model(TEACHER, pretrained=True).eval()(
        torch.tensor(color)[:, None, None].expand(2, 3, 48, 48)
    )
    assert_close(teacher(flat), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("beside", ["simclr", "star", "byol", "moco"])
def test_the_terms_beside_are_those_of_the_objective_alone(folder: Path, beside: str):
    objective, encoder, batch = attached(folder, beside=beside)
    terms = objective(batch, encoder)
    passes = []
    encoder.register_forward_hook(lambda *_: passes.append(1))
    objective(batch, encoder)
    assert len(passes) == 1  # the student reads each view once

    torch.manual_seed(0)
    alone, other = build(beside), twins.encoder(POLICY)
    alone.load_state_dict(
        {k.removeprefix("beside."): v for k, v in build("distill", beside=beside).state_dict().items()}
    )
    alone.attach(other)
    expected = alone(batch, other)
    assert list(terms) == ["distill", *expected]
    for name, value in expected.items():
        assert_close(terms[name], value)
    assert objective.eval().embed(randn(4, NUM_FEATURES)).keys() == alone.embed(randn(4, NUM_FEATURES)).keys()


def test_hooks_reach_the_objective_beside(folder: Path):
    objective, encoder, _ = attached(folder, beside="byol", beside_args={"momentum": 0.9, "embed_dim": 6})
    with torch.no_grad():
        next(encoder.parameters()).add_(1)
    before = next(objective.beside.target_encoder.parameters()).clone()
    objective.after_step(encoder, 0.5)
    assert not torch.equal(next(objective.beside.target_encoder.parameters()), before)
    star = build("distill", beside="star", beside_args={"num_experts": 3})
    features = randn(4, NUM_FEATURES)
    assert star.routing(features).shape == (4, 2, 3) and star.experts(features).shape == (4, 3, 128)
    assert star.predict(randn(4, 128), torch.zeros(4, len(POLICY.fields))).shape == (4, 128)


# --- the teacher


def test_the_teacher_is_neither_trained_nor_saved(folder: Path):
    objective, encoder, batch = attached(folder)
    assert {k.partition(".")[0] for k in objective.state_dict()} == {"map", "standardize"}
    assert objective.published() == {}
    before = fingerprint(objective.teacher._model[0])
    objective.train()
    objective(batch, encoder)["distill"].backward()
    assert fingerprint(objective.teacher._model[0]) == before  # its running statistics too
    assert all(p.grad is None and not p.requires_grad for p in objective.teacher._model[0].parameters())


def test_the_teacher_moves_with_the_objective(folder: Path):
    objective, _, _ = attached(folder)
    objective.double()
    assert {p.dtype for p in objective.teacher._model[0].parameters()} == {torch.float64}


def test_its_record_names_it_without_its_folder(folder: Path, tmp_path: Path):
    objective, _, _ = attached(folder)
    record = objective.pretrained()["teacher"]
    assert record.name == "teacher-run"
    assert record.fingerprint == fingerprint(timm.create_model(f"local-dir:{folder / 'export'}", pretrained=True))
    assert Teacher(TEACHER, POLICY).record.license == "apache-2.0"
    saved = save_pretrained(tmp_path / "student", backbone(), objective)
    assert str(folder) not in (saved / "heads.json").read_text()
    assert load_objective(saved).config["settings"]["teacher"] == "teacher-run"  # which needn't be there


def test_a_fingerprint_is_of_every_weight(folder: Path):
    model, same = backbone(), backbone()
    assert fingerprint(model) == fingerprint(same)
    with torch.no_grad():
        list(same.parameters())[-1].view(-1)[-1] += 1e-6
    assert fingerprint(model) != fingerprint(same)


# --- refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "l1"}, "loss 'l1' not found; .*known: cosine, mse"),
        ({"beside": "simcrl"}, "'simcrl' not found; did you mean 'simclr'"),
        ({"beside": "distill"}, "beside is 'distill'; there is one teacher"),
        ({"beside": "simclr", "beside_args": {"bogus": 1}}, "'simclr' has no setting bogus"),
        ({"beside_args": {"hidden": 1}}, "there is no objective; pass beside too"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        objectives.build("distill", NUM_FEATURES, POLICY, **settings)


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (
            "resnet9000",
            "teacher 'resnet9000' can't be loaded: .*; pass a run, a saved folder, a zoo tag or a timm",
        ),
        ("test_mambaout.nothing", "can't be loaded: "),
    ],
)
def test_a_teacher_that_is_missing_is_refused_in_one_line(teacher: str, message: str):
    objective = build("distill", teacher=teacher)
    with pytest.raises(ValueError, match=message) as refused:
        objective.attach(twins.encoder(POLICY))
    assert "\n" not in str(refused.value)


def test_a_folder_without_a_model_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="holds no exported model; pass a finished run"):
        build("distill", teacher=str(tmp_path)).attach(twins.encoder(POLICY))
