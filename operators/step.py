"""The contract of a step: what decides, free of the engine that runs it."""

from __future__ import annotations

from typing import Protocol

from operators.inflight import InFlight
from state.api import StepStore


class Step(Protocol):
    """Turns a batch of events into a batch of events, remembering in the shard's store.

    No input or output, no clock, no randomness, no engine. One Step object serves all shards of a worker, so nothing
    of a shard may be kept on `self`; what is worth keeping decoded goes into `store.memo`, which dies with the store.
    """

    name: str

    def on_batch(self, store: StepStore, batch: list[InFlight]) -> list[InFlight]:
        """Process `batch`, which is in order of arrival, event by event.

        The result must not depend on how a sequence of events is cut into batches. What comes out stays in order;
        an event that the step has no use for is passed on untouched. Never raises for what an event holds.
        """
        ...

    def on_snapshot(self, store: StepStore) -> None:
        """Write to `store` whatever `memo` holds unwritten; the flow commits right after. May also sweep, bounded."""
        ...
