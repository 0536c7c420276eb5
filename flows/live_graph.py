"""What a live flow is made of beside source, sink and state: its ingest, its steps, its encoder. Here: `weir decide`'s.

flows/learn.py has those of `weir learn`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from bytewax.dataflow import Dataflow
from bytewax.inputs import Source

from flows.decide import Attach, build
from flows.epochs import Epochs
from flows.kafka_source import SourceState
from flows.live_encode import LiveEncode, LiveEncoder
from flows.live_ingest import LiveIngest
from flows.live_options import LiveOptions
from flows.profile import Profile
from flows.stage import OpenStore, Part
from flows.state_manifest import predecessor
from flows.stats import RunStats
from flows.streams import Stream
from operators.steering import ModelSource


class LiveGraph(Protocol):
    """What `flows.live` runs.

    Attributes:
        remembered_us: For how long the ledger answers retries.
    """

    remembered_us: int

    def ingest(self, inputs: Mapping[str, Stream], start: SourceState, sequence: int, /) -> LiveIngest:
        """Makes items of messages, from where an earlier run stood."""
        ...

    def encode(self, slots: tuple[str, ...], /) -> LiveEncoder:
        """Makes publications of what the last step puts out."""
        ...

    def build(
        self,
        source: Source[Part],
        manifest: Mapping[str, Any],
        open_store: OpenStore,
        shards: tuple[str, ...],
        epochs: Epochs,
        attach: Attach,
        /,
    ) -> Dataflow:
        """The dataflow; `attach` adds the outputs."""
        ...


class DecideGraph:
    """`weir decide`; see `LiveGraph`."""

    def __init__(
        self,
        profile: Profile,
        options: LiveOptions,
        stats: RunStats,
        now_us: Callable[[], int],
        models: ModelSource | None = None,
    ) -> None:
        """Prepare.

        Args:
            profile: The profile.
            options: Of the flow.
            stats: Where stages report to.
            now_us: This process's clock.
            models: Gives the model that decides; None: the profile's own, which learns nothing in a live flow.
        """
        self.remembered_us = profile.seen_config(outcomes=False).keep_us
        self._profile = profile
        self._options = options
        self._stats = stats
        self._now_us = now_us
        self._models = models

    def ingest(self, inputs: Mapping[str, Stream], start: SourceState, sequence: int, /) -> LiveIngest:
        """See `LiveGraph`."""
        return LiveIngest(self._profile, self._options, inputs, self._now_us, start["clock_us"], sequence)

    def encode(self, slots: tuple[str, ...], /) -> LiveEncoder:
        """See `LiveGraph`."""
        return LiveEncode(self._stats, self._options.encoder, slots)

    def build(
        self,
        source: Source[Part],
        manifest: Mapping[str, Any],
        open_store: OpenStore,
        shards: tuple[str, ...],
        epochs: Epochs,
        attach: Attach,
        /,
    ) -> Dataflow:
        """See `LiveGraph`."""
        options, profile = self._options, self._profile
        in_order = options.process is None
        decide = profile.decide(
            outcomes=False,
            in_order=in_order,
            maps_features=options.encoder.maps_features,
            now_us=self._now_us,
            deadlines=options.deadlines,
            parts=len(shards),
            models=self._models,
        )
        entities = profile.entities(predecessor(dict(manifest)))
        return build(
            source,
            profile.seen(outcomes=False),
            entities,
            decide,
            open_store,
            None,
            shards,
            self._stats,
            epochs,
            in_order=in_order,
            attach=attach,
        )
