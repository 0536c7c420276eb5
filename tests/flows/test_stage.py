"""Stages keep the order of arrival with one worker, however bytewax schedules their parts."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from flows.epochs import Epochs
from flows.stage import EVERY, PASS, Part, Router, ShardLogic, Stage
from flows.stats import StageStats
from operators.inflight import PAYMENT, InFlight
from schemas.events import Outcome
from state.api import StepStore
from state.testing import DictHome

SHARDS = ("a", "b", "c", "d")


class _Record:
    """A step that remembers in which order it met events, in its store."""

    name = "record"

    def on_batch(self, store: StepStore, batch: list[InFlight]) -> list[InFlight]:
        known = store.get_many([b"seen"])[0] or b""
        store.put_many([(b"seen", known + b"".join(b"%d " % item.order[0] for item in batch))])
        return batch

    def on_snapshot(self, store: StepStore) -> None:
        store.put_many([(b"snapshots", (store.get_many([b"snapshots"])[0] or b"") + b"x")])


def _event(order: int) -> InFlight:
    return InFlight(PAYMENT, (order,), None, ("t", 0, order), 0, [], [])


def _stage(routes: dict[int, int]) -> Stage:
    return Stage(_Record(), lambda item: routes[item.order[0]], SHARDS)


@settings(max_examples=200, deadline=None)
@given(
    routes=st.lists(
        st.tuples(st.sampled_from([0, 1, 2, 3, PASS, EVERY]), st.sampled_from([0, 1, 2, 3, PASS])),
        min_size=1,
        max_size=30,
    ),
    size=st.integers(1, 7),
    seed=st.integers(0, 1000),
)
def test_every_shard_meets_its_events_in_order_whatever_the_schedule(
    routes: list[tuple[int, int]], size: int, seed: int
) -> None:
    rng = random.Random(seed)
    first = Router(_stage({n: a for n, (a, _) in enumerate(routes)}), in_order=True, stats=StageStats("route"))
    second = Router(_stage({n: b for n, (_, b) in enumerate(routes)}), in_order=True, stats=StageStats("route"))
    met: dict[str, list[int]] = {shard: [] for shard in SHARDS}
    queues: dict[str, list[Part]] = {shard: [] for shard in SHARDS}
    for number, start in enumerate(range(0, len(routes), size)):
        batch = [_event(order) for order in range(start, min(start + size, len(routes)))]
        for shard, part in first(Part(number, 1, batch, [])):
            queues[shard].append(part)
    # Shards run in any order and at any pace, as long as each takes its own parts first in, first out.
    while waiting := [shard for shard in SHARDS if queues[shard]]:
        part = queues[rng.choice(waiting)].pop(0)
        for shard, onward in second(part):
            met[shard] += [item.order[0] for item in onward.work]
    for shard, orders in met.items():
        wanted = sorted(
            order
            for order, (first_route, route) in enumerate(routes)
            for _ in range(len(SHARDS) if first_route == EVERY else 1)
            if route >= 0 and SHARDS[route] == shard
        )
        assert orders == wanted


def test_a_batch_without_work_still_passes_so_that_later_batches_are_not_held() -> None:
    router = Router(_stage({0: PASS, 1: 2}), in_order=True, stats=StageStats("route"))
    [(shard, part)] = router(Part(0, 1, [_event(0)], []))
    assert shard == SHARDS[0]
    assert part.work == []
    assert [item.order for item in part.skip] == [(0,)]
    [(shard, part)] = router(Part(1, 1, [_event(1)], []))
    assert shard == SHARDS[2]


def test_a_later_batch_waits_for_an_earlier_one() -> None:
    router = Router(_stage({0: 0, 1: 1, 2: 1}), in_order=True, stats=StageStats("route"))
    half = Part(0, 2, [_event(0)], [])
    assert list(router(half)) == []
    assert list(router(Part(1, 1, [_event(2)], []))) == []
    out = list(router(Part(0, 2, [_event(1)], [])))
    assert [(part.batch, [item.order[0] for item in part.work]) for _, part in out] == [(0, [0]), (0, [1]), (1, [2])]


def test_without_order_parts_go_on_as_they_come() -> None:
    router = Router(_stage({0: 0, 1: 1}), in_order=False, stats=StageStats("route"))
    out = list(router(Part(1, 2, [_event(1)], [])))
    assert [(shard, [item.order[0] for item in part.work]) for shard, part in out] == [("b", [1])]


def test_without_order_what_is_told_of_one_payment_rides_with_one_shard() -> None:
    router = Router(
        _stage(dict.fromkeys(range(40), PASS) | {40: 0, 41: 1, 42: 2}), in_order=False, stats=StageStats("route")
    )
    riders = [_event(number) for number in range(40)]
    for item in riders:
        name = f"T{item.order[0] % 10}"
        item.event = Outcome(outcome_id="o", event_time_us=0, transaction_id=name, label="fraud", source="analyst")
    ways: dict[str, set[str]] = {}
    for working in (40, 41, 42):  # whichever shard has work for the step
        for shard, part in router(Part(1, 1, [_event(working), *riders], [])):
            for item in part.skip:
                assert isinstance(item.event, Outcome)
                ways.setdefault(item.event.transaction_id, set()).add(shard)
    assert len(ways) == 10
    assert all(len(shards) == 1 for shards in ways.values())
    assert len(set.union(*ways.values())) > 1


def _last_epoch() -> Epochs:
    """One at whose end is told what stands there, and not what stood an epoch before."""
    epochs = Epochs()
    epochs.final = True
    return epochs


def test_the_part_that_wakes_reaches_every_shard_of_every_step_once() -> None:
    shards = ("a", "b", "c")
    first = Router(Stage(_stage({}).step, lambda _: 1, shards), in_order=False, stats=StageStats("route"))
    second = Router(Stage(_stage({}).step, lambda _: 0, shards), in_order=True, stats=StageStats("route"))
    woken = list(first(Part(0, 1, [_event(0)], [], wake=True)))
    assert sorted(shard for shard, _ in woken) == ["a", "b", "c"]
    assert sum(part.wake for _, part in woken) == 1
    assert [event.order for _, part in woken for event in part.work] == [(0,)]
    again = [one for _, part in woken for one in second(part)]
    assert sorted(shard for shard, _ in again) == ["a", "b", "c"]
    assert sum(part.wake for _, part in again) == 1
    assert [shard for shard, part in again if part.work] == ["a"]


def test_what_is_told_at_an_epochs_end_is_the_version_of_the_epoch_before() -> None:
    home = DictHome()
    epochs = Epochs()
    logic = ShardLogic(
        _stage({}), lambda _shard, _step, version: home.open("a", "record", version), StageStats("r"), epochs, None
    )
    told = []
    for number in range(3):
        logic.on_batch([("a", Part(number, 1, [_event(number)], []))])
        told.append(logic.snapshot()["version"])
    assert told == [0, 1, 2]
    epochs.final = True
    assert logic.snapshot()["version"] == 4


def test_a_snapshot_is_a_version_and_resuming_at_it_is_exact() -> None:
    stage = _stage({})
    home = DictHome()
    opened: list[int | None] = []

    def open_store(shard: str, step: str, version: int | None) -> StepStore:
        assert (shard, step) == ("a", "record")
        opened.append(version)
        return home.open(shard, step, version)

    logic = ShardLogic(stage, open_store, StageStats("record"), _last_epoch(), None)
    logic.on_batch([("a", Part(0, 1, [_event(0)], []))])
    snapshot = logic.snapshot()
    logic.on_batch([("a", Part(1, 1, [_event(1)], []))])
    again = ShardLogic(stage, open_store, StageStats("record"), _last_epoch(), snapshot)
    assert opened == [None, snapshot["version"]]
    again.on_batch([("a", Part(0, 1, [_event(2)], []))])
    store = home.open("a", "record", again.snapshot()["version"])
    assert store.get_many([b"seen", b"snapshots"]) == [b"0 2 ", b"xx"]
