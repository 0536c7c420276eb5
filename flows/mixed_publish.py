"""Outputs of several kinds: each record to the publisher of its output, and all that is asked to each of them.

An epoch is over when it is over for all; what a snapshot keeps is the places of all, by topic, and no two share one.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, cast

from flows.kafka_client import Offsets
from flows.live_hooks import LiveHooks
from flows.live_options import Start
from flows.stream_api import Publisher, Questions
from schemas.wire import Header


class SharedHooks:
    """Hooks of outputs of several kinds: their servers are up, and they are ready, when that holds for all kinds."""

    def __init__(self, hooks: LiveHooks, kinds: int) -> None:
        """Prepare.

        Args:
            hooks: Told of the worst of all kinds; all else as it is.
            kinds: How many there are.
        """
        self.hooks = hooks
        self._up = [True] * kinds
        self._ready = [(False, "not begun yet")] * kinds
        self._lock = threading.Lock()

    def of(self, kind: int) -> LiveHooks:
        """The hooks of one kind, numbered from 0."""
        return cast(LiveHooks, _KindHooks(self, kind))  # what it does not have itself it takes from `hooks`

    def broker_up(self, kind: int, side: str, up: bool) -> None:
        """Whether the servers of a kind answer."""
        with self._lock:
            self._up[kind] = up
            self.hooks.broker_up(side, all(self._up))

    def set_ready(self, kind: int, part: str, ready: bool, why: str) -> None:
        """Whether a kind is ready."""
        with self._lock:
            self._ready[kind] = (ready, why)
            waits = next((told for told in self._ready if not told[0]), None)
            self.hooks.set_ready(part, *(waits or (ready, why)))


class _KindHooks:
    """See `SharedHooks.of`."""

    def __init__(self, shared: SharedHooks, kind: int) -> None:
        self._shared = shared
        self._kind = kind

    def __getattr__(self, name: str) -> Any:
        return getattr(self._shared.hooks, name)

    def broker_up(self, side: str, up: bool, /) -> None:
        self._shared.broker_up(self._kind, side, up)

    def set_ready(self, part: str, ready: bool, why: str, /) -> None:
        self._shared.set_ready(self._kind, part, ready, why)


class MixedPublisher:
    """See `flows.stream_api.Publisher`."""

    def __init__(self, of_output: Mapping[str, Publisher]) -> None:
        """Prepare.

        Args:
            of_output: The publisher of each output; outputs of one kind share one.
        """
        self._of_output = of_output
        self._all = tuple(dict.fromkeys(of_output.values()))

    def produce(
        self, output: str, value: bytes, key: bytes, headers: list[Header], appended_us: int | None = None
    ) -> None:
        """Hand a record to who publishes the output.

        Raises:
            StreamError: The record is too large.
        """
        self._of_output[output].produce(output, value, key, headers, appended_us)

    def serve(self) -> None:
        """Hear of deliveries, without waiting."""
        for publisher in self._all:
            publisher.serve()

    def check(self) -> None:
        """Raise what ends the run.

        Raises:
            StreamError: Of any of them.
        """
        for publisher in self._all:
            publisher.check()

    def epoch_ends(self, *, final: bool) -> Offsets:
        """What all of them keep; what is completed later is completed in here, since the inner mappings are theirs.

        Raises:
            StreamError: A record could not be delivered.
        """
        ends: Offsets = {}
        for publisher in self._all:
            ends.update(publisher.epoch_ends(final=final))
        return ends

    def read_back(self, begin: Offsets) -> Iterator[Any]:
        """The records of one behind those of another; each knows its own topics.

        Raises:
            StreamPositionError: A topic does not go back so far.
            StreamError: A topic cannot be read.
        """
        return chain.from_iterable(publisher.read_back(begin) for publisher in self._all)

    def close(self) -> None:
        """Leave."""
        for publisher in self._all:
            publisher.close()


class MixedQuestions:
    """See `flows.stream_api.Questions`."""

    def __init__(self, of_topic: Mapping[str, Questions]) -> None:
        """Prepare.

        Args:
            of_topic: Who is asked about each topic.
        """
        self._of_topic = of_topic

    def began(self, topic: str, start: Start) -> dict[int, int]:
        """Where each partition is begun.

        Raises:
            StreamError: The topic cannot be read.
        """
        return self._of_topic[topic].began(topic, start)

    def ends(self, topic: str) -> dict[int, int]:
        """Where each partition ends.

        Raises:
            StreamError: The topic cannot be read.
        """
        return self._of_topic[topic].ends(topic)

    def close(self) -> None:
        """Leave."""
        for questions in dict.fromkeys(self._of_topic.values()):
            questions.close()
