"""The loopback Hub's side of HTTP: status codes, headers and JSON as the real Hub gives them to its client."""

import contextlib
import json
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from loopback_repository import Repository

if TYPE_CHECKING:
    from loopback_hub import LoopbackHub

TOKEN = "hf_loopback"  # the only one that the hub knows; it may do everything
USER = "tester"  # whose it is


@dataclass
class Answer:
    content: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None  # the connection ends after so many bytes of the content


def as_json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(json.dumps(value).encode(), status, {"Content-Type": "application/json", **(headers or {})})


class Refused(Exception):
    """An answer that is not 200; the client raises the error of its code."""

    def __init__(self, status: int, code: str = "", message: str = "", /, **headers: str) -> None:
        super().__init__(status, code, message)
        fields = {"X-Error-Code": code, "X-Error-Message": message, **headers}
        self.answer = as_json({"error": message or code}, status, fields)


class Server(ThreadingHTTPServer):
    """The server of one hub."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], hub: "LoopbackHub") -> None:
        self.hub = hub
        self.connections: set[Any] = set()
        super().__init__(address, Handler)

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


Endpoint = Callable[..., Any]  # gives an Answer, or what is answered as JSON
ROUTES: list[tuple[str, str, Endpoint]] = []


def route(methods: str, path: str) -> Callable[[Endpoint], Endpoint]:
    def register(endpoint: Endpoint) -> Endpoint:
        ROUTES.append((methods, path, endpoint))
        return endpoint

    return register


class Handler(BaseHTTPRequestHandler):
    """A connection. What is sent and received is so outside the lock; an endpoint holds the lock and only computes."""

    protocol_version = "HTTP/1.1"  # connections are kept, as the real Hub does
    disable_nagle_algorithm = True  # header and body are two writes
    server: Server
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
        except Refused as refused:
            answer = refused.answer
        self.send_response(answer.status)
        for name, value in {"Content-Length": str(len(answer.content)), **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.content[: answer.cut])
        # after a whole answer, a client may already be sending its next request over the same connection
        self.close_connection |= answer.cut is not None and answer.cut < len(answer.content)

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

    def _answer(self) -> Answer:
        hub = self.server.hub
        if hub.fail and hub.fail_at in f"{self.command} {self.path}":
            raise Refused(hub.fail, "", "the Hub is down")
        for methods, path, endpoint in ROUTES:
            found = re.fullmatch(path, urlsplit(self.path).path)
            if found and self.command in methods.split():
                answer = endpoint(self, **{k: unquote(v) for k, v in found.groupdict().items() if v is not None})
                return answer if isinstance(answer, Answer) else as_json(answer)
        raise Refused(404, "", f"no endpoint {self.command} {self.path}")

    def signed_in(self) -> bool:
        given = self.headers.get("Authorization")
        if given not in (None, f"Bearer {TOKEN}"):
            raise Refused(401, "", "Invalid credentials in Authorization header")
        return given is not None

    def repository(self, repo_id: str, write: bool = False) -> Repository:
        repository = self.server.hub._repositories.get(repo_id)
        signed_in = self.signed_in()
        if repository is None or ((repository.private or write) and not signed_in):
            raise Refused(404 if signed_in else 401, "RepoNotFound")
        return repository
