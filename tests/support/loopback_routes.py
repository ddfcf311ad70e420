"""The loopback Hub's endpoints: what the client asks for, by path. Importing this file makes the server answer it."""

import base64
import contextlib
import hashlib
import json
import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

from loopback_http import USER, Answer, Handler, Refused, as_json, route
from loopback_repository import Repository, file_oid, is_large, read_card

REPO, REVISION, PATH = r"/(?P<repo_id>[^/]+/[^/]+)", r"/(?P<revision>[^/]+)", r"/(?P<path>.+)"


def _sha(repository: Repository, revision: str) -> str:
    try:
        return repository.sha(revision)
    except KeyError:
        raise Refused(404, "RevisionNotFound") from None


# --- uploads


@route("POST", "/api/repos/create")
def _create(request: Handler) -> Any:
    hub, wanted = request.server.hub, json.loads(request.body)
    if not request.signed_in():
        raise Refused(401, "", "Invalid username or password.")
    repo_id = f"{wanted['organization'] or USER}/{wanted['name']}"
    url = f"{hub.url}/{repo_id}"
    if repo_id in hub._repositories:
        return as_json({"error": "You already created this model repo", "url": url}, 409)
    private = wanted.get("private", False) or wanted.get("visibility") == "private"
    hub._repositories[repo_id] = Repository(repo_id, private)
    return {"url": url}


@route("POST", "/api/validate-yaml")
def _validate(request: Handler) -> Any:
    try:
        card = read_card(json.loads(request.body)["content"])
    except ValueError as error:
        return as_json({"errors": [{"message": str(error)}], "warnings": []}, 400)
    return {"errors": [], "warnings": [] if card else [{"message": "empty or missing yaml metadata in repo card"}]}


@route("POST", f"/api/models{REPO}/preupload{REVISION}")
def _preupload(request: Handler, repo_id: str, revision: str) -> Any:
    repository = request.repository(repo_id, write=True)
    present = repository.commits[_sha(repository, revision)]
    files = []
    for file in json.loads(request.body)["files"]:
        path = file["path"]
        mode = "lfs" if is_large(path, file["size"]) else "regular"
        oid = {"oid": file_oid(path, present[path])} if path in present else {}
        files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, **oid})
    return {"files": files}


@route("POST", rf"{REPO}\.git/info/lfs/objects/batch")
def _batch(request: Handler, repo_id: str) -> Any:
    hub = request.server.hub
    request.repository(repo_id, write=True)
    objects = json.loads(request.body)["objects"]
    for wanted in objects:
        if wanted["oid"] not in hub._large:
            upload, verify = f"{hub.url}/lfs/{wanted['oid']}", f"{hub.url}/lfs/verify"
            wanted["actions"] = {"upload": {"href": upload, "header": {}}, "verify": {"href": verify}}
    return {"transfer": "basic", "objects": objects}


@route("PUT", "/lfs/(?P<oid>[0-9a-f]{64})")
def _put_large(request: Handler, oid: str) -> Any:
    if hashlib.sha256(request.body).hexdigest() != oid:
        raise Refused(400, "", "what was received has another sha256")
    request.server.hub._large[oid] = request.body
    return {}


@route("POST", "/lfs/verify")
def _verify(request: Handler) -> Any:
    wanted = json.loads(request.body)
    if len(request.server.hub._large.get(wanted["oid"], b"")) != wanted["size"]:
        raise Refused(400, "", "what was received has another size")
    return {}


@route("POST", f"/api/models{REPO}/commit{REVISION}")
def _commit(request: Handler, repo_id: str, revision: str) -> Any:
    repository = request.repository(repo_id, write=True)
    if revision != "main":
        raise Refused(404, "RevisionNotFound")
    files = dict(repository.commits[repository.head])
    for entry in map(json.loads, request.body.splitlines()):
        if entry["key"] == "header":
            if not repository.head.startswith(entry["value"].get("parentCommit", "")):
                raise Refused(412, "", "A commit has happened since. Please refresh and try again.")
        else:
            _change(request.server.hub, files, entry["key"], **entry["value"])
    sha = repository.commit(files)
    return {"success": True, "commitOid": sha, "commitUrl": f"{request.server.hub.url}/{repo_id}/commit/{sha}"}


def _change(hub: Any, files: dict[str, bytes], key: str, path: str, oid: str = "", content: str = "", **_: Any) -> None:
    if key == "file":
        files[path] = base64.b64decode(content, validate=True)
    elif key == "lfsFile":
        if oid not in hub._large:
            raise Refused(400, "", f"{path} was never uploaded")
        files[path] = hub._large[oid]
    else:  # deletedFile, deletedFolder
        gone = [p for p in files if p == path or (key == "deletedFolder" and p.startswith(path.rstrip("/") + "/"))]
        if not gone:
            raise Refused(404, "EntryNotFound", "A file with this name doesn't exist")
        for p in gone:
            del files[p]


