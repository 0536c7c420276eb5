"""`weir topics`: the topics that the contracts promise, against those that exist."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from schemas.errors import ConfigError

if TYPE_CHECKING:
    from flows.kafka_admin import Admin
    from flows.topics import Step

topics_app = typer.Typer(help="Topics: show what is missing or different, and make it so.", no_args_is_help=True)

_Config = Annotated[
    Path | None, typer.Option(help="weir.toml: whose brokers, and how to log in there ([kafka.security]).")
]
_Brokers = Annotated[
    str | None, typer.Option(help="HOST:PORT of brokers, separated by commas; default: those of weir.toml's [streams].")
]
_Partitions = Annotated[int, typer.Option(min=1, help="Partitions of each topic that is not compacted.")]
_Replicas = Annotated[int, typer.Option(min=1, help="Copies of each partition.")]
_InSync = Annotated[int, typer.Option(min=1, help="Copies that must have a record before it counts as written.")]
_Grow = Annotated[bool, typer.Option("--grow", help="Partitions may be added; keys then move to other partitions.")]


@topics_app.command()
def plan(
    config: _Config = None,
    brokers: _Brokers = None,
    partitions: _Partitions = 12,
    replicas: _Replicas = 3,
    min_in_sync: _InSync = 2,
    grow: _Grow = False,
) -> None:
    """Show what `apply` would do; nothing is changed."""
    admin = _admin(config, brokers)
    _show(_steps(admin, partitions, replicas, min_in_sync, grow=grow))


@topics_app.command()
def apply(
    config: _Config = None,
    brokers: _Brokers = None,
    partitions: _Partitions = 12,
    replicas: _Replicas = 3,
    min_in_sync: _InSync = 2,
    grow: _Grow = False,
) -> None:
    """Create what is missing and change what is safe; never delete, never shrink. Running it again changes nothing."""
    admin = _admin(config, brokers)
    steps = _steps(admin, partitions, replicas, min_in_sync, grow=grow)
    _show(steps)
    for step in steps:
        admin.apply(step)
    refused = [step.told for step in steps if step.action == "refuse"]
    if refused:
        message = "\n  ".join(["topics that differ from what is promised and were left as they are:", *refused])
        raise ConfigError(message)


def _admin(path: Path | None, brokers: str | None) -> Admin:
    from flows.config import load_config  # noqa: PLC0415  # --help must not wait for it, nor for librdkafka
    from flows.kafka_admin import Admin  # noqa: PLC0415
    from flows.kafka_properties import kafka_properties  # noqa: PLC0415
    from flows.streams import KafkaStream, parse_stream  # noqa: PLC0415

    if path is None:
        if brokers is None:
            message = "weir topics: expected --config weir.toml or --brokers HOST:PORT, found neither"
            raise ConfigError(message)
        return Admin(brokers, {"bootstrap.servers": brokers, "client.id": "weir"})
    config = load_config(path)
    if brokers is None:
        streams = [parse_stream(name, url) for name, url in config.streams.items()]
        named = sorted({one.bootstrap for one in streams if isinstance(one, KafkaStream)})
        if not named:
            message = f"{path}: [streams] names no topic of Kafka; streams of Kinesis are made as docs/aws.md says"
            raise ConfigError(message)
        if len(named) > 1:
            message = f"{path}: [streams] names several clusters ({'; '.join(named)}); say which by --brokers"
            raise ConfigError(message)
        brokers = named[0]
    return Admin(brokers, kafka_properties(config, brokers))


def _steps(admin: Admin, partitions: int, replicas: int, in_sync: int, *, grow: bool) -> list[Step]:
    from flows.topics import plan as plan_topics  # noqa: PLC0415
    from flows.topics import promised  # noqa: PLC0415

    wanted = promised(partitions, replicas, in_sync)
    return plan_topics(wanted, admin.describe([topic.name for topic in wanted]), grow=grow)


def _show(steps: list[Step]) -> None:
    for step in steps:
        typer.echo(f"{step.action:<7}{step.told}")
