"""Names, folders and networks that aren't there: one line with the way out, and nothing is left behind."""

import shutil
import threading
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants

from runs import command, exported, pictures
from star_catalog import store, zoo
from star_catalog.files import user_path
from star_training.cli.main import main
from star_training.models.create import create
from star_training.pretraining.run import Run
from star_training.publishing import upload
from star_training.reports.loading import gather
from star_zoo import install, load_objective, save_pretrained
from twins import backbone

MODEL = zoo.EMBEDDED / "star_resnet10t.cifar10"


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that a refused command says, without its beginning."""
    assert main([str(argument) for argument in arguments]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("star-zoo: ") and "unexpected" not in line
    return line.removeprefix("star-zoo: ")


@pytest.mark.parametrize("name", ["runs/nowhere", "./nowhere", "~/nowhere", "a/b/c", "local-dir:nowhere"])
def test_a_path_to_nothing_is_not_looked_up_on_the_hub(name: str, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for words in (["eval", "knn", name, "--data", "x"], ["finetune", name, "--data", "x"]):
        assert f"{name!r} doesn't exist; pass a run" in refusal(capsys, *words)
    assert f"{name!r} is no folder on this machine; pass a run" in refusal(capsys, "card", name)
    assert list(tmp_path.iterdir()) == []


def test_a_model_of_the_hub_where_a_folder_is_needed(capsys):
    for words in (["card", "hf-hub:me/a"], ["install", "hf-hub:me/a@v1", "star_resnet10t.mine"], ["report", "me/a"]):
        line = refusal(capsys, *words)
        source = {"hf-hub:me/a": "me/a", "hf-hub:me/a@v1": "me/a --revision v1"}.get(words[1], "OWNER/NAME")
        way_out = f"which `hf download {source} --local-dir FOLDER` gets from the Hub"
        assert line == f"{words[1]!r} is no folder on this machine; pass a run or a saved folder, {way_out}"


def test_an_unknown_tag_lists_the_known_ones_of_its_architecture(capsys):
    said = (
        "tag 'star_resnet10t.cifar11' not found; did you mean 'star_resnet10t.cifar10'? known: star_resnet10t.cifar10, "
    )
    assert said in refusal(capsys, "card", "star_resnet10t.cifar11")
    for make in (load_objective, lambda name: timm.create_model(name, pretrained=True)):
        with pytest.raises(ValueError, match="did you mean 'star_resnet10t.cifar10'"):
            make("star_resnet10t.cifar11")
    said = "model 'resnett18' can't be loaded: 'resnett18' is no timm model; did you mean 'resnet18' or "
    assert said in refusal(capsys, "eval", "knn", "resnett18", "--data", "x")


def test_the_hub_is_tried_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tried = []
    zoo.check_reachable()  # offline, as in all tests: nothing is tried, and nothing remembered

    class Session:
        def head(self, url: str, **_: object) -> None:
            tried.append(url)
            raise RuntimeError("no route\nto host")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.utils.get_session", Session)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    said = f"in the cache, and the Hub can't be reached .no route to host.; {zoo.WAY_OUT}"
    with pytest.raises(zoo.NotAvailable, match=f"model.safetensors of owner/name is not {said}$"):
        zoo.fetch(zoo.Repository("owner/name"), "model.safetensors")
    assert tried == [constants.ENDPOINT] * 2
    with pytest.raises(ValueError, match=f"the weights of resnet26 are not {said}, or untrained:resnet26"):
        create("resnet26")
    with pytest.raises(zoo.NotAvailable) as raised:
        timm.create_model("star_resnet50.in100", pretrained=True)
    assert "can't be reached (no route to host). Ways out: train it" in str(raised.value)
    model = shutil.copytree(MODEL, tmp_path / "model")
    (model / "README.md").write_text("---\nlicense: mit\n---\n")
    monkeypatch.setattr(upload.ModelCard, "validate", lambda card: Session().head("validate"))
    with pytest.raises(OSError, match=r"^me/a could not be published: the Hub can't be reached .*; try again with a n"):
        upload.publish(model, "me/a")


def test_a_home_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """That of `--out` of each command is so by test_unwritable, that of data by test_places."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert user_path("~/a") == tmp_path / "a" and user_path("~nobody-here/a") == Path("~nobody-here/a")
    shutil.copytree(MODEL, tmp_path / "model")
    assert main(["publish", "~/model", "me/star", "--dry-run", "--out", "~/staged"]) == 0
    assert install("~/model", "star_resnet10t.mine") == store.place("star_resnet10t.mine")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "staged"]
    (tmp_path / "model" / "log.jsonl").write_text('{"step": 1, "loss": 0.5}\n')
    assert main(["curves", "~/model"]) == 0
    assert [shown.label for shown in gather(["~/model", "~/model/results.json"])] == ["model", MODEL.name]
    assert save_pretrained("~/saved", backbone()) == tmp_path / "saved"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "saved", "staged"]


def test_the_recipe_for_own_images_asks_for_them(tmp_path: Path, capsys):
    line = refusal(capsys, "pretrain", "folder", "--out", tmp_path / "run")
    assert line == "the recipe folder has no images of its own; pass yours (--data path/to/images, data=...)"
    assert not (tmp_path / "run").exists()


def test_a_new_classifier_may_be_asked_for_in_the_overlay():
    """As by the argument: the weights have none."""
    made = [
        timm.create_model("star_resnet10t", pretrained=True, **given).state_dict()
        for given in ({"pretrained_cfg_overlay": {"num_classes": 7}}, {"num_classes": 7})
    ]
    assert made[0]["fc.weight"].shape == (7, 512)
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0] if not name.startswith("fc."))


@pytest.mark.parametrize("size", [0, 100, 10_000])
def test_weights_cut_short(size: int, tmp_path: Path, capsys):
    folder = Path(shutil.copytree(MODEL, tmp_path / "model"))
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:size])
    data = pictures(tmp_path / "images", 8)
    broken = f"{folder / 'model.safetensors'} is not an intact safetensors file: "
    tuning = ["finetune", folder, "--set", "batch_size=6", "--set", "views.size=32"]
    for words in (["eval", "knn", folder], ["compare", folder, "pixels"], tuning):
        assert f"model '{folder}' can't be loaded: {broken}" in refusal(capsys, *words, "--data", data)
    assert broken in refusal(capsys, "convert", folder, "--to-released", tmp_path / "new.pth")
    assert broken in refusal(capsys, "install", folder, "star_resnet10t.mine")
    assert not (tmp_path / "new.pth").exists()


def test_a_cache_that_cannot_be_written_is_noted_once(tmp_path: Path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("STAR_ZOO_HOME", str(tmp_path / "file"))
    data = pictures(tmp_path / "images", 20)
    words = ["eval", "all", "pixels", "--protocols", "knn", "--data", str(data), "--out", str(tmp_path / "r.json")]
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert "1-NN top-1" in out and (tmp_path / "r.json").is_file()
    assert err.count(f"nothing is cached in {tmp_path / 'file'}, because it can't be written") == 1


def test_a_run_in_another_thread(tmp_path: Path):
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(main(command(tmp_path / "run", settings=("epochs=1",)))))
    thread.start()
    thread.join()
    assert codes == [0] and exported(tmp_path / "run")


def test_a_model_that_cannot_be_saved_is_found_before_the_first_step(tmp_path: Path, monkeypatch, capsys):
    def broken(*_: object, **__: object) -> None:
        raise TypeError("not saved")

    with monkeypatch.context() as patch:
        patch.setattr("star_training.pretraining.run.save_pretrained", broken)
        patch.setattr(Run, "_train_step", broken)
        line = refusal(capsys, *command(tmp_path / "run"))
        assert line == "the model could be trained, but not saved: not saved"
    assert not (tmp_path / "run" / "recipe.json").exists()  # which would keep the next try out
