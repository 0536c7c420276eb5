"""Outputs of several kinds: each record to the publisher of its output, and all that is asked to each of them.

An epoch is over when it is over for all; what a snapshot keeps is the places of all, by topic, and no two share one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

from flows.kafka_client import Offsets
from flows.live_options import Start
from flows.stream_api import Publisher, Questions
from schemas.wire import Header


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
