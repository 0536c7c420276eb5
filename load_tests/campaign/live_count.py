"""What a consumer that knows nothing of Weir finds in the decisions topic, against what was sent."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import orjson
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from load_tests.campaign.live_load import told_of

_AT_ONCE: Final = 5_000
_ASK_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Count:
    """What is wrong.

    Attributes:
        lost: Payments without a decision.
        twice: Decisions too many, answers to retries not counted.
        contradicted: Records that differ from an earlier one of their payment.
        unanswered: Retries without an answer.
        overanswered: Answers too many.
        unknown: Decisions of payments that nobody sent.
        dead: Dead letters.
    """

    lost: int
    twice: int
    contradicted: int
    unanswered: int
    overanswered: int
    unknown: int
    dead: int

    @property
    def clean(self) -> bool:
        """Whether nothing is."""
        return not any(
            (self.lost, self.twice, self.contradicted, self.unanswered, self.overanswered, self.unknown)
        ) and (not self.dead)

    def __str__(self) -> str:
        return (
            f"{self.lost} lost, {self.twice} twice, {self.contradicted} contradicted, {self.unanswered} retries "
            f"unanswered, {self.overanswered} answered too often, {self.unknown} unknown, {self.dead} dead letters"
        )


class Reader:
    """Reads decisions and dead letters from their first record on; `look` goes on where the last one stopped."""

    def __init__(self, bootstrap: str, decisions: str, dead_letters: str, isolation: str = "read_uncommitted") -> None:
        """Connect; the topics are there."""
        told = {"group.id": "campaign", "enable.auto.commit": False, "isolation.level": isolation}
        told["enable.partition.eof"] = True
        self._consumer = Consumer({"bootstrap.servers": bootstrap, "log_level": 0, **told})
        self._decisions = decisions
        self._originals: Counter[str] = Counter()
        self._answers: Counter[str] = Counter()
        self._first: dict[str, bytes] = {}
        self._contradicted = 0
        self._dead = 0
        self._next: dict[tuple[str, int], int] = {}
        for topic in (decisions, dead_letters):
            for number in self._consumer.list_topics(topic, timeout=_ASK_S).topics[topic].partitions:
                self._next[topic, number] = 0

    def look(self) -> None:
        """Read on to where the topics end now."""
        ends = {place: self._end(*place) for place in self._next}
        waiting = {place for place, end in ends.items() if self._next[place] < end}
        self._consumer.assign([TopicPartition(*place, self._next[place]) for place in waiting])
        while waiting:
            for message in self._consumer.consume(_AT_ONCE, timeout=0.5):
                value, offset = message.value(), message.offset()
                place = (str(message.topic()), int(message.partition() or 0))
                error = message.error()
                if error is not None and error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - its public name
                    waiting.discard(place)  # what is left before its end are marks of transactions
                if error is not None or value is None or offset is None or offset >= ends.get(place, 0):
                    continue
                self._next[place] = offset + 1
                self._take(place[0], value)
                if offset + 1 >= ends[place]:
                    waiting.discard(place)
        self._consumer.unassign()

    def _end(self, topic: str, number: int) -> int:
        """Where a partition ends; a broker that has just come back is asked until it leads it."""
        until = time.monotonic() + _ASK_S
        while True:
            try:
                bounds = self._consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=5.0)
            except KafkaException:
                if time.monotonic() > until:
                    raise
                bounds = None
            if bounds is not None:
                return bounds[1]
            if time.monotonic() > until:
                message = f"{topic}/{number}: the broker does not tell where it ends"
                raise RuntimeError(message)
            time.sleep(0.2)

    def _take(self, topic: str, value: bytes) -> None:
        if topic != self._decisions:
            self._dead += 1
            return
        record = orjson.loads(value)
        name = record["transaction_id"]
        (self._answers if record["duplicate"] else self._originals)[name] += 1
        digest = hashlib.blake2b(told_of(record).encode(), digest_size=16).digest()
        self._contradicted += self._first.setdefault(name, digest) != digest

    @property
    def decided(self) -> int:
        """Decisions and answers read so far."""
        return self._originals.total() + self._answers.total()

    def count(self, sent: Mapping[str, int], *, at_end: bool) -> Count:
        """Compare.

        Args:
            sent: Transaction id -> copies sent and taken.
            at_end: Whether all must have been decided; before, only what is too much or contradicts is wrong.
        """
        sent = dict(sent)  # in one step: the load goes on adding to it in its own thread
        originals, answers = self._originals, self._answers
        wanted = {name: copies - 1 for name, copies in sent.items() if copies > 1}
        return Count(
            lost=sum(name not in originals for name in sent) if at_end else 0,
            twice=sum(found - 1 for found in originals.values() if found > 1),
            contradicted=self._contradicted,
            unanswered=sum(max(0, more - answers[name]) for name, more in wanted.items()) if at_end else 0,
            overanswered=sum(max(0, found - wanted.get(name, 0)) for name, found in answers.items()) if at_end else 0,
            unknown=sum(name not in sent for name in originals | answers) if at_end else 0,
            dead=self._dead,
        )

    def close(self) -> None:
        """Leave."""
        self._consumer.close()
