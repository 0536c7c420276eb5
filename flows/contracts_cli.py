"""`weir contracts`: prove that what is published can still be read, and tell a registry."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from schemas.errors import ConfigError

if TYPE_CHECKING:
    from flows.registry import Registry

contracts_app = typer.Typer(help="Contracts: check their compatibility, register them.", no_args_is_help=True)

_Url = typer.Option(help="Schema registry; the user and password are read from WEIR_REGISTRY_USERNAME and _PASSWORD.")
_Ca = Annotated[Path | None, typer.Option(help="File of the authorities that the registry's certificate comes from.")]


def subject_of(name: str) -> str:
    """Under which a contract stands in a registry: its topic's values."""
    from schemas.codec import contract  # noqa: PLC0415

    return f"{contract(name)['topic']}-value"


def published_form(name: str) -> Any:
    """A contract as a registry gets it: with its promises, without what the parser added."""
    from schemas.codec import contract  # noqa: PLC0415

    return {key: value for key, value in contract(name).items() if not key.startswith("__")}


def _registry(url: str, ca: Path | None) -> Registry:
    from flows.registry import Registry, RegistryConfig  # noqa: PLC0415

    env = os.environ
    return Registry(
        RegistryConfig(
            url,
            env.get("WEIR_REGISTRY_USERNAME"),
            env.get("WEIR_REGISTRY_PASSWORD"),
            env.get("WEIR_REGISTRY_TOKEN"),
            None if ca is None else str(ca),
        )
    )


@contracts_app.command()
def check(registry: Annotated[str | None, _Url] = None, ca: _Ca = None) -> None:
    """Prove that today's contracts read what every release wrote (BACKWARD); ask a registry too, if one is given."""
    from schemas.codec import CONTRACTS, contract  # noqa: PLC0415
    from schemas.compatibility import incompatibilities  # noqa: PLC0415
    from schemas.wire_avro import released  # noqa: PLC0415

    faults: list[str] = []
    client = None if registry is None else _registry(registry, ca)
    for name in CONTRACTS:
        versions = released(name)
        for version, schema in versions.items():
            faults += [
                f"{name} against release {version}: {fault}" for fault in incompatibilities(contract(name), schema)
            ]
        if client is not None:
            told = client.incompatible(subject_of(name), published_form(name))
            faults += [f"{name} against the registry: {fault}" for fault in told]
        typer.echo(f"{name}: {', '.join(versions) or 'not released yet'}")
    if faults:
        message = "\n  ".join(["contracts break what was published; give new fields a default:", *faults])
        raise ConfigError(message)
    typer.echo("compatible")


@contracts_app.command()
def register(registry: Annotated[str, _Url], ca: _Ca = None) -> None:
    """Register every contract with a schema registry; one that stands there already is left as it is.

    The registry is told to refuse what is not BACKWARD compatible under these names: Apicurio takes anything otherwise.
    """
    from schemas.codec import CONTRACTS  # noqa: PLC0415

    client = _registry(registry, ca)
    for name in CONTRACTS:
        typer.echo(f"{subject_of(name)}: id {client.register(subject_of(name), published_form(name))}")
        client.keep_backward(subject_of(name))
