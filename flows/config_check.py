"""`weir config check`: everything of weir.toml that can be seen to be wrong before a flow is started.

What needs a broker is asked of the broker; if it does not answer, the report says what was not checked.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource  # type: ignore[attr-defined]  # exported, but not in __all__

from flows.config import INPUTS, MODELS, Config
from flows.profile import Profile, load_profile
from flows.streams import KinesisStream, parse_stream
from schemas.errors import ConfigError, SecretError, WeirError
from schemas.signing import SigningKeys
from schemas.tokens import TokenKeys
from state.artefacts import MIB, ArtefactStore
from state.keys import StateKeys
from state.object_store import ObjectStore
from state.options import StateOptions

ASK_S: Final = 5.0
"""A broker that has not answered by then is taken for unreachable; longer and a check in a deploy script drags on."""
MANIFEST: Final = "manifest.json"
_MS_A_DAY: Final = 86_400_000
T = TypeVar("T")

_NOT_THERE: Final = "does not exist; make it with: weir topics apply"


@dataclass(frozen=True, slots=True)
class Topic:
    """What a broker says of a topic.

    Attributes:
        partitions: How many it has.
        settings: Its configuration, as text.
    """

    partitions: int
    settings: Mapping[str, str]


@dataclass(slots=True)
class Report:
    """What a check has found; `problems` refuse the start."""

    good: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The report, a line each."""
        told = [f"good       {text}" for text in self.good]
        return (
            told + [f"unchecked  {text}" for text in self.unchecked] + [f"WRONG      {text}" for text in self.problems]
        )


def check_config(config: Config, properties: Callable[[str], Mapping[str, Any]] | None) -> Report:
    """Check what weir.toml points at.

    Args:
        config: As loaded.
        properties: librdkafka properties by which the brokers at some addresses are asked; None: they are not.
    """
    report = Report([f"{config.path}: every key and value"])
    profile = _attempt(report, f"profile {config.profile}", lambda: load_profile(config.profile))
    _attempt(report, "keys for card numbers", lambda: pan_keys(config))
    _attempt(report, "keys of the state", lambda: state_keys(config))
    _attempt(report, "memory of the state", lambda: state_options(config))
    if config.state.backup_to is not None:
        url = config.state.backup_to
        _attempt(report, f"place of backups {url}", lambda: ObjectStore(url))
    if config.models.artefacts is not None:
        _attempt(report, f"place of artefacts {config.models.artefacts}", lambda: artefact_store(config))
        _attempt(report, "keys of models", lambda: model_keys(config))
    _attempt(report, f"state folder {config.state.folder}", lambda: check_folder(config))
    if properties is None:
        report.unchecked.append("topics: no broker was asked")
    elif profile is not None:
        _check_streams(config, profile, properties, report)
    if config.wire.registry is not None:
        report.unchecked.append(f"registry {config.wire.registry}: asked at the start; weir contracts check asks now")
    if config.addresses:
        report.unchecked.append(f"whether the processes at {', '.join(config.addresses)} reach each other")
    return report


def pan_keys(config: Config) -> TokenKeys | None:
    """Keys of card numbers: of the file, else of the environment."""
    if config.pan_keys_file is not None:
        return TokenKeys.from_file(config.pan_keys_file)
    return TokenKeys.from_environment(os.environ)


def state_keys(config: Config) -> StateKeys | None:
    """Keys of the state: of the file, else of the environment."""
    if config.state.keys_file is not None:
        return StateKeys.from_file(config.state.keys_file)
    return StateKeys.from_environment(os.environ)


def model_keys(config: Config) -> SigningKeys:
    """Keys that releases are signed with: of the file, else of the environment.

    Raises:
        SecretError: There are none, or they cannot be used.
    """
    if config.models.keys_file is not None:
        return SigningKeys.from_file(config.models.keys_file)
    keys = SigningKeys.from_environment(os.environ)
    if keys is None:
        message = (
            f"{config.path}: releases are signed, and there is no key; expected models.keys_file, "
            "WEIR_MODEL_KEYS_FILE or WEIR_MODEL_KEYS (docs/learning.md tells how to make one)"
        )
        raise SecretError(message)
    return keys


def artefact_store(config: Config) -> ArtefactStore:
    """Where artefacts lie.

    Raises:
        ConfigError: models.artefacts is not set.
        BackupError: Its URL cannot be used.
    """
    if config.models.artefacts is None:
        message = f"{config.path}: models.artefacts is missing; expected file:///FOLDER or s3://BUCKET/PREFIX"
        raise ConfigError(message)
    return ArtefactStore(config.models.artefacts, config.models.max_mib * MIB)


def state_options(config: Config) -> StateOptions:
    """Memory of the state."""
    state = config.state
    return StateOptions.of_memory(
        state.memory_mib,
        block_cache_mib=state.block_cache_mib,
        write_buffer_mib=state.write_buffers_mib,
        record_cache_mib=state.record_cache_mib,
    )


def check_folder(config: Config) -> None:
    """See that the state folder can be used, and that its shards are as many as the file says.

    Raises:
        ConfigError: It cannot.
    """
    folder = config.state.folder
    standing = folder
    while not standing.exists() and standing != standing.parent:
        standing = standing.parent
    if not standing.is_dir() or not os.access(standing, os.W_OK | os.X_OK):
        message = f"{config.path}: state.folder is {str(folder)!r}; expected a folder that can be written to"
        raise ConfigError(message)
    try:
        shards = json.loads((folder / MANIFEST).read_text()).get("shards")
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        message = f"{folder / MANIFEST}: cannot be read ({error}); see docs/runbooks/restore.md"
        raise ConfigError(message) from error
    if shards != config.state.shards:
        message = (
            f"{config.path}: state.shards is {config.state.shards}; expected {shards}, with which {folder} was made: "
            "the number is fixed for the life of the folder"
        )
        raise ConfigError(message)


