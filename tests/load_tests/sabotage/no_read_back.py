"""Run before `weir` by the kill campaign: what stands behind the last commit is not read back."""

from pathlib import Path

from flows.publish import FileSlot


def _adopt(_slot: FileSlot, _path: Path, _committed: int, size: int) -> int:
    return size


FileSlot._adopt = _adopt  # type: ignore[method-assign,assignment]  # sabotage
