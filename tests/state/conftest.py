import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


def memory_directory() -> str | None:
    """A directory in memory, or None for the usual place: these tests kill processes, they do not cut the power."""
    shared = Path("/dev/shm")  # noqa: S108 - directories in it are made by mkdtemp
    return str(shared) if shared.is_dir() else None


@pytest.fixture
def state_directory() -> Iterator[Path]:
    """An empty directory, in memory where there is such a place: opening a RocksDB syncs a dozen files."""
    directory = Path(tempfile.mkdtemp(prefix="weir-state-", dir=memory_directory()))
    yield directory
    shutil.rmtree(directory)
