"""Records in a results.json: of their data, added one process at a time, refused before anything is measured."""

import json
import resource
from pathlib import Path

import pytest

from runs import finish, pictures, start
from star_catalog.files import write_json
from star_training.cli.main import main
from star_training.data.eval_sets.dataset import Splits
from star_training.data.eval_sets.names import distinctly_named, ends
from star_training.engine import results
from star_training.evaluation.record import Record, record, record_comparison


def images(folder: Path, size: int = 40) -> Path:
    for split in ("train", "test"):
        pictures(folder / split, 22, size=size)
    return folder


def evaluation(data: str, content: str, protocol: str = "knn") -> Record:
    fingerprint = {"train": f"{content}-train", "test": f"{content}-test"}
    return Record(protocol=protocol, model="m", data=data, data_fingerprint=fingerprint, seed=0)


def names(path: Path) -> list[str]:
    return [r["data"] for r in json.loads(path.read_text())["evaluations"]]


# One process at a time

_TWO = """
import os, sys, pathlib
from star_training.evaluation.record import Record, record

def add(who):
    for number in range(100):
        record(pathlib.Path(sys.argv[1]), Record(protocol="knn", model="m", data=who, seed=number))

first = os.fork()
add("child" if first == 0 else "parent")
if first == 0:
    os._exit(0)
assert os.waitpid(first, 0)[1] == 0
"""


def test_two_processes_that_record_at_once_lose_nothing(tmp_path: Path):
    path = tmp_path / "results.json"
    write_json(path, {"kept": 1})
    code, _, said = finish(start([str(path)], program=("-c", _TWO)))
    assert code == 0, said
    held = json.loads(path.read_text())
    assert {(r["data"], r["seed"]) for r in held["evaluations"]} == {
        (w, n) for w in ("child", "parent") for n in range(100)
    }
    assert held["kept"] == 1 and len(held["evaluations"]) == 200


# What isn't a results.json

BROKEN = [
    b"", b"[]", b"null", b"5", b"\x80", b"{", b"[" * 100_000, b'{"evaluations": 5}', b'{"evaluations": [1]}',
    b'{"evaluations": [{"protocol": "knn"}]}', b'{"comparisons": {}}', b'{"comparisons": [{"model": "m"}]}',
    b'{"evaluations": [{"protocol": "knn", "model": "m", "data": 3, "seed": 0}]}',
    b'{"evaluations": [{"protocol": "knn", "model": "m", "data": "d", "seed": 0, "data_fingerprint": 3}]}',
]  # fmt: skip


@pytest.mark.parametrize("command", [["eval", "knn", "pixels"], ["compare", "pixels", "pixels", "--protocol", "knn"]])
def test_what_is_no_results_file_is_refused_before_anything_is_measured(command: list[str], tmp_path: Path, capsys):
    path = tmp_path / "results.json"
    for content in [*BROKEN, None]:
        if content is None:
            path.unlink()
            path.mkdir()
        else:
            path.write_bytes(content)
        assert main([*command, "--data", str(tmp_path / "not opened"), "--out", str(path)]) == 1
        out, err = capsys.readouterr()
        assert out == "" and err.startswith(f"star-zoo: {path} is not a valid results.json: ") and err.count("\n") == 1
        assert "repair it or move it away" in err
        assert content is None or path.read_bytes() == content


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_measured(tmp_path: Path, capsys):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("/proc/self")  # where nobody may make a file, root neither
    for path in (tmp_path / "file" / "results.json", tmp_path / "link" / "results.json"):
        assert main(["eval", "knn", "pixels", "--data", "nothing", "--out", str(path)]) == 1
        out, err = capsys.readouterr()
        assert out == "" and str(path) in err and err.count("\n") == 1


def test_what_was_measured_is_printed_though_it_cannot_be_recorded(tmp_path: Path, capsys):
    """A limit on the size of files stands for the full disk."""
    data, path = str(images(tmp_path / "images")), tmp_path / "results.json"
    for command in (["eval", "knn", "pixels"], ["compare", "pixels", "pixels", "--protocol", "knn"]):
        write_json(path, {"kept": "x" * 10_000})
        before = path.read_bytes()
        assert main([*command, "--data", data, "--out", str(tmp_path / "other.json")]) == 0  # features are kept now
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        capsys.readouterr()
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
        try:
            assert main([*command, "--data", data, "--out", str(path)]) == 1
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        out, err = capsys.readouterr()
        assert "20-NN top-1" in out and str(path) in err and "File too large" in err
        assert path.read_bytes() == before


# A record is of its data