@route("POST", f"/api/models{REPO}/tag{REVISION}")
def _tag(request: Handler, repo_id: str, revision: str) -> Any:
    repository = request.repository(repo_id, write=True)
    tag, sha = json.loads(request.body)["tag"], _sha(repository, revision)
    if tag in repository.tags:
        raise Refused(409, "", "Tag already exists")
    repository.tags[tag] = sha
    return {}


# --- downloads


@route("GET", "/api/agent-harnesses")
def _harnesses(request: Handler) -> Any:
    return {"standardEnvVars": [], "harnesses": {}}  # with this the client asks once in a cache's life


@route("GET", f"/api/models{REPO}(/revision{REVISION})?")
def _info(request: Handler, repo_id: str, revision: str = "main") -> Any:
    repository = request.repository(repo_id)
    sha = _sha(repository, revision)
    files = repository.commits[sha]
    card: dict[str, Any] = {}
    with contextlib.suppress(ValueError):  # a README that came by `put` was never checked
        card = read_card(files.get("README.md", b"").decode())
    return {
        "id": repo_id,
        "sha": sha,
        "private": repository.private,
        "gated": repo_id in request.server.hub.gated and "manual",
        "siblings": [{"rfilename": name} for name in files],
        "cardData": card,
        **{k: card[k] for k in ("library_name", "model-index", "pipeline_tag", "tags") if k in card},
    }


@route("GET", f"/api/models{REPO}/refs")
def _refs(request: Handler, repo_id: str) -> Any:
    repository = request.repository(repo_id)
    tags = [{"name": k, "ref": f"refs/tags/{k}", "targetCommit": sha} for k, sha in repository.tags.items()]
    main = {"name": "main", "ref": "refs/heads/main", "targetCommit": repository.head}
    return {"branches": [main], "converts": [], "tags": tags}


@route("GET", f"/api/models{REPO}/tree{REVISION}({PATH})?")
def _tree(request: Handler, repo_id: str, revision: str, path: str = "") -> Any:
    repository = request.repository(repo_id)
    recursive = parse_qs(urlsplit(request.path).query).get("recursive", ["false"])[0].lower() == "true"
    folder = path and path.rstrip("/") + "/"
    files = {p: d for p, d in repository.commits[_sha(repository, revision)].items() if p.startswith(folder)}
    if not files:
        raise Refused(404, "EntryNotFound")
    listed: dict[str, Any] = {}
    for p, data in sorted(files.items()):
        name, *below = p.removeprefix(folder).split("/")
        if below and not recursive:
            oid = hashlib.sha1(p.encode()).hexdigest()
            listed[name] = {"type": "directory", "path": folder + name, "size": 0, "oid": oid}
            continue
        listed[p] = {"type": "file", "path": p, "size": len(data), "oid": file_oid(p, data)}
        if is_large(p, len(data)):
            listed[p]["lfs"] = {"oid": file_oid(p, data), "size": len(data), "pointerSize": 130}
    return list(listed.values())


@route("GET HEAD", f"{REPO}/resolve{REVISION}{PATH}")
def _resolve(request: Handler, repo_id: str, revision: str, path: str) -> Any:
    hub, repository = request.server.hub, request.repository(repo_id)
    if repo_id in hub.gated:
        raise Refused(hub.gated[repo_id], "GatedRepo", f"Access to model {repo_id} is restricted")
    sha = _sha(repository, revision)
    if path not in repository.commits[sha]:
        raise Refused(404, "EntryNotFound", **{"X-Repo-Commit": sha})
    data = repository.commits[sha][path]
    etag, size, middle = f'"{file_oid(path, data)}"', len(data), len(data) // 2
    headers = {"X-Repo-Commit": sha, "ETag": etag, "Accept-Ranges": "bytes"}
    if is_large(path, size):
        headers |= {"X-Linked-Etag": etag, "X-Linked-Size": str(size)}
    if hub.corrupt & {path, f"{repo_id}/{path}"}:
        data = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    answer = Answer(data, headers=headers)
    if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", "")):
        first, last = int(asked[1]), min(int(asked[2] or size), size - 1)
        if first >= size:
            raise Refused(416, **{"Content-Range": f"bytes */{size}"})
        headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        answer.content, answer.status = data[first : last + 1], 206
    if hub.drop_after is not None and request.command == "GET":
        hub._dropped ^= {request.path}
        answer.cut = hub.drop_after if repo_id in hub.drop_always or request.path in hub._dropped else None
    return answer
