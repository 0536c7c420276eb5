"""One entity of the feature set as a step: its windows, travel, reputation and identity, on one set of records."""

from __future__ import annotations

from typing import Protocol

from operators.features import EntitySpec, FeatureSet
from operators.identity import Identity
from operators.inflight import DEVICE_EVENT, IDENTITY_EVENT, LABEL, PAYMENT, InFlight
from operators.reputation import Reputation
from operators.travel import Travel
from operators.velocity import Velocity
from state.api import StepStore


class _Part(Protocol):
    def on_batch(self, store: StepStore, batch: list[InFlight]) -> list[InFlight]: ...

    def on_snapshot(self, store: StepStore) -> None: ...


class Entity:
    """The step of one entity; it is named like the entity.

    Attributes:
        kinds: Kinds of events that this entity keeps something of; others need not come by.
    """

    def __init__(self, feature_set: FeatureSet, spec: EntitySpec, predecessor: str | None = None) -> None:
        """Prepare the parts that `spec` asks for.

        Args:
            feature_set: The feature set.
            spec: The entity in it.
            predecessor: Id of the feature set that ran on this state before, None if none did.
        """
        self.name = spec.name
        self._parts: list[_Part] = [Velocity(feature_set, spec, predecessor=predecessor)]
        kinds = {PAYMENT}
        streams = {stream.event for stream in spec.streams}
        if "device_event" in streams:
            kinds.add(DEVICE_EVENT)
        if "identity_event" in streams:
            kinds.add(IDENTITY_EVENT)
        if spec.fraud_rate:
            kinds.add(LABEL)
        if spec.travel:
            self._parts.append(Travel(feature_set, spec))
            kinds.add(DEVICE_EVENT)
        if spec.reputation:
            self._parts.append(Reputation(feature_set, spec))
            kinds.add(DEVICE_EVENT)
        if spec.identity:
            self._parts.append(Identity(feature_set, spec))
            kinds.add(IDENTITY_EVENT)
        self.kinds = frozenset(kinds)

    def on_batch(self, store: StepStore, batch: list[InFlight]) -> list[InFlight]:
        """Fill the entity's slots of each payment, and remember the batch."""
        for part in self._parts:
            batch = part.on_batch(store, batch)
        return batch

    def on_snapshot(self, store: StepStore) -> None:
        """Let every part write what it holds back and sweep what has expired."""
        for part in self._parts:
            part.on_snapshot(store)
