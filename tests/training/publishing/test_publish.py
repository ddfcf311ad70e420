"""Publishing: what is uploaded and what never is, what is refused before anything is asked, what can be made of it."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from loopback_client import client
from loopback_hub import LoopbackHub
from markdown_cases import RECORD, blocks
from runs import exported, tiny
from star_training.cli.main import main
from star_training.pretraining.run import Run
from star_training.publishing import card
from star_training.publishing.upload import stage
from star_zoo import Batch, save_pretrained
from twins import backbone

QUIET = ("run.eval_every=0", "epochs=1", "data.limit=16")
REPOSITORY = "me/star_test_resnet.spiro"
# several command lines in one process, each with what it says in the end
CLIS = """
import contextlib, io, json, sys, time
time.sleep = lambda seconds: None
from star_training.cli.main import main
outcome = []
for words in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    outcome.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(outcome))
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with an evaluation on record, and with files in its folder that are nobody's business."""
    out = tmp_path_factory.mktemp("finished")
    run = Run(tiny(*QUIET), out)
    run.train()
    export = out / "export"
    results = json.loads((export / "results.json").read_text())
    (export / "results.json").write_text(json.dumps(results | {"evaluations": [RECORD]}))
    (export / "clusters.png").write_bytes(b"\x89PNG")
    for name in ("optimizer.pth", "pytorch_model.bin", "notes.txt", ".env", "recipe.json.bak"):
        (export / name).write_bytes(b"private")
    (export / "checkpoints").mkdir()
    (export / "checkpoints" / "state.pt").write_bytes(b"private")
    return run


@pytest.fixture
def folder(finished: Run, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished.out / "export", tmp_path / "folder"))


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    with LoopbackHub() as hub:
        yield hub


