"""Messages → items for the first step: decoded, validated, tokenised, numbered and timed; ticks between them.

An item's time of arrival is the broker's for its message, never ahead of this process's clock and never going back. A
tick stands before the first item at or behind its boundary. Where the flow is paced by some of its topics, ticks go by
the one of them that is furthest behind: what that one has not reached has not come to pass.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from flows.decision_input import decision_input
from flows.ingest import STREAMS, dead_item, ingest
from flows.kafka_client import Offsets
from flows.label_input import label_input
from flows.live_options import CONTRACT_OF, LABELLED_OUTCOMES, TRACEPARENT, LiveOptions
from flows.profile import Profile
from flows.streams import Stream
from operators.inflight import LABEL, PAYMENT, TICK, InFlight
from schemas.errors import ContractError, StreamError
from schemas.events import Tick
from schemas.pan import redact_text
from schemas.positions import NO_OFFSET, Position
from schemas.reasons import TOO_LARGE
from schemas.wire import Header, WireDecoder

_RENEW_US: Final = 1_000_000
"""How far the clock that "far in the future" is measured against may lag behind; less makes decoders more often."""
_MOST_HEADER_BYTES: Final = 512
"""Of a header's value that is passed on; a longer one is no trace but cargo, and left out."""
_TRACE: Final = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")

Make = Callable[[bytes | dict[str, Any], tuple[str, int, int]], InFlight]


class LiveIngest:
    """Makes items of one process's messages.

    Attributes:
        offsets: Topic -> partition -> offset behind the last message made an item.
        clock_us: Largest time of arrival so far.
        sequence: Number of the next item.
        event_times: (topic, partition) -> event time of the last event read.
        unread: Messages that could not be decoded yet, a registry being down; they come first at the next call.
        why: What was wrong then.
        paces: As given, as far as they have come now.
    """

    def __init__(
        self,
        profile: Profile,
        options: LiveOptions,
        inputs: Mapping[str, Stream],
        now_us: Callable[[], int],
        clock_us: int,
        sequence: int,
        paces: Mapping[str, int] | None = None,
        makers: Mapping[str, Make] | None = None,
    ) -> None:
        """Prepare.

        Args:
            profile: The profile.
            options: Of the flow.
            inputs: Streams read.
            now_us: This process's clock.
            clock_us: Where an earlier run stopped.
            sequence: Likewise.
            paces: Topics that ticks go by, with how far each has come; None: ticks go by all that is read.
            makers: By stream, what makes items of its records, where that is no business of this module.
        """
        self._more = dict(makers or {})
        self.offsets: Offsets = {}
        self.paces = None if paces is None else dict(paces)
        self.clock_us = clock_us
        self.sequence = sequence
        self.event_times: dict[tuple[str, int], int] = {}
        self.unread: list[Any] = []
        self.why = ""
        self._profile = profile
        self._options = options
        self._now_us = now_us
        self._stream_of = {stream.topic: name for name, stream in inputs.items()}
        self._decoders: dict[str, WireDecoder] = {
            stream.topic: options.decoder(name) for name, stream in inputs.items()
        }
        self._tick_us = profile.learning.tick_us
        self._passed_on = frozenset(options.headers)
        self._enricher = profile.enricher()
        self._makers: dict[str, Make] = {}
        self._made_at_us = 0
        self._renew()

    def contract_of(self, topic: str) -> str:
        """The contract of an input topic's records."""
        return CONTRACT_OF[self._stream_of[topic]]

    def items(self, messages: Sequence[Any]) -> list[InFlight]:
        """The items of messages, in order, up to one that a decoder cannot read now."""
        out: list[InFlight] = []
        self.unread = []
        now_us = self._now_us()
        tick_us = self._tick_us
        for number, message in enumerate(messages):
            topic, partition, offset = origin = message.topic(), message.partition(), message.offset()
            appended_us = min(message.timestamp()[1] * 1_000, now_us)
            if self.paces is not None and appended_us > self.paces.get(topic, appended_us):
                self._pace(self.paces, topic, appended_us, out)
            if appended_us > self.clock_us:
                if self.paces is None and appended_us // tick_us != self.clock_us // tick_us:
                    self._tick(appended_us // tick_us * tick_us, out)
                self.clock_us = appended_us
                if appended_us - self._made_at_us >= _RENEW_US:
                    self._renew()
            try:
                item = self._item(message, origin)
            except StreamError as error:
                self.unread, self.why = list(messages[number:]), str(error)
                break
            if item.kind == LABEL and isinstance(offset, Position):
                # Where a label stood is never told, and a label that waits for its payment is kept with 64 bits for it.
                item.origin = (topic, partition, NO_OFFSET)
            item.order = (self.sequence,)
            item.ingested_at_us = self.clock_us
            self.sequence += 1
            self.offsets[topic][partition] = offset + 1
            if item.event is not None:
                event: Any = item.event
                self.event_times[topic, partition] = event.event_time_us
            out.append(item)
        return out

    def _pace(self, paces: dict[str, int], topic: str, appended_us: int, out: list[InFlight]) -> None:
        before = min(paces.values()) // self._tick_us
        paces[topic] = appended_us
        now = min(paces.values()) // self._tick_us
        if now > before:
            self._tick(now * self._tick_us, out)

    def _tick(self, boundary_us: int, out: list[InFlight]) -> None:
        if self.clock_us <= 0:
            return  # nothing came before the first event
        tick = InFlight(TICK, (self.sequence,), Tick(event_time_us=boundary_us), ("ticks", 0, 0), boundary_us, [], [])
        self.sequence += 1
        out.append(tick)

    def _item(self, message: Any, origin: tuple[str, int, int]) -> InFlight:
        value: bytes = message.value() or b""  # without a value: not JSON, told as such
        headers: list[Header] = message.headers() or []
        limit = self._options.limits.max_payload_bytes
        try:
            if len(value) > limit:
                raise ContractError(TOO_LARGE, f"{len(value)} bytes, allowed are {limit}")
            payload = self._decoders[origin[0]](value, headers)
        except ContractError as error:
            return dead_item(value, origin, error)
        item = self._makers[origin[0]](payload, origin)
        if headers and item.kind == PAYMENT:
            item.headers = tuple(
                (name, _clean(name, held))
                for name, held in headers
                if name in self._passed_on and held is not None and len(held) <= _MOST_HEADER_BYTES
            )
        return item

    def _renew(self) -> None:
        """Make the decoders anew, with the clock as it is now."""
        options, profile = self._options, self._profile
        self._made_at_us = self.clock_us
        for topic, stream in self._stream_of.items():
            if stream in self._more:
                self._makers[topic] = self._more[stream]
            elif stream == LABELLED_OUTCOMES:
                self._makers[topic] = label_input(profile.features, options.limits, profile.learning.genuine_sample)
            elif stream == "decisions":
                self._makers[topic] = decision_input(profile.features)
            elif stream in STREAMS:
                self._makers[topic] = ingest(
                    stream, profile.features, self._enricher, options.limits, options.tokeniser, self.clock_us
                )


def _clean(name: str, value: bytes) -> bytes:
    """A header's value without card numbers; a well-formed trace stays, though its digits may look like one."""
    if name == TRACEPARENT and _TRACE.fullmatch(value):
        return value
    return redact_text(value.decode("utf-8", "replace")).encode()


def trace_id(headers: Iterable[Header]) -> str | None:
    """The trace that a payment belongs to, by its header traceparent (W3C Trace Context); None without."""
    for name, value in headers:
        if name == TRACEPARENT:
            found = _TRACE.fullmatch(value)
            return found[1].decode() if found else None
    return None