def test_data_sets_of_one_name_have_records_of_their_own(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    a, b = images(tmp_path / "a" / "images"), images(tmp_path / "b" / "images", size=41)
    together, apart = tmp_path / "together.json", tmp_path / "apart.json"
    for _ in range(2):  # the second time each takes its own place
        assert main(["eval", "knn", "pixels", "--data", str(a), f"{b}/", str(a), "--out", str(together)]) == 0
        assert names(together) == ["a/images", "b/images"]
        for folder in (a, b):
            assert main(["eval", "knn", "pixels", "--data", str(folder), "--out", str(apart)]) == 0
        assert names(apart) == ["images", "b/images"]
    assert f"recorded as b/images, because {apart} holds other data under the name images" in capsys.readouterr().out
    found = [
        {r["data"].split("/")[-1]: r["data_fingerprint"]["test"]} for r in json.loads(apart.read_text())["evaluations"]
    ]
    assert found == [{"images": Splits(str(folder)).test.fingerprint} for folder in (a, b)]
    assert (
        main(
            [
                "compare",
                "pixels",
                "untrained:test_resnet",
                "--protocol",
                "knn",
                "--data",
                str(a),
                str(b),
                "--out",
                str(together),
            ]
        )
        == 0
    )
    (comparison,) = json.loads(together.read_text())["comparisons"]
    assert list(comparison["data_fingerprints"]) == ["a/images", "b/images"]
    assert main(["report", str(together), "--out", str(tmp_path / "report.html")]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "a/images" in page and "b/images" in page
    monkeypatch.chdir(a)
    assert main(["eval", "knn", "pixels", "--data", ".", "--out", str(tmp_path / "here.json")]) == 0
    assert names(tmp_path / "here.json") == ["images"]


def test_names_are_no_longer_than_they_must_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "x" / "a" / "images").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "x" / "a")
    called = {spec: Splits(spec).name for spec in (".", "..", "images/", "../a/images", "images/..")}
    assert called == {".": "a", "..": "x", "images/": "images", "../a/images": "images", "images/..": "a"}
    assert ends("packs/cifar10.parquet")[:2] == ["cifar10", "packs/cifar10"]
    assert ends("hf:owner/set") == ["set", "owner/set"] and ends("torchvision:CIFAR10@/data")[:2] == [
        "CIFAR10",
        "data/CIFAR10",
    ]
    given = ("x/a/images", "y/a/images", "y/b/images", "y/b/other", "pets@/one", "pets@/two", "hf:me/s", "hf:you/s")
    assert [s.name for s in distinctly_named(given)] == [
        "x/a/images", "y/a/images", "b/images", "other", "one/pets", "two/pets", "me/s", "you/s"
    ]  # fmt: skip
    assert [s.name for s in distinctly_named(["images", "./images", str(Path("images").absolute())])] == ["images"]
    assert distinctly_named(["pets@/one", "pets@/two"])[0].per_class  # by whatever name, a set keeps its conventions


def test_a_record_gives_way_to_one_of_the_same_data_alone(tmp_path: Path):
    path = tmp_path / "results.json"
    write_json(
        path, {"evaluations": [{k: v for k, v in evaluation("old", "?").to_dict().items() if k != "data_fingerprint"}]}
    )
    record(path, evaluation("old", "1"))  # an earlier star_zoo's record has no fingerprint
    assert names(path) == ["old"]
    record(path, evaluation("images", "1"), "/a/images")
    record(path, evaluation("images", "2", protocol="linear"), "/b/images")  # another table, yet other data
    record(path, evaluation("images", "1", protocol="linear"), "/a/images")
    assert names(path) == ["old", "images", "b/images", "images"]
    record(path, evaluation("images", "3"), "/a/images")
    record(path, evaluation("images", "4"), "/a/images")  # the path has no more names
    record(path, evaluation("images", "4"), "/a/images")
    assert names(path)[4:] == ["a/images", "images 4-train-4-test"]
    record(path, evaluation("a/images", "1"), "/a/images")  # its command has another name for the same data
    assert len(names(path)) == 6 and names(path)[-1] != "images"
    record(path, evaluation("images", "5", protocol="detection"), "/b/images")  # whose fingerprints are of boxes
    assert names(path)[-1] == "images"


def test_a_comparison_gives_way_to_one_of_the_same_data_alone(tmp_path: Path):
    path = tmp_path / "results.json"

    def comparison(content: str, **changes: object) -> dict:
        prints = {"images": {"test": content}, "other": {"test": "other"}}
        numbers = {"first": 0.5, "second": 0.4, "difference": {"value": 0.1, "low": 0.0, "high": 0.2}}
        rows = [{"metric": "20-NN top-1", "data": name, **numbers} for name in (*prints, "mean of all")]
        return {
            "model": "m",
            "other": "o",
            "seed": 0,
            "protocols": ["knn"],
            "data_fingerprints": prints,
            "rows": rows,
        } | changes

    record(path, evaluation("images", "0"), "/z/images")
    for made in (comparison("1"), comparison("2"), comparison("1"), comparison("1", protocols=["linear"])):
        record_comparison(path, made, ["/b/images", "/b/other"])
    held = results.read(path)["comparisons"]
    comparisons = [(c["protocols"], c["data_fingerprints"], [row["data"] for row in c["rows"]]) for c in held]
    other = {"other": {"test": "other"}}
    one, two = {"b/images": {"test": "1"}} | other, {"images 2": {"test": "2"}} | other  # the path has no more names
    mean = "mean of all"
    assert comparisons == [
        (["knn"], two, [*two, mean]), (["knn"], one, [*one, mean]), (["linear"], one, [*one, mean])
    ]  # fmt: skip
