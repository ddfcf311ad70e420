"""A Hugging Face Hub on loopback: the real client uploads to it and downloads from it, over HTTP.

It serves model repositories out of memory, each with the one branch main: create, commit (large files by LFS), tag,
list, download. Status codes and headers are the real Hub's, as is the first commit that holds .gitattributes.
huggingface_hub reads its environment once, when it is imported, so a test talks to the hub by `client`, a process of
its own.
"""

import base64
import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

ROOT = Path(__file__).parents[1]
TOKEN = "hf_loopback"  # the only one that the hub knows; it may do everything
USER = "tester"  # whose it is
CLIENTS_OWN = "ignore:Use 'content=:DeprecationWarning"  # a warning about how huggingface_hub itself sends large files
LARGE = (".safetensors", ".bin", ".pt", ".pth", ".npy", ".npz", ".parquet", ".zip", ".tar", ".gz")
GITATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LARGE).encode()


class LoopbackHub:
    """The server and its faults; `with LoopbackHub() as hub:` starts and stops it."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[tuple[str, str]] = []  # method, path without its query; everything asked, in order
        # the faults, none of them on: a test sets them at any time
        self.fail: int | None = None  # every request is answered with this status
        self.gated: dict[str, int] = {}  # repository -> 401 or 403, the answer to every download from it
        self.drop_after: int | None = None  # the connection ends after so many bytes of a file, at every other download
        self.corrupt: set[str] = set()  # files in which one byte changes on the way; size and ETag stay as they were
        self.cut_uploads = False  # the connection ends while a large file is being received

        self._repositories: dict[str, _Repository] = {}
        self._large: dict[str, bytes] = {}  # by sha256: what was received, of whatever repository
        self._dropped: set[str] = set()  # paths of which the next download is left whole
        self._lock = threading.RLock()  # whoever reads or changes any of the above holds it
        self._server: _Server | None = None
        self._port = 0

    def start(self) -> "LoopbackHub":
        """Listens; after a stop, on the same port again."""
        self._server = _Server(("127.0.0.1", self._port), self)
        self._port = self._server.server_port
        self.url = f"http://127.0.0.1:{self._port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def stop(self) -> None:
        """Refuses connections from now on, and ends those that clients keep open."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    __enter__ = start

    def __exit__(self, *_: object) -> None:
        self.stop()

    def env(self, home: Path) -> dict[str, str]:
        """What a process needs to take this for the Hub, with its cache in `home`."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_TOKEN": TOKEN,
            "HF_HUB_DISABLE_XET": "1",  # which knows no plain HTTP upload
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "no_proxy": "127.0.0.1",
        }

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """Every file of a repository at a revision."""
        with self._lock:
            repository = self._repositories[repo_id]
            return dict(repository.commits[repository.sha(revision)])

    def commits(self, repo_id: str) -> list[str]:
        """The shas on main, oldest first."""
        with self._lock:
            return list(self._repositories[repo_id].commits)

    def put(self, repo_id: str, files: Mapping[str, bytes]) -> str:
        """Adds files in a commit, without HTTP, to a repository that is created if there is none; gives the sha."""
        with self._lock:
            repository = self._repositories.setdefault(repo_id, _Repository(repo_id))
            return repository.commit({**repository.commits[repository.head], **files})


def client(
    hub: LoopbackHub, home: Path, code: str, *args: str, check: bool = True, **env: str
) -> subprocess.CompletedProcess[str]:
    """Runs code in a process for which `hub` is the Hub and warnings are errors; with `check`, it must succeed."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", CLIENTS_OWN, "-c", textwrap.dedent(code), *args],
        cwd=ROOT,
        env=inherited | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | hub.env(home) | env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert not check or done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


# --- what is stored


class _Repository:
    def __init__(self, repo_id: str, private: bool = False) -> None:
        self.id = repo_id
        self.private = private
        self.tags: dict[str, str] = {}
        self.commits: dict[str, dict[str, bytes]] = {}  # sha -> every file; oldest first
        self.commit({".gitattributes": GITATTRIBUTES})

    @property
    def head(self) -> str:
        return list(self.commits)[-1]

    def commit(self, files: dict[str, bytes]) -> str:
        """All or nothing: the new files take the place of the old in one assignment."""
        listing = [self.id, *self.commits, *(f"{path} {_oid(path, data)}" for path, data in sorted(files.items()))]
        sha = hashlib.sha1("\n".join(listing).encode()).hexdigest()
        self.commits[sha] = files
        return sha

    def sha(self, revision: str) -> str:
        sha = {"main": self.head, **self.tags}.get(revision, revision)
        if sha not in self.commits:
            raise _Refused(404, "RevisionNotFound")
        return sha