def run(hub: LoopbackHub, home: Path, *lines: list[str], **env: str) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of command lines, all in one process."""
    done = client(hub, home, CLIS, json.dumps(lines), **env)
    return [tuple(outcome) for outcome in json.loads(done.stdout.splitlines()[-1])]


def writes(hub: LoopbackHub) -> list[str]:
    """The paths of the requests that change something."""
    return [path for method, path in hub.requests if method in ("POST", "PUT", "DELETE", "PATCH")]


def change(folder: Path, value: float) -> None:
    results = json.loads((folder / "results.json").read_text())
    results["evaluations"][0]["metrics"]["Linear top-1"]["value"] = value
    (folder / "results.json").write_text(json.dumps(results))


def uploaded(hub: LoopbackHub, revision: str = "main") -> dict[str, bytes]:
    return {name: data for name, data in hub.files(REPOSITORY, revision).items() if name != ".gitattributes"}


# --- what is uploaded


def test_a_run_is_published_changed_and_tagged(hub: LoopbackHub, finished: Run, folder: Path, tmp_path: Path):
    publish = ["publish", str(folder), REPOSITORY]
    dry = [*publish, "--dry-run", "--out", str(tmp_path / "dry")]
    (dry_code, dry_out, _), first, again = run(
        hub, tmp_path, dry, [*publish, "--tag", "v1.0"], [*publish, "--tag", "v1.0"]
    )
    assert (dry_code, dry_out) == (0, f"{tmp_path / 'dry'}\n")
    _, commit = hub.commits(REPOSITORY)
    pinned = f'hf_hub_id="{REPOSITORY}@{commit}"'
    assert [outcome[:2] for outcome in (first, again)] == [
        (0, f"published; to pin a registered tag to this version, set {pinned}\n")
    ] * 2
    assert hub._repositories[REPOSITORY].tags == {"v1.0": commit} and not hub._repositories[REPOSITORY].private
    assert uploaded(hub) == {path.name: path.read_bytes() for path in (tmp_path / "dry").iterdir()}
    assert sorted(uploaded(hub)) == [
        "README.md", "clusters.png", "config.json", "heads.json", "heads.safetensors", "model.safetensors",
        "recipe.json", "results.json",
    ]  # fmt: skip
    puts = [path for method, path in hub.requests if method == "PUT"]
    assert len(puts) == 2  # the weights, by LFS, once
    assert str(tmp_path) not in str(uploaded(hub)) and str(finished.out) not in str(uploaded(hub))

    change(folder, 0.625)
    taken, other, free = run(hub, tmp_path, [*publish, "--tag", "v1.0"], publish, [*publish, "--tag", "v1.1"])
    assert taken[0] == 1 and "tag 'v1.0' already exists for other files; pass a new tag" in taken[2]
    assert other[0] == free[0] == 0
    assert len(hub.commits(REPOSITORY)) == 3  # none by the first, one by the second, none by the third
    assert hub._repositories[REPOSITORY].tags == {"v1.0": commit, "v1.1": hub.commits(REPOSITORY)[-1]}
    changed = {name for name, data in uploaded(hub).items() if uploaded(hub, commit)[name] != data}
    assert changed == {"README.md", "results.json"} and b"0.625" in uploaded(hub)["README.md"]

    stale, gone = run(hub, tmp_path, [*publish, "--tag", "v1.0"], [*publish, "--private"])
    assert stale[0] == 1 and "tag 'v1.0' already exists" in stale[2]
    assert gone[0] == 1 and "it already exists and is public" in gone[2]
    assert len(hub.commits(REPOSITORY)) == 3


def test_what_a_version_no_longer_has_goes_and_what_others_put_there_stays(hub: LoopbackHub, tmp_path: Path):
    stray = {
        "heads.json": b"{}",
        "heads.safetensors": b"old",
        "old.png": b"",
        "LICENSE": b"theirs",
        "a/b.png": b"theirs",
    }
    hub.put(REPOSITORY, stray)
    save_pretrained(tmp_path / "folder", backbone())
    publish = ["publish", str(tmp_path / "folder"), REPOSITORY, "--license", "mit"]
    (first, again) = run(hub, tmp_path, publish, publish)
    assert first[:2] == again[:2] and first[0] == 0
    assert sorted(uploaded(hub)) == ["LICENSE", "README.md", "a/b.png", "config.json", "model.safetensors"]
    assert len(hub.commits(REPOSITORY)) == 3
    text = uploaded(hub)["README.md"].decode()
    assert "license: mit\n" in text and "The weights are published under mit." in text
    assert json.loads(uploaded(hub)["config.json"])["pretrained_cfg"]["license"] == "mit"
    assert json.loads((tmp_path / "folder" / "config.json").read_text())["pretrained_cfg"]["license"] != "mit"
    assert not (tmp_path / "folder" / "README.md").exists()  # the model's own folder stays as it was


def test_a_private_repository(hub: LoopbackHub, folder: Path, tmp_path: Path):
    outcome = run(hub, tmp_path, ["publish", str(folder), REPOSITORY, "--private"])
    assert outcome[0][0] == 0 and hub._repositories[REPOSITORY].private
    again = run(hub, tmp_path, ["publish", str(folder), REPOSITORY, "--private"])
    assert again[0][:2] == outcome[0][:2]


# --- what can be made of it


def test_what_was_published_is_what_was_trained(hub: LoopbackHub, finished: Run, tmp_path: Path):
    """The card's snippets run, the pinned line works, and pretraining goes on from the very same loss."""
    ((code, out, _),) = run(hub, tmp_path, ["publish", str(finished.out), REPOSITORY])
    pinned = out.partition('hf_hub_id="')[2].partition('"')[0]
    assert code == 0 and pinned == f"{REPOSITORY}@{hub.commits(REPOSITORY)[-1]}"

    pretrainer = finished.pretrainer.train()
    state = {name: tensor.clone() for name, tensor in pretrainer.state_dict().items()}
    g = torch.Generator().manual_seed(0)
    things = torch.rand(8, 4, 1, 1, generator=g) + torch.tensor([2.0, 0.1, 0.25, 0.4])[:, None, None]  # spirographs
    params = torch.stack([pretrainer.objective.plan(1, 1, g) for _ in range(8)])
    sizes = torch.ones(8, 2, dtype=torch.int64)
    terms = pretrainer(Batch([things] * 3, list(params.unbind(1)), torch.arange(8), sizes))
    pretrainer.load_state_dict(state)  # training mode moved its running statistics
    save_file(
        {"things": things, "params": params, **{f"term:{k}": v.detach() for k, v in terms.items()}}, tmp_path / "batch"
    )
    snippets = blocks(uploaded(hub)["README.md"].decode(), "python")
    assert len(snippets) == 3 and all(f'"hf-hub:{REPOSITORY}"' in snippet for snippet in snippets)
    code = """
    import sys
    from pathlib import Path
    for snippet in sys.argv[3:]:
        exec(compile(snippet, "<card>", "exec"), {"__name__": "__main__"})

    import json, star_zoo, timm, torch
    from safetensors.torch import load_file
    from runs import tiny
    from star_training.pretraining.module import build
    from star_training.settings.base import override
    _, pinned, where = sys.argv[:3]
    batch = load_file(Path(where) / "batch")
    torch.manual_seed(123)
    settings = ("run.eval_every=0", "epochs=1", "data.limit=16")
    recipe = tiny(*settings, f"init_from=hf-hub:{pinned}")
    module, notes = build(recipe)
    small = json.dumps({"augmentations": [{"name": "Spirograph", "size": 16}], "mean": [0.1] * 3, "std": [1.0] * 3})
    own = recipe.policy
    assert override(recipe, [f"policy={small}"]).policy != own
    assert override(recipe, [f"policy={small}", f"policy=hf-hub:{pinned}"]).policy.to_dict() == own.to_dict()
    assert notes == [f"backbone from hf-hub:{pinned}", f"heads from hf-hub:{pinned}"]
    params = list(batch["params"].unbind(1))
    sizes = torch.ones(8, 2, dtype=torch.int64)
    terms = module.train()(star_zoo.Batch([batch["things"]] * 3, params, torch.arange(8), sizes))
    assert {f"term:{name}" for name in terms} < batch.keys()
    for name, term in terms.items():
        assert torch.equal(term, batch[f"term:{name}"]), (name, term.item(), batch[f"term:{name}"].item())

    from star_training.cli.main import main
    from runs import command
    start = f"hf-hub:{pinned.partition('@')[0]}"
    raise SystemExit(main(command(Path(where) / "next", "--init-from", start, settings=settings)))
    """
    done = client(hub, tmp_path, code, pinned, str(tmp_path), *snippets)
    assert f"heads from hf-hub:{REPOSITORY}" in done.stdout
    assert exported(tmp_path / "next").keys() == exported(finished.out).keys()
    recipe = json.loads((tmp_path / "next" / "export" / "recipe.json").read_text())
    assert recipe["init_from"] == f"hf-hub:{REPOSITORY}"


