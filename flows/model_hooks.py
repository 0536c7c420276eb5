"""What the learning loop tells a live process of itself; `flows.live_metrics` counts it, without it nobody listens."""

from __future__ import annotations

from typing import Protocol


class ModelHooks(Protocol):
    """Called from the flow's thread and from those that load models; an implementation only counts."""

    def model_load(self, result: str, seconds: float, created_us: int, frozen: bool, /) -> None:
        """An announced model was loaded (result: loaded) or refused (the reason); `created_us` of the one in use."""

    def serving(self, champions: int, canaries: int, challengers: int, /) -> None:
        """So many announced models score payments now."""

    def released(self, result: str, /) -> None:
        """A release was announced, or failed to be stored."""

    def learned(self, label: str, source: str, delay_us: int, /) -> None:
        """A label was learned that came so long after its payment was decided."""

    def pending(self, shard: str, payments: int, size: int, /) -> None:
        """So many payments of a shard wait for their labels, in so many bytes."""


class NoModelHooks:
    """Nobody listens."""

    def model_load(self, result: str, seconds: float, created_us: int, frozen: bool, /) -> None:
        """Not counted."""

    def serving(self, champions: int, canaries: int, challengers: int, /) -> None:
        """Not counted."""

    def released(self, result: str, /) -> None:
        """Not counted."""

    def learned(self, label: str, source: str, delay_us: int, /) -> None:
        """Not counted."""

    def pending(self, shard: str, payments: int, size: int, /) -> None:
        """Not counted."""
