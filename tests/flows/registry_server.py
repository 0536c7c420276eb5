"""A stand-in for a schema registry: the part of Confluent's API that Weir uses, over real HTTP, with faults on top.

It judges compatibility by the same rules as `weir contracts check`, and fails when it is told to. What it leaves out is
tested against Apicurio (test_registry_apicurio.py).
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from schemas.compatibility import incompatibilities


class Server(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.schemas: list[Any] = []
        self.subjects: dict[str, list[int]] = {}
        self.levels: dict[str, str] = {}
        self.requests: list[str] = []
        self.failures = 0
        self.credentials: str | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/apis/ccompat/v7"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, status: int, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def refused(self) -> bool:
        server = self.server
        server.requests.append(f"{self.command} {self.path}")
        if server.failures:
            server.failures -= 1
            self.answer(503, {"error_code": 50301, "message": "not now"})
            return True
        expected = server.credentials and base64.b64encode(server.credentials.encode()).decode()
        if expected and self.headers.get("Authorization") != f"Basic {expected}":
            self.answer(401, {"error_code": 40101, "message": "who are you"})
            return True
        return False

    def do_GET(self) -> None:
        if self.refused():
            return
        number = int(self.path.rpartition("/")[2])
        if 0 < number <= len(self.server.schemas):
            self.answer(200, {"schema": json.dumps(self.server.schemas[number - 1])})
        else:
            self.answer(404, {"error_code": 40403, "message": "Schema not found"})

    def do_PUT(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.refused():
            self.server.levels[self.path.rpartition("/")[2]] = body["compatibility"]
            self.answer(200, body)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.refused():
            return
        server = self.server
        schema = json.loads(body["schema"])
        words = self.path.partition("?")[0].split("/")
        subject = words[words.index("subjects") + 1]
        known = server.subjects.setdefault(subject, [])
        faults = incompatibilities(schema, server.schemas[known[-1] - 1]) if known else []
        if "compatibility" in words:
            if not known:
                self.answer(404, {"error_code": 40401, "message": "Subject not found"})
            else:
                self.answer(200, {"is_compatible": not faults, "messages": faults})
        elif faults:
            self.answer(409, {"error_code": 409, "message": faults[0]})
        else:
            if schema not in server.schemas:
                server.schemas.append(schema)
            number = server.schemas.index(schema) + 1
            if number not in known:
                known.append(number)
            self.answer(200, {"id": number})


@contextmanager
def registry_server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
