"""What servers of tests and campaigns share: ports that nobody has, and folders for what is fetched once."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def free_ports(count: int) -> Iterator[int]:
    """So many ports of 127.0.0.1 that nobody listens on; held until all are taken from here."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        yield from [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


@contextmanager
def fetched(name: str) -> Iterator[Path]:
    """The folder XDG_CACHE_HOME/weir/NAME, ours alone meanwhile: several test processes may ask at once."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "weir" / name
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder
