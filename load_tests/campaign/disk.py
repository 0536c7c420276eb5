"""What happens to disks: full ones, damaged files, and copies to restore from."""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from state.records import shard_directories

SMALL_DISK_BYTES: Final = 192 << 20
"""A round's state, outputs and logs take some 40 MB. Larger only costs memory when the disk is filled."""
_BALLAST: Final = "ballast"


class SmallDisk:
    """A tmpfs of its own, that can be filled; without it, `refusal` says why."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK_BYTES}", "weir-chaos", str(directory)]
        try:
            told = subprocess.run(command, capture_output=True, text=True, check=False)
            self.refusal = "" if told.returncode == 0 else told.stderr.strip() or f"mount ended with {told.returncode}"
        except OSError as error:
            self.refusal = f"no mount: {error}"

    def fill(self, spare_bytes: int) -> None:
        """Leave `spare_bytes` free."""
        free = os.statvfs(self.directory)
        with (self.directory / _BALLAST).open("wb") as out:
            try:
                os.posix_fallocate(out.fileno(), 0, max(1, free.f_bavail * free.f_frsize - spare_bytes))
            except OSError as error:
                if error.errno != errno.ENOSPC:  # somebody else was faster: full it is
                    raise

    def free(self) -> None:
        """Give the space back."""
        (self.directory / _BALLAST).unlink(missing_ok=True)

    def remove(self) -> None:
        """Unmount; what was on it is gone."""
        if not self.refusal:
            subprocess.run(["umount", str(self.directory)], check=False, capture_output=True)


@contextmanager
def small_disk(directory: Path) -> Iterator[SmallDisk]:
    """A small disk at `directory` for as long as the context lasts."""
    disk = SmallDisk(directory)
    try:
        yield disk
    finally:
        disk.remove()


def may_mount(scratch: Path) -> str:
    """Why no small disk can be mounted here; empty when one can."""
    with small_disk(scratch) as disk:
        refusal = disk.refusal
    scratch.rmdir()
    return refusal


def take_copy(state: Path, out: Path, to: Path) -> None:
    """Copy what belongs together, of a replay that is stopped."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(state, to / "state")
    shutil.copytree(out, to / "out")


def put_back(copy: Path, state: Path, out: Path | None) -> None:
    """Restore the state, and the outputs too unless `out` is None: what stands there then is adopted."""
    shutil.rmtree(state)
    shutil.copytree(copy / "state", state)
    if out is not None:
        shutil.rmtree(out)
        shutil.copytree(copy / "out", out)


def truncate_newest(state: Path, suffix: str, rng: random.Random) -> Path | None:
    """Cut the newest file of that suffix short, in one of the shards; None when no shard has such a file.

    A log loses at least its second half: its end alone may hold nothing that was ever committed, and is then no loss.
    """
    shards = shard_directories(state)
    rng.shuffle(shards)
    for shard in shards:
        files = sorted(shard.glob(f"*{suffix}"), key=_number)
        size = files[-1].stat().st_size if files else 0
        if size > 64:
            os.truncate(files[-1], rng.randrange(size // 2 if suffix == ".log" else size - 1))
            return files[-1]
    return None


def _number(path: Path) -> int:
    return int(path.stem)
