"""`weir config check` for streams of Kinesis: there, active, kept for neither too long nor too short, shards enough."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from flows.config import INPUTS, Config
from flows.kinesis_client import FATAL, ClientFault, client_of, error_name, kind_of, stream_error
from flows.profile import Profile
from flows.streams import KinesisStream
from schemas.codec import contract
from schemas.errors import ConfigError

_HOUR_US: Final = 3_600_000_000
_KEPT: Final = {"decisions": 168, "dead_letters": 24}
"""Hours below which an output is refused: what was published since the last commit must be there after an outage."""


def check_streams(
    config: Config, profile: Profile, streams: dict[str, KinesisStream]
) -> tuple[list[str], list[str], list[str]]:
    """(good, unchecked, problems), a sentence each.

    Args:
        config: As loaded.
        profile: As loaded.
        streams: By the name in [streams].
    """
    good: list[str] = []
    unchecked: list[str] = []
    problems: list[str] = []
    for name, stream in streams.items():
        try:
            answer = client_of(stream).describe_stream_summary(StreamName=stream.name)
        except ConfigError as error:
            problems.append(str(error))
            continue
        except ClientFault as raised:
            what = f"{stream.topic} (streams.{name})"
            if kind_of(raised) == FATAL:
                problems.append(str(stream_error("stream", what, raised)))
            else:
                unchecked.append(f"stream {what}: Kinesis does not answer ({error_name(raised)})")
            continue
        found = list(judge_stream(config, profile, name, stream, answer["StreamDescriptionSummary"]))
        problems += found
        if not found:
            good.append(f"stream {stream.topic}")
    return good, unchecked, problems


def judge_stream(
    config: Config, profile: Profile, name: str, stream: KinesisStream, told: dict[str, Any]
) -> Iterable[str]:
    """What is wrong with a stream, a sentence each.

    Args:
        config: As loaded.
        profile: As loaded.
        name: In [streams].
        stream: As its URL names it.
        told: DescribeStreamSummary's answer.
    """
    where = f"stream {stream.topic} (streams.{name})"
    status, hours, shards = told["StreamStatus"], int(told["RetentionPeriodHours"]), int(told["OpenShardCount"])
    if status not in ("ACTIVE", "UPDATING"):
        yield f"{where} is {status}; expected ACTIVE"
    ttl_hours = profile.features.seen_ttl_us / _HOUR_US
    if name == "transactions" and hours > ttl_hours:
        yield (
            f"{where}: it keeps payments {hours} hours, and seen_ttl in {config.profile}/features.toml is "
            f"{ttl_hours:g} hours; expected seen_ttl to be no shorter, or a payment read again would be decided twice: "
            "raise seen_ttl or lower the retention"
        )
    if name in _KEPT and hours < _KEPT[name]:
        yield (
            f"{where}: it keeps records {hours} hours; expected {_KEPT[name]} at least (the contract promises "
            f"{contract('decision' if name == 'decisions' else 'dead_letter')['retention']}): after a longer outage "
            "what was published cannot be read back"
        )
    if name in INPUTS and name == "transactions" and config.processes > shards:
        yield (
            f"{where}: it has {shards} open shards; expected at least cluster.processes ({config.processes}), or some "
            "processes read nothing"
        )
