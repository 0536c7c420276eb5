"""A cluster's topics: described, created, changed, through librdkafka's admin client; errors say what to do."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from confluent_kafka import KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # public, but its __init__ lists no __all__
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourceType,
)

from flows.kafka_advice import explain
from flows.topics import Step, Topic
from schemas.errors import StreamError

# A cluster answers in milliseconds; a controller being elected in seconds. Longer makes a wrong address tedious.
_TIMEOUT_S: Final = 15.0
_LOOK_S: Final = 1.0
_HOPELESS: Final = ("_AUTHENTICATION", "_SSL", "SASL_AUTHENTICATION_FAILED")


class Admin:
    """Topics of one cluster."""

    def __init__(self, brokers: str, properties: Mapping[str, Any]) -> None:
        """Connect on first use.

        Args:
            brokers: HOST:PORT, for messages.
            properties: Of a client of ours (flows/kafka_properties.py).
        """
        self._brokers = brokers
        self._seen: list[tuple[str, str]] = []
        self._client = AdminClient(
            {
                **properties,
                "log_level": 0,  # what went wrong is told once, by us
                "error_cb": lambda error: self._seen.append((error.name(), error.str())),  # type: ignore[dict-item]  # the stub knows no callbacks
            }
        )

    def describe(self, names: Sequence[str]) -> dict[str, Topic]:
        """Those of the topics that exist.

        Raises:
            StreamError: The cluster cannot be reached or refuses.
        """
        wanted = set(names)
        known = {name: one for name, one in self._do(self._listed).topics.items() if name in wanted}
        if not known:
            return {}
        resources = [ConfigResource(ResourceType.TOPIC, name) for name in known]
        told = self._do(lambda: self._client.describe_configs(resources, request_timeout=_TIMEOUT_S))
        configs = {one.name: self._do(future.result) for one, future in told.items()}
        return {
            name: Topic(
                name,
                len(one.partitions),
                min((len(part.replicas) for part in one.partitions.values()), default=0),
                {key: entry.value for key, entry in configs[name].items()},
            )
            for name, one in known.items()
        }

    def apply(self, step: Step) -> None:
        """Do one step of a plan; "keep" and "refuse" do nothing.

        Raises:
            StreamError: The cluster cannot be reached or refuses.
        """
        topic = step.topic
        futures: Mapping[Any, Any] = {}
        if step.action == "create":
            new = NewTopic(topic.name, topic.partitions, topic.replicas, config=dict(topic.config))
            futures = self._do(lambda: self._client.create_topics([new], request_timeout=_TIMEOUT_S))
        elif step.action == "grow":
            more = NewPartitions(topic.name, topic.partitions)
            futures = self._do(lambda: self._client.create_partitions([more], request_timeout=_TIMEOUT_S))
        elif step.action == "set":
            entries = [
                ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)
                for key, value in step.config.items()
            ]
            resource = ConfigResource(ResourceType.TOPIC, topic.name, incremental_configs=entries)
            futures = self._do(lambda: self._client.incremental_alter_configs([resource], request_timeout=_TIMEOUT_S))
        for future in futures.values():
            self._do(future.result)
        # The controller says yes before the brokers know; who asks at once would not find the topic.
        deadline = time.monotonic() + _TIMEOUT_S
        while step.action == "create" and not self.describe([topic.name]):
            if time.monotonic() > deadline:
                message = f"{self._brokers}: {topic.name} was created, and no broker shows it yet; run plan again"
                raise StreamError(message)
            time.sleep(0.1)

    def _listed(self) -> Any:
        """All topics; what no patience cures is told at once."""
        deadline = time.monotonic() + _TIMEOUT_S
        while True:
            try:
                return self._client.list_topics(timeout=_LOOK_S)
            except KafkaException:
                self._client.poll(0)
                if time.monotonic() > deadline or any(name in _HOPELESS for name, _ in self._seen):
                    raise

    def _do(self, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except KafkaException as failure:
            error = failure.args[0]
            self._client.poll(0)
            # A time-out says little; what the connection met meanwhile says why.
            deadline = time.monotonic() + 1
            while not self._seen and error.name() in {"_TRANSPORT", "_TIMED_OUT"} and time.monotonic() < deadline:
                self._client.poll(0.1)
            causes = [one for one in self._seen if one[0] != "_ALL_BROKERS_DOWN"] or self._seen
            name, reason = (
                causes[0]
                if error.name() in {"_TRANSPORT", "_TIMED_OUT"} and causes
                else (
                    error.name(),
                    error.str(),
                )
            )
            message = f"{self._brokers}: {explain(name, reason)}"
            raise StreamError(message) from failure
