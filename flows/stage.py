"""How a step, which knows no engine, runs on bytewax: router → shard → step → router.

A batch of events travels as Parts, one a shard that has work in it. Between two steps a router takes the parts that
come out of one and cuts them anew by the next one's shards.

With one worker the router is a barrier: it waits until all parts of a batch are back, puts their events into order of
arrival and lets batches pass in their order, so that every entity meets its events in the order in which they arrived,
whatever the batch size and however bytewax schedules its operators. That is what makes a replay repeat to the byte.
With several workers there is no such order to keep (two payments may meet in one order at their card and in the other
at their merchant), and the router sends parts on as they come.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, TypedDict

import bytewax.operators as op
from bytewax.dataflow import Stream
from bytewax.operators import KeyedStream, StatefulBatchLogic

from flows.epochs import Epochs, OneLate
from flows.exits import deadly
from flows.stats import StageStats
from operators.inflight import InFlight
from operators.step import Step
from state.api import StepStore
from state.shards import shard_of

PASS: Final = -1
"""Route of an event that the step has no use for: it rides along in some part, untouched."""
EVERY: Final = -2
"""Route of an event that every shard must see (a tick)."""


class Part:
    """What one shard gets of one batch.

    Attributes:
        batch: Number of the batch, counted from 0 in each run of the process; never stored.
        parts: How many parts the batch was cut into for this step.
        work: Events for the step, in order of arrival.
        skip: Events that only ride along.
        wake: Every shard of the steps to come is to get a part, so that it makes a snapshot at this epoch's end
            (flows/durable.py); of the parts of one batch one says so.
    """

    __slots__ = ("batch", "parts", "skip", "wake", "work")

    def __init__(
        self, batch: int, parts: int, work: list[InFlight], skip: list[InFlight], *, wake: bool = False
    ) -> None:
        self.batch = batch
        self.parts = parts
        self.work = work
        self.skip = skip
        self.wake = wake


@dataclass(frozen=True, slots=True)
class Stage:
    """A step and how its events find their shard.

    Attributes:
        step: The step; its name is the bytewax step id, and renaming it is a state migration.
        route: Index into `shards`, PASS or EVERY, for an event.
        shards: Names of the shards, the bytewax keys.
    """

    step: Step
    route: Callable[[InFlight], int]
    shards: tuple[str, ...]


class ShardSnapshot(TypedDict):
    """What bytewax keeps of a shard: where its records are and which version they had."""

    shard: str
    version: int


OpenStore = Callable[[str, str, int | None], StepStore]
"""(shard, step, version) -> its store, rolled back to the version; None: to empty."""


class Router:
    """Cuts what comes out of one step into parts for the next; with one worker, in order of arrival."""

    def __init__(self, stage: Stage, in_order: bool, stats: StageStats) -> None:
        self._stats = stats
        self._route = stage.route
        self._shards = stage.shards
        self._in_order = in_order
        self._waiting: dict[int, list[Part]] = {}
        self._next_batch = 0

    def __call__(self, part: Part) -> Iterable[tuple[str, Part]]:
        """Called by bytewax for each part that the step before puts out."""
        started = time.perf_counter()
        out = self._pass_on(part)
        self._stats.observe(time.perf_counter() - started, 0)
        return out

    def _pass_on(self, part: Part) -> list[tuple[str, Part]]:
        if not self._in_order:
            return self._cut(part.batch, part.work + part.skip if part.skip else part.work, wake=part.wake)
        waiting = self._waiting
        waiting.setdefault(part.batch, []).append(part)
        out: list[tuple[str, Part]] = []
        while (parts := waiting.get(self._next_batch)) is not None and len(parts) == parts[0].parts:
            del waiting[self._next_batch]
            events = [event for one in parts for events in (one.work, one.skip) for event in events]
            if len(parts) > 1 or parts[0].skip:
                events.sort(key=_order)
            out.extend(self._cut(self._next_batch, events, wake=any(one.wake for one in parts)))
            self._next_batch += 1
        return out

    def _cut(self, batch: int, events: list[InFlight], *, wake: bool) -> list[tuple[str, Part]]:
        route = self._route
        by_shard: dict[int, list[InFlight]] = {}
        skip: list[InFlight] = []
        for event in events:
            target = route(event)
            if target >= 0:
                found = by_shard.get(target)
                if found is None:
                    by_shard[target] = [event]
                else:
                    found.append(event)
            elif target == PASS:
                skip.append(event)
            else:
                for index in range(len(self._shards)):
                    by_shard.setdefault(index, []).append(event)
        riding = self._riding(skip, next(iter(by_shard), 0)) if skip or not by_shard else {}
        indexes: Iterable[int] = by_shard.keys() | riding.keys() if riding else by_shard.keys()
        if wake:
            indexes = range(len(self._shards))
        parts = len(list(indexes))
        out = [
            (self._shards[index], Part(batch, parts, by_shard.get(index, []), riding.get(index, [])))
            for index in indexes
        ]
        out[0][1].wake = wake  # of one only: the next router wakes all of its own
        return out

    def _riding(self, skip: list[InFlight], first: int) -> dict[int, list[InFlight]]:
        """With which shard's part each event rides that the step does not want.

        With several workers all that is told of one payment takes one way through the flow: a correction that rode
        with another part could overtake the label it corrects, and the windows would count both.
        """
        if self._in_order:
            return {first: skip}
        riding: dict[int, list[InFlight]] = {} if skip else {first: []}
        for item in skip:
            name = getattr(item.event, "transaction_id", None)
            index = first if name is None else shard_of(name.encode(), len(self._shards))
            riding.setdefault(index, []).append(item)
        return riding


def _order(event: InFlight) -> tuple[int, ...]:
    return event.order


class ShardLogic(StatefulBatchLogic[Part, Part, ShardSnapshot]):
    """One step over one shard, as bytewax calls it."""

    def __init__(
        self, stage: Stage, open_store: OpenStore, stats: StageStats, epochs: Epochs, resumed: ShardSnapshot | None
    ) -> None:
        self._told = OneLate(epochs, resumed["version"] if resumed is not None else 0)
        self._step = stage.step
        self._open = open_store
        self._stats = stats
        self._store: StepStore | None = None
        if resumed is not None:
            # Opened at once: the rollback must happen before anything else writes to the shard.
            self._store = open_store(resumed["shard"], stage.step.name, resumed["version"])

    def on_batch_of(self, shard: str, values: list[Part]) -> tuple[list[Part], bool]:
        """`values` are all the parts queued for the shard, oldest first."""
        store = self._store
        if store is None:
            # No snapshot was ever committed for this shard, so whatever is on disk is rolled back to empty.
            store = self._store = self._open(shard, self._step.name, None)
        for part in values:
            if part.work:
                started = time.perf_counter()
                part.work = self._step.on_batch(store, part.work)
                self._stats.observe(time.perf_counter() - started, len(part.work))
        return values, StatefulBatchLogic.RETAIN

    @deadly
    def on_batch(self, values: list[Any]) -> tuple[list[Part], bool]:
        """Called by bytewax with all queued (shard, Part) values of the key; the name travels in the value."""
        return self.on_batch_of(values[0][0], [part for _, part in values])

    @deadly
    def snapshot(self) -> ShardSnapshot:
        """Called by bytewax at the end of an epoch, all shards being woken in each: a snapshot is a version."""
        store = self._store
        if store is None:
            message = f"step {self._step.name}: bytewax asks for a snapshot of a shard that never had a batch"
            raise RuntimeError(message)
        started = time.perf_counter()
        self._step.on_snapshot(store)
        version = self._told.tell(store.commit())
        self._stats.observe_snapshot(time.perf_counter() - started)
        return ShardSnapshot(shard=store.shard, version=version)


def run_stage(
    parts: Stream[Part],
    stage: Stage,
    open_store: OpenStore,
    stats: StageStats,
    routing: StageStats,
    epochs: Epochs,
    *,
    in_order: bool,
) -> Stream[Part]:
    """Add router and step to the flow; returns the stream of parts that the step puts out."""
    name = stage.step.name
    router = Router(stage, in_order, routing)
    routed = op.flat_map(f"{name}_route", parts, router)
    # The builder of stateful_batch is told the resume state only, so the shard's name rides in the value.
    keyed: KeyedStream[Any] = op.map(f"{name}_key", routed, _with_name)
    done = op.stateful_batch(name, keyed, lambda resumed: ShardLogic(stage, open_store, stats, epochs, resumed))
    return op.map(f"{name}_unkey", done, _without_key)


def _with_name(item: tuple[str, Part]) -> tuple[str, tuple[str, Part]]:
    return item[0], item


def _without_key(item: tuple[str, Part]) -> Part:
    return item[1]
