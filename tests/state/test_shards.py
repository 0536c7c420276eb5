import threading

import pytest
from bytewax import operators as op
from bytewax.dataflow import Dataflow
from bytewax.operators import StatefulBatchLogic
from bytewax.testing import TestingSink, TestingSource, cluster_main

from schemas.errors import ConfigError
from state.shards import shard_names, shard_of, sip_hash_1_3, worker_of


def test_sip_hash_is_that_of_rusts_default_hasher_and_the_length_enters() -> None:
    assert sip_hash_1_3(b"") == 0xD1FBA762150C532C
    lengths = {sip_hash_1_3(b"\0" * length) for length in range(40)}
    assert len(lengths) == 40


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 32])
def test_shard_i_sits_on_worker_i_modulo_the_number_of_workers(workers: int) -> None:
    assert [worker_of(name, workers) for name in shard_names(64)] == [i % workers for i in range(64)]


def test_shard_names_are_distinct_directories_and_a_smaller_count_is_a_prefix() -> None:
    names = shard_names(64)
    assert len({name.lower() for name in names}) == 64
    assert all(name.startswith(f"s{number:02d}-") for number, name in enumerate(names))
    assert shard_names() == names[:32]


@pytest.mark.parametrize("count", [0, -1, 65])
def test_a_count_of_shards_without_names_is_refused(count: int) -> None:
    with pytest.raises(ConfigError, match=rf"count within 1\.\.64, found {count}"):
        shard_names(count)


def test_keys_spread_evenly_over_shards_and_stay_where_they_are() -> None:
    counts = [0] * 32
    for number in range(32_000):
        counts[shard_of(b"card-%d" % number, 32)] += 1
    assert min(counts) > 850
    assert max(counts) < 1150
    # Written down, because another place means lost state: these may never change.
    assert [shard_of(key, 32) for key in (b"", b"card-1", "Zürich".encode())] == [25, 30, 25]


class _WhoAmI(StatefulBatchLogic[int, int, None]):
    def on_batch(self, values: list[int]) -> tuple[list[int], bool]:
        return [threading.get_ident() for _ in values], StatefulBatchLogic.RETAIN

    def snapshot(self) -> None:
        return None


@pytest.mark.parametrize("workers", [2, 3])
def test_bytewax_itself_sends_shards_to_the_workers_we_say(workers: int) -> None:
    names = shard_names(32)
    out: list[tuple[str, int]] = []
    flow = Dataflow("placement")
    items = op.input("in", flow, TestingSource([(name, 0) for name in names]))
    placed = op.stateful_batch("who", items, lambda _resume: _WhoAmI())
    op.output("out", placed, TestingSink(out))
    cluster_main(flow, [], 0, worker_count_per_proc=workers)  # type: ignore[no-untyped-call]  # bytewax gives no types
    threads: dict[int, set[int]] = {}
    for name, thread in out:
        threads.setdefault(worker_of(name, workers), set()).add(thread)
    assert len(out) == 32
    assert sorted(threads) == list(range(workers))
    assert all(len(owners) == 1 for owners in threads.values()), "names of one worker ran on several"
    assert len(set.union(*threads.values())) == workers, "names of several workers ran on one"