def _is_large(path: str, size: int) -> bool:
    return size > 0 and (path.endswith(LARGE) or size > 10 * 2**20)  # the client never sends an empty file by LFS


def _oid(path: str, data: bytes) -> str:
    """What the Hub tells of a file's content: the sha256 of a large file, git's sha1 of any other."""
    if _is_large(path, len(data)):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _card(text: str) -> dict[str, Any]:
    """The metadata on top of a README; raises ValueError where it is no YAML mapping."""
    front = re.match(r"---\r?\n(.*?)^---\s*$", text, re.DOTALL | re.MULTILINE)
    try:
        import yaml
    except ImportError:
        return {}
    try:
        data = yaml.safe_load(front[1]) if front else {}
    except yaml.YAMLError as error:
        raise ValueError(f"bad YAML: {error}") from error
    if not isinstance(data or {}, dict):
        raise ValueError("the metadata is no mapping")
    return data or {}


# --- HTTP


@dataclass
class _Answer:
    content: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None  # the connection ends after so many bytes of the content


def _json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> _Answer:
    return _Answer(json.dumps(value).encode(), status, {"Content-Type": "application/json", **(headers or {})})


class _Refused(Exception):
    """An answer that is not 200; its code tells the client which of its errors to raise."""

    def __init__(self, status: int, code: str = "", message: str = "", /, **headers: str) -> None:
        super().__init__(status, code, message)
        told = {"X-Error-Code": code, "X-Error-Message": message, **headers}
        self.answer = _json({"error": message or code}, status, told)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], hub: LoopbackHub) -> None:
        self.hub = hub
        self.connections: set[Any] = set()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.connections.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        super().server_close()
        for connection in list(self.connections):
            with contextlib.suppress(OSError):  # where the client was first
                connection.shutdown(2)  # its thread reads the end, and closes it

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # a client may go away; anything else is a fault of ours
            super().handle_error(request, client_address)


Endpoint = Callable[..., Any]  # gives an _Answer, or what is answered as JSON
ROUTES: list[tuple[str, str, Endpoint]] = []
REPO, REVISION, PATH = r"/(?P<repo_id>[^/]+/[^/]+)", r"/(?P<revision>[^/]+)", r"/(?P<path>.+)"


def _route(methods: str, path: str) -> Callable[[Endpoint], Endpoint]:
    def register(endpoint: Endpoint) -> Endpoint:
        ROUTES.append((methods, path, endpoint))
        return endpoint

    return register


