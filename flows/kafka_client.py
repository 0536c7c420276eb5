"""What source and sink share: client properties, which errors end a run and what they say, waiting for a broker.

librdkafka retries by itself whatever may pass. What it tells of that is counted, and said once a minute; only errors
that no retry cures end a run.
"""
# ruff: noqa: SLF001 - librdkafka's own errors have public names that begin with an underscore

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from flows.live_hooks import LiveHooks
from flows.streams import KafkaStream
from flows.watchdog import Pulse
from schemas.errors import ConfigError, StreamError, StreamMissingError, StreamPositionError

TELL_EVERY_S: Final = 60.0
ASK_S: Final = 5.0
"""How long one question to a broker may take; it is asked again for ever."""
_PAUSE_S: Final = 0.5
_UNKNOWN_FOR_S: Final = 5.0
"""A broker that has just started may not know its topics yet; only after this long a missing topic is believed."""
_TOPICS: Final = "make the topics (docs/configuration.md), or correct the URL"
_ACL: Final = "grant it to Weir's user, or correct user and password"

_FATAL: Final[Mapping[int, str]] = {
    KafkaError._AUTHENTICATION: "user, password, token or certificate were refused; correct [kafka.security]",
    KafkaError._SSL: (
        "TLS failed; look at ca_file, check_hostname, certificate_file and key_file of [kafka.security], and whether "
        "this listener speaks TLS"
    ),
    KafkaError.SASL_AUTHENTICATION_FAILED: "user, password or token were refused; correct [kafka.security]",
    KafkaError.TOPIC_AUTHORIZATION_FAILED: f"an ACL denies the topic; {_ACL}",
    KafkaError.GROUP_AUTHORIZATION_FAILED: f"an ACL denies the consumer group; {_ACL}",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: f"an ACL denies IdempotentWrite on the cluster; {_ACL}",
    KafkaError.UNKNOWN_TOPIC_OR_PART: f"there is no such topic or partition; {_TOPICS}",
    KafkaError._UNKNOWN_TOPIC: f"there is no such topic; {_TOPICS}",
    KafkaError._UNKNOWN_PARTITION: f"there is no such partition; {_TOPICS}",
    KafkaError.MSG_SIZE_TOO_LARGE: (
        "a record is larger than producer or topic allow; raise the topic's max.message.bytes and the property "
        "message.max.bytes"
    ),
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: f"an ACL denies Write on the transactional.id; {_ACL}",
    KafkaError.INVALID_TRANSACTION_TIMEOUT: (
        "the broker's transaction.max.timeout.ms is smaller; raise it, or set the property transaction.timeout.ms"
    ),
    KafkaError._INVALID_ARG: "a librdkafka property is wrong; correct [kafka]",
}
"""Errors that no retry cures, and what to do. TLS is one of them until a broker has answered: later, a broker that goes
down in the midst of a handshake is told as the same."""

_UNKNOWN: Final = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION)

_EVENTS_AT_ONCE: Final = 100
"""What a client tells is heard one event a poll, and a refused login comes behind others."""

Offsets = dict[str, dict[int, int]]
"""Topic -> partition -> offset."""

T = TypeVar("T")


def name_of(error: KafkaError) -> str:
    """The constant's name, such as _TRANSPORT."""
    return str(error.name())


def fatal(error: KafkaError) -> bool:
    """Whether no retry cures it."""
    return bool(error.fatal()) or error.code() in _FATAL


def stream_error(side: str, what: str, error: KafkaError) -> StreamError:
    """The sentence for an error that ends a run.

    Args:
        side: inputs or outputs.
        what: The topic, partition or server it is about.
        error: As the client told it.
    """
    hint = _FATAL.get(error.code(), "start again; if it comes back, look at the broker's log")
    return StreamError(f"{side} {what}: {name_of(error)}: {error.str()}; {hint}")


def one_cluster(side: str, streams: Iterable[KafkaStream]) -> str:
    """Bootstrap address of a side's streams, which share one client.

    Raises:
        ConfigError: They name different brokers.
    """
    found = sorted({stream.bootstrap for stream in streams})
    if len(found) != 1:
        message = f"{side}: expected the same brokers in all URLs, since a process has one client; found {found}"
        raise ConfigError(message)
    return found[0]


