"""decisions, outcomes → label join → learn → labelled outcomes, releases, alerts; the unusable → dead-letters.

One process: the model learns in one order. The same parts as `weir decide`: source, ledger, recovery, watchdog. What
differs: records settle for a moment and are then read in the order of their appends, so that the labels' order, and
with it the models' bytes, are the same after a kill; and ticks, by which payments mature, go by whichever of the two
topics is further behind, so that an outage of outcomes does not turn fraud into genuine (docs/adr/0019). What is
announced on models.v1, by people and by this flow itself, is read back in the same order (docs/adr/0027).
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
from flows.kafka_source import SourceState
from flows.learn_encode import Announce, LearnEncode
from flows.live import run_live
from flows.live_encode import LiveEncoder
from flows.live_ingest import LiveIngest
from flows.live_options import LABELLED_OUTCOMES, MODELS, OUTCOMES, LiveOptions, Sides
from flows.profile import Profile
from flows.publish import ALERTS, DEAD_LETTERS, DECISIONS
from flows.source import Run
from flows.stage import EVERY, PASS, OpenStore, Part, Stage, run_stage
from flows.stats import RunStats
from flows.streams import Stream
from operators.inflight import LABEL, OUTCOME, PAYMENT, RELEASE, TICK, InFlight
from operators.label_join import LabelJoin
from operators.learn import Learn, TellLearned
from operators.releases import CHAMPION, Release
from operators.seen import SeenConfig
from schemas.errors import ConfigError
from state.shards import shard_of

LEARNS: Final = Sides(
    (DECISIONS, OUTCOMES, MODELS),
    (DECISIONS, OUTCOMES),
    (LABELLED_OUTCOMES, DEAD_LETTERS, MODELS, ALERTS),
    (MODELS, ALERTS),
)
"""Streams of `weir learn`."""
_SETTLED_S: Final = 0.2
"""Records of different partitions arrive within this of their appends on a sound cluster; shorter: a kill may find
them in another order than they had."""


Believe = Callable[[bytes | dict[str, Any], int], Release | None]
"""The release that a record at an offset announces; None when it is not believed, which was told."""


@dataclass(frozen=True, slots=True)
class LearnOptions:
    """What learning needs beside `LiveOptions`.

    Attributes:
        unmatched_us: For how long an outcome waits for its decision.
        release_every_us: Between releases at the least; None: none is made.
        announce: Stores, signs and announces releases; None: none is made.
        pending: Told (shard, payments that wait, their bytes) after each batch.
        learned: Told of each label learned.
        announces: champion: releases take effect in their model's role; challenger: not before a person says so.
        believe: Makes an item's detail of a record of models.v1; None: it is not read.
    """

    unmatched_us: int
    release_every_us: int | None = None
    announce: Announce | None = None
    announces: str = CHAMPION
    believe: Believe | None = None
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
    loop = profile.learning.loop
    if loop.canary is not None and learn.announce is not None and learn.announces != CHAMPION:
        message = (
            f"{profile.name}/learning.toml declares [canary], and learn.announce is {learn.announces!r}, by which "
            'nothing decides unless a person says so; expected learn.announce = "champion", or no [canary]'
        )
        raise ConfigError(message)
    if loop.promotion is not None and learn.announce is None:
        message = (
            f"{profile.name}/learning.toml declares [promotion], and there is nowhere to announce who is promoted; "
            "expected streams.models and [models] in weir.toml (docs/learning.md)"
        )
        raise ConfigError(message)
    if loop.drift is not None and profile.learning.model is None:
        message = (
            f"{profile.name}/learning.toml declares [drift] and no [model]; expected a model whose payments are watched"
        )
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
        # What is announced paces nothing: it may be still for months.
        paces = {stream.topic: known.get(stream.topic, 0) for name, stream in inputs.items() if name != MODELS}
        makers = {} if self._learn.believe is None else {MODELS: _announcement(self._learn.believe)}
        clock_us = start["clock_us"]
        return LiveIngest(self._profile, self._options, inputs, _now_us, clock_us, sequence, paces, makers)

    def encode(self, slots: tuple[str, ...], /) -> LiveEncoder:
        """See `LiveGraph`."""
        options = self._options
        return LearnEncode(self._stats, options.encoder, slots, self._learn.announce, alerts=ALERTS in options.outputs)

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
        drift = profile.learning.loop.drift
        join = LabelJoin(
            join_config(profile, learn.unmatched_us),
            profile.features,
            learn.pending,
            maps_features=self._options.encoder.maps_features,
            watched=0.0 if drift is None else drift.sample,
        )
        every_us = learn.release_every_us if learn.announce is not None else None
        flow = Dataflow("weir")
        parts = entered = op.input("events", flow, source)
        for stage in (
            Stage(join, _by_transaction(len(shards)), shards),
            Stage(
                Learn(
                    profile.features,
                    profile.restores(),
                    every_us,
                    learn.learned,
                    profile.learning.loop,
                    announces=learn.announces,
                ),
                _to_one,
                shards[:1],
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
    return 0 if item.kind in (LABEL, TICK, PAYMENT, RELEASE) else PASS


def _announcement(believe: Believe) -> Callable[[bytes | dict[str, Any], tuple[str, int, int]], InFlight]:
    """What makes an item of a record of models.v1: kind RELEASE, with a `Release` in its `detail`, or None."""

    def make(payload: bytes | dict[str, Any], origin: tuple[str, int, int]) -> InFlight:
        item = InFlight(RELEASE, (), None, origin, 0, [], [])
        item.detail = believe(payload, origin[2]) if payload else None  # nothing: a tombstone
        return item

    return make


def _now_us() -> int:
    return time.time_ns() // 1_000
