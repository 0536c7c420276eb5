"""Where topics begin and end, asked before a live flow's state folder is made."""

from __future__ import annotations

from collections.abc import Iterable

from confluent_kafka import Consumer

from flows.kafka_client import BrokerWatch, asked, one_cluster, properties
from flows.live_manifest import begin_at, ends_of
from flows.live_options import LiveOptions, Start
from flows.source import Run
from flows.streams import KafkaStream


class KafkaQuestions:
    """Asks the brokers of one side, and waits for them."""

    def __init__(self, side: str, streams: Iterable[KafkaStream], options: LiveOptions, run: Run) -> None:
        """Connect.

        Args:
            side: inputs or outputs.
            streams: Of that side.
            options: Of the flow.
            run: Its pulse is told of every wait.

        Raises:
            ConfigError: The streams name different brokers.
        """
        bootstrap = one_cluster(side, streams)
        given = {**options.kafka, "group.id": options.group, "enable.auto.commit": False}
        self._watch = BrokerWatch(side, bootstrap, options.hooks)
        self._client = Consumer(properties(given, bootstrap, f"weir-prepare-{options.number}", self._watch))
        self._run = run

    def began(self, topic: str, start: Start) -> dict[int, int]:
        """Offsets at which a topic is begun.

        Raises:
            StreamError: The topic cannot be read.
        """
        client, run = self._client, self._run
        return asked(lambda: begin_at(client, topic, start), self._watch, run.pulse, topic, run.stop.is_set, client)

    def ends(self, topic: str) -> dict[int, int]:
        """End offsets of a topic.

        Raises:
            StreamError: The topic cannot be read.
        """
        client, run = self._client, self._run
        return asked(lambda: ends_of(client, topic), self._watch, run.pulse, topic, run.stop.is_set, client)

    def close(self) -> None:
        """Leave."""
        self._client.close()
