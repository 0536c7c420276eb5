"""An epoch's end: told to bytewax one epoch late, so that the disk works beside the next epoch.

bytewax commits an epoch once every step and output has told its snapshot, and the source may not read on before. What
is told must be on disk by then, in every process, or a power loss would leave bytewax with versions that no shard has.
To wait for the disk there costs a stall of tens of milliseconds an epoch. So what is told at the end of an epoch is how
things stood at the end of the one before: source, steps, outputs and ledgers alike (`OneLate`). The sync of that began
an epoch ago and has had all of it to finish; the sync of this one begins now (`BackgroundSync`). A resume goes back one
epoch more; what was published meanwhile is adopted as ever, so nothing is told twice (docs/adr/0026).

For that to be one moment everywhere, whoever tells snapshots must tell one in every epoch: the first part that a source
delivers in an epoch is marked to `wake` all shards of all steps and all outputs.

A run that ends in order loses nothing by it. With one process the source marks the last epoch as `final`: what stands
at its end is told, after a sync that is waited for. With several there is no such moment, as their sources end in
different epochs: each delivers nothing for one epoch more, and what is told at the end of that is all it has read.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Sync = Callable[[], None]
Told = TypeVar("Told")


class Epochs:
    """What the source of a process and all who tell snapshots in it must agree on.

    Attributes:
        final: The epoch under way is the last of a process that runs alone: what stands at its end is told.
        number: How many have ended.
    """

    __slots__ = ("_fresh", "final", "number")

    def __init__(self) -> None:
        self._fresh = True
        self.final = False
        self.number = 0

    @property
    def empty(self) -> bool:
        """Whether the source has delivered nothing in this epoch."""
        return self._fresh

    def begins(self) -> bool:
        """Called for each part that the source delivers: whether it is the first of its epoch, and is to wake all."""
        fresh, self._fresh = self._fresh, False
        return fresh

    def end(self) -> None:
        """The source has made its snapshot: what it delivers from now on belongs to the next epoch."""
        self._fresh = True
        self.number += 1


class OneLate(Generic[Told]):
    """What stood at the end of the epoch before."""

    __slots__ = ("_before", "_epochs", "_told")

    def __init__(self, epochs: Epochs, begun: Told) -> None:
        """Prepare.

        Args:
            epochs: Of the process.
            begun: What the run was resumed with, or what nothing looks like.
        """
        self._epochs = epochs
        self._before = self._told = begun

    def tell(self, now: Told) -> Told:
        """What to tell at the end of an epoch that leaves `now`."""
        self._told = now if self._epochs.final else self._before
        self._before = now
        return self._told

    def again(self) -> Told:
        """What to tell at the end of an epoch in which nobody was woken: what was told last, as it is of all others."""
        return self._told


class BackgroundSync:
    """Makes what stands at the end of an epoch durable while the next one runs."""

    def __init__(self, sync: Sync | None, epochs: Epochs) -> None:
        """Prepare.

        Args:
            sync: Makes durable what stands when it is called; None: nothing is to outlive the process.
            epochs: Of the process.
        """
        self._sync = sync
        self._epochs = epochs
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="weir-sync") if sync is not None else None
        self._running: Future[None] | None = None

    def epoch_ends(self) -> None:
        """Wait for the sync of the epoch before, whose snapshot is told now, and begin this one's.

        Raises:
            StateError: The disk refuses.
        """
        if self._sync is None or self._pool is None:
            return
        running, self._running = self._running, None
        if running is not None:
            running.result()
        if self._epochs.final:
            self._sync()
        else:
            self._running = self._pool.submit(self._sync)

    def close(self) -> None:
        """Wait for what is under way; what it raises no longer matters, since nothing is told any more."""
        if self._pool is not None:
            self._pool.shutdown()
