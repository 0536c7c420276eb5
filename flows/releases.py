"""models.v1 → who serves by it: artefacts fetched, checked and made beside the flow, swapped in between two batches.

A start reads models.v1 to its end first, so that no payment is decided by an older model than the one released last.
What cannot be trusted or does not fit is refused, counted and said once; what served before goes on serving. What
cannot be fetched for now is tried again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from flows.kafka_client import BrokerWatch, asked, bounds_of, fatal, partitions_of, properties, stream_error
from flows.live_hooks import LiveHooks, NoHooks
from flows.logs import event_log, fields
from flows.streams import KafkaStream
from flows.watchdog import Pulse
from operators.loop_config import CanaryConfig
from operators.model import Model
from operators.releases import Register, Release, describe_release, read_release
from operators.roster import Roster
from schemas.codec import decode_json_mapping, encode_json
from schemas.errors import BackupError, ContractError, ReleaseError, StateError, StreamError, WeirError
from schemas.release_reasons import (
    BAD_ARTEFACT,
    BAD_RECORD,
    OTHER_FEATURE_SET,
    STORE_UNREACHABLE,
    UNKNOWN_MODEL,
)
from schemas.wire import WireDecoder, WireEncoder
from state.artefacts import ArtefactStore
from state.keys import ModelKeys

CONTRACT: Final = "model_release"
SIDE: Final = "models"
_POLL_S: Final = 0.5
_RETRY_S: Final = 5.0
"""Time between tries to fetch an artefact that cannot be had now; shorter hammers a store that is down."""
_FLUSH_S: Final = 15.0

Restore = Callable[[bytes | None], Model]


@dataclass(frozen=True, slots=True)
class Releasing:
    """Where releases are announced and artefacts lie, and who may release.

    Attributes:
        stream: models.v1.
        kafka: librdkafka properties, security included.
        decoder: Of its records.
        encoder: Of its records.
        keys: Of those who may release.
        artefacts: Where artefacts lie.
    """

    stream: KafkaStream
    kafka: Mapping[str, str | int | float | bool]
    decoder: WireDecoder
    encoder: WireEncoder
    keys: ModelKeys
    artefacts: ArtefactStore


class ReleaseLog:
    """Reads models.v1.

    Attributes:
        register: What was heard.
        refused: (reason, sentence) of each record that was refused.
    """

    def __init__(self, told: Releasing, name: str, hooks: LiveHooks, stopped: Callable[[], bool], pulse: Pulse) -> None:
        """Connect, and begin with the first record that the topic holds.

        Raises:
            StreamError: The topic does not exist or may not be read.
        """
        self.register = Register()
        self.refused: list[tuple[str, str]] = []
        self._told = told
        self._hooks = hooks
        watch = BrokerWatch(SIDE, told.stream.bootstrap, hooks)
        given = {
            **told.kafka,
            "group.id": name,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
        }
        topic = told.stream.topic
        self._consumer = Consumer(properties(given, told.stream.bootstrap, name, watch))
        counts = asked(lambda: partitions_of(self._consumer, [topic]), watch, pulse, topic, stopped, self._consumer)
        self._ahead: dict[int, int] = {}
        placed = []
        for number in range(counts[topic]):
            low, high = asked(
                lambda number=number: bounds_of(self._consumer, topic, number),  # type: ignore[misc]
                watch,
                pulse,
                f"{topic}/{number}",
                stopped,
            )
            placed.append(TopicPartition(topic, number, low))
            if high > low:
                self._ahead[number] = high
        self._consumer.assign(placed)
        self._watch = watch

    @property
    def at_end(self) -> bool:
        """Whether all is read that stood there at the start."""
        return not self._ahead

    def poll(self, seconds: float) -> bool:
        """Read what has come, waiting so long for something; whether it says anything new.

        Raises:
            StreamError: The topic cannot be read any more.
        """
        new = False
        for message in self._consumer.consume(500, timeout=seconds):
            error = message.error()
            number = int(message.partition() or 0)
            if error is not None:
                if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - librdkafka's name for its own event
                    self._ahead.pop(number, None)
                elif fatal(error):
                    raise stream_error(SIDE, self._told.stream.topic, error)
                continue
            if message.value() is not None:
                new |= self._hear(message.value(), message.headers() or [])
            if (message.offset() or 0) + 1 >= self._ahead.get(number, 0):
                self._ahead.pop(number, None)
        self._watch.check()
        return new

    def _hear(self, value: Any, headers: Any) -> bool:
        try:
            payload = self._told.decoder(value, headers)
            record = decode_json_mapping(CONTRACT, payload) if isinstance(payload, bytes) else payload
            return self.register.hear(read_release(record, self._told.keys))
        except ContractError as error:
            self._refuse(BAD_RECORD, str(error))
        except ReleaseError as error:
            self._refuse(error.reason, str(error))
        return False

    def _refuse(self, reason: str, text: str) -> None:
        self.refused.append((reason, text))
        self._hooks.model_refused(reason)
        event_log("models").error("release_refused", extra=fields(reason=reason, why=text))

    def close(self) -> None:
        """Leave."""
        self._consumer.close()


def read_log(told: Releasing, name: str = "weir-models") -> ReleaseLog:
    """The log, read to its end and closed.

    Raises:
        StreamError: It cannot be read.
    """
    log = ReleaseLog(told, name, NoHooks(), lambda: False, Pulse())
    try:
        while not log.at_end:
            log.poll(_POLL_S)
    finally:
        log.close()
    return log


class ModelFeed:
    """A `ModelSource` by models.v1."""

    def __init__(
        self,
        told: Releasing,
        restorers: Mapping[str, Restore],
        feature_set_hash: str,
        canary: CanaryConfig | None,
        hooks: LiveHooks,
        stopped: Callable[[], bool],
        pulse: Pulse,
        number: int = 0,
    ) -> None:
        """Read models.v1 to its end and load who serves; then go on in a thread.

        Args:
            told: Where and by whom.
            restorers: How to make a model from its artefact, by its id.
            feature_set_hash: Models of another one are refused.
            canary: Which accounts a canary decides; None: canaries score in the shadow.
            hooks: Told of what is loaded and refused.
            stopped: Whether the flow is to stop, asked while a broker is waited for.
            pulse: Told of waits.
            number: Of the process.

        Raises:
            StreamError: models.v1 cannot be read.
        """
        self._told = told
        self._restorers = restorers
        self._feature_set_hash = feature_set_hash
        self._canary = canary
        self._hooks = hooks
        self._models: dict[str, Model] = {}  # by sha256, those that serve
        self._bad: set[tuple[str, str]] = set()  # (model id, sha256) refused for good
        self._current: tuple[Roster | None, Mapping[str, str]] = (None, {})
        self._again_at: float | None = None
        self._log = ReleaseLog(told, f"weir-models-{number}", hooks, stopped, pulse)
        while not self._log.at_end and not stopped():
            self._log.poll(_POLL_S)
            pulse.beat("reading the model releases")
        self._serve()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="weir-models", daemon=True)
        self._thread.start()

    def roster(self) -> Roster | None:
        """See `ModelSource`."""
        return self._current[0]

    def sha256(self, model_id: str) -> str | None:
        """See `ModelSource`."""
        return self._current[1].get(model_id)

    def close(self) -> None:
        """Stop listening."""
        self._done.set()
        self._thread.join()
        self._log.close()

    def _run(self) -> None:
        while not self._done.is_set():
            try:
                new = self._log.poll(_POLL_S)
            except (StreamError, KafkaException) as error:
                # What serves goes on serving; a flow must not end because nobody can tell it of a newer model.
                event_log("models").error("releases_unreadable", extra=fields(why=str(error)))
                self._done.wait(_RETRY_S)
                continue
            if new or (self._again_at is not None and time.monotonic() >= self._again_at):
                self._serve()

    def _serve(self) -> None:
        """Make the roster of who serves now, and swap it in."""
        self._again_at = None
        standing = self._log.register.standing()
        before, hashes = self._current
        models: list[Model] = []
        told: dict[str, str] = {}
        champion = standing.champion
        if champion is not None:
            made = self._made(champion)
            if made is not None:
                models.append(made)
                told[made.id] = champion.sha256
        if not models and before is not None:  # what served before goes on
            kept = before.models[before.champion]
            models.append(kept)
            told[kept.id] = hashes[kept.id]
        if not models:
            return
        canary = None
        for release in (*((standing.canary,) if standing.canary else ()), *standing.challengers):
            if release.model_id in told:
                continue
            made = self._made(release)
            if made is None:
                continue
            models.append(made)
            told[made.id] = release.sha256
            if release.stage == "canary" and self._canary is not None:
                canary = replace(self._canary, model=made.id)
        changed = told != dict(hashes) or canary != (None if before is None else before.declared_canary)
        self._models = {told[model.id]: model for model in models}
        self._current = (Roster(models, canary), told)
        if changed:
            serving = [f"{model.id} {model.version}+{model.labels}" for model in models]
            event_log("models").info("models_served", extra=fields(champion=serving[0], others=serving[1:]))

    def _made(self, release: Release) -> Model | None:
        """The model of a release; None when it is refused, or cannot be had now."""
        found = self._models.get(release.sha256)
        if found is not None and found.id == release.model_id:
            return found
        if (release.model_id, release.sha256) in self._bad:
            return None
        started = time.perf_counter()
        try:
            model, size = self._load(release)
        except BackupError as error:  # the store is down: a StateError, but one that passes
            self._again_at = time.monotonic() + _RETRY_S
            self._tell(STORE_UNREACHABLE, release, str(error))
            return None
        except ReleaseError as error:
            self._bad.add((release.model_id, release.sha256))
            self._tell(error.reason, release, str(error))
            return None
        self._hooks.model_loaded(model.id, size, time.perf_counter() - started)
        return model

    def _load(self, release: Release) -> tuple[Model, int]:
        if release.feature_set_hash != self._feature_set_hash:
            message = (
                f"learned under feature set {release.feature_set_id} {release.feature_set_hash[:12]}, the profile has "
                f"{self._feature_set_hash[:12]}"
            )
            raise ReleaseError(OTHER_FEATURE_SET, message)
        restore = self._restorers.get(release.model_id)
        if restore is None:
            message = (
                f"learning.toml declares no model {release.model_id!r}, but {', '.join(self._restorers) or 'none'}"
            )
            raise ReleaseError(UNKNOWN_MODEL, message)
        artefact = self._told.artefacts.get(release.sha256)
        try:
            model = restore(artefact)
        except BackupError:
            raise
        except (WeirError, StateError, ValueError) as error:
            raise ReleaseError(BAD_ARTEFACT, str(error)) from error
        return model, len(artefact)

    def _tell(self, reason: str, release: Release, why: str) -> None:
        self._hooks.model_refused(reason)
        event_log("models").error(
            "model_refused", extra=fields(reason=reason, release=describe_release(release), why=why)
        )


class Announcer:
    """Announces releases on models.v1."""

    def __init__(self, told: Releasing, name: str = "weir-releases") -> None:
        """Connect on first use."""
        self._told = told
        watch = BrokerWatch(SIDE, told.stream.bootstrap, NoHooks())
        given = {**told.kafka, "enable.idempotence": True, "acks": "all"}
        self._producer = Producer(properties(given, told.stream.bootstrap, name, watch))

    def announce(self, release: Release) -> Release:
        """Sign and announce a release; returns it as announced, once the broker has it.

        Raises:
            StreamError: The broker does not take it.
            BackupError: The artefact store does not take a copy of it.
        """
        signed = release.signed(self._told.keys)
        value, headers = self._told.encoder(CONTRACT, signed.record())
        failed: list[KafkaError] = []

        def told(error: Any, _message: Any) -> None:
            if error is not None:
                failed.append(error)

        topic = self._told.stream.topic
        self._producer.produce(topic, value, signed.key, headers=headers, on_delivery=told)  # type: ignore[arg-type]
        left = self._producer.flush(_FLUSH_S)
        if failed:
            raise stream_error(SIDE, topic, failed[0])
        if left:
            message = f"models {topic}: no broker has taken the release within {_FLUSH_S:g} s; run it again"
            raise StreamError(message)
        kept = encode_json(CONTRACT, signed.record())
        self._told.artefacts.put_release(signed.created_at_us, signed.sha256, kept)
        return signed


def history(told: Releasing) -> list[Release]:
    """All releases ever announced, the earliest first, by what the artefact store keeps of them; forged ones left out.

    Raises:
        BackupError: The store refuses.
    """
    found = []
    for record in told.artefacts.releases():
        try:
            found.append(read_release(decode_json_mapping(CONTRACT, record), told.keys))
        except (ContractError, ReleaseError) as error:
            event_log("models").error("release_refused", extra=fields(reason=BAD_RECORD, why=str(error)))
    return found
