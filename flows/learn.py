"""decisions, outcomes → label join → learn → labelled outcomes, releases; the unusable → dead-letters.

One process: the model learns in one order. The same parts as `weir decide`: source, ledger, recovery, watchdog. What
differs: records settle for a moment and are then read in the order of their appends, so that the labels' order, and
with it the model's bytes, are the same after a kill; and ticks, by which payments mature, go by whichever of the two
topics is further behind, so that an outage of outcomes does not turn fraud into genuine (docs/adr/0019).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import Source

from flows.decide import ROUTE, Attach
from flows.epochs import Epochs
from flows.kafka_sink import MODELS
from flows.kafka_source import SourceState
from flows.learn_encode import Announce, LearnEncode
from flows.live import run_live
from flows.live_encode import LiveEncoder
from flows.live_ingest import LiveIngest
from flows.live_options import LABELLED_OUTCOMES, OUTCOMES, LiveOptions, Sides
from flows.profile import Profile
from flows.publish import DEAD_LETTERS, DECISIONS
from flows.source import Run
from flows.stage import EVERY, PASS, OpenStore, Part, Stage, run_stage
from flows.stats import RunStats
from flows.streams import Stream
from operators.inflight import LABEL, OUTCOME, PAYMENT, TICK, InFlight
from operators.label_join import LabelJoin
from operators.learn import Learn, TellLearned
from operators.model import restore_model
from operators.seen import SeenConfig
from schemas.errors import ConfigError
from state.shards import shard_of

LEARNS: Final = Sides(
    (DECISIONS, OUTCOMES), (DECISIONS, OUTCOMES), (LABELLED_OUTCOMES, DEAD_LETTERS, MODELS), (MODELS,)
)
"""Streams of `weir learn`."""
_SETTLED_S: Final = 0.2
"""Records of different partitions arrive within this of their appends on a sound cluster; shorter: a kill may find
them in another order than they had."""


@dataclass(frozen=True, slots=True)
class LearnOptions:
    """What learning needs beside `LiveOptions`.

    Attributes:
        unmatched_us: For how long an outcome waits for its decision.
        release_every_us: Between releases at the least; None: none is made.
        announce: Stores, signs and announces releases; None: none is made.
        pending: Told (shard, payments that wait, their bytes) after each batch.
        learned: Told of each label learned.
    """

    unmatched_us: int
    release_every_us: int | None = None
    announce: Announce | None = None
    pending: Callable[[str, int, int], None] = lambda _shard, _payments, _bytes: None
    learned: TellLearned | None = None


def run_learn(profile: Profile, options: LiveOptions, learn: LearnOptions, run: Run) -> None:
    """Learn until `run.stop` is set.

    Raises:
        ConfigError: Streams, topics or the state folder cannot be used, or several processes are asked for.
        StateError: The state cannot be resumed, or another run has it.
        StreamError: A stream cannot be read or written.
    """
    if options.process is not None:
        message = "weir learn: runs as one process, since a model learns in one order; start it without --process"
        raise ConfigError(message)
    if options.settle_s < _SETTLED_S:
        message = f"learn.settle: expected at least {_SETTLED_S:g} s, found {options.settle_s:g} s"
        raise ConfigError(message)
    if MODELS in options.outputs and learn.announce is None:
        message = "streams.models: expected [models] artefacts and keys beside it, by which releases are announced"
        raise ConfigError(message)
    run_live(profile, options, run, LearnGraph(profile, options, learn, run.stats))


def join_config(profile: Profile, unmatched_us: int) -> SeenConfig:
    """How the join remembers; a decision that is told again later than its label could come is told apart by nobody."""
    learning = profile.learning
    return SeenConfig(
        seen_ttl_us=0,
        maturity_us=learning.maturity_us,
        correction_horizon_us=learning.correction_horizon_us,
        genuine_share=learning.genuine_sample,
        held_us=unmatched_us,
    )


class LearnGraph:
    """`weir learn`; see `flows.live_graph.LiveGraph`."""

    def __init__(self, profile: Profile, options: LiveOptions, learn: LearnOptions, stats: RunStats) -> None:
        self.remembered_us = 0  # nothing here is answered
        self._profile = profile
        self._options = options
        self._learn = learn
        self._stats = stats

    def ingest(self, inputs: Mapping[str, Stream], start: SourceState, sequence: int, /) -> LiveIngest:
        """See `LiveGraph`."""
        known = start.get("paces", {})
        paces = {stream.topic: known.get(stream.topic, 0) for stream in inputs.values()}
        return LiveIngest(self._profile, self._options, inputs, _now_us, start["clock_us"], sequence, paces)

    def encode(self, slots: tuple[str, ...], /) -> LiveEncoder:
        """See `LiveGraph`."""
        return LearnEncode(self._stats, self._options.encoder, slots, self._learn.announce)

    def build(
        self,
        source: Source[Part],
        _manifest: Mapping[str, Any],
        open_store: OpenStore,
        shards: tuple[str, ...],
        epochs: Epochs,
        attach: Attach,
        /,
    ) -> Dataflow:
        """See `LiveGraph`."""
        profile, learn = self._profile, self._learn
        restore = None if profile.learning.model is None else restore_model(profile.features, profile.learning)
        join = LabelJoin(
            join_config(profile, learn.unmatched_us),
            profile.features,
            learn.pending,
            maps_features=self._options.encoder.maps_features,
        )
        every_us = learn.release_every_us if learn.announce is not None else None
        flow = Dataflow("weir")
        parts = entered = op.input("events", flow, source)
        for stage in (
            Stage(join, _by_transaction(len(shards)), shards),
            Stage(
                Learn(profile.features, restore, every_us, learn.learned, profile.learning.loop), _to_one, shards[:1]
            ),
        ):
            own, routing = self._stats.stage(stage.step.name), self._stats.stage(ROUTE)
            parts = run_stage(parts, stage, open_store, own, routing, epochs, in_order=True)
        attach(entered, parts)
        return flow


def _by_transaction(count: int) -> Callable[[InFlight], int]:
    def route(item: InFlight) -> int:
        if item.kind in (PAYMENT, OUTCOME):
            event: Any = item.event
            return shard_of(event.transaction_id.encode(), count)
        return EVERY if item.kind == TICK else PASS

    return route


def _to_one(item: InFlight) -> int:
    return 0 if item.kind in (LABEL, TICK) else PASS


def _now_us() -> int:
    return time.time_ns() // 1_000