def test_a_tag_is_a_start_for_pretraining(hub: LoopbackHub, tmp_path: Path):
    model = timm.create_model("star_resnet18.stl10")
    save_pretrained(tmp_path / "model", model)
    publish = ["publish", str(tmp_path / "model"), "mine/star_resnet18.stl10"]
    assert run(hub, tmp_path, publish)[0][0] == 0
    code = """
    import os, sys, torch, timm
    from safetensors.torch import load_file
    from star_training.settings.base import override
    from star_training.pretraining.module import build
    from star_training.recipes.paper import stl10_resnet18
    module, notes = build(override(stl10_resnet18(), ["init_from=star_resnet18.stl10"]))
    assert notes == ["backbone from star_resnet18.stl10"], notes
    state = load_file(sys.argv[1])
    assert all(torch.equal(tensor, state[name]) for name, tensor in module.backbone.state_dict().items())
    """
    client(hub, tmp_path, code, str(tmp_path / "model" / "model.safetensors"), STAR_ZOO_HUB_ORG="mine")


# --- what is refused before anything is asked


def test_what_is_broken_is_refused_before_anything_is_asked(hub: LoopbackHub, folder: Path, tmp_path: Path):
    def broken(name: str, file: str, data: bytes | None) -> list[str]:
        where = Path(shutil.copytree(folder, tmp_path / name))
        (where / file).unlink()
        if data is not None:
            (where / file).write_bytes(data)
        return ["publish", str(where), REPOSITORY]

    other = tmp_path / "other"
    save_pretrained(other, backbone("test_convnext"))
    lines = [
        broken("no weights", "model.safetensors", None),
        broken("half the weights", "model.safetensors", (folder / "model.safetensors").read_bytes()[:-100]),
        broken("other weights", "model.safetensors", (other / "model.safetensors").read_bytes()),
        broken("no heads", "heads.safetensors", None),
        broken("no heads.json", "heads.json", None),
        broken("other heads", "heads.safetensors", (other / "model.safetensors").read_bytes()),
        broken("other objective", "heads.json", b'{"objective": "../../x"}'),
        broken("config", "config.json", b"{}"),
        broken("recipe", "recipe.json", b"[]"),
        broken("results", "results.json", b'{"evaluations": [{}]}'),
        broken("results cut off", "results.json", b'{"evaluations": ['),
        ["publish", str(tmp_path / "nothing"), REPOSITORY],
        ["publish", REPOSITORY, REPOSITORY],
        *(
            ["publish", str(folder), name]
            for name in ("name", "a/b/c", "../..", "../name", "me/..", "me/a--b", "a b/c", "")
        ),
        ["publish", str(folder), "me/../../../x"],
    ]
    for line, (code, out, error) in zip(lines, run(hub, tmp_path, *lines), strict=True):
        assert (code, out) == (1, ""), line
        assert error.startswith("star-zoo: ") and error.count("\n") == 1 and len(error) < 700, line
    assert [path for _, path in hub.requests if "harness" not in path] == []


