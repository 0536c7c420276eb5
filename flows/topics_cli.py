"""`weir topics`: the topics that the contracts promise, against those that exist."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from schemas.errors import ConfigError

if TYPE_CHECKING:
    from flows.kafka_admin import Admin
    from flows.topics import Step

topics_app = typer.Typer(help="Topics: show what is missing or different, and make it so.", no_args_is_help=True)

_Brokers = Annotated[str, typer.Option(help="HOST:PORT of brokers, separated by commas.")]
_Partitions = Annotated[int, typer.Option(min=1, help="Partitions of each topic that is not compacted.")]
_Replicas = Annotated[int, typer.Option(min=1, help="Copies of each partition.")]
_InSync = Annotated[int, typer.Option(min=1, help="Copies that must have a record before it counts as written.")]
_Grow = Annotated[bool, typer.Option("--grow", help="Partitions may be added; keys then move to other partitions.")]
_Protocol = Annotated[str, typer.Option(help="PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL.")]
_Ca = Annotated[str | None, typer.Option(help="File of the authorities of the brokers' certificates.")]
_Cert = Annotated[str | None, typer.Option(help="File of our certificate, for mutual TLS.")]
_Key = Annotated[str | None, typer.Option(help="File of its private key.")]
_Mechanism = Annotated[str | None, typer.Option(help="PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512.")]
_User = Annotated[str | None, typer.Option(help="User, for SASL.")]
_PasswordFile = Annotated[
    str | None, typer.Option(help="File with the password alone; default: the variable WEIR_KAFKA_PASSWORD.")
]


@topics_app.command()
def plan(
    brokers: _Brokers,
    partitions: _Partitions = 12,
    replicas: _Replicas = 3,
    min_in_sync: _InSync = 2,
    grow: _Grow = False,
    protocol: _Protocol = "PLAINTEXT",
    ca: _Ca = None,
    cert: _Cert = None,
    key: _Key = None,
    mechanism: _Mechanism = None,
    username: _User = None,
    password_file: _PasswordFile = None,
) -> None:
    """Show what `apply` would do; nothing is changed."""
    admin = _admin(brokers, protocol, ca, cert, key, mechanism, username, password_file)
    _show(_steps(admin, partitions, replicas, min_in_sync, grow=grow))


@topics_app.command()
def apply(
    brokers: _Brokers,
    partitions: _Partitions = 12,
    replicas: _Replicas = 3,
    min_in_sync: _InSync = 2,
    grow: _Grow = False,
    protocol: _Protocol = "PLAINTEXT",
    ca: _Ca = None,
    cert: _Cert = None,
    key: _Key = None,
    mechanism: _Mechanism = None,
    username: _User = None,
    password_file: _PasswordFile = None,
) -> None:
    """Create what is missing and change what is safe; never delete, never shrink. Running it again changes nothing."""
    admin = _admin(brokers, protocol, ca, cert, key, mechanism, username, password_file)
    steps = _steps(admin, partitions, replicas, min_in_sync, grow=grow)
    _show(steps)
    for step in steps:
        admin.apply(step)
    refused = [step.told for step in steps if step.action == "refuse"]
    if refused:
        message = "\n  ".join(["topics that differ from what is promised and were left as they are:", *refused])
        raise ConfigError(message)


def _admin(
    brokers: str,
    protocol: str,
    ca: str | None,
    cert: str | None,
    key: str | None,
    mechanism: str | None,
    username: str | None,
    password_file: str | None,
) -> Admin:
    from flows.kafka_admin import Admin  # noqa: PLC0415  # --help must not wait for librdkafka
    from flows.kafka_security import KafkaSecurity, read_secret  # noqa: PLC0415

    password = read_secret("--password-file", password_file, os.environ, "WEIR_KAFKA_PASSWORD") if username else None
    security = KafkaSecurity(
        protocol, ca=ca, cert=cert, key=key, mechanism=mechanism, username=username, password=password
    )
    return Admin(brokers, security)


def _steps(admin: Admin, partitions: int, replicas: int, in_sync: int, *, grow: bool) -> list[Step]:
    from flows.topics import plan as plan_topics  # noqa: PLC0415
    from flows.topics import promised  # noqa: PLC0415

    wanted = promised(partitions, replicas, in_sync)
    return plan_topics(wanted, admin.describe([topic.name for topic in wanted]), grow=grow)


def _show(steps: list[Step]) -> None:
    for step in steps:
        typer.echo(f"{step.action:<7}{step.told}")
