"""Any interleaving of writes, commits, rollbacks and restarts, over several steps and shards, equals dicts."""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from schemas.errors import StateVersionError
from state.step_store import RocksStepStore
from state.store import StateHome, StateOptions
from tests.state.conftest import memory_directory

KEPT = 2
PLACES = [("s00", "card"), ("s00", "card2"), ("s01", "card")]  # one shard's steps share a RocksDB; a name is a prefix
KEYS = [b"", b"\0", b"a", b"a\0", b"ab", b"card\0", b"\xff", b"\xff\xff"]

places = st.sampled_from(PLACES)
keys = st.sampled_from(KEYS)
values = st.one_of(st.none(), st.binary(max_size=12), st.integers(200, 900).map(lambda size: b"v" * size))
items = st.lists(st.tuples(keys, values), min_size=1, max_size=6)


class Model:
    """What a store must hold: the records now, and those of every version still to be opened."""

    def __init__(self) -> None:
        self.records: dict[bytes, bytes] = {}
        self.versions: dict[int, dict[bytes, bytes]] = {0: {}}
        self.version = 0
        self.oldest = 0

    def put(self, written: list[tuple[bytes, bytes | None]]) -> None:
        for key, value in written:
            if value is None:
                self.records.pop(key, None)
            else:
                self.records[key] = value

    def commit(self) -> None:
        self.version += 1
        self.versions[self.version] = dict(self.records)
        self.oldest = max(self.oldest, self.version - KEPT)

    def roll_back(self, version: int) -> None:
        self.version = version
        self.records = dict(self.versions[version])


class StoreMachine(RuleBasedStateMachine):
    """Drives stores and models side by side; the cache holds a handful of records, so that eviction is common."""

    @initialize(cache=st.sampled_from([0, 2_000, 6_000, 20_000]), batch=st.sampled_from([1, 4, 1_000]))
    def start(self, cache: int, batch: int) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="weir-store-model-", dir=memory_directory()))
        self.options = StateOptions(record_cache_bytes=cache, batch_records=batch, versions_kept=KEPT)
        self.home = StateHome(self.directory, self.options)
        self.models = {place: Model() for place in PLACES}
        self.stores: dict[tuple[str, str], RocksStepStore] = {place: self.home.open(*place, None) for place in PLACES}

    @rule(touches=st.lists(st.tuples(places, items), min_size=1, max_size=8))
    def touch(self, touches: list[tuple[tuple[str, str], list[tuple[bytes, bytes | None]]]]) -> None:
        for place, written in touches:
            asked = [key for key, _ in written]
            records = self.models[place].records
            assert self.stores[place].get_many(asked) == [records.get(key) for key in asked]
            self.stores[place].put_many(written)
            self.models[place].put(written)

    @rule(place=places, written=items)
    def put_unread(self, place: tuple[str, str], written: list[tuple[bytes, bytes | None]]) -> None:
        self.stores[place].put_many(written)
        self.models[place].put(written)

    @rule(place=places, asked=st.lists(keys, max_size=6))
    def get(self, place: tuple[str, str], asked: list[bytes]) -> None:
        records = self.models[place].records
        assert self.stores[place].get_many(asked) == [records.get(key) for key in asked]

    @rule(place=places, start=keys, stop=st.one_of(st.none(), keys), limit=st.integers(0, 5))
    def scan(self, place: tuple[str, str], start: bytes, stop: bytes | None, limit: int) -> None:
        expected = [
            record
            for record in sorted(self.models[place].records.items())
            if record[0] >= start and (stop is None or record[0] < stop)
        ]
        assert self.stores[place].scan(start, stop, limit) == expected[:limit]

    @rule(place=places)
    def commit(self, place: tuple[str, str]) -> None:
        self.models[place].commit()
        assert self.stores[place].commit() == self.models[place].version

    @rule()
    def sync(self) -> None:
        self.home.sync()

    @rule(place=places, back=st.integers(0, KEPT))
    def reopen_one(self, place: tuple[str, str], back: int) -> None:
        self._reopen(place, back)

    @rule(backs=st.lists(st.integers(0, KEPT), min_size=len(PLACES), max_size=len(PLACES)))
    def restart(self, backs: list[int]) -> None:
        self.home.close()
        self.home = StateHome(self.directory, self.options)
        for place, back in zip(PLACES, backs, strict=True):
            self._reopen(place, back)

    @rule(place=places)
    def ask_for_a_version_not_kept(self, place: tuple[str, str]) -> None:
        model = self.models[place]
        wrong = model.oldest - 1 if model.oldest else model.version + 1
        with pytest.raises(StateVersionError, match=rf"keeps {model.oldest}\.\.{model.version};"):
            self.home.open(*place, wrong)
        self._reopen(place, 0)

    @invariant()
    def versions_agree(self) -> None:
        for place, model in self.models.items():
            assert (self.stores[place].version, self.stores[place].oldest) == (model.version, model.oldest)

    def teardown(self) -> None:
        if hasattr(self, "home"):
            for place, model in self.models.items():
                store = self.stores[place]
                assert store.scan(b"", None, 1_000) == sorted(model.records.items())
                assert store.get_many(KEYS) == [model.records.get(key) for key in KEYS]
            self.home.close()
            shutil.rmtree(self.directory)

    def _reopen(self, place: tuple[str, str], back: int) -> None:
        model = self.models[place]
        version = max(model.oldest, model.version - back)
        model.roll_back(version)
        self.stores[place] = self.home.open(*place, version or None)


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
