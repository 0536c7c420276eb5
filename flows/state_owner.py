"""One run at a time on a state folder: refused before the engine, the manifest or a shard is touched.

RocksDB locks each shard, but bytewax's recovery store has no lock: a start notes itself there before a shard is opened.
A second start beside a running flow was refused at the shards and had by then told the recovery store that the
run goes on from its own epoch; the running flow committed further epochs, and no later start could resume from that. So
each process of a run holds a lock of the folder from before its first look at it until it ends, however it ends.

    owners/NN.lock     held by process NN; those of numbers that a smaller cluster no longer has must be free

A process that is stopped (SIGSTOP) holds its lock. A cluster is complete before bytewax notes a start, so that one
process of an earlier run that lives on, whichever, keeps the next run from beginning.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from schemas.errors import ConfigError, StateLockedError

OWNERS: Final = "owners"


@contextmanager
def own_state(directory: Path, number: int, processes: int) -> Iterator[None]:
    """Hold the folder for one process of a run.

    Args:
        directory: The state folder; made when it is not there.
        number: Of this process.
        processes: Of how many.

    Raises:
        ConfigError: The folder cannot be made or written.
        StateLockedError: A process of another run holds it.
    """
    owners = directory / OWNERS
    with ExitStack() as held:
        try:
            owners.mkdir(parents=True, exist_ok=True)
            held.callback(os.close, _lock(directory, owners / f"{number:02d}.lock"))
            for path in sorted(owners.glob("*.lock")):
                if int(path.stem) >= processes:
                    os.close(_lock(directory, path))
        except OSError as error:
            message = f"state {directory}: cannot be made or written ({error.strerror}: {error.filename})"
            raise ConfigError(message) from error
        yield


def _lock(directory: Path, path: Path) -> int:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(file)
        message = f"state {directory}: is open in another process ({path.name}); end that one, then start again"
        raise StateLockedError(message) from error
    return file
