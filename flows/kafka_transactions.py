"""Decisions in Kafka transactions: what a killed or replaced process left open never becomes visible.

A process has one transactional.id, GROUP-NN. Beginning under it aborts what a process of that id left open and fences
that process: whatever it hands to a broker from then on is refused. All processes of a start have begun before any of
them reads back or publishes, since the engine runs no step until all its peers are connected. The ids of processes that
are no more stand in the manifest, and the start that follows them fences those too.

Transactions are independent of epochs, but one: an epoch's end commits what is open, so a snapshot holds nothing that
could still be aborted. In between, what was committed and is not known to a snapshot is read back on resume, like all
that was published (flows/kafka_sink.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from confluent_kafka import KafkaError, KafkaException, Producer

from flows.kafka_client import ASK_S, BrokerWatch, asked, properties, stream_error
from flows.live_options import LiveOptions
from flows.source import Run
from schemas.errors import StreamError, StreamFencedError

TIMEOUT_PROPERTY: Final = "transaction.timeout.ms"
TIMEOUT_MS: Final = 300_000
"""After so long the broker aborts an open transaction by itself. Shorter: an outage of that length fences the process,
which then has to be started again. Longer: of a process that is killed and not started again, readers of committed
records wait so long for what others append behind it. A broker's own bound is 15 min (transaction.max.timeout.ms)."""
_DOWN_S: Final = 2.0
"""A commit that takes longer is told as a broker that does not answer."""
_FENCED: Final = (
    KafkaError._FENCED,  # noqa: SLF001 - librdkafka's own errors have public names that begin with an underscore
    KafkaError.INVALID_PRODUCER_EPOCH,
)

R = TypeVar("R")


def transactional_id(group: str, number: int) -> str:
    """The id of a process; a flow is told from others by its group."""
    return f"{group}-{number:02d}"


def own_ids(options: LiveOptions) -> list[str]:
    """The ids of this start's processes; none in the default mode."""
    return [transactional_id(options.group, number) for number in range(options.processes * options.transactional)]


def transactional_properties(options: LiveOptions) -> dict[str, Any]:
    """What the producer of a process is told; nothing in the default mode."""
    if not options.transactional:
        return {}
    told = options.kafka.get(TIMEOUT_PROPERTY, TIMEOUT_MS)
    return {"transactional.id": transactional_id(options.group, options.number), TIMEOUT_PROPERTY: told}


def fence_gone(options: LiveOptions, manifest: Mapping[str, Any], bootstrap: str, run: Run) -> None:
    """Fence the processes of earlier starts whose ids this one does not use, each by one process of it.

    That goes for a start in the default mode too: what they left open would hide from the read-back whatever is
    appended behind it.

    Raises:
        StreamError: The brokers refuse it.
    """
    gone = sorted(set(manifest.get("transactional_ids", ())) - set(own_ids(options)))
    for name in gone[options.number :: options.processes]:
        watch = BrokerWatch("outputs", bootstrap, options.hooks)
        given = {**options.kafka, "transactional.id": name}
        _begin(Producer(properties(given, bootstrap, f"weir-fence-{options.number}", watch)), name, watch, run)


def _begin(producer: Producer, name: str, watch: BrokerWatch, run: Run) -> None:
    asked(
        lambda: producer.init_transactions(ASK_S),
        watch,
        run.pulse,
        f"transactional.id {name}",
        run.stop.is_set,
        producer,
    )


class Transactions:
    """The transactions of one process's producer.

    Attributes:
        name: The transactional.id.
    """

    def __init__(self, producer: Producer, options: LiveOptions, watch: BrokerWatch, run: Run) -> None:
        """Begin under the id of this process: earlier ones of it are fenced, and what they left open is aborted.

        Args:
            producer: Has `transactional_properties`.
            options: Of the flow.
            watch: Of the producer.
            run: Its pulse is told of every wait.

        Raises:
            StreamError: The brokers refuse it.
        """
        self.name = transactional_id(options.group, options.number)
        self._producer = producer
        self._watch = watch
        self._run = run
        self._every_s = options.transaction_s
        self._timeout_s = float(options.kafka.get(TIMEOUT_PROPERTY, TIMEOUT_MS)) / 1_000
        self._began: float | None = None
        _begin(producer, self.name, watch, run)

    def open(self) -> None:
        """A record is to be produced: from the first one on a transaction is open.

        Raises:
            StreamError: The process was fenced.
        """
        if self._began is None:
            self.asked(self._producer.begin_transaction)
            self._began = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether a transaction has been open for long enough."""
        return self._began is not None and time.monotonic() - self._began >= self._every_s

    def commit(self) -> bool:
        """Make what was produced visible, and wait for it; for ever, while no broker answers.

        Returns:
            Whether there was anything.

        Raises:
            StreamError: The process was fenced, or the transaction cannot be committed.
        """
        if self._began is None:
            return False
        started = time.monotonic()
        while not self.asked(self._committed):
            self._run.pulse.beat("waiting until a transaction is committed")
            if time.monotonic() - started > _DOWN_S:
                self._watch.down("a transaction waits to be committed")
            self._watch.check()
        if time.monotonic() - started > _DOWN_S:
            self._watch.up()
        self._began = None
        return True

    def _committed(self) -> bool:
        try:
            self._producer.commit_transaction(ASK_S)
        except KafkaException as raised:
            if raised.args[0].retriable():
                return False
            raise
        return True

    def asked(self, call: Callable[[], R]) -> R:
        """What the client answers; what it raises, or has raised from under a callback of ours, is told in a sentence.

        Raises:
            StreamError: The client has failed for good.
        """
        try:
            return call()
        except (KafkaException, SystemError) as raised:
            # A client that is fenced says so by raising out of whatever call comes next, even from under a callback.
            cause = raised if isinstance(raised, KafkaException) else raised.__cause__ or raised.__context__
            if not isinstance(cause, KafkaException):
                raise
            raise self._failure(cause.args[0]) from raised

    def _failure(self, error: KafkaError) -> StreamError:
        if error.code() not in _FENCED:
            return stream_error(self._watch.side, f"transactional.id {self.name}", error)
        where = f"outputs: transactional.id {self.name!r}"
        open_s = 0.0 if self._began is None else time.monotonic() - self._began
        if open_s < self._timeout_s:
            message = (
                f"{where}: another process has begun under it and takes this one's place; nothing more is published "
                "here. If that was not meant, give each flow a [decide] group of its own"
            )
            return StreamFencedError(message)
        message = (
            f"{where}: a transaction was open for {open_s:.0f} s, longer than the {self._timeout_s:g} s of "
            f"{TIMEOUT_PROPERTY}, so the broker has aborted it, or another process has begun under this id; start "
            "again: nothing of it is lost"
        )
        return StreamError(message)
