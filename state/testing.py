"""Stores for tests: same promises as `state.store`, kept in a dict, with nothing on disk.

    store = DictStore()
    store.put_many([(b"a", b"1")])
    store.commit()                       # 1
    store.put_many([(b"a", b"2")])
    store = store.reopened(1)            # what a kill and a resume at version 1 leave
    store.get_many([b"a"])               # [b"1"]

`tests/state/test_store_contract.py` holds both stores to one suite.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from schemas.errors import StateVersionError
from state.options import DEFAULT_VERSIONS_KEPT


class DictStore:
    """An in-memory `StepStore` with versions and exact rollback.

    Attributes:
        shard: Name of the shard.
        step: Name of the step.
        version: Last committed version, 0 before the first commit.
        memo: Empty after `reopened`, never stored.
    """

    def __init__(self, shard: str = "s00", step: str = "step", versions_kept: int = DEFAULT_VERSIONS_KEPT) -> None:
        self.shard = shard
        self.step = step
        self.version = 0
        self.memo: dict[str, Any] = {}
        self._versions_kept = versions_kept
        self._oldest = 0
        self._records: dict[bytes, bytes] = {}
        self._before: dict[int, dict[bytes, bytes | None]] = {}

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Records of `keys`, None where there is none; sees all earlier writes."""
        records = self._records
        return [records.get(key) for key in keys]

    def put_many(self, items: Sequence[tuple[bytes, bytes | None]]) -> None:
        """Write records; None deletes. The last item of a key repeated in `items` wins."""
        before = self._before.setdefault(self.version + 1, {})
        records = self._records
        for key, value in items:
            before.setdefault(key, records.get(key))
            if value is None:
                records.pop(key, None)
            else:
                records[key] = value

    def scan(self, start: bytes, stop: bytes | None, limit: int) -> list[tuple[bytes, bytes]]:
        """Up to `limit` records with start <= key < stop (None: to the end) in key order; sees all earlier writes."""
        keys = sorted(self._records)
        end = len(keys) if stop is None else bisect_left(keys, stop)
        return [(key, self._records[key]) for key in keys[bisect_left(keys, start) : end][: max(limit, 0)]]

    def commit(self) -> int:
        """Make everything written so far a version that can be opened again; returns its number."""
        self.version += 1
        self._oldest = max(self._oldest, self.version - self._versions_kept)
        self._before.pop(self._oldest, None)
        return self.version

    def reopened(self, version: int | None) -> DictStore:
        """The store as a new process finds it at `version` (None: no commit is known); this one is spent.

        Raises:
            StateVersionError: `version` is not kept.
        """
        wanted = version or 0
        oldest = self._oldest
        if not oldest <= wanted <= self.version:
            msg = (
                f"shard {self.step}/{self.shard}: bytewax resumes at version {wanted}, the store keeps "
                f"{oldest}..{self.version}; restore a backup that holds version {wanted} (docs/runbooks/restore.md)"
            )
            raise StateVersionError(msg)
        other = DictStore(self.shard, self.step, self._versions_kept)
        other.version = wanted
        other._oldest = oldest
        other._records = dict(self._records)
        for number in sorted(self._before, reverse=True):
            if number <= wanted:
                other._before[number] = self._before[number]
                continue
            for key, value in self._before[number].items():
                if value is None:
                    other._records.pop(key, None)
                else:
                    other._records[key] = value
        return other

    def as_dict(self) -> dict[bytes, bytes]:
        """A copy of all records, for comparing two runs."""
        return dict(self._records)


class DictHome:
    """In-memory stand-in for `state.store.StateHome`: opens `DictStore`s and keeps them between opens."""

    def __init__(self, directory: Path | None = None, versions_kept: int = DEFAULT_VERSIONS_KEPT) -> None:
        del directory  # same place in the signature as StateHome's
        self._versions_kept = versions_kept
        self._stores: dict[tuple[str, str], DictStore] = {}
        self.syncs = 0

    def open(self, shard: str, step: str, version: int | None) -> DictStore:
        """The store of `step` in `shard`, rolled back to `version` (None: to empty).

        Raises:
            StateVersionError: `version` is not kept.
        """
        known = self._stores.get((shard, step)) or DictStore(shard, step, self._versions_kept)
        self._stores[shard, step] = opened = known.reopened(version)
        return opened

    def sync(self) -> None:
        """Count the call: there is nothing to make durable."""
        self.syncs += 1

    def close(self) -> None:
        """Nothing to close; the records stay for the next `open`, as on a disk."""

    def __enter__(self) -> DictHome:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
