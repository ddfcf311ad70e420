"""The loopback Hub under the real client, and what huggingface_hub itself does where something breaks."""

import hashlib
import http.client
import json
import re
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest
import timm
from timm.models import save_for_hf

from loopback_client import client
from loopback_hub import LoopbackHub
from loopback_repository import GITATTRIBUTES

README = b"---\nlicense: mit\nlibrary_name: timm\n---\n# A model\n"
WEIGHTS = b"".join(hashlib.sha256(bytes([k % 256, k // 256])).digest() for k in range(2**15))  # 1 MiB
FILES = {"README.md": README, "config.json": b"{}", "model.safetensors": WEIGHTS, "sub/notes.txt": b"text"}
PRELUDE = """
import sys, time
from pathlib import Path
from huggingface_hub import HfApi, constants, file_download, hf_hub_download, snapshot_download

api = HfApi()
time.sleep = lambda seconds: None  # so the client's tries follow one another at once

def error(call, *args, **kwargs):
    try:
        return f"no error: {call(*args, **kwargs)}"
    except Exception as raised:
        status = getattr(getattr(raised, "response", None), "status_code", "")
        return f"{type(raised).__name__} {status}".strip()
"""


@pytest.fixture
def hub(capfd: pytest.CaptureFixture[str]) -> Iterator[LoopbackHub]:
    with LoopbackHub() as hub:
        yield hub
    assert capfd.readouterr().err == ""  # whatever breaks, the server keeps quiet


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, data in FILES.items():
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "folder"


def lines(hub: LoopbackHub, home: Path, code: str, *args: str, **env: str) -> list[str]:
    """What the client's code printed."""
    return client(hub, home, PRELUDE + dedent(code), *args, check=True, **env).stdout.splitlines()


def asked(hub: LoopbackHub, pattern: str = "") -> list[str]:
    """The requests since the last call that match, as `METHOD end/of-path`."""
    found = [f"{method} {'/'.join(path.split('/')[-2:])}" for method, path in hub.requests if re.search(pattern, path)]
    hub.requests.clear()
    return found


# --- uploads


def test_a_repository_is_created_filled_tagged_and_changed(hub: LoopbackHub, home: Path, folder: Path):
    code = """
    print(api.create_repo("org/a").repo_id, error(api.create_repo, "org/a"))
    api.create_repo("org/a", exist_ok=True)
    first = api.upload_folder(repo_id="org/a", folder_path=sys.argv[1]).oid
    print(first, api.upload_folder(repo_id="org/a", folder_path=sys.argv[1]).oid == first)
    api.create_tag("org/a", tag="v1")
    print(error(api.create_tag, "org/a", tag="v1"), [tag.name for tag in api.list_repo_refs("org/a").tags])
    second = api.upload_file(repo_id="org/a", path_in_repo="new.bin", path_or_fileobj=b"new").oid
    print(second, api.file_exists("org/a", "new.bin"), api.file_exists("org/a", "new.bin", revision="v1"))
    api.delete_folder("sub", "org/a")
    print(error(api.delete_file, "none.txt", "org/a"))
    info = api.model_info("org/a", revision="v1")
    print(info.sha == first, info.library_name, info.card_data.license, len(info.siblings))
    print(sorted(api.list_repo_files("org/a")))
    print([Path(hf_hub_download("org/a", "README.md", revision=at)).parent.name for at in ("v1", second)])
    """
    printed = lines(hub, home, code, str(folder))
    _, first, second, third = hub.commits("org/a")
    assert printed == [
        "org/a HfHubHTTPError 409",
        f"{first} True",
        "HfHubHTTPError 409 ['v1']",
        f"{second} True False",
        "RemoteEntryNotFoundError 404",
        "True timm mit 5",
        "['.gitattributes', 'README.md', 'config.json', 'model.safetensors', 'new.bin']",
        str([first, second]),
    ]
    assert hub.files("org/a", "v1") == hub.files("org/a", first) == {".gitattributes": GITATTRIBUTES, **FILES}
    assert "sub/notes.txt" not in hub.files("org/a") == hub.files("org/a", third)
    large = [hashlib.sha256(data).hexdigest() for data in (WEIGHTS, b"new")]
    assert asked(hub, "^/lfs/.*[0-9]") == [f"PUT lfs/{oid}" for oid in large]  # each once, and nothing else by LFS


def test_a_commit_on_an_outdated_parent_is_refused(hub: LoopbackHub, home: Path):
    old = hub.put("org/a", {"a.txt": b"1"})
    new = hub.put("org/a", {"a.txt": b"2"})
    code = """
    for parent in sys.argv[1:]:
        print(error(api.upload_file, repo_id="org/a", path_in_repo="a.txt", path_or_fileobj=b"3", parent_commit=parent))
    """
    printed = lines(hub, home, code, old, new)
    assert printed == ["HfHubHTTPError 412", f"no error: {hub.url}/org/a/commit/{hub.commits('org/a')[-1]}"]
    assert hub.files("org/a")["a.txt"] == b"3"


def test_a_cut_off_upload_leaves_the_repository_as_it_was(hub: LoopbackHub, home: Path, folder: Path):
    before = hub.put("org/a", {"config.json": b"old"})
    hub.cut_uploads = True
    code = """print(error(api.upload_folder, repo_id="org/a", folder_path=sys.argv[1]))"""
    assert lines(hub, home, code, str(folder)) == ["RuntimeError"]
    assert hub.commits("org/a")[-1] == before
    assert hub.files("org/a")["config.json"] == b"old"
    assert len(asked(hub, "^/lfs/")) > 1  # the client tries again
    hub.cut_uploads = False
    lines(hub, home, code, str(folder))
    assert hub.commits("org/a")[-2] == before
    assert hub.files("org/a") == {".gitattributes": GITATTRIBUTES, **FILES}


def test_the_metadata_of_a_card_is_checked(hub: LoopbackHub, home: Path):
    hub.put("org/a", {})
    code = """
    for text in (b"---\\ntags: [a\\n---\\n", b"---\\njust text\\n---\\n", b"no metadata", b"---\\ntags: [a]\\n---\\n"):
        print(error(api.upload_file, repo_id="org/a", path_in_repo="README.md", path_or_fileobj=text))
    """
    printed = lines(hub, home, code)
    assert printed[:3] == ["ValueError", "ValueError", "UserWarning"]
    assert printed[3].startswith("no error")
    assert len(hub.commits("org/a")) == 3  # of creation, of put, of the good card


def test_content_that_is_not_what_was_announced_is_refused(hub: LoopbackHub):
    hub.put("org/a", {})
    before = hub.commits("org/a")
    headers = {"Authorization": "Bearer hf_loopback"}
    oid = hashlib.sha256(WEIGHTS).hexdigest()
    never_sent = {"key": "lfsFile", "value": {"path": "model.safetensors", "oid": oid}}
    requests: list[tuple[str, str, str | bytes]] = [
        ("PUT", f"/lfs/{oid}", WEIGHTS[:-1]),
        ("POST", "/lfs/verify", json.dumps({"oid": oid, "size": len(WEIGHTS)})),
        ("POST", "/api/models/org/a/commit/main", json.dumps(never_sent)),
    ]
    connection = http.client.HTTPConnection(hub.url.removeprefix("http://"), timeout=10)
    for method, path, body in requests:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        assert (response.status, b"error" in response.read()) == (400, True), path
    connection.close()
    assert hub.commits("org/a") == before


def test_half_a_commit_is_no_commit(hub: LoopbackHub):
    hub.put("org/a", {})
    before = hub.commits("org/a")
    line = json.dumps({"key": "file", "value": {"path": "a.txt", "content": "YQ=="}}) + "\n"
    request = "POST /api/models/org/a/commit/main HTTP/1.1\r\nAuthorization: Bearer hf_loopback\r\n"
    for rest in (
        f"Content-Length: 999\r\n\r\n{line}",
        f"Transfer-Encoding: chunked\r\n\r\n{len(line):x}\r\n{line}\r\n",
    ):
        with socket.create_connection(("127.0.0.1", int(hub.url.rpartition(":")[2])), timeout=10) as connection:
            connection.sendall((request + rest).encode())
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(1000) == b""
    assert hub.commits("org/a") == before


# --- downloads


def test_what_is_asked_when_files_are_cached(hub: LoopbackHub, home: Path):
    sha = hub.put("org/a", FILES)
    code = """
    for revision in sys.argv[1:]:
        print(Path(hf_hub_download("org/a", "model.safetensors", revision=revision)).parent.name)
    """
    assert lines(hub, home, code, "main") == [sha]
    assert asked(hub, "/resolve/") == ["HEAD main/model.safetensors", "GET main/model.safetensors"]
    assert lines(hub, home, code, "main") == [sha]
    assert asked(hub, "/resolve/") == ["HEAD main/model.safetensors"]
    assert lines(hub, home, code, sha) == [sha]
    assert asked(hub) == []  # nothing at all
    newer = hub.put("org/a", {"config.json": b"new"})
    assert lines(hub, home, code, "main", newer, sha) == [newer, newer, sha]
    assert asked(hub) == ["HEAD main/model.safetensors"]  # the same ETag: a file is only fetched where it changed


def test_a_snapshot(hub: LoopbackHub, home: Path):
    many = {f"part/{k}.bin": bytes([k]) * 1000 for k in range(30)}
    sha = hub.put("org/a", many)
    code = """print(snapshot_download("org/a", allow_patterns=["part/*"], max_workers=8))"""
    snapshot = Path(lines(hub, home, code)[0])
    assert snapshot.name == sha
    assert {str(p.relative_to(snapshot)): p.read_bytes() for p in snapshot.rglob("*.bin")} == many
    assert asked(hub, "/api/models") == ["GET revision/main", f"GET tree/{sha}"]
    assert lines(hub, home, code, HF_HUB_OFFLINE="1") == [str(snapshot)]
    assert asked(hub) == []


@pytest.mark.parametrize("down", ["offline", "503", "stopped"])
def test_without_the_hub_only_cached_files_are_there(hub: LoopbackHub, home: Path, down: str):
    hub.put("org/a", FILES)
    lines(hub, home, """hf_hub_download("org/a", "config.json")""")
    if down == "503":
        hub.fail = 503
    elif down == "stopped":
        hub.stop()
    code = """
    print(Path(hf_hub_download("org/a", "config.json")).read_text())
    print(error(hf_hub_download, "org/a", "model.safetensors"))
    print(error(snapshot_download, "org/b"))
    """
    env = {"HF_HUB_OFFLINE": "1"} if down == "offline" else {}
    assert lines(hub, home, code, **env) == ["{}", "LocalEntryNotFoundError", "LocalEntryNotFoundError"]
    hub.fail = None
    if down == "stopped":
        hub.start()
    assert lines(hub, home, code)[1].startswith("no error")


def test_a_dropped_download_goes_on_where_it_stopped(hub: LoopbackHub, home: Path):
    """By whole chunks of the client, 10 MiB by default: an unfinished chunk is fetched again."""
    hub.put("org/a", FILES)
    hub.drop_after = 700_000
    code = """
    constants.DOWNLOAD_CHUNK_SIZE = int(sys.argv[1])
    original = file_download.http_get
    def http_get(*args, **kwargs):
        print(kwargs.get("resume_size", 0))
        return original(*args, **kwargs)
    file_download.http_get = http_get
    print(hf_hub_download("org/a", "model.safetensors"))
    """
    for chunk, resumed in ((2**16, 10 * 2**16), (10 * 2**20, 0)):
        *starts, path = lines(hub, home / str(chunk), code, str(chunk))
        assert starts == ["0", str(resumed)]
        assert Path(path).read_bytes() == WEIGHTS
        assert asked(hub, "/resolve/")[1:] == ["GET main/model.safetensors"] * 2


def test_a_connection_stays_open_after_an_answer_that_is_not_cut(hub: LoopbackHub):
    """Otherwise a client that reuses it at once may find it closed."""
    hub.put("org/a", {"a.txt": b"0123456789"})
    hub.drop_after = 11
    connection = http.client.HTTPConnection(hub.url.removeprefix("http://"), timeout=10)
    sockets = []
    for _ in range(4):
        connection.request("GET", "/org/a/resolve/main/a.txt")
        assert connection.getresponse().read() == b"0123456789"
        time.sleep(0.05)  # in which the server would close it
        assert connection.sock is not None and not select.select([connection.sock], [], [], 0)[0]
        sockets.append(connection.sock)
    assert len(set(sockets)) == 1
    connection.close()


def test_the_range_of_a_download(hub: LoopbackHub):
    hub.put("org/a", {"a.txt": b"0123456789"})
    connection = http.client.HTTPConnection(hub.url.removeprefix("http://"), timeout=10)
    answers = []
    for asked_for in ("bytes=4-", "bytes=0-99", "bytes=2-3", "bytes=10-", "lines=1-"):
        connection.request("GET", "/org/a/resolve/main/a.txt", headers={"Range": asked_for})
        response = connection.getresponse()
        answers.append((response.status, response.getheader("Content-Range"), response.read()))
    connection.close()
    assert answers[:3] == [
        (206, "bytes 4-9/10", b"456789"),
        (206, "bytes 0-9/10", b"0123456789"),
        (206, "bytes 2-3/10", b"23"),
    ]
    assert answers[3][:2] == (416, "bytes */10")
    assert answers[4] == (200, None, b"0123456789")


def test_a_byte_that_changed_on_the_way_is_not_noticed(hub: LoopbackHub, home: Path):
    """The client compares sizes, never the sha256 that it names the cached file by.

    A corrupted download returns like any other, stays in the cache under the right file's name and is returned from
    then on, offline or not. Whoever needs the right bytes must compare the sha256 of the file with the name of its
    blob, or call `verify_repo_checksums`; `force_download=True` replaces the file.
    """
    hub.put("org/a", FILES)
    hub.corrupt = {"model.safetensors"}
    code = """print(hf_hub_download("org/a", "model.safetensors", force_download=len(sys.argv) > 1))"""
    path = Path(lines(hub, home, code)[0])
    received = path.read_bytes()
    assert [a ^ b for a, b in zip(WEIGHTS, received, strict=True) if a != b] == [1]
    assert path.resolve().name == hashlib.sha256(WEIGHTS).hexdigest() != hashlib.sha256(received).hexdigest()
    hub.corrupt = set()
    assert lines(hub, home, code) == [str(path)]
    assert path.read_bytes() == received
    check = """print([mismatch["path"] for mismatch in api.verify_repo_checksums("org/a").mismatches])"""
    assert lines(hub, home, check) == ["['model.safetensors']"]
    lines(hub, home, code, "again")
    assert path.read_bytes() == WEIGHTS
    assert lines(hub, home, check) == ["[]"]


def test_missing_repositories_and_files_are_distinguished(hub: LoopbackHub, home: Path):
    hub.put("org/a", FILES)
    code = """
    print(error(hf_hub_download, "org/none", "config.json"))
    print(error(hf_hub_download, "org/a", "config.json", revision="none"))
    print(error(hf_hub_download, "org/a", "none.json"))
    print(error(api.model_info, "org/none"), error(api.model_info, "org/a", revision="0" * 40))
    print(error(lambda: list(api.list_repo_tree("org/a", "none"))), api.repo_exists("org/none"))
    print(error(api.upload_file, repo_id="org/none", path_in_repo="a.txt", path_or_fileobj=b""))
    """
    assert lines(hub, home, code) == [
        "RepositoryNotFoundError 404",
        "RevisionNotFoundError 404",
        "RemoteEntryNotFoundError 404",
        "RepositoryNotFoundError 404 RevisionNotFoundError 404",
        "RemoteEntryNotFoundError 404 False",
        "RepositoryNotFoundError 404",
    ]


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_repository(hub: LoopbackHub, home: Path, status: int):
    hub.put("org/a", FILES)
    code = """print(error(hf_hub_download, "org/a", "config.json"), api.model_info("org/a").gated)"""
    hub.gated["org/a"] = status
    assert lines(hub, home, code) == [f"GatedRepoError {status} manual"]
    hub.gated.clear()
    assert lines(hub, home, code)[0].startswith("no error")


def test_a_private_repository_needs_the_token(hub: LoopbackHub, home: Path):
    code = """
    api.create_repo("org/a", private=True)
    api.upload_file(repo_id="org/a", path_in_repo="a.txt", path_or_fileobj=b"a")
    print(Path(hf_hub_download("org/a", "a.txt")).read_text(), api.model_info("org/a").private)
    print(error(api.model_info, "org/a", token="hf_wrong"))
    """
    assert lines(hub, home, code) == ["a True", "HfHubHTTPError 401"]
    code = """
    print(error(hf_hub_download, "org/a", "a.txt"))
    print(error(hf_hub_download, "org/none", "a.txt"))  # which without a token looks the same
    print(error(api.upload_file, repo_id="org/a", path_in_repo="a.txt", path_or_fileobj=b"b"))
    print(error(api.create_repo, "org/b"))
    """
    not_found = "RepositoryNotFoundError 401"
    assert lines(hub, home / "other", code, HF_TOKEN="") == [not_found] * 3 + ["HfHubHTTPError 401"]
    assert hub.files("org/a")["a.txt"] == b"a"


def test_plain_timm_loads_from_the_hub(hub: LoopbackHub, home: Path, tmp_path: Path):
    model = timm.create_model("test_resnet", num_classes=0)
    save_for_hf(model, str(tmp_path / "saved"), safe_serialization=True)
    hub.put("org/name", {path.name: path.read_bytes() for path in (tmp_path / "saved").iterdir()})
    code = """
    import sys, timm, torch
    from safetensors.torch import load_file
    model = timm.create_model("hf-hub:org/name", pretrained=True)
    saved = load_file(sys.argv[1])
    assert saved.keys() == model.state_dict().keys()
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in saved.items())
    print(model.num_classes, [name for name in sys.modules if name.startswith("star_zoo")])
    """
    assert lines(hub, home, code, str(tmp_path / "saved" / "model.safetensors")) == ["0 []"]
    assert re.search("config.json.*model.safetensors", str(asked(hub, "/resolve/")))
