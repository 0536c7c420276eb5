"""Asks a running flow for checkpoints of its shards: a Unix socket of each process in <state>/control/.

RocksDB lets nobody else write to a shard that is open, and reading beside the writer is not safe, so the process that
has it open makes the checkpoint, on a thread of its own. The conversation is lines of JSON; one connection at a time:

    {"do": "hold"}                      → {"process": 0, "of": 2}     from now on no before-image is pruned
    {"do": "checkpoint", "id": ID}      → {"shards": [...]}           copies stand in <state>/checkpoints/ID/<shard>
    any failure                         → {"error": sentence}

The hold ends with the connection, so a client that dies holds nothing, or after HOLD_S. Who may write into the state
directory may ask; nothing listens on a network. Sockets are <process>-of-<count>.sock; one that nobody listens on is
left over from a killed process and means nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from schemas.errors import ConfigError, StateError
from state.store import StateHome

CONTROL: Final = "control"
CHECKPOINTS: Final = "checkpoints"
HOLD_S: Final = 600.0
"""A hold ends after so long without a request. Shorter: a large state's checkpoint may not be done; longer: a client
that hangs fills the disk with before-images for that long."""
_POLL_S: Final = 0.2
_SOCKET: Final = re.compile(r"(\d+)-of-(\d+)\.sock")
_ID: Final = re.compile(r"[A-Za-z0-9-]{1,64}")
_LONGEST: Final = 100
"""Bytes of a socket's path that every system takes."""


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """A name of the socket's path that is short enough for the system, where the real one is not."""
    if len(os.fsencode(path)) <= _LONGEST:
        yield str(path)
        return
    if not Path("/proc/self/fd").is_dir():
        msg = f"--state {path.parent.parent}: its path is too long for a socket in it; give a shorter one"
        raise ConfigError(msg)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


class ControlServer:
    """Serves one process of a flow; use as a context, inside of the StateHome's."""

    def __init__(self, state: Path, home: StateHome, process: int, of: int) -> None:
        self._state = state
        self._home = home
        self._told = {"process": process, "of": of}
        self._path = state / CONTROL / f"{process}-of-{of}.sock"
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="weir-control", daemon=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def __enter__(self) -> ControlServer:
        self._path.parent.mkdir(exist_ok=True)
        self._path.unlink(missing_ok=True)
        with _short(self._path) as name:
            self._socket.bind(name)
        self._path.chmod(0o600)
        self._socket.listen(4)
        self._socket.settimeout(_POLL_S)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The stores are closed behind this: nothing may be reading them then.
        self._ending.set()
        self._thread.join()
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def _serve(self) -> None:
        while not self._ending.is_set():
            try:
                connection, _ = self._socket.accept()
            except TimeoutError:
                continue
            with connection, contextlib.suppress(OSError):
                self._talk(connection)

    def _talk(self, connection: socket.socket) -> None:
        connection.settimeout(_POLL_S)
        with ExitStack() as held:
            for line in self._lines(connection):
                try:
                    answer = self._answer(json.loads(line), held)
                except (StateError, OSError, ValueError, LookupError, TypeError) as error:
                    answer = {"error": str(error)}
                connection.sendall(json.dumps(answer).encode() + b"\n")

    def _lines(self, connection: socket.socket) -> Iterator[bytes]:
        buffered = b""
        idle_s = 0.0
        while not self._ending.is_set() and idle_s < HOLD_S:
            try:
                piece = connection.recv(4096)
            except TimeoutError:
                idle_s += _POLL_S
                continue
            if not piece:
                return
            idle_s = 0.0
            *lines, buffered = (buffered + piece).split(b"\n")
            yield from lines

    def _answer(self, request: Any, held: ExitStack) -> dict[str, Any]:
        if request["do"] == "hold":
            held.enter_context(self._home.hold_pruning())
            return self._told
        if request["do"] == "checkpoint" and _ID.fullmatch(request["id"]):
            directory = self._state / CHECKPOINTS / request["id"]
            return {"shards": self._home.checkpoint(directory, self._ending.is_set)}
        msg = f"control: expected hold or checkpoint, found {request!r}"
        raise StateError(msg)


class _Peer:
    """One process of the flow, seen from outside."""

    def __init__(self, connection: socket.socket, name: str) -> None:
        self._connection = connection
        self._answers = connection.makefile("rb")
        self._name = name

    def send(self, **request: str) -> None:
        self._connection.sendall(json.dumps(request).encode() + b"\n")

    def receive(self) -> dict[str, Any]:
        try:
            line = self._answers.readline()
        except OSError:
            line = b""
        if not line:
            msg = f"{self._name}: the flow ended or was killed meanwhile; run the command again"
            raise StateError(msg)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise StateError(answer["error"])
        return answer

    def close(self) -> None:
        self._answers.close()
        self._connection.close()


class RunningFlow:
    """All processes of a flow that runs on a state directory, each holding its before-images."""

    def __init__(self, state: Path, peers: list[_Peer]) -> None:
        self._state = state
        self._peers = peers

    def checkpoint(self, name: str) -> Path:
        """Copies of all shards that any process has open, in a new directory `checkpoints/<name>`; yours to delete.

        Raises:
            StateError: The flow ended meanwhile, or a disk refuses.
        """
        directory = self._state / CHECKPOINTS / name
        directory.mkdir(parents=True)
        for peer in self._peers:
            peer.send(do="checkpoint", id=name)
        for peer in self._peers:
            peer.receive()
        return directory


@contextmanager
def running_flow(state: Path) -> Iterator[RunningFlow | None]:
    """The flow that runs on a state directory, held until the end of the context; None when none runs.

    Raises:
        StateError: Some of its processes answer and others do not: it is starting or ending.
    """
    peers: list[_Peer] = []
    expected: set[int] = set()
    try:
        for path in sorted((state / CONTROL).glob("*.sock")):
            found = _SOCKET.fullmatch(path.name)
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                with _short(path) as name:
                    connection.connect(name)
            except (ConnectionRefusedError, FileNotFoundError):
                connection.close()
                continue
            peers.append(_Peer(connection, str(path)))
            expected.add(int(found[2]) if found else 0)
        if peers and expected != {len(peers)}:
            msg = (
                f"state {state}: {len(peers)} of {max(expected)} processes of the flow answer, so it is starting or "
                "ending; run the command again in a moment"
            )
            raise StateError(msg)
        for peer in peers:
            peer.send(do="hold")
        for peer in peers:
            peer.receive()
        yield RunningFlow(state, peers) if peers else None
    finally:
        for peer in peers:
            peer.close()
