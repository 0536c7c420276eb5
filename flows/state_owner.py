"""One run at a time on a state folder: refused before the engine, the manifest or a shard is touched.

RocksDB locks each shard, but bytewax's recovery store has no lock: a start notes itself there before a shard is opened.
A second start beside a running flow was refused at the shards and had by then told the recovery store that the
run goes on from its own epoch; the running flow committed further epochs, and no later start could resume from that. So
each process of a run holds a lock of the folder from before its first look at it until it ends, however it ends.

    owners/RUN-NN.lock     held by process NN of a run; RUN is a hash of the addresses of its processes

While a process of another run holds one, every start is refused, also that of a process whose own place is free. One
that is stopped (SIGSTOP) holds its lock. Files that nobody holds are removed by the next start.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from schemas.errors import ConfigError, StateLockedError

OWNERS: Final = "owners"


@contextmanager
def own_state(directory: Path, number: int, addresses: Sequence[str]) -> Iterator[None]:
    """Hold the folder for one process of a run.

    Args:
        directory: The state folder; made when it is not there.
        number: Of this process.
        addresses: Of all processes of the run, which tell it from others; empty: it is alone.

    Raises:
        ConfigError: The folder cannot be made or written.
        StateLockedError: A process of another run holds it, or this very one runs already.
    """
    owners = directory / OWNERS
    run = hashlib.sha256(",".join(addresses).encode()).hexdigest()[:12]
    with ExitStack() as held:
        try:
            owners.mkdir(parents=True, exist_ok=True)
            held.callback(os.close, _lock(directory, owners / f"{run}-{number:02d}.lock"))
            for path in sorted(owners.glob("*.lock")):
                if not path.name.startswith(f"{run}-"):
                    other = _lock(directory, path)
                    path.unlink(missing_ok=True)
                    os.close(other)
        except OSError as error:
            message = f"state {directory}: cannot be made or written ({error.strerror}: {error.filename})"
            raise ConfigError(message) from error
        yield


def _lock(directory: Path, path: Path) -> int:
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(file)
            message = f"state {directory}: is open in another process ({path.name}); end that one, then start again"
            raise StateLockedError(message) from error
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(file).st_ino:
                return file
        os.close(file)  # it was removed by another start between opening and locking
