"""What the last step puts out → publications by slot: the record's bytes, key and headers, and what it is told by."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from flows.decide import ENCODE, dead_letter
from flows.kafka_publish import IDENTITY
from flows.live_ingest import trace_id
from flows.publish import DEAD_LETTERS, DECISIONS, LABELLED_OUTCOMES, dead_letter_identity, decision_identity
from flows.stage import Part
from flows.stats import RunStats
from operators.inflight import DEAD_LETTER, PAYMENT, InFlight
from schemas.wire import Header, WireEncoder
from state.shards import shard_of

_MOST_PAYLOAD: Final = 65_536
"""Characters of a payload that a dead letter holds. Escaped in JSON they may become six times as many, which must stay
below what a topic takes by default (1 MB): a bad record must not stop the flow."""


class LivePublication:
    """A record on its way out.

    Attributes:
        output: Name of the output.
        identity: Equal for equal records of an output, however often they are computed.
        value: The record, encoded; empty for the answer to a retry, which the ledger knows.
        key: Of the message.
        headers: Of the message, the identity among them.
        seen_at_us: When the broker appended its payment, by the flow's clock.
    """

    __slots__ = ("headers", "identity", "key", "output", "seen_at_us", "value")

    def __init__(
        self, output: str, identity: bytes, value: bytes, key: bytes, headers: list[Header], seen_at_us: int
    ) -> None:
        self.output = output
        self.identity = identity
        self.value = value
        self.key = key
        self.headers = headers
        self.seen_at_us = seen_at_us


def slot_of(output: str, identity: bytes, count: int) -> int:
    """Which of the slots a record belongs to.

    All labels of a payment have one: a correction must not be published before the label that it corrects.
    """
    return shard_of(identity.partition(b"\x1f")[0] if output == LABELLED_OUTCOMES else identity, count)


LiveEncoder = Callable[[Part], Iterable[tuple[str, Sequence[LivePublication]]]]
"""Makes publications of what the last step puts out, by slot."""


class LiveEncode:
    """Makes publications, one list a slot and part."""

    def __init__(self, stats: RunStats, encoder: WireEncoder, slots: tuple[str, ...]) -> None:
        """Prepare.

        Args:
            stats: Where counts and times go.
            encoder: Of the records.
            slots: Names of the output's slots; a record's is told by its identity.
        """
        self._stats = stats
        self._encoder = encoder
        self._slots = slots

    def __call__(self, part: Part) -> Iterable[tuple[str, Sequence[LivePublication]]]:
        """Called by bytewax for each part of the last step."""
        started = time.perf_counter()
        events = part.work
        if part.skip:
            events = sorted(part.work + part.skip, key=lambda item: item.order)
        out: dict[str, list[LivePublication]] = {}
        count, observer = self._stats.count, self._stats.observer
        for item in events:
            detail: Any = item.detail
            if item.kind == PAYMENT:
                event: Any = item.event
                identity = decision_identity(event.transaction_id)
                value = b""
                headers: list[Header] = [(IDENTITY, identity)]
                if item.duplicate:
                    count("duplicates", "retry")
                    if observer is not None:
                        observer.duplicate()
                else:
                    count("decisions", detail["action"])
                    if observer is not None:
                        observer.decision(detail)
                    if item.headers:
                        detail["trace_id"] = trace_id(item.headers)
                    value, more = self._encoder("decision", detail)
                    headers += [*more, *item.headers]
                made = LivePublication(
                    DECISIONS, identity, value, event.account_id.encode(), headers, item.ingested_at_us
                )
            elif item.kind == DEAD_LETTER:
                count("dead_letters", detail[0])
                if observer is not None:
                    observer.dead_letter(item.origin[0], detail[0])
                made = dead_letter_publication(item, self._encoder)
            else:
                continue  # a label has done its work in the windows
            out.setdefault(self._slots[slot_of(made.output, made.identity, len(self._slots))], []).append(made)
        self._stats.stage(ENCODE).observe(time.perf_counter() - started, len(part.work))
        return list(out.items())


def dead_letter_publication(item: InFlight, encoder: WireEncoder) -> LivePublication:
    """A dead letter on its way out."""
    topic, partition, offset = item.origin
    identity = dead_letter_identity(topic, partition, offset)
    record = dead_letter(item)
    record["payload"] = record["payload"][:_MOST_PAYLOAD]
    value, more = encoder("dead_letter", record)
    headers: list[Header] = [(IDENTITY, identity), *more]
    key = f"{topic}/{partition}".encode()
    return LivePublication(DEAD_LETTERS, identity, value, key, headers, item.ingested_at_us)
