"""A stub of a schema registry: the few routes of Confluent's HTTP API that its clients use."""

import contextlib
import json
import ssl
import threading
from base64 import b64encode
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

PROTO_TEXT = 'syntax = "proto3"; // what a registry answers unless it is asked for `serialized`'

Answer = tuple[int, Any]


class RegistryStub:
    """Listens on 127.0.0.1 inside a `with`. Register schemas over its API, or by `add`.

    Args:
        login: The only user and password that it accepts.
        tls: Serve HTTPS with this context.

    Attributes:
        asked: Paths of the GET requests so far, with their queries.
        failures: Answers to the next requests in place of the real ones: a status, or status and body.
        text_only: It cannot return the serialised form of Protobuf schemas, like some registries.
        silent: It answers nothing until it closes.
    """

    def __init__(
        self, login: tuple[str, str] | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self.asked: list[str] = []
        self.failures: list[int | tuple[int, bytes]] = []
        self.text_only = False
        self.silent = False
        self._login = login
        self._schemas: list[dict[str, Any]] = []
        self._subjects: dict[str, list[int]] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = False
        if tls is not None:
            self._server.socket = tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> "RegistryStub":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def add(self, subject: str, schema: str, kind: str = "AVRO", references: Any = ()) -> int:
        """Register a schema as the next version of a subject; equal schemas share one id."""
        found = {"schema": schema, "schemaType": kind, "references": list(references)}
        with self._lock:
            if found not in self._schemas:
                self._schemas.append(found)
            number = self._schemas.index(found) + 1
            versions = self._subjects.setdefault(subject, [])
            if number not in versions:
                versions.append(number)
        return number

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Any:
        """Status and body; the body is bytes, or a value to be sent as JSON."""
        if method == "GET":
            self.asked.append(path)
        if self.silent:
            self._closing.wait()
        if self._login is not None:
            token = b64encode(":".join(self._login).encode()).decode()
            if headers.get("Authorization") != f"Basic {token}":
                return 401, {"error_code": 401, "message": "Unauthorized"}
        if self.failures:
            failure = self.failures.pop(0)
            return failure if isinstance(failure, tuple) else (failure, _error(failure))
        url = urlsplit(path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        return self._route(method, [unquote(part) for part in url.path.split("/")[1:]], query, body)

    def _route(self, method: str, parts: list[str], query: dict[str, str], body: bytes) -> Answer:
        match method, parts:
            case "GET", ["schemas", "ids", number]:
                return self._schema(int(number), query)
            case "GET", ["subjects", subject, "versions", version]:
                return self._version(subject, int(version), query)
            case "POST", ["subjects", subject, *_]:
                sent = json.loads(body)
                kind = sent.get("schemaType", "AVRO")
                added = self.add(subject, sent["schema"], kind, sent.get("references") or ())
                place = self._subjects[subject].index(added) + 1
                return 200, {**sent, "id": added, "subject": subject, "version": place}
            case _:
                return 404, b"<html>no such page</html>"

    def _schema(self, number: int, query: dict[str, str]) -> Answer:
        if not 0 < number <= len(self._schemas):
            return 404, _error(40403)
        found = dict(self._schemas[number - 1])
        if found["schemaType"] == "PROTOBUF" and (
            self.text_only or query.get("format") != "serialized"
        ):
            found["schema"] = PROTO_TEXT
        if found["schemaType"] == "AVRO":
            del found["schemaType"]  # The real registry leaves out the default type, too.
        return 200, found

    def _version(self, subject: str, version: int, query: dict[str, str]) -> Answer:
        versions = self._subjects.get(subject)
        if versions is None:
            return 404, _error(40401)
        if not 0 < version <= len(versions):
            return 404, _error(40402)
        number = versions[version - 1]
        status, found = self._schema(number, query)
        return status, {**found, "subject": subject, "version": version, "id": number}


def _error(code: int) -> dict[str, Any]:
    return {"error_code": code, "message": "on purpose"}


def _handler(stub: RegistryStub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            status, body = stub.answer(
                self.command, self.path, dict(self.headers), self.rfile.read(length)
            )
            sent = body if isinstance(body, bytes) else json.dumps(body).encode()
            try:
                self.send_response(HTTPStatus(status))
                self.send_header("Content-Length", str(len(sent)))
                self.end_headers()
                self.wfile.write(sent)
            except OSError:
                pass  # The client has hung up.

        do_POST = do_GET

        def handle(self) -> None:
            # A client that does not trust the certificate hangs up.
            with contextlib.suppress(OSError):
                super().handle()

        def log_message(self, *_: object) -> None:
            pass

    return Handler