class BrokerWatch:
    """Hears what a client tells of its brokers: counts it, says it once a minute, keeps what ends the run.

    Attributes:
        fault: The error that ends the run, None while there is none.
    """

    def __init__(self, side: str, bootstrap: str, hooks: LiveHooks) -> None:
        self.fault: StreamError | None = None
        self.side = side
        self._bootstrap = bootstrap
        self._hooks = hooks
        self._told = -TELL_EVERY_S
        self._down = False
        self._answered = False

    def hear(self, error: KafkaError) -> None:
        """Called by the client with each error."""
        self._hooks.broker_error(self.side, name_of(error))
        # While it runs, a broker that restarts may not know its topics for a moment; a start asks for them itself.
        passing = error.code() in _UNKNOWN or (error.code() == KafkaError._SSL and self._answered)
        if fatal(error) and not passing:
            self.fault = self.fault or stream_error(self.side, self._bootstrap, error)
            return
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self.down(str(error.str()))

    def down(self, why: str) -> None:
        """The broker does not answer."""
        self._down = True
        self._hooks.broker_up(self.side, False)
        now = time.monotonic()
        if now - self._told >= TELL_EVERY_S:
            self._told = now
            sys.stderr.write(f"weir: {self.side} {self._bootstrap}: no broker answers ({why}); trying again for ever\n")

    def up(self) -> None:
        """The broker answers."""
        self._answered = True
        if self._down:
            self._down = False
            self._told = -TELL_EVERY_S
            sys.stderr.write(f"weir: {self.side} {self._bootstrap}: the broker answers again\n")
        self._hooks.broker_up(self.side, True)

    def check(self) -> None:
        """Raise what ends the run.

        Raises:
            StreamError: There is something.
        """
        if self.fault is not None:
            raise self.fault


def properties(given: Mapping[str, Any], bootstrap: str, name: str, watch: BrokerWatch) -> dict[str, Any]:
    """Properties of any client of ours."""
    return {
        "reconnect.backoff.max.ms": 2_000,  # an outage of a minute should not cost another ten seconds
        **given,
        "bootstrap.servers": bootstrap,
        "client.id": name,
        "error_cb": watch.hear,
        "log_level": 2,  # what it logs is told by the watch, once a minute
    }


def asked(
    question: Callable[[], T],
    watch: BrokerWatch,
    pulse: Pulse,
    what: str,
    stop: Callable[[], bool],
    client: Consumer | Producer | None = None,
) -> T:
    """The answer of a broker, asked for again until there is one.

    Args:
        question: Asks.
        watch: Hears of the outage.
        pulse: Is told of the wait.
        what: It is about, for messages.
        stop: Whether to give up.
        client: Asks, and reads nothing yet: polled after a failure, since a refused login is told that way only, while
            the question itself says no more than that no broker answers. None: somebody else polls it.

    Raises:
        StreamError: No further asking would help, or `stop` says that nobody wants to know any more.
    """
    unknown_since: float | None = None
    while True:
        try:
            answer = question()
        except KafkaException as raised:
            error: KafkaError = raised.args[0]
            now = time.monotonic()
            unknown_since = (unknown_since or now) if error.code() in _UNKNOWN else None
            unsure = unknown_since is not None and now - unknown_since < _UNKNOWN_FOR_S
            if fatal(error) and not unsure:
                told = stream_error(watch.side, what, error)
                raise (StreamMissingError(str(told)) if unknown_since is not None else told) from raised
            if client is not None:
                for _ in range(_EVENTS_AT_ONCE):
                    client.poll(0)
            watch.check()
            watch.down(str(error.str()))
        else:
            watch.up()
            return answer
        watch.check()
        pulse.beat(f"waiting for a broker of the {watch.side}: {what}")
        if stop():
            message = f"{watch.side} {what}: told to stop before a broker answered; nothing was read"
            raise StreamError(message)
        time.sleep(_PAUSE_S)


def partitions_of(client: Consumer | Producer, topics: Iterable[str]) -> dict[str, int]:
    """Number of partitions by topic; one question for all.

    Raises:
        KafkaException: No broker answers, or a topic does not exist.
    """
    wanted = set(topics)
    found = client.list_topics(timeout=ASK_S).topics
    counts: dict[str, int] = {}
    for topic in sorted(wanted):
        # A list of all leaves out what an ACL hides; asked by its name, a topic is said to be denied.
        told = found.get(topic) or client.list_topics(topic, timeout=ASK_S).topics.get(topic)
        if told is None or (told.error is not None and told.error.code() in _UNKNOWN):
            raise KafkaException(KafkaError(KafkaError._UNKNOWN_TOPIC, f"topic {topic} does not exist"))
        if told.error is not None:
            raise KafkaException(told.error)
        counts[topic] = len(told.partitions)
    return counts


def bounds_of(client: Consumer, topic: str, partition: int) -> tuple[int, int]:
    """(first offset, end offset) of a partition.

    Raises:
        KafkaException: No broker answers.
    """
    found = client.get_watermark_offsets(TopicPartition(topic, partition), timeout=ASK_S)
    if found is None:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"{topic}/{partition}: no answer"))
    return int(found[0]), int(found[1])


def check_position(side: str, topic: str, partition: int, wanted: int, low: int, high: int) -> None:
    """Refuse an offset that the log no longer, or does not yet, hold.

    Raises:
        StreamPositionError: naming topic, partition, wanted, found and the runbook.
    """
    if low <= wanted <= high:
        return
    what = "retention has deleted what was not read" if wanted < low else "the topic was made anew or cut off"
    message = (
        f"{side} {topic}/{partition}: the state wants offset {wanted}, the log holds {low} to {high}: {what}; see "
        "docs/runbooks/stream-position.md"
    )
    raise StreamPositionError(message)
