"""one item an epoch → a barrier a shard, on the worker that owns it → state on disk before bytewax commits.

A step's snapshot survives a kill, not a power loss: for that the shard's log must be synced, in every process, before
bytewax writes that the epoch is done of which the snapshots tell: the one before (flows/epochs.py). A process may own
shards and no output slot, so the outputs cannot do it. Hence a sink of its own with one partition a shard, pinned to
the shard's worker. Its input comes from behind the last step, whose snapshots are thereby over everywhere when the
barrier makes its own; that it gets an item in each epoch is what makes bytewax ask it for a snapshot at all.

A sync flushes the logs of all shards that were written since the last one, in parallel, so one barrier of a process
does it for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import bytewax.operators as op
from bytewax.dataflow import Stream
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from flows.epochs import BackgroundSync, Epochs
from flows.exits import deadly
from flows.stage import Part
from flows.watchdog import Pulse
from schemas.errors import ConfigError
from state.shards import worker_of

Sync = Callable[[], None]


class Barrier(FixedPartitionedSink[None, int]):
    """The sink; its partitions bear the shards' names.

    Attributes:
        shards: Names of the shards, in order.
    """

    def __init__(
        self, shards: tuple[str, ...], process: int, processes: int, sync: Sync | None, pulse: Pulse, epochs: Epochs
    ) -> None:
        """Prepare.

        Args:
            shards: Names of the shards.
            process: Number of this process, which is its worker's.
            processes: Of how many.
            sync: Makes committed state durable; None: nothing is to outlive the process.
            pulse: Told of each epoch's end.
            epochs: Of this process.

        Raises:
            ConfigError: There are more processes than shards.
        """
        if processes > len(shards):
            message = (
                f"--processes: expected at most {len(shards)}, as many as there are shards, found {processes}; "
                "the number of shards is fixed when the --state folder is made (--shards)"
            )
            raise ConfigError(message)
        self.shards = shards
        self._own = [name for name in shards if worker_of(name, processes) == process]
        self._sync = sync
        self._pulse = pulse
        self._epochs = epochs

    def attach(self, entered: Stream[Part], decided: Stream[Part]) -> None:
        """Add the barriers to the flow: items from where events enter it, their place behind the last step."""
        begun = op.flat_map_batch("epoch_begins", entered, self._items)
        nothing = op.flat_map_batch("epoch_done", decided, _nothing)
        op.output("durable", op.merge("epoch", begun, nothing), self)

    def _items(self, parts: list[Part]) -> Iterable[tuple[str, None]]:
        """Called by bytewax where the source is: an item for every barrier, once an epoch."""
        return [(name, None) for name in self.shards] if any(part.wake for part in parts) else ()

    def list_parts(self) -> list[str]:
        """Called by bytewax once a worker; only the shards that this worker owns, which pins their barriers here."""
        return self._own

    def part_fn(self, item_key: str) -> int:
        """Called by bytewax for each item; partitions are numbered in the order of their names."""
        return self.shards.index(item_key)

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> _ShardBarrier:
        """Called by bytewax on the worker that owns the shard."""
        last = for_part == self._own[-1]
        return _ShardBarrier(BackgroundSync(self._sync if last else None, self._epochs), self._pulse, last=last)


class _ShardBarrier(StatefulSinkPartition[None, int]):
    """One shard's barrier."""

    def __init__(self, sync: BackgroundSync, pulse: Pulse, *, last: bool) -> None:
        self._sync = sync
        self._pulse = pulse
        self._last = last

    def write_batch(self, items: list[None]) -> None:
        """Called by bytewax with the epoch's item; being asked for a snapshot is all it is for."""

    @deadly
    def snapshot(self) -> int:
        """Called by bytewax at the end of an epoch, after the snapshots of all steps of all workers."""
        self._sync.epoch_ends()
        if self._last:
            self._pulse.epoch_ended()
        return 0

    def close(self) -> None:
        """Called by bytewax when the flow has ended."""
        self._sync.close()


def _nothing(_parts: list[Part]) -> Iterable[tuple[str, None]]:
    return ()
