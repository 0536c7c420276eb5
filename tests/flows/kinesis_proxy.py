"""A small proxy before a stand-in for Kinesis that does what AWS does on a bad day, as a test tells it."""

from __future__ import annotations

import hashlib
import http.client
import json
import socketserver
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

Answer = tuple[int, dict[str, Any]]
Ask = Callable[[dict[str, Any]], Answer]
Rule = Callable[[dict[str, Any], Ask], Answer | None]
"""(request, who forwards one) -> answer; None: the connection is closed without one."""


def fault(name: str, status: int = 400) -> Answer:
    return status, {"__type": name, "message": f"{name} of the test"}


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """A client that has left before its answer came is none of a test's business."""


class Proxy:
    """Forwards, but for actions that have a rule.

    Attributes:
        endpoint: Its URL.
        down: While it is set, no request is answered.
        rules: By action, such as GetRecords.
        seen: How often each action was asked for.
        keys: Ids of the access keys that requests were signed with.
    """

    def __init__(self, endpoint: str) -> None:
        self.rules: dict[str, Rule] = {}
        self.down = threading.Event()
        self.seen: Counter[str] = Counter()
        self.keys: Counter[str] = Counter()
        self._behind = urlsplit(endpoint).netloc
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                action = self.headers["X-Amz-Target"].rpartition(".")[2]
                proxy.seen[action] += 1
                signed = self.headers.get("Authorization", "").partition("Credential=")[2].partition("/")[0]
                proxy.keys[signed] += 1

                def ask(request: dict[str, Any]) -> Answer:
                    connection = http.client.HTTPConnection(proxy._behind, timeout=60)
                    dropped = ("host", "content-length", "connection", "accept-encoding")
                    told = {name: value for name, value in self.headers.items() if name.lower() not in dropped}
                    connection.request("POST", "/", json.dumps(request).encode(), told)
                    found = connection.getresponse()
                    content = found.read()
                    connection.close()
                    return found.status, json.loads(content or b"{}")

                rule = proxy.rules.get(action)
                request = json.loads(body)
                answer = None
                if not proxy.down.is_set():
                    answer = ask(request) if rule is None else rule(request, ask)
                if answer is None:
                    self.close_connection = True
                    self.connection.close()
                    return
                content = json.dumps(answer[1]).encode()
                self.send_response(answer[0])
                self.send_header("Content-Type", "application/x-amz-json-1.1")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        return Handler


@contextmanager
def proxied(endpoint: str) -> Iterator[Proxy]:
    proxy = Proxy(endpoint)
    thread = threading.Thread(target=proxy._server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy._server.shutdown()
        proxy._server.server_close()
        thread.join()


@contextmanager
def closing_connections() -> Iterator[tuple[str, Callable[[], int]]]:
    """(URL, how often it was connected to) of a server that closes every connection without a word."""
    count = [0]

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            count[0] += 1

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", lambda: count[0]
        finally:
            server.shutdown()
            thread.join()


def every(number: int, answer: Answer | None, *, after: bool = False) -> Rule:
    """One request in so many is answered so; with `after` it is carried out before."""
    count = [0]

    def rule(request: dict[str, Any], ask: Ask) -> Answer | None:
        count[0] += 1
        if count[0] % number:
            return ask(request)
        if after:
            ask(request)
        return answer

    return rule


def some_refused(code: str, wanted: Callable[[int], bool]) -> Rule:
    """PutRecords of which some records are refused: those of whose running number `wanted` says so."""
    count = [0]

    def rule(request: dict[str, Any], ask: Ask) -> Answer | None:
        records = request["Records"]
        refused = []
        for place in range(len(records)):
            count[0] += 1
            refused.append((place, wanted(count[0])))
        taken = [record for record, (_, no) in zip(records, refused, strict=True) if not no]
        status, told = ask({**request, "Records": taken}) if taken else (200, {"Records": []})
        if status != 200:
            return status, told
        good = iter(told["Records"])
        failed = {"ErrorCode": code, "ErrorMessage": f"{code} of the test"}
        return 200, {
            "FailedRecordCount": len(records) - len(taken),
            "Records": [failed if no else next(good) for _, no in refused],
        }

    return rule


def aggregated(parts: list[tuple[str, bytes]]) -> bytes:
    """Records in one, as the Kinesis Producer Library makes it, with google's encoding written out by hand."""

    def varint(number: int) -> bytes:
        out = bytearray()
        while number > 0x7F:
            out.append(number & 0x7F | 0x80)
            number >>= 7
        out.append(number)
        return bytes(out)

    def field(number: int, content: bytes) -> bytes:
        return varint(number << 3 | 2) + varint(len(content)) + content

    keys = sorted({key for key, _ in parts})
    body = b"".join(field(1, key.encode()) for key in keys)
    for key, data in parts:
        body += field(3, varint(1 << 3) + varint(keys.index(key)) + field(3, data))
    return b"\xf3\x89\x9a\xc2" + body + hashlib.md5(body, usedforsecurity=False).digest()