def _attempt(report: Report, what: str, check: Callable[[], T]) -> T | None:
    try:
        found = check()
    except WeirError as error:
        report.problems += str(error).splitlines()
        return None
    report.good.append(what)
    return found


def _check_streams(
    config: Config, profile: Profile, properties: Callable[[str], Mapping[str, Any]], report: Report
) -> None:
    parsed = {name: parse_stream(name, url) for name, url in config.streams.items()}
    kinesis = {name: one for name, one in parsed.items() if isinstance(one, KinesisStream)}
    if kinesis:
        from flows.kinesis_check import check_streams  # noqa: PLC0415  # boto3 loads long, for who has a use for it

        good, unchecked, problems = check_streams(config, profile, kinesis)
        report.good += good
        report.unchecked += unchecked
        report.problems += problems
    by_brokers: dict[str, dict[str, str]] = {}
    for stream, url in config.streams.items():
        if stream in kinesis:
            continue
        brokers, _, topic = url.partition("://")[2].partition("/")
        by_brokers.setdefault(brokers, {})[stream] = topic
    for brokers, topics in by_brokers.items():
        try:
            found = ask_topics(properties(brokers), tuple(topics.values()))
        except ConfigError as error:
            report.problems.append(str(error))
            continue
        except KafkaException as error:
            told = error.args[0]
            report.unchecked.append(
                f"topics {', '.join(topics.values())}: {brokers} does not answer ({told.name()}: {told.str()})"
            )
            continue
        problems = list(judge_topics(config, profile, topics, found))
        report.problems += problems
        if not problems:
            report.good.append(f"topics {', '.join(topics.values())} on {brokers}")


def ask_topics(properties: Mapping[str, Any], names: Sequence[str]) -> dict[str, Topic | None]:
    """What the broker says of topics; None for one that does not exist.

    Raises:
        ConfigError: librdkafka refuses a property.
        KafkaException: The broker does not answer, or refuses.
    """
    try:
        admin = AdminClient(dict(properties), logger=_quiet)
    except KafkaException as error:
        message = f"[kafka]: {error.args[0].str()}; see librdkafka's CONFIGURATION.md"
        raise ConfigError(message) from error
    known = admin.list_topics(timeout=ASK_S).topics
    there = [name for name in names if name in known and known[name].error is None]
    asked = admin.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, name) for name in there])
    settings = {resource.name: future.result(timeout=ASK_S) for resource, future in asked.items()} if there else {}
    return {
        name: Topic(
            len(known[name].partitions),
            {key: entry.value for key, entry in settings[name].items() if entry.value is not None},
        )
        if name in settings
        else None
        for name in names
    }


def judge_topics(
    config: Config, profile: Profile, topics: Mapping[str, str], found: Mapping[str, Topic | None]
) -> Iterable[str]:
    """What is wrong with topics, a sentence each.

    Args:
        config: As loaded.
        profile: As loaded.
        topics: Topic by stream.
        found: What the broker says of each.
    """
    for stream, name in topics.items():
        topic = found[name]
        where = f"topic {name} (streams.{stream})"
        if topic is None:
            yield f"{where} {_NOT_THERE}"
            continue
        policy = topic.settings.get("cleanup.policy", "delete")
        if stream == MODELS:
            if policy != "compact" or topic.partitions != 1:
                yield (
                    f"{where}: cleanup.policy is {policy!r} with {topic.partitions} partitions; expected 'compact' and "
                    "one: its order says who is champion, and it is read whole"
                )
            continue
        if policy != "delete":
            yield f"{where}: cleanup.policy is {policy!r}; expected 'delete': compaction would drop records unread"
        if stream == "transactions":
            yield from _judge_payments(config, profile, where, topic.settings)
        if stream in INPUTS and config.processes > topic.partitions and stream == "transactions":
            yield (
                f"{where}: it has {topic.partitions} partitions; expected at least cluster.processes "
                f"({config.processes}), or some processes read nothing"
            )


def _judge_payments(config: Config, profile: Profile, where: str, settings: Mapping[str, str]) -> Iterable[str]:
    retention_ms = int(settings.get("retention.ms", 7 * _MS_A_DAY))
    ttl_ms = profile.features.seen_ttl_us // 1000
    if retention_ms < 0 or retention_ms > ttl_ms:
        kept = "for ever" if retention_ms < 0 else f"{retention_ms / _MS_A_DAY:g} days"
        yield (
            f"{where}: it keeps payments {kept}, and seen_ttl in {config.profile}/features.toml is "
            f"{ttl_ms / _MS_A_DAY:g} days; expected seen_ttl to be no shorter, or a payment read again would be "
            "decided twice: raise seen_ttl or lower retention.ms"
        )
    if settings.get("message.timestamp.type", "CreateTime") != "LogAppendTime":
        yield (
            f"{where}: message.timestamp.type is {settings.get('message.timestamp.type', 'CreateTime')!r}; expected "
            "'LogAppendTime', from which deadlines and latency count: weir topics apply sets it"
        )


_quiet = logging.getLogger("weir.config_check")
"""What librdkafka would print of an unreachable broker is in the report."""
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False
