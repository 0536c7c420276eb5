"""What a live flow is told, whoever tells it: weir.toml, a test, a library call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final

from flows.live_hooks import LiveHooks, NoHooks
from flows.streams import Stream, parse_stream, refuse_mixed
from schemas.errors import ConfigError
from schemas.tokens import TokenKeys
from schemas.validate import Limits
from schemas.wire import JsonDecoder, JsonEncoder, WireDecoder, WireEncoder
from state.keys import StateKeys
from state.store import StateOptions

TRANSACTIONS: Final = "transactions"
LABELLED_OUTCOMES: Final = "labelled_outcomes"
INPUTS: Final = (TRANSACTIONS, "device_events", "identity_events", LABELLED_OUTCOMES)
OUTPUTS: Final = ("decisions", "dead_letters")
OUTCOMES: Final = "outcomes"
MODELS: Final = "models"
"""Written and read back by the learning flow; read by people's tools and, apart from its inputs, by decide."""
CONTRACT_OF: Final = {
    **dict(zip(INPUTS, ("transaction", "device_event", "identity_event", "labelled_outcome"), strict=True)),
    "decisions": "decision",
    OUTCOMES: "outcome",
    MODELS: "model_release",
}
"""Contract by input stream."""
EARLIEST: Final = "earliest"
LATEST: Final = "latest"
TRACEPARENT: Final = "traceparent"

Start = str | int
"""EARLIEST, LATEST, or microseconds since 1970: the first record appended then or later."""


@dataclass(frozen=True, slots=True)
class Sides:
    """Which streams a flow reads and writes.

    Attributes:
        inputs: All that it may read.
        needed: Those that it must.
        outputs: All that it may write.
        optional: Those of them that it may do without.
    """

    inputs: tuple[str, ...]
    needed: tuple[str, ...]
    outputs: tuple[str, ...]
    optional: tuple[str, ...] = ()


DECIDES: Final = Sides(INPUTS, (TRANSACTIONS,), OUTPUTS)
"""`weir decide`."""


@dataclass(frozen=True, slots=True)
class LiveOptions:
    """What to read, where to publish, and how.

    Attributes:
        state: Folder of state, ledger, recovery store and manifest.
        inputs: URL by stream (INPUTS); transactions must be there.
        outputs: URL by stream (OUTPUTS); both must be there.
        shards: Parts of the key space and slots of the output, fixed for the life of a state folder.
        epoch: Time between commits.
        batch: Records read at once.
        linger: Time from one batch to the next at the least, in which records gather.
        kafka: librdkafka properties of all clients, security included.
        group: Consumer group that offsets are told to, for lag tools; what counts stands in the recovery store.
        start: By stream, where a topic is begun when the state does not know it; default EARLIEST.
        headers: Names of the payment's headers that its decision repeats.
        decoders: By input stream; default JSON.
        encoder: Of decisions and dead letters.
        output_decoders: By contract, reads back what was published where records have no headers; default JSON.
        limits: Bounds of what is accepted.
        tokeniser: Keys for card numbers, None when none are expected.
        deadlines: Whether the policy's deadline counts.
        transactional: Whether records are published in transactions, for consumers that read committed ones.
        transaction_s: A transaction is committed at the first batch after so long; the epoch's end commits too.
        memory: What the state of this process may cost.
        state_keys: Keys that the state is encrypted with, None: it is not.
        process: (this process's number, addresses of all) in a cluster, None alone.
        refresh_s: Time between looks for new partitions and the outputs' ends.
        hooks: Told what source and sink do.
        sides: Which streams the flow has.
        settle_s: Records are held for so long behind their append, and then delivered in the order of it, whichever
            partition they come from; 0: as they come.
    """

    state: Path
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    shards: int = 8
    epoch: timedelta = timedelta(seconds=1)
    batch: int = 500
    linger: timedelta = timedelta(milliseconds=2)
    kafka: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    group: str = "weir-decide"
    start: Mapping[str, Start] = field(default_factory=dict)
    headers: tuple[str, ...] = (TRACEPARENT, "tracestate")
    decoders: Mapping[str, WireDecoder] = field(default_factory=dict)
    encoder: WireEncoder = field(default_factory=JsonEncoder)
    output_decoders: Mapping[str, WireDecoder] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    tokeniser: TokenKeys | None = None
    deadlines: bool = True
    transactional: bool = False
    transaction_s: float = 0.1
    memory: StateOptions = field(default_factory=StateOptions)
    state_keys: StateKeys | None = None
    process: tuple[int, tuple[str, ...]] | None = None
    refresh_s: float = 10.0
    hooks: LiveHooks = field(default_factory=NoHooks)
    sides: Sides = DECIDES
    settle_s: float = 0.0

    @property
    def number(self) -> int:
        """This process's number."""
        return self.process[0] if self.process else 0

    @property
    def processes(self) -> int:
        """Of how many."""
        return len(self.process[1]) if self.process else 1

    def decoder(self, stream: str) -> WireDecoder:
        """The decoder of an input stream."""
        return self.decoders.get(stream) or JsonDecoder()

    def streams(self) -> tuple[dict[str, Stream], dict[str, Stream]]:
        """Inputs and outputs, parsed.

        Raises:
            ConfigError: A URL is wrong, one is missing, nobody knows the name, or two share a topic.
        """
        sides = self.sides
        inputs = _parsed("input", self.inputs, sides.inputs, sides.needed)
        needed = tuple(name for name in sides.outputs if name not in sides.optional)
        outputs = _parsed("output", self.outputs, sides.outputs, needed)
        taken: dict[Stream, str] = {}
        for name, stream in (*inputs.items(), *outputs.items()):
            if stream in taken and (taken[stream], name) != (MODELS, MODELS):
                message = f"streams {taken[stream]} and {name}: expected a topic each, found {stream.topic!r} for both"
                raise ConfigError(message)
            taken[stream] = name
        refuse_mixed(inputs)
        for side, streams in (("inputs", inputs), ("outputs", outputs)):
            names = [stream.topic for stream in streams.values()]
            for name, stream in streams.items():
                if names.count(stream.topic) > 1:
                    message = f"{side} {name}: two streams are called {stream.topic!r}; expected a name each"
                    raise ConfigError(message)
        return inputs, outputs


def _parsed(side: str, urls: Mapping[str, str], known: tuple[str, ...], needed: tuple[str, ...]) -> dict[str, Stream]:
    for name in urls:
        if name not in known:
            message = f"{side} {name!r}: expected one of {', '.join(known)}"
            raise ConfigError(message)
    for name in needed:
        if name not in urls:
            message = f"{side} {name}: expected a URL, found none"
            raise ConfigError(message)
    return {name: parse_stream(name, urls[name]) for name in known if name in urls}
