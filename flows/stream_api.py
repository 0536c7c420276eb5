"""What a live flow asks of its streams, whichever kind they are: `Reader`, `Publisher`, `Questions`.

Kafka, Kinesis and logs in memory each have a class for each; tests/flows/test_connectors.py is the suite that all must
pass, and with them the event files of a replay, which have a source and slots of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from flows.kafka_client import Offsets
from flows.live_options import Start
from schemas.wire import Header


class Watch(Protocol):
    """Hears of the servers of a side."""

    def down(self, why: str) -> None:
        """Nothing comes in or goes out."""

    def check(self) -> None:
        """Raise what ends the run, a StreamError."""


class Reader(Protocol):
    """The inputs of one process. Never waits; an outage is waited out.

    Attributes:
        watch: Hears of errors.
        offsets: By topic and partition where to go on; `LiveIngest` moves them on behind each message it has made an
            item of, and a snapshot keeps them all. Larger is later; negative partitions are the reader's own.
    """

    offsets: Offsets

    @property
    def watch(self) -> Watch:
        """See above."""

    def messages(self, most: int) -> list[Any]:
        """The next messages in order of arrival, at most so many; raises StreamError when there can be no more."""

    def commit(self) -> None:
        """Called before a snapshot takes `offsets`."""

    def tell(self, event_times: Mapping[tuple[str, int], int]) -> None:
        """Tell the hooks where each partition stands."""

    def close(self) -> None:
        """Leave."""


class Publisher(Protocol):
    """The outputs of one process."""

    def produce(
        self, output: str, value: bytes, key: bytes, headers: list[Header], appended_us: int | None = None
    ) -> None:
        """Hand a record over; it is delivered before the epoch after this one ends; those of a key in order."""

    def serve(self) -> None:
        """Hear of deliveries, without waiting."""

    def check(self) -> None:
        """Raise what ends the run, a StreamError."""

    def epoch_ends(self, *, final: bool) -> Offsets:
        """Where a resume at this moment must read back from: behind all records handed over, before all later ones.

        Waits until what was handed over before this epoch is delivered, with `final` for this epoch's too. What is
        returned is complete when the next call returns.
        """

    def read_back(self, begin: Offsets) -> Iterator[Any]:
        """Records from these offsets to the present ends, with their headers or None; those of a key in order."""

    def close(self) -> None:
        """Leave; what was not delivered was never committed."""


class Questions(Protocol):
    """Where the topics of a side begin and end."""

    def began(self, topic: str, start: Start) -> dict[int, int]:
        """Where each partition is begun."""

    def ends(self, topic: str) -> dict[int, int]:
        """Where each partition ends."""

    def close(self) -> None:
        """Leave."""
