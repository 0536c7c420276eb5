"""What source and sink tell a live process of itself; flows/live_metrics.py counts it, without it nobody listens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

Figures = Callable[[], dict[str, dict[str, float]]]


class LiveHooks(Protocol):
    """Called in the flow's own thread; an implementation only counts.

    Its signatures are those of `LiveMetrics`.
    """

    def read(self, contract: str, records: int, /) -> None:
        """Records of a contract were read."""

    def position(self, topic: str, partition: int, lag: int | None, event_time_us: int | None, /) -> None:
        """Where a partition stands: lag in records, event time of the last record read; None: not known."""

    def behind(self, topic: str, partition: int, seconds: float, /) -> None:
        """How far a shard of Kinesis is behind its tip in time of arrival, as Kinesis tells."""

    def assigned(self, topic: str, partitions: int, /) -> None:
        """So many partitions of a topic are read here."""

    def stalled(self, seconds: float, /) -> None:
        """From the source's snapshot to its next poll nothing was read for so long."""

    def published(self, output: str, records: int, /) -> None:
        """The broker has acknowledged records of an output."""

    def in_flight(self, output: str, records: int, /) -> None:
        """So many records of an output wait for their acknowledgement."""

    def delivered(self, appended_us: int, /) -> None:
        """A decision was acknowledged whose payment the broker had appended at `appended_us`."""

    def broker_up(self, side: str, up: bool, /) -> None:
        """Whether the broker answers; side: inputs, outputs."""

    def broker_error(self, side: str, error: str, /) -> None:
        """The client told an error, by its constant's name."""

    def set_ready(self, part: str, ready: bool, why: str, /) -> None:
        """Whether a part (state, inputs, outputs) is ready, and why not."""

    def opened(self, figures: Figures, /) -> None:
        """The state is open; `figures` gives what it costs, as `flows.state_stats` counts it, until it is closed."""


class NoHooks:
    """Nobody listens."""

    def read(self, contract: str, records: int, /) -> None:
        """Not counted."""

    def position(self, topic: str, partition: int, lag: int | None, event_time_us: int | None, /) -> None:
        """Not counted."""

    def behind(self, topic: str, partition: int, seconds: float, /) -> None:
        """Not counted."""

    def assigned(self, topic: str, partitions: int, /) -> None:
        """Not counted."""

    def stalled(self, seconds: float, /) -> None:
        """Not counted."""

    def published(self, output: str, records: int, /) -> None:
        """Not counted."""

    def in_flight(self, output: str, records: int, /) -> None:
        """Not counted."""

    def delivered(self, appended_us: int, /) -> None:
        """Not counted."""

    def broker_up(self, side: str, up: bool, /) -> None:
        """Not counted."""

    def broker_error(self, side: str, error: str, /) -> None:
        """Not counted."""

    def set_ready(self, part: str, ready: bool, why: str, /) -> None:
        """Not counted."""

    def opened(self, figures: Figures, /) -> None:
        """Not asked."""