def test_a_folder_with_other_things_in_it_is_not_written_to(folder: Path, tmp_path: Path, capsys):
    staged = tmp_path / "staged"
    line = ["publish", str(folder), REPOSITORY, "--dry-run", "--out"]
    assert main([*line, str(staged)]) == 0
    assert main([*line, str(staged)]) == 0  # an earlier one of the same is made anew
    capsys.readouterr()
    shutil.copytree(folder, tmp_path / "model")  # another model's folder, with the very names
    card.write(tmp_path / "model")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "README.md").write_text("mine")
    shutil.copytree(staged, tmp_path / "other")
    shutil.copytree(staged, tmp_path / "more")
    (tmp_path / "more" / "thesis.tex").write_text("mine")
    shutil.copytree(folder, tmp_path / "own")
    card.write(tmp_path / "own", f"hf-hub:{REPOSITORY}")
    outs = {name: [*line, str(tmp_path / name)] for name in ("model", "file", "notes", "more")}
    outs["folder"] = [*line, str(folder)]  # the very folder that is to be published
    outs["other"] = [*line[:2], "me/another", *line[3:], str(tmp_path / "other")]
    outs["own"] = ["publish", str(tmp_path / "own"), REPOSITORY, "--dry-run", "--out", str(tmp_path / "own")]
    for name, words in outs.items():
        place = tmp_path / name
        before = {path: path.read_bytes() for path in [place, *place.rglob("*")] if path.is_file()}
        assert main(words) == 1, name
        assert capsys.readouterr().err.count("\n") == 1
        assert {path: path.read_bytes() for path in [place, *place.rglob("*")] if path.is_file()} == before


def test_without_a_folder_of_its_own_a_dry_run_writes_beside_the_model(folder: Path, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert main(["publish", ".", REPOSITORY, "--dry-run"]) == 0
    beside = folder.with_name("folder-to-publish")
    assert capsys.readouterr().out == f"{beside}\n"
    assert (beside / "README.md").read_text() == card.render(beside, f"hf-hub:{REPOSITORY}")


def test_a_staged_folder_can_be_staged_again(folder: Path, tmp_path: Path):
    """What a dry run wrote, or a download of it, is a folder to publish like any other."""
    first = stage(folder, REPOSITORY, tmp_path / "first")
    second = stage(first, REPOSITORY, tmp_path / "second")
    assert {p.name: p.read_bytes() for p in first.iterdir()} == {p.name: p.read_bytes() for p in second.iterdir()}


# --- when the Hub is not as it should be


def test_what_the_hub_refuses_is_one_line_and_changes_nothing(hub: LoopbackHub, folder: Path, tmp_path: Path):
    publish = ["publish", str(folder), REPOSITORY, "--tag", "v1.0"]

    def fails(outcome: str, **env: str) -> None:
        before = hub.commits(REPOSITORY) if REPOSITORY in hub._repositories else None
        ((code, out, error),) = run(hub, tmp_path, publish, **env)
        error = error.splitlines()[-1]  # before it the client may report its tries
        assert (code, out) == (1, "")
        assert error.startswith(f"star-zoo: {REPOSITORY} could not be published: ") and outcome in error
        assert (hub.commits(REPOSITORY) if REPOSITORY in hub._repositories else None) == before

    fails("401", HF_TOKEN="hf_wrong")
    fails("401", HF_TOKEN="")
    fails("offline", HF_HUB_OFFLINE="1")
    hub.fail = 503
    fails("503")
    hub.fail = None
    hub.stop()
    fails("")
    hub.start()
    assert REPOSITORY not in hub._repositories

    hub.cut_uploads = True
    hub.put(REPOSITORY, {"LICENSE": b"theirs"})
    fails("")
    hub.cut_uploads = False
    hub.fail, hub.fail_at = 503, "/commit/"
    fails("503")
    assert list(uploaded(hub)) == ["LICENSE"]
    hub.fail_at = "/tag/"  # after the commit: the repository is whole, the tag is not there yet
    ((code, _, error),) = run(hub, tmp_path, publish)
    assert code == 1 and "503" in error.splitlines()[-1]
    hub.fail = None
    ((code, out, _),) = run(hub, tmp_path, publish)
    commits = hub.commits(REPOSITORY)
    assert code == 0 and commits[-1] in out and len(commits) == 3  # of creation, of put, of the whole folder
    assert hub._repositories[REPOSITORY].tags == {"v1.0": commits[-1]}
    assert {*uploaded(hub)} >= {"LICENSE", "model.safetensors", "README.md", "heads.safetensors"}


def test_a_card_that_the_hub_does_not_take_is_refused_before_anything_is_made(
    hub: LoopbackHub, folder: Path, tmp_path: Path
):
    hub.fail, hub.fail_at = 400, "/api/validate-yaml"
    ((code, _, error),) = run(hub, tmp_path, ["publish", str(folder), REPOSITORY])
    assert code == 1 and error.count("\n") == 1
    assert writes(hub) == ["/api/validate-yaml"]
