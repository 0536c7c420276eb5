"""models.v1 and the artefact store → the model that decides, swapped between batches; never a traceback.

Every process of `weir decide` reads models.v1 to its end before its first decision, and goes on reading in a thread. A
champion's artefact is fetched, checked and made a model there; the flow's thread only takes what is ready. What is
unsigned, altered, too large or of another feature set is refused: it is told, counted, and the champion before it goes
on. The champion in use is kept beside the state, so that a start comes up with it though the store is out of reach.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from flows.kafka_client import BrokerWatch, asked, bounds_of, partitions_of, properties
from flows.live_hooks import NoHooks
from flows.logs import event_log, fields
from flows.model_hooks import ModelHooks, NoModelHooks
from flows.source import Run
from flows.streams import KafkaStream
from operators.features import FeatureSet
from operators.model import Model
from operators.releases import CONTRACT, Release, ReleaseLog, checked
from schemas.codec import decode_json_mapping
from schemas.errors import ContractError, ProfileError, StreamError
from schemas.signing import SigningKeys
from schemas.wire import WireDecoder
from state.artefacts import ALTERED, FEATURE_SET, PROFILE, UNREACHABLE, UNREADABLE, ArtefactError, ArtefactStore

_POLL_S: Final = 0.2
_RETRY_S: Final = 5.0
"""Between attempts to fetch what could not be reached. Shorter: a load on a store that is down."""
_AT_ONCE: Final = 500
RECORD: Final = "champion.json"
LOADED: Final = "loaded"


@dataclass(frozen=True, slots=True)
class ReleaseSource:
    """Where releases come from.

    Attributes:
        stream: models.v1.
        kafka: librdkafka properties, security included.
        decoder: Of its records.
        keys: By which they must be signed.
        store: Of their artefacts.
    """

    stream: KafkaStream
    kafka: Mapping[str, Any]
    decoder: WireDecoder
    keys: SigningKeys
    store: ArtefactStore = field(repr=False)


class ReleaseReader:
    """Reads models.v1 from its first record on."""

    def __init__(self, source: ReleaseSource, run: Run, refused: Callable[[str, str], None]) -> None:
        """Connect; waits for the broker.

        Args:
            source: Where releases come from.
            run: Its pulse is told of waits.
            refused: Told (reason, sentence) of a record that is not believed.

        Raises:
            StreamError: The topic cannot be read.
        """
        self._source = source
        self._run = run
        self._refused = refused
        self._topic = source.stream.topic
        self._watch = BrokerWatch("models", source.stream.bootstrap, NoHooks())
        given = {
            **source.kafka,
            "group.id": "weir-models",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
        }
        self._client = Consumer(properties(given, source.stream.bootstrap, "weir-models", self._watch))
        topic, watch = self._topic, self._watch
        count = asked(
            lambda: partitions_of(self._client, [topic])[topic],
            watch,
            run.pulse,
            topic,
            run.stop.is_set,
            self._client,
        )
        self._ends: dict[int, int] = {}
        placed = []
        for number in range(count):
            low, high = asked(
                lambda number=number: bounds_of(self._client, topic, number),  # type: ignore[misc]
                watch,
                run.pulse,
                f"{topic}/{number}",
                run.stop.is_set,
            )
            placed.append(TopicPartition(topic, number, low))
            if low < high:
                self._ends[number] = high
        self._client.assign(placed)

    def to_end(self) -> Iterator[Release]:
        """Records up to where the topic ended when this began; waits for them."""
        while self._ends and not self._run.stop.is_set():
            self._run.pulse.beat(f"reading {self._topic} to its end")
            yield from self.more()

    def more(self) -> Iterator[Release]:
        """Records that have come, waiting for some a moment.

        Raises:
            StreamError: The topic cannot be read any more.
        """
        for message in self._client.consume(_AT_ONCE, timeout=_POLL_S):
            error = message.error()
            number, offset = message.partition() or 0, message.offset() or 0
            if error is not None:
                if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - librdkafka's name for its own event
                    self._ends.pop(number, None)
                else:
                    self._watch.hear(error)
                continue
            if offset + 1 >= self._ends.get(number, 1 << 62):
                self._ends.pop(number, None)
            release = self._read(message, offset)
            if release is not None:
                yield release
        self._watch.check()

    def _read(self, message: Any, offset: int) -> Release | None:
        value = message.value()
        if value is None:
            return None  # a tombstone
        where = f"{self._topic}/{message.partition()}, offset {offset}"
        try:
            payload = self._source.decoder(value, message.headers() or [])
            record = checked(decode_json_mapping(CONTRACT, payload) if isinstance(payload, bytes) else payload)
        except (ContractError, StreamError) as error:
            self._refused(UNREADABLE, f"{where}: {error}")
            return None
        fault = self._source.keys.fault(record)
        if fault is not None:
            self._refused("signature", f"{where}: release of {record['model_id']!r} {record['version']!r}: {fault}")
            return None
        return Release(record, offset)

    def close(self) -> None:
        """Leave."""
        self._client.close()


class ReleaseWatch:
    """The model that decides; call it for (model, sha256 of its artefact)."""

    def __init__(
        self,
        source: ReleaseSource,
        feature_set: FeatureSet,
        restore: Callable[[bytes | None], Model],
        cache: Path,
        run: Run,
        hooks: ModelHooks | None = None,
    ) -> None:
        """Prepare; `start` reads.

        Args:
            source: Where releases come from.
            feature_set: Of the profile.
            restore: Makes a model of its bytes; of None, what decides before the first champion.
            cache: Folder for the champion in use.
            run: Of the process.
            hooks: Told of loads and refusals.
        """
        self._source = source
        self._features = feature_set
        self._restore = restore
        self._cache = cache
        self._run = run
        self._hooks = hooks or NoModelHooks()
        self._log = event_log("models")
        self._releases = ReleaseLog()
        self._wanted: Release | None = None
        self._retry_at = 0.0
        self._created_us = 0
        begun = restore(None)
        self._current: tuple[Model | None, str | None] = (begun, begun.artefact_hash())
        self._reader: ReleaseReader | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="models", daemon=True)

    def __call__(self) -> tuple[Model | None, str | None]:
        """The model that decides now, and its artefact's hash."""
        return self._current

    def start(self) -> None:
        """Read models.v1 to its end and load the champion; then go on in a thread.

        Raises:
            StreamError: The topic cannot be read.
        """
        self._recall()
        self._reader = ReleaseReader(self._source, self._run, self._refused)
        for release in self._reader.to_end():
            self._apply(release)
        self._load_wanted()
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._done.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._reader is not None:
            self._reader.close()

    def _follow(self) -> None:
        while not self._done.is_set() and self._reader is not None:
            try:
                for release in self._reader.more():
                    self._apply(release)
            except (StreamError, KafkaException) as error:
                # Deciding goes on with the champion at hand; the flow's own clients tell whether brokers refuse us.
                self._log.error("models_unreadable", extra=fields(error=str(error)))
                self._done.wait(_RETRY_S)
            self._load_wanted()

    def _apply(self, release: Release) -> None:
        log = self._releases
        held_up = log.held_up
        log.apply(release)
        if log.held_up > held_up:
            told = f"{release.name} was announced, and a person has frozen the champion: weir models unfreeze"
            self._log.warning("release_held_up", extra=fields(told=told))
        champion = log.champion
        if champion is not None and champion.sha256 != self._current[1]:
            self._wanted, self._retry_at = champion, 0.0
        elif champion is release:
            self._wanted = None
            self._hooks.model_load("unchanged", 0.0, self._created_us, champion.frozen)

    def _load_wanted(self) -> None:
        """Load the champion if it is another one; what cannot be reached is tried again."""
        wanted = self._wanted
        if wanted is None or time.monotonic() < self._retry_at:
            return
        began = time.monotonic()
        try:
            model, artefact = self._load(wanted)
        except ArtefactError as error:
            if error.reason == UNREACHABLE:
                self._retry_at = time.monotonic() + _RETRY_S
            else:
                self._wanted = None
            self._refused(error.reason, f"{wanted.name}: {error}")
            return
        self._wanted = None
        self._created_us = int(wanted.record["created_at"])
        self._current = (model, wanted.sha256)
        seconds = time.monotonic() - began
        self._hooks.model_load(LOADED, seconds, self._created_us, wanted.frozen)
        extra = fields(model=wanted.name, sha256=wanted.sha256, seconds=round(seconds, 3), bytes=len(artefact))
        self._log.info("model_loaded", extra=extra)
        self._remember(wanted, artefact)

    def _load(self, release: Release, kept: bytes | None = None) -> tuple[Model, bytes]:
        """The model of a release.

        Raises:
            ArtefactError: It must not or cannot be used.
        """
        wanted, own = release.record["feature_set_hash"], self._features.hash
        if wanted != own:
            reason = (
                f"it was trained on feature set {wanted[:12]}, this flow has {own[:12]}: a model is served only with "
                "the feature set it was trained on"
            )
            raise ArtefactError(FEATURE_SET, reason)
        artefact = self._source.store.get(release.sha256) if kept is None else kept
        try:
            model = self._restore(artefact)
            model.explain_many((self._features.new_values(),), 5)  # compiled before the first payment needs it
        except ProfileError as error:
            raise ArtefactError(PROFILE, str(error)) from error
        except Exception as error:  # whatever bytes do to whoever reads them is told in a sentence
            raise ArtefactError(UNREADABLE, f"it cannot be made a model ({type(error).__name__}: {error})") from error
        return model, artefact

    def _refused(self, reason: str, told: str) -> None:
        self._hooks.model_load(reason, 0.0, self._created_us, self._releases.frozen)
        self._log.error("release_refused", extra=fields(reason=reason, told=told, decides=self._current[1]))

    def _remember(self, release: Release, artefact: bytes) -> None:
        """Keep the champion beside the state; a disk that refuses costs no decision."""
        try:
            self._cache.mkdir(parents=True, exist_ok=True)
            name = f"{release.sha256}.model"
            _write(self._cache / name, artefact)
            _write(self._cache / RECORD, json.dumps(dict(release.record)).encode())
            for other in self._cache.glob("*.model"):
                if other.name != name:
                    other.unlink(missing_ok=True)
        except OSError as error:
            self._log.warning("champion_not_kept", extra=fields(error=str(error), folder=str(self._cache)))

    def _recall(self) -> None:
        """Come up with the champion of the run before; its signature and bytes are checked like any other's."""
        try:
            record = checked(json.loads((self._cache / RECORD).read_bytes()))
            artefact = (self._cache / f"{record['sha256']}.model").read_bytes()
        except (OSError, ValueError, ContractError):
            return
        fault = self._source.keys.fault(record)
        if fault is not None:
            self._refused("signature", f"{self._cache / RECORD}: {fault}")
            return
        release = Release(record, -1)
        try:
            if ArtefactStore.sha256(artefact) != release.sha256:
                message = f"{self._cache}: the artefact kept there is not the one of its record"
                raise ArtefactError(ALTERED, message)
            model, _ = self._load(release, artefact)
        except ArtefactError as error:
            self._refused(error.reason, f"{release.name}, kept from the run before: {error}")
            return
        self._created_us = int(record["created_at"])
        self._current = (model, release.sha256)


def _write(path: Path, content: bytes) -> None:
    new = path.with_suffix(f".{os.getpid()}.new")
    with new.open("wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    new.rename(path)