class _Handler(BaseHTTPRequestHandler):
    """A connection. What is sent and received is so outside the lock; an endpoint holds the lock and only computes."""

    protocol_version = "HTTP/1.1"  # connections are kept, as the real Hub does
    disable_nagle_algorithm = True  # header and body are two writes
    server: _Server
    body: bytes

    def log_message(self, *_: Any) -> None:
        pass

    def _serve(self) -> None:
        hub = self.server.hub
        with hub._lock:
            hub.requests.append((self.command, urlsplit(self.path).path))
        if hub.cut_uploads and self.command == "PUT":
            self.rfile.read1(2**16)
            self.close_connection = True
            return
        self.body = self._received()
        try:
            with hub._lock:
                answer = self._answer()
        except _Refused as refused:
            answer = refused.answer
        self.send_response(answer.status)
        for name, value in {"Content-Length": str(len(answer.content)), **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.content[: answer.cut])
        self.close_connection |= answer.cut is not None

    do_GET = do_HEAD = do_POST = do_PUT = _serve

    def _received(self) -> bytes:
        """The body, whole: of half a request nothing must remain."""
        size = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(size)
        if len(body) < size:
            raise ConnectionError("the client went away")
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline() or b"0", 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            if not self.rfile.readline():
                raise ConnectionError("the client went away")
        return body

    def _answer(self) -> _Answer:
        if self.server.hub.fail:
            raise _Refused(self.server.hub.fail, "", "the Hub is down")
        for methods, path, endpoint in ROUTES:
            found = re.fullmatch(path, urlsplit(self.path).path)
            if found and self.command in methods.split():
                answer = endpoint(self, **{k: unquote(v) for k, v in found.groupdict().items() if v is not None})
                return answer if isinstance(answer, _Answer) else _json(answer)
        raise _Refused(404, "", f"no endpoint {self.command} {self.path}")

    def _signed_in(self) -> bool:
        given = self.headers.get("Authorization")
        if given not in (None, f"Bearer {TOKEN}"):
            raise _Refused(401, "", "Invalid credentials in Authorization header")
        return given is not None

    def _repository(self, repo_id: str, write: bool = False) -> _Repository:
        repository = self.server.hub._repositories.get(repo_id)
        signed_in = self._signed_in()
        if repository is None or ((repository.private or write) and not signed_in):
            raise _Refused(404 if signed_in else 401, "RepoNotFound")
        return repository

    # --- uploads

    @_route("POST", "/api/repos/create")
    def _create(self) -> Any:
        hub, wanted = self.server.hub, json.loads(self.body)
        if not self._signed_in():
            raise _Refused(401, "", "Invalid username or password.")
        repo_id = f"{wanted['organization'] or USER}/{wanted['name']}"
        url = f"{hub.url}/{repo_id}"
        if repo_id in hub._repositories:
            return _json({"error": "You already created this model repo", "url": url}, 409)
        private = wanted.get("private", False) or wanted.get("visibility") == "private"
        hub._repositories[repo_id] = _Repository(repo_id, private)
        return {"url": url}

    @_route("POST", "/api/validate-yaml")
    def _validate(self) -> Any:
        try:
            card = _card(json.loads(self.body)["content"])
        except ValueError as error:
            return _json({"errors": [{"message": str(error)}], "warnings": []}, 400)
        return {"errors": [], "warnings": [] if card else [{"message": "empty or missing yaml metadata in repo card"}]}

    @_route("POST", f"/api/models{REPO}/preupload{REVISION}")
    def _preupload(self, repo_id: str, revision: str) -> Any:
        repository = self._repository(repo_id, write=True)
        present = repository.commits[repository.sha(revision)]
        files = []
        for file in json.loads(self.body)["files"]:
            path = file["path"]
            mode = "lfs" if _is_large(path, file["size"]) else "regular"
            oid = {"oid": _oid(path, present[path])} if path in present else {}
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, **oid})
        return {"files": files}

    @_route("POST", rf"{REPO}\.git/info/lfs/objects/batch")
    def _batch(self, repo_id: str) -> Any:
        hub = self.server.hub
        self._repository(repo_id, write=True)
        objects = json.loads(self.body)["objects"]
        for wanted in objects:
            if wanted["oid"] not in hub._large:
                upload, verify = f"{hub.url}/lfs/{wanted['oid']}", f"{hub.url}/lfs/verify"
                wanted["actions"] = {"upload": {"href": upload, "header": {}}, "verify": {"href": verify}}
        return {"transfer": "basic", "objects": objects}

    @_route("PUT", "/lfs/(?P<oid>[0-9a-f]{64})")
    def _put_large(self, oid: str) -> Any:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise _Refused(400, "", "what was received has another sha256")
        self.server.hub._large[oid] = self.body
        return {}

    @_route("POST", "/lfs/verify")
    def _verify(self) -> Any:
        wanted = json.loads(self.body)
        if len(self.server.hub._large.get(wanted["oid"], b"")) != wanted["size"]:
            raise _Refused(400, "", "what was received has another size")
        return {}

    @_route("POST", f"/api/models{REPO}/commit{REVISION}")
    def _commit(self, repo_id: str, revision: str) -> Any:
        repository = self._repository(repo_id, write=True)
        if revision != "main":
            raise _Refused(404, "RevisionNotFound")
        files = dict(repository.commits[repository.head])
        for entry in map(json.loads, self.body.splitlines()):
            if entry["key"] == "header":
                if not repository.head.startswith(entry["value"].get("parentCommit", "")):
                    raise _Refused(412, "", "A commit has happened since. Please refresh and try again.")
            else:
                self._change(files, entry["key"], **entry["value"])
        sha = repository.commit(files)
        return {"success": True, "commitOid": sha, "commitUrl": f"{self.server.hub.url}/{repo_id}/commit/{sha}"}

    def _change(self, files: dict[str, bytes], key: str, path: str, oid: str = "", content: str = "", **_: Any) -> None:
        if key == "file":
            files[path] = base64.b64decode(content, validate=True)
        elif key == "lfsFile":
            if oid not in self.server.hub._large:
                raise _Refused(400, "", f"{path} was never uploaded")
            files[path] = self.server.hub._large[oid]
        else:  # deletedFile, deletedFolder
            gone = [p for p in files if p == path or (key == "deletedFolder" and p.startswith(path.rstrip("/") + "/"))]
            if not gone:
                raise _Refused(404, "EntryNotFound", "A file with this name doesn't exist")
            for p in gone:
                del files[p]

    @_route("POST", f"/api/models{REPO}/tag{REVISION}")
    def _tag(self, repo_id: str, revision: str) -> Any:
        repository = self._repository(repo_id, write=True)
        tag, sha = json.loads(self.body)["tag"], repository.sha(revision)
        if tag in repository.tags:
            raise _Refused(409, "", "Tag already exists")
        repository.tags[tag] = sha
        return {}

    # --- downloads

    @_route("GET", "/api/agent-harnesses")
    def _harnesses(self) -> Any:
        return {"standardEnvVars": [], "harnesses": {}}  # with this the client asks once in a cache's life

    @_route("GET", f"/api/models{REPO}(/revision{REVISION})?")
    def _info(self, repo_id: str, revision: str = "main") -> Any:
        repository = self._repository(repo_id)
        sha = repository.sha(revision)
        files = repository.commits[sha]
        card: dict[str, Any] = {}
        with contextlib.suppress(ValueError):  # a README that came by `put` was never checked
            card = _card(files.get("README.md", b"").decode())
        return {
            "id": repo_id,
            "sha": sha,
            "private": repository.private,
            "gated": repo_id in self.server.hub.gated and "manual",
            "siblings": [{"rfilename": name} for name in files],
            "cardData": card,
            **{k: card[k] for k in ("library_name", "model-index", "pipeline_tag", "tags") if k in card},
        }

    @_route("GET", f"/api/models{REPO}/refs")
    def _refs(self, repo_id: str) -> Any:
        repository = self._repository(repo_id)
        tags = [{"name": k, "ref": f"refs/tags/{k}", "targetCommit": sha} for k, sha in repository.tags.items()]
        main = {"name": "main", "ref": "refs/heads/main", "targetCommit": repository.head}
        return {"branches": [main], "converts": [], "tags": tags}

    @_route("GET", f"/api/models{REPO}/tree{REVISION}({PATH})?")
    def _tree(self, repo_id: str, revision: str, path: str = "") -> Any:
        repository = self._repository(repo_id)
        recursive = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() == "true"
        folder = path and path.rstrip("/") + "/"
        files = {p: d for p, d in repository.commits[repository.sha(revision)].items() if p.startswith(folder)}
        if not files:
            raise _Refused(404, "EntryNotFound")
        listed: dict[str, Any] = {}
        for p, data in sorted(files.items()):
            name, *below = p.removeprefix(folder).split("/")
            if below and not recursive:
                oid = hashlib.sha1(p.encode()).hexdigest()
                listed[name] = {"type": "directory", "path": folder + name, "size": 0, "oid": oid}
                continue
            listed[p] = {"type": "file", "path": p, "size": len(data), "oid": _oid(p, data)}
            if _is_large(p, len(data)):
                listed[p]["lfs"] = {"oid": _oid(p, data), "size": len(data), "pointerSize": 130}
        return list(listed.values())

    @_route("GET HEAD", f"{REPO}/resolve{REVISION}{PATH}")
    def _resolve(self, repo_id: str, revision: str, path: str) -> Any:
        hub, repository = self.server.hub, self._repository(repo_id)
        if repo_id in hub.gated:
            raise _Refused(hub.gated[repo_id], "GatedRepo", f"Access to model {repo_id} is restricted")
        sha = repository.sha(revision)
        if path not in repository.commits[sha]:
            raise _Refused(404, "EntryNotFound", **{"X-Repo-Commit": sha})
        data = repository.commits[sha][path]
        etag, size, middle = f'"{_oid(path, data)}"', len(data), len(data) // 2
        headers = {"X-Repo-Commit": sha, "ETag": etag, "Accept-Ranges": "bytes"}
        if _is_large(path, size):
            headers |= {"X-Linked-Etag": etag, "X-Linked-Size": str(size)}
        if path in hub.corrupt:
            data = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        answer = _Answer(data, headers=headers)
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(asked[1]), min(int(asked[2] or size), size - 1)
            if first >= size:
                raise _Refused(416, **{"Content-Range": f"bytes */{size}"})
            headers["Content-Range"] = f"bytes {first}-{last}/{size}"
            answer.content, answer.status = data[first : last + 1], 206
        if hub.drop_after is not None and self.command == "GET":
            hub._dropped ^= {self.path}
            answer.cut = hub.drop_after if self.path in hub._dropped else None
        return answer
