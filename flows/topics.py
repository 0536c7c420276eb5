"""Topics as the contracts promise them, against those that exist: what is missing, what is safe to change, what is not.

Never deleted, never shrunk: a change that could lose a record, or send an account's payments to another partition than
before, is refused with a sentence and left to a person.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from schemas.codec import CONTRACTS, contract
from schemas.errors import ConfigError

DAY_MS: Final = 86_400_000
# Room for a decision with a few thousand features (5 KB a hundred in JSON); an inbound payload may have 64 KiB.
MAX_MESSAGE_BYTES: Final = 1_048_588
_RETENTION: Final = re.compile(r"(\d+) days")
# What existing settings may exceed: more is at least what was promised.
_AT_LEAST: Final = ("retention.ms", "min.insync.replicas", "max.message.bytes")


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic, as promised or as found."""

    name: str
    partitions: int
    replicas: int
    config: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Step:
    """What is to be done about one topic.

    Attributes:
        topic: As promised.
        action: "create", "grow" (partitions), "set" (settings), "keep", or "refuse".
        told: A sentence.
        config: Settings to set.
    """

    topic: Topic
    action: str
    told: str
    config: Mapping[str, str]


def promised(partitions: int, replicas: int, in_sync: int) -> list[Topic]:
    """Every contract's topic.

    Args:
        partitions: Of each; the compacted ones, which every worker reads whole, have one.
        replicas: Copies of each partition.
        in_sync: Copies that must have a record before it counts as written.

    Raises:
        ConfigError: More in-sync copies than copies: nothing could be written.
    """
    if in_sync > replicas:
        message = f"--min-in-sync {in_sync}: expected at most --replicas ({replicas}); nothing could be written"
        raise ConfigError(message)
    topics = []
    for name in CONTRACTS:
        schema = contract(name)
        common = {
            "message.timestamp.type": "LogAppendTime",  # deadlines count from it; a producer's clock may be wrong
            "min.insync.replicas": str(in_sync),
            "max.message.bytes": str(MAX_MESSAGE_BYTES),
        }
        days = _RETENTION.match(schema["retention"])
        if days:
            config = {"cleanup.policy": "delete", "retention.ms": str(int(days[1]) * DAY_MS), **common}
        elif schema["retention"].startswith("kept: compacted"):
            config = {"cleanup.policy": "compact", **common}
        else:
            message = (
                f"contract {name}: retention {schema['retention']!r}: expected 'N days' or 'kept: compacted by ID'"
            )
            raise ConfigError(message)
        topics.append(Topic(schema["topic"], partitions if days else 1, replicas, config))
    return topics


def plan(wanted: Sequence[Topic], found: Mapping[str, Topic], *, grow: bool) -> list[Step]:
    """What to do so that topics are as promised, in the order of `wanted`; nothing of it is done here.

    Args:
        wanted: Topics as promised.
        found: Those that exist, by name; others are no business of ours.
        grow: Partitions may be added.
    """
    return [step for topic in wanted for step in _steps(topic, found.get(topic.name), grow=grow)]


def _steps(wanted: Topic, found: Topic | None, *, grow: bool) -> list[Step]:
    name = wanted.name
    if found is None:
        settings = ", ".join(f"{key}={value}" for key, value in wanted.config.items())
        told = f"{name}: create with {wanted.partitions} partitions, {wanted.replicas} replicas, {settings}"
        return [Step(wanted, "create", told, wanted.config)]
    steps = []

    def refuse(told: str) -> None:
        steps.append(Step(wanted, "refuse", f"{name}: {told}", {}))

    if found.partitions < wanted.partitions:
        change = f"{found.partitions} partitions, promised are {wanted.partitions}"
        if grow:
            steps.append(Step(wanted, "grow", f"{name}: {change}: add {wanted.partitions - found.partitions}", {}))
        else:
            refuse(f"{change}; adding some sends keys to other partitions: drain the topic, then apply with --grow")
    elif found.partitions > wanted.partitions and wanted.config["cleanup.policy"] == "compact":
        refuse(f"{found.partitions} partitions, promised is 1, and Kafka cannot take any away; make the topic anew")
    if found.replicas < wanted.replicas:
        refuse(f"{found.replicas} replicas, promised are {wanted.replicas}; reassign its partitions (kafka-reassign)")
    changes = {}
    for key, value in wanted.config.items():
        now = found.config.get(key)
        if now == value or (key in _AT_LEAST and now is not None and _more(key, now, value)):
            continue
        if key == "cleanup.policy":
            refuse(f"cleanup.policy is {now}, promised is {value}; changing it drops records: decide that by hand")
        elif key == "min.insync.replicas" and int(value) > found.replicas:
            refuse(f"min.insync.replicas {value} with {found.replicas} replicas: nothing could be written")
        else:
            changes[key] = value
    if changes:
        told = ", ".join(f"{key} {found.config.get(key)} → {value}" for key, value in changes.items())
        steps.append(Step(wanted, "set", f"{name}: set {told}", changes))
    return steps or [Step(wanted, "keep", f"{name}: as promised", {})]


def _more(key: str, now: str, wanted: str) -> bool:
    """Whether a setting is already at least what is wanted; retention -1 is for ever."""
    return (key == "retention.ms" and now == "-1") or int(now) >= int(wanted)
